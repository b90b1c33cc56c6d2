"""The Vision Transformer that the encoders share: patches, fixed positions, [cls] or none, pre-norm blocks.

Symbols: ``B`` clips, ``N = S_t · S_f`` patch tokens, time-major (``n = t · S_f + f``), ``D`` token dimension.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import InputError


@dataclass
class Encoding:
    """What a frozen encoder hands over.

    Attributes
    ----------
    tokens : torch.Tensor
        ``(B, N, D)``, time-major.
    cls : torch.Tensor
        ``(B, D)``; of an encoder without [cls], the mean of its patch tokens.
    grid : tuple of int
        ``(S_t, S_f)`` with ``S_t · S_f = N``.
    attention : torch.Tensor or None
        ``(B, depth, heads, N)``, attention from [cls] to the patch tokens, where it was asked for and there is one.
    layers : dict
        Block number (from 0) → its output tokens ``(B, N, D)`` and cls ``(B, D)``, where they were asked for.
    """

    tokens: Tensor
    cls: Tensor
    grid: tuple[int, int]
    attention: Tensor | None = None
    layers: dict[int, tuple[Tensor, Tensor]] | None = None


def patchify(spectrogram: Tensor, patch: tuple[int, int]) -> Tensor:
    """Cut ``(B, frames, mel)`` into flattened patches ``(B, N, frames_p · mel_p)``, time-major; spare frames go."""
    if spectrogram.ndim != 3:
        raise InputError(
            f"A spectrogram batch (B, frames, mel) is expected, but the shape is {tuple(spectrogram.shape)}."
        )
    frames, bands = patch
    steps, rows = spectrogram.shape[1] // frames, spectrogram.shape[2] // bands
    if steps == 0 or rows == 0:
        raise InputError(
            f"A spectrogram of {spectrogram.shape[1]} frames x {spectrogram.shape[2]} bands holds no patch of "
            f"{frames} x {bands}; use a longer clip."
        )
    cut = spectrogram[:, : steps * frames, : rows * bands]
    cut = cut.reshape(len(cut), steps, frames, rows, bands)  # (B, S_t, frames, S_f, bands)
    return cut.permute(0, 1, 3, 2, 4).reshape(len(cut), steps * rows, frames * bands)  # (B, N, frames · bands)


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Return fixed 2-D sine-cosine positions ``(N, D)``: the first half tells frequency, the second time."""
    omega = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    t, f = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = [axis.reshape(-1, 1).double() * omega for axis in (f, t)]  # two of (N, D / 4)
    return torch.cat([fn(a) for a in angles for fn in (torch.sin, torch.cos)], dim=1).float()  # (N, D)


class Attention(nn.Module):
    """Multi-head self-attention; returns the attention of the first token too when asked."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, need_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Map ``(B, M, D)`` to ``(B, M, D)``, and the first token's attention ``(B, heads, M)`` or None."""
        B, M, D = x.shape
        qkv = self.qkv(x).reshape(B, M, 3, self.num_heads, D // self.num_heads)  # (B, M, 3, heads, D / heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # three of (B, heads, M, D / heads)
        # Two plain products: on a CPU the fused kernel's backward pass takes four times as long at this size.
        with torch.autocast(x.device.type, enabled=False):
            weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)  # (B, heads, M, M)
            mixed = weights @ v  # (B, heads, M, D / heads)
        first = weights[:, :, 0] if need_attention else None  # (B, heads, M)
        return self.proj(mixed.transpose(1, 2).reshape(B, M, D)), first  # (B, M, D)


class Block(nn.Module):
    """Pre-norm transformer block: ``x + attn(LN(x))``, then ``x + mlp(LN(x))``."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, round(mlp_ratio * dim))
        self.fc2 = nn.Linear(round(mlp_ratio * dim), dim)

    def forward(self, x: Tensor, need_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Map ``(B, M, D)`` to ``(B, M, D)``, and pass the first token's attention on."""
        mixed, first = self.attn(self.norm1(x), need_attention)
        x = x + mixed
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)))), first


class ViT(nn.Module):
    """A ViT over spectrogram patches with a final norm, and with a [cls] token unless told otherwise.

    Parameters
    ----------
    patch : tuple of int
        Frames and mel bands of a patch.
    grid : tuple of int
        ``(S_t, S_f)`` of a full clip.
    dim, depth, num_heads : int
        Width, blocks, attention heads.
    cls : bool
        Whether there is a [cls] token. Without one the encoding's cls is the mean of the patch tokens.
    """

    def __init__(
        self,
        patch: tuple[int, int],
        grid: tuple[int, int],
        dim: int,
        depth: int,
        num_heads: int,
        cls: bool = True,
    ) -> None:
        super().__init__()
        self.patch, self.grid, self.dim = patch, grid, dim
        self.embed = nn.Linear(patch[0] * patch[1], dim)
        self.cls_token = nn.Parameter(torch.zeros(dim)) if cls else None
        self.register_buffer("positions", sincos_positions(grid, dim), persistent=False)
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def initialise(self, generator: torch.Generator) -> "ViT":
        """Draw all weights from `generator`: Xavier-uniform matrices, zero biases, a small random [cls]."""
        initialise(self, generator)
        if self.cls_token is not None:
            with torch.no_grad():
                self.cls_token.normal_(0.0, 0.02, generator=generator)
        return self

    def embed_patches(self, spectrogram: Tensor) -> Tensor:
        """Map ``(B, frames, mel)`` to embedded, positioned patches ``(B, N, D)``."""
        patches = patchify(spectrogram, self.patch)  # (B, N, patch)
        if patches.shape[1] != len(self.positions):
            raise InputError(
                f"The spectrogram of shape {tuple(spectrogram.shape)} gives {patches.shape[1]} patches, the encoder "
                f"expects {self.grid[0]} x {self.grid[1]}; pad or crop the clip to its full length first."
            )
        return self.embed(patches) + self.positions

    def with_cls(self, x: Tensor) -> Tensor:
        """Put the [cls] token, where there is one, before ``(B, M, D)``: ``(B, 1 + M, D)``."""
        return x if self.cls_token is None else torch.cat([self.cls_token.expand(len(x), 1, -1), x], dim=1)

    def split_cls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `with_cls`: the patch tokens ``(B, M, D)``, and [cls] or what stands for it ``(B, D)``."""
        return (x, x.mean(1)) if self.cls_token is None else (x[:, 1:], x[:, 0])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run embedded patches ``(B, M, D)``, all or some of a clip, through the network; see `split_cls`."""
        x = self.with_cls(x)  # (B, 1 + M, D)
        for block in self.blocks:
            x, _ = block(x)
        return self.split_cls(self.norm(x))

    def forward(self, spectrogram: Tensor, attention: bool = False, layers: tuple[int, ...] = ()) -> Encoding:
        """Encode ``(B, frames, mel)``; see `Encoding`."""
        x = self.with_cls(self.embed_patches(spectrogram))  # (B, 1 + N, D)
        attention = attention and self.cls_token is not None
        maps, outputs = [], {}
        for number, block in enumerate(self.blocks):
            x, first = block(x, attention)
            if attention:
                maps.append(first[..., 1:])  # (B, heads, N)
            if number in layers:
                outputs[number] = self.split_cls(x)
        tokens, cls = self.split_cls(self.norm(x))
        return Encoding(tokens, cls, self.grid, torch.stack(maps, 1) if attention else None, outputs or None)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every Linear (Xavier-uniform, zero bias) and reset every LayerNorm, in order, from `generator`."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
