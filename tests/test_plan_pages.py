"""The page "Run the paper": what a stage takes, on which machine, and what to run first."""

import pytest

from lib.plan import machine, paper_cells, plan
from lib.plan_pages import STEPS, Price, advice, by_dataset, first_steps, on_machines, stages
from lib.plots_plan import plot_hours

ON, CELLS = machine(20.0), paper_cells()


def test_stages_add_up_to_the_plan_and_cost_what_they_take():
    table, found = stages(CELLS, ON, Price(3.0, 50.0)), plan(CELLS, ON)
    assert table.loc["train", "hours"] == pytest.approx(found["train"]["hours"].sum())
    assert table.loc["embed", "gigabytes"] == pytest.approx(found["embed"]["gigabytes"].sum())
    assert table.loc["train", "cost"] == pytest.approx(3 * table.loc["train", "hours"])
    embed = table.loc["embed"]
    assert embed["cost"] == pytest.approx(3 * embed["hours"] + 50 * embed["gigabytes"] / 1000)
    assert "no size is known" in table.loc["download", "what"]


def test_a_machine_twice_as_fast_takes_half_the_hours():
    table = on_machines(CELLS, (10.0, 20.0))
    assert table.loc[10.0, "together, h"] == pytest.approx(2 * table.loc[20.0, "together, h"])
    assert (table["which"] == "this machine").sum() == 1


def test_every_dataset_has_its_hours_and_one_encoders_store_is_a_part_of_all():
    table = by_dataset(CELLS, ON)
    assert len(table) == 14 and table["train"].is_monotonic_decreasing
    assert (table["one encoder's, GB"] < table["store, GB"]).all()
    assert len(plot_hours(table, "a machine").axes[0].get_yticklabels()) == 14


def test_steps_grow_and_the_last_that_fits_is_advised():
    steps = first_steps(ON, 4.0)
    assert list(steps.index) == [step for step, *_ in STEPS]
    assert steps["cells"].is_monotonic_increasing and steps["hours"].is_monotonic_increasing
    assert steps.iloc[-1]["cells"] == len(CELLS) and steps.iloc[-1]["command"] == "make figures PROFILE=paper"
    last = steps[steps["within 4 h"] == "yes"].iloc[-1]
    assert last["command"] in advice(steps, 4.0) and last["hours"] <= 4.0
    assert advice(steps, 1e-6).startswith("Nothing fits")
