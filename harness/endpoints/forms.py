"""Adapts requests to endpoints: a server's refusal, or its answer, says which change it needs.

A form is a list of adaptations by name, in the order in which they were found. It is stored beside the judge's log, per
endpoint and model, so that a resumed run asks in the same form and finds its replies again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.endpoints.spend import locked
from harness.endpoints.wire import Refusal
from harness.errors import UserError
from harness.files import store

Body = dict[str, Any]
Form = tuple[str, ...]
FILE = "forms.json"
LENGTHS = ("max_tokens", "max_completion_tokens")
LOGPROBS = ("logprobs", "top_logprobs")
LETTER_TOKENS = 16  # for a letter that is read in the text: the reply must be able to end
THINKING_TOKENS = 2048  # for a judge that thinks before it names a letter
MOST_LEAST = 4096  # tokens; no endpoint demands longer replies
_NUMBER = r"(?:a |an |the |value |of |is |be |to |or |equal |than |allowed |at |:|=|>|<|\s){0,12}(\d{1,7})\b"
_LEAST = re.compile(rf"(?:>=?|at least|minimum|greater than|below){_NUMBER}")
_MOST = re.compile(rf"(?:<=?|at most|maximum|less than|larger than|greater than|exceeds?|up to){_NUMBER}")
_SYSTEM = re.compile(
    r"\b(?:system|developer)\W{0,3}(?:role|message|prompt|instruction|turn)|\brole\W{0,3}(?:of )?\W?system\b|'system'|"
    r"roles? must alternate|only user and assistant roles|messages\[\d+\]\.role"
)
_CONTENT = re.compile(
    r"content.{0,30}(?:filter|policy|management)|filtered|moderation|safety|inappropriate|"
    r"context.{0,12}(?:length|window|size)|maximum context|prompt is too long|too many tokens|reduce the length|"
    r"exceeds?.{0,40}context|n_ctx"
)
_CONTENT_CODES = ("content_filter", "content_policy_violation", "context_length_exceeded", "exceed_context_size_error")
_AFTER_SERVER_ERRORS = ("no system role", "no log-probabilities")  # some servers fail (5xx) instead of refusing
_LENGTH_WORDS = re.compile(r"\b(?:max_tokens|max_completion_tokens|max_output_tokens|max_new_tokens)\b")


@dataclass(frozen=True)
class Adaptation:
    """A change of requests. cures: whether the refusal of a body asks for it. apply: makes the changed body."""

    name: str
    cures: Callable[[Body, Refusal], bool]
    apply: Callable[[Body], Body]


def about_content(refusal: Refusal) -> bool:
    """Whether a refusal concerns what one request says (a filter, its length), not the form of all requests."""
    return refusal.status == 413 or refusal.code in _CONTENT_CODES or bool(_CONTENT.search(refusal.text))


def length_of(body: Body) -> int:
    """Return the maximum tokens of the reply that a body asks for."""
    return int(next(body[name] for name in LENGTHS if name in body))


def applied(form: Form, body: Body) -> Body:
    """Return the body in a form.

    Raises:
        UserError: for an unknown adaptation, from a file of another version.
    """
    for name in form:
        body = _known(name).apply(body)
    return body


def adaptation(form: Form, body: Body, refusal: Refusal) -> str | None:
    """Return the name of the adaptation that a refusal of a body asks for, None if no untried one fits."""
    if about_content(refusal) or refusal.status in (401, 402, 429):
        return None
    limits = (_limit(body, refusal, "least"), _limit(body, refusal, "most"))
    for each in (*(_known(name) for name in limits if name), *ADAPTATIONS):
        if refusal.status >= 500 and each.name not in _AFTER_SERVER_ERRORS:
            continue
        if each.name not in form and each.cures(body, refusal):
            return each.name
    return None


def at_least(tokens: int) -> str:
    """Return the name of the adaptation that asks for replies of at least this many tokens."""
    return f"at least {tokens} tokens"


def _known(name: str) -> Adaptation:
    if found := next((each for each in ADAPTATIONS if each.name == name), None):
        return found
    number = re.fullmatch(r"at (least|most) (\d{1,7}) tokens", name)
    if not number:
        raise UserError(f"this version does not know the form {name!r:.60}: delete {FILE} in the judge's log")
    bound, tokens = (max if number.group(1) == "least" else min), int(number.group(2))
    return Adaptation(
        name,
        lambda body, refusal: True,
        lambda body: body | {key: bound(body[key], tokens) for key in LENGTHS if key in body},
    )


def _limit(body: Body, refusal: Refusal, side: str) -> str | None:
    """Return the adaptation to the limit that a refusal names ("least" or "most"), if the body violates it."""
    words = f"{refusal.param or ''} {refusal.text}"
    if not _LENGTH_WORDS.search(words):
        return None
    length = length_of(body)
    for found in (_LEAST if side == "least" else _MOST).finditer(refusal.text):
        tokens = int(found.group(1))
        if side == "least" and length < tokens <= MOST_LEAST:
            return at_least(tokens)
        if side == "most" and 0 < tokens < length:
            return f"at most {tokens} tokens"
    return None


def _names(refusal: Refusal, *fields: str) -> bool:
    """Whether a refusal concerns one of these fields of a request."""
    return refusal.param in fields or any(re.search(rf"(?<!\w){field}(?!\w)", refusal.text) for field in fields)


def _without(body: Body, *fields: str) -> Body:
    return {name: value for name, value in body.items() if name not in fields}


def _folded(body: Body) -> Body:
    """Move the system message's text to the beginning of the first user message."""
    system = [message["content"] for message in body["messages"] if message["role"] == "system"]
    others = [message for message in body["messages"] if message["role"] != "system"]
    if not system or not others:
        return body
    first = others[0] | {"content": "\n\n".join([*system, others[0]["content"]])}
    return body | {"messages": [first, *others[1:]]}


ADAPTATIONS = (
    Adaptation(
        "max_completion_tokens",
        lambda body, refusal: "max_tokens" in body and _names(refusal, "max_tokens"),
        lambda body: (
            _without(body, "max_tokens")
            | ({"max_completion_tokens": body["max_tokens"]} if "max_tokens" in body else {})
        ),
    ),
    Adaptation(
        "no log-probabilities",
        lambda body, refusal: "logprobs" in body and _names(refusal, *LOGPROBS),
        lambda body: _without(body, *LOGPROBS),
    ),
    Adaptation(
        "no temperature",
        lambda body, refusal: "temperature" in body and _names(refusal, "temperature"),
        lambda body: _without(body, "temperature"),
    ),
    Adaptation(
        "no system role",
        lambda body, refusal: (
            any(message["role"] == "system" for message in body["messages"])
            and bool(_SYSTEM.search(f"{refusal.param or ''} {refusal.text}"))
        ),
        _folded,
    ),
)


class Forms:
    """The forms found so far, in the folder of a judge's log, by all processes that share it."""

    def __init__(self, folder: Path, endpoint: str, model: str):
        self._folder, self._file = folder, folder / FILE
        self._name = f"{model} at {endpoint}"

    def read(self) -> Form:
        if not self._file.exists():
            return ()
        return tuple(store.read_json(self._file).get(self._name, ()))

    def add(self, name: str) -> Form:
        """Add an adaptation, and return the form."""
        with locked(self._folder):
            stored = store.read_json(self._file) if self._file.exists() else {}
            form = tuple(dict.fromkeys([*stored.get(self._name, ()), name]))
            store.write_json(self._file, stored | {self._name: list(form)})
        return form
