"""The pocket datasets that mirror the paper's groups: scenes, few shots with mixup views, controls, recordings."""

import collections
import functools
import json

import numpy as np
import pandas as pd
import pytest

from lib.data.banks import ESC10_FOLDS, SPLITS, SyntheticBank
from lib.data.datasets import BIOACOUSTIC, CONTROLS, DATASETS, GENERAL, load_dataset
from lib.data.drawing import draw
from lib.data.esc50 import esc50_bank, esc50_table
from lib.data.fewshot import FarBank, draw_mixup, far_away, mix
from lib.data.mixer import Event, Scene
from lib.data.recordings import digit_table
from lib.errors import InputError
from lib.paths import MANIFESTS
from lib.profiles import load_profile

FIRST = {"train": 256, "val": 192, "test": 256}  # what a profile takes at the least
FEW_SHOT = (*BIOACOUSTIC, "esc50-few-shot")
SINGLE = (*CONTROLS, "esc10-single", "spoken-digits")
NEEDS = {"esc10": "esc10", "esc50": "esc50_fold4", "digits": "fsdd"}


def open_dataset(name, audio, monkeypatch):
    data = load_dataset(name)
    folder = NEEDS.get(data.manifest["bank"])
    if folder and not (audio / folder).is_dir():
        pytest.skip(f"the recordings in '{folder}' are not there: run `make data`, or set UNMUTE_DATA")
    monkeypatch.setenv("UNMUTE_DATA", str(audio))
    return data


@functools.cache
def first_targets(name, split, view=0):
    data = load_dataset(name)
    return data.targets(split, min(FIRST[split], data.manifest["sizes"][split]), view)


def draft(data, split, index):
    return draw(data.manifest, data.bank, split, index, data._seeds(split, index)[0])


@pytest.mark.parametrize("name", DATASETS)
def test_every_class_is_heard_in_the_first_clips_of_every_split(name, audio, monkeypatch):
    data = open_dataset(name, audio, monkeypatch)
    for split in FIRST:
        targets = first_targets(name, split)
        assert targets.sum(0).min() >= 1
        assert (targets.sum(1) >= 1).all() and targets.shape[1] == len(data.classes)


@pytest.mark.parametrize("name", DATASETS)
def test_a_manifest_says_its_group_task_metric_and_prototypes(name):
    manifest, group = load_dataset(name).manifest, load_dataset(name).manifest["group"]
    assert (group == "control") == (name in SINGLE) and (group == "bioacoustic") == (name in FEW_SHOT)
    expected = ("single-label", "accuracy") if group == "control" else ("multi-label", "mAP")
    assert (manifest["task"], manifest["metric"]) == expected
    assert manifest.get("prototypes", 20) == (10 if len(manifest["classes"]) >= 40 else 20)
    assert len(set(manifest["classes"])) == len(manifest["classes"])


def test_the_general_sets_have_the_classes_that_their_models_in_the_paper_stand_for():
    assert [len(load_dataset(name).classes) for name in GENERAL] == [16, 49, 28, 10]
    assert set(SyntheticBank(tuple(load_dataset("many-sounds").classes)).classes).isdisjoint({"bird"})
    assert not {"bird"} & {label for name in BIOACOUSTIC for label in load_dataset(name).classes}


@pytest.mark.parametrize("name", [*GENERAL, *BIOACOUSTIC, *CONTROLS])
def test_events_keep_the_ranges_of_the_manifest_and_sources_the_split(name):
    data, pretrain = load_dataset(name), SPLITS.index("pretrain")
    for split in ("train", "test"):
        for index in range(60):
            clip = draft(data, split, index)
            near = [event for event in clip.events if event.label in data.classes]
            assert clip.recipe.events[0] <= len(near) <= clip.recipe.events[1]
            for event in near:
                assert clip.recipe.snr_db[0] <= event.snr_db <= clip.recipe.snr_db[1]
                length = event.offset - event.onset
                assert clip.recipe.event_seconds[0] - 1e-9 <= length <= clip.recipe.event_seconds[1] + 1e-9
            seeds = {int(event.source.rsplit(":", 1)[1]) % len(SPLITS) for event in clip.events}
            assert seeds == {SPLITS.index(split)} and pretrain not in seeds


def test_weak_evidence_lies_below_the_noise_and_beside_loud_events():
    clips = [load_dataset("many-sounds").events("train", index) for index in range(300)]
    levels = [[event.snr_db for event in clip] for clip in clips]
    assert {len(clip) for clip in clips} == {1, 2, 3, 4}
    assert np.mean([min(clip) < 0 for clip in levels]) > 0.3
    assert np.mean([max(clip) - min(clip) > 12 for clip in levels]) > 0.2


def test_each_scene_has_its_share_of_clips_its_background_and_its_likely_sounds():
    data = load_dataset("five-scenes")
    scenes = {tuple(scene["recipe"]["noise_exponent"]): name for name, scene in data.manifest["scenes"].items()}
    clips, heard = collections.Counter(), collections.defaultdict(collections.Counter)
    for index in range(400):
        clip = draft(data, "train", index)
        scene = scenes[clip.recipe.noise_exponent]
        clips[scene] += 1
        heard[scene].update(event.label for event in clip.events)
    assert len(clips) == 5 and min(clips.values()) > 50
    for scene, sounds in heard.items():
        weights = data.manifest["scenes"][scene]["weights"]
        assert set(sounds) == set(weights)
        often, seldom = max(weights, key=weights.get), [label for label in weights if weights[label] == 1]
        assert all(sounds[often] > sounds[label] for label in seldom)
    assert {label for weights in data.manifest["scenes"].values() for label in weights["weights"]} == set(data.classes)


@pytest.mark.parametrize("name", SINGLE)
def test_a_control_has_one_class_a_clip_and_every_class_equally_often(name, audio, monkeypatch):
    data = open_dataset(name, audio, monkeypatch)
    targets = first_targets(name, "train")
    assert (targets.sum(1) == 1).all()
    whole = len(targets) // len(data.classes) * len(data.classes)
    assert len(set(targets[:whole].sum(0))) == 1


@pytest.mark.parametrize("name", CONTROLS)
def test_no_class_is_tied_to_one_seed_of_the_bank_that_the_bootstrap_resamples(name):
    data, seeds = load_dataset(name), collections.defaultdict(set)
    for row, source in zip(first_targets(name, "test"), data.sources("test", 256), strict=True):
        seeds[int(row.argmax())].add(source)
    assert min(len(found) for found in seeds.values()) >= 4


@pytest.mark.parametrize("name", FEW_SHOT)
def test_training_clips_are_k_shots_of_one_class_before_mixup(name, audio, monkeypatch):
    data = open_dataset(name, audio, monkeypatch)
    shots, size = data.manifest["shots"], data.manifest["sizes"]["train"]
    events = [draft(data, "train", index).events for index in range(size)]
    assert {len(clip) for clip in events} == {1}
    assert collections.Counter(clip[0].label for clip in events) == dict.fromkeys(data.classes, shots)
    assert size == shots * len(data.classes)


@pytest.mark.parametrize("name", FEW_SHOT)
def test_test_clips_are_fainter_and_hold_more_than_training_clips(name, audio, monkeypatch):
    data = open_dataset(name, audio, monkeypatch)
    assert data.manifest["far"]["recipe"]["snr_db"][1] <= data.manifest["recipe"]["snr_db"][0]
    assert (first_targets(name, "test").sum(1) > 1).mean() > 0.6


def test_a_view_adds_one_other_clip_nine_times_in_ten_and_its_label():
    data = load_dataset("forest-few-shot")
    size, mixed, partners = data.manifest["sizes"]["train"], [], set()
    for view in range(data.views("train")):
        targets = first_targets("forest-few-shot", "train", view)
        for index in range(size):
            mixup = data._mixup("train", index, view)
            own = draft(data, "train", index).events[0].label
            labels = {own} | ({draft(data, "train", mixup.partner).events[0].label} if mixup else set())
            assert {data.classes[c] for c in np.flatnonzero(targets[index])} == labels
            mixed.append(mixup is not None)
            if mixup:
                assert mixup.partner != index and 0 <= mixup.partner < size and 5 <= mixup.snr_db <= 25
                partners.add((index, mixup.partner))
    assert data.views("train") == 5 and 0.85 < np.mean(mixed) < 0.95
    assert len(partners) > 0.8 * 5 * size  # the five views of a clip differ


def test_partners_are_all_other_clips_alike():
    views = {"probability": 1.0, "snr_db": [5.0, 25.0]}
    drawn = collections.Counter(draw_mixup(views, [7, number], 2, 4).partner for number in range(600))
    assert set(drawn) == {0, 1, 3} and min(drawn.values()) > 150


def test_a_view_that_is_not_there_is_one_clear_sentence():
    data = load_dataset("forest-few-shot")
    with pytest.raises(InputError, match="View 5 of split 'train' of 'forest-few-shot' .* views 0 to 4"):
        data.events("train", 0, 5)
    with pytest.raises(InputError, match="View 1 of split 'test' .* views 0 to 0"):
        data.scene("test", 0, 1)
    assert load_dataset("soundscapes").views("train") == data.views("val") == 1


def test_the_version_of_a_clip_tells_its_view_apart_and_leaves_view_0_as_it_was():
    data = load_dataset("farm-few-shot")
    assert data.version("train", 32, 3) == data.version("train", 32) | {"view": 3}
    keys = {"dataset", "manifest", "split", "clips", "recordings", "data_code"}
    assert set(load_dataset("soundscapes").version("train", 32)) == keys


def test_mixup_keeps_the_stated_distance_and_moves_the_levels_of_the_events():
    rng = np.random.default_rng(3)
    first, second = (Scene(level * rng.standard_normal(16_000).astype(np.float32), (event,)) for level, event in EVENTS)
    mixed = mix(first, second, 12.0)
    added = mixed.audio - first.audio
    assert 10 * np.log10(np.mean(first.audio**2) / np.mean(added**2)) == pytest.approx(12.0, abs=1e-3)
    assert [event.label for event in mixed.events] == ["owl", "crow"]  # in order of onset
    gain = 10 * np.log10(np.mean(added**2) / np.mean(second.audio**2))
    assert mixed.events[0].snr_db == pytest.approx(EVENTS[1][1].snr_db + gain, abs=1e-3)
    assert mixed.events[1] == EVENTS[0][1]
    loud = mix(Scene(first.audio * 40, ()), second, 5.0)
    assert np.abs(loud.audio).max() == pytest.approx(0.99)


EVENTS = (
    (0.02, Event("crow", "crow:1", 0.5, 0.9, 20.0)),
    (0.04, Event("owl", "owl:1", 0.1, 0.4, 25.0)),
)


def test_what_comes_from_afar_is_dull_smeared_and_no_longer_than_it_was():
    noise = np.random.default_rng(0).standard_normal(16_000)
    far = far_away(noise, np.random.default_rng(1), (1500.0, 1500.0), (0.5, 0.5))
    power = [np.abs(np.fft.rfft(sound)) ** 2 for sound in (noise, far)]
    treble, bass = (np.sum(power[1][band]) / np.sum(power[0][band]) for band in (np.s_[4000:], np.s_[100:1000]))
    assert treble < 0.2 * bass and len(far) == 16_000
    click = np.zeros(16_000)
    click[0] = 1.0
    tail = np.square(far_away(click, np.random.default_rng(1), (1500.0, 1500.0), (0.5, 0.5)))
    assert tail[800:4000].sum() > 0.1 * tail.sum() and tail[8400:].sum() < 1e-5 * tail.sum()


def test_rain_and_insects_are_heard_near_by_and_are_no_class():
    data = load_dataset("forest-few-shot")
    clip = draft(data, "test", 0)
    others = [event for event in clip.events if event.label not in data.classes]
    assert others and {event.label for event in others} <= set(data.manifest["far"]["others"]["classes"])
    assert not set(data.manifest["far"]["others"]["classes"]) & set(data.classes)
    source = others[0].source.removeprefix("other/")
    assert np.array_equal(clip.bank.render(others[0].source, 0.5), SyntheticBank().render(source, 0.5))
    near = clip.events[0].source
    assert not np.array_equal(clip.bank.render(near, 0.5), data.bank.render(near, 0.5))
    assert np.array_equal(clip.bank.render(near, 0.5), clip.bank.render(near, 0.5))


@pytest.mark.parametrize(
    ("name", "split", "view"),
    [
        ("five-scenes", "val", 0),
        ("forest-few-shot", "train", 1),
        ("farm-few-shot", "test", 0),
        ("short-sounds", "val", 0),
    ],
)
def test_a_clip_is_ten_audible_seconds_the_same_each_time_with_the_events_that_were_planned(name, split, view):
    data = load_dataset(name)
    scene, again = data.scene(split, 2, view), load_dataset(name).scene(split, 2, view)
    assert np.array_equal(scene.audio, again.audio) and scene.events == again.events
    assert scene.audio.shape == (160_000,) and scene.audio.dtype == np.float32
    assert np.isfinite(scene.audio).all() and 0.01 < np.abs(scene.audio).max() < 1
    planned = data.events(split, 2, view)
    assert [(e.label, e.source, e.onset) for e in scene.events] == [(e.label, e.source, e.onset) for e in planned]
    assert {event.label for event in scene.events} <= set(data.classes)


def test_two_views_of_a_clip_sound_differently():
    data = load_dataset("forest-few-shot")
    first, second = (data.scene("train", 0, view).audio for view in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", ["esc10-single", "spoken-digits"])
def test_every_recording_of_a_split_is_one_clip_and_none_serves_two_splits(name, audio, monkeypatch):
    data, seen = open_dataset(name, audio, monkeypatch), {}
    for split, size in data.manifest["sizes"].items():
        files = [data.events(split, index)[0].source.rsplit(":", 1)[0] for index in range(size)]
        assert len(set(files)) == size == sum(len(data.bank.files(label, split)) for label in data.classes)
        seen[split] = {data.bank.recording(f"{file}:0") for file in files}
    assert not seen["train"] & seen["val"] and not (seen["train"] | seen["val"]) & seen["test"]


def test_the_digits_of_the_test_split_are_the_official_takes(audio, monkeypatch):
    data, takes = open_dataset("spoken-digits", audio, monkeypatch), digit_table().set_index("file")["take"]
    found = {
        split: {takes[data.events(split, index)[0].source.rsplit(":", 1)[0]] for index in range(size)}
        for split, size in data.manifest["sizes"].items()
    }
    assert found == {"train": set(range(10, 50)), "val": set(range(5, 10)), "test": set(range(5))}


def test_a_recording_is_heard_whole_from_the_start(audio, monkeypatch):
    scene = open_dataset("spoken-digits", audio, monkeypatch).scene("test", 0)
    (event,) = scene.events
    stop = round(event.offset * 16_000)
    assert event.onset == 0 and 0.1 < event.offset < 2.5 and scene.audio.shape == (160_000,)
    assert np.mean(scene.audio[:stop] ** 2) > 300 * np.mean(scene.audio[stop:] ** 2)


def test_the_clips_of_esc50_are_free_and_no_recording_serves_two_splits_or_pretraining():
    table = esc50_table()
    assert set(table["license"]) == {"CC0-1.0", "CC-BY-3.0"} and table.notna().all(axis=None)
    assert table.groupby("recording")["split"].nunique().max() == 1
    assert (table.groupby("label")["split"].nunique() == 3).all() and table["label"].nunique() == 47
    assert not {"airplane", "fireworks", "washing_machine"} & set(table["label"])
    esc10 = pd.read_csv(MANIFESTS / "esc10.csv", dtype={"recording": str})
    heard = set(esc10["recording"][esc10["fold"].isin(ESC10_FOLDS["pretrain"])])
    assert heard and not heard & set(table["recording"])
    assert load_dataset("esc50-soundscapes").classes == list(dict.fromkeys(table["label"]))


def test_clips_of_esc50_come_from_the_recordings_of_their_split(audio, monkeypatch):
    table = esc50_table()
    split_of = dict(zip(table["recording"], table["split"], strict=True))
    for name in ("esc50-soundscapes", "esc50-few-shot"):
        data = open_dataset(name, audio, monkeypatch)
        for split in FIRST:
            clips = data.sources(split, 60)
            assert {split_of[recording] for clip in clips for recording in clip} == {split}


def test_missing_recordings_of_esc50_say_where_they_were_sought_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"ESC-50 recordings are not in .*unpack https://.*UNMUTE_DATA"):
        esc50_bank()
    (tmp_path / "ESC-50" / "audio").mkdir(parents=True)
    with pytest.raises(InputError, match=r"\d+ of \d+ ESC-50 files are missing in '.*unpack the archive again"):
        esc50_bank()
    for file in esc50_table()["file"]:
        (tmp_path / "ESC-50" / "audio" / f"{file}.wav").write_bytes(b"something else")
    bank = esc50_bank()
    with pytest.raises(InputError, match=r"4-.*\.wav' is not the recording of the manifest"):
        bank.render(bank.choose("dog", "test", np.random.default_rng(0)), 1.0)


def test_a_recording_of_esc50_is_read_where_it_is_that_of_the_manifest(audio, monkeypatch):
    bank = open_dataset("esc50-few-shot", audio, monkeypatch).bank
    sound = bank.render(bank.choose("dog", "test", np.random.default_rng(0)), 1.0)
    assert 1600 <= len(sound) <= 16_000 and np.abs(sound).max() > 0.01


def test_an_unknown_way_to_draw_clips_is_named():
    manifest = json.loads((MANIFESTS / "short-sounds.json").read_text()) | {"draw": "in turns"}
    with pytest.raises(InputError, match="Unknown way to draw clips 'in turns'.*Did you mean 'in turn'"):
        draw(manifest, SyntheticBank(tuple(manifest["classes"])), "train", 0, np.random.SeedSequence(1))


def test_a_bank_from_afar_still_chooses_as_its_bank_does():
    bank = SyntheticBank(("owl",))
    far = FarBank(bank, (1000.0, 2000.0), (0.3, 0.6))
    assert far.classes == bank.classes
    assert far.choose("owl", "val", np.random.default_rng(4)) == bank.choose("owl", "val", np.random.default_rng(4))


def test_the_splits_are_large_enough_for_the_pocket_profile():
    profile = load_profile("pocket")
    for name in profile.datasets:
        sizes, needed = load_dataset(name).manifest["sizes"], profile.clips_of(name)
        assert all(sizes[split] >= needed[split] for split in sizes)
