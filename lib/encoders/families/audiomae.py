"""A-MAE: a masked autoencoder, pre-norm, with a fixed position table and a final norm.

Huang et al., "Masked Autoencoders that Listen" (2022).

The stored table is used as it is: it was built for a grid of 8 rows and 64 columns although the tokens are time-major
on 64 x 8, so neither recomputing nor interpolating it would give what the blocks were trained with. A shorter clip
gets its first rows.
"""

import torch
from torch import Tensor, nn

from lib.encoders.front_ends import KaldiFilterBank
from lib.encoders.network import Block, Network, PatchEmbedding, insist, renamed
from lib.errors import InputError

PREFIXES = ("", "model.")
DROPPED = r"mask_token$|decoder_"
CLS = "native"
PADDING = "zeros"
STATISTICS = {
    "audioset": (-4.2677393, 4.5689974),
    "esc50": (-6.6268077, 5.358466),
    "sc2": (-6.845978, 5.5654526),
}


class Embedding(PatchEmbedding):
    """Patches plus the first rows of the stored position table, and [cls] plus its own row.

    Parameters
    ----------
    grid : tuple of int
        ``(S_t, S_f)`` of the table.
    dim, patch, num_mels : int
        See `PatchEmbedding`.
    """

    def __init__(self, grid: tuple[int, int], dim: int, patch: int, num_mels: int) -> None:
        super().__init__(dim, patch, num_mels)
        self.grid = grid
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], dim))

    def positions_on(self, grid: tuple[int, int]) -> Tensor:
        """Return the positions ``(1, N, D)`` of the patches of a clip.

        Raises
        ------
        InputError
            If the clip is longer than the table.
        """
        if grid[0] > self.grid[0]:
            raise InputError(
                f"The clip has {grid[0]} time steps, the position table {self.grid[0]}; crop the clip to "
                f"{self.grid[0] * self.patch[0]} frames."
            )
        return self.positions[:, 1 : 1 + grid[0] * grid[1]]

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map ``(B, frames, mel)`` to ``(B, 1 + N, D)`` and ``(S_t, S_f)``."""
        x, grid = self.patches(spectrogram)
        cls = (self.cls + self.positions[:, :1]).expand(len(x), -1, -1)  # (B, 1, D)
        return torch.cat([cls, x + self.positions_on(grid)], 1), grid


def names(key: str) -> tuple[str, ...]:
    """Return what a checkpoint calls a key of ours."""
    table = {"embedding.conv.": "patch_embed.proj.", "embedding.cls": "cls_token", "embedding.positions": "pos_embed"}
    return (renamed(key, table),)


LAYOUTS = (names,)


def native_frames(config: dict) -> int:
    """Return the frames that the table reaches over."""
    return config["img_size"][0]


def front_end(config: dict, statistics: tuple[float, float], frames: int | None, padding: str) -> KaldiFilterBank:
    """Return Kaldi's filter bank with a Hann window."""
    return KaldiFilterBank(config["img_size"][1], *statistics, frames, padding)


def build(config: dict) -> Network:
    """Return the network without weights."""
    insist(config, in_chans=1, use_custom_patch=False)
    return assemble(Embedding, config, config["img_size"])


def assemble(embedding: type[Embedding], config: dict, size: tuple[int, int]) -> Network:
    """Return pre-norm blocks with a final norm on `embedding`, for spectrograms of `size` (frames, mel bands)."""
    patch, dim = config["patch_size"], config["embed_dim"]
    if not isinstance(patch, int):
        patch = patch[0] if len(set(patch)) == 1 else 0  # ours are square
    if not patch or size[0] % patch or size[1] % patch:
        raise InputError(
            f"A spectrogram of {size[0]} x {size[1]} cannot be cut into patches of {config['patch_size']}."
        )
    return Network(
        embedding((size[0] // patch, size[1] // patch), dim, patch, size[1]),
        lambda: Block(
            dim, config["num_heads"], int(config["mlp_ratio"] * dim), 1e-6, qkv_bias=config.get("qkv_bias", True)
        ),
        config["depth"],
        has_cls=True,
        norm=nn.LayerNorm(dim, eps=1e-6),
    )
