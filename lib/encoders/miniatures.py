"""Miniatures of the nine published checkpoints: small networks of the real families with random weights.

For the dress rehearsal of the whole paper profile. A miniature lies where the real file would, in its container, with
its key names; ``miniature.json`` beside it says its shape and checksum, by which it is checked as a real file is by its
manifest. Its label ends in "(miniature)", and it never takes the place of a file that lies there.
"""

from pathlib import Path

import torch
from torch import Tensor

from lib.encoders.manifests import MINIATURE, Checkpoint, find_checkpoint
from lib.encoders.upstream import expected_shapes
from lib.errors import InputError
from lib.files import atomic, sha256, write_json, write_tensors

SMALL = {  # by family: what a miniature's configuration has in place of the real one's
    "beats": {
        "embed_dim": 32,
        "encoder_layers": 2,
        "encoder_embed_dim": 64,
        "encoder_ffn_embed_dim": 128,
        "encoder_attention_heads": 4,
        "conv_pos": 16,
        "conv_pos_groups": 4,
    },
}
# The width is one that every head can divide by its queries.
SMALL_VIT = {"embed_dim": 64, "depth": 2, "num_heads": 4, "mlp_ratio": 2}


def write_miniature(name: str, seed: int = 0) -> Path:
    """Write a miniature of a published encoder into the place of its weights, unless it lies there already.

    Parameters
    ----------
    name : str
        One of `lib.encoders.manifests.CHECKPOINTS`.
    seed : int
        Of the weights.

    Raises
    ------
    InputError
        If the name is unknown, or another file is in the way.
    """
    checkpoint = find_checkpoint(name)
    note = checkpoint.path.parent.parent / MINIATURE
    if note.is_file() and checkpoint.path.is_file():
        return checkpoint.path
    if checkpoint.path.exists():
        raise InputError(
            f"'{checkpoint.path}' is in the way of a miniature of {checkpoint.label}; name another scratch folder with "
            "UNMUTE_CACHE."
        )
    config = checkpoint.manifest["config"] | SMALL.get(checkpoint.family, SMALL_VIT)
    _write(checkpoint, config, random_weights(checkpoint.family, config, seed))
    size = checkpoint.path.stat().st_size
    file = {"file": checkpoint.path.name, "bytes": size, "sha256": sha256(checkpoint.path), "places": []}
    write_json(note, {"config": config, "file": file, "seed": seed})
    return checkpoint.path


def random_weights(family: str, config: dict, seed: int) -> dict[str, Tensor]:
    """Return weights by the keys of a published file: matrices of a size that keeps a signal's, gains 1, biases 0."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for key, shape in expected_shapes(family, config).items():
        one = key.endswith(("running_var", "weight")) and len(shape) == 1
        if one or len(shape) < 2:
            weights[key] = torch.full(shape, float(one))
        else:
            fan_in = torch.Size(shape[1:]).numel()
            weights[key] = torch.randn(shape, generator=generator) / fan_in**0.5
    return weights


def _write(checkpoint: Checkpoint, config: dict, weights: dict[str, Tensor]) -> None:
    """Write the weights as the real file has them: a pickle of tensors with what lies around them, or safetensors."""
    checkpoint.path.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint.path.suffix == ".safetensors":
        write_tensors(checkpoint.path, weights)
        return
    content = {"beats": {"cfg": config, "model": weights}, "audiomae": weights}
    with atomic(checkpoint.path) as temporary:
        torch.save(content.get(checkpoint.family, {"model": weights}), temporary)
