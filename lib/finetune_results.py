"""Fine-tunings on disk, beside the cells of the heads: run what is missing or stale, resumably; read what is there.

``make finetune ENCODER=pocket-eat DATASET=many-sounds`` runs one.
"""

import argparse
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lib.errors import InputError
from lib.files import sweep_temporaries
from lib.finetune import FineTuning, depends_on, finetune
from lib.paths import scratch
from lib.profiles import Profile, load_profile
from lib.result_files import read_result, write_result
from lib.search import CellResult
from lib.workers import call, run_parallel


def settings_of(profile: Profile) -> FineTuning:
    """Return the default settings with the seeds of a profile, and no more epochs than its heads are trained for."""
    return FineTuning(epochs=min(FineTuning.epochs, profile.epochs), seeds=profile.seeds)


def result_path(profile_name: str, encoder: str, dataset: str) -> Path:
    """Return the file of a finished fine-tuning; a folder of the same name beside it holds its checkpoints."""
    return scratch() / "cells" / profile_name / f"finetune--{encoder}--{dataset}.safetensors"


def run_finetuning(
    profile_name: str,
    pairs: Sequence[tuple[str, str]],
    settings: FineTuning | None = None,
    workers: int | None = None,
) -> list[tuple[str, str]]:
    """Fine-tune each (encoder, dataset) whose result is missing or no longer matches what it depends on.

    Each pair keeps one core busy; pairs given together are fine-tuned side by side. The settings are those of the
    profile unless others are given.

    Returns
    -------
    list of tuple
        The pairs that were run.
    """
    tasks = finetuning_tasks(profile_name, pairs, settings)
    list(run_parallel(call, tasks, workers))
    return [task[2:4] for task in tasks]


def finetuning_tasks(
    profile_name: str, pairs: Sequence[tuple[str, str]], settings: FineTuning | None = None
) -> list[tuple]:
    """Return what there is to fine-tune as tasks (function, arguments …), for `lib.results.run_cells` to run beside."""
    profile, tasks = load_profile(profile_name), []
    settings = settings or settings_of(profile)
    for encoder, dataset in dict.fromkeys(pairs):
        depends = depends_on(encoder, dataset, profile.clips_of(dataset), settings)
        why = _why_stale(result_path(profile_name, encoder, dataset), depends)
        print(f"fine-tuning of {encoder} on {dataset}: {why or 'up to date'}", flush=True)
        if why:  # what it depends on is noted now: an edit during the run makes the result stale, not fresh
            tasks.append((_run_and_write, profile_name, encoder, dataset, settings, depends))
    return tasks


def _why_stale(path: Path, now: dict) -> str:
    then, _ = read_result(path, [])
    if not then:
        return "to run, there is no result yet"
    changed = [name for name in now if then["depends"].get(name) != now[name]]
    return f"to run again, {', '.join(changed)} changed" if changed else ""


def _run_and_write(profile_name: str, encoder: str, dataset: str, settings: FineTuning, depends: dict) -> None:
    started, path = time.monotonic(), result_path(profile_name, encoder, dataset)
    checkpoints = path.with_suffix("")
    if checkpoints.is_dir():
        sweep_temporaries(checkpoints)
    clips = load_profile(profile_name).clips_of(dataset)
    result = finetune(encoder, dataset, clips, settings, checkpoints=checkpoints)
    write_result(path, depends, result.rows, {"test_scores": result.test_scores})
    for checkpoint in checkpoints.glob("*.pt"):
        checkpoint.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another run may be at the same pair, and has its own to keep there
        checkpoints.rmdir()
    with contextlib.suppress(OSError), (path.parent / "times.csv").open("a", encoding="utf-8") as file:
        file.write(f"{path.stem},{time.monotonic() - started:.2f},{torch.__version__}\n")


def finished(profile_name: str) -> list[tuple[str, str]]:
    """Return the (encoder, dataset) pairs of a profile whose fine-tuning is there: its own, and what was asked for."""
    paths = sorted(result_path(load_profile(profile_name).name, "*", "*").parent.glob("finetune--*--*.safetensors"))
    pairs = [tuple(path.stem.split("--")[1:]) for path in paths if read_result(path, [])[0]]
    return [pair for pair in pairs if len(pair) == 2]


def read_finetuning(profile_name: str, encoder: str, dataset: str) -> CellResult:
    """Read a finished fine-tuning; a missing or damaged one is an `InputError` that says how to make it."""
    header, tensors = read_result(result_path(load_profile(profile_name).name, encoder, dataset))
    if not header:
        raise InputError(
            f"The fine-tuning of '{encoder}' on '{dataset}' in profile '{profile_name}' is missing or damaged; run "
            f"`make finetune ENCODER={encoder} DATASET={dataset} PROFILE={profile_name}`."
        )
    return CellResult(header["rows"], tensors["test_scores"], {})


def main() -> None:
    """Parse the command line, fine-tune, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", nargs="?", default="pocket-eat", help="an encoder with weights")
    parser.add_argument("dataset", nargs="?", help="a dataset (default: the profile's)")
    parser.add_argument("--profile", default="pocket", help="whose numbers of clips to take (default: pocket)")
    arguments = parser.parse_args()
    try:
        dataset = arguments.dataset or load_profile(arguments.profile).dataset
        run_finetuning(arguments.profile, [(arguments.encoder, dataset)])
        rows = read_finetuning(arguments.profile, arguments.encoder, dataset).rows
    except InputError as error:
        raise SystemExit(f"make finetune: {error}") from None
    values = [row["value"] for row in rows if row["split"] == "test"]
    print(f"{rows[0]['metric']} on test {np.mean(values):.2f}, seeds from {min(values):.2f} to {max(values):.2f}")


if __name__ == "__main__":
    main()
