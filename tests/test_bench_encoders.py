"""The benchmark of the published encoders at tiny size: every column, the counted products, the words, the plan."""

import math
import sys

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib import bench_encoders as module
from lib import plan as planning
from lib.bench_encoders import FAMILIES, bench_encoders, dataset_here, in_words, random_weights
from lib.encoders import ENCODERS
from lib.encoders.manifests import CHECKPOINTS, find_checkpoint
from lib.encoders.upstream import FAMILIES as KNOWN
from lib.encoders.upstream import expected_shapes, from_upstream
from lib.errors import InputError
from lib.figures import read_table
from lib.paths import scratch
from lib.plan import ENCODER_SHARE, encoder_operations, machine


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMUTE_CACHE", str(tmp_path_factory.mktemp("bench")))
        known = dict(ENCODERS)
        found = pd.DataFrame(bench_encoders(clips=4, tiny=True, apart=False))
        assert known == ENCODERS and not [*scratch().rglob("shard-*"), *scratch().glob("bench/*")]
    return found


def test_an_encoder_of_every_family_is_measured(table):
    assert list(table["encoder"]) == list(FAMILIES) and set(table["family"]) == set(KNOWN)
    assert {find_checkpoint(name).family for name in CHECKPOINTS} == set(table["family"])


def test_the_columns_follow_from_each_other(table):
    assert (table["clips"] == 4).all() and set(table["dataset"]) == {dataset_here()} and (table["threads"] == 1).all()
    for row in table.itertuples():
        assert row.clips_per_s == pytest.approx(4 / row.seconds)
        assert row.gflops == pytest.approx(row.gflop * row.clips_per_s)
        assert row.share == pytest.approx(row.gflops / row.gemm_gflops)
        assert row.store_mb == pytest.approx((row.tokens + 1) * 32 * 2 / 1e6, rel=0.02)
        assert row.idle_mb > 0 and row.weights_mb < row.peak_mb and 0 < row.bfloat16_error < 0.05
        assert math.isnan(row.bfloat16_ratio) or row.bfloat16_ratio > 0
    assert dict(zip(table["encoder"], table["tokens"], strict=True)) == {
        "amae": 512,
        "asit": 296,
        "beats": 496,
        "eat": 512,
        "sslam": 512,
        "dasheng": 250,
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_the_counted_products_are_nearly_all_there_are_at_full_size(name):
    manifest = find_checkpoint(name).manifest
    shapes = expected_shapes(manifest["family"], manifest["config"])
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    encoder = from_upstream(manifest["family"], weights, manifest["config"])
    spectrogram = encoder.spectrogram(0.1 * torch.randn(160_000)).to("meta")
    with FlopCounterMode(display=False) as counter:
        tokens = encoder(spectrogram).tokens.shape[1]
    counted = encoder_operations(manifest, tokens)
    assert counted < counter.get_total_flops() < 1.08 * counted  # embedding, and the positional convolution of BEATs


@pytest.mark.parametrize("name", FAMILIES)
def test_random_weights_keep_values_in_a_usual_range(name):
    manifest = find_checkpoint(name).manifest
    manifest = manifest | {"config": manifest["config"] | module.TINY.get(name, module.TINY["others"])}
    encoder = from_upstream(manifest["family"], random_weights(manifest), manifest["config"])
    tokens = encoder(encoder.spectrogram(0.1 * torch.randn(160_000))).tokens
    assert 0.1 < tokens.std() < 10 and torch.isfinite(tokens).all()


def test_an_unknown_encoder_or_too_many_clips_are_refused(monkeypatch):
    with pytest.raises(InputError, match="Unknown encoder of the benchmark 'eat-plus'"):
        next(bench_encoders(["eat-plus"]))
    monkeypatch.setattr(sys, "argv", ["bench", "--clips", "33"])
    with pytest.raises(SystemExit, match="from 2 to 32, not 33"):
        module.main()


def test_the_command_writes_the_table_and_says_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--only", "dasheng", "--clips", "2"])  # in its own process
    module.main()
    found = read_table(scratch() / "bench" / "quick" / "encoders.csv")
    assert list(found["encoder"]) == ["dasheng"] and "cores" in found.attrs["note"] and "2 clips" in found.attrs["note"]
    said = capsys.readouterr().out
    assert "| Dasheng | 250 | 0 |" in said and "One core stores" in said


def test_words_say_what_bfloat16_gains_only_where_it_was_measured(table):
    assert "no instructions for them" in in_words(table.assign(bfloat16_ratio=math.nan))
    words = in_words(table.assign(bfloat16_ratio=2.0, bfloat16_error=0.004))
    assert "by 0.4 to 0.4 % and are 2.0 to 2.0 times as fast." in words


def test_the_plan_takes_the_share_that_was_measured(table, tmp_path, monkeypatch):
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "bench.csv").write_text((planning.FIGURES / "bench" / "bench.csv").read_text())
    monkeypatch.setattr(planning, "FIGURES", tmp_path)
    cells = planning.paper_cells(["eat", "dasheng"], ["urban"], ["linear"])
    before = planning.plan(cells, machine(1.0))["embed"].set_index("encoder")["hours"]
    module.write_table(folder / "encoders.csv", table.assign(share=0.25), "a machine")
    known = machine(1.0)
    assert known.encoder_share == dict.fromkeys(KNOWN, 0.25)
    after = planning.plan(cells, known)["embed"].set_index("encoder")["hours"]
    pd.testing.assert_series_equal(after, before * ENCODER_SHARE / 0.25)
    assert "all measured" in planning.in_words(planning.plan(cells, known), known)
