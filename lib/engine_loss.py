"""The gradients of the losses of `lib.loss`, for many runs at once and written out.

A loss is a function of few numbers and many small steps: left to autograd it costs a cheap head more than the head
itself. Training needs the gradient alone; a run that has diverged is known by that, too. Symbols as in `lib.engine`: R
runs, B clips, C classes.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from lib.loss import asymmetric_loss, cross_entropy

Gradient = Callable[[Tensor, Tensor], Tensor]


def asymmetric(
    logits: Tensor,
    targets: Tensor,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    margin: float = 0.05,
    eps: float = 1e-8,
) -> Tensor:
    """Return the gradient of every run's `lib.loss.asymmetric_loss`, (R, B, C).

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
    rise = heard.mul_(focus).addcmul_(p, log_p.mul_(focus), value=-gamma_positive)
    fall = log_q.mul_(gamma_negative).addcdiv_(p_m, q_m, value=-1).mul_(fading).mul_(p).mul_(q)
    return torch.lerp(fall, rise, y).mul_(-1.0 / (logits.shape[1] * logits.shape[2]))


def _power(base: Tensor, exponent: float) -> Tensor:
    """Return base^exponent; the paper's needs no logarithm."""
    return base.square().mul_(base) if exponent == 3 else base**exponent


def one_of_many(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of every run's `lib.loss.cross_entropy`, (softmax(x) − y)/B, (R, B, C)."""
    return (logits.softmax(2) - targets) / logits.shape[1]


# The gradients of the protocol's losses.
GRADIENTS: dict[Callable[..., Tensor], Gradient] = {
    asymmetric_loss: asymmetric,
    cross_entropy: one_of_many,
}


def gradient_of(loss: Callable[[Tensor, Tensor], Tensor]) -> Gradient:
    """Return what makes the gradient of a loss for many runs: as it is written out here, or else by autograd."""
    return GRADIENTS.get(loss) or functools.partial(_by_autograd, loss)


def _by_autograd(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        logits, targets = logits.clone().requires_grad_(), targets.clone().expand_as(logits)  # (R, B, C)
        losses = torch.stack([loss(*run) for run in zip(logits, targets, strict=True)])  # (R,)
        return torch.autograd.grad(losses.sum(), logits)[0]


def not_finite(gradient: Tensor, extra: Tensor | None) -> list[int]:
    """Return the runs whose loss is NaN or infinite, by its gradient to the logits.

    Parameters
    ----------
    gradient : torch.Tensor
        ``(R, B, C)``.
    extra : torch.Tensor, optional
        ``(R,)``, what the head adds to the loss.
    """
    sums = gradient.sum() if extra is None else gradient.sum() + extra.sum()
    if math.isfinite(sums):
        return []
    fine = gradient.isfinite().all(2).all(1)  # (R,)
    return (~(fine if extra is None else fine & extra.isfinite())).nonzero().flatten().tolist()
