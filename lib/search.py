"""From a cell to its result: search on validation, re-run the best over seeds, test the winner, once.

The paper's two stages (Section 4.1, Appendix D.4): trials with Sobol, then TPE, under successive halving; then
the top-k configurations over several seeds. The test split is read after the last choice has been made.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import optuna
import torch
from torch import Tensor

from lib.heads import FAMILIES
from lib.profiles import LR_RANGES, WEIGHT_DECAY_RANGE, Profile
from lib.store import Embeddings
from lib.train import Run, Training, evaluate

logging.getLogger("optuna").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Cell:
    """One (encoder, dataset, head, J), and what stands for [cls].

    `metric` and `loss` follow from the dataset.
    """

    encoder: str
    dataset: str
    head: str
    prototypes: int = 20
    cls_mode: str = "native"
    metric: str = "mAP"
    loss: str = "asymmetric"
    options: dict = field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        """A name for files and for people."""
        parts = [self.encoder, self.dataset, self.head]
        if FAMILIES[self.head] == "prototype":
            parts.append(f"J{self.prototypes}")
        if self.cls_mode != "native":
            parts.append(self.cls_mode)
        return "--".join(parts)


@dataclass
class CellResult:
    """What a cell leaves behind.

    Attributes
    ----------
    rows : list of dict
        One row a run (and rung): lr, wd, seeds, epochs, split, value.
    test_scores : torch.Tensor
        float32 ``(seeds, clips, C)``.
    weights : dict
        State of the first seed's final head, and its initial state under ``initial.``.
    """

    rows: list[dict]
    test_scores: Tensor
    weights: dict[str, Tensor]


Loader = Callable[[str], Embeddings]


def run_cell(cell: Cell, profile: Profile, load: Loader) -> CellResult:
    """Search, re-run over seeds, test.

    Parameters
    ----------
    cell : Cell
        What to train.
    profile : Profile
        Trials, rungs, seeds, epochs.
    load : callable
        Split → its embeddings; called with "test" only after the configuration is chosen.

    Returns
    -------
    CellResult
    """
    train, val = load("train"), load("val")
    rows, candidates = search(cell, profile, train, val)
    finals = {candidate: rerun(cell, profile, candidate, train, val, rows) for candidate in candidates}
    winner = max(finals, key=lambda candidate: np.mean([value for _, value in finals[candidate]]))

    test = load("test")  # nothing is chosen after this line
    scores = []
    for training, _ in finals[winner]:
        scores.append(training.scores(test))
        value = evaluate(scores[-1], test.targets, cell.metric)
        rows.append(_row(cell, training.run, "test", value, len(train), stage="final"))
    first = finals[winner][0][0]
    initial = Training(first.run, train).head.state_dict()
    weights = {**first.head.state_dict(), **{f"initial.{name}": value for name, value in initial.items()}}
    for row in rows:
        row["parameters"] = sum(p.numel() for p in first.head.parameters())
    return CellResult(rows, torch.stack(scores), weights)


def search(
    cell: Cell, profile: Profile, train: Embeddings, val: Embeddings
) -> tuple[list[dict], list[tuple[float, float]]]:
    """Search learning rate and weight decay; return a row for each rung that a trial reached, and the best k pairs."""
    rows: list[dict] = []

    def objective(trial: optuna.Trial) -> float:
        run = base_run(cell, profile, *_suggest(trial, cell.head))
        training, value = Training(run, train), float("nan")
        for epoch in rungs(profile):
            value = evaluate(training.advance(epoch).scores(val), val.targets, cell.metric)
            rows.append(_row(cell, run, "val", value, len(train), stage="search", rung=epoch))
            trial.report(value, epoch)
            if epoch < profile.epochs and trial.should_prune():
                raise optuna.TrialPruned
        return value

    pruner = optuna.pruners.SuccessiveHalvingPruner(profile.first_rung, profile.rung_factor, 0)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    exploring = -(-profile.trials // 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Sobol, since Optuna 3.0
        sobol = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=0)
    tpe = optuna.samplers.TPESampler(seed=0, n_startup_trials=exploring)
    for sampler, trials in ((sobol, exploring), (tpe, profile.trials - exploring)):
        study.sampler = sampler
        study.optimize(objective, n_trials=trials)
    # Trials that got further come first, so that there are k even where an early good one stopped all others.
    reached = [trial for trial in study.trials if trial.intermediate_values]
    best = sorted(reached, key=_last_rung_and_value, reverse=True)[: profile.top_k]
    return rows, [(trial.params["lr"], trial.params["weight_decay"]) for trial in best]


def _last_rung_and_value(trial: optuna.trial.FrozenTrial) -> tuple[int, float]:
    rung = max(trial.intermediate_values)
    return rung, trial.intermediate_values[rung]


def rerun(
    cell: Cell,
    profile: Profile,
    setting: tuple[float, float],
    train: Embeddings,
    val: Embeddings,
    rows: list[dict],
) -> list[tuple[Training, float]]:
    """Train one configuration with each seed, each in a batch order of its own; append rows, return (run, value)."""
    results = []
    for seed in profile.seeds:
        run = replace(base_run(cell, profile, *setting), seed=seed, order_seed=seed)
        training = Training(run, train).advance(run.epochs)
        value = evaluate(training.scores(val), val.targets, cell.metric)
        rows.append(_row(cell, run, "val", value, len(train), stage="seeds"))
        results.append((training, value))
    return results


def base_run(cell: Cell, profile: Profile, lr: float, weight_decay: float) -> Run:
    """Return the run of a search trial: seed and batch order 0, shared by all trials."""
    return Run(
        cell.head,
        lr,
        weight_decay,
        profile.epochs,
        profile.batch_size,
        prototypes=cell.prototypes,
        loss=cell.loss,
        options=cell.options,
    )


def rungs(profile: Profile) -> list[int]:
    """Return the epochs at which a trial is judged: first_rung · factor^i, and the last."""
    epochs, rung = [], profile.first_rung
    while rung < profile.epochs:
        epochs.append(rung)
        rung *= profile.rung_factor
    return [*epochs, profile.epochs]


def _suggest(trial: optuna.Trial, head: str) -> tuple[float, float]:
    low, high = LR_RANGES["prototype" if FAMILIES[head] == "prototype" else "other"]
    lr = trial.suggest_float("lr", low, high, log=True)
    return lr, trial.suggest_float("weight_decay", *WEIGHT_DECAY_RANGE, log=True)


def _row(cell: Cell, run: Run, split: str, value: float, n_train: int, stage: str, rung: int | None = None) -> dict:
    return {
        "dataset": cell.dataset,
        "encoder": cell.encoder,
        "cls_mode": cell.cls_mode,
        "head": cell.head,
        "head_options": ";".join(f"{k}={v}" for k, v in sorted(cell.options.items())),
        "J": cell.prototypes if FAMILIES[cell.head] == "prototype" else None,
        "loss": cell.loss,
        "lr": run.lr,
        "weight_decay": run.weight_decay,
        "seed": run.seed,
        "order_seed": run.order_seed,
        "stage": stage,
        "epochs": run.epochs,
        "rung": rung or run.epochs,
        "n_train": n_train,
        "split": split,
        "metric": cell.metric,
        "value": round(value, 6),
    }
