"""The dress rehearsal: all of `PROFILE=paper` but its size, in minutes.

``make rehearse`` writes miniatures of the fourteen datasets in their owners' layouts and of the nine checkpoints with
random weights, then runs profile ``rehearsal`` as `make figures` runs any other: caching, every head, every ablation,
Figures 1 to 8, Tables 2 to 7. Every code path of these is that of the real thing. Left out are the pages that read no
result of the profile: 00, 07 to 09, 11 and 24. It lies in a folder of its own and harms nothing; run again, it goes on
where it stopped.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from lib.errors import InputError
from lib.paths import REPOSITORY, scratch

PROFILE = "rehearsal"
CLIPS = 10  # of an official split, about
NOTEBOOKS = "01,02,03,04,05,06,10,12,13,14"  # those that compute, and all that read what the others have computed
TABLES = range(2, 8)
FIGURES = range(1, 9)


def places(folder: Path) -> dict[str, str]:
    """Return the variables that make `folder` the place of audio, scratch and figures; the folders are made."""
    found = {"UNMUTE_DATA": folder / "audio", "UNMUTE_CACHE": folder / "scratch", "UNMUTE_FIGURES": folder / "figures"}
    for path in found.values():
        path.mkdir(parents=True, exist_ok=True)
    return {variable: str(path) for variable, path in found.items()}


def write_miniatures(encoders: list[str] | None = None, datasets: list[str] | None = None) -> None:
    """Write miniatures of encoders and datasets, all by default, where the environment says; what is there stays."""
    from lib.data.miniatures import Wanted, write_miniature
    from lib.data.paper_manifests import PAPER_SETS
    from lib.encoders.manifests import CHECKPOINTS
    from lib.encoders.miniatures import write_miniature as write_checkpoint
    from lib.paths import audio_root

    for seed, name in enumerate(CHECKPOINTS):
        if encoders is None or name in encoders:
            write_checkpoint(name, seed)
    for seed, name in enumerate(PAPER_SETS):
        if (datasets is None or name in datasets) and not (audio_root() / name / "miniature.json").is_file():
            write_miniature(name, audio_root(), Wanted(clips=CLIPS, seed=seed))


def perform(folder: Path, notebooks: str = NOTEBOOKS, **part: str) -> int:
    """Run the profile in a process of its own, which reads the names of the miniatures; return its exit status.

    Parameters
    ----------
    folder : Path
        Where all of it lies.
    notebooks : str
        Which, by how they start.
    **part
        ``UNMUTE_ENCODERS`` and the like, for a part of the profile.
    """
    command = [sys.executable, "-m", "lib.notebooks", "run", "--profile", PROFILE, "--only", notebooks]
    return subprocess.run(command, env=os.environ | places(folder) | part, cwd=REPOSITORY, check=False).returncode


def missing(folder: Path) -> list[str]:
    """Return which figures and tables there are not, and which tables have empty places, save for fine-tuning."""
    wanted = [f"figure_{number}.{kind}" for number in FIGURES for kind in ("png", "pdf", "csv")]
    wanted += [f"table_{number}.md" for number in TABLES]
    found = folder / "figures" / PROFILE
    absent = [name for name in wanted if not (found / name).is_file() or not (found / name).stat().st_size]
    tables = [name for name in wanted if name.startswith("table") and name not in (*absent, "table_3.md")]
    empty = [name for name in tables if "| – |" in (found / name).read_text(encoding="utf-8")]
    return absent + [f"{name} (which has empty places)" for name in empty]


def main() -> None:
    """Rehearse; say how long it took and whether anything is missing."""
    started, folder = time.monotonic(), scratch() / "rehearsal"
    os.environ.update(places(folder))
    try:
        write_miniatures()
    except InputError as error:
        sys.exit(f"make rehearse: {error}")
    print(f"miniatures written after {time.monotonic() - started:.0f} s", flush=True)
    if status := perform(folder):
        sys.exit(status)
    if absent := missing(folder):
        sys.exit(f"make rehearse: it ended without {', '.join(absent)}.")
    print(f"rehearsed in {(time.monotonic() - started) / 60:.1f} min: {folder / 'figures' / PROFILE}")


if __name__ == "__main__":
    main()
