"""How to read the scores: the words turn with the numbers, and say of which pairs each number is."""

import re

import numpy as np
import pandas as pd
import pytest

from lib import published, summary
from lib.errors import InputError
from lib.summary import gains, read_figures
from lib.summary_words import Gap, counts, gap_of, side

SIGNED = {
    "benchmark": ("gain", "gain_low", "gain_high"),
    "contrasts": ("difference", "low", "high"),
    "supervised": ("gain", "low", "high"),
}


def changed(value):
    """Read the committed tables with the number that `value` makes of each difference, and its interval with it."""

    def read(path):
        table, kind = read_figures(path), path.split("/")[1].removesuffix(".csv")
        if kind in SIGNED:
            middle, low, high = SIGNED[kind]
            new = table[middle].map(value)
            table[low], table[high], table[middle] = new - 0.5, new + 0.5, new
        return table

    return read


# ---- pairs in words


def test_a_gap_counts_pairs_and_those_whose_interval_leaves_out_zero():
    rows = pd.DataFrame({"gain": [2.0, 1.0, -3.0], "gain_low": [0.1, -1.0, -4.0], "gain_high": [3.0, 2.0, -0.1]})
    assert gap_of(rows) == Gap(0.0, 3, 1, 1)
    with pytest.raises(InputError, match="needs pairs"):
        gap_of(rows.iloc[:0])


@pytest.mark.parametrize(
    ("gap", "where", "words"),
    [
        (Gap(3.81, 6, 3, 0), "3.8 above", "(6 pairs, 3 clearly)"),
        (Gap(-0.44, 6, 0, 6), "0.4 below", "(6 pairs, all clearly)"),
        (Gap(-0.44, 6, 2, 0), "0.4 below", "(6 pairs, 2 clearly above)"),
        (Gap(0.04, 6, 0, 1), "level", "(6 pairs, 1 clearly below)"),
        (Gap(1.0, 1, 1, 0), "1.0 above", "(1 pair, 1 clearly)"),
        (Gap(1.0, 5, 3, 1), "1.0 above", "(5 pairs, 3 clearly above, 1 clearly below)"),
        (Gap(1.0, 5, 0, 0), "1.0 above", "(5 pairs, none clearly)"),
    ],
)
def test_a_gap_in_words(gap, where, words):
    assert side(gap.mean) == where and counts(gap) == words


def test_pairs_are_those_of_the_six_self_supervised_encoders_as_they_are_by_default():
    rows = gains(read_figures, "pocket", "general", "protobin")
    assert len(rows) == 18 and rows["encoder"].nunique() == 6
    assert not rows["encoder"].str.contains("plus|vit|mel").any() and rows["dataset"].nunique() == 3


# ---- words that turn with the numbers


def test_every_bullet_says_the_opposite_where_the_numbers_are_the_opposite():
    up, down = (changed(lambda gain, sign=sign: sign * 2.0) for sign in (1, -1))
    assert summary.bottleneck(up).startswith("*The bottleneck is there.*") and "2.0 above" in summary.bottleneck(up)
    assert summary.bottleneck(down).startswith("*No bottleneck shows clearly.*") and "above" not in summary.bottleneck(
        down
    )
    assert "the paper finds the gap too" in summary.bottleneck(up)
    assert "the paper finds the gap too" not in summary.bottleneck(down)
    assert summary.classes_apart(down).startswith("*What contradicts the paper*")  # protobin − proto is negative
    assert "fewer free weights" in summary.classes_apart(down)
    assert summary.classes_apart(up).startswith("*As in the paper*") and "2.0 below" in summary.classes_apart(up)
    assert "fewer free weights" not in summary.classes_apart(up)
    assert summary.binarisation(up).startswith("*Binarisation costs nothing*")
    assert summary.binarisation(changed(lambda gain: -0.6)).startswith("*Binarisation costs little*")
    assert summary.binarisation(down).startswith("*Binarisation has a price*")
    assert summary.without_pretraining(up).startswith("*Part of the gain") and "4 of 4" in summary.without_pretraining(
        up
    )
    assert summary.without_pretraining(down).startswith("*Without pretraining there is no clear gain*")
    assert "in none of 4 cases" in summary.without_pretraining(down) and "−2.0 (−2.5 to −1.5)" in (
        summary.without_pretraining(down)
    )
    assert "protobin` against `linear`, 2.0 below" in summary.encoders(down) and "−2.0 and −2.0" in summary.encoders(
        down
    )


def test_the_paper_has_proto_behind_protobin_and_a_gap_on_single_sounds():
    scores, single = published.wide(2, published.BASE), published.wide(6, published.BASE)
    assert (scores["proto"] - scores["protobin"]).mean() < -0.1
    assert (single["protobin"] - single["linear"]).mean() > 10


def test_a_rival_is_one_that_gains_more_than_protobin_on_the_same_pairs():
    def read(path, sets=()):
        table = read_figures(path)
        better = table["head"].eq("linpre") & table["dataset"].str.startswith(sets)
        return table.assign(gain=np.where(better, 9.0, np.where(table["head"] == "protobin", 5.0, 1.0)))

    none = summary.rivals(read)
    assert none.startswith("*It has no rival among simpler heads*") and none.count("less than `protobin` on both") == 2
    some = summary.rivals(lambda path: read(path, ("esc10",)))
    assert some.startswith("*It has rivals*") and "more than `protobin` on mixtures of ESC-10;" in some
    both = summary.rivals(lambda path: read(path, ("esc10", "many", "five", "ten")))
    assert "more than `protobin` on both" in both


@pytest.mark.parametrize(
    ("tuned", "head", "where"),
    [
        (99.0, "*Fine-tuning is the upper line*", "99.0 on the 112 clips of Many sounds, above `"),
        (1.0, "*Fine-tuning is no upper line with so few clips*", "1.0 on the 112 clips of Many sounds, below `"),
    ],
)
def test_fine_tuning_stands_above_between_or_below(tuned, head, where):
    def read(path):
        table = read_figures(path)
        return table.assign(mean=tuned) if "fine_tuning" in path else table

    assert summary.fine_tuning(read).startswith(head) and where in summary.fine_tuning(read)

    def between(path):
        table = read(path)
        heads = {"linear": 10.0, "protobin": 20.0}
        return table.assign(mean=15.0 if "fine_tuning" in path else table["head"].map(heads).fillna(0.0))

    assert summary.fine_tuning(between).count("15.0 on the") == 2
    assert summary.fine_tuning(between).count("between `linear` (10.0) and `protobin` (20.0)") == 2


def test_conclusions_that_do_not_reappear_are_quoted_once_with_their_profiles():
    def read(path):
        verdicts = ["reappears", "reappears", "undecided", "does not reappear" if "pocket" in path else "not run"]
        return pd.DataFrame({"verdict": verdicts, "sentence": ["a", "b", "c", "d falls"]})

    words = summary.questions(read)
    assert "2 of 4 on `esc10` (1 undecided, 1 not run) and 2 of 4 on `pocket` (1 undecided, 1 not)" in words
    assert words.endswith(" Not: “d falls” (`pocket`).")


def test_more_clips_are_held_against_few_of_the_same_encoders_and_heads():
    def read(path, gain):
        heads = ["linear", "linpre", "mhca", "protobin"]
        rows = pd.DataFrame({"encoder": "pocket-amae", "head": heads, "value": [50.0, 60.0, 60.0, 70.0]})
        rows["value"] += np.array([gain, 5.0, 5.0, 7.0]) * path.startswith("esc10-1500")
        return rows.assign(dataset="esc10-soundscapes", cls_mode="native", J=np.nan, split="test")

    words = summary.more_clips(lambda path: read(path, 6.0))
    assert words.startswith("With more clips these heads gain: on 1,500 training clips") and "three seeds" in words
    assert "with A-MAE (pocket) `linear` has 56.0, `linpre` has 65.0, `mhca` has 65.0 and `protobin` has 77.0" in words
    assert words.endswith("that is +5.0 to +7.0 points against 256 clips.")
    assert summary.more_clips(lambda path: read(path, -1.0)).startswith("With more clips not every head gains")


def test_more_trials_are_said_of_the_reference_run_and_turn_with_its_numbers():
    up, down = (summary.more_trials(changed(lambda gain, sign=sign: sign * 2.0)) for sign in (1, -1))
    for words in (up, down):
        assert words.startswith("With 50 trials and five seeds instead of 5 and three, and every head on every")
        assert "figures/pocket-full/benchmark.csv" in words and "of five encoders end" in words
    assert "`protobin` against `linear` is 2.0 above on soundscapes (18 pairs, all clearly)" in up
    assert "2.0 below on soundscapes (18 pairs, all clearly)" in down and "above on" not in down
    assert "against `protofloat` it is 2.0 below" in down and "`conv` is 2.0 below (18 pairs, all clearly)" in down


def test_fine_tuned_encoders_are_counted_against_their_own_protobin():
    def read(path, tuned):
        table = read_figures(path)
        return table.assign(mean=tuned) if "fine_tuning" in path else table

    all_above, none = (summary.more_trials(lambda path, tuned=tuned: read(path, tuned)) for tuned in (99.0, 1.0))
    assert "Fine-tuned, five of five encoders end above `protobin`." in all_above
    assert "Fine-tuned, none of five encoders ends above `protobin`." in none


# ---- the whole


def test_the_summary_is_eight_bullets_and_two_paragraphs_of_short_lines_without_a_wrong_sign():
    lines = (text := summary.summary()).splitlines()
    assert sum(line.startswith("- *") for line in lines) == 8 and lines.count("") == 2
    assert max(map(len, lines)) <= summary.WIDTH
    assert not re.search(r"\bnan\b|[+−]-|--|\d-\d", text.replace("esc10-1500", ""))


def test_a_table_that_is_missing_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(summary, "FIGURES", tmp_path)
    with pytest.raises(InputError, match="no figure table"):
        summary.summary()
    with pytest.raises(InputError, match="run `make figures PROFILE=esc10-1500`"):
        summary.more_clips(read_figures)
