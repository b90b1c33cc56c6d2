"""Tasks on many processes and machines: a dead worker costs what it was at, nothing is left, bytes are the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
import torch

from lib import cluster, cluster_workers, store, store_checks
from lib.cluster import Task, open_workers
from lib.data.datasets import load_dataset
from lib.encoders import encoder_version, load_encoder
from lib.errors import InputError
from lib.paths import REPOSITORY, scratch
from lib.profiles import load_profile
from lib.results import cell_path, make_cell, run_cells
from lib.slurm import slurm_cluster
from lib.store import load_embeddings
from lib.store_checks import complete_here
from lib.workers import run_parallel, sent_to
from tests.cluster_tasks import beside, killed, once, wrong

pytestmark = pytest.mark.xdist_group("cluster")  # they would take the cores from each other


@pytest.fixture
def marks(tmp_path):
    """A folder where tasks leave marks."""
    (tmp_path / "marks").mkdir()
    return str(tmp_path / "marks")


def ended(pids, patience=60):
    """Wait until processes have ended; return those that have not."""
    deadline = time.monotonic() + patience
    alive = set(pids)
    while alive and time.monotonic() < deadline:
        alive = {pid for pid in alive if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"}
        time.sleep(0.05)
    return alive


def test_one_worker_is_this_process(marks):
    with open_workers(5, 1) as workers:
        tasks = [Task(name, once, (marks, name)) for name in "abc"]
        assert [(task.name, done) for task, done in workers.run(tasks)] == [(n, (n, os.getpid())) for n in "abc"]
    with open_workers(1, 8) as workers:  # and so is one task
        assert list(workers.map(os.getpid, [()])) == [os.getpid()]


def test_each_worker_is_a_process_of_one_thread_that_no_other_machine_reaches_and_that_ends(marks, monkeypatch):
    monkeypatch.setenv("UNMUTE_OF_THIS_TEST", "today")
    before, environment = set(psutil.Process().children(recursive=True)), dict(os.environ)
    with open_workers(9, 2) as workers:
        assert set(workers.map(torch.get_num_threads, [()] * 3)) == {1}
        assert set(workers.map(os.getenv, [("UNMUTE_OF_THIS_TEST",)] * 3)) == {"today"}
        pids = {pid for _, pid in workers.map(once, [(marks, "a")] * 8)}
        assert os.getpid() not in pids and len(pids) <= 2
        with sent_to(workers.map):
            assert set(run_parallel(os.getpid, [()] * 4)) <= pids
        crew = [psutil.Process(), *map(psutil.Process, pids)]
        listening = {c.laddr.ip for one in crew for c in one.net_connections() if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
    assert not ended(pids) and dict(os.environ) == environment
    monkeypatch.delenv("UNMUTE_OF_THIS_TEST")
    with open_workers(9, 2) as workers:
        assert set(workers.map(os.getenv, [("UNMUTE_OF_THIS_TEST",)] * 3)) == {None}
    left = {one for one in psutil.Process().children(recursive=True) if one.is_running()} - before
    assert all("forkserver" in " ".join(one.cmdline()) or "resource_tracker" in " ".join(one.cmdline()) for one in left)


def test_a_worker_that_dies_costs_its_task_another_try_and_nothing_else(marks):
    with open_workers(9, 2) as workers:
        tasks = [Task("killed", killed, (marks, 1)), *(Task(name, once, (marks, name)) for name in "abcd")]
        done = {task.name: result for task, result in workers.run(tasks)}
    assert done.pop("killed") == "survived" and set(done) == set("abcd")
    assert len(list(Path(marks).glob("killed.*"))) == 2
    assert all(len(list(Path(marks).glob(f"{name}.*"))) == 1 for name in "abcd")  # nothing was done twice


def test_a_task_that_kills_every_worker_is_given_up_and_named_once_the_others_are_finished(marks):
    finished = []
    with open_workers(9, 2) as workers:
        tasks = [Task("the cell 'x'", killed, (marks, 99)), *(Task(name, once, (marks, name)) for name in "abcd")]
        with pytest.raises(
            InputError, match=r"ended unexpectedly at it 3 times .*the cell 'x'; everything else is fin"
        ):
            for task, _ in workers.run(tasks):
                finished.append(task.name)
        assert sorted(finished) == list("abcd") and len(list(Path(marks).glob("killed.*"))) == cluster_workers.TRIES
        assert [name for name, _ in workers.map(once, [(marks, "later")])] == ["later"]  # the crew is whole again


def test_a_task_that_wants_a_gpu_gets_a_worker_that_offers_one(marks, monkeypatch):
    monkeypatch.setattr(cluster_workers, "gpus_here", lambda: ["7"])  # the routing alone: none has to be there
    with open_workers(9, 2) as workers:
        tasks = [Task("g", os.getenv, ("CUDA_VISIBLE_DEVICES",), gpu=True)] * 4 + [Task("c", once, (marks, "c"))] * 4
        done = [(task.name, result) for task, result in workers.run(tasks)]
    assert [result for name, result in done if name == "g"] == ["7"] * 4 and len(done) == 8


def test_parts_that_want_a_gpu_get_a_worker_that_offers_one(monkeypatch):
    monkeypatch.setattr(cluster_workers, "gpus_here", lambda: ["7"])
    with open_workers(9, 2) as workers:
        parts = [("CUDA_VISIBLE_DEVICES", str(number)) for number in range(6)]
        assert set(workers.map(os.getenv, parts, [True] * 6)) == {"7"}


def test_an_error_in_words_arrives_as_itself_once_and_what_ran_beside_it_is_kept(marks):
    finished = []
    with open_workers(9, 2) as workers:
        tasks = [Task("beside", beside, (marks, 1)), *(Task(name, wrong, (marks,)) for name in "abcdef")]
        with pytest.raises(InputError, match=r"^This is wrong; do that\.$"):
            for task, _ in workers.run(tasks):
                finished.append(task.name)
    assert finished == ["beside"] and len(list(Path(marks).iterdir())) < 6  # the others were not begun


PARENT = """
import os, time
from lib.cluster import open_workers
from lib.workers import run_parallel, sent_to
from tests.cluster_tasks import beside
if __name__ == "__main__":
    with open_workers(2, 2) as workers, sent_to(workers.map):
        print(*workers.map(os.getpid, [()] * 6), flush=True)
        list(run_parallel(beside, [({marks!r}, 99)] * 2))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_is_left_when_the_parent_is_killed_or_interrupted(how, marks, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(marks=marks))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen(
        [sys.executable, script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        pids = {int(pid) for pid in parent.stdout.readline().split()}
        family = {one.pid for one in psutil.Process(parent.pid).children(recursive=True)}
        assert pids and pids <= family
        parent.send_signal(how)
        assert not ended({parent.pid} | family)


def test_cells_are_the_same_bytes_whatever_the_number_of_workers_and_whether_one_dies(marks, monkeypatch):
    profile = load_profile("smoke")
    cells = [make_cell("log-mel", profile.dataset, head) for head in ("linear", "mlp", "linpre")]
    run_cells("smoke", cells, workers=1, show=False)
    alone = {cell: cell_path(profile, cell).read_bytes() for cell in cells}
    for cell in cells:
        cell_path(profile, cell).unlink()
    monkeypatch.setenv("UNMUTE_MEMORY", "0")  # and whether embeddings are read from disk batch by batch
    keys = run_cells("smoke", cells, workers=2, beside=[(killed, marks, 1)])
    assert sorted(keys) == sorted(cell.key for cell in cells) and len(list(Path(marks).iterdir())) == 2
    assert {cell: cell_path(profile, cell).read_bytes() for cell in cells} == alone
    assert not list(scratch().glob("workers/*/.*.tmp"))


# ---- other machines ----------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A scheduler, and a worker of another machine, as it were: it has a scratch folder of its own."""
    logs = (tmp_path / "log").open("w+")

    def start(*command, **environment):
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **environment}
        return subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=logs, stderr=logs)

    where = tmp_path / "scheduler.json"
    scheduler = start(
        *("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
        *("--scheduler-file", str(where)),
    )
    while not where.exists() or "address" not in where.read_text():
        time.sleep(0.05)
        assert scheduler.poll() is None
    address = json.loads(where.read_text())["address"]
    worker = start("lib.join", address, UNMUTE_CACHE=str(tmp_path / "other"))
    monkeypatch.setenv("SCHEDULER", address)
    yield scheduler, worker
    for process in (scheduler, worker):
        process.terminate()
        process.wait()
    logs.close()


def test_another_machine_makes_its_own_store_and_the_same_bytes_and_one_of_other_versions_is_refused(
    elsewhere, tmp_path, monkeypatch, capsys
):
    scheduler, worker = elsewhere
    profile = load_profile("smoke")
    cells = [make_cell("log-mel", profile.dataset, head) for head in ("linear", "mlp")]
    run_cells("smoke", cells, beside=[(Path.touch, tmp_path / "beside")])
    there = {cell: cell_path(profile, cell).read_bytes() for cell in cells}
    assert (tmp_path / "beside").exists()
    assert (tmp_path / "other" / "store" / "log-mel").is_dir() and not (scratch() / "store").exists()
    assert not list((tmp_path / "other").glob("cells/**/*.safetensors"))  # who asks is who writes
    for cell in cells:
        cell_path(profile, cell).unlink()

    real = cluster_workers.versions()
    monkeypatch.setattr(cluster_workers, "versions", lambda: real | {"code": "0", "torch": "9.9"})
    said = r"^The worker on \S+ has other code of this project and torch \S+ instead of 9\.9; bring both machines"
    with pytest.raises(InputError, match=said):
        run_cells("smoke", cells, show=False)
    monkeypatch.undo()

    monkeypatch.setenv("UNMUTE_CACHE", str(tmp_path / "scratch"))
    run_cells("smoke", cells, workers=1, show=False)
    assert {cell: cell_path(profile, cell).read_bytes() for cell in cells} == there

    scheduler.terminate()
    assert worker.wait(60) == 0 and "the scheduler has ended" in (tmp_path / "log").read_text()


def test_a_disk_is_shared_by_those_who_find_there_what_is_in_the_scratch_of_the_other(tmp_path, monkeypatch):
    with cluster._place() as folder:
        name = folder.relative_to(scratch()).as_posix()
        assert cluster_workers.sees(name)
        monkeypatch.setenv("UNMUTE_CACHE", str(tmp_path / "other"))
        assert not cluster_workers.sees(name)
    assert not folder.exists()


def test_a_machine_that_would_make_other_embeddings_is_told_apart_and_one_that_has_them_makes_none(monkeypatch):
    noise = np.random.default_rng(0).standard_normal(160_000).astype(np.float32) / 10
    monkeypatch.setattr(store, "usable_audio", lambda *_: noise)
    counts, data = {"train": 2, "val": 1}, load_dataset("soundscapes")
    clips = [data.version(split, count) for split, count in counts.items()]
    version = encoder_version("log-mel", load_encoder("log-mel"))
    complete_here("log-mel", "soundscapes", counts, clips, version)
    assert len(load_embeddings("log-mel", "soundscapes", "train", 2)) == 2
    monkeypatch.setattr(store_checks, "build_store", None)  # would fail if it were called
    complete_here("log-mel", "soundscapes", counts, clips, version)
    monkeypatch.setattr(store_checks, "build_store", lambda *_, **__: [])
    with pytest.raises(
        InputError, match="'log-mel' on soundscapes than are asked of it: they differ in the encoder's w"
    ):
        complete_here("log-mel", "soundscapes", counts, clips, version | {"weights": "others"})


def test_a_scheduler_that_is_none_is_one_sentence(monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER", 0.1)
    for name, said in (
        ("tcp://127.0.0.1:1", "No Dask scheduler answers at tcp://127"),
        ("dask", "SCHEDULER is 'dask'"),
    ):
        monkeypatch.setenv("SCHEDULER", name)
        with pytest.raises(InputError, match=said), open_workers(2):
            pass


def test_a_job_of_slurm_has_a_worker_of_one_thread_for_each_core_and_takes_no_cell_for_its_memory(monkeypatch):
    monkeypatch.setenv("UNMUTE_DATA", "/data")
    with dask.config.set({"jobqueue.slurm.cores": None}), pytest.raises(InputError, match="needs at least 'cores'"):
        slurm_cluster()
    options = {"cores": 6, "memory": "24GB", "queue": "cpu", "job-script-prologue": ["module load x"]}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in options.items()}):
        jobs, each = slurm_cluster()
        with jobs:
            script = jobs.job_script()
    assert each == 6 and "--nthreads 1 " in script and "--nworkers 6 " in script and "#SBATCH -p cpu" in script
    assert "module load x\n" in script and f"export PYTHONPATH='{REPOSITORY}'" in script
    assert "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE='False'" in script and "UNMUTE_DATA='/data'" in script
