"""What the stacked heads are made of: clips that are read once, products for many runs, attention.

R runs, B clips, N patch tokens, D token dimension, Q queries.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError, unknown_name
from lib.hardware import has_bfloat16
from lib.store import Embeddings

Weights = dict[str, Tensor]
Products = Literal["auto", "float32", "bfloat16"]
CHUNK = 64  # clips that are read at a time where all are read
LITTLE = 2**26  # bytes up to which a split's tokens are kept a second time, in a narrower dtype

# ---- clips -------------------------------------------------------------------------------------------------


class Memory:
    """Memory by name, for large results that every step has: to free it and ask again costs as much as to fill it.

    What was taken under a name holds until the name is taken again.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory of this shape, with whatever is in it."""
        key, need = (name, dtype, device), math.prod(shape)
        if key not in self._kept or self._kept[key].numel() < need:
            self._kept[key] = torch.empty(need, dtype=dtype, device=device)
        return self._kept[key][:need].view(shape)


class Split:
    """A split as a stacked head reads it: its embeddings, and of each clip what never changes, computed once.

    Parameters
    ----------
    data : Embeddings
        The split.
    dtype : torch.dtype
        Of the weights.
    constants : callable, optional
        Makes of tokens (B, N, D) what is to be kept of each clip, (B, …), by name.
    memory : Memory
        Where its tokens are written in that dtype.
    """

    def __init__(
        self,
        data: Embeddings,
        dtype: torch.dtype,
        constants: Callable[[Tensor], Weights] | None,
        memory: Memory,
    ) -> None:
        self.data, self.dtype, self.memory = data, dtype, memory
        chunks = [constants(part.to(dtype)) for part in data.tokens.split(CHUNK)] if constants else [{}]
        self.constants = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
        self._narrow: dict[torch.dtype, Tensor] = {}

    def tokens_in(self, dtype: torch.dtype) -> Tensor | None:
        """Return all tokens (clips, N, D) in a dtype, converted once and kept; None where that takes much memory."""
        tokens = self.data.tokens
        if not isinstance(tokens, Tensor) or tokens.numel() * dtype.itemsize > LITTLE:
            return None
        if dtype not in self._narrow:
            # By way of the weights' float32: from float16 to bfloat16 directly takes torch several times as long.
            self._narrow[dtype] = torch.cat([part.to(self.dtype).to(dtype) for part in tokens.split(CHUNK)])
        return self._narrow[dtype]


class Clips:
    """Some clips of a split: a slice, or their numbers (B,), or numbers for each run (R, B)."""

    def __init__(self, split: Split, index: Tensor | slice) -> None:
        self.split, self.index = split, index
        self.own = not isinstance(index, slice) and index.ndim == 2  # whether each run has clips of its own

    def take(self, values: Tensor) -> Tensor:
        """Return these clips' part of values (clips, …): (B, …) or (R, B, …)."""
        if isinstance(self.index, slice):
            return values[self.index]
        if self.own:
            return values.index_select(0, self.index.flatten()).unflatten(0, self.index.shape)  # (R·B, …) → (R, B, …)
        return values.index_select(0, self.index)

    @functools.cached_property
    def tokens(self) -> Tensor:
        """Tokens (B, N, D) or (R, B, N, D) in the dtype of the weights; to be read alone.

        They may be the split's own memory, or such as the next batch overwrites.
        """
        part = self._read()
        return part if part.dtype == self.split.dtype else self._written(part)

    def tokens_in(self, dtype: torch.dtype) -> Tensor:
        """Return the tokens (B, N, D) or (R, B, N, D) in a dtype; to be read alone, as `tokens`."""
        if dtype == self.split.dtype:
            return self.tokens
        if (narrow := self.split.tokens_in(dtype)) is not None:
            return self._read(narrow)
        return self.split.memory.take("tokens", self.tokens.shape, dtype, self.tokens.device).copy_(self.tokens)

    def unit_tokens(self, scale: Tensor) -> Tensor:
        """Return the tokens times a number for each, (B, N) or (R, B, N), until the next batch overwrites them."""
        return self._written(self._read()).mul_(scale[..., None])

    def _read(self, tokens: Tensor | None = None) -> Tensor:
        tokens, index = self.split.data.tokens if tokens is None else tokens, self.index
        if isinstance(index, slice) or not isinstance(tokens, Tensor):  # tokens on disk are read into new memory
            return self.take(tokens)
        part = self.split.memory.take("read", (index.numel(), *tokens.shape[1:]), tokens.dtype, tokens.device)
        return torch.index_select(tokens, 0, index.flatten(), out=part).unflatten(0, index.shape)  # → (B or R, B, N, D)

    def _written(self, part: Tensor) -> Tensor:
        return self.split.memory.take("tokens", part.shape, self.split.dtype, part.device).copy_(part)

    @property
    def cls(self) -> Tensor:
        """The vector that stands for [cls], (B, D) or (R, B, D)."""
        return self.take(self.split.data.cls).to(self.split.dtype)

    def constant(self, name: str) -> Tensor:
        """One of the head's constants, (B, …) or (R, B, …)."""
        return self.take(self.split.constants[name])


def moments(clips: Clips) -> tuple[Tensor, Tensor, int]:
    """Return mean and variance (R or 1, D) of all tokens of a batch, from each clip's own, and their number."""
    means, variances = clips.constant("mean"), clips.constant("variance")  # (B, D) or (R, B, D)
    variance = variances.mean(-2) + means.var(-2, correction=0)  # within clips and between them
    count, dim = means.shape[-2:]
    return means.mean(-2).view(-1, dim), variance.view(-1, dim), count * clips.split.data.tokens.shape[1]


def pieces(total: int, size: int) -> list[slice]:
    """Return slices of at most `size` that cover `total`."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


# ---- products of many runs ---------------------------------------------------------------------------------


def products_dtype(products: Products, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of the largest products of a head that takes narrow ones.

    Parameters
    ----------
    products : {"auto", "float32", "bfloat16"}
        "auto" takes bfloat16 where the processor has instructions for it. "float32" is `dtype` itself.
    dtype : torch.dtype
        What everything else is computed in.
    device : torch.device
        Where the tokens are.

    Raises
    ------
    InputError
        For another name, or bfloat16 beside anything but float32.
    """
    if products not in get_args(Products):
        raise unknown_name("kind of products", str(products), list(get_args(Products)))
    if products == "bfloat16" and dtype != torch.float32:
        raise InputError(f"Products in bfloat16 go with float32, not with {dtype}; choose products='float32'.")
    fast = products == "auto" and dtype == torch.float32 and has_bfloat16(device)
    return torch.bfloat16 if fast or products == "bfloat16" else dtype


def unstack(w: Weights) -> list[Weights]:
    """Return the weights of each run."""
    rows = zip(*(value.unbind() for value in w.values()), strict=True)
    return [dict(zip(w, row, strict=True)) for row in rows]


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return W_r x + b_r for every run, (R, B, O).

    Parameters
    ----------
    x : torch.Tensor
        ``(B, I)``, one batch for all runs, or ``(R, B, I)``, a batch for each.
    weight, bias : torch.Tensor
        ``(R, O, I)`` and ``(R, O)``.
    """
    if x.ndim == 3:
        return x @ weight.mT if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)  # (R, B, I) @ (R, I, O)
    wide = F.linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())  # (B, I) @ (I, R·O) → (B, R·O)
    return wide.unflatten(1, weight.shape[:2]).transpose(0, 1)  # (B, R·O) → (B, R, O) → (R, B, O)


def classify(y: Tensor, w: Weights) -> Tensor:
    """Return W y + b of y (B, I) or (R, B, I): (R, B, C)."""
    return affine(y, w["classifier.weight"], w["classifier.bias"])


def of_layer(layer: str, gradient: Tensor, x: Tensor) -> Weights:
    """Return the gradients of a layer's weight and bias from that of its output (R, B, O); x as in `affine`."""
    return {f"{layer}.weight": gradient.mT @ x, f"{layer}.bias": gradient.sum(1)}  # (R, O, B) @ (B, I)


# ---- attention ---------------------------------------------------------------------------------------------


def attend_stacked(clips: Clips, queries: Tensor) -> Tensor:
    """Return what each run's queries (R, Q, D) pool of the tokens of its clips by attention, (R, B, Q, D)."""
    return _Attention.apply(queries, clips)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, clips: Clips) -> Tensor:
        pooled, ctx.pull = attention(clips, queries, queries.dtype)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.pull(gradient), None


def attention(clips: Clips, queries: Tensor, products: torch.dtype) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return Σ_n softmax_n(qᵀz_n) z_n of each run's queries and clips, and what takes its gradient to the queries.

    Where all runs have the same clips, their queries attend side by side.

    Parameters
    ----------
    clips : Clips
        Their tokens are data and get no gradient.
    queries : torch.Tensor
        ``(R, Q, D)``.
    products : torch.dtype
        Of the products with tokens; the softmax is computed in that of the queries.

    Returns
    -------
    tuple
        The pooled tokens ``(R, B, Q, D)``, and a callable from their gradient to that of the queries ``(R, Q, D)``.
        Both hold until the next attention that writes into the same memory.
    """
    tokens, memory, (runs, count, _) = clips.tokens_in(products), clips.split.memory, queries.shape
    batch = tokens.shape[-3]  # B
    flat = tokens.flatten(0, -3)  # (B, N, D) or (R·B, N, D)
    if clips.own:
        every = queries[:, None].expand(-1, batch, -1, -1).flatten(0, 1)  # (R, Q, D) → (R·B, Q, D)
    else:
        every = queries.flatten(0, 1).expand(batch, -1, -1)  # (R, Q, D) → (B, R·Q, D)
    scores = _product(every, flat.mT, memory, "scores")
    weights = memory.take("weights", scores.shape, scores.dtype, scores.device)
    torch.softmax(scores, -1, out=weights)  # (R·B, Q, N) or (B, R·Q, N)
    pooled = _product(weights, flat, memory, "pooled")  # (R·B, Q, D) or (B, R·Q, D)

    def pull(gradient: Tensor) -> Tensor:
        gradient = gradient.flatten(0, 1) if clips.own else gradient.transpose(0, 1).flatten(1, 2)  # as `pooled`
        along = _product(gradient, flat.mT, memory, "scores")
        to_scores = memory.take("scores' gradient", weights.shape, weights.dtype, weights.device)
        torch.ops.aten._softmax_backward_data.out(along, weights, -1, weights.dtype, grad_input=to_scores)
        each = _product(to_scores, flat, memory, "queries' gradient")
        return each.view(runs, batch, count, -1).sum(1) if clips.own else each.sum(0).view_as(queries)

    each_run = pooled.view(runs, batch, count, -1) if clips.own else pooled.unflatten(1, (runs, count)).transpose(0, 1)
    return each_run, pull


def _product(a: Tensor, b: Tensor, memory: Memory, name: str) -> Tensor:
    """Return a (G, I, J) times b (G, J, K), multiplied in the dtype of b, as numbers in that of a."""
    out = memory.take(name, (*a.shape[:2], b.shape[2]), b.dtype, b.device)
    if a.dtype == b.dtype:
        return torch.bmm(a, b, out=out)
    narrow = memory.take("narrow", a.shape, b.dtype, a.device).copy_(a)
    torch.bmm(narrow, b, out=out)
    return memory.take(name, out.shape, a.dtype, a.device).copy_(out)
