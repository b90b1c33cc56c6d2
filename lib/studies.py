"""The studies of notebooks 15 to 22: what each takes from a profile, at whose scale it runs.

A study is data, as a profile is. Its name after the profile's, "pocket/controls", is what `lib.profiles.load_profile`
returns a profile of its own for.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lib.data.datasets import DIAL
from lib.errors import InputError, unknown_name

if TYPE_CHECKING:
    from lib.profiles import Profile

# The pocket encoders, before and after training with labels.
BASE_ENCODERS = ("pocket-amae", "pocket-beats", "pocket-asit", "pocket-eat", "pocket-dasheng", "pocket-sslam")
SUPERVISED_ENCODERS = ("pocket-beats-plus", "pocket-eat-plus", "pocket-sslam-plus")


@dataclass(frozen=True)
class Study:
    """What a study of notebooks 15 and on takes from a profile, and what it sets itself.

    Attributes
    ----------
    encoders : tuple of str
        The encoders, of those that the profile has.
    datasets : dict
        Profile → the datasets; a profile that is not named has no such study.
    trials : int
        Of a search, at most the profile's own.
    repeats : int
        How often each training clip stands in a split; there are as many times fewer epochs, and as many steps.
    """

    encoders: tuple[str, ...]
    datasets: dict[str, tuple[str, ...]]
    trials: int = 4
    repeats: int = 1


STUDIES = {
    "localisation": Study(  # trains nothing: it reads cells of the profile itself
        BASE_ENCODERS,
        {"smoke": ("soundscapes",), "pocket": ("many-sounds", "ten-sounds"), "esc10": ("esc10-soundscapes",)},
    ),
    "controls": Study(
        ("pocket-amae", "pocket-asit", "pocket-eat"),
        {"smoke": ("soundscapes",), "pocket": ("many-sounds", "ten-sounds"), "esc10": ("esc10-soundscapes",)},
    ),
    "dial": Study(
        ("pocket-amae", "pocket-beats", "pocket-eat", "pocket-beats-plus", "pocket-eat-plus"),
        {
            "smoke": ("dial-events-1", "dial-events-9"),
            "pocket": tuple(name for name in DIAL if "esc10" not in name),
            "esc10": tuple(name for name in DIAL if "esc10" in name),
        },
    ),
    "layers": Study(
        (*BASE_ENCODERS, *SUPERVISED_ENCODERS),
        {"smoke": ("soundscapes",), "pocket": ("ten-sounds",), "esc10": ("esc10-soundscapes",)},
    ),
    "views": Study(
        ("pocket-amae", "pocket-eat"),
        {
            "smoke": ("forest-few-shot",),
            "pocket": ("forest-few-shot", "farm-few-shot"),
            "esc10": ("esc10-soundscapes",),
        },
        repeats=10,
    ),
    "symptoms": Study(  # the supervised⁺ encoders for the single-label dataset alone
        ("pocket-eat", *SUPERVISED_ENCODERS),
        {
            "smoke": ("soundscapes", "short-sounds"),
            "pocket": ("ten-sounds", "single-sounds"),
            "esc10": ("esc10-soundscapes", "esc10-single"),
        },
    ),
    "options": Study(
        ("pocket-amae", "pocket-eat", "pocket-beats", "pocket-dasheng"),  # the last two for want of a [cls]
        {
            "smoke": ("soundscapes", "short-sounds"),
            "pocket": ("ten-sounds", "short-sounds"),
            "esc10": ("esc10-soundscapes", "spoken-digits"),
        },
        trials=3,
    ),
    "audit": Study(  # many sounds a clip, and a single one, which may be cut short
        ("pocket-eat",),
        {
            "smoke": ("soundscapes", "short-sounds"),
            "pocket": ("ten-sounds", "short-sounds"),
            "esc10": ("esc10-soundscapes", "esc10-single"),
        },
    ),
}


def at_scale_of(profile: "Profile", name: str) -> "Profile":
    """Return a profile with a study's datasets and encoders, and its shorter search.

    Raises
    ------
    InputError
        For an unknown study, with the known ones, and for one that the profile does not have.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, list(STUDIES))
    study = STUDIES[name]
    if profile.name not in study.datasets:
        raise InputError(
            f"The study '{name}' has no data in profile '{profile.name}'; it has in: {', '.join(study.datasets)}."
        )
    # A dataset of the study's own has the size of the profile's first.
    groups = tuple(
        replace(profile.group(dataset if dataset in profile.datasets else profile.dataset), datasets=(dataset,))
        for dataset in study.datasets[profile.name]
    )
    return replace(
        profile,
        name=f"{profile.name}/{name}",
        groups=groups,
        encoders=tuple(encoder for encoder in study.encoders if encoder in profile.encoders),
        trials=min(study.trials, profile.trials),
        epochs=max(1, profile.epochs // study.repeats),
        first_rung=max(1, profile.first_rung // study.repeats),
    )
