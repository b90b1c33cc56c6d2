"""How every figure looks: colour is the family of a head, the marker is the head, the margin says what was run.

The palette is Okabe–Ito's (vermilion, sky blue, a darkened blue, near black): safe for colour-blind readers, and its
four lightnesses (L* about 17, 39, 54, 70) stay apart in grey.
"""

import io
import textwrap
from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from lib.errors import InputError, unknown_name
from lib.heads import FAMILIES, HEADS

FAMILY_COLOURS = {"cls": "#2B2B2B", "token map": "#56B4E9", "attentive": "#005F99", "prototype": "#D55E00"}
BLUE, ORANGE = FAMILY_COLOURS["attentive"], FAMILY_COLOURS["prototype"]
SIGNS = ("#2B2B2B", "#F4D9C6")  # of binary prototypes: −1, +1
MARKERS = dict(zip(HEADS, cycle("os^vDPX<>h*d")))  # one a head, in the paper's order; a new head shares one
INK, FAINT = "#2B2B2B", "#6E6E6E"
STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters on every machine
    "font.size": 8.0,
    "text.color": INK,
    "axes.edgecolor": "#9A9A9A",
    "axes.labelcolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "xtick.color": "#9A9A9A",
    "ytick.color": "#9A9A9A",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "pdf.fonttype": 42,  # text stays text
}
TITLE, SUBTITLE, NOTE = 11.5, 8.0, 6.5  # font sizes in points
MARGIN = 8 / 72  # inches


class NotebookFigure(Figure):
    """A figure that a notebook shows as the last value of a cell, without any set-up."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", metadata={"Software": None})
        return picture.getvalue()


def colour(head: str) -> str:
    """Return the colour of a head's family."""
    return FAMILY_COLOURS[FAMILIES[head]]


def ink(head: str) -> tuple[float, ...]:
    """Return the colour of a head's family, darkened until small text on white reads well."""
    return tuple(0.78 * part for part in to_rgb(colour(head)))


def marker(head: str) -> dict:
    """Return how a head's marker is drawn."""
    size = 11.0 if MARKERS[head] == "*" else 7.0  # a star looks smaller than it is
    style = {"marker": MARKERS[head], "markersize": size, "color": colour(head)}
    return style | {"markeredgecolor": "white", "markeredgewidth": 0.7}


def in_order(heads: Iterable[str]) -> list[str]:
    """Return the heads that occur, once each, in the paper's order; an unknown name is an `InputError`."""
    present = set(heads)
    for name in sorted(present - set(HEADS), key=str):
        raise unknown_name("head", name, list(HEADS))
    return [head for head in HEADS if head in present]


def sheet(table: pd.DataFrame, size: tuple[float, float], title: str, subtitle: str = "") -> Figure:
    """Return an empty figure with title and subtitle above and the table's note in the margin below.

    Parameters
    ----------
    table : pandas.DataFrame
        Its ``attrs["note"]`` says profile, number of seeds and what the error bars are.
    size : tuple of float
        Width, and height of the part between subtitle and note, in inches.
    title, subtitle : str
        Plain words; long ones are wrapped.

    Raises
    ------
    InputError
        If the table has no note.
    """
    note = str(table.attrs.get("note") or "")
    if not note:
        raise InputError(
            'The figure\'s table has no note; set table.attrs["note"] to profile, number of seeds and error bars.'
        )
    width, body = size
    title, title_height = _paragraph(title, TITLE, width)
    subtitle, subtitle_height = _paragraph(subtitle, SUBTITLE, width)
    note, note_height = _paragraph(note, NOTE, width)
    above, below = title_height + subtitle_height + MARGIN, note_height + 1.5 * MARGIN
    height = body + above + below
    figure = NotebookFigure(figsize=(width, height), dpi=100)
    figure.set_layout_engine("constrained", rect=(0, below / height, 1, body / height), w_pad=0.06, h_pad=0.05)
    left, top = MARGIN / width, 1 - MARGIN / height
    figure.text(left, top, title, size=TITLE, weight="bold", va="top", parse_math=False)
    figure.text(left, top - title_height / height, subtitle, size=SUBTITLE, color=FAINT, va="top", parse_math=False)
    figure.text(left, MARGIN / height, note, size=NOTE, color="#777777", va="bottom", parse_math=False)
    return figure


def _paragraph(text: str, size: float, width: float) -> tuple[str, float]:
    """Wrap text of `size` points to `width` inches; return it with its height in inches."""
    em = 0.68 if size == TITLE else 0.55  # what a letter of DejaVu Sans needs at most, bold or not
    letters = int((width - 2 * MARGIN) * 72 / (em * size))
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, letters)]
    return "\n".join(lines), len(lines) * size * 1.45 / 72


def say(axes: Axes, text: str, letters: int = 60) -> None:
    """Turn axes into an empty panel that says in words why it is empty."""
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1), facecolor="#F6F6F6")
    for spine in axes.spines.values():
        spine.set(visible=True, linestyle=(0, (4, 3)), color="#B5B5B5")
    words = textwrap.fill(text, letters)
    axes.text(0.5, 0.5, words, ha="center", va="center", color=FAINT, style="italic", parse_math=False)


def missing_words(table: pd.DataFrame) -> str:
    """Return what the rows of kind "missing" say, or an empty string."""
    return " ".join(table.loc[table["kind"] == "missing", "text"].dropna().unique())


def spread(values: Sequence[float], gap: float) -> np.ndarray:
    """Move positions apart until neighbours are `gap` from each other, with the least squared movement."""
    values = np.asarray(values, dtype=float)
    order, steps = np.argsort(values, kind="stable"), gap * np.arange(len(values))
    moved = np.empty(len(values))
    moved[order] = isotonic_regression(values[order] - steps).x + steps
    return moved
