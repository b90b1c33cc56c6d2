"""The nine published checkpoints: their files fetched, checked and loaded.

``python -m lib.encoders.checkpoints [names]`` (``make checkpoints ENCODERS=eat,beats:iter3``) fetches those named, or
the nine. Nobody's code is run: weights are read as tensors only.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from huggingface_hub.utils import WeakFileLock
from torch import Tensor, nn

from lib.encoders.containers import read_container
from lib.encoders.downloads import Remote, download, offline, on_hub
from lib.encoders.manifests import CHECKPOINTS, Checkpoint, find_checkpoint, how_to_get
from lib.errors import InputError
from lib.files import atomic, sha256, write_json


def fetch_checkpoint(name: str) -> Path:
    """Return the file of a checkpoint, fetched if it is not here, and checked before anything opens it.

    ``ENCODER_FILE=path`` names a file that is on disk already: it is checked the same way and copied to its place.
    ``HF_HUB_OFFLINE=1`` forbids downloads. Size and SHA-256 must be those of the manifest. Where the manifest knows no
    checksum, that of the first file that could be built into its encoder is recorded in ``lock.json`` beside it, with
    its revision, and holds from then on.

    Parameters
    ----------
    name : str
        An encoder of `CHECKPOINTS`, or ``encoder:file``.

    Raises
    ------
    InputError
        If the file cannot be had, or is not what it must be; a download that is wrong is deleted, nothing is recorded.
    """
    checkpoint, given = find_checkpoint(name), os.environ.get("ENCODER_FILE")
    path = checkpoint.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.parent / ".fetching"):  # who comes second finds the file
            if given:
                _take_in(checkpoint, Path(given).expanduser())
            elif path.is_file():
                _accept(checkpoint, path, origin="found in place")
            else:
                _fetch(checkpoint)
    except OSError as error:
        raise InputError(
            f"'{path.parent}' cannot be used ({error.strerror or error}); mend that, or point UNMUTE_CACHE elsewhere."
        ) from error
    return path


def present_checkpoint(name: str) -> Path:
    """Return the file of a checkpoint that was fetched, checked again; nothing is downloaded.

    Raises
    ------
    InputError
        If it is not here, or is not what it must be.
    """
    checkpoint = find_checkpoint(name)
    if not checkpoint.path.is_file():
        raise InputError(
            f"The weights of {checkpoint.title} are not here: `make checkpoints ENCODERS={checkpoint.asked}` fetches "
            f"and checks them; or {how_to_get(checkpoint)}."
        )
    _accept(checkpoint, checkpoint.path, origin="found in place")
    return checkpoint.path


def _take_in(checkpoint: Checkpoint, given: Path) -> None:
    """Copy a file from elsewhere on this machine to its place, once it is known to be the right one."""
    if not given.is_file():
        raise InputError(f"ENCODER_FILE names '{given}' for {checkpoint.label}, but there is no such file.")
    facts = _checked(checkpoint, given)
    if not checkpoint.path.is_file() or sha256(checkpoint.path) != facts["sha256"]:
        with atomic(checkpoint.path) as temporary:
            shutil.copyfile(given, temporary)
    _record(checkpoint, facts, origin="ENCODER_FILE")


def _fetch(checkpoint: Checkpoint) -> None:
    """Download from the first place that has the right file; an error that says how each failed if none has."""
    places = [place for place in checkpoint.file["places"] if place["kind"] != "by hand"]
    if not places:
        raise InputError(f"{checkpoint.title} is not offered for download by program: {how_to_get(checkpoint)}.")
    if offline():
        raise InputError(
            f"{checkpoint.title} is not here and HF_HUB_OFFLINE forbids to fetch it: {how_to_get(checkpoint)}."
        )
    failures = []
    for place in places:
        try:
            remote = _look_up(checkpoint, place)
            download(remote, checkpoint.path)
        except Exception as error:  # of the hub's client, of HTTP, of the disk
            failures.append(f"{place.get('repo') or place['url']}: {_brief(error)}")
            continue
        try:
            return _accept(
                checkpoint, checkpoint.path, origin=remote.origin, repo=place.get("repo"), revision=remote.revision
            )
        except InputError as error:
            checkpoint.path.unlink()
            failures.append(f"{remote.origin}: {_brief(error)}")
    raise InputError(
        f"{checkpoint.title} could not be fetched ({'; '.join(failures)}): nothing was kept as its file; try again, or "
        f"{how_to_get(checkpoint)}."
    )


def _look_up(checkpoint: Checkpoint, place: dict) -> Remote:
    """Return what the place offers; what was recorded at the first download holds where the manifest knows nothing."""
    file, recorded = checkpoint.file, _recorded(checkpoint)
    checksum = file["sha256"] or recorded.get("sha256")
    if place["kind"] == "url":
        return Remote(place["url"], place["url"], file["bytes"], checksum)
    revision = place["revision"] or (recorded.get("revision") if recorded.get("repo") == place["repo"] else None)
    return on_hub(place["repo"], place["repo_type"], revision, place["file"], file["bytes"], checksum)


def _accept(checkpoint: Checkpoint, path: Path, **origin: str | None) -> None:
    """Hold a file against the manifest, or what was recorded; record it if it is the first."""
    _record(checkpoint, _checked(checkpoint, path), **origin)


def _checked(checkpoint: Checkpoint, path: Path) -> dict:
    """Return name, size and checksum of a file that is the one of the manifest, or what was recorded, or fits."""
    size, expected = path.stat().st_size, checkpoint.file["bytes"]
    if expected and size != expected:
        raise InputError(
            f"'{path.name}' of {checkpoint.label} has {size:,} bytes and not {expected:,}: it is truncated or another "
            f"file; {_again(checkpoint, path)}."
        )
    recorded, checksum = _recorded(checkpoint), sha256(path)
    known = checkpoint.file["sha256"] or recorded.get("sha256")
    if known and checksum != known:
        source = "the manifest's" if checkpoint.file["sha256"] else f"the one recorded in '{checkpoint.lock}'"
        raise InputError(
            f"'{path.name}' of {checkpoint.label} is not the file it must be: its SHA-256 is {checksum[:12]}… and not "
            f"{source}, {known[:12]}…; {_again(checkpoint, path)}."
        )
    if not known:
        _try_out(checkpoint, path)
    return {"file": path.name, "bytes": size, "sha256": checksum}


def _try_out(checkpoint: Checkpoint, path: Path) -> None:
    """Do with a file of unknown checksum the least that it must stand: its tensors become the encoder, and are enough.

    A base version's weights would fit its fine-tuned one too, whose file has a classifier more.
    """
    weights, found = read_container(path, checkpoint.family)
    floats, fewest = sum(value.numel() for value in weights.values()), checkpoint.file["floats"] or 0
    if floats < fewest:
        raise InputError(
            f"'{path.name}' holds {floats:,} numbers, {checkpoint.label} has {fewest:,}: it is another encoder's file; "
            f"{_again(checkpoint, path)}."
        )
    build(checkpoint, weights, found)


def _record(checkpoint: Checkpoint, facts: dict, **origin: str | None) -> None:
    """Write down what the first file was."""
    if not _recorded(checkpoint):
        write_json(checkpoint.lock, facts | origin)


def _recorded(checkpoint: Checkpoint) -> dict:
    """Return what the lock file says; empty if there is none."""
    if not checkpoint.lock.is_file():
        return {}
    try:
        recorded = json.loads(checkpoint.lock.read_text(encoding="utf-8"))
        if len(recorded["sha256"]) == 64:
            return recorded
        raise ValueError("no checksum")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{checkpoint.lock}' is damaged; delete it if you trust the file beside it.") from error


def _again(checkpoint: Checkpoint, path: Path) -> str:
    """Return what to do about a file that is not the right one."""
    if path == checkpoint.path and checkpoint.file["sha256"]:
        return "delete it and fetch it again"
    if path == checkpoint.path:
        return f"delete it and fetch it again, and '{checkpoint.lock.name}' too if another file is meant from now on"
    names = [f"{checkpoint.name.split(':')[0]}:{entry['id']}" for entry in checkpoint.manifest["files"]]
    return f"name the right one with ENCODER_FILE, or take it in under the name of what it is ({', '.join(names)})"


def _brief(error: Exception) -> str:
    """Return what went wrong in a line, without advice about a file that is gone; of a foreign error, its type too."""
    if isinstance(error, InputError):
        return str(error).split("; delete it")[0].rstrip(".")
    line = (str(error).strip().split("\n")[0] or "no reason given")[:200].rstrip(".")
    return f"{type(error).__name__}: {line}"


def load_checkpoint(name: str, **options: object) -> nn.Module:
    """Return the frozen encoder of a checkpoint, fetched if need be, built from its original key names.

    Parameters
    ----------
    name : str
        An encoder of `CHECKPOINTS`, or ``encoder:file``.
    **options
        For `lib.encoders.upstream.from_upstream`: cls, padding, clip length, normalisation.

    Raises
    ------
    InputError
        If the file cannot be had, is damaged, holds other things than tensors, or does not fit the network.
    """
    checkpoint = find_checkpoint(name)
    return build(checkpoint, *read_container(fetch_checkpoint(name), checkpoint.family), **options)


def load_present(name: str, **options: object) -> nn.Module:
    """Return the frozen encoder of a checkpoint that was fetched; as `load_checkpoint`, but nothing is downloaded."""
    checkpoint = find_checkpoint(name)
    return build(checkpoint, *read_container(present_checkpoint(name), checkpoint.family), **options)


def build(checkpoint: Checkpoint, weights: dict[str, Tensor], found: dict, **options: object) -> nn.Module:
    """Return the encoder made of `weights`; of BEATs, what the file's own `cfg` says comes before the manifest."""
    from lib.encoders.upstream import from_upstream

    config = checkpoint.manifest["config"] | (found if checkpoint.family == "beats" else {})
    return from_upstream(checkpoint.family, weights, config, **options).eval().requires_grad_(False)


def main() -> None:
    """Fetch the checkpoints that are named, or the nine, saying size and licence before each."""
    names, failed = [name for argument in sys.argv[1:] for name in argument.split(",") if name], 0
    names = names or list(CHECKPOINTS)
    if os.environ.get("ENCODER_FILE") and len(names) != 1:
        sys.exit("make checkpoints: ENCODER_FILE names one file; say which checkpoint it is with ENCODERS=….")
    for name in names:
        try:
            checkpoint = find_checkpoint(name)
            licence = checkpoint.manifest["licence"]
            print(f"{checkpoint.title}: licence {licence['name'] or 'not stated'}; {licence['use']}", flush=True)
            if licence["conflict"]:
                print(f"  {licence['conflict']}", flush=True)
            print(f"  complete: {fetch_checkpoint(name)}", flush=True)
        except InputError as error:
            failed += 1
            print(f"  {error}", file=sys.stderr, flush=True)
    if failed:
        rest = "; the others are complete" if failed < len(names) else ""
        sys.exit(f"{failed} of {len(names)} checkpoints could not be fetched{rest}.")


if __name__ == "__main__":
    main()
