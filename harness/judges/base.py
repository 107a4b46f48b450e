"""What a judge is: chat messages in, a reply in text (and the log-probabilities of its first token) out.

An LLM behind an endpoint, an engine and the testbed's program are reached in the same way, with the same prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from harness.endpoints.base import JudgeReply, JudgeRequest
from harness.progress import Advance


class Judge(Protocol):
    """Scores of judges with different names never stand in one ranking."""

    name: str

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        """One reply a request, in order.

        Raises:
            UserError: when the judge cannot be reached at all, or refuses the credentials or the form of the requests.
        """
        ...


@runtime_checkable
class GradingJudge(Judge, Protocol):
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
