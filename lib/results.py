"""Cells on disk: which ones a profile needs, run those that are missing or stale, gather all into one table."""

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load, save

from lib.arms import feature_versions
from lib.cluster import Task, Workers, open_workers
from lib.data.datasets import load_dataset
from lib.data.paper_manifests import read_manifest
from lib.data.paper_sets import NAMES as OFFICIAL
from lib.encoders import ENCODERS, SHIPPED, encoder_version, load_encoder
from lib.errors import InputError
from lib.files import sweep_temporaries, write_gzipped, write_text
from lib.finetune_results import finished, read_finetuning
from lib.heads import KNOWN
from lib.paths import figure_root, scratch
from lib.profiles import LR_RANGES, PROTOTYPE_HEADS, WEIGHT_DECAY_RANGE, Profile, load_profile
from lib.provenance import code_version, definition_version
from lib.result_files import read_result, write_result
from lib.search import Cell, CellResult, run_cell
from lib.store import build_store, grid_of
from lib.store_checks import check_same_clips, complete_here, other_than, with_same_clips
from lib.streaming import asked_device, check_room, device, trained_bytes, within_memory
from lib.workers import call, run_parallel, sent_to

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
        for count in sorted({_facts(dataset)[0], *profile.ablation_prototypes})
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
    usual, metric, task, views = _facts(dataset)
    return Cell(
        encoder,
        dataset,
        head,
        prototypes or usual,
        cls_mode or ENCODERS[encoder].cls,
        metric=metric,
        loss="asymmetric" if task == "multi-label" else "cross-entropy",
        views=views,
    )


def _facts(dataset: str) -> tuple[int, str, str, int]:
    """Return J, metric, task and training views of a dataset; of the paper's sets no copy has to be here."""
    if dataset in OFFICIAL:
        return _official_facts(dataset)
    data = load_dataset(dataset)
    return data.prototypes, data.manifest["metric"], data.manifest["task"], data.views("train")


@functools.cache
def _official_facts(dataset: str) -> tuple[int, str, str, int]:
    manifest = read_manifest(dataset.partition("-fold-")[0])
    views = manifest["views"]["count"] if manifest["views"] else 1
    return manifest["prototypes"], manifest["metric"], manifest["task"], views


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
            self.clips[cell.dataset] = clip_versions(cell.dataset, self.profile.clips_of(cell.dataset))
        if cell.encoder not in self.encoders:
            self.encoders[cell.encoder] = encoder_version(cell.encoder, load_encoder(cell.encoder))
        kind = KNOWN[cell.head]
        fields = ("trials", "first_rung", "rung_factor", "top_k", "seeds", "epochs", "products")
        protocol = {name: json.loads(json.dumps(getattr(self.profile, name))) for name in fields}
        ranges = {name: list(LR_RANGES[name]) for name in LR_RANGES} | {"weight decay": list(WEIGHT_DECAY_RANGE)}
        return {
            "cell": json.loads(json.dumps(asdict(cell))),
            "protocol": protocol | {"batch_size": self.profile.batch_size_of(cell.dataset), "ranges": ranges},
            "clips": self.clips[cell.dataset],
            "encoder": self.encoders[cell.encoder],
            "libraries": {name: version(name) for name in ("optuna", "numpy", "scipy")},
            "head_code": definition_version(kind.__module__, kind.__name__),
            "code": [
                code_version("lib.train", "lib.search", "lib.loss", "lib.metrics", "lib.store"),
                code_version("lib.engine", "lib.engine_heads", "lib.engine_loss", "lib.engine_maxima"),
                code_version("lib.engine_pooling", "lib.pooling", "lib.hardware"),
                definition_version("lib.heads", "parameter_groups"),
            ],
            **feature_versions(cell),
        }


def clip_versions(dataset: str, counts: dict[str, int]) -> list[dict]:
    """Return the versions of the first clips of each split, split by split, view by view."""
    data = load_dataset(dataset)
    return [data.version(split, count, view) for split, count in counts.items() for view in range(data.views(split))]


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
    stale = [(cell, depends, why) for cell, depends in found for why in [why_stale(profile, cell, depends)] if why]
    stale.sort(key=lambda item: COSTLY_FIRST.index(item[0].head) if item[0].head in COSTLY_FIRST else 99)
    if show:
        _tell(len(found), [why for _, _, why in stale])
    if not stale and not beside:
        return []
    needs = _memory_needed(profile, [cell for cell, _, _ in stale])
    stale.sort(key=lambda item: -needs.get(item[0].key, 0))  # what may be refused is so before others are computed
    with open_workers(len(stale) + len(beside), workers) as crew:
        if not crew.elsewhere:  # else each worker speaks for its machine
            for key, need in needs.items():
                check_room(key, need, asked_device())
        if crew.share_disk:
            _build_stores(profile, [(cell, depends) for cell, depends, _ in stale], crew, workers)
        started, number = time.monotonic(), 0
        tasks = [Task(f"the task '{task[0].__name__}'", call, task) for task in beside] if crew.share_disk else []
        tasks += [_task(profile, cell, depends, needs.get(cell.key, 0), crew) for cell, depends, _ in stale]
        for task, done in crew.run(tasks):
            if task.function is call:  # one of the other tasks
                continue
            number += 1
            key = _keep(profile, *task.arguments[1:3], *done)
            if show:
                print(f"{number}/{len(stale)} {key}", flush=True)
        if not crew.share_disk:  # what the other tasks write is wanted here
            list(run_parallel(call, beside, workers))
    if stale and show:
        print(f"done in {(time.monotonic() - started) / 60:.1f} min")
    return [cell.key for cell, _, _ in stale]


def _tell(cells: int, reasons: list[str]) -> None:
    print(f"{cells - len(reasons)} of {cells} cells are up to date")
    for why in sorted(set(reasons)):
        print(f"  {reasons.count(why)} to run: {why}")


def why_stale(profile: Profile, cell: Cell, now: dict) -> str:
    """Return why a cell has to be run, or '' if its result stands."""
    header, _ = read_result(cell_path(profile, cell), [])
    if not header:
        return "not run yet"
    then = header["depends"]
    changed = [name for name in now if then.get(name) != now[name]]
    return f"{', '.join(changed)} changed" if changed else ""


def _build_stores(
    profile: Profile, found: Sequence[tuple[Cell, dict]], crew: Workers, workers: int | None = None
) -> None:
    """Make the stores complete that some cells read; other machines must have the same recordings."""
    for dataset in dict.fromkeys(cell.dataset for cell, _ in found):
        encoders = sorted({cell.encoder for cell, _ in found if cell.dataset == dataset})
        clips = next(depends["clips"] for cell, depends in found if cell.dataset == dataset)
        with stores_sent(crew, dataset, clips):
            build_store(encoders, dataset, profile.clips_of(dataset), workers)


def fill_stores(wanted: Sequence[tuple[Sequence[str], str, dict[str, int]]], workers: int | None = None) -> list[str]:
    """Make stores complete, on all cores or on the workers of ``SCHEDULER``, and print what is done.

    Parameters
    ----------
    wanted : sequence of tuple
        Encoders, dataset and split → number of clips, as for `lib.store.build_store`.
    workers : int, optional
        Processes, as there.

    Returns
    -------
    list of str
        The lines that were printed: one for each split that was (re)built, saying why.
    """
    versions, lines = {}, []
    clips = {dataset: clip_versions(dataset, counts) for _, dataset, counts in wanted}
    if os.environ.get("SCHEDULER"):  # else nobody is to be asked
        versions = {n: encoder_version(n, load_encoder(n)) for n in sorted({n for some, _, _ in wanted for n in some})}
    needed = any(
        other_than(name, dataset, counts, clips[dataset], versions[name])
        for encoders, dataset, counts in wanted
        for name in encoders
        if versions
    )
    with workers_for_stores(needed, workers) as crew:
        for encoders, dataset, counts in wanted:
            with stores_sent(crew, dataset, clips[dataset]):
                lines += (found := build_store(encoders, dataset, counts, workers))
            for line in found:
                print(line)
    return lines


@contextlib.contextmanager
def workers_for_stores(
    needed: bool, workers: int | None = None, say: Callable[[str], Any] = print
) -> Iterator[Workers]:
    """Yield who fills stores: those of ``SCHEDULER`` if any is needed and they see this disk, else this machine."""
    with open_workers(1, workers) if needed else contextlib.nullcontext(Workers()) as crew:
        if crew.share_disk:  # on this machine a store starts processes of its own
            yield crew
            return
    say("The workers do not share UNMUTE_CACHE with this machine: the embeddings that it needs are made here.")
    yield Workers()


@contextlib.contextmanager
def stores_sent(crew: Workers, dataset: str, clips: list[dict]) -> Iterator[None]:
    """Have workers elsewhere fill the stores of a dataset that are built in this block, once their copy is this one."""

    def sent(function: Callable[..., Any], tasks: Sequence[tuple]) -> Iterator[Any]:
        # The tasks of both kinds of stores begin with their encoders; shipped ones run on the processor anyway.
        gpu = [asked_device() == "cuda" and not set(task[0]).issubset(SHIPPED) for task in tasks]
        return crew.map(with_same_clips, [(dataset, clips, function, *task) for task in tasks], gpu)

    with sent_to(sent) if crew.elsewhere else contextlib.nullcontext():
        yield


def _memory_needed(profile: Profile, cells: Sequence[Cell]) -> dict[str, int]:
    """Return what the training of cells on published encoders takes; the shipped ones are all small."""
    large = [cell for cell in cells if cell.encoder not in SHIPPED and getattr(cell, "features", "last") == "last"]
    needs = {}
    for cell in sorted(large, key=lambda cell: cell.encoder):  # so that each encoder is read once
        encoder, data = load_encoder(cell.encoder), load_dataset(cell.dataset)
        sizes = (encoder.geometry.dim, len(data.classes), tuple(grid_of(encoder, data)), cell.prototypes)
        needs[cell.key] = trained_bytes(profile, cell.head, *sizes, **cell.options)
    return needs


def _task(profile: Profile, cell: Cell, depends: dict, need: int, crew: Workers) -> Task:
    """Return a cell as a task; where disks are not shared it brings its store along by itself."""
    asked, own_store = asked_device(), crew.elsewhere and not crew.share_disk
    if not crew.elsewhere:
        device(asked)  # raises where there is none
    return Task(
        f"the cell '{cell.key}'",
        _run,
        (profile.name, cell, depends, asked, need, crew.elsewhere, own_store),
        gpu=asked == "cuda",
    )


def _run(
    profile_name: str, cell: Cell, depends: dict, asked: str, need: int, elsewhere: bool, own_store: bool
) -> tuple[float, list[dict], list[str], bytes]:
    """Run a cell in whatever process: seconds, rows, names of tensors, and these as bytes, for who asked to write."""
    started, profile = time.monotonic(), load_profile(profile_name)
    check_room(cell.key, need, asked)
    if elsewhere:  # labels are read from the copy that is here
        check_same_clips(cell.dataset, depends["clips"])
    if own_store:
        counts = profile.clips_of(cell.dataset)
        complete_here(cell.encoder, cell.dataset, counts, depends["clips"], depends["encoder"])
    result = run_cell(cell, profile, within_memory(cell, profile, asked))
    tensors = {"test_scores": result.test_scores, **result.weights}
    sent = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    return time.monotonic() - started, result.rows, list(tensors), sent


def _keep(
    profile: Profile, cell: Cell, depends: dict, seconds: float, rows: list[dict], names: list[str], sent: bytes
) -> str:
    """Write what came of a cell and return its key."""
    tensors = load(sent)
    write_result(cell_path(profile, cell), depends, rows, {name: tensors[name] for name in names})
    _log(cell_path(profile, cell).parent, cell.key, seconds)
    return cell.key


def _log(folder: Path, key: str, seconds: float) -> None:
    """Append the time of a cell; times live beside the results, never in them."""
    with contextlib.suppress(OSError), (folder / "times.csv").open("a", encoding="utf-8") as file:
        file.write(f"{key},{seconds:.2f},{torch.__version__}\n")


def gather(profile_name: str) -> pd.DataFrame:
    """Gather runs into ``results.csv`` and trials of searches, many more, into ``trials.csv.gz``; return all rows."""
    profile, folder = load_profile(profile_name), results_path(profile_name).parent
    if folder.is_dir():
        sweep_temporaries(folder)
    results = [read_rows(profile, cell) for cell in all_cells(profile)]
    results += [read_finetuning(profile.name, *pair).rows for pair in finished(profile.name)]
    rows = [{"profile": profile.name, **row} for result in results for row in result]
    table = pd.DataFrame(rows, columns=COLUMNS)
    trial = table["stage"] == "search"
    write_text(results_path(profile.name), table[~trial].to_csv(index=False, lineterminator="\n"))
    write_gzipped(folder / "trials.csv.gz", table[trial].to_csv(index=False, lineterminator="\n"))
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
