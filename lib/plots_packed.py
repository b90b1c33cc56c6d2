"""The pictures of notebook 12: what a packed file keeps of a head, by how much it shrinks, and what scoring costs."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from lib.figures_style import BLUE, FAINT, INK, ORANGE, STYLE
from lib.packed_cost import shrinks, size_in_words
from lib.plots import entitle

PARTS = {  # column → what the legend says, colour
    "prototypes": ("prototypes", ORANGE),
    "classifier": ("classifier", BLUE),
    "rest": ("names, sizes, checksum", "#C9C9C9"),
}
WAYS = (  # colour, marker, filled; in the order of lib.packed_cost.scorings, without fp32, then unpacking alone
    (BLUE, "s", True),
    (ORANGE, "o", True),
    (ORANGE, "D", False),
    (INK, "^", True),
    (FAINT, "x", True),
)


def _empty(size: tuple[float, float]) -> Figure:
    return Figure(figsize=size, dpi=100, layout="constrained")


@matplotlib.rc_context(STYLE)
def plot_sizes(table: pd.DataFrame, forms: Sequence[str] = ("fp32", "packed")) -> Figure:
    """Show each head's file by its parts, in two forms, as a share of the first; few classes above, many below.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `lib.packed_cost.file_sizes`.
    forms : sequence of str
        The upper and the lower bar of a shape.
    """
    shapes = list(dict.fromkeys(table.sort_values("classes", kind="stable")["shape"]))
    rows = table.set_index(["shape", "form"])
    figure = _empty((7.6, 0.9 + 0.33 * len(shapes)))
    axes = figure.subplots()
    for place, shape in enumerate(shapes):
        whole = rows.loc[(shape, forms[0]), "file"]
        for form, y in zip(forms, (place - 0.2, place + 0.2), strict=True):
            row, left = rows.loc[(shape, form)], 0.0
            for part, (label, colour) in PARTS.items():
                share = 100 * row[part] / whole
                axes.barh(y, share, 0.36, left, color=colour, label=label if place == 0 and y < 0 else None)
                left += share
            words = f"{form}  {size_in_words(row['file'])}"
            words += "" if form == forms[0] else f", {whole / row['file']:#.3g} times smaller"
            axes.annotate(words, (left, y), (3, 0), textcoords="offset points", size=6.5, va="center", color=INK)
    counts = table.drop_duplicates("shape").set_index("shape")["classes"]
    axes.set_yticks(range(len(shapes)), [f"{shape}  C = {counts[shape]}" for shape in shapes])
    axes.set(ylim=(len(shapes) - 0.45, -0.55), xlim=(0, 128))
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(f"% of the file in {forms[0]}")
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    figure.legend(loc="outside upper left", ncols=len(PARTS), frameon=False, fontsize=7.5)
    return figure


@matplotlib.rc_context(STYLE)
def plot_shrinking(table: pd.DataFrame) -> Figure:
    """Show how many times smaller a packed head is, against its number of classes: lines by formula, marks by file.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `lib.packed_cost.file_sizes`.
    """
    wide = table.pivot(index=["shape", "classes", "dim"], columns="form", values="file").reset_index()
    dims = sorted(wide["dim"].unique(), reverse=True)
    figure = _empty((7.2, 3.4))
    axes = figure.subplots()
    classes = np.geomspace(4, 1000, 200)
    for dim, colour in zip(dims, (ORANGE, BLUE, INK, FAINT), strict=False):
        part = wide[wide["dim"] == dim]
        for form, bits, line, face in (("packed", 32, "-", colour), ("packed, bf16 classifier", 16, ":", "white")):
            label = f"D = {dim}, classifier in {'fp32' if bits == 32 else 'bf16'}"
            axes.plot(classes, shrinks(classes, dim, bits), line, color=colour, linewidth=1.3, label=label)
            style = {"color": colour, "markersize": 4.5, "markerfacecolor": face}
            axes.plot(part["classes"], part["fp32"] / part[form], "o", **style)
    axes.axhline(32, color=FAINT, linewidth=0.9, linestyle="--")
    axes.annotate("prototypes alone: 32 times", (4, 32), (2, 3), textcoords="offset points", size=7, color=FAINT)
    _name_ends(axes, wide[wide["dim"] == dims[0]])
    axes.set(xscale="log", yscale="log", xlim=(4, 1000), ylim=(1, 45))
    _plain_ticks(axes.xaxis, (5, 10, 20, 50, 100, 200, 500, 1000))
    _plain_ticks(axes.yaxis, (1, 2, 4, 8, 16, 32))
    axes.set_xlabel("classes C")
    axes.set_ylabel("file in fp32 / packed file")
    entitle(axes, "The more classes, the less of a head is prototypes")
    axes.legend(loc="lower left", frameon=False, fontsize=7.5)
    axes.grid(True)
    return figure


def _name_ends(axes: matplotlib.axes.Axes, part: pd.DataFrame) -> None:
    """Write the names of the shapes with the fewest and the most classes, and of one between, at their marks."""
    part = part.sort_values("classes", kind="stable")
    for _, row in part.iloc[sorted({0, len(part) // 2, len(part) - 1})].iterrows():
        at = (row["classes"], row["fp32"] / row["packed"])
        axes.annotate(row["shape"], at, (-5, -3), textcoords="offset points", size=7, ha="right", va="top", color=INK)


def _plain_ticks(axis: matplotlib.axis.Axis, values: Sequence[int]) -> None:
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


@matplotlib.rc_context(STYLE)
def plot_times(table: pd.DataFrame, against: str = "fp32") -> Figure:
    """Show what each way to score a clip takes, as a multiple of fp32 in the same round: median and quartiles.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `lib.packed_cost.times`.
    against : str
        The way that is 1 by definition.
    """
    styles = ways(table, against)
    shapes = list(dict.fromkeys(table.sort_values(["dim", "classes"], kind="stable")["shape"]))
    figure = _empty((7.2, 1.2 + 0.27 * len(shapes)))
    axes = figure.subplots()
    for (way, (colour, marker, filled)), shift in zip(
        styles.items(), np.linspace(-0.26, 0.26, len(styles)), strict=True
    ):
        part = table[table["form"] == way].set_index("shape").loc[shapes]
        y, face = np.arange(len(shapes)) + shift, colour if filled else "white"
        axes.hlines(y, part["low"], part["high"], color=colour, linewidth=1.2)
        axes.plot(part["ratio"], y, marker, color=colour, markersize=4.5, markerfacecolor=face, label=way)
    axes.axvline(1, color=INK, linewidth=0.8)
    first = table.drop_duplicates("shape").set_index("shape")
    prototypes = first["classes"] * first["per_class"]
    axes.set_yticks(range(len(shapes)), [f"{shape}  K = {prototypes[shape]:,}" for shape in shapes])
    axes.set(xscale="log", ylim=(len(shapes) - 0.4, -0.6))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"time for a clip as a multiple of {against}, median of rounds with quartiles")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=7.5)
    axes.grid(True, axis="x")
    return figure


def ways(table: pd.DataFrame, against: str) -> Mapping[str, tuple[str, str, bool]]:
    """Return colour, marker and filling of each way but the one that the others are held against."""
    names = [name for name in dict.fromkeys(table["form"]) if name != against]
    return dict(zip(names, WAYS, strict=True))
