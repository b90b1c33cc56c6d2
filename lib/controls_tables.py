"""The tables of the controls, and what they say: differences between arms, for each pair and averaged over pairs.

See `lib.controls` for the arms, and for what the intervals are.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, product

import numpy as np
import pandas as pd

from lib.controls import ALL, ENTRIES, FACTORS, LABELS, OTHERS, PROTOBIN_CURVE, TOP, VECTORS, WALK, WALK_FROM, Measured

# ---- the arms ----------------------------------------------------------------------------------------------------


def summary(values: np.ndarray) -> tuple[float, float, float]:
    """Return what was measured and its 95 % interval, of values (1 + R,)."""
    return float(values[0]), *(float(limit) for limit in np.nanquantile(values[1:], (0.025, 0.975)))


def arm_table(measured: Measured) -> pd.DataFrame:
    """Return a row an arm and pair, and one for the average over pairs.

    `mean`, `low`, `high` are the test score with its interval; `above_linear` and `above_protobin` the difference from
    linear on [cls] and from protobin (at the dataset's own J) with theirs.
    """
    rows = []
    for entry in ENTRIES:
        for pair in [*measured.pairs, (ALL, ALL)]:
            pairs = measured.pairs if pair == (ALL, ALL) else [pair]
            own, linear, protobin = (_average(measured, pairs, name) for name in (entry.name, "linear", "protobin"))
            one = None if pair == (ALL, ALL) else (*pair, entry.name)
            rows.append(
                {
                    "part": entry.parts,
                    "arm": entry.name,
                    "label": entry.label,
                    "head": entry.head,
                    "encoder": pair[0],
                    "dataset": pair[1],
                    "J": measured.prototypes[one] or np.nan if one else np.nan,
                    "parameters": measured.parameters[one] if one else np.nan,
                    "validation": measured.validation[one] if one else np.nan,
                    "sd": measured.sds[one] if one else np.nan,
                    **_named("", own),
                    **_named("above_linear", own - linear),
                    **_named("above_protobin", own - protobin),
                }
            )
    return pd.DataFrame(rows)


def _average(measured: Measured, pairs: Sequence[tuple[str, str]], name: str) -> np.ndarray:
    return np.mean([measured.draws[*pair, name] for pair in pairs], axis=0)  # (1 + R,)


def _named(name: str, values: np.ndarray) -> dict[str, float]:
    names = (name, f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
    return dict(zip(names, summary(values), strict=True))


# ---- the effects -------------------------------------------------------------------------------------------------

GAIN, REMAINS = "linear on [cls]", "the best fixed pooling"
# What protobin is compared with, from the straw man on; a tuple: the best of these on validation, in each pair.
REFERENCES: dict[str, str | tuple[str, ...]] = {
    GAIN: "linear",
    "linear on the mean token": "linear mean",
    "linear on the token-wise max": "linear max",
    "the best single vector": VECTORS,
    "linpre": "linpre",
    REMAINS: (*VECTORS, "linpre"),
}


def factor(number: int) -> dict[str, float]:
    """Return the weights of the main effect of a factor: the mean of four arms minus that of the other four."""
    return {" ".join(levels): 0.25 if levels[number] == FACTORS[number][1] else -0.25 for levels in product(*FACTORS)}


# An ingredient of protobin and what it is worth: protobin, or all that have it, minus what has something else instead.
THIRD_J = "binary agnostic free"  # protobin with a third of J, as all arms of parts (c) and (d)
INGREDIENTS: dict[str, dict[str, float]] = {
    "the maximum over tokens instead of their mean": {THIRD_J: 1, "mean": -1},
    f"the one best token instead of the mean of {TOP}": {THIRD_J: 1, "topk": -1},
    "trained prototypes instead of random signs": {THIRD_J: 1, "frozen": -1},
    "signs instead of floats": factor(0),
    "prototypes for all classes instead of one each": factor(1),
    "no orthogonality loss instead of one": factor(2),
}
_LEGS = enumerate(zip(WALK, pairwise((WALK_FROM, *WALK.values())), strict=True), 1)
STEPS = {f"{number}. {step}": {after: 1, before: -1} for number, (step, (before, after)) in _LEGS}
STEPS["all six: proto − protofloat"] = {"proto third": 1, WALK_FROM: -1}
CONTRASTS = {
    "token norm": {"mhca: tokens normalised instead of as they are": {"mhca": 1, "mhca no norm": -1}},
    "ingredient": INGREDIENTS,
    "walk": STEPS,
}


def effect_table(measured: Measured) -> pd.DataFrame:
    """Return every difference that the page speaks of, for each pair and averaged over the pairs.

    `kind` is "gap" (protobin minus a reference; `note` says which arms were chosen), "token norm", "ingredient" or
    "walk". Of averaged gaps, `share` is the part of the first one, the gain over linear on [cls], with its interval; of
    averaged ingredients, the share of draws in which its effect is the largest of all, whatever its sign.
    """
    found, notes = {}, {}
    for name, reference in REFERENCES.items():
        chosen = measured.best((reference,) if isinstance(reference, str) else reference)
        found["gap", name] = {
            pair: measured.draws[*pair, "protobin"] - measured.draws[*pair, chosen[pair]] for pair in measured.pairs
        }
        if not isinstance(reference, str):
            notes["gap", name] = chosen
    for kind, contrasts in CONTRASTS.items():
        for name, weights in contrasts.items():
            found[kind, name] = {
                pair: sum(weight * measured.draws[*pair, arm] for arm, weight in weights.items())
                for pair in measured.pairs
            }
    means = {key: np.mean(list(by_pair.values()), axis=0) for key, by_pair in found.items()}
    shares = _shares_of_gain(means) | _shares_of_largest(means)
    rows = []
    for (kind, name), by_pair in found.items():
        chosen = notes.get((kind, name), {})
        for pair, values in by_pair.items():
            rows.append((kind, name, *pair, *summary(values), *[np.nan] * 3, LABELS.get(chosen.get(pair), "")))
        share = shares.get((kind, name), [np.nan] * 3)
        rows.append((kind, name, ALL, ALL, *summary(means[kind, name]), *share, _counted(chosen.values())))
    columns = ["kind", "effect", "encoder", "dataset", "value", "low", "high", "share", "share_low", "share_high"]
    return pd.DataFrame(rows, columns=[*columns, "note"])


def _shares_of_gain(means: Mapping[tuple[str, str], np.ndarray]) -> dict:
    """Return how much of the gain over linear on [cls] each gap is; nothing where that gain may be none."""
    gain = means["gap", GAIN]
    if summary(gain)[1] <= 0:
        return {}
    return {key: summary(values / gain) for key, values in means.items() if key[0] == "gap"}


def _shares_of_largest(means: Mapping[tuple[str, str], np.ndarray]) -> dict:
    names = list(INGREDIENTS)
    drawn = np.abs([means["ingredient", name][1:] for name in names])  # (ingredients, R)
    return {
        ("ingredient", name): (float(np.mean(drawn.argmax(0) == at)), np.nan, np.nan) for at, name in enumerate(names)
    }


def _counted(chosen: Iterable[str]) -> str:
    counts = pd.Series([LABELS[name] for name in chosen], dtype=object).value_counts()
    return "; ".join(f"{name} ({count})" if len(counts) > 1 else name for name, count in counts.items())


# ---- scores by size ----------------------------------------------------------------------------------------------


def capacity_table(measured: Measured) -> pd.DataFrame:
    """Return the arms of part (e) by dataset, averaged over encoders: parameters, score, and the gap at equal size.

    `gap` is protobin minus the arm, both with the arm's number of parameters: protobin's scores at several J are
    joined by straight lines over the logarithm of its parameters. Where the arm is smaller or larger than all of
    these, by more than 2 %, the nearest is taken and `within` is false. `above_linear` is the distance from linear on
    [cls]. Rows of dataset "all" are averages over all pairs; the arm "best other" is in each pair the best on
    validation of the heads without prototypes.
    """
    chosen, rows = measured.best(OTHERS), []
    names = [entry.name for entry in ENTRIES if "e" in entry.parts]
    for dataset in [*dict.fromkeys(dataset for _, dataset in measured.pairs), ALL]:
        pairs = [pair for pair in measured.pairs if dataset in (pair[1], ALL)]
        for name in [*names, "best other"]:
            keys = [(*pair, chosen[pair] if name == "best other" else name) for pair in pairs]
            sizes = [measured.parameters[key] for key in keys]
            twins = [protobin_of(measured, key[:2], size) for key, size in zip(keys, sizes, strict=True)]
            own = np.mean([measured.draws[key] for key in keys], axis=0)  # (1 + R,)
            gap = np.mean([twin for twin, _ in twins], axis=0) - own
            entry = next((entry for entry in ENTRIES if entry.name == name), None)
            rows.append(
                {
                    "dataset": dataset,
                    "arm": name,
                    "label": entry.label if entry else _counted([key[2] for key in keys]),
                    "head": entry.head if entry else "",
                    "reads": "mean" if entry and entry.cls_mode else "",
                    "parameters": np.mean(sizes) if dataset != ALL else np.nan,
                    **_named("", own),
                    **_named("above_linear", own - _average(measured, pairs, "linear")),
                    **_named("gap", gap),
                    "within": all(within for _, within in twins),
                }
            )
    return pd.DataFrame(rows)


def protobin_of(measured: Measured, pair: tuple[str, str], size: int) -> tuple[np.ndarray, bool]:
    """Return protobin's draws (1 + R,) at a number of parameters, and whether that lies between those trained."""
    sizes = [measured.parameters[*pair, name] for name in PROTOBIN_CURVE]
    curve = np.array([measured.draws[*pair, name] for name in PROTOBIN_CURVE])  # (J, 1 + R)
    at = np.interp(np.log(size), np.log(sizes), np.arange(len(sizes)))
    below, above = int(np.floor(at)), int(np.ceil(at))
    return curve[below] + (at - below) * (curve[above] - curve[below]), 0.98 * min(sizes) <= size <= 1.02 * max(sizes)


# ---- in words ----------------------------------------------------------------------------------------------------


def points(row: pd.Series, name: str = "") -> str:
    """Return a value and its interval as "1.2 [0.3, 2.1]"."""
    names = ("value", "low", "high") if not name else (name, f"{name}_low", f"{name}_high")
    value, low, high = (f"{row[key] + 0.0:.1f}".replace("-", "−") for key in names)
    return f"{value} [{low}, {high}]"


def _average_row(effects: pd.DataFrame, kind: str, name: str) -> pd.Series:
    rows = effects[(effects["kind"] == kind) & (effects["effect"] == name) & (effects["encoder"] == ALL)]
    return rows.iloc[0]


def verdict(effects: pd.DataFrame) -> list[str]:
    """Return the verdict in two sentences, from the table of effects; the rule stands in notebook 15.

    Parameters
    ----------
    effects : pandas.DataFrame
        As `effect_table` returns it.
    """
    return [_gap_sentence(effects), _ingredient_sentence(effects)]


def _gap_sentence(effects: pd.DataFrame) -> str:
    gain, left = (_average_row(effects, "gap", name) for name in (GAIN, REMAINS))
    pairs = int(((effects["effect"] == GAIN) & (effects["encoder"] != ALL)).sum())
    start = "Averaged over {} pairs of encoder and dataset" if pairs > 1 else "On {} pair of encoder and dataset"
    if gain["low"] > 0:
        first = f"protobin gains {points(gain)} points over linear on [cls]"
    elif gain["high"] < 0:
        first = f"protobin is behind linear on [cls]: {points(gain)} points"
    else:
        first = f"protobin has no clear gain over linear on [cls]: {points(gain)} points"
    chosen = f"the fixed pooling that is best on validation in each pair ({left['note']})"
    if left["low"] > 0 and gain["low"] > 0:
        second = f"over {chosen} {points(left)} points of it remain"
    elif left["low"] > 0:
        second = f"over {chosen} it is ahead by {points(left)} points"
    elif left["high"] < 0:
        second = f"over {chosen} nothing remains, protobin is behind it: {points(left)} points"
    else:
        second = f"over {chosen} it may be nothing: {points(left)} points"
    share = ""
    if pd.notna(left["share"]):
        part = left[["share", "share_low", "share_high"]].astype(float) * 100
        share = f", {_percent(part)} of the gain"
    return f"{start.format(pairs)}, {first}; {second}{share}."


def _percent(part: pd.Series) -> str:
    value, low, high = (f"{number:.0f}".replace("-", "−") for number in part)
    return f"{value} % [{low}, {high}]"


def _ingredient_sentence(effects: pd.DataFrame) -> str:
    rows = effects[(effects["kind"] == "ingredient") & (effects["encoder"] == ALL)]
    rows = rows.iloc[(-rows["value"].abs()).argsort(kind="stable")]
    first, second = rows.iloc[0], rows.iloc[1]
    if first["low"] <= 0 <= first["high"]:
        start = f"None of the {len(rows)} ingredients has an effect whose interval leaves zero out; the largest is"
    else:
        start = f"Of the {len(rows)} ingredients the one that matters most is"
    return (
        f"{start} {first['effect']}: it {_worth(first)} (the largest effect in {100 * first['share']:.0f} % of the "
        f"draws); next is {second['effect']}, which {_worth(second)}."
    )


def _worth(row: pd.Series) -> str:
    verb = "gives" if row["value"] >= 0 else "costs"
    if verb == "costs":
        row = pd.Series({"value": -row["value"], "low": -row["high"], "high": -row["low"]})
    return f"{verb} {points(row)} points"


def capacity_words(capacity: pd.DataFrame) -> list[str]:
    """Return what remains of the gap at an equal number of parameters, a sentence an opponent."""
    rows = capacity[capacity["dataset"] == ALL].set_index("arm")
    opponents = {
        "best other": "the head without prototypes that is best on validation in each pair ({label})",
        "mlp matched": "an mlp of protobin's own size on [cls]",
        "mlp mean matched": "an mlp of protobin's own size on the mean token",
    }
    sentences = []
    for name, words in opponents.items():
        row = rows.loc[name]
        lies = "above" if row["gap_low"] > 0 else "below" if row["gap_high"] < 0 else "not clearly above or below"
        nearest = "" if row["within"] else ", against the nearest in size where none of these is as small or as large"
        what = f"{words.format(label=row['label'])}{nearest}"
        sentences.append(f"With as many parameters protobin is {lies} {what}: {points(row, 'gap')} points.")
    return sentences


def effects_shown(effects: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the averaged effects of a kind for a page, and in how many pairs the interval lies above or below zero."""
    rows = effects[(effects["kind"] == kind) & (effects["encoder"] == ALL)].set_index("effect")
    each = effects[(effects["kind"] == kind) & (effects["encoder"] != ALL)].groupby("effect", sort=False)
    shown = rows[["value", "low", "high"]].round(2)
    shown["pairs"] = each.size()
    shown["above zero"] = each["low"].agg(lambda low: int((low > 0).sum()))
    shown["below zero"] = each["high"].agg(lambda high: int((high < 0).sum()))
    return shown if kind != "gap" else shown.assign(chosen=rows["note"].fillna(""))
