"""Training one head, searching its settings, and the promise that test data decides nothing."""

from dataclasses import replace

import pytest
import torch

from lib import search
from lib.errors import InputError
from lib.heads import HEADS
from lib.profiles import PROFILES, load_profile
from lib.search import Cell, run_cell, rungs
from lib.store import Embeddings
from lib.train import Run, Training, batches, evaluate

PROFILE = replace(PROFILES["smoke"], trials=4, epochs=4, first_rung=1, rung_factor=2, top_k=2, seeds=(1, 2))


def toy(clips=40, seed=0, grid=(6, 4), dim=16, classes=3):
    """Clips in which one token carries the sign of each class that is present; the rest is noise."""
    g = torch.Generator().manual_seed(seed)
    signs = torch.randn(classes, dim, generator=torch.Generator().manual_seed(77))
    targets = (torch.rand(clips, classes, generator=g) < 0.4).float()
    targets[0] = 1.0
    tokens = 0.3 * torch.randn(clips, grid[0] * grid[1], dim, generator=g)
    for clip, label in targets.nonzero().tolist():
        tokens[clip, int(torch.randint(tokens.shape[1], (1,), generator=g))] += signs[label]
    return Embeddings(tokens.half(), tokens.mean(1), targets, grid)


def run(head="protobin", **changes):
    return replace(Run(head, lr=2e-2, weight_decay=1e-4, epochs=6, batch_size=8, prototypes=3), **changes)


def state(training):
    return [value.clone() for value in training.head.state_dict().values()]


@pytest.mark.parametrize("head", list(HEADS))
def test_every_head_trains_and_its_loss_falls(head):
    options = {"num_heads": 4} if head == "mhca" else {"num_queries": 4} if head == "ep" else {}
    training, data = Training(run(head, lr=5e-3, epochs=20, options=options), toy()), toy()
    from lib.loss import asymmetric_loss

    before = asymmetric_loss(training.scores(data), data.targets)
    after = asymmetric_loss(training.advance(20).scores(data), data.targets)
    assert after < before


@pytest.mark.parametrize("head", ["mhca", "protobin", "proto"])
def test_the_same_run_gives_the_same_bytes_paused_or_not(head):
    options = {"num_heads": 4} if head == "mhca" else {}
    whole = Training(run(head, options=options), toy()).advance(6)
    torch.rand(5)  # the global generator is nobody's business
    paused = Training(run(head, options=options), toy()).advance(2).advance(3).advance(6)
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(paused), strict=True))


def test_seed_and_order_seed_each_change_the_run():
    states = [state(Training(run(**c), toy()).advance(2)) for c in ({}, {"seed": 1}, {"order_seed": 1})]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not all(torch.equal(a, b) for a, b in zip(states[i], states[j], strict=True))


def test_an_epoch_uses_every_clip_once_and_no_batch_is_a_single_clip():
    parts = batches(33, 8, order_seed=4, epoch=2)
    assert sorted(torch.cat(parts).tolist()) == list(range(33))
    assert min(map(len, parts)) > 1
    assert not torch.equal(torch.cat(parts), torch.cat(batches(33, 8, 4, 3)))


def test_the_learning_rate_falls_to_zero_along_a_cosine():
    training = Training(run(epochs=4), toy(clips=16))
    rates = []
    for epoch in range(1, 5):
        rates.append(training.advance(epoch).optimizer.param_groups[0]["lr"])
    expected = [2e-2 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * e / 4)).item()) for e in range(1, 5)]
    assert rates == pytest.approx(expected, abs=1e-9)


def test_nan_in_the_embeddings_is_named_with_head_and_epoch():
    data = toy()
    data.tokens[:] = float("nan")
    with pytest.raises(InputError, match="loss of head 'mhca' became nan in epoch 1 at learning rate"):
        Training(run("mhca", options={"num_heads": 4}), data).advance(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "protobinn"}, "Unknown head 'protobinn'.*Did you mean 'protobin'"),
        ({"loss": "bce"}, "Unknown loss 'bce'; choose one of: asymmetric, cross-entropy"),
    ],
)
def test_a_wrong_name_is_one_clear_sentence(changes, message):
    with pytest.raises(InputError, match=message):
        Training(run(**changes), toy())


def test_one_clip_is_too_few_to_train_on():
    with pytest.raises(InputError, match=r"cannot be trained on 1 clip"):
        Training(run(), toy(clips=1))


def test_scores_without_any_positive_are_refused():
    data = toy()
    with pytest.raises(InputError, match="None of the 3 classes has a positive clip"):
        evaluate(torch.zeros(4, 3), torch.zeros_like(data.targets[:4]), "mAP")


def test_rungs_grow_by_the_factor_and_end_with_the_last_epoch():
    assert rungs(load_profile("pocket")) == [3, 9, 27, 30]
    assert rungs(PROFILE) == [1, 2, 4]


CELL = Cell("toy", "toy", "protobin", prototypes=3)


def loader(log, test=None):
    splits = {"train": toy(seed=1), "val": toy(24, seed=2), "test": test or toy(24, seed=3)}

    def load(split, view=0):
        log.append(split if view == 0 else f"{split}/{view}")
        return splits[split]

    return load


def test_the_test_split_is_read_once_after_the_last_choice(monkeypatch):
    log, real = [], search.evaluate
    monkeypatch.setattr(search, "evaluate", lambda *a: log.append("evaluate") or real(*a))
    run_cell(CELL, PROFILE, loader(log))
    assert log[:2] == ["train", "val"] and log.count("test") == 1
    # After the test split was read, only the winner's seeds are evaluated.
    assert log[log.index("test") + 1 :] == ["evaluate"] * len(PROFILE.seeds)


def test_the_test_split_decides_nothing():
    real = run_cell(CELL, PROFILE, loader([]))
    garbage = replace_targets(toy(24, seed=3))
    poisoned = run_cell(CELL, PROFILE, loader([], garbage))
    choice = [[r for r in result.rows if r["split"] == "val"] for result in (real, poisoned)]
    assert choice[0] == choice[1]
    assert all(torch.equal(real.weights[k], poisoned.weights[k]) for k in real.weights)
    values = [[r["value"] for r in result.rows if r["split"] == "test"] for result in (real, poisoned)]
    assert values[0] != values[1]


def replace_targets(data):
    return Embeddings(data.tokens, data.cls, data.targets.flip(0), data.grid)


def test_a_search_explores_then_exploits_and_stops_the_losers():
    rows = run_cell(CELL, replace(PROFILE, trials=8), loader([])).rows
    searched = [r for r in rows if r["stage"] == "search"]
    trials = {(r["lr"], r["weight_decay"]) for r in searched}
    ended = {t: max(r["rung"] for r in searched if (r["lr"], r["weight_decay"]) == t) for t in trials}
    assert len(trials) == 8 and any(e < 4 for e in ended.values()) and any(e == 4 for e in ended.values())
    low, high = search.LR_RANGES["prototype"]
    assert all(low <= lr <= high for lr, _ in trials)
    assert {r["seed"] for r in searched} == {0} and {r["order_seed"] for r in searched} == {0}


def test_final_seeds_have_batch_orders_of_their_own_and_the_winner_is_the_best_on_validation():
    result = run_cell(CELL, PROFILE, loader([]))
    seeds = [r for r in result.rows if r["stage"] == "seeds"]
    finals = [r for r in result.rows if r["split"] == "test"]
    assert [(r["seed"], r["order_seed"]) for r in finals] == [(1, 1), (2, 2)]
    means = {}
    for r in seeds:
        means.setdefault(r["lr"], []).append(r["value"])
    assert {r["lr"] for r in finals} == {max(means, key=lambda lr: sum(means[lr]))}
    assert result.test_scores.shape == (2, 24, 3)


def test_each_seed_trains_on_the_stored_view_that_it_draws_and_scores_keep_the_order_of_the_seeds():
    log = []
    profile = replace(PROFILE, seeds=(1, 2, 3))
    result = run_cell(replace(CELL, views=2), profile, loader(log))
    assert log == ["train", "val", "train/1", "train", "test"]
    finals = {r["seed"]: r for r in result.rows if r["split"] == "test"}
    assert {seed: r["view"] for seed, r in finals.items()} == {1: 1, 2: 0, 3: 1}
    targets = loader([])("test").targets
    for seed, scores in zip(profile.seeds, result.test_scores, strict=True):
        assert finals[seed]["value"] == pytest.approx(evaluate(scores, targets, "mAP"), abs=1e-5)
    alike = run_cell(CELL, profile, loader([]))  # the same clips in both views: what trains together changes nothing
    assert torch.allclose(alike.test_scores, result.test_scores, atol=1e-4)


def test_a_cell_run_twice_gives_the_same_bytes():
    first, second = (run_cell(CELL, PROFILE, loader([])) for _ in range(2))
    assert first.rows == second.rows and torch.equal(first.test_scores, second.test_scores)
