"""What a comparison can see: power, detectable effects and non-inferiority, against simulated experiments."""

from math import sqrt

import numpy as np
import pytest
from scipy.special import nctdtr, ndtr, stdtrit

from harness.statistics.estimates import Stack, estimates
from harness.statistics.grids import grid
from harness.statistics.power import (
    Mix,
    Variance,
    cheapest,
    detectable,
    half_width,
    margin_for,
    minimum_detectable_effect,
    non_inferiority,
    power_of,
    questions_needed,
    variance,
)

TIMES = 1500
SPREADS = [(0.0, 1.0, 1.0, 3), (0.1, 1.0, 1.0, 5), (0.3, 1.0, 1.0, 3), (0.0, 0.3, 1.0, 5)]  # seed, question, rest, S


def draw(rng, seeds, seed, rest, question):
    """Values of S seeds on the questions whose effects are given."""
    return rng.normal(0, seed, (seeds, 1)) + question + rng.normal(0, rest, (seeds, len(question)))


def many(rng, seeds, seed, question, rest, questions, effect=0.0, times=TIMES):
    """The estimates of so many experiments."""
    values = effect + rng.normal(0, question, (times, 1, questions)) + rng.normal(0, rest, (times, seeds, questions))
    values = values + rng.normal(0, seed, (times, seeds, 1))
    return estimates(Stack(values, np.ones_like(values)))


def grid_of(values):
    return grid({seed: {str(place): value for place, value in enumerate(row)} for seed, row in enumerate(values)})


def test_the_parts_of_a_known_variance():
    """Questions alone: deviations -1, 0, 1 of a mean have the variance (1 + 0 + 1) / 2. Seeds that add 0 and 2: 2.
    A rest of +-1, by seed and question crosswise: 4 squares of 1 over (2 - 1) (2 - 1) degrees of freedom."""
    questions = np.array([[1.0, 2.0, 3.0]] * 2)
    assert variance(questions) == Variance(pytest.approx(1.0), 0.0, 0.0)
    assert variance(questions + [[0.0], [2.0]]) == Variance(pytest.approx(1.0), pytest.approx(0.0), pytest.approx(2.0))
    crosswise = variance(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert (crosswise.question, crosswise.seed) == (0.0, 0.0) and crosswise.rest == pytest.approx(4.0)
    assert variance(np.array([[1.0, 2.0, 3.0]])) == Variance(pytest.approx(1.0), 0.0, 0.0)


def test_the_parts_are_found_on_average():
    rng = np.random.default_rng(0)
    found = [variance(draw(rng, 4, 0.5, 1.0, rng.normal(0, 2.0, 50))) for _ in range(400)]
    assert np.mean([each.question for each in found]) == pytest.approx(4.0, rel=0.05)
    assert np.mean([each.rest for each in found]) == pytest.approx(1.0, rel=0.02)
    assert np.mean([each.seed for each in found]) == pytest.approx(0.25, rel=0.15)


def test_one_seed_is_the_normal_test():
    effect, questions = 0.25, 100
    least = stdtrit(99, 0.975) / 10
    expected = ndtr((effect - least) * 10) + ndtr((-effect - least) * 10)
    assert power_of(effect, Variance(1.0, 0.0, 0.0), 1, questions) == pytest.approx(expected, abs=1e-9)
    assert power_of(0.0, Variance(1.0, 0.0, 0.0), 1, questions) == pytest.approx(0.05, abs=0.003)


@pytest.mark.parametrize(("seed", "question", "rest", "seeds"), SPREADS)
def test_power_is_as_promised(seed, question, rest, seeds):
    rng = np.random.default_rng(1)
    true = Variance(question**2, rest**2, seed**2)
    effect = minimum_detectable_effect(true, seeds, 60)
    assert power_of(effect, true, seeds, 60) == pytest.approx(0.8, abs=1e-3)
    found = many(rng, seeds, seed, question, rest, 60, effect).p_values() < 0.05
    assert np.mean(found) == pytest.approx(0.8, abs=0.035)  # 3 standard errors are 0.031


def test_half_widths_are_as_promised():
    """Twenty experiments, from runs that do not vary to runs that are all of it: 19 are within 15 % of the promise."""
    rng = np.random.default_rng(4)
    settings = [
        (seeds, questions, seed, question, rest)
        for seeds, questions in ((2, 60), (3, 30), (3, 300), (5, 100), (12, 60))
        for seed, question, rest in ((0.0, 1.0, 0.5), (0.1, 0.5, 1.0), (0.3, 1.0, 1.0), (1.0, 1.0, 1.0))
    ]
    kept = 0
    for seeds, questions, seed, question, rest in settings:
        promised = half_width(Variance(question**2, rest**2, seed**2), seeds, questions)
        found = many(rng, seeds, seed, question, rest, questions, times=300).half_width().mean()
        kept += abs(found / promised - 1) < 0.15
    assert len(settings) == 20 and kept >= 19


def test_half_widths_are_as_promised_from_a_pilot():
    """Pilots of 12 seeds whose runs vary little, of 400 questions, for 5 seeds and 300: 19 of 20 within 15 %."""
    rng, kept = np.random.default_rng(5), 0
    for _ in range(20):
        pilot = draw(rng, 12, 0.05, 1.0, rng.normal(0, 1.0, 400))
        promised = half_width(variance(pilot), 5, 300)
        found = many(rng, 5, 0.05, 1.0, 1.0, 300, times=300).half_width().mean()
        kept += abs(found / promised - 1) < 0.15
    assert kept >= 19


def test_a_detectable_difference_is_that_of_the_paired_t_test():
    """Cohen 1988: ten pairs find a difference of 0.996 standard deviations in 80 % at 5 %."""
    assert detectable(1 / sqrt(10), 9) == pytest.approx(0.996, abs=1e-3)
    assert detectable(1.0, 1e9) == pytest.approx(1.960 + 0.8416, abs=1e-3)
    assert detectable(1.0, 2, 0.05 / 60) > 3 * detectable(1.0, 2)
    assert detectable(0.0, 5) == 0.0


def test_questions_that_are_needed():
    spread = Variance(1.0, 1.0, 0.0)
    effect = minimum_detectable_effect(spread, 3, 200)
    assert questions_needed(effect, spread, 3) == pytest.approx(200, abs=1)
    assert questions_needed(effect / 2, spread, 3) == pytest.approx(800, rel=0.03)
    assert questions_needed(0.5, Variance(1.0, 1.0, 1.0), 3) is None  # seeds vary more than that
    assert questions_needed(0.5, Variance(1.0, 1.0, 0.01), 3) is not None


def test_the_cheapest_mix_is_that_of_all():
    spread, effect = Variance(1.0, 1.0, 0.05), 0.4
    found = cheapest(effect, spread, 100.0, 0.5)
    costs = {
        seeds: seeds * (100.0 + 0.5 * needed)
        for seeds in range(3, 40)
        if (needed := questions_needed(effect, spread, seeds))
    }
    best = min(costs, key=costs.get)
    assert found == Mix(best, questions_needed(effect, spread, best), costs[best])
    assert power_of(effect, spread, found.seeds, found.questions) >= 0.8
    assert cheapest(effect, spread, 1.0, 0.5).seeds > found.seeds  # cheap runs: rather more of them
    assert cheapest(effect, spread, 100.0, 0.5, most_questions=found.questions - 1).seeds > found.seeds
    assert cheapest(0.01, Variance(1.0, 1.0, 1.0), 1.0, 1.0) is None


def test_non_inferiority_by_hand():
    """A score of 5 against 4 and 6: these have the variance 2 with one degree of freedom, so that the difference of 0
    has the standard error sqrt(2 (1 / 1 + 1 / 2)); t(0.95) of one degree of freedom is 6.314."""
    reference = grid({0: {"a": 3.0, "b": 5.0}, 1: {"a": 5.0, "b": 7.0}})
    new = grid({7: {"a": 4.0, "b": 6.0, "c": 100.0}})
    found = non_inferiority(new, reference, margin=2.5)
    assert (found.difference, found.questions, found.seeds, found.dropped) == (0.0, 2, (1, 2), 1)
    assert found.bound == pytest.approx(-6.3138 * sqrt(3), rel=1e-4) and not found.passed
    assert found.p_value == pytest.approx(np.arctan(sqrt(3) / 2.5) / np.pi)  # t with one degree of freedom is Cauchy's
    assert non_inferiority(grid({0: {"z": 1.0}}), reference, 1.0) is None
    with pytest.raises(ValueError, match="one seed"):
        non_inferiority(reference, new, 1.0)


@pytest.mark.parametrize(("spread", "seeds"), [(0.2, (1, 5)), (1.0, (2, 8)), (0.5, (3, 3))])
def test_non_inferiority_passes_as_often_as_it_says(spread, seeds):
    """Runs that are worse by the margin pass in 5 %, equal ones as often as the margin promises."""
    rng = np.random.default_rng(2)
    question, at_margin, equal = rng.normal(0, 1.0, 20), [], []
    margin = 3.5 * sqrt((spread**2 + 0.05) * (1 / seeds[0] + 1 / seeds[1]))
    for _ in range(TIMES):
        new, reference = (draw(rng, number, spread, 1.0, question) for number in seeds)
        equal.append(non_inferiority(grid_of(new), grid_of(reference), margin).passed)
        at_margin.append(non_inferiority(grid_of(new - margin), grid_of(reference), margin).passed)
    freedom = seeds[1] - 1
    promised = 1 - nctdtr(freedom, 3.5, stdtrit(freedom, 0.95))
    assert 0.037 <= np.mean(at_margin) <= 0.065
    assert np.mean(equal) == pytest.approx(promised, abs=0.035)


@pytest.mark.parametrize(("spread", "new_seeds", "power"), [(0.0, 1, 0.9), (0.3, 1, 0.99), (0.3, 2, 0.9)])
def test_a_margin_lets_equal_runs_pass(spread, new_seeds, power):
    rng = np.random.default_rng(3)
    passed = []
    for _ in range(TIMES):
        question = rng.normal(0, 1.0, 20)
        reference, new = (grid_of(draw(rng, number, spread, 1.0, question)) for number in (8, new_seeds))
        passed.append(non_inferiority(new, reference, margin_for(new_seeds, reference, 0.05, power)).passed)
    assert np.mean(passed) == pytest.approx(power, abs=3 * sqrt(power * (1 - power) / TIMES))


def test_non_inferiority_of_what_has_no_spread():
    same = grid({0: {"a": 1.0, "b": 0.0}, 1: {"a": 1.0, "b": 0.0}})
    lower = grid({5: {"a": 0.5, "b": -0.5}})
    found = non_inferiority(lower, same, margin=0.6)
    assert (found.difference, found.bound, found.power) == (-0.5, -0.5, 1.0) and found.passed
    assert not non_inferiority(lower, same, margin=0.4).passed
    assert margin_for(1, same, 0.05, 0.9) == 0.0
    with pytest.raises(ValueError, match="one seed"):
        margin_for(1, lower, 0.05, 0.9)


def test_two_questions_are_the_least():
    with pytest.raises(ValueError, match="one question"):
        power_of(1.0, Variance(1.0, 0.0, 0.0), 3, 1)
    assert minimum_detectable_effect(Variance(0.0, 0.0, 0.0), 3, 10) == 0.0
