"""Scores of MT-Bench judgments in FastChat's format: each row with a verdict counts; the others are reported.

Live runs and existing files share one implementation.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks import files
from harness.endpoints.base import CUT
from harness.errors import UserError
from harness.judges.verdicts import parse_rating

UNPARSED = -1  # FastChat's score of a judgment without a verdict
TURNS = (1, 2)
OFFICIAL = (  # categories of the official questions 81 to 160, ten each (lm-sys/FastChat, mt_bench/question.jsonl)
    *("writing", "roleplay", "reasoning", "math"),
    *("coding", "extraction", "stem", "humanities"),
)
FIRST, EACH = 81, 10
UNKNOWN = "unknown"


def score_judgments(path: Path, *, reparse: bool = False, questions: Path | None = None) -> dict[str, Any]:
    """Score the models in a file of single-answer judgments.

    Args:
        reparse: parse the verdicts in the texts again (`parse_rating`) instead of using the stored scores. A text that
            was cut according to its "finish_reason" has no verdict.
        questions: question.jsonl with the categories; default: those of the official 80, and "unknown" for others.

    Returns:
        {"judge": ..., "models": {name: `summary`, and "missing": turns without a row, None if a question is unknown}}.

    Raises:
        UserError: for malformed rows, and for scores of several judges.
    """
    located = files.read_located_rows(path, question_id=int, turn=int)
    rows = [_checked(where, row, reparse) for where, row in located]
    judges = sorted({row["judge"] for row in rows})
    if len(judges) > 1:
        raise UserError(f"{path}: judgments of several judges ({', '.join(judges)}) cannot be averaged: split the file")
    categories = _categories(questions) if questions else official_categories()
    by_model = defaultdict(list)
    for row in rows:
        by_model[row["model"]].append(row)
    models = {}
    for name, judged in by_model.items():
        models[name] = summary(judged, categories) | {"missing": _missing(judged, categories)}
    return {"judge": judges[0], "reparsed": reparse, "models": models}


def summary(rows: Sequence[Mapping[str, Any]], categories: Mapping[int, str]) -> dict[str, Any]:
    """Compute means over the rows with a verdict, and count the others.

    Args:
        rows: of one model, each with question_id, turn and score (None or -1: no verdict).
        categories: question id -> category.

    Returns:
        score, turn_1, turn_2 (None if no row has a verdict), categories {name: mean}, judged (rows with a verdict),
        unparsed, duplicates (rows beyond the first of a question and turn; they count, as in FastChat).
    """
    rated = [row for row in rows if row["score"] not in (None, UNPARSED)]
    by_category = defaultdict(list)
    for row in rated:
        by_category[categories.get(row["question_id"], UNKNOWN)].append(row["score"])
    return {
        "score": _mean(row["score"] for row in rated),
        **{f"turn_{turn}": _mean(row["score"] for row in rated if row["turn"] == turn) for turn in TURNS},
        "categories": {name: fmean(scores) for name, scores in sorted(by_category.items())},
        "judged": len(rated),
        "unparsed": len(rows) - len(rated),
        "duplicates": len(rows) - len({(row["question_id"], row["turn"]) for row in rows}),
    }


def official_categories() -> dict[int, str]:
    """Return question id -> category of the official 80 questions."""
    return {FIRST + EACH * index + offset: name for index, name in enumerate(OFFICIAL) for offset in range(EACH)}


def _categories(path: Path) -> dict[int, str]:
    return {row["question_id"]: row["category"] for row in files.read_rows(path, question_id=int, category=str)}


def _checked(where: str, row: dict[str, Any], reparse: bool) -> dict[str, Any]:
    """Return what scoring needs of a row."""
    if "model_1" in row or "winner" in row:
        raise UserError(f"{where}: a comparison of two models: give FastChat's single-answer judgments (gpt-4_single)")
    if not isinstance(row.get("model"), str):
        raise UserError(f"{where}: field 'model' must be of type str, not {row.get('model')!r:.60}")
    if row["turn"] not in TURNS:
        raise UserError(f"{where}: turn must be 1 or 2, not {row['turn']}")
    if reparse:
        if not isinstance(row.get("judgment"), str):
            raise UserError(f"{where}: field 'judgment' must be a text, to parse its verdict again")
        cut = str(row.get("finish_reason")).lower() in CUT
        score = None if cut else parse_rating(row["judgment"])
    else:
        score = row.get("score")
        if "score" not in row or not (score is None or type(score) in (int, float)):
            raise UserError(f"{where}: field 'score' must be a number or null, not {score!r:.60} (or use --reparse)")
        if score is not None and score != UNPARSED and not 0 <= score <= 10:
            raise UserError(f"{where}: score must lie within 0 and 10, or be -1 for none, not {score}")
    return {name: row[name] for name in ("model", "question_id", "turn")} | {"score": score, "judge": _judge(row)}


def _missing(rows: Sequence[Mapping[str, Any]], categories: Mapping[int, str]) -> int | None:
    asked = {(row["question_id"], row["turn"]) for row in rows}
    wanted = {(question, turn) for question in categories for turn in TURNS}
    return len(wanted - asked) if asked <= wanted else None


def _judge(row: Mapping[str, Any]) -> str:
    """Return the judge's name: FastChat's field holds it with its prompt, which differs between questions."""
    match row.get("judge"):
        case [str(name), *_] | str(name):
            return name
    return UNKNOWN


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return fmean(values) if values else None
