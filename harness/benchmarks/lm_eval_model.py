"""Our engines as a model of lm-eval, so that its tasks are answered by the one model that is loaded already."""

import json
import logging
from collections.abc import Sequence

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask

from harness.engines.base import Advance, Engine, Message, Sampling


def evaluate(
    engine: Engine, name: str, task: ConfigurableTask, sampling: Sampling, advance: Advance | None
) -> dict[str, dict]:
    """lm-eval's record of every question of a task ("resps", the metrics, ...), by the "id" of its document.

    Few-shot examples are turns of the conversation. `name` is the benchmark's, for the sampling noise.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    results = lm_eval.evaluate(
        EngineModel(engine, name, sampling, advance),
        {name: task},
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    return {sample["doc"]["id"]: sample for sample in results["samples"][name]}


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
        """Log-likelihoods of continuations as replies to the conversation; greedy ones are not told apart."""
        continuations = [self.engine.encode_completion(request.args[1].strip())[:-1] for request in requests]
        scored = self.engine.logprobs(self._prompts(requests), continuations, self.advance)
        return [(each.total, False) for each in scored]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        raise ValueError("perplexity of plain text is not defined for a chat engine")


def _until(text: str, stops: Sequence[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text
