"""The paper's sets in use: split by the rule, counted against the manifest, taken by the store as any other."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from lib import profiles
from lib.audio import SAMPLE_RATE, check_waveform
from lib.comparisons import cell_draws
from lib.data import copies, paper_sets
from lib.data.miniatures import Wanted, write_miniature
from lib.data.official import Record
from lib.data.paper_manifests import PAPER_SETS, read_manifest
from lib.data.splits import before_reserving, fold_rule, reserved, split
from lib.errors import InputError
from lib.results import all_cells, gather, main_cells, run_cells
from lib.store import build_store, load_dataset, load_embeddings

SMALL = Wanted(clips=6, classes=3, seconds=0.5)


def clip(name, *labels, source=None, missing=False):
    return Record(str(name), None, labels, source or str(name), missing=missing)


def many(count, rng, groups=0):
    """Return clips of a long-tailed multi-label set, in groups of one source where asked."""
    clips = []
    for number in range(count):
        labels = tuple(f"class {label}" for label in range(12) if rng.random() < 0.5 / (1 + label))
        clips.append(clip(f"{number:05d}", *labels, source=f"s{number % groups}" if groups else None))
    return clips


# ---- splits ------------------------------------------------------------------------------------------------


def test_a_fifth_is_reserved_of_the_whole_and_of_every_class():
    clips = many(2000, np.random.default_rng(0))
    chosen = reserved(clips, 0.2, seed=1)
    assert len(chosen) == 400
    total, drawn = Counter(), Counter()
    for each in clips:
        total.update(each.labels or ["none"])
        drawn.update((each.labels or ["none"]) if each.id in chosen else [])
    for label, count in total.items():
        assert abs(drawn[label] - 0.2 * count) <= max(2, 0.03 * count), label


def test_a_source_is_reserved_whole_or_not_at_all():
    clips = many(300, np.random.default_rng(0), groups=60)
    chosen = reserved(clips, 0.2, seed=1)
    sources = [{each.source for each in clips if (each.id in chosen) is there} for there in (True, False)]
    assert not sources[0] & sources[1] and len(chosen) == 60


def test_what_is_reserved_depends_on_the_seed_and_not_on_the_order_of_the_lists():
    clips = many(200, np.random.default_rng(0))
    assert reserved(clips, 0.2, 1) == reserved(clips[::-1], 0.2, 1) != reserved(clips, 0.2, 2)


@pytest.mark.parametrize(("labels", "wanted"), [(2, 0), (3, 1), (5, 1), (8, 2), (64, 13)])
def test_a_class_gives_the_nearest_whole_number_of_its_share(labels, wanted):
    clips = [clip(f"a{n}", "few") for n in range(labels)] + [clip(f"b{n}", "many") for n in range(1000 - labels)]
    chosen = reserved(clips, 0.2, seed=3)
    assert sum(name.startswith("a") for name in chosen) == wanted and len(chosen) == 200


@pytest.mark.parametrize("name", PAPER_SETS)
def test_official_parts_of_published_size_pass_and_are_split_as_the_paper_counts(name):
    manifest = read_manifest(name)
    rule, sizes = manifest["split_rule"], manifest["sizes"]
    parts = [(part, sizes[where] // len(names)) for where, names in rule["from"].items() for part in names]
    if rule["kind"] == "fractions":
        parts = [(scene, 5000) for scene in rule["from"]["train"]]
    official = {part: [clip(f"{part} {n:05d}", "a") for n in range(count)] for part, count in parts}
    assert copies.check_copy(official, manifest, incomplete=False) == ""
    found = {where: len(clips) for where, clips in split(official, rule, name).items()}
    assert found["test"] == sizes["test"] and (sizes["val"] is None or found["val"] == sizes["val"])
    assert found["train"] + (0 if sizes["val"] else found["val"]) == sizes["train"]
    if sizes["val"] is None:
        assert found["val"] == (400 if name == "esc50" else round(0.2 * sizes["train"]))


def test_spass_is_cut_by_the_order_of_names_in_every_scene():
    rule = read_manifest("spass")["split_rule"]
    official = {scene: [clip(f"{scene}{n:05d}") for n in range(5000, 0, -1)] for scene in rule["from"]["train"]}
    parts = split(official, rule, "spass")
    names = {part: [each.id for each in clips if each.id.startswith("Park")] for part, clips in parts.items()}
    bounds = {"train": (1, 3500), "val": (3501, 4250), "test": (4251, 5000)}
    assert {part: (found[0], found[-1]) for part, found in names.items()} == {
        part: tuple(f"Park{number:05d}" for number in ends) for part, ends in bounds.items()
    }


def test_every_fold_of_esc50_tests_once_and_validates_once():
    rule = read_manifest("esc50")["split_rule"]
    official = {str(fold): [clip(f"{fold}-{n}") for n in range(4)] for fold in range(1, 6)}
    rules = [fold_rule(rule, str(fold)) for fold in range(1, 6)]
    splits = [split(official, each, "esc50") for each in rules]
    for part in ("val", "test"):
        assert sorted(each.id for parts in splits for each in parts[part]) == sorted(
            each.id for clips in official.values() for each in clips
        )
    assert all(sum(map(len, parts.values())) == 20 and len(parts["train"]) == 12 for parts in splits)
    assert before_reserving(official, rules[0])["train"][0].id == "2-0"
    assert split(official, rule, "esc50") == splits[4]  # the manifest's own fold is the last
    with pytest.raises(InputError, match="Unknown fold '6'"):
        fold_rule(rule, "6")


def test_a_rule_that_is_unknown_or_asks_for_what_is_not_there_is_told():
    rule = read_manifest("urban")["split_rule"]
    with pytest.raises(InputError, match="Unknown kind of split rule in the manifest of 'urban' 'offical'"):
        split({}, rule | {"kind": "offical"}, "urban")
    with pytest.raises(InputError, match="The copy of 'urban' has no official split '.*'; it has: train"):
        split({"train": []}, rule, "urban")


# ---- a copy that is not the published one ------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Return a function that writes a miniature into the folder of the audio, and reads whatever lies there."""
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path / "audio"))

    def written(name, **wanted):
        return write_miniature(name, tmp_path / "audio", replace(SMALL, **wanted))

    yield written
    paper_sets.forget()


def test_a_copy_that_lacks_clips_is_counted_by_split_with_examples_and_used_only_when_told(copy, monkeypatch, capsys):
    folder = copy("urban")
    gone = sorted(folder.glob("*/audio/validate/*.wav"))[:4]
    for path in gone:
        path.unlink()
    said = (
        r"'urban' is not that of the manifest: val has 2 of 6 clips \(-4\), 4 are listed without audio, such as "
        r"'soundscape_validate_bimodal0', .*; complete it, or set UNMUTE_INCOMPLETE=urban"
    )
    with pytest.raises(InputError, match=said):
        load_dataset("urban")
    monkeypatch.setenv("UNMUTE_INCOMPLETE", "spass,desed")
    with pytest.raises(InputError, match=said):
        load_dataset("urban")
    monkeypatch.setenv("UNMUTE_INCOMPLETE", "spass, urban")
    assert load_dataset("urban").sizes == {"train": 6, "val": 2, "test": 6}
    assert "val has 2 of 6 clips (-4)" in capsys.readouterr().out
    assert not {path.stem for path in gone} & {each.id for each in load_dataset("urban").records["val"]}


def test_a_copy_with_more_clips_or_none_of_a_split_is_told(copy, monkeypatch):
    folder = copy("urban")
    said = json.loads((folder / "miniature.json").read_text())
    (folder / "miniature.json").write_text(json.dumps(said | {"sizes": {"train": 5, "val": 6, "test": 6}}))
    with pytest.raises(InputError, match=r"train has 6 of 5 clips \(\+1\); complete it"):
        load_dataset("urban")
    for path in folder.glob("*/audio/test/*.wav"):
        path.unlink()
    monkeypatch.setenv("UNMUTE_INCOMPLETE", "urban")
    with pytest.raises(InputError, match="test has 0 of 6 clips .* without any clip of test it is of no use"):
        load_dataset("urban")


def test_without_its_word_a_miniature_is_taken_for_a_bad_copy_and_not_for_the_set(copy):
    folder = copy("esc50")
    assert load_dataset("esc50").manifest["title"] == "ESC-50 (miniature)"
    (folder / "miniature.json").unlink()
    paper_sets.forget()
    with pytest.raises(InputError, match=r"train has 24 of 1,600 clips \(-1,576\); test has 6 of 400"):
        load_dataset("esc50")
    (folder / "miniature.json").write_text('{"name": "sc2", "sizes": {}, "seed": 0}')
    with pytest.raises(InputError, match="holds a miniature of 'sc2', not of 'esc50'"):
        load_dataset("esc50")
    (folder / "miniature.json").write_text("{")
    with pytest.raises(InputError, match=r"miniature.json' cannot be read"):
        load_dataset("esc50")


@pytest.mark.parametrize(
    ("name", "pattern", "old", "new", "said"),
    [
        ("fsd50k", "*/dev.csv", "Accele", "accele", "labels that are not among the 200 classes .*'accelerating"),
        ("desed", "metadata/train.tsv", "Alarm_", "Alarms_", "not among the 10 classes .*'alarms_bell"),
        ("esc50", "*/meta/esc50.csv", "dog", "hound", "not among the 50 classes .* 'hound'"),
    ],
)
def test_a_label_that_is_no_class_is_named(copy, name, pattern, old, new, said):
    (path,) = copy(name).glob(pattern)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        load_dataset(name)


def test_a_clip_that_is_listed_twice_is_told(copy):
    (path,) = copy("fsd50k").glob("*/eval.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(InputError, match=f"lists of 'fsd50k' name 1 clips twice, '{lines[1].split(',')[0]}'"):
        load_dataset("fsd50k")


def test_an_unknown_name_is_told_with_both_kinds_of_datasets():
    with pytest.raises(InputError, match="Unknown dataset 'urbn'; .*soundscapes.*urban.*Did you mean 'urban'"):
        load_dataset("urbn")


# ---- in use ------------------------------------------------------------------------------------------------


def test_targets_events_and_sources_are_those_of_the_records(copy):
    copy("urban")
    data = load_dataset("urban")
    targets = data.targets("test", 6)
    assert targets.shape == (6, 10) and targets.dtype == np.float32
    for index, row in enumerate(targets):
        events = data.events("test", index)
        assert {data.classes[column] for column in np.flatnonzero(row)} == {event.label for event in events}
        assert data.sources("test", 6)[index] == tuple(sorted({event.source for event in events}))
        assert data.scene("test", index).events == events
    assert load_dataset("urban") is data and data.recipe.seconds == 10.0 and data.prototypes == 20
    with pytest.raises(InputError, match="7 clips were asked of split 'test' of 'urban', whose copy here holds 6"):
        data.check_count("test", 7)
    with pytest.raises(InputError, match="Unknown split 'eval'"):
        data.scene("eval", 0)


def test_a_set_without_strong_labels_claims_no_events_but_has_its_targets(copy):
    copy("fsd50k")
    data = load_dataset("fsd50k")
    assert data.scene("test", 0).events == () == data.events("test", 0) and data.targets("test", 6).sum(1).min() >= 1
    assert data.sources("test", 1) == [(data.records["test"][0].id,)]


def test_stored_views_mix_in_another_training_clip_and_its_labels(copy):
    copy("esc50")
    plain = load_dataset("esc50")
    views = {"count": 5, "probability": 0.9, "snr_db": [5.0, 25.0]}
    manifest = plain.manifest | {"views": views, "split_rule": plain.manifest["split_rule"] | {"seed": 1}}
    data = replace(plain, manifest=manifest, _digests={})
    assert data.views("train") == 5 and data.views("test") == 1
    changed = 0
    for view in range(5):
        targets = data.targets("train", 4, view)
        for index in range(4):
            heard, own = data.scene("train", index, view).audio, data.scene("train", index, view=0).audio
            assert heard.shape == own.shape and targets[index] @ plain.targets("train", 4)[index] == 1
            changed += not np.array_equal(heard, plain.scene("train", index).audio)
    assert 12 <= changed <= 20
    versions = [data.version("train", 4, view) for view in range(5)]
    assert len({json.dumps(each) for each in versions}) == 5
    with pytest.raises(InputError, match="View 1 of split 'test' of 'esc50' was asked for; it has the views 0 to 0"):
        data.scene("test", 0, 1)


def test_the_version_changes_with_the_records_and_with_nothing_else(copy):
    folder = copy("urban")

    def version(count=4):
        paper_sets.forget()
        return load_dataset("urban").version("test", count)

    first = version()
    assert version() == first != version(count=5) and first["dataset"] == "urban"
    text = next(folder.glob("*/annotations/test/*bimodal5.jams"))
    before = text.read_text()
    text.write_text(before.replace('"confidence": 1.0', '"confidence": 0.5'))
    assert version() == first
    path = next(folder.glob("*/audio/test/*bimodal2.wav"))
    soundfile.write(path, np.full(9000, 0.1), 44_100)
    assert version() != first
    text.write_text(before.replace('"time": 0.', '"time": 1.'))
    assert version(6) != first | {"clips": 6}


def test_the_version_knows_the_size_of_a_clips_own_file_and_not_how_parquet_was_packed(copy):
    copy("urban")
    data = load_dataset("urban")

    def version(**changes):
        records = {part: [replace(clip, **changes) for clip in clips] for part, clips in data.records.items()}
        return replace(data, records=records, _digests={}).version("test", 4)

    assert version(row=0, size=1000) == version(row=3, size=2000)  # the same clips, other Parquet files
    assert version(size=1000) == version(size=1000, offset=512) != version(size=900)  # a file, in a tar, cut off


def test_whatever_a_miniature_holds_an_encoder_can_take(copy):
    for name in ("as20k", "sc2"):
        copy(name)
        data = load_dataset(name)
        for part, size in data.sizes.items():
            for index in range(size):
                audio = data.scene(part, index).audio
                check_waveform(audio, f"{name}/{part}/{index}")
                assert len(audio) == round(data.recipe.seconds * SAMPLE_RATE)


def test_store_search_and_bootstrap_take_official_sets_as_any_other(copy, monkeypatch):
    for name in ("urban", "sc2"):
        copy(name)
    sizes = {name: load_dataset(name).sizes for name in ("urban", "sc2")}
    groups = tuple(
        profiles.Group(kind, (name,), ("linear", "protobin"), sizes[name])
        for kind, name in (("general", "urban"), ("control", "sc2"))
    )
    tiny = replace(
        profiles.PROFILES["smoke"],
        name="tiny",
        encoders=("log-mel",),
        groups=groups,
        ablation_encoders=(),
        control_heads=(),
        mean_cls=(),
        epochs=1,
    )
    monkeypatch.setitem(profiles.PROFILES, "tiny", tiny)
    assert run_cells("tiny", all_cells(tiny), show=False) and run_cells("tiny", all_cells(tiny), show=False) == []
    embedded = load_embeddings("log-mel", "urban", "test", sizes["urban"]["test"])
    assert len(embedded) == sizes["urban"]["test"] and embedded.targets.shape[1] == 10
    for cell in main_cells(tiny):
        draws = cell_draws(tiny, cell)
        assert math.isfinite(draws.value) and len(draws.drawn) == tiny.bootstrap_draws
        assert cell.loss == {"urban": "asymmetric", "sc2": "cross-entropy"}[cell.dataset]
    table = gather("tiny")
    assert set(table["dataset"]) == {"urban", "sc2"} and table["value"].notna().all()


def test_a_broken_file_stops_the_store_with_its_name_and_that_of_the_set(copy):
    folder = copy("urban")
    path = sorted(folder.glob("*/audio/test/*.wav"))[3]
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=f"Clip '{path.stem}' of 'urban' cannot be used: '.*{path.name}' is cut off"):
        build_store(["log-mel"], "urban", {"test": 6})
