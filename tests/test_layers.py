"""Beyond the last layer: the store's layer axis, the head CGP, and the tables, words and pictures of the study."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lib import layer_store, layers, shards, store
from lib.arms import loader
from lib.engine import StackedTraining
from lib.errors import InputError
from lib.heads import build_head, parameter_groups
from lib.layer_store import build_layers, layer_folder, load_blocks, load_layers
from lib.layers import AVERAGE, CONTRASTS, in_words, layer_arms, layer_contrasts, layer_gates, layer_scores
from lib.metrics import Draws
from lib.plots_layers import plot_gates, plot_layers
from lib.profiles import load_profile
from lib.store import Embeddings, build_store, load_embeddings
from lib.train import Run, Training

SETTINGS = load_profile("smoke/layers")
COUNTS = {"train": 3, "val": 2}

# ---- the store ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cheap_clips(monkeypatch):
    """Two-clip shards of noise."""
    monkeypatch.setattr(shards, "SHARD_CLIPS", 2)
    for module in (store, layer_store):
        monkeypatch.setattr(
            module, "usable_audio", lambda data, split, i, view: noise(i + 100 * len(split) + 1000 * view)
        )


def noise(seed):
    return (0.1 * np.random.default_rng(seed).standard_normal(160_000)).astype(np.float32)


def build(encoder="pocket-eat", counts=COUNTS):
    return build_layers([encoder], "soundscapes", counts)


def load(split="train", layers=None, encoder="pocket-eat", **more):
    return load_layers(encoder, "soundscapes", split, COUNTS[split], layers, **more)


def test_the_last_block_becomes_the_last_layer_by_the_final_norm(cheap_clips):
    build()
    build_store(["pocket-eat"], "soundscapes", COUNTS)
    block, last = load(layers=[5]), load_embeddings("pocket-eat", "soundscapes", "train", 3)
    norm = store.load_encoder("pocket-eat").vit.norm
    assert_close(norm(block.tokens.float()), last.tokens.float(), atol=1e-2, rtol=1e-2)
    assert_close(norm(block.cls), last.cls, atol=1e-2, rtol=1e-2)
    assert (block.tokens.float() - last.tokens.float()).abs().mean() > 0.1  # before it, they are not the same
    assert torch.equal(block.targets, last.targets) and block.grid == last.grid


def test_layers_lie_side_by_side_in_the_order_of_the_blocks(cheap_clips):
    build()
    every, third = load(), load(layers=[2])
    assert every.tokens.shape == (3, 248, 6 * 128) and every.tokens.dtype == torch.float16
    assert every.cls.shape == (3, 6 * 128) and every.cls.dtype == torch.float32
    assert torch.equal(every.tokens[..., 256:384], third.tokens) and torch.equal(every.cls[:, 256:384], third.cls)
    encoder = store.load_encoder("pocket-eat")
    fresh = encoder(encoder.spectrogram(noise(500)), layers=(2,)).layers[2]
    assert_close(third.tokens[0].float(), fresh[0][0], atol=1e-2, rtol=2e-3)
    assert_close(third.cls[0], fresh[1][0], atol=1e-2, rtol=2e-3)
    assert_close(load(layers=[2], cls_mode="mean").cls, third.tokens.float().mean(1))


def test_some_blocks_are_stored_alone_and_are_those_of_all(cheap_clips):
    build()
    assert len(build_layers(["pocket-eat"], "soundscapes", COUNTS, blocks=[4, 1, 1])) == 2
    for cls_mode in ("native", "mean"):
        some = load_blocks("pocket-eat", "soundscapes", "train", 3, [4, 1], cls_mode)
        every = load(layers=[1, 4], cls_mode=cls_mode)
        assert torch.equal(some.tokens, every.tokens) and torch.equal(some.cls, every.cls) and some.grid == (31, 8)
    every, folder = layer_folder("pocket-eat", "soundscapes", "train", 3), "layers-1-4"
    some = sum(path.stat().st_size for path in every.with_name(folder).glob("shard-*"))
    assert 0.32 < some / sum(path.stat().st_size for path in every.glob("shard-*")) < 0.34  # two of six
    assert build_layers(["pocket-eat"], "soundscapes", COUNTS, blocks=(1, 4)) == []


@pytest.mark.parametrize("blocks", [[6], [0, -1], []])
def test_blocks_that_an_encoder_does_not_have_are_refused_before_anything_is_stored(cheap_clips, blocks):
    with pytest.raises(InputError, match="'pocket-eat' has the blocks 0 to 5; name some of these"):
        build_layers(["pocket-eat"], "soundscapes", COUNTS, blocks=blocks)
    assert not layer_folder("pocket-eat", "soundscapes", "train", 3).parent.exists()
    with pytest.raises(InputError, match=r"blocks \[0, 2\] of 'pocket-eat' .* not complete; run `make embed`"):
        load_blocks("pocket-eat", "soundscapes", "train", 3, [2, 0])


def test_without_cls_a_layers_cls_is_its_mean_token(cheap_clips):
    build("pocket-beats")
    found = load(layers=[0, 3], encoder="pocket-beats")
    assert_close(found.cls, found.tokens.float().mean(1), atol=5e-3, rtol=5e-3)


def test_a_second_build_computes_nothing_and_other_code_computes_all(cheap_clips, monkeypatch):
    assert len(build()) == 2
    real = layer_store._build_shard
    monkeypatch.setattr(layer_store, "_build_shard", None)  # would fail if it were called
    assert build() == []
    monkeypatch.setattr(layer_store, "_build_shard", real)
    monkeypatch.setattr(layer_store, "_code", lambda: "other code")
    with pytest.raises(InputError, match="are of other code; run notebook 18"):
        load()
    assert all("rebuilt because store_code changed" in line for line in build()) and len(load()) == 3


def test_a_harmed_shard_is_refused_and_then_alone_computed_again(cheap_clips, monkeypatch):
    build()
    path = layer_folder("pocket-eat", "soundscapes", "train", 3) / "shard-00001.safetensors"
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + b"\x7f")
    with pytest.raises(InputError, match=r"shard-00001\.safetensors' .* damaged; run notebook 18"):
        load()
    built, real = [], layer_store._build_shard
    monkeypatch.setattr(layer_store, "_build_shard", lambda *task: built.append(task[-1]) or real(*task))
    (line,) = build()
    assert "1 damaged shard(s) computed again" in line and built == [1] and path.read_bytes() == intact


def test_an_interrupted_build_goes_on_where_it_stopped(cheap_clips, monkeypatch):
    real, done = layer_store._build_shard, []

    def die_at_the_second(*task):
        if done:
            raise KeyboardInterrupt
        done.append(task)
        return real(*task)

    monkeypatch.setattr(layer_store, "_build_shard", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        build()
    folder = layer_folder("pocket-eat", "soundscapes", "train", 3)
    assert [path.name for path in folder.glob("sum-*.json")] == ["sum-00000.json"]
    assert not (folder / "index.json").exists()
    monkeypatch.setattr(layer_store, "_build_shard", real)
    assert any("resumed after 1 shard(s)" in line for line in build()) and len(load()) == 3


def test_what_cannot_be_had_is_said_clearly(cheap_clips):
    with pytest.raises(InputError, match="'log-mel' has no blocks"):
        build("log-mel")
    with pytest.raises(InputError, match="not complete; run notebook 18"):
        load()
    build()
    with pytest.raises(InputError, match="blocks 0 to 5; there is no block 6"):
        load(layers=[6])
    with pytest.raises(InputError, match="Unknown cls mode 'first_token'"):
        load(cls_mode="first_token")


def test_each_arm_reads_what_its_features_say(cheap_clips, monkeypatch):
    build()
    monkeypatch.setattr(type(SETTINGS), "clips_of", lambda self, dataset: COUNTS)
    arms = {arm.name: arm for arm in layer_arms("soundscapes", "pocket-eat")}
    read = {name: loader(arms[name], SETTINGS)("val") for name in ("protobin block 4", "cgp", "protobin mean")}
    assert torch.equal(read["protobin block 4"].tokens, load("val", [3]).tokens)
    assert torch.equal(read["cgp"].tokens, load("val").tokens)
    units = [F.normalize(load("val", [block]).tokens.float(), dim=-1) for block in range(6)]
    assert_close(read["protobin mean"].tokens.float(), torch.stack(units).mean(0), atol=1e-3, rtol=1e-3)
    assert read["protobin mean"].cls.shape == (2, 128)


# ---- the head ----------------------------------------------------------------------------------------------------

B, D, L, C, J, GRID = 3, 8, 4, 5, 2, (3, 4)
N, K = GRID[0] * GRID[1], J * C


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def cgp(seed=0, **options):
    return build_head("cgp", L * D, C, GRID, J, rng(seed), **({"layers": L} | options))


def batch(clips=B, seed=1):
    return torch.randn(clips, N, L * D, generator=rng(seed)), torch.randn(clips, L * D, generator=rng(seed + 1))


def test_cgp_has_as_many_parameters_as_in_its_paper():
    head = build_head("cgp", 12 * 768, 527, (2, 2), layers=12, prototypes=10_000)
    assert sum(p.numel() for p in head.parameters()) == 23_490_539


@pytest.mark.parametrize("use_cls", [True, False])
def test_cgp_is_its_equation_and_its_gradient_too(use_cls):
    head, (tokens, cls) = cgp(use_cls=use_cls).eval(), batch()
    with torch.no_grad():
        head.gate.copy_(torch.randn(L, generator=rng(5)))
    layers, rows = tokens.view(B, N, L, D), cls.view(B, L, D)
    alpha = head.gate.exp() / head.gate.exp().sum()
    mixed = sum(alpha[i] * layers[:, :, i] / layers[:, :, i].norm(dim=-1, keepdim=True) for i in range(L))
    o = sum(alpha[i] * rows[:, i] / rows[:, i].norm(dim=-1, keepdim=True) for i in range(L))
    unit = head.prototypes / head.prototypes.norm(dim=-1, keepdim=True)
    scores = torch.einsum("bnd,kd->bnk", mixed, unit)
    third = o @ unit.T if use_cls else scores.mean(1)
    wanted = head.classifier(torch.cat([scores.min(1).values, scores.max(1).values, third], 1))
    given = head(tokens, cls)
    assert_close(given, wanted)
    with torch.no_grad():
        assert_close(head(tokens, cls), wanted.detach())
    toward = torch.randn(B, C, generator=rng(6))
    names = [name for name, _ in head.named_parameters()]
    pairs = [torch.autograd.grad((y * toward).sum(), list(head.parameters())) for y in (given, wanted)]
    for name, ours, dense in zip(names, *pairs, strict=True):
        assert_close(ours, dense, msg=name)
        assert ours.abs().max() > 1e-6, name


def test_cgp_ignores_lengths_and_order_of_tokens_and_a_lone_layer_needs_no_gate():
    head, (tokens, cls) = cgp().eval(), batch()
    scale = torch.rand(B, N, L, 1, generator=rng(3)) + 0.1
    longer = (tokens.view(B, N, L, D) * scale).flatten(2)
    assert_close(head(longer, cls), head(tokens, cls))
    assert_close(head(tokens[:, torch.randperm(N, generator=rng(4))], cls), head(tokens, cls))
    opposite = torch.cat([tokens[..., :D], -tokens[..., :D]] * 2, -1)  # layers that cancel: not normalised again
    assert_close(head.mixed(opposite), torch.zeros(B, N, D))
    lone = build_head("cgp", D, C, GRID, J, rng())
    lone(tokens[..., :D], cls[..., :D]).sum().backward()
    assert not lone.gate.grad.abs().any()


def test_padding_is_neither_minimum_nor_maximum_nor_part_of_the_mean():
    head = cgp(use_cls=False).eval()
    towards = head.prototypes.detach().mean(0).repeat(L)  # a direction that every prototype agrees with, or none
    tokens, _ = batch()
    tokens = tokens * 0.05 + towards / towards.norm()
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[:, 7:] = False
    y = head.pool(*head.checked(tokens, None, mask), mask)
    short = build_head("cgp", L * D, C, (7, 1), J, rng(), layers=L, use_cls=False).eval()
    assert_close(y, short.pool(tokens[:, :7], None, None))
    tokens[:, 7:] = torch.nan
    assert torch.isfinite(head(tokens, None, mask)).all()


def test_dropout_is_seeded_counts_its_steps_and_is_off_in_evaluation():
    y = torch.ones(64, 100)
    drop = cgp().norm.train()
    state = torch.get_rng_state()
    first, second = drop(y), drop(y)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(first.unique().tolist()) == {0.0, 1.25} and 0.17 < (first == 0).float().mean() < 0.23
    assert not torch.equal(first, second) and drop.steps == 2
    again, other = cgp().norm.train(), cgp(seed=1).norm.train()
    assert torch.equal(again(y), first) and not torch.equal(other(y), first)
    assert torch.equal(drop.eval()(y), y) and drop.steps == 2
    assert torch.equal(cgp(dropout=0.0).norm.train()(y), y)


def test_a_step_in_time_is_scored_by_itself():
    head, (tokens, _) = cgp().eval(), batch()
    found = head.frame_logits(tokens)
    assert found.shape == (B, C, GRID[0])
    one = build_head("cgp", L * D, C, (1, GRID[1]), J, rng(), layers=L, use_cls=False).eval()
    for step in range(GRID[0]):
        assert_close(found[:, :, step], one(tokens.view(B, *GRID, -1)[:, step], None))


def test_gate_and_prototypes_do_not_decay_and_wrong_options_are_named():
    head = cgp()
    decaying = {id(p) for group in parameter_groups(head, 0.1) if group["weight_decay"] for p in group["params"]}
    assert [name for name, p in head.named_parameters() if id(p) in decaying] == ["classifier.weight"]
    with pytest.raises(InputError, match="layers=5 does not divide the token dimension 32"):
        cgp(layers=5)
    with pytest.raises(InputError, match="dropout to be a share below 1"):
        cgp(dropout=1.0)


def test_a_run_of_cgp_is_the_same_alone_beside_others_and_in_the_plain_loop():
    tokens, cls = batch(12)
    targets = (torch.rand(12, C, generator=rng(3)) < 0.4).float()
    data = Embeddings(tokens.half(), cls, targets, GRID)
    options = {"layers": L}
    runs = [Run("cgp", lr, 1e-4, 2, 5, seed, 0, J, options=options) for lr, seed in ((0.02, 1), (0.01, 2))]
    both, alone = (StackedTraining(some, data).advance(2) for some in (runs, runs[1:]))
    assert_close(both.state(1), alone.state(0))
    assert both.state(1)["norm.steps"] == 2 * 3  # batches of 5, 5 and 2 clips
    assert not torch.equal(both.state(1)["gate"], torch.ones(L))
    assert_close(Training(runs[1], data).advance(2).scores(data), alone.scores(data)[0], atol=1e-4, rtol=1e-4)


# ---- the study ---------------------------------------------------------------------------------------------------

BEST_BLOCK = {"pocket-eat": 2, "pocket-eat-plus": 5}  # by validation
TEST = {"cgp": 0.70, "protobin last": 0.60, "linear last": 0.40, "cgp last": 0.63, "cgp block 6": 0.64}


@pytest.fixture
def made_up(monkeypatch):
    """Results by formula instead of training: the tables only join, average and subtract."""

    def value(arm):
        block = int(arm.name.split()[-1]) if "block" in arm.name else 0
        bonus = 0.02 if arm.encoder == "pocket-eat" else 0.0
        return TEST.get(arm.name, 0.5 + 0.01 * block) + bonus

    def validation(profile, arm):
        block = int(arm.name.split()[-1]) if "block" in arm.name else 0
        return 90.0 if block == BEST_BLOCK[arm.encoder] else 10.0 + block

    drawn = np.linspace(-0.01, 0.01, 41)
    monkeypatch.setattr(layers, "cell_draws", lambda profile, arm: Draws(value(arm), value(arm) + drawn))
    monkeypatch.setattr(layers, "final_values", lambda profile, arm: [100 * value(arm) - 1, 100 * value(arm) + 1])
    monkeypatch.setattr(layers, "validation", validation)
    gate = {"pocket-eat": torch.tensor([0.0, 2, 0, 0, 0, 0]), "pocket-eat-plus": torch.zeros(6)}
    found = {name: SimpleNamespace(weights={"gate": value}) for name, value in gate.items()}
    monkeypatch.setattr(layers, "read_cell", lambda profile, arm: found[arm.encoder])


def noted(table):
    table.attrs["note"] = "made up"
    return table


def test_every_arm_has_a_name_of_its_own_and_cgp_as_many_layers_as_the_encoder():
    arms = layer_arms("soundscapes", "pocket-dasheng")
    assert len({arm.key for arm in arms}) == len(arms) == 18
    options = {arm.name: (arm.features, arm.options) for arm in arms if arm.head == "cgp"}
    assert options == {"cgp block 6": ("layer-5", {}), "cgp last": ("last", {}), "cgp": ("layers", {"layers": 6})}
    assert {arm.cls_mode for arm in arms} == {"mean"}  # Dasheng has no [cls]
    assert {arm.features for arm in arms if arm.name == "linear block 1"} == {"layer-0"}


def test_scores_are_set_against_protobin_on_the_last_layer_and_averaged(made_up):
    table = layer_scores(SETTINGS)
    assert len(table) == 3 * 18 and set(table["layer"]) == {*"123456", "last", "mean", "all"}
    rows = table.set_index(["encoder", "arm"])
    assert rows.loc[("pocket-eat", "cgp"), "gain"] == pytest.approx(10)
    assert rows.loc[(AVERAGE, "cgp"), "mean"] == pytest.approx(71)
    assert rows.loc[(AVERAGE, "linear block 3"), "gain"] == pytest.approx(53 - 60)
    assert rows.loc[(AVERAGE, "protobin last"), ["low", "high"]].tolist() == pytest.approx([61 - 0.95, 61 + 0.95])
    assert rows.loc[("pocket-eat", "cgp"), "sd"] == pytest.approx(2**0.5) and set(table["n_seeds"]) == {2}


def test_the_steps_add_up_and_the_best_block_is_chosen_by_validation(made_up):
    table = layer_contrasts(SETTINGS)
    for _, rows in table.groupby("encoder"):
        differences = rows.set_index("contrast")["difference"]
        whole, *steps = [differences[name] for name in list(CONTRASTS)[:4]]
        assert whole == pytest.approx(sum(steps)) == pytest.approx(10)
    best = table[table["contrast"] == "the best block, protobin"].set_index("encoder")
    assert best["chosen"].to_dict() == {AVERAGE: ""} | {name: str(block) for name, block in BEST_BLOCK.items()}
    assert best.loc["pocket-eat", "difference"] == pytest.approx(52 - 60)
    assert best.loc[AVERAGE, "difference"] == pytest.approx((52 + 55) / 2 - 60)


def test_gates_add_up_and_are_averaged_over_encoders(made_up):
    table = layer_gates(SETTINGS).set_index(["encoder", "block"])["gate"]
    assert table.groupby("encoder").sum().tolist() == pytest.approx([1, 1, 1])
    assert table["pocket-eat", 2] == pytest.approx(np.exp(2) / (np.exp(2) + 5))
    assert table[AVERAGE, 2] == pytest.approx((table["pocket-eat", 2] + 1 / 6) / 2)


@pytest.mark.parametrize(
    ("shift", "words"), [(0, "CGP is clearly better"), (-20, "CGP is clearly worse"), (None, "cannot be told apart")]
)
def test_the_words_follow_the_intervals_whatever_they_are(made_up, shift, words):
    scores, contrasts, gates = layer_scores(SETTINGS), layer_contrasts(SETTINGS), layer_gates(SETTINGS)
    first = contrasts["contrast"] == "CGP − protobin"
    if shift is None:
        contrasts.loc[first, ["low", "high"]] = [-1.0, 20.0]
    else:
        contrasts.loc[first, ["difference", "low", "high"]] += shift
    said = in_words(scores, contrasts, gates)
    assert words in said[0] and f"{10 + (shift or 0):+.1f} points" in said[0]
    counted = {0: "above in 2 and clearly below in 0", -20: "above in 0 and clearly below in 2"}
    assert f"clearly {counted.get(shift, 'above in 0 and clearly below in 0')} of 2" in said[0]
    assert "block 2 for 1, block 5 for 1 of them" in said[2] and "-6.5 points" in said[2]
    assert "In 1 of 2 encoders the largest gate is at the block on which protobin" in said[-1]


def test_the_pictures_have_a_panel_and_a_row_for_each_encoder(made_up):
    figure = plot_layers(noted(layer_scores(SETTINGS)))
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["average of 2", "EAT", "EAT+", ""]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [*"123456", "last", "all"]
    figure = plot_gates(noted(layer_gates(SETTINGS)))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["EAT", "EAT+", "average"]
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers[1] == "60" and pd.Series(numbers[6:12]).eq("17").all()
