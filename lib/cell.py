"""One cell by itself, at a profile's scale: ``make cell ENCODER=eat DATASET=urban HEAD=protobin PROFILE=paper``.

It is the cell that `make figures` would run, and is kept: a later run of the profile finds it finished.
"""

import argparse
import sys

import pandas as pd

from lib.encoders import ENCODERS
from lib.errors import InputError, unknown_name
from lib.heads import HEADS
from lib.profiles import Profile, load_profile
from lib.results import all_cells, cell_path, make_cell, read_rows, run_cells
from lib.search import Cell


def find_cell(profile: Profile, encoder: str, dataset: str, head: str, prototypes: int = 0) -> Cell:
    """Return the cell of a profile's dataset with any encoder and head.

    Parameters
    ----------
    profile : Profile
        Its datasets, and the protocol.
    encoder, dataset, head : str
        Ids.
    prototypes : int
        J; that of the dataset if 0.

    Raises
    ------
    InputError
        For an unknown name, with the known ones, or a J that cannot be.
    """
    wanted = {"encoder": (encoder, list(ENCODERS)), "head": (head, list(HEADS))}
    wanted[f"dataset of profile '{profile.name}'"] = (dataset, profile.datasets)
    for kind, (name, known) in wanted.items():
        if name not in known:
            raise unknown_name(kind, name, known)
    if prototypes < 0:
        raise InputError(f"J is {prototypes}; it is a number of prototypes per class, 1 or more.")
    return make_cell(encoder, dataset, head, prototypes)


def in_words(profile: Profile, cell: Cell) -> str:
    """Return what came out of a finished cell: the search, and the test metric of each seed of the best run."""
    rows = pd.DataFrame(read_rows(profile, cell))
    final, search = rows[rows["stage"] == "final"], rows[rows["stage"] == "search"]
    scores, trials = final["value"], len(search[["lr", "weight_decay"]].drop_duplicates())
    spread = f" ± {scores.std():.1f}" if len(scores) > 1 else ""
    each = ", ".join(f"seed {row.seed}: {row.value:.1f}" for row in final.itertuples())
    best = final.iloc[0]
    return (
        f"{cell.head} on {ENCODERS[cell.encoder].label}, {cell.dataset}: "
        f"test {cell.metric} {scores.mean():.1f}{spread} % ({each}); "
        f"lr {best['lr']:.2g}, weight decay {best['weight_decay']:.2g}, found in {trials} trials"
    )


def main() -> None:
    """Run the cell that the arguments name, unless it is finished, and say what came out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("encoder")
    parser.add_argument("dataset")
    parser.add_argument("head")
    parser.add_argument("--prototypes", type=int, default=0, help="J, prototypes per class; by default the dataset's")
    parser.add_argument("--profile", default="pocket")
    given = parser.parse_args()
    try:
        profile = load_profile(given.profile)
        cell = find_cell(profile, given.encoder, given.dataset, given.head, given.prototypes)
        if cell not in all_cells(profile):
            print(f"'{cell.key}' is none of the cells of profile '{profile.name}': its figures will not show it.")
        run_cells(given.profile, [cell])
        print(in_words(profile, cell), cell_path(profile, cell), sep="\n")
    except InputError as error:
        sys.exit(f"make cell: {error}")


if __name__ == "__main__":
    main()
