"""A judge behind an OpenAI-compatible endpoint, through the official client.

The client never retries by itself: each HTTP attempt is reserved in the log's caps, sent, stored and settled here, and
what passes (429, 5xx, time-outs, cut replies) is tried again with growing waits.
"""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, wait_exponential, wait_random

from harness import store
from harness.engines.base import Advance
from harness.errors import UserError
from harness.judges import chat_completions
from harness.judges.base import JudgeReply, JudgeRequest
from harness.judges.chat_completions import endpoint_url, read_answer
from harness.judges.limits import Limits, Price, known_prices
from harness.judges.log import JudgeLog
from harness.judges.spend import CapReached

KEY_VARIABLE = "OPENAI_API_KEY"
TIMEOUT = 120.0  # seconds an attempt
RETRIES = 10  # with 30 % of attempts failing, one request in 500,000 fails
FIRST_WAIT = 0.5  # seconds before the second attempt; doubled from one to the next
DEAD = 16  # requests that fail to their last attempt, one after the other: the endpoint has failed, not they
LONGEST_BACKOFF = 60.0
LONGEST_WAIT = 300.0  # seconds; an endpoint that asks for more is for another day
POLL = 0.05  # seconds between two looks whether a call fits under the cap on cost
LONGEST_ERROR = 500  # characters of an error in a reply
LONGEST_BODY = 20_000  # characters of a body without an answer that are stored
SHORTEST_SECRET = 8  # characters; shorter keys are placeholders such as "none", and ordinary words of replies
TOP_LOGPROBS = 5
FIRST_TOKEN = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}


class OpenAIJudge:
    """Asks a chat model; the key comes from the environment and is stored nowhere."""

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
        role: str = "judge",
    ) -> None:
        """
        Args:
            role: what the model is here, for messages.
            log: of the run; without one replies are kept as long as the judge.
            price: overrides the list of known prices.

        Raises:
            UserError: when there is no key for an endpoint that is not ours, a URL that is none, or a cap on cost of a
                model without a price.
        """
        self.name, self.role = model, role
        self.base_url = base_url
        self.endpoint = endpoint_url(base_url)
        self._who = f"the {role} at {self.endpoint}"
        if log is None:
            self._own_folder = TemporaryDirectory(prefix="judge-")
            log = JudgeLog(Path(self._own_folder.name))
        self.log, self.limits = log, limits
        self.retries, self.timeout, self.first_wait = retries, timeout, first_wait
        self._reached = False  # a request was answered: what fails from then on fails alone
        self._unanswered = 0  # requests, one after the other, that failed to the last attempt
        self._next_start = 0.0  # when the rate limit allows the next attempt
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not self._key and base_url is None:
            raise UserError(f"the judge {model!r} needs a key in {KEY_VARIABLE}, or another endpoint (--judge-url)")
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"the key in {KEY_VARIABLE} has characters that no key has: copy it again")
        self.price = price or known_prices().get(model)
        if limits.max_cost is not None and self.price is None:
            raise UserError(
                f"what {model!r} costs is not known, so its cost can not be capped: give --judge-price IN,OUT "
                "in USD per million tokens"
            )

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        if not requests:
            return []
        work = self._complete(requests, advance)
        try:
            return asyncio.run(work)
        finally:
            work.close()  # a signal may end this before the work has begun

    def spent(self) -> str:
        """What the log's folder has cost so far, for a line of progress."""
        spent = self.log.spent()
        return f"{spent.calls} calls{self._dollars(spent.total)}"

    async def _complete(self, requests: Sequence[JudgeRequest], advance: Advance | None) -> list[JudgeReply]:
        keys = [self.key(request) for request in requests]
        places: dict[str, list[int]] = {}  # equal requests are asked once
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        replies: list[JudgeReply | None] = [None] * len(requests)
        waiting = iter(places.items())
        async with AsyncOpenAI(
            api_key=self._key or "none", base_url=self.base_url, timeout=self.timeout, max_retries=0
        ) as client:
            run = _Run(client)

            async def work() -> None:
                for key, equal in waiting:
                    row = await self._row(run, key, requests[equal[0]])
                    if row is None:
                        return
                    for place in equal:
                        replies[place] = self._reply(requests[place].id, row)
                    if advance:
                        if note := getattr(advance, "note", None):
                            note(self.spent())
                        advance(len(equal))

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.limits.concurrent, len(places))):
                        group.create_task(work())
            finally:
                print(self._summary(run, len(requests)), file=sys.stderr)
        if run.failure:
            raise self._unfinished(run.failure)
        return replies

    def _body(self, request: JudgeRequest) -> dict:
        """What is sent."""
        messages = [
            {name: chat_completions.writable(text) for name, text in message.items()} for message in request.messages
        ]
        return {
            "model": self.name,
            "messages": messages,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            **(FIRST_TOKEN if request.alternatives else {}),
        }

    def key(self, request: JudgeRequest) -> str:
        """Of all that changes the answer."""
        return store.digest(
            {
                "endpoint": self.endpoint,
                "request": self._body(request),
                "alternatives": request.alternatives,
                "repeat": request.repeat,
            }
        )

    async def _row(self, run: "_Run", key: str, request: JudgeRequest) -> dict | None:
        """The log's row of the reply, stored before or now, or of the last failure; None when the run has stopped."""
        if run.stop.is_set():
            return None
        if row := self.log.find(key):
            run.counts["stored"] += 1
            return row
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.retries + 1),
            wait=self._wait,
            retry=retry_if_result(lambda attempt: attempt.passing),
            retry_error_callback=lambda state: state.outcome.result(),
            sleep=run.pause,
        )
        start = time.monotonic()
        try:
            attempt = await retrying(self._attempt, run, retrying, key, request)
            self._unanswered = self._unanswered + 1 if attempt.error and attempt.passing else 0
            if self._unanswered == DEAD or attempt.unreached:
                tried = f"tried for {time.monotonic() - start:.0f} s"
                raise UserError(f"{self._who} does not answer any more ({tried}: {attempt.error})")
            return attempt.row
        except _Stopped:
            return None
        except UserError as error:
            run.failure = run.failure or error
            run.stop.set()
            return None

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: never less than the endpoint asks for, and not in step with others."""
        asked = state.outcome.result().wait
        grown = wait_exponential(self.first_wait, max=LONGEST_BACKOFF)(state)
        return (grown if asked is None else asked) + wait_random(0, self.first_wait)(state)

    async def _attempt(self, run: "_Run", retrying: AsyncRetrying, key: str, request: JudgeRequest) -> "_Attempt":
        """One HTTP request: counted, sent, stored, settled."""
        await self._pace(run)
        body = self._body(request)
        most = self.price.most(request) if self.price else 0.0
        reservation = await self._reserve(run, most)
        number = retrying.statistics["attempt_number"]
        run.counts["calls"] += 1
        run.counts["retries"] += number > 1
        spent = most  # unless more is known: a killed or lost call may have been charged
        try:
            start = time.monotonic()
            attempt = await self._send(run.client, body)
            usage, charged = attempt.usage, attempt.charged
            spent = self._cost(usage) if usage else most if charged else 0.0
            date = datetime.now(UTC).isoformat(timespec="seconds")
            text = self._public(attempt.body)  # before it is cut: half of a key is no key to be found
            row = {
                "key": key,
                "id": request.id,
                "repeat": request.repeat,
                "alternatives": request.alternatives,
                "attempt": number,
                "date": date,
                "seconds": round(time.monotonic() - start, 3),
                "endpoint": self.endpoint,
                "request": body,
                "status": attempt.status,
                "body": text[:LONGEST_BODY] if attempt.error else text,
                "reply": None if attempt.error else asdict(self._read(request.id, text, date)),
                "error": attempt.error,
                "usage": usage,
                "usd": spent,
            }
            await asyncio.to_thread(self.log.append, [row])  # the disk is slow, and others have replies to read
        finally:
            self.log.spend.settle(reservation, spent)
            run.cost += spent
        run.tokens.update({"prompt": usage[0], "reply": usage[1]} if usage else {})
        if attempt.hopeless:
            raise attempt.hopeless
        self._reached |= attempt.error is None
        run.counts["failed"] += bool(attempt.error and (number > self.retries or not attempt.passing))
        attempt.row = row
        return attempt

    async def _pace(self, run: "_Run") -> None:
        """Waits for this attempt's turn under the rate limit."""
        if self.limits.per_minute:
            now = time.monotonic()
            turn = max(now, self._next_start)
            self._next_start = turn + 60 / self.limits.per_minute
            await run.pause(turn - now)
        if run.stop.is_set():
            raise _Stopped

    async def _reserve(self, run: "_Run", most: float) -> str:
        """A place under the caps; waits while calls in flight may still leave room."""
        limits, longest = self.limits, self.timeout + 30
        while not (reservation := self.log.spend.reserve(most, limits.max_calls, limits.max_cost, longest)):
            await run.pause(POLL)
            if run.stop.is_set():
                raise _Stopped
        return reservation

    async def _send(self, client: AsyncOpenAI, body: dict) -> "_Attempt":
        try:
            async with asyncio.timeout(self.timeout):  # the client's own time-out starts anew with every byte
                raw = await client.chat.completions.with_raw_response.create(**body)
        except (TimeoutError, APITimeoutError):
            return _Attempt(error=f"APITimeoutError: no reply within {self.timeout:g} s", passing=True)
        except APIConnectionError as error:
            unreached = type(error.__cause__).__name__ in ("ConnectError", "UnsupportedProtocol")
            attempt = _Attempt(error=self._error(error), passing=True, charged=not unreached, unreached=unreached)
            if unreached and not self._reached:
                attempt.hopeless = JudgeUnreachable(f"{self._who} can not be reached: is it running?")
            return attempt
        except APIStatusError as error:
            return self._refused(error)
        status, text = raw.status_code, raw.text
        answer = read_answer(text)
        if not answer.error:
            return _Attempt(status, text, usage=answer.usage)
        attempt = _Attempt(status, text, answer.error, answer.usage, passing=True)
        if "json" not in raw.headers.get("content-type", ""):
            attempt.error = "the reply is no chat completion"
            if not self._reached:
                attempt.hopeless = JudgeUnreachable(
                    f"what is at {self.endpoint} is no OpenAI-compatible endpoint: does /v1 lack?"
                )
        return attempt

    def _refused(self, error: APIStatusError) -> "_Attempt":
        """What a status of 400 and above means: of this request, or of all."""
        status, text = error.status_code, error.response.text
        wait = chat_completions.retry_after(error.response.headers)
        attempt = _Attempt(status, text, self._error(error), charged=False, wait=wait)
        attempt.passing = status in (408, 409, 429) or status >= 500
        if chat_completions.no_credit(status, text):
            attempt.hopeless = UserError(f"the account of {self._who} has no credit left")
        elif attempt.passing and (wait or 0) > LONGEST_WAIT:
            attempt.hopeless = UserError(f"{self._who} asks to come back in {wait:.0f} s")
        elif not self._reached and status in (401, 403):
            attempt.hopeless = JudgeUnreachable(
                f"{self._who} refuses the key in {KEY_VARIABLE} (status {status})"
            )
        elif not self._reached and status == 404:
            attempt.hopeless = JudgeUnreachable(
                f"{self._who} has no model {self.name!r}, or the URL is wrong (status 404)"
            )
        return attempt

    def _error(self, error: Exception) -> str:
        return self._public(f"{type(error).__name__}: {error}")[:LONGEST_ERROR]

    def _public(self, text: str) -> str:
        """The text without the key, which some servers repeat."""
        return text.replace(self._key, "(key)") if len(self._key) >= SHORTEST_SECRET else text

    def _reply(self, id: str, row: dict) -> JudgeReply:
        """The reply that a row of the log holds."""
        if row["reply"]:
            return replace(JudgeReply(**row["reply"]), id=id)
        return JudgeReply(id, "", model=self.name, date=row["date"], error=row["error"])

    def _read(self, id: str, body: str, date: str) -> JudgeReply:
        answer = read_answer(body)
        prompt_tokens, completion_tokens = answer.usage or (0, 0)
        return JudgeReply(
            id,
            answer.text,
            first_token=answer.first_token,
            model=answer.model or self.name,
            fingerprint=answer.fingerprint,
            date=date,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            finish_reason=answer.finish_reason,
        )

    def _cost(self, usage: tuple[int, int]) -> float:
        return self.price.cost(*usage) if self.price else 0.0

    def _unfinished(self, failure: UserError) -> UserError:
        """What stopped the run, and how it goes on; made when all that was in flight is stored."""
        if isinstance(failure, JudgeUnreachable):
            return failure
        option = f" with a higher {failure.option}" if isinstance(failure, CapReached) else ""
        return type(failure)(
            f"{failure}; {self.log.stored()} replies are stored in {self.log.folder} ({self.spent()}): the same command"
            f"{option} goes on from there",
            *([failure.option] if option else []),
        )

    def _summary(self, run: "_Run", requests: int) -> str:
        counts = run.counts
        return (
            f"{self.role} {self.name}: {requests} requests, {counts['stored']} of them stored before; "
            f"{counts['calls']} calls ({counts['retries']} retries, {counts['failed']} failed), "
            f"{run.tokens['prompt']:,} + {run.tokens['reply']:,} tokens{self._dollars(run.cost)}; so far {self.spent()}"
        )

    def _dollars(self, amount: float) -> str:
        if self.price is None:
            return ", cost not known" if self.base_url is None else ""
        return f", {amount:.4f} USD"


class JudgeUnreachable(UserError):
    """Nothing can be judged: no connection, or no permission."""


class _Stopped(Exception):
    """Another request found that none can succeed."""


@dataclass
class _Run:
    """What the requests of one call share."""

    client: AsyncOpenAI
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    failure: UserError | None = None
    counts: Counter = field(default_factory=Counter)  # calls, retries, failed, stored
    tokens: Counter = field(default_factory=Counter)  # prompt, reply
    cost: float = 0.0

    async def pause(self, seconds: float) -> None:
        """Sleeps, but not once the run has stopped."""
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
        except TimeoutError:
            pass


@dataclass
class _Attempt:
    """What one HTTP request came to.

    passing: worth another attempt. charged: the provider may ask money for it, also where no usage is known.
    wait: seconds that the endpoint asks for. unreached: nothing was sent. hopeless: why no request can succeed.
    """

    status: int | None = None
    body: str = ""
    error: str | None = None
    usage: tuple[int, int] | None = None
    passing: bool = False
    charged: bool = True
    wait: float | None = None
    unreached: bool = False
    hopeless: UserError | None = None
    row: dict = field(default_factory=dict)
