"""Comparing answers of MATH problems: never evaluates text as code, and can not hang.

math-verify's own time limit needs the main thread; here each comparison that strings can not decide runs in a worker
process that is ended when it takes too long.
"""

import re
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

LIMIT = 5.0  # seconds a comparison
LONGEST = 2000  # characters at the end of a response in which an answer is looked for
_NUMBER = re.compile(r"-?\d{1,15}(\.\d+)?")  # two of these need no algebra


def last_boxed(text: str) -> str | None:
    """Content of the last \\boxed{} (or \\fbox{}) with balanced braces, or None."""
    from lm_eval.tasks.minerva_math.utils import last_boxed_only_string, remove_boxed

    boxed = last_boxed_only_string(text)
    if boxed is None or not boxed.endswith("}"):
        return None
    return remove_boxed(boxed) if boxed.startswith("\\boxed{") else boxed.removeprefix("\\fbox{")[:-1]


def strictly_equal(response: str, answer: str) -> bool:
    """Whether the last box of a response is the answer, both normalized as strings."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    boxed = last_boxed(response)
    return boxed is not None and is_equiv(boxed, answer)


def _verify(response: str, answer: str) -> bool:
    from math_verify import parse, verify

    gold = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
    return verify(gold, parse(response, parsing_timeout=None), timeout_seconds=None)


class Grader:
    """Grades responses; the worker starts with the first comparison that needs it."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def grade(self, response: str, answer: str) -> dict[str, float]:
        """{"strict", "math_verify", "extracted"}, each 0 or 1; extracted says whether there was a boxed answer."""
        boxed = last_boxed(response)
        strict = strictly_equal(response, answer)
        if boxed is not None and _NUMBER.fullmatch(boxed) and _NUMBER.fullmatch(answer):
            verified = float(boxed) == float(answer)
        else:
            verified = strict or (_comparable(response) and self._verified(response, answer))
        return {"strict": float(strict), "math_verify": float(verified), "extracted": float(boxed is not None)}

    def _verified(self, response: str, answer: str) -> bool:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            return self._pool.submit(_verify, response[-LONGEST:], answer).result(LIMIT)
        except (TimeoutError, BrokenProcessPool):
            self._stop()
            return False

    def _stop(self) -> None:
        for process in self._pool._processes.values():
            process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None


def _comparable(text: str) -> bool:
    """Whether math-verify could find something: there must be a digit or a mark of mathematics."""
    return any(mark.isdigit() or mark in "\\$=" for mark in text)
