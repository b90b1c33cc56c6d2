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
    return Path(os.environ.get("UNMUTE_CACHE") or REPOSITORY / ".cache").expanduser()


def audio_root() -> Path:
    """Return the folder of fetched audio: ``UNMUTE_DATA`` where it is set, else ``data`` in the scratch."""
    return Path(os.environ.get("UNMUTE_DATA") or scratch() / "data").expanduser()


def figure_root() -> Path:
    """Return the folder of figures: ``UNMUTE_FIGURES`` where it is set, else ``figures`` in the repository."""
    return Path(os.environ.get("UNMUTE_FIGURES") or FIGURES).expanduser()
