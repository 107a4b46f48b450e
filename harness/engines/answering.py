"""An engine as benchmarks see it: with the system prompt of the experiment, and answers without their thoughts.

Every benchmark gets its completions through here, so that thoughts are taken off in one place: before an answer is
graded, judged or measured, and before it becomes a turn of a conversation that goes on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from harness.engines.base import Advance, Completion, Engine, Message, Sampling, TokenIds
from harness.thoughts import Marks, opens_thought, split_thought

PROMPT_END = 32  # tokens at the end of a prompt, in which the template may open a thought


class AnsweringEngine:
    """Another engine whose completions have their thoughts taken off.

    The token ids of a completion stay what the model emitted. One that ends inside its thought has no text, and is not
    finished. `thoughts` has what was taken off, by the item key of the completion.
    """

    def __init__(self, engine: Engine, marks: Marks, system_prompt: str | None = None):
        self._engine, self._marks, self._system_prompt = engine, marks, system_prompt
        self.thoughts: dict[str, dict] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def encode_chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> TokenIds:
        """As the engine's; a conversation without a system message gets the experiment's."""
        if self._system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._system_prompt}, *messages]
        return self._engine.encode_chat(messages, add_generation_prompt)

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """As the engine's, without thoughts."""
        completions = self._engine.generate(prompts, items, sampling, advance)
        return list(map(self._answer, prompts, items, completions))

    def _answer(self, prompt: TokenIds, item: str, completion: Completion) -> Completion:
        raw = self._with_marks(completion)
        tokenizer = _tokenizer(self._engine)
        opened = tokenizer is not None and opens_thought(tokenizer.decode(list(prompt[-PROMPT_END:])), self._marks)
        split = split_thought(raw, self._marks, opened)
        if split.thought is None and split.finished:
            return completion
        self.thoughts[item] = {
            "raw": raw,
            "characters": len(split.thought or ""),
            "tokens": None
            if tokenizer is None
            else len(tokenizer(split.thought or "", add_special_tokens=False)["input_ids"]),
            "finished": split.finished,
        }
        return replace(completion, text=split.answer, finished=completion.finished and split.finished)

    def _with_marks(self, completion: Completion) -> str:
        """The text of a completion, with the marks of thoughts that are special tokens of its tokenizer."""
        tokenizer = _tokenizer(self._engine)
        special = set(getattr(tokenizer, "all_special_tokens", ()))
        wanted = {mark for pair in self._marks for mark in pair} | {
            "<|channel|>",
            "<|message|>",
            "<|start|>",
            "<|end|>",
        }
        if not self._marks or not special & wanted:
            return completion.text
        text = tokenizer.decode(list(completion.token_ids))
        for token in special - wanted:
            text = text.replace(token, "")
        return text


def _tokenizer(engine: Engine) -> Any:
    return getattr(getattr(engine, "chat", None), "tokenizer", None)


def with_thoughts(benchmark: str, samples: Sequence[dict], thoughts: dict[str, dict]) -> list[dict]:
    """Samples, each with what was taken off its answers: {"thoughts": [{"item", "raw", "characters", ...}]}."""
    by_id: dict[str, list[dict]] = {sample["id"]: [] for sample in samples}
    for item, thought in thoughts.items():
        name = item.removeprefix(f"{benchmark}/")
        while name not in by_id and "/" in name:
            name = name.rpartition("/")[0]
        if name in by_id:
            by_id[name].append({"item": item, **thought})
    return [sample | ({"thoughts": found} if (found := by_id[sample["id"]]) else {}) for sample in samples]


def count_thoughts(samples: Iterable[dict]) -> dict[str, int]:
    """For the details of a score: answers with a thought, and those that ended inside it; {} without any."""
    found = [thought for sample in samples for thought in sample.get("thoughts", ())]
    if not found:
        return {}
    return {"thoughts": len(found), "unfinished_thoughts": sum(not each["finished"] for each in found)}
