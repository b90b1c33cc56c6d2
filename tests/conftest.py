"""What all tests share: scratch and figures of their own, one torch thread, the audio that may be there."""

from pathlib import Path

import pytest
import torch
from checkpoint_host import builder as builder
from checkpoint_host import host as host
from checkpoint_host import tiny as tiny
from tiny_published import cheap_clips as cheap_clips
from tiny_published import published as published

from lib.paths import audio_root

torch.set_num_threads(1)
AUDIO = audio_root().absolute()  # before each test gets a scratch folder of its own


@pytest.fixture(autouse=True)
def own_scratch(tmp_path, monkeypatch):
    """Give every test a scratch folder and a figure folder of its own."""
    monkeypatch.setenv("UNMUTE_CACHE", str(tmp_path / "scratch"))
    monkeypatch.setenv("UNMUTE_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("UNMUTE_WORKERS", "1")


@pytest.fixture(scope="session")
def audio() -> Path:
    """Return the folder of fetched audio, whether it is there or not."""
    return AUDIO


@pytest.fixture
def recordings(audio, monkeypatch) -> Path:
    """Return the folder that holds the ESC-10 recordings and have the library read them there, or skip."""
    if not (audio / "esc10").is_dir():
        pytest.skip("the ESC-10 recordings are not there: run `make data`, or set UNMUTE_DATA to where esc10/ is")
    monkeypatch.setenv("UNMUTE_DATA", str(audio))
    return audio
