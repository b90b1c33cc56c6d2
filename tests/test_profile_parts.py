"""A part of a profile, one cell of it, and the page that says what the paper takes."""

import pytest

from lib.cell import find_cell, in_words
from lib.errors import InputError
from lib.profile_parts import CHOSEN, part_of
from lib.profiles import PAPER_ENCODERS, PROFILES, load_profile
from lib.results import all_cells, main_cells, prototype_count_cells, run_cells

POCKET = PROFILES["pocket"]

# ---- parts


def test_nothing_asked_for_is_the_whole_profile():
    assert part_of(POCKET) is POCKET


def test_a_part_trains_exactly_the_cells_of_the_whole_that_are_named():
    part = part_of(POCKET, ("pocket-eat", "pocket-beats"), ("ten-sounds", "short-sounds"), ("linear", "mhca"))
    wanted = {
        cell
        for cell in main_cells(POCKET)
        if cell.encoder in ("pocket-eat", "pocket-beats")
        and cell.dataset in ("ten-sounds", "short-sounds")
        and cell.head in ("linear", "mhca")
        and (cell.cls_mode == "native" or cell.encoder == "pocket-beats")  # linear on the mean: on what is shown alone
    }
    found = {cell for cell in main_cells(part) if cell.cls_mode == "native" or cell.encoder == "pocket-beats"}
    assert found == wanted and prototype_count_cells(part) == []
    assert part.groups[0].clips == POCKET.groups[0].clips and part.seeds == POCKET.seeds


def test_the_ablations_go_with_protobin():
    part = part_of(POCKET, dataset=("ten-sounds",), head=("protobin",))
    counts = {(cell.head, cell.prototypes) for cell in prototype_count_cells(part)}
    assert counts == {(head, j) for head in ("protobin", "protofloat", "proto") for j in (1, 5, 10, 20, 40)}
    assert prototype_count_cells(part_of(POCKET, dataset=("short-sounds",))) == []


def test_what_is_shown_is_left_or_the_first_that_is():
    part = part_of(POCKET, encoder=("pocket-beats", "pocket-amae"))
    assert part.shown == "pocket-amae" and part.dataset == POCKET.dataset and part.example == POCKET.example
    other = part_of(POCKET, dataset=("short-sounds",))
    assert other.shown == POCKET.shown and other.dataset == "short-sounds" and other.example == 0


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"encoder": ("pocket-eet",)}, "Unknown encoder of profile 'pocket' 'pocket-eet'; .*Did you mean 'pocket-eat'"),
        ({"dataset": ("urban",)}, "Unknown dataset of profile 'pocket' 'urban'"),
        ({"head": ("lineer",)}, "Unknown head of profile 'pocket' 'lineer'"),
        ({"head": ("abmilp",), "dataset": ("short-sounds",)}, "does not train abmilp on short-sounds"),
    ],
)
def test_a_part_that_cannot_be_is_refused_in_words(names, said):
    with pytest.raises(InputError, match=said):
        part_of(POCKET, **names)


def test_the_environment_chooses_the_part(monkeypatch):
    monkeypatch.setenv(CHOSEN["dataset"], "ten-sounds, short-sounds")
    assert load_profile("pocket").datasets == ("ten-sounds", "short-sounds")
    monkeypatch.setenv(CHOSEN["dataset"], "nothing")
    with pytest.raises(InputError, match="Unknown dataset"):
        load_profile("pocket")


def test_the_paper_profile_has_the_papers_protocol():
    paper = PROFILES["paper"]
    assert (paper.trials, paper.epochs, paper.batch_size, len(paper.seeds)) == (50, 30, 128, 5)
    assert set(paper.encoders) == set(PAPER_ENCODERS) and len(paper.datasets) == 14
    assert [len(group.heads) for group in paper.groups] == [11, 6, 3]
    same = {"groups", "encoders", "ablation_prototypes", "ablation_datasets", "ablation_encoders", "shown"}
    assert all(getattr(PROFILES["rehearsal"], name) == getattr(paper, name) for name in same)


# ---- one cell


def test_one_cell_is_the_one_that_the_profile_runs_and_is_kept(capsys):
    smoke = load_profile("smoke")
    cell = find_cell(smoke, "log-mel", "short-sounds", "linear")
    assert find_cell(smoke, "pocket-eat", "soundscapes", "protobin", 1) in all_cells(smoke)
    assert run_cells("smoke", [cell], workers=1, show=False) == [cell.key]
    assert run_cells("smoke", [cell], workers=1, show=False) == []
    words = in_words(smoke, cell)
    assert words.startswith("linear on log-mel patches (control), short-sounds: test accuracy ")
    assert "seed 1: " in words and "seed 2: " in words and words.endswith("found in 2 trials")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("pocket-eat", "urban", "linear"), "Unknown dataset of profile 'smoke' 'urban'"),
        (("eet", "soundscapes", "linear"), "Unknown encoder 'eet'"),
        (("pocket-eat", "soundscapes", "lin"), "Unknown head 'lin'"),
        (("pocket-eat", "soundscapes", "protobin", -1), "J is -1"),
    ],
)
def test_a_cell_that_cannot_be_is_refused_in_words(names, said):
    with pytest.raises(InputError, match=said):
        find_cell(load_profile("smoke"), *names)
