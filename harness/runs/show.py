"""What a cell of a table was computed from: the values of all questions, and one question in full."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks.base import step_names
from harness.errors import UserError, unknown_name
from harness.files import store
from harness.files.folders import SCORES, RunFolder
from harness.results.folder import check_there, read_experiment
from harness.runs.arm import Arm
from harness.runs.questions import read_questions
from harness.runs.run import arms_of


def values(
    path: Path, benchmark: str, methods: Sequence[str] = (), seed: int | None = None, differing: bool = False
) -> dict[str, Any]:
    """The values of all questions of a benchmark.

    Args:
        methods: all where none is named. seed: one seed; None for the mean over all.
        differing: leave out questions on which all methods have the same value.

    Returns: {"benchmark", "methods": [...], "score": {METHOD: mean of the scores of its seeds, as in the table},
        "questions": [{"question": ID, METHOD: mean over seeds or None}], "left_out": questions that do not differ}.

    Raises:
        UserError: when the run, the benchmark or a method is not there.
    """
    arms = _chosen(path, benchmark, methods, seed)
    scores = {arm: _score(arm, benchmark) for arm in arms}
    names = list(dict.fromkeys(arm.name for arm in arms))
    questions = dict.fromkeys(question for score in scores.values() for question in score["values"])
    rows = []
    for question in questions:
        row: dict[str, Any] = {"question": question}
        for name in names:
            known = [
                score["values"][question]
                for arm, score in scores.items()
                if arm.name == name and question in score["values"]
            ]
            row[name] = fmean(known) if known else None
        rows.append(row)
    score = {name: fmean(score["value"] for arm, score in scores.items() if arm.name == name) for name in names}
    kept = [row for row in rows if not differing or len({row[name] for name in names}) > 1]
    return {
        "benchmark": benchmark,
        "methods": names,
        "score": score,
        "questions": kept,
        "left_out": len(rows) - len(kept),
    }


def question(
    path: Path, benchmark: str, question: str, methods: Sequence[str] = (), seed: int | None = None
) -> dict[str, Any]:
    """All that is stored for one question.

    Returns: {"benchmark", "question": its item, "arms": [{"method", "seed", "value", "samples": [...],
        "judgments": [...], "files": {path: SHA-256}}]}, value None without a verdict.

    Raises:
        UserError: when the run, the benchmark, a method or the question is not there.
    """
    arms = _chosen(path, benchmark, methods, seed)
    shown = []
    for arm in arms:
        samples = _rows(arm.folder.samples(benchmark), question)
        shown.append(
            {
                "method": arm.name,
                "seed": arm.seed,
                "value": _score(arm, benchmark)["values"].get(question),
                "samples": samples,
                "judgments": _rows(arm.folder.judgments(benchmark), question),
                "files": {
                    str((arm.folder / name).relative_to(path)): digest
                    for step in step_names(benchmark)
                    for name, digest in arm.folder.files(step).items()
                },
            }
        )
    if not any(each["samples"] for each in shown):
        known = list(_score(arms[0], benchmark)["values"])
        raise UserError(f"{benchmark} has no question {question!r} in {path}: its questions are {_some(known)}")
    item = read_questions(arms[0].experiment, path, benchmark).get(question)
    return {"benchmark": benchmark, "question": item, "arms": shown}


def _chosen(path: Path, benchmark: str, methods: Sequence[str], seed: int | None) -> list[Arm]:
    experiment = read_experiment(path)
    if benchmark not in experiment.benchmark_names():
        raise unknown_name("benchmark of this run", benchmark, experiment.benchmark_names())
    for name in methods:
        if name not in experiment.arms():
            raise unknown_name("method of this run", name, experiment.arms())
    arms = [
        arm
        for arm in arms_of(experiment, RunFolder(path))
        if arm.name in (methods or experiment.arms()) and seed in (None, arm.seed)
    ]
    for arm in arms:
        if mark := arm.folder.mark(step_names(benchmark)[1]):
            check_there(arm.folder, mark, SCORES)
    scored = [arm for arm in arms if arm.folder.score(benchmark).exists()]
    if not scored:
        raise UserError(f"{path} has no scores of {benchmark}{'' if seed is None else f' with seed {seed}'} yet")
    return scored


def _score(arm: Arm, benchmark: str) -> dict[str, Any]:
    return store.read_json(arm.folder.score(benchmark))


def _rows(file: Path, question: str) -> list[dict[str, Any]]:
    """The rows of one question."""
    if not file.exists():
        return []
    return [row for row in store.iterate_jsonl(file) if str(row.get("id", row.get("question_id"))) == question]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
