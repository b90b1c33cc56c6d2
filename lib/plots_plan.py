"""The picture of the page "Run the paper": where the hours go, dataset by dataset."""

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from lib.figures_style import BLUE, FAINT, INK, ORANGE, STYLE


@matplotlib.rc_context(STYLE)
def plot_hours(table: pd.DataFrame, machine: str) -> Figure:
    """Show the hours that each dataset takes, embedding beside training, on a logarithmic axis.

    Parameters
    ----------
    table : pandas.DataFrame
        Of `lib.plan_pages.by_dataset`.
    machine : str
        At which rate, for the axis.
    """
    figure = Figure(figsize=(7.6, 0.9 + 0.34 * len(table)), dpi=100, layout="constrained")
    axes = figure.subplots()
    for place, (_, row) in enumerate(table.iterrows()):
        axes.plot(row[["embed", "train"]], [place, place], color=FAINT, linewidth=1, zorder=1)
        for stage, colour, marker, up in (("embed", BLUE, "s", 4), ("train", ORANGE, "o", -11)):
            hours = row[stage]
            label = stage if place == 0 else None
            axes.plot(hours, place, marker, color=colour, markersize=6, label=label)
            words = f"{60 * hours:.0f} min" if hours < 1 else f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"
            axes.annotate(words, (hours, place), (0, up), textcoords="offset points", size=6.5, ha="center", color=INK)
    axes.set_yticks(range(len(table)), [f"{name}  {row['store, GB']:,.0f} GB" for name, row in table.iterrows()])
    axes.set(ylim=(len(table) - 0.4, -0.6), xscale="log")
    axes.set_xlabel(f"hours, all encoders and heads together ({machine})")
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=7.5)
    return figure
