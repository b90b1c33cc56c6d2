"""Heads that are not among the paper's: controls that take its heads apart, and CGP, which came after it.

Symbols, `pool` and options as in `lib.heads`; `lib.heads.build_head` builds these too.
"""
# ruff: noqa: D102 (pool is documented once, in lib.pooling.Head; comments give the shapes)

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lib.errors import InputError
from lib.loss import orthogonality_loss
from lib.pooling import Head, Size, divisor, layer, masked_max, masked_mean, max_cosine, normal, sign


class SeededDropout(nn.Module):
    """Dropout whose masks follow from a seed and a count of steps, which are buffers: every run has its own.

    torch's own dropout draws from the global generator, so that a run would depend on those trained beside it.
    """

    def __init__(self, rate: float, rng: Generator) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("seed", torch.randint(2**31, (), generator=rng))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, y: Tensor) -> Tensor:
        """Set a share of y (B, …) to zero and scale up the rest; in evaluation, return y."""
        if not self.training or self.rate == 0:
            return y
        rng = torch.Generator().manual_seed(int(self.seed + self.steps))
        self.steps.add_(1)
        kept = torch.rand(y.shape, generator=rng) >= self.rate
        return y * kept.to(y) / (1 - self.rate)


class Cgp(Head):
    """cgp: convex gated probing, prototypes on a mixture of all layers (BAT; Ghaffari et al., 2026).

    α = softmax(a),  z̄_n = Σ_l α_l z_n^l / ‖z_n^l‖,  ō = Σ_l α_l cls^l / ‖cls^l‖,  p̂_k = p_k / ‖p_k‖,
    y = dropout([min_n z̄_nᵀp̂_k, max_n z̄_nᵀp̂_k, ōᵀp̂_k]_k) ∈ R^{3K}. What is mixed is not normalised again, so these are
    cosines only where one layer has all the weight. p float, class-agnostic; p ~ N(0, 0.02²), a = 1.

    Tokens (B, N, L·D) and cls (B, L·D) hold the outputs of L = `layers` blocks side by side, the first block first.
    Count KD + L + 3KC + C: 23,490,539 at (D, L, K, C) = (768, 12, 10000, 527). `prototypes` sets K, which is J·C
    by default; without `use_cls` the third score is mean_n z̄_nᵀp̂_k. `dropout` is the share of y that is set to zero.
    """

    family = "prototype"

    def __init__(
        self,
        size: Size,
        rng: Generator,
        *,
        layers: int = 1,
        use_cls: bool = True,
        dropout: float = 0.2,
        prototypes: int | None = None,
    ) -> None:
        if dropout >= 1:
            raise InputError(f"Head 'cgp' expects dropout to be a share below 1, got {dropout!r}.")
        count, dim = prototypes or size.classes * size.per_class, size.dim // divisor("layers", layers, size.dim)
        super().__init__(size, layer(nn.Linear, 3 * count, size.classes, rng=rng))
        self.prototypes = normal(count, dim, std=0.02, rng=rng)
        self.gate = nn.Parameter(torch.ones(layers))
        self.norm = SeededDropout(dropout, rng)
        self.reads = ("tokens", "cls") if use_cls else ("tokens",)

    def mixed(self, x: Tensor) -> Tensor:
        """Return Σ_l α_l x^l / ‖x^l‖ of layers side by side: (…, L·D) → (…, D)."""
        x = x.unflatten(-1, (len(self.gate), -1))  # (…, L·D) → (…, L, D)
        shares = self.gate.softmax(0) / x.norm(dim=-1).clamp_min(1e-12)  # (…, L)
        return (shares[..., None, :] @ x).squeeze(-2)  # (…, 1, L) @ (…, L, D) → (…, D)

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        tokens, prototypes = self.mixed(tokens), F.normalize(self.prototypes, dim=-1)  # (B, N, D), (K, D)
        third = self.mixed(cls) if "cls" in self.reads else masked_mean(tokens, mask)  # (B, D)
        return torch.cat([*extremes(tokens, prototypes, mask), third @ prototypes.T], 1)  # (B, 3K)

    def frame_logits(self, tokens: Tensor) -> Tensor:
        """Return logits of every time step of tokens (B, N, L·D): (B, C, S_t).

        Minimum, maximum and, in the place of cls, mean are taken over the frequencies of a step.
        """
        tokens, _ = self.checked(tokens, tokens[:, 0])  # a step has no cls, so any stands in for it here
        mixed, prototypes = self.mixed(tokens.unflatten(1, self.grid)), F.normalize(self.prototypes, dim=-1)
        steps = mixed.flatten(0, 1)  # (B, N, D) → (B, S_t, S_f, D) → (B·S_t, S_f, D)
        y = torch.cat([*extremes(steps, prototypes, None), steps.mean(1) @ prototypes.T], 1)  # (B·S_t, 3K)
        logits = self.classifier(self.norm(y))  # (B·S_t, C)
        return logits.unflatten(0, mixed.shape[:2]).mT  # (B·S_t, C) → (B, S_t, C) → (B, C, S_t)


def extremes(tokens: Tensor, prototypes: Tensor, mask: Tensor | None) -> list[Tensor]:
    """Return the smallest and the largest dot product of each prototype (K, D) with valid tokens (B, N, D): two (B, K).

    As in `lib.pooling.max_cosine`: the winners are found without gradient, and they alone are scored with it.
    """
    with torch.no_grad():
        found = []
        for block in prototypes.split(1024):
            scores = tokens @ block.T  # (B, N, k)
            lowest = (scores if mask is None else scores.masked_fill(~mask[..., None], torch.inf)).min(1)
            found.append((*lowest, *masked_max(scores, mask)))
        least, low, most, high = (torch.cat(parts, 1) for parts in zip(*found, strict=True))  # (B, K) each
    if not torch.is_grad_enabled():
        return [least, most]
    first = torch.arange(len(tokens), device=tokens.device)[:, None] * tokens.shape[1]  # (B, 1), rows of all tokens
    rows = tokens.flatten(0, 1)  # (B, N, D) → (B·N, D)
    return [(F.embedding(first + winners, rows) * prototypes).sum(-1) for winners in (low, high)]  # (B, K, D)·(K, D)


class Vector(Head):
    """vector: linear with what else is put before a linear layer: y = dropout(norm(cls)).

    Count DC + C, and 2D more with `norm` "layer" (scale and shift, eps 1e-6); BatchNorm is the option `head_bn`.
    """

    family, reads = "cls", ("cls",)

    def __init__(
        self, size: Size, rng: Generator, *, norm: Literal["none", "layer"] = "none", dropout: float = 0.0
    ) -> None:
        if dropout >= 1:
            raise InputError(f"Head 'vector' expects dropout to be a share below 1, got {dropout!r}.")
        super().__init__(size, layer(nn.Linear, size.dim, size.classes, rng=rng))
        self.layer_norm = nn.LayerNorm(size.dim, eps=1e-6) if norm == "layer" else nn.Identity()
        self.dropout = SeededDropout(dropout, rng)

    def pool(self, tokens: Tensor | None, cls: Tensor, mask: Tensor | None) -> Tensor:
        return self.dropout(self.layer_norm(cls))  # (B, D)


class OwnPrototypes(nn.Module):
    """A classifier whose classes see only their own J prototypes: (…, K) → (…, C), Σ_j w_cj y_cj + b_c.

    It starts like a linear layer of J inputs, U(±1/√J), or as proto's does: w = 1, b = −2. `positive` replaces w by
    relu(w), as proto has it.
    """

    def __init__(self, size: Size, rng: Generator, ones: bool, positive: bool) -> None:
        super().__init__()
        weight, bias = torch.ones(size.classes, size.per_class), torch.full((size.classes,), -2.0)
        if not ones:
            bound = size.per_class**-0.5
            weight, bias = (start.uniform_(-bound, bound, generator=rng) for start in (weight, bias))
        self.weight, self.bias, self.positive = nn.Parameter(weight), nn.Parameter(bias), positive

    def forward(self, y: Tensor) -> Tensor:
        """Return the logits."""
        weight = self.weight.relu() if self.positive else self.weight
        return (y.unflatten(-1, weight.shape) * weight).sum(-1) + self.bias  # (…, K) → (…, C, J) → (…, C)


class Prototypes(Head):
    """prototypes: from protobin over protofloat to proto, one option a difference; equations as there.

    logits = W y + b,  y_k = pool_n cos(z_n, p_k); with nothing set it is protofloat. `binary`: p_k = sign(p̃_k), and
    it is protobin. `class_dependent`: W (C, J), each class sees its own prototypes, else (C, K) and all of them.
    `orthogonality_weight` times the loss of proto is added, over the blocks of J prototypes (for `binary` over
    their signs). `pooling`: the maximum over tokens, their mean, or the mean of the `top` largest. `frozen`:
    prototypes stay as they were drawn and count as no parameters.

    What else proto has: `start` "uniform" is p ~ U(0, 1) instead of N(0, 0.02²); `ones` is w = 1 and b = −2,
    `positive` relu(w), both for class-dependent W alone; `cosine` "upstream" is its cosine with two more channels and
    epsilons, followed by relu and 1/1.01. All of them together are proto.

    Count KD + KC + C, or KD + K + C if class-dependent; without KD if frozen.
    """

    family = "prototype"

    def __init__(
        self,
        size: Size,
        rng: Generator,
        *,
        binary: bool = False,
        class_dependent: bool = False,
        orthogonality_weight: float = 0.0,
        pooling: Literal["max", "mean", "topk"] = "max",
        top: int = 5,
        frozen: bool = False,
        start: Literal["normal", "uniform"] = "normal",
        ones: bool = False,
        positive: bool = False,
        cosine: Literal["plain", "upstream"] = "plain",
    ) -> None:
        count = size.classes * size.per_class  # K
        if class_dependent:
            classifier = OwnPrototypes(size, rng, ones, positive)
        else:
            classifier = layer(nn.Linear, count, size.classes, rng=rng)
        super().__init__(size, classifier)
        uniform = start == "uniform"
        drawn = torch.rand(count, size.dim, generator=rng) if uniform else normal(count, size.dim, std=0.02, rng=rng)
        if frozen:
            self.register_buffer("prototypes", drawn.detach())
        else:
            self.prototypes = nn.Parameter(drawn)
        self.per_class, self.binary, self.orthogonality_weight = size.per_class, binary, orthogonality_weight
        self.pooling, self.top, self.upstream = pooling, top, cosine == "upstream"

    def values(self) -> Tensor:
        """Return the prototypes as they are used: their signs, if binary; (K, D)."""
        return sign(self.prototypes) if self.binary else self.prototypes

    def unit(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, N, D) and prototypes (K, D) at length one; upstream's have D + 2 channels."""
        if not self.upstream:
            return F.normalize(tokens, dim=-1), F.normalize(self.values(), dim=-1)
        tokens, prototypes = (F.pad(given, (0, 2), value=1e-4) for given in (tokens, self.values()))
        lengths = [(given.square().sum(-1, keepdim=True) + 1e-4).sqrt() for given in (tokens, prototypes)]
        return tokens / lengths[0], prototypes / (lengths[1] + 1e-4)

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        tokens, prototypes = self.unit(tokens)
        if self.pooling == "mean":
            y = masked_mean(tokens, mask) @ prototypes.T  # the mean of cosines is the product with the mean: (B, K)
        elif self.pooling == "max":
            y = max_cosine(tokens, prototypes, mask)
        else:
            y = mean_of_largest(tokens, prototypes, mask, self.top)
        return y.relu() / 1.01 if self.upstream else y  # (B, K)

    def extra_loss(self) -> Tensor:
        """Return the weighted orthogonality loss."""
        if not self.orthogonality_weight:
            return self.classifier.bias.new_zeros(())
        blocks = self.values().unflatten(0, (-1, self.per_class))  # (K, D) → (C, J, D)
        return self.orthogonality_weight * orthogonality_loss(blocks)


class MlpOpen(Head):
    """mlp with another activation: y = φ(W₁·cls + b₁) of width H = 2D/3; with "relu" it is `lib.heads.Mlp`."""

    family, reads = "cls", ("cls",)

    def __init__(self, size: Size, rng: Generator, *, activation: Literal["relu", "gelu", "tanh"] = "relu") -> None:
        hidden = round(2 * size.dim / 3)
        super().__init__(size, layer(nn.Linear, hidden, size.classes, rng=rng))
        self.hidden = layer(nn.Linear, size.dim, hidden, rng=rng)
        self.activation = {"relu": nn.ReLU(), "gelu": nn.GELU(), "tanh": nn.Tanh()}[activation]

    def pool(self, tokens: Tensor | None, cls: Tensor, mask: Tensor | None) -> Tensor:
        return self.activation(self.hidden(cls))  # (B, H)


class ProtoOpen(Prototypes):
    """proto with another start; with nothing set it is `lib.heads.Proto`, as is its count.

    `start` of the prototypes: U(0, 1) as upstream, or N(0, 0.02²) as in protobin. `weights`: 1, or U(±1/√J), at which
    AudioProtoPNet's shipped configuration leaves them, so that about half have no gradient. `bias`: −2 or 0.
    """

    def __init__(
        self,
        size: Size,
        rng: Generator,
        *,
        start: Literal["uniform", "normal"] = "uniform",
        weights: Literal["one", "uniform"] = "one",
        bias: Literal["minus two", "zero"] = "minus two",
    ) -> None:
        proto = {"class_dependent": True, "ones": True, "positive": True, "cosine": "upstream"}
        super().__init__(size, rng, orthogonality_weight=1.0, start=start, **proto)
        with torch.no_grad():
            if weights == "uniform":
                bound = size.per_class**-0.5
                self.classifier.weight.uniform_(-bound, bound, generator=rng)
            if bias == "zero":
                self.classifier.bias.zero_()


class ProtobinOpen(Prototypes):
    """protobin with another gradient, or dropout on its scores; with nothing set it is `lib.heads.Protobin`, count too.

    s_k = b_kᵀz / (√D ‖z‖), b = sign(p̃). `length` "constant" takes √D as a number, so that ∂s/∂p̃ = ẑ/√D; "inside" is the
    norm of b in the graph, ∂s/∂p̃ = (ẑ − (ẑᵀb̂) b̂)/√D. `straight_through` "clipped" hands no gradient to a latent
    weight beyond ±1 (Hubara et al., 2016). `dropout` is the share of scores that is set to zero: 0.2 in BAT.
    """

    def __init__(
        self,
        size: Size,
        rng: Generator,
        *,
        length: Literal["inside", "constant"] = "inside",
        straight_through: Literal["identity", "clipped"] = "identity",
        dropout: float = 0.0,
    ) -> None:
        if dropout >= 1:
            raise InputError(f"Head 'protobin-open' expects dropout to be a share below 1, got {dropout!r}.")
        super().__init__(size, rng, binary=True)
        self.norm = SeededDropout(dropout, rng)
        self.constant, self.clipped = length == "constant", straight_through == "clipped"

    def values(self) -> Tensor:
        return sign(self.prototypes.clamp(-1, 1) if self.clipped else self.prototypes)  # (K, D)

    def unit(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens, prototypes = super().unit(tokens)
        return tokens, self.values() / self.dim**0.5 if self.constant else prototypes


def mean_of_largest(tokens: Tensor, prototypes: Tensor, mask: Tensor | None, top: int) -> Tensor:
    """Return the mean of each prototype's `top` largest products with valid tokens, or of all if fewer: (B, K)."""
    products = prototypes @ tokens.mT  # (K, D) @ (B, D, N) → (B, K, N)
    if mask is not None:
        products = products.masked_fill(~mask[:, None], -torch.inf)
    largest = products.topk(min(top, products.shape[-1])).values  # (B, K, top)
    valid = largest.isfinite()
    return largest.masked_fill(~valid, 0).sum(-1) / valid.sum(-1)


BEYOND: dict[str, type[Head]] = {
    "cgp": Cgp,
    "vector": Vector,
    "prototypes": Prototypes,
    "mlp-open": MlpOpen,
    "proto-open": ProtoOpen,
    "protobin-open": ProtobinOpen,
}  # name → class
