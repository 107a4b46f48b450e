"""Scores as evaluation results of the hub: model-index of a model card, and .eval_results of a model repository."""

import math
from pathlib import Path
from typing import Any

import yaml

from harness.benchmarks.base import Score
from harness.benchmarks.loading import benchmarks_of, titles
from harness.exports.arms import metric_name, scores_of
from harness.files import store
from harness.models.folder import TESTBED
from harness.runs.arm import Arm

MODEL_INDEX, ENTRIES = "model-index.yaml", Path(".eval_results", "harness.yaml")


def write(arm: Arm, folder: Path) -> None:
    """Write model-index.yaml, for the front matter of a card, and the file of entries if real benchmarks were run."""
    store.write_text(folder / MODEL_INDEX, _yaml(model_index(f"{arm.experiment.name}: {arm.label}", arm)))
    if found := entries(arm):
        store.write_text(folder / ENTRIES, _yaml(found))


def model_index(name: str, arm: Arm) -> dict[str, Any]:
    """{"model-index": [...]} with one result per benchmark that has a value."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = []
    for benchmark, score in _known(arm).items():
        title = titles(arm.experiment)[benchmark]
        dataset, task = _dataset(arm, benchmark)
        results.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=dataset,
                dataset_name=f"testbed {title}" if arm.experiment.data_dir == TESTBED else title,
                dataset_config=task,
                metric_type=metric_name(score),
                metric_name=score.metric,
                metric_value=score.value,
                metric_args=_setting(score),
            )
        )
    return {"model-index": eval_results_to_model_index(name, results)} if results else {}


def entries(arm: Arm) -> list[dict[str, Any]]:
    """Entries of .eval_results/*.yaml, for benchmarks whose questions are a data set on the hub."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    found = []
    for benchmark, score in _known(arm).items():
        dataset, task = _dataset(arm, benchmark)
        if task is not None:
            notes = ", ".join(f"{name} {value}" for name, value in {"metric": score.metric, **_setting(score)}.items())
            found.append(EvalResultEntry(dataset_id=dataset, task_id=task, value=score.value, notes=notes))
    return eval_result_entries_to_yaml(found)


def _known(arm: Arm) -> dict[str, Score]:
    return {name: score for name, score in scores_of(arm).items() if math.isfinite(score.value)}


def _dataset(arm: Arm, benchmark: str) -> tuple[str, str | None]:
    """A name for the questions, and the task if they are a data set on the hub."""
    if arm.experiment.data_dir == TESTBED:
        return f"testbed/{benchmark}", None
    task = benchmarks_of(arm.experiment)[benchmark].hub_task(arm.experiment.benchmark_options(benchmark))
    return (task.dataset, task.task) if task else (benchmark, None)


def _setting(score: Score) -> dict[str, Any]:
    """How a score was made."""
    details: dict[str, Any] = {
        name: score.details[name] for name in ("protocol", "num_fewshot", "chat") if name in score.details
    }
    counts = {"questions": score.questions, "missing": score.missing, "unparsed": score.unparsed}
    return {**({"judge": score.judge} if score.judge else {}), **details, **counts}


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
