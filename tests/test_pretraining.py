"""The pretraining loop: recipes, resumption to the same bytes, what a stage hands on, what is shipped."""

import itertools
import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lib.encoders import objectives, pocket, pretrain
from lib.encoders.pocket import GEOMETRIES, POCKET, new_vit
from lib.encoders.pool import UNLABELLED, Pool
from lib.encoders.pretrain import RECIPES, Stage, batch_of, recipe_of, schedule
from lib.errors import InputError
from lib.paths import scratch


class Regression(nn.Module):
    """A small objective with all that a real one may have: drawn noise, a teacher, something taken over."""

    seen_labels = None

    def __init__(self, vit, generator, factor=1.0, partner=None):
        super().__init__()
        self.vit, self.factor, self.partner = vit, factor, partner
        self.teacher = nn.Linear(4, 4).requires_grad_(False)
        with torch.no_grad():
            self.teacher.weight.normal_(generator=generator)
            self.teacher.bias.zero_()

    def forward(self, spectrogram, generator, targets=None):
        Regression.seen_labels = targets
        noise = torch.randn(len(spectrogram), generator=generator)
        patches = self.vit.embed_patches(spectrogram + noise[:, None, None])
        return self.factor * (patches.float() - self.teacher.weight.mean()).square().mean()

    def after_step(self, progress):
        with torch.no_grad():
            self.teacher.weight.mul_(1 - 0.1 * progress)


FIRST = Stage("first", "Regression", 5, batch_size=3, lr=1e-3)
SECOND = Stage("second", "Regression", 4, batch_size=3, start="previous", from_previous={"partner": "teacher"})


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Have the small objective among the real ones, and ship into a folder of the test."""
    monkeypatch.setattr(objectives, "Regression", Regression, raising=False)
    monkeypatch.setattr(pretrain, "LOG_EVERY", 2)
    for module in (pretrain, pocket):
        monkeypatch.setattr(module, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(pocket, "MANIFESTS", tmp_path)
    return tmp_path


@pytest.fixture
def pool():
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(2, (12, 16), generator=generator, dtype=torch.uint8)
    labels[1::2] = UNLABELLED
    return Pool(torch.randn(12, 499, 64, generator=generator).half(), labels, {"digest": "small", "clips": 12})


def recipe(monkeypatch, *stages):
    monkeypatch.setitem(RECIPES, "pocket-amae", stages)


def shipped(place):
    return load_file(place / "weights" / "pocket-amae.safetensors"), (
        place / "weights" / "pocket-amae.loss.csv"
    ).read_text()


def die_after_saving(monkeypatch, times):
    """Kill the run right after its checkpoint number `times`."""
    saves, save = [], pretrain.StageRun.save

    def save_then_die(run):
        save(run)
        saves.append(run.step)
        if len(saves) == times:
            raise KeyboardInterrupt

    monkeypatch.setattr(pretrain.StageRun, "save", save_then_die)


@pytest.mark.parametrize("death", [1, 3, 5, 6, 8, 9])
def test_a_run_stopped_after_any_step_ends_in_the_same_bytes(place, pool, monkeypatch, death):
    recipe(monkeypatch, FIRST, SECOND)
    pretrain.pretrain("pocket-amae", pool, device="cpu", minutes_between_checkpoints=99)
    weights, curve = shipped(place)

    monkeypatch.setenv("UNMUTE_CACHE", str(place / "other"))
    die_after_saving(monkeypatch, death)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain("pocket-amae", pool, device="cpu", minutes_between_checkpoints=0)
    pretrain.pretrain("pocket-amae", pool, device="cpu", minutes_between_checkpoints=99)
    again, curve_again = shipped(place)
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert curve == curve_again
    assert [line.split(",")[:2] for line in curve.splitlines()] == [
        ["stage", "step"], ["first", "2"], ["first", "4"], ["first", "5"], ["second", "2"], ["second", "4"]
    ]  # fmt: skip


def test_a_finished_stage_is_not_trained_again(place, pool, monkeypatch):
    recipe(monkeypatch, FIRST)
    pretrain.pretrain("pocket-amae", pool, device="cpu")
    before, _ = shipped(place)
    monkeypatch.setattr(pretrain.StageRun, "advance", lambda _: pytest.fail("trained again"))
    pretrain.pretrain("pocket-amae", pool, device="cpu")
    again, _ = shipped(place)
    assert all(torch.equal(before[key], again[key]) for key in before)


def test_of_a_teacher_and_a_student_that_correct_each_other_the_teacher_is_shipped(place, pool, monkeypatch):
    recipe(monkeypatch, Stage("both", "LocalGlobalDistillation", 3, batch_size=2, warmup=0.5, options={"classes": 8}))
    pretrain.pretrain("pocket-amae", pool, device="cpu")
    weights, _ = shipped(place)
    state = torch.load(scratch() / "pretrain" / "pocket-amae.stage-1.pt", weights_only=True)["objective"]
    assert all(torch.equal(value, state[f"teacher.{name}"].half()) for name, value in weights.items())
    assert any(not torch.equal(value, state[f"vit.{name}"].half()) for name, value in weights.items())


@pytest.mark.parametrize("change", ["setting", "pool", "earlier stage"])
def test_a_checkpoint_of_other_settings_or_data_is_not_resumed(place, pool, monkeypatch, capsys, change):
    recipe(monkeypatch, FIRST, SECOND)
    pretrain.pretrain("pocket-amae", pool, device="cpu")
    first = replace(FIRST, lr=5e-4) if change == "earlier stage" else FIRST
    recipe(monkeypatch, first, replace(SECOND, batch_size=2) if change == "setting" else SECOND)
    if change == "pool":
        pool.description["digest"] = "another"
    capsys.readouterr()
    pretrain.pretrain("pocket-amae", pool, device="cpu")
    anew = re.findall("stage '(\\w+)' anew", capsys.readouterr().out)
    assert anew == (["second"] if change == "setting" else ["first", "second"])


def test_a_stage_takes_over_what_its_recipe_names_and_no_more(place, pool, monkeypatch):
    built = []
    real = pretrain.new_objective
    monkeypatch.setattr(pretrain, "new_objective", lambda *arguments: built.append(real(*arguments)) or built[-1])
    recipe(monkeypatch, FIRST, SECOND, replace(FIRST, name="third"))
    pretrain.pretrain("pocket-amae", pool, device="cpu")
    first, second, third = built
    assert second.vit is first.vit and second.partner is first.teacher
    assert third.vit is not first.vit and third.partner is None


def test_a_stage_starts_from_shipped_weights_and_trains_them(place, pool, monkeypatch):
    recipe(monkeypatch, FIRST)
    pretrain.pretrain("pocket-amae", pool, device="cpu")
    start, _ = shipped(place)
    objective = pretrain.new_objective("pocket-eat", replace(FIRST, start="pocket-amae"), 1, None)
    for key, value in objective.vit.state_dict().items():
        assert torch.equal(value, start[key].float())
    assert all(p.requires_grad for p in objective.vit.parameters())


def test_the_supervised_stage_hears_labelled_clips_alone_and_gets_their_labels(place, pool, monkeypatch):
    recipe(monkeypatch, replace(FIRST, labelled=True))
    heard = []
    monkeypatch.setattr(pretrain, "batch_of", lambda *arguments: heard.append(batch_of(*arguments)) or heard[-1])
    pretrain.pretrain("pocket-amae", pool, device="cpu")
    assert all(labels.max() == 1.0 and labels.min() == 0.0 and labels.shape == (3, 16) for _, labels in heard)
    assert torch.equal(Regression.seen_labels, heard[-1][1])


def test_labels_stay_with_their_clip_and_the_clip_is_only_rolled_and_scaled():
    clips = torch.arange(4.0)[:, None, None] * 10 + torch.linspace(0, 1, 499)[:, None].expand(4, 499, 64)
    pool = Pool(clips.half(), torch.eye(4, dtype=torch.uint8), {})
    spectrogram, labels = batch_of(pool, 64, torch.Generator().manual_seed(0))
    raw = spectrogram * POCKET.mel_std + POCKET.mel_mean
    gains, starts = set(), set()
    for clip, label in zip(raw, labels, strict=True):
        original = clips[label.argmax()]
        start = int(clip[:, 0].diff().argmin() + 1) % 499  # where the ramp begins anew
        gain = (clip.roll(-start, 0) - original).mean()
        torch.testing.assert_close(clip.roll(-start, 0), original + gain, atol=0.02, rtol=0)
        assert abs(gain) <= 1.51
        gains.add(round(gain.item(), 1)), starts.add(start)
    assert len(gains) > 10 and len(starts) > 40 and set(labels.argmax(1).tolist()) == {0, 1, 2, 3}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(place, pool, monkeypatch):
    recipe(monkeypatch, FIRST)
    monkeypatch.setattr(
        Regression, "after_step", lambda self, progress: setattr(self, "factor", float("nan") if progress > 0.5 else 1)
    )
    with pytest.raises(InputError, match=r"stage 'first' is not finite at step 4 \(the checkpoint of step 3 is kept\)"):
        pretrain.pretrain("pocket-amae", pool, device="cpu", minutes_between_checkpoints=0)
    kept = torch.load(pretrain.scratch() / "pretrain" / "pocket-amae.stage-1.pt", weights_only=True)
    assert kept["step"] == 3 and not (place / "weights").exists()
    assert all(torch.isfinite(value).all() for value in kept["objective"].values())


def test_the_learning_rate_rises_then_falls_to_zero():
    stage = replace(FIRST, steps=100, warmup=0.1)
    factors = [schedule(step, stage) for step in range(101)]
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1.0 and abs(factors[100]) < 1e-9
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))


def test_matrices_decay_and_vectors_and_the_frozen_do_not(pool, tmp_path):
    objective = Regression(new_vit(torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2))
    run = pretrain.StageRun(FIRST, objective, pool, 1, tmp_path / "x.pt", "key")
    matrices, vectors = run.optimizer.param_groups
    assert matrices["weight_decay"] == 0.05 and vectors["weight_decay"] == 0.0
    assert {p.ndim for p in vectors["params"]} == {1} and min(p.ndim for p in matrices["params"]) == 2
    trained = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in objective.vit.parameters()}


def test_the_steps_asked_for_are_shared_among_the_stages_in_proportion(monkeypatch):
    recipe(monkeypatch, FIRST, SECOND)
    assert [stage.steps for stage in recipe_of("pocket-amae")] == [5, 4]
    assert [stage.steps for stage in recipe_of("pocket-amae", 90)] == [50, 40]
    assert [stage.steps for stage in recipe_of("pocket-amae", 1)] == [1, 1]
    with pytest.raises(InputError, match="Unknown encoder to pretrain 'pocket-vit'"):
        recipe_of("pocket-vit")


def test_the_manifest_says_how_the_weights_came_about_and_no_time_or_place(place, pool, monkeypatch):
    recipe(monkeypatch, FIRST, replace(SECOND, options={"factor": 2.0}))
    pretrain.pretrain("pocket-amae", pool, device="cpu")
    text = (place / "encoders" / "pocket-amae.json").read_text()
    manifest = json.loads(text)
    assert [stage["name"] for stage in manifest["stages"]] == ["first", "second"]
    assert manifest["stages"][0]["lr"] == 1e-3 and manifest["stages"][1]["start"] == "previous"
    assert [stage["options"] for stage in manifest["stages"]] == [{"factor": 1.0}, {"factor": 2.0}]
    assert manifest["seed"] == pretrain.SEED and manifest["pool"] == pool.description
    _, curve = shipped(place)
    assert float(curve.splitlines()[-1].split(",")[2]) == manifest["final_loss"]
    assert str(place) not in text and not re.search("minutes|seconds_|date", text)


def test_there_is_a_recipe_for_every_pocket_encoder_and_its_first_stage_needs_no_other():
    assert set(RECIPES) == set(GEOMETRIES)
    for encoder, stages in RECIPES.items():
        assert stages[0].start not in ("previous", "teacher") and not stages[0].from_previous
        assert all(stage.start in ("random", "previous", "teacher") or stage.start in RECIPES for stage in stages)
        # What a recipe starts from can be made first: no recipe waits for itself.
        assert all(list(RECIPES).index(s.start) < list(RECIPES).index(encoder) for s in stages if s.start in RECIPES)
        assert encoder.endswith("-plus") == stages[-1].labelled


@pytest.mark.parametrize("encoder", list(RECIPES))
def test_every_recipe_resumes_to_the_same_bytes(place, pool, monkeypatch, encoder):
    stages = tuple(
        replace(s, steps=3, batch_size=2, start="random" if s.start in RECIPES else s.start) for s in RECIPES[encoder]
    )
    monkeypatch.setitem(RECIPES, encoder, stages)
    unbroken = pretrain.pretrain(encoder, pool, device="cpu", minutes_between_checkpoints=99).state_dict()
    monkeypatch.setenv("UNMUTE_CACHE", str(place / "other"))
    die_after_saving(monkeypatch, 3 * len(stages) - 1)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(encoder, pool, device="cpu", minutes_between_checkpoints=0)
    resumed = pretrain.pretrain(encoder, pool, device="cpu", minutes_between_checkpoints=99).state_dict()
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)
