"""From averages to rankings: who beats whom, which encoder stands where, how far each head is above linear.

All functions take a frame ``dataset, encoder, head, mean, sd`` in percent, from a rerun (`lib.comparisons.averages`)
or from the paper (`lib.published.means`), so that both are counted alike.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.errors import unknown_name

MARGINS = {  # readings of "one sd": by how much a head must be ahead, given its own sd and the opponent's
    "opponent's sd": lambda own, opponent: opponent,
    "own sd": lambda own, opponent: own,
    "larger sd": np.maximum,
    "root of summed squares": np.hypot,
    "sum of both sd": np.add,
}


def win_matrix(means: pd.DataFrame, heads: Sequence[str], margin: str = "opponent's sd") -> pd.DataFrame:
    """Count in how many (dataset, encoder) pairs each head beats each other by more than one sd.

    Parameters
    ----------
    means : pandas.DataFrame
        ``dataset, encoder, head, mean, sd``.
    heads : sequence of str
        Which heads meet.
    margin : str
        One of ``MARGINS``; the default is the reading of the paper's Figure 5 ("one sd above opponent").

    Returns
    -------
    pandas.DataFrame
        ``row_head, column_head, wins, configurations``, a row an ordered pair of heads; `configurations` counts the
        pairs (dataset, encoder) on which both were run.

    Raises
    ------
    InputError
        If the margin is unknown.
    """
    if margin not in MARGINS:
        raise unknown_name("margin of a win", margin, list(MARGINS))
    pivot = means.pivot(index=["dataset", "encoder"], columns="head", values=["mean", "sd"])
    rows = []
    for first, second in itertools.product(heads, heads):
        if first != second:
            ahead = pivot["mean", first] - pivot["mean", second]
            wins = ahead > MARGINS[margin](pivot["sd", first], pivot["sd", second])
            rows.append((first, second, int(wins.sum()), int(ahead.notna().sum())))
    return pd.DataFrame(rows, columns=["row_head", "column_head", "wins", "configurations"])


def win_ranks(means: pd.DataFrame, heads: Sequence[str], margin: str = "opponent's sd") -> pd.DataFrame:
    """Rank heads by their pairwise wins: ``head, wins, rank``; heads with equal wins share the better rank."""
    wins = win_matrix(means, heads, margin).groupby("row_head", sort=False)["wins"].sum()
    table = pd.DataFrame({"head": wins.index, "wins": wins.to_numpy()})
    table["rank"] = table["wins"].rank(ascending=False, method="min").astype(int)
    return table


def encoder_ranking(means: pd.DataFrame) -> pd.DataFrame:
    """Average each encoder over datasets, under linear and under protobin, and rank it among the encoders.

    Returns
    -------
    pandas.DataFrame
        ``encoder, head, mean, sd, n_datasets, rank``; `sd` is the mean over datasets of the sd over seeds.
    """
    means = means[means["head"].isin(["linear", "protobin"])]
    table = means.groupby(["encoder", "head"], sort=False).agg(
        mean=("mean", "mean"), sd=("sd", "mean"), n_datasets=("dataset", "nunique")
    )
    table = table.reset_index()
    table["rank"] = table.groupby("head")["mean"].rank(ascending=False, method="min").astype(int)
    return table


def gains_over_linear(means: pd.DataFrame) -> pd.DataFrame:
    """Return the points of every other head above linear, for each encoder, averaged over datasets.

    Returns
    -------
    pandas.DataFrame
        ``encoder, head, gain, n, sd``. With one dataset there is no spread over datasets: `sd` is then that of the
        head's own score over seeds.
    """
    pairs = means.set_index(["dataset", "encoder"]).index
    linear = means[means["head"] == "linear"].set_index(["dataset", "encoder"])["mean"]
    means = means.assign(gain=means["mean"].to_numpy() - pairs.map(linear))
    table = means.groupby(["encoder", "head"], sort=False).agg(
        gain=("gain", "mean"), spread=("gain", "std"), seeds=("sd", "mean"), n=("dataset", "nunique")
    )
    table = table.reset_index()
    table["sd"] = table.pop("spread").fillna(table.pop("seeds"))
    return table[table["head"] != "linear"].reset_index(drop=True)
