"""What the six families of real encoders share: patches, attention, blocks of either order, the way through them.

Symbols: ``B`` clips, ``N = S_t · S_f`` patch tokens, time-major, ``M = N`` or ``1 + N`` with [cls] first, ``D`` token
dimension. What differs from family to family is in ``lib.encoders.families``, one file each.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import InputError


class Attention(nn.Module):
    """Multi-head self-attention, with an additive bias on its logits where there is one.

    Parameters
    ----------
    dim, num_heads : int
        Width and heads.
    qkv_bias : bool
        Whether the projection to queries, keys and values has a bias.
    gate : nn.Module, optional
        Maps the queries ``(B, heads, M, D / heads)`` to factors ``(B, heads, M, 1)`` of the bias.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, gate: nn.Module | None = None) -> None:
        super().__init__()
        if dim % num_heads:
            raise InputError(f"A width of {dim} cannot be shared by {num_heads} heads; correct the configuration.")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.gate = gate

    def forward(
        self, x: Tensor, need_first: bool = False, bias: Tensor | None = None, padded: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Map ``(B, M, D)`` to ``(B, M, D)``, and the first token's attention ``(B, heads, M)`` or None.

        `bias` is ``(heads, M, M)``; `padded`, ``(B, M)``, is true where a token must not be attended to.
        """
        B, M, D = x.shape
        qkv = self.qkv(x).reshape(B, M, 3, self.num_heads, D // self.num_heads)  # (B, M, 3, heads, D / heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # three of (B, heads, M, D / heads)
        mask = None
        if bias is not None:
            mask = (bias if self.gate is None else self.gate(q) * bias).expand(B, -1, -1, -1)  # (B, heads, M, M)
        if padded is not None:
            hidden = padded[:, None, None, :]  # (B, 1, 1, M)
            mask = (torch.zeros_like(hidden, dtype=q.dtype) if mask is None else mask).masked_fill(hidden, -torch.inf)
        mask = None if mask is None else mask.to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, heads, M, D / heads)
        first = _first_row(q, k, mask) if need_first else None
        return self.proj(mixed.transpose(1, 2).reshape(B, M, D)), first  # (B, M, D)


def _first_row(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Return the attention of the first token ``(B, heads, M)``, which the fused product does not hand out."""
    logits = q[:, :, :1] * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)  # (B, heads, 1, M)
    logits = logits if mask is None else logits + mask[:, :, :1]
    return logits.float().softmax(-1)[:, :, 0]


class Block(nn.Module):
    """A transformer block with its norms before each part, or after each part on the sum.

    Pre-norm: ``x + attn(LN(x))``, then ``x + mlp(LN(x))``. Post-norm: ``LN(a x + attn(x))``, then ``LN(a x + mlp(x))``.

    Parameters
    ----------
    dim, num_heads, hidden : int
        Width, heads, width of the MLP.
    eps : float
        Of the norms.
    post_norm : bool
        Where the norms are.
    residual : float
        ``a``, the weight of what goes round a part of a post-norm block.
    qkv_bias, gate
        See `Attention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden: int,
        eps: float = 1e-6,
        post_norm: bool = False,
        residual: float = 1.0,
        qkv_bias: bool = True,
        gate: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.post_norm, self.residual = post_norm, residual
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qkv_bias, gate)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(dim, hidden), gelu=nn.GELU(), fc2=nn.Linear(hidden, dim))  # GELU by erf
        )

    def forward(
        self, x: Tensor, need_first: bool = False, bias: Tensor | None = None, padded: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Map ``(B, M, D)`` to ``(B, M, D)``, and pass the first token's attention on; see `Attention`."""
        if self.post_norm:
            mixed, first = self.attn(x, need_first, bias, padded)
            x = self.norm1(self.residual * x + mixed)
            return self.norm2(self.residual * x + self.mlp(x)), first
        mixed, first = self.attn(self.norm1(x), need_first, bias, padded)
        x = x + mixed
        return x + self.mlp(self.norm2(x)), first


class PatchEmbedding(nn.Module):
    """Cut a spectrogram into square patches and project each; a family adds its positions and norms.

    Parameters
    ----------
    dim : int
        Width of the result.
    patch : int
        Frames, and mel bands, of a patch.
    num_mels : int
        Mel bands of the spectrogram.
    bias : bool
        Whether the projection has one.
    """

    takes_padding = False  # a second argument (B, N), true where a patch is no part of the clip

    def __init__(self, dim: int, patch: int, num_mels: int, bias: bool = True) -> None:
        super().__init__()
        self.patch, self.num_mels = (patch, patch), num_mels  # frames, mel bands
        self.conv = nn.Conv2d(1, dim, patch, stride=patch, bias=bias)

    def patches(self, spectrogram: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map ``(B, frames, mel)`` to ``(B, N, D)`` time-major and ``(S_t, S_f)``; the spare frames at the end go.

        Raises
        ------
        InputError
            If the axes are others, or the clip is shorter than a patch.
        """
        check_spectrogram(spectrogram, "(B, frames, mel)", self.num_mels, self.patch[0])
        x = self.conv(spectrogram[:, None])  # (B, D, S_t, S_f)
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])  # (B, N, D)


def check_spectrogram(spectrogram: Tensor, axes: str, num_mels: int, fewest: int) -> None:
    """Refuse a batch of spectrograms whose shape is not `axes`, ``(B, frames, mel)`` or ``(B, mel, frames)``."""
    mel, frames = (2, 1) if axes.endswith("mel)") else (1, 2)
    if spectrogram.ndim != 3 or spectrogram.shape[mel] != num_mels:
        raise InputError(
            f"A batch of spectrograms {axes} with {num_mels} mel bands is expected, but the shape is "
            f"{tuple(spectrogram.shape)}; make it with the encoder's own `spectrogram`."
        )
    if spectrogram.shape[frames] < fewest:
        raise InputError(
            f"A spectrogram of {spectrogram.shape[frames]} frames is shorter than one patch of {fewest}; use a longer "
            "clip, or pad it."
        )


@dataclass
class Passage:
    """What comes out of a network, [cls] first where there is one.

    Attributes
    ----------
    x : torch.Tensor
        ``(B, M, D)`` after the last block, and after the final norm where there is one.
    grid : tuple of int
        ``(S_t, S_f)``.
    maps : list of torch.Tensor
        Of each block, where it was asked for, the first token's attention ``(B, heads, M)``.
    outputs : dict
        Block number (from 0) → its output ``(B, M, D)``, where it was asked for.
    """

    x: Tensor
    grid: tuple[int, int]
    maps: list[Tensor] = field(default_factory=list)
    outputs: dict[int, Tensor] = field(default_factory=dict)


class Network(nn.Module):
    """An embedding, blocks, and a final norm or none.

    Parameters
    ----------
    embedding : nn.Module
        Maps a spectrogram to ``(B, M, D)`` and ``(S_t, S_f)``; has `patch` (frames, mel bands) and `num_mels`.
    block : callable
        Returns a new block.
    depth : int
        Number of blocks.
    has_cls : bool
        Whether the first token is [cls].
    norm : nn.Module, optional
        The final norm.
    bias : nn.Module, optional
        Maps ``M`` to what all blocks add to their logits, ``(heads, M, M)``.
    piece : int, optional
        Longest sequence; of a longer one, pieces of this length and the rest go through the blocks on their own.
    """

    def __init__(
        self,
        embedding: nn.Module,
        block: Callable[[], Block],
        depth: int,
        has_cls: bool,
        norm: nn.Module | None = None,
        bias: nn.Module | None = None,
        piece: int | None = None,
    ) -> None:
        super().__init__()
        self.embedding, self.has_cls, self.piece = embedding, has_cls, piece
        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.norm, self.bias = nn.Identity() if norm is None else norm, bias

    def forward(
        self,
        spectrogram: Tensor,
        attention: bool = False,
        layers: tuple[int, ...] = (),
        padded: Tensor | None = None,
    ) -> Passage:
        """Send a batch of spectrograms through; `padded`, ``(B, N)``, marks tokens that are no part of a clip."""
        x, grid = self.embedding(spectrogram) if padded is None else self.embedding(spectrogram, padded)
        parts = [self._through(part, grid, attention, layers, padded) for part in x.split(self.piece or x.shape[1], 1)]
        outputs = {number: torch.cat([p.outputs[number] for p in parts], 1) for number in parts[0].outputs}
        return Passage(torch.cat([part.x for part in parts], 1), grid, parts[0].maps, outputs)

    def _through(
        self, x: Tensor, grid: tuple[int, int], attention: bool, layers: tuple[int, ...], padded: Tensor | None
    ) -> Passage:
        passage = Passage(x, grid)
        bias = None if self.bias is None else self.bias(x.shape[1])  # (heads, M, M)
        for number, block in enumerate(self.blocks):
            x, first = block(x, attention and self.has_cls, bias, padded)
            if first is not None:
                passage.maps.append(first)
            if number in layers:
                passage.outputs[number] = x
        passage.x = self.norm(x)
        return passage


def insist(config: dict, **published: object) -> None:
    """Refuse a configuration that asks for what no published checkpoint of the family has.

    Raises
    ------
    InputError
        If a setting is there and has another value than the published one.
    """
    for name, value in published.items():
        if config.get(name, value) != value:
            raise InputError(
                f"The configuration asks for {name} = {config[name]!r}, but the published checkpoints have {value!r} "
                "and nothing else is built here; check that it belongs to this family."
            )


def renamed(key: str, beginnings: dict[str, str]) -> str:
    """Return `key` with its beginning replaced where it is one of `beginnings`."""
    for old, new in beginnings.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
