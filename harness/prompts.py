"""Training prompts and labelled pairs: read from the files people have, drawn in a seeded endless order."""

import csv
import gzip
import json
import os
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from harness.engines.base import Message
from harness.errors import UserError
from harness.methods import Prompt
from harness.store import digest

ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
LONGEST_FIELD = 1 << 28  # characters of a field in CSV
ROWS_AT_ONCE = 1024  # of a Parquet file
TEXT_FIELDS = ("prompt", "instruction", "question", "problem")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"  # of HH-RLHF's dialogues


@dataclass(frozen=True)
class PromptFile:
    """What a file holds, and how many rows were left out."""

    prompts: list[Prompt]
    duplicates: int
    empty: int


class Malformed(ValueError):
    """A row that is not in a known format."""


def load_prompts(path: Path | str, labelled: bool = False) -> PromptFile:
    """Prompts of a JSON, JSONL, CSV (.gz too) or Parquet file; with `labelled`, all must have chosen and rejected.

    Rows are in TRL's standard or conversational form, or have "instruction" and "input" (self-instruct: that of the
    first of the "instances"), "conversations", "turns", or a pair of whole dialogues in chosen and rejected ("Human:"
    and "Assistant:").

    Raises:
        UserError: for an absent file, and for a malformed row (file, line and field).
    """
    path = Path(path)
    prompts: dict[str, Prompt] = {}
    duplicates = empty = 0
    for where, row in _rows(path):
        try:
            messages, chosen, rejected = read_row(row)
            if labelled and (chosen is None or rejected is None):
                raise Malformed('has no "chosen" and "rejected", which labelled pairs need')
            key = digest([messages, chosen, rejected])
        except Malformed as error:
            raise UserError(f"{where}: {error}") from None
        except UnicodeEncodeError:
            raise UserError(f"{where}: holds half a character (a lone surrogate); mend or remove it") from None
        if not messages[-1]["content"].strip() or (labelled and not (chosen.strip() and rejected.strip())):
            empty += 1
            continue
        if key in prompts:
            duplicates += 1
            continue
        prompts[key] = Prompt(f"{_name(path).rpartition('.')[0]}-{len(prompts)}", messages, chosen, rejected)
    if not prompts:
        raise UserError(f"{path}: no usable prompt in it ({empty} empty)")
    return PromptFile(list(prompts.values()), duplicates, empty)


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz")


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, row) of every row, with file and line (JSONL, CSV), entry (JSON) or row (Parquet) as where."""
    if not path.is_file():
        raise UserError(f"no file at {path}: give a JSON, JSONL, CSV or Parquet file of prompts (.gz too)")
    try:
        yield from FORMATS.get(Path(_name(path)).suffix, _json_lines)(path)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can not be read ({error})") from None


def _open(path: Path, newline: str | None = None) -> TextIO:
    opened = gzip.open if path.suffix == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig", newline=newline)


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    with _open(path) as file:
        text = file.read()
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not JSON ({error.msg}); a file with one row a line is named .jsonl"
        ) from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: must hold a list of rows")
    yield from ((f"{path}: entry {number}", row) for number, row in enumerate(entries, 1))


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with _open(path) as file:
        text = file.read()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON ({error.msg}); mend or remove the line") from None


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(LONGEST_FIELD)
    with _open(path, newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    number = len(reader.fieldnames)
                    raise UserError(f"{where}: has not the {number} fields of the first line; mend or remove the line")
                yield where, row
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not CSV ({error})") from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        for batch in ParquetFile(path).iter_batches(ROWS_AT_ONCE):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", {name: value for name, value in row.items() if value is not None}
    except ArrowInvalid as error:
        raise UserError(f"{path}: not Parquet ({str(error).partition(chr(10))[0]})") from None


FORMATS = {".json": _json, ".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}


def read_row(row: Any) -> tuple[tuple[Message, ...], str | None, str | None]:
    """(messages up to the last user turn, chosen, rejected) of one row.

    Raises:
        Malformed: naming the field.
    """
    if not isinstance(row, dict):
        raise Malformed(f"must be an object, not {type(row).__name__}")
    if isinstance(row.get("chosen"), str) and row["chosen"].startswith(HUMAN) and "prompt" not in row:
        return _dialogues(row)
    chosen = _reply(row.get("chosen"), "chosen")
    rejected = _reply(row.get("rejected"), "rejected")
    if chosen is None and rejected is not None and isinstance(row.get("output"), str):
        chosen = row["output"]
    if (chosen is None) != (rejected is None):
        raise Malformed('needs both "chosen" and "rejected", or neither')
    return _messages(row), chosen, rejected


def _messages(row: dict) -> tuple[Message, ...]:
    for name in ("messages", "conversations"):
        if name in row:
            return _up_to_user(row[name], name)
    if isinstance(row.get("prompt"), list):
        return _up_to_user(row["prompt"], "prompt")
    if "turns" in row:
        turns = row["turns"]
        if not (isinstance(turns, list) and turns and isinstance(turns[0], str)):
            raise Malformed('"turns" must be a list of texts')
        return ({"role": "user", "content": turns[0]},)
    if "prompt" not in row and isinstance(row.get("chosen"), list):
        if not isinstance(row.get("rejected"), list) or row["chosen"][:-1] != row["rejected"][:-1]:
            raise Malformed('"chosen" and "rejected" are no replies to the same messages')
        return _up_to_user(row["chosen"], "chosen")
    for name in TEXT_FIELDS:
        if name in row:
            if not isinstance(row[name], str):
                raise Malformed(f'"{name}" must be a text')
            extra = row["input"] if "input" in row else _first_input(row)
            if not isinstance(extra, str):
                raise Malformed('"input" must be a text')
            return ({"role": "user", "content": f"{row[name]}\n\n{extra}" if extra.strip() else row[name]},)
    raise Malformed(f"has no prompt: expected one of {', '.join(TEXT_FIELDS)}, messages, conversations, turns")


def _first_input(row: dict) -> Any:
    instances = row.get("instances")
    first = instances[0] if isinstance(instances, list) and instances else None
    return first.get("input", "") if isinstance(first, dict) else ""


def _up_to_user(turns: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(turns, list):
        raise Malformed(f'"{name}" must be a list of messages')
    messages = [_message(turn, name) for turn in turns]
    while messages and messages[-1]["role"] != "user":
        messages.pop()
    if not messages:
        raise Malformed(f'"{name}" has no user message')
    return tuple(messages)


def _message(turn: Any, name: str) -> Message:
    if isinstance(turn, dict):
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if isinstance(role, str) and role in ROLES and isinstance(content, str):
            return {"role": ROLES[role], "content": content}
    raise Malformed(f'"{name}" has a message without a known role and a text')


def _reply(value: Any, name: str) -> str | None:
    if isinstance(value, list):
        value = value[-1] if value else {}
    if isinstance(value, dict):
        message = _message(value, name)
        if message["role"] != "assistant":
            raise Malformed(f'"{name}" must end with a message of the assistant')
        return message["content"]
    if value is None or isinstance(value, str):
        return value
    raise Malformed(f'"{name}" must be a text or messages')


def _dialogues(row: dict) -> tuple[tuple[Message, ...], str, str]:
    """From two whole dialogues that share all but the last reply (HH-RLHF).

    The reply begins after the last human turn that both have: a few real replies hold marks of further turns.
    """
    if not isinstance(row.get("rejected"), str):
        raise Malformed('"rejected" must be a text')
    shared = os.path.commonprefix([row["chosen"], row["rejected"]])
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
    chosen, rejected = (row[name][start + len(ASSISTANT) :].strip() for name in ("chosen", "rejected"))
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
