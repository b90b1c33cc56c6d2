"""Run the notebooks, and keep the committed ones paired with their sources.

``python -m lib.notebooks run --profile smoke`` executes all into the scratch folder;
``python -m lib.notebooks run --only evidence`` executes those of the evidence, which the others do without;
``python -m lib.notebooks commit`` executes all and writes the pairs that a reader sees on the web.
"""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from lib.errors import InputError, unknown_name
from lib.files import sweep_temporaries, write_text
from lib.paths import NOTEBOOKS, REPOSITORY, scratch
from lib.profiles import load_profile
from lib.workers import run_parallel

CHAIN = ("01", "02", "03", "04", "05")  # each needs what the one before it has computed
READERS = ("06", "10", "12", "13", "14")  # need what the chain has computed; all others need nothing
EVIDENCE = ("15", "16", "17", "18", "19", "20", "21", "22", "23")  # need the chain, take all cores, and long
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def sources(only: str = "") -> list[Path]:
    """Return the notebook sources in order, or those that `only` names: by how they start ("03,05"), or "evidence"."""
    paths = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
    only = ",".join(EVIDENCE) if only == "evidence" else only
    for start in only.split(","):
        if not any(path.name.startswith(start) for path in paths):
            raise unknown_name("notebook", start, [path.stem for path in paths])
    return [path for path in paths if path.name.startswith(tuple(only.split(",")))]


def read_source(path: Path) -> nbformat.NotebookNode:
    """Return a source as a notebook, with a kernel and with cell ids that do not change from run to run."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{path.stem[:2]}-{number:02d}"
    return notebook


def declared_parameters(notebook: nbformat.NotebookNode, name: str) -> set[str]:
    """Return the names set in the one cell tagged ``parameters``.

    Raises
    ------
    InputError
        If there is not exactly one such cell.
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"Notebook '{name}' has {len(cells)} cells tagged 'parameters'; it must have exactly one.")
    lines = [line.split("=")[0].strip() for line in cells[0].source.splitlines() if "=" in line]
    return {line for line in lines if line.isidentifier()}


def run_notebook(path: Path, parameters: dict[str, object], output: Path) -> nbformat.NotebookNode:
    """Execute one notebook with papermill.

    Parameters
    ----------
    path : Path
        The ``py:percent`` source.
    parameters : dict
        Values for the names of its parameters cell.
    output : Path
        Where the executed notebook goes, also when it fails.

    Raises
    ------
    InputError
        If a parameter is not one of the notebook's, or a cell raises; the message is the cell's own.
    """
    notebook = read_source(path)
    known = declared_parameters(notebook, path.stem)
    for name in parameters:
        if name not in known:
            raise unknown_name(f"{path.stem} parameter", name, sorted(known))
    fresh = output.with_suffix(f".{os.getpid()}.in.ipynb")  # another run may be at the same notebook
    write_text(fresh, nbformat.writes(notebook))
    try:
        return papermill.execute_notebook(
            fresh,
            output,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=path.parent,
            extra_arguments=["--log-level=50"],  # nothing to say about the wire, or about being stopped
        )
    except PapermillExecutionError as error:
        what = error.evalue if error.ename == "InputError" else f"{error.ename}: {error.evalue}"
        raise InputError(f"Notebook '{path.stem}' stopped: {what} (executed copy: {output})") from error
    except (DeadKernelError, OSError) as error:
        raise InputError(
            f"Notebook '{path.stem}' stopped: {error or 'its kernel died'}; with enough memory and disk run again, "
            "what is finished is kept."
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def run_all(profile: str, only: str = "", extra: dict[str, object] | None = None) -> None:
    """Execute the notebooks into the scratch folder: those that `only` names, or all but those of the evidence."""
    load_profile(profile)
    paths = [path for path in sources(only) if only or not path.name.startswith(EVIDENCE)]
    for part in ("bootstrap", "lesson", "notebooks"):
        sweep_temporaries(scratch() / part)
    execute(paths, {"profile": profile, **(extra or {})}, scratch() / "notebooks" / profile)


def commit_all(only: str = "") -> None:
    """Execute the notebooks as they are and write each beside its source, scrubbed of times, paths and progress."""
    folder = scratch() / "notebooks" / "committed"
    for path in execute(sources(only), {}, folder):
        executed = nbformat.read(folder / f"{path.stem}.ipynb", as_version=4)
        write_text(path.with_suffix(".ipynb"), nbformat.writes(scrubbed(executed)) + "\n")


def execute(paths: Sequence[Path], parameters: dict[str, object], folder: Path) -> list[Path]:
    """Execute notebooks: those that compute the results in order, beside them the others, then who reads results.

    Those of the evidence come last, one after the other: each takes all cores itself.

    Raises
    ------
    InputError
        As `run_notebook`; notebooks that have not begun are not run.
    """
    kinds = (CHAIN, READERS, EVIDENCE)
    chain, readers, evidence = ([path for path in paths if path.name.startswith(kind)] for kind in kinds)
    others = [[path] for path in paths if path not in (*chain, *readers, *evidence)]
    for tasks in ([chain, *others] if chain else others, [[path] for path in readers], [evidence] if evidence else []):
        for _ in run_parallel(_run_in_order, [(task, parameters, folder) for task in tasks], imported="lib.notebooks"):
            pass
    return list(paths)


def _run_in_order(paths: list[Path], parameters: dict[str, object], folder: Path) -> None:
    for path in paths:
        print(f"{path.stem} …", flush=True)
        run_notebook(path, parameters, folder / f"{path.stem}.ipynb")


def scrubbed(executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return an executed notebook without times, injected parameters, progress and error streams."""
    clean = nbformat.from_dict(json.loads(nbformat.writes(executed)))
    clean.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    clean.cells = [cell for cell in clean.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for number, cell in enumerate(clean.cells, start=1):
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.execution_count = number
            cell.outputs = [output for output in cell.outputs if _is_worth_showing(output, tags)]
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = number
    return clean


def _is_worth_showing(output: dict, tags: list[str]) -> bool:
    """Progress (streams of cells tagged ``long``) and warnings are for the person who waits."""
    return output["output_type"] != "stream" or (output["name"] == "stdout" and "long" not in tags)


def is_paired(path: Path) -> bool:
    """Return whether the committed notebook holds exactly the cells of its source."""
    pair = path.with_suffix(".ipynb")
    if not pair.is_file():
        return False
    ours, theirs = read_source(path).cells, nbformat.read(pair, as_version=4).cells
    return [(c.cell_type, c.source) for c in ours] == [(c.cell_type, c.source) for c in theirs]


def _parameters(items: list[str]) -> dict[str, str]:
    for item in items:
        if "=" not in item:
            raise InputError(f"'--set {item}' has no value; write --set {item}=VALUE.")
    return dict(item.split("=", 1) for item in items)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["run", "commit"])
    parser.add_argument("--profile", default="pocket")
    parser.add_argument("--only", default="", help="run the notebooks that start so, e.g. 03 or 02,05, or 'evidence'")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="set a notebook parameter")
    arguments = parser.parse_args()
    # Kernels and workers inherit these: this repository's lib wherever it lies, and no debugger warnings.
    os.environ.update(PYTHONPATH=str(REPOSITORY), PYDEVD_DISABLE_FILE_VALIDATION="1")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    try:
        if arguments.action == "run":
            run_all(arguments.profile, arguments.only, _parameters(arguments.set))
        else:
            commit_all(arguments.only)
    except InputError as error:
        sys.exit(f"make figures: {error}" if arguments.action == "run" else f"make notebooks: {error}")


if __name__ == "__main__":
    main()
