"""What the stacked prototype heads are made of: vectors of length one, and block-wise maxima of their products.

R runs, B clips, N patch tokens, D token dimension, and K prototypes: here those of all runs, one run's after
another's. The similarity map (B, N, K) is never held whole: a block of it is made, its maxima are taken, and the next
block is written over it.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.engine_pooling import Memory, pieces

# Bytes of a block of similarities: about the second cache of a core; a GPU wants large products.
BLOCK = {"cpu": 2**21, "cuda": 2**28}
LANES = 16  # fp32 numbers in a vector of 512 bits, the widest that processors have

# ---- vectors of length one ---------------------------------------------------------------------------------


class Units(NamedTuple):
    """Vectors u = v/n of length one, n = r + beside, r = √(‖v‖² + under), and what ∂u/∂v is made of.

    It maps a gradient g to (g − u (uᵀg) n/r) / n.
    """

    vectors: Tensor  # u (…, D)
    norm: Tensor  # n (…, 1)
    root: Tensor  # r (…, 1)


def unit(vectors: Tensor, under: float = 0.0, beside: float = 0.0) -> Units:
    """Return v / (√(‖v‖² + under) + beside) of vectors v (…, D)."""
    root = vectors.square().sum(-1, keepdim=True).add_(under).sqrt_()
    norm = (root + beside).clamp_min_(1e-12)
    return Units(vectors / norm, norm, root)


def unit_signs(latent: Tensor) -> Units:
    """Return sign(v) / √D of latent vectors v (…, D); backward the sign is the identity (Eq. 2), the length is not."""
    root = latent.new_full((1,), latent.shape[-1] ** 0.5)
    # As numbers, 1 or 0, then scaled: a choice between two numbers takes fifteen times as long.
    signs = torch.ge(latent, 0, out=torch.empty_like(latent)).mul_(2 / root).sub_(1 / root)
    return Units(signs, root, root)


# ---- the largest cosine ------------------------------------------------------------------------------------


def largest_cosines(prototypes: Tensor, tokens: Tensor, search: torch.dtype, memory: Memory) -> Tensor:
    """Return the largest dot product of each run's prototypes with the tokens of each clip, (R, B, K).

    Parameters
    ----------
    prototypes : torch.Tensor
        ``(R, K, D)``, of length one.
    tokens : torch.Tensor
        ``(B, N, D)``, the same for all runs, or ``(R, B, N, D)``; of length one.
    search : torch.dtype
        Of the products among which the maximum is looked for. Where it is narrower than the tokens' own, the best
        tokens of the two best columns (`best_columns`) are compared again in theirs, and the winner's value is theirs.
    memory : Memory
        Where the similarities are written.
    """
    return _of_each_run(prototypes, tokens, search, memory, with_winners=False)[0]


def largest_cosines_vjp(
    prototypes: Units, tokens: Tensor, search: torch.dtype, memory: Memory
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return `largest_cosines`, and what takes their gradient (R, B, K) to the vectors before they had length one.

    Only the token that wins gets gradient, as in `lib.pooling.max_cosine`, so the way back costs O(R·B·K·D), not
    O(R·B·N·K·D). Tokens are data and get none.
    """
    values, winners = _of_each_run(prototypes.vectors, tokens, search, memory, with_winners=True)  # (R, B, K) each

    def pull(gradient: Tensor) -> Tensor:
        """∂/∂u_k = Σ_b g_bk · (the token of clip b that won for k), and u_k times that token is the cosine itself."""
        weights = gradient.mT / prototypes.norm  # (R, K, B)
        along = (gradient * values).sum(1)[..., None] / prototypes.root  # (R, K, 1)
        rows = (winners + _first_rows(tokens)).mT.flatten(0, 1)  # among those of all clips: (R, K, B) → (R·K, B)
        sums = F.embedding_bag(rows, tokens.flatten(0, -2), per_sample_weights=weights.flatten(0, 1), mode="sum")
        return sums.view_as(prototypes.vectors).addcmul_(prototypes.vectors, along, value=-1)  # (R·K, D) → (R, K, D)

    return values, pull


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
