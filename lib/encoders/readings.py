"""The published encoders by name: the nine with their defaults, and other readings of what the paper leaves open.

A reading is a checkpoint with options of `lib.encoders.upstream.from_upstream`, under a name of its own, so that its
embeddings lie beside those of the defaults and not in their place. Those of ``data_manifests/readings.json`` are known
in every process; to add one, add an entry there: ``"eat-5s": {"checkpoint": "eat", "options": {"seconds": 5}}``.
What stands for [cls] needs no reading: `lib.store.load_embeddings` and cells take ``cls_mode="first_token"``.
"""

import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from lib.encoders.manifests import CHECKPOINTS, find_checkpoint
from lib.errors import InputError, unknown_name
from lib.paths import MANIFESTS

OPTIONS = ("cls", "padding", "frames", "seconds", "normalisation", "products")


@dataclass(frozen=True)
class Reading:
    """A published encoder under a name.

    Attributes
    ----------
    checkpoint : str
        An encoder of `CHECKPOINTS`, or ``encoder:file``.
    label : str
        For figures; the checkpoint's own by default.
    options : dict
        For `lib.encoders.upstream.from_upstream`.
    why : str
        What it is there for.
    """

    checkpoint: str
    label: str = ""
    options: dict = field(default_factory=dict)
    why: str = ""


def readings() -> dict[str, Reading]:
    """Return every published encoder by name: the nine, then the readings of ``data_manifests/readings.json``.

    Raises
    ------
    InputError
        If that file is damaged, or an entry has a bad or taken name, an unknown checkpoint, field or option.
    """
    path = MANIFESTS / "readings.json"
    found = {name: Reading(name) for name in CHECKPOINTS}
    try:
        entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        added = {name: Reading(**entry) for name, entry in entries.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"'{path.name}' is damaged ({error}); restore it with git.") from error
    for name, reading in added.items():
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or name in found:
            raise InputError(
                f"'{path.name}' has an entry '{name}': a name has lower-case letters, digits and single hyphens, and "
                "is not that of a checkpoint; choose another."
            )
        find_checkpoint(reading.checkpoint)
        for option in reading.options:
            if option not in OPTIONS:
                raise unknown_name(f"option of '{name}' in '{path.name}'", option, OPTIONS)
    return found | added


def entries(taken: tuple[str, ...]) -> dict[str, dict]:
    """Return the fields of an `EncoderEntry` for every published encoder; nothing is loaded or fetched.

    Raises
    ------
    InputError
        As `readings`, or if a name is among those taken already.
    """
    fields = {}
    for name, reading in readings().items():
        if name in taken:
            raise InputError(f"'readings.json' has an entry '{name}', which is another encoder's name; choose another.")
        manifest = find_checkpoint(reading.checkpoint).manifest
        fields[name] = {
            "label": reading.label or manifest["label"],
            "kind": "supervised" if manifest["base"] else "base",
            "load": functools.partial(load_reading, name),
            "base": manifest["base"] or "",
            "cls": reading.options.get("cls") or ("native" if manifest["native_cls"] else "mean"),
        }
    return fields


def load_reading(name: str) -> nn.Module:
    """Return a published encoder from its fetched file, which is checked first; nothing is downloaded.

    In one process the same file with the same options is read once.

    Raises
    ------
    InputError
        If the name is unknown, the file is not here (with the command that fetches it), or is not what it must be.
    """
    known = readings()
    if name not in known:
        raise unknown_name("published encoder", name, list(known))
    reading = known[name]
    path = find_checkpoint(reading.checkpoint).path
    state = path.stat() if path.is_file() else None
    stamp = None if state is None else (state.st_mtime_ns, state.st_size)
    return _loaded(reading.checkpoint, path, stamp, json.dumps(reading.options, sort_keys=True))


@functools.lru_cache(maxsize=1)  # one is hundreds of megabytes
def _loaded(checkpoint: str, path: Path, stamp: tuple | None, options: str) -> nn.Module:
    from lib.encoders.checkpoints import load_present  # its libraries are slow to import, and rarely needed

    return load_present(checkpoint, **json.loads(options))
