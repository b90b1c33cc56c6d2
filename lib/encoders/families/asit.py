"""ASiT: masked reconstruction with self-distillation; as A-MAE, but with learned positions on a grid of 37 x 8.

Ahmed et al., "ASiT: Local-Global Audio Spectrogram Vision Transformer for Event Classification" (2024).

Positions for another length follow fine-tuning practice (that of AST): the middle of the time axis for a shorter clip,
bilinear interpolation along time for a longer one.
"""

import torch.nn.functional as F
from torch import Tensor

from lib.encoders.families import audiomae
from lib.encoders.families.audiomae import CLS as CLS
from lib.encoders.families.audiomae import LAYOUTS as LAYOUTS
from lib.encoders.families.audiomae import PADDING as PADDING
from lib.encoders.families.audiomae import assemble
from lib.encoders.front_ends import KaldiFilterBank
from lib.encoders.network import Network, insist

PREFIXES = ("", "model.", "backbone.", "module.backbone.", "module.")
DROPPED = r"(module\.)?head"
STATISTICS = {"audioset": audiomae.STATISTICS["audioset"]}


class Embedding(audiomae.Embedding):
    """Patches plus learned positions fitted to the length of the clip, and [cls] plus its own."""

    def positions_on(self, grid: tuple[int, int]) -> Tensor:
        """Return the positions ``(1, N, D)`` of the patches of a clip of any length."""
        steps, rows = self.grid
        plane = self.positions[:, 1:].unflatten(1, (steps, rows))  # (1, steps, rows, D)
        if grid[0] <= steps:
            start = steps // 2 - grid[0] // 2
            return plane[:, start : start + grid[0]].flatten(1, 2)  # (1, N, D)
        plane = F.interpolate(plane.permute(0, 3, 1, 2), grid, mode="bilinear", align_corners=False)  # (1, D, S_t, S_f)
        return plane.flatten(2).transpose(1, 2)  # (1, N, D)


def native_frames(config: dict) -> int:
    """Return the frames of the crops that it was pretrained on, 592 (6 s)."""
    return config["audio_size"][0]


def front_end(config: dict, statistics: tuple[float, float], frames: int | None, padding: str) -> KaldiFilterBank:
    """Return Kaldi's filter bank with a Hann window."""
    return KaldiFilterBank(config["audio_size"][1], *statistics, frames, padding)


def build(config: dict) -> Network:
    """Return the network without weights."""
    insist(config, in_chans=1)
    return assemble(Embedding, config, config["audio_size"])
