"""EAT, and SSLAM, which is EAT with other weights: post-norm blocks, a norm before them and none after.

Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer" (2024); Alex et al., "SSLAM" (2025).

Tokens of the fine-tuned versions are those before `fc_norm`, which belongs to the classifier. The position table (up to
two minutes) is cropped to the clip; [cls] has no position.
"""

import torch
from torch import Tensor, nn

from lib.encoders.front_ends import KaldiFilterBank
from lib.encoders.network import Block, Network, PatchEmbedding, insist, renamed
from lib.errors import InputError

PREFIXES = ("", "model.")
DROPPED = r"_ema($|\.)|modality_encoders\.IMAGE\.decoder\.|fc_norm\.|head\."
CLS = "native"
PADDING = "zeros"
STATISTICS = {"audioset": (-4.268, 4.569), "esc50": (-6.627, 5.359), "sc2": (-6.846, 5.565)}


class Embedding(PatchEmbedding):
    """Patches plus the first rows of the stored position table, [cls] before them, and a norm over both.

    Parameters
    ----------
    steps : int
        Time steps of the table.
    dim, patch, num_mels : int
        See `PatchEmbedding`.
    eps : float
        Of the norm.
    """

    def __init__(self, steps: int, dim: int, patch: int, num_mels: int, eps: float) -> None:
        super().__init__(dim, patch, num_mels)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, steps * (num_mels // patch), dim))
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map ``(B, frames, mel)`` to ``(B, 1 + N, D)`` and ``(S_t, S_f)``.

        Raises
        ------
        InputError
            If the clip is longer than the table.
        """
        x, grid = self.patches(spectrogram)
        N, longest = x.shape[1], self.positions.shape[1]
        if longest < N:
            raise InputError(
                f"The clip has {N} patches, the position table {longest}; crop the clip to "
                f"{longest // grid[1] * self.patch[0]} frames."
            )
        x = torch.cat([self.cls.expand(len(x), -1, -1), x + self.positions[:, :N]], 1)  # (B, 1 + N, D)
        return self.norm(x), grid


def hugging_face_names(key: str) -> tuple[str, ...]:
    """Return what the files on Hugging Face call a key of ours."""
    table = {
        "embedding.conv.": "local_encoder.proj.",
        "embedding.cls": "extra_tokens",
        "embedding.positions": "fixed_positional_encoder.positions",
        "embedding.norm.": "pre_norm.",
    }
    return (renamed(key, table),)


def fairseq_names(key: str) -> tuple[str, ...]:
    """Return what the authors' own files call a key of ours."""
    (name,) = hugging_face_names(key)
    name = renamed(name, {"pre_norm.": "context_encoder.norm."})
    return (name if name.startswith("blocks.") else f"modality_encoders.IMAGE.{name}",)


LAYOUTS = (hugging_face_names, fairseq_names)


def native_frames(config: dict) -> int:
    """Return the frames that it was pretrained on, 1024 (10 s)."""
    return config["target_length"] if "target_length" in config else config["img_size"][0]


def front_end(config: dict, statistics: tuple[float, float], frames: int | None, padding: str) -> KaldiFilterBank:
    """Return Kaldi's filter bank with a Hann window."""
    return KaldiFilterBank(config.get("mel_bins", 128), *statistics, frames, padding)


def build(config: dict) -> Network:
    """Return the network without weights."""
    insist(config, in_chans=1, layer_norm_first=False, num_extra_tokens=1, prenet_depth=0, norm_affine=True)
    patch, dim, eps = config["patch_size"], config["embed_dim"], config.get("norm_eps", 1e-6)
    insist(config, stride=patch)
    return Network(
        Embedding(config["max_length"], dim, patch, config.get("mel_bins", 128), eps),
        lambda: Block(
            dim,
            config["num_heads"],
            int(config["mlp_ratio"] * dim),
            eps,
            post_norm=True,
            qkv_bias=config.get("qkv_bias", True),
        ),
        config["depth"],
        has_cls=True,
    )
