"""Figure 3: the method, drawn by code. Shapes come from the table; patterns in the tiles are drawn, and said to be.

See `lib.figures` for how it is called.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from lib.errors import InputError
from lib.figures_style import BLUE, FAINT, FAMILY_COLOURS, INK, ORANGE, SIGNS, sheet


def draw_method(table: pd.DataFrame) -> Figure:
    """Figure 3: token map, binarised prototypes, similarity maps, max and linear, with the shapes of a real run."""
    size = dict(zip(table["name"], table["value"], strict=True))
    absent = [name for name in ("S_t", "S_f", "D", "J", "C", "K") if pd.isna(size.get(name))]
    if absent:
        raise InputError(f"The table of figure 3 lacks a row for {', '.join(absent)}; it needs S_t, S_f, D, J, C, K.")
    size = {name: f"{value:,.0f}" for name, value in size.items() if pd.notna(value)}
    figure = sheet(
        table,
        (10.5, 3.75),
        "The method: binarised prototypes, each free to find its own patch",
        "The shapes are those of this run; the patterns in the tiles are drawn for illustration.",
    )
    axes = figure.add_subplot()
    axes.set(xlim=(0, 112), ylim=(0, 39), aspect="equal")
    axes.axis("off")
    rng = np.random.default_rng(3)
    _draw_inputs(axes, size, rng)
    _draw_matching(axes, size, rng)
    _draw_readout(axes, size, rng)
    return figure


def _tiles(axes: Axes, corner: tuple[float, float], cells: np.ndarray, side: tuple[float, float]) -> None:
    """Draw a matrix of colours as tiles down from the upper left `corner`; `side` is a tile's width and height."""
    left, top = corner
    tiles = [Rectangle((left + j * side[0], top - (i + 1) * side[1]), *side) for i, j in np.ndindex(cells.shape)]
    axes.add_collection(PatchCollection(tiles, facecolor=list(cells.flat), edgecolor="white", linewidth=0.6))


def _tint(values: np.ndarray, full: str) -> np.ndarray:
    """Return colours from white (0) to `full` (1), one a cell."""
    rgb = 1 - np.asarray(values)[..., None] * (1 - np.array(to_rgb(full)))  # (rows, columns, 3)
    cells = np.empty(np.shape(values), dtype=object)
    for cell in np.ndindex(cells.shape):
        cells[cell] = tuple(rgb[cell])
    return cells


def _signs(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return a schematic pattern of −1 (dark) and +1 (light)."""
    return np.where(rng.random((rows, columns)) < 0.5, *SIGNS).astype(object)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": FAINT, "linewidth": 1.2, "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


def _step(axes: Axes, x: float, y: float, title: str, plain: str, formal: str) -> None:
    """Write a step's name, what it does in plain words, and its equation and shape, centred at x, below y."""
    axes.text(x, y, title, ha="center", va="top", weight="bold", size=8.5)
    axes.text(x, y - 2.0, plain, ha="center", va="top", size=7, color=FAINT, style="italic")
    axes.text(x, y - 4.0, formal, ha="center", va="top", size=7.5, linespacing=1.45)


def _draw_inputs(axes: Axes, size: dict, rng: np.random.Generator) -> None:
    """Draw the frozen encoder, its token map and the prototypes."""
    box = {"boxstyle": "round,pad=0,rounding_size=1", "facecolor": "#ECECEC", "edgecolor": "#B5B5B5"}
    axes.add_patch(FancyBboxPatch((0.6, 24.5), 8.4, 11, **box))
    heard = f"{size['frames']} frames\n{size['mel']} mel bands" if {"frames", "mel"} <= size.keys() else ""
    axes.text(4.8, 31.6, "frozen\nencoder", ha="center", va="center", weight="bold")
    axes.text(4.8, 27.4, heard, ha="center", va="center", size=6.5, color=FAINT)
    _arrow(axes, (9.4, 30), (12.6, 30))
    left, bottom, wide, high, deep = 15.4, 25.6, 12.4, 9.0, 3.0
    far, up = left + wide, bottom + high
    lid = [(left, up), (left + deep, up + deep), (far + deep, up + deep), (far, up)]
    flank = [(far, bottom), (far + deep, bottom + deep), (far + deep, up + deep), (far, up)]
    axes.add_patch(Polygon(lid, facecolor="#CFE4F2", edgecolor="white"))
    axes.add_patch(Polygon(flank, facecolor="#9FC6E0", edgecolor="white"))
    shades = _tint(0.25 + 0.5 * rng.random((6, 8)), FAMILY_COLOURS["token map"])  # 6 × 8 tiles stand for the grid
    shades[2, 5] = BLUE
    _tiles(axes, (left, up), shades, (wide / 8, high / 6))
    axis = {"size": 6.5, "color": FAINT}
    axes.text(left + wide / 2, bottom - 0.4, "time →", ha="center", va="top", **axis)
    axes.text(left - 0.4, bottom + high / 2, "frequency →", ha="right", va="center", rotation=90, **axis)
    words = f"$S_t \\times S_f \\times D$ = {size['S_t']} × {size['S_f']} × {size['D']}"
    _step(axes, 22.6, 23.6, "1  Token map $z$", "one vector for each patch", words)
    _tiles(axes, (15.4, 15.8), _signs(rng, 6, 16), (0.96, 1.1))
    words = "$p_k$ = sign($\\tilde{p}_k$) ∈ {−1, +1}$^D$   Eq. (2)\n"
    words += f"$K \\times D$ = {size['K']} × {size['D']},  $K = J\\,C$ = {size['J']} · {size['C']}"
    _step(axes, 22.6, 8.0, "2  Binarised prototypes", "learned as floats, used as signs", words)


def _draw_matching(axes: Axes, size: dict, rng: np.random.Generator) -> None:
    """Draw the cosine between every prototype and every token, and the maps that it gives."""
    box = {"boxstyle": "round,pad=0,rounding_size=1", "facecolor": "white", "edgecolor": ORANGE, "linewidth": 1.6}
    axes.add_patch(FancyBboxPatch((38, 17.6), 13.6, 9.6, **box))
    _tiles(axes, (41.4, 25.9), _tint(0.15 + 0.85 * rng.random((1, 8)), BLUE), (1.15, 1.3))
    _tiles(axes, (41.4, 20.4), _signs(rng, 1, 8), (1.15, 1.3))
    axes.text(40.9, 25.2, "$z_{t,f}$", ha="right", va="center", size=7.5)
    axes.text(40.9, 19.7, "$p_k$", ha="right", va="center", size=7.5)
    axes.text(44.8, 22.4, "cosine", ha="center", va="center", weight="bold", color=ORANGE, size=9)
    axes.text(
        44.8, 16.8, "every prototype\nwith every token", ha="center", va="top", size=7, color=FAINT, style="italic"
    )
    _arrow(axes, (31.6, 29.6), (37.4, 25.4))
    _arrow(axes, (31.6, 11.8), (37.4, 19.0))
    _arrow(axes, (52.2, 22.4), (55.2, 22.4))
    rows, columns = np.mgrid[0:6, 0:8]
    for depth, peak in ((3, (1, 6)), (2, (3, 1)), (1, (0, 3)), (0, (2, 5))):
        near = np.exp(-((rows - peak[0]) ** 2 + (columns - peak[1]) ** 2) / 3.0)
        cells = _tint(0.08 + 0.72 * near + 0.1 * rng.random((6, 8)), ORANGE)
        x, y = 56.2 + 1.6 * depth, 26.0 + 1.6 * depth
        axes.add_patch(
            Rectangle((x - 0.35, y - 9.35), 12.7, 9.7, facecolor="white", edgecolor="#D0D0D0", linewidth=0.6)
        )
        _tiles(axes, (x, y), cells, (1.5, 1.5))
    best = (x + 1.5 * peak[1], y - 1.5 * (peak[0] + 1))
    axes.add_patch(Rectangle(best, 1.5, 1.5, fill=False, edgecolor=INK, linewidth=1.8))
    words = "$s_k(t,f)$ = cos($p_k$, $z_{t,f}$)   Eq. (3)\n"
    words += f"$K \\times S_t \\times S_f$ = {size['K']} × {size['S_t']} × {size['S_f']}"
    _step(axes, 64.6, 13.6, "3  Similarity maps", "where does each prototype fit?", words)


def _draw_readout(axes: Axes, size: dict, rng: np.random.Generator) -> None:
    """Draw max, the vector of best matches, the linear layer and the logits."""
    _arrow(axes, (74.4, 22.4), (79.4, 22.4))
    axes.text(76.8, 23.2, "max", ha="center", va="bottom", weight="bold", color=ORANGE, size=9)
    best = _tint(0.15 + 0.7 * rng.random((12, 1)), ORANGE)
    best[0, 0] = _tint(np.array([[0.85]]), ORANGE)[0, 0]
    _tiles(axes, (80.4, 30.2), best, (1.6, 1.3))
    axes.add_patch(Rectangle((80.4, 28.9), 1.6, 1.3, fill=False, edgecolor=INK, linewidth=1.8))
    words = f"$\\bar{{s}}_k$ = max$_{{t,f}}$ $s_k(t,f)$\n$K$ = {size['K']},  Eq. (3)"
    _step(axes, 81.6, 13.6, "4  Best matches", "one patch is enough", words)
    _arrow(axes, (82.8, 22.4), (86.2, 22.4))
    _tiles(axes, (87.2, 26.3), _tint(0.1 + 0.9 * rng.random((6, 12)) ** 3, BLUE), (1.05, 1.3))
    words = f"logits = $W\\bar{{s}} + b$\n$C \\times K$ = {size['C']} × {size['K']}"
    _step(axes, 98.6, 13.6, "5  Linear layer $W$", "which class does each speak for?", words)
    _arrow(axes, (100.4, 22.4), (103.6, 22.4))
    for k, length in enumerate((2.4, 0.7, 5.4, 1.2, 0.5, 3.6)):
        axes.add_patch(Rectangle((104.6, 25.2 - 1.3 * k), length, 0.95, facecolor=BLUE if length > 2 else "#B9CBD8"))
    axes.text(104.6, 27.0, f"{size['C']} logits", va="bottom", size=7.5)
