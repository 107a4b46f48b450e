"""What a judge is: chat messages in, a reply in text (and the log-probabilities of its first token) out.

An LLM behind an endpoint, an engine and the testbed's program are reached in the same way, with the same prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.engines.base import Advance, Message


@dataclass(frozen=True)
class JudgeRequest:
    """One question to a judge. `top_logprobs` > 0 asks for that many alternatives of the first output token."""

    id: str
    messages: tuple[Message, ...]
    temperature: float = 0.0
    max_tokens: int = 2048
    top_logprobs: int = 0


@dataclass(frozen=True)
class JudgeReply:
    """A judge's answer. `first_token` maps each asked alternative of the first output token to its log-probability.

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
    error: str | None = None


class Judge(Protocol):
    """Scores of judges with different names never stand in one ranking."""

    name: str

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        """One reply a request, in order.

        Raises:
            UserError: when the judge can not be reached at all, or refuses the credentials.
        """
        ...
