"""What prototypes do while a head trains: how alike they are, how they turn, and which of them are never heard.

The final runs of finished cells (their learning rate, weight decay and seeds) are trained once more and measured after
each epoch, on the training clips; epoch 0 is the start. Symbols as in `lib.heads`: B clips, N tokens, K prototypes.

"A prototype that never wins" needs a definition, because under max pooling every prototype wins in every clip: its
largest cosine is somewhere. Here it is two questions, neither of which needs another head or a label:

- *Does it choose?* Not if its winner stands at the same place (t, f) in every clip, whatever the clip: `one_place`. At
  how many places it wins at all is `places`.
- *Is it heard?* Class c hears W_ck s_k of prototype k. What of this is the same in every clip, a bias could say;
  the rest has the standard deviation |W_ck| sd(s_k) over clips, and its largest over classes is the prototype's
  *contribution*. A prototype is `silent` if its contribution is not above one hundredth of the largest. That covers
  both ways to say nothing: no weight (in proto also a negative one, which a relu makes zero), and a score that does
  not vary (in proto also a cosine that is nowhere above zero). A small weight alone would not do: scores vary more in
  one head than in another. And as any threshold is a choice, `heard` has none: how many prototypes that contribute
  the same would be as uneven as these.

Which prototype a token is most alike to, as one would ask of a codebook, is not asked: prototypes do not compete for
tokens, all K scores go to the classifier.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.encoders import ENCODERS
from lib.engine import StackedTraining, build
from lib.engine_maxima import maxima
from lib.engine_pooling import CHUNK, Memory, Weights, pieces
from lib.errors import InputError, unknown_name
from lib.figures import read_table, write_table
from lib.files import digest, write_json
from lib.heads import HEADS, Protobin, Prototype
from lib.paths import figure_root, scratch
from lib.pooling import ClassDependent, sign
from lib.profiles import PROTOTYPE_HEADS, Profile, load_profile
from lib.provenance import code_version
from lib.results import Versions, binarisation_cells, make_cell, read_cell
from lib.search import Cell, base_run
from lib.store import Embeddings
from lib.streaming import within_memory
from lib.tables import note
from lib.train import Run

FLOOR = 0.01  # of the largest contribution: what is not above it is silent
CHANCE = "chance"  # stands for a head: what random directions, or winners drawn at random, would have
COLUMNS = ["head", "seed", "epoch", "measure", "value"]
MEASURES = {  # id → what it is called on a page
    "cosine": "mean |cosine| of two prototypes",
    "cosine_in_class": "mean |cosine| of two prototypes of one class",
    "cosine_with_start": "mean cosine of a prototype with its own start",
    "flipped": "share of signs that differ from the epoch before",
    "flipped_since_start": "share of signs that differ from the start",
    "latent": "mean |latent weight|",
    "one_place": "share of prototypes that win at one place in all clips",
    "places": "share of places at which a prototype wins in one clip or more",
    "silent": f"share of prototypes that contribute at most {FLOOR:.0%} of the largest",
    "heard": "effective number of contributing prototypes, as a share of all",
    "tokens": "tokens of a clip that win a prototype or more",
    "coverage": "share of tokens that win a prototype or more",
    "as_stored": "mean cosine with the prototypes that the finished cell kept",  # a row a head: first seed, last epoch
}

# ---- measures of prototypes --------------------------------------------------------------------------------------


def mean_abs_cosine(prototypes: Tensor) -> float:
    """Return how alike prototypes are: the mean |cosine| over all pairs of two different ones.

    It is 0 if all are orthogonal, 1 if all lie on one line, and about √(2/πD) for random directions, also for
    random signs.

    Parameters
    ----------
    prototypes : torch.Tensor
        ``(K, D)``, of any length.

    Raises
    ------
    InputError
        If there are fewer than two.
    """
    if len(prototypes) < 2:
        raise InputError(f"A mean over pairs needs two prototypes or more, and there is {len(prototypes)}.")
    unit = F.normalize(prototypes.double(), dim=-1)  # (K, D)
    every = sum((rows @ unit.T).abs().sum() for rows in unit.split(512))  # blocks of (K, K), which is never held whole
    return ((every - unit.square().sum()) / (len(unit) * (len(unit) - 1))).item()  # without those with themselves


def directions(prototypes: Tensor, binary: bool) -> Tensor:
    """Return prototypes (K, D) or (C, J, D) as tokens meet them but for their length: signs or themselves, (K, D)."""
    rows = prototypes.detach().flatten(0, -2)  # (K, D), or (C, J, D) → (K, D)
    return sign(rows) if binary else rows


def likeness(head: Prototype) -> dict[str, float]:
    """Measure how alike a head's prototypes are, and the size of protobin's latent weights."""
    found = {"cosine": mean_abs_cosine(directions(head.prototypes, isinstance(head, Protobin)))}
    if head.prototypes.ndim == 3 and head.prototypes.shape[1] > 1:  # proto: classes have prototypes of their own
        of_classes = [mean_abs_cosine(own) for own in head.prototypes.detach()]  # (J, D) each
        found["cosine_in_class"] = sum(of_classes) / len(of_classes)
    if isinstance(head, Protobin):
        found["latent"] = head.prototypes.detach().double().abs().mean().item()
    return found


def movement(now: Tensor, start: Tensor, before: Tensor | None, binary: bool) -> dict[str, float]:
    """Measure how far prototypes have turned.

    Parameters
    ----------
    now, start : torch.Tensor
        Directions ``(K, D)`` now and at epoch 0.
    before : torch.Tensor, optional
        Those of the epoch before; None at epoch 0. A sign that flips and flips back in between has not flipped.
    binary : bool
        Whether they are signs, so that flips can be counted.
    """
    found = {"cosine_with_start": _mean_cosine(now, start)}
    if binary:
        found["flipped_since_start"] = (now != start).double().mean().item()
    if binary and before is not None:
        found["flipped"] = (now != before).double().mean().item()
    return found


def _mean_cosine(some: Tensor, others: Tensor) -> float:
    return F.cosine_similarity(some.double(), others.double(), dim=-1).mean().item()


# ---- measures of what wins ---------------------------------------------------------------------------------------


class Winners(NamedTuple):
    """What one head's prototypes find in all clips.

    Attributes
    ----------
    sd : torch.Tensor
        Standard deviation of each pooled score over clips, float64 ``(K,)``.
    places : torch.Tensor
        At how many of the N places each prototype wins in one clip or more, ``(K,)``.
    tokens : float
        How many tokens of a clip win a prototype or more, mean over clips.
    length : int
        N.
    """

    sd: Tensor
    places: Tensor
    tokens: float
    length: int


@torch.inference_mode()
def winners(heads: Sequence[Prototype], data: Embeddings) -> list[Winners]:
    """Find what the prototypes of some runs of one head win in all clips; they share one pass over the tokens.

    Parameters
    ----------
    heads : sequence of Prototype
        R heads, alike but for their weights.
    data : Embeddings
        The clips.
    """
    unit = torch.cat([head.unit_prototypes() for head in heads])  # (R·K, D)
    length = math.prod(heads[0].map_grid)
    wins_at = torch.zeros(len(unit), length, dtype=torch.bool)  # (R·K, N)
    first, sums, squares, tokens, memory = None, 0.0, 0.0, 0.0, Memory()
    for some in pieces(len(data), CHUNK):
        unit_tokens = heads[0].unit_tokens(data.tokens[some].float(), data.cls[some])  # (b, N, D)
        values, places = maxima(unit, unit_tokens, unit_tokens.dtype, memory)  # (b, R·K) each
        scores = heads[0].activate(values).double()  # (b, R·K)
        first = scores[0] if first is None else first  # taken away, so that scores that never vary have exactly no sd
        sums, squares = sums + (scores - first).sum(0), squares + (scores - first).square().sum(0)
        wins_at.scatter_(1, places.T, True)
        own = places.unflatten(1, (len(heads), -1))  # (b, R·K) → (b, R, K)
        tokens = tokens + torch.zeros(*own.shape[:2], length).scatter_(2, own, 1.0).sum((0, 2))  # (R,)
    sd = (squares / len(data) - (sums / len(data)).square()).clamp_min(0).sqrt()  # (R·K,)
    parts = sd.chunk(len(heads)), wins_at.sum(1).chunk(len(heads)), (tokens / len(data)).tolist()
    return [Winners(*part, length) for part in zip(*parts, strict=True)]


def contributions(head: Prototype, sd: Tensor) -> Tensor:
    """Return by how much each prototype moves the logit that it moves most: max_c |W_ck| · sd(s_k), ``(K,)``.

    Parameters
    ----------
    head : Prototype
        Its classifier holds W.
    sd : torch.Tensor
        Standard deviation of each pooled score over clips, ``(K,)``.
    """
    weight = head.classifier.weight.detach().double()  # (C, K), or (C, J) where a class hears its own alone
    own = isinstance(head.classifier, ClassDependent)
    return sd * (weight.relu().flatten() if own else weight.abs().amax(0))  # (K,)


def effective_number(contribution: Tensor) -> float:
    """Return how many equal contributions would be as uneven as these (K,): exp of the entropy of their shares.

    A share is a square over the sum of squares, as variances are. K equal ones give K, a single one gives 1, none 0.
    The idea is that of the effective rank (Roy and Vetterli, 2007).
    """
    total = contribution.square().sum()
    if total == 0:
        return 0.0
    return torch.special.entr(contribution.square() / total).sum().exp().item()


def audibility(head: Prototype, found: Winners) -> dict[str, float]:
    """Measure which prototypes choose and which are heard, and how many tokens speak for anything."""
    contribution = contributions(head, found.sd)
    return {
        "one_place": (found.places == 1).double().mean().item(),
        "places": found.places.double().mean().item() / found.length,
        "silent": (contribution <= FLOOR * contribution.max()).double().mean().item(),
        "heard": effective_number(contribution) / len(contribution),
        "tokens": found.tokens,
        "coverage": found.tokens / found.length,
    }


# ---- trained again -----------------------------------------------------------------------------------------------


def stages(runs: Sequence[Run], data: Embeddings) -> Iterator[tuple[int, dict[int, Prototype]]]:
    """Train runs of one head; yield each epoch from 0 with the heads as they are then, by number of their run."""
    training = StackedTraining(runs, data)
    for epoch in range(runs[0].epochs + 1):
        training.advance(epoch)
        heads = {number: build(runs[number], data) for number in training.alive}
        for number, head in heads.items():
            head.load_state_dict(training.state(number))
        yield epoch, heads


def follow(runs: Sequence[Run], data: Embeddings, kept: Weights | None = None) -> list[tuple]:
    """Train runs of one head and measure their prototypes after each epoch.

    Parameters
    ----------
    runs : sequence of Run
        As for `lib.engine.StackedTraining`.
    data : Embeddings
        The training split, on which is measured too.
    kept : dict, optional
        Weights with which the first run ended before; what comes out is compared with them.

    Returns
    -------
    list of tuple
        A row a number, as in `COLUMNS`; the measure is a key of `MEASURES`.
    """
    rows, start, before, binary = [], {}, {}, issubclass(HEADS[runs[0].head], Protobin)
    for epoch, heads in stages(runs, data):
        for (number, head), won in zip(heads.items(), winners(list(heads.values()), data), strict=True):
            now = directions(head.prototypes, binary)  # (K, D)
            moved = movement(now, start.setdefault(number, now), before.get(number), binary)
            found, before[number] = likeness(head) | moved | audibility(head, won), now
            if kept and number == 0 and epoch == runs[0].epochs:
                found["as_stored"] = _mean_cosine(now, directions(kept["prototypes"], binary))
            rows += [(runs[0].head, runs[number].seed, epoch, name, value) for name, value in found.items()]
    return rows


def chance(dim: int, prototypes: int, length: int, clips: int) -> list[tuple]:
    """Return what no training has: |cosine| of random directions, √(2/πD), and winners drawn at random."""
    missed = 1 - 1 / length  # by one draw
    coverage, places = 1 - missed**prototypes, 1 - missed**clips  # of the tokens of a clip, by all prototypes; by one
    values = {"cosine": math.sqrt(2 / (math.pi * dim)), "places": places, "tokens": length * coverage}
    return [(CHANCE, None, None, name, value) for name, value in {**values, "coverage": coverage}.items()]


# ---- of a profile ------------------------------------------------------------------------------------------------


def followed_cells(profile: Profile, encoder: str = "") -> list[Cell]:
    """Return the cells that are followed: each kind of prototypes on the shown dataset and, by default, encoder.

    None that the profile does not train: a part of it may lack some kinds, and without protobin there are none.
    """
    encoder = encoder or profile.shown
    if encoder not in profile.encoders:
        raise unknown_name("encoder", encoder, list(profile.encoders))
    trained = binarisation_cells(profile)
    return [cell for cell in (make_cell(encoder, profile.dataset, head) for head in PROTOTYPE_HEADS) if cell in trained]


def final_runs(profile: Profile, cell: Cell) -> tuple[list[Run], Weights]:
    """Return the runs whose test scores are the result of a finished cell, and the weights that it kept of the first.

    Raises
    ------
    InputError
        If the cell has not been run.
    """
    result = read_cell(profile, cell)
    finals = [row for row in result.rows if row["stage"] == "final"]
    runs = [
        replace(base_run(cell, profile, row["lr"], row["weight_decay"]), seed=row["seed"], order_seed=row["order_seed"])
        for row in finals
    ]
    return runs, {name: value for name, value in result.weights.items() if not name.startswith("initial.")}


def dynamics(profile_name: str, encoder: str = "", show: bool = False) -> pd.DataFrame:
    """Follow the prototype heads of a profile on one encoder; computed once, then read from scratch while it stands.

    Parameters
    ----------
    profile_name : str
        Its cells for these heads and this encoder have been run.
    encoder : str
        An id of `lib.encoders.ENCODERS`; by default the one that the profile shows.
    show : bool
        Whether to say which head is being trained.

    Returns
    -------
    pandas.DataFrame
        Tidy, a row a number: ``head, seed, epoch, measure, value``. The rows of `follow` for each head, then those of
        `chance`, which have neither seed nor epoch.

    Raises
    ------
    InputError
        If a cell or the embeddings are missing, or the profile trains no prototypes there.
    """
    profile = load_profile(profile_name)
    cells = followed_cells(profile, encoder)
    if not cells:
        raise InputError(f"This part of profile '{profile.name}' has no protobin to follow; add it to HEADS.")
    ended = [final_runs(profile, cell) for cell in cells]
    runs = [[asdict(run) for run in of_cell] for of_cell, _ in ended]
    code = code_version("lib.prototype_dynamics")
    versions = Versions(profile)
    key = digest([[versions.of(cell) for cell in cells], runs, torch.__version__, code])
    path = scratch() / "cells" / profile.name / f"{cells[0].encoder}--{cells[0].dataset}--dynamics.json"
    rows = _stored_rows(path, key)
    if rows is None:
        rows = _follow_all(profile, cells, ended, show)
        write_json(path, {"depends": key, "rows": rows})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"seed": "Int64", "epoch": "Int64"})


def _stored_rows(path: Path, key: str) -> list[list] | None:
    """Return what was computed before, unless it is missing, damaged, or depends on something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["rows"] if content["depends"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _follow_all(profile: Profile, cells: list[Cell], ended: list[tuple[list[Run], Weights]], show: bool) -> list[tuple]:
    first, rows = cells[0], []
    data = within_memory(first, profile)("train")  # from disk, where it does not fit
    for number, (cell, (runs, kept)) in enumerate(zip(cells, ended, strict=True), start=1):
        if show:
            print(f"{number}/{len(cells)} {cell.head}", flush=True)
        rows += follow(runs, data, kept)
    (clips, length, dim), classes = data.tokens.shape, data.targets.shape[1]
    return rows + chance(dim, first.prototypes * classes, length, clips)


def write_dynamics(profile_name: str, show: bool = False) -> pd.DataFrame:
    """Write the table of `dynamics` as ``figures/<profile>/dynamics.csv`` and return it as it reads back."""
    profile = load_profile(profile_name)
    path, label = figure_root() / profile.name / "dynamics.csv", ENCODERS[profile.shown].label
    what = (
        f"{label}: the final runs once more, measured on their training clips; line: mean over seeds; band: all seeds"
    )
    write_table(path, dynamics(profile_name, show=show), note(profile, what))
    return read_table(path)
