"""Ten troubles of a probe, each provoked on purpose on one encoder and one dataset, beside the same run without it.

A trouble is a function of a `Ground` that returns rows, each a dict with ``case``, ``measure``, ``value`` and what
else places it (head, lr, seed, epoch, …). Learning rate and weight decay are those that the search found for a head,
but where the rate itself is the trouble. Symbols as in `lib.heads`. `lib.symptoms` runs these and keeps their tables.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from lib.audio import SAMPLE_RATE, mel_centres
from lib.comparisons import difference, final_values
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS, load_encoder
from lib.engine import StackedTraining
from lib.heads import Head, Mhca
from lib.pooling import masked_softmax, sign
from lib.profiles import LR_RANGES, Profile
from lib.prototype_dynamics import audibility, contributions, directions, mean_abs_cosine, stages, winners
from lib.search import Cell
from lib.store import PASS_CLIPS, Embeddings
from lib.train import Run, Training, evaluate

INIT_STD = 0.02  # protobin's own
RATES = tuple(0.0005 * 4**step for step in range(6))  # steps of four in both, so that ratios lie on diagonals
STDS = tuple(INIT_STD * 4.0**step for step in range(-2, 4))
FAR = (1, 8, 64)  # how many times further from zero latents start
WIDTHS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SPREAD_SEEDS = tuple(range(1, 9))
ORDER_HEADS = ("linear", "mhca", "protobin", "linpre", "conv", "linearc")
NORM_HEADS = ("linear", "linpre", "linearc", "conv", "mhca", "ep", "abmilp", "protobin")
ATTENDING = 48  # clips on which attention is measured
QUANTILES = tuple(q / 100 for q in range(1, 100, 2))


@dataclass(frozen=True)
class Ground:
    """Where troubles are provoked.

    Attributes
    ----------
    profile : Profile
        The study's scale.
    train, test : Embeddings
        Of the encoder and dataset that it shows.
    cells : dict of str to Cell
        Head → its finished cell on them.
    runs : dict of str to Run
        Head → the run that the search chose.
    easy : tuple of (Cell, Cell)
        linear and protobin on the single-label dataset, a pair an encoder.
    """

    profile: Profile
    train: Embeddings
    test: Embeddings
    cells: dict[str, Cell]
    runs: dict[str, Run]
    easy: tuple[tuple[Cell, Cell], ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of a comparison: three are enough to see a trouble."""
        return self.profile.seeds[:3]

    def run(self, head: str, seed: int, **changes: object) -> Run:
        """Return the chosen run of a head with another seed, which also draws the batch order, and other changes."""
        return replace(self.runs[head], seed=seed, order_seed=seed, **changes)

    def score(self, logits: Tensor) -> float:
        """Return the test metric of logits (clips, C), in percent."""
        return evaluate(logits, self.test.targets, next(iter(self.cells.values())).metric)

    def finals(self, head: str) -> dict[int, float]:
        """Return what the finished cell of a head has for each of its seeds: the chosen run, with nothing changed."""
        return dict(zip(self.profile.seeds, final_values(self.profile, self.cells[head]), strict=True))

    def scores(self, training: StackedTraining, data: Embeddings | None = None) -> dict[int, float]:
        """Return the test metric of each run that is alive, by its number; of other tokens of the clips if given."""
        logits = training.scores(self.test if data is None else data)  # (runs, clips, C)
        return {number: self.score(one) for number, one in zip(training.alive, logits, strict=True)}


def trained(runs: list[Run], data: Embeddings) -> StackedTraining:
    """Train runs to their end."""
    return StackedTraining(runs, data).advance(runs[0].epochs)


def row(case: str, measure: str, value: float, **where: object) -> dict:
    """Return a row of a table."""
    return {"case": case, **where, "measure": measure, "value": float(value)}


# ---- 1 to 3: learning rate, first values, signs ------------------------------------------------------------------


def scale(ground: Ground) -> list[dict]:
    """Sweep protobin's learning rate against the size of its first latents: score, and share of signs that flipped."""
    rows = []
    for std in STDS:
        options = {"init_std": std}
        runs = [ground.run("protobin", seed, lr=lr, options=options) for lr in RATES for seed in ground.seeds[:2]]
        training = trained(runs, ground.train)
        for number, score in ground.scores(training).items():
            now, start = (sign(w["prototypes"]) for w in (training.state(number), training.initial_state(number)))
            where = {"lr": runs[number].lr, "init_std": std, "seed": runs[number].seed}
            rows.append(row("sweep", "score", score, **where))
            rows.append(row("sweep", "flipped", (now != start).float().mean(), **where))
    return rows


def positive(ground: Ground) -> list[dict]:
    """Start protobin's latents from U(0, 1), as proto does: share of +1, how alike the prototypes are, score."""
    rate, fast = ground.runs["protobin"].lr, LR_RANGES["prototype"][1]
    rows = []
    for case, lr, alike in (("around zero", rate, False), ("U(0, 1)", rate, True), ("U(0, 1), fast", fast, True)):
        for seed in ground.seeds:
            training = Training(ground.run("protobin", seed, lr=lr), ground.train)
            latents = training.head.prototypes  # (K, D)
            if alike:
                overwrite(latents, torch.rand(latents.shape, generator=torch.Generator().manual_seed(seed)))
            for epoch in range(training.run.epochs + 1):
                signs, where = directions(training.advance(epoch).head.prototypes, binary=True), {"seed": seed}
                rows.append(row(case, "positive", (signs > 0).float().mean(), epoch=epoch, **where))
                rows.append(row(case, "cosine", mean_abs_cosine(signs), epoch=epoch, **where))
            rows.append(row(case, "score", ground.score(training.scores(ground.test)), lr=lr, **where))
    return rows


def overwrite(parameter: Tensor, values: Tensor) -> None:
    """Give a parameter these values; an optimiser that has it goes on with it."""
    with torch.no_grad():
        parameter.copy_(values)


def frozen(ground: Ground) -> list[dict]:
    """Start protobin's latents further and further from zero, at one learning rate: signs that flip, epoch by epoch."""
    rows = []
    for far in FAR:
        std, case = far * INIT_STD, f"init_std {far * INIT_STD:g}"
        runs = [ground.run("protobin", seed, options={"init_std": std}) for seed in ground.seeds]
        training, before = StackedTraining(runs, ground.train), {}
        for epoch in range(runs[0].epochs + 1):
            training.advance(epoch)
            for number in training.alive:
                latents, where = training.state(number)["prototypes"], {"seed": runs[number].seed, "epoch": epoch}
                signs = sign(latents)
                rows.append(row(case, "latent", latents.abs().mean(), **where))
                if epoch:
                    rows.append(row(case, "flipped", (signs != before[number]).float().mean(), **where))
                before[number] = signs
        for number, score in ground.scores(training).items():
            since = sign(training.initial_state(number)["prototypes"]) != before[number]
            where = {"seed": runs[number].seed, "init_std": std}
            rows += [
                row(case, "score", score, **where),
                row(case, "flipped_since_start", since.float().mean(), **where),
            ]
    return rows


# ---- 4 to 6: who speaks, and where attention lies ----------------------------------------------------------------


def silent(ground: Ground) -> list[dict]:
    """Start proto's class weights from U(±1/√J), half of them where its relu has no gradient, instead of from 1."""
    rows = []
    for case in ("w = 1", "w from U(±1/√J)"):
        for seed in ground.seeds:
            training = Training(ground.run("proto", seed), ground.train)
            weight = training.head.classifier.weight  # (C, J)
            if case != "w = 1":
                drawn = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed))
                overwrite(weight, (2 * drawn - 1) / weight.shape[1] ** 0.5)
            for epoch in (0, training.run.epochs):
                head, where = training.advance(epoch).head, {"seed": seed, "epoch": epoch}
                (found,) = winners([head], ground.train)
                measured = audibility(head, found)
                rows += [row(case, name, measured[name], **where) for name in ("silent", "heard", "one_place")]
                rows.append(row(case, "dead", (head.classifier.weight <= 0).float().mean(), **where))
            share = contributions(head, found.sd)  # (K,)
            shares = (share / share.max()).quantile(torch.tensor(QUANTILES, dtype=share.dtype))
            rows += [row(case, "contribution", v, seed=seed, x=q) for q, v in zip(QUANTILES, shares, strict=True)]
            rows.append(row(case, "score", ground.score(training.scores(ground.test)), seed=seed))
    return rows


def ties(ground: Ground) -> list[dict]:
    """Take protobin's similarities and maxima in 16 bits: how many tie, how many winners move, what it costs."""
    rows = []
    for seed in ground.seeds:
        training = Training(ground.run("protobin", seed), ground.train).advance(ground.runs["protobin"].epochs)
        rows.append(row("float32", "score", ground.score(training.scores(ground.test)), seed=seed))
        rows += [row(*found, seed=seed) for found in count_ties(training.head, ground.test)]
        for name, dtype in WIDTHS.items():
            training.head.pool = functools.partial(narrow_pool, training.head, dtype)
            rows.append(row(f"{name} in the test", "score", ground.score(training.scores(ground.test)), seed=seed))
        narrow = Training(ground.run("protobin", seed), ground.train)
        narrow.head.pool = functools.partial(narrow_pool, narrow.head, torch.bfloat16)
        narrow.advance(narrow.run.epochs)
        rows.append(row("bfloat16 throughout", "score", ground.score(narrow.scores(ground.test)), seed=seed))
    return rows


@torch.inference_mode()
def count_ties(head: Head, data: Embeddings) -> list[tuple[str, str, float]]:
    """Count, over clips and prototypes, maxima that several tokens share, and winners that are not those of fp32."""
    unit, counts, pairs = head.unit_prototypes(), dict.fromkeys(("float32", *WIDTHS), (0, 0)), 0
    for part in data.tokens.split(PASS_CLIPS):
        tokens = head.unit_tokens(part.float(), None)  # (B, N, D)
        exact, pairs = tokens @ unit.T, pairs + len(part) * len(unit)  # (B, N, K)
        for name in counts:
            found = exact if name == "float32" else narrow_products(tokens, unit, WIDTHS[name])
            best = found == found.amax(1, keepdim=True)  # (B, N, K)
            tied, moved = best.sum(1) > 1, found.argmax(1) != exact.argmax(1)  # (B, K)
            counts[name] = counts[name][0] + int(tied.sum()), counts[name][1] + int(moved.sum())
    named = ("tied", "moved")
    return [(name, what, n / pairs) for name, both in counts.items() for what, n in zip(named, both, strict=True)]


def narrow_products(tokens: Tensor, prototypes: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the products (B, N, K) of narrow numbers, themselves narrow, as fp32 with the same values.

    Sums are kept wide and rounded at the end, as matrix units do; so the result is the same on every machine.
    """
    wide = tokens.to(dtype).float() @ prototypes.to(dtype).float().T
    return wide.to(dtype).float()


def narrow_pool(head: Head, dtype: torch.dtype, tokens: Tensor, cls: Tensor | None, mask: Tensor | None) -> Tensor:
    """Pool as protobin does, but in 16 bits; ties share the gradient, as in `amax`."""
    return narrow_products(head.unit_tokens(tokens, cls), head.unit_prototypes(), dtype).amax(1)  # (B, K)


def collapse(ground: Ground) -> list[dict]:
    """Train mhca too fast, and ep as the search would have it: on how many tokens attention lies, epoch by epoch."""
    rows, clips = [], ground.test.tokens[:ATTENDING].float()
    for head, factors in (("mhca", (1, 10, 100)), ("ep", (1,))):
        rate = ground.runs[head].lr
        runs = [ground.run(head, seed, lr=rate * factor) for factor in factors for seed in ground.seeds[:2]]
        cases = [f"{head}, lr × {factor}" for factor in factors for _ in ground.seeds[:2]]
        for epoch, heads in stages(runs, ground.train):
            for number, one in heads.items() if epoch in looks(runs[0].epochs) else ():
                places = attention(one.eval(), clips)  # (B, Q, N)
                where = {"head": head, "lr": runs[number].lr, "seed": runs[number].seed, "epoch": epoch}
                spread = torch.special.entr(places).sum(-1).exp().mean()
                rows.append(row(cases[number], "attended", spread, **where))
                rows.append(row(cases[number], "same_place", same_place(places.argmax(-1)), **where))
        for number, one in heads.items():  # those of the last epoch
            where = {"head": head, "lr": runs[number].lr, "seed": runs[number].seed}
            rows.append(row(cases[number], "score", ground.score(predicted(one, ground.test)), **where))
    return rows


def looks(epochs: int) -> set[int]:
    """Return the epochs at which attention is looked at: many early ones, for it collapses early if it does."""
    return {epoch for epoch in (0, 1, 2, 3, 5, 8, 12, 16, 20, 25) if epoch < epochs} | {epochs}


@torch.inference_mode()
def attention(head: Head, tokens: Tensor) -> Tensor:
    """Return where the queries of mhca or ep look in tokens (B, N, D): (B, Q, N), summing to one."""
    if not isinstance(head, Mhca):
        return masked_softmax(head.queries / head.dim**0.5 @ tokens.mT, None)
    tokens = head.token_norm(tokens.flatten(0, 1)).view_as(tokens)  # (B, N, D) → (B·N, D) → (B, N, D)
    key = head.key.weight.unflatten(0, head.heads)  # (D, D) → (M, d, D)
    query = torch.einsum("md,mdi->mi", head.query.view(head.heads), key) / head.heads[1] ** 0.5  # (M, D)
    return masked_softmax(query @ tokens.mT, None)


def same_place(top: Tensor) -> float:
    """Return in which share of the clips a query's best token (B, Q) stands where it most often does."""
    return float(np.mean([(places == places.mode().values).float().mean() for places in top.T]))


@torch.inference_mode()
def predicted(head: Head, data: Embeddings) -> Tensor:
    """Return the logits of a plain head for all clips (clips, C)."""
    parts = zip(data.tokens.split(64), data.cls.split(64), strict=True)
    return torch.cat([head.eval()(tokens.float(), cls) for tokens, cls in parts])


# ---- 7 and 8: seeds, and easy data -------------------------------------------------------------------------------


def spread(ground: Ground) -> list[dict]:
    """Train three heads with many seeds at the settings found for each, and abmilp at the top of its range."""
    fast = LR_RANGES["other"][1]
    cases = {head: (head, ground.runs[head].lr) for head in ("protobin", "mhca", "abmilp")}
    cases[f"abmilp, lr {fast:g}"] = "abmilp", fast
    rows = []
    for case, (head, lr) in cases.items():
        known = ground.finals(head) if case == head else {}
        runs = [ground.run(head, seed, lr=lr) for seed in SPREAD_SEEDS if seed not in known]
        found = {runs[number].seed: v for number, v in ground.scores(trained(runs, ground.train)).items()}
        rows += [row(case, "score", v, head=head, lr=lr, seed=seed) for seed, v in (known | found).items()]
    return rows


def easy(ground: Ground) -> list[dict]:
    """Compare protobin and linear where a clip has one sound, on encoders with and without labels in their training."""
    rows = []
    for linear, protobin in ground.easy:
        case, where = ENCODERS[linear.encoder].label, {"kind": ENCODERS[linear.encoder].kind}
        for cell in (linear, protobin):
            values = zip(ground.profile.seeds, final_values(ground.profile, cell), strict=True)
            rows += [row(case, "score", value, head=cell.head, seed=seed, **where) for seed, value in values]
        found = difference(ground.profile, protobin, linear)
        names = ("difference", "low", "high")
        rows += [row(case, name, value, head="protobin", **where) for name, value in zip(names, found, strict=True)]
    return rows


# ---- 9 and 10: tokens that are not what they seem ----------------------------------------------------------------


def order(ground: Ground) -> list[dict]:
    """Hand over frequency-major tokens as time-major, in the test alone and throughout; and two checks that tell."""
    both = ground.train, ground.test
    wrong_train, wrong_test = (replace(data, tokens=frequency_major(data.tokens, data.grid)) for data in both)
    rows = []
    for head in ORDER_HEADS:
        runs = [ground.run(head, seed) for seed in ground.seeds]
        right = trained(runs, ground.train)
        cases = {"right": ground.scores(right), "wrong in the test": ground.scores(right, wrong_test)}
        cases["wrong throughout"] = ground.scores(trained(runs, wrong_train), wrong_test)
        for case, scores in cases.items():
            rows += [row(case, "score", v, head=head, seed=runs[number].seed) for number, v in scores.items()]
    for case, tokens in (("right", ground.train.tokens), ("wrong throughout", wrong_train.tokens)):
        rows += [row(case, name, v) for name, v in neighbours(tokens.float(), ground.train.grid).items()]
    return rows + chirp_rows(ground.profile.shown)


def frequency_major(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return time-major tokens (B, N, D) in the other order, n = f·S_t + t."""
    return tokens.unflatten(1, grid).transpose(1, 2).flatten(1, 2)  # (B, S_t, S_f, D) → (B, S_f, S_t, D) → (B, N, D)


def neighbours(tokens: Tensor, grid: tuple[int, int]) -> dict[str, float]:
    """Return the mean cosine of tokens (B, N, D) that are neighbours on the grid, in time and in frequency.

    What a place has in every clip and what a clip has everywhere is taken away first: else all tokens are alike.
    """
    own = tokens - tokens.mean(0) - tokens.mean(1, keepdim=True) + tokens.mean((0, 1))
    maps = nn.functional.normalize(own, dim=-1).unflatten(1, grid)  # (B, N, D) → (B, S_t, S_f, D)
    time, frequency = maps[:, 1:] * maps[:, :-1], maps[:, :, 1:] * maps[:, :, :-1]
    return {"time": time.sum(-1).mean().item(), "frequency": frequency.sum(-1).mean().item()}


def chirp_rows(name: str) -> list[dict]:
    """Send a rising tone through an encoder: how far each token is from that of near silence, in both orders."""
    encoder = load_encoder(name)
    with torch.inference_mode():
        tokens = encoder(encoder.spectrogram(chirp(encoder.geometry.seconds), SAMPLE_RATE)).tokens  # (2, N, D)
    rows = []
    for case, one in (("right", tokens), ("wrong throughout", frequency_major(tokens, encoder.grid))):
        away = (one[0] - one[1]).norm(dim=-1).unflatten(0, encoder.grid)  # (N,) → (S_t, S_f)
        loudest = away.argmax(1)  # (S_t,)
        rank = spearmanr(np.arange(len(loudest)), loudest).statistic if len(loudest.unique()) > 1 else 0.0
        rows.append(row(case, "rises", rank))
        rows += [row(case, "away", v, t=t, f=f) for t, line in enumerate(away.tolist()) for f, v in enumerate(line)]
    return rows


def chirp(seconds: float) -> np.ndarray:
    """Return a tone that climbs the mel scale evenly, over faint noise, and the noise alone: (2, samples)."""
    samples = round(seconds * SAMPLE_RATE)
    centres = mel_centres(64)
    pitch = np.interp(np.linspace(0, 1, samples), np.linspace(0, 1, len(centres)), centres)  # Hz
    noise = 1e-3 * np.random.default_rng(0).standard_normal(samples)
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)
    return np.stack([tone + noise, noise]).astype(np.float32)


def norm(ground: Ground) -> list[dict]:
    """Hand over the last block's tokens as they are before the encoder's final norm; the cure is to apply it."""
    cell, encoder = ground.cells["linear"], load_encoder(ground.profile.shown)
    train, test = (before_norm(encoder, cell, *split) for split in (("train", ground.train), ("test", ground.test)))
    rows = []
    for head in NORM_HEADS:
        runs = [ground.run(head, seed) for seed in ground.seeds]
        known = ground.finals(head)
        for number, score in ground.scores(trained(runs, train), test).items():
            seed = runs[number].seed
            rows.append(row("with the norm", "score", known[seed], head=head, seed=seed))
            rows.append(row("forgotten", "score", score, head=head, seed=seed))
    with torch.inference_mode():
        cured = encoder.vit.norm(test.tokens.float())  # (clips, N, D)
    rows.append(row("cured", "distance", (cured - ground.test.tokens.float()).norm(dim=-1).max()))
    for case, tokens in (("with the norm", ground.test.tokens), ("forgotten", test.tokens)):
        lengths = tokens.float().norm(dim=-1).flatten()  # (clips · N,)
        found = np.quantile(lengths.numpy(), QUANTILES)
        rows += [row(case, "length", v, x=q) for q, v in zip(QUANTILES, found, strict=True)]
    return rows


@torch.inference_mode()
def before_norm(encoder: nn.Module, cell: Cell, split: str, data: Embeddings) -> Embeddings:
    """Return the clips of a split as the encoder's last block leaves them, in half precision as in the store."""
    scenes, last, parts = load_dataset(cell.dataset), len(encoder.vit.blocks) - 1, []
    for clips in np.array_split(np.arange(len(data)), -(-len(data) // PASS_CLIPS)):
        audio = np.stack([scenes.scene(split, int(index)).audio for index in clips])  # (b, samples)
        parts.append(encoder(encoder.spectrogram(audio, SAMPLE_RATE), layers=(last,)).layers[last])
    tokens, cls = (torch.cat(part).half() for part in zip(*parts, strict=True))
    return replace(data, tokens=tokens, cls=cls.float())
