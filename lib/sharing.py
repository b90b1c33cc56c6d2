"""Stores and trained heads, given to others and taken from them, through a repository on the hub.

``make push REPO=owner/name PROFILE=paper`` shows what would be sent, and under which licences; with ``YES=1`` it sends
it. ``make pull REPO=owner/name PROFILE=paper`` takes what this machine lacks; ``REVISION=…`` takes it from there as it
was then. Both heed ENCODERS, DATASETS and HEADS.

What comes is not believed: an index must name what this machine would compute, and each file must be what its index
says, before anything moves to its place; what is here and sound stays. That somebody computed it honestly, nobody can
see: pull from those whom you trust.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lib.errors import InputError
from lib.files import sha256, sweep_temporaries, temporary_folder, write_json, write_text
from lib.hub import Hub, HuggingFace
from lib.licences import licences
from lib.paths import scratch
from lib.profiles import Profile, load_profile
from lib.result_files import read_result
from lib.results import Versions, all_cells, cell_path
from lib.store import store_folder
from lib.store_checks import depends_of, differing, read_facts

SHARD = re.compile(r"shard-\d{5}\.safetensors")  # what an index may name: nothing outside its folder


@dataclass(frozen=True)
class Share:
    """One folder of the store, or the file of one cell.

    Attributes
    ----------
    path : str
        Below the scratch folder, and in the repository.
    label : str
        For people.
    depends : dict
        What it must have been computed from.
    """

    path: str
    label: str
    depends: dict

    @property
    def is_store(self) -> bool:
        """Whether it is a folder of the store."""
        return self.path.startswith("store/")

    @property
    def place(self) -> Path:
        """Where it belongs on this machine."""
        return scratch() / self.path

    def fault(self, place: Path) -> str:
        """Return what is wrong with what lies at a place, '' if it is whole and the right one; nothing is changed."""
        return _fault_of_store(place, self.depends) if self.is_store else _fault_of_cell(place, self.depends)


def _fault_of_store(folder: Path, depends: dict) -> str:
    facts = read_facts(folder)
    if not facts["complete"]:
        return "it is not complete"
    if other := differing(facts["depends"], depends):
        return f"it was made with another state of {other}"
    if not _named(facts) or sum(entry["clips"] for entry in facts["shards"].values()) != depends["clips"]:
        return "its index is damaged"
    for name, entry in facts["shards"].items():
        if not (folder / name).is_file() or sha256(folder / name) != entry["sha256"]:
            return f"{name} is not what its index says"
        if not _holds(folder / name, entry["clips"], facts["grid"]):
            return "its index is damaged"
    return ""


def _named(facts: dict) -> list[str]:
    """Return the shards that an index names; none if it is no index as this project writes them."""
    entries, grid = facts["shards"].items(), facts.get("grid")
    sound = isinstance(grid, list) and [type(side) for side in grid] == [int, int]
    sound = sound and all(
        SHARD.fullmatch(name)
        and isinstance(one, dict)
        and type(one.get("clips")) is int  # neither "7" nor true
        and isinstance(one.get("sha256"), str)
        for name, one in entries
    )
    return [name for name, _ in entries] if sound else []


def _holds(shard: Path, clips: int, grid: list[int]) -> bool:
    """Return whether the tokens of a shard are of so many clips, and as many a clip as the map has places."""
    try:
        with safe_open(shard, "pt") as file:
            shape = file.get_slice("tokens").get_shape()  # (clips, N, D); the header alone is read
    except SafetensorError:
        return False
    return len(shape) == 3 and shape[:2] == [clips, grid[0] * grid[1]]


def _fault_of_cell(path: Path, depends: dict) -> str:
    header, _ = read_result(path)
    if not header:
        return "it is missing or damaged"
    other = [
        name for name in sorted({*header["depends"], *depends}) if header["depends"].get(name) != depends.get(name)
    ]
    return f"it was made with another state of {', '.join(other)}" if other else ""


def shares_of(profile: Profile) -> tuple[list[Share], dict[str, str]]:
    """Return what a profile's cells are and read, and "encoder on dataset" → why this machine cannot tell it."""
    versions, shares, unknown = Versions(profile), {}, {}
    for cell in all_cells(profile):
        pair = f"{cell.encoder} on {cell.dataset}"
        if pair in unknown:
            continue
        try:
            depends = versions.of(cell)
        except InputError as error:
            unknown[pair] = str(error)
            continue
        for clips in depends["clips"]:
            split, count, view = clips["split"], clips["clips"], clips.get("view", 0)
            folder = store_folder(cell.encoder, cell.dataset, split, count, view)
            label = f"embeddings of {pair}, {split}" + (f", view {view}" if view else "")
            shares[folder] = Share(_below_scratch(folder), label, depends_of(clips, depends["encoder"]))
        path = cell_path(profile, cell)
        shares[path] = Share(_below_scratch(path), f"cell {cell.key}", depends)
    return sorted(shares.values(), key=lambda share: (not share.is_store, share.path)), unknown


def _below_scratch(path: Path) -> str:
    return path.relative_to(scratch()).as_posix()


# ---- pull --------------------------------------------------------------------------------------------------


def pull(profile: Profile, repo: str, hub: Hub, revision: str | None = None) -> list[str]:
    """Take from a repository what this machine lacks of a profile.

    Parameters
    ----------
    profile : Profile
        Whose stores and cells.
    repo : str
        "owner/name".
    hub : Hub
        Who has it.
    revision : str, optional
        The newest by default. Where each thing came from is recorded in ``pulled.json`` of the scratch folder.

    Returns
    -------
    list of str
        A line for each thing that was taken, and for each that was not, saying why.

    Raises
    ------
    InputError
        If the repository or the revision is not there, or the connection breaks: the next pull goes on from there.
    """
    revision = hub.revision(repo, revision)
    shares, unknown = shares_of(profile)
    wanted = [share for share in shares if share.fault(share.place)]
    lines = [f"{pair}: not compared, so not taken: {why}" for pair, why in unknown.items()]
    lines += [f"{len(shares) - len(wanted)} of {len(shares)} are here"] if len(shares) > len(wanted) else []
    there = set(hub.files(repo, revision))
    offered = [share for share in wanted if _first_file(share) in there]
    lines += [f"{share.label}: not in {repo}" for share in wanted if share not in offered]
    staging = scratch() / "pulled" / repo.replace("/", "--") / revision
    for old in staging.parent.glob("*"):
        if old != staging:
            shutil.rmtree(old)
    # The small index says whether the large rest is worth fetching.
    hub.fetch(repo, revision, [_first_file(share) for share in offered], staging)
    for share in offered:
        came, why = staging / share.path, ""
        if share.is_store:
            facts = read_facts(came)
            if other := differing(facts["depends"], share.depends):
                why = f"it was made with another state of {other}"
            else:
                names = [f"{share.path}/{name}" for name in _named(facts)]
                hub.fetch(repo, revision, [name for name in names if name in there], staging)
        why = why or share.fault(came)
        if why:
            lines.append(f"{share.label}: not taken, {why}")
            _drop(came)
        else:
            _put(share, came)
            _record(share, repo, revision)
            lines.append(f"{share.label}: taken")
    shutil.rmtree(staging, ignore_errors=True)
    return lines


def _first_file(share: Share) -> str:
    return f"{share.path}/index.json" if share.is_store else share.path


def _drop(place: Path) -> None:
    """Remove what is of no use, so that the next pull fetches it anew."""
    shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)


def _put(share: Share, came: Path) -> None:
    """Move what came to its place, whole, in one step; of a folder the index and what it names, and nothing else."""
    place = share.place
    place.parent.mkdir(parents=True, exist_ok=True)
    if not share.is_store:
        came.replace(place)
        return
    sweep_temporaries(place.parent)
    with temporary_folder(place.parent, place.name) as fresh, temporary_folder(place.parent, "before") as before:
        for name in [*read_facts(came)["shards"], "index.json"]:
            (came / name).replace(fresh / name)
        if place.exists():
            place.replace(before / "was")
        fresh.replace(place)


def _record(share: Share, repo: str, revision: str) -> None:
    path = scratch() / "pulled.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    write_json(path, dict(sorted({**known, share.path: {"repo": repo, "revision": revision}}.items())))


# ---- push --------------------------------------------------------------------------------------------------


def push(profile: Profile, repo: str, hub: Hub, agreed: bool) -> str:
    """Send to a repository what is complete, sound and up to date here of a profile; or say what that would be.

    Parameters
    ----------
    profile, repo, hub
        As for `pull`.
    agreed : bool
        Whether who asks has read what is sent and under which licences, and wants it.

    Returns
    -------
    str
        The revision that has it; '' if nothing was sent.

    Raises
    ------
    InputError
        If there is nothing to send, or the hub refuses: the next push goes on from there.
    """
    shares, _ = shares_of(profile)
    sound = [share for share in shares if not share.fault(share.place)]
    if not sound:
        raise InputError(
            f"Nothing of profile '{profile.name}' is complete and up to date here, so there is nothing to send; run "
            f"`make figures PROFILE={profile.name}` first."
        )
    print(in_words(sound, profile, repo))
    if not agreed:
        print("Nothing was sent: if you may pass this on and want to, say so with YES=1.")
        return ""
    if (scratch() / "push").is_dir():
        sweep_temporaries(scratch() / "push")
    with temporary_folder(scratch() / "push", "all") as folder:
        for name in [name for share in sound for name in _files(share)]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(scratch() / name, folder / name)  # no copy: the store may be large
        write_text(folder / "README.md", card(sound, profile))
        revision = hub.send(repo, folder)
    print(f"sent to {repo}, revision {revision}")
    return revision


def _files(share: Share) -> list[str]:
    if not share.is_store:
        return [share.path]
    return [f"{share.path}/{name}" for name in ("index.json", *read_facts(share.place)["shards"])]


def in_words(shares: Sequence[Share], profile: Profile, repo: str) -> str:
    """Return what is to be sent, and what to know before."""
    stores = [share for share in shares if share.is_store]
    size = sum((scratch() / name).stat().st_size for share in shares for name in _files(share))
    return "\n".join(
        [
            f"To {repo}: {len(stores)} folders of embeddings, {len(shares) - len(stores)} cells, {size / 1e9:.2f} GB.",
            "Embeddings are made with an encoder's weights of recordings, and trained heads of embeddings; who passes "
            "them on answers for both:",
            *(f"  {name}: {licence}" for name, licence in _licences(shares, profile).items()),
            "A new repository is private; whether it may be opened is for you to judge.",
        ]
    )


def card(shares: Sequence[Share], profile: Profile) -> str:
    """Return the README of the repository: what is there, and the licences of what it was made of."""
    lines = [f"- {name}: {licence}" for name, licence in _licences(shares, profile).items()]
    return "\n".join(
        [
            "---",
            "license: other",
            "---",
            f"# Embeddings and trained heads of the profile `{profile.name}` of Unmute",
            "",
            "`make pull` of that project checks them and puts them in place. They were made of:",
            "",
            *lines,
            "",
        ]
    )


def _licences(shares: Sequence[Share], profile: Profile) -> dict[str, str]:
    """Return the licences of all that these shares were made of."""
    sent = {share.path for share in shares}
    pairs = [(cell.encoder, cell.dataset) for cell in all_cells(profile)]
    made = [
        pair
        for pair in dict.fromkeys(pairs)
        if any(
            path.startswith((f"store/{'/'.join(pair)}/", f"cells/{profile.name}/{'--'.join(pair)}--")) for path in sent
        )
    ]
    return licences((encoder for encoder, _ in made), (dataset for _, dataset in made))


def main() -> None:
    """Push or pull, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["push", "pull"])
    parser.add_argument("--repo", default="", help="owner/name on the hub")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--revision", help="a commit; the newest by default")
    parser.add_argument("--yes", action="store_true", help="send what push shows")
    given = parser.parse_args()
    try:
        if given.repo.count("/") != 1:
            raise InputError(f"name the repository, `make {given.action} REPO=owner/name`.")
        profile = load_profile(given.profile)
        if given.action == "pull":
            print(*pull(profile, given.repo, HuggingFace(), given.revision), sep="\n")
        else:
            push(profile, given.repo, HuggingFace(), given.yes)
    except InputError as error:
        sys.exit(f"make {given.action}: {error}")


if __name__ == "__main__":
    main()
