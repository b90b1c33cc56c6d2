"""What the pretraining objectives share: masks, decoders and heads, mixtures, moving averages.

Symbols as in ``lib/encoders/objectives.py``.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.encoders.pocket import POCKET
from lib.encoders.vit import Block, ViT, initialise, patchify, sincos_positions


class TokenDecoder(nn.Module):
    """A small transformer over the encoder's output and one learned vector for every place that it is asked for."""

    def __init__(self, vit: ViT, out: int, generator: torch.Generator, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.with_cls = vit.cls_token is not None
        self.enter = nn.Linear(vit.dim, dim)
        self.hidden_token = nn.Parameter(torch.zeros(dim))
        self.register_buffer("positions", sincos_positions(vit.grid, dim), persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.predict = nn.Linear(dim, out)
        initialise(self, generator)
        with torch.no_grad():
            self.hidden_token.normal_(0.0, 0.02, generator=generator)

    def forward(self, tokens: Tensor, cls: Tensor, visible: Tensor, asked: Tensor) -> Tensor:
        """Map tokens ``(B, V, D)`` at places ``(B, V)``, and cls ``(B, D)``, to float32 ``(B, A, out)``."""
        seen = self.enter(tokens) + self.positions[visible]  # (B, V, D')
        y = torch.cat([self.hidden_token + self.positions[asked], seen], dim=1)  # (B, A + V, D')
        if self.with_cls:
            y = torch.cat([y, self.enter(cls)[:, None]], dim=1)  # (B, A + V + 1, D')
        for block in self.blocks:
            y, _ = block(y)
        return self.predict(self.norm(y[:, : asked.shape[1]])).float()  # (B, A, out)


class GridDecoder(nn.Module):
    """A few convolutions over the grid, one learned vector at the hidden places; light, as in data2vec 2.0."""

    def __init__(self, vit: ViT, generator: torch.Generator, depth: int, groups: int = 16) -> None:
        super().__init__()
        self.grid = vit.grid
        self.hidden_token = nn.Parameter(torch.zeros(vit.dim))
        self.convs = nn.ModuleList(nn.Conv2d(vit.dim, vit.dim, 3, padding=1, groups=groups) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(vit.dim, eps=1e-6) for _ in range(depth))
        self.predict = nn.Linear(vit.dim, vit.dim)
        initialise(self, generator)
        with torch.no_grad():
            for conv in self.convs:
                nn.init.xavier_uniform_(conv.weight, generator=generator)
                nn.init.zeros_(conv.bias)
            self.hidden_token.normal_(0.0, 0.02, generator=generator)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Map tokens ``(B, V, D)`` at places ``(B, V)`` to float32 ``(B, N, D)``."""
        B, _, D = tokens.shape
        full = self.hidden_token.to(tokens.dtype).expand(B, self.grid[0] * self.grid[1], -1)  # (B, N, D)
        y = full.scatter(1, visible[..., None].expand(-1, -1, D), tokens)  # (B, N, D)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            image = conv(y.transpose(1, 2).reshape(B, D, *self.grid))  # (B, D, S_t, S_f)
            y = y + F.gelu(norm(image.flatten(2).transpose(1, 2)))  # (B, N, D)
        return self.predict(y).float()


def projection_head(dim: int, classes: int, generator: torch.Generator) -> nn.Module:
    """Return a head of DINO's kind: an MLP to few dimensions, then the cosine with each of the soft classes.

    With a plain last layer, whose first weights are small, the loss of 512 classes stayed near that of classes all
    alike for some 600 steps, and the mean tokens of two clips came to have a cosine of 0.98.
    """
    return nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, 64), Cosines(64, classes, generator))


class Cosines(nn.Module):
    """The cosine of the input with a learned direction for each class."""

    def __init__(self, dim: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(…, classes)`` of ``(…, dim)``, between -1 and 1."""
        return F.normalize(x.float(), dim=-1) @ F.normalize(self.weight.float(), dim=-1).T


def standardised(x: Tensor, over: int | tuple[int, ...]) -> Tensor:
    """Return `x` with zero mean and unit variance over some of its axes."""
    return (x - x.mean(over, keepdim=True)) / (x.var(over, keepdim=True) + 1e-6).sqrt()


def normalised_patches(spectrogram: Tensor, patch: tuple[int, int]) -> Tensor:
    """Return the patches ``(B, N, patch)`` of a spectrogram, each with zero mean and unit variance."""
    patches = patchify(spectrogram, patch).float()
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def random_places(
    clips: int, places: int, hidden: float, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Hide a share of the places of each clip at random: the visible ones ``(clips, V)``, the hidden ``(clips, H)``."""
    order = torch.rand(clips, places, generator=generator).argsort(1).to(device)
    seen = places - round(hidden * places)
    return order[:, :seen], order[:, seen:]


def block_places(grid: tuple[int, int], clips: int, share: float, side: int, generator: torch.Generator) -> Tensor:
    """Choose a share of the places of each clip in square blocks: ``(clips, V)``, V the same for all.

    Blocks of ``side x side`` patches are laid at random, one more than would fit without overlap; of what they cover, V
    places are drawn. Where they cover fewer, places elsewhere fill up.
    """
    steps, rows = grid
    wanted = round(share * steps * rows)
    count = math.ceil(wanted / side**2) + 1
    corner = [torch.randint(max(1, size - side + 1), (clips, count, 1), generator=generator) for size in grid]
    inside = [(torch.arange(size) >= c) & (torch.arange(size) < c + side) for size, c in zip(grid, corner, strict=True)]
    covered = (inside[0][..., :, None] & inside[1][..., None, :]).any(1)  # (clips, S_t, S_f)
    order = torch.rand(clips, steps * rows, generator=generator) - covered.flatten(1).float()  # (clips, N)
    return order.argsort(1)[:, :wanted]


def partial_mixture(spectrogram: Tensor, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix each clip of a batch with the one before it, over a random stretch of at least half of the time.

    The power of a sum of independent sounds is the sum of their powers: on log-mel values ``log(e^a + e^b)``. With
    ``x = (a - mean) / std`` the mean cancels: ``log(e^(std x) + e^(std x')) / std``.

    Returns
    -------
    torch.Tensor, torch.Tensor
        The mixtures ``(B, frames, mel)``, and bool ``(B, S_t)``, which time steps (of `step` frames) are mixed.
    """
    clips, frames, _ = spectrogram.shape
    steps = frames // step
    length = torch.randint(steps // 2, steps + 1, (clips, 1), generator=generator)
    start = (torch.rand(clips, 1, generator=generator) * (steps - length + 1)).long()
    both = (torch.arange(steps) >= start) & (torch.arange(steps) < start + length)  # (B, S_t)
    both = both.to(spectrogram.device)
    mixed = torch.logaddexp(POCKET.mel_std * spectrogram, POCKET.mel_std * spectrogram.roll(1, 0)) / POCKET.mel_std
    where = F.pad(both.repeat_interleave(step, 1), (0, frames - steps * step))[..., None]  # (B, frames, 1)
    return torch.where(where, mixed, spectrogram), both


def take(x: Tensor, places: Tensor) -> Tensor:
    """Pick from ``(B, N, D)`` the tokens at ``(B, V)``: ``(B, V, D)``."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def mean_over_hidden(error: Tensor, visible: Tensor) -> Tensor:
    """Average errors ``(B, N)`` over the places that are not visible ``(B, V)``."""
    hidden = torch.ones_like(error).scatter(1, visible, 0.0)  # (B, N), 1 where hidden
    return (error * hidden).sum() / hidden.sum()


def frozen_copy(module: nn.Module) -> nn.Module:
    """Return a copy that no gradient moves."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, decay: tuple[float, float], progress: float) -> None:
    """Move a teacher towards its student: ``t <- d t + (1 - d) s``, d going from one decay to the other by a cosine."""
    rate = decay[1] + (decay[0] - decay[1]) * 0.5 * (1 + math.cos(math.pi * progress))
    for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        ours.lerp_(theirs, 1 - rate)
