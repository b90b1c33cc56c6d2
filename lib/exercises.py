"""The exercises of notebook 00: each check looks at an answer and says what it thinks of it, in one sentence.

A check never raises: a wrong answer, even one that crashes, gets a hint.
"""

from collections.abc import Callable
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.metrics import Comparison
from lib.pooling import max_cosine, sign

YOUR_TURN = "Your turn: put your answer in the place of the `...` and run this cell again."


def check_1(answer: float | EllipsisType) -> str:
    """Judge how many times more numbers a 64 × 8 token map of dimension 768 holds than one [cls]."""
    if answer is ...:
        return YOUR_TURN
    hints = {
        512: "Right: N = 64 · 8 = 512 tokens, each as long as [cls]. Whatever stands for the clip is 1/512 of the map.",
        248: "Not yet: 31 × 8 is the grid of our pocket encoder; the question is about the paper's, 64 × 8.",
        64 * 8 * 768: "Not yet: so many numbers are in the map; divide by how many are in [cls].",
        768: "Not yet: so many numbers are in [cls]; how many times does that fit into the map?",
        72: "Not yet: the grid is a product; every time step has a token in every band.",
    }
    again = "Not yet: the map holds S_t · S_f · D numbers, [cls] holds D. How often does this fit into that?"
    try:
        return hints.get(float(answer), again)
    except Exception:  # float() of a student's answer may raise anything
        return f"A number is asked for, and this is of type {type(answer).__name__}."


def check_2(pool: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judge an implementation of Eq. 3: tokens ``(B, N, D)`` and prototypes ``(K, D)`` to scores ``(B, K)``."""
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 12, 8, generator=rng) * torch.rand(3, 12, 1, generator=rng).mul(9)
    prototypes = torch.randn(5, 8, generator=rng) * torch.arange(1.0, 6.0)[:, None]
    z, p = F.normalize(tokens, dim=-1), F.normalize(prototypes, dim=-1)
    try:
        answer = pool(tokens, prototypes)
    except Exception as error:  # a student's code may raise anything
        return f"Your function stopped: {type(error).__name__}: {error}."
    if answer is ...:
        return YOUR_TURN
    if isinstance(answer, tuple):
        return "Not yet: `max` over a dimension returns values and places; return the values alone (or use `amax`)."
    if not torch.is_tensor(answer):
        return f"Not yet: a tensor is asked for, and this is of type {type(answer).__name__}."
    if answer.shape != (3, 5):
        known = {
            (3, 12, 5): "these are the similarity maps; now take their maximum over the tokens",
            (3, 5, 12): "these are the similarity maps; now take their maximum over the tokens",
            (3, 12): "this is one score a token; the maximum goes over the N tokens, not over the K prototypes",
            (5, 3): "that is (K, B); swap the two",
            (5,): "the maximum went over the clips too; keep one score a clip",
        }
        hint = known.get(tuple(answer.shape), "keep clips and prototypes apart, and pool over the tokens only")
        return f"Not yet: the result should be (B, K) = (3, 5), and is {tuple(answer.shape)}: {hint}."
    answer, right = answer.detach().to(z), max_cosine(z, p, None)
    wrong = {
        "a maximum, but of dot products; divide by the length of the token and of the prototype": tokens @ prototypes.T,
        "the tokens have length one now, the prototypes not yet": z @ prototypes.T,
        "the prototypes have length one now, the tokens not yet": tokens @ p.T,
    }
    if torch.allclose(answer, right, atol=1e-5):
        return "Right: this is Eq. 3, and it is the whole pooling of protobin once the prototypes are signs."
    if torch.allclose(answer, (z @ p.T).mean(1), atol=1e-5):
        return "Not yet: these are cosines, but their mean; Eq. 3 takes the maximum over the tokens."
    for hint, scores in wrong.items():  # scores (B, N, K)
        if torch.allclose(answer, scores.amax(1), atol=1e-5):
            return f"Not yet: {hint}."
    return "Not yet: the shape is right, the values are not. First the cosines, then their maximum over the tokens."


def check_3(binarise: Callable[[Tensor], Tensor]) -> str:
    """Judge a straight-through sign: ±1 forward with sign(0) = +1, the identity's gradient backward."""
    latent = torch.tensor([-1.5, -0.01, 0.0, 0.3, 2.0], requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0])
    try:
        answer = binarise(latent)
        if answer is ...:
            return YOUR_TURN
        if not torch.is_tensor(answer) or answer.shape != latent.shape:
            return "Not yet: the result should be a tensor of the same shape as the latent."
        if torch.equal(answer.detach(), latent.detach()):
            return "Not yet: the forward pass should give signs, and this gives the latent itself."
        if answer[2] == 0:
            return (
                "Not yet: sign(0) must be +1, so that every prototype is a corner of the cube; ask for `latent >= 0`."
            )
        if not torch.allclose(answer.detach().float(), sign(latent.detach()), atol=1e-5):
            return f"Not yet: exactly −1 and +1 should come out, and there is {answer.detach().tolist()}."
        if not answer.requires_grad:
            return (
                "Forward right. Backward, the latent gets no gradient: add `latent - latent.detach()`, which is zero."
            )
        (gradient,) = torch.autograd.grad((answer * weights).sum(), latent)
    except Exception as error:  # a student's code may raise anything
        return f"Your function stopped: {type(error).__name__}: {error}."
    if not gradient.any():
        return "Forward right. Backward, all gradients are zero: the step is flat, so let them take another way."
    if not torch.allclose(gradient, weights):
        return "Forward right. Backward, the gradient should pass as it is, neither scaled nor clipped."
    return "Right: signs forward, identity backward. This is the straight-through estimator."


def compare(guess_alone: float | EllipsisType, guess_crowded: float | EllipsisType, *measured: Comparison) -> str:
    """Hold two guesses against the measured leads, in points of mAP, of one head over another."""
    lines = []
    for when, guess, lead in zip(("alone", "in a crowd"), (guess_alone, guess_crowded), measured, strict=True):
        difference, low, high = (100 * value for value in lead[:3])
        said = "no guess" if guess is ... else f"you said {guess:+.0f}"
        lines.append(f"{when}: {said}, measured {difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})")
    return "\n".join(lines)
