"""The four questions: the rule gives each verdict where it should, and nothing but the rule decides."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from lib import question_draws, questions_page
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.metrics import Draws, mean_average_precision
from lib.plots_questions import TITLES, plot_conclusions, plot_heads
from lib.profiles import WITH_CLS, load_profile
from lib.published import FINE_TUNING
from lib.question_draws import KINDS, from_cells, published_scores, read_scores, with_seeds
from lib.questions import QUESTIONS, VERDICTS, Part, all_conclusions, ask, conclusion, decide, find, rule, verdicts
from lib.questions_asked import leads
from lib.questions_page import (
    REMARKS,
    conclusions_markdown,
    labelled_classes,
    mean_token,
    remarks,
    summary,
    verdicts_markdown,
)
from lib.search import CellResult

REAPPEARS, UNDECIDED, FAILS, NOT_RUN = VERDICTS
ASKED = {each.id: each for each in all_conclusions()}
PAPER = published_scores()


def with_draws(scores, noise, count=60):
    """Add draws around what was measured."""
    drawn = noise * np.random.default_rng(0).standard_normal((count, *scores.values.shape[1:]))
    return replace(scores, values=np.concatenate([scores.values, scores.values + drawn]))


def altered(change):
    """Change the paper's scores: `change` gets the values by head, and alters them in place."""
    scores = replace(PAPER, values=PAPER.values.copy())
    change({head: scores.values[..., at] for at, head in enumerate(scores.all_heads)})
    return scores


def mirrored(values):
    for one in values.values():
        one[:] = 100 - one


def swapped(values):
    values["linear"][:], values["protobin"][:] = values["protobin"].copy(), values["linear"].copy()


def parallel(values):
    """Both rank the encoders alike."""
    values["protobin"][:] = values["linear"] + 5


OPPOSITE = dict.fromkeys(ASKED, mirrored) | {"ranking-reshuffled": parallel, "linear-falls-more": swapped}


# ---- the rule --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASKED)
def test_each_conclusion_can_come_out_all_three_ways(name):
    assert find(ASKED[name], with_draws(PAPER, 0.02)).verdict == REAPPEARS  # so do the paper's own tables decide
    assert find(ASKED[name], with_draws(PAPER, 150)).verdict == UNDECIDED
    assert find(ASKED[name], with_draws(altered(OPPOSITE[name]), 0.02)).verdict == FAILS


@pytest.mark.parametrize(
    ("low", "high", "least", "most", "verdict"),
    [
        (0.1, 2.0, 0.1, 2.0, REAPPEARS),
        (0.1, 2.0, -0.1, 2.0, UNDECIDED),  # rests on one encoder or dataset
        (-0.1, 2.0, 0.1, 2.0, UNDECIDED),
        (-2.0, -0.1, -2.0, -0.1, FAILS),
        (-2.0, -0.1, -2.0, 0.1, UNDECIDED),
        (-2.0, 0.1, -2.0, -0.1, UNDECIDED),
        (0.0, 2.0, 0.1, 2.0, UNDECIDED),
    ],
)
def test_both_the_interval_and_what_is_left_out_have_to_agree(low, high, least, most, verdict):
    assert decide(low, high, least, most) == verdict


def made_of(cells):
    """Make scores of a dict (group, dataset, kind, encoder, head) → value; every sd is 1."""
    values = {place: np.array([value]) for place, value in cells.items()}
    return with_draws(from_cells(values, dict.fromkeys(cells, 1.0), "many", "a"), 0.1, 400)


def test_a_gain_that_one_dataset_carries_is_undecided():
    gains = {"one": 30.0, "two": -1.0, "three": -1.0}
    cells = {
        ("general", dataset, "base", encoder, head): 40.0 + (gain if head == "protobin" else 0.0)
        for dataset, gain in gains.items()
        for encoder in "abc"
        for head in ("linear", "protobin")
    }
    found = find(ASKED["protobin-above-linear"], made_of(cells))
    assert found.low > 0 and found.least == pytest.approx(-1.0)
    assert found.verdict == UNDECIDED
    assert found.configurations.startswith("3 of 9, clearly 3, clearly against 6; by more than one sd 3 to 0")


def test_the_weakest_part_decides_and_one_failure_among_many_by_chance_does_not():
    def found(series):
        def parts(scores):
            """Compare."""
            return [Part(f"part {at}", values[:, None], values) for at, values in enumerate(series)]

        return find(conclusion("Q1", "here", "all", leave_out=())(parts), PAPER)

    rng = np.random.default_rng(1)
    good = [np.append(5.0, 5 + rng.standard_normal(4000)) for _ in range(19)]
    slightly_below = np.append(-2.2, -2.2 + rng.standard_normal(4000))  # 2.5 % above −0.24, 0.125 % above +0.8
    some = found([*good, slightly_below])
    assert some.value == -2.2 and some.weakest == "part 19 (20 parts)"
    assert some.low == pytest.approx(-4.2, abs=0.15) and some.high > 0.4
    assert some.verdict == UNDECIDED
    assert found([slightly_below]).verdict == FAILS  # alone it is clear
    assert found([*good, slightly_below - 3]).verdict == FAILS
    assert found(good).verdict == REAPPEARS


def test_heads_that_ran_on_few_encoders_are_compared_there_and_nowhere_else():
    cells = {}
    for encoder in "abcd":
        for head, score in (("proto", 60.0), ("protobin", 61.0), ("mhca", 55.0), ("conv", 58.0)):
            if head != "conv" or encoder in "ab":
                # The encoders without conv are easy: an average over all of them would put both prototypes far above.
                cells["general", "set", "base", encoder, head] = score + (30 if encoder in "cd" else 0)
    part = {part.name: part for part in leads(made_of(cells), ["protobin"], ["mhca", "conv"], "general")}
    assert part["protobin over conv, general audio"].average[0] == pytest.approx(3.0)
    assert part["protobin over conv, general audio"].cases.shape[1] == 2
    assert part["protobin over mhca, general audio"].cases.shape[1] == 4


def lacking(group="", kind="", head=""):
    """Leave a group, the supervised⁺ encoders or a head out of the paper's scores."""
    scores = replace(PAPER, values=PAPER.values.copy())
    if group:
        scores.values[:, scores.rows_of(group)] = np.nan
    if kind:
        scores.values[:, :, KINDS.index(kind)] = np.nan
    if head:
        scores.values[..., scores.all_heads.index(head)] = np.nan
    return with_draws(scores, 0.02)


@pytest.mark.parametrize(
    ("left_out", "not_run"),
    [
        ({"group": "bioacoustic"}, {"uplift-is-local"}),
        ({"group": "control"}, {"gap-on-single-label", "linear-falls-more", "lead-grows-with-polyphony"}),
        ({"kind": "supervised"}, {"cls-gains-most", "prototypes-stay-on-top", "uplift-is-local"}),
        ({"head": FINE_TUNING}, {"most-of-the-gap"}),
    ],
)
def test_what_a_profile_does_not_run_is_neither_confirmed_nor_refuted(left_out, not_run):
    table = ask(lacking(**left_out), PAPER)
    assert set(table.loc[table["verdict"] == NOT_RUN, "conclusion"]) == not_run
    assert table.loc[table["verdict"] == NOT_RUN, ["here", "low", "high"]].isna().all(axis=None)
    assert isinstance(plot_conclusions(table), Figure)
    assert len(verdicts_markdown(table).splitlines()) == len(table) + 2


def test_no_gap_to_fine_tuning_is_no_gap_closed():
    def below(values):
        values[FINE_TUNING][:] = 10.0  # below linear, and protobin far above both

    assert find(ASKED["most-of-the-gap"], with_draws(altered(below), 0.02)).verdict == FAILS


# ---- the scores --------------------------------------------------------------------------------------------------


def test_draws_are_centred_paired_within_a_dataset_and_independent_between_datasets():
    rng = np.random.default_rng(2)
    draws = Draws(0.5, 0.53 + 0.02 * rng.standard_normal(2000))
    place = ("general", "ten-sounds", "base", "pocket-eat", "linear")
    one, other = (with_seeds(draws, 0.0, (*place[:-1], head)) for head in ("linear", "protobin"))
    np.testing.assert_array_equal(one, other)
    assert one[0] == 50.0 and one[1:].mean() == pytest.approx(50.0) and one[1:].std() == pytest.approx(2.0, abs=0.1)
    elsewhere = with_seeds(draws, 0.0, ("general", "five-scenes", *place[2:]))
    assert abs(np.corrcoef(one[1:], elsewhere[1:])[0, 1]) < 0.1
    seeded = with_seeds(Draws(0.5, np.full(2000, 0.53)), 0.7, place)
    assert seeded[1:].std() == pytest.approx(0.7, abs=0.05)
    assert abs(np.corrcoef(seeded[1:], one[1:])[0, 1]) < 0.1


@pytest.fixture
def smoke(monkeypatch):
    """The profile `smoke` as if it had been run: sd over two seeds is 1 with the base encoder, 7 with supervised⁺."""

    def drawn(profile, cell):
        rng = np.random.default_rng(list(cell.key.encode()))
        return Draws(0.4, 0.4 + 0.01 * rng.standard_normal(profile.bootstrap_draws))

    def values(profile, cell):
        half = (1.0 if cell.encoder == "pocket-eat" else 7.0) / np.sqrt(2)
        return [40 - half, 40 + half]

    monkeypatch.setattr(question_draws, "cell_draws", drawn)
    monkeypatch.setattr(question_draws, "final_values", values)
    monkeypatch.setattr(question_draws, "draw_all", lambda profile, cells: None)
    monkeypatch.setattr(question_draws, "read_finetuning", lambda *names: _tuned())
    return read_scores("smoke")


def _tuned():
    profile = load_profile("smoke")
    shape = (2, profile.clips["test"], len(load_dataset(profile.dataset).classes))
    scores = torch.from_numpy(np.random.default_rng(4).standard_normal(shape))
    return CellResult([{"split": "test", "value": 30.0 + at} for at in (0, 2)], scores, {})


def _tuned_value():
    targets = load_dataset("soundscapes").targets("test", load_profile("smoke").clips["test"])
    return 100 * np.mean([mean_average_precision(one, targets).value for one in _tuned().test_scores.numpy()])


def test_a_profiles_scores_hold_base_and_supervised_in_one_place_and_no_control(smoke):
    assert smoke.encoders == ("pocket-eat",) and np.isfinite(smoke.of("linear", "general", "supervised")).all()
    assert {ENCODERS[name].kind for name in load_profile("smoke").encoders} == {"base", "supervised", "control"}
    assert smoke.many == "soundscapes" and smoke.shown == "pocket-eat"
    assert smoke.of(FINE_TUNING, "general")[0].item() == pytest.approx(_tuned_value())
    assert "conv" in smoke.heads("general") and "conv" not in smoke.heads("general", "supervised")  # costly
    assert smoke.heads("control") == ["linear", "mhca", "protobin"]
    assert len(smoke.values) == 1 + load_profile("smoke").bootstrap_draws
    assert (smoke.of("linear", "general")[0] == 40.0).all()


def test_the_error_for_seeds_is_pooled_over_encoders(smoke):
    pooled = np.sqrt((1 + 49) / 2) / np.sqrt(2)  # rms of both sds, over the root of two seeds
    for kind in ("base", "supervised"):
        drawn = np.concatenate([smoke.of(head, "general", kind)[1:].ravel() for head in ("mlp", "ep", "mhca")])
        assert drawn.std() == pytest.approx(np.hypot(pooled, 1.0), rel=0.2)
    assert smoke.means("general")["sd"].iloc[0] == pytest.approx(1.0)  # what is reported is a cell's own


def test_a_smoke_profile_gets_through_and_says_what_it_cannot_tell(smoke):
    table = verdicts("smoke")
    pd.testing.assert_frame_equal(table, ask(smoke, PAPER))
    verdict = table.set_index("conclusion")["verdict"]
    assert verdict["ranking-reshuffled"] == NOT_RUN  # one encoder is no ranking
    assert set(verdict) <= set(VERDICTS) and (verdict.drop("ranking-reshuffled") != NOT_RUN).all()


# ---- what a reader sees ------------------------------------------------------------------------------------------


def test_every_question_has_one_to_three_conclusions_with_a_place_and_a_title():
    questions = pd.Series([each.question for each in ASKED.values()]).value_counts()
    assert set(questions.index) == set(QUESTIONS) == set(REMARKS) and questions.between(1, 3).all()
    assert set(TITLES) == set(ASKED) and len(ASKED) == len(all_conclusions())


def test_the_words_say_the_numbers_of_the_table():
    table = ask(with_draws(PAPER, 0.5), PAPER)
    for row in table.itertuples():
        digits = 2 if row.unit == "rank correlation" else 1
        for value in (row.here, row.low, row.high, row.published):
            assert f"{value:+.{digits}f}".replace("-", "−") in row.words
        assert row.words.startswith(row.verdict.capitalize()) and row.low <= row.here <= row.high
    assert "the threshold is 0.5" in table.set_index("conclusion").loc["ranking-reshuffled", "words"]
    counts = [int(number) for number in re.findall(r"\d+", summary(table))]
    assert counts[0] == len(table) == sum(counts[1:])


def test_the_page_states_the_rule_and_every_conclusion_before_the_verdicts():
    assert "left out in turn" in rule() and rule().startswith("- A conclusion is")
    asked = [line for question in QUESTIONS for line in conclusions_markdown(question).splitlines()[2:]]
    assert len(asked) == len(ASKED) and all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in asked)


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_lies_behind_is_said_of_both_sides(question):
    lines = remarks(question, with_draws(PAPER, 0.1), PAPER).splitlines()
    assert len(lines) == 2 * len(REMARKS[question])
    here, paper = lines[0], lines[1]
    assert here.removeprefix("- Here: ") == paper.removeprefix("- In the paper: ")  # the same scores, the same words


def test_the_sentences_behind_the_questions_are_those_of_the_record():
    assert "63 % of the gap" in remarks("Q2", PAPER, PAPER)
    assert "linear #10 → #6, mlp #7 → #3, proto #2 → #1, protobin #1 → #2" in remarks("Q4", PAPER, PAPER)
    assert "protobin +14.4" in remarks("Q1", PAPER, PAPER)


def test_the_pictures_are_drawn():
    assert isinstance(plot_conclusions(ask(with_draws(PAPER, 0.5), PAPER)), Figure)
    gains = pd.DataFrame({"head": ["mlp", "protobin"], "gain": [1.0, 2.0]})
    assert isinstance(plot_heads({"Table 2": (gains, gains), "Table 6": (gains, gains)}), Figure)


def test_a_page_counts_the_classes_that_supervised_encoders_have_seen_labels_of():
    words = labelled_classes("pocket")
    assert "Many sounds 15 of 49" in words and "Forest, 8 shots 1 of 10" in words


def test_the_gain_over_the_mean_token_is_said_of_encoders_with_a_cls_of_their_own(monkeypatch):
    scores = {("protobin", "native"): 50.0, ("linear", "native"): 40.0, ("linear", "mean"): 53.0}
    monkeypatch.setattr(
        questions_page, "final_values", lambda profile, cell: [scores.get((cell.head, cell.cls_mode), 0.0)] * 2
    )
    words = mean_token("pocket").split("; ")
    assert len(words) == len(WITH_CLS) and words[0] == "A-MAE (pocket) +10.0 → −3.0"
    assert not any("control" in word for word in words)
