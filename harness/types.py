"""What is said: messages, conversations, prompts and token ids. Nothing here imports a model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Message = dict[str, Any]  # "role" and "content" (a text; absent beside "tool_calls"), and what else a template reads
Reply = str | tuple[Message, ...]  # a text of the assistant, or the messages from its first turn to its last
INSTRUCTIONS = ("system", "developer")  # roles of a message that says how to answer
TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class Chat:
    """A conversation with all that a chat template is given.

    tools: JSON schemas of the functions that the model may call.
    variables: further variables of the template, such as {"enable_thinking": False} ("chat_template_kwargs" of a row).
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, conversation: "Conversation") -> "Chat":
        return conversation if isinstance(conversation, Chat) else cls(tuple(conversation))

    def instructed(self, text: str) -> "Chat":
        """The same with an instruction: after those of its first message, or in a system message before it."""
        first, *rest = self.messages
        if first["role"] in INSTRUCTIONS:
            return replace(self, messages=({**first, "content": f"{first['content']}\n\n{text}"}, *rest))
        return replace(self, messages=({"role": "system", "content": text}, *self.messages))


Conversation = Chat | Sequence[Message]


def message_text(message: Message) -> str:
    """What a message says, for a person or a judge to read: its text, and the calls of functions as JSON."""
    calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join(filter(None, (message.get("content"), *calls)))


def question_text(messages: Sequence[Message]) -> str:
    """What was asked, for a judge to read: the user's message, or all that was said where there is more than that.

    >>> print(question_text([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]))
    System: Be brief.
    <BLANKLINE>
    User: Why?
    """
    if len(messages) == 1:
        return message_text(messages[0])
    return "\n\n".join(f"{message['role'].capitalize()}: {message_text(message)}" for message in messages)


def reply_text(reply: Reply) -> str:
    """What a reply says, for a judge to read; one of several turns with the role before each."""
    return reply if isinstance(reply, str) else question_text(reply_messages(reply))


@dataclass(frozen=True)
class Prompt:
    """A training prompt; chosen and rejected are given in labelled preference data only.

    tools, variables: what the chat template is given beside the messages (see `harness.types.Chat`).
    where: the place in the file that it comes from, for error messages.
    """

    id: str
    messages: tuple[Message, ...]
    chosen: Reply | None = None
    rejected: Reply | None = None
    tools: tuple[dict[str, Any], ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)

    @property
    def chat(self) -> Chat:
        return Chat(self.messages, self.tools, self.variables)

    @property
    def record(self) -> dict[str, Any]:
        """What a person reads of it, by names of columns: "prompt", and "tools" and "chat_template_kwargs" if any."""
        more = {"tools": list(self.tools), "chat_template_kwargs": self.variables}
        return {"prompt": list(self.messages), **{name: value for name, value in more.items() if value}}

    @classmethod
    def of_record(cls, row: dict[str, Any]) -> "Prompt":
        """From a row of a record with its "id", and chosen and rejected where it has them."""
        chosen, rejected = (
            tuple(reply) if isinstance(reply, list) else reply for reply in (row.get("chosen"), row.get("rejected"))
        )
        tools, variables = tuple(row.get("tools", ())), row.get("chat_template_kwargs", {})
        return cls(row["id"], tuple(row["prompt"]), chosen, rejected, tools, variables)

    @property
    def content(self) -> dict[str, Any]:
        """All that results depend on."""
        return {name: value for name, value in vars(self).items() if name != "where"}


def reply_messages(reply: Reply) -> tuple[Message, ...]:
    return ({"role": "assistant", "content": reply},) if isinstance(reply, str) else tuple(reply)
