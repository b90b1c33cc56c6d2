"""Pretrain a pocket encoder: render a pool of soundscapes once, then train on it, resumably.

``make pretrain ENCODER=pocket-amae`` repeats the run that made the shipped weights. Their manifest says in what that
run differed (``history``), so a repetition is equivalent, not the same bytes. The pool mixes both banks, training
sources only: generator seeds of the split ``pretrain`` and the ESC-10 recordings of folds 1-3 without those under
Sampling+ terms.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from lib.audio import log_mel
from lib.data.banks import SyntheticBank, esc10_bank
from lib.data.mixer import Bank, Recipe, plan, render
from lib.encoders.objectives import MaskedAutoencoder
from lib.encoders.pocket import POCKET, new_vit, save_encoder
from lib.encoders.vit import ViT
from lib.errors import InputError, unknown_name
from lib.files import atomic, write_text
from lib.paths import scratch
from lib.workers import run_parallel

OBJECTIVES = {"pocket-amae": MaskedAutoencoder}
POOL_RECIPE = Recipe(snr_db=(-3.0, 27.0))
CHUNK = 250  # clips a pool file


@dataclass(frozen=True)
class Pretraining:
    """The settings of one pretraining run."""

    encoder: str = "pocket-amae"
    clips: int = 8_000
    steps: int = 7_000
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 500
    seed: int = 2509


def build_pool(clips: int, seed: int) -> Path:
    """Render `clips` log-mel soundscapes, every other one from each bank; what is there already is kept.

    Returns
    -------
    Path
        A folder of ``pool-*.npy``, float16 ``(250, frames, mel)``, not normalised.
    """
    folder = scratch() / "pretrain" / f"pool-{seed}"
    missing = [k for k in range(clips // CHUNK) if not _chunk_path(folder, k).exists()]
    if missing:
        print(f"rendering {len(missing) * CHUNK} pool clips")
        for _ in run_parallel(_render_chunk, [(folder, number, seed) for number in missing]):
            pass
    return folder


def _chunk_path(folder: Path, number: int) -> Path:
    return folder / f"pool-{number:04d}.npy"


def _render_chunk(folder: Path, number: int, seed: int) -> None:
    banks: list[Bank] = [SyntheticBank(), esc10_bank()]
    clips = []
    for index in range(number * CHUNK, (number + 1) * CHUNK):
        bank = banks[index % 2]
        plan_seed, noise_seed = np.random.SeedSequence([seed, index]).spawn(2)
        scene = render(POOL_RECIPE, bank, plan(POOL_RECIPE, bank, "pretrain", plan_seed), noise_seed)
        clips.append(log_mel(scene.audio, POCKET.num_mels, POCKET.hop_ms).half().numpy())
    with atomic(_chunk_path(folder, number)) as temporary, temporary.open("wb") as file:
        np.save(file, np.stack(clips))


def load_pool(folder: Path, clips: int) -> torch.Tensor:
    """Read the pool into memory, float16 ``(clips, frames, mel)``."""
    return torch.from_numpy(np.concatenate([np.load(_chunk_path(folder, k)) for k in range(clips // CHUNK)]))


def batch_of(pool: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Draw a normalised batch ``(size, frames, mel)``: each clip rolled in time and changed in gain at random."""
    rows = torch.randint(len(pool), (size,), generator=generator)
    shifts = torch.randint(pool.shape[1], (size,), generator=generator)
    clips = torch.stack([pool[r].roll(int(s), 0) for r, s in zip(rows, shifts, strict=True)]).float()
    gain = torch.empty(size, 1, 1).uniform_(-1.5, 1.5, generator=generator)  # log power; ±6.5 dB
    return (clips + gain - POCKET.mel_mean) / POCKET.mel_std


def pretrain(settings: Pretraining, pool: torch.Tensor, minutes_between_checkpoints: float = 3.0) -> ViT:
    """Train on a pool ``(clips, frames, mel)``, resuming from the last checkpoint, and ship the weights at the end.

    Returns
    -------
    ViT
        The pretrained encoder, in full precision.
    """
    init = torch.Generator().manual_seed(settings.seed)
    objective = OBJECTIVES[settings.encoder](new_vit(init), init)
    decay = [p for p in objective.parameters() if p.ndim > 1]
    rest = [p for p in objective.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(settings.seed + 1)
    checkpoint = scratch() / "pretrain" / f"{settings.encoder}.pt"
    step, curve = _resume(checkpoint, settings, objective, optimizer, generator)

    low_precision = torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
    started, saved, losses = time.monotonic(), time.monotonic(), []
    while step < settings.steps:
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule(step, settings.warmup, settings.steps)
        batch = batch_of(pool, settings.batch_size, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            loss = objective(batch, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if step % 100 == 0 or step == settings.steps:
            curve.append({"step": step, "loss": round(sum(losses) / len(losses), 5)})
            losses.clear()
            print(
                f"step {step} loss {curve[-1]['loss']:.4f} {(time.monotonic() - started) / 60:.1f} min",
                flush=True,
            )
        if step == settings.steps or time.monotonic() - saved > 60 * minutes_between_checkpoints:
            _save(checkpoint, settings, objective, optimizer, generator, step, curve)
            saved = time.monotonic()
    ship(settings, objective.vit, curve)
    return objective.vit


def schedule(step: int, warmup: int, steps: int) -> float:
    """Return the factor of the learning rate: linear warm-up, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def ship(settings: Pretraining, vit: ViT, curve: list[dict]) -> None:
    """Write weights, manifest and loss curve where the repository keeps them."""
    facts = {
        "objective": OBJECTIVES[settings.encoder].__name__,
        "settings": asdict(settings),
        "pool_recipe": asdict(POOL_RECIPE),
        "heard": [
            "synthetic event bank, generator seeds of the split 'pretrain'",
            "ESC-10 folds 1-3, CC0 and CC-BY clips (licences and authors: data_manifests/esc10.csv)",
        ],
        "final_loss": curve[-1]["loss"],
    }
    folder = save_encoder(settings.encoder, vit, facts)
    lines = "".join(f"{row['step']},{row['loss']}\n" for row in curve)
    write_text(folder / f"{settings.encoder}.loss.csv", "step,loss\n" + lines)


def _save(path, settings, objective, optimizer, generator, step, curve) -> None:  # noqa: ANN001
    state = {
        "settings": json.dumps(asdict(settings)),
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "step": step,
        "curve": curve,
    }
    with atomic(path) as temporary:
        torch.save(state, temporary)


def _resume(path, settings, objective, optimizer, generator) -> tuple[int, list[dict]]:  # noqa: ANN001
    if not path.exists():
        return 0, []
    state = torch.load(path, weights_only=True)
    if state["settings"] != json.dumps(asdict(settings)):
        print("the checkpoint belongs to other settings; starting anew")
        return 0, []
    objective.load_state_dict(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    return state["step"], state["curve"]


def main() -> None:
    """Parse the command line and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder", nargs="?", default="pocket-amae")
    parser.add_argument("--steps", type=int, default=Pretraining.steps)
    arguments = parser.parse_args()
    if arguments.encoder not in OBJECTIVES:
        raise SystemExit(str(unknown_name("encoder to pretrain", arguments.encoder, list(OBJECTIVES))))
    settings = Pretraining(encoder=arguments.encoder, steps=arguments.steps)
    try:
        pretrain(settings, load_pool(build_pool(settings.clips, settings.seed), settings.clips))
    except InputError as error:
        raise SystemExit(f"make pretrain: {error}") from None


if __name__ == "__main__":
    main()
