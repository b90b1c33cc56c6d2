"""Tables in the paper's form: every cell that was run is in one, the published ones are the paper's to the digit."""

import re
import runpy

import numpy as np
import pandas as pd
import pytest

from lib import published
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.errors import InputError
from lib.figures import write_table
from lib.heads import HEADS
from lib.paper_tables import (
    FORMULAS,
    NOTHING,
    NUMBERS,
    as_markdown,
    average_gains,
    by_head,
    count,
    formula,
    further_table,
    paper_table,
    published_table,
)
from lib.paths import NOTEBOOKS, figure_root
from lib.profiles import load_profile
from lib.published import FINE_TUNING
from lib.results import all_cells, main_cells, prototype_count_cells


def plain(text):
    return text.strip("*")


@pytest.fixture
def rows():
    """Made-up results of every cell of profile `pocket`, stored where the tables are read; no two means are alike."""
    profile, rng = load_profile("pocket"), np.random.default_rng(0)
    cells = list(dict.fromkeys(all_cells(profile)))
    means = rng.permutation(len(cells)) / len(cells) * 90 + 5
    table = pd.DataFrame(
        {
            "dataset": [cell.dataset for cell in cells],
            "encoder": [cell.encoder for cell in cells],
            "head": [cell.head for cell in cells],
            "J": [cell.prototypes if cell.head.startswith("proto") else np.nan for cell in cells],
            "cls_mode": [cell.cls_mode for cell in cells],
            "mean": means,
            "sd": rng.uniform(0.1, 3, len(cells)),
        }
    )
    counts = set(prototype_count_cells(profile))
    main = table["J"].isna() | (table["J"] == table["dataset"].map(lambda name: load_dataset(name).prototypes))
    write_table(figure_root() / "pocket" / "benchmark.csv", table[main], "made up")
    ablation = table[[cell in counts for cell in cells]]
    write_table(figure_root() / "pocket" / "prototype_counts.csv", ablation.drop(columns="cls_mode"), "made up")
    tuned = pd.DataFrame([(profile.dataset, "pocket-eat", FINE_TUNING, 99.0, 0.5)])
    write_table(
        figure_root() / "pocket" / "fine_tuning.csv",
        tuned.set_axis(["dataset", "encoder", "head", "mean", "sd"], axis=1),
        "made up",
    )
    return table.assign(
        dataset=[load_dataset(name).manifest["title"] for name in table["dataset"]],
        encoder=[ENCODERS[name].label for name in table["encoder"]],
        kind=[ENCODERS[name].kind for name in table["encoder"]],
        default=[mode == ENCODERS[name].cls for mode, name in zip(table["cls_mode"], table["encoder"], strict=True)],
        text=[f"{mean:.1f}±{sd:.1f}" for mean, sd in zip(table["mean"], table["sd"], strict=True)],
    )


def test_every_cell_that_was_run_stands_in_a_table(rows):
    tables = [paper_table(number, "pocket") for number in (4, 5, 6)]
    further, by_count = further_table("pocket"), paper_table(7, "pocket")
    usual = {
        load_dataset(name).manifest["title"]: load_dataset(name).prototypes for name in load_profile("pocket").datasets
    }
    for row in rows.itertuples():
        if not np.isnan(row.J) and usual[row.dataset] != row.J:
            found = by_count.loc[(row.encoder, row.head), f"{row.dataset}<br>J = {row.J:g}"]
        elif not row.default:
            found = further.loc[(row.dataset, row.encoder), "linear, mean token"]
        else:
            place = (row.dataset, row.encoder)
            table = next((t for t in tables if place in t.index and row.head in t), further)
            found = table.loc[place, row.head]
        assert plain(found) == row.text, row
    assert len(rows) == len(all_cells(load_profile("pocket")))


def test_what_was_not_run_is_a_dash(rows):
    table, profile = paper_table(4, "pocket"), load_profile("pocket")
    heads = table.map(plain) != NOTHING
    titles = {load_dataset(name).manifest["title"]: name for name in profile.datasets}
    names = {entry.label: name for name, entry in ENCODERS.items()}
    for (title, label), row in heads.iterrows():
        ran = [profile.runs(names[label], titles[title], head) for head in row.index]
        assert row.tolist() == ran
    cells = [c for c in main_cells(profile) if profile.group(c.dataset).name == "general"]
    assert heads.sum().sum() == sum(c.cls_mode == ENCODERS[c.encoder].cls for c in cells)


def test_table_2_holds_self_supervised_encoders_in_the_papers_order_and_table_4_the_controls_last(rows):
    two, four = paper_table(2, "pocket"), paper_table(4, "pocket")
    labels = [f"{name} (pocket)" for name in dict.fromkeys(published.table(2)["encoder"])]
    assert list(dict.fromkeys(two.index.get_level_values("encoder"))) == labels
    order = [f"{name} (pocket)" for name in dict.fromkeys(published.table(4)["encoder"])]
    assert list(dict.fromkeys(four.index.get_level_values("encoder"))) == [
        *order,
        "random ViT (control)",
        "log-mel patches (control)",
    ]
    assert list(two.columns) == [head for head in HEADS if head != "protofloat"]
    assert (two == four.loc[two.index]).all(axis=None)


def test_table_3_sets_single_label_beside_many_classes_and_fine_tuning_is_no_probe(rows):
    table = paper_table(3, "pocket")
    assert list(dict.fromkeys(dataset for dataset, _ in table)) == ["Single sounds", "Short sounds", "Many sounds"]
    assert table.loc["EAT (pocket)", ("Many sounds", FINE_TUNING)] == "99.0±0.5"
    assert table.loc["A-MAE (pocket)", ("Many sounds", FINE_TUNING)] == NOTHING
    assert len(table) == 6 and not any("+" in name for name in table.index)
    for _, row in table.iterrows():
        probes = {head: text for (dataset, head), text in row.items() if dataset == "Many sounds"}
        means = {head: float(plain(text).split("±")[0]) for head, text in probes.items() if head != FINE_TUNING}
        assert probes[max(means, key=means.get)].startswith("**")


def test_table_7_marks_the_main_j_and_gives_linear_once_a_dataset(rows):
    table = paper_table(7, "pocket")
    bold = table.apply(lambda column: column.str.startswith("**"))
    assert bold.sum().sum() == 3 and bold["Ten urban sounds<br>J = 20"].sum() == 3
    linear = table.xs("linear", level="head")
    assert (linear != "").sum().sum() == 1


def test_the_best_head_is_bold_the_second_in_italics_and_ties_share():
    means = {"linear": 50.0, "mlp": 61.04, "mhca": 61.0, "proto": 60.0, "protobin": np.nan}
    part = pd.DataFrame([("d", "e", head, mean, 0.25) for head, mean in means.items() if not np.isnan(mean)])
    table = by_head(part.set_axis(["dataset", "encoder", "head", "mean", "sd"], axis=1), (1, 1))
    assert table.iloc[0].to_dict() == {
        "linear": "50.0±0.2",
        "mlp": "**61.0±0.2**",
        "mhca": "**61.0±0.2**",
        "proto": "*60.0±0.2*",
    }


# ---- the published ones ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 4, 5, 6])
def test_published_tables_hold_the_papers_numbers_to_the_digit(number):
    table, rows = published_table(number), published.table(number)
    digits = 1 if number == 2 else 2
    assert table.size == len(rows)
    for row in rows.itertuples():
        assert plain(table.loc[(row.dataset, row.encoder), row.head]) == f"{row.mean:.2f}±{row.std:.{digits}f}"
    best = published.wide(number).idxmax(axis=1)
    assert all(table.loc[place, head].startswith("**") for place, head in best.items())


def test_published_tables_3_and_7_hold_every_number():
    three, seven = published_table(3), published_table(7)
    for row in published.table(3).itertuples():
        assert float(plain(three.loc[row.encoder, (row.dataset, row.head)])) == row.mean
    for row in published.table(7).itertuples():
        J = published.main_prototypes(row.dataset) if np.isnan(row.J) else int(row.J)
        assert float(plain(seven.loc[(row.encoder, row.head), f"{row.dataset}<br>J = {J}"])) == row.mean
    bold = seven.apply(lambda column: column.str.startswith("**"))
    assert bold.sum().sum() == 5 * 3 * 3  # encoders, datasets, kinds of prototypes


def test_tables_8_and_9_have_the_papers_rows_and_ours(rows):
    theirs, ours = published_table(8), paper_table(8, "pocket")
    assert len(theirs) == 14 and theirs.loc[("multi-label, general", "desed"), "validation"] == NOTHING
    assert theirs.loc[("single-label", "sc2"), "train"] == "84,848"
    assert len(ours) == len(load_profile("pocket").datasets)
    clips = load_profile("pocket").clips_of("many-sounds")
    assert ours.xs("Many sounds", level="dataset").iloc[0].to_dict() == {
        "train": str(clips["train"]),
        "validation": str(clips["val"]),
        "test": str(clips["test"]),
        "classes": "49",
        "clip length (s)": "10",
        "made in the manner of": "as20k",
    }
    nine = published_table(9)
    assert nine.loc["mhca", "our head at that shape"] == "1,188,106" and nine.loc["mhca", "printed (urban)"] == "1.2M"
    assert list(nine.index) == list(published.table(9)["head"])
    assert list(paper_table(9, "pocket").index) == list(HEADS)


@pytest.mark.parametrize("shape", [((31, 8), 128, 49, 10), ((6, 1), 96, 3, 2)])
@pytest.mark.parametrize("head", HEADS)
def test_a_formula_gives_the_count_of_the_module(head, shape):
    (S_t, S_f), D, C, J = shape
    symbols = {"N": S_t * S_f, "F": S_f, "D": D, "C": C, "K": J * C, "H": round(2 * D / 3), "Dh": D // 2, "Q": 32}
    assert eval(FORMULAS[head], {}, symbols) == count(head, *shape)
    assert "*" not in formula(head)


# ---- pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(2, 10))
def test_a_table_becomes_markdown_with_one_width_and_names_a_dataset_once(rows, number):
    for table in (paper_table(number, "pocket"), published_table(number)):
        lines = as_markdown(table).splitlines()
        assert len(lines) == len(table) + 2
        assert len({len(re.findall(r"\|", line)) for line in lines}) == 1
        if table.index.nlevels == 2:
            firsts = [line.split("|")[1].strip() for line in lines[2:]]
            assert len([name for name in firsts if name]) == table.index.get_level_values(0).nunique()


def test_the_notebook_writes_each_of_our_tables_beside_the_figures(rows, capsys):
    runpy.run_path(str(NOTEBOOKS / "14_the_tables.py"))
    for number in NUMBERS:
        text = (figure_root() / "pocket" / f"table_{number}.md").read_text(encoding="utf-8")
        first, _, table = text.partition("\n\n")
        assert table == as_markdown(paper_table(number, "pocket")) + "\n"
        assert first.startswith(f"**Table {number}. ") and "`pocket`" in first and "stand-ins" in first
        assert ("3 seeds" in first) == (number < 8)


def test_a_profile_without_such_a_dataset_has_an_empty_table_and_says_so(rows):
    benchmark = figure_root() / "pocket" / "benchmark.csv"
    table = pd.read_csv(benchmark, comment="#")
    few = table[table["dataset"].isin(load_profile("esc10").datasets)]
    assert few.empty  # so that esc10 needs results of its own
    made = pd.DataFrame(
        [("esc10-soundscapes", "pocket-eat", "linear", np.nan, "native", 50.0, 1.0)],
        columns=["dataset", "encoder", "head", "J", "cls_mode", "mean", "sd"],
    )
    write_table(figure_root() / "esc10" / "benchmark.csv", made, "made up")
    for number in (5, 6, 3):
        assert isinstance(paper_table(number, "esc10"), pd.DataFrame)
    paper, none = average_gains(5, "esc10")
    assert len(paper) and none.empty
    assert paper_table(5, "esc10").empty and "no dataset" in as_markdown(paper_table(5, "esc10"))


def test_gains_are_averages_over_datasets_and_base_encoders(rows):
    paper, ours = average_gains(2, "pocket")
    scores = published.wide(2)
    expected = (scores["protobin"] - scores["linear"]).mean()
    assert paper.set_index("head")["gain"]["protobin"] == pytest.approx(expected)
    base = rows[(rows["kind"] == "base") & rows["default"]]
    base = base[base["dataset"].isin(["Many sounds", "Five scenes", "Ten urban sounds"])]
    usual = base["dataset"].map({"Many sounds": 10}).fillna(20)
    wide = base[base["J"].isna() | (base["J"] == usual)].pivot(
        index=["dataset", "encoder"], columns="head", values="mean"
    )
    assert ours.set_index("head")["gain"]["mhca"] == pytest.approx((wide["mhca"] - wide["linear"]).mean(), abs=1e-3)
    assert ours.set_index("head")["gain"]["conv"] == pytest.approx((wide["conv"] - wide["linear"]).mean(), abs=1e-3)


def test_asking_for_what_is_not_there_is_one_sentence(rows):
    with pytest.raises(InputError, match="Unknown table in the paper's form '10'"):
        published_table(10)
    with pytest.raises(InputError, match="Unknown profile"):
        paper_table(2, "pockets")
    with pytest.raises(InputError, match="no figure table"):
        paper_table(2, "smoke")
    stale = pd.read_csv(figure_root() / "pocket" / "benchmark.csv", comment="#").assign(dataset="soundscapes")
    write_table(figure_root() / "pocket" / "benchmark.csv", stale, "of an older profile")
    with pytest.raises(InputError, match="other datasets or encoders than the profile has now; run `make figures"):
        paper_table(4, "pocket")
