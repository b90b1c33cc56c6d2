"""How the clips of a dataset are drawn: the field ``draw`` of a manifest names one of six ways.

- ``mixture``: events of any class, as `lib.data.mixer.plan` draws them; the way of a manifest that names none;
- ``scenes``: first one of several scenes, then events by that scene's own ranges and weights of the classes;
- ``in turn``: one event a clip and every class equally often, in a shuffled order;
- ``recordings``: every recording of the split once, whole, from the start of the clip;
- ``few-shot``: training clips in turn, `shots` a class, close and clean; validation and test are mixtures heard from
  afar (`lib.data.fewshot`), among sounds that are no class;
- ``in step``: events of different classes, each so many seconds after the one before; a manifest may name the
  companies that they come in.
"""

import functools
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

import numpy as np

from lib.data.banks import SPLITS, RecordingBank, SyntheticBank
from lib.data.fewshot import OTHER, FarBank
from lib.data.mixer import Bank, Event, Recipe, plan
from lib.errors import unknown_name


@dataclass(frozen=True)
class Choice:
    """A bank narrowed to some of its classes; a class that is named twice is twice as likely."""

    bank: Bank
    classes: tuple[str, ...]

    def choose(self, label: str, split: str, rng: np.random.Generator) -> str:
        """Return the id of a source, as the bank does."""
        return self.bank.choose(label, split, rng)

    def render(self, source: str, seconds: float) -> np.ndarray:
        """Return its sound, as the bank does."""
        return self.bank.render(source, seconds)


@dataclass(frozen=True)
class Draft:
    """A clip on paper: the ranges it keeps, the bank that renders it, and its events, sounds of no class included."""

    recipe: Recipe
    bank: Bank
    events: tuple[Event, ...]


def recipe_of(ranges: dict) -> Recipe:
    """Return the recipe that a manifest writes down, lists for tuples."""
    return Recipe(**{name: tuple(value) if isinstance(value, list) else value for name, value in ranges.items()})


def other_sounds(manifest: dict) -> tuple[str, ...]:
    """Return the labels that are heard in a dataset but are no class of it."""
    return tuple(manifest.get("far", {}).get("others", {}).get("classes", ()))


def draw(manifest: dict, bank: Bank, split: str, index: int, seed: np.random.SeedSequence) -> Draft:
    """Draw what happens in clip `index` of `split`; no audio is touched.

    Parameters
    ----------
    manifest : dict
        The content of ``data_manifests/<name>.json``.
    bank : Bank
        Where the events come from.
    split : {"train", "val", "test"}
        The split.
    index : int
        The clip.
    seed : numpy.random.SeedSequence
        The clip's own.

    Raises
    ------
    InputError
        If the manifest names an unknown way.
    """
    way = manifest.get("draw", "mixture")
    if way not in WAYS:
        raise unknown_name("way to draw clips", way, list(WAYS))
    return WAYS[way](manifest, bank, split, index, seed)


def _mixture(manifest: dict, bank: Bank, split: str, index: int, seed: np.random.SeedSequence) -> Draft:
    recipe = recipe_of(manifest["recipe"])
    return Draft(recipe, bank, plan(recipe, bank, split, seed))


def _scenes(manifest: dict, bank: Bank, split: str, index: int, seed: np.random.SeedSequence) -> Draft:
    which, events = seed.spawn(2)
    scenes = list(manifest["scenes"].values())
    scene = scenes[int(np.random.default_rng(which).integers(len(scenes)))]
    recipe = recipe_of(manifest["recipe"] | scene["recipe"])
    likely = tuple(label for label, weight in scene["weights"].items() for _ in range(weight))
    return Draft(recipe, bank, plan(recipe, Choice(bank, likely), split, events))


def _in_turn(manifest: dict, bank: Bank, split: str, index: int, seed: np.random.SeedSequence) -> Draft:
    classes, recipe = manifest["classes"], recipe_of(manifest["recipe"])
    block, place = divmod(index, len(classes))
    # Shuffled block by block: a plain index % C would tie each class to one seed of the bank.
    order = np.random.default_rng([manifest["seed"], SPLITS.index(split), block]).permutation(len(classes))
    return Draft(recipe, bank, plan(recipe, Choice(bank, (classes[order[place]],)), split, seed))


def _recordings(manifest: dict, bank: RecordingBank, split: str, index: int, seed: np.random.SeedSequence) -> Draft:
    recipe = recipe_of(manifest["recipe"])
    label, file = _shuffled_recordings(bank, split, manifest["seed"])[index]
    snr_db = float(np.random.default_rng(seed).uniform(*recipe.snr_db))
    return Draft(recipe, bank, (Event(label, f"{file}:0", 0.0, recipe.seconds, snr_db),))


@functools.lru_cache(maxsize=16)
def _shuffled_recordings(bank: RecordingBank, split: str, seed: int) -> list[tuple[str, str]]:
    """Return (class, file) of every recording of a split: shuffled within a class, the classes in turn."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    columns = [
        [(label, files[place]) for place in rng.permutation(len(files))]
        for label in bank.classes
        for files in [bank.files(label, split)]
    ]
    return [pair for pair in chain.from_iterable(zip_longest(*columns)) if pair]


def _few_shot(manifest: dict, bank: Bank, split: str, index: int, seed: np.random.SeedSequence) -> Draft:
    if split == "train":
        return _in_turn(manifest, bank, split, index, seed)
    far, (first, second) = manifest["far"], seed.spawn(2)
    recipe = recipe_of(far["recipe"])
    events = plan(recipe, Choice(bank, tuple(manifest["classes"])), split, first)
    if other_sounds(manifest):
        # Rain and insects come from the synthetic bank, whatever bank the classes come from.
        others = plan(recipe_of(far["others"]["recipe"]), SyntheticBank(other_sounds(manifest)), split, second)
        events += tuple(replace(event, source=f"{OTHER}{event.source}") for event in others)
    return Draft(recipe, FarBank(bank, tuple(far["lowpass_hz"]), tuple(far["reverb_seconds"])), events)


def _in_step(manifest: dict, bank: Bank, split: str, index: int, seed: np.random.SeedSequence) -> Draft:
    recipe, step, rng = recipe_of(manifest["recipe"]), manifest["step_seconds"], np.random.default_rng(seed)
    companies = manifest.get("companies", [manifest["classes"]])
    company = companies[int(rng.integers(len(companies)))]
    labels = [company[place] for place in rng.permutation(len(company))[: recipe.events[1]]]
    length = recipe.event_seconds[1]
    # The share of the room is drawn, not the start: at another step the same clip has the same sounds.
    start = float(rng.uniform()) * (recipe.seconds - length - step * (len(labels) - 1))
    onsets = [start + step * place for place in range(len(labels))]
    levels = rng.uniform(*recipe.snr_db, len(labels)).tolist()
    sources = [bank.choose(label, split, rng) for label in labels]
    drawn = zip(labels, sources, onsets, levels, strict=True)
    return Draft(recipe, bank, tuple(Event(label, source, at, at + length, db) for label, source, at, db in drawn))


WAYS = {
    "mixture": _mixture,
    "scenes": _scenes,
    "in turn": _in_turn,
    "recordings": _recordings,
    "few-shot": _few_shot,
    "in step": _in_step,
}
