"""What products in bfloat16 do to scores: ``python -m lib.bench_products`` (``make products``).

The heads of the profile `pocket` that take narrow products are searched, trained and tested twice: with the
similarities of prototype heads, and ep's products with tokens, in float32 (profile `pocket-float32`) and in bfloat16
(`pocket-bfloat16`), on any machine: without instructions for bfloat16 it is only slower. Resumable, like any profile.
"""

import sys

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.figures import last_table, write_table
from lib.paths import figure_root
from lib.profiles import PROFILES
from lib.results import all_cells, read_rows, run_cells

KINDS = ("float32", "bfloat16")
MEAN_BOUND, BIAS_BOUND = 0.3, 0.1  # points of mAP: of the mean absolute difference, and of each head's mean difference


def table() -> pd.DataFrame:
    """Return the mean test score over seeds with both kinds of products, a row a cell; all cells must be there."""
    profiles, rows = {kind: PROFILES[f"pocket-{kind}"] for kind in KINDS}, []
    for cell in all_cells(profiles["float32"]):
        values = {
            kind: np.mean([row["value"] for row in read_rows(profile, cell) if row["split"] == "test"])
            for kind, profile in profiles.items()
        }
        difference = values["bfloat16"] - values["float32"]
        rows.append((cell.dataset, cell.encoder, cell.head, cell.metric, *values.values(), difference))
    return pd.DataFrame(rows, columns=["dataset", "encoder", "head", "metric", *KINDS, "difference"])


def in_words(found: pd.DataFrame) -> str:
    """Say how far the two kinds of products are apart: mAP against its bounds, and beside it accuracy."""
    scores, accuracies = (found[(found["metric"] == "accuracy") == yes] for yes in (False, True))
    kept = {True: "kept", False: "not kept"}
    away, means = scores["difference"].abs().mean(), scores.groupby("head")["difference"].mean()
    words = (
        f"Over {len(scores)} cells the mAP with products in bfloat16 is {away:.2f} points away from that in float32 on "
        f"average (bound {MEAN_BOUND:g}: {kept[bool(away <= MEAN_BOUND)]}). Mean difference by head, with its standard "
        f"error: {_by_head(scores)} (bound {BIAS_BOUND:g}: {kept[bool((means.abs() <= BIAS_BOUND).all())]})."
    )
    if len(accuracies):
        words += (
            f" Over the {len(accuracies)} single-label cells the accuracy is "
            f"{accuracies['difference'].abs().mean():.2f} points away: {_by_head(accuracies)}; no bound was set for it."
        )
    return (
        f"{words} The two searches are independent of each other and may end with other learning rates, so luck of the "
        "search is part of these differences."
    )


def _by_head(rows: pd.DataFrame) -> str:
    each = rows.groupby("head", sort=False)["difference"].agg(["mean", "sem"])
    return ", ".join(f"`{head}` {round(row['mean'], 2) + 0.0:+.2f} ± {row['sem']:.2f}" for head, row in each.iterrows())


def measured() -> pd.DataFrame | None:
    """Return the table as it was last written here, or else the committed one, or None."""
    return last_table("bench", "products")


def main() -> None:
    """Run what is missing of both profiles and write ``figures/bench/products.csv``."""
    try:
        for kind in KINDS:
            run_cells(f"pocket-{kind}", all_cells(PROFILES[f"pocket-{kind}"]))
        found = table()
        words = "Prototype heads and ep of profile pocket, test score in percent, mean over seeds."
        write_table(figure_root() / "bench" / "products.csv", found, words)
        print(in_words(found))
    except InputError as error:
        sys.exit(f"make products: {error}")


if __name__ == "__main__":
    main()
