"""A miniature of a BirdSet configuration, laid out as its hub snapshot: Parquet metadata beside OGG at 32 kHz.

A species is one individual among the birds of the synthetic bank. Its recordings are such that every turn of the
few-shot draw is taken: of some it takes one event first and the other later, the last shots come from recordings in
which a second species is heard. The first species has one that is too long, the second one without any event. Beside
the events of the song there are, in every recording, noise, another cluster and an event that contains one. Of the
soundscapes every fourth segment is empty.
"""

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from lib.audio import SAMPLE_RATE
from lib.data.mixer import coloured_noise
from lib.data.synth import synthesize
from lib.files import atomic

if TYPE_CHECKING:
    from lib.data.miniatures import Wanted

VOICES = ("warbler", "owl", "sparrow", "cuckoo", "bird", "dove", "crow", "woodpecker", "rooster")
BACKGROUND = 0.01  # root mean square
SHARDS = 2  # of the recordings, as a set has several; the segments of a set are in one
SUNG = {  # kind of recording → its length and when its species sings, in seconds
    "good": (6.0, ((0.5, 1.8), (3.5, 5.0))),
    "in company": (6.0, ((0.4, 1.9), (3.2, 5.0))),
    "unmarked": (3.0, ((0.4, 2.4),)),
    "long": (21.0, ((2.0, 4.0), (11.0, 18.0))),
}
EXTRA = {0: ("long",), 1: ("unmarked",)}  # of the first and the second species
SEGMENTS = 3  # of a soundscape


def write(name: str, folder: Path, manifest: dict, wanted: "Wanted") -> dict:
    """Write the copy below `folder`; return its counts, and what of the manifest is its own."""
    config, rng = manifest["source"]["ids"]["config"], np.random.default_rng([wanted.seed, len(name)])
    species = manifest["classes"][: wanted.classes]
    # Two species of UHH are heard in the test alone; here it is one, where there are enough.
    singers = species[:-1] if len(species) > 2 and _untrained(manifest) else species
    shots = max(2, wanted.clips // len(singers))
    home, rows = folder / config, []
    trains: list[dict[str, bytes]] = [{} for _ in range(SHARDS)]
    for place, code in enumerate(singers):
        for kind in [*_kinds(shots), *EXTRA.get(place, ())]:
            number = len(rows)
            row, audio = _recording(f"XC{100_000 + 7 * number}.ogg", code, kind, manifest["classes"], species, rng)
            rows.append(row)
            trains[number % SHARDS][row["filepath"]] = _ogg(audio, manifest["sample_rate"])
    _write_table(home / f"{config}_metadata_train.parquet", rows)
    for number, files in enumerate(trains, start=1):
        _write_archive(home / f"{config}_train_shard_{number:04d}.tar.gz", files, "" if number == 1 else "train/")
    seconds = wanted.seconds or manifest["seconds"]
    segments = [_segment(config, number, species, seconds, manifest, rng) for number in range(wanted.clips)]
    _write_table(home / f"{config}_metadata_test_5s.parquet", [row for row, _ in segments])
    files = {row["filepath"]: _ogg(audio, manifest["sample_rate"]) for row, audio in segments}
    _write_archive(home / f"{config}_test5s_shard_0001.tar.gz", files, "")
    few_shot = {"shots": shots, "train_recordings": len(rows), "classes_with_training": len(singers)}
    sizes = {"train": shots * len(singers), "val": None, "test": wanted.clips}
    return {"sizes": sizes, "changes": {"few_shot": few_shot}}


def _kinds(shots: int) -> list[str]:
    """Return recordings of two events each that hold `shots`, about a third of them for filling up alone."""
    good = max(1, shots // 3)
    return ["good"] * good + ["in company"] * max(1, -(-(shots - 2 * good) // 2))


def _untrained(manifest: dict) -> int:
    return len(manifest["classes"]) - manifest["few_shot"]["classes_with_training"]


def _recording(
    name: str, code: str, kind: str, classes: list[str], species: list[str], rng: np.random.Generator
) -> tuple[dict, np.ndarray]:
    """Return the row of a recording, and its audio at 16 kHz."""
    length, sung = SUNG[kind]
    audio = _background(length, rng)
    for onset, offset in sung:
        _add(audio, _song(classes.index(code), offset - onset), onset)
    events = [*sung, (sung[0][0] - 0.2, sung[0][1] + 0.3), (length - 0.5, length - 0.3), (0.0, 0.1)]
    clusters = [*[0] * (len(sung) + 1), -1, 1]
    others = [other for other in species if other != code]
    marked = kind != "unmarked"
    return {
        "filepath": name,
        "start_time": None,
        "end_time": None,
        "low_freq": None,
        "high_freq": None,
        "ebird_code": code,
        "ebird_code_multilabel": [code],
        "ebird_code_secondary": others[:1] if kind == "in company" else [],
        "call_type": "song",
        "sex": "uncertain",
        "lat": 46.5,
        "long": 8.0,
        "length": int(length),
        "microphone": "focal",
        "license": "//creativecommons.org/licenses/by-nc-sa/4.0/",
        "source": "https://xeno-canto.org/",
        "local_time": "06:30",
        "detected_events": [list(event) for event in events] if marked else [],
        "event_cluster": clusters if marked else [],
        "peaks": [(onset + offset) / 2 for onset, offset in events] if marked else [],
        "quality": "A",
        "recordist": "nobody, this is a synthetic sound",
    }, audio


def _segment(
    config: str, number: int, species: list[str], seconds: float, manifest: dict, rng: np.random.Generator
) -> tuple[dict, np.ndarray]:
    """Return the row of a test segment, and its audio at 16 kHz."""
    soundscape, place = divmod(number, SEGMENTS)
    count = 0 if number % 4 == 3 else 1 + int(rng.integers(min(3, len(species))))
    turn = (number - number // 4) % len(species)  # each species is heard; which others with it, is drawn
    codes = [species[turn], *rng.permutation(species).tolist()]
    codes = list(dict.fromkeys(codes))[:count]
    audio = _background(seconds, rng)
    for code in codes:
        length = min(2.0, seconds)
        _add(audio, 0.3 * _song(manifest["classes"].index(code), length), float(rng.uniform(0, seconds - length)))
    start = 5 * place
    return {
        "filepath": f"{config}_{soundscape + 1:03d}_20200601_060000_{start:03d}_{start + 5:03d}.ogg",
        "start_time": float(start),
        "end_time": float(start + 5),
        "low_freq": None,
        "high_freq": None,
        "ebird_code": None,
        "ebird_code_multilabel": codes,
        "call_type": None,
        "sex": None,
        "lat": 46.5,
        "long": 8.0,
        "length": None,
        "microphone": "soundscape",
        "license": "Creative Commons Attribution 4.0 International Public License",
        "source": manifest["source"]["urls"][-1],
        "local_time": "06:00:00",
    }, audio


def _song(species: int, seconds: float) -> np.ndarray:
    return synthesize(VOICES[species % len(VOICES)], species // len(VOICES), seconds)


def _background(seconds: float, rng: np.random.Generator) -> np.ndarray:
    return BACKGROUND * coloured_noise(round(seconds * SAMPLE_RATE), rng, (0.5, 1.5))


def _add(audio: np.ndarray, sound: np.ndarray, onset: float) -> None:
    start = round(onset * SAMPLE_RATE)
    audio[start : start + len(sound)] += 0.5 * sound[: len(audio) - start]


def _ogg(audio: np.ndarray, sample_rate: int) -> bytes:
    file = io.BytesIO()
    samples = soxr.resample(audio.astype(np.float32), SAMPLE_RATE, sample_rate)
    soundfile.write(file, np.clip(samples, -0.99, 0.99), sample_rate, format="OGG", subtype="VORBIS")
    return file.getvalue()


def _write_archive(path: Path, files: dict[str, bytes], inside: str) -> None:
    with atomic(path) as temporary, tarfile.open(temporary, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{inside}{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _write_table(path: Path, rows: list[dict]) -> None:
    import pyarrow  # only here: who makes no miniature needs none
    import pyarrow.parquet

    columns = {name: pyarrow.array([row[name] for row in rows], _type(name, pyarrow)) for name in rows[0]}
    with atomic(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)


def _type(name: str, pa: object) -> object:
    """Return the type of a column, as the features of BirdSet's loading script state it."""
    if name in ("start_time", "end_time", "lat", "long"):
        return pa.float64()
    if name in ("low_freq", "high_freq", "length"):
        return pa.int64()
    lists = {
        "ebird_code_multilabel": pa.list_(pa.string()),
        "ebird_code_secondary": pa.list_(pa.string()),
        "detected_events": pa.list_(pa.list_(pa.float64())),
        "event_cluster": pa.list_(pa.int64()),
        "peaks": pa.list_(pa.float64()),
    }
    return lists.get(name, pa.string())
