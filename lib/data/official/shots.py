"""The few-shot subset of a BirdSet training set: k clips a species, drawn by the published procedure, seeded.

The paper's Appendix D.2 follows the pipeline of Bird-MAE (Rauch et al., TMLR 2025), of which is published:

1. recordings are kept by a condition: *lenient*, at most 20 s long and no second species, or *strict*, at most 5 s;
2. of a recording count the detected events of its largest cluster (-1 is noise), or else its first five seconds;
3. an event that contains another one is dropped; of the others, one at random is *primary*, the rest are *leftover*;
4. a species takes k of its primaries; where they are fewer, all of them, filled from its leftovers;
5. where that is still short, and only if asked to *fill up*, it goes on with recordings that failed the condition.

No drawn subset was found published, so ours is another draw. What the publication leaves open is chosen here: the draw
of a species depends neither on other species nor on the order of the rows, and k shots are among those of any larger k;
of two clusters of equal size the one with the lower number counts; step 5 takes primaries before leftovers, too.
Condition, seed and whether to fill up stand in the manifest (``few_shot``).
"""

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

FALLBACK = (0.0, 5.0)  # seconds: what stands for the events of a recording that has none
NOISE = -1

Interval = tuple[float, float]


@dataclass(frozen=True)
class Focal:
    """A training recording as its row of the metadata describes it.

    Parameters
    ----------
    file : str
        Its name, unique in the set.
    species : str
        Its eBird code.
    seconds : float
        Its length; infinite where it is not known, which fails every condition.
    secondary : tuple of str
        The species that were heard in the background.
    events : tuple of (float, float)
        Onset and offset of what a detector found, in seconds.
    clusters : tuple of int
        The cluster of each event; -1 is noise.
    """

    file: str
    species: str
    seconds: float
    secondary: tuple[str, ...] = ()
    events: tuple[Interval, ...] = ()
    clusters: tuple[int, ...] = ()


@dataclass(frozen=True)
class Shot:
    """A drawn event: the recording it lies in, its species, where (seconds), and which step drew it."""

    file: str
    species: str
    onset: float
    offset: float
    origin: str  # "primary", "leftover", "fill-up primary" or "fill-up leftover"


@dataclass(frozen=True)
class Rule:
    """How a few-shot subset is drawn.

    Parameters
    ----------
    shots : int
        k, clips a species.
    seed : int
        Of the draw.
    longest : float
        Seconds that a recording may last; 20 where lenient, 5 where strict.
    alone : bool
        Whether no second species may be heard.
    fill_up : bool
        Whether a species that is short goes on with recordings that failed.
    """

    shots: int
    seed: int
    longest: float = 20.0
    alone: bool = True
    fill_up: bool = True


def draw_shots(recordings: Iterable[Focal], rule: Rule) -> list[Shot]:
    """Draw the few-shot subset: at most `rule.shots` clips of each species there is.

    Parameters
    ----------
    recordings : iterable of Focal
        In any order.
    rule : Rule
        How.

    Returns
    -------
    list of Shot
        In turn, one of each species and then the next of each, so that any beginning of the list is balanced; of a
        species in the order of the draw, and fewer where it has too few events (see `shortfall`).
    """
    of_species: dict[str, list[Focal]] = {}
    for recording in sorted(recordings, key=lambda recording: recording.file):
        of_species.setdefault(recording.species, []).append(recording)
    drawn = [_draw(of_species[species], rule) for species in sorted(of_species)]
    return [shot for turn in zip_longest(*drawn) for shot in turn if shot]


def shortfall(shots: Sequence[Shot], species: Iterable[str], wanted: int) -> dict[str, int]:
    """Return species → number of clips, for those of `species` that have fewer than were wanted."""
    counts = Counter(shot.species for shot in shots)
    return {name: counts[name] for name in species if counts[name] < wanted}


def passes(recording: Focal, rule: Rule) -> bool:
    """Return whether a recording meets the condition of step 1."""
    return recording.seconds <= rule.longest and not (rule.alone and recording.secondary)


def events_of(recording: Focal) -> tuple[Interval, ...]:
    """Return the events of a recording that count (steps 2 and 3), in order of onset, each once."""
    sizes = Counter(cluster for cluster in recording.clusters if cluster != NOISE)
    if not sizes:
        return (FALLBACK,)
    largest = min(sizes, key=lambda cluster: (-sizes[cluster], cluster))
    found = zip(recording.events, recording.clusters, strict=True)
    events = [event for event, cluster in found if cluster == largest]
    kept, earliest_end = [], math.inf
    # From the last onset back, of equal onsets the shortest first: who ends no earlier than one before contains it.
    for onset, offset in sorted(events, key=lambda event: (-event[0], event[1])):
        if offset < earliest_end:
            kept.append((onset, offset))
            earliest_end = offset
    return tuple(reversed(kept))


def _draw(recordings: list[Focal], rule: Rule) -> list[Shot]:
    """Draw the clips of one species."""
    rng = np.random.default_rng([rule.seed, zlib.crc32(recordings[0].species.encode())])
    good = [recording for recording in recordings if passes(recording, rule)]
    poor = [recording for recording in recordings if not passes(recording, rule)]
    stages = [("", good), ("fill-up ", poor)] if rule.fill_up else [("", good)]
    drawn: list[Shot] = []
    for prefix, part in stages:
        if len(drawn) == rule.shots:
            break  # without a look at the events of many long recordings
        for candidates in _primaries_and_leftovers(part, prefix, rng):
            order = rng.permutation(len(candidates))[: rule.shots - len(drawn)]
            drawn += [candidates[place] for place in order]
    return drawn


def _primaries_and_leftovers(
    recordings: list[Focal], prefix: str, rng: np.random.Generator
) -> tuple[list[Shot], list[Shot]]:
    """Return one random event of each recording, and all the others."""
    primaries, leftovers = [], []
    for recording in recordings:
        events = events_of(recording)
        chosen = int(rng.integers(len(events)))
        for place, (onset, offset) in enumerate(events):
            origin, where = ("primary", primaries) if place == chosen else ("leftover", leftovers)
            where.append(Shot(recording.file, recording.species, onset, offset, prefix + origin))
    return primaries, leftovers
