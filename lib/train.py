"""Train one head on frozen embeddings: the plain loop, one configuration at a time, that can pause at any epoch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from lib.errors import Diverged, InputError
from lib.heads import build_head, parameter_groups
from lib.loss import asymmetric_loss, cross_entropy
from lib.metrics import accuracy, mean_average_precision
from lib.store import Embeddings

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "asymmetric": asymmetric_loss,
    "cross-entropy": cross_entropy,
}


@dataclass(frozen=True)
class Run:
    """One training of one head: everything that decides its outcome but the data.

    Attributes
    ----------
    head : str
        Name in `lib.heads.HEADS`.
    prototypes : int
        J, prototypes per class (ignored by heads without).
    lr, weight_decay : float
        AdamW's; the learning rate falls to zero along half a cosine over all epochs.
    epochs, batch_size : int
        Length and step.
    seed : int
        Draws the initial weights.
    order_seed : int
        Draws the order of the clips in each epoch.
    loss : str
        "asymmetric" (multi-label) or "cross-entropy" (single-label).
    options : dict
        The head's options that the paper leaves open.
    """

    head: str
    lr: float
    weight_decay: float
    epochs: int
    batch_size: int
    seed: int = 0
    order_seed: int = 0
    prototypes: int = 20
    loss: str = "asymmetric"
    options: dict = field(default_factory=dict)


class Training:
    """A run in progress.

    Parameters
    ----------
    run : Run
        What to train.
    data : Embeddings
        The training split.
    dtype : torch.dtype
        Of weights and products.

    Raises
    ------
    InputError
        For an unknown head, option or loss, or if there are fewer than two clips.
    """

    def __init__(self, run: Run, data: Embeddings, dtype: torch.dtype = torch.float32) -> None:
        if run.loss not in LOSSES:
            raise InputError(f"Unknown loss '{run.loss}'; choose one of: {', '.join(LOSSES)}.")
        if len(data) < 2:
            raise InputError(f"A head cannot be trained on {len(data)} clip(s); give it at least two.")
        self.run, self.data, self.dtype, self.epoch = run, data, dtype, 0
        generator = torch.Generator().manual_seed(run.seed)
        dim, classes = data.tokens.shape[-1], data.targets.shape[1]
        self.head = build_head(run.head, dim, classes, data.grid, run.prototypes, generator, **run.options).to(dtype)
        groups = parameter_groups(self.head, run.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=run.lr, betas=(0.9, 0.999), fused=True)
        steps = run.epochs * -(-len(data) // run.batch_size)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=steps)

    def advance(self, epoch: int) -> "Training":
        """Train up to the end of `epoch` (counted from 1)."""
        self.head.train()
        while self.epoch < min(epoch, self.run.epochs):
            for batch in batches(len(self.data), self.run.batch_size, self.run.order_seed, self.epoch):
                self._step(batch)
            self.epoch += 1
        return self

    def _step(self, batch: Tensor) -> None:
        logits = self.head(self.data.tokens[batch].to(self.dtype), self.data.cls[batch])  # (B, C)
        loss = LOSSES[self.run.loss](logits, self.data.targets[batch]) + self.head.extra_loss()
        if not torch.isfinite(loss):
            raise Diverged(
                f"The loss of head '{self.run.head}' became {loss.item()} in epoch {self.epoch + 1} at learning rate "
                f"{self.run.lr:.2g}; check the embeddings for NaN, or lower the learning rate."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    def scores(self, data: Embeddings) -> Tensor:
        """Return the logits of all clips of `data`, float32 ``(clips, C)``."""
        return predict(self.head, data)


def batches(clips: int, size: int, order_seed: int, epoch: int) -> list[Tensor]:
    """Return one epoch's batches of clip numbers; the order depends on `order_seed` and `epoch` alone.

    A last batch of one clip joins the one before it: batch normalisation cannot use it.
    """
    seed = int(np.random.SeedSequence([order_seed, epoch]).generate_state(1)[0])
    order = torch.randperm(clips, generator=torch.Generator().manual_seed(seed))
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


@torch.inference_mode()
def predict(head: nn.Module, data: Embeddings, batch_size: int = 64) -> Tensor:
    """Return a head's logits for all clips, float32 ``(clips, C)``, in evaluation mode."""
    head.eval()
    parts = zip(data.tokens.split(batch_size), data.cls.split(batch_size), strict=True)
    return torch.cat([head(tokens.float(), cls) for tokens, cls in parts]).float()


def evaluate(scores: Tensor, targets: Tensor, metric: str) -> float:
    """Return mAP or accuracy in percent.

    Parameters
    ----------
    scores, targets : torch.Tensor
        ``(clips, C)``.
    metric : {"mAP", "accuracy"}
        Macro mean average precision over the classes with a positive, or the share of correct clips.
    """
    if metric == "mAP":
        return 100.0 * mean_average_precision(scores.numpy(), targets.numpy()).value
    return 100.0 * accuracy(scores.numpy(), targets.numpy())
