"""Recordings beside ESC-10: spoken digits and field recordings, split once and for all by their manifests.

Spoken digits (FSDD, ``data_manifests/spoken_digits.csv``): takes 0 to 4 of each digit and speaker are the official
test split, all others train. Field recordings (scikit-maad, ``data_manifests/field_recordings.csv``): 10 s every
quarter of an hour through one day, without labels. Neighbouring quarters share their wind and their birds, so the
split is by whole hours, spread over the day: 2, 6, 10, 14, 18 and 22 test, 3, 11 and 19 val, all others train.
Pretraining may use what train may use, and nothing else.
"""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from scipy.signal import butter, sosfiltfilt

from lib.audio import SAMPLE_RATE, read_audio
from lib.data.banks import ESC10_FOLDS, RecordingBank, check_split
from lib.errors import InputError
from lib.files import sha256
from lib.paths import MANIFESTS, audio_root

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_TAKES = tuple(range(5))
TRAIN_TAKES = tuple(range(5, 50))
DIGIT_TAKES = {"pretrain": TRAIN_TAKES, "train": TRAIN_TAKES, "test": TEST_TAKES}
DIGIT_LICENSES = ("CC-BY-SA-4.0",)
TEST_HOURS = (2, 6, 10, 14, 18, 22)
VAL_HOURS = (3, 11, 19)
RUMBLE_HZ = 50.0
DIGIT_SOURCE = "https://github.com/Jakobovski/free-spoken-digit-dataset/blob/26eb9aa/"


def digit_table() -> pd.DataFrame:
    """Return the manifest of the spoken digits in the columns of a `RecordingBank`; a fold is a take."""
    table = pd.read_csv(MANIFESTS / "spoken_digits.csv")
    return table.assign(fold=table["take"], recording=table["file"])


def digit_bank() -> RecordingBank:
    """Return the bank of spoken digits: takes 5 to 49 train and pretrain, 0 to 4 test; there is no val.

    Raises
    ------
    InputError
        If the recordings are not there, or one is missing or not that of the manifest.
    """
    folder, table = audio_root() / "fsdd", digit_table()
    _check_digits(folder)
    return RecordingBank(table, folder, DIGIT_TAKES, "digits", DIGIT_LICENSES)


@functools.lru_cache(maxsize=1)
def _check_digits(folder: Path) -> None:
    for row in digit_table().itertuples():
        path = folder / row.file
        _there(path, "spoken digits")
        if sha256(path) != row.sha256:
            raise _not_the_one(path)


@functools.cache
def field_recordings(split: str) -> tuple[str, ...]:
    """Return the names of the field recordings that `split` may use; no audio is touched.

    Raises
    ------
    InputError
        If the split is unknown.
    """
    check_split(split)
    table = pd.read_csv(MANIFESTS / "field_recordings.csv")
    return tuple(table["file"][table["split"] == ("train" if split == "pretrain" else split)])


def split_of_hour(hour: int) -> str:
    """Return the split of the field recordings made in an hour of the day (0 to 23)."""
    return "test" if hour in TEST_HOURS else "val" if hour in VAL_HOURS else "train"


@functools.lru_cache(maxsize=96)
def read_field_recording(file: str) -> np.ndarray:
    """Read one field recording as a mono waveform at 16 kHz, without what lies below 50 Hz.

    The recorder's offset and rumble hold nine tenths of the energy of a quiet recording; with them, its level would
    tell nothing of what is heard. The read samples are held against the manifest, so WAV and FLAC serve alike.

    Parameters
    ----------
    file : str
        A name of the manifest, ``….wav``; a ``….flac`` of the same samples is as good.

    Returns
    -------
    numpy.ndarray
        float32 ``(160000,)``.

    Raises
    ------
    InputError
        If the recording is unknown, not there, or not that of the manifest.
    """
    table = pd.read_csv(MANIFESTS / "field_recordings.csv", index_col="file")
    if file not in table.index:
        raise InputError(f"There is no field recording '{file}' in data_manifests/field_recordings.csv.")
    path = field_path(file)
    _there(path, "field recordings")
    if samples_sha256(path) != table.loc[file, "samples_sha256"]:
        raise _not_the_one(path)
    highpass = butter(4, RUMBLE_HZ, "highpass", fs=SAMPLE_RATE, output="sos")
    return sosfiltfilt(highpass, read_audio(path)).astype(np.float32)


def attributions() -> pd.DataFrame:
    """Return every recording that pretraining may use, with what its licence asks to be said.

    Returns
    -------
    pandas.DataFrame
        One row a file: ``set, file, license, author, source``. No audio is touched.
    """
    esc10 = RecordingBank(pd.read_csv(MANIFESTS / "esc10.csv", dtype={"recording": str}), Path(), ESC10_FOLDS)
    digits = RecordingBank(digit_table(), Path(), DIGIT_TAKES, "digits", DIGIT_LICENSES)
    field = pd.read_csv(MANIFESTS / "field_recordings.csv").assign(set="scikit-maad")
    spoken = digits.table.assign(
        set="FSDD",
        author="Z. Jackson and contributors; speaker " + digits.table["speaker"],
        source=DIGIT_SOURCE + digits.table["file"],
    )
    tables = [
        esc10.table.assign(set="ESC-10").loc[_may_pretrain(esc10)],
        spoken.loc[_may_pretrain(digits)],
        field.loc[field["file"].isin(field_recordings("pretrain"))],
    ]
    return pd.concat(tables, ignore_index=True)[["set", "file", "license", "author", "source"]]


def _may_pretrain(bank: RecordingBank) -> pd.Series:
    allowed = {file for label in bank.classes for file in bank.files(label, "pretrain")}
    return bank.table["file"].isin(allowed)


def field_path(file: str) -> Path:
    """Return where a field recording of the manifest lies: as WAV or, if that is not there, as FLAC."""
    path = audio_root() / "maad" / file
    flac = path.with_suffix(".flac")
    return flac if flac.is_file() and not path.is_file() else path


def samples_sha256(path: Path) -> str:
    """Return the SHA-256 of a recording's 16-bit samples, whatever lossless container holds them."""
    try:
        samples, _ = soundfile.read(path, dtype="int16")
    except (soundfile.LibsndfileError, RuntimeError):
        return ""
    return hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()


def _there(path: Path, what: str) -> None:
    if not path.is_file():
        raise InputError(
            f"'{path.name}' of the {what} is not at '{path.parent}'; fetch it with `make data`, or set UNMUTE_DATA "
            "to the folder of the audio."
        )


def _not_the_one(path: Path) -> InputError:
    return InputError(f"'{path}' is not the recording of the manifest; run `make data` again.")
