"""The tables behind the figures: of a large store no more is read than is shown, and a part lacks figures by name."""

from dataclasses import replace

import pytest
import torch

from lib import shards, tables
from lib.comparisons import benchmark
from lib.errors import InputError
from lib.plots import plot_search
from lib.profile_parts import part_of
from lib.profiles import PROFILES
from lib.prototype_dynamics import dynamics, followed_cells
from lib.results import main_cells, run_cells
from lib.shards import close_folder, write_shard
from lib.store import load_embeddings, store_folder
from lib.streaming import Shards
from lib.tables import left_out, other_tokens

PAPER, SMOKE = PROFILES["paper"], PROFILES["smoke"]


def test_figure_1_reads_the_clips_that_it_needs_and_no_others(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_CLIPS", 4)
    monkeypatch.setattr(tables, "PCA_CLIPS", 6)
    group = replace(SMOKE.groups[0], clips={"train": 21, "val": 2, "test": 2})
    profile, index = replace(SMOKE, groups=(group,)), {"shards": {}}
    folder = store_folder("pocket-eat", profile.dataset, "train", 21)
    for number in shards.shards_of(21):
        tokens = torch.randn(len(shards.clips_of(number, 21)), 6, 8, generator=torch.Generator().manual_seed(number))
        tensors = {"tokens": tokens.half(), "cls": tokens[:, 0].half()}
        index["shards"][shards.shard_name(number)] = write_shard(folder, number, tensors, "made")
    close_folder(folder, index, grid=[3, 2])
    read, real = [], Shards.__call__
    monkeypatch.setattr(Shards, "__call__", lambda self, clips: read.extend(clips.tolist()) or real(self, clips))
    found = other_tokens(profile, "pocket-eat")
    assert torch.equal(found, load_embeddings("pocket-eat", profile.dataset, "train", 21).tokens[:6].float())
    assert read == list(range(6))


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ({}, []),
        ({"encoder": ("dasheng",)}, []),
        ({"dataset": ("fsd50k",)}, []),
        ({"dataset": ("hsn",)}, [6, 7]),
        ({"dataset": ("esc50",)}, [5, 6, 7]),
        ({"dataset": ("hsn",), "head": ("linear", "mhca")}, [1, 4, 6, 7]),
        ({"head": ("linear", "mhca")}, [1, 4, 6]),
        ({"head": ("mhca", "protobin")}, [6, 7]),
        ({"encoder": ("eat-plus",)}, [5, 7]),
    ],
)
def test_a_part_is_told_which_figures_it_cannot_have(names, missing):
    part = part_of(PAPER, **names)
    said = {number: left_out(number, part) for number in range(1, 9)}
    assert [number for number, why in said.items() if why] == missing
    assert all(said[number].startswith(f"Figure {number} is left out: it needs ") for number in missing)


def test_a_part_without_linear_has_no_gains_and_all_the_rest(monkeypatch):
    for kind, names in {"ENCODERS": "log-mel", "DATASETS": "short-sounds", "HEADS": "mhca"}.items():
        monkeypatch.setenv(f"UNMUTE_{kind}", names)
    monkeypatch.setitem(PROFILES, "smoke", replace(SMOKE, control_heads=()))
    run_cells("smoke", main_cells(part_of(PROFILES["smoke"], ("log-mel",), ("short-sounds",), ("mhca",))), 1, False)
    (row,) = benchmark("smoke").itertuples()
    assert row.gain != row.gain and row.gain_high != row.gain_high and row.low <= row.mean <= row.high


def test_a_search_that_was_not_made_is_said_in_its_place():
    rows = tables.pd.DataFrame([{"stage": "search", "head": "linear"}])
    (axes,) = plot_search(rows, "protobin", 2).axes
    assert "has no protobin" in " ".join(axes.texts[0].get_text().split())


def test_a_part_follows_the_prototypes_that_it_trains_and_no_others(monkeypatch):
    assert [cell.head for cell in followed_cells(part_of(SMOKE, head=("linear", "protobin")))] == [
        "protobin",
        "protofloat",
    ]
    assert followed_cells(part_of(SMOKE, head=("linear", "proto"))) == []
    monkeypatch.setenv("UNMUTE_HEADS", "linear,mhca")
    with pytest.raises(InputError, match="This part of profile 'smoke' has no protobin to follow"):
        dynamics("smoke")
