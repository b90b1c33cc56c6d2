"""The pictures of notebook 19: what a view looks like, what views give to each head, and how many are enough."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.figures_style import INK, STYLE, colour, ink, marker, say, sheet, spread
from lib.plots import entitle, new_figure
from lib.views import AUGMENTED, CONDITIONS, GAIN, HEADS_COMPARED, LEAD, LEADS

POINTS = "points of the test metric"


def look(label: str) -> dict:
    """Return how the marker of a head of `HEADS_COMPARED` is drawn; linear on the mean token is hollow."""
    style = marker(HEADS_COMPARED[label][0])
    if HEADS_COMPARED[label][1]:
        style |= {"markerfacecolor": "white", "markeredgecolor": style["color"], "markeredgewidth": 1.1}
    return style


def tone(label: str) -> str:
    """Return the colour of a head of `HEADS_COMPARED`."""
    return colour(HEADS_COMPARED[label][0])


@matplotlib.rc_context(STYLE)
def plot_gains(means: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """Show what each way to augment gives each head over none: the mean with its interval, and every pair behind it.

    Parameters
    ----------
    means, scores : pandas.DataFrame
        "views_means" and "views" of `lib.views.write_tables`.
    """
    pairs = list(dict.fromkeys(zip(scores["dataset"], scores["encoder"], strict=True)))
    subtitle = (
        f"Large: mean over {len(pairs)} (dataset, encoder) pair{'s' * (len(pairs) > 1)} with its 95 % interval; "
        "dots: each pair. Hollow: linear reads the mean token instead of what stands for cls. "
        "All conditions take the same number of steps."
    )
    figure = sheet(means, (9.2, 0.7 + 0.36 * len(HEADS_COMPARED)), "What augmentation gives each head", subtitle)
    panels = figure.subplots(1, len(AUGMENTED), sharex=True, sharey=True)
    for axes, condition in zip(panels, AUGMENTED, strict=True):
        axes.axvline(0, color=INK, linewidth=0.9)
        chosen = means[(means["measure"] == GAIN) & (means["condition"] == condition)].set_index("head")
        for y, head in enumerate(HEADS_COMPARED):
            each = scores.loc[(scores["head"] == head) & (scores["condition"] == condition), "difference"]
            style = {"color": tone(head), "alpha": 0.45, "markersize": 3.2, "markeredgewidth": 0}
            axes.plot(each, y + np.linspace(-0.26, 0.26, len(each) + 2)[1:-1], "o", **style)
            row = chosen.loc[head]
            axes.plot([row["low"], row["high"]], [y, y], color=tone(head), linewidth=2)
            axes.plot(row["value"], y, **look(head))
        entitle(axes, CONDITIONS[condition])
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(" ")  # keeps a line free for the one label that all panels share
    panels[0].set_yticks(range(len(HEADS_COMPARED)), HEADS_COMPARED)
    panels[0].set_ylim(len(HEADS_COMPARED) - 0.5, -0.5)
    _in_family_colours(panels[0])
    label = panels[1].set_xlabel(f"{POINTS} above no augmentation (line at 0)")
    label.set_in_layout(False)
    return figure


def _in_family_colours(axes: Axes) -> None:
    for label in axes.get_yticklabels():
        label.set(color=ink(HEADS_COMPARED[label.get_text()][0]), weight="bold")


@matplotlib.rc_context(STYLE)
def plot_leads(means: pd.DataFrame) -> Figure:
    """Show how far protobin is above other heads under each condition ("views_means" of `lib.views.write_tables`)."""
    subtitle = "Mean over (dataset, encoder) pairs with its 95 % interval. Left of the line the other head is ahead."
    figure = sheet(means, (7.2, 2.3), "Does augmentation change who is ahead?", subtitle)
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=0.9)
    for head, offset in zip(LEADS, (-0.22, 0.0, 0.22), strict=True):
        rows = means[(means["measure"] == LEAD) & (means["head"] == head)].set_index("condition").loc[list(CONDITIONS)]
        y = np.arange(len(rows)) + offset
        axes.hlines(y, rows["low"], rows["high"], color=tone(head), linewidth=1.8)
        axes.plot(rows["value"], y, linestyle="none", label=f"protobin − {head}", **look(head))
    axes.set_yticks(range(len(CONDITIONS)), CONDITIONS.values())
    axes.set_ylim(len(CONDITIONS) - 0.5, -0.5)
    axes.set_xlabel(f"{POINTS} of protobin above the other head")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@matplotlib.rc_context(STYLE)
def plot_variants(variants: pd.DataFrame, encoder: str) -> Figure:
    """Show the gain over none by the number of live variants of a clip ("views_variants" of `lib.views.write_tables`).

    Parameters
    ----------
    variants : pandas.DataFrame
        The table.
    encoder : str
        What the encoder is called on the page.
    """
    datasets = int(variants["datasets"].iloc[0])
    subtitle = (
        f"{encoder}; mean over {datasets} dataset{'s' * (datasets > 1)}; bar: 95 % interval. "
        "Every run takes the same number of steps, whatever the number of variants."
    )
    figure = sheet(variants, (6.2, 2.5), "Do more live variants still help?", subtitle)
    axes = figure.add_subplot()
    axes.axhline(0, color=INK, linewidth=0.9)
    heads = list(dict.fromkeys(variants["head"]))
    ends = []
    for head, shift in zip(heads, (0.97, 1.0, 1.03), strict=True):
        rows = variants[variants["head"] == head]
        x = rows["variants"] * shift  # bars side by side
        axes.vlines(x, rows["gain_low"], rows["gain_high"], color=tone(head), linewidth=1.6)
        axes.plot(x, rows["gain"], linewidth=1.3, **look(head))
        ends.append(rows["gain"].iloc[-1])
    counts = sorted(variants["variants"].unique())
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlim(0.9 * counts[0], 1.55 * counts[-1])
    axes.set(xlabel="live variants of each training clip", ylabel=f"{POINTS}\nabove no augmentation")
    axes.grid(axis="y")
    low, high = axes.get_ylim()
    for head, place in zip(heads, spread(ends, 0.09 * (high - low)), strict=True):
        words = {"color": ink(HEADS_COMPARED[head][0]), "weight": "bold", "va": "center"}
        axes.text(1.09 * counts[-1], place, head, bbox={"color": "white", "pad": 1}, **words)
    return figure


def plot_views(pictures: Mapping[str, np.ndarray]) -> Figure:
    """Show spectrograms of one clip side by side.

    Parameters
    ----------
    pictures : mapping
        Title → normalised log-mel spectrogram ``(frames, mel)`` of 10 s; none at all is said in words.
    """
    figure, panels = new_figure(max(1, len(pictures)), (8.6, 2.1), sharey=True)
    if not pictures:
        say(panels[0], "There is no clip to show.")
        return figure
    every = np.stack(list(pictures.values()))
    for axes, (title, picture) in zip(panels, pictures.items(), strict=True):
        shown = {"origin": "lower", "aspect": "auto", "cmap": "magma", "extent": (0, 10, 0, picture.shape[1])}
        axes.imshow(picture.T, vmin=np.quantile(every, 0.02), vmax=np.quantile(every, 0.995), **shown)
        axes.set(xlabel="time (s)")
        entitle(axes, title)
    panels[0].set_ylabel("mel band")
    return figure
