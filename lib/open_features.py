"""What heads read where the paper leaves the encoder's side open: the store's tokens changed, or clips encoded anew.

Functions of cell, profile, split and view, as `lib.arms.FEATURES` wants them. Those that encode anew keep what they
made in the scratch folder, beside the store of the same encoder and clips.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.audio import SAMPLE_RATE, fit_length, log_mel
from lib.data.datasets import load_dataset
from lib.encoders import encoder_version, load_encoder
from lib.encoders.pocket import Geometry
from lib.files import digest
from lib.profiles import Profile
from lib.provenance import definition_version
from lib.result_files import read_result, write_result
from lib.search import Cell
from lib.store import PASS_CLIPS, Embeddings, load_embeddings, store_folder
from lib.workers import run_parallel

# ---- the store's tokens, changed -----------------------------------------------------------------------------------


def standardised_rows(cell: Cell, profile: Profile, split: str, view: int = 0) -> Embeddings:
    """Shift and scale tokens so that each number of linpre's y has mean 0 and sd 1 over the training clips.

    y is the mean token of each frequency row, so moving all tokens of a row moves it as much.
    """
    found, train = _stored(cell, profile, split, view), _stored(cell, profile, "train", view)
    rows = torch.stack([clip.float().unflatten(0, found.grid).mean(0) for clip in train.tokens])  # (clips, S_f, D)
    mean, sd = rows.mean(0), rows.std(0).clamp_min(1e-6)  # (S_f, D)
    tokens = (found.tokens.float().unflatten(1, found.grid) - mean) / sd  # (clips, N, D) → (clips, S_t, S_f, D)
    return replace(found, tokens=tokens.flatten(1, 2))  # (clips, S_t, S_f, D) → (clips, N, D)


def padded_map(cell: Cell, profile: Profile, split: str, view: int = 0) -> Embeddings:
    """Append one step of zero tokens: 31 × 8 becomes 32 × 8, as BEATs' 62 × 8 would become 64 × 8."""
    found = _stored(cell, profile, split, view)
    steps, rows = found.grid
    return replace(found, tokens=F.pad(found.tokens, (0, 0, 0, rows)), grid=(steps + 1, rows))  # (clips, N + S_f, D)


def resampled_map(cell: Cell, profile: Profile, split: str, view: int = 0) -> Embeddings:
    """Resample the map to one step more, linearly in time."""
    found = _stored(cell, profile, split, view)
    (steps, rows), parts = found.grid, []
    for part in found.tokens.split(PASS_CLIPS):
        image = part.float().unflatten(1, found.grid).permute(0, 3, 1, 2)  # (b, N, D) → (b, D, S_t, S_f)
        longer = F.interpolate(image, size=(steps + 1, rows), mode="bilinear")  # (b, D, S_t + 1, S_f)
        parts.append(longer.flatten(2).mT.half())  # (b, D, N') → (b, N', D)
    return replace(found, tokens=torch.cat(parts), grid=(steps + 1, rows))


def _stored(cell: Cell, profile: Profile, split: str, view: int) -> Embeddings:
    count = profile.clips_of(cell.dataset)[split]
    return load_embeddings(cell.encoder, cell.dataset, split, count, cell.cls_mode, view)


# ---- clips encoded anew --------------------------------------------------------------------------------------------


def full_precision(cell: Cell, profile: Profile, split: str, view: int = 0) -> Embeddings:
    """Return the embeddings as the encoder computes them; the store rounds them to half precision."""
    return _encoded(cell, profile, split, _whole, torch.float32)


def own_normalisation(cell: Cell, profile: Profile, split: str, view: int = 0) -> Embeddings:
    """Normalise the spectrogram with mean and sd of the dataset's training clips, not of the pretraining pool."""
    return _encoded(cell, profile, split, _own_normalised)


def second_then_silence(cell: Cell, profile: Profile, split: str, view: int = 0) -> Embeddings:
    """Keep the second in which the clip's event begins; silence follows, and goes through the filter bank."""
    return _encoded(cell, profile, split, _second_then_silence)


def second_then_zeros(cell: Cell, profile: Profile, split: str, view: int = 0) -> Embeddings:
    """Keep the second in which the clip's event begins; zeros are appended to its filter bank before normalising."""
    return _encoded(cell, profile, split, _second_then_zeros)


Front = Callable[[str, Sequence[int], str, int, Geometry], Tensor]


def _encoded(cell: Cell, profile: Profile, split: str, front: Front, dtype: torch.dtype = torch.float16) -> Embeddings:
    """Read the embeddings of a front end from scratch, or make them: those of the clips, their views aside."""
    data, counts = load_dataset(cell.dataset), profile.clips_of(cell.dataset)
    count, encoder = counts[split], load_encoder(cell.encoder)
    code = [definition_version(__name__, function.__name__) for function in (front, _encode)]
    clips = [data.version(part, counts[part]) for part in dict.fromkeys(("train", split))]
    key = digest([encoder_version(cell.encoder, encoder), clips, code, front.__name__, str(dtype)])
    folder = store_folder(cell.encoder, cell.dataset, split, count).with_name("other-front-ends")
    name = f"{front.__name__.strip('_')}-{str(dtype).removeprefix('torch.')}"
    header, tensors = read_result(folder / f"{name}.safetensors")
    if not header or header["depends"] != {"key": key}:
        tensors = _encode(encoder, front(cell.dataset, range(count), split, counts["train"], encoder.geometry), dtype)
        write_result(folder / f"{name}.safetensors", {"key": key}, [], tensors)
    cls = tensors["cls"].float() if cell.cls_mode == "native" else tensors["tokens"].float().mean(1)  # (clips, D)
    targets = torch.from_numpy(data.targets(split, count))
    return Embeddings(tensors["tokens"], cls, targets, encoder.grid)


@torch.inference_mode()
def _encode(encoder: torch.nn.Module, spectrograms: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return tokens (clips, N, D) and cls (clips, D) of spectrograms (clips, frames, mel)."""
    parts = [encoder(part) for part in spectrograms.split(PASS_CLIPS)]
    return {what: torch.cat([getattr(part, what) for part in parts]).to(dtype) for what in ("tokens", "cls")}


# ---- front ends: dataset, clips, split, training clips and geometry → spectrograms (clips, frames, mel) ------------


def _whole(dataset: str, clips: Sequence[int], split: str, train: int, geometry: Geometry) -> Tensor:
    return _normalised(_filter_bank(dataset, clips, split, geometry), geometry)


def _own_normalised(dataset: str, clips: Sequence[int], split: str, train: int, geometry: Geometry) -> Tensor:
    mean, sd = _moments(dataset, train, geometry)
    return (_filter_bank(dataset, clips, split, geometry) - mean) / sd


@functools.lru_cache(maxsize=4)
def _moments(dataset: str, train: int, geometry: Geometry) -> tuple[float, float]:
    """Return mean and sd of the filter bank over all frames and bands of the training clips."""
    bank = _filter_bank(dataset, range(train), "train", geometry)
    return bank.mean().item(), bank.std().item()


def _second_then_silence(dataset: str, clips: Sequence[int], split: str, train: int, geometry: Geometry) -> Tensor:
    samples = round(geometry.seconds * SAMPLE_RATE)
    audio = np.stack([fit_length(second, samples) for second in _seconds(dataset, clips, split)])  # (clips, samples)
    return _normalised(log_mel(torch.from_numpy(audio), geometry.num_mels, geometry.hop_ms), geometry)


def _second_then_zeros(dataset: str, clips: Sequence[int], split: str, train: int, geometry: Geometry) -> Tensor:
    audio = torch.from_numpy(np.stack(list(_seconds(dataset, clips, split))))  # (clips, samples)
    short = log_mel(audio, geometry.num_mels, geometry.hop_ms)  # (clips, frames of a second, mel)
    frames = log_mel(torch.zeros(round(geometry.seconds * SAMPLE_RATE)), geometry.num_mels, geometry.hop_ms).shape[0]
    return _normalised(F.pad(short, (0, 0, 0, frames - short.shape[1])), geometry)


def _seconds(dataset: str, clips: Sequence[int], split: str) -> list[np.ndarray]:
    """Return the second of each clip that begins with its first event, or the last second of the clip."""
    data, found = load_dataset(dataset), []
    for clip in clips:
        scene = data.scene(split, clip)
        start = min(round(scene.events[0].onset * SAMPLE_RATE), len(scene.audio) - SAMPLE_RATE)
        found.append(scene.audio[start : start + SAMPLE_RATE])
    return found


def _filter_bank(dataset: str, clips: Sequence[int], split: str, geometry: Geometry) -> Tensor:
    data, samples = load_dataset(dataset), round(geometry.seconds * SAMPLE_RATE)
    audio = np.stack([fit_length(data.scene(split, clip).audio, samples) for clip in clips])  # (clips, samples)
    return log_mel(torch.from_numpy(audio), geometry.num_mels, geometry.hop_ms)


def _normalised(bank: Tensor, geometry: Geometry) -> Tensor:
    return (bank - geometry.mel_mean) / geometry.mel_std


# ---- made ahead ----------------------------------------------------------------------------------------------------

ENCODED: dict[str, Callable[..., Embeddings]] = {  # features that are encoded anew
    "full precision": full_precision,
    "own normalisation": own_normalisation,
    "second, then silence": second_then_silence,
    "second, then zeros": second_then_zeros,
}
OPEN: dict[str, Callable[..., Embeddings]] = {  # what this file adds to lib.arms.FEATURES
    "standardised rows": standardised_rows,
    "padded map": padded_map,
    "resampled map": resampled_map,
    **ENCODED,
}


def build_encoded(cells: Sequence[Cell], profile: Profile, workers: int | None = None) -> None:
    """Make what some arms read and what is encoded anew, on all cores, so that the arms only read."""
    kinds = dict.fromkeys((cell.encoder, cell.dataset, cell.features) for cell in cells if cell.features in ENCODED)
    first = {kind: next(c for c in cells if (c.encoder, c.dataset, c.features) == kind) for kind in kinds}
    splits = [(cell, profile, split) for cell in first.values() for split in profile.clips_of(cell.dataset)]
    for _ in run_parallel(_make, splits, workers):
        pass


def _make(cell: Cell, profile: Profile, split: str) -> None:
    ENCODED[cell.features](cell, profile, split)
