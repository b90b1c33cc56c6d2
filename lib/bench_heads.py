"""Time the engine against the plain loops, head by head: a cell's protocol at the pocket shape, steps at urban's.

Three loops do the same work: ``plain`` is the textbook one (`lib.textbook`), ``reference`` is `lib.train.Training`,
whose heads are folded already, and the engine (`lib.engine`), once for each kind of products that the machine is good
at. They take turns, stretch by stretch, on one machine in one process: what counts are ratios.
"""

import collections
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lib.bench_sizes import RUN_AFTER_RUN, Plan, Shape, goal, made_embeddings, made_runs, necessary_products, stages
from lib.engine import StackedTraining
from lib.engine_heads import takes_narrow_products
from lib.hardware import has_bfloat16, has_matrix_units
from lib.heads import FAMILIES
from lib.profiles import Profile
from lib.search import rungs
from lib.store import Embeddings
from lib.textbook import TextbookTraining
from lib.train import Run, Training, evaluate

CPU = torch.device("cpu")
ENGINE = "engine "  # how the engine's loops begin; the kind of products follows
PLAIN_RUNS = 2  # configurations of a plain loop that are timed where all would take too long
COLUMNS = (
    *("head", "shape", "plain_s", "engine_s", "ratio", "gemm_share", "reference_s", "products", "goal"),
    *("ratio_low", "ratio_high", "reference_ratio", "gflop", "gemm_gflops", "metric_s", "configurations", "clips"),
    *("tokens", "dim", "classes", "prototypes", "batch_size", "threads", "passes", "scaled", "timed"),
)


class Trainer(Protocol):
    """What both sides speak: `lib.engine.StackedTraining` and `OneAfterAnother`."""

    epoch: int
    alive: list[int]

    def advance(self, epoch: int) -> Any:
        """Train up to the end of an epoch."""

    def scores(self, data: Embeddings) -> Tensor:
        """Return logits (runs, clips, C)."""

    def keep(self, runs: Sequence[int]) -> Any:
        """Go on with these runs alone."""


Start = Callable[[Sequence[Run], Embeddings], Trainer]
Loops = dict[str, Start]


class OneAfterAnother:
    """Runs of a plain loop: each is trained up to the rung before the next one begins.

    Parameters
    ----------
    kind : type
        `lib.textbook.TextbookTraining` or `lib.train.Training`.
    runs, data
        As in `lib.engine.StackedTraining`.
    """

    def __init__(self, kind: type[TextbookTraining] | type[Training], runs: Sequence[Run], data: Embeddings) -> None:
        self.trainings = {number: kind(run, data) for number, run in enumerate(runs)}
        self.epoch = 0

    @property
    def alive(self) -> list[int]:
        """The runs that are still trained, ascending."""
        return list(self.trainings)

    def advance(self, epoch: int) -> "OneAfterAnother":
        """Train every run up to the end of `epoch`."""
        for training in self.trainings.values():
            training.advance(epoch)
        self.epoch = epoch
        return self

    def scores(self, data: Embeddings) -> Tensor:
        """Return the logits of all clips, (runs, clips, C)."""
        return torch.stack([training.scores(data) for training in self.trainings.values()])

    def keep(self, runs: Sequence[int]) -> "OneAfterAnother":
        """Go on with these runs alone."""
        self.trainings = {number: self.trainings[number] for number in runs}
        return self

    def state(self, run: int) -> dict[str, Tensor]:
        """Return the weights of a run."""
        return self.trainings[run].head.state_dict()


def plain(runs: Sequence[Run], data: Embeddings) -> OneAfterAnother:
    """Return the textbook loop."""
    return OneAfterAnother(TextbookTraining, runs, data)


def reference(runs: Sequence[Run], data: Embeddings) -> OneAfterAnother:
    """Return the plain loop of the library."""
    return OneAfterAnother(Training, runs, data)


def engine(products: str) -> Start:
    """Return what starts the engine with these products."""

    def start(runs: Sequence[Run], data: Embeddings) -> StackedTraining:
        training = StackedTraining(runs, data, products=products)
        training.prepare(data)  # what is constant in the clips is set-up: made here, so that it is not scaled
        return training

    return start


def loops_of(head: str, device: torch.device) -> Loops:
    """Return the loops that a head is timed in; the engine's go last."""
    kinds = ["float32"]
    if takes_narrow_products(head) and has_bfloat16(device):
        kinds.append("bfloat16")
    return {"plain": plain, "reference": reference, **{ENGINE + kind: engine(kind) for kind in kinds}}


def clocked(work: Callable[[], Any], device: torch.device = CPU) -> tuple[float, Any]:
    """Return the seconds that something took, and its result; a GPU's queue is emptied before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    start = time.perf_counter()
    result = work()
    wait(device)
    return time.perf_counter() - start, result


def product_rate(kind: str, square: int, device: torch.device = CPU) -> float:
    """Return what the machine makes of a product of two square matrices, in floating-point operations a second."""
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(square, square, generator=rng).to(device, getattr(torch, kind)) for _ in range(2))
    out = a @ b
    seconds = [clocked(lambda: torch.mm(a, b, out=out), device)[0] for _ in range(5)]
    return 2.0 * square**3 / statistics.median(seconds)


# ---- the protocol, at the pocket shape ---------------------------------------------------------------------


@dataclass
class Outcome:
    """One pass through the protocol.

    Attributes
    ----------
    seconds : dict
        Loop → seconds of the whole protocol; scaled where only a part of its epochs was trained.
    metric : float
        Seconds of the metric of all scores, which is the same work for all loops and in none of their times.
    epochs, scorings : int
        Of single runs, in the whole protocol.
    judged : list of tuple
        For each rung: the runs that reached it, those that went on, and scores by loop.
    trainings : dict
        Loop → its trainings, one for each stage.
    """

    seconds: dict[str, float]
    trainings: dict[str, list[Trainer]]
    metric: float = 0.0
    epochs: int = 0
    scorings: int = 0
    judged: list[tuple[list[int], list[int], dict[str, Tensor]]] = field(default_factory=list)


def protocol(
    head: str, shape: Shape, profile: Profile, loops: Loops, train: Embeddings, val: Embeddings, share: float = 1.0
) -> Outcome:
    """Train a cell as `lib.search` does, in every loop; the loops take turns at each rung.

    The last of the loops, the engine, decides which runs go on, for all.

    Parameters
    ----------
    head, shape, profile
        What is trained, and by which rungs.
    loops : dict
        Name → what starts some runs on a split.
    train, val : Embeddings
        The splits.
    share : float
        Of the epochs between two rungs that are trained, at least one; their time is scaled to all of them.
    """
    outcome, seen = Outcome(dict.fromkeys(loops, 0.0), {name: [] for name in loops}), collections.defaultdict(list)
    *searches, final = stages(head, shape, profile)
    for runs, ends in [*((runs, rungs(profile)) for runs in searches), (final, [profile.epochs])]:
        for name, start in loops.items():
            seconds, training = clocked(functools.partial(start, runs, train))
            outcome.seconds[name] += seconds
            outcome.trainings[name].append(training)
        for begin, end in itertools.pairwise([0, *ends]):
            scores, values = _stretch(outcome, end - begin, share, val)
            seen[end] += values.values()
            best = list(values) if end == profile.epochs else passing(values, seen[end], profile.rung_factor)
            outcome.judged.append((list(values), best, scores))
            if not best:
                break
            for trainings in outcome.trainings.values():
                trainings[-1].keep(best)
    return outcome


def _stretch(
    outcome: Outcome, length: int, share: float, val: Embeddings
) -> tuple[dict[str, Tensor], dict[int, float]]:
    """Train all loops for so many epochs, or a share of them, and score.

    Return the scores by loop, and the metric of the last one's by run.
    """
    timed, scores = max(1, math.ceil(share * length)), {}
    for name, (*_, training) in outcome.trainings.items():
        trained, _ = clocked(functools.partial(training.advance, training.epoch + timed))
        scored, scores[name] = clocked(functools.partial(training.scores, val))
        outcome.seconds[name] += trained * length / timed + scored
    judging, values = clocked(lambda: [evaluate(one, val.targets, "mAP") for one in scores[name]])
    outcome.metric += judging
    outcome.epochs += length * len(values)
    outcome.scorings += len(values)
    return scores, dict(zip(training.alive, values, strict=True))


def passing(values: Mapping[int, float], seen: Sequence[float], factor: int) -> list[int]:
    """Return the runs that pass a rung: as good as the best one in `factor` of all that have been judged there."""
    cut = sorted(seen, reverse=True)[-(-len(seen) // factor) - 1]
    return [number for number, value in values.items() if value >= cut]


def share_within(limit: float, head: str, plan: Plan, loops: Loops, train: Embeddings) -> float:
    """Return which share of the protocol's epochs fits into so many seconds, all passes together.

    Judged by an epoch of two runs in each loop, after another that warms it up.
    """
    runs, epoch = stages(head, plan.pocket, plan.profile)[0][:2], 0.0
    for start in loops.values():
        seconds, _ = clocked(functools.partial(start(runs, train).advance(1).advance, 2))
        epoch += seconds / len(runs)
    profile, epochs = plan.profile, plan.profile.top_k * len(plan.profile.seeds) * plan.profile.epochs
    for passed, (begin, end) in enumerate(itertools.pairwise([0, *rungs(profile)])):
        epochs += (end - begin) * max(1, profile.trials // profile.rung_factor**passed)
    return min(1.0, limit / (plan.passes * epoch * epochs))


def pocket_rows(head: str, plan: Plan, limit: float, whole: bool = False) -> list[dict]:
    """Return the rows of a head at the pocket shape, one for each kind of products.

    Parameters
    ----------
    head : str
        A key of `lib.heads.HEADS`.
    plan : Plan
        What to measure.
    limit : float
        Seconds; where all passes do not fit, a part of the epochs is trained, and no pass is begun after it.
    whole : bool
        Whether all epochs are trained all the same, so that the limit is a matter of passes alone.
    """
    shape, profile, loops = plan.pocket, plan.profile, loops_of(head, CPU)
    train, val = (made_embeddings(shape, clips, seed) for seed, clips in enumerate((shape.clips, shape.val_clips)))
    share = share_within(math.inf if whole else limit, head, plan, loops, train)
    passes, begun = [], time.perf_counter()
    while len(passes) < plan.passes and (not passes or time.perf_counter() - begun < limit):
        passes.append(protocol(head, shape, profile, loops, train, val, share))
        passes[-1].trainings.clear()
    one, (score, learn) = passes[0], necessary_products(head, shape)
    scaled = math.ceil(share * profile.epochs) < profile.epochs
    words = (
        f"{profile.trials} trials in {len(rungs(profile))} rungs, then {profile.top_k} × {len(profile.seeds)} seeds: "
        f"{one.epochs} epochs and {one.scorings} scorings of one run; "
        + (f"timed: {100 * share:.2g} % of the epochs between two rungs, at least one" if scaled else "all timed")
    )
    return engine_rows(
        {name: [each.seconds[name] for each in passes] for name in loops},
        plan,
        head=head,
        shape=shape,
        operations=one.epochs * len(train) * learn + one.scorings * len(val) * score,
        configurations=profile.trials,
        metric_s=statistics.median(each.metric for each in passes),
        scaled=scaled,
        timed=words,
    )


# ---- steps, at urban's shape -------------------------------------------------------------------------------


def urban_rows(head: str, plan: Plan, limit: float) -> list[dict]:
    """Return the rows of a head at urban's shape: single steps, scaled to an epoch of all configurations.

    One step of each loop comes first and is not counted; what is constant in the clips is made before.
    """
    shape, loops = plan.urban, loops_of(head, CPU)
    data, runs = made_embeddings(shape, shape.clips, 0), made_runs(head, shape, shape.configurations, 30)
    stacked = PLAIN_RUNS if head in RUN_AFTER_RUN else shape.configurations
    counts = {name: stacked if name.startswith(ENGINE) else PLAIN_RUNS for name in loops}
    trainings = {name: start(runs[: counts[name]], data) for name, start in loops.items()}
    steps_an_epoch = -(-shape.whole_epoch // shape.batch_size)
    seconds, begun = {name: [] for name in loops}, time.perf_counter()
    for step in range(1 + plan.passes):
        if step > 1 and time.perf_counter() - begun > limit:
            break
        for name, training in trainings.items():  # the split is one batch, so an epoch of it is a step
            took, _ = clocked(functools.partial(training.advance, training.epoch + 1))
            if step:
                seconds[name].append(took * steps_an_epoch * shape.configurations / counts[name])
    words = (
        f"single steps of {PLAIN_RUNS} configurations in the plain loops and of {stacked} in the engine, scaled to the "
        f"{steps_an_epoch} steps of an epoch of {shape.whole_epoch} clips and {shape.configurations} configurations"
    )
    clips = steps_an_epoch * shape.batch_size
    return engine_rows(
        seconds,
        plan,
        head=head,
        shape=shape,
        operations=necessary_products(head, shape)[1] * clips * shape.configurations,
        configurations=shape.configurations,
        metric_s=None,
        scaled=True,
        timed=words,
    )


# ---- rows --------------------------------------------------------------------------------------------------


def engine_rows(
    seconds: Mapping[str, Sequence[float]],
    plan: Plan,
    *,
    head: str,
    shape: Shape,
    operations: float,
    **more: object,
) -> list[dict]:
    """Return a row for each of the engine's loops.

    Parameters
    ----------
    seconds : mapping
        Loop → its seconds in each pass; the table has their median.
    plan : Plan
        What is measured.
    head, shape
        What was trained.
    operations : float
        Of the necessary products of the whole work, see `lib.bench_sizes.necessary_products`.
    **more
        Further columns.
    """
    middle, rows = {name: statistics.median(each) for name, each in seconds.items()}, []
    for name in [name for name in seconds if name.startswith(ENGINE)]:
        kind = name.removeprefix(ENGINE)
        ratios = [a / b for a, b in zip(seconds["plain"], seconds[name], strict=True)]
        rate = product_rate(kind, plan.square)
        row = {
            "head": head,
            "shape": shape.name,
            "plain_s": middle["plain"],
            "reference_s": middle["reference"],
            "engine_s": middle[name],
            "ratio": middle["plain"] / middle[name],
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
            "reference_ratio": middle["reference"] / middle[name],
            "goal": goal(head, kind, has_matrix_units(CPU)),
            "products": kind,
            "gflop": operations / 1e9,
            "gemm_gflops": rate / 1e9,
            "gemm_share": operations / middle[name] / rate,
            "clips": shape.whole_epoch or shape.clips,
            "tokens": shape.tokens,
            "dim": shape.dim,
            "classes": shape.classes,
            "prototypes": shape.per_class if FAMILIES[head] == "prototype" else None,
            "batch_size": shape.batch_size,
            "threads": torch.get_num_threads(),
            "passes": len(ratios),
        }
        rows.append({name: (row | more)[name] for name in COLUMNS})
    return rows
