"""Final numbers of GSM8K answers: found in the text, read as whole quantities, compared as numbers.

`strict` reads the last answer that the response marks: "#### n" (the data set's own form, and the only one that
lm-eval's filter strict-match reads), \\boxed{n}, "answer is n", "Answer: n" or "A: n" at the start of a line; the
number may be on the line below its mark. A mark with an ambiguous quantity ("3 or 4", "5-7") gives no answer. A mark
without a number ("#### Step 2", "the answer is in step 3") does not count. If nothing is marked, the answer is the last
quantity that a program printed in the response, or else the last of all. Text after an invented next question is
ignored.
"""

import re
from fractions import Fraction
from itertools import islice

from harness.benchmarks.math_answers import box_at
from harness.benchmarks.quantities import Stated, last_quantity, plain, stated

_MARKS = re.compile(
    r"(?P<hashes>(?<!#)####(?!#))|(?P<box>\\(?:boxed|fbox)(?![A-Za-z]))"
    r"|(?P<says>\banswers?\b[*_ ]*(?:is|are|would be|will be|equals|=)(?![A-Za-z])[*_]*[:\uff1a]?)"
    r"|(?P<weak>\banswer\b[*_]*[^\S\n]*[:\uff1a][*_]*|^[^\S\n]*[*_]*A[*_]*:[*_]*)",
    re.IGNORECASE | re.MULTILINE,
)
_CODE = re.compile(r"^```(?!output)[^\n]*\n.*?^```", re.MULTILINE | re.DOTALL)
_PRINTED = re.compile(r"^```output[^\S\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HASHES = re.compile(r"(?<!#)####(?!#)")
_QUOTES = "\"'`“‘«"
_EMPTY = re.compile(r"[\s*_#:$`\\\[\](){}>|=.-]*")  # rest of a marked line whose number is on the next
_BELOW = re.compile(r"[\s*_>$]*(?:\\\[|\\begin\{[a-z*]+\}|```[a-z]*)?[\s*_>$]*")
_ENUMERATED = re.compile(r"[^\S\n]*[*_(]*\d{1,2}(?:[.):]|[^\S\n]+[-–—])[*_]*[^\S\n]+[*_]*[^\W\d_]")
_TITLE = re.compile(r"[^\S\n]*[*_]*\d{1,2}[^\S\n]+[A-Z]")
_BARE_ANSWER = re.compile(r"[^\S\n]*[*_]*(?:the )?(?:final )?answer[*_]*[:.]?[*_]*[^\S\n]*$", re.IGNORECASE)
_HAS_EQUATION = re.compile(r"=\s*[-$€£\\]*\s*\.?\d")
_NUMBER_START = re.compile(r"(?<![\w.,])[-$€£¥₹\\.]{0,4}\d")
_QUESTION = re.compile(
    r"^[#>*_ \t]*(?:(?:next |new |another )?(?:question|problem|q)\b(?P<number>[^\S\n]*#?\d+)?"
    r"|user|human|instruction)[*_]*[^\S\n]*[:.][*_]*(?=\s*\S)",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"[.;!?](?=[\s\"'”’)*]|$)|\n")
MOST_MARKS, MOST_MARKS_BEFORE_A_QUESTION = 100, 10  # most marks that are read
LONGEST_END = 20_000  # characters at the end of a response that are searched for an unmarked answer
_STEPS_NEXT = re.compile(r"\b(?:steps?|parts?|ways?)\b|:\s*$", re.IGNORECASE)


_BOX_BEFORE = re.compile(  # the end of another box, and what joins the two
    r"\}[\s$)\\\]]*(?:,|\b(?:and|or|to|through)\b|\\text\s*\{\s*(?:and|or|to)\s*\})[\s$,;(\\\[]*\Z"
)
_BOX_WRAPPERS = re.compile(r"^(?:\s*[$)\]*])+")  # what may close around a box
_GOES_ON = re.compile(r"\s*[-+*/^:×÷–]\s*[-+$(]*\.?\d|\s*[\^!_\ue000(]\s*\d")


def final_number(response: str) -> Fraction | None:
    """Return the number that a response gives as its answer; None if there is none, or more than one reading."""
    response = up_to_next_question(response)
    for mark in reversed(_marks(response)[-MOST_MARKS:]):
        marked = _marked(response, mark)
        if marked is not None:
            return marked.value
    printed = _PRINTED.findall(response)
    return (_last(printed[-1]) if printed and _NUMBER_START.search(printed[-1]) else None) or _last(response)


def up_to_next_question(response: str) -> str:
    """Return the response without a next question that the model asked itself after its answer, and what follows.

    A question that is restated before any answer is part of the answer.
    """
    heads = list(islice(_QUESTION.finditer(response), MOST_MARKS))
    marks = _marks(response) if heads else []
    for head in heads:
        before = response[: head.start()]
        last = [mark for mark in marks if mark.end() <= len(before)][-MOST_MARKS_BEFORE_A_QUESTION:]
        said = [mark for mark in last if _marked(before, mark)]
        numbered = heads[0].group("number") and head.group("number")  # the parts of one question
        if any(mark.lastgroup == "hashes" for mark in said) or ((said or _concludes(before)) and not numbered):
            return before
    return response


def shown(number: Fraction) -> str:
    """Format a number in decimals without trailing zeros (18 for 18.00), or as a fraction if they do not terminate."""
    below, twos, fives = number.denominator, 0, 0
    while below % 2 == 0:
        below, twos = below // 2, twos + 1
    while below % 5 == 0:
        below, fives = below // 5, fives + 1
    if below != 1:
        return f"{number.numerator}/{number.denominator}"
    places = max(twos, fives)
    digits = f"{abs(number) * 10**places}".rjust(places + 1, "0")
    text = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return f"-{text}" if number < 0 else text


def gold_number(answer: str | int | float) -> Fraction | None:
    """Return the number of a gold answer: a number, its text, or a solution that marks it; None for anything else."""
    text = str(answer).strip()
    if "####" in text:
        found = stated(text.rpartition("####")[2].strip())
    elif _MARKS.search(text):
        return final_number(text)
    else:
        found = None if "\n" in text else stated(text, whole=True)
    return None if found is None or found.sentence else found.value


def _marks(response: str) -> list[re.Match[str]]:
    """Return what could mark an answer, outside of quotes and programs."""
    programs = [found.span() for found in _CODE.finditer(response)]
    return [
        mark
        for mark in _MARKS.finditer(response)
        if response[max(0, mark.start() - 1) : mark.start()] not in tuple(_QUOTES)
        and not any(start <= mark.start() < end for start, end in programs)
    ]


def _marked(response: str, mark: re.Match[str]) -> Stated | None:
    """Return what a mark marks: a value, a `Stated` without one if it is unreadable, or None if it marks nothing."""
    if mark.lastgroup == "box":
        return _boxed(response, mark)
    line, _, below = response[mark.end() :].partition("\n")
    if _EMPTY.fullmatch(line) or (mark.lastgroup == "hashes" and _BARE_ANSWER.match(line)):
        return _below(below)
    if mark.lastgroup == "hashes" and _is_heading(response, mark, line, below):
        return None
    found = stated(line)
    if found is None:
        return None
    if mark.lastgroup == "hashes" and found.sentence:
        return None
    later = response[mark.end() + len(line.partition(". ")[0]) :]
    if mark.lastgroup == "weak" and (found.sentence or found.equation) and _HAS_EQUATION.search(later):
        return None  # the solution begins here
    if found.value is None and (mark.lastgroup == "says" and re.match(r"[^.\n]*\d[^.\n\d]*\?", line)):
        return None  # asked, not said
    return found


def _below(text: str) -> Stated | None:
    """Return the number that the next non-empty line begins with."""
    if start := _BELOW.match(text):
        text = text[start.end() :]
    line = text.partition("\n")[0]
    if line.startswith(("- ", "-\t", "\\boxed", "\\fbox")) or _ENUMERATED.match(line):
        return None  # the first of a list, or another mark
    found = stated(line)
    return None if found is None or found.sentence else found


def _is_heading(response: str, mark: re.Match[str], line: str, below: str) -> bool:
    """Whether "#### 1. Eggs left" is the title of a section: text follows, or another title precedes it."""
    followed = bool(re.search(r"\w", below))
    if _ENUMERATED.match(line):
        return followed or any(
            _ENUMERATED.match(response, other.end()) for other in _HASHES.finditer(response, 0, mark.start())
        )
    return bool(_TITLE.match(line)) and followed and below[:1] != "\n"


def _boxed(response: str, mark: re.Match[str]) -> Stated | None:
    box = box_at(response, mark.start())
    if box is None:
        return None
    content, end = box
    if content is None or not content.strip():
        return Stated(None)  # cut off, or empty
    before = plain(response[max(0, mark.start() - 12) : mark.start()].rpartition("\n")[2]).rstrip(" $(")
    if re.search(r"(?:(?<![\w)])-|[\d+*/^×÷√±<>≤≥])$", before):
        return Stated(None)  # a part of something larger
    if _BOX_BEFORE.search(response, max(0, mark.start() - 40), mark.start()):
        return Stated(None)  # one of two answers
    found = stated(content, whole=True)
    if found is None or found.value is None:
        return Stated(None)
    after = _BOX_WRAPPERS.sub(" ", plain(response[end:].partition("\n")[0]))
    if _GOES_ON.match(after):
        return Stated(None)
    unit = re.match(r"[^.,;0-9]*", after)
    together = stated(f"1{unit.group() if unit else ''}")
    if together is None or together.value is None:
        return Stated(None)
    return Stated(found.value * together.value, found.sentence, found.equation)


def _concludes(text: str) -> bool:
    """Whether a text that a question follows has reached a result without marking it."""
    if _HAS_EQUATION.search(text):
        return True
    last = text.rstrip().rpartition("\n")[2]
    return bool(_NUMBER_START.search(last)) and not _STEPS_NEXT.search(last)


def _last(text: str) -> Fraction | None:
    """Return the last quantity of a text; None if it is ambiguous."""
    text = text[-LONGEST_END:]
    numbers = list(_NUMBER_START.finditer(text))
    if not numbers:
        return None
    starts = [found.end() for found in _SENTENCE_END.finditer(text, 0, numbers[-1].start())]
    return last_quantity(text[starts[-1] if starts else 0 :])
