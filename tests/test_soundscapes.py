"""Banks, the mixer, and the frozen datasets."""

import json

import numpy as np
import pytest

from lib.data import banks, datasets
from lib.data.banks import ESC10_FOLDS, SyntheticBank, esc10_bank, loud_excerpt
from lib.data.datasets import DATASETS, load_dataset, manifest_hash
from lib.data.mixer import Recipe, plan, render
from lib.errors import InputError
from lib.files import digest
from lib.paths import MANIFESTS


@pytest.fixture(scope="module")
def soundscapes():
    return load_dataset("soundscapes")


def test_the_same_seed_gives_the_same_clip_and_another_index_another(soundscapes):
    first, again, other = (soundscapes.scene("train", i) for i in (3, 3, 4))
    assert np.array_equal(first.audio, again.audio) and first.events == again.events
    assert not np.array_equal(first.audio, other.audio)


def test_a_clip_keeps_the_ranges_of_its_recipe(soundscapes):
    recipe = soundscapes.recipe
    counts = set()
    for index in range(60):
        events = soundscapes.events("val", index)
        counts.add(len(events))
        for event in events:
            assert recipe.event_seconds[0] <= event.offset - event.onset <= recipe.event_seconds[1] + 1e-9
            assert recipe.snr_db[0] <= event.snr_db <= recipe.snr_db[1]
            assert event.onset >= 0 and event.offset <= recipe.seconds + 1e-9
    assert counts == set(range(1, 10))


def test_labels_are_exactly_the_classes_of_the_events(soundscapes):
    targets = soundscapes.targets("train", 20)
    for index, row in enumerate(targets):
        present = {event.label for event in soundscapes.events("train", index)}
        assert {soundscapes.classes[c] for c in np.flatnonzero(row)} == present


def test_the_bank_is_by_default_that_of_the_first_classes_and_on_demand_that_of_any(soundscapes):
    assert SyntheticBank().classes == tuple(soundscapes.classes) == soundscapes.bank.classes
    later = SyntheticBank(("cat", "rain"))
    assert later.render(later.choose("cat", "train", np.random.default_rng(0)), 0.5).shape == (8000,)
    with pytest.raises(InputError, match="Unknown class 'cat'"):
        SyntheticBank().choose("cat", "train", np.random.default_rng(0))


def test_an_event_is_heard_where_its_annotation_says(soundscapes):
    bank = SyntheticBank(classes=("siren",))
    recipe = Recipe(events=(1, 1), snr_db=(20.0, 20.0))
    for seed in range(5):
        plan_seed, noise_seed = np.random.SeedSequence(seed).spawn(2)
        scene = render(recipe, bank, plan(recipe, bank, "train", plan_seed), noise_seed)
        (event,) = scene.events
        start, stop = round(event.onset * 16_000), round(event.offset * 16_000)
        inside = np.mean(scene.audio[start:stop] ** 2)
        outside = np.mean(np.delete(scene.audio, np.s_[start:stop]) ** 2)
        assert 15 < 10 * np.log10(inside / outside) < 25
        assert 0 <= event.low_hz < event.high_hz <= 8000


def test_no_generator_seed_serves_two_splits():
    bank, seen = SyntheticBank(), {}
    for split in banks.SPLITS:
        rng = np.random.default_rng(5)  # the same stream on purpose
        seen[split] = {bank.choose(label, split, rng) for label in bank.classes for _ in range(20)}
    assert not any(seen[a] & seen[b] for a in seen for b in seen if a != b)


def test_no_recording_serves_two_of_train_val_and_test():
    used = {split: set(folds) for split, folds in ESC10_FOLDS.items()}
    assert used["train"] == used["pretrain"] == {1, 2, 3} and used["val"] == {4} and used["test"] == {5}
    table = banks.pd.read_csv(MANIFESTS / "esc10.csv", dtype={"recording": str})
    assert table.groupby("recording")["fold"].nunique().max() == 1


def test_pretraining_never_hears_a_held_out_fold_or_a_sampling_plus_clip(recordings):
    bank = esc10_bank()
    files = [file for label in bank.classes for file in bank.files(label, "pretrain")]
    rows = bank.table.set_index("file").loc[files]
    assert set(rows["fold"]) == {1, 2, 3} and set(rows["license"]) == {"CC0-1.0", "CC-BY-3.0"}


def test_real_soundscapes_are_audible_and_name_their_recordings(recordings):
    data = load_dataset("esc10-soundscapes")
    scene = data.scene("test", 0)
    assert scene.audio.shape == (160_000,) and np.isfinite(scene.audio).all() and 0.01 < np.abs(scene.audio).max() < 1
    recording_folds = data.bank.table.set_index("recording")["fold"].to_dict()
    assert all(recording_folds[name] == 5 for clip in data.sources("test", 20) for name in clip)


def test_an_excerpt_has_sound_in_it():
    waveform = np.zeros(80_000, dtype=np.float32)
    waveform[60_000:64_000] = 0.5
    for seed in range(10):
        assert np.abs(loud_excerpt(waveform, 1.0, np.random.default_rng(seed))).max() == 0.5


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_is_frozen_with_the_hash_of_its_manifest(name):
    manifest = json.loads((MANIFESTS / f"{name}.json").read_text())
    assert manifest["frozen"] == manifest_hash(manifest) and len(manifest["history"]) == manifest["version"]


def test_what_was_frozen_first_is_still_drawn_as_it_was(soundscapes):
    assert soundscapes.manifest["frozen"] == "70a44135606a7b98"
    assert load_dataset("esc10-soundscapes").manifest["frozen"] == "732fd091b4d0d0b2"
    drawn = [repr(soundscapes.events(split, index)) for split in ("train", "val", "test") for index in range(50)]
    assert digest(drawn) == "e30014fc940df5a0"


def test_a_dataset_that_was_changed_after_freezing_does_not_load(tmp_path, monkeypatch):
    manifest = json.loads((MANIFESTS / "soundscapes.json").read_text())
    manifest["recipe"]["snr_db"] = [6.0, 30.0]
    (tmp_path / "soundscapes.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(datasets, "MANIFESTS", tmp_path)
    with pytest.raises(InputError, match=r"soundscapes\.json' was changed after it was frozen.*new version"):
        load_dataset("soundscapes")


def test_missing_recordings_say_where_they_were_sought_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path))
    with pytest.raises(InputError, match="ESC-10 recordings are not at .*make data.*UNMUTE_DATA"):
        esc10_bank()
    (tmp_path / "esc10").mkdir()
    with pytest.raises(InputError, match=r"400 of 400 ESC-10 files are missing .*make data"):
        esc10_bank()


def test_a_recording_that_is_not_the_one_of_the_manifest_is_named(recordings, monkeypatch, tmp_path):
    for file in banks.pd.read_csv(MANIFESTS / "esc10.csv")["file"]:
        (tmp_path / "esc10" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "esc10" / file).symlink_to(recordings / "esc10" / file)
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path))
    assert esc10_bank().classes[0] == "dog_bark"
    banks._check_recordings.cache_clear()
    changed = tmp_path / "esc10" / "002 - Rain" / "1-17367-A.ogg"
    changed.unlink()
    changed.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"'002 - Rain/1-17367-A\.ogg' .* is not the recording of the manifest"):
        esc10_bank()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_dataset("soundscape"), "Unknown dataset 'soundscape'.*Did you mean 'soundscapes'"),
        (lambda: load_dataset("soundscapes").targets("train", 10**6), "1000000 clips were asked .* holds 2000"),
        (lambda: load_dataset("soundscapes").events("validation", 0), "Unknown split 'validation'"),
        (lambda: SyntheticBank().choose("dog", "train", np.random.default_rng(0)), "Unknown class 'dog'"),
        (lambda: Recipe(snr_db=(9.0, 3.0)), "range 'snr_db' is .*must not exceed"),
        (lambda: Recipe(events=(0, 3)), "at least one event"),
    ],
)
def test_a_wrong_name_or_range_is_one_clear_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_silent_source_is_refused_by_name(monkeypatch):
    bank = SyntheticBank()
    monkeypatch.setattr(SyntheticBank, "render", lambda self, source, seconds: np.zeros(8000, dtype=np.float32))
    events = plan(Recipe(), bank, "train", np.random.SeedSequence(1))
    with pytest.raises(InputError, match="The source '.*' of class '.*' is silent"):
        render(Recipe(), bank, events, np.random.SeedSequence(2))
