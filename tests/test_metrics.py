"""The metrics against scikit-learn, under ties and weights; the bootstrap's pairing, determinism and width."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from lib.errors import InputError
from lib.metrics import accuracy, average_precision, bootstrap_interval, mean_average_precision, paired_bootstrap


def problem(seed, clips=40, classes=5, levels=None):
    """Scores that know something of the targets; `levels` rounds them to that many values, so that they tie."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((clips, classes)) < 0.3).astype(int)
    targets[0] = 1
    scores = targets + rng.normal(size=(clips, classes))
    if levels:
        scores = np.round((scores - scores.min()) / np.ptp(scores) * (levels - 1))
    return scores, targets


def oracle(scores, targets, weights=None):
    columns = range(scores.shape[1])
    return np.array([average_precision_score(targets[:, c], scores[:, c], sample_weight=weights) for c in columns])


# ---- average precision


@pytest.mark.parametrize("levels", [None, 12, 3, 1])
@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_scikit_learns_also_under_ties(seed, levels):
    scores, targets = problem(seed, clips=5 + 13 * seed, levels=levels)
    np.testing.assert_allclose(average_precision(scores, targets), oracle(scores, targets), rtol=1e-12)


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("seed", range(6))
def test_weighted_average_precision_is_scikit_learns(seed, levels):
    scores, targets = problem(seed, levels=levels)
    rng = np.random.default_rng(seed)
    weights = np.stack([rng.integers(0, 4, 40), rng.random(40), np.ones(40)]).astype(float)
    weights[:, 0] = 1  # a positive of every class
    stacked = average_precision(scores, targets, weights)
    assert stacked.shape == (3, 5)
    for row, weight in zip(stacked, weights, strict=True):
        np.testing.assert_allclose(row, oracle(scores, targets, weight), rtol=1e-12)
        np.testing.assert_allclose(row, average_precision(scores, targets, weight), rtol=1e-15)


def test_integer_weights_are_copies_of_clips():
    scores, targets = problem(0, levels=6)
    copies = np.random.default_rng(1).integers(1, 4, 40)
    repeated = average_precision(np.repeat(scores, copies, 0), np.repeat(targets, copies, 0))
    np.testing.assert_allclose(average_precision(scores, targets, copies), repeated, rtol=1e-12)


def test_a_hand_made_example():
    scores, targets = np.array([[0.9], [0.8], [0.8], [0.1]]), np.array([[0], [1], [0], [1]])
    assert average_precision(scores, targets)[0] == pytest.approx(0.5 * 1 / 3 + 0.5 * 2 / 4)


def test_the_order_of_clips_and_any_rising_function_of_the_scores_do_not_matter():
    scores, targets = problem(3, levels=8)
    order = np.random.default_rng(4).permutation(40)
    np.testing.assert_allclose(average_precision(scores[order], targets[order]), average_precision(scores, targets))
    np.testing.assert_array_equal(average_precision(np.exp(scores), targets), average_precision(scores, targets))


def test_a_class_without_positives_or_without_their_weight_is_nan():
    scores, targets = problem(0)
    targets[:, 2] = 0
    assert np.isnan(average_precision(scores, targets)).tolist() == [False, False, True, False, False]
    weights = 1.0 - targets[:, 0]
    assert np.isnan(average_precision(scores, targets, weights))[0]
    assert np.isnan(average_precision(scores, targets, np.zeros(40))).all()


def test_mean_average_precision_says_how_many_classes_it_left_out():
    scores, targets = problem(0)
    targets[:, [1, 3]] = 0
    result = mean_average_precision(scores, targets)
    assert (result.classes_used, result.classes_left_out) == (3, 2)
    assert result.value == pytest.approx(oracle(scores[:, [0, 2, 4]], targets[:, [0, 2, 4]]).mean())


def test_extreme_scores_do_no_harm():
    scores, targets = problem(0)
    assert average_precision(scores * 1e307, targets) == pytest.approx(average_precision(scores, targets))
    assert average_precision(scores.astype(np.float16), targets).shape == (5,)


def test_accuracy_counts_the_highest_score_and_the_first_of_equals():
    targets = np.eye(3)[[0, 1, 2, 0]]
    scores = np.array([[2.0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 1, 0]])
    assert accuracy(scores, targets) == 0.75


# ---- bootstrap


def shared_sources(seed, clips, sources):
    """Two sources per clip, out of a few: mixtures."""
    rng = np.random.default_rng(seed)
    return [rng.choice(sources, 2, replace=False).tolist() for _ in range(clips)]


@pytest.mark.parametrize("metric", ["map", "accuracy"])
def test_identical_heads_differ_by_exactly_nothing_in_every_draw(metric):
    scores, targets = problem(0)
    targets = targets if metric == "map" else np.eye(5)[np.arange(40) % 5]
    result = paired_bootstrap(scores, scores.copy(), targets, shared_sources(0, 40, 8), metric, draws=200)
    assert result == (0.0, 0.0, 0.0, 1.0, 200)


def test_pairing_makes_the_interval_of_a_difference_narrow():
    scores, targets = problem(0, clips=100)
    other = scores + 0.05 * np.random.default_rng(1).normal(size=scores.shape)
    sources = shared_sources(0, 100, 20)
    paired = paired_bootstrap(scores, other, targets, sources, draws=300)
    alone = bootstrap_interval(scores, targets, sources, draws=300)
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)


def test_the_difference_is_that_of_the_data_and_its_sign_that_of_a_minus_b():
    scores, targets = problem(0, clips=80)
    noise = np.random.default_rng(2).normal(size=scores.shape)
    result = paired_bootstrap(scores, noise, targets, None, draws=300)
    expected = mean_average_precision(scores, targets).value - mean_average_precision(noise, targets).value
    assert result.difference == pytest.approx(expected)
    assert 0 < result.low < result.difference < result.high
    assert result.share_not_positive == 0
    mirrored = paired_bootstrap(noise, scores, targets, None, draws=300)
    assert mirrored[:3] == pytest.approx((-result.difference, -result.high, -result.low))
    assert mirrored.share_not_positive == 1


@pytest.mark.parametrize("metric", ["map", "accuracy"])
def test_the_bootstrap_is_what_a_loop_over_weighted_draws_gives(metric):
    scores, targets = problem(5, clips=30)
    targets = targets if metric == "map" else np.eye(5)[np.arange(30) % 5]
    sources = [[], [3], [0, 1, 4], *shared_sources(1, 27, 6)]
    rng = np.random.default_rng(9)
    counts, groups = rng.multinomial(30, [1 / 30] * 30, 50), rng.multinomial(6, [1 / 6] * 6, 50)
    drawn = []
    for count, group in zip(counts, groups, strict=True):
        weights = count * np.array([group[names].mean() if names else 1 for names in sources])
        if metric == "map":
            drawn.append(np.nanmean(average_precision(scores, targets, weights)))
        else:
            drawn.append(np.average(scores.argmax(1) == targets.argmax(1), weights=weights))
    result = bootstrap_interval(scores, targets, sources, metric, draws=50, seed=9)
    lift = np.mean(drawn) - result.value  # the interval lies round the value, not round the draws
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975]) - lift))
    assert result.low < result.value < result.high


def test_seeds_are_averaged():
    scores, targets = problem(0)
    other, _ = problem(1)
    both = bootstrap_interval(np.stack([scores, other]), targets, None, draws=100)
    values = [mean_average_precision(one, targets).value for one in (scores, other)]
    assert both.value == pytest.approx(np.mean(values))
    same = bootstrap_interval(np.stack([scores, scores]), targets, None, draws=100)
    assert same == pytest.approx(bootstrap_interval(scores, targets, None, draws=100))


def test_the_bootstrap_is_deterministic_in_its_seed_and_leaves_the_global_state_alone():
    scores, targets = problem(0)
    numbers = shared_sources(0, 40, 8)
    names = [[f"rec-{i}" for i in pair] for pair in numbers]
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = bootstrap_interval(scores, targets, names, draws=100, seed=3)
    again = bootstrap_interval(scores, targets, [set(pair) for pair in names], draws=100, seed=3)
    assert first == again == bootstrap_interval(scores, targets, numbers, draws=100, seed=3)
    assert first != bootstrap_interval(scores, targets, names, draws=100, seed=4)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_blocks_of_draws_do_not_change_the_weights_law(monkeypatch):
    scores, targets = problem(0, clips=60)
    whole = bootstrap_interval(scores, targets, shared_sources(0, 60, 12), draws=400)
    monkeypatch.setattr("lib.metrics.BLOCK", 60 * 7)
    parts = bootstrap_interval(scores, targets, shared_sources(0, 60, 12), draws=400)
    assert parts.draws == 400
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.03)


def widening(sources):
    """How much wider the interval gets by sources, where one of two heads fails on every other source."""
    rng = np.random.default_rng(0)
    source = np.arange(120) % sources
    targets = (rng.random((120, 5)) < 0.3).astype(int)
    good = targets + 0.3 * rng.normal(size=(120, 5))
    fails = np.where((source % 2 == 0)[:, None], rng.normal(size=(120, 5)), good)
    clips = paired_bootstrap(good, fails, targets, None, draws=600)
    grouped = paired_bootstrap(good, fails, targets, source.tolist(), draws=600)
    return (grouped.high - grouped.low) / (clips.high - clips.low)


def test_the_fewer_the_sources_the_wider_the_interval_compared_with_clips_alone():
    assert 1.2 < widening(40) < 0.8 * widening(4)


def test_sources_of_one_clip_each_leave_the_clip_bootstrap_as_it_is():
    scores, targets = problem(0)
    alone = bootstrap_interval(scores, targets, None, draws=100)
    for sources in ([f"clip-{i}" for i in range(40)], list(range(40)), [[i, -i - 1] for i in range(40)]):
        assert bootstrap_interval(scores, targets, sources, draws=100) == alone


def test_a_source_may_be_named_alone_and_a_clip_may_have_none():
    scores, targets = problem(0)
    named = [f"recording-{i % 7}" for i in range(40)]
    alone = bootstrap_interval(scores, targets, named, draws=100)
    assert alone == bootstrap_interval(scores, targets, [[name] for name in named], draws=100)
    assert bootstrap_interval(scores, targets, [[], *named[1:]], draws=100) != alone


def test_a_draw_with_nothing_to_measure_is_dropped():
    targets = np.zeros((6, 2), int)
    targets[0] = 1
    scores = np.arange(12.0).reshape(6, 2)
    result = bootstrap_interval(scores, targets, None, draws=400)
    assert 0.5 * 400 < result.draws < 0.8 * 400  # clip 0 is in 1 − (5/6)^6 = 67 % of the draws


# ---- clear errors

S, T = problem(0)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.where(np.arange(40)[:, None] == 7, np.nan, S), T, "scores of clip 7 are not all finite"),
        (np.where(S > 2, np.inf, S), T, "are not all finite"),
        (S[:, :4], T, r"one shape \(clips, classes\), got \(40, 4\) and \(40, 5\)"),
        (S[:0], T[:0], r"got \(0, 5\) and \(0, 5\)"),
        (S[:, 0], T[:, 0], r"got \(40,\) and \(40,\)"),
        (S, T * 2, "Targets must be 0 or 1"),
        (S, T + 0.5, "Targets must be 0 or 1"),
        ([["a", "b"]], [[0, 1]], "Scores must be an array of real numbers"),
    ],
)
@pytest.mark.parametrize("metric", [average_precision, mean_average_precision, accuracy])
def test_what_cannot_be_measured_is_refused_in_one_sentence(metric, scores, targets, message):
    with pytest.raises(InputError, match=message):
        metric(scores, targets)


def test_no_class_with_a_positive_is_an_error():
    with pytest.raises(InputError, match="None of the 5 classes has a positive clip"):
        mean_average_precision(S, np.zeros_like(T))


def test_accuracy_needs_one_class_per_clip():
    with pytest.raises(InputError, match="one class per clip, but clip 0 has 5"):
        accuracy(S, T)


@pytest.mark.parametrize(
    ("weights", "message"),
    [(np.ones(39), r"one per clip, got \(39,\)"), (-np.ones(40), "not negative"), (np.full(40, np.nan), "finite")],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(InputError, match=message):
        average_precision(S, T, weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "mapp"}, "Unknown metric 'mapp'; choose one of: map, accuracy. Did you mean 'map'"),
        ({"sources": ["a"] * 39}, "sources of each of the 40 clips, got 39"),
        ({"draws": 0}, "one or more, got 0"),
        ({"scores_b": S[:39]}, r"got \(39, 5\) and \(40, 5\)"),
        ({"scores_b": S[None, None]}, r"\(seeds, clips, classes\), got \(1, 1, 40, 5\)"),
    ],
)
def test_a_wrong_bootstrap_is_refused_in_one_sentence(changes, message):
    arguments = {"scores_a": S, "scores_b": S, "targets": T, "sources": None, "draws": 10} | changes
    with pytest.raises(InputError, match=message):
        paired_bootstrap(**arguments)
