"""Where things lie: the repository, the scratch folder, the audio that a user fetched."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MANIFESTS = REPOSITORY / "data_manifests"
FIGURES = REPOSITORY / "figures"
NOTEBOOKS = REPOSITORY / "notebooks"
WEIGHTS = REPOSITORY / "lib" / "encoders" / "weights"


def scratch() -> Path:
    """Return the scratch folder: ``UNMUTE_CACHE`` where it is set, else ``.cache`` in the repository."""
    return _folder("UNMUTE_CACHE", REPOSITORY / ".cache")


def audio_root() -> Path:
    """Return the folder of fetched audio: ``UNMUTE_DATA`` where it is set, else ``data`` in the scratch."""
    return _folder("UNMUTE_DATA", scratch() / "data")


def figure_root() -> Path:
    """Return the folder of figures: ``UNMUTE_FIGURES`` where it is set, else ``figures`` in the repository."""
    return _folder("UNMUTE_FIGURES", FIGURES)


def _folder(variable: str, default: Path) -> Path:
    """Return the folder that a variable names; a relative one starts at the repository, whoever asks from where."""
    asked = os.environ.get(variable)
    return REPOSITORY / Path(asked).expanduser() if asked else default
