"""A judge behind an OpenAI-compatible endpoint, through the official client.

The client never retries by itself: each HTTP attempt is reserved under the log's caps, sent, stored and settled here.
Temporary failures (429, 5xx, time-outs, broken replies) are retried with growing waits. If an endpoint refuses the form
of requests and says how to change it, it is changed (`harness.endpoints.forms`); otherwise the run ends.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, wait_exponential, wait_random

from harness.endpoints import forms, wire
from harness.endpoints.base import CUT, JudgeReply, JudgeRequest
from harness.endpoints.forms import Form, Forms
from harness.endpoints.limits import Limits, Price, known_prices
from harness.endpoints.log import JudgeLog
from harness.endpoints.spend import CapReached
from harness.endpoints.transport import LONGEST_REPLY, ReplyTooLong, bounded_client
from harness.endpoints.wire import Answer, Refusal, endpoint_url, read_answer, read_refusal
from harness.errors import UserError
from harness.files import store
from harness.progress import Advance, Notable
from harness.thoughts import spoken

KEY_VARIABLE = "OPENAI_API_KEY"
TIMEOUT = 120.0  # seconds per attempt
RETRIES = 10  # with 30 % of attempts failing, one request in 500,000 fails
FIRST_WAIT = 0.5  # seconds before the second attempt; doubled from one to the next
DEAD = 16  # successive requests that fail to their last attempt: the endpoint is down
LONGEST_BACKOFF = 60.0
LONGEST_WAIT = 300.0  # seconds; if an endpoint asks for more, the run ends
POLL = 0.05  # seconds between two checks whether a call fits under the cap on cost
LONGEST_ERROR = 500  # characters of an error in a reply
LONGEST_BODY = 20_000  # characters stored of a body without an answer
LONGEST_KEPT_BODY = 1 << 20  # characters stored of a body with an answer
REFUSALS = 3  # different requests refused and none like them answered: their form is wrong, not their text
FIXED = ("model", "messages", "n", "stream", *forms.LENGTHS)  # fields of a request that --judge-set must not set
SAME_MEANING = ("max_completion_tokens",)  # adaptations that do not change the answers of a scored model
SHORTEST_SECRET = 8  # characters; shorter keys are placeholders such as "none", which replies may contain
TOP_LOGPROBS = 5
FIRST_TOKEN = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}


class OpenAIJudge:
    """Asks a chat model; the key comes from the environment and is never stored."""

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
        max_tokens: int | None = None,
        settings: Mapping[str, Any] | None = None,
        keep_cut: bool = False,
        longest_reply: int = LONGEST_REPLY,
    ) -> None:
        """
        Args:
            log: of the run; by default, replies are kept as long as the judge.
            price: overrides the list of known prices.
            timeout: seconds per attempt. first_wait: seconds before the second attempt.
            role: what the model is used as, for messages; only SAME_MEANING adapts the requests of a "model".
            max_tokens: of each reply, in place of the request's own.
            settings: additional fields of each request; None omits a field.
            keep_cut: keep replies that reached their length as answers.
            longest_reply: maximum bytes of a body.

        Raises:
            UserError: no API key, an invalid key or URL, a cap on cost without a price, or a setting of a fixed field.
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
        self.max_tokens, self.settings = max_tokens, dict(settings or {})
        self.keep_cut, self.longest_reply = keep_cut, longest_reply
        for name in self.settings:
            if name in FIXED:
                instead = ": give --judge-max-tokens" if name in forms.LENGTHS else ""
                raise UserError(f"--judge-set {name}: this field cannot be set{instead}")
        self._forms = Forms(log.folder, self.endpoint, model)
        self.form: Form = self._forms.read()
        self._answered: set[str] = set()  # shapes of requests that were answered, now or earlier
        self._refused_shapes: dict[str, tuple[int, str]] = {}  # shape -> number of requests refused, last refusal
        self._reached = False  # a request was answered, so that later failures concern single requests
        self._unanswered = 0  # successive requests that failed to the last attempt
        self._next_start = 0.0  # monotonic time at which the rate limit allows the next attempt
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not self._key and base_url is None:
            raise UserError(f"the judge {model!r} needs a key in {KEY_VARIABLE}, or another endpoint (--judge-url)")
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"the key in {KEY_VARIABLE} has characters that no key has: copy it again")
        self.price = price or known_prices().get(model)
        if limits.max_cost is not None and self.price is None:
            raise UserError(
                f"the price of {model!r} is not known, so its cost cannot be capped: give --judge-price IN,OUT "
                "in USD per million tokens"
            )

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        """Ask all requests, or read their stored replies.

        Returns:
            One reply per request, in their order; those without an answer after all retries have an `error`.

        Raises:
            UserError: when no request can succeed, or a cap is reached; finished replies are stored.
        """
        if not requests:
            return []
        work = self._complete(requests, advance)
        try:
            return asyncio.run(work)
        finally:
            work.close()  # a signal may end this before the work has begun

    def spent(self) -> str:
        """Return what the log's folder has cost so far, for a line of progress."""
        spent = self.log.spent()
        return f"{spent.calls} calls{self._dollars(spent.total)}"

    async def _complete(self, requests: Sequence[JudgeRequest], advance: Advance | None) -> list[JudgeReply]:
        places: dict[str, list[int]] = {}  # equal requests are asked once
        for place, request in enumerate(requests):
            places.setdefault(self.key(request, ()), []).append(place)
        different = [(requests[equal[0]], equal) for equal in places.values()]
        for request, _ in different:
            if any(self.log.holds(key) for key in self._keys(request)):
                self._answered.add(_shape(request))
        replies: dict[int, JudgeReply] = {}
        waiting = iter(different)
        async with AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=0,
            http_client=bounded_client(self.longest_reply),
        ) as client:
            run = _Run(client)

            async def work() -> None:
                for request, equal in waiting:
                    row = await self._row(run, request)
                    if row is None:
                        return
                    for place in equal:
                        replies[place] = self._reply(requests[place].id, row)
                    if advance:
                        if isinstance(advance, Notable):
                            advance.note(self.spent())
                        advance(len(equal))

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.limits.concurrent, len(places))):
                        group.create_task(work())
            finally:
                print(self._summary(run, len(requests)), file=sys.stderr)
        asked = {_shape(request) for request in requests} - self._answered
        if not run.failure and (refused := asked & self._refused_shapes.keys()):
            run.failure = self._refusing(self._refused_shapes[refused.pop()][1])
        if run.failure:
            raise self._unfinished(run.failure)
        return [replies[place] for place in range(len(requests))]

    def _body(self, request: JudgeRequest, form: Form) -> dict[str, Any]:
        """Return the fields of a request in a form."""
        messages = [{name: wire.writable(text) for name, text in message.items()} for message in request.messages]
        body: dict[str, Any] = {
            "model": self.name,
            "messages": messages,
            "temperature": request.temperature,
            "max_tokens": self.max_tokens or request.max_tokens,
            **(FIRST_TOKEN if request.alternatives else {}),
        }
        body = forms.applied(form, body) | self.settings
        if not body.get("logprobs"):
            body.pop("top_logprobs", None)
        return {name: value for name, value in body.items() if value is not None}

    def key(self, request: JudgeRequest, form: Form | None = None) -> str:
        """Return the digest of all that changes the answer, with the form (None: the current one)."""
        return store.digest(
            {
                "endpoint": self.endpoint,
                "request": self._body(request, self.form if form is None else form),
                "alternatives": request.alternatives,
                "repeat": request.repeat,
            }
        )

    def _keys(self, request: JudgeRequest) -> list[str]:
        """Return the keys in the current form and in those before it: an answer in any of them counts."""
        return [self.key(request, self.form[:number]) for number in range(len(self.form), -1, -1)]

    async def _row(self, run: "_Run", request: JudgeRequest) -> dict[str, Any] | None:
        """Return the log's row of the reply, stored before or now, or of the last failure; None once stopped."""
        if run.stop.is_set():
            return None
        for key in self._keys(request):
            if row := self.log.find(key):
                run.counts["stored"] += 1
                return row
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.retries + 1),
            wait=self._wait,
            retry=retry_if_result(lambda attempt: attempt.passing),
            retry_error_callback=_attempt_of,
            sleep=run.pause,
        )
        start = time.monotonic()
        try:
            attempt: _Attempt = await retrying(self._attempt, run, retrying, request)
            self._unanswered = self._unanswered + 1 if attempt.error and attempt.passing else 0
            if self._unanswered == DEAD or attempt.unreached:
                tried = f"tried for {time.monotonic() - start:.0f} s"
                raise UserError(f"{self._who} no longer answers ({tried}: {attempt.error})")
            return attempt.row
        except _Stopped:
            return None
        except UserError as error:
            run.failure = run.failure or error
            run.stop.set()
            return None

    def _wait(self, state: RetryCallState) -> float:
        """Return the seconds before the next attempt: at least what the endpoint asks for, with jitter."""
        asked = _attempt_of(state).wait
        grown = wait_exponential(self.first_wait, max=LONGEST_BACKOFF)(state)
        return (grown if asked is None else asked) + wait_random(0, self.first_wait)(state)

    async def _attempt(self, run: "_Run", retrying: AsyncRetrying, request: JudgeRequest) -> "_Attempt":
        """Make one HTTP request, and another one each time the answer asks for another form."""
        number = retrying.statistics["attempt_number"]
        while True:
            form = self.form
            attempt = await self._once(run, number, request, form)
            if name := self._wanted(request, form, attempt):
                self._adapt(name, attempt)
                continue
            self._weigh(request, attempt)
            if attempt.hopeless:
                raise attempt.hopeless
            self._reached |= attempt.error is None
            run.counts["failed"] += bool(attempt.error and (number > self.retries or not attempt.passing))
            return attempt

    def _wanted(self, request: JudgeRequest, form: Form, attempt: "_Attempt") -> str | None:
        """Return the adaptation that an attempt in a form asks for, if any."""
        body, answer = self._body(request, form), attempt.answer
        if attempt.refusal:
            name = forms.adaptation(form, body, attempt.refusal)
            return name if self.role != "model" or name in SAME_MEANING else None
        if not answer or not request.alternatives or self.max_tokens:
            return None
        said, limit, cut = spoken(answer.text), forms.length_of(body), (answer.finish_reason or "").lower() in CUT
        if limit < forms.THINKING_TOKENS and (said is None or (cut and (answer.thought or not said.strip()))):
            if not answer.first_token or answer.thought or said is None:
                return forms.at_least(forms.THINKING_TOKENS)
        if limit < forms.LETTER_TOKENS and cut and not answer.first_token:
            return forms.at_least(forms.LETTER_TOKENS)
        return None

    def _adapt(self, name: str, attempt: "_Attempt") -> None:
        if name in self.form:  # another request has found it meanwhile
            return
        self.form = self._forms.add(name)
        said = attempt.refusal.sentence if attempt.refusal else "its reply was truncated before a letter"
        print(f"{self.role} {self.name}: {said[:LONGEST_ERROR]} - requests are now adapted: {name}", file=sys.stderr)

    def _weigh(self, request: JudgeRequest, attempt: "_Attempt") -> None:
        """Decide whether a refusal concerns this request only, or all of its shape."""
        shape = _shape(request)
        if attempt.error is None:
            self._answered.add(shape)
        elif attempt.refused and shape not in self._answered and not attempt.hopeless:
            times = self._refused_shapes.get(shape, (0, ""))[0] + 1
            self._refused_shapes[shape] = times, attempt.error
            if times == REFUSALS:
                attempt.hopeless = self._refusing(attempt.error)

    def _refusing(self, error: str) -> UserError:
        form = f", asked with {', '.join(self.form)}" if self.form else ""
        remedy = (
            ": change the requests (--judge-set KEY=VALUE, where null omits a field; --judge-max-tokens N), or "
            "give another judge"
        )
        refusal = f"{self._who} refuses all requests of this form{form} ({error})"
        return UserError(refusal + (remedy if self.role == "judge" else ""))

    async def _once(self, run: "_Run", number: int, request: JudgeRequest, form: Form) -> "_Attempt":
        """Make one HTTP request: reserve, send, store, settle."""
        await self._pace(run)
        body = self._body(request, form)
        most = self.price.most(body["messages"], forms.length_of(body)) if self.price else 0.0
        reservation = await self._reserve(run, most)
        run.counts["calls"] += 1
        run.counts["retries"] += number > 1
        spent = most  # until more is known: a killed or lost call may have been charged
        try:
            start = time.monotonic()
            attempt = await self._send(run.client, body)
            usage, charged = attempt.usage, attempt.charged
            spent = self._cost(usage) if usage else most if charged else 0.0
            date = datetime.now(UTC).isoformat(timespec="seconds")
            reply = self._read(request.id, attempt.answer, date, form) if attempt.answer else None
            row = {
                "key": self.key(request, form),
                "id": request.id,
                "repeat": request.repeat,
                "alternatives": request.alternatives,
                "attempt": number,
                "date": date,
                "seconds": round(time.monotonic() - start, 3),
                "endpoint": self.endpoint,
                "form": form,
                "request": body,
                "status": attempt.status,
                "body": attempt.body[:LONGEST_BODY] if attempt.error else _kept_body(attempt),
                "reply": reply and asdict(reply),
                "kept": reply is not None and (self.keep_cut or not (reply.cut or spoken(reply.text) is None)),
                "error": attempt.error,
                "usage": usage,
                "usd": spent,
            }
            await asyncio.to_thread(self.log.append, [row])  # the disk is slow, and other requests are waiting
        finally:
            self.log.spend.settle(reservation, spent)
            run.cost += spent
        run.tokens.update({"prompt": usage[0], "reply": usage[1]} if usage else {})
        attempt.row = row
        return attempt

    async def _pace(self, run: "_Run") -> None:
        """Wait for this attempt's turn under the rate limit."""
        if self.limits.per_minute:
            now = time.monotonic()
            turn = max(now, self._next_start)
            self._next_start = turn + 60 / self.limits.per_minute
            await run.pause(turn - now)
        if run.stop.is_set():
            raise _Stopped

    async def _reserve(self, run: "_Run", most: float) -> str:
        """Reserve a call under the caps, waiting while calls in flight may still leave room."""
        limits, longest = self.limits, self.timeout + 30
        while not (reservation := self.log.spend.reserve(most, limits.max_calls, limits.max_cost, longest)):
            await run.pause(POLL)
            if run.stop.is_set():
                raise _Stopped
        return reservation

    async def _send(self, client: AsyncOpenAI, body: dict[str, Any]) -> "_Attempt":
        """Send one HTTP request. The key is redacted before truncating: a truncated key would not match."""
        fields = {name: value for name, value in body.items() if name not in ("model", "messages")}
        try:
            async with asyncio.timeout(self.timeout):  # the client's own time-out restarts with each byte
                raw = await client.chat.completions.with_raw_response.create(
                    model=body["model"], messages=body["messages"], extra_body=fields
                )
        except (TimeoutError, APITimeoutError):
            return _Attempt(error=f"APITimeoutError: no reply within {self.timeout:g} s", passing=True)
        except ReplyTooLong as error:
            return _Attempt(error=str(error), refused=True)
        except APIConnectionError as error:
            unreached = type(error.__cause__).__name__ in ("ConnectError", "UnsupportedProtocol")
            attempt = _Attempt(error=self._error(error), passing=True, charged=not unreached, unreached=unreached)
            if unreached and not self._reached:
                attempt.hopeless = JudgeUnreachable(f"{self._who} cannot be reached: is it running?")
            return attempt
        except APIStatusError as error:
            return self._failed(error)
        status, text = raw.status_code, self._public(raw.text)
        answer = read_answer(text)
        attempt = _Attempt(status, text, answer.error, answer.usage, answer=None if answer.error else answer)
        if not answer.error:
            return attempt
        attempt.passing = True
        if answer.refusal:
            self._class(attempt, answer.refusal)
        elif "json" not in raw.headers.get("content-type", ""):
            attempt.error = "the reply is not a chat completion"
            if not self._reached:
                attempt.hopeless = JudgeUnreachable(
                    f"{self.endpoint} is not an OpenAI-compatible endpoint: is /v1 missing?"
                )
        return attempt

    def _failed(self, error: APIStatusError) -> "_Attempt":
        """Return the attempt of a status of 300 and above."""
        status, headers, text = error.status_code, error.response.headers, self._public(error.response.text)
        refusal = read_refusal(status, text)
        said = f"{type(error).__name__}: {refusal.sentence}"[:LONGEST_ERROR]
        attempt = _Attempt(status, text, said, charged=False, wait=wire.retry_after(headers))
        if status < 400:
            place = self._public(wire.writable(headers.get("location", "nowhere")).partition("?")[0])
            attempt.hopeless = JudgeUnreachable(
                f"{self._who} redirects to {place!a:.200}, which is not followed: if that is the endpoint, give it as "
                "--judge-url"
            )
            return attempt
        self._class(attempt, refusal)
        return attempt

    def _class(self, attempt: "_Attempt", refusal: Refusal) -> None:
        """Decide whether an error is temporary, concerns this request, or all."""
        status, said = refusal.status, f"(status {refusal.status}): {refusal.sentence}"[:LONGEST_ERROR]
        attempt.refusal = refusal
        attempt.passing = status in (200, 408, 409, 425, 429) or status >= 500
        attempt.refused = not attempt.passing and not forms.about_content(refusal)
        if wire.no_credit(status, attempt.body):
            attempt.hopeless = UserError(f"the account of {self._who} has no credit left")
        elif attempt.passing and (attempt.wait or 0) > LONGEST_WAIT:
            attempt.hopeless = UserError(f"{self._who} is rate-limiting: retry after {attempt.wait:.0f} s")
        elif status == 401 or (not self._reached and status == 403):
            refused = "refuses the key in" if self._key else "needs a key in"
            attempt.hopeless = JudgeUnreachable(f"{self._who} {refused} {KEY_VARIABLE} {said}")
        elif not self._reached and status == 404:
            attempt.hopeless = JudgeUnreachable(f"{self._who} has no model {self.name!r}, or the URL is wrong {said}")

    def _error(self, error: Exception) -> str:
        return self._public(f"{type(error).__name__}: {error}")[:LONGEST_ERROR]

    def _public(self, text: str) -> str:
        """Return the text without the key, which some servers repeat."""
        return text.replace(self._key, "(key)") if len(self._key) >= SHORTEST_SECRET else text

    def _reply(self, id: str, row: dict[str, Any]) -> JudgeReply:
        """Return the reply that a row of the log holds."""
        if row["reply"]:
            return replace(JudgeReply.from_json(row["reply"]), id=id)
        return JudgeReply(id, "", model=self.name, date=row["date"], error=row["error"])

    def _read(self, id: str, answer: Answer, date: str, form: Form) -> JudgeReply:
        prompt_tokens, completion_tokens = answer.usage or (0, 0)
        return JudgeReply(
            id,
            answer.text,
            first_token=None if answer.thought or spoken(answer.text) != answer.text else answer.first_token,
            model=answer.model or self.name,
            fingerprint=answer.fingerprint,
            date=date,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            finish_reason=answer.finish_reason,
            form=form,
        )

    def _cost(self, usage: tuple[int, int]) -> float:
        return self.price.cost(*usage) if self.price else 0.0

    def _unfinished(self, failure: UserError) -> UserError:
        """Return the error for a stopped run, once all that was in flight is stored."""
        if isinstance(failure, JudgeUnreachable):
            return failure
        stored = f"{failure}; {self.log.stored()} replies are stored in {self.log.folder} ({self.spent()})"
        if isinstance(failure, CapReached):
            return CapReached(f"{stored}: the same command with a higher {failure.option} continues", failure.option)
        return UserError(f"{stored}: the same command continues")

    def _summary(self, run: "_Run", requests: int) -> str:
        counts = run.counts
        form = f" ({', '.join(self.form)})" if self.form else ""
        return (
            f"{self.role} {self.name}{form}: {requests} requests, {counts['stored']} of them stored before; "
            f"{counts['calls']} calls ({counts['retries']} retries, {counts['failed']} failed), "
            f"{run.tokens['prompt']:,} + {run.tokens['reply']:,} tokens{self._dollars(run.cost)}; so far {self.spent()}"
            f"{f' (prices of {self.price.date})' if self.price and self.price.date else ''}"
        )

    def _dollars(self, amount: float) -> str:
        if self.price is None:
            return ", cost not known" if self.base_url is None else ""
        return f", {amount:.4f} USD"


class JudgeUnreachable(UserError):
    """The endpoint cannot be used: no connection, or no permission."""


def _shape(request: JudgeRequest) -> str:
    """Return the digest of all of a request but its text: an endpoint takes or refuses all requests of one shape."""
    roles = [message["role"] for message in request.messages]
    return store.digest([roles, request.temperature, request.max_tokens, request.alternatives])


def _kept_body(attempt: "_Attempt") -> str:
    """Return a body with an answer, without choices that were not asked for, and truncated if it is far too long."""
    text = attempt.body
    if attempt.answer and attempt.answer.choices > 1:
        content = json.loads(text)
        text = json.dumps(content | {"choices": content["choices"][:1], "choices_sent": attempt.answer.choices})
    return text[:LONGEST_KEPT_BODY]


class _Stopped(Exception):
    """Another request has found that none can succeed."""


@dataclass
class _Run:
    """What the requests of one call of `complete` share."""

    client: AsyncOpenAI
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    failure: UserError | None = None
    counts: Counter[str] = field(default_factory=Counter)  # calls, retries, failed, stored
    tokens: Counter[str] = field(default_factory=Counter)  # prompt, reply
    cost: float = 0.0

    async def pause(self, seconds: float) -> None:
        """Sleep until the run stops, at most for these seconds."""
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
        except TimeoutError:
            pass


@dataclass
class _Attempt:
    """The result of one HTTP request.

    answer, or refusal: what the endpoint said. refused: permanently, probably because of the request's form.
    passing: a temporary failure, worth another attempt. charged: the provider may charge for it, even without usage.
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
    answer: Answer | None = None
    refusal: Refusal | None = None
    refused: bool = False
    row: dict[str, Any] = field(default_factory=dict)


def _attempt_of(state: RetryCallState) -> _Attempt:
    """Return the attempt that has just ended."""
    assert state.outcome is not None  # tenacity asks after an attempt
    attempt: _Attempt = state.outcome.result()
    return attempt
