"""The dial: each position turns one thing and nothing else; trends, chance and verdict say what the numbers say."""

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from lib import dial as study_of_the_dial
from lib.data.datasets import DIAL, load_dataset
from lib.dial import (
    DIALS,
    GROUPS,
    METHODS,
    Readings,
    arms,
    band_overlap,
    chance,
    dial_table,
    dials_of,
    encoders_on,
    shared_band,
    trend_table,
)
from lib.lesson import DIAL as LESSON
from lib.lesson import TARGETS, compare_on_dial, lead_draws, target_clip
from lib.lesson_plots import plot_dial
from lib.metrics import Draws, Interval, average_precision
from lib.plots_dial import MEASURES, plot_dials, plot_polyphony_dial, verdict
from lib.profiles import load_profile
from lib.store import Embeddings

SYNTHETIC = [name for name in DIAL if "esc10" not in name]


def clips(name, count=12, split="test"):
    data = load_dataset(name)
    return [data.events(split, index) for index in range(count)]


def sounds(events):
    return Counter((event.label, event.source) for event in events)


# ---- the clips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_position_has_the_bank_and_classes_of_the_soundscapes_and_keeps_its_place(name):
    data, model = load_dataset(name), load_dataset("soundscapes")
    assert data.classes == model.classes and data.bank == model.bank
    assert data.manifest["sizes"] == model.manifest["sizes"]
    dial, place = next((key, d.positions[name]) for key, d in DIALS.items() if name in d.positions)
    for events in clips(name):
        lengths, levels = [e.offset - e.onset for e in events], [e.snr_db for e in events]
        if dial == "events":
            assert len(events) == place and data.recipe.snr_db == model.recipe.snr_db
        elif dial == "snr":
            assert len(events) == 3 and levels == [place] * 3
        elif dial == "seconds":
            assert lengths == pytest.approx([place] * 3) and levels == [12.0] * 3
        else:
            assert lengths == pytest.approx([2.0] * 4) and len({e.label for e in events}) == 4
            steps = [later.onset - earlier.onset for earlier, later in pairwise(events)]
            expected = {"dial-overlap-none": 2.0, "dial-overlap-half": 1.0}.get(name, 0.0)
            assert steps == pytest.approx([expected] * 3)
            assert events[0].onset >= 0 and events[-1].offset <= 10 + 1e-9


def test_every_position_that_a_dial_names_is_a_dataset_and_the_other_way_round():
    assert {name for dial in DIALS.values() for name in dial.positions} == set(DIAL)
    for number in (1, 3, 5, 9):
        manifest = load_dataset(f"dial-esc10-events-{number}").manifest
        assert manifest["bank"] == "esc10" and manifest["recipe"]["events"] == [number, number]


@pytest.mark.parametrize(("fewer", "more"), [(1, 2), (2, 3), (3, 5), (5, 7), (7, 9)])
def test_more_events_are_the_same_events_and_some_more(fewer, more):
    for few, many in zip(clips(f"dial-events-{fewer}"), clips(f"dial-events-{more}"), strict=True):
        assert set(few) < set(many)


@pytest.mark.parametrize("dial", ["snr", "seconds", "overlap"])
def test_turning_level_length_or_step_keeps_the_sounds_of_a_clip(dial):
    first, *others = (clips(name) for name in DIALS[dial].positions)
    for other in others:
        assert [sounds(events) for events in other] == [sounds(events) for events in first]
        assert other != first
        if dial == "snr":
            onsets = [[[e.onset for e in events] for events in position] for position in (first, other)]
            assert onsets[0] == onsets[1]


def test_companies_of_both_kinds_hold_every_class_equally_often_and_no_pair_too_often():
    often = {}
    for name in ("dial-bands-less", "dial-bands-more"):
        manifest = load_dataset(name).manifest
        often[name] = Counter(label for company in manifest["companies"] for label in company)
        assert set(often[name]) == set(manifest["classes"])
        assert all(len(set(company)) == 4 for company in manifest["companies"])
        pairs = Counter(pair for company in manifest["companies"] for pair in combinations(sorted(company), 2))
        assert all(count <= 0.6 * min(often[name][label] for label in pair) for pair, count in pairs.items())
        heard = {frozenset(event.label for event in events) for events in clips(name, 60)}
        assert heard <= {frozenset(company) for company in manifest["companies"]} and len(heard) > 25
    less, more = often.values()
    assert less == more


def test_the_bands_of_rendered_clips_overlap_more_where_the_manifest_says_so():
    said = band_overlap(load_profile("pocket/dial"), clips=16)
    less, _, more = (int(part.rsplit(" ", 1)[1].rstrip("%")) for part in said.split(", "))
    assert less + 5 < more
    assert band_overlap(load_profile("smoke/dial")) == "This profile does not turn that dial."


def test_two_bands_share_what_lies_in_both_of_what_they_cover():
    assert shared_band((100, 200), (200, 900)) == 0 and shared_band((300, 900), (300, 900)) == 1
    assert shared_band((100, 4000), (500, 900)) == pytest.approx(shared_band((500, 900), (100, 4000)))
    mel = [2595 * np.log10(1 + hz / 700) for hz in (100, 500, 900, 4000)]
    assert shared_band((100, 900), (500, 4000)) == pytest.approx((mel[2] - mel[1]) / (mel[3] - mel[0]))


# ---- the study -----------------------------------------------------------------------------------------------


def test_each_profile_turns_what_it_has_at_its_own_scale():
    pocket, smoke, real = (load_profile(f"{name}/dial") for name in ("pocket", "smoke", "esc10"))
    assert list(dials_of(pocket)) == list(DIALS) and list(dials_of(smoke)) == list(dials_of(real)) == ["events"]
    assert list(dials_of(pocket)["snr"].values()) == [-6, 0, 6, 12, 18]
    for profile in (pocket, smoke, real):
        base = load_profile(profile.name.split("/")[0])
        assert all(profile.clips_of(name) == base.clips for name in profile.datasets)


def test_an_encoder_without_a_cls_is_not_asked_for_its_mean_token_twice():
    found = arms(load_profile("pocket/dial"))
    of = {key: {arm.name for arm in found if arm.encoder == key} for key in ("pocket-eat", "pocket-beats")}
    assert of == {"pocket-eat": set(METHODS), "pocket-beats": set(METHODS) - {"mean"}}
    assert len({arm.key for arm in found}) == len(found)
    assert {arm.prototypes for arm in found} == {10}
    assert {arm.encoder for arm in found if arm.dataset == "dial-snr-6"} < {arm.encoder for arm in found}
    assert {arm.cls_mode for arm in found if arm.encoder == "pocket-eat" and arm.name == "mean"} == {"mean"}


def test_chance_is_what_random_orders_have_on_average():
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 5)) < (0.05, 0.1, 0.3, 0.5, 0.0)).astype(float)
    targets[0, :4], targets[:, 4] = 1, 0
    tried = [np.nanmean(average_precision(rng.random((60, 5)), targets)[:4]) for _ in range(1000)]
    assert chance(targets) == pytest.approx(100 * np.mean(tried), abs=0.4)
    assert chance(targets) > 100 * targets[:, :4].mean() + 1  # more than the share of positives


def readings(name="pocket/dial", seed=0):
    """Make up heads: protobin leads linear by 2 + n/2 points at place n, the mean token by 1, mhca by 3."""
    rng, profile, values, levels = np.random.default_rng(seed), load_profile(name), {}, {}
    leads = {"linear": lambda n: 0.0, "mean": lambda n: 1.0, "mhca": lambda n: 3.0, "protobin": lambda n: 2 + n / 2}
    for places in dials_of(profile).values():
        for dataset, n in places.items():
            for encoder in encoders_on(profile, dataset):
                common = 40 + n + np.append(0, 5 * rng.standard_normal(200))  # what all heads share cancels
                for method, lead in leads.items():
                    own = np.append(0, 0.05 * rng.standard_normal(200))
                    values[dataset, encoder, method] = common + lead(n) + own
            levels[dataset] = 10.0 + n
    return Readings(profile, values, dict.fromkeys(values, 0.5), levels)


@pytest.fixture(scope="module")
def made_up():
    found = readings()
    tables = dial_table(found), trend_table(found)
    for table in tables:
        table.attrs["note"] = "made up"
    return tables


def test_the_table_has_scores_gains_and_the_share_of_the_way_from_chance(made_up):
    table, _ = made_up
    assert set(table["encoder"]) == set(load_profile("pocket/dial").encoders) | set(GROUPS)
    row = table[(table["dataset"] == "dial-events-5") & (table["encoder"] == "all") & (table["method"] == "protobin")]
    (row,) = row.itertuples()
    assert (row.map, row.gain, row.chance) == pytest.approx((49.5, 4.5, 15.0))
    assert row.share == pytest.approx(100 * (49.5 - 15) / 85) and row.share_gain == pytest.approx(100 * 4.5 / 85)
    assert row.high - row.low > 2 and row.gain_high - row.gain_low < 0.3  # paired: what is common cancels
    assert not table.duplicated(["dial", "place", "encoder", "method"]).any()


def test_a_slope_is_that_of_the_lead_and_a_change_its_last_minus_its_first(made_up):
    _, trends = made_up
    trends = trends[trends["encoder"] == "all"].set_index(["dial", "method", "against", "measure"])
    row = trends.loc["events", "protobin", "linear", "points"]
    assert (row["slope"], row["first"], row["last"], row["change"]) == pytest.approx((0.5, 2.5, 6.5, 4.0))
    assert row["slope_low"] < 0.5 < row["slope_high"] < 0.6
    assert trends.loc["events", "protobin", "mean", "points"]["first"] == pytest.approx(1.5)
    assert trends.loc["events", "mhca", "linear", "points"]["slope"] == pytest.approx(0)
    assert trends.loc["events", "protobin", "linear", "share"]["last"] == pytest.approx(100 * 6.5 / 81)
    doubling = trends.loc["seconds", "protobin", "linear", "points"]
    lengths = np.array([0.25, 0.5, 1, 2, 4])
    assert doubling["slope"] == pytest.approx(np.polyfit(np.log2(lengths), 2 + lengths / 2, 1)[0])
    assert np.isnan(trends.loc["overlap", "protobin", "linear", "points"]["slope"])


def test_clips_that_all_positions_share_make_the_trend_surer_than_its_ends():
    found = readings()
    swing = np.append(0, 3 * np.random.default_rng(1).standard_normal(200))
    for (dataset, encoder, method), values in found.values.items():
        if method == "protobin":
            found.values[dataset, encoder, method] = values + swing  # the same draws at every position
    row = trend_table(found).query("dial == 'events' and encoder == 'all' and method == 'protobin'").iloc[0]
    assert row["first_high"] - row["first_low"] > 8 and row["change_high"] - row["change_low"] < 0.5


def tilted(trends, low, high):
    return trends.assign(slope_low=low, slope_high=high, change_low=low, change_high=high)


@pytest.mark.parametrize(
    ("low", "high", "verb"), [(0.1, 0.9, "grows"), (-0.9, -0.1, "shrinks"), (-0.1, 0.9, "stays within its error")]
)
def test_the_verdict_is_two_sentences_that_follow_the_interval(made_up, low, high, verb):
    table, trends = made_up
    first, second = verdict(table, tilted(trends, low, high))
    assert f"the gap **{verb}** with polyphony" in first and "+2.5 (" in first and "at 1 event and +6.5" in first
    assert first.count(".**") == 0 and first.endswith(".") and second.endswith(".")
    for title in ("how loud", "how long", "overlap in time", "overlap in frequency"):
        assert title in second
    assert "over 5 encoders" in first and "over 3 encoders" in second
    assert second.count(verb) == 8 and "from −6 to 18 dB" in second


def test_a_profile_with_one_dial_says_so_and_is_drawn():
    found = readings("smoke/dial")
    table, trends = dial_table(found), trend_table(found)
    table.attrs["note"] = "made up"
    first, second = verdict(table, trends)
    assert "over 2 encoders" in first and "at 9" in first
    assert second == "**The other dials:** this profile turns only how many events there are."
    assert isinstance(plot_polyphony_dial(table), Figure) and isinstance(plot_dials(table, "map"), Figure)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_picture_has_a_column_a_dial_and_a_row_a_kind_and_a_line_a_head(made_up, measure):
    table, _ = made_up
    figure = plot_dials(table, measure)
    assert len(figure.axes) == 2 * len(DIALS)
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() == 1.8]
    assert len(thick) == (3 if measure.endswith("gain") else 4)
    drawn = thick[-1].get_ydata()
    wanted = table.query("dial == 'events' and encoder == 'base' and method == 'protobin'")[measure]
    assert drawn == pytest.approx(wanted.to_numpy())


def test_tables_are_written_and_read_back(made_up, monkeypatch):
    monkeypatch.setattr(study_of_the_dial, "read", lambda name: readings())
    table, trends = study_of_the_dial.write("pocket")
    pd.testing.assert_frame_equal(table[["map", "gain"]], made_up[0][["map", "gain"]], rtol=1e-4)
    assert "pocket/dial" in table.attrs["note"] and len(trends) == len(made_up[1])


# ---- the dial of the lesson ----------------------------------------------------------------------------------


def test_the_lesson_turns_nothing_but_the_company():
    assert list(LESSON.values()) == [1, 3, 5, 9]
    for index in range(2):
        (alone, number), (crowd, same) = (target_clip("test", index, events - 1) for events in (1, 9))
        assert number == same == index % len(TARGETS) and not np.array_equal(alone, crowd)


def test_leads_along_the_dial_are_paired_and_those_of_the_scores():
    rng = np.random.default_rng(0)
    targets = torch.eye(4).repeat(10, 1)  # (40, 4)
    data = Embeddings(torch.zeros(40, 1, 1), torch.zeros(40, 1), targets, (1, 1))
    noise = rng.standard_normal((2, 40, 4))
    scores = {("a", "alone"): targets.numpy() + 0.3 * noise, ("b", "alone"): 0.1 * targets.numpy() + noise}
    scores |= {(name, "crowd"): values for (name, _), values in scores.items()}
    leads = lead_draws(scores, {"alone": data, "crowd": data}, "a", "b")
    value = np.mean([average_precision(x, targets).mean() for x in scores["a", "alone"]])
    value -= np.mean([average_precision(x, targets).mean() for x in scores["b", "alone"]])
    assert leads["alone"].value == pytest.approx(value) and value > 0.2
    assert np.array_equal(leads["alone"].drawn, leads["crowd"].drawn)


def lead(value, spread=0.01):
    return Draws(value, value + spread * np.linspace(-1, 1, 101))


def test_a_guess_on_the_dial_is_held_against_the_widest_lead_and_the_change():
    wide = dict(zip(LESSON, map(lead, (0.1, 0.2, 0.3, 0.25)), strict=True))
    first, second = compare_on_dial(9, wide).splitlines()
    assert first.startswith("furthest apart at five events: you said 9, measured +30.0 points")
    assert second.startswith("from one event to nine events: +15.0 points") and second.endswith(", wider")
    narrow = dict(zip(LESSON, map(lead, (0.3, 0.2, 0.1, 0.0)), strict=True))
    assert "at one event: no guess" in compare_on_dial(..., narrow) and compare_on_dial(..., narrow).endswith(
        "narrower"
    )
    level = dict.fromkeys(LESSON, lead(0.1)) | {"nine events": Draws(0.1, 0.1 + np.linspace(-0.1, 0.1, 101))}
    assert "neither" in compare_on_dial(1, level)
    assert "the dial has 1, 3, 5, 9" in compare_on_dial(4, wide)


def test_the_picture_of_the_lesson_has_a_line_a_head():
    curves = {name: (0.9, 0.8, 0.7, 0.6) for name in ("linear on cls", "linear on the mean", "protobin")}
    figure = plot_dial([1, 3, 5, 9], curves, [Interval(0.1, 0.05, 0.2, 9)] * 4)
    assert len(figure.axes[0].lines) == 3
