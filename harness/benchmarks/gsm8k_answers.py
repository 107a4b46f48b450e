"""Final numbers of GSM8K answers: found in the text, compared as numbers.

`strict` reads the answer that the response marks as its last: "#### n" (the data set's own form, and the only one of
lm-eval's filter strict-match), \\boxed{n}, "answer is n" or "A: n" at the start of a line. Where nothing is marked it
is the last number that a program printed in the response, or else the last number of all, as lm-eval's filter
flexible-extract reads it.
"""

import re
from decimal import Decimal, InvalidOperation

from harness.benchmarks.math_answers import last_boxed

_NUMBER = r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_FINDS = re.compile(rf"(?<![\w.])\$?({_NUMBER})|(-?)\$({_NUMBER})")
_MARKS = re.compile(r"####|\\(?:boxed|fbox)\b|\banswer is\b:?|^[^\S\n]*A:", re.IGNORECASE | re.MULTILINE)
_PRINTED = re.compile(r"^```output[^\S\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CLAUSE_END = re.compile(r"[,.;](?=\s|$)")
_SPACES = re.compile(r"\\[!,;: ]|[{}]|\\text\w*|\\%|\\mathrm|\\left|\\right")


def final_number(response: str) -> Decimal | None:
    """The number that a response gives as its answer, or None when it has no number."""
    marks = list(_MARKS.finditer(response))
    if marks:
        mark = marks[-1]
        boxed = last_boxed(response[mark.start() :]) if mark.group().startswith("\\") else None
        line = boxed if boxed is not None else response[mark.end() :].partition("\n")[0]
        if (number := _first(line)) is not None:
            return number
    printed = _PRINTED.findall(response)
    numbers = (_numbers(printed[-1]) if printed else []) or _numbers(response)
    return numbers[-1] if numbers else None


def shown(number: Decimal) -> str:
    """The number without exponent or trailing zeros: 18 for 18.00."""
    return f"{number.normalize():f}"


def gold_number(answer: str | int | float) -> Decimal | None:
    """The number of a gold answer: a number, its text, or a solution that marks it; None for anything else."""
    text = str(answer)
    numbers = _numbers(text.rpartition("####")[2])
    if len(numbers) == 1 or (numbers and "####" in text):
        return numbers[0]
    return final_number(text) if _MARKS.search(text) else None


def _first(text: str) -> Decimal | None:
    """The first number of a line, but the result where it begins with an equation: 8 of "5 + 3 = 8, as we saw"."""
    text = _SPACES.sub("", text).replace("\\$", "$")
    numbers = _numbers(_CLAUSE_END.split(text)[0].rpartition("=")[2]) or _numbers(text)
    return numbers[0] if numbers else None


def _numbers(text: str) -> list[Decimal]:
    found = []
    for plain, sign, priced in _FINDS.findall(text.replace("\N{MINUS SIGN}", "-")):
        try:
            found.append(Decimal((plain or sign + priced).replace(",", "")))
        except InvalidOperation:
            continue
    return found
