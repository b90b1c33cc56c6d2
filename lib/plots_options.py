"""The picture of notebook 21: one long dot plot of what each open choice changes, a line an alternative."""

import textwrap
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.figures_style import FAINT, INK, MARKERS, STYLE, colour, in_order, ink, say, sheet
from lib.open_page import called, signed
from lib.plots import entitle

LINE = 0.135  # inches a line
BETWEEN, BEFORE_GROUP = 0.45, 1.4  # lines between two options, and before a group's name
WIDTH, NAMES, CHOICES, GAP = 9.2, 2.3, 1.7, 0.5  # inches: page, names of options, of alternatives, beside panels
ABOVE, BELOW = 0.55, 0.42  # inches round the panels
SIZE, LETTERS = 6.6, 40  # points of the names; letters after which an option's name is wrapped
SPREAD = "#E3E3E3"


class Place(NamedTuple):
    """Where things stand: a line for each (option, alternative, head), names of options and groups; lines downwards."""

    lines: dict[tuple[str, str, str], float]
    options: dict[str, tuple[float, str]]
    groups: dict[str, float]
    end: float


@matplotlib.rc_context(STYLE)
def plot_options(table: pd.DataFrame) -> Figure:
    """Show each measured alternative as a dot with its interval, the default at zero; a panel an encoder.

    Parameters
    ----------
    table : pandas.DataFrame
        As `lib.open_options.effects` returns it, with a note in its ``attrs``.
    """
    rows = table[table["difference"].notna()].copy()
    title = "What the paper left open: each alternative beside the default, which is zero"
    subtitle = (
        "Dot: alternative minus default, in points of the test metric; line: 95 % paired bootstrap interval over test "
        "clips. Grey: what seeds alone make. Filled: the interval leaves zero out and the effect is larger than that. "
        "A number at the edge: the effect lies beyond. Colour and marker tell the head."
    )
    if rows.empty:
        figure = sheet(table, (WIDTH, 1.5), title, subtitle)
        say(figure.subplots(), "Nothing was measured in this profile.")
        return figure
    place = _placed(rows)
    body = LINE * place.end
    figure = sheet(table, (WIDTH, body + ABOVE + BELOW), title, subtitle)
    rows["panel"] = rows.groupby(["option", "alternative", "head", "dataset"]).cumcount()
    panels = _panels(figure, rows["panel"].max() + 1, body)
    limit = _limit(rows)
    for number, axes in enumerate(panels):
        part = rows[rows["panel"] == number]
        main = part["encoder"].mode()[0]
        _draw(axes, part, place, limit, main)
        axes.set(xlim=(-limit, limit), ylim=(place.end, 0), yticks=[])
        axes.set_xlabel("points above the default")
        entitle(axes, called(main))
    _name(panels[0], rows, place)
    heads = in_order(rows["head"])
    handles = [Line2D([], [], color=colour(head), marker=MARKERS[head], linestyle="", label=head) for head in heads]
    width, height = figure.get_size_inches()
    top = panels[0].get_position().y1 + 0.2 / height
    style = {"ncols": len(heads), "frameon": False, "fontsize": 7, "handletextpad": 0.1, "columnspacing": 1.0}
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.05 / width, top), borderaxespad=0, **style)
    return figure


def _placed(rows: pd.DataFrame) -> Place:
    """Lay out a line for each (option, alternative, head), groups and options in the order of the table."""
    lines, options, groups, y = {}, {}, {}, 0.0
    for group, of_group in rows.groupby("group", sort=False):
        groups[group] = y + BEFORE_GROUP
        y += BEFORE_GROUP + 1.2
        for option, some in of_group.groupby("option", sort=False):
            name = textwrap.fill(some["what"].iloc[0], LETTERS)
            options[option] = y, name
            keys = list(dict.fromkeys(zip(some["option"], some["alternative"], some["head"], strict=True)))
            lines |= {key: y + number for number, key in enumerate(keys)}
            y += max(len(keys), len(name.splitlines())) + BETWEEN
    return Place(lines, options, groups, y + BETWEEN)


def _panels(figure: Figure, count: int, body: float) -> list[Axes]:
    """Return a panel an encoder, side by side to the right of the names; places are computed, so lines are alike."""
    width, height = figure.get_size_inches()
    _, foot, _, _ = figure.get_layout_engine().get()["rect"]
    figure.set_layout_engine("none")
    left = NAMES + CHOICES
    wide = (width - left) / count - GAP
    bottom = foot + BELOW / height
    return [
        figure.add_axes(((left + number * (wide + GAP)) / width, bottom, wide / width, body / height))
        for number in range(count)
    ]


def _limit(rows: pd.DataFrame) -> float:
    """Return how far the axes go to either side: so that nine intervals of ten lie within."""
    reach = rows[["low", "high", "difference"]].abs().max(axis=1)
    return float(max(min(1.1 * reach.quantile(0.9), 1.1 * reach.max()), 0.1))


def _draw(axes: Axes, rows: pd.DataFrame, place: Place, limit: float, main: str) -> None:
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    for row in rows.itertuples():
        y, tint = place.lines[row.option, row.alternative, row.head] + 0.5, ink(row.head)
        axes.barh(y, 2 * row.spread, 1.0, left=-row.spread, color=SPREAD, zorder=0)
        axes.plot(np.clip([row.low, row.high], -limit, limit), [y, y], color=tint, linewidth=1.1, zorder=2)
        if abs(row.difference) > limit:
            side = np.sign(row.difference)
            style = {
                "ha": "right" if side > 0 else "left",
                "va": "center",
                "size": SIZE,
                "color": tint,
                "weight": "bold",
            }
            axes.text(0.98 * side * limit, y, signed(row.difference), zorder=4, **style)
        else:
            face = tint if row.clear else "white"
            style = {"markersize": 4.2, "markeredgewidth": 0.9, "markeredgecolor": tint, "markerfacecolor": face}
            axes.plot(row.difference, y, marker=MARKERS[row.head], zorder=3, **style)
        if row.encoder != main:
            beside = {"size": 5.8, "color": FAINT, "va": "center", "style": "italic", "clip_on": False}
            axes.text(1.03 * limit, y, called(row.encoder), **beside)
    axes.grid(True, axis="x")
    axes.tick_params(axis="x", labelsize=7)
    axes.spines["left"].set_visible(False)


def _name(axes: Axes, rows: pd.DataFrame, place: Place) -> None:
    """Write the names beside the first panel: of groups and options to the left, of alternatives next to it."""
    width = axes.get_position().width * axes.figure.get_size_inches()[0]  # inches
    beside = axes.get_yaxis_transform()
    names, edge = -(NAMES + CHOICES - 0.08) / width, -0.06 / width
    plain = {"transform": beside, "size": SIZE, "clip_on": False, "parse_math": False}
    for group, y in place.groups.items():
        axes.text(names, y + 0.4, group, weight="bold", va="center", **plain | {"size": 8})
        rule = [names, 1.0]
        axes.plot(rule, [y + 1.0, y + 1.0], color="#B5B5B5", linewidth=0.6, transform=beside, clip_on=False)
    for y, name in place.options.values():
        axes.text(names, y + 0.1, name, va="top", linespacing=1.15, **plain)
    shorts = rows.set_index(["option", "alternative"])["short"].to_dict()
    several = rows.groupby("option")["head"].nunique() > 1
    before = None
    for (option, alternative, head), y in place.lines.items():
        words = shorts[option, alternative] if (option, alternative) != before else ""
        before = option, alternative
        if several[option]:
            words = f"{words} · {head}" if words else head
        axes.text(edge, y + 0.5, words, ha="right", va="center", **plain)
