"""`harness score` and `harness data` on the command line: the fields that outside programs read, and mistakes."""

import gzip
import json

import pytest
from command_line import harness

MT_BENCH = {
    "question_id": 81,
    "turn": 1,
    "score": 7,
    "judgment": "Rating: [[7]]",
    "model": "a[bold]b",
    "judge": ["gpt-4", "single-v1"],
}


def write(path, *rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.fixture
def output(tmp_path):
    return lambda *arguments: harness(*arguments, cwd=tmp_path)


@pytest.fixture
def scored(output):
    return lambda *arguments: json.loads(output("score", *arguments, "--json"))


def test_mt_bench(scored, output, tmp_path):
    file = write(tmp_path / "gpt-4_single.jsonl.gz", MT_BENCH, MT_BENCH | {"score": -1, "turn": 2})
    model = scored("mt-bench", "--judgments", file)["models"]["a[bold]b"]
    assert {*("score", "turn_1", "turn_2", "categories", "judged", "unparsed", "duplicates")} <= set(model)
    assert (model["score"], model["turn_2"], model["unparsed"]) == (7, None, 1)
    assert scored("mt-bench", "--judgments", file, "--reparse")["models"]["a[bold]b"]["judged"] == 2
    table = output("score", "mt-bench", "--judgments", file)
    assert "a[bold]b" in table and "writing" in table  # a model's name is no markup


def test_texts_that_are_no_unicode(scored, tmp_path):
    file = write(tmp_path / "judgments.jsonl", MT_BENCH | {"model": "\ud800\x00 <script>"})
    assert list(scored("mt-bench", "--judgments", file)["models"]) == ["\ud800\x00 <script>"]


def test_reward_bench(scored, output, tmp_path):
    rows = [{"subset": "hep-go", "correct": True}, {"subset": "donotanswer", "correct": 0}]
    file = write(tmp_path / "rows.jsonl", *rows)
    found = scored("reward-bench", "--results", file)
    assert found["sections"] == {"Safety": 0, "Reasoning": 1} and found["mean"] == found["total"] == 0.5
    assert "Reasoning" in output("score", "reward-bench", "--results", file)


@pytest.mark.parametrize("name", ["math", "gsm8k"])
def test_responses(scored, output, tmp_path, name):
    rows = [{"response": r"so \boxed{4}", "answer": "4"}, {"response": "nothing", "answer": "4"}]
    file = write(tmp_path / "responses.jsonl", *rows)
    found = scored(name, "--responses", file)
    assert {"strict": 50, "math_verify": 50, "n": 2, "unextracted": 1}.items() <= found.items()
    items = scored(name, "--responses", file, "--items")["items"]
    assert [item["strict"] for item in items] == [True, False]
    assert "math_verify" in output("score", name, "--responses", file, "--items")


def test_ifeval(scored, tmp_path):
    row = {"prompt": "Say hi without commas.", "response": "Hi, you.", "kwargs": [{}]}
    file = write(tmp_path / "responses.jsonl", row | {"instruction_id_list": ["punctuation:no_comma"]})
    found = scored("ifeval", "--responses", file, "--items")
    assert (found["prompt_strict"], found["instruction_strict"], found["n"]) == (0, 0, 1)
    assert found["prompt_loose"] == found["instruction_loose"] == 0
    assert found["items"][0]["strict"] == [False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mt-bench", "--judgments"), ":1: field 'question_id'"),
        (("alpaca-eval", "--annotations"), ":1"),
        (("reward-bench", "--results"), ":1: field 'subset'"),
        (("math", "--responses"), ":1: field 'response'"),
        (("gsm8k", "--responses"), ":1: field 'response'"),
        (("ifeval", "--responses"), ":1"),
    ],
)
def test_a_faulty_file_is_one_line_and_exit_code_2(tmp_path, arguments, said):
    file = write(tmp_path / "rows.jsonl", {"other": 1})
    told = harness("score", *arguments, file, cwd=tmp_path, code=2)
    assert told.splitlines()[-1].startswith("error: ") and said in told
    told = harness("score", *arguments, tmp_path / "absent.jsonl", cwd=tmp_path, code=2)
    assert "absent.jsonl" in told and "Traceback" not in told


def test_data(output, tmp_path):
    rows = json.loads(output("data", "verify", "--data-dir", str(tmp_path), "--json"))
    assert {row["status"] for row in rows} == {"missing"} and all(row["licence"] for row in rows)
    harness("data", "verify", "math", "--data-dir", tmp_path, cwd=tmp_path, code=1)
    assert "CC-BY-NC-4.0" in output("data", "list")
