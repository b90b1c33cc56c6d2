"""Sounds of throats, of beasts and of people: a pitch that bends, and a mouth that opens and closes.

Every function maps `(rng, seconds)` to raw samples at 16 kHz that start with the event; `lib.data.synth` adds
the recording and the level. What is drawn before the calls is one individual: this cat, this child.
"""

from collections.abc import Sequence

import numpy as np

from lib.data.synth_dsp import (
    Array,
    Gain,
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
    shape,
    swell,
    wander,
)

Rng = np.random.Generator


def mouth(rng: Rng, formants: Sequence[float], size: float) -> Gain:
    """Return the resonances in Hz of one throat; a larger `size` is a longer throat, and lower."""
    k = np.arange(1, len(formants) + 1)
    centres = np.array(formants) / size * rng.uniform(0.88, 1.14, len(k))
    levels = np.exp(rng.normal(0, 0.35, len(k))) * k ** -rng.uniform(0.2, 0.9)
    return peaks(centres, 40 + centres * rng.uniform(0.1, 0.25, len(k)), levels)


def voice(rng: Rng, pitch: Array, opening: Array, mouths: tuple[Gain, Gain], bright: float, hoarse: float) -> Array:
    """Send a slightly uneven voice of `pitch` in Hz, and breath, through a mouth that is shut at 0 and open at 1."""
    m = len(pitch)
    cords = buzz(phase(pitch * np.exp(wander(rng, m, 60, 0.008)), m), bright) * np.exp(wander(rng, m, 90, 0.15))
    cords += hoarse * np.std(cords) * noise(rng, m, band(400, 6000, 1))
    shut, wide = (shape(cords, gain) for gain in mouths)
    return 0.5 * shut / (np.std(shut) + 1e-9) * (1 - opening) + wide / (np.std(wide) + 1e-9) * opening


def cat(rng: Rng, seconds: float) -> Array:
    """Meow: the pitch rises and sinks while the mouth opens and closes, again and again."""
    n = count(seconds)
    size = rng.uniform()  # 0 a kitten, 1 a tomcat
    pitch, length = log_uniform(rng, 0.8, 1.25) * 950 * 0.42**size, log_uniform(rng, 0.3, 1.2)
    mouths = (
        mouth(rng, [450, 1500, 2700, 4300], 0.8 + 0.4 * size),
        mouth(rng, [1050, 2000, 3500, 5200], 0.8 + 0.4 * size),
    )
    bend, late, sink = rng.uniform(0.05, 0.5), rng.uniform(0.4, 1.3), rng.uniform(0, 0.5)
    quiver, per_second = rng.choice([0, 0.02, 0.06]), rng.uniform(5, 14)
    bright, breath = rng.uniform(0.55, 0.85), log_uniform(rng, 0.05, 0.6)
    times = rhythm(rng, seconds, length + log_uniform(rng, 0.1, 1.5), 0.2)
    calls = []
    for _ in times:
        m = count(length * rng.uniform(0.75, 1.3))
        u = np.linspace(0, 1, m)
        arch = bend * np.sin(np.pi * u**late) - sink * u + quiver * np.sin(2 * np.pi * per_second * clock(m))
        opening = np.sin(np.pi * u ** rng.uniform(0.5, 1.1)) ** rng.uniform(0.7, 2)
        call = voice(rng, pitch * np.exp(arch + rng.normal(0, 0.05)), opening, mouths, bright, breath)
        calls.append(call * swell(m, 0.05, 0.15))
    return place(n, calls, times, np.exp(rng.normal(0, 0.25, len(times))))


def cow(rng: Rng, seconds: float) -> Array:
    """Moo: a long low voice through a nose, then through an open muzzle, that may break into its upper register."""
    n = count(seconds)
    size = rng.uniform(0.9, 1.5)
    pitch, length = log_uniform(rng, 95, 240) / size, log_uniform(rng, 0.7, 2.4)
    mouths = mouth(rng, [220, 650, 1900], size), mouth(rng, [480, 950, 2100, 3300], size)
    rise, breaks = rng.uniform(0, 0.35), rng.uniform() < 0.3
    bright, breath = rng.uniform(0.78, 0.94), log_uniform(rng, 0.03, 0.35)
    times = rhythm(rng, seconds, length + log_uniform(rng, 0.3, 2.5), 0.2)
    calls = []
    for _ in times:
        m = count(length * rng.uniform(0.8, 1.2))
        u = np.linspace(0, 1, m)
        register = np.log(2) * ((u > 0.55) & (u < 0.85)) if breaks else 0
        curve = np.minimum(rise * u / 0.3, rise) - 0.4 * rise * u + register + wander(rng, m, 25, 0.01)
        opening = np.clip((u - rng.uniform(0.05, 0.35)) / 0.2, 0, 1) * np.clip((1 - u) / 0.15, 0, 1)
        growl = 1 + rng.uniform(0, 0.5) * np.sign(np.sin(phase(pitch / 2, m)))  # every second stroke is weaker
        calls.append(voice(rng, pitch * np.exp(curve), opening, mouths, bright, breath) * growl * swell(m, 0.08, 0.2))
    return place(n, calls, times, np.exp(rng.normal(0, 0.2, len(times))))


def sheep(rng: Rng, seconds: float) -> Array:
    """Bleat: a nasal voice that a flapping throat shakes eight to fifteen times a second, in level and pitch."""
    n = count(seconds)
    size = rng.uniform()  # 0 a lamb, 1 a ram
    pitch, length = log_uniform(rng, 0.85, 1.2) * 480 * 0.3**size, log_uniform(rng, 0.35, 1.5)
    mouths = (
        mouth(rng, [400, 1200, 2500, 3500], 0.7 + 0.35 * size),
        mouth(rng, [780, 1700, 2700, 3800], 0.7 + 0.35 * size),
    )
    shake, depth, bend = rng.uniform(7, 15), rng.uniform(0.4, 1.6), rng.uniform(0.02, 0.12)
    bright, breath = rng.uniform(0.78, 0.93), log_uniform(rng, 0.05, 0.5)
    times = rhythm(rng, seconds, length + log_uniform(rng, 0.2, 1.8), 0.25)
    calls = []
    for _ in times:
        m = count(length * rng.uniform(0.7, 1.3))
        u = np.linspace(0, 1, m)
        flap = np.sin(phase(shake * np.exp(wander(rng, m, 8, 0.1)), m) + rng.uniform(0, 6))
        curve = rng.normal(0, 0.05) + 0.15 * np.sin(np.pi * u) - 0.2 * u + bend * flap
        opening = np.clip(u / rng.uniform(0.1, 0.3), 0, 1)
        call = voice(rng, pitch * np.exp(curve), opening, mouths, bright, breath)
        calls.append(call * np.exp(depth * (flap - 1)) * swell(m, 0.04, 0.12))
    return place(n, calls, times, np.exp(rng.normal(0, 0.25, len(times))))


def rooster(rng: Rng, seconds: float) -> Array:
    """Crow at the top of a bird's voice: two or three short notes upwards, then a long one that falls off."""
    n = count(seconds)
    pitch = log_uniform(rng, 480, 900)
    beak = mouth(rng, [1100, 2100, 3300, 4600], rng.uniform(0.8, 1.25))
    nearly = mouth(rng, [900, 1900, 3100], 1.1)
    short = int(rng.integers(2, 4))
    lengths = np.append(rng.uniform(0.09, 0.26, short), rng.uniform(0.5, 1.3))
    steps = np.append(np.sort(rng.uniform(0.65, 1.05, short)), rng.uniform(1.0, 1.25))
    gaps = rng.uniform(0.01, 0.09, short + 1)
    bright, hoarse, fall = rng.uniform(0.6, 0.85), log_uniform(rng, 0.03, 0.5), rng.uniform(0.15, 0.7)
    starts = np.cumsum(np.concatenate([[0], (lengths + gaps)[:-1]]))
    times = rhythm(rng, seconds, starts[-1] + lengths[-1] + log_uniform(rng, 0.4, 2.5), 0.15)
    songs = []
    for _ in times:
        notes = []
        for number, (length, step) in enumerate(zip(lengths, steps, strict=True)):
            m = count(length * rng.uniform(0.9, 1.1))
            u = np.linspace(0, 1, m)
            last = number == short
            curve = 0.12 * np.sin(np.pi * u**0.5) - (fall * u**3 if last else 0.1 * u) + wander(rng, m, 40, 0.01)
            note = voice(rng, pitch * step * np.exp(curve), np.sqrt(np.sin(np.pi * u)), (nearly, beak), bright, hoarse)
            notes.append(note * swell(m, 0.02, 0.35 * length if last else 0.03))
        songs.append(place(count(starts[-1] + 1.2 * lengths[-1]), notes, starts, steps))
    return place(n, songs, times, np.exp(rng.normal(0, 0.15, len(times))))


def crow(rng: Rng, seconds: float) -> Array:
    """Caw in groups: a hoarse voice torn by a slower one, with most of its power between 1 and 2 kHz."""
    n = count(seconds)
    pitch, length = log_uniform(rng, 230, 560), log_uniform(rng, 0.16, 0.5)
    size = rng.uniform(0.8, 1.25)
    beak = mouth(rng, [1350, 2100, 3600], size), mouth(rng, [1550, 2400, 3900], size)
    torn, hoarse, bright = rng.uniform(0.3, 0.9), rng.uniform(0.4, 1.6), rng.uniform(0.8, 0.93)
    group, pause = int(rng.integers(1, 6)), log_uniform(rng, 0.4, 2)
    within = length + rng.uniform(0.06, 0.35)
    starts = np.arange(400) * within + np.arange(400) // group * pause
    starts = starts[starts < max(seconds - 0.05, 1e-6)]
    caws = []
    for _ in starts:
        m = count(length * rng.uniform(0.85, 1.15))
        u = np.linspace(0, 1, m)
        curve = 0.2 * np.sin(np.pi * u**0.6) - rng.uniform(0.05, 0.3) * u + wander(rng, m, 200, 0.06)
        tear = 1 + torn * np.sin(phase(pitch * 0.5 * np.exp(wander(rng, m, 50, 0.1)), m))
        caw = voice(rng, pitch * np.exp(curve), np.sin(np.pi * u), beak, bright, hoarse)
        caws.append(caw * tear * swell(m, 0.02, 0.4 * length))
    return place(n, caws, starts, np.exp(rng.normal(0, 0.2, len(starts))))


def baby_cry(rng: Rng, seconds: float) -> Array:
    """Wail, breath after breath: a high arched pitch that at times doubles or breaks into noise, then a gasp."""
    n = count(seconds)
    pitch, length = log_uniform(rng, 340, 580), log_uniform(rng, 0.35, 1.5)
    mouths = mouth(rng, [600, 1700, 3300, 4800], 1), mouth(rng, [1100, 1900, 3500, 5000], 1)
    bend, late, shake = rng.uniform(0.1, 0.45), rng.uniform(0.3, 1), rng.uniform(0, 0.05)
    bright, hoarse, strain = rng.uniform(0.65, 0.88), log_uniform(rng, 0.02, 0.4), rng.uniform(0, 0.6)
    gasp = noise(rng, count(rng.uniform(0.12, 0.3)), band(rng.uniform(900, 2000), rng.uniform(3000, 6500), 2))
    gasp *= swell(len(gasp), 0.08, 0.05) * log_uniform(rng, 0.03, 0.3)
    between = len(gasp) / 16_000 + log_uniform(rng, 0.05, 0.5)
    times = rhythm(rng, seconds, 1.25 * length + between, 0.08)
    wails = []
    for _ in times:
        m = count(length * rng.uniform(0.7, 1.25))
        u = np.linspace(0, 1, m)
        curve = bend * np.sin(np.pi * u**late) - 0.2 * u + shake * np.sin(2 * np.pi * rng.uniform(5, 9) * clock(m))
        torn = strain * rng.uniform() * np.clip(np.sin(np.pi * u) * 3 - 1.8, 0, 1)
        opening = np.clip(u / 0.15, 0, 1) * np.clip((1 - u) / 0.2, 0, 1)
        wail = voice(rng, pitch * np.exp(curve), opening, mouths, bright, hoarse)
        wail *= 1 + torn * np.sin(phase(pitch * np.exp(curve) / 2, m)) + 2 * torn * rng.standard_normal(m)
        wails.append(np.concatenate([wail * swell(m, 0.04, 0.15), np.zeros(count(0.04)), gasp]))
    return place(n, wails, times, np.exp(rng.normal(0, 0.15, len(times))))


def laughter(rng: Rng, seconds: float) -> Array:
    """Laugh in bouts of "ha": a puff of breath and a short vowel, four to seven a second, sinking and fading."""
    n = count(seconds)
    size = rng.uniform()  # 0 a child, 1 a man
    pitch, tract = log_uniform(rng, 0.8, 1.25) * 420 * 0.35**size, 0.8 + 0.3 * size
    vowel = ([750, 1250, 2700, 3700], [550, 1800, 2600, 3600], [350, 2250, 3000, 3800], [450, 850, 2500, 3500])
    wide = mouth(rng, vowel[int(rng.integers(4))], tract)
    puff = noise(rng, count(rng.uniform(0.04, 0.1)), wide) * log_uniform(rng, 0.1, 0.8)
    puff *= swell(len(puff), 0.02, 0.03)
    rate, bout, breath = rng.uniform(3.6, 7), int(rng.integers(3, 11)), log_uniform(rng, 0.2, 1.1)
    voiced, sink, bright = rng.uniform(0.3, 0.65), rng.uniform(0, 0.6), rng.uniform(0.7, 0.9)
    hoarse = log_uniform(rng, 0.05, 1)
    number = np.arange(int(rate * seconds) + 1)
    starts = (number + rng.uniform(-0.1, 0.1, len(number)) * (number > 0)) / rate + number // bout * breath
    number, starts = number[starts < seconds], starts[starts < seconds]
    inside = number % bout / bout
    syllables = []
    for step in inside:
        m = count(voiced / rate * rng.uniform(0.7, 1.2))
        u = np.linspace(0, 1, m)
        curve = 0.35 * (1 - np.abs(2 * step - 0.4)) - sink * step - 0.2 * u + rng.normal(0, 0.06)
        syllable = voice(rng, pitch * np.exp(curve), np.ones(m), (wide, wide), bright, hoarse)
        syllables.append(np.concatenate([puff, syllable * swell(m, 0.01, 0.6 * m / 16_000)]))
    inhaled = noise(rng, n, band(1200, 5000, 1)) * np.exp(wander(rng, n, 3, 1)) * log_uniform(rng, 0.003, 0.05)
    return place(n, syllables, starts, (1 - 0.6 * inside) * np.exp(rng.normal(0, 0.2, len(number)))) + inhaled


def speech(rng: Rng, seconds: float) -> Array:
    """Babble: a voice glides from vowel to vowel with a tune, cut by hisses, stops and breaths."""
    n = count(seconds)
    size = rng.uniform()  # 0 a child, 1 a man
    pitch, tract = log_uniform(rng, 0.85, 1.2) * 290 * 0.36**size, 0.82 + 0.26 * size
    vowels = ([730, 1100, 2500, 3500], [300, 2250, 3000, 3700], [330, 900, 2300, 3400], [530, 1800, 2500, 3600])
    gains = [mouth(rng, vowels[i], tract) for i in rng.permutation(4)[:3]]
    bright, hoarse, tune = rng.uniform(0.85, 0.95), log_uniform(rng, 0.03, 0.3), rng.uniform(0.05, 0.25)
    rate = rng.uniform(2.5, 6.5)  # syllables a second
    number = np.arange(int(seconds * rate) + 4)
    ends = np.cumsum(np.exp(rng.normal(0, 0.3, len(number)))) / rate
    curve = wander(rng, n, 1.5, tune) + wander(rng, n, rate, 0.6 * tune)
    cords = buzz(phase(pitch * np.exp(curve + wander(rng, n, 60, 0.006)), n), bright)
    cords += hoarse * np.std(cords) * noise(rng, n, band(400, 6000, 1))
    which, out, t = rng.integers(0, len(gains), len(number)), np.zeros(n), clock(n)
    for vowel, gain in enumerate(gains):  # a formant glides to its next place as one vowel fades into the other
        sound = shape(cords, gain)
        out += sound / (np.std(sound) + 1e-9) * np.interp(t, ends, which == vowel)
    edges = np.concatenate([[0], ends])
    inside = np.interp(t, edges, np.arange(len(edges))) % 1  # 0 at the start of a syllable, 1 at its end
    said = np.interp(t, edges, np.concatenate([[1], rng.uniform(size=len(ends)) > rng.uniform(0.05, 0.2)]))
    hiss = noise(rng, n, band(rng.uniform(2200, 4500), 7800, 2)) * np.clip((inside - rng.uniform(0.7, 0.9)) * 20, 0, 1)
    return said * (out * np.sin(np.pi * (0.15 + 0.8 * inside)) ** 1.5 + log_uniform(rng, 0.05, 0.6) * hiss)
