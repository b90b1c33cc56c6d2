"""The benchmark of the fast engine: ``python -m lib.bench`` (``make bench``) measures, notebook 11 shows it.

Each part writes one table into ``figures/bench``: heads → bench.csv, cost, memory, store, and gpu where there is one.
Its first line names the machine. All seconds of a table are of one machine, process and number of threads; what may be
claimed are ratios within a table. Tokens are made from a seed and lie in memory, float16, before any clock starts.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from lib.bench_heads import pocket_rows, urban_rows
from lib.bench_parts import cost_rows, gpu_rows, memory_rows, store_rows
from lib.bench_sizes import QUICK, WHOLE, Plan
from lib.errors import InputError
from lib.figures import write_table
from lib.files import sweep_temporaries
from lib.machine import machine
from lib.paths import figure_root, scratch

LIMIT = 20.0  # seconds a head and shape, about; at the pocket shape one whole pass is timed, however long it takes
NOTES = {
    "heads": "Engine against plain loops, which take turns; medians of the passes. plain: the textbook loop; "
    "reference: lib.train; both and the engine read made-up float16 tokens in memory. gemm_share: of the machine's own "
    "rate for square matrices, by the products that a head cannot do without.",
    "cost": "Seconds of an epoch while one size varies; medians of the passes.",
    "memory": "What a process of its own holds at most while it trains, beyond what it held before: code and tokens.",
    "store": "Shards like the store's, written to the scratch folder; medians of the passes.",
    "gpu": "as20k's shape with all clips on the device; plain is the textbook loop in float32, torch's default.",
}
FILES = {"heads": "bench.csv"} | {part: f"{part}.csv" for part in NOTES if part != "heads"}


def rows_of(part: str, plan: Plan, limit: float) -> Iterator[dict]:
    """Yield the rows of a part as they are measured; none of the part "gpu" where there is no GPU."""
    if part == "heads":
        whole = partial(pocket_rows, whole=True)
        for measure, sizes in ((whole, plan), (pocket_rows, plan.with_many()), (urban_rows, plan)):
            for head in plan.heads:
                yield from measure(head, sizes, limit)
    elif part == "gpu":
        if torch.cuda.is_available():
            yield from gpu_rows(plan, torch.device("cuda"))
    else:
        yield from {"cost": cost_rows, "memory": memory_rows, "store": store_rows}[part](plan)


def measure(parts: Iterable[str], plan: Plan, limit: float, folder: Path, say: Callable[[str], None] = print) -> None:
    """Measure parts and write their tables.

    Parameters
    ----------
    parts : iterable of str
        Keys of `FILES`.
    plan : Plan
        What to measure.
    limit : float
        Seconds a head and shape in the part "heads". At the pocket shape it governs how many passes are made beyond
        the first, which is whole; at the others what takes longer is measured in part and scaled, and says so.
    folder : Path
        Where the tables go, each once it is whole.
    say : callable
        Is told each row in a few words.
    """
    for place in (folder, scratch() / "bench"):
        sweep_temporaries(place)
    for part in parts:
        rows = []
        for row in rows_of(part, plan, limit):
            rows.append(row)
            say(f"{part}: {in_short(row)}")
        if not rows:
            say(f"{part}: torch sees no GPU here, so nothing is measured and '{FILES[part]}' stays as it is.")
            continue
        device = torch.device("cuda") if part == "gpu" else None
        write_table(folder / FILES[part], pd.DataFrame(rows), f"{machine(device)} {NOTES[part]}")


def in_short(row: dict) -> str:
    """Return a row in a few words: what it is about, and its numbers of most interest."""
    about = [
        str(row[name]) for name in ("head", "shape", "varied", "value", "products", "read", "page_cache") if name in row
    ]
    units = {"ratio": "{:.1f} times", "plain_mb": "plain {:.0f} MB", "engine_mb": "engine {:.0f} MB"}
    units |= {"mb_per_s": "{:.0f} MB/s"}
    return ", ".join([" ".join(about), *(form.format(row[name]) for name, form in units.items() if name in row)])


def threads(asked: str | None) -> int:
    """Return how many threads torch shall have: as asked on the command line, else by ``OMP_NUM_THREADS``, else one.

    Raises
    ------
    InputError
        If that is no whole number, or less than one.
    """
    name, number = ("--threads", asked) if asked else ("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS") or "1")
    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"{name} is '{number}'; it must be a whole number of at least 1.")
    return int(number)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=list(FILES), help="only this part (may be repeated)")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="seconds a head and shape; inf: all is timed in full"
    )
    parser.add_argument("--threads", help="threads of torch (default: OMP_NUM_THREADS, or one)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes into the scratch folder; its numbers mean nothing"
    )
    arguments = parser.parse_args()
    folder = scratch() / "bench" / "quick" if arguments.quick else figure_root() / "bench"
    plan, limit = (QUICK, 0.0) if arguments.quick else (WHOLE, arguments.limit)
    try:
        if math.isnan(limit) or limit < 0:
            raise InputError(f"--limit is a number of seconds, zero or more, not {limit:g}.")
        torch.set_num_threads(threads(arguments.threads))
        measure(arguments.part or FILES, plan, limit, folder, partial(print, flush=True))
    except InputError as error:
        sys.exit(f"make bench: {error}")


if __name__ == "__main__":
    main()
