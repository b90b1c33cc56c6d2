"""The figures that are charts: bars (2), win matrices (5), rankings (6, 8) and gains (7).

See `lib.figures` for how they are called, and for the columns of their tables.
"""

from itertools import pairwise

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.errors import InputError
from lib.figures_style import (
    BLUE,
    FAINT,
    FAMILY_COLOURS,
    INK,
    ORANGE,
    colour,
    in_order,
    ink,
    marker,
    missing_words,
    say,
    sheet,
    spread,
)
from lib.heads import FAMILIES

GROUPS = {"general": "General audio", "bioacoustic": "Bioacoustics"}

# ---- figure 2: one bar a head ----------------------------------------------------------------------------------


def draw_bars(table: pd.DataFrame) -> Figure:
    """Figure 2: mAP of every head on one dataset with one encoder, and fine-tuning as a line where it is known."""
    bars = table[table["kind"] == "head"].set_index("head")
    bars = bars.loc[in_order(bars.index)]
    if bars.empty:
        raise InputError('The table of figure 2 has no rows of kind "head".')
    tuned = table.loc[table["kind"] == "fine_tuning", "mean"]
    seeds = int(bars["n_seeds"].max())
    subtitle = f"Bar: mean of {seeds} seeds." if seeds > 1 else "Bar: one seed."
    subtitle += " Thick line: ± 1 sd over seeds." if bars["sd"].notna().any() else ""
    subtitle += " Thin line: 95 % bootstrap interval over test clips." if bars["low"].notna().any() else ""
    if _share_of_gap(bars["mean"], tuned) is not None:
        subtitle += " Written on protobin: its share of the gap from linear to fine-tuning."
    encoder, dataset = bars["encoder_label"].iloc[0], bars["dataset_label"].iloc[0]
    title = f"One frozen encoder, read by each head: {encoder} on {dataset}"
    figure = sheet(table, (9.2, 3.7), title, f"{subtitle}\n{missing_words(table)}")
    axes = figure.add_subplot()
    families = [FAMILIES[head] for head in bars.index]
    turns = np.cumsum([0] + [a != b for a, b in pairwise(families)])
    x = dict(zip(bars.index, np.arange(len(bars)) + 0.55 * turns, strict=True))
    top = np.fmax(bars["high"], bars["mean"] + bars["sd"].fillna(0))
    step = 0.014 * max([*top, *tuned])
    for head, bar in bars.iterrows():
        axes.bar(x[head], bar["mean"], 0.8, color=colour(head))
        for low, high, width in (
            (bar["low"], bar["high"], 1.0),
            (bar["mean"] - bar["sd"], bar["mean"] + bar["sd"], 3.2),
        ):
            axes.plot([x[head]] * 2, [low, high], color="white", linewidth=width + 1.4, solid_capstyle="butt")
            axes.plot([x[head]] * 2, [low, high], color=INK, linewidth=width, solid_capstyle="butt")
        axes.text(x[head], top[head] + step, f"{bar['mean']:.1f}", ha="center", color=ink(head), weight="bold")
    if "linear" in bars.index and "protobin" in bars.index:
        _write_gain(axes, x["protobin"], bars["mean"], tuned)
    for height in tuned:
        axes.axhline(height, color=INK, linewidth=1, linestyle=(0, (5, 3)), zorder=0)
        words, beside = f"fine-\ntuning of\nthe whole\nencoder:\n{height:.1f}", axes.get_yaxis_transform()
        axes.text(1.01, height, words, va="center", transform=beside)  # beside the bars: it may lie among them
    axes.set_xticks(list(x.values()), list(x))
    axes.tick_params(axis="x", length=0)
    metric = bars["metric"].iloc[0] if "metric" in bars else "mAP"
    axes.set(ylabel=f"{metric} in %", ylim=(0, max([*top, *tuned]) * 1.1), xlim=(-0.6, max(x.values()) + 0.6))
    axes.grid(axis="y")
    for family in dict.fromkeys(families):
        ends = [x[head] for head in bars.index if FAMILIES[head] == family]
        below = axes.get_xaxis_transform()
        line = {"color": FAMILY_COLOURS[family], "linewidth": 2, "transform": below, "clip_on": False}
        axes.plot([ends[0] - 0.4, ends[-1] + 0.4], [-0.095] * 2, **line)
        axes.text(np.mean(ends), -0.115, family, ha="center", va="top", color=FAINT, transform=below)
    return figure


def _write_gain(axes: Axes, x: float, mean: pd.Series, tuned: pd.Series) -> None:
    """Write on protobin's bar how much of the way from linear to fine-tuning it goes, else its gain over linear."""
    gain, share = mean["protobin"] - mean["linear"], _share_of_gap(mean, tuned)
    words = f"{abs(gain):.1f}\npoints\n{'above' if gain >= 0 else 'below'}\nlinear"
    if share is not None:
        words = f"{100 * share:.0f} %\nof the\ngap\nclosed"
    axes.text(x, mean["protobin"] / 2, words, ha="center", va="center", color="white", weight="bold", size=7.5)


def _share_of_gap(mean: pd.Series, tuned: pd.Series) -> float | None:
    """Return the share of the way from linear to fine-tuning that protobin goes; none unless it lies between them."""
    if not len(tuned) or not {"linear", "protobin"} <= set(mean.index):
        return None
    low, here, high = mean["linear"], mean["protobin"], tuned.iloc[0]
    return (here - low) / (high - low) if low <= here <= high and low < high else None


# ---- figure 5: who beats whom ----------------------------------------------------------------------------------


def draw_wins(table: pd.DataFrame) -> Figure:
    """Figure 5: in how many configurations the head of the row beats that of the column by more than one sd."""
    parts = {group: table[table["group"] == group] for group in GROUPS}
    heads = {group: in_order(part["row_head"].dropna()) for group, part in parts.items()}
    columns = [max(len(names), 6) for names in heads.values()]  # at least what a title needs
    cell, beside, above, below = 0.36, 1.0, 0.25, 0.8  # inches: a cell, and what the labels need round a matrix
    figure = sheet(
        table,
        (cell * sum(columns) + 2 * beside + 0.1, cell * max(map(len, heads.values())) + above + below),
        "Who beats whom?",
        "Each number counts the configurations (encoder × dataset) in which the head of the row is better than the "
        "head of the column by more than one standard deviation; in ties neither wins.",
    )
    width, height = figure.get_size_inches()
    _, foot, _, share = figure.get_layout_engine().get()["rect"]
    figure.set_layout_engine("none")  # all cells are of one size, so places are computed here
    left, top = beside, (foot + share) * height - above
    for count, (group, part) in zip(columns, parts.items(), strict=True):
        wide = cell * (len(heads[group]) or count)
        tall = cell * (len(heads[group]) or max(map(len, heads.values())))
        axes = figure.add_axes((left / width, (top - tall) / height, wide / width, tall / height))
        left += cell * count + beside
        axes.set_title(GROUPS[group], weight="bold")
        if not heads[group]:
            say(axes, missing_words(part) or "Nothing was run for this group.", 34)
            continue
        wins = part.dropna(subset=["wins"]).pivot(index="row_head", columns="column_head", values="wins")
        wins = wins.reindex(index=heads[group], columns=heads[group]).to_numpy(dtype=float)
        wins = np.where(np.eye(len(wins), dtype=bool), np.nan, wins)
        total = int(part["configurations"].max())
        axes.set_title(f"{GROUPS[group]}: {total} configuration{'s' * (total != 1)}", weight="bold")
        shade = sns.light_palette(BLUE, as_cmap=True)
        grid = {"linewidths": 1.2, "linecolor": "white", "cbar": False}
        sns.heatmap(wins, ax=axes, cmap=shade, vmin=0, vmax=max(total, 1), annot=True, fmt=".0f", **grid)
        ticks = np.arange(len(heads[group])) + 0.5
        axes.set_xticks(ticks, heads[group], rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, heads[group], rotation=0)
        axes.tick_params(length=0)
        axes.set(ylabel="this head wins …", xlabel="… against this head")
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set(color=ink(label.get_text()), weight="bold")
    return figure


# ---- figures 6 and 8: two rankings, side by side ---------------------------------------------------------------


def draw_ranking(table: pd.DataFrame) -> Figure:
    """Figure 6: encoder averages under linear and under protobin, each side ranked."""
    sides = [table[table["head"] == head].set_index("encoder") for head in ("linear", "protobin")]
    encoders = [name for name in dict.fromkeys(table["encoder"]) if all(name in side.index for side in sides)]
    if not encoders:
        raise InputError('The table of figure 6 has no encoder with a row for "linear" and one for "protobin".')
    sides = [side.loc[encoders] for side in sides]
    climb = sides[0]["rank"] - sides[1]["rank"]
    count = sides[0]["n_datasets"].max()
    words = f"Mean over {count:.0f} datasets" if count > 1 else "On one dataset"
    figure = sheet(
        table,
        (8.2, max(2.6, 0.42 * len(encoders))),
        "Does the linear probe rank encoders as protobin does?",
        f"{words}; {(climb != 0).sum()} of {len(encoders)} encoders change rank. Orange and dotted: loses ranks; "
        "blue: gains ranks; grey: keeps its rank.",
    )
    axes = figure.add_subplot()
    values = np.array([side["mean"] for side in sides])  # (2, encoders)
    gap = np.ptp(values) * 0.22 / figure.get_figheight()  # about a line of text
    places = [spread(side, gap) for side in values]
    strokes = {-1: (ORANGE, (0, (1, 0.6))), 0: ("#8A8A8A", "solid"), 1: (BLUE, "solid")}
    for i, name in enumerate(encoders):
        stroke, dashes = strokes[int(np.sign(climb[name]))]
        axes.plot([0, 1], values[:, i], color=stroke, linestyle=dashes, linewidth=1.8)
        for x, side, place in zip((0, 1), sides, places, strict=True):
            row, out = side.loc[name], 2 * x - 1
            axes.plot(x, row["mean"], "o", color=stroke, markersize=5.5, markeredgecolor="white")
            axes.plot([x + 0.02 * out, x + 0.07 * out], [row["mean"], place[i]], color=stroke, linewidth=0.6)
            year = "" if pd.isna(row["year"]) else f" ({row['year']:.0f})"
            sd = "" if pd.isna(row["sd"]) else f" ± {row['sd']:.1f}"
            words = [f"#{row['rank']:g}", f"{row['mean']:.1f}{sd}", f"{row['encoder_label']}{year}"]
            text = "   ".join(words[::out])
            axes.text(x + 0.08 * out, place[i], text, ha=("right", "left")[x], va="center", parse_math=False)
    axes.set_xticks([0, 1], ["linear reads cls\nmAP in %", "protobin reads the tokens\nmAP in %"])
    axes.tick_params(length=0)
    axes.set(xlim=(-1.2, 2.2), yticks=[])
    axes.spines[:].set_visible(False)
    axes.vlines([0, 1], 0, 1, color="#C9C9C9", linewidth=0.7, transform=axes.get_xaxis_transform(), zorder=0)
    return figure


def draw_supervised(table: pd.DataFrame) -> Figure:
    """Figure 8: ranks of the heads by pairwise wins, with base encoders and with their supervised⁺ versions."""
    rows = table[table["kind"] != "missing"]
    tallest = max((part["head"].nunique() for _, part in rows.groupby("group")), default=0)
    figure = sheet(
        table,
        (9.6, max(2.4, 0.34 * tallest)),
        "Do heads keep their rank when the encoder has seen labels?",
        "Rank by number of pairwise wins (in brackets), with the self-supervised base encoders and with their "
        "supervised⁺ versions.",
    )
    for axes, letter, group in zip(figure.subplots(1, 2), "ab", GROUPS, strict=True):
        axes.set_title(f"({letter}) {GROUPS[group]}", weight="bold")
        part = rows[rows["group"] == group]
        words = missing_words(table[table["group"] == group])
        if part.empty:
            say(axes, words or "Nothing was run for this group.", 44)
        else:
            _draw_rank_lines(axes, part, words)
    return figure


def _draw_rank_lines(axes: Axes, part: pd.DataFrame, words: str) -> None:
    """Draw the slope chart of one group; without supervised⁺ rows, `words` stand in their place."""
    sides, digits = {}, 0 if (part["wins"] % 1 == 0).all() else 1
    for x, variant in enumerate(("base", "supervised")):
        side = part[part["variant"] == variant].set_index("head")
        side = side.assign(place=spread(side["rank"], 0.75))  # heads of one rank stand close together
        out, sides[variant] = 2 * x - 1, side
        for head, (rank, wins, place) in side[["rank", "wins", "place"]].iterrows():
            axes.plot(x, place, **marker(head), zorder=3)
            label = [f"#{rank:g}", head, f"({wins:.{digits}f})"]
            style = {"color": ink(head), "weight": "bold" if head in ("linear", "protobin") else "normal"}
            align = {"ha": ("right", "left")[x], "va": "center"}
            axes.text(x + 0.08 * out, place, "  ".join(label[::out]), **style, **align)
    for head in in_order(set(sides["base"].index) & set(sides["supervised"].index)):
        line = [side.loc[head, "place"] for side in sides.values()]
        axes.plot([0, 1], line, color=colour(head), linewidth=2.4 if head == "protobin" else 1.3)
    last = part["rank"].max()
    axes.set(xlim=(-0.75, 1.75), ylim=(last + 0.6, 0.4), yticks=[])
    axes.set_xticks([0, 1], ["base", "supervised⁺"], weight="bold")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if sides["supervised"].empty:
        inset = axes.inset_axes((0.46, 0.04, 0.52, 0.92))
        say(inset, words or "There is no supervised⁺ version of these encoders.", 24)


# ---- figure 7: gain over linear --------------------------------------------------------------------------------


def draw_gains(table: pd.DataFrame) -> Figure:
    """Figure 7: percentage points of each head above linear, one panel an encoder."""
    rows = table[table["head"] != "linear"]
    heads = in_order(rows["head"])
    encoders = list(dict.fromkeys(rows["encoder"]))
    if not heads:
        raise InputError('The table of figure 7 has no head other than "linear".')
    count = rows["n"].max()
    words = (
        f"Marker: mean over {count:.0f} datasets; whisker: ± 1 sd over datasets." if count > 1 else "On one dataset."
    )
    title = "How far is each head above or below the linear probe?"
    figure = sheet(table, (min(10.5, 3.5 + 1.6 * len(encoders)), 0.6 + 0.27 * len(heads)), title, words)
    panels = figure.subplots(1, len(encoders), sharex=True, sharey=True, squeeze=False)[0]
    for axes, encoder in zip(panels, encoders, strict=True):
        part = rows[rows["encoder"] == encoder].set_index("head")
        axes.axvline(0, color=INK, linewidth=0.9)
        for head in in_order(part.index):
            gain, sd = part.loc[head, ["gain", "sd"]].astype(float)
            axes.errorbar(gain, heads.index(head), xerr=None if np.isnan(sd) else sd, linewidth=1.3, **marker(head))
        axes.set_title(str(part["encoder_label"].iloc[0]).replace(" (", "\n("), weight="bold")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(heads)), heads)
    panels[0].set_ylim(len(heads) - 0.4, -0.6)
    for label in panels[0].get_yticklabels():
        label.set(color=ink(label.get_text()), weight="bold")
    for axes in panels:
        axes.set_xlabel(" ")  # keeps a line free for the one label that all panels share
    label = panels[len(panels) // 2].set_xlabel("percentage points of mAP above linear (line at 0)")
    label.set_in_layout(len(panels) == 1)
    return figure
