"""ESC-50 (Piczak, 2015), as its repository unpacks or as the hub has it (ashraq/esc50); the splits are its five folds.

Clips of one fold share no source recording with those of another, which is what the folds are for. The paper's test set
is one fold of 400 clips (Table 8), it does not say which: the manifest takes fold 5 to test and, as Section 4.1 has it,
one fold for the search, the one before. "esc50-fold-1" to "esc50-fold-5" test each fold in turn.
"""

from collections.abc import Iterator
from pathlib import Path

from lib.data.official import Record
from lib.data.official.layout import audio_files, file_record, parquet_files, read_parquet, read_table, top_of

COLUMNS = ("filename", "fold", "category", "src_file")
LIST, PARQUET = "meta/esc50.csv", "data/*.parquet"


def read(folder: Path, manifest: dict) -> dict[str, list[Record]]:
    """Return the splits "1" to "5"; see `lib.data.official.read_official`."""
    top = top_of(folder, [LIST, PARQUET], manifest["label"])
    folds: dict[str, list[Record]] = {str(fold): [] for fold in range(1, 6)}
    clips = _in_folder(top) if (top / LIST).is_file() else _in_parquet(top)
    for fold, clip in sorted(clips, key=lambda found: found[1].id):
        folds.setdefault(fold, []).append(clip)
    return folds


def _in_folder(top: Path) -> Iterator[tuple[str, Record]]:
    """Yield fold and clip of the repository's list."""
    audio, files = top / "audio", audio_files(top / "audio")
    for row in read_table(top / LIST, COLUMNS).itertuples():
        yield row.fold, file_record(row.filename, files, audio, (row.category,), row.src_file)


def _in_parquet(top: Path) -> Iterator[tuple[str, Record]]:
    """Yield fold and clip of the hub's files."""
    for path in parquet_files(top, PARQUET):
        table, size = read_parquet(path, COLUMNS)[0].astype(str), path.stat().st_size
        for number, row in enumerate(table.itertuples()):
            yield row.fold, Record(row.filename, path, (row.category,), row.src_file, row=number, size=size)
