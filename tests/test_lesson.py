"""The lesson of notebook 00: its exercises know right from wrong, and its sounds are what the text says they are."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib import lesson
from lib.data.mixer import Event
from lib.encoders import load_encoder
from lib.encoders.pocket import LogMelPatches
from lib.exercises import YOUR_TURN, check_1, check_2, check_3, compare
from lib.lesson import TARGETS, climb, event_cells, example_scene, loudest_token, memory, target_clip
from lib.metrics import Comparison
from lib.pooling import sign


def test_an_exercise_that_nobody_has_done_yet_says_so():
    assert check_1(...) == check_2(lambda tokens, prototypes: ...) == check_3(lambda latent: ...) == YOUR_TURN


@pytest.mark.parametrize("answer", [512, 512.0, 64 * 8, torch.tensor(512)])
def test_exercise_1_accepts_the_right_number(answer):
    assert check_1(answer).startswith("Right")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (248, "pocket encoder"),
        (393216, "divide"),
        (768, "fit into"),
        (72, "product"),
        (3, "S_t"),
        ("512x", "number"),
        (torch.tensor([64, 8]), "number"),
        (10**400, "number"),
    ],
)
def test_exercise_1_gives_a_hint_for_a_wrong_answer(answer, hint):
    assert hint in check_1(answer)
    assert not check_1(answer).startswith("Right")


def cosines(tokens, prototypes):
    return F.normalize(tokens, dim=-1) @ F.normalize(prototypes, dim=-1).T


@pytest.mark.parametrize(
    "pool",
    [
        lambda z, p: cosines(z, p).amax(1),
        lambda z, p: cosines(z, p).max(dim=1).values,
        lambda z, p: cosines(z.double(), p.double()).amax(1),
        lambda z, p: cosines(z, p).amax(1).requires_grad_(),
        lambda z, p: F.cosine_similarity(z[:, :, None], p[None, None], dim=-1).amax(1),
        lambda z, p: (torch.einsum("bnd,kd->bkn", z, p) / z.norm(dim=-1)[:, None] / p.norm(dim=-1)[:, None]).amax(-1),
    ],
)
def test_exercise_2_accepts_every_way_to_write_equation_3(pool):
    assert check_2(pool).startswith("Right")


@pytest.mark.parametrize(
    ("pool", "hint"),
    [
        (lambda z, p: cosines(z, p).mean(1), "their mean"),
        (lambda z, p: (z @ p.T).amax(1), "dot products"),
        (lambda z, p: (F.normalize(z, dim=-1) @ p.T).amax(1), "prototypes not yet"),
        (lambda z, p: (z @ F.normalize(p, dim=-1).T).amax(1), "tokens not yet"),
        (lambda z, p: cosines(z, p), "similarity maps"),
        (lambda z, p: cosines(z, p).amax(2), "over the N tokens"),
        (lambda z, p: cosines(z, p).amax((0, 1)), "one score a clip"),
        (lambda z, p: cosines(z, p).amax(1).T, "swap"),
        (lambda z, p: cosines(z, p).max(1), "values alone"),
        (lambda z, p: -cosines(z, p).amax(1), "values are not"),
        (lambda z, p: cosines(z, p).amax(1).long(), "values are not"),
        (lambda z, p: (z @ p.T).amax(1).double(), "dot products"),
        (lambda z, p: cosines(z, p).amax(1) > 0, "values are not"),
        (lambda z, p: cosines(z, p).amax(1) / 0, "values are not"),
        (lambda z, p: 3, "tensor is asked"),
        (lambda z, p: z @ p, "stopped: RuntimeError"),
    ],
)
def test_exercise_2_names_the_common_slips(pool, hint):
    assert hint in check_2(pool)
    assert not check_2(pool).startswith("Right")


@pytest.mark.parametrize(
    "binarise",
    [
        sign,
        lambda x: sign(x).double(),
        lambda x: ((x >= 0) * 2.0 - 1) + x - x.detach(),
        lambda x: x + (torch.where(x >= 0, 1.0, -1.0) - x).detach(),
    ],
)
def test_exercise_3_accepts_every_straight_through_sign(binarise):
    assert check_3(binarise).startswith("Right")


@pytest.mark.parametrize(
    ("binarise", "hint"),
    [
        (torch.sign, "sign(0)"),
        (lambda x: torch.where(x >= 0, 1.0, -1.0), "gets no gradient"),
        (lambda x: (x >= 0).long() * 2 - 1, "gets no gradient"),
        (lambda x: torch.sign(x + 1e-6), "all gradients are zero"),
        (lambda x: torch.where(x >= 0, 1.0, -1.0) + 2 * (x - x.detach()), "neither scaled"),
        (lambda x: torch.where(x >= 0, 1.0, -1.0) + x.clamp(-1, 1) - x.clamp(-1, 1).detach(), "nor clipped"),
        (lambda x: x, "gives the latent itself"),
        (torch.tanh, "sign(0)"),
        (lambda x: torch.tanh(x) + 0.5, "exactly"),
        (lambda x: x[:2], "same shape"),
        (lambda x: x.no_such_thing, "stopped: AttributeError"),
    ],
)
def test_exercise_3_says_what_is_wrong_forward_or_backward(binarise, hint):
    assert hint in check_3(binarise)
    assert not check_3(binarise).startswith("Right")


def test_a_bet_is_held_against_what_was_measured():
    text = compare(5, ..., Comparison(0.1, 0.05, 0.15, 0.0, 9), Comparison(-0.2, -0.3, -0.1, 1.0, 9))
    assert text.splitlines()[0] == "alone: you said +5, measured +10.0 points (95 % interval +5.0 to +15.0)"
    assert text.splitlines()[1] == "in a crowd: no guess, measured -20.0 points (95 % interval -30.0 to -10.0)"


def test_bystanders_change_nothing_but_the_company():
    for index in range(len(TARGETS)):
        (alone, number), (crowded, same) = target_clip("val", index, 0), target_clip("val", index, 4)
        assert number == same == index
        if np.abs(crowded).max() < 0.98:  # not scaled down to fit
            silent = np.isclose(alone, crowded, atol=1e-6).mean()
            assert 0.05 < silent < 0.95  # equal where nobody stands by, different elsewhere


def test_the_cells_of_an_event_are_those_that_its_box_touches():
    cells = event_cells(Event("x", "x:1", 3.3, 6.3, 0.0, low_hz=20.0, high_hz=900.0), LogMelPatches())
    assert cells.shape == (31, 8)
    assert cells.any(1).nonzero().flatten().tolist() == list(range(10, 20))
    assert cells.any(0).nonzero().flatten().tolist() == [0, 1, 2]


def test_the_loudest_token_of_an_event_lies_in_its_box():
    scene, encoder = example_scene(), LogMelPatches()
    spectrogram = encoder.spectrogram(scene.audio)
    for event in scene.events:
        n = loudest_token(event, encoder, spectrogram)
        assert event_cells(event, encoder)[n // 8, n % 8]


@pytest.mark.parametrize(
    ("classes", "per_class", "saving"), [(10, 20, "22.9 ×"), (50, 20, "11 ×"), (200, 20, "4.32 ×"), (527, 10, "2.35 ×")]
)
def test_packing_the_prototypes_saves_what_arithmetic_says(classes, per_class, saving):
    sizes = memory(classes, per_class, 768)
    assert sizes["prototypes shrink"] == "32 ×"
    assert sizes["head shrinks"] == saving


def test_latents_learn_through_the_straight_through_sign_and_not_through_a_step():
    token_map = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    stuck, moved = climb(token_map, torch.sign), climb(token_map, sign)
    assert torch.equal(stuck[0], stuck[-1])
    first, last = ((cosines(token_map, sign(path)[None])).max() for path in (moved[0], moved[-1]))
    assert last > first + 0.1


def test_clips_of_the_lesson_are_encoded_once_and_come_back_alike(monkeypatch):
    encoder = load_encoder("log-mel")
    first = lesson.embed(encoder, "train", [0, 4])
    monkeypatch.setattr(lesson, "encode", None)  # would fail if it were called
    again = lesson.embed(encoder, "train", [0, 4])
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.cls, again.cls)
    assert first.tokens.shape == (2, 248, 128) and first.targets.sum(1).tolist() == [1, 1]
    with pytest.raises(TypeError):
        lesson.embed(encoder, "train", [4, 0])
