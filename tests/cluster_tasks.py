"""What the tests of `lib.cluster` have workers do; it lies apart, so that they find it."""

import os
import time
from pathlib import Path

from lib.errors import InputError


def once(folder: str, name: str) -> tuple[str, int]:
    """Leave a mark and return name and process."""
    path = Path(folder) / f"{name}.{os.getpid()}.{time.monotonic_ns()}"
    path.touch()
    return name, os.getpid()


def killed(folder: str, times: int) -> str:
    """Have this process killed, as the system does when memory is short, the first `times` times."""
    once(folder, "killed")
    if len(list(Path(folder).glob("killed.*"))) <= times:
        os.kill(os.getpid(), 9)
    return "survived"


def wrong(folder: str) -> None:
    """Fail as something that a person has to mend."""
    once(folder, "wrong")
    raise InputError("This is wrong; do that.")


def beside(folder: str, count: int) -> str:
    """Return once there are so many marks."""
    while len(list(Path(folder).iterdir())) < count:
        time.sleep(0.01)
    return "beside"
