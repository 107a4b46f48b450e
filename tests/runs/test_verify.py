"""Every number of a run is traced to its files and computed again; what was changed is found."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from command_line import SMALL, harness

from harness.files.store import file_digest
from harness.runs.verify import verify as verify_run

RUN = "results/runs/small"


@pytest.fixture(scope="module")
def place(finished_run):
    return finished_run("--method", "dpo", *SMALL, "--benchmark", "mt-bench,math")


@pytest.fixture
def copy(place, tmp_path):
    shutil.copytree(place / "results", tmp_path / "results")
    return tmp_path


def verify(where, code=1):
    with contextlib.chdir(where):
        report = verify_run(Path(RUN))
    assert report["verified"] == (code == 0)
    return report


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
    assert "scores/math.json has changed since step score-math wrote it" in told
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
    report = verify(copy)
    told = "\n".join(report["problems"])
    assert "scores/mt-bench.json is not what its samples and judgments give" in told
    assert "judgments/mt-bench.jsonl does not have the digest in index.json" in told
    assert "steps/score-mt-bench.json does not have the digest in index.json" in told
    assert [(each["method"], each["benchmark"]) for each in report["numbers"] if not each["verified"]] == [
        ("dpo", "mt-bench")
    ]


def test_a_changed_checkpoint_and_missing_examples(copy):
    arm = copy / RUN / "arms/dpo-seed0"
    weights = arm / "checkpoints/policy/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    (arm / "preferences/policy.jsonl").unlink()
    report = verify(copy)
    told = "\n".join(report["problems"])
    assert "model.safetensors has changed since step policy wrote it" in told
    assert "preferences/policy.jsonl is missing" in told
    assert {each["method"] for each in report["numbers"] if each["verified"]} == {"base"}


def test_questions_that_were_changed(copy):
    change(copy / RUN / "data/math/math500.jsonl", '"answer": "', '"answer": "1')
    report = verify(copy)
    told = "\n".join(report["problems"])
    assert "step samples-math depends on something that has changed: questions was" in told
    assert {each["benchmark"] for each in report["numbers"] if each["verified"]} == {"mt-bench"}


def test_a_run_that_was_not_finished(copy):
    (copy / RUN / "arms/dpo-seed0/steps/policy.json").unlink()
    report = verify(copy)
    assert "step policy is not finished" in "\n".join(report["problems"])
    assert {each["method"] for each in report["numbers"] if each["verified"]} == {"base"}


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_everything_that_is_broken_is_reported_at_once(copy):
    """Each of these ended the report at 322af91, or was not looked at."""
    run = copy / RUN
    dpo, base = run / "arms/dpo-seed0", run / "arms/base-seed0"
    (dpo / "ledger.json").write_text("{")
    (dpo / "steps/policy-examples.json").write_text('{"key": "x"}')
    (base / "steps/score-math.json").write_bytes(b"\xff\xfe")
    (base / "samples/mt-bench.jsonl").write_text("no JSON\n")
    (dpo / "scores/mt-bench.json").write_text("[1")
    (dpo / "seconds.json").write_text("")
    edit(dpo / "steps/policy.json", lambda mark: mark["depends_on"].update(seed=7))
    edit(run / "index.json", lambda index: index["files"].update({"../x": {"sha256": "", "step": "policy"}}))
    (cached,) = (run / "reference").rglob("*.jsonl")
    cached.write_text(cached.read_text().replace("-", "-1", 1))
    shutil.copytree(dpo, run / "arms/dpo-seed1")
    shutil.copy(base / "steps/samples-math.json", base / "steps/samples-gsm8k.json")
    report = verify(copy)
    told = "\n".join(report["problems"])
    for part in (
        *("dpo-seed0/ledger.json is not JSON", "dpo-seed0/seconds.json is not JSON"),
        "steps/policy-examples.json: is not a valid step record",
        *(
            "base-seed0/steps/score-math.json: UnicodeDecodeError",
            "samples/mt-bench.jsonl has changed since step samples-mt",
        ),
        *("dpo-seed0/scores/mt-bench.json has changed since step", "table.json: UnicodeDecodeError"),
        *("steps/policy.json was changed: its key is not the digest", "not in the run folder"),
        f"{cached.relative_to(copy)} was changed since it was written",
        *(
            "arms/dpo-seed1 is not part of the experiment",
            "steps/samples-gsm8k.json is the mark of a step that the experiment",
        ),
    ):
        assert part in told, part
    assert {(each["method"], each["benchmark"]) for each in report["numbers"]} == {
        (method, name) for method in ("base", "dpo") for name in ("mt-bench", "math")
    }
    assert not any(each["verified"] for each in report["numbers"])


def test_a_broken_experiment_does_not_hide_the_rest(copy):
    (copy / RUN / "experiment.yaml").write_text("seeds: [")
    (copy / RUN / "arms/dpo-seed0/ledger.json").write_text("{")
    told = "\n".join(verify(copy)["problems"])
    assert "experiment.yaml" in told and "ledger.json is not JSON" in told


@pytest.mark.parametrize(
    ("file", "change", "part"),
    [
        ("table.json", ('"seeds": [', '"seeds": [1,'), "table.json is not what the stored scores give"),
        ("experiment.yaml", ("limit: 24", "limit: 23"), "experiment.yaml does not have the digest in index.json"),
        ("table.md", ("|", "||"), "table.md is not what the stored scores give"),
        ("versions.json", ('"torch"', '"torsch"'), "versions.json does not have the digest in index.json"),
    ],
)
def test_files_of_the_run_itself(copy, file, change, part):
    path = copy / RUN / file
    path.write_text(path.read_text().replace(*change, 1))
    assert part in "\n".join(verify(copy)["problems"])


def test_a_seed_that_was_dropped(copy):
    """Written out of the experiment, its arms are still there."""
    shutil.copytree(copy / RUN / "arms/dpo-seed0", copy / RUN / "arms/dpo-seed1")
    told = "\n".join(verify(copy)["problems"])
    assert "arms/dpo-seed1 is not part of the experiment (experiment.yaml): the table leaves it out" in told
    assert "arms/dpo-seed1/steps/score-math.json is not in index.json" in told


@pytest.mark.parametrize("command", ["table", "show", "report", "verify"])
def test_a_score_that_was_deleted_is_an_error(copy, command):
    (copy / RUN / "arms/dpo-seed0/scores/math.json").unlink()
    words = (command, RUN, *(["math"] if command == "show" else []))
    told = harness(*words, cwd=copy, code=1 if command == "verify" else 2)
    if command != "verify":
        assert "arms/dpo-seed0/scores/math.json was deleted after its step had finished" in told
        assert "with the same harness run" in told


def test_a_score_that_was_deleted_on_the_leaderboard(copy):
    (copy / RUN / "arms/dpo-seed0/scores/math.json").unlink()
    harness("leaderboard", cwd=copy)
    left_out = (copy / "results/LEADERBOARD.md").read_text().split("## Left out")[1]
    assert "runs/small" in left_out and "math.json was deleted after its step had finished" in left_out


def test_a_run_that_is_kept_without_samples_has_its_table(copy, tmp_path):
    before = (copy / RUN / "table.md").read_text()
    for kind in ("samples", "judgments", "checkpoints", "preferences", "training"):
        for folder in (copy / RUN / "arms").glob(f"*/{kind}"):
            shutil.rmtree(folder)
    assert harness("table", RUN, cwd=copy).strip() == before.strip()


def test_warnings_of_health_do_not_go_with_their_file(copy):
    (copy / RUN / "arms/dpo-seed0/health/policy.json").unlink()
    assert "health/policy.json was deleted" in harness("table", RUN, cwd=copy, code=2)


def test_a_score_of_a_step_that_is_to_be_done_again_is_no_score(copy):
    (copy / RUN / "arms/dpo-seed0/steps/score-math.json").unlink()
    assert "has no mark of step score-math" in harness("table", RUN, cwd=copy, code=2)


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
    text = harness("show", RUN, "math", cwd=place)
    assert "testbed/0" in text and "score" in text
    table = json.loads(harness("table", RUN, "--format", "json", cwd=place))
    of_table = {row["method"]: row["cells"]["math"]["value"] for row in table["rows"]}
    assert shown["score"] == pytest.approx(of_table)
    differing = json.loads(harness("show", RUN, "math", "--differing", "--json", cwd=place))
    assert differing["questions"] == [row for row in shown["questions"] if row["base"] != row["dpo"]]
    assert differing["left_out"] == len(shown["questions"]) - len(differing["questions"]) > 0
    assert "questions have the same value for all methods" in harness("show", RUN, "math", "--differing", cwd=place)
    assert "--page 9: there are" in harness("show", RUN, "math", "--page", "9", cwd=place, code=2)


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
