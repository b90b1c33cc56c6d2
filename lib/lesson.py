"""What notebook 00 runs between its paragraphs: sounds made for it, three small experiments, three exercises."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import EllipsisType

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.audio import mel_centres
from lib.data.banks import SPLITS, SyntheticBank
from lib.data.mixer import Event, Recipe, Scene, plan, render
from lib.encoders import encoder_version
from lib.encoders.vit import patchify
from lib.files import digest, write_tensors
from lib.heads import Head
from lib.metrics import Draws, bootstrap_draws, compare_draws, draws_interval
from lib.paths import scratch
from lib.pooling import max_cosine
from lib.provenance import code_version
from lib.store import Embeddings
from lib.train import Run, Training

BANK = SyntheticBank()
TARGETS = ("siren", "dog_bark", "drill", "church_bell", "bird", "footsteps")
BYSTANDERS = SyntheticBank(tuple(label for label in BANK.classes if label not in TARGETS))
RECIPE = Recipe(events=(1, 1), event_seconds=(0.5, 2.0), snr_db=(6.0, 24.0))
DIAL = {"one event": 1, "three events": 3, "five events": 5, "nine events": 9}  # the target and its bystanders
CONTESTANTS = {  # name → head, what stands for cls, learning rate (the best of five on clips of the split "val")
    "linear on cls": ("linear", "native", 4e-2),
    "linear on the mean": ("linear", "mean", 1e-1),
    "protobin": ("protobin", "native", 1.5e-2),
}

# ---- sounds ------------------------------------------------------------------------------------------------


def example_scene() -> Scene:
    """Return ten seconds with a church bell, two birds and a dog, each where we put it."""
    happens = [("bird", 4, 0.6, 2.0), ("church_bell", 8, 2.6, 5.0), ("bird", 12, 5.6, 7.0), ("dog_bark", 4, 7.8, 9.4)]
    events = tuple(Event(label, f"{label}:{seed}", start, end, 18.0) for label, seed, start, end in happens)
    return render(RECIPE, BANK, events, np.random.SeedSequence(5))


def target_clip(split: str, index: int, bystanders: int) -> tuple[np.ndarray, int]:
    """Render a clip with one target sound and some others: its audio, and the target's number in `TARGETS`.

    Split and index fix the target, its place and level, and the background, whoever stands by.
    """
    number = index % len(TARGETS)
    seeds = np.random.SeedSequence([SPLITS.index(split), index]).spawn(3)
    events = plan(RECIPE, SyntheticBank(TARGETS[number : number + 1]), split, seeds[0])
    if bystanders:
        events += plan(replace(RECIPE, events=(bystanders, bystanders)), BYSTANDERS, split, seeds[1])
    return render(RECIPE, BANK, events, seeds[2]).audio, number


def event_cells(event: Event, encoder: nn.Module) -> Tensor:
    """Return which tokens touch the event's box of time and band, bool ``(S_t, S_f)``."""
    geometry, (S_t, S_f) = encoder.geometry, encoder.grid
    start, end = (seconds / (geometry.patch[0] * geometry.hop_ms / 1000) for seconds in (event.onset, event.offset))
    low, high = np.searchsorted(mel_centres(geometry.num_mels), (event.low_hz, event.high_hz)) / geometry.patch[1]
    t, f = torch.arange(S_t)[:, None], torch.arange(S_f)
    return (t + 1 > start) & (t < end) & (f + 1 > low) & (f < high)  # (S_t, 1) and (S_f,) → (S_t, S_f)


def loudest_token(event: Event, encoder: nn.Module, spectrogram: Tensor) -> int:
    """Return the number n of the token with the most energy in the event's box; spectrogram ``(1, frames, mel)``."""
    energy = patchify(spectrogram, encoder.geometry.patch).mean(-1)[0]  # (1, N, patch) → (N,)
    inside = event_cells(event, encoder).flatten()  # (S_t, S_f) → (N,), time-major
    return int(energy.masked_fill(~inside, -torch.inf).argmax())


def attention_facts(attention: Tensor, inside: Tensor) -> str:
    """Say how spread the attention ``(N,)`` of [cls] is, and how much of it falls on the tokens `inside` ``(N,)``."""
    share = attention / attention.sum()
    spread = torch.special.entr(share).sum().exp()  # of how many tokens, were all of them attended alike
    return f"spread over {spread:.0f} tokens, {100 * share[inside].sum():.0f} % in the boxes"


def memory(classes: int, per_class: int, dim: int) -> dict[str, str]:
    """Return a protobin head's size in kB, as floats and with its prototypes packed, and how much smaller it gets."""
    K = classes * per_class
    prototypes, packed, classifier = 4 * K * dim, K * dim / 8, 4 * (K * classes + classes)
    sizes = {"prototypes, float": prototypes, "prototypes, packed": packed, "classifier": classifier}
    sizes |= {"head, float": prototypes + classifier, "head, packed": packed + classifier}
    smaller = {
        "prototypes shrink": prototypes / packed,
        "head shrinks": (prototypes + classifier) / (packed + classifier),
    }
    return {k: f"{v / 1000:,.1f}" for k, v in sizes.items()} | {k: f"{v:.3g} ×" for k, v in smaller.items()}


# ---- experiments -------------------------------------------------------------------------------------------


@torch.inference_mode()
def encode(encoder: nn.Module, audio: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return tokens ``(clips, N, D)`` and cls ``(clips, D)`` of waveforms."""
    batches = [np.stack(audio[start : start + 8]) for start in range(0, len(audio), 8)]
    parts = [encoder(encoder.spectrogram(batch)) for batch in batches]
    return torch.cat([part.tokens for part in parts]), torch.cat([part.cls for part in parts])


def max_against_mean(
    encoder: nn.Module, prototype: Tensor, label: str, lengths: Sequence[float], bystanders: int, clips: int = 8
) -> dict[str, list[float]]:
    """Return for each length of an event how often a clip with it scores above a clip without, in percent.

    The score is the maximum, or the mean, over the clip of the cosine between tokens and `prototype` ``(D,)``. Clips
    hold noise and some other sounds; 50 % is guessing.
    """
    recipe = replace(RECIPE, events=(max(bystanders, 1), max(bystanders, 1)))
    rest = SyntheticBank(tuple(other for other in BANK.classes if other != label))
    seeds = [np.random.SeedSequence([7, clip]).spawn(2) for clip in range(clips)]
    planned = [plan(recipe, rest, "val", seed)[:bystanders] for seed, _ in seeds]

    def scores(length: float) -> dict[str, Tensor]:
        audio = []
        for clip, (events, (_, noise)) in enumerate(zip(planned, seeds, strict=True)):
            event = Event(label, f"{label}:{100 + clip}", 5 - length / 2, 5 + length / 2, 10.0)
            audio.append(render(RECIPE, BANK, (*events, event) if length else events, noise).audio)
        cosine = F.normalize(encode(encoder, audio)[0], dim=-1) @ F.normalize(prototype, dim=-1)  # (clips, N)
        return {"max": cosine.amax(1), "mean": cosine.mean(1)}

    without, found = scores(0), [scores(length) for length in lengths]
    return {
        pool: [100 * float((one[pool][:, None] > without[pool]).float().mean()) for one in found] for pool in without
    }


def climb(token_map: Tensor, binarise: Callable[[Tensor], Tensor], steps: int = 40, rate: float = 0.5) -> Tensor:
    """Return the path ``(steps + 1, D)`` of one latent prototype that climbs its own score on a clip ``(N, D)``."""
    latent = torch.randn(1, token_map.shape[1], generator=torch.Generator().manual_seed(0)) * 0.02  # (1, D)
    path, unit = [latent[0]], F.normalize(token_map, dim=-1)[None]  # (1, N, D)
    for _ in range(steps):
        latent = latent.detach().requires_grad_()
        score = max_cosine(unit, F.normalize(binarise(latent), dim=-1), None)  # (1, 1)
        (gradient,) = torch.autograd.grad(score.sum(), latent)
        latent = latent + rate * gradient
        path.append(latent[0].detach())
    return torch.stack(path)


def embed(encoder: nn.Module, split: str, bystanders: Sequence[int]) -> Embeddings:
    """Render and encode one clip for each entry of `bystanders`, which says how many sounds are beside its target.

    What was encoded once is kept in scratch, so that running the lesson again does not wait for it.
    """
    sounds = [f"lib.data.{part}" for part in ("banks", "mixer", "synth", "synth_dsp", "synth_nature", "synth_things")]
    code = code_version("lib.lesson", *sounds)
    path = scratch() / "lesson" / f"{digest([encoder_version('', encoder), code, split, list(bystanders)])}.safetensors"
    if not path.is_file():
        audio, numbers = zip(*(target_clip(split, i, count) for i, count in enumerate(bystanders)), strict=True)
        tokens, cls = encode(encoder, audio)
        targets = F.one_hot(torch.tensor(numbers), len(TARGETS)).float()
        write_tensors(path, {"tokens": tokens.half(), "cls": cls, "targets": targets})
    return Embeddings(**load_file(path), grid=encoder.grid)


def contest(
    train: Embeddings, tests: dict[str, Embeddings], seeds: Sequence[int], epochs: int
) -> tuple[dict[tuple[str, str], np.ndarray], dict[str, Head]]:
    """Train the `CONTESTANTS`: scores ``(seeds, clips, C)`` by name and test, and the last seed's heads by name."""
    scores, heads = {}, {}
    for name, (head, cls, rate) in CONTESTANTS.items():
        runs = [Run(head, rate, 1e-4, epochs, 16, seed=seed, order_seed=seed, prototypes=10) for seed in seeds]
        trained = [Training(run, _with_cls(train, cls)).advance(epochs) for run in runs]
        for test, data in tests.items():
            scores[name, test] = np.stack([one.scores(_with_cls(data, cls)).numpy() for one in trained])
        heads[name] = trained[-1].head
    return scores, heads


def lead_draws(
    scores: dict[tuple[str, str], np.ndarray], tests: dict[str, Embeddings], head: str, other: str
) -> dict[str, Draws]:
    """Return the lead of a head over another in each test, as measured and in each draw; all tests draw alike."""
    found = {}
    for test, data in tests.items():
        first, second = (bootstrap_draws(scores[name, test], data.targets, sources=None) for name in (head, other))
        found[test] = Draws(first.value - second.value, first.drawn - second.drawn)
    return found


def compare_on_dial(guess: int | EllipsisType, leads: dict[str, Draws]) -> str:
    """Hold a guess of where on the `DIAL` two heads are furthest apart against the measured leads."""
    furthest = max(leads, key=lambda test: abs(leads[test].value))  # whoever leads
    known = [DIAL[test] for test in leads]
    said = "no guess" if guess is ... else f"you said {guess}"
    if guess is not ... and guess not in known:
        said += f" (the dial has {', '.join(map(str, known))})"
    lines = [f"furthest apart at {furthest}: {said}, measured {_points(leads[furthest])}"]
    first, *_, last = leads
    change, low, high = (100 * value for value in compare_draws(leads[last], leads[first])[:3])
    said = f"{change:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    if leads[first].value + leads[last].value < 0:  # the other head leads
        low, high = -high, -low
    word = "wider" if low > 0 else "narrower" if high < 0 else "neither wider nor narrower for certain"
    lines.append(f"from {first} to {last}: {said}, {word}")
    return "\n".join(lines)


def _points(lead: Draws) -> str:
    value, low, high = (100 * number for number in draws_interval(lead)[:3])
    return f"{value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def _with_cls(data: Embeddings, cls: str) -> Embeddings:
    return replace(data, cls=data.tokens.float().mean(1)) if cls == "mean" else data
