"""A part of a profile: some of its encoders, datasets and heads alone, as ENCODERS=…, DATASETS=…, HEADS=… ask for."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from lib.errors import InputError, unknown_name

if TYPE_CHECKING:
    from lib.profiles import Profile

CHOSEN = {"encoder": "UNMUTE_ENCODERS", "dataset": "UNMUTE_DATASETS", "head": "UNMUTE_HEADS"}


def part_asked_for(profile: "Profile") -> "Profile":
    """Return the part of a profile that the environment asks for, names by comma; errors as in `part_of`."""
    return part_of(profile, **{kind: _names(variable) for kind, variable in CHOSEN.items()})


def part_of(
    profile: "Profile", encoder: tuple[str, ...] = (), dataset: tuple[str, ...] = (), head: tuple[str, ...] = ()
) -> "Profile":
    """Return a profile with some of its encoders, datasets and heads alone; nothing named stands for all.

    The ablations remain where `protobin` does. What is shown is what the profile shows, or else the first that is left.

    Raises
    ------
    InputError
        For a name that the profile does not have, or if no head is left on any dataset.
    """
    heads = tuple(dict.fromkeys(one for group in profile.groups for one in group.heads))
    wanted = {"encoder": (encoder, profile.encoders), "dataset": (dataset, profile.datasets), "head": (head, heads)}
    for kind, (names, known) in wanted.items():
        for one in names:
            if one not in known:
                raise unknown_name(f"{kind} of profile '{profile.name}'", one, known)
    if not (encoder or dataset or head):
        return profile
    kept = {kind: tuple(one for one in known if not names or one in names) for kind, (names, known) in wanted.items()}
    groups = (
        replace(
            group,
            datasets=tuple(one for one in group.datasets if one in kept["dataset"]),
            heads=tuple(one for one in group.heads if one in kept["head"]),
        )
        for group in profile.groups
    )
    groups = tuple(group for group in groups if group.datasets and group.heads)
    if not groups:
        raise InputError(
            f"Profile '{profile.name}' does not train {', '.join(kept['head'])} on {', '.join(kept['dataset'])}; "
            "choose other heads or datasets."
        )
    shown = groups[0].datasets[0]
    ablated = tuple(one for one in profile.ablation_datasets or (profile.dataset,) if one in kept["dataset"])
    few = [one for one in profile.ablation_encoders if one in kept["encoder"]] if "protobin" in kept["head"] else []
    return replace(
        profile,
        groups=groups,
        encoders=kept["encoder"],
        shown=profile.shown if profile.shown in kept["encoder"] else kept["encoder"][0],
        ablation_datasets=ablated,
        ablation_encoders=tuple(few) if ablated else (),
        mean_cls=tuple(one for one in profile.mean_cls if one in kept["encoder"] and "linear" in kept["head"]),
        fine_tuned=tuple(one for one in profile.fine_tuned if one in kept["encoder"]),
        example=profile.example if shown == profile.dataset else 0,
    )


def _names(variable: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in os.environ.get(variable, "").split(",") if part.strip())
