"""For the tests of checkpoints: a host on this machine, and manifests of tiny files to match."""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save
from torch import nn

from lib.encoders import manifests
from lib.encoders.manifests import CHECKPOINTS, find_checkpoint
from lib.errors import InputError
from lib.paths import MANIFESTS

CFG = {"embed_dim": 512, "deep_norm": True}
OLD, NEW = "b0f2ea3" + "1" * 33, "c" * 40  # commits


class Host(BaseHTTPRequestHandler):
    """The hub's pages that are asked for, and plain files, with ranges; what is to go wrong is set on the server."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        path, _, _ = self.path.partition("?")
        self.server.asked.append((path, self.headers.get("Range")))
        if "/commits/" in path:
            self.reply(
                [
                    {"id": commit, "title": "", "date": "2024-01-01T00:00:00.000Z", "authors": [], "message": ""}
                    for commit in (NEW, OLD)
                ]
            )
        elif path.startswith("/api/"):
            self.reply(self.info(path.rpartition("/revision/")[2] if "/revision/" in path else NEW))
        else:
            self.send_file(path)

    def info(self, commit):
        lfs = {name: {"sha256": hashlib.sha256(b).hexdigest(), "size": len(b)} for name, b in self.server.files.items()}
        siblings = [
            {"rfilename": name, "size": facts["size"], "blobId": "0", "lfs": facts | {"pointerSize": 1}}
            for name, facts in lfs.items()
        ]
        return {"id": "a/b", "sha": self.server.answers_with or commit, "siblings": siblings, **self.server.info}

    def reply(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, path):
        content = self.server.sent.get(path.rpartition("/")[2]) or self.server.files.get(path.rpartition("/")[2])
        if content is None:
            return self.send_error(404)
        mark = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == mark:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", mark)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start : max(start, stop)])
        return None


@pytest.fixture
def host(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.files, server.sent, server.info = {}, {}, {}  # what it says it has; what it sends instead
    server.asked, server.cuts, server.answers_with = [], [], None
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    for variable in ("HF_HUB_OFFLINE", "ENCODER_FILE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    import huggingface_hub  # slow, and few tests need it

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


class Built(nn.Module):
    def __init__(self, family, weights, config, **options):
        super().__init__()
        self.family, self.weights, self.config, self.options = family, weights, config, options


@pytest.fixture
def builder(monkeypatch):
    """A stand-in for the families that wants one key."""

    def from_upstream(family, weights, config, **options):
        if "w" not in weights:
            raise InputError(f"The weights do not fit '{family}'; missing: w.")
        return Built(family, weights, config, **options)

    monkeypatch.setitem(sys.modules, "lib.encoders.upstream", SimpleNamespace(from_upstream=from_upstream))


@pytest.fixture
def tiny(tmp_path, monkeypatch, host, builder):
    """Have the manifests name tiny files; each call changes the first (or a named) file of an encoder."""
    (tmp_path / "encoders").mkdir()
    monkeypatch.setattr(manifests, "MANIFESTS", tmp_path)
    for encoder in CHECKPOINTS:
        manifest = json.loads((MANIFESTS / "encoders" / f"{encoder}.json").read_text())
        for entry in manifest["files"]:
            entry.update(bytes=None, floats=None)
            for place in entry["places"]:
                if place["kind"] == "url":
                    place["url"] = f"{host.url}/{entry['file']}"
        (tmp_path / "encoders" / f"{encoder}.json").write_text(json.dumps(manifest))

    def change(name, **changes):
        encoder, _, file = name.partition(":")
        path = tmp_path / "encoders" / f"{encoder}.json"
        manifest = json.loads(path.read_text())
        next(entry for entry in manifest["files"] if file in ("", entry["id"])).update(changes)
        path.write_text(json.dumps(manifest))

    return change


WEIGHTS = save({"w": torch.arange(50_000.0)})
SUM = hashlib.sha256(WEIGHTS).hexdigest()


def lies(name):
    """Return what lies where the file of a checkpoint belongs, the lock of the downloader aside."""
    folder = find_checkpoint(name).path.parent
    return sorted(path.name for path in folder.iterdir() if path.name != ".fetching") if folder.is_dir() else []


def refused(name, said):
    from lib.encoders.checkpoints import fetch_checkpoint

    with pytest.raises(InputError, match=said) as refusal:
        fetch_checkpoint(name)
    return str(refusal.value)


def pickled(content, path):
    torch.save(content, path)
    return path.read_bytes()
