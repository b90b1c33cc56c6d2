"""What notebook 01 says about datasets and encoders, for those that we draw and pretrain and for the paper's own."""

import pandas as pd

from lib.data.datasets import Soundscapes
from lib.data.mixer import Scene
from lib.data.paper_sets import OfficialSet
from lib.encoder_pages import ORIGINALS
from lib.encoders import ENCODERS
from lib.published import facts


def events_table(scene: Scene) -> pd.DataFrame:
    """Return the events of a clip, a row an event; none where it is known what is heard, but not when."""
    columns = ["label", "onset", "duration", "snr_db", "band"]
    table = pd.DataFrame([vars(event) for event in scene.events])
    return table.drop(columns="source").round(2) if len(table) else pd.DataFrame(columns=columns)


def ranges_table(data: Soundscapes | OfficialSet) -> pd.DataFrame:
    """Return from what ranges clips are drawn, or, of an official copy, by what rule it was split."""
    if isinstance(data, Soundscapes):
        return pd.Series(data.manifest["recipe"], name="range").to_frame()
    rule, source = data.manifest["split_rule"], data.manifest["source"]
    said = {"split": rule["kind"], "rule": rule["text"], "licence": source["licence"]}
    said |= {"differs from the paper's account": " ".join(data.manifest["published_discrepancies"]) or "in nothing"}
    return pd.Series(said, name="official copy").to_frame()


def encoder_words(name: str) -> str:
    """Say what an encoder is, and what it is not."""
    entry = ENCODERS[name]
    if name not in ORIGINALS:
        return f"`{entry.label}` is the published encoder, read from its file without running anybody's code."
    original = ORIGINALS[name]
    return (
        f"`{entry.label}` was pretrained by this project in the manner of {original.label} "
        f"({original.paradigm[0].lower()}{original.paradigm[1:]}) on mixtures from both banks, field recordings and "
        f"spoken digits, training sources only. It stands for the paper's {original.label} "
        f"({int(facts('parameters')[original.label]) / 1e6:.0f} million parameters, pretrained on AudioSet) and is not "
        "it; so with the others (notebook 08)."
    )
