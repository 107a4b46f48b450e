"""What a judge is: chat messages in, a reply in text (and the log-probabilities of its first token) out.

An LLM behind an endpoint, an engine and the testbed's program are reached in the same way, with the same prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from harness.engines.base import Advance, Message

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
    form: how the request was adapted to the endpoint, by name (`harness.judges.forms`).
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


class Judge(Protocol):
    """Scores of judges with different names never stand in one ranking."""

    name: str

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        """One reply a request, in order.

        Raises:
            UserError: when the judge cannot be reached at all, or refuses the credentials or the form of the requests.
        """
        ...


def complete(
    judge: Judge,
    requests: Sequence[JudgeRequest],
    has_verdict: Callable[[JudgeReply], bool],
    rejudge: bool,
    advance: Advance | None = None,
) -> list[JudgeReply]:
    """One reply a request, in order; with `rejudge` a reply without a verdict is asked for once more.

    The second reply counts, also when it has no verdict either. Requests that failed are not among them: the judge has
    tried those again itself.
    """
    replies = judge.complete(requests, advance)
    again = [place for place, reply in enumerate(replies) if rejudge and not reply.error and not has_verdict(reply)]
    if again:
        repeated = [replace(requests[place], repeat=requests[place].repeat + 1) for place in again]
        for place, reply in zip(again, judge.complete(repeated), strict=True):
            replies[place] = reply
    return replies
