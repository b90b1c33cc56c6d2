"""The losses: asymmetric for many labels, cross-entropy for one, and proto's orthogonality.

B clips, C classes, J prototypes per class, D token dimension. Every loss is computed in fp32 or wider.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    margin: float = 0.05,
    eps: float = 1e-8,
) -> Tensor:
    """Asymmetric multi-label loss: easy negatives fade, and very easy ones count nothing.

    With p = σ(x) and p_m = max(p − m, 0),
    L = −[ y (1 − p)^γ₊ log p + (1 − y) p_m^γ₋ log(1 − p_m) ], mean over clips and classes.

    It is a ladder: γ₊ = γ₋ = m = 0 is binary cross-entropy, γ₊ = γ₋ > 0 the focal loss; different γ and a
    margin, below which a negative gets exactly no gradient, make it asymmetric. The gradient also passes
    through the focal weights (1 − p)^γ₊ and p_m^γ₋, as in the group's earlier code.

    Parameters
    ----------
    logits : Tensor, float (B, C)
    targets : Tensor, any dtype (B, C)
        1 where a class is present, else 0; values between are soft labels.
    gamma_negative, gamma_positive, margin, eps : float
        γ₋, γ₊ and m; eps is the smallest argument of a logarithm.

    Returns
    -------
    Tensor, fp32 (or fp64 if the logits are), a scalar.

    Raises
    ------
    InputError
        If the targets have another shape than the logits, or are not all in [0, 1].

    References
    ----------
    Ridnik et al., "Asymmetric Loss for Multi-Label Classification", ICCV 2021; default settings.
    """
    x, y = _checked(logits, targets)
    p, q = x.sigmoid(), (-x).sigmoid()  # q = 1 − p, exact also where p is close to one
    p_m, q_m = (p - margin).clamp_min(0), (q + margin).clamp_max(1)  # q_m = 1 − p_m
    positive = y * q.clamp_min(eps) ** gamma_positive * p.clamp_min(eps).log()
    negative = (1 - y) * p_m.clamp_min(eps) ** gamma_negative * q_m.clamp_min(eps).log()
    return -(positive + negative).mean()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy −Σ_c y_c log softmax(x)_c for clips of exactly one class, mean over clips.

    Parameters
    ----------
    logits : Tensor, float (B, C)
    targets : Tensor, any dtype (B, C)
        One-hot: 1 at the clip's class, else 0.

    Returns
    -------
    Tensor, fp32 (or fp64 if the logits are), a scalar.

    Raises
    ------
    InputError
        If the targets have another shape than the logits, are not all in [0, 1], or a row does not sum to 1.
    """
    x, y = _checked(logits, targets)
    wrong = (y.sum(1) - 1).abs() > 1e-4  # (B,)
    if wrong.any():
        clip = int(wrong.int().argmax())
        raise InputError(
            f"Cross-entropy expects one class per clip, but the targets of clip {clip} of the batch sum to "
            f"{float(y[clip].sum()):g}; use the asymmetric loss for many labels."
        )
    return -(y * F.log_softmax(x, dim=1)).sum(1).mean()


def orthogonality_loss(prototypes: Tensor) -> Tensor:
    """How far the prototypes of each class are from orthogonal: ‖[G_1, …, G_C]‖_F / (C·J²).

    G_c = P̂_c P̂_cᵀ − I, where the rows of P̂_c (J, D) are the class's prototypes at length one. The norm is not
    squared, so the values are small: 0.0116 for C = 10, J = 20 prototypes drawn from U(0, 1).

    Parameters
    ----------
    prototypes : Tensor, float (C, J, D)

    Returns
    -------
    Tensor, fp32 (or fp64 if the prototypes are), a scalar.

    Raises
    ------
    InputError
        If the prototypes are not three-dimensional.

    References
    ----------
    Heinrich et al., "AudioProtoPNet", Ecological Informatics 2025.
    """
    if prototypes.ndim != 3:
        raise InputError(f"Prototypes must be (classes, per class, dim), but have shape {tuple(prototypes.shape)}.")
    unit = F.normalize(_wide(prototypes), dim=2, eps=1e-4)  # (C, J, D)
    gram = unit @ unit.mT - torch.eye(unit.shape[1], device=unit.device, dtype=unit.dtype)  # (C, J, J)
    return torch.linalg.vector_norm(gram) / gram.numel()


def _wide(values: Tensor) -> Tensor:
    """Return the values in fp32, or in fp64 if that is what they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _checked(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and targets, wide, of the same dtype; raise InputError for targets that cannot be."""
    if logits.ndim != 2 or logits.shape != targets.shape:
        raise InputError(
            f"A loss expects logits and targets of one shape (clips, classes), got {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}."
        )
    x = _wide(logits)
    y = targets.to(x.dtype)
    if not ((y >= 0) & (y <= 1)).all():
        raise InputError("The targets of a loss must lie in [0, 1]; some are outside, or not a number.")
    return x, y
