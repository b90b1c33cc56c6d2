"""Miniatures of the sets that come as archives or from a hub: AudioSet's mirror and Speech Commands."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lib.data.miniature_sounds import encoded, label_sets, soundscape, used_classes, write_audio, write_parquet
from lib.data.miniatures import Wanted
from lib.data.official import speech_commands as sc
from lib.files import atomic, write_text

VANISHED = 2  # videos in each official list that no copy has any more
FILES = 2  # of each split
NOISES = ("doing_the_dishes", "dude_miaowing", "exercise_bike", "pink_noise", "running_tap", "white_noise")
NOISE_SECONDS = 3.0
OTHER_WORDS = ("bed", "cat")
HUB_WORDS = ("zero", "bed", "cat", sc.UNKNOWN, sc.SILENCE)  # of the hub's list, after the ten commands


def write(name: str, folder: Path, manifest: dict, wanted: Wanted) -> dict:
    """Write the copy into `folder`; return its counts, as the manifest has them."""
    rng = np.random.default_rng([wanted.seed, sum(name.encode())])
    sizes = WRITERS[name](folder, manifest, wanted, wanted.seconds or manifest["seconds"], rng)
    return {"sizes": sizes}


def _as20k(folder: Path, manifest: dict, wanted: Wanted, seconds: float, rng: np.random.Generator) -> dict:
    """Write Parquet files; or tar files and the official lists (variant "tar"), or what they unpack to ("folders")."""
    used, ids = used_classes(manifest["classes"], wanted.classes), manifest["class_ids"]
    counts = {"bal_train": 2 * wanted.clips, "eval": wanted.clips}
    for split, clips in counts.items():
        names = [f"{split[0]}{rng.integers(10**9):09d}-" for _ in range(clips + VANISHED)]
        sets = label_sets(used, clips + VANISHED, rng)
        mids = [[ids[manifest["classes"].index(label)] for label in labels] for labels in sets]
        sounds = []
        for place, (video, labels) in enumerate(zip(names[:clips], sets[:clips], strict=True)):
            rate = 44_100 if place % 10 == 9 else 48_000  # as about a tenth of the mirror's
            audio = soundscape(labels, manifest["classes"], seconds, rng)[0]
            sounds.append((f"audio/{split}/{video}.flac", encoded(audio, rate, ".flac")))
        if wanted.variant:
            lines = [
                "# Segments csv created for a miniature",
                f"# num_ytids={len(names)}",
                "# YTID, start, end, labels",
            ]
            lines += [f'{video}, 30.000, 40.000, "{",".join(mid)}"' for video, mid in zip(names, mids, strict=True)]
            write_text(folder / "data" / f"{_list_of(split)}_segments.csv", "\n".join(lines) + "\n")
        for number in range(FILES):
            part = slice(number, clips, FILES)
            if wanted.variant == "tar":
                _tar(folder / "data" / f"{split}{number:02d}.tar", sounds[part])
            elif wanted.variant == "folders":
                for inside, data in sounds[part]:
                    with atomic(folder / "data" / inside) as temporary:
                        temporary.write_bytes(data)
            else:
                human = [list(labels) for labels in sets[:clips]]
                columns = {"video_id": names[:clips][part], "labels": mids[:clips][part], "human_labels": human[part]}
                write_parquet(folder / "data" / split / f"{number:02d}.parquet", columns, sounds[part], {})
    return {"train": counts["bal_train"], "val": None, "test": counts["eval"]}


def _list_of(split: str) -> str:
    return {"bal_train": "balanced_train"}.get(split, split)


def _tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    with atomic(path) as temporary, tarfile.open(temporary, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _sc2(folder: Path, manifest: dict, wanted: Wanted, seconds: float, rng: np.random.Generator) -> dict:
    """Write both archives unpacked, some commands, two other words and the six noises; variant "hub" is Parquet."""
    commands = used_classes(manifest["class_rule"]["commands"], max(1, wanted.classes - 2))
    words = (*commands, *OTHER_WORDS)
    each = max(1, wanted.clips // len(words))  # clips of a word in validation and test; twice as many train
    clips = {
        "train": [
            *_spoken(words, 2 * each, 0),
            *(f"{sc.NOISE}/{name}.wav" for name in NOISES if name != "running_tap"),
        ],
        "validation": [*_spoken(words, each, 100), sc.VALIDATES],
        "listed for test": list(_spoken(words, 1, 200)),
        "test": [
            *_spoken(commands, each, 200),
            *(f"{sc.UNKNOWN}/{name.replace('/', '_')}.wav" for name in _spoken(OTHER_WORDS, each, 200)),
            *(f"{sc.SILENCE}/{number}.wav" for number in range(each)),
        ],
    }
    for split, names in clips.items():
        if wanted.variant == "hub":
            if split != "listed for test":
                _sc2_parquet(folder / split / "0000.parquet", names, manifest, seconds, rng)
            continue
        top = folder / (sc.TEST if split == "test" else sc.TRAIN)
        for name in names:
            write_audio(top / name, _word(name, manifest, seconds, rng), manifest["sample_rate"])
    if wanted.variant != "hub":
        listed = {"validation": clips["validation"][:-1], "test": clips["listed for test"]}
        for split, names in listed.items():
            write_text(folder / sc.TRAIN / sc.LISTS[split], "\n".join(names) + "\n")
    return {"train": len(clips["train"]), "val": len(clips["validation"]), "test": len(clips["test"])}


def _spoken(words: tuple | list, each: int, speaker: int) -> Iterator[str]:
    """Yield file names of words, each said `each` times by speakers who are in one split only."""
    for word in words:
        for number in range(each):
            yield f"{word}/{speaker + number // 2:08x}_nohash_{number % 2}.wav"


def _word(name: str, manifest: dict, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return a sound for a file: that of its class, as far as it is a word; noise alone for silence."""
    folder = name.partition("/")[0]
    label = sc.class_of(folder, manifest)
    if label == manifest["class_rule"]["silence"]:
        return soundscape((), manifest["classes"], NOISE_SECONDS if folder == sc.NOISE else seconds, rng)[0]
    return soundscape((label,), manifest["classes"], seconds, rng)[0]


def _sc2_parquet(path: Path, names: list[str], manifest: dict, seconds: float, rng: np.random.Generator) -> None:
    known = [*manifest["class_rule"]["commands"], *HUB_WORDS]
    labels = []
    for name in names:
        word = name.partition("/")[0] if not name.startswith(sc.UNKNOWN) else name.split("/")[1].split("_")[0]
        labels.append(sc.SILENCE if word == sc.NOISE else word)
    columns = {
        "file": names,
        "label": [known.index(label) for label in labels],
        "is_unknown": [label in OTHER_WORDS for label in labels],
        "speaker_id": [sc.speaker(name) for name in names],
    }
    audio = [(name, encoded(_word(name, manifest, seconds, rng), manifest["sample_rate"], ".wav")) for name in names]
    write_parquet(path, columns, audio, {"label": {"names": known, "_type": "ClassLabel"}})


WRITERS = {"as20k": _as20k, "sc2": _sc2}
