"""The pictures of notebooks 10 and 14: the verdicts with their intervals; the heads in the paper and here."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.figures_style import BLUE, FAINT, INK, ORANGE, STYLE, colour, in_order
from lib.plots import entitle
from lib.questions import VERDICTS, all_conclusions, number

VERDICT_COLOURS = dict(zip(VERDICTS, (BLUE, FAINT, ORANGE, "#C9C9C9"), strict=True))
VERDICT_MARKERS = dict(zip(VERDICTS, "osDx", strict=True))  # readable in grey
TITLES = {  # what a row of the picture is called
    "protobin-above-linear": "protobin above linear",
    "prototypes-on-top": "prototypes above all other heads",
    "above-fixed-descriptors": "mhca and linpre above linear and mlp",
    "ranking-reshuffled": "linear and protobin rank encoders differently",
    "cls-is-a-ceiling": "protobin above linear and mlp, each encoder",
    "most-of-the-gap": "protobin closes most of the gap to fine-tuning",
    "gap-on-single-label": "mhca and protobin above linear, single-label",
    "linear-falls-more": "linear falls more than protobin, multi-label",
    "lead-grows-with-polyphony": "lead over mhca grows, multi-label",
    "cls-gains-most": "supervised⁺ gives most to linear and mlp",
    "prototypes-stay-on-top": "prototypes on top, supervised⁺",
    "uplift-is-local": "extra gain of linear only in domain",
}


@matplotlib.rc_context(STYLE)
def plot_conclusions(table: pd.DataFrame) -> Figure:
    """Show every conclusion with its interval, to the right where it lies on the paper's side.

    Each row has its own scale, of which the threshold is the middle; what it measures is written beside it.

    Parameters
    ----------
    table : pandas.DataFrame
        As `lib.questions.verdicts` returns it.
    """
    figure = Figure(figsize=(7.6, 1.2 + 0.34 * len(table)), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.axvspan(0, 1, color=BLUE, alpha=0.06, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    asked = {each.id: each for each in all_conclusions()}
    questions = list(dict.fromkeys(table["question"]))
    heights = [-(at + 0.6 * questions.index(row.question)) for at, row in enumerate(table.itertuples())]
    for y, row in zip(heights, table.itertuples(), strict=True):
        each, tint = asked[row.conclusion], VERDICT_COLOURS[row.verdict]
        values = np.array([row.here, row.low, row.high, row.published])
        margins = each.side * (values - each.threshold)
        here, low, high, published = margins / (1.15 * np.nanmax(np.abs(margins)))
        axes.plot([low, high], [y, y], color=tint, linewidth=2)
        axes.plot(here, y, marker=VERDICT_MARKERS[row.verdict], color=tint, markersize=6)
        axes.plot(published, y, marker="|", color=INK, markersize=9, markeredgewidth=1.4)
        axes.text(1.03, y, _numbers(each, row), size=7, va="center", color=INK, clip_on=False)
    names = [f"{row.question}  {TITLES[row.conclusion]}" for row in table.itertuples()]
    axes.set(xlim=(-1, 1), ylim=(min(heights) - 0.7, 0.7), xticks=[-0.5, 0.5])
    axes.set_xticklabels(["not as in the paper", "as in the paper"])
    axes.set_yticks(heights, names)
    axes.tick_params(length=0)
    _legend(figure, table)
    return figure


def _numbers(each: object, row: tuple) -> str:
    if row.verdict == VERDICTS[-1]:
        return row.verdict
    unit = {"points": "points", "rank correlation": "rank corr."}.get(each.unit, "%")
    return f"{number(each, row.here)} [{number(each, row.low)}, {number(each, row.high)}] {unit}"


def _legend(figure: Figure, table: pd.DataFrame) -> None:
    handles = [
        Line2D([], [], color=VERDICT_COLOURS[verdict], marker=VERDICT_MARKERS[verdict], linewidth=2, label=verdict)
        for verdict in VERDICTS
        if verdict in set(table["verdict"])
    ]
    handles.append(Line2D([], [], color=INK, marker="|", linestyle="", markersize=9, label="the paper's own tables"))
    figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False, fontsize=7.5)


@matplotlib.rc_context(STYLE)
def plot_heads(tables: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """Show the average points of each head above linear, in the paper and here, one panel a group of datasets.

    Parameters
    ----------
    tables : mapping
        Title → points above linear by head, in the paper and here: two frames ``head, gain``.
    """
    figure = Figure(figsize=(7.6, 3.2), dpi=100, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(tables), width_ratios=[1.6] + [1] * (len(tables) - 1)))
    for axes, (title, (paper, here)) in zip(panels, tables.items(), strict=True):
        heads = in_order([*paper["head"], *here["head"]])[::-1]
        _pair(axes, heads, paper.set_index("head")["gain"], here.set_index("head")["gain"])
        entitle(axes, title)
    figure.supxlabel("points above linear, averaged over datasets and base encoders", size=8)
    handles = [
        Line2D([], [], color=INK, marker="o", markerfacecolor="none", markersize=7, linestyle="", label="the paper"),
        Line2D([], [], color=INK, marker="o", markersize=5, linestyle="", label="here (stand-ins)"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=7.5)
    return figure


def _pair(axes: Axes, heads: list[str], paper: pd.Series, here: pd.Series) -> None:
    """Draw a row a head: hollow the paper's, filled ours."""
    axes.axvline(0, color=INK, linewidth=0.8)
    for y, head in enumerate(heads):
        for values, face, size in ((here, colour(head), 5), (paper, "none", 7)):  # a ring stays visible round a dot
            if head in values:
                axes.plot(values[head], y, "o", color=colour(head), markerfacecolor=face, markersize=size)
    axes.set_yticks(range(len(heads)), heads)
    axes.grid(True, axis="x")
