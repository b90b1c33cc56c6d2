"""The fast engine: many runs of one head, trained together on one pass over the tokens.

R runs differ in learning rate, weight decay, seed and batch order. Their weights are stacked, (R, …); a batch of
clips is read once for all runs that share an order. What a run becomes does not depend, to rounding, on the runs
beside it, and is what `lib.train.Training`, the plain reference, makes of it.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lib.engine_heads import ROOM, stacked_head
from lib.engine_loss import gradient_of, not_finite
from lib.engine_pooling import CHUNK, Clips, Memory, Products, Split, Weights, pieces, products_dtype
from lib.errors import Diverged, InputError
from lib.heads import Head, build_head, parameter_groups
from lib.store import Embeddings
from lib.train import LOSSES, Run, batches

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8  # AdamW's, as in lib.train


class StackedTraining:
    """Runs in progress. A run is named by its place in `runs`, also after others have been dropped.

    Parameters
    ----------
    runs : sequence of Run
        What to train. They may differ in lr, weight_decay, seed and order_seed alone.
    data : Embeddings
        The training split; runs are trained on its device.
    dtype : torch.dtype
        Of weights and products.
    products : {"auto", "float32", "bfloat16"}
        Of the similarities among which prototype heads look for their maximum, which is decided in `dtype`, and of
        ep's products with tokens.

    Attributes
    ----------
    epoch : int
        Epochs done.
    alive : list of int
        The runs that are still trained, ascending.
    failed : dict of int to int
        Run whose loss became NaN or infinite → the epoch in which it did, counted from 1.
    parameters : int
        Of one run.

    Raises
    ------
    InputError
        If the runs differ in more, for an unknown head, option, loss or kind of products, or for fewer than two clips.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        data: Embeddings,
        dtype: torch.dtype = torch.float32,
        products: Products = "auto",
    ) -> None:
        _check(runs, data)
        self.runs, self.data, self.epoch, self.failed = tuple(runs), data, 0, {}
        # The rows of the stacks: runs of one order side by side, so that a slice of rows shares its batches.
        self._numbers = sorted(range(len(runs)), key=lambda number: runs[number].order_seed)
        device = data.tokens.device
        plain = {run.seed: build(run, data) for run in runs}
        one = plain[runs[0].seed]
        self.parameters = sum(parameter.numel() for parameter in one.parameters())
        self._head = stacked_head(runs[0].head, runs[0].options, one, products_dtype(products, dtype, device))
        self._dtype, self._gradient = dtype, gradient_of(LOSSES[runs[0].loss])
        states = [plain[runs[number].seed].state_dict() for number in self._numbers]
        with self._mode():
            stacks = {name: torch.stack([state[name] for state in states]).to(device) for name in states[0]}
            self._weights = {name: s.to(dtype) if s.is_floating_point() else s for name, s in stacks.items()}
            self._optimizer = AdamW(one, self._weights, [runs[number] for number in self._numbers])
        self._splits: dict[int, Split] = {}
        self._memory = Memory()
        self._steps, self._all_steps = 0, runs[0].epochs * -(-len(data) // runs[0].batch_size)

    @property
    def alive(self) -> list[int]:
        """The runs that are still trained, ascending."""
        return sorted(self._numbers)

    def advance(self, epoch: int) -> "StackedTraining":
        """Train up to the end of `epoch` (counted from 1).

        Raises
        ------
        Diverged
            If the loss of every run became NaN or infinite.
        """
        with self._mode():
            while self.epoch < min(epoch, self.runs[0].epochs):
                seeds = {self.runs[number].order_seed for number in self._numbers}
                orders = {seed: batches(len(self.data), self.runs[0].batch_size, seed, self.epoch) for seed in seeds}
                for number in range(len(next(iter(orders.values())))):
                    self._step({seed: order[number] for seed, order in orders.items()})
                self.epoch += 1
        return self

    def _mode(self) -> torch.inference_mode:
        """Return the mode in which everything is computed: without a graph its many small steps take a quarter less."""
        return torch.inference_mode(not self._head.needs_graph)

    def scores(self, data: Embeddings) -> Tensor:
        """Return the logits of all clips for the runs in `alive`, float32 ``(runs, clips, C)``."""
        split, parts = self.prepare(data), []
        with self._mode(), torch.no_grad():  # in this order: the mode of a head with a graph turns gradients on
            for some in pieces(len(data), CHUNK):
                clips = Clips(split, some)
                rows = self._parts(slice(0, len(self._numbers)), CHUNK)
                parts.append(torch.cat([self._head.logits(self._at(part), clips, training=False) for part in rows]))
        in_order = [self._numbers.index(number) for number in self.alive]
        return torch.cat(parts, 1)[in_order].float().cpu()

    def keep(self, runs: Sequence[int]) -> "StackedTraining":
        """Go on with these runs alone, all of which must be alive; the others are given up."""
        gone = sorted(set(runs) - set(self._numbers))
        if gone or not runs:
            raise InputError(f"Runs {gone} cannot be kept; those still trained are {self.alive}, keep one or more.")
        self._keep_rows([row for row, number in enumerate(self._numbers) if number in set(runs)])
        return self

    def state(self, run: int) -> Weights:
        """Return the weights of a run that is alive, as the state of the plain head (`lib.heads.build_head`)."""
        if run not in self._numbers:
            raise InputError(f"Run {run} is not trained any more; those that are: {self.alive}.")
        row = self._numbers.index(run)
        return {name: stack[row].clone() for name, stack in self._weights.items()}

    def initial_state(self, run: int) -> Weights:
        """Return the weights with which a run started."""
        return build(self.runs[run], self.data).state_dict()

    def _step(self, indices: dict[int, Tensor]) -> None:
        """One step of every run; `indices` are the clips of this step's batch for each order seed."""
        failed, split, device = [], self.prepare(self.data), self.data.tokens.device
        for rows, seeds in self._groups():
            if len(seeds) > 1:
                index = torch.stack([indices[seed] for seed in seeds]).to(device)  # (R, B)
                for part in self._parts(rows, index.shape[1], own=True):
                    failed += self._update(part, Clips(split, index[part]))
                continue
            clips = Clips(split, indices[seeds[0]].to(device))  # (B,)
            for part in self._parts(rows, len(clips.index)):
                failed += self._update(part, clips)
        self._steps += 1
        if failed:
            self._drop(failed)

    def _groups(self) -> Iterator[tuple[slice, list[int]]]:
        """Yield rows that are computed on the same clips, with their order seed, or with one for each of all rows."""
        seeds = [self.runs[number].order_seed for number in self._numbers]
        orders = len(set(seeds))
        # A batch of tokens that several runs share is read once.
        if self._head.own_batches and (orders == len(seeds) or not self._head.reads_tokens) and orders > 1:
            yield slice(0, len(seeds)), seeds
            return
        start = 0
        for seed, same in itertools.groupby(seeds):
            stop = start + len(list(same))
            yield slice(start, stop), [seed]
            start = stop

    def _parts(self, rows: slice, clips: int, own: bool = False) -> list[slice]:
        """Split rows so that what they hold at once in a batch of this many clips, of their own or not, is bounded."""
        room = self._head.room(clips)
        if own and self._head.reads_tokens:
            room = max(room, clips * math.prod(self.data.tokens.shape[1:]))
        parts = pieces(rows.stop - rows.start, max(1, ROOM // room))
        return [slice(rows.start + part.start, rows.start + part.stop) for part in parts]

    def _at(self, rows: slice) -> Weights:
        return {name: stack[rows] for name, stack in self._weights.items()}

    def _update(self, rows: slice, clips: Clips) -> list[int]:
        """Forward, backward and update of some rows; return those whose loss is not finite."""
        logits, extra, pull = self._head.vjp(self._at(rows), self._optimizer.names, clips)
        targets = clips.take(self.data.targets).to(logits.dtype)
        gradient = self._gradient(logits, targets)
        self._optimizer.step(rows, pull(gradient), self._steps, self._all_steps)
        return [rows.start + row for row in not_finite(gradient, extra)]

    def _drop(self, rows: list[int]) -> None:
        """Give up the runs of these rows and note the epoch; the others go on."""
        self.failed |= {self._numbers[row]: self.epoch + 1 for row in rows}
        if len(rows) == len(self._numbers):
            raise Diverged(
                f"The loss of every run of head '{self.runs[0].head}' became NaN or infinite, the last in epoch "
                f"{self.epoch + 1}; check the embeddings for NaN, or lower the learning rates."
            )
        self._keep_rows([row for row in range(len(self._numbers)) if row not in rows])

    def _keep_rows(self, rows: list[int]) -> None:
        self._numbers = [self._numbers[row] for row in rows]
        with self._mode():
            self._weights = {name: stack[rows] for name, stack in self._weights.items()}
            self._optimizer.keep_rows(rows, self._weights)

    def prepare(self, data: Embeddings) -> Split:
        """Return a split with what is constant in it, computed when it is first seen."""
        if id(data) not in self._splits:  # the split holds the data, so that its id stays its own
            self._head.plain.checked(data.tokens[:1], data.cls[:1])  # their shapes
            constants = self._head.constants if self._head.has_constants else None
            with self._mode():
                self._splits[id(data)] = Split(data, self._dtype, constants, self._memory)
        return self._splits[id(data)]


class AdamW:
    """AdamW (Loshchilov and Hutter, 2019) on stacked weights: learning rate and weight decay are each run's own.

    The learning rate falls along half a cosine; weights decay as in `lib.heads.parameter_groups`. The update is torch's
    own fused kernel, setting after setting: `torch.optim.AdamW` would spend longer on a group for each than the kernel.
    """

    def __init__(self, head: Head, weights: Weights, runs: Sequence[Run]) -> None:
        groups = parameter_groups(head, 1.0)
        decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        self.names = {name: id(p) in decaying for name, p in head.named_parameters()}  # name → whether it decays
        self.weights = weights
        self.first = {name: torch.zeros_like(weights[name]) for name in self.names}
        self.second = {name: torch.zeros_like(weights[name]) for name in self.names}
        self.rates = [(run.lr, run.weight_decay) for run in runs]
        self._count = torch.zeros((), device=next(iter(weights.values())).device)
        self._cut: dict[tuple[int, int], tuple[list[Tensor], ...]] = {}

    def step(self, rows: slice, gradients: Weights, done: int, total: int) -> None:
        """Update some rows after `done` of `total` steps."""
        fall = 0.5 * (1 + math.cos(math.pi * done / total))
        count = self._count.fill_(done + 1.0)
        every, start = [gradients[name].contiguous() for name in self.names], rows.start
        for (lr, decay), same in itertools.groupby(self.rates[rows]):  # the seeds of a setting are updated together
            stop = start + len(list(same))
            weights, first, second, decaying = self._of_rows(start, stop)
            for weight in decaying:
                weight.mul_(1 - lr * fall * decay)
            torch._fused_adamw_(
                weights,
                [gradient[start - rows.start : stop - rows.start] for gradient in every],
                first,
                second,
                [],
                [count] * len(weights),
                lr=lr * fall,
                beta1=BETA_1,
                beta2=BETA_2,
                weight_decay=0.0,
                eps=EPS,
                amsgrad=False,
                maximize=False,
            )
            start = stop

    def _of_rows(self, start: int, stop: int) -> tuple[list[Tensor], ...]:
        """Return some runs' weights, their moments, and those of the weights that decay: views, cut once."""
        if (start, stop) not in self._cut:
            stacks = (self.weights, self.first, self.second)
            each = [[stack[name][start:stop] for name in self.names] for stack in stacks]
            decaying = [weight for weight, decays in zip(each[0], self.names.values(), strict=True) if decays]
            self._cut[start, stop] = (*each, decaying)
        return self._cut[start, stop]

    def keep_rows(self, rows: list[int], weights: Weights) -> None:
        """Go on with some rows, whose weights are these."""
        self.weights, self.rates, self._cut = weights, [self.rates[row] for row in rows], {}
        self.first = {name: stack[rows] for name, stack in self.first.items()}
        self.second = {name: stack[rows] for name, stack in self.second.items()}


def build(run: Run, data: Embeddings) -> Head:
    """Return the plain head of a run with its first weights."""
    generator = torch.Generator().manual_seed(run.seed)
    dim, classes = data.tokens.shape[-1], data.targets.shape[1]
    return build_head(run.head, dim, classes, data.grid, run.prototypes, generator, **run.options)


def _check(runs: Sequence[Run], data: Embeddings) -> None:
    """Raise InputError unless these runs can be trained together on these clips."""
    if not runs:
        raise InputError("There is no run to train; give one or more.")
    if runs[0].loss not in LOSSES:
        raise InputError(f"Unknown loss '{runs[0].loss}'; choose one of: {', '.join(LOSSES)}.")
    LOSSES[runs[0].loss](torch.zeros_like(data.targets), data.targets)  # raises where the targets cannot be
    if len(data) < 2:
        raise InputError(f"A head cannot be trained on {len(data)} clip(s); give it at least two.")
    first = runs[0]
    for number, run in enumerate(runs):
        alike = replace(run, lr=first.lr, weight_decay=first.weight_decay, seed=first.seed, order_seed=first.order_seed)
        if alike != first:
            raise InputError(
                f"Runs trained together may differ in lr, weight_decay, seed and order_seed alone, but run {number} "
                "differs from run 0 in more; train it apart."
            )
