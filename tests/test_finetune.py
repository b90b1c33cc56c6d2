"""Fine-tuning: what it trains and what it leaves alone, what decides, what stays on disk."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lib import encoders, finetune, finetune_results, profiles
from lib.data.datasets import load_dataset
from lib.encoders import EncoderEntry, load_encoder
from lib.encoders.pocket import POCKET, PocketEncoder, new_vit
from lib.errors import Diverged, InputError
from lib.files import sha256
from lib.finetune import FineTuning, HeardClips, Tuning, read_clips, schedule
from lib.finetune_results import finished, read_finetuning, result_path, run_finetuning
from lib.paths import WEIGHTS
from lib.profiles import Group
from lib.results import COLUMNS
from lib.train import Run

COUNTS = {"train": 12, "val": 8, "test": 8}
SETTINGS = FineTuning(epochs=2, batch_size=4, lrs=(1e-6, 1e-2), seeds=(1, 2), keep=0.25)
PAIR = ("tiny", "soundscapes")


def toy(split, view=0, classes=16, single=False):
    """Spectrograms in which each class that is present sounds in three bands of its own, for a while."""
    g = torch.Generator().manual_seed(len(split) + view)
    clips = COUNTS[split]
    targets = (torch.rand(clips, classes, generator=g) < 0.3).float()
    targets[0], targets[1] = 1.0, 0.0
    if single:
        targets = torch.eye(classes)[torch.arange(clips) % classes]
    spectrograms = 0.3 * torch.randn(clips, 499, 64, generator=g)
    for clip, label in targets.nonzero().tolist():
        start = int(torch.randint(100, (1,), generator=g))
        spectrograms[clip, start : start + 300, 3 * label : 3 * label + 3] += 3.0
    return HeardClips(spectrograms.half(), targets)


def encoder_of(cls):
    geometry = replace(POCKET, dim=16, depth=1, num_heads=2, cls=cls)
    return PocketEncoder(new_vit(torch.Generator().manual_seed(5), geometry), geometry)


def profile(counts):
    return replace(profiles.PROFILES["smoke"], name="tiny", groups=(Group("general", ("soundscapes",), (), counts),))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two very small encoders and a profile; everybody who loads such an encoder gets the same module."""
    shared = {"tiny": encoder_of(True), "tiny-mean": encoder_of(False)}
    for name, cls in (("tiny", "native"), ("tiny-mean", "mean")):
        entry = EncoderEntry(name, "base", lambda name=name: shared[name], cls=cls)
        monkeypatch.setitem(encoders.ENCODERS, name, entry)
    monkeypatch.setitem(profiles.PROFILES, "tiny", profile(COUNTS))
    return shared["tiny"]


@pytest.fixture
def unrendered(monkeypatch):
    """Have whatever is rendered be the toy clips."""
    monkeypatch.setattr(finetune, "read_clips", lambda encoder, dataset, split, count, view: toy(split, view))


def tune(settings=SETTINGS, encoder="tiny", dataset="soundscapes", load=toy):
    return finetune.finetune(encoder, dataset, COUNTS, settings, load)


def training(vit, lr=1e-2, epochs=8, keep=0.5):
    run = Run(
        "fine-tuning",
        lr,
        0.05,
        epochs,
        4,
        seed=1,
        order_seed=1,
        options={"keep": keep, "warmup": 0.1, "head_factor": 10},
    )
    return Tuning(vit, toy("train"), run)


def test_the_loss_falls_and_every_weight_of_the_encoder_moves(tiny):
    done = training(tiny.vit).train()
    assert done.losses[-1] < 0.7 * done.losses[0]
    moved = [not torch.equal(value, tiny.vit.state_dict()[key]) for key, value in done.network.vit.state_dict().items()]
    assert all(moved) and len(moved) > 10


def test_the_weights_on_disk_and_the_encoder_that_others_hold_stay_as_they_are(tiny):
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    tune()
    assert all(torch.equal(value, before[key]) for key, value in tiny.state_dict().items())
    assert not any(p.requires_grad for p in tiny.parameters()) and not tiny.training

    path = WEIGHTS / "pocket-amae.safetensors"
    checksum, loaded = sha256(path), load_encoder("pocket-amae")
    tune(replace(SETTINGS, epochs=1, lrs=(1e-2,), seeds=(1,), keep=0.05), "pocket-amae")
    assert sha256(path) == checksum
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), load_encoder("pocket-amae").parameters(), strict=True)
    )


def test_a_training_starts_from_the_given_weights(tiny):
    start = training(tiny.vit).network.vit.state_dict()
    assert all(torch.equal(value, start[key]) for key, value in tiny.vit.state_dict().items())


def test_the_learning_rate_is_that_with_the_best_validation_value_and_all_seeds_use_it():
    rows = tune(replace(SETTINGS, epochs=6, lrs=(1e-7, 1e-2, 1e-6), seeds=(4, 2))).rows
    searched = {row["lr"]: row["value"] for row in rows if row["stage"] == "search"}
    assert max(searched, key=searched.get) == 1e-2  # else this test promises nothing
    assert {row["seed"] for row in rows if row["stage"] == "search"} == {4}
    for stage, split in (("seeds", "val"), ("final", "test")):
        assert [(r["lr"], r["seed"], r["order_seed"], r["split"]) for r in rows if r["stage"] == stage] == [
            (1e-2, 4, 4, split),
            (1e-2, 2, 2, split),
        ]


def test_seeds_differ_and_test_scores_are_those_of_the_seeds():
    result = tune()
    assert result.test_scores.shape == (2, 8, 16) and result.test_scores.dtype == torch.float32
    assert not torch.equal(*result.test_scores)
    final = [row["value"] for row in result.rows if row["stage"] == "final"]
    values = [finetune.evaluate(one, toy("test").targets, "mAP") for one in result.test_scores]
    assert final == pytest.approx(values, abs=1e-5)


def test_the_test_split_is_read_once_after_the_last_choice_and_the_last_training(monkeypatch):
    log, train = [], Tuning.train
    monkeypatch.setattr(Tuning, "train", lambda self: log.append("trained") or train(self))
    tune(load=lambda split, view=0: log.append(split) or toy(split))
    assert log == ["val", "train", "trained", "trained", "trained", "test"]


def test_the_test_split_decides_nothing():
    def poisoned(split, view=0):
        clips = toy(split)
        return clips if split != "test" else HeardClips(clips.spectrograms, clips.targets.flip(0))

    real, other = tune().rows, tune(load=poisoned).rows
    assert [row for row in real if row["split"] == "val"] == [row for row in other if row["split"] == "val"]
    assert [row["lr"] for row in real] == [row["lr"] for row in other]
    assert [row["value"] for row in real] != [row["value"] for row in other]


def test_a_row_has_the_columns_of_the_results_and_says_what_was_run(tiny):
    rows = tune().rows
    assert all({"profile", *row} == set(COLUMNS) for row in rows)
    parameters = sum(p.numel() for p in tiny.vit.parameters()) + 16 * 16 + 16
    expected = {"head": "fine-tuning", "cls_mode": "native", "n_train": 12, "epochs": 2, "parameters": parameters}
    expected |= {
        "loss": "asymmetric",
        "metric": "mAP",
        "head_options": "head_factor=10;keep=0.25;warmup=0.1",
        "J": None,
    }
    assert all(row[name] == value for row in rows for name, value in expected.items())


def test_a_single_label_set_trains_with_cross_entropy_and_counts_correct_clips():
    settings = replace(SETTINGS, epochs=1, lrs=(1e-7,))
    result = tune(settings, dataset="single-sounds", load=lambda split, view=0: toy(split, view, 20, single=True))
    assert {(row["loss"], row["metric"]) for row in result.rows} == {("cross-entropy", "accuracy")}
    with pytest.raises(InputError, match="Cross-entropy expects one class per clip"):
        tune(settings, dataset="single-sounds", load=lambda split, view=0: toy(split, view, 20))


def test_an_encoder_without_cls_is_tuned_on_its_mean_token():
    assert {row["cls_mode"] for row in tune(encoder="tiny-mean").rows} == {"mean"}
    network = finetune.Network(load_encoder("tiny-mean").vit, 16, torch.Generator().manual_seed(0))
    heard = []
    network.head.register_forward_pre_hook(lambda module, arguments: heard.append(arguments[1]))
    spectrogram = toy("val").spectrograms.float()
    network(spectrogram, 1.0, torch.Generator())
    assert torch.allclose(heard[0], network.vit(spectrogram).tokens.mean(1))


def test_a_training_step_sees_a_share_of_the_patches_and_scores_see_all(tiny):
    tuning, lengths = training(tiny.vit, epochs=1, keep=0.25), []
    tuning.network.vit.blocks[0].register_forward_pre_hook(lambda module, x: lengths.append(x[0].shape[1]))
    tuning.train()
    assert set(lengths) == {1 + 62}
    first = tuning.scores(toy("val"))
    assert lengths[-1] == 1 + 248 and torch.equal(first, tuning.scores(toy("val")))


def test_every_epoch_hears_every_clip_once_in_an_order_of_its_own(tiny, monkeypatch):
    heard = []
    monkeypatch.setattr(Tuning, "_step", lambda tuning, clips, progress: heard.extend(clips.tolist()) or progress)
    training(tiny.vit, epochs=2).train()
    first, second = heard[:12], heard[12:]
    assert sorted(first) == sorted(second) == list(range(12)) and first != second


def test_the_learning_rate_rises_to_its_height_and_falls_to_zero():
    factors = [schedule((step + 0.5) / 1000, 0.1) for step in range(1000)]
    peak = factors.index(max(factors))
    assert abs(peak - 100) <= 1 and 0 < factors[0] < 0.01 and 0 < factors[-1] < 1e-4 and max(factors) > 0.99
    assert factors[:peak] == sorted(factors[:peak]) and factors[peak:] == sorted(factors[peak:], reverse=True)


def test_the_linear_layer_alone_learns_faster_by_the_factor_that_the_row_tells(tiny):
    tuning = training(tiny.vit, epochs=1).train()
    rates = {id(p): group["lr"] for group in tuning.optimizer.param_groups for p in group["params"]}
    head = [rates.pop(id(p)) for p in tuning.network.head.parameters()]
    (encoder,) = set(rates.values())
    assert head == [pytest.approx(10 * encoder)] * 2 and len(rates) == len(list(tuning.network.vit.parameters()))


def die_after_saving(monkeypatch, times):
    """Kill the run right after its checkpoint number `times`."""
    saves, save = [], Tuning._save

    def save_then_die(tuning):
        save(tuning)
        saves.append(tuning)
        if len(saves) == times:
            raise KeyboardInterrupt

    monkeypatch.setattr(Tuning, "_save", save_then_die)


@pytest.mark.parametrize("death", [1, 2, 3, 5, 6])
def test_a_run_that_was_killed_goes_on_where_it_stopped_and_ends_in_the_same_bytes(
    unrendered, monkeypatch, tmp_path, death
):
    run_finetuning("tiny", [PAIR], SETTINGS)
    whole = result_path("tiny", *PAIR).read_bytes()

    monkeypatch.setenv("UNMUTE_CACHE", str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        die_after_saving(patch, death)
        with pytest.raises(KeyboardInterrupt):
            run_finetuning("tiny", [PAIR], SETTINGS)
    assert not result_path("tiny", *PAIR).exists()
    epochs, save = [], Tuning._save
    monkeypatch.setattr(Tuning, "_save", lambda tuning: epochs.append(len(tuning.losses)) or save(tuning))
    run_finetuning("tiny", [PAIR], SETTINGS)
    assert len(epochs) == 6 - death  # two learning rates and one more seed, two epochs each
    assert result_path("tiny", *PAIR).read_bytes() == whole
    assert not result_path("tiny", *PAIR).with_suffix("").exists()


def test_a_checkpoint_of_other_settings_is_not_resumed(unrendered, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        die_after_saving(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run_finetuning("tiny", [PAIR], SETTINGS)
    changed = replace(SETTINGS, weight_decay=0.5)
    run_finetuning("tiny", [PAIR], changed)
    assert "'lr-1e-06.seed-1.pt' belongs to other settings" in capsys.readouterr().out
    assert read_finetuning("tiny", *PAIR).rows == tune(changed).rows


def test_a_result_is_kept_while_it_matches_and_made_again_with_a_reason_when_not(unrendered, monkeypatch, capsys):
    assert run_finetuning("tiny", [PAIR], SETTINGS) == [PAIR]
    assert "tiny on soundscapes: to run, there is no result yet" in capsys.readouterr().out
    assert run_finetuning("tiny", [PAIR], SETTINGS) == []
    assert "tiny on soundscapes: up to date" in capsys.readouterr().out
    changed = replace(SETTINGS, epochs=1)
    assert run_finetuning("tiny", [PAIR], changed) == [PAIR]
    assert "to run again, settings changed" in capsys.readouterr().out
    monkeypatch.setitem(profiles.PROFILES, "tiny", profile(COUNTS | {"val": 7}))
    assert run_finetuning("tiny", [PAIR], changed) == [PAIR]
    assert "to run again, clips changed" in capsys.readouterr().out
    with torch.no_grad():
        load_encoder("tiny").vit.norm.bias += 1
    assert run_finetuning("tiny", [PAIR], changed) == [PAIR]
    assert "to run again, encoder changed" in capsys.readouterr().out


def test_what_is_read_is_what_was_computed(unrendered):
    run_finetuning("tiny", [PAIR], SETTINGS)
    stored, computed = read_finetuning("tiny", *PAIR), tune()
    assert stored.rows == computed.rows and torch.equal(stored.test_scores, computed.test_scores)


def test_a_damaged_result_is_refused_and_made_again(unrendered):
    run_finetuning("tiny", [PAIR], SETTINGS)
    path = result_path("tiny", *PAIR)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="missing or damaged; run `make finetune ENCODER=tiny DATASET=soundscapes"):
        read_finetuning("tiny", *PAIR)
    assert run_finetuning("tiny", [PAIR], SETTINGS) == [PAIR]
    assert read_finetuning("tiny", *PAIR).rows


def test_clips_are_what_the_frozen_encoder_hears_in_half_precision():
    clips, data = read_clips("tiny", "short-sounds", "val", 2), load_dataset("short-sounds")
    heard = load_encoder("tiny").spectrogram(data.scene("val", 1).audio, 16_000)[0]
    assert clips.spectrograms.shape == (2, 499, 64) and torch.equal(clips.spectrograms[1], heard.half())
    assert torch.equal(clips.targets, torch.from_numpy(data.targets("val", 2)))


def test_each_seed_hears_its_own_view_of_few_shot_clips():
    log, settings = [], replace(SETTINGS, epochs=1, lrs=(1e-3, 1e-4), seeds=(1, 5, 6))
    load = lambda split, view=0: log.append((split, view)) or toy(split, view, 10)  # noqa: E731
    rows = tune(settings, dataset="forest-few-shot", load=load).rows
    assert log == [("val", 0), ("train", 1), ("train", 0), ("test", 0)]  # each view is rendered once
    assert [(row["seed"], row["view"]) for row in rows if row["stage"] == "final"] == [(1, 1), (5, 0), (6, 1)]


def test_a_view_has_its_own_labels_and_its_own_sound():
    clips, data = read_clips("tiny", "forest-few-shot", "train", 1, view=2), load_dataset("forest-few-shot")
    heard = load_encoder("tiny").spectrogram(data.scene("train", 0, 2).audio, 16_000)
    assert torch.equal(clips.spectrograms, heard.half())
    assert torch.equal(clips.targets, torch.from_numpy(data.targets("train", 1, 2)))


def test_the_settings_of_a_profile_have_its_seeds_and_no_more_epochs_than_it():
    small = profiles.PROFILES["smoke"]
    assert finetune_results.settings_of(small) == FineTuning(epochs=small.epochs, seeds=small.seeds)
    assert finetune_results.settings_of(replace(small, epochs=99)).epochs == FineTuning().epochs


def test_a_loss_that_is_not_finite_is_told_with_epoch_learning_rate_and_seed():
    def broken(split, view=0):
        clips = toy(split)
        clips.spectrograms[3] = float("nan")
        return clips

    with pytest.raises(InputError, match=r"not finite in epoch 1 at learning rate .* with seed 1; check the clips"):
        tune(load=broken)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("pocket-eta", "soundscapes"), "Unknown encoder 'pocket-eta'.*Did you mean"),
        (("tiny", "soundscape"), "Unknown dataset of profile tiny 'soundscape'.*Did you mean 'soundscapes'"),
        (("log-mel", "soundscapes"), "'log-mel' cannot be fine-tuned, it has no weights; choose a pocket encoder"),
    ],
)
def test_a_pair_that_cannot_be_tuned_is_refused_before_anything_is_run(unrendered, pair, message):
    with pytest.raises(InputError, match=message):
        run_finetuning("tiny", [PAIR, pair], SETTINGS)
    assert not result_path("tiny", *PAIR).exists()


def test_more_clips_than_there_are_is_an_error_that_says_so():
    with pytest.raises(InputError, match="9999 clips were asked of split 'val'"):
        finetune.finetune("tiny", "soundscapes", COUNTS | {"val": 9999}, SETTINGS, toy)


@pytest.mark.parametrize("change", [{"keep": 0.0}, {"keep": 1.5}, {"epochs": 0}, {"lrs": ()}, {"seeds": ()}])
def test_impossible_settings_are_refused(change):
    with pytest.raises(InputError, match="Fine-tuning needs at least one epoch"):
        replace(SETTINGS, **change)


def test_the_random_control_can_be_trained_from_scratch():
    settings = replace(SETTINGS, epochs=1, lrs=(1e-2,), seeds=(1,), keep=0.05)
    assert {row["encoder"] for row in tune(settings, "random-vit").rows} == {"random-vit"}


def test_the_command_tells_the_result_and_errors_without_a_traceback(unrendered, monkeypatch, capsys):
    monkeypatch.setattr(finetune_results, "run_finetuning", lambda name, pairs: run_finetuning(name, pairs, SETTINGS))
    monkeypatch.setattr("sys.argv", ["finetune", "tiny", "--profile", "tiny"])
    finetune_results.main()
    assert "mAP on test" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["finetune", "tiny", "sounds", "--profile", "tiny"])
    with pytest.raises(SystemExit, match="make finetune: Unknown dataset of profile tiny 'sounds'"):
        finetune_results.main()


def test_a_learning_rate_that_diverges_is_left_out_and_the_others_go_on(monkeypatch):
    real = Tuning.train

    def diverges_at_the_highest(self):
        if self.run.lr == max(SETTINGS.lrs):
            raise Diverged("The loss is not finite.")
        return real(self)

    monkeypatch.setattr(Tuning, "train", diverges_at_the_highest)
    rows = tune().rows
    assert {row["lr"] for row in rows if row["stage"] == "search"} == set(SETTINGS.lrs) - {max(SETTINGS.lrs)}
    assert len([row for row in rows if row["split"] == "test"]) == len(SETTINGS.seeds)


def test_a_damaged_checkpoint_is_told_and_the_training_starts_anew(unrendered, capsys):
    checkpoint = result_path("tiny", *PAIR).with_suffix("") / f"lr-{SETTINGS.lrs[0]:g}.seed-{SETTINGS.seeds[0]}.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"half a check")
    run_finetuning("tiny", [PAIR], SETTINGS)
    assert "is damaged: this training starts anew" in capsys.readouterr().out
    assert read_finetuning("tiny", *PAIR).rows == tune().rows and not checkpoint.parent.exists()


def test_two_runs_of_one_pair_do_no_harm(unrendered, monkeypatch):
    """Another run of the same pair begins and ends while this one is between two epochs."""
    real, others = Tuning._save, []

    def with_another_run(self):
        real(self)
        if not others:
            others.append(self)
            run_finetuning("tiny", [PAIR], SETTINGS)

    monkeypatch.setattr(Tuning, "_save", with_another_run)
    run_finetuning("tiny", [PAIR], SETTINGS)
    assert others and read_finetuning("tiny", *PAIR).rows == tune().rows


def test_what_was_fine_tuned_beside_the_profiles_own_is_found(unrendered):
    assert finished("tiny") == []
    run_finetuning("tiny", [PAIR], SETTINGS)
    assert finished("tiny") == [PAIR]


def test_a_full_disk_is_told_when_a_checkpoint_is_written(unrendered, monkeypatch, tmp_path):
    def full(state, path):
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr("lib.files.shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(InputError, match="disk is full while writing .* what is finished is kept"):
        run_finetuning("tiny", [PAIR], SETTINGS)
