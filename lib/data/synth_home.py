"""Sounds of a house: bells, knocks, hinges, keys, drops and motors, one function a class.

Every function maps `(rng, seconds)` to raw samples at 16 kHz that start with the event; `lib.data.synth` adds
the recording and the level. What is drawn before the loops is one individual: this telephone, this door.
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
    wander,
)

Rng = np.random.Generator


def telephone(rng: Rng, seconds: float) -> Array:
    """Ring and wait, ring and wait: two gongs under one clapper, or two notes that warble fast, or a short tune."""
    n = count(seconds)
    t = clock(n)
    ringing, wait = log_uniform(rng, 0.4, 2), log_uniform(rng, 0.3, 2.5)
    double = rng.uniform() < 0.3  # ring-ring, as in Britain
    cycle = t % (ringing + wait)
    on = (cycle < ringing) & ~(double & (np.abs(cycle / ringing - 0.5) < 0.12))
    kind = rng.choice(["gongs", "warble", "tune"], p=[0.5, 0.35, 0.15])
    if kind == "gongs":
        gong, rate = log_uniform(rng, 700, 1800), rng.uniform(18, 28)
        strokes = []
        for interval in (1, rng.uniform(1.12, 1.3)):
            modes = gong * interval * np.array([1, 1.98, 2.7, 3.6, 4.9])
            strokes.append(ring(rng, count(0.9), modes, log_uniform(rng, 0.1, 0.5, 5), rng.uniform(0.2, 1, 5)))
        times = np.arange(0, seconds, 1 / rate)
        times = times[on[np.minimum((times * SAMPLE_RATE).astype(int), n - 1)]]
        levels = np.exp(rng.normal(0, 0.15, len(times)))
        return place(n, [strokes[i % 2] for i in range(len(times))], times, levels)
    note = log_uniform(rng, 420, 2200)
    if kind == "warble":
        steps, rate = note * np.array([1, rng.uniform(1.1, 1.6)]), rng.uniform(9, 28)
    else:
        steps, rate = note * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 12], int(rng.integers(3, 8))) / 12), rng.uniform(3, 9)
    pitch = steps[(cycle * rate).astype(int) % len(steps)]
    angle = phase(pitch, n)
    wave = sum(rng.uniform(0, 1) ** 2 * np.sin(k * angle) * (k * pitch < 7600) for k in (2, 3, 4, 5)) + np.sin(angle)
    if kind == "tune":
        wave = wave * np.exp(-((cycle * rate) % 1) * rng.uniform(0, 4))
    return wave * lfilter([0.01], [1, -0.99], on.astype(float))


def door_knock(rng: Rng, seconds: float) -> Array:
    """Knock with the knuckles two to six times on a hollow door, wait for an answer, and knock again."""
    n = count(seconds)
    panel = log_uniform(rng, 75, 260)
    modes = panel * np.cumsum(np.concatenate([[1], rng.uniform(0.25, 0.8, 7)]))
    decays = rng.uniform(0.02, 0.07) * (modes / panel) ** -rng.uniform(0.4, 0.9)
    tilt, dark = rng.uniform(0.8, 2), slope(rng.uniform(6, 15), log_uniform(rng, 300, 1500))
    knuckle, soft = log_uniform(rng, 0.2, 2), rng.uniform(0.002, 0.008)
    group, pace, wait = int(rng.integers(2, 7)), rng.uniform(2.6, 8), log_uniform(rng, 0.5, 2.5)
    starts = np.arange(200) / pace * np.exp(rng.normal(0, 0.02)) + np.arange(200) // group * wait
    starts = starts[starts < max(seconds - 0.05, 1e-6)]
    knocks = []
    for _ in starts:
        levels = (modes / panel) ** -tilt * np.exp(rng.normal(0, 0.3, len(modes)))
        knock = ring(rng, count(0.35), modes, decays, levels)
        m = len(knock)
        knock += knuckle * noise(rng, m, band(panel, 10 * panel, 1)) * np.exp(-clock(m) / soft)
        knocks.append(shape(knock, dark))
    accent = np.where(np.arange(len(starts)) % group == 0, 1.2, 1.0)
    return place(n, knocks, starts, accent * np.exp(rng.normal(0, 0.15, len(starts))))


def door_creak(rng: Rng, seconds: float) -> Array:
    """Turn a dry hinge: it sticks and slips at a rate that glides with the door, and the wood sings to each slip."""
    n = count(seconds)
    swing = log_uniform(rng, 0.6, 3)  # seconds from one stop of the door to the next
    slow = np.exp(wander(rng, n, 1 / swing, rng.uniform(0.4, 0.9)) + wander(rng, n, 9, rng.uniform(0.05, 0.25)))
    rate = np.clip(log_uniform(rng, 30, 220) * slow, 10, 700)
    slips = np.diff(np.floor(np.cumsum(rate) / SAMPLE_RATE), prepend=-1.0)
    slips *= np.exp(rng.normal(0, rng.uniform(0.05, 0.35), n))
    low = log_uniform(rng, 400, 1800)
    centres = low * np.cumsum(np.concatenate([[1], rng.uniform(0.3, 1.1, 5)]))
    wood = peaks(centres, centres * rng.uniform(0.04, 0.3), rng.uniform(0.2, 1, 6))
    moving = np.clip(0.7 + wander(rng, n, 1.5 / swing, 0.6), 0.02, 1)
    moving[: count(0.15)] = np.maximum(moving[: count(0.15)], 0.5)
    creak = shape(slips * np.sqrt(1 / rate), wood) * moving
    scrape = noise(rng, n, band(low, 6000, 1)) * moving * np.std(creak) * log_uniform(rng, 0.01, 0.2)
    return creak + scrape


def glass_break(rng: Rng, seconds: float) -> Array:
    """Shatter a pane: a crash, then shards that ring at several kilohertz and fall, fewer and fewer; then another."""
    n = count(seconds)
    pane = log_uniform(rng, 1500, 4200)
    shards = []
    for _ in range(14):
        modes = pane * log_uniform(rng, 0.7, 3, 5)
        decays = log_uniform(rng, 0.004, 0.07, 5)
        tinkle = ring(rng, count(0.3), modes, decays, rng.uniform(0.2, 1, 5))
        shards.append(tinkle + 0.5 * rng.standard_normal(len(tinkle)) * np.exp(-clock(len(tinkle)) / 0.001))
    pieces, fall = int(log_uniform(rng, 15, 120)), log_uniform(rng, 0.12, 0.8)
    crash, thick = log_uniform(rng, 0.02, 0.12), band(log_uniform(rng, 400, 2000), 7500, 1)
    times = rhythm(rng, seconds, log_uniform(rng, 1.2, 4), 0.3)
    breaks = []
    for _ in times:
        m = count(min(seconds, 6 * fall))
        out = noise(rng, m, thick) * np.exp(-clock(m) / crash) * rng.uniform(0.5, 2)
        when = np.sort(rng.exponential(fall, pieces)) * rng.uniform(0.5, 1)
        which = rng.integers(0, len(shards), pieces)
        out += place(m, [shards[i] for i in which], when, rng.exponential(0.7, pieces) * np.exp(-when / (2 * fall)))
        breaks.append(out)
    return place(n, breaks, times, np.exp(rng.normal(0, 0.3, len(times))) * np.where(times > 0, 0.7, 1))


def keyboard_typing(rng: Rng, seconds: float) -> Array:
    """Type in bursts: each key clacks going down and clicks softer coming up, and the desk answers low."""
    n = count(seconds)
    rate, hold, thock = rng.uniform(4, 12), rng.uniform(0.05, 0.12), log_uniform(rng, 0.1, 2)
    plastic, desk = log_uniform(rng, 900, 4500), log_uniform(rng, 110, 420)
    snap, sharp = rng.uniform(0.001, 0.006), rng.uniform(1200, 3500)
    keys = []
    for _ in range(8):
        modes = np.append(plastic * rng.uniform(0.7, 2.2, 5), desk * rng.uniform(0.85, 1.2))
        down = ring(rng, count(0.06), modes, [*rng.uniform(0.002, 0.01, 5), 0.012], [*rng.uniform(0.2, 1, 5), thock])
        m = len(down)
        down += noise(rng, m, band(sharp, 7600, 1)) * np.exp(-clock(m) / snap) * rng.uniform(0.3, 1.5)
        up = np.roll(down, 3) * rng.uniform(0.15, 0.5)
        keys.append(place(count(0.3), [down, up], [0, hold * rng.uniform(0.8, 1.3)], [1, 1]))
    times = rhythm(rng, seconds, 1 / rate, rng.uniform(0.2, 0.5))
    pauses = rng.exponential(log_uniform(rng, 0.1, 0.6), len(times)) * (rng.uniform(size=len(times)) < 0.15)
    times = times + np.concatenate([[0], np.cumsum(pauses)[:-1]])
    which = rng.integers(0, len(keys), len(times))
    typed = place(n, [keys[i] for i in which], times, np.exp(rng.normal(0, 0.3, len(times))))
    room = noise(rng, n, slope(rng.uniform(3, 9), rng.uniform(100, 1500))) * np.abs(typed).max()
    return typed + room * log_uniform(rng, 0.0005, 0.02)


def water_drops(rng: Rng, seconds: float) -> Array:
    """Drip into water: each drop closes a bubble that sings a short rising note, now and then with smaller ones."""
    n = count(seconds)
    bubble, rising = log_uniform(rng, 450, 2600), rng.uniform(0.05, 0.9)
    decay, spread = log_uniform(rng, 0.008, 0.05), rng.uniform(0.03, 0.4)
    splash, children = log_uniform(rng, 0.02, 0.5), rng.uniform(0, 0.8)
    times = rhythm(rng, seconds, log_uniform(rng, 0.12, 1.2), rng.uniform(0.02, 0.5))
    drops = []
    for _ in times:
        pitch = np.clip(bubble * np.exp(rng.normal(0, spread)), 300, 5000)
        parts, starts, levels = [], [0.0], [1.0]
        while rng.uniform() < children and len(starts) < 5:
            starts.append(rng.uniform(0.02, 0.15))
            levels.append(rng.uniform(0.1, 0.6))
        for number in range(len(starts)):
            small = 1 if number == 0 else rng.uniform(1.2, 2.2)
            m = count(8 * decay / small)
            t = clock(m)
            sweep = np.minimum(small * pitch * np.exp(rising * t / (3 * decay)), 7000)
            hit = noise(rng, m, band(1500, 7500, 1)) * np.exp(-t / 0.002) * splash
            parts.append(np.sin(phase(sweep, m)) * np.exp(-t * small / decay) * np.minimum(t / 0.001, 1) + hit)
        drops.append(place(count(8 * decay + 0.16), parts, starts, levels))
    dripping = place(n, drops, times, np.exp(rng.normal(0, 0.35, len(times))))
    room = noise(rng, n, slope(rng.uniform(3, 9), rng.uniform(200, 2500)))
    return dripping + room * np.std(dripping) * log_uniform(rng, 0.01, 0.3)


def vacuum_cleaner(rng: Rng, seconds: float) -> Array:
    """Run a fast motor with its whine, suck air through a hose, and push the nozzle to and fro."""
    n = count(seconds)
    motor, stroke = log_uniform(rng, 140, 650), rng.uniform(0.25, 1.3)
    push = np.sin(phase(stroke * np.exp(wander(rng, n, 1, 0.2)), n) + rng.uniform(0, 6)) * rng.uniform(0, 1)
    turn = phase(motor * (1 + 0.02 * push + wander(rng, n, 4, 0.003)), n)
    whine = np.zeros(n)
    for order in (1, 2, 3, int(rng.integers(4, 8)), int(rng.integers(8, 14))):
        whine += rng.uniform(0.1, 1) * order**-0.4 * np.sin(order * turn + rng.uniform(0, 6)) * (order * motor < 7600)
    hose = log_uniform(rng, 220, 900)
    orders = np.arange(1, 6)
    tube = peaks(hose * orders, hose * rng.uniform(0.2, 0.7, 5), rng.uniform(0.2, 1, 5))
    air = noise(rng, n, band(log_uniform(rng, 150, 700), log_uniform(rng, 1500, 7000), 0.7))
    rush = noise(rng, n, lambda f: tube(f) * slope(3, 2000)(f)) * (1 + 0.5 * push)
    bristles = noise(rng, n, band(log_uniform(rng, 1200, 3500), 7600, 1)) * np.maximum(push, 0)
    run_up = 1 - 0.6 * np.exp(-clock(n) / 0.15)
    whine *= log_uniform(rng, 0.1, 1.5) / (np.std(whine) + 1e-9)
    return (whine + air * log_uniform(rng, 0.3, 1.5) + rush + bristles * rng.uniform(0, 0.8)) * run_up


def sawing(rng: Rng, seconds: float) -> Array:
    """Draw a saw to and fro through a board: teeth that rasp fast in mid-stroke, forth louder than back."""
    n = count(seconds)
    strokes = log_uniform(rng, 0.8, 3.2)
    angle = phase(strokes * np.exp(wander(rng, n, 2, 0.08)), n) / 2
    speed = np.abs(np.sin(angle + 0.25))
    forth = np.sin(angle + 0.25) > 0
    weak, teeth = rng.uniform(0.15, 0.9), log_uniform(rng, 120, 600)
    bite = buzz(phase(teeth * (0.1 + speed), n), rng.uniform(0.3, 0.8))
    board = log_uniform(rng, 350, 1600)
    centres = board * np.array([1, 2.1, 3.4, 5.3]) * rng.uniform(0.9, 1.1, 4)
    wood = peaks(centres, centres * rng.uniform(0.2, 0.7), [1, *rng.uniform(0.3, 1.4, 3)])
    dust = noise(rng, n, band(log_uniform(rng, 500, 2200), 7500, 1))
    rasp = dust * (1 + rng.uniform(0.5, 3) * bite / (np.std(bite) + 1e-9)) + bite * log_uniform(rng, 0.5, 4)
    return shape(rasp, wood) * speed ** rng.uniform(0.8, 2) * np.where(forth, 1, weak)
