import numpy as np
import pytest
from scipy import stats

from harness import statistics
from harness.statistics import bootstrap_interval, grid, holm, mean, pair, paired_difference, seed_variance
from harness.statistics import sign_flip_p_value as p_value

NAN = float("nan")


def of(rows: dict[int, list[float | None]]) -> statistics.Grid:
    """Seed -> values of the questions a, b, c, ..., None where there is none."""
    named = {seed: zip("abcdefgh", row, strict=False) for seed, row in rows.items()}
    return grid({seed: {name: value for name, value in row if value is not None} for seed, row in named.items()})


def test_grid_puts_values_in_place_and_marks_what_is_missing():
    both = grid({2: {"b": 3.0}, 1: {"a": 1.0, "b": 2.0}, 7: {}}, {1: {"a": 4.0}})
    assert both.seeds == (1, 2)  # seed 7 has no value
    assert both.questions == ("a", "b")
    np.testing.assert_array_equal(both.values, [[1, 2], [NAN, 3]])
    np.testing.assert_array_equal(both.weights, [[4, 1], [1, 1]])


def test_grid_of_nothing_is_empty():
    assert grid({}).values.shape == (0, 0)
    assert grid({1: {}}).seeds == ()


def test_mean_counts_every_run_once():
    values = np.array([[1.0, 3.0], [NAN, 10.0]])
    assert mean(values) == 6.0  # (2 + 10) / 2, not (1 + 3 + 10) / 3
    assert mean(values, np.array([[3.0, 1.0], [3.0, 1.0]])) == 5.75  # (1.5 + 10) / 2


def test_seed_variance_is_what_questions_do_not_explain():
    assert seed_variance(np.array([[1.0, 3.0], [5.0, 7.0]])) == 8.0  # means 2 and 6, no rest
    # Means 2 and 6 again; within the questions u = -.5, .5 against .5, -.5: variance .5 each, so 8 - 1.
    assert seed_variance(np.array([[1.0, 3.0], [7.0, 5.0]])) == pytest.approx(7.0)
    assert seed_variance(np.array([[1.0, 9.0], [9.0, 1.0]])) == 0.0  # equal means: cut at 0
    assert seed_variance(np.array([[1.0, 9.0]])) == 0.0


def test_seed_variance_has_no_bias():
    """Unequal weights and missing values; V_seed is 4, so large that the cut at 0 rarely matters."""
    rng = np.random.default_rng(3)
    weights = rng.uniform(0.5, 2.0, 25) * np.ones((6, 1))
    estimates = []
    for _ in range(2000):
        values = 2 * rng.normal(size=(6, 1)) + 3 * rng.normal(size=25) + 3 * rng.normal(size=(6, 25))
        values[rng.random(values.shape) < 0.1] = NAN
        estimates.append(seed_variance(values, weights))
    assert np.mean(estimates) == pytest.approx(4.0, abs=4 * np.std(estimates) / 2000**0.5)


def test_interval_of_one_seed_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=60)
    ours = bootstrap_interval(values[None], draws=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    tolerance = 0.03 * (theirs.high - theirs.low)  # Monte Carlo error of both
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=tolerance)


def test_weighted_interval_agrees_with_scipy():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=50), rng.uniform(0, 3, 50)
    ours = bootstrap_interval(values[None], weights[None], level=0.9, draws=20_000)

    def weighted_mean(v, w, axis):
        return (v * w).sum(axis) / w.sum(axis)

    theirs = stats.bootstrap(
        (values, weights),
        weighted_mean,
        paired=True,
        confidence_level=0.9,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    tolerance = 0.03 * (theirs.high - theirs.low)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=tolerance)


def test_seeds_that_repeat_each_other_add_nothing():
    """Clusters: the same 40 answers three times are not 120 answers."""
    values = np.random.default_rng(0).normal(size=(1, 40))
    thrice, once = bootstrap_interval(np.repeat(values, 3, axis=0)), bootstrap_interval(values)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_interval_of_seeds_alone_is_students():
    """No difference between questions: mean 2 +- t(2 degrees) * sd / sqrt(3), with sd 1."""
    interval = bootstrap_interval(np.array([[1.0], [2.0], [3.0]]) * np.ones(30))
    half = stats.t.ppf(0.975, 2) / 3**0.5
    assert (interval.value, interval.low, interval.high) == pytest.approx((2, 2 - half, 2 + half), rel=0.01)


def test_no_interval_from_one_question():
    interval = bootstrap_interval(np.array([[3.0], [5.0]]))
    assert interval.value == 4.0
    assert np.isnan([interval.low, interval.high]).all()


def test_missing_values_do_not_count():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 50))
    holes = np.concatenate([values, np.full((1, 50), NAN)], axis=1)
    ours, full = bootstrap_interval(holes), bootstrap_interval(values)
    assert ours.value == pytest.approx(full.value)
    assert ours.high - ours.low == pytest.approx(full.high - full.low, rel=0.1)


def test_resamples_without_any_value_are_left_out():
    interval = bootstrap_interval(np.array([[1.0, 2.0, NAN, NAN, NAN, NAN], [NAN, NAN, 1.0, 2.0, NAN, NAN]]))
    assert 1.0 <= interval.low <= 1.5 <= interval.high <= 2.0


def test_draws_in_chunks_are_the_same(monkeypatch):
    values = np.random.default_rng(0).normal(size=(2, 30))
    whole = bootstrap_interval(values, draws=500), p_value(values + 0.2, draws=500)
    monkeypatch.setattr(statistics, "CHUNK", 30 * 64)
    statistics.resamples.cache_clear()
    assert (bootstrap_interval(values, draws=500), p_value(values + 0.2, draws=500)) == whole


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # only +++ and --- reach 6
        ([1.0, 2.0, -3.0, 4.0], 10 / 16),  # |sum| >= 4: all but the 6 patterns of sum +-2 and 0
        ([1.0, 1.0, 0.0, 0.0], 2 / 4),  # ties carry no sign
        ([0.0, 0.0], 1.0),
        ([5.0], 1.0),
    ],
)
def test_sign_flips_by_hand(row, expected):
    assert p_value(np.array([row])) == pytest.approx(expected)


def test_sign_flips_agree_with_scipy():
    values = np.random.default_rng(0).normal(0.5, 1.0, 12)
    exact = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert p_value(values[None]) == pytest.approx(exact)
    values = np.random.default_rng(0).normal(0.2, 1.0, 70)
    sampled = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=50_000, rng=np.random.default_rng(1)
    ).pvalue
    assert 0.01 < sampled < 0.9
    assert p_value(values[None], draws=50_000) == pytest.approx(sampled, abs=0.01)


def test_p_value_is_never_zero():
    assert p_value(np.full((1, 200), 5.0), draws=999) == 1 / 1000


def test_p_value_of_seeds_alone_is_students():
    """No difference between questions: the t test of three runs, whatever the number of questions."""
    values = np.array([[1.0], [2.0], [3.0]]) * np.ones(300)
    assert p_value(values) == pytest.approx(stats.ttest_1samp([1.0, 2.0, 3.0], 0).pvalue, rel=0.05)


def test_pair_takes_what_both_have():
    a = of({0: [5, 6, None, 1], 1: [7, 8, 9, None], 5: [1, 1, 1, 1]})
    both, dropped = pair(a, of({0: [1, None, 2], 1: [2, 2, 2]}))
    assert both.seeds == (0, 1)
    assert both.questions == ("a", "b", "c")
    np.testing.assert_array_equal(both.values, [[4, NAN, NAN], [5, 6, 7]])
    assert dropped == 3  # seed 0: b, c and d on one side only


def test_pair_of_one_model_with_every_seed():
    method, base = of({0: [5, 6], 1: [7, 8]}), of({3: [1, 2]})
    both, dropped = pair(method, base)
    assert (both.seeds, dropped) == ((0, 1), 0)
    np.testing.assert_array_equal(both.values, [[4, 4], [6, 6]])
    np.testing.assert_array_equal(pair(base, method)[0].values, [[-4, -4], [-6, -6]])


def test_pair_weights_are_the_mean_of_both():
    a = grid({0: {"a": 1.0, "b": 5.0}}, {0: {"a": 1.0, "b": 2.0}})
    b = grid({0: {"a": 0.0, "b": 1.0}}, {0: {"a": 1.0, "b": 4.0}})
    assert paired_difference(a, b).value == 3.25  # (1 * 1 + 3 * 4) / (1 + 3)


def test_nothing_in_common_is_no_difference():
    assert paired_difference(of({0: [1], 1: [1]}), of({2: [1], 3: [1]})) is None
    assert paired_difference(of({0: [None, 1]}), of({0: [1, None]})) is None
    assert paired_difference(of({}), of({0: [1]})) is None


def test_paired_difference_by_hand():
    result = paired_difference(of({0: [5, 6, 7]}), of({0: [4, 4, 4, 9]}))
    assert (result.value, result.p_value) == (2.0, 2 / 8)
    assert (result.seeds, result.questions, result.dropped) == (1, 3, 1)
    assert 1.0 <= result.low < 2.0 < result.high <= 3.0


def test_pairing_takes_the_difficulty_of_questions_out():
    rng = np.random.default_rng(0)
    hard, gain = rng.normal(0, 10, 100), rng.normal(1, 1, 100)
    names = [str(i) for i in range(100)]
    a, b = (grid({0: dict(zip(names, row, strict=True))}) for row in (hard + gain, hard))
    alone, paired = bootstrap_interval(a.values), paired_difference(a, b)
    assert alone.high - alone.low > 5 * (paired.high - paired.low)
    assert paired.p_value < 0.001


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def simulate(seeds: int, seed_sd: float, question_sd: float, rest_sd: float, times: int = 2000) -> tuple[float, float]:
    """How often the interval holds the truth, and how often p < 0.05 although the truth is 0, at 60 questions."""
    rng = np.random.default_rng(17)
    covered = alarms = 0
    for _ in range(times):
        values = seed_sd * rng.normal(size=(seeds, 1)) + question_sd * rng.normal(size=60)
        values = values + rest_sd * rng.normal(size=(seeds, 60))
        interval = bootstrap_interval(values, draws=1000)
        covered += interval.low <= 0 <= interval.high
        alarms += p_value(values, draws=500) < 0.05
    return covered / times, alarms / times


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "question_sd", "rest_sd"),
    [(1, 0.0, 1.0, 0.0), (3, 0.0, 1.0, 0.1), (3, 0.3, 1.0, 1.0), (3, 2.0, 1.0, 1.0), (5, 0.3, 1.0, 1.0)],
)
def test_calibrated(seeds, seed_sd, question_sd, rest_sd):
    coverage, alarms = simulate(seeds, seed_sd, question_sd, rest_sd)
    assert 0.93 <= coverage <= 0.97
    assert 0.04 <= alarms <= 0.06


def test_cautious_where_runs_only_seem_to_vary():
    """No variance between runs, but three seeds can not show that: a little wide, never too narrow."""
    coverage, alarms = simulate(3, 0.0, 0.0, 1.0)
    assert 0.95 <= coverage <= 0.98
    assert 0.015 <= alarms <= 0.05
