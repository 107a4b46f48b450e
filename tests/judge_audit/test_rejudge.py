"""A finished run's answers judged by a second judge: beside the first, answers never made again, the run untouched."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import SMALL, harness
from gpt4_verdicts import completion
from loopback_json import json_server

from harness.benchmarks.base import Score
from harness.files.store import file_digest
from harness.judge_audit.rejudge import compared, kendall, ranks, to_markdown

RUN = "results/runs/small"


@pytest.fixture(scope="module")
def place(finished_run):
    return finished_run("--method", "dpo", *SMALL, "--benchmark", "mt-bench,math")  # as in test_verify.py


@pytest.fixture
def copy(place, tmp_path):
    shutil.copytree(place / "results", tmp_path / "results")
    return tmp_path


@contextmanager
def judging(rate):
    """URL of a judge that gives the rating rate(prompt), None for a request that fails; and what it was asked."""
    asked = []

    def answer(_, body):
        asked.append(body["messages"][-1]["content"])
        rating = rate(asked[-1])
        if rating is None:
            return 400, {"error": {"message": "content filtered", "code": "content_filter", "type": "invalid"}}
        return 200, completion(f"Rating: [[{rating}]]", "second-judge")

    with json_server(answer) as url:
        yield f"{url}/v1", asked


def digests(run: Path) -> dict[str, str]:
    """Of the files of a run, without what a second judge left."""
    files = [file for file in run.rglob("*") if file.is_file() and file.relative_to(run).parts[0] != "rejudged"]
    return {str(file.relative_to(run)): file_digest(file) for file in files if file.name != ".lock"}


def rejudged(where, url, *options, code=0):
    words = ("rejudge", RUN, "--judge-model", "second-judge", "--judge-url", url, *options)
    text = harness(*words, "--json", cwd=where, code=code)
    return json.loads(text) if code == 0 else text


def test_another_judge_beside_the_first(copy):
    before, table = digests(copy / RUN), harness("table", RUN, cwd=copy)
    with judging(lambda text: 1 + len(text) % 9) as (url, asked):
        report = rejudged(copy, url)
        number = len(asked)
        assert rejudged(copy, url) == report and len(asked) == number  # what was judged is not asked again
        printed = harness("rejudge", RUN, "--judge-model", "second-judge", "--judge-url", url, cwd=copy)
    assert digests(copy / RUN) == before
    assert harness("table", RUN, cwd=copy) == table
    harness("verify", RUN, cwd=copy)
    harness("leaderboard", cwd=copy)
    assert report["left_out"] == ["math"] and "Left out, as they need no judge: math" in printed
    (found,) = report["benchmarks"]
    assert found["benchmark"] == "mt-bench" and found["judges"] == ["testbed-world", "second-judge"]
    assert {row["method"] for row in found["methods"]} == {"base", "dpo"}
    for row in found["methods"]:
        first, second = row["by"]
        score = json.loads((copy / RUN / f"arms/{row['method']}-seed0/scores/mt-bench.json").read_text())
        assert first["value"] == pytest.approx(score["value"])
        answers = [json.loads(line) for line in open(copy / RUN / f"arms/{row['method']}-seed0/samples/mt-bench.jsonl")]
        folder = Path(report["folder"]) / "arms" / f"{row['method']}-seed0"
        judgments = [json.loads(line) for line in open(copy / folder / "judgments/mt-bench.jsonl")]
        assert len(judgments) == 2 * len(answers) == 48
        assert second["value"] == pytest.approx(sum(each["score"] for each in judgments) / 48)
        assert all(each["score"] == 1 + len(each["user_prompt"]) % 9 for each in judgments)
    assert "testbed-world: score (1-10)" in printed and "second-judge: score (1-10)" in printed
    assert (copy / report["folder"] / "table.md").exists()


@pytest.mark.parametrize("sign, holds", [(1, True), (-1, False)])
def test_whether_the_order_holds(copy, sign, holds):
    """A judge that rates the answers of one arm above those of the other, as the run's judge does, or turned round."""
    scores = {
        method: json.loads((copy / RUN / f"arms/{method}-seed0/scores/mt-bench.json").read_text())["value"]
        for method in ("base", "dpo")
    }
    better = max(scores, key=scores.get)
    answers = {
        turn
        for line in open(copy / RUN / f"arms/{better}-seed0/samples/mt-bench.jsonl")
        for turn in json.loads(line)["turns"]
    }
    own = {
        turn
        for line in open(copy / RUN / f"arms/{min(scores, key=scores.get)}-seed0/samples/mt-bench.jsonl")
        for turn in json.loads(line)["turns"]
    }

    def rate(text):
        _, opened, rest = text.rpartition("[The Start of Assistant's Answer]")
        answer = rest.partition("[The End of Assistant's Answer]")[0].strip()
        if not opened or (answer in answers) == (answer in own):
            return 5
        return 5 + sign * (3 if answer in answers else -3)

    with judging(rate) as (url, _):
        (found,) = rejudged(copy, url)["benchmarks"]
    assert found["holds"] is holds and found["tau"] == sign
    worse = min(scores, key=scores.get)
    if holds:
        assert not found["changed"] and "the order of the 2 methods holds (Kendall's tau is 1.00)" in found["verdict"]
    else:
        assert set(found["changed"]) == {"base", "dpo"}
        assert found["reversed"][0]["first"] == better and found["reversed"][0]["second"] == worse
        assert f"{better} 1 to 2" in found["verdict"] and "1 of 1 pairs are reversed" in found["verdict"]


def test_a_judge_that_fails_is_no_score(copy):
    """Half of the requests fail: no comparison, exit code 2, and the same command asks for these alone."""
    with judging(lambda text: None if len(text) % 2 else 5) as (url, asked):
        said = rejudged(copy, url, code=2)
    assert "judgments failed" in said and "content filtered" in said and "the same command" in said
    first = set(asked)
    with judging(lambda text: 5) as (other, asked):  # another endpoint of the same name is another judge
        rejudged(copy, other)
        assert set(asked) >= first and len(list((copy / RUN / "rejudged").iterdir())) == 2


def test_an_interrupted_judge_goes_on(copy):
    state = {"down": True}
    with judging(lambda text: None if state["down"] and len(text) % 2 else 5) as (url, asked):
        rejudged(copy, url, code=2)
        known = {text for text in asked if not len(text) % 2}
        state["down"] = False
        del asked[:]
        rejudged(copy, url)
        assert known and not known & set(asked)


def test_what_cannot_be_judged_again(copy, tmp_path):
    assert "no judge was chosen" in harness("rejudge", RUN, cwd=copy, code=2)
    assert "is not a run folder" in harness(
        "rejudge", "results", "--judge-model", "m", "--judge-url", "http://localhost:1/v1", cwd=copy, code=2
    )
    samples = copy / RUN / "arms/dpo-seed0/samples/mt-bench.jsonl"
    text = samples.read_text()
    with judging(lambda _: 5) as (url, asked):
        samples.write_text(text.replace('"id"', '"id" ', 1))
        assert "has changed since step samples-mt-bench wrote it" in rejudged(copy, url, code=2)
        samples.write_text(text)
        question = copy / RUN / "data/mt_bench/question.jsonl"
        before = question.read_text()
        question.write_text(before.replace('"turns": ["', '"turns": ["Now: ', 1))
        assert "the questions of mt-bench are not those that were answered" in rejudged(copy, url, code=2)
        question.write_text(before)
        assert not asked
        (copy / RUN / "arms/dpo-seed0/scores/mt-bench.json").unlink()
        assert "scores/mt-bench.json was deleted after its step had finished" in rejudged(copy, url, code=2)


def test_a_run_without_a_judge(testbed_model_dir, tmp_path):
    harness("eval", "testbed", "--benchmark", "math", "--limit", "5", "--name", "small", cwd=tmp_path)
    with judging(lambda _: 5) as (url, _):
        assert "no benchmark of this run has a judge (math need none)" in rejudged(tmp_path, url, code=2)


# By hand


def scores(judge, **methods):
    """A score for each method with a value for each question."""
    return {
        method: {0: Score("b", "score", sum(own) / len(own), dict(zip("abcdefgh", own, strict=False)), judge=judge)}
        for method, own in methods.items()
    }


def test_ranks_and_tau_by_hand():
    """Orders 1 2 3 4 and 1 2 4 3: 5 of 6 pairs agree, tau = (5 - 1) / 6. Exact p: of 24 orders, |tau| >= 2/3 is that of
    4 orders near each end: (1 + 3) * 2 / 24."""
    assert ranks([3.0, 5.0, 3.0, 1.0]) == [2, 1, 2, 4]
    tau, p_value = kendall([4, 3, 2, 1], [4, 3, 1, 2])
    assert tau == pytest.approx(4 / 6) and p_value == pytest.approx(8 / 24)
    assert kendall([1], [1]) == kendall([1, 1], [1, 2]) == (None, None)


def test_reversed_pairs_that_both_judges_tell_apart():
    clear = {"x": [9, 9, 9, 9, 9, 9, 9, 8], "y": [1, 1, 1, 1, 1, 1, 1, 2], "z": [0, 0, 0, 0, 0, 0, 0, 1]}
    turned = {"x": clear["y"], "y": clear["x"], "z": clear["z"]}
    report = compared("b", scores("one", **clear), scores("two", **turned))
    assert report["judges"] == ["one", "two"] and report["holds"] is False
    assert report["reversed"] == [{"first": "x", "second": "y", "distinguished": [True, True]}]
    assert "1 of 3 pairs are reversed, and both judges are sure of theirs (95 %) in 1: x and y" in report["verdict"]
    unsure = {"x": [9, 0, 9, 0, 9, 0, 9, 1], "y": [0, 9, 0, 9, 0, 9, 0, 9], "z": clear["z"]}
    report = compared("b", scores("one", **unsure), scores("two", **turned))
    assert report["reversed"][0]["distinguished"] == [False, True]
    assert "none of them where both judges are sure" in report["verdict"]


def test_a_method_without_verdicts_has_no_rank():
    first = scores("one", x=[1.0, 2.0], y=[2.0, 3.0])
    second = scores("two", x=[1.0, 2.0]) | {"y": {0: Score("b", "score", float("nan"), {}, judge="two")}}
    report = compared("b", first, second)
    assert (
        report["without_verdicts"] == ["y"] and report["holds"] is None and "no order to compare" in report["verdict"]
    )
    (row,) = report["judged_once"]
    assert (
        row["method"] == "y" and row["by"][0]["value"] == 2.5 and row["by"][0]["rank"] is None and row["by"][1] is None
    )
    text = to_markdown({"run": "runs/r", "benchmarks": [report], "left_out": []})
    assert "\n| y | 2.50 [" in text and "] | – | – | – |\n" in text


def test_names_are_data():
    report = compared("b", scores("a|b", x=[1.0, 2.0], y=[2.0, 3.0]), scores("<i>", x=[1.0, 2.0], y=[2.0, 3.0]))
    text = to_markdown({"run": "runs/r", "benchmarks": [report], "left_out": []})
    assert "| method | a\\|b | rank | \\<i> | rank |" in text
