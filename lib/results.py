"""Cells on disk: which ones a profile needs, run those that are missing or stale, gather all into one table."""

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open

from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS, encoder_version, load_encoder
from lib.errors import InputError
from lib.files import sweep_temporaries, write_tensors, write_text
from lib.heads import HEADS
from lib.paths import figure_root, scratch
from lib.profiles import PROTOTYPE_HEADS, Profile, load_profile
from lib.provenance import code_version, definition_version
from lib.search import Cell, CellResult, run_cell
from lib.store import build_store, load_embeddings
from lib.workers import run_parallel

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
    "split",
    "metric",
    "value",
    "parameters",
]


def main_cells(profile: Profile) -> list[Cell]:
    """Return the cells of the main comparison: every head on every encoder, and linear on the mean token."""
    cells = [_cell(profile, encoder, head) for encoder in profile.encoders for head in profile.heads]
    return cells + [_cell(profile, encoder, "linear", cls_mode="mean") for encoder in profile.mean_cls]


def prototype_count_cells(profile: Profile) -> list[Cell]:
    """Return the cells of the J ablation: each kind of prototypes at each J, on the ablation's encoders."""
    counts = sorted({profile.prototypes, *profile.ablation_prototypes})
    return [
        _cell(profile, encoder, head, prototypes=count)
        for encoder in profile.ablation_encoders
        for head in PROTOTYPE_HEADS
        for count in counts
    ]


def binarisation_cells(profile: Profile) -> list[Cell]:
    """Return the cells of the binarisation ablation: each kind of prototypes at the profile's J, on every encoder."""
    return [_cell(profile, encoder, head) for encoder in profile.encoders for head in PROTOTYPE_HEADS]


def all_cells(profile: Profile) -> list[Cell]:
    """Return every cell of a profile once, in the order of the table."""
    return list(dict.fromkeys(main_cells(profile) + binarisation_cells(profile) + prototype_count_cells(profile)))


def _cell(profile: Profile, encoder: str, head: str, cls_mode: str = "", prototypes: int = 0) -> Cell:
    manifest = load_dataset(profile.dataset).manifest
    return Cell(
        encoder,
        profile.dataset,
        head,
        prototypes or profile.prototypes,
        cls_mode or ENCODERS[encoder].cls,
        metric=manifest["metric"],
        loss="asymmetric" if manifest["task"] == "multi-label" else "cross-entropy",
    )


def cell_path(profile: Profile, cell: Cell) -> Path:
    """Return the file of a finished cell: rows and what they depend on in its header, scores and weights as tensors."""
    return scratch() / "cells" / profile.name / f"{cell.key}.safetensors"


def depends_on(profile: Profile, cell: Cell) -> dict:
    """Return all that a cell's result depends on; the head's version is that of its own code alone."""
    data, encoder = load_dataset(cell.dataset), load_encoder(cell.encoder)
    fields = ("trials", "first_rung", "rung_factor", "top_k", "seeds", "epochs", "batch_size")
    return {
        "cell": json.loads(json.dumps(asdict(cell))),
        "protocol": {name: json.loads(json.dumps(getattr(profile, name))) for name in fields},
        "clips": [data.version(split, count) for split, count in profile.clips.items()],
        "encoder": encoder_version(cell.encoder, encoder),
        "libraries": {name: version(name) for name in ("optuna", "numpy", "scipy")},
        "head_code": definition_version("lib.heads", HEADS[cell.head].__name__),
        "code": [
            code_version("lib.train", "lib.search", "lib.loss", "lib.metrics", "lib.store"),
            code_version("lib.engine", "lib.engine_heads", "lib.engine_pooling", "lib.pooling"),
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
    path = cell_path(profile, cell)
    header, tensors = _read(path)
    if not header:
        raise InputError(
            f"The cell '{cell.key}' of profile '{profile.name}' is missing or damaged; run notebooks 02 to 04 "
            f"(`make figures PROFILE={profile.name}`)."
        )
    return CellResult(json.loads(header["rows"]), tensors.pop("test_scores"), tensors)


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata(), tensors
    except (FileNotFoundError, SafetensorError, OSError):
        return {}, {}


def run_cells(profile_name: str, cells: Sequence[Cell], workers: int | None = None, show: bool = True) -> list[str]:
    """Run the cells whose result is missing or no longer matches what it depends on; keep the others.

    Returns
    -------
    list of str
        The keys of the cells that were run.
    """
    profile = load_profile(profile_name)
    folder = scratch() / "cells" / profile.name
    if folder.is_dir():
        sweep_temporaries(folder)
    # What a cell depends on is noted before it is run: an edit during the run makes the result stale, not fresh.
    stale = [(cell, depends, why) for cell in cells for depends, why in [_stale(profile, cell)] if why]
    if stale:
        build_store(sorted({cell.encoder for cell, _, _ in stale}), profile.dataset, profile.clips, workers)
    stale.sort(key=lambda item: COSTLY_FIRST.index(item[0].head) if item[0].head in COSTLY_FIRST else 99)
    if show:
        _tell(len(cells), [why for _, _, why in stale])
    started = time.monotonic()
    tasks = [(profile.name, cell, depends) for cell, depends, _ in stale]
    for number, (key, seconds) in enumerate(run_parallel(_run_and_write, tasks, workers), start=1):
        _log(folder, key, seconds)
        if show:
            print(f"{number}/{len(stale)} {key}", flush=True)
    if stale and show:
        print(f"done in {(time.monotonic() - started) / 60:.1f} min")
    return [task[1].key for task in tasks]


def _tell(cells: int, reasons: list[str]) -> None:
    print(f"{cells - len(reasons)} of {cells} cells are up to date")
    for why in sorted(set(reasons)):
        print(f"  {reasons.count(why)} to run: {why}")


def _stale(profile: Profile, cell: Cell) -> tuple[dict, str]:
    """Return what a cell depends on now, and why it has to be run, or '' if its result stands."""
    now = depends_on(profile, cell)
    header, _ = _read(cell_path(profile, cell))
    if not header:
        return now, "not run yet"
    then = json.loads(header["depends"])
    changed = [name for name in now if then.get(name) != now[name]]
    return now, f"{', '.join(changed)} changed" if changed else ""


def _run_and_write(profile_name: str, cell: Cell, depends: dict) -> tuple[str, float]:
    started, profile = time.monotonic(), load_profile(profile_name)

    def load(split: str):  # noqa: ANN202
        return load_embeddings(cell.encoder, cell.dataset, split, profile.clips[split], cell.cls_mode)

    result = run_cell(cell, profile, load)
    header = {"depends": json.dumps(depends), "rows": json.dumps(result.rows)}
    write_tensors(cell_path(profile, cell), {"test_scores": result.test_scores, **result.weights}, header)
    return cell.key, time.monotonic() - started


def _log(folder: Path, key: str, seconds: float) -> None:
    """Append the time of a cell; times live beside the results, never in them."""
    with contextlib.suppress(OSError), (folder / "times.csv").open("a", encoding="utf-8") as file:
        file.write(f"{key},{seconds:.2f},{torch.__version__}\n")


def gather(profile_name: str) -> pd.DataFrame:
    """Gather all cells of a profile into ``figures/<profile>/results.csv``, one row a run, and return the table."""
    profile = load_profile(profile_name)
    if results_path(profile.name).parent.is_dir():
        sweep_temporaries(results_path(profile.name).parent)
    rows = [{"profile": profile.name, **row} for cell in all_cells(profile) for row in read_cell(profile, cell).rows]
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
