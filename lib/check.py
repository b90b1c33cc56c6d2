"""What is written down against what was computed: results, derived tables, the README, the notebook pairs.

``python -m lib.check`` (``make check``) lists what is stale and fails if anything is;
``python -m lib.check --write`` rewrites the tables in the README.
"""

import argparse
import io
import re
import subprocess
import sys

import numpy as np
import pandas as pd

from lib.encoders import ENCODERS
from lib.errors import InputError
from lib.figures import read_table
from lib.notebooks import is_paired, sources
from lib.paths import FIGURES, REPOSITORY
from lib.profiles import PROFILES

README = REPOSITORY / "README.md"
TOLERANCE = 2.0  # points of a cell's mean over seeds, across machines; on one machine results repeat byte for byte
SHOWN = ("esc10", "pocket")  # profiles whose table stands in the README


def score_table(profile_name: str) -> str:
    """Return the comparison of a profile as a Markdown table: mean ± sd over seeds [95 % bootstrap interval]."""
    table = read_table(FIGURES / profile_name / "benchmark.csv")
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


def readme_with_tables(text: str) -> str:
    """Return the README's text with the tables between its markers made anew."""
    for name in SHOWN:
        marker = re.compile(rf"(<!-- scores:{name} -->\n).*?(<!-- end -->)", re.S)
        if not marker.search(text):
            raise InputError(f"The README has no place for the scores of '{name}'; put back its two markers.")
        text = marker.sub(lambda found: found[1] + score_table(name) + "\n" + found[2], text)  # noqa: B023
    return text


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
    committed = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=REPOSITORY, capture_output=True, text=True)
    if committed.returncode:
        return [f"{path} is not committed"]
    keys = ["encoder", "head", "cls_mode", "J"]
    then, now = (
        frame[frame["split"] == "test"].groupby(keys, dropna=False)["value"].mean()
        for frame in (pd.read_csv(io.StringIO(committed.stdout)), pd.read_csv(REPOSITORY / path))
    )
    both = pd.concat([then, now], axis=1, keys=["then", "now"])
    moved = both[~((both["now"] - both["then"]).abs() <= TOLERANCE)]
    return [f"{path}: {'/'.join(map(str, key))} {row.then:.2f} → {row.now:.2f}" for key, row in moved.iterrows()]


def problems() -> list[str]:
    """Return one line for everything that is stale."""
    found = [f"notebooks/{path.stem}.ipynb: run `make notebooks`" for path in sources() if not is_paired(path)]
    for name in SHOWN:
        found += stale_derivations(name) + moved_results(name)
    if readme_with_tables(README.read_text(encoding="utf-8")) != README.read_text(encoding="utf-8"):
        found.append(
            "README.md: its tables do not follow from figures/*/benchmark.csv; run `python -m lib.check --write`"
        )
    return found


def main() -> None:
    """Check, or rewrite the README's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="rewrite the tables in the README")
    if parser.parse_args().write:
        README.write_text(readme_with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
    found = problems()
    print("\n".join(found) if found else f"all is up to date (tolerance {TOLERANCE} points)")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
