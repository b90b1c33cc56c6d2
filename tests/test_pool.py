"""The pretraining pool: what may be in it, its labels, the same bytes for the same seed, an interrupted rendering."""

import collections

import numpy as np
import pandas as pd
import pytest
import torch

from lib.audio import SAMPLE_RATE
from lib.data import recordings as recordings_module
from lib.data.banks import ESC10_FOLDS, SPLITS, RecordingBank, SyntheticBank
from lib.data.datasets import DATASETS, load_dataset
from lib.data.recordings import (
    DIGIT_LICENSES,
    DIGIT_TAKES,
    DIGITS,
    TEST_HOURS,
    VAL_HOURS,
    attributions,
    digit_bank,
    digit_table,
    field_recordings,
    read_field_recording,
    split_of_hour,
)
from lib.encoders import pool
from lib.encoders.pool import SHARES, UNLABELLED, build_pool, clip_labels, load_pool, plan_clip, render_clip
from lib.errors import InputError
from lib.paths import MANIFESTS

ESC10 = pd.read_csv(MANIFESTS / "esc10.csv", dtype={"recording": str})


@pytest.fixture
def all_audio(recordings):
    """Have all recordings of the pool there, or skip."""
    for name in ("fsdd", "maad"):
        if not (recordings / name).is_dir():
            pytest.skip(f"the recordings of {name}/ are not there: run `make data`, or set UNMUTE_DATA")
    return recordings


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    """The banks of the pool without their audio: enough to plan."""
    folder = tmp_path_factory.mktemp("no audio")
    return {
        "synthetic": SyntheticBank(),
        "esc10": RecordingBank(ESC10, folder, ESC10_FOLDS),
        "digits": RecordingBank(digit_table(), folder, DIGIT_TAKES, "digits", DIGIT_LICENSES),
    }


@pytest.fixture(scope="module")
def plans(banks):
    return [plan_clip(banks, pool.SEED, index) for index in range(3_000)]


@pytest.fixture(scope="module")
def sources(plans):
    """Every source that 3,000 clips of the shipped pool use, by bank."""
    found = collections.defaultdict(set)
    for clip in plans:
        for mixture in clip.mixtures:
            found[mixture.bank] |= {
                event.source.rsplit(":", 1)[0 if mixture.bank != "synthetic" else 1] for event in mixture.events
            }
        if clip.field:
            found["field"].add(clip.field)
    return found


def test_no_clip_of_a_held_out_fold_or_under_sampling_plus_terms_is_in_the_pool(sources):
    rows = ESC10.set_index("file").loc[list(sources["esc10"])]
    assert len(rows) == 238  # all that may be used are
    assert set(rows["fold"]) == {1, 2, 3} and set(rows["license"]) == {"CC0-1.0", "CC-BY-3.0"}
    held_out = ESC10[ESC10["fold"] >= 4]
    assert not set(rows["recording"]) & set(held_out["recording"])


def test_no_recording_of_the_esc50_fold_that_is_here_is_in_the_pool(sources, audio):
    if not (audio / "esc50_fold4" / "meta" / "esc50.csv").is_file():
        pytest.skip("ESC-50, fold 4, is not there; it is used by this test alone")
    meta = pd.read_csv(audio / "esc50_fold4" / "meta" / "esc50.csv", dtype={"src_file": str})
    evaluated = set(meta["src_file"][meta["fold"] == 4])
    used = set(ESC10.set_index("file").loc[list(sources["esc10"]), "recording"])
    assert len(evaluated) > 100 and not used & evaluated


def test_no_test_take_of_a_digit_is_in_the_pool(sources):
    takes = {int(file.rsplit("_", 1)[1].removesuffix(".wav")) for file in sources["digits"]}
    assert takes == set(range(5, 50))


def test_no_held_out_hour_of_the_field_recordings_is_in_the_pool(sources):
    hours = {int(file.rsplit("_", 1)[1][:2]) for file in sources["field"]}
    assert hours == set(range(24)) - set(TEST_HOURS) - set(VAL_HOURS)


def test_no_synthetic_sound_of_a_dataset_is_in_the_pool(sources):
    assert {int(seed) % len(SPLITS) for seed in sources["synthetic"]} == {SPLITS.index("pretrain")}
    data = load_dataset("soundscapes")
    for split in ("train", "val", "test"):
        evaluated = {event.source.rsplit(":", 1)[1] for i in range(300) for event in data.events(split, i)}
        assert not evaluated & sources["synthetic"]


def test_every_source_is_in_the_list_of_attributions_and_no_licence_forbids_it(sources):
    table = attributions()
    for name, files in (("ESC-10", "esc10"), ("FSDD", "digits"), ("scikit-maad", "field")):
        assert sources[files] <= set(table["file"][table["set"] == name])
    assert set(table["license"]) == {"CC0-1.0", "CC-BY-3.0", "CC-BY-SA-4.0", "BSD-3-Clause"}
    assert table.notna().all(axis=None) and table["source"].str.match("https?://").all()
    assert (len(table), len(table.drop_duplicates(["set", "file"]))) == (238 + 2700 + 60,) * 2


def test_the_datasets_that_heads_are_compared_on_take_from_no_bank_but_those_held_against_it_here():
    assert {load_dataset(name).manifest["bank"] for name in DATASETS} <= {"synthetic", "esc10", "esc50", "digits"}


def test_the_manifests_split_as_the_docstring_says():
    digits = pd.read_csv(MANIFESTS / "spoken_digits.csv")
    assert ((digits["take"] < 5) == (digits["split"] == "test")).all() and set(digits["split"]) == {"train", "test"}
    names = [f"recordings/{DIGITS.index(r.label)}_{r.speaker}_{r.take}.wav" for r in digits.itertuples()]
    assert names == digits["file"].tolist() and len(digits) == 3_000
    assert not set(digits["sha256"][digits["split"] == "test"]) & set(digits["sha256"][digits["split"] == "train"])
    field = pd.read_csv(MANIFESTS / "field_recordings.csv")
    assert field["split"].tolist() == [split_of_hour(int(file.split("_")[2][:2])) for file in field["file"]]
    assert field["split"].value_counts().to_dict() == {"train": 60, "test": 24, "val": 12}
    assert field["samples_sha256"].is_unique
    assert field_recordings("pretrain") == field_recordings("train")
    train, val, test = (set(field_recordings(split)) for split in ("train", "val", "test"))
    assert not train & val and not train & test and not val & test


def test_every_kind_has_its_share(plans):
    share = {kind: sum(clip.kind == kind for clip in plans) / len(plans) for kind in SHARES}
    assert all(abs(share[kind] - wanted) < 0.03 for kind, wanted in SHARES.items())
    assert {bool(clip.mixtures) for clip in plans if clip.kind == "field"} == {True, False}
    assert {len(clip.mixtures) for clip in plans if clip.kind == "digits"} == {1, 2}
    spoken = [len(clip.mixtures[0].events) for clip in plans if clip.kind == "digits"]
    assert (min(spoken), max(spoken)) == (2, 8)


def test_labels_are_the_classes_heard_in_synthetic_clips_and_unknown_elsewhere(plans):
    classes = SyntheticBank().classes
    for clip in plans[:300]:
        labels = clip_labels(clip, classes)
        if clip.kind == "synthetic":
            (mixture,) = clip.mixtures
            assert {classes[c] for c in np.flatnonzero(labels)} == {event.label for event in mixture.events}
            assert labels.max() == 1
        else:
            assert (labels == UNLABELLED).all()


def test_the_same_seed_gives_the_same_clip_and_another_seed_another(all_audio):
    banks = pool.open_banks()
    for kind in SHARES:
        index = next(i for i in range(100) if plan_clip(banks, 1, i).kind == kind)
        first, again, other = (render_clip(banks, seed, index) for seed in (1, 1, 2))
        assert np.array_equal(first, again) and not np.array_equal(first, other)
        assert first.shape == (160_000,) and 0.001 < np.abs(first).max() <= 0.99


def test_a_field_recording_is_heard_at_its_level_under_the_events(all_audio, monkeypatch):
    banks = pool.open_banks()
    index = next(i for i in range(200) if (c := plan_clip(banks, 1, i)).kind == "field" and c.mixtures)
    clip = plan_clip(banks, 1, index)
    whole = render_clip(banks, 1, index)
    monkeypatch.setattr(pool, "render", lambda *_: type("Silence", (), {"audio": np.zeros(160_000)}))
    background = render_clip(banks, 1, index)
    assert 20 * np.log10(np.sqrt(np.mean(background**2))) == pytest.approx(clip.field_db, abs=0.1)
    wanted = read_field_recording(clip.field)
    assert np.corrcoef(background, wanted)[0, 1] > 0.9999 and not np.allclose(whole, background, atol=1e-3)


def test_a_field_recording_is_freed_of_offset_and_rumble(all_audio):
    waveform = read_field_recording(field_recordings("test")[0])
    power = np.abs(np.fft.rfft(waveform)) ** 2
    low = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE) < 25
    assert waveform.shape == (160_000,) and power[low].sum() < 0.02 * power.sum()


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 6)


def test_an_interrupted_rendering_resumes_and_ends_in_the_same_bytes(all_audio, small_chunks, monkeypatch, tmp_path):
    unbroken = load_pool(build_pool(18, seed=4), 18)
    monkeypatch.setenv("UNMUTE_CACHE", str(tmp_path / "other"))
    written, write = [], pool.write_tensors

    def write_then_die(path, tensors):
        if written:
            raise KeyboardInterrupt
        write(path, tensors)
        written.append(path)

    monkeypatch.setattr(pool, "write_tensors", write_then_die)
    with pytest.raises(KeyboardInterrupt):
        build_pool(18, seed=4)
    before = {path: path.stat().st_mtime_ns for path in written}
    monkeypatch.setattr(pool, "write_tensors", write)
    resumed = load_pool(build_pool(18, seed=4), 18)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert torch.equal(unbroken.clips, resumed.clips) and torch.equal(unbroken.labels, resumed.labels)
    assert unbroken.clips.shape == (18, 499, 64) and unbroken.clips.dtype == torch.float16
    assert torch.isfinite(unbroken.clips).all()
    kinds = [plan_clip(pool.open_banks(), 4, index).kind for index in range(18)]
    assert (unbroken.labels[:, 0] != UNLABELLED).tolist() == [kind == "synthetic" for kind in kinds]
    labelled = unbroken.labelled()
    assert len(labelled.clips) == len(labelled.labels) == kinds.count("synthetic") and labelled.labels.max() == 1
    smaller = load_pool(build_pool(12, seed=4), 12)
    assert torch.equal(smaller.clips, unbroken.clips[:12])


def test_a_changed_recipe_seed_or_manifest_makes_another_pool(monkeypatch, tmp_path):
    known = {pool.digest(pool.describe()), pool.digest(pool.describe(seed=1))}
    with monkeypatch.context() as patch:
        patch.setitem(pool.SHARES, "field", 0.2)
        known.add(pool.digest(pool.describe()))
    with monkeypatch.context() as patch:
        patch.setattr(pool, "sha256", lambda path: path.name)
        known.add(pool.digest(pool.describe()))
    assert len(known) == 4


def test_a_wrong_request_is_one_clear_sentence(all_audio, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="A pool of 100 clips .* multiple of 250"):
        build_pool(100)
    with pytest.raises(InputError, match="Unknown split 'evening'"):
        field_recordings("evening")
    with pytest.raises(InputError, match="no field recording 'x.wav'"):
        read_field_recording("x.wav")
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path))
    recordings_module.read_field_recording.cache_clear()
    with pytest.raises(InputError, match=r"field recordings is not at .*make data"):
        read_field_recording(field_recordings("test")[1])
    with pytest.raises(InputError, match=r"spoken digits is not at .*make data"):
        digit_bank()
