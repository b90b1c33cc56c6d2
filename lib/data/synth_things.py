"""Sounds of things that are driven, blown, rung or hit: one function a class, each a different physical idea.

Every function maps `(rng, seconds)` to raw samples at 16 kHz that start with the event; `lib.data.synth` adds
the recording and the level. What is drawn before the loops is one individual: this siren, this bell.
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


def siren(rng: Rng, seconds: float) -> Array:
    """Sweep one clipped oscillator up and down (wail, yelp), or between two notes, driving past."""
    n = count(seconds)
    t = clock(n)
    low, ratio = log_uniform(rng, 350, 1000), rng.uniform(1.5, 2.8)
    kind = rng.choice(["wail", "yelp", "two-tone", "rise"], p=[0.4, 0.25, 0.2, 0.15])
    period = {
        "wail": rng.uniform(1.5, 5),
        "yelp": rng.uniform(0.2, 0.5),
        "two-tone": rng.uniform(0.8, 1.6),
    }.get(kind, rng.uniform(4, 9))
    cycle = (t / period + rng.uniform()) % 1
    if kind == "two-tone":
        ratio = rng.uniform(1.2, 1.45)
        position = np.clip(40 * np.abs(cycle - 0.5) - 10, 0, 1)  # two plateaus with a short glide
    else:
        peak = rng.uniform(0.3, 0.7)
        position = np.where(cycle < peak, cycle / peak, (1 - cycle) / (1 - peak)) ** rng.uniform(0.6, 1.3)
    speed, nearest, passing = rng.uniform(-25, 25), rng.uniform(5, 60), rng.uniform(-1, 2) * seconds
    along = speed * (t - passing)
    distance = np.hypot(along, nearest)
    doppler = 1 / (1 + speed * along / distance / 343)
    angle = phase(low * ratio**position * doppler, n)
    drive = rng.uniform(1, 6)
    tone = np.tanh(drive * (np.sin(angle) + rng.uniform(0, 0.5) * np.sin(2 * angle + 1) + rng.uniform(0, 0.5)))
    late = count(rng.uniform(0.03, 0.3))  # the same siren once more, from a house across the street
    tone[late:] += rng.uniform(0, 0.7) * tone[:-late] if late < n else 0
    horn = peaks(
        [rng.uniform(900, 1600), rng.uniform(2200, 3500)],
        [log_uniform(rng, 300, 2500), 1500],
        [1, rng.uniform(0.1, 1.5)],
    )
    traffic = noise(rng, n, slope(7, rng.uniform(60, 400)))
    street = shape(tone, horn) * nearest / distance
    return street + traffic * np.std(street) * log_uniform(rng, 0.02, 1.5)


def car_horn(rng: Rng, seconds: float) -> Array:
    """Blow two reeds a third apart, both rich in harmonics, in one or several honks."""
    n = count(seconds)
    root = log_uniform(rng, 300, 520)
    notes = [root] if rng.uniform() < 0.2 else [root, root * rng.uniform(1.15, 1.3)]
    honk, gap = log_uniform(rng, 0.2, 4), log_uniform(rng, 0.08, 0.8)
    starts = rhythm(rng, seconds, honk + gap, 0.2)
    blown = np.zeros(n)
    for start in starts:
        m = min(count(honk * rng.uniform(0.7, 1.2)), n - round(start * SAMPLE_RATE))
        blown[round(start * SAMPLE_RATE) :][:m] = swell(m, rng.uniform(0.004, 0.03), rng.uniform(0.01, 0.06))
    sag = 1 - rng.uniform(0, 0.03) * (1 - blown)  # the pitch settles as the pressure builds
    brightness = rng.uniform(0.7, 0.9)
    tone = sum(rng.uniform(0.6, 1) * buzz(phase(note * sag, n) + rng.uniform(0, 6), brightness) for note in notes)
    horn = peaks(
        [rng.uniform(350, 700), rng.uniform(1500, 2500), rng.uniform(2800, 4200)],
        [500, rng.uniform(500, 1200), rng.uniform(600, 1500)],
        [1, rng.uniform(0.8, 3), rng.uniform(0.5, 2.5)],
    )
    honks = shape(tone * blown, horn)
    return honks + noise(rng, n, slope(7, rng.uniform(80, 600))) * np.std(honks) * log_uniform(rng, 0.03, 0.5)


def engine(rng: Rng, seconds: float) -> Array:
    """Fire uneven cylinders in turn into an exhaust pipe, with the noise of the intake in step."""
    n = count(seconds)
    cylinders = int(rng.choice([1, 2, 4, 4, 6]))
    idle = log_uniform(rng, 9, 30)  # working cycles a second
    revs = np.exp(wander(rng, n, 1.5, rng.choice([0.01, 0.15])) + wander(rng, n, 20, 0.01))
    turn = (np.cumsum(idle * revs) / SAMPLE_RATE) % 1 * cylinders
    strength = np.exp(rng.normal(0, 0.25, cylinders))[np.minimum(turn.astype(int), cylinders - 1)]
    since = (turn % 1) / (idle * cylinders)  # seconds since the last firing
    puff = strength * np.exp(-since / rng.uniform(0.0015, 0.006))
    pipe = log_uniform(rng, 60, 160)
    orders = np.arange(1, 7)
    exhaust = peaks(pipe * orders, 30 + 15 * orders, orders ** -rng.uniform(0.4, 1.5))
    boom = shape(puff - puff.mean(), exhaust)
    intake = noise(rng, n, slope(rng.uniform(5, 10), rng.uniform(200, 1200))) * (puff + rng.uniform(0.1, 1))
    valves = shape(
        np.diff(puff, prepend=0) * np.exp(rng.normal(0, 0.3, n)),
        peaks([1200, 2600, 4800], [300, 700, 1500], rng.uniform(0.1, 1, 3)),
    )
    whirr = buzz(phase(idle * revs * rng.uniform(8, 30), n), rng.uniform(0.8, 0.95))
    mixed = boom / np.std(boom) + rng.uniform(0.05, 0.5) * intake / np.std(intake)
    return (
        mixed
        + log_uniform(rng, 0.05, 0.8) * valves / np.std(valves)
        + log_uniform(rng, 0.02, 0.3) * whirr / np.std(whirr)
    )


def drill(rng: Rng, seconds: float) -> Array:
    """Run an electric motor up and load it: shaft, gear and brush whine, with the chatter of the bit."""
    n = count(seconds)
    t = clock(n)
    shaft = log_uniform(rng, 150, 420)
    pull, load = rng.uniform(0.05, 0.3), rng.uniform(0, 0.35)
    speed = (1 - np.exp(-t / pull)) * (1 - load * np.clip(np.sin(2 * np.pi * t / rng.uniform(1, 5)), 0, 1))
    speed = np.maximum(speed, 0.05) * np.exp(wander(rng, n, 12, 0.012))
    angle = phase(shaft * speed, n)
    whine = np.zeros(n)
    for order in (1, 2, int(rng.integers(3, 7)), int(rng.integers(7, 12)), int(rng.integers(12, 24))):
        audible = shaft * order * speed < 0.45 * SAMPLE_RATE
        whine += rng.uniform(0.2, 1) * np.sin(order * angle + rng.uniform(0, 6)) * audible
    strokes = phase(rng.uniform(18, 60) * speed, n)
    chatter = np.exp(rng.uniform(0.5, 4) * (np.cos(strokes) - 1)) if rng.uniform() < 0.6 else np.ones(n)
    grit = noise(rng, n, band(rng.uniform(700, 2500), 7600, 1)) * chatter * speed
    return whine * speed + log_uniform(rng, 0.3, 2.5) * grit


def hammering(rng: Rng, seconds: float) -> Array:
    """Hit a board with a few knocks: damped wooden modes and a click, sometimes with the ring of a nail."""
    n = count(seconds)
    lowest = log_uniform(rng, 90, 380)
    modes = lowest * np.cumsum(np.concatenate([[1], rng.uniform(0.3, 1.1, 9)]))
    decays = rng.uniform(0.012, 0.045) * (modes / lowest) ** -rng.uniform(0.2, 0.7)
    darkness, corner = rng.uniform(3, 9), log_uniform(rng, 400, 2500)
    tilt, nail, thud = rng.uniform(0.3, 1.3), rng.uniform() < 0.15, log_uniform(rng, 0.006, 0.04)
    knocks = []
    times = rhythm(rng, seconds, log_uniform(rng, 0.12, 0.6), rng.uniform(0.02, 0.15))
    for _ in times:
        levels = (modes / lowest) ** -tilt * np.exp(rng.normal(0, 0.4, len(modes)))
        knock = ring(rng, count(0.4), modes, decays, levels)
        m = len(knock)  # above the counted modes there are so many that they are noise
        body = noise(rng, m, band(lowest, 8 * lowest, 1)) * np.exp(-clock(m) / thud)
        knock += rng.uniform(0.5, 2) * body + rng.uniform(0.5, 3) * rng.standard_normal(m) * np.exp(-clock(m) / 0.0015)
        if nail:
            knock += 0.4 * ring(rng, count(0.4), rng.uniform(1800, 6500, 4), [0.04] * 4, rng.uniform(0.2, 1, 4))
        knocks.append(shape(knock, slope(darkness, corner)))
    return place(n, knocks, times, np.exp(rng.normal(0, 0.25, len(times))))


def church_bell(rng: Rng, seconds: float) -> Array:
    """Toll cast bells by their partials (hum, prime, tierce, quint …), each a slowly beating pair."""
    n = count(seconds)
    partials = np.array([0.5, 1, 1.19, 1.5, 2, 2.51, 2.66, 3.01, 4.16, 5.43, 6.8, 8.2, 9.7])
    tower = log_uniform(rng, 180, 700)
    interval = log_uniform(rng, 0.25, 1.8)
    out = np.zeros(n)
    scale = rng.choice([1, 9 / 8, 5 / 4, 4 / 3, 3 / 2], int(rng.integers(1, 4)), replace=False)
    for note in scale:
        modes = np.repeat(tower * note * partials * np.exp(rng.normal(0, 0.006, 13)), 2)
        modes[1::2] += rng.uniform(0.3, 3, 13)
        decays = log_uniform(rng, 1, 3) * (modes / modes[0]) ** -rng.uniform(0.3, 0.8) * rng.uniform(0.7, 1.3, 26)
        levels = np.exp(rng.normal(0, 0.6, 26)) * (modes / modes[0]) ** rng.uniform(-0.6, 0.3)
        strike = ring(rng, n, modes, decays, levels)
        m = min(count(0.02), n)
        strike[:m] += noise(rng, m, band(1500, 7000)) * np.linspace(1, 0, m) ** 2 * rng.uniform(0.2, 1.5)
        times = rhythm(rng, seconds, interval * len(scale), 0.08)
        times = times + (rng.uniform(0, interval) if note != scale[0] else 0)
        out += place(n, [strike] * len(times), times, np.exp(rng.normal(0, 0.15, len(times))))
    return out


def clock_tick(rng: Rng, seconds: float) -> Array:
    """Tick and tock of an escapement: two or three tiny metal clicks a beat, to an exact pulse."""
    n = count(seconds)
    beat = rng.choice([1.0, 0.5, 0.4, 0.25, 0.2]) * rng.uniform(0.95, 1.05)
    case, snap = log_uniform(rng, 400, 2500), log_uniform(rng, 0.3, 4)
    beats = []
    for _ in range(2):
        modes = np.concatenate([log_uniform(rng, 1800, 7500, 6), [case, 1.6 * case]])
        decays = np.concatenate([log_uniform(rng, 0.0008, 0.008, 6), [0.006, 0.004]])
        click = ring(rng, count(0.05), modes, decays, rng.uniform(0.2, 1, 8))
        click += rng.standard_normal(len(click)) * np.exp(-clock(len(click)) / rng.uniform(0.0005, 0.004)) * snap
        pins = np.concatenate([[0], np.sort(rng.uniform(0.004, 0.04, int(rng.integers(0, 3))))])
        beats.append(place(count(0.1), [click] * len(pins), pins, rng.uniform(0.3, 1, len(pins))))
    times = np.arange(0, max(seconds - 0.02, 0.01), beat)
    ticks = place(n, [beats[i % 2] for i in range(len(times))], times, np.exp(rng.normal(0, 0.06, len(times))))
    hush = noise(rng, n, slope(rng.uniform(1, 9), rng.uniform(100, 3000)))
    return ticks + hush * np.abs(ticks).max() * log_uniform(rng, 0.0003, 0.02)


def helicopter(rng: Rng, seconds: float) -> Array:
    """Chop air: a thump a blade passage over rotor wash, with the whine of tail rotor and turbine."""
    n = count(seconds)
    t = clock(n)
    blades = log_uniform(rng, 9, 28)
    approach = rng.normal(0, 0.05) * np.tanh((t - seconds * rng.uniform(0, 1)) / 2)
    rate = blades * (1 - approach)
    passage = phase(rate, n)
    slap = np.exp(log_uniform(rng, 0.8, 20) * (np.cos(passage) - 1))
    slap *= 1 + rng.uniform(0, 0.4) * np.cos(passage / rng.choice([2, 3, 4]))
    wash = noise(rng, n, slope(rng.uniform(3, 12), log_uniform(rng, 60, 1500)))
    wash *= slap + log_uniform(rng, 0.03, 0.8)
    thump = noise(rng, n, band(rng.uniform(25, 60), rng.uniform(120, 500), 2)) * slap
    tail = buzz(passage * rng.uniform(4.3, 6.2), rng.uniform(0.7, 0.95)) * log_uniform(rng, 0.05, 4)
    turbine = np.sin(phase(log_uniform(rng, 1500, 6000) * (1 - approach), n)) * log_uniform(rng, 0.005, 0.05)
    return (wash + rng.uniform(0.5, 2.5) * thump + tail + turbine) * np.exp(wander(rng, n, 0.7, rng.uniform(0.1, 0.5)))


def alarm(rng: Rng, seconds: float) -> Array:
    """Wake someone: groups of square electronic beeps, or a clapper on the two cups of an alarm clock."""
    n = count(seconds)
    t = clock(n)
    if rng.uniform() < 0.25:
        cup = log_uniform(rng, 1300, 2800)
        modes = np.concatenate([cup * np.array([1, 1.52, 2.05, 2.74]), 1.07 * cup * np.array([1, 1.5, 2.1, 2.7])])
        stroke = ring(rng, count(0.5), modes, rng.uniform(0.03, 0.25, 8), rng.uniform(0.2, 1, 8))
        stroke[: count(0.003)] += rng.standard_normal(count(0.003)) * rng.uniform(0.2, 1)
        times = rhythm(rng, seconds, 1 / rng.uniform(12, 30), 0.05)
        return place(n, [stroke] * len(times), times, np.exp(rng.normal(0, 0.2, len(times))))
    pitch = log_uniform(rng, 900, 4200)
    beep, beeps, silence = log_uniform(rng, 0.03, 0.3), int(rng.integers(1, 6)), log_uniform(rng, 0.05, 0.7)
    spacing = beep * rng.uniform(1.3, 2.2)
    bar = beeps * spacing + silence
    inside = (t % bar) / spacing
    on = ((inside % 1) * spacing < beep) & (inside < beeps)
    second = rng.choice([1, 1, 1.25, 0.8]) ** (np.floor(inside) % 2)
    angle = phase(pitch * second, n)
    wave = sum(
        level * np.sin(k * angle) * (k * pitch * 1.25 < 7600)
        for k, level in ((1, 1), (2, rng.uniform(0, 0.5)), (3, rng.uniform(0, 0.7)), (5, rng.uniform(0, 0.4)))
    )
    keyed = lfilter([0.02], [1, -0.98], on.astype(float))
    return wave * keyed
