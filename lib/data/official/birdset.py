"""BirdSet from the files of its hub snapshot, without its loading script: 64 focal clips a species, soundscapes in 5 s.

The layout of a configuration, here HSN, below the folder of the copy (or the folder itself is ``HSN``)::

    HSN/HSN_metadata_train.parquet     a row a Xeno-canto recording: filepath, ebird_code, ebird_code_secondary, length,
                                       detected_events, event_cluster, license, recordist …
    HSN/HSN_train_shard_0001.tar.gz …  the recordings in full, OGG at 32 kHz
    HSN/HSN_metadata_test_5s.parquet   a row a segment: filepath, ebird_code_multilabel …; without a bird it is empty
    HSN/HSN_test5s_shard_0001.tar.gz   the segments

Metadata name a file by its last name, whatever folder it has in an archive. `archives` unpacks what is needed, `shots`
draws the training clips. A clip is five seconds: an event that is longer gives its first five, one that is shorter lies
in the middle, as far as the recording allows (how the paper cut its clips is not known). Its label is the one species
of its recording. The test is `test_5s`, segments without any label included.

A fifth of the shots of each species is reserved to choose settings by (Section 4.1; `lib.data.splits`), a recording
always as a whole. Views are mixed among the training clips that are left, and validation clips have none: the paper
does not say whether its stored variants were made before or after its split.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from lib.data.official import Record
from lib.data.official.archives import Place, unpack
from lib.data.official.shots import FALLBACK, Focal, Rule, Shot, draw_shots, shortfall
from lib.errors import InputError
from lib.paths import scratch

TRAIN_COLUMNS = ("filepath", "ebird_code", "ebird_code_secondary", "length", "detected_events", "event_cluster")
TEST_COLUMNS = ("filepath", "ebird_code_multilabel")
ROWS = 1024  # of a table, read at once
ROUNDING = 1.0  # seconds by which an event may pass the end of its recording, whose length is given in whole seconds


def read(folder: Path, manifest: dict, say: Callable[[str], None] = print) -> dict[str, list[Record]]:
    """Return "few_shot", the drawn training clips, and "test_5s", every test segment, in the order of the metadata.

    Raises
    ------
    InputError
        If metadata or archives are missing or damaged, a code is no class, or an event is not in its recording.
    """
    config = manifest["source"]["ids"]["config"]
    home = folder / config if (folder / config).is_dir() else folder
    focal = read_focal(home / f"{config}_metadata_train.parquet", manifest)
    shots = draw_shots(focal.values(), rule_of(manifest))
    trained = {recording.species for recording in focal.values()}
    species = [code for code in manifest["classes"] if code in trained]
    if short := shortfall(shots, species, manifest["few_shot"]["shots"]):
        say(_told_short(short, manifest))
    tests = read_segments(home / f"{config}_metadata_test_5s.parquet", manifest)
    unpacked = scratch() / "unpacked" / config
    trains = unpack(shards(home, f"{config}_train", manifest, say), {shot.file for shot in shots}, unpacked, say)
    segments = unpack(shards(home, f"{config}_test5s", manifest, say), tests.keys(), unpacked, say)
    return {
        "few_shot": [_clip(shot, focal[shot.file].seconds, trains.get(shot.file), home, manifest) for shot in shots],
        "test_5s": [
            _record(name, segments.get(name), home, labels=labels, source=soundscape_of(name))
            for name, labels in tests.items()
        ],
    }


def rule_of(manifest: dict) -> Rule:
    """Return the rule of the few-shot draw that a manifest writes down."""
    said = manifest["few_shot"]
    condition = said["condition"]
    alone = condition["no_secondary_species"]
    return Rule(said["shots"], said["seed"], condition["max_seconds"], alone, said["fill_up"])


def shards(home: Path, name: str, manifest: dict, say: Callable[[str], None]) -> list[Path]:
    """Return the archives ``<name>_shard_0001.tar.gz`` and on that are there; tell which others there should be."""
    there = {path.name for path in home.glob(f"{name}_shard_*.tar.gz")}
    last = max([1, *(int(part) for file in there if (part := file.removesuffix(".tar.gz")[-4:]).isdigit())])
    expected = {f"{name}_shard_{number:04d}.tar.gz" for number in range(1, last + 1)}
    if "miniature" not in manifest:
        listed = {file["name"].rpartition("/")[-1] for file in manifest["source"]["files"]}
        expected |= {file for file in listed if file.startswith(f"{name}_shard_")}
    if missing := sorted(expected - there):
        say(f"{manifest['name']}: '{home}' lacks {', '.join(missing)}; what is in them counts as missing")
    return [home / file for file in sorted(expected & there)]


def read_focal(path: Path, manifest: dict) -> dict[str, Focal]:
    """Return name → training recording, from the metadata of the train split.

    Raises
    ------
    InputError
        If the table cannot be read, names a file twice or an unknown species, or does not pair events and clusters.
    """
    known, recordings = set(manifest["classes"]), {}
    for row in _rows(path, TRAIN_COLUMNS):
        name, species = PurePosixPath(row["filepath"]).name, row["ebird_code"]
        _check_new(name, recordings, path)
        _check_codes((species,), known, name, path)
        events = tuple((float(onset), float(offset)) for onset, offset in row["detected_events"] or ())
        clusters = tuple(row["event_cluster"] or ())
        if clusters and len(clusters) != len(events):
            raise InputError(
                f"'{name}' has {len(events)} events but {len(clusters)} clusters in '{path.name}'; fetch it again."
            )
        secondary = tuple(code for code in row["ebird_code_secondary"] or () if code)
        seconds = math.inf if row["length"] is None else float(row["length"])
        recordings[name] = Focal(name, species, seconds, secondary, events if clusters else (), clusters)
    return recordings


def read_segments(path: Path, manifest: dict) -> dict[str, tuple[str, ...]]:
    """Return name → species of every test segment, in the order of the table; none of them where nothing sings.

    Raises
    ------
    InputError
        If the table cannot be read, or names a file twice or an unknown species.
    """
    known, segments = set(manifest["classes"]), {}
    for row in _rows(path, TEST_COLUMNS):
        name, labels = PurePosixPath(row["filepath"]).name, tuple(dict.fromkeys(row["ebird_code_multilabel"] or ()))
        _check_new(name, segments, path)
        _check_codes(labels, known, name, path)
        segments[name] = labels
    return segments


def soundscape_of(name: str) -> str:
    """Return the soundscape of a segment: its name without ``_000_005``, the seconds at which it begins and ends."""
    return re.sub(r"(_\d+){2}$", "", PurePosixPath(name).stem)


def window(onset: float, offset: float, length: float, seconds: float) -> float:
    """Return where the clip of an event begins: `seconds` of a recording of `length`, both in seconds."""
    start = onset if offset - onset >= seconds else (onset + offset - seconds) / 2
    return max(0.0, min(start, length - seconds))


def _clip(shot: Shot, length: float, place: Place | None, home: Path, manifest: dict) -> Record:
    if not 0 <= shot.onset <= shot.offset <= max(length + ROUNDING, FALLBACK[1]):
        raise InputError(
            f"The event from {shot.onset:g} to {shot.offset:g} s of '{shot.file}' does not lie in that recording of "
            f"{length:g} s; metadata are of another revision than the archives, or damaged: fetch them again."
        )
    seconds = manifest["few_shot"]["clip_seconds"]
    start = round(window(shot.onset, shot.offset, length, seconds), 4)
    piece = {"start": start, "seconds": seconds, "labels": (shot.species,), "source": shot.file}
    return _record(f"{shot.file}:{shot.onset:g}", place, home, **piece)


def _record(name: str, place: Place | None, home: Path, **said: object) -> Record:
    if place is None:
        return Record(name, home / name, missing=True, **said)
    return Record(name, place.path, offset=place.offset, size=place.size, **said)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict]:
    """Yield the rows of a table, some columns of them; as Python's lists, all at once would need a gigabyte."""
    import pyarrow  # only here: who has no official copy needs none
    import pyarrow.parquet

    if not path.is_file():
        raise InputError(f"There is no '{path.name}' in '{path.parent}'; fetch the snapshot again.")
    try:
        table = pyarrow.parquet.ParquetFile(path)
        missing = [name for name in columns if name not in table.schema_arrow.names]
        if missing:
            raise InputError(
                f"'{path}' has no column '{missing[0]}'; it is not the table of the manifest's source, fetch it again."
            )
        for batch in table.iter_batches(ROWS, columns=list(columns)):
            yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"'{path}' cannot be read as Parquet ({error}); fetch it again.") from error


def _check_new(name: str, seen: dict, path: Path) -> None:
    if name in seen:
        raise InputError(f"'{path.name}' names '{name}' twice; fetch it again.")


def _check_codes(codes: tuple, known: set[str], name: str, path: Path) -> None:
    strange = [code for code in codes if code not in known]
    if strange:
        raise InputError(
            f"'{path.name}' says '{strange[0]}' of '{name}', which is none of the {len(known)} eBird codes of the "
            "manifest; check that both are of the same set."
        )


def _told_short(short: dict[str, int], manifest: dict) -> str:
    counts, shots = ", ".join(f"{species} {count}" for species, count in short.items()), manifest["few_shot"]["shots"]
    return f"{manifest['name']}: {len(short)} species have too few events for {shots} shots: {counts}"
