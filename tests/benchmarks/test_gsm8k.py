"""GSM8K: the numbers of real completions as published, phrasings of an answer, and the task through lm-eval."""

import gzip
import json
import time
from collections import Counter
from fractions import Fraction

import gsm8k_rewritings
import pytest
from scripted_engine import STOP, ScriptedEngine

from harness.benchmarks.base import Policy, Settings
from harness.benchmarks.files import read_rows
from harness.benchmarks.gsm8k import GSM8K, GSM8KOptions, _official_matches, score_responses
from harness.benchmarks.gsm8k_answers import final_number, gold_number
from harness.errors import UserError


def write(tmp_path, rows):
    path = tmp_path / "responses.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def test_tora_70b(data_dir, tmp_path):
    """Published: 84.3 (its .metrics file); a plain comparison of its recorded predictions gives 84.31 (1,112 right)."""
    rows = read_rows(data_dir / "gsm8k" / "completions" / "tora-70b-v1.0.jsonl.gz", gt=str, code=list)
    path = write(tmp_path, [{"response": row["code"][0], "answer": row["gt"]} for row in rows])
    found = score_responses(path)
    assert found["strict"] == pytest.approx(100 * 1112 / 1319)
    assert (found["n"], found["unextracted"]) == (1319, 1)  # one ends in a program without an answer


def test_mathcoder_7b(data_dir, tmp_path):
    """849 of 1,319 by its authors' grades, which each row has by its file; nothing graded wrong is accepted."""
    folder = data_dir / "gsm8k" / "completions"
    right, wrong = (
        read_rows(folder / f"MathCoder-L-7b_{name}.jsonl.gz", completion=str, ground_truth=dict)
        for name in ("correct", "wrong")
    )
    rows = [{"response": row["completion"], "answer": row["ground_truth"]["answer"]} for row in (*right, *wrong)]
    found = score_responses(write(tmp_path, rows), items=True)
    assert [item["strict"] for item in found["items"]] == [True] * 849 + [False] * 470
    assert [item["math_verify"] for item in found["items"]] == [True] * 849 + [False] * 470


@pytest.mark.parametrize(
    ("model", "percent"),
    [("6b_finetuning", 21.68), ("6b_verification", 39.04), ("175b_finetuning", 34.72), ("175b_verification", 56.25)],
)
def test_samples_of_openai(data_dir, model, percent):
    """Every recorded grade of the data set's authors, whose answers end in "A: n"."""
    rows = read_rows(data_dir / "gsm8k" / "example_model_solutions.jsonl.gz", ground_truth=str)
    ours = [final_number(row[model]["solution"]) == gold_number(row["ground_truth"]) for row in rows]
    assert ours == [row[model]["is_correct"] for row in rows]
    assert 100 * sum(ours) / len(ours) == pytest.approx(percent, abs=0.01)


def test_gold_answers(data_dir):
    """14 have commas, two are negative; each solution's own last number is its answer."""
    rows = read_rows(data_dir / "gsm8k" / "test.jsonl", answer=str)
    golds = [gold_number(row["answer"]) for row in rows]
    assert sum("," in row["answer"].rpartition("####")[2] for row in rows) == 14
    assert sum(gold < 0 for gold in golds) == 2
    assert [final_number(row["answer"]) for row in rows] == golds


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 2 + 2 = 4.\n#### 4", "4"),
        ("#### 1,234", "1234"),
        ("#### -3.50", "-3.5"),
        (r"The answer is \boxed{18}. (Checked with 7 tests.)", "18"),
        (r"It is $\boxed{\$1{,}200}$ in 2 years", "1200"),
        (r"\boxed{12\text{ eggs}}", "12"),
        ("The answer is 72 eggs, as 3 * 24 = 72. Note 5.", "72"),
        ("the answer is: $5.25", "5.25"),
        ("In sum, she pays $1,000.", "1000"),
        ("-$20 is left", "-20"),
        ("```output\n16.0\n```\n16 people think that horse #12 will win.", "16"),
        ("step 1\nstep 2: 7 apples", "7"),
        ("A: 26", "26"),
        ("The answer is 5 + 3 = 8, as 5 and 3 make 8.", "8"),
        (r"\boxed{x = 1{,}200}", "1200"),
        ("#### 4\n\n#### 5", "5"),
        ("The answer is:\n\n18", "18"),
        ("it is \N{MINUS SIGN}3 degrees", "-3"),
        (".5 of it", "0.5"),
        ("The answer is unknown", None),
        ("", None),
        ("a1b2", None),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == (None if number is None else Fraction(number))


def test_long_texts_take_no_time():
    marks = ("9" * 200_000 + "x", "#### " * 50_000, "1," * 200_000, "(" * 100_000 + "1", "1 " * 100_000, "-" * 100_000)
    for text in marks:
        started = time.process_time()
        assert final_number(text) in (None, 1)
        assert time.process_time() - started < 2
    assert final_number("#### 10^10^10") is final_number("#### 9^99999") is None
    assert final_number("Question: 1 = 1\n" * 20_000) == 1


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("so 1 + 1 = 2.\n#### 1,234", "1234"),
        ("#### -$3", "-3"),
        ("1,234", "1234"),
        ("$18.00", "18"),
        (18.5, "18.5"),
        (-2, "-2"),
        (r"It is \boxed{1,200}.", "1200"),
        ("A: 7", "7"),
    ],
)
def test_gold_number(answer, number):
    assert gold_number(answer) == Fraction(number)


@pytest.mark.parametrize(
    ("response", "strict_match", "flexible_extract"),
    [  # by the two regular expressions of lm-eval's task, whose matches are compared as strings
        ("so 2 + 2 = 4.\n#### 1,234", True, True),
        ("#### 1234.", True, True),
        ("#### 1234\n#### 5", True, False),  # the first mark, the last number
        ("The answer is 1234", False, True),
        ("The answer is $1,234.", False, True),
        ("The answer is 1234.00", False, False),
        (r"\boxed{1234} in 2 days", False, False),
        ("unknown", False, False),
    ],
)
def test_official_filters(tmp_path, response, strict_match, flexible_extract):
    for answer in ("1,234", "#### 1,234", 1234.0):
        found = score_responses(write(tmp_path, [{"response": response, "answer": answer}]))
        assert (found["strict_match"], found["flexible_extract"]) == (100 * strict_match, 100 * flexible_extract)


OWN_SOLUTIONS = [  # in the data set's form, written for this test
    ("Ann reads 6 * 7 = <<6*7=42>>42 pages.\n#### 42", 42),
    ("Two of 5 crates are empty: 5 - 2 = <<5-2=3>>3 are full.\nThat makes 3 * 25 = <<3*25=75>>75 cans.\n#### 75", 75),
    ("Rent is $700 a month.\nA year costs 700 * 12 = $<<700*12=8400>>8,400.\n#### 8,400", 8400),
    ("A third of 36 is 36 / 3 = <<36/3=12>>12.\n#### 12", 12),
    ("He sells 125,000 at once.\n#### 125000", 125_000),
]


def strict_match(response: str, gold: int) -> bool:
    """The verdict of lm-eval's filter strict-match: its expression, its normalization."""
    return bool(_official_matches(response, Fraction(gold))["strict_match"])


def accepted_of_rewritings(golds, number):
    """Of every rewriting: how many responses, accepted ones, and wrong ones accepted that lm-eval refuses."""
    seen, accepted, worse = Counter(), Counter(), []
    for name, right, response, gold in gsm8k_rewritings.responses(golds, number):
        ours = final_number(response) == gold
        seen[name] += 1
        accepted[name] += ours
        if ours and not right and not strict_match(response, gold):
            worse.append((name, response, gold))
    return seen, accepted, worse


def check_rewritings(golds, number):
    seen, accepted, worse = accepted_of_rewritings(golds, number)
    assert worse == []
    assert {name: accepted[name] / seen[name] for name in gsm8k_rewritings.RIGHT} == dict.fromkeys(
        gsm8k_rewritings.RIGHT, 1.0
    )
    assert [name for name in gsm8k_rewritings.WRONG if accepted[name]] == []


def test_rewritings():
    check_rewritings(OWN_SOLUTIONS, 680)


def test_10_000_rewritings_of_gold_solutions(data_dir):
    """Right answers in 20 ways are all read, wrong ones in 48 ways are all refused."""
    rows = read_rows(data_dir / "gsm8k" / "test.jsonl", answer=str)
    golds = [(row["answer"], int(gold)) for row in rows if (gold := gold_number(row["answer"])) > 4]
    check_rewritings(golds, 10_000)


@pytest.mark.parametrize("answer", ["", "four", "1 or 2"])
def test_gold_answers_must_be_one_number(tmp_path, answer):
    with pytest.raises(UserError, match=":1: .* is not a gold answer"):
        score_responses(write(tmp_path, [{"response": "4", "answer": answer}]))


# Through lm-eval


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    for name in ("test", "train"):
        rows = [{"question": f"{name} {n}?", "answer": f"It is <<{n}>>.\n#### {n}"} for n in range(3)]
        (tmp_path / "gsm8k" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize("shots", [0, 2])
def test_through_lm_eval(folder, tiny_model_dir, monkeypatch, shots):
    """The examples are turns of the conversation, in the words of lm-eval's task; the score names how many."""
    from harness.engines.transformers import TransformersEngine

    engine = TransformersEngine.load(str(tiny_model_dir))
    chats, encode = [], engine.chat.encode
    monkeypatch.setattr(engine.chat, "encode", lambda chat, prompt=True: chats.append(chat) or encode(chat, prompt))
    settings = Settings(max_new_tokens=4, options=GSM8KOptions(num_fewshot=shots))
    items = GSM8K().load(folder, settings)[:2]
    samples = GSM8K().answer(Policy(engine), items, settings, None)
    assert len(items) == len(samples) == 2
    expected = [
        message
        for n in range(shots)
        for message in (
            {"role": "user", "content": f"Question: train {n}?\nAnswer:"},
            {"role": "assistant", "content": f"It is <<{n}>>.\n#### {n}"},
        )
    ]
    assert chats[0] == [*expected, {"role": "user", "content": "Question: test 0?\nAnswer:"}]
    score = GSM8K().score(items, samples, [])
    assert (score.questions, score.details["num_fewshot"], score.details["chat"]) == (2, shots, True)
    assert score.value == pytest.approx(sum(score.values.values()) / 2)


def test_scores_of_replies(folder):
    """A policy whose replies are known: both of lm-eval's filters and ours, on replies cut where the next begins."""
    replies = {0: "It is 0.\n#### 0\n\nQuestion: next?\nAnswer: #### 9", 1: r"\boxed{1}, by 5", 2: "no idea"}
    engine = ScriptedEngine(lambda chat, item: replies[int(item.partition("/")[2])] + chr(STOP))
    settings = Settings(options=GSM8KOptions(num_fewshot=1))
    items = GSM8K().load(folder, settings)
    samples = GSM8K().answer(Policy(engine), items, settings, None)
    score = GSM8K().score(items, samples, [])
    assert score.values == {"0": 100, "1": 100, "2": 0}
    assert (score.value, score.unparsed) == (pytest.approx(200 / 3), 1)
    assert score.details["strict_match"] == score.details["flexible_extract"] == pytest.approx(100 / 3)
    assert engine.asked[0][2].temperature == 0 and engine.asked[0][2].max_new_tokens == 512
    example = "\x02Question: train 0?\nAnswer:\x04It is <<0>>.\n#### 0"
    assert engine.asked[0][0] == f"{example}\x02Question: test 0?\nAnswer:\x04"


def test_faulty_files(folder):
    (folder / "gsm8k" / "test.jsonl").write_text(json.dumps({"question": "a", "answer": "none"}) + "\n")
    with pytest.raises(UserError, match="test.jsonl:1: the answer must be a number"):
        GSM8K().load(folder, Settings())
