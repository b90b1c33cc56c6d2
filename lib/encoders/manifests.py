"""The manifests of the nine published checkpoints: what each file is, how it is recognised, where it comes from.

A name may say which file of an encoder is meant, ``beats:iter3``; alone it is the first of its manifest.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from lib.errors import InputError, unknown_name
from lib.paths import MANIFESTS, scratch

MINIATURE = "miniature.json"  # where a miniature lies in the place of the weights (`lib.encoders.miniatures`)
CHECKPOINTS = ("amae", "beats", "beats-plus", "asit", "eat", "eat-plus", "dasheng", "sslam", "sslam-plus")


@dataclass(frozen=True)
class Checkpoint:
    """One file of one encoder.

    Attributes
    ----------
    name : str
        Encoder and file: ``beats:iter3``.
    manifest : dict
        The encoder's manifest: label, family, licence, config, parameters, input, …
    file : dict
        The entry of ``manifest["files"]``: what it is, bytes, checksum, places, …
    """

    name: str
    manifest: dict
    file: dict

    @property
    def label(self) -> str:
        """For people: the encoder, and its file unless it is the first."""
        return self.manifest["label"] + (f" ({self.file['id']})" if ":" in self.asked else "")

    @property
    def asked(self) -> str:
        """The shortest name by which it is found."""
        return self.name.split(":")[0] if self.file is self.manifest["files"][0] else self.name

    @property
    def family(self) -> str:
        """Which implementation builds it."""
        return self.manifest["family"]

    @property
    def path(self) -> Path:
        """Where the file lies once it is fetched."""
        encoder, file = self.name.split(":")
        return scratch() / "checkpoints" / encoder / file / (self.file["file"] or "weights")

    @property
    def lock(self) -> Path:
        """Where the checksum of the first download is kept, with where it came from."""
        return self.path.parent / "lock.json"

    @property
    def size(self) -> int | None:
        """Bytes, exact or nearly; None if nobody recorded it."""
        about = self.file["about_mb"]
        return self.file["bytes"] or (about * 10**6 if about else None)

    @property
    def title(self) -> str:
        """Label, file and size for messages."""
        name = f"'{self.file['file']}', " if self.file["file"] else ""
        return f"{self.label} ({name}{f'{self.size / 1e6:.0f} MB' if self.size else 'size not recorded'})"


def find_checkpoint(name: str) -> Checkpoint:
    """Return what the manifest says of `name`, an encoder of `CHECKPOINTS` or ``encoder:file``.

    Raises
    ------
    InputError
        If there is no such encoder or file, or the manifest is missing or damaged.
    """
    encoder, _, wanted = name.partition(":")
    if encoder not in CHECKPOINTS:
        raise unknown_name("checkpoint", name, CHECKPOINTS)
    path = MANIFESTS / "encoders" / f"{encoder}.json"
    try:
        manifest = _miniature_of(encoder, json.loads(path.read_text(encoding="utf-8")))
        files = {entry["id"]: entry for entry in manifest["files"]}
        chosen = wanted or next(iter(files))
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise InputError(
            f"The manifest '{path.name}' is missing or damaged ({error!r}); restore it with git."
        ) from error
    if chosen not in files:
        raise unknown_name(f"file of {manifest['label']}", wanted, list(files))
    return Checkpoint(f"{encoder}:{chosen}", manifest, files[chosen])


def _miniature_of(encoder: str, manifest: dict) -> dict:
    """Return the manifest of the miniature that lies in the place of the weights, or else the encoder's own."""
    path = scratch() / "checkpoints" / encoder / MINIATURE
    if not path.is_file():
        return manifest
    said = json.loads(path.read_text(encoding="utf-8"))
    first, *others = manifest["files"]
    files = [first | said["file"], *others]
    return manifest | {"label": f"{manifest['label']} (miniature)", "config": said["config"], "files": files}


def how_to_get(checkpoint: Checkpoint) -> str:
    """Return how a person gets the file without this program."""
    pages = []
    for place in checkpoint.file["places"]:
        if place["kind"] == "hub":
            kind = "datasets/" if place["repo_type"] == "dataset" else ""
            pages.append(f"https://huggingface.co/{kind}{place['repo']}")
        else:
            pages.append(place["url"] if place["kind"] == "url" else f"{place['page']} ({place['how']})")
    return (
        f"get it from {' or '.join(pages)} on a machine that can, and take it in with `make checkpoints "
        f"ENCODERS={checkpoint.asked} ENCODER_FILE=path`, or put it at '{checkpoint.path}'"
    )
