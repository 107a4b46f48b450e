"""Training prompts and labelled pairs: read from the files people have, drawn in a seeded endless order."""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import hub, rows
from harness.engines.base import Message
from harness.errors import UserError
from harness.methods import Prompt
from harness.store import digest

ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
TEXT_FIELDS = ("prompt", "instruction", "question", "problem")
CHATS = ("messages", "conversations")
FIELDS = (*TEXT_FIELDS, "input", "instances", "output", *CHATS, "turns", "chosen", "rejected")  # all that are read
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"  # of HH-RLHF's dialogues


@dataclass(frozen=True)
class PromptFile:
    """What a file or data set holds, and how many rows were left out."""

    prompts: list[Prompt]
    duplicates: int
    empty: int


class Malformed(ValueError):
    """A row that is not in a known format."""


def load_prompts(source: Path | str, labelled: bool = False) -> PromptFile:
    """Prompts of a JSON, JSONL, CSV (.gz too) or Parquet file, or of a data set of the hub (hub.FORM).

    Rows are in TRL's standard or conversational form, or have "instruction" and "input" (self-instruct: that of the
    first of the "instances"), "conversations", "turns", or a pair of whole dialogues in chosen and rejected ("Human:"
    and "Assistant:"). With `labelled`, all must have chosen and rejected.

    Raises:
        UserError: for an absent file or data set, and for a malformed row (file, line and field).
    """
    prompts: dict[str, Prompt] = {}
    duplicates = empty = 0
    name, located = _located(str(source))
    for where, row in located:
        try:
            messages, chosen, rejected = read_row(row)
            if labelled and (chosen is None or rejected is None):
                raise Malformed('has no "chosen" and "rejected", which labelled pairs need')
        except Malformed as error:
            raise UserError(f"{where}: {error}") from None
        if not messages[-1]["content"].strip() or (labelled and not (chosen.strip() and rejected.strip())):
            empty += 1
            continue
        key = digest([messages, chosen, rejected])
        if key in prompts:
            duplicates += 1
            continue
        prompts[key] = Prompt(f"{name}-{len(prompts)}", messages, chosen, rejected)
    if not prompts:
        raise UserError(f"{source}: no usable prompt in it ({empty} empty)")
    return PromptFile(list(prompts.values()), duplicates, empty)


def _located(source: str) -> tuple[str, Iterator[rows.Located]]:
    """A name for the prompts' ids, and the rows with their places."""
    if os.path.isfile(source):
        stem = Path(source).name.removesuffix(".gz").rpartition(".")[0]
        return stem.encode("utf-8", "replace").decode(), rows.located(Path(source), FIELDS)
    if os.path.exists(source):
        raise UserError(f"{source} is no regular file: give a JSON, JSONL, CSV (.gz too) or Parquet file of prompts")
    if rows.kind_of(source) in SUFFIXES or not hub.is_dataset_name(source):
        raise UserError(
            f"no file at {source}: give a JSON, JSONL, CSV or Parquet file of prompts (.gz too), "
            f"or a data set of the hub, {hub.FORM}"
        )
    return source.partition(":")[0].split("/")[1], hub.located(source, FIELDS)


def read_row(row: Any) -> tuple[tuple[Message, ...], str | None, str | None]:
    """(messages up to the last user turn, chosen, rejected) of one row.

    Raises:
        Malformed: naming the field.
    """
    if not isinstance(row, dict):
        raise Malformed(f"must be an object, not {type(row).__name__}")
    row = {name: value for name, value in row.items() if value is not None}  # tables fill absent fields with null
    if isinstance(row.get("chosen"), str) and row["chosen"].startswith(HUMAN) and "prompt" not in row:
        return _dialogues(row)
    chosen = _reply(row.get("chosen"), "chosen")
    rejected = _reply(row.get("rejected"), "rejected")
    if chosen is None and rejected is not None and isinstance(row.get("output"), str):
        chosen = _text(row, "output")
    if (chosen is None) != (rejected is None):
        raise Malformed('needs both "chosen" and "rejected", or neither')
    return _messages(row), chosen, rejected


def _messages(row: dict) -> tuple[Message, ...]:
    for name in CHATS:
        if name in row:
            return _up_to_user(row[name], name)
    if isinstance(row.get("prompt"), list):
        return _up_to_user(row["prompt"], "prompt")
    if "turns" in row:
        turns = row["turns"]
        if not (isinstance(turns, list) and turns and isinstance(turns[0], str)):
            raise Malformed('"turns" must be a list of texts')
        return ({"role": "user", "content": _whole(turns[0], "turns")},)
    if "prompt" not in row and isinstance(row.get("chosen"), list):
        rejected = row.get("rejected")
        if not isinstance(rejected, list) or _chat(row["chosen"], "chosen")[:-1] != _chat(rejected, "rejected")[:-1]:
            raise Malformed('"chosen" and "rejected" are no replies to the same messages')
        return _up_to_user(row["chosen"], "chosen")
    for name in TEXT_FIELDS:
        if name in row:
            text, extra = _text(row, name), _text(row, "input") if "input" in row else _first_input(row)
            return ({"role": "user", "content": f"{text}\n\n{extra}" if extra.strip() else text},)
    raise Malformed(f"has no prompt: expected one of {', '.join((*TEXT_FIELDS, *CHATS))}, turns")


def _text(row: dict, name: str) -> str:
    if not isinstance(row[name], str):
        raise Malformed(f'"{name}" must be a text')
    return _whole(row[name], name)


def _whole(text: str, name: str) -> str:
    """The text, where it is one: JSON can hold half of a surrogate pair, which no file can."""
    if rows.holds_half_character(text):
        raise Malformed(f'"{name}" holds half a character (a lone surrogate); mend or remove it')
    return text


def _first_input(row: dict) -> str:
    instances = row.get("instances")
    first = instances[0] if isinstance(instances, list) and instances else None
    given = first.get("input") if isinstance(first, dict) else None
    return "" if given is None else _text({"instances": given}, "instances")


def _chat(turns: Any, name: str) -> list[Message]:
    if not isinstance(turns, list):
        raise Malformed(f'"{name}" must be a list of messages')
    return [_message(turn, name) for turn in turns]


def _up_to_user(turns: Any, name: str) -> tuple[Message, ...]:
    messages = _chat(turns, name)
    while messages and messages[-1]["role"] != "user":
        messages.pop()
    if not messages:
        raise Malformed(f'"{name}" has no user message')
    return tuple(messages)


def _message(turn: Any, name: str) -> Message:
    if isinstance(turn, dict):
        role, content = (_first_of(turn, *names) for names in (("role", "from"), ("content", "value")))
        if isinstance(role, str) and role in ROLES and isinstance(content, str):
            return {"role": ROLES[role], "content": _whole(content, name)}
    raise Malformed(f'"{name}" has a message without a known role and a text')


def _first_of(turn: dict, *names: str) -> Any:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _reply(value: Any, name: str) -> str | None:
    if isinstance(value, list):
        value = value[-1] if value else {}
    if isinstance(value, dict):
        message = _message(value, name)
        if message["role"] != "assistant":
            raise Malformed(f'"{name}" must end with a message of the assistant')
        return message["content"]
    if isinstance(value, str):
        return _whole(value, name)
    if value is None:
        return None
    raise Malformed(f'"{name}" must be a text or messages')


def _dialogues(row: dict) -> tuple[tuple[Message, ...], str, str]:
    """From two whole dialogues that share all but the last reply (HH-RLHF).

    The reply begins after the last human turn that both have: a few real replies hold marks of further turns.
    """
    if not isinstance(row.get("rejected"), str):
        raise Malformed('"rejected" must be a text')
    dialogues = [_text(row, name) for name in ("chosen", "rejected")]
    shared = os.path.commonprefix(dialogues)
    human = shared.rfind(HUMAN, 0, shared.rfind(ASSISTANT) + 1)
    if human < 0:
        raise Malformed('"chosen" and "rejected" have no human turn in common before the last reply')
    start = shared.index(ASSISTANT, human)
    messages: list[Message] = []
    for turn in shared[:start].split(HUMAN)[1:]:
        user, *answers = turn.split(ASSISTANT)
        messages.append({"role": "user", "content": user.strip()})
        if answers:
            messages.append({"role": "assistant", "content": "\n\n".join(answer.strip() for answer in answers)})
    chosen, rejected = (dialogue[start + len(ASSISTANT) :].strip() for dialogue in dialogues)
    return tuple(messages), chosen, rejected


def question_text(messages: Sequence[Message]) -> str:
    """What was asked, for a judge to read: the user's message, or all that was said where there is more than that."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)


class PromptStream:
    """Prompts without end, in an order that the seed decides anew in every pass over them."""

    def __init__(self, prompts: Sequence[Prompt], seed: int):
        self.prompts, self.seed = prompts, seed
        self.position = 0  # prompts drawn so far; may be set, to go on where an earlier stream stopped

    def take(self, number: int) -> list[Prompt]:
        """The next prompts; from the second pass on, "@1" and so on is added to their ids."""
        taken: list[Prompt] = []
        while len(taken) < number:
            turn, start = divmod(self.position, len(self.prompts))
            order = random.Random(f"prompts/{self.seed}/{turn}").sample(range(len(self.prompts)), len(self.prompts))
            for index in order[start : start + number - len(taken)]:
                prompt = self.prompts[index]
                taken.append(replace(prompt, id=f"{prompt.id}@{turn}") if turn else prompt)
                self.position += 1
        return taken
