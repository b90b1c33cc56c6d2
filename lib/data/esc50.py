"""Fold 4 of ESC-50, which holds all fifty classes: only clips under CC0 or CC BY, split by original recording.

Eight clips a class in one fold are few, so the split is made within the fold, once and for all, in
``data_manifests/esc50_fold4.csv``: no recording serves two splits, and a class that has not a recording for each of
them is left out. Pretraining hears nothing of it: of ESC-10 it takes folds 1 to 3.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data.banks import RecordingBank
from lib.data.recordings import samples_sha256
from lib.errors import InputError
from lib.paths import MANIFESTS, audio_root

FOLDS = {"train": (1,), "val": (2,), "test": (3,)}
PLACES = ("esc50/audio", "esc50_fold4/audio", "ESC-50/audio", "ESC-50-master/audio")


@dataclass(eq=False)
class CheckedBank(RecordingBank):
    """A bank of recordings that holds each of them against the manifest when it is first read."""

    def render(self, source: str, seconds: float) -> np.ndarray:
        """Return an excerpt, as `RecordingBank` does; a wrong recording is an `InputError`."""
        file = source.rsplit(":", 1)[0]
        _check(self.folder / file)
        return super().render(source, seconds)


def esc50_bank() -> CheckedBank:
    """Return the bank of ESC-50's fold 4; its files may be WAV, as they come, or FLAC of the same samples.

    Raises
    ------
    InputError
        If the recordings are not there, or one is missing.
    """
    folder, table = _folder(), esc50_table()
    suffix = ".flac" if (folder / f"{table['file'].iloc[0]}.flac").is_file() else ".wav"
    table["file"] += suffix
    missing = [file for file in table["file"] if not (folder / file).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(table)} ESC-50 files are missing in '{folder}' (first: '{missing[0]}'); unpack "
            "the archive again."
        )
    return CheckedBank(table, folder, FOLDS, "esc50", ())


def esc50_table() -> pd.DataFrame:
    """Return the manifest in the columns of a `RecordingBank`; a fold is a split, a file has no suffix yet."""
    table = pd.read_csv(MANIFESTS / "esc50_fold4.csv", dtype={"recording": str})
    return table.assign(fold=table["split"].map({split: fold for split, (fold,) in FOLDS.items()}))


def _folder() -> Path:
    for place in PLACES:
        if (audio_root() / place).is_dir():
            return audio_root() / place
    raise InputError(
        f"The ESC-50 recordings are not in '{audio_root()}'; unpack https://github.com/karolpiczak/ESC-50 there as "
        "'ESC-50', or set UNMUTE_DATA to the folder that holds it (its licence is CC BY-NC, so `make data` leaves it)."
    )


@functools.lru_cache(maxsize=512)
def _check(path: Path) -> None:
    if samples_sha256(path) != _checksums()[path.stem]:
        raise InputError(f"'{path}' is not the recording of the manifest; unpack the archive again.")


@functools.cache
def _checksums() -> dict[str, str]:
    table = esc50_table()
    return dict(zip(table["file"], table["samples_sha256"], strict=True))
