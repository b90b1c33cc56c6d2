"""An own encoder beside two of the package, as notebook 23 shows them: scores, a picture each, and sentences."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.comparisons import difference, draw_all, final_values, interval
from lib.data.mixer import Scene
from lib.encoders import ENCODERS
from lib.encoders.vit import Encoding
from lib.figures_style import INK, STYLE, colour, marker, sheet
from lib.plots import entitle, new_figure
from lib.profiles import Profile, load_profile
from lib.results import make_cell
from lib.search import Cell
from lib.tables import note, pca_colours

HEADS = {  # what a page calls it → head, and what stands for [cls]
    "linear": ("linear", ""),
    "linear on the mean token": ("linear", "mean"),
    "mhca": ("mhca", ""),
    "protobin": ("protobin", ""),
}


def dataset_of(profile: Profile) -> str:
    """Return the dataset that is looked at: the last of the profile's first group, which is its smallest."""
    return profile.groups[0].datasets[-1]


def cells_of(encoder: str, dataset: str) -> dict[str, Cell]:
    """Return the cells of an encoder by the names in `HEADS`; one cell has two where the mean stands for [cls]."""
    return {name: make_cell(encoder, dataset, head, cls_mode=mode) for name, (head, mode) in HEADS.items()}


def scores(profile_name: str, encoders: Sequence[str]) -> pd.DataFrame:
    """Return the test metric of each encoder under each head, from finished cells.

    Returns
    -------
    pandas.DataFrame
        A row an encoder and head: ``encoder, label, head``, ``mean`` over seeds, ``low`` and ``high`` of the 95 %
        bootstrap interval; ``ahead, ahead_low, ahead_high``: points above `linear` of the same encoder, paired; and
        ``first, first_low, first_high``: points of the first encoder above this one under the same head. All in
        percent; the note is in ``attrs``.
    """
    profile = load_profile(profile_name)
    cells = {name: cells_of(name, dataset_of(profile)) for name in encoders}
    draw_all(profile, [cell for of_one in cells.values() for cell in of_one.values()])
    rows = []
    for name, of_one in cells.items():
        for head, cell in of_one.items():
            numbers = [np.mean(final_values(profile, cell)), *interval(profile, cell)]
            numbers += difference(profile, cell, of_one["linear"])
            numbers += difference(profile, cells[encoders[0]][head], cell)
            rows.append((name, ENCODERS[name].label, head, *numbers))
    compared = [f"{what}{end}" for what in ("ahead", "first") for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows, columns=["encoder", "label", "head", "mean", "low", "high", *compared])
    metric = cells[encoders[0]]["linear"].metric
    table.attrs["note"] = f"{note(profile, 'lines: 95 % bootstrap over test clips')} · test {metric}"
    table.attrs["dataset"], table.attrs["metric"] = dataset_of(profile), metric
    return table


@matplotlib.rc_context(STYLE)
def plot_scores(table: pd.DataFrame) -> Figure:
    """Show the scores of `scores`: a panel an encoder, a line a head."""
    names, heads = list(dict.fromkeys(table["encoder"])), list(HEADS)
    title = f"One encoder of your own, beside two others, on {table.attrs['dataset']}"
    figure = sheet(table, (7.6, 1.7), title, "Hollow: linear reads the mean token instead of what stands for [cls].")
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        rows = table[table["encoder"] == name].set_index("head").loc[heads]
        for y, row in enumerate(rows.itertuples()):
            head, mode = HEADS[row.Index]
            look = marker(head) | ({"markerfacecolor": "white", "markeredgecolor": INK} if mode else {})
            axes.plot((row.low, row.high), (y, y), color=colour(head), linewidth=2)
            axes.plot(row.mean, y, **look)
        entitle(axes, rows["label"].iloc[0])
        axes.grid(True, axis="x")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"test {table.attrs['metric']} (%)")
    panels[0].set_yticks(range(len(heads)), heads)
    panels[0].set_ylim(len(heads) - 0.5, -0.5)
    return figure


def plot_maps(scene: Scene, heard: Mapping[str, Encoding], others: Mapping[str, Encoding]) -> Figure:
    """Show one clip as each encoder hands it over: three principal components of its tokens as red, green and blue.

    Parameters
    ----------
    scene : Scene
        The clip.
    heard : mapping
        Encoder's id → encoding of that clip alone.
    others : mapping
        Encoder's id → encoding of other clips, which fix the components; see `lib.tables.pca_colours`.
    """
    figure, panels = new_figure(len(heard), (8.6, 1.9), sharex=True)
    seconds = len(scene.audio) / 16_000
    for axes, (name, encoding) in zip(panels, heard.items(), strict=True):
        S_t, S_f = encoding.grid
        colours = pca_colours(encoding.tokens[0], others[name].tokens).T.reshape(S_t, S_f, 3)  # (N, 3) → (S_t, S_f, 3)
        axes.imshow(colours.swapaxes(0, 1), origin="lower", aspect="auto", extent=(0, seconds, 0, S_f))
        for event in scene.events:
            axes.plot((event.onset, event.offset), (1.04 * S_f,) * 2, color=INK, linewidth=2.5, clip_on=False)
        axes.set(xlabel="time (s)", xlim=(0, seconds), yticks=(0, S_f), yticklabels=("low", "high"))
        axes.set_title(ENCODERS[name].label, loc="left", fontsize=8.5, weight="bold", pad=9)
    panels[0].set_ylabel("frequency")
    return figure


def in_words(table: pd.DataFrame) -> list[str]:
    """Say in sentences what the table of `scores` holds; every number and verdict in them is taken from it."""
    metric, rows = table.attrs["metric"], table.set_index(["encoder", "head"])
    names = list(dict.fromkeys(table["encoder"]))
    sentences = []
    for name in names:
        row, linear = rows.loc[name, "protobin"], rows.loc[name, "linear"]
        sentences.append(
            f"{row['label']}: test {metric} {linear['mean']:.1f} % with linear and {row['mean']:.1f} % with protobin, "
            f"{_points(row, 'ahead')}: {_verdict(row, 'ahead', 'protobin is ahead', 'linear is ahead')}."
        )
    for name in names[1:]:
        own, other = rows.loc[names[0], "protobin"]["label"], rows.loc[name, "protobin"]["label"]
        said = [
            f"{_points(rows.loc[name, head], 'first')} with {head} "
            f"({_verdict(rows.loc[name, head], 'first', 'ahead', 'behind')})"
            for head in ("linear", "protobin")
        ]
        sentences.append(f"{own} against {other}: {' and '.join(said)}.")
    return sentences


def _points(row: pd.Series, what: str) -> str:
    low, high = (f"{row[f'{what}_{end}']:+.1f}".replace("-", "−") for end in ("low", "high"))
    return f"{row[what]:+.1f}".replace("-", "−") + f" points [{low}, {high}]"


def _verdict(row: pd.Series, what: str, above: str, below: str) -> str:
    """Return which side of zero the interval lies on."""
    if row[f"{what}_low"] > 0:
        return above
    return below if row[f"{what}_high"] < 0 else "it cannot be told"
