"""What the stacked heads are made of: clips that are read once, products for many runs, block-wise maxima.

R runs, B clips, N patch tokens, D token dimension, Q queries and K prototypes: here those of all runs, one run's
after another's. The similarity map (B, N, K) is never held whole: a block of it is made, its maxima are taken, and
the next block is written over it.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
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
# Bytes of a block of similarities: about the second cache of a core; a GPU wants large products.
BLOCK = {"cpu": 2**21, "cuda": 2**28}
LANES = 16  # fp32 numbers in a vector of 512 bits, the widest that processors have

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
        """Return the tokens (B, N, D) or (R, B, N, D) in a dtype, until the next batch overwrites them."""
        if dtype == self.split.dtype:
            return self.tokens
        # From float16 to bfloat16 there is a slow way and this one.
        return self.split.memory.take("tokens", self.tokens.shape, dtype, self.tokens.device).copy_(self.tokens)

    def unit_tokens(self, scale: Tensor) -> Tensor:
        """Return the tokens times a number for each, (B, N) or (R, B, N), until the next batch overwrites them."""
        return self._written(self._read()).mul_(scale[..., None])

    def _read(self) -> Tensor:
        tokens, index = self.split.data.tokens, self.index
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
        Both hold until the next attention of the same split.
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


# ---- vectors of length one ---------------------------------------------------------------------------------


def unit(vectors: Tensor, under: float = 0.0, beside: float = 0.0) -> Tensor:
    """Return v / (√(‖v‖² + under) + beside) of vectors (…, D), with the gradient in one pass instead of eight."""
    return _Unit.apply(vectors, under, beside, False)


def unit_signs(latent: Tensor) -> Tensor:
    """Return sign(v) / √D of vectors (…, D); backward the sign is the identity (Eq. 2), the length is not."""
    return _Unit.apply(latent, 0.0, 0.0, True)


class _Unit(torch.autograd.Function):
    """u = v/n, n = r + beside, r = √(‖v‖² + under): ∂u/∂v maps g to (g − u (uᵀg) n/r) / n."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, under: float, beside: float, signs: bool) -> Tensor:
        if signs:
            root = norm = vectors.new_tensor(vectors.shape[-1] ** 0.5)
            # As numbers, 1 or 0, then scaled: a choice between two numbers takes fifteen times as long.
            units = torch.ge(vectors, 0, out=torch.empty_like(vectors)).mul_(2 / root).sub_(1 / root)
        else:
            root = vectors.square().sum(-1, keepdim=True).add_(under).sqrt_()
            norm = (root + beside).clamp_min_(1e-12)
            units = vectors / norm
        ctx.save_for_backward(units, norm, root)
        return units

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        units, norm, root = ctx.saved_tensors
        along = (units * gradient).sum(-1, keepdim=True) * (norm / root)  # (…, 1)
        return torch.addcmul(gradient, units, along, value=-1).div_(norm), None, None, None


# ---- the largest cosine ------------------------------------------------------------------------------------


def max_cosine(prototypes: Tensor, tokens: Tensor, search: torch.dtype, memory: Memory | None = None) -> Tensor:
    """Return the largest dot product of each run's prototypes with the tokens of each clip, (R, B, K).

    Only the token that wins gets gradient, as in `lib.pooling.max_cosine`, so the backward costs O(R·B·K·D), not
    O(R·B·N·K·D).

    Parameters
    ----------
    prototypes : torch.Tensor
        ``(R, K, D)``, of length one.
    tokens : torch.Tensor
        ``(B, N, D)``, the same for all runs, or ``(R, B, N, D)``; of length one. They are data and get no gradient.
    search : torch.dtype
        Of the products among which the maximum is looked for. Where it is narrower than the tokens' own, the best
        tokens of the two best columns (`best_columns`) are compared again in theirs, and the winner's value is theirs.
    memory : Memory, optional
        Where the similarities are written.
    """
    memory = memory or Memory()
    if torch.is_grad_enabled() and prototypes.requires_grad:
        return _MaxCosine.apply(prototypes, tokens, search, memory)
    return _of_each_run(prototypes, tokens, search, memory, with_winners=False)[0]


class _MaxCosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prototypes: Tensor, tokens: Tensor, search: torch.dtype, memory: Memory) -> Tensor:
        values, winners = _of_each_run(prototypes, tokens, search, memory, with_winners=True)
        ctx.save_for_backward(tokens, winners)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """∂/∂p_k = Σ_b g_bk · (the token of clip b that won for k); the sum is what an embedding bag computes."""
        tokens, winners = ctx.saved_tensors  # (B, N, D) or (R, B, N, D), and (R, B, K)
        rows = (winners + _first_rows(tokens)).mT.flatten(0, 1)  # among those of all clips: (R, K, B) → (R·K, B)
        weights = gradient.mT.flatten(0, 1)  # (R, B, K) → (R·K, B)
        sums = F.embedding_bag(rows, tokens.flatten(0, -2), per_sample_weights=weights, mode="sum")  # (R·K, D)
        return sums.unflatten(0, (len(winners), -1)), None, None, None


def _of_each_run(
    prototypes: Tensor, tokens: Tensor, search: torch.dtype, memory: Memory, with_winners: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the maxima (R, B, K) and, if asked for, the tokens that win them (R, B, K)."""
    if tokens.ndim == 4:
        each = [maxima(*pair, search, memory, with_winners) for pair in zip(prototypes, tokens, strict=True)]
        values, winners = zip(*each, strict=True)
        return torch.stack(values), torch.stack(winners) if with_winners else None
    both = maxima(prototypes.flatten(0, 1), tokens, search, memory, with_winners)  # (R·K, D) → (B, R·K) each
    return tuple(x if x is None else x.unflatten(1, prototypes.shape[:2]).transpose(0, 1) for x in both)


def maxima(
    prototypes: Tensor, tokens: Tensor, search: torch.dtype, memory: Memory, with_winners: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Return the maxima (B, K) of prototypes (K, D) and, if asked for, the tokens (B, N, D) that win them, (B, K)."""
    (clips, length, _), count = tokens.shape, len(prototypes)
    # A product whose rows do not begin where a vector of the processor does takes up to half as long again.
    prototypes = F.pad(prototypes, (0, 0, 0, -count % LANES))
    values = tokens.new_empty(clips, len(prototypes))
    exact = search == tokens.dtype
    if exact and not with_winners:
        for some, part, similarity in similarity_blocks(prototypes, tokens, memory):
            values[some, part] = similarity.amax(1)  # (b, N, k) → (b, k)
        return values[:, :count], None
    winners, searched = torch.empty_like(values, dtype=torch.long), prototypes.to(search)
    candidates = 1 if exact else min(2, length)
    room = _block_size(tokens.device, 4) // (candidates * _divisor_near_root(length) * len(prototypes))
    for some in pieces(clips, max(1, room)):
        best, places = _candidates(searched, tokens[some], candidates, memory)
        found = (best[:, 0], places[:, 0]) if exact else _decide(prototypes, tokens[some], places)  # (b, K) each
        values[some], winners[some] = found
    return values[:, :count], winners[:, :count] if with_winners else None


def _candidates(prototypes: Tensor, tokens: Tensor, candidates: int, memory: Memory) -> tuple[Tensor, Tensor]:
    """Return the largest similarity in the best columns, and whose it is: (b, candidates, K) each.

    In a block of similarities only these columns are found; their rows are found for all blocks at once.
    """
    (clips, length, _), search = tokens.shape, prototypes.dtype
    shape = clips, _divisor_near_root(length), candidates, len(prototypes)
    columns = memory.take("columns", (clips, *shape[2:]), torch.long, tokens.device)
    inside = memory.take("inside", shape, torch.int16 if search == torch.bfloat16 else search, tokens.device)
    for some, part, similarity in similarity_blocks(prototypes, tokens, memory):
        columns[some, :, part], inside[some, :, :, part] = best_columns(similarity, candidates)
    return best_rows(columns, inside, length)


def similarity_blocks(
    prototypes: Tensor, tokens: Tensor, memory: Memory | None = None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield slices of clips and of prototypes with their similarities (b, N, k), all in the same memory.

    The products have the dtype of the prototypes.
    """
    (count, length, dim), search = tokens.shape, prototypes.dtype
    budget = max(_block_size(tokens.device, search.itemsize), length)
    width = min(len(prototypes), budget // length)  # prototypes in a block
    width = width // LANES * LANES or width
    depth = min(count, budget // (length * width))  # clips in a block
    block = (memory or Memory()).take("similarity", (depth * length * width,), search, tokens.device)
    for clips in pieces(count, depth):
        flat = tokens[clips].reshape(-1, dim).to(search)  # (b, N, D) → (b·N, D)
        for some in pieces(len(prototypes), width):
            part = prototypes[some]  # (k, D)
            similarity = block[: len(flat) * len(part)].view(len(flat), len(part))  # (b·N, k)
            torch.mm(flat, part.T, out=similarity)
            yield clips, some, similarity.view(-1, length, len(part))  # (b·N, k) → (b, N, k)


def _block_size(device: torch.device, bytes_each: int) -> int:
    """Return how many numbers fill a block."""
    return BLOCK.get(device.type, BLOCK["cuda"]) // bytes_each


def pieces(total: int, size: int) -> list[slice]:
    """Return slices of at most `size` that cover `total`."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def best_columns(similarity: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Return where to look for the best tokens of similarities (b, N, k).

    A maximum with its index costs as much as the products, one without a tenth. So the tokens are laid out in rows,
    n = row · columns + column, and the maximum over rows is taken without index. What follows is a part of the whole.

    Returns
    -------
    columns : torch.Tensor
        ``(b, candidates, k)``, those with the largest similarities, the best one first.
    inside : torch.Tensor
        ``(b, rows, candidates, k)``, what is in these columns; of bfloat16 its bits (`in_order`).
    """
    narrow, rows = similarity.dtype == torch.bfloat16, _divisor_near_root(similarity.shape[1])
    table = (similarity.view(torch.int16) if narrow else similarity).unflatten(1, (rows, -1))  # (b, rows, columns, k)
    peaks, found = table.amax(1), []  # (b, columns, k)
    if narrow:  # where all numbers of a column are negative, the largest has the smallest bits
        peaks = torch.maximum(in_order(peaks), in_order(table.amin(1)))
    for number in range(candidates):
        if number:
            peaks.scatter_(1, found[-1], torch.iinfo(torch.int16).min if narrow else -torch.inf)
        found.append(_largest(peaks)[1])  # (b, 1, k)
    columns = torch.cat(found, 1) if candidates > 1 else found[0]
    return columns, table.gather(2, columns[:, None].expand(-1, table.shape[1], -1, -1))


def best_rows(columns: Tensor, inside: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the largest number in each of some columns of a table of N tokens, and whose it is: (b, candidates, k)."""
    values, rows = _largest(in_order(inside) if inside.dtype == torch.int16 else inside)  # (b, 1, candidates, k)
    return values[:, 0], rows[:, 0] * (length // inside.shape[1]) + columns


def in_order(bits: Tensor) -> Tensor:
    """Return whole numbers in the order of the bfloat16 numbers that have these bits; both (…) in int16.

    Processors compare whole numbers several times as fast as bfloat16. The bits of a number that is not negative are
    a whole number in the same order; those of a negative one, but for its sign, are in the opposite order.
    """
    return bits ^ ((bits >> 15) & 0x7FFF)  # the shift: −1 where negative, else 0


def _largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of values (b, n, …, k) along n, and its index, the last of equals: (b, 1, …, k) each.

    Like `values.max(1)`, which does one number at a time; here every step does many, the comparison because its
    result is written into numbers and not into booleans.
    """
    best = values.amax(1, keepdim=True)  # (b, 1, …, k)
    equal = torch.eq(values, best, out=torch.empty_like(values))  # 1 or 0
    numbers = torch.arange(values.shape[1], dtype=values.dtype, device=values.device)
    equal *= numbers.view(-1, *[1] * (values.ndim - 2))  # (n,) → (n, 1, …)
    return best, equal.amax(1, keepdim=True).long()


def _divisor_near_root(number: int) -> int:
    """Return the largest divisor that is not above the square root."""
    return max(i for i in range(1, int(number**0.5) + 1) if number % i == 0)


def _decide(prototypes: Tensor, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Compare candidates (B, c, K) among tokens (B, N, D) in the tokens' dtype; return value and token (B, K)."""
    rows = (places + _first_rows(tokens)[..., None]).flatten()  # among those of all clips: (B, c, K) → (B·c·K,)
    bags = torch.arange(len(prototypes), device=tokens.device).repeat(len(rows) // len(prototypes))
    # What an embedding bag hands back to the weights of its rows: the product of each row with the bag's gradient, here
    # the prototype. It reads the rows where they lie, at a tenth of the time of copying and multiplying them.
    products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        prototypes, tokens.flatten(0, 1), rows, bags, bags, 0, -1
    )  # (B·c·K,); of the bags' offsets, given as the bags again, nothing is read
    value, which = products.view_as(places).max(1, keepdim=True)  # (B, 1, K)
    return value.squeeze(1), places.gather(1, which).squeeze(1)


def _first_rows(tokens: Tensor) -> Tensor:
    """Return where the tokens (…, B, N, D) of each clip begin among those of all: (…, B, 1)."""
    *shape, length, _ = tokens.shape
    return torch.arange(0, tokens.shape[:-1].numel(), length, device=tokens.device).view(*shape, 1)
