"""Speech Commands v0.02 (Warden, 2018) as 12 classes: its two archives unpacked, or the hub's Parquet files.

Table 8's counts, 84,848 / 9,982 / 4,890, are those of google/speech_commands on the hub, and so is the rule: of the
first archive, what ``validation_list.txt`` names and the noise ``running_tap.wav`` validates (9,981 + 1), what
``testing_list.txt`` names is left out, all else trains (84,843 words + 5 noises); the second archive tests. A word that
is none of the ten commands is "unknown", background noise is "silence". The noises are a minute or more long and count
as one clip each, so that silence has five training clips; like every clip they are cropped to the manifest's length,
that is to their first second. Cut into pieces they would give other counts than Table 8's. The source is the speaker.
"""

from pathlib import Path

from lib.data.official import Record
from lib.data.official.layout import audio_files, file_record, parquet_files, read_parquet, top_of
from lib.errors import InputError

TRAIN, TEST = "speech_commands_v0.02", "speech_commands_test_set_v0.02"
NOISE, SILENCE, UNKNOWN = "_background_noise_", "_silence_", "_unknown_"
VALIDATES = f"{NOISE}/running_tap.wav"  # the lists name no noise; the hub gives this one to validation
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
COLUMNS = ("file", "label")


def read(folder: Path, manifest: dict) -> dict[str, list[Record]]:
    """Return the splits "train", "validation" and "test"; see `lib.data.official.read_official`."""
    top = top_of(folder, [f"{TRAIN}/{LISTS['validation']}", "train/*.parquet", "*train*.parquet"], manifest["label"])
    if not (top / TRAIN).is_dir():
        return {split: _read_parquet(top, split, manifest) for split in ("train", "validation", "test")}
    listed = {split: _read_list(top / TRAIN / name) for split, name in LISTS.items()}
    listed["validation"].add(VALIDATES)
    clips: dict[str, list[Record]] = {"train": [], "validation": [], "test": _read_folders(top / TEST, manifest)}
    found = _read_folders(top / TRAIN, manifest)
    for clip in found:
        if clip.id not in listed["test"]:
            clips["validation" if clip.id in listed["validation"] else "train"].append(clip)
    for name in sorted(listed["validation"] - {clip.id for clip in found}):
        word = name.partition("/")[0]
        clips["validation"].append(file_record(name, {}, top / TRAIN, (class_of(word, manifest),), speaker(name)))
    return clips


def _read_list(path: Path) -> set[str]:
    try:
        return {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, ValueError) as error:
        raise InputError(f"The list '{path}' cannot be read ({error}); complete the copy.") from error


def _read_folders(top: Path, manifest: dict) -> list[Record]:
    """Return every clip of an unpacked archive; its folders are the words."""
    if not top.is_dir():
        raise InputError(f"'{top.name}' is not in '{top.parent}'; unpack that archive into a folder of its name.")
    clips = []
    for folder in sorted(path for path in top.iterdir() if path.is_dir()):
        labels = (class_of(folder.name, manifest),)
        for found in audio_files(folder).values():
            name = f"{folder.name}/{found.path.name}"
            clips.append(Record(name, found.path, labels, speaker(name), size=found.size))
    return clips


def _read_parquet(top: Path, split: str, manifest: dict) -> list[Record]:
    clips = []
    for path in parquet_files(top, f"{split}/*.parquet") or parquet_files(top, f"*{split}*.parquet"):
        table, names = read_parquet(path, COLUMNS)
        size = path.stat().st_size
        for row, (name, label) in enumerate(zip(table["file"], table["label"], strict=True)):
            word = names["label"][label] if "label" in names else str(label)
            clips.append(Record(name, path, (class_of(word, manifest),), speaker(name), row=row, size=size))
    return clips


def class_of(word: str, manifest: dict) -> str:
    """Return the class of a word, or of a folder of the archives."""
    rule = manifest["class_rule"]
    if word in rule["commands"]:
        return word
    return rule["silence"] if word in (NOISE, SILENCE) else rule["unknown"]


def speaker(name: str) -> str:
    """Return who speaks in ``word/0bac8a71_nohash_0.wav`` or ``_unknown_/bed_0bac8a71_nohash_0.wav.wav``; or itself."""
    before, found, _ = Path(name).name.partition("_nohash_")
    return before.rpartition("_")[2] if found else name
