"""Files are written whole or not at all."""

import errno
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from lib import files
from lib.errors import InputError


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    files.write_text(path, "old\n")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match=r"disk is full while writing .*table\.csv.*what is finished is kept"):
        files.write_text(path, "new\n")
    assert path.read_text() == "old\n" and os.listdir(tmp_path) == ["table.csv"]


def test_a_full_disk_while_writing_tensors_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "save_file", full_disk)
    with pytest.raises(InputError, match="disk is full"):
        files.write_tensors(tmp_path / "shard.safetensors", {"x": torch.zeros(3)})
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written .*UNMUTE_CACHE"):
        files.write_text(tmp_path / "file" / "table.csv", "x")


def test_any_exception_inside_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), files.atomic(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_tensors_come_back_with_their_header_and_are_readable_by_others(tmp_path):
    path = tmp_path / "sub" / "t.safetensors"
    files.write_tensors(path, {"x": torch.arange(6.0).reshape(2, 3).T}, {"a": "b"})
    assert torch.equal(load_file(path)["x"], torch.arange(6.0).reshape(2, 3).T)
    assert path.stat().st_mode & 0o044 == 0o044


def test_a_sweep_removes_what_dead_processes_of_this_machine_left_and_nothing_else(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    names = (f"{files._host()}-{gone.stdout.strip()}", files._me(), f"elsewhere-{gone.stdout.strip()}")
    dead, living, elsewhere = (tmp_path / f".a.csv.{name}.tmp" for name in names)
    for path in (dead, living, elsewhere):
        path.write_text("")
    files.sweep_temporaries(tmp_path)
    assert not dead.exists() and living.exists() and elsewhere.exists()  # of another machine nobody here knows


def test_digests_tell_contents_apart_and_not_their_order():
    assert files.digest({"a": 1, "b": [2]}) == files.digest({"b": [2], "a": 1}) != files.digest({"a": 1, "b": [3]})
