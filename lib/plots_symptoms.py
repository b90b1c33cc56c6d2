"""Pictures of notebook 20: a few small panels a trouble, and one page with a panel of each."""

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lib.figures_style import BLUE, FAINT, INK, ORANGE, STYLE, colour, marker, sheet
from lib.plots import entitle
from lib.profiles import LR_RANGES
from lib.symptoms import TROUBLES
from lib.symptoms_found import values
from lib.symptoms_provoked import INIT_STD

WELL, SICK, OTHER = INK, ORANGE, BLUE  # as it should be, as it should not, a third case
SHADES = (WELL, SICK, OTHER, FAINT)
DASHES = ("-", "--", "-.", ":")
LOW, HIGH = LR_RANGES["prototype"]


@matplotlib.rc_context(STYLE)
def plot_trouble(name: str, table: pd.DataFrame) -> Figure:
    """Draw the panels of a trouble from its table.

    Parameters
    ----------
    name : str
        A key of `lib.symptoms.TROUBLES`.
    table : pandas.DataFrame
        As `lib.symptoms.write_symptoms` returns it, with its note.
    """
    panels = PANELS[name]
    figure = sheet(table, (2.6 * max(len(panels), 2) + 1.4, 2.1), _capital(TROUBLES[name].title))
    for axes, draw in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        draw(axes, table)
    return figure


@matplotlib.rc_context(STYLE)
def plot_guide(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw the first panel of each trouble on one page, and of the ninth the maps too."""
    first = next(iter(tables.values())).copy()
    first.attrs["note"] = f"{first.attrs['note'].partition(' · ')[0]} · dots, lines and seeds as in notebook 20"
    subtitle = (
        "A trouble a panel, each provoked on purpose. Black: as it should be; orange, and blue or grey where there are "
        "more cases: the trouble. In 7 a colour is a family."
    )
    figure = sheet(first, (10.4, 9.6), "My probe looks wrong", subtitle)
    shown = [(number, name, 0) for number, name in enumerate(TROUBLES, start=1)] + [(9, "order", 1), (9, "order", 2)]
    for axes, (number, name, panel) in zip(figure.subplots(4, 3).flat, shown, strict=True):
        if name not in tables:
            axes.set_axis_off()
            continue
        PANELS[name][panel](axes, tables[name])
        entitle(axes, f"{number} · {axes.get_title(loc='left') if panel else TROUBLES[name].title}")
    return figure


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---- what panels share -------------------------------------------------------------------------------------------


def cases_of(table: pd.DataFrame, measure: str) -> list[str]:
    """Return the cases that have a measure, in their order."""
    return list(dict.fromkeys(table.loc[table["measure"] == measure, "case"]))


def lines(axes: Axes, table: pd.DataFrame, measure: str, x: str, scale: float = 1.0, legend: bool = True) -> None:
    """Draw a measure of each case against a column, a line the mean over seeds, a band all seeds."""
    for case, shade, dashes in zip(cases_of(table, measure), SHADES, DASHES, strict=False):
        rows = table[(table["case"] == case) & (table["measure"] == measure)]
        wide = scale * rows.pivot_table(index=x, columns="seed", values="value", dropna=False)
        axes.plot(wide.index, wide.mean(axis=1), color=shade, linestyle=dashes, linewidth=1.4, label=case)
        axes.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=shade, alpha=0.18, linewidth=0)
    axes.grid(True)
    if x == "epoch":
        axes.xaxis.get_major_locator().set_params(integer=True)
    if legend:
        axes.legend(frameon=False, fontsize=6.5, handlelength=1.8)


def dots(
    axes: Axes,
    table: pd.DataFrame,
    measure: str = "score",
    label: str = "test score",
    scale: float = 1.0,
    shades: Sequence[str] = SHADES,
) -> None:
    """Draw a dot a seed for each case, one above the other, and a stroke for the mean."""
    cases = cases_of(table, measure)
    for y, (case, shade) in enumerate(zip(cases, shades, strict=False)):
        found = scale * values(table, case, measure)
        axes.plot(found, np.full(len(found), y), "o", color=shade, markersize=4, alpha=0.75)
        axes.plot([found.mean()] * 2, [y - 0.28, y + 0.28], color=shade, linewidth=1.6)
    axes.set_yticks(range(len(cases)), cases)
    axes.set(ylim=(len(cases) - 0.4, -0.6), xlabel=label)
    axes.grid(True, axis="x")


def by_head(axes: Axes, table: pd.DataFrame, well: str, sick: Sequence[str], heads: Sequence[str]) -> None:
    """Draw each head's mean score as it should be, and in the other cases."""
    shapes = dict(zip((well, *sick), "osD", strict=False))
    means = table[table["measure"] == "score"].groupby(["head", "case"])["value"].mean()
    for y, head in enumerate(heads):
        axes.plot([means[head, case] for case in shapes], [y] * len(shapes), color="#C9C9C9", linewidth=1, zorder=1)
        for (case, shape), shade in zip(shapes.items(), SHADES, strict=False):
            axes.plot(means[head, case], y, shape, color=shade, markersize=4.5, label=case if y == 0 else None)
    axes.set_yticks(range(len(heads)), heads)
    axes.set(ylim=(len(heads) - 0.4, -0.6), xlabel="test score")
    axes.grid(True, axis="x")
    axes.legend(frameon=False, fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=3, columnspacing=1)


# ---- 1 to 3 --------------------------------------------------------------------------------------------------------


def scores_of_rates(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the score of each learning rate and first size."""
    _heat(axes, table, "score", "{:.0f}", "test score", 1)


def flips_of_rates(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the share of signs that flipped, of each learning rate and first size."""
    _heat(axes, table, "flipped", "{:.0f}", "% of signs that differ from the start", 100)


def _heat(axes: Axes, table: pd.DataFrame, measure: str, form: str, title: str, scale: int) -> None:
    grid = table[table["measure"] == measure].pivot_table(index="init_std", columns="lr", values="value", dropna=False)
    numbers = scale * grid.to_numpy()  # (sizes, rates)
    axes.imshow(numbers, origin="lower", aspect="auto", cmap="cividis")
    middle = (np.nanmin(numbers) + np.nanmax(numbers)) / 2
    for (y, x), value in np.ndenumerate(numbers):
        words = form.format(value) if np.isfinite(value) else "×"
        axes.text(x, y, words, ha="center", va="center", size=6.5, color="white" if value < middle else INK)
    (inside,) = np.nonzero((grid.columns >= LOW) & (grid.columns <= HIGH))
    usual = int(np.abs(np.log(grid.index) - np.log(INIT_STD)).argmin())
    corner = inside[0] - 0.5, usual - 0.5
    axes.add_patch(Rectangle(corner, len(inside), 1, fill=False, edgecolor=ORANGE, linewidth=1.8))
    axes.set_xticks(range(len(grid.columns)), [f"{rate:.2g}" for rate in grid.columns], size=6.5)
    axes.set_yticks(range(len(grid.index)), [f"{size:.2g}" for size in grid.index], size=6.5)
    axes.set(xlabel="learning rate (box: in the paper's range)", ylabel="init_std")
    entitle(axes, title)


def likeness_over_epochs(axes: Axes, table: pd.DataFrame) -> None:
    """Draw how alike prototypes are, epoch by epoch."""
    lines(axes, table, "cosine", "epoch")
    axes.set(xlabel="epoch", ylabel="mean |cosine| of two", ylim=(0, 1.05))
    entitle(axes, "how alike")


def positive_over_epochs(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the share of +1 among the signs, epoch by epoch."""
    lines(axes, table, "positive", "epoch", 100, legend=False)
    axes.set(xlabel="epoch", ylabel="% of signs that are +1", ylim=(0, 105))
    entitle(axes, "how many are +1")


def score_by_case(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the score of each case and seed."""
    dots(axes, table)
    entitle(axes, "what it costs")


def flips_over_epochs(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the share of signs that flip in each epoch."""
    lines(axes, table, "flipped", "epoch", 100)
    axes.set(xlabel="epoch", ylabel="% of signs that flip", ylim=(0, None))
    entitle(axes, "signs that flip")


def latents_over_epochs(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the size of the latents, epoch by epoch."""
    lines(axes, table, "latent", "epoch", legend=False)
    axes.set(xlabel="epoch", ylabel="mean |latent|", yscale="log")
    entitle(axes, "how far from zero")


# ---- 4 to 6 --------------------------------------------------------------------------------------------------------


def sorted_contributions(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the contributions of prototypes, sorted, as shares of the largest."""
    lines(axes, table, "contribution", "x", 100)
    axes.set(xlabel="share of prototypes", ylabel="% of the largest", ylim=(0, None))
    entitle(axes, "sorted contributions")


def silent_by_case(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the share of silent prototypes after training."""
    dots(axes, table, "silent", "% of prototypes, silent after training", 100)
    entitle(axes, "who says nothing")


def shares_of_ties(axes: Axes, table: pd.DataFrame) -> None:
    """Draw how many maxima tie and how many winners move, by the width of numbers."""
    names = cases_of(table, "tied")
    for place, (measure, shade, words) in enumerate((("tied", WELL, "tie"), ("moved", SICK, "another winner"))):
        found = 100 * table[table["measure"] == measure].groupby("case")["value"].mean()[names]
        axes.barh(np.arange(len(names)) + 0.36 * place - 0.18, found, 0.34, color=shade, label=words)
        for y, value in enumerate(found):
            axes.text(value, y + 0.36 * place - 0.18, f" {value:.1f}", va="center", size=6.5)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="% of maxima (clips × prototypes)")
    axes.margins(x=0.15)
    axes.legend(frameon=False, fontsize=6.5)
    entitle(axes, "ties")


def attended_over_epochs(axes: Axes, table: pd.DataFrame) -> None:
    """Draw on how many tokens attention lies, epoch by epoch."""
    lines(axes, table, "attended", "epoch")
    axes.set(xlabel="epoch", ylabel="tokens attended to", yscale="log", ylim=(0.8, None))
    entitle(axes, "effective number of tokens")


# ---- 7 and 8 -------------------------------------------------------------------------------------------------------


def scores_of_seeds(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the score of every seed, and write the standard deviation beside."""
    cases = cases_of(table, "score")
    heads = table.drop_duplicates("case").set_index("case")["head"]
    dots(axes, table, shades=[colour(heads[case]) for case in cases])
    for y, case in enumerate(cases):
        found = values(table, case)
        axes.annotate(f"sd {found.std():.2f}", (1.01, y), xycoords=("axes fraction", "data"), size=6.5, va="center")
    entitle(axes, "a dot a seed")


def differences_on_easy(axes: Axes, table: pd.DataFrame) -> None:
    """Draw protobin minus linear on each encoder, with its interval."""
    wide = table[table["measure"] != "score"].pivot(index="case", columns="measure", values="value")
    cases = cases_of(table, "difference")
    for y, case in enumerate(cases):
        found = wide.loc[case]
        shade = ORANGE if found["high"] < 0 else INK
        axes.plot([found["low"], found["high"]], [y, y], color=shade, linewidth=1.8)
        axes.plot(found["difference"], y, "o", color=shade, markersize=4.5)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_yticks(range(len(cases)), cases)
    axes.set(ylim=(len(cases) - 0.4, -0.6), xlabel="points of accuracy above linear")
    axes.grid(True, axis="x")
    entitle(axes, "protobin − linear")


def scores_on_easy(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the mean scores of both heads on each encoder."""
    means = table[table["measure"] == "score"].groupby(["case", "head"])["value"].mean()
    cases = cases_of(table, "score")
    for head in ("linear", "protobin"):
        style = marker(head) | {"linestyle": "none", "label": head}
        axes.plot([means[case, head] for case in cases], range(len(cases)), **style)
    axes.set_yticks(range(len(cases)), cases)
    axes.set(ylim=(len(cases) - 0.4, -0.6), xlabel="test accuracy (%)")
    axes.grid(True, axis="x")
    axes.legend(frameon=False, fontsize=6.5)
    entitle(axes, "both heads")


# ---- 9 and 10 ------------------------------------------------------------------------------------------------------


def heads_in_order(axes: Axes, table: pd.DataFrame) -> None:
    """Draw what each head scores on tokens in the right and in the wrong order."""
    heads = list(dict.fromkeys(table["head"].dropna()))
    by_head(axes, table, "right", ("wrong in the test", "wrong throughout"), heads)
    entitle(axes, "who notices")


def _rising(case: str, title: str) -> Callable[[Axes, pd.DataFrame], None]:
    def draw(axes: Axes, table: pd.DataFrame) -> None:
        rows = table[(table["measure"] == "away") & (table["case"] == case)]
        axes.imshow(rows.pivot(index="f", columns="t", values="value"), origin="lower", aspect="auto", cmap="magma")
        axes.set(xlabel="t", ylabel="f")
        entitle(axes, title)

    return draw


def lengths_of_tokens(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the quantiles of the tokens' lengths, with and without the norm."""
    for case, shade, dashes in zip(("with the norm", "forgotten"), SHADES, DASHES, strict=False):
        rows = table[(table["case"] == case) & (table["measure"] == "length")]
        axes.plot(100 * rows["x"], rows["value"], color=shade, linestyle=dashes, linewidth=1.4, label=case)
    axes.set(xlabel="% of tokens that are shorter", ylabel="length of a token", yscale="log")
    axes.grid(True)
    axes.legend(frameon=False, fontsize=6.5)
    entitle(axes, "lengths")


def heads_without_norm(axes: Axes, table: pd.DataFrame) -> None:
    """Draw what each head scores with and without the final norm."""
    heads = list(dict.fromkeys(table["head"].dropna()))
    by_head(axes, table, "with the norm", ("forgotten",), heads)
    entitle(axes, "who suffers")


PANELS: dict[str, tuple[Callable[[Axes, pd.DataFrame], None], ...]] = {
    "scale": (scores_of_rates, flips_of_rates),
    "positive": (likeness_over_epochs, positive_over_epochs, score_by_case),
    "frozen": (flips_over_epochs, latents_over_epochs, score_by_case),
    "silent": (sorted_contributions, silent_by_case, score_by_case),
    "ties": (shares_of_ties, score_by_case),
    "collapse": (attended_over_epochs, score_by_case),
    "spread": (scores_of_seeds,),
    "easy": (differences_on_easy, scores_on_easy),
    "order": (heads_in_order, _rising("right", "rising tone, right order"), _rising("wrong throughout", "wrong order")),
    "norm": (heads_without_norm, lengths_of_tokens),
}
