"""Real encoders from the keys and the configuration of a checkpoint: every naming, and what is refused."""

import dataclasses

import pytest
import torch
from reference_encoders import CONFIGS, fixture, random_spectrogram, random_weights

from lib.encoders import UpstreamEncoder, from_upstream
from lib.encoders.upstream import FAMILIES
from lib.errors import InputError


def encoder_of(family, weights=None, config=None, **options) -> UpstreamEncoder:
    config = config or CONFIGS[family]
    return from_upstream(family, weights or random_weights(family, config), config, **options)


def same(first, second, family, frames=96, **options):
    """Whether two state dicts give the same tokens."""
    spectrogram = random_spectrogram(family, frames)
    a, b = (encoder_of(family, weights, **options)(spectrogram) for weights in (first, second))
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.cls, b.cls)


def hugging_face(weights):
    """EAT's keys of fairseq as they are on Hugging Face."""
    names = {"modality_encoders.IMAGE.": "", "context_encoder.norm": "pre_norm"}
    renamed = {}
    for key, value in weights.items():
        for old, new in names.items():
            key = key.replace(old, new)
        renamed[f"model.{key}"] = value
    return renamed


def test_eat_is_built_from_every_naming_of_its_keys():
    weights, data, config = fixture("eat-tiny")
    extras = {
        "_ema": {"blocks.0.norm1.weight": torch.ones(3)},
        "modality_encoders.IMAGE.decoder.proj.weight": torch.ones(2),
    }
    head = {f"{part}.{kind}": torch.ones(5) for part in ("fc_norm", "head") for kind in ("weight", "bias")}
    for named in (
        hugging_face(weights),
        hugging_face(weights) | {f"model.{key}": value for key, value in head.items()},
        {key.removeprefix("model."): value for key, value in hugging_face(weights).items()},
        weights | extras,
        {f"model.{key}": value for key, value in (weights | extras | head).items()},
        {f"model.{key}": value for key, value in weights.items()}
        | {"_ema.blocks.0.norm1.weight": torch.ones(3)}
        | head,
    ):
        tokens = from_upstream("eat", named, config)(data["input"][:, 0]).tokens
        torch.testing.assert_close(tokens, data["tokens"][:, 1:], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "prefix", "extras"),
    [
        ("audiomae", "", ("mask_token", "decoder_pos_embed", "decoder_blocks.15.attn.qkv.weight")),
        ("asit", "backbone.", ("head_cls.mlp.0.weight", "head_recons.weight")),
        ("asit", "module.backbone.", ("module.head_cls.mlp.0.weight", "module.head_recons.weight")),
        ("asit", "model.", ("model.head.weight",)),
        ("beats", "", ("predictor.weight", "predictor.bias")),
        ("beats", "", tuple(f"encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in (1, 2))),
        ("dasheng", "encoder.", ("outputlayer.0.weight", "encoder.init_bn.1.num_batches_tracked")),
        ("dasheng", "", ("front_end.0.spectrogram.window", "init_bn.1.num_batches_tracked")),
    ],
)
def test_prefixes_are_understood_and_what_no_token_depends_on_is_dropped(family, prefix, extras):
    weights = random_weights(family, CONFIGS[family])
    named = {f"{prefix}{key}": value for key, value in weights.items()} | dict.fromkeys(extras, torch.ones(2))
    assert same(weights, named, family)


@pytest.mark.parametrize("family", ["eat", "asit", "dasheng", "audiomae"])
def test_one_prefix_is_stripped_and_only_one(family):
    weights = random_weights(family, CONFIGS[family])
    twice = {f"model.model.{key}": value for key, value in weights.items()}
    with pytest.raises(InputError, match=r"missing: .*unexpected: model\.model\."):
        encoder_of(family, twice)
    once = {f"model.{key}": value for key, value in weights.items()}
    assert same(weights, once, family)
    with pytest.raises(InputError, match=r"; unexpected: model\.model\.head\.weight\.$"):
        encoder_of(family, once | {"model.model.head.weight": torch.ones(2)})
    key = next(iter(weights))
    mixed = {f"model.{name}": value for name, value in weights.items() if name != key} | {
        f"model.model.{key}": weights[key]
    }
    with pytest.raises(InputError, match=rf"missing: model\.{key}; unexpected: model\.model\.{key}\."):
        encoder_of(family, mixed)


@pytest.mark.parametrize("layout", [0, 1])
def test_a_teacher_beside_the_network_is_not_taken_for_it(layout):
    weights = random_weights("eat", CONFIGS["eat"], layout=layout)
    teacher = {f"_ema.{key}": value + 1.0 for key, value in weights.items()}
    assert same(weights, teacher | weights, "eat")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("which", [0, -1])
def test_a_missing_an_unexpected_and_a_misshapen_key_are_listed(family, which):
    weights = random_weights(family, CONFIGS[family])
    key = list(weights)[which]
    with pytest.raises(InputError, match=rf"do not fit '{family}' .*; missing: {key}\.$"):
        encoder_of(family, {name: value for name, value in weights.items() if name != key})
    with pytest.raises(InputError, match=r"; unexpected: blocks\.9\.ls1, norm_post\.$"):
        encoder_of(family, weights | {"blocks.9.ls1": torch.ones(1), "norm_post": torch.ones(1)})
    with pytest.raises(InputError, match=rf"; of another shape: {key} is \(1, 2, 3\) instead of \("):
        encoder_of(family, weights | {key: torch.ones(1, 2, 3)})
    with pytest.raises(InputError, match=rf"; of another shape: {key} is no tensor"):
        encoder_of(family, weights | {key: 3.0})


def test_a_long_list_of_keys_is_cut_and_counted():
    with pytest.raises(InputError, match=r"missing: cls_token, .* and 22 more; unexpected: foo\.$"):
        encoder_of("audiomae", {"foo": torch.ones(1)})


def test_the_weights_of_another_family_depth_or_width_are_refused():
    weights = random_weights("eat", CONFIGS["eat"])
    with pytest.raises(InputError, match="do not fit 'beats'"):
        encoder_of("beats", weights)
    with pytest.raises(InputError, match=r"unexpected: blocks\.3\.norm1"):
        encoder_of("eat", weights, CONFIGS["eat"] | {"depth": 3})
    with pytest.raises(InputError, match=r"missing: blocks\.4\.norm1"):
        encoder_of("eat", weights, CONFIGS["eat"] | {"depth": 5})
    with pytest.raises(
        InputError, match=r"fixed_positional_encoder\.positions is \(1, 36, 36\) instead of \(1, 40, 36\)"
    ):
        encoder_of("eat", weights, CONFIGS["eat"] | {"max_length": 10})


def test_a_container_in_the_place_of_its_weights_is_one_clear_sentence():
    weights = random_weights("beats", CONFIGS["beats"])
    with pytest.raises(InputError, match="holds another dictionary under 'model'; hand over a flat one"):
        encoder_of("beats", {"cfg": 1, "model": weights})
    with pytest.raises(InputError, match="both dictionaries, but they are str and dict"):
        encoder_of("beats", "BEATs.pt")


def test_half_precision_weights_become_single_and_the_state_dict_stays_as_it_was():
    weights = random_weights("eat", CONFIGS["eat"])
    halves = {key: value.half() for key, value in weights.items()}
    copies = {key: value.clone() for key, value in halves.items()}
    encoder = encoder_of("eat", halves)
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    assert all(torch.equal(copies[key], halves[key]) and halves[key].dtype == torch.float16 for key in halves)
    trainable = {key: torch.nn.Parameter(value.clone()) for key, value in weights.items()}
    assert same(weights, trainable, "eat") and all(p.requires_grad for p in trainable.values())


# Configurations.


@pytest.mark.parametrize(
    ("family", "lost"),
    [
        ("audiomae", "img_size"),
        ("asit", "depth"),
        ("eat", "max_length"),
        ("beats", "max_distance"),
        ("dasheng", "n_mels"),
    ],
)
def test_a_setting_that_is_missing_is_named_and_never_guessed(family, lost):
    config = {key: value for key, value in CONFIGS[family].items() if key != lost}
    with pytest.raises(InputError, match=f"configuration of '{family}' lacks '{lost}'"):
        encoder_of(family, random_weights(family, CONFIGS[family]), config)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("audiomae", {"use_custom_patch": True}, "use_custom_patch = True"),
        ("audiomae", {"num_heads": 7}, "A width of 24 cannot be shared by 7 heads"),
        ("audiomae", {"img_size": [100, 64]}, "100 x 64 cannot be cut into patches of 16"),
        ("asit", {"patch_size": [16, 8]}, r"cannot be cut into patches of \[16, 8\]"),
        ("eat", {"layer_norm_first": True}, "layer_norm_first = True, but the published checkpoints have False"),
        ("eat", {"stride": 10}, "stride = 10"),
        ("eat", {"num_extra_tokens": 2}, "num_extra_tokens = 2"),
        ("beats", {"layer_norm_first": True}, "layer_norm_first = True"),
        ("beats", {"conv_pos_groups": 5}, "A width of 24 cannot be cut into 5 groups"),
        ("dasheng", {"n_mels": 128}, "a patch of Dasheng spans all mel bands, but the configuration has 64 of 128"),
        ("dasheng", {"center": False}, "center = False"),
    ],
)
def test_a_network_that_no_checkpoint_has_is_one_clear_sentence(family, change, message):
    with pytest.raises(InputError, match=f"(?i){message}"):
        encoder_of(family, random_weights(family, CONFIGS[family]), CONFIGS[family] | change)


def test_settings_of_training_do_not_matter():
    weights = random_weights("beats", CONFIGS["beats"])
    spectrogram = random_spectrogram("beats", 96)
    plain = encoder_of("beats", weights)(spectrogram).tokens
    busy = CONFIGS["beats"] | {
        "encoder_layerdrop": 0.5,
        "dropout": 0.5,
        "finetuned_model": True,
        "predictor_class": 527,
    }
    encoder = encoder_of("beats", weights, busy)
    assert torch.equal(encoder(spectrogram).tokens, plain)
    assert torch.equal(encoder.train()(spectrogram).tokens, plain)
    assert dataclasses.asdict(encoder.geometry)["dim"] == 24
