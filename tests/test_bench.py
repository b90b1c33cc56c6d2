"""The benchmark: a textbook loop of the same functions, the same work in every loop, tables that say what they are."""

import itertools
import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from lib import bench, bench_heads, bench_parts, bench_products
from lib.bench import FILES, measure
from lib.bench_heads import COLUMNS, CPU, PLAIN_RUNS, loops_of, passing, plain, protocol, urban_rows
from lib.bench_parts import MEMORY_LOOPS, fresh_processes, gpu_rows, peak_memory
from lib.bench_sizes import (
    GOALS,
    QUICK,
    WHOLE,
    Shape,
    goal,
    made_embeddings,
    made_runs,
    necessary_products,
    stages,
)
from lib.data.datasets import load_dataset
from lib.encoders.pocket import POCKET
from lib.engine import StackedTraining
from lib.engine_heads import takes_narrow_products
from lib.errors import InputError
from lib.figures import read_table, write_table
from lib.files import _host
from lib.hardware import has_matrix_units
from lib.heads import HEADS, build_head
from lib.machine import machine
from lib.paths import FIGURES, REPOSITORY, figure_root, scratch
from lib.plots_bench import (
    cost_in_words,
    gpu_page,
    in_words,
    machine_of,
    measured,
    plot_cost,
    plot_memory,
    plot_ratios,
    plot_shares,
    promises_page,
    shapes_in_words,
    store_page,
    timed_in_words,
)
from lib.profiles import NARROW_HEADS, PROFILES
from lib.results import all_cells
from lib.search import rungs
from lib.textbook import TEXTBOOK, TextbookTraining, extra_loss
from lib.train import evaluate
from lib.workers import start_worker

TINY = replace(
    QUICK, heads=("linear", "conv", "protobin"), cost_heads=("mhca",), gpu_heads=("ep", "protobin"), store_mb=0.2
)

# ---- the textbook heads


@pytest.mark.parametrize("head", HEADS)
def test_a_textbook_head_is_the_plain_head_in_value_and_gradient(head):
    g = torch.Generator().manual_seed(0)
    tokens, cls = torch.randn(5, 24, 64, generator=g).double(), torch.randn(5, 64, generator=g).double()
    weights = torch.randn(5, 3, generator=g).double()
    ours, theirs = (build_head(head, 64, 3, (6, 4), 4, torch.Generator().manual_seed(1)).double() for _ in range(2))
    for training in (True, False):
        found = TEXTBOOK[head](ours.train(training), tokens, cls)
        wanted = theirs.train(training)(tokens, cls)
        assert_close(found, wanted, rtol=0, atol=1e-9)
    found = (TEXTBOOK[head](ours.train(), tokens, cls) * weights).sum() + extra_loss(head, ours)
    wanted = (theirs.train()(tokens, cls) * weights).sum() + theirs.extra_loss()
    got = torch.autograd.grad(found, list(ours.parameters()))
    for (name, _), a, b in zip(
        theirs.named_parameters(), got, torch.autograd.grad(wanted, list(theirs.parameters())), strict=True
    ):
        assert b.abs().max() > 1e-6 or name == "score.bias", name  # a softmax does not see abmilp's last bias
        assert_close(a, b, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_the_textbook_loop_has_every_head_and_refuses_options():
    assert list(TEXTBOOK) == list(HEADS)
    run = replace(made_runs("mhca", TINY.pocket, 1, 2)[0], options={"token_norm": "none"})
    with pytest.raises(InputError, match=r"knows no options of 'mhca'; leave \['token_norm'\] out"):
        TextbookTraining(run, made_embeddings(TINY.pocket, 4, 0))


# ---- the same work in every loop


@pytest.mark.parametrize("head", ["linear", "mhca", "ep", "proto", "protobin"])
def test_all_loops_end_with_the_same_survivors_and_weights(head):
    profile = replace(TINY.profile, trials=6, epochs=4)
    train, val = made_embeddings(TINY.pocket, 24, 0), made_embeddings(TINY.pocket, 64, 1)
    outcome = protocol(head, TINY.pocket, profile, loops_of(head, CPU), train, val)
    assert outcome.epochs > profile.trials and len(outcome.judged) > 4
    for loop in outcome.seconds:
        seen, ends = {}, itertools.cycle(rungs(profile))
        for alive, went_on, scores in outcome.judged[:3]:  # the first batch of trials
            values = {n: evaluate(one, val.targets, "mAP") for n, one in zip(alive, scores[loop], strict=True)}
            end = next(ends)
            best = list(values) if end == profile.epochs else passing(values, list(values.values()), 2)
            assert best == went_on, f"{loop} would have gone on with {best} at epoch {end}"
            seen[end] = values
        assert len(outcome.judged[0][1]) < len(outcome.judged[0][0])
    for trainings in zip(*outcome.trainings.values(), strict=True):
        for run in trainings[-1].alive:
            first, *others = (training.state(run) for training in trainings)
            for loop, other in zip(list(outcome.trainings)[1:], others, strict=True):
                for name, value in first.items():
                    if "bfloat16" in loop:  # where the machine has it: another token may win, a prototype go astray
                        assert (other[name] - value).abs().float().median() < 1e-2, name
                    else:
                        assert_close(other[name], value, rtol=1e-3, atol=1e-4, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize("plan", [WHOLE, WHOLE.with_many()], ids=["pocket", "pocket-full"])
def test_the_stages_of_the_pocket_shape_are_those_of_the_profile(plan):
    profile, *parts = PROFILES[plan.pocket.name], *stages("protobin", plan.pocket, plan.profile)
    assert plan.pocket.configurations == profile.trials
    assert sum(len(part) for part in parts[:-1]) == profile.trials and len(parts[0]) == -(-profile.trials // 2)
    assert len({(run.lr, run.weight_decay) for part in parts[:-1] for run in part}) == profile.trials
    assert len(parts[-1]) == profile.top_k * len(profile.seeds)
    assert {(run.seed, run.order_seed) for run in parts[-1]} == {(seed, seed) for seed in profile.seeds}
    data = load_dataset(profile.dataset)
    assert (plan.pocket.grid, plan.pocket.dim) == (POCKET.grid, POCKET.dim)
    assert (plan.pocket.classes, plan.pocket.per_class) == (len(data.classes), data.prototypes)
    assert (plan.pocket.clips, plan.pocket.batch_size) == (profile.clips["train"], profile.batch_size_of(data.name))


class Counted:
    """A training that does nothing, and whose seconds are its epochs."""

    def __init__(self, runs, data):
        self.alive, self.epoch = list(range(len(runs))), 0

    def advance(self, epoch):
        took, self.epoch = epoch - self.epoch, epoch
        return took * len(self.alive)

    def scores(self, data):
        return torch.randn(len(self.alive), len(data), 3, generator=torch.Generator().manual_seed(len(self.alive)))

    def keep(self, runs):
        self.alive = list(runs)


def seconds_are_epochs(work):
    result = work()
    return (float(result), result) if isinstance(result, int) else (0.0, result)


def test_the_time_of_a_part_is_scaled_to_the_whole(monkeypatch):
    monkeypatch.setattr(bench_heads, "clocked", seconds_are_epochs)
    profile, data = replace(TINY.profile, trials=8, epochs=30, first_rung=3, rung_factor=3), QUICK.pocket
    val = made_embeddings(data, 32, 1)
    outcomes = [protocol("linear", data, profile, {"engine": Counted}, val, val, share) for share in (1.0, 0.4, 0.0)]
    assert [outcome.seconds["engine"] for outcome in outcomes] == [outcomes[0].epochs] * 3
    trained = [sum(training.epoch for training in outcome.trainings["engine"]) for outcome in outcomes]
    assert trained[0] > trained[1] > trained[2] == len(outcomes[2].judged)  # one epoch between two rungs


def test_steps_at_urbans_shape_are_scaled_to_an_epoch_of_all_configurations(monkeypatch):
    monkeypatch.setattr(bench_heads, "clocked", lambda work, device=CPU: (1.0, work()))
    for head, stacked in (("linear", 3), ("conv", PLAIN_RUNS)):
        (row,) = urban_rows(head, TINY, 100.0)
        assert row["plain_s"] == pytest.approx(4 * 3 / PLAIN_RUNS)  # 4 steps an epoch, 3 configurations
        assert row["engine_s"] == pytest.approx(4 * 3 / stacked)
        assert row["scaled"] and row["clips"] == 32 and "4 steps of an epoch of 32 clips" in row["timed"]


@pytest.mark.parametrize("whole", [True, False])
def test_at_the_pocket_shape_the_limit_governs_passes_and_elsewhere_how_much_is_timed(whole):
    plan = replace(TINY, profile=replace(TINY.profile, epochs=6, first_rung=6), passes=2)
    (row,) = bench_heads.pocket_rows("linear", plan, 0.0, whole)
    assert row["passes"] == 1 and row["scaled"] != whole and row["timed"].endswith("all timed") == whole
    (row,) = bench_heads.pocket_rows("linear", plan, math.inf, whole)
    assert row["passes"] == 2 and not row["scaled"]


def test_the_benchmark_times_whole_cells_at_the_pocket_shape_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(
        bench, "pocket_rows", lambda head, plan, limit, whole=False: [asked.append((plan.pocket.name, whole))]
    )
    monkeypatch.setattr(bench, "urban_rows", lambda head, plan, limit: [])
    list(bench.rows_of("heads", replace(WHOLE, heads=("linear",)), 1.0))
    assert asked == [("pocket", True), ("pocket-full", False)]


# ---- tokens and products


def test_made_tokens_repeat_and_their_classes_are_the_same_in_every_split():
    torch.manual_seed(5)
    first, again = (made_embeddings(TINY.pocket, 20, 3) for _ in range(2))
    assert torch.equal(first.tokens, again.tokens) and first.tokens.dtype == torch.float16
    assert torch.equal(torch.randn(2), torch.randn(2, generator=torch.Generator().manual_seed(5)))
    means = []
    for seed in (0, 1):
        data = made_embeddings(TINY.pocket, 400, seed)
        means.append(torch.stack([data.cls[data.targets[:, c] > 0].mean(0) for c in range(3)]))
    a, b = (torch.nn.functional.normalize(mean - mean.mean(0), dim=1) for mean in means)
    assert (a * b).sum(1).min() > 0.5


def test_the_products_of_protobin_are_those_of_the_reference_notes():
    assert necessary_products("protobin", WHOLE.urban)[0] * 6000 == pytest.approx(0.94e12, rel=0.01)
    assert necessary_products("protobin", WHOLE.as20k)[0] * 18_685 == pytest.approx(77e12, rel=0.01)
    score, train = necessary_products("protobin", WHOLE.as20k)
    assert 1.0 < train / score < 1.02


@pytest.mark.parametrize("head", HEADS)
def test_the_necessary_products_are_those_that_the_engine_does(head):
    shape = Shape("wide", (12, 8), 64, 5, 3, 96, 0, 96, 1)
    data = made_embeddings(shape, shape.clips, 0)
    training = StackedTraining(made_runs(head, shape, 1, 9), data, products="float32")
    score, train = necessary_products(head, shape)
    with FlopCounterMode(display=False) as counter:
        training.scores(data)
    assert counter.get_total_flops() == pytest.approx(score * 96, rel=0.12)
    with FlopCounterMode(display=False) as counter:
        training.advance(1)
    assert counter.get_total_flops() == pytest.approx(train * 96, rel=0.12)


# ---- tables and pictures


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Measure everything once, tiny; return the folder of tables, and what was said."""
    folder, said = tmp_path_factory.mktemp("bench"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMUTE_CACHE", str(folder / "scratch"))
        measure(FILES, TINY, 0.0, folder / "figures" / "bench", said.append)
        assert not list(scratch().glob("bench/*"))  # the store that was read is gone
    return folder / "figures", said


@pytest.mark.xdist_group("bench")
def test_the_quick_benchmark_writes_every_column(written):
    folder, said = written
    table = read_table(folder / "bench" / "bench.csv")
    assert tuple(table) == COLUMNS
    assert set(zip(table["head"], table["shape"], strict=True)) == set(
        itertools.product(TINY.heads, ("pocket", "many", "urban"))
    )
    assert (table[["plain_s", "reference_s", "engine_s", "gflop", "gemm_share"]] > 0).all(axis=None)
    for row in table.itertuples():
        assert row.ratio == pytest.approx(row.plain_s / row.engine_s, rel=1e-4)
        assert row.gemm_share == pytest.approx(row.gflop / row.engine_s / row.gemm_gflops, rel=1e-4)
        assert row.ratio_low <= row.ratio * 1.0001 and row.ratio <= row.ratio_high * 1.0001
        assert row.threads == 1 and math.isnan(row.metric_s) == (row.shape == "urban")
        promised = goal(row.head, row.products, has_matrix_units(torch.device("cpu")))
        assert math.isnan(row.goal) if promised is None else row.goal == promised
    cost, memory = (read_table(folder / "bench" / f"{name}.csv") for name in ("cost", "memory"))
    assert set(cost["varied"]) == {"clips", "tokens", "prototypes", "configurations"}
    assert list(cost.loc[cost["varied"] == "tokens", "tokens"]) == [8, 24]
    assert list(memory["head"]) == list(TINY.heads) and {"plain_mb", "reference_mb", "engine_mb"} <= set(memory)
    assert (read_table(folder / "bench" / "store.csv")["mb_per_s"] > 0).all()
    assert len(said) >= len(table) + len(cost) + len(memory)


@pytest.mark.xdist_group("bench")
def test_no_table_holds_a_path_and_each_names_the_machine(written):
    folder, _ = written
    for path in (folder / "bench").glob("*.csv"):
        text = path.read_text()
        assert str(REPOSITORY) not in text and str(folder) not in text
        assert not re.search(r"(^|[\s,\"'(])(/|[A-Z]:\\)\w", text), path.name
        assert text.startswith(f"# {' '.join(machine().split())} ")
    assert re.search(r"\d+ cores \(.*bfloat16 products\); PyTorch [\d.]+.*, 1 thread\.$", machine())


def test_without_a_gpu_its_part_is_left_out_in_a_sentence(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    measure(["gpu"], TINY, 0.0, tmp_path / "bench", said.append)
    assert said == ["gpu: torch sees no GPU here, so nothing is measured and 'gpu.csv' stays as it is."]
    assert not (tmp_path / "bench").exists()


def test_what_runs_on_a_gpu_is_correct_code():
    rows = list(gpu_rows(TINY, CPU))
    assert [row["head"] for row in rows] == ["ep", "protobin"]
    for row in rows:
        assert row["clips"] == 20 and row["ratio"] == row["plain_s"] / row["engine_s"] > 0
        assert row["gemm_share"] > 0 and "2 steps of one configuration" in row["timed"]
    page = gpu_page(pd.DataFrame(rows))
    assert list(page.index) == ["ep", "protobin"] and list(page) == list(gpu_page(pd.DataFrame()))


def test_the_peak_of_a_loop_is_that_of_its_similarities():
    shape = Shape("wide", (31, 8), 64, 16, 20, 0, 0, 32, 4)
    with fresh_processes() as pool:
        textbook, engine = (pool.submit(peak_memory, shape, "protobin", loop).result() for loop in ("plain", "engine"))
    similarities = 32 * 248 * 320 * 4  # (B, N, K) in float32: 10 MB
    assert 1.5 * similarities < textbook < 8 * similarities
    assert 0 <= engine < textbook
    assert list(MEMORY_LOOPS) == ["plain", "reference", "engine"] and bench_parts.plain is plain


@pytest.mark.xdist_group("bench")
@pytest.mark.parametrize("there", [True, False])
def test_the_page_draws_from_tables_alone_and_says_when_there_are_none(there, written, monkeypatch, tmp_path):
    monkeypatch.setenv("UNMUTE_FIGURES", str(written[0] if there else tmp_path))
    monkeypatch.setattr("lib.figures.FIGURES", tmp_path)
    bench, cost, memory, store = (measured(name) for name in ("bench", "cost", "memory", "store"))
    for figure in (plot_ratios(bench), plot_shares(bench), plot_cost(cost), plot_memory(memory)):
        figure.draw_without_rendering()
        texts = " ".join(text.get_text() for axes in figure.axes for text in axes.texts).replace("\n", " ")
        assert ("Not measured yet" in texts) != there
    assert machine_of(bench).startswith(machine() if there else "Not measured yet")
    assert len(in_words(bench)) == (7 if there else 1)
    assert promises_page(bench).empty != there and store_page(store).empty != there
    timed = " ".join(timed_in_words(bench))
    assert ("(scaled, passes: 1)" in timed and "*urban*, `linear`, `protobin`: single steps of" in timed) == there
    about = " ".join(shapes_in_words(bench))
    assert (
        "*urban*: 32 clips of 24 tokens with 32 numbers each, 3 classes, 2 prototypes per class, batches of 8; 3"
        in about
    ) == there
    assert cost_in_words(cost).startswith("One size varies at a time" if there else "Not measured yet")
    assert ("clips in an epoch: 8; tokens of a clip, N: 24; prototypes per class, J: 2" in cost_in_words(cost)) == there


def test_the_words_say_which_promises_are_kept():
    rows = pd.DataFrame(
        {
            "head": ["linear", "conv", "protobin", "protobin"],
            "shape": "pocket",
            "products": ["float32", "float32", "float32", "bfloat16"],
            "ratio": [5.0, 0.8, 2.9, 11.0],
            "ratio_low": [4.9, 0.7, 2.8, 10.0],
            "ratio_high": [5.1, 0.9, 3.0, 12.0],
            "goal": [4.0, None, 3.0, 8.0],
            "gemm_share": [0.01, 0.4, 0.5, 0.3],
            "gemm_gflops": 90.0,
            "passes": 3,
        }
    )
    words = in_words(rows)
    assert "0.8 (`conv`) to 11.0 (`protobin`)" in words[0] and "for `conv` it is slower" in words[0]
    assert words[-1] == "Of 3 promises 2 are kept; not kept: `protobin` at pocket in float32."
    assert list(promises_page(rows)["kept"]) == ["yes", "no", "yes"]
    assert list(promises_page(rows)["at most"]) == ["500", "5.8", "37"]
    slow = rows.assign(gemm_gflops=[90.0, 90.0, 45.0, 90.0])  # its own rate was taken in a slow second
    assert list(promises_page(slow)["at most"]) == ["500", "12", "37"]
    rows.loc[2, "gemm_share"] = 0.98  # hardly anything but products is left, and still it is not enough
    assert in_words(rows)[-1].startswith("`protobin` at pocket in float32: by these seconds its products alone")
    assert "no more than 3.0 times" in in_words(rows)[-1] and in_words(rows)[:-1] == words
    rows.loc[2, "gemm_share"] = 0.5
    assert in_words(rows) == words


# ---- products


def test_the_words_on_products_hold_the_differences_against_both_bounds():
    heads = ["proto", "proto", "protobin", "protobin", "protobin"]
    frame = pd.DataFrame({"head": heads, "difference": [0.2, -0.2, 0.3, 0.1, 5.0]})
    frame["metric"] = ["mAP"] * 4 + ["accuracy"]
    words = bench_products.in_words(frame)
    assert "Over 4 cells" in words and "0.20 points away" in words and "(bound 0.3: kept)" in words
    assert "`proto` +0.00 ± 0.20, `protobin` +0.20 ± 0.10 (bound 0.1: not kept)" in words
    assert "1 single-label cells the accuracy is 5.00 points away: `protobin` +5.00 ± nan; no bound" in words
    assert "independent" in words
    more = bench_products.in_words(frame.iloc[:4].assign(difference=[0.9, -0.9, 0, 0]))
    assert "(bound 0.3: not kept)" in more and "(bound 0.1: kept)" in more and "accuracy" not in more


def test_products_that_were_not_compared_here_are_the_committed_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.figures.FIGURES", tmp_path / "committed")
    assert bench_products.measured() is None
    for root, value in ((tmp_path / "committed", 1.0), (figure_root(), 2.0)):
        write_table(root / "bench" / "products.csv", pd.DataFrame({"difference": [value]}), "made up")
        assert bench_products.measured()["difference"].tolist() == [value]


def test_both_kinds_of_products_train_the_same_cells_of_pocket_and_differ_in_nothing_else(monkeypatch):
    float32, bfloat16 = (PROFILES[f"pocket-{kind}"] for kind in bench_products.KINDS)
    assert replace(bfloat16, name=float32.name, about=float32.about, products="float32") == float32
    cells = all_cells(float32)
    assert {cell.head for cell in cells} == set(NARROW_HEADS) == {head for head in HEADS if takes_narrow_products(head)}
    assert set(cells) <= set(all_cells(PROFILES["pocket"]))
    value = {float32.name: 0.5, bfloat16.name: 0.75}
    monkeypatch.setattr(
        bench_products,
        "read_rows",
        lambda profile, cell: [{"split": "val", "value": 9.0}, {"split": "test", "value": value[profile.name]}],
    )
    table = bench_products.table()
    assert len(table) == len(cells) and set(table["difference"]) == {0.25}
    assert dict.fromkeys(table["metric"]) == {"mAP": None, "accuracy": None}


# ---- what was promised, and the command


def test_the_page_names_every_promise_that_was_not_kept_and_no_other():
    path = FIGURES / "bench" / "bench.csv"
    if not path.is_file():
        pytest.skip("figures/bench/bench.csv is not there: run `make bench`")
    table = read_table(path)
    if "pocket-full" not in set(table["shape"]):
        pytest.skip("figures/bench/bench.csv is older than the shape 'pocket-full': run `make bench`")
    pocket = table[table["shape"] == "pocket"].iloc[0]
    if (pocket["classes"], pocket["batch_size"]) != (WHOLE.pocket.classes, WHOLE.pocket.batch_size):
        pytest.skip("figures/bench/bench.csv is of an older pocket shape: run `make bench`")
    measured_kinds = set(table["products"])
    (words,) = (line for line in in_words(table) if " promises " in line)
    for head, goals in GOALS.items():
        for kind in measured_kinds & set(goals):
            rows = table[(table["head"] == head) & (table["products"] == kind)]
            assert len(rows), f"{head} in {kind} was promised and not measured"
            for row in rows.itertuples():
                assert row.goal in {goal(head, kind, matrix_units) for matrix_units in (False, True)}
                assert (f"`{head}` at {row.shape} in {kind}" in words) == (row.ratio < row.goal)


def test_eight_times_are_promised_of_protobin_on_matrix_units_alone():
    kinds = ("float32", "bfloat16")
    assert [goal("protobin", kind, units) for units in (False, True) for kind in kinds] == [3, None, 3, 8]
    assert (
        goal("ep", "bfloat16", True) == goal("linear", "float32", True) == 4 and goal("conv", "float32", True) is None
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--threads", "0"], "1", "--threads is '0'; it must be a whole number of at least 1."),
        ([], "four", "OMP_NUM_THREADS is 'four'; it must be a whole number of at least 1."),
        (["--limit", "-1"], "1", "--limit is a number of seconds, zero or more, not -1."),
        (["--limit", "nan"], "1", "--limit is a number of seconds, zero or more, not nan."),
    ],
)
def test_a_nonsense_option_is_one_sentence_and_nothing_is_measured(arguments, environment, said, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as error:
        bench.main()
    assert str(error.value) == f"make bench: {said}"


def test_what_a_killed_benchmark_left_is_swept_by_the_next_one(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = scratch() / "bench" / f".store.{_host()}-{dead.stdout.strip()}.tmp"
    (left / "sub").mkdir(parents=True)
    measure([], TINY, 0.0, tmp_path / "tables", print)
    assert not left.exists()


def test_a_process_whose_memory_is_measured_ends_with_the_benchmark(monkeypatch):
    class Pool:
        def __init__(self, *_, **options):
            assert options["initializer"] is start_worker and options["initargs"] == (dict(os.environ),)
            raise InterruptedError

    monkeypatch.setattr(bench_parts, "ProcessPoolExecutor", Pool)
    with pytest.raises(InterruptedError):
        list(bench_parts.memory_rows(TINY))
