"""Numbers in words, for the README's summary: a difference over pairs, on which side it lies, how many are clear.

*Clearly* means that the pair's own 95 % interval, of a paired bootstrap, leaves out zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lib.errors import InputError

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class Gap:
    """The mean of a difference over pairs, in points, and how many pairs lie clearly above and below zero."""

    mean: float
    pairs: int
    above: int
    below: int


def gap_of(rows: pd.DataFrame, names: Sequence[str] = ("gain", "gain_low", "gain_high")) -> Gap:
    """Return the gap over rows, a row a pair; `names` are the columns of value, lower and upper limit."""
    if rows.empty:
        raise InputError("The README's summary needs pairs that the committed tables lack; run `make figures`.")
    value, low, high = (rows[name] for name in names)
    return Gap(float(value.mean()), len(rows), int((low > 0).sum()), int((high < 0).sum()))


def side(value: float) -> str:
    """Say on which side of another head a difference lies, in points: "3.8 above", "0.4 below", "level"."""
    if round(value, 1) == 0:
        return "level"
    return f"{abs(value):.1f} {'above' if value > 0 else 'below'}"


def counts(gap: Gap) -> str:
    """Say of how many pairs a mean is and how many of them are clear, and on which side unless it is the mean's."""
    pairs = f"{gap.pairs} pair{'s' * (gap.pairs > 1)}"
    if not gap.above and not gap.below:
        return f"({pairs}, none clearly)"
    if gap.above and gap.below:
        return f"({pairs}, {gap.above} clearly above, {gap.below} clearly below)"
    clear, where = (gap.above, "above") if gap.above else (gap.below, "below")
    number = "all" if clear == gap.pairs > 1 else clear
    return f"({pairs}, {number} clearly{'' if side(gap.mean).endswith(where) else f' {where}'})"


def said(gaps: dict[str, Gap]) -> str:
    """Say gaps, place by place: "3.8 above on ESC-10 (6 pairs, 3 clearly), …"."""
    return listed([f"{side(gap.mean)} on {place} {counts(gap)}" for place, gap in gaps.items()])


def listed(parts: Sequence[str]) -> str:
    """Join parts as a sentence does: "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def signed(value: float) -> str:
    """Return a number with its sign and one digit."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def counted(number: int) -> str:
    """Return a small number as a word."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)
