"""Tasks on all cores of this machine, or of many: one process a core, with Dask.

``SCHEDULER`` says where: nothing, on this machine; ``tcp://host:8786``, on the workers of that Dask scheduler, which
any machine joins with ``make worker`` (`lib.join`); ``slurm``, in jobs that dask-jobqueue submits with the
options of its own file, ``~/.config/dask/jobqueue.yaml``. With one worker nothing is started: tasks run in the process.

A task travels with its arguments, and its result travels back, so that machines need not share a disk: who asks is
who writes. A worker that dies costs the tasks that it was at; they are tried again, a few times.
"""

import contextlib
import logging
import os
import queue
import secrets
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.errors import InputError
from lib.files import sweep_temporaries, temporary_folder
from lib.paths import scratch
from lib.workers import call, core_count, run_parallel

if TYPE_CHECKING:
    from distributed import Client, Future, SpecCluster

PATIENCE = 2.0  # seconds until it is looked again who is there
ANSWER = 30.0  # seconds that a scheduler has to answer


@dataclass(frozen=True)
class Task:
    """Something to compute elsewhere.

    Attributes
    ----------
    name : str
        For people: "cell 'pocket-eat--soundscapes--linear'".
    function : callable
        Must be importable; what it returns travels back.
    arguments : tuple
        Its arguments.
    gpu : bool
        Whether only a worker with a GPU will do.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple = ()
    gpu: bool = False


class Workers:
    """Those who compute; what `open_workers` hands out.

    Attributes
    ----------
    elsewhere : bool
        Whether they may be on other machines.
    share_disk : bool
        Whether they see the scratch folder of this process.
    """

    elsewhere, share_disk = False, True

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Yield each task with its result as they finish; here, in this process, one after the other.

        Raises
        ------
        InputError
            As a task does; or, once all others are finished, if the workers of some tasks ended time after time.
        """
        results = run_parallel(call, [(task.function, *task.arguments) for task in tasks], 1)
        yield from zip(tasks, results, strict=True)

    def map(
        self, function: Callable[..., Any], arguments: Sequence[tuple], gpu: Sequence[bool] | None = None
    ) -> Iterator[Any]:
        """Yield ``function(*some)`` for each of `arguments`, as they finish: `lib.workers.run_parallel` on them.

        `gpu` says of each whether only a worker with a GPU will do; of none by default.
        """
        wanted = zip(arguments, gpu or [False] * len(arguments), strict=True)
        tasks = [
            Task(f"part {number} of {len(arguments)}", function, some, on_gpu)
            for number, (some, on_gpu) in enumerate(wanted, 1)
        ]
        yield from (result for _, result in self.run(tasks))


@contextlib.contextmanager
def open_workers(tasks: int, workers: int | None = None) -> Iterator[Workers]:
    """Yield who computes `tasks` tasks; at the end of the block, however it ends, processes of this machine end too.

    Parameters
    ----------
    tasks : int
        How many there are: more processes are of no use.
    workers : int, optional
        Processes; ``UNMUTE_WORKERS``, else the number of cores.

    Raises
    ------
    InputError
        If ``SCHEDULER`` is none, nobody answers there, or its versions are other ones.
    """
    where = os.environ.get("SCHEDULER", "")
    if where.startswith(("tcp://", "tls://")):
        opened = _joined(where)
    elif where == "slurm":
        opened = _in_jobs(workers)
    elif where:
        raise InputError(f"SCHEDULER is '{where}'; it must be tcp://host:port, or slurm, or be left out.")
    elif (count := min(workers or core_count(), tasks)) > 1:
        opened = _on_this_machine(count)
    else:
        opened = contextlib.nullcontext(Workers())
    with opened as found:
        yield found


class DaskWorkers(Workers):
    """Workers that a Dask scheduler knows.

    Parameters
    ----------
    client : distributed.Client
        The connection to the scheduler.
    where : str
        Its name for people; '' for this machine.
    folder : Path
        A folder in the scratch that is there as long as the run lasts; who sees it shares the disk.
    """

    def __init__(self, client: "Client", where: str, folder: Path) -> None:
        from lib.cluster_workers import sees, versions

        self.client, self.where, self.elsewhere = client, where, bool(where)
        self._count, self._waits = len(client.nthreads()) if not where else 0, False
        self._versions, self._folder = versions() if where else None, None
        if where:
            while not self._room(gpu=False):
                client.sync(_sleep)
            name = folder.relative_to(scratch()).as_posix()
            found = client.run(sees, name, on_error="return").values()
            self.share_disk = all(answer is True for answer in found)
            self._folder = name if self.share_disk else None

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Yield each task with its result as they finish; after an error those that are running end, and no others."""
        from distributed.scheduler import KilledWorker

        waiting, running, failure, lost = deque(tasks), {}, None, []
        finished: queue.SimpleQueue = queue.SimpleQueue()
        while running or (waiting and failure is None):
            if failure is None:
                self._send(waiting, running, finished)
            try:
                future = finished.get(timeout=PATIENCE)
            except queue.Empty:
                if self.client.status != "running":
                    raise self._gone() from None
                continue
            task = running.pop(future.key)
            try:
                result = future.result()
            except KilledWorker:
                lost.append(task.name)
                continue
            except Exception as error:
                if future.status == "cancelled":
                    raise self._gone() from error
                failure = failure or _in_words(error)
                continue
            finally:
                future.release()
            if failure is None:
                self._send(waiting, running, finished)
            yield task, result
        if failure is not None:
            raise failure
        if lost:
            raise _given_up(lost)

    def _send(self, waiting: deque[Task], running: dict[str, Task], finished: queue.SimpleQueue) -> None:
        """Send as many tasks as there are workers: one that dies takes no task along that it has not begun."""
        from lib.cluster_workers import pack, perform

        while waiting and self._is_room(waiting[0].gpu, running):
            task = waiting.popleft()
            future: Future = self.client.submit(
                perform,
                pack(task.function, task.arguments),
                self._versions,
                self._folder,
                pure=False,
                resources={"GPU": 1} if task.gpu else None,
            )
            running[future.key] = task
            future.add_done_callback(finished.put)

    def _is_room(self, gpu: bool, running: dict[str, Task]) -> bool:
        return sum(task.gpu == gpu for task in running.values()) < self._room(gpu)

    def _room(self, gpu: bool) -> int:
        """Return how many workers there are, those with a GPU or all; say once that there are none."""
        if self._count and not gpu:
            return self._count
        try:
            there = self.client.scheduler_info()["workers"].values()
        except (OSError, KeyError) as error:
            raise self._gone() from error
        count = sum(worker["nthreads"] for worker in there if not gpu or worker["resources"].get("GPU"))
        if not count and not self._waits:
            kind = "a worker with a GPU" if gpu else "a worker"
            how = f" (`make worker SCHEDULER={self.where}` starts some)" if self.where.startswith("t") else ""
            print(f"waiting for {kind} of {self.where}{how}", flush=True)
            self._waits = True
        return count

    def _gone(self) -> InputError:
        return InputError(
            f"The connection to the scheduler {self.where or 'of this machine'} was lost; start again once it is back: "
            "what is finished is kept."
        )


async def _sleep() -> None:
    import asyncio

    await asyncio.sleep(PATIENCE)


def _given_up(names: list[str]) -> InputError:
    from lib.cluster_workers import TRIES

    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return InputError(
        f"Not computed, as worker processes ended unexpectedly at it {TRIES} times or more (out of memory?): {some}; "
        "everything else is finished and kept; run again with a smaller UNMUTE_WORKERS."
    )


def _in_words(error: Exception) -> Exception:
    """Return a task's own error; where it could not even be opened, a sentence about that."""
    foreign = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "lib"
    if foreign or "deserialization of the task graph" in str(error):
        return InputError(
            "The scheduler or a worker cannot import this project's code; start both from the same commit of it, the "
            "scheduler with `.venv/bin/dask scheduler`, workers with `make worker`."
        )
    return error


# ---- where -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    """Yield a folder that is there as long as the run lasts, with a name that no other run has."""
    from lib.cluster_workers import own_place

    if own_place().is_dir():
        sweep_temporaries(own_place())
    with temporary_folder(own_place(), secrets.token_hex(4)) as folder:
        yield folder


@contextlib.contextmanager
def _on_this_machine(count: int) -> Iterator[DaskWorkers]:
    """Start `count` processes, a scheduler within this one, and connections that no other machine can reach."""
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    from lib.cluster_workers import SETTINGS, gpus_here, import_once, worker_options

    environment = set(os.environ)
    with dask.config.set(SETTINGS), _place() as folder:
        import_once()
        here = {"host": "127.0.0.1", "protocol": "tcp://"}
        each = {**here, "local_directory": str(folder), "silence_logs": logging.CRITICAL}
        gpus = gpus_here()
        nannies = {n: {"cls": Nanny, "options": worker_options(n, gpus, **each)} for n in range(count)}
        scheduler = {
            "cls": Scheduler,
            "options": {**here, "port": 0, "dashboard_address": "127.0.0.1:0", "dashboard": False},
        }
        cluster = SpecCluster(nannies, scheduler, silence_logs=logging.CRITICAL)
        try:
            with Client(cluster, set_as_default=False) as client:
                try:
                    yield DaskWorkers(client, "", folder)
                finally:
                    _end(cluster)
        finally:
            cluster.close()
            for name in set(os.environ) - environment:  # Dask leaves variables in it
                del os.environ[name]


def _end(cluster: "SpecCluster") -> None:
    """End the processes at once, whatever they are at: what is not written by now is not wanted."""
    for nanny in list(cluster.workers.values()):
        nanny.close_gracefully()  # so that it starts no other
        with contextlib.suppress(ProcessLookupError, TypeError, AttributeError):
            os.kill(nanny.pid, getattr(signal, "SIGKILL", signal.SIGTERM))


@contextlib.contextmanager
def _joined(address: str) -> Iterator[DaskWorkers]:
    """Connect to a scheduler that someone else runs, and leave it running."""
    import warnings

    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    with _place() as folder, silence_logging_cmgr(logging.CRITICAL), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other versions; they are compared in `perform`
        try:
            client = Client(address, timeout=ANSWER, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"No Dask scheduler answers at {address}; start one there with `.venv/bin/dask scheduler`, or leave "
                "SCHEDULER out."
            ) from error
        with client:
            yield DaskWorkers(client, address, folder)


@contextlib.contextmanager
def _in_jobs(workers: int | None) -> Iterator[DaskWorkers]:
    """Submit jobs to Slurm, as many as hold ``UNMUTE_WORKERS`` processes, or one, and cancel them at the end."""
    import dask
    from distributed import Client

    from lib.cluster_workers import SETTINGS
    from lib.slurm import slurm_cluster

    with dask.config.set(SETTINGS), _place() as folder:
        cluster, each = slurm_cluster()
        asked = workers or (core_count() if os.environ.get("UNMUTE_WORKERS") else each)
        try:
            cluster.scale(asked)
            with Client(cluster, set_as_default=False) as client:
                yield DaskWorkers(client, f"Slurm ({asked} processes, {each} a job)", folder)
        finally:
            cluster.close()
