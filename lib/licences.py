"""Under which licences stand the weights and the recordings that embeddings are made of, in words."""

import json
from collections.abc import Iterable

from lib.paths import MANIFESTS

NONE = "NO LICENCE STATED"


def licences(encoders: Iterable[str], datasets: Iterable[str]) -> dict[str, str]:
    """Return "encoder <id>" and "dataset <id>" → its licence in words."""
    words = {f"encoder {name}": licence_of_encoder(name) for name in dict.fromkeys(encoders)}
    return words | {f"dataset {name}": licence_of_dataset(name) for name in dict.fromkeys(datasets)}


def licence_of_encoder(name: str) -> str:
    """Return the licence of an encoder's weights, and what it allows."""
    path = MANIFESTS / "encoders" / f"{name}.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "licence" not in manifest:  # the pocket encoders and the controls
        return "this project's own"
    return f"{manifest['licence']['name'] or NONE}, {manifest['licence']['use']}"


def licence_of_dataset(name: str) -> str:
    """Return the licence of a dataset's recordings."""
    manifest = json.loads((MANIFESTS / f"{name.partition('-fold-')[0]}.json").read_text(encoding="utf-8"))
    if "bank" in manifest:
        own = manifest["bank"] == "synthetic"
        return "this project's own sounds" if own else "recordings under CC0 and CC licences, see data_manifests"
    source = manifest["source"]
    note = f" ({source['licence_note']})" if source.get("licence_note") else ""
    return f"{source.get('licence') or NONE}{note}"
