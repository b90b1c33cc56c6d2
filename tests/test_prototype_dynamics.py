"""What prototypes do in training: measures on prototypes whose answer is known; the runs are the engine's own."""

import math
import re

import jupytext
import numpy as np
import pandas as pd
import pytest
import torch

from lib import prototype_dynamics
from lib.engine import StackedTraining, build
from lib.errors import InputError
from lib.figures import read_table
from lib.heads import build_head
from lib.notebooks import declared_parameters, read_source
from lib.paths import NOTEBOOKS, figure_root, scratch
from lib.plots_dynamics import PANELS, in_words, plot_dynamics
from lib.profiles import PROTOTYPE_HEADS, load_profile
from lib.prototype_dynamics import (
    CHANCE,
    FLOOR,
    MEASURES,
    audibility,
    chance,
    contributions,
    directions,
    dynamics,
    effective_number,
    final_runs,
    follow,
    followed_cells,
    likeness,
    mean_abs_cosine,
    movement,
    stages,
    winners,
    write_dynamics,
)
from lib.search import CellResult
from lib.store import Embeddings
from lib.train import Run

SOURCE = NOTEBOOKS / "13_what_prototypes_do.py"
GRID, DIM, CLASSES, J = (3, 2), 8, 3, 2
N, K = GRID[0] * GRID[1], CLASSES * J


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def toy(clips=12, seed=0):
    targets = (noise(clips, CLASSES, seed=seed + 1) > 0).float()
    return Embeddings(noise(clips, N, DIM, seed=seed).half(), noise(clips, DIM), targets, GRID)


def clips_of(tokens):
    """Clips with these tokens (B, N, D), and nothing else of interest."""
    return Embeddings(tokens, torch.zeros(len(tokens), tokens.shape[2]), torch.zeros(len(tokens), CLASSES), GRID)


def head_with(name, prototypes, weight=None):
    """A head of K = 6 prototypes (K, D), and with a classifier's weights if given."""
    head = build_head(name, DIM, CLASSES, GRID, J)
    with torch.no_grad():
        head.prototypes.copy_(prototypes.reshape(head.prototypes.shape))
        if weight is not None:
            head.classifier.weight.copy_(weight)
    return head


def runs_of(head, epochs=3, seeds=(1, 2)):
    return [Run(head, 0.02, 1e-4, epochs, 4, seed=seed, order_seed=seed, prototypes=J) for seed in seeds]


def value(rows, measure, epoch, seed=1):
    (found,) = [row[4] for row in rows if row[1:4] == (seed, epoch, measure)]
    return found


# ---- how alike -----------------------------------------------------------------------------------------------------


def test_prototypes_on_one_line_have_cosine_one_whatever_their_length_and_sign_and_orthogonal_ones_zero():
    lengths = torch.tensor([1.0, -1.0, 0.01, -30.0])[:, None]
    assert mean_abs_cosine(lengths * noise(DIM)) == pytest.approx(1.0)
    assert mean_abs_cosine(torch.eye(DIM) * 5) == pytest.approx(0.0, abs=1e-12)


def test_the_mean_is_over_pairs_of_different_prototypes_also_beyond_a_block_of_rows():
    rows = noise(600, DIM).double()
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1).abs()  # (K, K)
    pairs = cosines[~torch.eye(600, dtype=torch.bool)]
    assert mean_abs_cosine(rows) == pytest.approx(pairs.mean().item())
    with pytest.raises(InputError, match="needs two prototypes or more, and there is 1"):
        mean_abs_cosine(rows[:1])


def test_random_signs_and_random_directions_have_what_chance_says():
    expected = {measure: number for *_, measure, number in chance(128, 320, 248, 100)}
    assert expected["cosine"] == pytest.approx(math.sqrt(2 / (math.pi * 128)))
    for rows in (noise(400, 128), torch.sign(noise(400, 128))):
        assert mean_abs_cosine(rows) == pytest.approx(expected["cosine"], rel=0.02)


def test_protobin_is_compared_by_its_signs_with_zero_as_plus_one():
    latents = torch.zeros(K, DIM)
    latents[0], latents[1:, :4] = 3.0, 1e-3  # all signs are +1: 0 counts as +1
    found = likeness(head_with("protobin", latents))
    assert found["cosine"] == pytest.approx(1.0)
    assert found["latent"] == pytest.approx((8 * 3.0 + 5 * 4 * 1e-3) / (K * DIM))
    assert "latent" not in likeness(head_with("protofloat", latents + 1))


def test_pairs_of_one_class_are_those_of_its_own_prototypes():
    rows = torch.eye(DIM)[[0, 0, 1, 1, 2, 2]]  # two alike in each class, classes orthogonal
    found = likeness(head_with("proto", rows))
    assert found == {"cosine_in_class": pytest.approx(1.0), "cosine": pytest.approx(3 / 15)}  # three of fifteen pairs
    across = likeness(head_with("proto", torch.eye(DIM)[[0, 1, 0, 1, 0, 1]]))
    assert across["cosine_in_class"] == pytest.approx(0.0, abs=1e-12)
    assert across["cosine"] == pytest.approx(6 / 15)
    assert "cosine_in_class" not in likeness(head_with("protofloat", rows))  # its prototypes have no class
    assert "cosine_in_class" not in likeness(build_head("proto", DIM, CLASSES, GRID, 1))  # no pairs in a class


# ---- how far turned ------------------------------------------------------------------------------------------------


def test_flips_are_counted_from_the_epoch_before_and_from_the_start():
    start = torch.ones(2, 8)
    before, now = start.clone(), start.clone()
    before[0, :4] = -1  # flipped earlier
    now[0, 1:4] = -1  # one of them came back
    now[1, 0] = -1  # a new one
    found = movement(now, start, before, binary=True)
    assert found["flipped"] == pytest.approx(2 / 16) and found["flipped_since_start"] == pytest.approx(4 / 16)
    assert found["cosine_with_start"] == pytest.approx(1 - 2 * 4 / 16)  # what flips mean for the cosine


def test_a_latent_that_reaches_zero_from_above_has_not_flipped_and_from_below_has():
    before = directions(torch.tensor([[0.1, -0.1]]), binary=True)
    assert movement(directions(torch.zeros(1, 2), binary=True), before, before, True)["flipped"] == 0.5


def test_floats_turn_but_do_not_flip_and_nothing_flips_at_the_start():
    start = torch.eye(4)
    assert movement(start.roll(1, 0), start, start, binary=False) == {"cosine_with_start": pytest.approx(0.0)}
    assert movement(start, start, None, binary=True) == {"cosine_with_start": 1.0, "flipped_since_start": 0.0}


# ---- what wins -----------------------------------------------------------------------------------------------------


def one_that_stays():
    """Clips in which direction 0 is always at place 4, and direction 1 at another place in every clip."""
    tokens = torch.zeros(5, N, DIM)
    tokens[..., 7] = 1.0  # every token has a length
    tokens[:, 4, 0] = 3.0
    tokens[range(5), [0, 1, 2, 3, 5], 1] = 3.0
    return clips_of(tokens)


@pytest.mark.parametrize("name", ["protofloat", "proto"])
def test_a_prototype_that_always_wins_at_the_same_place_does_not_choose(name):
    head = head_with(name, torch.eye(DIM)[[0, 1, 0, 0, 1, 1]])
    (found,) = winners([head], one_that_stays())
    assert found.places.tolist() == [1, 5, 1, 1, 5, 5]
    measured = audibility(head, found)
    assert measured["one_place"] == pytest.approx(0.5) and measured["places"] == pytest.approx(3 / N)


def test_tokens_that_win_are_counted_once_however_many_prototypes_they_win():
    data = one_that_stays()
    (same,) = winners([head_with("protofloat", torch.eye(DIM)[[0] * K])], data)
    head = head_with("protofloat", torch.eye(DIM)[[0, 0, 0, 1, 1, 1]])
    (two,) = winners([head], data)
    assert (same.tokens, two.tokens, two.length) == (1.0, 2.0, N)
    assert audibility(head, two)["coverage"] == pytest.approx(2 / N)


def test_winners_drawn_at_random_cover_what_chance_says():
    drawn = np.random.default_rng(0).integers(0, 248, (2000, 320))
    tokens = np.mean([len(np.unique(row)) for row in drawn])
    expected = {measure: number for *_, measure, number in chance(128, 320, 248, 100)}
    assert tokens == pytest.approx(expected["tokens"], rel=0.01)
    assert tokens / 248 == pytest.approx(expected["coverage"], rel=0.01)
    places = np.mean([len(np.unique(row)) for row in drawn[:, :100]]) / 248  # of one prototype in a hundred clips
    assert places == pytest.approx(expected["places"], rel=0.01)


@pytest.mark.parametrize("name", PROTOTYPE_HEADS)
def test_pooled_scores_are_the_heads_own_over_all_clips_and_runs_keep_theirs(name):
    data = toy(150)  # more than two chunks of clips, the last a short one
    heads = [build(run, data) for run in runs_of(name, seeds=(1, 2, 3))]
    for head, found in zip(heads, winners(heads, data), strict=True):
        with torch.no_grad():
            scores = head.pool(data.tokens.float(), data.cls, None)  # (B, K)
            places = head.similarity_map(data.tokens).flatten(2).argmax(-1)  # (B, K, N) → (B, K)
        torch.testing.assert_close(found.sd, scores.double().std(0, correction=0), rtol=1e-4, atol=1e-7)
        if name != "proto":  # where its relu makes all places zero, argmax has no winner
            assert found.tokens == pytest.approx(np.mean([len(row.unique()) for row in places]))
            assert found.places.tolist() == [len(column.unique()) for column in places.T]


# ---- what is heard -------------------------------------------------------------------------------------------------


def test_a_prototype_without_weight_or_without_variation_is_silent():
    sd = torch.tensor([0.1, 0.1, 0.0, 0.1, 0.1, 0.1], dtype=torch.float64)
    weight = torch.ones(CLASSES, K)
    weight[:, 0] = 0.0  # nobody listens
    weight[:, 2] = 100.0  # loud, but says the same in every clip
    weight[:, 3] = torch.tensor([0.0, -1.0, 0.0])  # heard by one class, against it
    weight[:, 4:] = torch.tensor([0.9, 1.1]) * FLOOR
    head = head_with("protobin", noise(K, DIM), weight)
    (found,) = winners([head], toy())
    contribution = contributions(head, sd)
    assert contribution.tolist() == pytest.approx([0.0, 0.1, 0.0, 0.1, 0.09 * FLOOR, 0.11 * FLOOR])
    assert audibility(head, found._replace(sd=sd))["silent"] == pytest.approx(3 / 6)


def test_in_proto_a_negative_weight_and_a_score_of_zero_everywhere_are_silent():
    data = clips_of(noise(10, N, DIM).abs())  # all tokens lie in the positive corner
    rows = noise(K, DIM, seed=1).abs()
    rows[2] *= -1  # its cosine is below zero everywhere
    head = head_with("proto", rows, torch.tensor([[1.0, -5.0], [1.0, 1.0], [1.0, 1.0]]))
    (found,) = winners([head], data)
    contribution = contributions(head, found.sd)
    assert (contribution == 0).tolist() == [False, True, True, False, False, False]
    assert audibility(head, found)["silent"] == pytest.approx(2 / 6)


def test_a_score_that_never_varies_has_exactly_no_deviation():
    data = clips_of(noise(1, N, DIM).expand(100, -1, -1))
    (found,) = winners([head := head_with("protofloat", noise(K, DIM))], data)
    assert found.sd.tolist() == [0.0] * K
    assert [audibility(head, found)[name] for name in ("silent", "heard", "one_place")] == [1.0, 0.0, 1.0]


def test_the_effective_number_is_how_many_equal_contributions_are_as_uneven():
    assert effective_number(torch.full((6,), 0.3)) == pytest.approx(6.0)
    assert effective_number(torch.tensor([0.0, 2.0, 0.0])) == pytest.approx(1.0)
    assert effective_number(torch.zeros(3)) == 0.0
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))  # shares of the variance
    assert effective_number(torch.tensor([math.sqrt(3.0), 1.0])) == pytest.approx(expected)


# ---- trained again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", PROTOTYPE_HEADS)
def test_epoch_0_is_the_engines_start_and_the_last_epoch_scores_as_an_uninterrupted_run(head):
    data, runs = toy(), runs_of(head)
    unbroken = StackedTraining(runs, data).advance(runs[0].epochs)
    found = []
    for epoch, heads in stages(runs, data):
        found.append((epoch, heads))
        winners(list(heads.values()), data)  # measuring must not disturb the training
    assert [epoch for epoch, _ in found] == [0, 1, 2, 3]
    for number in (0, 1):
        for name, start in unbroken.initial_state(number).items():
            assert torch.equal(found[0][1][number].state_dict()[name], start)
        for name, end in unbroken.state(number).items():
            assert torch.equal(found[-1][1][number].state_dict()[name], end)
        with torch.no_grad():
            scores = found[-1][1][number](data.tokens, data.cls)
        torch.testing.assert_close(scores, unbroken.scores(data)[number], rtol=1e-4, atol=1e-5)
        assert not torch.equal(found[0][1][number].prototypes, found[-1][1][number].prototypes)


@pytest.mark.parametrize("head", PROTOTYPE_HEADS)
def test_what_is_followed_is_measured_on_the_weights_of_that_epoch(head):
    data, runs = toy(), runs_of(head)
    rows = follow(runs, data)
    training, binary = StackedTraining(runs, data), head == "protobin"
    start = before = directions(training.state(1)["prototypes"], binary)
    for epoch in range(4):
        now = directions(training.advance(epoch).state(1)["prototypes"], binary)
        assert value(rows, "cosine", epoch, seed=2) == pytest.approx(mean_abs_cosine(now))
        moved = movement(now, start, before if epoch else None, binary)
        assert {name: value(rows, name, epoch, seed=2) for name in moved} == pytest.approx(moved)
        before = now
    assert {row[3] for row in rows} <= set(MEASURES) and {row[0] for row in rows} == {head}
    assert {row[2] for row in rows} == {0, 1, 2, 3}


@pytest.mark.parametrize("head", PROTOTYPE_HEADS)
def test_the_last_prototypes_are_compared_with_those_that_the_cell_kept(head):
    data, runs = toy(), runs_of(head)
    training = StackedTraining(runs, data)
    start, end = training.initial_state(0), training.advance(3).state(0)
    assert value(follow(runs, data, end), "as_stored", 3) == pytest.approx(1.0)
    rows = follow(runs, data, start)
    kept, turned = value(rows, "as_stored", 3), value(rows, "cosine_with_start", 3)
    assert kept == pytest.approx(turned) and turned < 0.999
    assert [row[1:3] for row in rows if row[3] == "as_stored"] == [(1, 3)]


# ---- of a profile --------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(monkeypatch):
    """Stand in for the finished cells of `smoke` and for its store; the dict holds the learning rate, and what ran."""
    world, data, profile = {"lr": 0.02, "trained": 0}, toy(16), load_profile("smoke")
    cells = followed_cells(profile)

    def read_cell(profile, cell):
        row = {"lr": world["lr"], "weight_decay": 1e-4, "split": "test", "stage": "final"}
        rows = [{**row, "stage": "search", "lr": 9.0, "seed": 0, "order_seed": 0}]  # not what is followed
        rows += [{**row, "seed": seed, "order_seed": seed} for seed in profile.seeds]
        head = build_head(cell.head, DIM, CLASSES, GRID, cell.prototypes, torch.Generator().manual_seed(1))
        kept = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        return CellResult(rows, torch.zeros(2, 1, CLASSES), kept | {f"initial.{name}": t for name, t in kept.items()})

    def within_memory(cell, asked):
        assert (cell.encoder, cell.dataset) == (cells[0].encoder, cells[0].dataset) and asked == profile

        world["trained"] += 1
        return {"train": data}.__getitem__

    monkeypatch.setattr(prototype_dynamics, "read_cell", read_cell)
    monkeypatch.setattr(prototype_dynamics, "within_memory", within_memory)
    monkeypatch.setattr(prototype_dynamics.Versions, "of", lambda self, cell: {"cell": cell.key})
    return world


def test_the_runs_are_the_cells_final_ones_with_the_profiles_epochs_and_batches(finished):
    profile = load_profile("smoke")
    cells = followed_cells(profile)
    assert [cell.head for cell in cells] == list(PROTOTYPE_HEADS)
    runs, kept = final_runs(profile, cells[0])
    assert [(run.lr, run.seed, run.order_seed) for run in runs] == [(0.02, seed, seed) for seed in profile.seeds]
    assert {(run.epochs, run.batch_size) for run in runs} == {(profile.epochs, profile.batch_size)}
    assert {run.prototypes for run in runs} == {cells[0].prototypes}
    assert not [name for name in kept if name.startswith("initial.")]


def test_the_table_is_the_same_bytes_twice_computed_and_read_back(finished):
    path, made = figure_root() / "smoke" / "dynamics.csv", []
    for kept in (True, True, False):
        if not kept:
            (found,) = scratch().rglob("*--dynamics.json")
            found.unlink()
        write_dynamics("smoke")
        made.append(path.read_bytes())
    assert made[0] == made[1] == made[2]
    assert finished["trained"] == 2  # the second time it was read


def test_other_settings_or_a_damaged_file_are_computed_again(finished):
    first = dynamics("smoke")
    finished["lr"] = 0.03
    second = dynamics("smoke")
    assert finished["trained"] == 2 and not first.equals(second)
    (path,) = scratch().rglob("*--dynamics.json")
    path.write_text(path.read_text()[:100])
    assert dynamics("smoke").equals(second) and finished["trained"] == 3


def test_the_table_is_tidy_and_says_what_was_run(finished):
    table, profile = write_dynamics("smoke"), load_profile("smoke")
    assert list(table) == ["head", "seed", "epoch", "measure", "value"]
    assert not table.duplicated(["head", "seed", "epoch", "measure"]).any() and table["value"].notna().all()
    trained = table[table["head"] != CHANCE]
    assert set(trained["measure"]) == set(MEASURES)
    assert set(trained["seed"]) == set(profile.seeds) and set(trained["epoch"]) == set(range(profile.epochs + 1))
    assert table.attrs["note"].startswith("profile smoke (") and f"{len(profile.seeds)} seeds" in table.attrs["note"]
    assert read_table(figure_root() / "smoke" / "dynamics.csv").equals(table)


def test_an_encoder_that_the_profile_has_not_is_a_clear_error(finished):
    with pytest.raises(InputError, match="Unknown encoder 'log-mell'; choose one of: .*Did you mean 'log-mel'"):
        dynamics("smoke", "log-mell")


def test_cells_that_were_not_run_are_a_clear_error():
    key = followed_cells(load_profile("smoke"))[0].key
    with pytest.raises(InputError, match=f"cell '{key}' of profile 'smoke' is missing"):
        write_dynamics("smoke")


# ---- pictures and words --------------------------------------------------------------------------------------------


def made_up(seeds=(1, 2, 3), epochs=30, drop=()):
    """A table of plausible numbers, as it would be read back."""
    rng, rows = np.random.default_rng(0), []
    own = {"cosine_in_class": "proto", "flipped": "protobin", "flipped_since_start": "protobin", "latent": "protobin"}
    for head in PROTOTYPE_HEADS:
        for name in MEASURES:
            if own.get(name, head) != head or name in drop:
                continue
            size = 100.0 if name == "tokens" else 0.5
            rows += [(head, seed, e, name, size * rng.random()) for seed in seeds for e in range(epochs + 1)]
    rows = [row for row in rows if not (row[3] == "flipped" and row[2] == 0)]
    rows = [row for row in rows if row[3] != "as_stored" or row[1:3] == (seeds[0], epochs)]
    table = pd.DataFrame(rows + chance(128, 320, 248, 100), columns=["head", "seed", "epoch", "measure", "value"])
    table.attrs["note"] = "made up"
    return table


def test_the_picture_has_a_panel_for_each_question_and_a_line_for_each_head():
    table = made_up()
    figure = plot_dynamics(table)
    assert len(figure.axes) == len(PANELS) and {name for *_, names in PANELS for name in names} <= set(MEASURES)
    for axes, (_, _, measures) in zip(figure.axes, PANELS, strict=True):
        found = table[table["measure"].isin(measures)]
        assert len(axes.lines) == len(found.groupby(["head", "measure"])), measures
    (line,) = figure.axes[2].lines  # signs that flip, in percent, the mean of the seeds
    flips = table[table["measure"] == "flipped"].groupby("epoch")["value"].mean()
    assert np.allclose(line.get_ydata(), 100 * flips) and list(line.get_xdata()) == list(flips.index)
    without = plot_dynamics(made_up(seeds=(4,), epochs=2, drop=("flipped",)))  # one seed is enough
    assert "Not measured" in without.axes[2].texts[0].get_text()


def test_sentences_take_their_numbers_from_the_table():
    table = made_up()
    sentences = in_words(table)
    ends = table[(table["measure"] == "cosine") & (table["head"] == "proto")].groupby("epoch")["value"].mean()
    assert f"proto {ends[0]:.3f} → {ends[30]:.3f}; random directions have 0.071" in sentences[0]
    assert sentences[1].startswith("The same within a class: proto")
    largest = table[(table["measure"] == "cosine") & (table["head"] == "protobin")].groupby("epoch")["value"].mean()
    assert f"after epoch {largest.idxmax():.0f}: {largest.max():.3f}" in sentences[2]
    since = table[(table["measure"] == "flipped_since_start") & (table["epoch"] == 30)]["value"].mean()
    assert any(f"{since:.1%} are not what they were" in sentence for sentence in sentences)
    assert len(in_words(made_up(drop=("cosine_in_class",)))) == len(sentences) - 1
    assert not re.search(r"proto\b", " ".join(in_words(made_up().query("head != 'proto'"))))


def test_training_raises_or_lowers_only_where_all_seeds_agree():
    table = made_up(epochs=1)
    for head, ends in {"protobin": (0.2, 0.2, 0.2), "protofloat": (0.0, 0.0, 0.2), "proto": (0.0, 0.0, 0.0)}.items():
        for seed, end in zip((1, 2, 3), ends, strict=True):
            rows = (table["measure"] == "cosine") & (table["head"] == head) & (table["seed"] == seed)
            table.loc[rows, "value"] = np.where(table.loc[rows, "epoch"] == 0, 0.1, end)
    said = "Training raises it in protobin, lowers it in proto, does neither in all seeds of protofloat."
    assert in_words(table)[0].endswith(said)


def test_the_notebook_has_its_parameter_types_no_result_and_quotes_the_claim():
    assert declared_parameters(read_source(SOURCE), SOURCE.stem) == {"profile"}
    prose = [cell.source for cell in jupytext.read(SOURCE).cells if cell.cell_type == "markdown"]
    own = "\n".join(line for text in prose for line in text.splitlines() if not line.startswith(">"))
    assert not re.search(r"\d ?%|\d\.\d", own)
    quoted = " ".join(line.lstrip("> ") for text in prose for line in text.splitlines() if line.startswith(">"))
    assert "The near-orthogonality is an emergent property" in quoted
    assert "eliminating the need for an explicit orthogonality loss term" in quoted
