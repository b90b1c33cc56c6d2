"""The datasets that heads are compared on: a manifest each, frozen with a hash, and the clips drawn from it.

Those of the paper are `lib.data.paper_sets`; `load_dataset` hands out both.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lib.data.banks import RecordingBank, SyntheticBank, esc10_bank
from lib.data.drawing import Draft, draw, other_sounds, recipe_of
from lib.data.esc50 import esc50_bank
from lib.data.fewshot import Mixup, draw_mixup, mix, union
from lib.data.mixer import Event, Recipe, Scene, render
from lib.data.paper_sets import NAMES as PAPER_SETS
from lib.data.paper_sets import OfficialSet, load_paper_set
from lib.data.recordings import digit_bank
from lib.data.synth import SOUNDS
from lib.errors import InputError, unknown_name
from lib.files import digest, sha256
from lib.paths import MANIFESTS
from lib.provenance import code_version

SPLITS = ("train", "val", "test")
GENERAL = ("soundscapes", "many-sounds", "five-scenes", "ten-sounds")
BIOACOUSTIC = ("forest-few-shot", "farm-few-shot")
CONTROLS = ("single-sounds", "short-sounds")
RECORDED = ("esc10-soundscapes", "esc50-soundscapes", "esc50-few-shot", "esc10-single", "spoken-digits")
DIAL = (  # one thing turned at a time, position by position (`lib.dial`)
    *(f"dial-events-{count}" for count in (1, 2, 3, 5, 7, 9)),
    *(f"dial-snr-{level}" for level in ("minus-6", 0, 6, 12, 18)),
    *(f"dial-seconds-{length}" for length in (0.25, 0.5, 1, 2, 4)),
    *(f"dial-overlap-{share}" for share in ("none", "half", "full")),
    *(f"dial-bands-{place}" for place in ("less", "more")),
    *(f"dial-esc10-events-{count}" for count in (1, 3, 5, 9)),
)
DATASETS = (*GENERAL, *BIOACOUSTIC, *CONTROLS, *RECORDED, *DIAL)
DIGIT_SPLITS = {"train": tuple(range(10, 50)), "val": tuple(range(5, 10)), "test": tuple(range(5))}
BANKS = {
    "esc10": esc10_bank,
    "esc50": esc50_bank,
    "digits": lambda: replace(digit_bank(), folds=DIGIT_SPLITS),  # the official train takes, a few of them held out
}
BANK_MODULES = {"esc50": ["lib.data.esc50"], "digits": ["lib.data.recordings"]}  # code beside lib.data.banks
RECORDINGS = {"esc10": "esc10.csv", "esc50": "esc50_fold4.csv", "digits": "spoken_digits.csv"}


@dataclass(frozen=True)
class Soundscapes:
    """The clips of a dataset, drawn from a bank as its frozen manifest says.

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

    @property
    def prototypes(self) -> int:
        """J, prototypes per class, of the main comparison: 20 as in the paper, 10 where classes are many."""
        return self.manifest.get("prototypes", 20)

    @cached_property
    def recipe(self) -> Recipe:
        """The ranges of the mixer; of a few-shot dataset, those of its training clips."""
        return recipe_of(self.manifest["recipe"])

    @cached_property
    def bank(self) -> SyntheticBank | RecordingBank:
        """Where the events come from."""
        if self.manifest["bank"] == "synthetic":
            return SyntheticBank(tuple(self.classes))
        return BANKS[self.manifest["bank"]]()

    def views(self, split: str) -> int:
        """Return how many variants of each clip there are: stored mixup views of few-shot training clips, else 1."""
        return self.manifest["views"]["count"] if split == "train" and "views" in self.manifest else 1

    def events(self, split: str, index: int, view: int = 0) -> tuple[Event, ...]:
        """Return what happens in clip `index` of `split`, as planned (no audio is touched).

        Of a clip that a view mixes in, the levels are known only when it is rendered; here it is `snr_db` quieter.
        """
        events, mixup = self._labelled(self._draft(split, index).events), self._mixup(split, index, view)
        if mixup is None:
            return events
        return union(events, self._labelled(self._draft(split, mixup.partner).events), mixup.snr_db)

    def scene(self, split: str, index: int, view: int = 0) -> Scene:
        """Render clip `index` of `split`: audio, and its events as heard; sounds that are no class have none."""
        mixup = self._mixup(split, index, view)
        scene = self._rendered(split, index)
        return scene if mixup is None else mix(scene, self._rendered(split, mixup.partner), mixup.snr_db)

    def targets(self, split: str, count: int, view: int = 0) -> np.ndarray:
        """Return the labels of the first `count` clips, float32 ``(count, C)`` of 0 and 1."""
        self.check_count(split, count)
        targets = np.zeros((count, len(self.classes)), dtype=np.float32)
        for index in range(count):
            for event in self.events(split, index, view):
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

    def version(self, split: str, count: int, view: int = 0) -> dict:
        """Return what the clips depend on: manifest, split, count, view, recordings and the code that draws them."""
        modules = ["lib.data.banks", "lib.data.mixer", "lib.data.datasets", "lib.data.drawing", "lib.data.fewshot"]
        modules += BANK_MODULES.get(self.manifest["bank"], [])
        synthetic = [*(self.classes if self.manifest["bank"] == "synthetic" else ()), *other_sounds(self.manifest)]
        if synthetic:
            modules += ["lib.data.synth", "lib.data.synth_dsp"]
            modules += sorted({SOUNDS[label].__module__ for label in synthetic})
        recordings = RECORDINGS.get(self.manifest["bank"])
        version = {
            "dataset": self.name,
            "manifest": self.manifest["frozen"],
            "split": split,
            "clips": count,
            "recordings": sha256(MANIFESTS / recordings)[:16] if recordings else "",
            "data_code": code_version(*modules),
        }
        return version | ({"view": view} if view else {})

    def _draft(self, split: str, index: int) -> Draft:
        return draw(self.manifest, self.bank, split, index, self._seeds(split, index)[0])

    def _rendered(self, split: str, index: int) -> Scene:
        plan_seed, noise_seed = self._seeds(split, index)
        draft = draw(self.manifest, self.bank, split, index, plan_seed)
        scene = render(draft.recipe, draft.bank, draft.events, noise_seed)
        return replace(scene, events=self._labelled(scene.events))

    def _labelled(self, events: tuple[Event, ...]) -> tuple[Event, ...]:
        return tuple(event for event in events if event.label in self.classes)

    def _mixup(self, split: str, index: int, view: int) -> Mixup | None:
        """Return what view `view` adds to a training clip; nothing where a split has but one view."""
        views = self.views(split)
        if not 0 <= view < views:
            raise InputError(
                f"View {view} of split '{split}' of '{self.name}' was asked for; it has the views 0 to {views - 1}."
            )
        if views == 1:
            return None
        seed = [self.manifest["seed"], SPLITS.index(split), index, view, len(SPLITS)]
        return draw_mixup(self.manifest["views"], seed, index, self.manifest["sizes"][split])

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


def load_dataset(name: str) -> Soundscapes | OfficialSet:
    """Return a dataset by name.

    Raises
    ------
    InputError
        If the name is unknown, the manifest was changed after it was frozen, or the copy of one of the paper's datasets
        is missing or not what it must be.
    """
    if name in PAPER_SETS:
        return load_paper_set(name)
    if name not in DATASETS:
        raise unknown_name("dataset", name, (*DATASETS, *PAPER_SETS))
    path = MANIFESTS / f"{name}.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest_hash(manifest) != manifest["frozen"]:
        raise InputError(
            f"'{path.name}' was changed after it was frozen; undo the change, or give it a new version, say why in "
            "'history' and freeze it again."
        )
    return Soundscapes(manifest)
