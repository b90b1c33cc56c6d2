"""The paper's four questions, asked of a profile: which conclusions reappear, by a rule fixed before its results.

- A conclusion is a sentence of the paper and a quantity. One function computes the quantity from the paper's tables and
  from the profile's results. Only sentences are asked that the paper's own tables bear out by that function, also with
  any one encoder or dataset left out (see below); notebook 07 tells of the others.
- A score is the mean over seeds of the test metric. An average gives the same weight to every configuration, that is
  (dataset, encoder), on which all heads in question ran. The two controls, which are not pretrained, take no part.
- The interval is 95 %, of draws. In each draw the test clips and their sources are resampled, alike for all heads and
  encoders of a dataset and independently from dataset to dataset; and each cell gets an error for its seeds, normal,
  with the sd over seeds (pooled over encoders) over the root of their number. So the interval tells what other clips
  and other seeds would have given with these encoders and datasets.
- Other encoders and datasets are another matter: a few, chosen by us, are no sample. Instead, every encoder and then
  every dataset is left out in turn. A verdict that rests on a single one of them is no verdict.
- "Reappears": the interval lies wholly on the paper's side of the threshold, and the measured value stays on that side
  whatever is left out. "Does not reappear": the interval lies wholly on the other side, and the value stays there. Else
  "undecided", also if the point is clearly on one side. "Not run": the profile lacks the heads, encoders or datasets.
- The threshold is zero, but for one conclusion, which says so. How large a difference is does not enter the verdict.
- A sentence about several heads, encoders or groups has a part for each, and what is shown is the weakest: the lowest
  value, the lowest lower limit, the lowest upper limit. So it reappears only if every part does. It is enough for "does
  not reappear" that one part fails; since one of many may fail by chance, the upper limits are then those of a wider
  interval, which ends at the quantile 1 − 2.5 %/n of the draws, where n is the number of parts (Bonferroni).
- Beside it, and without a say: in how many configurations the value is on the paper's side; in how many that
  configuration's own interval lies wholly on this side or wholly on the other; how many wins and losses by more than
  one sd there are (as in Figure 5).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.question_draws import Scores, published_scores, read_scores

QUESTIONS = {
    "Q1": "Is there a best-performing pooling method?",
    "Q2": "Is the linear probe a faithful evaluator?",
    "Q3": "Is the pooling bottleneck specific to multi-label?",
    "Q4": "Does extra fine-tuning enrich the token map?",
}
VERDICTS = ("reappears", "undecided", "does not reappear", "not run")
TAIL = 0.025  # of the draws, on either side of a 95 % interval
COLUMNS = (
    *("question", "conclusion", "place", "sentence", "computation", "unit", "threshold", "above"),
    *("published", "published_configurations", "here", "low", "high", "least", "most", "weakest", "configurations"),
    *("verdict", "words"),
)


@dataclass(frozen=True)
class Part:
    """A part of a quantity.

    Attributes
    ----------
    name : str
        What is compared, in words.
    cases : numpy.ndarray
        ``(1 + R, configurations)``: as measured, then a row a draw; positive on the paper's side.
    average : numpy.ndarray
        The value of the part, ``(1 + R,)``.
    wins : callable, optional
        Returns wins and losses by more than one sd, where two heads meet.
    """

    name: str
    cases: np.ndarray
    average: np.ndarray
    wins: Callable[[], tuple[int, int]] | None = None


@dataclass(frozen=True)
class Conclusion:
    """A sentence of the paper and how it is asked; `leave_out` names what is left out in turn."""

    id: str
    question: str
    place: str
    sentence: str
    computation: str
    unit: str
    threshold: float
    above: bool
    leave_out: tuple[str, ...]
    parts: Callable[[Scores], list[Part]]

    def margin(self, part: Part) -> np.ndarray:
        """Return how far a part lies on the paper's side of the threshold, ``(1 + R,)``."""
        return self.side * (part.average - self.threshold)

    @property
    def side(self) -> int:
        """Return 1 if the paper's side is above the threshold, else −1."""
        return 1 if self.above else -1

    def value(self, margin: float) -> float:
        """Return the quantity that lies so far on the paper's side."""
        return self.threshold + self.side * margin


@dataclass(frozen=True)
class Finding:
    """What some scores give for a conclusion, in its unit; see `verdicts`."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    least: float = np.nan
    most: float = np.nan
    weakest: str = ""
    configurations: str = ""
    verdict: str = VERDICTS[-1]


def conclusion(
    question: str,
    place: str,
    sentence: str,
    unit: str = "points",
    threshold: float = 0.0,
    above: bool = True,
    leave_out: tuple[str, ...] = ("encoder", "dataset"),
) -> Callable[[Callable[[Scores], list[Part]]], Conclusion]:
    """Make a conclusion of the function that computes it: its name is the id, its docstring the computation."""

    def made(parts: Callable[[Scores], list[Part]]) -> Conclusion:
        name, computation = parts.__name__.replace("_", "-"), " ".join(parts.__doc__.split())
        return Conclusion(name, question, place, sentence, computation, unit, threshold, above, leave_out, parts)

    return made


def verdicts(profile_name: str) -> pd.DataFrame:
    """Ask every conclusion of a profile.

    Parameters
    ----------
    profile_name : str
        The profile, whose cells have been run.

    Returns
    -------
    pandas.DataFrame
        ``COLUMNS``, a row a conclusion. `published` and `here` are the quantity in its `unit`; `low` and `high` its
        interval; `least` and `most` the range of its values when encoders and datasets are left out in turn;
        `weakest` names the part that is shown where there are several.

    Raises
    ------
    InputError
        If the profile is unknown or a cell has not been run.
    """
    return ask(read_scores(profile_name), published_scores())


def ask(scores: Scores, paper: Scores) -> pd.DataFrame:
    """Ask every conclusion of some scores, with those of the paper beside them; returns what `verdicts` returns."""
    return pd.DataFrame([_row(each, scores, paper) for each in all_conclusions()], columns=COLUMNS)


def all_conclusions() -> list[Conclusion]:
    """Return the conclusions, question by question."""
    from lib import questions_asked  # it imports this file

    return [value for value in vars(questions_asked).values() if isinstance(value, Conclusion)]


def _row(each: Conclusion, scores: Scores, paper: Scores) -> tuple:
    theirs, ours = find(each, paper), find(each, scores)
    shown = (ours.value, ours.low, ours.high, ours.least, ours.most, ours.weakest, ours.configurations, ours.verdict)
    about = (each.question, each.id, each.place, each.sentence, each.computation, each.unit, each.threshold, each.above)
    return *about, theirs.value, theirs.configurations, *shown, in_words(each, ours, theirs)


def find(each: Conclusion, scores: Scores) -> Finding:
    """Return what some scores give for a conclusion; without draws there is no interval and no verdict."""
    parts = each.parts(scores)
    if not parts:
        return Finding()
    n, margins = len(parts), np.stack([each.margin(part) for part in parts])  # (n, 1 + R)
    measured, drawn = margins[:, 0], margins[:, 1:]
    low, high = (_quantile(drawn, share).min() for share in (TAIL, 1 - TAIL / n))
    left = [[each.margin(part)[0] for part in each.parts(fewer)] for fewer in _left_out(each, scores)]
    left = [min(some) for some in left if some] or [measured.min()]
    weakest = int(measured.argmin())
    limits, range_left = (sorted(map(each.value, pair)) for pair in ((low, high), (min(left), max(left))))
    return Finding(
        each.value(measured.min()),
        *limits,
        *range_left,
        weakest=f"{parts[weakest].name} ({n} parts)" if n > 1 else parts[0].name,
        configurations=_count(parts[weakest], measured),
        verdict=decide(low, high, min(left), max(left)) if drawn.size else "",
    )


def _quantile(drawn: np.ndarray, share: float) -> np.ndarray:
    """Return a quantile over the last axis, the draws; NaN without any."""
    return np.nanquantile(drawn, share, axis=-1) if drawn.size else np.full(drawn.shape[:-1], np.nan)


def decide(low: float, high: float, least: float, most: float) -> str:
    """Apply the rule to margins, which are positive on the paper's side.

    Parameters
    ----------
    low, high : float
        The interval.
    least, most : float
        The range of the measured margins with one encoder or dataset left out.
    """
    reappears, undecided, fails, _ = VERDICTS
    if low > 0 and least > 0:
        return reappears
    return fails if high < 0 and most < 0 else undecided


def _left_out(each: Conclusion, scores: Scores) -> list[Scores]:
    """Return the scores as measured, without each encoder and each dataset in turn."""
    names = {"encoder": scores.encoders, "dataset": scores.datasets}
    return [scores.measured.without(level, name) for level in each.leave_out for name in names[level]]


def _count(part: Part, measured: np.ndarray) -> str:
    """Say in how many configurations the part that is shown lies on the paper's side, and how clearly."""
    cases, drawn = part.cases[0], part.cases[1:].T  # (configurations,), (configurations, R)
    words = f"{(cases > 0).sum()} of {len(cases)}"
    if drawn.size:
        clear, against = (_quantile(drawn, TAIL) > 0).sum(), (_quantile(drawn, 1 - TAIL) < 0).sum()
        words += f", clearly {clear}, clearly against {against}"
    if part.wins is not None:
        won, lost = part.wins()
        words += f"; by more than one sd {won} to {lost}"
    return words + (f"; of all parts {(measured > 0).sum()} of {len(measured)}" if len(measured) > 1 else "")


def in_words(each: Conclusion, ours: Finding, theirs: Finding) -> str:
    """Return one sentence or two on what was found."""
    *_, not_run = VERDICTS
    if ours.verdict == not_run:
        return "Not run: the profile lacks heads, encoders or datasets that this needs."
    threshold = "" if each.threshold == 0 else f"; the threshold is {each.threshold:g}"
    theirs_weakest = f" ({theirs.weakest.rpartition(' (')[0]})" if theirs.weakest.endswith("parts)") else ""
    words = (
        f"{ours.verdict.capitalize()}: {ours.weakest}, {number(each, ours.value)} {each.unit} "
        f"({number(each, ours.low)} to {number(each, ours.high)}{threshold}), in the paper "
        f"{number(each, theirs.value)}{theirs_weakest}. Configurations on the paper’s side: {ours.configurations}."
    )
    if each.leave_out:
        words += (
            f" With one {' or '.join(each.leave_out)} left out: {number(each, ours.least)} to "
            f"{number(each, ours.most)}."
        )
    return words


def number(each: Conclusion, value: float) -> str:
    """Write a value of a conclusion with its sign: points to one digit, correlations to two."""
    return f"{value:+.{2 if each.unit == 'rank correlation' else 1}f}".replace("-", "−")


def rule() -> str:
    """Return the rule as Markdown, as it stands at the top of this file."""
    return __doc__.partition("\n\n")[2].strip()
