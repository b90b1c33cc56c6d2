"""What the paper left open, as one list of named options, and what each choice changes, measured on pocket encoders.

The list is ``data_manifests/open_options.json``: what the paper says, what is done here and why, what else could be
done. No effect is written there. An alternative that can be measured says which arm measures it; one that cannot, why.

How an effect is judged, fixed before any was seen:

- An effect is the difference of the test metric, alternative minus default, on one encoder: the mean over seeds, with
  the paired 95 % bootstrap interval over test clips.
- Seeds have a spread of their own: the sd of a head's single runs on an encoder, pooled over all its arms here. Between
  two means of n seeds it makes a difference with the standard error √(2/n) sd. Twice that is the seeds' spread here.
- An effect is clear if its interval leaves zero out and it is larger than the seeds' spread. An alternative matters if
  its effect is clear and has one sign on every encoder that it was measured on; it matters somewhere if it is clear on
  one of them, or clear with both signs. An option does what the strongest of its alternatives does.
- Alternatives that the search knows of are searched anew, with as many trials as the default. The others (`Rerun`) keep
  the settings that were chosen for the default, which favours the default.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.arms import Arm
from lib.comparisons import difference, draw_all, final_values
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.figures import read_table, write_table
from lib.layer_store import build_layers
from lib.open_features import build_encoded
from lib.open_protocol import FURTHER_LOSSES, LossArm, Rerun, run_again
from lib.paths import MANIFESTS, figure_root
from lib.profiles import Profile, load_profile
from lib.results import make_cell, run_cells
from lib.tables import note

KEYS = ["option", "alternative", "head", "dataset"]
COLUMNS = [
    *("option", "group", "what", "default", "alternative", "short", "head", "dataset", "encoder", "metric"),
    *("default_mean", "mean", "difference", "low", "high", "spread", "n_seeds", "clear", "reason"),
]
ABSENT = "not in this profile"


@dataclass(frozen=True)
class Choice:
    """One way of doing it, `short` being its name on a plot: what it changes about an arm, nothing where empty."""

    name: str = ""
    short: str = ""
    head: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    features: str = ""
    cls_mode: str = ""
    prototypes: int = 0
    loss: str = ""
    change: str = ""


@dataclass(frozen=True)
class Option:
    """A thing that the paper leaves open.

    Attributes
    ----------
    id, group, option : str
        A short name, the head or part it belongs to, and what it is in words.
    paper, place : str
        The paper's words that come closest, and where they stand; empty where it is silent.
    default, why, where : str
        What is done here, the reason, and what sets it.
    heads : tuple of str
        On which it is measured.
    alternatives : tuple of Choice
        What else one could do.
    base : Choice
        What the default is, where it is not a plain arm.
    data : {"polyphonic", "single"}
        On which kind of dataset it is measured.
    encoders : {"with cls", "without cls"}
        On which encoders.
    note, not_measured : str
        About the measurement; why there is none.
    """

    id: str
    group: str
    option: str
    paper: str
    place: str
    default: str
    why: str
    where: str
    heads: tuple[str, ...]
    alternatives: tuple[Choice, ...]
    base: Choice = Choice()
    data: str = "polyphonic"
    encoders: str = "with cls"
    note: str = ""
    not_measured: str = ""


class Contrast(NamedTuple):
    """An alternative against the default, for one head on one encoder."""

    option: Option
    choice: Choice
    head: str
    default: Arm
    arm: Arm


@cache
def open_options() -> tuple[Option, ...]:
    """Return the list, in its order."""
    entries = json.loads((MANIFESTS / "open_options.json").read_text(encoding="utf-8"))["options"]
    return tuple(_option(entry) for entry in entries)


def _option(entry: dict) -> Option:
    ways = {
        "alternatives": tuple(Choice(**one) for one in entry["alternatives"]),
        "base": Choice(**entry.get("base", {})),
    }
    return Option(**{**entry, **ways, "heads": tuple(entry["heads"])})


# ---- what is measured ------------------------------------------------------------------------------------------------


def study_of(profile_name: str) -> Profile:
    """Return the scale of this study in a profile."""
    return load_profile(f"{profile_name}/options")


def datasets_of(study: Profile) -> dict[str, str]:
    """Return the study's dataset of each kind: with many labels a clip, and with a single one."""
    tasks = {name: load_dataset(name).manifest["task"] for name in study.datasets}
    return {("polyphonic" if task == "multi-label" else "single"): name for name, task in tasks.items()}


def encoders_of(study: Profile, kind: str) -> list[str]:
    """Return the study's encoders with a [cls] of their own, or its pretrained ones without."""
    modes = {name: ENCODERS[name].cls for name in study.encoders if ENCODERS[name].kind != "control"}
    return [name for name, mode in modes.items() if (mode == "native") == (kind == "with cls")]


def contrasts(study: Profile) -> list[Contrast]:
    """Return all that is measured in a study, in the order of the list."""
    return [
        Contrast(option, choice, head, _arm(study, option, head, encoder), _arm(study, option, head, encoder, number))
        for option in open_options()
        if not option.not_measured and option.data in datasets_of(study)
        for head in option.heads
        for number, choice in enumerate(option.alternatives, start=1)
        for encoder in encoders_of(study, option.encoders)
    ]


def _arm(study: Profile, option: Option, head: str, encoder: str, number: int = 0) -> Arm:
    """Return the arm of an option's default (0), or of an alternative (1 and on)."""
    base = option.base
    choice = option.alternatives[number - 1] if number else base
    cell = make_cell(
        encoder,
        datasets_of(study)[option.data],
        choice.head or head,
        choice.prototypes or base.prototypes,
        choice.cls_mode or base.cls_mode,
    )
    plain = base == Choice() and not number
    facts = vars(cell) | {
        "name": head if plain else f"{head} {option.id}" + (f" {number}" if number else ""),
        "options": choice.options or base.options,
        "features": choice.features or base.features or "last",
        "loss": choice.loss or cell.loss,
    }
    if choice.change:
        settings = Arm(**vars(make_cell(encoder, cell.dataset, head)), name=head)
        return Rerun(**facts, change=choice.change, settings=settings)
    return (LossArm if choice.loss in FURTHER_LOSSES else Arm)(**facts)


def run_options(profile_name: str, workers: int | None = None) -> None:
    """Train all arms of the study that are missing or stale."""
    study = study_of(profile_name)
    every = contrasts(study)
    arms = list(dict.fromkeys(arm for one in every for arm in (one.default, one.arm)))
    again = [arm for arm in arms if isinstance(arm, Rerun)]
    first = list(dict.fromkeys([arm for arm in arms if not isinstance(arm, Rerun)] + [arm.settings for arm in again]))
    for dataset in study.datasets:  # what is encoded for this study alone
        layered = [arm.encoder for arm in first if arm.dataset == dataset and arm.features.startswith("layer")]
        if layered:
            build_layers(sorted(set(layered)), dataset, study.clips_of(dataset), workers)
    build_encoded(first, study, workers)
    run_cells(study.name, first, workers)
    run_again(study.name, again, workers)


# ---- what came out ---------------------------------------------------------------------------------------------------


def effects(profile_name: str) -> pd.DataFrame:
    """Return the whole list with the effect of each alternative on each encoder; a row without effect says why."""
    study = study_of(profile_name)
    measured = contrasts(study)
    draw_all(study, list(dict.fromkeys(arm for one in measured for arm in (one.default, one.arm))))
    spreads, rows = seeds_spread(study, measured), []
    found = {one.option.id for one in measured}
    for option in open_options():
        if option.id not in found:
            reason = option.not_measured or ABSENT
            rows += [_about(option, choice) | {"reason": reason} for choice in option.alternatives]
        rows += [_effect(study, one, spreads) for one in measured if one.option is option]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n_seeds": "Int64", "clear": "boolean"})


def _about(option: Option, choice: Choice) -> dict:
    words = {"option": option.id, "group": option.group, "what": option.option, "default": option.default}
    return words | {"alternative": choice.name, "short": choice.short or choice.name}


def _effect(study: Profile, one: Contrast, spreads: dict[tuple, float]) -> dict:
    before, after = (final_values(study, arm) for arm in (one.default, one.arm))
    gain, low, high = difference(study, one.arm, one.default)
    spread = 2 * np.sqrt(2 / len(before)) * spreads[_runs_of(one)]
    return _about(one.option, one.choice) | {
        "head": one.head,
        "dataset": one.arm.dataset,
        "encoder": one.arm.encoder,
        "metric": one.arm.metric,
        "default_mean": np.mean(before),
        "mean": np.mean(after),
        "difference": gain,
        "low": low,
        "high": high,
        "spread": spread,
        "n_seeds": len(before),
        "clear": bool((low > 0 or high < 0) and abs(gain) > spread),
    }


def seeds_spread(study: Profile, measured: Sequence[Contrast]) -> dict[tuple, float]:
    """Return the sd of single runs over seeds for each (head, dataset, encoder), pooled over all its arms."""
    arms: dict[tuple, set[Arm]] = {}
    for one in measured:
        arms.setdefault(_runs_of(one), set()).update((one.default, one.arm))
    values = {key: [np.var(final_values(study, arm), ddof=1) for arm in some] for key, some in arms.items()}
    return {key: float(np.sqrt(np.mean(variances))) for key, variances in values.items()}


def _runs_of(one: Contrast) -> tuple[str, str, str]:
    return one.head, one.arm.dataset, one.arm.encoder


def write_effects(profile_name: str) -> pd.DataFrame:
    """Write the table of `effects` as ``figures/<profile>/options.csv`` and return it as it reads back."""
    path = figure_root() / profile_name / "options.csv"
    bars = (
        "line: 95 %, paired bootstrap over test clips; grey: two standard errors of a difference between means of seeds"
    )
    write_table(path, effects(profile_name), note(study_of(profile_name), bars))
    return read_table(path)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Return what each measured alternative does to each head.

    Returns
    -------
    pandas.DataFrame
        A row an (option, alternative, head, dataset): ``least`` and ``most``, the smallest and the largest effect over
        encoders, and ``outcome``: "matters", "matters somewhere" or "not told from seeds and clips".
    """
    rows = table[table["difference"].notna()]
    found = rows.groupby(KEYS, sort=False).agg(
        least=("difference", "min"),
        most=("difference", "max"),
        encoders=("encoder", "size"),
        clear=("clear", "sum"),
    )
    one_sign = np.sign(found["least"]) == np.sign(found["most"])
    matters = (found["clear"] == found["encoders"]) & one_sign
    found["outcome"] = np.where(matters, OUTCOMES[0], np.where(found["clear"] > 0, OUTCOMES[1], OUTCOMES[2]))
    return found.drop(columns="clear").reset_index()


OUTCOMES = ("matters", "matters somewhere", "not told from seeds and clips")
