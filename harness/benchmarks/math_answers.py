"""Comparison of answers to MATH problems: never evaluates text as code, and cannot hang.

math-verify's own time limit needs the main thread. Here each comparison that strings cannot decide runs in a worker
process, which is killed and restarted when a comparison takes too long or crashes it.
"""

import logging
import re
import resource
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from harness.benchmarks.rows import Grade
from harness.benchmarks.worker import NoAnswer, Worker

LIMIT = 5.0  # seconds of processor time per comparison
MEMORY = 4 << 30  # bytes of data a worker may hold: expanding a power can fill a machine within the time limit
DELIMITERS = ("$", "\\(", "\\[", "\\boxed")  # an answer with one of these marks its mathematics itself
LONGEST = 2000  # characters at the end of a response that are searched for an answer, besides its last box
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(-?[0-9]+(?:\.[0-9]+)?))")  # TeX boxes a number without braces too
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped one closes nothing
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}|\n")  # two words, or two lines
_UNIT = r" ?[%°]| (?!hundred|thousand|million|billion)[A-Za-z]{3,}|\{[a-z]+\}"
_QUANTITY = re.compile(rf"[-+]?[€£]?(?:\d+(?:[ ,]\d{{3}})*(?:[.,]\d+)?|\.\d+)(?:{_UNIT})?\.?")
_CURRENCY = re.compile(r"(?<!\\)\\\$")  # TeX's dollar sign, which math-verify takes for the end of mathematics
_BARE_PER_CENT = re.compile(r"(?<!\\)%")
_INTEGER = re.compile(r"-?[0-9]{1,15}")  # two of these need no algebra; of decimals math-verify compares six places


def last_boxed(text: str) -> str | None:
    """Return the content of the last \\boxed{} (or \\fbox{}); None if there is none or its braces do not close."""
    box = _last_box(text)
    return box and box[0]


def _last_box(text: str) -> tuple[str | None, int] | None:
    boxes = list(_BOX.finditer(text))
    return box_at(text, boxes[-1].start()) if boxes else None


def box_at(text: str, start: int) -> tuple[str | None, int] | None:
    """Return content and end of the \\boxed{} that begins at `start`; the content is None if its braces do not close.

    Returns None if there is only the name of a box.
    """
    box = _BOX.match(text, start)
    if box is None:
        return None
    if box.group(1):
        return box.group(1), box.end()
    depth = 1
    for brace in _BRACE.finditer(text, box.end()):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[box.end() : brace.start()], brace.end()
    return None, len(text)


def is_unclosed(text: str) -> bool:
    """Whether the last box was opened and never closed, as in a response that was cut off."""
    box = _last_box(text)
    return box is not None and box[0] is None


def bare_answer(answer: str) -> str:
    """Return the answer of a gold text: the content of its last box if it is a whole solution, else the text."""
    boxed = last_boxed(answer)
    return answer if boxed is None else boxed


def strictly_equal(response: str, answer: str) -> bool:
    """Whether the last box of a response is the answer, both normalized as strings."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    boxed = last_boxed(response)
    return boxed is not None and len(boxed) <= LONGEST and is_equiv(_per_cent(boxed), _per_cent(answer))


def _per_cent(text: str) -> str:
    """Escape each per cent sign for TeX, where a bare one begins a comment: no answer has comments."""
    return _BARE_PER_CENT.sub(r"\\%", text)


def whole_equal(response: str, answer: str) -> bool:
    """Whether a response is the answer and nothing else, both normalized as strings."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    return len(response) <= LONGEST and is_equiv(response.strip(), answer)


class Grader:
    """Grades responses. The worker starts with the first comparison that needs it, and ends with the context.

    gave_up: how many comparisons took too long, or too much memory: their verdict is false.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self._worker = Worker(_prepare, limit=limit)
        self.gave_up = 0

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def grade(self, response: str, answer: str) -> Grade:
        """Grade a response; a last box that is never closed is not an answer.

        Returns:
            strict: whether the last box is the answer as a string. math_verify: its verdict. Both 0.0 or 1.0.
            extracted: the content of the last box, None if there is none.
        """
        boxed = last_boxed(response)
        if is_unclosed(response):
            return {"strict": 0.0, "math_verify": 0.0, "extracted": None}
        answer = bare_answer(answer)
        strict = strictly_equal(response, answer)
        if boxed is not None and _INTEGER.fullmatch(boxed) and _INTEGER.fullmatch(answer):
            verified = int(boxed) == int(answer)
        else:
            verified = strict or whole_equal(response, answer) or self.verify(response, answer)
        return {"strict": float(strict), "math_verify": float(verified), "extracted": boxed}

    def verify(self, response: str, answer: str) -> bool:
        """Return math-verify's verdict alone; false if there is none within the limit."""
        return _comparable(response, answer) and self._ask(_verify, _end(response), answer)

    def same_final_answers(self, final: str, answer: str) -> bool:
        """Return the verdict of lm-eval's Minerva task (exact_match) on two normalized answers."""
        return bool(final) and (final == answer or self._ask(_same_final_answers, final, answer))

    def _ask(self, *call: Any) -> bool:
        try:
            return bool(self._worker.call(call))
        except NoAnswer:
            self.gave_up += 1
            return False

    def close(self) -> None:
        """End the worker, if there is one; the next comparison starts another."""
        self._worker.close()


def _prepare() -> Callable[[tuple[Any, ...]], bool]:
    """Return what a worker does: call a function with two texts."""
    logging.disable()  # math-verify warns that its time limit is off
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most), most))
    _verify("\\boxed{\\frac{1}{2}}", "0.5")  # imports sympy and loads the grammar of LaTeX
    warnings.simplefilter("ignore")  # sympy sets its own on import, and warns about odd texts of models
    return _call


def _call(call: tuple[Any, ...]) -> bool:
    return bool(call[0](*call[1:]))


def _verify(response: str, answer: str) -> bool:
    from math_verify import parse, verify

    response, answer = _CURRENCY.sub("", response), _per_cent(_CURRENCY.sub("", answer))
    delimited = any(mark in answer for mark in DELIMITERS)
    gold = parse(answer if delimited else f"${answer}$", parsing_timeout=None)  # in a box it does not read per cents
    spellings = dict.fromkeys((response, _per_cent(response)))  # "28 %" in prose is not TeX, but 50% in a box is
    texts = (text for spelling in spellings for text in _readings(spelling))
    return any(verify(gold, parse(text, parsing_timeout=None), timeout_seconds=None) for text in texts)


def _same_final_answers(final: str, answer: str) -> bool:
    from lm_eval.tasks.minerva_math import utils

    utils.timeout = lambda seconds: nullcontext()  # theirs is by the wall clock; the worker has its own limit
    return bool(utils.is_equiv(final, answer))


def _readings(response: str) -> list[str]:
    """Return the texts that math-verify reads for a response.

    Without delimiters it sees no LaTeX, but takes the last number: 4 in "4x+5". A response that is an answer without
    words is therefore read as if it were in a box; one that is a number may be written as in prose (1000,99, 5 eggs).
    """
    bare = _bare(response)
    if bare is None:
        return [response]
    return [bare, rf"\boxed{{{bare}}}"] if _QUANTITY.fullmatch(bare) else [rf"\boxed{{{bare}}}"]


def _bare(response: str) -> str | None:
    """Return the answer that a response consists of, without Markdown around it; None if it has words or delimiters."""
    bare = response.strip("*#_` \t\r\n")
    return None if any(mark in bare for mark in DELIMITERS) or _PROSE.search(bare) else bare


def _end(response: str) -> str:
    """Return the last LONGEST characters, or more if the last box begins earlier."""
    start = max(0, len(response) - LONGEST)
    box = max(response.rfind("\\boxed"), response.rfind("\\fbox"))
    return response[min(start, box) if box >= 0 else start :]


def _comparable(response: str, answer: str) -> bool:
    """Whether math-verify could find something: a digit, a sign of mathematics, or a part of the answer alone."""
    bare = _bare(response)
    return any(mark.isdigit() or mark in "\\$=" for mark in response) or bool(bare and bare in answer)
