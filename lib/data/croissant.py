"""A Croissant 1.0 view of the paper's datasets: JSON-LD that search engines and dataset tools read.

Generated from a manifest, never edited: what is downloaded (with checksums where they are known), where in it labels
and audio are, the classes, licence and citation. ``python -m lib.data.croissant [ids] --out folder`` writes one
``<id>.croissant.json`` a dataset.

Croissant asks for the checksum of every file. Files that the manifest gives none for are described as patterns inside
their repository at its revision; of a dataset whose files are not known there are only the classes.

mlcroissant 1.1.1 validates all fourteen and reads esc50, sc2 and as20k by it. For the others it would have to join two
sets of files, or unpack archives that lie in a repository, which Croissant can say and that reader cannot do.
"""

import argparse
import sys
from pathlib import Path, PurePosixPath

from lib.data.paper_manifests import PAPER_SETS, read_manifest
from lib.errors import InputError
from lib.files import write_json

VERSION = "http://mlcommons.org/croissant/1.0"
CONTEXT = {  # the standard one, word for word
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "conformsTo": "dct:conformsTo",
} | {
    word: f"cr:{word}"
    for word in (
        *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty"),
        *("fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5"),
        *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace"),
        *("samplingRate", "separator", "source", "subField", "transform"),
    )
}
FORMATS = {  # ending of a name → MIME type
    ".tar.gz": "application/x-tar",  # readers of Croissant unpack by this type, compressed or not
    ".tar": "application/x-tar",
    ".zip": "application/zip",
    ".parquet": "application/x-parquet",
    ".csv": "text/csv",
    ".txt": "text/plain",
    ".jams": "application/json",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
}
REPOSITORY = "repository"
NO_CHECKSUM = "https://github.com/mlcommons/croissant/issues/80"  # what hubs write for a repository, which has none
STEM = r"^(?:.*/)?([^/]+)\.[^.]+$"  # a path → the name of the file without its ending
FOLDER = r"^(?:.*/)?([^/]+)/[^/]+$"  # a path → the name of the folder that the file is in


def croissant(manifest: dict) -> dict:
    """Return the Croissant 1.0 description of a dataset.

    Parameters
    ----------
    manifest : dict
        As `lib.data.paper_manifests.read_manifest` returns it.

    Returns
    -------
    dict
        JSON-LD; what the manifest does not know is left out.
    """
    source = manifest["source"]
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": manifest["name"],
        "alternateName": manifest["label"],
        "description": _description(manifest),
        "url": source["home"] or manifest["citation"]["url"],
        "license": source["licence_url"],
        "citeAs": manifest["citation"]["text"],
        "version": _version(source["revision"]),
        "keywords": ["audio", manifest["group"], manifest["task"]],
        "distribution": distribution(manifest),
        "recordSet": [record for record in (_classes(manifest), *record_sets(manifest)) if record],
    }
    return {key: value for key, value in document.items() if value}


def _version(revision: str | None) -> str | None:
    """Return a version in three numbers; none for a commit, which the addresses name."""
    numbers = (revision or "").removeprefix("v").split(".")
    return ".".join([*numbers, "0", "0"][:3]) if len(numbers) > 1 else None


def _description(manifest: dict) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in manifest["sizes"].items() if count)
    sentences = [
        f"{manifest['label']}: {manifest['about']}.",
        f"As used in arXiv 2509.24901: {counts}. {manifest['split_rule']['text']}",
        *manifest["published_discrepancies"],
        *([f"Not known: {'; '.join(manifest['unknown'])}."] if manifest["unknown"] else []),
        *([f"Licence: {manifest['source']['licence_note']}."] if manifest["source"]["licence_note"] else []),
    ]
    return " ".join(sentences)


def distribution(manifest: dict) -> list[dict]:
    """Return the files to download, and inside them the sets of files that hold labels and audio."""
    objects = [_file_object(file, manifest["source"]["files_at"]) for file in _checked_files(manifest)]
    if not objects and manifest["source"]["ids"].get("hub"):
        objects = [_repository(manifest["source"])]
    if not objects:
        return []
    sets, top = [], manifest["labels"].get("top")
    for part, patterns in manifest["labels"]["files"].items():
        kept = [pattern for pattern in patterns or () if _suffix(pattern) == _suffix(patterns[0])]
        if kept and not _holds_audio(manifest, patterns[0]):
            sets.append(_inside(f"{part}-labels", kept, _container(manifest, part, kept[0]), top))
    for part, pattern in manifest["labels"]["audio"].items():
        if pattern and "audio" not in manifest["labels"]["columns"]:
            sets += _audio_sets(manifest, part, _starred(pattern))
    return objects + sets


def _checked_files(manifest: dict) -> list[dict]:
    return [file for file in manifest["source"]["files"] if file["md5"] or file["sha256"]]


def _file_object(file: dict, address: str) -> dict:
    found = {
        "@type": "cr:FileObject",
        "@id": file["name"],
        "name": file["name"],
        "contentUrl": address + file["name"],
        "contentSize": f"{file['bytes']} B" if file["bytes"] else None,
        "encodingFormat": FORMATS.get(_suffix(file["name"]), "application/octet-stream"),
        "md5": file["md5"],
        "sha256": file["sha256"],
    }
    return {key: value for key, value in found.items() if value}


def _repository(source: dict) -> dict:
    return {
        "@type": "cr:FileObject",
        "@id": REPOSITORY,
        "name": REPOSITORY,
        "description": f"{source['ids']['hub']} at {source['revision']}",
        "contentUrl": f"https://huggingface.co/datasets/{source['ids']['hub']}/tree/{source['revision']}",
        "encodingFormat": "git+https",
        "sha256": NO_CHECKSUM,
    }


def _inside(name: str, patterns: list[str], container: str, top: str | None = None) -> dict:
    """Return a file inside a download, or where there is a star in its path a set of files."""
    paths = [f"{top}/{pattern}" if top else pattern for pattern in patterns]
    single = "*" not in paths[0] and container != REPOSITORY
    return {
        "@type": "cr:FileObject" if single else "cr:FileSet",
        "@id": name,
        "name": name,
        "containedIn": {"@id": container},
        "encodingFormat": FORMATS.get(_suffix(paths[0]), "application/octet-stream"),
        "contentUrl" if single else "includes": paths if len(paths) > 1 else paths[0],
    }


def _audio_sets(manifest: dict, part: str, pattern: str) -> list[dict]:
    """Return the set of audio files, after that of the archives that hold them where the pattern is of archives."""
    container = _container(manifest, part, pattern)
    if _suffix(pattern) != ".tar.gz":
        return [_inside(f"{part}-audio", [pattern], container, manifest["labels"].get("top"))]
    return [
        _inside(f"{part}-archives", [pattern], container),
        _inside(f"{part}-audio", ["*.ogg"], f"{part}-archives"),
    ]


def _container(manifest: dict, part: str, pattern: str) -> str:
    """Return which download a path of the copy is in: named like its folder, named for its part, or the only one."""
    names = [file["name"] for file in _checked_files(manifest)]
    if not names:
        return REPOSITORY
    named = manifest["labels"].get("archives", {}).get(part, f"{pattern.split('/')[0]}.zip")
    return named if named in names else names[0]


def _holds_audio(manifest: dict, pattern: str) -> bool:
    return _suffix(pattern) in (".tar", ".tar.gz") or not manifest["labels"]["columns"]


def _starred(pattern: str) -> str:
    """Return the place of a clip as a pattern of all; an id that stands alone has its ending, ``.wav``."""
    pattern = pattern if "{id}." in pattern else pattern.replace("{id}", "*.wav")
    return pattern.replace("{id}", "*").replace("{word}", "*")


def _suffix(name: str) -> str:
    return ".tar.gz" if name.endswith(".tar.gz") else PurePosixPath(name).suffix


def _classes(manifest: dict) -> dict | None:
    """Return the classes in order: the names, their places, and the ids that the label files write instead."""
    names = manifest["classes"] or manifest["labels"].get("raw_classes")
    if not names:
        return None
    columns = {"name": names, "index": list(range(len(names)))}
    if manifest["class_ids"]:
        columns["id"] = manifest["class_ids"]
    rows = zip(*columns.values(), strict=True)
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "description": "in the order of the target" if manifest["classes"] else manifest["class_rule"]["text"],
        "key": {"@id": "classes/name"},
        "field": [_field("classes", name, "sc:Integer" if name == "index" else "sc:Text") for name in columns],
        "data": [dict(zip((f"classes/{name}" for name in columns), row, strict=True)) for row in rows],
    }


def record_sets(manifest: dict) -> list[dict]:
    """Return one record set an official part, id, audio and labels of its clips; none where no file is known."""
    present = {item["@id"]: item["@type"].removeprefix("cr:") for item in distribution(manifest)}
    return [
        {
            "@type": "cr:RecordSet",
            "@id": part,
            "name": part,
            "description": _part_description(manifest, part),
            "key": {"@id": f"{part}/id"},
            "field": _fields(manifest, part, present.get(f"{part}-labels")),
        }
        for part in manifest["labels"]["files"]
        if present
    ]


def _part_description(manifest: dict, part: str) -> str:
    use = [split for split, parts in manifest["split_rule"]["from"].items() if part in parts]
    ours = f" (ours: {', '.join(use)})" if use else ""
    return f"official part '{part}'{ours}; labels: {manifest['labels']['format']}; {manifest['labels']['spelling']}"


def _fields(manifest: dict, part: str, table: str | None) -> list[dict]:
    """Return the fields id, audio and labels, the two sources joined by the name of the audio file.

    `table` is what the labels are in, a "FileObject" or a "FileSet"; None where the folder of a file is its label.
    """
    identity, audio = _field(part, "id", "sc:Text"), _field(part, "audio", "sc:AudioObject")
    labels = _field(part, "labels", "sc:Text", repeated=manifest["task"] == "multi-label")
    columns, place = manifest["labels"]["columns"], manifest["labels"]["audio"][part]
    audio["source"] = _property(part, "audio", "content")
    # An id is the name of the file, with its ending or without.
    name = _property(part, "audio", "fullpath", STEM) if "{id}." in place else _property(part, "audio", "filename")
    if table and "id" in columns:  # a row a clip, or an event
        identity |= {"source": name, "references": _cell(part, table, columns["id"])}
        labels["source"] = _cell(part, table, columns["labels"])
        if manifest["labels"].get("separator") and table == "FileObject":
            labels["source"]["transform"] = {"separator": manifest["labels"]["separator"]}
        if "audio" in columns:  # then all is in one table
            identity["source"] = identity.pop("references")
            audio["source"] = _cell(part, table, columns["audio"]) | {"transform": {"jsonPath": "bytes"}}
    elif table:  # a file a clip
        identity |= {"source": name, "references": _property(part, "labels", "fullpath", STEM)}
        labels["source"] = _property(part, "labels", "content")
    else:  # a folder a class
        identity["source"], labels["source"] = name, _property(part, "audio", "fullpath", FOLDER)
    return [identity, audio, labels]


def _cell(part: str, table: str, column: str) -> dict:
    return {table[0].lower() + table[1:]: {"@id": f"{part}-labels"}, "extract": {"column": column}}


def _property(part: str, what: str, file_property: str, regex: str | None = None) -> dict:
    source = {"fileSet": {"@id": f"{part}-{what}"}, "extract": {"fileProperty": file_property}}
    return source | ({"transform": {"regex": regex}} if regex else {})


def _field(record_set: str, name: str, kind: str, repeated: bool = False) -> dict:
    field = {"@type": "cr:Field", "@id": f"{record_set}/{name}", "name": name, "dataType": kind}
    return field | ({"repeated": True} if repeated else {})


def main(arguments: list[str] | None = None) -> None:
    """Write the Croissant views of the datasets that are named, or of all, into a folder."""
    parser = argparse.ArgumentParser(prog="python -m lib.data.croissant", description=main.__doc__)
    parser.add_argument("ids", nargs="*", metavar="id", help="datasets of the paper; all by default")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    asked = parser.parse_args(arguments)
    try:
        for name in asked.ids or PAPER_SETS:
            path = asked.out / f"{name}.croissant.json"
            write_json(path, croissant(read_manifest(name)))
            print(path)
    except InputError as error:
        sys.exit(f"croissant: {error}")


if __name__ == "__main__":
    main()
