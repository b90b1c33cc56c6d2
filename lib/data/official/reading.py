"""The audio of a record: of a file, of a piece of it, or of bytes inside a tar or Parquet file, as 16 kHz mono."""

import functools
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from lib.audio import SAMPLE_RATE, fit_length, read_audio
from lib.data.official import Record
from lib.errors import InputError

STREAMED = 2**31 - 2**16  # bytes; who writes a WAV file without knowing its length leaves such a number there
QUIETEST = 2.0**-15  # one step of 16 bits, of full scale


def read_clip(record: Record, seconds: float, dataset: str) -> np.ndarray:
    """Return the audio of a clip, padded with zeros or cropped at its end to `seconds`.

    A clip of digital silence (AudioSet has a class of them) gets noise of one step of 16 bits, which no filter bank
    tells from silence, because the library takes all zeros for a fault.

    Returns
    -------
    numpy.ndarray
        float32 ``(samples,)`` at 16 kHz.

    Raises
    ------
    InputError
        If it cannot be used, naming the set, the clip and the file.
    """
    try:
        waveform = read_waveform(record)
    except InputError as error:
        raise InputError(f"Clip '{record.id}' of '{dataset}' cannot be used: {error}") from error
    waveform = fit_length(waveform, round(seconds * SAMPLE_RATE))
    if not waveform.any():
        noise = np.random.default_rng(zlib.crc32(record.id.encode())).uniform(-1, 1, len(waveform))
        waveform = (QUIETEST * noise).astype(np.float32)
    return waveform


def read_waveform(record: Record) -> np.ndarray:
    """Return the whole audio of a record, mono float32 ``(samples,)`` at 16 kHz.

    Raises
    ------
    InputError
        If it is missing, unreadable, cut off or empty, or holds NaN or infinite samples.
    """
    where = f"'{record.path}'"
    if record.offset is None and record.row is None:
        if not record.path.is_file():
            return read_audio(record.path)  # which says so
        with record.path.open("rb") as file:
            _check_whole(file.read(8), record.path.stat().st_size, where)
        if not record.start and record.seconds is None:
            return read_audio(record.path)
        return _decoded(record, record.path, where)
    content = _row(record) if record.row is not None else _slice(record)
    where = f"the file inside {where}"
    _check_whole(content[:8], len(content), where)
    return _decoded(record, io.BytesIO(content), where)


def _decoded(record: Record, file: Path | io.BytesIO, where: str) -> np.ndarray:
    """Decode, cut out the piece, mix down and resample, as `read_audio` does with a whole file."""
    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            sound.seek(min(round(record.start * rate), sound.frames))
            count = -1 if record.seconds is None else round(record.seconds * rate)
            samples = sound.read(count, dtype="float32", always_2d=True)  # (samples, channels)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        why = getattr(error, "error_string", error)  # without the address of the bytes in memory
        raise InputError(
            f"{where} cannot be read as WAV, FLAC or OGG audio ({why}); fetch it again or leave the clip out."
        ) from error
    if len(samples) == 0:
        after = f" after {record.start:g} s" if record.start else ""
        raise InputError(f"{where} holds no samples{after}; fetch it again or leave the clip out.")
    if not np.isfinite(samples).all():
        raise InputError(f"{where} holds NaN or infinite samples; fetch it again or leave the clip out.")
    mono = samples.mean(axis=1)  # (samples,)
    return (mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE)).astype(np.float32)


def _check_whole(head: bytes, size: int, where: str) -> None:
    """Refuse a WAV file that is shorter than it says; libsndfile would read what is left without a word."""
    if head[:4] == b"RIFF" and len(head) == 8:
        stated = int.from_bytes(head[4:8], "little") + 8
        if size < stated < STREAMED:
            raise InputError(f"{where} is cut off, it has {size} of {stated} bytes; fetch it again.")


def _slice(record: Record) -> bytes:
    try:
        with record.path.open("rb") as file:
            file.seek(record.offset)
            content = file.read(record.size)
    except OSError as error:
        raise InputError(f"'{record.path}' cannot be read ({error.strerror or error}); fetch it again.") from error
    if len(content) < record.size:
        raise InputError(f"'{record.path}' is cut off; fetch it again.")
    return content


def _row(record: Record) -> bytes:
    group, first = _row_group(record.path, record.row)
    content = group[record.row - first].as_py()
    if not isinstance(content, dict) or not content.get("bytes"):
        raise InputError(f"row {record.row} of '{record.path}' holds no audio; fetch the file again.")
    return content["bytes"]


def _row_group(path: Path, row: int) -> tuple[Sequence, int]:
    """Return the audio column of the row group that holds a row, and the number of its first row."""
    import pyarrow  # here and below: only a set that is kept as Parquet needs it

    try:
        starts = _group_starts(path, path.stat().st_mtime_ns)
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return _audio_column(path, path.stat().st_mtime_ns, number), int(starts[number])
    except (OSError, pyarrow.ArrowException, KeyError) as error:
        raise InputError(
            f"'{path}' cannot be read as Parquet with a column 'audio' ({error}); fetch it again."
        ) from error


@functools.lru_cache(maxsize=256)
def _group_starts(path: Path, _changed: int) -> np.ndarray:
    import pyarrow.parquet

    meta = pyarrow.parquet.ParquetFile(path).metadata
    return np.cumsum([0, *(meta.row_group(number).num_rows for number in range(meta.num_row_groups))])


@functools.lru_cache(maxsize=1)  # a row group of audio is about 100 MB, and clips are read in order
def _audio_column(path: Path, _changed: int, number: int) -> Sequence:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path).read_row_group(number, columns=["audio"]).column("audio")
