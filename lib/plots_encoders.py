"""The pictures of notebook 08: what pretraining does to an encoder, and to its tokens.

Colour and marker tell the kind of an encoder: pretrained without labels, with labels on top, or a control.
"""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lib.audio import mel_centres
from lib.data.mixer import Event, Scene
from lib.encoder_pages import pairs
from lib.encoders import ENCODERS
from lib.encoders.pocket import POCKET
from lib.encoders.vit import Encoding
from lib.figures_style import BLUE, FAINT, FAMILY_COLOURS, INK, ORANGE, STYLE, say, spread
from lib.plots import entitle
from lib.tables import pca_colours
from lib.token_statistics import STATISTICS

KINDS = {  # kind → what a legend says, colour, marker
    "base": ("pretrained without labels", BLUE, "o"),
    "supervised": ("supervised⁺", ORANGE, "D"),
    "control": ("control", FAINT, "s"),
}
SHARES = {  # statistic → what a legend says, colour
    "clips": ("between clips", BLUE),
    "places": ("between places", FAMILY_COLOURS["token map"]),
    "within": ("within: neither explains it", "#D9D9D9"),
}
PAIR_STYLES = ((INK, "o", "-"), ("#008560", "^", "--"), ("#B0457F", "s", ":"))  # one a pair; no colour of a kind
OUTLINE = [patheffects.withStroke(linewidth=2.0, foreground=INK)]


def called(name: str) -> str:
    """Return an encoder's label without the word for controls, which the colour says."""
    return ENCODERS[name].label.removesuffix(" (control)")


def empty(size: tuple[float, float]) -> Figure:
    """Return an empty figure of so many inches."""
    return Figure(figsize=size, dpi=100, layout="constrained")


@matplotlib.rc_context(STYLE)
def plot_losses(curves: pd.DataFrame, columns: int = 4) -> Figure:
    """Show the loss of each stage over its steps; the losses are different things, so each panel has its own axis."""
    parts = list(curves.groupby(["encoder", "stage"], sort=False))
    columns = max(1, min(columns, len(parts)))
    rows = max(1, -(-len(parts) // columns))
    figure = empty((2.15 * columns, 1.75 * rows + 0.3))
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(parts) :]:
        axes.set_axis_off()
    for axes, ((name, stage), curve) in zip(panels.flat, parts, strict=False):
        axes.plot(curve["step"], curve["loss"], color=KINDS[ENCODERS[name].kind][1], linewidth=1.3)
        axes.set_title(f"{ENCODERS[name].label}\n{stage}", loc="left", fontsize=7.5, weight="bold")
        axes.set_xlim(0, None)
        axes.locator_params(nbins=4)
        axes.grid(True)
    figure.supxlabel("step", size=8)
    figure.supylabel("pretraining loss, mean of 100 steps", size=8)
    return figure


# ---- one clip ----------------------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def plot_token_maps(scene: Scene, heard: Mapping[str, Encoding], others: Mapping[str, Encoding]) -> Figure:
    """Show one clip as every encoder hands it over: PCA of its tokens, and where [cls] looks in the last layer.

    Parameters
    ----------
    scene : Scene
        The clip; a box is drawn round each of its events.
    heard : mapping
        Encoder's id → encoding of that clip alone, with attention.
    others : mapping
        Encoder's id → encoding of other clips, which fix the principal components; see `lib.tables.pca_colours`.
    """
    rows = pairs()
    figure = empty((9.6, 1.35 * len(rows) + 0.5))
    figure.get_layout_engine().set(h_pad=0.06)
    cells = figure.add_gridspec(len(rows), 5, width_ratios=[1, 1, 0.04, 1, 1])
    for (row, pair), side in itertools.product(enumerate(rows), (0, 1)):
        name, panels = pair[side], [figure.add_subplot(cells[row, 3 * side + i]) for i in (0, 1)]
        if name in heard:
            _draw_maps(panels, heard[name], others[name].tokens, scene.events)
        else:
            for axes in panels:
                say(axes, "Its weights are not here yet.", 20)
        _name_axes(panels, name, side == 0, row == len(rows) - 1)
    figure.supxlabel("time (s)", size=8)
    figure.supylabel("frequency (Hz)", size=8)
    return figure


def _draw_maps(panels: Sequence[Axes], encoding: Encoding, others: torch.Tensor, events: Sequence[Event]) -> None:
    style = {"origin": "lower", "aspect": "auto", "extent": extent(), "interpolation": "nearest"}
    colours = pca_colours(encoding.tokens[0], others).T.reshape(*encoding.grid, 3)  # (N, 3) -> (S_t, S_f, 3)
    panels[0].imshow(colours.swapaxes(0, 1), **style)
    draw_boxes(panels[0], events)
    if encoding.attention is None:
        say(panels[1], "No [cls] of its own, so there is no attention to show.", 28)
        return
    last = encoding.attention[0, -1].mean(0).reshape(encoding.grid).numpy()  # (heads, N) -> (S_t, S_f)
    panels[1].imshow(last.T, cmap="magma", vmin=0, **style)
    draw_boxes(panels[1], events)


def _name_axes(panels: Sequence[Axes], name: str, first: bool, lowest: bool) -> None:
    panels[0].set_title(f"{called(name)}: PCA", loc="left", fontsize=8, weight="bold", pad=3)
    panels[1].set_title("attention of [cls], last layer", loc="left", fontsize=7.5, color=FAINT, pad=3)
    ticks = np.searchsorted(mel_centres(POCKET.num_mels), (250, 1000, 4000))
    for axes in panels:
        axes.set_xticks((0, 2, 4, 6, 8) if lowest and axes.images else ())
        axes.set_yticks(())
    if first and panels[0].images:
        panels[0].set_yticks(ticks, ["250", "1k", "4k"])


def extent() -> tuple[float, float, float, float]:
    """Return the span of a token map: seconds, and mel bands."""
    return 0.0, POCKET.grid[0] * POCKET.patch[0] * POCKET.hop_ms / 1000, 0.0, float(POCKET.num_mels)


def draw_boxes(axes: Axes, events: Sequence[Event]) -> None:
    """Draw a box round each event: when it sounds, and in which band its energy lies (all bands where unknown)."""
    centres = mel_centres(POCKET.num_mels)
    for event in events:
        low, high = np.searchsorted(centres, np.nan_to_num([event.low_hz, event.high_hz], nan=np.inf))
        low = 0 if np.isnan(event.low_hz) else low
        box = (event.onset, low), event.offset - event.onset, max(high - low, 1.5)
        axes.add_patch(Rectangle(*box, fill=False, edgecolor="white", linewidth=0.9, path_effects=OUTLINE))


# ---- many clips --------------------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def plot_spread(table: pd.DataFrame) -> Figure:
    """Show how alike the tokens of a clip are, and how many directions they fill: mean and spread over clips."""
    names = list(dict.fromkeys(table["encoder"]))
    figure = empty((7.6, 1.1 + 0.25 * len(names)))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, statistic in zip(panels, ("cosine", "rank"), strict=True):
        part = table[table["statistic"] == statistic].set_index("encoder")
        for y, name in zip(heights(names), names, strict=True):
            _, colour, marker = KINDS[ENCODERS[name].kind]
            value, sd = part.loc[name, ["value", "sd"]]
            axes.errorbar(value, y, xerr=sd, color=colour, marker=marker, markersize=5, linewidth=1.6)
            text = f"{value:.2f}" if statistic == "cosine" else f"{value:.0f}"
            axes.annotate(text, (value, y), (0, 4), textcoords="offset points", size=6.5, ha="center", color=INK)
        axes.margins(x=0.1)
        axes.set_ylim(heights(names)[-1] - 0.6, 0.9)
        axes.grid(True, axis="x")
    panels[0].set_yticks(heights(names), [called(name) for name in names])
    entitle(panels[0], "How alike are the tokens of a clip?")
    entitle(panels[1], "How many directions do they fill?")
    panels[0].set_xlabel("mean cosine, ±1 sd over clips; 1: all the same")
    panels[1].set_xlabel("effective rank, ±1 sd over clips")
    kind_legend(figure, names)
    return figure


@matplotlib.rc_context(STYLE)
def plot_variance(table: pd.DataFrame) -> Figure:
    """Show the three shares of the variance of the tokens, a bar an encoder."""
    names = list(dict.fromkeys(table["encoder"]))
    figure = empty((7.2, 0.9 + 0.25 * len(names)))
    axes = figure.subplots()
    wide = table.pivot_table(index="encoder", columns="statistic", values="value", aggfunc="first").loc[names]
    left = np.zeros(len(names))
    for statistic, (label, colour) in SHARES.items():
        share = 100 * wide[statistic].to_numpy()
        axes.barh(heights(names), share, left=left, color=colour, height=0.72, label=label)
        for y, start, width in zip(heights(names), left, share, strict=True):
            if width >= 5:
                shade = "white" if statistic == "clips" else INK
                axes.text(start + width / 2, y, f"{width:.0f}", ha="center", va="center", size=7, color=shade)
        left += share
    axes.set_yticks(heights(names), [called(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="share of the variance of the tokens (%)", xlim=(0, 100))
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=7.5)
    return figure


@matplotlib.rc_context(STYLE)
def plot_attention(table: pd.DataFrame) -> Figure:
    """Show how even the attention of [cls] is, layer by layer."""
    part = table[table["statistic"] == "attention"]
    names = list(dict.fromkeys(part["encoder"]))
    figure = empty((7.2, 3.0))
    axes = figure.subplots()
    lines = {name: part[part["encoder"] == name].sort_values("layer") for name in names}
    low, high = part["value"].min(), max(1.0, part["value"].max())
    ends = spread([line["value"].iloc[-1] for line in lines.values()], 0.062 * (high - low + 0.02))
    for (name, line), end in zip(lines.items(), ends, strict=True):
        _, colour, marker = KINDS[ENCODERS[name].kind]
        dashes = {"base": "-", "supervised": "--", "control": ":"}[ENCODERS[name].kind]
        layers, values = line["layer"].to_numpy(int), line["value"].to_numpy()
        axes.plot(layers, values, color=colour, marker=marker, markersize=4.5, linestyle=dashes)
        axes.plot([layers[-1], layers[-1] + 0.22], [values[-1], end], color=colour, linewidth=0.6)
        axes.text(layers[-1] + 0.26, end, called(name), color=colour, va="center", size=7.5)
    depth = int(part["layer"].max())
    axes.plot([0.8, depth + 0.1], [1, 1], color=INK, linewidth=0.8)
    axes.set_xticks(range(1, depth + 1))
    axes.set_xlim(0.8, depth + 1.1)
    axes.set(xlabel="layer", ylabel="entropy of the attention\nof [cls], share of log N")
    entitle(axes, "1 is the same attention everywhere; mean over heads and clips")
    axes.grid(True, axis="y")
    return figure


@matplotlib.rc_context(STYLE)
def plot_supervised_step(table: pd.DataFrame) -> Figure:
    """Show each statistic before and after fine-tuning on labels, a line a pair; see `supervised_step`."""
    if table.empty:
        figure = empty((7.2, 1.2))
        say(
            figure.subplots(),
            "No base encoder and its supervised⁺ version are both here yet: this picture waits for them.",
            80,
        )
        return figure
    statistics = [name for name in STATISTICS if name in set(table["statistic"])]
    figure = empty((9.6, 2.9))
    panels = figure.subplots(1, len(statistics))
    styles = dict(zip(dict.fromkeys(table["pair"]), PAIR_STYLES, strict=False))
    for axes, statistic in zip(panels, statistics, strict=True):
        for row in table[table["statistic"] == statistic].itertuples():
            colour, marker, dashes = styles[row.pair]
            axes.plot((0, 1), (row.base, row.plus), color=colour, marker=marker, linestyle=dashes, markersize=5)
        axes.set_xticks((0, 1), ("base", "super-\nvised⁺"))
        axes.set_xlim(-0.3, 1.3)
        axes.margins(y=0.12)
        axes.set_title(PANELS[statistic], loc="left", fontsize=7.5, weight="bold")
        axes.locator_params(axis="y", nbins=5)
        axes.grid(True, axis="y")
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle=dashes, markersize=5, label=f"{pair} → supervised⁺")
        for pair, (colour, marker, dashes) in styles.items()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=7.5)
    return figure


PANELS = {
    "cosine": "mean cosine\nof two tokens",
    "rank": "effective rank\nof a clip's tokens",
    "clips": "variance share\nbetween clips",
    "places": "variance share\nbetween places",
    "within": "variance share\nwithin",
    "attention": "entropy of [cls]\nattention, last layer",
}


def heights(names: Sequence[str]) -> np.ndarray:
    """Return where the rows of encoders stand, from the top down, with a gap where the kind changes."""
    kinds = [ENCODERS[name].kind for name in names]
    gaps = np.cumsum([0, *(0.5 * (a != b) for a, b in itertools.pairwise(kinds))])
    return -(np.arange(len(names)) + gaps)


def kind_legend(figure: Figure, names: Sequence[str]) -> None:
    """Say above a figure what the colours mean, for the kinds that `names` have."""
    here = {ENCODERS[name].kind for name in names}
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5, label=label)
        for kind, (label, colour, marker) in KINDS.items()
        if kind in here
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=7.5)
