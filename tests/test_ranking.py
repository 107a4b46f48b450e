"""Ranks, and the arithmetic of many methods at once: equal to the functions that take one."""

import math

import numpy as np
import pytest
from scipy.special import stdtr
from test_tables import cells, ledger, row, score

from harness import ranking, resampling, statistics
from harness.comparison import build
from harness.statistics import Grid
from harness.tables import to_markdown

EIGHT = 8  # questions: all differences of one sign give p = 2 / 2^8 = 0.0078


def grids(number: int, missing: float = 0.0, seeds: int = 3, questions: int = 60, weighted: bool = False) -> list[Grid]:
    rng = np.random.default_rng(number)
    names, found = tuple(f"{question:03}" for question in range(questions)), []
    for method in range(number):
        shape = (seeds, questions)
        values = rng.normal(size=shape) + 0.3 * rng.normal(size=(seeds, 1)) + 0.1 * method
        values[rng.random(shape) < missing] = np.nan
        weights = rng.integers(1, 3, shape).astype(float) if weighted else np.ones(shape)
        found.append(Grid(tuple(range(seeds)), names, values, weights))
    return found


@pytest.mark.parametrize("missing", [0.0, 0.04])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_many_methods_have_the_numbers_of_each(missing, weighted, seeds):
    """Signs are drawn for all questions, and none of these differences is 0: the p-values are the same, too."""
    own = grids(4, missing, seeds, weighted=weighted)
    for found, grid in zip(resampling.intervals(own), own, strict=True):
        expected = statistics.bootstrap_interval(grid.values, grid.weights)
        assert vars(found) == pytest.approx(vars(expected), abs=1e-12)
    for found, grid in zip(resampling.differences([(each, own[0]) for each in own[1:]]), own[1:], strict=True):
        assert vars(found) == pytest.approx(vars(statistics.paired_difference(grid, own[0])), abs=1e-12)


def test_p_values_where_some_differences_are_0():
    """Other signs then, of the same distribution: the standard error of p in 10,000 draws is at most 0.005."""
    rng = np.random.default_rng(1)
    values = np.where(rng.random((1, 200)) < 0.5, 0.0, rng.normal(0.25, 1.0, (1, 200)))
    grid = Grid((0,), tuple(map(str, range(200))), values, np.ones((1, 200)))
    expected = statistics.sign_flip_p_value(values)
    assert 0.02 < expected < 0.5
    assert resampling.p_values([grid])[0] == pytest.approx(expected, abs=0.02)


def test_grids_without_values_have_nothing():
    empty = Grid((), (), np.empty((0, 0)), np.empty((0, 0)))
    assert resampling.intervals([empty, *grids(1)])[0] is None
    assert resampling.differences([(empty, grids(1)[0])]) == [None]
    single = Grid((0,), ("q",), np.array([[3.0]]), np.ones((1, 1)))
    (found,) = resampling.intervals([single])
    assert found.value == 3.0 and math.isnan(found.low)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12, 30, 31])
def test_student_is_scipy_s(freedom):
    values = np.linspace(-40, 40, 201)
    assert resampling.student(freedom, values) == pytest.approx(stdtr(freedom, values), abs=1e-14)


def named(**methods: list[float]) -> dict:
    """A table of base and these methods, all at the same budget."""
    rows = [row("base", {"a": [score([0.0] * EIGHT)]})]
    return build([*rows, *(row(name, {"a": [score(values)]}) for name, values in methods.items())])


def test_the_rank_is_1_and_the_number_of_better_methods():
    """Three pairs, Holm: 0.0078 times 3, 2 and 1, all below 0.05. base was not trained and is not ranked."""
    table = named(low=[1.0] * EIGHT, high=[3.0] * EIGHT, middle=[2.0] * EIGHT)
    shown = cells(table)
    assert {name: shown[name]["a"].rank for name in shown} == {"base": None, "low": 3, "high": 1, "middle": 2}
    assert [name for name in shown if shown[name]["a"].best] == ["high"]
    assert table.pairs == 3
    text = to_markdown(table)
    assert "| **3.00** [3.00, 3.00] * #1" in text and "| 1.00 [1.00, 1.00] * #3" in text
    assert text.count("**") == 2
    assert "Holm's correction for 3 pairs of ranked methods." in text


def test_methods_that_can_not_be_told_apart_share_a_rank():
    """even - low is 1 or -1 in turn (p = 1), high is above both: high is first, low and even are second."""
    high, low, even = [9.0] * EIGHT, [2.0] * EIGHT, [3.0, 1.0] * (EIGHT // 2)
    shown = cells(named(low=low, even=even, high=high))
    assert {name: shown[name]["a"].rank for name in ("low", "even", "high")} == {"low": 2, "even": 2, "high": 1}
    shown = cells(named(low=low, even=even))
    assert {name: shown[name]["a"].rank for name in ("low", "even")} == {"low": 1, "even": 1}
    assert not any(shown[name]["a"].best for name in shown)


def test_no_rank_is_better_than_that_of_a_higher_mean():
    """Of three with the means 3, 2 and 1, the second alone is significantly worse than one of the others."""
    assert ranking._places([0, 1, 0], [3.0, 2.0, 1.0]) == [1, 2, 2]
    assert ranking._places([2, 0, 0], [1.0, 3.0, 2.0]) == [3, 1, 1]


def test_the_highest_score_alone_is_not_bold():
    """Seven questions: p = 2 / 2^7 = 0.0156 for each of 6 pairs, above 0.05 / 6 = 0.0083."""
    values = {name: [float(value)] * 7 for value, name in enumerate("wxyz", 1)}
    table = build([row("base", {"a": [score([0.0] * 7)]}), *(row(n, {"a": [score(v)]}) for n, v in values.items())])
    assert {each.cells["a"].rank for each in table.rows[1:]} == {1}
    assert "**" not in to_markdown(table)


def test_who_is_not_ranked_takes_no_part_in_ranks():
    """The best score has spent too much: the others are compared without it, and it has no rank."""
    scores = {"a": [score([5.0] * EIGHT)]}
    rows = [row("base", {"a": [score([0.0] * EIGHT)]}), row("x", {"a": [score([1.0] * EIGHT)]})]
    rows += [row("y", {"a": [score([2.0] * EIGHT)]}), row("z", {"a": [score([1.5] * EIGHT)]})]
    table = build([*rows, row("dear", scores, [ledger(2e12, 320_000)])])
    shown = cells(table)
    assert (shown["dear"]["a"].rank, shown["y"]["a"].rank, table.pairs) == (None, 1, 3)
    assert shown["y"]["a"].best


def test_one_ranked_method_has_no_rank():
    table = named(only=[1.0] * EIGHT)
    assert table.pairs == 0 and cells(table)["only"]["a"].rank is None
    assert "#" not in to_markdown(table)


def test_threshold_is_holm_s():
    rng = np.random.default_rng(0)
    for size in (1, 5, 40):
        p_values = rng.random(size) ** 4 * 0.1
        significant = [p < ranking.SIGNIFICANT for p in statistics.holm(p_values.tolist())]
        assert [p <= ranking.threshold(p_values) for p in p_values] == significant
    assert ranking.threshold(np.array([0.2, 0.9])) == -1.0


@pytest.mark.parametrize("case", ["complete", "missing", "weights", "seeds"])
def test_bounds_are_above_the_tests_and_those_of_each_pair(case):
    """Whichever way they are summed: all pairs at once, or one after the other."""
    own = grids(7, 0.03 if case == "missing" else 0.0, weighted=case == "weights")
    if case == "seeds":
        own[2] = Grid((1,), own[2].questions[:40], own[2].values[:1, :40], own[2].weights[:1, :40])
        own[4] = Grid((0, 2), own[4].questions, own[4].values[[0, 2]], own[4].weights[[0, 2]])
    bounds, tests = ranking.bounds(own), ranking.tests(own)
    for first, second in zip(*np.triu_indices(len(own), 1), strict=True):
        both, _ = statistics.pair(own[first], own[second])
        stack = resampling.Stack.of([both])
        alone = ranking.bound(stack.value, (stack.parts**2).sum(1), stack.spread(), stack.seeds)
        assert bounds.p_values[first, second] == pytest.approx(alone[0], abs=1e-9)
        assert bounds.apart[first, second] == pytest.approx(tests.apart[first, second], abs=1e-12)
        assert bounds.p_values[first, second] > tests.p_values[first, second] - 0.01


def test_the_bound_by_hand():
    """One seed: 2 exp(-x^2 / 2 sum of squares) = 2 exp(-9 / 2). Equal methods: 1."""
    found = ranking.bound(np.array([3.0, 0.0]), np.array([1.0, 0.0]), np.zeros(2), 1)
    assert found == pytest.approx([2 * math.exp(-4.5), 1.0])


def test_large_families_are_ranked_by_bounds():
    """25 methods: 300 pairs on each of two benchmarks, more than 10,000 patterns of signs can tell. Each is 0.5 above
    the one before on 400 questions: z is 0.5 / sqrt(400 * (0.5 / 400)^2) = 20 for neighbours."""
    questions = tuple(map(str, range(400)))
    own = {f"m{i}": Grid((0,), questions, np.full((1, 400), 0.5 * i), np.ones((1, 400))) for i in range(25)}
    found = ranking.rank({"a": own, "b": own})
    assert found.bounded and found.pairs == 600
    assert [standing.rank for standing in found.standings["b"].values()] == list(range(25, 0, -1))
    assert [name for name, standing in found.standings["a"].items() if standing.best] == ["m24"]
    same = {name: own["m0"] for name in own}
    assert {each.rank for each in ranking.rank({"a": same, "b": same}).standings["a"].values()} == {1}
