"""Embeddings on request: what is to be done, what it takes, said before it is begun, and then done once."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny_published import noise

from lib import embed as module
from lib import layer_store, shards, store
from lib.embed import ALL, Estimate, Job, embed, estimate, in_words
from lib.encoders import frozen, load_encoder
from lib.errors import InputError
from lib.layer_store import load_blocks, load_layers
from lib.paths import scratch
from lib.store import load_embeddings

COUNTS = {"train": 5, "val": 3}


@pytest.fixture(autouse=True)
def noisy(cheap_clips, monkeypatch):
    monkeypatch.setattr(module, "usable_audio", store.usable_audio)


def job(*encoders, dataset="soundscapes", counts=COUNTS, blocks=None):
    return Job(encoders or ("log-mel",), dataset, counts, blocks)


def done(*encoders, **which):
    said = []
    found = embed(job(*encoders, **which), 1, said.append)
    return found, said


def stored_bytes():
    """Bytes of the tensors in the store, and those of its shards as files."""
    paths = list((scratch() / "store").rglob("shard-*.safetensors"))
    tensors = (tensor for path in paths for tensor in load_file(path).values())
    return sum(tensor.nbytes for tensor in tensors), sum(path.stat().st_size for path in paths), len(paths)


@pytest.mark.parametrize("blocks", [None, (1, 3, 1), ALL])
def test_the_disk_that_is_said_is_the_disk_that_is_taken(blocks):
    (found,), said = done("pocket-eat", blocks=blocks)
    tensors, files, shards = stored_bytes()
    assert found.gigabytes * 1e9 == pytest.approx(tensors, abs=1e-3) and tensors < files < tensors + 2000 * shards
    assert (found.clips, found.shards, found.grid) == (8, 5, (31, 8)) and shards == 5
    what = {None: "the last layer", ALL: "all blocks"}.get(blocks, "blocks 1, 3")
    assert said[0].startswith(f"pocket-eat / soundscapes: {what} of 8 clips, 31 x 8 tokens: ")
    if blocks is None:
        assert len(load_embeddings("pocket-eat", "soundscapes", "train", 5)) == 5
    elif blocks == ALL:
        assert load_layers("pocket-eat", "soundscapes", "val", 3).tokens.shape == (3, 248, 6 * 128)
    else:
        assert load_blocks("pocket-eat", "soundscapes", "val", 3, blocks).tokens.shape == (3, 248, 2 * 128)


@pytest.mark.parametrize("blocks", [None, (0,)])
def test_only_what_is_missing_is_counted_and_done(blocks, monkeypatch):
    encoder = "pocket-eat"
    done(encoder, blocks=blocks)
    (found,), said = done(encoder, blocks=blocks)
    assert (found.clips, found.gigabytes, found.hours) == (0, 0.0, 0.0) and said[0].endswith(": all there")
    *_, folder = next(job(encoder, blocks=blocks).folders(encoder))
    (folder / "shard-00002.safetensors").write_bytes(b"damaged")  # one clip, the last of five
    assert [each.clips for each in estimate(job(encoder, blocks=blocks), 1)] == [1]
    for maker in (store, layer_store):
        real = maker.encoder_version
        monkeypatch.setattr(maker, "encoder_version", lambda *a, real=real: real(*a) | {"weights": "others"})
    monkeypatch.setattr(module, "encoder_version", store.encoder_version)
    assert [each.clips for each in estimate(job(encoder, blocks=blocks), 1)] == [8]


def test_all_is_said_before_anything_is_computed(monkeypatch):
    events = []
    monkeypatch.setattr(module, "build_store", lambda *a: events.append(a) or ["built"])
    monkeypatch.setattr(module, "_tell_grid", lambda *a: None)
    embed(job("log-mel", "random-vit"), 2, events.append)
    assert [type(event) for event in events] == [str, str, str, tuple, str] and events[2].startswith("together: ")
    assert events[3] == (("log-mel", "random-vit"), "soundscapes", COUNTS, 2)


def test_time_is_that_of_a_pass_and_shared_work_is_shared(monkeypatch):
    ticks = iter((8.0, 4.0))  # rendering eight clips, their one front end
    monkeypatch.setattr(module, "_timed", lambda work: (work(), next(ticks)))
    monkeypatch.setattr(module, "_seconds_of", lambda encoder, heard: (16.0, None))
    first, second = estimate(job("log-mel", "random-vit", counts={"train": 8}), 4)
    assert first.clip_seconds == second.clip_seconds == pytest.approx((8 / 2 + 4 / 2 + 16) / 8)
    assert first.hours == pytest.approx(8 * first.clip_seconds / 4 / 3600)


def test_every_view_of_a_clip_counts():
    assert [each.clips for each in estimate(job(dataset="forest-few-shot"), 1)] == [5 * 5 + 3]


def test_a_disk_that_is_too_small_is_said_and_nothing_is_begun(monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(InputError, match=r"needs 0\.5 MB more, but '.*' has 0\.1 MB free"):
        done()
    assert not list(scratch().rglob("shard-*"))


@pytest.mark.parametrize("blocks", [None, (0,)])
def test_the_grid_of_clips_of_another_length_is_theirs(published, monkeypatch, blocks):
    """An encoder of any length speaks of ten seconds; the store must not, of clips of five."""
    for maker in (store, layer_store, module):
        monkeypatch.setattr(maker, "usable_audio", lambda data, split, i, view: noise(i, 5.0))
    for name in ("beats", "dasheng"):
        published.put(name)
        for _ in range(2):
            done(name, blocks=blocks)
        if blocks is None:
            found = load_embeddings(name, "soundscapes", "train", 5)
        else:
            found = load_blocks(name, "soundscapes", "train", 5, blocks)
        assert found.grid == {"beats": (31, 8), "dasheng": (125, 1)}[name] != load_encoder(name).grid
        assert found.tokens.shape[1] == found.grid[0] * found.grid[1]


def test_what_bfloat16_does_to_the_tokens_is_measured_with_the_weights_and_said(published):
    published.put("eat")
    exact, rough = done("eat", "eat-bfloat16")[0]
    assert exact.error is None and 0 < rough.error < 0.05
    tokens = [load_embeddings(name, "soundscapes", "train", 5).tokens.float() for name in ("eat", "eat-bfloat16")]
    assert (tokens[1] - tokens[0]).norm() / tokens[0].norm() == pytest.approx(rough.error, rel=0.2)
    assert "bfloat16 changes its tokens by" in "\n".join(in_words(job("eat", "eat-bfloat16"), [exact, rough], 1))


def test_words_for_large_numbers():
    large = Estimate("eat", 35_827, 1120, (64, 8), 28.2, 1.25, 6.22)
    (line,) = in_words(job("eat", dataset="soundscapes"), [large], 2)
    assert "35,827 clips, 64 x 8 tokens: 28.20 GB on disk, about 6.2 h (1.2 s a clip and core, 2 workers)" in line


@pytest.mark.parametrize(("encoder", "workers"), [("eat", 1), ("log-mel", 3)])
def test_on_a_gpu_one_process_runs_a_published_encoder(published, monkeypatch, encoder, workers):
    published.put("eat")
    asked = []
    monkeypatch.setenv("UNMUTE_WORKERS", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(frozen, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(module, "build_layers", lambda *a: asked.append(a[-2] or 3) or [])
    monkeypatch.setattr(module, "build_store", lambda *a: [])
    monkeypatch.setattr(module, "_tell_grid", lambda *a: None)
    said = []
    embed(job(encoder), say=said.append)
    assert f"core, {workers} worker" in said[0]
    if encoder == "eat":
        embed(job(encoder, blocks=(0,)), say=said.append)
        assert asked == [workers]


def test_published_encoders_have_their_blocks_stored_one_after_the_other(published, monkeypatch):
    groups = []
    for name in ("eat", "sslam"):
        published.put(name)
    monkeypatch.setattr(module, "build_layers", lambda encoders, *_: groups.append(list(encoders)) or [])
    monkeypatch.setattr(module, "_tell_grid", lambda *a: None)
    embed(job("eat", "pocket-eat", "sslam", "random-vit", blocks=(0,)), 1, say=lambda line: None)
    assert groups == [["pocket-eat", "random-vit"], ["eat"], ["sslam"]]


def test_an_estimate_compares_sizes_and_reads_no_shard_through(monkeypatch):
    done("pocket-eat")
    *_, folder = next(job("pocket-eat").folders("pocket-eat"))
    monkeypatch.setattr(shards, "sha256", lambda path: pytest.fail("a shard was read through"))
    assert [each.clips for each in estimate(job("pocket-eat"), 1)] == [0]
    path = folder / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert [each.clips for each in estimate(job("pocket-eat"), 1)] == [2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], "Say which encoders: ENCODERS=eat,sslam"),
        (["eta"], "Unknown encoder 'eta'.*Did you mean 'eat'"),
        (["log-mel", "--datasets", "many-sound"], "Unknown dataset of profile pocket .many-sound.*Did you mean"),
        (["log-mel", "--blocks", "last"], "BLOCKS is 'last'; it must be numbers"),
        (["log-mel", "--blocks", "0", "--datasets", "many-sounds"], "'log-mel' has no blocks"),
        (["pocket-eat", "--blocks", "0,6", "--datasets", "many-sounds"], "has the blocks 0 to 5"),
        (["log-mel", "--profile", "papier"], "Unknown profile 'papier'"),
        (["pocket-eat,eat"], "weights of EAT .*are not here: `make checkpoints ENCODERS=eat`"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_nothing_is_stored(monkeypatch, arguments, said):
    monkeypatch.setattr(sys, "argv", ["embed", *arguments])
    with pytest.raises(SystemExit, match=f"make embed: .*({said})"):
        module.main()
    assert not list(scratch().rglob("shard-*"))


def test_the_command_fills_the_store_for_a_profile(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["embed", "log-mel", "--datasets", "soundscapes", "--profile", "smoke"])
    module.main()
    said = capsys.readouterr().out.splitlines()
    assert "log-mel / soundscapes: the last layer of 56 clips" in said[0] and "not there yet" in said[-1]
    index = next((scratch() / "store").rglob("index.json"))
    assert json.loads(index.read_text())["complete"]
