"""The judge protocol: chat messages in, a text reply (and the log-probabilities of its first token) out.

An LLM behind an endpoint, a local engine and the testbed's program are reached in the same way, with the same prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from harness.endpoints.base import JudgeReply, JudgeRequest
from harness.endpoints.limits import Price
from harness.progress import Advance


class Judge(Protocol):
    """Scores of judges with different names are never ranked together."""

    @property
    def name(self) -> str: ...

    @property
    def endpoint(self) -> str | None:
        """URL of the endpoint; None for a judge in this process."""
        ...

    @property
    def price(self) -> Price | None:
        """Price of the endpoint's tokens; None if it is unknown, or there is no endpoint."""
        ...

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        """Return one reply per request, in order.

        Raises:
            UserError: when the judge cannot be reached at all, or refuses the credentials or the form of the requests.
        """
        ...


@runtime_checkable
class GradingJudge(Protocol):
    """A judge that is a program: it grades any answer at no cost."""

    def quality(self, question: str, answer: str) -> float | None:
        """Quality of an answer within [0, 1]; None when the judge does not know the question."""
        ...


def complete(
    judge: Judge,
    requests: Sequence[JudgeRequest],
    has_verdict: Callable[[JudgeReply], bool],
    rejudge: bool,
    advance: Advance | None = None,
) -> list[JudgeReply]:
    """Return one reply per request, in order; with `rejudge`, ask once more for a reply without a verdict.

    The second reply counts even if it has no verdict either. Failed requests are not repeated here: the judge has
    already retried them.
    """
    replies = judge.complete(requests, advance)
    again = [place for place, reply in enumerate(replies) if rejudge and not reply.error and not has_verdict(reply)]
    if again:
        repeated = [replace(requests[place], repeat=requests[place].repeat + 1) for place in again]
        for place, reply in zip(again, judge.complete(repeated), strict=True):
            replies[place] = reply
    return replies
