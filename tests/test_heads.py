"""The pooling heads: exact counts, identities, invariances, gradients, masks, seeds and clear errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lib.errors import InputError
from lib.heads import FAMILIES, HEADS, build_head, parameter_groups
from lib.loss import asymmetric_loss
from lib.pooling import max_cosine, sign

B, D, C, GRID, J = 3, 24, 5, (6, 4), 3
N, K = GRID[0] * GRID[1], J * C
PROTOTYPE = [name for name in HEADS if FAMILIES[name] == "prototype"]
ATTENTIVE = [name for name in HEADS if FAMILIES[name] == "attentive"]
SMALL = {"ep": {"num_queries": 6}, "mhca": {"num_heads": 4}}  # sizes that divide D = 24


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def small(name, seed=0, grid=GRID, **options):
    return build_head(name, D, C, grid, J, rng(seed), **(SMALL.get(name, {}) | options))


def batch(seed=1, clips=B, n=N):
    g = rng(seed)
    return torch.randn(clips, n, D, generator=g), torch.randn(clips, D, generator=g)


def count(head):
    return sum(parameter.numel() for parameter in head.parameters())


# ---- registry and counts


def test_the_heads_are_registered_in_the_papers_order_with_their_family():
    expected = "linear mlp linearc conv linpre mhca ep simpool abmilp proto protobin protofloat"
    assert list(HEADS) == expected.split()
    assert [FAMILIES[name] for name in HEADS] == ["cls"] * 2 + ["token map"] * 3 + ["attentive"] * 4 + ["prototype"] * 3


TABLE_9 = {
    "linear": 7_690, "mlp": 398_858, "linearc": 3_932_170, "conv": 2_658_442, "linpre": 61_450, "mhca": 1_188_106,
    "ep": 622_090, "simpool": 1_188_874, "abmilp": 2_959_115, "proto": 153_810, "protobin": 155_610,
    "protofloat": 155_610,
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_parameter_count_is_that_of_table_9(name):
    assert count(build_head(name, 768, 10, (64, 8))) == TABLE_9[name]


def test_parameter_counts_of_the_variants():
    assert count(build_head("simpool", 768, 10, (64, 8), single_matrix=True)) == 597_514
    d, c = 768, 10
    assert count(build_head("abmilp", d, c, (64, 8), variant="ilse")) == d * d + 2 * d + 1 + d * c + c
    assert count(build_head("abmilp", d, c, (64, 8), variant="gated")) == 2 * (d * d + d) + d + 1 + d * c + c
    assert count(build_head("conv", d, c, (64, 8), batch_norm=True)) == 2_658_442 + 2 * 384
    assert count(build_head("mhca", d, c, (64, 8), head_bn=True, token_norm="none")) == 1_188_106


AS20K = {  # C = 527, J = 10, in millions as rounded in the audit of Table 9
    "linear": 0.405, "mlp": 0.664, "conv": 2.86, "linpre": 3.24, "mhca": 1.59, "ep": 1.02, "simpool": 1.59,
    "abmilp": 3.36, "proto": 4.05, "protobin": 6.83, "protofloat": 6.83,
}  # fmt: skip


@pytest.mark.parametrize("name", AS20K)
def test_parameter_count_on_as20k(name):
    millions = count(build_head(name, 768, 527, (64, 8), 10)) / 1e6
    assert f"{millions:.3g}" == f"{AS20K[name]:.3g}"


def test_linearc_would_have_207_million_parameters_on_as20k():
    per_class = count(build_head("linearc", 768, 2, (64, 8))) - count(build_head("linearc", 768, 1, (64, 8)))
    assert round(527 * per_class / 1e6, 1) == 207.2


def test_sizes_scale_with_the_token_dimension():
    pocket = {name: build_head(name, 128, 16, (31, 8)) for name in ("mlp", "conv", "mhca", "ep")}
    assert pocket["mlp"].hidden.out_features == 85
    assert pocket["conv"].conv.out_channels == 64
    assert pocket["mhca"].heads == (8, 16)
    assert pocket["ep"].queries.shape == (32, 128)
    assert build_head("mhca", 768, 2, (2, 2)).heads == (12, 64)
    assert build_head("mlp", 100, 16, (31, 8)).hidden.out_features == 67
    assert build_head("mlp", 128, 16, (31, 8), hidden=7).hidden.out_features == 7
    assert build_head("conv", 128, 16, (31, 8), conv_dim=9).conv.out_channels == 9


# ---- logits, gradients, optimiser groups


@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_gets_gradient_and_logits_are_finite(name):
    head, (tokens, cls) = small(name), batch()
    logits = head(tokens, cls)
    assert logits.shape == (B, C)
    (logits * torch.randn(B, C, generator=rng(2))).sum().backward()
    for parameter_name, parameter in head.named_parameters():
        if name == "abmilp" and parameter_name == "score.bias":  # a constant under the softmax
            assert parameter.grad.abs().max() < 1e-6
        else:
            assert parameter.grad.abs().max() > 1e-6, parameter_name


@pytest.mark.parametrize("name", HEADS)
def test_a_few_steps_lower_the_loss(name):
    head, (tokens, cls) = small(name), batch(clips=12)
    targets = (torch.rand(12, C, generator=rng(3)) < 0.4).float()
    optimizer = torch.optim.AdamW(parameter_groups(head, 1e-4), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = asymmetric_loss(head(tokens, cls), targets) + head.extra_loss()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", HEADS)
def test_only_matrices_decay(name):
    head = small(name, **({"batch_norm": True} if name == "conv" else {}))
    groups = parameter_groups(head, 0.1)
    by_decay = {group["weight_decay"]: {id(p) for p in group["params"]} for group in groups}
    assert sum(len(group["params"]) for group in groups) == len(list(head.parameters()))
    for parameter_name, parameter in head.named_parameters():
        exempt = parameter.ndim == 1 or parameter_name in ("prototypes", "queries")
        assert id(parameter) in by_decay[0.0 if exempt else 0.1], parameter_name


def test_only_proto_adds_to_the_loss():
    extra = {name: small(name).extra_loss() for name in HEADS}
    assert extra.pop("proto").item() > 0
    assert set(extra.values()) == {0.0}
    doubled = small("proto", orthogonality_weight=2.0)
    assert_close(doubled.extra_loss(), 2 * small("proto").extra_loss())


@pytest.mark.parametrize("name", [name for name in HEADS if FAMILIES[name] != "prototype"])
def test_head_bn_normalises_what_the_classifier_reads(name):
    head, (tokens, cls) = small(name, head_bn=True), batch()
    y = head.pool(tokens, cls, None)
    normal = (y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-6).sqrt()
    assert_close(head(tokens, cls), head.classifier(normal), atol=1e-4, rtol=1e-4)


# ---- seeds


@pytest.mark.parametrize("name", HEADS)
def test_initial_weights_depend_on_the_heads_own_seed_alone(name):
    torch.manual_seed(1)
    first = small(name, seed=7).state_dict()
    torch.manual_seed(2)
    small("mlp", seed=9)
    torch.randn(5)
    second = small(name, seed=7).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = small(name, seed=8).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", HEADS)
def test_building_a_head_leaves_the_global_generator_alone(name):
    before = torch.get_rng_state()
    small(name)
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_generator_the_seed_is_zero():
    first = build_head("protobin", D, C, GRID, J)
    assert torch.equal(first.prototypes, small("protobin", seed=0).prototypes)


@pytest.mark.parametrize("name", ["linear", "conv", "mhca", "ep", "protobin"])
def test_layers_start_uniform_within_one_over_root_fan_in(name):
    head = build_head(name, 128, 16, (31, 8))
    weight = head.conv.weight if name == "conv" else head.classifier.weight
    bound = weight[0].numel() ** -0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    assert abs(weight.mean()) < 0.1 * bound


# ---- invariances


@pytest.mark.parametrize("name", [*ATTENTIVE, *PROTOTYPE])
def test_the_order_of_tokens_does_not_matter(name):
    head, (tokens, cls) = small(name), batch()
    shuffled = tokens[:, torch.randperm(N, generator=rng(4))]
    assert_close(head(shuffled, cls), head(tokens, cls), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["linearc", "conv"])
def test_linearc_and_conv_do_see_the_order_of_tokens(name):
    head, (tokens, cls) = small(name), batch()
    shuffled = tokens[:, torch.randperm(N, generator=rng(4))]
    assert (head(shuffled, cls) - head(tokens, cls)).abs().max() > 1e-3


def test_linpre_sees_the_order_in_frequency_but_not_in_time():
    head, (tokens, cls) = small("linpre"), batch()
    grid = tokens.unflatten(1, GRID)  # (B, N, D) → (B, S_t, S_f, D)
    in_time = grid[:, torch.randperm(GRID[0], generator=rng(4))].flatten(1, 2)
    in_frequency = grid.flip(2).flatten(1, 2)
    assert_close(head(in_time, cls), head(tokens, cls), atol=1e-6, rtol=1e-5)
    assert (head(in_frequency, cls) - head(tokens, cls)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_cls_heads_read_nothing_but_cls(name):
    head, (tokens, cls) = small(name), batch()
    assert torch.equal(head(None, cls), head(tokens, cls))


@pytest.mark.parametrize("name", [name for name in HEADS if FAMILIES[name] != "cls"])
def test_the_other_heads_do_without_cls(name):
    head, (tokens, cls) = small(name), batch()
    assert torch.equal(head(tokens, None), head(tokens, cls))


@pytest.mark.parametrize(("name", "tolerance"), [("protobin", 1e-6), ("protofloat", 1e-6), ("proto", 1e-4)])
def test_the_length_of_a_token_does_not_matter_to_prototypes(name, tolerance):
    head, (tokens, cls) = small(name), batch()
    scale = 0.5 + 4 * torch.rand(B, N, 1, generator=rng(5))
    assert_close(head(tokens * scale, cls), head(tokens, cls), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ["protobin", "protofloat"])
def test_the_length_of_a_prototype_does_not_matter(name):
    head, (tokens, cls) = small(name), batch()
    before = head(tokens, cls)
    with torch.no_grad():
        head.prototypes.mul_(7.5)
    assert_close(head(tokens, cls), before, atol=1e-6, rtol=1e-6)


# ---- folded forms are the textbook's


def test_folded_mhca_is_the_textbook_form():
    head, (tokens, cls) = small("mhca"), batch()
    m, d = 4, D // 4
    z = (tokens - tokens.mean((0, 1))) / (tokens.var((0, 1), unbiased=False) + 1e-6).sqrt()  # (B, N, D)
    keys = (z @ head.key.weight.T).view(B, N, m, d)  # (B, N, D) → (B, N, M, d)
    values = (z @ head.value.weight.T).view(B, N, m, d)  # (B, N, D) → (B, N, M, d)
    attention = (torch.einsum("md,bnmd->bnm", head.query.view(m, d), keys) / math.sqrt(d)).softmax(1)
    y = torch.einsum("bnm,bnmd->bmd", attention, values).flatten(1)  # (B, M, d) → (B, D)
    assert_close(head(tokens, cls), y @ head.classifier.weight.T + head.classifier.bias, atol=1e-5, rtol=1e-4)


def test_folded_ep_is_the_textbook_form():
    head, (tokens, cls) = small("ep"), batch()
    attention = (tokens @ head.queries.T / math.sqrt(D)).softmax(1)  # (B, N, Q)
    values = (tokens @ head.value.weight.T).view(B, N, 6, D // 6)  # (B, N, D) → (B, N, Q, D/Q)
    y = torch.einsum("bnq,bnqd->bqd", attention, values).flatten(1)  # (B, Q, D/Q) → (B, D)
    assert_close(head(tokens, cls), y @ head.classifier.weight.T + head.classifier.bias, atol=1e-5, rtol=1e-4)


def test_mhca_without_token_norm_is_ep_with_folded_queries():
    m = 4
    mhca, ep = small("mhca", num_heads=m, token_norm="none"), small("ep", seed=1, num_queries=m)
    d = D // m
    with torch.no_grad():
        mhca.query.mul_(50)  # attention far from uniform
        folded = torch.einsum("md,mdi->mi", mhca.query.view(m, d), mhca.key.weight.view(m, d, D))  # (M, D)
        ep.queries.copy_(math.sqrt(D / d) * folded)
        ep.value.weight.copy_(mhca.value.weight)
        ep.classifier.load_state_dict(mhca.classifier.state_dict())
    tokens, cls = batch()
    assert_close(ep(tokens, cls), mhca(tokens, cls), atol=1e-5, rtol=1e-4)


def test_folded_simpool_is_the_textbook_form():
    head, (tokens, cls) = small("simpool"), batch()
    with torch.no_grad():
        head.token_norm.weight.uniform_(0.5, 2, generator=rng(6))
        head.token_norm.bias.uniform_(-1, 1, generator=rng(7))
        head.query.weight.mul_(20)
    x = head.token_norm(tokens)  # (B, N, D)
    query, keys = head.query(tokens.mean(1)), head.key(x)  # (B, D), (B, N, D)
    attention = (torch.einsum("bd,bnd->bn", query, keys) / math.sqrt(D)).softmax(1)
    y = torch.einsum("bn,bnd->bd", attention, x)
    assert_close(head(tokens, cls), head.classifier(y), atol=1e-5, rtol=1e-4)


def test_simpool_with_one_matrix_has_the_same_function_class():
    two, one = small("simpool"), small("simpool", seed=1, single_matrix=True)
    with torch.no_grad():
        two.query.weight.mul_(20)
        one.query.weight.copy_(two.key.weight.T @ two.query.weight)
        one.classifier.load_state_dict(two.classifier.state_dict())
    tokens, cls = batch()
    assert_close(one(tokens, cls), two(tokens, cls), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", ["sa", "ilse", "gated"])
def test_folded_abmilp_is_the_textbook_form(variant):
    head, (tokens, cls) = small("abmilp", variant=variant), batch()
    x = tokens
    if variant == "sa":
        query, key, value = head.qkv(tokens).chunk(3, -1)  # (B, N, D) each
        x = head.projection((query @ key.mT / math.sqrt(D)).softmax(-1) @ value)
    evidence = torch.tanh(head.hidden(x))
    if variant == "gated":
        evidence = evidence * torch.sigmoid(head.gate(x))
    y = (head.score(evidence).softmax(1) * x).sum(1)
    assert_close(head(tokens, cls), head.classifier(y), atol=1e-5, rtol=1e-4)


def test_linpre_means_and_concatenation_commute():
    head, (tokens, cls) = small("linpre"), batch()
    steps = tokens.view(B, GRID[0], GRID[1] * D)  # (B, N, D) → (B, S_t, S_f·D), concatenated in each time step
    assert_close(head(tokens, cls), head.classifier(steps.mean(1)), atol=1e-6, rtol=1e-5)


def test_the_conv_head_reads_the_grid_time_major():
    head, (tokens, cls) = small("conv"), batch()
    image = torch.stack([tokens[:, t * GRID[1] + f] for t in range(GRID[0]) for f in range(GRID[1])], -1)
    maps = F.conv2d(image.view(B, D, *GRID), head.conv.weight, head.conv.bias, padding=1)  # (B, D_h, S_t, S_f)
    assert_close(head(tokens, cls), head.classifier(maps.relu().mean((2, 3))), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"pool": "max"}, {"activation": "gelu"}, {"activation": "none"}])
def test_conv_options_change_the_function(options):
    tokens, cls = batch()
    assert (small("conv", **options)(tokens, cls) - small("conv")(tokens, cls)).abs().max() > 1e-3


# ---- prototypes


def test_sign_of_zero_is_plus_one_and_the_values_are_exact():
    values = sign(torch.tensor([-2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0]))
    assert values.tolist() == [-1, -1, 1, 1, 1, 1]


def test_sign_passes_the_gradient_straight_through():
    latent = torch.tensor([-5.0, -0.1, 0.0, 0.2, 9.0], requires_grad=True)
    gradient = torch.tensor([1.0, -2.0, 3.0, 0.5, -7.0])
    sign(latent).backward(gradient)
    assert torch.equal(latent.grad, gradient)


def test_gradient_of_a_binary_similarity_is_the_tangential_one():
    head, (tokens, _) = small("protobin"), batch(clips=1)
    similarity = head.pool(tokens, None, None)  # (1, K)
    k = 2
    similarity[0, k].backward()
    winner = head.similarity_map(tokens)[0, k].flatten().argmax()
    z = F.normalize(tokens[0, winner], dim=0)
    b = F.normalize(sign(head.prototypes[k]), dim=0)
    assert_close(head.prototypes.grad[k], (z - (z @ b) * b) / math.sqrt(D))
    others = torch.arange(K) != k
    assert not head.prototypes.grad[others].any()


def test_binary_scores_need_additions_only():
    head, (tokens, _) = small("protobin"), batch()
    positive = (head.prototypes >= 0).float()  # (K, D)
    sums = 2 * tokens @ positive.T - tokens.sum(-1, keepdim=True)  # (B, N, K), bᵀz = 2 Σ_{b=+1} z − Σ z
    scores = sums / (math.sqrt(D) * tokens.norm(dim=-1, keepdim=True))
    assert_close(head.similarity_map(tokens).flatten(2), scores.mT, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", PROTOTYPE)
def test_sparse_max_has_the_values_and_the_gradient_of_the_dense_one(name):
    head, (tokens, cls) = small(name), batch()
    weights = torch.randn(B, C, generator=rng(8))
    (head(tokens, cls) * weights).sum().backward()
    sparse = {key: parameter.grad.clone() for key, parameter in head.named_parameters()}
    head.zero_grad()
    dense = head.classifier(head.similarity_map(tokens).flatten(2).max(-1).values)  # (B, K, N) → (B, K) → (B, C)
    assert_close(head(tokens, cls), dense, atol=1e-6, rtol=1e-5)
    (dense * weights).sum().backward()
    for key, parameter in head.named_parameters():
        assert_close(sparse[key], parameter.grad, atol=1e-6, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_the_gradient_of_the_max_reaches_only_the_winning_token():
    tokens = F.normalize(batch(clips=1)[0], dim=-1).requires_grad_()
    prototypes = F.normalize(torch.randn(4, D, generator=rng(9)), dim=-1)
    max_cosine(tokens, prototypes, None).sum().backward()
    winners = (tokens.detach() @ prototypes.T).argmax(1).flatten()
    assert set(tokens.grad[0].abs().sum(-1).nonzero().flatten().tolist()) == set(winners.tolist())


def test_the_max_is_the_same_across_blocks_of_prototypes_and_without_gradient():
    tokens = F.normalize(batch()[0], dim=-1)
    prototypes = F.normalize(torch.randn(2100, D, generator=rng(9)), dim=-1)  # more than two blocks
    expected = (tokens @ prototypes.T).amax(1)
    assert_close(max_cosine(tokens, prototypes, None), expected, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        assert_close(max_cosine(tokens, prototypes, None), expected, atol=1e-6, rtol=1e-5)


def test_tokens_receive_gradient_when_an_encoder_is_fine_tuned():
    head, (tokens, cls) = small("protobin"), batch()
    tokens.requires_grad_()
    head(tokens, cls).sum().backward()
    winners = head.similarity_map(tokens.detach()).flatten(2).argmax(-1)  # (B, K)
    for clip in range(B):
        assert set(tokens.grad[clip].abs().sum(-1).nonzero().flatten().tolist()) == set(winners[clip].tolist())


@pytest.mark.parametrize("name", PROTOTYPE)
def test_maps_agree_with_the_logits(name):
    head, (tokens, cls) = small(name), batch()
    similarity, evidence = head.similarity_map(tokens), head.evidence_map(tokens)
    assert similarity.shape == (B, K, *GRID)
    assert evidence.shape == (B, C, *GRID)
    best = similarity.amax((2, 3))  # (B, K)
    weight = head.classifier.weight
    if name == "proto":
        weight = torch.block_diag(*weight.relu()[:, None])  # (C, J) → (C, K)
    assert_close(best @ weight.T + head.classifier.bias, head(tokens, cls), atol=1e-5, rtol=1e-5)
    assert_close(torch.einsum("ck,bktf->bctf", weight, similarity), evidence, atol=1e-5, rtol=1e-4)


def test_maps_are_time_major():
    head, (tokens, _) = small("protobin"), batch()
    t, f = 4, 1
    alone = torch.zeros_like(tokens)
    alone[:, t * GRID[1] + f] = tokens[:, t * GRID[1] + f]
    active = head.similarity_map(alone)[0].abs().sum(0)  # (S_t, S_f)
    assert active.nonzero().tolist() == [[t, f]]


def test_protobin_starts_balanced_and_almost_orthogonal():
    dim = 768
    b = sign(build_head("protobin", dim, 10, (64, 8)).prototypes.detach())  # (200, 768)
    assert abs((b > 0).float().mean() - 0.5) < 0.01
    cosines = (b @ b.T / dim)[~torch.eye(len(b), dtype=torch.bool)].abs()
    assert_close(cosines.mean(), torch.tensor(math.sqrt(2 / (math.pi * dim))), rtol=0.03, atol=0)


def test_init_std_scales_the_latents_and_not_the_function():
    narrow, wide, (tokens, cls) = small("protobin"), small("protobin", init_std=1.0), batch()
    assert_close(wide.prototypes * 0.02, narrow.prototypes)
    assert_close(wide(tokens, cls), narrow(tokens, cls))


def test_proto_starts_as_its_authors_have_it():
    head = build_head("proto", 768, 10, (64, 8))
    assert head.prototypes.shape == (10, 20, 768)
    assert head.prototypes.min() >= 0
    assert abs(head.prototypes.mean() - 0.5) < 0.01
    unit = head.unit_prototypes()
    off_diagonal = (unit @ unit.T)[~torch.eye(200, dtype=torch.bool)]
    assert_close(off_diagonal.mean(), torch.tensor(0.75), atol=0.01, rtol=0)
    assert torch.equal(head.classifier.weight, torch.ones(10, 20))
    assert torch.equal(head.classifier.bias, torch.full((10,), -2.0))


def test_protos_cosine_has_the_appended_channels_and_epsilons():
    head, (tokens, _) = small("proto"), batch()
    eps = 1e-4
    z = torch.cat([tokens, torch.full((B, N, 2), eps)], -1)
    p = torch.cat([head.prototypes.view(K, D), torch.full((K, 2), eps)], -1)
    lengths = (z.square().sum(-1) + eps).sqrt()[:, None] * ((p.square().sum(-1) + eps).sqrt() + eps)[None, :, None]
    expected = torch.relu(torch.einsum("bnd,kd->bkn", z, p) / lengths / 1.01)
    assert_close(head.similarity_map(tokens).flatten(2), expected, atol=1e-6, rtol=1e-5)


def test_a_class_of_proto_sees_only_its_own_prototypes():
    head, (tokens, cls) = small("proto"), batch()
    before = head(tokens, cls)
    with torch.no_grad():
        head.prototypes[2] = torch.randn(J, D, generator=rng(3))
    changed = (head(tokens, cls) - before).abs().max(0).values > 1e-5
    assert changed.tolist() == [False, False, True, False, False]


def test_a_negative_weight_of_proto_counts_as_zero():
    head, (tokens, cls) = small("proto"), batch()
    with torch.no_grad():
        head.classifier.weight.fill_(-1)
    assert_close(head(tokens, cls), torch.full((B, C), -2.0))


def test_focal_similarity_matches_the_difference_to_cls():
    head, (tokens, cls) = small("proto", focal_similarity=True), batch()
    assert_close(head(tokens, cls), small("proto")(tokens - cls[:, None], cls))
    with pytest.raises(InputError, match=r"expects cls as a float tensor \(3, 24\), got NoneType"):
        head(tokens, None)


def test_upsampling_doubles_the_grid_of_the_maps():
    head, (tokens, cls) = small("proto", upsample=True), batch()
    assert head.similarity_map(tokens).shape == (B, K, 2 * GRID[0], 2 * GRID[1])
    flat = torch.randn(B, 1, D, generator=rng(2)).expand(B, N, D)  # the same token everywhere: nothing to interpolate
    assert_close(head(flat, cls), small("proto")(flat, cls), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="upsample=True takes no mask"):
        head(tokens, cls, torch.ones(B, N, dtype=torch.bool))


# ---- masks


def padded(seed=1):
    """Clips of six, four and one valid time steps, the padding full of rubbish; and their mask."""
    tokens, cls = batch(seed)
    steps = torch.tensor([6, 4, 1])
    mask = (torch.arange(GRID[0]) < steps[:, None]).repeat_interleave(GRID[1], 1)  # (B, S_t) → (B, N)
    tokens[~mask] = 1e3
    tokens[2, -1] = float("nan")
    return tokens, cls, mask, steps.tolist()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in HEADS if name != "linearc"),
        ("conv", {"pool": "max"}),
        ("abmilp", {"variant": "gated"}),
        ("simpool", {"single_matrix": True}),
        ("proto", {"focal_similarity": True}),
    ],
)
def test_masked_tokens_count_as_if_they_were_not_there(name, options):
    head = small(name, **options).eval()
    tokens, cls, mask, steps = padded()
    logits = head(tokens, cls, mask)
    for clip, t in enumerate(steps):
        short = small(name, grid=(t, GRID[1]), **options).eval()  # the weights do not depend on S_t
        valid = tokens[clip : clip + 1, : t * GRID[1]]
        assert_close(short(valid, cls[clip : clip + 1]), logits[clip : clip + 1], atol=1e-5, rtol=1e-4)


def test_linearc_reads_masked_tokens_as_zeros():
    head, (tokens, cls, mask, _) = small("linearc"), padded()
    assert torch.equal(head(tokens, cls, mask), head(tokens.masked_fill(~mask[..., None], 0), cls))


@pytest.mark.parametrize("name", HEADS)
def test_a_mask_of_valid_tokens_changes_nothing(name):
    head, (tokens, cls) = small(name), batch()
    everything = torch.ones(B, N, dtype=torch.bool)
    assert_close(head(tokens, cls, everything), head(tokens, cls), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", PROTOTYPE)
def test_a_masked_token_never_wins(name):
    head = small(name)
    tokens, cls = batch()
    prototype = head.unit_prototypes().detach()[0, :D]
    tokens[:, 5] = 10 * prototype  # a perfect match of prototype 0 ...
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[:, 5] = False  # ... that is masked
    assert head.pool(tokens, cls, None)[:, 0].min() > 0.98
    rest = torch.arange(N) != 5
    without = head.activate(head.unit_tokens(tokens[:, rest], cls) @ head.unit_prototypes().T).amax(1)  # (B, K)
    assert_close(head.pool(*head.checked(tokens, cls, mask), mask), without, atol=1e-6, rtol=1e-5)


def test_masked_tokens_do_not_win_against_negative_similarities_only():
    head = small("protobin")
    tokens = -sign(head.prototypes[0]).detach().expand(B, N, D).clone()  # every token is opposite to prototype 0
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[:, 3] = False  # zeroed inside, a similarity of 0
    assert_close(head.pool(*head.checked(tokens, None, mask), mask)[:, 0], -torch.ones(B))


def test_masked_tokens_stay_out_of_the_statistics_of_the_token_norm():
    head, (tokens, cls, mask, _) = small("mhca"), padded()
    head(tokens, cls, mask)
    assert_close(head.token_norm.running_mean, 0.1 * tokens[mask].mean(0))
    for parameter in head.parameters():
        assert parameter.grad is None
    head(tokens, cls, mask).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


# ---- precision


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_compute_in_fp32_whatever_the_tokens_are(name, dtype):
    head, (tokens, cls) = small(name).eval(), batch()
    tokens, cls = tokens.to(dtype), cls.to(dtype)
    exact = head(tokens.float(), cls.float())
    assert exact.dtype == torch.float32
    assert torch.equal(head(tokens, cls), exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(tokens, cls), exact)


# ---- clear errors


def wrong(**changes):
    tokens, cls = batch()
    return {"tokens": tokens, "cls": cls, "mask": torch.ones(B, N, dtype=torch.bool)} | changes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (wrong(tokens=torch.zeros(B, N)), r"tokens as a float tensor \(B, 24, 24\), got torch.float32 \(3, 24\)"),
        (wrong(tokens=torch.zeros(B, N, 7)), r"tokens as a float tensor \(B, 24, 24\), got torch.float32 \(3, 24, 7\)"),
        (wrong(tokens=torch.zeros(B, 9, D)), r"6 × 4 grid expects tokens .* got torch.float32 \(3, 9, 24\)"),
        (wrong(tokens=torch.zeros(B, N, D, dtype=torch.int64)), "tokens as a float tensor .* got torch.int64"),
        (wrong(tokens=[[1.0]]), "tokens as a float tensor .* got list"),
        (wrong(tokens=None), "tokens as a float tensor .* got NoneType"),
        (wrong(cls=torch.zeros(B, 7)), r"cls as a float tensor \(3, 24\), got torch.float32 \(3, 7\)"),
        (wrong(cls=torch.zeros(2, D)), r"cls as a float tensor \(3, 24\), got torch.float32 \(2, 24\)"),
        (wrong(mask=torch.ones(B, N)), r"mask as a bool tensor \(3, 24\), got torch.float32 \(3, 24\)"),
        (wrong(mask=torch.ones(B, 5, dtype=torch.bool)), r"mask as a bool tensor \(3, 24\), got torch.bool \(3, 5\)"),
        (wrong(mask=torch.arange(B)[:, None].expand(B, N) != 1), "mask leaves clip 1 of the batch without a token"),
    ],
)
def test_a_wrong_input_is_told_what_was_expected_and_what_came(given, message):
    with pytest.raises(InputError, match=message) as error:
        small("protobin")(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_checks_its_input(name):
    tokens, cls = batch()
    with pytest.raises(InputError, match=f"Head '{name}' on a 6 × 4 grid expects tokens"):
        small(name)(tokens[:, :-1], cls)
    with pytest.raises(InputError, match=f"Head '{name}' on a 6 × 4 grid expects cls"):
        small(name)(tokens, cls[:, :-1])


@pytest.mark.parametrize("method", ["similarity_map", "evidence_map"])
def test_maps_check_their_input(method):
    with pytest.raises(InputError, match="expects tokens as a float tensor"):
        getattr(small("protobin"), method)(torch.zeros(B, N + 1, D))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "protobinn"}, "Unknown head 'protobinn'; choose one of: linear, mlp, .* Did you mean 'protobin'"),
        ({"name": "mhca", "numheads": 4}, "Unknown mhca option 'numheads'; choose one of: .*num_heads, token_norm"),
        ({"name": "protobin", "head_bn": True}, "Unknown protobin option 'head_bn'; choose one of: init_std"),
        ({"name": "mhca", "num_heads": 7}, "num_heads=7 does not divide the token dimension 24"),
        ({"name": "ep", "num_queries": 32}, "num_queries=32 does not divide the token dimension 24"),
        ({"name": "ep", "num_queries": None}, "num_queries to be a whole number, one or more, got None"),
        ({"name": "mlp", "hidden": 2.5}, "hidden to be a whole number, one or more, got 2.5"),
        ({"name": "mhca", "token_norm": "ln"}, "token_norm to be 'bn' or 'none', got 'ln'"),
        ({"name": "abmilp", "variant": "mil"}, "variant to be 'sa' or 'ilse' or 'gated', got 'mil'"),
        ({"name": "simpool", "single_matrix": "False"}, "single_matrix to be True or False, got 'False'"),
        ({"name": "protobin", "init_std": -1}, "init_std to be a number, zero or more, got -1"),
        ({"name": "linear", "dim": 0}, "dim to be a whole number, one or more, got 0"),
        ({"name": "linear", "num_classes": True}, "num_classes to be a whole number, one or more, got True"),
        ({"name": "linear", "grid": 24}, r"grid to be \(S_t, S_f\), two whole numbers, got 24"),
        ({"name": "linear", "grid": (6, 0)}, "S_f to be a whole number, one or more, got 0"),
        ({"name": "protobin", "prototypes_per_class": 0}, "prototypes_per_class to be a whole number"),
    ],
)
def test_a_wrong_name_size_or_option_is_told_what_was_expected(arguments, message):
    with pytest.raises(InputError, match=message):
        build_head(**({"dim": D, "num_classes": C, "grid": GRID} | arguments))
