"""The six families against what the authors' own code gives, and against a second, plain version at other sizes."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_encoders import CONFIGS, fixture, random_spectrogram, random_weights, reference

from lib.encoders import from_upstream
from lib.encoders.upstream import FAMILIES, empty_network, expected_shapes
from lib.paths import MANIFESTS

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def built(name, family=None, **options):
    weights, data, config = fixture(name)
    return from_upstream(family or name.split("-")[0], weights, config, **options), data


def upstream_order(encoding, has_cls=True):
    """Return the tokens as upstream does, [cls] first."""
    return torch.cat([encoding.cls[:, None], encoding.tokens], 1) if has_cls else encoding.tokens


@pytest.mark.parametrize("name", ["audiomae-tiny", "asit-tiny", "eat-tiny", "sslam-tiny", "eat-hf-finetuned-tiny"])
def test_tokens_and_cls_are_upstreams(name):
    encoder, data = built(name)
    encoding = encoder(data["input"][:, 0])
    torch.testing.assert_close(upstream_order(encoding), data["tokens"], **CLOSE)
    assert encoding.grid == encoder.grid == (10, 8)
    if "tokens_short" in data:
        short = encoder(data["input"][:, 0, :96])
        torch.testing.assert_close(upstream_order(short), data["tokens_short"], **CLOSE)
        assert short.grid == (6, 8)


@pytest.mark.parametrize("name", ["beats-tiny", "beats-finetuned-tiny"])
def test_tokens_of_beats_are_upstreams(name):
    encoder, data = built(name)
    encoding = encoder(data["input"])
    torch.testing.assert_close(encoding.tokens, data["tokens"], **CLOSE)
    assert encoding.grid == (20, 8)


def test_tokens_of_beats_under_a_padding_mask_are_upstreams():
    encoder, data = built("beats-tiny")
    mask = data["padding_mask_frames"].bool()
    torch.testing.assert_close(encoder(data["input"], padding_mask=mask).tokens, data["tokens_masked"], **CLOSE)
    assert torch.equal(encoder._padded(data["input"], mask), data["padding_mask_tokens"].bool())
    assert not torch.allclose(data["tokens"][1], data["tokens_masked"][1], atol=1e-2)


def test_features_and_tokens_of_dasheng_are_upstreams():
    encoder, data = built("dasheng-tiny")
    spectrogram = encoder.spectrogram(data["wav"])
    torch.testing.assert_close(spectrogram, data["mel_db"], **CLOSE)
    torch.testing.assert_close(encoder.network.embedding.normalise(spectrogram)[:, None], data["mel_bn"], **CLOSE)
    encoding = encoder(spectrogram)
    torch.testing.assert_close(encoding.tokens, data["tokens"], **CLOSE)
    assert encoding.grid == (22, 1)


def test_dasheng_encodes_a_long_clip_in_pieces_as_the_authors_do():
    encoder, data = built("dasheng-tiny")
    long = encoder(data["mel_db_long"])
    torch.testing.assert_close(long.tokens, data["tokens_long"], **CLOSE)
    torch.testing.assert_close(long.tokens[:, 40:], encoder(data["mel_db_long"][..., 160:]).tokens, **CLOSE)
    assert long.grid == (50, 1)


def test_the_classifiers_of_the_finetuned_versions_find_on_these_tokens_what_upstream_found():
    """Tokens before `fc_norm` and before the predictor: upstream's own last step turns them into its outputs."""
    encoder, data = built("beats-finetuned-tiny")
    weights = fixture("beats-finetuned-tiny")[0]
    logits = encoder(data["input"]).tokens @ weights["predictor.weight"].T + weights["predictor.bias"]
    torch.testing.assert_close(logits.mean(1).sigmoid(), data["probs"], **CLOSE)
    encoder, data = built("eat-hf-finetuned-tiny")
    weights = {key.removeprefix("model."): value for key, value in fixture("eat-hf-finetuned-tiny")[0].items()}
    cls = F.layer_norm(
        encoder(data["input"][:, 0]).cls, (48,), weights["fc_norm.weight"], weights["fc_norm.bias"], 1e-5
    )
    torch.testing.assert_close(F.linear(cls, weights["head.weight"], weights["head.bias"]), data["logits"], **CLOSE)


def test_the_last_block_of_amae_pooled_and_then_normalised_is_upstreams_pooled_output():
    encoder, data = built("audiomae-tiny")
    tokens, _ = encoder(data["input"][:, 0], layers=(1,)).layers[1]
    torch.testing.assert_close(encoder.network.norm(tokens.mean(1)), data["pooled_fcnorm"], **CLOSE)


@pytest.mark.parametrize(
    ("family", "frames"),
    [(f, n) for f in FAMILIES for n in (96, 80, 33) if f != "asit" or n == 96],  # its other lengths: test_upstream
)
def test_any_width_depth_heads_and_length_give_what_the_second_version_gives(family, frames):
    config, spectrogram = CONFIGS[family], random_spectrogram(family, frames)
    weights = random_weights(family, config, seed=frames)
    expected, maps = reference(family, weights, config, spectrogram)
    encoding = from_upstream(family, weights, config)(spectrogram, attention=True)
    has_cls = maps is not None
    torch.testing.assert_close(upstream_order(encoding, has_cls).double(), expected, atol=1e-4, rtol=1e-3)
    assert encoding.tokens.std() > 0.3
    if has_cls:
        torch.testing.assert_close(encoding.attention.double(), maps[..., 1:], atol=1e-5, rtol=1e-3)
    else:
        assert encoding.attention is None


def drawn_config(family, seed):
    """A network of any width, depth, number of heads and hidden width."""
    rng = np.random.default_rng([seed, len(family)])
    heads, depth, ratio = (int(rng.integers(low, high)) for low, high in ((1, 6), (1, 5), (1, 5)))
    dim = heads * int(rng.integers(1, 5)) * 4
    if family == "beats":
        names = ("encoder_embed_dim", "encoder_attention_heads", "encoder_layers", "encoder_ffn_embed_dim", "embed_dim")
        values = (dim, heads, depth, int(rng.integers(8, 90)), int(rng.integers(4, 40)))
        return CONFIGS[family] | dict(zip(names, values, strict=True)) | {"conv_pos": 2 * int(rng.integers(1, 20))}
    return CONFIGS[family] | {"embed_dim": dim, "num_heads": heads, "depth": depth, "mlp_ratio": ratio}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", FAMILIES)
def test_drawn_networks_with_drawn_weights_give_what_the_second_version_gives(family, seed):
    config, spectrogram = drawn_config(family, seed), random_spectrogram(family, 96, seed=seed)
    weights = random_weights(family, config, seed=100 + seed)
    expected, maps = reference(family, weights, config, spectrogram)
    encoding = from_upstream(family, weights, config)(spectrogram)
    torch.testing.assert_close(upstream_order(encoding, maps is not None).double(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"deep_norm": False},
        {"gru_rel_pos": False},
        {"relative_position_embedding": False, "gru_rel_pos": False},
        {"conv_bias": True},
        {"num_buckets": 320, "max_distance": 800, "encoder_layers": 1},
        {"conv_pos": 7, "conv_pos_groups": 2, "encoder_embed_dim": 32, "encoder_attention_heads": 8},
        {"max_distance": 5},
    ],
)
def test_beats_is_what_its_cfg_says(change):
    config, spectrogram = CONFIGS["beats"] | change, random_spectrogram("beats", 200)
    weights = random_weights("beats", config)
    expected, _ = reference("beats", weights, config, spectrogram)
    tokens = from_upstream("beats", weights, config)(spectrogram).tokens
    torch.testing.assert_close(tokens.double(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("buckets", "longest"), [(320, 800), (320, 1280), (64, 100), (16, 30)])
def test_the_buckets_of_distance_are_those_of_the_formula_also_in_single_precision(buckets, longest):
    from reference_encoders import _bucket

    from lib.encoders.families.beats import RelativeBias

    distances = torch.arange(-1500, 1501)
    expected = [_bucket(d, buckets, longest) for d in distances.tolist()]
    assert RelativeBias(buckets, longest, 2).buckets(distances).tolist() == expected


COUNTS = {  # of the published sizes, counted in the authors' own code
    "amae": 85_648_128,
    "asit": 85_482_240,
    "beats": 90_311_792,
    "beats-plus": 90_311_792,
    "eat": 89_972_736,
    "eat-plus": 89_972_736,
    "sslam": 89_972_736,
    "sslam-plus": 89_972_736,
    "dasheng": 85_447_808,
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_published_sizes_have_the_published_numbers_of_parameters(name):
    manifest = json.loads((MANIFESTS / "encoders" / f"{name}.json").read_text(encoding="utf-8"))
    network = empty_network(manifest["family"], manifest["config"])
    assert all(p.is_meta for p in network.parameters())
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name]
    assert (len(network.blocks), network.blocks[0].attn.num_heads) == (12, 12)


@pytest.mark.parametrize(
    ("name", "grids"),
    [
        ("amae", {1.0: (64, 8), 5.0: (64, 8), 10.0: (64, 8)}),
        ("asit", {1.0: (37, 8), 5.0: (37, 8), 10.0: (37, 8)}),
        ("eat", {1.0: (64, 8), 5.0: (64, 8), 10.0: (64, 8)}),
        ("beats", {1.0: (6, 8), 5.0: (31, 8), 10.0: (62, 8)}),
        ("dasheng", {1.0: (25, 1), 5.0: (125, 1), 10.0: (250, 1)}),
    ],
)
def test_a_full_size_encoder_has_the_grid_of_each_length_of_clip(name, grids):
    manifest = json.loads((MANIFESTS / "encoders" / f"{name}.json").read_text(encoding="utf-8"))
    family, config = manifest["family"], manifest["config"]
    weights = {key: torch.empty(s, device="meta") for key, s in expected_shapes(family, config).items()}
    encoder = from_upstream(family, weights, config)
    for seconds, grid in grids.items():
        spectrogram = encoder.spectrogram(torch.randn(round(16_000 * seconds)))
        encoding = encoder(spectrogram.to("meta"))
        assert encoding.grid == grid and encoding.tokens.shape == (1, grid[0] * grid[1], 768)
        assert encoding.cls.shape == (1, 768)
    assert encoder.grid == grids[10.0]


def test_the_shapes_of_a_full_size_checkpoint_are_the_recorded_ones():
    def shapes(name, layout=0):
        manifest = json.loads((MANIFESTS / "encoders" / f"{name}.json").read_text(encoding="utf-8"))
        return expected_shapes(manifest["family"], manifest["config"], layout)

    beats = shapes("beats")
    assert len(beats) + 11 == 250  # the other layers repeat the relative bias of the first
    assert beats["encoder.pos_conv.0.weight_v"] == (768, 48, 128) and beats["patch_embedding.weight"] == (
        512,
        1,
        16,
        16,
    )
    assert beats["encoder.pos_conv.0.weight_g"] == (1, 1, 128) and beats["post_extract_proj.weight"] == (768, 512)
    assert beats["encoder.layers.11.self_attn.grep_a"] == (1, 12, 1, 1)
    assert beats["encoder.layers.11.self_attn.k_proj.weight"] == (768, 768)
    assert beats["encoder.layers.0.self_attn.relative_attention_bias.weight"] == (320, 12)
    assert shapes("amae")["pos_embed"] == (1, 513, 768) and shapes("asit")["pos_embed"] == (1, 297, 768)
    assert shapes("eat")["fixed_positional_encoder.positions"] == (1, 6144, 768)
    assert shapes("eat", 1)["modality_encoders.IMAGE.context_encoder.norm.weight"] == (768,)
    assert shapes("dasheng")["time_pos_embed"] == (1, 768, 1, 252)
    assert shapes("dasheng")["patch_embed.proj.weight"] == (768, 1, 64, 4)
