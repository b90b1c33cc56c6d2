"""Fetch ESC-10 for users: one pinned revision, every file checked against the manifest."""

import sys
import zipfile
from pathlib import Path

import pandas as pd
import pooch

from lib.errors import InputError
from lib.files import atomic, sha256
from lib.paths import MANIFESTS, audio_root, scratch

REVISION = "553c8f1743b9dba6b282e1323c3ca8fa76923448"
ARCHIVE = f"https://github.com/karolpiczak/ESC-10/archive/{REVISION}.zip"


def fetch_esc10() -> Path:
    """Download ESC-10 (42 MB) into ``<audio root>/esc10``; files that are there and intact are kept.

    The archive that the host packs may change its bytes, the recordings may not: each is held against its SHA-256
    in ``data_manifests/esc10.csv``, which also keeps licence and author of every clip.

    Raises
    ------
    InputError
        If the download fails, or a file is not the one of the manifest.
    """
    folder, table = audio_root() / "esc10", pd.read_csv(MANIFESTS / "esc10.csv")
    wanted = {row.file: row.sha256 for row in table.itertuples() if not _intact(folder / row.file, row.sha256)}
    if wanted:
        try:
            archive = pooch.retrieve(
                ARCHIVE, known_hash=None, path=scratch() / "downloads", progressbar=sys.stderr.isatty()
            )
        except Exception as error:
            raise InputError(f"ESC-10 could not be fetched from {ARCHIVE} ({error}); try again when online.") from error
        unpack(Path(archive), folder, wanted)
    return folder


def unpack(archive: Path, folder: Path, wanted: dict[str, str]) -> None:
    """Copy the wanted files (name → SHA-256) out of the archive, each checked, whole or not at all."""
    try:
        with zipfile.ZipFile(archive) as packed:
            names = {name.split("/", 1)[-1]: name for name in packed.namelist()}
            for file, checksum in wanted.items():
                if file not in names:
                    raise InputError(
                        f"'{file}' is not in the ESC-10 archive '{archive.name}'; delete it and fetch again."
                    )
                with atomic(folder / file) as temporary:
                    temporary.write_bytes(packed.read(names[file]))
                    if sha256(temporary) != checksum:
                        raise InputError(f"'{file}' of ESC-10 is not the file of the manifest; nothing was kept of it.")
    except zipfile.BadZipFile as error:
        raise InputError(
            f"The archive '{archive}' is damaged ({error}); delete it and run `make data` again."
        ) from error


def _intact(path: Path, checksum: str) -> bool:
    return path.is_file() and sha256(path) == checksum


def main() -> None:
    """Fetch, and say where it lies."""
    try:
        print(f"ESC-10 is complete in {fetch_esc10()}")
    except InputError as error:
        sys.exit(f"make data: {error}")


if __name__ == "__main__":
    main()
