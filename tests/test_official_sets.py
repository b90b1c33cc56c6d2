"""Loaders of the paper's sets: official layouts are read as they are, and what is wrong in one is one sentence."""

import itertools
import json
import shutil
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from lib.audio import read_audio
from lib.data import copies, paper_sets
from lib.data.miniatures import Wanted, write_miniature
from lib.data.official import Record, read_official, speech_commands, urbansed
from lib.data.official.reading import read_clip, read_waveform
from lib.data.paper_manifests import read_manifest
from lib.errors import InputError
from lib.paths import audio_root

SMALL = Wanted(clips=6, classes=4, seconds=0.5)
LAYOUTS = {  # set → its other layouts
    "as20k": ("tar", "folders"),
    "fsd50k": ("hub",),
    "desed": (),
    "spass": (),
    "urban": ("jams", "txt"),
    "esc50": ("hub",),
    "sc2": ("hub",),
}
EVERY = [(name, variant) for name, others in LAYOUTS.items() for variant in ("", *others)]
OTHERS = [(name, variant) for name, others in LAYOUTS.items() for variant in others]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder of a miniature, made once."""
    folders = {}

    def miniature(name, variant=""):
        if (name, variant) not in folders:
            root = tmp_path_factory.mktemp(f"{name}-{variant or 'usual'}")
            folders[name, variant] = write_miniature(name, root, replace(SMALL, variant=variant))
        return folders[name, variant]

    return miniature


@pytest.fixture
def own(made, tmp_path, monkeypatch):
    """Return a miniature's folder that a test may spoil, in the folder of the audio."""

    def copy(name, variant=""):
        monkeypatch.setenv("UNMUTE_DATA", str(tmp_path / "audio"))
        return shutil.copytree(made(name, variant), tmp_path / "audio" / name)

    return copy


def read(name, folder):
    manifest = copies.miniature_of(folder, read_manifest(name) | {"title": ""})
    return read_official(name, folder, manifest), manifest


def clips_of(name, folder):
    return {clip.id: clip for clips in read(name, folder)[0].values() for clip in clips}


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_every_layout_is_read_with_the_official_splits_labels_and_audio(name, variant, made):
    official, manifest = read(name, made(name, variant))
    rule = manifest["split_rule"]["from"]
    assert set(official) == {part for parts in rule.values() for part in parts}
    assert copies.check_copy(official, manifest, incomplete=False) == ""
    classes = manifest["classes"] or manifest["labels"]["raw_classes"]
    for part, clips in official.items():
        assert not any(clip.missing for clip in clips)
        assert len({label for clip in clips for label in clip.labels}) >= 3, part
        assert all(set(clip.labels) <= set(classes) and len(set(clip.labels)) == len(clip.labels) for clip in clips)
        audio = read_clip(clips[0], manifest["seconds"], name)
        assert audio.shape == (round(16_000 * manifest["seconds"]),) and audio.dtype == np.float32
        assert np.abs(audio[:3200]).max() > 1e-3


@pytest.mark.parametrize(("name", "variant"), OTHERS)
def test_another_layout_of_the_same_set_holds_the_same_clips(name, variant, made):
    usual, other = (clips_of(name, made(name, which)) for which in ("", variant))
    assert {key: (c.labels, c.source) for key, c in usual.items()} == {
        key: (c.labels, c.source) for key, c in other.items()
    }
    if name != "sc2":  # its writer draws the sounds of each layout anew
        key = sorted(usual)[3]
        assert np.array_equal(read_waveform(usual[key]), read_waveform(other[key]))


def test_a_piece_of_a_file_is_that_piece_and_a_whole_file_is_as_the_library_reads_it(tmp_path):
    sound = 0.1 * np.random.default_rng(0).standard_normal((30_000, 2))
    soundfile.write(tmp_path / "long.wav", sound, 16_000)
    whole = Record("whole", tmp_path / "long.wav", (), "long")
    assert np.array_equal(read_waveform(whole), read_audio(tmp_path / "long.wav"))
    piece = read_waveform(replace(whole, start=0.5, seconds=0.25))
    assert np.array_equal(piece, read_audio(tmp_path / "long.wav")[8000:12_000])
    last = read_waveform(replace(whole, start=1.5, seconds=9.0))
    assert np.array_equal(last, read_audio(tmp_path / "long.wav")[24_000:])
    clip = read_clip(whole, 1.0, "set")
    assert np.array_equal(clip, read_audio(tmp_path / "long.wav")[:16_000])


def test_a_wav_file_of_a_stream_says_no_length_and_is_read_all_the_same(tmp_path):
    path = tmp_path / "stream.wav"
    soundfile.write(path, np.full(4000, 0.1), 16_000)
    content = path.read_bytes()
    for unknown in (0xFFFFFFFF, 0x7FFFF024):
        path.write_bytes(content[:4] + unknown.to_bytes(4, "little") + content[8:])
        assert len(read_waveform(Record("stream", path, (), "stream"))) == 4000


def test_digital_silence_is_made_just_audible_and_always_the_same(tmp_path):
    soundfile.write(tmp_path / "still.wav", np.zeros(8000), 16_000)
    still = Record("still", tmp_path / "still.wav", (), "still")
    heard = read_clip(still, 1.0, "set")
    assert 0 < np.abs(heard).max() <= 2.0**-15 and np.array_equal(heard, read_clip(still, 1.0, "set"))
    assert not np.array_equal(heard, read_clip(replace(still, id="other"), 1.0, "set"))


# ---- what is special in a set ------------------------------------------------------------------------------


def test_urban_text_and_jams_tell_the_same_events_and_jams_their_recordings(made):
    jams, text = (clips_of("urban", made("urban", which)) for which in ("jams", "txt"))
    for name, clip in jams.items():
        for event, told in zip(clip.events, text[name].events, strict=True):
            assert (event.label, event.onset) == (told.label, told.onset)
            assert event.offset == pytest.approx(told.offset, abs=1e-6) and np.isnan(told.snr_db)
        assert all(event.source.isdigit() and np.isfinite(event.snr_db) for event in clip.events)
        assert clip.labels == tuple(dict.fromkeys(event.label for event in clip.events))
    assert "noise" not in {event.label for clip in jams.values() for event in clip.events}


def test_urban_jams_are_read_once_and_again_when_one_has_changed(own, monkeypatch):
    folder = own("urban", "jams")
    first = clips_of("urban", folder)
    monkeypatch.setattr(urbansed, "read_jams", lambda path: pytest.fail("read again"))
    assert clips_of("urban", folder) == first
    monkeypatch.undo()
    monkeypatch.setenv("UNMUTE_CACHE", str(folder.parent / "scratch"))
    clips_of("urban", folder)
    path = sorted(folder.glob("*/annotations/test/*.jams"))[0]
    content = json.loads(path.read_text())
    content["annotations"][0]["data"] = content["annotations"][0]["data"][:1]
    path.write_text(json.dumps(content))
    assert clips_of("urban", folder)[path.stem].labels == ()


def test_desed_labels_without_capitals_and_clips_without_events(made):
    official, _ = read("desed", made("desed"))
    for clips in official.values():
        assert [clip.labels for clip in clips].count(()) == 1
        assert all(label == label.lower() for clip in clips for label in clip.labels)
        assert all((clip.events == ()) == (clip.labels == ()) for clip in clips)
    ids = [clip.id for clips in official.values() for clip in clips]
    assert len(set(ids)) == len(ids)


def test_spass_classes_are_the_raw_labels_unless_the_user_maps_them(own):
    folder = own("spass")
    assert len(paper_sets.load_paper_set("spass").classes) == 33
    used = sorted({label for clip in clips_of("spass", folder).values() for label in clip.labels})
    (folder / "classes.json").write_text(json.dumps({used[0]: "both", used[1]: "both"}))
    paper_sets.forget()
    mapped = paper_sets.load_paper_set("spass")
    assert len(mapped.classes) == 32 and "both" in mapped.classes and used[0] not in mapped.classes
    assert mapped.targets("train", 10).sum() > 0
    (folder / "classes.json").write_text('{"spaceship": "air"}')
    paper_sets.forget()
    with pytest.raises(InputError, match="maps 'spaceship', which is no label of SPASS"):
        paper_sets.load_paper_set("spass")


def test_speech_commands_follow_the_rule_that_gives_the_published_counts(made):
    official, _ = read("sc2", made("sc2"))
    names = {split: {clip.id for clip in clips} for split, clips in official.items()}
    assert speech_commands.VALIDATES in names["validation"]
    assert sum(name.startswith("_background_noise_") for name in names["train"]) == 5
    listed = (made("sc2") / speech_commands.TRAIN / "testing_list.txt").read_text().split()
    assert listed and not set(listed) & (names["train"] | names["validation"])
    labels = {clip.id: clip.labels[0] for clips in official.values() for clip in clips}
    for name, label in labels.items():
        word = name.split("/")[0]
        silent = word in ("_background_noise_", "_silence_")
        assert label == ("silence" if silent else "unknown" if word in ("bed", "cat", "_unknown_") else word)
    speakers = [{clip.source for clip in clips} for clips in official.values()]
    assert all(not a & b for a, b in itertools.pairwise(speakers))
    noise = next(clip for clip in official["train"] if clip.labels == ("silence",))
    assert len(read_waveform(noise)) > 16_000 == len(read_clip(noise, 1.0, "sc2"))


def test_a_speaker_is_read_from_every_kind_of_file_name():
    assert speech_commands.speaker("bed/0a2b400e_nohash_1.wav") == "0a2b400e"
    assert speech_commands.speaker("_unknown_/bed_0a2b400e_nohash_1.wav.wav") == "0a2b400e"
    assert speech_commands.speaker("_silence_/7.wav") == "_silence_/7.wav"


def test_a_mirror_of_audioset_with_the_manifests_count_is_whole_and_one_with_fewer_names_what_lacks(own):
    folder = own("as20k", "folders")
    assert not [clip for clip in clips_of("as20k", folder).values() if clip.missing]
    gone = sorted((folder / "data" / "audio" / "eval").iterdir())[0]
    gone.unlink()
    assert gone.stem in {name for name, clip in clips_of("as20k", folder).items() if clip.missing}


def test_a_lossless_copy_of_a_wav_file_serves(own):
    folder = own("esc50")
    before = clips_of("esc50", folder)
    path = sorted(folder.glob("*/audio/*.wav"))[0]
    heard = read_audio(path)
    soundfile.write(path.with_suffix(".flac"), *soundfile.read(path, dtype="int16"))
    path.unlink()
    after = clips_of("esc50", folder)[path.name]
    assert not after.missing and np.array_equal(read_waveform(after), heard)
    assert after.labels == before[path.name].labels and after.path.suffix == ".flac"


# ---- what can be wrong -------------------------------------------------------------------------------------


def rewritten(path, change):
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("name", "variant", "pattern", "change", "said"),
    [
        ("fsd50k", "", "*/eval.csv", lambda _: None, "labels '.*eval.csv' are not there"),
        ("fsd50k", "", "*/dev.csv", lambda t: t.replace("labels", "label", 1), "has no column 'labels', it has fname"),
        ("fsd50k", "", "*/dev.csv", lambda t: t + '"', "cannot be read as a table"),
        ("esc50", "", "*/meta/esc50.csv", lambda t: t.replace("fold", "part", 1), "has no column 'fold'"),
        ("desed", "", "metadata/test.tsv", lambda t: t.replace("onset", "start", 1), "has no column 'onset'"),
        ("desed", "", "metadata/test.tsv", lambda t: t.replace("\t0.", "\tsoon", 1), "has 'soon.*a time in seconds is"),
        ("desed", "", "metadata/test.tsv", lambda _: None, "no table 'metadata/test….tsv'"),
        ("spass", "", "3_*", lambda _: None, "labels '\\*_MatrixLabelsSquare.csv' are not in"),
        ("spass", "", "3_*", lambda t: t.replace("class", "event", 1), "has no column 'class'"),
        ("sc2", "", "*/validation_list.txt", lambda _: None, "neither it nor a folder in it holds"),
        ("sc2", "", "*/testing_list.txt", lambda _: None, "list '.*testing_list.txt' cannot be read"),
        ("urban", "jams", "*/annotations/test/*0.jams", lambda t: t[:-90], "cannot be read as a JAMS file of Scaper"),
        ("urban", "jams", "*/annotations/test/*0.jams", lambda _: None, "'.*bimodal0.wav' has no annotations in"),
        ("urban", "txt", "*/annotations/test/*0.txt", lambda t: "x" + t, "has 'x.*' where a time in seconds is"),
        ("as20k", "tar", "data/eval_segments.csv", lambda _: None, "list 'eval_segments.csv' of AudioSet is not in"),
        ("as20k", "tar", "data/eval_segments.csv", lambda t: t.replace('"', ""), "without labels in quotes"),
        ("as20k", "tar", "data/eval_segments.csv", lambda t: t.replace("\ne", "\nf"), "is not in 'eval_segments.csv'"),
    ],
)
def test_labels_that_are_missing_or_damaged_are_one_clear_sentence(name, variant, pattern, change, said, own):
    folder = own(name, variant)
    path = only(folder, pattern)
    if change("") is None:
        path.unlink()
    else:
        rewritten(path, change)
    with pytest.raises(InputError, match=said):
        read(name, folder)


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_an_empty_folder_or_none_is_told_with_what_should_be_there(name, variant, tmp_path):
    manifest = read_manifest(name)
    with pytest.raises(InputError, match=f"no copy of {manifest['label']} at .*or set UNMUTE_DATA"):
        read_official(name, tmp_path / name, manifest)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"is no copy of {manifest['label']}: neither it nor"):
        read_official(name, tmp_path / name, manifest)


def test_damaged_archives_and_tables_of_a_hub_are_told(own):
    folder = own("as20k", "tar")
    path = folder / "data" / "eval00.tar"
    path.write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match=r"archive '.*eval00.tar' is damaged"):
        read("as20k", folder)


def test_a_parquet_file_that_is_cut_off_or_of_another_set_is_told(own, made):
    folder = own("as20k")
    path = folder / "data" / "eval" / "00.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"'.*00.parquet' cannot be read as Parquet"):
        read("as20k", folder)
    shutil.copy(only(made("esc50", "hub"), "data/*.parquet"), path)
    with pytest.raises(InputError, match="has no column 'video_id', it has filename"):
        read("as20k", folder)


def test_a_split_that_is_not_unpacked_is_told(own):
    folder = own("sc2")
    shutil.rmtree(folder / speech_commands.TEST)
    with pytest.raises(InputError, match=r"'speech_commands_test_set_v0.02' is not in .*unpack that archive"):
        read("sc2", folder)


def spoilt(path, kind):
    """Spoil an audio file."""
    if kind == "not a number":
        soundfile.write(path, np.full(900, np.nan, dtype=np.float32), 16_000, "FLOAT", format="WAV")
    elif kind == "empty":
        soundfile.write(path, np.zeros(0), 16_000, format="WAV")
    elif kind == "missing":
        path.unlink()
    elif kind == "no bytes":
        path.write_bytes(b"")
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SAID = {
    "cut off": "is cut off, it has|flac decoder lost sync",
    "empty": "holds no samples",
    "no bytes": "cannot be read as WAV, FLAC or OGG",
    "not a number": "holds NaN or infinite",
    "missing": "no audio file",
}


@pytest.mark.parametrize("kind", list(SAID))
@pytest.mark.parametrize("start", [0.0, 0.01])
def test_audio_that_cannot_be_used_is_one_error_that_names_clip_set_and_file(kind, start, own):
    folder = own("fsd50k")
    clip = read("fsd50k", folder)[0]["eval"][2]
    spoilt(clip.path, kind)
    with pytest.raises(InputError, match=rf"Clip '{clip.id}' of 'fsd50k' cannot be used: .*{clip.id}.wav.*") as caught:
        read_clip(replace(clip, start=start, seconds=0.2 if start else None), 10.0, "fsd50k")
    assert any(part in str(caught.value) for part in SAID[kind].split("|"))


@pytest.mark.parametrize("kind", ["cut off", "no bytes", "empty", "not a number"])
def test_audio_in_an_archive_that_cannot_be_used_names_the_archive(kind, tmp_path):
    path = tmp_path / "clip.flac"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    spoilt(path, kind)
    content, archive = path.read_bytes(), tmp_path / "all.tar"
    archive.write_bytes(b"before" + content + b"after")
    clip = Record("a", archive, (), "a", offset=6, size=len(content))
    with pytest.raises(
        InputError, match=rf"Clip 'a' of 'set' cannot be used: the file inside '.*all.tar' .*({SAID[kind]})"
    ):
        read_clip(clip, 1.0, "set")
    with pytest.raises(InputError, match="all.tar' is cut off; fetch it again"):
        read_clip(replace(clip, size=10**6), 1.0, "set")


# ---- the recordings that may be here -----------------------------------------------------------------------


def linked(audio, inside, name, tmp_path, monkeypatch):
    if not (audio / inside).is_dir():
        pytest.skip(f"the recordings are not there: set UNMUTE_DATA to where {inside}/ is")
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / name).symlink_to(audio / inside)
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path / "audio"))
    return audio_root() / name


def test_the_real_fold_of_esc50_is_read_and_what_is_not_there_is_counted(audio, tmp_path, monkeypatch):
    folder = linked(audio, "esc50_fold4", "esc50", tmp_path, monkeypatch)
    fold = read_official("esc50", folder, read_manifest("esc50"))["4"]
    assert Counter(clip.labels for clip in fold) == {(label,): 8 for label in read_manifest("esc50")["classes"]}
    assert len({clip.source for clip in fold}) == 297 and not any(clip.missing for clip in fold)
    for clip in fold[::133]:
        assert clip.path.suffix == ".flac" and clip.id.split("-")[1] == clip.source
        assert (
            np.array_equal(read_clip(clip, 5.0, "esc50"), read_audio(clip.path))
            and clip.path.stat().st_size == clip.size
        )
    with pytest.raises(
        InputError, match=r"train has 0 of 1,600 clips \(-1,600\), 14 are listed without audio, such as '2-1"
    ):
        paper_sets.load_paper_set("esc50-fold-4")


def test_the_real_speech_commands_extract_is_read_by_the_official_lists(audio, tmp_path, monkeypatch):
    packed = audio / "speech_commands_downsampled"
    if not packed.is_dir():
        pytest.skip("the extract is not there: set UNMUTE_DATA to where speech_commands_downsampled/ is")
    for name in (speech_commands.TRAIN, speech_commands.TEST):
        with zipfile.ZipFile(packed / f"{name}-small.zip") as archive:
            archive.extractall(tmp_path / "sc2" / name)
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"test has 96 of 4,890 clips .*UNMUTE_INCOMPLETE=sc2"):
        paper_sets.load_paper_set("sc2")
    monkeypatch.setenv("UNMUTE_INCOMPLETE", "sc2")
    extract = paper_sets.load_paper_set("sc2")
    assert Counter(extract.targets("test", 96).argmax(1).tolist()) == dict.fromkeys(range(12), 8)
    lists = tmp_path / "sc2" / speech_commands.TRAIN
    held_out = set((lists / "testing_list.txt").read_text().split())
    validating = set((lists / "validation_list.txt").read_text().split())
    assert {clip.id for clip in extract.records["val"]} <= {*validating, speech_commands.VALIDATES}
    assert not {clip.id for clip in extract.records["train"]} & (held_out | validating)
    assert all(np.abs(extract.scene("test", index).audio).max() > 0.0 for index in range(0, 96, 8))


@pytest.mark.parametrize(("name", "inside"), [("esc10-single", "esc10"), ("spoken-digits", "fsdd")])
def test_esc10_and_the_spoken_digits_load_from_their_real_files(name, inside, audio, monkeypatch):
    if not (audio / inside).is_dir():
        pytest.skip(f"the recordings are not there: run `make data`, or set UNMUTE_DATA to where {inside}/ is")
    monkeypatch.setenv("UNMUTE_DATA", str(audio))
    from lib.store import load_dataset

    data = load_dataset(name)
    assert (
        data.bank.folder == audio / inside and sum(1 for path in (audio / inside).rglob("*.*") if path.is_file()) >= 400
    )
    assert all(np.abs(data.scene("test", index).audio).max() > 0.01 for index in range(3))
