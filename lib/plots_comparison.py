"""The pictures of notebook 09: what each pocket encoder is worth, what its pooling loses, whom labels help most."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.encoder_comparison import NEEDED_POINTS
from lib.encoders import ENCODERS
from lib.figures_style import FAINT, INK, STYLE, colour, marker
from lib.plots import entitle
from lib.plots_encoders import KINDS, called, empty, heights, kind_legend

HEADS = ("linear on [cls]", "linear on mean", "linpre", "mhca", "proto", "protobin")
LINEAR = {"linear on [cls]": ("linear", "on [cls]"), "linear on mean": ("linear", "on the mean token")}


@matplotlib.rc_context(STYLE)
def plot_mean_token(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Show the score of a linear probe on the mean token of each encoder, one panel a dataset.

    Parameters
    ----------
    tables : mapping
        Title of a panel → the benchmark of a profile, see `lib.encoder_comparison.stored`.
    """
    names = list(dict.fromkeys(next(iter(tables.values()))["encoder"]))
    figure = empty((7.6, 1.1 + 0.25 * len(names)))
    for axes, (title, table) in zip(figure.subplots(1, len(tables), sharey=True), tables.items(), strict=True):
        scores = table[table["head"] == "linear on mean"].set_index("encoder")
        controls = [name for name in names if ENCODERS[name].kind == "control"]
        bar = scores.loc[controls, "mean"].max() + NEEDED_POINTS
        axes.axvspan(scores["low"].min() - 2, bar, color=FAINT, alpha=0.18, linewidth=0)
        axes.text(bar, 0.62, f"control + {NEEDED_POINTS:g} ", size=6.5, ha="right", va="center", color=INK)
        for y, name in zip(heights(names), names, strict=True):
            _, tint, shape = KINDS[ENCODERS[name].kind]
            row = scores.loc[name]
            axes.plot([row["low"], row["high"]], [y, y], color=tint, linewidth=1.6)
            axes.plot(row["mean"], y, marker=shape, color=tint, markersize=5)
            axes.annotate(
                f"{row['mean']:.1f}", (row["mean"], y), (0, 4), textcoords="offset points", size=6.5, ha="center"
            )
        axes.set_yticks(heights(names), [called(name) for name in names])
        axes.set_ylim(heights(names)[-1] - 0.6, 1.0)
        axes.set_xlim(scores["low"].min() - 2, scores["high"].max() + 2)
        axes.grid(True, axis="x")
        axes.set_xlabel("test mAP (%), 95 % bootstrap interval")
        entitle(axes, title)
    kind_legend(figure, names)
    return figure


@matplotlib.rc_context(STYLE)
def plot_gains(tables: Mapping[str, pd.DataFrame], kinds: Sequence[str] = ("base", "supervised", "control")) -> Figure:
    """Show how far each head is above linear on what stands for [cls], one panel a dataset, one row an encoder."""
    names = [name for name in _encoders(tables) if ENCODERS[name].kind in kinds]
    figure = empty((7.6, 1.2 + 0.36 * len(names)))
    _panels(figure, tables, {name: called(name) for name in names}, HEADS[1:], "linear")
    return figure


@matplotlib.rc_context(STYLE)
def plot_supervised_gains(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Show what labels give to each head, supervised version minus base, one panel a dataset, one row a pair."""
    tables = {title: part.rename(columns={"low": "gain_low", "high": "gain_high"}) for title, part in tables.items()}
    rows = {name: f"{called(ENCODERS[name].base)}\n→ supervised⁺" for name in _encoders(tables)}
    figure = empty((7.6, 1.3 + 0.62 * len(rows)))
    _panels(figure, tables, rows, HEADS, "the base")
    return figure


def _encoders(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    return list(dict.fromkeys(next(iter(tables.values()))["encoder"]))


def _panels(
    figure: Figure, tables: Mapping[str, pd.DataFrame], rows: Mapping[str, str], heads: Sequence[str], reference: str
) -> None:
    """Draw one panel a table: a row for each encoder of `rows` (id → label), a line for each head that is there."""
    heads = [head for head in heads if head in set(next(iter(tables.values()))["head"])]
    for axes, (title, table) in zip(figure.subplots(1, len(tables), sharey=True), tables.items(), strict=True):
        for y, name in zip(heights(list(rows)), rows, strict=True):
            _draw_intervals(axes, table[table["encoder"] == name].set_index("head"), heads, y)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(heights(list(rows)), list(rows.values()))
        axes.grid(True, axis="x")
        axes.set_xlabel(f"points of test mAP above {reference}\n(paired 95 % bootstrap interval)")
        entitle(axes, title)
    _head_legend(figure, heads)


def _draw_intervals(axes: Axes, rows: pd.DataFrame, heads: Sequence[str], y: float) -> None:
    """Draw the gains of one encoder, a line a head, one under the other around `y`."""
    for offset, head in zip(np.linspace(0.32, -0.32, len(heads)), heads, strict=True):
        if head in rows.index:
            row, (_, face) = rows.loc[head], _look(head)
            tint = face["color"]
            axes.plot([row["gain_low"], row["gain_high"]], [y + offset] * 2, color=tint, linewidth=1.4)
            axes.plot(row["gain"], y + offset, linestyle="", **face)


def _look(head: str) -> tuple[str, dict]:
    """Return what a legend calls a head, and its marker; linear on the mean token is hollow."""
    name, rest = LINEAR.get(head, (head, ""))
    face = marker(name) | {"markersize": 7.0 if name == "protobin" else 4.5}
    if head == "linear on mean":
        face |= {"markerfacecolor": "white", "markeredgecolor": colour(name), "markeredgewidth": 1.0}
    return f"{name} {rest}".strip(), face


def _head_legend(figure: Figure, heads: Sequence[str]) -> None:
    looks = [_look(head) for head in heads]
    handles = [Line2D([], [], linestyle="", label=label, **face) for label, face in looks]
    figure.legend(handles=handles, loc="outside upper left", ncols=6, frameon=False, fontsize=7.5)
