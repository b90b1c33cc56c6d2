"""Which clips of an official copy train, validate and test: by the owner's split, by fold, by order of names, or drawn.

`split` follows the rule of a manifest. What is drawn is drawn once, by a seed of the manifest, from sorted ids, so that
it depends neither on the order of the files nor on how the copy is stored.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from lib.data.official import Record
from lib.errors import InputError, unknown_name

Parts = dict[str, list[Record]]
NO_LABEL = ""  # stands for the class of clips that have none


def split(official: Parts, rule: dict, dataset: str) -> Parts:
    """Return the splits "train", "val" and "test" of a dataset, each in the order of the official lists.

    Parameters
    ----------
    official : dict
        Official split → its clips.
    rule : dict
        ``split_rule`` of a manifest: ``kind`` is "official", "reserve" (a share of train validates), "fold" (whole
        folds of train validate) or "fractions" (shares of every official part, in the order of the names).
    dataset : str
        Its id, for the message.

    Raises
    ------
    InputError
        If the rule or an official split is unknown.
    """
    if rule["kind"] not in RULES:
        raise unknown_name(f"kind of split rule in the manifest of '{dataset}'", rule["kind"], tuple(RULES))
    for name in {name for names in rule["from"].values() for name in names} - set(official):
        raise InputError(
            f"The copy of '{dataset}' has no official split '{name}'; it has: {', '.join(official) or 'none'}."
        )
    return RULES[rule["kind"]](official, rule)


def before_reserving(official: Parts, rule: dict) -> Parts:
    """Return what Table 8 counts: train still with what is set aside of it, "val" only where it is a split of its own.

    A copy is held against the manifest's counts by these parts, since they are known before anything is drawn.
    """
    if rule["kind"] == "fractions":
        return _fractions(official, rule)
    parts = {
        name: [clip for part in rule["from"][name] for clip in official[part]] for name in ("train", "val", "test")
    }
    return parts if rule["kind"] == "official" else {"train": parts["train"], "test": parts["test"]}


def _official(official: Parts, rule: dict) -> Parts:
    return before_reserving(official, rule)


def _reserve(official: Parts, rule: dict) -> Parts:
    parts = before_reserving(official, rule)
    chosen = reserved(parts["train"], rule["reserve"], rule["seed"])
    train = [clip for clip in parts["train"] if clip.id not in chosen]
    return {"train": train, "val": [clip for clip in parts["train"] if clip.id in chosen], "test": parts["test"]}


def _fold(official: Parts, rule: dict) -> Parts:
    aside = rule["reserve_from"]
    train = [clip for name in rule["from"]["train"] if name not in aside for clip in official[name]]
    test = [clip for name in rule["from"]["test"] for clip in official[name]]
    return {"train": train, "val": [clip for name in aside for clip in official[name]], "test": test}


def _fractions(official: Parts, rule: dict) -> Parts:
    """Cut each official part, in the order of its names, into shares: 3,500, 750 and 750 of every scene of spass."""
    parts: Parts = {"train": [], "val": [], "test": []}
    for name in rule["from"]["train"]:
        clips, share, start = sorted(official[name], key=lambda clip: clip.id), 0.0, 0
        for part in parts:
            share += rule["fractions"][part]
            stop = round(share * len(clips))
            parts[part] += clips[start:stop]
            start = stop
    return parts


RULES = {"official": _official, "reserve": _reserve, "fold": _fold, "fractions": _fractions}


def fold_rule(rule: dict, test: str) -> dict:
    """Return the rule by which fold `test` tests, the one before it validates and the others train."""
    folds = sorted({name for names in rule["from"].values() for name in names})
    if test not in folds:
        raise unknown_name("fold", test, folds)
    aside = folds[folds.index(test) - 1]
    return rule | {
        "from": {"train": [name for name in folds if name != test], "val": [], "test": [test]},
        "reserve_from": [aside],
    }


def reserved(clips: Sequence[Record], share: float, seed: int) -> set[str]:
    """Draw the ids of `share` of the clips: that share of every class, and of every source all clips or none.

    The rarest class is dealt out first, as in iterative stratification (Sechidis et al., 2011), since it leaves the
    least choice; a source goes to the drawn part while its class is short there. What rounding leaves short or over of
    the whole share is then drawn from, or given back by, the most frequent classes.

    Parameters
    ----------
    clips : sequence of Record
        Their order does not matter.
    share : float
        Between 0 and 1.
    seed : int
        Of the draw.
    """
    groups = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.id):
        groups[clip.source].append(clip)
    names = sorted(groups)
    order = [names[place] for place in np.random.default_rng(seed).permutation(len(names))]
    labels = {name: Counter(label for clip in groups[name] for label in clip.labels or (NO_LABEL,)) for name in order}
    total, holds = Counter(), defaultdict(list)
    for name in order:
        total.update(labels[name])
        for label in labels[name]:
            holds[label].append(name)
    chosen: dict[str, bool] = {}
    have, drawn, wanted = Counter(), 0, round(share * len(clips))
    for label in sorted(total, key=lambda label: (total[label], label)):
        for name in holds[label]:
            if name not in chosen:
                # Half a clip of tolerance: of its share, a class gets the nearest whole number.
                chosen[name] = have[label] + labels[name][label] / 2 <= share * total[label]
                if chosen[name]:
                    have.update(labels[name])
                    drawn += len(groups[name])
    for name in reversed(list(chosen)):
        excess, count = drawn - wanted, len(groups[name])
        if count <= abs(excess) and chosen[name] == (excess > 0):
            chosen[name] = not chosen[name]
            drawn += count if chosen[name] else -count
    return {clip.id for name, there in chosen.items() if there for clip in groups[name]}
