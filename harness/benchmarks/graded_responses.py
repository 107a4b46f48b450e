"""Grade existing responses: the rows of a file, in parallel, in order."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import LifoQueue
from statistics import fmean
from typing import Any

from harness.benchmarks import files
from harness.benchmarks.math_answers import Grader
from harness.benchmarks.rows import Grade
from harness.errors import UserError
from harness.progress import Advance
from harness.thoughts import MARKS, Marks, counted, split_thought

MOST_WORKERS = 8
GradeFunction = Callable[[Grader, str, str], Grade]  # (grader, response, answer) -> grade


def score_responses(
    path: Path,
    grade: GradeFunction,
    items: bool,
    advance: Advance | None,
    is_answer: Callable[[str], bool] = lambda answer: True,
    marks: Marks = MARKS,
) -> dict[str, Any]:
    """Compute the shares of right responses in percent.

    Args:
        path: rows with `response` (a text) and `answer` (a text or a number); JSONL or a JSON list, plain or .gz.
        items: also return a verdict for each row.
        is_answer: whether a text can be a gold answer.
        marks: of thoughts, which are removed before a response is graded.

    Returns:
        each verdict in percent, n, unextracted (responses in which the strict reading finds no answer), and if there
        are any: gave_up (`given_up`), thoughts, unfinished_thoughts (responses that end inside one, which are never
        right). With items, "items": [{"row", "id", the verdicts as true or false, "extracted"}], where "row" is the
        line of the file or the entry of its list, and "id" is present if any row has one.

    Raises:
        UserError: naming file, line and field.
    """
    located = files.read_located_rows(path, written_by_models=True, response=str)
    answers = [_answer(where, row, is_answer) for where, row in located]
    split = [split_thought(row["response"], marks) for _, row in located]
    grades = grade_all(grade, [parts.answer for parts in split], answers, advance)
    result: dict[str, Any] = {
        **percentages(grades),
        "n": len(grades),
        "unextracted": sum(graded["extracted"] is None for graded in grades),
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


def given_up(grades: Sequence[Grade]) -> dict[str, int]:
    """Return {"gave_up": answers that took too long to compare, and so count as wrong}, {} if there are none."""
    number = sum("gave_up" in graded for graded in grades)
    return {"gave_up": number} if number else {}


def percentages(grades: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each verdict, in percent."""
    verdicts = [name for name, value in grades[0].items() if isinstance(value, float)]
    return {name: 100 * fmean(graded[name] for graded in grades) for name in verdicts}


def grade_all(
    grade: GradeFunction, responses: Sequence[str], answers: Sequence[str], advance: Advance | None = None
) -> list[Grade]:
    """Return the grade of each response, in order; "gave_up" marks those where a comparison took too long and so
    counts as false. As many graders as threads are in use, each with its own process."""
    threads = min(MOST_WORKERS, os.cpu_count() or 1)
    graders = [Grader() for _ in range(threads)]  # their processes start when they are needed
    idle: LifoQueue[Grader] = LifoQueue()  # the last one used comes first: few processes start
    for grader in graders:
        idle.put(grader)

    def one(response: str, answer: str) -> Grade:
        grader = idle.get()
        try:
            before = grader.gave_up
            graded = grade(grader, response, answer)
            if grader.gave_up > before:
                graded["gave_up"] = True
        finally:
            idle.put(grader)
        if advance:
            advance(1)
        return graded

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, responses, answers))
    finally:
        for grader in graders:
            grader.close()


def _answer(where: str, row: Mapping[str, Any], is_answer: Callable[[str], bool]) -> str:
    if type(row.get("answer")) not in (str, int, float):
        raise UserError(f"{where}: field 'answer' must be a text or a number, not {row.get('answer')!r:.60}")
    if not is_answer(str(row["answer"])):
        raise UserError(f"{where}: {row['answer']!r:.60} is not a gold answer: give the number or the whole solution")
    return str(row["answer"])


def _shown(graded: Grade) -> dict[str, Any]:
    return {name: bool(value) if isinstance(value, float) else value for name, value in graded.items()}


def _number(where: str) -> int:
    return int(where.rpartition(":")[2].rpartition(" ")[2])
