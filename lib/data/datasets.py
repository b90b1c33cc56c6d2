"""The datasets that heads are compared on: a manifest each, frozen with a hash, and the clips drawn from it."""

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lib.data.banks import RecordingBank, SyntheticBank, esc10_bank
from lib.data.mixer import Event, Recipe, Scene, plan, render
from lib.errors import InputError, unknown_name
from lib.files import digest, sha256
from lib.paths import MANIFESTS
from lib.provenance import code_version

SPLITS = ("train", "val", "test")
DATASETS = ("soundscapes", "esc10-soundscapes")


@dataclass(frozen=True)
class Soundscapes:
    """A polyphonic multi-label dataset, mixed from a bank by a frozen recipe.

    Parameters
    ----------
    manifest : dict
        The content of ``data_manifests/<name>.json``.
    """

    manifest: dict

    @property
    def name(self) -> str:
        """Id of the dataset."""
        return self.manifest["name"]

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the target's columns."""
        return self.manifest["classes"]

    @cached_property
    def recipe(self) -> Recipe:
        """The ranges of the mixer."""
        return Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in self.manifest["recipe"].items()})

    @cached_property
    def bank(self) -> SyntheticBank | RecordingBank:
        """Where the events come from."""
        if self.manifest["bank"] == "synthetic":
            return SyntheticBank(tuple(self.classes))
        return esc10_bank()

    def events(self, split: str, index: int) -> tuple[Event, ...]:
        """Return what happens in clip `index` of `split`, as planned (no audio is touched)."""
        return plan(self.recipe, self.bank, split, self._seeds(split, index)[0])

    def scene(self, split: str, index: int) -> Scene:
        """Render clip `index` of `split`: audio, and its events as heard."""
        plan_seed, noise_seed = self._seeds(split, index)
        return render(self.recipe, self.bank, plan(self.recipe, self.bank, split, plan_seed), noise_seed)

    def targets(self, split: str, count: int) -> np.ndarray:
        """Return the labels of the first `count` clips, float32 ``(count, C)`` of 0 and 1."""
        self.check_count(split, count)
        targets = np.zeros((count, len(self.classes)), dtype=np.float32)
        for index in range(count):
            for event in self.events(split, index):
                targets[index, self.classes.index(event.label)] = 1.0
        return targets

    def sources(self, split: str, count: int) -> list[tuple[str, ...]]:
        """Return what each clip shares with others, for the bootstrap: original recordings, or the bank's seed."""
        if isinstance(self.bank, RecordingBank):
            clips = (self.events(split, index) for index in range(count))
            return [tuple(sorted({self.bank.recording(event.source) for event in clip})) for clip in clips]
        return [(f"bank seed {self._bank_seed(index)}",) for index in range(count)]

    def check_count(self, split: str, count: int) -> None:
        """Raise `InputError` if the split does not hold `count` clips."""
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        if not 0 < count <= self.manifest["sizes"][split]:
            raise InputError(
                f"{count} clips were asked of split '{split}' of '{self.name}', which holds "
                f"{self.manifest['sizes'][split]}; change the profile."
            )

    def version(self, split: str, count: int) -> dict:
        """Return what the clips depend on: manifest, split, count, recordings and the code that draws them."""
        modules = ["lib.data.banks", "lib.data.mixer", "lib.data.datasets"]
        if self.manifest["bank"] == "synthetic":
            modules += [f"lib.data.{part}" for part in ("synth", "synth_dsp", "synth_nature", "synth_things")]
        recordings = sha256(MANIFESTS / "esc10.csv")[:16] if self.manifest["bank"] == "esc10" else ""
        return {
            "dataset": self.name,
            "manifest": self.manifest["frozen"],
            "split": split,
            "clips": count,
            "recordings": recordings,
            "data_code": code_version(*modules),
        }

    def _bank_seed(self, index: int) -> int:
        """Clips come from several seeds of the bank in turn, so that the bootstrap can resample them too."""
        return index % self.manifest["bank_seeds"]

    def _seeds(self, split: str, index: int) -> list[np.random.SeedSequence]:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        key = [self.manifest["seed"], SPLITS.index(split), self._bank_seed(index), index]
        return np.random.SeedSequence(key).spawn(2)


def manifest_hash(manifest: dict) -> str:
    """Return the hash that freezes a manifest: of all its fields but ``frozen`` itself."""
    return digest({key: value for key, value in manifest.items() if key != "frozen"})


def load_dataset(name: str) -> Soundscapes:
    """Return a dataset by name.

    Raises
    ------
    InputError
        If the name is unknown, or the manifest was changed after it was frozen.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    path = MANIFESTS / f"{name}.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest_hash(manifest) != manifest["frozen"]:
        raise InputError(
            f"'{path.name}' was changed after it was frozen; undo the change, or give it a new version, say why in "
            "'history' and freeze it again."
        )
    return Soundscapes(manifest)
