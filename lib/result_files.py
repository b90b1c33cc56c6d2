"""The file of a result: rows and what they depend on in its header, tensors, and a checksum of each."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lib.files import write_tensors


def write_result(path: Path, depends: dict, rows: list[dict], tensors: dict[str, torch.Tensor]) -> None:
    """Write a result with its rows, what it depends on and a checksum of each tensor, whole or not at all."""
    sums = {name: tensor_digest(tensor) for name, tensor in tensors.items()}
    # One entry, because safetensors writes several in any order, and the bytes are to repeat.
    header = {"result": json.dumps({"depends": depends, "rows": rows, "sums": sums})}
    write_tensors(path, tensors, header)


def read_result(path: Path, names: Sequence[str] | None = None) -> tuple[dict, dict[str, torch.Tensor]]:
    """Return the header and the tensors of these names, or all; nothing if the file is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["result"])
            tensors = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
        sound = all(tensor_digest(tensor) == header["sums"][name] for name, tensor in tensors.items())
        if sound and {"depends", "rows"} <= set(header):
            return header, tensors
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
        pass
    return {}, {}


def tensor_digest(tensor: torch.Tensor) -> str:
    """Return the checksum of a tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]
