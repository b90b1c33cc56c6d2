"""Event banks: where the sounds of a soundscape come from.

A bank knows its classes. Given a class and a split it *chooses* a source (which costs nothing, so that the labels
of a whole dataset can be drawn without any audio) and *renders* an excerpt of it. No source is ever chosen in
two of the splits train, val and test.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lib.audio import SAMPLE_RATE, read_audio
from lib.data.synth import FIRST_CLASSES, synthesize
from lib.errors import InputError, unknown_name
from lib.files import sha256
from lib.paths import MANIFESTS, audio_root

SPLITS = ("pretrain", "train", "val", "test")
ESC10_FOLDS = {"pretrain": (1, 2, 3), "train": (1, 2, 3), "val": (4,), "test": (5,)}
ESC10_PRETRAIN_LICENSES = ("CC0-1.0", "CC-BY-3.0")


def check_split(split: str) -> None:
    """Raise `InputError` unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)


@dataclass(frozen=True)
class SyntheticBank:
    """Endless parametric sounds; a source is a class and a generator seed.

    The split is the remainder of the seed by the number of splits, so no seed serves two splits. Without `classes`
    it is the bank of the first sixteen, on which encoders were pretrained.
    """

    classes: tuple[str, ...] = FIRST_CLASSES
    name: str = "synthetic"

    def choose(self, label: str, split: str, rng: np.random.Generator) -> str:
        """Return the id of a source of class `label`, reserved to `split`."""
        check_split(split)
        if label not in self.classes:
            raise unknown_name("class", label, self.classes)
        seed = int(rng.integers(2**40)) * len(SPLITS) + SPLITS.index(split)
        return f"{label}:{seed}"

    def render(self, source: str, seconds: float) -> np.ndarray:
        """Return the sound of `source`, float32 ``(round(seconds · 16000),)``."""
        label, seed = source.rsplit(":", 1)
        return synthesize(label, int(seed), seconds)


@dataclass(eq=False)
class RecordingBank:
    """Labelled recordings in a folder; a source is a recording and a random excerpt of it.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a file: ``file, label, fold, recording, license, sha256``.
    folder : Path
        Where the files lie.
    folds : dict
        Split → folds whose recordings it may use.
    """

    table: pd.DataFrame = field(repr=False)
    folder: Path
    folds: dict[str, tuple[int, ...]]
    name: str = "esc10"
    pretrain_licenses: tuple[str, ...] = ESC10_PRETRAIN_LICENSES

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the table."""
        return tuple(dict.fromkeys(self.table["label"]))

    @functools.cached_property
    def _files(self) -> dict[tuple[str, str], list[str]]:
        """Map (class, split) to files; looked up for every event, so it is made once."""
        found: dict[tuple[str, str], list[str]] = {}
        for row in self.table.itertuples():
            for split, folds in self.folds.items():
                if row.fold in folds and (split != "pretrain" or row.license in self.pretrain_licenses):
                    found.setdefault((row.label, split), []).append(row.file)
        return found

    @functools.cached_property
    def _recordings(self) -> dict[str, str]:
        """Map a file to its original recording."""
        return dict(zip(self.table["file"], self.table["recording"].astype(str), strict=True))

    def files(self, label: str, split: str) -> Sequence[str]:
        """Return the files of class `label` that `split` may use."""
        check_split(split)
        files = self._files.get((label, split), [])
        if not files:
            raise InputError(
                f"The bank '{self.name}' has no clip of class '{label}' for split '{split}'; "
                f"its classes are {', '.join(self.classes)}."
            )
        return files

    def choose(self, label: str, split: str, rng: np.random.Generator) -> str:
        """Return the id of a source of class `label`: a file, and a number that fixes the excerpt."""
        files = self.files(label, split)
        return f"{files[int(rng.integers(len(files)))]}:{int(rng.integers(2**31))}"

    def recording(self, source: str) -> str:
        """Return the original recording that `source` was cut from; takes of one recording share it."""
        return self._recordings[source.rsplit(":", 1)[0]]

    def render(self, source: str, seconds: float) -> np.ndarray:
        """Return an excerpt with sound in it, float32, at most `seconds` long."""
        file, number = source.rsplit(":", 1)
        return loud_excerpt(_read_cached(self.folder / file), seconds, np.random.default_rng(int(number)))


@functools.lru_cache(maxsize=512)
def _read_cached(path: Path) -> np.ndarray:
    return read_audio(path)


def loud_excerpt(waveform: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Cut `seconds` out of a recording, at a random place whose energy is at least a quarter of the best one's."""
    hop, length = SAMPLE_RATE // 20, round(seconds * SAMPLE_RATE)
    if len(waveform) <= length:
        return _trim(waveform)
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    starts = np.arange(0, len(waveform) - length + 1, hop)
    window = energy[starts + length] - energy[starts]
    loud = starts[window >= 0.25 * window.max()]
    start = int(loud[int(rng.integers(len(loud)))])
    return _trim(waveform[start : start + length])


def _trim(waveform: np.ndarray, floor_db: float = -50.0) -> np.ndarray:
    """Drop the quiet ends, so that onset and offset say where the sound is."""
    hop = SAMPLE_RATE // 50
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)  # (frames, hop)
    level = np.sqrt(np.square(frames).mean(axis=1))
    loud = np.flatnonzero(level > level.max(initial=0.0) * 10 ** (floor_db / 20))
    if len(loud) == 0:
        return waveform
    return waveform[loud[0] * hop : (loud[-1] + 1) * hop]


def esc10_bank() -> RecordingBank:
    """Return the bank of ESC-10: folds 1–3 train (and pretrain, without Sampling+ clips), 4 val, 5 test.

    Raises
    ------
    InputError
        If the recordings are not there, or one is missing or not that of the manifest.
    """
    folder = audio_root() / "esc10"
    table = pd.read_csv(MANIFESTS / "esc10.csv", dtype={"recording": str})
    if not folder.is_dir():
        raise InputError(
            f"The ESC-10 recordings are not at '{folder}'; fetch them with `make data`, or set UNMUTE_DATA to "
            "the folder that holds 'esc10'."
        )
    _check_recordings(folder)
    return RecordingBank(table, folder, ESC10_FOLDS)


@functools.lru_cache(maxsize=1)
def _check_recordings(folder: Path) -> None:
    """Hold every recording against the manifest, once a process: a wrong one would change results unnoticed."""
    table = pd.read_csv(MANIFESTS / "esc10.csv")
    missing = [file for file in table["file"] if not (folder / file).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(table)} ESC-10 files are missing in '{folder}' (first: '{missing[0]}'); "
            "run `make data` again."
        )
    for file, checksum in zip(table["file"], table["sha256"], strict=True):
        if sha256(folder / file) != checksum:
            raise InputError(f"'{file}' in '{folder}' is not the recording of the manifest; run `make data` again.")
