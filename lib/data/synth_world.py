"""Sounds of the open air and of hands: horns, aircraft, thunder, fire, surf, applause and plucked strings.

Every function maps `(rng, seconds)` to raw samples at 16 kHz that start with the event; `lib.data.synth` adds
the recording and the level. What is drawn before the loops is one individual: this train, this storm.
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
    shape,
    slope,
    swell,
    wander,
)

Rng = np.random.Generator


def train_horn(rng: Rng, seconds: float) -> Array:
    """Blow a chord of three to five horns, long and short, over the rumble of the train, coming or going."""
    n = count(seconds)
    t = clock(n)
    chord = log_uniform(rng, 190, 420) * 2 ** (np.cumsum([0, *rng.choice([2, 3, 4, 5], int(rng.integers(2, 5)))]) / 12)
    blast, gap = log_uniform(rng, 0.5, 3), rng.uniform(0.15, 0.9)
    blown, start = np.zeros(n), 0
    while start < n:
        m = min(count(blast * rng.choice([0.3, 1, 1])), n - start)
        blown[start : start + m] = swell(m, rng.uniform(0.03, 0.1), rng.uniform(0.05, 0.25))
        start += m + count(gap * rng.uniform(0.7, 1.3))
    passing = 1 - rng.uniform(-0.04, 0.04) * np.tanh((t - seconds * rng.uniform(-0.5, 1.5)) * 2)
    sag = passing * (0.97 + 0.03 * blown)
    bright = rng.uniform(0.75, 0.92)
    tone = sum(rng.uniform(0.5, 1) * buzz(phase(note * sag, n) + rng.uniform(0, 6), bright) for note in chord)
    throat = rng.uniform(500, 1100)
    horn = peaks(throat * np.array([1, 2.4, 4.2]), [700, 900, 1200], [1, rng.uniform(0.3, 1.2), rng.uniform(0.1, 0.6)])
    horns = shape(tone * blown, horn)
    joints = np.exp(6 * (np.cos(phase(rng.uniform(1.2, 4), n)) - 1))  # wheels over the joints of the rails
    rolling = noise(rng, n, slope(rng.uniform(6, 10), log_uniform(rng, 60, 400))) * (0.5 + joints)
    return horns + rolling * np.std(horns) * log_uniform(rng, 0.03, 0.6)


def airplane(rng: Rng, seconds: float) -> Array:
    """Fly over: the roar of jets, combed by its echo from the ground, or the drone of propellers, falling in pitch."""
    n = count(seconds)
    t = clock(n)
    overhead = (t - seconds * rng.uniform(-0.3, 1.3)) / log_uniform(rng, 1, 8)
    doppler = 1 - rng.uniform(0.03, 0.25) * np.tanh(overhead)
    near = 1 / np.sqrt(1 + overhead**2 * rng.uniform(0.2, 2))
    roar = noise(rng, n, slope(rng.uniform(5, 12), log_uniform(rng, 120, 900)))
    delay = rng.uniform(0.0008, 0.004) * (0.4 + near) * SAMPLE_RATE  # samples by which the ground's echo is late
    roar = roar + rng.uniform(0.2, 0.9) * np.interp(np.arange(n) - delay, np.arange(n), roar)
    hiss = noise(rng, n, band(800, rng.uniform(2000, 5000), 2)) * near**2
    fan = np.sin(phase(log_uniform(rng, 900, 3800) * doppler, n)) * np.exp(wander(rng, n, 12, 0.3)) * near
    out = roar + log_uniform(rng, 0.03, 0.6) * hiss + log_uniform(rng, 0.01, 0.3) * fan
    if rng.uniform() < 0.45:
        blades, bright = log_uniform(rng, 55, 130), rng.uniform(0.75, 0.95)
        drone = sum(buzz(phase(blades * doppler * detune, n), bright) for detune in (1, 1 + rng.uniform(0.003, 0.03)))
        out += shape(drone / np.std(drone), slope(rng.uniform(4, 9), 500)) * log_uniform(rng, 0.5, 3)
    return out * np.sqrt(near) * np.exp(wander(rng, n, 4, rng.uniform(0.1, 0.4)))


def thunder(rng: Rng, seconds: float) -> Array:
    """Crack and roll: claps from the branches of a bolt, each later one farther, duller and longer."""
    n = count(seconds)
    distance = rng.uniform()  # 0 overhead, 1 beyond the hills
    bolts = rhythm(rng, seconds, log_uniform(rng, 2.5, 9), 0.3)
    out = np.zeros(n)
    for bolt in bolts:
        lags = np.cumsum(rng.exponential(log_uniform(rng, 0.06, 0.5), int(rng.integers(5, 14))))
        lags -= lags[0]
        claps = []
        for later in np.linspace(0, 0.6, len(lags)):
            far = distance + later
            decay = rng.uniform(0.05, 0.25) + 0.6 * far * rng.uniform()
            t = clock(count(min(4 * decay, seconds)))
            clap = noise(rng, len(t), slope(7 + 4 * far, 700 * 0.15**far * rng.uniform(0.6, 1.6)))
            claps.append(clap * np.minimum(t / (0.002 + 0.06 * far), 1) * np.exp(-t / decay))
        out += place(n, claps, bolt + lags, rng.uniform(0.2, 1, len(lags)) * np.linspace(1, 0.6, len(lags)))
    rolling = noise(rng, n, slope(rng.uniform(9, 14), log_uniform(rng, 50, 160))) * np.exp(wander(rng, n, 4, 0.6))
    since = clock(n) - bolts[np.searchsorted(bolts, clock(n), side="right") - 1]
    return out + rolling * np.exp(-since / log_uniform(rng, 1, 4)) * (np.std(out) + 0.02) * rng.uniform(0.4, 1.5)


def crackling_fire(rng: Rng, seconds: float) -> Array:
    """Burn wood: snaps of every size at random moments, each a tiny resonance, over the flutter of the flames."""
    n = count(seconds)
    out = np.zeros(n)
    for density, low, high, loud in (
        (log_uniform(rng, 15, 160), 1800, 7000, log_uniform(rng, 0.3, 1.5)),
        (log_uniform(rng, 1.5, 12), 500, 3500, 1.0),
    ):
        snaps = np.zeros(n)
        unrest = np.exp(wander(rng, n, 2, 0.8))
        landed = rng.integers(0, n, 1 + rng.poisson(density * seconds))
        snaps[landed] = rng.exponential(1, len(landed)) ** 2 * rng.choice([-1, 1], len(landed))
        snaps[0] = 3 / unrest[0]  # the event starts with a snap
        for centre in log_uniform(rng, low, high, 3):  # pieces of wood of three sizes
            radius = np.exp(-1 / log_uniform(rng, 0.0004, 0.004) / SAMPLE_RATE)
            poles = [1, -2 * radius * np.cos(2 * np.pi * centre / SAMPLE_RATE), radius**2]
            burnt = rng.uniform(size=n) < 0.5
            burnt[0] = True
            out += lfilter([1, -1], poles, snaps * unrest * burnt) * loud
    flames = noise(rng, n, slope(rng.uniform(5, 11), log_uniform(rng, 50, 400)))
    flames *= np.exp(wander(rng, n, 9, rng.uniform(0.2, 0.7)))
    hiss = noise(rng, n, band(log_uniform(rng, 800, 4000), 7600, 1)) * np.exp(wander(rng, n, 3, 0.4))
    level = np.std(out) + 1e-9
    return out + flames * level * log_uniform(rng, 0.05, 1.2) + hiss * level * log_uniform(rng, 0.02, 0.5)


def fireworks(rng: Rng, seconds: float) -> Array:
    """Shoot rockets: a bang that rolls back from the houses, some with a whistle before it or crackling stars after."""
    n = count(seconds)
    distance = rng.uniform()  # 0 in this street, 1 across the town
    dull, low = slope(7 + 5 * distance, 800 * 0.15**distance), log_uniform(rng, 60, 180)
    streets, whistling, stars = rng.uniform(0.05, 0.5), rng.uniform() < 0.4, rng.uniform() < 0.5
    bangs = rhythm(rng, seconds, log_uniform(rng, 0.25, 1.8), rng.uniform(0.2, 0.7))
    shots, starts = [], []
    for time in bangs:
        t = clock(count(min(seconds, 1.2)))
        m = len(t)
        boom = noise(rng, m, dull) * np.exp(-t / rng.uniform(0.01, 0.06)) * 3
        boom += np.sin(phase(low * (1 + np.exp(-t / 0.03)), m)) * np.exp(-t / 0.08) * rng.uniform(0.3, 2)
        boom += noise(rng, m, dull) * np.exp(-t / (0.15 + streets)) * streets
        if stars:
            sparks = rng.standard_normal(m) * (rng.uniform(size=m) < rng.uniform(0.002, 0.02)) * np.exp(-t / 0.6)
            boom += shape(sparks * np.clip((t - 0.25) / 0.2, 0, 1), band(1200, 7000, 1)) * rng.uniform(1, 6)
        if whistling:
            u = np.linspace(0, 1, count(0.5))
            rise = np.sin(phase(rng.uniform(1200, 2500) * 2**u, len(u))) * np.sin(np.pi * u) * rng.uniform(0.1, 0.5)
            shots.append(rise)
            starts.append(max(time - 0.5, 0))
        shots.append(boom)
        starts.append(time)
    return place(n, shots, starts, np.exp(rng.normal(0, 0.35, len(starts))))


def sea_waves(rng: Rng, seconds: float) -> Array:
    """Break on a beach: a wave swells low, topples in a wide band, and runs out hissing over sand or shingle."""
    n = count(seconds)
    period, far = log_uniform(rng, 2.5, 9), rng.uniform(0.12, 0.5)
    shingle, steep = rng.uniform(), rng.uniform(0.15, 0.45)
    edges = np.cumsum(period * np.exp(rng.normal(0, 0.2, int(2 * seconds / period) + 5)))
    edges -= edges[0] + rng.uniform() * period * 0.8  # the first wave is under way
    t = clock(n)
    wave = np.searchsorted(edges, t) - 1
    since = (t - edges[wave]) / (edges[wave + 1] - edges[wave])  # 0 to 1 within a wave
    height = np.exp(rng.normal(0, 0.3, len(edges)))[wave]
    fall = np.exp(-(since - steep) * rng.uniform(2.5, 6)) * (1 - since) / (1 - steep)
    topple = np.where(since < steep, (since / steep) ** 2, fall)
    ebb = np.clip((since - steep) / 0.1, 0, 1) * np.exp(-(np.maximum(since - steep, 0) ** 2) * rng.uniform(3, 12))
    low, high = log_uniform(rng, 80, 300), log_uniform(rng, 900, 3500)
    out = noise(rng, n, slope(rng.uniform(4, 8), low)) * (far + topple * height)
    out += noise(rng, n, band(low, high, 1)) * (0.3 * far + height * topple**2) * rng.uniform(0.6, 2)
    foam = noise(rng, n, band(high * rng.uniform(0.8, 1.5), 7800, 1))
    pebbles = np.exp(wander(rng, n, 200, 0.9 * shingle))
    out += foam * pebbles * (0.1 * far + height * ebb) * log_uniform(rng, 0.1, 1)
    return out * np.exp(wander(rng, n, 6, 0.08))


def clapping(rng: Rng, seconds: float) -> Array:
    """Applaud: from one pair of hands to a hall, each pair with its own cup, its own pace, and its own distance."""
    n = count(seconds)
    people = int(log_uniform(rng, 1, 45))
    room, spread = slope(rng.uniform(2, 8), log_uniform(rng, 1500, 5000)), rng.uniform(0.05, 0.25)
    pace = rng.uniform(2.2, 5.5)
    cups = []
    for _ in range(min(people, 10)):
        cup, m = log_uniform(rng, 700, 2300), count(0.06)
        hands = peaks([cup, 2.6 * cup], [cup * rng.uniform(0.3, 1), cup * 1.5], [1, rng.uniform(0.1, 0.6)])
        puff = np.minimum(clock(m) / 0.0006, 1) * np.exp(-clock(m) / rng.uniform(0.003, 0.012))
        cups.append(shape(noise(rng, m, hands) * puff, room))
    times, which, levels = [], [], []
    for person in range(people):
        own = pace * np.exp(rng.normal(0, spread))
        struck = rhythm(rng, seconds, 1 / own, 0.06) + (rng.uniform(0, 1 / own) if person else 0)
        times.extend(struck)
        which.extend([person % len(cups)] * len(struck))
        levels.extend((1 if person == 0 else log_uniform(rng, 0.15, 1)) * np.exp(rng.normal(0, 0.2, len(struck))))
    out = place(n, [cups[i] for i in which], times, levels)
    hall = noise(rng, n, slope(rng.uniform(3, 8), log_uniform(rng, 200, 2500)))
    return out + hall * np.abs(out).max() * log_uniform(rng, 0.0005, 0.03)


def guitar(rng: Rng, seconds: float) -> Array:
    """Pluck strings: harmonics a little sharp, weak where the finger plucked, in a pattern of notes or chords."""
    n = count(seconds)
    root, bend, finger = log_uniform(rng, 82, 260), log_uniform(rng, 2e-5, 4e-4), rng.uniform(0.08, 0.45)
    scale = rng.choice([np.array([0, 3, 5, 7, 10, 12, 15]), np.array([0, 2, 4, 7, 9, 12, 16])])
    pitches = root * 2 ** (rng.choice(scale, int(rng.integers(3, 7)), replace=False) / 12)
    bright, last = rng.uniform(0.4, 1.6), log_uniform(rng, 0.25, 2)
    k = np.arange(1, 25)
    strings = []
    for pitch in pitches:
        modes = pitch * k * np.sqrt(1 + bend * k**2)
        levels = np.abs(np.sin(np.pi * k * finger)) * k**-bright * np.exp(rng.normal(0, 0.2, len(k)))
        strings.append(ring(rng, count(min(3 * last, 2.5, seconds)), modes, last * (1 + modes / 1200) ** -1.0, levels))
        strings[-1][:64] *= np.linspace(0, 1, 64)
    body = peaks([rng.uniform(90, 120), rng.uniform(180, 240), rng.uniform(350, 600)], [40, 60, 300], [1, 0.8, 0.5])
    strummed, together = rng.uniform() < 0.35, rng.uniform(0.008, 0.04)
    beat = log_uniform(rng, 0.12, 0.5) * (2.5 if strummed else 1)
    times, which = [], []
    for time in rhythm(rng, seconds, beat, 0.03):
        chosen = rng.permutation(len(strings)) if strummed else [int(rng.integers(len(strings)))]
        times.extend(time + together * np.arange(len(chosen)))
        which.extend(chosen)
    out = place(n, [strings[i] for i in which], times, np.exp(rng.normal(0, 0.25, len(times))))
    bare = rng.uniform(0.2, 0.6)  # what the strings give without the box
    return shape(out, lambda f: body(f) + bare)
