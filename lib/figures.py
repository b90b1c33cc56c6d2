"""One draw function a figure: a tidy table in, a figure out. The tables travel as small CSV files.

All means, gains and intervals are in percent or percentage points. What a figure cannot show yet is a row of kind
"missing", whose `text` is printed in the empty place. The columns of each table are in `COLUMNS`; more are allowed.
`lib.figures_maps` draws 1 and 4, `lib.figures_method` 3, `lib.figures_charts` the rest; `lib.figures_style` says how
all of them look.
"""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure

from lib import figures_charts, figures_maps, figures_method
from lib.errors import InputError
from lib.figures_style import STYLE
from lib.files import atomic, write_text
from lib.paths import FIGURES, figure_root

PNG_DPI = 160
COLUMNS: dict[int, tuple[str, ...]] = {
    1: ("row", "panel", "name", "t", "f", "value", "start_s", "end_s", "low_hz", "high_hz", "text"),
    2: ("head", "mean", "sd", "low", "high", "n_seeds", "kind", "text", "dataset_label", "encoder_label"),
    3: ("name", "value"),
    4: ("panel", "row", "column", "value", "name"),
    5: ("group", "row_head", "column_head", "wins", "configurations", "kind", "text"),
    6: ("encoder", "encoder_label", "head", "mean", "sd", "rank", "n_datasets", "year"),
    7: ("encoder", "encoder_label", "head", "gain", "sd", "n"),
    8: ("group", "head", "variant", "wins", "rank", "kind", "text"),
}
KEYS: dict[int, list[str]] = {  # one row for each combination
    2: ["kind", "head"],
    5: ["group", "row_head", "column_head"],
    6: ["encoder", "head"],
    7: ["encoder", "head"],
    8: ["group", "head", "variant"],
}

# ---- tables --------------------------------------------------------------------------------------------------


def write_table(path: Path, table: pd.DataFrame, note: str) -> None:
    """Write a figure's table as CSV, whole or not at all; the same table gives the same bytes.

    Parameters
    ----------
    path : Path
        The file.
    table : pandas.DataFrame
        Tidy; the index is not written. Floats are rounded to 6 significant digits, NaN is an empty cell.
    note : str
        Profile, number of seeds, what the error bars are. Becomes the first line, after ``#``.
    """
    floats = table.select_dtypes("floating").columns
    table = table.assign(**{name: table[name] + 0.0 for name in floats})  # −0 becomes 0
    rows = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_text(path, f"# {' '.join(note.split())}\n{rows}")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that `write_table` wrote; its note is in ``attrs["note"]``.

    Raises
    ------
    InputError
        If the file is missing, unreadable, without note, without columns or without rows.
    """
    if not path.is_file():
        raise InputError(f"There is no figure table '{path}'; `make figures` computes it.")
    try:
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
        if not first.startswith("# "):
            raise InputError(f"'{path}' does not start with '# ' and a note; delete it and run `make figures`.")
        table = pd.read_csv(io.StringIO(rest), keep_default_na=False, na_values=[""])
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"'{path}' is not a figure table ({error}); delete it and run `make figures`.") from error
    if table.empty:
        raise InputError(f"The figure table '{path}' has no rows; delete it and run `make figures`.")
    table.attrs["note"] = first.removeprefix("# ")
    return table


def last_table(folder: str, name: str) -> pd.DataFrame | None:
    """Return ``<folder>/<name>.csv`` as this machine wrote it, or else the committed one, or None if there is none."""
    places = [root / folder / f"{name}.csv" for root in (figure_root(), FIGURES)]
    path = next(filter(Path.is_file, places), None)
    return None if path is None else read_table(path)


# ---- draw and save -------------------------------------------------------------------------------------------


def draw_figure(number: int, table: pd.DataFrame) -> Figure:
    """Draw a figure from its table and nothing else.

    Parameters
    ----------
    number : int
        1 to 8, as in the paper.
    table : pandas.DataFrame
        The columns of ``COLUMNS[number]``, and a note in ``attrs["note"]``, which is written into the margin.

    Returns
    -------
    matplotlib.figure.Figure
        With its layout settled, tied to no window and to no pyplot state.

    Raises
    ------
    InputError
        If there is no such figure, or the table lacks columns, rows or a note, or repeats a row.
    """
    if number not in DRAW:
        raise InputError(f"There is no figure {number}; choose one of: {', '.join(map(str, DRAW))}.")
    _check(number, table)
    with matplotlib.style.context(["default", STYLE]):
        figure = DRAW[number](table)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # PNG, PDF and notebook show one layout, found once
        for axes in figure.axes:  # the layout's solver adds in an order of its own, and rounds by it in the ninth digit
            axes.set_position([round(number, 6) for number in axes.get_position(original=True).bounds])
    return figure


def _check(number: int, table: pd.DataFrame) -> None:
    """Refuse a table without the figure's columns, without rows, or with two rows for one thing."""
    absent = [name for name in COLUMNS[number] if name not in table.columns]
    if absent:
        raise InputError(
            f"The table of figure {number} lacks the column{'s' * (len(absent) > 1)} {', '.join(absent)}; it has "
            f"{', '.join(map(str, table.columns)) or 'none'}."
        )
    if table.empty:
        raise InputError(f"The table of figure {number} has no rows; `make figures` computes it.")
    keys = KEYS.get(number, [])
    rows = table[table["kind"] != "missing"] if "kind" in COLUMNS[number] else table
    if keys and rows.duplicated(keys).any():
        twice = rows.loc[rows.duplicated(keys), keys].iloc[0]
        names = ", ".join(str(name) for name in twice)
        raise InputError(f"The table of figure {number} has two rows for {names}; one is expected.")


def save_figure(figure: Figure, path_without_suffix: Path) -> None:
    """Write a figure as PNG and PDF, both whole or neither; the same figure gives the same bytes.

    Raises
    ------
    InputError
        If the disk is full or the folder cannot be written.
    """
    png, pdf = (path_without_suffix.with_name(f"{path_without_suffix.name}.{kind}") for kind in ("png", "pdf"))
    undated = {"Creator": None, "Producer": None, "CreationDate": None}
    with matplotlib.style.context(["default", STYLE]), atomic(png) as png_part, atomic(pdf) as pdf_part:
        figure.savefig(png_part, format="png", dpi=PNG_DPI, metadata={"Software": None})
        figure.savefig(pdf_part, format="pdf", metadata=undated)


DRAW: dict[int, Callable[[pd.DataFrame], Figure]] = {
    1: figures_maps.draw_bottleneck,
    2: figures_charts.draw_bars,
    3: figures_method.draw_method,
    4: figures_maps.draw_prototypes,
    5: figures_charts.draw_wins,
    6: figures_charts.draw_ranking,
    7: figures_charts.draw_gains,
    8: figures_charts.draw_supervised,
}
