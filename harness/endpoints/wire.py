"""Reads what an OpenAI-compatible endpoint answers, none of which is trusted."""

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from typing import Any, TypeGuard

from harness.files.urls import public_url

URL_VARIABLE, DEFAULT_URL = "OPENAI_BASE_URL", "https://api.openai.com/v1"
NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}  # waiting does not help
MOST_TOKENS = 1 << 40  # larger counts of a reply are ignored
LONGEST_TEXT = 1 << 20  # characters of a reply
LONGEST_SENTENCE = 600  # characters of what a server says in an error
DEEPEST = 8  # levels of an error's body that are read
SENTENCES = ("message", "msg", "detail", "error", "raw", "metadata", "reason")  # fields where servers say what is wrong
TEXTS = ("text", "output_text")  # types of a content's parts that are text, not thought


@dataclass(frozen=True)
class Refusal:
    """What an endpoint said instead of an answer.

    sentence: its own words, on one line. param: the field of the request that it names, if any.
    code: of the error, as text. text: all of it in lower case, to search for words.
    """

    status: int
    sentence: str
    param: str | None = None
    code: str | None = None
    text: str = ""


@dataclass(frozen=True)
class Answer:
    """The first choice of a chat completion, the only one that is asked for.

    text: the reply. thought: whether a thought precedes it, so that its first token is not the answer's.
    choices: how many the body has. error: what is wrong with the body. refusal: the error in a body of status 200.
    usage: tokens of prompt and reply, if the body has them.
    """

    text: str = ""
    first_token: dict[str, float] | None = None
    model: str | None = None
    fingerprint: str | None = None
    usage: tuple[int, int] | None = None
    finish_reason: str | None = None
    thought: bool = False
    choices: int = 1
    error: str | None = None
    refusal: Refusal | None = None


def read_answer(body: str) -> Answer:
    """Return the answer in a response's body."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Answer(error=f"the reply is not JSON ({error})")
    if not isinstance(content, dict):
        return Answer(error="the reply is not a chat completion")
    usage = _usage(content.get("usage"))
    choice = _first(content.get("choices"))
    if failed := content.get("error") or choice.get("error"):
        refusal = _refusal(200, failed)
        return Answer(usage=usage, error=f"an error in a reply of status 200: {refusal.sentence}", refusal=refusal)
    message = choice.get("message")
    text, thought = _said(message.get("content")) if isinstance(message, dict) else (None, False)
    if text is None:
        return Answer(usage=usage, error="the reply has no message")
    if len(text) > LONGEST_TEXT:
        return Answer(usage=usage, error=f"the reply's text is longer than {LONGEST_TEXT:,} characters")
    reasoning = (choice["message"].get(name) for name in ("reasoning_content", "reasoning"))
    thought |= any(isinstance(each, str) and each != "" for each in reasoning)
    return Answer(
        writable(text),
        _first_token(choice.get("logprobs")),
        _text(content.get("model")),
        _text(content.get("system_fingerprint")),
        usage,
        _text(choice.get("finish_reason")),
        thought,
        len(content["choices"]),
    )


def read_refusal(status: int, body: str) -> Refusal:
    """Read an error's body, in the forms of OpenAI, Azure, vLLM, FastAPI, Ollama, TGI, Gemini and OpenRouter."""
    try:
        return _refusal(status, json.loads(body))
    except (ValueError, RecursionError):
        return _refusal(status, body)


def _refusal(status: int, content: Any) -> Refusal:
    found: dict[str, str | None] = {"param": None, "code": None}
    sentences = list(dict.fromkeys(_sentences(content, found)))
    sentence = " ".join("; ".join(sentences).split()) or f"status {status} without a message"
    if status == 200 and (code := found["code"]) and code.isdecimal() and 400 <= int(code) < 600:
        status = int(code)
    sentence = "".join(letter if letter.isprintable() else " " for letter in sentence)[:LONGEST_SENTENCE]
    return Refusal(status, sentence, found["param"], found["code"], " ".join(sentences).lower())


def _sentences(content: Any, found: dict[str, str | None], depth: int = 0) -> Iterator[str]:
    """Yield the texts in an error that say what is wrong, outermost first; `found` gets the first param and code."""
    if depth == DEEPEST:
        return
    if isinstance(content, str):
        inner = None
        if content.lstrip().startswith(("{", "[")):
            with suppress(ValueError, RecursionError):
                inner = json.loads(content)
        if isinstance(inner, dict | list):
            yield from _sentences(inner, found, depth + 1)
        elif content.strip():
            yield writable(content.strip())
    elif isinstance(content, list):
        for each in content[:DEEPEST]:
            yield from _sentences(each, found, depth + 1)
    elif isinstance(content, dict):
        place = content.get("loc")  # pydantic's, such as ["body", "max_tokens"]
        if isinstance(place, list) and place and isinstance(place[-1], str):
            found["param"] = found["param"] or place[-1]
            yield writable(place[-1])
        if isinstance(content.get("param"), str):
            found["param"] = found["param"] or content["param"]
        for name in ("code", "type", "error_type", "status"):
            if isinstance(content.get(name), str | int) and not found["code"]:
                found["code"] = str(content[name])
        for name in SENTENCES:
            yield from _sentences(content.get(name), found, depth + 1)


def _said(content: Any) -> tuple[str | None, bool]:
    """Return the text of a message's content (None if it has another form), and whether it holds a thought.

    The content is a text, null, or a list of parts; parts that are thoughts are left out of the text.
    """
    if not isinstance(content, list):
        return (content or "", False) if isinstance(content, str | None) else (None, False)
    said, thought = [], False
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            return None, False
        if kind in TEXTS and isinstance(part.get("text"), str):
            said.append(part["text"])
        thought |= kind not in ("refusal", *TEXTS)
    return "".join(said), thought


def _first_token(logprobs: Any) -> dict[str, float] | None:
    """Return alternatives of the first token with their log-probabilities, None if there are none for any token."""
    if not isinstance(logprobs, dict):
        return None
    if token := _first(logprobs.get("content")):
        return _top(token)
    legacy = _first(logprobs.get("top_logprobs"))  # of completions: one mapping per token
    return _numbers(legacy.items()) if legacy else None


def _first(value: Any) -> dict[str, Any]:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}


def _text(value: Any) -> str | None:
    return writable(value) if isinstance(value, str) and value else None


def _top(token: dict[str, Any]) -> dict[str, float]:
    """Return the alternatives of a token with their log-probabilities, without those that lack a number."""
    top = token.get("top_logprobs")
    alternatives = top if isinstance(top, list) else []
    return _numbers((each.get("token"), each.get("logprob")) for each in alternatives if isinstance(each, dict))


def _numbers(pairs: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    return {
        writable(name): float(logprob)
        for name, logprob in pairs
        if isinstance(name, str) and isinstance(logprob, int | float) and abs(logprob) <= sys.float_info.max
    }


def _usage(usage: Any) -> tuple[int, int] | None:
    counts = usage if isinstance(usage, dict) else {}
    prompt, reply = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if _is_count(prompt) and _is_count(reply):
        return prompt, reply
    return None


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < MOST_TOKENS


def no_credit(status: int, body: str) -> bool:
    """Whether an error says that the account is empty, which waiting does not help."""
    try:
        error = json.loads(body)["error"]
        named = {error["code"]} if "code" in error else set()
        named |= {error["type"]} if "type" in error else set()
    except (ValueError, RecursionError, KeyError, TypeError):
        named = set()
    return status == 402 or bool(named & NO_CREDIT)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait: retry-after-ms, or Retry-After (RFC 9110)."""
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
    """Replace each half of a surrogate pair, which JSON can carry and UTF-8 cannot, by a mark."""
    return text.encode("utf-8", "replace").decode()


def endpoint_url(url: str | None) -> str:
    """Return the URL that a client given this URL, or None, sends its requests to."""
    return public_url(url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)
