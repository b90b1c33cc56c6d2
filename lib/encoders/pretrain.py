"""Pretrain a pocket encoder: one loop for all of them, resumable, over the pool of ``lib/encoders/pool.py``.

``make pretrain ENCODER=pocket-eat`` repeats the run that made the shipped weights. A recipe is one or more stages, run
one after the other; each is an objective with its settings. All that is random is drawn from generators on the CPU
whose seeds are fixed for every stage, so a run that was stopped ends in the same bytes as one that was not, and so does
another run on the same kind of CPU. A GPU does not always take sums in the same order.
"""

import argparse
import inspect
import math
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.encoders import objectives
from lib.encoders.pocket import GEOMETRIES, POCKET, load_pocket, new_vit, save_encoder
from lib.encoders.pool import Pool, build_pool, load_pool
from lib.encoders.vit import ViT
from lib.errors import InputError, unknown_name
from lib.files import digest, read_state, sha256, write_state, write_text
from lib.hardware import has_bfloat16
from lib.paths import WEIGHTS, scratch
from lib.provenance import definition_version

SEED = 2509
LOG_EVERY = 100  # steps
HEARD = (
    "synthetic event bank, generator seeds of the split 'pretrain'",
    "ESC-10 folds 1-3, CC0 and CC-BY clips (licences and authors: data_manifests/esc10.csv)",
    "Free Spoken Digit Dataset, takes 5-49 (CC BY-SA 4.0: data_manifests/spoken_digits.csv)",
    "scikit-maad field recordings, hours of the split 'train' (BSD-3-Clause: data_manifests/field_recordings.csv)",
)


@dataclass(frozen=True)
class Stage:
    """One objective with its settings.

    Parameters
    ----------
    name : str
        For the loss curve and the messages.
    objective : str
        A class of ``lib/encoders/objectives.py``.
    steps, batch_size : int
        Length of the stage and clips a step.
    lr, weight_decay : float
        Highest learning rate, and decay of the matrices (vectors have none), of AdamW.
    warmup : float
        Share of the steps in which the learning rate rises.
    start : str
        Which network is trained: "random" a new one, "previous" that of the stage before, "teacher" the one that the
        stage before learned from, else that of a shipped encoder.
    options : dict
        Options of the objective.
    from_previous : dict
        More options, from what the stage before left: name of the option → attribute of that stage's objective.
    labelled : bool
        Whether it learns from labels: then it hears the labelled clips alone.
    """

    name: str
    objective: str
    steps: int
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.07
    start: str = "random"
    options: dict = field(default_factory=dict)
    from_previous: dict = field(default_factory=dict)
    labelled: bool = False


def supervised(base: str) -> tuple[Stage, ...]:
    """Return the recipe of a supervised version: the base, fine-tuned end to end on the labelled clips."""
    return (Stage("supervised", "SupervisedFineTuning", 1_200, lr=5e-4, start=base, labelled=True),)


# What is kept of an objective if not the student: the teacher, a mean over the student's last steps, as DINO does.
KEPT = {"LocalGlobalDistillation": "teacher"}
RECIPES = {
    "pocket-amae": (Stage("reconstruction", "MaskedAutoencoder", 7_000),),
    "pocket-beats": (
        Stage("random tokens", "TokenPrediction", 2_000),
        Stage("tokenizer", "TokenizerDistillation", 500, batch_size=16, from_previous={"teacher": "vit"}),
        Stage("learned tokens", "TokenPrediction", 1_500, start="teacher", from_previous={"tokenizer": "tokenizer"}),
    ),
    # From random weights, with a plain last layer in the projection heads, 2,400 steps brought the ridge probe that is
    # told of below to 44.0 and 58.8 mAP only.
    "pocket-asit": (Stage("local and global", "LocalGlobalDistillation", 1_000, 32, lr=5e-4, start="pocket-amae"),),
    # From random weights the first teacher says too little: after 760 steps a ridge probe on mean tokens was no better
    # than on random weights (39.1 against 40.1 mAP on synthetic soundscapes, 56.2 against 56.5 on those of ESC-10).
    "pocket-eat": (
        Stage("latent distillation", "LatentDistillation", 2_000, batch_size=16, lr=5e-4, start="pocket-amae"),
    ),
    "pocket-dasheng": (Stage("reconstruction", "MaskedAutoencoder", 6_000, options={"mask_ratio": 0.75}),),
    "pocket-sslam": (
        Stage("mixtures", "LatentDistillation", 1_200, 16, lr=5e-4, start="pocket-eat", options={"mixtures": True}),
    ),
    "pocket-beats-plus": supervised("pocket-beats"),
    "pocket-eat-plus": supervised("pocket-eat"),
    "pocket-sslam-plus": supervised("pocket-sslam"),
}


def recipe_of(encoder: str, steps: int | None = None) -> tuple[Stage, ...]:
    """Return the stages of an encoder, their lengths scaled to `steps` steps in all where that is given."""
    if encoder not in RECIPES:
        raise unknown_name("encoder to pretrain", encoder, list(RECIPES))
    stages = RECIPES[encoder]
    factor = 1.0 if steps is None else steps / sum(stage.steps for stage in stages)
    return tuple(replace(stage, steps=max(1, round(factor * stage.steps))) for stage in stages)


def pretrain(
    encoder: str,
    pool: Pool,
    steps: int | None = None,
    device: str | None = None,
    minutes_between_checkpoints: float = 3.0,
) -> ViT:
    """Run the recipe of an encoder, from the last checkpoint if there is one, and ship the weights.

    Parameters
    ----------
    encoder : str
        An id of `RECIPES`.
    pool : Pool
        What to train on.
    steps : int, optional
        Steps of all stages together, where it is not to be the recipe's own number.
    device : str, optional
        Of torch; a GPU where there is one, else the CPU.
    minutes_between_checkpoints : float
        Minutes after which the state is saved again; it is saved at the end of every stage too.

    Returns
    -------
    ViT
        The pretrained network, in full precision.

    Raises
    ------
    InputError
        If the encoder is unknown, the weights that it starts from are not there, or a loss is not finite.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    stages = recipe_of(encoder, steps)
    objective, key, curve = None, "", []
    with tqdm(total=sum(stage.steps for stage in stages), unit="step", disable=not sys.stderr.isatty()) as bar:
        for number, stage in enumerate(stages):
            seed = SEED + 10 * number
            key = stage_key(encoder, stage, seed, pool, key)
            objective = new_objective(encoder, stage, seed, objective).to(device).train()
            heard = pool.labelled() if stage.labelled else pool
            checkpoint = scratch() / "pretrain" / f"{encoder}.stage-{number + 1}.pt"
            run = StageRun(stage, objective, heard, seed + 1, checkpoint, key)
            curve += run.train(60 * minutes_between_checkpoints, bar)
    kept = getattr(objective, KEPT.get(stages[-1].objective, "vit"))
    ship(encoder, kept.cpu(), stages, pool, curve, device)
    return kept


def new_objective(encoder: str, stage: Stage, seed: int, previous: nn.Module | None) -> nn.Module:
    """Build the objective of a stage, with what it takes over from the objective of the stage before."""
    generator = torch.Generator().manual_seed(seed)
    if stage.start == "random":
        vit = new_vit(generator, GEOMETRIES[encoder])
    elif stage.start in ("previous", "teacher"):
        vit = (previous.vit if stage.start == "previous" else previous.teacher).requires_grad_(True)
    else:
        vit = load_pocket(stage.start).vit.requires_grad_(True)
    taken_over = {option: getattr(previous, attribute) for option, attribute in stage.from_previous.items()}
    return getattr(objectives, stage.objective)(vit, generator, **stage.options, **taken_over)


def stage_key(encoder: str, stage: Stage, seed: int, pool: Pool, previous: str) -> str:
    """Return the digest of what the outcome of a stage depends on; a checkpoint with another one is not resumed."""
    return digest(
        {
            "geometry": repr(GEOMETRIES[encoder]),
            "stage": asdict(stage),
            "seed": seed,
            "pool": pool.description,
            "start": start_sha256(stage),
            "code": [
                definition_version("lib.encoders.objectives", stage.objective),
                definition_version("lib.encoders.pretrain", "StageRun"),
            ],
            "previous": previous,
        }
    )


def start_sha256(stage: Stage) -> str:
    """Return the checksum of the shipped weights that a stage starts from, or nothing where it starts from none."""
    path = WEIGHTS / f"{stage.start}.safetensors"
    return sha256(path) if path.is_file() else ""


def all_options(stage: Stage) -> dict:
    """Return the options of a stage's objective with the defaults that the stage leaves as they are."""
    parameters = inspect.signature(getattr(objectives, stage.objective)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default not in (inspect.Parameter.empty, None)}
    return defaults | stage.options


class StageRun:
    """The training of one objective, in place.

    Parameters
    ----------
    stage : Stage
        Its settings.
    objective : torch.nn.Module
        What to train, on its device.
    pool : Pool
        What to train on.
    seed : int
        Draws batches, masks and all else that is random in training.
    checkpoint : Path
        Where the state is kept.
    key : str
        What the outcome depends on, see `stage_key`.
    """

    def __init__(self, stage: Stage, objective: nn.Module, pool: Pool, seed: int, checkpoint: Path, key: str) -> None:
        self.stage, self.objective, self.pool, self.checkpoint, self.key = stage, objective, pool, checkpoint, key
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        matrices, vectors = ([p for p in self.parameters if (p.ndim > 1) == big] for big in (True, False))
        groups = [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.95))
        self.device = self.parameters[0].device
        self.step, self.saved_step = 0, 0
        self.curve: list[dict] = []
        self.losses: list[float] = []  # since the last row of the curve

    def train(self, seconds_between_checkpoints: float, bar: tqdm) -> list[dict]:
        """Train to the end, from the checkpoint if there is one, and return the mean loss of every 100 steps."""
        self.resume()
        bar.update(self.step)
        started, saved = time.monotonic(), time.monotonic()
        while self.step < self.stage.steps:
            self.losses.append(self.advance())
            bar.update()
            last = self.step == self.stage.steps
            if last or self.step % LOG_EVERY == 0:
                mean = round(sum(self.losses) / len(self.losses), 5)
                self.curve.append({"stage": self.stage.name, "step": self.step, "loss": mean})
                self.losses = []
                minutes = (time.monotonic() - started) / 60
                tqdm.write(f"{self.stage.name}: step {self.step} loss {mean:.4f} {minutes:.1f} min")
                sys.stdout.flush()
            if last or time.monotonic() - saved > seconds_between_checkpoints:
                self.save()
                saved = time.monotonic()
        return self.curve

    def advance(self) -> float:
        """Take one step of the optimiser and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.lr * schedule(self.step, self.stage)
        spectrogram, labels = (t.to(self.device) for t in batch_of(self.pool, self.stage.batch_size, self.generator))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device)):
            loss = self.objective(spectrogram, self.generator, *([labels] if self.stage.labelled else []))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            kept = (
                f"the checkpoint of step {self.saved_step} is kept" if self.saved_step else "no checkpoint was made yet"
            )
            raise InputError(
                f"The loss or gradient of stage '{self.stage.name}' is not finite at step {self.step + 1} ({kept}); "
                "lower the stage's learning rate in lib/encoders/pretrain.py and run again."
            )
        self.optimizer.step()
        self.step += 1
        if hasattr(self.objective, "after_step"):
            self.objective.after_step(self.step / self.stage.steps)
        return loss.item()

    def save(self) -> None:
        """Write the whole state to the checkpoint."""
        state = {
            "key": self.key,
            "step": self.step,
            "curve": self.curve,
            "losses": self.losses,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        write_state(self.checkpoint, state)
        self.saved_step = self.step

    def resume(self) -> None:
        """Take the state from the checkpoint, if there is one and it bears the key of this run."""
        state = read_state(self.checkpoint)
        if not state:
            return
        if state.get("key") != self.key:
            print(f"'{self.checkpoint.name}' belongs to other settings, data or code; stage '{self.stage.name}' anew")
            return
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = self.saved_step = state["step"]
        self.curve, self.losses = state["curve"], state["losses"]
        print(f"{self.stage.name}: resumed after step {self.step}")


def batch_of(pool: Pool, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw clips at random, each rolled in time and changed in gain at random.

    Returns
    -------
    torch.Tensor, torch.Tensor
        Normalised spectrograms ``(size, frames, mel)`` and labels ``(size, C)``, float32.
    """
    rows = torch.randint(len(pool.clips), (size,), generator=generator)
    shifts = torch.randint(pool.clips.shape[1], (size,), generator=generator)
    clips = torch.stack([pool.clips[r].roll(int(s), 0) for r, s in zip(rows, shifts, strict=True)]).float()
    gain = torch.empty(size, 1, 1).uniform_(-1.5, 1.5, generator=generator)  # log power; ±6.5 dB
    return (clips + gain - POCKET.mel_mean) / POCKET.mel_std, pool.labels[rows].float()


def schedule(step: int, stage: Stage) -> float:
    """Return the factor of the learning rate: linear warm-up, then half a cosine to zero."""
    warmup = round(stage.warmup * stage.steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (stage.steps - warmup)))


def ship(
    encoder: str, vit: ViT, stages: tuple[Stage, ...], pool: Pool, curve: list[dict], device: torch.device
) -> None:
    """Write weights, manifest and loss curve where the repository keeps them."""
    facts = {
        "stages": [
            asdict(stage) | {"options": all_options(stage), "start_sha256": start_sha256(stage)} for stage in stages
        ],
        "seed": SEED,
        "pool": pool.description,
        "heard": HEARD,
        "ran_on": {
            "device": device.type,
            "threads": torch.get_num_threads() if device.type == "cpu" else None,
            "products": "bfloat16" if has_bfloat16(device) else "float32",
            "torch": torch.__version__.split("+")[0],
        },
        "final_loss": curve[-1]["loss"],
    }
    folder = save_encoder(encoder, vit, facts)
    lines = "".join(f"{row['stage']},{row['step']},{row['loss']}\n" for row in curve)
    write_text(folder / f"{encoder}.loss.csv", "stage,step,loss\n" + lines)


def main() -> None:
    """Parse the command line and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", nargs="?", default="pocket-amae", help=", ".join(RECIPES))
    parser.add_argument("--steps", type=int, help="steps of all stages together (default: the recipe's)")
    parser.add_argument("--device", help="of torch (default: a GPU where there is one)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU; another number, other last digits")
    arguments = parser.parse_args()
    torch.set_num_threads(max(1, arguments.threads))
    try:
        recipe_of(arguments.encoder)  # an unknown name is told before the pool is rendered
        pretrain(arguments.encoder, load_pool(build_pool()), arguments.steps, arguments.device)
    except InputError as error:
        raise SystemExit(f"make pretrain: {error}") from None


if __name__ == "__main__":
    main()
