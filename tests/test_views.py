"""Views of training clips: what is masked and mixed, what is stored, that conditions train alike, and the words."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lib import view_stores, views
from lib.data.datasets import load_dataset
from lib.encoders import load_encoder
from lib.errors import InputError
from lib.figures import read_table
from lib.paths import figure_root, scratch
from lib.plots_views import plot_gains, plot_leads, plot_variants, plot_views
from lib.profiles import load_profile
from lib.provenance import _collect
from lib.search import base_run
from lib.store import build_store, load_embeddings, usable_audio
from lib.studies import STUDIES
from lib.view_stores import (
    LIVE,
    MIXUP,
    SLOTS,
    Masking,
    View,
    augmented,
    build_views,
    live,
    load_view,
    mask,
    pictures,
    training_clips,
    view_folder,
    views_read,
)
from lib.views import CHANGE, CONDITIONS, GAIN, HEADS_COMPARED, LEAD, LEADS, VARIANTS, Place, make_arm, means_of
from lib.views_in_words import beside_the_benchmark, in_words, storage_in_words

FEW, MANY, ENCODER = "forest-few-shot", "soundscapes", "log-mel"  # log-mel costs nothing to run
OFF = Masking(gain_db=(0.0, 0.0), time_masks=0, band_masks=0)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- masks ---------------------------------------------------------------------------------------------------------


def test_without_masks_and_gain_a_spectrogram_is_rolled_in_time_and_nothing_else():
    picture = noise(50, 8)
    before = picture.clone()
    found = mask(picture, rng(), 1.0, OFF)
    assert any(torch.equal(found, picture.roll(shift, 0)) for shift in range(1, 50))
    assert torch.equal(picture, before)


def test_a_gain_is_in_decibel_of_power_and_alike_everywhere():
    picture, decibel = noise(20, 8), np.log(10) / 10 / 2.9
    louder = mask(picture, rng(1), decibel, replace(OFF, gain_db=(6.0, 6.0)))
    shift = 6 * np.log(10) / 10 / 2.9  # four times the power, in natural logarithms, normalised
    assert torch.allclose(louder.sort(0).values, picture.sort(0).values + shift, atol=1e-5)
    drawn = [mask(picture, rng(seed), 1.0, replace(OFF, gain_db=(-6.0, 6.0))).mean().item() for seed in range(50)]
    moved = np.array(drawn) - picture.mean().item()
    assert -6 <= moved.min() < -4 and 4 < moved.max() <= 6


def test_masks_cover_whole_frames_and_bands_no_wider_than_they_may():
    widest = {"time": 0, "band": 0}
    for seed in range(60):
        found = mask(torch.ones(100, 64), rng(seed), 1.0, replace(OFF, time_masks=1, time_width=9))
        rows = (found == 0).all(1)
        assert torch.equal(found == 0, rows[:, None].expand(100, 64))
        widest["time"] = max(widest["time"], int(rows.sum()))
        found = mask(torch.ones(100, 64), rng(seed), 1.0, replace(OFF, band_masks=1, band_width=5))
        columns = (found == 0).all(0)
        assert torch.equal(found == 0, columns.expand(100, 64))
        widest["band"] = max(widest["band"], int(columns.sum()))
    assert widest == {"time": 9, "band": 5}


def test_variants_differ_by_clip_and_number_and_repeat_by_seed():
    same = noise(1, 60, 64).expand(2, 60, 64)
    first = live(same, [0, 1], 0, 5, 2.9)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(live(same, [0, 1], 0, 5, 2.9), first)
    assert torch.equal(live(same[:1], [1], 0, 5, 2.9)[0], first[1])  # whatever stands beside it
    assert not torch.equal(live(same, [0, 1], 1, 5, 2.9), first)
    assert not torch.equal(live(same, [0, 1], 0, 6, 2.9), first)


# ---- clips ---------------------------------------------------------------------------------------------------------


def test_plain_clips_of_few_shot_data_hold_one_class_each_and_mixup_adds_to_them():
    plain, mixed = (training_clips(FEW, 10, kind) for kind in ("plain", "mixup"))
    one, several = (data.targets("train", 10, view) for data, view in ((plain, 0), (mixed, 1)))
    assert (one.sum(1) == 1).all() and (several >= one).all() and several.sum() > one.sum()
    assert plain.views("train") == 1 and mixed is not None and mixed.views("train") == MIXUP["count"]
    clip = int(np.argmax(several.sum(1) > one.sum(1)))
    assert not np.array_equal(usable_audio(plain, "train", clip, 0), usable_audio(mixed, "train", clip, 1))


def test_views_made_here_take_partners_from_the_clips_that_are_trained_on():
    data = training_clips(MANY, 6, "mixup")
    partners = {data._mixup("train", clip, view).partner for clip in range(6) for view in range(5)
                if data._mixup("train", clip, view)}  # fmt: skip
    assert partners <= set(range(6)) and len(partners) > 2
    assert data.views("val") == 1
    assert load_dataset(MANY).views("train") == 1  # the dataset itself is as it was
    with pytest.raises(InputError, match="Unknown kind of view 'masked'"):
        training_clips(MANY, 6, "masked")


# ---- the store -----------------------------------------------------------------------------------------------------


def test_views_are_built_once_repaired_where_damaged_and_rebuilt_when_the_masks_change(monkeypatch):
    wanted = [View("plain"), View("live", 0), View("live", 1)]
    assert len(build_views([ENCODER], FEW, 4, wanted, 1)) == 3
    assert build_views([ENCODER], FEW, 4, wanted, 1) == []
    folder = view_folder(ENCODER, FEW, 4, wanted[1])
    assert json.loads((folder / "index.json").read_text())["complete"]
    before = load_view(ENCODER, FEW, 4, wanted[1]).tokens
    (folder / "shard-00000.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="missing, truncated or damaged"):
        load_view(ENCODER, FEW, 4, wanted[1])
    (line,) = build_views([ENCODER], FEW, 4, wanted, 1)
    assert "live 0" in line and "damaged" in line
    assert torch.equal(load_view(ENCODER, FEW, 4, wanted[1]).tokens, before)
    monkeypatch.setattr(view_stores, "LIVE", replace(LIVE, band_width=20))
    lines = build_views([ENCODER], FEW, 4, wanted, 1)
    assert len(lines) == 2 and all("masking changed" in line for line in lines)


def test_a_view_that_is_not_built_is_an_error_that_says_what_to_run():
    with pytest.raises(InputError, match="run notebook 19"):
        load_view(ENCODER, FEW, 4, View("live", 3))


def test_stored_tokens_are_those_of_the_augmented_spectrogram():
    build_views([ENCODER], FEW, 3, [View("plain"), View("live", 2)], 1)
    encoder, data = load_encoder(ENCODER), training_clips(FEW, 3, "plain")
    plain = encoder.spectrogram(np.stack([usable_audio(data, "train", clip, 0) for clip in range(3)]))
    varied = live(plain, range(3), 2, data.manifest["seed"], encoder.geometry.mel_std)
    for view, spectrogram in ((View("plain"), plain), (View("live", 2), varied)):
        found = load_view(ENCODER, FEW, 3, view, "mean")
        tokens = encoder(spectrogram).tokens.half()
        assert torch.equal(found.tokens, tokens)
        assert torch.equal(found.cls, tokens.float().mean(1))
        assert np.array_equal(found.targets, data.targets("train", 3))


# ---- what an arm reads ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A study on log-mel with four training clips, and a scratch folder that holds all their views."""
    study, folder = load_profile("smoke/views"), tmp_path_factory.mktemp("built")
    group = replace(study.groups[0], clips={"train": 4, "val": 6, "test": 6})
    study = replace(study, encoders=(ENCODER,), shown=ENCODER, groups=(group,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMUTE_CACHE", str(folder))
        build_store([ENCODER], FEW, study.clips_of(FEW), 1)
        views.build_all_views(study, 1)
    return study, folder


@pytest.fixture
def smoke(built, own_scratch):
    """Return that study, with a copy of the views in the scratch folder of the test."""
    study, folder = built
    shutil.copytree(folder, scratch())
    return study


def test_every_condition_has_ten_places_a_clip_and_the_views_it_says(smoke):
    found = {}
    for condition in (*CONDITIONS, *VARIANTS):
        arm = make_arm(Place(FEW, ENCODER, "linear", condition))
        found[condition] = augmented(arm, smoke, "train", 3)
        assert len(found[condition]) == SLOTS * 4
    plain = found["none"].tokens[:4]
    assert torch.equal(found["none"].tokens, plain.repeat(SLOTS, 1, 1))
    own = load_embeddings(ENCODER, FEW, "train", 4, view=3)
    assert torch.equal(found["one view"].tokens, own.tokens.repeat(SLOTS, 1, 1))
    assert torch.equal(found["one view"].targets, own.targets.repeat(SLOTS, 1))
    every = torch.cat([load_embeddings(ENCODER, FEW, "train", 4, view=view).tokens for view in range(5)])
    assert torch.equal(found["five views"].tokens, every.repeat(2, 1, 1))
    assert len(found["live"].tokens[:, 0, :].unique(dim=0)) > 5 * len(found["live 1"].tokens[:, 0, :].unique(dim=0))
    assert torch.equal(found["live 2"].tokens[:8], found["live"].tokens[:8])
    assert torch.equal(found["live"].targets, found["none"].targets)
    assert make_arm(Place(FEW, ENCODER, "linear", "one view")).views == 5  # each final seed reads a view of its own


def test_validation_and_test_clips_are_never_augmented(smoke):
    for condition in CONDITIONS:
        arm = make_arm(Place(FEW, ENCODER, "mhca", condition))
        for split in ("val", "test"):
            assert torch.equal(augmented(arm, smoke, split).tokens, load_embeddings(ENCODER, FEW, split, 6).tokens)


def test_a_number_of_variants_that_does_not_fill_the_places_is_refused(smoke):
    arm = replace(make_arm(Place(FEW, ENCODER, "linear", "live")), variants=3)
    with pytest.raises(InputError, match="3 views, which do not divide the 10 places"):
        augmented(arm, smoke, "train")
    with pytest.raises(InputError, match="Unknown condition 'two views'"):
        views_read("two views", 0, 10)


@pytest.mark.parametrize("profile", ["pocket", "esc10"])
def test_epochs_are_fewer_by_as_much_as_a_clip_has_places(profile):
    base, study = load_profile(profile), load_profile(f"{profile}/views")
    assert STUDIES["views"].repeats == SLOTS
    assert study.epochs * SLOTS == base.epochs
    for dataset in study.datasets:
        run = base_run(make_arm(Place(dataset, "pocket-eat", "linear", "live")), study, 1e-3, 1e-4)
        assert (run.epochs, run.batch_size) == (study.epochs, base.batch_size_of(dataset))


def test_results_depend_on_the_masks_and_on_the_mixup():
    seen = {}
    _collect("lib.view_stores", "augmented", seen)
    for name in ("LIVE", "Masking", "mask", "MIXUP", "SLOTS", "views_read"):
        assert ("lib.view_stores", name) in seen, name
    assert not {module for module, _ in seen} & {"lib.heads", "lib.heads_beyond", "lib.profiles", "lib.views"}


# ---- tables and words ----------------------------------------------------------------------------------------------


def scores(value):
    """Scores (1 + R,) of all places on two pairs; `value` maps head and condition to a score."""
    pairs = [("a", "x"), ("b", "x")]
    drawn = rng().normal(0, 0.01, 200)
    return {
        Place(*pair, head, condition): np.append(value(head, condition) + at, value(head, condition) + at + drawn)
        for at, pair in enumerate(pairs)
        for head in HEADS_COMPARED
        for condition in CONDITIONS
    }


def test_gains_are_over_none_leads_of_protobin_and_draws_are_paired():
    def value(head, condition):
        return 50 + 10 * (head == "protobin") + (3 if head == "linear" else -1) * (condition == "live")

    table = means_of(scores(value)).set_index(["measure", "head", "condition"])
    row = table.loc[(GAIN, "linear", "live")]
    assert row["value"] == pytest.approx(3) and row["low"] == pytest.approx(3) and row["high"] == pytest.approx(3)
    assert (row["pairs"], row["positive"]) == (2, 2)
    assert table.loc[(GAIN, "protobin", "live"), "value"] == pytest.approx(-1)
    assert table.loc[(LEAD, "linear", "none"), "value"] == pytest.approx(10)
    assert table.loc[(CHANGE, "linear", "live"), "value"] == pytest.approx(-4)
    assert table.loc[(CHANGE, "mhca", "live"), "value"] == pytest.approx(0)


def means(lead=(5.0, 5.0, 5.0, 5.0), gain=1.0, width=0.5):
    """A table of means with these leads of protobin over linear under the four conditions."""
    rows = [(GAIN, head, condition, gain, gain - width, gain + width, 4, 3) for condition in list(CONDITIONS)[1:]
            for head in HEADS_COMPARED]  # fmt: skip
    for head in LEADS:
        for condition, value in zip(CONDITIONS, lead, strict=True):
            rows.append((LEAD, head, condition, value, value - width, value + width, 4, 4))
            change = value - lead[0]
            if condition != "none":
                rows.append((CHANGE, head, condition, change, change - width, change + width, 4, 4))
    return pd.DataFrame(rows, columns=["measure", "head", "condition", "value", "low", "high", "pairs", "positive"])


def variants(step=0.0, width=0.5):
    rows = [("pocket-eat", head, count, 1.0, 0.5, 1.5, step, step - width, step + width, 2)
            for head in views.CURVE_HEADS for count in VARIANTS.values()]  # fmt: skip
    ends = ["gain", "gain_low", "gain_high", "step", "step_low", "step_high", "datasets"]
    return pd.DataFrame(rows, columns=["encoder", "head", "variants", *ends])


def words(**parts):
    return "\n".join(in_words({"views_means": means(**parts), "views_variants": variants()}))


@pytest.mark.parametrize(
    ("gain", "says"),
    [
        (1.0, ": it helps linear +1.0 (+0.5 to +1.5), "),
        (-1.0, ": it harms linear −1.0 "),
        (0.1, ": it cannot be told for linear"),
    ],
)
def test_whom_augmentation_helps_is_read_from_the_intervals(gain, says):
    text = words(gain=gain)
    assert says in text
    assert (
        sum(text.count(f": {verb} ") for verb in ("it helps", "it harms", "it cannot be told for")) == 3
    )  # one a condition


@pytest.mark.parametrize(
    ("lead", "says"),
    [
        ((5, 5, 5, 5), "does not change their order: protobin is ahead under every condition"),
        ((-5, -5, -5, -5), "does not change their order: linear is ahead"),
        ((5, 0.1, 5, 5), "Where it can be told, protobin is ahead; with one mixup view a run it cannot be told"),
        ((0.1, 0.1, 0.1, 0.1), "Under no condition can it be told"),
        ((5, 5, -5, 0), "changes their order: linear is ahead with 5 mixup views pooled; protobin is ahead"),
    ],
)
def test_the_order_of_linear_and_protobin_is_said_for_every_outcome(lead, says):
    assert says in words(lead=lead)


def test_a_change_of_the_lead_is_raised_lowered_or_open():
    text = words(lead=(5.0, 7.0, 3.0, 5.2))
    assert "up with one mixup view a run, +2.0 (+1.5 to +2.5)" in text
    assert "down with 5 mixup views pooled, −2.0 (−2.5 to −1.5)" in text
    assert "cannot be told with 10 masked variants, +0.2 (−0.3 to +0.7)" in text


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (0.1, "no head can be said to need more"),
        (1.0, "more still help linear, mhca and protobin"),
        (-1.0, "and harm linear, mhca and protobin"),
    ],
)
def test_whether_more_variants_help_is_read_from_the_last_step(step, says):
    text = in_words({"views_means": means(), "views_variants": variants(step)})[-1]
    assert says in text and "From 5 to 10 live variants" in text


def test_storage_is_said_per_view_and_for_a_new_one_in_every_epoch():
    rows = [("d", "none", 1, 10, 10, 0.64, "measured"), ("d", "live", 10, 10, 100, 6.4, "measured"),
            ("d", "a new variant in every epoch", 30, 10, 300, 19.2, "reckoned")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["dataset", "condition", "views", "clips", "passes", "megabytes", "how"])
    text = storage_in_words(table)
    assert "takes 64 kB" in text and "19 MB instead of 0.6 on d" in text


def test_without_a_benchmark_there_is_nothing_to_stand_beside():
    assert "no table of the benchmark" in beside_the_benchmark("smoke", pd.DataFrame())


# ---- the whole way -------------------------------------------------------------------------------------------------


def test_a_study_runs_writes_its_tables_and_draws_them(monkeypatch, smoke):
    monkeypatch.setattr(views, "load_profile", lambda name: smoke)
    monkeypatch.setattr("lib.results.load_profile", lambda name: smoke)
    monkeypatch.setattr("lib.comparisons.load_profile", lambda name: smoke)
    few = {
        label: ("linear" if label.startswith("linear") else "linpre", mode)
        for label, (_, mode) in HEADS_COMPARED.items()
    }
    monkeypatch.setattr(views, "HEADS_COMPARED", few)  # cheap ones; those of one name share a cell
    monkeypatch.setattr(views, "VARIANTS", {"live 5": 5, "live": SLOTS})
    ran = views.run_views("smoke", workers=1, show=False)
    assert len(ran) == len(set(ran)) == 14  # three different heads under four conditions, two with five variants
    assert views.run_views("smoke", workers=1, show=False) == []
    tables = views.write_tables("smoke")
    table = tables["views"]
    assert table[table["condition"] == "none"]["difference"].isna().all()
    live_rows = table[table["condition"] == "live"].set_index("head")
    plain_rows = table[table["condition"] == "none"].set_index("head")
    assert np.allclose(live_rows["difference"], (live_rows["mean"] - plain_rows["mean"]).to_numpy(), atol=1e-3)
    for drawn in (
        plot_gains(tables["views_means"], table),
        plot_leads(tables["views_means"]),
        plot_variants(tables["views_variants"], "log-mel"),
        plot_views(pictures(FEW, 4, ENCODER)),
    ):
        drawn.draw_without_rendering()
    assert len(in_words(tables)) == 3 + 1 + len(LEADS) + 1
    sizes = read_table(figure_root() / "smoke" / "views_storage.csv").set_index("condition")["megabytes"]
    assert sizes["five views"] == pytest.approx(5 * sizes["none"], rel=0.02)
    assert sizes["a new variant in every epoch"] == pytest.approx(sizes["live"] * 2 / SLOTS, rel=0.02)  # two epochs
