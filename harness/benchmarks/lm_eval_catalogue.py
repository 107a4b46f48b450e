"""Tasks of lm-eval by name: found in its YAML files or in a folder of own ones, checked, and built with their data.

lm-eval's own classes read the YAML, write the prompts and know the metrics; nothing of a task is restated here.
"""

import logging
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval
from datasets import Dataset
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from harness.errors import UserError, unknown_name
from harness.files.rows import located

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # hints for its own command line

STOCK = Path(lm_eval.__file__).parent / "tasks"
FOLDER = "lm_eval"  # below the data folder: one folder per task, with a file per split
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")  # CSV has no types: a label would be a text
FEWSHOT_SEED = 1234  # lm-eval's default
OUTPUTS = ("generate_until", "multiple_choice", "loglikelihood")
SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
# a task on the documents that are left of it, for scoring: they are processed already, and nothing is asked
SCORED_SPLIT = "test"
FOR_SCORING = {
    "test_split": SCORED_SPLIT,
    **dict.fromkeys(("validation_split", "training_split", "fewshot_split", "fewshot_config", "process_docs")),
    "num_fewshot": 0,
}
_NAMES = re.compile(r"^['\"]?task['\"]?\s*:\s*['\"]?([^'\"#\n]+?)['\"]?\s*(?:#.*)?$", re.MULTILINE)


def find(task: str, include_path: Path | None) -> TaskManager:
    """Return lm-eval's index of the folders that name a task; indexing all of its files takes a minute.

    Raises:
        UserError: when there is no such task, or one that cannot be a benchmark: a group (its members are listed), a
            task that runs code of the model, a Python class, images or sound, a perplexity of plain text, or a metric
            that would be downloaded as code.
    """
    manager = _manager(task, include_path)
    entry = manager.task_index.get(task)
    if entry is None:
        places = [*_texts(STOCK).values(), *(_texts(include_path).values() if include_path else ())]
        raise unknown_name("task of lm-eval", task, sorted({name for text in places for name in _NAMES.findall(text)}))
    kind = entry.kind.name
    if kind in ("GROUP", "TAG"):
        raise UserError(
            f"{task} is a group of tasks, not a task: choose among its members, such as --benchmark "
            f"{','.join(f'lm-eval:{name}' for name in _members(manager, task))}"
        )
    if kind != "TASK":
        raise UserError(f"{task} of lm-eval is a Python class, not a YAML task: only YAML tasks can be benchmarks")
    _check(task, dict(entry.cfg or {}))
    return manager


def _check(task: str, config: dict[str, Any]) -> None:
    if config.get("unsafe_code"):
        raise UserError(f"{task} of lm-eval runs code that the model wrote (unsafe_code), which harness never does")
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        raise UserError(f"{task} of lm-eval shows images or plays sound: only tasks of text can be benchmarks")
    output = config.get("output_type", "generate_until")
    if output == "loglikelihood_rolling":
        raise UserError(
            f"{task} of lm-eval is a perplexity of plain text (loglikelihood_rolling), where less is better and which "
            f"is no mean over questions: choose a task of the kinds {', '.join(OUTPUTS)}"
        )
    if output not in OUTPUTS:
        raise UserError(f"{task} of lm-eval has output_type {output!r}: known are {', '.join(OUTPUTS)}")
    if config.get("process_results") is None:
        import lm_eval.api.metrics  # noqa: F401  (fills the registry)

        for metric in config.get("metric_list") or ():
            name = metric.get("metric")
            if metric.get("hf_evaluate") or (isinstance(name, str) and "/" not in name and name not in metric_registry):
                raise UserError(
                    f"{task} of lm-eval has the metric {name!r}, which is code of the hub (evaluate): harness runs none"
                )


def _manager(task: str, include_path: Path | None) -> TaskManager:
    key = r"['\"]?(?:task|group|tag)['\"]?\s*:\s*"
    named = re.compile(rf"^\s*(?:-\s*)?(?:{key})?['\"\[]?{re.escape(task)}['\"\]]?\s*(?:#.*)?$", re.MULTILINE)
    roots = [STOCK, *([include_path] if include_path else [])]
    folders = []
    for root in roots:
        parents = sorted({file.parent for file, text in _texts(root).items() if named.search(text)})
        folders += [each for each in parents if not any(other in each.parents for other in parents)]
    return TaskManager(include_path=folders, include_defaults=False)


@cache
def _texts(root: Path) -> dict[Path, str]:
    """Return the text of each YAML file below a folder."""
    if not root.is_dir():
        raise UserError(f"include_path {root} is not a folder: give the folder with the YAML files of your own tasks")
    return {file: file.read_text("utf-8", "replace") for file in sorted(root.rglob("*.yaml"))}


def _members(manager: TaskManager, group: str) -> list[str]:
    """Return the names of a group's tasks and groups, sorted."""
    entry = manager.task_index[group]
    listed = (entry.cfg or {}).get("task") or []
    names = [each if isinstance(each, str) else each.get("task") or each.get("group") for each in listed]
    return sorted({*entry.tags, *map(str, names)} if entry.kind.name == "TAG" else set(map(str, names)))


def build(manager: TaskManager, task: str, changes: dict[str, Any]) -> ConfigurableTask:
    """Return a task with some fields of its YAML changed."""
    one = {"group": "one task", "task": [{"task": task, **changes}]}
    return manager.load([one])["tasks"][changes.get("task", task)]


def with_data(manager: TaskManager, task: str, data_dir: Path) -> ConfigurableTask:
    """Return a task with its data: the files of DATA_DIR/lm_eval/TASK, or else its YAML's dataset_path, which is local
    or a data set of the hub (whose code is never run).

    Raises:
        UserError: when the data cannot be read, or a split is not there.
    """
    folder = data_dir / FOLDER / task
    here = f"{folder}/SPLIT.jsonl (or .json, .parquet)"
    if folder.is_dir():
        splits = _local_splits(folder)
        config = dict(manager.task_index[task].cfg or {})
        named = {config[name] for name in SPLITS if config.get(name)}
        named |= {split for split in [(config.get("fewshot_config") or {}).get("split")] if split}
        if absent := sorted(named - splits.keys()):
            raise UserError(f"{folder}: {task} of lm-eval needs the split {' and '.join(absent)}: write {here}")
        return build(manager, task, {"custom_dataset": lambda **_settings: splits})
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError

    try:
        return build(manager, task, {})
    except (DatasetsError, HTTPError, OSError, ValueError, NotImplementedError) as error:
        offline = ", or unset HF_HUB_OFFLINE to fetch it" if os.environ.get("HF_HUB_OFFLINE") else ""
        reason = " ".join(str(error).split())
        raise UserError(
            f"the data of {task} of lm-eval cannot be loaded ({reason:.300}): write {here}{offline}"
        ) from None


def _local_splits(folder: Path) -> dict[str, Dataset]:
    from pyarrow.parquet import read_schema

    splits = {}
    for file in sorted(folder.iterdir()):
        suffix = next((each for each in SUFFIXES if file.name.endswith(each)), None)
        if suffix is None:
            raise UserError(f"{file}: is no file of a split: its name must end in {', '.join(SUFFIXES)}")
        rows = []
        columns = read_schema(file).names if suffix == ".parquet" else ()
        for where, row in located(file, columns):
            if not isinstance(row, dict):
                raise UserError(f"{where}: must be an object")
            rows.append(row)
        if not rows:
            raise UserError(f"{file}: holds no rows")
        splits[file.name.removesuffix(suffix)] = _dataset(file, rows)
    return splits


def _dataset(file: Path, rows: Sequence[dict[str, Any]]) -> Dataset:
    from pyarrow import ArrowException

    try:
        return Dataset.from_list(list(rows))
    except (ArrowException, ValueError, TypeError) as error:
        raise UserError(f"{file}: its rows differ in the types of a field ({error})") from None


def for_scoring(manager: TaskManager, task: str, docs: Sequence[dict[str, Any]]) -> ConfigurableTask:
    """Return a task with given documents, for its filters and metrics alone."""
    data = {SCORED_SPLIT: Dataset.from_list(list(docs))}
    return build(manager, task, FOR_SCORING | {"custom_dataset": lambda **_settings: data})
