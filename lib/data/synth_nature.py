"""Sounds of nature, of what lives and of the weather: one function a class, each a different physical idea.

Every function maps `(rng, seconds)` to raw samples at 16 kHz that start with the event; `lib.data.synth` adds
the recording and the level. What is drawn before the loops is one individual: this dog, this shower of rain.
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
    shape,
    slope,
    wander,
)

Rng = np.random.Generator


def dog_bark(rng: Rng, seconds: float) -> Array:
    """Send a voice with a rough, arched pitch through the formants of an opening jaw, bark after bark."""
    n = count(seconds)
    size = rng.uniform()  # 0 a small dog, 1 a large one
    pitch = log_uniform(rng, 0.75, 1.35) * 850 * (0.28**size)
    length = rng.uniform(0.07, 0.16) + 0.12 * size * rng.uniform()
    formants = np.array([900, 1700, 3000, 4600]) * (1.35 - 0.55 * size) * rng.uniform(0.85, 1.15, 4)
    roughness, breath = rng.uniform(0.02, 0.25), rng.uniform(0.1, 0.9)
    jaw = peaks(formants, formants * rng.uniform(0.15, 0.35), [1, rng.uniform(0.4, 1), rng.uniform(0.1, 0.5), 0.15])
    times = rhythm(rng, seconds, log_uniform(rng, 0.22, 0.9) + length, 0.25)
    barks = []
    for _ in times:
        m = count(length * rng.uniform(0.75, 1.3))
        u = np.linspace(0, 1, m)
        arch = 1 + rng.uniform(0.1, 0.5) * np.sin(np.pi * u ** rng.uniform(0.4, 0.9)) - rng.uniform(0.1, 0.5) * u
        shake = np.exp(wander(rng, m, 180, roughness))
        envelope = np.minimum(u / rng.uniform(0.05, 0.25), 1) * (1 - u) ** rng.uniform(0.6, 1.6)
        voice = buzz(phase(pitch * arch * shake, m), rng.uniform(0.7, 0.88)) * np.exp(wander(rng, m, 120, 0.3))
        hoarse = noise(rng, m, band(500, 6000, 1)) * np.std(voice) * breath
        barks.append(shape((voice + hoarse) * envelope, jaw))
    return place(n, barks, times, np.exp(rng.normal(0, 0.3, len(times))))


def rain(rng: Rng, seconds: float) -> Array:
    """Let thousands of drops fall, each an exponentially sized click, on far ground and a near surface."""
    n = count(seconds)
    hiss = noise(rng, n, band(log_uniform(rng, 60, 1500), log_uniform(rng, 2500, 14000), 0.7))
    roof = log_uniform(rng, 150, 3000)  # what the near drops drum on: leaves, wood, tin
    drumming = peaks(roof * np.array([1, 1.7, 2.9]), roof * rng.uniform(0.3, 1.5, 3), rng.uniform(0.2, 1, 3))
    out = hiss * log_uniform(rng, 0.1, 1.5)
    for density, low, high in (
        (log_uniform(rng, 100, 4000), 1500, 7000),
        (log_uniform(rng, 4, 150), 400, 3500),
    ):
        drops = np.zeros(n)
        landed = rng.integers(0, n, 1 + rng.poisson(density * n / SAMPLE_RATE))
        drops[landed] = rng.exponential(1, len(landed)) ** 1.5 * rng.choice([-1, 1], len(landed))
        centre, decay = log_uniform(rng, low, high), log_uniform(rng, 0.0001, 0.0008)
        radius = np.exp(-1 / decay / SAMPLE_RATE)
        body = lfilter([1, -1], [1, -2 * radius * np.cos(2 * np.pi * centre / SAMPLE_RATE), radius**2], drops)
        drummed = shape(body, drumming)
        for sound, loudest in ((body, 1.2), (drummed, 1.0)):
            out += sound / (np.std(sound) + 1e-9) * log_uniform(rng, 0.05, loudest)
    return out * np.exp(wander(rng, n, log_uniform(rng, 0.5, 4), rng.uniform(0.02, 0.35)))


def bird(rng: Rng, seconds: float) -> Array:
    """Sing a phrase of syllables, each a gliding whistle or trill drawn once for this bird and repeated."""
    n = count(seconds)
    centre = log_uniform(rng, 2200, 5600)
    templates = []
    for _ in range(int(rng.integers(1, 5))):
        m = count(log_uniform(rng, 0.03, 0.3))
        u = np.linspace(0, 1, m)
        glide = rng.normal(0, 0.5) * (u - 0.5) + rng.normal(0, 0.3) * np.sin(np.pi * u * rng.uniform(1, 4))
        trill = rng.choice([0, 0, 0.05, 0.15]) * np.sin(2 * np.pi * rng.uniform(18, 60) * clock(m))
        pitch = np.clip(centre * np.exp(rng.normal(0, 0.2) + glide + trill), 1200, 7400)
        angle = phase(pitch, m)
        second = rng.choice([0, 0.05, 0.3]) * (pitch < 3800)
        buzzing = 1 + rng.choice([0, 0, 0.8]) * np.sin(2 * np.pi * rng.uniform(40, 140) * clock(m))
        templates.append((np.sin(angle) + second * np.sin(2 * angle)) * buzzing * np.sin(np.pi * u) ** 0.7)
    song, order, times, time = [], rng.integers(0, len(templates), 400), [], 0.0
    pause, again = log_uniform(rng, 0.02, 0.35), rng.uniform(0.3, 0.9)
    for step in range(400):
        if time > max(seconds - 0.06, 0.01):
            break
        if rng.uniform() < again and step:
            order[step] = order[step - 1]
        song.append(templates[order[step]])
        times.append(time)
        time += len(song[-1]) / SAMPLE_RATE + pause * rng.uniform(0.6, 1.5) * (4 if rng.uniform() < 0.08 else 1)
    out = place(n, song, times, np.exp(rng.normal(0, 0.3, len(song))))
    leaves = noise(rng, n, slope(rng.uniform(3, 9), rng.uniform(200, 3000)))
    return out + leaves * np.std(out) * log_uniform(rng, 0.01, 0.3)


def footsteps(rng: Rng, seconds: float) -> Array:
    """Roll a foot from heel to toe over a floor: a thump and a crunch of grains, at a walking pace."""
    n = count(seconds)
    pace = rng.uniform(0.42, 0.8) if rng.uniform() < 0.85 else rng.uniform(0.25, 0.42)
    crunch = log_uniform(rng, 0.05, 4)  # wooden floor, pavement, gravel
    heel, floor = log_uniform(rng, 60, 250), log_uniform(rng, 400, 5000)
    width = floor * rng.uniform(0.5, 1.5)
    steps = []
    times = rhythm(rng, seconds, pace, 0.06)
    for _ in times:
        m = count(rng.uniform(0.12, 0.3))
        t = clock(m)
        toe = rng.uniform(0.05, 0.14)
        press = np.exp(-t / rng.uniform(0.01, 0.03)) + rng.uniform(0.2, 0.9) * np.exp(-(((t - toe) / 0.03) ** 2))
        thump = np.sin(phase(heel * (1 + np.exp(-t / 0.01)), m)) * np.exp(-t / rng.uniform(0.015, 0.05))
        scuff = noise(rng, m, peaks([floor, 2.2 * floor], [width, width], [1, 0.5])) * press
        grains = scuff * rng.exponential(1, m) ** 2 * (rng.uniform(0, 1, m) < 0.15) * 2
        click = noise(rng, m, band(1000, 6000)) * np.exp(-t / 0.003) * rng.uniform(0, 0.8)
        steps.append(rng.uniform(0.5, 1.5) * thump + 0.4 * scuff + crunch * grains + click)
    walk = place(n, steps, times, np.exp(rng.normal(0, 0.35, len(times))))
    return walk + noise(rng, n, slope(rng.uniform(1, 8), rng.uniform(100, 2000))) * np.std(walk) * log_uniform(
        rng, 0.003, 0.5
    )


def wind(rng: Rng, seconds: float) -> Array:
    """Blow gusts: turbulence whose upper bands open as the wind rises, and a whistle round an edge."""
    n = count(seconds)
    gust = np.exp(wander(rng, n, rng.uniform(0.7, 2.5), rng.uniform(0.2, 0.6)) + wander(rng, n, 8, 0.1))
    out = np.zeros(n)
    steep = rng.uniform(4, 11)
    for octave, low in enumerate((30, 90, 200, 420, 900, 1900, 3800)):
        opening = gust ** (0.8 + 0.35 * octave)
        out += noise(rng, n, band(low, 2.2 * low, 2)) * opening * 10 ** (-steep * octave / 20)
    for _ in range(rng.integers(0, 3)):
        edge = log_uniform(rng, 200, 1300) * gust ** rng.uniform(0.1, 0.4)
        howl = np.sin(phase(edge * np.exp(wander(rng, n, 40, 0.04)), n))
        out += howl * gust**1.5 * np.exp(wander(rng, n, 25, 0.5)) * log_uniform(rng, 0.05, 1)
    return out


def crickets(rng: Rng, seconds: float) -> Array:
    """Scrape toothed wings: a steady carrier keyed into pulses, pulses into chirps, from several insects."""
    n = count(seconds)
    t = clock(n)
    out = np.zeros(n)
    species, pulses = log_uniform(rng, 2600, 7400), log_uniform(rng, 18, 70)
    trilling, per_second, rasp = rng.uniform() < 0.3, rng.uniform(0.8, 4.5), log_uniform(rng, 0.05, 1)
    for insect in range(int(rng.integers(1, 5))):
        carrier = species * np.exp(rng.normal(0, 0.04))
        rate = pulses * np.exp(rng.normal(0, 0.05))
        stroke = (rate * t + (rng.uniform() if insect else 0)) % 1
        width = rng.uniform(0.4, 0.9)
        pulse = np.where(stroke < width, np.sin(np.pi * np.minimum(stroke / width, 1)), 0)
        chirp = (per_second * np.exp(rng.normal(0, 0.05)) * t + (rng.uniform() if insect else 0)) % 1
        calling = np.ones(n) if trilling else chirp < rng.uniform(0.3, 0.75)
        tone = np.sin(phase(carrier * (1 - 0.03 * stroke), n)) * (1 + rasp * rng.standard_normal(n))
        out += tone * pulse * calling * (1 if insect == 0 else log_uniform(rng, 0.1, 0.8))
    meadow = noise(rng, n, peaks([species], [rng.uniform(200, 1200)], [1]))
    night = noise(rng, n, slope(rng.uniform(0, 9), rng.uniform(100, 3000)))
    return out + np.std(out) * (log_uniform(rng, 0.02, 2) * meadow + log_uniform(rng, 0.01, 1) * night)


def frog(rng: Rng, seconds: float) -> Array:
    """Croak: a vocal sac rung by slow glottal clicks that speed up or slow down, or a chorus of peeps."""
    n = count(seconds)
    clicks, sac = log_uniform(rng, 25, 160), log_uniform(rng, 350, 1500)
    length = log_uniform(rng, 0.1, 0.8)
    change, damping, steep = rng.normal(0, 0.5), rng.uniform(60, 260), rng.uniform(1.3, 2.2)
    times = rhythm(rng, seconds, length + log_uniform(rng, 0.08, 0.9), rng.uniform(0.02, 0.25))
    formants = peaks(
        [sac, sac * rng.uniform(1.8, 2.6), sac * rng.uniform(3, 4.5)],
        [damping, 1.5 * damping, 400],
        [1, rng.uniform(0.2, 1), 0.25],
    )
    calls = []
    for _ in times:
        m = count(length * rng.uniform(0.8, 1.2))
        u = np.linspace(0, 1, m)
        rate = clicks * np.exp(change * (u - 0.5)) * np.exp(wander(rng, m, 30, 0.04))
        glottis = np.diff(np.floor(np.cumsum(rate) / SAMPLE_RATE), prepend=-1.0)
        glottis = glottis * np.exp(rng.normal(0, 0.3, m)) + 0.02 * rng.standard_normal(m)
        calls.append(shape(glottis * np.sin(np.pi * u**0.7) ** 0.5, lambda f: formants(f) ** steep))
    near = place(n, calls, times, np.exp(rng.normal(0, 0.25, len(times))))
    pond = noise(rng, n, peaks([sac, 2.5 * sac], [1.5 * sac, 4 * sac], [1, rng.uniform(0, 1)]))
    return near + pond * np.std(near) * log_uniform(rng, 0.01, 0.3)
