"""Cells on disk: what is stale is run again, what is not stays, and scratch can be thrown away."""

import shutil
import sys
import textwrap
from dataclasses import replace

import pytest

from lib import profiles, provenance, results
from lib.errors import InputError
from lib.paths import scratch
from lib.profiles import load_profile
from lib.results import all_cells, gather, main_cells, read_cell, read_results, results_path, run_cells
from lib.store import build_store

TINY = replace(
    profiles.PROFILES["smoke"],
    name="tiny",
    encoders=("log-mel",),
    clips={"train": 12, "val": 8, "test": 8},
    heads=("linear", "mlp", "protobin"),
    ablation_encoders=(),
    mean_cls=(),
    epochs=1,
)


@pytest.fixture
def tiny(monkeypatch):
    """A profile of five cells on a dozen clips, with its store."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    build_store(TINY.encoders, TINY.dataset, TINY.clips)
    return TINY


def run(show=False):
    return run_cells("tiny", all_cells(TINY), show=show)


def test_cells_run_once_and_deleting_scratch_gives_the_same_bytes(tiny):
    assert len(run()) == 5 and run() == []
    gather("tiny")
    first = results_path("tiny").read_bytes()
    shutil.rmtree(scratch())
    build_store(tiny.encoders, tiny.dataset, tiny.clips)
    run(), gather("tiny")
    assert results_path("tiny").read_bytes() == first


def test_editing_one_head_runs_only_its_cells_again(tiny, monkeypatch, capsys):
    run()
    real = results.definition_version
    monkeypatch.setattr(
        results, "definition_version", lambda module, name: "edited" if name == "Mlp" else real(module, name)
    )
    assert [key.split("--")[2] for key in run(show=True)] == ["mlp"]
    assert "4 of 5 cells are up to date" in capsys.readouterr().out


def test_a_changed_protocol_runs_every_cell_again_and_says_why(tiny, monkeypatch, capsys):
    run()
    monkeypatch.setitem(profiles.PROFILES, "tiny", replace(TINY, batch_size=6))
    assert len(run(show=True)) == 5
    assert "5 to run: protocol changed" in capsys.readouterr().out


def test_a_damaged_cell_is_refused_and_then_alone_run_again(tiny):
    run()
    cell = main_cells(tiny)[1]
    path = results.cell_path(tiny, cell)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=rf"cell '{cell.key}' of profile 'tiny' is missing or damaged; run notebooks"):
        read_cell(tiny, cell)
    assert run() == [cell.key]


def test_every_row_says_what_was_run(tiny):
    run()
    table = gather("tiny")
    assert list(table.columns) == results.COLUMNS
    assert (table["value"].between(0, 100)).all() and table["parameters"].gt(0).all()
    finals = table[table["split"] == "test"]
    assert finals.groupby(["head", "J"], dropna=False).size().eq(len(tiny.seeds)).all()
    assert table["J"].notna().equals(table["head"].str.startswith("proto"))


def test_results_that_are_not_there_say_how_to_make_them(tiny):
    with pytest.raises(InputError, match="no results of profile 'tiny'; run `make figures PROFILE=tiny`"):
        read_results("tiny")


def test_an_unknown_profile_names_the_known_ones():
    known = ", ".join(profiles.PROFILES)
    with pytest.raises(InputError, match=rf"Unknown profile 'pockets'; choose one of: {known}\. Did you mean 'pocket'"):
        load_profile("pockets")


def test_all_profiles_ask_for_clips_that_their_dataset_has():
    from lib.data.datasets import load_dataset

    for profile in profiles.PROFILES.values():
        for split, count in profile.clips.items():
            load_dataset(profile.dataset).check_count(split, count)


SOURCE = '''
"""A module."""

SCALE = 2


def shared(x):
    return x * SCALE


class First:
    """Documented."""

    def pool(self, x):
        return shared(x)


class Second:
    def pool(self, x):
        return x + 1
'''


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("return x + 1", "return x + 2", {"Second"}),
        ("SCALE = 2", "SCALE = 3", {"First"}),
        ("return x * SCALE", "return SCALE * x", {"First"}),
        ("Documented.", "Documented better.", set()),
        ("return x + 1", "return x + 1  # a comment", set()),
    ],
)
def test_a_definition_changes_its_version_with_its_own_code_and_what_it_uses(tmp_path, monkeypatch, old, new, changed):
    name = f"editable_{abs(hash((old, new)))}"
    monkeypatch.syspath_prepend(tmp_path)
    versions = []
    for text in (SOURCE, SOURCE.replace(old, new)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        for cached in (provenance.definition_version, provenance._definitions):
            cached.cache_clear()
        versions.append({cls: provenance.definition_version(name, cls) for cls in ("First", "Second")})
    assert {cls for cls in versions[0] if versions[0][cls] != versions[1][cls]} == changed
    sys.modules.pop(name, None)
