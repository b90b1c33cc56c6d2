"""What is written down against what was computed: results, derived tables, the README, the notebook pairs.

``python -m lib.check`` (``make check``) lists what is stale and fails if anything is;
``make tables`` (``--write``) rewrites the tables in the README first.
"""

import argparse
import io
import re
import subprocess
import sys

import numpy as np
import pandas as pd

from lib.claims_page import summary
from lib.encoders import ENCODERS
from lib.errors import InputError
from lib.figures import read_table
from lib.files import write_text
from lib.notebooks import is_paired, sources
from lib.paths import FIGURES, REPOSITORY
from lib.profiles import PROFILES

README = REPOSITORY / "README.md"
TOLERANCE = 2.0  # points of a cell's mean over seeds, across machines; on one machine results repeat byte for byte
SHOWN = ("esc10", "pocket")  # profiles whose table stands in the README


def score_table(table: pd.DataFrame) -> str:
    """Return the comparison of a profile as a Markdown table: mean ± sd over seeds [95 % bootstrap interval]."""
    encoders = list(dict.fromkeys(table["encoder"]))
    lines = ["| head | " + " | ".join(ENCODERS[name].label for name in encoders) + " |"]
    lines.append("|---" * (len(encoders) + 1) + "|")
    rows = dict.fromkeys(zip(table["head"], table["encoder"].map(_default) != table["cls_mode"], strict=True))
    for head, on_mean in rows:
        cells = []
        for name in encoders:
            found = table[(table["encoder"] == name) & (table["head"] == head)]
            found = found[(found["cls_mode"] != _default(name)) == on_mean]
            cells.append(_score(found.iloc[0]) if len(found) else "")
        label = f"{head} (mean token)" if on_mean else head
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _default(encoder: str) -> str:
    return ENCODERS[encoder].cls


def _score(row: pd.Series) -> str:
    return f"{row['mean']:.1f} ± {row['sd']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def committed(path: str) -> pd.DataFrame | None:
    """Return a CSV file of the repository as it was committed, or None."""
    shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=REPOSITORY, capture_output=True, text=True)
    return None if shown.returncode else pd.read_csv(io.StringIO(shown.stdout), comment="#")


def readme_with_tables(text: str, as_committed: bool = False) -> str:
    """Return the README's text with what stands between its markers made anew: score tables, the count of verdicts.

    Parameters
    ----------
    text : str
        The README.
    as_committed : bool
        Whether the scores are those that are committed, or those of the last `make figures`.
    """
    for name in SHOWN:
        path = f"figures/{name}/benchmark.csv"
        table = committed(path) if as_committed else None
        table = read_table(REPOSITORY / path) if table is None else table
        text = _put(text, f"scores:{name}", score_table(table))
    return _put(text, "claims", summary())


def _put(text: str, place: str, content: str) -> str:
    """Replace what stands between two markers of the README."""
    marker = re.compile(rf"(<!-- {place} -->\n).*?(<!-- end -->)", re.S)
    if not marker.search(text):
        raise InputError(f"The README has no place for '{place}'; put back its two markers.")
    return marker.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def stale_derivations(profile_name: str) -> list[str]:
    """Return what in a profile's folder does not follow from its ``results.csv``."""
    folder = FIGURES / profile_name
    results, table = pd.read_csv(folder / "results.csv"), read_table(folder / "benchmark.csv")
    finals = results[
        (results["split"] == "test") & (results["J"].isna() | (results["J"] == PROFILES[profile_name].prototypes))
    ]
    means = finals.groupby(["encoder", "head", "cls_mode"])["value"].agg(["mean", "std"])
    stale = []
    for row in table.itertuples():
        mean, sd = means.loc[(row.encoder, row.head, row.cls_mode)]
        if not np.allclose([mean, sd], [row.mean, row.sd], rtol=1e-4):
            stale.append(f"figures/{profile_name}/benchmark.csv: {row.head} on {row.encoder}")
    return stale


def moved_results(profile_name: str) -> list[str]:
    """Return the cells whose test mean differs from the committed one by more than the tolerance."""
    path = f"figures/{profile_name}/results.csv"
    before = committed(path)
    if before is None:
        return [f"{path} is not committed"]
    keys = ["encoder", "head", "cls_mode", "J"]
    then, now = (
        frame[frame["split"] == "test"].groupby(keys, dropna=False)["value"].mean()
        for frame in (before, pd.read_csv(REPOSITORY / path))
    )
    both = pd.concat([then, now], axis=1, keys=["then", "now"])
    moved = both[~((both["now"] - both["then"]).abs() <= TOLERANCE)]
    return [f"{path}: {'/'.join(map(str, key))} {row.then:.2f} → {row.now:.2f}" for key, row in moved.iterrows()]


def problems() -> list[str]:
    """Return one line for everything that is stale."""
    found = [f"notebooks/{path.stem}.ipynb: run `make notebooks`" for path in sources() if not is_paired(path)]
    for name in SHOWN:
        found += stale_derivations(name) + moved_results(name)
    if not readme_is_current():
        found.append("README.md: its tables or its count of verdicts are not those of today; run `make tables`")
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
