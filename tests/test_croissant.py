"""The Croissant view: valid for mlcroissant, complete, and true enough to read tiny copies by."""

import hashlib
import io
import json
import re
import tarfile
import zipfile

import mlcroissant
import numpy as np
import pandas as pd
import pytest
import soundfile
from absl import logging as absl_logging
from mlcroissant._src.operation_graph.operations import extract  # for where it unpacks to, which is global

from lib.data import croissant as view
from lib.data.croissant import croissant
from lib.data.paper_manifests import PAPER_SETS, read_manifest

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
]
RECOMMENDED = {"datePublished", "version", "license"}  # what a manifest may not know


@pytest.fixture(autouse=True)
def quiet():
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    yield
    absl_logging.set_verbosity(level)


@pytest.fixture(params=PAPER_SETS)
def manifest(request):
    return read_manifest(request.param)


def by_id(items):
    return {item["@id"]: item for item in items}


def test_mlcroissant_finds_no_fault_in_any_view(manifest):
    document = json.loads(json.dumps(croissant(manifest)))
    metadata = mlcroissant.Dataset(jsonld=document).metadata
    assert metadata.name == manifest["name"] and metadata.ctx.conforms_to.value == "http://mlcommons.org/croissant/1.0"
    for warning in metadata.ctx.issues.warnings:
        missing = re.search(r'Property "https://schema.org/(\w+)" is recommended', warning)
        assert missing and missing[1] in RECOMMENDED, warning
        assert missing[1] == "datePublished" or missing[1] not in document


def test_mlcroissant_would_find_a_fault():
    document = croissant(read_manifest("urban"))
    del document["distribution"][0]["md5"]
    with pytest.raises(mlcroissant.ValidationError, match="md5"):
        mlcroissant.Dataset(jsonld=document)


def test_licence_citation_and_differences_are_told(manifest):
    document = croissant(manifest)
    assert document.get("license") == manifest["source"]["licence_url"]
    assert document["citeAs"] == manifest["citation"]["text"]
    for sentence in (*manifest["published_discrepancies"], *manifest["unknown"]):
        assert sentence in document["description"]


def test_files_have_their_checksums_and_addresses():
    files = by_id(croissant(read_manifest("fsd50k"))["distribution"])
    archive = files["FSD50K.dev_audio.zip"]
    assert archive["md5"] == "c480d119b8f7a7e32fdb58f3ea4d6c5a" and archive["encodingFormat"] == "application/zip"
    assert archive["contentUrl"] == "https://zenodo.org/records/4060432/files/FSD50K.dev_audio.zip"
    assert files["dev-labels"]["containedIn"] == {"@id": "FSD50K.ground_truth.zip"}
    assert files["eval-audio"]["containedIn"] == {"@id": "FSD50K.eval_audio.zip"}
    assert files["eval-audio"]["includes"] == "FSD50K.eval_audio/*.wav"
    for name in PAPER_SETS:
        manifest = read_manifest(name)
        found = {item["@id"]: item.get("md5") for item in croissant(manifest).get("distribution", [])}
        for file in manifest["source"]["files"]:
            assert file["md5"] is None or found[file["name"]] == file["md5"]


def test_files_without_checksums_are_patterns_in_their_repository_at_its_revision():
    manifest = read_manifest("hsn")
    files = by_id(croissant(manifest)["distribution"])
    assert files["repository"]["contentUrl"].endswith(f"BirdSet/tree/{manifest['source']['revision']}")
    assert files["test_5s-archives"]["includes"] == "HSN/HSN_test5s_shard_*.tar.gz"
    assert files["test_5s-audio"]["containedIn"] == {"@id": "test_5s-archives"}


def test_every_part_has_id_audio_and_labels(manifest):
    records = by_id(croissant(manifest)["recordSet"])
    parts = {name: record for name, record in records.items() if name != "classes"}
    if not manifest["source"]["files"] and not manifest["source"]["ids"].get("hub"):
        assert not parts and "distribution" not in croissant(manifest)  # nothing is known of where it is
        return
    assert list(parts) == list(manifest["labels"]["files"])
    for name, record in parts.items():
        assert [field["@id"] for field in record["field"]] == [f"{name}/id", f"{name}/audio", f"{name}/labels"]
        assert record["field"][1]["dataType"] == "sc:AudioObject"
        assert record["field"][2].get("repeated", False) == (manifest["task"] == "multi-label")
        assert all("source" in field for field in record["field"])


def test_classes_are_there_in_order(manifest):
    data = by_id(croissant(manifest)["recordSet"])["classes"]["data"]
    names = manifest["classes"] or manifest["labels"]["raw_classes"]
    assert [row["classes/name"] for row in data] == names
    assert [row["classes/index"] for row in data] == list(range(len(names)))
    assert [row["classes/id"] for row in data if "classes/id" in row] == (manifest["class_ids"] or [])


def wav():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(160), 16_000, format="WAV")
    return file.getvalue()


def packed(path, members):
    """Write a zip or tar.gz file of `members`."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def read(monkeypatch, tmp_path, manifest, mapping, part):
    """Read a part of a tiny copy by its view alone; checksums are those of the copy."""
    monkeypatch.setattr(extract, "EXTRACT_PATH", type(extract.EXTRACT_PATH)(tmp_path / "extracted"))
    for file in manifest["source"]["files"]:
        if file["name"] in mapping:
            file["md5"] = hashlib.md5(mapping[file["name"]].read_bytes()).hexdigest()
    dataset = mlcroissant.Dataset(jsonld=croissant(manifest), mapping=mapping)
    text = lambda value: value.decode() if isinstance(value, bytes) else value  # noqa: E731
    rows = [{key.split("/")[1]: value for key, value in row.items()} for row in dataset.records(part)]
    return {text(row["id"]): (row["audio"], row["labels"]) for row in rows}


def test_esc50_is_read_by_its_view(monkeypatch, tmp_path):
    table = "filename,fold,target,category\n5-2-A-1.wav,5,1,rooster\n4-1-A-0.wav,4,0,dog\n"
    top = "ESC-50-master"
    members = {f"{top}/meta/esc50.csv": table, **{f"{top}/audio/{n}.wav": wav() for n in ("4-1-A-0", "5-2-A-1")}}
    copy = packed(tmp_path / "master.zip", members)
    found = read(monkeypatch, tmp_path, read_manifest("esc50"), {"master.zip": copy}, "all")
    assert {name: labels for name, (_, labels) in found.items()} == {"4-1-A-0.wav": b"dog", "5-2-A-1.wav": b"rooster"}
    assert all(audio == wav() for audio, _ in found.values())


def test_speech_commands_are_read_by_their_view(monkeypatch, tmp_path):
    name = "speech_commands_v0.02.tar.gz"
    copy = packed(tmp_path / name, {"yes/0a_nohash_0.wav": wav(), "marvin/0b_nohash_1.wav": wav()})
    found = read(monkeypatch, tmp_path, read_manifest("sc2"), {name: copy}, "train")
    assert {key: value[1] for key, value in found.items()} == {"0a_nohash_0": b"yes", "0b_nohash_1": b"marvin"}


def test_audioset_is_read_by_its_view(monkeypatch, tmp_path):
    (tmp_path / "hub" / "data" / "eval").mkdir(parents=True)
    rows = {"video_id": ["--PJHxphWEs"], "audio": [{"bytes": wav(), "path": "--PJHxphWEs.flac"}]}
    rows |= {"labels": [["/m/09x0r", "/t/dd00088"]], "human_labels": [["Speech", "Gush"]]}
    pd.DataFrame(rows).to_parquet(tmp_path / "hub" / "data" / "eval" / "00.parquet")
    found = read(monkeypatch, tmp_path, read_manifest("as20k"), {"repository": tmp_path / "hub"}, "eval")
    assert found == {"--PJHxphWEs": (wav(), [b"/m/09x0r", b"/t/dd00088"])}


def test_a_copy_with_another_checksum_is_refused_by_its_view(monkeypatch, tmp_path):
    copy = packed(tmp_path / "master.zip", {"ESC-50-master/meta/esc50.csv": "filename\n"})
    manifest = read_manifest("esc50")
    dataset = mlcroissant.Dataset(jsonld=croissant(manifest), mapping={"master.zip": copy})
    with pytest.raises(mlcroissant.GenerationError) as error:
        list(dataset.records("all"))
    assert "not identical with the reference" in str(error.value.__cause__)


def test_the_command_writes_what_is_asked(tmp_path, capsys):
    view.main(["urban", "esc50", "--out", str(tmp_path / "views")])
    written = sorted(path.name for path in (tmp_path / "views").iterdir())
    assert written == ["esc50.croissant.json", "urban.croissant.json"]
    assert json.loads((tmp_path / "views" / "urban.croissant.json").read_text()) == croissant(read_manifest("urban"))
    assert capsys.readouterr().out.splitlines()[0].endswith("urban.croissant.json")
    view.main(["--out", str(tmp_path / "all")])
    assert len(list((tmp_path / "all").iterdir())) == 14


def test_the_command_names_the_known_datasets(tmp_path):
    with pytest.raises(SystemExit, match="croissant: Unknown dataset of the paper 'esc10'; choose one of: as20k, "):
        view.main(["esc10", "--out", str(tmp_path)])
