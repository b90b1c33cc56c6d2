"""A published number beside its rerun, and what differs in protocol between the two.

A rerun here is of a stand-in: a pocket encoder of the same kind, on a dataset made by the same recipe. The two are
never the same experiment; what can be compared is the order of the heads and the sign of their differences.
"""

import numpy as np
import pandas as pd

from lib import published
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS, load_encoder
from lib.errors import InputError
from lib.figures import read_table
from lib.paths import figure_root
from lib.profiles import LR_RANGES, WEIGHT_DECAY_RANGE, Profile, load_profile

ENCODER_STAND_INS = {
    entry.label.removesuffix(" (pocket)"): name for name, entry in ENCODERS.items() if entry.kind != "control"
}
DATASET_STAND_INS = {"urban": ("soundscapes", "esc10-soundscapes")}  # ten seconds, one to nine events, as URBAN-SED
COLUMNS = ("dataset", "encoder", "head", "J", "published", "published_sd", "rerun", "rerun_sd", "low", "high", "words")


def side_by_side(number: int, profile_name: str) -> pd.DataFrame:
    """Put every number of a table of the paper beside its rerun in a profile.

    Parameters
    ----------
    number : int
        A table of results, 2 to 7.
    profile_name : str
        The profile whose last results are read (``figures/<profile>``).

    Returns
    -------
    pandas.DataFrame
        ``COLUMNS``, a row a published number, in the paper's order: mean and sd in percent, published and rerun, and
        the rerun's 95 % bootstrap interval where there is one. `words` says what was rerun, or why nothing was.

    Raises
    ------
    InputError
        If the table holds no results, or the profile is unknown or was never run.
    """
    if number not in published.RESULT_TABLES:
        raise InputError(f"Table {number} of the paper holds no results; those that do are 2 to 7.")
    profile = load_profile(profile_name)
    reruns = _reruns(profile)
    rows = published.table(number).rename(columns={"mean": "published", "std": "published_sd"})
    found = [_find(row, profile, reruns) for row in rows.itertuples()]
    beside = pd.DataFrame(found, columns=["rerun", "rerun_sd", "low", "high", "words"])
    return pd.concat([rows.reset_index(drop=True), beside], axis=1)[list(COLUMNS)]


def _reruns(profile: Profile) -> pd.DataFrame:
    """Return what a profile measured: the main comparison with each encoder's default [cls], and the J ablation."""
    folder = figure_root() / profile.name
    main, counts = read_table(folder / "benchmark.csv"), read_table(folder / "prototype_counts.csv")
    main = main[main["cls_mode"] == main["encoder"].map({name: entry.cls for name, entry in ENCODERS.items()})]
    prototypical = main["family"] == "prototype"
    main = main.assign(J=np.where(prototypical, profile.prototypes, np.nan))
    known = set(zip(main["encoder"], main["head"], main["J"], strict=True))
    more = [key not in known for key in zip(counts["encoder"], counts["head"], counts["J"], strict=True)]
    return pd.concat([main, counts[more]], ignore_index=True)


def _find(row: tuple, profile: Profile, reruns: pd.DataFrame) -> tuple:
    """Return (mean, sd, low, high, words) of the rerun of one published number; NaN and the reason if there is none."""
    nothing = (np.nan,) * 4
    if row.head == published.FINE_TUNING:
        return *nothing, "no rerun: encoders are frozen here, nothing is fine-tuned"
    if profile.dataset not in DATASET_STAND_INS.get(row.dataset, ()):
        return *nothing, f"no rerun: profile {profile.name} has no stand-in for {row.dataset}"
    encoder = ENCODER_STAND_INS.get(row.encoder)
    if encoder not in profile.encoders:
        return *nothing, f"no rerun: profile {profile.name} has no pocket encoder of the kind of {row.encoder}"
    same = reruns[(reruns["encoder"] == encoder) & (reruns["head"] == row.head)]
    if not np.isnan(row.J):
        same = same[same["J"] == row.J]
    if same.empty:
        return *nothing, f"no rerun: profile {profile.name} does not train {row.head} with J = {row.J:g}"
    cell = same.iloc[0]
    return cell["mean"], cell["sd"], cell["low"], cell["high"], f"{encoder} on {profile.dataset}"


def protocol_differences(profile_name: str) -> pd.DataFrame:
    """Return what differs in protocol between the paper and a profile: ``what, published, rerun``.

    What is the same in both (loss, optimiser, schedule, frozen last layer) is left out.
    """
    profile = load_profile(profile_name)
    encoder = load_encoder(ENCODER_STAND_INS["A-MAE"])
    size = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    fixed = published.table(10).set_index("setting")["value"]
    sizes = published.table(8).set_index("dataset").loc["urban"]
    S_t, S_f = encoder.grid
    data = load_dataset(profile.dataset)
    rows = [
        (
            "encoder",
            "ViT-base, circa 86 M parameters, D = 768",
            f"pocket ViT, {size:.1f} M, D = {encoder.geometry.dim}",
        ),
        ("tokens of ten seconds", "64 x 8", f"{S_t} x {S_f}"),
        ("dataset for urban", "URBAN-SED, 10 classes", f"{data.manifest['title']}, {len(data.classes)} classes"),
        (
            "training / validation / test clips",
            f"{sizes['train']:,.0f} / {sizes['validation']:,.0f} / {sizes['test']:,.0f}",
            " / ".join(str(profile.clips[split]) for split in ("train", "val", "test")),
        ),
        ("trials of a search", "50", str(profile.trials)),
        ("seeds", "5 (Table 7: 3)", str(len(profile.seeds))),
        ("batch size", fixed["batch_size"], str(profile.batch_size)),
        ("epochs", fixed["epochs"], str(profile.epochs)),
        ("intervals", "sd over seeds", "sd over seeds, and a bootstrap over test clips"),
    ]
    ours = {
        "prototypical": LR_RANGES["prototype"],
        "all but prototypical": LR_RANGES["other"],
        "all": WEIGHT_DECAY_RANGE,
    }
    for row in published.search_ranges().itertuples():
        low, high = ours[row.heads]
        rows.append((f"{row.setting} of {row.heads} heads", f"{row.low:g} to {row.high:g}", f"{low:g} to {high:g}"))
    table = pd.DataFrame(rows, columns=["what", "published", "rerun"])
    return table[table["published"] != table["rerun"]].reset_index(drop=True)


def coverage(profile_name: str) -> pd.DataFrame:
    """Return for each table of results how many of its numbers have a rerun in a profile: ``table, numbers, rerun``."""
    rows = []
    for number in published.RESULT_TABLES:
        beside = side_by_side(number, profile_name)
        rows.append((number, published.CAPTIONS[number], len(beside), int(beside["rerun"].notna().sum())))
    return pd.DataFrame(rows, columns=["table", "what", "numbers", "rerun"])
