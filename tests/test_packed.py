"""Packed prototypes: the same scores bit for bit, no damaged file that passes, costs that are those of real files."""

import json
import struct
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lib import packed_cost
from lib.errors import InputError
from lib.figures import read_table
from lib.files import write_tensors
from lib.heads import Protobin, build_head
from lib.packed import ABOUT, export_packed, load_packed, pack_signs, unpack_signs
from lib.packed_cost import (
    FORMS,
    alternate,
    best_sums,
    budget,
    budget_page,
    file_sizes,
    fresh_head,
    measure,
    other_heads,
    paper_shapes,
    saved_in_words,
    scorings,
    shape_of,
    shown_shape,
    shrinks,
    size_in_words,
    stored,
    times,
)
from lib.plots_packed import plot_shrinking, plot_sizes, plot_times
from lib.pooling import Size, sign
from lib.store import Embeddings
from lib.train import Run, Training

TINY = {"few": Size(20, 4, (2, 3), 3), "more": Size(13, 9, (3, 2), 2)}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=rng(seed))


@pytest.fixture
def head():
    return build_head("protobin", 21, 5, (4, 3), 3, rng()).eval()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "head.safetensors"


def rewritten(path, tensors=None, **changes):
    """Write a packed file anew with other tensors or another description."""
    about, old = contents(path)
    write_tensors(path, old | (tensors or {}), {ABOUT: json.dumps(about | changes)})


def contents(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[ABOUT]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


# ---- bits --------------------------------------------------------------------------------------------------------


def test_the_first_number_is_the_highest_bit_and_zero_counts_as_plus():
    latent = torch.tensor([[3.0, -1.0, 0.0, -0.0, -1e-30, 1e-30, -5.0, -5.0, 0.1, -0.1]])
    assert pack_signs(latent).tolist() == [[0b10110100, 0b10000000]]


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 64, 101])
def test_unpacking_returns_the_signs_of_the_head_and_a_bit_for_each(dim):
    latent = noise(5, dim)
    latent[0, 0] = 0.0
    bits = pack_signs(latent)
    assert bits.dtype == torch.uint8 and bits.shape == (5, -(-dim // 8))
    assert torch.equal(unpack_signs(bits, dim), sign(latent))


# ---- there and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "classes", "per_class"),
    [(21, 5, 3), (8, 3, 1), (1, 2, 1), (768, 7, 3), (9, 5, 205)],  # K = 15, 3, 2, 21, 1025: more than one block
)
def test_a_reloaded_head_gives_the_same_logits_bit_for_bit(path, dim, classes, per_class):
    head = build_head("protobin", dim, classes, (4, 3), per_class, rng(dim))
    with torch.no_grad():
        head.prototypes[0, ::2] = 0.0
        head.prototypes[-1, 0] = -0.0
    tokens, mask = noise(6, 12, dim), torch.rand(6, 12, generator=rng(2)) > 0.4
    mask[:, 0] = True
    export_packed(head, path)
    reloaded = load_packed(path)
    for given in (tokens, tokens.half(), 1e4 * tokens):
        assert torch.equal(head(given, None), reloaded(given, None))
        assert torch.equal(head(given, None, mask), reloaded(given, None, mask))
        with torch.inference_mode():
            assert torch.equal(head(given, None), reloaded(given, None))
    assert torch.equal(head.similarity_map(tokens), reloaded.similarity_map(tokens))
    assert torch.equal(head.evidence_map(tokens), reloaded.evidence_map(tokens))


def test_it_holds_for_a_head_whose_latent_floats_have_been_trained(path):
    data = Embeddings(noise(24, 12, 11), noise(24, 11), (noise(24, 3) > 0).float(), (4, 3))
    trained = Training(Run("protobin", 5e-2, 1e-4, 3, 8, prototypes=5), data).advance(3).head.eval()
    before = build_head("protobin", 11, 3, (4, 3), 5, rng())
    assert not torch.equal(sign(trained.prototypes), sign(before.prototypes))  # signs did flip
    export_packed(trained, path)
    assert torch.equal(trained(data.tokens, None), load_packed(path)(data.tokens, None))


def test_a_reloaded_head_is_a_frozen_protobin_and_packs_to_the_same_bytes_again(head, path):
    export_packed(head, path)
    reloaded, first = load_packed(path), path.read_bytes()
    assert type(reloaded) is Protobin and not reloaded.training
    assert not any(parameter.requires_grad for parameter in reloaded.parameters())
    assert set(reloaded.prototypes.flatten().tolist()) == {-1.0, 1.0}
    for _ in range(3):
        export_packed(reloaded, path)
        assert path.read_bytes() == first


def test_exporting_leaves_the_head_as_it_is(head, path):
    head.train()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    export_packed(head, path)
    assert head.training and all(parameter.requires_grad for parameter in head.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_classifier_in_16_bits_is_smaller_and_rounds_but_prototypes_do_not(head, path, dtype):
    export_packed(head, path)
    whole, tokens = path.stat().st_size, noise(4, 12, 21)
    export_packed(head, path, classifier=dtype)
    reloaded = load_packed(path)
    assert path.stat().st_size < whole
    assert reloaded.classifier.weight.dtype == torch.float32
    assert torch.equal(head.pool(tokens, None, None), reloaded.pool(tokens, None, None))
    assert not torch.equal(head(tokens, None), reloaded(tokens, None))
    torch.testing.assert_close(head(tokens, None), reloaded(tokens, None), rtol=0, atol=5e-3)


# ---- what is refused ---------------------------------------------------------------------------------------------


def one_sentence(error):
    text = str(error.value)
    return text.endswith(".") and ". " not in text and "\n" not in text


@pytest.mark.parametrize("name", ["protofloat", "proto", "linear"])
def test_a_head_that_is_no_protobin_is_not_exported(name, path):
    with pytest.raises(InputError, match=f"this is a {name}") as error:
        export_packed(build_head(name, 8, 3, (2, 2), 2), path)
    assert one_sentence(error) and not path.exists()


def test_a_head_whose_scores_a_file_cannot_keep_is_not_exported(head, path):
    with pytest.raises(InputError, match=r"prototypes is float64.*head\.float\(\)") as error:
        export_packed(head.double(), path)
    assert one_sentence(error)
    head.float().classifier.weight.data[0, 0] = 1e5
    with pytest.raises(InputError, match="too large for float16"):
        export_packed(head, path, classifier="float16")
    with pytest.raises(InputError, match="Did you mean 'float16'"):
        export_packed(head, path, classifier="float_16")
    head.prototypes.data[1, 1] = torch.nan  # its sign would be −1, and nobody would know
    with pytest.raises(InputError, match="prototypes holds NaN"):
        export_packed(head, path)
    assert not path.exists()


def test_a_missing_cut_or_foreign_file_is_one_sentence(head, path, tmp_path):
    with pytest.raises(InputError, match="There is no packed head"):
        load_packed(path)
    export_packed(head, path)
    whole = path.read_bytes()
    for cut in (b"", whole[:5], whole[:60], whole[:-1], whole + b"\0", b"not a head at all, but long enough to read"):
        path.write_bytes(cut)
        with pytest.raises(InputError, match="cut off or no safetensors file") as error:
            load_packed(path)
        assert one_sentence(error)
    for metadata in (None, {"about": "another"}, {ABOUT: "[1]"}, {ABOUT: '{"format": "else"}'}):
        write_tensors(path, head.state_dict(), metadata)
        with pytest.raises(InputError, match="no packed protobin") as error:
            load_packed(path)
        assert one_sentence(error)


def test_every_single_byte_of_the_content_is_watched_over(head, path):
    export_packed(head, path)
    whole = bytearray(path.read_bytes())
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in range(start, len(whole)):
        damaged = whole.copy()
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            load_packed(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2, this code reads 1"),
        ({"dim": 22}, "is damaged"),  # the same number of bytes; only the checksum knows
        ({"grid": [3, 4]}, "is damaged"),
        ({"dim": 25}, "do not have the sizes"),
        ({"num_classes": 3, "prototypes_per_class": 5}, "do not have the sizes"),
        ({"dim": -1}, "do not have the sizes"),
        ({"dim": "21"}, "do not have the sizes"),
        ({"grid": 12}, "do not have the sizes"),
        ({"grid": [12, True]}, "do not have the sizes"),
        ({"prototypes_per_class": None}, "do not have the sizes"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(head, path, changes, message):
    export_packed(head, path)
    rewritten(path, **changes)
    with pytest.raises(InputError, match=message) as error:
        load_packed(path)
    assert one_sentence(error)


@pytest.mark.parametrize(
    "tensors",
    [
        {"prototypes": torch.zeros(15, 3)},  # floats in place of bytes
        {"prototypes": torch.zeros(15, 2, dtype=torch.uint8)},
        {"classifier.weight": torch.zeros(5, 15, dtype=torch.float64)},
        {"classifier.bias": torch.zeros(4)},
        {"more": torch.zeros(1)},
    ],
)
def test_wrong_tensors_are_refused(head, path, tensors):
    export_packed(head, path)
    rewritten(path, tensors)
    with pytest.raises(InputError, match="do not have the sizes"):
        load_packed(path)


# ---- bytes -------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_files_and_their_parts_add_up():
    table = file_sizes(TINY)
    assert list(table["shape"].unique()) == list(TINY) and list(table["form"].unique()) == list(FORMS)
    assert (table[["prototypes", "classifier", "rest"]].sum(axis=1) == table["file"]).all()
    few = table[table["shape"] == "few"].set_index("form")
    assert list(few.loc[list(FORMS), "prototypes"]) == [12 * 20 * 4, 12 * 20 * 2, 12 * 3, 12 * 3]
    assert list(few.loc[list(FORMS), "classifier"]) == [208, 104, 208, 4 * 12 * 2 + 16]  # (K + 1) C; a bias in fp32
    assert (few["rest"] < 700).all()


def test_packed_heads_shrink_as_the_record_says_and_as_the_formula_says():
    urban = file_sizes({"urban": paper_shapes()["urban"]}).set_index("form")["file"]
    assert urban["fp32"] / urban["packed"] == pytest.approx(22.4, abs=0.05)  # 22.9 without names and checksum
    for classes, factor in ((10, 22.9), (50, 11.0), (200, 4.3), (527, 2.35)):
        assert shrinks(classes, 768) == pytest.approx(factor, rel=0.01)  # biases aside
    assert urban["fp32"] / urban["packed, bf16 classifier"] == pytest.approx(shrinks(10, 768, 16), rel=0.03)
    assert shrinks(0, 768) == 32


def test_the_shapes_are_those_of_the_papers_data_sets_and_of_the_pocket():
    shapes = paper_shapes()
    assert len(shapes) == 14 and shapes["as20k"] == Size(768, 527, (64, 8), 10)
    assert shapes["hsn"] == Size(768, 21, (32, 8), 20)
    assert shown_shape() == {"many-sounds": Size(128, 49, (31, 8), 10)}
    assert shown_shape("esc10") == {"esc10-soundscapes": Size(128, 10, (31, 8), 20)}
    assert shape_of(fresh_head(TINY["more"])) == TINY["more"]


def test_the_shape_of_a_published_encoder_is_its_own(monkeypatch):
    eat = SimpleNamespace(geometry=SimpleNamespace(dim=768), grid_of=lambda samples: (samples // 2560, 8))
    monkeypatch.setattr(packed_cost, "load_profile", lambda name: SimpleNamespace(shown="eat", dataset="soundscapes"))
    monkeypatch.setattr(packed_cost, "load_encoder", {"eat": eat}.__getitem__)
    (shape,) = shown_shape("paper").values()
    assert shape.dim == 768 and shape.grid[1] == 8


def test_the_budget_counts_what_training_and_scoring_hold():
    shape = Size(8, 3, (2, 2), 5)  # K = 15
    table = budget(shape, 1000).set_index(["when", "what"])["bytes"]
    head = fresh_head(shape)
    assert table["training"].sum() == 4 * sum(each.nbytes for each in head.parameters())
    assert table["file"].tolist() == [480, 15, head.classifier.weight.nbytes + head.classifier.bias.nbytes]
    assert table["scoring", "encoder, fp32"] == 4000 and table["scoring", "tokens of one clip, fp32"] == 128
    page = budget_page({"a": (shape, 1000), "b": (TINY["few"], 10)})
    assert list(page.columns) == ["a", "b", "would one bit do?"]
    assert page.loc[("file", "prototypes, fp32"), "b"] == "960 bytes"
    said = saved_in_words("a", shape, 1000)
    assert said == "a: packing saves 465 bytes of the 4.67 kB that encoder and head hold together, 10 %."


def test_heads_beside_each_other_are_in_words():
    table = other_heads({"urban": Size(768, 10, (1, 1), 20)}, ("linear", "protobin"))
    assert table["urban"].to_dict() == {
        "linear, fp32": "30.8 kB",  # 7,690 weights
        "protobin, fp32": "622 kB",  # 155,610 weights
        "protobin, packed": "27.2 kB",
    }


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (622_672, "623 kB"),
        (999_600, "1.00 MB"),
        (3.2e9, "3.20 GB"),
    ],
)
def test_bytes_in_words(count, words):
    assert size_in_words(count) == words


# ---- time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [Size(20, 4, (2, 3), 3), Size(13, 5, (3, 2), 205)])
def test_every_way_to_score_gives_the_heads_logits(shape):
    head, tokens = fresh_head(shape), noise(6, shape.dim)
    logits = head(tokens[None], None)[0]
    found = {way: scored(tokens) for way, scored in scorings(head).items()}
    assert next(iter(found)) == "fp32"
    for way in ("packed, unpacked at load", "packed, unpacked for each clip"):
        assert torch.equal(found[way], found["fp32"])
    for way, exactness in (("fp32", 1e-6), ("packed, never unpacked", 1e-6), ("bf16 products", 2e-2)):
        torch.testing.assert_close(found[way], logits, rtol=0, atol=exactness)


@pytest.mark.parametrize("dim", [1, 3, 8, 21, 40])
def test_sums_by_half_bytes_are_the_products(dim):
    tokens, latent = noise(7, dim), noise(300, dim, seed=2)  # more than a block of 256 prototypes
    expected = (tokens.double() @ sign(latent).double().T).amax(0)
    torch.testing.assert_close(best_sums(tokens, pack_signs(latent)).double(), expected, rtol=0, atol=1e-5)


def test_ways_take_turns_and_the_first_round_does_not_count():
    order, now = [], iter(range(1000))
    ways = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = alternate(ways, 3, clock=lambda: float(next(now)) ** 2)
    rounds = ["".join(order[start : start + 3]) for start in range(0, 12, 3)]
    assert sorted(rounds) == ["abc", "bca", "cab", "cab"] and len(set(rounds[1:])) == 3
    place = {name: [3 * number + rounds[number].index(name) for number in (1, 2, 3)] for name in "abc"}
    for name in "abc":  # the clock was read twice for each turn: the counted ones began at 2 · turn
        assert seconds[name].tolist() == [(2 * turn + 1) ** 2 - (2 * turn) ** 2 for turn in place[name]]


def test_times_are_ratios_to_fp32_of_the_same_round(monkeypatch):
    def alternated(ways, repeats):
        drift = np.array([1.0, 10.0, 100.0])  # the machine gets slower; ratios must not notice
        return {name: (1 + number) * drift for number, name in enumerate(ways)}

    monkeypatch.setattr(packed_cost, "alternate", alternated)
    table = times({"few": TINY["few"]}, 3)
    assert table["form"].tolist() == [*scorings(fresh_head(TINY["few"])), "unpacking alone"]
    for column in ("ratio", "low", "high"):
        assert table[column].tolist() == [1, 2, 3, 4, 5, 6]
    assert table["ms"].tolist() == [10_000, 20_000, 30_000, 40_000, 50_000, 60_000]


# ---- the table and its pictures ----------------------------------------------------------------------------------


def test_the_table_keeps_every_byte_and_says_on_what_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.figures.FIGURES", tmp_path / "nowhere")
    assert stored("file") is None
    large = {"large": Size(1001, 7, (1, 1), 150)}  # files of millions of bytes: six digits would not do
    path = measure(TINY | large, repeats=2)
    pd.testing.assert_frame_equal(stored("file").drop(columns="kind"), file_sizes(TINY | large))
    assert (
        set(stored("time")["shape"]) == {*TINY, "large"}
        and (stored("time").query("form == 'fp32'")["ratio"] == 1).all()
    )
    assert "bfloat16 products" in read_table(path).attrs["note"] and "2 rounds" in stored("time").attrs["note"]
    assert path.parts[-3:] == ("figures", "bench", "packed.csv")
    measure(TINY, repeats=0)
    assert stored("time") is None and len(stored("file")) == 2 * len(FORMS)


def test_the_command_measures_the_papers_shapes_and_refuses_nonsense_in_a_sentence(monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(packed_cost, "measure", lambda shapes, repeats: asked.update(shapes=shapes, repeats=repeats))
    monkeypatch.setattr("sys.argv", ["packed_cost"])
    packed_cost.main()
    assert list(asked["shapes"]) == [*paper_shapes(), "many-sounds"] and asked["repeats"] == packed_cost.REPEATS
    monkeypatch.setattr("sys.argv", ["packed_cost", "--repeats", "-1"])
    with pytest.raises(SystemExit, match="make bench: --repeats is a number of rounds"):
        packed_cost.main()


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_bars_are_the_parts_of_the_files_and_few_classes_come_first():
    table = file_sizes(TINY)
    (axes,) = plot_sizes(table).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["few  C = 4", "more  C = 9"]
    ends = {}
    for bar in axes.patches:
        ends[round(bar.get_y(), 6)] = bar.get_x() + bar.get_width()
    files = [
        table[(table["shape"] == s) & (table["form"] == f)]["file"].item() for s in TINY for f in ("fp32", "packed")
    ]
    shares = [100 * packed / whole for whole, packed in zip(files[::2], files[1::2], strict=True)]
    assert [ends[y] for y in sorted(ends)] == pytest.approx([100, shares[0], 100, shares[1]])
    assert f"packed  {files[1]} bytes, {files[0] / files[1]:#.3g} times smaller" in texts(axes)


def test_marks_of_files_lie_at_their_factor_beside_the_line_of_their_dimension():
    table = file_sizes(TINY)
    (axes,) = plot_shrinking(table).axes
    marks = [tuple(float(v) for v in xy) for line in axes.lines if line.get_marker() == "o" for xy in line.get_xydata()]
    wide = table.pivot(index="shape", columns="form", values="file")
    assert (4.0, pytest.approx(wide.loc["few", "fp32"] / wide.loc["few", "packed"])) in marks and len(marks) == 4
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"D = {dim}, classifier in {kind}" for dim in (20, 13) for kind in ("fp32", "bf16")]


def test_the_picture_of_times_shows_every_way_but_the_one_that_is_one():
    table = times(TINY, 2)
    (axes,) = plot_times(table).axes
    shown = {line.get_label(): line.get_xdata() for line in axes.lines if not line.get_label().startswith("_")}
    assert list(shown) == list(table["form"].unique()[1:])
    way = "packed, never unpacked"
    expected = table[table["form"] == way].set_index("shape").loc[["more", "few"], "ratio"]  # D = 13, then 20
    assert list(shown[way]) == pytest.approx(list(expected))
