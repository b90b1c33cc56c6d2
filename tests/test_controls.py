"""The controls: their heads are what they say, their arms differ in one thing, their tables say what was measured."""

from dataclasses import replace
from itertools import pairwise, product
from zlib import crc32

import numpy as np
import pytest
import torch

from lib.controls import (
    ALL,
    ENTRIES,
    FACTORS,
    OTHERS,
    PROTOBIN_CURVE,
    VECTORS,
    WALK,
    WALK_FROM,
    Measured,
    make_arm,
    validation_score,
)
from lib.controls_tables import (
    CONTRASTS,
    GAIN,
    INGREDIENTS,
    REFERENCES,
    REMAINS,
    arm_table,
    capacity_table,
    capacity_words,
    effect_table,
    effects_shown,
    factor,
    protobin_of,
    verdict,
)
from lib.engine import StackedTraining
from lib.errors import InputError
from lib.figures import read_table, write_table
from lib.heads import build_head
from lib.loss import orthogonality_loss
from lib.plots_controls import plot_arms, plot_capacity, plot_effects
from lib.store import Embeddings
from lib.train import Run, Training

GRID, DIM, CLASSES, J = (3, 2), 8, 3, 4
N, K = GRID[0] * GRID[1], CLASSES * J
PROTO = {"class_dependent": True, "orthogonality_weight": 1.0, "start": "uniform", "ones": True, "positive": True}
PROTO |= {"cosine": "upstream"}
BY_NAME = {entry.name: entry for entry in ENTRIES}
PAIRS = [(f"pocket-{encoder}", data) for data in ("many-sounds", "ten-sounds") for encoder in ("amae", "asit", "eat")]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head(name, seed=0, **options):
    return build_head(name, DIM, CLASSES, GRID, J, torch.Generator().manual_seed(seed), **options)


def toy(clips=12):
    targets = (noise(clips, CLASSES, seed=1) > 0).float()
    return Embeddings(noise(clips, N, DIM).half(), noise(clips, DIM, seed=2), targets, GRID)


def run(name, seed=1, lr=0.02, **options):
    return Run(name, lr, 1e-4, 3, 4, seed=seed, order_seed=seed, prototypes=J, options=options)


# ---- heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper, options", [("protofloat", {}), ("protobin", {"binary": True}), ("proto", PROTO)])
def test_with_these_options_it_is_a_head_of_the_paper_from_the_start_to_the_last_epoch(paper, options):
    ours, theirs, tokens = head("prototypes", **options), head(paper), noise(5, N, DIM, seed=3)
    assert torch.allclose(ours(tokens, None), theirs(tokens, None), atol=1e-6)
    assert torch.allclose(torch.as_tensor(ours.extra_loss()), torch.as_tensor(theirs.extra_loss()), rtol=1e-5)
    states = [
        StackedTraining([run(name, **some)], toy()).advance(3).state(0)
        for name, some in (("prototypes", options), (paper, {}))
    ]
    for name, value in states[1].items():
        assert torch.allclose(states[0][name].flatten(), value.flatten(), atol=1e-4), name


def test_a_class_with_prototypes_of_its_own_sees_no_others():
    ours, tokens = head("prototypes", class_dependent=True), noise(5, N, DIM, seed=3)
    before = ours(tokens, None)
    with torch.no_grad():
        ours.prototypes[J:] = noise(K - J, DIM, seed=4)  # those of all classes but the first
    after = ours(tokens, None)
    assert torch.equal(before[:, 0], after[:, 0]) and not torch.isclose(before[:, 1:], after[:, 1:]).any()


def test_a_negative_weight_counts_unless_weights_are_positive():
    tokens = noise(5, N, DIM, seed=3)
    for positive in (False, True):
        ours = head("prototypes", class_dependent=True, positive=positive)
        with torch.no_grad():
            ours.classifier.weight.fill_(-1)
        nothing = torch.allclose(ours(tokens, None), ours.classifier.bias.expand(5, -1))
        assert nothing == positive


@pytest.mark.parametrize("pooling, top", [("max", 1), ("mean", N), ("topk", 2), ("topk", 99)])
def test_poolings_are_over_the_valid_tokens(pooling, top):
    ours, tokens = head("prototypes", binary=True, pooling=pooling, top=top), noise(2, N, DIM, seed=3)
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[0, 4:] = False
    y = ours.pool(tokens, None, mask)
    signs = torch.where(ours.prototypes >= 0, 1.0, -1.0)
    for clip, valid in ((0, 4), (1, N)):
        cosine = torch.cosine_similarity(tokens[clip, :valid, None], signs, dim=-1)  # (n, K)
        expected = cosine.sort(0, descending=True).values[: min(top, valid)].mean(0)
        assert torch.allclose(y[clip], expected, atol=1e-6)


@pytest.mark.parametrize("binary", [False, True])
def test_the_orthogonality_loss_is_of_the_prototypes_as_they_are_used(binary):
    ours = head("prototypes", binary=binary, orthogonality_weight=2.0)
    used = torch.where(ours.prototypes >= 0, 1.0, -1.0) if binary else ours.prototypes
    expected = 2 * orthogonality_loss(used.view(CLASSES, J, DIM))
    assert ours.extra_loss().item() == pytest.approx(expected.item()) and expected.item() > 0
    assert float(head("prototypes", binary=binary).extra_loss()) == 0


def test_frozen_prototypes_are_no_parameters_and_stay_where_they_were():
    training = StackedTraining([run("prototypes", binary=True, frozen=True)], toy())
    start = training.initial_state(0)
    end = training.advance(3).state(0)
    assert training.parameters == K * CLASSES + CLASSES
    assert torch.equal(start["prototypes"], end["prototypes"])
    assert not torch.equal(start["classifier.weight"], end["classifier.weight"])
    assert torch.equal(start["prototypes"], head("protobin", seed=1).prototypes)  # the same draw


def test_vector_is_linear_and_its_layer_norm_has_scale_and_shift():
    cls = noise(5, DIM, seed=3)
    plain, normed = head("vector"), head("vector", norm="layer")
    assert torch.equal(plain(None, cls), head("linear")(None, cls))
    assert torch.allclose(normed(None, cls), normed(None, 3 * cls + 1), atol=1e-4)
    assert sum(p.numel() for p in normed.parameters()) == sum(p.numel() for p in plain.parameters()) + 2 * DIM


def test_dropout_acts_in_training_only_and_draws_from_nothing_global():
    ours, cls = head("vector", dropout=0.5), torch.ones(200, DIM)
    state = torch.random.get_rng_state()
    one, two = (ours.train().pool(None, cls, None) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(one, two) and set(one.unique().tolist()) == {0.0, 2.0}
    assert abs(float(one.mean()) - 1) < 0.1
    assert torch.equal(ours.eval().pool(None, cls, None), cls)
    assert not torch.equal(one, head("vector", seed=1, dropout=0.5).train().pool(None, cls, None))
    with pytest.raises(InputError, match="below 1"):
        head("vector", dropout=1.0)


def test_runs_with_dropout_repeat_and_do_not_depend_on_the_runs_beside_them():
    data, runs = toy(), [run("vector", seed, dropout=0.4) for seed in (1, 2)]
    together = StackedTraining(runs, data).advance(3)
    torch.manual_seed(7)
    again = StackedTraining(runs, data).advance(3)
    alone = StackedTraining(runs[1:], data).advance(3)
    for name, value in together.state(1).items():
        assert torch.equal(value, again.state(1)[name])
        assert torch.allclose(value.double(), alone.state(0)[name].double(), atol=1e-6), name
    assert torch.equal(together.scores(data), together.scores(data))  # off
    plain = Training(runs[1], data).advance(3)
    assert torch.allclose(plain.scores(data), together.scores(data)[1], atol=1e-4)
    without = StackedTraining([run("vector", 2)], data).advance(3)
    assert not torch.allclose(without.scores(data)[0], together.scores(data)[1], atol=1e-3)


# ---- arms --------------------------------------------------------------------------------------------------------


def test_arms_have_names_of_their_own_that_are_good_for_files():
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names) and not any(set(name) & set("/=.-") for name in names)
    assert len({entry.label for entry in ENTRIES}) == len(names)
    assert {*VECTORS, *OTHERS, *PROTOBIN_CURVE, *WALK.values(), WALK_FROM} <= set(names)


def test_every_step_of_the_walk_changes_one_thing_and_the_last_is_all_of_proto():
    known = {"protofloat": {}, "proto": PROTO}
    said = [BY_NAME[name] for name in (WALK_FROM, *WALK.values())]
    options = [known.get(entry.head, entry.options) for entry in said]
    default = {"binary": False, "class_dependent": False, "orthogonality_weight": 0.0, "start": "normal"}
    default |= {"ones": False, "positive": False, "cosine": "plain"}
    for before, after in pairwise([default | some for some in options]):
        assert sum(before[name] != after[name] for name in default) == 1
    assert len({entry.share for entry in said}) == 1


def test_the_factorial_has_all_eight_once_from_one_start_with_one_number_of_prototypes():
    known = {"protofloat": {}, "protobin": {"binary": True}}
    cells = [BY_NAME[" ".join(levels)] for levels in product(*FACTORS)]
    default = {"binary": False, "class_dependent": False, "orthogonality_weight": 0.0}
    options = [tuple((default | known.get(cell.head, cell.options)).items()) for cell in cells]
    assert len(set(options)) == 8 and len({cell.share for cell in cells}) == 1
    assert all({"start", "ones", "positive", "cosine"}.isdisjoint(cell.options) for cell in cells)


def test_an_mlp_of_protobins_size_has_its_size_and_fewer_prototypes_are_at_least_one():
    counts = {}
    for name in ("mlp matched", "protobin", "protobin one"):
        arm = make_arm(BY_NAME[name], "pocket-eat", "many-sounds", 128)
        built = build_head(arm.head, 128, 49, (31, 8), arm.prototypes, **arm.options)
        counts[name] = sum(parameter.numel() for parameter in built.parameters())
        assert name != "protobin one" or arm.prototypes == 1
    assert abs(counts["mlp matched"] - counts["protobin"]) <= 128 + 1 + 49  # a hidden unit
    assert make_arm(BY_NAME["linear mean"], "pocket-eat", "many-sounds", 128).cls_mode == "mean"
    assert make_arm(BY_NAME["linear max"], "pocket-eat", "many-sounds", 128).features == "max"


def test_the_validation_score_is_that_of_the_setting_that_was_tested():
    def row(stage, split, lr, value):
        return {"stage": stage, "split": split, "lr": lr, "weight_decay": 1.0, "value": value}

    rows = [row("search", "val", 0.1, 99), row("seeds", "val", 0.1, 40), row("seeds", "val", 0.1, 60)]
    rows += [row("seeds", "val", 0.2, 90), row("final", "test", 0.1, 10), row("final", "test", 0.1, 20)]
    assert validation_score(rows) == 50


# ---- tables ------------------------------------------------------------------------------------------------------


def measured(scores, pairs=PAIRS, validation=None, spread=1.0):
    """Measured arms: `scores` by name (others 50), draws around them that all arms of a dataset share."""
    draws, sizes = {}, {}
    for (encoder, dataset), entry in product(pairs, ENTRIES):
        clips = np.random.default_rng(len(dataset)).normal(0, spread, 200)
        own = np.random.default_rng(crc32(f"{encoder} {entry.name}".encode())).normal(0, 0.1, 200)
        value = scores.get(entry.name, 50.0)
        draws[encoder, dataset, entry.name] = np.append(value, value + clips + own)
        sizes[encoder, dataset, entry.name] = 1000
    for pair in pairs:
        for name, size in zip(PROTOBIN_CURVE, (100, 1000, 10_000, 100_000), strict=True):
            sizes[*pair, name] = size
    best = {key: (validation or {}).get(key[2], 0.0) for key in draws}
    return Measured(draws, dict.fromkeys(draws, 1.0), best, sizes, dict.fromkeys(draws, 5))


def test_contrasts_are_differences_between_arms_that_exist():
    for contrasts in CONTRASTS.values():
        for weights in contrasts.values():
            assert sum(weights.values()) == 0 and sum(map(abs, weights.values())) == 2
            assert set(weights) <= set(BY_NAME)
    assert set(INGREDIENTS) and factor(0)["binary dependent orthogonal"] == 0.25


def test_a_main_effect_is_the_mean_of_four_minus_the_mean_of_four():
    scores = {
        " ".join(levels): 50.0 + 2 * (levels[0] == "binary") - 3 * (levels[2] == "free") for levels in product(*FACTORS)
    }
    table = effect_table(measured(scores))
    shown = effects_shown(table, "ingredient")
    assert shown.loc["signs instead of floats", "value"] == pytest.approx(2)
    assert shown.loc["no orthogonality loss instead of one", "value"] == pytest.approx(-3)
    assert shown.loc["prototypes for all classes instead of one each", "value"] == pytest.approx(0, abs=0.01)
    assert (shown["pairs"] == 6).all() and shown.loc["signs instead of floats", "above zero"] == 6


def test_the_tables_hold_differences_paired_by_clips_and_their_averages():
    table = arm_table(measured({"protobin": 60, "linear": 40, "linpre": 45}))
    assert len(table) == len(ENTRIES) * 7
    rows = table[table["arm"] == "linpre"].set_index(["encoder", "dataset"])
    average = rows.loc[(ALL, ALL)]
    assert average["above_linear"] == pytest.approx(5) and average["above_protobin"] == pytest.approx(-15)
    assert average["above_linear_high"] - average["above_linear_low"] < 0.5  # the clips' spread of 4 cancels
    assert average["high"] - average["low"] > 1
    assert rows.loc[PAIRS[0], "parameters"] == 1000 and np.isnan(average["parameters"])
    protobin = table[(table["arm"] == "protobin") & (table["encoder"] == ALL)].iloc[0]
    assert protobin["above_protobin"] == protobin["above_protobin_low"] == 0


def test_the_reference_is_chosen_on_validation_never_on_test():
    scores = {"protobin": 60, "linear": 40, "linear mean": 59, "linear max": 45, "linpre": 50}
    table = effect_table(measured(scores, validation={"linear max": 2, "linpre": 1, "linear mean": 0.5}))
    rows = table[table["effect"] == REMAINS]
    assert rows[rows["encoder"] == ALL]["value"].item() == pytest.approx(15)
    assert rows[rows["encoder"] == ALL]["note"].item() == "linear on token-wise max"
    assert rows[rows["encoder"] == ALL]["share"].item() == pytest.approx(0.75)
    assert REFERENCES[GAIN] == "linear"


@pytest.mark.parametrize(
    "scores, words",
    [
        ({"protobin": 60, "linear": 40, "linpre": 45}, ["20.0 [", "15.0 [", "remain, 75 % [", "of the gain"]),
        ({"protobin": 60, "linear": 40, "linpre": 60}, ["it may be nothing: 0.0 ["]),
        ({"protobin": 60, "linear": 40, "linpre": 65}, ["behind it: −5.0 ["]),
        ({"protobin": 40, "linear": 40, "linpre": 40}, ["no clear gain", "0.0 ["]),
    ],
)
def test_the_first_sentence_of_the_verdict_says_what_was_measured(scores, words):
    for pairs in (PAIRS, PAIRS[:1]):
        table = effect_table(measured(scores, pairs, validation={"linpre": 1}))
        sentence = verdict(table)[0]
        assert all(part in sentence for part in words), sentence
        assert ("of the gain" in sentence) == (scores["protobin"] > scores["linear"])
        assert ("6 pairs" if len(pairs) == 6 else "1 pair ") in sentence


@pytest.mark.parametrize(
    "scores, words",
    [
        ({"mean": 40, "topk": 47}, ["matters most is the maximum over tokens", "gives 10.0 [", "gives 3.0 ["]),
        ({"topk": 54}, ["mean of 5: it costs 4.0 [3."]),
        ({}, ["None of the 6 ingredients"]),
    ],
)
def test_the_second_sentence_names_the_largest_effect_whatever_its_sign(scores, words):
    sentence = verdict(effect_table(measured(scores)))[1]
    assert all(part in sentence for part in words), sentence


def test_at_equal_size_protobin_is_read_off_its_curve():
    scores = dict(zip(PROTOBIN_CURVE, (10.0, 20.0, 40.0, 80.0), strict=True))
    found = measured(scores | {"mhca": 25.0}, PAIRS[:1])
    assert protobin_of(found, PAIRS[0], 3162)[0][0] == pytest.approx(30, abs=0.01)
    for size, value, within in ((50, 10, False), (100, 10, True), (10**6, 80, False)):
        twin, inside = protobin_of(found, PAIRS[0], size)
        assert twin[0] == pytest.approx(value) and inside == within
    table = capacity_table(replace(found, parameters=found.parameters | {(*PAIRS[0], "mhca"): 10_000}))
    row = table[(table["arm"] == "mhca") & (table["dataset"] == ALL)].iloc[0]
    assert row["gap"] == pytest.approx(15) and row["within"]


@pytest.mark.parametrize(
    "mlp, lies", [(40.0, "is above an mlp"), (60.0, "is below an mlp"), (50.0, "not clearly above or below an mlp")]
)
def test_the_sentences_on_capacity_say_on_which_side_protobin_is(mlp, lies):
    found = measured({"mlp matched": mlp})
    sentence = capacity_words(capacity_table(found))[1]
    assert lies in sentence and "nearest in size" not in sentence
    far = {key: 10**6 if key[2] == "mlp matched" else size for key, size in found.parameters.items()}
    assert "nearest in size" in capacity_words(capacity_table(replace(found, parameters=far)))[1]


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[:1]])
def test_pictures_are_drawn_from_the_written_tables(pairs, tmp_path):
    found = measured({"protobin": 60, "linear": 40}, pairs)
    tables = {plot_arms: arm_table(found), plot_effects: effect_table(found), plot_capacity: capacity_table(found)}
    for draw, table in tables.items():
        write_table(tmp_path / "table.csv", table, "profile smoke")
        figure = draw(read_table(tmp_path / "table.csv"))
        figure.draw_without_rendering()
        assert figure.axes and all(axes.lines for axes in figure.axes)
        labels = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
        assert draw is plot_capacity or len(labels) == len(figure.axes[0].get_yticks()) > 10
