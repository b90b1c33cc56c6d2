"""What the whole paper takes, or a part of it: runs, downloads, disk and hours, stage by stage, before any is begun.

``python -m lib.plan --encoders eat,sslam --datasets urban`` (``make plan``). The cells are those that
`make figures PROFILE=paper` runs; their products are counted (`lib.bench_sizes.necessary_products`), and divided by a
machine's rate and by the share of it that was measured, head by head and encoder by encoder, where `make bench` ran. So
the hours are an order of magnitude.
"""

import argparse
import functools
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch

from lib import published
from lib.bench_sizes import Shape, necessary_products
from lib.data.paper_manifests import read_manifest
from lib.encoders.network import Network
from lib.encoders.upstream import FAMILIES, empty_network
from lib.errors import InputError
from lib.figures import read_table
from lib.paths import FIGURES, MANIFESTS
from lib.profile_parts import part_of
from lib.profiles import PROFILES, PROTOTYPE_HEADS, Profile
from lib.results import all_cells
from lib.streaming import trained_bytes

# The paper's protocol; how many configurations are run again over seeds (k) it does not say.
PROTOCOL = PROFILES["paper"]
ENCODER_SHARE = 0.5  # of the machine's rate, where `make bench` has not measured a family's


@dataclass(frozen=True)
class Machine:
    """How fast, and what is known of how much of that is used.

    Attributes
    ----------
    gflops : float
        Rate of its matrix products, all cores together.
    head_share : dict of str to float
        Head → share of the rate that its training reaches.
    known_from : str
        Where the rate comes from, for people.
    encoder_share : dict of str to float
        Family → share of the rate that storing its embeddings reaches.
    """

    gflops: float
    head_share: dict[str, float]
    known_from: str
    encoder_share: dict[str, float] = field(default_factory=dict)

    def hours(self, operations: float, share: float) -> float:
        """Return how long so many floating-point operations take."""
        return operations / (self.gflops * 1e9 * share) / 3600


def machine(tflops: float | None = None) -> Machine:
    """Return a machine of a stated rate in TFLOP/s, or this one at the rate that the committed benchmark measured.

    Raises
    ------
    InputError
        If the rate is not positive, or the benchmark is missing.
    """
    if tflops is not None and not tflops > 0:
        raise InputError(f"--tflops is the rate of the machine's matrix products, above zero, not {tflops}.")
    path = FIGURES / "bench" / "bench.csv"
    if not path.is_file():
        raise InputError("figures/bench/bench.csv is missing; restore it with git, or run `make bench`.")
    table = read_table(path)
    heads = table[table["shape"] == "urban"].groupby("head")["gemm_share"].max().to_dict()
    path = path.with_name("encoders.csv")
    encoders = read_table(path).set_index("family")["share"].to_dict() if path.is_file() else {}
    if tflops is not None:
        return Machine(1000 * tflops, heads, f"{tflops:g} TFLOP/s, as stated", encoders)
    cores = os.cpu_count() or 1
    rate = statistics.median(table["gemm_gflops"]) * cores
    known = f"{cores} cores at the {rate / cores:.0f} GFLOP/s of the committed benchmark"
    return Machine(rate, heads, known, encoders)


# ---- what is run -------------------------------------------------------------------------------------------


def paper_cells(encoders: Sequence[str] = (), datasets: Sequence[str] = (), heads: Sequence[str] = ()) -> pd.DataFrame:
    """Return the cells of the paper's experiments, or those of some encoders, datasets and heads, ablations included.

    They are those that `make figures PROFILE=paper` with the same names trains: of the paper's Tables 2 to 7 all, and
    some that these leave out, such as protofloat wherever protobin is.

    Returns
    -------
    pandas.DataFrame
        encoder (id of its manifest), dataset, head, J (0 for heads without prototypes).

    Raises
    ------
    InputError
        For an unknown name, with the known ones, or if no cell is left.
    """
    cells = all_cells(part_of(PROTOCOL, tuple(encoders), tuple(datasets), tuple(heads)))
    rows = [
        (cell.encoder, cell.dataset, cell.head, cell.prototypes if cell.head in PROTOTYPE_HEADS else 0)
        for cell in cells
    ]
    return pd.DataFrame(rows, columns=["encoder", "dataset", "head", "J"])


def manifests() -> dict[str, dict]:
    """Return the manifests of the published encoders, by id."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted((MANIFESTS / "encoders").glob("*.json")))
    return {manifest["encoder"]: manifest for manifest in found if manifest.get("family") in FAMILIES}


def splits() -> pd.DataFrame:
    """Return clips of each split, classes and seconds of the paper's datasets, and how many clips are stored of each.

    They are those of the manifests, which differ from Table 8 where that is in error (uhh's test, the length of sc2).
    """
    table = published.table(8).set_index("dataset")
    told = {name: read_manifest(name) for name in table.index}
    sizes = pd.DataFrame({name: manifest["sizes"] for name, manifest in told.items()}, dtype=float).T
    shares = pd.Series({name: _reserved(manifest["split_rule"]) for name, manifest in told.items()})
    reserved = (shares * sizes["train"]).round()
    views = pd.Series({name: (manifest["views"] or {"count": 1})["count"] for name, manifest in told.items()})
    train, validation = sizes["train"] - reserved, sizes["val"].fillna(reserved)
    return table.assign(
        clip_seconds=pd.Series({name: manifest["seconds"] for name, manifest in told.items()}),
        train=train,
        validation=validation,
        test=sizes["test"],
        stored=views * train + validation + sizes["test"],
    )


def _reserved(rule: dict) -> float:
    """Return the share of the training clips that validate."""
    if rule["kind"] == "fold":
        return len(rule["reserve_from"]) / len(rule["from"]["train"])
    return rule.get("reserve", 0.0)


def grid_of(manifest: dict, seconds: float) -> tuple[int, int]:
    """Return (S_t, S_f) of a clip: of the length that upstream pads to, or of its own where upstream takes any."""
    family, config = FAMILIES[manifest["family"]], manifest["config"]
    native = family.native_frames(config)
    front_end = family.front_end(config, (0.0, 1.0), native, family.PADDING)
    frames = native or front_end.frames_of(round(seconds * 16_000))
    return _grid(manifest["family"], json.dumps(config), front_end.shape_of(frames))


def encoder_operations(manifest: dict, tokens: int) -> float:
    """Return the floating-point operations of a clip's way through a ViT: 24·N·D² + 4·N²·D a block, two a product."""
    network = _network(manifest["family"], json.dumps(manifest["config"]))
    width, depth = network.blocks[0].mlp.fc2.out_features, len(network.blocks)
    return depth * (24.0 * tokens * width**2 + 4.0 * tokens**2 * width)


# A plan asks the same of an encoder for every dataset, and a page makes many plans.
@functools.cache
def _network(family: str, config: str) -> Network:
    return empty_network(family, json.loads(config))


@functools.cache
def _grid(family: str, config: str, shape: tuple[int, ...]) -> tuple[int, int]:
    _, grid = _network(family, config).embedding(torch.empty(1, *shape, device="meta"))
    return grid


def epochs_searched(profile: Profile) -> int:
    """Return the epochs of a search, all trials together: each rung has `rung_factor` times fewer trials."""
    trials, reached, total = profile.trials, 0, 0
    while reached < profile.epochs:
        rung = min(profile.epochs, max(profile.first_rung, reached * profile.rung_factor))
        total, reached = total + trials * (rung - reached), rung
        trials = max(profile.top_k, -(-trials // profile.rung_factor))
    return total


def cell_operations(shape: Shape, head: str, profile: Profile = PROTOCOL) -> float:
    """Return the floating-point operations of a cell's products: the search, then k configurations over all seeds."""
    score, train = necessary_products(head, shape)
    epochs = epochs_searched(profile) + profile.top_k * len(profile.seeds) * profile.epochs
    looks = 2 * profile.trials + profile.top_k * len(profile.seeds)  # at validation, roughly two rungs a trial
    return epochs * shape.clips * train + looks * shape.val_clips * score


# ---- the plan ----------------------------------------------------------------------------------------------


def plan(cells: pd.DataFrame, on: Machine) -> dict[str, pd.DataFrame]:
    """Return what some cells take, a table a stage.

    Returns
    -------
    dict of str to pandas.DataFrame
        "download": what, gigabytes (empty where nobody recorded it). "embed": encoder, dataset, clips, tokens,
        gigabytes on disk, hours. "train": dataset, head, cells, runs, hours, memory (gigabytes of the largest cell).
    """
    known, sizes = manifests(), splits()
    encoders, datasets = (list(dict.fromkeys(cells[column])) for column in ("encoder", "dataset"))
    downloads = pd.read_csv(MANIFESTS / "paper_downloads.csv").set_index("dataset")["gigabytes"]
    wanted = [(known[name]["label"], (known[name]["files"][0]["about_mb"] or float("nan")) / 1000) for name in encoders]
    wanted += [(name, downloads[name]) for name in datasets]
    embed, hours, memory = [], {}, {}
    for encoder, dataset in cells[["encoder", "dataset"]].drop_duplicates().itertuples(index=False):
        row, manifest = sizes.loc[dataset], known[encoder]
        grid = grid_of(manifest, row["clip_seconds"])
        tokens, width = grid[0] * grid[1], manifest["config"].get("embed_dim", 768)
        width = manifest["config"].get("encoder_embed_dim", width)
        disk = row["stored"] * (tokens + 1) * width * 2 / 1e9  # tokens and cls in half precision
        work = row["stored"] * encoder_operations(manifest, tokens)
        share = on.encoder_share.get(manifest["family"], ENCODER_SHARE)
        embed.append((encoder, dataset, int(row["stored"]), tokens, disk, on.hours(work, share)))
        part = cells[(cells["encoder"] == encoder) & (cells["dataset"] == dataset)]
        for head, per_class in part[["head", "J"]].itertuples(index=False):
            shape = Shape(
                dataset, grid, width, int(row["classes"]), per_class, row["train"], row["validation"], 128, 50
            )
            hours[encoder, dataset, head, per_class] = on.hours(cell_operations(shape, head), on.head_share[head])
            built = (width, shape.classes, grid, per_class or 1)  # heads without prototypes ignore J
            memory[encoder, dataset, head, per_class] = trained_bytes(PROTOCOL, head, *built) / 1e9
    runs = PROTOCOL.trials + PROTOCOL.top_k * len(PROTOCOL.seeds)
    keys = [tuple(cell) for cell in cells.itertuples(index=False)]
    trained = cells.assign(
        cells=1, runs=runs, hours=[hours[key] for key in keys], memory=[memory[key] for key in keys]
    ).groupby(["dataset", "head"], sort=False)
    return {
        "download": pd.DataFrame(wanted, columns=["what", "gigabytes"]),
        "embed": pd.DataFrame(embed, columns=["encoder", "dataset", "clips", "tokens", "gigabytes", "hours"]),
        "train": trained[["cells", "runs", "hours"]].sum().assign(memory=trained["memory"].max()).reset_index(),
    }


def in_words(stages: dict[str, pd.DataFrame], on: Machine) -> str:
    """Return the plan as text for a terminal: each stage with its sum, then by dataset."""
    download, embed, train = (stages[name] for name in ("download", "embed", "train"))
    unknown = ", ".join(download.loc[download["gigabytes"].isna(), "what"])
    lines = [
        f"Rate: {on.known_from}. Hours are an order of magnitude: products over rate and share of it"
        + (
            ", all measured."
            if on.encoder_share
            else f"; that of encoders, not measured yet, is taken as {ENCODER_SHARE:g}."
        ),
        "",
        f"1 download  {len(download)} sets of files, {download['gigabytes'].sum():.0f} GB"
        + (f", and {unknown}, of which no size was found" if unknown else ""),
        f"2 embed     {embed['clips'].sum():,} clips × encoders, {embed['gigabytes'].sum():,.0f} GB on disk, "
        f"{_hours(embed['hours'].sum())}",
        f"3 train     {train['cells'].sum()} cells, {train['runs'].sum():,} runs, {_hours(train['hours'].sum())}",
        "",
        f"{'dataset':<10}{'clips':>10}{'store GB':>10}{'embed':>12}{'cells':>7}{'train':>12}",
    ]
    for dataset in dict.fromkeys(embed["dataset"]):
        stored, part = embed[embed["dataset"] == dataset], train[train["dataset"] == dataset]
        lines.append(
            f"{dataset:<10}{stored['clips'].iloc[0]:>10,}{stored['gigabytes'].sum():>10,.0f}"
            f"{_hours(stored['hours'].sum()):>12}{part['cells'].sum():>7}{_hours(part['hours'].sum()):>12}"
        )
    costly = train.groupby("head")["hours"].sum().sort_values(ascending=False)
    lines += ["", "By head: " + ", ".join(f"{head} {_hours(hours)}" for head, hours in costly.items())]
    most = train.loc[train["memory"].idxmax()]
    lines += [
        f"Memory: at most {most['memory']:.1f} GB for the runs that a cell trains together ({most['head']} on "
        f"{most['dataset']}); a process that may not take what its cell needs refuses it, see UNMUTE_MEMORY."
    ]
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:,.1f} h"


def main() -> None:
    """Print the plan that the arguments ask for."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--profile", default="paper", help="'paper', the only profile that has to be planned")
    for name in ("encoders", "datasets", "heads"):
        parser.add_argument(f"--{name}", default="", help="some only, by comma")
    parser.add_argument("--tflops", type=float, help="rate of the machine's matrix products; by default this one's")
    arguments = parser.parse_args()
    try:
        if arguments.profile != "paper":
            raise InputError(f"Profile '{arguments.profile}' needs no plan, see the README; PROFILE=paper has one.")
        chosen = [[part for part in vars(arguments)[n].split(",") if part] for n in ("encoders", "datasets", "heads")]
        on = machine(arguments.tflops)
        print(in_words(plan(paper_cells(*chosen), on), on))
    except InputError as error:
        sys.exit(f"make plan: {error}")


if __name__ == "__main__":
    main()
