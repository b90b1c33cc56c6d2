"""Weight files as they are published, read without running anybody's code: safetensors, or a pickle of tensors only.

A pickle can hold any object, and building that object can run any program. Here it may hold tensors and plain values;
one that holds anything else is refused before it is read, by the list of the objects that it names.
"""

import json
import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from lib.errors import InputError, unknown_name

FAMILIES = ("audiomae", "asit", "beats", "eat", "sslam", "dasheng")
TEACHER = "_ema"  # fairseq keeps the teacher as a dict among the tensors of the student
READABLE = {  # where the same weights lie in a file that can be read
    "audiomae": "pytorch_model.bin of gaunernst/vit_base_patch16_1024_128.audiomae_as2m",
    "asit": "ASIT_ssl.pt of the release v0.0.1 of fschmid56/PretrainedSED",
    "beats": "a BEATs file whose SHA-256 is in data_manifests/encoders",
    "eat": "model.safetensors of worstchan/EAT-base_epoch30_pretrain, or …_finetune_AS2M for EAT+",
    "sslam": "model.safetensors of ta012/SSLAM_pretrain, or ta012/SSLAM_AS2M_Finetuned for SSLAM+",
    "dasheng": "model.safetensors of mispeech/dasheng-base",
}


def read_container(path: str | Path, family: str) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors of a weight file under their original names, and the config that lies beside them.

    Parameters
    ----------
    path : str or Path
        A safetensors file, or what ``torch.save`` made of: the tensors by name; ``{"model": tensors}`` with or without
        ``cfg`` (BEATs, fairseq) or ``config`` (Dasheng); ``{"student": …, "teacher": …}`` (ASiT), of which the teacher
        is taken. fairseq's nested teacher ``_ema`` is left out. No key is renamed.
    family : {"audiomae", "asit", "beats", "eat", "sslam", "dasheng"}
        Whose file it is; decides what an error advises.

    Returns
    -------
    tensors : dict of str to torch.Tensor
        On the CPU, detached, in the file's precision.
    config : dict
        The ``cfg`` or ``config`` of the file where it is a plain dict, else empty.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind, or holds other objects than tensors and plain values.
    """
    if family not in FAMILIES:
        raise unknown_name("encoder family", family, FAMILIES)
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no weight file '{path}'; check the path, or fetch it again.")
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{":
        return _read_safetensors(path), {}
    if start[:2] == b"PK" or start[:1] == b"\x80":  # a zip archive, or (before torch 1.6) a bare pickle
        return _unwrapped(_read_pickle(path, family), path)
    found = (
        "a web page" if start.lstrip()[:1] == b"<" else "a Git LFS pointer" if start[:7] == b"version" else "unknown"
    )
    raise InputError(
        f"'{path.name}' is neither a safetensors file nor one of torch.save (what it holds is {found}); delete it and "
        "fetch it again."
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path, family: str) -> object:
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        with path.open("rb") as file:  # handed over open: of a name in .safetensors torch would think that it is one
            strangers = sorted(get_unsafe_globals_in_checkpoint(file)) if zipped else []
    except Exception as error:  # whatever a damaged file makes a reader say
        raise _damaged(path, error) from error
    if strangers:
        raise _refused(path, family, strangers)
    try:
        with path.open("rb") as file:
            return torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        named = re.findall(r"(?:GLOBAL|class|function|type) ([\w.]+\.[\w.]+)", str(error))
        if named:
            raise _refused(path, family, named[:1]) from None  # the original's advice is to switch the check off
        raise _damaged(path, error) from None
    except Exception as error:
        raise _damaged(path, error) from error


def _refused(path: Path, family: str, strangers: list[str]) -> InputError:
    listed = ", ".join(f"'{name}'" for name in strangers[:5]) + (" and others" if len(strangers) > 5 else "")
    return InputError(
        f"'{path.name}' is a pickle with other objects than tensors ({listed}), which would have to run code to be "
        f"built: it was refused and nothing of it was executed; use {READABLE[family]}, or convert it once in a "
        "sandbox without network or files to lose (torch.load there, keep only the dict of tensors, write it with "
        "safetensors.torch.save_file) and name the result with ENCODER_FILE=path."
    )


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).split("\n")[0][:160]
    return InputError(f"'{path.name}' is truncated or damaged ({reason}); delete it and fetch it again.")


def _unwrapped(content: object, path: Path) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors and the config out of what a pickle held."""
    config: dict = {}
    if isinstance(content, dict) and isinstance(content.get("teacher"), dict):
        content = content["teacher"]
    elif isinstance(content, dict) and isinstance(content.get("student"), dict):
        content = content["student"]
    elif isinstance(content, dict) and isinstance(content.get("model"), dict):
        config = next((content[key] for key in ("cfg", "config") if isinstance(content.get(key), dict)), {})
        content = content["model"]
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"'{path.name}' holds no dict of tensors but {type(content).__name__}; is it the file of the weights?"
        )
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor) and key != TEACHER]
    if others:
        raise InputError(
            f"'{path.name}' holds other things than tensors among its weights: {', '.join(others[:5])}"
            f"{' …' if len(others) > 5 else ''}; is it the file of the weights?"
        )
    return {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}, _plain(config)


def _plain(config: dict) -> dict:
    """Return a config as JSON would keep it, so that two files which say the same are the same."""
    return json.loads(json.dumps(config, default=str))
