"""FSD50K (Fonseca et al., 2022), as Zenodo's archives unpack (4060432) or as the hub has it (Fhrozen/FSD50k).

A clip is a sound of Freesound, named by its id there, which is its source recording; its labels are already propagated
up the ontology. The official validation split is left in "dev", since the paper reserves its own.
"""

from pathlib import Path

from lib.data.official import Record
from lib.data.official.layout import audio_files, file_record, read_table, top_of

LAYOUTS = {  # labels → audio, of each split
    "FSD50K.ground_truth/{split}.csv": "FSD50K.{split}_audio",  # Zenodo
    "labels/{split}.csv": "clips/{split}",  # the hub
}
SPLITS = ("dev", "eval")


def read(folder: Path, manifest: dict) -> dict[str, list[Record]]:
    """Return the splits "dev" and "eval"; see `lib.data.official.read_official`."""
    top = top_of(folder, [labels.format(split="dev") for labels in LAYOUTS], manifest["label"])
    labels, audio = next(pair for pair in LAYOUTS.items() if (top / pair[0].format(split="dev")).is_file())
    return {split: _read_split(top / labels.format(split=split), top / audio.format(split=split)) for split in SPLITS}


def _read_split(labels: Path, audio: Path) -> list[Record]:
    table, files = read_table(labels, ("fname", "labels")), audio_files(audio)
    return [
        file_record(name, files, audio, tuple(dict.fromkeys(filter(None, text.split(",")))), name)
        for name, text in zip(table["fname"], table["labels"], strict=True)
    ]
