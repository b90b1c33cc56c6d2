"""Lists of files as users of EAT and SSLAM have them: read line by line, written back the same, made clips."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lib.data import lists
from lib.data.lists import AudioList, Entry
from lib.data.official import Record
from lib.data.paper_manifests import read_manifest
from lib.errors import InputError

# In the form of the published lists of spass and as20k.
SPASS = {
    "eval.tsv": "/data/SPASS/\n"
    "Market_audio_files/market03751.wav\t441000\nMarket_audio_files/market03752.wav\t440000\n",
    "eval.lbl": "Market_audio_files/market03751\ttalk,crowd\nMarket_audio_files/market03752\tmusic\n",
    "label_descriptors.csv": "0,music,music\n1,talk,talk\n2,crowd,crowd\n",
}
AUDIOSET = {
    "train.tsv": "/data/audioset/\nbal_train/Y-0SdAVK79lg.wav\t32000\nbal_train/YebhTLAnD8nQ.wav\t32000\n",
    "train.lbl": "Y-0SdAVK79lg\t/m/0342h,/m/04rlf\nYebhTLAnD8nQ\t/m/04rlf\t0\n",
    "label_descriptors.csv": 'index,mid,display_name\n0,/m/04rlf,"Music"\n1,/m/0342h,"Guitar, of six strings"\n',
}


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


def contents(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_a_list_is_read_in_order_with_labels_by_file(tmp_path):
    audio = lists.read_list(put(tmp_path, SPASS), "eval")
    assert audio.root == "/data/SPASS/" and audio.labels == audio.names == ("music", "talk", "crowd")
    assert audio.entries == (
        Entry("Market_audio_files/market03751.wav", 441_000, ("talk", "crowd")),
        Entry("Market_audio_files/market03752.wav", 440_000, ("music",)),
    )


def test_ids_names_with_commas_a_header_and_numbers_of_labels_are_understood(tmp_path):
    audio = lists.read_list(put(tmp_path, AUDIOSET), "train")
    assert audio.names == ("Music", "Guitar, of six strings")
    assert [entry.labels for entry in audio.entries] == [("/m/0342h", "/m/04rlf"), ("/m/04rlf",)]


@pytest.mark.parametrize(("files", "split", "ids"), [(SPASS, "eval", "path"), (AUDIOSET, "train", "name")])
def test_what_is_written_is_read_the_same_and_written_the_same_again(tmp_path, files, split, ids):
    audio = lists.read_list(put(tmp_path / "given", files), split)
    lists.write_list(tmp_path / "first", split, audio, ids)
    assert lists.read_list(tmp_path / "first", split) == audio
    lists.write_list(tmp_path / "second", split, lists.read_list(tmp_path / "first", split), ids)
    assert contents(tmp_path / "second") == contents(tmp_path / "first")
    if files is SPASS:  # which is in the form that we write
        assert contents(tmp_path / "first") == files


def test_line_ends_of_another_system_change_nothing(tmp_path):
    other = {name: text.replace("\n", "\r\n") for name, text in SPASS.items()}
    assert lists.read_list(put(tmp_path / "a", other), "eval") == lists.read_list(put(tmp_path / "b", SPASS), "eval")


def test_a_clip_without_labels_stays_one(tmp_path):
    files = SPASS | {"eval.lbl": "market03751\t\nmarket03752\tmusic\n"}
    audio = lists.read_list(put(tmp_path / "given", files), "eval")
    assert audio.entries[0].labels == ()
    lists.write_list(tmp_path / "again", "eval", audio)
    assert lists.read_list(tmp_path / "again", "eval") == audio


def test_sample_rates_in_the_place_of_samples_are_dropped_when_the_length_is_known(tmp_path, capsys):
    folder = put(tmp_path, AUDIOSET)
    assert [entry.samples for entry in lists.read_list(folder, "train").entries] == [32_000, 32_000]
    audio = lists.read_list(folder, "train", seconds=10)
    assert [entry.samples for entry in audio.entries] == [None, None]
    assert "'train.tsv' has 32000 samples for every file, which is a sample rate" in capsys.readouterr().out
    assert lists.read_list(folder, "train", seconds=1).entries[0].samples == 32_000  # then it is a second at 32 kHz
    assert lists.read_list(put(tmp_path / "spass", SPASS), "eval", seconds=10).entries[0].samples == 441_000
    with pytest.raises(InputError, match="samples of 'bal_train/Y-0SdAVK79lg.wav' is not known; ask `count_samples`"):
        lists.write_list(tmp_path / "again", "train", audio)
    assert not (tmp_path / "again").exists()


TSV, LBL = SPASS["eval.tsv"], SPASS["eval.lbl"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("eval.tsv", "", "Line 1 of '.*eval.tsv' is not the folder of the audio"),
        ("eval.tsv", "\n" + TSV, "Line 1 of '.*eval.tsv' is not the folder"),
        ("eval.tsv", TSV.split("\n", 1)[1], "Line 1 of '.*eval.tsv' is not the folder"),
        (
            "eval.tsv",
            TSV.replace("\t440000", " 440000"),
            "Line 3 .*is not a path, a tab and a number of samples: 'Mark",
        ),
        ("eval.tsv", TSV.replace("440000", "10.0"), "Line 3 of '.*eval.tsv' is not a path, a tab"),
        ("eval.tsv", TSV.replace("440000", "0"), "Line 3 of '.*eval.tsv' is not a path, a tab"),
        ("eval.tsv", TSV + "\n", "Line 4 of '.*eval.tsv' is not a path, a tab"),
        (
            "eval.tsv",
            TSV.replace("Market_audio_files/market03752", "../other"),
            "Line 3 .*path '../other.wav', which does",
        ),
        ("eval.tsv", TSV.replace("Market_audio_files/market03752", "/other"), "Line 3 .*has the path '/other.wav'"),
        ("eval.tsv", TSV.replace("03752", "03751"), "Line 3 .*names 'Mark.*' again, after line 2; take one"),
        ("eval.tsv", TSV + "more.wav\t5\n", "'.*eval.lbl' has 2 lines for the 3 files of the .tsv"),
        ("eval.tsv", b"/data\n\xff\xfe.wav\t5\n", "'.*eval.tsv' cannot be read as text"),
        ("eval.lbl", LBL + "more\tmusic\n", "Line 3 of '.*eval.lbl' is one too many: the .tsv has 2 files"),
        (
            "eval.lbl",
            "".join(LBL.splitlines(True)[::-1]),
            "Line 1 .*is of 'Mar.*03752' where the .tsv has 'Mar.*03751.wav'",
        ),
        (
            "eval.lbl",
            LBL.replace("talk", "walk"),
            "Line 1 of '.*eval.lbl' has the label 'walk', which is not in label_d",
        ),
        ("eval.lbl", LBL.replace("talk", "crowd"), "Line 1 of '.*eval.lbl' has a label twice: 'crowd,crowd'"),
        ("eval.lbl", LBL.replace("crowd", "crowd\t1,0"), "Line 1 of '.*eval.lbl' numbers its labels 1,0, which is not"),
        (
            "label_descriptors.csv",
            "music\n",
            "Line 1 of '.*label_descriptors.csv' is not a number, a comma and a label",
        ),
        ("label_descriptors.csv", "0,music\n1,\n", "Line 2 of '.*csv' is not a number, a comma and a label"),
        ("label_descriptors.csv", "0,music\n0,talk\n", "Line 2 .*has a number or a label a second time: '0,talk'"),
        ("label_descriptors.csv", "0,music\n1,music\n", "Line 2 .*has a number or a label a second time: '1,music'"),
        ("label_descriptors.csv", "0,music\n2,talk\n", "'.*csv' has no class 1; number the classes from 0"),
        ("label_descriptors.csv", "", "'.*csv' has no class 0"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path, name, text, said):
    put(tmp_path, SPASS)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=said):
        lists.read_list(tmp_path, "eval")


def test_a_missing_file_is_named(tmp_path):
    for name in SPASS:
        put(tmp_path, SPASS)
        (tmp_path / name).unlink()
        with pytest.raises(
            InputError, match=f"There is no '{re.escape(name)}' in .*put it there, or name another split"
        ):
            lists.read_list(tmp_path, "eval")


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    good = AudioList("/data", (Entry("a.wav", 5, ("dog",)),), ("dog",), ("dog",))
    for wrong, said in (
        (replace(good, root=" "), "' ' cannot be the first line"),
        (replace(good, labels=("dog, big",)), "The label 'dog, big' cannot be written, since commas"),
        (replace(good, entries=(Entry("a\tb.wav", 5),)), "holds a tab or a line break"),
        (replace(good, entries=(Entry("a.wav", 5, ("cat",)),)), "Unknown label of 'a.wav' 'cat'; choose one of: dog"),
    ):
        with pytest.raises(InputError, match=said):
            lists.write_list(tmp_path / "out", "train", wrong)
    with pytest.raises(InputError, match="Unknown way to call a file 'id'; choose one of: path, name"):
        lists.write_list(tmp_path / "out", "train", good, "id")
    assert not (tmp_path / "out").exists()
    lists.write_list(tmp_path / "out", "train", good)
    other = AudioList("/data", (), ("dog", "cat"), ("dog", "cat"))
    with pytest.raises(InputError, match="has other classes than 'eval'; write into another folder"):
        lists.write_list(tmp_path / "out", "eval", other)


def test_lists_of_mids_become_clips_with_the_manifests_names(tmp_path):
    records = lists.to_records(lists.read_list(put(tmp_path, AUDIOSET), "train"), read_manifest("as20k"))
    assert records[0].labels == ("Guitar", "Music") and records[1].labels == ("Music",)
    assert records[0].path == Path("/data/audioset/bal_train/Y-0SdAVK79lg.wav")
    assert [record.id for record in records] == ["bal_train/Y-0SdAVK79lg.wav", "bal_train/YebhTLAnD8nQ.wav"]


def test_labels_that_are_no_class_of_the_dataset_are_refused(tmp_path):
    audio = lists.read_list(put(tmp_path, SPASS), "eval")
    assert lists.to_records(audio, read_manifest("spass"))[0].labels == ("talk", "crowd")  # its raw labels
    with pytest.raises(InputError, match="Unknown class of URBAN-SED 'music'; choose one of: air_conditioner, "):
        lists.to_records(audio, read_manifest("urban"))


def test_clips_of_an_official_copy_become_a_list_and_clips_again(tmp_path):
    root = tmp_path / "as20k"
    (root / "audio" / "eval").mkdir(parents=True)
    for name, samples in (("a", 4_800), ("b", 4_410)):
        soundfile.write(root / f"audio/eval/{name}.flac", np.zeros(samples), 48_000)
    records = [
        Record("a", root / "audio/eval/a.flac", ("Speech", "Male speech, man speaking"), "a"),
        Record("b", root / "audio/eval/b.flac", (), "b"),
    ]
    manifest = read_manifest("as20k")
    audio = lists.from_records(records, manifest, root)
    assert [entry.samples for entry in audio.entries] == [4_800, 4_410] and len(audio.labels) == 527
    assert audio.entries[0].labels == ("/m/09x0r", "/m/05zppz")
    lists.write_list(tmp_path / "lists", "eval", audio, "name")
    assert (tmp_path / "lists" / "eval.lbl").read_text() == "a\t/m/09x0r,/m/05zppz\nb\t\n"
    again = lists.to_records(lists.read_list(tmp_path / "lists", "eval", manifest["seconds"]), manifest)
    assert [(record.path, record.labels) for record in again] == [(record.path, record.labels) for record in records]
    unknown = replace(audio, entries=tuple(replace(entry, samples=None) for entry in audio.entries))
    assert lists.count_samples(unknown) == audio


def test_a_clip_inside_an_archive_and_a_missing_file_cannot_be_listed(tmp_path):
    manifest = read_manifest("as20k")
    for record in (
        Record("a", tmp_path / "a.tar", ("Speech",), "a", offset=512),
        Record("a", tmp_path / "a.parquet", ("Speech",), "a", row=0),
        Record("a", tmp_path / "a.flac", ("Speech",), "a", start=5.0, seconds=5.0),
        Record("a", tmp_path / "a.flac", ("Speech",), "a", missing=True),
        Record("a", tmp_path.parent / "elsewhere.flac", ("Speech",), "a"),
    ):
        with pytest.raises(InputError, match="The clip 'a' of AudioSet-20k is no file of its own below .*unpack it"):
            lists.from_records([record], manifest, tmp_path)
    with pytest.raises(InputError, match="'.*a.flac' is not there or is no audio"):
        lists.from_records([Record("a", tmp_path / "a.flac", ("Speech",), "a")], manifest, tmp_path)
