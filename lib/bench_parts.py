"""The rest of the benchmark: what cost grows with, peak memory, the store's read rate, and a GPU where there is one."""

import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import torch

from lib.bench_heads import CPU, Start, clocked, engine, loops_of, plain, product_rate, reference
from lib.bench_sizes import QUICK, Plan, Shape, made_embeddings, made_runs, necessary_products
from lib.engine_heads import takes_narrow_products
from lib.engine_pooling import pieces
from lib.files import sha256, temporary_folder, write_tensors
from lib.hardware import has_bfloat16
from lib.heads import FAMILIES
from lib.paths import scratch
from lib.shards import SHARD_CLIPS, read_shard, shard_name
from lib.store import FILLED_BY, Embeddings
from lib.workers import start_worker

# ---- what cost grows with ----------------------------------------------------------------------------------


def cost_rows(plan: Plan) -> Iterator[dict]:
    """Yield seconds an epoch while one size varies and the others stay: the engine, and the textbook loop.

    The textbook loop trains one configuration; its time is multiplied by their number.
    """
    for head in plan.cost_heads:
        for varied, values in plan.sweeps.items():
            for value in values:
                shape = _varied(plan.cost, varied, value)
                yield {"head": head, "varied": varied, "value": value, **_epoch_of(head, shape, plan.passes)}


def _varied(shape: Shape, varied: str, value: int) -> Shape:
    if varied == "tokens":
        return replace(shape, grid=(value // shape.grid[1], shape.grid[1]))
    field = {"clips": "clips", "prototypes": "per_class", "configurations": "configurations"}[varied]
    return replace(shape, **{field: value})


def _epoch_of(head: str, shape: Shape, passes: int) -> dict:
    """Return the median seconds of an epoch in both loops, after one that is not counted."""
    data, runs = made_embeddings(shape, shape.clips, 0), made_runs(head, shape, shape.configurations, 30)
    trainings, seconds = (plain(runs[:1], data), engine("auto")(runs, data)), ([], [])
    for epoch in range(1, passes + 2):
        for training, each in zip(trainings, seconds, strict=True):
            each.append(clocked(partial(training.advance, epoch))[0])
    plain_s, engine_s = (statistics.median(each[1:]) for each in seconds)
    return {
        "plain_s": plain_s * shape.configurations,
        "engine_s": engine_s,
        "ratio": plain_s * shape.configurations / engine_s,
        "products": "bfloat16" if takes_narrow_products(head) and has_bfloat16(CPU) else "float32",
        "clips": shape.clips,
        "tokens": shape.tokens,
        "prototypes": shape.per_class,
        "configurations": shape.configurations,
        "threads": torch.get_num_threads(),
        "passes": passes,
        "scaled": shape.configurations > 1,
        "timed": "an epoch of one configuration in the textbook loop, of all in the engine",
    }


# ---- peak memory -------------------------------------------------------------------------------------------


def memory_rows(plan: Plan) -> Iterator[dict]:
    """Yield how much memory each loop takes at most beside the tokens, in a process of its own, at the pocket shape.

    The plain loops hold one configuration at a time, the engine all of them.
    """
    shape = plan.pocket
    with fresh_processes() as pool:
        for head in plan.heads:
            held = {loop: pool.submit(peak_memory, shape, head, loop).result() for loop in MEMORY_LOOPS}
            yield {
                "head": head,
                "shape": shape.name,
                **{f"{loop}_mb": most / 1e6 for loop, most in held.items()},
                "tokens_mb": 2 * shape.batch_size * shape.tokens * shape.dim * 2 / 1e6,
                "configurations": shape.configurations,
                "batch_size": shape.batch_size,
                "timed": "two steps and a scoring of their clips; the plain loops one configuration, the engine all",
            }


@contextmanager
def fresh_processes() -> Iterator[ProcessPoolExecutor]:
    """Give a pool whose every task has a process of its own, which holds nothing that an earlier one freed."""
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context = get_context(method)
    context.set_forkserver_preload([__name__, "lib.figures", "torch._dynamo"])  # imported once, not by each process
    started = {"initializer": start_worker, "initargs": (dict(os.environ),)}
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1, **started) as pool:
        yield pool


MEMORY_LOOPS: dict[str, Start] = {"plain": plain, "reference": reference, "engine": engine("auto")}


def peak_memory(shape: Shape, head: str, loop: str) -> int:
    """Return how many bytes this process holds at most while a loop trains, beyond what it held before.

    Before, the loop has trained on something tiny, so that all code is loaded. To be asked of a fresh process
    (`fresh_processes`): one that holds memory it has freed takes from that, and seems to need nothing.
    """
    torch.set_num_threads(1)
    data = made_embeddings(shape, 2 * shape.batch_size, 0)
    before = 0
    for size, clips in ((QUICK.pocket, made_embeddings(QUICK.pocket, 4, 0)), (shape, data)):
        before = most_bytes(from_now=True)
        runs = made_runs(head, size, shape.configurations if loop == "engine" else 1, 30)
        MEMORY_LOOPS[loop](runs, clips).advance(1).scores(clips)
    return most_bytes() - before


def most_bytes(from_now: bool = False) -> int:
    """Return this process's peak resident memory; on Linux it can be made to count from now.

    Linux's file is read where it is, for `getrusage` there also counts the process that started this one.
    """
    try:
        if from_now:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource  # not on Windows

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if os.uname().sysname == "Darwin" else 1024 * most


# ---- the store ---------------------------------------------------------------------------------------------


def store_rows(plan: Plan) -> list[dict]:
    """Return how fast shards like the store's are read: as bytes, and as the store does, with their checksums.

    They are written to the scratch folder and removed. "warm" is read from memory, where the system still has what
    was just written; "dropped" after the system was asked to forget it, which it may decline.
    """
    shape = plan.pocket
    clip = shape.tokens * shape.dim * 2  # bytes
    data = made_embeddings(shape, max(2, round(plan.store_mb * 1e6 / clip)), 0)
    with temporary_folder(scratch() / "bench", "store") as folder:
        sums = _write_store(folder, data)
        size = sum(path.stat().st_size for path in sums)
        ways = {
            "bytes": lambda: [path.read_bytes() for path in sums],
            "checksum": lambda: [sha256(path) for path in sums],
            "store": lambda: torch.cat([read_shard(path, known, FILLED_BY)["tokens"] for path, known in sums.items()]),
        }
        rows = []
        for cache in ("warm", "dropped") if hasattr(os, "posix_fadvise") else ("warm",):
            seconds = {way: [] for way in ways}
            for _ in range(plan.passes):
                for way, read in ways.items():
                    if cache == "dropped":
                        _forget(sums)
                    seconds[way].append(clocked(read)[0])
            rates = {way: size / 1e6 / statistics.median(each) for way, each in seconds.items()}
            rows += [
                {
                    "read": way,
                    "page_cache": cache,
                    "mb": size / 1e6,
                    "mb_per_s": rate,
                    "share_of_bytes": rate / rates["bytes"],
                    "shards": len(sums),
                    "passes": plan.passes,
                }
                for way, rate in rates.items()
            ]
    return rows


def _write_store(folder: Path, data: Embeddings) -> dict[Path, str]:
    """Write shards as `lib.store` does; return their checksums."""
    sums = {}
    for number, some in enumerate(pieces(len(data), SHARD_CLIPS)):
        path = folder / shard_name(number)
        write_tensors(path, {"tokens": data.tokens[some], "cls": data.cls[some].half()})
        sums[path] = sha256(path)
    return sums


def _forget(paths: dict[Path, str]) -> None:
    """Ask the system to drop what it remembers of these files."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- a GPU -------------------------------------------------------------------------------------------------


def gpu_rows(plan: Plan, device: torch.device) -> Iterator[dict]:
    """Yield a row a head at as20k's shape, all clips on the device: seconds of an epoch of all configurations.

    The engine trains the whole epoch, after a few steps that warm it up; the textbook loop a few steps of one
    configuration, in float32 as torch does it by default, scaled to the epoch and to all configurations.
    """
    data = made_embeddings(plan.as20k, plan.as20k.clips, 0, device)
    for head in plan.gpu_heads:
        yield _gpu_row(head, plan, data, device)


def _gpu_row(head: str, plan: Plan, data: Embeddings, device: torch.device) -> dict:
    shape, few = plan.as20k, _first(data, plan.plain_steps * plan.as20k.batch_size)
    runs, loops = made_runs(head, shape, shape.configurations, 30), loops_of(head, device)
    steps, few_steps = (-(-len(clips) // shape.batch_size) for clips in (data, few))
    training = loops["plain"](runs[:1], few).advance(1)
    plain_s = clocked(partial(training.advance, 2), device)[0] * steps / few_steps * len(runs)
    name = list(loops)[-1]  # the engine with the narrowest products
    loops[name](runs, few).advance(1)
    training = loops[name](runs, data)
    _reset_memory(device)
    engine_s, _ = clocked(partial(training.advance, 1), device)
    operations, kind = necessary_products(head, shape)[1] * len(data) * len(runs), name.split()[-1]
    rate = product_rate(kind, 4 * plan.square, device)
    return {
        "head": head,
        "shape": shape.name,
        "plain_s": plain_s,
        "engine_s": engine_s,
        "ratio": plain_s / engine_s,
        "gemm_share": operations / engine_s / rate,
        "products": kind,
        "gflop": operations / 1e9,
        "gemm_gflops": rate / 1e9,
        "engine_mb": _most_on(device) / 1e6,
        "tokens_mb": data.tokens.nbytes / 1e6,
        "configurations": len(runs),
        "clips": len(data),
        "prototypes": shape.classes * shape.per_class if FAMILIES[head] == "prototype" else None,
        "batch_size": shape.batch_size,
        "scaled": True,
        "timed": f"the whole epoch in the engine; {few_steps} steps of one configuration in the textbook loop",
    }


def _first(data: Embeddings, clips: int) -> Embeddings:
    return replace(data, tokens=data.tokens[:clips], cls=data.cls[:clips], targets=data.targets[:clips])


def _reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _most_on(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else float("nan")
