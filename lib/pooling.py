"""What the pooling heads are made of: seeded layers, poolings that respect a mask, the sign, and their base.

B clips, N = S_t·S_f patch tokens, time-major (n = t·S_f + f), D token dimension, C classes, J prototypes per
class, K = J·C prototypes in all. A mask (B, N) is True where a token is valid, False where it is padding.
"""

import math
import numbers
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from torch import Generator, Tensor, nn

from lib.errors import InputError

# ---- layers ------------------------------------------------------------------------------------------------


class Size(NamedTuple):
    """What a head is built for: D, C, (S_t, S_f) and J."""

    dim: int
    classes: int
    grid: tuple[int, int]
    per_class: int


def layer(kind: type[nn.Module], *sizes: int, rng: Generator, **settings: Any) -> nn.Module:
    """Build a Linear or Conv2d, weight and bias U(−1/√fan_in, 1/√fan_in), drawn from `rng` alone."""
    # kind() would draw from torch's global generator; on the meta device, for counting, nothing is allocated
    module = nn.utils.skip_init(kind, *sizes, **settings, device=torch.get_default_device())
    bound = module.weight[0].numel() ** -0.5
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound, generator=rng)
    return module


def normal(*shape: int, std: float, rng: Generator) -> nn.Parameter:
    """Draw a parameter from N(0, std²)."""
    return nn.Parameter(torch.randn(*shape, generator=rng) * std)


class ClassDependent(nn.Module):
    """A classifier whose classes see only their own J prototypes, with weights ≥ 0: (…, K) → (…, C)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size.classes, size.per_class))
        self.bias = nn.Parameter(torch.full((size.classes,), -2.0))

    def forward(self, y: Tensor) -> Tensor:
        """Return Σ_j relu(w_cj) y_cj + b_c."""
        y = y.unflatten(-1, self.weight.shape)  # (…, K) → (…, C, J)
        return (y * self.weight.relu()).sum(-1) + self.bias  # (…, C)


# ---- poolings ----------------------------------------------------------------------------------------------


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over axis 1 of values (B, N, …, D), over valid tokens only; zero where there is none."""
    if mask is None:
        return values.mean(1)
    return (values * mask[..., None]).sum(1) / mask.sum(1).clamp_min(1)[..., None]


def masked_max(values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Maximum over axis 1 of values (B, N, …), over valid tokens only, and the index of its winner."""
    return (values if mask is None else values.masked_fill(~mask[..., None], -torch.inf)).max(1)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax of scores (B, Q, N) over the tokens; padding gets exactly zero."""
    return (scores if mask is None else scores.masked_fill(~mask[:, None], -torch.inf)).softmax(-1)


def attend(tokens: Tensor, queries: Tensor, mask: Tensor | None) -> Tensor:
    """Σ_n softmax_n(qᵀz_n) z_n of tokens (B, N, D) for queries (Q, D), or (B, Q, D) → (B, Q, D)."""
    return masked_softmax(queries @ tokens.mT, mask) @ tokens  # (B, Q, N) @ (B, N, D) → (B, Q, D)


def max_cosine(unit_tokens: Tensor, unit_prototypes: Tensor, mask: Tensor | None) -> Tensor:
    """Largest dot product of each prototype (K, D) with the valid tokens (B, N, D): (B, K).

    Only the token that wins a maximum gets gradient. So the winners are found without gradient and they alone
    are scored with it: values and gradient are those of the dense form, but the scores (B, N, K) never enter
    the graph. Blocks of prototypes bound the memory.
    """
    with torch.no_grad():
        found = [masked_max(unit_tokens @ block.T, mask) for block in unit_prototypes.split(1024)]
        values, winners = (torch.cat(parts, 1) for parts in zip(*found, strict=True))  # (B, K) each
    if not torch.is_grad_enabled():
        return values
    clips = torch.arange(len(winners), device=winners.device)[:, None]  # (B, 1)
    return (unit_tokens[clips, winners] * unit_prototypes).sum(-1)  # (B, K, D)·(K, D) → (B, K)


class StraightThroughSign(torch.autograd.Function):
    """Eq. 2: ±1 with sign(0) = +1; the gradient passes as through the identity, not clipped."""

    generate_vmap_rule = True

    @staticmethod
    def forward(latent: Tensor) -> Tensor:
        """Return exactly ±1."""
        return (latent >= 0).to(latent.dtype) * 2 - 1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Keep nothing; the backward needs nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Hand the gradient through."""
        return gradient


sign = StraightThroughSign.apply

# ---- the base ----------------------------------------------------------------------------------------------


class Head(nn.Module):
    """What every head does: check its input, `pool` it to one vector per clip, classify that vector.

    It computes in the dtype of its parameters (fp32), whatever the tokens' dtype and even under autocast:
    scores in 16 bits tie, and ties change winners. Padding is zeroed first: it may hold anything, even NaN.
    """

    family: str
    reads: tuple[str, ...] = ("tokens",)

    def __init__(self, size: Size, classifier: nn.Module) -> None:
        super().__init__()
        self.dim, self.grid = size.dim, size.grid
        self.norm, self.classifier = nn.Identity(), classifier

    def forward(self, tokens: Tensor | None, cls: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, D), cls (B, D) and, where there is padding, a mask (B, N) to logits (B, C).

        What a head does not read (cls for most, tokens for linear and mlp) may be None. Raises InputError for
        a wrong shape or dtype, and for a clip without a valid token.
        """
        tokens, cls = self.checked(tokens, cls, mask)
        with torch.autocast(self.classifier.bias.device.type, enabled=False):
            return self.classifier(self.norm(self.pool(tokens, cls, mask)))

    def pool(self, tokens: Tensor | None, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        """Turn tokens (B, N, D) and cls (B, D) into y (B, …), the one vector a clip that is classified."""
        raise NotImplementedError

    def extra_loss(self) -> Tensor | float:
        """Return what the head adds to the training loss: nothing, except for proto."""
        return 0.0

    def checked(self, tokens: Tensor | None, cls: Tensor | None, mask: Tensor | None = None) -> tuple:
        """Return tokens and cls in the head's dtype, padding zeroed; raise InputError for a wrong input."""
        (s_t, s_f), batch = self.grid, None
        shapes = {"tokens": (s_t * s_f, self.dim), "cls": (self.dim,), "mask": (s_t * s_f,)}
        for (name, shape), given in zip(shapes.items(), (tokens, cls, mask), strict=True):
            if given is None and name not in self.reads:
                continue
            kind = "bool" if name == "mask" else "float"
            if not _fits(given, kind, (batch, *shape)):
                wanted = f"{name} as a {kind} tensor ({', '.join(map(str, (batch or 'B', *shape)))})"
                found = f"{given.dtype} {tuple(given.shape)}" if torch.is_tensor(given) else type(given).__name__
                head = f"Head '{type(self).__name__.lower()}' on a {s_t} × {s_f} grid"
                raise InputError(f"{head} expects {wanted}, got {found}.")
            batch = len(given)
        if mask is not None and not mask.any(1).all():
            clip = int(mask.any(1).int().argmin())
            raise InputError(f"The mask leaves clip {clip} of the batch without a token; mark one or more as valid.")
        dtype = self.classifier.bias.dtype
        tokens, cls = (given if given is None else given.to(dtype) for given in (tokens, cls))
        padded = tokens is not None and mask is not None
        return tokens.masked_fill(~mask[..., None], 0) if padded else tokens, cls


def _fits(given: Any, kind: str, shape: tuple[int | None, ...]) -> bool:
    """Whether this is a float or bool tensor of this shape, in which None stands for any length."""
    if not torch.is_tensor(given) or given.ndim != len(shape):
        return False
    right_kind = given.is_floating_point() if kind == "float" else given.dtype == torch.bool
    return right_kind and all(want in (None, have) for want, have in zip(shape, given.shape, strict=True))


def check_option(head: str, option: str, value: Any, kind: Any) -> None:
    """Raise InputError unless the value is as annotated: a Literal, bool, float ≥ 0, int ≥ 1, or None too."""
    if get_origin(kind) is Literal:
        good, wanted = value in get_args(kind), " or ".join(map(repr, get_args(kind)))
    elif kind is bool:
        good, wanted = isinstance(value, bool), "True or False"
    elif kind is float:
        good, wanted = isinstance(value, numbers.Real) and 0 <= value < math.inf, "a number, zero or more"
    else:
        good = isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1
        good, wanted = good or (value is None and kind is not int), "a whole number, one or more"
    if not good:
        raise InputError(f"Head '{head}' expects {option} to be {wanted}, got {value!r}.")


def divisor(option: str, value: int, dim: int) -> int:
    """Return the value if it divides the token dimension; raise InputError if not."""
    if dim % value:
        raise InputError(f"{option}={value} does not divide the token dimension {dim}; choose a divisor.")
    return value
