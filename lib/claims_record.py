"""What the paper says of its set-up: counts, memory, runs, data sets, formulas, settings."""

import math
import re
from functools import cache

import numpy as np
import pandas as pd

from lib.claims import Finding, claim, listed, near, rounds_to, share
from lib.heads import build_head
from lib.published import ENCODERS, facts, main_prototypes, table

DIM, GRID = 768, (64, 8)  # Section 2.1
RUNS = 50 + 5  # trials and final seeds, Appendix C
# Section 4.1, in the words of Table 10.
SETTINGS = {
    "optimizer": "AdamW",
    "epochs": "30",
    "batch_size": "128",
    "lr_scheduler": "cosine",
    "loss": "asymmetric",
    "prototypes_per_class": "20",
    "prototype_lr": "global lr",
}
# Table 9 on urban: N, D, C, F and J by Sections 2.1 and 4.1; H, k, D_h and Q are not in the text.
SYMBOLS = {"N": 512, "D": DIM, "C": 10, "F": 8, "J": 200, "H": 512, "k": 3, "D_h": 384, "Q": 32}


def _sets() -> pd.DataFrame:
    return table(8).set_index("dataset")


@cache
def _parameters(head: str, classes: int, per_class: int = 20) -> int:
    """Count the parameters of our head, biases included; `per_class` is J."""
    return sum(each.numel() for each in build_head(head, DIM, classes, (1, 1), per_class).parameters())


def _millions(counts: pd.Series) -> str:
    return f"{counts.mean() / 1e6:.2f} M"


# ---- abstract, Sections 2 and 4.1 ------------------------------------------------------------------------------------


@claim("Abstract", "Across a comprehensive benchmark of 13 datasets […]", 8)
def thirteen_datasets() -> Finding:
    """Count the rows of Table 8."""
    sizes = _sets().groupby("group", sort=False).size()
    found = f"{sizes.sum()}: " + ", ".join(f"{size} {group}" for group, size in sizes.items())
    return Finding(found, sizes.sum() == 13)


@claim("Abstract", "Across a comprehensive benchmark of […] 6 spectrogram-based encoders", 1, 2)
def six_encoders() -> Finding:
    """Count the encoders of Tables 1 and 2."""
    known, tested = set(table(1)["encoder"]), set(table(2)["encoder"])
    return Finding(f"{len(known)} in Table 1, {len(tested)} in Table 2", known == tested and len(known) == 6)


@claim(
    "Section 2.1",
    "patched into non-overlapping 16×16 time-frequency tokens, yielding T ≈ 1024 frames and thus S_t=64 and S_f=8",
)
def token_grid() -> Finding:
    """Divide frames and bins by the side of a patch."""
    grid = (1024 // 16, 128 // 16)
    return Finding(f"{grid[0]} × {grid[1]} = {math.prod(grid)} tokens", grid == (64, 8))


@claim("Section 2.2", "all encoders in our benchmark provide a cls-token", "facts")
def all_provide_cls() -> Finding:
    """Look for a cls token in the public code of each encoder."""
    native = facts("native_cls") == "yes"
    found = f"{share(native)} in their public code ({listed(native.index[native])}); without: "
    return Finding(found + listed(native.index[~native]), native.all())


@claim("Section 2.3", "A prototype layer is parameter-efficient, requiring only J·D parameters", 8)
def prototype_parameters() -> Finding:
    """Count the prototypes and the whole head on urban (J = 20 per class) and as20k (10)."""
    found, holds = [], True
    for name in ("urban", "as20k"):
        classes, per_class = int(_sets().loc[name, "classes"]), main_prototypes(name)
        layer = build_head("protobin", DIM, classes, (1, 1), per_class).prototypes.numel()
        holds &= layer == per_class * classes * DIM
        whole = _parameters("protobin", classes, per_class)
        found.append(f"{name} {layer:,} (the whole head, with its linear classifier, {whole:,})")
    return Finding("; ".join(found), holds)


@claim("Section 2.3", "attentive pooling heads that can require over 2D² parameters", 8)
def attentive_parameters() -> Finding:
    """Count the parameters of the attentive heads on urban, as rebuilt here."""
    classes = int(_sets().loc["urban", "classes"])
    counts = {head: _parameters(head, classes) for head in ("mhca", "ep", "simpool", "abmilp")}
    found = f"2D² = {2 * DIM**2:,}; " + ", ".join(f"{head} {count:,}" for head, count in counts.items())
    return Finding(found, max(counts.values()) > 2 * DIM**2)


@claim(
    "Section 2.3", "offering a compact alternative to attentive pooling heads that can require over 2D² parameters", 8
)
def compact_alternative() -> Finding:
    """Compare J·D (10 per class on as20k) with 2D² on each data set; beside it, the whole heads protobin and mhca."""
    classes, limit = _sets()["classes"], 2 * DIM**2
    per_class = classes.index.map(main_prototypes)
    prototypes = classes * per_class * DIM
    ours = pd.Series([_parameters("protobin", c, j) for c, j in zip(classes, per_class, strict=True)], classes.index)
    theirs = classes.map(lambda c: _parameters("mhca", c))
    smaller = prototypes < limit
    found = f"{_millions(prototypes)} on average against {limit / 1e6:.2f} M, smaller on {share(smaller)} sets "
    found += f"(not on {listed(smaller.index[~smaller])}); the whole heads: protobin {_millions(ours)}, "
    found += f"mhca {_millions(theirs)}, smaller on {share(ours < theirs)}"
    reading = f"J·D on the average over data sets; exceptions: {share(~smaller)}"
    return Finding(found, prototypes.mean() < limit, "" if smaller.all() else reading)


@claim(
    "Section 2.3",
    "By binarizing the prototypes […], our method yields an additional 32× memory reduction relative to 32-bit floats",
    8,
)
def memory_reduction() -> Finding:
    """Divide 32 bits by 1 for the prototypes; then the whole head, with its classifier in 32 bits, on each data set."""
    ratios, bits = {}, 8 * build_head("protobin", DIM, 1, (1, 1), 1).prototypes.element_size()
    for name, classes in _sets()["classes"].items():
        per_class = main_prototypes(name)
        total, prototypes = _parameters("protobin", classes, per_class), per_class * classes * DIM
        ratios[name] = bits * total / (prototypes + bits * (total - prototypes))
    ratios = pd.Series(ratios).sort_values(ascending=False)
    found = f"prototypes {bits}; whole head " + ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items())
    reading = f"of the prototypes; the whole head by {ratios.min():.1f} to {ratios.max():.1f}"
    return Finding(found, bits == 32, reading)


@claim(
    "Section 2.3",
    "The near-orthogonality observed between prototypes […] is an emergent property arising from the method",
)
def emergent_orthogonality() -> Finding:
    """Compute the mean |cosine| of random signs, √(2/πD); no table has that of trained prototypes."""
    random = math.sqrt(2 / (math.pi * DIM))
    return Finding(f"random signs at D = {DIM} have {random:.3f} before any training", None)


@claim("Section 4.1", "we only use the ViT-base checkpoints with […] circa 86M parameters", "facts")
def encoder_parameters() -> Finding:
    """Count the parameters of the upstream encoders; circa is within 5 %."""
    millions = facts("parameters").astype(float) / 1e6
    off = [name for name, value in millions.items() if not near(value, "86")]
    found = ", ".join(f"{name} {value:.2f}" for name, value in millions.items())
    found += f" million; mean {millions.mean():.2f}; circa 86 is {0.95 * 86:.2f} to {1.05 * 86:.2f}"
    reading = f"on the average over encoders; exceptions: {len(off)} of {len(millions)} ({listed(off)})"
    return Finding(found, near(millions.mean(), "86"), reading if off else "")


@claim("Section 4.1", "We compare eleven pooling methods", 2, 9)
def eleven_methods() -> Finding:
    """Count the heads of Tables 2 and 9."""
    tested, listed_heads = table(2)["head"].nunique(), table(9)["head"].nunique()
    return Finding(f"{tested} in Table 2, {listed_heads} in Table 9", tested == listed_heads == 11)


@claim("Appendix A", "Our full benchmark spans […] 10 pooling methods", 2, 4)
def ten_methods() -> Finding:
    """Count the heads of Tables 4 and 2."""
    nine, six = set(table(4)["head"]), set(table(2)["head"])
    found = f"{len(nine)} in Table 4; {len(six)} in Table 2, which also has {listed(sorted(six - nine))}"
    reading = "of Table 4, with supervised⁺ encoders" if len(six) != 10 else ""
    return Finding(found, len(nine) == 10 and table(4)["encoder"].nunique() == 9, reading)


@claim("Appendix D", "Table 9 summarizes the ten distinct pooling methods evaluated in our study", 9)
def ten_methods_in_table_9() -> Finding:
    """Count the columns of Table 9."""
    heads = list(table(9)["head"])
    return Finding(f"{len(heads)}: {listed(heads)}", len(heads) == 10)


@claim(
    "Appendix A",
    "5 general […], 7 few-shot […], and 2 multi-class […] across 6 backbones (plus 3 supervised+ checkpoints)",
    4,
    5,
    6,
    8,
)
def groups_of_sets() -> Finding:
    """Count the data sets of Table 8 by group, and data sets and encoders of Tables 4, 5 and 6."""
    sizes = list(_sets().groupby("group", sort=False).size())
    tested = [(table(number)["dataset"].nunique(), table(number)["encoder"].nunique()) for number in (4, 5, 6)]
    tables = ", ".join(f"{sets} sets with {nets} encoders" for sets, nets in tested)
    found = f"Table 8: {listed(sizes)} sets; Tables 4, 5, 6: {tables}"
    return Finding(found, sizes == [5, 7, 2] and tested == [(size, 9) for size in sizes])


@claim("Section 4.1", "the number of prototypes J is fixed at 20 per class across datasets (10 for as20k)", 2, 7)
def prototypes_per_class() -> Finding:
    """Look for the scores of proto and protobin of Table 2 in Table 7, at each J."""
    both = table(7).dropna(subset=["J"]).merge(table(2), on=["dataset", "encoder", "head"], suffixes=("", "_2"))
    equal = both[(both["mean"] - both["mean_2"]).abs() < 0.005]
    counts = equal.groupby(["dataset", "J"]).size()
    cells = both.drop_duplicates(["dataset", "encoder", "head"]).groupby("dataset").size()
    found = ", ".join(f"{name}: {n} of {cells[name]} at J = {per_class:.0f}" for (name, per_class), n in counts.items())
    holds = all(counts.get((name, main_prototypes(name)), 0) == cells[name] for name in cells.index)
    return Finding(found or "none is there", holds)


# ---- Appendix C ------------------------------------------------------------------------------------------------------


@claim("Appendix C", "[Eq. 4:] 378 pre-computation runs", 4, 8)
def precomputation_runs() -> Finding:
    """Multiply the encoders of Table 4 by the data sets of Table 8, the bioacoustic ones five times."""
    encoders, groups = table(4)["encoder"].nunique(), _sets()["group"].eq("bioacoustic")
    runs = encoders * ((~groups).sum() + 5 * groups.sum())
    return Finding(f"{encoders} · ({(~groups).sum()} + {groups.sum()} · 5) = {runs:,}", runs == 378)


@claim("Appendix C", "[Eq. 5 to 7:] 24,750 […] 20,790 […] 2,970", 4, 5, 6)
def training_runs() -> Finding:
    """Multiply the cells of Tables 4, 5 and 6 by 50 trials and 5 final seeds."""
    runs = [len(table(number)) * RUNS for number in (4, 5, 6)]
    return Finding(listed([f"{count:,}" for count in runs]), runs == [24750, 20790, 2970])


@claim(
    "Appendix C",
    "the total upper bound on individual training runs for the entire benchmark: […] 48,510 total runs",
    2,
    4,
    5,
    6,
)
def total_runs() -> Finding:
    """Multiply the cells of Tables 4, 5 and 6 by 55; beside it, with the heads that only Table 2 has."""
    runs = sum(len(table(number)) for number in (4, 5, 6)) * RUNS
    more = table(2)[~table(2)["head"].isin(table(4)["head"])]
    found = f"{runs:,}; with {listed(more['head'].unique())} of Table 2 {runs + len(more) * RUNS:,}; "
    found += "the top-k configurations re-evaluated on validation (Section 4.1) are in neither"
    return Finding(found, runs == 48510, "for the cells of Tables 4, 5 and 6, without the re-evaluation of Section 4.1")


@claim(
    "Appendix C",
    "The resulting on-disk embedding store for all cached features occupied approximately 3.6 TB of storage",
    8,
)
def embedding_store() -> Finding:
    """Store 512 patch tokens and cls of each clip, of bioacoustic training clips five times, for nine encoders."""
    sets = _sets().fillna(0)
    views = np.where(sets["group"] == "bioacoustic", 5, 1)
    clips = int((views * sets["train"] + sets["validation"] + sets["test"]).sum())
    numbers = clips * len(ENCODERS) * (math.prod(GRID) + 1) * DIM
    found = ", ".join(f"{numbers * size / 1e12:.2f} TB at {size} bytes a number" for size in (2, 4))
    reading = "two bytes a number, and 512 tokens for shorter clips too, which the text leaves open"
    return Finding(f"{clips:,} clips: {found}", near(numbers * 2 / 1e12, "3.6"), reading)


# ---- Appendix D ------------------------------------------------------------------------------------------------------


@claim("Appendix D", "all bioacoustic tasks follow a 64-shot training protocol", 8, "facts")
def sixty_four_shots() -> Finding:
    """Divide the training clips by the classes of Table 8, and by those that occur in training."""
    sets, trained = _sets().query("group == 'bioacoustic'"), facts("train_classes").astype(int)
    shots = sets["train"] / sets["classes"]
    occurring = sets["classes"].where(~sets.index.isin(trained.index), sets.index.map(trained))
    off = shots.index[shots != 64]
    found = f"64 on {share(shots == 64)} sets; " + ", ".join(
        f"{name} {sets.loc[name, 'train'] / occurring[name]:g} for the {occurring[name]:.0f} of its "
        f"{sets.loc[name, 'classes']} classes that occur in training"
        for name in off
    )
    holds = bool((sets["train"] == 64 * occurring).all())
    return Finding(found, holds, "for each class that occurs in training" if len(off) else "")


@claim("Appendix D", "[Table 8, uhh:] 36,367 [test clips]", 8, "facts")
def uhh_test_clips() -> Finding:
    """Compare Table 8 with the card of the data set."""
    printed, known = int(_sets().loc["uhh", "test"]), int(facts("test")["uhh"])
    return Finding(f"{printed:,} in Table 8, {known:,} on the card", printed == known)


@claim("Appendix D", "[Table 8, sc2:] Clip Length [s] […] 10", 8, "facts")
def sc2_clip_length() -> Finding:
    """Compare Table 8 with the source of the data set; Appendix D.1 says one-second utterances."""
    printed, known = float(_sets().loc["sc2", "clip_seconds"]), float(facts("clip_seconds")["sc2"])
    return Finding(f"{printed:g} s in Table 8, {known:g} s in the source", printed == known)


@claim(
    "Appendix D",
    "fsd50k […] containing over 51,000 audio clips […] esc50 […] consisting of 2,000 five-second audio clips",
    8,
)
def sizes_of_sets() -> Finding:
    """Add the splits of Table 8."""
    sizes = _sets()[["train", "validation", "test"]].sum(axis=1)
    found = f"fsd50k {sizes['fsd50k']:,.0f}, esc50 {sizes['esc50']:,.0f}"
    return Finding(found, sizes["fsd50k"] > 51000 and sizes["esc50"] == 2000)


@claim("Appendix D", "spass […] for 28 urban sounds", 8, "facts")
def spass_classes() -> Finding:
    """Compare Table 8 with the public label files; how their labels were merged is not stated."""
    found = f"{_sets().loc['spass', 'classes']} in Table 8, {facts('classes')['spass']} labels in the files"
    return Finding(found, None)


@claim("Appendix D", "[sc2] contains 35 commands in the vocabulary", 8, "facts")
def sc2_words() -> Finding:
    """Compare with the source; Table 8 has the classes of the task."""
    words = int(facts("words")["sc2"])
    return Finding(f"{words} words in the source; {_sets().loc['sc2', 'classes']} classes in Table 8", words == 35)


def _evaluate(formula: str, **changed: int) -> int:
    """Compute a formula of Table 9 with the values of `SYMBOLS`."""
    values, total = SYMBOLS | changed, 0
    for term in formula.split("+"):
        factors = re.findall(r"(D_h|[A-Za-z]|\d+)(?:\^(\d))?", term)
        total += math.prod((int(x) if x.isdigit() else values[x]) ** int(power or 1) for x, power in factors)
    return total


def _prints(value: float, printed: str) -> bool:
    """Tell whether a count is printed so: 7.7k, 3.9M."""
    return rounds_to(value / {"k": 1e3, "M": 1e6}[printed[-1]], printed[:-1])


def _row(head: str) -> tuple[str, str]:
    return tuple(table(9).set_index("head").loc[head, ["formula", "printed"]])


@claim(
    "Appendix D",
    "[Table 9:] DC ≈ 7.7k, DH + HC ≈ 398k, NDC ≈ 3.9M, k²DD_h + D_hC ≈ 2.7M, FDC ≈ 61.4k, […]",
    9,
)
def table_9_formulas() -> Finding:
    """Compute the formulas on urban; widths that the text leaves open are H = 512, k = 3, D_h = 384, Q = 32."""
    rows = {head: _row(head) for head in ("linear", "mlp", "linearc", "conv", "linpre", "ep", "simpool")}
    found = ", ".join(f"{head} {_evaluate(formula):,} ≈ {printed}" for head, (formula, printed) in rows.items())
    holds = all(_prints(_evaluate(formula), printed) for formula, printed in rows.values())
    return Finding(found, holds, "with H = 512, k = 3, D_h = 384 and Q = 32, which the text leaves open")


@claim("Appendix D", "[Table 9, mhca:] D² + DC ≈ 1.2M", 9)
def table_9_mhca() -> Finding:
    """Compute the formula on urban, and with the 2D² that Section 2.3 states for the same method."""
    formula, printed = _row("mhca")
    plain, double = _evaluate(formula), _evaluate(f"D^2 + {formula}")
    found = f"{formula} = {plain:,}; 2D² + DC = {double:,}; printed {printed}; "
    found += f"the head as rebuilt here {_parameters('mhca', 10):,}"
    if _prints(plain, printed):
        return Finding(found, True)
    return Finding(found, _prints(double, printed), "2D² + DC")


@claim("Appendix D", "[Table 9, abmilp:] 2D² + QD + DC ≈ 3.0M", 9)
def table_9_abmilp() -> Finding:
    """Compute the formula on urban with Q = 1 (Section 3: single-query)."""
    formula, printed = _row("abmilp")
    value = _evaluate(formula, Q=1)
    found = f"{formula} = {value:,}; printed {printed}; with a layer of self-attention, as rebuilt here, "
    return Finding(found + f"{_parameters('abmilp', 10):,}", _prints(value, printed))


@claim("Appendix D", "[Table 9, proto and protobin:] J + JC ≈ 155k", 9)
def table_9_prototypes() -> Finding:
    """Compute the formulas on urban, and with the J·D that Section 2.3 states for the prototypes."""
    found, plain_fits, fits = [], True, True
    for head in ("proto", "protobin"):
        formula, printed = _row(head)
        plain, stated = _evaluate(formula), _evaluate(formula.replace("J +", "JD +"))
        found.append(f"{head} {formula} = {plain:,}, JD + JC = {stated:,}, printed {printed}")
        plain_fits &= _prints(plain, printed)
        fits &= near(stated / 1e3, printed[:-1])
    return Finding("; ".join(found), plain_fits or fits, "" if plain_fits else "JD + JC, within the ≈ of the table")


@claim("Appendix D", "These fixed settings are summarized in Table 10", 10)
def table_10() -> Finding:
    """Compare Table 10 with the settings that Section 4.1 states."""
    printed = table(10).set_index("setting")["value"].astype(str)
    same = pd.Series({name: printed.get(name) == value for name, value in SETTINGS.items()})
    settings = ", ".join(f"{name.replace('_', ' ')} {printed.get(name)}" for name in SETTINGS)
    return Finding(f"{share(same)} are the same: {settings}", same.all())
