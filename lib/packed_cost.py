"""What binary prototypes save and what they do not: bytes of real files, bytes while in use, time for a clip.

``python -m lib.packed_cost`` (``make bench``) writes ``figures/bench/packed.csv``. Byte counts are exact and the same
everywhere. Times hold for the machine named in the note, so each is also a ratio to fp32 within its own round.
"""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from lib.data.datasets import load_dataset
from lib.encoders import load_encoder
from lib.errors import InputError
from lib.figures import last_table, write_table
from lib.files import write_tensors
from lib.heads import Protobin, build_head
from lib.machine import machine
from lib.packed import export_packed, pack_signs, unpack_signs
from lib.paths import figure_root
from lib.pooling import Size, sign
from lib.profiles import load_profile
from lib.published import DATASETS, main_prototypes, table
from lib.store import grid_of

DIM = 768  # of every encoder that the paper uses (Sections 2.1 and 4.1)
GRIDS = {10: (64, 8), 5: (32, 8)}  # seconds → tokens of a clip with patches of 16 × 16, as A-MAE, EAT and SSLAM have
FORMS = ("fp32", "bf16", "packed", "packed, bf16 classifier")  # how a head is stored; fp32 comes first
BYTES = ("prototypes", "classifier", "rest", "file")
BLOCK = 1024  # prototypes that are compared at a time, as in lib.pooling.max_cosine
REPEATS = 31

# ---- shapes --------------------------------------------------------------------------------------------------


def paper_shapes() -> dict[str, Size]:
    """Return the shapes of the paper's heads by data set: C and clip length of Table 8, J of Section 4.1."""
    rows = table(8).set_index("dataset")
    return {
        name: Size(DIM, int(rows["classes"][name]), GRIDS[int(rows["clip_seconds"][name])], main_prototypes(name))
        for name in DATASETS
    }


def shown_shape(profile_name: str = "pocket") -> dict[str, Size]:
    """Return the shape of a profile's heads on the encoder and the dataset that it shows, by the dataset's name."""
    profile = load_profile(profile_name)
    encoder, data = load_encoder(profile.shown), load_dataset(profile.dataset)
    return {data.name: Size(encoder.geometry.dim, len(data.classes), grid_of(encoder, data), data.prototypes)}


def shape_of(head: Protobin) -> Size:
    """Return what a head was built for."""
    classes = head.classifier.out_features
    return Size(head.dim, classes, head.grid, len(head.prototypes) // classes)


def fresh_head(shape: Size, seed: int = 0) -> Protobin:
    """Return a protobin of this shape with random weights; bytes and times are those of a trained one."""
    generator = torch.Generator().manual_seed(seed)
    return build_head("protobin", shape.dim, shape.classes, shape.grid, shape.per_class, generator).eval()


# ---- bytes at rest -------------------------------------------------------------------------------------------


def file_sizes(shapes: Mapping[str, Size]) -> pd.DataFrame:
    """Write a head of each shape in each of the `FORMS` and look how large its file is.

    Returns
    -------
    pandas.DataFrame
        A row a shape and form: ``shape, classes, per_class, dim, tokens, form``, then in bytes ``prototypes,
        classifier, rest`` (names, sizes, checksum) and ``file``, their sum.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        heads = ((name, shape, fresh_head(shape)) for name, shape in shapes.items())
        for (name, shape, head), form in ((item, form) for item in heads for form in FORMS):
            path = Path(folder) / "head.safetensors"
            write_head(head, path, form)
            parts = {part: tensor.nbytes for part, tensor in load_file(path).items()}
            prototypes, whole = parts.pop("prototypes"), path.stat().st_size
            classifier = sum(parts.values())
            counts = (prototypes, classifier, whole - prototypes - classifier, whole)
            rows.append(_described(name, shape) | {"form": form} | dict(zip(BYTES, counts, strict=True)))
    return pd.DataFrame(rows)


def write_head(head: Protobin, path: Path, form: str) -> None:
    """Write a head in one of the `FORMS`; "fp32" and "bf16" are its state in that dtype."""
    if form.startswith("packed"):
        export_packed(head, path, "bfloat16" if "bf16" in form else "float32")
        return
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[form]
    write_tensors(path, {name: tensor.detach().to(dtype) for name, tensor in head.state_dict().items()})


def _described(name: str, shape: Size) -> dict[str, str | int]:
    counts = {"classes": shape.classes, "per_class": shape.per_class, "dim": shape.dim}
    return {"shape": name, **counts, "tokens": shape.grid[0] * shape.grid[1]}


def shrinks(classes: float, dim: float, classifier_bits: int = 32) -> float:
    """Return how many times smaller a packed head is than in fp32: 32 (D + C) / (D + bits · C).

    K·D numbers of the prototypes go from 32 bits to 1, K·C of the classifier from 32 to `classifier_bits`, so K and
    with it J cancel. Biases (C numbers) and names are left out.
    """
    return 32 * (dim + classes) / (dim + classifier_bits * classes)


def size_in_words(count: float) -> str:
    """Return a number of bytes as people say it, to three digits, in units of 1000."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * factor:
            return f"{count / factor:#.3g}".rstrip(".") + f" {unit}"
    return f"{count:.0f} bytes"


def other_heads(shapes: Mapping[str, Size], heads: Sequence[str]) -> pd.DataFrame:
    """Return the weights of some heads in fp32, and of a packed protobin, in words: a row a head, a column a shape."""
    rows = {}
    for head in heads:
        built = [build_head(head, shape.dim, shape.classes, shape.grid, shape.per_class) for shape in shapes.values()]
        rows[f"{head}, fp32"] = [4 * sum(each.numel() for each in one.parameters()) for one in built]
    rows["protobin, packed"] = [_bytes(shape).packed + _bytes(shape).classifier for shape in shapes.values()]
    return pd.DataFrame(rows, index=list(shapes)).T.map(size_in_words)


# ---- bytes in use --------------------------------------------------------------------------------------------


class Bytes(NamedTuple):
    """What a protobin's numbers need: prototypes and classifier in fp32, prototypes packed."""

    prototypes: int
    classifier: int
    packed: int


def _bytes(shape: Size) -> Bytes:
    numbers = shape.classes * shape.per_class  # K
    return Bytes(4 * numbers * shape.dim, 4 * (numbers + 1) * shape.classes, numbers * -(-shape.dim // 8))


def budget(shape: Size, encoder_parameters: int) -> pd.DataFrame:
    """Return what a head's file, scoring one clip, and training need, computed from shapes.

    Returns
    -------
    pandas.DataFrame
        ``when, what, bytes, one bit``: the last says whether a bit a number would do.
    """
    tokens, prototypes = shape.grid[0] * shape.grid[1], shape.classes * shape.per_class
    need = _bytes(shape)
    rows = [
        ("file", "prototypes, fp32", need.prototypes, "yes"),
        ("file", "the same, packed", need.packed, "is one"),
        ("file", "classifier, fp32", need.classifier, "no"),
        ("scoring", "encoder, fp32", 4 * encoder_parameters, "no"),
        ("scoring", "tokens of one clip, fp32", 4 * tokens * shape.dim, "no"),
        ("scoring", "their similarities, a block at a time", 4 * tokens * min(prototypes, BLOCK), "no"),
        ("scoring", "prototypes, unpacked to fp32", need.prototypes, "only if unpacked anew for each clip"),
        ("scoring", "classifier, fp32", need.classifier, "no"),
        ("training", "latent prototypes, fp32", need.prototypes, "no"),
        ("training", "their gradient", need.prototypes, "no"),
        ("training", "AdamW's two moments of them", 2 * need.prototypes, "no"),
        ("training", "classifier, gradient, moments", 4 * need.classifier, "no"),
    ]
    return pd.DataFrame(rows, columns=["when", "what", "bytes", "one bit"])


def budget_page(shapes: Mapping[str, tuple[Size, int]]) -> pd.DataFrame:
    """Return the budgets of several shapes, each with its encoder's parameters, side by side and in words."""
    parts = {name: budget(*one) for name, one in shapes.items()}
    page = next(iter(parts.values()))[["when", "what"]]
    page = page.assign(**{name: part["bytes"].map(size_in_words) for name, part in parts.items()})
    return page.assign(**{"would one bit do?": next(iter(parts.values()))["one bit"]}).set_index(["when", "what"])


def saved_in_words(name: str, shape: Size, encoder_parameters: int) -> str:
    """Say what packing takes off encoder and head together."""
    need = _bytes(shape)
    saved, whole = need.prototypes - need.packed, 4 * encoder_parameters + need.prototypes + need.classifier
    return (
        f"{name}: packing saves {size_in_words(saved)} of the {size_in_words(whole)} that encoder and head hold "
        f"together, {100 * saved / whole:.2g} %."
    )


# ---- time ----------------------------------------------------------------------------------------------------


def best_products(tokens: Tensor, blocks: Iterable[Tensor]) -> Tensor:
    """Return the largest product of tokens ``(N, D)`` with each prototype, ``(K,)``; `blocks` are ``(k, D)``."""
    return torch.cat([(tokens @ block.T).amax(0) for block in blocks])  # (N, k) → (k,)


def best_sums(tokens: Tensor, bits: Tensor) -> Tensor:
    """Return the largest Σ_d ±z_d for each packed prototype, without making floats of its bits or multiplying by them.

    Four numbers of a token can be added with signs in only 16 ways. All 16 sums are made once a token, and each half
    byte of a prototype picks one: K·D/4 additions a token in place of K·D multiplications and additions. Tokens are
    floats and every one is read, so counting equal bits (XNOR), which needs binary tokens too, is another method.

    Parameters
    ----------
    tokens : torch.Tensor
        fp32 ``(N, D)``.
    bits : torch.Tensor
        uint8 ``(K, ⌈D/8⌉)``, as `pack_signs` makes them.

    Returns
    -------
    torch.Tensor
        ``(K,)``; the order of additions differs from that of a product, and so does rounding.
    """
    tokens = F.pad(tokens, (0, 8 * bits.shape[1] - tokens.shape[1]))  # zeros, whose sign does not matter
    patterns = unpack_signs(torch.arange(0, 256, 16, dtype=torch.uint8)[:, None], 4)  # (16, 4)
    sums = torch.einsum("pi,ngi->gpn", patterns, tokens.unflatten(1, (-1, 4)))  # (N, 4G) → (N, G, 4) → (G, 16, N)
    rows = sums.flatten(0, 1).contiguous()  # (G, 16, N) → (16·G, N)
    first = 16 * torch.arange(len(sums), dtype=torch.int32)  # (G,)
    found = []
    for block in bits.split(BLOCK // 4):
        halves = torch.stack([block >> 4, block & 15], -1).flatten(1)  # (k, G/2, 2) → (k, G)
        found.append(F.embedding_bag(halves.int() + first, rows, mode="sum").amax(1))  # (k, N) → (k,)
    return torch.cat(found)


def scorings(head: Protobin) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the ways to score a clip that are timed: tokens ``(N, D)`` to logits ``(C,)``; "fp32" comes first."""
    dim, bits = head.dim, pack_signs(head.prototypes)
    unit = head.unit_prototypes().detach().split(BLOCK)
    loaded = _unit_prototypes(bits, dim).split(BLOCK)
    narrow = sign(head.prototypes).detach().bfloat16().split(BLOCK)  # ±1 is exact in bf16; tokens are rounded

    def way(pool: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda tokens: head.classifier(pool(F.normalize(tokens, dim=-1)))

    def each_time(z: Tensor) -> Tensor:
        return best_products(z, (_unit_prototypes(block, dim) for block in bits.split(BLOCK)))

    return {
        "fp32": way(lambda z: best_products(z, unit)),
        "bf16 products": way(lambda z: best_products(z.bfloat16(), narrow).float() / dim**0.5),
        "packed, unpacked at load": way(lambda z: best_products(z, loaded)),
        "packed, unpacked for each clip": way(each_time),
        "packed, never unpacked": way(lambda z: best_sums(z, bits) / dim**0.5),
    }


def _unit_prototypes(bits: Tensor, dim: int) -> Tensor:
    return F.normalize(unpack_signs(bits, dim), dim=-1)  # (K, D)


def alternate(
    ways: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, np.ndarray]:
    """Time each way once a round, each round beginning with another, so that drift of the machine meets all alike.

    Returns
    -------
    dict
        Way → seconds ``(repeats,)``; one round before them is not counted.
    """
    names, seconds = list(ways), {name: np.empty(repeats) for name in ways}
    for number in range(-1, repeats):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            ways[name]()
            seconds[name][number] = clock() - start  # round −1 lies where the last round will overwrite it
    return seconds


@torch.inference_mode()
def times(shapes: Mapping[str, Size], repeats: int = REPEATS) -> pd.DataFrame:
    """Time the ways to score one clip of random tokens, at each shape.

    Returns
    -------
    pandas.DataFrame
        A row a shape and way: ``shape, classes, per_class, dim, tokens, form``, the median ``ratio`` to fp32 of the
        same round with its quartiles ``low`` and ``high``, and the median ``ms``. The last way is no scoring: it
        unpacks all prototypes, what loading a packed file adds.
    """
    rows = []
    for name, shape in shapes.items():
        head, generator = fresh_head(shape), torch.Generator().manual_seed(1)
        tokens = torch.randn(shape.grid[0] * shape.grid[1], shape.dim, generator=generator)  # (N, D)
        ways = {form: functools.partial(way, tokens) for form, way in scorings(head).items()}
        ways["unpacking alone"] = functools.partial(_unit_prototypes, pack_signs(head.prototypes), shape.dim)
        seconds = alternate(ways, repeats)
        for form, own in seconds.items():
            ratio = own / seconds["fp32"]
            low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
            measured = {"form": form, "ratio": middle, "low": low, "high": high, "ms": 1000 * np.median(own)}
            rows.append(_described(name, shape) | measured)
    return pd.DataFrame(rows)


# ---- the table -----------------------------------------------------------------------------------------------


def measure(shapes: Mapping[str, Size], repeats: int) -> Path:
    """Write sizes and, unless `repeats` is 0, times to ``figures/bench/packed.csv``; return its path."""
    parts, said = [file_sizes(shapes).assign(kind="file")], "bytes of safetensors files"
    if repeats:
        parts.append(times(shapes, repeats).assign(kind="time"))
        said += f"; times: one clip of random tokens, median of {repeats} rounds with quartiles; {machine()}"
    found = pd.concat(parts, ignore_index=True).astype(dict.fromkeys(BYTES, "Int64"))  # whole numbers, or nothing
    path = figure_root() / "bench" / "packed.csv"
    write_table(path, found[["kind", *found.columns.drop("kind")]], said)
    return path


def stored(kind: str) -> pd.DataFrame | None:
    """Return the rows of one kind ("file", "time") as `measure` wrote them, or as committed; None if there are none."""
    found = last_table("bench", "packed")
    if found is None or kind not in set(found["kind"]):
        return None
    rows = found[found["kind"] == kind].dropna(axis=1, how="all").reset_index(drop=True)
    return rows.astype({name: "int64" for name in BYTES if name in rows})


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS, help="rounds of timing; 0 writes sizes alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if arguments.repeats < 0:
            raise InputError(f"--repeats is a number of rounds, zero or more, not {arguments.repeats}.")
        print(measure(paper_shapes() | shown_shape(), arguments.repeats))
    except InputError as error:
        sys.exit(f"make bench: {error}")


if __name__ == "__main__":
    main()
