"""The mistakes of `lib.audit_faults` as a table for people: what is done, where, how to notice it, how to avoid it."""

from dataclasses import dataclass

RIGHT, SHORT = "right", "short_clips"  # what mistakes are held against: whole clips, and clips cut short
STAGES = ("waveform", "filter bank", "normalisation", "layout", "behind the encoder")


@dataclass(frozen=True)
class Fault:
    """A mistake in words.

    Attributes
    ----------
    title : str
        What it is called on pages and plots.
    kind : str
        What is wrong, of six kinds.
    what : str
        What is done instead of what should be.
    where : str
        One of `STAGES`.
    notice, avoid : str
        How to find out, and how to keep from it.
    """

    title: str
    kind: str
    what: str
    where: str
    notice: str
    avoid: str

    def __post_init__(self) -> None:
        assert self.where in STAGES, self.where


NORMALISATION, PADDING, AXES = "normalisation", "padding", "axis order"
RATE, BANDS, WAVEFORM = "sample rate", "mel bands and logarithm", "waveform"

FAULTS = {
    "another_corpus": Fault(
        "constants of another corpus",
        NORMALISATION,
        "(x + 4.268) / 9.138, the published EAT's constants for AudioSet, in place of (x + 5.0) / 2.9",
        "normalisation",
        "over many clips mean and standard deviation are not what they were in pretraining, here 0 and 1",
        "take the constants from where the weights come from, and mind the factor 2 that some of them hide",
    ),
    "not_normalised": Fault(
        "not normalised",
        NORMALISATION,
        "the filter bank itself, with a mean of about −5",
        "normalisation",
        "the spectrogram has hardly a positive number in it",
        "let one function make the spectrogram, and let the encoder own it",
    ),
    "per_clip": Fault(
        "each clip by itself",
        NORMALISATION,
        "mean 0 and standard deviation 1 in every clip: its level is lost",
        "normalisation",
        "every clip has exactly mean 0; a clip ten times as loud gives the same tokens",
        "normalise with constants",
    ),
    "zeros_before_normalising": Fault(
        "zeros, then normalised",
        PADDING,
        "a short clip's filter bank is filled up with 0, the logarithm of 1, which is loud",
        "filter bank",
        "the end of the spectrogram is one flat value above the background of the clip",
        "pad the waveform; but some published encoders (A-MAE, EAT) were pretrained just so, and then it is right",
    ),
    "zeros_after_normalising": Fault(
        "normalised, then zeros",
        PADDING,
        "a short clip's spectrogram is filled up with 0, the mean of all frames of pretraining",
        "layout",
        "the end of the spectrogram is exactly 0",
        "pad the waveform, or do what was done in pretraining",
    ),
    "time_and_frequency_swapped": Fault(
        "time and frequency swapped",
        AXES,
        "(mel, frames) for (frames, mel): 4 × 62 patches instead of 31 × 8, both are 248",
        "layout",
        "nothing fails where the numbers of patches agree; look at the shape, or send a rising tone",
        "assert the shape of the spectrogram, not the number of tokens",
    ),
    "patches_frequency_major": Fault(
        "patches frequency-major",
        AXES,
        "patches enter in the order n = f · S_t + t, so each gets the position of another",
        "layout",
        "a rising tone gives no rising line; neighbours are unlike",
        "compare with stored tokens of the original implementation",
    ),
    "tokens_frequency_major": Fault(
        "tokens frequency-major",
        AXES,
        "the right tokens, flattened as n = f · S_t + t behind the encoder",
        "behind the encoder",
        "maps make no sense; heads that take tokens as a set score as before",
        "reshape to (S_t, S_f) once, in one place, and test it with a rising tone",
    ),
    "khz_8_source": Fault(
        "recorded at 8 kHz",
        RATE,
        "no mistake of the program: what lies above 4 kHz was never recorded",
        "waveform",
        "the upper bands are at the floor in every clip",
        "look at the rates of the files before all else; resampling brings nothing back",
    ),
    "khz_8_as_16": Fault(
        "8 kHz read as 16 kHz",
        RATE,
        "everything an octave higher and twice as fast, the second half silent",
        "waveform",
        "clips have half their length and end in silence",
        "read the rate from the file and resample; never assume it",
    ),
    "khz_22_as_16": Fault(
        "22.05 kHz read as 16 kHz",
        RATE,
        "everything 1.4 times lower and slower, the last quarter of the clip gone",
        "waveform",
        "clips are longer than they should be; listen to one",
        "read the rate from the file and resample; never assume it",
    ),
    "khz_44_as_16": Fault(
        "44.1 kHz read as 16 kHz",
        RATE,
        "everything 2.8 times lower and slower, nearly two thirds of the clip gone",
        "waveform",
        "clips are longer than they should be; the upper bands are at the floor; listen to one",
        "read the rate from the file and resample; never assume it",
    ),
    "other_range": Fault(
        "125 to 7,500 Hz",
        BANDS,
        "other ends of the mel range: each band lies a little elsewhere",
        "filter bank",
        "hard to see; compare one spectrogram with a stored one",
        "write f_min and f_max beside the weights",
    ),
    "slaney_formula": Fault(
        "Slaney's mel formula",
        BANDS,
        "another mel scale between the same ends: a sound lies some bands elsewhere",
        "filter bank",
        "hard to see; compare one spectrogram with a stored one",
        "name the formula; libraries differ in their default",
    ),
    "librosa_defaults": Fault(
        "librosa's default bands",
        BANDS,
        "Slaney's scale from 0 Hz, each triangle divided by its width in Hz",
        "filter bank",
        "levels are far too low, and fall towards the upper bands",
        "set norm and formula, do not leave them to the default",
    ),
    "log10_for_ln": Fault(
        "log10 for ln",
        BANDS,
        "all values 2.3 times too small before normalising",
        "filter bank",
        "the spectrogram is nearly flat: its standard deviation is 0.4 of what it was",
        "compare mean and standard deviation of some clips with those of pretraining",
    ),
    "decibel_for_ln": Fault(
        "decibel for ln",
        BANDS,
        "all values 4.3 times too large before normalising",
        "filter bank",
        "values lie between about −20 and +5",
        "compare mean and standard deviation of some clips with those of pretraining",
    ),
    "amplitude_for_power": Fault(
        "amplitude for power",
        BANDS,
        "bands sum amplitudes: about half of the logarithm",
        "filter bank",
        "the spectrogram is too loud and has half its contrast",
        "compare mean and standard deviation of some clips with those of pretraining",
    ),
    "no_emphasis": Fault(
        "no pre-emphasis",
        BANDS,
        "a mel spectrogram as audio libraries make it, ln(x + 1e-6), instead of Kaldi's filter bank",
        "filter bank",
        "low bands are too loud, quiet places all have one value",
        "use the filter bank of pretraining, and test it against stored values",
    ),
    "int16_range": Fault(
        "samples up to ±32,768",
        WAVEFORM,
        "integers of a WAV file taken as floats: 90 dB too loud",
        "waveform",
        "the largest sample is above 1; the spectrogram lies above 3 everywhere",
        "assert that no sample exceeds 1; but BEATs wants just this range",
    ),
    "clipped": Fault(
        "clipped",
        WAVEFORM,
        "20 dB too loud, and cut off at ±1: loud events are distorted",
        "waveform",
        "many samples are exactly ±1",
        "count such samples in some recordings before training",
    ),
    "dc_offset": Fault(
        "DC offset",
        WAVEFORM,
        "0.1 added to every sample",
        "waveform",
        "the mean of the waveform is not 0; Kaldi's filter bank takes the mean of each frame away",
        "none is needed with this filter bank; with others subtract the mean",
    ),
}
KINDS = tuple(dict.fromkeys(fault.kind for fault in FAULTS.values()))


def title_of(name: str) -> str:
    """Return what a mistake, or what mistakes are held against, is called."""
    return {RIGHT: "as it should be", SHORT: "short, then silence"}.get(name) or FAULTS[name].title


def table_markdown() -> str:
    """Return the table of all mistakes in Markdown, kind by kind."""
    lines = ["| mistake | what is done | where | how to notice it | how to avoid it |", "|---|---|---|---|---|"]
    for kind in KINDS:
        lines.append(f"| **{kind}** | | | | |")
        for fault in FAULTS.values():
            if fault.kind == kind:
                lines.append(f"| {fault.title} | {fault.what} | {fault.where} | {fault.notice} | {fault.avoid} |")
    return "\n".join(lines)
