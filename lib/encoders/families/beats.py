"""BEATs: masked prediction of tokens; no [cls], a convolution for position, and a relative bias gated by the queries.

Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers" (2023); the gate is of WavLM (Chen et al., 2022).

Clips of any length. The norm that the checkpoints call `encoder.layer_norm` stands before the blocks, none after.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.encoders.front_ends import KaldiFilterBank
from lib.encoders.network import Block, Network, PatchEmbedding, insist, renamed
from lib.errors import InputError

NUM_MELS = 128
EPS = 1e-5
PREFIXES = ("", "model.")
DROPPED = r"predictor\.|encoder\.layers\.\d+\.self_attn\.relative_attention_bias\."  # each layer repeats the first's
CLS = "mean"
PADDING = "none"
STATISTICS = {"audioset": (15.41663, 6.55582)}


class PositionConvolution(nn.Module):
    """A grouped convolution over the flattened tokens, its weight split into direction and, for each tap, length.

    Parameters
    ----------
    dim, taps, groups : int
        Channels, length of the kernel, groups.
    """

    def __init__(self, dim: int, taps: int, groups: int) -> None:
        super().__init__()
        self.taps, self.groups = taps, groups
        self.weight_g = nn.Parameter(torch.ones(1, 1, taps))
        self.weight_v = nn.Parameter(torch.ones(dim, dim // groups, taps))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, N, D)`` to ``(B, N, D)``."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))  # (D, D / groups, taps)
        mixed = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=self.taps // 2, groups=self.groups)
        return F.gelu(mixed[..., : x.shape[1]].transpose(1, 2))  # (B, D, N + 1) → (B, N, D)


class Embedding(PatchEmbedding):
    """Patches through a norm and a projection, plus the positional convolution, and another norm.

    Parameters
    ----------
    config : dict
        The checkpoint's `cfg`.
    """

    takes_padding = True

    def __init__(self, config: dict) -> None:
        narrow, dim = config["embed_dim"], config["encoder_embed_dim"]
        super().__init__(narrow, config["input_patch_size"], NUM_MELS, config["conv_bias"])
        self.narrow_norm, self.project = nn.LayerNorm(narrow, eps=EPS), nn.Linear(narrow, dim)
        self.position = PositionConvolution(dim, config["conv_pos"], config["conv_pos_groups"])
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, spectrogram: Tensor, padded: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
        """Map ``(B, frames, mel)`` to ``(B, N, D)`` and ``(S_t, S_f)``; tokens that are padding enter as zeros."""
        x, grid = self.patches(spectrogram)
        x = self.project(self.narrow_norm(x))
        if padded is not None:
            x = x.masked_fill(padded[..., None], 0.0)
        return self.norm(x + self.position(x)), grid


class RelativeBias(nn.Module):
    """A bias for each head and distance between two tokens in their flattened order, in buckets that widen.

    Parameters
    ----------
    num_buckets, max_distance, num_heads : int
        Buckets of both signs, the distance from which all share one, heads.
    """

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.weight = nn.Parameter(torch.zeros(num_buckets, num_heads))

    def buckets(self, distance: Tensor) -> Tensor:
        """Return the bucket of each signed distance, key minus query."""
        half, exact = self.num_buckets // 2, self.num_buckets // 4
        far = distance.abs()
        growth = (far.clamp_min(1).float() / exact).log() / math.log(self.max_distance / exact)
        wide = (exact + (growth * (half - exact)).floor().long()).clamp_max(half - 1)
        return torch.where(far < exact, far, wide) + half * (distance > 0)

    def forward(self, N: int) -> Tensor:
        """Return ``(heads, N, N)``, queries in rows."""
        index = torch.arange(N, device=self.weight.device)
        return self.weight[self.buckets(index[None, :] - index[:, None])].permute(2, 0, 1)  # (N, N, heads) → …


class Gate(nn.Module):
    """How strongly a query, before it is scaled, uses the relative bias: ``g1 (g2 a - 1) + 2``.

    Parameters
    ----------
    num_heads, head_dim : int
        Heads and the width of one.
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(head_dim, 8)
        self.factor = nn.Parameter(torch.ones(1, num_heads, 1, 1))

    def forward(self, q: Tensor) -> Tensor:
        """Map ``(B, heads, N, D / heads)`` to ``(B, heads, N, 1)``."""
        g1, g2 = self.linear(q).unflatten(-1, (2, 4)).sum(-1).sigmoid().split(1, -1)  # two of (B, heads, N, 1)
        return g1 * (g2 * self.factor - 1.0) + 2.0


def names(key: str) -> tuple[str, ...]:
    """Return what a checkpoint calls a key of ours; queries, keys and values are three of theirs."""
    if not key.startswith("blocks."):
        table = {
            "embedding.conv.": "patch_embedding.",
            "embedding.narrow_norm.": "layer_norm.",
            "embedding.project.": "post_extract_proj.",
            "embedding.position.": "encoder.pos_conv.0.",
            "embedding.norm.": "encoder.layer_norm.",
            "bias.": "encoder.layers.0.self_attn.relative_attention_bias.",
        }
        return (renamed(key, table),)
    _, number, inner = key.split(".", 2)
    layer = f"encoder.layers.{number}."
    if inner.startswith("attn.qkv."):
        return tuple(f"{layer}self_attn.{part}_proj.{inner.removeprefix('attn.qkv.')}" for part in "qkv")
    table = {
        "attn.proj.": "self_attn.out_proj.",
        "attn.gate.linear.": "self_attn.grep_linear.",
        "attn.gate.factor": "self_attn.grep_a",
        "norm1.": "self_attn_layer_norm.",
        "norm2.": "final_layer_norm.",
        "mlp.": "",
    }
    return (layer + renamed(inner, table),)


LAYOUTS = (names,)


def native_frames(config: dict) -> None:
    """Return None: it takes clips of any length."""


def front_end(config: dict, statistics: tuple[float, float], frames: int | None, padding: str) -> KaldiFilterBank:
    """Return Kaldi's filter bank with a Povey window, of 16-bit numbers."""
    return KaldiFilterBank(NUM_MELS, *statistics, frames, padding, "povey", 2.0**15, remove_mean=False)


def build(config: dict) -> Network:
    """Return the network without weights."""
    insist(config, layer_norm_first=False, activation_fn="gelu")
    dim, heads, depth = config["encoder_embed_dim"], config["encoder_attention_heads"], config["encoder_layers"]
    if dim % config["conv_pos_groups"]:
        raise InputError(f"A width of {dim} cannot be cut into {config['conv_pos_groups']} groups of the convolution.")
    relative = config["relative_position_embedding"]
    return Network(
        Embedding(config),
        lambda: Block(
            dim,
            heads,
            config["encoder_ffn_embed_dim"],
            EPS,
            post_norm=True,
            residual=(2 * depth) ** 0.25 if config["deep_norm"] else 1.0,
            gate=Gate(heads, dim // heads) if relative and config["gru_rel_pos"] else None,
        ),
        depth,
        has_cls=False,
        bias=RelativeBias(config["num_buckets"], config["max_distance"], heads) if relative else None,
    )
