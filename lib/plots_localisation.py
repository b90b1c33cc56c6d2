"""The pictures and sentences of notebook 17: how well each map finds the events, and when; one clip with its maps."""

from collections.abc import Sequence

import matplotlib
import matplotlib.patheffects as effects
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.figures_maps import HALO, HZ_TICKS, matrix
from lib.figures_style import FAINT, FAMILY_COLOURS, INK, MARKERS, STYLE, colour, say, sheet
from lib.localisation import ALL, BINS, MEASURES
from lib.localisation_maps import BY_FRAME, MAPS, REPEATED, TRUE_TAGS
from lib.plots import entitle

BLIND = ("mhca attention", "cls attention", "energy", "rise", "random")  # one map a clip, whatever the class: hollow
LOOKS = {  # map → colour, marker
    **{head: (colour(head), MARKERS[head]) for head in ("protobin", "proto", "mhca")},
    BY_FRAME: (colour("mhca"), "X"),
    "mhca attention": (colour("mhca"), MARKERS["mhca"]),
    "cls attention": (FAMILY_COLOURS["cls"], "o"),
    "energy": (FAINT, "s"),
    "rise": (FAINT, "D"),
    "random": ("#B5B5B5", "v"),
}
IN_FRAMES = {  # rows of frame mAP → what they are called
    "protobin": "protobin",
    "proto": "proto",
    "mhca": "mhca, contributions",
    BY_FRAME: "mhca, each frame alone",
    **{head + REPEATED: f"{head}, clip score repeated" for head in ("protobin", "proto", "mhca")},
}
PANELS = {  # measure → title, axis, rows
    "pointing": ("pointing", "% of pairs: peak in an event of the class", MAPS),
    "iou": ("IoU", "% IoU with the events of the class", MAPS),
    "frame_map": ("frames", "frame mAP in %", IN_FRAMES),
}
IN_WORDS = {  # whom protobin is held against → what a sentence calls it
    "mhca attention": "mhca's attention",
    "cls attention": "the attention of [cls]",
    "energy": "plain energy",
    "rise": "energy above its band's median",
    "mhca": "what mhca's tokens contribute to the class",
    "random": "a random map",
}
TRAIT_TITLES = {
    "duration": "by duration",
    "snr": "by level over the noise",
    "overlap": "by overlapped share",
}
CURVES = ("protobin", "proto", "mhca", "mhca attention", "cls attention", "rise")


def look(name: str) -> dict:
    """Return how the marker of a map is drawn: hollow for one map a clip and for a clip score repeated."""
    tint, shape = LOOKS[name.removesuffix(REPEATED)]
    hollow = name in BLIND or name.endswith(REPEATED)
    size = 9.0 if shape == "*" else 6.0  # a star looks smaller than it is
    face = {"marker": shape, "color": tint, "markersize": size, "markeredgewidth": 1.1 if hollow else 0.5}
    return face | {"markerfacecolor": "white" if hollow else tint, "markeredgecolor": tint if hollow else "white"}


def overall(table: pd.DataFrame, measure: str, dataset: str = ALL, encoder: str | None = ALL) -> pd.DataFrame:
    """Return the rows of a measure over all events that are no differences; of every encoder for None."""
    chosen = (table["measure"] == measure) & (table["dataset"] == dataset) & table["against"].isna()
    chosen &= table["by"] == ALL
    return table[chosen & ((table["encoder"] == encoder) if encoder else (table["encoder"] != ALL))]


def datasets_of(table: pd.DataFrame) -> list[str]:
    """Return the datasets of a table in order."""
    return [name for name in dict.fromkeys(table["dataset"]) if name != ALL]


@matplotlib.rc_context(STYLE)
def plot_localisation(table: pd.DataFrame) -> Figure:
    """Show pointing, IoU and frame mAP of every map, a row of panels a dataset.

    Parameters
    ----------
    table : pandas.DataFrame
        As `lib.localisation.write_localisation` returns it, with its note.
    """
    names = datasets_of(table)
    subtitle = (
        "Marker: mean over encoders, with a 95 % interval; small dots: each of them. "
        "Hollow: one map a clip, whatever the class, or one score a clip. Grey stroke: chance, the share of cells (or "
        "frames) in an event. Dashed: the true tags of each clip, repeated in all its frames."
    )
    figure = sheet(table, (10.4, 0.3 + 2.25 * len(names)), "Who finds the events?", subtitle)
    grid = figure.subplots(len(names), len(PANELS), squeeze=False)
    for row, dataset in zip(grid, names, strict=True):
        for axes, (measure, (name, label, rows)) in zip(row, PANELS.items(), strict=True):
            _draw_rows(axes, table, dataset, measure, rows)
            entitle(axes, f"{_title(dataset)}: {name}")
            axes.set_xlabel(label)
        row[1].tick_params(labelleft=False)  # the maps of the panel before
    return figure


def _title(dataset: str) -> str:
    return load_dataset(dataset).manifest["title"]


def _draw_rows(axes: Axes, table: pd.DataFrame, dataset: str, measure: str, rows: dict[str, str]) -> None:
    found, dots = (overall(table, measure, dataset, encoder) for encoder in (ALL, None))
    found = found.set_index("head")
    rows = {name: label for name, label in rows.items() if name in found.index}
    if not rows:
        say(axes, "Not measured here.", 24)
        return
    for y, name in enumerate(rows):
        row, face = found.loc[name], look(name)
        each = dots.loc[dots["head"] == name, "value"]
        axes.plot(each, np.full(len(each), y), ".", color=face["color"], alpha=0.35, markersize=3.5)
        axes.plot([row["low"], row["high"]], [y, y], color=face["color"], linewidth=1.6)
        axes.plot(row["value"], y, linestyle="", **face)
        axes.plot(row["chance"], y, "|", color="#A0A0A0", markersize=9, markeredgewidth=1.4, zorder=0)
    if TRUE_TAGS in found.index:
        axes.axvline(found.loc[TRUE_TAGS, "value"], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(rows)), list(rows.values()))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.05 * np.nanmax([*found["high"], *dots["value"]]))
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")


@matplotlib.rc_context(STYLE)
def plot_traits(table: pd.DataFrame, measure: str = "pointing") -> Figure:
    """Show a measure by duration, level and overlap of the event, a row of panels a dataset."""
    names, heads = datasets_of(table), [name for name in CURVES if (table["head"] == name).any()]
    subtitle = (
        f"{MEASURES[measure].capitalize()}, % of the pairs whose class sounds once in the clip (their number stands "
        "below the bin); mean over encoders, 95 % intervals. Overlapped: the share of the event's time in which events "
        "of other classes sound. Grey dashes: chance."
    )
    figure = sheet(table, (10.4, 0.5 + 2.3 * len(names)), "Which events are found?", subtitle)
    grid = figure.subplots(len(names), len(BINS), squeeze=False, sharey="row")
    part = table[(table["measure"] == measure) & (table["encoder"] == ALL) & table["against"].isna()]
    for row, dataset in zip(grid, names, strict=True):
        for axes, by in zip(row, BINS, strict=True):
            _draw_trait(axes, part[(part["dataset"] == dataset) & (part["by"] == by)], by, heads)
            entitle(axes, f"{_title(dataset)}, {TRAIT_TITLES[by]}")
        row[0].set_ylabel("% of pairs")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=len(heads), frameon=False, fontsize=7.5)
    return figure


def _draw_trait(axes: Axes, part: pd.DataFrame, by: str, heads: Sequence[str]) -> None:
    """Draw a curve a map over the bins of a trait that hold pairs."""
    counts = part.groupby("bin")["n"].first()
    labels = [label for label in BINS[by][1] if label in counts.index]
    for shift, name in zip(np.linspace(-0.16, 0.16, len(heads)), heads, strict=True):
        rows = part[part["head"] == name].set_index("bin").reindex(labels)
        x, face = np.arange(len(labels)) + shift, look(name) | {"markersize": 7.0 if name == "protobin" else 4.5}
        axes.vlines(x, rows["low"], rows["high"], color=face["color"], linewidth=0.9, alpha=0.6)
        axes.plot(x, rows["value"], linewidth=1.2, linestyle="--" if name in BLIND else "-", label=MAPS[name], **face)
    chance = part.groupby("bin")["chance"].first().reindex(labels)
    axes.plot(range(len(labels)), chance, color="#8A8A8A", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
    axes.set_xticks(range(len(labels)), [f"{label}\n({counts[label]})" for label in labels])
    axes.set_ylim(0, 100)
    axes.grid(True, axis="y")


# ---- one clip ----------------------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def plot_clip(table: pd.DataFrame) -> Figure:
    """Show a clip's spectrogram with its true events, and every map for one class with its largest cell.

    Parameters
    ----------
    table : pandas.DataFrame
        The second that `lib.localisation.write_localisation` returns, with its note.
    """
    label = table.loc[table["panel"] == "class", "name"].item()
    names = list(dict.fromkeys(table.loc[table["panel"] == "map", "name"]))
    title = f"One clip, one class: where is the {label.replace('_', ' ')}?"
    subtitle = (
        "Boxes: the true events; white: those of the class. Each map runs from its least (dark) to its most (bright); "
        "the cross is its largest cell, where it points. Class-blind maps look the same for every class of the clip."
    )
    columns = 4
    figure = sheet(table, (10.4, 3.3), title, subtitle)
    outer = figure.add_gridspec(1, 2, width_ratios=[3, 7.4])
    extent = _extent(table)
    _draw_spectrogram(figure.add_subplot(outer[0]), table, label, extent)
    cells = outer[1].subgridspec(-(-len(names) // columns), columns)
    for cell, name in zip(cells, names, strict=False):
        axes = figure.add_subplot(cell)
        _draw_map(axes, matrix(table[(table["panel"] == "map") & (table["name"] == name)], "f", "t", name), extent)
        _draw_boxes(axes, table, label, "white")
        axes.set_title(MAPS[name], fontsize=7.5, weight="normal" if name in BLIND else "bold")
    return figure


def _draw_map(axes: Axes, picture: np.ndarray, extent: tuple[float, ...]) -> None:
    """Draw a map ``(S_f, S_t)`` and a cross on its largest cell."""
    axes.imshow(picture, cmap="cividis", extent=extent, origin="lower", aspect="auto", interpolation="nearest")
    peak = np.unravel_index(np.argmax(picture.T), picture.T.shape)  # (t, f)
    x, y = (np.array(peak) + 0.5) * extent[1::2] / picture.T.shape
    axes.plot(x, y, "x", color="#FF5A36", markersize=8, markeredgewidth=2.2, path_effects=HALO)
    axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])


def _extent(table: pd.DataFrame) -> tuple[float, float, float, float]:
    axis = table[table["panel"] == "axis"].set_index("name")["value"]
    return 0.0, float(axis["seconds"]), 0.0, float(axis["bands"])


def _draw_spectrogram(axes: Axes, table: pd.DataFrame, label: str, extent: tuple[float, ...]) -> None:
    power = matrix(table[table["panel"] == "spectrogram"], "f", "t", "the spectrogram")  # (bands, frames)
    axes.imshow(power, cmap="magma", extent=extent, origin="lower", aspect="auto", interpolation="nearest")
    for other in table.loc[table["panel"] == "event", "name"].unique():
        _draw_boxes(axes, table, other, "white" if other == label else "#6FC2F0")
    for event in table[table["panel"] == "event"].itertuples():
        words, outline = event.name.replace("_", " "), [effects.withStroke(linewidth=2.2, foreground="black")]
        x, y = min(event.start + 0.1, extent[1] * 0.8), min(event.high + 0.6, extent[3] - 3)
        own = {"color": "white", "weight": "bold"} if event.name == label else {"color": "#A9DBF7"}
        axes.text(x, y, words, size=6.5, va="bottom", path_effects=outline, **own)
    hertz = table[table["panel"] == "hertz"].sort_values("f")["value"].to_numpy(dtype=float)
    ticks = [hz for hz in HZ_TICKS if hertz[0] <= hz <= hertz[-1]]
    axes.set_yticks(np.interp(ticks, hertz, np.arange(len(hertz)) + 0.5), [HZ_TICKS[hz] for hz in ticks])
    axes.set(xlabel="seconds", ylabel="Hz (mel scale)")
    entitle(axes, "spectrogram and true events")


def _draw_boxes(axes: Axes, table: pd.DataFrame, label: str, tint: str) -> None:
    for event in table[(table["panel"] == "event") & (table["name"] == label)].itertuples():
        size = event.end - event.start, event.high - event.low
        box = Rectangle((event.start, event.low), *size, fill=False, edgecolor=tint, linewidth=1.3)
        box.set_path_effects([effects.withStroke(linewidth=2.6, foreground="black")])
        axes.add_patch(box)


# ---- in words ----------------------------------------------------------------------------------------------------


def rule() -> str:
    """Return by which rule two maps are called apart."""
    return (
        "One map is *clearly* better than another if the 95 % interval of the paired difference, averaged over the "
        "encoders that have both and over the datasets, lies above zero; clearly worse, if it lies below. A dataset on "
        "which it is clearly otherwise is named."
    )


def in_words(table: pd.DataFrame) -> list[str]:
    """Return the verdict: a sentence on who finds the events, and one on what frames say about detection."""
    return [_who_finds(table), _which_frames(table)]


def _contrasts(table: pd.DataFrame, measure: str, head: str = "protobin") -> pd.DataFrame:
    """Return the differences of a head to others over all encoders and datasets, by whom it is held against.

    `side` is 1, −1 or 0: clearly above, clearly below, neither; `but` names datasets that are clearly on another side.
    """
    chosen = (table["measure"] == measure) & (table["head"] == head) & table["against"].notna()
    rows = table[chosen & (table["encoder"] == ALL)]
    rows = rows.assign(side=(rows["low"] > 0).astype(int) - (rows["high"] < 0).astype(int))
    means, single = rows[rows["dataset"] == ALL].set_index("against"), rows[rows["dataset"] != ALL]
    but = {}
    for name, mean in means.iterrows():
        others = single[(single["against"] == name) & ~single["side"].isin([0, mean["side"]])]
        but[name] = "".join(f", but {_points(row)} on {_title(row['dataset'])}" for _, row in others.iterrows())
    return means.assign(but=pd.Series(but, dtype=str))


def _who_finds(table: pd.DataFrame) -> str:
    values, contrasts = overall(table, "pointing").set_index("head"), _contrasts(table, "pointing")
    if "protobin" not in values.index or contrasts.empty:
        return "Whether prototypes find the events was not measured: this profile lacks the heads."
    clauses = []
    for side, words in ((1, "clearly better than"), (-1, "clearly worse than"), (0, "not clearly apart from")):
        chosen = contrasts[(contrasts["side"] == side) & (contrasts.index != "random")]
        named = [f"{IN_WORDS[name]} {_points(row)}{row['but']}" for name, row in chosen.iterrows()]
        if named:
            clauses.append(f"{words} {' and '.join(filter(None, [', '.join(named[:-1]), named[-1]]))}")
    blind = overall(table, "pointing_any").set_index("head")["value"]
    other = f", proto's in {values.loc['proto', 'value']:.1f} %" if "proto" in values.index else ""
    return (
        f"The peak of protobin's evidence lies in an event of its class, in time and band, in "
        f"{_level(values, 'protobin')} of the pairs{other}; in points, protobin is {'; '.join(clauses)} (in an event "
        f"of *any* class it lies in {blind['protobin']:.1f} % of the pairs, the peak of "
        f"{IN_WORDS['rise']} in {blind['rise']:.1f} %)."
    )


def _which_frames(table: pd.DataFrame) -> str:
    values, contrasts = overall(table, "frame_map").set_index("head"), _contrasts(table, "frame_map")
    own = f"protobin{REPEATED}"
    if own not in contrasts.index or TRUE_TAGS not in contrasts.index:
        return "What single frames say was not measured: this profile lacks the heads."
    when = _judged(
        contrasts.loc[own],
        "so the map says when, not only what",
        "so whether the map says when cannot be told",
        "so a frame alone loses more than knowing when gains",
    )
    tags = _judged(contrasts.loc[TRUE_TAGS], "more than", "not clearly apart from", "less than")
    step = _judged(
        contrasts.loc[TRUE_TAGS],
        "a step towards detection that needs no labels in time",
        "at most a first step towards detection",
        "for detection the map alone is not enough",
    )
    if contrasts.loc[TRUE_TAGS, "but"]:
        step = "how far this leads towards detection depends on the data"
    points = {name: _points(row) + row["but"] for name, row in contrasts.iterrows()}
    others = [
        f"to {words} {points[name]}"
        for name, words in (("proto", "proto"), ("mhca", "mhca's contributions"))
        if name in contrasts.index
    ]
    against = f"; the difference {' and '.join(others)}" if others else ""
    return (
        f"Frame by frame (0.32 s, max over frequency alone) protobin reaches a mAP of "
        f"{_level(values, 'protobin')}{against}; against its own clip score, repeated in every frame, that is "
        f"{points[own]}, {when}, and it is {tags} what the true tags of each clip would reach, "
        f"repeated in all its frames ({points[TRUE_TAGS]}): {step}."
    )


def _judged(row: pd.Series, above: str, between: str, below: str) -> str:
    return {1: above, 0: between, -1: below}[row["side"]]


def _level(values: pd.DataFrame, head: str) -> str:
    row = values.loc[head]
    return f"{row['value']:.1f} % ({row['low']:.1f} to {row['high']:.1f}; chance {row['chance']:.1f} %)"


def _points(row: pd.Series) -> str:
    return f"{row['value']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})".replace("-", "−")


def contrasts_markdown(table: pd.DataFrame, measure: str) -> str:
    """Return the differences of a measure as Markdown: the mean, and in how many configurations it is clear."""
    lines = ["| | against | points | clearly better | clearly worse |", "|---|---|---|---|---|"]
    for head in ("protobin", "proto", "mhca"):
        for name, row in _contrasts(table, measure, head).iterrows():
            chosen = (table["measure"] == measure) & (table["head"] == head) & (table["against"] == name)
            each = table[chosen & (table["dataset"] != ALL) & (table["encoder"] != ALL)]
            clear, against = (each["low"] > 0).sum(), (each["high"] < 0).sum()
            called = (IN_FRAMES if measure == "frame_map" else IN_WORDS).get(name, name)
            lines.append(f"| {head} | {called} | {_points(row)} | {clear} of {len(each)} | {against} of {len(each)} |")
    return "\n".join(lines)


def covers(table: pd.DataFrame) -> str:
    """Say which encoders and datasets a table covers, and what cannot be asked of some encoders."""
    single = table[(table["encoder"] != ALL) & table["against"].isna()]
    encoders = list(dict.fromkeys(single["encoder"]))
    with_cls, with_bands = (
        set(single.loc[single[column] == name, "encoder"])
        for column, name in (("head", "cls attention"), ("measure", "pointing"))
    )
    lacking = {"have no [cls]": with_cls, "have tokens that span all bands and are asked in time alone": with_bands}
    words = [f"Encoders: {_labels(encoders)}. Datasets: {', '.join(map(_title, datasets_of(table)))}."]
    for what, having in lacking.items():
        without = [name for name in encoders if name not in having]
        if without:
            words.append(f"Of the encoders, these {what}: {_labels(without)}.")
    return " ".join(words)


def _labels(encoders: Sequence[str]) -> str:
    return ", ".join(ENCODERS[name].label for name in encoders)
