"""From a cell to its result: search on validation, re-run the best over seeds, test the winner, once.

The paper's two stages (Section 4.1, Appendix D.4): trials with Sobol, then TPE, under successive halving; then
the top-k configurations over several seeds. The test split is read after the last choice has been made.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import optuna
import torch
from torch import Tensor

from lib.engine import StackedTraining
from lib.errors import Diverged, InputError
from lib.heads import FAMILIES
from lib.profiles import LR_RANGES, WEIGHT_DECAY_RANGE, Profile
from lib.store import Embeddings
from lib.train import Run, evaluate

logging.getLogger("optuna").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Cell:
    """One (encoder, dataset, head, J), and what stands for [cls].

    `metric`, `loss` and `views`, the stored variants of each training clip, follow from the dataset.
    """

    encoder: str
    dataset: str
    head: str
    prototypes: int = 20
    cls_mode: str = "native"
    metric: str = "mAP"
    loss: str = "asymmetric"
    views: int = 1
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


Loader = Callable[..., Embeddings]


def run_cell(cell: Cell, profile: Profile, load: Loader) -> CellResult:
    """Search, re-run over seeds, test.

    Parameters
    ----------
    cell : Cell
        What to train.
    profile : Profile
        Trials, rungs, seeds, epochs.
    load : callable
        Split, and for "train" a view → its embeddings; called with "test" only after the configuration is chosen.

    Returns
    -------
    CellResult
    """
    train, val = load("train"), load("val")
    rows, candidates = search(cell, profile, train, val)
    best = rerun(cell, profile, candidates, load, val, rows)

    test = load("test")  # nothing is chosen after this line
    scores, places = {}, {}  # by seed
    for training in best:
        for number, one in zip(training.alive, training.scores(test), strict=True):
            run = training.runs[number]
            scores[run.seed], places[run.seed] = one, (training, number)
            rows.append(_row(cell, run, "test", evaluate(one, test.targets, cell.metric), len(train), stage="final"))
    training, number = places[profile.seeds[0]]
    initial = {f"initial.{name}": value for name, value in training.initial_state(number).items()}
    for row in rows:
        row["parameters"] = training.parameters
    stacked = torch.stack([scores[seed] for seed in profile.seeds])  # (seeds, clips, C)
    return CellResult(rows, stacked, {**training.state(number), **initial})


def search(
    cell: Cell, profile: Profile, train: Embeddings, val: Embeddings
) -> tuple[list[dict], list[tuple[float, float]]]:
    """Search learning rate and weight decay; return a row for each rung that a trial reached, and the best k pairs."""
    rows: list[dict] = []
    study = optuna.create_study(direction="maximize")
    exploring = -(-profile.trials // 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sobol = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=0)
        tpe = optuna.samplers.TPESampler(seed=0, n_startup_trials=exploring, constant_liar=True)
    for sampler, size in [(sobol, exploring), *((tpe, size) for size in tpe_batches(profile.trials - exploring))]:
        study.sampler, trials = sampler, []
        for _ in range(size):  # each sees those asked before it
            trials.append(study.ask())
            _suggest(trials[-1], cell.head)
        _train_together(study, trials, cell, profile, train, val, rows)
    # Trials that got further come first, so that there are k even where an early good one stopped all others.
    failed = optuna.trial.TrialState.FAIL
    reached = [trial for trial in study.trials if trial.intermediate_values and trial.state != failed]
    best = sorted(reached, key=_last_rung_and_value, reverse=True)[: profile.top_k]
    if not best:
        raise InputError(f"In cell '{cell.key}' the loss of every trial became NaN or infinite; check the embeddings.")
    return rows, [(trial.params["lr"], trial.params["weight_decay"]) for trial in best]


def tpe_batches(trials: int) -> list[int]:
    """Return the sizes of TPE's batches, about as many as each is large."""
    batches = max(1, round(trials**0.5))
    return [len(part) for part in np.array_split(np.arange(trials), batches) if len(part)]


def _train_together(
    study: optuna.Study,
    trials: list[optuna.Trial],
    cell: Cell,
    profile: Profile,
    train: Embeddings,
    val: Embeddings,
    rows: list[dict],
) -> None:
    """Train a batch of trials in lockstep: after each rung only the best go on, and every trial is told its end."""
    pairs = [(trial.params["lr"], trial.params["weight_decay"]) for trial in trials]
    runs = [base_run(cell, profile, *pair) for pair in pairs]
    training = StackedTraining(runs, train, products=profile.products)
    for epoch in rungs(profile):
        try:
            scores = training.advance(epoch).scores(val)  # (runs, clips, C)
        except Diverged:  # all of them; the search goes on with the next batch
            values = {}
            break
        values = {n: evaluate(one, val.targets, cell.metric) for n, one in zip(training.alive, scores, strict=True)}
        for number, value in values.items():
            trials[number].report(value, epoch)
            rows.append(_row(cell, training.runs[number], "val", value, len(train), stage="search", rung=epoch))
        if epoch == profile.epochs:
            break
        cut = _cut(study, epoch, profile.rung_factor)
        for number in [n for n, value in values.items() if value < cut]:
            study.tell(trials[number], state=optuna.trial.TrialState.PRUNED)
            del values[number]
        if not values:
            break
        training.keep(list(values))
    for number, value in values.items():
        study.tell(trials[number], value)
    for number in training.failed:
        study.tell(trials[number], state=optuna.trial.TrialState.FAIL)


def _cut(study: optuna.Study, epoch: int, factor: int) -> float:
    """Return the value that one in `factor` of all trials that reached this rung, also earlier ones, has or exceeds."""
    reached = [t.intermediate_values[epoch] for t in study.trials if epoch in t.intermediate_values]
    return sorted(reached, reverse=True)[-(-len(reached) // factor) - 1]


def _last_rung_and_value(trial: optuna.trial.FrozenTrial) -> tuple[int, float]:
    rung = max(trial.intermediate_values)
    return rung, trial.intermediate_values[rung]


def rerun(
    cell: Cell,
    profile: Profile,
    settings: list[tuple[float, float]],
    load: Loader,
    val: Embeddings,
    rows: list[dict],
) -> list[StackedTraining]:
    """Train every candidate with each seed, each in a batch order of its own; return the runs of the best on val.

    Where training clips are stored in several views, a run draws one by its seed. Runs on one view train together.
    """
    values: dict[tuple[int, int], float] = {}  # (candidate, seed) → score
    trained: list[tuple[StackedTraining, list[tuple[int, int]]]] = []
    for view in dict.fromkeys(seed % cell.views for seed in profile.seeds):
        keys = [(c, seed) for c in range(len(settings)) for seed in profile.seeds if seed % cell.views == view]
        runs = [replace(base_run(cell, profile, *settings[c]), seed=seed, order_seed=seed) for c, seed in keys]
        train = load("train", view)
        training = StackedTraining(runs, train, products=profile.products)
        with contextlib.suppress(Diverged):  # none of the runs on this view has a value then
            training.advance(profile.epochs)
        if len(training.failed) == len(runs):
            continue
        trained.append((training, keys))
        for number, one in zip(training.alive, training.scores(val), strict=True):
            values[keys[number]] = evaluate(one, val.targets, cell.metric)
            rows.append(_row(cell, runs[number], "val", values[keys[number]], len(train), stage="seeds"))
    whole = [c for c in range(len(settings)) if all((c, seed) in values for seed in profile.seeds)]
    if not whole:
        raise InputError(f"In cell '{cell.key}' every candidate has a seed whose loss is not finite.")
    best = max(whole, key=lambda c: np.mean([values[c, seed] for seed in profile.seeds]))
    return [training.keep([n for n, (c, _) in enumerate(keys) if c == best]) for training, keys in trained]


def base_run(cell: Cell, profile: Profile, lr: float, weight_decay: float) -> Run:
    """Return the run of a search trial: seed and batch order 0, shared by all trials."""
    return Run(
        cell.head,
        lr,
        weight_decay,
        profile.epochs,
        profile.batch_size_of(cell.dataset),
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
        "view": run.seed % cell.views,  # seed after seed takes the next view; the search, seed 0, the first
        "split": split,
        "metric": cell.metric,
        "value": round(value, 6),
    }
