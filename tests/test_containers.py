"""Weight files of every published form: their tensors and nothing else, and no code run to get them."""

import argparse
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lib.encoders.containers import FAMILIES, READABLE, read_container
from lib.errors import InputError

TENSORS = {"blocks.0.w": torch.arange(6.0).reshape(2, 3), "norm.b": torch.ones(2)}
CFG = {"embed_dim": 512, "deep_norm": True}


def same(found):
    assert list(found) == list(TENSORS)
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("family", "content", "config"),
    [
        ("audiomae", TENSORS, {}),
        ("audiomae", {"model": TENSORS}, {}),
        ("beats", {"cfg": CFG, "model": TENSORS}, CFG),
        ("dasheng", {"model": TENSORS, "config": {"depth": 12}}, {"depth": 12}),
        ("asit", {"student": {"other": torch.ones(1)}, "teacher": TENSORS, "optimizer": {"state": {}}}, {}),
        ("asit", {"student": TENSORS, "epoch": 3}, {}),
        ("eat", {"model": {**TENSORS, "_ema": {"w": torch.ones(1)}}, "last_optimizer_state": {}}, {}),
        ("eat", {"model": {key: nn.Parameter(value) for key, value in TENSORS.items()}}, {}),
    ],
)
def test_each_pickled_container_gives_its_tensors_and_its_config(tmp_path, family, content, config, zipped):
    torch.save(content, tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    found, beside = read_container(tmp_path / "weights.pt", family)
    same(found)
    assert beside == config and not any(value.requires_grad for value in found.values())


def test_what_a_file_is_called_does_not_matter(tmp_path):
    for zipped in (True, False):
        torch.save({"model": TENSORS}, tmp_path / "model.safetensors", _use_new_zipfile_serialization=zipped)
        same(read_container(tmp_path / "model.safetensors", "sslam")[0])
    save_file(TENSORS, tmp_path / "weights")
    found, config = read_container(tmp_path / "weights", "sslam")
    assert config == {}
    same({key: found[key] for key in TENSORS})


class Intruder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pickle_with_other_objects_is_refused_by_name_and_nothing_runs(tmp_path, family, zipped):
    content = {"model": TENSORS, "args": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "native.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"'argparse.Namespace'.*nothing of it was executed") as refusal:
        read_container(tmp_path / "native.pth", family)
    said = str(refusal.value)
    assert READABLE[family] in said and "sandbox" in said and "weights_only=False" not in said  # torch's own advice
    content = {"model": TENSORS, "cfg": Intruder(tmp_path / "made")}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"'(_?io\.open|builtins\.open)'.*nothing of it was executed"):
        read_container(tmp_path / "evil.pt", family)
    assert not (tmp_path / "made").exists()


def test_no_variable_of_torch_switches_the_refusal_off(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"cfg": Intruder(tmp_path / "made")}, tmp_path / "evil.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="nothing of it was executed"):
        read_container(tmp_path / "evil.pt", "beats")
    assert not (tmp_path / "made").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_that_is_no_checkpoint_is_refused_too(tmp_path):
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Intruder(tmp_path / "made"), protocol=4))
    with pytest.raises(InputError, match="bare.pt"):
        read_container(tmp_path / "bare.pt", "beats")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("form", ["zip", "bare", "safetensors"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.98])
def test_a_truncated_file_is_one_clear_sentence(tmp_path, form, kept):
    path, tensors = tmp_path / "weights", {"w": torch.ones(40, 40)}
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=r"'weights' is truncated or damaged \(.+\); delete it and fetch it again"):
        read_container(path, "eat")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><title>Drive: cannot scan for viruses</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"", "unknown"),
        (b"RIFFxxxxWAVE", "unknown"),
    ],
)
def test_what_is_no_weight_file_is_said_to_be_none(tmp_path, content, said):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(InputError, match=f"neither a safetensors file nor one of torch.save .*{said}"):
        read_container(tmp_path / "weights.pt", "asit")


@pytest.mark.parametrize("content", [[torch.ones(1)], {}, torch.ones(2), {"model": {"w": 3}}, {"model": {}}, {"a": {}}])
def test_a_pickle_without_a_dict_of_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="is it the file of the weights"):
        read_container(tmp_path / "weights.pt", "asit")


def test_missing_files_and_unknown_families_are_said(tmp_path):
    with pytest.raises(InputError, match="no weight file"):
        read_container(tmp_path / "weights.pt", "asit")
    with pytest.raises(InputError, match="Unknown encoder family 'ast'"):
        read_container(tmp_path / "weights.pt", "ast")
