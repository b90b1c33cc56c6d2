"""Localisation: which token lies in which event, maps that add up, measures whose answer is known, the table, words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from lib import localisation
from lib.audio import SAMPLE_RATE, mel_centres
from lib.data.mixer import Event
from lib.encoders import load_encoder
from lib.encoders.pocket import FULL_BAND, POCKET
from lib.errors import InputError
from lib.figures import read_table
from lib.heads import build_head
from lib.localisation import (
    ALL,
    CONTRASTS,
    MEASURES,
    best_threshold,
    clip_weights,
    frame_map,
    heads_of,
    heard,
    hits,
    iou,
    map_measures,
    mean_of_pairs,
    studied,
    write_localisation,
)
from lib.localisation_maps import (
    BY_FRAME,
    MAPS,
    REPEATED,
    TRUE_TAGS,
    active_frames,
    class_map,
    covered,
    energy_maps,
    event_cells,
    frame_logits,
    frame_scores,
    mhca_attention,
    mhca_contributions,
    overlap,
    pairs_of,
)
from lib.metrics import bootstrap_draws, mean_average_precision
from lib.notebooks import declared_parameters, read_source
from lib.paths import NOTEBOOKS, figure_root
from lib.plots_localisation import contrasts_markdown, covers, in_words, plot_clip, plot_localisation, plot_traits
from lib.store import Embeddings

MELS = mel_centres(64)
GRID, DIM, CLASSES, J = (4, 2), 16, 3, 2
N = GRID[0] * GRID[1]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def event(label, onset, offset, low=float("nan"), high=float("nan"), snr=10.0):
    return Event(label, f"{label}:0", onset, offset, snr, low, high)


def trained(name):
    """Build a head whose every weight, and every running statistic, is somewhere else than at its start."""
    head = build_head(name, DIM, CLASSES, GRID, J).eval()
    with torch.no_grad():
        for number, value in enumerate([*head.parameters(), *head.buffers()]):
            if value.is_floating_point():
                value.copy_(value.abs() * 0.3 + noise(*value.shape, seed=number).abs() + 0.1)
    return head


def running(head):
    return head.token_norm.running_mean, head.token_norm.running_var


# ---- what is true ------------------------------------------------------------------------------------------------


def test_a_cell_lies_in_an_interval_if_half_of_the_shorter_is_shared():
    assert covered(1.4, 3.5, 5, 1.0).tolist() == [False, True, True, True, False]  # 0.6, 1 and 0.5 of a cell
    assert covered(1.6, 3.4, 5, 1.0).tolist() == [False, False, True, False, False]  # 0.4 at either end
    assert covered(2.1, 2.3, 5, 1.0).tolist() == [False, False, True, False, False]  # far shorter than a cell
    assert covered(1.9, 2.2, 5, 1.0).tolist() == [False, False, True, False, False]  # two thirds of it
    assert covered(1.5, 2.5, 5, 1.0).tolist() == [False, True, True, False, False]  # as long as a cell


@pytest.mark.parametrize("geometry", [POCKET, FULL_BAND])
def test_no_event_is_lost_between_the_cells(geometry):
    rng = np.random.default_rng(0)
    for _ in range(300):
        start, low = rng.uniform(0, 9.98), rng.uniform(20, 7900)
        found = event_cells(event("dog", start, rng.uniform(start + 0.01, 10), low, rng.uniform(low, 8000)), geometry)
        assert found.shape == geometry.grid and found.any()


def test_the_box_of_an_event_is_the_patches_that_its_time_and_its_mel_bands_fill():
    box = event_cells(event("dog", 2.0, 4.0, MELS[16], MELS[31]), POCKET)  # patches of 0.32 s and 8 bands
    wanted = np.zeros((31, 8), dtype=bool)
    wanted[6:13, 2:4] = True  # 1.92 to 4.16 s, bands 16 to 31
    np.testing.assert_array_equal(box, wanted)
    assert event_cells(event("dog", 2.0, 4.0), POCKET).sum() == 7 * 8  # unknown band: all of them
    narrow = event_cells(event("dog", 2.0, 4.0, MELS[8], MELS[8]), FULL_BAND)  # patches of 0.08 s and all bands
    np.testing.assert_array_equal(np.flatnonzero(narrow), np.arange(25, 50))


def test_a_tone_is_loudest_in_the_cells_of_its_own_box():
    """Time and frequency of a token, from the waveform to the map: a wrong order of the tokens would miss the box."""
    encoder, rng = load_encoder("pocket-eat"), np.random.default_rng(0)
    for start, hertz in ((1.3, MELS[12]), (6.1, MELS[28]), (8.4, MELS[52])):
        audio = 1e-3 * rng.standard_normal(10 * SAMPLE_RATE)
        span = slice(round(start * SAMPLE_RATE), round((start + 1) * SAMPLE_RATE))
        audio[span] += 0.3 * np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
        box = event_cells(event("tone", start, start + 1, hertz, hertz), POCKET)
        for found in energy_maps(encoder.spectrogram(audio), POCKET):
            assert found.shape == (1, 31, 8)
            assert hits(found.numpy(), box[None]) == 1


def test_overlap_counts_each_moment_once_and_only_other_classes():
    dog = event("dog", 2.0, 4.0)
    others = [event("cat", 1.0, 2.5), event("owl", 2.2, 3.0), event("dog", 3.0, 4.0), event("cat", 3.5, 9.0)]
    assert overlap(dog, [dog, *others]) == pytest.approx(0.75)
    assert overlap(dog, [dog]) == 0 and overlap(dog, [event("cat", 0, 10), event("owl", 1, 3)]) == 1


def test_pairs_are_clips_with_their_classes_and_an_event_s_traits_are_the_pair_s_if_it_is_alone():
    clips = [(event("cat", 1, 2, snr=3.0), event("dog", 1.5, 4)), (event("dog", 0, 1), event("dog", 5, 6))]
    pairs = pairs_of(clips, ["dog", "cat"], POCKET)
    assert pairs.clip.tolist() == [0, 0, 1] and pairs.label.tolist() == [0, 1, 0]
    np.testing.assert_allclose(pairs.traits["duration"], [2.5, 1, np.nan])
    np.testing.assert_allclose(pairs.traits["snr"], [10, 3, np.nan])
    np.testing.assert_allclose(pairs.traits["overlap"], [0.2, 0.5, np.nan])
    both = pairs.inside[0] | pairs.inside[1]
    assert (pairs.anything[:2] == both).all() and pairs.inside[2].any(1).sum() == 6  # 3 and 3 patches of 0.32 s
    active = active_frames(clips, ["dog", "cat"], 31)
    np.testing.assert_array_equal(active[1, :, 0], pairs.inside[2].any(1))


# ---- maps --------------------------------------------------------------------------------------------------------


def test_contributions_of_mhca_s_tokens_add_up_to_its_logits():
    head, tokens = trained("mhca"), noise(5, N, DIM)
    with torch.no_grad():
        parts, (attention, _) = mhca_contributions(head, tokens), mhca_attention(head, tokens)
        torch.testing.assert_close(parts.sum(2) + head.classifier.bias, head(tokens, None), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(attention.sum(2), torch.ones(5, 8))
        normed = torch.nn.functional.batch_norm(tokens.mT, *running(head), eps=1e-6).mT
        wanted = 0
        for part in torch.arange(DIM).chunk(8):  # by the definition, a head of attention at a time and nothing folded
            key, value = normed @ head.key.weight[part].T, normed @ head.value.weight[part].T  # (B, N, d) each
            weight = (key @ head.query[part] / len(part) ** 0.5).softmax(1)  # (B, N)
            wanted = wanted + weight[..., None] * (value @ head.classifier.weight[:, part].T)  # (B, N, C)
        torch.testing.assert_close(parts, wanted.mT, rtol=1e-4, atol=1e-3)
    assert class_map(head, tokens).shape == (5, CLASSES, *GRID)


def test_evidence_lies_at_the_token_that_says_it():
    head, tokens = trained("protobin"), noise(1, N, DIM)
    with torch.no_grad():
        before = class_map(head, tokens)
        tokens[0, 3] = noise(DIM, seed=9)  # t = 1, f = 1
        changed = (class_map(head, tokens) != before).any(1)[0]  # (S_t, S_f)
    assert changed.nonzero().tolist() == [[1, 1]]


@pytest.mark.parametrize("name", ["protobin", "proto", "mhca"])
def test_the_logits_of_a_frame_are_the_head_s_own_on_that_frame_alone(name):
    head, tokens = trained(name), noise(3, N, DIM)
    with torch.no_grad():
        frames = frame_logits(head, tokens, 1)
        assert frames.shape == (3, GRID[0], CLASSES)
        torch.testing.assert_close(frame_logits(head, tokens, GRID[0])[:, 0], head(tokens, None))
        again = tokens.unflatten(1, GRID)[:, 2:3].expand(3, *GRID, DIM).flatten(1, 2)  # frame 2 and nothing else
        torch.testing.assert_close(frames[:, 2], head(again, None))


def test_frames_of_prototypes_take_the_maximum_over_frequency_only():
    head, tokens = trained("protobin"), noise(3, N, DIM)
    with torch.no_grad():
        wanted = head.classifier(head.similarity_map(tokens).amax(3).mT)  # (B, K, S_t, S_f) → (B, S_t, K) → (B, S_t, C)
        torch.testing.assert_close(frame_logits(head, tokens, 1), wanted)


def test_scores_of_frames_hold_the_clip_s_own_repeated_and_contributions_that_add_up():
    heads, tokens = {name: trained(name) for name in ("protobin", "mhca")}, noise(40, N, DIM).half()
    active = (noise(40, 2, CLASSES) > 0).double().numpy()
    scores = frame_scores(heads, tokens, 2, active)
    assert set(scores) == {"protobin", "protobin" + REPEATED, "mhca", BY_FRAME, "mhca" + REPEATED, TRUE_TAGS}
    assert all(each.shape == (40, 2, CLASSES) for each in scores.values())
    with torch.no_grad():
        clip, bias = heads["mhca"](tokens, None).numpy(), heads["mhca"].classifier.bias.numpy()
    for frame in (0, 1):
        np.testing.assert_allclose(scores["mhca" + REPEATED][:, frame], clip, rtol=1e-5)
    np.testing.assert_allclose((scores["mhca"] - bias).sum(1) + bias, clip, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(scores[TRUE_TAGS][:, 1], active.max(1))


# ---- measures ----------------------------------------------------------------------------------------------------


def test_pointing_and_iou_on_maps_that_can_be_counted():
    inside = np.zeros((3, 2, 4), dtype=bool)
    inside[:, 0, :2] = True
    maps = np.array([inside[0] * 1.0, 1.0 - inside[0], np.arange(8.0).reshape(2, 4)[::-1, ::-1]])
    assert hits(maps, inside).tolist() == [1, 0, 1]
    np.testing.assert_allclose(iou(maps, inside, 0.5), [1, 0, 0.5])
    np.testing.assert_allclose(iou(maps, inside, 0.0), 2 / 8)  # on everywhere: the share of cells
    np.testing.assert_allclose(iou(5 - 3 * maps, inside, 0.5)[:2], [0, 1])
    np.testing.assert_allclose(iou(np.ones((1, 2, 4)), inside[:1], 0.9), 2 / 8)  # a flat map says nothing
    graded = np.where(inside, [[0.9, 0.7, 0.3, 0.0]], [[0.5, 0.3, 0.2, 0.0]])[:1]
    threshold = best_threshold(graded, inside[:1])
    assert 0.5 < threshold * 0.9 <= 0.7 and iou(graded, inside[:1], threshold) == 1


def test_the_threshold_comes_from_validation_and_each_bin_holds_its_own_pairs():
    clips = [(event("dog", 0, 0.5),), (event("dog", 0, 5),), (event("dog", 0, 5),)]
    pairs = pairs_of(clips, ["dog"], POCKET)
    maps = pairs.inside * 0.5
    maps[:, 30, 0] = 1.0  # the peak is elsewhere: pointing misses, and from 0.52 on nothing of the event is left
    weights = np.ones((3, 1))
    good = map_measures("x", {"val": maps, "test": maps}, {"val": pairs, "test": pairs}, weights)
    assert good["x", "iou", ALL, ALL][0][0] > 90 and good["x", "pointing", ALL, ALL][0][0] == 0
    high = np.where(pairs.inside, 1.0, 0.9)
    high[:, 15:] = 0  # on validation only a threshold above 0.9 tells events from the rest
    other = map_measures("x", {"val": high, "test": maps}, {"val": pairs, "test": pairs}, weights)
    assert other["x", "iou", ALL, ALL][0][0] < 1
    assert good["x", "iou", "duration", "< 0.8 s"][2] == 1 and good["x", "iou", "duration", "≥ 3 s"][2] == 2
    assert ("x", "iou", "duration", "2–3") not in good
    share = pairs.inside.mean((1, 2))
    assert good["x", "pointing", ALL, ALL][1] == pytest.approx(100 * share.mean())
    assert good["x", "pointing", "duration", "≥ 3 s"][1] == pytest.approx(100 * share[1])


def test_tokens_that_span_all_bands_are_asked_in_time_alone():
    pairs = pairs_of([(event("dog", 1, 3, 500, 900),)], ["dog"], FULL_BAND)
    both = {"val": pairs.inside * 1.0, "test": pairs.inside * 1.0}
    found = map_measures("x", both, {"val": pairs, "test": pairs}, np.ones((1, 1)))
    assert {key[1] for key in found} == {"pointing_time", "iou_time"}
    assert all(found[key][0] == 100 for key in found)


def test_pairs_and_frames_weigh_what_their_clips_do():
    rng = np.random.default_rng(0)
    weights = np.array([[1, 0, 2], [1, 3, 0], [1, 1, 0], [1, 0, 0]])
    values, clip = rng.random(7), np.array([0, 0, 1, 2, 2, 2, 3])
    scores, active = rng.random((4, 5, 2)), (rng.random((4, 5, 2)) < 0.5).astype(float)
    for at in range(3):
        copies = np.repeat(np.arange(4), weights[:, at])
        wanted = np.concatenate([values[clip == one] for one in copies]).mean()
        assert mean_of_pairs(values, clip, weights)[at] == pytest.approx(wanted)
        wanted = mean_average_precision(*(each[copies].reshape(-1, 2) for each in (scores, active))).value
        assert frame_map(scores, active, weights)[at] == pytest.approx(wanted)
    assert np.isnan(mean_of_pairs(values[:2], clip[:2], weights[:, 1:2])).all()  # nothing drawn


def test_draws_are_those_of_every_other_interval():
    """With one pair a clip, hits are accuracy: the draws must be the same, sources included."""
    clips, rng = 30, np.random.default_rng(1)
    correct = rng.random(clips) < 0.6
    targets = np.eye(2)[np.zeros(clips, dtype=int)]
    scores = np.where(correct[:, None], [1.0, 0.0], [0.0, 1.0])
    sources = [(f"seed {number % 5}",) for number in range(clips)]
    wanted = bootstrap_draws(scores, targets, sources, "accuracy", 50, seed=3)
    found = mean_of_pairs(correct.astype(float), np.arange(clips), clip_weights(clips, sources, 50, 3))
    np.testing.assert_allclose(found, [wanted.value, *wanted.drawn])


# ---- of a profile ------------------------------------------------------------------------------------------------


def few(clips=6):
    """Shrink the smoke profile to a few clips."""
    settings = studied("smoke")
    group = replace(settings.groups[0], clips={"train": clips, "val": clips, "test": clips})
    return replace(settings, groups=(group,), example=2)


@pytest.fixture
def written(monkeypatch):
    """The tables of a few clips of smoke, with heads and tokens that were never trained."""
    settings, classes = few(), 16
    encoder = load_encoder("pocket-eat")

    def untrained(profile, dataset, name):
        return {head: build_head(head, 128, classes, encoder.grid, 2).eval() for head in localisation.READ}

    def tokens(name, dataset, split, count):
        spectrograms, _ = heard(settings, dataset, split, encoder)
        with torch.inference_mode():
            return Embeddings(encoder(spectrograms).tokens.half(), None, None, encoder.grid)

    monkeypatch.setattr(localisation, "studied", lambda name: settings)
    monkeypatch.setattr(localisation, "heads_of", untrained)
    monkeypatch.setattr(localisation, "load_embeddings", tokens)
    return write_localisation("smoke", workers=1)


def test_the_tables_hold_every_map_and_measure_and_all_pictures_and_words_are_made_of_them(written):
    table, clip = written
    pd.testing.assert_frame_equal(table, read_table(figure_root() / "smoke" / "localisation.csv"))
    plain = table[table["against"].isna() & (table["by"] == ALL) & (table["encoder"] == ALL)]
    for measure in MEASURES:
        heads = {TRUE_TAGS, BY_FRAME, *(h for n in localisation.READ for h in (n, n + REPEATED))}
        found = plain[(plain["measure"] == measure) & (plain["dataset"] == "soundscapes")]
        assert set(found["head"]) == (heads if measure == "frame_map" else set(MAPS))
        assert found["value"].between(0, 100).all() and (found["low"] <= found["high"]).all()
        assert found["chance"].nunique() == 1  # that of the events, whoever points
    keys = ["dataset", "encoder", "measure", "by", "bin"]
    assert not table.duplicated([*keys, "head", "against"]).any()
    values = plain.set_index(["dataset", "measure", "head"])["value"]
    for measure, contrasts in CONTRASTS.items():
        for head, against in contrasts:
            rows = table[(table["head"] == head) & (table["against"] == against) & (table["measure"] == measure)]
            assert len(rows) == 4  # the encoder and all, the dataset and all
            wanted = values["soundscapes", measure, head] - values["soundscapes", measure, against]
            np.testing.assert_allclose(rows["value"], wanted, atol=1e-3)
    assert len(in_words(table)) == 2 and "no [cls]" not in covers(table)
    for figure in (plot_localisation(table), plot_traits(table), plot_clip(clip)):
        assert isinstance(figure, Figure)
        figure.draw_without_rendering()
    assert contrasts_markdown(table, "pointing").count("\n") == 1 + 2 * 6


def test_scenes_are_rendered_once_and_read_back_as_they_were():
    settings, encoder = few(3), load_encoder("pocket-eat")
    first = heard(settings, "soundscapes", "test", encoder)
    again = heard(settings, "soundscapes", "test", encoder)
    assert first[1] == again[1] and torch.equal(first[0], again[0])
    scene = localisation.load_dataset("soundscapes").scene("test", 1)
    assert first[1][1] == scene.events
    torch.testing.assert_close(first[0][1:2], encoder.spectrogram(scene.audio))


def made_of(monkeypatch, numbers, lift=None):
    """Tables in which an encoder's value is as given: (dataset, encoder, head) → percent, with draws around it."""
    names = {"a": "pocket-eat", "b": "pocket-beats"}
    settings = replace(
        studied("pocket"), encoders=tuple(names.values()), groups=tuple(studied("pocket").groups), bootstrap_draws=200
    )
    monkeypatch.setattr(localisation, "studied", lambda name: settings)
    monkeypatch.setattr(localisation, "keep_scenes", lambda *task: None)

    def measured(profile, dataset, encoder):
        number = settings.datasets.index(dataset)
        shared = np.append(0, np.random.default_rng(number).standard_normal(200))
        found, raised = {}, np.append(0, np.ones(200))
        for (where, who, head), value in numbers.items():
            if (where, names[who]) == (number, encoder):
                own = np.append(0, np.random.default_rng(hash_of(head)).standard_normal(200))
                for measure in ("pointing", "pointing_any", "iou", "frame_map"):
                    found[head, measure, ALL, ALL] = (
                        value + raised * (lift or {}).get(head, 0.0) + 5 * shared + 0.5 * own,
                        10.0,
                        100,
                    )
        return dataset, encoder, found

    monkeypatch.setattr(localisation, "measure", measured)
    table = localisation.localisation("pocket", workers=1)
    return table.replace("", np.nan)  # as it reads back


def test_a_lift_of_the_draws_moves_no_difference(monkeypatch):
    """Frames are lifted by resampling, a repeated score is not: the interval stays around the difference."""
    plain = made_of(monkeypatch, numbers())
    lifted = made_of(monkeypatch, numbers(), lift={"protobin": 9.0})
    pd.testing.assert_frame_equal(plain, lifted)


def hash_of(text):
    return sum(map(ord, text))


def numbers(**heads):
    """The same for both datasets and encoders, but for [cls], which one encoder lacks."""
    own = {
        "protobin" + REPEATED: 20.0,
        "mhca": 30.0,
        "mhca attention": 20.0,
        "energy": 25.0,
        "rise": 26.0,
        TRUE_TAGS: 28.0,
    }
    own |= {"protobin": 40.0, "proto": 41.0} | {name.replace("_", " "): value for name, value in heads.items()}
    every = {(at, who, head): value for head, value in own.items() for at in (0, 1) for who in "ab"}
    return every | {(at, "a", "cls attention"): 39.8 for at in (0, 1)}


def test_means_and_differences_are_over_the_encoders_that_have_both(monkeypatch):
    values = numbers() | {(0, "a", "protobin"): 50.0, (1, "b", "protobin"): 46.0}
    table = made_of(monkeypatch, values)
    table = table[(table["measure"] == "pointing") & (table["encoder"] == ALL)]
    rows = table.set_index(["dataset", "head", "against"])

    def value(dataset, head, against=np.nan):
        return rows.loc[(dataset, head, against)]["value"].item()

    assert value("many-sounds", "protobin") == pytest.approx(45.0)
    assert value("ten-sounds", "protobin") == pytest.approx(43.0)
    assert value(ALL, "protobin") == pytest.approx(44.0)
    assert value("many-sounds", "protobin", "cls attention") == pytest.approx(50 - 39.8)  # "b" has no [cls]
    assert value(ALL, "protobin", "mhca attention") == pytest.approx(24.0)
    found = rows.loc[(ALL, "protobin", "energy")]
    assert found["high"] - found["low"] < 4 < 10  # paired: what both share does not count
    assert found["n"] == 200


def test_words_follow_the_intervals_whatever_they_say(monkeypatch):
    finds, frames = in_words(made_of(monkeypatch, numbers(energy=60.0)))
    assert "protobin is clearly better than" in finds and "clearly worse than plain energy −20.0" in finds
    assert "not clearly apart from the attention of [cls] +0.2" in finds
    assert "says when, not only what" in frames and "more than what the true tags" in frames
    _, frames = in_words(made_of(monkeypatch, numbers(protobin=15.0)))
    assert "loses more than" in frames and "less than what the true tags" in frames and "not enough" in frames
    _, frames = in_words(made_of(monkeypatch, numbers(protobin=28.1)))
    assert "not clearly apart from what the true tags" in frames and "first step" in frames
    finds, frames = in_words(made_of(monkeypatch, numbers() | {(1, who, TRUE_TAGS): 45.0 for who in "ab"}))
    assert "but −5.0" in frames and "on Ten urban sounds" in frames and "depends on the data" in frames
    assert ", but" not in finds
    without = {key: value for key, value in numbers().items() if key[2] != "protobin"}
    assert all("not measured" in words for words in in_words(made_of(monkeypatch, without)))


def test_missing_cells_say_which_notebook_makes_them():
    with pytest.raises(InputError, match="run notebooks 02"):
        heads_of(studied("smoke"), "soundscapes", "pocket-eat")
    with pytest.raises(InputError, match="no data in profile 'encoders'"):
        studied("encoders")


def test_recordings_have_known_times_and_measured_bands(recordings):
    _, clips = heard(replace(studied("esc10"), groups=(few_recorded(),)), "esc10-soundscapes", "test", encoder_of())
    for number, events in enumerate(clips):
        planned = localisation.load_dataset("esc10-soundscapes").events("test", number)
        assert [each.onset for each in events] == [each.onset for each in planned]
        assert all(0 < each.low_hz <= each.high_hz for each in events)


def few_recorded():
    return replace(studied("esc10").groups[0], clips={"train": 2, "val": 2, "test": 2})


def encoder_of():
    return load_encoder("pocket-eat")


def test_the_notebook_takes_a_profile_and_nothing_else():
    source = NOTEBOOKS / "17_where_is_it.py"
    assert declared_parameters(read_source(source), source.stem) == {"profile"}
