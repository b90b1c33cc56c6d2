"""The few-shot draw: k clips a species, good recordings before others, first events before further ones, by seed."""

import math
from collections import Counter

import numpy as np
import pytest

from lib.data.official.shots import FALLBACK, Focal, Rule, draw_shots, events_of, passes, shortfall

RULE = Rule(shots=6, seed=1)
ORIGINS = ("primary", "leftover", "fill-up primary", "fill-up leftover")


def focal(file, species="owl", events=((0.0, 1.0),), seconds=10.0, secondary=()):
    return Focal(file, species, seconds, secondary, tuple(events), (0,) * len(events))


def many(species="owl", good=4, poor=4, events=2):
    """Return recordings of a species, some that pass the lenient condition and some that are too long."""
    places = [(3.0 * place, 3.0 * place + 1) for place in range(events)]
    passing = [focal(f"{species}-good-{number}", species, places) for number in range(good)]
    return passing + [focal(f"{species}-poor-{number}", species, places, 60.0) for number in range(poor)]


# What counts of a recording


@pytest.mark.parametrize(
    ("clusters", "expected"),
    [
        ((0, 1, 1, -1, -1, -1), ((2.0, 3.0), (4.0, 5.0))),  # noise is most, and no cluster
        ((1, 1, 0, 0, -1, -1), ((4.0, 5.0), (6.0, 7.0))),  # as many in both: the lower number
        ((-1,) * 6, (FALLBACK,)),
    ],
)
def test_the_events_of_the_largest_cluster_count(clusters, expected):
    events = tuple((2.0 * place, 2.0 * place + 1) for place in range(6))
    assert events_of(Focal("a", "owl", 12.0, (), events, clusters)) == expected


def test_a_recording_without_events_gives_its_first_five_seconds():
    assert events_of(Focal("a", "owl", 3.0)) == ((0.0, 5.0),)


def test_an_event_that_contains_another_is_dropped_and_equal_ones_are_one():
    rng = np.random.default_rng(0)
    for _ in range(200):
        bounds = np.sort(rng.integers(0, 8, (6, 2)), axis=1)
        events = {(float(onset), float(offset) + 1) for onset, offset in bounds}
        contains = {e for e in events for o in events if e != o and e[0] <= o[0] and o[1] <= e[1]}
        twice = [*sorted(events), *sorted(events)]
        assert events_of(focal("a", events=twice)) == tuple(sorted(events - contains))


@pytest.mark.parametrize(
    ("seconds", "secondary", "lenient", "strict"),
    [(20.0, (), True, False), (20.5, (), False, False), (5.0, ("jay",), False, True), (math.inf, (), False, False)],
)
def test_lenient_and_strict_are_the_published_conditions(seconds, secondary, lenient, strict):
    recording = focal("a", seconds=seconds, secondary=secondary)
    assert passes(recording, Rule(1, 1, longest=20.0, alone=True)) is lenient
    assert passes(recording, Rule(1, 1, longest=5.0, alone=False)) is strict


# The draw


def test_where_recordings_are_enough_each_shot_is_of_another_recording_that_passes():
    shots = draw_shots([*many("owl", good=9), *many("jay", good=6)], RULE)
    assert Counter(shot.species for shot in shots) == {"owl": 6, "jay": 6}
    assert {shot.origin for shot in shots} == {"primary"}
    assert len({shot.file for shot in shots}) == 12
    assert not any("poor" in shot.file for shot in shots)


def test_leftovers_come_after_all_primaries_and_the_others_after_all_leftovers():
    of_owl = draw_shots(many(good=2, poor=2), Rule(8, 1))
    assert [shot.origin for shot in of_owl] == [origin for origin in ORIGINS for _ in range(2)]
    assert len({(shot.file, shot.onset) for shot in of_owl}) == 8
    assert all("poor" in shot.file for shot in of_owl[4:])


def test_without_filling_up_a_species_stays_short_and_is_reported():
    recordings = [*many("owl", good=2), *many("jay", good=6), *many("kea", good=0)]
    shots = draw_shots(recordings, Rule(6, 1, fill_up=False))
    assert Counter(shot.species for shot in shots) == {"owl": 4, "jay": 6}
    assert shortfall(shots, ["owl", "jay", "kea"], 6) == {"owl": 4, "kea": 0}


def test_the_draw_depends_on_the_seed_alone():
    recordings = many(good=12, events=3)
    drawn = draw_shots(recordings, RULE)
    assert draw_shots(recordings[::-1], RULE) == drawn
    assert [shot for shot in draw_shots([*many("jay"), *recordings], RULE) if shot.species == "owl"] == drawn
    assert draw_shots(recordings, Rule(6, 2)) != drawn
    owls, jays = ([shot.file[3:] for shot in draw_shots(many(name, good=12), RULE)] for name in ("owl", "jay"))
    assert owls != jays  # each species has a stream of its own


def test_fewer_shots_are_the_first_of_more():
    recordings = [*many("owl", good=3, poor=3), *many("jay", good=9)]
    longest = draw_shots(recordings, Rule(10, 1))
    for shots in range(1, 10):
        fewer = draw_shots(recordings, Rule(shots, 1))
        assert fewer == longest[: len(fewer)] and len(fewer) == 2 * shots


def test_any_event_may_be_the_primary_one():
    recording = [focal("a", events=[(place, place + 0.5) for place in range(4)])]
    first = {draw_shots(recording, Rule(1, seed))[0].onset for seed in range(60)}
    assert first == {0.0, 1.0, 2.0, 3.0}


def test_the_beginning_of_a_subset_is_balanced():
    shots = draw_shots([*many("owl", good=6), *many("jay", good=6), *many("kea", good=2, poor=0)], RULE)
    for count in range(1, 13):
        counts = Counter(shot.species for shot in shots[:count])
        assert max(counts.values()) - min(counts[name] for name in ("owl", "jay", "kea")) <= 1
