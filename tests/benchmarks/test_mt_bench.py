"""MT-Bench: questions, judge prompts and the score, held to FastChat's own files."""

import json
from collections import Counter
from math import isnan

import pytest

from harness.benchmarks.base import Judging, Settings
from harness.benchmarks.files import read_rows
from harness.benchmarks.mt_bench import MTBench
from harness.endpoints.base import JudgeReply
from harness.errors import UserError
from harness.judges.templates import fill

MODELS = {  # model of data/mt_bench/model_judgment -> mean of its rows without -1, by FastChat's show_result.py
    "claude-3-5-sonnet-20240620": 9.2063,
    "claude-3-opus-20240229": 8.675,
    "Meta-Llama-3-8B-Instruct-Normal": 7.8434,
    "Meta-Llama-3-8B-Instruct-Griffin": 2.70,
}


class Scripted:
    """A judge that replies with the given texts in turn, and remembers what it was asked."""

    name = "scripted"

    def __init__(self, *replies) -> None:
        self.replies, self.asked = replies, []

    def complete(self, requests, advance=None):
        self.asked += requests
        replies = []
        for request, reply in zip(requests, self.replies, strict=True):
            error = None if isinstance(reply, str) else str(reply)
            replies.append(JudgeReply(request.id, "" if error else reply, model="scripted-1", error=error))
        return replies


@pytest.fixture(scope="module")
def questions(data_dir):
    return MTBench().load(data_dir, Settings())


@pytest.fixture(scope="module")
def recorded(data_dir):
    """FastChat's rows of single-answer grading by GPT-4, by model."""
    rows = {model: [] for model in MODELS}
    for path in sorted((data_dir / "mt_bench" / "model_judgment").glob("*.jsonl.gz")):
        for row in read_rows(path, question_id=int, turn=int, judge=list, user_prompt=str):
            rows[row["model"]].append(row)
    return rows


def test_real_questions(questions):
    assert len(questions) == 80
    assert set(Counter(item["category"] for item in questions).values()) == {10}
    assert all(len(item["turns"]) == 2 for item in questions)
    assert {item["category"] for item in questions if item["reference"]} == {"math", "reasoning", "coding"}
    assert sum(bool(item["reference"]) for item in questions) == 30
    assert {item["reference_file"] for item in questions} == {"reference_answer_gpt-4.jsonl"}  # FastChat#3158


@pytest.mark.parametrize(
    ("model", "answers"),
    [("claude-3-5-sonnet-20240620", "claude-3-5-sonnet"), ("claude-3-opus-20240229", "claude-3-opus")],
)
def test_prompts_are_those_that_gpt4_was_sent(data_dir, questions, recorded, model, answers):
    """Templates, references and both turns: each of 160 prompts equals FastChat's recorded one to the byte."""
    (file,) = (data_dir / "mt_bench" / "model_answer").glob(f"{answers}*")
    turns = {str(row["question_id"]): row["choices"][0]["turns"] for row in read_rows(file, choices=list)}
    judge = Scripted(*["[[5]]"] * 160)
    samples = [{"id": id, "turns": answer} for id, answer in turns.items()]
    rows = MTBench().judge(questions, samples, judge, Judging(), None)
    expected = {(row["question_id"], row["turn"]): row for row in recorded[model]}
    assert len(rows) == len(expected) == 160
    for row, request in zip(rows, judge.asked, strict=True):
        known = expected[row["question_id"], row["turn"]]
        assert row["user_prompt"] == request.messages[-1]["content"] == known["user_prompt"]
        assert row["judge"][1] == known["judge"][1]
        assert request.temperature == 0


@pytest.mark.parametrize("model", MODELS)
def test_recorded_scores(questions, recorded, model):
    score = MTBench().score(questions, [], recorded[model])
    assert score.value == pytest.approx(MODELS[model], abs=5e-5)
    weighted = sum(score.values[id] * score.weights[id] for id in score.values) / sum(score.weights.values())
    assert weighted == pytest.approx(score.value, abs=1e-12)
    assert score.judge == "gpt-4" and score.questions == 80 and len(score.values) == 80
    for turn in (1, 2):
        rated = [row["score"] for row in recorded[model] if row["turn"] == turn and row["score"] != -1]
        assert score.details[f"turn_{turn}"] == pytest.approx(sum(rated) / len(rated))
    assert set(score.details["categories"]) == {item["category"] for item in questions}
    assert score.missing == 0
    # The Llama-3 file has 170 rows for 160 turns, of which four are "$ERROR$"
    assert score.unparsed == (4 if model.endswith("Normal") else 0)
    assert score.details["judged"] == (166 if model.endswith("Normal") else 160)
    assert score.details["duplicates"] == (10 if model.endswith("Normal") else 0)


def items(number=2):
    prompts = [{"name": name, "system": "Rate.", "template": "{question} {answer}"} for name in ("one", "two")]
    return [
        {"id": str(id), "category": "math", "turns": ["a?", "b?"], "reference": None, "reference_file": "r.jsonl"}
        | {"judge_prompts": prompts}
        for id in range(1, number + 1)
    ]


def samples(number=2):
    return [{"id": str(id), "turns": ["first", "second"]} for id in range(1, number + 1)]


def test_missing_and_unparsed_are_counted():
    judge = Scripted("[[4]]", "no verdict", TimeoutError("no answer"), "so: [[10]]")
    rows = MTBench().judge(items(), samples(), judge, Judging(), None)
    assert [row["score"] for row in rows] == [4, -1, -1, 10]
    score = MTBench().score(items(), samples(), rows)
    assert (score.value, score.missing, score.unparsed) == (7, 1, 1)
    assert score.values == {"1": 4, "2": 10} and score.weights == {"1": 1, "2": 1}
    assert score.details["turn_1"] == 4 and score.details["turn_2"] == 10
    assert score.judge == "scripted-1"


def test_a_failed_request_does_not_change_the_judge():
    """Its reply has no model of the endpoint, and scores of different judges share no table."""
    rows = MTBench().judge(items(), samples(), Scripted(*["[[6]]"] * 4), Judging(), None)
    rows[0] |= {"score": -1, "error": "APITimeoutError", "judge": ["scripted", "one"]}
    assert MTBench().score(items(), samples(), rows).judge == "scripted-1"
    rows[1] |= {"judge": ["scripted-2", "two"]}
    assert MTBench().score(items(), samples(), rows).judge == "scripted-1 and scripted-2"


def test_turns_without_a_row_are_missing():
    rows = MTBench().judge(items(), samples(), Scripted(*["[[6]]"] * 4), Judging(), None)
    score = MTBench().score(items(), samples(), rows[:3])
    assert (score.value, score.missing, score.unparsed) == (6, 1, 0)
    assert score.weights == {"1": 2, "2": 1}


def test_no_verdict_at_all_is_no_number():
    rows = MTBench().judge(items(), samples(), Scripted(*["none"] * 4), Judging(), None)
    score = MTBench().score(items(), samples(), rows)
    assert isnan(score.value) and score.values == {} and score.unparsed == 4


def test_filling_is_single_pass():
    values = {"question": "{answer} and {0} {}", "answer": "{question} \\1 {ref_answer_1}"}
    assert fill("Q {question} A {answer} {unknown}", values) == (
        "Q {answer} and {0} {} A {question} \\1 {ref_answer_1} {unknown}"
    )


def write(folder, questions=None, references=None, prompts=None):
    """A data folder with one question, in FastChat's format."""
    names = ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
    contents = {
        "question.jsonl": questions or [{"question_id": 1, "category": "math", "turns": ["a?", "b?"]}],
        "reference_answer_x.jsonl": references or [{"question_id": 1, "choices": [{"turns": ["A", "B"]}]}],
        "judge_prompts.jsonl": prompts
        or [{"name": name, "system_prompt": "", "prompt_template": "{answer}"} for name in names],
    }
    (folder / "mt_bench").mkdir()
    for name, rows in contents.items():
        (folder / "mt_bench" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_small_folder(tmp_path):
    (item,) = MTBench().load(write(tmp_path), Settings())
    assert item["reference"] == ["A", "B"]
    assert [prompt["name"] for prompt in item["judge_prompts"]] == ["single-math-v1", "single-math-v1-multi-turn"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"questions": [{"question_id": 7, "category": "stem", "turns": ["only one"]}]}, "question 7 must have two"),
        ({"questions": [{"question_id": "7", "category": "stem", "turns": []}]}, "jsonl:1: field 'question_id'"),
        ({"references": [{"question_id": 1, "choices": []}]}, "question 1 must have two"),
        ({"references": [{"question_id": 1, "choices": [{}]}]}, "question 1 must have two"),
        ({"references": [{"question_id": 1, "choices": ["A", "B"]}]}, "question 1 must have two"),
        ({"questions": [{"question_id": 7, "category": "stem", "turns": ["a?", 2]}]}, "question 7 must have two"),
        ({"references": [{"question_id": 1, "choices": [{"turns": ["A"]}]}]}, "question 1 must have two"),
        ({"prompts": [{"name": "single-v1", "system_prompt": "", "prompt_template": ""}]}, "no prompt named"),
    ],
)
def test_faulty_files(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        MTBench().load(write(tmp_path, **rows), Settings())
