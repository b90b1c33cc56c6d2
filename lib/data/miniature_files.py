"""Miniatures of the sets that come as folders of files: FSD50K, DESED-FL, SPASS, URBAN-SED and ESC-50."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.data.miniature_sounds import encoded, label_sets, soundscape, used_classes, write_audio, write_parquet
from lib.data.miniatures import Wanted
from lib.data.mixer import Event
from lib.data.official import spass
from lib.files import write_json, write_text

SHORT_AND_LONG = (0.05, 1.5)  # FSD50K's clips, as shares of 10 s


def write(name: str, folder: Path, manifest: dict, wanted: Wanted) -> dict:
    """Write the copy into `folder`; return its counts, as the manifest has them."""
    rng = np.random.default_rng([wanted.seed, sum(name.encode())])
    sizes = WRITERS[name](folder, manifest, wanted, wanted.seconds or manifest["seconds"], rng)
    return {"sizes": sizes}


def _fsd50k(folder: Path, manifest: dict, wanted: Wanted, seconds: float, rng: np.random.Generator) -> dict:
    """Write clips of many lengths in Zenodo's folders, or in those of the hub (variant "hub")."""
    hub = wanted.variant == "hub"
    lists = folder / ("labels" if hub else "FSD50K.ground_truth")
    used, ids = used_classes(manifest["classes"], wanted.classes), dict(zip(*_classes(manifest), strict=True))
    vocabulary = [(place, label, ids[label]) for place, label in enumerate(manifest["classes"])]
    write_text(lists / "vocabulary.csv", _csv(vocabulary))
    sizes, number = {}, 10_000
    for part, split, clips in (("train", "dev", 2 * wanted.clips), ("test", "eval", wanted.clips)):
        audio = folder / ("clips" if hub else "") / (split if hub else f"FSD50K.{split}_audio")
        rows = []
        for place, labels in enumerate(label_sets(used, clips, rng)):
            number += int(rng.integers(1, 50))
            length = max(0.5, seconds * float(rng.uniform(*SHORT_AND_LONG)))
            write_audio(audio / f"{number}.wav", soundscape(labels, manifest["classes"], length, rng)[0], 44_100)
            row = (number, ",".join(labels), ",".join(ids[label] for label in labels))
            rows.append((*row, "val" if place % 10 == 9 else "train") if split == "dev" else row)
        header = ("fname", "labels", "mids", "split") if split == "dev" else ("fname", "labels", "mids")
        write_text(lists / f"{split}.csv", _csv([header, *rows]))
        sizes[part] = clips
    return {"train": sizes["train"], "val": None, "test": sizes["test"]}


def _desed(folder: Path, manifest: dict, wanted: Wanted, seconds: float, rng: np.random.Generator) -> dict:
    """Write one table a split; the last clip of each has no event, which its row says by empty fields."""
    used, sizes = used_classes(manifest["classes"], wanted.classes), {"val": None}
    for split, clips in (("train", 2 * wanted.clips), ("test", wanted.clips)):
        rows = []
        for place, labels in enumerate([*label_sets(used, clips - 1, rng), ()]):
            audio, events = soundscape(labels, manifest["classes"], seconds, rng)
            write_audio(folder / "audio" / split / f"{place}.wav", audio, 16_000)
            rows += [(f"{place}.wav", e.onset, e.offset, e.label.capitalize()) for e in events]
            rows += [] if events else [(f"{place}.wav", "", "", "")]
        header = ("filename", "onset", "offset", "event_label")
        write_text(folder / "metadata" / f"{split}.tsv", _csv([header, *rows], "\t"))
        sizes[split] = clips
    return sizes


def _spass(folder: Path, manifest: dict, wanted: Wanted, seconds: float, rng: np.random.Generator) -> dict:
    """Write as many clips in each scene as are wanted of a split; their number is cut at 70 and 85 %."""
    classes = manifest["labels"]["raw_classes"]
    used = used_classes(classes, wanted.classes)
    for place, scene in enumerate(spass.SCENES, start=1):
        rows = []
        for number, labels in enumerate(label_sets(used, wanted.clips, rng), start=1):
            name = f"{scene.lower()}{number:05d}.wav"
            write_audio(folder / scene / name, soundscape(labels, classes, seconds, rng)[0], 44_100)
            rows += [(name, label) for label in (*labels, labels[0])]  # an event a row: a class may come twice
        write_text(folder / f"{place}_MatrixLabels{scene}.csv", _csv([("audio_filename", "class"), *rows]))
    cuts = [round(share * wanted.clips) for share in (0.7, 0.85, 1.0)]
    counts = {"train": cuts[0], "val": cuts[1] - cuts[0], "test": cuts[2] - cuts[1]}
    return {split: count * len(spass.SCENES) for split, count in counts.items()}


def _urban(folder: Path, manifest: dict, wanted: Wanted, seconds: float, rng: np.random.Generator) -> dict:
    """Write JAMS and text of every clip, or one of them alone (variants "jams", "txt"), in the archive's folder."""
    used, top = used_classes(manifest["classes"], wanted.classes), folder / "URBAN-SED_v2.0.0"
    for split in ("train", "validate", "test"):
        for number, labels in enumerate(label_sets(used, wanted.clips, rng)):
            audio, events = soundscape(labels, manifest["classes"], seconds, rng)
            stem = f"soundscape_{split}_bimodal{number}"
            write_audio(top / "audio" / split / f"{stem}.wav", audio, 44_100)
            if wanted.variant != "txt":
                content = _jams(events, manifest["classes"], seconds, number)
                write_json(top / "annotations" / split / f"{stem}.jams", content)
            if wanted.variant != "jams":
                rows = [(event.onset, event.offset, event.label) for event in events]
                write_text(top / "annotations" / split / f"{stem}.txt", _csv(rows, "\t"))
    return dict.fromkeys(("train", "val", "test"), wanted.clips)


def _jams(events: tuple[Event, ...], classes: list[str], seconds: float, number: int) -> dict:
    """Return a JAMS file as Scaper writes it, the background among its observations."""

    def observed(label: str, source: str, onset: float, length: float, snr: float, role: str) -> dict:
        value = {"label": label, "source_file": source, "source_time": 0.0, "event_time": onset}
        value |= {"event_duration": length, "snr": snr, "role": role, "pitch_shift": None, "time_stretch": None}
        return {"time": onset, "duration": length, "value": value, "confidence": 1.0}

    data = [observed("noise", "audio/background/noise/brownnoise.wav", 0.0, seconds, 0, "background")]
    for event in events:
        source = f"audio/foreground/{event.label}/{event.source}-{classes.index(event.label)}-0-{number}.wav"
        length = round(event.offset - event.onset, 3)
        data.append(observed(event.label, source, event.onset, length, event.snr_db, "foreground"))
    sandbox = {"scaper": {"n_events": len(events)}}
    annotation = {"annotation_metadata": {"version": ""}, "namespace": "scaper", "data": data, "sandbox": sandbox}
    annotation |= {"time": 0, "duration": seconds}
    return {"annotations": [annotation], "file_metadata": {"duration": seconds, "jams_version": "0.3.2"}, "sandbox": {}}


def _esc50(folder: Path, manifest: dict, wanted: Wanted, seconds: float, rng: np.random.Generator) -> dict:
    """Write five folds of single-label clips, two from each recording; variant "hub" is one Parquet file."""
    classes, rows, content = manifest["classes"], [], []
    used = used_classes(classes, wanted.classes)
    for fold in range(1, 6):
        for number, (label,) in enumerate(label_sets(used, wanted.clips, rng, single=True)):
            recording, target = 1000 * fold + number // (2 * len(used)), classes.index(label)
            recording, take = recording * 100 + target, "AB"[number // len(used) % 2]
            name = f"{fold}-{recording}-{take}-{target}.wav"
            rows.append((name, fold, target, label, target % 5 == 0, recording, take))
            audio = soundscape((label,), classes, seconds, rng)[0]
            content.append((name, encoded(audio, 44_100, ".wav")))
    header = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    if wanted.variant == "hub":
        columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
        write_parquet(folder / "data" / "train-00000-of-00001-0123456789abcdef.parquet", columns, content, {})
    else:
        write_text(folder / "ESC-50-master" / "meta" / "esc50.csv", _csv([header, *rows]))
        for name, data in content:
            path = folder / "ESC-50-master" / "audio" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return {"train": 4 * wanted.clips, "val": None, "test": wanted.clips}


def _classes(manifest: dict) -> tuple[list[str], list[str]]:
    return manifest["classes"], manifest["class_ids"]


def _csv(rows: Sequence[Sequence], separator: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(rows)
    return text.getvalue()


WRITERS = {"fsd50k": _fsd50k, "desed": _desed, "spass": _spass, "urban": _urban, "esc50": _esc50}
