"""A published number beside its rerun, and what differs in protocol between the two.

A rerun here is of a stand-in: a pocket encoder of the same kind, on a dataset made by the same recipe. The two are
never the same experiment; what can be compared is the order of the heads and the sign of their differences.
"""

import numpy as np
import pandas as pd

from lib import published
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS, SHIPPED, load_encoder
from lib.encoders.manifests import CHECKPOINTS, find_checkpoint
from lib.errors import InputError
from lib.figures import read_table
from lib.paths import figure_root
from lib.profiles import LR_RANGES, WEIGHT_DECAY_RANGE, Profile, load_profile

ENCODER_STAND_INS = {
    ENCODERS[name].label.removesuffix(" (pocket)"): name for name in SHIPPED if ENCODERS[name].kind != "control"
}
PUBLISHED = {find_checkpoint(name).manifest["label"].removesuffix(" (miniature)"): name for name in CHECKPOINTS}
MADE = {  # by recipe: many classes and weak evidence; scenes; one to nine events in ten seconds; one sound
    "as20k": ("many-sounds", "esc50-soundscapes"),
    "spass": ("five-scenes",),
    "urban": ("ten-sounds", "soundscapes", "esc10-soundscapes"),
    "esc50": ("single-sounds", "esc10-single"),
    "sc2": ("short-sounds", "spoken-digits"),
}
DATASET_STAND_INS = {name: (name, *MADE.get(name, ())) for name in published.DATASETS}
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
    main = read_table(folder / "benchmark.csv")
    counts = read_table(folder / "prototype_counts.csv") if profile.ablation_encoders else main.iloc[:0]
    main = main[main["cls_mode"] == main["encoder"].map({name: entry.cls for name, entry in ENCODERS.items()})]
    keys = ["dataset", "encoder", "head", "J"]
    known = set(main[keys].itertuples(index=False, name=None))
    more = [key not in known for key in counts[keys].itertuples(index=False, name=None)]
    found = pd.concat([main, counts[more]], ignore_index=True)
    return pd.concat([found, fine_tuned(profile)], ignore_index=True)


def fine_tuned(profile: Profile) -> pd.DataFrame:
    """Return the fine-tuned encoders of a profile as rows ``dataset, encoder, head, mean, sd``, from its results."""
    path = figure_root() / profile.name / "fine_tuning.csv"
    return read_table(path) if path.is_file() else pd.DataFrame(columns=["dataset", "encoder", "head", "mean", "sd"])


def _find(row: tuple, profile: Profile, reruns: pd.DataFrame) -> tuple:
    """Return (mean, sd, low, high, words) of the rerun of one published number; NaN and the reason if there is none."""
    nothing = (np.nan,) * 4
    dataset = next((name for name in DATASET_STAND_INS.get(row.dataset, ()) if name in profile.datasets), None)
    if dataset is None:
        return *nothing, f"no rerun: profile {profile.name} has no stand-in for {row.dataset}"
    itself = PUBLISHED.get(row.encoder)
    encoder = itself if itself in profile.encoders else ENCODER_STAND_INS.get(row.encoder)
    if encoder not in profile.encoders:
        return *nothing, f"no rerun: profile {profile.name} has no encoder of the kind of {row.encoder}"
    same = reruns[(reruns["dataset"] == dataset) & (reruns["encoder"] == encoder) & (reruns["head"] == row.head)]
    if not np.isnan(row.J):
        same = same[same["J"] == row.J]
    if same.empty:
        count = "" if np.isnan(row.J) else f" with J = {row.J:g}"
        return *nothing, f"no rerun: profile {profile.name} does not train {row.head}{count} on {encoder} and {dataset}"
    cell = same.iloc[0]
    return cell["mean"], cell["sd"], cell["low"], cell["high"], f"{encoder} on {dataset}"


def protocol_differences(profile_name: str) -> pd.DataFrame:
    """Return what differs in protocol between the paper and a profile: ``what, published, rerun``.

    What is the same in both (loss, optimiser, schedule, frozen last layer) is left out.
    """
    profile = load_profile(profile_name)
    encoder = load_encoder(profile.shown)
    size = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    fixed = published.table(10).set_index("setting")["value"]
    theirs = next((name for name, ours in DATASET_STAND_INS.items() if profile.dataset in ours), "urban")
    sizes = published.table(8).set_index("dataset").loc[theirs]
    S_t, S_f = encoder.grid
    data = load_dataset(profile.dataset)
    rows = [
        (
            "encoder",
            "ViT-base, circa 86 M parameters, D = 768",
            f"{ENCODERS[profile.shown].label}, {size:.1f} M, D = {encoder.geometry.dim}",
        ),
        ("tokens of ten seconds", "64 x 8", f"{S_t} x {S_f}"),
        (f"dataset for {theirs}", f"{sizes['classes']:g} classes", f"{data.manifest['title']}, {len(data.classes)}"),
        (
            f"training / validation / test clips of {theirs}",
            " / ".join("–" if np.isnan(count) else f"{count:,.0f}" for count in sizes[["train", "validation", "test"]]),
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
