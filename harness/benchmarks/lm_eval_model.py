"""Our engines as an lm-eval model, so that its tasks are answered by the model that is already loaded."""

import json
import logging
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from harness.benchmarks.rows import TaskSettings
from harness.engines.base import Engine, Sampling
from harness.progress import Advance
from harness.types import Message, TokenIds

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # hints for its own command line


def stock_config(folder: str, task: str) -> dict[str, Any]:
    """Return the configuration of one of lm-eval's own tasks; functions in it are not resolved, but strings.

    Args:
        folder: below lm_eval/tasks.
    """
    return dict(_index(folder)[task].cfg)


@cache
def _index(folder: str) -> dict[str, Any]:
    """Index one folder: with include_defaults, lm-eval would parse the files of all of its tasks, for a minute."""
    path = Path(lm_eval.__file__).parent / "tasks" / folder
    return TaskManager(include_path=path, include_defaults=False).task_index


def local_task(config: dict[str, Any], **splits: Sequence[dict[str, Any]]) -> ConfigurableTask:
    """Return a task with the given documents, by split; nothing is downloaded."""
    data = {name: Dataset.from_list(list(rows)) for name, rows in splits.items()}
    return ConfigurableTask(config=config | {"custom_dataset": lambda **_settings: data})


def named_settings(task: str, num_fewshot: int) -> TaskSettings:
    """Return how the questions were asked, for the details of a score."""
    return {"task": task, "num_fewshot": num_fewshot, "chat": True, "lm_eval": version("lm-eval")}


def evaluate(
    engine: Engine, name: str, task: ConfigurableTask, sampling: Sampling, advance: Advance | None
) -> dict[str, dict[str, Any]]:
    """Run `evaluate_all` for one task."""
    return evaluate_all(engine, name, {name: task}, sampling, advance)


def evaluate_all(
    engine: Engine, name: str, tasks: dict[str, ConfigurableTask], sampling: Sampling, advance: Advance | None
) -> dict[str, dict[str, Any]]:
    """Return lm-eval's record of each question of the tasks ("resps", the metrics, ...), by its document's "id".

    Few-shot examples are turns of the conversation.

    Args:
        name: of the benchmark, for the sampling noise.
    """
    results = lm_eval.evaluate(
        EngineModel(engine, name, sampling, advance),
        tasks,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    return {sample["doc"]["id"]: sample for samples in results["samples"].values() for sample in samples}


class EngineModel(LM):
    """Chat in, text out. Contexts are conversations, which the engine's chat template writes once."""

    def __init__(self, engine: Engine, name: str, sampling: Sampling, advance: Advance | None = None) -> None:
        super().__init__()
        self.engine, self.name, self.sampling, self.advance = engine, name, sampling, advance

    @property
    def tokenizer_name(self) -> str:
        return self.engine.name

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "the engine's own"

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """Return the conversation as JSON: the engine turns it into token ids, so no templated text is tokenized."""
        return json.dumps(chat_history)

    def _prompts(self, requests: Sequence[Instance]) -> list[TokenIds]:
        return [self.engine.encode_chat(json.loads(request.args[0])) for request in requests]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        completions = self.engine.generate(
            self._prompts(requests),
            [f"{self.name}/{request.doc['id']}" for request in requests],
            self.sampling,
            self.advance,
        )
        return [
            _until(completion.text, request.args[1].get("until") or ())
            for completion, request in zip(completions, requests, strict=True)
        ]

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log-likelihoods of continuations as replies to the conversation; whether they are greedy is not known.

        Continuations of one conversation are read where they differ, by the engine's `encode_alternatives`.
        """
        texts: dict[str, list[str]] = {}
        for request in requests:
            texts.setdefault(request.args[0], []).append(request.args[1].strip())
        encoded: dict[tuple[str, str], tuple[TokenIds, TokenIds]] = {}
        for chat, answers in texts.items():
            prompt, alternatives = self.engine.encode_alternatives(json.loads(chat), answers)
            encoded |= {(chat, answer): (prompt, ids) for answer, ids in zip(answers, alternatives, strict=True)}
        asked = [encoded[request.args[0], request.args[1].strip()] for request in requests]
        scored = self.engine.logprobs([prompt for prompt, _ in asked], [ids for _, ids in asked], self.advance)
        return [(logprob.total, False) for logprob in scored]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        raise ValueError("perplexity of plain text is not defined for a chat engine")


def _until(text: str, stops: Sequence[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text
