"""What augmentation buys each head: the same training clips with none, with stored views, with many variants.

An arm is a head on an encoder and a dataset under one condition. All conditions take the same number of steps and see
each training clip equally often (`lib.view_stores.augmented`); validation and test clips are never augmented.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.arms import Arm
from lib.comparisons import cell_draws, difference, draw_all, final_values, interval
from lib.figures import read_table, write_table
from lib.paths import figure_root
from lib.profiles import PROFILES, Profile, load_profile
from lib.question_draws import with_seeds
from lib.results import make_cell, run_cells
from lib.tables import note
from lib.view_stores import MIXUP, SLOTS, View, build_views, view_folder, views_read

HEADS_COMPARED = {  # label → head, and what stands for [cls] if not the encoder's own
    "linear": ("linear", ""),
    "linear (mean token)": ("linear", "mean"),
    "mhca": ("mhca", ""),
    "ep": ("ep", ""),
    "proto": ("proto", ""),
    "protobin": ("protobin", ""),
}
CONDITIONS = {  # id → what it is called on a page
    "none": "no augmentation",
    "one view": "one mixup view a run",
    "five views": f"{MIXUP['count']} mixup views pooled",
    "live": f"{SLOTS} masked variants",
}
AUGMENTED = tuple(CONDITIONS)[1:]
VARIANTS = {(f"live {count}" if count < SLOTS else "live"): count for count in (1, 2, 5, SLOTS)}  # condition → variants
CURVE_HEADS = ("linear", "mhca", "protobin")  # for which the number of variants is varied, on one encoder
LEADS = ("linear", "linear (mean token)", "mhca")  # what protobin is compared with
GAIN, LEAD, CHANGE = "gain over none", "protobin above", "change of that lead"


@dataclass(frozen=True)
class ViewArm(Arm):
    """An arm trained under one condition.

    Attributes
    ----------
    condition : str
        A key of `CONDITIONS`.
    variants : int
        Live variants of each clip; 0 under the other conditions.
    """

    condition: str = "none"
    variants: int = 0


class Place(NamedTuple):
    """Where a score stands; `head` is a key of `HEADS_COMPARED`, `condition` one of `CONDITIONS` or `VARIANTS`."""

    dataset: str
    encoder: str
    head: str
    condition: str


# ---- arms ----------------------------------------------------------------------------------------------------------


def make_arm(place: Place) -> ViewArm:
    """Return the arm of a place."""
    head, cls_mode = HEADS_COMPARED[place.head]
    cell = make_cell(place.encoder, place.dataset, head, cls_mode=cls_mode)
    variants = VARIANTS.get(place.condition, 0)
    fields = vars(cell) | {"views": MIXUP["count"] if place.condition == "one view" else 1, "features": "views"}
    name = f"{head}{' mean' * bool(cls_mode)} {place.condition}"
    return ViewArm(**fields, name=name, condition="live" if variants else place.condition, variants=variants)


def compared(study: Profile) -> dict[Place, ViewArm]:
    """Return the arms of the comparison: every head under every condition, on each dataset and encoder."""
    places = [
        Place(dataset, encoder, head, condition)
        for dataset in study.datasets
        for encoder in study.encoders
        for head in HEADS_COMPARED
        for condition in CONDITIONS
    ]
    return {place: make_arm(place) for place in places}


def curve(study: Profile) -> dict[Place, ViewArm]:
    """Return the arms with fewer variants, on the encoder that the profile shows."""
    places = [
        Place(dataset, study.shown, head, condition)
        for dataset in study.datasets
        for head in CURVE_HEADS
        for condition in ("none", *VARIANTS)
    ]
    return {place: make_arm(place) for place in places}


def build_all_views(study: Profile, workers: int | None = None) -> list[str]:
    """Encode what is missing of the views of all training clips; return a line for each that was."""
    wanted = [view for condition in CONDITIONS for view in views_read(condition, 0, SLOTS)]
    wanted += [view for number in range(MIXUP["count"]) for view in views_read("one view", number, SLOTS)]
    lines, views = [], list(dict.fromkeys(wanted))
    for dataset in study.datasets:
        lines += build_views(study.encoders, dataset, study.clips_of(dataset)["train"], views, workers)
    return lines


def run_views(profile_name: str, workers: int | None = None, show: bool = True) -> list[str]:
    """Encode the views and run the arms, those that are missing or stale; return the keys of those that were run."""
    study = load_profile(f"{profile_name}/views")
    lines = build_all_views(study, workers)
    if show and lines:
        print(f"{len(lines)} views of the training clips encoded")
    return run_cells(study.name, [*compared(study).values(), *curve(study).values()], workers, show)


# ---- tables --------------------------------------------------------------------------------------------------------


def scores_table(study: Profile) -> pd.DataFrame:
    """Return a row an arm: mean, sd over seeds, interval, and the paired difference from no augmentation."""
    arms, rows = compared(study), []
    draw_all(study, list(arms.values()))
    for place, arm in arms.items():
        values, (low, high) = final_values(study, arm), interval(study, arm)
        plain = arms[place._replace(condition="none")]
        gain = (np.nan,) * 3 if arm == plain else difference(study, arm, plain)
        rows.append((*place, arm.metric, np.mean(values), np.std(values, ddof=1), low, high, *gain, len(values)))
    ends = ["metric", "mean", "sd", "low", "high", "difference", "difference_low", "difference_high", "n_seeds"]
    return pd.DataFrame(rows, columns=[*Place._fields, *ends])


def drawn_scores(study: Profile, arms: Mapping[Place, ViewArm]) -> dict[Place, np.ndarray]:
    """Return each arm's score in percent as measured and in each draw, ``(1 + R,)``, clips and seeds redrawn.

    As for the four questions (`lib.question_draws.with_seeds`): the error of a mean over seeds is that of the standard
    deviation over seeds, pooled over the encoders.
    """
    draw_all(study, list(arms.values()))
    values = {place: final_values(study, arm) for place, arm in arms.items()}
    scores = {}
    for place, arm in arms.items():
        alike = [np.var(found, ddof=1) for other, found in values.items() if _but_encoder(other) == _but_encoder(place)]
        names = (place.condition, place.dataset, "views", place.encoder, place.head)
        scores[place] = with_seeds(cell_draws(study, arm), np.sqrt(np.mean(alike) / len(values[place])), names)
    return scores


def _but_encoder(place: Place) -> tuple[str, ...]:
    return place.dataset, place.head, place.condition


def mean_and_interval(each: Sequence[np.ndarray]) -> tuple[float, float, float, int, int]:
    """Return the mean of quantities ``(1 + R,)``, its 95 % interval, how many there are, and how many are positive."""
    mean = np.mean(each, axis=0)  # (1 + R,)
    low, high = np.nanpercentile(mean[1:], (2.5, 97.5))
    return float(mean[0]), float(low), float(high), len(each), sum(bool(one[0] > 0) for one in each)


def means_table(study: Profile) -> pd.DataFrame:
    """Return what the verdict is about: gains and leads, averaged over all (dataset, encoder) pairs."""
    return means_of(drawn_scores(study, compared(study)))


def means_of(scores: Mapping[Place, np.ndarray]) -> pd.DataFrame:
    """Return the averages of drawn scores: `GAIN` of each head, `LEAD` of protobin over others, and its `CHANGE`."""
    pairs, rows = list(dict.fromkeys(place[:2] for place in scores)), []

    def score(pair: tuple[str, str], head: str, condition: str) -> np.ndarray:
        return scores[Place(*pair, head, condition)]

    def lead(pair: tuple[str, str], head: str, condition: str) -> np.ndarray:
        return score(pair, "protobin", condition) - score(pair, head, condition)

    def add(measure: str, head: str, condition: str, each: list[np.ndarray]) -> None:
        rows.append((measure, head, condition, *mean_and_interval(each)))

    for condition in AUGMENTED:
        for head in HEADS_COMPARED:
            add(GAIN, head, condition, [score(p, head, condition) - score(p, head, "none") for p in pairs])
    for head in LEADS:
        for condition in CONDITIONS:
            add(LEAD, head, condition, [lead(p, head, condition) for p in pairs])
        for condition in AUGMENTED:
            add(CHANGE, head, condition, [lead(p, head, condition) - lead(p, head, "none") for p in pairs])
    return pd.DataFrame(rows, columns=["measure", "head", "condition", "value", "low", "high", "pairs", "positive"])


def variants_table(study: Profile) -> pd.DataFrame:
    """Return the gain over none by the number of variants, and over the next smaller number, averaged over datasets."""
    scores, rows, on = drawn_scores(study, curve(study)), [], study.datasets

    def score(dataset: str, head: str, condition: str) -> np.ndarray:
        return scores[Place(dataset, study.shown, head, condition)]

    for head in CURVE_HEADS:
        before = "none"
        for condition, count in VARIANTS.items():
            gain, step = (
                mean_and_interval([score(dataset, head, condition) - score(dataset, head, other) for dataset in on])[:3]
                for other in ("none", before)
            )
            rows.append((study.shown, head, count, *gain, *step, len(on)))
            before = condition
    ends = ["gain", "gain_low", "gain_high", "step", "step_low", "step_high", "datasets"]
    return pd.DataFrame(rows, columns=["encoder", "head", "variants", *ends])


def storage_table(study: Profile) -> pd.DataFrame:
    """Return what each condition's views take on disk for one encoder, measured, and what a new one every epoch would.

    One row a dataset and condition: stored views of a clip, clips, passes of the encoder, megabytes (10⁶ bytes).
    """
    encoder, rows = study.encoders[0], []
    passes_of_a_run = PROFILES[study.name.partition("/")[0]].epochs
    for dataset in study.datasets:
        count = study.clips_of(dataset)["train"]
        views = {condition: views_read(condition, 0, SLOTS) for condition in CONDITIONS}
        views["one view"] = views["five views"]  # any of them may be drawn
        for condition, stored in views.items():
            size = sum(_size(encoder, dataset, count, view) for view in stored)
            rows.append((dataset, condition, len(stored), count, len(stored) * count, size / 1e6, "measured"))
        each = rows[-1][5] / SLOTS
        every = (passes_of_a_run, count, passes_of_a_run * count, passes_of_a_run * each)
        rows.append((dataset, "a new variant in every epoch", *every, "reckoned"))
    return pd.DataFrame(rows, columns=["dataset", "condition", "views", "clips", "passes", "megabytes", "how"])


def _size(encoder: str, dataset: str, count: int, view: View) -> int:
    return sum(path.stat().st_size for path in view_folder(encoder, dataset, count, view).glob("*.safetensors"))


def write_tables(profile_name: str) -> dict[str, pd.DataFrame]:
    """Write all tables of the study below ``figures/<profile>`` and return them as they read back.

    Returns
    -------
    dict
        "views": a row an arm; "views_means": averages over pairs; "views_variants"; "views_storage".
    """
    study = load_profile(f"{profile_name}/views")
    resampled = "intervals are 95 %, over test clips, their sources and seeds"
    tables = {
        "views": (scores_table(study), "test split; intervals are 95 %, over test clips and their sources"),
        "views_means": (means_table(study), f"means over (dataset, encoder) pairs; {resampled}"),
        "views_variants": (variants_table(study), f"means over datasets; {resampled}"),
        "views_storage": (storage_table(study), "training clips of one encoder in half precision; no error bars"),
    }
    found = {}
    for name, (table, bars) in tables.items():
        path = figure_root() / profile_name / f"{name}.csv"
        write_table(path, table, note(study, bars))
        found[name] = read_table(path)
    return found
