"""What can go wrong between a recording and an encoder, on the pocket front end: each mistake is a named option.

A mistake is a function of a `Sound`, the waveforms of some clips, and returns the spectrograms that the encoder then
hears; the one that is made behind the encoder is a function of its tokens. All that a mistake does not concern is as it
should be. `lib.audit_table` is the table for people; no code here depends on it, so that words can be mended without
computing anything anew. `lib.audit_stores` keeps what the encoder makes of each.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.audio import LOG_FLOOR, SAMPLE_RATE, log_mel
from lib.encoders.pocket import Geometry
from lib.encoders.vit import patchify

# Constants have no annotation: `lib.provenance` follows plain assignments, so that an edit makes results stale.
AUDIOSET = {"mean": -4.268, "divisor": 2 * 4.569}  # what the published EAT and SSLAM normalise with
WINDOW_MS, FFT_SIZE, EMPHASIS = 25.0, 512, 0.97


@dataclass(frozen=True, eq=False)
class Sound:
    """Some clips as waveforms, for an encoder of some geometry.

    Attributes
    ----------
    audio : torch.Tensor
        ``(B, samples)`` at 16 kHz, as long as the encoder hears.
    geometry : Geometry
        The encoder's front end.
    starts : tuple of int
        Sample at which the first event of each clip begins.
    seconds : float
        How much of a clip is left where it is cut short.
    """

    audio: Tensor
    geometry: Geometry
    starts: tuple[int, ...] = ()
    seconds: float = 1.0

    @functools.cached_property
    def bank(self) -> Tensor:
        """The filter bank as it should be, not normalised: ``(B, frames, mel)``."""
        return filter_bank(self.audio, self.geometry)

    @functools.cached_property
    def short(self) -> Tensor:
        """The clips cut to a part that begins with their first event, or to their end: ``(B, fewer samples)``."""
        length = round(self.seconds * SAMPLE_RATE)
        last = self.audio.shape[1] - length
        pairs = zip(self.audio, self.starts, strict=True)
        return torch.stack([clip[min(start, last) :][:length] for clip, start in pairs])


def filter_bank(audio: Tensor, geometry: Geometry) -> Tensor:
    """Return the log-mel filter bank ``(B, frames, mel)`` of waveforms padded with silence, or cropped."""
    return log_mel(fitted(audio, geometry), geometry.num_mels, geometry.hop_ms)


def fitted(audio: Tensor, geometry: Geometry) -> Tensor:
    """Return waveforms ``(B, samples)`` as long as the encoder hears: silence at the end, or the end gone."""
    samples = round(geometry.seconds * SAMPLE_RATE)
    return F.pad(audio[:, :samples], (0, max(0, samples - audio.shape[1])))


def normalised(bank: Tensor, geometry: Geometry) -> Tensor:
    """Return a filter bank normalised with the constants of pretraining."""
    return (bank - geometry.mel_mean) / geometry.mel_std


def right(sound: Sound) -> Tensor:
    """Do everything as it should be."""
    return normalised(sound.bank, sound.geometry)


# ---- normalisation -------------------------------------------------------------------------------------------------


def another_corpus(sound: Sound) -> Tensor:
    """Normalise with constants that belong to another front end and another corpus."""
    return (sound.bank - AUDIOSET["mean"]) / AUDIOSET["divisor"]


def not_normalised(sound: Sound) -> Tensor:
    """Hand over the filter bank as it is."""
    return sound.bank


def per_clip(sound: Sound) -> Tensor:
    """Normalise each clip with its own mean and standard deviation."""
    mean, sd = sound.bank.mean((1, 2), keepdim=True), sound.bank.std((1, 2), keepdim=True)  # (B, 1, 1) each
    return (sound.bank - mean) / sd


# ---- padding of short clips ----------------------------------------------------------------------------------------


def short_clips(sound: Sound) -> Tensor:
    """Pad short waveforms with silence: no mistake, but what the other two are held against."""
    return normalised(filter_bank(sound.short, sound.geometry), sound.geometry)


def zeros_before_normalising(sound: Sound) -> Tensor:
    """Append zeros to the filter bank of a short waveform, then normalise."""
    return normalised(_lengthened(_short_bank(sound), sound), sound.geometry)


def zeros_after_normalising(sound: Sound) -> Tensor:
    """Append zeros to the normalised filter bank of a short waveform."""
    return _lengthened(normalised(_short_bank(sound), sound.geometry), sound)


def _short_bank(sound: Sound) -> Tensor:
    return log_mel(sound.short, sound.geometry.num_mels, sound.geometry.hop_ms)


def _lengthened(bank: Tensor, sound: Sound) -> Tensor:
    return F.pad(bank, (0, 0, 0, sound.bank.shape[1] - bank.shape[1]))


# ---- axis order ----------------------------------------------------------------------------------------------------


def time_and_frequency_swapped(sound: Sound) -> Tensor:
    """Hand over (mel, frames) where (frames, mel) is expected."""
    return right(sound).mT  # (B, frames, mel) → (B, mel, frames)


def patches_frequency_major(sound: Sound) -> Tensor:
    """Put the patch that comes n-th in frequency-major order where the n-th in time-major order belongs."""
    (frames, bands), (steps, rows) = sound.geometry.patch, sound.geometry.grid
    wrong = frequency_major(patchify(right(sound), (frames, bands)), (steps, rows))  # (B, N, frames · bands)
    maps = wrong.reshape(-1, steps, rows, frames, bands).transpose(2, 3)  # (B, S_t, frames, S_f, bands)
    return maps.reshape(-1, steps * frames, rows * bands)  # (B, S_t · frames, mel)


def tokens_frequency_major(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Hand on the encoder's tokens ``(B, N, D)`` in the other order, and say nothing about it."""
    return frequency_major(tokens, grid)


def frequency_major(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return what is time-major ``(B, N, …)``, n = t · S_f + f, in the other order, n = f · S_t + t."""
    return tokens.unflatten(1, grid).transpose(1, 2).flatten(1, 2)  # (B, S_t, S_f, D) → (B, S_f, S_t, D) → (B, N, D)


# ---- sample rate ---------------------------------------------------------------------------------------------------


def khz_8_source(sound: Sound) -> Tensor:
    """Hear recordings of 8 kHz, correctly resampled to 16 kHz: above 4 kHz there is nothing."""
    return _heard(resampled(resampled(sound.audio, SAMPLE_RATE, 8_000), 8_000, SAMPLE_RATE), sound)


def khz_8_as_16(sound: Sound) -> Tensor:
    """Hear recordings of 8 kHz as if they had 16 kHz: twice as fast, then silence."""
    return _heard(resampled(sound.audio, SAMPLE_RATE, 8_000), sound)


def khz_22_as_16(sound: Sound) -> Tensor:
    """Hear recordings of 22.05 kHz as if they had 16 kHz: 1.4 times slower, and cropped."""
    return _heard(resampled(sound.audio, SAMPLE_RATE, 22_050), sound)


def khz_44_as_16(sound: Sound) -> Tensor:
    """Hear recordings of 44.1 kHz as if they had 16 kHz: 2.8 times slower, and cropped."""
    return _heard(resampled(sound.audio, SAMPLE_RATE, 44_100), sound)


def resampled(audio: Tensor, rate: int, to: int) -> Tensor:
    """Resample ``(B, samples)`` as `lib.audio.read_audio` does."""
    return torch.from_numpy(np.ascontiguousarray(soxr.resample(audio.T.numpy(), rate, to).T))


def _heard(audio: Tensor, sound: Sound) -> Tensor:
    """Return other waveforms as the right front end hears them."""
    return normalised(filter_bank(audio, sound.geometry), sound.geometry)


# ---- mel bands and logarithm ---------------------------------------------------------------------------------------


def other_range(sound: Sound) -> Tensor:
    """Place the bands between 125 and 7,500 Hz instead of 20 and 8,000."""
    edges = np.linspace(kaldi_mel(125.0), kaldi_mel(7_500.0), sound.geometry.num_mels + 2)
    return _logarithm(power(sound) @ triangles(edges, kaldi_mel(_bins())), sound)


def slaney_formula(sound: Sound) -> Tensor:
    """Place the bands by Slaney's mel scale, between the same ends."""
    return _logarithm(power(sound) @ triangles(_slaney_edges(20.0, sound), _bins()), sound)


def librosa_defaults(sound: Sound) -> Tensor:
    """Take librosa's default bands: Slaney's scale from 0 Hz, each triangle divided by its width."""
    edges = _slaney_edges(0.0, sound)
    heights = torch.from_numpy(2 / (edges[2:] - edges[:-2])).float()  # (mel,), per Hz
    return _logarithm(power(sound) @ (triangles(edges, _bins()) * heights), sound)


def log10_for_ln(sound: Sound) -> Tensor:
    """Take the logarithm to base 10, and the constants of the natural one."""
    return normalised(sound.bank / np.log(10), sound.geometry)


def decibel_for_ln(sound: Sound) -> Tensor:
    """Take decibels, and the constants of the natural logarithm."""
    return normalised(10 * sound.bank / np.log(10), sound.geometry)


def amplitude_for_power(sound: Sound) -> Tensor:
    """Sum amplitudes in each band where power is expected."""
    edges = np.linspace(kaldi_mel(20.0), kaldi_mel(SAMPLE_RATE / 2), sound.geometry.num_mels + 2)
    return _logarithm(power(sound).sqrt() @ triangles(edges, kaldi_mel(_bins())), sound)


def no_emphasis(sound: Sound) -> Tensor:
    """Take a mel spectrogram such as audio libraries make, for Kaldi's: no pre-emphasis, ln(x + 1e-6)."""
    edges = np.linspace(kaldi_mel(20.0), kaldi_mel(SAMPLE_RATE / 2), sound.geometry.num_mels + 2)
    mel = power(sound, emphasis=0.0) @ triangles(edges, kaldi_mel(_bins()))
    return normalised((mel + 1e-6).log(), sound.geometry)


def power(sound: Sound, emphasis: float = EMPHASIS) -> Tensor:
    """Return Kaldi's power spectrum ``(B, frames, bins)``, as `lib.audio.log_mel` has it inside."""
    hop, length = (round(SAMPLE_RATE * ms / 1000) for ms in (sound.geometry.hop_ms, WINDOW_MS))
    frames = fitted(sound.audio, sound.geometry).unfold(-1, length, hop)  # (B, frames, length)
    frames = frames - frames.mean(-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - emphasis * previous) * torch.hann_window(length, periodic=False)
    return torch.fft.rfft(frames, n=FFT_SIZE).abs().square()  # (B, frames, bins)


def triangles(edges: np.ndarray, points: np.ndarray) -> Tensor:
    """Return triangular filters ``(bins, mel)`` of ``mel + 2`` edges, at the places of the bins on the same scale."""
    up = (points[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - points[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(up, down))
    filters[-1] = 0.0  # Kaldi leaves the Nyquist bin out
    return torch.from_numpy(filters.astype(np.float32))


def kaldi_mel(hertz: float | np.ndarray) -> float | np.ndarray:
    """Return frequencies on Kaldi's mel scale."""
    return 1127.0 * np.log1p(hertz / 700.0)


def slaney_mel(hertz: float | np.ndarray) -> np.ndarray:
    """Return frequencies on the mel scale of Slaney's Auditory Toolbox (1998): linear up to 1 kHz, then logarithmic."""
    return np.where(hertz < 1000, 3 * hertz / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))


def slaney_hertz(mel: np.ndarray) -> np.ndarray:
    """Undo `slaney_mel`."""
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def _slaney_edges(low: float, sound: Sound) -> np.ndarray:
    """Return the edges of the bands in Hz, in which librosa's triangles are straight: ``(mel + 2,)``."""
    ends = slaney_mel(np.array([low, SAMPLE_RATE / 2]))
    return slaney_hertz(np.linspace(*ends, sound.geometry.num_mels + 2))


def _bins() -> np.ndarray:
    return np.arange(FFT_SIZE // 2 + 1) * SAMPLE_RATE / FFT_SIZE  # Hz


def _logarithm(mel: Tensor, sound: Sound) -> Tensor:
    return normalised(mel.clamp_min(LOG_FLOOR).log(), sound.geometry)


# ---- waveform ------------------------------------------------------------------------------------------------------


def int16_range(sound: Sound) -> Tensor:
    """Hear samples between ±32,768 where samples between ±1 are expected."""
    return _heard(32_768 * sound.audio, sound)


def clipped(sound: Sound) -> Tensor:
    """Hear the clips 20 dB too loud, and clipped at ±1."""
    return _heard((10 * sound.audio).clamp(-1, 1), sound)


def dc_offset(sound: Sound) -> Tensor:
    """Hear the clips with 0.1 added to every sample."""
    return _heard(sound.audio + 0.1, sound)


# ---- by name -------------------------------------------------------------------------------------------------------

SHORTENED = ("short_clips", "zeros_before_normalising", "zeros_after_normalising")  # what they do to clips cut short
BEHIND = ("tokens_frequency_major",)  # made of the encoder's tokens
DONE: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        short_clips,
        *(another_corpus, not_normalised, per_clip),
        *(zeros_before_normalising, zeros_after_normalising),
        *(time_and_frequency_swapped, patches_frequency_major, tokens_frequency_major),
        *(khz_8_source, khz_8_as_16, khz_22_as_16, khz_44_as_16),
        *(other_range, slaney_formula, librosa_defaults, log10_for_ln, decibel_for_ln),
        *(amplitude_for_power, no_emphasis),
        *(int16_range, clipped, dc_offset),
    )
}
