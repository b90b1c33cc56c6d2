"""The tables of the page "Run the paper": what a stage takes, on which machine, and what to run first."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lib.plan import Machine, machine, paper_cells, plan

# What to run first, each step more than the one before: who has an evening stops where it ends. The first steps ask the
# paper's question with the fewest cells; the last one but one adds its many-class dataset, the last its few-shot sets.
STEPS = (
    ("the question, on one set", "eat", "urban", "linear,mhca,protobin"),
    ("the same, trained with labels", "eat,eat-plus", "urban", "linear,mhca,protobin"),
    ("a single label a clip beside it", "eat,eat-plus", "urban,esc50", "linear,mhca,protobin"),
    ("a few-shot set of birds", "eat,eat-plus", "urban,esc50,hsn", "linear,mhca,protobin"),
    (
        "six kinds of pretraining",
        "eat,eat-plus,amae,beats,asit,dasheng,sslam",
        "urban,esc50,hsn",
        "linear,mhca,protobin",
    ),
    ("all encoders, more heads", "", "urban,esc50,hsn", "linear,mlp,mhca,ep,simpool,proto,protobin"),
    ("many classes", "", "urban,esc50,hsn,as20k", "linear,mlp,mhca,ep,simpool,proto,protobin"),
    ("all of it", "", "", ""),
)
RATES = (5.0, 20.0, 60.0, 150.0)  # TFLOP/s: of matrix products, as a graphics card's data sheet or `make bench` says


@dataclass(frozen=True)
class Price:
    """What a machine's hour and a month of a terabyte of disk cost, in any currency."""

    hour: float
    terabyte_month: float


def stages(cells: pd.DataFrame, on: Machine, price: Price) -> pd.DataFrame:
    """Return what each stage takes: what there is to do, gigabytes, hours, cost.

    Parameters
    ----------
    cells : pandas.DataFrame
        Of `lib.plan.paper_cells`.
    on : Machine
        The machine.
    price : Price
        What it costs; a month of the disk that a stage fills is added.
    """
    found = plan(cells, on)
    download, embed, train = (found[name] for name in ("download", "embed", "train"))
    unknown = list(download.loc[download["gigabytes"].isna(), "what"])
    said = f"; of {len(unknown)} no size is known" if unknown else ""
    rows = [
        ("download", f"{len(download)} sets of files{said}", download["gigabytes"].sum(), None),
        ("embed", f"{embed['clips'].sum():,} clips × encoders", embed["gigabytes"].sum(), embed["hours"].sum()),
        ("train", f"{train['cells'].sum():,} cells, {train['runs'].sum():,} runs", None, train["hours"].sum()),
    ]
    table = pd.DataFrame(rows, columns=["stage", "what", "gigabytes", "hours"])
    table["cost"] = table["hours"].fillna(0) * price.hour + table["gigabytes"].fillna(0) / 1000 * price.terabyte_month
    return table.set_index("stage")


def on_machines(cells: pd.DataFrame, rates: Sequence[float] = RATES) -> pd.DataFrame:
    """Return hours of embedding and training on this machine and on others of some rates in TFLOP/s."""
    rows = []
    for rate in (None, *rates):
        on = machine(rate)
        found = plan(cells, on)
        hours = [found[stage]["hours"].sum() for stage in ("embed", "train")]
        rows.append((on.gflops / 1000, "this machine" if rate is None else "stated", *hours, sum(hours)))
    return pd.DataFrame(rows, columns=["TFLOP/s", "which", "embed, h", "train, h", "together, h"]).set_index("TFLOP/s")


def by_dataset(cells: pd.DataFrame, on: Machine) -> pd.DataFrame:
    """Return hours and gigabytes of each dataset, and the largest store of an encoder alone, the costliest first."""
    found = plan(cells, on)
    embed, train = found["embed"].groupby("dataset"), found["train"].groupby("dataset")
    table = pd.DataFrame(
        {
            "embed": embed["hours"].sum(),
            "train": train["hours"].sum(),
            "store, GB": embed["gigabytes"].sum(),
            "one encoder's, GB": embed["gigabytes"].max(),
        }
    )
    return table.sort_values("train", ascending=False)


def first_steps(on: Machine, hours: float) -> pd.DataFrame:
    """Return what to run first: growing parts of the paper, and whether each fits into some hours on a machine.

    Returns
    -------
    pandas.DataFrame
        step, cells, download and store in gigabytes, hours, whether it fits, and the command.
    """
    rows = []
    for step, *names in STEPS:
        found = plan(paper_cells(*[[part for part in name.split(",") if part] for name in names]), on)
        download, embed, train = (found[name] for name in ("download", "embed", "train"))
        taken = embed["hours"].sum() + train["hours"].sum()
        chosen = zip(("ENCODERS", "DATASETS", "HEADS"), names, strict=True)
        command = " ".join(["make figures PROFILE=paper", *(f"{kind}={name}" for kind, name in chosen if name)])
        sizes = [table["gigabytes"].sum() for table in (download, embed)]
        rows.append((step, train["cells"].sum(), *sizes, taken, "yes" if taken <= hours else "no", command))
    columns = ["step", "cells", "download, GB", "store, GB", "hours", f"within {hours:g} h", "command"]
    return pd.DataFrame(rows, columns=columns).set_index("step")


def advice(steps: pd.DataFrame, hours: float) -> str:
    """Say which step is the largest that fits."""
    fits = steps[steps["hours"] <= hours]
    if fits.empty:
        first = steps.iloc[0]
        return f"Nothing fits into {hours:g} hours on this machine; the first step takes {first['hours']:.1f}."
    last = fits.iloc[-1]
    return (
        f"In {hours:g} hours, downloads aside, it comes as far as *{fits.index[-1]}* ({last['cells']} cells, "
        f"{last['hours']:.1f} h, {last['store, GB']:,.0f} GB of embeddings): `{last['command']}`. What is finished is "
        "kept, so the next evening goes on from there."
    )
