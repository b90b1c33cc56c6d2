"""Made sounds, and where in the tokens they show: whether tokens are in the order that an encoder's grid says.

A burst that is moved in time must move along ``t`` and a tone that is changed in pitch along ``f``, if ``N`` tokens are
read as ``n = t · S_f + f``. Where much more moves in order under another reading, that one is taken for the truth.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lib.audio import SAMPLE_RATE

PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the bursts, as shares of a clip
PITCHES = (250.0, 600.0, 1300.0, 2800.0, 5800.0)  # of the tones, Hz
HEARD, NEEDED = 1e-3, 3  # share of the largest effect, below which a sound is not heard; fewest heard of a kind
CLEAR = 2.0  # how many times more must move in order, for another reading to be the right one
MOVES, FOLLOWS = 0.15, 0.6  # least share of what moves that does so along its axis, least correlation with the sounds
FEWEST = 4  # steps of an axis, for a movement along it to be asked for

READINGS: dict[str, Callable[[Tensor, int, int], Tensor]] = {  # maps (K, N) of a grid (a, b) → (K, S_t, S_f)
    "as said": lambda maps, a, b: maps.unflatten(1, (a, b)),
    "frequency-major": lambda maps, a, b: maps.unflatten(1, (b, a)).transpose(1, 2),
    "grid swapped": lambda maps, a, b: maps.unflatten(1, (b, a)),
    "both swapped": lambda maps, a, b: maps.unflatten(1, (a, b)).transpose(1, 2),
}


def quiet(seconds: float) -> np.ndarray:
    """Return the faint noise that is behind all made sounds, float32 ``(samples,)``."""
    return (1e-3 * np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


def bursts(seconds: float) -> np.ndarray:
    """Return clips of one short burst of noise each, later from clip to clip: float32 ``(len(PLACES), samples)``."""
    clips = np.tile(quiet(seconds), (len(PLACES), 1))
    loud = 0.2 * np.random.default_rng(1).standard_normal(round(0.03 * clips.shape[1]))
    for clip, place in zip(clips, PLACES, strict=True):
        start = round(place * len(clip)) - len(loud) // 2
        clip[start : start + len(loud)] += loud.astype(np.float32)
    return clips


def tones(seconds: float) -> np.ndarray:
    """Return clips of one tone each, higher from clip to clip: float32 ``(len(PITCHES), samples)``.

    A tone sounds in the middle half of its clip, since one that never stops is what some front ends take away.
    """
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    loud = 0.3 * (np.abs(time - seconds / 2) < seconds / 4)
    return np.stack([quiet(seconds) + (loud * np.sin(2 * np.pi * p * time)).astype(np.float32) for p in PITCHES])


def ordinary(seconds: float) -> np.ndarray:
    """Return three clips of different sounds: float32 ``(3, samples)``."""
    events, pitches = bursts(seconds), tones(seconds)
    return np.stack([events[1], pitches[3], events[3] + 0.5 * pitches[0]])


def misplaced(tokens_of: Callable[[np.ndarray], Tensor], grid: tuple[int, int], seconds: float) -> list[str]:
    """Say what is wrong with the order of tokens, by the keys of `lib.own_encoder_words.SENTENCES`.

    Parameters
    ----------
    tokens_of : callable
        Waveforms ``(B, samples)`` → tokens ``(B, N, D)``.
    grid : tuple of int
        ``(S_t, S_f)`` as the encoder has it.
    seconds : float
        Length of the made sounds.
    """
    calm, *made = (
        tokens_of(clips).double() for clips in (quiet(seconds)[None].repeat(2, 0), bursts(seconds), tones(seconds))
    )
    sizes = [(tokens - calm[0]).square().mean((1, 2)) for tokens in made]  # two of (K,)
    least = HEARD * max(size.max() for size in sizes)
    heard = [tokens[size > least] for tokens, size in zip(made, sizes, strict=True)]  # two of (K, N, D)
    if min(map(len, heard)) < NEEDED:
        return ["hears a part"]
    from_quiet = complaints(*((tokens - calm[0]).norm(dim=-1) for tokens in heard), grid)
    # Any sound at all may change all tokens of some encoders; where it is does not show against quiet then.
    return from_quiet and complaints(*((tokens - tokens.mean(0)).norm(dim=-1) for tokens in heard), grid) and from_quiet


def complaints(of_time: Tensor, of_pitch: Tensor, grid: tuple[int, int]) -> list[str]:
    """Return what is wrong with the order, by the effects (K, N) of sounds that were moved in time and in pitch."""
    sizes = [maps.square().mean().clamp_min(1e-30) for maps in (of_time, of_pitch)]
    moved = {
        name: along(read(of_time, *grid), 1) / sizes[0] + along(read(of_pitch, *grid), 2) / sizes[1]
        for name, read in READINGS.items()
    }
    best = max(moved, key=moved.get)  # the first of equals
    if moved[best] > CLEAR * moved["as said"]:
        return [best]
    found = []
    for axis, maps, key, backwards in (
        (1, of_time, "time", "time backwards"),
        (2, of_pitch, "frequency", "frequency downwards"),
    ):
        if grid[axis - 1] < FEWEST:
            continue
        maps = READINGS["as said"](maps, *grid)
        moving = (maps - maps.mean(0)).square().mean()
        follows = correlation(maps, axis) if along(maps, axis) > MOVES * moving else 0.0
        if follows < FOLLOWS:
            found.append(backwards if follows < -FOLLOWS else key)
    return found


def along(maps: Tensor, axis: int) -> Tensor:
    """Return the energy in maps (K, S_t, S_f) that moves along one axis (1: t, 2: f), beyond chance, per cell."""
    steps, places = maps.shape[axis], maps[0].numel()
    moving = maps - maps.mean(0)
    chance = (steps - 1) / (places - 1) * moving.square().mean() if places > steps else 0.0
    return moving.mean(3 - axis).square().mean() - chance


def correlation(maps: Tensor, axis: int) -> float:
    """Return how well the place along an axis where maps (K, S_t, S_f) are large follows their order, -1 to 1."""
    profile = maps.mean(3 - axis)  # (K, steps)
    profile = profile - profile.min(1, keepdim=True).values
    centre = (profile * torch.arange(profile.shape[1])).sum(1) / profile.sum(1).clamp_min(1e-30)  # (K,)
    if len(centre) < 2 or centre.std() == 0:
        return 0.0
    return float(np.corrcoef(centre.numpy(), np.arange(len(centre)))[0, 1])
