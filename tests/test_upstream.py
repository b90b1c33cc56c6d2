"""Real encoders: what each family hands over, the traps in each, and the options."""

import re
from pathlib import Path

import pytest
import torch
from reference_encoders import CONFIGS, fixture, random_spectrogram, random_weights, reference

from lib.encoders import UpstreamEncoder, from_upstream, frozen, upstream
from lib.encoders.frozen import rounding_error
from lib.encoders.upstream import FAMILIES
from lib.encoders.vit import sincos_positions
from lib.errors import InputError

WITH_CLS = ("audiomae", "asit", "eat", "sslam")


def encoder_of(family, weights=None, config=None, **options) -> UpstreamEncoder:
    config = config or CONFIGS[family]
    return from_upstream(family, weights or random_weights(family, config), config, **options)


# What each family hands over.


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_is_frozen_and_hands_over_tokens_cls_and_grid(family):
    encoder = encoder_of(family)
    encoding = encoder(encoder.spectrogram(0.1 * torch.randn(3, 16_000)))
    grid, dim = encoding.grid, encoder.geometry.dim
    assert encoding.tokens.shape == (3, grid[0] * grid[1], dim) and encoding.cls.shape == (3, dim)
    assert not encoder.training and not any(p.requires_grad or p.is_meta for p in encoder.parameters())
    assert not any(b.is_meta for b in encoder.buffers())
    hash(encoder.geometry), repr(encoder.geometry)
    assert encoder.geometry.patch == ((4, 64) if family == "dasheng" else (16, 16)) and encoder.geometry.hop_ms == 10


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_time_major(family):
    """A patch that changes moves its own token most, when the blocks only pass their input on."""
    config, weights = CONFIGS[family], random_weights(family, CONFIGS[family])
    for key in weights:
        ends = ("proj.weight", "proj.bias", "fc2.weight", "fc2.bias", "weight_g", "pos_conv.0.bias")
        if any(part in key for part in ("blocks", "encoder.layers", "pos_conv")) and key.endswith(ends):
            weights[key] = torch.zeros_like(weights[key])
    encoder, spectrogram = encoder_of(family, weights, config), random_spectrogram(family, 96, clips=1)
    changed = spectrogram.clone()
    t, f = (5, 0) if family == "dasheng" else (4, 2)
    if family == "dasheng":
        changed[:, :, 20:24] += 5.0
    else:
        changed[:, 64:80, 32:48] += 5.0
    before, after = encoder(spectrogram), encoder(changed)
    moved = (before.tokens - after.tokens).norm(dim=-1)[0]
    assert moved.nonzero().flatten().tolist() == [t * before.grid[1] + f]


@pytest.mark.parametrize("family", WITH_CLS)
def test_attention_of_cls_is_given_for_each_block_and_head(family):
    encoder = encoder_of(family)
    attention = encoder(random_spectrogram(family, 96), attention=True).attention
    assert attention.shape == (2, encoder.geometry.depth, encoder.geometry.num_heads, 24)
    assert (attention.sum(-1) > 0).all() and (attention.sum(-1) < 1).all()  # the rest goes to [cls] itself
    assert encoder(random_spectrogram(family, 96)).attention is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_of_any_block_is_given_and_ends_where_the_tokens_begin(family):
    encoder, spectrogram = encoder_of(family), random_spectrogram(family, 96)
    last = encoder.geometry.depth - 1
    plain, encoding = encoder(spectrogram), encoder(spectrogram, layers=[0, last])
    assert plain.layers is None and set(encoding.layers) == {0, last}
    tokens, cls = encoding.layers[last]
    assert tokens.shape == encoding.tokens.shape and cls.shape == encoding.cls.shape
    torch.testing.assert_close(encoder.network.norm(tokens), encoding.tokens)
    if last:
        first = encoding.layers[0][0]
        weights, config = random_weights(family, CONFIGS[family]), CONFIGS[family]
        shallow = config | ({"encoder_layers": 1} if family == "beats" else {"depth": 1})
        if family == "beats":  # deep norm depends on the depth
            shallow["deep_norm"], config = False, config | {"deep_norm": False}
            first = from_upstream(family, weights, config)(spectrogram, layers=(0,)).layers[0][0]
        weights = {key: value for key, value in weights.items() if not any(f".{i}." in key for i in (1, 2, 3))} | {
            key: value for key, value in weights.items() if key.startswith("init_bn")
        }
        alone = from_upstream(family, weights, shallow)(spectrogram, layers=(0,)).layers[0][0]
        torch.testing.assert_close(first, alone)


def test_a_block_that_does_not_exist_is_one_clear_sentence():
    with pytest.raises(InputError, match="There is no block 3; this encoder has blocks 0 to 2"):
        encoder_of("audiomae")(random_spectrogram("audiomae", 96), layers=(0, 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_is_encoded_alike_alone_and_in_a_batch(family):
    encoder, spectrogram = encoder_of(family), random_spectrogram(family, 96, clips=3)
    torch.testing.assert_close(encoder(spectrogram).tokens[1:2], encoder(spectrogram[1:2]).tokens, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_products_are_an_option_near_the_exact_ones_and_handed_over_in_float32(family):
    spectrogram, exact = random_spectrogram(family, 96), encoder_of(family)
    rough = encoder_of(family, products="bfloat16")
    expected, found = exact(spectrogram, layers=(0,)), rough(spectrogram, layers=(0,))
    error = ((found.tokens - expected.tokens).norm() / expected.tokens.norm()).item()
    assert 0 < error < 0.05 and error == pytest.approx(rounding_error(exact, spectrogram), rel=0.2)
    assert {found.tokens.dtype, found.cls.dtype, found.layers[0][0].dtype} == {torch.float32}
    assert rough.geometry != exact.geometry and rough.geometry.front_end == exact.geometry.front_end
    with torch.autocast("cpu", torch.bfloat16):  # somebody else's does not count: the option is part of the version
        assert torch.equal(exact(spectrogram).tokens, expected.tokens)


def test_the_device_is_the_cpu_unless_there_is_a_gpu_and_a_wrong_one_is_one_clear_sentence(monkeypatch):
    assert frozen.device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setenv("UNMUTE_DEVICE", "cpu")
    assert frozen.device() == torch.device("cpu")
    for wrong, said in (("gpu", "no device of torch"), ("meta", "does not see here"), ("cuda:99", "")):
        monkeypatch.setenv("UNMUTE_DEVICE", wrong)
        if wrong != "cuda:99" or not torch.cuda.is_available():
            with pytest.raises(InputError, match=f"UNMUTE_DEVICE is '{wrong}'.*{said}"):
                encoder_of("eat")(random_spectrogram("eat", 96))


def test_on_another_device_the_network_is_a_copy_and_the_result_comes_back(monkeypatch):
    """No GPU is needed for this: torch's meta device stands for one, and gives shapes alone."""
    encoder, spectrogram = encoder_of("beats"), random_spectrogram("beats", 96)
    monkeypatch.setattr(frozen, "device", lambda: torch.device("meta"))
    monkeypatch.setattr(torch.Tensor, "to", came_back(torch.Tensor.to))
    encoding = encoder(spectrogram, layers=(1,))
    assert encoding.tokens.device == encoding.layers[1][0].device == spectrogram.device
    assert all(value.device.type == "cpu" for value in encoder.state_dict().values())  # what the version is made of
    assert list(encoder._elsewhere) == [torch.device("meta")]


def came_back(to):
    """Have a tensor without data come to the CPU as zeros."""
    return lambda x, *to_what, **how: (
        torch.zeros(x.shape) if x.is_meta and isinstance(to_what[0], torch.Tensor) else to(x, *to_what, **how)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_version_holds_the_code_of_the_family_and_not_of_the_others(family, monkeypatch):
    read = []
    monkeypatch.setattr(upstream, "code_version", lambda *names: read.extend(names) or "digest")
    upstream._code.cache_clear()
    assert encoder_of(family).geometry.code == "digest"
    upstream._code.cache_clear()
    shared = {f"lib.encoders.{name}" for name in ("upstream", "frozen", "network", "front_ends")}
    own = {"asit": {"asit", "audiomae"}, "sslam": {"eat"}}.get(family, {family})
    assert set(read) == shared | {f"lib.encoders.families.{name}" for name in own}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"frames": 48}, {"frames": 48, "padding": "silence"}])
def test_the_grid_of_any_length_of_clip_is_known_before_it_is_encoded(family, options):
    encoder = encoder_of(family, **options)
    for samples in (4_000, 5_333, 16_000):
        assert encoder.grid_of(samples) == encoder(encoder.spectrogram(torch.randn(samples))).grid


def test_nobody_elses_code_is_imported():
    """Not the authors', nor the libraries that bring it; and nothing from the hub is run."""
    code = "".join(path.read_text() for path in Path(upstream.__file__).parent.rglob("*.py"))
    named = set(re.findall(r"^\s*(?:from|import) (\w+)", code, re.M))
    assert "torch" in named and not named & {"timm", "torchaudio", "torchvision", "transformers", "fairseq", "dasheng"}
    assert "trust_remote_code" not in code and "AutoModel" not in code


# Traps of single families.


def test_the_stored_position_table_of_amae_is_used_as_it_is():
    """Upstream built it for 8 rows and many columns, though tokens are flattened the other way round."""
    weights, _, config = fixture("audiomae-tiny")
    stored = weights["pos_embed"][0, 1:]
    torch.testing.assert_close(stored, sincos_positions((8, 10), 48), atol=1e-5, rtol=0)
    recomputed = sincos_positions((10, 8), 48)
    assert (stored - recomputed).abs().max() > 1
    network = from_upstream("audiomae", weights, config).network
    assert torch.equal(network.embedding.positions_on((10, 8))[0], stored)
    for steps in (6, 1):  # a shorter clip has the first rows, not the middle and nothing interpolated
        assert torch.equal(network.embedding.positions_on((steps, 8))[0], stored[: steps * 8])


def test_a_clip_longer_than_a_fixed_position_table_is_one_clear_sentence():
    with pytest.raises(InputError, match="has 7 time steps, the position table 6; crop the clip to 96 frames"):
        encoder_of("audiomae")(random_spectrogram("audiomae", 112))
    with pytest.raises(InputError, match="has 40 patches, the position table 36; crop the clip to 144 frames"):
        encoder_of("eat")(random_spectrogram("eat", 160))
    with pytest.raises(InputError, match="crop the clip to 144 frames"):
        encoder_of("sslam", frames=160)


def test_amae_ends_in_its_norm_and_eat_in_its_last_block():
    for family, normed in (("audiomae", True), ("asit", True), ("eat", False), ("beats", False), ("dasheng", True)):
        encoder = encoder_of(family)
        encoding = encoder(random_spectrogram(family, 96), layers=(encoder.geometry.depth - 1,))
        assert torch.equal(encoding.layers[encoder.geometry.depth - 1][0], encoding.tokens) != normed


def test_a_checkpoint_of_amae_with_fc_norm_in_the_place_of_its_norm_is_refused():
    weights = random_weights("audiomae", CONFIGS["audiomae"])
    for part in ("weight", "bias"):
        weights[f"fc_norm.{part}"] = weights.pop(f"norm.{part}")
    with pytest.raises(
        InputError, match=r"missing: norm\.weight, norm\.bias; unexpected: fc_norm\.weight, fc_norm\.bias"
    ):
        encoder_of("audiomae", weights)


@pytest.mark.parametrize(("steps", "first"), [(6, 0), (5, 1), (4, 1), (3, 2), (2, 2), (1, 3)])
def test_asit_takes_the_middle_of_its_positions_for_a_shorter_clip(steps, first):
    embedding = encoder_of("asit").network.embedding
    table = embedding.positions[0, 1:].reshape(6, 4, -1)  # (S_t, S_f, D)
    assert torch.equal(embedding.positions_on((steps, 4)), table[first : first + steps].reshape(1, steps * 4, -1))


def test_asit_interpolates_its_positions_along_time_alone_for_a_longer_clip():
    weights = random_weights("asit", CONFIGS["asit"])
    rising = torch.arange(6.0)[:, None] + 100 * torch.arange(4.0)  # (S_t, S_f)
    weights["pos_embed"][0, 1:] = rising.reshape(24, 1)
    encoder = encoder_of("asit", weights)
    positions = encoder.network.embedding.positions_on((12, 4))[0].reshape(12, 4, -1)
    expected = ((torch.arange(12) + 0.5) / 2 - 0.5).clamp(0, 5)[:, None] + 100 * torch.arange(4.0)
    torch.testing.assert_close(positions, expected[..., None].expand_as(positions))
    assert encoder(random_spectrogram("asit", 192)).grid == (12, 4)


def test_asit_on_a_shorter_clip_is_the_network_with_the_middle_of_the_table():
    config, weights = CONFIGS["asit"], random_weights("asit", CONFIGS["asit"])
    spectrogram = random_spectrogram("asit", 64)
    table = weights["pos_embed"]
    cut = weights | {"pos_embed": torch.cat([table[:, :1], table[:, 1 + 4 : 1 + 5 * 4]], 1)}
    expected, _ = reference("asit", cut, config, spectrogram)
    encoding = encoder_of("asit", weights)(spectrogram)
    torch.testing.assert_close(encoding.tokens.double(), expected[:, 1:], atol=1e-4, rtol=1e-3)


def test_the_cls_of_eat_has_no_position():
    weights = random_weights("eat", CONFIGS["eat"])
    moved = weights | {"fixed_positional_encoder.positions": weights["fixed_positional_encoder.positions"] + 1.0}
    embedded = [encoder_of("eat", w).network.embedding(random_spectrogram("eat", 96))[0] for w in (weights, moved)]
    assert torch.equal(embedded[0][:, 0], embedded[1][:, 0]) and not torch.equal(embedded[0][:, 1], embedded[1][:, 1])


def test_beats_drops_the_frames_after_the_last_whole_patch_and_no_token():
    encoder, spectrogram = encoder_of("beats"), random_spectrogram("beats", 98)
    encoding = encoder(spectrogram)
    assert encoding.grid == (6, 8) and encoding.tokens.shape[1] == 48  # token 0 is among them
    assert torch.equal(encoding.tokens, encoder(spectrogram[:, :96]).tokens)


def test_relative_positions_of_beats_are_of_the_flattened_order_and_signed():
    bias = encoder_of("beats").network.bias(48)
    assert bias.shape == (2, 48, 48)
    assert torch.equal(bias[:, 3, 11], bias[:, 20, 28])  # 8 later, wherever
    assert not torch.equal(bias[:, 3, 4], bias[:, 4, 3])


def test_a_clip_of_beats_under_a_padding_mask_has_the_tokens_that_it_has_alone():
    encoder, spectrogram = encoder_of("beats"), random_spectrogram("beats", 200)
    mask = torch.zeros(2, 200, dtype=torch.bool)
    mask[1, 112:] = True
    tokens = encoder(spectrogram, padding_mask=mask).tokens
    torch.testing.assert_close(tokens[:1], encoder(spectrogram[:1]).tokens, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[1:, :56], encoder(spectrogram[1:, :112]).tokens, atol=2e-5, rtol=1e-4)


def test_a_patch_counts_as_padding_where_all_its_frames_do():
    encoder, spectrogram = encoder_of("beats"), random_spectrogram("beats", 48)
    for first, padded in ((32, 8), (33, 0), (31, 8)):
        mask = (torch.arange(48) >= first).expand(2, 48)
        assert encoder._padded(spectrogram, mask).sum(1).tolist() == [padded, padded]


def test_an_unusable_padding_mask_is_one_clear_sentence():
    with pytest.raises(InputError, match="'eat' takes no padding mask"):
        encoder_of("eat")(random_spectrogram("eat", 96), padding_mask=torch.zeros(2, 96))
    with pytest.raises(InputError, match=r"has shape \(2, 48\); \(B, frames\) = \(2, 96\) is expected"):
        encoder_of("beats")(random_spectrogram("beats", 96), padding_mask=torch.zeros(2, 48))
    with pytest.raises(InputError, match="padding from its first frame to its last"):
        encoder_of("beats")(random_spectrogram("beats", 96), padding_mask=torch.ones(2, 96))


def test_dasheng_keeps_the_stored_statistics_of_its_batch_norm_even_in_training_mode():
    encoder, spectrogram = encoder_of("dasheng"), random_spectrogram("dasheng", 40)
    expected = encoder(spectrogram).tokens
    assert torch.equal(encoder.train()(spectrogram).tokens, expected)


def test_each_piece_of_a_long_clip_of_dasheng_is_encoded_on_its_own():
    encoder, spectrogram = encoder_of("dasheng"), random_spectrogram("dasheng", 40 + 40 + 14)
    encoding = encoder(spectrogram, layers=(0,))
    assert encoding.grid == (23, 1)
    for start, stop in ((0, 40), (40, 80), (80, 92)):
        piece = encoder(spectrogram[..., start:stop], layers=(0,))
        got, expected = encoding.tokens[:, start // 4 : stop // 4], piece.tokens
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
        got, expected = encoding.layers[0][0][:, start // 4 : stop // 4], piece.layers[0][0]
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def test_sslam_is_eat_with_other_weights():
    weights, data, config = fixture("sslam-tiny")
    as_eat = from_upstream("eat", weights, config)(data["input"][:, 0])
    assert torch.equal(as_eat.tokens, from_upstream("sslam", weights, config)(data["input"][:, 0]).tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_spectrogram_with_its_axes_swapped_or_too_short_is_one_clear_sentence(family):
    encoder, spectrogram = encoder_of(family), random_spectrogram(family, 96)
    axes = r"\(B, mel, frames\)" if family == "dasheng" else r"\(B, frames, mel\)"
    for wrong in (spectrogram.transpose(1, 2), spectrogram[:, None], spectrogram[0]):
        with pytest.raises(InputError, match=f"A batch of spectrograms {axes} with (64|128) mel bands is expected"):
            encoder(wrong)
    with pytest.raises(InputError, match="of 3 frames is shorter than one patch of (4|16)"):
        encoder(spectrogram.narrow(2 if family == "dasheng" else 1, 0, 3))


# Options.


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_for_cls_is_an_option(family):
    spectrogram = random_spectrogram(family, 96)
    by_default = encoder_of(family)(spectrogram, layers=(0,))
    for mode in ("mean", "first_token"):
        encoding = encoder_of(family, cls=mode)(spectrogram, layers=(0,))
        for (tokens, cls), plain in (
            ((encoding.tokens, encoding.cls), by_default.tokens),
            (encoding.layers[0], by_default.layers[0][0]),
        ):
            assert torch.equal(tokens, plain)  # first_token takes none away
            assert torch.equal(cls, tokens.mean(1) if mode == "mean" else tokens[:, 0])
    if family in WITH_CLS:
        assert torch.equal(by_default.cls, encoder_of(family, cls="native")(spectrogram).cls)
        assert (by_default.cls - by_default.tokens.mean(1)).abs().max() > 0.1
    else:
        assert torch.equal(by_default.cls, by_default.tokens.mean(1))
        with pytest.raises(InputError, match=rf"'{family}' has no \[cls\] of its own; choose 'mean', or 'first_token'"):
            encoder_of(family, cls="native")


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("eat", {"cls": "natve"}, "Unknown reading of .*Did you mean 'native'"),
        ("eat", {"padding": "zeros"}, "Unknown padding 'zeros'; choose one of: upstream, silence"),
        ("eat", {"normalisation": "esc10"}, "Unknown normalisation of 'eat' 'esc10'.*Did you mean 'esc50'"),
        ("beats", {"normalisation": "esc50"}, "choose one of: audioset"),
        ("dasheng", {"normalisation": (0.0, 1.0)}, "'dasheng' normalises with statistics of its checkpoint"),
        ("eat", {"normalisation": (0.0, 0.0)}, "standard deviation 0.0 cannot be"),
        ("eat", {"frames": 96, "seconds": 1.0}, r"given twice \(96 frames, 1.0 s\)"),
        ("eat", {"products": "bfloat"}, "Unknown precision of products 'bfloat'.*Did you mean 'bfloat16'"),
        ("eat", {"frames": 15}, "A clip of 15 frames holds no patch of 16"),
        ("beats", {"seconds": 0.1}, "A clip of 8 frames holds no patch of 16"),
        ("dashing", {}, "Unknown family of encoders 'dashing'.*Did you mean 'dasheng'"),
    ],
)
def test_an_option_that_does_not_exist_is_one_clear_sentence(family, options, message):
    known = family if family in FAMILIES else "eat"
    with pytest.raises(InputError, match=message):
        from_upstream(family, random_weights(known, CONFIGS[known]), CONFIGS[known], **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_changes_the_spectrogram_changes_the_geometry(family):
    variants = [{}, {"frames": 64}, {"padding": "silence"}]
    variants += [] if family == "dasheng" else [{"normalisation": (1.0, 2.0)}]
    front_ends = [encoder_of(family, **options).geometry.front_end for options in variants]
    assert len(set(front_ends)) == len(variants)
    plain, first = (encoder_of(family, cls=cls).geometry for cls in (None, "first_token"))
    assert plain.front_end == first.front_end and plain != first
