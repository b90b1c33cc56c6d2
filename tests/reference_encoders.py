"""For the tests of the real encoders: the fixtures, random weights of any size, and each family written a second time.

The second version is as plain as it can be, in float64, on the checkpoints' own keys, with no code of the library.
"""

import functools
import json
import math
from pathlib import Path

import torch
from safetensors import safe_open

from lib.encoders.upstream import expected_shapes

FIXTURES = Path(__file__).parent / "fixtures"
CONFIGS = {  # the words of each family's configuration, small
    "audiomae": {"img_size": [96, 64], "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 2},
    "asit": {
        "audio_size": [96, 64],
        "patch_size": [16, 16],
        "embed_dim": 40,
        "depth": 1,
        "num_heads": 5,
        "mlp_ratio": 3,
    },
    "eat": {
        "target_length": 96,
        "mel_bins": 64,
        "max_length": 9,
        "patch_size": 16,
        "embed_dim": 36,
        "depth": 4,
        "num_heads": 3,
        "mlp_ratio": 1.5,
    },
    "beats": {
        "input_patch_size": 16,
        "embed_dim": 20,
        "conv_bias": False,
        "encoder_layers": 3,
        "encoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 40,
        "encoder_attention_heads": 2,
        "conv_pos": 32,
        "conv_pos_groups": 4,
        "relative_position_embedding": True,
        "num_buckets": 16,
        "max_distance": 30,
        "gru_rel_pos": True,
        "deep_norm": True,
        "layer_norm_first": False,
    },
    "dasheng": {
        "n_mels": 64,
        "patch_size": [64, 4],
        "target_length": 40,
        "embed_dim": 30,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 2,
    },
}
CONFIGS["sslam"] = CONFIGS["eat"] | {"depth": 2, "num_heads": 6}
MELS = {"audiomae": 64, "asit": 64, "eat": 64, "sslam": 64, "beats": 128}


@functools.cache
def fixture(name):
    """Return weights, the other tensors and the configuration of a fixture."""
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata().get("config", "{}"))
    weights = {key.removeprefix("sd."): value for key, value in tensors.items() if key.startswith("sd.")}
    return weights, {key: value for key, value in tensors.items() if not key.startswith("sd.")}, config


def random_weights(family, config, seed=0, layout=0):
    """Return weights in which nothing is trivially 0 or 1."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for key, shape in expected_shapes(family, config, layout).items():
        drawn = torch.randn(shape, generator=generator)
        if key.endswith(("running_var", "weight_g")):
            weights[key] = 0.5 + drawn.abs()
        elif len(shape) == 1 or key.endswith("grep_a"):
            weights[key] = 0.3 * drawn + (1.0 if key.endswith(("weight", "grep_a")) else 0.0)
        elif any(part in key for part in ("pos", "token", "relative")):
            weights[key] = drawn
        else:
            weights[key] = drawn / math.sqrt(math.prod(shape[1:]))
    return weights


def random_spectrogram(family, frames, clips=2, seed=1):
    """Return what a family's `spectrogram` would, random."""
    drawn = torch.randn(clips, frames, MELS.get(family, 64), generator=torch.Generator().manual_seed(seed))
    return 15 * drawn.transpose(1, 2) - 10 if family == "dasheng" else drawn


def reference(family, weights, config, x):
    """Return tokens, [cls] first where there is one, and its attention ``(B, depth, heads, M)``."""
    run = {"audiomae": _amae, "asit": _amae, "eat": _eat, "sslam": _eat, "beats": _beats, "dasheng": _dasheng}[family]
    return run({key: value.double() for key, value in weights.items()}, config, x.double())


def _linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def _norm(w, name, x, eps):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def _gelu(x):
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def _patches(weight, x):
    """Flattened patches times the kernel, ``(B, S_t, S_f, D)``."""
    p, q = weight.shape[2:]
    cut = x.unfold(1, p, p).unfold(2, q, q)  # (B, S_t, S_f, p, q)
    return torch.einsum("btfpq,dpq->btfd", cut, weight[:, 0])


def _attend(q, k, v, heads, bias=None):
    outputs, maps = [], []
    for h, (qh, kh, vh) in enumerate(zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)):
        logits = torch.einsum("bqd,bkd->bqk", qh, kh) / math.sqrt(qh.shape[-1])
        weights = torch.softmax(logits if bias is None else logits + bias(h, qh), -1)
        outputs.append(weights @ vh)
        maps.append(weights[:, 0])
    return torch.cat(outputs, -1), torch.stack(maps, 1)


def _timm_blocks(w, config, x, post_norm):
    maps = []
    for i in range(config["depth"]):
        at = f"blocks.{i}."
        normed = x if post_norm else _norm(w, f"{at}norm1", x, 1e-6)
        mixed, first = _attend(*_linear(w, f"{at}attn.qkv", normed).chunk(3, -1), config["num_heads"])
        maps.append(first)
        x = x + _linear(w, f"{at}attn.proj", mixed)
        x = _norm(w, f"{at}norm1", x, 1e-6) if post_norm else x
        normed = x if post_norm else _norm(w, f"{at}norm2", x, 1e-6)
        x = x + _linear(w, f"{at}mlp.fc2", _gelu(_linear(w, f"{at}mlp.fc1", normed)))
        x = _norm(w, f"{at}norm2", x, 1e-6) if post_norm else x
    return x, torch.stack(maps, 1)


def _amae(w, config, x):
    x = (_patches(w["patch_embed.proj.weight"], x) + w["patch_embed.proj.bias"]).flatten(1, 2)
    table = w["pos_embed"][0]
    x = x + table[1 : 1 + x.shape[1]]
    x = torch.cat([(w["cls_token"] + table[0]).expand(len(x), 1, -1), x], 1)
    x, maps = _timm_blocks(w, config, x, post_norm=False)
    return _norm(w, "norm", x, 1e-6), maps


def _eat(w, config, x):
    x = (_patches(w["local_encoder.proj.weight"], x) + w["local_encoder.proj.bias"]).flatten(1, 2)
    x = x + w["fixed_positional_encoder.positions"][0, : x.shape[1]]
    x = _norm(w, "pre_norm", torch.cat([w["extra_tokens"].expand(len(x), 1, -1), x], 1), 1e-6)
    return _timm_blocks(w, config, x, post_norm=True)


def _bucket(d, buckets, longest):
    half, exact = buckets // 2, buckets // 4
    far = abs(d)
    if far >= exact:
        far = min(half - 1, exact + math.floor((half - exact) * math.log(far / exact) / math.log(longest / exact)))
    return far + (half if d > 0 else 0)


def _beats(w, config, x):
    x = _patches(w["patch_embedding.weight"], x).flatten(1, 2) + w.get("patch_embedding.bias", 0.0)
    x = _linear(w, "post_extract_proj", _norm(w, "layer_norm", x, 1e-5))
    B, N, D = x.shape
    taps, groups = config["conv_pos"], config["conv_pos_groups"]
    v = w["encoder.pos_conv.0.weight_v"]
    kernel = v * w["encoder.pos_conv.0.weight_g"] / v.square().sum((0, 1), keepdim=True).sqrt()
    held = torch.cat([x.new_zeros(B, taps // 2, D), x, x.new_zeros(B, taps // 2, D)], 1)
    windows = torch.stack([held[:, n : n + taps] for n in range(N)], 1).unflatten(-1, (groups, -1))  # B N taps g i
    mixed = torch.einsum("bntgi,goit->bngo", windows, kernel.unflatten(0, (groups, -1))).flatten(2)
    x = _norm(w, "encoder.layer_norm", x + _gelu(mixed + w["encoder.pos_conv.0.bias"]), 1e-5)
    table, heads = w.get("encoder.layers.0.self_attn.relative_attention_bias.weight"), config["encoder_attention_heads"]
    numbers = [[_bucket(k - q, config["num_buckets"], config["max_distance"]) for k in range(N)] for q in range(N)]
    a = (2 * config["encoder_layers"]) ** 0.25 if config["deep_norm"] else 1.0
    for i in range(config["encoder_layers"]):
        at = f"encoder.layers.{i}."

        def bias(h, q, at=f"{at}self_attn."):
            if table is None:
                return 0.0
            plain = table[torch.tensor(numbers), h]
            if not config["gru_rel_pos"]:
                return plain
            u = torch.sigmoid(_linear(w, f"{at}grep_linear", q).unflatten(-1, (2, 4)).sum(-1))  # (B, N, 2)
            return (u[..., :1] * (u[..., 1:] * w[f"{at}grep_a"][0, h, 0, 0] - 1.0) + 2.0) * plain

        q, k, v = (_linear(w, f"{at}self_attn.{part}_proj", x) for part in "qkv")
        mixed, _ = _attend(q, k, v, heads, bias)
        x = _norm(w, f"{at}self_attn_layer_norm", a * x + _linear(w, f"{at}self_attn.out_proj", mixed), 1e-5)
        x = _norm(w, f"{at}final_layer_norm", a * x + _linear(w, f"{at}fc2", _gelu(_linear(w, f"{at}fc1", x))), 1e-5)
    return x, None


def _dasheng(w, config, x):
    column = {key: w[f"init_bn.1.{key}"][:, None] for key in ("weight", "bias", "running_mean", "running_var")}
    x = (x - column["running_mean"]) / (column["running_var"] + 1e-5).sqrt() * column["weight"] + column["bias"]
    x = _patches(w["patch_embed.proj.weight"], x)[:, 0] + w["patch_embed.proj.bias"]  # one band of (B, 1, N, D)
    positions = (w["time_pos_embed"] + w["freq_pos_embed"])[0, :, 0].T
    pieces = [piece + positions[: piece.shape[1]] for piece in x.split(len(positions), 1)]
    return torch.cat([_norm(w, "norm", _timm_blocks(w, config, p, post_norm=False)[0], 1e-6) for p in pieces], 1), None
