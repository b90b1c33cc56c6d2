"""From stored results to comparisons: averages over seeds, bootstrap intervals, paired differences.

All numbers come from ``figures/<profile>/results.csv`` or from the test scores in the finished cells.
"""

import hashlib
import json

import numpy as np
import pandas as pd

from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.files import digest, write_json
from lib.heads import FAMILIES
from lib.metrics import bootstrap_interval, paired_bootstrap
from lib.paths import scratch
from lib.profiles import Profile, load_profile
from lib.provenance import code_version
from lib.results import binarisation_cells, main_cells, prototype_count_cells, read_cell, read_results
from lib.search import Cell

METRICS = {"mAP": "map", "accuracy": "accuracy"}


def final_rows(profile: Profile) -> pd.DataFrame:
    """Return the final test rows of the main comparison: one row a seed, default [cls] and J."""
    rows = read_results(profile.name)
    rows = rows[(rows["split"] == "test") & (rows["J"].isna() | (rows["J"] == profile.prototypes))]
    default = {name: ENCODERS[name].cls for name in profile.encoders}
    return rows[(rows["cls_mode"] == rows["encoder"].map(default)) & rows["head"].isin(profile.heads)]


def averages(profile: Profile) -> pd.DataFrame:
    """Return mean and sd over seeds of each (dataset, encoder, head), in the order of the profile."""
    groups = final_rows(profile).groupby(["dataset", "encoder", "head"], sort=False)["value"]
    return groups.agg(mean="mean", sd="std", n_seeds="count").reset_index()


def is_default(cell: Cell, encoder: str) -> bool:
    """Return whether a cell is on `encoder`, with the [cls] that it has by default."""
    return cell.encoder == encoder and cell.cls_mode == ENCODERS[encoder].cls


def interval(profile: Profile, cell: Cell) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a cell's test metric in percent, over clips and their sources."""
    scores = read_cell(profile, cell).test_scores.numpy()
    low, high = _remembered(profile, cell.metric, scores)[1:]
    return low, high


def difference(profile: Profile, cell: Cell, other: Cell) -> tuple[float, float, float]:
    """Return ``cell - other`` in points of the test metric, with its paired 95 % bootstrap interval."""
    first, second = (read_cell(profile, c).test_scores.numpy() for c in (cell, other))
    return _remembered(profile, cell.metric, first, second)


def _remembered(profile: Profile, metric: str, *scores: np.ndarray) -> tuple[float, float, float]:
    """Return (value, low, high) in percent of one head, or of a difference; drawn once, then read from scratch."""
    data, count = load_dataset(profile.dataset), profile.clips["test"]
    depends = [data.version("test", count), metric, profile.bootstrap_draws, code_version("lib.metrics")]
    key = digest([*depends, *(hashlib.sha256(array.tobytes()).hexdigest() for array in scores)])
    path = scratch() / "bootstrap" / f"{key}.json"
    if not path.is_file():
        draw = paired_bootstrap if len(scores) == 2 else bootstrap_interval
        test = data.targets("test", count), data.sources("test", count)
        found = draw(*scores, *test, METRICS[metric], profile.bootstrap_draws, seed=0)
        write_json(path, [100 * float(number) for number in found[:3]])
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def benchmark(profile_name: str) -> pd.DataFrame:
    """Return the whole comparison: mean, sd, bootstrap interval and paired gain over linear, a row a cell."""
    profile = load_profile(profile_name)
    linear = {
        cell.encoder: cell for cell in main_cells(profile) if cell.head == "linear" and is_default(cell, cell.encoder)
    }
    rows = []
    for cell in main_cells(profile):
        values = [row["value"] for row in read_cell(profile, cell).rows if row["split"] == "test"]
        low, high = interval(profile, cell)
        gain, gain_low, gain_high = difference(profile, cell, linear[cell.encoder])
        rows.append(
            {
                "encoder": cell.encoder,
                "head": cell.head,
                "family": FAMILIES[cell.head],
                "cls_mode": cell.cls_mode,
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


def prototype_counts(profile_name: str) -> pd.DataFrame:
    """Return the J ablation: test mean and sd over seeds of each kind of prototypes at each J."""
    profile = load_profile(profile_name)
    rows = []
    for cell in prototype_count_cells(profile):
        values = [row["value"] for row in read_cell(profile, cell).rows if row["split"] == "test"]
        rows.append((cell.encoder, cell.head, cell.prototypes, np.mean(values), np.std(values, ddof=1), len(values)))
    return pd.DataFrame(rows, columns=["encoder", "head", "J", "mean", "sd", "n_seeds"])


CONTRASTS = {
    "protobin − protofloat": ("protobin", "protofloat"),  # what binarisation costs
    "protofloat − proto": ("protofloat", "proto"),  # what the simpler architecture gains
    "protobin − proto": ("protobin", "proto"),  # both
}


def prototype_contrasts(profile_name: str) -> pd.DataFrame:
    """Return the binarisation ablation: paired differences between kinds of prototypes, on each encoder."""
    profile = load_profile(profile_name)
    cells = {(cell.encoder, cell.head): cell for cell in binarisation_cells(profile)}
    rows = []
    for contrast, (first, second) in CONTRASTS.items():
        for encoder in profile.encoders:
            found = difference(profile, cells[encoder, first], cells[encoder, second])
            rows.append((contrast, encoder, *found))
    return pd.DataFrame(rows, columns=["contrast", "encoder", "difference", "low", "high"])
