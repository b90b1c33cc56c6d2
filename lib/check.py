"""What is written down against what was computed: results, derived tables, the README, the notebook pairs.

``python -m lib.check`` (``make check``) lists what is stale and fails if anything is;
``make tables`` (``--write``) rewrites the tables in the README first.
"""

import argparse
import io
import re
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib import claims_page, evidence, summary
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.errors import InputError
from lib.figures import read_table
from lib.files import write_text
from lib.notebooks import is_paired, sources
from lib.paths import FIGURES, REPOSITORY
from lib.profiles import PROFILES
from lib.published import FINE_TUNING

README = REPOSITORY / "README.md"
TOLERANCE = 2.0  # points of a cell's mean over seeds, across machines; on one machine results repeat byte for byte
SHOWN = ("esc10", "pocket")  # profiles whose table stands in the README
CELL = ["dataset", "encoder", "head", "cls_mode"]
DERIVED = {  # tables of means over seeds → what names their rows
    "benchmark": CELL,
    "prototype_counts": ["dataset", "encoder", "head", "J"],
    "fine_tuning": ["dataset", "encoder", "head"],
}


def score_table(table: pd.DataFrame) -> str:
    """Return a comparison on one dataset as Markdown: encoders × heads, mean ± sd over seeds, the best in bold."""
    heads = list(dict.fromkeys(zip(table["head"], table["encoder"].map(_default) != table["cls_mode"], strict=True)))
    labels = [f"{head} (mean token)" if on_mean else head for head, on_mean in heads]
    lines = ["| encoder | " + " | ".join(labels) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in dict.fromkeys(table["encoder"]):
        rows = table[table["encoder"] == name]
        best = rows["mean"].max()
        cells = []
        for head, on_mean in heads:
            found = rows[(rows["head"] == head) & ((rows["cls_mode"] != _default(name)) == on_mean)]
            cells.append(_score(found.iloc[0], best) if len(found) else "")
        lines.append(f"| {ENCODERS[name].label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _default(encoder: str) -> str:
    return ENCODERS[encoder].cls


def _score(row: pd.Series, best: float) -> str:
    mean = f"**{row['mean']:.1f}**" if row["mean"] == best else f"{row['mean']:.1f}"
    return f"{mean} ± {row['sd']:.1f}"


def committed(path: str) -> pd.DataFrame | None:
    """Return a CSV file of the repository as it was committed, or None."""
    shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=REPOSITORY, capture_output=True, text=True)
    if shown.returncode:
        return None
    note, _, rest = shown.stdout.partition("\n")
    return pd.read_csv(io.StringIO(rest if note.startswith("# ") else shown.stdout))


def readme_with_tables(text: str, as_committed: bool = False) -> str:
    """Return the README's text with what stands between its markers made anew: scores, how to read them, verdicts.

    Parameters
    ----------
    text : str
        The README.
    as_committed : bool
        Whether the scores are those that are committed, or those of the last `make figures`.
    """

    def read(path: str) -> pd.DataFrame:
        table = committed(f"figures/{path}") if as_committed else None
        return summary.read_figures(path) if table is None else table

    for name in SHOWN:
        table = read(f"{name}/benchmark.csv")
        table = table[(table["dataset"] == PROFILES[name].dataset) & (table["head"] != "protofloat")]
        text = _put(text, f"scores:{name}", score_table(table))
    text = _put(text, "summary", summary.summary(read))
    text = _put(text, "evidence", evidence.evidence(read))
    return _put(text, "claims", claims_page.summary())


def _put(text: str, place: str, content: str) -> str:
    """Replace what stands between two markers of the README."""
    marker = re.compile(rf"(<!-- {place} -->\n).*?(<!-- end -->)", re.S)
    if not marker.search(text):
        raise InputError(f"The README has no place for '{place}'; put back its two markers.")
    return marker.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def computed_profiles() -> list[str]:
    """Return the profiles whose results lie in ``figures/`` together with a comparison that was made of them."""
    return [
        name
        for name in PROFILES
        if name != "smoke"  # its numbers mean nothing, and are not committed
        and all((FIGURES / name / f"{part}.csv").is_file() for part in ("results", "benchmark"))
    ]


def stale_derivations(profile_name: str) -> list[str]:
    """Return what in a profile's tables of means does not follow from its ``results.csv``."""
    folder, profile = FIGURES / profile_name, PROFILES[profile_name]
    results = pd.read_csv(folder / "results.csv")
    results = results[results["split"] == "test"]
    usual = {name: load_dataset(name).prototypes for name in profile.datasets}
    is_usual = results["J"].isna() | (results["J"] == results["dataset"].map(usual))
    runs = {
        "benchmark": results[is_usual],
        "prototype_counts": results[results["cls_mode"] == results["encoder"].map(_default)],
        "fine_tuning": results[results["head"] == FINE_TUNING],
    }
    stale = []
    for name, keys in DERIVED.items():
        path = folder / f"{name}.csv"
        if not path.is_file() or (name == "fine_tuning" and runs[name].empty):  # its runs are not among the results yet
            continue
        table = read_table(path)
        table = table if "dataset" in table else table.assign(dataset=profile.dataset)
        means = runs[name].groupby(keys)["value"].agg(["mean", "std"])
        stale += [f"figures/{profile_name}/{name}.csv: {row}" for row in _differing(table, means, keys)]
    return stale


def _differing(table: pd.DataFrame, means: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Return the rows of a table whose mean or sd is not that of the runs, or that have no runs."""
    found = means.reindex(pd.MultiIndex.from_frame(table[list(keys)]))
    same = np.isclose(found, table[["mean", "sd"]], rtol=1e-4, equal_nan=True).all(axis=1) & found["mean"].notna()
    rows = table.loc[~same.to_numpy()]
    return [f"{row.head} on {row.encoder} and {row.dataset}" for row in rows.itertuples()]


def moved_results(profile_name: str) -> list[str]:
    """Return the cells whose test mean differs from the committed one by more than the tolerance."""
    path = f"figures/{profile_name}/results.csv"
    before = committed(path)
    if before is None:
        return [f"{path} is not committed"] if profile_name in SHOWN else []
    after = pd.read_csv(REPOSITORY / path)
    if FINE_TUNING not in set(before["head"]):  # these rows are new to the table
        after = after[after["head"] != FINE_TUNING]
    then, now = (
        frame[frame["split"] == "test"].groupby([*CELL, "J"], dropna=False)["value"].mean() for frame in (before, after)
    )
    both = pd.concat([then, now], axis=1, keys=["then", "now"])
    moved = both[~((both["now"] - both["then"]).abs() <= TOLERANCE)]
    return [f"{path}: {'/'.join(map(str, key))} {row.then:.2f} → {row.now:.2f}" for key, row in moved.iterrows()]


def problems() -> list[str]:
    """Return one line for everything that is stale."""
    found = [f"notebooks/{path.stem}.ipynb: run `make notebooks`" for path in sources() if not is_paired(path)]
    for name in computed_profiles():
        found += stale_derivations(name) + moved_results(name)
    if not readme_is_current():
        found.append("README.md: its tables, summary or count of verdicts are not those of today; run `make tables`")
    return found


def readme_is_current() -> bool:
    """Return whether the README's tables are those of the committed results, or of the last `make figures`."""
    text = README.read_text(encoding="utf-8")
    return text in (readme_with_tables(text, as_committed=True), readme_with_tables(text))


def main() -> None:
    """Check, or rewrite the README's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="rewrite the tables in the README")
    write = parser.parse_args().write
    try:
        if write:
            write_text(README, readme_with_tables(README.read_text(encoding="utf-8")))
        found = problems()
    except (InputError, FileNotFoundError) as error:
        sys.exit(f"make check: {error}")
    print("\n".join(found) if found else f"all is up to date (tolerance {TOLERANCE} points)")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
