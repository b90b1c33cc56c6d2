"""What the tables of `lib.views` say, in sentences that hold whatever came out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.errors import InputError
from lib.figures import read_table
from lib.paths import figure_root
from lib.view_stores import SLOTS
from lib.views import AUGMENTED, CHANGE, CONDITIONS, GAIN, LEAD, LEADS


def signed(value: float) -> str:
    """Return a number with its sign and one decimal."""
    return f"{value + 0.0:+.1f}".replace("-", "−")


def in_words(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the verdict in sentences; every number and every claim in them is taken from `write_tables`' tables."""
    means, variants = tables["views_means"], tables["views_variants"]
    lines = [_gains_in_words(means, condition) for condition in AUGMENTED]
    return [*lines, _order_in_words(means), *_changes_in_words(means), _variants_in_words(variants)]


def _gains_in_words(means: pd.DataFrame, condition: str) -> str:
    """Say whom a condition helps, whom it harms and for whom that is open, with the gain over none of each."""
    rows = means[(means["measure"] == GAIN) & (means["condition"] == condition)]
    up, down = rows["low"] > 0, rows["high"] < 0
    groups = {"it helps": rows[up], "it harms": rows[down], "it cannot be told for": rows[~up & ~down]}
    told = [
        f"{words} {listed([f'{row.head} {signed(row.value)} {limits(row)}' for row in part.itertuples()])}"
        for words, part in groups.items()
        if len(part)
    ]
    return f"**{CONDITIONS[condition].capitalize()}**, points over no augmentation: {'; '.join(told)}."


def limits(row: NamedTuple) -> str:
    """Return the interval of a row in brackets."""
    return f"({signed(row.low)} to {signed(row.high)})"


def listed(names: Sequence[str]) -> str:
    """Return names as people list them: a, b and c."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _order_in_words(means: pd.DataFrame) -> str:
    """Say which of linear and protobin is ahead under each condition, and whether that changes."""
    rows = means[(means["measure"] == LEAD) & (means["head"] == "linear")].set_index("condition").loc[list(CONDITIONS)]
    each = [f"{CONDITIONS[row.Index]} {signed(row.value)} {limits(row)}" for row in rows.itertuples()]
    ahead = np.select([rows["low"] > 0, rows["high"] < 0], ["protobin", "linear"], "neither")
    open_ones, sure = rows.index[ahead == "neither"], sorted({name for name in ahead if name != "neither"})
    if not sure:
        told = "Under no condition can it be told which of the two is ahead."
    elif len(sure) == 2:
        told = "So augmentation changes their order: " + "; ".join(
            f"{name} is ahead with {listed([CONDITIONS[one] for one in rows.index[ahead == name]])}" for name in sure
        )
        told += "."
    elif len(open_ones):
        those = listed([CONDITIONS[name] for name in open_ones])
        told = f"Where it can be told, {sure[0]} is ahead; with {those} it cannot be told."
    else:
        told = f"So augmentation does not change their order: {sure[0]} is ahead under every condition."
    return f"Points of protobin above linear: {', '.join(each)}. {told}"


def _changes_in_words(means: pd.DataFrame) -> list[str]:
    """Say whether augmentation widens or narrows protobin's lead over each of the other heads."""
    sentences = []
    for head in LEADS:
        rows = means[(means["measure"] == CHANGE) & (means["head"] == head)]
        each = []
        for row in rows.itertuples():
            told = "up" if row.low > 0 else "down" if row.high < 0 else "cannot be told"
            each.append(f"{told} with {CONDITIONS[row.condition]}, {signed(row.value)} {limits(row)}")
        sentences.append(f"What augmentation does to protobin minus {head}: {'; '.join(each)}.")
    return sentences


def _variants_in_words(variants: pd.DataFrame) -> str:
    """Say whether the last step to more variants still helped."""
    last = variants[variants["variants"] == variants["variants"].max()]
    before = variants.loc[variants["variants"] < variants["variants"].max(), "variants"].max()
    each = [
        f"{row.head} {signed(row.step)} ({signed(row.step_low)} to {signed(row.step_high)})"
        for row in last.itertuples()
    ]
    more, less = last.loc[last["step_low"] > 0, "head"], last.loc[last["step_high"] < 0, "head"]
    told = "so no head can be said to need more than that" if not len(more) else f"so more still help {listed(more)}"
    told += f", and harm {listed(less)}" if len(less) else ""
    label = ENCODERS[last["encoder"].iloc[0]].label
    return f"From {before} to {last['variants'].iloc[0]} live variants, {label}: {', '.join(each)}; {told}."


def beside_the_benchmark(profile_name: str, table: pd.DataFrame) -> str:
    """Say how far the arms that repeat a condition of the benchmark are from its scores, where it has been run.

    Parameters
    ----------
    profile_name : str
        The profile, whose ``benchmark.csv`` notebook 05 writes.
    table : pandas.DataFrame
        As from `scores_table`.
    """
    try:
        theirs = read_table(figure_root() / profile_name / "benchmark.csv")
    except InputError:
        return "There is no table of the benchmark to compare with; notebook 05 writes it."
    theirs = theirs[theirs["cls_mode"] == theirs["encoder"].map({name: entry.cls for name, entry in ENCODERS.items()})]
    has_views = {name: load_dataset(name).views("train") > 1 for name in table["dataset"].unique()}
    same = table["condition"] == np.where(table["dataset"].map(has_views), "one view", "none")
    ours = table[same & (table["head"] != "linear (mean token)")]
    both = ours.merge(theirs, on=["dataset", "encoder", "head"], suffixes=("", "_there"))
    if both.empty:
        return "The benchmark of this profile has none of these heads on these data."
    apart = both["mean"] - both["mean_there"]
    return (
        f"{len(both)} of these arms repeat cells of notebook 02, but with {SLOTS} times fewer and {SLOTS} times longer "
        f"epochs and another search. They differ from those by {signed(apart.mean())} points on average, by "
        f"{apart.abs().mean():.1f} in absolute value, and by {apart.abs().max():.1f} at most."
    )


def storage_in_words(storage: pd.DataFrame) -> str:
    """Say what a view of a clip takes on disk, and what a new one for every epoch would take beside none."""
    measured = storage[storage["how"] == "measured"]
    each = 1000 * measured["megabytes"] / measured["passes"]
    plain = measured[measured["condition"] == "none"].set_index("dataset")["megabytes"]
    most = storage[storage["how"] == "reckoned"].set_index("dataset")["megabytes"]
    beside = [f"{most[name]:.0f} MB instead of {plain[name]:.1f} on {name}" for name in plain.index]
    return (
        f"A view of a clip takes {each.mean():.0f} kB and one pass. Both are multiplied by the number of views: "
        f"a new variant in every epoch would take {listed(beside)}, for one encoder."
    )
