"""The manifests of the paper's fourteen datasets: what their official copies hold, and what the paper does with them.

One JSON file each in ``data_manifests``, of the form that ``dataset.schema.json`` states. Here they are read, and
checked for what a schema cannot say: that counts, classes and lengths are those of Table 8, or the difference is
written down.
"""

import json
from collections.abc import Iterator

import pandas as pd

from lib.errors import InputError, unknown_name
from lib.paths import MANIFESTS
from lib.published import main_prototypes, table

PAPER_SETS = (  # as in Table 8
    *("as20k", "desed", "fsd50k", "spass", "urban"),
    *("hsn", "pow", "per", "nes", "sne", "uhh", "nbp"),
    *("esc50", "sc2"),
)
GROUPS = {"general": "general", "bioacoustic": "bioacoustic", "multi-class": "control"}  # Table 8's name → ours
SPLITS = {"train": "train", "validation": "val", "test": "test"}
CHECKSUMS = {"md5": 32, "sha256": 64}  # hexadecimal digits


def read_manifest(name: str) -> dict:
    """Return the manifest of one of the fourteen datasets of the paper, as it is on disk.

    Parameters
    ----------
    name : str
        One of ``PAPER_SETS``.

    Raises
    ------
    InputError
        If there is no such dataset, or its manifest is missing, damaged or contradicts Table 8.
    """
    if name not in PAPER_SETS:
        raise unknown_name("dataset of the paper", name, PAPER_SETS)
    path = MANIFESTS / f"{name}.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = problems(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"The manifest '{path.name}' is missing or damaged in data_manifests ({type(error).__name__}: {error}); "
            "restore it with git."
        ) from error
    if manifest["name"] != name:
        found.insert(0, f"it is that of '{manifest['name']}'")
    if found:
        raise InputError(f"The manifest '{path.name}' cannot be right: {found[0]}; correct it, or restore it with git.")
    return manifest


def problems(manifest: dict) -> list[str]:
    """Return what contradicts Table 8, or itself, in a manifest of the right form: clauses, none if all is well."""
    row = table(8).set_index("dataset").loc[manifest["name"]]
    checks = (_table_8, _classes, _split_rule, _few_shot, _files)
    return [problem for check in checks for problem in check(manifest, row)]


def _table_8(manifest: dict, row: pd.Series) -> Iterator[str]:
    """See that sizes, group and length are as in Table 8; a size or length may differ where the manifest says so."""
    for column, split in SPLITS.items():
        published, ours = None if pd.isna(row[column]) else int(row[column]), manifest["sizes"][split]
        if published != ours and not (published and _admits(manifest, f"{published:,}")):
            yield f"its {split} split has {ours} clips where Table 8 has {published}"
    if manifest["group"] != GROUPS[row["group"]]:
        yield f"its group is {manifest['group']} where Table 8 has {GROUPS[row['group']]}"
    if manifest["seconds"] != row["clip_seconds"] and not _admits(manifest, f"{row['clip_seconds']} s"):
        yield f"its clips last {manifest['seconds']} s, in Table 8 {row['clip_seconds']} s, and no discrepancy says so"
    if manifest["prototypes"] != main_prototypes(manifest["name"]):
        yield f"it takes {manifest['prototypes']} prototypes a class, the paper {main_prototypes(manifest['name'])}"
    if (manifest["metric"] == "accuracy") != (manifest["task"] == "single-label"):
        yield f"{manifest['metric']} is not the metric of a {manifest['task']} set"


def _admits(manifest: dict, words: str) -> bool:
    return any(words in sentence for sentence in manifest["published_discrepancies"])


def _classes(manifest: dict, row: pd.Series) -> Iterator[str]:
    """See that classes are unique and as many as in Table 8; or that there is a rule, and a sentence on why."""
    classes, ids = manifest["classes"], manifest["class_ids"]
    if classes is None:
        if not manifest["class_rule"]:
            yield "it has neither classes nor a rule how to get them"
        if not _admits(manifest, f"{row['classes']} classes"):
            yield f"it has no classes where Table 8 has {row['classes']}, and no discrepancy says so"
        return
    for what, names in (("class", classes), ("class id", ids or [])):
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            yield f"the {what} '{repeated[0]}' is there more than once"
    if len(classes) != row["classes"]:
        yield f"it has {len(classes)} classes where Table 8 has {row['classes']}"
    if ids is not None and len(ids) != len(classes):
        yield f"it has {len(ids)} class ids for {len(classes)} classes"


def _split_rule(manifest: dict, row: pd.Series) -> Iterator[str]:
    """See that splits share nothing, and that shares give the counts of Table 8."""
    rule, kind = manifest["split_rule"], manifest["split_rule"]["kind"]
    parts = [part for split in rule["from"].values() for part in split]
    if len(parts) != len(set(parts)):
        yield "its split rule uses an official part twice"
    if (manifest["sizes"]["val"] is None) != (kind in ("reserve", "fold")):
        yield f"its split rule is '{kind}', which does not go with a val split of {manifest['sizes']['val']}"
    if kind == "fold" and not set(rule["reserve_from"]) < set(rule["from"]["train"]):
        yield "the folds that its split rule sets aside are not some of the training folds"
    if kind == "fractions":
        total = sum(manifest["sizes"].values())
        for split, share in rule["fractions"].items():
            if round(share * total) != manifest["sizes"][split]:
                yield f"a share of {share} of {total} clips is not its {split} split of {manifest['sizes'][split]}"
    known = set(manifest["labels"]["files"]) | ({manifest["few_shot"] and "few_shot"} - {None})
    if kind != "fold" and not set(parts) <= known:  # folds are a column, not files
        yield f"nothing says where the labels of the official part '{sorted(set(parts) - known)[0]}' are"


def _few_shot(manifest: dict, row: pd.Series) -> Iterator[str]:
    """See that the bioacoustic sets, and no others, are drawn with k shots a class and stored in views."""
    rule = manifest["few_shot"]
    if len({manifest["group"] == "bioacoustic", rule is not None, manifest["views"] is not None}) > 1:
        yield "few shots and stored views belong to the bioacoustic sets, and to all of them"
    if rule is None:
        return
    if rule["shots"] * rule["classes_with_training"] != manifest["sizes"]["train"]:
        yield (
            f"{rule['shots']} shots of {rule['classes_with_training']} classes are not "
            f"{manifest['sizes']['train']} training clips"
        )
    if rule["classes_with_training"] != row["classes"] and not _admits(manifest, f"{rule['classes_with_training']} of"):
        yield "not all of its classes have training clips, and no discrepancy says so"
    if rule["clip_seconds"] != manifest["seconds"]:
        yield f"its shots last {rule['clip_seconds']} s, its clips {manifest['seconds']} s"


def _files(manifest: dict, row: pd.Series) -> Iterator[str]:
    """See that files differ, that checksums look like some, and that there is an address to get them at."""
    source = manifest["source"]
    names = [file["name"] for file in source["files"]]
    if len(names) != len(set(names)):
        yield "one of its files is named twice"
    for kind, digits in CHECKSUMS.items():
        sums = [file[kind] for file in source["files"] if file[kind] is not None]
        for checksum in sums:
            if len(checksum) != digits or set(checksum) - set("0123456789abcdef"):
                yield f"'{checksum}' is no {kind}"
        if len(sums) != len(set(sums)):
            yield f"two of its files have the same {kind}"
    if names and not source["files_at"]:
        yield "it names files but no address to get them at"
    at, hub = source["files_at"] or "", f"{source['ids'].get('hub')}/resolve/{source['revision']}/"
    if "/resolve/" in at and not at.endswith(f"/{hub}"):
        yield "the address of its files is not that of its hub id and revision"
    if bool(source["licence"]) != bool(source["licence_url"]):
        yield "its licence has a name or an address, but not both"
