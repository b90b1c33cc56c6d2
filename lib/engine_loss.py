"""The losses of `lib.loss` for many runs at once, with their gradients written out.

A loss is a function of few numbers and many small steps: left to autograd it costs a cheap head more than the head
itself. Symbols as in `lib.engine`: R runs, B clips, C classes.
"""

import functools
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

    With σ' = p q: ∂/∂x [q^γ log p] = q^γ q − γ q^γ p log p, and ∂/∂x [p_m^γ log q_m] = γ p_m^(γ−1) σ' log q_m −
    p_m^γ σ' / q_m; where an argument is held at a bound, its part is zero.

    Parameters
    ----------
    logits : torch.Tensor
        ``(R, B, C)``.
    targets : torch.Tensor
        ``(B, C)`` or ``(R, B, C)``, checked by the caller.
    gamma_negative, gamma_positive, margin, eps : float
        As there.
    """
    y, p, q = targets, logits.sigmoid(), (-logits).sigmoid()
    p_m, q_m, slope = p - margin, q + margin, p * q
    is_heard, inside = p >= eps, p_m >= eps  # else log p, and p_m with q_m, stand still
    p_m, q_m = p_m.clamp_min(eps), q_m.clamp(eps, 1)
    log_p, log_q = p.clamp_min(eps).log(), q_m.log()
    focus, fade = _power(q.clamp_min(eps), gamma_positive), _power(p_m, gamma_negative)
    positive, negative = y * focus, (1 - y) * fade
    # Where q is held at eps, q itself is so small that its part of the gradient is none.
    rise = positive * (is_heard * q - gamma_positive * p * log_p)
    fall = negative * slope * inside * (gamma_negative * log_q / p_m - 1 / q_m)
    scale = -1.0 / (logits.shape[1] * logits.shape[2])
    return (positive * log_p + negative * log_q).sum((1, 2)) * scale, (rise + fall) * scale


def _power(base: Tensor, exponent: float) -> Tensor:
    """Return base^exponent; the paper's exponents, 1 and 4, need no logarithm."""
    if exponent == 1:
        return base
    if exponent == 4:
        return base.square().square_()
    return base**exponent


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


def backward(
    loss: LossAndGradient, logits: Tensor, targets: Tensor, extra: Tensor | None, leaves: list[Tensor]
) -> tuple[list[Tensor], list[int]]:
    """Return the gradients of the runs' losses, and the rows of those that are not finite, whose gradients are void.

    Parameters
    ----------
    loss : callable
        As `with_gradient` returns it.
    logits : torch.Tensor
        ``(R, B, C)``, with a graph that leads to `leaves`.
    targets : torch.Tensor
        As in `asymmetric`.
    extra : torch.Tensor, optional
        ``(R,)``, what the head adds; without a graph where nothing that is trained enters it.
    leaves : list of torch.Tensor
        Stacked weights, ``(R, …)``.
    """
    with torch.no_grad():
        losses, gradient = loss(logits.detach(), targets)
        losses = losses if extra is None else losses + extra
        sound = torch.isfinite(losses)  # (R,)
        bad = [] if sound.all() else (~sound).nonzero().flatten().tolist()
    if extra is None or not extra.requires_grad:
        return list(torch.autograd.grad(logits, leaves, gradient)), bad
    return list(torch.autograd.grad([logits, extra], leaves, [gradient, torch.ones_like(extra)])), bad
