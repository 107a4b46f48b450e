"""Our engines as a model of lm-eval, so that its tasks are answered by the one model that is loaded already."""

import json
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import lm_eval
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from harness.engines.base import Engine, Sampling
from harness.progress import Advance
from harness.types import Message

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # hints for its own command line


def stock_config(*path: str) -> dict:
    """The configuration of one of lm-eval's own tasks, from its file below lm_eval/tasks."""
    return load_yaml(Path(lm_eval.__file__).parent.joinpath("tasks", *path))


def local_task(config: dict, **splits: Sequence[dict]) -> ConfigurableTask:
    """A task whose documents are given, by split; nothing is downloaded."""
    data = {name: Dataset.from_list(list(rows)) for name, rows in splits.items()}
    return ConfigurableTask(config=config | {"custom_dataset": lambda **_settings: data})


def named_settings(task: str, num_fewshot: int) -> dict:
    """How the questions were asked, for the details of a score."""
    return {"task": task, "num_fewshot": num_fewshot, "chat": True, "lm_eval": version("lm-eval")}


def evaluate(
    engine: Engine, name: str, task: ConfigurableTask, sampling: Sampling, advance: Advance | None
) -> dict[str, dict]:
    """`evaluate_all` of one task."""
    return evaluate_all(engine, name, {name: task}, sampling, advance)


def evaluate_all(
    engine: Engine, name: str, tasks: dict[str, ConfigurableTask], sampling: Sampling, advance: Advance | None
) -> dict[str, dict]:
    """lm-eval's record of every question of the tasks ("resps", the metrics, ...), by the "id" of its document.

    Few-shot examples are turns of the conversation. `name` is the benchmark's, for the sampling noise.
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
    """Chat in, text out. Contexts are conversations, which the engine's own template writes once."""

    def __init__(self, engine: Engine, name: str, sampling: Sampling, advance: Advance | None = None) -> None:
        super().__init__()
        self.engine, self.name, self.sampling, self.advance = engine, name, sampling, advance

    @property
    def tokenizer_name(self) -> str:
        return self.engine.name

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "the engine's own"

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as JSON: the engine turns it into token ids, so no templated text is tokenized again."""
        return json.dumps(chat_history)

    def _prompts(self, requests: Sequence[Instance]):
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
        """Log-likelihoods of continuations as replies to the conversation; greedy ones are not told apart.

        Continuations of one conversation are read where they differ, by the engine's `encode_alternatives`.
        """
        texts: dict[str, list[str]] = {}
        for request in requests:
            texts.setdefault(request.args[0], []).append(request.args[1].strip())
        encoded = {}
        for chat, answers in texts.items():
            prompt, alternatives = self.engine.encode_alternatives(json.loads(chat), answers)
            encoded |= {(chat, answer): (prompt, each) for answer, each in zip(answers, alternatives, strict=True)}
        asked = [encoded[request.args[0], request.args[1].strip()] for request in requests]
        scored = self.engine.logprobs(*zip(*asked, strict=True), self.advance)
        return [(each.total, False) for each in scored]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        raise ValueError("perplexity of plain text is not defined for a chat engine")


def _until(text: str, stops: Sequence[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text
