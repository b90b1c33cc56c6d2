"""Fetching checkpoints: the right file from the right place, recorded, and held to that ever after."""

import argparse
import hashlib
import json

import pytest
import torch
from checkpoint_host import CFG, NEW, OLD, SUM, WEIGHTS, lies, pickled, refused
from safetensors.torch import save

from lib.encoders import checkpoints
from lib.encoders.checkpoints import fetch_checkpoint, load_checkpoint
from lib.encoders.manifests import find_checkpoint
from lib.errors import InputError


def test_a_pinned_file_comes_alone_once_and_is_recorded(host, tiny, tmp_path):
    weights = pickled({"w": torch.ones(3)}, tmp_path / "a.bin")
    host.files |= {"pytorch_model.bin": weights, "modeling.py": b"raise SystemExit"}
    path = fetch_checkpoint("amae")
    assert path.read_bytes() == weights and lies("amae") == ["lock.json", "pytorch_model.bin"]
    lock = json.loads(find_checkpoint("amae").lock.read_text())
    assert lock["sha256"] == hashlib.sha256(weights).hexdigest() and lock["bytes"] == len(weights)
    assert lock["revision"] == OLD  # in full, though the manifest knows its beginning only
    fetched = [path for path, _ in host.asked if "/resolve/" in path]
    assert fetched == [
        f"/gaunernst/vit_base_patch16_1024_128.audiomae_as2m/resolve/{OLD}/pytorch_model.bin",
    ]
    asked = len(host.asked)
    assert fetch_checkpoint("amae") == path and len(host.asked) == asked
    assert json.loads(find_checkpoint("amae").lock.read_text()) == lock  # where it came from is not forgotten


def test_a_file_without_a_name_is_found_by_its_checksum_where_it_lies(host, tiny, tmp_path):
    weights = pickled({"cfg": CFG, "model": {"w": torch.ones(3)}}, tmp_path / "a.pt")
    tiny("beats", sha256=hashlib.sha256(weights).hexdigest(), bytes=len(weights))
    host.files |= {"other.pt": b"PK other", "some-name.pt": weights}
    encoder = load_checkpoint("beats", cls="mean")
    fetched = [path for path, _ in host.asked if "/resolve/" in path]
    assert fetched == [f"/lpepino/beats_ckpts/resolve/{NEW}/some-name.pt"]  # the first mirror lacks its revision
    assert encoder.family == "beats" and encoder.options == {"cls": "mean"} and not encoder.training
    assert encoder.config["embed_dim"] == 512 and encoder.config["max_distance"] == 800  # the file's cfg, the manifest
    assert "feature_extractor" not in encoder.weights and list(encoder.weights) == ["w"]


def test_the_config_in_a_beats_file_comes_before_the_manifest_and_that_of_others_does_not(host, tiny, tmp_path):
    content = {"cfg": {"max_distance": 77}, "config": {"depth": 1}, "model": {"w": torch.ones(3)}}
    path = tmp_path / "a.pt"
    weights = pickled(content, path)
    tiny("beats", sha256=hashlib.sha256(weights).hexdigest())
    host.files["a.pt"] = weights
    assert load_checkpoint("beats").config["max_distance"] == 77
    host.files["dasheng_base.pt"] = weights
    assert load_checkpoint("dasheng:zenodo").config == find_checkpoint("dasheng").manifest["config"]


def test_a_plain_address_works_as_the_hub_does(host, tiny, tmp_path):
    host.files["ASIT_ssl.pt"] = pickled({"w": torch.ones(3)}, tmp_path / "a.pt")
    assert fetch_checkpoint("asit").read_bytes() == host.files["ASIT_ssl.pt"]
    assert lies("asit") == ["ASIT_ssl.pt", "lock.json"]
    assert json.loads(find_checkpoint("asit").lock.read_text())["origin"] == f"{host.url}/ASIT_ssl.pt"


def test_an_unknown_file_that_does_not_fit_its_network_is_not_recorded(host, tiny, tmp_path):
    host.files["model.safetensors"] = save({"v": torch.ones(3)})
    refused("dasheng", "has no revision bd8db95")
    refused("sslam-plus", "missing: w.*nothing was kept")
    host.files["pytorch_model.bin"] = pickled({"args": argparse.Namespace(), "model": {}}, tmp_path / "a.bin")
    refused("amae", r"'argparse.Namespace'.*nothing of it was executed.*nothing was kept")
    host.files["pytorch_model.bin"] = b"PK\x03\x04 and no more"
    refused("amae", r"truncated or damaged .*nothing was kept")
    assert lies("amae") == lies("sslam-plus") == []


def test_what_the_first_download_was_holds_ever_after(host, tiny):
    host.files["model.safetensors"] = WEIGHTS
    path = fetch_checkpoint("sslam-plus")
    changed = bytearray(WEIGHTS)
    changed[-1] ^= 1
    path.write_bytes(changed)
    said = refused("sslam-plus", "not the file it must be: .*recorded in")
    assert "delete it and fetch it again" in said and path.exists()  # what lies there may be the user's own
    with pytest.raises(InputError, match="not the file it must be"):
        load_checkpoint("sslam-plus")
    path.unlink()
    host.files["model.safetensors"] = bytes(changed)  # at the same place, by now
    refused("sslam-plus", "not that of the manifest")
    host.files["model.safetensors"] = WEIGHTS
    host.asked.clear()
    assert fetch_checkpoint("sslam-plus").read_bytes() == WEIGHTS
    assert [path for path, _ in host.asked if path.endswith(f"/revision/{NEW}")]  # the recorded one


def test_a_file_that_shrank_or_changed_in_the_cache_is_refused_before_it_is_opened(host, tiny, monkeypatch):
    tiny("eat", sha256=SUM, bytes=len(WEIGHTS))
    host.files["model.safetensors"] = WEIGHTS
    path = fetch_checkpoint("eat")
    monkeypatch.setattr(checkpoints, "read_container", lambda *_: pytest.fail("was opened"))
    path.write_bytes(WEIGHTS[:-1])
    with pytest.raises(InputError, match=rf"has {len(WEIGHTS) - 1:,} bytes and not {len(WEIGHTS):,}"):
        load_checkpoint("eat")
    path.write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(InputError, match=r"its SHA-256 is .* and not the manifest's"):
        load_checkpoint("eat")


def test_a_damaged_lock_is_said(host, tiny):
    host.files["model.safetensors"] = WEIGHTS
    fetch_checkpoint("sslam-plus")
    for content in ("{", "[]", '{"sha256": "1"}'):
        find_checkpoint("sslam-plus").lock.write_text(content)
        refused("sslam-plus", "lock.json' is damaged")


def test_offline_says_what_is_missing_and_how_to_get_it(host, tiny, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("amae", "asit"):
        said = refused(name, "is not here and HF_HUB_OFFLINE forbids to fetch it")
        assert "34" in said and "ENCODER_FILE=path" in said and str(find_checkpoint(name).path) in said
    assert host.asked == []


def test_a_file_for_people_only_comes_with_instructions(host, tiny):
    for name in ("eat:fairseq", "amae:official", "sslam-plus:fairseq", "asit:drive"):
        refused(name, "not offered for download by program: get it from https://drive.google.com/.*ENCODER_FILE=path")
    assert host.asked == []
