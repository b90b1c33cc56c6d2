"""Downloads of checkpoints: resumed, checked before they are opened, nothing wrong kept."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from checkpoint_host import SUM, WEIGHTS, lies, refused

from lib.encoders.checkpoints import fetch_checkpoint
from lib.encoders.downloads import CHUNK, Remote, Resuming, download


@pytest.mark.parametrize("again", [False, True])
def test_a_download_goes_on_where_it_was_cut_off(host, tiny, again):
    tiny("eat", sha256=SUM, bytes=len(WEIGHTS))
    host.files["model.safetensors"] = WEIGHTS
    if again:  # by a later call: the second attempt brings nothing either
        host.cuts = [CHUNK, 0]
        assert "nothing was kept as its file" in refused("eat", "cut off|IncompleteRead|Connection broken")
        assert lies("eat") == [".model.safetensors.mark", ".model.safetensors.part"]
    else:
        host.cuts = [CHUNK, 2 * CHUNK]
    assert fetch_checkpoint("eat").read_bytes() == WEIGHTS
    ranges = [asked for path, asked in host.asked if "/resolve/" in path]
    assert ranges == [None, f"bytes={CHUNK}-", f"bytes={CHUNK if again else 2 * CHUNK}-"]
    assert lies("eat") == ["lock.json", "model.safetensors"]


def test_the_rest_of_another_version_is_not_put_behind_the_start_of_this_one(host, tmp_path):
    path = tmp_path / "weights"
    host.files["weights"], host.cuts = b"a" * 3 * CHUNK, [CHUNK, 0]
    with pytest.raises(requests.RequestException):
        download(Remote(f"{host.url}/weights", "here"), path)
    assert path.with_name(".weights.part").stat().st_size == CHUNK
    host.files["weights"] = b"b" * 3 * CHUNK
    download(Remote(f"{host.url}/weights", "here"), path)
    assert path.read_bytes() == b"b" * 3 * CHUNK


def test_a_part_that_was_complete_already_is_fetched_anew_rather_than_extended(host, tmp_path):
    host.files["weights"] = b"a" * 3000
    fetching = Resuming(tmp_path / "weights", None)
    fetching.part.write_bytes(b"x" * 3000)
    fetching.mark.write_text(f'"{hashlib.md5(b"a" * 3000).hexdigest()}"')
    download(Remote(f"{host.url}/weights", "here"), tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == b"a" * 3000 and len(list(tmp_path.glob(".weights*"))) == 0


def test_two_that_want_the_same_file_at_once_fetch_it_once(host, tiny):
    tiny("eat", sha256=SUM)
    host.files["model.safetensors"] = WEIGHTS
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fetch_checkpoint, ["eat", "eat"])
    assert first == second and len([path for path, _ in host.asked if "/resolve/" in path]) == 1


def test_one_changed_byte_is_refused_and_nothing_is_kept(host, tiny):
    tiny("eat", sha256=SUM)
    changed = bytearray(WEIGHTS)
    changed[-1] ^= 1
    host.files["model.safetensors"], host.sent["model.safetensors"] = WEIGHTS, bytes(changed)
    refused("eat", "another SHA-256 than it must have, and was deleted.*nothing was kept")
    assert lies("eat") == []


def test_one_changed_byte_is_found_though_the_manifest_knows_no_checksum(host, tiny):
    changed = bytearray(WEIGHTS)
    changed[-1] ^= 1
    host.files["model.safetensors"], host.sent["model.safetensors"] = WEIGHTS, bytes(changed)
    refused("sslam-plus", "another SHA-256 than it must have")  # than the hub says
    assert lies("sslam-plus") == []


def test_another_file_on_the_hub_is_refused_before_a_byte_comes(host, tiny):
    host.files["model.safetensors"] = WEIGHTS
    refused("eat", "has the SHA-256 .*, not that of the manifest")
    tiny("sslam-plus", bytes=99)
    refused("sslam-plus", f"{len(WEIGHTS):,} bytes, not the manifest's 99")
    assert not [path for path, _ in host.asked if "/resolve/" in path]
    assert lies("eat") == lies("sslam-plus") == []


def test_a_wrong_length_at_a_plain_address_is_refused(host, tiny):
    tiny("asit", bytes=10)
    host.files["ASIT_ssl.pt"] = WEIGHTS
    refused("asit", f"offers {len(WEIGHTS):,} bytes, but it must be 10")
    assert lies("asit") == []


@pytest.mark.parametrize("name", ["dasheng", "eat-plus"])  # pinned by the beginning of a commit, and by all of it
def test_a_wrong_revision_is_refused(host, tiny, name):
    host.files["model.safetensors"] = WEIGHTS
    host.answers_with = "d" * 40
    refused(name, "has no revision bd8db95|answers with the revision d{40} instead of 60d61e8b")
    assert lies(name) == [] and not [path for path, _ in host.asked if "/resolve/" in path]


def test_a_missing_file_or_host_is_one_sentence_with_a_way_out(host, tiny):
    host.files["README.md"] = b"read me"
    said = refused("dasheng:zenodo", "HTTPError: 404")
    assert "ENCODER_FILE=path" in said and said.count(".pt: HTTPError") == 1
    assert "has no file 'model.safetensors'" in refused("eat", "huggingface.co/worstchan/EAT-base_epoch30_pretrain")
    said = refused("beats", "could not be fetched")
    assert all(mirror in said for mirror in ("Bencr/beats-checkpoints", "lpepino/beats_ckpts", "mooneyko/BEATs"))
    host.shutdown()
    host.server_close()
    assert "\n" not in refused("eat", "ConnectError: .*try again, or get it from .* ENCODER_FILE=path")
