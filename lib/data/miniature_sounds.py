"""What the miniatures' writers share: which classes they use, which clips hold them, and how a clip sounds.

A class is one sound of the synthetic bank, so that a head can learn it; every clip draws another individual of it.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from lib.audio import SAMPLE_RATE
from lib.data.mixer import Event, coloured_noise
from lib.data.synth import LONGEST, SHORTEST, SOUNDS, synthesize
from lib.files import atomic

NOISE_LEVEL = 0.01
LOUDNESS = 0.5
MORE = 0.3  # probability of each further class in a multi-label clip
FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_24"), ".ogg": ("OGG", "VORBIS")}


def used_classes(classes: Sequence[str], count: int) -> list[str]:
    """Return `count` classes, spread over the list; all where there are no more."""
    places = np.unique(np.linspace(0, len(classes) - 1, min(count, len(classes))).round().astype(int))
    return [classes[place] for place in places]


def label_sets(used: Sequence[str], clips: int, rng: np.random.Generator, single: bool = False) -> list[tuple]:
    """Return the labels of each clip: every class in turn, and in multi-label clips further ones by chance."""
    sets = []
    for clip in range(clips):
        turn = used[clip % len(used)]
        others = [] if single else [label for label in used if label != turn and rng.random() < MORE]
        sets.append((turn, *others))
    return sets


def sound_of(label: str, classes: Sequence[str]) -> str:
    """Return the sound of the bank that stands for a class."""
    names = list(SOUNDS)
    return names[list(classes).index(label) % len(names)]


def soundscape(
    labels: Sequence[str], classes: Sequence[str], seconds: float, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[Event, ...]]:
    """Return the audio of a clip at 16 kHz, float32, and its events in order of onset, times rounded to 1 ms."""
    audio = NOISE_LEVEL * coloured_noise(round(seconds * SAMPLE_RATE), rng, (0.5, 1.5))
    events = []
    for label in labels:
        length = round(float(np.clip(rng.uniform(0.3, 0.6) * seconds, SHORTEST, min(LONGEST, seconds))), 3)
        onset = round(float(rng.uniform(0.0, seconds - length)), 3)
        sound = synthesize(sound_of(label, classes), int(rng.integers(1000)), length)
        start = round(onset * SAMPLE_RATE)
        sound = LOUDNESS * sound[: len(audio) - start]
        audio[start : start + len(sound)] += sound
        level = 20 * np.log10(np.sqrt(np.mean(np.square(sound))) / NOISE_LEVEL)
        events.append(Event(label, f"{rng.integers(10**5)}", onset, round(onset + length, 3), float(level)))
    audio *= 0.9 / max(0.9, np.abs(audio).max())
    return audio.astype(np.float32), tuple(sorted(events, key=lambda event: event.onset))


def encoded(audio: np.ndarray, rate: int, suffix: str) -> bytes:
    """Return audio at 16 kHz as the bytes of a file of another rate: ".wav", ".flac" or ".ogg"."""
    samples = audio if rate == SAMPLE_RATE else soxr.resample(audio, SAMPLE_RATE, rate)
    file, (container, subtype) = io.BytesIO(), FORMATS[suffix]
    soundfile.write(file, np.clip(samples, -1, 1), rate, subtype, format=container)
    return file.getvalue()


def write_audio(path: Path, audio: np.ndarray, rate: int) -> None:
    """Write audio at 16 kHz as a file of the official rate, its format by its suffix."""
    with atomic(path) as temporary:
        temporary.write_bytes(encoded(audio, rate, path.suffix))


def write_parquet(path: Path, columns: dict[str, list], audio: list[tuple[str, bytes]], features: dict) -> None:
    """Write a hub's Parquet file: columns, the column "audio" of names and bytes, two row groups, its own metadata.

    Parameters
    ----------
    path : Path
        The file.
    columns : dict
        Column → values.
    audio : list of (str, bytes)
        Name and content of each row's audio file.
    features : dict
        What the hub's library keeps of the columns, such as the names of classes that are kept as numbers.
    """
    import pyarrow.parquet

    content = [{"bytes": data, "path": name} for name, data in audio]
    table = pyarrow.table({**columns, "audio": content})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with atomic(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, row_group_size=max(1, -(-len(audio) // 2)))
