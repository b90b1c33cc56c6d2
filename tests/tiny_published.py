"""For the tests of published encoders: their manifests with tiny networks, and files of random weights to match."""

import json
import shutil

import numpy as np
import pytest
import torch
from reference_encoders import CONFIGS, random_weights

from lib import layer_store, shards, store
from lib.encoders import manifests, readings
from lib.encoders.manifests import CHECKPOINTS, find_checkpoint
from lib.paths import MANIFESTS


class Published:
    """Puts files where fetched ones lie."""

    def config(self, name):
        return find_checkpoint(name).manifest["config"]

    def weights(self, name, seed=0):
        return random_weights(find_checkpoint(name).family, self.config(name), seed)

    def put(self, name, content=None, seed=0):
        """Write weights, or what is handed over, as the file of a checkpoint; return its path."""
        path = find_checkpoint(name).path
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(self.weights(name, seed) if content is None else content, path)
        return path


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Have the nine manifests describe tiny networks of which nothing is recorded, and offer their files."""
    folder = tmp_path / "manifests"
    (folder / "encoders").mkdir(parents=True)
    shutil.copy(MANIFESTS / "readings.json", folder)
    for name in CHECKPOINTS:
        manifest = json.loads((MANIFESTS / "encoders" / f"{name}.json").read_text())
        manifest["config"] = CONFIGS[manifest["family"]]
        if manifest["family"] in ("eat", "sslam"):
            manifest["config"] = manifest["config"] | {"max_length": 64}
        for entry in manifest["files"]:
            entry.update(bytes=None, floats=None, sha256=None)
        (folder / "encoders" / f"{name}.json").write_text(json.dumps(manifest))
    for module in (manifests, readings):
        monkeypatch.setattr(module, "MANIFESTS", folder)
    monkeypatch.delenv("ENCODER_FILE", raising=False)
    readings._loaded.cache_clear()
    yield Published()
    readings._loaded.cache_clear()


@pytest.fixture
def cheap_clips(monkeypatch):
    """Two-clip shards of noise: the store does not care what a clip sounds like."""
    monkeypatch.setattr(shards, "SHARD_CLIPS", 2)
    for module in (store, layer_store):
        monkeypatch.setattr(module, "usable_audio", lambda data, split, i, view: noise(i + 100 * len(split)))


def noise(seed, seconds=10.0):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds))).astype(np.float32)
