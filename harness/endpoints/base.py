"""A request to a chat model and its reply."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.types import Conversation, Message, Reply

CUT = ("length", "max_tokens", "model_length", "max_output_tokens", "content_filter")  # truncated replies


@dataclass(frozen=True)
class Comparison:
    """Two replies to a conversation, in the order in which the request shows them.

    verdicts: what a judge replies if the first one wins, if the second one wins, and if they are equally good. Empty in
        a request with two alternatives, which say the first two.
    """

    conversation: Conversation
    first: Reply
    second: Reply
    verdicts: tuple[str, ...] = ()


@dataclass(frozen=True)
class JudgeRequest:
    """One question to a judge.

    alternatives: one-token replies whose log-probabilities are wanted instead of a text, such as ("m", "M").
    repeat: number of this asking (0, 1, ...): the same question with another number is asked again.
    compared: what the messages ask to compare, for a judge that reads no messages: a reward model. It is not sent.
    """

    id: str
    messages: tuple[Message, ...]
    temperature: float = 0.0
    max_tokens: int = 2048
    alternatives: tuple[str, ...] = ()
    repeat: int = 0
    compared: Comparison | None = None


@dataclass(frozen=True)
class JudgeReply:
    """A judge's answer. `first_token` maps tokens that could have been the first to their log-probabilities.

    finish_reason: as the endpoint says, such as "stop" or "length"; None if it does not.
    form: how the request was adapted to the endpoint, by name (`harness.endpoints.forms`).
    error: what went wrong if there is no answer after all retries; the reply then counts as missing.
    """

    id: str
    text: str
    first_token: dict[str, float] | None = None
    model: str = ""
    fingerprint: str | None = None
    date: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None
    form: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "JudgeReply":
        """Return the reply that a row of the log holds."""
        return cls(**{**facts, "form": tuple(facts.get("form") or ())})

    @property
    def cut(self) -> bool:
        """Whether the endpoint truncated the text. Log-probabilities of a first token are complete all the same."""
        return (self.finish_reason or "").lower() in CUT and not self.first_token
