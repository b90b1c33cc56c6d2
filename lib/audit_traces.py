"""The trace that a mistake leaves in the tokens: a few numbers that need no labels, and the range of healthy ones.

A *group* is 32 clips of a split, a shard of the store. A number is taken of a group, for its size matters. Healthy are
the groups of all splits that were prepared as they should be; their range is widened by half of its width on either
side, for other clips are a little different. A mistake leaves a trace in a number, on a dataset, if all groups of the
test split lie outside of that range, on one side. A mistake that is made on clips cut short is held against healthy
clips cut short, all others against healthy whole clips of all datasets of the study.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from lib.audit_faults import BEHIND, DONE, SHORTENED
from lib.audit_stores import fault_folder, load_fault
from lib.audit_table import FAULTS, RIGHT, SHORT, title_of
from lib.errors import InputError
from lib.files import digest, write_json
from lib.paths import scratch
from lib.profiles import Profile
from lib.provenance import definition_version
from lib.shards import clips_of, read_index, shards_of
from lib.store import load_embeddings, store_folder
from lib.token_statistics import mean_cosine
from lib.workers import run_parallel

WIDER = 0.5  # of the healthy range, on either side
COMPONENTS = 3


class Statistic(NamedTuple):
    """A number of a group of clips: what it is called, and what it says."""

    title: str
    about: str


STATISTICS = {  # of the tokens alone
    "length": Statistic("length", "mean length of a token"),
    "alike": Statistic("alike", "mean cosine of two tokens of a clip"),
    "clips": Statistic("clips", "share of variance between clips"),
    "time": Statistic("time", "share of variance between time steps, alike in all clips"),
    "rows": Statistic("rows", "share of variance between frequency rows, alike in all clips"),
    "next_time": Statistic(
        "next in time", "cosine of neighbours in time, without what clips and places have in common"
    ),
    "next_row": Statistic("next in freq.", "cosine of neighbours in frequency, likewise"),
    "pca": Statistic("PCA", f"share of variance on the first {COMPONENTS} principal components"),
    "ending": Statistic("ending", "how much clips differ in their last quarter, over how much in their first"),
    "upper": Statistic("upper", "how much clips differ in the upper half of the rows, over how much in the lower"),
}
BESIDE = {  # beside the right tokens of the same clips
    "cosine": Statistic("cosine", "mean cosine of a token with the right one"),
    "cls": Statistic("cls", "mean cosine of [cls], or what stands for it, with the right one"),
}


# ---- numbers -------------------------------------------------------------------------------------------------------


def trace_of(tokens: Tensor, grid: tuple[int, int]) -> dict[str, float]:
    """Return `STATISTICS` of the tokens of some clips.

    Parameters
    ----------
    tokens : torch.Tensor
        ``(B, N, D)``, time-major; two clips or more.
    grid : tuple of int
        ``(S_t, S_f)``. With one row alone there is nothing to say about frequency: NaN.

    Raises
    ------
    InputError
        If the shape is another one, or there is one clip only.
    """
    if tokens.ndim != 3 or tokens.shape[1] != grid[0] * grid[1] or len(tokens) < 2:
        raise InputError(
            f"Tokens (B, N, D) of two clips or more are expected, with N = {grid[0]} x {grid[1]}, but the shape is "
            f"{tuple(tokens.shape)}."
        )
    x = tokens.double()
    own = (x - x.mean((0, 1))).unflatten(1, grid)  # (B, N, D) → (B, S_t, S_f, D)
    total = own.square().sum()
    place = own - own.mean(0)  # what a place says in this clip and not in all
    apart = place.square().sum(-1).mean(0)  # (S_t, S_f): how much clips differ there
    alone = F.normalize(place - place.mean((1, 2), keepdim=True), dim=-1)
    steps, rows = max(1, grid[0] // 4), grid[1] // 2
    flat = own.flatten(0, 2)  # (B, S_t, S_f, D) → (B · N, D)
    spectrum = np.linalg.eigvalsh((flat.T @ flat).numpy())[::-1]
    found = {
        "length": x.norm(dim=-1).mean(),
        "alike": mean_cosine(x).mean(),
        "clips": own.mean((1, 2)).square().sum() * x.shape[1] / total,
        "time": own.mean((0, 2)).square().sum() * len(x) * grid[1] / total,
        "rows": own.mean((0, 1)).square().sum() * len(x) * grid[0] / total,
        "next_time": (alone[:, 1:] * alone[:, :-1]).sum(-1).mean(),
        "next_row": (alone[:, :, 1:] * alone[:, :, :-1]).sum(-1).mean() if rows else np.nan,
        "pca": spectrum[:COMPONENTS].sum() / spectrum.sum(),
        "ending": apart[-steps:].mean() / apart[:steps].mean(),
        "upper": apart[:, -rows:].mean() / apart[:, :rows].mean() if rows else np.nan,
    }
    return {name: float(value) for name, value in found.items()}


def beside(tokens: Tensor, cls: Tensor, right: Tensor, right_cls: Tensor) -> dict[str, float]:
    """Return `BESIDE` of tokens ``(B, N, D)`` and cls ``(B, D)``, and of the right ones of the same clips."""
    pairs = {"cosine": (tokens, right), "cls": (cls, right_cls)}
    return {name: float(F.cosine_similarity(a.double(), b.double(), dim=-1).mean()) for name, (a, b) in pairs.items()}


def groups_of(count: int) -> list[range]:
    """Return the groups of `count` clips: shards that are full, or all clips if none is."""
    shards = [clips_of(number, count) for number in shards_of(count)]
    return [shard for shard in shards if len(shard) == len(shards[0])]


def reference_of(fault: str) -> str:
    """Return what a mistake is held against."""
    return SHORT if fault in SHORTENED and fault != SHORT else RIGHT


# ---- of the stored clips -------------------------------------------------------------------------------------------


def measure(study: Profile, faults: Mapping[str, Sequence[str]], workers: int | None = None) -> pd.DataFrame:
    """Measure every group of what is stored; what was measured before is read.

    Parameters
    ----------
    study : Profile
        Datasets, encoders, clips.
    faults : mapping
        Dataset → mistakes; `RIGHT`, and `SHORT` where it is named, are measured on all splits.
    workers : int, optional
        Processes; the number of cores by default.

    Returns
    -------
    pandas.DataFrame
        A row a group and number: ``encoder, dataset, fault, split, group, statistic, value``.
    """
    tasks = [
        (study, encoder, dataset, fault, split)
        for dataset, names in faults.items()
        for encoder in study.encoders
        for fault in (RIGHT, *names)
        for split in (study.clips_of(dataset) if fault in (RIGHT, SHORT) else ["test"])
    ]
    stale = [task for task in tasks if _kept(*task) is None]
    for _ in run_parallel(_measure_split, stale, workers):
        pass
    rows = [row for task in tasks for row in _kept(*task)]
    return pd.DataFrame(rows, columns=["encoder", "dataset", "fault", "split", "group", "statistic", "value"])


def _measure_split(study: Profile, encoder: str, dataset: str, fault: str, split: str) -> None:
    count = study.clips_of(dataset)[split]
    right, found = (_load(encoder, dataset, split, count, name) for name in (reference_of(fault), fault))
    rows = []
    for number, clips in enumerate(groups_of(count)):
        part = slice(clips.start, clips.stop)
        tokens, cls = found.tokens[part], found.cls[part]
        numbers = trace_of(tokens, found.grid) | beside(tokens, cls, right.tokens[part], right.cls[part])
        rows += [(encoder, dataset, fault, split, number, name, value) for name, value in numbers.items()]
    depends = _depends(study, encoder, dataset, fault, split)
    write_json(_path(study, encoder, dataset, fault, split), {"depends": depends, "rows": rows})


def _load(encoder: str, dataset: str, split: str, count: int, fault: str) -> object:
    if fault == RIGHT:
        return load_embeddings(encoder, dataset, split, count)
    return load_fault(encoder, dataset, split, count, fault)


def _depends(study: Profile, encoder: str, dataset: str, fault: str, split: str) -> str:
    """Return a digest of all that the numbers of a split depend on: two folders of embeddings, and the code here."""
    count, found = study.clips_of(dataset)[split], []
    for name in (reference_of(fault), fault):
        in_store = name == RIGHT or name in BEHIND
        folder = (store_folder if in_store else fault_folder)(*_place(encoder, dataset, split, count, name, in_store))
        found.append(
            read_index(folder, f"The embeddings of '{encoder}' on {dataset}/{split}", "notebook 22")["depends"]
        )
    made = definition_version(DONE[fault].__module__, fault) if fault in BEHIND else ""
    return digest([found, made, [definition_version(__name__, name) for name in ("trace_of", "beside", "groups_of")]])


def _place(encoder: str, dataset: str, split: str, count: int, name: str, in_store: bool) -> tuple:
    return (encoder, dataset, split, count) if in_store else (encoder, dataset, split, count, name)


def _path(study: Profile, encoder: str, dataset: str, fault: str, split: str) -> Path:
    return scratch() / "cells" / study.name / f"trace--{encoder}--{dataset}--{fault}--{split}.json"


def _kept(study: Profile, encoder: str, dataset: str, fault: str, split: str) -> list[tuple] | None:
    """Return the rows that were measured before, unless they are missing, damaged, or depend on something else."""
    try:
        content = json.loads(_path(study, encoder, dataset, fault, split).read_text(encoding="utf-8"))
        fits = content["depends"] == _depends(study, encoder, dataset, fault, split)
        return [tuple(row) for row in content["rows"]] if fits else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ---- traces --------------------------------------------------------------------------------------------------------


def healthy_range(values: pd.Series) -> tuple[float, float]:
    """Return the range of healthy groups, widened."""
    low, high = values.min(), values.max()
    return low - WIDER * (high - low), high + WIDER * (high - low)


def trace_table(groups: pd.DataFrame) -> pd.DataFrame:
    """Return what each mistake does to each number on each dataset.

    Parameters
    ----------
    groups : pandas.DataFrame
        As from `measure`.

    Returns
    -------
    pandas.DataFrame
        ``encoder, dataset, fault, statistic, value`` (mean over the test split's groups), ``healthy_low,
        healthy_high``, ``way`` (1 above the healthy range, −1 below, 0 within or both) and ``far``, how far the mean
        lies outside, in halves of the healthy range. The numbers of `BESIDE` have no range and no way.
    """
    rows = []
    for (encoder, statistic), part in groups.groupby(["encoder", "statistic"], sort=False):
        for (dataset, fault), some in part[part["split"] == "test"].groupby(["dataset", "fault"], sort=False):
            values = some["value"]
            healthy = part.loc[part["fault"] == (SHORT if fault in SHORTENED else RIGHT), "value"]
            low, high = (np.nan, np.nan) if statistic in BESIDE else healthy_range(healthy)
            way = int((values > high).all()) - int((values < low).all())
            mean, half = values.mean(), max((high - low) / 2, 1e-12)
            far = max(mean - high, 0) / half - max(low - mean, 0) / half
            rows.append((encoder, dataset, fault, statistic, mean, low, high, way, far))
    names = ["encoder", "dataset", "fault", "statistic", "value", "healthy_low", "healthy_high", "way", "far"]
    return pd.DataFrame(rows, columns=names)


def steady(traces: pd.DataFrame, encoder: str) -> pd.DataFrame:
    """Return the traces that a mistake leaves on every dataset that it was measured on, one row each.

    Returns
    -------
    pandas.DataFrame
        ``fault, statistic, way, far``: the way is the same everywhere, `far` is the mean over datasets.
    """
    rows = traces[(traces["encoder"] == encoder) & traces["fault"].isin(FAULTS) & traces["statistic"].isin(STATISTICS)]
    found = rows.groupby(["fault", "statistic"], sort=False).agg(
        least=("way", "min"), most=("way", "max"), far=("far", "mean")
    )
    same = found[(found["least"] == found["most"]) & (found["least"] != 0)]
    return same.rename(columns={"least": "way"}).drop(columns="most").reset_index()


def trace_to_mistake(traces: pd.DataFrame, encoder: str) -> str:
    """Return the table "what is seen → which mistake" in Markdown, the strongest first."""
    found = steady(traces, encoder)
    lines = ["| what you see | which mistakes show it, the strongest first |", "|---|---|"]
    for name, statistic in STATISTICS.items():
        for way, words in ((1, "above"), (-1, "below")):
            part = found[(found["statistic"] == name) & (found["way"] == way)]
            part = part.sort_values("far", key=abs, ascending=False)
            mistakes = "; ".join(f"{title_of(row.fault)} ({abs(row.far):.1f})" for row in part.itertuples())
            lines.append(f"| *{statistic.about}* {words} the healthy range | {mistakes or 'none'} |")
    return "\n".join(lines)


# ---- recognising ---------------------------------------------------------------------------------------------------


def recognise(trace: Mapping[str, float], known: pd.DataFrame) -> pd.Series:
    """Hold a trace against known ones; return how far it is from each, the nearest first.

    Parameters
    ----------
    trace : mapping
        Statistic → number, as `trace_of` returns it.
    known : pandas.DataFrame
        Rows of `trace_table`, of one encoder and one dataset; `RIGHT` is among them.

    Returns
    -------
    pandas.Series
        Mistake → distance: each number in halves of the healthy range from its middle, squashed (asinh), so that no
        single number decides; then the root of the mean square.
    """
    rows = known[known["statistic"].isin(STATISTICS) & ~known["fault"].isin(SHORTENED)]
    middle, half = (rows["healthy_low"] + rows["healthy_high"]) / 2, (rows["healthy_high"] - rows["healthy_low"]) / 2
    half = half.clip(lower=1e-12)
    there = np.arcsinh((rows["value"] - middle) / half)
    here = np.arcsinh((rows["statistic"].map(trace) - middle) / half)
    return ((there - here) ** 2).groupby(rows["fault"]).mean().pow(0.5).sort_values()


def recognised(groups: pd.DataFrame) -> pd.DataFrame:
    """Recognise each group of the test split by what is known from another dataset alone, healthy ranges included.

    Only mistakes that leave a trace there are known; any other should be taken for healthy.

    Returns
    -------
    pandas.DataFrame
        ``encoder, known, dataset, fault, expected, first, third``: shares of the groups of a dataset for which what is
        expected, their own mistake or `RIGHT`, is the nearest of those known on the other, or among the three nearest.
    """
    rows = []
    asked = groups[(groups["split"] == "test") & groups["statistic"].isin(STATISTICS)]
    for (encoder, other), learned in groups.groupby(["encoder", "dataset"], sort=False):
        table = trace_table(learned[~learned["fault"].isin(SHORTENED)])
        seen = {RIGHT, *table.loc[table["way"] != 0, "fault"]}
        known = table[table["fault"].isin(seen)]
        part = asked[(asked["encoder"] == encoder) & (asked["dataset"] != other) & asked["fault"].isin(table["fault"])]
        for (dataset, fault), some in part.groupby(["dataset", "fault"], sort=False):
            expected = fault if fault in seen else RIGHT
            wide = some.pivot(index="group", columns="statistic", values="value")
            ranks = [recognise(dict(row), known).index.get_loc(expected) for _, row in wide.iterrows()]
            shares = np.mean(np.equal(ranks, 0)), np.mean(np.less(ranks, 3))
            rows.append((encoder, other, dataset, fault, expected, *shares))
    return pd.DataFrame(rows, columns=["encoder", "known", "dataset", "fault", "expected", "first", "third"])
