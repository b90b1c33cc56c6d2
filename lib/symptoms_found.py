"""What came out of each trouble, in a line computed from its table: whether it was provoked, by its rule, at what cost.

Comparisons are by seed: a seed draws the same first values and the same batch order on both sides.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lib.profiles import LR_RANGES
from lib.symptoms import TROUBLES
from lib.symptoms_provoked import FAR, INIT_STD

SAME = 0.05  # points: a score that rounding may move


class Finding(NamedTuple):
    """Whether a trouble was provoked, and the numbers."""

    seen: bool
    words: str

    def line(self) -> str:
        """Return the line of a page."""
        return f"**{'Provoked' if self.seen else 'Not provoked at this scale'}.** {self.words}"


def find(name: str, table: pd.DataFrame) -> Finding:
    """Say what came out of a trouble.

    Parameters
    ----------
    name : str
        A key of `lib.symptoms.TROUBLES`.
    table : pandas.DataFrame
        As `lib.symptoms.write_symptoms` returns it.
    """
    return FINDINGS[name](table)


def values(table: pd.DataFrame, case: str, measure: str = "score", **where: object) -> pd.Series:
    """Return a measure of a case by seed; of the last epoch where it was taken at several."""
    rows = table[(table["case"] == case) & (table["measure"] == measure)]
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    if "epoch" in rows and rows["epoch"].notna().any() and "epoch" not in where:
        rows = rows[rows["epoch"] == rows["epoch"].max()]
    return rows.set_index("seed")["value"].sort_index()


def mean(table: pd.DataFrame, case: str, measure: str = "score", **where: object) -> float:
    """Return the mean over seeds of what `values` finds."""
    return values(table, case, measure, **where).mean()


# ---- one function a trouble ----------------------------------------------------------------------------------------


def scale(table: pd.DataFrame) -> Finding:
    """Hold the sweep's ends against the paper's range, and ask what decides flips and score: lr, or lr/init_std."""
    wide = table.pivot(index=["lr", "init_std", "seed"], columns="measure", values="value").reset_index()
    usual = wide[np.isclose(wide["init_std"], INIT_STD)].pivot(index="lr", columns="seed", values="score")
    low, high = LR_RANGES["prototype"]
    best = usual[(usual.index >= low) & (usual.index <= high)].mean(axis=1).idxmax()
    ratio = np.log2(wide["lr"] / wide["init_std"]).round(6)
    flips, score = ([explained(wide[name], by) for by in (ratio, wide["lr"])] for name in ("flipped", "score"))
    top = wide.groupby(["lr", "init_std"])["score"].mean()
    first, last = usual.index[[0, -1]]
    words = (
        f"At init_std {INIT_STD:g} rate {best:g}, the best of the paper's range, scores {usual.loc[best].mean():.1f}, "
        f"{first:g} {usual.loc[first].mean():.1f} and {last:g} {usual.loc[last].mean():.1f}; lr/init_std explains "
        f"{flips[0]:.0%} of the variance of flips (lr alone {flips[1]:.0%}), but {score[0]:.0%} of that of the score "
        f"(lr alone {score[1]:.0%}); best of all is rate {top.idxmax()[0]:g} at init_std {top.idxmax()[1]:g} with "
        f"{top.max():.1f}."
    )
    return Finding(bool((usual.loc[[first, last]] < usual.loc[best]).all(axis=None)), words)


def explained(values: pd.Series, groups: pd.Series) -> float:
    """Return the share of the variance of values that lies between groups (η²)."""
    total = ((values - values.mean()) ** 2).sum()
    between = ((values.groupby(groups).transform("mean") - values.mean()) ** 2).sum()
    return float(between / total) if total else 0.0


def positive(table: pd.DataFrame) -> Finding:
    """Hold U(0, 1) against a start around zero."""
    sick, fast, well = "U(0, 1)", "U(0, 1), fast", "around zero"
    start = {case: mean(table, case, "cosine", epoch=0) for case in (sick, well)}
    end = {case: mean(table, case, "cosine") for case in (sick, fast, well)}
    words = (
        f"{mean(table, sick, 'positive', epoch=0):.0%} of the entries start as +1; mean |cosine| of two prototypes "
        f"{start[sick]:.2f} at the start and {end[sick]:.2f} after training (around zero: {start[well]:.2f} and "
        f"{end[well]:.2f}); {against(table, sick, well)}; at rate {LR_RANGES['prototype'][1]:g}, the highest of the "
        f"paper's range, {end[fast]:.2f} after training and score {mean(table, fast):.1f}."
    )
    return Finding(always_lower(values(table, sick), values(table, well)), words)


def frozen(table: pd.DataFrame) -> Finding:
    """Hold the furthest start against the usual one."""
    usual, furthest = (f"init_std {far * INIT_STD:g}" for far in (FAR[0], FAR[-1]))
    flips = {case: values(table, case, "flipped_since_start") for case in (usual, furthest)}
    words = (
        f"{FAR[-1]:g} times further from zero {flips[furthest].mean():.1%} of the signs differ from the start after "
        f"training, instead of {flips[usual].mean():.1%}; {against(table, furthest, usual)}."
    )
    return Finding(bool((flips[furthest] <= flips[usual] / 4).all()), words)


def silent(table: pd.DataFrame) -> Finding:
    """Hold weights around zero against weights of one."""
    well, sick = "w = 1", "w from U(±1/√J)"
    quiet, heard = ({case: mean(table, case, name) for case in (well, sick)} for name in ("silent", "heard"))
    start, end = mean(table, sick, "dead", epoch=0), mean(table, sick, "dead")
    words = (
        f"{start:.0%} of the weights start, and {end:.0%} end, where the relu has no gradient; {quiet[sick]:.0%} of "
        f"the prototypes are silent (w = 1: {quiet[well]:.0%}), the effective number is {heard[sick]:.0%} of all "
        f"({heard[well]:.0%}); {against(table, sick, well)}."
    )
    return Finding(always_lower(values(table, well, "silent"), values(table, sick, "silent")), words)


def ties(table: pd.DataFrame) -> Finding:
    """Count ties and moved winners in 16 bits, and what they cost in the test and in training."""
    shares = {name: (mean(table, name, "tied"), mean(table, name, "moved")) for name in ("bfloat16", "float16")}
    counted = ", ".join(f"in {name} {tied:.1%} tie and {moved:.1%} move" for name, (tied, moved) in shares.items())
    words = (
        f"Of all maxima {counted}; tested in bfloat16 the same heads score "
        f"{mean(table, 'bfloat16 in the test'):.1f} instead of {mean(table, 'float32'):.1f}; trained in it too: "
        f"{against(table, 'bfloat16 throughout', 'float32')}."
    )
    return Finding(shares["bfloat16"][0] > 0.01, words)


def collapse(table: pd.DataFrame) -> Finding:
    """Say how many tokens each case attends to in the end, and what it scores."""
    cases, well = list(dict.fromkeys(table["case"])), "mhca, lr × 1"
    ends = [f"{case}: {mean(table, case, 'attended'):.0f} tokens, score {mean(table, case):.1f}" for case in cases]
    few = [case for case in cases if (values(table, case, "attended") < 2).all()]
    worse = [case for case in few if always_lower(values(table, case), values(table, well))]
    same = [f"{case}: {mean(table, case, 'same_place'):.0%} of the clips" for case in worse]
    there = f" (the best token stands at one and the same place in, {', '.join(same)})" if same else ""
    return Finding(bool(worse), f"After training, {'; '.join(ends)}{there}.")


def spread(table: pd.DataFrame) -> Finding:
    """Compare standard deviations over seeds; the F test says how large a ratio chance would give."""
    by_case = {case: values(table, case) for case in dict.fromkeys(table["case"])}
    ours, theirs = by_case["protobin"], by_case["abmilp"]
    chance = stats.f.ppf(0.975, len(theirs) - 1, len(ours) - 1)
    ratio = theirs.var() / ours.var() if ours.var() else np.inf if theirs.var() else 1.0
    sds = [f"{case} {scores.mean():.1f} ± {scores.std():.2f}" for case, scores in by_case.items()]
    words = (
        f"Mean ± sd of {len(ours)} seeds: {'; '.join(sds)}; abmilp's sd is {ratio**0.5:.1f} times protobin's, and "
        f"{chance**0.5:.1f} times is what chance would reach."
    )
    return Finding(bool(ratio > chance), words)


def easy(table: pd.DataFrame) -> Finding:
    """List the paired differences on single-label data."""
    wide = table[table["measure"] != "score"].pivot(index="case", columns="measure", values="value")
    wide = wide.loc[list(dict.fromkeys(table["case"]))]
    said = [f"{name} {one.difference:+.1f} [{one.low:+.1f}, {one.high:+.1f}]" for name, one in wide.iterrows()]
    behind = list(wide.index[wide["high"] < 0])
    words = f"protobin − linear, in points: {', '.join(said)}; behind linear: {', '.join(behind) or 'on none'}."
    return Finding(bool(behind), words)


def order(table: pd.DataFrame) -> Finding:
    """Sort the heads into those that a wrong order in the test hurts and those that give the same score."""
    drops = dropped(table, "wrong in the test", "right")
    hurt, same = [h for h in drops if (drops[h] < 0).all()], [h for h in drops if (drops[h].abs() < SAME).all()]
    checks = table[table["measure"].isin(("rises", "time"))].set_index(["measure", "case"])["value"]
    words = (
        f"In the test alone: {said_of(hurt, drops)}, unchanged {', '.join(same) or 'none'}; throughout: "
        f"{said_of(list(drops), dropped(table, 'wrong throughout', 'right'))}; the tone rises with rank correlation "
        f"{checks['rises', 'right']:.2f} in the right order and {checks['rises', 'wrong throughout']:.2f} in the wrong "
        f"one, neighbours in time have cosine {checks['time', 'right']:.2f} and "
        f"{checks['time', 'wrong throughout']:.2f}."
    )
    return Finding(bool(hurt), words)


def norm(table: pd.DataFrame) -> Finding:
    """Sort the heads by what they lose without the norm."""
    drops = dropped(table, "forgotten", "with the norm")
    hurt = [head for head in drops if (drops[head] < 0).all()]
    worst_first = sorted(drops, key=lambda head: drops[head].mean())
    middle = table[table["measure"] == "length"].groupby("case")["value"].median()
    distance = table.loc[table["measure"] == "distance", "value"].item()
    words = (
        f"Without the norm: {said_of(worst_first, drops)}; lower in every seed: {', '.join(hurt) or 'none'}; the "
        f"median token has length {middle['forgotten']:.0f} instead of {middle['with the norm']:.1f}; with the norm "
        f"applied, none is further than {distance:.2g} from the stored one."
    )
    return Finding(bool(hurt), words)


# ---- what they share -----------------------------------------------------------------------------------------------


def always_lower(some: pd.Series, others: pd.Series) -> bool:
    """Return whether values are lower than the others in every seed."""
    return bool((some < others).all())


def against(table: pd.DataFrame, sick: str, well: str) -> str:
    """Say what a case scores beside another."""
    some, others = values(table, sick), values(table, well)
    fewer = int((some < others).sum())
    return f"score {some.mean():.1f} instead of {others.mean():.1f}, lower in {fewer} of {len(some)} seeds"


def dropped(table: pd.DataFrame, sick: str, well: str) -> dict[str, pd.Series]:
    """Return each head's change of score from a case to another, by seed."""
    heads = table.loc[table["measure"] == "score", "head"].unique()
    return {head: values(table, sick, head=head) - values(table, well, head=head) for head in heads}


def said_of(heads: list[str], drops: dict[str, pd.Series]) -> str:
    """List heads with their mean change."""
    return ", ".join(f"{head} {drops[head].mean():+.1f}" for head in heads) or "none"


FINDINGS: dict[str, Callable[[pd.DataFrame], Finding]] = {
    function.__name__: function
    for function in (scale, positive, frozen, silent, ties, collapse, spread, easy, order, norm)
}


def closing_table(findings: dict[str, Finding]) -> str:
    """Return the guide in short, in Markdown: symptom, first look, cure, and whether it was seen here."""
    lines = ["| symptom | look first at | cure | seen here |", "|---|---|---|---|"]
    for name, finding in findings.items():
        trouble = TROUBLES[name]
        cells = (trouble.symptom, trouble.look, trouble.cure, "yes" if finding.seen else "no")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)
