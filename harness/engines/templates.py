"""Chat templates are programs that come with models: they run in jinja's sandbox, with limited time and memory.

A template may use what transformers gives it (`transformers.utils.chat_template_utils`), except the clock: the date
that it writes is an argument here, so that the same conversation gives the same tokens every day.
"""

import json
import re
import resource
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 2.0  # of processor time; rendering takes a millisecond
MEMORY = 1 << 30  # bytes beyond what the process already has
LONGEST = 1 << 24  # characters of a rendered conversation
_STATM = Path("/proc/self/statm")  # where Linux reports a process's memory, in pages
_GENERATION, _END_GENERATION = (re.compile(rf"(\{{%-?\s*){tag}(\s*-?%\}})") for tag in ("generation", "endgeneration"))
FAILURES = (  # what a foreign program can raise; the sandbox and jinja raise the first
    TemplateError,
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError),
    *(RecursionError, SyntaxError, TypeError, ValueError),
)


@contextmanager
def bounded() -> Iterator[None]:
    """Inside, compiling and rendering a template that takes too much, or fails in any way, raises TemplateError.

    Time is limited on the main thread (where signals are handled), memory if the system has _STATM.
    """
    try:
        with _limited_time(), _limited_memory():
            yield
    except MemoryError:
        raise TemplateError(f"it takes more than {MEMORY >> 30} GiB of memory") from None
    except FAILURES as error:
        raise TemplateError(f"{error}" if isinstance(error, TemplateError) else repr(error)) from error


def checked(text: str) -> str:
    """Return a rendered conversation if it is not absurdly long.

    Raises:
        TemplateError: when it is.
    """
    if len(text) > LONGEST:
        raise TemplateError(f"it writes {len(text):,} characters")
    return text


def writes_date(source: str) -> bool:
    """Whether a template asks for the date or the time."""
    return "strftime_now" in source


class ChatProgram:
    """The template (or templates by name) of a tokenizer, with the special tokens and the date that it may write."""

    def __init__(
        self, sources: str | Mapping[str, str], special_tokens: Mapping[str, str], day: date | None = None
    ) -> None:
        """
        Args:
            sources: one template, or several by transformers' names ("default", "tool_use").
            day: the date that `strftime_now` writes, at midnight; None means today.
        """
        self.sources = {"default": sources} if isinstance(sources, str) else dict(sources)
        self.day = day or date.today()
        self._given = {**special_tokens, "strftime_now": datetime.combine(self.day, time()).strftime}

    @property
    def writes_date(self) -> bool:
        return any(map(writes_date, self.sources.values()))

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """Return the text of a conversation, with the generation prompt if asked for.

        Raises:
            TemplateError: when the template refuses the conversation, fails, or takes too much time or memory.
        """
        source = self.sources.get("tool_use") if tools else None
        source = source or self.sources.get("default")
        if source is None:
            raise TemplateError(f"it has templates named {', '.join(sorted(self.sources))} but none named default")
        given = self._given | dict(variables or {})
        with bounded():
            written = compiled(source).render(
                messages=[_with_reasoning(message) for message in messages],
                tools=tools or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **given,
            )
            return checked(written)


REASONING = ("reasoning_content", "thinking", "reasoning")  # names of a message's thought, the most common first


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with its thought under each name that a template may read, as in transformers."""
    thought = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


@cache
def compiled(source: str) -> Template:
    """Compile a chat template; a {% generation %} block is replaced by its content."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(_END_GENERATION.sub(r"\1endif\2", _GENERATION.sub(r"\1if true\2", source)))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Write JSON without jinja's HTML escapes, and with non-ASCII letters as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(reason: str) -> None:
    raise TemplateError(reason)


@contextmanager
def _limited_time() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS)  # repeated, because an error in a C callback is lost
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise TemplateError(f"it takes more than {SECONDS:g} s")


@contextmanager
def _limited_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = int(_STATM.read_text().split()[0]) * resource.getpagesize() + MEMORY if _STATM.exists() else None
    if most is None or (soft != resource.RLIM_INFINITY and soft <= most):
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
