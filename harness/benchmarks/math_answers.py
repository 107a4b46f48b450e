"""Comparing answers of MATH problems: never evaluates text as code, and can not hang.

math-verify's own time limit needs the main thread; here each comparison that strings can not decide runs in one worker
process, which is ended and started anew when a comparison takes too long or brings it down.
"""

import logging
import re
import signal
from multiprocessing import get_context
from multiprocessing.connection import Connection

from harness.errors import UserError

LIMIT = 5.0  # seconds a comparison
START_LIMIT = 120.0  # seconds until the worker is ready: a busy machine may take long to import sympy
DELIMITERS = ("$", "\\(", "\\[", "\\boxed")  # an answer with one of them says itself what is mathematics
LONGEST = 2000  # characters at the end of a response in which an answer is looked for, its last box apart
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(-?[0-9]+(?:\.[0-9]+)?))")  # TeX boxes a number without braces too
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped one closes nothing
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]+)?")  # two of these need no algebra


def last_boxed(text: str) -> str | None:
    """Content of the last \\boxed{} (or \\fbox{}), or None when there is none or its braces do not close."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    box = boxes[-1]
    if box.group(1):
        return box.group(1)
    depth = 1
    for brace in _BRACE.finditer(text, box.end()):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[box.end() : brace.start()]
    return None


def bare_answer(answer: str) -> str:
    """The answer of a gold text: what its last box holds where it is a whole solution, else the text itself."""
    boxed = last_boxed(answer)
    return answer if boxed is None else boxed


def strictly_equal(response: str, answer: str) -> bool:
    """Whether the last box of a response is the answer, both normalized as strings."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    boxed = last_boxed(response)
    return boxed is not None and is_equiv(boxed, answer)


def _verify(response: str, answer: str) -> bool:
    from math_verify import parse, verify

    delimited = any(mark in answer for mark in DELIMITERS)
    gold = parse(answer if delimited else f"${answer}$", parsing_timeout=None)  # in a box it would not read per cents
    return verify(gold, parse(response, parsing_timeout=None), timeout_seconds=None)


def _work(connection: Connection) -> None:
    """The worker: says once that it is ready, then compares (response, answer) until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    logging.disable()  # math-verify warns that its time limit is off
    _verify("\\boxed{\\frac{1}{2}}", "0.5")  # imports sympy and loads the grammar of LaTeX
    connection.send(True)
    while True:
        try:
            response, answer = connection.recv()
        except EOFError:
            return
        connection.send(_verify(response, answer))


class Grader:
    """Grades responses. The worker starts with the first comparison that needs it; leaving the context ends it."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit
        self._worker = None
        self._connection: Connection | None = None

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_error) -> None:
        self.close()

    def grade(self, response: str, answer: str) -> dict[str, float]:
        """{"strict", "math_verify", "extracted"}, each 0 or 1; extracted says whether there was a boxed answer."""
        boxed = last_boxed(response)
        answer = bare_answer(answer)
        strict = strictly_equal(response, answer)
        if boxed is not None and _NUMBER.fullmatch(boxed) and _NUMBER.fullmatch(answer):
            verified = float(boxed) == float(answer)
        else:
            verified = strict or self.verify(response, answer)
        return {"strict": float(strict), "math_verify": float(verified), "extracted": float(boxed is not None)}

    def verify(self, response: str, answer: str) -> bool:
        """math-verify's verdict alone."""
        return _comparable(response) and self._verified(_end(response), answer)

    def _verified(self, response: str, answer: str) -> bool:
        if self._worker is None:
            self._start()
        try:
            self._connection.send((response, answer))
            if self._connection.poll(self.limit):
                return self._connection.recv()
        except (EOFError, OSError):  # the comparison brought the worker down
            pass
        self.close()
        return False

    def _start(self) -> None:
        context = get_context("spawn")  # a fork of a process with torch's threads can deadlock
        self._connection, theirs = context.Pipe()
        self._worker = context.Process(target=_work, args=(theirs,), daemon=True)
        self._worker.start()
        theirs.close()
        try:
            ready = self._connection.poll(START_LIMIT) and self._connection.recv()
        except EOFError:
            ready = False
        if not ready:
            self.close()
            raise UserError(
                "the process that compares answers did not start: a script that calls harness must do so below "
                "if __name__ == '__main__'"
            )

    def close(self) -> None:
        """End the worker, if there is one; the next comparison starts another."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.join()
            self._worker.close()
            self._connection.close()
            self._worker = self._connection = None


def _end(response: str) -> str:
    """The last LONGEST characters, or more where the last box is farther from the end."""
    start = max(0, len(response) - LONGEST)
    box = max(response.rfind("\\boxed"), response.rfind("\\fbox"))
    return response[min(start, box) if box >= 0 else start :]


def _comparable(text: str) -> bool:
    """Whether math-verify could find something: there must be a digit or a mark of mathematics."""
    return any(mark.isdigit() or mark in "\\$=" for mark in text)
