"""Fetch the recordings for users: one pinned revision of each set, every file checked against its manifest."""

import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pooch

from lib.data.recordings import field_path, samples_sha256
from lib.errors import InputError, unknown_name
from lib.files import atomic, sha256
from lib.paths import MANIFESTS, audio_root, scratch


@dataclass(frozen=True)
class RecordingSet:
    """Recordings in a public repository.

    Parameters
    ----------
    title : str
        For the messages.
    repository, revision : str
        Owner and name on GitHub, and the commit (a unique beginning is enough).
    manifest : str
        A file of ``data_manifests`` that names every recording.
    inside : str
        Where in the repository the recordings lie; the manifest names them from there.
    column : str
        Column of the manifest that holds the checksum.
    checksum : callable
        What it is the checksum of: the file, or the samples whatever their container.
    """

    title: str
    repository: str
    revision: str
    manifest: str
    inside: str = ""
    column: str = "sha256"
    checksum: Callable[[Path], str] = sha256

    @property
    def archive(self) -> str:
        """Address of the archive of the revision."""
        return f"https://github.com/{self.repository}/archive/{self.revision}.zip"


SETS = {
    "esc10": RecordingSet("ESC-10", "karolpiczak/ESC-10", "553c8f1743b9dba6b282e1323c3ca8fa76923448", "esc10.csv"),
    "fsdd": RecordingSet(
        "Free Spoken Digit Dataset", "Jakobovski/free-spoken-digit-dataset", "26eb9aa", "spoken_digits.csv"
    ),
    "maad": RecordingSet(
        "field recordings of scikit-maad",
        "scikit-maad/scikit-maad",
        "a726add",
        "field_recordings.csv",
        "data/indices/",
        "samples_sha256",
        samples_sha256,
    ),
}


def fetch(name: str) -> Path:
    """Download a set of `SETS` into ``<audio root>/<name>``; files that are there and intact are kept.

    The archive that the host packs may change its bytes, the recordings may not: each is held against its SHA-256 in
    the manifest, which also keeps its licence.

    Parameters
    ----------
    name : {"esc10", "fsdd", "maad"}
        Which set.

    Raises
    ------
    InputError
        If there is no such set, the download fails, or a file is not the one of the manifest.
    """
    if name not in SETS:
        raise unknown_name("set of recordings", name, list(SETS))
    source, folder = SETS[name], audio_root() / name
    table = pd.read_csv(MANIFESTS / source.manifest)
    wanted = dict(zip(table["file"], table[source.column], strict=True))
    wanted = {file: checksum for file, checksum in wanted.items() if not _intact(name, file, checksum)}
    if wanted:
        try:
            archive = pooch.retrieve(
                source.archive, known_hash=None, path=scratch() / "downloads", progressbar=sys.stderr.isatty()
            )
        except Exception as error:
            raise InputError(
                f"{source.title} could not be fetched from {source.archive} ({error}); try again when online."
            ) from error
        unpack(source, Path(archive), folder, wanted)
    return folder


def unpack(source: RecordingSet, archive: Path, folder: Path, wanted: dict[str, str]) -> None:
    """Copy the wanted files (name → checksum) out of the archive, each checked, whole or not at all."""
    try:
        with zipfile.ZipFile(archive) as packed:
            names = {name.split("/", 1)[-1]: name for name in packed.namelist()}
            for file, checksum in wanted.items():
                if source.inside + file not in names:
                    raise InputError(
                        f"'{file}' is not in the archive '{archive.name}' of {source.title}; delete it and fetch again."
                    )
                with atomic(folder / file) as temporary:
                    temporary.write_bytes(packed.read(names[source.inside + file]))
                    if source.checksum(temporary) != checksum:
                        raise InputError(
                            f"'{file}' of {source.title} is not the file of the manifest; nothing was kept of it."
                        )
    except zipfile.BadZipFile as error:
        raise InputError(
            f"The archive '{archive}' is damaged ({error}); delete it and run `make data` again."
        ) from error


def _intact(name: str, file: str, checksum: str) -> bool:
    path = field_path(file) if name == "maad" else audio_root() / name / file
    return path.is_file() and SETS[name].checksum(path) == checksum


def main() -> None:
    """Fetch the sets that are named, or all, and say where they lie."""
    try:
        for name in sys.argv[1:] or SETS:
            print(f"{SETS[name].title if name in SETS else name}: complete in {fetch(name)}", flush=True)
    except InputError as error:
        sys.exit(f"make data: {error}")


if __name__ == "__main__":
    main()
