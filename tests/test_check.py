"""What stands in the README and the figures follows from the stored results."""

import pandas as pd
import pytest

from lib import check
from lib.check import SHOWN, readme_with_tables, stale_derivations
from lib.errors import InputError
from lib.figures import read_table, write_table
from lib.paths import FIGURES


def test_the_readme_shows_the_tables_that_follow_from_the_results():
    assert check.readme_is_current()


def test_a_readme_that_tells_other_numbers_is_noticed(tmp_path, monkeypatch):
    text = check.README.read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text.replace("| protobin | ", "| protobin | 99.9 "), encoding="utf-8")
    monkeypatch.setattr(check, "README", tmp_path / "README.md")
    assert not check.readme_is_current()


def test_a_result_that_moved_by_more_than_the_tolerance_is_named(monkeypatch):
    before = pd.read_csv(FIGURES / "pocket" / "results.csv")
    before.loc[before["head"] == "mhca", "value"] += check.TOLERANCE + 0.1
    before.loc[before["head"] == "ep", "value"] += check.TOLERANCE - 0.1
    monkeypatch.setattr(check, "committed", lambda path: before)
    moved = check.moved_results("pocket")
    assert len(moved) == 3 and all("/mhca/" in line for line in moved)


@pytest.mark.parametrize("name", SHOWN)
def test_the_committed_benchmark_follows_from_the_committed_results(name):
    assert stale_derivations(name) == []


def test_a_changed_result_is_noticed(tmp_path, monkeypatch):
    results = pd.read_csv(FIGURES / "pocket" / "results.csv")
    results.loc[(results["split"] == "test") & (results["head"] == "mhca"), "value"] += 0.5
    (tmp_path / "pocket").mkdir()
    results.to_csv(tmp_path / "pocket" / "results.csv", index=False)
    write_table(tmp_path / "pocket" / "benchmark.csv", read_table(FIGURES / "pocket" / "benchmark.csv"), "note")
    monkeypatch.setattr(check, "FIGURES", tmp_path)
    assert {line.split()[1] for line in stale_derivations("pocket")} == {"mhca"}


def test_a_readme_without_the_markers_is_a_clear_error():
    with pytest.raises(InputError, match="no place for 'scores:esc10'"):
        readme_with_tables("# Unmute\n")
