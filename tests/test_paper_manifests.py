"""The manifests of the fourteen datasets: one schema, Table 8's numbers, official classes, the unknown said so."""

import copy
import json
import re
import string

import jsonschema
import pandas as pd
import pytest

from lib.data import paper_manifests
from lib.data.paper_manifests import PAPER_SETS, problems, read_manifest
from lib.errors import InputError
from lib.paths import MANIFESTS
from lib.published import BIOACOUSTIC, CONTROLS, DATASETS, GENERAL, facts, table

SCHEMA = json.loads((MANIFESTS / "dataset.schema.json").read_text(encoding="utf-8"))
BIRDSET = {"hsn": "HSN", "pow": "POW", "per": "PER", "nes": "NES", "sne": "SNE", "uhh": "UHH", "nbp": "NBP"}


def raw(name):
    return json.loads((MANIFESTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(params=PAPER_SETS)
def manifest(request):
    return read_manifest(request.param)


def edited(name, path, value):
    """Return a manifest with one field changed; `path` has dots."""
    manifest = copy.deepcopy(raw(name))
    *above, last = path.split(".")
    place = manifest
    for key in above:
        place = place[key]
    place[last] = value
    return manifest


def test_the_fourteen_are_those_of_table_8_in_its_order():
    assert list(PAPER_SETS) == list(table(8)["dataset"]) and set(PAPER_SETS) == set(DATASETS)


def test_the_schema_is_one_and_every_field_of_it_is_closed():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"])
    closed = [SCHEMA, *SCHEMA["properties"].values(), SCHEMA["properties"]["source"]["properties"]["files"]["items"]]
    for part in closed:
        if "properties" in part:
            assert part["additionalProperties"] is False, part.get("description")


def test_every_manifest_is_of_the_schema(manifest):
    jsonschema.Draft202012Validator(SCHEMA).validate(manifest)
    assert list(manifest) == [key for key in SCHEMA["required"]]  # one order, to be read side by side


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("group", "multi-class"),
        ("metric", "map"),
        ("sizes.train", 0),
        ("sizes.all", 5),
        ("seconds", 0),
        ("split_rule.kind", "random"),
        ("split_rule.reserve", 1.0),
        ("split_rule.seed", None),
        ("source.files", [{"name": "a.zip", "md5": "c480d119", "sha256": None, "bytes": None}]),
        ("source.files", [{"name": "a.zip", "md5": None, "sha256": None}]),
        ("source.licence_url", "creativecommons.org"),
        ("source.revision", "main"),
        ("source.ids.hub", "BirdSet"),
        ("few_shot.condition.name", "loose"),
        ("views.snr_db", [5.0]),
        ("classes", ["a", "a"]),
        ("published_discrepancies", [""]),
        ("invented", 1),
    ],
)
def test_what_is_not_of_the_schema_is_found(path, value):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(edited("hsn", path, value))


def test_sizes_classes_and_groups_are_those_of_table_8(manifest):
    row = table(8).set_index("dataset").loc[manifest["name"]]
    assert problems(manifest) == []
    published = {"train": row["train"], "val": row["validation"], "test": row["test"]}
    sizes = {split: None if pd.isna(size) else size for split, size in published.items()}
    if manifest["name"] == "uhh":  # Table 8 swaps two digits; a copy has what the card says
        sizes["test"] = int(facts("test")["uhh"])
    assert manifest["sizes"] == sizes
    assert len(manifest["classes"] or []) in (row["classes"], 0)
    groups = {name: group for names, group in ((GENERAL, "general"), (BIOACOUSTIC, "bioacoustic")) for name in names}
    assert manifest["group"] == (groups | dict.fromkeys(CONTROLS, "control"))[manifest["name"]]


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("urban", "sizes.train", 6001, "its train split has 6001 clips where Table 8 has 6000"),
        ("urban", "sizes.val", None, "its val split has None clips where Table 8 has 2000"),
        ("urban", "group", "control", "its group is control where Table 8 has general"),
        ("urban", "seconds", 5.0, "its clips last 5.0 s, in Table 8 10 s, and no discrepancy says so"),
        ("sc2", "published_discrepancies", [], "its clips last 1.0 s, in Table 8 10 s, and no discrepancy says so"),
        ("as20k", "prototypes", 20, "it takes 20 prototypes a class, the paper 10"),
        ("esc50", "metric", "mAP", "mAP is not the metric of a single-label set"),
        ("urban", "classes", ["siren"] * 10, "the class 'siren' is there more than once"),
        ("urban", "classes", ["siren", "drilling"], "it has 2 classes where Table 8 has 10"),
        ("urban", "class_ids", ["a", "b"], "it has 2 class ids for 10 classes"),
        ("urban", "classes", None, "it has neither classes nor a rule how to get them"),
        ("spass", "published_discrepancies", [], "it has no classes where Table 8 has 28, and no discrepancy says so"),
        ("urban", "split_rule.from.val", ["test"], "its split rule uses an official part twice"),
        ("urban", "split_rule.from.test", ["eval"], "nothing says where the labels of the official part 'eval' are"),
        ("fsd50k", "split_rule.kind", "official", "which does not go with a val split of None"),
        ("esc50", "split_rule.reserve_from", ["5"], "are not some of the training folds"),
        ("spass", "split_rule.fractions.val", 0.2, "a share of 0.2 of 25000 clips is not its val split of 3750"),
        ("hsn", "few_shot.shots", 10, "10 shots of 21 classes are not 1344 training clips"),
        (
            "uhh",
            "published_discrepancies",
            [],
            "not all of its classes have training clips, and no discrepancy says so",
        ),
        ("hsn", "few_shot.clip_seconds", 3.0, "its shots last 3.0 s, its clips 5.0 s"),
        ("hsn", "views", None, "few shots and stored views belong to the bioacoustic sets"),
        ("urban", "views", {}, "few shots and stored views belong to the bioacoustic sets"),
        ("urban", "source.files_at", None, "it names files but no address to get them at"),
        ("hsn", "source.revision", "0" * 40, "the address of its files is not that of its hub id and revision"),
        ("urban", "source.licence_url", None, "its licence has a name or an address, but not both"),
    ],
)
def test_what_contradicts_table_8_or_itself_is_found(name, path, value, said):
    assert any(said in problem for problem in problems(edited(name, path, value)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"md5": "a2d24a21"}, "'a2d24a21' is no md5"),
        ({"md5": "g" * 32}, "is no md5"),
        ({"sha256": "0" * 32}, "is no sha256"),
    ],
)
def test_checksums_that_are_none_are_found(change, said):
    manifest = raw("urban")
    manifest["source"]["files"][0] |= change
    assert any(said in problem for problem in problems(manifest))


def test_a_file_or_a_checksum_that_is_there_twice_is_found():
    manifest = raw("sc2")
    first, second = manifest["source"]["files"]
    manifest["source"]["files"] = [first, second | {"md5": first["md5"]}]
    assert "two of its files have the same md5" in problems(manifest)
    manifest["source"]["files"] = [first, first]
    assert "one of its files is named twice" in problems(manifest)


def test_the_known_differences_of_the_paper_are_written_down():
    said = {name: " ".join(raw(name)["published_discrepancies"]) for name in PAPER_SETS}
    assert "36,367" in said["uhh"] and f"{int(facts('test')['uhh']):,}" in said["uhh"]
    assert f"{facts('train_classes')['uhh']} of the 27" in said["uhh"]
    assert f"{facts('classes')['spass']} in all" in said["spass"] and "28 classes" in said["spass"]
    assert "10 s" in said["sc2"] and facts("words")["sc2"] in said["sc2"]
    assert "36,796 train and 4,170 val" in said["fsd50k"] and raw("fsd50k")["sizes"]["train"] == 36_796 + 4_170
    assert "agkphysics/AudioSet" in said["as20k"] and "22,160" in said["as20k"]
    assert "400" in said["esc50"] and "synthetic" in said["urban"]
    for name in PAPER_SETS:  # a sentence each
        assert all(re.search(r"[.]$", sentence) for sentence in raw(name)["published_discrepancies"])


def test_classes_are_in_the_official_order():
    audioset, fsd50k, esc50 = raw("as20k"), raw("fsd50k"), raw("esc50")
    names = dict(zip(audioset["class_ids"], audioset["classes"], strict=True))
    assert (audioset["classes"][0], audioset["classes"][345], audioset["classes"][526]) == (
        "Speech",
        "Dental drill, dentist's drill",
        "Field recording",
    )
    assert names["/m/07q2z82"] == "Accelerating, revving, vroom" and names["/t/dd00088"] == "Gush"
    assert fsd50k["classes"] == sorted(fsd50k["classes"]) and fsd50k["classes"][53] == "Crushing"
    shared = [(mid, name) for mid, name in zip(fsd50k["class_ids"], fsd50k["classes"], strict=True) if mid in names]
    for mid, name in shared:  # FSD50K spells AudioSet's names without commas and spaces
        assert names[mid].replace(", and ", " and ").replace(", ", " and ").replace(" ", "_") == name
    assert len(shared) == 192
    assert esc50["classes"][:3] == ["dog", "rooster", "pig"] and esc50["classes"][-1] == "hand_saw"


def test_esc50_has_the_targets_of_the_recordings_at_hand(audio):
    path = audio / "esc50_fold4" / "meta" / "esc50.csv"
    if not path.is_file():
        pytest.skip("the ESC-50 recordings are not there: set UNMUTE_DATA to where esc50_fold4/ is")
    rows = pd.read_csv(path)
    targets = rows.drop_duplicates("target").set_index("target")["category"].sort_index()
    assert list(targets) == raw("esc50")["classes"] and list(targets.index) == list(range(50))


@pytest.mark.parametrize("name", BIRDSET)
def test_bird_sets_have_ebird_codes_and_files_of_their_own(name):
    manifest = raw(name)
    assert all(re.fullmatch("[a-z]{3,6}[0-9]{0,2}", code) for code in manifest["classes"])
    assert manifest["source"]["ids"]["config"] == BIRDSET[name]
    assert all(file["name"].startswith(f"{BIRDSET[name]}/{BIRDSET[name]}_") for file in manifest["source"]["files"])
    assert f"{BIRDSET[name]}_ebird_codes.json" in manifest["known_from"]["classes"]


def test_what_was_not_found_is_null_and_said():
    for name in ("desed", "spass"):
        manifest = raw(name)
        source = manifest["source"]
        assert source["home"] is source["licence"] is source["bytes"] is None and source["files"] == []
        assert any("licence" in sentence for sentence in manifest["unknown"])
    spass = raw("spass")
    assert spass["classes"] is None and spass["class_rule"]["count"] == len(spass["labels"]["raw_classes"]) == 33
    assert set().union(*spass["labels"]["scenes"].values()) == set(spass["labels"]["raw_classes"])
    for name in PAPER_SETS:
        assert raw(name)["unknown"] and raw(name)["known_from"]


def test_where_classes_come_from_is_said(manifest):
    origin = manifest["known_from"].get("classes") or manifest["known_from"]["raw_classes"]
    assert set(origin) & set(string.ascii_letters)


def test_sizes_of_downloads_are_those_of_the_plan():
    for row in pd.read_csv(MANIFESTS / "paper_downloads.csv").itertuples():
        size = raw(row.dataset)["source"]["bytes"]
        if size is not None:
            assert size == pytest.approx(row.gigabytes * 1e9, rel=0.01), row.dataset


def test_an_unknown_dataset_is_answered_with_the_known():
    with pytest.raises(InputError, match="Unknown dataset of the paper 'urbansed'; choose one of: as20k, .*'urban'"):
        read_manifest("urbansed")


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"name": "urban"}', '{"name": 5}', '{"name": "esc51", "sizes": {}}']
)
def test_a_damaged_manifest_is_one_clear_sentence(tmp_path, monkeypatch, text):
    monkeypatch.setattr(paper_manifests, "MANIFESTS", tmp_path)
    if text is not None:
        (tmp_path / "urban.json").write_text(text)
    with pytest.raises(
        InputError, match=r"The manifest 'urban.json' is missing or damaged .*restore it with git"
    ) as error:
        read_manifest("urban")
    assert "\n" not in str(error.value)


def test_a_manifest_that_was_changed_or_misplaced_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_manifests, "MANIFESTS", tmp_path)
    (tmp_path / "urban.json").write_text(json.dumps(edited("urban", "sizes.test", 1999)))
    with pytest.raises(
        InputError, match="'urban.json' cannot be right: its test split has 1999 clips where Table 8 has 2"
    ):
        read_manifest("urban")
    (tmp_path / "urban.json").write_text(json.dumps(raw("hsn")))
    with pytest.raises(
        InputError, match="'urban.json' cannot be right: it is that of 'hsn'; correct it, or restore it"
    ):
        read_manifest("urban")
