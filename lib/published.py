"""The paper's tables as tidy frames (arXiv 2509.24901), read from ``data_manifests/paper``.

The numbers are the paper's, to the last digit it prints; the names are ours, the same in every table. `J` and `seeds`
are what the text states for a table (Section 4.1, captions), empty where it states nothing. ``facts.csv`` holds what
is known from elsewhere, each with its source.
"""

import contextlib
from collections.abc import Iterator
from functools import cache

import pandas as pd

from lib.errors import InputError, unknown_name
from lib.paths import MANIFESTS

GENERAL = ("as20k", "fsd50k", "desed", "spass", "urban")
BIOACOUSTIC = ("hsn", "pow", "per", "nes", "sne", "uhh", "nbp")
CONTROLS = ("esc50", "sc2")
DATASETS = (*GENERAL, *BIOACOUSTIC, *CONTROLS)
BASE = ("A-MAE", "ASiT", "Dasheng", "BEATs", "EAT", "SSLAM")
SUPERVISED = {"BEATs": "BEATs+", "EAT": "EAT+", "SSLAM": "SSLAM+"}  # base → supervised⁺
ENCODERS = (*BASE, *SUPERVISED.values())
FINE_TUNING = "fine-tuning"  # the column FT of Table 3, as reported by each encoder's own paper
RESULT_TABLES = (2, 3, 4, 5, 6, 7)
TABLES = (1, *RESULT_TABLES, 8, 9, 10)
COLUMNS = ("table", "dataset", "encoder", "head", "J", "mean", "std", "metric", "seeds")
CAPTIONS = {
    1: "Backbones",
    2: "General audio, self-supervised encoders",
    3: "Multi- against single-label, and fine-tuning",
    4: "General audio, with supervised⁺ encoders",
    5: "Few-shot bioacoustics",
    6: "Multi-class controls",
    7: "Number of prototypes and binarisation",
    8: "Datasets",
    9: "Parameters of the pooling methods (on urban)",
    10: "Fixed settings",
}


@cache
def _read(name: str) -> pd.DataFrame:
    path = MANIFESTS / "paper" / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"The paper's table '{path.name}' is missing in data_manifests/paper; restore it with git.")
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


_altered: dict[str, pd.DataFrame] = {}


@contextlib.contextmanager
def altered(name: str, rows: pd.DataFrame) -> Iterator[None]:
    """Read `rows` in place of one table (``"table_2"``) inside the ``with`` block, to see what would follow."""
    _altered[name] = rows
    try:
        yield
    finally:
        del _altered[name]


def _rows(name: str) -> pd.DataFrame:
    return _altered[name] if name in _altered else _read(name)


def table(number: int) -> pd.DataFrame:
    """Return a table of the paper, tidy.

    Parameters
    ----------
    number : int
        1 to 10, as in the paper.

    Returns
    -------
    pandas.DataFrame
        Tables 2 to 7: a row a number, with the columns ``COLUMNS``; `mean` and `std` in percent, `std` empty where
        none is printed. Others: a row an encoder (1), dataset (8), head (9) or setting (10). A copy.

    Raises
    ------
    InputError
        If the paper has no such table or its file is missing.
    """
    if number not in TABLES:
        raise unknown_name("table of the paper", str(number), [str(known) for known in TABLES])
    return _rows(f"table_{number}").copy()


def search_ranges() -> pd.DataFrame:
    """Return the search ranges of Appendix D.4: heads, setting, distribution, low, high. A copy."""
    return _rows("search_ranges").copy()


def facts(fact: str) -> pd.Series:
    """Return what is known from elsewhere, by subject, as text; ``facts.csv`` names each source.

    Raises
    ------
    InputError
        If nothing of that name is known.
    """
    known = _rows("facts")
    if fact not in set(known["fact"]):
        raise unknown_name("fact", fact, sorted(set(known["fact"])))
    return known[known["fact"] == fact].set_index("subject")["value"].astype(str)


def means(number: int, encoders: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Return mean and sd of each (dataset, encoder, head), in the form that `lib.comparisons.averages` has.

    Parameters
    ----------
    number : int
        A table of results: 2 to 6, or 7, of which the J of the main results is taken.
    encoders : tuple of str, optional
        Which encoders to keep; all by default.

    Returns
    -------
    pandas.DataFrame
        ``dataset, encoder, head, mean, sd``.

    Raises
    ------
    InputError
        If the table is none of results, or an encoder is unknown.
    """
    if number not in RESULT_TABLES:
        raise InputError(f"Table {number} of the paper holds no results; those that do are 2 to 7.")
    for name in encoders or ():
        if name not in ENCODERS:
            raise unknown_name("encoder of the paper", name, ENCODERS)
    rows = table(number)
    if number == 7:
        rows = rows[rows["J"].isna() | (rows["J"] == rows["dataset"].map(main_prototypes))]
    if encoders is not None:
        rows = rows[rows["encoder"].isin(encoders)]
    return rows.rename(columns={"std": "sd"})[["dataset", "encoder", "head", "mean", "sd"]].reset_index(drop=True)


def wide(number: int, encoders: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Return the means as a frame with a row a (dataset, encoder) and a column a head."""
    rows = means(number, encoders)
    heads = list(dict.fromkeys(rows["head"]))
    return rows.pivot(index=["dataset", "encoder"], columns="head", values="mean")[heads]


def main_prototypes(dataset: str) -> int:
    """Return J of the main results: 20 per class, 10 on as20k (Section 4.1)."""
    return 10 if dataset == "as20k" else 20
