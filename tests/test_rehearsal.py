"""The dress rehearsal in a minute: a slice of the paper profile on miniatures, with a worker killed in the middle."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from processes import family, running

from lib import rehearsal
from lib.encoders import miniatures
from lib.encoders.checkpoints import present_checkpoint
from lib.encoders.manifests import CHECKPOINTS, find_checkpoint
from lib.encoders.readings import load_reading
from lib.errors import InputError
from lib.paths import REPOSITORY

ENCODERS, DATASETS = ["eat", "dasheng", "eat-plus"], ["urban", "hsn", "esc50"]
SLICE = {
    "UNMUTE_ENCODERS": ",".join(ENCODERS),
    "UNMUTE_DATASETS": ",".join(DATASETS),
    "UNMUTE_HEADS": "linear,mhca,protobin",
}

# ---- miniatures of encoders


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_miniature_is_checked_and_loaded_as_the_real_file_is(name):
    miniatures.write_miniature(name, seed=3)
    assert find_checkpoint(name).label.endswith(" (miniature)")
    encoder = load_reading(name)
    encoding = encoder(encoder.spectrogram(torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0)) / 9))
    assert encoding.tokens.shape[2] == 64 and torch.isfinite(encoding.tokens).all()
    assert encoding.tokens.std(1).mean() > 0.01  # tokens differ: there is something to pool
    path = present_checkpoint(name)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match="is not the file it must be"):
        present_checkpoint(name)


def test_a_miniature_never_takes_the_place_of_another_file():
    path = find_checkpoint("eat").path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"real")
    with pytest.raises(InputError, match="in the way of a miniature of EAT"):
        miniatures.write_miniature("eat")
    assert path.read_bytes() == b"real"


# ---- a slice of the whole


def started(folder, notebooks):
    command = [sys.executable, "-m", "lib.notebooks", "run", "--profile", rehearsal.PROFILE, "--only", notebooks]
    environment = os.environ | rehearsal.places(folder) | SLICE | {"UNMUTE_WORKERS": "2"}
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def slice_of_paper(tmp_path_factory):
    """A slice of the profile, run without a break; the folder."""
    folder, kept = tmp_path_factory.mktemp("rehearsal"), dict(os.environ)
    os.environ.update(rehearsal.places(folder))
    try:
        rehearsal.write_miniatures(ENCODERS, DATASETS)
    finally:
        os.environ.clear()
        os.environ.update(kept)
    assert rehearsal.perform(folder, "01,02,03,04,05,14", **SLICE) == 0
    return folder


@pytest.mark.xdist_group("rehearsal")
def test_a_slice_of_the_paper_ends_with_every_figure_and_table(slice_of_paper):
    assert rehearsal.missing(slice_of_paper) == []
    table = (slice_of_paper / "figures" / rehearsal.PROFILE / "table_2.md").read_text()
    assert "EAT (miniature)" in table and "the published encoders, and copies of the paper's datasets" in table


@pytest.mark.xdist_group("rehearsal")
def test_a_part_without_prototypes_and_general_data_runs_to_its_end_and_says_what_it_lacks(slice_of_paper, tmp_path):
    (tmp_path / "audio").symlink_to(slice_of_paper / "audio")
    (tmp_path / "scratch").mkdir()
    for kept in ("checkpoints", "store", "cells", "bootstrap"):  # nothing is trained here, only read and drawn
        (tmp_path / "scratch" / kept).symlink_to(slice_of_paper / "scratch" / kept)
    part = {"UNMUTE_ENCODERS": "dasheng", "UNMUTE_DATASETS": "hsn", "UNMUTE_HEADS": "linear,mhca"}
    assert rehearsal.perform(tmp_path, "02,03,04,05,06,10,12,13,14", **part) == 0
    made = {path.stem for path in (tmp_path / "figures" / rehearsal.PROFILE).glob("figure_*.png")}
    assert made == {"figure_2", "figure_3", "figure_5", "figure_8"}
    pages = tmp_path / "scratch" / "notebooks" / rehearsal.PROFILE
    said = {path.stem[:2]: path.read_text(encoding="utf-8") for path in pages.glob("*.ipynb")}
    assert all(f"Figure {number} is left out: it needs " in said["05"] for number in (1, 4, 6, 7))
    assert all("This part of the profile has no `protobin`" in said[page] for page in ("03", "04", "13"))


def workers_of(pid):
    """Return the worker processes below a process."""
    parents = running()
    leaves = family(pid) - set(parents.values())  # what has children of its own started workers, and is none
    listed = subprocess.run(["ps", "-e", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    made = ("multiprocessing.forkserver", "multiprocessing.spawn")  # but for multiprocessing.resource_tracker
    rows = [line.split(maxsplit=1) for line in listed.splitlines()]
    return {int(row[0]) for row in rows if int(row[0]) in leaves and any(name in row[1] for name in made)}


def busy_worker_of(pid):
    """Return a worker that is at a cell: it computes while one looks; None if there are none any more."""
    while found := workers_of(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = [psutil.Process(worker) for worker in found]
            before = [worker.cpu_times().user for worker in workers]
            time.sleep(0.1)
            for worker, spent in zip(workers, before, strict=True):
                if worker.cpu_times().user - spent > 0.05:
                    return worker.pid
    return None


@pytest.mark.xdist_group("rehearsal")
def test_a_worker_killed_in_the_middle_changes_nothing_in_the_results(slice_of_paper, tmp_path):
    (tmp_path / "audio").symlink_to(slice_of_paper / "audio")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "checkpoints").symlink_to(slice_of_paper / "scratch" / "checkpoints")
    process, cells = started(tmp_path, "01,02,03,04,05"), tmp_path / "scratch" / "cells" / rehearsal.PROFILE
    deadline, wanted = time.monotonic() + 300, len(list((slice_of_paper / "scratch/cells/rehearsal").glob("*.safe*")))
    while process.poll() is None and len(list(cells.glob("*.safetensors"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    worker, done = busy_worker_of(process.pid), len(list(cells.glob("*.safetensors")))
    assert worker and process.poll() is None and done < wanted, "the cells were finished before one could be hit"
    there = workers_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    while not workers_of(process.pid) - there:  # another takes its place, and the cell is tried again
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    output = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, output
    name = f"figures/{rehearsal.PROFILE}/results.csv"
    assert (tmp_path / name).read_bytes() == (slice_of_paper / name).read_bytes()
