"""From results to the small tables that the figures are drawn from.

Compute writes a tidy table, draw reads that table and nothing else. All numbers here come from
``figures/<profile>/results.csv``, from the finished cells (test scores for the bootstrap, trained weights for the
maps), or from the encoder on one clip.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from lib.audio import SAMPLE_RATE, mel_centres
from lib.comparisons import averages, fine_tuning, interval, is_default
from lib.data.datasets import load_dataset
from lib.data.mixer import Scene
from lib.encoders import ENCODERS, load_encoder
from lib.figures_charts import GROUPS
from lib.figures_style import in_order
from lib.heads import Head, build_head
from lib.profiles import COSTLY_HEADS, Profile, load_profile
from lib.rankings import encoder_ranking, gains_over_linear, win_matrix, win_ranks
from lib.results import main_cells, make_cell, read_cell
from lib.store import grid_of
from lib.streaming import from_disk

NO_SUPERVISED = "This profile has no supervised⁺ version of the encoder that is shown."
NO_PAIRS = "This profile has no supervised⁺ version of an encoder."
NO_FINE_TUNING = "This profile fine-tunes no encoder: the upper line of the paper's figure is not drawn."
NOTHING_OF = {  # group → what is said in its place
    "general": "This profile has no general dataset, or no self-supervised encoder.",
    "bioacoustic": "This profile has no bioacoustic dataset.",
}
SHOWN_PROTOTYPES = 64
PCA_CLIPS = 64  # training clips whose tokens fix the components of Figure 1


def note(profile: Profile, bars: str) -> str:
    """Return what a figure states in its margin."""
    return f"profile {profile.name} ({profile.about}) · {len(profile.seeds)} seeds · {bars}"


def figure_1(profile: Profile) -> tuple[pd.DataFrame, str]:
    """Spectrogram, PCA of the token map, cls attention, protobin evidence, of one test clip; base and supervised⁺."""
    data = load_dataset(profile.dataset)
    scene = data.scene("test", profile.example)
    rows = [("base", profile.shown), *(("supervised", plus) for plus in supervised_of(profile, profile.shown))]
    parts = [_event_rows(scene.events), _scene_rows(profile.shown, scene)]
    for row, name in rows:
        parts.append(_encoder_rows(profile, name, scene).assign(row=row))
    if len(rows) == 1:
        parts.append(pd.DataFrame({"row": ["supervised"], "panel": ["missing"], "text": [NO_SUPERVISED]}))
    table = pd.concat(parts, ignore_index=True)
    table["row"] = table["row"].fillna("base")
    return table, note(
        profile,
        f"clip {profile.example} of the test split; PCA of tokens minus the mean token of their place; no error bars",
    )


def supervised_of(profile: Profile, base: str) -> list[str]:
    """Return the supervised version of an encoder, if the profile has one."""
    return [name for name in profile.encoders if ENCODERS[name].base == base]


def _scene_rows(name: str, scene: Scene) -> pd.DataFrame:
    """Return the axes and the spectrogram of a clip, in the geometry of an encoder."""
    encoder = load_encoder(name)
    spectrogram = encoder.spectrogram(scene.audio, SAMPLE_RATE)
    frames = spectrogram[0] if spectrogram.shape[-1] == encoder.geometry.num_mels else spectrogram[0].T  # Dasheng's
    steps = min(encoder.grid[0] * encoder.geometry.patch[0], len(frames))
    picture = _map_rows("spectrogram", "log-mel", coarse(frames[:steps]))
    return pd.concat([_axis_rows(encoder, steps), picture], ignore_index=True)


def _encoder_rows(profile: Profile, name: str, scene: Scene) -> pd.DataFrame:
    """Return what one encoder makes of a clip: its label and maps."""
    encoder, classes = load_encoder(name), load_dataset(profile.dataset).classes
    with torch.inference_mode():
        encoding = encoder(encoder.spectrogram(scene.audio, SAMPLE_RATE), attention=True)
        evidence = trained_head(profile, name, "protobin").evidence_map(encoding.tokens)[0]  # (C, S_t, S_f)
    S_t, S_f = encoding.grid
    parts = [pd.DataFrame([{"panel": "label", "text": ENCODERS[name].label}])]
    for channel, values in zip("rgb", pca_colours(encoding.tokens[0], other_tokens(profile, name)), strict=True):
        parts.append(_map_rows("pca", channel, values.reshape(S_t, S_f)))  # (N,) -> (S_t, S_f)
    depth = 0 if encoding.attention is None else encoding.attention.shape[1]  # 0 without a [cls]
    for layer in sorted({0, depth // 2, depth - 1}) if depth else ():
        attention = encoding.attention[0, layer].mean(0).reshape(S_t, S_f)  # (heads, N) -> (S_t, S_f)
        parts.append(_map_rows("attention", f"layer {layer + 1}", attention))
    for label in _labels(profile, scene):
        parts.append(_map_rows("evidence", label, evidence[classes.index(label)]))
    return pd.concat(parts, ignore_index=True)


def other_tokens(profile: Profile, encoder: str) -> torch.Tensor:
    """Return the tokens of the first training clips, ``(clips, N, D)``; of the others nothing is held in memory."""
    cell = make_cell(encoder, profile.dataset, "linear", cls_mode="native")
    return from_disk(cell, profile, "train").tokens[:PCA_CLIPS].float()


def _labels(profile: Profile, scene: Scene) -> list[str]:
    """Return the classes of the clip that is shown, also where nobody knows when they are heard."""
    if scene.events:
        return list(dict.fromkeys(event.label for event in scene.events))
    data = load_dataset(profile.dataset)
    present = data.targets("test", profile.example + 1)[profile.example]  # (C,)
    return [label for label, there in zip(data.classes, present, strict=True) if there]


def trained_head(profile: Profile, encoder: str, head: str, state: str = "") -> Head:
    """Return a finished cell's head with its trained weights (`state` ""), or its initial ones ("initial.")."""
    cell, module = make_cell(encoder, profile.dataset, head), load_encoder(encoder)
    weights, classes = read_cell(profile, cell).weights, load_dataset(profile.dataset).classes
    grid = grid_of(module, load_dataset(profile.dataset))
    built = build_head(head, module.geometry.dim, len(classes), grid, cell.prototypes)
    initial = {key.removeprefix("initial."): value for key, value in weights.items() if key.startswith("initial.")}
    trained = {key: value for key, value in weights.items() if not key.startswith("initial.")}
    built.load_state_dict(initial if state else trained)
    return built.eval()


def coarse(spectrogram: torch.Tensor, frames: int = 4) -> torch.Tensor:
    """Average every few frames of ``(frames, mel)``: as fine as a picture in a page shows, a quarter of the rows."""
    steps = spectrogram.shape[0] // frames
    return spectrogram[: steps * frames].unflatten(0, (steps, frames)).mean(1)  # (frames / 4, mel)


def pca_colours(tokens: torch.Tensor, others: torch.Tensor) -> np.ndarray:
    """Return the first three principal components of a token map as three channels in [0, 1].

    A token says what it hears *and* where it stands, and the place is the louder of the two. So the mean token of
    each place, over other clips, is taken away first, and the components are those of the other clips' tokens.

    Parameters
    ----------
    tokens : torch.Tensor
        ``(N, D)``.
    others : torch.Tensor
        Tokens of other clips, ``(clips, N, D)``.

    Returns
    -------
    numpy.ndarray
        ``(3, N)``.
    """
    from sklearn.decomposition import PCA  # takes a second to import, and one notebook of fifteen needs it

    place = others.mean(0)  # (N, D)
    residuals = (others - place).flatten(0, 1).numpy()  # (clips, N, D) -> (clips · N, D)
    components = PCA(3, svd_solver="covariance_eigh").fit(residuals).transform((tokens - place).numpy()).T  # (3, N)
    low, high = np.percentile(components, [2, 98], axis=1, keepdims=True)
    return np.clip((components - low) / (high - low), 0.0, 1.0)


def _axis_rows(encoder: torch.nn.Module, frames: int) -> pd.DataFrame:
    centres = mel_centres(encoder.geometry.num_mels)
    axis = [{"panel": "axis", "name": "hz", "f": band, "value": hz} for band, hz in enumerate(centres)]
    seconds = frames * encoder.geometry.hop_ms / 1000
    return pd.DataFrame([{"panel": "axis", "name": "seconds", "value": seconds}, *axis])


def _event_rows(events: tuple) -> pd.DataFrame:
    rows = [("event", event.label, event.onset, event.offset, event.low_hz, event.high_hz) for event in events]
    return pd.DataFrame(rows, columns=["panel", "name", "start_s", "end_s", "low_hz", "high_hz"])


def _map_rows(panel: str, name: str, values: np.ndarray | torch.Tensor) -> pd.DataFrame:
    """Return a map ``(t, f)`` as tidy rows; three digits are more than a picture shows."""
    values = np.asarray(values, dtype=np.float64)
    t, f = np.indices(values.shape)
    flat = {"t": t.ravel(), "f": f.ravel(), "value": [float(f"{value:.3g}") for value in values.ravel()]}
    return pd.DataFrame({"panel": panel, "name": name, **flat})


def figure_2(profile: Profile) -> tuple[pd.DataFrame, str]:
    """One bar a head on one encoder, with sd over seeds and a bootstrap interval over test clips; fine-tuning."""
    data, table = load_dataset(profile.dataset), averages(profile, profile.group(profile.dataset).name)
    table = table[(table["encoder"] == profile.shown) & (table["dataset"] == profile.dataset)]
    table = table.drop(columns=["dataset", "encoder"])
    cells = [cell for cell in main_cells(profile) if is_default(cell, profile.shown) and cell.dataset == data.name]
    intervals = {cell.head: interval(profile, cell) for cell in cells}
    table["low"] = [intervals[head][0] for head in table["head"]]
    table["high"] = [intervals[head][1] for head in table["head"]]
    table["kind"], table["text"] = "head", ""
    table = pd.concat([table, _fine_tuning_row(profile)], ignore_index=True)
    table["dataset_label"] = data.manifest["title"]
    table["encoder_label"] = ENCODERS[profile.shown].label
    table["metric"] = data.manifest["metric"]
    return table, note(profile, "bars: ±1 sd over seeds; thin line: 95 % bootstrap over test clips and their sources")


def _fine_tuning_row(profile: Profile) -> pd.DataFrame:
    if profile.shown not in profile.fine_tuned:
        return pd.DataFrame([{"kind": "missing", "text": NO_FINE_TUNING}])
    row = fine_tuning(profile.name).set_index(["dataset", "encoder"]).loc[profile.dataset, profile.shown]
    return pd.DataFrame([{"kind": "fine_tuning", "mean": row["mean"], "sd": row["sd"], "n_seeds": row["n_seeds"]}])


def figure_3(profile: Profile) -> tuple[pd.DataFrame, str]:
    """List the shapes of the method in this profile."""
    encoder, data = load_encoder(profile.shown), load_dataset(profile.dataset)
    classes = len(data.classes)
    geometry, (S_t, S_f) = encoder.geometry, grid_of(encoder, data)
    shapes = {
        "frames": S_t * geometry.patch[0],
        "mel": geometry.num_mels,
        "S_t": S_t,
        "S_f": S_f,
        "N": S_t * S_f,
        "D": geometry.dim,
        "J": data.prototypes,
        "C": classes,
        "K": data.prototypes * classes,
    }
    return pd.DataFrame({"name": list(shapes), "value": list(shapes.values())}), note(
        profile, "a drawing, no error bars"
    )


def figure_4(profile: Profile) -> tuple[pd.DataFrame, str]:
    """Prototypes, classifier and prototype cosines, before and after training."""
    encoder = profile.shown
    after, before = (trained_head(profile, encoder, "protobin", state) for state in ("", "initial."))
    weight = after.classifier.weight.detach().numpy()  # (C, K)
    classes = load_dataset(profile.dataset).classes
    # The prototypes that matter most, those of one class side by side.
    strongest = np.argsort(-np.abs(weight).max(0), kind="stable")[:SHOWN_PROTOTYPES]
    shown = strongest[np.argsort(np.abs(weight[:, strongest]).argmax(0), kind="stable")]
    signs = [signs_of(head) for head in (before, after)]  # (K, D) each
    parts = [_matrix_rows("prototypes", signs[1][shown]), _matrix_rows("classifier", weight[:, shown])]
    parts[1]["name"] = [classes[int(row)] for row in parts[1]["row"]]
    for state, matrix in zip(("before", "after"), signs, strict=True):
        parts.append(_matrix_rows(f"cosine_{state}", matrix[shown] @ matrix[shown].T / matrix.shape[1]))
        pairs = pairwise_cosines(matrix)
        # The cosine of two ±1 vectors is a multiple of 2 / D: each bin holds one such value.
        density, edges = np.histogram(pairs, bins=np.arange(-1, 0.6 * len(matrix[0]), 2) / len(matrix[0]), density=True)
        parts.append(
            pd.DataFrame({"panel": f"histogram_{state}", "column": (edges[:-1] + edges[1:]) / 2, "value": density})
        )
        mean = {"panel": "count", "name": f"mean |cosine| {state}", "value": pairs.mean()}
        parts.append(pd.DataFrame([mean]))
    dim = signs[0].shape[1]
    facts = {"K shown": len(shown), "K": len(weight[0]), "D": dim}
    parts.append(pd.DataFrame([{"panel": "count", "name": name, "value": value} for name, value in facts.items()]))
    reference = {"panel": "reference", "name": "sqrt(2/(pi D))", "value": float(np.sqrt(2 / (np.pi * dim)))}
    parts.append(pd.DataFrame([reference]))
    label = f"one protobin on {ENCODERS[encoder].label}, first seed; no error bars"
    return pd.concat(parts, ignore_index=True), note(profile, label)


def signs_of(head: Head) -> np.ndarray:
    """Return the ±1 prototypes of a protobin, ``(K, D)``."""
    return np.where(head.prototypes.detach().numpy() >= 0, 1.0, -1.0)


def pairwise_cosines(signs: np.ndarray) -> np.ndarray:
    """Return |cosine| of every pair of ±1 prototypes ``(K, D)``, each pair once, ``(K (K - 1) / 2,)``."""
    cosines = signs @ signs.T / signs.shape[1]  # (K, K)
    return np.abs(cosines[np.triu_indices(len(signs), 1)])


def _matrix_rows(panel: str, matrix: np.ndarray) -> pd.DataFrame:
    row, column = np.indices(matrix.shape)
    values = [float(f"{value:.4g}") for value in matrix.ravel()]
    return pd.DataFrame({"panel": panel, "row": row.ravel(), "column": column.ravel(), "value": values})


def figure_5(profile: Profile) -> tuple[pd.DataFrame, str]:
    """Pairwise wins: configurations in which one head beats another by more than one sd of the other."""
    parts, words = [], "a win: mean above the other's by more than the other's sd; self-supervised encoders"
    for group in ("general", "bioacoustic"):
        means = of_kind(averages(profile, group), "base")
        if means.empty:
            parts.append(pd.DataFrame([{"group": group, "kind": "missing", "text": NOTHING_OF[group]}]))
            continue
        wins = win_matrix(means, in_order(means["head"]))
        parts.append(wins.assign(group=group, kind="wins", text=""))
        if wins["configurations"].nunique() > 1:
            words += f"; {', '.join(COSTLY_HEADS)} ran on fewer encoders"
    return pd.concat(parts, ignore_index=True), note(profile, words)


def of_kind(means: pd.DataFrame, *kinds: str) -> pd.DataFrame:
    """Return the rows of encoders of these kinds: base, supervised, control."""
    return means[means["encoder"].map(lambda name: ENCODERS[name].kind in kinds)]


def figure_6(profile: Profile) -> tuple[pd.DataFrame, str]:
    """Average each pretrained encoder over the general datasets, linear against protobin, with both rankings."""
    table = encoder_ranking(of_kind(averages(profile), "base", "supervised"))
    table["encoder_label"] = [ENCODERS[name].label for name in table["encoder"]]
    table["year"] = np.nan
    return table, note(profile, "± is 1 sd over seeds, averaged over datasets")


def figure_7(profile: Profile) -> tuple[pd.DataFrame, str]:
    """Points above linear for each head, on the self-supervised encoders and the controls."""
    table = gains_over_linear(of_kind(averages(profile), "base", "control"))
    table["encoder_label"] = [ENCODERS[name].label for name in table["encoder"]]
    bars = "±1 sd over datasets" if table["n"].max() > 1 else "±1 sd of the head's own score over seeds"
    if table["n"].nunique() > 1:
        bars += (
            f"; the controls on {load_dataset(profile.dataset).manifest['title']} alone, ±1 sd of the score over seeds"
        )
    return table, note(profile, f"bars: {bars}")


def figure_8(profile: Profile) -> tuple[pd.DataFrame, str]:
    """Rank of each head by its wins, on the encoders with a supervised⁺ version and on those versions."""
    pairs = [(base, plus) for base in profile.encoders for plus in supervised_of(profile, base)]
    sides = {"base": [base for base, _ in pairs], "supervised": [plus for _, plus in pairs]}
    parts, left_out = [], []
    for group in ("general", "bioacoustic"):
        means = averages(profile, group)
        means = means[means["encoder"].isin([name for pair in pairs for name in pair])]
        if means.empty:
            words = NOTHING_OF[group] if pairs else NO_PAIRS
            parts.append(pd.DataFrame([{"group": group, "kind": "missing", "text": words}]))
            continue
        counts = means["head"].value_counts()
        heads = [head for head in in_order(means["head"]) if counts[head] == counts.max()]
        left_out += [head for head in counts.index if head not in heads]
        for variant, encoders in sides.items():
            ranks = win_ranks(means[means["encoder"].isin(encoders)], heads)
            ranks["wins"] /= len(encoders) * means["dataset"].nunique()
            parts.append(ranks.assign(group=group, variant=variant, kind="rank", text=""))
    words = "ranks by pairwise wins of more than the other's sd; in brackets wins per (dataset, encoder)"
    if left_out:
        words += f"; not ranked, since they did not run on all these encoders: {', '.join(in_order(left_out))}"
    table = pd.concat(parts, ignore_index=True)
    for column in ("head", "variant", "wins", "rank"):  # there even if both groups are missing
        if column not in table:
            table[column] = np.nan
    return table, note(profile, words)


def left_out(number: int, profile: Profile) -> str:
    """Return why a figure cannot be drawn of a part of a profile, in a sentence; '' if it can."""
    heads = {group.name: set(group.heads) for group in profile.groups}
    general = heads.get("general", set())
    kinds = {ENCODERS[name].kind for name in profile.encoders}
    needs = {
        1: ("protobin" in profile.heads, "a trained protobin"),
        4: ("protobin" in profile.heads, "a trained protobin"),
        5: ("base" in kinds and heads.keys() & GROUPS, "a self-supervised encoder on a general or bioacoustic dataset"),
        6: (general >= {"linear", "protobin"} and kinds - {"control"}, "linear and protobin on a general dataset"),
        7: (
            "linear" in general and general - {"linear"} and kinds - {"supervised"},
            "linear and another head on a general dataset, with an encoder that has seen no labels",
        ),
    }
    there, what = needs.get(number, (True, ""))
    return "" if there else f"Figure {number} is left out: it needs {what}, and this part of the profile has none."


TABLES: dict[int, Callable[[Profile], tuple[pd.DataFrame, str]]] = {
    1: figure_1,
    2: figure_2,
    3: figure_3,
    4: figure_4,
    5: figure_5,
    6: figure_6,
    7: figure_7,
    8: figure_8,
}


def figure_table(number: int, profile_name: str) -> tuple[pd.DataFrame, str]:
    """Return the table of figure `number` and the note for its margin."""
    return TABLES[number](load_profile(profile_name))
