"""The manifests of the nine checkpoints: one form, what identifies each file, and networks of the size counted."""

import json
import re

import pytest
import torch

from lib.encoders import manifests
from lib.encoders.containers import FAMILIES, READABLE
from lib.encoders.manifests import CHECKPOINTS, find_checkpoint
from lib.encoders.upstream import expected_shapes
from lib.errors import InputError
from lib.paths import MANIFESTS

TEXT, MAYBE = str, type(None)
SCHEMA = {
    "encoder": TEXT,
    "label": TEXT,
    "family": TEXT,
    "base": TEXT | MAYBE,
    "native_cls": bool,
    "licence": {"name": TEXT | MAYBE, "use": TEXT, "stated": dict, "conflict": TEXT | MAYBE},
    "config": dict,
    "parameters": int,
    "input": {
        "sample_rate": int,
        "waveform": TEXT,
        "features": dict,
        "mean": float | MAYBE,
        "std": float | MAYBE,
        "normalise": TEXT,
        "frames": int | MAYBE,
        "padding": TEXT,
        "per_dataset": dict,
        "note": TEXT | MAYBE,
    },
    "files": list,
    "sources": list,
    "open": list,
}
FILE = {
    "id": TEXT,
    "what": TEXT,
    "file": TEXT | MAYBE,
    "bytes": int | MAYBE,
    "about_mb": int | MAYBE,
    "floats": int | MAYBE,
    "sha256": TEXT | MAYBE,
    "sha256_evidence": TEXT | MAYBE,
    "container": TEXT | MAYBE,
    "readable": bool | MAYBE,
    "places": list,
    "note": TEXT | MAYBE,
}
PLACES = {
    "hub": {"kind": TEXT, "repo": TEXT, "repo_type": TEXT, "revision": TEXT | MAYBE, "file": TEXT | MAYBE},
    "url": {"kind": TEXT, "url": TEXT},
    "by hand": {"kind": TEXT, "page": TEXT, "how": TEXT},
}


def assert_form(content, schema, where):
    assert list(content) == list(schema), where
    for key, form in schema.items():
        if isinstance(form, dict):
            assert_form(content[key], form, f"{where}.{key}")
        else:
            assert isinstance(content[key], form), f"{where}.{key}"


@pytest.fixture(params=CHECKPOINTS)
def manifest(request):
    return json.loads((MANIFESTS / "encoders" / f"{request.param}.json").read_text(encoding="utf-8"))


def test_all_nine_manifests_have_one_form(manifest):
    name = manifest["encoder"]
    assert_form(manifest, SCHEMA, name)
    assert manifest["family"] in FAMILIES and manifest["base"] in (None, name.removesuffix("-plus"))
    assert len({file["id"] for file in manifest["files"]}) == len(manifest["files"]) >= 2  # each has an alternative
    for file in manifest["files"]:
        assert_form(file, FILE, f"{name}:{file['id']}")
        assert file["sha256"] is None or re.fullmatch("[0-9a-f]{64}", file["sha256"])
        assert (file["sha256"] is None) == (file["sha256_evidence"] is None)
        assert file["places"]
        for place in file["places"]:
            assert_form(place, PLACES[place["kind"]], f"{name}:{file['id']}")
            if place["kind"] == "hub":  # a file without a name is found by its checksum
                assert place["file"] or file["sha256"]
                assert place["revision"] is None or re.fullmatch("[0-9a-f]{7,40}", place["revision"])
    first = manifest["files"][0]
    assert first["readable"] and first["places"][0]["kind"] != "by hand" and first["about_mb"]


def test_the_network_of_each_manifest_has_the_parameters_that_were_counted(manifest):
    shapes = expected_shapes(manifest["family"], manifest["config"])
    counted = sum(torch.Size(shape).numel() for key, shape in shapes.items() if "running" not in key)
    assert counted == manifest["parameters"]


def test_the_size_of_a_file_goes_with_its_floats(manifest):
    for file in manifest["files"]:
        size = file["bytes"] or (file["about_mb"] or 0) * 10**6
        floats = file["floats"] or manifest["parameters"]
        assert not size or 0.99 < size / (4 * floats) < 1.01


def test_what_identifies_a_file_is_what_is_known_of_it():
    known = {
        "beats:iter3-plus": (361_499_833, "d43cbfad4d7b56381c061d7a24774f908d4d94c72961f6eb1d9090ff18cd8d34"),
        "beats:iter3": (361_499_833, "8d1b234032a9ccff353612dc6c20982346dc2968b205b79d97303eb5e77bfb34"),
        "beats-plus:cpt1": (363_145_291, "7f9362028ac6e5c049e8dc314d87e90e4f82a15a8e472deb56af55d7f9b34d6a"),
        "beats-plus:cpt2": (363_145_291, "e5815275a04b6885e7b8af63d120b29bffae2cd2225cf4915e1ec6d819d3022c"),
        "eat:hub": (None, "8623072d09aac4f3ad1168b4fed3a24e4f68fe1da25b9fe733375efb237e5f48"),
        "sslam:hub": (None, "8ec670adb241c710422ddd894ff1bade142ef0b25cf1ee68577aa45f89432298"),
    }
    revisions = {"amae:hub": "b0f2ea3", "dasheng:hub": "bd8db95", "beats:iter3-plus": "082fb184"}
    revisions |= {"beats:iter3": "082fb184", "eat-plus:hub": "60d61e8b2e9e5ba3be6860285de80cb7d625ccbb"}
    for encoder in CHECKPOINTS:
        for entry in find_checkpoint(encoder).manifest["files"]:
            name = f"{encoder}:{entry['id']}"
            assert (entry["bytes"], entry["sha256"]) == known.get(name, (None, None)), name
            pinned = [place["revision"] for place in entry["places"] if place.get("revision")]
            assert pinned == ([revisions[name]] if name in revisions else []), name
    assert (
        find_checkpoint("beats").name == "beats:iter3-plus" and find_checkpoint("beats-plus").name == "beats-plus:cpt2"
    )


def test_licences_say_their_conflicts():
    licences = {name: find_checkpoint(name).manifest["licence"] for name in CHECKPOINTS}
    assert {name for name, licence in licences.items() if licence["conflict"]} == {"amae", "asit"}
    assert "non-commercial" in licences["amae"]["use"] and len(set(licences["amae"]["stated"].values())) == 4
    assert licences["asit"]["name"] is None and licences["dasheng"]["name"] == "Apache-2.0"
    assert {licences[name]["name"] for name in CHECKPOINTS if name not in ("amae", "asit", "dasheng")} == {"MIT"}


def test_a_refused_pickle_is_answered_with_a_file_of_the_manifests():
    for name in CHECKPOINTS:
        checkpoint = find_checkpoint(name)
        place = checkpoint.file["places"][0]
        if checkpoint.family != "beats":  # whose files hold nothing that is refused
            source = (place.get("repo") or "fschmid56/PretrainedSED").removesuffix("EAT-base_epoch30_finetune_AS2M")
            assert source in READABLE[checkpoint.family] and checkpoint.file["file"] in READABLE[checkpoint.family]


@pytest.mark.parametrize(("name", "said"), [("beat", "Did you mean 'beats'"), ("beats:cpt2", "iter3-plus, iter3")])
def test_unknown_names_are_answered_with_the_known(name, said):
    with pytest.raises(InputError, match=said):
        find_checkpoint(name)


def test_a_damaged_manifest_is_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "MANIFESTS", tmp_path)
    (tmp_path / "encoders").mkdir()
    (tmp_path / "encoders" / "eat.json").write_text('{"files": []}')
    for name in ("eat", "asit"):
        with pytest.raises(InputError, match=rf"'{name}.json' is missing or damaged .*restore it with git"):
            find_checkpoint(name)
