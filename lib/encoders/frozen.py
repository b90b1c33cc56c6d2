"""A real encoder, frozen, with its front end: what it is asked for, where it runs, in which precision.

Symbols: ``B`` clips, ``N = S_t · S_f`` patch tokens, time-major, ``D`` token dimension.
"""

import copy
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lib.audio import SAMPLE_RATE
from lib.encoders.front_ends import DecibelMel, KaldiFilterBank, checked_waveform
from lib.encoders.network import Network
from lib.encoders.vit import Encoding
from lib.errors import InputError

PRODUCTS = ("float32", "bfloat16")


@dataclass(frozen=True)
class UpstreamGeometry:
    """What decides, beside the weights, what a real encoder gives; the store compares all of it.

    Attributes
    ----------
    family : str
        One of `lib.encoders.upstream.FAMILIES`.
    config : str
        The configuration of the network as JSON.
    cls : {"native", "mean", "first_token"}
        What stands for [cls].
    patch, grid : tuple of int
        Frames and mel bands of a patch; ``(S_t, S_f)`` of a clip of full length.
    dim, depth, num_heads, num_mels : int
        Width, blocks, heads, mel bands.
    hop_ms : float
        Time between two frames.
    front_end : KaldiFilterBank or DecibelMel
        From waveform to spectrogram; encoders that agree in it can share one.
    products : {"float32", "bfloat16"}
        Precision of the matrix products; sums, norms and what goes round a block stay in float32.
    code : str
        A digest of the code of the family and of what the families share.
    """

    family: str
    config: str
    cls: str
    patch: tuple[int, int]
    grid: tuple[int, int]
    dim: int
    depth: int
    num_heads: int
    num_mels: int
    hop_ms: float
    front_end: KaldiFilterBank | DecibelMel
    products: str = "float32"
    code: str = ""


def device() -> torch.device:
    """Return where real encoders run: as ``UNMUTE_DEVICE`` says, else on a GPU where torch sees one, else on the CPU.

    Raises
    ------
    InputError
        If torch knows no such device, or does not see it.
    """
    asked = os.environ.get("UNMUTE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(asked)
    except RuntimeError as error:
        raise InputError(f"UNMUTE_DEVICE is '{asked}', which is no device of torch; say cpu or cuda.") from error
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"UNMUTE_DEVICE is '{asked}', which torch does not see here; leave it out, or say cpu.")
    return chosen


class UpstreamEncoder(nn.Module):
    """A frozen real encoder with its front end; see `lib.encoders.upstream.from_upstream`.

    Parameters
    ----------
    network : Network
        With its weights.
    geometry : UpstreamGeometry
        Front end, grid, precision and what stands for [cls].
    """

    def __init__(self, network: Network, geometry: UpstreamGeometry) -> None:
        super().__init__()
        self.network, self.geometry = network.eval().requires_grad_(False), geometry
        self._elsewhere: dict[torch.device, Network] = {}  # no submodules: the state dict is that on the CPU

    @property
    def grid(self) -> tuple[int, int]:
        """``(S_t, S_f)`` of a clip of full length, or of 10 s where the encoder takes any length."""
        return self.geometry.grid

    @property
    def vit(self) -> Network:
        """The network, by the name under which the store of layers looks for blocks."""
        return self.network

    def grid_of(self, samples: int) -> tuple[int, int]:
        """Return ``(S_t, S_f)`` of a clip of so many samples."""
        front_end, (frames, bands) = self.geometry.front_end, self.geometry.patch
        given, full = front_end.frames_of(samples), front_end.frames
        length = given if full is None else min(given, full) if front_end.padding == "none" else full
        return length // frames, self.geometry.num_mels // bands

    def spectrogram(self, waveform: np.ndarray | Tensor, sample_rate: int = SAMPLE_RATE) -> Tensor:
        """Return the features of ``(B, samples)`` or ``(samples,)`` in [-1, 1] at 16 kHz.

        They are ``(B, frames, mel)``, normalised; of Dasheng ``(B, mel, frames)`` in dB. Each clip has the features
        that it would have alone. They are made on the CPU.

        Raises
        ------
        InputError
            If the rate is another, or the waveform is empty, too short, of another shape, of integers or not finite.
        """
        return self.geometry.front_end(checked_waveform(waveform, sample_rate))

    def forward(
        self,
        spectrogram: Tensor,
        attention: bool = False,
        layers: tuple[int, ...] = (),
        padding_mask: Tensor | None = None,
    ) -> Encoding:
        """Encode what `spectrogram` returned, on `device`; the result is where the spectrogram is, in float32.

        Parameters
        ----------
        spectrogram : torch.Tensor
            ``(B, frames, mel)``, of Dasheng ``(B, mel, frames)``.
        attention : bool
            Whether to hand over the attention from [cls], where there is one.
        layers : tuple of int
            Blocks, counted from 0, whose outputs are handed over too, before any final norm.
        padding_mask : torch.Tensor, optional
            BEATs only: ``(B, frames)``, true for frames that are no part of the clip. A patch counts as padding where
            all its frames do; it enters as zeros and nothing attends to it, but it keeps its place among the tokens.

        Returns
        -------
        Encoding
            ``tokens (B, N, D)`` after the last block (and the final norm of families that have one), ``cls (B, D)``,
            ``grid``, ``attention (B, depth, heads, N)`` and ``layers``.

        Raises
        ------
        InputError
            If the shape is not that of this encoder's spectrograms, a block does not exist, or the mask does not fit.
        """
        missing = [number for number in layers if not 0 <= number < len(self.network.blocks)]
        if missing:
            raise InputError(
                f"There is no block {missing[0]}; this encoder has blocks 0 to {len(self.network.blocks) - 1}."
            )
        padded = None if padding_mask is None else self._padded(spectrogram, padding_mask)
        network = self._there(spectrogram)
        there = next(network.parameters()).device
        with _precision(self.geometry.products, there):
            passage = network(
                spectrogram.to(there), attention, tuple(layers), None if padded is None else padded.to(there)
            )
        tokens, cls = self._split(passage.x, spectrogram)
        maps = torch.stack([m[..., 1:] for m in passage.maps], 1) if passage.maps else None  # (B, depth, heads, N)
        maps = None if maps is None else maps.to(spectrogram)
        outputs = {number: self._split(x, spectrogram) for number, x in passage.outputs.items()}
        return Encoding(tokens, cls, passage.grid, maps, outputs or None)

    def _there(self, spectrogram: Tensor) -> Network:
        """Return the network on the device that was chosen; a spectrogram that is elsewhere already decides itself."""
        chosen = device() if spectrogram.device.type == "cpu" else spectrogram.device
        if chosen == next(self.network.parameters()).device:
            return self.network
        if chosen not in self._elsewhere:
            self._elsewhere[chosen] = copy.deepcopy(self.network).to(chosen)
        return self._elsewhere[chosen]

    def _split(self, x: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the patch tokens, all of them, and what stands for [cls], of ``(B, M, D)``, as `like` is."""
        x = x.to(like)
        tokens = x[:, 1:] if self.network.has_cls else x  # (B, N, D)
        if self.geometry.cls == "native":
            return tokens, x[:, 0]
        return tokens, tokens[:, 0] if self.geometry.cls == "first_token" else tokens.mean(1)

    def _padded(self, spectrogram: Tensor, padding_mask: Tensor) -> Tensor:
        """Return which patches are padding, ``(B, N)``, from which frames are."""
        if not self.network.embedding.takes_padding:
            raise InputError(f"'{self.geometry.family}' takes no padding mask; leave it out.")
        if padding_mask.shape != spectrogram.shape[:2]:
            raise InputError(
                f"The padding mask has shape {tuple(padding_mask.shape)}; (B, frames) = {tuple(spectrogram.shape[:2])} "
                "is expected."
            )
        frames, bands = self.geometry.patch
        steps = spectrogram.shape[1] // frames
        mask = padding_mask[:, : steps * frames].bool().unflatten(1, (steps, frames)).all(-1)  # (B, S_t)
        if mask.all(1).any():
            raise InputError("A clip is marked as padding from its first frame to its last; leave it out.")
        return mask.repeat_interleave(self.geometry.num_mels // bands, 1)  # (B, N)


def _precision(products: str, on: torch.device) -> AbstractContextManager:
    """Return a context in which matrix products are made in this precision; one around it does not matter."""
    if on.type not in ("cpu", "cuda"):  # torch's meta device, where only shapes are asked for
        return nullcontext()
    return torch.autocast(on.type, torch.bfloat16, enabled=products == "bfloat16")


@torch.inference_mode()
def rounding_error(encoder: UpstreamEncoder, spectrogram: Tensor) -> float:
    """Return how far tokens with products in bfloat16 are from those in float32: ``|rough - exact| / |exact|``."""
    network = encoder._there(spectrogram)
    there, found = next(network.parameters()).device, {}
    for products in PRODUCTS:
        with _precision(products, there):
            found[products] = network(spectrogram.to(there)).x.float()
    exact = found["float32"]
    return ((found["bfloat16"] - exact).norm() / exact.norm()).item()
