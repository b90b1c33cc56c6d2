"""What training does to prototypes, as notebook 13 shows it: a picture with a small panel a question, and sentences."""

from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.figures_style import FAINT, MARKERS, STYLE, ink, say, sheet
from lib.plots import LINES, entitle
from lib.profiles import PROTOTYPE_HEADS
from lib.prototype_dynamics import CHANCE, FLOOR

# Title, what the axis says, and the measures drawn, the second paler. An axis that says % shows percent.
PANELS = (
    ("how alike", "mean |cosine| of two", ("cosine", "cosine_in_class")),
    ("how far from the start", "mean cosine with own start", ("cosine_with_start",)),
    ("signs that flip", "% of signs, in the epoch", ("flipped",)),
    ("latent weights", "mean |latent weight|", ("latent",)),
    ("never win", "% of prototypes", ("silent", "one_place")),
    ("where they win", "% of places, per prototype", ("places",)),
    ("share the work", "effective number, % of all", ("heard",)),
    ("tokens that speak", "% of a clip's tokens", ("coverage",)),
)
PER_ROW = 4


@matplotlib.rc_context(STYLE)
def plot_dynamics(table: pd.DataFrame) -> Figure:
    """Show each measure over the epochs, a line a head, with a band from the least to the largest of the seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        As `lib.prototype_dynamics.write_dynamics` returns it, with its note.
    """
    heads = [head for head in LINES if head in set(table["head"])]
    subtitle = (
        "0 is the start. Grey dashes: random directions, winners drawn at random. Paler: prototypes of one class "
        f"(first panel). Never win: contribute at most {FLOOR:.0%} of the largest; paler: one place in all clips."
    )
    figure = sheet(table, (9.2, 4.3), "What training does to prototypes", subtitle)
    panels = figure.subplots(len(PANELS) // PER_ROW, PER_ROW, sharex=True)
    for axes, (title, label, measures) in zip(panels.flat, PANELS, strict=True):
        _draw(axes, table, measures, heads, 100 if "%" in label else 1)
        axes.set_ylabel(label, size=7.5)
        axes.grid(True)
        entitle(axes, title)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    handles = [
        Line2D([], [], color=ink(head), linestyle=LINES[head], marker=MARKERS[head], label=head) for head in heads
    ]
    figure.legend(handles=handles, loc="upper right", ncols=len(heads), frameon=False, fontsize=7.5)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, measures: tuple[str, ...], heads: list[str], scale: int) -> None:
    """Draw the measures of one panel, or say that there are none."""
    found = table[table["measure"].isin(measures)]
    if found.empty:
        say(axes, "Not measured here.", 20)
        return
    for head in heads:
        for measure, alpha in zip(measures, (1.0, 0.45), strict=False):
            rows = found[(found["head"] == head) & (found["measure"] == measure)]
            if rows.empty:
                continue
            seeds = scale * rows.pivot(index="epoch", columns="seed", values="value")  # a row an epoch, a column a seed
            style = {"color": ink(head), "linestyle": LINES[head], "marker": MARKERS[head], "alpha": alpha}
            every = max(1, len(seeds) // 5)
            axes.plot(seeds.index, seeds.mean(axis=1), linewidth=1.3, markersize=4, markevery=every, **style)
            axes.fill_between(
                seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=ink(head), alpha=0.18, linewidth=0
            )
    for row in found[found["head"] == CHANCE].itertuples():
        axes.axhline(scale * row.value, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
    low, high = axes.dataLim.y0, axes.dataLim.y1
    if "cosine" in measures:  # some start ten times higher than others
        axes.set_yscale("log")
        axes.set_yticks((0.02, 0.05, 0.1, 0.2, 0.5, 1.0), ("0.02", "0.05", "0.1", "0.2", "0.5", "1"))
        axes.minorticks_off()
        axes.set_ylim(0.8 * low, 1.1)
    else:
        axes.set_ylim(min(0, low), 1.08 * max(high, 1.0 if scale == 100 else high))  # one percent, where all is zero


def in_words(table: pd.DataFrame) -> list[str]:
    """Say in sentences what the table of `write_dynamics` holds; every number in them is taken from it."""
    mean = table.fillna({"epoch": 0}).groupby(["head", "measure", "epoch"])["value"].mean()
    last, there = int(table["epoch"].max()), [head for head in PROTOTYPE_HEADS if head in set(table["head"])]

    def path(measure: str, form: str, heads: Sequence[str] = there) -> str:
        ends = [(head, *(form.format(mean[head, measure, epoch]) for epoch in (0, last))) for head in heads]
        return ", ".join(f"{head} {start} → {end}" for head, start, end in ends)

    def ends(measure: str, form: str) -> str:
        return ", ".join(f"{head} {form.format(mean[head, measure, last])}" for head in there)

    flips = [mean["protobin", "flipped", epoch] for epoch in (1, last)]
    highest = mean["protobin", "cosine"].idxmax()
    sentences = [
        f"Mean |cosine| of two prototypes, before → after training: {path('cosine', '{:.3f}')}; random directions have "
        f"{mean[CHANCE, 'cosine', 0]:.3f}. {_direction(table, 'cosine')}",
        f"In protobin it is highest after epoch {int(highest)}: {mean['protobin', 'cosine', highest]:.3f}.",
        f"Mean cosine of a prototype with its own start, after training: {ends('cosine_with_start', '{:.2f}')}.",
        f"Of protobin's signs {flips[0]:.1%} flip in the first epoch and {flips[1]:.1%} in the last; in the end "
        f"{mean['protobin', 'flipped_since_start', last]:.1%} are not what they were at the start. The mean |latent "
        f"weight|: {path('latent', '{:.3f}', ['protobin'])}.",
        f"Silent prototypes: {path('silent', '{:.1%}')}. That win at one place in all clips: "
        f"{path('one_place', '{:.1%}')}.",
        f"The effective number of contributing prototypes, as a share of all: {path('heard', '{:.0%}')}.",
        f"A prototype wins at this share of all places: {path('places', '{:.0%}')}; drawn at random it would be "
        f"{mean[CHANCE, 'places', 0]:.0%}.",
        f"Tokens of a clip that win a prototype or more: {path('tokens', '{:.0f}')}; as many winners, drawn at random, "
        f"would be {mean[CHANCE, 'tokens', 0]:.0f} tokens.",
        f"Are these the runs of the comparison? Mean cosine of the last prototypes with those that the cells kept: "
        f"{ends('as_stored', '{:.3f}')}.",
    ]
    if ("proto", "cosine_in_class", 0) in mean:  # not where a class has a single prototype
        sentences.insert(1, f"The same within a class: {path('cosine_in_class', '{:.3f}', ['proto'])}.")
    return sentences


def _direction(table: pd.DataFrame, measure: str) -> str:
    """Say which heads' numbers training raises and which it lowers, where all seeds agree."""
    rows = table[(table["measure"] == measure) & (table["head"] != CHANCE)]
    by_seed = rows.pivot(index=["head", "seed"], columns="epoch", values="value")
    change = (by_seed.iloc[:, -1] - by_seed.iloc[:, 0]).groupby("head")
    there = [head for head in PROTOTYPE_HEADS if head in change.groups]
    raised, lowered = ((found > 0).reindex(there) for found in (change.min(), -change.max()))
    groups = {"raises it in": raised, "lowers it in": lowered, "does neither in all seeds of": ~(raised | lowered)}
    said = [f"{verb} {' and '.join(which.index[which])}" for verb, which in groups.items() if which.any()]
    return f"Training {', '.join(said)}."
