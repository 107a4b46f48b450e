"""Reads one row of a data file as a prompt, or a pair of replies to it; each meaningful part is used or refused.

Known formats are those of TRL (prompts as texts or messages, explicit or implicit in the replies), self-instruct and
Alpaca (instruction, input), ShareGPT and LLaMA-Factory (conversations, system, history), MT-Bench (turns) and HH-RLHF
("Human:" and "Assistant:"). Other columns are not used, and are reported to the caller.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.engines.templates import REASONING
from harness.files import rows
from harness.methods.row_texts import Malformed, check_calls, checked_text, content_of, without_null
from harness.types import Message, Reply

ROLES = {
    **{role: role for role in ("user", "assistant", "system", "developer", "tool")},
    **{"human": "user", "gpt": "assistant"},
}
TEXT_FIELDS = ("prompt", "instruction", "question", "problem")
CHATS = ("messages", "conversations")
SYSTEMS = ("system", "system_prompt", "system_message")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
PAIR = ("chosen", "rejected")
TEMPLATE = ("tools", "chat_template_kwargs")
LABELLED = ("completion", "label")  # of an unpaired row
COLUMNS = (
    *TEXT_FIELDS,
    "input",
    "instances",
    "output",
    *CHATS,
    "turns",
    *PAIR,
    *LABELLED,
    *SYSTEMS,
    "history",
    *TEMPLATE,
)
KEPT = ("name", "tool_calls", "tool_call_id", *REASONING)  # fields of a message that templates read beside its text
MASKS = ("weight", "train", "training")  # with a false value: do not train on this turn
RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception")
GSM8K_MARK = "####"  # before the final answer of a solution
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"  # marks of turns in HH-RLHF
Pair = tuple[str | list[Message] | None, str | list[Message] | None]  # chosen and rejected, as they are read


@dataclass
class PromptRow:
    """The content of a row. unused: columns, and fields of messages ("messages[].id"), that are not used."""

    messages: tuple[Message, ...]
    chosen: Reply | None = None
    rejected: Reply | None = None
    completion: Reply | None = None
    label: bool | None = None
    answer: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def read_row(row: Any, completions: bool = False, answers: bool = False) -> PromptRow:
    """Read a row.

    Args:
        completions: where the row is no pair, read one reply too: "completion" (with its "label", if there is one),
            "output", or what the assistant says at the end of the messages.
        answers: read "answer" too; of GSM8K's, what follows its mark.

    Raises:
        Malformed: when it is not in a known format, naming the field.
    """
    if not isinstance(row, dict):
        raise Malformed(f"must be an object, not {type(row).__name__}")
    given = {name: value for name, value in row.items() if value is not None}  # tables fill absent fields with null
    for name in MEDIA:
        if given.get(name) not in (None, "", [], {}):
            raise Malformed(f'"{name}" is not text, and only text can be read; remove the column or such rows')
    return _Reader(given, completions, answers).read()


class _Reader:
    """Reads one row, and records what was used."""

    def __init__(self, row: dict[str, Any], completions: bool, answers: bool) -> None:
        self.row, self.completions, self.answers = row, completions, answers
        self.ending: list[Message] = []  # what the assistant says at the end of the messages
        self.used: set[str] = set()
        self.unused_parts: dict[str, None] = {}  # fields of messages, and parts of columns, in order

    def read(self) -> PromptRow:
        chosen, rejected = (self.row.get(side) for side in PAIR)
        pair: Pair
        if isinstance(chosen, str) and "prompt" not in self.row and chosen.startswith(HUMAN):
            self.used |= {*PAIR}
            messages, pair = _dialogues(chosen, rejected)
        else:
            pair = self._reply("chosen"), self._reply("rejected")
            if pair[0] is None and pair[1] is not None and isinstance(self.row.get("output"), str):
                pair = self._text("output"), pair[1]
            if (pair[0] is None) != (pair[1] is None):
                raise Malformed('needs both "chosen" and "rejected", or neither')
            messages, pair = self._prompt(pair)
        messages = self._with_history(messages)
        messages = self._with_system(messages)
        completion, label = self._completion() if self.completions and pair[0] is None else (None, None)
        answer = self._answer() if self.answers else None
        tools, variables = self._tools(), self._variables()
        unused = [
            name for name, value in self.row.items() if name not in ("", *self.used) and value not in ("", [], {})
        ]
        return PromptRow(
            messages=tuple(messages),
            chosen=_plain(pair[0]),
            rejected=_plain(pair[1]),
            completion=_plain(completion),
            label=label,
            answer=answer,
            tools=tools,
            variables=variables,
            unused=(*unused, *self.unused_parts),
        )

    # The prompt

    def _prompt(self, pair: Pair) -> tuple[list[Message], Pair]:
        """Messages of the prompt, and the pair without those that it repeats."""
        if any(_is_dialogue(reply) for reply in pair):
            return self._from_dialogues(pair)
        if isinstance(self.row.get("prompt"), list):
            return self._checked(self._asked("prompt"), "prompt"), pair
        if name := next((name for name in CHATS if name in self.row), None):
            messages = self._checked(self._asked(name), name)
            return (self._up_to_question(messages, name) if pair[0] is None else messages), pair
        if "turns" in self.row:
            return [_user(self._first_turn())], pair
        if named_text := self._asked_text():
            return [_user(named_text[1])], pair
        chosen, rejected = pair
        if isinstance(chosen, str) and isinstance(rejected, str):
            return _implicit(chosen, rejected)
        raise Malformed(f"has no prompt: expected one of {', '.join((*TEXT_FIELDS, *CHATS))}, turns")

    def _from_dialogues(self, pair: Pair) -> tuple[list[Message], Pair]:
        """The prompt that two replies repeat, which is what both begin with (TRL's implicit prompt), and their ends."""
        chosen, rejected = pair
        if isinstance(self.row.get("prompt"), list):
            prompt = self._checked(self._asked("prompt"), "prompt")
            pair = _after(prompt, chosen), _after(prompt, rejected)
            if None in pair:
                raise Malformed('"chosen" and "rejected" must begin with the assistant, or repeat all of "prompt"')
            return prompt, pair
        if not (isinstance(chosen, list) and isinstance(rejected, list)):
            raise Malformed('"chosen" and "rejected" are not replies to the same messages')
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, ends = chosen[:shared], (chosen[shared:], rejected[shared:])
        if not prompt or any(end[0]["role"] != "assistant" for end in ends):
            raise Malformed('"chosen" and "rejected" are not replies to the same messages')
        return self._checked(prompt, "chosen"), ends

    def _checked(self, prompt: list[Message], source: str) -> list[Message]:
        """Return the messages of a prompt, after checking that other columns of the row ask the same."""
        for name in CHATS:
            if name in self.row and name != source and self._messages(name)[: len(prompt)] != prompt:
                raise Malformed(f'"{name}" and the messages of "{source}" differ: remove one of them')
        questions = [message["content"].strip() for message in prompt if message["role"] == "user"]
        if source != "prompt" and (named_text := self._asked_text()) and named_text[1].strip() not in questions:
            raise Malformed(f'the text of "{named_text[0]}" and the messages of "{source}" differ: remove one of them')
        return prompt

    def _asked(self, name: str) -> list[Message]:
        messages = self._messages(name)
        if not any(message["role"] == "user" for message in messages):
            raise Malformed(f'"{name}" has no user message')
        return messages

    def _up_to_question(self, messages: list[Message], name: str) -> list[Message]:
        """A whole conversation without the answers at its end, which are generated again."""
        end = len(messages)
        while messages[end - 1]["role"] == "assistant":
            end -= 1
        if self.completions and "completion" not in self.row:
            self.ending = messages[end:]
        elif end < len(messages):
            self.unused_parts[f"{name} (answer at the end)"] = None
        return messages[:end]

    def _asked_text(self) -> tuple[str, str] | None:
        """The first column with a question as a text, and the text with its input."""
        for name in TEXT_FIELDS:
            if name in self.row:
                text, extra = self._text(name), self._text("input") if "input" in self.row else self._first_input()
                return name, f"{text}\n\n{extra}" if extra.strip() else text
        return None

    def _first_input(self) -> str:
        """The input of the first instance (self-instruct)."""
        instances = self.row.get("instances")
        if not (isinstance(instances, list) and instances and isinstance(instances[0], dict)):
            return ""
        if (given := instances[0].get("input")) is None:
            return ""
        self.used.add("instances")
        if len(instances) > 1:
            self.unused_parts["instances (after the first)"] = None
        return checked_text(given, "instances")

    def _first_turn(self) -> str:
        turns = self.row["turns"]
        if not (isinstance(turns, list) and turns and isinstance(turns[0], str)):
            raise Malformed('"turns" must be a list of texts')
        self.used.add("turns")
        if len(turns) > 1:
            self.unused_parts["turns (after the first)"] = None
        return checked_text(turns[0], "turns")

    def _with_history(self, messages: list[Message]) -> list[Message]:
        """The messages after the turns of the row's history, which holds pairs of texts, or messages."""
        if (history := self.row.get("history")) in (None, "", []):
            return messages
        self.used.add("history")
        if not isinstance(history, list):
            raise Malformed('"history" must be a list of [question, answer] pairs or of messages')
        if all(isinstance(turn, list) and len(turn) == 2 for turn in history):
            roles = ("user", "assistant") * len(history)
            texts = [checked_text(text, "history") for turn in history for text in turn]
            before = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        else:
            before = self._messages("history")
        if len(messages) > 1:
            raise Malformed('both "history" and a conversation of several messages are given: remove one of them')
        return [*before, *messages]

    def _with_system(self, messages: list[Message]) -> list[Message]:
        for name in SYSTEMS:
            if name not in self.row:
                continue
            text = self._text(name)
            if not text.strip():
                continue
            if messages[0]["role"] != "system":
                messages = [{"role": "system", "content": text}, *messages]
            elif messages[0]["content"].strip() != text.strip():
                raise Malformed(f'"{name}" and the system message of the conversation differ: remove one of them')
        return messages

    def _completion(self) -> tuple[str | list[Message] | None, bool | None]:
        """The reply of a row that is no pair, and its label."""
        if "completion" not in self.row:
            output = self._text("output") if isinstance(self.row.get("output"), str) else None
            return output or self.ending or None, None
        label = self.row.get("label")
        self.used.add("label")
        if isinstance(label, str):  # of a CSV file
            label = {"true": True, "false": False}.get(label.lower(), label)
        if label is not None and not isinstance(label, bool):
            raise Malformed(f'"label" must be true or false, not {label!r:.40}')
        return self._reply("completion"), label

    def _answer(self) -> str | None:
        value = self.row.get("answer")
        self.used.add("answer")
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = f"{value:g}" if isinstance(value, float) else str(value)
        if value is None:
            return None
        return checked_text(value, "answer").rpartition(GSM8K_MARK)[2].strip() or None

    # What the template is given beside the messages

    def _tools(self) -> tuple[dict[str, Any], ...]:
        tools = self._json("tools")
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise Malformed('"tools" must be a list of functions as JSON schemas')
        return tuple(without_null(tool) for tool in tools)

    def _variables(self) -> dict[str, Any]:
        variables = self._json("chat_template_kwargs") or {}
        if not isinstance(variables, dict) or set(variables) & set(RESERVED):
            raise Malformed(f'"chat_template_kwargs" must be an object, without the names {", ".join(RESERVED)}')
        return {name: value for name, value in variables.items() if value is not None}

    def _json(self, name: str) -> Any:
        """The value of a column that may be stored as JSON; [] for an empty one."""
        value = self.row.get(name)
        self.used.add(name)
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise Malformed(f'"{name}" is a text that is not JSON') from None
        if rows.holds_half_character(value):
            raise Malformed(f'"{name}" holds half a character (a lone surrogate); fix or remove it')
        return value or []

    # Texts and messages

    def _text(self, name: str) -> str:
        self.used.add(name)
        return checked_text(self.row[name], name)

    def _messages(self, name: str) -> list[Message]:
        self.used.add(name)
        turns = self.row[name]
        if not isinstance(turns, list):
            raise Malformed(f'"{name}" must be a list of messages')
        return [self._message(turn, name) for turn in turns]

    def _reply(self, name: str) -> str | list[Message] | None:
        """A text, or messages that end with one by the assistant."""
        value = self.row.get(name)
        if value is None:
            return None
        self.used.add(name)
        if isinstance(value, str):
            return checked_text(value, name)
        if not isinstance(value, list | dict):
            raise Malformed(f'"{name}" must be a text or messages')
        messages = [self._message(turn, name) for turn in (value if isinstance(value, list) else [value])]
        if not messages or messages[-1]["role"] != "assistant":
            raise Malformed(f'"{name}" must end with a message of the assistant')
        return messages

    def _message(self, turn: Any, name: str) -> Message:
        if not isinstance(turn, dict):
            raise Malformed(f'"{name}" has a message that is not an object')
        turn = {key: value for key, value in turn.items() if value is not None and value != []}
        role = _first_of(turn, "role", "from")
        if not (isinstance(role, str) and role in ROLES):
            raise Malformed(f'"{name}" has a message with the role {role!r:.40}; known roles are {", ".join(ROLES)}')
        for mask in MASKS:
            if mask in turn and not turn[mask]:
                raise Malformed(f'"{name}" has a message to skip in training ({mask}), which is not supported')
        kept = {key: without_null(turn[key]) for key in KEPT if key in turn}
        if rows.holds_half_character(kept):
            raise Malformed(f'"{name}" holds half a character (a lone surrogate); fix or remove it')
        check_calls(kept.get("tool_calls", []), name)
        content = content_of(_first_of(turn, "content", "value"), name)
        if content is None and not kept.keys() & {"tool_calls", *REASONING}:
            raise Malformed(f'"{name}" has a message with the role {role!r} but without content')
        for key in turn.keys() - {"role", "from", "content", "value", *KEPT, *MASKS}:
            self.unused_parts[f"{name}[].{key}"] = None
        return {"role": ROLES[role], **({} if content is None else {"content": content}), **kept}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _first_of(turn: dict[str, Any], *names: str) -> Any:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _plain(reply: str | list[Message] | None) -> Reply | None:
    """A reply that is one text as that text."""
    if not isinstance(reply, list):
        return reply
    return reply[0]["content"] if [*map(set, reply)] == [{"role", "content"}] else tuple(reply)


def _is_dialogue(reply: Any) -> bool:
    """Whether a reply begins with a turn before the assistant's."""
    return isinstance(reply, list) and reply[0]["role"] != "assistant"


def _after(prompt: Sequence[Message], reply: Any) -> Any:
    """The reply without the prompt that it repeats; None where it begins with something else."""
    if not _is_dialogue(reply):
        return reply
    rest = reply[len(prompt) :] if reply[: len(prompt)] == prompt else []
    return rest if rest and rest[0]["role"] == "assistant" else None


def _implicit(chosen: str, rejected: str) -> tuple[list[Message], Pair]:
    """The prompt that two texts begin with (TRL's implicit prompt in standard form), and their ends; a space between
    them belongs to the replies."""
    shared = len(os.path.commonprefix([chosen, rejected]))
    shared -= chosen[shared - 1 : shared] == " "
    if not chosen[:shared].strip() or not (chosen[shared:].strip() and rejected[shared:].strip()):
        raise Malformed('has no "prompt", and "chosen" and "rejected" do not share one and then differ')
    return [_user(chosen[:shared])], (chosen[shared:], rejected[shared:])


def _dialogues(chosen: str, rejected: Any) -> tuple[list[Message], Pair]:
    """The prompt and the replies of two whole dialogues that share all but the last reply (HH-RLHF).

    The reply begins after the last human turn that both have: a few real replies contain marks of further turns.
    """
    dialogues = [checked_text(chosen, "chosen"), checked_text(rejected, "rejected")]
    shared = os.path.commonprefix(dialogues)
    human = shared.rfind(HUMAN, 0, shared.rfind(ASSISTANT) + 1)
    if human < 0:
        raise Malformed('"chosen" and "rejected" have no human turn in common before the last reply')
    start = shared.index(ASSISTANT, human)
    messages: list[Message] = []
    for turn in shared[:start].split(HUMAN)[1:]:
        user, *answers = turn.split(ASSISTANT)
        messages.append(_user(user.strip()))
        if answers:
            messages.append({"role": "assistant", "content": "\n\n".join(answer.strip() for answer in answers)})
    first, second = (dialogue[start + len(ASSISTANT) :].strip() for dialogue in dialogues)
    return messages, (first, second)
