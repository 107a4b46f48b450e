"""Reading what an OpenAI-compatible endpoint answers. All of it is data of others: nothing is taken on trust."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from typing import Any
from urllib.parse import urlsplit

from harness.errors import UserError

URL_VARIABLE, DEFAULT_URL = "OPENAI_BASE_URL", "https://api.openai.com/v1"
NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}  # codes of errors that stay
MOST_TOKENS = 1 << 40  # of a reply; a larger count is none


@dataclass(frozen=True)
class Answer:
    """The first choice of a chat completion.

    error: what is wrong with it. usage: tokens of prompt and reply, where they are told.
    """

    text: str = ""
    first_token: dict[str, float] | None = None
    model: str | None = None
    fingerprint: str | None = None
    usage: tuple[int, int] | None = None
    finish_reason: str | None = None
    error: str | None = None


def read_answer(body: str) -> Answer:
    """The answer in a response's body."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Answer(error=f"the reply is no JSON ({error})")
    if not isinstance(content, dict):
        return Answer(error="the reply is no chat completion")
    usage = _usage(content.get("usage"))
    choice = _first(content.get("choices"))
    message = choice.get("message")
    if not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
        return Answer(usage=usage, error="the reply has no message")
    logprobs = choice.get("logprobs")
    token = _first(logprobs.get("content")) if isinstance(logprobs, dict) else {}
    return Answer(
        writable(message.get("content") or ""),
        _top(token) if token else None,
        _text(content.get("model")),
        _text(content.get("system_fingerprint")),
        usage,
        _text(choice.get("finish_reason")),
    )


def _first(value: Any) -> dict:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}


def _text(value: Any) -> str | None:
    return writable(value) if isinstance(value, str) and value else None


def _top(token: dict) -> dict[str, float]:
    """The alternatives of a token with their log-probabilities; those without a number are none."""
    top = token.get("top_logprobs") if isinstance(token.get("top_logprobs"), list) else []
    pairs = [(each.get("token"), each.get("logprob")) for each in top if isinstance(each, dict)]
    return {
        writable(name): float(logprob)
        for name, logprob in pairs
        if isinstance(name, str) and isinstance(logprob, int | float) and abs(logprob) <= sys.float_info.max
    }


def _usage(usage: Any) -> tuple[int, int] | None:
    counts = [usage.get(f"{kind}_tokens") for kind in ("prompt", "completion")] if isinstance(usage, dict) else [None]
    return tuple(counts) if all(type(count) is int and 0 <= count < MOST_TOKENS for count in counts) else None


def no_credit(status: int, body: str) -> bool:
    """Whether an error says that the account is empty, which no waiting mends."""
    try:
        error = json.loads(body)["error"]
        named = {error["code"]} if "code" in error else set()
        named |= {error["type"]} if "type" in error else set()
    except (ValueError, RecursionError, KeyError, TypeError):
        named = set()
    return status == 402 or bool(named & NO_CREDIT)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: retry-after-ms, or Retry-After in seconds or as a date (RFC 9110)."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < math.inf:
            return seconds
    date = parsedate_tz(headers.get("retry-after", ""))
    try:
        return max(0.0, mktime_tz(date) - time.time()) if date else None
    except (ValueError, OverflowError):
        return None


def writable(text: str) -> str:
    """The text with a mark for each half of a surrogate pair, which JSON can carry and UTF-8 can not."""
    return text.encode("utf-8", "replace").decode()


def endpoint_url(url: str | None) -> str:
    """Where a client is sent that was given this URL, or none: `public_url` of what the client itself falls back on."""
    return public_url(url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)


def public_url(url: str) -> str:
    """An endpoint's URL, which has nothing secret in it: it is written into files and messages.

    Raises:
        UserError: when it has a user, a password, a query or a fragment, or is no URL of a web server.
    """
    if secret := [mark for mark in "@?#" if mark in url]:
        raise UserError(
            f"the URL of an endpoint has {secret[0]!r} in it: a key is read from OPENAI_API_KEY alone, as URLs are "
            "written into files; write it like http://localhost:8000/v1"
        )
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url!r:.200} is no URL of a judge's endpoint: write it like http://localhost:8000/v1")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
