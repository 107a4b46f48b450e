"""Every number of a run is traced to its files and computed again; what was changed is found."""

import json
import shutil
import subprocess
import sys

import pytest
from test_cli import SMALL, harness

from harness.store import file_digest

RUN = "results/runs/small"


@pytest.fixture(scope="module")
def place(testbed_model_dir, tmp_path_factory):
    place = tmp_path_factory.mktemp("verify")
    harness("run", "--method", "dpo", *SMALL, "--benchmark", "mt-bench,math", cwd=place)
    return place


@pytest.fixture
def copy(place, tmp_path):
    shutil.copytree(place / "results", tmp_path / "results")
    return tmp_path


def verify(where, code=1):
    out = where / "report.json"
    command = ("verify", RUN, "--json")
    with out.open("w") as file:
        done = subprocess.run([sys.executable, "-m", "harness", *command], cwd=where, stdout=file)
    assert done.returncode == code
    return json.loads(out.read_text())


def test_a_run_as_it_was_left(place):
    report = verify(place, code=0)
    assert report["verified"] and not report["problems"] and not report["surroundings"]
    numbers = {(each["method"], each["benchmark"]): each for each in report["numbers"]}
    assert set(numbers) == {(method, name) for method in ("base", "dpo") for name in ("mt-bench", "math")}
    number = numbers["dpo", "math"]
    score = json.loads((place / RUN / "arms/dpo-seed0/scores/math.json").read_text())
    assert number["value"] == score["value"]
    assert [each["step"] for each in number["rests_on"]] == ["score-math", "samples-math", "policy", "policy-examples"]
    samples, policy, examples = number["rests_on"][1:]
    assert samples["depends_on"]["model"]["weights"] != examples["depends_on"]["model"]["weights"]
    assert number["rests_on"][0]["depends_on"]["samples"] == list(samples["files"].values())
    assert policy["depends_on"]["examples"] == list(examples["files"].values())
    assert "4 of 4 numbers verified" in harness("verify", RUN, cwd=place)


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_score_that_was_improved_by_hand(copy):
    file = copy / RUN / "arms/dpo-seed0/scores/math.json"
    value = json.loads(file.read_text())["value"]
    change(file, f'"value": {value}', '"value": 99.0')
    report = verify(copy)
    wrong = [(each["method"], each["benchmark"]) for each in report["numbers"] if not each["verified"]]
    assert wrong == [("dpo", "math")]
    told = "\n".join(report["problems"])
    assert "scores/math.json is not what step score-math left there" in told
    assert "scores/math.json is not what its samples and judgments give" in told
    assert "the score 99.0 is not the weighted mean" in told  # for the table


def test_a_judgment_that_was_improved_by_hand_with_its_mark(copy):
    """The digests fit again, and what is computed from the judgments does not."""
    arm = copy / RUN / "arms/dpo-seed0"
    file = arm / "judgments/mt-bench.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["score"] = 10.0 if rows[0]["score"] != 10.0 else 1.0
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    mark = arm / "steps/score-mt-bench.json"
    fields = json.loads(mark.read_text())
    fields["files"]["judgments/mt-bench.jsonl"] = file_digest(file)
    mark.write_text(json.dumps(fields))
    (problem,) = verify(copy)["problems"]
    assert "scores/mt-bench.json is not what its samples and judgments give" in problem


def test_a_changed_checkpoint_and_missing_examples(copy):
    arm = copy / RUN / "arms/dpo-seed0"
    weights = arm / "checkpoints/policy/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    (arm / "preferences/policy.jsonl").unlink()
    report = verify(copy)
    told = "\n".join(report["problems"])
    assert "model.safetensors is not what step policy left there" in told
    assert "preferences/policy.jsonl is missing" in told
    assert {each["method"] for each in report["numbers"] if each["verified"]} == {"base"}


def test_questions_that_were_changed(copy):
    change(copy / RUN / "data/math/math500.jsonl", '"answer": "', '"answer": "1')
    report = verify(copy)
    told = "\n".join(report["problems"])
    assert "step samples-math was made from something else: questions was" in told
    assert {each["benchmark"] for each in report["numbers"] if each["verified"]} == {"mt-bench"}


def test_a_run_that_was_not_finished(copy):
    (copy / RUN / "arms/dpo-seed0/steps/policy.json").unlink()
    report = verify(copy)
    assert "step policy is not finished" in "\n".join(report["problems"])
    assert {each["method"] for each in report["numbers"] if each["verified"]} == {"base"}


def test_a_question_in_full(place):
    shown = json.loads(harness("show", RUN, "mt-bench", "--question", "10001", "--json", cwd=place))
    assert shown["question"]["id"] == "10001" and len(shown["question"]["turns"]) == 2
    assert [arm["method"] for arm in shown["arms"]] == ["base", "dpo"]
    for arm in shown["arms"]:
        (sample,), judgments = arm["samples"], arm["judgments"]
        assert len(sample["turns"]) == 2
        assert arm["value"] == sum(row["score"] for row in judgments) / 2
        assert set(arm["files"]) == {
            f"arms/{arm['method']}-seed0/{name}"
            for name in ("samples/mt-bench.jsonl", "judgments/mt-bench.jsonl", "scores/mt-bench.json")
        }
    text = harness("show", RUN, "mt-bench", "--question", "10001", "--method", "dpo", cwd=place)
    assert "dpo seed 0:" in text and "base seed 0:" not in text


def test_all_questions_of_a_benchmark(place):
    shown = json.loads(harness("show", RUN, "math", "--json", cwd=place))
    score = json.loads((place / RUN / "arms/dpo-seed0/scores/math.json").read_text())
    assert {row["question"]: row["dpo"] for row in shown["questions"]} == score["values"]
    assert "testbed/0" in harness("show", RUN, "math", cwd=place)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("alpaca",), "unknown benchmark of this run 'alpaca'"),
        (("math", "--method", "sso"), "unknown method of this run 'sso'"),
        (("math", "--question", "nope"), "math has no question 'nope'"),
        (("math", "--seed", "7"), "no scores of math with seed 7"),
    ],
)
def test_what_can_not_be_shown(place, arguments, told):
    assert told in harness("show", RUN, *arguments, cwd=place, code=2)


def test_terminal_codes_of_a_model_are_not_sent_to_the_terminal(copy):
    change(copy / RUN / "arms/dpo-seed0/samples/mt-bench.jsonl", '"turns": ["', '"turns": ["\\u001b[31m[bold]\\u202e')
    text = harness("show", RUN, "mt-bench", "--question", "10001", cwd=copy)
    assert "\x1b" not in text and "\u202e" not in text and "[bold]" in text
