"""The pocket encoders: ViTs of one small size, pretrained here, weights shipped; and a control.

They stand for the paper's encoders at about one hundredth of the size; they are not them.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lib.audio import SAMPLE_RATE, log_mel
from lib.encoders.vit import Encoding, ViT, patchify
from lib.errors import InputError, unknown_name
from lib.files import sha256, write_json, write_tensors
from lib.paths import MANIFESTS, WEIGHTS


@dataclass(frozen=True)
class Geometry:
    """Front end and size of a pocket encoder. `mel_mean` and `mel_std` were measured over the pretraining pool."""

    seconds: float = 10.0
    num_mels: int = 64
    hop_ms: float = 20.0
    patch: tuple[int, int] = (16, 8)  # frames, mel bands
    grid: tuple[int, int] = (31, 8)  # S_t, S_f
    dim: int = 128
    depth: int = 6
    num_heads: int = 4
    cls: bool = True
    mel_mean: float = -5.0
    mel_std: float = 2.9

    @property
    def front_end(self) -> tuple[float, ...]:
        """What decides the spectrogram: encoders that agree in it can share one."""
        return self.seconds, self.num_mels, self.hop_ms, self.mel_mean, self.mel_std


POCKET = Geometry()
WITHOUT_CLS = replace(POCKET, cls=False)
FULL_BAND = replace(POCKET, patch=(4, 64), grid=(124, 1), cls=False)  # tokens in time only; 499 frames
GEOMETRIES = {
    "pocket-amae": POCKET,
    "pocket-beats": WITHOUT_CLS,
    "pocket-beats-plus": WITHOUT_CLS,
    "pocket-asit": POCKET,
    "pocket-eat": POCKET,
    "pocket-eat-plus": POCKET,
    "pocket-dasheng": FULL_BAND,
    "pocket-sslam": POCKET,
    "pocket-sslam-plus": POCKET,
}


class PocketEncoder(nn.Module):
    """A frozen pocket ViT with its front end.

    Parameters
    ----------
    vit : ViT
        The network.
    geometry : Geometry
        Front end and normalisation.
    """

    def __init__(self, vit: ViT, geometry: Geometry = POCKET) -> None:
        super().__init__()
        self.vit, self.geometry = vit.eval().requires_grad_(False), geometry

    @property
    def grid(self) -> tuple[int, int]:
        """``(S_t, S_f)``."""
        return self.geometry.grid

    def spectrogram(self, waveform: np.ndarray | Tensor, sample_rate: int = SAMPLE_RATE) -> Tensor:
        """Return the normalised log-mel spectrogram ``(B, frames, mel)`` of ``(B, samples)`` or ``(samples,)``.

        Shorter clips are padded with silence, longer ones cropped, to 10 s.

        Raises
        ------
        InputError
            If the rate is not 16 kHz or the shape is neither of the two.
        """
        return pocket_spectrogram(waveform, sample_rate, self.geometry)

    def forward(self, spectrogram: Tensor, attention: bool = False, layers: tuple[int, ...] = ()) -> Encoding:
        """Encode ``(B, frames, mel)``; see `Encoding`."""
        return self.vit(spectrogram, attention, layers)


class LogMelPatches(nn.Module):
    """A control with nothing learned: the tokens are the spectrogram's own patches, [cls] is their mean."""

    def __init__(self, geometry: Geometry = POCKET) -> None:
        super().__init__()
        self.geometry, self.grid = geometry, geometry.grid

    def spectrogram(self, waveform: np.ndarray | Tensor, sample_rate: int = SAMPLE_RATE) -> Tensor:
        """As `PocketEncoder.spectrogram`."""
        return pocket_spectrogram(waveform, sample_rate, self.geometry)

    def forward(self, spectrogram: Tensor, attention: bool = False, layers: tuple[int, ...] = ()) -> Encoding:
        """Return the patches as tokens ``(B, N, 128)`` and their mean as cls; there is no attention to show."""
        tokens = patchify(spectrogram, self.geometry.patch)  # (B, N, 128)
        return Encoding(tokens, tokens.mean(1), self.grid)


def pocket_spectrogram(waveform: np.ndarray | Tensor, sample_rate: int, geometry: Geometry) -> Tensor:
    """Pad or crop to the clip length, take the log-mel filter bank, normalise; see `PocketEncoder.spectrogram`."""
    if sample_rate != SAMPLE_RATE:
        raise InputError(
            f"The encoder listens at {SAMPLE_RATE} Hz, the waveform has {sample_rate} Hz; resample it first."
        )
    waveform = torch.as_tensor(waveform, dtype=torch.float32)
    if waveform.ndim not in (1, 2) or waveform.shape[-1] == 0:
        raise InputError(
            f"A waveform (samples,) or a batch (B, samples) is expected, but the shape is {tuple(waveform.shape)}."
        )
    if not torch.isfinite(waveform).all():
        raise InputError("The waveform holds NaN or infinite samples; repair it or leave the clip out.")
    samples = round(geometry.seconds * SAMPLE_RATE)
    waveform = torch.atleast_2d(waveform)[:, :samples]  # (B, samples)
    waveform = nn.functional.pad(waveform, (0, samples - waveform.shape[1]))
    return (log_mel(waveform, geometry.num_mels, geometry.hop_ms) - geometry.mel_mean) / geometry.mel_std


def new_vit(generator: torch.Generator, geometry: Geometry = POCKET) -> ViT:
    """Return a ViT of a pocket geometry with weights drawn from `generator`."""
    return _empty_vit(geometry).initialise(generator)


def _empty_vit(geometry: Geometry) -> ViT:
    return ViT(geometry.patch, geometry.grid, geometry.dim, geometry.depth, geometry.num_heads, geometry.cls)


def save_encoder(name: str, vit: ViT, facts: dict) -> Path:
    """Ship weights in half precision, and their manifest with the checksum; return the folder of the weights."""
    path, geometry = WEIGHTS / f"{name}.safetensors", asdict(GEOMETRIES[name])
    weights = {key: value.half() for key, value in vit.state_dict().items()}
    write_tensors(path, weights, {"encoder": name})  # one entry: safetensors writes several in any order
    manifest = {
        "encoder": name,
        "file": path.name,
        "sha256": sha256(path),
        "geometry": geometry,
        **facts,
    }
    write_json(MANIFESTS / "encoders" / f"{name}.json", manifest)
    return WEIGHTS


def load_pocket(name: str) -> PocketEncoder:
    """Load a shipped pocket encoder.

    Raises
    ------
    InputError
        If the name is unknown, the weight file or its manifest is missing, the manifest is another encoder's, the file
        is not the one that its manifest names, or it does not fit the network.
    """
    if name not in GEOMETRIES:
        raise unknown_name("pocket encoder", name, list(GEOMETRIES))
    path, manifest_path = WEIGHTS / f"{name}.safetensors", MANIFESTS / "encoders" / f"{name}.json"
    if not path.is_file() or not manifest_path.is_file():
        missing = manifest_path if path.is_file() else path
        raise InputError(
            f"The weights of '{name}' are missing ('{missing.name}'); restore them with git if the repository has "
            f"them, or make them with `make pretrain ENCODER={name}`."
        )
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        described, checksum = _geometry_of(manifest), manifest["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"The manifest '{manifest_path.name}' is damaged ({error!r}); restore it with git.") from error
    if manifest.get("encoder") != name or described != GEOMETRIES[name]:
        raise InputError(
            f"'{manifest_path.name}' describes the encoder '{manifest.get('encoder')}' with patches {described.patch} "
            f"on a grid {described.grid}, which is not '{name}'; restore the file with git, or pretrain again."
        )
    if sha256(path) != checksum:
        raise InputError(f"'{path.name}' is damaged: its SHA-256 is not the manifest's; restore the file with git.")
    vit = _empty_vit(described)
    try:
        with safe_open(path, "pt") as file:
            weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        vit.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(
            f"'{path.name}' does not fit the pocket network ({error}); restore the file with git."
        ) from error
    return PocketEncoder(vit, described)


def _geometry_of(manifest: dict) -> Geometry:
    """Return the geometry that a manifest states; JSON turned its tuples into lists."""
    return Geometry(**{k: tuple(v) if isinstance(v, list) else v for k, v in manifest["geometry"].items()})
