"""The kept tables of results/, judged by the rules that hold now."""

import judge_kept
import numpy as np
import pytest
from scipy.special import stdtrit

from harness.statistics.estimates import Stack, estimates


def test_what_is_kept_is_what_the_tables_give():
    """After a change of the rules: python tests/helpers/judge_kept.py, and results/README.md."""
    assert judge_kept.FILE.read_text() == judge_kept.text()


@pytest.mark.parametrize("seeds", [3, 5, 12])
def test_the_bounds_hold_what_the_values_would_have_given(seeds):
    """The interval that was kept, from known values: a normal with the clustered error of all seeds together, plus
    Student's t with what the variance of the seeds' means has beyond the rest."""
    rng = np.random.default_rng(seeds)
    for _ in range(20):
        values = rng.exponential() * rng.normal(size=(seeds, 1)) + rng.normal(size=120) + rng.normal(size=(seeds, 120))
        stack = Stack(values[None], np.ones((1, seeds, 120)))
        scale = np.array([120 / 119])
        together = float(scale[0] * (stack.rest.mean(1) ** 2).sum())
        beyond = max(0.0, float(stack.means.var(ddof=1) - stack.within(scale)[0]))
        noise = np.sqrt(beyond / seeds) * stdtrit(seeds - 1, (rng.permutation(40_000) + 0.5) / 40_000)
        half = np.quantile(np.abs(np.sqrt(together) * rng.normal(size=40_000) + noise), 0.95)
        found = judge_kept.bounds(list(values.mean(1)), float(half), 120)
        (p_value,) = estimates(stack).p_values()
        assert found.low * 0.97 <= p_value <= found.high * 1.03
