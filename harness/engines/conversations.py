"""Conversations as text, by a chat template that is checked to write all of them.

Templates refuse what they do not know, or silently leave it out: a system message, a role, tools. For each kind of
conversation (its roles and fields) the template is tried once on texts that can be found again. A system message that
it does not support goes into a user message; anything else that it does not write is refused by name.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import TemplateError

from harness.engines.templates import REASONING, ChatProgram
from harness.errors import UserError
from harness.types import Chat, Message, Reply, reply_messages

Marking = Callable[[Any], Any]  # applied to messages, tools and variables before the template writes them


class ChatWriter:
    """Writes conversations by one template."""

    def __init__(self, program: ChatProgram, name: str) -> None:
        """
        Args:
            name: of the model, for error messages.
        """
        self.program, self.name = program, name
        self._folds: dict[tuple[Any, ...], int | None] = {}

    def prompt(self, chat: Chat, mark: Marking | None = None, add_generation_prompt: bool = True) -> str:
        """Return a conversation that waits for its reply.

        Args:
            mark: applied to messages, tools and variables first.

        Raises:
            UserError: when the template refuses the conversation or leaves out a part of it.
        """
        return self._text(chat, (), mark, add_generation_prompt)

    def whole(self, chat: Chat, reply: Reply, mark: Marking | None = None) -> str:
        """Return a conversation with its reply, and what the template writes after that.

        Raises:
            UserError: see `prompt`.
        """
        return self._text(chat, reply_messages(reply), mark, False)

    def _text(self, chat: Chat, reply: tuple[Message, ...], mark: Marking | None, add_generation_prompt: bool) -> str:
        messages, fold = list(chat.messages), self._fold(chat, reply, add_generation_prompt)
        if fold is not None:
            messages = fold_system(messages, fold)
        said = {"messages": [*messages, *reply], "tools": list(chat.tools), "variables": chat.variables}
        said = mark(said) if mark else said
        try:
            text = self.program.render(**said, add_generation_prompt=add_generation_prompt)
        except TemplateError as error:
            raise self._refusal([*chat.messages, *reply], error) from error
        for what, name in _called(chat, reply):
            if name not in text:
                raise UserError(f"the chat template of {self.name} leaves out {what} {name!r}: remove it from the row")
        return text

    def _fold(self, chat: Chat, reply: tuple[Message, ...], add_generation_prompt: bool) -> int | None:
        """Return the user message to put the system message into; None if the template writes everything itself."""
        variables = json.dumps(chat.variables, sort_keys=True, default=str)
        kind = (_shape(chat.messages), _shape(reply), bool(chat.tools), variables, add_generation_prompt)
        if kind not in self._folds:
            self._folds[kind] = self._tried(chat, reply, add_generation_prompt)
        return self._folds[kind]

    def _tried(self, chat: Chat, reply: tuple[Message, ...], add_generation_prompt: bool) -> int | None:
        for name in chat.variables:
            if not any(name in source for source in self.program.sources.values()):
                raise UserError(f"the chat template of {self.name} does not read {name!r} (chat_template_kwargs)")
        probes = _probes([*chat.messages, *reply])
        messages, rest = probes[: len(chat.messages)], probes[len(chat.messages) :]

        def write(said: Sequence[Message], add_generation_prompt: bool) -> str:
            return self.program.render(list(said), list(chat.tools), chat.variables, add_generation_prompt)

        try:
            missing, refused = _unwritten(probes, write(probes, add_generation_prompt), bool(reply)), None
        except TemplateError as error:
            missing, refused = [], error
        if not missing and not refused:
            return None
        if messages[0]["role"] == "system" and (refused or missing[0] == "the system message"):
            users = [index for index, message in enumerate(messages) if message["role"] == "user"]
            fold = _as_before_reply(messages, users, write) if reply else None
            fold = fold if fold is not None else next(iter(users), -1)
            try:
                folded = fold_system(messages, fold)
                missing = _unwritten(folded, write([*folded, *rest], add_generation_prompt), False)
            except TemplateError as error:
                raise self._refusal(probes, refused or error) from error
            if not missing:
                return fold
        if refused:
            raise self._refusal(probes, refused) from refused
        raise UserError(
            f"the chat template of {self.name} leaves out {missing[0]}: the model would never read it; "
            "remove it from the row, or give the model a chat_template.jinja that writes it"
        )

    def _refusal(self, messages: Sequence[Message], error: TemplateError) -> UserError:
        roles = ", ".join(str(message["role"]) for message in messages)
        return UserError(f"the chat template of {self.name} refuses a conversation of {roles}: {error}")


def fold_system(messages: Sequence[Message], index: int | None = None) -> list[Message]:
    """Return the conversation with its leading system message put before the text of a user message.

    Args:
        index: of the user message; None means the first. Without one, the system message becomes the user's.
    """
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        return [{"role": "user", "content": system["content"]}, *rest]
    chosen = users[0] if index is None else index
    folded = {**messages[chosen], "content": f"{system['content']}\n\n{messages[chosen]['content']}"}
    return [*messages[1:chosen], folded, *messages[chosen + 1 :]]


def _as_before_reply(messages: list[Message], users: Sequence[int], write: Callable[..., str]) -> int | None:
    """Find where the template puts the system message when there is no reply (Mistral: the last user message)."""
    try:
        alone = write(messages, True)
        return next((index for index in users if write(fold_system(messages, index), True) == alone), None)
    except TemplateError:
        return None


def _shape(messages: Sequence[Message]) -> tuple[Any, ...]:
    return tuple((message["role"], *sorted(name for name, value in message.items() if value)) for message in messages)


def _probes(messages: Sequence[Message]) -> list[Message]:
    """Return the same conversation with texts that can be found in the template's output, whatever it trims."""
    probes = []
    for index, message in enumerate(messages):
        probe = dict(message)
        for name in ("content", *REASONING):
            if probe.get(name):
                probe[name] = f"probe-{name}-{index}-text"
        probes.append(probe)
    return probes


def _unwritten(probes: Sequence[Message], text: str, with_reply: bool) -> list[str]:
    """Name what is missing in a text. Many templates leave out the thoughts of all turns but the last."""
    said = [probe for probe in probes if probe.get("content")]
    missing = [f"the {probe['role']} message" for probe in said if probe["content"] not in text]
    thoughts = [probes[-1][name] for name in REASONING if probes[-1].get(name)] if with_reply else []
    if thoughts and not any(thought in text for thought in thoughts):
        missing.append("the thought (reasoning_content) of the reply")
    return missing


def _called(chat: Chat, reply: Sequence[Message]) -> list[tuple[str, str]]:
    """Return the functions of tools and calls, which the template has to name."""
    calls = [call for message in (*chat.messages, *reply) for call in message.get("tool_calls") or ()]
    named = [("the tool", tool) for tool in chat.tools] + [("the call of", call) for call in calls]
    functions = [(what, call.get("function", call)) for what, call in named]
    return [(what, function["name"]) for what, function in functions if isinstance(function.get("name"), str)]
