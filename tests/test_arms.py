"""Arms of a study: what they are called, what they read, that they run, resume and stay out of each other's way."""

from dataclasses import replace

import pytest
import torch

from lib.arms import Arm, loader
from lib.comparisons import difference
from lib.errors import InputError
from lib.profiles import load_profile
from lib.results import make_cell, read_rows, run_cells
from lib.store import build_store, load_embeddings

SETTINGS = load_profile("smoke/controls")


def arm(name, head="linear", **more):
    cell = make_cell("pocket-eat", "soundscapes", head)
    return Arm(**{**vars(cell), **more, "name": name})


def test_a_study_takes_sizes_and_seeds_from_its_profile_and_has_encoders_and_data_of_its_own():
    base = load_profile("smoke")
    assert SETTINGS.name == "smoke/controls" and SETTINGS.encoders == ("pocket-eat",)
    assert SETTINGS.clips_of("soundscapes") == base.clips_of("soundscapes") and SETTINGS.seeds == base.seeds
    for name, words in (
        ("smoke/nothing", "Unknown study"),
        ("encoders/controls", "no data"),
        ("no/controls", "profile"),
    ):
        with pytest.raises(InputError, match=words):
            load_profile(name)


def test_an_unknown_kind_of_features_is_named():
    with pytest.raises(InputError, match="Unknown kind of features 'most'"):
        loader(arm("most", features="most"), SETTINGS)


def test_arms_run_once_each_and_read_what_they_say():
    build_store(["pocket-eat"], "soundscapes", SETTINGS.clips_of("soundscapes"), workers=1)
    plain, largest = arm("linear"), arm("linear on max", features="max")
    assert len(run_cells(SETTINGS.name, [plain, largest], workers=1, show=False)) == 2
    assert not run_cells(SETTINGS.name, [plain, largest], workers=1, show=False)
    assert run_cells(SETTINGS.name, [replace(largest, options={"head_bn": True})], workers=1, show=False)
    seeds = [row["seed"] for row in read_rows(SETTINGS, plain) if row["split"] == "test"]
    assert tuple(seeds) == SETTINGS.seeds
    assert difference(SETTINGS, plain, plain) == (0, 0, 0)
    stored = load_embeddings("pocket-eat", "soundscapes", "val", 16)
    assert torch.equal(loader(largest, SETTINGS)("val").cls, stored.tokens.float().amax(1))
