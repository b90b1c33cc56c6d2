"""Is a store the one that was asked for: one that another machine has made, or is to make."""

import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib.data.datasets import load_dataset
from lib.errors import InputError
from lib.store import build_store, store_code, store_folder

# What a store depends on, for people; the keys are those of `lib.store.build_store`.
WORDS = {
    "manifest": "the manifest of the dataset",
    "clips": "the number of clips",
    "recordings": "the recordings",
    "data_code": "the code that makes the clips",
    "weights": "the encoder's weights",
    "geometry": "the encoder's front end",
    "encoder_code": "the code of the encoders",
    "torch": "the release of PyTorch",
    "store_code": "the code of the store",
}


def depends_of(clips: dict, encoder: dict) -> dict:
    """Return what a folder of the store depends on: a dataset's version of its clips, and an encoder's."""
    return {**clips, **encoder, "store_code": store_code()}


def read_facts(folder: Path) -> dict:
    """Return the index of a folder of the store, or what stands for one where it is missing or damaged."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if isinstance(index["depends"], dict) and isinstance(index["shards"], dict) and index["complete"] is True:
            return index
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"complete": False, "depends": {}, "shards": {}}


def differing(found: dict, wanted: dict) -> str:
    """Return in words in what a store differs from the one that is wanted; '' if it is that."""
    other = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    return ", ".join(WORDS.get(name, name) for name in other)


def check_same_clips(dataset: str, clips: Sequence[dict]) -> None:
    """See that this machine's copy of a dataset is that of who asks: labels are read here, and perhaps audio.

    Parameters
    ----------
    dataset : str
        Id.
    clips : sequence of dict
        The versions that who asks has of its clips.

    Raises
    ------
    InputError
        If a split or view differs, or there is no copy here.
    """
    data = load_dataset(dataset)
    for one in clips:
        data.check_count(one["split"], one["clips"])
        if other := differing(data.version(one["split"], one["clips"], one.get("view", 0)), one):
            raise InputError(
                f"The copy of '{dataset}' on {platform.node() or 'an unnamed machine'} is another one than that of who "
                f"asks: split '{one['split']}' differs in {other}; give both the same copy in UNMUTE_DATA and the same "
                "UNMUTE_INCOMPLETE."
            )


def with_same_clips(dataset: str, clips: Sequence[dict], function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(*arguments)``, once this machine's copy was found to be that of who asks."""
    check_same_clips(dataset, clips)
    return function(*arguments)


def complete_here(encoder: str, dataset: str, counts: dict[str, int], clips: Sequence[dict], version: dict) -> None:
    """Make a store complete on the disk of this machine, once for all its processes, exactly as it was asked for.

    Parameters
    ----------
    encoder, dataset, counts
        As for `lib.store.build_store`.
    clips : sequence of dict
        The versions of the clips that the store must be made of: split by split, view by view.
    version : dict
        That of the encoder.

    Raises
    ------
    InputError
        If this machine makes another store: of other recordings, say, or of other weights.
    """
    from huggingface_hub.utils import WeakFileLock  # long to import, and wanted on other machines only

    asked = (encoder, dataset, counts, clips, version)
    if not other_than(*asked):
        return
    place = store_folder(encoder, dataset, *next(iter(counts.items()))).parents[2]  # …/store/<encoder>/<dataset>
    place.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(place / ".building"):  # the first process builds, the others find it done
        if other_than(*asked):
            build_store([encoder], dataset, counts, workers=1)
        if other := other_than(*asked):
            raise InputError(
                f"A worker's machine makes other embeddings of '{encoder}' on {dataset} than are asked of it: they "
                f"differ in {other}; bring both machines to the same state, or let them share UNMUTE_CACHE."
            )


def other_than(encoder: str, dataset: str, counts: dict[str, int], clips: Sequence[dict], version: dict) -> str:
    """Return in what a store differs from that of `complete_here`; '' if its indexes say that it is that."""
    for one in clips:
        folder = store_folder(encoder, dataset, one["split"], counts[one["split"]], one.get("view", 0))
        if words := differing(read_facts(folder)["depends"], depends_of(one, version)):
            return words
    return ""
