"""From stored results to comparisons: averages over seeds, bootstrap intervals, paired differences.

All numbers come from ``figures/<profile>/results.csv`` or from the test scores in the finished cells.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.files import digest, write_tensors
from lib.finetune_results import finished, read_finetuning
from lib.heads import FAMILIES
from lib.metrics import Draws, bootstrap_draws, compare_draws, draws_interval
from lib.paths import scratch
from lib.profiles import Profile, load_profile
from lib.provenance import code_version
from lib.results import binarisation_cells, main_cells, prototype_count_cells, read_results, read_rows, read_scores
from lib.search import Cell
from lib.workers import run_parallel

METRICS = {"mAP": "map", "accuracy": "accuracy"}


def final_rows(profile: Profile) -> pd.DataFrame:
    """Return the final test rows of the main comparison: one row a seed, default [cls] and J."""
    rows = read_results(profile.name)
    usual = rows["dataset"].map({name: load_dataset(name).prototypes for name in profile.datasets})
    rows = rows[(rows["split"] == "test") & (rows["J"].isna() | (rows["J"] == usual))]
    default = {name: ENCODERS[name].cls for name in profile.encoders}
    compared = {(name, head) for group in profile.groups for name in group.datasets for head in group.heads}
    known = np.array([pair in compared for pair in zip(rows["dataset"], rows["head"], strict=True)])
    return rows[(rows["cls_mode"] == rows["encoder"].map(default)) & known]


def averages(profile: Profile, group: str = "general") -> pd.DataFrame:
    """Return mean and sd over seeds of each (dataset, encoder, head) of a group, in the order of the profile."""
    rows = final_rows(profile)
    rows = rows[rows["dataset"].map(lambda name: profile.group(name).name) == group]
    return (
        rows.groupby(["dataset", "encoder", "head"], sort=False)["value"]
        .agg(mean="mean", sd="std", n_seeds="count")
        .reset_index()
    )


def is_default(cell: Cell, encoder: str) -> bool:
    """Return whether a cell is on `encoder`, with the [cls] that it has by default."""
    return cell.encoder == encoder and cell.cls_mode == ENCODERS[encoder].cls


def interval(profile: Profile, cell: Cell) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a cell's test metric in percent, over clips and their sources."""
    found = draws_interval(cell_draws(profile, cell))
    return 100 * found.low, 100 * found.high


def difference(profile: Profile, cell: Cell, other: Cell) -> tuple[float, float, float]:
    """Return ``cell - other`` in points of the test metric, with its paired 95 % bootstrap interval."""
    found = compare_draws(cell_draws(profile, cell), cell_draws(profile, other))
    return 100 * found.difference, 100 * found.low, 100 * found.high


def draw_all(profile: Profile, cells: Sequence[Cell], workers: int | None = None) -> None:
    """Draw the bootstrap of many cells, those that are not kept from an earlier time, on all cores."""
    missing = [cell for cell in cells if not draws_path(profile, cell).is_file()]
    if len(missing) > 8:  # else starting processes costs more than it saves
        for _ in run_parallel(_draw, [(profile.name, cell) for cell in missing], workers):
            pass


def _draw(profile_name: str, cell: Cell) -> None:
    cell_draws(load_profile(profile_name), cell)


def cell_draws(profile: Profile, cell: Cell) -> Draws:
    """Return a cell's metric in each draw of the bootstrap; drawn once, then read from scratch."""
    path = draws_path(profile, cell)
    try:
        value, *drawn = load_file(path)["value_and_draws"].tolist()
    except (FileNotFoundError, SafetensorError, KeyError):  # not there yet, or damaged
        data, count = load_dataset(cell.dataset), profile.clips_of(cell.dataset)["test"]
        test = data.targets("test", count), data.sources("test", count)
        found = bootstrap_draws(
            read_scores(profile, cell), *test, METRICS[cell.metric], profile.bootstrap_draws, seed=0
        )
        numbers = torch.from_numpy(np.append(found.value, found.drawn))
        write_tensors(path, {"value_and_draws": numbers})
        value, *drawn = numbers.tolist()
    return Draws(value, np.array(drawn))


def draws_path(profile: Profile, cell: Cell) -> Path:
    """Return where the draws of a cell lie, named after all that they depend on: scores, clips, code."""
    scores = hashlib.sha256(read_scores(profile, cell).tobytes()).hexdigest()
    clips = _clips_version(cell.dataset, profile.clips_of(cell.dataset)["test"])
    key = digest([clips, cell.metric, profile.bootstrap_draws, code_version("lib.metrics"), scores])
    return scratch() / "bootstrap" / f"{key}.safetensors"


@functools.cache
def _clips_version(dataset: str, count: int) -> dict:
    return load_dataset(dataset).version("test", count)


def benchmark(profile_name: str, variants: bool = True) -> pd.DataFrame:
    """Return the whole comparison: mean, sd, bootstrap interval and paired gain over linear, a row a cell.

    Parameters
    ----------
    profile_name : str
        The profile.
    variants : bool
        Whether the other kinds of prototypes (protofloat) are in it, wherever protobin is.
    """
    profile = load_profile(profile_name)
    cells = list(dict.fromkeys(main_cells(profile) + (binarisation_cells(profile) if variants else [])))
    linear = {
        (cell.dataset, cell.encoder): cell for cell in cells if cell.head == "linear" and is_default(cell, cell.encoder)
    }
    draw_all(profile, cells)
    rows = []
    for cell in cells:
        values = final_values(profile, cell)
        low, high = interval(profile, cell)
        base = linear.get((cell.dataset, cell.encoder))  # a part of a profile may be without
        gain, gain_low, gain_high = difference(profile, cell, base) if base else (np.nan,) * 3
        rows.append(
            {
                "dataset": cell.dataset,
                "encoder": cell.encoder,
                "head": cell.head,
                "family": FAMILIES[cell.head],
                "J": cell.prototypes if FAMILIES[cell.head] == "prototype" else np.nan,
                "cls_mode": cell.cls_mode,
                "metric": cell.metric,
                "mean": np.mean(values),
                "sd": np.std(values, ddof=1),
                "low": low,
                "high": high,
                "gain": gain,
                "gain_low": gain_low,
                "gain_high": gain_high,
                "n_seeds": len(values),
            }
        )
    return pd.DataFrame(rows)


def final_values(profile: Profile, cell: Cell) -> list[float]:
    """Return a cell's test metric for each seed, in percent."""
    return [row["value"] for row in read_rows(profile, cell) if row["split"] == "test"]


def prototype_counts(profile_name: str) -> pd.DataFrame:
    """Return the J ablation: test mean and sd over seeds of each kind of prototypes at each J."""
    profile = load_profile(profile_name)
    rows = []
    for cell in prototype_count_cells(profile):
        values = final_values(profile, cell)
        summary = np.mean(values), np.std(values, ddof=1), len(values)
        rows.append((cell.dataset, cell.encoder, cell.head, cell.prototypes, *summary))
    return pd.DataFrame(rows, columns=["dataset", "encoder", "head", "J", "mean", "sd", "n_seeds"])


CONTRASTS = {
    "protobin − protofloat": ("protobin", "protofloat"),  # what binarisation costs
    "protofloat − proto": ("protofloat", "proto"),  # what the simpler architecture gains
    "protobin − proto": ("protobin", "proto"),  # both
}


def prototype_contrasts(profile_name: str) -> pd.DataFrame:
    """Return the binarisation ablation: paired differences between kinds of prototypes, on each dataset and encoder."""
    profile = load_profile(profile_name)
    cells = {(cell.dataset, cell.encoder, cell.head): cell for cell in binarisation_cells(profile)}
    rows = []
    for contrast, (first, second) in CONTRASTS.items():
        for dataset, encoder in dict.fromkeys((cell.dataset, cell.encoder) for cell in cells.values()):
            if not {(dataset, encoder, first), (dataset, encoder, second)} <= set(cells):
                continue  # proto is not among the heads of the controls
            found = difference(profile, cells[dataset, encoder, first], cells[dataset, encoder, second])
            rows.append((contrast, dataset, encoder, *found))
    return pd.DataFrame(rows, columns=["contrast", "dataset", "encoder", "difference", "low", "high"])


def fine_tuning(profile_name: str) -> pd.DataFrame:
    """Return the fine-tuned encoders of a profile: test mean and sd over seeds (none for one seed), a row a pair.

    Those that `make finetune` was asked for are there too.
    """
    profile, rows = load_profile(profile_name), []
    own = [(encoder, profile.dataset) for encoder in profile.fine_tuned]
    for encoder, dataset in dict.fromkeys([*own, *finished(profile_name)]):
        found = read_finetuning(profile_name, encoder, dataset).rows
        values = [row["value"] for row in found if row["split"] == "test"]
        sd = np.std(values, ddof=1) if len(values) > 1 else np.nan
        rows.append((dataset, encoder, "fine-tuning", np.mean(values), sd, len(values)))
    return pd.DataFrame(rows, columns=["dataset", "encoder", "head", "mean", "sd", "n_seeds"])
