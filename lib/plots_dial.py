"""The dial as notebook 16 shows it: pictures, each from the table alone, and the verdict in two sentences."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.dial import DIALS, GROUPS, METHODS
from lib.encoders import ENCODERS
from lib.figures_style import FAINT, INK, STYLE, colour, ink, marker, sheet
from lib.plots import entitle

NAMES = {"linear": "linear", "mean": "linear on the mean token", "mhca": "mhca", "protobin": "protobin"}
MEASURES = {  # column → title, what the axis says, columns of the interval
    "map": ("What the heads reach", "test mAP (%)", ("low", "high")),
    "share": ("The same as a share of the way from chance to 100 %", "% of the way", None),
    "gain": ("How far they are above linear", "points of mAP", ("gain_low", "gain_high")),
    "share_gain": (
        "How far they are above linear, of the way from chance to 100 %",
        "% of the way",
        ("share_gain_low", "share_gain_high"),
    ),
}
THIN = "Thin: one encoder each. Thick: their mean, with 95 % intervals."


@matplotlib.rc_context(STYLE)
def plot_dials(table: pd.DataFrame, measure: str) -> Figure:
    """Show one measure at all positions: a column a dial, base encoders above, supervised⁺ below.

    Parameters
    ----------
    table : pandas.DataFrame
        As `lib.dial.write` returns it, with its note.
    measure : str
        A key of `MEASURES`.
    """
    title, label, ends = MEASURES[measure]
    dials, kinds = list(dict.fromkeys(table["dial"])), _kinds(table)
    methods = [method for method in METHODS if not measure.endswith("gain") or method != "linear"]
    thin = THIN if ends else THIN.replace(", with 95 % intervals", "")
    chance = " Dashes: a random order of the clips." if measure == "map" else ""
    figure = sheet(table, (max(5.2, 2.0 * len(dials)), 0.5 + 1.75 * len(kinds)), title, thin + chance)
    panels = figure.subplots(len(kinds), len(dials), sharey=True, squeeze=False)
    for row, kind in zip(panels, kinds, strict=True):
        for axes, dial in zip(row, dials, strict=True):
            part = table[table["dial"] == dial]
            _draw(axes, part, kind, methods, measure, ends, scale=0.65)
            if measure == "map":
                levels = part.drop_duplicates("place")
                x = DIALS[dial].steps(levels["place"].to_numpy())
                axes.plot(x, levels["chance"], color=FAINT, linestyle=(0, (4, 3)), linewidth=1.0)
            if axes in panels[0]:
                entitle(axes, DIALS[dial].title)
            if axes in panels[-1]:
                axes.set_xlabel(DIALS[dial].axis)
        row[0].set_ylabel(f"{GROUPS[kind]}\n{label}")
    # Beside the title where the page is wide enough.
    if len(dials) > 2:
        figure.legend(handles=_handles(methods), loc="upper right", ncols=len(methods), frameon=False, fontsize=7.5)
    else:
        panels[0, 0].legend(handles=_handles(methods), frameon=False, fontsize=6.5)
    return _settled(figure)


@matplotlib.rc_context(STYLE)
def plot_polyphony_dial(table: pd.DataFrame) -> Figure:
    """Show what each head gains over linear as more events share a clip: the picture of the README and the lesson."""
    part, kinds = table[table["dial"] == "events"], _kinds(table)
    part.attrs["note"] = table.attrs["note"]
    methods = [method for method in METHODS if method != "linear"]
    title = "The polyphony dial: what a head gains over linear"
    subtitle = f"Trained and tested on clips with exactly so many events. {THIN} Zero: linear."
    figure = sheet(part, (7.6, 3.0), title, subtitle)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        _draw(axes, part, kind, methods, "gain", MEASURES["gain"][2])
        axes.set_xlabel(DIALS["events"].axis)
        entitle(axes, _members(part, kind))
    panels[0].set_ylabel("points of mAP above linear")
    panels[-1].legend(handles=_handles(methods), frameon=False, fontsize=7.5)
    return _settled(figure)


def _kinds(table: pd.DataFrame) -> list[str]:
    return [kind for kind in ("base", "supervised") if kind in set(table["encoder"])]


def _members(table: pd.DataFrame, kind: str) -> str:
    """Return a kind and the labels of its encoders."""
    labels = [ENCODERS[name].label for name in dict.fromkeys(table["encoder"]) if _is(name, kind)]
    names = ", ".join(label.removesuffix(" (pocket)") for label in labels)
    return f"{GROUPS[kind].removesuffix(' encoders')}: {names} (pocket)"


def _is(encoder: str, kind: str) -> bool:
    return encoder in ENCODERS and ENCODERS[encoder].kind == kind


def _draw(
    axes: Axes,
    rows: pd.DataFrame,
    kind: str,
    methods: Sequence[str],
    measure: str,
    ends: tuple[str, str] | None,
    scale: float = 1.0,
) -> None:
    """Draw the lines of one panel: the encoders of a kind thin, their mean thick with its interval."""
    dial = DIALS[rows["dial"].iloc[0]]
    places = np.array(sorted(set(rows["place"])))
    x = dial.steps(places)
    room = 0.012 * (x[-1] - x[0])
    for number, method in enumerate(methods):
        of_method, tint = rows[rows["method"] == method], _tint(method)
        for encoder in dict.fromkeys(of_method["encoder"]):
            if _is(encoder, kind):
                axes.plot(x, of_method[of_method["encoder"] == encoder][measure], color=tint, linewidth=0.7, alpha=0.5)
        mean = of_method[of_method["encoder"] == kind]
        beside = x + room * (number - (len(methods) - 1) / 2)  # so that intervals do not cover each other
        axes.plot(beside, mean[measure], linewidth=1.8, **_look(method, scale))
        if ends:
            axes.vlines(beside, mean[ends[0]], mean[ends[1]], color=tint, linewidth=1.2)
    if measure.endswith("gain"):
        axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(x, [dial.called(place) for place in places])
    axes.grid(True)


def _tint(method: str) -> tuple[float, ...] | str:
    return FAINT if method == "mean" else ink(METHODS[method][0])


def _look(method: str, scale: float = 1.0) -> dict:
    """Return line and marker of a method, the marker scaled; linear on the mean token is hollow and dashed."""
    head = METHODS[method][0]
    look = marker(head) | {"markersize": scale * (8 if head == "protobin" else 5.5), "color": _tint(method)}
    if method == "mean":
        look |= {"markerfacecolor": "white", "markeredgecolor": colour(head), "markeredgewidth": 0.9}
        return look | {"linestyle": (0, (2, 1))}
    return look | {"linestyle": "-"}


def _handles(methods: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], linewidth=1.8, label=NAMES[method], **_look(method)) for method in methods]


def _settled(figure: Figure) -> Figure:
    """Find the layout once, so that PNG, PDF and page show the same."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


# ---- in words ----------------------------------------------------------------------------------------------------


def verdict(table: pd.DataFrame, trends: pd.DataFrame) -> list[str]:
    """Return the verdict in two sentences: on polyphony, and on the other dials.

    Parameters
    ----------
    table, trends : pandas.DataFrame
        As `lib.dial.write` returns them.
    """
    return [_on_polyphony(table, trends), _on_the_others(table, trends)]


def _on_polyphony(table: pd.DataFrame, trends: pd.DataFrame) -> str:
    lead, share, on_mean = (
        _trend(trends, "events", *what) for what in (("linear", "points"), ("linear", "share"), ("mean", "points"))
    )
    first, last = _ends(table, "events")
    alone = trends[_chosen(trends, "events", "linear", "points") & trends["encoder"].isin(list(ENCODERS))]
    grows, shrinks = int((alone["slope_low"] > 0).sum()), int((alone["slope_high"] < 0).sum())
    return (
        f"**Polyphony:** over {_encoders(alone)}, protobin − linear is {_said(lead, 'first')} points "
        f"of mAP at {first} event{'s' * (first != '1')} and {_said(lead, 'last')} at {last}, a slope of "
        f"{_said(lead, 'slope', 2)} points an event: the gap **{_verb(lead, 'slope')}** with polyphony (alone it grows "
        f"in {grows} and shrinks in {shrinks} of the encoders); as a share of the way from chance to 100 % the "
        f"slope is {_said(share, 'slope', 2)} an event ({_verb(share, 'slope')}), and over linear on the mean token it "
        f"is {_said(on_mean, 'slope', 2)} points ({_verb(on_mean, 'slope')})."
    )


def _on_the_others(table: pd.DataFrame, trends: pd.DataFrame) -> str:
    found = []
    for dial in dict.fromkeys(trends["dial"]):
        if dial != "events":
            lead, share = (_trend(trends, dial, "linear", measure) for measure in ("points", "share"))
            first, last = _ends(table, dial)
            unit = {"snr": " dB", "seconds": " s"}.get(dial, "")
            found.append(
                f"{DIALS[dial].title}, from {first} to {last}{unit}, changes it from {lead['first']:+.1f} by "
                f"{_said(lead, 'change')} points (it {_verb(lead, 'change')}; as a share {_said(share, 'change')}, "
                f"{_verb(share, 'change')})".replace("-", "−")
            )
    if not found:
        return "**The other dials:** this profile turns only how many events there are."
    others = trends[(trends["dial"] != "events") & trends["encoder"].isin(list(ENCODERS))]
    return f"**The other dials,** protobin − linear over {_encoders(others)}: {'; '.join(found)}."


def _encoders(rows: pd.DataFrame) -> str:
    count = rows["encoder"].nunique()
    return f"{count} encoder{'s' * (count > 1)}"


def _chosen(trends: pd.DataFrame, dial: str, against: str, measure: str) -> pd.Series:
    wanted = {"dial": dial, "method": "protobin", "against": against, "measure": measure}
    return (trends[list(wanted)] == pd.Series(wanted)).all(axis=1)


def _trend(trends: pd.DataFrame, dial: str, against: str, measure: str) -> pd.Series:
    """Return protobin's trend along a dial, averaged over all encoders."""
    return trends[_chosen(trends, dial, against, measure) & (trends["encoder"] == "all")].iloc[0]


def _ends(table: pd.DataFrame, dial: str) -> tuple[str, str]:
    """Return what the first and the last position are called."""
    called = table[table["dial"] == dial].sort_values("place")["called"]
    return str(called.iloc[0]), str(called.iloc[-1])


def _said(trend: pd.Series, what: str, digits: int = 1) -> str:
    """Return a number of a trend with its interval."""
    value, low, high = (f"{trend[name]:+.{digits}f}" for name in (what, f"{what}_low", f"{what}_high"))
    return f"{value} ({low} to {high})".replace("-", "−")


def _verb(trend: pd.Series, what: str) -> str:
    """Return what the interval says: all above zero, all below, or neither."""
    if trend[f"{what}_low"] > 0:
        return "grows"
    return "shrinks" if trend[f"{what}_high"] < 0 else "stays within its error"
