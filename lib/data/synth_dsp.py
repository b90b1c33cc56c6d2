"""The few signal-processing tools from which the synthetic sounds are made; everything is 16 kHz mono."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import fft

from lib.audio import SAMPLE_RATE

Array = np.ndarray
Gain = Callable[[Array], Array]  # frequency in Hz → linear gain


def count(seconds: float) -> int:
    """Return how many samples `seconds` are, at least one."""
    return max(1, round(seconds * SAMPLE_RATE))


def clock(n: int) -> Array:
    """Return the time of each of `n` samples, in seconds."""
    return np.arange(n) / SAMPLE_RATE


def phase(frequency: Array | float, n: int) -> Array:
    """Return the phase in radians of an oscillator whose frequency in Hz may change from sample to sample."""
    return 2 * np.pi / SAMPLE_RATE * np.cumsum(np.broadcast_to(frequency, n))


def log_uniform(rng: np.random.Generator, low: float, high: float, size: int | None = None) -> Array | float:
    """Draw from [low, high) with equal probability per octave: how pitches and times vary."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def wander(rng: np.random.Generator, n: int, rate: float, depth: float) -> Array:
    """Return a slow random curve around 0 with standard deviation `depth` and `rate` new values a second."""
    knots = rng.standard_normal(int(n / SAMPLE_RATE * rate) + 3) * depth
    return np.interp(clock(n) * rate + rng.uniform(), np.arange(len(knots)), knots)


def swell(n: int, attack: float, release: float) -> Array:
    """Return an envelope that rises in `attack` seconds, holds 1, and falls in `release` seconds."""
    t, length = clock(n), n / SAMPLE_RATE
    rise = np.clip(t / max(min(attack, length / 2), 1e-4), 0, 1)
    fall = np.clip((length - t) / max(min(release, length / 2), 1e-4), 0, 1)
    return np.sin(np.pi / 2 * np.minimum(rise, fall)) ** 2


def buzz(angle: Array, brightness: float | Array) -> Array:
    """Return Σ_k b^k cos(k·angle), k ≥ 1, in closed form: a pulse train whose harmonics fall by b each."""
    b = brightness
    cos = np.cos(angle)
    return (b * cos - b * b) / (1 - 2 * b * cos + b * b) * (1 - b)


def shape(x: Array, gain: Gain) -> Array:
    """Multiply the spectrum of `x` by a real gain (zero phase), with padding against wrap-around."""
    size = fft.next_fast_len(len(x) + 1024, real=True)
    spectrum = fft.rfft(x, size)
    return fft.irfft(spectrum * gain(fft.rfftfreq(size, 1 / SAMPLE_RATE)), size)[: len(x)]


def noise(rng: np.random.Generator, n: int, gain: Gain) -> Array:
    """Return Gaussian noise with the spectrum `gain`, at unit root mean square."""
    size = fft.next_fast_len(n + 1024, real=True)
    f = fft.rfftfreq(size, 1 / SAMPLE_RATE)
    bins = rng.standard_normal((2, len(f)), dtype=np.float32)
    x = fft.irfft((bins[0] + 1j * bins[1]) * gain(f), size)[:n]
    return x / (np.sqrt(np.mean(x**2)) + 1e-12)


def band(low: float, high: float, order: float = 4.0) -> Gain:
    """Return a band-pass gain with half power at `low` and `high` Hz (Butterworth magnitudes)."""

    def gain(f: Array) -> Array:
        f = np.maximum(f, 1.0)
        return 1 / np.sqrt((1 + (low / f) ** (2 * order)) * (1 + (f / high) ** (2 * order)))

    return gain


def slope(decibels_per_octave: float, corner: float) -> Gain:
    """Return a gain that is flat below `corner` Hz and falls by `decibels_per_octave` above it."""
    exponent = decibels_per_octave / 6.02 / 2
    return lambda f: (1 + (f / corner) ** 2) ** -exponent


def peaks(centres: Sequence[float], widths: Sequence[float], gains: Sequence[float]) -> Gain:
    """Return a sum of resonances, each with a centre and a half-power width in Hz and a peak gain."""

    def gain(f: Array) -> Array:
        out = np.zeros_like(f)
        for centre, width, height in zip(centres, widths, gains, strict=True):
            out += height / np.sqrt(1 + ((f - centre) / (width / 2)) ** 2)
        return out

    return gain


def ring(rng: np.random.Generator, n: int, modes: Array, decays: Array, levels: Array) -> Array:
    """Return a struck body: modes in Hz that each die away with a time constant in seconds."""
    modes, decays = np.asarray(modes), np.asarray(decays)
    start = levels * np.exp(1j * rng.uniform(0, 2 * np.pi, len(modes))) * (modes < 0.48 * SAMPLE_RATE)
    step = (2j * np.pi * modes - 1 / decays) / SAMPLE_RATE  # exponent a sample, (modes,)
    hop = 256  # exp(step · n) = exp(step · hop · block) · exp(step · offset): few exponentials, one product
    blocks = np.exp(np.outer(np.arange(n // hop + 1) * hop, step)) * start  # (blocks, modes)
    offsets = np.exp(np.outer(step, np.arange(hop)))  # (modes, hop)
    # einsum and not @: a BLAS product may round differently with another number of threads
    return np.einsum("bm,mh->bh", blocks, offsets).real.reshape(-1)[:n]  # (blocks, hop) → (n,)


def place(n: int, grains: Sequence[Array], times: Sequence[float], levels: Sequence[float]) -> Array:
    """Add each grain at its time in seconds; what reaches past the end is cut off."""
    out = np.zeros(n)
    for grain, time, level in zip(grains, times, levels, strict=True):
        start = round(time * SAMPLE_RATE)
        if 0 <= start < n:
            out[start : start + len(grain)] += level * grain[: n - start]
    return out


def rhythm(rng: np.random.Generator, seconds: float, interval: float, jitter: float) -> Array:
    """Return times from 0 to `seconds` that follow each other by `interval`, give or take `jitter` of it."""
    steps = interval * np.exp(jitter * rng.standard_normal(int(2 * seconds / interval) + 2))
    times = np.concatenate([[0.0], np.cumsum(steps)])
    return times[times < max(seconds - 0.05, 1e-6)]


def recorded(rng: np.random.Generator, x: Array) -> Array:
    """Let a sound be recorded: air and distance, a room or an open place, a microphone, and its own noise."""
    n = len(x)
    distance = rng.uniform() ** 2  # most sounds are near
    t60 = log_uniform(rng, 0.08, 1.5)
    wet = rng.uniform(0.02, 0.25) + 0.5 * distance * rng.uniform()
    tail = count(min(t60, 1.0))
    echo = rng.standard_normal(tail) * np.exp(-6.9 * clock(tail) / t60)
    echo *= wet / (np.sqrt(np.sum(echo**2)) + 1e-12)
    size = fft.next_fast_len(n + tail, real=True)
    f = fft.rfftfreq(size, 1 / SAMPLE_RATE)
    room = 1 + fft.rfft(echo, size) * slope(6, 3000)(f)
    air = slope(rng.uniform(0, 6) + 9 * distance, log_uniform(rng, 1500, 6000))(f)
    microphone = np.exp(np.interp(np.log2(f + 1), np.linspace(5, 13, 7), rng.normal(0, 0.25, 7)))
    rumble = 1 - 1 / (1 + (f / log_uniform(rng, 20, 120)) ** 2)
    x = fft.irfft(fft.rfft(x, size) * room * air * microphone * rumble, size)[:n]
    hiss = noise(rng, n, slope(rng.uniform(0, 12), log_uniform(rng, 60, 4000)))
    loud = np.sqrt(np.mean(x**2)) + 1e-9
    return x + hiss * loud * 10 ** (rng.uniform(-55, -15) / 20)
