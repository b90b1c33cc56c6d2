"""The plan of the paper: its cells, what they take, and that a part is a part of the whole."""

import math

import pytest

from lib import plan as planning
from lib import published
from lib.bench_sizes import Shape, necessary_products
from lib.encoders.manifests import CHECKPOINTS
from lib.errors import InputError
from lib.heads import HEADS
from lib.plan import Machine, cell_operations, epochs_searched, grid_of, in_words, machine, manifests, paper_cells, plan
from lib.profile_parts import part_of
from lib.profiles import PROFILES, PROTOTYPE_HEADS
from lib.results import all_cells

MACHINE = Machine(100.0, dict.fromkeys(HEADS, 0.5), "a machine")


def test_the_cells_are_those_that_the_profile_runs_each_once_and_hold_the_papers_tables(monkeypatch, tmp_path):
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path))  # no copy of any dataset is needed to plan
    cells = paper_cells()
    assert len(cells) == len(all_cells(PROFILES["paper"]))
    assert not cells.duplicated().any() and set(cells["encoder"]) == set(CHECKPOINTS)
    assert set(cells["dataset"]) == set(published.table(8)["dataset"])
    general = cells[(cells["dataset"] == "urban") & (cells["J"].isin((0, 20)))]
    assert len(general[general["head"] != "protofloat"]) == 9 * 11
    ids, found = (
        {one["label"]: name for name, one in manifests().items()},
        set(cells.itertuples(index=False, name=None)),
    )
    for number in published.RESULT_TABLES:
        for row in published.table(number).itertuples():
            if row.head in HEADS:
                usual = 10 if row.dataset == "as20k" else 20
                J = int(usual if math.isnan(row.J) else row.J) if row.head in PROTOTYPE_HEADS else 0
                assert (ids[row.encoder], row.dataset, row.head, J) in found
    assert (cells.loc[cells["head"] == "linear", "J"] == 0).all()
    assert 10 in set(cells.loc[(cells["dataset"] == "as20k") & (cells["head"] == "protobin"), "J"])


def test_a_part_is_planned_as_it_is_run_with_its_ablations():
    names = (["eat"], ["urban"], ["linear", "protobin"])
    part = part_of(PROFILES["paper"], *map(tuple, names))
    assert len(paper_cells(*names)) == len(all_cells(part)) == 1 + 3 * 4  # linear; three kinds of prototypes, four J


def test_a_subset_takes_what_it_takes_in_the_whole():
    whole = plan(paper_cells(datasets=["urban", "esc50"]), MACHINE)
    part = plan(paper_cells(encoders=["eat"], datasets=["urban"]), MACHINE)
    (row,) = whole["embed"].query("encoder == 'eat' and dataset == 'urban'").itertuples(index=False)
    assert tuple(row) == tuple(part["embed"].iloc[0])
    assert part["train"]["cells"].sum() == len(paper_cells(encoders=["eat"], datasets=["urban"]))
    assert part["train"]["hours"].sum() < whole["train"]["hours"].sum()


def test_twice_the_rate_takes_half_the_hours():
    cells = paper_cells(encoders=["dasheng"], datasets=["esc50"])
    once, twice = (plan(cells, Machine(rate, MACHINE.head_share, "")) for rate in (100.0, 200.0))
    for stage in ("embed", "train"):
        assert once[stage]["hours"].sum() == pytest.approx(2 * twice[stage]["hours"].sum())


@pytest.mark.parametrize(
    ("name", "seconds", "grid"),
    [
        ("eat", 5, (64, 8)),
        ("amae", 1, (64, 8)),
        ("asit", 10, (37, 8)),
        ("beats", 10, (62, 8)),
        ("beats", 5, (31, 8)),
        ("dasheng", 10, (250, 1)),
        ("dasheng", 1, (25, 1)),
    ],
)
def test_grids_are_those_of_the_encoders(name, seconds, grid):
    assert grid_of(manifests()[name], seconds) == grid


def test_halving_spares_epochs_and_every_rung_is_counted():
    profile = PROFILES["pocket-full"]
    assert (profile.trials, profile.first_rung, profile.rung_factor, profile.epochs) == (50, 3, 3, 30)
    assert epochs_searched(planning.PROTOCOL) == 50 * 3 + 17 * 6 + 6 * 18 + 3 * 3


def test_a_cell_is_counted_from_the_products_of_its_head():
    shape = Shape("urban", (64, 8), 768, 10, 20, 6000, 2000, 128, 50)
    score, train = necessary_products("protobin", shape)
    epochs = epochs_searched(planning.PROTOCOL) + 3 * 5 * 30
    assert cell_operations(shape, "protobin") == epochs * 6000 * train + (2 * 50 + 15) * 2000 * score
    hours = MACHINE.hours(cell_operations(shape, "protobin"), 0.5)
    assert hours == pytest.approx(cell_operations(shape, "protobin") / 50e9 / 3600)


def test_the_store_holds_views_and_reserves_a_fifth_where_there_is_no_validation_split():
    sizes = planning.splits()
    assert sizes.loc["as20k", "train"] == pytest.approx(0.8 * 18685) and sizes.loc["as20k", "stored"] == 18685 + 17142
    assert sizes.loc["urban", ["train", "validation", "stored"]].tolist() == [6000, 2000, 10000]
    assert sizes.loc["hsn", "stored"] == 5 * (1344 - 269) + 269 + 12000  # what validates has no views
    assert sizes.loc["esc50", ["train", "validation", "test"]].tolist() == [1200, 400, 400]
    assert sizes.loc["uhh", "test"] == 36_637 and sizes.loc["sc2", "clip_seconds"] == 1  # not as Table 8 has them
    (row,) = plan(paper_cells(["eat"], ["urban"], ["linear"]), MACHINE)["embed"].itertuples(index=False)
    assert row.gigabytes == pytest.approx(10_000 * 513 * 768 * 2 / 1e9)


def test_the_largest_memory_is_that_of_the_head_with_a_weight_for_each_token(monkeypatch):
    stages = plan(paper_cells(["eat"], ["as20k", "esc50"]), MACHINE)
    most = stages["train"].set_index(["dataset", "head"])["memory"]
    weights = 512 * 768 * 527 + 527
    assert most.idxmax() == ("as20k", "linearc") and most.max() == pytest.approx(weights * 25 * 16 / 1e9)
    assert f"Memory: at most {most.max():.1f} GB" in in_words(stages, MACHINE) and 80 < most.max() < 90


def test_what_nobody_recorded_is_named_and_not_counted_as_nothing():
    stages = plan(paper_cells(["eat"], ["desed", "urban"], ["linear"]), MACHINE)
    said = in_words(stages, MACHINE)
    assert "and desed, of which no size was found" in said and "a machine" in said
    assert math.isnan(stages["download"].set_index("what").loc["desed", "gigabytes"])
    assert "of which no size" not in in_words(plan(paper_cells(["eat"], ["urban"]), MACHINE), MACHINE)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (dict(encoders=["eta"]), "Unknown encoder of profile 'paper' 'eta'.*Did you mean 'eat'"),
        (dict(datasets=["urbn"]), "Unknown dataset of profile 'paper' 'urbn'"),
        (dict(datasets=["sc2"], heads=["conv"]), "does not train conv on sc2"),
    ],
)
def test_unknown_names_and_empty_choices_are_sentences(chosen, words):
    with pytest.raises(InputError, match=words):
        paper_cells(**chosen)


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(InputError, match="above zero, not 0"):
        machine(0.0)
