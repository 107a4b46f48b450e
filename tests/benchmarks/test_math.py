"""MATH: problems, the two verdicts on real and malicious answers, the worker's life, and the task through lm-eval."""

import json
import multiprocessing
import os
import time

import pytest

from harness.benchmarks.base import Policy, Settings
from harness.benchmarks.files import read_rows
from harness.benchmarks.math import INSTRUCTION, Math, MathOptions, _minerva_grade
from harness.benchmarks.math_answers import LONGEST, Grader, last_boxed, strictly_equal
from harness.engines.base import Sampling
from harness.errors import UserError


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


@pytest.fixture
def impatient():
    with Grader(limit=1.0) as grader:
        yield grader


def verdicts(grader, response, answer) -> tuple[float, float, bool]:
    grade = grader.grade(response, answer)
    return grade["strict"], grade["math_verify"], grade["extracted"] is not None


def test_real_problems(data_dir):
    problems = Math().load(data_dir, Settings())
    assert len(problems) == len({problem["id"] for problem in problems}) == 500
    assert all(problem["prompt"].endswith(INSTRUCTION) for problem in problems)
    assert {problem["level"] for problem in problems} == {1, 2, 3, 4, 5}
    assert len({problem["subject"] for problem in problems}) == 7


def test_the_whole_test_set(data_dir):
    """5,000 problems; levels and subjects as in the published set (437 of level 1, 1,324 of level 5; 1,187 Algebra)."""
    problems = Math().load(data_dir, Settings(options=MathOptions(problems=5000)))
    assert len({problem["id"] for problem in problems}) == 5000
    assert [sum(problem["level"] == level for problem in problems) for level in (1, 5)] == [437, 1324]
    assert sum(problem["subject"] == "Algebra" for problem in problems) == 1187
    known = {row["problem"]: row["answer"] for row in read_rows(data_dir / "math" / "math500.jsonl", answer=str)}
    shared = [problem for problem in problems if problem["prompt"].removesuffix(INSTRUCTION) in known]
    assert len(shared) == 500
    assert all(problem["answer"] == known[problem["prompt"].removesuffix(INSTRUCTION)] for problem in shared)


def test_faulty_problems(tmp_path):
    (tmp_path / "math").mkdir()
    row = {"problem": "?", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "p"}
    (tmp_path / "math" / "math500.jsonl").write_text((json.dumps(row) + "\n") * 2)
    with pytest.raises(UserError, match="math500.jsonl:2: unique_id 'p' occurs twice"):
        Math().load(tmp_path, Settings())
    row = {"problem": "?", "solution": "It is 2.", "type": "Algebra", "level": "Level 1"}
    (tmp_path / "math" / "test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="test.jsonl:1: must have a solution with a box"):
        Math().load(tmp_path, Settings(options=MathOptions(problems=5000)))
    with pytest.raises(UserError, match="problems must be 500 or 5000"):
        MathOptions(problems=50)


def test_the_last_box_of_each_solution_is_its_answer(data_dir):
    rows = read_rows(data_dir / "math" / "math500.jsonl", solution=str, answer=str)
    assert all(strictly_equal(row["solution"], row["answer"]) for row in rows)


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so \boxed{3}", "3"),
        (r"\boxed{1} and then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"\boxed{x \in \{1, 2\}}", r"x \in \{1, 2\}"),
        (r"\boxed{}", ""),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{\begin{pmatrix} 1 \\ 2 \\\end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \\\end{pmatrix}"),
        (r"in \boxed form: $\boxed{5}$", "5"),
        (r"in \boxed{form} or \boxed {5}.", "5"),
        (r"it is $\boxed 5$.", "5"),
        (r"it is \boxed -2.5.", "-2.5"),
        (r"the \boxed command", None),
        (r"\boxed{1} or \boxed{2", None),
        (r"\boxed{1", None),
        ("no box", None),
        ("", None),
    ],
)
def test_last_boxed(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [  # (strict, math-verify, extracted)
        (r"\boxed{\frac12}", r"\frac{1}{2}", (1, 1, 1)),
        (r"\boxed{0.50}", r"\frac{1}{2}", (0, 1, 1)),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", (0, 1, 1)),
        (r"\boxed{x^2+2x}", "(x+1)^2", (0, 0, 1)),
        (r"\boxed{10.0}", "10", (0, 1, 1)),
        (r"\boxed{0.33333333}", r"\frac{1}{3}", (0, 1, 1)),  # math-verify compares six places
        (r"\boxed{0.333}", r"\frac{1}{3}", (0, 0, 1)),
        (r"\boxed{007}", "7", (0, 1, 1)),
        (r"It costs \$40.", r"\$40", (0, 1, 0)),
        (r"\boxed{10.5}", "10", (0, 0, 1)),
        (r"\boxed{10}", r"10\%", (1, 1, 1)),
        (r"It is 10 percent.", r"10\%", (0, 1, 0)),
        (r"It is 11 percent.", r"10\%", (0, 0, 0)),
        (r"\boxed{3} or rather \boxed{4}", "4", (1, 1, 1)),
        (r"\boxed{4} or rather \boxed{3}", "4", (0, 0, 1)),
        ("I do not know.", "4", (0, 0, 0)),
        ("", "4", (0, 0, 0)),
        (r"\boxed{}", "4", (0, 0, 1)),
        (r"\boxed{\text{east}}", r"\text{east}", (1, 1, 1)),
        (r"\boxed{\text{west}}", r"\text{east}", (0, 0, 1)),
        (r"\boxed{5}" + " and so on" * LONGEST, "5", (1, 1, 1)),
        (r"\boxed{2/4}" + " and so on" * LONGEST, r"\frac{1}{2}", (0, 1, 1)),
    ],
)
def test_verdicts(grader, response, answer, expected):
    assert verdicts(grader, response, answer) == expected


@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{9^{9^{9^{9}}}}",
        r"\boxed{(1+x)^{1000000}}",
        r"\boxed{" + "(" * 3000 + "1" + ")" * 3000 + "}",
    ],
)
def test_a_comparison_that_hangs_is_cut(impatient, response):
    """At the limit, off the main thread's signals; the next comparisons are as good as before."""
    before = impatient.gave_up
    assert verdicts(impatient, response, "(1+x)^{999999}") == (0, 0, 1)
    assert impatient.gave_up == before + 1
    assert verdicts(impatient, r"\boxed{0.50}", r"\frac{1}{2}") == (0, 1, 1)


def test_the_worker_is_one_and_ends():
    before = multiprocessing.active_children()
    with Grader() as grader:
        for number in range(5):
            assert grader.grade(rf"\boxed{{\frac{{{number}}}{{7}}}}", rf"{number} \div 7 + 1")["math_verify"] == 0
        (worker,) = set(multiprocessing.active_children()) - set(before)
        assert worker.is_alive()
        started = time.monotonic()
        for number in range(100):
            grader.grade(rf"\boxed{{\frac{{{number}}}{{4}}}}", "x")
        assert time.monotonic() - started < 5  # 4 ms each: nothing is started or imported again
    with pytest.raises(ProcessLookupError):  # waited for, so that no zombie is left
        os.kill(worker.pid, 0)
    assert multiprocessing.active_children() == before
    grader.close()


def test_numbers_and_words_start_no_worker():
    with Grader() as grader:
        before = multiprocessing.active_children()
        assert verdicts(grader, r"\boxed{12}", "012") == (0, 1, 1)
        assert verdicts(grader, "a b c", "12") == (0, 0, 0)
        assert multiprocessing.active_children() == before


def test_text_is_not_run(impatient, tmp_path):
    """sympy's parsers evaluate Python; the answers of a model must never get there."""
    file = tmp_path / "made"
    for code in (f"__import__('pathlib').Path('{file}').touch()", f"open('{file}', 'w')"):
        for response in (rf"\boxed{{{code}}}", f"${code}$", code, rf"The answer is {code}."):
            impatient.grade(response, "1")
            impatient.grade(response, code)
        impatient.same_final_answers(code, "1")
    assert not file.exists()


def test_through_lm_eval(tmp_path, tiny_model_dir):
    """The tiny model on two problems: prompts go through its template, every problem is stored, graded and counted."""
    from harness.engines.transformers import TransformersEngine

    rows = [
        {
            "problem": problem,
            "solution": "",
            "answer": "2",
            "subject": "Algebra",
            "level": level,
            "unique_id": f"p/{level}",
        }
        for level, problem in enumerate(("What is $1+1$? {{answer}}", "What is $4-2$?"), 1)
    ]
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "math500.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = TransformersEngine.load(str(tiny_model_dir))
    bench, settings, before = Math(), Settings(max_new_tokens=8), multiprocessing.active_children()
    items = bench.load(tmp_path, settings)
    samples = bench.answer(Policy(engine), items, settings, None)
    assert [sample["id"] for sample in samples] == ["p/1", "p/2"]
    for item, sample in zip(items, samples, strict=True):
        prompt = engine.encode_chat([{"role": "user", "content": item["prompt"]}])
        (alone,) = engine.generate([prompt], [f"math/{item['id']}"], Sampling(8))
        assert sample["response"] == alone.text
    score = bench.score(items, samples, [])
    assert score.questions == 2 and score.unparsed == 2 and score.value == 0
    assert score.details["level"] == {1: 0, 2: 0} and score.details["subject"] == {"Algebra": 0}
    assert multiprocessing.active_children() == before


def test_minerva_through_lm_eval(tmp_path, tiny_model_dir, monkeypatch):
    """Four examples of lm-eval's own as turns of the conversation; the final answer is read as its task reads it."""
    from harness.engines.transformers import TransformersEngine

    row = {"problem": "What is $1+1$?", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "p"}
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "math500.jsonl").write_text(json.dumps(row) + "\n")
    engine = TransformersEngine.load(str(tiny_model_dir))
    engine.context_length = 10_000  # the four examples are longer than the tiny model's own
    chats = []
    encode = engine.chat.encode
    monkeypatch.setattr(engine.chat, "encode", lambda chat, *rest: chats.append(chat) or encode(chat[-1:], *rest))
    settings = Settings(max_new_tokens=4, options=MathOptions(protocol="minerva"))
    items = Math().load(tmp_path, settings)
    samples = Math().answer(Policy(engine), items, settings, None)
    assert [message["role"] for message in chats[0]] == ["user", "assistant"] * 4 + ["user"]
    assert chats[0][0]["content"].startswith("Problem:\nFind the domain of the expression")
    assert chats[0][-1]["content"] == "Problem:\nWhat is $1+1$?\n\nSolution:"
    score = Math().score(items, samples, [])
    assert (score.value, score.unparsed, score.details["num_fewshot"]) == (0, 1, 4)
    assert score.details["protocol"] == "minerva"


@pytest.mark.parametrize(
    ("response", "answer", "minerva", "extracted"),
    [
        (r"Final Answer: The final answer is $\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}", 1, 1),
        (r"Final Answer: The final answer is $0.5$. I hope it is correct.", r"\frac{1}{2}", 1, 1),
        (r"Final Answer: The final answer is $0.6$. I hope it is correct.", r"\frac{1}{2}", 0, 1),
        (r"It is \boxed{\frac{1}{2}}.", r"\frac{1}{2}", 0, 0),
        (r"Final Answer: The final answer is $(1, 2)$. I hope it is correct.", "(1,2)", 1, 1),
        # lm-eval's task compares tuples as strings alone; math-verify finds these equal
        (r"Final Answer: The final answer is $(0.5, 2)$. I hope it is correct.", r"(\frac{1}{2},2)", 0, 1),
    ],
)
def test_minerva_verdicts(grader, response, answer, minerva, extracted):
    grade = _minerva_grade(grader, response, answer)
    assert (grade["minerva"], grade["extracted"] is not None) == (minerva, extracted)


def test_score():
    items = [{"id": str(n), "level": 1 + n % 2, "subject": "Algebra"} for n in range(4)]
    samples = [
        {"id": str(n), "strict": strict, "math_verify": verified, "extracted": found, "settings": {"protocol": "boxed"}}
        for n, (strict, verified, found) in enumerate(
            [(1.0, 1.0, "4"), (0.0, 1.0, ""), (0.0, 0.0, "5"), (0.0, 0.0, None)]
        )
    ]
    score = Math().score(items, samples, [])
    assert score.value == 25 and score.details["math_verify"] == 50 and score.unparsed == 1
    assert score.values == {"0": 100, "1": 0, "2": 0, "3": 0}
    assert score.details["level"] == {1: 50, 2: 0}
