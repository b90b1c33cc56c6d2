"""How fast each family of published encoders fills the store on a CPU: ``python -m lib.bench_encoders`` (`make bench`).

Networks of full size with random weights, one worker with one thread, clips through front end, network and store as
`lib.store` makes them; each family in a process of its own, so that its peak memory is its own. One table,
``figures/bench/encoders.csv``; `lib.plan` takes its share of the machine's rate.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import store
from lib.audio import SAMPLE_RATE
from lib.bench_heads import CPU, clocked, product_rate
from lib.bench_parts import most_bytes
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS, EncoderEntry
from lib.encoders.frozen import PRODUCTS, UpstreamEncoder, rounding_error
from lib.encoders.manifests import find_checkpoint
from lib.encoders.upstream import expected_shapes, from_upstream
from lib.errors import InputError, unknown_name
from lib.figures import write_table
from lib.files import temporary_folder
from lib.hardware import has_bfloat16
from lib.machine import machine
from lib.paths import audio_root, figure_root, scratch
from lib.plan import encoder_operations
from lib.store import PASS_CLIPS
from lib.workers import start_worker

FAMILIES = ("amae", "asit", "beats", "eat", "sslam", "dasheng")  # an encoder of each; its fine-tuned one is as large
CLIPS = 2 * PASS_CLIPS
SQUARE = 2048  # rows of the matrices whose product tells the machine's rate
TINY = {  # settings of a network on which every line runs and no number means anything
    "beats": {"encoder_layers": 1, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2},
    "others": {"embed_dim": 32, "depth": 1, "num_heads": 2},
}
NOTE = (
    "Each family at full size, weights random; one worker, one thread. seconds: from rendering {clips} clips of "
    "'{dataset}' (10 s) to their shard on disk. gflop: of a clip's matrix products in the blocks. share: of the "
    "machine's own rate for square matrices. peak_mb: the most that the process held; idle_mb: what it held before it "
    "had an encoder. "
    "bfloat16_error: of the tokens against float32, with these weights; bfloat16_ratio: times as fast, where the "
    "machine has instructions for it."
)


def bench_encoders(
    names: Sequence[str] = FAMILIES, clips: int = CLIPS, tiny: bool = False, apart: bool = True
) -> Iterator[dict]:
    """Yield the row of each encoder as it is measured.

    Parameters
    ----------
    names : sequence of str
        Encoders of `FAMILIES`.
    clips : int
        How many each stores; at most a shard.
    tiny : bool
        Whether the networks are tiny; the numbers then mean nothing.
    apart : bool
        Whether each is measured in a process of its own.
    """
    for name in names:
        if name not in FAMILIES:
            raise unknown_name("encoder of the benchmark", name, FAMILIES)
    if not apart:
        yield from (measured(name, clips, tiny) for name in names)
        return
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([__name__])
    started = {"initializer": start_worker, "initargs": (dict(os.environ),)}
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1, **started) as pool:
        for name in names:
            yield pool.submit(measured, name, clips, tiny).result()


def measured(name: str, clips: int, tiny: bool = False) -> dict:
    """Return what one encoder takes, measured in this process with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(name, clips, tiny)
    finally:
        torch.set_num_threads(threads)


def _measured(name: str, clips: int, tiny: bool) -> dict:
    manifest = find_checkpoint(name).manifest
    if tiny:
        manifest = manifest | {"config": manifest["config"] | TINY.get(name, TINY["others"])}
    idle = most_bytes(from_now=True)
    weights = random_weights(manifest)
    encoder = from_upstream(manifest["family"], weights, manifest["config"])
    dataset = dataset_here()
    data, rate = load_dataset(dataset), product_rate("float32", 64 if tiny else SQUARE)
    audio = np.stack([store.usable_audio(data, "train", index, 0) for index in range(min(clips, PASS_CLIPS))])
    encoder.spectrogram(audio, SAMPLE_RATE)  # the first call also pays for filters and fresh memory
    hearing, spectrogram = clocked(partial(encoder.spectrogram, audio, SAMPLE_RATE))
    with torch.inference_mode():
        tokens = encoder(spectrogram[:1]).tokens.shape[1]
    most_bytes(from_now=True)  # what it took to draw the weights does not count
    seconds, size = _stored(encoder, dataset, clips)
    most = most_bytes()
    gflop = encoder_operations(manifest, tokens) / 1e9
    return {
        "encoder": name,
        "label": manifest["label"],
        "family": manifest["family"],
        "parameters": sum(weight.numel() for weight in encoder.parameters()),
        "dataset": dataset,
        "clips": clips,
        "tokens": tokens,
        "gflop": gflop,
        "seconds": seconds,
        "clips_per_s": clips / seconds,
        "gflops": gflop * clips / seconds,
        "gemm_gflops": rate / 1e9,
        "share": gflop * 1e9 * clips / seconds / rate,
        "front_end_share": hearing / len(audio) * clips / seconds,
        "peak_mb": most / 1e6,
        "idle_mb": idle / 1e6,
        "weights_mb": sum(weight.numel() * 4 for weight in encoder.state_dict().values()) / 1e6,
        "store_mb": size / clips / 1e6,
        "bfloat16_error": rounding_error(encoder, spectrogram[:2]),
        "bfloat16_ratio": _gain(manifest, weights, spectrogram) if has_bfloat16(CPU) else math.nan,
        "threads": torch.get_num_threads(),
    }


def dataset_here() -> str:
    """Return which clips are stored: ESC-10's where they are, else synthetic ones of the same length."""
    return "esc10-single" if (audio_root() / "esc10").is_dir() else "single-sounds"


def random_weights(manifest: dict) -> dict[str, Tensor]:
    """Return weights under a checkpoint's own keys, of the size that keeps a network's values in a usual range."""
    generator, weights = torch.Generator().manual_seed(0), {}
    for key, shape in expected_shapes(manifest["family"], manifest["config"]).items():
        drawn = torch.randn(shape, generator=generator)
        if key.endswith(("running_var", "weight_g")) or (len(shape) == 1 and key.endswith("weight")):
            weights[key] = 1.0 + 0.1 * drawn.abs()
        else:
            weights[key] = 0.02 * drawn if len(shape) == 1 else drawn / math.sqrt(math.prod(shape[1:]))
    return weights


def _stored(encoder: UpstreamEncoder, dataset: str, clips: int) -> tuple[float, int]:
    """Return the seconds that the store takes to make a shard of clips, and its bytes; it is removed."""
    name, cache, audio = "bench-encoder", os.environ.get("UNMUTE_CACHE"), os.environ.get("UNMUTE_DATA")
    with temporary_folder(scratch() / "bench", "encoders") as folder:
        os.environ["UNMUTE_DATA"], os.environ["UNMUTE_CACHE"] = str(audio_root()), str(folder)
        ENCODERS[name] = EncoderEntry(name, "control", lambda: encoder)
        try:
            seconds, _ = clocked(partial(store._build_shard, {name: ""}, dataset, "train", clips, 0, 0))
            return seconds, sum(path.stat().st_size for path in Path(folder).rglob("shard-*.safetensors"))
        finally:
            del ENCODERS[name]
            for variable, value in (("UNMUTE_CACHE", cache), ("UNMUTE_DATA", audio)):
                if value is None:
                    del os.environ[variable]
                else:
                    os.environ[variable] = value


@torch.inference_mode()
def _gain(manifest: dict, weights: dict[str, Tensor], spectrogram: Tensor) -> float:
    """Return how many times as fast a pass is with products in bfloat16."""
    seconds = []
    for products in PRODUCTS:
        encoder = from_upstream(manifest["family"], weights, manifest["config"], products=products)
        encoder(spectrogram[:1])
        seconds.append(clocked(partial(encoder, spectrogram))[0])
    return seconds[0] / seconds[1]


def in_words(table: pd.DataFrame) -> str:
    """Return the table in words, for a page or a terminal: Markdown, and what it means."""
    lines = [
        "| encoder | tokens of a clip | GFLOP of a clip | clips a second | of the machine's rate | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.label} | {row.tokens} | {row.gflop:.0f} | {row.clips_per_s:.2f} | {100 * row.share:.0f} % | "
        f"{row.peak_mb:,.0f} |"
        for row in table.itertuples()
    ]
    fastest, slowest = (table.loc[getattr(table["clips_per_s"], pick)()] for pick in ("idxmax", "idxmin"))
    said = (
        f"One core stores {slowest['clips_per_s']:.2f} ({slowest['label']}) to {fastest['clips_per_s']:.2f} "
        f"({fastest['label']}) clips of 10 s a second, at {100 * table['share'].min():.0f} to "
        f"{100 * table['share'].max():.0f} % of the rate of its matrix products. Products in bfloat16 change tokens of "
        f"random weights by {100 * table['bfloat16_error'].min():.2g} to {100 * table['bfloat16_error'].max():.2g} %"
    )
    gain = table["bfloat16_ratio"]
    gained = (
        f" and are {gain.min():.1f} to {gain.max():.1f} times as fast."
        if gain.notna().all()
        else "; this machine has no instructions for them, so that nothing is gained."
    )
    return "\n".join([*lines, "", said + gained])


def main() -> None:
    """Parse the command line, measure, write the table and say it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"encoders by comma, of {', '.join(FAMILIES)}")
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips each stores, at most a shard of 32")
    parser.add_argument("--quick", action="store_true", help="tiny, into the scratch folder; its numbers mean nothing")
    arguments = parser.parse_args()
    folder = scratch() / "bench" / "quick" if arguments.quick else figure_root() / "bench"
    names, rows = [part for part in arguments.only.split(",") if part] or FAMILIES, []
    try:
        if not 2 <= arguments.clips <= 32:
            raise InputError(f"--clips is a number from 2 to 32, not {arguments.clips}.")
        for row in bench_encoders(names, arguments.clips, arguments.quick):
            rows.append(row)
            print(f"{row['label']}: {row['clips_per_s']:.2f} clips a second, {row['peak_mb']:,.0f} MB", flush=True)
    except InputError as error:
        sys.exit(f"make bench: {error}")
    table = pd.DataFrame(rows)
    note = NOTE.format(clips=arguments.clips, dataset=table["dataset"].iloc[0])
    write_table(folder / "encoders.csv", table, f"{machine()} {note}")
    print(in_words(table))


if __name__ == "__main__":
    main()
