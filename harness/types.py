"""Messages, conversations, prompts and token ids. Nothing here imports a model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Message = dict[str, Any]  # "role", "content" (a text; absent beside "tool_calls"), and other fields that templates read
Reply = str | tuple[Message, ...]  # the assistant's text, or the messages from its first turn to its last
INSTRUCTIONS = ("system", "developer")  # roles of messages that say how to answer
TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class Chat:
    """A conversation with everything that a chat template is given.

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
        """The conversation with an instruction added: to its first message if that holds instructions, else as a system
        message before it."""
        first, *rest = self.messages
        if first["role"] in INSTRUCTIONS:
            return replace(self, messages=({**first, "content": f"{first['content']}\n\n{text}"}, *rest))
        return replace(self, messages=({"role": "system", "content": text}, *self.messages))


Conversation = Chat | Sequence[Message]


def message_text(message: Message) -> str:
    """A message as a person or a judge reads it: its text, and its function calls as JSON."""
    calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join(filter(None, (message.get("content"), *calls)))


def question_text(messages: Sequence[Message]) -> str:
    """A question as a judge reads it: the user's message, or the whole conversation where there is more than that.

    >>> print(question_text([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]))
    System: Be brief.
    <BLANKLINE>
    User: Why?
    """
    if len(messages) == 1:
        return message_text(messages[0])
    return "\n\n".join(f"{message['role'].capitalize()}: {message_text(message)}" for message in messages)


def reply_text(reply: Reply) -> str:
    """A reply as a judge reads it; in a reply of several turns, the role stands before each turn."""
    return reply if isinstance(reply, str) else question_text(reply_messages(reply))


@dataclass(frozen=True)
class Prompt:
    """A training prompt; labelled preference data also have `chosen` and `rejected`, or a `completion`.

    label: whether the completion is a good one, where that is known.
    answer: what a reply can be checked against.
    tools, variables: what the chat template is given beside the messages (see `harness.types.Chat`).
    where: its place in the file it comes from, for error messages.
    part: in a mixture of several files, the file and its share of the draws.
    """

    id: str
    messages: tuple[Message, ...]
    chosen: Reply | None = None
    rejected: Reply | None = None
    tools: tuple[dict[str, Any], ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)
    part: tuple[str, float] | None = None
    completion: Reply | None = None
    label: bool | None = None
    answer: str | None = None

    @property
    def chat(self) -> Chat:
        return Chat(self.messages, self.tools, self.variables)

    @property
    def record(self) -> dict[str, Any]:
        """What a person reads of it, by column: "prompt", and "tools", "chat_template_kwargs" and the "source" in a
        mixture if there are any."""
        more = {"tools": list(self.tools), "chat_template_kwargs": self.variables, "source": self.part and self.part[0]}
        return {"prompt": list(self.messages), **{name: value for name, value in more.items() if value}}

    @classmethod
    def of_record(cls, row: dict[str, Any]) -> "Prompt":
        """Make a prompt from a row of a record with its "id", and chosen and rejected where it has them."""
        chosen, rejected = (
            tuple(reply) if isinstance(reply, list) else reply for reply in (row.get("chosen"), row.get("rejected"))
        )
        tools, variables = tuple(row.get("tools", ())), row.get("chat_template_kwargs", {})
        return cls(row["id"], tuple(row["prompt"]), chosen, rejected, tools, variables)

    @property
    def pair(self) -> tuple[Reply, Reply]:
        """The chosen and the rejected reply of a labelled prompt.

        Raises:
            ValueError: when it has none.
        """
        if self.chosen is None or self.rejected is None:
            raise ValueError(f"prompt {self.id} has no chosen and rejected reply")
        return self.chosen, self.rejected

    @property
    def replies(self) -> tuple[Reply, ...]:
        """The replies that it comes with."""
        return tuple(reply for reply in (self.chosen, self.rejected, self.completion) if reply is not None)

    @property
    def content(self) -> dict[str, Any]:
        """Everything that results depend on, but the answer, which few methods read."""
        optional = ("part", "completion", "label")  # named only where they are given
        left_out = {"where", "answer", *(name for name in optional if getattr(self, name) is None)}
        return {name: value for name, value in vars(self).items() if name not in left_out}


def reply_messages(reply: Reply) -> tuple[Message, ...]:
    return ({"role": "assistant", "content": reply},) if isinstance(reply, str) else tuple(reply)
