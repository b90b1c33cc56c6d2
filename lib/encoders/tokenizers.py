"""The two tokenizers of BEATs' kind: from a spectrogram to one code a patch.

A tokenizer is a module with ``codes(spectrogram) -> (B, N)`` and ``num_codes``. Symbols: ``B`` clips, ``N`` patches,
``K`` codes, ``d`` their dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.encoders.vit import ViT, initialise, patchify


class RandomTokenizer(nn.Module):
    """BEATs' first tokenizer (after Best-RQ, Chiu et al., 2022): a random projection and a random codebook.

    ``code(x)_n = argmax_k <v_k, P x_n / |P x_n|>`` with P and the unit vectors v_k drawn once and never trained. x_n is
    a patch less each mel band's mean over the clip, so that a code tells an event before it tells the background.

    Parameters
    ----------
    patch : tuple of int
        Frames and mel bands of a patch.
    generator : torch.Generator
        Draws P and the codebook.
    num_codes, code_dim : int
        Size of the codebook.
    """

    def __init__(
        self, patch: tuple[int, int], generator: torch.Generator, num_codes: int = 256, code_dim: int = 16
    ) -> None:
        super().__init__()
        self.patch, self.num_codes = patch, num_codes
        self.register_buffer("projection", torch.randn(patch[0] * patch[1], code_dim, generator=generator))
        self.register_buffer("codebook", F.normalize(torch.randn(num_codes, code_dim, generator=generator), dim=-1))

    @torch.no_grad()
    def codes(self, spectrogram: Tensor) -> Tensor:
        """Return the code of every patch of ``(B, frames, mel)``: int64 ``(B, N)``."""
        patches = patchify(spectrogram - spectrogram.mean(1, keepdim=True), self.patch).float()  # (B, N, patch)
        with torch.autocast(spectrogram.device.type, enabled=False):
            return (F.normalize(patches @ self.projection, dim=-1) @ self.codebook.T).argmax(-1)


class LearnedTokenizer(nn.Module):
    """The tokenizer that `TokenizerDistillation` trains: ``code(x)_n = argmax_k <v_k, z_n>``, z and v unit vectors."""

    def __init__(self, vit: ViT, generator: torch.Generator, num_codes: int, code_dim: int) -> None:
        super().__init__()
        self.vit, self.num_codes = vit, num_codes
        self.to_code = nn.Linear(vit.dim, code_dim)
        initialise(self.to_code, generator)
        self.register_buffer("codebook", F.normalize(torch.randn(num_codes, code_dim, generator=generator), dim=-1))
        self.register_buffer("usage", torch.zeros(num_codes))  # share of the patches, moving average

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Map ``(B, frames, mel)`` to unit vectors ``(B, N, d)``, float32."""
        tokens, _ = self.vit.encode(self.vit.embed_patches(spectrogram))  # (B, N, D)
        return F.normalize(self.to_code(tokens).float(), dim=-1)

    def nearest(self, z: Tensor) -> Tensor:
        """Return the nearest code of each unit vector, int64."""
        with torch.autocast(z.device.type, enabled=False):
            return (z @ self.codebook.T).argmax(-1)

    @torch.no_grad()
    def codes(self, spectrogram: Tensor) -> Tensor:
        """Return the code of every patch of ``(B, frames, mel)``: int64 ``(B, N)``."""
        return self.nearest(self(spectrogram))

    @torch.no_grad()
    def move(self, z: Tensor, codes: Tensor, decay: float) -> None:
        """Move each code towards the vectors ``(M, d)`` that chose it; put codes without use onto some of them."""
        count = torch.bincount(codes, minlength=self.num_codes)  # (K,)
        mean = torch.zeros_like(self.codebook).index_add_(0, codes, z) / count.clamp(min=1)[:, None]  # (K, d)
        moved = F.normalize(torch.lerp(mean, self.codebook, decay), dim=-1)
        self.codebook.copy_(torch.where(count[:, None] > 0, moved, self.codebook))
        self.usage.lerp_(count / len(codes), 1 - decay)
        dead = (self.usage < 0.03 / self.num_codes).nonzero().flatten()  # chosen 30 times less than on average
        if len(dead):
            self.codebook[dead] = z[torch.linspace(0, len(z) - 1, len(dead), device=z.device).long()]
            self.usage[dead] = 1 / self.num_codes
