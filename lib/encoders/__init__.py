"""The encoders by name: how to load each, what to call it, what its output depends on."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from lib.encoders import readings
from lib.encoders.pocket import GEOMETRIES, LogMelPatches, PocketEncoder, load_pocket, new_vit
from lib.encoders.upstream import UpstreamEncoder as UpstreamEncoder
from lib.encoders.upstream import from_upstream as from_upstream
from lib.errors import unknown_name
from lib.files import digest
from lib.provenance import code_version

RANDOM_SEED = 31


@dataclass(frozen=True)
class EncoderEntry:
    """How an encoder is called, what it is, and how it is loaded.

    Attributes
    ----------
    label : str
        For figures.
    kind : {"base", "supervised", "control"}
        Pretrained without labels, with labels on top, or not at all.
    base : str
        Of a supervised version: the encoder that it was adapted from.
    cls : {"native", "mean", "first_token"}
        What stands for [cls] by default; "mean" where the encoder has none of its own.
    load : callable
        Returns the frozen module.
    """

    label: str
    kind: str
    load: Callable[[], nn.Module]
    base: str = ""
    cls: str = "native"


def random_vit() -> PocketEncoder:
    """Return the control with the pocket architecture and weights straight from the random generator."""
    return PocketEncoder(new_vit(torch.Generator().manual_seed(RANDOM_SEED)))


def _pocket(label: str, name: str, base: str = "") -> EncoderEntry:
    kind, cls = "supervised" if base else "base", "native" if GEOMETRIES[name].cls else "mean"
    return EncoderEntry(f"{label} (pocket)", kind, functools.partial(load_pocket, name), base, cls)


ENCODERS = {
    "pocket-amae": _pocket("A-MAE", "pocket-amae"),
    "pocket-beats": _pocket("BEATs", "pocket-beats"),
    "pocket-asit": _pocket("ASiT", "pocket-asit"),
    "pocket-eat": _pocket("EAT", "pocket-eat"),
    "pocket-dasheng": _pocket("Dasheng", "pocket-dasheng"),
    "pocket-sslam": _pocket("SSLAM", "pocket-sslam"),
    "pocket-beats-plus": _pocket("BEATs+", "pocket-beats-plus", base="pocket-beats"),
    "pocket-eat-plus": _pocket("EAT+", "pocket-eat-plus", base="pocket-eat"),
    "pocket-sslam-plus": _pocket("SSLAM+", "pocket-sslam-plus", base="pocket-sslam"),
    "random-vit": EncoderEntry("random ViT (control)", "control", random_vit),
    "log-mel": EncoderEntry("log-mel patches (control)", "control", LogMelPatches, cls="mean"),
}
SHIPPED = tuple(ENCODERS)  # what the repository has all of; the weights of the published encoders are fetched
# Added to the dictionary and not written into it: what was computed with the shipped ones does not depend on these.
ENCODERS |= {name: EncoderEntry(**fields) for name, fields in readings.entries(SHIPPED).items()}


def load_encoder(name: str) -> nn.Module:
    """Return the frozen encoder `name`, in evaluation mode.

    It offers ``spectrogram(waveform, sample_rate)``, ``encoder(spectrogram) -> Encoding`` and ``grid``.

    Raises
    ------
    InputError
        If the name is unknown or the weights are missing or damaged. Those of a published encoder are never downloaded
        here: `make checkpoints ENCODERS=…` does that.
    """
    if name not in ENCODERS:
        raise unknown_name("encoder", name, list(ENCODERS))
    return ENCODERS[name].load().eval().requires_grad_(False)


def encoder_version(name: str, encoder: nn.Module) -> dict:
    """Return what an encoder's output depends on: its weights, its front end, its code, the torch release.

    The geometry of a published encoder holds its options and a digest of the code of its family.
    """
    weights = {k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in encoder.state_dict().items()}
    return {
        "encoder": name,
        "weights": digest(weights),
        "geometry": digest(repr(encoder.geometry)),
        "encoder_code": code_version("lib.audio", "lib.encoders.vit", "lib.encoders.pocket"),
        "torch": torch.__version__.split("+")[0],
    }
