"""Is this copy the published set? What lies on disk is counted against the manifest, by split, with examples."""

import importlib
import json
from collections import Counter
from pathlib import Path

from lib.data.official import LOADERS, Record
from lib.data.splits import Parts, before_reserving
from lib.errors import InputError

EXAMPLES = 3
MINIATURE = "miniature.json"  # in the folder of a copy that was made by lib.data.miniatures


def classes_of(name: str, folder: Path, manifest: dict) -> list[str]:
    """Return the classes of a set: those of its manifest or, where that has none, those that its loader finds."""
    if manifest["classes"] is not None:
        return manifest["classes"]
    return importlib.import_module(LOADERS[name]).classes(folder, manifest)


def miniature_of(folder: Path, manifest: dict) -> dict:
    """Return the manifest of a copy; a miniature has counts of its own, and says in its title what it is.

    Raises
    ------
    InputError
        If the folder says that it is a miniature of another set, or says it badly.
    """
    path = folder / MINIATURE
    if not path.is_file():
        return manifest
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        name, sizes, seed = said["name"], said["sizes"], said["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"'{path}' cannot be read ({error}); delete the folder and make the miniature again."
        ) from error
    if name != manifest["name"]:
        raise InputError(f"'{folder}' holds a miniature of '{name}', not of '{manifest['name']}'; move it.")
    changes = {key: manifest[key] | value for key, value in said.get("changes", {}).items()}
    return manifest | changes | {"sizes": sizes, "miniature": seed, "title": f"{manifest['title']} (miniature)"}


def check_copy(official: Parts, manifest: dict, incomplete: bool) -> str:
    """Compare the clips of a copy with the counts of its manifest.

    Parameters
    ----------
    official : dict
        Official split → its clips, those whose audio is missing included.
    manifest : dict
        With ``sizes`` and ``split_rule``.
    incomplete : bool
        Whether the copy may differ.

    Returns
    -------
    str
        What differs, where that is allowed; "" where nothing does.

    Raises
    ------
    InputError
        If it differs and may not, if a part of it is empty, or if an id occurs twice.
    """
    name, rule = manifest["name"], manifest["split_rule"]
    there = {split: [part for part in parts if part in official] for split, parts in rule["from"].items()}
    parts = before_reserving(official, rule | {"from": there})
    counts = Counter(clip.id for clips in parts.values() for clip in clips)
    twice = [clip for clip, count in counts.items() if count > 1]
    if twice:
        raise InputError(f"The lists of '{name}' name {len(twice)} clips twice, {_examples(twice)}; fetch them again.")
    found = [_difference(split, clips, manifest["sizes"][split]) for split, clips in parts.items()]
    if not any(found):
        return ""
    told = f"The copy of '{name}' is not that of the manifest: {'; '.join(text for text in found if text)}"
    empty = [split for split, clips in parts.items() if all(clip.missing for clip in clips)]
    if empty:
        raise InputError(f"{told}; without any clip of {' and '.join(empty)} it is of no use, fetch it again.")
    if not incomplete:
        raise InputError(
            f"{told}; complete it, or set UNMUTE_INCOMPLETE={name} (several by comma) to go on with the clips that are "
            "there, whose results are not comparable with the paper's."
        )
    return f"{told}; going on with what is there, as UNMUTE_INCOMPLETE says"


def _difference(split: str, clips: list[Record], expected: int) -> str:
    """Return in what a split differs from the manifest, '' if in nothing."""
    there, missing = len([clip for clip in clips if not clip.missing]), [clip.id for clip in clips if clip.missing]
    if there == expected and not missing:
        return ""
    text = f"{split} has {there:,} of {expected:,} clips ({there - expected:+,})"
    return text + (f", {len(missing):,} are listed without audio, {_examples(missing)}" if missing else "")


def check_classes(records: Parts, manifest: dict) -> None:
    """Raise `InputError` if a clip has a label that is no class, or a single-label set not one label a clip."""
    known, strange, wrong = set(manifest["classes"]), Counter(), []
    for clips in records.values():
        for clip in clips:
            strange.update(label for label in clip.labels if label not in known)
            if manifest["task"] == "single-label" and len(clip.labels) != 1:
                wrong.append(clip.id)
    if strange:
        raise InputError(
            f"The copy of '{manifest['name']}' has labels that are not among the {len(known)} classes of its manifest, "
            f"{_examples(list(strange))}; check that its files are those of the manifest's source."
        )
    if wrong:
        raise InputError(
            f"'{manifest['name']}' has one label a clip, but {len(wrong)} clips have none or several, "
            f"{_examples(wrong)}; fetch its lists again."
        )


def _examples(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:EXAMPLES])
    return f"such as {shown}" if len(names) > EXAMPLES else shown
