"""A pool of worker processes, one torch thread each, that end with their parent however it ends."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from typing import Any

import torch

from lib.errors import InputError

EVERYTHING = "lib.results"  # imports all that computes

_elsewhere: list[Callable[..., Iterator[Any]]] = []  # where tasks are sent instead, the last while it is open


def core_count() -> int:
    """Return the cores this process may use, or ``UNMUTE_WORKERS`` where it is set."""
    if asked := os.environ.get("UNMUTE_WORKERS"):
        if not asked.isdigit() or int(asked) < 1:
            raise InputError(f"UNMUTE_WORKERS is '{asked}'; it must be a whole number of at least 1.")
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_parallel(
    function: Callable[..., Any], tasks: Iterable[tuple], workers: int | None = None, imported: str = EVERYTHING
) -> Iterator[Any]:
    """Yield ``function(*task)`` for each task, as they finish; `function` must be importable.

    One torch thread a worker: two workers of one thread beat one of two on small matrices, and a fixed number
    of threads is what makes results repeat byte for byte. `imported` is the module that workers have from the start.
    """
    tasks = list(tasks)
    if _elsewhere:
        yield from _elsewhere[-1](function, tasks)
        return
    workers = min(workers or core_count(), len(tasks))
    if workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for task in tasks:
                yield function(*task)
        finally:
            torch.set_num_threads(threads)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=context(imported), initializer=start_worker, initargs=(dict(os.environ),)
    )
    try:
        pending: list[Future] = [pool.submit(function, *task) for task in tasks]
        for done in as_completed(pending):
            yield done.result()
    except BrokenProcessPool as error:
        raise InputError(
            "A worker process ended unexpectedly (out of memory?); run again with a smaller UNMUTE_WORKERS: what is "
            "finished is kept."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def sent_to(run: Callable[..., Iterator[Any]]) -> Iterator[None]:
    """Have `run` do what `run_parallel` is asked for in this block, on its workers: those of `lib.cluster`."""
    _elsewhere.append(run)
    try:
        yield
    finally:
        _elsewhere.pop()


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(*arguments)``, so that tasks of several functions can share a pool."""
    return function(*arguments)


def context(*modules: str) -> BaseContext:
    """Return how processes start: on Linux from a server that has imported these modules once, elsewhere anew."""
    if not sys.platform.startswith("linux"):
        return get_context("spawn")
    forking = get_context("forkserver")
    forking.set_forkserver_preload(list(modules))
    return forking


def start_worker(environment: dict[str, str]) -> None:
    """Prepare a new worker: the environment of who started the pool, one torch thread, an end when its parent ends."""
    os.environ.clear()  # a server of forks still has the environment in which it was started
    os.environ.update(environment)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the one that started it has ended; a server of forks ends with whom it serves."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
