"""The preprocessing audit: each mistake is the one it is called, stored and judged, and recognised by its trace."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lib import audit, audit_stores, audit_traces
from lib.arms import FEATURES, feature_versions
from lib.audio import LOG_FLOOR, SAMPLE_RATE, log_mel, mel_centres, mel_filters
from lib.audit import HARMS, HEADS, HELPS, OPEN, faults_on, further_words, judged, make_arm, outcome, verdict
from lib.audit_faults import (
    AUDIOSET,
    BEHIND,
    DONE,
    SHORTENED,
    Sound,
    _bins,
    filter_bank,
    kaldi_mel,
    power,
    right,
    slaney_hertz,
    slaney_mel,
    triangles,
)
from lib.audit_stores import build_faults, encoded, fault_folder, load_fault, pictures, short_seconds, sound_of
from lib.audit_table import FAULTS, KINDS, RIGHT, SHORT, STAGES, table_markdown, title_of
from lib.audit_traces import (
    BESIDE,
    STATISTICS,
    beside,
    groups_of,
    recognise,
    recognised,
    steady,
    trace_of,
    trace_table,
    trace_to_mistake,
)
from lib.data.datasets import load_dataset
from lib.encoders import load_encoder
from lib.encoders.pocket import POCKET
from lib.encoders.vit import patchify
from lib.errors import InputError
from lib.figures import read_table
from lib.paths import figure_root
from lib.plots_audit import plot_heard, plot_scores, plot_traces
from lib.profiles import load_profile
from lib.provenance import _collect, definition_version
from lib.store import build_store, load_embeddings

ENCODER, MANY, SINGLE = "log-mel", "soundscapes", "short-sounds"  # log-mel costs nothing to run
SAMPLES = 10 * SAMPLE_RATE
MISTAKES = [name for name in DONE if name not in (*BEHIND, SHORT)]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sound(clips=2, starts=None):
    """Clips of faint noise that grow louder, so that no two places are alike."""
    audio = 0.05 * noise(clips, SAMPLES) * torch.linspace(0.1, 1.0, SAMPLES)
    return Sound(audio, POCKET, starts or (0,) * clips, 1.0)


def tone(hertz):
    """Return a clip of one tone over very faint noise, ten seconds long."""
    wave = 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(SAMPLES) / SAMPLE_RATE) + 1e-5 * noise(SAMPLES)
    return Sound(wave[None], POCKET, (0,))


def loudest(spectrogram, frames=slice(20, 200)):
    """Return the centre in Hz of the loudest band of a spectrogram (1, frames, mel)."""
    return mel_centres(64)[spectrogram[0, frames].mean(0).argmax().item()]


# ---- what is done --------------------------------------------------------------------------------------------------


def test_the_right_way_is_the_encoders_own_and_the_parts_of_the_filter_bank_are_kaldis():
    clips = sound()
    torch.testing.assert_close(right(clips), load_encoder("pocket-eat").spectrogram(clips.audio))
    edges = np.linspace(kaldi_mel(20.0), kaldi_mel(8000.0), 66)
    assert torch.equal(triangles(edges, kaldi_mel(_bins())), mel_filters(64, 512, SAMPLE_RATE))
    torch.testing.assert_close(
        (power(clips) @ mel_filters(64, 512, SAMPLE_RATE)).clamp_min(LOG_FLOOR).log(), clips.bank
    )


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_changes_what_the_encoder_hears_and_an_offset_hardly(name):
    clips = sound(starts=(3 * SAMPLE_RATE, SAMPLES))
    healthy = DONE[SHORT](clips) if name in SHORTENED else right(clips)
    found = DONE[name](clips)
    assert found.numel() >= 2 * 496 * 64 and torch.isfinite(found).all()
    if found.shape == healthy.shape:
        moved = (found - healthy).abs().mean().item()
        assert moved < 1e-3 if name == "dc_offset" else moved > 0.02


def test_normalising_is_wrong_in_the_way_it_is_called():
    clips = sound()
    bank = 2.9 * right(clips) - 5.0
    torch.testing.assert_close(DONE["another_corpus"](clips) * AUDIOSET["divisor"] + AUDIOSET["mean"], bank)
    torch.testing.assert_close(DONE["not_normalised"](clips), bank)
    own = DONE["per_clip"](clips)
    torch.testing.assert_close(own.mean((1, 2)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(own.std((1, 2)), torch.ones(2))
    louder = replace(clips, audio=clips.audio * torch.tensor([[1.0], [3.0]]))
    torch.testing.assert_close(DONE["per_clip"](louder), own, atol=1e-2, rtol=0)  # the level is lost


def test_short_clips_begin_with_their_event_and_are_padded_as_they_are_called():
    clips = sound(starts=(3 * SAMPLE_RATE, SAMPLES - 100))
    assert torch.equal(clips.short[0], clips.audio[0, 3 * SAMPLE_RATE : 4 * SAMPLE_RATE])
    assert torch.equal(clips.short[1], clips.audio[1, -SAMPLE_RATE:])
    heard = (log_mel(clips.short) + 5.0) / 2.9
    filled = {SHORT: (np.log(LOG_FLOOR) + 5) / 2.9, "zeros_before_normalising": 5 / 2.9, "zeros_after_normalising": 0.0}
    for name in SHORTENED:
        found = DONE[name](clips)
        assert found.shape == (2, 499, 64)
        torch.testing.assert_close(found[:, :49], heard)
        torch.testing.assert_close(found[:, 51:], torch.full((2, 448, 64), filled[name]))


def test_axes_are_swapped_and_patches_stand_in_the_other_order():
    clips, patch, (steps, rows) = sound(), POCKET.patch, POCKET.grid
    assert torch.equal(DONE["time_and_frequency_swapped"](clips), right(clips).transpose(1, 2))
    before, after = (patchify(one, patch) for one in (right(clips), DONE["patches_frequency_major"](clips)))
    assert all(
        torch.equal(after[:, f * steps + t], before[:, t * rows + f]) for t in range(0, steps, 7) for f in range(rows)
    )
    tokens = torch.arange(12.0).reshape(1, 12, 1)
    wrong = DONE["tokens_frequency_major"](tokens, (4, 3)).reshape(3, 4)
    assert all(wrong[f, t] == t * 3 + f for t in range(4) for f in range(3))


def test_an_encoder_whose_numbers_of_patches_do_not_agree_refuses_swapped_axes():
    encoder = load_encoder("pocket-dasheng")
    swapped = DONE["time_and_frequency_swapped"](Sound(0.01 * noise(1, SAMPLES), encoder.geometry))
    with pytest.raises(InputError, match="expects 124 x 1"):
        encoded(encoder, swapped)
    assert encoded(load_encoder("pocket-eat"), swapped)["tokens"].shape == (1, 248, 128)


@pytest.mark.parametrize(
    ("name", "factor"), [("khz_8_as_16", 2), ("khz_22_as_16", 16 / 22.05), ("khz_44_as_16", 16 / 44.1)]
)
def test_a_rate_that_is_read_wrongly_moves_the_pitch(name, factor):
    found = DONE[name](tone(1_500.0))
    assert loudest(found) == pytest.approx(1_500.0 * factor, rel=0.04)
    floor = (np.log(LOG_FLOOR) + 5) / 2.9
    silent = torch.isclose(found[0, 260:], torch.tensor(floor, dtype=torch.float32)).all()
    assert silent.item() == (name == "khz_8_as_16")  # the second half


def test_a_source_of_8_khz_keeps_what_is_low_and_loses_what_is_high():
    low, high = (DONE["khz_8_source"](tone(hertz)) for hertz in (1_500.0, 6_000.0))
    assert loudest(low) == pytest.approx(1_500.0, rel=0.04)
    assert low.amax() - high.amax() > 3 and right(tone(6_000.0)).amax() > high.amax() + 3


def test_mel_bands_follow_the_scales_of_the_books():
    assert slaney_mel(np.array([0.0, 500.0, 1000.0, 6400.0])) == pytest.approx([0, 7.5, 15, 42])
    assert slaney_hertz(slaney_mel(np.array([30.0, 999.0, 1001.0, 7000.0]))) == pytest.approx([30, 999, 1001, 7000])
    clips, kaldi = sound(), mel_filters(64, 512, SAMPLE_RATE)
    for name, made in (
        ("amplitude_for_power", (power(clips).sqrt() @ kaldi).clamp_min(LOG_FLOOR).log()),
        ("no_emphasis", (power(clips, 0.0) @ kaldi + 1e-6).log()),
        ("log10_for_ln", torch.log10(clips.bank.exp())),
        ("decibel_for_ln", 10 * torch.log10(clips.bank.exp())),
    ):
        torch.testing.assert_close(2.9 * DONE[name](clips) - 5, made, atol=2e-4, rtol=1e-4)
    flat = 2.9 * (DONE["slaney_formula"](clips) - DONE["librosa_defaults"](clips))  # the heights of the triangles
    assert flat[0, :, 63].mean() > flat[0, :, 5].mean() + 1 > 3
    bright, ours = DONE["other_range"](tone(6_900.0))[0].mean(0), right(tone(6_900.0))[0].mean(0)
    assert bright.argmax() > ours.argmax()  # a narrower range: the same tone lies higher in it


def test_waveforms_are_scaled_clipped_and_shifted():
    clips, heard = sound(), sound().bank > np.log(LOG_FLOOR)  # no floor, and no filter without a bin
    louder = (DONE["int16_range"](clips) - right(clips))[heard]
    torch.testing.assert_close(louder, torch.full_like(louder, 2 * np.log(32_768) / 2.9), atol=1e-4, rtol=1e-4)
    quiet = replace(clips, audio=clips.audio / 10)
    louder = (DONE["clipped"](quiet) - right(quiet))[quiet.bank > -10]
    torch.testing.assert_close(louder, torch.full_like(louder, 2 * np.log(10) / 2.9), atol=1e-3, rtol=0)  # 20 dB
    loud = replace(clips, audio=clips.audio * 20)
    torch.testing.assert_close(2.9 * DONE["clipped"](loud) - 5, filter_bank((10 * loud.audio).clamp(-1, 1), POCKET))
    assert (DONE["clipped"](loud) < right(replace(loud, audio=10 * loud.audio)))[heard].float().mean() > 0.7


# ---- the table -----------------------------------------------------------------------------------------------------


def test_every_mistake_stands_once_in_the_table_with_all_that_is_needed():
    assert set(FAULTS) == set(DONE) - {SHORT}
    assert len({fault.title for fault in FAULTS.values()}) == len(FAULTS)
    for name, fault in FAULTS.items():
        assert all([fault.what, fault.notice, fault.avoid]) and fault.where in STAGES and fault.kind in KINDS
        assert len(fault.title) <= 28, name
        assert (fault.where == "behind the encoder") == (name in BEHIND)
    page = table_markdown()
    assert (
        all(fault.title in page for fault in FAULTS.values()) and len(page.splitlines()) == len(FAULTS) + len(KINDS) + 2
    )
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in page.splitlines()}) == 1


# ---- the stores ----------------------------------------------------------------------------------------------------


def test_mistakes_are_built_once_repaired_where_damaged_and_rebuilt_one_by_one(monkeypatch):
    counts, wanted = {"train": 3, "test": 2}, ["per_clip", "clipped", *BEHIND]
    assert len(build_faults([ENCODER], SINGLE, counts, wanted, 1)) == 4
    assert build_faults([ENCODER], SINGLE, counts, wanted, 1) == []
    folder = fault_folder(ENCODER, SINGLE, "train", 3, "clipped")
    assert json.loads((folder / "index.json").read_text())["complete"]
    before = load_fault(ENCODER, SINGLE, "train", 3, "clipped").tokens
    (folder / "shard-00000.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="missing, truncated or damaged.*run notebook 22"):
        load_fault(ENCODER, SINGLE, "train", 3, "clipped")
    (line,) = build_faults([ENCODER], SINGLE, counts, wanted, 1)
    assert "train / clipped" in line and "damaged" in line
    assert torch.equal(load_fault(ENCODER, SINGLE, "train", 3, "clipped").tokens, before)
    version = audit_stores.definition_version
    monkeypatch.setattr(
        audit_stores, "definition_version", lambda module, name: version(module, name) + "x" * (name == "clipped")
    )
    lines = build_faults([ENCODER], SINGLE, counts, wanted, 1)
    assert len(lines) == 2 and all("clipped: rebuilt because fault_code changed" in line for line in lines)


def test_stored_tokens_are_those_of_the_wrong_spectrogram_and_what_is_wrong_behind_is_not_stored():
    names = ["int16_range", "zeros_after_normalising", *BEHIND]
    build_faults([ENCODER], SINGLE, {"test": 3}, names, 1)
    build_store([ENCODER], SINGLE, {"test": 3}, 1)
    encoder, data = load_encoder(ENCODER), load_dataset(SINGLE)
    clips = sound_of(SINGLE, "test", range(3), encoder.geometry)
    assert clips.starts == tuple(round(data.events("test", clip)[0].onset * SAMPLE_RATE) for clip in range(3))
    for name in names[:2]:
        found = load_fault(ENCODER, SINGLE, "test", 3, name, "mean")
        assert torch.equal(found.tokens, encoder(DONE[name](clips)).tokens.half())
        assert torch.equal(found.cls, found.tokens.float().mean(1))
        assert np.array_equal(found.targets, data.targets("test", 3))
    stored, found = load_embeddings(ENCODER, SINGLE, "test", 3), load_fault(ENCODER, SINGLE, "test", 3, BEHIND[0])
    assert torch.equal(found.tokens[:, 5 * 31 + 7], stored.tokens[:, 7 * 8 + 5]) and torch.equal(found.cls, stored.cls)
    assert not fault_folder(ENCODER, SINGLE, "test", 3, BEHIND[0]).exists()


def test_what_is_not_there_is_an_error_that_says_what_to_do():
    with pytest.raises(InputError, match="with 'clipped' are not complete; run notebook 22"):
        load_fault(ENCODER, SINGLE, "train", 4, "clipped")
    with pytest.raises(InputError, match="Unknown mistake 'cliped'.*Did you mean 'clipped'"):
        build_faults([ENCODER], SINGLE, {"train": 2}, ["cliped"], 1)


def test_clips_are_cut_to_the_longest_event_but_not_beyond_five_seconds():
    assert short_seconds(SINGLE) == 1.0 and short_seconds("esc10-single") == 5.0
    assert SHORT in faults_on(SINGLE) and SHORT in faults_on("esc10-single")
    assert not set(SHORTENED) & set(faults_on(MANY))


def test_an_arm_depends_on_the_code_of_its_own_mistake_alone():
    seen = {}
    _collect("lib.audit_faults", "zeros_after_normalising", seen)
    assert {("lib.audit_faults", name) for name in ("Sound", "filter_bank", "normalised", "_short_bank")} <= set(seen)
    assert not {module for module, _ in seen} & {"lib.heads", "lib.audit_table", "lib.audit", "lib.profiles"}
    assert ("lib.audit_faults", "clipped") not in seen and ("lib.audit_faults", "DONE") not in seen
    versions = {name: feature_versions(make_arm(ENCODER, SINGLE, "linear", name))["features_code"] for name in DONE}
    assert len(set(versions.values())) == len(DONE)
    assert versions["clipped"] == definition_version("lib.audit_faults", "clipped")
    assert feature_versions(make_arm(ENCODER, SINGLE, "linear", RIGHT)) == {}
    assert all(f"audit {name}" in FEATURES for name in DONE)


# ---- traces --------------------------------------------------------------------------------------------------------

GRID = (8, 4)


def maps(clips=6, dim=16, seed=0):
    return noise(clips, *GRID, dim, seed=seed)


def trace(tokens):
    return trace_of(tokens.flatten(1, 2), GRID)


def test_variance_is_shared_out_among_clips_time_and_frequency():
    own = {
        "clips": noise(6, 1, 1, 16).expand(6, *GRID, 16),
        "time": noise(1, 8, 1, 16).expand(6, *GRID, 16),
        "rows": noise(1, 1, 4, 16).expand(6, *GRID, 16),
    }
    for name, tokens in own.items():
        found = trace(tokens + 1e-4 * maps())
        assert found[name] == pytest.approx(1, abs=1e-3)
        assert all(found[other] < 1e-3 for other in own if other != name)


def test_lengths_cosines_and_components_have_the_values_they_must():
    directions = torch.nn.functional.normalize(noise(2, 16), dim=-1)
    planar = (noise(6, *GRID, 2) @ directions) + 3 * directions[0]
    assert trace(planar)["pca"] == pytest.approx(1)
    assert trace(maps(dim=64))["pca"] < 0.2
    same = (directions[0] * 7).expand(6, *GRID, 16)
    found = trace(same + 1e-3 * maps())
    assert found["length"] == pytest.approx(7, abs=1e-2) and found["alike"] == pytest.approx(1, abs=1e-4)
    assert abs(trace(maps(dim=64))["alike"]) < 0.02


def test_neighbours_endings_and_upper_rows_say_where_clips_are_alike():
    own = noise(6, 1, 4, 16).expand(6, 8, 4, 16)  # what a row hears changes with the clip, not with time, but once
    late = torch.cat([own[:, :4], -own[:, 4:]], 1) + 0.1 * maps()
    late = late + 5 * noise(6, 1, 1, 16, seed=4) + 5 * noise(1, 8, 4, 16, seed=5)  # in common, and taken away
    assert trace(late)["next_time"] > 0.6 > 0.2 > trace(late)["next_row"]
    wrong = DONE["tokens_frequency_major"](late.flatten(1, 2), GRID)
    assert trace_of(wrong, GRID)["next_time"] < trace(late)["next_time"] - 0.3
    silent = maps()
    silent[:, -2:] = noise(2, 4, 16, seed=3)  # alike in all clips
    assert trace(silent)["ending"] == pytest.approx(0, abs=1e-9) and trace(maps())["ending"] > 0.5
    low = maps()
    low[:, :, 2:] = 0.5 * low[:, :, 2:]
    assert trace(low)["upper"] / trace(maps())["upper"] == pytest.approx(0.25)


def test_tokens_in_time_only_have_no_rows_and_other_shapes_are_refused():
    found = trace_of(noise(4, 8, 16), (8, 1))
    assert np.isnan([found["upper"], found["next_row"]]).all() and np.isfinite(found["next_time"])
    for tokens in (noise(4, 8, 16), noise(1, 32, 16), noise(32, 16)):
        with pytest.raises(InputError, match="two clips or more are expected, with N = 8 x 4"):
            trace_of(tokens, GRID)


def test_beside_the_right_tokens_a_cosine_is_one_minus_one_or_between():
    tokens, cls = noise(3, 8, 16), noise(3, 16)
    assert beside(2 * tokens, cls, tokens, cls) == pytest.approx({"cosine": 1, "cls": 1})
    assert beside(tokens, -cls, tokens, cls)["cls"] == pytest.approx(-1)


def test_groups_are_full_shards_or_all_there_is():
    assert [len(group) for group in groups_of(112)] == [32, 32, 32]
    assert [len(group) for group in groups_of(10)] == [10] and [group.start for group in groups_of(64)] == [0, 32]


def groups(values, datasets=("a", "b")):
    """Return groups in which `alike` has values by (dataset, fault), and all other numbers are healthy."""
    rows = []
    for dataset in datasets:
        for fault in dict.fromkeys(fault for _, fault in values):
            for split in ("val", "test") if fault == RIGHT else ("test",):
                for group in range(3):
                    for name in (*STATISTICS, *BESIDE):
                        healthy = 1.0 + 0.1 * group
                        value = values[dataset, fault][group] if name == "alike" else healthy
                        rows.append(("e", dataset, fault, split, group, name, value))
    return pd.DataFrame(rows, columns=["encoder", "dataset", "fault", "split", "group", "statistic", "value"])


HEALTHY = {("a", RIGHT): (0.0, 1.0, 2.0), ("b", RIGHT): (0.5, 1.0, 1.5)}


def test_a_trace_needs_all_groups_outside_of_the_widened_range_and_every_dataset():
    found = groups(
        HEALTHY
        | {("a", "clipped"): (3.1, 4.0, 5.0), ("b", "clipped"): (3.1, 4.0, 5.0)}  # the range is −1 to 3
        | {("a", "per_clip"): (2.9, 4.0, 5.0), ("b", "per_clip"): (-9.0, -8.0, -7.0)}
        | {("a", "int16_range"): (9.0, 9.0, 9.0), ("b", "int16_range"): (-9.0, -9.0, -9.0)}
    )
    table = trace_table(found)
    assert (table.loc[table["statistic"].isin(BESIDE), "way"] == 0).all()
    ours = table[table["statistic"] == "alike"].set_index(["dataset", "fault"])
    assert ours["healthy_low"].unique() == pytest.approx([-1]) and ours["healthy_high"].unique() == pytest.approx([3])
    assert ours["way"].to_dict() == {
        ("a", RIGHT): 0, ("b", RIGHT): 0, ("a", "clipped"): 1, ("b", "clipped"): 1, ("a", "per_clip"): 0,
        ("b", "per_clip"): -1, ("a", "int16_range"): 1, ("b", "int16_range"): -1,
    }  # fmt: skip
    assert ours.loc[("b", "per_clip"), "far"] == pytest.approx(-3.5) and ours.loc[("a", RIGHT), "far"] == 0
    assert steady(table, "e")["fault"].tolist() == ["clipped"]
    page = trace_to_mistake(table, "e")
    assert "*mean cosine of two tokens of a clip* above the healthy range | clipped (0.5) |" in page
    assert page.count("| none |") == 2 * len(STATISTICS) - 1
    assert audit.seen_by_tokens(table) == ["clipped", "int16_range"]


def test_clips_cut_short_are_held_against_healthy_ones_cut_short():
    rows = groups(HEALTHY | {(d, name): (9.0, 9.1, 9.2) for d in "ab" for name in (SHORT, "zeros_after_normalising")})
    table = trace_table(rows)
    assert (table.loc[table["fault"] == "zeros_after_normalising", "way"] == 0).all()


def test_a_mistake_is_recognised_by_the_other_dataset_alone():
    values = (
        HEALTHY | {(d, "clipped"): (9.0, 9.5, 10.0) for d in "ab"} | {(d, "per_clip"): (-9.0, -9.0, -9.0) for d in "ab"}
    )
    found = recognised(groups(values))
    assert set(found["fault"]) == {RIGHT, "clipped", "per_clip"} and (found["first"] == 1).all() and len(found) == 6
    mixed = recognised(groups(values | {("b", "clipped"): (-9.0, -9.0, 9.0)})).set_index(["dataset", "fault"])
    assert mixed.loc[("b", "clipped"), "first"] == pytest.approx(1 / 3)
    assert mixed.loc[("b", "clipped"), "third"] == 1  # there are only three
    known = trace_table(groups(values, ("a",)))
    near = recognise(dict.fromkeys(STATISTICS, 1.1) | {"alike": 9.5}, known)
    assert near.index[0] == "clipped" and near.iloc[0] < 0.1 < near.iloc[1]
    assert recognised(groups({key: v for key, v in values.items() if key[0] == "a"}, ("a",))).empty


# ---- the rule, and the words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "low", "high", "spread", "counts_as"),
    [
        (-3.0, -4.0, -2.0, 1.0, HARMS),
        (3.0, 2.0, 4.0, 1.0, HELPS),
        (-3.0, -7.0, 1.0, 1.0, OPEN),
        (-3.0, -4.0, -2.0, 3.5, OPEN),
        (0.0, 0.0, 0.0, 0.0, OPEN),
    ],
)
def test_a_mistake_harms_only_beyond_clips_and_seeds(effect, low, high, spread, counts_as):
    assert outcome(effect, low, high, spread) == counts_as


def effects(change, datasets=("ten-sounds", "short-sounds")):
    """Return a table of effects; `change` maps dataset, mistake and head to points."""
    rows = []
    for dataset in datasets:
        for fault in (RIGHT, *faults_on(dataset)):
            for place, head in enumerate(HEADS):
                base, effect = 50.0 + 10 * place, np.nan
                if fault in FAULTS:
                    effect = change(dataset, fault, head)
                ends = {
                    "difference": effect,
                    "difference_low": effect - 1,
                    "difference_high": effect + 1,
                    "spread": 0.5,
                }
                counts_as = outcome(effect, effect - 1, effect + 1, 0.5) if fault in FAULTS else ""
                mean = base + (effect if fault in FAULTS else 0)
                where = {"encoder": "pocket-eat", "dataset": dataset, "fault": fault, "head": head}
                rows.append(where | {"mean": mean, **ends, "outcome": counts_as})
    table = pd.DataFrame(rows)
    table.attrs["note"] = "a test"
    return table


def traces(seen):
    """Return a table of traces in which these mistakes leave the healthy range."""
    rows = [
        (
            "pocket-eat",
            dataset,
            fault,
            name,
            0.5,
            0.0,
            1.0,
            int(fault in seen and name == "alike"),
            2.0 * (fault in seen),
        )
        for dataset in ("ten-sounds", "short-sounds")
        for fault in (RIGHT, *faults_on(dataset))
        for name in (*STATISTICS, *BESIDE)
    ]
    names = ["encoder", "dataset", "fault", "statistic", "value", "healthy_low", "healthy_high", "way", "far"]
    table = pd.DataFrame(rows, columns=names)
    spread = np.arange(len(table)) / len(table)
    table["value"] = np.where(table["statistic"] == "cosine", spread, table["value"])
    table.attrs["note"] = "a test"
    return table


def known(share=0.5):
    rows = [("pocket-eat", "a", "b", fault, expected, share, share) for fault, expected in
            ((RIGHT, RIGHT), ("dc_offset", RIGHT), ("per_clip", "per_clip"))]  # fmt: skip
    return pd.DataFrame(rows, columns=["encoder", "known", "dataset", "fault", "expected", "first", "third"])


def sentences(text):
    return re.split(r"(?<=[.?!])\s+(?=[A-Z])", text)


def test_a_verdict_has_two_sentences_and_counts_what_harms_whom():
    table = effects(lambda d, f, h: -8.0 - (f == "int16_range") if h == "linear" or f == "int16_range" else 0.2)
    text = verdict(table, traces(["int16_range", "clipped"]))
    assert len(sentences(text)) == 2
    assert text.startswith(
        f"Of {len(FAULTS)} mistakes {len(FAULTS)} harm linear, 1 harm mhca and 1 harm protobin wherever"
    )
    assert "*samples up to ±32,768*, −9.0 points of mAP for linear on ten-sounds (−10.0 to −8.0)" in text
    assert (
        f"among them 2 of the {len(FAULTS)} that harm" in text
        and "constants of another corpus, not normalised" in sentences(text)[1]
    )


@pytest.mark.parametrize("effect", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("seen", [[], list(FAULTS)])
def test_words_hold_whatever_came_out(effect, seen):
    table = effects(lambda d, f, h: effect + 0.01 * len(f))
    text = verdict(table, traces(seen))
    count = len(FAULTS) if effect < 0 else 0
    assert len(sentences(text)) == 2 and "nan" not in text
    assert f"{count} harm linear" in text and f"{len(FAULTS) - count} cannot be said to harm" in text
    assert f"By its tokens alone {len(seen)} of the {len(FAULTS)}" in text
    further = further_words(table, traces(seen), known())
    assert all("nan" not in line for line in further) and "50%" in further[-3] and len(further) == 5 + 2
    assert f"{'0' if effect >= 0 else (20 * 2 + 2) * 3} harmful" in further[-1]
    assert "no second dataset" in further_words(table, traces(seen), known().iloc[:0])[-3]


def test_what_harms_in_one_place_does_not_harm_everywhere():
    table = effects(lambda d, f, h: -5.0 if d == "ten-sounds" and f == "clipped" else 0.1)
    found = judged(table).set_index(["fault", "head"])
    assert found.loc[("clipped", "mhca"), ["harms", "places"]].tolist() == [1, 2] and not found["everywhere"].any()
    assert found.loc[("zeros_after_normalising", "mhca"), "places"] == 1
    assert "1 that harm some head somewhere; what harms and leaves no such trace: clipped." in verdict(
        table, traces([])
    )


def test_the_order_of_heads_is_followed_through_the_mistakes():
    table = effects(lambda d, f, h: -30.0 if f == "clipped" and h == "protobin" and d == "ten-sounds" else -1.0)
    lines = further_words(table, traces([]), known())[1:3]
    assert "protobin > mhca > linear, and it stays so under 19 of 20 mistakes; not under: clipped." in lines[0]
    assert lines[1].endswith("under 22 of 22 mistakes; not under: none.")


def test_a_cosine_that_says_nothing_is_said_to_be_undefined():
    lines = further_words(effects(lambda d, f, h: -1.0), traces([]), known())
    assert "linear undefined, mhca undefined and protobin undefined" in lines[3]
    mixed = further_words(effects(lambda d, f, h: float(list(FAULTS).index(f))), traces([]), known())
    assert "undefined" not in mixed[3] and "DC offset* moves a score by 21.0 points at most" in mixed[5]


# ---- the whole way -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smoke", "pocket", "esc10"])
def test_every_profile_has_an_arm_for_each_head_and_mistake_and_one_without(profile):
    study = audit.study_of(profile)
    every = audit.arms(study)
    assert len({arm.key for arm in every.values()}) == len(every) == 3 * (21 + 24) * len(study.encoders)
    assert all(arm.metric == "mAP" and arm.features in FEATURES for arm in every.values())
    assert {load_dataset(name).manifest["task"] for name in study.datasets} == {"multi-label", "single-label"}
    many, single = (sum(study.clips_of(name).values()) for name in study.datasets)
    passes = (19 * many + 22 * single) * len(study.encoders)
    words = audit.plan_in_words(study)
    assert f"In all {passes:,} passes" in words and f"{passes * 248 * 128 * 2 / 1e9:.1f} GB" in words
    assert words.startswith(f"Of a clip that is cut short this much is left: {5 if profile == 'esc10' else 1} s on")


def test_a_study_runs_writes_its_tables_and_draws_them(monkeypatch):
    study = load_profile("smoke/audit")
    sizes = ({"train": 8, "val": 6, "test": 8}, {"train": 8, "val": 6, "test": 10})
    groups = tuple(replace(group, clips=clips) for group, clips in zip(study.groups, sizes, strict=True))
    study = replace(study, encoders=(ENCODER,), shown=ENCODER, groups=groups)
    for module in ("audit", "results", "comparisons"):
        monkeypatch.setattr(f"lib.{module}.load_profile", lambda name: study)
    few = {MANY: ["int16_range", *BEHIND], SINGLE: ["int16_range", *BEHIND, *SHORTENED]}
    monkeypatch.setattr(audit, "faults_on", lambda name: few[name])
    for module in ("audit", "plots_audit"):
        monkeypatch.setattr(f"lib.{module}.HEADS", ("linear", "linpre"))
    monkeypatch.setattr("lib.plots_audit.SHIFT", {"linear": -0.2, "linpre": 0.2})
    ran = audit.run_audit("smoke", workers=1, show=False)
    assert len(ran) == len(set(ran)) == 2 * (3 + 6)
    assert audit.run_audit("smoke", workers=1, show=False) == []
    tables = audit.write_tables("smoke", workers=1)
    table = tables["audit"].set_index(["dataset", "fault", "head"])
    assert table.loc[(SINGLE, "zeros_after_normalising", "linear"), "held_against"] == SHORT
    for name in (RIGHT, "int16_range"):
        assert table.loc[(MANY, name, "linear"), "accuracy"] != table.loc[(MANY, name, "linear"), "accuracy"]  # NaN
    row = table.loc[(SINGLE, "int16_range", "linpre")]
    assert row["difference"] == pytest.approx(row["mean"] - table.loc[(SINGLE, RIGHT, "linpre"), "mean"], abs=1e-3)
    assert 0 <= row["accuracy"] <= 100
    blind = table.loc[(SINGLE, BEHIND[0], "linear"), "difference"]  # linear reads the mean token
    assert blind == pytest.approx(0, abs=1e-6)
    traces = tables["audit_traces"].set_index(["dataset", "fault", "statistic"])["value"]
    assert traces[MANY, RIGHT, "cosine"] == pytest.approx(1) and traces[SINGLE, SHORT, "cosine"] < 0.99
    assert traces[MANY, BEHIND[0], "length"] == pytest.approx(traces[MANY, RIGHT, "length"], rel=1e-5)
    assert set(tables["audit_recognised"]["fault"]) == {RIGHT, "int16_range", *BEHIND}
    assert read_table(figure_root() / "smoke" / "audit_traces.csv").attrs["note"].startswith("profile smoke")
    assert len(sentences(verdict(tables["audit"], tables["audit_traces"]))) == 2
    heard = pictures(ENCODER, SINGLE, "test", 0)
    assert list(heard) == [RIGHT, *(name for name in DONE if name not in BEHIND)]
    for figure in (plot_scores(tables["audit"]), plot_traces(tables["audit_traces"]), plot_heard(heard)):
        figure.draw_without_rendering()
    monkeypatch.setattr(audit_traces, "_measure_split", None)  # what was measured is read
    assert len(audit_traces.measure(study, few, 1)) > 0


def test_pictures_fill_markers_that_harm_and_mark_numbers_that_leave_the_range():
    table = effects(lambda d, f, h: -8.0 if f == "clipped" else 8.0 if f == "per_clip" else 0.0)
    figure = plot_scores(table)
    panel = figure.axes[0]
    dots = [line for line in panel.lines if len(line.get_xdata()) == 1]
    assert sum(dot.get_markerfacecolor() not in ("white", "none") for dot in dots) == 3  # a head each
    assert sum(dot.get_markerfacecolor() == "none" for dot in dots) == 3
    assert {title_of(name) for name in FAULTS} <= {label.get_text() for label in panel.get_yticklabels()}
    arrows = [text.get_text() for axes in plot_traces(traces(["clipped"])).axes for text in axes.texts]
    assert arrows.count("▲") == 2 and arrows.count("▼") == 0
