"""An engine as benchmarks see it: with the experiment's system prompt, and with thoughts removed from answers.

Every benchmark gets its completions through here, so thoughts are removed in one place: before an answer is graded,
judged or measured, and before it becomes a turn of a longer conversation.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NotRequired, TypedDict

from harness.engines.base import Completion, Engine, Sampling
from harness.engines.wrapper import EngineWrapper
from harness.errors import UserError
from harness.progress import Advance
from harness.thoughts import Marks, ThoughtSplit, opens_thought, split_thought
from harness.types import INSTRUCTIONS, Chat, Conversation, TokenIds

SWITCHES = ("enable_thinking", "thinking")  # Qwen3 and SmolLM3; Granite and DeepSeek-V3.1
CHANNEL = "<|channel|>"
CHANNEL_MARKS = {CHANNEL, "<|message|>", "<|start|>", "<|end|>"}  # gpt-oss
PROMPT_END = 32  # tokens at the end of a prompt, in which the template may open a thought


class RemovedThought(TypedDict):
    """What was removed from an answer. tokens: None if the engine has no tokenizer here."""

    item: NotRequired[str]  # key of the completion, in stored samples
    raw: str  # the completion as the model wrote it
    characters: int
    tokens: int | None
    finished: bool


class AnsweringEngine(EngineWrapper[Engine]):
    """Another engine whose completions have their thoughts removed from their texts; their token ids stay.

    thoughts: what was removed, by the item key of the completion.
    changes_chats: whether conversations get a system prompt or a switch, which a plain text cannot.
    """

    def __init__(
        self, engine: Engine, marks: Marks, system_prompt: str | None = None, thinking: bool | None = None
    ) -> None:
        """
        Args:
            thinking: whether the chat template lets the model think; None leaves that to the template.

        Raises:
            UserError: when the template has no such switch.
        """
        super().__init__(engine)
        self._marks, self._system_prompt = marks, system_prompt
        self._switch = {} if thinking is None else {_switch(engine): thinking}
        self.changes_chats = system_prompt is not None or thinking is not None
        self.thoughts: dict[str, RemovedThought] = {}

    def encode_chat(self, chat: Conversation, add_generation_prompt: bool = True) -> TokenIds:
        """Return the engine's token ids; a conversation without a system message gets the experiment's."""
        return self._engine.encode_chat(self._instructed(chat), add_generation_prompt)

    def encode_alternatives(self, chat: Conversation, texts: Sequence[str]) -> tuple[TokenIds, list[TokenIds]]:
        """Return the engine's token ids, for the same conversation that a completion would get."""
        return self._engine.encode_alternatives(self._instructed(chat), texts)

    def _instructed(self, chat: Conversation) -> Chat:
        chat = Chat.of(chat)
        if self._system_prompt is not None and chat.messages[0]["role"] not in INSTRUCTIONS:
            chat = chat.instructed(self._system_prompt)
        return replace(chat, variables=chat.variables | self._switch)

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """Return the engine's completions without their thoughts. A stop inside a thought ends nothing: answers with
        a thought are made again without stops."""
        completions = list(self._engine.generate(prompts, items, sampling, advance))
        splits = self._split(prompts, completions)
        if sampling.stop and (thought := [number for number, split in enumerate(splits) if split.took_off]):
            asked = [prompts[number] for number in thought], [items[number] for number in thought]
            for number, completion in zip(
                thought, self._engine.generate(*asked, replace(sampling, stop=())), strict=True
            ):
                completions[number] = completion
            splits = self._split(prompts, completions)
        for item, completion, split in zip(items, completions, splits, strict=True):
            if split.took_off:
                self.thoughts[item] = {
                    "raw": _with_marks(self._engine, completion, self._marks),
                    "characters": len(split.thought or ""),
                    "tokens": thought_tokens(self._engine, split),
                    "finished": split.finished,
                }
        return list(map(answer_of, completions, splits))

    def _split(self, prompts: Sequence[TokenIds], completions: Sequence[Completion]) -> list[ThoughtSplit]:
        return [split_completion(self._engine, *pair, self._marks) for pair in zip(prompts, completions, strict=True)]


def split_completion(engine: Engine, prompt: TokenIds, completion: Completion, marks: Marks) -> ThoughtSplit:
    """Split a completion into thought and answer; its prompt may have opened the thought."""
    tokenizer = _tokenizer(engine)
    opened = tokenizer is not None and opens_thought(tokenizer.decode(list(prompt[-PROMPT_END:])), marks)
    return split_thought(_with_marks(engine, completion, marks), marks, opened)


def answer_of(completion: Completion, split: ThoughtSplit) -> Completion:
    """Return a completion without its thought. One that ends inside the thought has no text and is not finished."""
    if not split.took_off:
        return completion
    finished = completion.finished and split.finished
    return replace(completion, text=split.answer, finished=finished, thought=split.thought or "")


def thought_tokens(engine: Engine, split: ThoughtSplit) -> int | None:
    """How many tokens a thought has; None if the engine has no tokenizer here."""
    tokenizer = _tokenizer(engine)
    return len(tokenizer(split.thought or "", add_special_tokens=False)["input_ids"]) if tokenizer else None


def _with_marks(engine: Engine, completion: Completion, marks: Marks) -> str:
    """Return the text of a completion, including thought marks that are special tokens of its tokenizer."""
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
    """Return what decoding leaves out of a text: named special tokens, and those only marked as special."""
    marked = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return marked | set(tokenizer.all_special_tokens)


def _switch(engine: Engine) -> str:
    """Return the variable by which the chat template turns thinking on or off."""
    sources = engine.chat.program.sources.values() if engine.chat else ()
    for name in SWITCHES:
        if any(re.search(rf"\b{name}\b", source) for source in sources):
            return name
    raise UserError(
        f"{engine.name} has no switch for thinking: its chat template reads none of {', '.join(SWITCHES)}; "
        "omit --thinking"
    )


def _tokenizer(engine: Engine) -> Any:
    return engine.chat.tokenizer if engine.chat else None


def with_thoughts(
    benchmark: str, samples: Sequence[Mapping[str, Any]], thoughts: Mapping[str, RemovedThought]
) -> list[dict[str, Any]]:
    """Return the samples, each with what was removed from its answers as "thoughts" (if anything was)."""
    by_id: dict[str, list[RemovedThought]] = {sample["id"]: [] for sample in samples}
    for item, thought in thoughts.items():
        name = item.removeprefix(f"{benchmark}/")
        while name not in by_id and "/" in name:
            name = name.rpartition("/")[0]
        if name in by_id:
            by_id[name].append({"item": item, **thought})
    return [{**sample, **({"thoughts": removed} if (removed := by_id[sample["id"]]) else {})} for sample in samples]


def count_thoughts(samples: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count answers with a thought, and those that ended inside it, for a score's details; {} if there are none."""
    removed = [thought for sample in samples for thought in sample.get("thoughts", ())]
    if not removed:
        return {}
    return {"thoughts": len(removed), "unfinished_thoughts": sum(not thought["finished"] for thought in removed)}
