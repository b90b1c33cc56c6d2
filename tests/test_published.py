"""The paper's tables as data: complete, right to the digit, one spelling of every name; figures drawn from them."""

import numpy as np
import pandas as pd
import pytest

from lib import published
from lib.claims import verdicts
from lib.errors import InputError
from lib.figures import draw_figure, read_table, save_figure, write_table
from lib.heads import HEADS
from lib.paths import FIGURES, MANIFESTS
from lib.published_figures import NUMBERS, figure_table, rank_readings
from lib.rankings import MARGINS, encoder_ranking, win_matrix, win_ranks
from lib.side_by_side import coverage, protocol_differences, side_by_side

# rows, sum of means and of standard deviations in hundredths, sum of row number x mean (a swap moves it), no deviation
CHECKSUMS = {
    2: (330, 1_971_067, 14_110, 393_894_742, 0),
    3: (60, 386_540, 0, 11_838_190, 60),
    4: (450, 2_883_644, 17_709, 769_202_397, 0),
    5: (378, 596_408, 21_263, 115_694_548, 0),
    6: (54, 455_875, 3_052, 12_871_712, 0),
    7: (195, 1_219_465, 0, 122_938_329, 195),
}


@pytest.mark.parametrize("number", CHECKSUMS)
def test_no_digit_of_a_table_of_results_has_moved(number):
    rows = published.table(number)
    hundredths = (100 * rows[["mean", "std"]]).round().fillna(0).astype(int)
    placed = int(np.dot(hundredths["mean"], np.arange(1, len(rows) + 1)))
    found = (len(rows), *hundredths.sum(), placed, int(rows["std"].isna().sum()))
    assert found == CHECKSUMS[number]
    assert (rows["table"] == number).all() and tuple(rows.columns) == published.COLUMNS


@pytest.mark.parametrize("number", published.RESULT_TABLES)
def test_a_table_of_results_holds_every_cell_once(number):
    rows = published.table(number)
    assert not rows.duplicated(["dataset", "encoder", "head", "J"]).any()
    grid = rows.groupby("head").apply(lambda part: len(part), include_groups=False)
    per_head = rows[["dataset", "encoder"]].drop_duplicates().shape[0]
    counts = {7: {"linear": per_head, "proto": 4 * per_head, "protobin": 4 * per_head, "protofloat": 4 * per_head}}
    assert grid.to_dict() == counts.get(number, dict.fromkeys(grid.index, per_head))


def test_names_are_spelled_one_way_in_all_tables():
    for number in published.RESULT_TABLES:
        rows = published.table(number)
        assert set(rows["dataset"]) <= set(published.DATASETS)
        assert set(rows["encoder"]) <= set(published.ENCODERS)
        assert set(rows["head"]) <= {*HEADS, published.FINE_TUNING}
        assert set(rows["metric"]) <= {"mAP", "accuracy"}
        accuracy = rows["dataset"].isin(published.CONTROLS)
        assert ((rows["metric"] == "accuracy") == accuracy).all()
    assert set(published.table(1)["encoder"]) == set(published.BASE)
    assert set(published.table(8)["dataset"]) == set(published.DATASETS)
    assert set(published.table(9)["head"]) == set(HEADS) - {"protofloat"}


def test_tables_of_the_text_are_complete():
    assert [len(published.table(number)) for number in (1, 8, 9, 10)] == [6, 14, 11, 7]
    sizes = published.table(8).set_index("dataset")
    assert sizes[["train", "validation", "test", "classes"]].sum().astype(int).tolist() == [
        216_607,
        15_732,
        157_259,
        1_261,
    ]
    assert published.table(9)["parameters"].sum() == 12_797_100
    low_high = published.search_ranges()[["low", "high"]].to_numpy().tolist()
    assert low_high == [[1e-4, 7e-3], [2e-3, 8e-2], [1e-5, 5e-4]]


def test_values_stand_where_they_are_in_the_paper():
    """The first and last number of each dataset and table, read in the paper by eye."""
    four = published.wide(4)
    assert four.loc[("as20k", "A-MAE"), "linear"] == 8.36 and four.loc[("urban", "SSLAM+"), "protobin"] == 90.93
    assert four.loc[("fsd50k", "A-MAE"), "linear"] == 19.71 and four.loc[("desed", "Dasheng"), "abmilp"] == 76.48
    assert four.loc[("spass", "SSLAM+"), "conv"] == 87.56 and four.loc[("urban", "BEATs+"), "protobin"] == 91.25
    five = published.wide(5)
    assert five.loc[("hsn", "SSLAM+"), "linear"] == 19.31 and five.loc[("nbp", "A-MAE"), "linear"] == 9.82
    assert five.loc[("uhh", "BEATs+"), "protobin"] == 17.27 and five.loc[("per", "Dasheng"), "proto"] == 10.70
    six, seven = published.wide(6), published.table(7).set_index(["dataset", "encoder", "head", "J"])["mean"]
    assert six.loc[("sc2", "A-MAE"), "linear"] == 12.44 and six.loc[("esc50", "SSLAM+"), "protobin"] == 96.75
    assert seven["as20k", "SSLAM", "protobin", 20] == 32.10 and seven["esc50", "ASiT", "proto", 5] == 78.75
    two = published.wide(2)
    assert two.loc[("desed", "SSLAM"), "conv"] == 85.55 and two.loc[("as20k", "A-MAE"), "linpre"] == 16.49


def test_main_results_of_table_7_are_those_with_the_stated_number_of_prototypes():
    rows = published.means(7).set_index(["dataset", "encoder", "head"])["mean"]
    assert rows["as20k", "EAT", "protobin"] == 31.67  # J = 10
    assert rows["urban", "EAT", "protobin"] == 89.24  # J = 20


def test_a_table_that_is_handed_out_is_a_copy():
    mine = published.table(2)
    mine["mean"] = 0.0
    assert published.table(2)["mean"].min() > 0


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: published.table(11), "Unknown table of the paper '11'"),
        (lambda: published.means(8), "Table 8 of the paper holds no results"),
        (lambda: published.means(2, ("BEAT",)), "Did you mean 'BEATs'"),
        (lambda: published.facts("cls"), "Unknown fact 'cls'"),
        (lambda: figure_table(3), "Unknown figure that the paper's tables can draw '3'"),
        (lambda: side_by_side(9, "pocket"), "Table 9 of the paper holds no results"),
        (lambda: win_matrix(published.means(2), ["linear"], "two sd"), "Unknown margin of a win 'two sd'"),
    ],
)
def test_asking_for_what_is_not_there_is_one_sentence(ask, sentence):
    with pytest.raises(InputError, match=sentence.replace("(", r"\(")):
        ask()


def test_a_missing_table_says_how_to_get_it_back(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "MANIFESTS", tmp_path)
    published._read.cache_clear()
    with pytest.raises(InputError, match="'table_4.csv' is missing in data_manifests/paper; restore it with git"):
        published.table(4)
    published._read.cache_clear()


# ---- figures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_committed_published_figures_are_those_of_the_tables(number, tmp_path):
    """The table byte for byte; the picture at least drawn again from it without complaint."""
    name = f"figure_{number}"
    write_table(tmp_path / f"{name}.csv", *figure_table(number))
    assert (tmp_path / f"{name}.csv").read_bytes() == (FIGURES / "published" / f"{name}.csv").read_bytes()
    save_figure(draw_figure(number, read_table(tmp_path / f"{name}.csv")), tmp_path / name)
    assert (tmp_path / f"{name}.png").stat().st_size > 20_000


def test_committed_claims_are_those_of_the_tables(tmp_path):
    write_table(tmp_path / "claims.csv", verdicts(), "every sentence, the number found, the verdict")
    assert (tmp_path / "claims.csv").read_bytes() == (FIGURES / "published" / "claims.csv").read_bytes()


def test_the_stated_ranks_of_figure_8_come_out_with_ten_heads_and_any_sd():
    readings = rank_readings().set_index(["heads", "head"])[["base", "supervised"]]
    assert len(readings.loc[10, "linear"]) == len(MARGINS)
    assert (readings.loc[(10, "linear")].to_numpy() == [10, 6]).all()
    assert (readings.loc[(10, "mlp")].to_numpy() == [7, 3]).all()
    assert set(readings.loc[10].loc[["proto", "protobin"]].to_numpy().ravel()) == {1, 2}
    assert (readings.loc[(11, "mlp"), "base"] == 8).all()


def test_a_win_needs_more_than_the_opponents_sd():
    means = pd.DataFrame(
        [("d", "e", "linear", 50.0, 4.0), ("d", "e", "mlp", 53.0, 1.0)],
        columns=["dataset", "encoder", "head", "mean", "sd"],
    )
    wins = {margin: win_matrix(means, ["linear", "mlp"], margin)["wins"].tolist() for margin in MARGINS}
    assert wins == {margin: [0, int(margin == "own sd")] for margin in MARGINS}
    assert win_ranks(means, ["linear", "mlp"], "own sd").set_index("head")["rank"].to_dict() == {"mlp": 1, "linear": 2}


def test_figure_6_ranks_asit_second_under_linear_and_last_under_protobin():
    table = encoder_ranking(published.means(2)).set_index(["encoder", "head"])["rank"]
    assert (table["ASiT", "linear"], table["ASiT", "protobin"]) == (2, 6)


# ---- published beside rerun --------------------------------------------------------------------------------------


@pytest.fixture
def committed_results(monkeypatch):
    """Read the results that are committed, not those of a test's own figure folder."""
    monkeypatch.delenv("UNMUTE_FIGURES")


@pytest.mark.usefixtures("committed_results")
@pytest.mark.parametrize("profile", ["pocket", "esc10"])
@pytest.mark.parametrize("number", published.RESULT_TABLES)
def test_every_published_number_stands_beside_its_rerun_or_a_reason(number, profile):
    beside = side_by_side(number, profile)
    assert len(beside) == len(published.table(number))
    np.testing.assert_array_equal(beside["published"], published.table(number)["mean"])
    none = beside["rerun"].isna()
    assert beside.loc[none, "words"].str.startswith("no rerun: ").all()
    assert not beside.loc[~none, "words"].str.startswith("no rerun").any()


@pytest.mark.usefixtures("committed_results")
def test_a_rerun_is_the_number_of_the_profiles_own_table():
    beside = side_by_side(2, "esc10").set_index(["dataset", "encoder", "head"])
    ours = read_table(FIGURES / "esc10" / "benchmark.csv").set_index(["dataset", "encoder", "head", "cls_mode"])
    for head in ("linear", "protobin"):
        expected = ours.loc[("esc10-soundscapes", "pocket-amae", head, "native")]
        assert beside.loc[("urban", "A-MAE", head), "rerun"] == expected["mean"]
    assert beside.loc[("urban", "A-MAE", "protobin"), "J"] == 20


@pytest.mark.usefixtures("committed_results")
def test_coverage_counts_reruns_and_protocol_differences_name_the_size_of_the_encoder():
    counts = coverage("pocket").set_index("table")["rerun"]
    heads, costly, base, datasets = 11, 3, 6, 3
    costly_bases = 2  # A-MAE and EAT; the third is supervised
    assert counts[2] == datasets * (base * (heads - costly) + costly_bases * costly)
    assert counts[5] == 0 and counts[6] == 2 * 9 * 3
    differences = protocol_differences("pocket").set_index("what")
    assert "1.2 M" in differences.loc["encoder", "rerun"]
    assert "epochs" not in differences.index  # the same in both


def test_the_folder_of_the_papers_tables_holds_nothing_else():
    names = {path.name for path in (MANIFESTS / "paper").iterdir()}
    assert names == {f"table_{n}.csv" for n in published.TABLES} | {"search_ranges.csv", "facts.csv"}
