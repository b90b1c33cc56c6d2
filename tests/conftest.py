"""What all tests share: scratch and figures of their own, one torch thread, the audio that may be there."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_scratch(tmp_path, monkeypatch):
    """Give every test a scratch folder and a figure folder of its own."""
    monkeypatch.setenv("UNMUTE_CACHE", str(tmp_path / "scratch"))
    monkeypatch.setenv("UNMUTE_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("UNMUTE_WORKERS", "1")


@pytest.fixture
def recordings() -> Path:
    """Return the folder of real recordings, or skip."""
    root = os.environ.get("UNMUTE_DATA")
    if not root or not (Path(root) / "esc10").is_dir():
        pytest.skip("the ESC-10 recordings are not there: set UNMUTE_DATA, or run `make data`")
    return Path(root)
