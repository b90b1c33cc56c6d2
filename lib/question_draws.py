"""All scores that the paper's four questions are asked of, as measured and in each draw, in one array.

That of a profile has a row for what was measured and a row for each draw; that of the paper's tables has the first row
alone. Both have the same axes, so that one function computes a quantity of either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib import published
from lib.comparisons import METRICS, cell_draws, draw_all, final_values, is_default
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.figures_style import in_order
from lib.files import digest
from lib.finetune_results import read_finetuning
from lib.metrics import Draws, bootstrap_draws
from lib.profiles import Profile, load_profile
from lib.published import FINE_TUNING
from lib.results import main_cells
from lib.search import Cell

KINDS = ("base", "supervised")
Place = tuple[str, str, str, str, str]  # group, dataset, kind, base encoder, head


@dataclass(frozen=True)
class Scores:
    """Test scores in percent.

    Attributes
    ----------
    values : numpy.ndarray
        ``(1 + R, datasets, 2, encoders, heads)``: what was measured, then R draws; NaN where nothing was run. The third
        axis is ``KINDS``: a supervised⁺ version stands in the place of its base encoder.
    sds : numpy.ndarray
        Standard deviations over seeds, ``(datasets, 2, encoders, heads)``; NaN where none is known.
    datasets, groups : tuple of str
        Names of the datasets, and the group of each.
    encoders, all_heads : tuple of str
        Names of the base encoders and of the heads.
    many : str
        The dataset with many classes: as20k, or what stands for it.
    shown : str
        The encoder of Figure 2.
    """

    values: np.ndarray
    sds: np.ndarray
    datasets: tuple[str, ...]
    groups: tuple[str, ...]
    encoders: tuple[str, ...]
    all_heads: tuple[str, ...]
    many: str
    shown: str

    def of(self, head: str, group: str, kind: str = "base") -> np.ndarray:
        """Return the scores of a head: ``(1 + R, datasets of the group, encoders)``, NaN where it was not run."""
        part = self.values[:, self.rows_of(group), KINDS.index(kind)]
        return part[..., self.all_heads.index(head)] if head in self.all_heads else np.full(part.shape[:-1], np.nan)

    def rows_of(self, group: str) -> list[int]:
        """Return the places of a group's datasets."""
        return [at for at, name in enumerate(self.groups) if name == group]

    def heads(self, group: str, kind: str = "base") -> list[str]:
        """Return the heads that ran in a group, in the paper's order."""
        ran = np.isfinite(self.values[0, self.rows_of(group), KINDS.index(kind)]).any((0, 1))  # (heads,)
        return in_order({head for head, one in zip(self.all_heads, ran, strict=True) if one} - {FINE_TUNING})

    def means(self, group: str, kind: str = "base") -> pd.DataFrame:
        """Return what was measured in the form of `lib.comparisons.averages`: dataset, encoder, head, mean, sd."""
        rows = [
            (self.datasets[at], encoder, head, self.values[(0, *place)], self.sds[place])
            for at in self.rows_of(group)
            for e, encoder in enumerate(self.encoders)
            for head in self.heads(group, kind)
            for place in [(at, KINDS.index(kind), e, self.all_heads.index(head))]
            if np.isfinite(self.values[(0, *place)])
        ]
        return pd.DataFrame(rows, columns=["dataset", "encoder", "head", "mean", "sd"])

    def without(self, level: str, name: str) -> "Scores":
        """Return all but one encoder (both its versions) or one dataset."""
        if level == "encoder":
            at = self.encoders.index(name)
            return replace(
                self,
                values=np.delete(self.values, at, axis=3),
                sds=np.delete(self.sds, at, axis=2),
                encoders=_drop(self.encoders, at),
            )
        at = self.datasets.index(name)
        return replace(
            self,
            values=np.delete(self.values, at, axis=1),
            sds=np.delete(self.sds, at, axis=0),
            datasets=_drop(self.datasets, at),
            groups=_drop(self.groups, at),
        )

    @property
    def measured(self) -> "Scores":
        """What was measured, without the draws."""
        return replace(self, values=self.values[:1])


def _drop(names: tuple[str, ...], at: int) -> tuple[str, ...]:
    return names[:at] + names[at + 1 :]


def from_cells(cells: Mapping[Place, np.ndarray], sds: Mapping[Place, float], many: str, shown: str) -> Scores:
    """Return the scores of cells by their place: of each ``(1 + R,)`` values, and its sd over seeds."""
    groups = {dataset: group for group, dataset, *_ in cells}
    datasets, encoders, heads = list(groups), list(dict.fromkeys(c[3] for c in cells)), _heads(cells)
    rows = len(next(iter(cells.values())))
    values = np.full((rows, len(datasets), len(KINDS), len(encoders), len(heads)), np.nan)
    spread = np.full(values.shape[1:], np.nan)
    for place, value in cells.items():
        _, dataset, kind, encoder, head = place
        at = datasets.index(dataset), KINDS.index(kind), encoders.index(encoder), heads.index(head)
        values[(slice(None), *at)], spread[at] = value, sds[place]
    return Scores(values, spread, tuple(datasets), tuple(groups.values()), tuple(encoders), tuple(heads), many, shown)


def _heads(cells: Mapping[Place, np.ndarray]) -> list[str]:
    found = {place[4] for place in cells}
    return in_order(found - {FINE_TUNING}) + [FINE_TUNING] * (FINE_TUNING in found)


def read_scores(profile_name: str) -> Scores:
    """Return the scores of a profile: its encoders but for the controls, each head with the default [cls] and J.

    In each draw the test clips and their sources are resampled, alike for all heads and encoders of a dataset and
    independently from dataset to dataset. On top of that each cell gets an error for its seeds: normal, with the
    standard deviation over seeds (pooled over the encoders, for each dataset and head) over the root of their number.

    Raises
    ------
    InputError
        If the profile is unknown or a cell has not been run.
    """
    profile = load_profile(profile_name)
    cells = [cell for cell in main_cells(profile) if is_default(cell, cell.encoder) and _takes_part(cell.encoder)]
    draw_all(profile, cells)
    found = {_cell_place(profile, cell): (cell_draws(profile, cell), final_values(profile, cell)) for cell in cells}
    for encoder in profile.fine_tuned:
        found[_place(profile, encoder, profile.dataset, FINE_TUNING)] = _fine_tuned(profile, encoder)
    sds = {place: np.std(values, ddof=1) if len(values) > 1 else 0.0 for place, (_, values) in found.items()}
    drawn = {}
    for place, (draws, values) in found.items():
        alike = [sd for other, sd in sds.items() if (other[1], other[4]) == (place[1], place[4])]
        drawn[place] = with_seeds(draws, np.sqrt(np.mean(np.square(alike)) / len(values)), place)
    return from_cells(drawn, sds, profile.dataset, profile.shown)


def with_seeds(draws: Draws, error: float, place: Place) -> np.ndarray:
    """Return the measured score and the draws in percent, (1 + R,), centred on it and with an error for the seeds.

    Resampling lifts average precision (see `lib.metrics.bootstrap_interval`), hence the centring. Datasets of one
    size share the weights of their draws by position; another order for each dataset makes them independent.

    Parameters
    ----------
    draws : Draws
        Of a cell.
    error : float
        Standard error of its mean over seeds, in points.
    place : tuple of str
        Group, dataset, kind, base encoder, head; the random numbers come from these names.
    """
    order = _generator(place[1]).permutation(len(draws.drawn))
    drawn = 100 * (draws.drawn[order] - np.nanmean(draws.drawn) + draws.value)
    return np.append(100 * draws.value, drawn + error * _generator(*place).standard_normal(len(drawn)))


def _generator(*names: str) -> np.random.Generator:
    return np.random.default_rng(int(digest(names), 16))


def _takes_part(encoder: str) -> bool:
    return ENCODERS[encoder].kind != "control"


def _cell_place(profile: Profile, cell: Cell) -> Place:
    return _place(profile, cell.encoder, cell.dataset, cell.head)


def _place(profile: Profile, encoder: str, dataset: str, head: str) -> Place:
    entry = ENCODERS[encoder]
    return profile.group(dataset).name, dataset, entry.kind, entry.base or encoder, head


def _fine_tuned(profile: Profile, encoder: str) -> tuple[Draws, list[float]]:
    """Return draws and values over seeds of a fine-tuned encoder, on the same draws as its heads."""
    found, data = read_finetuning(profile.name, encoder, profile.dataset), load_dataset(profile.dataset)
    count, metric = profile.clips["test"], METRICS[data.manifest["metric"]]
    test = data.targets("test", count), data.sources("test", count)
    draws = bootstrap_draws(found.test_scores.numpy(), *test, metric, profile.bootstrap_draws, seed=0)
    return draws, [row["value"] for row in found.rows if row["split"] == "test"]


def published_scores() -> Scores:
    """Return the scores of the paper's Tables 2, 4, 5 and 6, and fine-tuning from Table 3; there are no draws."""
    plus = {name: base for base, name in published.SUPERVISED.items()}
    tuned = published.means(3)
    parts = [
        ("general", published.means(2)),
        ("general", published.means(4, tuple(plus))),
        ("bioacoustic", published.means(5)),
        ("control", published.means(6)),
        ("general", tuned[(tuned["head"] == FINE_TUNING) & (tuned["dataset"] == "as20k")]),
    ]
    cells, sds = {}, {}
    for group, part in parts:
        for row in part.itertuples():
            kind = "supervised" if row.encoder in plus else "base"
            place = (group, row.dataset, kind, plus.get(row.encoder, row.encoder), row.head)
            cells[place], sds[place] = np.array([row.mean]), row.sd
    return from_cells(cells, sds, many="as20k", shown="EAT")
