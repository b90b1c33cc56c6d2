"""Soundscapes with known events, in the manner of Scaper and URBAN-SED.

A recipe states the ranges. From a recipe, a bank and a seed, `plan` draws *what* happens (cheap, no audio) and
`render` makes it heard: a coloured-noise background and one to nine events, each with onset, length and
signal-to-noise ratio of its own. Who knows every event can measure localisation, which no recording allows.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from lib.audio import SAMPLE_RATE
from lib.errors import InputError

BACKGROUND_DB = -42.0  # dBFS, root mean square
FADE_SECONDS = 0.01


class Bank(Protocol):
    """What the mixer asks of a bank of events."""

    classes: tuple[str, ...]

    def choose(self, label: str, split: str, rng: np.random.Generator) -> str:
        """Return the id of a source."""

    def render(self, source: str, seconds: float) -> np.ndarray:
        """Return its sound."""


@dataclass(frozen=True)
class Recipe:
    """The ranges from which a soundscape is drawn, all uniform.

    Parameters
    ----------
    seconds : float
        Length of a clip.
    events : tuple of int
        Fewest and most events in a clip.
    event_seconds : tuple of float
        Shortest and longest event.
    snr_db : tuple of float
        Level of an event over the background, root mean square over root mean square.
    noise_exponent : tuple of float
        The background's power falls with frequency to this power: 0 white, 1 pink, 2 brown.
    """

    seconds: float = 10.0
    events: tuple[int, int] = (1, 9)
    event_seconds: tuple[float, float] = (0.5, 4.0)
    snr_db: tuple[float, float] = (0.0, 24.0)
    noise_exponent: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        for name in ("events", "event_seconds", "snr_db", "noise_exponent"):
            low, high = getattr(self, name)
            if low > high:
                raise InputError(
                    f"The recipe's range '{name}' is ({low}, {high}); the first must not exceed the second."
                )
        if self.events[0] < 1 or self.event_seconds[0] <= 0 or self.event_seconds[1] > self.seconds:
            raise InputError("A recipe needs at least one event, longer than zero and no longer than the clip.")


@dataclass(frozen=True)
class Event:
    """One sound event: class, source, place in time (seconds), band (Hz, 5–95 % of its energy) and level (dB)."""

    label: str
    source: str
    onset: float
    offset: float
    snr_db: float
    low_hz: float = float("nan")
    high_hz: float = float("nan")


@dataclass(frozen=True)
class Scene:
    """A rendered soundscape: waveform ``(samples,)`` float32 at 16 kHz, and its events in order of onset."""

    audio: np.ndarray
    events: tuple[Event, ...]


def plan(recipe: Recipe, bank: Bank, split: str, seed: np.random.SeedSequence) -> tuple[Event, ...]:
    """Draw the events of one clip: classes with replacement, then source, length, onset and level of each."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(recipe.events[0], recipe.events[1] + 1))
    events = []
    for _ in range(count):
        label = bank.classes[int(rng.integers(len(bank.classes)))]
        length = float(rng.uniform(*recipe.event_seconds))
        onset = float(rng.uniform(0.0, recipe.seconds - length))
        snr_db = float(rng.uniform(*recipe.snr_db))
        events.append(Event(label, bank.choose(label, split, rng), onset, onset + length, snr_db))
    return tuple(sorted(events, key=lambda event: event.onset))


def render(recipe: Recipe, bank: Bank, events: tuple[Event, ...], seed: np.random.SeedSequence) -> Scene:
    """Make a planned clip heard.

    Returns
    -------
    Scene
        The audio, peak at most 0.99, and the events with what only the sound tells: a recording may be shorter
        than planned (its offset moves), and the band is measured.
    """
    samples = round(recipe.seconds * SAMPLE_RATE)
    audio = coloured_noise(samples, np.random.default_rng(seed), recipe.noise_exponent)
    background_level = 10 ** (BACKGROUND_DB / 20)
    audio *= background_level
    heard = []
    for event in events:
        sound = _faded(bank.render(event.source, event.offset - event.onset))
        start = round(event.onset * SAMPLE_RATE)
        sound = sound[: samples - start]
        level = np.sqrt(np.mean(np.square(sound, dtype=np.float64)))
        if level == 0:
            raise InputError(
                f"The source '{event.source}' of class '{event.label}' is silent; leave it out of the bank."
            )
        audio[start : start + len(sound)] += sound * (background_level * 10 ** (event.snr_db / 20) / level)
        low, high = energy_band(sound)
        heard.append(replace(event, offset=event.onset + len(sound) / SAMPLE_RATE, low_hz=low, high_hz=high))
    peak = np.abs(audio).max()
    if peak > 0.99:
        audio *= 0.99 / peak
    return Scene(audio.astype(np.float32), tuple(heard))


def coloured_noise(samples: int, rng: np.random.Generator, exponent: tuple[float, float]) -> np.ndarray:
    """Return noise of unit level whose power falls as f^-e, e drawn from `exponent`; float64 ``(samples,)``."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    # Flat below 50 Hz: a 1/f² law would put all the energy where the filter bank does not listen.
    spectrum *= np.maximum(frequency, 50.0) ** (-rng.uniform(*exponent) / 2)
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, n=samples)
    return noise / np.sqrt(np.mean(noise**2))


def energy_band(sound: np.ndarray) -> tuple[float, float]:
    """Return the band in Hz that holds the middle 90 % of a sound's energy."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    share = np.cumsum(power) / power.sum()
    frequency = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    low, high = frequency[np.searchsorted(share, (0.05, 0.95))]
    return float(low), float(high)


def _faded(sound: np.ndarray) -> np.ndarray:
    """Fade both ends by 10 ms, so that a cut does not click."""
    length = min(round(FADE_SECONDS * SAMPLE_RATE), len(sound) // 2)
    sound = sound.astype(np.float64)
    if length:
        ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(length) / length)
        sound[:length] *= ramp
        sound[-length:] *= ramp[::-1]
    return sound
