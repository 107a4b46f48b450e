"""AlpacaEval's length-controlled win rate: the package's own number, and fits that are as good as liblinear's."""

import random
import warnings

import numpy as np
import pytest

from harness.benchmarks import alpaca_win_rates
from harness.benchmarks.alpaca_win_rates import (
    JudgedPair,
    Problem,
    import_package,
    length_controlled,
    official_index,
    refit,
    win_rates,
)
from harness.benchmarks.files import read_rows


@pytest.fixture(scope="module")
def gamed(data_dir):
    return data_dir / "alpaca_eval" / "df_gamed_reconstructed.csv"


@pytest.fixture(scope="module")
def rows(data_dir):
    return read_rows(data_dir / "alpaca_eval" / "annotations" / "claude-2.1.json.gz", instruction=str)


def comparisons(rows):
    return [
        JudgedPair(official_index(row["instruction"]), row["preference"], row["output_1"], row["output_2"])
        for row in rows
    ]


def package(rows, gamed, monkeypatch, indexed=True):
    """The package's own function; with a column `index` it does not go by the position of a row."""
    import_package()
    from alpaca_eval.metrics import glm_winrate

    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_where: str(gamed))
    own = [row | ({"index": official_index(row["instruction"])} if indexed else {}) for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = glm_winrate.get_length_controlled_winrate(own, save_weights_dir=None)
    return found["length_controlled_winrate"]


def test_the_package_s_own_number(rows, gamed, monkeypatch):
    ours = length_controlled(comparisons(rows), gamed, resamples=2).value
    assert ours == pytest.approx(package(rows, gamed, monkeypatch, indexed=False), abs=1e-9)


def test_partial_and_reordered_rows_have_their_own_difficulties(rows, gamed, monkeypatch):
    """The trap: without the right index the package gives each row the difficulty of its position."""
    part = [row for place, row in enumerate(rows) if place % 5]
    right = package(part, gamed, monkeypatch)
    assert abs(package(part, gamed, monkeypatch, indexed=False) - right) > 0.1
    shuffled = random.Random(1).sample(part, len(part))
    assert length_controlled(comparisons(shuffled), gamed, resamples=2).value == pytest.approx(right, abs=1e-9)


def test_a_row_without_a_preference_is_predicted_as_in_the_package(rows, gamed, monkeypatch):
    some = [row | ({"preference": None} if place % 7 == 0 else {}) for place, row in enumerate(rows)]
    ours = length_controlled(comparisons(some), gamed, resamples=2).value
    assert ours == pytest.approx(package(some, gamed, monkeypatch), abs=1e-9)


@pytest.mark.parametrize(("strength", "zeros"), [(1e-3, 3), (0.02, 2), (0.3, 1), (100.0, 0)])
def test_refit_minimizes_what_liblinear_minimizes(strength, zeros):
    """Weighted, soft targets, L1; with some coefficients at zero when the penalty is strong."""
    import_package()
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(4)
    features = draw.normal(size=(400, 3))
    targets = 1 / (1 + np.exp(-features @ [1.5, 0.1, -0.6] + draw.normal(size=400)))
    weights = draw.integers(0, 4, size=400) * 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = LogisticRegression(
            C=strength, penalty="l1", solver="liblinear", fit_intercept=False, tol=1e-10, max_iter=100000
        ).fit(
            np.vstack([features, features]),
            np.repeat([1, 0], 400),
            sample_weight=np.concatenate([weights * targets, weights * (1 - targets)]),
        )
    for start in (np.zeros(3), np.array([-3.0, 5.0, 2.0])):
        ours = refit(Problem(features, targets, weights), strength, start)
        assert ours == pytest.approx(theirs.coef_[0], abs=1e-5)
        assert (ours == 0).sum() == (theirs.coef_ == 0).sum() == zeros


@pytest.mark.parametrize("number", [2, 3, 9, 60])
@pytest.mark.parametrize("preferences", [(1,), (2,), (1.5,), (2, 1), (1, 1.2, None)])
def test_few_or_one_sided_preferences_have_an_interval(rows, gamed, number, preferences):
    """Perfectly separated, or a resample of one row again and again: still a number, and no warning."""
    some = [
        JudgedPair(each.index, preferences[place % len(preferences)], each.reference, each.output)
        for place, each in enumerate(comparisons(rows)[:number])
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = length_controlled(some, gamed, resamples=60)
    low, high = found.interval
    assert 0 <= low <= found.value <= high <= 100


def test_each_resample_is_fitted_as_the_package_would(rows, gamed, monkeypatch):
    """The package's function on the rows drawn; it may choose another strength of regularization for them."""
    fitted = []
    monkeypatch.setattr(alpaca_win_rates, "_interval", lambda rates: fitted.extend(rates) or (0.0, 100.0))
    length_controlled(comparisons(rows), gamed, seed=3, resamples=3)
    draw = np.random.default_rng(3)
    for ours in fitted:
        drawn = [rows[place] for place in sorted(draw.integers(805, size=805))]
        assert ours == pytest.approx(package(drawn, gamed, monkeypatch), abs=0.2)
    assert max(fitted) - min(fitted) > 0.5


def test_the_interval_is_seeded(rows, gamed):
    found = length_controlled(comparisons(rows), gamed, resamples=20)
    assert length_controlled(comparisons(rows[::-1]), gamed, resamples=20) == found
    other = length_controlled(comparisons(rows), gamed, seed=1, resamples=20)
    assert other.interval != found.interval and other.value == found.value


def test_win_rates_by_hand():
    """0, 50 and 100 percent: mean 50, standard deviation 50; a resample of three is 0 in 1 of 27."""
    found = win_rates([1, 0, 2], resamples=4000)
    assert (found["win_rate"], found["standard_error"]) == (50, pytest.approx(50 / np.sqrt(3)))
    assert found["win_rate_interval"] == (0, 100)
    assert win_rates([2])["standard_error"] is None


def test_lengths_without_a_spread(gamed):
    same = [JudgedPair(index, 1 + index % 2, "abc", "abcd") for index in range(100)]
    assert "divides by their spread" in length_controlled(same, gamed).reason
