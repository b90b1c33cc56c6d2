"""The paper's quantitative sentences, each beside what the paper's own tables give.

A claim is a sentence with its place, what is computed, the numbers found, and a verdict: holds, holds under this
reading, does not hold, or cannot be checked. The sentence is the paper's; "[…]" stands for words left out, and what
else is in square brackets is ours (but for [cls] and [s]). Numbers and verdict are computed, by the same rules:

- Readings are those that a sentence of the paper states; no subset is sought for which a number fits. Where the text
  leaves open a value that its number needs (a width, a precision), that value is named, as the reading.
- A sentence that compares and does not say how often is read on the average over the data sets.
- A sentence that says all, every, complete, constant or consistent is checked case by case. With exceptions it holds
  under this reading if it holds on the average over the data sets, or by the ranking that the sentence refers to; the
  exceptions are counted. If not even then, it does not hold.
- A printed number holds if the tables give it when rounded to the printed digits; after "nearly", "circa",
  "approximately" or ≈, if they give it within 5 % or half a unit of the last printed digit, whichever is more.
- Two tables agree if every number of one is that of the other at the coarser rounding; with exceptions, which are
  named, under this reading if what these differ by, spread over all numbers, is below 0.05.
- What is known from outside the paper comes from data_manifests/paper/facts.csv, each with its source.

"Does not hold" says that a sentence and a table (or a named source) differ in the copy of the paper that we have, a
machine conversion. It does not say which of the two is meant, and often the sentence's point stands without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pandas as pd

VERDICTS = ("holds", "holds under this reading", "does not hold", "cannot be checked")
PLACES = (
    *("Abstract", "Section 1", "Section 2.1", "Section 2.2", "Section 2.3", "Section 3", "Section 4.1"),
    *("Section 4.2, Q1", "Section 4.2, Q2", "Section 4.2, Q3", "Section 4.2, Q4", "Section 5"),
    *("Appendix A", "Appendix B", "Appendix C", "Appendix D", "published version", "a review"),
)
COLUMNS = ("id", "place", "sentence", "computation", "found", "verdict", "reading", "tables")


@dataclass(frozen=True)
class Finding:
    """What the tables give for a claim.

    Parameters
    ----------
    found : str
        The numbers, in words.
    holds : bool or None
        None: the tables cannot tell.
    reading : str, optional
        In which reading it holds, if not in every one.
    """

    found: str
    holds: bool | None
    reading: str = ""

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        holds, under_reading, fails, unknown = VERDICTS
        if self.holds is None:
            return unknown
        if not self.holds:
            return fails
        return under_reading if self.reading else holds


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, or about it, and how it is checked; `tables` are those that `check` reads."""

    id: str
    place: str
    sentence: str
    computation: str
    tables: tuple[int | str, ...]
    check: Callable[[], Finding]


def claim(place: str, sentence: str, *tables: int | str) -> Callable[[Callable[[], Finding]], Claim]:
    """Make a claim of a function that checks it: its name is the claim's id, its docstring the computation."""

    def made(check: Callable[[], Finding]) -> Claim:
        name, computation = check.__name__.replace("_", "-"), " ".join(check.__doc__.split())
        return Claim(name, place, sentence, computation, tables, check)

    return made


def all_claims() -> list[Claim]:
    """Return every claim, in the order of `PLACES`."""
    from lib import claims_appendix, claims_record, claims_results  # they import this file

    found = [each for file in (claims_record, claims_results, claims_appendix) for each in _claims_of(file)]
    return sorted(found, key=lambda each: PLACES.index(each.place))


def _claims_of(module: ModuleType) -> list[Claim]:
    return [value for value in vars(module).values() if isinstance(value, Claim)]


def verdicts() -> pd.DataFrame:
    """Check every claim.

    Returns
    -------
    pandas.DataFrame
        A row a claim, with the columns ``COLUMNS``, all text.
    """
    rows = []
    for each in all_claims():
        finding = each.check()
        tables = ", ".join(str(table) for table in each.tables)
        reading = finding.reading if finding.verdict == VERDICTS[1] else ""
        rows.append(
            (each.id, each.place, each.sentence, each.computation, finding.found, finding.verdict, reading, tables)
        )
    return pd.DataFrame(rows, columns=COLUMNS)


# ---- what the checks share -------------------------------------------------------------------------------------------


def case_by_case(gaps: pd.Series, found: str) -> Finding:
    """Check a sentence that says "all": it holds in a case whose gap, in points, is positive.

    Parameters
    ----------
    gaps : pandas.Series
        One value a case, with an index level "dataset".
    found : str
        What to say before the count of cases.
    """
    exceptions = gaps[gaps <= 0]
    average = gaps.groupby("dataset").mean().mean()
    found = f"{found}{signed(average)} points on the average over data sets; true in {share(gaps > 0)} cases"
    if exceptions.empty:
        return Finding(found, True)
    return Finding(found, average > 0, f"on the average over data sets; exceptions: {share(gaps <= 0)}")


def protobin_above(scores: pd.DataFrame, heads: list[str]) -> pd.DataFrame:
    """Return the points of protobin above some heads, in each (data set, encoder)."""
    return -scores[heads].sub(scores["protobin"], axis=0)


def signed(value: float, digits: int = 2) -> str:
    """Write a difference with its sign: +14.41, −3.31."""
    return f"{value:+.{digits}f}".replace("-", "−")


def share(true: pd.Series) -> str:
    """Write how many are true: 27 of 30."""
    return f"{int(true.sum())} of {len(true)}"


def listed(names: pd.Index | list) -> str:
    """Write names, or (dataset, encoder) pairs, in a row."""
    return ", ".join(" ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in names) or "none"


def ordered(places: pd.Series) -> str:
    """Write a ranking (place by name) from first to last."""
    return ", ".join(places.sort_values(kind="stable").index)


def rounds_to(value: float, printed: str) -> bool:
    """Tell whether a value, rounded to the digits of a printed number, is that number."""
    return abs(value - float(printed)) <= _half_unit(printed) + 1e-9


def near(value: float, printed: str) -> bool:
    """Tell whether a value is "circa" a printed number."""
    return abs(value - float(printed)) <= max(0.05 * abs(float(printed)), _half_unit(printed)) + 1e-9


def _half_unit(printed: str) -> float:
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])
