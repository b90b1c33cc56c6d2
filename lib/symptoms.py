"""The field guide of notebook 20: which troubles there are, how they are run and kept, and what to look at first.

`lib.symptoms_provoked` provokes them, `lib.symptoms_found` says what came out, `lib.plots_symptoms` draws it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from lib import symptoms_provoked
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.errors import InputError, unknown_name
from lib.figures import read_table, write_table
from lib.files import digest, write_json
from lib.paths import figure_root, scratch
from lib.profiles import Profile, load_profile
from lib.prototype_dynamics import final_runs
from lib.provenance import definition_version
from lib.results import Versions, make_cell, run_cells
from lib.search import Cell
from lib.store import load_embeddings
from lib.symptoms_provoked import Ground
from lib.workers import run_parallel

STUDY = "symptoms"
SEARCHED = ("linear", "linpre", "linearc", "conv", "mhca", "ep", "abmilp", "proto", "protobin")


@dataclass(frozen=True)
class Trouble:
    """A page of the guide.

    Attributes
    ----------
    title : str
        What it is called.
    symptom : str
        What one sees.
    rule : str
        When we say that it was provoked; `lib.symptoms_found` computes it.
    look : str
        What to look at first.
    cure : str
        What helps.
    shows : str
        What the numbers in its table are, for the margin of its plot.
    """

    title: str
    symptom: str
    rule: str
    look: str
    cure: str
    shows: str


TROUBLES = {
    "scale": Trouble(
        "learning rate against the first values",
        "the score is low, and lower still at a neighbouring learning rate",
        "the lowest and the highest rate both score below the best rate inside the paper's range, in every seed, "
        "at the usual first values",
        "the share of signs that flipped, together with lr / init_std",
        "search the rate for the init_std that is used, and write both down",
        "mean of two seeds",
    ),
    "positive": Trouble(
        "all-positive first values",
        "protobin is no better than a single prototype",
        "from U(0, 1) the score is below that from around zero, in every seed",
        "the share of +1 and the mean |cosine| of prototypes before training",
        "draw latents around zero",
        "line: mean over seeds; a dot a seed",
    ),
    "frozen": Trouble(
        "frozen signs",
        "the loss falls, the prototypes stay what they were",
        "from the furthest start at most a quarter as many signs flip as from the usual one, in every seed",
        "the flips of each epoch",
        "start nearer to zero, or raise the rate with init_std",
        "line: mean over seeds; a dot a seed",
    ),
    "silent": Trouble(
        "prototypes that contribute nothing",
        "more prototypes change nothing",
        "more prototypes are silent after training than with w = 1, in every seed",
        "the sorted contributions max_c |W_ck| sd(s_k), and the share of w ≤ 0",
        "start w at 1; or let W be dense, as protobin does",
        "line: mean over seeds; a dot a seed",
    ),
    "ties": Trouble(
        "ties in 16 bits",
        "scores differ a little from machine to machine, or between training and test",
        "in bfloat16 more than one maximum in a hundred is shared by several tokens",
        "how many tokens have the largest similarity",
        "take similarities and their maximum in float32, or compare the best few again in float32",
        "bar: mean over seeds; a dot a seed",
    ),
    "collapse": Trouble(
        "collapsed attention",
        "an attentive head is worse than the mean token",
        "at some rate attention ends on fewer than two tokens, and the score is below that at the searched rate, "
        "in every seed",
        "the entropy of attention, epoch by epoch",
        "a lower rate; normalised tokens",
        "line: mean over seeds; a dot a seed",
    ),
    "spread": Trouble(
        "a large spread over seeds",
        "another seed, another conclusion",
        "abmilp's variance over seeds, at the settings found for it, is larger than protobin's (F test, 2.5 %)",
        "the score of every seed, not the mean",
        "more seeds, a lower rate, and the spread beside the mean",
        "a dot a seed",
    ),
    "easy": Trouble(
        "protobin behind linear",
        "the simplest head wins",
        "the 95 % interval of protobin − linear lies below zero on at least one encoder",
        "one label a clip? an encoder that was trained with labels?",
        "none is needed: where [cls] names the class, one vector is enough",
        "mean over seeds, 95 % paired bootstrap interval",
    ),
    "order": Trouble(
        "a wrong token order",
        "maps make no sense, some heads lose, others do not",
        "with the wrong order in the test, some head's score falls in every seed",
        "the map of a rising tone; the likeness of neighbouring tokens",
        "reorder: n = t · S_f + f",
        "mean over seeds",
    ),
    "norm": Trouble(
        "a forgotten final norm",
        "some heads lose points, and nothing fails",
        "without the norm some head's score falls in every seed",
        "the lengths of the tokens",
        "apply the encoder's final norm",
        "mean over seeds; a dot a seed",
    ),
}
COSTLY_FIRST = ("norm", "spread", "scale", "order", "silent", "positive", "collapse", "ties", "frozen", "easy")


def study(profile_name: str) -> Profile:
    """Return the scale of this study in a profile."""
    return load_profile(f"{profile_name}/{STUDY}")


def searched_cells(profile: Profile) -> list[Cell]:
    """Return the cells whose settings troubles are provoked at."""
    return [make_cell(profile.shown, profile.dataset, head) for head in SEARCHED]


def easy_cells(profile: Profile) -> list[tuple[Cell, Cell]]:
    """Return linear and protobin on the single-label dataset, a pair an encoder."""
    (dataset,) = [name for group in profile.groups if group.name == "control" for name in group.datasets]
    return [tuple(make_cell(encoder, dataset, head) for head in ("linear", "protobin")) for encoder in profile.encoders]


def provoke(profile_name: str, workers: int | None = None, show: bool = True) -> None:
    """Search the settings, then provoke every trouble whose rows are missing or stale; the others stay.

    Parameters
    ----------
    profile_name : str
        A profile that has this study.
    workers : int, optional
        Processes; the number of cores by default.
    show : bool
        Whether to print what is done.
    """
    profile = study(profile_name)
    pairs = easy_cells(profile)
    run_cells(profile.name, [*searched_cells(profile), *(cell for pair in pairs for cell in pair)], workers, show)
    keys = {name: depends(profile, name) for name in COSTLY_FIRST}
    stale = [name for name in COSTLY_FIRST if _stored(profile, name, keys[name]) is None]
    for name in run_parallel(_provoke_one, [(profile_name, name, keys[name]) for name in stale], workers):
        if show:
            print(name, flush=True)


def depends(profile: Profile, name: str) -> str:
    """Return a digest of all that a trouble's rows depend on: the cells and their settings, and its own code."""
    versions, cells = Versions(profile), searched_cells(profile)
    if name == "easy":
        cells = [cell for pair in easy_cells(profile) for cell in pair]
    runs = [[asdict(run) for run in final_runs(profile, cell)[0]] for cell in cells]
    code = definition_version("lib.symptoms_provoked", name)
    return digest([[versions.of(cell) for cell in cells], runs, profile.bootstrap_draws, torch.__version__, code])


def ground_of(profile: Profile) -> Ground:
    """Return where troubles are provoked, from finished cells and the store."""
    cells = {cell.head: cell for cell in searched_cells(profile)}
    cell = next(iter(cells.values()))
    train, test = (
        load_embeddings(cell.encoder, cell.dataset, split, profile.clips_of(cell.dataset)[split], cell.cls_mode)
        for split in ("train", "test")
    )
    runs = {head: final_runs(profile, cell)[0][0] for head, cell in cells.items()}
    return Ground(profile, train, test, cells, runs, tuple(easy_cells(profile)))


def _provoke_one(profile_name: str, name: str, key: str) -> str:
    profile = study(profile_name)
    rows = getattr(symptoms_provoked, name)(ground_of(profile))
    write_json(_path(profile, name), {"depends": key, "rows": rows})
    return name


def _path(profile: Profile, name: str) -> Path:
    return scratch() / "cells" / profile.name / f"symptom-{name}.json"


def _stored(profile: Profile, name: str, key: str) -> list[dict] | None:
    """Return what was computed before, unless it is missing, damaged, or depends on something else."""
    try:
        content = json.loads(_path(profile, name).read_text(encoding="utf-8"))
        return content["rows"] if content["depends"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_symptoms(profile_name: str, name: str) -> pd.DataFrame:
    """Write a trouble's rows as ``figures/<profile>/symptoms_<name>.csv`` and return them as they read back.

    Raises
    ------
    InputError
        If there is no such trouble, or it has not been provoked, or not with what is there now.
    """
    if name not in TROUBLES:
        raise unknown_name("trouble", name, list(TROUBLES))
    profile = study(profile_name)
    rows = _stored(profile, name, depends(profile, name))
    if rows is None:
        raise InputError(f"The trouble '{name}' of profile '{profile_name}' has not been provoked; run notebook 20.")
    path, table = figure_root() / profile_name / f"symptoms_{name}.csv", pd.DataFrame(rows)
    seeds = table["seed"].nunique()
    note = f"profile {profile_name} ({profile.about}) · {where(profile, name)} · {seeds} seeds · {TROUBLES[name].shows}"
    write_table(path, table, note)
    return read_table(path)


def where(profile: Profile, name: str) -> str:
    """Return on which data a trouble is provoked, for people."""
    if name == "easy":
        return load_dataset(easy_cells(profile)[0][0].dataset).manifest["title"]
    return f"{ENCODERS[profile.shown].label} on {load_dataset(profile.dataset).manifest['title']}"


def rules() -> str:
    """Return when each trouble counts as provoked, a numbered list in Markdown."""
    return "\n".join(f"{number}. *{one.title}*: {one.rule}." for number, one in enumerate(TROUBLES.values(), start=1))


def settings_in_words(profile_name: str) -> str:
    """Return where troubles are provoked and at which learning rates, in Markdown."""
    profile = study(profile_name)
    found = [
        (head, final_runs(profile, cell)[0][0]) for head, cell in zip(SEARCHED, searched_cells(profile), strict=True)
    ]
    rates = ", ".join(f"`{head}` {run.lr:.2g}" for head, run in found)
    return (
        f"{where(profile, 'scale')}; number 8 on {where(profile, 'easy')}. Learning rates that the search found, with "
        f"{profile.trials} trials each: {rates}."
    )
