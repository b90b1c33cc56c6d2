"""The figures that are maps: what an encoder hands over (1), and what protobin learned (4).

See `lib.figures` for how they are called, and for the columns of their tables.
"""

import matplotlib.patheffects as effects
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Rectangle

from lib.errors import InputError
from lib.figures_style import INK, ORANGE, SIGNS, say, sheet

HALO = [effects.withStroke(linewidth=2, foreground="black")]
HZ_TICKS = {125: "125", 250: "250", 500: "500", 1000: "1k", 2000: "2k", 4000: "4k", 8000: "8k"}
AROUND_ZERO = LinearSegmentedColormap.from_list("around zero", ["#E07B1F", "#FBFBFB", "#0B2E59"])  # + darker in grey


def matrix(table: pd.DataFrame, row: str, column: str, what: str) -> np.ndarray:
    """Return the ``value`` column of a tidy table as a matrix (rows by `row`, columns by `column`, ascending)."""
    if table.duplicated([row, column]).any():
        raise InputError(f"The figure's table gives the same cell of {what} twice; each pair ({row}, {column}) once.")
    cells = table.pivot(index=row, columns=column, values="value").sort_index().sort_index(axis=1)
    if cells.isna().any(axis=None) or cells.empty:
        raise InputError(f"The figure's table lacks cells of {what}; every pair ({row}, {column}) needs a value.")
    return cells.to_numpy(dtype=float)


# ---- figure 1: the pooling bottleneck -------------------------------------------------------------------------


def draw_bottleneck(table: pd.DataFrame) -> Figure:
    """Figure 1: one clip; its token map, cls attention and protobin's evidence, base above supervised⁺."""
    rows = [row for row in ("base", "supervised") if (table["row"] == row).any()]
    whole = {row: _words(table[table["row"] == row], None) for row in rows}  # words for a whole row
    heights = [0.42 if whole[row] else 1.0 for row in rows]
    told = (
        "boxes show where the sounds truly are."
        if (table["panel"] == "event").any()
        else "when sounds are heard, nobody noted."
    )
    figure = sheet(
        table,
        (10.5, 0.5 + 2.15 * sum(heights)),
        "Where is the information? One clip as a frozen encoder hands it over",
        f"All maps span the time and the frequencies of the spectrogram; {told} (a) The "
        "three main components as red, green, blue. (b) Black is none, bright is the most in this layer. (c, d) What "
        "speaks for a class, as a trained protobin sees it: dark is the least in this map, bright the most.",
    )
    outer = figure.add_gridspec(len(rows), 2, width_ratios=[2.7, 7.6], height_ratios=heights)
    scene = table[table["panel"].isin(["spectrogram", "event", "axis"])].drop_duplicates(
        ["panel", "name", "t", "f", "start_s", "end_s"]
    )
    seconds, centres = _axis(scene)
    boxes = _boxes(scene, centres)
    extent = (0.0, seconds, 0.0, float(len(centres)))
    _draw_scene(figure.add_subplot(outer[:, 0]), scene, boxes, extent, centres)
    for i, row in enumerate(rows):
        part = table[table["row"] == row]
        if whole[row]:
            say(figure.add_subplot(outer[i, 1]), whole[row], 90)
        else:
            _draw_row(figure, outer[i, 1], part, boxes, extent, "c" if row == "base" else "d")
    return figure


def _words(part: pd.DataFrame, block: str | None) -> str:
    """Return what is said in place of a block of panels ("pca", "attention", "evidence"), None: of the row."""
    missing = part[part["panel"] == "missing"]
    here = missing["name"].isin(["pca", "attention", "evidence"])
    return " ".join((missing[~here] if block is None else missing[missing["name"] == block])["text"].dropna())


def _axis(scene: pd.DataFrame) -> tuple[float, np.ndarray]:
    """Return the length in seconds and the centre of each mel band in Hz."""
    axis = scene[scene["panel"] == "axis"]
    centres = axis[axis["name"] == "hz"].sort_values("f")["value"].to_numpy(dtype=float)
    seconds = axis.loc[axis["name"] == "seconds", "value"]
    if seconds.empty or not len(centres):
        raise InputError('The table of figure 1 needs "axis" rows: one named "seconds" and one "hz" for each band.')
    return float(seconds.iloc[0]), centres


def _boxes(scene: pd.DataFrame, centres: np.ndarray) -> list[tuple[str, float, float, float, float]]:
    """Return (class, left, bottom, width, height) of every event, in seconds and mel bands."""
    boxes = []
    for event in scene[scene["panel"] == "event"].itertuples():
        low, high = np.interp([event.low_hz, event.high_hz], centres, np.arange(len(centres)) + 0.5)
        low, high = (0.0 if np.isnan(low) else low), (float(len(centres)) if np.isnan(high) else high)  # unknown
        boxes.append((str(event.name), event.start_s, low, event.end_s - event.start_s, high - low))
    return boxes


def _draw_scene(axes: Axes, scene: pd.DataFrame, boxes: list, extent: tuple, centres: np.ndarray) -> None:
    """Draw the spectrogram with a named box round each event."""
    power = matrix(scene[scene["panel"] == "spectrogram"], "f", "t", "the spectrogram")  # (bands, frames)
    axes.imshow(power, cmap="gray_r", extent=extent, origin="lower", aspect="auto", interpolation="nearest")
    colours = _event_colours(boxes)
    taken: list[tuple[float, float]] = []
    for name, left, bottom, width, height in sorted(boxes, key=lambda box: box[1]):
        axes.add_patch(Rectangle((left, bottom), width, height, fill=False, color=colours[name], linewidth=1.6))
        slots = [bottom + height - 2.4, bottom + 2.0, bottom + height / 2, bottom + height + 2, bottom - 2.4]
        x = min(left + 0.12, extent[1] * (1 - 0.036 * len(name)))
        free = [y for y in slots if all(abs(y - v) > 3.6 or abs(x - u) > 3.2 for u, v in taken)]
        y = float(np.clip((free or slots)[0], 1.5, extent[3] - 1.5))
        taken.append((x, y))
        halo = [effects.withStroke(linewidth=2.4, foreground="white")]
        style = {"color": colours[name], "weight": "bold", "size": 7, "va": "center", "path_effects": halo}
        axes.text(x, y, name.replace("_", " "), parse_math=False, **style)
    ticks = [hz for hz in HZ_TICKS if centres[0] <= hz <= centres[-1]]
    axes.set_yticks(np.interp(ticks, centres, np.arange(len(centres)) + 0.5), [HZ_TICKS[hz] for hz in ticks])
    axes.set(xlabel="seconds", ylabel="Hz (mel scale)")
    axes.set_title("Spectrogram and true events" if boxes else "Spectrogram", weight="bold")


def _event_colours(boxes: list) -> dict[str, str]:
    """Return a colour for each class, dark enough for text on white."""
    palette = ("#D55E00", "#0072B2", "#008560", "#B0457F", "#8A6A00", "#2B2B2B")
    return {name: palette[i % len(palette)] for i, name in enumerate(dict.fromkeys(box[0] for box in boxes))}


def _draw_row(figure: Figure, spot: SubplotSpec, part: pd.DataFrame, boxes: list, extent: tuple, letter: str) -> None:
    """Draw token map, attention and evidence of one encoder."""
    panels = {name: part[part["panel"] == name] for name in ("pca", "attention", "evidence")}
    layers = list(dict.fromkeys(panels["attention"]["name"]))
    classes = list(dict.fromkeys(panels["evidence"]["name"]))[:4]
    inner = spot.subgridspec(1, 3, width_ratios=[2.2, 2.2, 3.2])
    label = " ".join(part.loc[part["panel"] == "label", "text"].dropna())
    titles = ("(a) PCA of the token map", "(b) Attention of cls", f"({letter}) Evidence")
    for place, title, (block, rows) in zip(inner, titles, panels.items(), strict=True):
        names = {"pca": ["rgb"], "attention": layers, "evidence": classes}[block]
        columns = 2 if len(names) > 3 else 1
        cells = place.subgridspec(-(-max(len(names), 1) // columns), columns, hspace=0.05, wspace=0.02)
        block_axes = [figure.add_subplot(cell) for cell, _ in zip(cells, names or [""], strict=False)]
        block_axes[0].set_title(title, weight="bold")
        if block == "pca":
            block_axes[0].set_ylabel(label, weight="bold", size=8.5)
        if rows.empty:
            say(block_axes[0], _words(part, block) or "Not recorded for this encoder.", 28)
            continue
        for axes, name in zip(block_axes, names, strict=True):
            picture, style = _picture(block, rows, name)
            axes.imshow(picture, extent=extent, origin="lower", aspect="auto", interpolation="nearest", **style)
            axes.set(xticks=[], yticks=[])
            if block != "pca":
                _name_map(axes, name, extent, boxes if block == "evidence" else [])


def _name_map(axes: Axes, name: str, extent: tuple, boxes: list) -> None:
    """Write a map's name into it, and box the true events of that name."""
    axes.text(0.2, extent[3] * 0.95, name.replace("_", " "), color="white", va="top", path_effects=HALO)
    for event, left, bottom, width, height in boxes:
        if event == name:
            box = Rectangle((left, bottom), width, height, fill=False, color="white", linewidth=1.2)
            box.set_path_effects([effects.withStroke(linewidth=2.6, foreground="black")])
            axes.add_patch(box)


def _picture(block: str, rows: pd.DataFrame, name: str) -> tuple[np.ndarray, dict]:
    """Return an image of the token grid, (S_f, S_t) or (S_f, S_t, 3), and how to show it."""
    if block == "pca":
        channels = [matrix(rows[rows["name"] == c], "f", "t", f"PCA channel {c}") for c in "rgb"]
        return np.clip(np.stack(channels, axis=-1), 0, 1), {}  # (S_f, S_t, 3)
    picture = matrix(rows[rows["name"] == name], "f", "t", f"{block} {name}")  # (S_f, S_t)
    return picture, {"cmap": "magma", "vmin": 0} if block == "attention" else {"cmap": "cividis"}


# ---- figure 4: what a trained protobin looks like ---------------------------------------------------------------


def draw_prototypes(table: pd.DataFrame) -> Figure:
    """Figure 4: a trained protobin's signs, classifier, and prototype cosines before and after training."""
    parts = dict(iter(table.groupby("panel")))
    needed = ("prototypes", "classifier", "cosine_before", "cosine_after", "histogram_before", "histogram_after")
    absent = [name for name in needed if name not in parts]
    if absent:
        raise InputError(f"The table of figure 4 has no rows for {', '.join(absent)}; compute it again.")
    counts = {name: f"{value:,.0f}" for name, value in table.loc[table["panel"] == "count", ["name", "value"]].values}
    figure = sheet(
        table,
        (10.5, 6.2),
        "Inside a trained protobin: signs, weights, and how orthogonal the prototypes are",
        "Random signs are nearly orthogonal before any training; the lower row shows what training makes of them. "
        "Cosine colours stop at the largest off the diagonal.",
    )
    top, bottom = figure.add_gridspec(2, 1, height_ratios=[1, 1.12])
    left, right = (figure.add_subplot(spot) for spot in top.subgridspec(1, 2))
    cells = [figure.add_subplot(spot) for spot in bottom.subgridspec(1, 3, width_ratios=[1, 1, 1.15])]
    signs = matrix(parts["prototypes"], "row", "column", "the prototypes")  # (shown, D)
    style = {"aspect": "auto", "interpolation": "nearest"}
    left.imshow(signs, cmap=ListedColormap(SIGNS), vmin=-1, vmax=1, **style)
    left.set_title(f"Prototypes: {len(signs)} of {counts.get('K', '?')}, dark −1, light +1", weight="bold")
    left.set(xlabel=f"dimension of a token (D = {signs.shape[1]})", ylabel="prototype")
    weights = matrix(parts["classifier"], "row", "column", "the classifier")  # (C, K)
    names = parts["classifier"].drop_duplicates("row").sort_values("row")["name"].astype(str)
    limit = np.quantile(np.abs(weights), 0.998)
    shown = right.imshow(weights, cmap=AROUND_ZERO, vmin=-limit, vmax=limit, **style)
    every = -(-len(names) // 20)  # more names than that would lie on top of each other
    named = [name.replace("_", " ") for name in names][::every]
    right.set_yticks(range(0, len(weights), every), named, size=6.5)
    right.set_ylabel("class" if every == 1 else f"class (one in {every} is named)")
    right.set_title("Classifier W: what each prototype says about each class", weight="bold")
    right.set(xlabel=f"prototype ({weights.shape[1]} of K = {counts.get('K', '?')}, by the class they speak for most)")
    figure.colorbar(shown, ax=right, pad=0.01, aspect=30, label="weight")
    _draw_cosines(figure, cells[:2], parts)
    _draw_histograms(cells[2], parts)
    return figure


def _draw_cosines(figure: Figure, panels: list[Axes], parts: dict[str, pd.DataFrame]) -> None:
    """Draw the cosine of each pair of shown prototypes, before and after, on one scale."""
    cosines = [matrix(parts[f"cosine_{when}"], "row", "column", "the cosines") for when in ("before", "after")]
    apart = [values[~np.eye(len(values), dtype=bool)] for values in cosines]
    limit = max(0.05, *(np.abs(values).max() for values in apart))
    for axes, values, when in zip(panels, cosines, ("before", "after"), strict=True):
        shown = axes.imshow(values, cmap=AROUND_ZERO, vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set_title(f"Cosines {when} training ({len(values)} prototypes)", weight="bold")
        axes.set(xlabel="prototype", ylabel="prototype" if when == "before" else "")
    figure.colorbar(shown, ax=panels, pad=0.01, aspect=30, label="cosine", extend="max")


def _draw_histograms(axes: Axes, parts: dict[str, pd.DataFrame]) -> None:
    """Draw how |cosine| is distributed over all pairs, and where its mean lies for random signs."""
    for when, tint, dashes in (("before", "#8A8A8A", (0, (3, 1.5))), ("after", ORANGE, "solid")):
        bins = parts[f"histogram_{when}"].sort_values("column")
        style = {"linestyle": dashes, "drawstyle": "steps-mid", "linewidth": 1.6}
        axes.plot(bins["column"], bins["value"], color=tint, label=f"{when} training", **style)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.8), frameon=False, labelcolor="linecolor")
    axes.set(ylim=(0, None), xlim=(0, None))
    if "reference" in parts:
        mean = float(parts["reference"]["value"].iloc[0])
        axes.axvline(mean, color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)))
        words = f" √(2/πD) = {mean:.3f}:\n mean for random signs"
        axes.text(mean, axes.get_ylim()[1], words, va="top", size=7.5)
    axes.set_title("All pairs of prototypes", weight="bold")
    axes.set(xlabel="|cosine|", ylabel="density of pairs")
