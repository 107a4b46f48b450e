"""A judge behind an OpenAI-compatible endpoint, through the official client."""

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from aiolimiter import AsyncLimiter
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
)
from openai.types.chat import ChatCompletion
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_exponential_jitter

from harness import store
from harness.engines.base import Advance
from harness.errors import UserError
from harness.judges.base import JudgeReply, JudgeRequest
from harness.judges.limits import Limits, Price, known_prices
from harness.judges.log import JudgeLog

KEY_VARIABLE = "OPENAI_API_KEY"
TIMEOUT = 120.0  # seconds a request
LONGEST_ERROR = 500  # characters of an error that are stored
RETRIES = 6
FIRST_RETRIES = 2  # while the judge was never reached
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a retry: doubled from one to the next, with jitter
PATIENCE = 300.0  # seconds of Retry-After that are waited for
TOP_LOGPROBS = 5
PASSING = (408, 409, 429)  # statuses that are tried again, besides 5xx
NO_CREDIT = "insufficient_quota"
FREE = Price(0.0, 0.0)


class OpenAIJudge:
    """Asks a chat model; the key comes from the environment and is stored nowhere.

    Every HTTP attempt is a line of the log, and a request that has its reply there is not sent again.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        log: JudgeLog | None = None,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        price: Price | None = None,
        retries: int = RETRIES,
        timeout: float = TIMEOUT,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        """
        Args:
            log: of the run; None keeps nothing.
            price: of the model; None looks it up, and an endpoint of one's own is free.

        Raises:
            UserError: when there is no key for an endpoint that is not ours, or a cap on USD without a known price.
        """
        self.name = model
        self.base_url = base_url
        self.log, self.limits = log, limits
        self.retries, self.timeout, self.first_wait = retries, timeout, first_wait
        self._reached = False  # a request was answered: what fails from then on fails alone
        self._key = os.environ.get(KEY_VARIABLE)
        if not self._key and base_url is None:
            raise UserError(f"the judge {model!r} needs a key in {KEY_VARIABLE}, or another endpoint (--judge-url)")
        known = price or known_prices().get(model)
        if known is None and limits.max_cost is not None:
            raise UserError(f"what {model!r} costs is not known: give --judge-price IN,OUT (USD per million tokens)")
        self.price = known or FREE
        self._counts = {"calls": 0, "stored": 0, "tokens": 0, "usd": 0.0}

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        if not requests:
            return []
        before = dict(self._counts)
        try:
            return asyncio.run(self._complete(requests, advance))
        finally:
            self._tell({name: count - before[name] for name, count in self._counts.items()})

    async def _complete(self, requests: Sequence[JudgeRequest], advance: Advance | None) -> list[JudgeReply]:
        keys = [self.key(request) for request in requests]
        places: dict[str, list[int]] = {}  # equal requests are asked once
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        replies: dict[str, JudgeReply] = {}
        free = asyncio.Semaphore(self.limits.concurrent)
        rate = self.limits.per_minute
        pace = AsyncLimiter(1, 60 / rate) if rate else nullcontext()
        self._flying, self._stopped = 0, False

        def finished(key: str, reply: JudgeReply) -> None:
            replies[key] = reply
            if advance:
                if note := getattr(advance, "note", None):
                    note(self._so_far())
                advance(len(places[key]))

        async def ask(client: AsyncOpenAI, key: str) -> None:
            async with free:
                if not self._stopped:
                    try:
                        finished(key, await self._ask(client, requests[places[key][0]], key, pace))
                    except JudgeCapReached:
                        self._stopped = True  # what is under way ends, and is stored

        async with AsyncOpenAI(
            api_key=self._key or "none", base_url=self.base_url, timeout=self.timeout, max_retries=0
        ) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for key in places:
                        if self.log and (known := self.log.reply(key)):
                            self._counts["stored"] += 1
                            self._reached = True
                            finished(key, known)
                        else:
                            group.create_task(ask(client, key))
            except ExceptionGroup as errors:  # the first ends all; the caller is to see it, not the group
                raise errors.exceptions[0] from None
        if self._stopped:
            raise self._cap_error()
        return [replace(replies[key], id=request.id) for request, key in zip(requests, keys, strict=True)]

    def key(self, request: JudgeRequest) -> str:
        """Of all that changes the reply."""
        return store.digest({"endpoint": self.base_url, "repeat": request.repeat, **self._body(request)})

    def _body(self, request: JudgeRequest) -> dict:
        wanted = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if request.alternatives else {}
        return {
            "model": self.name,
            "messages": list(request.messages),
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            **wanted,
        }

    async def _ask(
        self, client: AsyncOpenAI, request: JudgeRequest, key: str, pace: AbstractAsyncContextManager
    ) -> JudgeReply:
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda outcome: outcome.passing),
            wait=self._wait,
            stop=self._enough,
            retry_error_callback=lambda state: state.outcome.result(),
        )
        outcome = await retrying(self._attempt, client, request, key, pace)
        if outcome.unusable and not self._reached:
            raise JudgeUnreachable(outcome.unusable)
        return outcome.reply

    def _wait(self, state: RetryCallState) -> float:
        own = wait_exponential_jitter(multiplier=self.first_wait, max=LONGEST_WAIT, jitter=self.first_wait)(state)
        return max(own, min(state.outcome.result().retry_after, PATIENCE))

    def _enough(self, state: RetryCallState) -> bool:
        unreachable = bool(state.outcome.result().unusable) and not self._reached
        return state.attempt_number > (min(self.retries, FIRST_RETRIES) if unreachable else self.retries)

    async def _attempt(
        self, client: AsyncOpenAI, request: JudgeRequest, key: str, pace: AbstractAsyncContextManager
    ) -> "Outcome":
        """One HTTP request: reserved, sent, and written into the log with what came of it."""
        reserved = await self._reserve(request)
        date, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        self._flying += 1
        try:
            async with pace:
                outcome = await self._send(client, request, date)
        finally:
            self._flying -= 1
        cost = reserved
        if outcome.billed is not None:
            cost = self.price.cost(*outcome.billed)
            self._counts["tokens"] += sum(outcome.billed)
        self._counts["usd"] += cost
        if self.log:
            self.log.settle(reserved, cost)
            row = {"key": key, "judge": self.name, "endpoint": self.base_url, "request": self._body(request)}
            row |= {"date": date, "seconds": round(time.perf_counter() - start, 3), "usd": cost}
            row |= {"status": outcome.status, "body": self._without_key(outcome.body)}
            self.log.write(row, outcome.reply if outcome.reply.error is None else None)
        return outcome

    async def _reserve(self, request: JudgeRequest) -> float:
        """Counts the call; what it may cost at most.

        Raises:
            JudgeCapReached: when a cap forbids it, and nothing under way can give room back.
        """
        most = self.price.most(request)
        limits = self.limits
        while self.log and not self.log.reserve(most, limits.max_calls, limits.max_cost):
            if not self._flying:
                raise JudgeCapReached
            await asyncio.sleep(0.02)
        self._counts["calls"] += 1
        return most

    async def _send(self, client: AsyncOpenAI, request: JudgeRequest, date: str) -> "Outcome":
        try:
            raw = await client.chat.completions.with_raw_response.create(**self._body(request))
        except APIStatusError as error:
            return self._refused(request, error)
        except APIConnectionError as error:  # a time-out is one, to the client: the judge is there, but slow
            slow = isinstance(error, APITimeoutError)
            unusable = None if slow else f"the judge at {client.base_url} can not be reached: is it running?"
            billed = None if slow else (0, 0)
            return Outcome(self._failed(request, error), billed, passing=True, unusable=unusable, body=str(error))
        body = raw.text
        try:
            answer = raw.parse()
        except (APIError, ValueError) as error:  # ValueError: a body that is not JSON
            return Outcome(self._failed(request, error), None, passing=True, status=raw.status_code, body=body)
        if not isinstance(answer, ChatCompletion):
            unusable = f"what is at {client.base_url} is no OpenAI-compatible endpoint: does /v1 lack?"
            if not self._reached:
                raise JudgeUnreachable(unusable)
            failed = self._failed(request, "the reply is no chat completion")
            return Outcome(failed, None, passing=True, status=raw.status_code, body=body)
        self._reached = self._reached or bool(answer.choices)
        usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens) if answer.usage else None
        if not answer.choices or not answer.choices[0].message:
            failed = self._failed(request, "the reply has no message")
            return Outcome(failed, usage, passing=True, status=raw.status_code, body=body)
        choice = answer.choices[0]
        first = choice.logprobs.content[0] if choice.logprobs and choice.logprobs.content else None
        reply = JudgeReply(
            request.id,
            choice.message.content or "",
            first_token={each.token: each.logprob for each in first.top_logprobs or ()} if first else None,
            model=answer.model or self.name,
            fingerprint=answer.system_fingerprint,
            date=date,
            prompt_tokens=usage[0] if usage else 0,
            completion_tokens=usage[1] if usage else 0,
        )
        return Outcome(reply, usage, status=raw.status_code, body=body)

    def _refused(self, request: JudgeRequest, error: APIStatusError) -> "Outcome":
        """What a status other than 200 means; nothing is billed for it."""
        if error.code == NO_CREDIT:
            raise JudgeUnreachable(f"the judge {self.name!r} has no credit left ({NO_CREDIT}); what was judged is kept")
        where = f"the judge at {error.request.url.join('.')}".removesuffix("/")
        unusable = None
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            unusable = f"{where} refuses the key in {KEY_VARIABLE} (status {error.status_code})"
        elif isinstance(error, NotFoundError):
            unusable = f"{where} has no model {self.name!r}, or the URL is wrong (status 404)"
        return Outcome(
            self._failed(request, error),
            (0, 0),
            passing=error.status_code in PASSING or error.status_code >= 500,
            unusable=unusable,
            retry_after=_retry_after(error.response.headers),
            status=error.status_code,
            body=error.response.text,
        )

    def _failed(self, request: JudgeRequest, error: Exception | str) -> JudgeReply:
        """A reply without an answer. What the server says of the error is stored, but not a key that it repeats."""
        reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        return JudgeReply(request.id, "", model=self.name, error=self._without_key(reason)[:LONGEST_ERROR])

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "(key)") if self._key else text

    def _cap_error(self) -> UserError:
        spent = self.log.spent()
        return UserError(
            f"the judge's cap is reached: {spent.calls} calls, {spent.usd:.4f} USD ({self.log.stored()} replies are in "
            f"{self.log.folder}): give a higher --judge-max-calls or --judge-max-cost, and the same command goes on"
        )

    def _so_far(self) -> str:
        counts = self._counts
        return f"{counts['calls']} calls" + (f", {counts['usd']:.2f} USD" if self.price != FREE else "")

    def _tell(self, counts: dict) -> None:
        cost = f", {counts['usd']:.4f} USD" if self.price != FREE else ""
        known = f", {counts['stored']} from the log" if counts["stored"] else ""
        print(f"judge {self.name}: {counts['calls']} calls{known}, {counts['tokens']} tokens{cost}", file=sys.stderr)


@dataclass(frozen=True)
class Outcome:
    """What came of an HTTP request.

    billed: prompt and reply tokens, None where the server did not say: then the most that was possible is charged.
    passing: whether trying again may help. retry_after: seconds that the server asks to wait.
    unusable: why no request can succeed, where this one says so.
    """

    reply: JudgeReply
    billed: tuple[int, int] | None
    passing: bool = False
    retry_after: float = 0.0
    unusable: str | None = None
    status: int | None = None
    body: str = ""


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of Retry-After (a number or a date) or retry-after-ms; 0 without."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(headers["retry-after"]) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, KeyError):
        return 0.0


class JudgeUnreachable(UserError):
    """Nothing can be judged: no connection, no permission, no credit."""


class JudgeCapReached(Exception):
    """A cap on calls or USD forbids the next request."""
