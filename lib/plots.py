"""The small pictures between the paragraphs of notebooks 01 to 04; Figures 1-8 have a file of their own."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from IPython.display import Image as DisplayedImage
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator
from PIL import Image

from lib.audio import SAMPLE_RATE, log_mel, mel_centres
from lib.data.datasets import Soundscapes
from lib.data.mixer import Scene
from lib.encoders import ENCODERS
from lib.figures_style import INK, MARKERS, STYLE, colour, ink, say

SIZE = (7.2, 2.6)


def new_figure(columns: int = 1, size: tuple[float, float] = SIZE, **options: object) -> tuple[Figure, np.ndarray]:
    """Return an empty figure in the house style, and its axes ``(columns,)``."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=100, layout="constrained")
        return figure, np.atleast_1d(figure.subplots(1, columns, **options))


def entitle(axes: Axes, text: str) -> None:
    """Give axes a title in the house style."""
    axes.set_title(text, loc="left", fontsize=STYLE["axes.titlesize"], weight="bold")


MANY_CLASSES = 60  # whose names do not fit under a plot


def page_image(figure: Figure, dpi: int = 100, colours: int = 256) -> DisplayedImage:
    """Return a figure as a small picture for a notebook page: a PNG with a palette, a third of the bytes."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    Image.open(drawn).convert("RGB").quantize(colours).save(packed, format="png", optimize=True)
    return DisplayedImage(packed.getvalue())


def plot_scene(scene: Scene, num_mels: int = 64) -> Figure:
    """Show a clip's log-mel spectrogram with a box round each event: when, and in which band its energy lies."""
    figure, (axes,) = new_figure()
    spectrogram = log_mel(scene.audio, num_mels).numpy()  # (frames, mel)
    centres, seconds = mel_centres(num_mels), len(scene.audio) / SAMPLE_RATE
    axes.imshow(spectrogram.T, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, num_mels))
    for event in scene.events:
        low, high = np.searchsorted(centres, (event.low_hz, event.high_hz))
        box = (event.onset, low), event.offset - event.onset, max(high - low, 1.5)
        axes.add_patch(Rectangle(*box, fill=False, edgecolor="white", linewidth=1.2))
        text = axes.text(event.onset + 0.05, low + max(high - low, 1.5), event.label.replace("_", " "))
        text.set(color="white", size=7, va="bottom")
    ticks = np.searchsorted(centres, (250, 500, 1000, 2000, 4000, 7000))
    axes.set_yticks(ticks, ["250", "500", "1k", "2k", "4k", "7k"])
    axes.set(xlabel="time (s)", ylabel="frequency (Hz)")
    entitle(axes, f"{len(scene.events)} events, every one of them known")
    return figure


def plot_polyphony(data: Soundscapes, split: str, count: int) -> Figure:
    """Show how many classes a clip of the split has, and in how many clips each class occurs."""
    targets = data.targets(split, count)
    figure, (left, right) = new_figure(2, width_ratios=[1, 1.6])
    classes, clips = np.unique(targets.sum(1).astype(int), return_counts=True)
    left.bar(classes, clips, color="#005F99")
    left.set(xlabel="classes in a clip", ylabel="clips", xticks=classes)
    entitle(left, f"polyphony of {split}")
    right.bar(range(targets.shape[1]), 100 * targets.mean(0), color="#56B4E9")
    if targets.shape[1] <= MANY_CLASSES:
        names = [name.replace("_", " ") for name in data.classes]
        right.set_xticks(range(targets.shape[1]), names, rotation=60, ha="right")
    right.set(ylabel="% of clips")
    entitle(right, "how often each class occurs")
    return figure


def plot_search(rows: pd.DataFrame, head: str, epochs: int) -> Figure:
    """Show the trials of one cell: learning rate against validation score at each rung; stopped trials are hollow."""
    figure, (axes,) = new_figure(size=(5.2, 2.8))
    trials = rows[(rows["stage"] == "search") & (rows["head"] == head)]
    if trials.empty:
        say(axes, f"This part of the profile has no {head}, so there is no search of it to show.", 60)
        return figure
    last = trials.groupby(["lr", "weight_decay"])["rung"].transform("max")
    for rung, part in trials.groupby("rung"):
        ended = part["rung"] == last[part.index]
        size = 12 + 60 * rung / epochs
        axes.scatter(part["lr"], part["value"], s=size, facecolors="none", edgecolors=colour(head))
        done = part[ended & (rung == epochs)]
        axes.scatter(done["lr"], done["value"], s=size, color=colour(head))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set(xlabel="learning rate", ylabel=f"validation {trials['metric'].iloc[0]} (%)")
    entitle(axes, f"{head}: one circle a rung, larger = later; filled = trained to the end")
    axes.grid(True)
    return figure


def plot_gains(table: pd.DataFrame, encoders: Sequence[str]) -> Figure:
    """Show each head's gain over linear with its paired bootstrap interval, one panel an encoder."""
    figure, panels = new_figure(len(encoders), (7.2, 3.2), sharex=True, sharey=True)
    for axes, encoder in zip(panels, encoders, strict=True):
        part = table[(table["encoder"] == encoder) & (table["head"] != "linear")].iloc[::-1]
        for y, row in enumerate(part.itertuples()):
            axes.plot([row.gain_low, row.gain_high], [y, y], color=colour(row.head), linewidth=2)
            axes.plot(row.gain, y, marker=MARKERS[row.head], color=colour(row.head), markersize=5)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(part)), part["head"])
        entitle(axes, ENCODERS[encoder].label)
        axes.grid(True, axis="x")
    figure.supxlabel("points above linear (test), with 95 % paired bootstrap interval", size=8)
    return figure


def plot_prototype_counts(table: pd.DataFrame) -> Figure:
    """Show the test score against prototypes per class J: one line a kind, one panel an encoder and dataset."""
    pairs = list(dict.fromkeys(zip(table["dataset"], table["encoder"], strict=True)))
    figure, panels = new_figure(len(pairs), (max(4.8, 2.6 * len(pairs)), 3.0), sharey=True)
    for axes, (dataset, encoder) in zip(panels, pairs, strict=True):
        chosen = (table["dataset"] == dataset) & (table["encoder"] == encoder)
        for head, part in table[chosen].groupby("head", sort=False):
            style = {"color": ink(head), "marker": MARKERS[head], "linestyle": LINES[head], "capsize": 2}
            axes.errorbar(part["J"], part["mean"], part["sd"], label=head, linewidth=1.4, **style)
        axes.set_xscale("log")
        counts = sorted(set(table["J"]))
        axes.set_xticks(counts, [f"{count:g}" for count in counts], minor=False)
        axes.minorticks_off()
        axes.set(xlabel="prototypes per class J")
        entitle(axes, f"{ENCODERS[encoder].label}, {dataset}")
        axes.grid(True)
    panels[0].set_ylabel("test score (%), ±1 sd over seeds")
    panels[0].legend(frameon=False, fontsize=7.5)
    return figure


LINES = {"protobin": "-", "protofloat": "--", "proto": ":"}


def plot_contrasts(table: pd.DataFrame) -> Figure:
    """Show paired differences between kinds of prototypes, a row a contrast and encoder, with bootstrap intervals."""
    figure, (axes,) = new_figure(size=(6.4, 0.8 + 0.28 * len(table)))
    for y, row in enumerate(table.iloc[::-1].itertuples()):
        axes.plot([row.low, row.high], [y, y], color="#D55E00", linewidth=2)
        axes.plot(row.difference, y, "o", color="#D55E00", markersize=5)
    axes.axvline(0, color=INK, linewidth=0.8)
    labels = [f"{row.contrast}   {ENCODERS[row.encoder].label}" for row in table.iloc[::-1].itertuples()]
    axes.set_yticks(range(len(table)), labels)
    axes.set_xlabel("difference in points of the test metric, with 95 % paired bootstrap interval")
    axes.grid(True, axis="x")
    return figure


def plot_side_by_side(table: pd.DataFrame, titles: Sequence[str]) -> Figure:
    """Show published (left) and rerun (right) scores of the heads, each as its distance from that side's linear.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `lib.side_by_side.side_by_side`, one a head, all with a rerun.
    titles : sequence of str
        What the two sides are.
    """
    figure, panels = new_figure(2, (7.6, 4.2), sharey=True)
    part = table.iloc[::-1].reset_index(drop=True)
    for axes, title, value, sd in zip(
        panels, titles, ("published", "rerun"), ("published_sd", "rerun_sd"), strict=True
    ):
        start = part.loc[part["head"] == "linear", value].item()
        axes.axvline(start, color=INK, linewidth=0.8)
        for y, row in part.iterrows():
            axes.plot([start, row[value]], [y, y], color=colour(row["head"]), linewidth=1.2, alpha=0.5)
            axes.errorbar(row[value], y, xerr=row[sd], color=colour(row["head"]), linewidth=2)
            axes.plot(row[value], y, marker=MARKERS[row["head"]], color=colour(row["head"]), markersize=6)
            axes.annotate(
                f"{row[value]:.1f}", (row[value], y), (0, 4), textcoords="offset points", size=6.5, ha="center"
            )
        axes.set_yticks(range(len(part)), part["head"])
        axes.set_xlabel("mAP in %, ±1 sd over seeds; line: linear")
        axes.margins(x=0.12)
        entitle(axes, title)
        axes.grid(True, axis="x")
    return figure


VERDICT_COLOURS = ("#005F99", "#56B4E9", "#D55E00", "#C9C9C9")  # apart in grey and for colour-blind readers


def plot_verdicts(table: pd.DataFrame, verdicts: Sequence[str]) -> Figure:
    """Show how many sentences got which verdict, one bar a part of the paper, in the paper's order."""
    counts = pd.crosstab(table["place"], table["verdict"]).reindex(columns=list(verdicts), fill_value=0)
    counts = counts.loc[list(dict.fromkeys(table["place"]))[::-1]]
    figure, (axes,) = new_figure(size=(7.2, 0.9 + 0.24 * len(counts)))
    left = np.zeros(len(counts))
    for verdict, shade in zip(verdicts, VERDICT_COLOURS, strict=True):
        axes.barh(counts.index, counts[verdict], left=left, color=shade, label=verdict, height=0.7)
        left += counts[verdict].to_numpy()
    axes.set_xlabel("sentences")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=len(verdicts), frameon=False, fontsize=7.5)
    axes.grid(True, axis="x")
    return figure
