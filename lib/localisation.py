"""Where in a clip does a head find a class? The maps of trained heads against the true events; nothing is trained.

The maps, and which token lies in which event, are in `lib.localisation_maps`. What is asked, is asked of each *pair*:
a test clip and a class that sounds in it; all its events of that class count.

- *Pointing*: does the largest cell of the map lie in an event? Chance is the share of cells that do. This and IoU are
  asked in time and band, and in time alone; the first not of encoders whose tokens span all bands.
- *IoU*: cells above a threshold against cells in an event, intersection over union. Each map is first stretched to
  [0, 1], and each kind of map has one threshold, the best on the validation split, as in Choe et al., "Evaluating
  weakly supervised object localization methods right", CVPR 2020. A map that is on everywhere scores the share again.
- *Frame mAP*: logits of each frame of 0.32 s against the classes that are active in it, macro average precision over
  all frames. A head's own pooling is confined to the frame (prototypes: Σ_k W_ck max_f s_k(t, f) + b_c). Chance is the
  share of active frames.

Intervals are those of `lib.metrics`: clips and their sources are resampled, encoders and datasets are not. Copies of a
clip in a draw lift average precision, but hardly that of scores that are the same in all frames of a clip; so here
differences, too, are moved back by the mean lift of their draws (`lib.metrics.draws_interval`).
"""

import itertools
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib.audio import SAMPLE_RATE, mel_centres
from lib.data.datasets import load_dataset
from lib.data.mixer import Event
from lib.encoders import ENCODERS, load_encoder
from lib.figures import read_table, write_table
from lib.files import digest
from lib.heads import Head
from lib.localisation_maps import (
    BY_FRAME,
    FRAME_SECONDS,
    REPEATED,
    TRUE_TAGS,
    Pairs,
    active_frames,
    event_bands,
    frame_scores,
    maps_of,
    pairs_of,
)
from lib.metrics import Draws, average_precision, clip_weightings, draws_interval
from lib.paths import figure_root, scratch
from lib.profiles import Profile, load_profile
from lib.provenance import code_version
from lib.result_files import read_result, write_result
from lib.store import load_embeddings
from lib.tables import coarse, trained_head
from lib.workers import run_parallel

THRESHOLDS = np.linspace(0, 1, 51)
READ = ("protobin", "proto", "mhca")  # the heads whose maps are looked at
MEASURES = {
    "pointing": "peak in an event of the class",
    "pointing_time": "the same, in time alone",
    "pointing_any": "peak in an event of any class",
    "iou": "IoU with the events of the class",
    "iou_time": "the same, in time alone",
    "frame_map": "frame mAP",
}
BINS = {  # trait of an event → edges of the bins, and what these are called
    "duration": ((0, 0.8, 1.4, 2, 3, np.inf), ("< 0.8 s", "0.8–1.4", "1.4–2", "2–3", "≥ 3 s")),
    "snr": ((-np.inf, 0, 6, 12, 18, np.inf), ("< 0 dB", "0–6", "6–12", "12–18", "≥ 18 dB")),
    "overlap": ((0, 1e-6, 1 / 3, 2 / 3, np.inf), ("none", "< ⅓", "⅓–⅔", "≥ ⅔")),
}
FOUND = ("mhca attention", "cls attention", "energy", "rise", "mhca", "random")  # whom prototypes are held against
CONTRASTS = {
    **{measure: list(itertools.product(("protobin", "proto"), FOUND)) for measure in ("pointing", "iou")},
    "frame_map": [
        *((head, head + REPEATED) for head in READ),
        *(("protobin", other) for other in ("proto", "mhca", BY_FRAME, TRUE_TAGS)),
    ],
}
COLUMNS = ["dataset", "encoder", "head", "against", "measure", "by", "bin", "value", "low", "high", "chance", "n"]
ALL = "all"


def studied(profile_name: str) -> Profile:
    """Return a profile narrowed to the datasets and encoders of this study; its cells are the profile's own."""
    return replace(load_profile(f"{profile_name}/localisation"), name=profile_name)


# ---- measures ----------------------------------------------------------------------------------------------------


def hits(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return for each map ``(P, …)`` whether its largest cell lies inside, 0 or 1 ``(P,)``."""
    peak = maps.reshape(len(maps), -1).argmax(1)  # (P, …) → (P, N) → (P,)
    return inside.reshape(len(inside), -1)[np.arange(len(maps)), peak].astype(float)


def best_threshold(maps: np.ndarray, inside: np.ndarray) -> float:
    """Return the threshold on stretched maps with the largest mean IoU; the lowest of equals."""
    return float(THRESHOLDS[np.argmax([iou(maps, inside, threshold).mean() for threshold in THRESHOLDS])])


def iou(maps: np.ndarray, inside: np.ndarray, threshold: float) -> np.ndarray:
    """Return for each map ``(P, …)``, stretched to [0, 1], the IoU of its cells at the threshold or above, ``(P,)``."""
    axes = tuple(range(1, maps.ndim))
    low, high = maps.min(axes, keepdims=True), maps.max(axes, keepdims=True)
    on = (maps - low) >= threshold * (high - low)
    return (on & inside).sum(axes) / (on | inside).sum(axes)


def clip_weights(clips: int, sources: list, draws: int, seed: int) -> np.ndarray:
    """Return weights of the clips ``(clips, 1 + R)``: first all one, then the draws of `lib.metrics`."""
    return np.concatenate([np.ones((clips, 1)), *clip_weightings(clips, sources, draws, seed)], axis=1)


def mean_of_pairs(values: np.ndarray, clip: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over pairs ``(P,)``, which weigh what their clips do, ``(1 + R,)``; NaN where that is nothing."""
    sums, counts = (np.bincount(clip, each, len(weights)) @ weights for each in (values, np.ones(len(values))))
    return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def frame_map(scores: np.ndarray, active: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return macro average precision over frames ``(clips, T, C)``, which weigh what their clips do, ``(1 + R,)``."""
    T, found = scores.shape[1], []
    flat = [each.reshape(-1, each.shape[2]) for each in (scores, active)]  # (clips, T, C) → (clips·T, C)
    for block in np.array_split(weights, -(-weights.shape[1] // 256), axis=1):
        found.append(average_precision(*flat, np.repeat(block, T, axis=0).T))  # (R', C)
    values = np.concatenate(found)
    used = np.isfinite(values)
    return np.where(used, values, 0).sum(1) / np.maximum(used.sum(1), 1)


# ---- of a profile ------------------------------------------------------------------------------------------------

Key = tuple[str, str, str, str]  # head, measure, by, bin
Measured = dict[Key, tuple[np.ndarray, float, int]]  # in percent (1 + R,), chance, number of pairs or clips


def heard(profile: Profile, dataset: str, split: str, encoder: nn.Module) -> tuple[Tensor, list[tuple[Event, ...]]]:
    """Return the spectrograms ``(clips, frames, mel)`` of a split and the events of each clip; rendered once, kept."""
    data, count = load_dataset(dataset), profile.clips_of(dataset)[split]
    front_end = encoder.geometry.front_end
    depends = [data.version(split, count), front_end, code_version("lib.audio", "lib.encoders.pocket")]
    path = scratch() / "localisation" / f"{dataset}-{split}-{digest(depends)}.safetensors"
    header, tensors = read_result(path)
    if not header:
        scenes = [data.scene(split, index) for index in range(count)]
        spectrograms = torch.cat([encoder.spectrogram(scene.audio, SAMPLE_RATE) for scene in scenes])
        events = [{"events": [asdict(event) for event in scene.events]} for scene in scenes]
        write_result(path, {}, events, {"spectrograms": spectrograms})
        header, tensors = read_result(path)
    return tensors["spectrograms"], [tuple(Event(**event) for event in clip["events"]) for clip in header["rows"]]


def keep_scenes(profile_name: str, dataset: str, split: str) -> None:
    """Render the clips of a split, if they are not kept from an earlier time."""
    profile = studied(profile_name)
    for encoder in {module.geometry.front_end: module for module in map(load_encoder, profile.encoders)}.values():
        heard(profile, dataset, split, encoder)


def heads_of(profile: Profile, dataset: str, encoder: str) -> dict[str, Head]:
    """Return the trained heads of `READ` that a profile has on a dataset and encoder: the first final seed's.

    Raises
    ------
    InputError
        If a cell has not been run.
    """
    names = [name for name in READ if name in profile.group(dataset).heads and profile.runs(encoder, dataset, name)]
    alone = replace(profile, groups=(profile.group(dataset),))
    return {name: trained_head(alone, encoder, name) for name in names}


def measure(profile_name: str, dataset: str, name: str) -> tuple[str, str, Measured]:
    """Measure every map of an encoder on a dataset; return both names and all that was measured, in percent."""
    profile, classes, encoder = studied(profile_name), load_dataset(dataset).classes, load_encoder(name)
    heads, pairs, maps = heads_of(profile, dataset, name), {}, {}
    for split in ("val", "test"):
        spectrograms, clips = heard(profile, dataset, split, encoder)
        tokens = load_embeddings(name, dataset, split, len(clips)).tokens
        pairs[split] = pairs_of(clips, classes, encoder.geometry)
        maps[split] = maps_of(heads, tokens, spectrograms, encoder, pairs[split])
    sources = load_dataset(dataset).sources("test", len(clips))
    # Each dataset has draws of its own: what is found on one says nothing about another.
    weights = clip_weights(len(clips), sources, profile.bootstrap_draws, profile.datasets.index(dataset))
    found: Measured = {}
    for each in maps["test"]:
        found |= map_measures(each, {split: maps[split][each] for split in maps}, pairs, weights)
    block = round(1000 * FRAME_SECONDS / (encoder.geometry.patch[0] * encoder.geometry.hop_ms))
    active = active_frames(clips, classes, encoder.grid[0] // block)
    chance = 100 * active.mean((0, 1))[active.any((0, 1))].mean()
    for each, scores in frame_scores(heads, tokens, block, active).items():
        found[each, "frame_map", ALL, ALL] = 100 * frame_map(scores, active, weights), chance, len(clips)
    return dataset, name, found


def map_measures(name: str, maps: dict[str, np.ndarray], pairs: dict[str, Pairs], weights: np.ndarray) -> Measured:
    """Measure one kind of map, ``(P, S_t, S_f)`` of the splits val and test: over all pairs, and by `TRAITS`."""
    val, test = pairs["val"], pairs["test"]
    in_time = test.inside.any(2, keepdims=True)  # (P, S_t, 1)
    anywhere = np.broadcast_to(in_time, test.inside.shape)
    shapes = {"iou_time": (maps["val"].max(2), val.inside.any(2), maps["test"].max(2), in_time[..., 0])}  # (P, S_t)
    values = {"pointing_time": (hits(maps["test"], anywhere), anywhere)}
    if test.inside.shape[2] > 1:  # tokens that span all bands say nothing about bands
        shapes["iou"] = maps["val"], val.inside, maps["test"], test.inside
        values["pointing"] = hits(maps["test"], test.inside), test.inside
        values["pointing_any"] = hits(maps["test"], test.anything), test.anything
    for key, (val_maps, val_inside, test_maps, inside) in shapes.items():
        values[key] = iou(test_maps, inside, best_threshold(val_maps, val_inside)), inside
    found: Measured = {}
    for key, (value, inside) in values.items():
        share = inside.reshape(len(inside), -1).mean(1)  # (P, …) → (P, N) → (P,)
        for by, label, chosen in _chosen(test.traits if key in ("pointing", "iou") else {}):
            chosen = np.broadcast_to(chosen, share.shape)
            if chosen.any():
                drawn = 100 * mean_of_pairs(value[chosen], test.clip[chosen], weights)
                found[name, key, by, label] = drawn, 100 * share[chosen].mean(), int(chosen.sum())
    return found


def _chosen(traits: dict[str, np.ndarray]) -> list[tuple[str, str, np.ndarray]]:
    """Return all pairs, and those of each bin of each trait: what by, name of the bin, which pairs."""
    found = [(ALL, ALL, np.array(True))]
    for by, values in traits.items():
        edges, labels = BINS[by]
        found += [(by, label, np.digitize(values, edges) == at) for at, label in enumerate(labels, start=1)]
    return found


def localisation(profile_name: str, workers: int | None = None) -> pd.DataFrame:
    """Measure all maps of a profile.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`, a row a number, in percent. `encoder` and `dataset` may be "all": the mean over those that there are.
        A row with another head in `against` is the difference to it (over the encoders that have both), with a paired
        interval. `n` counts pairs of clip and class, of frame mAP clips.

    Raises
    ------
    InputError
        If cells or embeddings are missing.
    """
    profile = studied(profile_name)
    found: dict[str, dict[str, Measured]] = {dataset: {} for dataset in profile.datasets}
    for _ in run_parallel(keep_scenes, [(profile_name, d, s) for d in found for s in ("test", "val")], workers):
        pass
    tasks = [(profile_name, dataset, encoder) for dataset in found for encoder in profile.encoders]
    for dataset, encoder, measured in run_parallel(measure, tasks, workers):
        found[dataset][encoder] = measured
    keys = list(dict.fromkeys(key for dataset in found for e in profile.encoders for key in found[dataset][e]))
    rows = []
    for dataset, encoder in itertools.product((*found, ALL), (*profile.encoders, ALL)):
        for head, *rest in keys:
            if encoder == ALL != dataset or rest[1:] == [ALL, ALL]:  # by trait: only over all encoders
                rows.append(_row(found, dataset, encoder, head, "", *rest))
        for what, contrasts in CONTRASTS.items():
            rows += [_row(found, dataset, encoder, *contrast, what, ALL, ALL) for contrast in contrasts]
    order = {name: at for at, name in enumerate(MEASURES)}
    table = pd.DataFrame([row for row in rows if row], columns=COLUMNS)
    return table.sort_values("measure", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def _row(found: dict, dataset: str, encoder: str, head: str, against: str, *rest: str) -> tuple | None:
    """Return a row of the table; None where nothing was measured."""
    means = []
    for name in found if dataset == ALL else [dataset]:
        of = [each for key, each in found[name].items() if encoder in (ALL, key)]
        of = [each for each in of if (head, *rest) in each and (not against or (against, *rest) in each)]
        if of:
            others = [each[against, *rest][0] if against else 0.0 for each in of]
            drawn = np.mean([each[head, *rest][0] - other for each, other in zip(of, others, strict=True)], axis=0)
            means.append((drawn, *(np.mean([each[head, *rest][at] for each in of]) for at in (1, 2))))
    if not means:
        return None
    drawn, chance, _ = (np.mean(column, axis=0) for column in zip(*means, strict=True))
    interval = draws_interval(Draws(drawn[0], drawn[1:]))
    count = int(sum(mean[2] for mean in means))
    found_here = drawn[0], interval.low, interval.high, np.nan if against else chance, count
    return dataset, encoder, head, against, *rest, *found_here


# ---- one clip ----------------------------------------------------------------------------------------------------


def clip_maps(profile_name: str) -> pd.DataFrame:
    """Return the clip that the profile shows with its maps for one class, that of its loudest event, as tidy rows.

    A row of panel "spectrogram" or "map" is a cell, from 0 to 1; "event" a box, in seconds and mel bands (``low``,
    ``high``); "hertz" the centre of a band; "axis" and "class" say how long, how many bands, and which class.
    """
    profile = studied(profile_name)
    data, encoder = load_dataset(profile.dataset), load_encoder(profile.shown)
    scene, geometry = data.scene("test", profile.example), encoder.geometry
    frames, mels = geometry.grid[0] * geometry.patch[0], geometry.num_mels
    label = max(scene.events, key=lambda event: event.snr_db).label
    spectrogram = encoder.spectrogram(scene.audio, SAMPLE_RATE)
    with torch.inference_mode():
        tokens = encoder(spectrogram).tokens
    pairs = pairs_of([scene.events], data.classes, geometry)
    maps = maps_of(heads_of(profile, profile.dataset, profile.shown), tokens, spectrogram, encoder, pairs)
    at = list(pairs.label).index(data.classes.index(label))
    axis = {"seconds": frames * geometry.hop_ms / 1000, "bands": mels}
    parts = [pd.DataFrame({"panel": "axis", "name": list(axis), "value": list(axis.values())})]
    parts.append(pd.DataFrame({"panel": "hertz", "f": range(mels), "value": mel_centres(mels)}))
    boxes = [(each.label, each.onset, each.offset, *event_bands(each, mels)) for each in scene.events]
    parts.append(pd.DataFrame(boxes, columns=["name", "start", "end", "low", "high"]).assign(panel="event"))
    parts.append(_grid_rows("spectrogram", "", coarse(spectrogram[0, :frames]).numpy()))
    parts += [_grid_rows("map", name, values[at]) for name, values in maps.items()]
    return pd.concat([*parts, pd.DataFrame({"panel": ["class"], "name": [label]})], ignore_index=True)


def _grid_rows(panel: str, name: str, values: np.ndarray) -> pd.DataFrame:
    """Return a map ``(t, f)``, stretched to [0, 1], as tidy rows."""
    t, f = np.indices(values.shape)
    stretched = (values - values.min()) / (np.ptp(values) or 1)
    rounded = stretched.astype(np.float64).round(4).ravel()  # more than a picture shows
    return pd.DataFrame({"panel": panel, "name": name, "t": t.ravel(), "f": f.ravel(), "value": rounded})


def write_localisation(profile_name: str, workers: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write ``localisation.csv`` and ``localisation_clip.csv`` of a profile and return them as they read back."""
    profile, folder = studied(profile_name), figure_root() / profile_name
    words = "first final seed of each head; 95 % bootstrap over test clips and their sources; [cls]: encoders with one"
    example = f"clip {profile.example} of {profile.dataset}, test split; {ENCODERS[profile.shown].label}; no error bars"
    tables = {"localisation": (localisation(profile_name, workers), words)}
    tables["localisation_clip"] = clip_maps(profile_name), example
    for name, (table, what) in tables.items():
        write_table(folder / f"{name}.csv", table, f"profile {profile.name} ({profile.about}) · {what}")
    return tuple(read_table(folder / f"{name}.csv") for name in tables)
