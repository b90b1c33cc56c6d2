"""The four questions as a reader sees them: the count, a table a question, and what lies behind it in words.

Each sentence is made of scores by one function, so that it can be said of a profile and of the paper's tables.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from lib.comparisons import final_values, is_default
from lib.data.banks import SyntheticBank
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.profiles import load_profile
from lib.published import FINE_TUNING
from lib.question_draws import Scores, published_scores
from lib.questions import VERDICTS, all_conclusions, find, number
from lib.questions_asked import CLS, GROUPS, PROTOTYPES, by_encoder, called, many_class, uplift
from lib.rankings import win_ranks
from lib.results import main_cells


def summary(table: pd.DataFrame) -> str:
    """Return one sentence: how many of the conclusions got which verdict (`table` as from `lib.questions.verdicts`)."""
    counts = [int((table["verdict"] == verdict).sum()) for verdict in VERDICTS]
    reappear, undecided, fail, not_run = counts
    one = [count == 1 for count in counts]
    words = f"Of {len(table)} conclusions **{reappear} reappear{'s' * one[0]}**, **{fail} do{'es' * one[2]} not**, "
    words += f"and {undecided} {'is' if one[1] else 'are'} undecided"
    return words + (f"; {not_run} need what this profile does not run." if not_run else ".")


def conclusions_markdown(question: str) -> str:
    """Return what is asked under a question, before any result, as a Markdown table."""
    lines = ["| the paper's sentence | what is computed | reappears if | in the paper |", "|---|---|---|---|"]
    paper = published_scores()
    for each in all_conclusions():
        if each.question == question:
            side = f"{'above' if each.above else 'below'} {each.threshold:g}"
            theirs = f"{number(each, find(each, paper).value)} {each.unit}"
            lines.append(f"| *{each.sentence}* ({each.place}) | {each.computation} | {side} | {theirs} |")
    return "\n".join(lines)


def verdicts_markdown(table: pd.DataFrame) -> str:
    """Return rows of `lib.questions.verdicts` as a Markdown table: sentence, paper, here, configurations, verdict."""
    asked = {each.id: each for each in all_conclusions()}
    lines = ["| the paper's sentence | in the paper | here | configurations | verdict |", "|---|---|---|---|---|"]
    for row in table.itertuples():
        each = asked[row.conclusion]
        here = "–"
        if row.verdict != VERDICTS[-1]:
            limits = f"{number(each, row.low)} to {number(each, row.high)}"
            here = f"{number(each, row.here)} ({limits}) {row.unit}<br>{row.weakest}"
        cells = (f"*{row.sentence}*", number(each, row.published), here, row.configurations, f"**{row.verdict}**")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---- what lies behind, in sentences ------------------------------------------------------------


def order_of_heads(scores: Scores) -> str:
    """Say how far the heads are from linear on general audio, from the best down."""
    table = scores.measured
    linear, gaps = table.of("linear", "general"), {}
    for head in table.heads("general"):
        gaps[head] = _ran(table.of(head, "general") - linear)
    gaps.pop("linear", None)
    if not any(gap.size for gap in gaps.values()):
        return "there are no points above linear on general audio"
    most, average = max(gap.size for gap in gaps.values()), pd.Series({head: gap.mean() for head, gap in gaps.items()})
    average = average.sort_values(ascending=False)
    everywhere = [f"{head} {_signed(gap)}" for head, gap in average.items() if gaps[head].size == most]
    fewer = [f"{head} {_signed(gap)} (of {gaps[head].size})" for head, gap in average.items() if gaps[head].size < most]
    words = f"points above linear on general audio, of {most} configurations: {', '.join(everywhere)}"
    return words + (f"; of fewer: {', '.join(fewer)}" if fewer else "")


def ranks_of_encoders(scores: Scores) -> str:
    """Say how linear and protobin rank the encoders on general audio."""
    table = scores.measured
    words = []
    for head in ("linear", "protobin"):
        average = pd.Series(by_encoder(table.of(head, "general"))[0], table.encoders).sort_values(ascending=False)
        if average.notna().any():
            words.append(f"{head}: {', '.join(f'{called(name)} {value:.1f}' for name, value in average.items())}")
    return "; ".join(words) or "neither linear nor protobin ran on general audio"


def gap_closed(scores: Scores) -> str:
    """Say which share of the gap from linear to fine-tuning protobin closes, on the many-class dataset."""
    found = pd.DataFrame(
        {head: many_class(scores.measured, head)[0] for head in ("linear", "protobin", FINE_TUNING)}, scores.encoders
    )
    if scores.shown not in found.dropna().index:
        return "no encoder was fine-tuned"
    linear, protobin, tuned = found.loc[scores.shown]
    words = f"linear {linear:.1f}, protobin {protobin:.1f}, fine-tuning {tuned:.1f}"
    if tuned <= linear:
        return f"{words}: no gap to close"
    return f"{words}: {100 * (protobin - linear) / (tuned - linear):.0f} % of the gap ({called(scores.shown)})"


def leads_over_mhca(scores: Scores) -> str:
    """Say how far protobin is above mhca and linear in each group."""
    table, words = scores.measured, []
    for group, name in GROUPS.items():
        gaps = [_ran(table.of("protobin", group) - table.of(head, group)) for head in ("mhca", "linear")]
        if gaps[0].size:
            words.append(f"{name} {_signed(gaps[0].mean())} above mhca, {_signed(gaps[1].mean())} above linear")
    return "protobin is on " + "; on ".join(words) if words else "protobin and mhca did not both run"


def uplift_by_head(scores: Scores) -> str:
    """Say what supervised⁺ adds to each head, in each group."""
    table, words = scores.measured, []
    for group in ("general", "bioacoustic"):
        gains = {head: _ran(uplift(table, head, group)) for head in table.heads(group, "supervised")}
        gains = pd.Series({head: gain.mean() for head, gain in gains.items() if gain.size}).sort_values(ascending=False)
        if len(gains):
            words.append(f"on {GROUPS[group]} " + ", ".join(f"{head} {_signed(gain)}" for head, gain in gains.items()))
    return "supervised⁺ adds " + "; ".join(words) if words else "no encoder has a supervised⁺ version"


def ranks_by_wins(scores: Scores) -> str:
    """Say how linear, mlp and the prototypes rank by wins before and after supervised⁺, on general audio."""
    after = scores.means("general", "supervised")
    if after.empty:
        return "no encoder has a supervised⁺ version"
    before = scores.means("general")
    before = before[before["encoder"].isin(after["encoder"])]
    counts = pd.concat([before, after])["head"].value_counts()
    heads = [head for head in scores.heads("general") if counts.get(head, 0) == counts.max()]
    first, then = (win_ranks(means, heads).set_index("head")["rank"] for means in (before, after))
    moves = ", ".join(f"{head} #{first[head]} → #{then[head]}" for head in (*CLS, *PROTOTYPES) if head in heads)
    return f"by wins of more than one sd among {len(heads)} heads: {moves}"


REMARKS: dict[str, tuple[Callable[[Scores], str], ...]] = {
    "Q1": (order_of_heads,),
    "Q2": (ranks_of_encoders, gap_closed),
    "Q3": (leads_over_mhca,),
    "Q4": (uplift_by_head, ranks_by_wins),
}


def remarks(question: str, scores: Scores, paper: Scores) -> str:
    """Return what lies behind the verdicts of a question, here and in the paper, as a Markdown list."""
    return "\n".join(f"- Here: {say(scores)}.\n- In the paper: {say(paper)}." for say in REMARKS[question])


def mean_token(profile_name: str) -> str:
    """Say what is left of protobin's gain where linear reads the mean token instead of [cls], encoder by encoder."""
    profile = load_profile(profile_name)
    cells = [cell for cell in main_cells(profile) if cell.dataset == profile.dataset]
    scores = {(cell.encoder, cell.head, cell.cls_mode): np.mean(final_values(profile, cell)) for cell in cells}
    words = []
    for cell in cells:
        entry = ENCODERS[cell.encoder]
        binary = scores.get((cell.encoder, "protobin", entry.cls))
        on_mean = cell.head == "linear" and not is_default(cell, cell.encoder)
        if on_mean and binary is not None and entry.kind != "control":
            linear = [scores[cell.encoder, "linear", mode] for mode in (entry.cls, cell.cls_mode)]
            gains = [_signed(binary - score) for score in linear]
            words.append(f"{entry.label} {' → '.join(gains)}")
    return "; ".join(words) or "no encoder was probed on its mean token"


def labelled_classes(profile_name: str) -> str:
    """Say how many of the classes of each dataset the supervised⁺ encoders have seen labels of."""
    seen = set(SyntheticBank().classes)  # the labelled clips of pretraining, see `lib.encoders.pool`
    datasets = [load_dataset(name) for name in load_profile(profile_name).datasets]
    return ", ".join(
        f"{data.manifest['title']} {len(seen & set(data.classes))} of {len(data.classes)}" for data in datasets
    )


def _ran(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
