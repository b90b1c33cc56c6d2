"""The polyphony dial: one thing about the clips is turned, position by position, and nothing else.

At each position heads are trained and tested on clips of that position. All positions are drawn from the same seeds:
from one to the next a clip keeps its sounds, its places and its noise as far as what is turned lets it, so that
the differences between positions are paired, over test clips, like those between heads.
"""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd

from lib.arms import Arm
from lib.comparisons import cell_draws, draw_all, final_values
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.figures import read_table, write_table
from lib.files import digest
from lib.paths import figure_root
from lib.profiles import Profile, load_profile
from lib.results import make_cell, run_cells
from lib.store import build_store
from lib.tables import note

PROTOTYPES = 10  # per class
FEWER = ("pocket-amae", "pocket-eat", "pocket-eat-plus")  # on all dials but the first: what fits the time
METHODS = {  # name → head, what stands for [cls] ("": what the encoder has)
    "linear": ("linear", ""),
    "mean": ("linear", "mean"),
    "mhca": ("mhca", ""),
    "protobin": ("protobin", ""),
}
GROUPS = {"base": "base encoders", "supervised": "supervised⁺ encoders", "all": "all encoders"}
CONTRASTS = (("protobin", "linear"), ("protobin", "mean"), ("mhca", "linear"), ("mean", "linear"))


@dataclass(frozen=True)
class Dial:
    """Something about the clips that can be turned.

    Attributes
    ----------
    title : str
        What it is.
    axis : str
        What the axis of a plot says.
    positions : dict
        Dataset → place on the dial, a number; not every profile has all.
    words : dict
        Place → what it is called, where a number would not say it.
    unit : str
        What a slope is a slope over; empty where the places have no distance.
    logarithmic : bool
        Whether a doubling is a step, and not a difference.
    """

    title: str
    axis: str
    positions: dict[str, float]
    words: dict[float, str] = field(default_factory=dict)
    unit: str = ""
    logarithmic: bool = False

    def called(self, place: float) -> str:
        """Return what a place is called."""
        return self.words.get(place, f"{place:g}".replace("-", "−"))

    def steps(self, places: np.ndarray) -> np.ndarray:
        """Return places in the unit of a slope."""
        return np.log2(places) if self.logarithmic else places


DIALS = {
    "events": Dial(
        "how many events",
        "events in a clip",
        {f"dial-events-{n}": n for n in (1, 2, 3, 5, 7, 9)} | {f"dial-esc10-events-{n}": n for n in (1, 3, 5, 9)},
        unit="event",
    ),
    "snr": Dial(
        "how loud they are",
        "level over the noise (dB)",
        {f"dial-snr-{str(db).replace('-', 'minus-')}": db for db in (-6, 0, 6, 12, 18)},
        unit="dB",
    ),
    "seconds": Dial(
        "how long they last",
        "length of an event (s)",
        {f"dial-seconds-{s:g}": s for s in (0.25, 0.5, 1, 2, 4)},
        unit="doubling",
        logarithmic=True,
    ),
    "overlap": Dial(
        "overlap in time",
        "four events of 2 s",
        {"dial-overlap-none": 0, "dial-overlap-half": 1, "dial-overlap-full": 2},
        {0: "one after\nanother", 1: "half\nover", 2: "all at\nonce"},
    ),
    "bands": Dial(
        "overlap in frequency",
        "overlap of four bands at once",
        {"dial-bands-less": 0, "dial-overlap-full": 1, "dial-bands-more": 2},
        {0: "less", 1: "as they\ncome", 2: "more"},
    ),
}


def study(profile_name: str) -> Profile:
    """Return the scale of the study in a profile."""
    return load_profile(f"{profile_name}/dial")


def dials_of(profile: Profile) -> dict[str, dict[str, float]]:
    """Return the dials that a profile can turn, those with two positions or more: name → dataset → place, in order."""
    found = {name: {d: at for d, at in dial.positions.items() if d in profile.datasets} for name, dial in DIALS.items()}
    return {
        name: dict(sorted(places.items(), key=lambda pair: pair[1]))
        for name, places in found.items()
        if len(places) > 1
    }


def shared_band(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return what two bands in Hz share, of all that they cover together, on the mel scale: 0 to 1."""
    (low, high), (other_low, other_high) = (2595 * np.log10(1 + np.array(band) / 700) for band in (first, second))
    shared = max(0.0, min(high, other_high) - max(low, other_low))
    return float(shared / (high - low + other_high - other_low - shared))


def band_overlap(profile: Profile, clips: int = 24) -> str:
    """Say how much the bands of two events of a clip share, on average, at each position of the last dial."""
    said = []
    for dataset, place in dials_of(profile).get("bands", {}).items():
        scenes = (load_dataset(dataset).scene("test", index) for index in range(clips))
        bands = [[(event.low_hz, event.high_hz) for event in scene.events] for scene in scenes]
        shared = np.mean([shared_band(*pair) for of_clip in bands for pair in combinations(of_clip, 2)])
        said.append(f"{' '.join(DIALS['bands'].called(place).split())} {shared:.0%}")
    return ", ".join(said) or "This profile does not turn that dial."


# ---- what is trained ---------------------------------------------------------------------------------------------


def encoders_on(profile: Profile, dataset: str) -> list[str]:
    """Return the encoders of a position: all on the dial of events, else fewer."""
    return [name for name in profile.encoders if name in FEWER or dataset in DIALS["events"].positions]


def methods_of(encoder: str) -> list[str]:
    """Return what is trained on an encoder: without a [cls] of its own, linear reads the mean token anyway."""
    return [name for name, (_, cls_mode) in METHODS.items() if cls_mode != ENCODERS[encoder].cls]


def arm(encoder: str, dataset: str, method: str) -> Arm:
    """Return the arm of a method; without a [cls] of its own, an encoder's linear stands for that on the mean."""
    method = method if method in methods_of(encoder) else "linear"
    head, cls_mode = METHODS[method]
    return Arm(**vars(make_cell(encoder, dataset, head, PROTOTYPES, cls_mode)), name=method)


def arms(profile: Profile) -> list[Arm]:
    """Return all arms of the study, position by position."""
    return [
        arm(encoder, dataset, method)
        for dataset in profile.datasets
        for encoder in encoders_on(profile, dataset)
        for method in methods_of(encoder)
    ]


def embed(profile_name: str) -> list[str]:
    """Store what the encoders say about the clips of all positions; return a line for each split that was not there."""
    profile = study(profile_name)
    lines = []
    for number, dataset in enumerate(profile.datasets, start=1):
        found = build_store(encoders_on(profile, dataset), dataset, profile.clips_of(dataset))
        print(f"{number}/{len(profile.datasets)} {dataset}: {len(found)} splits computed", flush=True)
        lines += found
    return lines


def train(profile_name: str) -> list[str]:
    """Train the arms that are missing or stale; return their keys."""
    profile = study(profile_name)
    return run_cells(profile.name, arms(profile))


# ---- what came out -----------------------------------------------------------------------------------------------


def chance(targets: np.ndarray) -> float:
    """Return the mAP in percent that a random order of the clips has on average, given targets ``(n, C)``.

    With P positives among n clips, a place k of the ranking holds a positive with probability P/n, and then each of the
    k − 1 before it with probability (P − 1)/(n − 1). So E[AP] = (1/n) Σ_k (1 + (k − 1)(P − 1)/(n − 1)) / k: a
    little above the share of positives.
    """
    clips, positives = len(targets), targets.sum(0)
    places = np.arange(1, clips + 1)
    expected = [np.mean((1 + (places - 1) * (p - 1) / (clips - 1)) / places) for p in positives if p]
    return 100 * float(np.mean(expected))


@dataclass(frozen=True)
class Readings:
    """What the heads reached at each position.

    Attributes
    ----------
    profile : Profile
        The study's scale.
    values : dict
        (dataset, encoder, method) → test mAP in percent, ``(1 + R,)``: as measured, then in R draws.
    sds : dict
        The same → standard deviation over seeds, in points.
    chance : dict
        Dataset → mAP of a random order, in percent.
    """

    profile: Profile
    values: dict[tuple[str, str, str], np.ndarray]
    sds: dict[tuple[str, str, str], float]
    chance: dict[str, float]

    def mean(self, dataset: str, encoders: list[str], method: str) -> np.ndarray:
        """Return the mean over encoders of a method at a position, (1 + R,)."""
        return np.mean([self.values[dataset, encoder, method] for encoder in encoders], axis=0)

    def gain(self, dataset: str, encoders: list[str], method: str, against: str = "linear") -> np.ndarray:
        """Return the mean over encoders of a method's lead in points of mAP, (1 + R,)."""
        return self.mean(dataset, encoders, method) - self.mean(dataset, encoders, against)

    def share(self, dataset: str, points: np.ndarray) -> np.ndarray:
        """Return points of mAP as a share, in percent, of the way from chance to 100."""
        return 100 * points / (100 - self.chance[dataset])

    def teams(self, dataset: str) -> dict[str, list[str]]:
        """Return each encoder of a position alone, then the base, the supervised⁺ and all: name → encoders."""
        encoders = encoders_on(self.profile, dataset)
        groups = {kind: [e for e in encoders if ENCODERS[e].kind == kind] for kind in ("base", "supervised")}
        groups["all"] = encoders
        return {e: [e] for e in encoders} | {name: group for name, group in groups.items() if group}


def read(profile_name: str) -> Readings:
    """Return the finished arms of a profile; the draws of all positions resample the same clips.

    That holds for synthetic sounds, whose sources are the seeds of the bank. Mixtures of recordings share sources in
    another way at each position, and their positions are drawn apart; that is cautious, for their clips are alike.

    Draws are centred on what was measured, for resampling lifts average precision (`lib.metrics.bootstrap_interval`),
    and get an error for the seeds, as in `lib.question_draws`.
    """
    profile = study(profile_name)
    draw_all(profile, arms(profile))
    values, sds, levels = {}, {}, {}
    for dataset in profile.datasets:
        levels[dataset] = chance(load_dataset(dataset).targets("test", profile.clips_of(dataset)["test"]))
        for encoder in encoders_on(profile, dataset):
            for method in METHODS:
                place = dataset, encoder, method
                if method in methods_of(encoder):
                    values[place], sds[place] = _drawn(profile, arm(encoder, dataset, method))
                else:
                    values[place], sds[place] = values[dataset, encoder, "linear"], sds[dataset, encoder, "linear"]
    return Readings(profile, values, sds, levels)


def _drawn(profile: Profile, cell: Arm) -> tuple[np.ndarray, float]:
    """Return a cell's mAP in percent, as measured and in each draw, (1 + R,), and its sd over seeds."""
    draws, seeds = cell_draws(profile, cell), final_values(profile, cell)
    sd = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else 0.0
    random = np.random.default_rng(int(digest(cell.key), 16)).standard_normal(len(draws.drawn))
    drawn = 100 * (draws.drawn - np.nanmean(draws.drawn) + draws.value) + sd / np.sqrt(len(seeds)) * random
    return np.append(100 * draws.value, drawn), sd


def limits(drawn: np.ndarray) -> tuple[float, float, float]:
    """Return the first of (1 + R,) values, which was measured, and the 95 % interval of the others."""
    return float(drawn[0]), *(float(end) for end in np.nanquantile(drawn[1:], (0.025, 0.975)))


def dial_table(readings: Readings) -> pd.DataFrame:
    """Return a row for each position, encoder (or group of encoders) and method.

    Columns
    -------
    dial, place, called, dataset, encoder, method
        `encoder` is also one of `GROUPS`: their mean.
    map, sd, low, high, chance
        Test mAP in percent, standard deviation over seeds (of one encoder), 95 % interval; what a random order has.
    share
        Of the way from chance to 100, in percent.
    gain, gain_low, gain_high
        Points of mAP above linear, with the paired interval.
    share_gain, share_gain_low, share_gain_high
        The same as a share of the way from chance to 100.
    """
    rows = []
    for name, places in dials_of(readings.profile).items():
        for dataset, place in places.items():
            for team, encoders in readings.teams(dataset).items():
                for method in METHODS:
                    points, gain = readings.mean(dataset, encoders, method), readings.gain(dataset, encoders, method)
                    level = readings.chance[dataset]
                    score, share_gain = limits(points), limits(readings.share(dataset, gain))
                    rows.append(
                        {
                            "dial": name,
                            "place": place,
                            "called": " ".join(DIALS[name].called(place).split()),
                            "dataset": dataset,
                            "encoder": team,
                            "method": method,
                            "map": score[0],
                            "sd": readings.sds[dataset, team, method] if team in ENCODERS else np.nan,
                            "low": score[1],
                            "high": score[2],
                            "chance": level,
                            "share": float(readings.share(dataset, points[:1] - level)[0]),
                            **dict(zip(("gain", "gain_low", "gain_high"), limits(gain), strict=True)),
                            **dict(zip(("share_gain", "share_gain_low", "share_gain_high"), share_gain, strict=True)),
                        }
                    )
    return pd.DataFrame(rows)


def trend_table(readings: Readings) -> pd.DataFrame:
    """Return how the lead of one method over another changes along each dial.

    Columns
    -------
    dial, encoder, method, against, measure
        `measure` is "points" of mAP, or "share" of the way from chance to 100 in percent.
    first, last, and each with _low, _high
        The lead at the two ends.
    change, slope, and each with _low, _high
        Last minus first; least squares over all positions, a unit of the dial (none where places have no distance).
    """
    rows = []
    for name, places in dials_of(readings.profile).items():
        for team, encoders in readings.teams(next(iter(places))).items():
            for method, against in CONTRASTS:
                points = np.stack([readings.gain(dataset, encoders, method, against) for dataset in places])
                share = np.stack([readings.share(dataset, lead) for dataset, lead in zip(places, points, strict=True)])
                for measure, leads in (("points", points), ("share", share)):  # (positions, 1 + R)
                    found = {"first": leads[0], "last": leads[-1], "change": leads[-1] - leads[0]}
                    if DIALS[name].unit:
                        found["slope"] = slope(DIALS[name].steps(np.array(list(places.values()))), leads)
                    row = {"dial": name, "encoder": team, "method": method, "against": against, "measure": measure}
                    for what, drawn in found.items():
                        row |= dict(zip((what, f"{what}_low", f"{what}_high"), limits(drawn), strict=True))
                    rows.append(row)
    return pd.DataFrame(rows)


def slope(steps: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """Return the slope of the least-squares line through leads ``(positions, 1 + R)`` at `steps`, in each draw."""
    centred = steps - np.mean(steps)
    return centred @ leads / (centred @ centred)


def write(profile_name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write both tables as ``figures/<profile>/dial.csv`` and ``dial_trends.csv``; return them as they read back."""
    readings, folder = read(profile_name), figure_root() / profile_name
    bars = "95 % paired bootstrap over test clips, with an error for the seeds"
    for name, table in (("dial", dial_table(readings)), ("dial_trends", trend_table(readings))):
        write_table(folder / f"{name}.csv", table, note(readings.profile, bars))
    return read_table(folder / "dial.csv"), read_table(folder / "dial_trends.csv")
