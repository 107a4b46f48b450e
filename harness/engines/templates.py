"""Chat templates are programs that come with models: they run in jinja's sandbox, with little time and memory.

What a template may use is what transformers gives it (`transformers.utils.chat_template_utils`), but for the clock: the
date that a template writes is an argument here, so that the same conversation gives the same tokens on every day.
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

SECONDS = 2.0  # of the processor; rendering takes a thousandth of one
MEMORY = 1 << 30  # bytes beyond what the process has
LONGEST = 1 << 24  # characters of a rendered conversation
_STATM = Path("/proc/self/statm")  # where Linux tells how much memory a process has, in pages
_GENERATION, _END_GENERATION = (re.compile(rf"(\{{%-?\s*){tag}(\s*-?%\}})") for tag in ("generation", "endgeneration"))
FAILURES = (  # what a program of others can raise; the sandbox and jinja raise the first
    TemplateError,
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError),
    *(RecursionError, SyntaxError, TypeError, ValueError),
)


@contextmanager
def bounded() -> Iterator[None]:
    """Compile and render a template inside: what takes too much, or fails in any way, ends with a TemplateError.

    Time is limited on the main thread (where signals are handled), memory where the system has _STATM.
    """
    try:
        with _limited_time(), _limited_memory():
            yield
    except MemoryError:
        raise TemplateError(f"it takes more than {MEMORY >> 30} GiB of memory") from None
    except FAILURES as error:
        raise TemplateError(f"{error}" if isinstance(error, TemplateError) else repr(error)) from error


def checked(text: str) -> str:
    """A rendered conversation, when it is not absurdly long.

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

    def __init__(self, sources: str | Mapping[str, str], special_tokens: Mapping[str, str], day: date | None = None):
        """
        Args:
            sources: one template, or some by the names that transformers gives them ("default", "tool_use").
            day: what `strftime_now` tells, at midnight; None is today.
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
        """The text of a conversation, with what makes the model answer behind it where that is asked for.

        Raises:
            TemplateError: when the template refuses the conversation, fails, or takes too much time or memory.
        """
        source = self.sources.get("tool_use") if tools else None
        source = source or self.sources.get("default")
        if source is None:
            raise TemplateError(f"it has templates named {', '.join(sorted(self.sources))} and none named default")
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


REASONING = ("reasoning_content", "thinking", "reasoning")  # names of a message's thought, the usual one first


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose thought stands under each name that a template may read, as transformers has it."""
    thought = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


@cache
def compiled(source: str) -> Template:
    """A chat template as a program; a block of {% generation %} is its content."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(_END_GENERATION.sub(r"\1endif\2", _GENERATION.sub(r"\1if true\2", source)))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Unlike jinja's own filter: no escapes for HTML, and letters stay as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(reason: str) -> None:
    raise TemplateError(reason)


@contextmanager
def _limited_time() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS)  # again, as an error in a callback of C is lost
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
