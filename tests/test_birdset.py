"""BirdSet: the snapshot's layout, its stored views, and what is said of a copy that is not whole."""

import io
import json
import math
import shutil
import tarfile
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from lib.audio import read_audio
from lib.data.fewshot import draw_mixup, mix
from lib.data.miniatures import Wanted, write_miniature
from lib.data.official import BIRDSET, archives, birdset
from lib.data.official.reading import read_clip
from lib.data.official.shots import FALLBACK, Rule, draw_shots, events_of
from lib.data.paper_manifests import read_manifest
from lib.data.paper_sets import load_paper_set
from lib.errors import InputError


@pytest.mark.parametrize(
    ("event", "length", "start"),
    [
        ((10.0, 12.0), 30.0, 8.5),  # in the middle
        ((10.0, 19.0), 30.0, 10.0),  # longer than the clip: its beginning
        ((0.5, 1.5), 30.0, 0.0),
        ((28.0, 29.0), 30.0, 25.0),
        ((26.0, 32.0), 30.0, 25.0),
        ((0.0, 5.0), 3.0, 0.0),
        ((10.0, 12.0), math.inf, 8.5),
    ],
)
def test_a_clip_lies_round_its_event_inside_the_recording(event, length, start):
    assert birdset.window(*event, length, 5.0) == start


# The snapshot


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("birds")
    write_miniature("hsn", folder, Wanted(clips=16, classes=4, seed=3))
    return folder / "hsn"


@pytest.fixture
def copy(made, tmp_path, monkeypatch):
    """Return the folder HSN of a miniature of its own, which `load_paper_set` reads."""
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path / "data"))
    return shutil.copytree(made, tmp_path / "data" / "hsn") / "HSN"


def official(copy):
    manifest = read_manifest("hsn")
    manifest["few_shot"] |= json.loads((copy.parent / "miniature.json").read_text())["changes"]["few_shot"]
    return birdset.read(copy.parent, manifest, say=lambda line: None)


def members(copy, pattern):
    """Return name → bytes of all archived files."""
    found = {}
    for path in sorted(copy.glob(pattern)):
        with tarfile.open(path) as archive:
            found |= {m.name.rsplit("/", 1)[-1]: archive.extractfile(m).read() for m in archive if m.isfile()}
    return found


def change(copy, name, function):
    """Replace a table of metadata by what `function` makes of its rows."""
    path = copy / f"HSN_metadata_{name}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    pq.write_table(pa.Table.from_pylist(function(rows) or rows, table.schema), path)


def repack(copy, name, files):
    with tarfile.open(copy / name, "w:gz") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_a_copy_loads_with_its_counts_and_reserves_whole_recordings(copy):
    data = load_paper_set("hsn")
    assert data.sizes == {"train": 13, "val": 3, "test": 16}  # 4 shots of 4 species, a fifth of them reserved
    assert data.manifest["title"] == "BirdSet HSN (miniature)"
    assert not {clip.source for clip in data.records["train"]} & {clip.source for clip in data.records["val"]}
    assert Counter(label for part in ("train", "val") for clip in data.records[part] for label in clip.labels) == {
        label: 4 for label in data.classes[:4]
    }


def test_the_miniature_takes_every_turn_of_the_draw(copy):
    manifest = read_manifest("hsn")
    recordings = birdset.read_focal(copy / "HSN_metadata_train.parquet", manifest)
    shots = draw_shots(recordings.values(), Rule(4, 1))
    assert {shot.origin for shot in shots} >= {"primary", "leftover", "fill-up primary"}
    assert any(events_of(recording) == (FALLBACK,) for recording in recordings.values())
    assert any(recording.seconds > 20 for recording in recordings.values())
    for recording in recordings.values():
        assert len(events_of(recording)) < max(len(recording.events), 2)  # noise and what contains another is gone


def test_test_segments_are_those_of_the_metadata_and_the_empty_ones_stay(copy):
    rows = pq.read_table(copy / "HSN_metadata_test_5s.parquet").to_pylist()
    clips = official(copy)["test_5s"]
    assert [(clip.id, list(clip.labels)) for clip in clips] == [
        (row["filepath"], row["ebird_code_multilabel"]) for row in rows
    ]
    assert [not clip.labels for clip in clips].count(True) == 4
    assert [clip.source for clip in clips[:4]] == ["HSN_001_20200601_060000"] * 3 + ["HSN_002_20200601_060000"]
    data = load_paper_set("hsn")
    codes = read_manifest("hsn")["classes"]
    expected = [[float(code in row["ebird_code_multilabel"]) for code in codes] for row in rows]
    np.testing.assert_array_equal(data.targets("test", 16), expected)


def test_a_training_clip_is_its_piece_of_its_recording(copy, tmp_path):
    recordings = members(copy, "*_train_shard_*.tar.gz")
    data = load_paper_set("hsn")
    starts = set()
    for index, clip in enumerate(data.records["train"]):
        path = tmp_path / "cut.wav"
        samples, rate = soundfile.read(io.BytesIO(recordings[clip.source]), dtype="float32")
        first = round(clip.start * rate)
        soundfile.write(path, samples[first : first + 5 * rate], rate, subtype="FLOAT")
        heard = read_audio(path)
        assert rate == 32_000
        audio = data._read("train", index).audio
        np.testing.assert_allclose(audio[: len(heard)], heard, atol=1e-6)
        assert len(audio) == 80_000 and not audio[len(heard) :].any()  # a recording of 3 s ends in silence
        starts.add(clip.start > 0)
    assert starts == {True, False}


def test_test_segments_are_heard_in_full(copy, tmp_path):
    segments = members(copy, "*_test5s_shard_*.tar.gz")
    data = load_paper_set("hsn")
    for index in (0, 3, 15):
        path = tmp_path / "segment.ogg"
        path.write_bytes(segments[data.records["test"][index].id])
        np.testing.assert_allclose(data.scene("test", index).audio, read_audio(path)[:80_000], atol=1e-6)


def test_the_metadata_may_name_files_by_folder_and_files_may_lie_in_folders(copy):
    before = [(clip.id, clip.size) for clip in official(copy)["few_shot"]]
    change(copy, "train", lambda rows: [row | {"filepath": f"train/audio/{row['filepath']}"} for row in rows])
    assert [(clip.id, clip.size) for clip in official(copy)["few_shot"]] == before
    with tarfile.open(copy / "HSN_train_shard_0002.tar.gz") as archive:
        assert all("/" in name for name in archive.getnames())


def test_the_folder_of_the_configuration_itself_is_as_good(copy):
    expected = official(copy)
    for path in copy.iterdir():
        path.rename(copy.parent / path.name)
    copy.rmdir()
    assert official(copy) == expected


# The stored views


def test_views_are_those_of_the_few_shot_code_among_training_clips(copy):
    data = load_paper_set("hsn")
    count, said = data.sizes["train"], data.manifest["views"]
    assert said["probability"] == 0.9 and said["snr_db"] == [5.0, 25.0] and data.views("train") == 5
    assert data.views("val") == data.views("test") == 1
    alone = data.targets
    mixed = 0
    for view in range(5):
        targets = alone("train", count, view)
        for index in range(count):
            drawn = draw_mixup(said, [data.manifest["split_rule"]["seed"], 0, index, view, 3], index, count)
            own = set(data.records["train"][index].labels)
            expected = own if drawn is None else own | set(data.records["train"][drawn.partner].labels)
            assert {data.classes[column] for column in np.flatnonzero(targets[index])} == expected
            mixed += drawn is not None
            if view == 2 and index < 3:
                plain = data._read("train", index)
                audio = plain if drawn is None else mix(plain, data._read("train", drawn.partner), drawn.snr_db)
                np.testing.assert_array_equal(data.scene("train", index, view).audio, audio.audio)
    assert 0.75 < mixed / (5 * count) <= 1.0
    assert not np.array_equal(alone("train", count, 0), alone("train", count, 1))


def test_a_split_without_views_refuses_another(copy):
    with pytest.raises(InputError, match="View 1 of split 'val' of 'hsn' was asked for; it has the views 0 to 0"):
        load_paper_set("hsn").scene("val", 0, 1)


def test_species_that_never_train_stay_a_class_of_the_test(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path))
    write_miniature("uhh", tmp_path, Wanted(clips=8, classes=4))
    data = load_paper_set("uhh")
    heard = {name: data.targets(name, data.sizes[name]).sum(0) for name in ("train", "test")}
    assert len(data.classes) == 27
    assert (heard["train"] > 0).tolist() == [True] * 3 + [False] * 24
    assert (heard["test"] > 0).tolist() == [True] * 4 + [False] * 23


# Unpacking


def test_archives_are_read_once_and_again_only_where_something_changed(copy, capsys):
    def told(action=lambda: None):
        action()
        lines = []
        birdset.read(copy.parent, read_manifest("hsn") | {"few_shot": few_shot}, lines.append)
        return [line.partition(":")[0] for line in lines if "unpacking" in line]

    few_shot = read_manifest("hsn")["few_shot"] | {"shots": 2}
    names = [f"HSN_{name}.tar.gz" for name in ("train_shard_0001", "train_shard_0002", "test5s_shard_0001")]
    assert told() == names
    assert told() == []
    packs = {path.name: path for path in copy.parent.parent.parent.rglob("*.pack")}
    assert told(lambda: packs["HSN_test5s_shard_0001.pack"].write_bytes(b"cut off")) == names[2:]
    assert told(lambda: packs["HSN_train_shard_0001.pack"].with_suffix(".json").write_text("{")) == names[:1]
    few_shot = few_shot | {"shots": 4}
    assert told() == names[:2]  # other recordings are wanted


def test_what_was_unpacked_before_stays_when_more_is_wanted(copy):
    shards, folder, lines = [copy / "HSN_train_shard_0001.tar.gz"], copy.parent / "unpacked", []
    first, second, *_ = members(copy, "*_train_shard_0001.tar.gz")
    for wanted in ([first], [second], [first], [first, second]):
        assert archives.unpack(shards, wanted, folder, lines.append).keys() == set(wanted)
    assert len(lines) == 2


def test_a_run_that_is_interrupted_goes_on_with_the_archive_where_it_was(copy, monkeypatch):
    wanted = members(copy, "*_train_shard_*.tar.gz").keys()
    shards, folder = sorted(copy.glob("*_train_shard_*")), copy.parent / "unpacked"
    whole, read = archives.unpack(shards, wanted, copy.parent / "reference", lambda line: None), []
    copyfileobj = shutil.copyfileobj

    def dies(source, file, length):
        read.append(source.name)
        if len(read) == 7:
            raise KeyboardInterrupt
        copyfileobj(source, file, length)

    monkeypatch.setattr(archives.shutil, "copyfileobj", dies)
    with pytest.raises(KeyboardInterrupt):
        archives.unpack(shards, wanted, folder, lambda line: None)
    lines = []
    places = archives.unpack(shards, wanted, folder, lines.append)
    assert [line.partition(":")[0] for line in lines] == ["HSN_train_shard_0002.tar.gz"]
    assert {name: place[1:] for name, place in places.items()} == {name: place[1:] for name, place in whole.items()}
    for name, content in members(copy, "*_train_shard_*.tar.gz").items():
        path, offset, size = places[name]
        assert path.read_bytes()[offset : offset + size] == content


# A copy that is not whole


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("HSN_train_shard_0001.tar.gz", r"train has \d+ of 16 clips .*listed without audio, such as 'XC"),
        ("HSN_test5s_shard_0001.tar.gz", "test has 0 of 16 clips .*without any clip of test it is of no use"),
    ],
)
def test_a_missing_archive_is_named_and_what_it_held_is_counted(copy, remove, message, capsys):
    (copy / remove).unlink()
    with pytest.raises(InputError, match=message):
        load_paper_set("hsn")
    assert f"hsn: '{copy}' lacks {remove}; what is in them counts as missing" in capsys.readouterr().out


def test_the_archives_of_a_real_copy_are_those_of_the_manifest(copy):
    lines, manifest = [], read_manifest("hsn")
    found = birdset.shards(copy, "HSN_train", manifest, lines.append)
    assert [path.name for path in found] == ["HSN_train_shard_0001.tar.gz", "HSN_train_shard_0002.tar.gz"]
    lacking = ", ".join(f"HSN_train_shard_{number:04d}.tar.gz" for number in range(3, 8))
    assert lines == [f"hsn: '{copy}' lacks {lacking}; what is in them counts as missing"]
    assert birdset.shards(copy, "HSN_train", manifest | {"miniature": 0}, lines.append) == found and len(lines) == 1


@pytest.mark.parametrize("table", ["train", "test_5s"])
def test_a_missing_table_is_named(copy, table):
    (copy / f"HSN_metadata_{table}.parquet").unlink()
    with pytest.raises(InputError, match=f"There is no 'HSN_metadata_{table}.parquet' in '.*HSN'; fetch the snapshot"):
        load_paper_set("hsn")


def test_who_says_so_goes_on_without_the_last_archive(copy, monkeypatch, capsys):
    (copy / "HSN_train_shard_0002.tar.gz").unlink()
    monkeypatch.setenv("UNMUTE_INCOMPLETE", "hsn")
    data = load_paper_set("hsn")
    assert 0 < data.sizes["train"] + data.sizes["val"] < 16 and data.sizes["test"] == 16
    assert "going on with what is there" in capsys.readouterr().out


@pytest.mark.parametrize("table", ["train", "test_5s"])
def test_a_missing_column_is_named(copy, table):
    path = copy / f"HSN_metadata_{table}.parquet"
    column = {"train": "event_cluster", "test_5s": "ebird_code_multilabel"}[table]
    pq.write_table(pq.read_table(path).drop_columns(column), path)
    with pytest.raises(InputError, match=rf"HSN_metadata_{table}.parquet' has no column '{column}'"):
        load_paper_set("hsn")


def test_a_damaged_table_is_one_clear_sentence(copy):
    path = copy / "HSN_metadata_train.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read as Parquet .*; fetch it again"):
        load_paper_set("hsn")


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("train", "ebird_code", "houspa", "says 'houspa' of 'XC100000.ogg', which is none of the 21 eBird codes"),
        ("train", "ebird_code", None, "says 'None' of 'XC100000.ogg'"),
        ("test_5s", "ebird_code_multilabel", ["gcrfin", "emu"], "says 'emu' of 'HSN_001_20200601_060000_000_005.ogg'"),
        ("train", "event_cluster", [0, 0], "'XC100000.ogg' has 5 events but 2 clusters"),
        ("train", "filepath", "XC100007.ogg", "names 'XC100007.ogg' twice"),
    ],
)
def test_a_row_that_cannot_be_is_named(copy, table, column, value, message):
    change(copy, table, lambda rows: [rows[0] | {column: value}, *rows[1:]])
    with pytest.raises(InputError, match=message):
        load_paper_set("hsn")


@pytest.mark.parametrize("event", [[30.0, 31.0], [-1.0, 1.0], [3.0, 2.0], [float("nan"), 1.0]])
def test_an_event_outside_its_recording_is_named(copy, event):
    def move(rows):
        for row in rows:
            row["detected_events"], row["event_cluster"] = [event], [0]

    change(copy, "train", move)
    with pytest.raises(InputError, match=r"The event from .* s of 'XC\d+.ogg' does not lie in that recording of \d+ s"):
        load_paper_set("hsn")


def test_lengths_in_whole_seconds_do_not_cut_events_off(copy):
    def shorten(rows):
        for row in rows:
            row["detected_events"], row["event_cluster"] = [[row["length"] - 1.0, row["length"] + 0.4]], [0]

    change(copy, "train", shorten)
    clips = official(copy)["few_shot"]
    assert {(clip.start, clip.seconds) for clip in clips} == {(1.0, 5.0), (0.0, 5.0), (16.0, 5.0)}


def test_a_species_that_is_short_is_told_with_its_count(copy):
    lines = []
    manifest = read_manifest("hsn")
    manifest["few_shot"] |= {"shots": 6}
    birdset.read(copy.parent, manifest, lines.append)
    assert lines[0] == "hsn: 3 species have too few events for 6 shots: whcspa 5, amepip 4, sposan 4"


@pytest.mark.parametrize("damage", ["cut off", "a bit", "no archive"])
def test_a_damaged_archive_is_named_and_nothing_of_it_is_kept(copy, damage, monkeypatch):
    monkeypatch.setattr(archives, "CHUNK", 512)  # or all of so small an archive is read at the first byte
    path = copy / "HSN_test5s_shard_0001.tar.gz"
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[-6] ^= 1  # of the length that ends the archive: all members were read before
    path.write_bytes({"cut off": content[:-2000], "a bit": content, "no archive": b"not an archive"}[damage])
    for _ in range(2):
        with pytest.raises(InputError, match=r"HSN_test5s_shard_0001.tar.gz' is damaged \(.+\); delete it and fetch"):
            load_paper_set("hsn")
    assert not list(copy.parents[2].rglob("HSN_test5s*.pack"))


@pytest.mark.parametrize("damage", ["no sound", "empty"])
def test_a_damaged_recording_is_named_when_it_is_heard(copy, damage):
    clips = official(copy)["few_shot"]
    recordings = members(copy, "*_train_shard_0002.tar.gz")
    name = next(clip.source for clip in clips if clip.source in recordings)
    repack(copy, "HSN_train_shard_0002.tar.gz", recordings | {name: {"no sound": b"OggS" * 99, "empty": b""}[damage]})
    data = load_paper_set("hsn")
    split, index = next(
        (split, index)
        for split in ("train", "val")
        for index, clip in enumerate(data.records[split])
        if clip.source == name
    )
    with pytest.raises(
        InputError, match=rf"Clip '{name}:.*' of 'hsn' cannot be used: the file inside .* cannot be read"
    ):
        data._read(split, index)


def test_a_clip_after_the_end_of_its_recording_is_named_when_it_is_heard(copy):
    """The metadata say 21 s, the recording has 6: only the audio can tell."""
    recordings = members(copy, "*_train_shard_*.tar.gz")
    short = recordings["XC100000.ogg"]
    for number in (1, 2):
        name = f"HSN_train_shard_{number:04d}.tar.gz"
        repack(copy, name, {file: short for file in members(copy, name)})

    def late(rows):
        for row in rows:
            row["length"], row["detected_events"], row["event_cluster"] = 20, [[14.0, 16.0]], [0]

    change(copy, "train", late)
    records = official(copy)["few_shot"]
    assert records[0].start == 12.5
    with pytest.raises(InputError, match=r"Clip 'XC.*' of 'hsn' cannot be used: .* holds no samples after 12.5 s"):
        read_clip(records[0], 5.0, "hsn")


# The manifests


@pytest.mark.parametrize("name", BIRDSET)
def test_the_manifest_and_the_loader_name_the_same_files(name):
    manifest = read_manifest(name)
    config, said = name.upper(), manifest["few_shot"]
    assert manifest["source"]["ids"]["config"] == config
    assert manifest["labels"]["files"] == {
        "train": [f"{config}/{config}_metadata_train.parquet"],
        "test_5s": [f"{config}/{config}_metadata_test_5s.parquet"],
    }
    read = {*birdset.TRAIN_COLUMNS, *birdset.TEST_COLUMNS} - {"ebird_code_secondary"}
    assert set(manifest["labels"]["columns"].values()) >= read
    assert birdset.rule_of(manifest) == Rule(64, said["seed"], 20.0, True, True)
    assert manifest["sizes"]["train"] == 64 * said["classes_with_training"]
    assert manifest["split_rule"]["from"] == {"train": ["few_shot"], "val": [], "test": ["test_5s"]}
    assert len(set(manifest["classes"])) == len(manifest["classes"])


@pytest.mark.parametrize("name", BIRDSET)
def test_every_set_has_a_miniature_that_loads(name, tmp_path, monkeypatch):
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path))
    write_miniature(name, tmp_path, Wanted(clips=4, classes=2, seconds=1.0))
    data = load_paper_set(name)
    assert data.sizes["train"] + data.sizes["val"] == 4 and data.sizes["test"] == 4
    assert all(first.start >= 0 and second.labels for first, second in pairwise(data.records["train"]))
