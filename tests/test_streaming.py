"""Embeddings left on disk: the same numbers bit for bit, in memory that does not grow with the store."""

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lib import profiles, shards, streaming
from lib.engine import StackedTraining
from lib.engine_heads import STACKED
from lib.errors import InputError
from lib.heads import HEADS
from lib.paths import REPOSITORY
from lib.results import make_cell
from lib.shards import close_folder, write_shard
from lib.store import load_embeddings, store_folder
from lib.streaming import (
    Labels,
    Shards,
    Streamed,
    check_room,
    from_disk,
    memory_share,
    on_device,
    trained_bytes,
    within_memory,
)
from lib.train import Run

GRID, DIM, COUNTS = (4, 3), 32, {"train": 21, "val": 9, "test": 5}
PROFILE = replace(
    profiles.PROFILES["smoke"], name="tiny", groups=(replace(profiles.PROFILES["smoke"].groups[0], clips=COUNTS),)
)
CPU = torch.device("cpu")


@pytest.fixture
def cell(monkeypatch):
    """A cell whose store holds noise, in shards of four clips."""
    monkeypatch.setattr(shards, "SHARD_CLIPS", 4)
    cell = make_cell("pocket-eat", "soundscapes", "linear")
    for split, count in COUNTS.items():
        folder, index = store_folder(cell.encoder, cell.dataset, split, count), {"shards": {}}
        generator = torch.Generator().manual_seed(count)
        for number in shards.shards_of(count):
            clips = len(shards.clips_of(number, count))
            tokens = torch.randn(clips, GRID[0] * GRID[1], DIM, generator=generator).half()
            tensors = {"tokens": tokens, "cls": torch.randn(clips, DIM, generator=generator).half()}
            index["shards"][shards.shard_name(number)] = write_shard(folder, number, tensors, "made")
        close_folder(folder, index, grid=GRID)
    return cell


def both(cell, split, mode):
    cell = replace(cell, cls_mode=mode)
    read = load_embeddings(cell.encoder, cell.dataset, split, COUNTS[split], mode)
    return read, from_disk(cell, PROFILE, split)


@pytest.mark.parametrize("mode", ["native", "mean", "first_token"])
def test_what_is_read_from_disk_is_what_is_loaded(cell, mode):
    loaded, left = both(cell, "train", mode)
    assert torch.equal(left.cls, loaded.cls) and torch.equal(left.targets, loaded.targets)
    assert left.grid == loaded.grid and len(left) == len(loaded) and left.tokens.shape == loaded.tokens.shape
    for index in (torch.tensor([20, 3, 4, 3, 0]), torch.tensor([7])):
        assert torch.equal(left.tokens.index_select(0, index), loaded.tokens[index])
        assert torch.equal(left.tokens[index], loaded.tokens[index])
    for part in (slice(2, 11), slice(1), slice(18, 99), slice(None)):
        assert torch.equal(left.tokens[part], loaded.tokens[part])
    assert all(map(torch.equal, left.tokens.split(8), loaded.tokens.split(8)))
    with pytest.raises(InputError, match="along dimension 0, not 1"):
        left.tokens.index_select(1, torch.tensor([0]))


@pytest.mark.parametrize("head", STACKED)
def test_every_head_is_trained_on_disk_as_in_memory_bit_for_bit(cell, head):
    runs = [Run(head, lr, 1e-4, 2, 6, seed, seed, prototypes=2) for lr, seed in ((1e-3, 0), (5e-3, 1))]
    results = []
    for train, val in zip(both(cell, "train", "native"), both(cell, "val", "native"), strict=True):
        training = StackedTraining(runs, train, products="float32").advance(2)
        results.append([training.scores(val), *training.state(1).values()])
    assert all(map(torch.equal, *results))


def test_a_harmed_shard_is_refused_and_one_that_was_checked_is_not_read_again(cell, monkeypatch):
    folder = store_folder(cell.encoder, cell.dataset, "train", COUNTS["train"])
    from_disk(cell, PROFILE, "train")
    monkeypatch.setattr(streaming, "read_shard", lambda *_: pytest.fail("it was checked before"))
    from_disk(cell, PROFILE, "train")
    monkeypatch.undo()
    path = folder / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    index = {"shards": {path.name: {"clips": 4, "sha256": "0" * 64}}}
    with pytest.raises(InputError, match=r"shard-00002\.safetensors' .* missing, truncated or damaged"):
        Shards(folder, index["shards"])
    path.unlink()
    with pytest.raises(InputError, match=r"shard-00002\.safetensors' .* missing, truncated or damaged"):
        Shards(folder, index["shards"])


def test_a_shard_that_is_cut_off_during_a_training_is_no_noise(cell):
    tokens = from_disk(cell, PROFILE, "train").tokens
    path = store_folder(cell.encoder, cell.dataset, "train", COUNTS["train"]) / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match="was cut off while it was read"):
        tokens[torch.tensor([3])]


def test_only_what_does_not_fit_is_left_on_disk(cell, monkeypatch):
    size = sum(path.stat().st_size for path in store_folder("*", "*", "*", 0).parents[4].rglob("shard-*"))
    assert streaming.stored_bytes(cell, PROFILE) == size
    assert torch.is_tensor(within_memory(cell, PROFILE)("val").tokens)
    for share, streams in ((size, False), (size - 1, True)):
        monkeypatch.setattr(streaming, "SMALL", 0)
        monkeypatch.setattr(streaming, "memory_share", lambda share=share: share)
        assert isinstance(within_memory(cell, PROFILE)("val").tokens, Streamed) is streams


def test_a_process_may_fill_what_is_asked_or_its_share_of_half_the_memory(monkeypatch):
    monkeypatch.setenv("UNMUTE_WORKERS", "1")
    alone = memory_share()
    monkeypatch.setenv("UNMUTE_WORKERS", "4")
    assert memory_share() == alone // 4 > 0
    monkeypatch.setenv("UNMUTE_MEMORY", "1.5")
    assert memory_share() == 1_500_000_000
    monkeypatch.setenv("UNMUTE_MEMORY", "much")
    with pytest.raises(InputError, match="UNMUTE_MEMORY is 'much'; it must be a number of gigabytes"):
        memory_share()


def test_runs_that_do_not_fit_are_refused_and_what_is_small_is_never_asked_about(monkeypatch):
    paper = profiles.PROFILES["paper"]
    sizes = (768, 527, (64, 8), 10)
    need = trained_bytes(paper, "linearc", *sizes)
    assert need == 16 * 25 * (512 * 768 * 527 + 527)
    monkeypatch.setenv("UNMUTE_MEMORY", "82.8")
    said = r"'a--b--linearc' needs 82\.9 GB .* a process may take 82\.8 GB here; .*UNMUTE_MEMORY=83.*HEADS="
    with pytest.raises(InputError, match=said):
        check_room("a--b--linearc", need, "cpu")
    monkeypatch.setenv("UNMUTE_MEMORY", "83")
    check_room("a--b--linearc", need, "cpu")
    monkeypatch.setenv("UNMUTE_MEMORY", "0")
    largest = trained_bytes(profiles.PROFILES["pocket-full"], "linearc", 128, 50, (31, 8), 20)
    check_room("pocket", largest, "cpu")
    assert trained_bytes(paper, "linear", *sizes) == 16 * 25 * (768 * 527 + 527)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_fits_into_no_memory_is_counted_all_the_same(head):
    many = 10_000_000  # classes, the vectors of one of them 3 kB: linearc would take 16 TB for a single run
    assert trained_bytes(profiles.PROFILES["paper"], head, 768, many, (64, 8), 1) > 16 * 25 * many


def test_a_gpu_is_judged_by_its_own_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=int(40e9)), raising=False
    )
    monkeypatch.setenv("UNMUTE_MEMORY", "0")
    check_room("a", int(39e9), "cuda")
    with pytest.raises(InputError, match=r"needs 41\.0 GB .* the GPU has 40\.0 GB here"):
        check_room("a", int(41e9), "cuda")


def test_a_device_is_the_processor_unless_another_is_asked_for_and_there(monkeypatch):
    assert streaming.device(streaming.asked_device()) == CPU
    monkeypatch.setenv("UNMUTE_DEVICE", "gpu")
    with pytest.raises(InputError, match="UNMUTE_DEVICE is 'gpu'; it must be cpu or cuda"):
        streaming.asked_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="'cuda', but PyTorch finds no GPU here"):
        streaming.device("cuda")


@pytest.mark.parametrize("resident", [True, False])
def test_embeddings_on_a_device_are_the_same_and_their_labels_come_back_as_numbers(cell, resident):
    loaded, left = both(cell, "train", "native")
    for data in (loaded, left):
        moved = on_device(data, CPU, resident)  # the processor stands for a GPU
        assert torch.is_tensor(moved.tokens) is resident and moved.tokens.device == CPU
        assert torch.equal(moved.tokens[torch.tensor([9, 2])], loaded.tokens[[9, 2]])
        assert isinstance(moved.targets, Labels) and (moved.targets.numpy() == loaded.targets.numpy()).all()
        assert type(moved.targets[:3] * 2) is torch.Tensor  # they are labels no more once anything is computed


LIMITED = """
import resource, sys, torch
from pathlib import Path
from lib.engine import StackedTraining
from lib.shards import write_shard
from lib.store import Embeddings, read_shards
from lib.streaming import Shards, Streamed
from lib.train import Run

def train(tokens, cls):
    targets = (torch.arange(len(tokens))[:, None] % 5 == torch.arange(5)).float()
    data = Embeddings(tokens, cls, targets, (16, 8))
    training = StackedTraining([Run("protobin", 1e-2, 1e-4, 1, 32, prototypes=2)], data, products="float32")
    return training.advance(1).scores(data).shape

folder, generator = Path(sys.argv[1]), torch.Generator().manual_seed(0)
tensors = {"tokens": torch.randn(32, 128, 256, generator=generator).half(), "cls": torch.zeros(32, 256)}
shards = {f"shard-{n:05d}.safetensors": write_shard(folder, n, tensors, "") for n in range(120)}  # 252 MB
# What torch keeps from the first training on, its threads' memory too, differs by machine: it is not what is limited.
train(*read_shards(folder, dict(list(shards.items())[:4]), ""))
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 160 * 2**20,) * 2)
found = Shards(folder, shards)
print(train(Streamed(found.shape, found, torch.device("cpu")), torch.zeros(3840, 256)))
try:
    train(*read_shards(folder, shards, ""))
except (MemoryError, RuntimeError) as error:
    print("does not fit")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited as Linux does it")
def test_a_store_larger_than_the_memory_is_trained_on(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    # Large pieces go back to the system when they are freed: what is taken does not hang on how the heap breaks up.
    environment["MALLOC_MMAP_THRESHOLD_"] = "131072"
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert said.stdout.splitlines() == ["torch.Size([1, 3840, 5])", "does not fit"], said.stderr
