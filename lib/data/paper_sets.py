"""The paper's datasets, from official copies on this machine, with the interface of the pocket ones.

`load_paper_set` finds the copy of a set in the folder of the audio, reads it with its loader, holds it against the
manifest, splits it, and hands out an `OfficialSet`, which the store, the results and the bootstrap use as they use any
other dataset. Audio is read clip by clip, when it is asked for.
"""

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lib.data.copies import check_classes, check_copy, classes_of, miniature_of
from lib.data.fewshot import Mixup, draw_mixup, mix, union
from lib.data.mixer import Event, Scene
from lib.data.official import LOADERS, Record, read_official
from lib.data.official.reading import read_clip
from lib.data.paper_manifests import read_manifest
from lib.data.splits import fold_rule, split
from lib.errors import InputError, unknown_name
from lib.files import digest
from lib.paths import audio_root
from lib.provenance import code_version

SPLITS = ("train", "val", "test")
FOLDS = tuple(f"esc50-fold-{number}" for number in range(1, 6))  # "esc50" itself is the one fold of its manifest
NAMES = (*LOADERS, *FOLDS)
SHAPES_CLIPS = ("name", "task", "classes", "seconds", "views", "miniature")  # of a manifest
INCOMPLETE = "UNMUTE_INCOMPLETE"  # names the sets whose copy may differ from the manifest


@dataclass(frozen=True)
class ClipLength:
    """All that an official set has of a recipe."""

    seconds: float


@dataclass(frozen=True, eq=False)
class OfficialSet:
    """The clips of an official copy, split; it offers what `lib.data.datasets.Soundscapes` offers.

    Parameters
    ----------
    name : str
        Its id; of a single fold with that fold.
    manifest : dict
        Its manifest, completed: "title", "classes", and "sizes" as they are after the split.
    records : dict
        "train", "val", "test" → clips in the order of the official lists. A part of a split is its beginning.
    """

    name: str
    manifest: dict
    records: dict[str, list[Record]]
    _digests: dict = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the target's columns."""
        return self.manifest["classes"]

    @property
    def prototypes(self) -> int:
        """J, prototypes per class, of the main comparison."""
        return self.manifest["prototypes"]

    @property
    def sizes(self) -> dict[str, int]:
        """Split → number of clips."""
        return {name: len(clips) for name, clips in self.records.items()}

    @property
    def recipe(self) -> ClipLength:
        """The length of a clip in seconds; nothing else of a recipe is known of recordings."""
        return ClipLength(self.manifest["seconds"])

    def views(self, split: str) -> int:
        """Return how many variants of each clip there are: stored mixup views of few-shot training clips, else 1."""
        return self.manifest["views"]["count"] if split == "train" and self.manifest["views"] else 1

    def events(self, split: str, index: int, view: int = 0) -> tuple[Event, ...]:
        """Return what happens in a clip, and when; nothing where the set knows only which classes there are."""
        events, mixup = self._clip(split, index).events or (), self._mixup(split, index, view)
        if mixup is None:
            return events
        return union(events, self._clip(split, mixup.partner).events or (), mixup.snr_db)

    def scene(self, split: str, index: int, view: int = 0) -> Scene:
        """Read clip `index` of `split` as 16 kHz mono of the manifest's length, with its events.

        Raises
        ------
        InputError
            If its audio cannot be used, naming set, clip and file.
        """
        mixup, scene = self._mixup(split, index, view), self._read(split, index)
        return scene if mixup is None else mix(scene, self._read(split, mixup.partner), mixup.snr_db)

    def targets(self, split: str, count: int, view: int = 0) -> np.ndarray:
        """Return the labels of the first `count` clips, float32 ``(count, C)`` of 0 and 1."""
        self.check_count(split, count)
        column = {label: place for place, label in enumerate(self.classes)}
        targets = np.zeros((count, len(column)), dtype=np.float32)
        for index in range(count):
            mixup = self._mixup(split, index, view)
            added = () if mixup is None else self._clip(split, mixup.partner).labels
            for label in (*self._clip(split, index).labels, *added):
                targets[index, column[label]] = 1.0
        return targets

    def sources(self, split: str, count: int) -> list[tuple[str, ...]]:
        """Return what each clip shares with others, for the bootstrap: the recordings of its events, or its own."""
        clips = self.records[split][:count]
        heard = ({event.source for event in clip.events or () if event.source} for clip in clips)
        return [tuple(sorted(sources)) or (clip.source,) for clip, sources in zip(clips, heard, strict=True)]

    def check_count(self, split: str, count: int) -> None:
        """Raise `InputError` if the split does not hold `count` clips."""
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        if not 0 < count <= len(self.records[split]):
            raise InputError(
                f"{count} clips were asked of split '{split}' of '{self.name}', whose copy here holds "
                f"{len(self.records[split])}; change the profile."
            )

    def version(self, split: str, count: int, view: int = 0) -> dict:
        """Return what the clips depend on, wherever the copy lies: manifest, records, count, view and code.

        Of the manifest that is what shapes a clip, so that another word about a licence makes nothing stale. How the
        copy was read and split is in the records: ids, labels, events, sources, pieces, and the size in bytes of each
        audio file, be it in a folder or a tar, so that one that was cut off is noticed. A Parquet file does not tell
        the sizes of the files inside, and does not open if it is cut off: copies of Parquet files have a version of
        their own, however these files were packed.
        """
        modules = ["lib.data.paper_sets", "lib.data.official.reading"]
        modules += ["lib.data.fewshot"] if self.manifest["views"] else []
        shapes = {key: self.manifest.get(key) for key in SHAPES_CLIPS}
        version = {
            "dataset": self.name,
            "manifest": digest({**shapes, "seed": self.manifest["split_rule"]["seed"]}),
            "split": split,
            "clips": count,
            "recordings": self._records_digest(split, count),
            "data_code": code_version(*modules),
        }
        return version | ({"view": view} if view else {})

    def _records_digest(self, split: str, count: int) -> str:
        """Return a digest of the clips; with views of all of the split, since any of it may be mixed in."""
        count = len(self.records[split]) if self.views(split) > 1 else count
        if (split, count) not in self._digests:
            content = []
            for clip in self.records[split][:count]:
                events = [(each.label, each.source, each.onset, each.offset) for each in clip.events or ()]
                size = clip.size if clip.row is None else None  # of a row it is that of the whole Parquet file
                content.append((clip.id, clip.labels, clip.source, clip.start, clip.seconds, size, events))
            self._digests[split, count] = digest(content)
        return self._digests[split, count]

    def _clip(self, split: str, index: int) -> Record:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        return self.records[split][index]

    def _read(self, split: str, index: int) -> Scene:
        clip = self._clip(split, index)
        return Scene(read_clip(clip, self.manifest["seconds"], self.name), clip.events or ())

    def _mixup(self, split: str, index: int, view: int) -> Mixup | None:
        """Return what view `view` adds to a training clip; nothing where a split has but one view."""
        views = self.views(split)
        if not 0 <= view < views:
            raise InputError(
                f"View {view} of split '{split}' of '{self.name}' was asked for; it has the views 0 to {views - 1}."
            )
        if views == 1:
            return None
        seed = [self.manifest["split_rule"]["seed"], SPLITS.index(split), index, view, len(SPLITS)]
        return draw_mixup(self.manifest["views"], seed, index, len(self.records[split]))


def load_paper_set(name: str) -> OfficialSet:
    """Return one of the paper's datasets, or a fold of esc50, from the copy in ``<audio root>/<id>``.

    Raises
    ------
    InputError
        If the name is unknown, there is no copy, it cannot be read, or it is not that of the manifest: then the counts
        are told, and the environment variable that lets it pass all the same.
    """
    if name not in NAMES:
        raise unknown_name("dataset of the paper", name, NAMES)
    folder = audio_root() / name.partition("-fold-")[0]
    allowed = {part.strip() for part in os.environ.get(INCOMPLETE, "").split(",")}
    return _load(name, folder, folder.name in allowed)


@functools.lru_cache(maxsize=32)  # every process asks for its datasets again and again, and a copy is long to read
def _load(name: str, folder: Path, incomplete: bool) -> OfficialSet:
    base, _, fold = name.partition("-fold-")
    manifest = read_manifest(base)
    if fold:
        manifest |= {"split_rule": fold_rule(manifest["split_rule"], fold)}
    manifest |= {"classes": classes_of(base, folder, manifest), "title": manifest["label"]}
    if fold:
        manifest["title"] += f", fold {fold}"
    manifest = miniature_of(folder, manifest)
    official = read_official(base, folder, manifest)
    told = check_copy(official, manifest, incomplete)
    if told:
        print(told, flush=True)
    there = {part: [clip for clip in clips if not clip.missing] for part, clips in official.items()}
    records = split(there, manifest["split_rule"], base)
    check_classes(records, manifest)
    return OfficialSet(name, manifest | {"sizes": {part: len(clips) for part, clips in records.items()}}, records)


def forget() -> None:
    """Forget the copies that were read, as after one has changed on disk."""
    _load.cache_clear()
