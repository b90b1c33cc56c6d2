"""The comparison of the nine pocket encoders: what is stored belongs to the shipped weights, and clears the bar."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lib.encoder_comparison import (
    COMPARED,
    SUPERVISED,
    falls_short,
    gains,
    in_words,
    label_of,
    margins,
    margins_page,
    stored,
    weights,
)
from lib.encoders import ENCODERS, SHIPPED
from lib.encoders.pocket import GEOMETRIES
from lib.errors import InputError
from lib.figures import read_table, write_table
from lib.paths import FIGURES, figure_root
from lib.plots_comparison import plot_gains, plot_mean_token, plot_supervised_gains
from lib.profiles import PROFILES, load_profile


@pytest.mark.parametrize("name", COMPARED)
def test_every_pocket_encoder_and_both_controls_are_compared(name):
    assert set(PROFILES[name].encoders) == {*GEOMETRIES, "random-vit", "log-mel"} == set(SHIPPED)
    assert len(PROFILES[name].seeds) == 3


@pytest.mark.parametrize("name", COMPARED)
def test_the_stored_comparison_is_of_the_shipped_weights(name):
    pd.testing.assert_frame_equal(stored(name, "weights"), weights(load_profile(name)))


@pytest.mark.parametrize("name", COMPARED)
def test_every_shipped_encoder_lies_five_points_and_three_sd_above_both_controls(name):
    table = margins(name)
    assert set(table["encoder"]) == set(GEOMETRIES)
    assert falls_short(table) == []


@pytest.mark.parametrize("name", COMPARED)
def test_the_stored_benchmark_follows_from_the_stored_results(name):
    runs = pd.read_csv(FIGURES / name / "results.csv")
    finals = (
        runs[runs["split"] == "test"].groupby(["encoder", "head", "cls_mode"])["value"].agg(["mean", "std", "count"])
    )
    table = read_table(FIGURES / name / "benchmark.csv").set_index(["encoder", "head", "cls_mode"])
    assert set(finals.index) == set(table.index) and (finals["count"] == 3).all()
    found = finals.loc[table.index]
    np.testing.assert_allclose(table[["mean", "sd"]], found[["mean", "std"]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", COMPARED)
def test_what_labels_give_is_the_difference_of_the_two_versions(name):
    means = stored(name, "benchmark").set_index(["encoder", "head"])["mean"]
    steps = stored(name, "supervised")
    assert set(steps["encoder"]) == {e for e in SHIPPED if ENCODERS[e].kind == "supervised"}
    for row in steps.itertuples():
        base = means[ENCODERS[row.encoder].base, row.head]
        assert row.gain == pytest.approx(means[row.encoder, row.head] - base, abs=0.01)
        assert row.low <= row.gain <= row.high


def fake(monkeypatch, **scores):
    """Store a benchmark of linear on the mean token: encoder → (mean, sd)."""
    rows = [
        {"encoder": name.replace("_", "-"), "head": "linear", "cls_mode": "mean", "mean": mean, "sd": sd}
        for name, (mean, sd) in scores.items()
    ]
    table = pd.DataFrame(rows).assign(family="cls", low=0.0, high=0.0, gain=0.0, gain_low=0.0, gain_high=0.0)
    write_table(figure_root() / "encoders" / "benchmark.csv", table, "made up")


def test_an_encoder_below_the_margin_of_the_better_control_falls_short(monkeypatch):
    fake(
        monkeypatch,
        pocket_amae=(55.0, 0.4),
        pocket_eat=(54.9, 0.4),
        pocket_asit=(56.0, 2.0),
        random_vit=(50.0, 0.5),
        log_mel=(40.0, 0.3),
    )
    table = margins("encoders").set_index("encoder")
    assert table.loc["pocket-amae", "points"] == pytest.approx(5.0)
    assert table.loc["pocket-amae", "sds"] == pytest.approx(10.0)  # the control's sd is the larger one
    assert falls_short(margins("encoders")) == ["pocket-asit", "pocket-eat"]  # exactly 3 sd; 4.9 points


def test_an_encoder_has_to_clear_the_lower_control_in_standard_deviations_too(monkeypatch):
    fake(monkeypatch, pocket_amae=(56.0, 0.4), random_vit=(50.0, 0.5), log_mel=(40.0, 9.0))
    assert margins("encoders").set_index("encoder").loc["pocket-amae", "sds"] == pytest.approx(16 / 9)
    assert falls_short(margins("encoders")) == ["pocket-amae"]


def test_linear_is_named_after_what_it_reads():
    assert label_of("linear", "native", "pocket-eat") == "linear on [cls]"
    assert label_of("linear", "mean", "pocket-eat") == "linear on mean"
    assert label_of("linear", "mean", "pocket-beats") == "linear on mean"
    assert label_of("protobin", "native", "pocket-eat") == "protobin"


def test_a_comparison_that_was_never_made_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr("lib.figures.FIGURES", tmp_path)
    with pytest.raises(InputError, match=r"no 'benchmark.csv' of profile 'encoders'; run `make encoders`"):
        margins("encoders")


def test_every_picture_and_sentence_comes_from_the_stored_tables():
    benchmarks = {name: stored(name, "benchmark") for name in COMPARED}
    steps = {name: stored(name, "supervised") for name in COMPARED}
    pictures = [
        plot_mean_token(benchmarks),
        plot_gains({name: gains(name) for name in COMPARED}),
        plot_supervised_gains(steps),
    ]
    assert all(isinstance(picture, Figure) for picture in pictures)
    assert "linear on [cls]" not in set(gains("encoders")["head"])  # nothing is compared with itself
    assert len(in_words("encoders")) == 3 + len(SUPERVISED)  # the margin, two kinds of base encoder, the pairs
    assert margins_page().shape == (len(GEOMETRIES), 4)
