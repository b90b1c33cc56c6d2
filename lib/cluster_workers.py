"""The other side of `lib.cluster`: how a worker process is made, and what it does with a task."""

import functools
import hashlib
import os
import pickle
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from distributed import Worker, WorkerPlugin, get_worker
from distributed.utils import get_mp_context

from lib.errors import InputError
from lib.paths import MANIFESTS, REPOSITORY, scratch
from lib.workers import EVERYTHING, context, start_worker

TRIES = 3  # of a task whose worker process ends; its machine may be short of memory only for a while
LIBRARIES = ("torch", "numpy", "scipy", "optuna", "safetensors", "dask", "distributed")
SETTINGS = {
    "distributed.worker.multiprocessing-method": "forkserver" if sys.platform.startswith("linux") else "spawn",
    "distributed.worker.profile.enabled": False,  # it would look at the stack a hundred times a second
    # A cell's memory is its embeddings and no result of Dask's: nothing could be spilled, and pausing or ending a
    # worker that is at work would cost the cell.
    **{f"distributed.worker.memory.{step}": False for step in ("target", "spill", "pause", "terminate")},
    "distributed.nanny.pre-spawn-environ": {},  # they would stay in the environment of who starts workers
    "distributed.scheduler.allowed-failures": TRIES - 1,
    "distributed.scheduler.worker-ttl": None,  # a loaded machine is slow and not dead; the dead are noticed at once
    "distributed.comm.timeouts.connect": "120s",
    "distributed.comm.timeouts.tcp": "120s",
    "distributed.diagnostics.nvml": False,  # it would open every GPU in every process
}


class Prepared(WorkerPlugin):
    """A worker with the environment of who starts it, one torch thread, and an end with its parent's.

    Parameters
    ----------
    environment : dict
        What `os.environ` holds there.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def setup(self, worker: Worker) -> None:
        """Prepare the process."""
        start_worker(self.environment)
        versions()  # of the code that is about to be imported: it may be edited later


def worker_options(number: int, gpus: list[str], **options: Any) -> dict[str, Any]:
    """Return the options of the worker process `number` of this machine, which has the GPU of that number, if any."""
    environment = dict(os.environ)
    if number < len(gpus):
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number]
        options["resources"] = {"GPU": 1}
    return {"nthreads": 1, "memory_limit": 0, "plugins": (Prepared(environment),), "dashboard": False, **options}


def gpus_here() -> list[str]:
    """Return the GPUs of this machine as ``CUDA_VISIBLE_DEVICES`` names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(number) for number in range(count)])[:count]


def import_once() -> None:
    """Have the processes start from a server that has imported everything, where there is such a thing."""
    get_mp_context()  # says itself what to import there, once; the next line is the last word
    context(EVERYTHING, "distributed", "lib.cluster_workers")


# ---- a task ------------------------------------------------------------------------------------------------


def perform(sent: bytes, expected: dict[str, str] | None, shared: str | None) -> Any:
    """Return what a task makes, in a worker.

    Parameters
    ----------
    sent : bytes
        Function and arguments; they are opened after the versions were compared.
    expected : dict or None
        `versions` of who sent it; None where the worker is of the same machine and was started for this run.
    shared : str or None
        If the task works on files of who sent it: a folder that is in their common scratch as long as the run lasts.

    Raises
    ------
    InputError
        If this worker has other versions, several threads, or does not see the folder.
    """
    host, worker = platform.node() or "an unnamed machine", get_worker()
    if expected is not None and (other := differences(expected, versions())):
        raise InputError(
            f"The worker on {host} has {other}; bring both machines to the same commit, run `make setup` on both and "
            "start the worker again."
        )
    if worker.state.nthreads != 1:
        raise InputError(
            f"The worker on {host} has {worker.state.nthreads} threads, and tasks need a process each; start it with "
            "`make worker`, or with --nthreads 1 and as many --nworkers as there are cores."
        )
    if shared is not None and not sees(shared):
        raise InputError(
            f"The worker on {host} does not share the folder UNMUTE_CACHE as those before it do; have it name that "
            "folder there, or leave this machine out."
        )
    torch.set_num_threads(1)
    function, arguments = pickle.loads(sent)
    return function(*arguments)


def pack(function: Callable[..., Any], arguments: tuple) -> bytes:
    """Return a task as bytes for `perform`; `function` must be importable."""
    return pickle.dumps((function, arguments))


def own_place() -> Path:
    """Return where this machine keeps what lasts as long as a run: other machines may have the same scratch folder."""
    return scratch() / "workers" / (platform.node() or "here")


def sees(folder: str) -> bool:
    """Return whether a folder of who asks is in the scratch folder of this worker, so that the two are one."""
    return (scratch() / folder).is_dir()


@functools.cache
def versions() -> dict[str, str]:
    """Return what must be the same in all processes of a run: the code and manifests, Python, the libraries."""
    files = [*sorted(REPOSITORY.glob("lib/**/*.py")), *sorted(MANIFESTS.glob("**/*.json"))]
    code = hashlib.sha256()
    for path in files:
        code.update(f"{path.relative_to(REPOSITORY).as_posix()}\n{path.read_text(encoding='utf-8')}".encode())
    libraries = {name: version(name).split("+")[0] for name in LIBRARIES}
    return {"code": code.hexdigest()[:12], "Python": ".".join(map(str, sys.version_info[:2])), **libraries}


def differences(here: dict[str, str], there: dict[str, str]) -> str:
    """Return in words how the versions of a worker differ from those of who sends it tasks; '' if they do not."""
    other = [name for name in here if there.get(name) != here[name]]
    words = [f"{name} {there.get(name, 'of no version')} instead of {here[name]}" for name in other if name != "code"]
    return " and ".join([*(["other code of this project"] if "code" in other else []), *words])
