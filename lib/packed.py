"""A trained protobin as a file in which each number of a prototype is one bit, and back, without a change of a score.

K = J·C prototypes in all, D token dimension, C classes. What shrinks is the prototypes, 32 times against fp32 (less
where 8 does not divide D: a prototype begins with a byte of its own). The classifier (C, K) stays as it is. The file
holds what scoring needs: who wants to train on needs the latent floats, and they are gone.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lib.errors import InputError, unknown_name
from lib.files import write_tensors
from lib.heads import Protobin, build_head
from lib.provenance import code_version

ClassifierDtype = Literal["float32", "bfloat16", "float16"]
FORMAT, VERSION = "packed protobin", 1
ABOUT = "unmute"  # the one key of the metadata: safetensors writes several in any order, and files should repeat
SIZES = ("dim", "num_classes", "prototypes_per_class")

# ---- bits ----------------------------------------------------------------------------------------------------


def pack_signs(latent: Tensor) -> Tensor:
    """Pack the signs of latent prototypes, eight a byte; sign(0) = +1, as in Eq. 2.

    Parameters
    ----------
    latent : torch.Tensor
        Float ``(K, D)``.

    Returns
    -------
    torch.Tensor
        uint8 ``(K, ⌈D/8⌉)``: 1 is +1, 0 is −1, the first number in the highest bit, zeros after the last.
    """
    positive = (latent.detach() >= 0).cpu().numpy()  # the condition of lib.pooling.sign
    return torch.from_numpy(np.packbits(positive, axis=1))  # (K, D) → (K, ⌈D/8⌉)


def unpack_signs(bits: Tensor, dim: int) -> Tensor:
    """Return what `pack_signs` packed as ±1.0, fp32 ``(K, D)``; `bits` is uint8 ``(K, ⌈D/8⌉)`` on the CPU."""
    positive = torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, count=dim))  # (K, ⌈D/8⌉) → (K, D)
    return positive.float().mul_(2).sub_(1)


# ---- export --------------------------------------------------------------------------------------------------


def export_packed(head: Protobin, path: Path, classifier: ClassifierDtype = "float32") -> None:
    """Write a trained protobin with packed prototypes as a safetensors file, whole or not at all.

    Parameters
    ----------
    head : Protobin
        In fp32, on any device; it is left as it is.
    path : Path
        The file.
    classifier : {"float32", "bfloat16", "float16"}
        How the classifier's weights are stored. With "float32" the scores of `load_packed` are those of `head`, bit
        for bit. The other two halve what is most of the file where classes are many, and round: scores change.

    Raises
    ------
    InputError
        If the head is no protobin, is not in fp32 or holds NaN or infinity, for an unknown `classifier` or one that
        cannot hold the weights, or if the file cannot be written.
    """
    _check(head)
    if classifier not in get_args(ClassifierDtype):
        raise unknown_name("dtype of a packed classifier", str(classifier), list(get_args(ClassifierDtype)))
    weight = head.classifier.weight.detach().cpu().to(getattr(torch, classifier))  # (C, K)
    if not weight.isfinite().all():
        raise InputError(f"The classifier has weights too large for {classifier}; export it in float32 or bfloat16.")
    tensors = {
        "prototypes": pack_signs(head.prototypes),  # (K, ⌈D/8⌉)
        "classifier.weight": weight,
        "classifier.bias": head.classifier.bias.detach().cpu(),  # (C,), C numbers: nothing to gain
    }
    classes, dim = head.classifier.out_features, head.dim
    sizes = dict(zip(SIZES, (dim, classes, len(head.prototypes) // classes), strict=True)) | {"grid": list(head.grid)}
    about = {
        "format": FORMAT,
        "version": VERSION,
        **sizes,
        "sha256": _checksum(sizes, tensors),
        "library": code_version("lib.packed", "lib.heads", "lib.pooling"),  # which wrote it; a reader need not match
        "torch": torch.__version__.split("+")[0],
    }
    write_tensors(path, tensors, {ABOUT: json.dumps(about)})


def _check(head: Protobin) -> None:
    if type(head) is not Protobin:  # a subclass may score in another way
        name = type(head).__name__.lower()
        raise InputError(f"Only a protobin has prototypes of one bit each, this is a {name}; save its state instead.")
    for name, parameter in head.named_parameters():
        if parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise InputError(f"The head's {name} is {kind}, so no packed file keeps its scores; export head.float().")
        if not parameter.isfinite().all():
            raise InputError(f"The head's {name} holds NaN or infinity; train it again with a lower learning rate.")


def _checksum(sizes: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Digest everything that decides a score, so that no flipped bit passes for a sign."""
    found = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


# ---- load ----------------------------------------------------------------------------------------------------


def load_packed(path: Path) -> Protobin:
    """Read a packed protobin: a frozen head whose scores are those of the exported one.

    Its prototypes are ±1.0 in fp32, so it computes as the trained head does from its own signs onward, and takes as
    much working memory; what is small is the file. A classifier stored in 16 bits computes in fp32.

    Parameters
    ----------
    path : Path
        A file of `export_packed`.

    Returns
    -------
    Protobin
        On the CPU, in evaluation mode, without gradients.

    Raises
    ------
    InputError
        If the file is missing, damaged, none of these, or of a newer version.
    """
    about, tensors = _read(path)
    sizes = {name: about.get(name) for name in (*SIZES, "grid")}
    if not _fits(sizes, tensors):
        raise InputError(f"The tensors in '{path}' do not have the sizes that the file names; export the head again.")
    if about.get("sha256") != _checksum(sizes, tensors):
        raise InputError(f"'{path}' is damaged: its checksum is not that of its content; export the head again.")
    head = build_head("protobin", **sizes)
    tensors["prototypes"] = unpack_signs(tensors["prototypes"], head.dim)  # (K, D)
    # Copied into the head's own memory: a file's tensors lie at any address, and products may round by address.
    head.load_state_dict(tensors)
    return head.eval().requires_grad_(False)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a packed file says of itself, and its tensors."""
    if not path.is_file():
        raise InputError(f"There is no packed head '{path}'; lib.packed.export_packed writes one.")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"'{path}' is cut off or no safetensors file ({reason}); export the head again.") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"'{path}' is no packed protobin; lib.packed.export_packed writes one.")
    version = about.get("version")
    if version != VERSION:
        raise InputError(f"'{path}' has version {version}, this code reads {VERSION}; update it, or export again.")
    return about, tensors


def _fits(sizes: dict[str, Any], tensors: dict[str, Tensor]) -> bool:
    """Whether the sizes are whole numbers from one up, and the tensors those of such a head."""
    grid = sizes["grid"] if isinstance(sizes["grid"], list) and len(sizes["grid"]) == 2 else [0]
    if not all(type(size) is int and size >= 1 for size in (*(sizes[name] for name in SIZES), *grid)):
        return False
    dim, classes, per_class = (sizes[name] for name in SIZES)
    prototypes = classes * per_class
    weights = {getattr(torch, name) for name in get_args(ClassifierDtype)}
    wanted = {
        "prototypes": ({torch.uint8}, (prototypes, -(-dim // 8))),
        "classifier.weight": (weights, (classes, prototypes)),
        "classifier.bias": ({torch.float32}, (classes,)),
    }
    return set(tensors) == set(wanted) and all(
        tensors[name].dtype in dtypes and tensors[name].shape == shape for name, (dtypes, shape) in wanted.items()
    )
