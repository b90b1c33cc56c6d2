"""Numbers that describe the tokens of a frozen encoder, without labels and without training anything.

Symbols: ``B`` clips, ``N`` patch tokens a clip (time-major), ``D`` token dimension. All sums are taken in double
precision, so that a share that is zero comes out as zero.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.audio import SAMPLE_RATE
from lib.data.datasets import Soundscapes
from lib.encoders import ENCODERS, load_encoder
from lib.encoders.pocket import LogMelPatches
from lib.encoders.vit import Encoding
from lib.errors import InputError

STATISTICS = {  # id → what it is called on a page
    "cosine": "mean cosine of two tokens of a clip",
    "rank": "effective rank of a clip's tokens",
    "clips": "share of variance between clips",
    "places": "share of variance between places",
    "within": "share of variance within",
    "attention": "entropy of [cls] attention, share of log N",  # a row a layer
}


def mean_cosine(tokens: Tensor) -> Tensor:
    """Return how alike the tokens of a clip are: the mean cosine over all pairs of two different tokens.

    With ``u_n = x_n / |x_n|`` it needs no pair: ``(|sum_n u_n|² - sum_n |u_n|²) / (N (N - 1))``. Tokens that all point
    the same way have 1; tokens in all directions have 0, as have orthogonal ones; the least is ``-1 / (N - 1)``.

    Parameters
    ----------
    tokens : torch.Tensor
        ``(B, N, D)``.

    Returns
    -------
    torch.Tensor
        ``(B,)``, float64.

    Raises
    ------
    InputError
        If the shape is another one, or a clip has a single token.
    """
    _check(tokens)
    unit, N = F.normalize(tokens.double(), dim=-1), tokens.shape[1]  # (B, N, D)
    return (unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))) / (N * (N - 1))


def effective_rank(tokens: Tensor) -> Tensor:
    """Return how many directions the tokens of a clip fill: the effective rank of its matrix of tokens.

    It is the exponential of the entropy of the singular values ``s`` of the ``N x D`` matrix, scaled to sum to one::

        p_i = s_i / sum_j s_j,    effective rank = exp(-sum_i p_i log p_i)

    (Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.) It lies between 1, all
    tokens multiples of one, and ``min(N, D)``, as many orthogonal tokens of one length. The tokens are taken as they
    are, their mean is not removed: a large part that all share is one direction, and makes the rank smaller.

    Parameters
    ----------
    tokens : torch.Tensor
        ``(B, N, D)``.

    Returns
    -------
    torch.Tensor
        ``(B,)``, float64.

    Raises
    ------
    InputError
        If the shape is another one, or a clip has a single token.
    """
    _check(tokens)
    values = torch.linalg.svdvals(tokens.double())  # (B, min(N, D))
    shares = values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum(-1).exp()


def variance_shares(tokens: Tensor) -> dict[str, float]:
    """Split the variance of many clips' tokens into three shares that sum to one.

    A two-way analysis of variance without replication (Fisher, 1925), summed over dimensions. A token is the grand
    mean m, plus what its clip has everywhere, plus what its place has in every clip, plus a rest::

        x_bn = m + a_b + c_n + r_bn,   a_b = mean_n x_bn - m,   c_n = mean_b x_bn - m
        sum |x_bn - m|² = N sum_b |a_b|² + B sum_n |c_n|² + sum |r_bn|²

    The mean token of a clip knows `clips` and nothing else; `places` is position and the spectrum that all clips share;
    `within` is what a clip says here and not elsewhere. Tokens without any structure do not have shares of zero: then
    `clips` is about ``1 / N`` and `places` about ``1 / B``.

    Parameters
    ----------
    tokens : torch.Tensor
        ``(B, N, D)``, two clips or more.

    Returns
    -------
    dict
        ``clips``, ``places``, ``within``: the three terms of the second line over its left side.

    Raises
    ------
    InputError
        If the shape is another one, there is a single clip or token, or all tokens are the same.
    """
    _check(tokens)
    x = tokens.double() - tokens.double().mean((0, 1))  # (B, N, D)
    total = x.square().sum().item()
    if len(x) < 2 or total == 0.0:
        raise InputError("Two clips or more, and tokens that are not all the same, are needed to split their variance.")
    clip, place = x.mean(1, keepdim=True), x.mean(0, keepdim=True)  # (B, 1, D), (1, N, D)
    parts = {"clips": clip.expand_as(x), "places": place.expand_as(x), "within": x - clip - place}
    return {name: part.square().sum().item() / total for name, part in parts.items()}


def attention_entropy(attention: Tensor) -> Tensor:
    """Return how evenly [cls] attends to the patches, by layer: the entropy of its attention over ``log N``.

    1 is the same attention everywhere, 0 all of it on one patch. What [cls] pays to itself is left out and the rest
    scaled to sum to one. The entropy is taken head by head and then averaged: heads that look at different places do
    not pass for one that looks everywhere.

    Parameters
    ----------
    attention : torch.Tensor
        ``(B, depth, heads, N)``, from [cls] to the patches, as in `lib.encoders.vit.Encoding`.

    Returns
    -------
    torch.Tensor
        ``(B, depth)``, float64, in [0, 1].

    Raises
    ------
    InputError
        If the shape is another one.
    """
    if attention.ndim != 4 or attention.shape[-1] < 2:
        raise InputError(f"Attention (B, depth, heads, N) is expected, but the shape is {tuple(attention.shape)}.")
    shares = attention.double() / attention.double().sum(-1, keepdim=True)
    entropy = torch.special.entr(shares).sum(-1)  # (B, depth, heads)
    return entropy.mean(-1) / np.log(attention.shape[-1])


def _check(tokens: Tensor) -> None:
    if tokens.ndim != 3 or tokens.shape[1] < 2:
        raise InputError(f"Tokens (B, N, D) with N of 2 or more are expected, but the shape is {tuple(tokens.shape)}.")


# ---- of the encoders --------------------------------------------------------------------------------------------


def waveforms(data: Soundscapes, split: str, count: int) -> np.ndarray:
    """Render the first `count` clips of a split: float32 ``(count, samples)``."""
    data.check_count(split, count)
    return np.stack([data.scene(split, index).audio for index in range(count)])


def encode(name: str, clips: np.ndarray, batch_size: int = 32) -> Encoding:
    """Send clips through a frozen encoder, and keep its tokens, [cls], and the attention of [cls] if it has one.

    Parameters
    ----------
    name : str
        An id of `lib.encoders.ENCODERS`.
    clips : numpy.ndarray
        Waveforms at 16 kHz, ``(B, samples)``.
    batch_size : int
        Clips at a time; it changes the memory needed, and nothing else.
    """
    encoder = load_encoder(name)
    asked = {} if isinstance(encoder, LogMelPatches) else {"attention": True}
    with torch.inference_mode():
        batches = [encoder.spectrogram(batch, SAMPLE_RATE) for batch in _batches(clips, batch_size)]
        parts = [encoder(batch, **asked) for batch in batches]
    tokens, cls = torch.cat([p.tokens for p in parts]), torch.cat([p.cls for p in parts])  # (B, N, D), (B, D)
    attention = None if parts[0].attention is None else torch.cat([p.attention for p in parts])
    return Encoding(tokens, cls, encoder.grid, attention)


def _batches(clips: np.ndarray, size: int) -> list[np.ndarray]:
    return [clips[start : start + size] for start in range(0, len(clips), size)]


def token_statistics(encodings: Mapping[str, Encoding]) -> pd.DataFrame:
    """Measure all statistics of this file on what encoders say about the same clips.

    Parameters
    ----------
    encodings : mapping
        Encoder's id → its encoding of the clips.

    Returns
    -------
    pandas.DataFrame
        Tidy, a row a number: ``encoder, statistic, layer, value, sd, clips``. `statistic` is a key of `STATISTICS`;
        `layer` counts from 1 and is empty but for the attention; `value` is the mean over clips and `sd` their
        standard deviation, empty for the shares of variance, which are of all clips together.
    """
    rows = []
    for name, encoding in encodings.items():
        of_clips = {"cosine": mean_cosine(encoding.tokens), "rank": effective_rank(encoding.tokens)}  # (B,) each
        for statistic, values in of_clips.items():
            rows.append((name, statistic, np.nan, values.mean().item(), values.std().item()))
        for statistic, share in variance_shares(encoding.tokens).items():
            rows.append((name, statistic, np.nan, share, np.nan))
        if encoding.attention is not None:
            for layer, values in enumerate(attention_entropy(encoding.attention).T, start=1):  # (B,) each
                rows.append((name, "attention", layer, values.mean().item(), values.std().item()))
    table = pd.DataFrame(rows, columns=["encoder", "statistic", "layer", "value", "sd"])
    return table.assign(layer=table["layer"].astype("Int64"), clips=len(next(iter(encodings.values())).tokens))


def last_layer(table: pd.DataFrame) -> pd.DataFrame:
    """Return a number an encoder and statistic: rows encoders, columns `STATISTICS`, attention of the last layer."""
    last = table["layer"].isna() | (table["layer"] == table["layer"].max())
    wide = table[last].pivot(index="encoder", columns="statistic", values="value")
    return wide.reindex(index=list(dict.fromkeys(table["encoder"])), columns=list(STATISTICS))


def statistics_page(table: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of `last_layer` as a page shows them."""
    wide = last_layer(table).rename(columns=STATISTICS | {"attention": f"{STATISTICS['attention']}, last layer"})
    digits = [1 if statistic == "rank" else 3 for statistic in STATISTICS]
    for column, places in zip(wide.columns, digits, strict=True):
        wide[column] = [f"{value:.{places}f}" if value == value else "no [cls]" for value in wide[column]]
    return wide.set_axis([ENCODERS[name].label for name in wide.index]).rename_axis(columns=None)


def supervised_step(table: pd.DataFrame) -> pd.DataFrame:
    """Return what fine-tuning on labels changed: a row a pair and statistic, ``pair, statistic, base, plus``.

    Only pairs of which both versions are in the table; the attention is that of the last layer.
    """
    wide, rows = last_layer(table), []
    for name in wide.index:
        base = ENCODERS[name].base
        if base in wide.index:
            rows += [(ENCODERS[base].label, s, wide.loc[base, s], wide.loc[name, s]) for s in STATISTICS]
    return pd.DataFrame(rows, columns=["pair", "statistic", "base", "plus"]).dropna(ignore_index=True)


def in_words(table: pd.DataFrame) -> list[str]:
    """Say in sentences what the table holds; every number and every name in them is taken from it."""
    wide = last_layer(table)
    pretrained = wide[[ENCODERS[name].kind != "control" for name in wide.index]]
    spoken = {
        "cosine": ("The mean cosine of two tokens of a clip", "{:.2f}"),
        "rank": ("The effective rank of a clip's tokens", "{:.0f}"),
        "clips": ("The share of variance between clips", "{:.0%}"),
        "places": ("The share of variance between places", "{:.0%}"),
        "within": ("The share of variance that neither explains", "{:.0%}"),
        "attention": ("The entropy of [cls] attention in the last layer, as a share of log N,", "{:.0%}"),
    }
    lines, steps = [], supervised_step(table)
    for statistic, (what, form) in spoken.items():
        controls = wide[statistic].drop(pretrained.index).dropna()
        said = [_range(pretrained[statistic].dropna(), form)]
        said += [f"{form.format(value)} for the {ENCODERS[name].label}" for name, value in controls.items()]
        step = steps[steps["statistic"] == statistic]
        if len(step):
            said.append(
                f"fine-tuning on labels raised it in {(step['plus'] > step['base']).sum()} of {len(step)} pairs"
            )
        lines.append(f"{what} is {'; '.join(part for part in said if part)}.")
    return lines


def _range(values: pd.Series, form: str) -> str:
    """Return "0.31 for A to 0.62 for B", or the one value that there is, or nothing."""
    ends = dict.fromkeys([values.idxmin(), values.idxmax()]) if len(values) else {}
    return " to ".join(f"{form.format(values[name])} for {ENCODERS[name].label}" for name in ends)
