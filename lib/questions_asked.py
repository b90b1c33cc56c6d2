"""The twelve conclusions that are asked of a profile, three a question; the rule stands in `lib.questions`."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.stats import rankdata

from lib.encoders import ENCODERS
from lib.published import FINE_TUNING
from lib.question_draws import Scores
from lib.questions import Part, conclusion
from lib.rankings import win_matrix

SAME_RANKING = 0.5  # a rank correlation below is nearer to none than to the same ranking
CLS, PROTOTYPES = ("linear", "mlp"), ("proto", "protobin")
GROUPS = {"general": "general audio", "bioacoustic": "bioacoustics", "control": "single-label audio"}


def case_part(name: str, cases: np.ndarray, wins: Callable[[], tuple[int, int]] | None = None) -> list[Part]:
    """Return a part that is the average of its cases, ``(1 + R, …)``; none if no case was run."""
    cases = cases.reshape(len(cases), -1)  # (1 + R, …) -> (1 + R, configurations)
    cases = cases[:, np.isfinite(cases[0])]
    return [Part(name, cases, cases.mean(1), wins)] if cases.shape[1] else []


def leads(scores: Scores, firsts: Sequence[str], seconds: Sequence[str], group: str, kind: str = "base") -> list[Part]:
    """Return a part for each pair of heads: the points of the first above the second where both ran."""
    found = []
    for first in firsts:
        for second in seconds:
            cases = scores.of(first, group, kind) - scores.of(second, group, kind)
            name = f"{first} over {second}, {GROUPS[group]}" + (", supervised⁺" if kind == "supervised" else "")
            found += case_part(name, cases, partial(count_wins, scores, first, second, group, kind))
    return found


def count_wins(scores: Scores, first: str, second: str, group: str, kind: str) -> tuple[int, int]:
    """Return the wins of one head and of the other by more than one sd, as in Figure 5."""
    wins = win_matrix(scores.means(group, kind), [first, second])["wins"]
    return int(wins[0]), int(wins[1])


def called(encoder: str) -> str:
    """Return what an encoder is called in a text, whether it is ours or the paper's."""
    return ENCODERS[encoder].label if encoder in ENCODERS else encoder


def others(scores: Scores, heads: Sequence[str], group: str, kind: str = "base") -> list[str]:
    """Return the heads that ran in a group, but for some."""
    return [head for head in scores.heads(group, kind) if head not in heads]


# ---- Q1 ------------------------------------------------------------------------------------------------------------


@conclusion("Q1", "Abstract", "our method notably outperforms linear […] probing")
def protobin_above_linear(scores: Scores) -> list[Part]:
    """Average protobin's points above linear, on general audio and on bioacoustics (a part each)."""
    return [part for group in ("general", "bioacoustic") for part in leads(scores, ["protobin"], ["linear"], group)]


@conclusion(
    "Q1", "Section 1", "Prototype methods notably outperform other pooling methods, including linear and attentive"
)
def prototypes_on_top(scores: Scores) -> list[Part]:
    """Average the points of proto and of protobin above every other head, on general audio (a part a pair)."""
    return leads(scores, PROTOTYPES, others(scores, PROTOTYPES, "general"), "general")


@conclusion("Q1", "Section 4.2, Q1", "mhca […] and […] linpre improve over fixed global descriptors")
def above_fixed_descriptors(scores: Scores) -> list[Part]:
    """Average the points of mhca and of linpre above linear and mlp, on general audio (a part a pair)."""
    return leads(scores, ["mhca", "linpre"], CLS, "general")


# ---- Q2 ------------------------------------------------------------------------------------------------------------


@conclusion(
    "Q2",
    "Section 4.2, Q2",
    "the backbone ranking under linear is completely reshuffled when using protobin",
    unit="rank correlation",
    threshold=SAME_RANKING,
    above=False,
    leave_out=("dataset",),
)
def ranking_reshuffled(scores: Scores) -> list[Part]:
    """Correlate the ranks of the encoders (Spearman) under linear and under protobin, by averages over general audio.

    A faithful evaluator comes near 1; the threshold is 0.5, midway between the same ranking and none. Configurations
    are pairs of encoders, on the paper's side if the two heads order them differently. No encoder is left out: a
    ranking of fewer is another ranking.
    """
    linear, protobin = (by_encoder(scores.of(head, "general")) for head in ("linear", "protobin"))
    both = np.isfinite(linear[0] + protobin[0])
    if both.sum() < 3:
        return []
    linear, protobin = linear[:, both], protobin[:, both]  # (1 + R, encoders)
    one, other = np.triu_indices(linear.shape[1], 1)
    opposite = -np.sign(linear[:, one] - linear[:, other]) * (protobin[:, one] - protobin[:, other])
    return [Part("the encoders", opposite, rank_correlation(linear, protobin))]


def by_encoder(cases: np.ndarray) -> np.ndarray:
    """Average over datasets, ``(1 + R, datasets, encoders)`` to ``(1 + R, encoders)``; NaN without any."""
    ran = np.isfinite(cases[0]).any(0)  # (encoders,)
    found = np.full((len(cases), cases.shape[2]), np.nan)
    found[:, ran] = np.nanmean(cases[:, :, ran], axis=1)
    return found


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of each row, ``(1 + R, encoders)`` to ``(1 + R,)``."""
    ranks = [rankdata(table, axis=1) for table in (one, other)]
    ranks = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    product, size = (ranks[0] * ranks[1]).sum(1), np.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))
    return np.divide(product, size, out=np.full(len(one), np.nan), where=size > 0)  # all alike: there is no ranking


@conclusion(
    "Q2",
    "Section 4.2, Q2",
    "this is a systemic issue: linear/mlp act as a performance ceiling",
    leave_out=("dataset",),
)
def cls_is_a_ceiling(scores: Scores) -> list[Part]:
    """Average protobin's points above linear and above mlp over general audio, for each encoder (a part each)."""
    found = []
    for head in CLS:
        cases = scores.of("protobin", "general") - scores.of(head, "general")
        for at, encoder in enumerate(scores.encoders):
            found += case_part(f"protobin over {head}, {called(encoder)}", cases[:, :, at])
    return found


@conclusion(
    "Q2",
    "Section 4.2, Q2",
    "On as20k, protobin closes 63% of the performance gap to fine-tuning (see Figure 2)",
    leave_out=(),
)
def most_of_the_gap(scores: Scores) -> list[Part]:
    """Ask whether protobin closes more than half of the gap, on the many-class dataset with the encoder of Figure 2.

    Two parts: fine-tuning's points above linear (there is a gap), and protobin's above the middle of the two.
    """
    shown = [at for at, encoder in enumerate(scores.encoders) if encoder == scores.shown]
    linear, protobin, tuned = (many_class(scores, head)[:, shown] for head in ("linear", "protobin", FINE_TUNING))
    gap, above_middle = tuned - linear, protobin - (linear + tuned) / 2
    return case_part("fine-tuning over linear", gap) + case_part("protobin over the middle of the gap", above_middle)


def many_class(scores: Scores, head: str) -> np.ndarray:
    """Return the scores of a head on the many-class dataset, ``(1 + R, encoders)``; NaN where it was not run."""
    names = [scores.datasets[at] for at in scores.rows_of("general")]
    cases = scores.of(head, "general")
    if scores.many not in names:
        return np.full((len(cases), len(scores.encoders)), np.nan)
    return cases[:, names.index(scores.many)]


# ---- Q3 ------------------------------------------------------------------------------------------------------------


@conclusion(
    "Q3",
    "Section 4.2, Q3",
    "On single-label control tasks […], a substantial performance gap persists between the [cls]-token probe and "
    "token-aware methods",
)
def gap_on_single_label(scores: Scores) -> list[Part]:
    """Average the points of mhca and of protobin above linear on single-label audio (a part each)."""
    return leads(scores, ["mhca", "protobin"], ["linear"], "control")


@conclusion(
    "Q3",
    "Section 4.2, Q3",
    "the [cls]-probe’s performance degrades more sharply […] when moving to the multi-label as20k",
    unit="% of the single-label score",
)
def linear_falls_more(scores: Scores) -> list[Part]:
    """Compare the share of its single-label score that linear loses on the many-class dataset with protobin's share.

    Averages over encoders and datasets first; mAP is set against accuracy, which is why shares are compared and not
    points. A configuration is an encoder. (Than mhca, linear does not fall more in the paper's own tables.)
    """
    single = np.stack([by_encoder(scores.of(head, "control")) for head in ("linear", "protobin")])
    many = np.stack([many_class(scores, head) for head in ("linear", "protobin")])  # (2, 1 + R, encoders)
    ran = np.isfinite(single[:, 0] + many[:, 0]).all(0)  # (encoders,)
    if not ran.any():
        return []
    single, many = single[..., ran], many[..., ran]
    losses = 100 * (1 - many / single)  # (2, 1 + R, encoders)
    averages = 100 * (1 - many.mean(-1) / single.mean(-1))  # (2, 1 + R)
    return [Part("linear against protobin", losses[0] - losses[1], averages[0] - averages[1])]


@conclusion("Q3", "Section 4.2, Q3", "This dynamic changes in the presence of multiple sound sources")
def lead_grows_with_polyphony(scores: Scores) -> list[Part]:
    """Take protobin's lead over mhca on single-label audio from that on general audio.

    On the former mhca "is often competitive with, or even superior to" protobin. A configuration is an encoder.
    """
    single, multi = (scores.of("protobin", group) - scores.of("mhca", group) for group in ("control", "general"))
    return case_part("lead on general audio less that on single-label audio", by_encoder(multi) - by_encoder(single))


# ---- Q4 ------------------------------------------------------------------------------------------------------------


def uplift(scores: Scores, head: str, group: str) -> np.ndarray:
    """Return what supervised⁺ adds to a head, ``(1 + R, datasets, encoders)``; NaN without both versions."""
    return scores.of(head, group, "supervised") - scores.of(head, group, "base")


@conclusion("Q4", "Section 4.2, Q4", "The [cls]-token-based methods see the largest gains")
def cls_gains_most(scores: Scores) -> list[Part]:
    """Average by how much more supervised⁺ adds to linear and to mlp than to every other head, on general audio.

    A part a pair of heads; configurations are those on which both heads ran with both versions of the encoder.
    """
    found = []
    for head in CLS:
        for other in others(scores, CLS, "general", "supervised"):
            gap = uplift(scores, head, "general") - uplift(scores, other, "general")
            found += case_part(f"{head} gains more than {other}", gap)
    return found


@conclusion("Q4", "Section 4.2, Q4", "The consistent superiority of prototypical methods in both settings")
def prototypes_stay_on_top(scores: Scores) -> list[Part]:
    """Average the points of proto and of protobin above every other head on supervised⁺ encoders.

    On general audio and on bioacoustics (a part a pair of heads and group).
    """
    return [
        part
        for group in ("general", "bioacoustic")
        for part in leads(scores, PROTOTYPES, others(scores, PROTOTYPES, group, "supervised"), group, "supervised")
    ]


@conclusion(
    "Q4",
    "Section 4.2, Q4",
    "supervised⁺ primarily strengthens the single-vector [cls] descriptor for in-domain tasks but fails to add "
    "transferable, token-level information for out-of-domain tasks",
)
def uplift_is_local(scores: Scores) -> list[Part]:
    """Take what supervised⁺ adds to linear beyond what it adds to protobin, and compare general audio and bioacoustics.

    A configuration is an encoder that has both versions.
    """
    extra = [
        by_encoder(uplift(scores, "linear", group) - uplift(scores, "protobin", group))
        for group in ("general", "bioacoustic")
    ]
    return case_part("linear's extra gain on general audio less that on bioacoustics", extra[0] - extra[1])
