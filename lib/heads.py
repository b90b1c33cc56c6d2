"""The pooling heads: each makes logits of a frozen encoder's patch tokens and cls, one class a head.

B clips, N = S_t·S_f patch tokens, time-major (n = t·S_f + f), D token dimension, C classes, J prototypes per class,
K = J·C in all. `pool` makes one vector y per clip of tokens (B, N, D) and cls (B, D); logits (B, C) are W·y + b.

"Table 9" in a docstring is the exact parameter count at (N, D, C, J) = (512, 768, 10, 20). Equation numbers are the
paper's (arXiv 2509.24901); what it leaves open is an option. Weights start as U(±1/√fan_in) where nothing else is said.
"""
# ruff: noqa: D102 (pool is documented once, in lib.pooling.Head; comments give the shapes)

import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lib.errors import InputError, unknown_name
from lib.heads_beyond import BEYOND
from lib.loss import orthogonality_loss
from lib.pooling import (
    ClassDependent,
    Head,
    Size,
    attend,
    check_option,
    divisor,
    layer,
    masked_max,
    masked_mean,
    masked_softmax,
    max_cosine,
    normal,
    sign,
)

# ---- cls ---------------------------------------------------------------------------------------------------


class Linear(Head):
    """linear: y = cls, the only thing it reads. Table 9: DC + C = 7,690."""

    family, reads = "cls", ("cls",)

    def __init__(self, size: Size, rng: Generator) -> None:
        super().__init__(size, layer(nn.Linear, size.dim, size.classes, rng=rng))

    def pool(self, tokens: Tensor | None, cls: Tensor, mask: Tensor | None) -> Tensor:
        return cls  # (B, D)


class Mlp(Head):
    """mlp: y = relu(W₁·cls + b₁) of width H = 2D/3; reads only cls.

    Table 9: DH + H + HC + C = 398,858 at H = 512 (the paper's 398k leaves out the biases). The paper does not
    name the activation; ReLU is that of the group's MLP probe in Bird-MAE (Rauch et al., 2025a).
    """

    family, reads = "cls", ("cls",)

    def __init__(self, size: Size, rng: Generator, *, hidden: int | None = None) -> None:
        hidden = hidden or round(2 * size.dim / 3)
        super().__init__(size, layer(nn.Linear, hidden, size.classes, rng=rng))
        self.hidden = layer(nn.Linear, size.dim, hidden, rng=rng)

    def pool(self, tokens: Tensor | None, cls: Tensor, mask: Tensor | None) -> Tensor:
        return self.hidden(cls).relu()  # (B, H)


# ---- token map ---------------------------------------------------------------------------------------------


class Linearc(Head):
    """linearc: y = vec(Z), all tokens side by side; masked tokens count as zeros.

    Table 9: NDC + C = 3,932,170. At C = 527 that is 207 million, 3.3 GB with gradient and AdamW states.
    """

    family = "token map"

    def __init__(self, size: Size, rng: Generator) -> None:
        super().__init__(size, layer(nn.Linear, math.prod(size.grid) * size.dim, size.classes, rng=rng))

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        return tokens.flatten(1)  # (B, N, D) → (B, N·D)


class Conv(Head):
    """conv: y is the mean over the grid of a zero-padded 3×3 convolution D → D_h = D/2 and a ReLU.

    Table 9: 9·D·D_h + D_h + D_h·C + C = 2,658,442 at k = 3 and D_h = 384, which its 2.7M tells; the rest is open.
    Masked tokens enter as zeros and are left out of mean and max, but not of the batch norm's statistics.
    """

    family = "token map"

    def __init__(
        self,
        size: Size,
        rng: Generator,
        *,
        conv_dim: int | None = None,
        activation: Literal["relu", "gelu", "none"] = "relu",
        pool: Literal["mean", "max"] = "mean",
        batch_norm: bool = False,
    ) -> None:
        conv_dim = conv_dim or max(size.dim // 2, 1)
        super().__init__(size, layer(nn.Linear, conv_dim, size.classes, rng=rng))
        self.conv = layer(nn.Conv2d, size.dim, conv_dim, 3, padding=1, rng=rng)
        self.batch_norm = nn.BatchNorm2d(conv_dim) if batch_norm else nn.Identity()
        self.activation = {"relu": nn.ReLU(), "gelu": nn.GELU(), "none": nn.Identity()}[activation]
        self.takes_max = pool == "max"

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        image = tokens.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (B, N, D) → (B, D, S_t, S_f)
        maps = self.activation(self.batch_norm(self.conv(image)))  # (B, D_h, S_t, S_f)
        maps = maps.flatten(2).mT  # (B, D_h, S_t, S_f) → (B, D_h, N) → (B, N, D_h)
        return masked_max(maps, mask)[0] if self.takes_max else masked_mean(maps, mask)  # (B, D_h)


class Linpre(Head):
    """linpre: y = [mean_t z_{t,1}; …; mean_t z_{t,S_f}], one mean a frequency row (Niizumi et al., 2022).

    Table 9: S_f·DC + C = 61,450 at S_f = 8. A row without a valid token gives zeros. To standardise y, as
    NTT's protocol does and this paper does not mention, would be preprocessing.
    """

    family = "token map"

    def __init__(self, size: Size, rng: Generator) -> None:
        super().__init__(size, layer(nn.Linear, size.grid[1] * size.dim, size.classes, rng=rng))

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        mask = None if mask is None else mask.unflatten(1, self.grid)  # (B, N) → (B, S_t, S_f)
        rows = masked_mean(tokens.unflatten(1, self.grid), mask)  # (B, N, D) → (B, S_t, S_f, D) → (B, S_f, D)
        return rows.flatten(1)  # (B, S_f, D) → (B, S_f·D)


# ---- attentive ---------------------------------------------------------------------------------------------


class Mhca(Head):
    """mhca: attention with one learned query q, M heads of width d = D/M, as in AIM (El-Nouby et al., 2024).

    a_h = softmax_n( q_hᵀ (W_K z_n)_h / √d ),  y_h = Σ_n a_{h,n} (W_V z_n)_h,  y = [y_1; …; y_M].
    Computed folded, the same function for a fraction of the work: q_hᵀ (W_K z)_h = (W_{K,h}ᵀ q_h)ᵀ z, and
    Σ_n a_n W_V z_n = W_V Σ_n a_n z_n.

    Table 9: 2D² + D + DC + C = 1,188,106 (the paper's formula lacks a factor 2). q ~ N(0, 0.02²); no biases,
    no output projection. `token_norm` "bn" is AIM's: BatchNorm without affine, over the valid tokens of the
    batch; the group's own ports have "none". `num_heads` is 12 at D = 768, else 8.
    """

    family = "attentive"

    def __init__(
        self,
        size: Size,
        rng: Generator,
        *,
        num_heads: int | None = None,
        token_norm: Literal["bn", "none"] = "bn",
    ) -> None:
        super().__init__(size, layer(nn.Linear, size.dim, size.classes, rng=rng))
        num_heads = divisor("num_heads", num_heads or (12 if size.dim == 768 else 8), size.dim)
        self.heads = (num_heads, size.dim // num_heads)  # (M, d)
        self.query = normal(size.dim, std=0.02, rng=rng)
        self.key = layer(nn.Linear, size.dim, size.dim, bias=False, rng=rng)
        self.value = layer(nn.Linear, size.dim, size.dim, bias=False, rng=rng)
        bn = token_norm == "bn"
        self.token_norm = nn.BatchNorm1d(size.dim, eps=1e-6, affine=False) if bn else nn.Identity()

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        if mask is None:
            tokens = self.token_norm(tokens.flatten(0, 1)).view_as(tokens)  # (B, N, D) → (B·N, D) → (B, N, D)
        else:
            tokens = tokens.masked_scatter(mask[..., None], self.token_norm(tokens[mask]))  # (B, N, D)
        key, value = (w.weight.unflatten(0, self.heads) for w in (self.key, self.value))  # (D, D) → (M, d, D)
        query = torch.einsum("md,mdi->mi", self.query.view(self.heads), key)  # (M, d), (M, d, D) → (M, D)
        pooled = attend(tokens, query / self.heads[1] ** 0.5, mask)  # (B, M, D)
        return torch.einsum("bmi,mdi->bmd", pooled, value).flatten(1)  # (B, M, d) → (B, D)


class Ep(Head):
    """ep: efficient probing, Q learned queries in token space and no key projection (Psomas et al., 2025).

    a_j = softmax_n( q_jᵀ z_n / √D ),  y_j = Σ_n a_{j,n} (W_V z_n)_{chunk j of D/Q},  y = [y_1; …; y_Q].
    Folded as in mhca: tokens are pooled before W_V. mhca without token norm is ep with Q = M, the same W_V
    and queries √(D/d)·W_{K,j}ᵀ q_j: for a fixed learned query W_K adds no function.

    Table 9: D² + QD + DC + C = 622,090 at Q = 32. q ~ N(0, 0.02²), W_V without bias.
    """

    family = "attentive"

    def __init__(self, size: Size, rng: Generator, *, num_queries: int = 32) -> None:
        super().__init__(size, layer(nn.Linear, size.dim, size.classes, rng=rng))
        self.queries = normal(divisor("num_queries", num_queries, size.dim), size.dim, std=0.02, rng=rng)
        self.value = layer(nn.Linear, size.dim, size.dim, bias=False, rng=rng)

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        pooled = attend(tokens, self.queries / self.dim**0.5, mask)  # (B, Q, D)
        value = self.value.weight.unflatten(0, (len(self.queries), -1))  # (D, D) → (Q, D/Q, D)
        return torch.einsum("bqi,qdi->bqd", pooled, value).flatten(1)  # (B, Q, D/Q) → (B, D)


class Simpool(Head):
    """simpool: attention whose query is the mean token u = mean_n z_n (Psomas et al., 2023).

    x_n = LN(z_n),  a = softmax_n( (W_Q u)ᵀ (W_K x_n) / √D ),  y = Σ_n a_n x_n. Folded, the same function: the
    query W_Kᵀ W_Q u meets x directly, and the LN's scale and shift act on query and y, not on N tokens.

    Table 9: 2D² + 2D + DC + C = 1,188,874. `single_matrix` has one matrix for W_Kᵀ W_Q and an LN without
    affine, the same function class; this is the paper's 598k: D² + DC + C = 597,514.
    """

    family = "attentive"

    def __init__(self, size: Size, rng: Generator, *, single_matrix: bool = False) -> None:
        super().__init__(size, layer(nn.Linear, size.dim, size.classes, rng=rng))
        self.query = layer(nn.Linear, size.dim, size.dim, bias=False, rng=rng)
        self.key = None if single_matrix else layer(nn.Linear, size.dim, size.dim, bias=False, rng=rng)
        self.token_norm = None if single_matrix else nn.LayerNorm(size.dim, eps=1e-6)

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        query = self.query(masked_mean(tokens, mask)) / self.dim**0.5  # (B, D)
        plain = F.layer_norm(tokens, (self.dim,), eps=1e-6)  # (B, N, D)
        if self.key is not None:
            query = query @ self.key.weight * self.token_norm.weight  # (B, D)
        y = attend(plain, query[:, None], mask).squeeze(1)  # (B, 1, D) → (B, D)
        return y if self.key is None else y * self.token_norm.weight + self.token_norm.bias


class Abmilp(Head):
    """abmilp: attention-based multiple-instance pooling (Ilse et al., 2018; Przewięźlikowski et al., 2025).

    x = SelfAttention(Z), one head, scale 1/√D, output projection, no residual, no norm; folded as in mhca.
    e_n = w₂ᵀ tanh(W₁ x_n + b₁) + b₂,  a = softmax_n(e),  y = Σ_n a_n x_n.

    Table 9: 5D² + 3D + 1 + DC + C = 2,959,115, the reading of its 3.0M (its formula gives 1.19M).
    `variant` "ilse" has x = Z; "gated" has x = Z and multiplies the tanh by sigmoid(U x_n + c).
    """

    family = "attentive"

    def __init__(self, size: Size, rng: Generator, *, variant: Literal["sa", "ilse", "gated"] = "sa") -> None:
        dim, self_attends = size.dim, variant == "sa"
        super().__init__(size, layer(nn.Linear, dim, size.classes, rng=rng))
        self.qkv = layer(nn.Linear, dim, 3 * dim, bias=False, rng=rng) if self_attends else None
        self.projection = layer(nn.Linear, dim, dim, rng=rng) if self_attends else None
        self.hidden = layer(nn.Linear, dim, dim, rng=rng)
        self.gate = layer(nn.Linear, dim, dim, rng=rng) if variant == "gated" else None
        self.score = layer(nn.Linear, dim, 1, rng=rng)

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.qkv is not None:
            w_query, w_key, w_value = self.qkv.weight.chunk(3)  # (3D, D) → three (D, D)
            queries = tokens @ (w_query.T @ w_key) / self.dim**0.5  # (B, N, D)
            values = self.projection.weight @ w_value  # (D, D)
            tokens = F.linear(attend(tokens, queries, mask), values, self.projection.bias)  # (B, N, D)
        evidence = self.hidden(tokens).tanh()  # (B, N, D)
        if self.gate is not None:
            evidence = evidence * self.gate(tokens).sigmoid()
        attention = masked_softmax(self.score(evidence).mT, mask)  # (B, N, 1) → (B, 1, N)
        return (attention @ tokens).squeeze(1)  # (B, 1, D) → (B, D)


# ---- prototype ---------------------------------------------------------------------------------------------


class Prototype(Head):
    """What the prototype heads share: y_k = max_{t,f} s_k(t, f), s_k = cos(z^{t,f}, p_k) (Eq. 3).

    A head may change how tokens and prototypes become unit vectors, and may pass the cosine through a
    function that never falls, so that it can follow the maximum. Prototype j of class c is k = c·J + j.
    """

    family = "prototype"

    def __init__(self, size: Size, classifier: nn.Module) -> None:
        super().__init__(size, classifier)
        self.map_grid = size.grid

    def unit_tokens(self, tokens: Tensor, cls: Tensor | None) -> Tensor:
        return F.normalize(tokens, dim=-1)  # (B, N, D)

    def unit_prototypes(self) -> Tensor:
        return F.normalize(self.prototypes, dim=-1)  # (K, D)

    def activate(self, cosine: Tensor) -> Tensor:
        return cosine

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        cosine = max_cosine(self.unit_tokens(tokens, cls), self.unit_prototypes(), mask)
        return self.activate(cosine)  # (B, K)

    def similarity_map(self, tokens: Tensor, cls: Tensor | None = None) -> Tensor:
        """Return s_k(t, f) of tokens (B, N, D): (B, K, S_t, S_f)."""
        tokens, cls = self.checked(tokens, cls)
        similarity = self.activate(self.unit_tokens(tokens, cls) @ self.unit_prototypes().T)  # (B, N, K)
        return similarity.mT.unflatten(2, self.map_grid)  # (B, N, K) → (B, K, N) → (B, K, S_t, S_f)

    def evidence_map(self, tokens: Tensor, cls: Tensor | None = None) -> Tensor:
        """Return Σ_k W_ck s_k(t, f), the evidence for each class at each place: (B, C, S_t, S_f)."""
        similarity = self.similarity_map(tokens, cls).movedim(1, -1)  # (B, K, S_t, S_f) → (B, S_t, S_f, K)
        return (self.classifier(similarity) - self.classifier.bias).movedim(-1, 1)  # (B, C, S_t, S_f)


class Proto(Prototype):
    """proto: class-dependent prototypes, as in AudioProtoPNet (Heinrich et al., 2025) and Bird-MAE.

    s_cj = relu(cos(z, p_cj) / 1.01),  logit_c = Σ_j relu(w_cj) max_{t,f} s_cj + b_c;  p ~ U(0, 1), w = 1,
    b = −2. The cosine is upstream's: two more channels of 1e-4 on both vectors, ‖·‖² + 1e-4 under the roots,
    another 1e-4 added to the prototype's norm. `extra_loss` keeps the prototypes of a class apart.

    Table 9: KD + K + C = 153,810 (its 155k is a dense K×C classifier, which would not be class-dependent).
    `upsample` doubles the grid, and that of the maps, bilinearly; `focal_similarity` matches z − cls: two
    steps of Bird-MAE (Rauch et al., 2025a) that this paper does not mention.
    """

    def __init__(
        self,
        size: Size,
        rng: Generator,
        *,
        orthogonality_weight: float = 1.0,
        upsample: bool = False,
        focal_similarity: bool = False,
    ) -> None:
        super().__init__(size, ClassDependent(size))
        self.prototypes = nn.Parameter(torch.rand(size.classes, size.per_class, size.dim, generator=rng))
        self.orthogonality_weight, self.upsample = orthogonality_weight, upsample
        self.reads = ("tokens", "cls") if focal_similarity else ("tokens",)
        self.map_grid = tuple(2 * side for side in size.grid) if upsample else size.grid

    def unit_tokens(self, tokens: Tensor, cls: Tensor | None) -> Tensor:
        if "cls" in self.reads:
            tokens = tokens - cls[:, None]  # (B, N, D) − (B, 1, D)
        if self.upsample:
            image = tokens.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (B, N, D) → (B, D, S_t, S_f)
            tokens = F.interpolate(image, scale_factor=2, mode="bilinear").flatten(2).mT  # (B, 4N, D)
        tokens = F.pad(tokens, (0, 2), value=1e-4)  # (B, N, D + 2)
        return tokens / (tokens.square().sum(-1, keepdim=True) + 1e-4).sqrt()

    def unit_prototypes(self) -> Tensor:
        prototypes = F.pad(self.prototypes.flatten(0, 1), (0, 2), value=1e-4)  # (C, J, D) → (K, D + 2)
        return prototypes / ((prototypes.square().sum(-1, keepdim=True) + 1e-4).sqrt() + 1e-4)

    def activate(self, cosine: Tensor) -> Tensor:
        return cosine.relu() / 1.01

    def pool(self, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.upsample and mask is not None:
            raise InputError("Head 'proto' with upsample=True takes no mask: padding would leak into tokens.")
        return super().pool(tokens, cls, mask)

    def extra_loss(self) -> Tensor:
        """Return the weighted orthogonality loss."""
        return self.orthogonality_weight * orthogonality_loss(self.prototypes)


class Protofloat(Prototype):
    """protofloat (ablation, App. B): s_k = cos(z, p_k), W (C, K) dense; p ~ N(0, init_std²); 155,610 too."""

    def __init__(self, size: Size, rng: Generator, *, init_std: float = 0.02) -> None:
        prototypes = size.classes * size.per_class
        super().__init__(size, layer(nn.Linear, prototypes, size.classes, rng=rng))
        self.prototypes = normal(prototypes, size.dim, std=init_std, rng=rng)


class Protobin(Protofloat):
    """protobin, the paper's method: protofloat with prototypes b = sign(p̃) ∈ {−1, +1}^D (Eq. 2 and 3).

    s_k = bᵀz / (√D ‖z‖), sign(0) = +1, and sign's gradient is taken to be one. The norm of b is part of the
    graph, so ∂s/∂p̃ = (ẑ − (ẑᵀb̂) b̂)/√D. Class-agnostic, no relu, no temperature, no extra loss.

    Table 9: KD + KC + C = 155,610. The start is open in the paper: N(0, 0.02²) is BAT's (Ghaffari et al.,
    2026); U(0, 1) as in proto would make all prototypes equal. The scores ignore the size of p̃, but learning
    rate over `init_std` sets how fast signs flip.
    """

    def unit_prototypes(self) -> Tensor:
        return F.normalize(sign(self.prototypes), dim=-1)  # (K, D); protofloat has no sign here


# ---- registry ----------------------------------------------------------------------------------------------

_IN_ORDER = (Linear, Mlp, Linearc, Conv, Linpre, Mhca, Ep, Simpool, Abmilp, Proto, Protobin, Protofloat)
HEADS: dict[str, type[Head]] = {kind.__name__.lower(): kind for kind in _IN_ORDER}  # the paper's order
KNOWN = HEADS | BEYOND
FAMILIES: dict[str, str] = {name: kind.family for name, kind in KNOWN.items()}


def build_head(
    name: str,
    dim: int,
    num_classes: int,
    grid: Sequence[int],
    prototypes_per_class: int = 20,
    generator: Generator | None = None,
    **options: Any,
) -> Head:
    """Build a head with fresh weights; `head(tokens, cls, mask=None)` then gives logits (B, C).

    Parameters
    ----------
    name, dim, num_classes, grid, prototypes_per_class
        A key of `KNOWN`, then D, C, (S_t, S_f) and J, which heads without prototypes ignore.
    generator : torch.Generator, optional
        On the CPU; all randomness of the initial weights comes from it. None: a fresh one with seed 0.
    **options
        The keyword-only arguments of the head's class. All but the prototype heads (their small score range is part of
        the method) also take `head_bn=False`: BatchNorm without affine on y, as EP's code has it.

    Raises
    ------
    InputError
        If there is no such head or option, or a size or value is not possible.
    """
    if name not in KNOWN:
        raise unknown_name("head", name, list(KNOWN))
    kind = KNOWN[name]
    if not isinstance(grid, Sequence) or len(grid) != 2:
        raise InputError(f"Head '{name}' expects grid to be (S_t, S_f), two whole numbers, got {grid!r}.")
    names = ("dim", "num_classes", "S_t", "S_f", "prototypes_per_class")
    for what, value in zip(names, (dim, num_classes, *grid, prototypes_per_class), strict=True):
        check_option(name, what, value, int)
    kinds = {} if kind.family == "prototype" else {"head_bn": bool}
    kinds |= {p.name: p.annotation for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in kinds:
            raise unknown_name(f"{name} option", option, list(kinds))
        check_option(name, option, value, kinds[option])
    head_bn = options.pop("head_bn", False)
    size = Size(dim, num_classes, tuple(grid), prototypes_per_class)
    head = kind(size, generator or torch.Generator().manual_seed(0), **options)
    if head_bn:
        head.norm = nn.BatchNorm1d(head.classifier.in_features, eps=1e-6, affine=False)
    return head


def parameter_groups(head: Head, weight_decay: float) -> list[dict[str, Any]]:
    """Split a head's parameters for AdamW: matrices decay; prototypes, queries, norms and biases do not."""
    groups = {weight_decay: [], 0.0: []}
    for name, parameter in head.named_parameters():
        decays = name.endswith("weight") and parameter.ndim > 1
        groups[weight_decay if decays else 0.0].append(parameter)
    return [{"params": params, "weight_decay": decay} for decay, params in groups.items() if params]
