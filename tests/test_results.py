"""Cells on disk: what is stale is run again, what is not stays, and scratch can be thrown away."""

import contextlib
import shutil
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib import embed, profiles, provenance, results, store, streaming
from lib.cluster import Workers
from lib.comparisons import cell_draws, draws_path
from lib.encoders import frozen
from lib.engine import StackedTraining
from lib.errors import Diverged, InputError
from lib.paths import scratch
from lib.profiles import PROFILES, PROTOTYPE_HEADS, load_profile
from lib.result_files import read_result, write_result
from lib.results import (
    all_cells,
    fill_stores,
    gather,
    main_cells,
    make_cell,
    read_cell,
    read_results,
    results_path,
    run_cells,
)
from lib.search import search
from lib.store import Embeddings

# The datasets of the others are official copies, which nobody needs for the tests.
WITHOUT_COPIES = [name for name, profile in PROFILES.items() if profile.groups[0].clips]
TINY = replace(
    profiles.PROFILES["smoke"],
    name="tiny",
    encoders=("log-mel",),
    groups=(
        profiles.general(("soundscapes",), 12, 8, 8, ("linear", "mlp", "protobin")),
        replace(profiles.bioacoustic("forest-few-shot", 10, 8, 8), heads=("linear", "protobin")),
    ),
    ablation_encoders=(),
    control_heads=(),
    mean_cls=(),
    epochs=1,
)
CELLS = 4 + 3  # protobin brings protofloat


@pytest.fixture
def tiny(monkeypatch):
    """A profile of seven cells on two datasets of a dozen clips."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    return TINY


def run(show=False):
    return run_cells("tiny", all_cells(TINY), show=show)


def test_cells_run_once_and_deleting_scratch_gives_the_same_bytes(tiny):
    assert len(run()) == CELLS and run() == []
    gather("tiny")
    folder = results_path("tiny").parent
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"results.csv", "trials.csv.gz"}
    shutil.rmtree(scratch())
    run(), gather("tiny")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_editing_one_head_runs_only_its_cells_again(tiny, monkeypatch, capsys):
    run()
    real = results.definition_version
    monkeypatch.setattr(
        results, "definition_version", lambda module, name: "edited" if name == "Mlp" else real(module, name)
    )
    assert [key.split("--")[2] for key in run(show=True)] == ["mlp"]
    assert f"{CELLS - 1} of {CELLS} cells are up to date" in capsys.readouterr().out


def test_a_changed_protocol_runs_every_cell_again_and_says_why(tiny, monkeypatch, capsys):
    run()
    monkeypatch.setitem(profiles.PROFILES, "tiny", replace(TINY, batch_size=6))
    assert len(run(show=True)) == CELLS
    assert f"{CELLS} to run: protocol changed" in capsys.readouterr().out


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
    assert finals.groupby(["dataset", "head", "J"], dropna=False).size().eq(len(tiny.seeds)).all()
    assert table["J"].notna().equals(table["head"].str.startswith("proto"))


def test_trials_lie_beside_the_results_and_together_they_are_the_whole_table(tiny):
    run()
    table, folder = gather("tiny"), results_path("tiny").parent
    runs, trials = read_results("tiny"), results.pd.read_csv(folder / "trials.csv.gz", dtype={"head_options": str})
    assert set(runs["stage"]) == {"seeds", "final"} and set(trials["stage"]) == {"search"}
    assert list(runs.columns) == list(trials.columns) == list(table.columns)
    assert sorted([*runs["value"], *trials["value"]]) == pytest.approx(sorted(table["value"]))


def test_results_that_are_not_there_say_how_to_make_them(tiny):
    with pytest.raises(InputError, match="no results of profile 'tiny'; run `make figures PROFILE=tiny`"):
        read_results("tiny")


def test_an_unknown_profile_names_the_known_ones():
    known = ", ".join(profiles.PROFILES)
    with pytest.raises(InputError, match=rf"Unknown profile 'pockets'; choose one of: {known}\. Did you mean 'pocket'"):
        load_profile("pockets")


def test_all_profiles_ask_for_clips_that_their_dataset_has():
    from lib.data.datasets import load_dataset

    for profile in (profiles.PROFILES[name] for name in WITHOUT_COPIES):
        for dataset in profile.datasets:
            for split, count in profile.clips_of(dataset).items():
                load_dataset(dataset).check_count(split, count)


def test_few_shot_runs_are_trained_on_all_of_their_shots_and_each_seed_on_a_view_of_its_own(tiny):
    from lib.data.datasets import load_dataset

    for profile in (profiles.PROFILES[name] for name in ("pocket", "pocket-full", "esc50")):
        for group in profile.groups:
            if group.name == "bioacoustic":
                assert {load_dataset(d).manifest["sizes"]["train"] for d in group.datasets} == {group.clips["train"]}
    run()
    table = gather("tiny")
    finals = table[(table["split"] == "test") & (table["dataset"] == "forest-few-shot")]
    assert (finals["view"] == finals["seed"] % 5).all() and finals["view"].nunique() == len(tiny.seeds)
    assert (table.loc[table["dataset"] == "soundscapes", "view"] == 0).all()


class Elsewhere(Workers):
    """Workers of another machine, as it were, that remember what was asked of them."""

    elsewhere, asked = True, ()

    def __init__(self, share_disk=True):
        self.share_disk = share_disk

    def map(self, function, arguments, gpu=None):
        Elsewhere.asked = (*Elsewhere.asked, *zip((tuple(some[3]) for some in arguments), gpu, strict=True))
        yield from (function(*some) for some in arguments)


@pytest.fixture
def crew(monkeypatch, cheap_clips):
    """Have `SCHEDULER` lead to such workers; which, the test says."""
    monkeypatch.setattr(Elsewhere, "asked", ())
    monkeypatch.setenv("SCHEDULER", "tcp://nowhere:1")

    def lead(share_disk):
        monkeypatch.setattr(results, "open_workers", lambda *_: contextlib.nullcontext(Elsewhere(share_disk)))

    return lead


WANTED = [(["log-mel", "random-vit"], "soundscapes", {"train": 4, "val": 1})]


def test_stores_are_filled_where_the_scheduler_is_and_nobody_is_asked_where_nothing_is_missing(
    crew, monkeypatch, capsys
):
    crew(share_disk=True)
    lines = fill_stores(WANTED)
    assert Elsewhere.asked == ((("log-mel", "random-vit"), False),) * 3  # two shards and one
    assert len(lines) == 4 and capsys.readouterr().out.splitlines() == lines
    monkeypatch.setattr(results, "open_workers", lambda *_: pytest.fail("there is nothing to do"))
    assert fill_stores(WANTED) == []


def test_without_a_scheduler_stores_are_filled_here_and_so_they_are_where_disks_are_not_shared(
    crew, monkeypatch, capsys
):
    crew(share_disk=False)
    fill_stores(WANTED)
    assert capsys.readouterr().out.startswith("The workers do not share UNMUTE_CACHE with this machine: ")
    monkeypatch.delenv("SCHEDULER")
    monkeypatch.setattr(results, "open_workers", lambda *_: pytest.fail("nobody is to be asked"))
    assert len(fill_stores([(["log-mel"], "soundscapes", {"train": 3})])) == 1 and Elsewhere.asked == ()


@pytest.mark.parametrize("blocks", [None, (0,)])
def test_published_encoders_want_a_worker_with_a_gpu_if_one_was_asked_for_and_embed_sends_them_too(
    published, crew, monkeypatch, blocks
):
    published.put("eat")
    crew(share_disk=True)
    monkeypatch.setattr(frozen, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(embed, "usable_audio", store.usable_audio)
    for asked in ("cuda", "cpu"):
        monkeypatch.setenv("UNMUTE_DEVICE", asked)
        counts = {"train": 1 if asked == "cuda" else 2}
        embed.embed(embed.Job(("pocket-eat", "eat"), "soundscapes", counts, blocks), say=lambda line: None)
    assert Elsewhere.asked == ((("pocket-eat",), False), (("eat",), True), (("pocket-eat",), False), (("eat",), False))


def test_a_cell_that_no_process_has_the_memory_for_is_refused_before_anything_is_computed(published, tiny, monkeypatch):
    published.put("eat")
    monkeypatch.setattr(results, "build_store", lambda *_: pytest.fail("something was computed"))
    monkeypatch.setenv("UNMUTE_MEMORY", "1")
    monkeypatch.setattr(streaming, "AMPLE", 0)
    cells = [make_cell(encoder, "soundscapes", "linearc") for encoder in ("log-mel", "eat")]
    need = results._memory_needed(TINY, cells)
    assert list(need) == [cells[1].key] and need[cells[1].key] > 0
    monkeypatch.setattr(results, "trained_bytes", lambda *_, **__: 2 * 10**9)
    with pytest.raises(InputError, match=r"'eat--soundscapes--linearc' needs 2\.0 GB .*UNMUTE_MEMORY=2"):
        run_cells("tiny", cells, show=False)
    with pytest.raises(InputError, match=r"needs 2\.0 GB"):  # as a worker elsewhere does
        results._run("tiny", cells[1], {}, "cpu", 2 * 10**9, True, True)


def test_other_tasks_run_beside_the_cells_and_are_no_cells(tiny, tmp_path, capsys):
    first = all_cells(TINY)[0]
    assert run_cells("tiny", [first], beside=[(Path.touch, tmp_path / "done")]) == [first.key]
    assert (tmp_path / "done").exists() and f"1/1 {first.key}" in capsys.readouterr().out


def test_heads_follow_the_group_and_prototypes_the_dataset(tiny):
    cells = {(cell.dataset, cell.head): cell for cell in all_cells(tiny)}
    assert ("forest-few-shot", "mlp") not in cells and ("forest-few-shot", "protofloat") in cells
    assert cells["forest-few-shot", "protobin"].views == 5 and cells["soundscapes", "protobin"].views == 1
    pocket = {(cell.dataset, cell.encoder, cell.head): cell for cell in main_cells(load_profile("pocket"))}
    assert pocket["many-sounds", "pocket-eat", "protobin"].prototypes == 10
    assert pocket["ten-sounds", "pocket-eat", "protobin"].prototypes == 20
    assert pocket["single-sounds", "pocket-eat", "mhca"].loss == "cross-entropy"
    assert ("many-sounds", "pocket-beats", "conv") not in pocket and ("many-sounds", "pocket-eat", "conv") in pocket


def test_the_controls_run_few_heads_on_the_shown_dataset_and_the_reference_run_has_all_on_every_other_encoder():
    profile, full = load_profile("pocket"), load_profile("pocket-full")
    ours = {(cell.dataset, cell.head) for cell in all_cells(profile) if cell.encoder == "log-mel"}
    assert ours == {(profile.dataset, head) for head in (*profile.control_heads, "protofloat")}
    theirs = {(cell.dataset, cell.head) for cell in main_cells(full) if cell.encoder == "pocket-beats-plus"}
    assert theirs == {(name, head) for group in full.groups for name in group.datasets for head in group.heads}
    assert profile.encoders_of("short-sounds") == [name for name in profile.encoders if name.startswith("pocket")]


@pytest.mark.parametrize("name", WITHOUT_COPIES)
def test_protofloat_runs_wherever_protobin_does_and_proto_only_where_it_is_compared(name):
    profile = load_profile(name)
    places = {head: {(c.dataset, c.encoder) for c in all_cells(profile) if c.head == head} for head in PROTOTYPE_HEADS}
    ablation = {
        (dataset, encoder)
        for dataset in profile.ablation_datasets or (profile.dataset,)
        for encoder in profile.ablation_encoders
    }
    assert places["protofloat"] == places["protobin"]
    assert places["proto"] == {(c.dataset, c.encoder) for c in main_cells(profile) if c.head == "proto"} | ablation


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


@pytest.mark.parametrize("name", [name for name in WITHOUT_COPIES if name != "smoke"])
def test_every_run_has_at_least_300_steps(name):
    profile = load_profile(name)
    for dataset in profile.datasets:
        steps = -(-profile.clips_of(dataset)["train"] // profile.batch_size_of(dataset)) * profile.epochs
        assert steps >= 300, f"{dataset}: {steps}"


def test_cells_run_again_when_the_ranges_of_the_search_change(tiny, monkeypatch, capsys):
    run()
    monkeypatch.setitem(results.LR_RANGES, "other", (1e-3, 1e-2))
    assert len(run(show=True)) == CELLS and "to run: protocol changed" in capsys.readouterr().out


def test_a_damaged_file_of_draws_is_drawn_anew(tiny):
    cell = all_cells(TINY)[0]
    run_cells("tiny", [cell], show=False)
    drawn = cell_draws(TINY, cell)
    path = draws_path(TINY, cell)
    path.write_bytes(path.read_bytes()[:40])
    again = cell_draws(TINY, cell)
    assert again.value == drawn.value and (again.drawn == drawn.drawn).all()


def test_a_flipped_bit_in_a_result_is_noticed(tmp_path):
    path, tensors = tmp_path / "cell.safetensors", {"test_scores": torch.arange(6.0), "weight": torch.ones(3)}
    write_result(path, {"code": "1"}, [{"value": 1.0}], tensors)
    header, found = read_result(path)
    assert header["rows"] == [{"value": 1.0}] and torch.equal(found["test_scores"], tensors["test_scores"])
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")  # the last number of the tensor that comes last
    assert read_result(path) == ({}, {}) and read_result(path, [])[0]["depends"] == {"code": "1"}
    save_file(tensors, path, {"rows": "from elsewhere"})
    assert read_result(path, []) == ({}, {})


def test_a_batch_of_trials_that_all_diverge_does_not_stop_the_search(monkeypatch):
    real, seen = StackedTraining.advance, []

    def first_diverges(self, epoch):
        seen.append(self)
        if self is seen[0]:
            self.failed = {number: 1 for number in range(len(self.runs))}
            raise Diverged("The loss of every run became NaN.")
        return real(self, epoch)

    monkeypatch.setattr("lib.search.StackedTraining.advance", first_diverges)
    settings = replace(profiles.PROFILES["smoke"], trials=4, epochs=2)
    cell = make_cell("pocket-eat", "soundscapes", "linear")
    rng = torch.Generator().manual_seed(0)
    toy = Embeddings(
        torch.randn(12, 8, 4, generator=rng).half(),
        torch.randn(12, 4, generator=rng),
        (torch.rand(12, 16, generator=rng) < 0.5).float(),
        (4, 2),
    )
    rows, best = search(cell, settings, toy, toy)
    assert len(best) == settings.top_k and len({row["lr"] for row in rows}) == 2  # TPE's two; Sobol's two diverged
