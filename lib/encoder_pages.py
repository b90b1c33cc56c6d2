"""What each pocket encoder is, for people: its original's row in Table 1, what is kept, what it heard, whom to thank.

The words are here; the numbers in them are read from what an encoder's manifest says of the shipped weights or, before
there are any, from the recipe and the objectives' defaults. No audio is touched.
"""

import collections
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from lib.data.banks import ESC10_FOLDS, RecordingBank, SyntheticBank
from lib.data.recordings import DIGIT_LICENSES, DIGIT_TAKES, attributions, digit_table
from lib.encoders import ENCODERS, SHIPPED, pool
from lib.encoders.pocket import GEOMETRIES, Geometry
from lib.encoders.pretrain import RECIPES, all_options
from lib.errors import unknown_name
from lib.paths import MANIFESTS, WEIGHTS


@dataclass(frozen=True)
class Original:
    """An encoder as Table 1 of the paper has it."""

    label: str
    year: int
    paradigm: str
    mask: bool
    ema: bool
    global_cls: bool
    supervised: bool
    data: str


@dataclass(frozen=True)
class Page:
    """How a pocket encoder stands to its original; ``{hidden}`` and the like stand for the numbers of `facts`.

    Attributes
    ----------
    reference : str
        Who made the original.
    task : str
        What the encoder has to do in pretraining.
    kept, left_out : str
        Of the original, in the pocket version.
    table_1 : str
        Where the original is not what its row of Table 1 says; empty where it is.
    """

    reference: str
    task: str
    kept: str
    left_out: str
    table_1: str = ""


ORIGINALS = {  # label, year, paradigm, mask, EMA, global [cls], supervised+, data
    name: Original(*row)
    for name, row in {
        "pocket-amae": ("A-MAE", 2022, "Masked spec reconstruction", True, False, False, False, "as2m"),
        "pocket-beats": ("BEATs", 2022, "Masked token prediction", True, False, False, True, "as2m"),
        "pocket-asit": (
            *("ASiT", 2024, "Masked spec reconstruction + latent distillation"),
            *(True, True, True, False, "as2m"),
        ),
        "pocket-eat": ("EAT", 2024, "Masked latent distillation", True, True, True, True, "as2m"),
        "pocket-dasheng": ("Dasheng", 2024, "Masked spec reconstruction", True, False, False, False, "as2m+"),
        "pocket-sslam": ("SSLAM", 2025, "Masked latent distillation + mixtures", True, True, True, True, "as2m"),
    }.items()
}
NO_CLS = "It has no [cls], though Section 2.2 says that all encoders provide one."
PAGES = {
    "pocket-amae": Page(
        "Huang et al., 2022",
        task="rebuild hidden patches of the spectrogram from the visible ones",
        kept="{hidden} of the patches hidden, at random; the encoder sees the visible ones alone; the loss counts "
        "hidden patches only, each normalised",
        left_out="the decoder's local attention; it is a small plain one here",
    ),
    "pocket-beats": Page(
        "Chen et al., 2023a",
        task="name the code that a tokenizer gives to each hidden patch",
        kept="{hidden} hidden; visible patches alone in the encoder; no [cls]; first a tokenizer of random "
        "projections, then one distilled from the encoder that the first one gave ({num_codes} codes)",
        left_out="a second encoder from random weights: with the second tokenizer the first one goes on; relative "
        "positions and deep-norm blocks; the third iteration, and the teacher fine-tuned on labels of its “+” variant",
        table_1="Table 1 gives it no EMA. The codebook of its tokenizer is one: each code is the moving average of the "
        f"vectors that chose it. Its encoder has no moving-average teacher. {NO_CLS}",
    ),
    "pocket-asit": Page(
        "Ahmed et al., 2024",
        task="rebuild corrupted patches, and agree with a teacher that hears them whole: patch by patch, and by [cls] "
        "on another crop of the clip",
        kept="two crops a clip, {hidden} of their patches corrupted in blocks, with zeros or with another clip's "
        "patches; three losses; teacher with centring and temperature",
        left_out="a start from random weights: it goes on from the finished A-MAE kind; crops of {crop} s, not 6 s; "
        "{classes} soft classes, not 8192 and 1024; a change of level instead of augmented audio; fixed, not learned, "
        "positions; of student and teacher the teacher is shipped",
    ),
    "pocket-eat": Page(
        "Chen et al., 2024",
        task="predict what a teacher hears at hidden places, and by [cls] what it hears on average",
        kept="{hidden} hidden, visible patches in blocks; {masks} masks a clip, so that one pass of the teacher serves "
        "{masks} of the student; targets from several layers; light decoder of convolutions; loss on [cls]",
        left_out="a start from random weights: it goes on from the finished A-MAE kind, whose teacher has something to "
        "say; post-norm blocks, and with them how the outputs of the teacher become targets",
    ),
    "pocket-dasheng": Page(
        "Dinkel et al., 2024",
        task="rebuild hidden slices of time from the visible ones",
        kept="patches of all frequencies, so that tokens follow each other in time only ({slice} ms each, {tokens} a "
        "clip); {hidden} hidden; no [cls]",
        left_out="batch normalisation of the input; learned positions; its largest size, 1.2 billion parameters",
        table_1=f"“as2m+” is 272,356 hours, where the two million clips of AudioSet are some 5,600. {NO_CLS}",
    ),
    "pocket-sslam": Page(
        "Alex et al., 2025",
        task="EAT's task, and again on mixtures of two clips, where a prediction has to be near the teacher's of the "
        "mixture and near the mean of its sources",
        kept="starts from the finished EAT kind; two clips over a random stretch of time; source retention; {hidden} "
        "hidden, {masks} masks a clip",
        left_out="mixes by the sum of powers, not by the larger log-mel; one stretch of mixture a clip; post-norm",
    ),
}
SUPERVISED = (
    "the base encoder and a linear layer on [cls] (the mean token where there is none), fine-tuned end to end on "
    "labels; the encoder sees {kept} of the patches. Left out: mixup, class-balanced sampling, layer-wise learning "
    "rates. The labels are the {classes} classes of the synthetic bank, where the originals have the 527 of AudioSet"
)
LICENCES = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "BSD-3-Clause": "https://opensource.org/license/bsd-3-clause",
}
KINDS = {
    "synthetic": "a mixture of the synthetic bank; the only clips with labels",
    "esc10": "a mixture of ESC-10 recordings, folds 1 to 3",
    "field": "a field recording, mostly with a few events of either bank over it",
    "digits": "spoken digits over coloured noise, half the time among a few events",
}


def available_encoders() -> list[str]:
    """Return the ids of the encoders that can be loaded: those whose weights are there, and the controls."""
    return [name for name in SHIPPED if ENCODERS[name].kind == "control" or weights_path(name).is_file()]


def missing_encoders() -> str:
    """Return a sentence that names the encoders whose weights are not there yet, or says that all are."""
    here = available_encoders()
    missing = [ENCODERS[name].label for name in SHIPPED if name not in here]
    if not missing:
        return f"All {len(GEOMETRIES)} pocket encoders are here, and {len(here) - len(GEOMETRIES)} controls."
    return f"Not here, because their weights are missing: {', '.join(missing)}. `make pretrain ENCODER=…` makes them."


def weights_path(name: str) -> Path:
    """Return where the weights of a pocket encoder lie, or would lie."""
    return WEIGHTS / f"{name}.safetensors"


def pairs() -> list[tuple[str, str]]:
    """Return the encoders two by two, for pictures: a base beside its supervised version, then the others."""
    with_plus = [(ENCODERS[name].base, name) for name in SHIPPED if ENCODERS[name].kind == "supervised"]
    taken = {name for pair in with_plus for name in pair}
    others = [name for name in GEOMETRIES if name not in taken] + ["random-vit"]
    return with_plus + list(zip(others[::2], others[1::2], strict=True))


# ---- what they are -----------------------------------------------------------------------------------------------


def stages(name: str) -> list[dict]:
    """Return the stages of an encoder's pretraining, those of the shipped weights where there are any.

    Each is a dict with the fields of `lib.encoders.pretrain.Stage`; `options` holds the objective's defaults too.
    """
    if name not in RECIPES:
        raise unknown_name("pocket encoder", name, list(RECIPES))
    path = MANIFESTS / "encoders" / f"{name}.json"
    shipped = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return shipped.get("stages") or [asdict(stage) | {"options": all_options(stage)} for stage in RECIPES[name]]


def facts(name: str) -> dict[str, str]:
    """Return the numbers that a page's words leave open, as text."""
    options = {key: value for stage in stages(name) for key, value in stage["options"].items()}
    geometry: Geometry = GEOMETRIES[name]
    frame_ms = geometry.patch[0] * geometry.hop_ms
    numbers = {key: f"{value}" for key, value in options.items() if isinstance(value, int)}
    for key, option in (("hidden", "mask_ratio"), ("kept", "keep")):
        if option in options:
            numbers[key] = f"{100 * options[option]:.0f} %"
    if "steps" in options:
        numbers["crop"] = f"{options['steps'] * frame_ms / 1000:.1f}"
    return numbers | {"slice": f"{frame_ms:.0f}", "tokens": f"{geometry.grid[0] * geometry.grid[1]}"}


def moving_average(name: str) -> str:
    """Return what in an encoder's pretraining is a moving average, and how slow: read from the objectives' `decay`."""
    said = []
    for stage in stages(name):
        decay = stage["options"].get("decay")
        if isinstance(decay, Sequence):
            said.append(f"teacher, {decay[0]:g} → {decay[1]:g}")
        elif decay is not None:
            said.append(f"codebook, {decay:g}")
    return "; ".join(dict.fromkeys(said)) or "no"


def beside_table_1() -> Markdown:
    """Return Table 1 of the paper with, under each original, its pocket version in the same columns."""
    head = ("", "paradigm; pocket: objective", "mask", "EMA", "global [cls]", "supervised⁺", "pretraining data")
    rows = []
    for name, of in ORIGINALS.items():
        marks = ["yes" if mark else "no" for mark in (of.mask, of.ema, of.global_cls, of.supervised)]
        rows.append((f"**{of.label}** ({of.year})", of.paradigm, *marks, of.data))
        objectives = dict.fromkeys(f"`{stage['objective']}`" for stage in stages(name))
        without = "no; its [cls] has no loss" if GEOMETRIES[name].cls else "no; there is no [cls]"
        plus = [entry.label for entry in ENCODERS.values() if entry.base == name]
        heard = f"{pool.CLIPS:,} clips, {hours(pool.CLIPS):.0f} h"
        rows.append(
            (
                ENCODERS[name].label,
                ", ".join(objectives),
                facts(name)["hidden"],
                moving_average(name),
                "yes" if of.global_cls else without,
                ", ".join(plus) or "no",
                "; ".join([heard, *(f"starts from {label}" for label in starts(name))]),
            )
        )
    return as_markdown(head, rows)


def starts(name: str) -> list[str]:
    """Return the labels of the encoders whose weights an encoder starts from."""
    return [ENCODERS[stage["start"]].label for stage in stages(name) if stage["start"] in ENCODERS]


def kept_and_left_out() -> Markdown:
    """Return in words what each pocket encoder has to do, what of the original is kept, and what is not."""
    head = ("", "has to", "kept", "left out or different", "where the original is not what Table 1 says")
    rows = []
    for name, page in PAGES.items():
        numbers = facts(name)
        said = page.task, page.kept.format(**numbers), page.left_out.format(**numbers), page.table_1 or "–"
        rows.append((f"**{ORIGINALS[name].label}** ({page.reference})", *said))
    return as_markdown(head, rows)


def supervised_in_words() -> Markdown:
    """Return what a supervised version is."""
    plus = [name for name in SHIPPED if ENCODERS[name].kind == "supervised"]
    words = SUPERVISED.format(**facts(plus[0]) | {"classes": len(SyntheticBank().classes)})
    return Markdown(f"{', '.join(ENCODERS[name].label for name in plus)}: {words}.")


# ---- how they learned --------------------------------------------------------------------------------------------


def loss_curves(names: Sequence[str]) -> pd.DataFrame:
    """Return the loss curves of the encoders that have one: ``encoder, stage, step, loss``, mean of each 100 steps."""
    columns, tables = ["encoder", "stage", "step", "loss"], []
    for name in names:
        path = WEIGHTS / f"{name}.loss.csv"
        if path.is_file():
            curve = pd.read_csv(path)
            curve = curve if "stage" in curve else curve.assign(stage="pretraining")  # a file of the first kind
            tables.append(curve.assign(encoder=name)[columns])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


# ---- what they heard ---------------------------------------------------------------------------------------------


def hours(clips: int, seconds: float = 10.0) -> float:
    """Return the hours that so many clips last."""
    return clips * seconds / 3600


@functools.cache
def pool_contents(clips: int = pool.CLIPS) -> pd.DataFrame:
    """Count what the pretraining pool holds, by kind of clip; the clips are planned, none is rendered.

    Returns
    -------
    pandas.DataFrame
        Index kind; ``clips, hours, events`` (a clip, on average), ``recordings`` (different ones), ``what``.
    """
    banks = {
        "synthetic": SyntheticBank(),
        "esc10": RecordingBank(pd.read_csv(MANIFESTS / "esc10.csv", dtype={"recording": str}), Path(), ESC10_FOLDS),
        "digits": RecordingBank(digit_table(), Path(), DIGIT_TAKES, "digits", DIGIT_LICENSES),
    }
    counted, events, files = collections.Counter(), collections.Counter(), collections.defaultdict(set)
    for index in range(clips):
        plan = pool.plan_clip(banks, pool.SEED, index)
        counted[plan.kind] += 1
        events[plan.kind] += sum(len(mixture.events) for mixture in plan.mixtures)
        recorded = [mixture for mixture in plan.mixtures if mixture.bank != "synthetic"]
        files[plan.kind] |= {event.source.rsplit(":", 1)[0] for mixture in recorded for event in mixture.events}
        files[plan.kind] |= {plan.field} if plan.field else set()
    rows = [
        (kind, counted[kind], hours(counted[kind]), events[kind] / counted[kind], len(files[kind]), KINDS[kind])
        for kind in pool.SHARES
    ]
    return pd.DataFrame(rows, columns=["kind", "clips", "hours", "events", "recordings", "what"]).set_index("kind")


def heard(names: Sequence[str]) -> pd.DataFrame:
    """Return how much each encoder hears in pretraining, repeats included; what its start had heard is not counted.

    Returns
    -------
    pandas.DataFrame
        Index label; ``steps, clips, hours``, ``passes`` over the pool (supervised: over its labelled clips), ``starts
        from``.
    """
    labelled, rows = int(pool_contents().loc["synthetic", "clips"]), []
    for name in (name for name in names if name in RECIPES):
        parts = stages(name)
        clips = sum(stage["steps"] * stage["batch_size"] for stage in parts)
        source = labelled if parts[-1]["labelled"] else pool.CLIPS
        steps, start = sum(stage["steps"] for stage in parts), ", ".join(starts(name)) or "random weights"
        rows.append((ENCODERS[name].label, steps, clips, hours(clips), clips / source, start))
    return pd.DataFrame(rows, columns=["", "steps", "clips", "hours", "passes", "starts from"]).set_index("")


# ---- whom to thank -----------------------------------------------------------------------------------------------


def authors() -> pd.DataFrame:
    """Return whose recordings pretraining may use: ``set, license, author, recordings``, no pair of names twice."""
    return attributions().groupby(["set", "license", "author"], as_index=False).agg(recordings=("file", "size"))


def credits_page() -> Markdown:
    """Return all names, by set and licence; a number behind a name counts its recordings where there are several."""
    rows = []
    for (source, licence), part in authors().groupby(["set", "license"], sort=False):
        part = part.sort_values("author", key=lambda names: names.str.casefold())
        names = [row.author + (f" ({row.recordings})" if row.recordings > 1 else "") for row in part.itertuples()]
        link = f"[{licence}]({LICENCES[licence]})"
        rows.append((source, link, f"{part['recordings'].sum():,}", " · ".join(map(escaped, names))))
    return as_markdown(("set", "licence", "recordings", "by"), rows)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text)


def as_markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markdown:
    """Return a table whose cells wrap, and whose code and links are alive."""
    lines = [head, ["---"] * len(head), *rows]
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))


def as_page(table: pd.DataFrame) -> Markdown:
    """Return a table of numbers as a page shows it: thousands with a comma, fractions with one decimal."""

    def shown(value: object) -> str:
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

    rows = [(f"**{row[0]}**", *map(shown, row[1:])) for row in table.itertuples(name=None)]
    return as_markdown(("", *table.columns), rows)
