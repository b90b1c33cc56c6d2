"""What the benchmark measures: shapes, tokens made for them, configurations, and the products that each head needs.

Symbols as in `lib.heads`: B clips, N = S_t·S_f patch tokens, D token dimension, C classes, J prototypes per class,
K = J·C prototypes in all, R configurations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lib.data.datasets import load_dataset
from lib.encoders.pocket import POCKET
from lib.engine_pooling import pieces
from lib.heads import FAMILIES, HEADS
from lib.profiles import LR_RANGES, PROFILES, WEIGHT_DECAY_RANGE, Profile
from lib.search import tpe_batches
from lib.store import Embeddings
from lib.train import Run

# What is promised of the engine against the textbook loop: "at least so many times as fast", by kind of products, ...
GOALS: dict[str, dict[str, float]] = {
    "linear": {"float32": 4},
    "mlp": {"float32": 4},
    "mhca": {"float32": 4},
    "ep": {"float32": 4, "bfloat16": 4},
    "protobin": {"float32": 3},
}
MATRIX_UNIT_GOALS: dict[str, dict[str, float]] = {"protobin": {"bfloat16": 8}}  # ... and with matrix units besides
# What the engine makes run after run anyway; so a few configurations are timed at a large shape, and not all.
RUN_AFTER_RUN = ("conv", "abmilp")


@dataclass(frozen=True)
class Shape:
    """A cell's sizes.

    Attributes
    ----------
    name : str
        What tables call it.
    grid : tuple of int
        (S_t, S_f); N is their product.
    dim, classes, per_class : int
        D, C and J.
    clips, val_clips, batch_size : int
        Of the training split, of the validation split where there is one, and of a step.
    configurations : int
        R, where they are all trained at once.
    whole_epoch : int
        Clips of the epoch to which single steps are scaled, where they are.
    """

    name: str
    grid: tuple[int, int]
    dim: int
    classes: int
    per_class: int
    clips: int
    val_clips: int
    batch_size: int
    configurations: int
    whole_epoch: int = 0

    @property
    def tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Plan:
    """Everything that a run of the benchmark sets.

    Attributes
    ----------
    profile, reference : Profile
        Their trials, rungs, seeds and epochs are the protocols at the pocket shape: few configurations, and many.
    pocket, urban, as20k, cost : Shape
        The shapes; `cost` is where the sweeps of the part "cost" meet.
    sweeps : dict
        What varies → its values.
    heads, cost_heads, gpu_heads : sequence of str
        Which heads the parts measure.
    passes : int
        How often a measurement is repeated at most; the loops take turns in each.
    square : int
        Rows of the matrices whose product tells the machine's rate.
    store_mb : int
        Size of the store that is read.
    plain_steps : int
        Steps of the textbook loop that are timed on a GPU.
    """

    profile: Profile
    reference: Profile
    pocket: Shape
    urban: Shape
    as20k: Shape
    cost: Shape
    sweeps: dict[str, tuple[int, ...]]
    heads: Sequence[str] = tuple(HEADS)
    cost_heads: Sequence[str] = ("protobin", "mhca")
    gpu_heads: Sequence[str] = ("linear", "mlp", "linpre", "mhca", "ep", "simpool", "proto", "protobin")
    passes: int = 3
    square: int = 2048
    store_mb: int = 200
    plain_steps: int = 10

    def with_many(self) -> "Plan":
        """Return the plan with the reference run's protocol at the pocket shape, under the reference's name."""
        shape = replace(self.pocket, name=self.reference.name, configurations=self.reference.trials)
        return replace(self, profile=self.reference, pocket=shape)


def shown_shape(profile: Profile) -> Shape:
    """Return the shape of a profile's cells on the dataset that it shows, with a pocket encoder of usual patches."""
    data, clips = load_dataset(profile.dataset), profile.clips
    sizes = POCKET.grid, POCKET.dim, len(data.classes), data.prototypes
    batch_size = profile.batch_size_of(data.name)
    return Shape(profile.name, *sizes, clips["train"], clips["val"], batch_size, profile.trials)


_OURS = PROFILES["pocket"]
_POCKET = shown_shape(_OURS)
# Urban with half of the paper's batch, so that a step of every head in every loop stays short.
_URBAN = Shape("urban", (64, 8), 768, 10, 20, 64, 0, 64, 50, whole_epoch=6000)
_AS20K = Shape("as20k", (64, 8), 768, 527, 10, 18_685, 0, 128, 50)
WHOLE = Plan(
    profile=_OURS,
    reference=PROFILES["pocket-full"],
    pocket=_POCKET,
    urban=_URBAN,
    as20k=_AS20K,
    cost=replace(_POCKET, name="pocket with fewer clips", clips=64),
    sweeps={
        "clips": (64, 128, 256, 512),
        "tokens": (64, 128, 248, 496),
        "prototypes": (5, 10, 20, 40),
        "configurations": (1, 2, 4, 8, 16, 32),
    },
)

_TINY = Shape("pocket", (3, 8), 32, 3, 2, 24, 16, 8, 3)
QUICK = Plan(  # every line of code, no meaning: for the tests
    profile=replace(PROFILES["smoke"], trials=4, epochs=2, first_rung=1, rung_factor=2, top_k=1, seeds=(1, 2)),
    reference=replace(PROFILES["smoke"], name="many", trials=6, epochs=2, first_rung=1, rung_factor=2, seeds=(1, 2)),
    pocket=_TINY,
    urban=replace(_TINY, name="urban", clips=8, whole_epoch=32),
    as20k=replace(_TINY, name="as20k", clips=20),
    cost=replace(_TINY, name="tiny", clips=8),
    sweeps={"clips": (8, 16), "tokens": (8, 24), "prototypes": (1, 2), "configurations": (1, 3)},
    passes=2,
    square=64,
    store_mb=1,
    plain_steps=2,
)


def made_embeddings(shape: Shape, clips: int, seed: int, device: str | torch.device = "cpu") -> Embeddings:
    """Return a made-up split in memory: noise, and in some tokens of a clip the directions of its classes.

    Parameters
    ----------
    shape : Shape
        Sizes of a clip.
    clips, seed : int
        How many, and what draws them; the directions of the classes are the same for every seed.
    device : str or torch.device
        Where the tokens are made, a few clips at a time, and where they stay.

    Returns
    -------
    Embeddings
        Tokens float16 as in the store; cls is the mean token; a clip has each class with probability 1/4, and
        then in one token in twenty.
    """
    rng = torch.Generator(device).manual_seed(seed)
    directions = torch.randn(shape.classes, shape.dim, generator=torch.Generator().manual_seed(0)).to(device)
    targets = (torch.rand(clips, shape.classes, generator=rng, device=device) < 0.25).float()
    tokens = torch.empty(clips, shape.tokens, shape.dim, dtype=torch.float16, device=device)
    cls = torch.empty(clips, shape.dim, device=device)
    for some in pieces(clips, 16):
        part = torch.randn(tokens[some].shape, generator=rng, device=device)  # (b, N, D)
        heard = torch.rand(len(part), shape.tokens, shape.classes, generator=rng, device=device) < 0.05
        part += (heard * targets[some, None]) @ directions  # (b, N, C) @ (C, D)
        tokens[some], cls[some] = part, part.mean(1)
    return Embeddings(tokens, cls, targets, shape.grid)


def made_runs(head: str, shape: Shape, count: int, epochs: int) -> list[Run]:
    """Return configurations of a head: learning rate and weight decay from Sobol's sequence in the paper's ranges."""
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(count, dtype=torch.float64).tolist()
    low, high = LR_RANGES["prototype" if FAMILIES[head] == "prototype" else "other"]
    least, most = WEIGHT_DECAY_RANGE
    pairs = [(low * (high / low) ** a, least * (most / least) ** b) for a, b in points]
    return [Run(head, *pair, epochs, shape.batch_size, prototypes=shape.per_class) for pair in pairs]


def stages(head: str, shape: Shape, profile: Profile) -> list[list[Run]]:
    """Return what is trained together in a cell of the profile: the trials, batch by batch, then the final seeds.

    The trials are those of `lib.search`, but TPE's are Sobol's too, and the first configurations stand for the
    best; which they are does not change the work.
    """
    trials = made_runs(head, shape, profile.trials, profile.epochs)
    exploring = -(-profile.trials // 2)
    batches = []
    for size in (exploring, *tpe_batches(profile.trials - exploring)):
        batches.append(trials[:size])
        trials = trials[size:]
    best = batches[0][: profile.top_k]
    final = [replace(run, seed=seed, order_seed=seed) for run in best for seed in profile.seeds]
    return [*batches, final]


def goal(head: str, products: str, matrix_units: bool) -> float | None:
    """Return what is promised of a head with a kind of products, on a processor with matrix units or without."""
    more = MATRIX_UNIT_GOALS if matrix_units else {}
    return (GOALS.get(head, {}) | more.get(head, {})).get(products)


def necessary_products(head: str, shape: Shape) -> tuple[float, float]:
    """Return the floating-point operations of the matrix products that a head cannot do without, for one clip.

    Two for each multiply-and-add. Counted in the cheapest form that is known here, the one of `lib.heads`: tokens
    are pooled before they are projected, only the tokens that win a maximum get gradient, frozen tokens get none,
    and what is the same for all clips of a step (folding two weights into one) counts nothing.

    Returns
    -------
    tuple of float
        To score a clip; to train on it once, which includes scoring it.
    """
    n, d, c, k = shape.tokens, shape.dim, shape.classes, shape.classes * shape.per_class
    hidden, filters, attention_heads = round(2 * d / 3), max(d // 2, 1), 12 if d == 768 else 8
    # Multiply-and-adds of one product, how many such it takes to score, and how many to train: one more for the
    # gradient of weights, yet another for that of an input that is not data. An attention to tokens is two products
    # forward and two backward. Of similarities (n·k·d) only the winners, one token a prototype, have a gradient.
    products = {
        "linear": [(d * c, 1, 2)],
        "mlp": [(d * hidden, 1, 2), (hidden * c, 1, 3)],
        "linearc": [(n * d * c, 1, 2)],
        "conv": [(9 * n * d * filters, 1, 2), (filters * c, 1, 3)],
        "linpre": [(shape.grid[1] * d * c, 1, 2)],
        "mhca": [(attention_heads * n * d, 2, 4), (d * d, 1, 3), (d * c, 1, 3)],
        "ep": [(32 * n * d, 2, 4), (d * d, 1, 3), (d * c, 1, 3)],
        "simpool": [(n * d, 2, 4), (d * d, 2, 5), (d * c, 1, 3)],
        "abmilp": [(n * d * d, 2, 5), (n * n * d, 2, 4), (n * d, 2, 6), (d * d, 1, 3), (d * c, 1, 3)],
        "proto": [(n * k * d, 1, 1), (k * d, 0, 1), (k, 1, 3)],
        "protobin": [(n * k * d, 1, 1), (k * d, 0, 1), (k * c, 1, 3)],
        "protofloat": [(n * k * d, 1, 1), (k * d, 0, 1), (k * c, 1, 3)],
    }[head]
    score = 2.0 * sum(work * times for work, times, _ in products)
    return score, 2.0 * sum(work * times for work, _, times in products)
