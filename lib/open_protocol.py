"""Arms whose protocol differs: another loss; or the final runs once more, with one thing about them changed.

A changed protocol that the search can know of is searched anew, like any arm (`LossArm`). One that it cannot is a
`Rerun`: it takes learning rate, weight decay, seeds and first weights from a finished arm, so it is compared at
settings that were chosen for the default. Its result lies where `lib.results` looks for that of an arm.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lib.arms import Arm, loader
from lib.engine import StackedTraining, build
from lib.errors import InputError
from lib.loss import asymmetric_loss
from lib.profiles import Profile, load_profile
from lib.provenance import code_version, definition_version
from lib.result_files import write_result
from lib.results import Versions, cell_path, read_rows, why_stale
from lib.search import Cell, base_run, run_cell
from lib.store import Embeddings
from lib.train import LOSSES, Run, Training, evaluate, predict
from lib.workers import run_parallel

# ---- losses ----------------------------------------------------------------------------------------------------------


def detached_asymmetric(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the asymmetric loss at its default settings, its focal weights taken as numbers in the backward pass.

    The same value as `lib.loss.asymmetric_loss`, another gradient: that of a weighted binary cross-entropy.
    """
    x, y = logits.float(), targets.float()
    p, p_m = x.sigmoid(), (x.sigmoid() - 0.05).clamp_min(0)
    positive, negative = ((1 - p) ** 1.0).detach(), (p_m**4.0).detach()
    terms = y * positive * p.clamp_min(1e-8).log() + (1 - y) * negative * (1 - p_m).clamp_min(1e-8).log()
    return -terms.mean()


def summed_asymmetric(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the asymmetric loss summed over clips and classes, as its authors' code has it, not their mean."""
    return asymmetric_loss(logits, targets) * logits.numel()


def asymmetric(gamma_negative: float, gamma_positive: float, margin: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the asymmetric loss at these settings."""
    return partial(asymmetric_loss, gamma_negative=gamma_negative, gamma_positive=gamma_positive, margin=margin)


FURTHER_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # asymmetric γ₋/γ₊/m
    "asymmetric 0/0/0": asymmetric(0, 0, 0),  # binary cross-entropy
    "asymmetric 1/0/0": asymmetric(1, 0, 0),  # BAT's
    "asymmetric 4/0/0.05": asymmetric(4, 0, 0.05),  # its authors' training script on COCO
    "asymmetric, detached": detached_asymmetric,
    "asymmetric, summed": summed_asymmetric,
}
LOSSES.update(FURTHER_LOSSES)  # an arm brings this file along wherever it is run, since its class is defined here


@dataclass(frozen=True)
class LossArm(Arm):
    """An arm whose loss may be one of `FURTHER_LOSSES`; `loss_code` is what it depends on."""

    loss_code: str = definition_version("lib.open_protocol", "FURTHER_LOSSES")


# ---- the final runs once more ----------------------------------------------------------------------------------------


class Split(NamedTuple):
    """What a changed run may use: training clips, validation clips and the metric."""

    train: Embeddings
    val: Embeddings
    metric: str


@dataclass(frozen=True)
class Rerun(Arm):
    """The final runs of a finished arm once more, or its search too, with one thing changed.

    Attributes
    ----------
    change : str
        A key of `CHANGES` or of `SEARCHES`.
    settings : Cell
        The finished arm that gives learning rate and weight decay.
    """

    change: str = "nothing"
    settings: Cell | None = None


def nothing(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Train the runs as they are."""
    return _heads(StackedTraining(runs, split.train), runs, split)


def best_epoch(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Keep each run's weights from the epoch with the best validation score, the earliest of equals."""
    training, best = StackedTraining(runs, split.train), {}
    for epoch in range(1, runs[0].epochs + 1):
        scores = training.advance(epoch).scores(split.val)  # (runs, clips, C)
        for number, one in zip(training.alive, scores, strict=True):
            value = evaluate(one, split.val.targets, split.metric)
            if number not in best or value > best[number][0]:
                best[number] = value, training.state(number)
    return [_loaded(runs[number], split.train, state) for number, (_, state) in sorted(best.items())]


def train_and_val(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Train on training and validation clips together, for as many epochs: more steps."""
    joined = [torch.cat([getattr(part, name) for part in split[:2]]) for name in ("tokens", "cls", "targets")]
    return nothing(runs, split._replace(train=Embeddings(*joined, split.train.grid)))


def one_order(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Give all seeds the batch order of the search."""
    return nothing([replace(run, order_seed=0) for run in runs], split)


def double_precision(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Compute in 64 bits."""
    return _heads(StackedTraining(runs, split.train, torch.float64), runs, split)


def _heads(training: StackedTraining, runs: list[Run], split: Split) -> list[torch.nn.Module]:
    training.advance(runs[0].epochs)
    return [_loaded(run, split.train, training.state(number)) for number, run in enumerate(runs)]


def _loaded(run: Run, train: Embeddings, state: dict[str, Tensor]) -> torch.nn.Module:
    head = build(run, train)
    head.load_state_dict(state)  # of another precision too
    return head


# Changes of the optimiser act on the plain loop, lib.train, whose optimiser can be reached.


def plain_loop(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Train with the plain loop, one run at a time: the same but for rounding."""
    return _plainly(runs, split, lambda training: None)


def shorter_memory(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Use AdamW's betas (0.9, 0.95), those of Bird-MAE."""
    return _plainly(runs, split, lambda training: _set_all(training, "betas", (0.9, 0.95)))


def decay_everything(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Let prototypes, queries, norms and biases decay like the matrices."""
    return _plainly(runs, split, lambda training: _set_all(training, "weight_decay", training.run.weight_decay))


def clipped_gradients(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Shorten gradients that are longer than 2, as proto's authors do."""
    return _plainly(runs, split, _clip)


def warm_up(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Raise the learning rate along a line over the first 6.7 % of the steps, then let it fall as ever."""
    return _plainly(runs, split, _warm_up)


def summed_loss(runs: list[Run], split: Split) -> list[torch.nn.Module]:
    """Sum the asymmetric loss over clips and classes."""
    return plain_loop([replace(run, loss="asymmetric, summed") for run in runs], split)


def _plainly(runs: list[Run], split: Split, alter: Callable[[Training], None]) -> list[torch.nn.Module]:
    heads = []
    for run in runs:
        training = Training(run, split.train)
        alter(training)
        heads.append(training.advance(run.epochs).head)
    return heads


def _set_all(training: Training, name: str, value: object) -> None:
    for group in training.optimizer.param_groups:
        group[name] = value


def _clip(training: Training) -> None:
    def before_each_step(*_: object) -> None:
        torch.nn.utils.clip_grad_norm_(training.head.parameters(), 2.0)

    training.optimizer.register_step_pre_hook(before_each_step)


def _warm_up(training: Training) -> None:
    steps = training.schedule.T_max
    rising = round(0.067 * steps)

    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))

    training.schedule = torch.optim.lr_scheduler.LambdaLR(training.optimizer, share)


CHANGES = {
    change.__name__.replace("_", " "): change
    for change in (
        *(nothing, best_epoch, train_and_val, one_order, double_precision),
        *(plain_loop, shorter_memory, decay_everything, clipped_gradients, warm_up),
        summed_loss,
    )
}
# Changes of the search itself: what is replaced in the profile.
SEARCHES: dict[str, Callable[[Profile], Profile]] = {
    "three candidates": lambda profile: replace(profile, top_k=min(3, profile.trials)),
    "no halving": lambda profile: replace(profile, first_rung=profile.epochs),
}


def run_again(profile_name: str, arms: Sequence[Rerun], workers: int | None = None) -> list[str]:
    """Run those of the changed runs whose result is missing or stale; the arms whose settings they take are finished.

    Returns
    -------
    list of str
        The keys of those that were run.
    """
    profile = load_profile(profile_name)
    versions = Versions(profile)
    found = [(arm, _depends(profile, arm, versions)) for arm in dict.fromkeys(arms)]
    stale = [(profile_name, arm, depends) for arm, depends in found if why_stale(profile, arm, depends)]
    for number, key in enumerate(run_parallel(_run_and_write, stale, workers), start=1):
        print(f"{number}/{len(stale)} {key}", flush=True)
    return [arm.key for _, arm, _ in stale]


def _depends(profile: Profile, arm: Rerun, versions: Versions) -> dict:
    """Return what a changed run depends on: all that its settings do, what these are, and the code."""
    settings = [] if arm.change in SEARCHES else read_rows(profile, arm.settings)
    depends = {**versions.of(arm), "settings": settings, "change_code": code_version("lib.open_protocol")}
    return json.loads(json.dumps(depends))  # as it reads back


def _run_and_write(profile_name: str, arm: Rerun, depends: dict) -> str:
    profile = load_profile(profile_name)
    if arm.change in SEARCHES:
        result = run_cell(arm, SEARCHES[arm.change](profile), loader(arm, profile))
        rows, scores = result.rows, result.test_scores
    else:
        rows, scores = rerun(profile, arm)
    write_result(cell_path(profile, arm), depends, rows, {"test_scores": scores})
    return arm.key


def rerun(profile: Profile, arm: Rerun) -> tuple[list[dict], Tensor]:
    """Train the final runs of an arm once more, with its change; test.

    Returns
    -------
    list of dict
        A row a seed: lr, weight_decay, seed, epochs, stage, split, value.
    Tensor
        Test scores ``(seeds, clips, C)``.

    Raises
    ------
    InputError
        For an unknown change, or if the arm that gives the settings has not been run.
    """
    if arm.change not in CHANGES:
        raise InputError(f"Unknown change '{arm.change}'; choose one of: {', '.join([*CHANGES, *SEARCHES])}.")
    finals = [row for row in read_rows(profile, arm.settings) if row["stage"] == "final"]
    runs = [
        replace(base_run(arm, profile, row["lr"], row["weight_decay"]), seed=row["seed"], order_seed=row["order_seed"])
        for row in finals
    ]
    load = loader(arm, profile)
    heads = CHANGES[arm.change](runs, Split(load("train"), load("val"), arm.metric))
    test, rows, scores = load("test"), [], []  # nothing is chosen after this line
    for run, head in zip(runs, heads, strict=True):
        scores.append(predict(head, test))  # (clips, C)
        facts = {"lr": run.lr, "weight_decay": run.weight_decay, "seed": run.seed, "epochs": run.epochs}
        value = round(evaluate(scores[-1], test.targets, arm.metric), 6)
        rows.append(facts | {"stage": "final", "split": "test", "value": value})
    return rows, torch.stack(scores)
