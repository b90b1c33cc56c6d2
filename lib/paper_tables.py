"""Tables 2 to 9 in the paper's form: ours, and the paper's own.

A cell is "mean±sd over seeds" in percent; the best head of a row is in bold and the second best in italics (in Table 7
bold marks the J of the main results), as Markdown. Ours are read from ``figures/<profile>``; they are of stand-ins, and
not to be compared with the paper's number by number.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from lib import published
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS, load_encoder
from lib.errors import InputError, unknown_name
from lib.figures import read_table
from lib.figures_style import in_order
from lib.heads import FAMILIES, build_head
from lib.paths import figure_root
from lib.profiles import PROTOTYPE_HEADS, Profile, load_profile
from lib.published import BASE, FINE_TUNING
from lib.rankings import gains_over_linear
from lib.side_by_side import DATASET_STAND_INS, ENCODER_STAND_INS, fine_tuned
from lib.store import grid_of

NUMBERS = (2, 3, 4, 5, 6, 7, 8, 9)
GROUPS = {2: "general", 4: "general", 5: "bioacoustic", 6: "control"}
GROUP_TITLES = {
    "general": "multi-label, general",
    "bioacoustic": "multi-label, bioacoustic, few shots",
    "control": "single-label",
}
SIZES = ("train", "validation", "test", "classes", "clip length (s)")
PROBES = ("linear", "mhca", "protobin", FINE_TUNING)  # Table 3
ORDER = [ENCODER_STAND_INS[name] for name in dict.fromkeys(published.table(4)["encoder"])]  # then the controls
FORMULAS = {  # exact, biases included, as Python has them; H = 2D/3, Dh = D/2, Q = 32, F = S_f, K = J*C
    "linear": "D*C + C",
    "mlp": "D*H + H + H*C + C",
    "linearc": "N*D*C + C",
    "conv": "9*D*Dh + Dh + Dh*C + C",
    "linpre": "F*D*C + C",
    "mhca": "2*D**2 + D + D*C + C",
    "ep": "D**2 + Q*D + D*C + C",
    "simpool": "2*D**2 + 2*D + D*C + C",
    "abmilp": "5*D**2 + 3*D + 1 + D*C + C",
    "proto": "K*D + K + C",
    "protobin": "K*D + K*C + C",
    "protofloat": "K*D + K*C + C",
}
PAPER_SHAPE = (64, 8), 768, 10, 20  # of Table 9: grid, D, C, J
NOTHING = "–"


def paper_table(number: int, profile_name: str) -> pd.DataFrame:
    """Return one of our tables in the paper's form.

    Parameters
    ----------
    number : int
        2 to 9, as in the paper. Tables 4 to 6 hold all encoders, the controls last; Table 2 those of the main text.
    profile_name : str
        The profile whose last results are read (``figures/<profile>``).

    Returns
    -------
    pandas.DataFrame
        Text. Tables 2, 4, 5 and 6: a row a (dataset, encoder), a column a head in the paper's order. Table 3: a row an
        encoder, a column a (dataset, head). Table 7: a row an (encoder, head), a column a (dataset, J). Table 8: a row
        a dataset. Table 9: a row a head. What was not run is "–"; without rows if the profile has no such dataset.

    Raises
    ------
    InputError
        If there is no such table, or the profile is unknown or was never run.
    """
    _check(number)
    profile = load_profile(profile_name)
    if number in (8, 9):
        return _datasets(profile) if number == 8 else _parameters(profile)
    if number == 7:
        rows = _prototype_counts(profile)
        usual = {name: load_dataset(name).prototypes for name in dict.fromkeys(rows["dataset"])}
        return by_count(named(rows), {_title(name): count for name, count in usual.items()}, (1, 1))
    if number == 3:
        return by_encoder(named(_single_and_many(profile)), (1, 1))
    return by_head(named(_group(profile, number)), (1, 1))


def published_table(number: int) -> pd.DataFrame:
    """Return a table of the paper in the form of `paper_table`, its numbers to the last digit.

    Table 9 has a column more: what our heads count at the paper's shape.

    Raises
    ------
    InputError
        If there is no such table.
    """
    _check(number)
    if number in (8, 9):
        return _published_datasets() if number == 8 else _published_parameters()
    rows = published.table(number).rename(columns={"std": "sd"})
    if number == 7:
        return by_count(
            rows, {name: published.main_prototypes(name) for name in dict.fromkeys(rows["dataset"])}, (2, 2)
        )
    return by_encoder(rows, (1, 1)) if number == 3 else by_head(rows, (2, 1 if number == 2 else 2))


def further_table(profile_name: str) -> pd.DataFrame:
    """Return what was run and has no place in the paper's tables: linear on the mean token; all kinds of prototypes.

    In the form of Table 4, over all datasets; beside them linear as it is by default.
    """
    profile = load_profile(profile_name)
    rows = _benchmark(profile)
    on_mean = ~_is_default(rows)
    rows["head"] = rows["head"].where(~on_mean, "linear, mean token")
    columns = ["linear", "linear, mean token", "proto", "protofloat", "protobin"]
    rows = named(rows[rows["head"].isin(columns)])
    return spread(rows, _texts(rows, (1, 1)), ["dataset", "encoder"], "head", columns)


def average_gains(number: int, profile_name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the points of each head above linear, averaged over datasets and base encoders: the paper's, and ours.

    Parameters
    ----------
    number : int
        2, 5 or 6.
    profile_name : str
        The profile.

    Returns
    -------
    tuple of pandas.DataFrame
        ``head, gain``; ours without rows if the profile has no such dataset.
    """
    ours = _group(load_profile(profile_name), number)
    ours = ours[ours["encoder"].map(lambda name: ENCODERS[name].kind) == "base"]  # none where there is no such group
    both = [gains_over_linear(means) for means in (published.means(number, BASE), ours)]
    return tuple(gains.groupby("head", sort=False)["gain"].mean().reset_index() for gains in both)


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown; the first of two index levels is written once for all its rows."""
    if table.empty:
        return "*This profile has no dataset for this table.*"
    levels = table.index.nlevels
    columns = ["<br>".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in table.columns]
    lines = ["| " + " | ".join([*map(str, table.index.names), *columns]) + " |", "|---" * (levels + len(columns)) + "|"]
    before = None
    for index, row in zip(table.index, table.itertuples(index=False), strict=True):
        names = list(index) if levels > 1 else [index]
        shown = ["" if levels > 1 and names[0] == before else names[0], *names[1:]]
        lines.append("| " + " | ".join(map(str, [*shown, *row])) + " |")
        before = names[0]
    return "\n".join(lines)


def _check(number: int) -> None:
    if number not in NUMBERS:
        raise unknown_name("table in the paper's form", str(number), [str(known) for known in NUMBERS])


# ---- rows of results -----------------------------------------------------------------------------------------------


def _benchmark(profile: Profile) -> pd.DataFrame:
    """Return a profile's comparison, dataset by dataset with the encoders in the paper's order, the controls last."""
    rows = read_table(figure_root() / profile.name / "benchmark.csv")
    if not set(rows["dataset"]) <= set(profile.datasets) or not set(rows["encoder"]) <= set(profile.encoders):
        raise InputError(
            f"The table 'benchmark.csv' of profile '{profile.name}' is of other datasets or encoders than the profile "
            f"has now; run `make figures PROFILE={profile.name}`."
        )
    encoders = [*ORDER, *(name for name in profile.encoders if name not in ORDER)]
    places = [rows["dataset"].map(profile.datasets.index), rows["encoder"].map(encoders.index)]
    return rows.iloc[np.lexsort(places[::-1])].reset_index(drop=True)  # stable: heads stay in their order


def _is_default(rows: pd.DataFrame) -> pd.Series:
    return rows["cls_mode"] == rows["encoder"].map({name: entry.cls for name, entry in ENCODERS.items()})


def _is_base(rows: pd.DataFrame) -> pd.Series:
    return rows["encoder"].map({name: entry.kind for name, entry in ENCODERS.items()}) == "base"


def _group(profile: Profile, number: int) -> pd.DataFrame:
    """Return the rows of Table 2, 4, 5 or 6."""
    rows = _benchmark(profile)
    compared = {
        (dataset, head)
        for group in profile.groups
        for dataset in group.datasets
        for head in group.heads
        if group.name == GROUPS[number]
    }
    rows = rows[_is_default(rows)]
    rows = rows[[pair in compared for pair in zip(rows["dataset"], rows["head"], strict=True)]]
    return rows[_is_base(rows)] if number == 2 else rows


def _single_and_many(profile: Profile) -> pd.DataFrame:
    """Return the rows of Table 3: single-label datasets, then the many-class one, three heads and fine-tuning."""
    single, many = _group(profile, 6), _group(profile, 2)
    rows = pd.concat(
        [single[_is_base(single)], many[many["dataset"] == profile.dataset], fine_tuned(profile)], ignore_index=True
    )
    return rows[rows["head"].isin(PROBES)]


def _prototype_counts(profile: Profile) -> pd.DataFrame:
    """Return the rows of Table 7: the J ablation, with linear as the baseline."""
    if not profile.ablation_encoders:
        return _benchmark(profile).iloc[:0]
    counts, rows = read_table(figure_root() / profile.name / "prototype_counts.csv"), _benchmark(profile)
    pairs = set(zip(counts["dataset"], counts["encoder"], strict=True))
    linear = rows[(rows["head"] == "linear") & _is_default(rows)]
    same = [pair in pairs for pair in zip(linear["dataset"], linear["encoder"], strict=True)]
    return pd.concat([counts, linear[same]], ignore_index=True)


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """Call our datasets and encoders by what a reader knows them by."""
    labels = {name: entry.label for name, entry in ENCODERS.items()}
    return rows.assign(dataset=rows["dataset"].map(_title), encoder=rows["encoder"].map(labels))


def _title(dataset: str) -> str:
    return load_dataset(dataset).manifest["title"]


# ---- forms ---------------------------------------------------------------------------------------------------------


def by_head(rows: pd.DataFrame, digits: tuple[int, int]) -> pd.DataFrame:
    """Return the form of Tables 2, 4, 5 and 6: a row a (dataset, encoder), a column a head.

    Parameters
    ----------
    rows : pandas.DataFrame
        ``dataset, encoder, head, mean, sd``, a row a cell, in the order in which they are to stand.
    digits : tuple of int
        After the point, of mean and sd.
    """
    texts = mark_best(rows, _texts(rows, digits), digits[0])
    return spread(rows, texts, ["dataset", "encoder"], "head", in_order(rows["head"]))


def by_encoder(rows: pd.DataFrame, digits: tuple[int, int]) -> pd.DataFrame:
    """Return the form of Table 3: a row an encoder, a column a (dataset, head); fine-tuning is no probe."""
    probes = rows["head"] != FINE_TUNING
    texts = _texts(rows, digits)
    texts[probes] = mark_best(rows[probes], texts[probes], digits[0])
    columns = [(dataset, head) for dataset in dict.fromkeys(rows["dataset"]) for head in PROBES]
    return spread(rows, texts, ["encoder"], ["dataset", "head"], columns)


def by_count(rows: pd.DataFrame, usual: Mapping[str, int], digits: tuple[int, int]) -> pd.DataFrame:
    """Return the form of Table 7: a row an (encoder, head), a column a (dataset, J).

    Bold marks the J of the main results, `usual` by dataset, where linear, which has none, stands too.
    """
    main = rows["dataset"].map(usual)
    rows = rows.assign(J=rows["J"].fillna(main).astype(int))
    texts = _texts(rows, digits)
    bold = (rows["J"] == main) & (rows["head"] != "linear")
    texts = texts.where(~bold, "**" + texts + "**")
    columns = sorted(set(zip(rows["dataset"], rows["J"], strict=True)), key=lambda c: (list(usual).index(c[0]), c[1]))
    table = spread(rows, texts, ["encoder", "head"], ["dataset", "J"], columns)
    table.columns = [f"{dataset}<br>J = {count}" for dataset, count in columns]
    return table.replace(NOTHING, "")


def mark_best(rows: pd.DataFrame, texts: pd.Series, digits: int) -> pd.Series:
    """Put the best head of each (dataset, encoder) in bold, the second best in italics; what reads alike is alike."""
    means = rows["mean"].round(digits)
    places = means.groupby([rows["dataset"], rows["encoder"]]).rank(method="dense", ascending=False)
    marks = places.map({1.0: "**", 2.0: "*"}).fillna("")
    return marks + texts + marks


def spread(
    rows: pd.DataFrame, texts: pd.Series, index: Sequence[str], columns: str | Sequence[str], order: Sequence
) -> pd.DataFrame:
    """Return the texts of the rows as a table, the index in order of appearance; "–" where there is no row."""
    if rows.empty:
        return pd.DataFrame(columns=pd.Index(order))
    table = rows.assign(text=texts).pivot(index=list(index), columns=columns, values="text")
    seen = list(dict.fromkeys(zip(*(rows[name] for name in index), strict=True)))
    table = table.reindex(index=seen if len(index) > 1 else [name for (name,) in seen], columns=order)
    return table.astype(object).fillna(NOTHING)


def _texts(rows: pd.DataFrame, digits: tuple[int, int]) -> pd.Series:
    pairs = zip(rows["mean"], rows["sd"], strict=True)
    texts = [f"{mean:.{digits[0]}f}" + ("" if np.isnan(sd) else f"±{sd:.{digits[1]}f}") for mean, sd in pairs]
    return pd.Series(texts, rows.index, dtype=object)


# ---- Tables 8 and 9 ------------------------------------------------------------------------------------------------


def _datasets(profile: Profile) -> pd.DataFrame:
    stands_for = {ours: theirs for theirs, many in DATASET_STAND_INS.items() for ours in many}
    rows = []
    for group in profile.groups:
        for name in group.datasets:
            data, clips = load_dataset(name), profile.clips_of(name)
            sizes = (clips["train"], clips["val"], clips["test"], len(data.classes), f"{data.recipe.seconds:g}")
            rows.append((GROUP_TITLES[group.name], data.manifest["title"], *sizes, stands_for.get(name, NOTHING)))
    columns = ["group", "dataset", *SIZES, "made in the manner of"]
    return pd.DataFrame(rows, columns=columns).astype(str).set_index(["group", "dataset"])


def _published_datasets() -> pd.DataFrame:
    rows = published.table(8)
    rows["group"] = rows["group"].replace({"multi-class": "control"}).map(GROUP_TITLES)
    rows = rows.rename(columns={"clip_seconds": "clip length (s)"}).set_index(["group", "dataset"])[list(SIZES)]
    return rows.map(lambda value: NOTHING if pd.isna(value) else f"{value:,.0f}")


def _parameters(profile: Profile) -> pd.DataFrame:
    module, data = load_encoder(profile.shown), load_dataset(profile.dataset)
    grid = grid_of(module, data)
    N, D, C, J = math.prod(grid), module.geometry.dim, len(data.classes), data.prototypes
    heads = in_order({*profile.heads, *PROTOTYPE_HEADS})
    rows = [(head, FAMILIES[head], formula(head), f"{count(head, grid, D, C, J):,}") for head in heads]
    columns = ["head", "family", "formula", f"here (N = {N}, D = {D}, C = {C}, J = {J})"]
    return pd.DataFrame(rows, columns=columns).set_index("head")


def _published_parameters() -> pd.DataFrame:
    rows = published.table(9)
    rows["counted"] = [f"{count(head, *PAPER_SHAPE):,}" for head in rows["head"]]
    columns = {"printed": "printed (urban)", "counted": "our head at that shape"}
    return rows.rename(columns=columns).set_index("head")[["input", "formula", *columns.values()]]


def formula(head: str) -> str:
    """Return the exact parameter count of a head as a formula, biases included; a dash where none is written down."""
    return FORMULAS.get(head, "–").replace("**2", "²").replace("*", " ").replace("Dh", "D_h")


@cache
def count(head: str, grid: tuple[int, int], dim: int, classes: int, prototypes: int) -> int:
    """Return the parameters of a head at a shape, counted in the module."""
    built = build_head(head, dim, classes, grid, prototypes)
    return sum(parameter.numel() for parameter in built.parameters())
