"""The notebooks: paired with their sources, honest about parameters, and the whole way on `smoke`."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from lib import notebooks
from lib.errors import InputError
from lib.notebooks import declared_parameters, is_paired, read_source, run_notebook, scrubbed, sources
from lib.paths import NOTEBOOKS, REPOSITORY

SOURCES = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
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
    assert not re.search(r"papermill|iopub|\"duration\"|/(home|root|tmp|work|Users)/", text)


def test_running_the_same_notebook_gives_the_same_file():
    cell = nbformat.v4.new_code_cell("1", metadata={"papermill": {"duration": 1.2}, "tags": ["long"]})
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="3/9 done in 0.2 min")]
    shown = nbformat.v4.new_code_cell("2", outputs=[nbformat.v4.new_output("stream", name="stderr", text="warning")])
    clean = scrubbed(nbformat.v4.new_notebook(cells=[cell, shown], metadata={"papermill": {"start": "now"}}))
    assert "papermill" not in json.dumps(clean) and not any(c.outputs for c in clean.cells)


def test_a_misspelt_parameter_stops_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="Unknown 05_figures parameter 'profil'.*Did you mean 'profile'"):
        run_notebook(NOTEBOOKS / "05_figures.py", {"profil": "smoke"}, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_an_unknown_notebook_names_the_known_ones():
    with pytest.raises(InputError, match="Unknown notebook '99'; choose one of: 00_"):
        sources("99")


def test_a_notebook_without_a_parameters_cell_is_refused():
    with pytest.raises(InputError, match="'x' has 0 cells tagged 'parameters'; it must have exactly one"):
        declared_parameters(nbformat.v4.new_notebook(), "x")


def make_figures(folder, **options):
    """Start what `make figures PROFILE=smoke` starts, in a process group of its own."""
    environment = os.environ | {
        "UNMUTE_CACHE": str(folder / "scratch"),
        "UNMUTE_FIGURES": str(folder / "figures"),
        "UNMUTE_WORKERS": "2",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }
    command = [sys.executable, "-m", "lib.notebooks", "run", "--profile", options.pop("profile", "smoke")]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def finish(process):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def figure_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "figures" / "smoke").iterdir())}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Run everything once on `smoke`; the folder and what it drew."""
    folder = tmp_path_factory.mktemp("unbroken")
    finish(make_figures(folder))
    return folder, figure_bytes(folder)


@pytest.mark.xdist_group("smoke")
def test_all_notebooks_run_on_smoke_and_draw_eight_figures(unbroken):
    _, drawn = unbroken
    for number in range(1, 9):
        assert {f"figure_{number}.{kind}" for kind in ("png", "pdf", "csv")} <= set(drawn)
    assert "results.csv" in drawn and all(drawn.values())


@pytest.mark.xdist_group("smoke")
def test_a_second_run_computes_nothing_and_changes_no_byte(unbroken):
    folder, drawn = unbroken
    cells = {path: path.stat().st_mtime_ns for path in (folder / "scratch").rglob("*.safetensors")}
    finish(make_figures(folder))
    assert figure_bytes(folder) == drawn
    assert {path: path.stat().st_mtime_ns for path in (folder / "scratch").rglob("*.safetensors")} == cells


@pytest.mark.xdist_group("smoke")
def test_killed_at_random_moments_and_started_again_it_ends_with_the_same_results(unbroken, tmp_path):
    rng = random.Random(2509)
    for _ in range(KILLS):
        process = make_figures(tmp_path)
        time.sleep(rng.uniform(2.0, 20.0))
        # Half of the time the power fails, half of the time only the parent dies and must take the others along.
        if rng.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        process.stdout.close()
    finish(make_figures(tmp_path))
    assert figure_bytes(tmp_path) == unbroken[1]


def test_an_unknown_profile_is_one_sentence_without_a_traceback(tmp_path):
    process = make_figures(tmp_path, profile="smok")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        output.strip()
        == "make figures: Unknown profile 'smok'; choose one of: smoke, pocket, esc10, esc10-1500. Did you mean 'smoke'?"
    )


def test_a_notebook_that_stops_says_why_in_one_sentence(tmp_path, monkeypatch):
    source = tmp_path / "07_broken.py"
    lines = ['# %% tags=["parameters"]', 'profile = "smoke"', "# %%", "from lib.profiles import load_profile"]
    source.write_text("\n".join([*lines, "load_profile(profile)", ""]))
    with pytest.raises(InputError, match="Notebook '07_broken' stopped: Unknown profile 'nope'"):
        run_notebook(source, {"profile": "nope"}, tmp_path / "out.ipynb")
    assert (tmp_path / "out.ipynb").is_file()
    assert notebooks.KERNEL["name"] == "python3"
