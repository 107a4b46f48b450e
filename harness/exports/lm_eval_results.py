"""Scores in lm-eval's format: results_DATE.json and samples_TASK_DATE.jsonl, one folder per model.

Percentages are fractions there. A question is a document; the answers of all its turns are one response. Metrics keep
their own names ("win rate %" is win_rate), so that they cannot be mistaken for those of lm-eval's tasks.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import __version__
from harness.benchmarks.base import Score
from harness.benchmarks.loading import titles
from harness.exports import arms
from harness.exports.arms import metric_name, scores_of
from harness.files import store
from harness.runs.arm import Arm
from harness.runs.questions import read_questions
from harness.statistics.estimates import Stack, estimates
from harness.statistics.grids import grid

FILTER = "none"
ANSWERS = ("output", "response", "turns")  # fields of samples with the text of the model
QUESTIONS, TARGETS = ("prompt", "instruction", "question", "turns"), ("answer", "reference")  # fields of questions


def write(arm: Arm, folder: Path, samples: bool) -> None:
    """Write the files of one arm.

    Args:
        samples: whether to write the questions and answers too.
    """
    scores = scores_of(arm)
    when = max((arm.folder.score(name).stat().st_mtime for name in scores), default=0.0)
    date = datetime.fromtimestamp(when).isoformat().replace(":", "-")
    rows = {name: list(_samples(arm, name, score)) for name, score in scores.items()} if samples else {}
    found = results(arm, scores, when)
    found["task_hashes"] = {name: _hash("".join(row["doc_hash"] for row in each)) for name, each in rows.items()}
    store.write_json(folder / f"results_{date}.json", found)
    for name, each in rows.items():
        store.write_jsonl(folder / f"samples_{name}_{date}.jsonl", each)


def results(arm: Arm, scores: dict[str, Score], when: float) -> dict[str, Any]:
    """The results of an arm as lm_eval.result_schema.EvalResults.

    Args:
        when: the time when the scores were finished, in seconds since 1970.
    """
    experiment, seed = arm.experiment, arm.seed
    named = f"{experiment.name}/{arm.folder.path.name}"
    return {
        "results": {name: _metrics(name, score) for name, score in scores.items()},
        "group_subtasks": {name: [] for name in scores},
        "configs": {name: _config(name, score, arm) for name, score in scores.items()},
        "versions": {name: __version__ for name in scores},
        "n-shot": {name: score.details.get("num_fewshot", 0) for name, score in scores.items()},
        "higher_is_better": {name: {metric_name(score): True} for name, score in scores.items()},
        "n-samples": {
            name: {"original": score.questions, "effective": len(score.values)} for name, score in scores.items()
        },
        "config": {
            "model": "harness",
            "model_args": {"method": arm.name, "seed": seed, "start_model": arms.model_name(experiment)},
            "batch_size": str(experiment.batch_size),
            "device": experiment.device,
            "limit": experiment.limit,
            "bootstrap_iters": 0,
            "random_seed": seed,
        },
        "date": when,
        "harness_version": __version__,
        "lm_eval_version": version("lm-eval"),
        "transformers_version": version("transformers"),
        "model_source": "harness",
        "model_name": named,
        "model_name_sanitized": named.replace("/", "__"),
    }


def standard_error(score: Score) -> float | None:
    """The standard error of the weighted mean, sqrt(n / (n - 1) * sum over n clusters of (sum w (v - m))^2) / sum w;
    for equal weights without clusters, the sample standard deviation / sqrt(n). None for fewer than two clusters."""
    if len(score.values) < 2 or not math.isfinite(score.value):
        return None
    found = estimates(Stack.of([grid({0: score.values}, {0: score.weights}, score.clusters)]))
    return float(found.error[0]) if found.groups[0] > 1 else None


def _unit(score: Score) -> float:
    """The divisor of a value: 100 for percentages."""
    return 100.0 if "%" in score.metric else 1.0


def _metrics(name: str, score: Score) -> dict[str, Any]:
    metric, error = metric_name(score), standard_error(score)
    value = score.value / _unit(score) if math.isfinite(score.value) else "N/A"
    return {
        "name": name,
        "alias": name,
        "sample_len": score.questions,
        f"{metric},{FILTER}": value,
        f"{metric}_stderr,{FILTER}": "N/A" if error is None else error / _unit(score),
    }


def _config(name: str, score: Score, arm: Arm) -> dict[str, Any]:
    judge = {"judge": score.judge} if score.judge else {}
    return {
        "task": name,
        "task_alias": titles(arm.experiment)[name],
        "num_fewshot": score.details.get("num_fewshot", 0),
        "metric_list": [{"metric": metric_name(score), "aggregation": "mean", "higher_is_better": True}],
        "metadata": {
            "version": __version__,
            "suite": "testbed" if arm.experiment.data_dir == "testbed" else "files",
            "metric": score.metric,
            "missing": score.missing,
            "unparsed": score.unparsed,
            **judge,
        },
    }


def _samples(arm: Arm, name: str, score: Score) -> Iterator[dict[str, Any]]:
    """lm-eval's row of each question, without the metric where a question has no value."""
    items, metric = read_questions(arm.experiment, arm.root.path, name), metric_name(score)
    for number, row in enumerate(store.iterate_jsonl(arm.folder.samples(name))):
        question = str(row["id"])
        document = items.get(question, {"id": question})
        prompt, target = _text(document, *QUESTIONS), _text(document, *TARGETS)
        response = _text(row, *ANSWERS) or json.dumps(row, ensure_ascii=False)
        known = question in score.values
        yield {
            "doc_id": number,
            "doc": document,
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
            "resps": [[response]],
            "filtered_resps": [response],
            "filter": FILTER,
            "metrics": [metric] if known else [],
            "doc_hash": _hash(json.dumps(document, sort_keys=True, ensure_ascii=False)),
            "prompt_hash": _hash(prompt),
            "target_hash": _hash(target),
            **({metric: score.values[question] / _unit(score)} if known else {}),
        }


def _text(row: dict[str, Any], *names: str) -> str:
    """The first of these entries that exists, as a text; several turns are joined by blank lines."""
    value = next((row[name] for name in names if row.get(name)), "")
    return "\n\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
