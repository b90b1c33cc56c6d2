"""Fetching recordings: each file checked, nothing wrong kept, what is there not fetched again."""

import hashlib
import io
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
import soundfile

from lib.data import fetch
from lib.errors import InputError
from lib.paths import MANIFESTS


def wav(seed):
    samples = np.random.default_rng(seed).integers(-99, 99, 500, dtype=np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, 22_000, format="WAV", subtype="PCM_16")
    return file.getvalue(), samples


FILES = {
    "esc10": {"001 - Dog bark/1-1-A.ogg": b"bark", "002 - Rain/5-2-A.ogg": b"rain"},
    "fsdd": {"recordings/0_george_0.wav": b"zero", "recordings/1_theo_7.wav": b"one"},
    "maad": {"a_20190522_000000.wav": wav(1)[0], "a_20190522_140000.wav": wav(2)[0]},
}


@pytest.fixture(params=list(FILES))
def archive(request, tmp_path, monkeypatch):
    """A small archive in the layout of the real one, a manifest to match, and a host that hands it out."""
    name = request.param
    source = fetch.SETS[name]
    path = tmp_path / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("top/README.md", b"read me")
        for file, content in FILES[name].items():
            packed.writestr(f"top/{source.inside}{file}", content)
    sums = [hashlib.sha256(content).hexdigest() for content in FILES[name].values()]
    if name == "maad":
        sums = [hashlib.sha256(wav(seed)[1].tobytes()).hexdigest() for seed in (1, 2)]
    pd.DataFrame({"file": list(FILES[name]), source.column: sums}).to_csv(tmp_path / source.manifest, index=False)
    monkeypatch.setattr(fetch, "MANIFESTS", tmp_path)
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path / "audio"))
    calls = []
    monkeypatch.setattr(fetch.pooch, "retrieve", lambda url, **_: calls.append(url) or str(path))
    return name, path, calls


def test_every_file_lands_where_the_library_seeks_it_and_is_fetched_once(archive):
    name, _, calls = archive
    folder = fetch.fetch(name)
    assert {file: (folder / file).read_bytes() for file in FILES[name]} == FILES[name]
    fetch.fetch(name)
    assert calls == [fetch.SETS[name].archive]


def test_a_file_with_another_checksum_is_refused_and_not_kept(archive, tmp_path):
    name, _, _ = archive
    source = fetch.SETS[name]
    table = pd.read_csv(tmp_path / source.manifest)
    table.loc[1, source.column] = "0" * 64
    table.to_csv(tmp_path / source.manifest, index=False)
    good, bad = table["file"]
    with pytest.raises(InputError, match=rf"'{re.escape(bad)}' of {source.title} is not the file of the manifest"):
        fetch.fetch(name)
    folder = tmp_path / "audio" / name
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] == [good]


def test_a_damaged_archive_is_one_clear_sentence(archive):
    archive[1].write_bytes(b"no archive")
    with pytest.raises(InputError, match="is damaged .*delete it and run `make data` again"):
        fetch.fetch(archive[0])


def test_a_file_that_is_not_in_the_archive_is_named(archive):
    with zipfile.ZipFile(archive[1], "w") as packed:
        packed.writestr("top/README.md", b"read me")
    with pytest.raises(InputError, match=r"is not in the archive '\w+\.zip' of .*delete it and fetch again"):
        fetch.fetch(archive[0])


def test_without_a_network_the_sentence_says_so(archive, monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(fetch.pooch, "retrieve", offline)
    with pytest.raises(InputError, match=" could not be fetched .*no route to host.*try again when online"):
        fetch.fetch(archive[0])


@pytest.mark.parametrize("archive", ["maad"], indirect=True)
def test_a_lossless_copy_of_a_field_recording_counts_as_there(archive, tmp_path):
    _, _, calls = archive
    (tmp_path / "audio" / "maad").mkdir(parents=True)
    for seed, file in zip((1, 2), FILES["maad"], strict=True):
        soundfile.write(tmp_path / "audio" / "maad" / file.replace(".wav", ".flac"), wav(seed)[1], 22_000)
    fetch.fetch("maad")
    assert calls == []


def test_an_unknown_set_names_the_known_ones():
    with pytest.raises(InputError, match="Unknown set of recordings 'esc50'; choose one of: esc10, fsdd, maad"):
        fetch.fetch("esc50")


@pytest.mark.parametrize("name", list(fetch.SETS))
def test_the_revision_is_pinned_and_every_recording_has_a_checksum(name):
    source = fetch.SETS[name]
    assert re.fullmatch("[0-9a-f]{7,40}", source.revision) and source.revision in source.archive
    table = pd.read_csv(MANIFESTS / source.manifest)
    assert table["file"].is_unique and table[source.column].str.fullmatch("[0-9a-f]{64}").all()
    assert table["license"].notna().all()
    if source.inside:  # then the manifest links each recording
        address = f"https://github.com/{source.repository}/blob/{source.revision}/{source.inside}"
        assert (table["source"] == address + table["file"]).all()
        assert not table["file"].str.contains("/").any()


@pytest.mark.parametrize("name", list(fetch.SETS))
def test_the_recordings_that_are_here_are_those_of_the_manifest(name, audio, monkeypatch):
    if not (audio / name).is_dir():
        pytest.skip(f"the recordings are not there: run `make data`, or set UNMUTE_DATA to where {name}/ is")
    monkeypatch.setenv("UNMUTE_DATA", str(audio))
    monkeypatch.setattr(fetch.pooch, "retrieve", lambda *_, **__: pytest.fail("a recording is missing or wrong"))
    assert fetch.fetch(name) == audio / name
