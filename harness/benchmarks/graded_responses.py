"""Responses that exist already, graded: the rows of a file, in parallel, in order."""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from threading import local

from harness.benchmarks import files
from harness.benchmarks.math_answers import Grader
from harness.errors import UserError
from harness.progress import Advance
from harness.thoughts import MARKS, Marks, counted, split_thought

MOST_WORKERS = 8
# (grader, response, answer) -> verdicts ("strict", "math_verify", ...) of 0.0 or 1.0, and "extracted", a text or None
Grade = Callable[[Grader, str, str], dict]


def score_responses(
    path: Path,
    grade: Grade,
    items: bool,
    advance: Advance | None,
    is_answer: Callable[[str], bool] = lambda answer: True,
    marks: Marks = MARKS,
) -> dict:
    """Shares of right responses in percent.

    Args:
        path: rows with `response` (a text) and `answer` (a text or a number); JSONL or a JSON list, plain or .gz.
        items: return a verdict for each row too.
        is_answer: whether a gold answer can be one.
        marks: of thoughts, which are taken off before a response is graded.

    Returns:
        each verdict in percent, n, unextracted (responses without an answer that the strict reading finds), and where
        there were any: gave_up (`given_up`), thoughts, unfinished_thoughts (responses that end inside one: never
        right); with items "items": [{"row", "id", the verdicts as true or false, "extracted"}], where "row" is the line
        of the file, or the entry of its list, and "id" is there if any row has one.

    Raises:
        UserError: naming file, line and field.
    """
    located = files.read_located_rows(path, written_by_models=True, response=str)
    answers = [_answer(where, row, is_answer) for where, row in located]
    split = [split_thought(row["response"], marks) for _, row in located]
    grades = grade_all(grade, [each.answer for each in split], answers, advance)
    result = {
        **percentages(grades),
        "n": len(grades),
        "unextracted": sum(each["extracted"] is None for each in grades),
        **given_up(grades),
        **counted(split),
    }
    if items:
        named = any("id" in row for _, row in located)
        result["items"] = [
            {"row": _number(where), **({"id": row.get("id")} if named else {}), **_shown(graded)}
            for (where, row), graded in zip(located, grades, strict=True)
        ]
    return result


def given_up(grades: Sequence[dict]) -> dict[str, int]:
    """{"gave_up": answers that took too long to compare, and so count as wrong}, {} without any."""
    number = sum("gave_up" in each for each in grades)
    return {"gave_up": number} if number else {}


def percentages(grades: Sequence[dict]) -> dict[str, float]:
    """The mean of each verdict, in percent."""
    verdicts = [name for name, value in grades[0].items() if isinstance(value, float)]
    return {name: 100 * fmean(each[name] for each in grades) for name in verdicts}


def grade_all(
    grade: Grade, responses: Sequence[str], answers: Sequence[str], advance: Advance | None = None
) -> list[dict]:
    """The grade of each response, in order; "gave_up" is in those where a comparison took too long, and was false for
    that. Every thread has a grader, whose comparisons run in its own process."""
    here, graders = local(), []

    def one(response: str, answer: str) -> dict:
        if not hasattr(here, "grader"):
            here.grader = Grader()
            graders.append(here.grader)
        before = here.grader.gave_up
        graded = grade(here.grader, response, answer)
        if here.grader.gave_up > before:
            graded["gave_up"] = True
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


def _number(where: str) -> int:
    return int(re.search(r"[0-9]+$", where).group())
