"""Answers that public graders have misread, through `harness score`."""

import json

import pytest
from typer.testing import CliRunner

from harness.cli import app


def score(tmp_path, benchmark, rows, *options, name="responses.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = CliRunner().invoke(app, ["score", benchmark, "--responses", str(path), "--json", *options])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


WRONG = [  # (response, a gold that it does not give)
    (r"\boxed{\frac{3}{2}}", 2),
    (r"\boxed{3/2}", 3),
    ("#### 1/2", 1),
    ("The answer is 2 2/3.", 2),
    (r"\boxed{10^3}", 10),
    (r"\boxed{6 \times 7}", 6),
    ("The answer is 2 million.", 2),
    ("#### 1e3", 1),
    ("#### 70 000", 70),
    ("#### - 3", 3),
    ("#### 2½", 2),
    ("#### Step 1: rows\n6 rows of 7\n\n#### Step 2: total\n42 apples", 2),
    ("9 * 2 = 18\n#### 18\n\nQuestion: A boy has 3 pears and gets 2. How many?\nAnswer: 3 + 2 = 5\n#### 5", 5),
    ("<think>16 - 7 = 9, 9 * 2 = 18. But wait, let me", 18),
]
RIGHT = [
    (r"\boxed{\frac{84}{2}}", 42),
    ("#### 70 000", 70000),
    ("#### - 3", -3),
    ("#### 2½", 2.5),
    ("#### Step 1: eggs\n16 - 7 = 9\n\n#### Step 2: money\n9 * $2 = $18\n\nJanet makes **$18** a day.", 18),
    ("### Solution\n\n#### 1. Eggs left\n9 eggs\n\n#### 2. Money\n9 * 2 = 18\n\nShe makes $18 a day.", 18),
    ("The answer is in step 3 above: 42 apples.", 42),
    ("Answer: 42 apples, which is 6 a day for 7 days", 42),
    ("**Final Answer:** 42 apples over 3 days", 42),
    ("9 * 2 = 18\n#### 18\n\nQuestion: A boy has 3 pears and gets 2. How many?\nAnswer: 3 + 2 = 5\n#### 5", 18),
    ("<think>The answer is 9? No, times 2.</think>\nJanet makes $18 every day.", 18),
]


def test_gsm8k(tmp_path):
    rows = [{"response": response, "answer": gold} for response, gold in (*WRONG, *RIGHT)]
    found = score(tmp_path, "gsm8k", rows, "--items")
    assert [item["strict"] for item in found["items"]] == [False] * len(WRONG) + [True] * len(RIGHT)
    assert (found["thoughts"], found["unfinished_thoughts"]) == (2, 1)


def test_thought_marks(tmp_path):
    rows = [{"response": "<plan>The answer is 9.</plan>It is 18.", "answer": 18}]
    assert score(tmp_path, "gsm8k", rows)["strict"] == 0
    assert score(tmp_path, "gsm8k", rows, "--thought-marks", "<plan> </plan>")["strict"] == 100


def test_math(tmp_path):
    """Per cents with and without TeX's backslash, and a last box that was cut off."""
    rows = [
        {"response": r"\boxed{50%}", "answer": r"50\%"},
        {"response": r"\boxed{50\%}", "answer": "50%"},
        {"response": r"So \boxed{18}, or rather \boxed{18", "answer": "18"},
    ]
    found = score(tmp_path, "math", rows, "--items")["items"]
    assert [(item["strict"], item["math_verify"]) for item in found] == [(True, True), (True, True), (False, False)]
    assert found[2]["extracted"] is None


def test_ifeval(tmp_path):
    """NaN where pandas has nothing, and commas in a thought."""
    row = {"key": 1, "prompt": "Write without commas.", "instruction_id_list": ["punctuation:no_comma"]}
    rows = [
        row | {"kwargs": [{"num_words": float("nan"), "relation": None}], "response": "A dog."},
        row | {"kwargs": [{}], "response": "<think>\nWell, no commas, then\n</think>\n\nA dog has four legs."},
        row | {"kwargs": [{}], "response": "<think>\nWell"},
    ]
    found = score(tmp_path, "ifeval", rows, "--items")
    assert [item["strict"] for item in found["items"]] == [[True], [True], [False]]
    assert (found["thoughts"], found["unfinished_thoughts"]) == (2, 1)


@pytest.mark.parametrize(
    ("benchmark", "option", "name", "text", "said"),
    [
        ("reward-bench", "--results", "r.json", '{"hep-go": NaN, "hep-js": 0.8}', "the accuracy of hep-go is nan"),
        ("reward-bench", "--results", "r.json", '{"hep-go": 1e999, "hep-js": 0.8}', "the accuracy of hep-go is inf"),
        (
            "gsm8k",
            "--responses",
            "r.jsonl",
            '{"response": "4", "answer": NaN}',
            "r.jsonl:1: field answer is not a finite",
        ),
        (
            "mt-bench",
            "--judgments",
            "j.jsonl",
            '{"question_id": 81, "turn": 1, "model": "m", "judge": ["g", "p"], "judgment": "", "score": NaN}',
            "j.jsonl:1: field score is not a finite number",
        ),
    ],
)
def test_nan_is_refused_where_it_enters(tmp_path, benchmark, option, name, text, said):
    (tmp_path / name).write_text(text)
    for form in ([], ["--json"]):
        found = CliRunner().invoke(app, ["score", benchmark, option, str(tmp_path / name), *form])
        assert said in str(found.exception or found.output)
        assert found.exit_code != 0
