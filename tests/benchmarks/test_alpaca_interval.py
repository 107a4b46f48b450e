"""The interval of the length-controlled win rate: how often it covers the truth, and its width on real files."""

import csv
import json
import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.benchmarks.alpaca_annotations import score_annotations, summary
from harness.benchmarks.alpaca_win_rates import JudgedPair, Problem, _design, _fit, bootstrap, official_index, refit
from harness.benchmarks.files import read_rows
from harness.cli import app

OWN = 160  # instructions of a simulated model
RUNS = 500  # of a simulation: a coverage of 95 % is then known to 1 point
DRAWS = 39  # the truth is outside the range of 39 resamples, as of 39 of its own kind, in 2 of 40
STRENGTH = 2.78  # as cross-validation chooses on real files
MODELS = ("FuseChat-Llama-3.1-8B-Instruct", "NullModel", "OpenHermes-2.5-Mistral-7B", "claude-2.1")
MODELS += ("gpt-3.5-turbo-1106", "vicuna-7b-v1.5")


def logistic(scores):
    return 1 / (1 + np.exp(-scores))


@pytest.mark.parametrize(("own", "longer"), [(-0.4, 0), pytest.param(-1.7, 300, marks=pytest.mark.slow)])
def test_intervals_cover_the_truth(own, longer):
    """Preferences that are nearly 0 or 1, as from log-probabilities, drawn from the logistic model itself; the gamed
    models lie on it. An interval from the package's standard error, which ignores the fit, would cover far too little.
    """
    draw = np.random.default_rng(0)
    slopes = np.array([-0.9, 1.0, own])
    difficulties = draw.normal(size=5000)
    truth = 100 * logistic(slopes[1] * difficulties + own).mean()
    shared = np.tile(draw.choice(difficulties, size=OWN), 2)
    lengths = np.tanh(draw.normal(np.repeat([-2, 2], OWN), 1))
    gamed = np.column_stack([lengths, shared, np.zeros(2 * OWN)])
    weights = np.repeat([0.1, 1.0], [2 * OWN, OWN])
    covered = ignoring_the_fit = 0
    for run in range(RUNS):
        difficulty, differences = draw.choice(difficulties, size=OWN), draw.normal(-longer, 400, size=OWN)
        columns = [np.tanh(differences / np.std(differences, ddof=1)), difficulty, np.ones(OWN)]
        chances = logistic(np.tanh(differences / 400) * slopes[0] + difficulty * slopes[1] + own)
        problem = Problem(
            np.vstack([gamed, np.column_stack(columns)]),
            np.concatenate([logistic(gamed @ slopes), draw.beta(chances / 2, (1 - chances) / 2)]),
            weights,
        )
        test = np.column_stack([np.zeros(OWN), difficulty, np.ones(OWN)])
        fitted = refit(problem, STRENGTH, np.zeros(3))
        rates = bootstrap(problem, test, differences, 0, STRENGTH, fitted, seed=run, resamples=DRAWS)
        covered += rates.min() < truth < rates.max()
        predicted = 100 * logistic(test @ fitted)
        ignoring_the_fit += abs(predicted.mean() - truth) < 1.96 * predicted.std(ddof=1) / np.sqrt(OWN)
    assert 0.93 <= covered / RUNS <= 0.97
    assert ignoring_the_fit / RUNS < 0.7


@pytest.fixture(scope="module")
def folder(data_dir):
    return data_dir / "alpaca_eval"


@pytest.mark.parametrize("model", MODELS)
def test_width_on_published_annotations(folder, model):
    """Against the delta method. Of a mean of predictions logistic(test . b), each own row shifts the mean by its own
    prediction, and the fit by its residual (Huber's sandwich). The first part alone is the leaderboard's error.
    """
    annotations, df_gamed = folder / "annotations" / f"{model}.json.gz", folder / "df_gamed_reconstructed.csv"
    with (folder / "weighted_alpaca_eval_gpt4_turbo_leaderboard.csv").open(encoding="utf-8") as file:
        (known,) = (row for row in csv.DictReader(file) if row[""] == model)
    rows = sorted(read_rows(annotations, instruction=str), key=lambda row: official_index(row["instruction"]))
    ordered = [JudgedPair(place, row["preference"], row["output_1"], row["output_2"]) for place, row in enumerate(rows)]
    train, test, weights = _design(ordered, df_gamed)
    b, test, weights = _fit(train, weights).coef_[0], test.to_numpy(), weights.to_numpy()
    targets, features = train.pop("preference").to_numpy(), train.to_numpy()
    chances, predicted = logistic(features @ b), logistic(test @ b)
    own = (predicted - predicted.mean()) / len(test)
    curvature = (features * (weights * chances * (1 - chances))[:, None]).T @ features
    slope = (test * (predicted * (1 - predicted))[:, None]).mean(0)
    residuals = (weights * (targets - chances))[-len(test) :]
    of_fit = residuals * (features[-len(test) :] @ np.linalg.solve(curvature, slope))
    if known["lc_standard_error"]:
        assert 100 * np.sqrt((own**2).sum()) == pytest.approx(float(known["lc_standard_error"]), rel=0.02)
    found = score_annotations(annotations, df_gamed=df_gamed)
    low, high = found["length_controlled_interval"]
    assert low < float(known["length_controlled_winrate"]) < high
    assert (high - low) / 2 == pytest.approx(1.96 * 100 * np.sqrt(((own + of_fit) ** 2).sum()), rel=0.12)
    assert found["interval"] == [low, high] and found["interval_of"] == "length_controlled_win_rate"


def test_same_input_same_bytes(folder):
    """What people see has the interval too."""
    command = ["score", "alpaca-eval", "--annotations", str(folder / "annotations" / "vicuna-7b-v1.5.json.gz")]
    command += ["--df-gamed", str(folder / "df_gamed_reconstructed.csv")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second, shown = (CliRunner().invoke(app, [*command, *more]) for more in (["--json"], ["--json"], []))
    assert first.output == second.output
    low, high = json.loads(first.output)["length_controlled_interval"]
    (line,) = (line for line in shown.output.splitlines() if line.startswith("length_controlled_interval"))
    assert line.split(None, 1)[1] == f"[{low:.4f}, {high:.4f}]".replace("0,", ",").replace("0]", "]")


def test_no_rate_no_interval():
    found = summary([JudgedPair(0, 1.0, "abc", "ab"), JudgedPair(1, 2.0, "abc", "abcd")], None)
    assert found["length_controlled_win_rate"] is None and found["length_controlled_interval"] is None
    assert found["length_controlled_reason"] == "no df_gamed.csv"
