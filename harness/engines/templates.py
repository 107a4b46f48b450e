"""Chat templates are programs that come with models: they run in jinja's sandbox, with little time and memory."""

import json
import re
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from types import FrameType

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


@cache
def compiled(source: str) -> Template:
    """A chat template without transformers, which takes seconds to import: for counting tokens, not for models.

    What it may use is as in transformers; a block of {% generation %} is its content.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = json.dumps
    environment.globals |= {"raise_exception": _refuse, "strftime_now": datetime.now().strftime}
    return environment.from_string(_END_GENERATION.sub(r"\1endif\2", _GENERATION.sub(r"\1if true\2", source)))


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
