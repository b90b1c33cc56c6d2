"""The losses of `lib.loss` for many runs at once, with their gradients written out.

A loss is a function of few numbers and many small steps: left to autograd it costs a cheap head more than the head
itself. Symbols as in `lib.engine`: R runs, B clips, C classes.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from lib.loss import asymmetric_loss, cross_entropy

LossAndGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def asymmetric(
    logits: Tensor,
    targets: Tensor,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    margin: float = 0.05,
    eps: float = 1e-8,
) -> tuple[Tensor, Tensor]:
    """Return `lib.loss.asymmetric_loss` of every run, (R,), and its gradient (R, B, C).

    With σ' = p q and p_m = max(p − m, 0) = 1 − q_m: ∂/∂x [q^γ log p] = q^γ (q − γ p log p), where q alone is none if
    p is held at eps, and ∂/∂x [p_m^γ log q_m] = p_m^(γ−1) σ' (γ log q_m − p_m / q_m).

    Parameters
    ----------
    logits : torch.Tensor
        ``(R, B, C)``.
    targets : torch.Tensor
        ``(B, C)`` or ``(R, B, C)``, checked by the caller.
    gamma_negative, gamma_positive, margin, eps : float
        As there; γ₋ is at least 1.
    """
    y, p, q = targets, logits.sigmoid(), logits.neg().sigmoid_()
    log_p, heard = p.clamp_min(eps).log_(), torch.ops.aten.threshold_backward(q, p, eps)
    p_m = p.sub(margin).clamp_min_(0)
    q_m = torch.rsub(p_m, 1)
    if margin < eps:  # else none is below the margin
        q_m.clamp_min_(eps)
    log_q, fading = q_m.log(), _power(p_m, gamma_negative - 1)
    focus = q if gamma_positive == 1 else q.clamp_min(eps) ** gamma_positive
    gain, harm = focus * log_p, (fading * p_m).mul_(log_q)
    rise = (focus * heard).addcmul_(p, gain, value=-gamma_positive)
    fall = log_q.mul_(gamma_negative).addcdiv_(p_m, q_m, value=-1).mul_(fading).mul_(p).mul_(q)
    scale = -1.0 / (logits.shape[1] * logits.shape[2])
    return torch.lerp(harm, gain, y).sum((1, 2)).mul_(scale), torch.lerp(fall, rise, y).mul_(scale)


def _power(base: Tensor, exponent: float) -> Tensor:
    """Return base^exponent; the paper's needs no logarithm."""
    return base.square().mul_(base) if exponent == 3 else base**exponent


def one_of_many(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return `lib.loss.cross_entropy` of every run, (R,), and its gradient (softmax(x) − y)/B, (R, B, C)."""
    log_softmax = logits.log_softmax(2)
    loss = (targets * log_softmax).sum((1, 2)) / -logits.shape[1]
    return loss, (log_softmax.exp() - targets) / logits.shape[1]


# The losses of the protocol for many runs.
WITH_GRADIENT: dict[Callable[..., Tensor], LossAndGradient] = {
    asymmetric_loss: asymmetric,
    cross_entropy: one_of_many,
}


def with_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> LossAndGradient:
    """Return a loss of one run for many runs: as it is written out here, or else run after run, by autograd."""
    return WITH_GRADIENT.get(loss) or functools.partial(_by_autograd, loss)


def _by_autograd(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()  # (R, B, C)
        losses = torch.stack([loss(*run) for run in zip(logits, targets.expand_as(logits), strict=True)])  # (R,)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
    return losses.detach(), gradient


def loss_gradient(
    loss: LossAndGradient, logits: Tensor, targets: Tensor, extra: Tensor | None
) -> tuple[Tensor, list[int]]:
    """Return the gradient of the runs' losses to their logits, and the runs whose loss is not finite: theirs is void.

    Parameters
    ----------
    loss : callable
        As `with_gradient` returns it.
    logits : torch.Tensor
        ``(R, B, C)``.
    targets : torch.Tensor
        As in `asymmetric`.
    extra : torch.Tensor, optional
        ``(R,)``, what the head adds to the loss.
    """
    losses, gradient = loss(logits, targets)
    losses = losses if extra is None else losses + extra
    if math.isfinite(losses.sum()):
        return gradient, []
    return gradient, (~torch.isfinite(losses)).nonzero().flatten().tolist()
