"""What the paper left open: the list, what measures it, how it is judged and how it is shown."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from lib import open_features, open_options, open_protocol
from lib.arms import FEATURES, Arm
from lib.comparisons import final_values
from lib.encoders.pocket import POCKET
from lib.engine import StackedTraining
from lib.errors import InputError
from lib.figures import read_table, write_table
from lib.heads import HEADS, build_head
from lib.loss import asymmetric_loss
from lib.open_options import ABSENT, OUTCOMES, contrasts, judged, study_of
from lib.open_page import groups, in_words, list_markdown, rule, signed
from lib.open_protocol import CHANGES, SEARCHES, Rerun, Split, run_again
from lib.paths import figure_root
from lib.plots_options import plot_options
from lib.results import cell_path, make_cell, read_cell, run_cells
from lib.store import Embeddings, build_store
from lib.train import LOSSES, Run, Training, evaluate

GRID = (5, 2)


def embeddings(clips=12, classes=3, seed=0, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randn(clips, 10, 16, generator=rng) + shift
    targets = (torch.rand(clips, classes, generator=rng) < 0.5).float()
    targets[0], targets[1] = 1, 0
    return Embeddings(tokens.half(), tokens.mean(1), targets, GRID)


def built(name, **options):
    return build_head(name, 16, 3, GRID, 4, torch.Generator().manual_seed(7), **options)


def gradients(head, data):
    loss = LOSSES["asymmetric"](head(data.tokens.float(), data.cls), data.targets) + head.extra_loss()
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in head.named_parameters()}


# ---- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "proto", "protobin"])
def test_an_open_head_with_nothing_set_is_the_head_of_the_paper(name):
    (loss, ours), (expected, theirs) = (gradients(built(kind), embeddings()) for kind in (f"{name}-open", name))
    assert loss == pytest.approx(expected, rel=1e-6)
    for ours_, theirs_ in zip(ours.values(), theirs.values(), strict=True):
        torch.testing.assert_close(ours_.flatten(), theirs_.flatten())


def test_protobins_gradient_is_that_of_its_option_and_its_scores_do_not_change():
    data, found = embeddings(), {}
    heads = {
        "default": built("protobin-open"),
        "constant": built("protobin-open", length="constant"),
        "clipped": built("protobin-open", straight_through="clipped"),
    }
    for name, head in heads.items():
        with torch.no_grad():
            head.prototypes[0] *= 1000  # beyond one
        found[name] = gradients(head, data)
    assert found["default"][0] == pytest.approx(found["constant"][0]) == pytest.approx(found["clipped"][0])
    latent = heads["default"].prototypes.detach()
    inside, constant, clipped = (found[name][1]["prototypes"] for name in heads)
    unit = F.normalize(torch.where(latent >= 0, 1.0, -1.0), dim=-1)
    torch.testing.assert_close(inside, constant - (constant * unit).sum(-1, keepdim=True) * unit)
    assert not torch.allclose(inside, constant)
    beyond = latent.abs() > 1
    assert beyond.any() and not clipped[beyond].any()
    torch.testing.assert_close(clipped[~beyond], inside[~beyond])


def test_protobins_dropout_is_of_training_alone_and_the_same_in_every_process():
    data = embeddings()
    run = Run("protobin-open", 1e-2, 0.0, 3, 6, options={"dropout": 0.2}, prototypes=4)
    first, second = (StackedTraining([run], data).advance(3).scores(data) for _ in range(2))
    assert torch.equal(first, second)
    without = StackedTraining([replace(run, options={})], data).advance(3).scores(data)
    assert not torch.allclose(first, without)
    with pytest.raises(InputError, match="a share below 1"):
        built("protobin-open", dropout=1.0)


def test_protos_starts_are_what_they_are_called():
    plain, weights = built("proto-open"), built("proto-open", weights="uniform").classifier.weight
    assert plain.prototypes.min() >= 0 and (plain.classifier.weight == 1).all() and (plain.classifier.bias == -2).all()
    assert weights.abs().max() <= 0.5 and 0 < (weights < 0).sum() < weights.numel()  # 1/√4
    assert not built("proto-open", bias="zero").classifier.bias.any()
    normal = built("proto-open", start="normal").prototypes
    assert normal.min() < 0 and normal.std().item() == pytest.approx(0.02, rel=0.2)


# ---- features --------------------------------------------------------------------------------------------------------

STUDY = study_of("smoke")


@pytest.fixture
def stored(monkeypatch):
    """Put random tokens in the place of the store: a split's are its own."""
    splits = {"train": embeddings(40, seed=1, shift=3.0), "val": embeddings(20, seed=2), "test": embeddings(20, seed=3)}
    monkeypatch.setattr(open_features, "load_embeddings", lambda encoder, dataset, split, *more: splits[split])
    return splits


def read(features, split):
    arm = Arm(**vars(make_cell("pocket-eat", "soundscapes", "linpre")), name="x", features=features)
    return FEATURES[features](arm, STUDY, split)


def test_standardised_rows_are_standard_on_training_clips_and_use_those_alone(stored):
    train, val = (
        read("standardised rows", split).tokens.unflatten(1, GRID).mean(1).flatten(1) for split in ("train", "val")
    )
    torch.testing.assert_close(train.mean(0), torch.zeros(32), atol=1e-3, rtol=0)
    torch.testing.assert_close(train.std(0), torch.ones(32), atol=1e-2, rtol=0)
    assert val.mean() < -1  # the training clips lie higher


def test_a_padded_map_has_a_step_of_zeros_more_and_a_resampled_one_keeps_its_ends(stored):
    plain, padded, longer = stored["val"], read("padded map", "val"), read("resampled map", "val")
    assert padded.grid == longer.grid == (6, 2) and padded.tokens.shape == longer.tokens.shape == (20, 12, 16)
    assert torch.equal(padded.tokens[:, :10], plain.tokens) and not padded.tokens[:, 10:].any()
    assert torch.equal(longer.tokens[:, :2], plain.tokens[:, :2]) and torch.equal(
        longer.tokens[:, -2:], plain.tokens[:, -2:]
    )
    assert not torch.equal(longer.tokens[:, 4:6], plain.tokens[:, 4:6])


def test_short_clips_are_followed_by_silence_or_by_zeros():
    silence, zeros = (
        front("short-sounds", range(2), "train", 2, POCKET)
        for front in (open_features._second_then_silence, open_features._second_then_zeros)
    )
    assert silence.shape == zeros.shape
    torch.testing.assert_close(silence[:, :48], zeros[:, :48])  # frames that lie within the second
    torch.testing.assert_close(zeros[:, 50:], torch.full_like(zeros[:, 50:], -POCKET.mel_mean / POCKET.mel_std))
    floor = (np.log(np.finfo(np.float32).eps) - POCKET.mel_mean) / POCKET.mel_std
    torch.testing.assert_close(silence[:, 52:], torch.full_like(silence[:, 52:], floor), atol=1e-4, rtol=0)


def test_own_normalisation_is_that_of_the_training_clips():
    train, test = (open_features._own_normalised("short-sounds", range(4), s, 4, POCKET) for s in ("train", "test"))
    assert train.mean().item() == pytest.approx(0, abs=1e-3) and train.std().item() == pytest.approx(1, rel=1e-3)
    assert abs(test.mean().item()) > 1e-3


def test_what_is_encoded_anew_is_kept_and_made_again_when_it_is_damaged(monkeypatch):
    study = replace(STUDY, groups=tuple(replace(g, clips={"train": 3, "val": 2, "test": 2}) for g in STUDY.groups))
    arm = Arm(**vars(make_cell("pocket-eat", "short-sounds", "linear")), name="x", features="second, then zeros")
    open_features.build_encoded([arm], study, workers=1)
    first = FEATURES[arm.features](arm, study, "train")
    with monkeypatch.context() as patch:
        patch.setattr(open_features, "write_result", lambda *_: pytest.fail("encoded again"))
        assert torch.equal(FEATURES[arm.features](arm, study, "train").tokens, first.tokens)
    folder = open_features.store_folder("pocket-eat", "short-sounds", "train", 3).with_name("other-front-ends")
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.unlink()  # what was read may still be mapped
    path.write_bytes(whole[:1000])
    assert torch.equal(FEATURES[arm.features](arm, study, "train").tokens, first.tokens)
    assert first.tokens.shape == (3, 248, 128) and first.targets.shape == (3, 10)


# ---- protocol --------------------------------------------------------------------------------------------------------


def test_further_losses_are_what_they_are_called():
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = embeddings(8, 5).targets
    plain = asymmetric_loss(logits, targets)
    detached = LOSSES["asymmetric, detached"](logits, targets)
    assert detached.item() == pytest.approx(plain.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (detached, plain))
    assert not torch.allclose(ours, theirs, rtol=0.01)
    p = logits.sigmoid()
    weights = torch.where(targets > 0, 1 - p, (p - 0.05).clamp_min(0) ** 4).detach()
    shifted = torch.where(targets > 0, p.log(), (1 - (p - 0.05).clamp_min(0)).log())
    torch.testing.assert_close(ours, torch.autograd.grad(-(weights * shifted).mean(), logits)[0])
    assert LOSSES["asymmetric, summed"](logits, targets).item() == pytest.approx(40 * plain.item(), rel=1e-5)
    entropy = F.binary_cross_entropy_with_logits(logits, targets).item()
    assert LOSSES["asymmetric 0/0/0"](logits, targets).item() == pytest.approx(entropy, rel=1e-5)


SPLIT = Split(embeddings(24, seed=4), embeddings(12, seed=5), "mAP")


def runs(head="protobin", **more):
    base = Run(head, 2e-2, 1e-2, 6, 6, prototypes=4)
    return [replace(base, seed=seed, order_seed=seed, **more) for seed in (1, 2)]


def scores(heads, data=SPLIT.val):
    return torch.stack([open_protocol.predict(head, data) for head in heads])


def test_runs_that_are_not_changed_end_as_the_engine_ends_them():
    expected = StackedTraining(runs(), SPLIT.train).advance(6).scores(SPLIT.val)
    torch.testing.assert_close(scores(CHANGES["nothing"](runs(), SPLIT)), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        scores(CHANGES["plain loop"](runs("mhca"), SPLIT)),
        scores(CHANGES["nothing"](runs("mhca"), SPLIT)),
        atol=1e-3,
        rtol=1e-3,
    )


def test_the_best_epoch_is_the_first_with_the_highest_validation_score():
    training, values = StackedTraining(runs(lr=8e-2), SPLIT.train), []
    for epoch in range(1, 7):
        training.advance(epoch)
        values.append([evaluate(one, SPLIT.val.targets, "mAP") for one in training.scores(SPLIT.val)])
    best = [evaluate(one, SPLIT.val.targets, "mAP") for one in scores(CHANGES["best epoch"](runs(lr=8e-2), SPLIT))]
    assert best == pytest.approx(np.max(values, axis=0)) and best != pytest.approx(values[-1])


def test_changes_of_data_and_order_are_those_that_they_are_called():
    both = CHANGES["train and val"](runs(), SPLIT)
    joined = Embeddings(
        *(torch.cat([getattr(part, name) for part in SPLIT[:2]]) for name in ("tokens", "cls", "targets")), GRID
    )
    expected = StackedTraining(runs(), joined).advance(6).scores(SPLIT.val)
    torch.testing.assert_close(scores(both), expected, atol=1e-4, rtol=1e-4)
    one = StackedTraining([replace(run, order_seed=0) for run in runs()], SPLIT.train).advance(6).scores(SPLIT.val)
    torch.testing.assert_close(scores(CHANGES["one order"](runs(), SPLIT)), one, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(one, scores(CHANGES["nothing"](runs(), SPLIT)))


def test_changes_of_the_optimiser_reach_it():
    plain = scores(CHANGES["plain loop"](runs("mhca"), SPLIT))
    no_decay = runs("mhca", weight_decay=0.0)
    torch.testing.assert_close(
        scores(CHANGES["decay everything"](no_decay, SPLIT)), scores(CHANGES["plain loop"](no_decay, SPLIT))
    )
    torch.testing.assert_close(scores(CHANGES["clipped gradients"](runs("mhca"), SPLIT)), plain)  # none is so long
    changed = ("decay everything", "shorter memory", "warm up")
    strong = runs("mhca", weight_decay=1.0)
    found = [scores(CHANGES[name](strong, SPLIT)) for name in ("plain loop", *changed)]
    assert all(not torch.allclose(found[0], other, atol=1e-4) for other in found[1:])


def test_gradients_beyond_the_length_are_clipped_and_the_rate_warms_up():
    training = Training(runs("linear")[0], SPLIT.train)
    open_protocol._clip(training)
    for parameter in training.head.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    training.optimizer.step()
    length = torch.cat([p.grad.flatten() for p in training.head.parameters()]).norm().item()
    assert length == pytest.approx(2, rel=1e-4)
    training = Training(runs("linear", epochs=30)[0], SPLIT.train)  # 120 steps, of which 8 rise
    open_protocol._warm_up(training)
    rates = []
    for _ in range(120):
        rates.append(training.optimizer.param_groups[0]["lr"] / 2e-2)
        training.optimizer.step()
        training.schedule.step()
    assert rates[0] == pytest.approx(1 / 9) and rates[7] == pytest.approx(8 / 9) and rates[8] == pytest.approx(1)
    assert rates[8:] == sorted(rates[8:], reverse=True) and rates[-1] < 0.01


def test_changed_runs_take_their_settings_from_a_finished_arm_and_run_once():
    build_store(["pocket-eat"], "soundscapes", STUDY.clips_of("soundscapes"), workers=1)
    plain = Arm(**vars(make_cell("pocket-eat", "soundscapes", "linear")), name="linear")
    again = Rerun(**{**vars(plain), "name": "again"}, settings=plain)
    with pytest.raises(InputError, match="missing or damaged"):
        run_again(STUDY.name, [again], workers=1)
    run_cells(STUDY.name, [plain], workers=1, show=False)
    others = [replace(again, name=change, change=change) for change in ("double precision", "no halving")]
    assert run_again(STUDY.name, [again, *others], workers=1) == [arm.key for arm in (again, *others)]
    assert not run_again(STUDY.name, [again, *others], workers=1)
    assert final_values(STUDY, again) == pytest.approx(final_values(STUDY, plain))
    torch.testing.assert_close(read_cell(STUDY, again).test_scores, read_cell(STUDY, plain).test_scores)
    rungs = {row["rung"] for row in read_cell(STUDY, others[1]).rows if row["stage"] == "search"}
    assert rungs == {STUDY.epochs}
    run_cells(STUDY.name, [replace(plain, options={"head_bn": True})], workers=1, show=False)  # other settings
    assert run_again(STUDY.name, [again], workers=1) == [again.key]
    with pytest.raises(InputError, match="Unknown change 'best'"):
        run_again(STUDY.name, [replace(again, name="x", change="best")], workers=1)
    assert not cell_path(STUDY, replace(again, name="x")).is_file()


# ---- the list --------------------------------------------------------------------------------------------------------


def test_every_option_is_named_once_and_says_what_is_needed():
    options = open_options.open_options()
    assert max(Counter(option.id for option in options).values()) == 1
    for option in options:
        assert all([option.option, option.default, option.why, option.where, option.alternatives]), option.id
        assert bool(option.paper) == bool(option.place), option.id
        assert bool(option.not_measured) != bool(option.heads), option.id
        names = [choice.name for choice in option.alternatives]
        assert len(set(names)) == len(names) and option.default not in names
        for choice in option.alternatives:
            bare = replace(choice, name="", short="")
            assert (bare == open_options.Choice()) == bool(option.not_measured), f"{option.id}: {choice.name}"
            assert option.not_measured or len(choice.short or choice.name) <= 26, f"{option.id}: {choice.name}"


@pytest.mark.parametrize("profile", ["smoke", "pocket", "esc10"])
def test_every_alternative_is_an_arm_that_can_be_built_and_differs_from_the_default(profile):
    study = study_of(profile)
    found = contrasts(study)
    arms = dict.fromkeys(arm for one in found for arm in (one.default, one.arm))
    assert len({arm.key for arm in arms}) == len(arms)
    for one in found:
        assert one.arm != replace(one.default, name=one.arm.name) and one.head in HEADS
        assert one.arm.dataset == one.default.dataset and one.arm.encoder == one.default.encoder
        assert one.arm.features in FEATURES and one.arm.loss in LOSSES
        if isinstance(one.arm, Rerun):
            assert one.arm.change in {**CHANGES, **SEARCHES}
            assert (one.arm.options, one.arm.features) == (one.default.options, one.default.features)
    for arm in {(arm.head, str(arm.options)): arm for arm in arms}.values():
        build_head(arm.head, 128, 10, (31, 8), 4, **arm.options)
    measured = {one.option.id for one in found}
    absent = {option.id for option in open_options.open_options() if not option.not_measured} - measured
    assert absent == ({"cls"} if profile == "smoke" else set())  # smoke has no pretrained encoder without a [cls]


def test_an_encoder_with_and_one_without_cls_are_told_apart():
    study = study_of("pocket")
    assert open_options.encoders_of(study, "with cls") == ["pocket-amae", "pocket-eat"]
    assert open_options.encoders_of(study, "without cls") == ["pocket-beats", "pocket-dasheng"]
    kinds = open_options.datasets_of(study)
    assert kinds == {"polyphonic": "ten-sounds", "single": "short-sounds"}


# ---- what is said and shown ------------------------------------------------------------------------------------------


def effects(change):
    """Write and read a table of effects: `change` maps a row's facts to difference, half width and spread."""
    rows = []
    for option in open_options.open_options():
        choices = [open_options._about(option, choice) for choice in option.alternatives]
        if option.not_measured:
            rows += [about | {"reason": option.not_measured} for about in choices]
            continue
        for about in choices:
            for head in option.heads:
                for encoder in ("pocket-amae", "pocket-eat"):
                    value, half, spread = change(option.id, encoder)
                    low, high = value - half, value + half
                    measured = {"difference": value, "low": low, "high": high, "spread": spread, "n_seeds": 3}
                    where = {"head": head, "dataset": "ten-sounds", "encoder": encoder, "metric": "mAP"}
                    clear = abs(value) > max(half, spread)
                    rows.append(about | where | measured | {"clear": clear})
    table = pd.DataFrame(rows, columns=open_options.COLUMNS).astype({"clear": "boolean"})
    write_table(figure_root() / "options.csv", table, "a test")
    return read_table(figure_root() / "options.csv")  # as the page has it


CASES = {
    "matters": lambda option, encoder: (-3.0, 1.0, 1.0),
    "one encoder": lambda option, encoder: (3.0 if encoder == "pocket-eat" else 0.1, 1.0, 1.0),
    "both signs": lambda option, encoder: (3.0 if encoder == "pocket-eat" else -3.0, 1.0, 1.0),
    "seeds": lambda option, encoder: (3.0, 1.0, 4.0),
    "clips": lambda option, encoder: (3.0, 4.0, 1.0),
}


@pytest.mark.parametrize(("case", "outcome"), list(zip(CASES, (0, 1, 1, 2, 2), strict=True)))
def test_an_outcome_needs_clips_seeds_and_every_encoder(case, outcome):
    table = effects(CASES[case])
    assert set(judged(table)["outcome"]) == {OUTCOMES[outcome]}
    said = in_words(table)
    measured = sum(not option.not_measured for option in open_options.open_options())
    counts = [f"{measured} matter" if number == outcome else "None matters" for number in range(2)]
    assert said[1].startswith(f"**{counts[0]}**") and said[2].startswith(f"**{counts[1]} somewhere**")
    assert said[3].startswith(f"Of **{measured if outcome == 2 else 0}**")
    assert not any("nan" in sentence for sentence in said)


def test_sentences_name_what_matters_with_its_numbers():
    table = effects(lambda option, encoder: (-4.25, 1.0, 1.0) if option == "mhca-norm" else (0.1, 1.0, 1.0))
    said = in_words(table)
    assert "mhca, norm of the tokens before attention: *none, as in the group's ports* (mhca −4.2 to −4.2)" in said[1]
    assert "The largest is −4.2: norm of the tokens" in said[4] and "norm of the tokens" not in said[3]
    assert said[1].startswith("**One matters**")


def test_a_profile_that_measures_nothing_is_told_so_in_words_list_and_picture():
    table = effects(CASES["clips"])
    table = table.assign(difference=np.nan, head=None, reason=ABSENT)
    table.attrs["note"] = "a test"
    assert in_words(table) == [
        f"Nothing of the {len(open_options.open_options())} options was measured in this profile."
    ]
    assert ABSENT in list_markdown("mhca", table)
    assert any("Nothing was measured" in text.get_text() for text in plot_options(table).axes[0].texts)


def test_the_list_shows_every_option_with_its_effects_and_reasons():
    table = effects(CASES["matters"])
    page = "\n".join(list_markdown(group, table) for group in groups())
    for option in open_options.open_options():
        assert f"| {option.option} |" in page and option.not_measured in page
    assert "**−3.0 [−4.0, −2.0]**" in page
    assert page.count("−3.0 [") == int(table["difference"].notna().sum())
    assert "−3.0" not in "\n".join(list_markdown(group) for group in groups())
    assert "leaves zero out" in rule()


def test_the_picture_has_a_line_for_every_effect_and_fills_the_clear_ones():
    table = effects(lambda option, encoder: (3.0, 1.0, 1.0) if encoder == "pocket-eat" else (0.2, 1.0, 1.0))
    figure = plot_options(table)
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["A-MAE", "EAT"]
    rows = table[table["difference"].notna()]
    for axes, filled in zip(panels, (False, True), strict=True):
        dots = [line for line in axes.lines if line.get_marker() not in ("None", None) and len(line.get_xdata()) == 1]
        assert len(dots) == len(rows) / 2
        assert all((dot.get_markerfacecolor() != "white") == filled for dot in dots)
        assert len({dot.get_ydata()[0] for dot in dots}) == len(dots)
    written = {text.get_text().split(" · ")[0] for text in panels[0].texts}
    assert set(rows["short"]) <= written and set(rows["group"]) <= written


def test_what_rounds_to_nothing_has_no_sign():
    assert (signed(-0.04), signed(0.26), signed(-1.2)) == ("0.0", "+0.3", "−1.2")
