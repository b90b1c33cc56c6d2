"""Published encoders by name: files taken in, checked at each loading, options, and nothing stored of a wrong one."""

import argparse
import json
import sys

import pytest
import torch
from checkpoint_host import SUM, WEIGHTS, lies, pickled, refused
from safetensors.torch import save
from tiny_published import noise

from lib import store
from lib.encoders import ENCODERS, SHIPPED, checkpoints, encoder_version, frozen, load_encoder, readings, upstream
from lib.encoders.checkpoints import fetch_checkpoint, load_checkpoint
from lib.encoders.manifests import CHECKPOINTS, find_checkpoint
from lib.encoders.upstream import expected_shapes
from lib.errors import InputError
from lib.layer_store import build_layers, load_blocks, load_layers
from lib.paths import MANIFESTS, scratch
from lib.store import build_store, load_embeddings

# ---- a file on disk ------------------------------------------------------------------------------------------------


def test_a_file_on_disk_is_checked_the_same_way_and_copied_to_its_place(host, tiny, tmp_path, monkeypatch):
    tiny("eat", sha256=SUM)
    mine = tmp_path / "mine.bin"
    monkeypatch.setenv("ENCODER_FILE", str(mine))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("eat", "no such file")
    mine.write_bytes(WEIGHTS[:-1] + b"x")
    assert "eat:fairseq" in refused("eat", "not the file it must be")  # what a converted copy may be taken in as
    assert lies("eat") == []
    mine.write_bytes(WEIGHTS)
    place = find_checkpoint("eat").path
    assert fetch_checkpoint("eat") == place and place.read_bytes() == WEIGHTS and mine.exists()
    monkeypatch.delenv("ENCODER_FILE")
    mine.unlink()
    assert torch.equal(load_checkpoint("eat").weights["w"], torch.arange(50_000.0))
    assert lies("eat") == ["lock.json", place.name] and host.asked == []


def test_an_unknown_file_on_disk_is_recorded_if_it_fits(host, tiny, tmp_path, monkeypatch):
    mine = tmp_path / "converted.safetensors"
    monkeypatch.setenv("ENCODER_FILE", str(mine))
    mine.write_bytes(save({"v": torch.ones(3)}))
    refused("eat:fairseq", "missing: w")
    assert mine.exists() and lies("eat:fairseq") == []
    mine.write_bytes(WEIGHTS)
    fetch_checkpoint("eat:fairseq")
    assert json.loads(find_checkpoint("eat:fairseq").lock.read_text())["sha256"] == SUM
    mine.write_bytes(save({"w": torch.ones(3)}))
    refused("eat:fairseq", "not the file it must be: .*recorded in")
    assert find_checkpoint("eat:fairseq").path.read_bytes() == WEIGHTS


def test_the_file_of_a_base_version_is_not_taken_for_the_finetuned_one(host, tiny, tmp_path, monkeypatch):
    """Its network would fit; the fine-tuned file has a classifier more, which the manifest counts."""
    tiny("sslam-plus", floats=50_001)
    monkeypatch.setenv("ENCODER_FILE", str(tmp_path / "mine"))
    (tmp_path / "mine").write_bytes(WEIGHTS)
    refused("sslam-plus", r"'mine' holds 50,000 numbers, SSLAM\+ has 50,001: it is another encoder's file")
    assert lies("sslam-plus") == []
    (tmp_path / "mine").write_bytes(save({"w": torch.arange(50_000.0), "head.bias": torch.ones(1)}))
    assert fetch_checkpoint("sslam-plus").is_file()


def test_a_file_put_in_its_place_by_hand_is_found(host, tiny, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = find_checkpoint("eat:fairseq").path
    place.parent.mkdir(parents=True)
    place.write_bytes(WEIGHTS)
    assert fetch_checkpoint("eat:fairseq") == place and lies("eat:fairseq") == ["lock.json", place.name]


def test_a_scratch_that_cannot_be_written_is_said(host, tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNMUTE_CACHE", str(tmp_path / "file"))
    refused("eat", "cannot be used .* point UNMUTE_CACHE elsewhere")


# ---- by name -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_published_encoder_is_loaded_by_its_name_from_its_fetched_file(published, name):
    published.put(name)
    encoder, entry, manifest = load_encoder(name), ENCODERS[name], find_checkpoint(name).manifest
    assert (entry.label, entry.base or None) == (manifest["label"], manifest["base"])
    assert entry.kind == ("supervised" if name.endswith("-plus") else "base")
    encoding = encoder(encoder.spectrogram(noise(0)))
    assert encoding.tokens.shape == (1, encoding.grid[0] * encoding.grid[1], encoder.geometry.dim)
    is_mean = torch.allclose(encoding.cls, encoding.tokens.mean(1), atol=1e-5)
    assert entry.cls == ("mean" if is_mean else "native") and is_mean == ("beats" in name or name == "dasheng")
    assert not encoder.training and not any(weight.requires_grad for weight in encoder.parameters())
    assert load_encoder(name) is encoder  # read once


def test_weights_that_are_not_here_are_one_sentence_with_the_command_and_nothing_is_downloaded(host, tiny):
    with pytest.raises(InputError, match=r"The weights of EAT .*are not here: `make checkpoints ENCODERS=eat` fetches"):
        load_encoder("eat")
    with pytest.raises(InputError, match=r"`make checkpoints ENCODERS=beats-plus:cpt1` fetches .*ENCODER_FILE=path"):
        load_encoder("beats-plus-cpt1")
    assert host.asked == [] and lies("eat") == []


@pytest.mark.parametrize("fault", ["absent", "one byte", "truncated", "missing key", "other objects", "other weights"])
def test_of_a_wrong_file_nothing_is_stored(published, cheap_clips, fault):
    path = published.put("eat")
    if fault in ("one byte", "truncated", "other weights"):  # once the right one is known
        load_encoder("eat")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if fault == "one byte" else content[:-1000])
        if fault == "other weights":
            published.put("eat", seed=1)
    elif fault == "absent":
        path.unlink()
    elif fault == "missing key":
        weights = published.weights("eat")
        del weights["blocks.0.norm1.bias"]
        published.put("eat", weights)
    else:
        published.put("eat", {"model": published.weights("eat"), "cfg": argparse.Namespace()})
    said = {"absent": "are not here", "missing key": r"missing: blocks\.0\.norm1\.bias", "other objects": "argparse"}
    for build in (build_store, build_layers):
        with pytest.raises(InputError, match=said.get(fault, "not the file it must be: .*recorded in")) as refusal:
            build(["log-mel" if build is build_store else "pocket-eat", "eat"], "soundscapes", {"train": 3})
        assert "\n" not in str(refusal.value)
    assert not (scratch() / "store").exists()


def test_a_changed_file_is_read_anew_in_the_same_process(published):
    path = published.put("sslam")
    first = load_encoder("sslam")
    published.put("sslam", seed=1)
    path.with_name("lock.json").unlink()
    assert load_encoder("sslam") is not first


# ---- versions ------------------------------------------------------------------------------------------------------


def version_of(name):
    return encoder_version(name, load_encoder(name))


def test_the_version_tells_weights_options_and_code_apart(published, monkeypatch):
    published.put("eat")
    plain = version_of("eat")
    assert list(plain) == ["encoder", "weights", "geometry", "encoder_code", "torch"] and version_of("eat") == plain
    silent = version_of("eat-silence")
    assert silent["weights"] == plain["weights"] and silent["geometry"] != plain["geometry"]
    assert version_of("eat-bfloat16")["geometry"] not in (plain["geometry"], silent["geometry"])
    monkeypatch.setattr(upstream, "_code", lambda module: "edited")
    readings._loaded.cache_clear()
    edited = version_of("eat")
    assert edited["geometry"] != plain["geometry"] and edited["weights"] == plain["weights"]
    monkeypatch.undo()


def test_other_weights_are_another_version(published):
    versions = []
    for seed in (0, 1):
        published.put("dasheng", seed=seed).with_name("lock.json").unlink(missing_ok=True)
        versions.append(version_of("dasheng"))
    assert versions[0]["weights"] != versions[1]["weights"] and versions[0]["geometry"] == versions[1]["geometry"]


# ---- readings ------------------------------------------------------------------------------------------------------


def test_every_reading_can_be_built_and_is_not_its_default(published):
    for name, reading in readings.readings().items():
        published.put(reading.checkpoint)
        encoder = load_encoder(name)
        default = reading.checkpoint.split(":")[0]
        if reading.options:
            assert encoder.geometry != load_encoder(default).geometry, name
        assert name == default or (reading.why.endswith(".") and ENCODERS[name].label != ENCODERS[default].label)


def test_the_papers_map_of_ten_seconds_can_be_had_of_encoders_that_make_another(published):
    full = {"asit": (37, 8), "beats": (62, 8), "asit-10s": (64, 8), "beats-64x8": (64, 8)}
    for name, grid in full.items():
        reading = readings.readings()[name]
        manifest = json.loads((MANIFESTS / "encoders" / f"{reading.checkpoint}.json").read_text())
        shapes = expected_shapes(manifest["family"], manifest["config"])
        weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        encoder = upstream.from_upstream(manifest["family"], weights, manifest["config"], **reading.options)
        encoding = encoder(encoder.spectrogram(noise(0)).to("meta"))
        assert encoding.grid == encoder.grid_of(160_000) == grid


def test_the_first_token_can_stand_for_cls_without_another_store(published, cheap_clips):
    published.put("beats")
    build_store(["beats"], "soundscapes", {"train": 3})
    found = load_embeddings("beats", "soundscapes", "train", 3, "first_token")
    assert torch.equal(found.cls, found.tokens[:, 0].float())
    usual = load_embeddings("beats", "soundscapes", "train", 3, ENCODERS["beats"].cls)
    assert torch.equal(usual.cls, found.tokens.float().mean(1))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"eat-2": {"checkpoint": "eta"}}, "Unknown checkpoint 'eta'.*Did you mean 'eat'"),
        ({"eat-2": {"checkpoint": "eat", "options": {"pading": "silence"}}}, "Unknown option of 'eat-2'.*'padding'"),
        ({"eat-2": {"check": "eat"}}, r"'readings\.json' is damaged"),
        ({"eat": {"checkpoint": "eat"}}, "an entry 'eat': .*not that of a checkpoint"),
        ({"../eat": {"checkpoint": "eat"}}, "lower-case letters, digits and single hyphens"),
        ({"pocket-eat": {"checkpoint": "eat"}}, "'pocket-eat', which is another encoder's name"),
        ([], r"'readings\.json' is damaged"),
    ],
)
def test_an_entry_that_cannot_be_is_one_clear_sentence(published, entry, said):
    (readings.MANIFESTS / "readings.json").write_text(json.dumps(entry))
    with pytest.raises(InputError, match=said):
        readings.entries(SHIPPED)


def test_a_wrong_value_of_an_option_is_said_when_it_is_loaded(published):
    entry = {"eat-2": {"checkpoint": "eat", "options": {"padding": "silent"}}}
    (readings.MANIFESTS / "readings.json").write_text(json.dumps(entry))
    published.put("eat")
    with pytest.raises(InputError, match="Unknown padding 'silent'.*Did you mean 'silence'"):
        readings.load_reading("eat-2")


# ---- the store -----------------------------------------------------------------------------------------------------


def test_a_published_encoder_is_read_once_for_all_its_shards_and_not_shard_by_shard(
    published, cheap_clips, monkeypatch
):
    real, read, tasks = checkpoints.load_present, [], []
    monkeypatch.setattr(checkpoints, "load_present", lambda name, **options: read.append(name) or real(name, **options))
    made = store._build_shard
    monkeypatch.setattr(store, "_build_shard", lambda *task: tasks.append((*task[0], task[2])) or made(*task))
    for name in ("eat", "sslam"):
        published.put(name)
    build_store(["eat", "random-vit", "sslam", "log-mel"], "soundscapes", {"train": 8, "val": 4})  # six shards
    assert len(read) <= 3 * 2  # to tell its version, to encode, to tell its grid
    shards = ["train"] * 4 + ["val"] * 2
    assert tasks == [
        *(("random-vit", "log-mel", split) for split in shards),
        *((name, split) for name in ("eat", "sslam") for split in shards),
    ]


@pytest.mark.parametrize(("asked", "processes"), [("", 1), ("cuda", 1), ("cpu", None)])
def test_on_a_gpu_one_process_runs_a_published_encoder_and_the_shipped_have_all(
    published, cheap_clips, monkeypatch, asked, processes
):
    published.put("eat")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(frozen, "device", lambda: torch.device("cpu"))
    monkeypatch.setenv("UNMUTE_DEVICE", asked)
    real, found = store.run_parallel, {}

    def noted(function, tasks, workers):
        found.update({name: workers for task in tasks for name in task[0]})
        return real(function, tasks, 1)

    monkeypatch.setattr(store, "run_parallel", noted)
    build_store(["eat", "log-mel"], "soundscapes", {"train": 2})
    assert found == {"eat": processes, "log-mel": None}
    assert len(load_embeddings("eat", "soundscapes", "train", 2)) == 2


@pytest.mark.parametrize("name", ["amae", "asit", "beats", "eat", "sslam", "dasheng"])
def test_blocks_and_the_last_layer_are_stored_of_every_family(published, cheap_clips, name):
    published.put(name)
    encoder = load_encoder(name)
    last = encoder.geometry.depth - 1
    build_store([name], "soundscapes", {"train": 3})
    build_layers([name], "soundscapes", {"train": 3})
    build_layers([name], "soundscapes", {"train": 3}, blocks=[last])
    tokens = load_embeddings(name, "soundscapes", "train", 3).tokens
    block = load_layers(name, "soundscapes", "train", 3, [last])
    assert torch.equal(load_blocks(name, "soundscapes", "train", 3, [last]).tokens, block.tokens)
    normed = encoder.network.norm(block.tokens.float())
    torch.testing.assert_close(normed, tokens.float(), atol=2e-2, rtol=2e-2)
    fresh = encoder(encoder.spectrogram(noise(502)))  # clip 2 of train
    torch.testing.assert_close(tokens[2].float(), fresh.tokens[0], atol=5e-3, rtol=2e-3)


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_says_size_and_licence_and_goes_on_after_a_failure(host, tiny, monkeypatch, capsys, tmp_path):
    host.files["pytorch_model.bin"] = pickled({"w": torch.ones(3)}, tmp_path / "a.bin")
    monkeypatch.setattr(sys, "argv", ["checkpoints", "eat", "amae"])
    with pytest.raises(SystemExit, match="1 of 2 checkpoints could not be fetched; the others are complete"):
        checkpoints.main()
    said = capsys.readouterr()
    assert "A-MAE ('pytorch_model.bin', 343 MB): licence CC BY-NC 4.0; non-commercial use only" in said.out
    assert "LICENSE file forbids commercial use" in said.out and "complete: " in said.out
    assert said.err.count("EAT ('model.safetensors', 360 MB) could not be fetched") == 1 and "B/s" not in said.err


def test_the_command_takes_one_name_with_a_file_on_disk(monkeypatch):
    monkeypatch.setenv("ENCODER_FILE", "weights.pt")
    monkeypatch.setattr(sys, "argv", ["checkpoints"])
    with pytest.raises(SystemExit, match="say which checkpoint it is"):
        checkpoints.main()
