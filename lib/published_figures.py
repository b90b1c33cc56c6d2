"""Figures 2, 5, 6, 7 and 8 from the paper's own tables, by the draw functions that draw the rerun."""

import numpy as np
import pandas as pd

from lib import published
from lib.errors import unknown_name
from lib.published import BASE, SUPERVISED
from lib.rankings import MARGINS, encoder_ranking, gains_over_linear, win_matrix, win_ranks

NUMBERS = (2, 5, 6, 7, 8)
GROUP_TABLES = {"general": 4, "bioacoustic": 5}  # where both base and supervised⁺ encoders are


def note(words: str) -> str:
    """Return what a published figure states in its margin."""
    return f"the paper's numbers (arXiv 2509.24901), five seeds as stated there · {words}"


def figure_2() -> tuple[pd.DataFrame, str]:
    """Every head on as20k with EAT (Table 2), and fine-tuning (Table 3)."""
    bars = published.means(2, ("EAT",))
    bars = bars[bars["dataset"] == "as20k"].assign(kind="head", n_seeds=5)
    tuned = published.means(3, ("EAT",))
    tuned = tuned[(tuned["dataset"] == "as20k") & (tuned["head"] == published.FINE_TUNING)]
    line = tuned.assign(kind="fine_tuning")
    table = pd.concat([bars, line], ignore_index=True).drop(columns=["dataset", "encoder"])
    table = table.assign(low=np.nan, high=np.nan, text="", dataset_label="as20k", encoder_label="EAT")
    return table, note("Tables 2 and 3; bars: ±1 sd over seeds, printed with one digit")


def figure_5() -> tuple[pd.DataFrame, str]:
    """Pairwise wins over all datasets and base encoders (Tables 2 and 5)."""
    parts = []
    for group, number in (("general", 2), ("bioacoustic", 5)):
        means = published.means(number, BASE)
        parts.append(win_matrix(means, list(dict.fromkeys(means["head"]))).assign(group=group))
    table = pd.concat(parts, ignore_index=True).assign(kind="wins", text="")
    return table, note("Tables 2 and 5; a win: mean above the other's by more than the other's sd; base encoders")


def figure_6() -> tuple[pd.DataFrame, str]:
    """Average each encoder over the five general datasets, with years of publication (Tables 2 and 1)."""
    years = published.table(1).set_index("encoder")["year"]
    table = encoder_ranking(published.means(2))
    table["encoder_label"], table["year"] = table["encoder"], table["encoder"].map(years)
    return table, note("Tables 1 and 2; ± is the sd over seeds, averaged over datasets")


def figure_7() -> tuple[pd.DataFrame, str]:
    """Points above linear over the five general datasets (Table 2)."""
    table = gains_over_linear(published.means(2))
    return table.assign(encoder_label=table["encoder"]), note("Table 2; bars: ±1 sd over the five datasets")


def figure_8() -> tuple[pd.DataFrame, str]:
    """Rank of each head by its wins, with base and with supervised⁺ encoders (Tables 4 and 5)."""
    parts = []
    for group, number in GROUP_TABLES.items():
        for variant, encoders in (("base", tuple(SUPERVISED)), ("supervised", tuple(SUPERVISED.values()))):
            means = published.means(number, encoders)
            ranks = win_ranks(means, list(dict.fromkeys(means["head"])))
            ranks["wins"] /= len(means.groupby(["dataset", "encoder"]))
            parts.append(ranks.assign(group=group, variant=variant))
    table = pd.concat(parts, ignore_index=True).assign(kind="rank", text="")
    words = "Tables 4 (ten heads, without linpre) and 5; a win: mean above the other's by more than the other's sd; "
    return table, note(words + "in brackets wins per (dataset, encoder); BEATs, EAT, SSLAM")


def rank_readings(heads: tuple[str, ...] = ("linear", "mlp", "proto", "protobin")) -> pd.DataFrame:
    """Return ranks on general audio under every reading of "one sd above opponent", and with ten or eleven heads.

    Table 4, where the supervised⁺ encoders are, lacks linpre; the base side could be ranked with it from Table 2.

    Returns
    -------
    pandas.DataFrame
        ``margin, heads, head, base, supervised``; `heads` is how many were ranked on the base side.
    """
    bases = tuple(SUPERVISED)
    plus = published.means(4, tuple(SUPERVISED.values()))
    rows = []
    for margin in MARGINS:
        after = win_ranks(plus, list(dict.fromkeys(plus["head"])), margin).set_index("head")["rank"]
        for number in (4, 2):
            means = published.means(number, bases)
            names = list(dict.fromkeys(means["head"]))
            before = win_ranks(means, names, margin).set_index("head")["rank"]
            rows += [(margin, len(names), head, before[head], after[head]) for head in heads]
    return pd.DataFrame(rows, columns=["margin", "heads", "head", "base", "supervised"])


TABLES = {2: figure_2, 5: figure_5, 6: figure_6, 7: figure_7, 8: figure_8}


def figure_table(number: int) -> tuple[pd.DataFrame, str]:
    """Return the table of a figure drawn from the paper's numbers, and the note for its margin.

    Raises
    ------
    InputError
        If the paper's tables do not hold what that figure shows.
    """
    if number not in TABLES:
        raise unknown_name("figure that the paper's tables can draw", str(number), [str(n) for n in NUMBERS])
    return TABLES[number]()
