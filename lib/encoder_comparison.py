"""Nine pocket encoders and two controls under the same few heads: what each is worth, and what its pooling loses.

``make encoders`` trains the heads on both polyphonic sets and keeps small tables in ``figures/<profile>``; notebook 09
and the tests read those tables and train nothing.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from lib.comparisons import benchmark, difference
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS, SHIPPED
from lib.errors import InputError
from lib.figures import last_table, write_table
from lib.files import write_text
from lib.paths import MANIFESTS, figure_root
from lib.profiles import Profile, load_profile
from lib.results import COLUMNS, main_cells, read_rows, run_cells

COMPARED = ("encoders", "encoders-esc10")  # profiles: synthetic, real recordings
CONTROLS = ("random-vit", "log-mel")
NEEDED_POINTS, NEEDED_SDS = 5.0, 3.0  # a pretrained encoder has to lie so far above both controls
SUPERVISED = tuple(name for name in SHIPPED if ENCODERS[name].base)


def measure(profile_name: str) -> Path:
    """Train what is missing of a profile's main comparison and write its tables; return their folder.

    ``results.csv`` has a row a run, ``benchmark.csv`` a row a cell with intervals, ``supervised.csv`` what labels
    changed for each head, ``weights.csv`` the checksum of the weights that all this is about.
    """
    profile = load_profile(profile_name)
    cells = main_cells(profile)
    run_cells(profile_name, cells)
    folder = figure_root() / profile_name
    rows = [{"profile": profile_name, **row} for cell in cells for row in read_rows(profile, cell)]
    write_text(folder / "results.csv", pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n"))
    write_table(
        folder / "benchmark.csv",
        benchmark(profile_name, variants=False),
        f"profile {profile_name}: test split, a row a cell",
    )
    note = f"profile {profile_name}: supervised version minus base, test mAP, paired 95 % bootstrap interval"
    write_table(folder / "supervised.csv", supervised_gains(profile), note)
    write_table(folder / "weights.csv", weights(profile), f"profile {profile_name}: the weights behind these tables")
    return folder


def supervised_gains(profile: Profile) -> pd.DataFrame:
    """Return, for each supervised version and head, the points above the base encoder with the paired interval."""
    cells = {(cell.encoder, label_of(cell.head, cell.cls_mode, cell.encoder)): cell for cell in main_cells(profile)}
    rows = [
        (name, head, *difference(profile, cell, cells[ENCODERS[name].base, head]))
        for (name, head), cell in cells.items()
        if name in SUPERVISED and (ENCODERS[name].base, head) in cells
    ]
    return pd.DataFrame(rows, columns=["encoder", "head", "gain", "low", "high"])


def weights(profile: Profile) -> pd.DataFrame:
    """Return the SHA-256 of each pretrained encoder's weights, as its manifest has it."""
    names = [name for name in profile.encoders if ENCODERS[name].kind != "control"]
    sums = [
        json.loads((MANIFESTS / "encoders" / f"{name}.json").read_text(encoding="utf-8"))["sha256"] for name in names
    ]
    return pd.DataFrame({"encoder": names, "sha256": sums})


def label_of(head: str, cls_mode: str, encoder: str) -> str:
    """Return what a cell's head is called here: "linear on [cls]" where there is one, else "linear on mean"."""
    if head != "linear":
        return head
    return "linear on [cls]" if cls_mode == "native" and ENCODERS[encoder].cls == "native" else "linear on mean"


def stored(profile_name: str, table: str) -> pd.DataFrame:
    """Read one of the tables of `measure`, or else the committed one, with heads called as in `label_of`.

    Raises
    ------
    InputError
        If it was never made.
    """
    found = last_table(profile_name, table)
    if found is None:
        raise InputError(f"There is no '{table}.csv' of profile '{profile_name}'; run `make encoders`.")
    return labelled(found)


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which heads are called as in `label_of`, where it says what stands for [cls]."""
    if not {"head", "cls_mode"} <= set(table):
        return table
    keys = zip(table["head"], table["cls_mode"], table["encoder"], strict=True)
    return table.assign(head=[label_of(*key) for key in keys])


def margins(profile_name: str, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return by how much a linear probe on the mean token is better on each encoder than on the better control.

    Parameters
    ----------
    profile_name : str
        One of `COMPARED`.
    table : pandas.DataFrame, optional
        Its ``benchmark.csv``, `labelled`; the stored one by default.

    Returns
    -------
    pandas.DataFrame
        A row a pretrained encoder: ``mean`` and ``sd`` over seeds, ``points`` above the better of the two controls,
        and ``sds``, the same in standard deviations above that control for which they are fewer; a standard deviation
        is the larger of the encoder's and the control's.
    """
    table = stored(profile_name, "benchmark") if table is None else table
    table = table[table["head"] == "linear on mean"].set_index("encoder")
    rows = table[[ENCODERS[name].kind != "control" for name in table.index]][["mean", "sd"]].copy()
    controls = [table.loc[name] for name in CONTROLS]
    rows["points"] = rows["mean"] - max(control["mean"] for control in controls)
    in_sds = [(rows["mean"] - control["mean"]) / rows["sd"].clip(lower=control["sd"]) for control in controls]
    rows["sds"] = pd.concat(in_sds, axis=1).min(axis=1)
    return rows.reindex([name for name in ENCODERS if name in rows.index]).rename_axis("encoder").reset_index()


def margins_page() -> pd.DataFrame:
    """Return `margins` of both profiles for a page: points above the better control, and in standard deviations."""
    columns = {}
    for name in COMPARED:
        table, title = margins(name), load_dataset(load_profile(name).dataset).manifest["title"]
        labels = [ENCODERS[encoder].label for encoder in table["encoder"]]
        columns[title, "points above"] = pd.Series(table["points"].round(1).to_numpy(), labels)
        columns[title, "in sd over seeds"] = pd.Series(table["sds"].round(0).astype(int).to_numpy(), labels)
    return pd.DataFrame(columns)


def falls_short(table: pd.DataFrame) -> list[str]:
    """Return the encoders of `margins` that do not lie far enough above the controls."""
    short = table[(table["points"] < NEEDED_POINTS) | (table["sds"] <= NEEDED_SDS)]
    return list(short["encoder"])


def gains(profile_name: str) -> pd.DataFrame:
    """Return the points of each head above linear on what stands for [cls], with paired intervals, a row a cell."""
    table = stored(profile_name, "benchmark")
    reference = {name: label_of("linear", entry.cls, name) for name, entry in ENCODERS.items()}
    table = table[table["head"] != table["encoder"].map(reference)]
    return table[["encoder", "head", "gain", "gain_low", "gain_high"]].reset_index(drop=True)


def in_words(profile_name: str) -> list[str]:
    """Say what the tables of a profile show, in sentences whose numbers are read from them."""
    table, steps, base = margins(profile_name), stored(profile_name, "supervised"), gains(profile_name)
    least = table.loc[table["points"].idxmin()]
    sentences = [
        f"On the mean token a linear probe is at least {least['points']:.1f} points above the better control "
        f"(that is {ENCODERS[least['encoder']].label}, {least['mean']:.1f} mAP)."
    ]
    bases = base[base["encoder"].map(lambda name: ENCODERS[name].kind == "base")]
    with_cls = bases[bases["encoder"].map(lambda name: ENCODERS[name].cls == "native")]
    for words, part in (("with a [cls] of their own", with_cls), ("without one", bases.drop(with_cls.index))):
        gain = part[part["head"] == "protobin"]
        sentences.append(
            f"On base encoders {words}, protobin gains {gain['gain'].min():.1f} to {gain['gain'].max():.1f} points "
            f"over linear; the interval lies above zero on {(gain['gain_low'] > 0).sum()} of {len(gain)}."
        )
    for name, part in steps.groupby("encoder", sort=False):
        order = part.sort_values("gain", ascending=False)
        first, linear = order.iloc[0], part[part["head"].str.startswith("linear")].sort_values("head").iloc[0]
        sentences.append(
            f"Labels give {ENCODERS[name].label} most under {first['head']}: {first['gain']:+.1f} points "
            f"({first['low']:+.1f} to {first['high']:+.1f}); {linear['head']} gets {linear['gain']:+.1f} "
            f"({linear['low']:+.1f} to {linear['high']:+.1f}), protobin "
            f"{part.set_index('head')['gain']['protobin']:+.1f}."
        )
    return sentences


def main() -> None:
    """Measure both profiles."""
    for name in sys.argv[1:] or COMPARED:
        print(f"{name}: {load_profile(name).about}", flush=True)
        try:
            folder = measure(name)
        except InputError as error:
            raise SystemExit(f"make encoders: {error}") from None
        print(
            f"tables in {folder.name}/; below the controls' margin: {', '.join(falls_short(margins(name))) or 'none'}"
        )


if __name__ == "__main__":
    main()
