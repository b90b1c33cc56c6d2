"""The pictures of notebook 15: arms above linear, effects with their intervals, scores against parameters."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from lib.controls import ALL, LABELS
from lib.encoders import ENCODERS
from lib.figures_style import FAINT, INK, MARKERS, STYLE, ink, marker, sheet
from lib.plots import entitle

TITLES = {  # parts of the first picture
    "a": "(a) one fixed vector a clip",
    "b": "(b) mhca",
    "c": "(c) protobin, taken apart",
}
STAND_IN = {"vector": "linear", "prototypes": "protobin"}  # whose colour and marker a head of ours has
PAIR_MARKERS = "o^sDvP"  # one an encoder; filled or hollow, the dataset
STEP = 0.11  # between the pairs of a row, of the distance of two rows


@dataclass(frozen=True)
class Line:
    """A row of dots: its label, whose colour it has, the rows of the table, and their columns."""

    label: str
    head: str
    rows: pd.DataFrame
    columns: tuple[str, str, str]


def _pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the pairs (encoder, dataset) of a table, dataset by dataset."""
    one = table[table["encoder"] != ALL]
    found = dict.fromkeys(zip(one["encoder"], one["dataset"], strict=True))
    datasets = list(dict.fromkeys(dataset for _, dataset in found))
    return sorted(found, key=lambda pair: datasets.index(pair[1]))


def _pair_style(pair: tuple[str, str], pairs: Sequence[tuple[str, str]], tint: object) -> dict:
    encoders, datasets = ([*dict.fromkeys(each)] for each in zip(*pairs, strict=True))
    hollow = datasets.index(pair[1]) > 0
    style = {"marker": PAIR_MARKERS[encoders.index(pair[0]) % len(PAIR_MARKERS)], "markersize": 3.6, "color": tint}
    return style | {"markerfacecolor": "white" if hollow else tint, "markeredgewidth": 0.8, "linewidth": 0.7}


def _draw_line(axes: Axes, y: float, line: Line, pairs: Sequence[tuple[str, str]]) -> None:
    """Draw the average of a row large, and below it the pairs, small and pale."""
    value, low, high = line.columns
    rows = line.rows.set_index(["encoder", "dataset"])
    head = STAND_IN.get(line.head, line.head)
    average, tint = rows.loc[(ALL, ALL)], ink(head)
    axes.plot([average[low], average[high]], [y, y], color=tint, linewidth=2.4, solid_capstyle="butt", zorder=3)
    axes.plot(average[value], y, zorder=4, **(marker(head) | {"color": tint}))
    for number, pair in enumerate(pairs, start=2):
        if len(pairs) < 2:  # one pair is its own average
            break
        row, at = rows.loc[pair], y - STEP * number
        axes.plot([row[low], row[high]], [at, at], color=tint, linewidth=0.7, alpha=0.5)
        axes.plot(row[value], at, alpha=0.7, **_pair_style(pair, pairs, tint))


def _legend(axes: Axes, pairs: Sequence[tuple[str, str]]) -> None:
    """Say above the axes which small mark is which pair."""
    if len(pairs) < 2:
        return
    handles = [Line2D([], [], color=INK, marker="o", markersize=7, linewidth=2.4, label="average over pairs")]
    for pair in pairs:
        style = _pair_style(pair, pairs, FAINT) | {"markersize": 4.5}
        handles.append(Line2D([], [], label=f"{ENCODERS[pair[0]].label.split(' (')[0]}, {pair[1]}", **style))
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=7)


@matplotlib.rc_context(STYLE)
def plot_arms(table: pd.DataFrame) -> Figure:
    """Show the arms of parts (a) to (c) as points above linear on [cls], averaged and for each pair.

    Parameters
    ----------
    table : pandas.DataFrame
        As `lib.controls_tables.arm_table` returns it, with its note.
    """
    pairs, columns = _pairs(table), ("above_linear", "above_linear_low", "above_linear_high")
    lines: list[Line | str] = []
    for part, title in TITLES.items():
        lines.append(title)
        for name, rows in table[table["part"].str.contains(part)].groupby("arm", sort=False):
            if name != "linear":
                lines.append(Line(LABELS.get(name, name), rows["head"].iloc[0], rows, columns))
    step = 0.42 if len(pairs) > 1 else 0.3
    subtitle = (
        "Points of the test score above linear on [cls], the line at 0. Large: average over the pairs of encoder and "
        "dataset; small: each pair. Dashed: protobin."
    )
    figure = sheet(table, (8.4, 0.6 + step * len(lines)), "What beats the linear probe, and by how much?", subtitle)
    axes = figure.subplots()
    _draw_lines(axes, lines, pairs)
    protobin = table[(table["arm"] == "protobin") & (table["encoder"] == ALL)]["above_linear"].item()
    axes.axvline(protobin, color=ink("protobin"), linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlabel("points above linear on [cls], with 95 % interval")
    _legend(axes, pairs)
    return figure


def _draw_lines(axes: Axes, lines: Sequence[Line | str], pairs: Sequence[tuple[str, str]]) -> None:
    """Draw rows from the top down; a text among them is a heading."""
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    heights = -np.arange(len(lines), dtype=float)
    for y, line in zip(heights, lines, strict=True):
        if isinstance(line, str):
            axes.axhline(y + 0.45, color="#C9C9C9", linewidth=0.6)
        else:
            _draw_line(axes, y + (0.3 if len(pairs) > 1 else 0), line, pairs)
    axes.set_yticks(heights, [line if isinstance(line, str) else line.label for line in lines])
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_weight("bold" if isinstance(line, str) else "normal")
    axes.set_ylim(heights[-1] - 0.6, 0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")


EFFECT_PANELS = (
    ("ingredient", "What each ingredient of protobin is worth", "protobin"),
    ("walk", "From protofloat to proto, a step at a time", "protofloat"),
)


@matplotlib.rc_context(STYLE)
def plot_effects(effects: pd.DataFrame) -> Figure:
    """Show the effect of each ingredient, and of each step of the walk.

    Parameters
    ----------
    effects : pandas.DataFrame
        As `lib.controls_tables.effect_table` returns it, with its note.
    """
    pairs, columns = _pairs(effects), ("value", "low", "high")
    lines: list[Line | str] = []
    for kind, title, head in EFFECT_PANELS:
        lines.append(title)
        for name, rows in effects[effects["kind"] == kind].groupby("effect", sort=False):
            lines.append(Line(name, head, rows, columns))
    step = 0.42 if len(pairs) > 1 else 0.3
    subtitle = "Points of the test score. To the right of 0: what is named first is better, the step raises the score."
    figure = sheet(effects, (8.4, 0.6 + step * len(lines)), "Which change matters?", subtitle)
    axes = figure.subplots()
    _draw_lines(axes, lines, pairs)
    axes.set_xlabel("difference in points, with 95 % interval")
    _legend(axes, pairs)
    return figure


CURVES = {"protobin": "-", "protofloat": "--", "mlp": "-.", "ep": ":"}  # heads of several sizes, joined by lines


@matplotlib.rc_context(STYLE)
def plot_capacity(table: pd.DataFrame) -> Figure:
    """Show test scores against trainable parameters, a panel a dataset, averaged over encoders.

    Parameters
    ----------
    table : pandas.DataFrame
        As `lib.controls_tables.capacity_table` returns it, with its note.
    """
    rows = table[(table["dataset"] != ALL) & (table["arm"] != "best other")]
    datasets = list(dict.fromkeys(rows["dataset"]))
    subtitle = (
        "Averaged over encoders. Joined: one head at several sizes. Hollow: reads the mean token. Upright lines: 95 % "
        "interval of the distance from linear on [cls]."
    )
    figure = sheet(table, (8.4, 3.6), "Is it capacity?", subtitle)
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        _draw_sizes(axes, rows[rows["dataset"] == dataset].sort_values("parameters", kind="stable"))
        entitle(axes, dataset)
    figure.axes[0].set_ylabel("test score (%)")
    handles = [
        Line2D([], [], label=f"{head}, {reads} token" if reads else head, **_size_style(head, reads))
        for (head, reads), _ in rows.groupby(["head", rows["reads"].fillna("")], sort=False)
    ]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=7)
    return figure


def _size_style(head: str, reads: str) -> dict:
    """Return how a head of several sizes is drawn; hollow, if it reads the mean token."""
    style = {"color": ink(head), "marker": MARKERS[head], "markerfacecolor": "white" if reads else ink(head)}
    return style | {"linestyle": CURVES.get(head, ""), "linewidth": 1.2, "markersize": 6}


def _draw_sizes(axes: Axes, part: pd.DataFrame) -> None:
    """Draw scores against parameters on one dataset, each with the interval of its distance from linear on [cls]."""
    for (head, reads), some in part.groupby(["head", part["reads"].fillna("")], sort=False):
        for row in some.itertuples():
            ends = [row.mean - row.above_linear + end for end in (row.above_linear_low, row.above_linear_high)]
            axes.plot([row.parameters] * 2, ends, color=ink(head), linewidth=0.8, alpha=0.6)
        axes.plot(some["parameters"], some["mean"], **_size_style(head, reads))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_xlabel("trainable parameters")
    axes.grid(True)
