"""How to read the scores: the README's bullets, each number and each turn of phrase made of the committed tables.

A pair is an encoder and a dataset; where nothing else is said, the encoders are the six self-supervised ones. What is
said of a difference over pairs is worded in `lib.summary_words`.
"""

import textwrap
from collections.abc import Callable

import pandas as pd

from lib import published
from lib.data.datasets import load_dataset
from lib.encoder_comparison import COMPARED, label_of, labelled, margins
from lib.encoders import ENCODERS, SHIPPED
from lib.errors import InputError
from lib.figures import read_table
from lib.paths import FIGURES
from lib.profiles import CONTROLS, COSTLY_HEADS, PROFILES
from lib.published import BASE
from lib.questions import VERDICTS
from lib.summary_words import counted, counts, gap_of, listed, said, side, signed

Read = Callable[[str], pd.DataFrame]  # a path below figures/ → its table
SHOWN = {"esc10": "real recordings", "pocket": "synthetic sounds"}  # profile → what its sounds are called
RIVALS = {"linpre": ", one mean for each frequency row,", "mhca": ""}  # heads that are no prototypes → what they are
LITTLE = 1.0  # points: what binarisation may cost on an average of pairs to be called little
WIDTH = 130


def summary(read: Read | None = None) -> str:
    """Return the bullets, and a paragraph on more trials and on more clips, as Markdown.

    Parameters
    ----------
    read : callable, optional
        Returns a table by its path below ``figures/``; by default as it lies there.

    Raises
    ------
    InputError
        If a table is missing.
    """
    read = read or read_figures
    sayings = (bottleneck, rivals, classes_apart, binarisation, fine_tuning, without_pretraining, questions, encoders)
    bullets = [_wrapped(f"- {say(read)}") for say in sayings]
    return "\n".join([*bullets, *(f"\n{_wrapped(say(read), '')}" for say in (more_trials, more_clips))])


def read_figures(path: str) -> pd.DataFrame:
    """Return a table by its path below ``figures/``; a missing one is an `InputError`."""
    if not path.endswith("results.csv"):
        return read_table(FIGURES / path)
    if not (FIGURES / path).is_file():
        raise InputError(f"There are no results '{path}'; run `make figures PROFILE={path.split('/')[0]}`.")
    return pd.read_csv(FIGURES / path)


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


# ---- which rows -----------------------------------------------------------------------------------------------


def is_base(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are of one of the six self-supervised encoders."""
    return rows["encoder"].map({name: entry.kind == "base" for name, entry in ENCODERS.items()})


def is_default(rows: pd.DataFrame) -> pd.Series:
    """Return which rows have the [cls] that their encoder has by default."""
    return rows["cls_mode"] == rows["encoder"].map({name: entry.cls for name, entry in ENCODERS.items()})


def gains(read: Read, profile: str, group: str, head: str) -> pd.DataFrame:
    """Return a head's rows on a group's datasets and the self-supervised encoders; `gain` is over linear."""
    rows = read(f"{profile}/benchmark.csv")
    inside = rows["dataset"].map(lambda name: PROFILES[profile].group(name).name == group)
    return rows[inside & is_base(rows) & is_default(rows) & (rows["head"] == head)]


def title(dataset: str) -> str:
    """Return what a dataset is called."""
    return load_dataset(dataset).manifest["title"]


# ---- the bullets ---------------------------------------------------------------------------------------------


def bottleneck(read: Read) -> str:
    """Say what protobin gains over linear: on mixtures, on few-shot bioacoustics, on single sounds."""
    mixtures = {
        "mixtures of ESC-10": gap_of(gains(read, "esc10", "general", "protobin")),
        "synthetic soundscapes": gap_of(gains(read, "pocket", "general", "protobin")),
        "few-shot bioacoustics": gap_of(gains(read, "pocket", "bioacoustic", "protobin")),
    }
    recorded = gains(read, "esc10", "control", "protobin")
    single = {"synthetic ones": gap_of(gains(read, "pocket", "control", "protobin"))}
    names = {"esc10-single": "ESC-10 itself", "spoken-digits": "spoken digits"}
    single |= {names[name]: gap_of(part) for name, part in recorded.groupby("dataset", sort=False)}
    there = [gap.mean > 0 and gap.above > gap.below for gap in mixtures.values()]
    head = "The bottleneck is there." if all(there) else "The bottleneck is there in part."
    head = head if any(there) else "No bottleneck shows clearly."
    words = f"*{head}* `protobin` against `linear`, in points: {said(mixtures)}. "
    too = ", where the paper finds the gap too" if any(gap.mean > 0 for gap in single.values()) else ""
    return f"{words}On single sounds{too}, in points of accuracy: {said(single)}."


def rivals(read: Read) -> str:
    """Say what simpler heads gain over linear on general audio, and whether that is more than protobin gains."""
    places = {"esc10": "mixtures of ESC-10", "pocket": "synthetic soundscapes"}
    words, none_better = [], True
    for head, about in RIVALS.items():
        found, better, less = {}, [], []
        for profile, place in places.items():
            rows, ours = (gains(read, profile, "general", name) for name in (head, "protobin"))
            both = rows.merge(ours[["dataset", "encoder", "gain"]], on=["dataset", "encoder"], suffixes=("", "_ours"))
            found[place] = gap_of(both)
            (better if both["gain"].mean() > both["gain_ours"].mean() else less).append(place)
        none_better = none_better and not better
        against = f"more than `protobin` on {' and '.join(better)}" if less else "more than `protobin` on both"
        if not better:
            against = "less than `protobin` on both"
        words.append(f"`{head}`{about} is {said(found)}, {against}")
    head = "It has no rival among simpler heads" if none_better else "It has rivals"
    return f"*{head}*, in points against `linear`: {'; '.join(words)}."


def contrast(read: Read, profile: str, name: str) -> pd.DataFrame:
    """Return the rows of a contrast between kinds of prototypes on the self-supervised encoders."""
    rows = read(f"{profile}/contrasts.csv")
    return rows[(rows["contrast"] == name) & is_base(rows)]


def classes_apart(read: Read) -> str:
    """Say whether proto, whose classes see only their own prototypes, beats protobin, here and in the paper."""
    gaps = {}
    for profile, place in SHOWN.items():
        rows = contrast(read, profile, "protobin − proto")
        flipped = rows.assign(difference=-rows["difference"], low=-rows["high"], high=-rows["low"])
        gaps[place] = gap_of(flipped, ("difference", "low", "high"))
    scores = published.wide(2, BASE)
    theirs = float((scores["proto"] - scores["protobin"]).mean())
    signs = {side(gap.mean).split()[-1] for gap in gaps.values()}
    head = {
        frozenset({side(theirs).split()[-1]}): "As in the paper",
        frozenset({side(-theirs).split()[-1]}): "What contradicts the paper",
    }.get(frozenset(signs), "Not quite as in the paper")
    words = (
        f"*{head}*: the class-dependent `proto` against `protobin`, in points: {said(gaps)}; in the paper's Table 2 "
    )
    words += f"it is {side(theirs)}."
    if head.startswith("What"):
        words += (
            " With few training clips, fewer free weights in the classifier may be what helps; that says nothing yet "
            "about the paper's setting."
        )
    return words


def binarisation(read: Read) -> str:
    """Say what signs cost in place of floats."""
    columns = ("difference", "low", "high")
    gaps = {
        place: gap_of(contrast(read, profile, "protobin − protofloat"), columns) for profile, place in SHOWN.items()
    }
    worst = min(gap.mean for gap in gaps.values())
    price = "costs nothing" if round(worst, 1) >= 0 else "costs little" if worst >= -LITTLE else "has a price"
    return (
        f"*Binarisation {price}*: `protobin` against `protofloat`, over all datasets, in points of mAP or, on single "
        f"sounds, of accuracy: {said(gaps)}."
    )


def fine_tuning(read: Read) -> str:
    """Say where the encoder that is shown, fine-tuned, stands between linear and protobin."""
    words, upper = [], []
    for name in SHOWN:
        profile = PROFILES[name]
        tuned = read(f"{name}/fine_tuning.csv")
        tuned = tuned[(tuned["encoder"] == profile.shown) & (tuned["dataset"] == profile.dataset)]["mean"].item()
        table = read(f"{name}/benchmark.csv")
        table = table[(table["encoder"] == profile.shown) & (table["dataset"] == profile.dataset) & is_default(table)]
        score = table.set_index("head")["mean"][["linear", "protobin"]]
        (low, least), (high, most) = score.sort_values().items()
        if tuned > most:
            where = f"above `{high}` ({most:.1f}) and `{low}` ({least:.1f})"
        elif tuned < least:
            where = f"below `{low}` ({least:.1f}) and `{high}` ({most:.1f})"
        else:
            where = f"between `{low}` ({least:.1f}) and `{high}` ({most:.1f})"
        upper.append(tuned > most)
        words.append(f"{tuned:.1f} on the {profile.clips['train']} clips of {title(profile.dataset)}, {where}")
    head = "Fine-tuning is the upper line" if all(upper) else "Fine-tuning is the upper line on one set alone"
    head = head if any(upper) else "Fine-tuning is no upper line with so few clips"
    return f"*{head}*: {ENCODERS[PROFILES['pocket'].shown].label}, the one encoder, fine-tuned, has {'; '.join(words)}."


def without_pretraining(read: Read) -> str:
    """Say what protobin gains over linear on the two controls, which are not pretrained."""
    words, clear, cases = [], 0, 0
    for name in SHOWN:
        table = read(f"{name}/benchmark.csv")
        table = table[(table["dataset"] == PROFILES[name].dataset) & (table["head"] == "protobin")].set_index("encoder")
        numbers = []
        for control in CONTROLS:
            row = table.loc[control]
            numbers.append(f"{signed(row['gain'])} ({signed(row['gain_low'])} to {signed(row['gain_high'])})")
            clear, cases = clear + (row["gain_low"] > 0), cases + 1
        words.append(f"{' and '.join(numbers)} on {title(PROFILES[name].dataset)}")
    head = "Part of the gain needs no pretraining" if clear else "Without pretraining there is no clear gain"
    return (
        f"*{head}*: on the two controls, the random ViT and the log-mel patches, `protobin` has these points against "
        f"`linear`, clearly more in {clear or 'none'} of {cases} cases: {'; '.join(words)}."
    )


def questions(read: Read) -> str:
    """Say how many of the paper's conclusions reappear, and which do not."""
    words, failing = [], {}
    for profile in SHOWN:
        table = read(f"{profile}/questions.csv")
        reappear, *others = (int((table["verdict"] == verdict).sum()) for verdict in VERDICTS)
        rest = ", ".join(f"{n} {what}" for n, what in zip(others, ("undecided", "not", "not run"), strict=True) if n)
        words.append(f"{reappear} of {len(table)} on `{profile}`" + (f" ({rest})" if rest else ""))
        for sentence in table.loc[table["verdict"] == VERDICTS[2], "sentence"]:
            failing.setdefault(sentence, []).append(f"`{profile}`")
    against = "; ".join(f"“{sentence}” ({' and '.join(profiles)})" for sentence, profiles in failing.items())
    return (
        "*Four questions* ([notebook 10](notebooks/10_four_questions.ipynb)), conclusions of the paper that reappear, "
        f"by a rule written before any result: {' and '.join(words)}." + (f" Not: {against}." if against else "")
    )


def encoders(read: Read) -> str:
    """Say what all nine encoders, supervised⁺ included, are worth, what protobin adds, and whom labels help."""
    worth, labels, binary, number = [], [], {}, 0
    for name, place in zip(COMPARED, ("synthetic soundscapes", "mixtures of ESC-10"), strict=True):
        table = labelled(read(f"{name}/benchmark.csv"))
        points = margins(name, table)["points"]
        number = len(points)
        worth.append(f"{signed(points.min())} to {signed(points.max())} on {place}")
        binary[place] = gap_of(table[(table["head"] == "protobin") & ~table["encoder"].isin(CONTROLS)])
        steps = read(f"{name}/supervised.csv")
        usual = [label_of("linear", ENCODERS[encoder].cls, encoder) for encoder in steps["encoder"]]
        added = [steps.loc[steps["head"] == head, "gain"].mean() for head in (usual, "protobin")]
        labels.append(f"{signed(added[0])} and {signed(added[1])} on {place}")
    supervised = sum(ENCODERS[name].kind == "supervised" for name in SHIPPED)
    return (
        f"*{counted(number).capitalize()} encoders*, supervised⁺ included "
        "([notebook 09](notebooks/09_nine_encoders_one_bottleneck.ipynb)), in points: a linear probe on the mean token "
        f"against the better control, {listed(worth)}; `protobin` against `linear`, {said(binary)}. Labels add to "
        f"`linear` and to `protobin`, on the average of {counted(supervised)} supervised⁺ versions, {listed(labels)}."
    )


def more_trials(read: Read) -> str:
    """Say what the same contrasts come to where the search is longer and every head runs on every encoder."""
    full, few, name = PROFILES["pocket-full"], PROFILES["pocket"], "pocket-full"
    places = {"general": "soundscapes", "bioacoustic": "few-shot bioacoustics", "control": "single sounds"}
    binary = {place: gap_of(gains(read, name, group, "protobin")) for group, place in places.items()}
    columns = ("difference", "low", "high")
    floats, proto = (gap_of(contrast(read, name, f"protobin − {head}"), columns) for head in ("protofloat", "proto"))
    costly = {head: gap_of(gains(read, name, "general", head)) for head in COSTLY_HEADS}
    others = [f"`{head}` is {side(gap.mean)} {counts(gap)}" for head, gap in costly.items()]
    moved = [f"`{head}` by {signed(_moved(read, name, few.name, head))}" for head in ("linear", "protobin")]
    return (
        f"With {full.trials} trials and {counted(len(full.seeds))} seeds instead of {few.trials} and "
        f"{counted(len(few.seeds))}, and every head on every pretrained encoder (`PROFILE={name}`, synthetic sounds, "
        f"[`benchmark.csv`](figures/{name}/benchmark.csv)), `protobin` against `linear` is {said(binary)}; against "
        f"`protofloat` it is {side(floats.mean)} {counts(floats)}, against `proto` {side(proto.mean)} {counts(proto)}. "
        f"Against `linear` on soundscapes {listed(others)}. More trials and seeds move {listed(moved)} points there. "
        f"{_tuned_above(read, name)} {_reappearing(read, name)}"
    )


def _moved(read: Read, now: str, before: str, head: str) -> float:
    """Return by how many points a head's mean score on general audio differs between two profiles."""
    scores = [gains(read, name, "general", head).set_index(["dataset", "encoder"])["mean"] for name in (now, before)]
    return float((scores[0] - scores[1]).mean())


def _tuned_above(read: Read, profile: str) -> str:
    """Say how many of a profile's encoders, fine-tuned, score above protobin on them."""
    scores = read(f"{profile}/benchmark.csv")
    probed = scores[(scores["head"] == "protobin") & is_default(scores)]
    both = read(f"{profile}/fine_tuning.csv").merge(probed, on=["dataset", "encoder"], suffixes=("_tuned", "_probed"))
    above = int((both["mean_tuned"] > both["mean_probed"]).sum())
    who = f"{counted(above) if above else 'none'} of {counted(len(both))} encoders {'end' if above > 1 else 'ends'}"
    return f"Fine-tuned, {who} above `protobin`."


def _reappearing(read: Read, profile: str) -> str:
    verdicts = read(f"{profile}/questions.csv")["verdict"]
    return f"Of the paper's conclusions {int((verdicts == VERDICTS[0]).sum())} of {len(verdicts)} reappear."


def more_clips(read: Read) -> str:
    """Say what the heads have with 1,500 clips of ESC-10, and how much more that is than with few."""
    many, few = PROFILES["esc10-1500"], PROFILES["esc10"]
    means = []
    for profile in (many, few):
        runs = read(f"{profile.name}/results.csv")
        usual = load_dataset(many.dataset).prototypes
        runs = runs[(runs["split"] == "test") & is_default(runs) & (runs["J"].isna() | (runs["J"] == usual))]
        runs = runs[(runs["dataset"] == many.dataset) & runs["encoder"].isin(many.encoders)]
        means.append(runs.groupby(["encoder", "head"])["value"].mean())
    now, before = means
    more = (now - before).reindex(pd.MultiIndex.from_product([many.encoders, many.heads])).dropna()
    names = list(dict.fromkeys(more.index.get_level_values(0)))  # those that were run
    scores = listed([f"`{head}` has {listed([f'{now[name, head]:.1f}' for name in names])}" for head in many.heads])
    head = "With more clips these heads gain" if (more > 0).all() else "With more clips not every head gains"
    return (
        f"{head}: on {many.clips['train']:,} training clips of mixtures of ESC-10 (`PROFILE={many.name}`, "
        f"{counted(len(many.seeds))} seeds, [`results.csv`](figures/{many.name}/results.csv)), with "
        f"{listed([ENCODERS[name].label for name in names])} {scores}; that is "
        f"{signed(more.min())} to {signed(more.max())} points against {few.clips['train']} clips."
    )
