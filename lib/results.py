"""Cells on disk: which ones a profile needs, run those that are missing or stale, gather all into one table."""

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS, encoder_version, load_encoder
from lib.errors import InputError
from lib.files import sweep_temporaries, write_text
from lib.finetune_results import finished, read_finetuning
from lib.heads import HEADS
from lib.paths import figure_root, scratch
from lib.profiles import LR_RANGES, PROTOTYPE_HEADS, WEIGHT_DECAY_RANGE, Profile, load_profile
from lib.provenance import code_version, definition_version
from lib.result_files import read_result, write_result
from lib.search import Cell, CellResult, run_cell
from lib.store import build_store, load_embeddings
from lib.workers import call, run_parallel

COSTLY_FIRST = ("abmilp", "conv", "mhca", "proto", "protofloat", "protobin")
COLUMNS = [
    "profile",
    "dataset",
    "encoder",
    "cls_mode",
    "head",
    "head_options",
    "J",
    "loss",
    "lr",
    "weight_decay",
    "seed",
    "order_seed",
    "stage",
    "epochs",
    "rung",
    "n_train",
    "view",
    "split",
    "metric",
    "value",
    "parameters",
]


def main_cells(profile: Profile) -> list[Cell]:
    """Return the cells of the main comparison: the heads of each dataset on every encoder, linear on the mean token."""
    cells = [
        make_cell(encoder, dataset, head)
        for group in profile.groups
        for dataset in group.datasets
        for encoder in profile.encoders
        for head in group.heads
        if profile.runs(encoder, dataset, head)
    ]
    return cells + [make_cell(encoder, profile.dataset, "linear", cls_mode="mean") for encoder in profile.mean_cls]


def prototype_count_cells(profile: Profile) -> list[Cell]:
    """Return the cells of the J ablation: each kind of prototypes at each J, on the ablation's data and encoders."""
    return [
        make_cell(encoder, dataset, head, count)
        for dataset in profile.ablation_datasets or (profile.dataset,)
        for encoder in profile.ablation_encoders
        for head in PROTOTYPE_HEADS
        for count in sorted({load_dataset(dataset).prototypes, *profile.ablation_prototypes})
    ]


def binarisation_cells(profile: Profile) -> list[Cell]:
    """Return the cells of the binarisation ablation: protobin, protofloat wherever it runs, proto where it is run."""
    cells = main_cells(profile)
    return [
        cell
        for binary in cells
        if binary.head == "protobin"
        for cell in (replace(binary, head=head) for head in PROTOTYPE_HEADS)
        if cell.head == "protofloat" or cell in cells
    ]


def all_cells(profile: Profile) -> list[Cell]:
    """Return every cell of a profile once, in the order of the table."""
    return list(dict.fromkeys(main_cells(profile) + binarisation_cells(profile) + prototype_count_cells(profile)))


def make_cell(encoder: str, dataset: str, head: str, prototypes: int = 0, cls_mode: str = "") -> Cell:
    """Return a cell with what follows from its encoder and dataset: J and [cls] unless given, metric and loss."""
    data = load_dataset(dataset)
    return Cell(
        encoder,
        dataset,
        head,
        prototypes or data.prototypes,
        cls_mode or ENCODERS[encoder].cls,
        metric=data.manifest["metric"],
        loss="asymmetric" if data.manifest["task"] == "multi-label" else "cross-entropy",
        views=data.views("train"),
    )


def cell_path(profile: Profile, cell: Cell) -> Path:
    """Return the file of a finished cell: rows and what they depend on in its header, scores and weights as tensors."""
    return scratch() / "cells" / profile.name / f"{cell.key}.safetensors"


class Versions:
    """What cells depend on, each part computed once for many cells."""

    def __init__(self, profile: Profile) -> None:
        self.profile, self.clips, self.encoders = profile, {}, {}

    def of(self, cell: Cell) -> dict:
        """Return all that a cell's result depends on; the head's version is that of its own code alone."""
        if cell.dataset not in self.clips:
            data, counts = load_dataset(cell.dataset), self.profile.clips_of(cell.dataset)
            self.clips[cell.dataset] = [
                data.version(split, count, view) for split, count in counts.items() for view in range(data.views(split))
            ]
        if cell.encoder not in self.encoders:
            self.encoders[cell.encoder] = encoder_version(cell.encoder, load_encoder(cell.encoder))
        fields = ("trials", "first_rung", "rung_factor", "top_k", "seeds", "epochs", "products")
        protocol = {name: json.loads(json.dumps(getattr(self.profile, name))) for name in fields}
        ranges = {name: list(LR_RANGES[name]) for name in LR_RANGES} | {"weight decay": list(WEIGHT_DECAY_RANGE)}
        return {
            "cell": json.loads(json.dumps(asdict(cell))),
            "protocol": protocol | {"batch_size": self.profile.batch_size_of(cell.dataset), "ranges": ranges},
            "clips": self.clips[cell.dataset],
            "encoder": self.encoders[cell.encoder],
            "libraries": {name: version(name) for name in ("optuna", "numpy", "scipy")},
            "head_code": definition_version("lib.heads", HEADS[cell.head].__name__),
            "code": [
                code_version("lib.train", "lib.search", "lib.loss", "lib.metrics", "lib.store"),
                code_version("lib.engine", "lib.engine_heads", "lib.engine_loss", "lib.engine_pooling", "lib.pooling"),
                code_version("lib.hardware"),
                definition_version("lib.heads", "parameter_groups"),
            ],
        }


def read_cell(profile: Profile, cell: Cell) -> CellResult:
    """Read a finished cell.

    Raises
    ------
    InputError
        If it has not been run, or its file is damaged.
    """
    header, tensors = read_result(cell_path(profile, cell))
    return CellResult(_rows(profile, cell, header), tensors.pop("test_scores"), tensors)


def read_rows(profile: Profile, cell: Cell) -> list[dict]:
    """Return the rows of a finished cell, a row a run; errors as in `read_cell`."""
    return _rows(profile, cell, read_result(cell_path(profile, cell), [])[0])


def read_scores(profile: Profile, cell: Cell) -> np.ndarray:
    """Return the test scores of a finished cell, float32 ``(seeds, clips, C)``; errors as in `read_cell`."""
    header, tensors = read_result(cell_path(profile, cell), ["test_scores"])
    _rows(profile, cell, header)
    return tensors["test_scores"].numpy()


def _rows(profile: Profile, cell: Cell, header: dict) -> list[dict]:
    if not header:
        raise InputError(
            f"The cell '{cell.key}' of profile '{profile.name}' is missing or damaged; run notebooks 02 to 04 "
            f"(`make figures PROFILE={profile.name}`)."
        )
    return header["rows"]


def run_cells(
    profile_name: str,
    cells: Sequence[Cell],
    workers: int | None = None,
    show: bool = True,
    beside: Sequence[tuple] = (),
) -> list[str]:
    """Run the cells whose result is missing or no longer matches what it depends on; keep the others.

    Parameters
    ----------
    profile_name : str
        The profile.
    cells : sequence of Cell
        The cells.
    workers : int, optional
        Processes; the number of cores by default.
    show : bool
        Whether to print what is done.
    beside : sequence of tuple
        Other long tasks, ``(function, *arguments)``, that are started first on the same cores.

    Returns
    -------
    list of str
        The keys of the cells that were run.
    """
    profile = load_profile(profile_name)
    folder, versions = scratch() / "cells" / profile.name, Versions(profile)
    if folder.is_dir():
        sweep_temporaries(folder)
    # What a cell depends on is noted before it is run: an edit during the run makes the result stale, not fresh.
    found = [(cell, versions.of(cell)) for cell in dict.fromkeys(cells)]
    stale = [(cell, depends, why) for cell, depends in found for why in [_stale(profile, cell, depends)] if why]
    for dataset in dict.fromkeys(cell.dataset for cell, _, _ in stale):
        encoders = sorted({cell.encoder for cell, _, _ in stale if cell.dataset == dataset})
        build_store(encoders, dataset, profile.clips_of(dataset), workers)
    stale.sort(key=lambda item: COSTLY_FIRST.index(item[0].head) if item[0].head in COSTLY_FIRST else 99)
    if show:
        _tell(len(found), [why for _, _, why in stale])
    started = time.monotonic()
    tasks = [(_run_and_write, profile.name, cell, depends) for cell, depends, _ in stale]
    number = 0
    for done in run_parallel(call, [*beside, *tasks], workers):
        if done is None:  # one of the other tasks
            continue
        number += 1
        _log(folder, *done)
        if show:
            print(f"{number}/{len(stale)} {done[0]}", flush=True)
    if stale and show:
        print(f"done in {(time.monotonic() - started) / 60:.1f} min")
    return [cell.key for cell, _, _ in stale]


def _tell(cells: int, reasons: list[str]) -> None:
    print(f"{cells - len(reasons)} of {cells} cells are up to date")
    for why in sorted(set(reasons)):
        print(f"  {reasons.count(why)} to run: {why}")


def _stale(profile: Profile, cell: Cell, now: dict) -> str:
    """Return why a cell has to be run, or '' if its result stands."""
    header, _ = read_result(cell_path(profile, cell), [])
    if not header:
        return "not run yet"
    then = header["depends"]
    changed = [name for name in now if then.get(name) != now[name]]
    return f"{', '.join(changed)} changed" if changed else ""


def _run_and_write(profile_name: str, cell: Cell, depends: dict) -> tuple[str, float]:
    started, profile = time.monotonic(), load_profile(profile_name)

    def load(split: str, view: int = 0):  # noqa: ANN202
        count = profile.clips_of(cell.dataset)[split]
        return load_embeddings(cell.encoder, cell.dataset, split, count, cell.cls_mode, view)

    result = run_cell(cell, profile, load)
    tensors = {"test_scores": result.test_scores, **result.weights}
    write_result(cell_path(profile, cell), depends, result.rows, tensors)
    return cell.key, time.monotonic() - started


def _log(folder: Path, key: str, seconds: float) -> None:
    """Append the time of a cell; times live beside the results, never in them."""
    with contextlib.suppress(OSError), (folder / "times.csv").open("a", encoding="utf-8") as file:
        file.write(f"{key},{seconds:.2f},{torch.__version__}\n")


def gather(profile_name: str) -> pd.DataFrame:
    """Gather cells and fine-tunings into ``figures/<profile>/results.csv``, one row a run, and return the table."""
    profile = load_profile(profile_name)
    if results_path(profile.name).parent.is_dir():
        sweep_temporaries(results_path(profile.name).parent)
    results = [read_rows(profile, cell) for cell in all_cells(profile)]
    results += [read_finetuning(profile.name, *pair).rows for pair in finished(profile.name)]
    rows = [{"profile": profile.name, **row} for result in results for row in result]
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_text(results_path(profile.name), table.to_csv(index=False, lineterminator="\n"))
    return table


def results_path(profile_name: str) -> Path:
    """Return where a profile's table of results lies."""
    return figure_root() / profile_name / "results.csv"


def read_results(profile_name: str) -> pd.DataFrame:
    """Read a profile's table of results; a missing one is an `InputError` that says how to make it."""
    load_profile(profile_name)
    path = results_path(profile_name)
    if not path.is_file():
        raise InputError(
            f"There are no results of profile '{profile_name}'; run `make figures PROFILE={profile_name}`."
        )
    return pd.read_csv(path, dtype={"head_options": str})
