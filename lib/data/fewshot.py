"""What few-shot data adds to the mixer: sounds heard from afar, and stored mixup views of the training clips.

The paper's few-shot sets are trained on focal recordings, one animal close to the microphone, and tested on what a
recorder in the field picks up, several at once and far away. Training clips are stored in five variants made by
mixup alone (Appendix D.2), of which a run draws one.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np
from scipy.signal import butter, fftconvolve, sosfilt

from lib.audio import SAMPLE_RATE
from lib.data.banks import SyntheticBank
from lib.data.mixer import Bank, Event, Scene

OTHER = "other/"  # marks the source of a sound that is no class: near, and from the synthetic bank
DIRECT_DB = (-6.0, 3.0)  # level of the direct sound over its reverberation


@dataclass(frozen=True)
class FarBank:
    """A bank heard from afar: air takes the high notes, trees and walls smear what is left.

    Parameters
    ----------
    bank : Bank
        Where the sounds come from.
    lowpass_hz : tuple of float
        Range of the corner of a first-order low-pass.
    reverb_seconds : tuple of float
        Range of the time in which the reverberation falls by 60 dB.
    """

    bank: Bank
    lowpass_hz: tuple[float, float]
    reverb_seconds: tuple[float, float]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the bank."""
        return self.bank.classes

    def choose(self, label: str, split: str, rng: np.random.Generator) -> str:
        """Return the id of a source, as the bank does."""
        return self.bank.choose(label, split, rng)

    def render(self, source: str, seconds: float) -> np.ndarray:
        """Return the sound of `source` as it arrives, no longer than it was; how far it is depends on `source`."""
        if source.startswith(OTHER):
            return SyntheticBank().render(source.removeprefix(OTHER), seconds)
        rng = np.random.default_rng(zlib.crc32(source.encode()))
        return far_away(self.bank.render(source, seconds), rng, self.lowpass_hz, self.reverb_seconds)


def far_away(
    sound: np.ndarray, rng: np.random.Generator, lowpass_hz: tuple[float, float], reverb_seconds: tuple[float, float]
) -> np.ndarray:
    """Return a sound behind a low-pass and a decaying, noise-like echo, float32, as long as it was."""
    corner, decay, direct_db = rng.uniform(*lowpass_hz), rng.uniform(*reverb_seconds), rng.uniform(*DIRECT_DB)
    dull = sosfilt(butter(1, corner, fs=SAMPLE_RATE, output="sos"), sound)
    time = np.arange(round(decay * SAMPLE_RATE)) / SAMPLE_RATE
    echo = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    echo /= np.sqrt(np.sum(echo**2))
    smeared = fftconvolve(dull, echo)[: len(sound)]
    return (10 ** (direct_db / 20) * dull + smeared).astype(np.float32)


@dataclass(frozen=True)
class Mixup:
    """One stored view of a training clip: which clip is added, and how far below it, in dB of root mean square."""

    partner: int
    snr_db: float


def draw_mixup(views: dict, seed: list[int], index: int, count: int) -> Mixup | None:
    """Draw the partner of clip `index` among `count` clips, or None with the probability that nothing is added.

    Parameters
    ----------
    views : dict
        ``probability`` of mixing and the range ``snr_db``, as a manifest has them.
    seed : list of int
        Of this clip and this view.
    """
    rng = np.random.default_rng(seed)
    if rng.random() >= views["probability"]:
        return None
    partner = (index + 1 + int(rng.integers(count - 1))) % count  # any but the clip itself
    return Mixup(partner, float(rng.uniform(*views["snr_db"])))


def mix(scene: Scene, partner: Scene, snr_db: float) -> Scene:
    """Add a clip to another, `snr_db` below it, peak at most 0.99; the events are those of both (mixup by union)."""
    gain = np.sqrt(np.mean(scene.audio**2) / np.mean(partner.audio**2)) * 10 ** (-snr_db / 20)
    audio = scene.audio.astype(np.float64) + gain * partner.audio
    audio *= min(1.0, 0.99 / np.abs(audio).max())
    return Scene(audio.astype(np.float32), union(scene.events, partner.events, -20 * np.log10(gain)))


def union(events: tuple[Event, ...], added: tuple[Event, ...], below_db: float) -> tuple[Event, ...]:
    """Return the events of two clips in order of onset, the added ones `below_db` quieter than they were."""
    quieter = (replace(event, snr_db=event.snr_db - below_db) for event in added)
    return tuple(sorted((*events, *quieter), key=lambda event: event.onset))
