"""Your own encoder: what the pipeline asks of it, and how it goes through store, heads and figures by a name.

`lib.own_encoder_check.check_encoder` says in words what is wrong with one. Nothing in the package has to be edited.
"""

import ast
import hashlib
import inspect
import re
import textwrap
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lib.audio import SAMPLE_RATE
from lib.encoders import ENCODERS, EncoderEntry
from lib.encoders.vit import Encoding
from lib.errors import InputError, unknown_name
from lib.files import digest
from lib.own_encoder_check import check_encoder, differ, front_end_of
from lib.own_encoder_order import ordinary
from lib.own_encoder_words import SENTENCES
from lib.store import build_store

KINDS = ("base", "supervised", "control")


class FrozenEncoder(Protocol):
    """What the pipeline asks of an encoder, beside being a `torch.nn.Module` whose parameters take no gradients.

    Attributes
    ----------
    grid : tuple of int
        ``(S_t, S_f)``: how many tokens a clip has in time and, from low to high, in frequency; N = S_t · S_f.
    front_end : hashable
        Numbers and strings that name the front end. Encoders that agree in it are handed the same spectrogram.
    """

    grid: tuple[int, int]
    front_end: Hashable

    def spectrogram(self, waveform: np.ndarray, sample_rate: int) -> Tensor:
        """Turn waveforms, float32 (B, samples) in [-1, 1], into what the encoder hears: float32 (B, ...).

        Each clip as if it were alone, padded or cropped to the length of the encoder. A rate (Hz) that is not the
        encoder's is an error. The waveform stays as it is.
        """

    def __call__(self, spectrogram: Tensor, attention: bool = False, layers: tuple[int, ...] = ()) -> Encoding:
        """Turn spectrograms (B, ...) into ``Encoding(tokens, cls, grid)``, alike whatever else is in the batch.

        Tokens (B, N, D) are time-major, n = t · S_f + f, and fit into half precision. `cls` is (B, D), or None where
        the model has none: then the mean token stands for it. What the model does not have may be ignored: attention
        from [cls] to the tokens (B, depth, heads, N), and a dictionary of the tokens and cls of other layers.
        """


@dataclass(frozen=True)
class OwnGeometry:
    """What an own encoder's embeddings depend on beside its weights; the store compares all of it.

    Attributes
    ----------
    front_end, grid, dim
        Key of the front end, ``(S_t, S_f)``, D.
    code : str
        A digest of the methods of the encoder's classes; comments do not count.
    heard : str
        A digest of what it makes of a few made sounds: functions, constants and files that its classes use show here.
    """

    front_end: Hashable
    grid: tuple[int, int]
    dim: int
    code: str
    heard: str


class OwnEncoder(nn.Module):
    """An encoder of the user's as the store, the heads and the figures know encoders; see `register`."""

    def __init__(self, encoder: nn.Module, geometry: OwnGeometry) -> None:
        super().__init__()
        self.encoder, self.geometry = encoder, geometry

    @property
    def grid(self) -> tuple[int, int]:
        """``(S_t, S_f)``."""
        return self.geometry.grid

    def spectrogram(self, waveform: np.ndarray | Tensor, sample_rate: int = SAMPLE_RATE) -> Tensor:
        """Return what the encoder's own `spectrogram` does."""
        return self.encoder.spectrogram(waveform, sample_rate)

    def forward(self, spectrogram: Tensor, attention: bool = False, layers: tuple[int, ...] = ()) -> Encoding:
        """Return the encoder's own encoding; where it has no cls, the mean of its tokens stands for it."""
        asked = {"attention": True} if attention else {}
        encoding = self.encoder(spectrogram, **asked, **({"layers": layers} if layers else {}))
        return encoding if encoding.cls is not None else replace(encoding, cls=encoding.tokens.float().mean(1))


OWN: dict[str, OwnEncoder] = {}  # what was registered in this process


def register(name: str, encoder: nn.Module, label: str = "", kind: str = "base", seconds: float = 10.0) -> OwnEncoder:
    """Give an encoder a name in `lib.encoders.ENCODERS`, in this process.

    Registered again, under the same name, it takes the place of what it was. Results that were computed before count as
    stale if its weights, its methods or what it makes of the made sounds are others now.

    Parameters
    ----------
    name : str
        Lower-case letters and digits, with single hyphens between: "my-model-2".
    encoder : nn.Module
        A `FrozenEncoder`.
    label : str
        What figures call it; the name by default.
    kind : {"base", "supervised", "control"}
        Pretrained without labels, with labels, or not at all; figures colour by it.
    seconds : float
        Length of the clips to come.

    Raises
    ------
    InputError
        If the name cannot be used or is the package's, or `check_encoder` finds something wrong.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise InputError(f"'{name}' cannot name files; use lower-case letters and digits with single hyphens between.")
    if name in ENCODERS and name not in OWN:
        raise InputError(f"'{name}' is the name of an encoder of the package; choose another.")
    if kind not in KINDS:
        raise unknown_name("kind of encoder", kind, KINDS)
    problems = check_encoder(encoder, seconds)
    if problems:
        more = f" ({len(problems) - 1} more: `check_encoder` lists them.)" if len(problems) > 1 else ""
        raise InputError(f"The encoder '{name}' cannot be registered. {problems[0]}{more}")
    geometry, has_cls = _described(encoder, seconds)
    for other, known in OWN.items():
        if other != name and known.geometry.front_end == geometry.front_end and not _alike(known, encoder, seconds):
            raise InputError(
                f"The encoder '{name}' cannot be registered. {SENTENCES['shared front end'].format(name=other)}"
            )
    OWN[name] = own = OwnEncoder(encoder, geometry)
    ENCODERS[name] = EncoderEntry(label or name, kind, lambda: own, cls="native" if has_cls else "mean")
    return own


def cache(name: str, dataset: str, counts: dict[str, int]) -> list[str]:
    """Fill the store with an own encoder's embeddings, in this process: no other one knows what a notebook defines.

    Parameters are those of `lib.store.build_store`. Once they are stored, everything else runs on all cores as ever.
    """
    if name not in OWN:
        raise unknown_name("own encoder", name, list(OWN))
    return build_store([name], dataset, counts, workers=1)


@torch.inference_mode()
def _described(encoder: nn.Module, seconds: float) -> tuple[OwnGeometry, bool]:
    """Return what the store compares, and whether the encoder has a cls of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums then come out the same to the last bit, run after run
    try:
        encoding = encoder(encoder.spectrogram(ordinary(seconds), SAMPLE_RATE))
    finally:
        torch.set_num_threads(threads)
    said = [part.half().cpu().numpy().tobytes() for part in (encoding.tokens, encoding.cls) if part is not None]
    heard = hashlib.sha256(b"".join(said)).hexdigest()
    grid, dim = tuple(encoder.grid), encoding.tokens.shape[-1]
    return OwnGeometry(front_end_of(encoder), grid, dim, _code(encoder), heard), encoding.cls is not None


def _code(encoder: nn.Module) -> str:
    """Return a digest of all methods of the classes that an encoder is made of, torch's own aside."""
    kinds = {kind for part in encoder.modules() for kind in type(part).__mro__}
    found = []
    for kind in sorted(kinds, key=lambda kind: kind.__qualname__):
        if kind.__module__.split(".")[0] in ("torch", "builtins", "typing"):
            continue
        for name, member in sorted(vars(kind).items()):
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(function):
                found.append((kind.__qualname__, name, _tree(function)))
    return digest(found)


def _tree(function: object) -> str:
    """Return a function's syntax; where its source cannot be had, nothing: what it does shows in the made sounds."""
    try:
        return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):
        return ""


def _alike(known: OwnEncoder, encoder: nn.Module, seconds: float) -> bool:
    """Return whether two encoders make the same spectrogram of the same clips."""
    theirs, ours = (one.spectrogram(ordinary(seconds), SAMPLE_RATE) for one in (known, encoder))
    return theirs.shape == ours.shape and not differ(theirs, ours)
