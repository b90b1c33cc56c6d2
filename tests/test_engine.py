"""The fast engine: run by run what the plain loop makes, whatever trains beside it, in bounded memory."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from lib import engine_maxima, engine_pooling
from lib.engine import StackedTraining, build
from lib.engine_heads import STACKED, OneByOne
from lib.engine_loss import asymmetric, gradient_of, not_finite
from lib.engine_maxima import Units, best_columns, best_rows, largest_cosines, largest_cosines_vjp, similarity_blocks
from lib.engine_pooling import Clips, Memory, products_dtype
from lib.errors import InputError
from lib.heads import FAMILIES, HEADS
from lib.loss import asymmetric_loss
from lib.pooling import sign
from lib.store import Embeddings
from lib.train import LOSSES, Run, Training, predict

GRID, DIM, CLASSES, J, EPOCHS = (6, 4), 16, 3, 2, 3
DEFAULTS = {name: {"num_queries": 4} if name == "ep" else {} for name in HEADS}  # ep's 32 queries do not divide 16
# What batches three runs have: the same, one run its own, each its own, where heads read them in different ways.
ORDERS = {"shared order": (5, 5, 5), "two orders": (7, 5, 7), "own orders": (7, 5, 6)}
SETTINGS = ((1e-2, 1e-1, 0), (3e-3, 1e-2, 1), (3e-2, 0.0, 2))  # lr, weight decay, seed of three runs


def toy(clips=24, seed=0, dtype=torch.float16):
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randn(clips, GRID[0] * GRID[1], DIM, generator=g) + torch.randn(DIM, generator=g)
    targets = (torch.rand(clips, CLASSES, generator=g) < 0.4).float()
    return Embeddings(tokens.to(dtype), torch.randn(clips, DIM, generator=g), targets, GRID)


def one_class_each(data):
    classes = torch.arange(len(data)) % CLASSES
    return replace(data, targets=torch.nn.functional.one_hot(classes, CLASSES).float())


def three(head, orders=(5, 5, 5), **changes):
    """Three runs of a head, which share their batches or have their own."""
    options = changes.pop("options", DEFAULTS[head])
    return [
        Run(head, lr, wd, EPOCHS, 8, seed=seed, order_seed=order, prototypes=J, options=options, **changes)
        for (lr, wd, seed), order in zip(SETTINGS, orders, strict=True)
    ]


def plain_loop(run, data, epochs=EPOCHS):
    """The head that the plain trainer makes of a run, in float64."""
    data = replace(data, cls=data.cls.double(), targets=data.targets.double())
    return Training(run, data, torch.float64).advance(epochs).head


def assert_same_run(training, run, data, val, epochs=EPOCHS):
    """Weights, buffers and scores of a run in the stack are those of the plain loop."""
    plain = plain_loop(training.runs[run], data, epochs)
    state = training.state(run)
    assert list(state) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert_close(state[name], value, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
    wanted = predict(plain, replace(val, tokens=val.tokens.double()))
    assert_close(training.scores(val)[training.alive.index(run)], wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_agrees_with_the_plain_loop_run_by_run(head, orders):
    data, val = toy(26), toy(20, seed=1)  # the last batch of an epoch is a short one
    training = StackedTraining(three(head, orders), data, torch.float64).advance(EPOCHS)
    for run in range(3):
        assert_same_run(training, run, data, val)


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("linear", {"head_bn": True}),
        ("conv", {"batch_norm": True, "pool": "max"}),
        ("mhca", {"token_norm": "none", "num_heads": 4}),
        ("abmilp", {"variant": "gated"}),
        ("proto", {"upsample": True, "focal_similarity": True, "orthogonality_weight": 3.0}),
    ],
)
def test_an_option_that_the_stacked_head_does_not_know_falls_back_to_the_plain_head(head, options):
    data, val = toy(), toy(20, seed=1)
    training = StackedTraining(three(head, (7, 5, 7), options=options), data, torch.float64)
    assert isinstance(training._head, OneByOne)
    training.advance(EPOCHS)
    for run in range(3):
        assert_same_run(training, run, data, val)


@pytest.mark.parametrize("head", ["linear", "mhca", "protobin"])
def test_cross_entropy_trains_as_in_the_plain_loop(head):
    data, val = one_class_each(toy()), toy(20, seed=1)
    training = StackedTraining(three(head, (7, 5, 6), loss="cross-entropy"), data, torch.float64).advance(EPOCHS)
    for run in range(3):
        assert_same_run(training, run, data, val)


@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("head", ["linpre", "mhca", "proto"])
def test_runs_that_are_kept_go_on_as_if_the_others_had_never_been(head, orders):
    data, val = toy(), toy(20, seed=1)
    training = StackedTraining(three(head, orders), data, torch.float64).advance(1).keep([2, 0])
    assert training.alive == [0, 2] and training.scores(val).shape == (2, 20, CLASSES)
    training.advance(2).keep([2]).advance(EPOCHS)
    assert_same_run(training, 2, data, val)


@pytest.mark.parametrize("head", HEADS)
def test_runs_start_from_the_weights_of_the_plain_head_and_their_state_loads_into_it(head):
    runs, data = three(head, (7, 5, 7)), toy()
    training, val = StackedTraining(runs, data, products="float32"), toy(20, seed=1)
    for number, run in enumerate(runs):
        plain = Training(run, data).head
        for state in (training.state(number), training.initial_state(number)):
            assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())
    training.advance(1)
    assert training.parameters == sum(parameter.numel() for parameter in plain.parameters())
    plain.load_state_dict(training.state(2))
    assert_close(predict(plain, val), training.scores(val)[2], rtol=1e-4, atol=1e-5)
    first = training.initial_state(2)
    assert any(not torch.equal(first[name], value) for name, value in training.state(2).items())


@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("head", ["linpre", "conv", "mhca", "protobin"])
def test_the_same_runs_give_the_same_bytes_paused_or_not(head, orders):
    whole = StackedTraining(three(head, orders), toy()).advance(EPOCHS)
    torch.rand(5)  # the global generator is nobody's business
    data = toy()
    paused = StackedTraining(three(head, orders), data)
    paused.scores(data)  # what is constant in the training split is made here, before training
    for epoch in (1, 2, EPOCHS):
        paused.advance(epoch).scores(toy(20, seed=1))
    for run in range(3):
        assert all(
            torch.equal(a, b) for a, b in zip(whole.state(run).values(), paused.state(run).values(), strict=True)
        )


@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("head", ["mlp", "linearc", "simpool", "protofloat"])
def test_a_run_does_not_depend_on_the_runs_beside_it_nor_on_how_many_pass_at_once(head, orders, monkeypatch):
    runs, data = three(head, orders), toy()
    together = StackedTraining(runs, data, torch.float64).advance(EPOCHS)
    alone = StackedTraining(runs[1:2], data, torch.float64).advance(EPOCHS)
    monkeypatch.setattr("lib.engine.ROOM", 1)  # one run a pass
    apart = StackedTraining(runs, data, torch.float64).advance(EPOCHS)
    assert apart._parts(slice(0, 3), 8) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    for name, value in together.state(1).items():
        assert_close(alone.state(0)[name], value, rtol=1e-9, atol=1e-12)
        assert_close(apart.state(1)[name], value, rtol=1e-9, atol=1e-12)


# ---- runs that fail


@pytest.mark.parametrize("orders", [(5, 5, 5), (5, 7, 7), (5, 7, 6)], ids=ORDERS)
@pytest.mark.parametrize("head", ["linear", "mhca", "protobin"])
def test_a_run_whose_loss_is_not_finite_is_dropped_and_the_others_go_on(head, orders):
    data, val = toy(), toy(20, seed=1)
    runs = three(head, orders)
    training = StackedTraining([runs[0], replace(runs[1], lr=math.inf), runs[2]], data, torch.float64)
    training.advance(EPOCHS)
    assert training.failed == {1: 1} and training.alive == [0, 2]
    for run in (0, 2):
        assert_same_run(training, run, data, val)
    with pytest.raises(InputError, match=r"Run 1 is not trained any more; those that are: \[0, 2\]"):
        training.state(1)


def test_only_when_every_run_fails_there_is_an_error():
    data = toy()
    data.tokens[:] = torch.nan
    training = StackedTraining(three("mhca"), data)
    with pytest.raises(
        InputError, match="loss of every run of head 'mhca' became NaN or infinite, the last in epoch 1"
    ):
        training.advance(1)
    assert training.failed == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("name", LOSSES)
def test_written_out_gradients_are_those_of_autograd_also_at_the_bounds(name):
    g = torch.Generator().manual_seed(0)
    logits = (torch.randn(4, 8, CLASSES, generator=g, dtype=torch.float64) * 6).requires_grad_()
    targets = torch.rand(4, 8, CLASSES, generator=g).round().double()
    if name == "cross-entropy":
        targets = torch.nn.functional.one_hot(targets.argmax(2), CLASSES).double()
    with torch.no_grad():
        logits[0, 0], logits[0, 1], logits[0, 2, 0] = 40.0, -40.0, math.log(0.05 / 0.95) + 1e-7
    gradient = gradient_of(LOSSES[name])(logits.detach(), targets)
    wanted = torch.stack([LOSSES[name](*pair) for pair in zip(logits, targets, strict=True)])
    assert_close(gradient, *torch.autograd.grad(wanted.sum(), logits), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{"gamma_negative": 2.0, "margin": 0.1}, {"gamma_positive": 0.0}])
def test_the_asymmetric_gradient_holds_for_other_powers_and_margins(options):
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, CLASSES, generator=g, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(2, 5, CLASSES, generator=g).round().double()
    gradient = asymmetric(logits.detach(), targets, **options)
    wanted = torch.stack([asymmetric_loss(*pair, **options) for pair in zip(logits, targets, strict=True)])
    assert_close(gradient, *torch.autograd.grad(wanted.sum(), logits), rtol=1e-9, atol=1e-12)


def test_a_loss_that_nobody_wrote_out_is_left_to_autograd():
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 5, CLASSES, generator=g, dtype=torch.float64)
    targets = torch.rand(5, CLASSES, generator=g).round().double()  # shared by the runs
    with torch.no_grad():
        found = gradient_of(partial(asymmetric_loss, margin=0.1))(logits, targets)
    assert_close(found, asymmetric(logits, targets, margin=0.1), rtol=1e-6, atol=1e-9)
    assert not found.requires_grad


@pytest.mark.parametrize("name", LOSSES)
def test_runs_whose_loss_is_not_finite_are_known_by_their_gradient(name):
    g = torch.Generator().manual_seed(0)
    logits, extra = torch.randn(4, 8, CLASSES, generator=g), torch.tensor([1.0, 2.0, 3.0, 4.0])
    targets = torch.nn.functional.one_hot(torch.arange(8) % CLASSES, CLASSES).float()
    assert not_finite(gradient_of(LOSSES[name])(logits, targets), extra) == []
    logits[1, 2, 0], extra[3] = torch.nan, torch.inf
    assert not LOSSES[name](logits[1], targets).isfinite()
    gradient = gradient_of(LOSSES[name])(logits, targets)
    assert not_finite(gradient, extra) == [1, 3] and not_finite(gradient, None) == [1]
    assert gradient[[0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("head", ["linear", "mlp", "linpre", "ep", "protobin", "protofloat", "proto"])
def test_gradients_without_a_graph_are_those_of_autograd(head, orders):
    """`vjp` of a head that writes its gradient out, against what autograd says of the plain head, run by run."""
    training = StackedTraining(three(head, orders), toy(), torch.float64)
    stacked, split = training._head, training.prepare(training.data)
    assert not stacked.needs_graph
    index = torch.randint(24, (3, 8), generator=torch.Generator().manual_seed(0))
    index = index if len(set(orders)) > 1 else index[:1].expand(3, -1)
    names, w = training._optimizer.names, training._at(slice(0, 3))
    logits, extra, pull = stacked.vjp(w, names, Clips(split, index if len(set(orders)) > 1 else index[0]))
    gradient = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = pull(gradient)
    assert set(found) == set(names)
    for row, plain in enumerate(build(run, training.data).double() for run in three(head, orders)):
        plain.load_state_dict({name: stack[row] for name, stack in w.items()})
        data = training.data
        said = plain(data.tokens[index[row]].double(), data.cls[index[row]].double())
        assert_close(logits[row], said, rtol=1e-9, atol=1e-12)
        ((said * gradient[row]).sum() + plain.extra_loss()).backward()
        assert extra is None or math.isclose(extra[row], plain.extra_loss().item(), rel_tol=1e-9)
        for name, parameter in plain.named_parameters():
            assert_close(found[name][row], parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("under", "beside"), [(0.0, 0.0), (1e-4, 1e-4)])
def test_vectors_of_length_one_have_the_gradient_of_autograd(under, beside):
    v = torch.randn(3, 5, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 5, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dense = v / ((v.square().sum(-1, keepdim=True) + under).sqrt() + beside)
    of_signs = torch.nn.functional.normalize(sign(v), dim=-1)
    both = (engine_maxima.unit(v.detach(), under, beside), dense), (engine_maxima.unit_signs(v.detach()), of_signs)
    for (u, norm, root), plain in both:
        assert_close(u, plain, rtol=1e-12, atol=1e-12)
        (wanted,) = torch.autograd.grad((plain * g).sum(), v)
        assert_close((g - u * (u * g).sum(-1, keepdim=True) * norm / root) / norm, wanted, rtol=1e-9, atol=1e-12)


# ---- the largest cosine


def unit(*shape, seed=0, dtype=torch.float32):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1).to(dtype)


@pytest.mark.parametrize("own", [False, True], ids=["shared clips", "own clips"])
@pytest.mark.parametrize("length", [1, 7, 12, 24, 31])
@pytest.mark.parametrize("block", [1, 100, 2**18])
def test_the_maximum_and_its_gradient_are_those_of_the_dense_form_whatever_the_block(length, block, own, monkeypatch):
    monkeypatch.setitem(engine_maxima.BLOCK, "cpu", block)
    tokens = unit(*([2, 5] if own else [5]), length, DIM, dtype=torch.float64)
    prototypes = unit(2, 9, DIM, seed=1, dtype=torch.float64)
    weights = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    vectors = (3 * prototypes).requires_grad_()
    dense = (tokens @ torch.nn.functional.normalize(vectors, dim=-1)[:, None].mT).amax(2)  # (R, B, N, K) → (R, B, K)
    found, pull = largest_cosines_vjp(engine_maxima.unit(vectors.detach()), tokens, torch.float64, Memory())
    assert_close(found, dense, rtol=1e-12, atol=1e-12)
    (wanted,) = torch.autograd.grad((dense * weights).sum(), vectors)
    assert_close(pull(weights), wanted, rtol=1e-12, atol=1e-12)
    assert_close(largest_cosines(prototypes, tokens, torch.float64, Memory()), dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 2, 24, 60, 521])
def test_the_best_token_is_the_one_that_torch_finds(length, dtype):
    similarity = torch.randn(3, length, 50, generator=torch.Generator().manual_seed(length)).to(dtype)
    wanted = similarity.amax(1)
    best, places = best_rows(*best_columns(similarity, 1), length)
    assert torch.equal(similarity.gather(1, places)[:, 0], wanted)  # in bfloat16 several tokens may be the best
    if dtype != torch.bfloat16:
        assert torch.equal(best[:, 0], wanted) and torch.equal(places[:, 0], similarity.argmax(1))


@pytest.mark.parametrize("values", ["below zero", "above zero", "around zero"])
def test_the_second_candidate_is_the_best_token_of_the_other_columns(values):
    similarity = torch.randn(3, 24, 50, generator=torch.Generator().manual_seed(0))
    similarity = {"below zero": -similarity.abs(), "above zero": similarity.abs()}.get(values, similarity).bfloat16()
    whole = similarity.float()
    _, places = best_rows(*best_columns(similarity, 2), 24)
    best = whole.gather(1, places)  # (b, 2, k)
    others = whole.unflatten(1, (4, 6)).scatter(2, places[:, :1, None].expand(-1, 4, -1, -1) % 6, -torch.inf)
    assert torch.equal(best[:, 0], whole.amax(1)) and torch.equal(best[:, 1], others.amax((1, 2)))


def test_blocks_of_similarities_fill_no_more_than_the_budget_and_always_the_same_memory(monkeypatch):
    monkeypatch.setitem(engine_maxima.BLOCK, "cpu", 4 * 240)
    tokens, prototypes = unit(5, 24, DIM), unit(33, DIM, seed=1)
    seen, places, whole = [], set(), torch.zeros(5, 24, 33)
    for clips, some, similarity in similarity_blocks(prototypes, tokens):
        whole[clips, :, some] += similarity
        seen.append(similarity.numel())
        places.add(similarity.data_ptr())
    assert max(seen) <= 240 and len(places) == 1
    assert_close(whole, tokens @ prototypes.T)


def test_bfloat16_products_search_but_float32_decides():
    """Two tokens that bfloat16 cannot tell apart: the better one wins in float32, with its float32 value."""
    tokens, prototypes = unit(4, 24, 64), unit(400, 64, seed=1)
    near = torch.nn.functional.normalize(tokens[:, 3] + 1e-3 * unit(4, 64, seed=2), dim=-1)
    tokens[:, 8] = near  # another row and another column of the table in which the maximum is looked for
    exact, winners = (tokens @ prototypes.T).max(1)
    every = Units(prototypes[None], torch.ones(1, 400, 1), torch.full((1, 400, 1), torch.inf))  # no gradient of length
    found, pull = largest_cosines_vjp(every, tokens, torch.bfloat16, Memory())
    found = found[0]
    pair = (winners == 3) | (winners == 8)
    assert pair.sum() > 50 and len(winners[pair].unique()) == 2
    assert_close(found[pair], exact[pair], rtol=1e-6, atol=1e-7)
    assert (found <= exact + 1e-6).all() and (exact - found).max() < 2**-8
    assert torch.equal(largest_cosines(prototypes[None], tokens, torch.bfloat16, Memory())[0], found)
    gradient = pull(pair[None].float())[0]
    clips, columns = pair.nonzero(as_tuple=True)
    wanted = torch.zeros_like(prototypes).index_add(0, columns, tokens[clips, winners[pair]])
    assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("clips", "candidates", "count"), [(1, 1, 1), (3, 2, 7), (5, 4, 2)])
def test_candidates_are_decided_by_their_plain_products(clips, candidates, count):
    tokens, prototypes = unit(clips, 24, DIM), unit(count, DIM, seed=1)
    draw = torch.Generator().manual_seed(2)
    places = torch.stack([torch.randperm(24, generator=draw)[:candidates] for _ in range(clips * count)])
    places = places.view(clips, count, candidates).transpose(1, 2)  # (b·k, c) → (b, c, k)
    wanted, which = (tokens @ prototypes.T).gather(1, places).max(1)
    value, token = engine_maxima._decide(prototypes, tokens, places)
    assert_close(value, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(token, places.gather(1, which[:, None]).squeeze(1))


@pytest.mark.parametrize("head", ["ep", "proto", "protobin", "protofloat"])
def test_training_with_bfloat16_products_stays_near_that_with_float32(head):
    exact, rough = (
        StackedTraining(three(head), toy(), products=kind).advance(1).scores(toy(20, seed=1))
        for kind in ("float32", "bfloat16")
    )
    assert not torch.equal(exact, rough)
    assert (exact - rough).abs().mean() < 0.05 * exact.std()


def test_products_are_in_bfloat16_only_where_the_processor_has_them(monkeypatch):
    cpu = torch.device("cpu")
    for there, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(engine_pooling, "has_bfloat16", lambda device, there=there: there)
        assert products_dtype("auto", torch.float32, cpu) == wanted
        assert products_dtype("auto", torch.float64, cpu) == torch.float64
        assert products_dtype("float32", torch.float32, cpu) == torch.float32
    with pytest.raises(InputError, match="Unknown kind of products 'bf16'"):
        products_dtype("bf16", torch.float32, cpu)
    with pytest.raises(InputError, match="bfloat16 go with float32"):
        products_dtype("bfloat16", torch.float64, cpu)


# ---- memory


class Largest(TorchDispatchMode):
    """Notes the most numbers in one new tensor; views and results written in place are not new."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
        new = [tensor for tensor in tensors(result) if tensor.untyped_storage().data_ptr() not in given]
        self.numbers = max([self.numbers, *(tensor.numel() for tensor in new)])
        return result


def tensors(tree):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def test_the_similarity_map_is_never_held_whole(monkeypatch):
    monkeypatch.setitem(engine_maxima.BLOCK, "cpu", 4 * 2000)
    data, runs = toy(), [replace(run, prototypes=80) for run in three("protobin")]
    training = StackedTraining(runs, data)
    whole = 8 * data.tokens.shape[1] * 3 * CLASSES * 80  # B·N·K of all runs
    with Largest() as largest:
        training.advance(1).scores(toy(16, seed=1))
    assert 2000 <= largest.numbers <= whole / 6


@pytest.mark.parametrize("head", [name for name in HEADS if FAMILIES[name] != "cls"])
def test_no_second_copy_of_all_tokens_is_made(head, monkeypatch):
    for module in ("lib.engine", "lib.engine_pooling"):
        monkeypatch.setattr(f"{module}.CHUNK", 8)
    monkeypatch.setattr(engine_pooling, "LITTLE", 0)
    data = toy(48)
    with Largest() as largest:
        StackedTraining(three(head), data).advance(1).scores(data)
    assert data.tokens[:8].numel() <= largest.numbers <= data.tokens.numel() / 3


@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS)
def test_few_tokens_are_kept_in_bfloat16_too_and_change_nothing(orders, monkeypatch):
    """Up to `LITTLE` bytes they are converted once, beyond it batch by batch."""
    data, kept = toy(48), []
    for limit in (2 * data.tokens.numel(), 2 * data.tokens.numel() - 1):
        monkeypatch.setattr(engine_pooling, "LITTLE", limit)
        training = StackedTraining(three("ep", orders), data, products="bfloat16").advance(2)
        kept.append((training.prepare(data).tokens_in(torch.bfloat16), training.scores(data)))
    (narrow, scores), (nothing, others) = kept
    assert torch.equal(narrow, data.tokens.bfloat16()) and nothing is None
    assert torch.equal(scores, others)


def test_memory_is_taken_again_and_grows_where_more_is_asked_for():
    memory, cpu = Memory(), torch.device("cpu")
    first = memory.take("a", (2, 3), torch.float32, cpu)
    assert memory.take("a", (3, 1), torch.float32, cpu).data_ptr() == first.data_ptr()
    others = [memory.take("b", (2, 3), torch.float32, cpu), memory.take("a", (2, 3), torch.float64, cpu)]
    assert first.data_ptr() not in {other.data_ptr() for other in others}
    assert memory.take("a", (7,), torch.float32, cpu).shape == (7,)


@pytest.mark.parametrize("head", ["mhca", "protobin"])
def test_runs_with_clips_of_their_own_pass_few_at_once_where_these_are_large(head, monkeypatch):
    clip = GRID[0] * GRID[1] * DIM
    monkeypatch.setattr("lib.engine.ROOM", 2 * 8 * clip)  # the batches of two runs
    monkeypatch.setattr("lib.engine_pooling.CHUNK", 8)
    training = StackedTraining(three(head, ORDERS["own orders"]), toy())
    assert training._parts(slice(0, 3), 8, own=True) == [slice(0, 2), slice(2, 3)]
    assert training._parts(slice(0, 3), 8) == [slice(0, 3)]
    with Largest() as largest:
        training.advance(1)
    assert largest.numbers <= 2 * 8 * clip


@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("head", HEADS)
def test_the_embeddings_are_left_as_they_were(head, orders):
    data = toy(dtype=torch.float32)
    before = replace(data, tokens=data.tokens.clone(), cls=data.cls.clone(), targets=data.targets.clone())
    StackedTraining(three(head, orders), data).advance(1).scores(data)
    assert torch.equal(data.tokens, before.tokens) and torch.equal(data.cls, before.cls)
    assert torch.equal(data.targets, before.targets)


# ---- clear errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "protobinn"}, "Unknown head 'protobinn'.*Did you mean 'protobin'"),
        ({"loss": "bce"}, "Unknown loss 'bce'; choose one of: asymmetric, cross-entropy"),
        ({"options": {"heads": 3}}, "Unknown linear option 'heads'"),
    ],
)
def test_a_wrong_name_is_one_clear_sentence(changes, message):
    with pytest.raises(InputError, match=message):
        StackedTraining([replace(run, **changes) for run in three("linear")], toy())


def test_runs_that_cannot_be_trained_together_are_named():
    runs = three("linear")
    with pytest.raises(InputError, match="run 2 differs from run 0 in more"):
        StackedTraining([*runs[:2], replace(runs[2], epochs=7)], toy())
    with pytest.raises(InputError, match="There is no run"):
        StackedTraining([], toy())
    with pytest.raises(InputError, match=r"cannot be trained on 1 clip"):
        StackedTraining(runs, toy(1))
    with pytest.raises(InputError, match=r"Runs \[3\] cannot be kept; those still trained are \[0, 1, 2\]"):
        StackedTraining(runs, toy()).keep([0, 3])
    with pytest.raises(InputError, match="expects tokens as a float tensor"):
        StackedTraining(three("ep"), toy()).scores(replace(toy(), tokens=toy().tokens[:, :-1]))


def test_every_head_has_a_stacked_form():
    assert list(STACKED) == list(HEADS)
    for head in HEADS:
        assert not isinstance(StackedTraining(three(head), toy())._head, OneByOne)
