"""Files written whole or not at all, and their checksums."""

import contextlib
import errno
import gzip
import hashlib
import json
import os
import pickle
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from lib.errors import InputError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there becomes `path` at the end, or vanishes.

    Raises
    ------
    InputError
        If the disk is full or the folder cannot be written; nothing half-written stays behind.
    """
    temporary = path.with_name(f".{path.name}.{_me()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _explained(error: OSError, path: Path) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(
            f"The disk is full while writing '{path}'; free some space or point UNMUTE_CACHE to another disk, then "
            "run again: what is finished is kept."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
        return InputError(
            f"'{path.parent}' cannot be written ({error.strerror}); make it writable, or point UNMUTE_CACHE "
            "(for figures UNMUTE_FIGURES) to another folder."
        )
    return InputError(f"'{path}' could not be written ({error.strerror or error}); run again once that is mended.")


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def write_gzipped(path: Path, text: str) -> None:
    """Write `text` (UTF-8), compressed, to `path`, whole or not at all; the same text gives the same bytes."""
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all."""
    with atomic(path) as temporary:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)
            temporary.chmod(0o644)  # the writer leaves its files to their owner alone
        except Exception as error:  # the writer reports a full disk in an exception of its own
            if "No space left" in str(error) or "os error 28" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device") from error
            raise


def write_state(path: Path, state: dict) -> None:
    """Write a checkpoint for `read_state`, whole or not at all."""
    with atomic(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # the writer's own; it does not tell what the system said
            full = shutil.disk_usage(path.parent).free < 2**20
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error


def read_state(path: Path) -> dict:
    """Return a checkpoint of tensors and plain values; one that is missing or damaged is empty, and said so."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        return {}
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError):
        state = None
    if not isinstance(state, dict):
        print(f"The checkpoint '{path.name}' is damaged: this training starts anew")
        return {}
    return state


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: object) -> str:
    """Return 16 hexadecimal digits that identify a JSON-able object."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def temporary_folder(inside: Path, name: str) -> Iterator[Path]:
    """Yield a new folder that vanishes at the end, or with the next `sweep_temporaries` if this process is killed.

    Raises
    ------
    InputError
        If it cannot be made.
    """
    folder = inside / f".{name}.{_me()}.tmp"
    shutil.rmtree(folder, ignore_errors=True)  # of a process long ago that had the same id
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise _explained(error, folder) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed processes of this machine left half-written below `folder`; those of the living stay."""
    for leftover in list(folder.rglob(".*.tmp")):
        host, _, pid = leftover.name.rsplit(".", 2)[-2].rpartition("-")
        if host == _host() and pid.isdigit() and not _alive(int(pid)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _me() -> str:
    """Return a name of this process that no other has, on no machine that may share the disk."""
    return f"{_host()}-{os.getpid()}"


def _host() -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())


def _alive(pid: int) -> bool:
    """Return whether a process is running; one that ended but was not waited for (a zombie) is not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # someone else's process, or a system without /proc
        return True
    return state != "Z"
