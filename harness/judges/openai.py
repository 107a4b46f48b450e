"""A judge behind an OpenAI-compatible endpoint, through the official client."""

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime

from openai import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AsyncOpenAI,
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
)
from openai.types.chat import ChatCompletion

from harness.engines.base import Advance
from harness.errors import UserError
from harness.judges.base import JudgeReply, JudgeRequest

KEY_VARIABLE = "OPENAI_API_KEY"
CONCURRENT = 8
TIMEOUT = 120.0  # seconds a request
LONGEST_ERROR = 500  # characters of an error that are stored
TOP_LOGPROBS = 5
RETRIES = 6  # of the client, with exponential backoff that honours Retry-After


class OpenAIJudge:
    """Asks a chat model; the key comes from the environment and is stored nowhere."""

    def __init__(
        self, model: str, base_url: str | None = None, concurrent: int = CONCURRENT, retries: int = RETRIES
    ) -> None:
        """
        Raises:
            UserError: when there is no key for an endpoint that is not ours.
        """
        self.name = model
        self.base_url = base_url
        self.concurrent, self.retries = concurrent, retries
        self._reached = False  # a request was answered: what fails from then on fails alone
        self._key = os.environ.get(KEY_VARIABLE)
        if not self._key and base_url is None:
            raise UserError(f"the judge {model!r} needs a key in {KEY_VARIABLE}, or another endpoint (--judge-url)")

    def complete(self, requests: Sequence[JudgeRequest], advance: Advance | None = None) -> list[JudgeReply]:
        return asyncio.run(self._complete(requests, advance))

    async def _complete(self, requests: Sequence[JudgeRequest], advance: Advance | None) -> list[JudgeReply]:
        free = asyncio.Semaphore(self.concurrent)
        async with AsyncOpenAI(
            api_key=self._key or "none", base_url=self.base_url, timeout=TIMEOUT, max_retries=self.retries
        ) as client:

            async def ask(request: JudgeRequest) -> JudgeReply:
                async with free:
                    reply = await self._ask(client, request)
                if advance:
                    advance(1)
                return reply

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(ask(request)) for request in requests]
            except ExceptionGroup as errors:  # the first ends all; the caller is to see it, not the group
                raise errors.exceptions[0] from None
            return [task.result() for task in tasks]

    async def _ask(self, client: AsyncOpenAI, request: JudgeRequest) -> JudgeReply:
        wanted = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if request.alternatives else {}
        try:
            answer = await client.chat.completions.create(
                model=self.name,
                messages=list(request.messages),
                temperature=request.temperature,
                max_tokens=request.max_tokens,
                **wanted,
            )
        except (APIError, ValueError) as error:  # ValueError: a body that is not JSON
            if not self._reached and (reason := self._unusable(error)):
                raise JudgeUnreachable(f"the judge at {client.base_url} {reason}") from None
            return self._failed(request, error)
        if not isinstance(answer, ChatCompletion):
            if self._reached:
                return self._failed(request, "the reply is no chat completion")
            raise JudgeUnreachable(f"what is at {client.base_url} is no OpenAI-compatible endpoint: does /v1 lack?")
        if not answer.choices or not answer.choices[0].message:
            return self._failed(request, "the reply has no message")
        self._reached = True
        choice = answer.choices[0]
        first = choice.logprobs.content[0] if choice.logprobs and choice.logprobs.content else None
        return JudgeReply(
            request.id,
            choice.message.content or "",
            first_token={each.token: each.logprob for each in first.top_logprobs or ()} if first else None,
            model=answer.model or self.name,
            fingerprint=answer.system_fingerprint,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
            completion_tokens=answer.usage.completion_tokens if answer.usage else 0,
        )

    def _unusable(self, error: Exception) -> str | None:
        """Why no request can succeed, where the error of the first one says so."""
        match error:
            case APITimeoutError():  # a connection error to the client; the judge is there, but slow
                return None
            case APIConnectionError():
                return "can not be reached: is it running?"
            case AuthenticationError() | PermissionDeniedError():
                return f"refuses the key in {KEY_VARIABLE} (status {error.status_code})"
            case NotFoundError():
                return f"has no model {self.name!r}, or the URL is wrong (status 404)"
        return None

    def _failed(self, request: JudgeRequest, error: Exception | str) -> JudgeReply:
        """A reply without an answer. What the server says of the error is stored, but not a key that it repeats."""
        reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        if self._key:
            reason = reason.replace(self._key, "(key)")
        return JudgeReply(request.id, "", model=self.name, error=reason[:LONGEST_ERROR])


class JudgeUnreachable(UserError):
    """Nothing can be judged: no connection, or no permission."""
