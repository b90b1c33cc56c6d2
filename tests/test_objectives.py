"""Each pretraining objective against its equation, recomputed plainly; what is hidden, moves and is repeatable."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from lib.encoders import objective_parts as parts
from lib.encoders.objectives import (
    LatentDistillation,
    LocalGlobalDistillation,
    MaskedAutoencoder,
    SupervisedFineTuning,
    TokenizerDistillation,
    TokenPrediction,
)
from lib.encoders.pocket import POCKET
from lib.encoders.tokenizers import LearnedTokenizer, RandomTokenizer
from lib.encoders.vit import ViT, patchify
from lib.errors import InputError

GRID, PATCH, DIM = (8, 4), (4, 4), 16
N = GRID[0] * GRID[1]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_vit(cls=True, seed=0):
    return ViT(PATCH, GRID, DIM, depth=2, num_heads=2, cls=cls).initialise(seeded(seed))


def clips(count=4, seed=1):
    """Clips that differ: each has a level and a rhythm of its own, and noise."""
    x = torch.randn(count, GRID[0] * PATCH[0] + 1, GRID[1] * PATCH[1], generator=seeded(seed))
    return x + torch.linspace(-1, 1, count)[:, None, None]


SMALL = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
MAKERS = {
    "mae": lambda seed=0: MaskedAutoencoder(small_vit(seed=seed), seeded(seed), **SMALL),
    "mae without cls": lambda seed=0: MaskedAutoencoder(small_vit(False, seed), seeded(seed), 0.75, **SMALL),
    "latent": lambda seed=0: LatentDistillation(small_vit(seed=seed), seeded(seed), masks=2, block=2),
    "mixtures": lambda seed=0: LatentDistillation(small_vit(seed=seed), seeded(seed), masks=2, block=2, mixtures=True),
    "tokens": lambda seed=0: TokenPrediction(small_vit(False, seed), seeded(seed), **SMALL),
    "tokenizer": lambda seed=0: TokenizerDistillation(
        small_vit(False, seed), seeded(seed), small_vit(False, 7), depth=1, estimator_dim=16, estimator_depth=1
    ),
    "local-global": lambda seed=0: LocalGlobalDistillation(small_vit(seed=seed), seeded(seed), steps=4, classes=32),
    "supervised": lambda seed=0: SupervisedFineTuning(small_vit(seed=seed), seeded(seed)),
}
EACH = pytest.mark.parametrize("maker", list(MAKERS.values()), ids=list(MAKERS))
WITH_TEACHER = pytest.mark.parametrize("name", ["latent", "mixtures", "local-global"])


def loss_of(objective, x, seed=3):
    more = (labels(len(x)),) if isinstance(objective, SupervisedFineTuning) else ()
    return objective(x, seeded(seed), *more)


def labels(count):
    return (torch.rand(count, 16, generator=seeded(5)) < 0.3).float()


class Recorder(torch.nn.Module):
    """Stands for a decoder: answers with fixed random predictions and remembers what it was asked."""

    def __init__(self, width, places=None):
        super().__init__()
        self.width, self.places, self.calls = width, places, []

    def forward(self, *arguments):
        shape = arguments[-1].shape if self.places is None else (len(arguments[0]), self.places)
        answer = torch.randn(*shape, self.width, generator=seeded(len(self.calls)))
        self.calls.append((*arguments, answer))
        return answer


# ---- the equations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "ratio", "hidden_count"), [(True, 0.8, 26), (False, 0.75, 24)])
def test_reconstruction_is_the_squared_error_of_normalised_hidden_patches(cls, ratio, hidden_count):
    objective = MaskedAutoencoder(small_vit(cls), seeded(), mask_ratio=ratio, asked_ratio=0.5, **SMALL)
    x = clips()
    objective.decoder = Recorder(16)
    loss = objective(x, seeded(3))
    _, _, visible, hidden, answer = objective.decoder.calls[0]
    errors = []
    for b in range(len(x)):
        assert len(visible[b]) == N - hidden_count and len(set(hidden[b].tolist())) == hidden_count // 2
        assert not set(visible[b].tolist()) & set(hidden[b].tolist())
        for k, n in enumerate(hidden[b].tolist()):
            t, f = divmod(n, GRID[1])
            patch = x[b, 4 * t : 4 * t + 4, 4 * f : 4 * f + 4].flatten()
            patch = (patch - patch.mean()) / patch.std()
            errors.append((answer[b, k] - patch).square().mean())
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)


def plain_targets(teacher, x):
    """Return the targets of latent distillation, a block at a time, a channel at a time."""
    h = teacher.with_cls(teacher.embed_patches(x))
    total = torch.zeros(len(x), N, DIM)
    for block in teacher.blocks:
        after = block(h)[0]
        added, h = (after - h)[:, 1:], after
        for d in range(DIM):
            centred = torch.stack([added[:, n, d] - added[:, n, d].mean() for n in range(N)], 1)
            total[:, :, d] += centred / centred.std()
    return F.layer_norm(total, (DIM,))


def test_latent_distillation_regresses_the_teachers_blocks_at_hidden_places_and_their_mean_with_cls():
    objective, x = MAKERS["latent"](), clips()
    with torch.no_grad():
        for p in objective.teacher.parameters():  # another network than the student
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(8)))
    objective.decoder = Recorder(DIM, N)
    objective.utterance_weight = 0.7
    loss = objective(x, seeded(3))
    tokens, visible, answer = objective.decoder.calls[0]
    assert tokens.shape == (8, 6, DIM) and visible.shape == (8, 6)
    y = plain_targets(objective.teacher, x)
    hidden = [(m, n) for m in range(8) for n in range(N) if n not in visible[m].tolist()]
    errors = [(answer[m, n] - y[m // 2, n]).square().mean() for m, n in hidden]
    embedded = objective.vit.embed_patches(x)
    cls = torch.stack([objective.vit.encode(embedded[m // 2, visible[m]][None])[1][0] for m in range(8)])
    utterance = (cls - y.mean(1).repeat_interleave(2, 0)).square().mean()
    torch.testing.assert_close(loss, torch.stack(errors).mean() + 0.7 * utterance, rtol=1e-3, atol=1e-4)


def test_a_mixture_has_the_summed_power_of_both_clips_over_at_least_half_of_the_time():
    x = clips(6)
    mixed, both = parts.partial_mixture(x, PATCH[0], seeded(2))
    a = x.double() * POCKET.mel_std + POCKET.mel_mean
    b = x.roll(1, 0).double() * POCKET.mel_std + POCKET.mel_mean
    expected = ((a.exp() + b.exp()).log() - POCKET.mel_mean) / POCKET.mel_std
    where = torch.cat([both.repeat_interleave(4, 1), torch.zeros(6, 1, dtype=torch.bool)], 1)  # the spare frame
    torch.testing.assert_close(mixed[where].double(), expected[where], rtol=1e-4, atol=1e-4)
    assert torch.equal(mixed[~where], x[~where])
    for row in both.int():
        assert row.sum() >= 4 and row.diff().abs().sum() <= 2  # one stretch
    assert len(both.unique(dim=0)) > 2


def test_mixtures_are_drawn_to_the_teachers_mixture_and_to_the_mean_of_the_sources():
    objective, x = MAKERS["mixtures"](), clips()
    objective.decoder = Recorder(DIM, N)
    objective.utterance_weight = 0.0
    loss = objective(x, seeded(3))
    (_, visible, clean_answer), (_, again, mixed_answer) = objective.decoder.calls
    assert torch.equal(visible, again)
    generator = seeded(3)
    parts.block_places(GRID, 8, 0.2, 2, generator)
    mixed, both = parts.partial_mixture(x, PATCH[0], generator)
    y = objective.targets(torch.cat([x, mixed]))
    total = 0.0
    for m in range(8):
        b = m // 2
        hidden = [n for n in range(N) if n not in visible[m].tolist()]
        for n in hidden:
            source = (y[b, n] + y[(b - 1) % 4, n]) / 2 if both[b, n // GRID[1]] else y[b, n]
            error = (clean_answer[m, n] - y[b, n]).square() + (mixed_answer[m, n] - y[4 + b, n]).square()
            total += (error + (mixed_answer[m, n] - source).square()).mean() / len(hidden) / 8
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-5)


def test_token_prediction_is_the_cross_entropy_of_hidden_codes():
    objective, x = MAKERS["tokens"](), clips()
    objective.predictor = Recorder(256)
    loss = objective(x, seeded(3))
    _, _, visible, asked, answer = objective.predictor.calls[0]
    assert visible.shape == (4, 8) and asked.shape == (4, 10)  # a quarter seen, two fifths of the rest asked for
    assert not any(set(v.tolist()) & set(a.tolist()) for v, a in zip(visible, asked, strict=True))
    codes = objective.tokenizer.codes(x)
    surprise = [
        -math.log(answer[b, k].softmax(-1)[codes[b, asked[b, k]]]) for b in range(4) for k in range(asked.shape[1])
    ]
    assert loss.item() == pytest.approx(sum(surprise) / len(surprise), rel=1e-4)


def test_the_tokenizers_teacher_is_met_by_cosine_and_the_codes_stay_near_the_encodings():
    objective, x = MAKERS["tokenizer"](), clips()
    loss = loss_of(objective, x)
    tokenizer = objective.tokenizer
    z = tokenizer(x)
    v = tokenizer.codebook[(z @ tokenizer.codebook.T).argmax(-1)]
    y = objective.enter(v) + objective.positions
    for block in objective.blocks:
        y = block(y)[0]
    output = objective.teacher(x).tokens
    output = output - output.mean((0, 1))
    predicted = objective.predict(y)
    cosine = (predicted * output).sum(-1) / predicted.norm(dim=-1) / output.norm(dim=-1)
    torch.testing.assert_close(loss, (1 - cosine).mean() + (z - v).norm(dim=-1).square().mean())


def test_the_gradient_passes_the_codes_straight_to_the_tokenizer():
    objective = MAKERS["tokenizer"]()
    loss_of(objective, clips()).backward()
    assert objective.tokenizer.to_code.weight.grad.norm() > 0 and objective.tokenizer.vit.embed.weight.grad.norm() > 0
    assert len(objective.vit.blocks) == 1 and objective.tokenizer.vit is objective.vit


def test_local_global_distillation_is_reconstruction_and_two_cross_entropies():
    objective, x = MAKERS["local-global"](), clips()
    with torch.no_grad():
        for p in [*objective.teacher.parameters(), *objective.teacher_heads.parameters()]:
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(8)))
    objective.centres.normal_(generator=seeded(9))
    seen = []
    hook = lambda _module, arguments, result: seen.append((arguments[0], result))  # noqa: E731
    heads = (*objective.heads.values(), *objective.teacher_heads.values())
    for module in (objective.vit.embed, objective.rebuild, *heads):
        module.register_forward_hook(hook)
    loss = objective(x, seeded(3))
    (corrupted, _), (_, rebuilt), (_, local_goal), (_, global_goal), (_, local), (_, global_) = seen
    clean, _ = objective.crops(x, seeded(3))
    hidden = [(corrupted[b] != clean[b]).any(-1).nonzero().flatten().tolist() for b in range(8)]
    assert all(len(h) == 10 for h in hidden)  # 60 % of 4 x 4
    cost = 0.0
    for b in range(8):
        order = [clean[b][n] for n in hidden[b]]
        # the module goes through the places in an order of its own; sums over all of them do not depend on it
        assert len(order) == rebuilt.shape[1]
    temperature = objective.temperature
    goal = ((local_goal - objective.centres[0]) / temperature).softmax(-1)
    cost = cost - (goal * (local / 0.1).log_softmax(-1)).sum(-1).mean()
    other = torch.cat([global_goal[4:], global_goal[:4]])
    goal = ((other - objective.centres[1]) / temperature).softmax(-1)
    cost = cost - (goal * (global_ / 0.1).log_softmax(-1)).sum(-1).mean()
    # the places, in the module's order, once more from the same generator
    generator = seeded(3)
    objective.crops(x, generator)
    places = parts.block_places((4, 4), 8, 0.6, 3, generator)
    assert [sorted(row) for row in places.tolist()] == hidden
    wanted = torch.stack([clean[b, places[b]] for b in range(8)])
    torch.testing.assert_close(loss, cost + 2 * (rebuilt - wanted).abs().mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("foreign", "filler"), [(0.0, "zeros"), (1.0, "another clip")])
def test_corrupted_blocks_are_zeros_or_the_same_places_of_another_clip(foreign, filler):
    objective = LocalGlobalDistillation(small_vit(), seeded(), steps=4, classes=32, foreign=foreign)
    seen = []
    objective.vit.embed.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    objective(clips(), seeded(3))
    clean, _ = objective.crops(clips(), seeded(3))
    expected = torch.zeros_like(clean) if filler == "zeros" else clean.roll(1, 0)
    changed = (seen[0] != clean).any(-1)
    assert changed.sum() == 8 * 10 and torch.equal(seen[0][changed], expected[changed])


def test_a_projection_head_ends_in_cosines_with_directions_drawn_from_its_generator():
    first, again = (parts.projection_head(16, 32, seeded(4)) for _ in range(2))
    x = 5 * torch.randn(20, 64, generator=seeded(1))
    torch.testing.assert_close(first[-1](x), torch.cosine_similarity(x[:, None], first[-1].weight, dim=-1))
    torch.testing.assert_close(first[-1](x), first[-1](3 * x))  # a direction alone counts
    assert torch.equal(first[-1].weight, again[-1].weight) and first(x[:, :16]).abs().max() <= 1 + 1e-6


def test_crops_lie_at_the_positions_of_their_place_in_the_clip():
    objective = LocalGlobalDistillation(small_vit(), seeded(), steps=4, classes=32, gain=0.0)
    time = torch.arange(33.0)[None, :, None].expand(64, -1, 16)
    patches, places = objective.crops(time, seeded(0))
    first_frame = patches[:, 0, 0]
    assert torch.equal(places[:, 0] // 4, (first_frame / 4).round().long())
    assert torch.equal(places - places[:, :1], torch.arange(16).expand(128, -1))
    assert first_frame.min() == 0 and first_frame.max() == 17 and places.max() == N - 1  # all of the clip is heard
    assert (first_frame[:64] != first_frame[64:]).any()


@pytest.mark.parametrize("cls", [True, False])
def test_fine_tuning_is_the_binary_cross_entropy_of_cls_or_the_mean_token(cls):
    objective, x, y = SupervisedFineTuning(small_vit(cls), seeded(), keep=1.0), clips(), labels(4)
    loss = objective(x, seeded(3), y)
    tokens = objective.vit(x)
    p = objective.classify(tokens.cls if cls else tokens.tokens.mean(1)).sigmoid()
    torch.testing.assert_close(loss, -(y * p.log() + (1 - y) * (1 - p).log()).mean())


def test_fine_tuning_learns_labels_that_can_be_heard():
    objective = SupervisedFineTuning(small_vit(), seeded(), classes=2)
    x = clips(32)
    y = torch.stack([x[:, :, :8].mean((1, 2)) > 0, x[:, :, 8:].mean((1, 2)) > 0.3], 1).float()
    optimizer, generator = torch.optim.AdamW(objective.parameters(), lr=3e-3), seeded(3)
    losses = []
    for _ in range(40):
        losses.append(objective(x, generator, y))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


# ---- what is hidden -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "share"), [("mae", 0.2), ("mae without cls", 0.25), ("latent", 0.2), ("tokens", 0.25), ("supervised", 0.5)]
)
def test_the_student_gets_the_visible_patches_and_nothing_of_the_hidden_ones(name, share):
    objective, x = MAKERS[name](), clips(2)
    inputs = []
    objective.vit.blocks[0].register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    leaf = x.clone().requires_grad_()
    loss_of(objective, leaf)
    seen = inputs[0]  # (clips · masks, [cls and] visible, D)
    extra, masks = objective.vit.cls_token is not None, len(inputs[0]) // 2
    assert seen.shape[1] - extra == round(share * N)
    for row in range(len(seen)):
        (gradient,) = torch.autograd.grad(seen[row].sum(), leaf, retain_graph=True)
        heard = patchify(gradient, PATCH).abs().sum(-1) > 0  # (2, N)
        assert heard[row // masks].sum() == round(share * N) and not heard[1 - row // masks].any()


def test_what_replaces_a_corrupted_block_does_not_depend_on_what_was_there():
    objective, x = MAKERS["local-global"](), clips(2)
    objective.foreign = 0.0
    seen = []
    objective.vit.embed.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    leaf = x.clone().requires_grad_()
    objective(leaf, seeded(3))
    (gradient,) = torch.autograd.grad(seen[0].sum(), leaf)
    assert (seen[0] == 0).all(-1).sum() == 4 * 10
    assert gradient.sum().round() == 4 * 6 * 16  # the values of the six patches a crop that were left


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_block_masks_choose_exactly_their_share_and_in_blocks(share):
    places = parts.block_places((31, 8), 200, share, 5, seeded(0))
    assert places.shape == (200, round(share * 248)) and all(len(set(row)) == len(row) for row in places.tolist())

    def neighbours(places):
        chosen = torch.zeros(200, 248).scatter(1, places, 1.0).reshape(200, 31, 8)
        pairs = (chosen[:, 1:] * chosen[:, :-1]).sum() + (chosen[:, :, 1:] * chosen[:, :, :-1]).sum()
        return (2 * pairs / chosen.sum()).item()

    scattered = torch.rand(200, 248, generator=seeded(1)).argsort(1)[:, : places.shape[1]]
    assert neighbours(places) > neighbours(scattered) + 0.7  # of four
    counts = torch.bincount(places.flatten(), minlength=248).float() / 200
    assert counts.min() > 0 and counts.max() < 2.5 * share  # every place has its turn


def test_the_masks_of_one_clip_differ():
    objective, x = MAKERS["latent"](), clips()
    objective.decoder = Recorder(DIM, N)
    objective(x, seeded(3))
    visible = objective.decoder.calls[0][1].sort(1).values
    assert len(visible.unique(dim=0)) >= 7


# ---- what moves ---------------------------------------------------------------------------------------------


def teacher_of(objective):
    frozen = [p for p in objective.parameters() if not p.requires_grad]
    return torch.cat([p.detach().flatten() for p in frozen]).clone()


@WITH_TEACHER
def test_a_teacher_gets_no_gradient_and_moves_in_after_step_alone(name):
    objective = MAKERS[name]()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)  # even when it is handed everything
    before = teacher_of(objective)
    loss_of(objective, clips()).backward()
    assert all(p.grad is None for p in objective.parameters() if not p.requires_grad) and len(before) > 0
    optimizer.step()
    assert torch.equal(teacher_of(objective), before)
    student = torch.cat([p.detach().flatten() for p in objective.vit.parameters()])
    objective.after_step(0.0)
    low, high = objective.decay
    expected = low * before[: len(student)] + (1 - low) * student
    torch.testing.assert_close(teacher_of(objective)[: len(student)], expected)
    before = teacher_of(objective)[: len(student)]
    objective.after_step(1.0)
    torch.testing.assert_close(teacher_of(objective)[: len(student)], high * before + (1 - high) * student)


@pytest.mark.parametrize("name", ["tokens", "tokenizer"])
def test_a_finished_tokenizer_and_a_finished_encoder_stay_as_they_are(name):
    objective = MAKERS[name]()
    frozen = objective.tokenizer if name == "tokens" else objective.teacher
    before = copy.deepcopy(frozen.state_dict())
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    loss_of(objective, clips()).backward()
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())


@EACH
def test_every_part_that_is_trained_has_a_use(maker):
    objective = maker()
    loss_of(objective, clips()).backward()
    useless = [n for n, p in objective.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert useless == []


# ---- what can be relied on ----------------------------------------------------------------------------------


@EACH
def test_the_loss_is_finite_repeatable_and_drawn_from_the_generator_alone(maker):
    x = clips()
    first = loss_of(maker(), x)
    torch.manual_seed(99), torch.rand(3)
    assert torch.isfinite(first) and first.shape == () and torch.equal(first, loss_of(maker(), x))
    assert not torch.equal(first, loss_of(maker(seed=1), x))
    if not isinstance(maker(), TokenizerDistillation):  # nothing in it is random
        assert not torch.equal(first, loss_of(maker(), x, seed=4))


@EACH
def test_the_loss_in_bfloat16_is_near_the_one_in_float32(maker):
    x, objective = clips(), maker()
    exact = loss_of(objective, x)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(objective, x)
    assert loss.dtype == torch.float32 and abs(loss - exact) < 0.05 * exact
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


@EACH
def test_a_state_taken_in_the_middle_continues_alike(maker):
    ours, theirs = maker(), maker(seed=1)

    def step(objective, seed):
        optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.05)
        loss_of(objective, clips(seed=seed), seed).backward()
        optimizer.step()
        if hasattr(objective, "after_step"):
            objective.after_step(0.5)
        objective.zero_grad()

    step(ours, 1)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    step(ours, 2), step(theirs, 2)
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key


@pytest.mark.parametrize("maker", [LatentDistillation, LocalGlobalDistillation])
def test_objectives_on_cls_refuse_a_vit_without_it(maker):
    with pytest.raises(InputError, match=r"trains \[cls\]; give it a ViT that has one"):
        maker(small_vit(cls=False), seeded())


# ---- no collapse --------------------------------------------------------------------------------------------


def trained(objective, steps=30):
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=2e-3)
    generator = seeded(3)
    for step in range(steps):
        loss = objective(clips(8, seed=10 + step), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step / steps)
    return objective


def test_the_targets_of_latent_distillation_differ_within_a_clip_and_between_clips():
    objective = trained(LatentDistillation(small_vit(), seeded(), masks=2, block=2, decay=(0.9, 0.99)))
    targets = objective.targets(clips(8))
    assert torch.isfinite(targets).all()
    assert targets.std(1).mean() > 0.3 and targets.mean(1).std(0).mean() > 0.1
    # What a place has in every clip is no target: a teacher that says only where a token lies would say nothing.
    assert targets.mean(0).abs().mean() < 0.2 * targets.abs().mean()


def test_the_soft_classes_of_local_global_distillation_are_neither_one_nor_all():
    objective = trained(LocalGlobalDistillation(small_vit(), seeded(), steps=4, classes=32, decay=(0.9, 0.99)))
    goals = objective.teacher_heads["global"](objective.teacher(clips(32)).cls)
    goals = ((goals - objective.centres[1]) / objective.temperature).softmax(-1)
    entropy = -(goals * goals.clamp(min=1e-9).log()).sum(-1).mean()
    share = goals.mean(0)
    spread = -(share * share.clamp(min=1e-9).log()).sum()
    assert spread > 0.3 * math.log(32) and entropy < 0.95 * math.log(32)


# ---- the tokenizers -----------------------------------------------------------------------------------------


def test_random_codes_are_those_of_the_nearest_code_fixed_and_mostly_used():
    tokenizer, x = RandomTokenizer((16, 8), seeded()), torch.randn(12, 499, 64, generator=seeded(1))
    codes = tokenizer.codes(x)
    assert codes.shape == (12, 248) and torch.equal(codes, RandomTokenizer((16, 8), seeded()).codes(x))
    assert len(codes.unique()) > 128
    louder = tokenizer.codes(x + torch.randn(12, 1, 64, generator=seeded(2)))
    assert (louder == codes).float().mean() > 0.99  # the level of a band does not count
    patch = patchify(x[:1] - x[:1].mean(1, keepdim=True), (16, 8))[0, 5]
    distances = [(F.normalize(patch @ tokenizer.projection, dim=0) - code).norm() for code in tokenizer.codebook]
    assert codes[0, 5] == torch.stack(distances).argmin()


def test_learned_codes_follow_their_vectors_and_unused_codes_are_put_to_use():
    tokenizer = LearnedTokenizer(small_vit(False), seeded(), num_codes=64, code_dim=8)
    x = clips(8)
    with torch.no_grad():
        start = len(tokenizer.codes(x).unique())
        for _ in range(40):
            z = tokenizer(x)
            tokenizer.move(z.flatten(0, 1), tokenizer.nearest(z).flatten(), decay=0.9)
    codes = tokenizer.codes(x)
    assert torch.equal(codes, tokenizer.codes(x)) and codes.shape == (8, N)
    assert len(codes.unique()) > 32 and len(codes.unique()) > start
    torch.testing.assert_close(tokenizer.codebook.norm(dim=-1), torch.ones(64))


def test_a_code_moves_to_the_mean_of_the_vectors_that_chose_it():
    tokenizer = LearnedTokenizer(small_vit(False), seeded(), num_codes=3, code_dim=2)
    tokenizer.codebook.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    tokenizer.usage.fill_(1 / 3)
    z = F.normalize(torch.tensor([[1.0, 0.2], [1.0, 0.4], [0.1, 1.0]]), dim=-1)
    tokenizer.move(z, tokenizer.nearest(z), decay=0.75)
    wanted = F.normalize(0.75 * torch.tensor([1.0, 0.0]) + 0.25 * z[:2].mean(0), dim=0)
    torch.testing.assert_close(tokenizer.codebook[0], wanted)
    torch.testing.assert_close(tokenizer.codebook[2], torch.tensor([-1.0, 0.0]))  # not chosen, not yet dead
    torch.testing.assert_close(tokenizer.usage, torch.tensor([0.25 + 1 / 6, 0.25 + 1 / 12, 0.25]))
