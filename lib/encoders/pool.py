"""The pretraining pool: log-mel clips rendered once, from sources that no evaluation uses.

Mixing on the fly costs more than the network, so a pool is rendered once and training rolls and scales its clips.
Clip i of a pool is a function of seed and i alone; a larger pool begins with the smaller one. Four kinds:

- synthetic: a mixture of the synthetic bank, generator seeds of the split "pretrain"; the only clips with labels;
- esc10: a mixture of ESC-10 recordings, folds 1-3 without Sampling+ terms;
- field: a field recording of an hour that is not held out, at a random level, mostly with a few events of either
  bank over it;
- digits: two to eight spoken digits (takes 5-49) over coloured noise, half the time among a few events.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lib.audio import SAMPLE_RATE, log_mel
from lib.data.banks import RecordingBank, SyntheticBank, esc10_bank
from lib.data.mixer import Event, Recipe, plan, render
from lib.data.recordings import digit_bank, field_recordings, read_field_recording
from lib.encoders.pocket import POCKET
from lib.errors import InputError
from lib.files import digest, sha256, sweep_temporaries, write_json, write_tensors
from lib.paths import MANIFESTS, scratch
from lib.provenance import code_version, definition_version
from lib.workers import run_parallel

SEED = 2509
CLIPS = 16_000
CHUNK = 250  # clips a file
SHARES = {"synthetic": 0.40, "esc10": 0.30, "field": 0.15, "digits": 0.15}
RECIPES = {
    "mixture": Recipe(snr_db=(-3.0, 27.0)),
    "events over a field recording": Recipe(events=(1, 5), snr_db=(-3.0, 27.0)),
    "digits": Recipe(events=(2, 8), event_seconds=(0.7, 0.7), snr_db=(3.0, 27.0)),
    "events among digits": Recipe(events=(1, 3), snr_db=(-3.0, 21.0)),
}
EVENTS_OVER_FIELD, EVENTS_AMONG_DIGITS = 0.8, 0.5  # shares of the clips of a kind
FIELD_DB = {True: (-50.0, -32.0), False: (-50.0, -22.0)}  # level in dBFS: under events, alone
UNLABELLED = 255
MANIFEST_FILES = ("esc10.csv", "field_recordings.csv", "spoken_digits.csv")


@dataclass(frozen=True)
class Mixture:
    """Events of one bank, as the mixer plans them; `recipe` names one of `RECIPES`."""

    bank: str
    recipe: str
    events: tuple[Event, ...]


@dataclass(frozen=True)
class ClipPlan:
    """What a clip of the pool holds: its kind, its mixtures, and a field recording at `field_db` dBFS or none."""

    kind: str
    mixtures: tuple[Mixture, ...]
    field: str = ""
    field_db: float = 0.0


@dataclass(frozen=True)
class Pool:
    """A pool in memory.

    Attributes
    ----------
    clips : torch.Tensor
        float16 ``(clips, frames, mel)``, log-mel, not normalised.
    labels : torch.Tensor
        uint8 ``(clips, C)``: 0 or 1 for each class of the synthetic bank, 255 in the rows of unlabelled clips.
    description : dict
        What the pool depends on; see `describe`.
    """

    clips: Tensor
    labels: Tensor
    description: dict

    def labelled(self) -> "Pool":
        """Return the labelled clips alone."""
        rows = (self.labels != UNLABELLED).all(1)  # (clips,)
        return Pool(self.clips[rows], self.labels[rows], self.description)


def open_banks() -> dict[str, SyntheticBank | RecordingBank]:
    """Return the banks of the pool by name; the recordings must be there."""
    return {"synthetic": SyntheticBank(), "esc10": esc10_bank(), "digits": digit_bank()}


def plan_clip(banks: dict, seed: int, index: int) -> ClipPlan:
    """Draw what clip `index` of the pool `seed` holds; no audio is touched."""
    choice, first, second, _ = _seeds(seed, index)
    rng = np.random.default_rng(choice)
    kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    either = ("synthetic", "esc10")[int(rng.integers(2))]
    with_events = bool(rng.random() < {"field": EVENTS_OVER_FIELD, "digits": EVENTS_AMONG_DIGITS}.get(kind, 0.0))

    def mixture(bank: str, recipe: str, seeds: np.random.SeedSequence) -> Mixture:
        return Mixture(bank, recipe, plan(RECIPES[recipe], banks[bank], "pretrain", seeds))

    if kind == "field":
        files = field_recordings("pretrain")
        over = (mixture(either, "events over a field recording", first),) if with_events else ()
        return ClipPlan(kind, over, files[int(rng.integers(len(files)))], float(rng.uniform(*FIELD_DB[with_events])))
    if kind == "digits":
        among = (mixture(either, "events among digits", second),) if with_events else ()
        return ClipPlan(kind, (mixture("digits", "digits", first), *among))
    return ClipPlan(kind, (mixture(kind, "mixture", first),))


def render_clip(banks: dict, seed: int, index: int) -> np.ndarray:
    """Make clip `index` of the pool `seed` heard, float32 ``(160000,)``, peak at most 0.99."""
    clip = plan_clip(banks, seed, index)
    noises = _seeds(seed, index)[3].spawn(2)
    audio = np.zeros(round(RECIPES["mixture"].seconds * SAMPLE_RATE))
    if clip.field:
        background = read_field_recording(clip.field).astype(np.float64)
        audio += background * (10 ** (clip.field_db / 20) / np.sqrt(np.mean(background**2)))
    for mixture, noise in zip(clip.mixtures, noises, strict=False):
        audio += render(RECIPES[mixture.recipe], banks[mixture.bank], mixture.events, noise).audio
    return (audio * min(1.0, 0.99 / np.abs(audio).max())).astype(np.float32)


def clip_labels(clip: ClipPlan, classes: tuple[str, ...]) -> np.ndarray:
    """Return the labels of a clip, uint8 ``(C,)``: its classes if it is synthetic, 255 throughout if not."""
    if clip.kind != "synthetic":
        return np.full(len(classes), UNLABELLED, dtype=np.uint8)
    present = {event.label for mixture in clip.mixtures for event in mixture.events}
    return np.array([label in present for label in classes], dtype=np.uint8)


def describe(seed: int = SEED) -> dict:
    """Return what a pool depends on: seed, shares, ranges, front end, the manifests of recordings, code."""
    ours = [definition_version("lib.encoders.pool", name) for name in ("render_clip", "clip_labels", "open_banks")]
    synthesis = code_version(*(f"lib.data.{part}" for part in ("synth", "synth_dsp", "synth_nature", "synth_things")))
    return {
        "seed": seed,
        "clips_a_file": CHUNK,
        "shares": SHARES,
        "recipes": {name: asdict(recipe) for name, recipe in RECIPES.items()},
        "front_end": {"num_mels": POCKET.num_mels, "hop_ms": POCKET.hop_ms},
        "manifests": {file: sha256(MANIFESTS / file)[:16] for file in MANIFEST_FILES},
        "code": digest([*ours, synthesis, definition_version("lib.audio", "log_mel")]),
    }


def build_pool(clips: int = CLIPS, seed: int = SEED) -> Path:
    """Render the pool, in parallel; chunks that are there are kept, so an interrupted rendering resumes.

    Returns
    -------
    Path
        A folder named by the digest of `describe`, with ``pool-*.safetensors`` of 250 clips each.

    Raises
    ------
    InputError
        If `clips` is no multiple of 250, or recordings are missing.
    """
    if clips <= 0 or clips % CHUNK:
        raise InputError(f"A pool of {clips} clips was asked for; it must be a multiple of {CHUNK}.")
    description = describe(seed)
    folder = scratch() / "pretrain" / f"pool-{digest(description)}"
    sweep_temporaries(folder.parent)
    missing = [number for number in range(clips // CHUNK) if not chunk_path(folder, number).exists()]
    if missing:
        open_banks()  # a missing recording is told at once, not by a worker
        write_json(folder / "pool.json", description)
        for done, _ in enumerate(run_parallel(_render_chunk, [(folder, number, seed) for number in missing])):
            print(f"pool: {clips - (len(missing) - 1 - done) * CHUNK} of {clips} clips", flush=True)
    return folder


def chunk_path(folder: Path, number: int) -> Path:
    """Return the file of chunk `number` of a pool."""
    return folder / f"pool-{number:04d}.safetensors"


def _render_chunk(folder: Path, number: int, seed: int) -> None:
    banks = open_banks()
    clips, labels = [], []
    for index in range(number * CHUNK, (number + 1) * CHUNK):
        clips.append(log_mel(render_clip(banks, seed, index), POCKET.num_mels, POCKET.hop_ms).half())
        labels.append(clip_labels(plan_clip(banks, seed, index), banks["synthetic"].classes))
    tensors = {"clips": torch.stack(clips), "labels": torch.from_numpy(np.stack(labels))}
    write_tensors(chunk_path(folder, number), tensors)


def load_pool(folder: Path, clips: int = CLIPS) -> Pool:
    """Read the first `clips` clips of a pool into memory (64 kB each)."""
    parts = [load_file(chunk_path(folder, number)) for number in range(clips // CHUNK)]
    description = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
    return Pool(
        torch.cat([part["clips"] for part in parts]),  # (clips, frames, mel)
        torch.cat([part["labels"] for part in parts]),  # (clips, C)
        {"digest": digest(description), "clips": clips, **description},
    )


def _seeds(seed: int, index: int) -> list[np.random.SeedSequence]:
    """Return the seeds of a clip: what is chosen, the events of two mixtures, their noises."""
    return np.random.SeedSequence([seed, index]).spawn(4)


if __name__ == "__main__":
    try:
        print(build_pool())
    except InputError as error:
        raise SystemExit(f"pool: {error}") from None
