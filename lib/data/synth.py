"""The synthetic event bank: a label and a seed name one sound, made on the spot.

Because every event is computed, its onset, its length and its label are known exactly, which no recording
allows; this is what lets localisation be measured.
"""

import zlib
from collections.abc import Callable

import numpy as np

from lib.data import synth_animals, synth_home, synth_nature, synth_things, synth_voices, synth_world
from lib.data.synth_dsp import clock, count, recorded
from lib.errors import InputError, unknown_name

SOUNDS: dict[str, Callable[[np.random.Generator, float], np.ndarray]] = {
    "siren": synth_things.siren,
    "car_horn": synth_things.car_horn,
    "dog_bark": synth_nature.dog_bark,
    "engine": synth_things.engine,
    "drill": synth_things.drill,
    "hammering": synth_things.hammering,
    "rain": synth_nature.rain,
    "bird": synth_nature.bird,
    "church_bell": synth_things.church_bell,
    "footsteps": synth_nature.footsteps,
    "clock_tick": synth_things.clock_tick,
    "wind": synth_nature.wind,
    "crickets": synth_nature.crickets,
    "frog": synth_nature.frog,
    "helicopter": synth_things.helicopter,
    "alarm": synth_things.alarm,
    "cat": synth_voices.cat,
    "cow": synth_voices.cow,
    "sheep": synth_voices.sheep,
    "rooster": synth_voices.rooster,
    "crow": synth_voices.crow,
    "baby_cry": synth_voices.baby_cry,
    "laughter": synth_voices.laughter,
    "speech": synth_voices.speech,
    "owl": synth_animals.owl,
    "dove": synth_animals.dove,
    "cuckoo": synth_animals.cuckoo,
    "warbler": synth_animals.warbler,
    "sparrow": synth_animals.sparrow,
    "woodpecker": synth_animals.woodpecker,
    "bee": synth_animals.bee,
    "cicada": synth_animals.cicada,
    "dolphin": synth_animals.dolphin,
    "bat": synth_animals.bat,
    "telephone": synth_home.telephone,
    "door_knock": synth_home.door_knock,
    "door_creak": synth_home.door_creak,
    "glass_break": synth_home.glass_break,
    "keyboard_typing": synth_home.keyboard_typing,
    "water_drops": synth_home.water_drops,
    "vacuum_cleaner": synth_home.vacuum_cleaner,
    "sawing": synth_home.sawing,
    "train_horn": synth_world.train_horn,
    "airplane": synth_world.airplane,
    "thunder": synth_world.thunder,
    "fireworks": synth_world.fireworks,
    "crackling_fire": synth_world.crackling_fire,
    "sea_waves": synth_world.sea_waves,
    "clapping": synth_world.clapping,
    "guitar": synth_world.guitar,
}
FIRST_CLASSES = (  # the bank as it was first frozen: what pretraining, the lesson and `soundscapes` draw from
    "siren",
    "car_horn",
    "dog_bark",
    "engine",
    "drill",
    "hammering",
    "rain",
    "bird",
    "church_bell",
    "footsteps",
    "clock_tick",
    "wind",
    "crickets",
    "frog",
    "helicopter",
    "alarm",
)
ANIMALS = (
    "dog_bark",
    "bird",
    "crickets",
    "frog",
    "cat",
    "cow",
    "sheep",
    "rooster",
    "crow",
    "owl",
    "dove",
    "cuckoo",
    "warbler",
    "sparrow",
    "woodpecker",
    "bee",
    "cicada",
    "dolphin",
    "bat",
)
SHORTEST, LONGEST = 0.1, 10.0  # seconds


def synthesize(label: str, seed: int, seconds: float) -> np.ndarray:
    """Make one event of the bank.

    Parameters
    ----------
    label : str
        A class of `SOUNDS`.
    seed : int
        Which individual of the class: everything that varies is drawn from it. At least 0.
    seconds : float
        Length of the event, from 0.1 to 10 s.

    Returns
    -------
    numpy.ndarray
        float32 mono samples in [-1, 1] at 16 kHz, shape `(round(seconds * 16000),)`, never silent. The event
        starts with the first sample. The same arguments give the same samples.

    Raises
    ------
    InputError
        For a label that is not in the bank, a negative or fractional seed, or a length outside 0.1–10 s.
    """
    if label not in SOUNDS:
        raise unknown_name("synthetic sound", label, list(SOUNDS))
    if int(seed) != seed or seed < 0:
        raise InputError(f"The seed of a synthetic '{label}' is {seed}; it must be a whole number of at least 0.")
    if not SHORTEST <= seconds <= LONGEST:
        raise InputError(
            f"A synthetic '{label}' of {seconds} s was asked for; an event lasts {SHORTEST} to {LONGEST:g} s."
        )
    rng = np.random.default_rng([zlib.crc32(label.encode()), int(seed)])
    samples = recorded(rng, SOUNDS[label](rng, seconds))
    n, t = count(seconds), clock(count(seconds))
    samples = samples * np.clip(t / 0.001, 0, 1) * np.clip((t[-1] - t) / 0.01, 0, 1)  # no click at the edges
    peak = np.exp(rng.uniform(np.log(0.3), 0))
    return (samples[:n] * peak / np.abs(samples).max()).astype(np.float32)
