"""Is an encoder fit for the pipeline? A few made sounds go through it, and what is wrong is said in words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.audio import SAMPLE_RATE
from lib.encoders.pocket import GEOMETRIES, pocket_spectrogram
from lib.own_encoder_order import misplaced, ordinary
from lib.own_encoder_words import SENTENCES, TRAINING

ALIKE = 1e-3  # root mean square of a difference, as a share of the spread: less is rounding
KEPT = 1e-2  # the same, of what may depend on the size of a batch, and of what half precision may lose
HALF_MAX = torch.finfo(torch.float16).max
MEMBERS = ("grid", "front_end", "spectrogram")


def check_encoder(encoder: nn.Module, seconds: float = 10.0) -> list[str]:
    """Say in words what is wrong with an encoder; nothing if it is fit for the store, the heads and the figures.

    Parameters
    ----------
    encoder : nn.Module
        What should be a `lib.own_encoder.FrozenEncoder`. It is taken as it is: freeze it first.
    seconds : float
        Length of the made sounds: that of the clips to come.

    Returns
    -------
    list of str
        A sentence for each problem. Where one makes it impossible to go on, it is the last.
    """
    return list(problems_of(encoder, seconds).values())


@torch.inference_mode()
def problems_of(encoder: nn.Module, seconds: float = 10.0) -> dict[str, str]:
    """Return the sentences of `check_encoder` by their keys in `lib.own_encoder_words.SENTENCES`."""
    check = _Check(encoder, seconds)
    for step in (check.members, check.front_end, check.shapes, check.passes, check.numbers, check.order):
        if not step():
            break
    return check.found


def front_end_of(encoder: Any) -> Any:
    """Return what names the front end; the package's own encoders keep it in their geometry."""
    return getattr(getattr(encoder, "geometry", encoder), "front_end", None)


def differ(one: Tensor, other: Tensor, tolerance: float = ALIKE) -> bool:
    """Return whether two tensors of one shape differ by more than rounding, against the spread of the second."""
    one, other = one.double(), other.double()
    spread = max(other.std(correction=0).item(), torch.finfo(torch.float32).eps * other.abs().max().item())
    return (one - other).square().mean().sqrt().item() > tolerance * spread


class _Check:
    """A check in progress: each step notes what it finds, and returns whether the next one makes sense."""

    def __init__(self, encoder: nn.Module, seconds: float) -> None:
        self.encoder, self.seconds, self.found = encoder, seconds, {}

    def note(self, key: str, **facts: object) -> None:
        self.found.setdefault(key, SENTENCES[key].format(**facts))

    def members(self) -> bool:
        """Look at the encoder before any sound is heard."""
        encoder = self.encoder
        if not isinstance(encoder, nn.Module):
            self.note("no module", found=type(encoder).__name__)
            return False
        key = front_end_of(encoder)
        missing = [name for name in MEMBERS if (key is None if name == "front_end" else not hasattr(encoder, name))]
        if missing:
            self.note("member", name="`, `".join(missing))
            return False
        if not _is_grid(encoder.grid):
            self.note("grid", found=repr(encoder.grid))
            return False
        if not _is_key(key):
            self.note("front end key", found=repr(key))
        for name, value in encoder.state_dict().items():
            if _attempt(value.numpy)[1]:
                self.note("weights", name=name, found=f"{value.dtype} on {value.device}")
        taking = sum(parameter.requires_grad for parameter in encoder.parameters())
        if taking:
            self.note("gradients", count=taking)
        return "front end key" not in self.found

    def front_end(self) -> bool:
        """Go from waveforms to spectrograms."""
        spectrogram_of, clips = self.encoder.spectrogram, ordinary(self.seconds)  # (3, samples)
        given = clips.copy()
        whole, error = _attempt(spectrogram_of, given, SAMPLE_RATE)
        if error:
            self.note("spectrogram fails", shape=clips.shape, error=error)
            return False
        if not isinstance(whole, Tensor):
            self.note("spectrogram type", found=type(whole).__name__)
            return False
        if whole.ndim == 0 or len(whole) != len(clips):
            self.note("spectrogram clips", shape=tuple(whole.shape), clips=len(clips))
            return False
        if whole.dtype != torch.float32:
            self.note("spectrogram dtype", found=whole.dtype)
        if not np.array_equal(given, clips):
            self.note("waveform changed")
        if not torch.isfinite(whole).all():
            self.note("spectrogram values")
            return False
        if differ(spectrogram_of(clips.copy(), SAMPLE_RATE), whole):
            self.note("spectrogram random")
            return False
        alone, error = _attempt(spectrogram_of, clips[:1].copy(), SAMPLE_RATE)
        if error or alone.shape != whole[:1].shape:
            self.note("spectrogram alone", error=error or _shapes(alone, whole))
        elif differ(alone, whole[:1]):
            self.note("spectrogram batch")
        slower, error = _attempt(spectrogram_of, clips.copy(), SAMPLE_RATE // 2)
        if not error and slower.shape == whole.shape and not differ(slower, whole):
            self.note("rate")
        self.spectrogram = whole
        self._sharing(clips)
        return True

    def _sharing(self, clips: np.ndarray) -> None:
        """Compare with a pocket encoder that has the same front end by its key."""
        for name, geometry in GEOMETRIES.items():
            if geometry.front_end == front_end_of(self.encoder):
                theirs = pocket_spectrogram(clips, SAMPLE_RATE, geometry)
                if theirs.shape != self.spectrogram.shape or differ(theirs, self.spectrogram):
                    self.note("shared front end", name=name)
                return

    def shapes(self) -> bool:
        """Go from spectrograms to tokens, and look at the shapes."""
        self.spare = self.spectrogram.clone()  # what an encoder is given may come back changed
        self.state = {name: value.clone() for name, value in self.encoder.state_dict().items()}
        self.encoding, error = _attempt(self.encoder, self.spectrogram)
        if error:
            self.note("call fails", shape=tuple(self.spare.shape), error=error)
            return False
        missing = [name for name in ("tokens", "cls", "grid") if not hasattr(self.encoding, name)]
        if missing:
            self.note("no encoding", found=type(self.encoding).__name__, name="`, `".join(missing))
            return False
        if not self._tokens_fit():
            return False
        tokens, cls, grid = self.encoding.tokens, self.encoding.cls, self.encoding.grid
        if tuple(grid) != tuple(self.encoder.grid):
            self.note("encoding grid", found=tuple(grid), wanted=tuple(self.encoder.grid))
        shape, wanted = getattr(cls, "shape", ()), (len(tokens), tokens.shape[2])
        if cls is not None and shape != wanted:
            self.note("cls shape", found=tuple(shape), wanted=wanted)
            return False
        self._options()
        return True

    def _tokens_fit(self) -> bool:
        """Look whether the tokens are (B, N, D) with as many places as the grid has."""
        tokens, (S_t, S_f), clips = self.encoding.tokens, self.encoder.grid, len(self.spare)
        if not isinstance(tokens, Tensor) or not tokens.is_floating_point():
            self.note("tokens type", found=tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__)
            return False
        shape, wanted = tuple(tokens.shape), S_t * S_f
        if len(shape) != 3:
            self.note("tokens rank", shape=shape)
        elif shape[0] != clips:
            self.note("tokens clips", shape=shape, clips=clips)
        elif shape[1] == wanted:
            return True
        elif shape[2] == wanted:
            self.note("tokens transposed", shape=shape)
        elif shape[1] == wanted + 1:
            self.note("cls among tokens", found=shape[1], wanted=wanted)
        else:
            self.note("tokens count", found=shape[1], grid=f"{S_t} x {S_f}", wanted=wanted)
        return False

    def _options(self) -> None:
        """Ask for attention and layers; not having them is allowed."""
        full, error = _attempt(self.encoder, self.spare.clone(), attention=True, layers=(0,))
        if error:
            self.note("options", error=error)
            return
        attention, (clips, places, _) = getattr(full, "attention", None), self.encoding.tokens.shape
        shape = tuple(getattr(attention, "shape", ()))
        if attention is not None and (len(shape) != 4 or (shape[0], shape[3]) != (clips, places)):
            self.note("attention", found=shape, clips=clips, places=places)

    def passes(self) -> bool:
        """Look whether a pass depends on the clip, and on nothing else, and changes nothing."""
        tokens, training = self.encoding.tokens, self.encoder.training
        broken = [name for name, value in self._parts().items() if not torch.isfinite(value).all()]
        if broken:
            self.note("values", name=" and ".join(broken))
            return False
        if not torch.equal(self.spectrogram, self.spare):
            self.note("spectrogram changed")
        state = self.encoder.state_dict()
        changed = [name for name, value in self.state.items() if not torch.equal(value, state[name])]
        if changed:
            self.note("changes itself", name=changed[0], hint=TRAINING if training else "keep nothing between calls")
        if differ(self.encoder(self.spare.clone()).tokens, tokens):
            hint = "noise or dropout is drawn although the module is in evaluation mode"
            self.note("random", hint=TRAINING if training else hint)
            return False
        alone, error = _attempt(lambda: self.encoder(self.spare[:1].clone()).tokens)
        if error or alone.shape != tokens[:1].shape:
            self.note("alone", error=error or _shapes(alone, tokens))
        elif differ(alone, tokens[:1], KEPT):
            self.note("batch", hint=TRAINING if training else "normalise over a clip, never over a batch")
        self._silence()
        return True

    def _parts(self) -> dict[str, Tensor]:
        """Return tokens and, where there is one, cls in float32."""
        parts = {"tokens": self.encoding.tokens, "cls": self.encoding.cls}
        return {name: value.float() for name, value in parts.items() if value is not None}

    def _silence(self) -> None:
        clips = ordinary(self.seconds)
        clips[1] = 0.0
        calm, error = _attempt(lambda: self.encoder(self.encoder.spectrogram(clips, SAMPLE_RATE)))
        if error:
            self.note("silence fails", error=error)
        elif not all(torch.isfinite(part).all() for part in (calm.tokens, calm.cls) if part is not None):
            self.note("silence values")

    def numbers(self) -> bool:
        """Look whether the values say something, and go on doing so in half precision."""
        parts, same = self._parts(), []
        for name, value in parts.items():
            size, spread = value.abs().max().item(), (value - value.mean(0)).square().mean().sqrt().item()
            lost = (value.half().float() - value).square().mean().sqrt().item()
            if spread <= 1e-6 * size:
                same.append(name)
            elif size > HALF_MAX:
                self.note("too large", name=name, found=size)
            elif lost > KEPT * spread:
                self.note("lost", name=name, found=lost / spread)
        if same:
            self.note("same clips", name=" and the same ".join(same))
        tokens = parts["tokens"]  # (B, N, D)
        if tokens.shape[1] == 1:
            return False  # nothing can be said of places
        if "cls" in parts and not differ(tokens[:, 0], parts["cls"]):
            self.note("cls is a token")
        if not differ(tokens, tokens.mean(1, keepdim=True).expand_as(tokens), 1e-5):
            self.note("same places")
        return "tokens" not in same and "same places" not in self.found

    def order(self) -> bool:
        """Look whether what is moved in time moves along t, and what is changed in pitch along f."""
        turned = tuple(self.encoder.grid[::-1])
        for key in misplaced(self._tokens_of, self.encoder.grid, self.seconds):
            self.note(key, turned=turned, seconds=self.seconds)
        return True

    def _tokens_of(self, clips: np.ndarray) -> Tensor:
        return self.encoder(self.encoder.spectrogram(clips, SAMPLE_RATE)).tokens


def _is_grid(grid: Any) -> bool:
    is_pair = isinstance(grid, tuple | list) and len(grid) == 2
    return is_pair and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in grid)


def _is_key(key: Any) -> bool:
    """Return whether a key can be compared, and reads the same in every process."""
    return not _attempt(hash, key)[1] and " at 0x" not in repr(key)


def _attempt(function: Callable, *arguments: Any, **options: Any) -> tuple[Any, str]:
    """Call code of others; return what it returns, and its error in a line, or ''."""
    try:
        return function(*arguments, **options), ""
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        return None, f"{type(error).__name__}: {lines[0][:160].rstrip('.')}"


def _shapes(alone: Tensor, whole: Tensor) -> str:
    return f"{tuple(alone.shape)} instead of {(1, *whole.shape[1:])}"
