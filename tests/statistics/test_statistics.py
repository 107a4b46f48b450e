import numpy as np
import pytest
from scipy import stats

from harness.statistics import estimates as statistics
from harness.statistics.estimates import Estimates, Stack, estimates, unpaired
from harness.statistics.grids import Grid, grid, match, mean, pair
from harness.statistics.intervals import differences, holm, intervals

NAN = float("nan")


def of(rows: dict[int, list[float | None]]) -> Grid:
    """Seed -> values of the questions a, b, c, ..., None where there is none."""
    named = {seed: zip("abcdefgh", row, strict=False) for seed, row in rows.items()}
    return grid({seed: {name: value for name, value in row if value is not None} for seed, row in named.items()})


def plain(values: np.ndarray, clusters: tuple[str, ...] = (), seeds: tuple[int, ...] | None = None) -> Grid:
    """Of an array (S, Q) of equal weights."""
    names = tuple(f"{place:04}" for place in range(values.shape[1]))
    return Grid(seeds or tuple(range(len(values))), names, values, np.ones_like(values), clusters)


def estimated(values: list | np.ndarray, clusters: tuple[str, ...] = ()) -> Estimates:
    return estimates(Stack.of([plain(np.array(values, dtype=float), clusters)]))


def p_value(values: np.ndarray) -> float:
    return float(estimated(values).p_values()[0])


def test_grid_puts_values_in_place_and_marks_what_is_missing():
    both = grid({2: {"b": 3.0}, 1: {"a": 1.0, "b": 2.0}, 7: {}}, {1: {"a": 4.0}}, {"b": "x"})
    assert both.seeds == (1, 2)  # seed 7 has no value
    assert both.questions == ("a", "b")
    np.testing.assert_array_equal(both.values, [[1, 2], [NAN, 3]])
    np.testing.assert_array_equal(both.weights, [[4, 1], [1, 1]])
    assert both.clusters == ("a", "cluster x")  # no question can have that name by chance and hang together with b
    assert grid({1: {"a": 1.0}}).clusters == ()


def test_grid_of_nothing_is_empty():
    assert grid({}).values.shape == (0, 0)
    assert grid({1: {}}).seeds == ()


def test_mean_counts_every_run_once():
    values = np.array([[1.0, 3.0], [NAN, 10.0]])
    assert mean(values) == 6.0  # (2 + 10) / 2, not (1 + 3 + 10) / 3
    assert mean(values, np.array([[3.0, 1.0], [3.0, 1.0]])) == 5.75  # (1.5 + 10) / 2


def test_the_parts_of_the_error_by_hand():
    """Seeds' means 2 and 6: variance 8, over 2 seeds. Questions' means 2 and 6, half of that each in the mean: twice
    (1 + 1); no rest."""
    found = estimated([[0.0, 4.0], [4.0, 8.0]])
    assert (found.value, found.runs, found.questions) == (4.0, 4.0, 4.0)
    # Freedom: half of the variance with 1, half with 1 degree.
    assert found.freedom == pytest.approx(1.0)
    # The seeds' means again, and a rest of +1 and -1 crosswise in place of the questions: it is in the seeds' part.
    found = estimated([[1.0, 3.0], [7.0, 5.0]])
    assert (found.value, found.runs, found.questions) == (4.0, 4.0, 0.0)


def test_seeds_that_agree_by_chance_are_taken_for_ties():
    """Equal means, although answers differ by 8: the variance of a mean is at least what chi-square of 1 degree (the
    square of a normal) has in 2 %, of the rest's 2 (16 + 16)."""
    found = estimated([[1.0, 9.0], [9.0, 1.0]])
    assert found.runs == pytest.approx(stats.norm.ppf(0.51) ** 2 * 2 * (16 + 16) / 2 / 2 * 2 / 2)


def test_the_freedom_lies_between_that_of_seeds_and_of_questions():
    """A quarter of the variance of 3 seeds, the rest of 51 questions: 1 / (1/4 / 2 + 3/4 / 50)."""
    ones = np.ones(1)
    found = Estimates(0 * ones, 3 * ones, ones, 51 * ones, 51 * ones, 2, ones)
    assert found.freedom == pytest.approx(1 / (0.125 + 0.015))
    assert Estimates(0 * ones, 3 * ones, 0 * ones, 51 * ones, 51 * ones, 0, ones).freedom == pytest.approx(50)


def test_one_seed_is_the_t_test_of_questions():
    values = np.random.default_rng(0).normal(0.3, 1.0, size=60)
    theirs = stats.ttest_1samp(values, 0)
    (ours,) = intervals([plain(values[None])])
    assert p_value(values[None]) == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_seeds_alone_are_the_t_test_of_seeds():
    """No difference between questions: mean 2 and the t test of three runs, whatever the number of questions."""
    values = np.array([[1.0], [2.0], [3.0]]) * np.ones(300)
    theirs = stats.ttest_1samp([1.0, 2.0, 3.0], 0)
    (ours,) = intervals([plain(values)])
    assert p_value(values) == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))


@pytest.mark.parametrize("seeds", [2, 3, 12])
def test_no_test_is_surer_than_the_t_test_on_the_means_of_seeds(seeds):
    rng = np.random.default_rng(seeds)
    for _ in range(300):
        values = rng.normal(size=(seeds, 1)) * rng.exponential() + rng.normal(size=(seeds, 30)) + rng.normal(size=30)
        values += rng.normal() * 3
        assert p_value(values) >= stats.ttest_1samp(values.mean(1), 0).pvalue - 1e-12


def test_weights_are_those_of_a_weighted_regression():
    """One seed: the squared error of a weighted mean is sum(w^2 (v - m)^2) / sum(w)^2, times Q / (Q - 1) (HC1 of a
    regression on a constant)."""
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=50), rng.uniform(0, 3, 50)
    found = estimates(Stack(values[None, None], weights[None, None]))
    centre = np.average(values, weights=weights)
    assert found.value == pytest.approx(centre)
    expected = 50 / 49 * (weights**2 * (values - centre) ** 2).sum() / weights.sum() ** 2
    assert found.questions == pytest.approx(expected)


def test_clusters_are_single_observations():
    """Each question four times over: the error is that of the questions, not of four times as many."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=20) + 0.3 * rng.normal(size=(3, 20))
    clusters = tuple(str(place // 4) for place in range(80))
    once, repeated = estimated(values), estimated(np.repeat(values, 4, axis=1), clusters)
    for name in ("value", "questions", "runs", "groups", "freedom"):
        assert getattr(repeated, name) == pytest.approx(getattr(once, name))
    alone = estimated(np.repeat(values, 4, axis=1))
    assert alone.questions < 0.3 * once.questions


def test_clustered_errors_are_those_of_the_paper():
    """Miller 2024, eq. 4: the sum over clusters of the products of all pairs of residuals in it, over Q^2; times the
    G / (G - 1) of few clusters."""
    rng = np.random.default_rng(1)
    values, names = rng.normal(size=12), tuple("aabbbccccddd")
    rest = values - values.mean()
    total = sum(rest[i] * rest[j] for i in range(12) for j in range(12) if names[i] == names[j])
    assert estimated(values[None], names).questions == pytest.approx(4 / 3 * total / 12**2)
    assert estimated(values[None], names).groups == 4


def test_seeds_that_repeat_each_other_add_nothing():
    """The same 40 answers three times are not 120 answers."""
    values = np.random.default_rng(0).normal(size=(1, 40))
    thrice, once = intervals([plain(np.repeat(values, 3, axis=0)), plain(values)])
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_no_interval_from_one_question():
    (interval,) = intervals([plain(np.array([[3.0], [5.0]]))])
    assert interval.value == 4.0
    assert np.isnan([interval.low, interval.high]).all()
    assert p_value(np.array([[3.0], [5.0]])) == 1.0


def test_missing_values_do_not_count():
    values = np.random.default_rng(0).normal(size=(1, 50))
    holes = np.concatenate([values, np.full((1, 50), NAN)], axis=1)
    ours, full = intervals([plain(holes), plain(values)])
    assert vars(ours) == pytest.approx(vars(full))


def test_many_grids_have_the_numbers_of_each():
    rng = np.random.default_rng(0)
    own = [plain(rng.normal(size=shape)) for shape in [(3, 20), (1, 20), (3, 20), (3, 9)]] + [of({})]
    assert intervals(own) == [intervals([each])[0] for each in own]
    sides = [(a, b) for a in own for b in own]
    for found, each in zip(differences(sides), sides, strict=True):
        (alone,) = differences([each])
        assert (found and vars(found)) == (alone and pytest.approx(vars(alone), abs=1e-12))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1.0, 1.0, 1.0], 2 / 8),  # only +++ and --- reach 3
        ([1.0] * 4, 2 / 16),
        ([1.0] * 4 + [0.0] * 200, 2 / 16),  # ties carry no sign
        ([0.0, 0.0], 1.0),
        ([5.0], 1.0),
    ],
)
def test_few_differences_are_no_surer_than_their_signs(row, expected):
    assert p_value(np.array([row])) == pytest.approx(expected)


def test_an_interval_of_few_differences_holds_0():
    values = np.zeros((3, 200))
    values[:, :5] = 1.0
    (found,) = differences([(plain(values), plain(np.zeros((3, 200))))])
    assert found.p_value == 2 / 2**5 and found.low <= 0 < found.high


@pytest.mark.parametrize("right", [0, 1, 7, 30, 60])
def test_intervals_of_right_and_wrong_are_wilson_s(right):
    """scipy's for 60 answers, but for t in place of the normal and Q - 1 in place of Q; of one limit, 60 answers."""
    values = 100.0 * (np.arange(60) < right)
    (ours,) = intervals([plain(values[None])], (0, 100))
    k, number = stats.t.ppf(0.975, 59), 60 if right in (0, 60) else 59
    share = right / 60
    middle = (share + k**2 / (2 * number)) / (1 + k**2 / number)
    around = k * np.sqrt(share * (1 - share) / number + k**2 / (4 * number**2)) / (1 + k**2 / number)
    assert (ours.low, ours.high) == pytest.approx((100 * (middle - around), 100 * (middle + around)), abs=1e-9)
    theirs = stats.binomtest(right, 60).proportion_ci(0.95, "wilson")
    assert (ours.low, ours.high) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=0.5)


def test_near_a_limit_runs_do_not_add_questions():
    """Twelve runs that each fail on another question of 60: as sure as one run's 59, not as 720 answers. t has the 11
    degrees of freedom of the runs, as all varies with them."""
    values = np.full((12, 60), 100.0)
    values[range(12), range(12)] = 0.0
    (found,) = intervals([plain(values)], (0, 100))
    k, share = stats.t.ppf(0.975, 11), 59 / 60
    middle = (share + k**2 / (2 * 59)) / (1 + k**2 / 59)
    around = k * np.sqrt(share * (1 - share) / 59 + k**2 / (4 * 59**2)) / (1 + k**2 / 59)
    assert (found.low, found.high) == pytest.approx((100 * (middle - around), 100 * (middle + around)))


def test_intervals_stay_within_limits_of_grades():
    values = np.full((3, 30), 10.0)
    (perfect,) = intervals([plain(values)], (1, 10))
    k = stats.t.ppf(0.975, 29)
    assert (perfect.low, perfect.high) == pytest.approx((10 - 9 * k**2 / (30 + k**2), 10.0))
    (middling,) = intervals([plain(np.full((3, 30), 4.0))], (1, 10))
    assert (middling.low, middling.high) == (4.0, 4.0)
    beyond = np.array([[5.0, 11.0, 12.0]])
    assert intervals([plain(beyond)], (1, 10)) == intervals([plain(beyond)])


def test_pair_takes_what_both_have():
    a = of({0: [5, 6, None, 1], 1: [7, 8, 9, None], 5: [1, 1, 1, 1]})
    both, dropped = pair(a, of({0: [1, None, 2], 1: [2, 2, 2]}))
    assert both.seeds == (0, 1)
    assert both.questions == ("a", "b", "c")
    np.testing.assert_array_equal(both.values, [[4, NAN, NAN], [5, 6, 7]])
    assert dropped == 3  # seed 0: b, c and d on one side only


def test_clusters_of_either_side_count():
    a, b = of({0: [1, 2, 3, 4]}), of({0: [1, 1, 1, 1]})
    named = Grid(b.seeds, b.questions, b.values, b.weights, ("x", "x", "c", "d"))
    assert pair(a, named)[0].clusters == pair(named, a)[0].clusters == ("x", "x", "c", "d")
    assert differences([(a, named)])[0].clusters == 3 and differences([(a, b)])[0].clusters == 4


def test_pair_weights_are_the_mean_of_both():
    a = grid({0: {"a": 1.0, "b": 5.0}}, {0: {"a": 1.0, "b": 2.0}})
    b = grid({0: {"a": 0.0, "b": 1.0}}, {0: {"a": 1.0, "b": 4.0}})
    assert differences([(a, b)])[0].value == 3.25  # (1 * 1 + 3 * 4) / (1 + 3)


def test_nothing_in_common_is_no_difference():
    assert differences([(of({0: [None, 1]}), of({0: [1, None]}))]) == [None]
    assert differences([(of({0: [None, 1], 1: [None, 2]}), of({3: [1, None], 4: [1, None]}))]) == [None]
    assert differences([(of({}), of({0: [1]}))]) == [None]


def test_a_difference_by_hand():
    """1, 2 and 3 with the mean 2 and the standard error 1 / sqrt(3)."""
    (result,) = differences([(of({0: [5, 6, 7]}), of({0: [4, 4, 4, 9]}))])
    assert (result.value, result.seeds, result.questions, result.dropped) == (2.0, 1, 3, 1)
    assert (result.error, result.freedom) == pytest.approx((3**-0.5, 2))
    half = stats.t.ppf(0.975, 2) / 3**0.5
    assert (result.low, result.high) == pytest.approx((2 - max(half, 2), 2 + max(half, 2)))
    assert result.p_value == 2 / 8 and result.paired and not result.called


def test_pairing_takes_the_difficulty_of_questions_out():
    rng = np.random.default_rng(0)
    hard, gain = rng.normal(0, 10, 100), rng.normal(1, 1, 100)
    a, b = plain((hard + gain)[None]), plain(hard[None])
    (alone,), (paired,) = intervals([a]), differences([(a, b)])
    assert alone.high - alone.low > 5 * (paired.high - paired.low)
    assert paired.p_value < 0.001


@pytest.mark.parametrize(
    ("first", "second", "paired", "seeds"),
    [
        ((0, 1, 2), (0, 1, 2), True, 3),
        ((0, 1, 2, 3, 4), (1, 2, 3), True, 3),
        ((0, 1, 2), (2, 3, 4), False, 3),
        ((0, 1), (0, 1), True, 2),
        ((0, 1, 2), (0, 1), False, 2),
        ((0, 1, 2, 3, 4), (0,), False, 1),
        ((3,), (0,), True, 1),
    ],
)
def test_which_runs_are_paired(first, second, paired, seeds):
    rng = np.random.default_rng(0)
    a, b = (plain(rng.normal(size=(len(own), 30)), seeds=own) for own in (first, second))
    assert (match(a, b).other is None) == paired
    (found,) = differences([(a, b)])
    assert (found.paired, found.seeds, found.called) == (paired, seeds, seeds >= 3)


def test_other_seeds_are_two_samples():
    """No difference between questions: Student's t for two groups, with the freedom of the smaller one."""
    a, b = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 1.0, 3.0])
    sides = plain(a[:, None] * np.ones(40)), plain(b[:, None] * np.ones(40), seeds=(5, 6, 7, 8))
    (found,) = differences([sides])
    error = np.sqrt(a.var(ddof=1) / 3 + b.var(ddof=1) / 4)
    assert (found.value, found.error, found.freedom) == pytest.approx((a.mean() - b.mean(), error, 2))
    assert found.p_value == pytest.approx(2 * stats.t.sf(found.value / error, 2))


def test_one_run_varies_as_those_of_the_other_side():
    """Student's t for a new observation: the standard deviation times sqrt(1 / 3 + 1)."""
    a = np.array([1.0, 2.0, 4.0])
    (found,) = differences([(plain(a[:, None] * np.ones(40)), plain(np.zeros((1, 40)), seeds=(9,)))])
    error = a.std(ddof=1) * np.sqrt(1 / 3 + 1)
    assert (found.value, found.error, found.freedom) == pytest.approx((a.mean(), error, 2))


def test_questions_of_two_samples_are_paired():
    """Runs that do not vary at all: the test of the differences of questions, however hard these are."""
    rng = np.random.default_rng(0)
    hard, gain = rng.normal(0, 10, 50), rng.normal(1, 1, 50)
    first, second = (np.repeat(row[None], 3, axis=0) for row in (hard + gain, hard))
    sides = plain(first), plain(second, seeds=(3, 4, 5))
    (found,) = differences([sides])
    assert found.error == pytest.approx(stats.sem(gain))
    stacks = [Stack.of([side]) for side in sides]
    assert unpaired(*stacks).groups == 50 and found.p_value == pytest.approx(stats.ttest_1samp(gain, 0).pvalue)


def test_other_questions_of_two_samples_are_dropped():
    a, b = of({0: [1, 2, 3], 1: [2, 3, None]}), of({2: [1, None, 1, 5], 3: [0, None, 1, 5]})
    (found,) = differences([(a, b)])
    assert (found.questions, found.dropped) == (2, 4)  # b of one side (twice) and d of the other
    assert found.value == pytest.approx((2.0 + 2.0) / 2 - (1.0 + 0.5) / 2)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@pytest.mark.parametrize("tail", [0.05, 0.05 / 60])
@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_the_level_holds_in_the_tails(seeds, tail):
    """Integrated over what the variance between runs may be estimated as, where runs are from none to all of the
    variance: at most a tenth more false alarms than promised, at 5 % and at what Holm's correction asks of 60."""
    nodes = (np.arange(4000) + 0.5) / 4000
    of_runs = stats.chi2.ppf(nodes, seeds - 1) / (seeds - 1)
    for share in (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0):
        runs, questions = share * of_runs, np.full(4000, 1 - share)
        asked = np.full(4000, 300.0)
        found = Estimates(0 * runs, questions, runs, asked, asked, seeds - 1, questions)
        alarms = 2 * stats.norm.sf(found.half_width(1 - tail)).mean()
        assert alarms <= 1.1 * tail
        assert tail < 0.05 or seeds == 2 or 1 - alarms <= 0.97


def test_rounding_is_no_difference():
    values = np.array([[0.1 + 0.2, 0.3, 0.3]]) - 0.3
    assert statistics._count(values) == 1  # by itself
    assert statistics._count(np.array([[5.55e-17, 1.0, 1.0]])) == 2
