"""Fine-tune a pocket encoder end to end on a dataset: what the heads on the frozen encoder are measured against.

The upper line of Figure 2 and the column FT of Table 3. The paper quotes the encoders' own papers there; here it is
the same encoder on the same clips as the heads. All weights are trained, with a linear layer on [cls] (on the mean
token where there is none) and the dataset's loss. As with the heads, the last epoch counts, only training clips are
trained on, and each seed hears a view of its own of few-shot clips. The learning rate is chosen on validation clips,
with the first seed.

The one regulariser is to leave out patches at random, anew in each step: a few hundred clips are soon known by heart,
it halves the cost, and the supervised versions were trained so too. Layer-wise learning rates, mixup and averaged
weights are left out: others would get more out of fine-tuning.

``make finetune ENCODER=pocket-eat`` runs it, resumably (`lib.finetune_results`).
"""

import copy
import functools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.audio import SAMPLE_RATE, check_waveform
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS, encoder_version, load_encoder
from lib.encoders.objective_parts import random_places, take
from lib.encoders.pocket import PocketEncoder
from lib.encoders.vit import ViT
from lib.errors import Diverged, InputError
from lib.files import digest, read_state, write_state
from lib.hardware import has_bfloat16
from lib.heads import build_head
from lib.provenance import code_version, definition_version
from lib.search import CellResult
from lib.train import LOSSES, Run, batches, evaluate

CHUNK = 32  # clips that are rendered or scored at once
USED = {
    "lib.train": ("LOSSES", "batches", "evaluate"),
    "lib.heads": ("Linear",),
    "lib.encoders.objective_parts": ("random_places", "take"),
}


@dataclass(frozen=True)
class FineTuning:
    """The settings; the defaults are meant for a few hundred training clips.

    Attributes
    ----------
    epochs, batch_size : int
        Length and step.
    lrs : tuple of float
        Candidates for AdamW's highest learning rate, to which it rises before it falls along half a cosine.
    seeds : tuple of int
        Each draws first weights of the linear layer, the order of the clips and the patches that are left out.
    weight_decay : float
        Of the matrices; vectors have none.
    warmup : float
        Share of the steps in which the learning rate rises.
    keep : float
        Share of the patches that a training step sees; scores are made of all of them.
    head_factor : float
        How many times the learning rate is larger for the linear layer, the one part that starts from nothing.
    """

    epochs: int = 20
    batch_size: int = 16
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    seeds: tuple[int, ...] = (1, 2, 3)
    weight_decay: float = 0.05
    warmup: float = 0.1
    keep: float = 0.5
    head_factor: float = 10.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.lrs or not self.seeds or not 0 < self.keep <= 1:
            raise InputError(
                "Fine-tuning needs at least one epoch, one clip a step, one learning rate and one seed, and a share of "
                f"patches above 0 and up to 1; these settings do not have that: {self}."
            )


@dataclass
class HeardClips:
    """One split as the network hears it: spectrograms float16 ``(clips, frames, mel)``, targets ``(clips, C)``."""

    spectrograms: Tensor
    targets: Tensor


class Network(nn.Module):
    """A copy of a ViT, all of it trainable, with a linear layer on [cls] or on the mean token."""

    def __init__(self, vit: ViT, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.vit = copy.deepcopy(vit).requires_grad_(True)
        self.head = build_head("linear", vit.dim, classes, vit.grid, generator=generator)

    def forward(self, spectrogram: Tensor, keep: float, generator: torch.Generator) -> Tensor:
        """Map ``(B, frames, mel)`` to logits ``(B, C)`` by way of a share `keep` of each clip's patches."""
        x = self.vit.embed_patches(spectrogram)  # (B, N, D)
        if keep < 1:
            visible, _ = random_places(*x.shape[:2], 1 - keep, generator, x.device)  # (B, V)
            x = take(x, visible)  # (B, V, D)
        _, cls = self.vit.encode(x)  # (B, D), the mean token where there is no [cls]
        return self.head(None, cls)


class Tuning:
    """One training in progress, on a GPU where there is one.

    Parameters
    ----------
    vit : ViT
        What to start from; it stays as it is.
    data : HeardClips
        The training clips.
    run : Run
        Learning rate, seeds, length, loss, and the options "keep", "warmup" and "head_factor".
    checkpoint : Path, optional
        Where the state is kept after each epoch; nowhere by default.
    key : str
        What the outcome depends on; a checkpoint with another key is not resumed.
    """

    def __init__(self, vit: ViT, data: HeardClips, run: Run, checkpoint: Path | None = None, key: str = "") -> None:
        self.data, self.run, self.checkpoint, self.key = data, run, checkpoint, key
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.generator = torch.Generator().manual_seed(run.seed)
        self.network = Network(vit, data.targets.shape[1], self.generator).to(self.device)
        self.parameters = list(self.network.parameters())
        groups = [
            {"params": [p for p in part.parameters() if (p.ndim > 1) == big], "weight_decay": decay, "factor": factor}
            for part, factor in ((self.network.vit, 1.0), (self.network.head, run.options["head_factor"]))
            for big, decay in ((True, run.weight_decay), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=run.lr, fused=True)
        self.losses: list[float] = []  # mean of each epoch so far

    def train(self) -> "Tuning":
        """Train to the end, from the checkpoint if there is one."""
        self._resume()
        self.network.train()
        while (epoch := len(self.losses)) < self.run.epochs:
            parts = batches(len(self.data.targets), self.run.batch_size, self.run.order_seed, epoch)
            steps = [
                self._step(part, (epoch + (i + 0.5) / len(parts)) / self.run.epochs) for i, part in enumerate(parts)
            ]
            self.losses.append(sum(steps) / len(steps))
            self._save()
        return self

    def _step(self, clips: Tensor, progress: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.lr * group["factor"] * schedule(progress, self.run.options["warmup"])
        spectrogram = self.data.spectrograms[clips].to(self.device).float()  # (B, frames, mel)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device)):
            logits = self.network(spectrogram, self.run.options["keep"], self.generator)  # (B, C)
        loss = LOSSES[self.run.loss](logits, self.data.targets[clips].to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise Diverged(
                f"The loss or gradient of fine-tuning is not finite in epoch {len(self.losses) + 1} at learning rate "
                f"{self.run.lr:g} with seed {self.run.seed}; check the clips for NaN."
            )
        self.optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def scores(self, clips: HeardClips) -> Tensor:
        """Return the logits of all clips from all their patches, in full precision: float32 ``(clips, C)``."""
        self.network.eval()
        parts = clips.spectrograms.split(CHUNK)
        return torch.cat([self.network(part.to(self.device).float(), 1.0, self.generator).cpu() for part in parts])

    def _save(self) -> None:
        if self.checkpoint is not None:
            state = {name: getattr(self, name).state_dict() for name in ("network", "optimizer")}
            state |= {"key": self.key, "losses": self.losses, "generator": self.generator.get_state()}
            write_state(self.checkpoint, state)

    def _resume(self) -> None:
        state = {} if self.checkpoint is None else read_state(self.checkpoint)
        if state.get("key") != self.key:
            if state:
                print(f"'{self.checkpoint.name}' belongs to other settings, data or code: this training starts anew")
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.losses = state["losses"]
        print(f"{self.checkpoint.stem}: resumed after epoch {len(self.losses)}", flush=True)


def schedule(progress: float, warmup: float) -> float:
    """Return the factor of the learning rate after a share `progress` of the steps: a line up, half a cosine down."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def finetune(
    encoder: str,
    dataset: str,
    clips: dict[str, int],
    settings: FineTuning = FineTuning(),
    load: Callable[..., HeardClips] | None = None,
    checkpoints: Path | None = None,
) -> CellResult:
    """Choose the learning rate with the first seed, train every seed with it, test.

    Parameters
    ----------
    encoder, dataset : str
        What to start from, and what to train on.
    clips : dict
        Split → number of clips.
    settings : FineTuning
        How.
    load : callable, optional
        Split, and for "train" a view → its clips, where they are not to be rendered; called with "test" only after the
        choice.
    checkpoints : Path, optional
        Folder for trainings in progress, to be removed by the caller; without one nothing is kept.

    Returns
    -------
    CellResult
        Rows, and test scores ``(seeds, clips, C)``; no weights.

    Raises
    ------
    InputError
        If a name is unknown, the encoder has no weights to train, there are fewer clips, or the loss is not finite with
        any learning rate, or with the best one and another seed.
    """
    depends = depends_on(encoder, dataset, clips, settings)
    vit, data = tunable(encoder).vit, load_dataset(dataset)
    metric, loss = data.manifest["metric"], "asymmetric" if data.manifest["task"] == "multi-label" else "cross-entropy"
    options = {name: getattr(settings, name) for name in ("keep", "warmup", "head_factor")}
    load = load or (lambda split, view=0: read_clips(encoder, dataset, split, clips[split], view))
    train, val = functools.cache(lambda view: load("train", view)), load("val")

    def trained(lr: float, seed: int) -> tuple[Tuning, float]:
        sizes = (settings.weight_decay, settings.epochs, settings.batch_size)
        run = Run("fine-tuning", lr, *sizes, seed=seed, order_seed=seed, loss=loss, options=options)
        path = checkpoints and checkpoints / f"lr-{lr:g}.seed-{seed}.pt"
        tuning = Tuning(vit, train(seed % data.views("train")), run, path, digest([depends, lr, seed])).train()
        value = evaluate(tuning.scores(val), val.targets, metric)
        print(f"{encoder} on {dataset}: lr {lr:g}, seed {seed}, {metric} on val {value:.2f}", flush=True)
        return tuning, value

    def row(tuning: Tuning, split: str, value: float, stage: str) -> dict:
        about = {"dataset": dataset, "encoder": encoder, "cls_mode": ENCODERS[encoder].cls}
        about |= {"view": tuning.run.seed % data.views("train")}
        return about | _row(tuning, metric, split, value, stage)

    searched = []
    for lr in settings.lrs:
        try:
            searched.append(trained(lr, settings.seeds[0]))
        except Diverged as error:
            print(f"{encoder} on {dataset}: {error}", flush=True)
            if lr == settings.lrs[-1] and not searched:
                raise
    best = max(searched, key=lambda candidate: candidate[1])
    finals = [best, *(trained(best[0].run.lr, seed) for seed in settings.seeds[1:])]
    rows = [row(tuning, "val", value, "search") for tuning, value in searched]
    rows += [row(tuning, "val", value, "seeds") for tuning, value in finals]

    test = load("test")  # nothing is chosen after this line
    scores = torch.stack([tuning.scores(test) for tuning, _ in finals])  # (seeds, clips, C)
    for (tuning, _), one in zip(finals, scores, strict=True):
        rows.append(row(tuning, "test", evaluate(one, test.targets, metric), "final"))
    return CellResult(rows, scores, {})


def _row(tuning: Tuning, metric: str, split: str, value: float, stage: str) -> dict:
    same = ("head", "loss", "lr", "weight_decay", "seed", "order_seed", "epochs")
    return {name: getattr(tuning.run, name) for name in same} | {
        "head_options": ";".join(f"{name}={value:g}" for name, value in sorted(tuning.run.options.items())),
        "J": None,
        "stage": stage,
        "rung": tuning.run.epochs,
        "n_train": len(tuning.data.targets),
        "split": split,
        "metric": metric,
        "value": round(value, 6),
        "parameters": sum(parameter.numel() for parameter in tuning.parameters),
    }


def depends_on(encoder: str, dataset: str, clips: dict[str, int], settings: FineTuning) -> dict:
    """Return all that a result depends on."""
    data = load_dataset(dataset)
    for split, count in clips.items():
        data.check_count(split, count)
    views = [(split, count, view) for split, count in clips.items() for view in range(data.views(split))]
    used = [definition_version(module, name) for module, names in USED.items() for name in names]
    return {
        "settings": json.loads(json.dumps(asdict(settings))),
        "clips": [data.version(*view) for view in views],
        "encoder": encoder_version(encoder, tunable(encoder)),
        "code": [code_version("lib.finetune"), *used],
    }


def tunable(encoder: str) -> PocketEncoder:
    """Return an encoder by name; one without weights is an `InputError`. The random ViT is trained from scratch."""
    loaded = load_encoder(encoder)
    if not isinstance(loaded, PocketEncoder):
        raise InputError(f"'{encoder}' cannot be fine-tuned, it has no weights; choose a pocket encoder or random-vit.")
    return loaded


def read_clips(encoder: str, dataset: str, split: str, count: int, view: int = 0) -> HeardClips:
    """Render the first `count` clips of a split and return the encoder's spectrograms of them."""
    loaded, data, parts = tunable(encoder), load_dataset(dataset), []
    targets = torch.from_numpy(data.targets(split, count, view))  # (clips, C)
    for start in range(0, count, CHUNK):
        indices = range(start, min(start + CHUNK, count))
        audio = [data.scene(split, index, view).audio for index in indices]
        for index, waveform in zip(indices, audio, strict=True):
            check_waveform(waveform, f"clip {index} of {dataset}/{split}")
        parts.append(loaded.spectrogram(np.stack(audio), SAMPLE_RATE).half())  # (clips, frames, mel)
    return HeardClips(torch.cat(parts), targets)
