"""Arms of a study: cells off the main road, a head with options on features made of the stored embeddings.

An arm runs, resumes, is drawn and compared like any cell (`lib.results`, `lib.comparisons`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from lib.audit_stores import FAULTY
from lib.errors import unknown_name
from lib.layer_store import all_layers, mean_layer, one_layer
from lib.open_features import OPEN
from lib.profiles import Profile
from lib.provenance import definition_version
from lib.search import Cell
from lib.store import Embeddings, load_embeddings
from lib.view_stores import augmented


@dataclass(frozen=True)
class Arm(Cell):
    """A cell with a name of its own, among the arms of a study on one encoder and dataset.

    Attributes
    ----------
    name : str
        What tables and files call it: short, unique among the arms of an (encoder, dataset).
    features : str
        A key of `FEATURES`: what the head reads.
    """

    name: str = ""
    features: str = "last"

    @property
    def key(self) -> str:
        """A name for files and for people."""
        return "--".join([self.encoder, self.dataset, self.name.replace(" ", "-")])


def stored(cell: "Cell", profile: "Profile", split: str, view: int = 0) -> Embeddings:
    """Return the last layer as it lies in the store."""
    count = profile.clips_of(cell.dataset)[split]
    return load_embeddings(cell.encoder, cell.dataset, split, count, cell.cls_mode, view)


def with_max(cell: "Cell", profile: "Profile", split: str, view: int = 0) -> Embeddings:
    """Let the largest value of each channel over the tokens stand for [cls]."""
    embeddings = stored(cell, profile, split, view)
    return replace(embeddings, cls=embeddings.tokens.amax(1).float())  # (clips, N, D) → (clips, D)


# What a head may read: functions of cell, profile, split and view. The mean token is `cls_mode="mean"`.
FEATURES: dict[str, Callable[..., Embeddings]] = {"last": stored, "max": with_max}
FEATURES |= OPEN  # what the paper left open about the encoder
FEATURES |= {"layers": all_layers, "layers-mean": mean_layer} | {f"layer-{block}": one_layer for block in range(6)}
FEATURES |= {"views": augmented}
FEATURES |= FAULTY  # clips prepared with a mistake


def loader(cell: Cell, profile: Profile) -> Callable[..., Embeddings]:
    """Return what `lib.search.run_cell` loads a cell's splits with."""
    name = getattr(cell, "features", "last")
    if name not in FEATURES:
        raise unknown_name("kind of features", name, list(FEATURES))
    return partial(FEATURES[name], cell, profile)


def feature_versions(cell: Cell) -> dict[str, str]:
    """Return what an arm depends on beyond a plain cell: nothing where it reads the store as it is."""
    name = getattr(cell, "features", "last")
    if name == "last":
        return {}
    return {"features_code": definition_version(FEATURES[name].__module__, FEATURES[name].__name__)}
