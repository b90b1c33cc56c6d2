"""Songs and signals of animals: whistles with a grammar of their own, beats of wings and beaks, and echo sounders.

Every function maps `(rng, seconds)` to raw samples at 16 kHz that start with the event; `lib.data.synth` adds
the recording and the level. What is drawn before the loops is one individual: this owl, this swarm.
"""

import numpy as np
from scipy.signal import lfilter

from lib.data.synth_dsp import (
    SAMPLE_RATE,
    Array,
    band,
    buzz,
    clock,
    count,
    log_uniform,
    noise,
    peaks,
    phase,
    place,
    rhythm,
    ring,
    slope,
    swell,
    wander,
)

Rng = np.random.Generator


def whistle(pitch: Array, second: float) -> Array:
    """Return a whistled note: a sine of `pitch` in Hz and its octave at the level `second`, where it still fits."""
    angle = phase(pitch, len(pitch))
    return np.sin(angle) + second * np.sin(2 * angle) * (pitch < 3800)


def behind(rng: Rng, x: Array, faint: float, loud: float) -> Array:
    """Return what is heard behind an animal, leaves or insects or a road, from `faint` to `loud` times its level."""
    place_around = noise(rng, len(x), slope(rng.uniform(2, 9), rng.uniform(100, 3000)))
    return x + place_around * np.std(x) * log_uniform(rng, faint, loud)


def owl(rng: Rng, seconds: float) -> Array:
    """Hoot: low, almost pure notes in a slow rhythm of their own, of which the last may tremble."""
    n = count(seconds)
    pitch, second = log_uniform(rng, 250, 820), log_uniform(rng, 0.01, 0.3)
    lengths = log_uniform(rng, 0.12, 0.7, int(rng.integers(1, 6)))
    steps = np.exp(rng.normal(0, 0.04, len(lengths)))
    starts = np.cumsum(np.concatenate([[0], (lengths + log_uniform(rng, 0.06, 0.5, len(lengths)))[:-1]]))
    tremble, rate, arch = rng.choice([0, 0, 0.6]), rng.uniform(8, 18), rng.uniform(-0.02, 0.12)
    breath = noise(rng, n, peaks([pitch], [rng.uniform(60, 300)], [1])) * log_uniform(rng, 0.005, 0.1)
    times = rhythm(rng, seconds, starts[-1] + lengths[-1] + log_uniform(rng, 0.4, 2.5), 0.15)
    songs = []
    for _ in times:
        hoots = []
        for number, length in enumerate(lengths):
            m = count(length * rng.uniform(0.92, 1.08))
            shake = 1 - tremble * (number == len(lengths) - 1) * (0.5 + 0.5 * np.sin(2 * np.pi * rate * clock(m)))
            curve = arch * np.sin(np.pi * np.linspace(0, 1, m)) + wander(rng, m, 12, 0.006)
            hoots.append(whistle(pitch * steps[number] * np.exp(curve), second) * swell(m, 0.04, 0.6 * length) * shake)
        levels = np.exp(rng.normal(0, 0.15, len(hoots)))
        songs.append(place(count(starts[-1] + 1.1 * lengths[-1]), hoots, starts, levels))
    return behind(rng, place(n, songs, times, np.exp(rng.normal(0, 0.15, len(times)))) + breath, 0.01, 0.4)


def dove(rng: Rng, seconds: float) -> Array:
    """Coo: three or four low notes, the stressed one higher and longer, rolled in the crop, over and over."""
    n = count(seconds)
    pitch, roll, second = log_uniform(rng, 330, 720), rng.uniform(18, 42), log_uniform(rng, 0.02, 0.5)
    syllables = int(rng.integers(2, 5))
    stressed, rolled = int(rng.integers(0, syllables)), rng.uniform(0.15, 0.95)
    lengths = rng.uniform(0.12, 0.28, syllables)
    lengths[stressed] *= rng.uniform(1.4, 2.2)
    steps = np.where(np.arange(syllables) == stressed, rng.uniform(1.06, 1.25), np.exp(rng.normal(0, 0.03, syllables)))
    starts = np.cumsum(np.concatenate([[0], (lengths + rng.uniform(0.02, 0.1, syllables))[:-1]]))
    times = rhythm(rng, seconds, starts[-1] + lengths[-1] + rng.uniform(0.08, 0.5), 0.03)
    songs = []
    for _ in times:
        coos = []
        for length, step in zip(lengths, steps, strict=True):
            m = count(length)
            u = np.linspace(0, 1, m)
            beat = np.sin(phase(roll * np.exp(wander(rng, m, 10, 0.1)), m))
            pitched = pitch * step * np.exp(0.06 * np.sin(np.pi * u) + 0.015 * beat)
            coos.append(whistle(pitched, second) * (1 + rolled * beat) * swell(m, 0.03, 0.08))
        songs.append(place(count(starts[-1] + lengths[-1] + 0.01), coos, starts, steps**3))
    return behind(rng, place(n, songs, times, np.exp(rng.normal(0, 0.1, len(times)))), 0.01, 0.4)


def cuckoo(rng: Rng, seconds: float) -> Array:
    """Call two notes, the second a third or a fourth below the first, at the pace of a slow clock."""
    n = count(seconds)
    pitch, fall = log_uniform(rng, 540, 900), rng.uniform(0.74, 0.87)
    first, second = rng.uniform(0.1, 0.2), rng.uniform(0.15, 0.32)
    between, octave = rng.uniform(0.04, 0.14), log_uniform(rng, 0.01, 0.25)
    stutter = rng.uniform() < 0.15  # an excited one sings the first note twice
    times = rhythm(rng, seconds, first + between + second + rng.uniform(0.35, 1.0), 0.04)
    plan = [(first, 1.0)] * (2 if stutter else 1) + [(second, fall)]
    starts = np.cumsum([0] + [length + between for length, _ in plan[:-1]])
    calls = []
    for _ in times:
        notes = []
        for length, step in plan:
            m = count(length * rng.uniform(0.95, 1.05))
            curve = 0.05 * np.sin(np.pi * np.linspace(0, 1, m) ** 0.6) + rng.normal(0, 0.006)
            notes.append(whistle(pitch * step * np.exp(curve), octave) * swell(m, 0.03, 0.07))
        calls.append(place(count(starts[-1] + 1.1 * second), notes, starts, [1.0] * (len(plan) - 1) + [0.9]))
    return behind(rng, place(n, calls, times, np.exp(rng.normal(0, 0.1, len(times)))), 0.01, 0.6)


def warbler(rng: Rng, seconds: float) -> Array:
    """Pour out a long hurried song in which hardly a note comes twice: wide glides, leaps and short rattles."""
    n = count(seconds)
    centre, spread = log_uniform(rng, 2400, 4600), rng.uniform(0.18, 0.4)
    rate, breathing = rng.uniform(6, 15), log_uniform(rng, 1.2, 6)
    wide, second, rattling = rng.uniform(0.3, 1.0), log_uniform(rng, 0.01, 0.2), rng.uniform(0, 0.4)
    starts = rhythm(rng, seconds, 1 / rate, rng.uniform(0.1, 0.4))
    notes, height = [], rng.normal(0, spread)
    for _ in starts:
        m = count(rng.uniform(0.5, 0.95) / rate)
        u = np.linspace(0, 1, m)
        height = 0.4 * height + rng.normal(0, spread)
        glide = wide * rng.normal() * (u - 0.5) + 0.5 * wide * rng.normal() * np.sin(np.pi * u * rng.uniform(1, 3))
        note = whistle(np.clip(centre * np.exp(height + glide), 1400, 7500), second)
        rattle = 1 + 0.9 * np.sin(2 * np.pi * rng.uniform(50, 150) * clock(m)) if rng.uniform() < rattling else 1
        notes.append(note * rattle * np.sin(np.pi * u) ** 0.8)
    levels = np.exp(rng.normal(0, 0.35, len(starts))) * (starts % breathing < 0.8 * breathing)
    return behind(rng, place(n, notes, starts, levels), 0.01, 0.3)


def sparrow(rng: Rng, seconds: float) -> Array:
    """Sing one strophe again and again: a few clear notes, a fast trill of one syllable, perhaps a buzz at the end."""
    n = count(seconds)
    pitches = log_uniform(rng, 2600, 6500, 3)  # of the clear notes, the trill, the buzz

    def note(length: float, pitch: float, slide: float, rough: float) -> Array:
        u = np.linspace(0, 1, count(length))
        tone = whistle(np.clip(pitch * np.exp(slide * (u - 0.5)), 1500, 7600), 0.05)
        return tone * (1 + rough * np.sin(2 * np.pi * rasp * clock(len(u)))) * np.sin(np.pi * u) ** 0.5

    rasp, slide, rate = rng.uniform(80, 200), rng.normal(0, 0.6), rng.uniform(9, 32)
    clear, repeats = int(rng.integers(0, 4)), int(rng.uniform(0.5, 1.6) * rate)
    opening, spacing = note(rng.uniform(0.08, 0.25), pitches[0], rng.normal(0, 0.1), 0), rng.uniform(0.15, 0.35)
    syllable = note(rng.uniform(0.4, 0.85) / rate, pitches[1], slide, 0)
    closing = note(rng.uniform(0.2, 0.6), pitches[2], rng.normal(0, 0.1), 0.9)
    parts = [opening] * clear + [syllable] * repeats + [closing] * int(rng.uniform() < 0.5)
    starts = np.concatenate([np.arange(clear) * spacing, clear * spacing + np.arange(len(parts) - clear) / rate])
    strophe = place(count(starts[-1] + 0.7), parts, starts, np.linspace(0.7, 1, len(parts)))
    times = rhythm(rng, seconds, starts[-1] + 0.6 + log_uniform(rng, 0.3, 3), 0.1)
    return behind(rng, place(n, [strophe] * len(times), times, np.exp(rng.normal(0, 0.1, len(times)))), 0.01, 0.3)


def woodpecker(rng: Rng, seconds: float) -> Array:
    """Drum on a hollow trunk: a roll of ten to thirty blows that quickens and fades, then a wait."""
    n = count(seconds)
    trunk = log_uniform(rng, 350, 1700)
    modes = trunk * np.array([1, 1.6, 2.3, 3.4, 4.7]) * np.exp(rng.normal(0, 0.08, 5))
    decays = rng.uniform(0.004, 0.018) * np.arange(1, 6) ** -rng.uniform(0.2, 0.7)
    blow = ring(rng, count(0.12), modes, decays, np.arange(1, 6) ** -rng.uniform(0.2, 1.2))
    chip = noise(rng, len(blow), band(1500, 7000, 1)) * np.exp(-clock(len(blow)) / rng.uniform(0.0005, 0.003))
    blow += chip * log_uniform(rng, 0.1, 1.5)
    blows, rate = int(rng.integers(8, 32)), rng.uniform(12, 26)
    quicken, fade = rng.uniform(-0.1, 0.5), rng.uniform(0.2, 2)
    u = np.arange(blows) / blows
    starts = np.cumsum(np.exp(-quicken * u) / rate)
    starts -= starts[0]
    roll = place(count(starts[-1] + 0.12), [blow] * blows, starts, np.exp(-fade * u**2) * np.minimum(1, 0.6 + 2 * u))
    times = rhythm(rng, seconds, starts[-1] + log_uniform(rng, 0.5, 3), 0.2)
    return behind(rng, place(n, [roll] * len(times), times, np.exp(rng.normal(0, 0.15, len(times)))), 0.003, 0.2)


def bee(rng: Rng, seconds: float) -> Array:
    """Buzz past the ear: one to four insects, the harmonics of their wings, near and far, turning now and then."""
    n = count(seconds)
    out = np.zeros(n)
    kind, bright = log_uniform(rng, 110, 330), rng.uniform(0.7, 0.95)
    turns, unrest = log_uniform(rng, 0.4, 3), rng.uniform(0.02, 0.1)
    for insect in range(int(rng.integers(1, 5))):
        pitch = kind * np.exp(rng.normal(0, 0.08) + wander(rng, n, turns, unrest) + wander(rng, n, 40, 0.01))
        wings = buzz(phase(pitch, n), bright) * np.exp(wander(rng, n, 30, rng.uniform(0.1, 0.5)))
        near = np.exp(wander(rng, n, turns, rng.uniform(0.3, 1.0)))
        air = noise(rng, n, band(2 * kind, 12 * kind, 1)) * log_uniform(rng, 0.02, 0.3)
        out += (wings / np.std(wings) + air) * near * (1 if insect == 0 else log_uniform(rng, 0.1, 0.8))
    return behind(rng, out, 0.01, 0.5)


def cicada(rng: Rng, seconds: float) -> Array:
    """Click a ribbed drum by its muscle hundreds of times a second: a high rasping band that swells and sinks."""
    n = count(seconds)
    t = clock(n)
    drum, width = log_uniform(rng, 3600, 7000), log_uniform(rng, 300, 2200)
    rate, ribs = log_uniform(rng, 60, 320), rng.uniform(0.3, 0.97)
    swelling, deep = log_uniform(rng, 0.25, 4), rng.uniform(0, 0.9)
    keyed, sharp = rng.uniform() < 0.4, rng.uniform(1, 8)
    out = np.zeros(n)
    for insect in range(int(rng.integers(1, 4))):
        carrier = noise(rng, n, peaks([drum, 1.15 * drum], [width, width], [1, rng.uniform(0, 0.8)]))
        beat = 1 + ribs * np.sin(phase(rate * np.exp(rng.normal(0, 0.05) + wander(rng, n, 3, 0.03)), n))
        song = 0.5 + 0.5 * np.cos(2 * np.pi * (swelling * t + (rng.uniform() if insect else 0)))
        song = 1 / (1 + np.exp(-sharp * 2 * (song - 0.4))) if keyed else 1 - deep + deep * song
        out += carrier * beat * song * (1 if insect == 0 else log_uniform(rng, 0.1, 0.8))
    return behind(rng, out, 0.01, 0.3)


def dolphin(rng: Rng, seconds: float) -> Array:
    """Repeat a signature: one winding whistle under water, and between two of them trains of quickening clicks."""
    n = count(seconds)
    m = count(log_uniform(rng, 0.3, 1.3))
    low, high = log_uniform(rng, 2500, 4500), rng.uniform(5500, 7600)
    loops = rng.uniform(0.5, 3.5)
    curve = np.sin(np.pi * (loops * np.linspace(0, 1, m) * 2 + rng.uniform(0, 2))) * 0.5 + 0.5
    curve = np.clip(0.8 * curve + 0.2 * rng.normal(0.5, 0.4) + rng.normal(0, 0.3) * np.linspace(-0.5, 0.5, m), 0, 1)
    clicks, loud = log_uniform(rng, 25, 160), log_uniform(rng, 0.2, 2)
    times = rhythm(rng, seconds, m / SAMPLE_RATE + log_uniform(rng, 0.2, 1.5), 0.2)
    calls = []
    for _ in times:
        drift = np.exp(rng.normal(0, 0.03))
        call = whistle(low * drift * (high / low) ** curve, 0.1) * swell(m, 0.05, 0.1)
        length = count(rng.uniform(0.2, 0.8))
        rate = clicks * np.exp(rng.uniform(0, 1.8) * np.linspace(0, 1, length))
        struck = np.diff(np.floor(np.cumsum(rate) / SAMPLE_RATE), prepend=0.0) * swell(length, 0.1, 0.1)
        train = lfilter([1, -1.6, 0.8], [1], struck) * loud * (rng.uniform() < 0.7)
        calls.append(np.concatenate([call, np.zeros(count(0.05)), train]))
    sea = place(n, calls, times, np.exp(rng.normal(0, 0.2, len(times))))
    return sea + noise(rng, n, slope(6, log_uniform(rng, 100, 1500))) * np.std(sea) * log_uniform(rng, 0.02, 0.5)


def bat(rng: Rng, seconds: float) -> Array:
    """Sound the night, as a detector makes it audible: falling chirps, faster and faster towards a moth."""
    n = count(seconds)
    start, end = rng.uniform(4500, 7600), log_uniform(rng, 1500, 4000)
    length, hook = log_uniform(rng, 0.004, 0.03), rng.uniform(1, 5)
    rate, hunts = rng.uniform(7, 20), rng.uniform(0.1, 0.5)  # feeding buzzes a second
    times, time = [], 0.0
    while time < max(seconds - 0.03, 1e-6):
        times.append(time)
        into = (time * hunts) % 1 / hunts  # seconds since the last catch
        closing = np.clip((1 / hunts - into) / 0.5, 0.07, 1)  # the nearer the moth, the faster
        time += closing / rate * np.exp(0.08 * rng.standard_normal())
    chirps = []
    for size in (1.0, 0.5):  # in a buzz the chirps are shorter and lower
        m = count(length * size)
        u = np.linspace(0, 1, m)
        sweep = end + (start * (0.6 + 0.4 * size) - end) * np.exp(-hook * u) * (1 - u)
        chirps.append(whistle(sweep, 0.1) * np.sin(np.pi * u) ** 0.6)
    gaps = np.diff(times, append=times[-1] + 1 / rate)
    passing = np.exp(-((np.array(times) - seconds * rng.uniform(0, 1)) ** 2) / (2 * log_uniform(rng, 1, 8) ** 2))
    flight = place(n, [chirps[int(gap < 0.4 / rate)] for gap in gaps], times, np.maximum(passing, 0.1))
    hiss = noise(rng, n, slope(rng.uniform(0, 4), 2000)) * np.abs(flight).max()
    return flight + hiss * log_uniform(rng, 0.003, 0.06)
