"""The embedding store: complete or not at all, checked, resumable."""

import errno
import json
import threading

import numpy as np
import pytest
import torch

from lib import files, shards, store
from lib.data.datasets import Soundscapes
from lib.errors import InputError
from lib.store import build_store, load_embeddings, store_folder

COUNTS = {"train": 5, "val": 3}


@pytest.fixture(autouse=True)
def cheap_clips(monkeypatch):
    """Two-clip shards of noise: the store does not care what a clip sounds like."""
    monkeypatch.setattr(shards, "SHARD_CLIPS", 2)
    monkeypatch.setattr(store, "usable_audio", lambda data, split, i, view: noise(i + 100 * len(split) + 1000 * view))


def noise(seed):
    return (0.1 * np.random.default_rng(seed).standard_normal(160_000)).astype(np.float32)


def build(encoders=("log-mel",), counts=COUNTS):
    return build_store(encoders, "soundscapes", counts)


def folder(split="train"):
    return store_folder("log-mel", "soundscapes", split, COUNTS[split])


def shard_bytes(split="train"):
    return {path.name: path.read_bytes() for path in sorted(folder(split).glob("shard-*"))}


def test_embeddings_come_back_in_the_order_of_the_clips():
    build()
    data = load_embeddings("log-mel", "soundscapes", "train", 5)
    assert data.tokens.shape == (5, 248, 128) and data.tokens.dtype == torch.float16
    assert data.cls.shape == (5, 128) and data.targets.shape == (5, 16) and data.grid == (31, 8)
    encoder = store.load_encoder("log-mel")
    fresh = torch.cat([encoder(encoder.spectrogram(noise(i + 500))).tokens for i in range(5)])
    torch.testing.assert_close(data.tokens.float(), fresh, atol=2e-3, rtol=2e-3)


def test_a_second_build_computes_nothing_and_changes_no_byte(monkeypatch):
    assert len(build()) == 2
    before = {p: p.read_bytes() for p in folder().rglob("*")}
    monkeypatch.setattr(store, "_build_shard", None)  # would fail if it were called
    assert build() == []
    assert {p: p.read_bytes() for p in folder().rglob("*")} == before


def test_every_view_of_few_shot_clips_is_stored_with_its_own_sound_and_labels():
    lines = build_store(("log-mel",), "forest-few-shot", COUNTS)
    assert len(lines) == 6 and "log-mel / forest-few-shot / train / view 4: not there yet" in lines
    views = [load_embeddings("log-mel", "forest-few-shot", "train", 5, view=view) for view in range(5)]
    encoder, labels = store.load_encoder("log-mel"), store.load_dataset("forest-few-shot")
    for view, data in enumerate(views):
        fresh = encoder(encoder.spectrogram(noise(500 + 1000 * view))).tokens[0]
        torch.testing.assert_close(data.tokens[0].float(), fresh, atol=2e-3, rtol=2e-3)
        assert np.array_equal(data.targets, labels.targets("train", 5, view))
    assert len({data.targets.numpy().tobytes() for data in views}) > 1
    assert build_store(("log-mel",), "forest-few-shot", COUNTS) == []


def test_cls_can_be_the_mean_or_the_first_token():
    build()
    native, mean, first = (
        load_embeddings("log-mel", "soundscapes", "val", 3, mode) for mode in ("native", "mean", "first_token")
    )
    torch.testing.assert_close(mean.cls, native.tokens.float().mean(1))
    torch.testing.assert_close(first.cls, native.tokens[:, 0].float())


@pytest.mark.parametrize("harm", ["flip a byte", "truncate", "delete"])
def test_a_harmed_shard_is_refused_and_then_alone_computed_again(harm, monkeypatch):
    build()
    intact = shard_bytes()
    path = folder() / "shard-00001.safetensors"
    if harm == "delete":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(path.read_bytes()[:-50])
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(
        InputError, match=r"shard-00001\.safetensors' .* missing, truncated or damaged.*keeps the others"
    ):
        load_embeddings("log-mel", "soundscapes", "train", 5)

    built, real = [], store._build_shard
    monkeypatch.setattr(store, "_build_shard", lambda *task: built.append(task) or real(*task))
    (line,) = build()
    assert "1 damaged shard(s) computed again (first: shard-00001.safetensors)" in line
    assert [task[-1] for task in built] == [1] and shard_bytes() == intact


def test_shards_are_held_against_their_checksums_several_at_a_time(monkeypatch):
    build()
    real, both = shards.sha256, threading.Barrier(2, timeout=30)
    monkeypatch.setenv("UNMUTE_WORKERS", "2")
    monkeypatch.setattr(shards, "sha256", lambda path: both.wait() >= 0 and real(path))
    _, why = shards.open_folder(folder("val"), json.loads((folder("val") / "index.json").read_text())["depends"])
    assert why == ""  # one thread alone would have waited for the other


def test_an_interrupted_build_keeps_its_shards_and_goes_on(monkeypatch):
    real = store._build_shard

    def die_at_the_third(*task):
        if task[2] == "train" and task[-1] == 2:
            raise KeyboardInterrupt
        return real(*task)

    monkeypatch.setattr(store, "_build_shard", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        build()
    kept = shard_bytes()
    assert len(kept) == 2
    with pytest.raises(InputError, match="not complete; run notebook 01"):
        load_embeddings("log-mel", "soundscapes", "train", 5)
    monkeypatch.setattr(store, "_build_shard", real)
    assert any("resumed after 2 shard(s)" in line for line in build())
    assert kept.items() < shard_bytes().items()


def test_two_runs_on_one_store_at_once_do_no_harm(monkeypatch):
    """The second run finishes while the first is half-way; what the first then does takes nothing back."""
    real, tasks = store._build_shard, []

    def after_another_run(*task):
        tasks.append(task)
        if len(tasks) == 2:  # of the first run; by then it has one shard
            monkeypatch.setattr(store, "_build_shard", real)
            build()
            monkeypatch.setattr(store, "_build_shard", after_another_run)
        if len(tasks) > 1:
            assert len(load_embeddings("log-mel", "soundscapes", "train", 5)) == 5
        return real(*task)

    monkeypatch.setattr(store, "_build_shard", after_another_run)
    build()
    assert len(tasks) == 5
    monkeypatch.setattr(store, "_build_shard", None)  # would fail if it were called
    assert build() == [] and len(load_embeddings("log-mel", "soundscapes", "train", 5)) == 5


def test_a_damaged_checksum_file_costs_its_shard_and_nothing_else(monkeypatch):
    real = store._build_shard
    build()
    (folder() / "index.json").unlink()
    (folder() / "sum-00001.json").write_text("[]")
    built = []
    monkeypatch.setattr(store, "_build_shard", lambda *task: built.append(task[-1]) or real(*task))
    (line,) = build()
    assert "resumed after 2 shard(s)" in line and built == [1]


def test_a_full_disk_stops_with_a_sentence_and_what_was_done_stays(monkeypatch):
    real, written = files.save_file, []

    def fills_up(*arguments, **options):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(files, "save_file", fills_up)
    with pytest.raises(InputError, match="disk is full .* what is finished is kept"):
        build()
    assert len(shard_bytes()) == 2 and not list(folder().glob(".*.tmp"))
    monkeypatch.setattr(files, "save_file", real)
    build()
    assert len(load_embeddings("log-mel", "soundscapes", "train", 5)) == 5


def test_what_the_store_depends_on_is_named_when_it_changes(monkeypatch):
    build()
    real = Soundscapes.version
    monkeypatch.setattr(Soundscapes, "version", lambda self, *a: {**real(self, *a), "manifest": "other"})
    assert all("rebuilt because manifest changed" in line for line in build())


def test_a_damaged_index_is_built_anew():
    build()
    (folder() / "index.json").write_text("{half")
    assert any("its index is damaged" in line for line in build())
    assert json.loads((folder() / "index.json").read_text())["complete"]


def test_a_bad_clip_is_named(monkeypatch):
    monkeypatch.undo()

    class Silent:
        audio = np.zeros(160_000, dtype=np.float32)

    monkeypatch.setattr(Soundscapes, "scene", lambda self, split, index, view: Silent)
    with pytest.raises(InputError, match="clip 0 of soundscapes/train is silent"):
        store.usable_audio(store.load_dataset("soundscapes"), "train", 0, 0)


def test_an_unknown_cls_mode_or_too_many_clips_are_clear_errors():
    with pytest.raises(InputError, match="Unknown cls mode 'average'"):
        load_embeddings("log-mel", "soundscapes", "train", 5, "average")
    with pytest.raises(InputError, match="9999 clips were asked"):
        build(counts={"val": 9999})
