"""The pictures of notebook 18: scores by layer, a small panel an encoder, and what CGP's gates came to weigh."""

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.figures_style import INK, MARKERS, ORANGE, STYLE, ink, sheet
from lib.layers import AVERAGE
from lib.plots import entitle
from lib.plots_encoders import called

COLUMNS = 5
PALE = "#F2B48A"  # of the arms that are not the two in question
# Arm → marker, colour of its line, colour of its inside, size, what the legend says.
LOOKS = {
    "linear": (MARKERS["linear"], INK, INK, 3.5, "linear"),
    "protobin": (MARKERS["protobin"], ORANGE, ORANGE, 6.5, "protobin"),
    "protobin mean": (MARKERS["protobin"], ORANGE, "white", 6.5, "protobin on the plain mean of all blocks"),
    "cgp last": ("p", ORANGE, "white", 6.0, "CGP on one layer"),
    "cgp": ("p", "#7A3600", "#7A3600", 6.5, "CGP on all blocks"),
}


@matplotlib.rc_context(STYLE)
def plot_layers(table: pd.DataFrame) -> Figure:
    """Show the score on each layer, a panel an encoder, with protobin on the last layer and CGP as lines across.

    Parameters
    ----------
    table : pandas.DataFrame
        The rows of one dataset of `lib.layers.layer_scores`, with their note.
    """
    names = list(dict.fromkeys(table["encoder"]))
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    subtitle = (
        "1 to 6: outputs of the blocks. Last: block 6 after the final norm, what all other pages read. All: the blocks "
        "mixed. Lines across: protobin on last (dashed), CGP on all (solid). Whiskers: 95 % over test clips."
    )
    title = f"What do the layers below the last one add? ({table['dataset'].iloc[0]})"
    figure = sheet(table, (max(6.4, 1.95 * columns), 1.75 * rows + 0.6), title, subtitle)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1] * rows + [0.2])  # the last row is the legend's
    axes = None
    for at, name in enumerate(names):
        axes = figure.add_subplot(grid[at // columns, at % columns], sharex=axes, sharey=axes)
        _draw(axes, table[table["encoder"] == name].set_index("arm"))
        entitle(axes, f"average of {len(names) - 1}" if name == AVERAGE else called(name).removesuffix(" (pocket)"))
        axes.tick_params(labelleft=at % columns == 0, labelbottom=at + columns >= len(names))
    figure.supylabel(f"test {table['metric'].iloc[0]} (%)", size=8)
    handles = [
        Line2D([], [], color=line, marker=marker, markerfacecolor=face, markersize=size, linestyle="", label=label)
        for marker, line, face, size, label in LOOKS.values()
    ]
    below = figure.add_subplot(grid[rows, :])
    below.set_axis_off()
    below.legend(handles=handles, loc="center", ncols=5 if columns > 3 else 3, frameon=False, fontsize=7.5)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw one encoder."""
    blocks = [arm for arm in rows.index if arm.startswith("protobin block")]
    last, all_of_them = len(blocks) + 1.4, len(blocks) + 2.7
    places = {arm: at + 1 for at, arm in enumerate(blocks)} | {"protobin last": last, "protobin mean": all_of_them}
    places |= {arm.replace("protobin", "linear"): x - 0.18 for arm, x in places.items() if arm != "protobin mean"}
    places |= {"cgp last": last + 0.32, f"cgp block {len(blocks)}": len(blocks) + 0.32, "cgp": all_of_them + 0.38}
    for head in ("linear", "protobin"):
        line = [f"{head} block {block + 1}" for block in range(len(blocks))]
        axes.plot([places[arm] for arm in line], rows.loc[line, "mean"], color=LOOKS[head][1], linewidth=0.9)
    axes.axhline(rows.loc["protobin last", "mean"], color=ORANGE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.axhline(rows.loc["cgp", "mean"], color=LOOKS["cgp"][1], linewidth=0.9, zorder=0)
    for arm, x in places.items():
        head, row = arm.split()[0], rows.loc[arm]
        look = "cgp last" if head == "cgp" and arm != "cgp" else arm if arm in LOOKS else head
        marker, line, face, size, _ = LOOKS[look]
        axes.plot([x, x], row[["low", "high"]].astype(float), color=line, linewidth=0.7, alpha=0.7)
        style = {"marker": marker, "markersize": size, "markerfacecolor": face, "markeredgecolor": line}
        axes.plot(x, row["mean"], linestyle="", markeredgewidth=0.7, **style)
    axes.set_xticks([*range(1, len(blocks) + 1), last, all_of_them + 0.2])
    axes.set_xticklabels([*range(1, len(blocks) + 1), "last", "all"])
    axes.set_xlim(0.4, all_of_them + 0.9)
    axes.grid(True, axis="y")


@matplotlib.rc_context(STYLE)
def plot_gates(table: pd.DataFrame) -> Figure:
    """Show CGP's gate weights, a row an encoder, a column a block.

    Parameters
    ----------
    table : pandas.DataFrame
        The rows of one dataset of `lib.layers.layer_gates`, with their note.
    """
    names = [*dict.fromkeys(table.loc[table["encoder"] != AVERAGE, "encoder"]), AVERAGE]
    gates = 100 * table.pivot(index="encoder", columns="block", values="gate").loc[names]
    subtitle = f"Share of each block in the mixture, in %; rows add up to 100. All start at {100 / gates.shape[1]:.1f}."
    title = f"Which layers does CGP listen to? ({table['dataset'].iloc[0]})"
    figure = sheet(table, (6.4, 0.5 + 0.26 * len(names)), title, subtitle)
    axes = figure.subplots()
    shade = sns.light_palette(ORANGE, as_cmap=True)
    style = {"linewidths": 1.2, "linecolor": "white", "cbar": False}
    sns.heatmap(gates, ax=axes, cmap=shade, vmin=0, annot=True, fmt=".0f", annot_kws={"color": INK}, **style)
    labels = ["average" if name == AVERAGE else called(name).removesuffix(" (pocket)") for name in names]
    axes.set_yticks([at + 0.5 for at in range(len(names))], labels, rotation=0)
    axes.set(xlabel="block", ylabel="")
    axes.tick_params(length=0)
    axes.get_yticklabels()[-1].set(weight="bold", color=ink("protobin"))
    return figure
