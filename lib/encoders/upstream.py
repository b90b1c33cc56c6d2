"""The real encoders: six families built from the keys of their published checkpoints, without anybody's code.

``from_upstream(family, state_dict, config)`` returns a frozen encoder with ``spectrogram``, a call and ``grid``, like a
pocket encoder. Symbols: ``B`` clips, ``N = S_t · S_f`` patch tokens, time-major, ``D`` token dimension.
"""

import functools
import itertools
import json
import re
from collections.abc import Mapping
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from lib.audio import SAMPLE_RATE
from lib.encoders.families import asit, audiomae, beats, dasheng, eat
from lib.encoders.front_ends import HOP
from lib.encoders.frozen import PRODUCTS, UpstreamEncoder, UpstreamGeometry
from lib.encoders.network import Network
from lib.errors import InputError, unknown_name
from lib.provenance import code_version

FAMILIES: dict[str, ModuleType] = {
    "audiomae": audiomae,
    "asit": asit,
    "beats": beats,
    "eat": eat,
    "sslam": eat,  # other weights, nothing else
    "dasheng": dasheng,
}
CLS_MODES = ("native", "mean", "first_token")
FULL_SECONDS = 10.0  # what `grid` speaks of where an encoder takes clips of any length
LISTED = 20  # keys in an error message


def from_upstream(
    family: str,
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, object],
    *,
    cls: str | None = None,
    padding: str = "upstream",
    frames: int | None = None,
    seconds: float | None = None,
    normalisation: str | tuple[float, float] = "audioset",
    products: str = "float32",
) -> UpstreamEncoder:
    """Build a real encoder from a checkpoint's own keys.

    The paper leaves cls, padding, length and normalisation open; the defaults follow the encoders' authors.

    Parameters
    ----------
    family : {"audiomae", "asit", "beats", "eat", "sslam", "dasheng"}
        Whose network it is; fine-tuned versions are of the same family.
    state_dict : mapping
        Flat, with the keys of the checkpoint, whatever prefix stands before them. The tensors are not copied where
        they are float32 already.
    config : mapping
        Shape of the network in the words of the authors: BEATs' `cfg`, else the checkpoint's `config` or that of its
        manifest in ``data_manifests/encoders``.
    cls : {"native", "mean", "first_token"}, optional
        What stands for [cls]: its own token, the mean of the patch tokens, or the first of them (earliest, and of BEATs
        lowest). By default its own, and the mean for BEATs and Dasheng, which have none. For these two the paper's
        numbers fit "first_token", which its authors' other code takes.
    padding : {"upstream", "silence"}
        What a clip shorter than the length gets. As upstream: zeros in the filter bank before it is normalised (A-MAE,
        ASiT, EAT, SSLAM; louder than most sounds), or nothing (BEATs, Dasheng: the clip stays short). Or digital
        silence in the waveform. The paper does not say; its clips of 1 s and 5 s depend on it.
    frames, seconds : int or float, optional
        Length of a clip, longer ones are cropped; one of the two. By default the length of the pretraining (A-MAE, EAT
        and SSLAM 1024 frames, ASiT 592, that is the first 6 s), and any length for BEATs and Dasheng. Seconds are
        rounded up to whole patches where upstream pads. The paper's example of 10 s is a map of 64 x 8, that is 1024
        frames; which length it gave to ASiT, BEATs and Dasheng is not known. ``frames=1024`` makes that map of ASiT,
        whose positions are then interpolated, and, with ``padding="silence"``, of BEATs.
    normalisation : str or tuple of float
        Whose mean and standard deviation: "audioset", the paper-compatible reading, or, of A-MAE, EAT and SSLAM,
        "esc50" or "sc2", of their fine-tuning recipes; or a pair. Dasheng has its own in the checkpoint.
    products : {"float32", "bfloat16"}
        Precision of the matrix products. bfloat16 is faster on machines that have instructions for it, and changes
        tokens by a few parts in a thousand (`lib.encoders.frozen.rounding_error`).

    Returns
    -------
    UpstreamEncoder
        Frozen, its weights in float32.

    Raises
    ------
    InputError
        If the family or an option is unknown, the configuration lacks a setting or asks for a network that no
        published checkpoint has, or a key is missing, unexpected or of another shape; the message lists them.
    """
    module = _module(family)
    if not isinstance(state_dict, Mapping) or not isinstance(config, Mapping):
        raise InputError(
            f"A state dict and a configuration are expected for '{family}', both dictionaries, but they are "
            f"{type(state_dict).__name__} and {type(config).__name__}."
        )
    if products not in PRODUCTS:
        raise unknown_name("precision of products", products, PRODUCTS)
    config = dict(config)
    network = empty_network(family, config)
    try:
        front_end = module.front_end(
            config,
            _statistics(family, normalisation),
            _frames(module, config, network.embedding.patch[0], frames, seconds),
            _padding(module, padding),
        )
    except KeyError as error:
        raise _lacks(family, error) from error
    embedding = network.embedding
    full = front_end.frames or front_end.frames_of(round(FULL_SECONDS * SAMPLE_RATE))
    _, grid = embedding(torch.empty(1, *front_end.shape_of(full), device="meta"))  # refuses what is too long
    geometry = UpstreamGeometry(
        family,
        json.dumps(config, sort_keys=True, default=str),
        _cls(module, family, network, cls),
        embedding.patch,
        grid,
        network.blocks[0].mlp.fc2.out_features,
        len(network.blocks),
        network.blocks[0].attn.num_heads,
        embedding.num_mels,
        1000 * HOP / SAMPLE_RATE,
        front_end,
        products,
        _code(module),
    )
    network.load_state_dict(_weights(family, network, state_dict), assign=True)
    return UpstreamEncoder(network, geometry).eval()


@functools.cache
def _code(module: ModuleType) -> str:
    """Return a digest of the code that decides what an encoder of a family gives, that of other families aside."""
    used = {getattr(value, "__module__", None) or "" for value in vars(module).values()} | {module.__name__}
    families = sorted(name for name in used if name.startswith(asit.__name__.rpartition(".")[0] + "."))
    return code_version(
        "lib.encoders.upstream", "lib.encoders.frozen", "lib.encoders.network", "lib.encoders.front_ends", *families
    )


def empty_network(family: str, config: Mapping[str, object]) -> Network:
    """Return the network of a family without weights or memory for them, on torch's meta device.

    Raises
    ------
    InputError
        If the configuration lacks a setting or asks for a network that no published checkpoint has.
    """
    module = _module(family)
    try:
        with torch.device("meta"):
            return module.build(dict(config))
    except KeyError as error:
        raise _lacks(family, error) from error


def expected_shapes(family: str, config: Mapping[str, object], layout: int = 0) -> dict[str, tuple[int, ...]]:
    """Return the keys of a checkpoint on which the tokens depend, without prefix, and their shapes.

    Parameters
    ----------
    family : str
        One of `FAMILIES`.
    config : mapping
        See `from_upstream`.
    layout : int
        Which of the family's namings; of EAT and SSLAM 0 is Hugging Face's, 1 fairseq's.
    """
    shapes, names = {}, _module(family).LAYOUTS[layout]
    for key, value in empty_network(family, config).state_dict().items():
        stacked = names(key)
        shapes.update(dict.fromkeys(stacked, (value.shape[0] // len(stacked), *value.shape[1:])))
    return shapes


def _module(family: str) -> ModuleType:
    if family not in FAMILIES:
        raise unknown_name("family of encoders", family, list(FAMILIES))
    return FAMILIES[family]


def _lacks(family: str, error: KeyError) -> InputError:
    return InputError(f"The configuration of '{family}' lacks {error}; take it from the checkpoint or its manifest.")


def _weights(family: str, network: Network, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's weights by its own keys, float32; see `from_upstream` for what is refused."""
    module, ours = FAMILIES[family], network.state_dict()
    readings = [
        (prefix, {key: [prefix + name for name in names(key)] for key in ours})
        for names, prefix in itertools.product(module.LAYOUTS, module.PREFIXES)
    ]
    prefix, theirs = max(readings, key=lambda r: sum(name in state_dict for names in r[1].values() for name in names))
    wanted = {name for names in theirs.values() for name in names}
    missing = [name for names in theirs.values() for name in names if name not in state_dict]
    unexpected = [
        key for key in state_dict if key not in wanted and not re.match(module.DROPPED, key.removeprefix(prefix))
    ]
    nested = [key for key in unexpected if isinstance(state_dict[key], Mapping)]
    if nested:
        raise InputError(
            f"The state dict of '{family}' holds another dictionary under '{nested[0]}'; hand over a flat one."
        )
    wrong = []
    for key, names in theirs.items():
        shape = (ours[key].shape[0] // len(names), *ours[key].shape[1:])
        for name in names:
            found = getattr(state_dict.get(name), "shape", None)
            if name in state_dict and (found is None or tuple(found) != shape):
                wrong.append(f"{name} is {'no tensor' if found is None else tuple(found)} instead of {shape}")
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    if any(problems.values()):
        said = "; ".join(f"{what}: {_listed(keys)}" for what, keys in problems.items() if keys)
        raise InputError(f"The weights do not fit '{family}' with this configuration; {said}.")
    parts = {key: [state_dict[name].detach().float() for name in names] for key, names in theirs.items()}
    return {key: part[0] if len(part) == 1 else torch.cat(part) for key, part in parts.items()}


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:LISTED]) + (f" and {len(keys) - LISTED} more" if len(keys) > LISTED else "")


def _cls(module: ModuleType, family: str, network: Network, cls: str | None) -> str:
    """Return what stands for [cls]; a family without one has no "native"."""
    mode = module.CLS if cls is None else cls
    if mode not in CLS_MODES:
        raise unknown_name("reading of [cls]", mode, CLS_MODES)
    if mode == "native" and not network.has_cls:
        raise InputError(f"'{family}' has no [cls] of its own; choose 'mean', or 'first_token' as the paper seems to.")
    return mode


def _padding(module: ModuleType, padding: str) -> str:
    if padding not in ("upstream", "silence"):
        raise unknown_name("padding", padding, ("upstream", "silence"))
    return module.PADDING if padding == "upstream" else padding


def _statistics(family: str, normalisation: str | tuple[float, float]) -> tuple[float, float] | None:
    known = FAMILIES[family].STATISTICS
    if isinstance(normalisation, str):
        if normalisation not in known:
            raise unknown_name(f"normalisation of '{family}'", normalisation, list(known))
        return known[normalisation]
    if known["audioset"] is None:
        raise InputError(f"'{family}' normalises with statistics of its checkpoint; leave `normalisation` out.")
    mean, std = normalisation
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        raise InputError(f"A normalisation of mean {mean} and standard deviation {std} cannot be; give finite numbers.")
    return float(mean), float(std)


def _frames(module: ModuleType, config: dict, patch: int, frames: int | None, seconds: float | None) -> int | None:
    """Return the length of a clip in frames, or None for any."""
    if frames is not None and seconds is not None:
        raise InputError(f"The length of a clip is given twice ({frames} frames, {seconds} s); keep one of the two.")
    if seconds is not None:
        frames = module.front_end(config, (0.0, 1.0), None, module.PADDING).frames_of(round(seconds * SAMPLE_RATE))
        frames = -(-frames // patch) * patch if module.PADDING == "zeros" else frames
    frames = module.native_frames(config) if frames is None else frames
    if frames is not None and frames < patch:
        raise InputError(f"A clip of {frames} frames holds no patch of {patch}; make it longer.")
    return frames
