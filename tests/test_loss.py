"""The losses: the ladder from cross-entropy to asymmetric, exact values, precision, clear errors."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lib.errors import InputError
from lib.loss import asymmetric_loss, cross_entropy, orthogonality_loss


def batch(seed=0, scale=3.0):
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(6, 5, generator=g)
    return logits, (torch.rand(6, 5, generator=g) < 0.4).float()


def one(logit, target, **settings):
    return asymmetric_loss(torch.tensor([[logit]]), torch.tensor([[target]]), **settings)


# ---- the ladder


def test_first_rung_without_focus_and_margin_is_binary_cross_entropy():
    logits, targets = batch()
    loss = asymmetric_loss(logits, targets, gamma_negative=0, gamma_positive=0, margin=0)
    assert_close(loss, F.binary_cross_entropy_with_logits(logits, targets))


def test_second_rung_with_equal_gammas_is_the_focal_loss():
    logits, targets = batch()
    p = logits.sigmoid()
    p_true = torch.where(targets == 1, p, 1 - p)
    focal = -((1 - p_true) ** 2 * p_true.log()).mean()
    assert_close(asymmetric_loss(logits, targets, gamma_negative=2, gamma_positive=2, margin=0), focal)


def test_third_rung_is_the_asymmetric_loss_in_both_its_forms():
    logits, targets = batch()
    p = logits.sigmoid()
    p_m = (p - 0.05).clamp(min=0)
    equation = targets * (1 - p) * p.log() + (1 - targets) * p_m**4 * (1 - p_m).log()
    shifted = (1 - p + 0.05).clamp(max=1)  # the form of the published code
    code = targets * (1 - p) * p.log() + (1 - targets) * (1 - shifted) ** 4 * shifted.log()
    assert_close(asymmetric_loss(logits, targets), -equation.mean())
    assert_close(asymmetric_loss(logits, targets), -code.mean())


def test_each_setting_matters():
    logits, targets = batch()
    default = asymmetric_loss(logits, targets)
    for setting in ({"gamma_negative": 3.0}, {"gamma_positive": 0.0}, {"margin": 0.0}, {"eps": 0.2}):
        assert (asymmetric_loss(logits, targets, **setting) - default).abs() > 1e-4, setting


def test_the_loss_is_the_mean_over_clips_and_classes():
    logits, targets = batch()
    each = torch.stack([one(float(x), float(y)) for x, y in zip(logits.flatten(), targets.flatten(), strict=True)])
    assert_close(asymmetric_loss(logits, targets), each.mean())


# ---- values and gradients


def test_known_values():
    assert_close(one(0.0, 1.0), torch.tensor(0.3466), atol=1e-4, rtol=0)
    assert_close(one(0.0, 0.0), torch.tensor(0.0245), atol=1e-4, rtol=0)
    assert_close(one(-2.0, 0.0), torch.tensor(1.64e-6), atol=1e-8, rtol=0)  # proto starts here: only positives count


def test_negatives_below_the_margin_get_exactly_no_gradient():
    logits = torch.tensor([[-2.94, -3.0, -8.0, -2.9]], requires_grad=True)  # σ(−2.944) = 0.05
    asymmetric_loss(logits, torch.zeros(1, 4)).backward()
    assert (logits.grad[0] != 0).tolist() == [True, False, False, True]


def test_the_gradient_passes_through_the_focal_weight():
    logits, targets = batch()
    full = logits.clone().requires_grad_()
    asymmetric_loss(full, targets).backward()
    detached = logits.clone().requires_grad_()
    p = detached.sigmoid()
    p_m = (p - 0.05).clamp(min=0)
    weight = (targets * (1 - p) + (1 - targets) * p_m**4).detach()
    (-weight * (targets * p.log() + (1 - targets) * (1 - p_m).log())).mean().backward()
    assert (full.grad - detached.grad).abs().max() > 1e-3


def test_gradients_are_those_of_finite_differences():
    logits, targets = batch()
    logits, targets = logits.double().requires_grad_(), targets.double()
    assert torch.autograd.gradcheck(lambda x: asymmetric_loss(x, targets), logits)
    assert torch.autograd.gradcheck(lambda x: asymmetric_loss(x, targets, 0, 0, 0), logits)
    one_hot = F.one_hot(torch.tensor([0, 3, 2, 1, 4, 4]), 5)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, one_hot), logits)
    prototypes = torch.rand(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(orthogonality_loss, prototypes)


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
def test_extreme_logits_give_finite_loss_and_gradient(gamma, margin):
    logits = torch.tensor([[-200.0, -30.0, 30.0, 200.0]] * 2, requires_grad=True)
    targets = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]])
    loss = asymmetric_loss(logits, targets, gamma_negative=gamma, gamma_positive=gamma, margin=margin)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_soft_targets_interpolate():
    logits, _ = batch()
    present, absent = torch.ones_like(logits), torch.zeros_like(logits)
    mixed = asymmetric_loss(logits, 0.3 * present)
    assert_close(mixed, 0.3 * asymmetric_loss(logits, present) + 0.7 * asymmetric_loss(logits, absent))


# ---- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_computed_in_fp32(dtype):
    logits, targets = batch()
    logits = logits.to(dtype)
    one_hot = F.one_hot(torch.tensor([0, 3, 2, 1, 4, 4]), 5)
    prototypes = torch.rand(2, 3, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        pairs = [
            (asymmetric_loss(logits, targets), asymmetric_loss(logits.float(), targets)),
            (cross_entropy(logits, one_hot), cross_entropy(logits.float(), one_hot)),
        ]
    pairs += [(orthogonality_loss(prototypes), orthogonality_loss(prototypes.float()))]
    for narrow, wide in pairs:
        assert narrow.dtype == torch.float32
        assert torch.equal(narrow, wide)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float64])
def test_targets_may_have_any_dtype(dtype):
    logits, targets = batch()
    assert_close(asymmetric_loss(logits, targets.to(dtype)), asymmetric_loss(logits, targets))


# ---- one label, orthogonality


def test_cross_entropy_of_one_hot_targets_is_that_of_class_numbers():
    logits, _ = batch()
    classes = torch.tensor([0, 3, 2, 1, 4, 4])
    assert_close(cross_entropy(logits, F.one_hot(classes, 5)), F.cross_entropy(logits, classes))


@pytest.mark.parametrize(("classes", "per_class", "expected"), [(10, 20, 0.0116), (527, 10, 0.0031)])
def test_orthogonality_loss_of_uniform_prototypes(classes, per_class, expected):
    prototypes = torch.rand(classes, per_class, 768, generator=torch.Generator().manual_seed(0))
    assert round(orthogonality_loss(prototypes).item(), 4) == expected


def test_orthogonality_loss_is_zero_for_orthogonal_prototypes_and_blind_to_length_and_other_classes():
    basis = torch.eye(6).unflatten(0, (2, 3))  # (C, J, D)
    assert orthogonality_loss(5 * basis) < 1e-6
    assert orthogonality_loss(torch.stack([basis[0], basis[0]])) < 1e-6
    same = torch.ones(1, 2, 6)
    assert_close(orthogonality_loss(same), torch.tensor(2**0.5 / 4))


def test_one_prototype_per_class_has_a_finite_gradient():
    prototypes = torch.rand(4, 1, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    orthogonality_loss(prototypes).backward()
    assert prototypes.grad.isfinite().all()


# ---- clear errors


@pytest.mark.parametrize("loss", [asymmetric_loss, cross_entropy])
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(6), r"one shape \(clips, classes\), got \(6, 5\) and \(6,\)"),
        (torch.zeros(6, 4), r"one shape \(clips, classes\), got \(6, 5\) and \(6, 4\)"),
        (torch.full((6, 5), 2.0), r"must lie in \[0, 1\]"),
        (torch.full((6, 5), -0.1), r"must lie in \[0, 1\]"),
        (torch.full((6, 5), float("nan")), r"must lie in \[0, 1\]"),
    ],
)
def test_wrong_targets_are_refused_in_one_sentence(loss, targets, message):
    with pytest.raises(InputError, match=message):
        loss(batch()[0], targets)


def test_cross_entropy_refuses_clips_without_exactly_one_class():
    targets = F.one_hot(torch.tensor([0, 3, 2, 1, 4, 4]), 5)
    targets[2, 0] = 1
    with pytest.raises(InputError, match="the targets of clip 2 of the batch sum to 2"):
        cross_entropy(batch()[0], targets)


def test_orthogonality_loss_refuses_flat_prototypes():
    with pytest.raises(InputError, match=r"\(classes, per class, dim\), but have shape \(6, 4\)"):
        orthogonality_loss(torch.zeros(6, 4))
