"""The comparison of the nine pocket encoders: margins, gains, names, and the pictures of them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lib import encoder_comparison
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
)
from lib.encoders import ENCODERS
from lib.encoders.pocket import GEOMETRIES
from lib.errors import InputError
from lib.figures import write_table
from lib.paths import figure_root
from lib.plots_comparison import plot_gains, plot_mean_token, plot_supervised_gains
from lib.profiles import PROFILES, load_profile
from lib.results import main_cells


@pytest.mark.parametrize("name", COMPARED)
def test_every_pocket_encoder_and_both_controls_are_compared(name):
    assert set(PROFILES[name].encoders) == {*GEOMETRIES, "random-vit", "log-mel"} == set(ENCODERS)
    assert len(PROFILES[name].seeds) == 3


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
    assert falls_short(margins("encoders")) == ["pocket-eat", "pocket-asit"]  # 4.9 points; exactly 3 sd


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
    monkeypatch.setattr(encoder_comparison, "FIGURES", tmp_path)
    with pytest.raises(InputError, match=r"no 'benchmark.csv' of profile 'encoders'; run `make encoders`"):
        margins("encoders")


def test_every_picture_and_sentence_comes_from_the_tables():
    rng = np.random.default_rng(0)
    for name in COMPARED:
        cells = main_cells(load_profile(name))
        table = pd.DataFrame([{"encoder": c.encoder, "head": c.head, "cls_mode": c.cls_mode} for c in cells])
        itself = (table["head"] == "linear") & (table["cls_mode"] == table["encoder"].map(lambda e: ENCODERS[e].cls))
        gain = np.where(itself, 0.0, rng.normal(8, 3, len(table)))
        width = np.where(itself, 0.0, 2.0)
        table = table.assign(mean=50 + gain, sd=0.3, low=47 + gain, high=53 + gain)
        table = table.assign(gain=gain, gain_low=gain - width, gain_high=gain + width)
        write_table(figure_root() / name / "benchmark.csv", table, "made up")
        heads = ["linear on mean", "linpre", "mhca", "proto", "protobin"]
        rows = [(e, h, g, g - 2, g + 2) for e in SUPERVISED for h, g in zip(heads, rng.normal(3, 2, 5), strict=True)]
        steps = pd.DataFrame(rows, columns=["encoder", "head", "gain", "low", "high"])
        write_table(figure_root() / name / "supervised.csv", steps, "made up")
    pictures = [
        plot_mean_token({name: stored(name, "benchmark") for name in COMPARED}),
        plot_gains({name: gains(name) for name in COMPARED}),
        plot_supervised_gains({name: stored(name, "supervised") for name in COMPARED}),
    ]
    assert all(isinstance(picture, Figure) for picture in pictures)
    assert "linear on [cls]" not in set(gains("encoders")["head"])  # nothing is compared with itself
    sentences = in_words("encoders")
    assert len(sentences) == 3 + len(SUPERVISED)  # the margin, two kinds of base encoder, the pairs
    assert margins_page().shape == (len(GEOMETRIES), 4)
