"""The page of notebook 11: pictures, small tables and sentences, all from the CSV files of `lib.bench`.

Colour and marker are the head's; a filled mark is the engine as it runs by default, a hollow one something else.
"""

from collections.abc import Iterator

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from lib.figures import last_table
from lib.figures_style import FAINT, INK, STYLE, colour, in_order, marker, say
from lib.plots import entitle, new_figure
from lib.profiles import PROFILES

SWEEPS = {  # what varies → what its axis says
    "clips": "clips in an epoch",
    "tokens": "tokens of a clip, N",
    "prototypes": "prototypes per class, J",
    "configurations": "configurations, R",
}
READS = {"bytes": "the bytes alone", "checksum": "bytes and SHA-256", "store": "as the store: SHA-256, then tensors"}
LEAST_MB = 0.1  # the left end of the memory axis
CACHES = {"warm": "still in memory (page cache)", "dropped": "after the system was asked to forget them"}


def measured(name: str) -> pd.DataFrame:
    """Return a table of the benchmark: this machine's, or else the committed one, or an empty one where there is none.

    Parameters
    ----------
    name : {"bench", "cost", "memory", "store", "gpu"}
        ``attrs["note"]`` of the result names the machine.
    """
    found = last_table("bench", name)
    return pd.DataFrame() if found is None else found


def machine_of(table: pd.DataFrame) -> str:
    """Return what a table says of its machine and of how it was measured."""
    return table.attrs.get("note") or "Not measured yet: `make bench` does it."


# ---- pictures ----------------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def plot_ratios(table: pd.DataFrame) -> Figure:
    """Show how many times as fast as the textbook loop the engine is, a row a head, a panel a shape."""
    if table.empty:
        return _not_yet()
    parts = _by_shape(table)
    figure, panels = new_figure(len(parts), (2.9 * len(parts) + 1.2, 1.2 + 0.28 * table["head"].nunique()), sharey=True)
    for axes, (shape, part) in zip(panels, parts, strict=True):
        for y, head, rows in _rows_of_heads(axes, part):
            for number, row in enumerate(rows.itertuples(), start=1):
                face = filled(head) if number == len(rows) else hollow(head)
                axes.plot([row.ratio_low, row.ratio_high], [y, y], color=colour(head), linewidth=1.2, alpha=0.6)
                axes.plot(row.reference_ratio, y, marker="|", color=FAINT, markersize=8)
                axes.plot(row.ratio, y, linestyle="", **face)
                if pd.notna(row.goal):
                    axes.plot([row.goal] * 2, [y - 0.4, y + 0.4], color=INK, linewidth=0.9, linestyle=(0, (2, 1)))
            last = rows["ratio"].iloc[-1]
            axes.annotate(f"{last:.1f}", (last, y), (0, 4.5), textcoords="offset points", size=6.5, ha="center")
        axes.axvline(1, color=INK, linewidth=0.8)
        _log_axis(axes)
        entitle(axes, shape)
    figure.supxlabel("times as fast as the textbook loop (line: range of the passes)", fontsize=8)
    handles = [
        Line2D([], [], linestyle="", color=INK, marker="o", label="engine, by default"),
        Line2D([], [], linestyle="", color=INK, marker="o", markerfacecolor="white", label="engine, float32 alone"),
        Line2D([], [], linestyle="", color=FAINT, marker="|", markersize=8, label="the same against lib.train"),
        Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (2, 1)), label="promised"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=7.5)
    return figure


@matplotlib.rc_context(STYLE)
def plot_shares(table: pd.DataFrame) -> Figure:
    """Show which share of the machine's own matrix-product rate the engine makes use of, by head and shape."""
    if table.empty:
        return _not_yet()
    parts = _by_shape(table)
    size = (2.8 * len(parts) + 1, 0.9 + 0.24 * table["head"].nunique())
    figure, panels = new_figure(len(parts), size, sharex=True, sharey=True)
    for axes, (shape, part) in zip(panels, parts, strict=True):
        for y, head, rows in _rows_of_heads(axes, part):
            share = 100 * rows["gemm_share"].iloc[-1]
            axes.barh(y, share, color=colour(head), height=0.6)
            axes.annotate(f" {share:.2g} %" if share < 10 else f" {share:.0f} %", (share, y), size=6.5, va="center")
        axes.set_xlim(0, max(100, 115 * table["gemm_share"].max()))
        axes.grid(True, axis="x")
        axes.set_xlabel("necessary products, % of the measured rate")
        entitle(axes, shape)
    return figure


@matplotlib.rc_context(STYLE)
def plot_cost(table: pd.DataFrame) -> Figure:
    """Show the seconds of an epoch against clips, tokens, prototypes and configurations, one panel each."""
    if table.empty:
        return _not_yet()
    figure, panels = new_figure(len(SWEEPS), (9.6, 2.6), sharey=True)
    for axes, (varied, label) in zip(panels, SWEEPS.items(), strict=True):
        for head, part in table[table["varied"] == varied].groupby("head", sort=False):
            axes.plot(part["value"], part["plain_s"], linestyle=":", **hollow(head))
            axes.plot(part["value"], part["engine_s"], linestyle="-", **filled(head))
        axes.set(xscale="log", yscale="log", xlabel=label)
        values = sorted(set(table.loc[table["varied"] == varied, "value"]))
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        axes.grid(True)
    panels[0].set_ylabel("seconds of an epoch")
    heads = in_order(table["head"])
    handles = [Line2D([], [], label=f"{head}, engine", **filled(head)) for head in heads]
    handles += [Line2D([], [], linestyle=":", color=INK, label="the textbook loop (hollow)")]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=7.5)
    return figure


@matplotlib.rc_context(STYLE)
def plot_memory(table: pd.DataFrame) -> Figure:
    """Show the peak memory of both loops beside the tokens, a row a head."""
    if table.empty:
        return _not_yet()
    figure, (axes,) = new_figure(size=(5.6, 0.9 + 0.26 * len(table)))
    for y, head, rows in _rows_of_heads(axes, table):
        ends = [max(rows[f"{loop}_mb"].iloc[0], LEAST_MB) for loop in ("plain", "engine")]
        axes.plot(ends, [y, y], color=colour(head), linewidth=1.0, alpha=0.6)
        for end, face in zip(ends, (hollow(head), filled(head)), strict=True):
            axes.plot(end, y, linestyle="", **face)
    axes.axvline(table["tokens_mb"].iloc[0], color=FAINT, linewidth=0.9, linestyle=":")
    _log_axis(axes)
    runs = table["configurations"].iloc[0]
    axes.set_xlabel(f"MB; filled: engine, {runs} configurations; hollow: textbook loop, one; dotted: the clips' tokens")
    return figure


def filled(head: str) -> dict:
    """Return how a head's mark is drawn where it stands for the engine as it runs by default."""
    face = marker(head)
    return face | {"markersize": 0.75 * face["markersize"], "markeredgecolor": colour(head)}


def hollow(head: str) -> dict:
    """Return how a head's mark is drawn where it stands for anything else."""
    return filled(head) | {"markerfacecolor": "white", "markeredgewidth": 1.0}


def _not_yet() -> Figure:
    figure, (axes,) = new_figure(size=(7.2, 1.2))
    say(axes, "Not measured yet: `make bench` does it, and this picture waits for its table.", 80)
    return figure


def _by_shape(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return list(table.groupby("shape", sort=False))


def _rows_of_heads(axes: Axes, table: pd.DataFrame) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """Name the rows of axes by heads, in the paper's order from the top, and yield height, head and its rows."""
    heads = in_order(table["head"])[::-1]
    axes.set_yticks(range(len(heads)), heads)
    axes.set_ylim(-0.6, len(heads) - 0.2)
    for y, head in enumerate(heads):
        yield y, head, table[table["head"] == head]


def _log_axis(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, with numbers that people read."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(True, axis="x")


# ---- tables and sentences ----------------------------------------------------------------------------------


def promises_page(table: pd.DataFrame) -> pd.DataFrame:
    """Return what was promised of the engine and what was measured, a row a head, shape and kind of products.

    "at most" is what a loop would reach of which nothing but the necessary products is left, at the machine's own rate.
    """
    if table.empty:
        return table
    rows = table[table["goal"].notna()]
    page = rows[["head", "shape", "products"]].copy()
    page["times as fast"] = [
        f"{row.ratio:.1f} ({row.ratio_low:.1f} to {row.ratio_high:.1f})" for row in rows.itertuples()
    ]
    page["promised"] = [f"{goal:g}" for goal in rows["goal"]]
    page["at most"] = [f"{limit:.2g}" if limit < 10 else f"{limit:.0f}" for limit in _most(rows, table)]
    page["kept"] = ["yes" if row.ratio >= row.goal else "no" for row in rows.itertuples()]
    page["passes"] = rows["passes"]
    return page.set_index(["shape", "head"])


def shapes_in_words(table: pd.DataFrame) -> list[str]:
    """Say of each shape how large it is and which configurations are trained at it, from the table and the profiles."""
    if table.empty:
        return [machine_of(table)]
    lines = []
    for shape, part in _by_shape(table):
        row, prototypes = part.iloc[0], part["prototypes"].max()
        words = (
            f"*{shape}*: {row['clips']:,} clips of {row['tokens']} tokens with {row['dim']} numbers each, "
            f"{row['classes']} classes, {prototypes:g} prototypes per class, batches of {row['batch_size']}; "
        )
        if shape in PROFILES:
            profile = PROFILES[shape]
            again = "the best one" if profile.top_k == 1 else f"the best {profile.top_k}"
            words += f"{profile.trials} trials, then {again} with {len(profile.seeds)} seeds (profile `{shape}`)."
        else:
            words += f"{row['configurations']} configurations."
        lines.append(words)
    return lines


def cost_in_words(table: pd.DataFrame) -> str:
    """Say where the sizes of the table "cost" stay while another one varies."""
    if table.empty:
        return machine_of(table)
    still = {name: table.loc[table["varied"] != name, name].iloc[0] for name in SWEEPS}
    sizes = "; ".join(f"{SWEEPS[name]}: {value:g}" for name, value in still.items())
    return f"One size varies at a time, the others stay ({sizes})."


def timed_in_words(table: pd.DataFrame) -> list[str]:
    """Say for each shape what was timed for which heads, and what was scaled."""
    if table.empty:
        return [machine_of(table)]
    return [
        f"*{shape}*, {', '.join(f'`{head}`' for head in in_order(part['head']))}: {timed} "
        f"({'scaled' if part['scaled'].any() else 'whole'}, passes: {part['passes'].min():g})."
        for (shape, timed), part in table.groupby(["shape", "timed"], sort=False)
    ]


def store_page(table: pd.DataFrame) -> pd.DataFrame:
    """Return how fast shards are read, in MB/s, from memory and after the system was asked to forget them."""
    if table.empty:
        return table
    page = table.pivot(index="read", columns="page_cache", values="mb_per_s")
    page = page.loc[[read for read in READS if read in page.index], [cache for cache in CACHES if cache in page]]
    return page.rename(index=READS, columns=CACHES).rename_axis(index="MB/s", columns=None).round()


def gpu_page(table: pd.DataFrame) -> pd.DataFrame:
    """Return what a GPU takes for an epoch of all configurations, a row a head; no rows where none was measured."""
    columns = ("seconds an epoch", "configurations", "times as fast", "share of the measured rate", "GB at most")
    if table.empty:
        return pd.DataFrame(columns=columns)
    page = pd.DataFrame(
        {
            "head": table["head"],
            "seconds an epoch": table["engine_s"].round(1),
            "configurations": table["configurations"],
            "times as fast": table["ratio"].round(1),
            "share of the measured rate": [
                f"{100 * row.gemm_share:.0f} % ({row.products})" for row in table.itertuples()
            ],
            "GB at most": (table["engine_mb"] / 1e3).round(1),
        }
    )
    return page.set_index("head")


def in_words(table: pd.DataFrame) -> list[str]:
    """Say in sentences what the table of heads shows."""
    if table.empty:
        return [machine_of(table)]
    lines = []
    for shape, part in _by_shape(table):
        best = part.drop_duplicates("head", keep="last")
        low, high = best.loc[best["ratio"].idxmin()], best.loc[best["ratio"].idxmax()]
        behind = in_order(best.loc[best["ratio"] < 1, "head"])
        lines.append(
            f"At the shape *{shape}* the engine is {low['ratio']:.1f} (`{low['head']}`) to {high['ratio']:.1f} "
            f"(`{high['head']}`) times as fast as the textbook loop"
            + (f"; for {', '.join(f'`{head}`' for head in behind)} it is slower." if behind else ".")
        )
        most = best.loc[best["gemm_share"].idxmax()]
        lines.append(
            f"There `{most['head']}` comes nearest to what the machine can do: its necessary products run at "
            f"{100 * most['gemm_share']:.0f} % of the rate of one large product ({most['products']})."
        )
    promised = table[table["goal"].notna()]
    kept = int((promised["ratio"] >= promised["goal"]).sum())
    missed = promised[promised["ratio"] < promised["goal"]]
    which = ", ".join(f"`{row.head}` at {row.shape} in {row.products}" for row in missed.itertuples())
    lines.append(f"Of {len(promised)} promises {kept} are kept{f'; not kept: {which}' if which else ''}.")
    beyond = missed[_most(missed, table) < missed["goal"]]
    lines += [
        f"`{row.head}` at {row.shape} in {row.products}: by these seconds its products alone, at the rate of one large "
        f"product, leave room for no more than {most:.1f} times, whoever writes the loop."
        for row, most in zip(beyond.itertuples(), _most(beyond, table), strict=True)
    ]
    return lines


def _most(rows: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """Return how many times as fast a head could be if its necessary products ran at the machine's rate, alone.

    That is the best rate in the table for the kind of products: one taken in a slow second would say too little.
    """
    best = rows["products"].map(table.groupby("products")["gemm_gflops"].max()).astype(float)
    return rows["ratio"] / rows["gemm_share"] * best / rows["gemm_gflops"]
