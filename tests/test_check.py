"""What stands in the README and the figures follows from the stored results."""

import re

import pandas as pd
import pytest

from lib import check
from lib.check import computed_profiles, readme_with_tables, stale_derivations
from lib.errors import InputError
from lib.figures import read_table, write_table
from lib.paths import FIGURES
from lib.published import FINE_TUNING


def test_the_readme_shows_the_tables_that_follow_from_the_results():
    assert check.readme_is_current()


def test_a_readme_that_tells_other_numbers_is_noticed(tmp_path, monkeypatch):
    text = check.README.read_text(encoding="utf-8")
    monkeypatch.setattr(check, "README", tmp_path / "README.md")
    for before, after in (("| EAT (pocket) | ", "| EAT (pocket) | 99.9 "), ("`protobin` against", "`proto` against")):
        assert before in text
        (tmp_path / "README.md").write_text(text.replace(before, after), encoding="utf-8")
        assert not check.readme_is_current()


def test_a_result_that_moved_by_more_than_the_tolerance_is_named(monkeypatch):
    before = pd.read_csv(FIGURES / "pocket" / "results.csv")
    before.loc[before["head"] == "mhca", "value"] += check.TOLERANCE + 0.1
    before.loc[before["head"] == "ep", "value"] += check.TOLERANCE - 0.1
    monkeypatch.setattr(check, "committed", lambda path: before)
    moved = check.moved_results("pocket")
    cells = before[(before["split"] == "test") & (before["head"] == "mhca")].groupby(check.CELL).ngroups
    assert len(moved) == cells > 0 and all("/mhca/" in line for line in moved)


def test_every_profile_whose_results_are_committed_with_a_comparison_is_checked():
    committed = {path.parent.name for path in FIGURES.glob("*/benchmark.csv")}
    assert {"pocket", "esc10", "encoders", "encoders-esc10"} <= set(computed_profiles()) == committed - {"smoke"}


@pytest.mark.parametrize("name", computed_profiles())
def test_the_committed_means_follow_from_the_committed_results(name):
    assert stale_derivations(name) == []


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Copy what is committed of profile `pocket`, give it runs of fine-tuning, and have the check look there."""
    (tmp_path / "pocket").mkdir()
    for name in check.DERIVED:
        write_table(tmp_path / "pocket" / f"{name}.csv", read_table(FIGURES / "pocket" / f"{name}.csv"), "note")
    results = pd.read_csv(FIGURES / "pocket" / "results.csv")
    results = results[results["head"] != FINE_TUNING]
    tuned = {"dataset": "many-sounds", "encoder": "pocket-eat", "head": FINE_TUNING, "cls_mode": "native"}
    runs = pd.DataFrame([tuned | {"split": "test", "value": value} for value in (10.0, 14.0)])
    monkeypatch.setattr(check, "FIGURES", tmp_path)
    return tmp_path / "pocket", pd.concat([results, runs], ignore_index=True)


@pytest.mark.parametrize(
    ("head", "tables"),
    [("mhca", {"benchmark"}), ("proto", {"benchmark", "prototype_counts"}), ("linear", {"benchmark"})],
)
def test_a_changed_result_is_noticed_in_every_table_that_is_made_of_it(copied, head, tables):
    folder, results = copied
    results = results[results["head"] != FINE_TUNING]  # not there yet: that is no fault
    results.loc[(results["split"] == "test") & (results["head"] == head), "value"] += 0.5
    results.to_csv(folder / "results.csv", index=False)
    found = [re.fullmatch(r"figures/pocket/(\w+)\.csv: (\S+) on .*", line) for line in stale_derivations("pocket")]
    assert {match[1] for match in found} == tables and {match[2] for match in found} == {head}


def test_fine_tuning_is_held_against_its_runs_as_soon_as_they_are_among_the_results(copied):
    folder, results = copied
    results.to_csv(folder / "results.csv", index=False)
    assert stale_derivations("pocket") == ["figures/pocket/fine_tuning.csv: fine-tuning on pocket-eat and many-sounds"]
    table = read_table(folder / "fine_tuning.csv").assign(mean=12.0, sd=8**0.5)
    write_table(folder / "fine_tuning.csv", table, "note")
    assert stale_derivations("pocket") == []


def test_runs_of_fine_tuning_that_are_new_to_the_table_have_not_moved(copied, monkeypatch):
    folder, results = copied
    results.to_csv(folder / "results.csv", index=False)
    monkeypatch.setattr(check, "committed", lambda path: results[results["head"] != FINE_TUNING])
    (folder.parent / "figures").symlink_to(folder.parent)
    monkeypatch.setattr(check, "REPOSITORY", folder.parent)
    assert check.moved_results("pocket") == []
    monkeypatch.setattr(check, "committed", lambda path: results.assign(value=results["value"] + 9))
    assert any(FINE_TUNING in line for line in check.moved_results("pocket"))


def test_a_readme_without_the_markers_is_a_clear_error():
    with pytest.raises(InputError, match="no place for 'scores:esc10'"):
        readme_with_tables("# Unmute\n")
