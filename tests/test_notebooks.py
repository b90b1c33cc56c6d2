"""The notebooks: paired with their sources, honest about parameters, and the whole way on `smoke`."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from processes import family, power_fails, running

from lib import notebooks
from lib.errors import InputError
from lib.notebooks import declared_parameters, is_paired, read_source, run_notebook, scrubbed, sources
from lib.paths import NOTEBOOKS, REPOSITORY
from lib.profiles import PROFILES

SOURCES = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
WORK = "01,02,03,04,05,13"  # notebook 00 is a lesson: it computes in front of the reader and keeps nothing
KILLS = int(os.environ.get("UNMUTE_KILLS", "2"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_has_one_parameters_cell_that_sets_the_profile(path):
    assert "profile" in declared_parameters(read_source(path), path.stem)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_committed_notebook_is_its_source_executed(path):
    assert is_paired(path), f"run `make notebooks`: {path.stem}.ipynb does not hold the cells of its source"
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_committed_notebook_is_small_and_free_of_times_and_paths(path):
    pair = path.with_suffix(".ipynb")
    text = pair.read_text()
    assert pair.stat().st_size < 500_000
    assert not re.search(r"papermill|iopub|\"duration\"|/(home|root|tmp|Users)/", text)
    assert f"{REPOSITORY}/" not in text


def test_times_progress_and_warnings_are_scrubbed_from_a_notebook():
    cell = nbformat.v4.new_code_cell("1", metadata={"papermill": {"duration": 1.2}, "tags": ["long"]})
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="3/9 done in 0.2 min")]
    shown = nbformat.v4.new_code_cell("2", outputs=[nbformat.v4.new_output("stream", name="stderr", text="warning")])
    clean = scrubbed(nbformat.v4.new_notebook(cells=[cell, shown], metadata={"papermill": {"start": "now"}}))
    assert "papermill" not in json.dumps(clean) and not any(c.outputs for c in clean.cells)


def test_a_misspelt_parameter_stops_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="Unknown 05_figures parameter 'profil'.*Did you mean 'profile'"):
        run_notebook(NOTEBOOKS / "05_figures.py", {"profil": "smoke"}, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_notebooks_that_read_results_come_after_those_that_compute_them(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMUTE_WORKERS", "1")
    ran = []
    monkeypatch.setattr(notebooks, "run_notebook", lambda path, parameters, output: ran.append(path.name[:2]))
    notebooks.execute(SOURCES, {}, tmp_path)
    assert sorted(ran) == sorted(path.name[:2] for path in SOURCES)
    assert [name for name in ran if name in notebooks.CHAIN] == sorted(notebooks.CHAIN)
    last = len(notebooks.EVIDENCE)
    assert tuple(ran[-last:]) == notebooks.EVIDENCE
    assert set(ran[-last - len(notebooks.READERS) : -last]) == set(notebooks.READERS)


def test_the_evidence_is_run_by_its_name_and_not_with_the_rest(monkeypatch):
    ran = []
    monkeypatch.setattr(notebooks, "execute", lambda paths, *_: ran.append([path.name[:2] for path in paths]))
    notebooks.run_all("smoke")
    notebooks.run_all("smoke", "evidence")
    notebooks.run_all("smoke", "16")
    rest, *named = ran
    assert named == [list(notebooks.EVIDENCE), ["16"]]
    assert sorted([*rest, *notebooks.EVIDENCE]) == [path.name[:2] for path in SOURCES]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_that_reads_the_results_of_a_profile_waits_for_them(path):
    readers = "comparisons|results|side_by_side|tables|paper_tables|question_draws|prototype_dynamics"
    reads = re.search(rf"from lib\.({readers}) import .*|read_table|load_embeddings", path.read_text())
    if path.name[:2] not in (*notebooks.CHAIN, *notebooks.READERS, *notebooks.EVIDENCE):
        assert not reads, f"{reads[0]}: put it into READERS"


def test_an_unknown_notebook_names_the_known_ones():
    with pytest.raises(InputError, match="Unknown notebook '99'; choose one of: 00_"):
        sources("99")


def test_a_notebook_without_a_parameters_cell_is_refused():
    with pytest.raises(InputError, match="'x' has 0 cells tagged 'parameters'; it must have exactly one"):
        declared_parameters(nbformat.v4.new_notebook(), "x")


def make_figures(folder, only="", profile="smoke"):
    """Start what `make figures PROFILE=smoke` starts, all of it or the notebooks `only`."""
    environment = os.environ | {
        "UNMUTE_CACHE": str(folder / "scratch"),
        "UNMUTE_FIGURES": str(folder / "figures"),
        "UNMUTE_WORKERS": "2",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }
    command = [sys.executable, "-m", "lib.notebooks", "run", "--profile", profile, "--only", only]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def parent_dies(process):
    """Kill the process alone; its descendants must notice and end by themselves."""
    process.send_signal(signal.SIGSTOP)
    left = family(process.pid) - {process.pid}
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while left := left & set(running()):
        assert time.monotonic() < deadline, f"{len(left)} processes outlived their parent by 10 s"
        time.sleep(0.2)


def finish(process, code=0, seconds=900):
    """Wait for the end of a process, which no path leaves running, and return what it said."""
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        power_fails(process)
        process.stdout.close()
    assert process.returncode == code, output
    return output


def figure_bytes(folder):
    assert not list((folder / "figures").rglob(".*.tmp"))
    return {path.name: path.read_bytes() for path in sorted((folder / "figures" / "smoke").iterdir())}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Run everything once on `smoke`; the folder, what it drew, and the seconds that the work took."""
    folder = tmp_path_factory.mktemp("unbroken")
    finish(make_figures(folder, "00"))
    start = time.monotonic()
    finish(make_figures(folder, WORK))
    return folder, figure_bytes(folder), time.monotonic() - start


@pytest.mark.xdist_group("smoke")
def test_all_notebooks_run_on_smoke_and_draw_eight_figures(unbroken):
    _, drawn, _ = unbroken
    for number in range(1, 9):
        assert {f"figure_{number}.{kind}" for kind in ("png", "pdf", "csv")} <= set(drawn)
    assert "results.csv" in drawn and all(drawn.values())


@pytest.mark.xdist_group("smoke")
def test_a_second_run_computes_nothing_and_changes_no_byte(unbroken):
    folder, drawn, _ = unbroken
    cells = {path: path.stat().st_mtime_ns for path in (folder / "scratch").rglob("*.safetensors")}
    finish(make_figures(folder))
    after = figure_bytes(folder)
    assert {name: after[name] for name in drawn} == drawn
    assert {"questions.csv", *(f"table_{number}.md" for number in range(2, 10))} <= set(after)
    assert {path: path.stat().st_mtime_ns for path in (folder / "scratch").rglob("*.safetensors")} == cells


@pytest.mark.xdist_group("smoke")
def test_killed_at_random_moments_and_started_again_it_ends_with_the_same_results(unbroken, tmp_path):
    _, drawn, seconds = unbroken
    rng, kills = random.Random(2509), 0
    while kills < KILLS:
        process = make_figures(tmp_path, WORK)
        try:
            process.wait(timeout=rng.uniform(1.0, max(2.0, 0.6 * seconds)))
        except subprocess.TimeoutExpired:
            (power_fails, parent_dies)[kills % 2](process)
            process.stdout.close()
            kills += 1
        else:  # all was done before the next kill: hold it against the unbroken run, and begin anew
            finish(process)
            assert figure_bytes(tmp_path) == drawn
            for part in tmp_path.iterdir():
                shutil.rmtree(part)
    finish(make_figures(tmp_path, WORK))
    assert figure_bytes(tmp_path) == drawn


@pytest.mark.xdist_group("smoke")
def test_the_evidence_runs_on_smoke_from_what_the_rest_has_left(unbroken):
    folder, *_ = unbroken
    finish(make_figures(folder, "evidence"))
    names = ("controls", "dial", "localisation", "layers", "views", "symptoms", "options", "audit")
    assert {f"{name}.png" for name in names} <= set(figure_bytes(folder))


def test_an_unknown_profile_is_one_sentence_without_a_traceback(tmp_path):
    output = finish(make_figures(tmp_path, profile="smok"), code=1, seconds=60)
    known = ", ".join(PROFILES)
    assert output == f"make figures: Unknown profile 'smok'; choose one of: {known}. Did you mean 'smoke'?\n"


def test_a_scratch_folder_that_cannot_be_made_is_one_sentence_without_a_traceback(tmp_path):
    (tmp_path / "a_file").write_text("in the way")
    output = finish(make_figures(tmp_path / "a_file", "01"), code=1, seconds=60)
    said = [line for line in output.splitlines() if not line.endswith("…")]  # without the notebook's name
    assert len(said) == 1 and said[0].startswith("make figures: ") and said[0].endswith(".")
    assert "a_file" in said[0] and "UNMUTE_CACHE" in said[0] and "Traceback" not in output


def test_a_notebook_that_stops_says_why_in_one_sentence(tmp_path):
    source = tmp_path / "07_broken.py"
    lines = ['# %% tags=["parameters"]', 'profile = "smoke"', "# %%", "from lib.profiles import load_profile"]
    source.write_text("\n".join([*lines, "load_profile(profile)", ""]))
    with pytest.raises(InputError, match="Notebook '07_broken' stopped: Unknown profile 'nope'"):
        run_notebook(source, {"profile": "nope"}, tmp_path / "out.ipynb")
    assert (tmp_path / "out.ipynb").is_file()
