"""Fetching ESC-10: each file checked, nothing wrong kept, what is there not fetched again."""

import hashlib
import zipfile

import pandas as pd
import pytest

from lib.data import fetch
from lib.errors import InputError

FILES = {"001 - Dog bark/1-1-A.ogg": b"bark", "002 - Rain/5-2-A.ogg": b"rain"}


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A small archive in the layout of the real one, a manifest to match, and a host that hands it out."""
    path = tmp_path / "esc10.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in FILES.items():
            packed.writestr(f"ESC-10-{fetch.REVISION}/{name}", content)
    rows = [{"file": name, "sha256": hashlib.sha256(content).hexdigest()} for name, content in FILES.items()]
    pd.DataFrame(rows).to_csv(tmp_path / "esc10.csv", index=False)
    monkeypatch.setattr(fetch, "MANIFESTS", tmp_path)
    monkeypatch.setenv("UNMUTE_DATA", str(tmp_path / "audio"))
    calls = []
    monkeypatch.setattr(fetch.pooch, "retrieve", lambda url, **_: calls.append(url) or str(path))
    return path, calls


def test_every_file_lands_where_the_bank_seeks_it_and_is_fetched_once(archive):
    folder = fetch.fetch_esc10()
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    fetch.fetch_esc10()
    assert archive[1] == [fetch.ARCHIVE] and fetch.REVISION in fetch.ARCHIVE and len(fetch.REVISION) == 40


def test_a_file_with_another_checksum_is_refused_and_not_kept(archive, tmp_path):
    table = pd.read_csv(tmp_path / "esc10.csv")
    table.loc[1, "sha256"] = "0" * 64
    table.to_csv(tmp_path / "esc10.csv", index=False)
    with pytest.raises(InputError, match=r"'002 - Rain/5-2-A\.ogg' of ESC-10 is not the file of the manifest"):
        fetch.fetch_esc10()
    kept = [path.name for path in (tmp_path / "audio").rglob("*") if path.is_file()]
    assert kept == ["1-1-A.ogg"]


def test_a_damaged_archive_is_one_clear_sentence(archive):
    archive[0].write_bytes(b"no archive")
    with pytest.raises(InputError, match="is damaged .*delete it and run `make data` again"):
        fetch.fetch_esc10()


def test_without_a_network_the_sentence_says_so(archive, monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(fetch.pooch, "retrieve", offline)
    with pytest.raises(InputError, match="ESC-10 could not be fetched .*no route to host.*try again when online"):
        fetch.fetch_esc10()
