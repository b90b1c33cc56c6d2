"""Pretraining objectives, each with its equation: from a normalised spectrogram batch to a loss."""

import torch
from torch import Tensor, nn

from lib.encoders.vit import Block as TransformerBlock
from lib.encoders.vit import ViT, initialise, patchify, sincos_positions


class MaskedAutoencoder(nn.Module):
    """Masked spectrogram reconstruction, the objective of A-MAE (Huang et al., 2022; He et al., 2022).

    A random 80 % of the patches is hidden. The encoder sees the rest and [cls]; a small decoder gets the encoder's
    output at the visible places and one learned vector at the hidden ones, and predicts the hidden patches,
    each normalised to zero mean and unit variance::

        L = mean over hidden n of | decoder(n) - (x_n - mean(x_n)) / std(x_n) |²

    Parameters
    ----------
    vit : ViT
        The encoder to train.
    mask_ratio : float
        Share of hidden patches.
    decoder_dim, decoder_depth, decoder_heads : int
        Size of the decoder, which is thrown away after pretraining.
    generator : torch.Generator
        Draws the decoder's initial weights.
    """

    def __init__(
        self,
        vit: ViT,
        generator: torch.Generator,
        mask_ratio: float = 0.8,
        decoder_dim: int = 96,
        decoder_depth: int = 2,
        decoder_heads: int = 2,
    ) -> None:
        super().__init__()
        self.vit, self.mask_ratio = vit, mask_ratio
        dim = vit.cls_token.shape[0]
        self.to_decoder = nn.Linear(dim, decoder_dim)
        self.hidden_token = nn.Parameter(torch.zeros(decoder_dim))
        self.register_buffer("positions", sincos_positions(vit.grid, decoder_dim), persistent=False)
        self.decoder = nn.ModuleList(TransformerBlock(decoder_dim, decoder_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.predict = nn.Linear(decoder_dim, vit.patch[0] * vit.patch[1])
        for part in (self.to_decoder, self.decoder, self.decoder_norm, self.predict):
            initialise(part, generator)
        with torch.no_grad():
            self.hidden_token.normal_(0.0, 0.02, generator=generator)

    def forward(self, spectrogram: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss (scalar) of ``(B, frames, mel)`` under masks drawn from `generator`."""
        x = self.vit.embed_patches(spectrogram)  # (B, N, D)
        B, N, D = x.shape
        order = torch.rand(B, N, generator=generator).argsort(1)  # (B, N), a random order of the patches
        visible = order[:, : N - round(self.mask_ratio * N)]  # (B, V)
        x = x.gather(1, visible[..., None].expand(-1, -1, D))  # (B, V, D)
        x = self.vit.with_cls(x)  # (B, 1 + V, D)
        for block in self.vit.blocks:
            x, _ = block(x)
        y = self.to_decoder(self.vit.norm(x))  # (B, 1 + V, D')
        full = self.hidden_token.to(y.dtype).expand(B, N, -1)  # (B, N, D')
        full = full.scatter(1, visible[..., None].expand(-1, -1, y.shape[-1]), y[:, 1:])  # (B, N, D')
        y = torch.cat([y[:, :1], full + self.positions], dim=1)  # (B, 1 + N, D')
        for block in self.decoder:
            y, _ = block(y)
        prediction = self.predict(self.decoder_norm(y[:, 1:])).float()  # (B, N, patch)
        error = (prediction - normalised_patches(spectrogram, self.vit.patch)).square().mean(-1)  # (B, N)
        hidden = torch.ones(B, N).scatter(1, visible, 0.0)  # (B, N), 1 where hidden
        return (error * hidden).sum() / hidden.sum()


def normalised_patches(spectrogram: Tensor, patch: tuple[int, int]) -> Tensor:
    """Return the patches ``(B, N, patch)`` of a spectrogram, each with zero mean and unit variance."""
    patches = patchify(spectrogram, patch).float()
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()
