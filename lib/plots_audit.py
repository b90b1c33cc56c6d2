"""The pictures of notebook 22: what the encoder hears, what heads score, and the traces in the tokens."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.audit import HARMS, HEADS, HELPS
from lib.audit_faults import SHORTENED
from lib.audit_table import FAULTS, KINDS, RIGHT, SHORT, title_of
from lib.audit_traces import STATISTICS
from lib.encoders import ENCODERS
from lib.figures_style import FAINT, INK, STYLE, ink, marker, sheet
from lib.plots import entitle, new_figure

LINE, GAP = 0.185, 1.1  # inches a line, and lines for the name of a kind
COLUMNS = 6
SHIFT = dict(zip(HEADS, (-0.22, 0.0, 0.22), strict=True))


def _lines(present: set[str]) -> tuple[dict[str, float], dict[str, float], float]:
    """Lay out a line a mistake, kind by kind, and last the healthy; return lines, kinds, and where they end."""
    lines, kinds, y = {}, {}, 0.0
    for kind in KINDS:
        names = [name for name, fault in FAULTS.items() if fault.kind == kind and name in present]
        if names:
            kinds[kind] = y
            lines |= {name: y + GAP + number for number, name in enumerate(names)}
            y += GAP + len(names)
    return lines, kinds, y


def _name_lines(axes: Axes, lines: Mapping[str, float], kinds: Mapping[str, float], end: float) -> None:
    """Write titles of mistakes and names of kinds to the left of the axes."""
    places = [*lines.values(), *(y + 0.15 for y in kinds.values())]
    axes.set_yticks(places, [*(title_of(name) for name in lines), *kinds])
    for number, label in enumerate(axes.get_yticklabels()):
        label.set(size=7, weight="bold" if number >= len(lines) else "normal")
    axes.set_ylim(end - 0.3, -0.5)


@matplotlib.rc_context(STYLE)
def plot_scores(effects: pd.DataFrame) -> Figure:
    """Show each head's mAP with each mistake, a panel an (encoder, dataset); upright lines are those without.

    Parameters
    ----------
    effects : pandas.DataFrame
        "audit" of `lib.audit.write_tables`, with its note.
    """
    lines, kinds, end = _lines(set(effects["fault"]))
    places = list(dict.fromkeys(zip(effects["encoder"], effects["dataset"], strict=True)))
    subtitle = (
        "Marker: mAP on test clips, mean over seeds, the head searched anew for the mistake. Upright line, in a head's "
        "colour: without the mistake. Bar: the 95 % interval of the difference, drawn from that line. Filled: it "
        "harms, by the rule; ringed: it helps; hollow: cannot be told."
    )
    figure = sheet(effects, (9.2, LINE * (end + 1) + 0.9), "What wrong preprocessing costs", subtitle)
    legend_at = _strip(figure, 0.24)
    panels = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for axes, (encoder, dataset) in zip(panels, places, strict=True):
        part = effects[(effects["encoder"] == encoder) & (effects["dataset"] == dataset)]
        _draw_scores(axes, part, lines)
        entitle(axes, f"{ENCODERS[encoder].label}, {dataset}")
        axes.set_xlabel("mAP (%)")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    _name_lines(panels[0], lines, kinds, end)
    handles = [Line2D([], [], label=head, linestyle="", **marker(head)) for head in HEADS]
    handles.append(Line2D([], [], color=INK, label="whole clips, as it should be", linewidth=1.2))
    if SHORT in set(effects["fault"]):
        handles.append(Line2D([], [], color=INK, label=title_of(SHORT), linewidth=1.2, linestyle=":"))
    look = {"ncols": len(handles), "frameon": False, "fontsize": 7.5, "borderaxespad": 0, "columnspacing": 1.5}
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.99, legend_at), **look)
    return figure


def _strip(figure: Figure, inches: float) -> float:
    """Keep a strip free between a sheet's subtitle and its panels; return where it begins, from below."""
    engine = figure.get_layout_engine()
    left, bottom, width, height = engine.get()["rect"]
    engine.set(rect=(left, bottom, width, height - inches / figure.get_figheight()))
    return bottom + height


def _draw_scores(axes: Axes, part: pd.DataFrame, lines: Mapping[str, float]) -> None:
    """Draw a panel of `plot_scores`."""
    means = part.set_index(["fault", "head"])["mean"]
    extent = {RIGHT: [lines[name] for name in lines if name not in SHORTENED]}
    extent[SHORT] = [lines[name] for name in lines if name in SHORTENED]
    for head in HEADS:
        for reference, style in ((RIGHT, "-"), (SHORT, ":")):
            if (reference, head) in means.index:
                for low, high in _runs(extent[reference]):
                    ends = {"linestyle": style, "color": ink(head), "linewidth": 1.2, "alpha": 0.8, "zorder": 1}
                    axes.plot([means[reference, head]] * 2, [low - 0.5, high + 0.5], **ends)
    for row in part[part["fault"].isin(FAULTS)].itertuples():
        y, tint = lines[row.fault] + SHIFT[row.head], ink(row.head)
        bar = row.mean - row.difference + np.array([row.difference_low, row.difference_high])
        axes.plot(bar, [y, y], color=tint, linewidth=1.0, zorder=2)
        face = tint if row.outcome == HARMS else "white"
        look = marker(row.head) | {"markersize": 5.0, "markerfacecolor": face, "markeredgecolor": tint, "color": tint}
        axes.plot(row.mean, y, zorder=3, **look)
        if row.outcome == HELPS:
            axes.plot(row.mean, y, "o", markersize=9, markerfacecolor="none", markeredgecolor=tint, zorder=3)


def _runs(places: list[float]) -> list[tuple[float, float]]:
    """Return where lines follow each other without a gap, first and last of each run."""
    runs: list[tuple[float, float]] = []
    for y in sorted(places):
        if runs and y - runs[-1][1] < 1.5:
            runs[-1] = (runs[-1][0], y)
        else:
            runs.append((y, y))
    return runs


@matplotlib.rc_context(STYLE)
def plot_traces(traces: pd.DataFrame) -> Figure:
    """Show which numbers of the tokens leave the healthy range, and which way, a panel an (encoder, dataset).

    Parameters
    ----------
    traces : pandas.DataFrame
        "audit_traces" of `lib.audit.write_tables`, with its note.
    """
    lines, kinds, end = _lines(set(traces["fault"]))
    places = list(dict.fromkeys(zip(traces["encoder"], traces["dataset"], strict=True)))
    subtitle = (
        "Colour: how far the mean over groups of test clips lies outside of the healthy range, in halves of that "
        "range (violet below, orange above). Arrow: all groups lie outside. Number: mean cosine with the right tokens."
    )
    figure = sheet(traces, (9.2, LINE * (end + 1) + 1.1), "The trace of each mistake in the tokens", subtitle)
    panels = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for axes, (encoder, dataset) in zip(panels, places, strict=True):
        part = traces[(traces["encoder"] == encoder) & (traces["dataset"] == dataset)]
        picture = _draw_traces(axes, part, lines)
        entitle(axes, f"{ENCODERS[encoder].label}, {dataset}")
    _name_lines(panels[0], lines, kinds, end)
    bar = figure.colorbar(picture, ax=panels, shrink=0.4, aspect=18, pad=0.01)
    bar.set_ticks(np.arcsinh([-100, -10, -1, 0, 1, 10, 100]), labels=["−100", "−10", "−1", "0", "1", "10", "100"])
    bar.ax.tick_params(labelsize=6.5)
    bar.outline.set_visible(False)
    return figure


def _draw_traces(axes: Axes, part: pd.DataFrame, lines: Mapping[str, float]) -> matplotlib.collections.PathCollection:
    """Draw a panel of `plot_traces`; return what its colours are of."""
    names = list(STATISTICS)
    cells = part[part["statistic"].isin(names) & part["fault"].isin(lines)]
    x = cells["statistic"].map(names.index).to_numpy()
    y = cells["fault"].map(lines).to_numpy()
    limit = np.arcsinh(100)
    look = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit, "marker": "s", "s": 105, "linewidths": 0}
    picture = axes.scatter(x, y, c=np.arcsinh(cells["far"]), **look)
    for row in cells[cells["way"] != 0].itertuples():
        dark = abs(row.far) > 12
        place = names.index(row.statistic), lines[row.fault]
        words = {"ha": "center", "va": "center", "size": 6.5, "color": "white" if dark else INK}
        axes.text(*place, "▲" if row.way > 0 else "▼", **words)
    for row in part[(part["statistic"] == "cosine") & part["fault"].isin(lines)].itertuples():
        axes.text(
            len(names) + 0.1, lines[row.fault], f"{row.value:.2f}".replace("-", "−"), ha="center", va="center", size=6.5
        )
    axes.set_xticks(
        range(len(names) + 1), [*(one.title for one in STATISTICS.values()), "cosine"], rotation=60, ha="right", size=7
    )
    axes.set_xlim(-0.7, len(names) + 0.7)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return picture


def plot_heard(pictures: Mapping[str, np.ndarray], limits: tuple[float, float] = (-4.0, 4.0)) -> Figure:
    """Show what the encoder hears of one clip, with each mistake, all in one range of colours.

    Parameters
    ----------
    pictures : mapping
        Mistake → spectrogram ``(frames, mel)``, as handed to the encoder.
    limits : tuple of float
        Ends of the colours; 0 is the mean of pretraining and 1 its standard deviation.
    """
    count = -(-len(pictures) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure, _ = new_figure(size=(9.2, 1.12 * count))
        figure.clear()
        grid = figure.subplots(count, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (name, picture) in zip(grid.flat, pictures.items(), strict=False):
        axes.imshow(picture.T, origin="lower", aspect="auto", cmap="magma", vmin=limits[0], vmax=limits[1])
        axes.set_title(title_of(name), loc="left", fontsize=7, weight="bold" if name in (RIGHT, SHORT) else "normal")
        numbers = f"{round(float(picture.mean()), 1) + 0.0:.1f} ± {picture.std():.1f}".replace("-", "−")
        axes.text(1, -0.03, numbers, transform=axes.transAxes, size=6, color=FAINT, ha="right", va="top")
    return figure
