"""Responses that exist already, graded: the rows of a file, in parallel, in order."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

from harness.benchmarks import files
from harness.benchmarks.math_answers import Grader
from harness.engines.base import Advance
from harness.errors import UserError

MOST_WORKERS = 8
Grade = Callable[[Grader, str, str], dict]  # (grader, response, answer) -> "strict", "math_verify", "extracted", ...


def score_responses(
    path: Path,
    grade: Grade,
    items: bool,
    advance: Advance | None,
    is_answer: Callable[[str], bool] = lambda answer: True,
) -> dict:
    """Shares of right responses in percent.

    Args:
        path: rows with `response` (a text) and `answer` (a text or a number); JSONL or a JSON list, plain or .gz.
        items: return a verdict for each row too.
        is_answer: whether a gold answer can be one.

    Returns:
        strict, math_verify (percent), n, unextracted (responses without an answer that could be read); with items
        "items": [{"row", "id" where the row has one, the grade}].

    Raises:
        UserError: naming file, line and field.
    """
    located = files.read_located_rows(path, response=str)
    answers = [_answer(where, row, is_answer) for where, row in located]
    grades = grade_all(grade, [row["response"] for _, row in located], answers, advance)
    result = {
        "strict": 100 * sum(each["strict"] for each in grades) / len(grades),
        "math_verify": 100 * sum(each["math_verify"] for each in grades) / len(grades),
        "n": len(grades),
        "unextracted": sum(not each["extracted"] for each in grades),
    }
    if items:
        result["items"] = [
            {"row": number, **({"id": row["id"]} if "id" in row else {}), **_shown(graded)}
            for number, ((_, row), graded) in enumerate(zip(located, grades, strict=True), 1)
        ]
    return result


def grade_all(
    grade: Grade, responses: Sequence[str], answers: Sequence[str], advance: Advance | None = None
) -> list[dict]:
    """The grade of each response, in order. Every thread has a grader, whose comparisons run in its own process."""
    here, graders = local(), []

    def one(response: str, answer: str) -> dict:
        if not hasattr(here, "grader"):
            here.grader = Grader()
            graders.append(here.grader)
        graded = grade(here.grader, response, answer)
        if advance:
            advance(1)
        return graded

    try:
        with ThreadPoolExecutor(min(MOST_WORKERS, os.cpu_count() or 1)) as pool:
            return list(pool.map(one, responses, answers))
    finally:
        for grader in graders:
            grader.close()


def _answer(where: str, row: dict, is_answer: Callable[[str], bool]) -> str:
    if type(row.get("answer")) not in (str, int, float):
        raise UserError(f"{where}: field 'answer' must be a text or a number, not {row.get('answer')!r:.60}")
    if not is_answer(str(row["answer"])):
        raise UserError(f"{where}: {row['answer']!r:.60} is no gold answer here: give the number or the whole solution")
    return str(row["answer"])


def _shown(graded: dict) -> dict:
    return {name: bool(value) if isinstance(value, float) else value for name, value in graded.items()}
