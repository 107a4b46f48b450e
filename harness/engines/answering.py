"""An engine as benchmarks see it: with the system prompt of the experiment, and answers without their thoughts.

Every benchmark gets its completions through here, so that thoughts are taken off in one place: before an answer is
graded, judged or measured, and before it becomes a turn of a conversation that goes on.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from harness.engines.base import Completion, Engine, Sampling
from harness.errors import UserError
from harness.progress import Advance
from harness.thoughts import Marks, ThoughtSplit, opens_thought, split_thought
from harness.types import INSTRUCTIONS, Chat, Conversation, TokenIds

SWITCHES = ("enable_thinking", "thinking")  # Qwen3 and SmolLM3; Granite and DeepSeek-V3.1
CHANNEL = "<|channel|>"
CHANNEL_MARKS = {CHANNEL, "<|message|>", "<|start|>", "<|end|>"}  # gpt-oss
PROMPT_END = 32  # tokens at the end of a prompt, in which the template may open a thought


class AnsweringEngine:
    """Another engine whose completions have their thoughts taken off their texts; their token ids stay.

    thoughts: what was taken off, by the item key of the completion.
    """

    def __init__(
        self, engine: Engine, marks: Marks, system_prompt: str | None = None, thinking: bool | None = None
    ) -> None:
        """
        Args:
            thinking: whether the chat template is told to let the model think; None leaves that to the template.

        Raises:
            UserError: when the template has no such switch.
        """
        self._engine, self._marks, self._system_prompt = engine, marks, system_prompt
        self._switch = {} if thinking is None else {_switch(engine): thinking}
        self.thoughts: dict[str, dict] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def encode_chat(self, chat: Conversation, add_generation_prompt: bool = True) -> TokenIds:
        """As the engine's; a conversation without a system message gets the experiment's."""
        return self._engine.encode_chat(self._asked(chat), add_generation_prompt)

    def encode_alternatives(self, chat: Conversation, texts: Sequence[str]) -> tuple[TokenIds, list[TokenIds]]:
        """As the engine's, of the same conversation as for a completion."""
        return self._engine.encode_alternatives(self._asked(chat), texts)

    def _asked(self, chat: Conversation) -> Chat:
        chat = Chat.of(chat)
        if self._system_prompt is not None and chat.messages[0]["role"] not in INSTRUCTIONS:
            chat = chat.instructed(self._system_prompt)
        return replace(chat, variables=chat.variables | self._switch)

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """As the engine's, without thoughts."""
        completions = self._engine.generate(prompts, items, sampling, advance)
        splits = [split_completion(self._engine, *each, self._marks) for each in zip(prompts, completions, strict=True)]
        for item, completion, split in zip(items, completions, splits, strict=True):
            if split.took_off:
                self.thoughts[item] = {
                    "raw": _with_marks(self._engine, completion, self._marks),
                    "characters": len(split.thought or ""),
                    "tokens": thought_tokens(self._engine, split),
                    "finished": split.finished,
                }
        return list(map(answer_of, completions, splits))


def split_completion(engine: Engine, prompt: TokenIds, completion: Completion, marks: Marks) -> ThoughtSplit:
    """The thought and the answer of a completion, whose prompt may have opened the thought."""
    tokenizer = _tokenizer(engine)
    opened = tokenizer is not None and opens_thought(tokenizer.decode(list(prompt[-PROMPT_END:])), marks)
    return split_thought(_with_marks(engine, completion, marks), marks, opened)


def answer_of(completion: Completion, split: ThoughtSplit) -> Completion:
    """A completion without its thought. One that ends inside the thought has no text, and is not finished."""
    if not split.took_off:
        return completion
    finished = completion.finished and split.finished
    return replace(completion, text=split.answer, finished=finished, thought=split.thought or "")


def thought_tokens(engine: Engine, split: ThoughtSplit) -> int | None:
    """Tokens of a thought; None where the engine has no tokenizer here."""
    tokenizer = _tokenizer(engine)
    return tokenizer and len(tokenizer(split.thought or "", add_special_tokens=False)["input_ids"])


def _with_marks(engine: Engine, completion: Completion, marks: Marks) -> str:
    """The text of a completion, with the marks of thoughts that are special tokens of its tokenizer."""
    tokenizer = _tokenizer(engine)
    special = _special_tokens(tokenizer) if tokenizer is not None else set()
    wanted = {mark for pair in marks for mark in pair} | (CHANNEL_MARKS if CHANNEL in special else set())
    if not marks or not special & wanted:
        return completion.text
    text = tokenizer.decode(list(completion.token_ids))
    for token in special - wanted:
        text = text.replace(token, "")
    return text


@lru_cache(maxsize=4)
def _special_tokens(tokenizer: Any) -> set[str]:
    """All that decoding leaves out of a text: those with a name, and those that are only marked as special."""
    marked = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return marked | set(tokenizer.all_special_tokens)


def _switch(engine: Engine) -> str:
    """The variable by which a chat template lets its model think or not."""
    sources = engine.chat.program.sources.values() if hasattr(engine, "chat") else ()
    for name in SWITCHES:
        if any(re.search(rf"\b{name}\b", source) for source in sources):
            return name
    raise UserError(
        f"{engine.name} has no switch for thinking: its chat template reads none of {', '.join(SWITCHES)}; "
        "leave --thinking out"
    )


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
