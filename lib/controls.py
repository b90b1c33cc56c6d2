"""Is it the pooling? Controls that take the comparison of protobin with linear apart.

Five parts, on several encoders and polyphonic datasets; an arm that two parts need is trained once:

- (a) the straw man: what stands for the clip in the linear probe, and what is done to it before;
- (b) mhca with and without its token norm;
- (c) what of protobin is needed: prototypes that are not trained, other poolings;
- (d) {binary, float} × {class-agnostic, class-dependent} × {no loss, orthogonality loss} from one start, and the walk
  from protofloat to proto, one change at a time. To save time all arms of (c) and (d) have a third of the dataset's J;
- (e) scores against the number of trainable parameters.

A *pair* is an encoder on a dataset. All quantities are differences of arms, computed for each pair and then averaged
over the pairs with equal weight. Their intervals are 95 %, of draws in which test clips and their sources vary, alike
for all arms and encoders of a dataset and independently from dataset to dataset, and on top the seeds, for each arm
(`lib.question_draws.with_seeds`). `lib.controls_tables` makes the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from lib.arms import Arm
from lib.comparisons import cell_draws, draw_all, final_values
from lib.data.datasets import load_dataset
from lib.encoders import load_encoder
from lib.profiles import Profile
from lib.question_draws import with_seeds
from lib.results import make_cell, read_rows

ALL = "all"  # in the place of encoder and dataset: the average over pairs
DROPOUT, TOP = 0.2, 5

# ---- what is trained ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """An arm of the study, on every pair.

    Attributes
    ----------
    name, label : str
        For files and tables, and for people.
    parts : str
        Letters of the parts that show it.
    head : str
        A key of `lib.heads.KNOWN`.
    options : dict
        Of the head.
    cls_mode, features : str
        What a head that reads one vector reads; see `lib.arms.Arm`.
    share : float
        Of the dataset's J; at least one prototype a class.
    matched : float
        Of an mlp: hidden width as a share of that at which it has as many parameters as protobin.
    """

    name: str
    label: str
    parts: str
    head: str
    options: dict = field(default_factory=dict, hash=False)
    cls_mode: str = ""
    features: str = "last"
    share: float = 1.0
    matched: float = 0.0


THIRD, FIFTH, ONE = {"share": 1 / 3}, {"share": 0.2}, {"share": 0.0}
FACTORS = (("float", "binary"), ("dependent", "agnostic"), ("orthogonal", "free"))  # the second is protobin's
SAID = {"dependent": "own prototypes", "agnostic": "shared prototypes", "orthogonal": "loss", "free": "no loss"}
FIXED = {  # label of what is read → what the arms read; each with what is done to it before
    "linear": ("[cls]", {}),
    "linear mean": ("mean token", {"cls_mode": "mean"}),
}


def _vectors() -> list[Entry]:
    """Return part (a): one vector a clip, as it is, largest values, normalised, with dropout; linpre beside them."""
    entries = []
    for name, (label, reads) in FIXED.items():
        entries += [
            Entry(name, f"linear on {label}", "ae", "linear", **reads),
            Entry(f"{name} layernorm", f"{label} with LayerNorm", "a", "vector", {"norm": "layer"}, **reads),
            Entry(f"{name} batchnorm", f"{label} with BatchNorm", "a", "linear", {"head_bn": True}, **reads),
            Entry(f"{name} dropout", f"{label} with dropout {DROPOUT}", "a", "vector", {"dropout": DROPOUT}, **reads),
        ]
    return [
        *entries,
        Entry("linear max", "linear on token-wise max", "a", "linear", features="max"),
        Entry("linpre", "linpre", "ae", "linpre"),
    ]


def _factorial() -> list[Entry]:
    """Return the eight kinds of prototypes of part (d); two of them are heads of the paper, at a third of J."""
    known = {"binary agnostic free": "protobin", "float agnostic free": "protofloat"}
    entries = []
    for levels in product(*FACTORS):
        name, label = " ".join(levels), ", ".join(SAID.get(level, level) for level in levels)
        options = {
            "binary": levels[0] == "binary",
            "class_dependent": levels[1] == "dependent",
            "orthogonality_weight": 1.0 if levels[2] == "orthogonal" else 0.0,
        }
        if name in known:
            parts = "cde" if levels[0] == "binary" else "de"
            entries.append(Entry(name, f"{known[name]}, J/3", parts, known[name], **THIRD))
        else:
            entries.append(Entry(name, label, "d", "prototypes", options, **THIRD))
    return entries


# From protofloat to proto, one change a step: what the step is called, and the arm that it leads to.
_LOSS = {"class_dependent": True, "orthogonality_weight": 1.0}
_START = _LOSS | {"ones": True}
_POSITIVE = _START | {"positive": True}
_UNIFORM = _POSITIVE | {"start": "uniform"}
WALK = {
    "each class sees its own prototypes": "float dependent free",
    "orthogonality loss": "float dependent orthogonal",
    "weights start at 1, biases at −2": "walk start",
    "weights not negative": "walk positive",
    "prototypes start at U(0, 1)": "walk uniform",
    "upstream's cosine, relu, 1/1.01": "proto third",
}
WALK_FROM = "float agnostic free"

ENTRIES = (
    *_vectors(),
    Entry("mhca", "mhca, tokens normalised (BatchNorm)", "be", "mhca"),
    Entry("mhca no norm", "mhca, tokens as they are", "b", "mhca", {"token_norm": "none"}),
    Entry("protobin", "protobin", "ce", "protobin"),
    *_factorial(),
    Entry("frozen", "random signs kept, J/3", "c", "prototypes", {"binary": True, "frozen": True}, **THIRD),
    Entry("mean", "mean over tokens, J/3", "c", "prototypes", {"binary": True, "pooling": "mean"}, **THIRD),
    Entry("topk", f"mean of the {TOP} largest, J/3", "c", "prototypes", {"binary": True, "pooling": "topk"}, **THIRD),
    Entry("walk start", "walk: start of the weights", "d", "prototypes", _START, **THIRD),
    Entry("walk positive", "walk: weights ≥ 0", "d", "prototypes", _POSITIVE, **THIRD),
    Entry("walk uniform", "walk: start of the prototypes", "d", "prototypes", _UNIFORM, **THIRD),
    Entry("proto third", "proto, J/3", "d", "proto", **THIRD),
    Entry("protobin fifth", "protobin, J/5", "e", "protobin", **FIFTH),
    Entry("protobin one", "protobin, J = 1", "e", "protobin", **ONE),
    Entry("protofloat fifth", "protofloat, J/5", "e", "protofloat", **FIFTH),
    Entry("mlp tenth", "mlp, a tenth as wide", "e", "mlp", matched=0.1),
    Entry("mlp", "mlp", "e", "mlp"),
    Entry("mlp matched", "mlp of protobin's size", "e", "mlp", matched=1.0),
    Entry("mlp mean matched", "mlp of protobin's size, mean token", "e", "mlp", cls_mode="mean", matched=1.0),
    Entry("ep few", "ep, 4 queries", "e", "ep", {"num_queries": 4}),
    Entry("ep", "ep, 32 queries", "e", "ep"),
    Entry("simpool", "simpool", "e", "simpool"),
)
LABELS = {entry.name: entry.label for entry in ENTRIES}
VECTORS = tuple(entry.name for entry in ENTRIES if "a" in entry.parts and entry.head != "linpre")
PROTOBIN_CURVE = ("protobin one", "protobin fifth", "binary agnostic free", "protobin")  # (e), by J
OTHERS = tuple(entry.name for entry in ENTRIES if "e" in entry.parts and not entry.head.startswith("proto"))


def arms(profile: Profile) -> dict[tuple[str, str, str], Arm]:
    """Return every arm of the study by encoder, dataset and name."""
    dims = {encoder: load_encoder(encoder).geometry.dim for encoder in profile.encoders}
    return {
        (encoder, dataset, entry.name): make_arm(entry, encoder, dataset, dims[encoder])
        for dataset in profile.datasets
        for encoder in profile.encoders
        for entry in ENTRIES
    }


def make_arm(entry: Entry, encoder: str, dataset: str, dim: int) -> Arm:
    """Return the arm of an entry on a pair; `dim` is the encoder's D."""
    data = load_dataset(dataset)
    count = max(1, round(entry.share * data.prototypes))
    cell = make_cell(encoder, dataset, entry.head, count, entry.cls_mode)
    options = dict(entry.options)
    if entry.matched:
        options["hidden"] = max(1, round(entry.matched * matched_width(dim, len(data.classes), data.prototypes)))
    return Arm(**vars(replace(cell, options=options)), name=entry.name, features=entry.features)


def matched_width(dim: int, classes: int, per_class: int) -> float:
    """Return the hidden width at which an mlp has as many parameters as protobin."""
    return classes * per_class * (dim + classes) / (dim + 1 + classes)  # H (D + 1 + C) + C = K (D + C) + C


# ---- what was measured -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Scores of the arms in percent, by (encoder, dataset, name of the arm).

    Attributes
    ----------
    draws : dict
        ``(1 + R,)`` test scores: as measured, then in each draw.
    sds : dict
        Standard deviation over seeds.
    validation : dict
        Mean over seeds of the validation score; arms are chosen by it, never by the test score.
    parameters, prototypes : dict
        Numbers of trainable parameters and of prototypes per class (0 for heads without any).
    """

    draws: Mapping[tuple[str, str, str], np.ndarray]
    sds: Mapping[tuple[str, str, str], float]
    validation: Mapping[tuple[str, str, str], float]
    parameters: Mapping[tuple[str, str, str], int]
    prototypes: Mapping[tuple[str, str, str], int]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs (encoder, dataset)."""
        return list(dict.fromkeys(key[:2] for key in self.draws))

    def best(self, names: Sequence[str]) -> dict[tuple[str, str], str]:
        """Return for each pair the arm that is best on validation; of equals the first."""
        return {pair: max(names, key=lambda name: self.validation[*pair, name]) for pair in self.pairs}


def measure(profile: Profile) -> Measured:
    """Read the finished arms of the study.

    Raises
    ------
    InputError
        If an arm has not been run.
    """
    every = arms(profile)
    draw_all(profile, list(every.values()))
    values = {key: final_values(profile, arm) for key, arm in every.items()}
    rows = {key: read_rows(profile, arm) for key, arm in every.items()}
    sds = {key: float(np.std(some, ddof=1)) if len(some) > 1 else 0.0 for key, some in values.items()}
    draws = {}
    for (encoder, dataset, name), arm in every.items():
        alike = [sds[other, dataset, name] for other in profile.encoders]  # of three seeds alone an sd says little
        error = np.sqrt(np.mean(np.square(alike)) / len(profile.seeds))
        place = ("controls", dataset, "", encoder, name)
        draws[encoder, dataset, name] = with_seeds(cell_draws(profile, arm), error, place)
    return Measured(
        draws,
        sds,
        {key: validation_score(some) for key, some in rows.items()},
        {key: some[0]["parameters"] for key, some in rows.items()},
        {key: int(some[0]["J"] or 0) for key, some in rows.items()},
    )


def validation_score(rows: Sequence[dict]) -> float:
    """Return the mean over seeds of the validation score that the setting of the final runs reached."""
    final = next(row for row in rows if row["split"] == "test")
    setting = final["lr"], final["weight_decay"]
    return float(
        np.mean(
            [row["value"] for row in rows if row["stage"] == "seeds" and (row["lr"], row["weight_decay"]) == setting]
        )
    )
