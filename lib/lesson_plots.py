"""The pictures of notebook 00, one function each: numbers in, a figure out."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor, nn

from lib.audio import mel_centres
from lib.data.mixer import Event
from lib.figures_style import BLUE, FAINT, FAMILY_COLOURS, INK, ORANGE, STYLE
from lib.loss import asymmetric_loss
from lib.metrics import Interval
from lib.pooling import sign

LADDER = {  # name → γ₋, γ₊, margin, line
    "cross-entropy: γ₋ = γ₊ = 0, m = 0": (0.0, 0.0, 0.0, ":"),
    "focal: γ₋ = γ₊ = 2, m = 0": (2.0, 2.0, 0.0, "--"),
    "asymmetric: γ₋ = 4, γ₊ = 1, m = 0.05": (4.0, 1.0, 0.05, "-"),
}
OUTLINE = [withStroke(linewidth=2.2, foreground=INK)]
BARS = {"linear on cls": "cls", "linear on the mean": "token map", "protobin": "prototype"}  # name → family


def sheet(rows: int, columns: int, height: float, **options: object) -> tuple[Figure, np.ndarray]:
    """Return an empty figure, `height` inches high, and its axes ``(rows, columns)``."""
    figure = Figure(figsize=(7.2, height), dpi=90, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@matplotlib.rc_context(STYLE)
def plot_maps(maps: dict[str, Tensor], encoder: nn.Module, events: Sequence[Event], columns: int = 2) -> Figure:
    """Draw maps ``(S_t, S_f)`` or spectrograms ``(frames, mel)``, each under its title, with a box round each event."""
    geometry, rows = encoder.geometry, -(-len(maps) // columns)
    frames, centres = geometry.grid[0] * geometry.patch[0], mel_centres(geometry.num_mels)
    figure, panels = sheet(rows, columns, 1.5 * rows + 0.3, sharex=True, sharey=True)
    for axes, (title, values) in zip(panels.flat, maps.items(), strict=True):
        extent = (0, frames * geometry.hop_ms / 1000, 0, geometry.num_mels)
        image = values[:frames].T  # frames that no patch holds are left out
        floor = values.nanmedian().item() if len(values) > geometry.grid[0] else None  # hides a spectrogram's noise
        axes.imshow(image, origin="lower", aspect="auto", extent=extent, vmin=floor, interpolation="nearest")
        for event in events:
            low, high = np.searchsorted(centres, (event.low_hz, event.high_hz))
            box = (event.onset, low), event.offset - event.onset, high - low
            axes.add_patch(Rectangle(*box, fill=False, edgecolor="white", linewidth=1.2, path_effects=OUTLINE))
            name = event.label.split("_")[-1]
            axes.text(event.onset, low - 0.5, name, color="white", size=7, va="top", path_effects=OUTLINE)
        axes.set_yticks(np.searchsorted(centres, (250, 1000, 4000)), ["250", "1k", "4k"])
        axes.set_title(title)
    figure.supxlabel("time (s)", size=8)
    figure.supylabel("frequency (Hz)", size=8)
    return figure


@matplotlib.rc_context(STYLE)
def plot_lengths(lengths: Sequence[float], found: dict[str, dict[str, list[float]]], seconds: float = 10.0) -> Figure:
    """Draw how often a clip with the event outscores one without, against the share of the clip that it fills."""
    figure, (panels,) = sheet(1, len(found), 2.5, sharey=True)
    share = 100 * np.asarray(lengths) / seconds
    for axes, (title, curves) in zip(panels, found.items(), strict=True):
        axes.plot(share, curves["max"], "h-", color=ORANGE, label="max")
        axes.plot(share, curves["mean"], "s--", color=BLUE, label="mean")
        axes.axhline(50, color=FAINT, linewidth=0.8, linestyle=":")
        axes.text(share[-1], 49, "guessing", color=FAINT, ha="right", va="top", size=7.5)
        axes.set_xscale("log")
        axes.set_xticks(share, [f"{value:g}" for value in share])
        axes.minorticks_off()
        axes.set(xlabel="share of the clip that the event fills (%)", ylim=(35, 103), title=title)
    panels[0].set_ylabel("clip with the event scores higher (%)")
    panels[0].legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.22))
    return figure


@matplotlib.rc_context(STYLE)
def plot_straight_through(paths: dict[str, Tensor]) -> Figure:
    """Draw the sign with its two slopes, and the paths ``(steps, D)`` of latent prototypes, a few of their entries."""
    figure, ((left, *others),) = sheet(1, 1 + len(paths), 2.5, width_ratios=[1, *[1.2] * len(paths)])
    x = torch.linspace(-1.5, 1.5, 301)
    left.plot(x, sign(x), color=INK, linewidth=1.6)
    left.axhline(0, color=BLUE, linewidth=1.4, linestyle="--")
    left.axhline(1, xmin=0.02, xmax=0.98, color=ORANGE, linewidth=3, alpha=0.45)
    left.text(-1.5, -0.85, "sign", size=8, va="bottom")
    left.text(-1.5, 0.05, "its slope: 0", size=8, color=BLUE, va="bottom")
    left.text(-1.5, 1.06, "the slope used instead: 1", size=8, color="#A84A00", va="bottom")
    left.set(ylim=(-1.25, 1.4), xlabel="latent", title="a step with two slopes")
    for axes, (title, path) in zip(others, paths.items(), strict=True):
        for entry in path[:, :16].T:  # (steps, D) → 16 lines
            flips = bool((sign(entry[0]) != sign(entry[-1])).item())
            axes.plot(entry, color=ORANGE if flips else FAINT, linewidth=1.3 if flips else 0.7)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set(xlabel="step", title=title)
    others[0].set_ylabel("latents; orange: sign flipped")
    return figure


@matplotlib.rc_context(STYLE)
def plot_losses() -> Figure:
    """Draw the ladder of losses over the probability: of a positive, of a negative, and the push on the latter."""
    figure, ((positive, negative, push),) = sheet(1, 3, 2.6)
    p = torch.linspace(0.005, 0.995, 199)
    for name, (gamma_negative, gamma_positive, margin, line) in LADDER.items():
        settings = gamma_negative, gamma_positive, margin
        style = {"linestyle": line, "color": ORANGE if line == "-" else INK, "label": name}
        for axes, target in ((positive, 1.0), (negative, 0.0)):
            logits = p.logit().requires_grad_()
            targets = torch.full((1, 1), target)
            losses = torch.stack([asymmetric_loss(one.view(1, 1), targets, *settings) for one in logits])
            axes.plot(p, losses.detach(), **style)
            if target == 0:
                push.plot(p, torch.autograd.grad(losses.sum(), logits)[0], **style)
    positive.set(title="loss, class present", ylim=(0, 3))
    negative.set(title="loss, class absent", ylim=(0, 3))
    push.set(title="push down, class absent", ylim=(0, 1.25))
    for axes in (positive, negative, push):
        axes.set_xlabel("probability p that the head gives")
    figure.legend(
        *positive.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=7.5
    )
    return figure


@matplotlib.rc_context(STYLE)
def plot_contest(precisions: dict[tuple[str, str], np.ndarray], chance: float) -> Figure:
    """Draw mAP as bars and the classes' average precisions ``(seeds, C)``, mean over seeds, as dots."""
    tests = list(dict.fromkeys(test for _, test in precisions))
    figure, (panels,) = sheet(1, len(tests), 2.8, sharey=True)
    for axes, test in zip(panels, tests, strict=True):
        for x, (name, family) in enumerate(BARS.items()):
            values = 100 * precisions[name, test].mean(0)  # (seeds, C) → (C,)
            axes.bar(x, values.mean(), width=0.62, color=FAMILY_COLOURS[family])
            places = x + np.linspace(-0.2, 0.2, len(values))
            axes.plot(places, values, "o", color="white", markeredgecolor=FAINT, markersize=4)
            axes.text(x, 103, f"{values.mean():.0f}", ha="center", weight="bold", size=9)
        axes.axhline(100 * chance, color=FAINT, linewidth=0.8, linestyle=":")
        axes.text(2.98, 100 * chance + 1, "guessing", color=FAINT, ha="right", va="bottom", size=7.5)
        axes.set_xticks(range(len(BARS)), [name.replace(" on ", "\non ") for name in BARS])
        axes.set(title=test, ylim=(0, 112), xlim=(-0.5, 3.0))
    panels[0].set_ylabel("mAP (%); dots: one class each")
    return figure


@matplotlib.rc_context(STYLE)
def plot_dial(events: Sequence[int], curves: dict[str, Sequence[float]], leads: Sequence[Interval]) -> Figure:
    """Draw mAP (0 to 1) against the number of events, a line a head, and the lead of protobin over linear on cls."""
    figure, ((left, right),) = sheet(1, 2, 2.6)
    for (name, family), (shape, line) in zip(BARS.items(), (("o", "-"), ("s", "--"), ("h", "-")), strict=True):
        style = {"color": FAMILY_COLOURS[family], "marker": shape, "linestyle": line}
        left.plot(events, [100 * value for value in curves[name]], label=name, **style)
    left.set(ylim=(0, 112), ylabel="mAP (%)", title="three heads")
    left.legend(frameon=False)
    values, low, high = (100 * np.array([lead[part] for lead in leads]) for part in range(3))
    right.errorbar(events, values, np.maximum((values - low, high - values), 0), color=ORANGE, marker="h", capsize=2)
    right.axhline(0, color=INK, linewidth=0.8)
    right.set(ylabel="points", title="protobin's lead over linear on cls, 95 %")
    for axes in (left, right):
        axes.set_xticks(events)
        axes.set_xlabel("events in a clip")
    return figure


@matplotlib.rc_context(STYLE)
def plot_cosines(sets: dict[str, Tensor]) -> Figure:
    """Draw for each set of prototypes ``(K, D)`` the histogram of |cos| over all pairs, and √(2/πD)."""
    figure, panels = sheet(1, len(sets), 2.3)
    for axes, (title, prototypes) in zip(panels.flat, sets.items(), strict=True):
        count, dim = prototypes.shape
        pairs = torch.triu_indices(count, count, offset=1)
        cosine = (prototypes @ prototypes.T / dim)[pairs[0], pairs[1]].abs()
        step = 2 / dim * max(1, round(dim / 128))  # between ±1 vectors the cosine moves in steps of 2/D
        axes.hist(cosine, bins=np.arange(-step / 2, 0.6, step), color=FAMILY_COLOURS["token map"], density=True)
        expected = (2 / (torch.pi * dim)) ** 0.5
        axes.axvline(expected, color=INK, linewidth=1.2)
        axes.text(0.98, 0.95, f"√(2/πD) = {expected:.3f}", transform=axes.transAxes, ha="right", va="top", size=8)
        axes.text(0.98, 0.82, f"mean = {cosine.mean():.3f}", transform=axes.transAxes, ha="right", va="top", size=8)
        axes.text(0.98, 0.69, f"largest = {cosine.max():.2f}", transform=axes.transAxes, ha="right", va="top", size=8)
        axes.set(title=title, xlabel="|cos| of two prototypes", yticks=[], xlim=(-0.01, 0.6))
    return figure
