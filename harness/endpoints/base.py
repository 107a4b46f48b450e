"""A request to a chat model and its reply."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.types import Message

CUT = ("length", "max_tokens", "model_length", "max_output_tokens", "content_filter")  # finish reasons of cut replies


@dataclass(frozen=True)
class JudgeRequest:
    """One question to a judge.

    alternatives: replies of one token whose log-probabilities are wanted instead of a text, such as ("m", "M").
    repeat: tells the same question asked again (0, 1, ...) from one whose reply is known already.
    """

    id: str
    messages: tuple[Message, ...]
    temperature: float = 0.0
    max_tokens: int = 2048
    alternatives: tuple[str, ...] = ()
    repeat: int = 0


@dataclass(frozen=True)
class JudgeReply:
    """A judge's answer. `first_token` maps tokens that could have been the first to their log-probabilities.

    finish_reason: the endpoint's own, such as "stop" or "length"; None where it is not told.
    form: how the request was adapted to the endpoint, by name (`harness.endpoints.forms`).
    error is what went wrong when there is no answer after all retries; the reply then counts as missing.
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
        """The reply that a log holds."""
        return cls(**{**facts, "form": tuple(facts.get("form") or ())})

    @property
    def cut(self) -> bool:
        """Whether the text ends where the endpoint stopped it. Log-probabilities of the first token are whole all the
        same."""
        return (self.finish_reason or "").lower() in CUT and not self.first_token
