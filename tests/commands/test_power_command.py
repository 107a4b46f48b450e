"""`harness power`: from a run, from a reference, from assumptions."""

import json

import pytest
from command_line import harness
from forged_run import forge
from paths import RESULTS

from harness.regression.pilots import pilots
from harness.statistics.power import Variance, half_width, minimum_detectable_effect, questions_needed

REFERENCE = RESULTS / "reference" / "testbed.json"


def power(*arguments, cwd) -> dict:
    return json.loads(harness("power", *arguments, "--json", cwd=cwd))


def test_assumptions(tmp_path):
    arguments = ("--question-sd", 30, "--rest-sd", 20, "--seed-sd", 1, "--seeds", "3,5", "--questions", 200)
    found = power(*arguments, "--difference", 4, "--tests", 10, cwd=tmp_path)
    assumed = Variance(900.0, 400.0, 1.0)
    (plan,) = found["benchmarks"]
    assert [(row["seeds"], row["questions"]) for row in plan["plans"]] == [(3, 200), (5, 200)]
    assert plan["plans"][1]["detectable"] == pytest.approx(minimum_detectable_effect(assumed, 5, 200, 0.005))
    assert plan["plans"][1]["half_width"] == pytest.approx(half_width(assumed, 5, 200))
    best = plan["cheapest"]
    assert best["questions"] == questions_needed(4.0, assumed, best["seeds"], 0.005)
    assert best["cost"] == pytest.approx(best["seeds"] * (1 + 0.001 * best["questions"]))
    text = harness("power", *arguments, "--difference", 4, cwd=tmp_path)
    assert "Cheapest for 4: " in text and "question 30, rest 20, seed 1." in text
    assert "No mix" in harness("power", "--question-sd", 1, "--seed-sd", 50, "--difference", 0.1, cwd=tmp_path)


def test_a_run_is_a_pilot(tmp_path):
    """Differences of 1 and 3 in turn, the same in each seed: a variance between questions of 1 * 20 / 19 alone."""
    low, high = [5.0] * 20, [6.0, 8.0] * 10
    forge(tmp_path / "run", {"mt-bench": {"base": [low] * 3, "sso": [low] * 3, "dpo": [high] * 3}})
    (plan,) = power("run", cwd=tmp_path)["benchmarks"]
    assert plan["pairs"] == ["sso - dpo"] and (plan["pilot_seeds"], plan["pilot_questions"]) == (3, 20)
    assert plan["sd"] == pytest.approx({"question": (20 / 19) ** 0.5, "rest": 0.0, "seed": 0.0})
    assert plan["costs"]["run"] == 90.0 and plan["plans"][0]["questions"] == 20
    (other,) = power("run", "--methods", "base,sso", cwd=tmp_path)["benchmarks"]
    assert other["sd"]["question"] == 0.0 and other["plans"][0]["detectable"] == 0.0


def test_a_pilot_of_one_seed_says_what_it_leaves_out(tmp_path):
    forge(tmp_path / "run", {"mt-bench": {"base": [[5.0, 6.0, 7.0]], "sso": [[6.0, 6.0, 9.0]]}})
    assert "The pilot has one seed" in harness("power", "run", cwd=tmp_path)


def test_a_reference_is_a_pilot(tmp_path):
    found = {each.benchmark: each for each in pilots(REFERENCE, ["sso", "dpo"])}
    assert set(found) == {"mt-bench", "reward-bench", "math"}
    assert found["math"].pairs == ("sso - dpo",) and found["math"].seeds == 16
    assert len(pilots(REFERENCE)[0].pairs) == 3  # dpo, ipo and sso


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either a PILOT"),
        ((REFERENCE, "--question-sd", 1), "give either a PILOT"),
        ((REFERENCE, "--methods", "sso"), "give two methods"),
        ((REFERENCE, "--methods", "sso,dpp"), "unknown method 'dpp': did you mean 'dpo'"),
        ((REFERENCE, "--seeds", "3;5"), "--seeds '3;5'"),
        ((REFERENCE, "--questions", "1"), "--questions '1'"),
        (("nowhere",), "not a run folder"),
    ],
)
def test_mistakes(tmp_path, arguments, message):
    assert message in " ".join(harness("power", *arguments, cwd=tmp_path, code=2).split())
