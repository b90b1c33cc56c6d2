"""Beyond the last layer: CGP on all blocks of an encoder, against protobin on its last layer and on each single one.

"last" is the last block's output after the encoder's final norm, which all other pages read; "block 1" to "block 6"
are the outputs of the blocks before that norm. Scores, differences and gates are tidy tables; the words are made of
the tables alone.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.arms import Arm
from lib.comparisons import cell_draws, draw_all, final_values
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.encoders.pocket import GEOMETRIES
from lib.figures import read_table, write_table
from lib.layer_store import build_layers
from lib.metrics import Draws, compare_draws, draws_interval
from lib.paths import figure_root
from lib.profiles import Profile, load_profile
from lib.results import Versions, make_cell, read_cell, read_rows, run_cells, why_stale
from lib.tables import note

AVERAGE = "average"  # stands for an encoder: the mean over all of the study
BEST = "best block"  # stands for the block on which the head is best on the validation clips
BARS = "intervals: 95 % bootstrap over test clips and their sources, the same draws for all"
CONTRASTS = {  # what is asked → the arms of the difference; the middle three add up to the first
    "CGP − protobin": ("cgp", "protobin last"),
    "CGP's own differences": ("cgp last", "protobin last"),
    "without the final norm": ("cgp block 6", "cgp last"),
    "the other blocks": ("cgp", "cgp block 6"),
    "the best block, protobin": (f"protobin {BEST}", "protobin last"),
    "the best block, linear": (f"linear {BEST}", "linear last"),
    "the plain mean of blocks": ("protobin mean", "protobin last"),
}

# ---- what is trained ---------------------------------------------------------------------------------------------


def layer_arms(dataset: str, encoder: str) -> list[Arm]:
    """Return the arms on one encoder and dataset: each name says head and layer."""
    depth = GEOMETRIES[encoder].depth
    blocks = [(f"block {block + 1}", f"layer-{block}") for block in range(depth)]
    found = [
        _arm(encoder, dataset, head, layer, features)
        for head in ("linear", "protobin")
        for layer, features in [*blocks, ("last", "last")]
    ]
    found.append(_arm(encoder, dataset, "protobin", "mean", "layers-mean"))
    found += [_arm(encoder, dataset, "cgp", layer, features) for layer, features in (blocks[-1], ("last", "last"))]
    return [*found, _arm(encoder, dataset, "cgp", "", "layers", layers=depth)]


def _arm(encoder: str, dataset: str, head: str, layer: str, features: str, **options: int) -> Arm:
    name = f"{head} {layer}".strip()
    return Arm(**vars(make_cell(encoder, dataset, head)) | {"name": name, "features": features, "options": options})


def all_arms(profile: Profile) -> list[Arm]:
    """Return every arm of the study."""
    return [arm for dataset in profile.datasets for name in profile.encoders for arm in layer_arms(dataset, name)]


def run_layers(profile_name: str, workers: int | None = None, show: bool = True) -> list[str]:
    """Store the layers that arms to be run will read, run those arms; return their keys."""
    profile = load_profile(f"{profile_name}/layers")
    arms, versions = all_arms(profile), Versions(profile)
    stale = [arm for arm in arms if arm.features != "last" and why_stale(profile, arm, versions.of(arm))]
    for dataset in dict.fromkeys(arm.dataset for arm in stale):
        encoders = sorted({arm.encoder for arm in stale if arm.dataset == dataset})
        for line in build_layers(encoders, dataset, profile.clips_of(dataset), workers):
            if show:
                print(line)
    return run_cells(profile.name, arms, workers, show)


def store_sizes(profile: Profile) -> pd.DataFrame:
    """Return what the stores of a study take: megabytes an encoder for the last layer, and for all blocks."""
    rows = []
    for dataset in profile.datasets:
        clips = sum(profile.clips_of(dataset).values())
        for encoder in profile.encoders:
            shape = GEOMETRIES[encoder]
            megabytes = clips * (shape.grid[0] * shape.grid[1] + 1) * shape.dim * 2 / 1e6  # tokens and cls, two bytes
            rows.append((dataset, ENCODERS[encoder].label, clips, megabytes, shape.depth * megabytes))
    table = pd.DataFrame(rows, columns=["dataset", "encoder", "clips", "last layer, MB", "all blocks, MB"])
    table.loc[len(table)] = ["", "together", table["clips"].max(), *table.iloc[:, 3:].sum()]
    return table.round(1)


# ---- tables ------------------------------------------------------------------------------------------------------


def layer_scores(profile: Profile) -> pd.DataFrame:
    """Return every arm's test score and its gain over protobin on the last layer, for each encoder and on average.

    Columns: ``dataset, encoder, arm, head, metric, layer, validation, mean, sd, low, high, gain, gain_low, gain_high,
    n_seeds``; scores in percent. ``layer`` is "1" to "6", "last", "mean" (of the blocks) or "all".
    """
    rows = []
    for dataset, encoder, arms in _groups(profile):
        last = _average(profile, arms["protobin last"])
        for name, group in arms.items():
            drawn, values = _average(profile, group), np.mean([final_values(profile, arm) for arm in group], axis=0)
            found, gain = draws_interval(drawn), compare_draws(drawn, last)
            row = {
                "dataset": dataset,
                "encoder": encoder,
                "arm": name,
                "head": group[0].head,
                "metric": group[0].metric,
            }
            row["layer"] = name.removeprefix(group[0].head).replace("block", "").strip() or "all"
            row["validation"] = np.mean([validation(profile, arm) for arm in group])
            row |= {"mean": np.mean(values), "sd": np.std(values, ddof=1)}
            row |= {"low": 100 * found.low, "high": 100 * found.high, "gain": 100 * gain.difference}
            row |= {"gain_low": 100 * gain.low, "gain_high": 100 * gain.high, "n_seeds": len(values)}
            rows.append(row)
    return pd.DataFrame(rows)


def layer_contrasts(profile: Profile) -> pd.DataFrame:
    """Return the paired differences of `CONTRASTS`, for each encoder and on average, in points.

    Columns: ``contrast, dataset, encoder, chosen, difference, low, high``; `chosen` is the best block, where one is
    chosen for an encoder.
    """
    rows = []
    for dataset, encoder, arms in _groups(profile):
        for contrast, names in CONTRASTS.items():
            sides, chosen = [], ""
            for name in names:
                group = arms.get(name)
                if group is None:  # the best block differs from encoder to encoder
                    members = range(len(arms["protobin last"]))
                    picked = [best_block(profile, name.removesuffix(f" {BEST}"), arms, at) for at in members]
                    group, chosen = [arm for arm, _ in picked], str(picked[0][1]) if encoder != AVERAGE else ""
                sides.append(_average(profile, group))
            found = compare_draws(*sides)
            difference = (100 * found.difference, 100 * found.low, 100 * found.high)
            rows.append((contrast, dataset, encoder, chosen, *difference))
    return pd.DataFrame(rows, columns=["contrast", "dataset", "encoder", "chosen", "difference", "low", "high"])


def best_block(profile: Profile, head: str, arms: dict[str, list[Arm]], at: int) -> tuple[Arm, int]:
    """Return the arm, and the number from 1, of the block on which a head scores best on validation clips.

    `at` is the encoder's place in the groups of `arms`. The test clips have no say in it.
    """
    single = [group[at] for name, group in arms.items() if name.startswith(f"{head} block")]
    values = [validation(profile, arm) for arm in single]
    return single[int(np.argmax(values))], int(np.argmax(values)) + 1


def layer_gates(profile: Profile) -> pd.DataFrame:
    """Return the trained gate weights α of CGP's first seed: ``dataset, encoder, block, gate``, and their average."""
    rows = []
    for dataset, encoder, arms in _groups(profile):
        gates = np.mean([read_cell(profile, arm).weights["gate"].softmax(0).numpy() for arm in arms["cgp"]], axis=0)
        rows += [(dataset, encoder, block, gate) for block, gate in enumerate(gates.tolist(), start=1)]
    return pd.DataFrame(rows, columns=["dataset", "encoder", "block", "gate"])


def write_layers(profile_name: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Write scores, contrasts and gates into ``figures/<profile>/`` and return the three tables as they read back."""
    profile = load_profile(f"{profile_name}/layers")
    draw_all(profile, all_arms(profile))
    folder, base, tables = figure_root() / profile_name, load_profile(profile_name), []
    for name, make, bars in (
        ("layers", layer_scores, BARS),
        ("layer_contrasts", layer_contrasts, BARS),
        ("layer_gates", layer_gates, "gate weights of the first seed's head"),
    ):
        write_table(folder / f"{name}.csv", make(profile), note(base, bars))
        tables.append(read_table(folder / f"{name}.csv"))
    return tables[0], tables[1], tables[2]


def _groups(profile: Profile) -> list[tuple[str, str, dict[str, list[Arm]]]]:
    """Return dataset, encoder, and arms by name, one of each name; and before these, of all encoders as the average."""
    found = []
    for dataset in profile.datasets:
        each = {name: {arm.name: [arm] for arm in layer_arms(dataset, name)} for name in profile.encoders}
        names = next(iter(each.values()))
        together = {name: [arm for arms in each.values() for arm in arms[name]] for name in names}
        found += [(dataset, AVERAGE, together), *((dataset, name, arms) for name, arms in each.items())]
    return found


def _average(profile: Profile, arms: Sequence[Arm]) -> Draws:
    """Return the mean metric of some arms on one dataset, as measured and in each draw, which all of them share."""
    drawn = [cell_draws(profile, arm) for arm in arms]
    return Draws(float(np.mean([one.value for one in drawn])), np.mean([one.drawn for one in drawn], axis=0))


def validation(profile: Profile, arm: Arm) -> float:
    """Return the mean validation score over seeds of the setting that was tested, in percent."""
    rows = read_rows(profile, arm)
    tested = next((row["lr"], row["weight_decay"]) for row in rows if row["stage"] == "final")
    seeds = [row for row in rows if row["stage"] == "seeds" and (row["lr"], row["weight_decay"]) == tested]
    return float(np.mean([row["value"] for row in seeds]))


# ---- words -------------------------------------------------------------------------------------------------------


def in_words(scores: pd.DataFrame, contrasts: pd.DataFrame, gates: pd.DataFrame) -> list[str]:
    """Say in sentences what the tables of one dataset hold, by the rule of notebook 18; every number is theirs."""
    average = contrasts[contrasts["encoder"] == AVERAGE].set_index("contrast")
    single = contrasts[contrasts["encoder"] != AVERAGE]
    count = single["encoder"].nunique()
    metric = load_dataset(contrasts["dataset"].iloc[0]).manifest["metric"]

    def points(contrast: str) -> str:
        row = average.loc[contrast]
        return f"{row['difference']:+.1f} points [{row['low']:+.1f}, {row['high']:+.1f}]"

    def each(contrast: str) -> str:
        part = single[single["contrast"] == contrast]
        return f"clearly above in {(part['low'] > 0).sum()} and clearly below in {(part['high'] < 0).sum()} of {count}"

    parts = list(CONTRASTS)
    return [
        f"**CGP against protobin on the last layer**, averaged over {count} encoders, in {metric}: {points(parts[0])}. "
        f"{_judged(average.loc[parts[0]], 'CGP', 'protobin')} Encoder by encoder it is {each(parts[0])}.",
        f"**Taken apart**, in three steps that add up to this: what CGP does differently on the same last layer, "
        f"{points(parts[1])}; the last block before the final norm instead of after it, {points(parts[2])}; the "
        f"other blocks, {points(parts[3])}. {_judged(average.loc[parts[3]], 'CGP with them', 'CGP without them')}",
        f"**One other layer instead of the last**: protobin on the block that validation prefers, {points(parts[4])} "
        f"against the last layer; {each(parts[4])}. {_preferred(single, parts[4])} Linear, on a block "
        f"chosen for it in the same way: {points(parts[5])}; {each(parts[5])}.",
        f"**The plain mean of all blocks**, no gate learned: protobin, {points(parts[6])} against the last layer; "
        f"{each(parts[6])}.",
        _by_block(scores),
        _gates(gates, single[single["contrast"] == parts[4]]),
    ]


def _judged(row: pd.Series, first: str, second: str) -> str:
    """Say who is better, if the interval tells."""
    if row["low"] > 0:
        return f"{first} is clearly better."
    if row["high"] < 0:
        return f"{first} is clearly worse."
    return f"The interval holds zero: {first} and {second} cannot be told apart here."


def _preferred(single: pd.DataFrame, contrast: str) -> str:
    """Say how often each block is the one that validation prefers."""
    chosen = Counter(single.loc[single["contrast"] == contrast, "chosen"].astype(int))
    return "The choice: " + ", ".join(f"block {block} for {chosen[block]}" for block in sorted(chosen)) + " of them."


def _by_block(scores: pd.DataFrame) -> str:
    """Say how protobin's and linear's average score changes from block to block."""
    said = []
    for head in ("protobin", "linear"):
        part = scores[(scores["encoder"] == AVERAGE) & (scores["head"] == head) & (scores["layer"] != "mean")]
        mean = part.set_index(part["layer"].astype(str))["mean"]
        blocks = mean.drop("last")
        said.append(
            f"{head} has {blocks.iloc[0]:.1f} on block 1, {blocks.iloc[-1]:.1f} on block {blocks.index[-1]} and "
            f"{mean['last']:.1f} on last; its best single block is {blocks.idxmax()} with {blocks.max():.1f}"
        )
    return f"**Block by block**, on average: {'; '.join(said)}."


def _gates(gates: pd.DataFrame, preferred: pd.DataFrame) -> str:
    """Say how far CGP's gates went from where they started, and whether they went to the best block."""
    single, mean = gates[gates["encoder"] != AVERAGE], gates[gates["encoder"] == AVERAGE].set_index("block")["gate"]
    top, low = single.loc[single["gate"].idxmax()], single.loc[single["gate"].idxmin()]
    strongest = single.loc[single.groupby("encoder")["gate"].idxmax()].set_index("encoder")["block"]
    chosen = preferred.set_index("encoder")["chosen"].astype(int)
    agree = int((strongest == chosen.reindex(strongest.index)).sum())
    return (
        f"**The gates** start at {1 / len(mean):.0%} each. The largest in the end is {top['gate']:.0%} (block "
        f"{top['block']} of {ENCODERS[top['encoder']].label}), the smallest {low['gate']:.0%} (block {low['block']} of "
        f"{ENCODERS[low['encoder']].label}); on average over encoders they go from {mean.min():.0%} (block "
        f"{mean.idxmin()}) to {mean.max():.0%} (block {mean.idxmax()}). In {agree} of {len(strongest)} encoders the "
        "largest gate is at the block on which protobin alone is best in validation."
    )
