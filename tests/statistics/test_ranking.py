"""Ranks, and the comparison of all pairs at once: equal to that of each."""

import math
from dataclasses import replace

import numpy as np
import pytest
from table_rows import cells, ledger, row, score

from harness.statistics import intervals as statistics
from harness.statistics import ranking
from harness.statistics.grids import Grid
from harness.statistics.power import detectable
from harness.tables import to_markdown
from harness.tables.build import build

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


@pytest.mark.parametrize("case", ["complete", "missing", "weights", "seeds", "clusters", "nothing in common"])
def test_all_pairs_at_once_are_those_of_each(case):
    own = grids(7, 0.03 if case == "missing" else 0.0, weighted=case == "weights")
    if case == "seeds":
        own[2] = Grid((1, 5, 6), own[2].questions[:40], own[2].values[:, :40], own[2].weights[:, :40])
        own[4] = Grid((0, 2), own[4].questions, own[4].values[[0, 2]], own[4].weights[[0, 2]])
    if case == "clusters":
        clusters = tuple(str(place // 3) for place in range(60))
        own = [replace(each, clusters=clusters) for each in own]
    if case == "nothing in common":
        own[1].values[:, :30] = own[3].values[:, 30:] = np.nan
    found = ranking.compare(own)
    for first, second in zip(*np.triu_indices(len(own), 1), strict=True):
        (alone,) = statistics.differences([(own[first], own[second])])
        numbers = [part[first, second] for part in (found.apart, found.p_values, found.errors, found.freedom)]
        expected = [alone.value, alone.p_value, alone.error, alone.freedom] if alone else [math.nan] * 4
        assert numbers == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert np.isnan(found.apart[np.tril_indices(len(own))]).all()


def named(**methods: list[float]) -> dict:
    """A table of base and these methods, all at the same budget."""
    rows = [row("base", {"a": [score([0.0] * EIGHT)] * 3})]
    return build([*rows, *(row(name, {"a": [score(values)] * 3}) for name, values in methods.items())])


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
    rows = [row("base", {"a": [score([0.0] * 7)] * 3}), *(row(n, {"a": [score(v)] * 3}) for n, v in values.items())]
    table = build(rows)
    assert {each.cells["a"].rank for each in table.rows[1:]} == {1}
    assert "**" not in to_markdown(table)


def test_who_is_not_ranked_takes_no_part_in_ranks():
    """The best score has spent too much: the others are compared without it, and it has no rank."""
    scores = {"a": [score([5.0] * EIGHT)] * 3}
    rows = [row("base", {"a": [score([0.0] * EIGHT)] * 3}), row("x", {"a": [score([1.0] * EIGHT)] * 3})]
    rows += [row("y", {"a": [score([2.0] * EIGHT)] * 3}), row("z", {"a": [score([1.5] * EIGHT)] * 3})]
    table = build([*rows, row("dear", scores, [ledger(2e12, 320_000)] * 3)])
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


def test_many_methods_have_many_ranks():
    """25 methods with equal seeds: 300 pairs on each of two benchmarks. Each is 0.5 above the one before on all of
    40 questions: p is 2 / 2^40."""
    questions = tuple(map(str, range(40)))
    own = {f"m{i}": Grid((0, 1, 2), questions, np.full((3, 40), 0.5 * i), np.ones((3, 40))) for i in range(25)}
    found = ranking.rank({"a": own, "b": own})
    assert found.pairs == 600
    assert [standing.rank for standing in found.standings["b"].values()] == list(range(25, 0, -1))
    assert [name for name, standing in found.standings["a"].items() if standing.best] == ["m24"]
    same = {name: own["m0"] for name in own}
    assert {each.rank for each in ranking.rank({"a": same, "b": same}).standings["a"].values()} == {1}


def test_two_seeds_are_too_few_for_a_rank():
    """Nothing is said of a method with two seeds; the others are compared without it."""
    scores = {"x": [1.0] * EIGHT, "y": [2.0] * EIGHT, "few": [9.0] * EIGHT}
    rows = [row("base", {"a": [score([0.0] * EIGHT)] * 3})]
    rows += [row(name, {"a": [score(values)] * (2 if name == "few" else 3)}) for name, values in scores.items()]
    table = build(rows)
    shown = cells(table)
    assert {name: shown[name]["a"].rank for name in scores} == {"x": 2, "y": 1, "few": None}
    assert (table.pairs, table.comparisons, shown["few"]["a"].p_holm) == (1, 2, None)
    assert shown["y"]["a"].best and not shown["few"]["a"].best
    assert any("Fewer than 3 seeds (few 2)" in note for note in table.notes)
    assert "| 9.00 [9.00, 9.00] " in to_markdown(table)


def test_the_smallest_difference_that_can_be_seen_is_in_the_notes():
    """Two methods whose differences to each other have the standard error e and f degrees of freedom."""
    own = grids(3)
    table = build(
        [
            row(name, {"a": [score(list(values + 5)) for values in each.values]})
            for name, each in zip(("base", "x", "y"), own, strict=True)
        ]
    )
    (apart,) = statistics.differences([(own[1], own[2])])
    alone, corrected = table.detectable["a"]
    assert alone == corrected == pytest.approx(detectable(apart.error, apart.freedom))
    assert f"a {alone:.2g} ({alone:.2g})." in "".join(table.notes)
