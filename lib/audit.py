"""What wrong preprocessing costs: heads on clips that were prepared with a mistake, searched anew for each.

How a mistake is judged, fixed before any score was seen:

- An effect is the difference of mAP, with the mistake minus without, of one head on one dataset and encoder: the mean
  over seeds, with the paired 95 % bootstrap interval over test clips and their sources. Both sides are searched anew,
  with the same trials; training, validation and test clips all have the mistake.
- Seeds have a spread of their own: the sd of a head's single runs, pooled over all arms of a dataset and encoder.
  Between two means of n seeds it makes a difference with the standard error √(2/n) sd.
- A mistake *harms* a head on a dataset if its interval lies below zero and the effect is larger than twice that error;
  it *helps* in the opposite case; otherwise it *cannot be told*. It harms a head everywhere if it does so on every
  dataset and encoder that it was made on, and somewhere if on at least one.
- Mistakes in padding are made on clips cut short and held against such clips padded with silence; all others are made
  on whole clips and held against whole clips.
- mAP is taken of single-label clips too, so that there is one scale, and their search maximises it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib.arms import Arm
from lib.audit_faults import SHORTENED
from lib.audit_stores import build_faults, features_of, short_seconds, stored_faults
from lib.audit_table import FAULTS, RIGHT, SHORT, title_of
from lib.audit_traces import measure, recognised, reference_of, trace_table
from lib.comparisons import difference, draw_all, final_values, interval
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS, load_encoder
from lib.figures import read_table, write_table
from lib.metrics import accuracy
from lib.paths import figure_root
from lib.profiles import Profile, load_profile
from lib.results import make_cell, read_scores, run_cells
from lib.tables import note

HEADS = ("linear", "mhca", "protobin")
HARMS, HELPS, OPEN = "harms", "helps", "cannot be told"
BLIND = ("dc_offset", "tokens_frequency_major")  # Kaldi takes the mean of a frame away; the heads here pool over a set


@dataclass(frozen=True)
class FaultArm(Arm):
    """An arm whose clips were prepared with a mistake.

    Attributes
    ----------
    fault : str
        A key of `lib.audit_faults.DONE`, or "right".
    """

    fault: str = RIGHT


def study_of(profile_name: str) -> Profile:
    """Return the scale of this study in a profile."""
    return load_profile(f"{profile_name}/audit")


def faults_on(dataset: str) -> list[str]:
    """Return the mistakes that are made on a dataset, and `SHORT` where clips can be cut short: to their one event."""
    one_event = load_dataset(dataset).recipe.events == (1, 1)
    whole = [name for name in FAULTS if name not in SHORTENED]
    return [*whole, *SHORTENED] if one_event else whole


def make_arm(encoder: str, dataset: str, head: str, fault: str) -> FaultArm:
    """Return the arm of a head on clips with a mistake."""
    cell = replace(make_cell(encoder, dataset, head), metric="mAP")
    features = "last" if fault == RIGHT else features_of(fault)
    return FaultArm(**vars(cell), name=f"{head} {fault}", features=features, fault=fault)


def arms(study: Profile) -> dict[tuple[str, str, str, str], FaultArm]:
    """Return every arm of the study by encoder, dataset, mistake and head."""
    return {
        (encoder, dataset, fault, head): make_arm(encoder, dataset, head, fault)
        for dataset in study.datasets
        for encoder in study.encoders
        for fault in (RIGHT, *faults_on(dataset))
        for head in HEADS
    }


def run_audit(profile_name: str, workers: int | None = None, show: bool = True) -> list[str]:
    """Encode what is missing, and run the arms that are missing or stale; return the keys of those that were run."""
    study, lines = study_of(profile_name), []
    for dataset in study.datasets:
        lines += build_faults(study.encoders, dataset, study.clips_of(dataset), faults_on(dataset), workers)
    if show and lines:
        print(f"{len(lines)} splits encoded with a mistake")
    return run_cells(study.name, list(arms(study).values()), workers, show)


# ---- tables --------------------------------------------------------------------------------------------------------


def effects_table(study: Profile) -> pd.DataFrame:
    """Return a row an arm: its mAP, the effect of its mistake, and what follows by the rule."""
    every = arms(study)
    draw_all(study, list(every.values()))
    values = {key: final_values(study, arm) for key, arm in every.items()}
    rows = []
    for (encoder, dataset, fault, head), arm in every.items():
        found, reference = values[encoder, dataset, fault, head], reference_of(fault)
        alike = [np.var(some, ddof=1) for key, some in values.items() if (*key[:2], key[3]) == (encoder, dataset, head)]
        spread = 2 * float(np.sqrt(2 / len(found) * np.mean(alike)))
        effect = (np.nan,) * 3
        if fault in FAULTS:
            effect = difference(study, arm, every[encoder, dataset, reference, head])
        rows.append(
            {
                "encoder": encoder,
                "dataset": dataset,
                "fault": fault,
                "head": head,
                "mean": np.mean(found),
                "low": interval(study, arm)[0],
                "high": interval(study, arm)[1],
                "held_against": reference if fault in FAULTS else "",
                **dict(zip(("difference", "difference_low", "difference_high"), effect, strict=True)),
                "spread": spread,
                "outcome": outcome(*effect, spread) if fault in FAULTS else "",
                "accuracy": _accuracy(study, arm),
                "n_seeds": len(found),
            }
        )
    return pd.DataFrame(rows)


def outcome(effect: float, low: float, high: float, spread: float) -> str:
    """Return what an effect counts as, by the rule."""
    if abs(effect) <= spread or low <= 0 <= high:
        return OPEN
    return HARMS if effect < 0 else HELPS


def _accuracy(study: Profile, arm: FaultArm) -> float:
    """Return an arm's accuracy in percent, the mean over seeds, where a clip has one label."""
    data = load_dataset(arm.dataset)
    if data.manifest["task"] == "multi-label":
        return np.nan
    targets = data.targets("test", study.clips_of(arm.dataset)["test"])
    return 100 * float(np.mean([accuracy(scores, targets) for scores in read_scores(study, arm)]))


def write_tables(profile_name: str, workers: int | None = None) -> dict[str, pd.DataFrame]:
    """Write all tables of the study below ``figures/<profile>`` and return them as they read back.

    Returns
    -------
    dict
        "audit": a row an arm; "audit_traces": a row a mistake and number; "audit_recognised": a row a mistake, dataset
        and other dataset.
    """
    study = study_of(profile_name)
    groups = measure(study, {dataset: faults_on(dataset) for dataset in study.datasets}, workers)
    tables = {
        "audit": (effects_table(study), "intervals are 95 %, paired bootstrap over test clips and their sources"),
        "audit_traces": (trace_table(groups), "means over groups of test clips; healthy ranges over all splits"),
        "audit_recognised": (recognised(groups), "shares of groups of test clips; no error bars"),
    }
    found = {}
    for name, (table, bars) in tables.items():
        path = figure_root() / profile_name / f"{name}.csv"
        write_table(path, table, note(study, bars))
        found[name] = read_table(path)
    return found


def judged(effects: pd.DataFrame) -> pd.DataFrame:
    """Return in how many places each mistake harms each head.

    Returns
    -------
    pandas.DataFrame
        A row a mistake and head: ``harms``, ``helps``, ``places``, and ``everywhere``, whether it harms in all places.
    """
    rows = effects[effects["fault"].isin(FAULTS)]
    found = rows.groupby(["fault", "head"], sort=False).agg(
        harms=("outcome", lambda some: int((some == HARMS).sum())),
        helps=("outcome", lambda some: int((some == HELPS).sum())),
        places=("outcome", "size"),
    )
    return found.assign(everywhere=found["harms"] == found["places"]).reset_index()


# ---- words ---------------------------------------------------------------------------------------------------------


def signed(value: float) -> str:
    """Return a number of points with its sign; what rounds to zero has none."""
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "−")


def listed(names: Sequence[str], most: int = 9) -> str:
    """Return names as people list them: a, b and c; "none" where there is none, and the first of very many."""
    if not len(names):
        return "none"
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def verdict(effects: pd.DataFrame, traces: pd.DataFrame) -> str:
    """Return what came out in two sentences: what mistakes cost, and whether the tokens give them away."""
    found = judged(effects)
    count, everywhere = found["fault"].nunique(), found[found["everywhere"]].groupby("head").size()
    worst = effects.loc[effects["difference"].idxmin()]
    harmful = [name for name, some in found.groupby("fault", sort=False) if some["harms"].sum()]
    harmless = [name for name in found["fault"].unique() if name not in harmful]
    costs = listed([f"{everywhere.get(head, 0)} harm {head}" for head in HEADS])
    first = (
        f"Of {count} mistakes {costs} wherever they were made, and {len(harmless)} cannot be said to harm any head "
        f"anywhere ({listed([title_of(name) for name in harmless])}); the dearest is "
        f"*{title_of(worst['fault'])}*, {signed(worst['difference'])} points of mAP for {worst['head']} on "
        f"{worst['dataset']} ({signed(worst['difference_low'])} to {signed(worst['difference_high'])})."
    )
    seen = seen_by_tokens(traces)
    unseen = [title_of(name) for name in harmful if name not in seen]
    second = (
        f"By its tokens alone {len(seen)} of the {count} can be told from healthy ones on every dataset, among them "
        f"{sum(name in seen for name in harmful)} of the {len(harmful)} that harm some head somewhere; what harms and "
        f"leaves no such trace: {listed(unseen)}."
    )
    return f"{first} {second}"


def seen_by_tokens(traces: pd.DataFrame) -> list[str]:
    """Return the mistakes that leave some trace on every dataset, and with every encoder, that they were made on."""
    rows = traces[traces["fault"].isin(FAULTS)]
    there = (rows["way"] != 0).groupby([rows["fault"], rows["dataset"], rows["encoder"]], sort=False).any()
    return [fault for fault, some in there.groupby(level=0, sort=False) if some.all()]


def further_words(effects: pd.DataFrame, traces: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """Return what else the tables say: who suffers most, the order of heads, cosines, recognition, and chance."""
    return [
        _who_suffers(effects),
        *_order_in_words(effects),
        _cosine_in_words(effects, traces),
        _recognised_in_words(known),
        _floor_in_words(effects),
        _chance_in_words(effects),
    ]


def _who_suffers(effects: pd.DataFrame) -> str:
    means = effects.groupby("head")["difference"].mean()[list(HEADS)]
    each = listed([f"{head} {signed(value)}" for head, value in means.items()])
    return f"Averaged over all mistakes and datasets, an effect is, in points of mAP: {each}."


def _order_in_words(effects: pd.DataFrame) -> list[str]:
    """Say for each place how the heads are ordered, and under how many mistakes they still are."""
    lines = []
    for (encoder, dataset), part in effects.groupby(["encoder", "dataset"], sort=False):
        orders = {
            fault: list(some.sort_values("mean", ascending=False, kind="stable")["head"])
            for fault, some in part.groupby("fault", sort=False)
        }
        right = orders[RIGHT]
        others = [title_of(name) for name, order in orders.items() if name in FAULTS and order != right]
        count = sum(name in FAULTS for name in orders)
        lines.append(
            f"On {dataset} with {ENCODERS[encoder].label} the order is {' > '.join(right)}, and it stays so under "
            f"{count - len(others)} of {count} mistakes; not under: {listed(others)}."
        )
    return lines


def _cosine_in_words(effects: pd.DataFrame, traces: pd.DataFrame) -> str:
    """Say whether the cosine with the right tokens tells what a mistake costs."""
    cosine = traces[traces["statistic"] == "cosine"].set_index(["encoder", "dataset", "fault"])["value"]
    rows = effects[effects["fault"].isin(FAULTS)].join(cosine.rename("cosine"), on=["encoder", "dataset", "fault"])
    each = [f"{head} {_rank_correlation(rows[rows['head'] == head])}" for head in HEADS]
    return (
        f"The rank correlation of a mistake's mean cosine with the right tokens and of its effect is {listed(each)}: "
        "at 1 the cosine would tell the cost, at 0 it would say nothing about it."
    )


def _rank_correlation(rows: pd.DataFrame) -> str:
    if rows["cosine"].nunique() < 2 or rows["difference"].nunique() < 2:
        return "undefined"
    return f"{rows['cosine'].corr(rows['difference'], 'spearman'):.2f}".replace("-", "−")


def _recognised_in_words(known: pd.DataFrame) -> str:
    """Say how often a mistake is recognised by its trace on another dataset."""
    if known.empty:
        return "There is no second dataset by which to recognise a mistake."
    seen, healthy = known[known["expected"] != RIGHT], known[known["expected"] == RIGHT]
    silent = [title_of(name) for name in dict.fromkeys(healthy["fault"]) if name != RIGHT]
    told = (
        f"a group of clips with a mistake that leaves a trace there is nearest to it in {seen['first'].mean():.0%} of "
        f"all cases, and has it among the three nearest in {seen['third'].mean():.0%}"
        if len(seen)
        else "no mistake leaves a trace"
    )
    return (
        f"Held against what is known from another dataset alone, {told}; what is healthy, or leaves no trace on some "
        f"dataset ({listed(silent)}), is taken for healthy in {healthy['first'].mean():.0%}."
    )


def _floor_in_words(effects: pd.DataFrame) -> str:
    """Say how far the scores move under the two mistakes that cannot matter to these heads."""
    most = effects.assign(size=effects["difference"].abs()).groupby("fault")["size"].max()
    each = [f"*{title_of(name)}* moves a score by {most[name]:.1f} points at most" for name in BLIND]
    return f"What cannot matter to these heads shows how exact this is: {listed(each)}."


def _chance_in_words(effects: pd.DataFrame) -> str:
    rows = effects[effects["fault"].isin(FAULTS)]
    outside = int(((rows["difference_low"] > 0) | (rows["difference_high"] < 0)).sum())
    told = rows["outcome"].value_counts()
    return (
        f"{outside} of {len(rows)} intervals leave zero out, where chance alone would make about {len(rows) / 20:.0f}; "
        f"with the seeds' spread the rule calls {told.get(HARMS, 0)} harmful and {told.get(HELPS, 0)} helpful."
    )


def rule() -> str:
    """Return the rule by which a mistake is judged, as Markdown; it stands at the top of this file."""
    return (__doc__ or "").partition("How a mistake is judged")[2].partition("\n\n")[2].strip()


def plan_in_words(study: Profile) -> str:
    """Say what is encoded and trained, how much disk it takes, and how much of a clip is left where it is cut short."""
    passes, size = 0, 0
    for dataset in study.datasets:
        count = sum(study.clips_of(dataset).values()) * len(stored_faults(faults_on(dataset)))
        for encoder in study.encoders:
            geometry = load_encoder(encoder).geometry
            passes, size = passes + count, size + 2 * count * geometry.dim * int(np.prod(geometry.grid))
    short = [f"{short_seconds(name):g} s on {name}" for name in study.datasets if SHORT in faults_on(name)]
    return (
        f"Of a clip that is cut short this much is left: {listed(short)}. In all {passes:,} passes of an encoder, "
        f"{size / 1e9:.1f} GB of tokens in the scratch folder, and {len(arms(study))} heads, each searched anew with "
        f"{study.trials} trials."
    )
