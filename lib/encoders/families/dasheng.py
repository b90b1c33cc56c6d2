"""Dasheng: a masked autoencoder over 40 ms slices of the whole band; no [cls], positions in time only.

Dinkel et al., "Scaling up masked audio encoder learning for general audio classification" (2024).

Input is the mel spectrogram in dB, ``(B, mel, frames)``, which a batch norm with stored statistics normalises. A clip
of more than 1008 frames (10.08 s) is encoded in pieces of that length, each on its own, the last one shorter, as the
authors do; the port on Hugging Face differs beyond that length.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.encoders.front_ends import DecibelMel
from lib.encoders.network import Block, Network, check_spectrogram, insist, renamed
from lib.errors import InputError

PREFIXES = ("", "encoder.", "model.")
DROPPED = r"front_end\.|outputlayer\.|init_bn\.1\.num_batches_tracked$"
CLS = "mean"
PADDING = "none"
STATISTICS = {"audioset": None}  # a batch norm in the network holds them


class Embedding(nn.Module):
    """The stored batch norm, slices of the whole band, and positions in time that start anew with each piece.

    Parameters
    ----------
    dim : int
        Width of the result.
    num_mels, frames : int
        Mel bands, and frames of a slice.
    steps : int
        Tokens of a piece.
    """

    takes_padding = False

    def __init__(self, dim: int, num_mels: int, frames: int, steps: int) -> None:
        super().__init__()
        self.patch, self.num_mels = (frames, num_mels), num_mels  # frames, mel bands
        self.bn_weight, self.bn_bias = nn.Parameter(torch.ones(num_mels)), nn.Parameter(torch.zeros(num_mels))
        self.register_buffer("bn_mean", torch.zeros(num_mels))
        self.register_buffer("bn_var", torch.ones(num_mels))
        self.conv = nn.Conv2d(1, dim, (num_mels, frames), stride=(num_mels, frames))
        self.time_positions = nn.Parameter(torch.zeros(1, dim, 1, steps))
        self.band_position = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def normalise(self, spectrogram: Tensor) -> Tensor:
        """Return the spectrogram ``(B, mel, frames)`` after the batch norm, always with its stored statistics."""
        return F.batch_norm(spectrogram, self.bn_mean, self.bn_var, self.bn_weight, self.bn_bias, eps=1e-5)

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map ``(B, mel, frames)`` in dB to ``(B, N, D)`` and ``(N, 1)``; the spare frames at the end go."""
        check_spectrogram(spectrogram, "(B, mel, frames)", self.num_mels, self.patch[0])
        x = self.conv(self.normalise(spectrogram)[:, None])  # (B, D, 1, N)
        again = torch.arange(x.shape[3], device=x.device) % self.time_positions.shape[3]
        x = x + self.time_positions[..., again] + self.band_position
        return x.flatten(2).transpose(1, 2), (x.shape[3], 1)  # (B, N, D)


def names(key: str) -> tuple[str, ...]:
    """Return what a checkpoint calls a key of ours."""
    table = {
        "embedding.conv.": "patch_embed.proj.",
        "embedding.bn_weight": "init_bn.1.weight",
        "embedding.bn_bias": "init_bn.1.bias",
        "embedding.bn_mean": "init_bn.1.running_mean",
        "embedding.bn_var": "init_bn.1.running_var",
        "embedding.time_positions": "time_pos_embed",
        "embedding.band_position": "freq_pos_embed",
    }
    return (renamed(key, table),)


LAYOUTS = (names,)


def native_frames(config: dict) -> None:
    """Return None: it takes clips of any length."""


def front_end(config: dict, statistics: None, frames: int | None, padding: str) -> DecibelMel:
    """Return the mel spectrogram in dB."""
    insist(config, center=True, win=config.get("n_fft", 512))
    return DecibelMel(
        config["n_mels"],
        config.get("n_fft", 512),
        config.get("hop", 160),
        config.get("f_min", 0.0),
        config.get("f_max", 8000.0),
        config.get("top_db", 120.0),
        frames,
        padding,
    )


def build(config: dict) -> Network:
    """Return the network without weights."""
    bands, frames = config["patch_size"]
    insist(config, patch_stride=config["patch_size"])
    if config["n_mels"] != bands:
        raise InputError(
            f"A patch of Dasheng spans all mel bands, but the configuration has {bands} of {config['n_mels']}; correct "
            "patch_size or n_mels."
        )
    dim, steps = config["embed_dim"], config["target_length"] // frames
    return Network(
        Embedding(dim, bands, frames, steps),
        lambda: Block(
            dim,
            config["num_heads"],
            int(config.get("mlp_ratio", 4) * dim),
            1e-6,
            qkv_bias=config.get("qkv_bias", True),
        ),
        config["depth"],
        has_cls=False,
        norm=nn.LayerNorm(dim, eps=1e-6),
        piece=steps,
    )
