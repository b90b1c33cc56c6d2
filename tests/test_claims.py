"""The claims: numbers and verdicts follow from the tables they name, by the stated rules, and from nothing else."""

import csv
import re
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest

from lib import published
from lib.claims import PLACES, VERDICTS, Finding, all_claims, near, rounds_to, verdicts
from lib.claims_page import as_markdown, summary
from lib.paths import MANIFESTS
from lib.published import SUPERVISED

HOLDS, READING, FAILS, UNKNOWN = VERDICTS
CLAIMS = {claim.id: claim for claim in all_claims()}
USES = [(claim.id, name) for claim in CLAIMS.values() for name in claim.tables]


def file_of(name):
    return name if isinstance(name, str) else f"table_{name}"


def rows_of(name):
    return published._rows(file_of(name)).copy()


@pytest.fixture
def alter():
    """Replace tables until the test ends: alter(2, change), where change gets the rows and returns them."""
    with ExitStack() as stack:

        def replace(name, change):
            stack.enter_context(published.altered(file_of(name), change(rows_of(name))))

        yield replace


# ---- form --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    return verdicts()


def test_the_table_of_verdicts_is_complete(table):
    assert len(table) >= 50 and table["id"].is_unique
    assert set(table["verdict"]) == set(VERDICTS)
    assert table["place"].map(PLACES.index).is_monotonic_increasing
    assert (table[["sentence", "computation", "found"]].map(str.strip) != "").all(axis=None)
    assert ((table["verdict"] == READING) == (table["reading"] != "")).all()


@pytest.mark.parametrize(
    ("holds", "reading", "verdict"),
    [(True, "", HOLDS), (True, "r", READING), (False, "r", FAILS), (None, "r", UNKNOWN), (np.False_, "", FAILS)],
)
def test_a_verdict_follows_from_a_finding(holds, reading, verdict):
    assert Finding("", holds, reading).verdict == verdict


def test_a_printed_number_holds_at_its_own_rounding():
    assert rounds_to(62.77, "63") and not rounds_to(62.49, "63") and rounds_to(-3.314, "-3.31")
    assert not rounds_to(14.0, "14.41") and rounds_to(14.0, "14")
    assert near(90.3, "86") and not near(90.31, "86")  # 5 %
    assert near(0.94, "1") and near(0.5, "1") and not near(0.4, "1")  # half a unit is more than 5 %


def test_the_markdown_has_a_row_a_claim_and_four_columns(table):
    lines = as_markdown(table).splitlines()
    assert len(lines) == len(table) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}


def test_the_summary_counts_every_claim_once(table):
    numbers = [int(number) for number in re.findall(r"\d+", summary(table))]
    counts = table["verdict"].value_counts()
    assert numbers[0] == len(CLAIMS) and numbers[-4:] == [counts[verdict] for verdict in VERDICTS]


# ---- computed, not typed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_names_the_tables_it_reads_and_no_other(name, monkeypatch):
    read, original = set(), published._rows
    monkeypatch.setattr(published, "_rows", lambda table: (read.add(table), original(table))[1])
    CLAIMS[name].check()
    assert read == {file_of(table) for table in CLAIMS[name].tables}


def noisy(rows):
    rows["mean"] = (rows["mean"] + np.random.default_rng(5).normal(0, 6, len(rows))).round(2)
    rows["std"] = (rows["std"] + 0.3 + np.random.default_rng(6).random(len(rows))).round(2)
    return rows


def heads_permuted(rows):
    rng = np.random.default_rng(7)
    mixed = rows.groupby(["dataset", "encoder"])["mean"].transform(lambda part: rng.permutation(part.to_numpy()))
    return rows.assign(mean=mixed)


def fewer_encoders(rows):
    return rows[rows["encoder"] != rows["encoder"].iloc[0]]


def fewer_heads(rows):
    return rows[rows["head"] != "conv"]


def larger(rows):
    numbers = rows.select_dtypes("number").columns
    return rows.assign(**{name: (rows[name] * 1.5).round() for name in numbers}).convert_dtypes()


def shorter(rows):
    return rows.iloc[:-1]


def rewritten(rows):
    """Change what is written as text: formulas, settings, facts."""
    for column in {"formula", "printed", "value"} & set(rows.columns):
        rows[column] = [{"yes": "no", "no": "yes"}.get(text, f"2{text}") for text in rows[column].astype(str)]
    return rows


ALTERATIONS = {
    **dict.fromkeys(published.RESULT_TABLES, (noisy, heads_permuted, fewer_encoders, fewer_heads)),
    1: (shorter,),
    9: (rewritten, shorter),
    8: (larger, shorter),
    10: (rewritten,),
    "facts": (rewritten,),
}


@pytest.mark.parametrize(("name", "source"), USES)
def test_what_is_found_follows_from_each_table(name, source):
    before = CLAIMS[name].check().found

    def found_after(change):
        with published.altered(file_of(source), change(rows_of(source))):
            return CLAIMS[name].check().found

    assert any(found_after(change) != before for change in ALTERATIONS[source])


# ---- verdicts that must turn -------------------------------------------------------------------------------


def lift(points, table_column="mean", **where):
    """Add points to the rows where all named columns have (one of) the given values."""

    def change(rows):
        chosen = np.logical_and.reduce([rows[column].isin(np.atleast_1d(value)) for column, value in where.items()])
        assert chosen.any()
        rows.loc[chosen, table_column] += points
        return rows

    return change


def put(value, column, **where):
    """Put a value into the rows where all named columns have the given values."""

    def change(rows):
        chosen = np.logical_and.reduce([rows[name] == wanted for name, wanted in where.items()])
        assert chosen.any()
        rows[column] = rows[column].astype(object).where(~chosen, value)
        return rows.infer_objects()

    return change


def without(**where):
    ((column, value),) = where.items()
    return lambda rows: rows[rows[column] != value]


def not_adapted(points=0.0):
    """Give every supervised⁺ encoder the scores of its base encoder, and some points more."""

    def change(rows):
        base = rows.set_index(["dataset", "encoder", "head"])
        back = {after: before for before, after in SUPERVISED.items()}
        for at, row in rows[rows["encoder"].isin(back)].iterrows():
            source = base.loc[(row["dataset"], back[row["encoder"]], row["head"])]
            rows.loc[at, ["mean", "std"]] = source["mean"] + points, source["std"]
        return rows

    return change


def inverted(rows):
    """Make protobin rank the encoders of each data set the other way round than linear does."""
    linear = rows[rows["head"] == "linear"].set_index(["dataset", "encoder"])["mean"]
    is_ours = rows["head"] == "protobin"
    pairs = pd.MultiIndex.from_frame(rows.loc[is_ours, ["dataset", "encoder"]])
    rows.loc[is_ours, "mean"] = 100 - linear[pairs].to_numpy()
    return rows


def in_twentieths(rows):
    """Round accuracies as five runs on 400 clips would have them."""
    return rows.assign(mean=(rows["mean"] * 20).round() / 20)


TURNS = [
    ("protobin-outperforms", READING, [(2, lift(10, head="mhca"))], FAILS),
    ("protobin-outperforms", READING, [(6, lift(10, head="protobin"))], HOLDS),
    ("prototypes-outperform", HOLDS, [(5, lift(10, head="mhca"))], FAILS),
    ("best-probe-is-prototypical", READING, [(2, lift(5, head="proto"))], HOLDS),
    ("best-probe-is-prototypical", READING, [(5, lift(30, head="mhca"))], FAILS),
    ("adaptation-alters-ranking", HOLDS, [(4, not_adapted())], FAILS),
    ("lag-behind-prototypes", FAILS, [(2, lift(-1.28, head="mhca"))], HOLDS),
    ("mhca-best-attentive", HOLDS, [(2, lift(5, head="ep"))], FAILS),
    ("proto-on-urban", FAILS, [(2, lift(1, head="proto", dataset="urban"))], HOLDS),
    ("gap-to-fine-tuning", HOLDS, [(2, lift(1, head="protobin", encoder="EAT", dataset="as20k"))], FAILS),
    ("gap-to-fine-tuning", HOLDS, [(3, lift(-2, head="fine-tuning", encoder="EAT", dataset="as20k"))], FAILS),
    ("ranking-inverted", FAILS, [(2, inverted)], HOLDS),
    ("ranking-reshuffled", FAILS, [(2, inverted)], HOLDS),
    ("asit-drops-to-last", HOLDS, [(2, lift(20, head="protobin", encoder="ASiT"))], FAILS),
    ("sslam-best-fine-tuned", READING, [(3, lift(-2, head="fine-tuning", encoder="SSLAM"))], FAILS),
    ("gap-closed-for-all", READING, [(3, lift(-3, head="protobin", encoder="ASiT"))], FAILS),
    ("cls-degrades-most", FAILS, [(3, lift(-7, head="linear", dataset="as20k"))], HOLDS),
    ("constant-superiority", READING, [(2, lift(2, head="protobin", encoder="ASiT"))], HOLDS),
    ("constant-superiority", READING, [(3, lift(3, head="mhca", encoder="ASiT"))], FAILS),
    ("cls-ranks", READING, [(4, not_adapted())], FAILS),
    ("attentive-stable", FAILS, [(4, not_adapted())], HOLDS),
    ("bioacoustic-hierarchy", FAILS, [(5, not_adapted())], HOLDS),
    ("protobin-stays-on-top", FAILS, [(5, not_adapted())], HOLDS),
    ("bioacoustic-uplift", READING, [(5, not_adapted(1.0))], HOLDS),
    ("bioacoustic-uplift", READING, [(5, not_adapted(-1.0))], FAILS),
    ("superior-in-both-settings", READING, [(4, lift(5, head="proto"))], HOLDS),
    ("above-single-vector-probes", READING, [(5, lift(20, head="mhca"))], FAILS),
    ("gain-over-linear", HOLDS, [(2, lift(0.02, head="protobin"))], FAILS),
    ("five-seeds-on-esc50", FAILS, [(6, in_twentieths)], HOLDS),
    ("tables-2-and-4-means", READING, [(4, lift(0.02, head="conv", encoder="SSLAM", dataset="desed"))], HOLDS),
    ("tables-2-and-4-means", READING, [(4, lift(1, head="conv"))], FAILS),
    ("table-3-and-appendix", READING, [(3, lift(-1, head="protobin", encoder="ASiT", dataset="esc50"))], HOLDS),
    ("table-7-and-main-results", READING, [(6, lift(5, dataset="esc50"))], FAILS),
    ("prototypes-on-urban", HOLDS, [(7, lift(-0.5, encoder="EAT", J=10))], FAILS),
    ("saturation", HOLDS, [(7, lift(5, dataset="urban", J=20))], FAILS),
    ("chosen-prototypes-suffice", READING, [(7, lift(-5, dataset="as20k", J=10))], FAILS),
    ("protofloat-over-proto", READING, [(7, lift(-5, head="protofloat"))], FAILS),
    ("drop-by-binarisation", READING, [(7, lift(-5, head="protobin"))], FAILS),
    ("protobin-over-proto", HOLDS, [(7, lift(5, head="proto"))], FAILS),
    ("thirteen-datasets", FAILS, [(8, without(dataset="desed"))], HOLDS),
    ("six-encoders", HOLDS, [(1, without(encoder="EAT"))], FAILS),
    ("all-provide-cls", FAILS, [("facts", put("yes", "value", fact="native_cls"))], HOLDS),
    ("compact-alternative", READING, [(8, lift(60, "classes", group=["bioacoustic"]))], FAILS),
    ("encoder-parameters", READING, [("facts", put("86000000", "value", subject="BEATs", fact="parameters"))], HOLDS),
    ("eleven-methods", HOLDS, [(9, without(head="conv"))], FAILS),
    ("ten-methods-in-table-9", FAILS, [(9, without(head="conv"))], HOLDS),
    ("ten-methods", READING, [(2, without(head="linpre"))], HOLDS),
    ("prototypes-per-class", HOLDS, [(2, lift(0.01, head="proto", encoder="EAT", dataset="urban"))], FAILS),
    ("training-runs", HOLDS, [(5, without(encoder="EAT+"))], FAILS),
    ("precomputation-runs", HOLDS, [(8, without(dataset="hsn"))], FAILS),
    ("embedding-store", READING, [(8, lift(50_000, "train", dataset="as20k"))], FAILS),
    ("sixty-four-shots", READING, [("facts", put("26", "value", fact="train_classes"))], FAILS),
    ("uhh-test-clips", FAILS, [(8, put(36_637, "test", dataset="uhh"))], HOLDS),
    ("sc2-clip-length", FAILS, [(8, put(1, "clip_seconds", dataset="sc2"))], HOLDS),
    ("sizes-of-sets", HOLDS, [(8, lift(-1, "test", dataset="esc50"))], FAILS),
    ("table-9-formulas", READING, [(9, put("2DC", "formula", head="linear"))], FAILS),
    ("table-9-mhca", READING, [(9, put("2D^2 + DC", "formula", head="mhca"))], HOLDS),
    ("table-9-abmilp", FAILS, [(9, put("1.2M", "printed", head="abmilp"))], HOLDS),
    ("table-9-prototypes", READING, [(9, put("255k", "printed", head="protobin"))], FAILS),
    ("table-10", HOLDS, [(10, put("50", "value", setting="epochs"))], FAILS),
]


@pytest.mark.parametrize(("name", "before", "changes", "after"), TURNS)
def test_a_verdict_turns_with_the_table(name, before, changes, after, alter):
    assert CLAIMS[name].check().verdict == before
    for source, change in changes:
        alter(source, change)
    assert CLAIMS[name].check().verdict == after


# ---- the same numbers, counted anew ------------------------------------------------------------------------


def scores(number):
    """Read a table of results with nothing but csv: {(dataset, encoder, head, J): mean}."""
    with (MANIFESTS / "paper" / f"table_{number}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(row["dataset"], row["encoder"], row["head"], row["J"]): float(row["mean"]) for row in rows}


def by_pair(number):
    """Sort the scores of a table by (dataset, encoder): {pair: {head: mean}}."""
    pairs = {}
    for (dataset, encoder, head, _), mean in scores(number).items():
        pairs.setdefault((dataset, encoder), {})[head] = mean
    return pairs


def average(values):
    values = list(values)
    return sum(values) / len(values)


def spot_checks():
    two, four, five, six = (by_pair(number) for number in (2, 4, 5, 6))
    bases = {pair: heads for pair, heads in five.items() if not pair[1].endswith("+")}
    seven = scores(7)
    settings = [(d, e, j) for d, e, head, j in seven if head == "proto"]
    ablation = {head: [seven[d, e, head, j] for d, e, j in settings] for head in ("proto", "protofloat", "protobin")}
    single = ("linear", "mlp", "mhca", "ep", "simpool", "abmilp")
    over = [h["protobin"] > h[x] for t in (four, five, six) for h in t.values() for x in single if x in h]
    falls = [
        five[d, after][head] <= mean
        for before, after in SUPERVISED.items()
        for (d, e), heads in five.items()
        if e == before
        for head, mean in heads.items()
    ]
    esc50 = [mean for (dataset, *_), mean in scores(6).items() if dataset == "esc50"]
    thirds = [any(abs(mean - k / 12) < 0.0051 for k in range(1201)) for mean in esc50]
    others = ("linear", "mlp", "mhca", "ep", "linearc", "conv", "linpre", "simpool", "abmilp")
    best = [
        max(h["proto"], h["protobin"]) > max(h[x] for x in others if x in h) for h in [*two.values(), *bases.values()]
    ]
    eat, urban = two["as20k", "EAT"], {j: seven["urban", "EAT", "protobin", j] for j in ("1", "10")}
    return [
        ("gain-over-linear", f"+{average(h['protobin'] - h['linear'] for h in two.values()):.2f}"),
        ("lag-behind-prototypes", f"mhca −{average(h['protobin'] - h['mhca'] for h in two.values()):.2f}"),
        ("lag-behind-prototypes", f"linpre −{average(h['protobin'] - h['linpre'] for h in two.values()):.2f}"),
        ("lag-behind-prototypes", f"−{average(h['protobin'] - h['mhca'] for h in bases.values()):.2f}, the printed"),
        ("gap-to-fine-tuning", f"{100 * (eat['protobin'] - eat['linear']) / (40.2 - eat['linear']):.1f} %"),
        ("best-probe-is-prototypical", f"{sum(best)} of {len(best)}"),
        ("above-single-vector-probes", f"{sum(over)} of {len(over)}"),
        ("bioacoustic-uplift", f"{len(falls) - sum(falls)} of {len(falls)}"),
        ("five-seeds-on-esc50", f"of {len(esc50)} accuracies"),
        ("five-seeds-on-esc50", f"{sum(thirds)} for 3 runs"),
        ("protofloat-over-proto", share_of(ablation["protofloat"], ablation["proto"])),
        ("protobin-over-proto", "proto: " + share_of(ablation["protobin"], ablation["proto"])),
        ("drop-by-binarisation", f"{average(ablation['protofloat']) - average(ablation['protobin']):.2f}"),
        ("prototypes-on-urban", f"+{urban['10'] - urban['1']:.2f}"),
        ("training-runs", f"{len(scores(4)) * 55:,}, {len(scores(5)) * 55:,}, {len(scores(6)) * 55:,}"),
        ("memory-reduction", f"as20k {32 * 6825177 / (4047360 + 32 * (5270 * 527 + 527)):.1f}"),
        ("embedding-store", f"{497630 * 9 * 513 * 768 * 2 / 1e12:.2f} TB"),
    ]


def share_of(left, right):
    return f"{sum(a > b for a, b in zip(left, right, strict=True))} of {len(left)}"


@pytest.mark.parametrize(("name", "words"), spot_checks())
def test_a_number_agrees_with_a_count_in_plain_python(name, words):
    assert words in CLAIMS[name].check().found
