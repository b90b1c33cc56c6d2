"""Where the true events lie in an encoder's tokens, and the maps that are held against them.

Symbols as in `lib.heads`: B clips, N = S_t·S_f tokens, C classes. Token (t, f) is the cell of `patch` frames and mel
bands; a cell lies in an event if their overlap is at least half of the shorter of the two, in time and in band.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lib.audio import mel_centres
from lib.data.mixer import Event
from lib.encoders.pocket import Geometry
from lib.encoders.vit import patchify
from lib.heads import Head, Mhca, Prototype
from lib.pooling import masked_softmax
from lib.store import PASS_CLIPS

BATCH = 32  # clips
FRAME_SECONDS = 0.32  # of frame mAP, whatever the encoder's patches
MAPS = {  # id → what a page calls it
    "protobin": "protobin",
    "proto": "proto",
    "mhca": "mhca, contributions",
    "mhca attention": "mhca, attention",
    "cls attention": "[cls], attention",
    "energy": "energy",
    "rise": "energy above median",
    "random": "random map",
}
BY_FRAME, REPEATED, TRUE_TAGS = "mhca in a frame", ", clip score repeated", "true tags repeated"
TRAITS = ("duration", "snr", "overlap")  # seconds, dB, share of the time with an event of another class

# ---- what is true ------------------------------------------------------------------------------------------------


def covered(start: float, end: float, cells: int, width: float) -> np.ndarray:
    """Return which of `cells` cells of `width` lie in an interval: shared is half of the shorter of the two or more."""
    start, end = np.clip([start, end], 0, cells * width)
    edges = np.arange(cells) * width
    shared = np.minimum(end, edges + width) - np.maximum(start, edges)
    return shared >= 0.5 * min(width, end - start) - 1e-9


def event_cells(event: Event, geometry: Geometry) -> np.ndarray:
    """Return which tokens lie in an event's box of time and band, bool ``(S_t, S_f)``; unknown bands are all of them.

    Mel band i spans i to i + 1 on its axis, with its centre frequency in the middle; see `event_bands`.
    """
    (frames, bands), (S_t, S_f) = geometry.patch, geometry.grid
    times = covered(event.onset, event.offset, S_t, frames * geometry.hop_ms / 1000)
    # (S_t, 1) and (S_f,) → (S_t, S_f)
    return times[:, None] & covered(*event_bands(event, geometry.num_mels), S_f, bands)


def event_bands(event: Event, mels: int) -> tuple[float, float]:
    """Return the lower and upper edge of an event on the axis of `mels` mel bands, at least one band apart."""
    if np.isnan(event.low_hz):
        return 0.0, float(mels)
    low, high = np.interp([event.low_hz, event.high_hz], mel_centres(mels), np.arange(mels) + 0.5)
    spare = max(0.0, 1 - (high - low)) / 2
    return float(low - spare), float(high + spare)


def overlap(event: Event, events: Iterable[Event]) -> float:
    """Return the share of an event's time in which an event of another class sounds."""
    shared, reached = 0.0, event.onset
    for other in sorted(events, key=lambda each: each.onset):
        if other.label != event.label:
            end = min(other.offset, event.offset)
            shared += max(0.0, end - max(other.onset, reached))
            reached = max(reached, end)
    return shared / (event.offset - event.onset)


@dataclass(frozen=True)
class Pairs:
    """Every clip with every class that sounds in it, P pairs, and what is true of them in one encoder's tokens.

    Attributes
    ----------
    clip, label : numpy.ndarray
        ``(P,)``, numbers of the clip and of the class.
    inside, anything : numpy.ndarray
        bool ``(P, S_t, S_f)``: tokens in an event of the class; in an event of any class.
    traits : dict
        `TRAITS` → ``(P,)``. NaN where the class sounds more than once.
    """

    clip: np.ndarray
    label: np.ndarray
    inside: np.ndarray
    anything: np.ndarray
    traits: dict[str, np.ndarray]


def pairs_of(clips: list[tuple[Event, ...]], classes: list[str], geometry: Geometry) -> Pairs:
    """Return the pairs of clips, each a tuple of its events, in order of clip and class."""
    rows = []
    for number, events in enumerate(clips):
        cells = [event_cells(event, geometry) for event in events]
        for label in sorted({classes.index(event.label) for event in events}):
            own = [at for at, event in enumerate(events) if event.label == classes[label]]
            event, traits = events[own[0]], (np.nan,) * len(TRAITS)
            if len(own) == 1:
                traits = (event.offset - event.onset, event.snr_db, overlap(event, events))
            rows.append((number, label, np.any([cells[at] for at in own], 0), np.any(cells, 0), *traits))
    clip, label, inside, anything, *traits = (np.array(column) for column in zip(*rows, strict=True))
    return Pairs(clip, label, inside, anything, dict(zip(TRAITS, traits, strict=True)))


def active_frames(clips: list[tuple[Event, ...]], classes: list[str], frames: int) -> np.ndarray:
    """Return which class is active in which frame of 0.32 s, float ``(clips, frames, C)``."""
    active = np.zeros((len(clips), frames, len(classes)))
    for number, events in enumerate(clips):
        for event in events:
            active[number, covered(event.onset, event.offset, frames, FRAME_SECONDS), classes.index(event.label)] = 1
    return active


# ---- maps --------------------------------------------------------------------------------------------------------


def mhca_attention(head: Mhca, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attention of each of mhca's M heads ``(B, M, N)``, and the normed tokens ``(B, N, D)``."""
    tokens, _ = head.checked(tokens, None)
    tokens = head.token_norm(tokens.flatten(0, 1)).view_as(tokens)  # (B, N, D) → (B·N, D) → (B, N, D)
    key = head.key.weight.unflatten(0, head.heads)  # (D, D) → (M, d, D)
    query = torch.einsum("md,mdi->mi", head.query.view(head.heads), key) / head.heads[1] ** 0.5  # (M, D)
    return masked_softmax(query @ tokens.mT, None), tokens


def mhca_contributions(head: Mhca, tokens: Tensor) -> Tensor:
    """Return what each token adds to each logit, ``(B, C, N)``: the sum over tokens, and b_c, is mhca's logit.

    logit_c = Σ_h w_{c,h}ᵀ Σ_n a_{h,n} W_{V,h} z_n + b_c, and the sums may change places: token n adds
    e_{c,n} = Σ_h a_{h,n} (w_{c,h}ᵀ W_{V,h} z_n), where w_{c,h} is the part of the classifier that reads head h.
    """
    attention, tokens = mhca_attention(head, tokens)
    value = head.value.weight.unflatten(0, head.heads)  # (D, D) → (M, d, D)
    classifier = head.classifier.weight.unflatten(1, head.heads)  # (C, D) → (C, M, d)
    said = torch.einsum("bni,cmi->bcmn", tokens, torch.einsum("cmd,mdi->cmi", classifier, value))  # (B, C, M, N)
    return torch.einsum("bmn,bcmn->bcn", attention, said)


def class_map(head: Head, tokens: Tensor) -> Tensor:
    """Return what speaks for each class at each place, ``(B, C, S_t, S_f)``: evidence, or contributions of mhca."""
    if isinstance(head, Prototype):
        return head.evidence_map(tokens)
    return mhca_contributions(head, tokens).unflatten(2, head.grid)  # (B, C, N) → (B, C, S_t, S_f)


def frame_logits(head: Head, tokens: Tensor, block: int) -> Tensor:
    """Return a head's logits of each frame, `block` columns of tokens, as if it were the clip: ``(B, T, C)``."""
    tokens, _ = head.checked(tokens, None)
    length = block * head.grid[1]
    frames = tokens[:, : tokens.shape[1] // length * length].unflatten(1, (-1, length))  # (B, N, D) → (B, T, n, D)
    logits = head.classifier(head.norm(head.pool(frames.flatten(0, 1), None, None)))  # (B·T, n, D) → (B·T, C)
    return logits.unflatten(0, frames.shape[:2])  # (B·T, C) → (B, T, C)


def energy_maps(spectrograms: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the mean log power of each patch, and how far it is above its row's median, ``(B, S_t, S_f)`` each."""
    energy = patchify(spectrograms, geometry.patch).mean(-1).unflatten(1, geometry.grid)  # (B, N) → (B, S_t, S_f)
    return energy, energy - energy.quantile(0.5, dim=1, keepdim=True)


def cls_attention(encoder: nn.Module, spectrograms: Tensor) -> Tensor:
    """Return the attention of [cls] in the last layer, mean over heads, ``(B, S_t, S_f)``."""
    found = [encoder(part, attention=True).attention[:, -1].mean(1) for part in spectrograms.split(PASS_CLIPS)]
    return torch.cat(found).unflatten(1, encoder.grid)  # (B, N) → (B, S_t, S_f)


@torch.inference_mode()
def maps_of(
    heads: Mapping[str, Head], tokens: Tensor, spectrograms: Tensor, encoder: nn.Module, pairs: Pairs
) -> dict[str, np.ndarray]:
    """Return every map of every pair, ``(P, S_t, S_f)`` under its key of `MAPS`.

    Parameters
    ----------
    heads : mapping
        Trained heads by name, those of `READ` that there are.
    tokens, spectrograms : torch.Tensor
        ``(clips, N, D)`` and ``(clips, frames, mel)``.
    encoder : module
        Where they come from.
    pairs : Pairs
        Of the same clips.
    """
    found: dict[str, list[Tensor]] = {}
    clip, label = torch.from_numpy(pairs.clip), torch.from_numpy(pairs.label)
    for start in range(0, len(tokens), BATCH):
        here = (clip >= start) & (clip < start + BATCH)
        for name, head in heads.items():
            maps = class_map(head, tokens[start : start + BATCH])  # (B, C, S_t, S_f)
            found.setdefault(name, []).append(maps[clip[here] - start, label[here]])
            if name == "mhca":
                blind = mhca_attention(head, tokens[start : start + BATCH])[0].mean(1).unflatten(1, head.grid)
                found.setdefault("mhca attention", []).append(blind[clip[here] - start])
    by_clip = dict(zip(("energy", "rise"), energy_maps(spectrograms, encoder.geometry), strict=True))
    if encoder.geometry.cls:
        by_clip["cls attention"] = cls_attention(encoder, spectrograms)
    by_clip["random"] = torch.rand(len(tokens), *encoder.grid, generator=torch.Generator().manual_seed(0))
    maps = {name: torch.cat(parts) for name, parts in found.items()} | {n: m[clip] for n, m in by_clip.items()}
    return {name: maps[name].numpy() for name in MAPS if name in maps}


@torch.inference_mode()
def frame_scores(heads: Mapping[str, Head], tokens: Tensor, block: int, active: np.ndarray) -> dict[str, np.ndarray]:
    """Return scores of every frame, ``(clips, T, C)``: of heads, of their clip score and of the true tags repeated.

    Of mhca twice: what the frame's tokens contribute to the clip's logit ("mhca"), and mhca within the frame alone.
    """
    found: dict[str, list[Tensor]] = {}
    for batch in tokens.split(BATCH):
        for name, head in heads.items():
            logits = frame_logits(head, batch, block)  # (B, T, C)
            found.setdefault(BY_FRAME if name == "mhca" else name, []).append(logits)
            found.setdefault(name + REPEATED, []).append(head(batch, None)[:, None].expand_as(logits))  # (B, C)
            if name == "mhca":
                parts = mhca_contributions(head, batch).mT.unflatten(1, (-1, block * head.grid[1]))  # (B, T, n, C)
                found.setdefault(name, []).append(parts.sum(2) + head.classifier.bias)
    scores = {name: torch.cat(parts).numpy() for name, parts in found.items()}
    return scores | {TRUE_TAGS: np.broadcast_to(active.max(1, keepdims=True), active.shape)}
