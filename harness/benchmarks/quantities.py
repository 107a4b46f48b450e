"""The quantity that a phrase states, such as "\\$18 a day" or "\\frac{84}{2}": read completely, or not at all.

Model output is parsed, never evaluated. An ambiguous phrase (a range, a ratio, a time, "18 or 20", "1,5") has no value
here: a wrong answer must not become right because half of it was read.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 500  # characters per phrase
MOST_DIGITS = 60  # per number
DEEPEST = 20  # nested brackets
LARGEST_POWER = 64

_FRACTION = "\ue000"  # precedes the brackets of what was written as a fraction
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_LATEX = (
    (re.compile(r"\\(?:left|right|displaystyle|big|Big|!)(?![A-Za-z])|\\!"), ""),
    (re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), _FRACTION + r"(\1/\2)"),
    (re.compile(r"\\[dtc]?frac\s*([0-9])\s*([0-9])"), _FRACTION + r"(\1/\2)"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,;: ~]|\\(?:quad|qquad|enspace|thinspace)(?![A-Za-z])"), " "),
    (re.compile(r"\^?\s*\{?\\(?:circ|degree)\}?"), "°"),
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])|[×∗·⋅]"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|[÷⁄∕]"), "/"),
    (re.compile(r"\\approx(?![A-Za-z])|\\simeq(?![A-Za-z])"), "≈"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\\$"), "$"),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"(?<=\d)\*\*(?=\d)"), "^"),
    (re.compile(r"\*\*|__|`"), " "),
    (re.compile("[\N{MINUS SIGN}\N{SMALL HYPHEN-MINUS}\N{FULLWIDTH HYPHEN-MINUS}]"), "-"),
)
_GROUP = "[ '\N{RIGHT SINGLE QUOTATION MARK}_]"
_NUMBER = re.compile(
    rf"(?:\d{{1,3}}(?:,\d{{3}})+|\d{{1,2}}(?:,\d{{2}})+,\d{{3}}|\d{{1,3}}(?:{_GROUP}\d{{3}})+)(?:\.\d+)?(?!\d)"
    r"|\d{1,3}(?:\.\d{3}){2,}(?:,\d{1,2})?(?![\d.,]*\d)|\d{1,3}\.\d{3},\d{2}(?![\d.,]*\d)"
    r"|\d+(?:\.\d+)?|\.\d+"
)
_RUNS_ON = re.compile(r"[.,'_]?\d")  # after a number: its form is unknown
_EXPONENT = re.compile(r"[eE]([+-]?\d{1,3})(?![\w.])")
_MIXED = re.compile(rf"(?:\s+(\d{{1,3}})\s*/\s*(\d{{1,3}})|\s*{_FRACTION}\((\d{{1,3}})/(\d{{1,3}})\))(?![\d.,]*\d)")
_THOUSANDTHS = re.compile(r"[1-9]\d{0,2}\.000")  # 70.000: seventy, or seventy thousand
_MULTIPLIED = re.compile(r"\s*[xX]\s*(?=[\d($])")
_SPACE = re.compile(r"[\s$€£¥₹]*")
_CURRENCY = re.compile(r"(?:US|USD|EUR|GBP|INR|Rs\.?)\s*(?=[\d$-])")
_CLAUSE_END = re.compile(
    r"[,.;!?](?=[\s\"'”’)*]|$)|\n| (?=because\b|since\b|as\b|which\b|where\b|if\b|when\b)|\s[—–]\s"
)
_EQUALS = re.compile(r"=+|≈|\\(?:equiv|implies|Rightarrow)|⇒|→")
_ANOTHER = re.compile(r"[,;]\s*(?:(?:and|or)\s+)?-?\$?\.?\d|[,;]?\s*or\b")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", re.UNICODE)
_DIGIT = re.compile(r"\d")

SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_CHANGED = {  # words after a number that change its value
    *("hundreds", "thousands", "millions", "billions", "trillions", "lakh", "lakhs", "crore", "crores"),
    *("half", "halves", "third", "thirds", "fourths", "fifth", "fifths", "sixth", "sixths", "sevenths", "eighth"),
    *("eighths", "ninths", "tenth", "tenths", "hundredths", "thousandths", "squared", "cubed", "point", "remainder"),
    *("rem", "or", "plus", "minus", "divided", "multiplied", "base", "mod", "modulo", "vs", "versus"),
    *("mil", "mn", "bn", "tn", "mm.", "k", "thru", "through"),
}
_JOINS = ("to", "and", "over", "times", "by", "out", "until", "till", "of", "&")  # followed by another number
_LETTERS = set("agmlhsAGMLHSCFW")  # one-letter units and articles; other letters are variables, such as "k"
_BEFORE_FURTHER = {  # what may stand before a further number: "42 apples over 3 days"
    *("over", "in", "for", "per", "on", "after", "within", "during", "from", "at", "with", "every", "each", "the"),
    *("of", "day", "week", "month", "year", "next", "first", "last", "all", "his", "her", "their", "its", "those"),
    *("these", "into", "between", "among", "across", "by", "than", "age", "grade", "number"),
}
_UNITS_OF_UNITS = re.compile(r"(?:below|under) (?:zero|0|freezing)|in debt|overdrawn|\bnegative\b|in the red")
_OTHER = {  # words before a number that change what is stated
    *("not", "never", "no", "nor", "isn't", "wasn't", "less", "fewer", "greater", "more", "least", "most", "under"),
    *("over", "below", "above", "between", "beyond", "exceeds", "than", "up", "twice", "thrice", "double", "triple"),
    *("half", "quarter", "third", "either", "neither", "unless", "or", "maybe", "perhaps", "possibly", "cannot"),
    *("unknown", "undefined", "none", "impossible", "square", "root", "cube", "log", "plus", "without", "except"),
    *("from", "wrong", "incorrect", "sqrt", "one", "two", "three", "four", "five", "hundred", "thousand", "can't"),
}
_LABELS = {
    *("step", "steps", "part", "line", "option", "choice", "case", "equation", "page", "section", "paragraph", "day"),
    *("problem", "question", "example", "table", "figure", "chapter", "method", "approach", "rule", "answer", "no"),
    *("item", "exercise", "task", "phase", "stage", "point", "week", "round", "number", "version"),
}
_ARTICLES = {"the", "a", "an", "of", "is", "in", "there", "are"}
SMALL_LEADS = {  # words that may come between a mark and its number without making a sentence
    *("the", "final", "answer", "is", "a", "an", "total", "of", "about", "approximately", "approx", "around"),
    *("roughly", "exactly", "only", "just", "simply", "therefore", "thus", "so", "hence", "that", "equal", "equals"),
    *("to", "be", "result", "value", "are", "usd", "rs", "sum", "in", "it", "minus", "negative", "clearly", "indeed"),
    *("now", "correct", "my", "our", "will", "would"),
}
_BAD_LEAD = re.compile(r"[+*/^<>≤≥±√∓∼!|\\_#%@&\d\ue000]")


MOST_TERMS = 20  # most numbers of the arithmetic that ends a sentence
_LONE_NUMBER = re.compile(rf"(?<![\w.,])(?:{_FRACTION}\(\d|\.?\d)")
_BETWEEN = re.compile(r"[\d.,]+([^\d]*)")  # a number, and what is between it and the next
_JOINED = re.compile(r"(?:\s*(?:[-–—/^*+]|or|to|and|,\s*or)\s*|:|\s+:\s+)[$€£]?")
_UNSURE = {"not", "never", "than", "least", "most", "between", "or", "twice", "double", "half", "triple"}


@dataclass(frozen=True)
class Stated:
    """What a phrase states.

    value: None if it has a number but no unique value.
    sentence: whether more than SMALL_LEADS came before the number.
    equation: whether the number is the result of an equation.
    """

    value: Fraction | None
    sentence: bool = False
    equation: bool = False


class _Unreadable(Exception):
    """A phrase has no unique value."""


def plain(text: str) -> str:
    """Return the text with LaTeX, Markdown and unusual number characters replaced by plain ones."""
    text = text.replace(_FRACTION, " ")
    text = _SUPERSCRIPT.sub(lambda found: f"^({found.group().translate(_SUPERSCRIPTS)})", text)
    if not text.isascii():
        text = "".join(map(_plain_character, text))
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text.replace("{", "(").replace("}", ")")


def _plain_character(character: str) -> str:
    if unicodedata.decomposition(character).startswith("<fraction>"):
        value = Fraction(unicodedata.numeric(character)).limit_denominator(100)
        return f"{_FRACTION}({value.numerator}/{value.denominator})"
    if character.isspace():
        return "\n" if character in "\n\r\x0b\x0c\x85\u2028\u2029" else " "
    return str(unicodedata.decimal(character)) if character.isdecimal() else character


def stated(phrase: str, whole: bool = False) -> Stated | None:
    """Return what the first clause of a phrase states, or None if it has no number.

    Args:
        phrase: as a model wrote it.
        whole: the whole phrase must be the answer, as in a box: no clause ends it, and "!" is a factorial.
    """
    text = plain(phrase)
    if len(text) > LONGEST:
        text = text[:LONGEST]
    if whole:
        clause, rest = text.strip().removesuffix("."), ""
    else:
        clause, rest = _first_clause(text)
    digit = _DIGIT.search(clause)
    if digit is None:
        spelled = {word.lower() for word in _WORD.findall(clause)}
        return Stated(None) if spelled & (_OTHER - _SPELLED) else None
    sides = _EQUALS.split(clause)
    equation = len(sides) > 1 and bool(_DIGIT.search(sides[0]) or len(sides) > 2)
    side = sides[-1] if _DIGIT.search(sides[-1]) else clause
    lead = clause[: digit.start()]
    words = [word.lower() for word in _WORD.findall(lead)]
    sentence = any(word not in SMALL_LEADS for word in words) and "=" not in lead
    if not whole and _label(words):
        return None
    try:
        if rest and _ANOTHER.match(rest):
            raise _Unreadable
        if len(sides) > 1 and {word.lower() for word in _WORD.findall(sides[0])} & {"not", "never"}:
            raise _Unreadable
        value = _side(side, whole)
    except (_Unreadable, ZeroDivisionError, RecursionError):
        return Stated(None, sentence, equation)
    return Stated(value, sentence, equation)


_SPELLED = {"one", "two", "three", "four", "five", "no", "or", "from", "up", "over", "more"}


def _label(words: list[str]) -> bool:
    """Whether the number behind these words only names a step, a page or the like."""
    return bool(words) and words[-1] in _LABELS and not set(words[:-1]) & {"not", "never"}


def _first_clause(text: str) -> tuple[str, str]:
    """Split a text at the first end of a clause after a number."""
    number = _DIGIT.search(text)
    line_end = text.find("\n") if "\n" in text else len(text)
    if number is None or number.start() > line_end:
        return text[:line_end], ""
    for end in _CLAUSE_END.finditer(text, number.start()):
        if end.group() in (",", ".") and end.end() < len(text) and text[end.end()].isdigit():
            continue
        return text[: end.start()] + ("?" if end.group() == "?" else ""), text[end.start() :]
    return text, ""


def _side(side: str, whole: bool) -> Fraction:
    """The value of one side of an equation, or of a clause without one."""
    number = _DIGIT.search(side)
    if number is None:
        raise _Unreadable
    start = number.start()
    while start and (side[start - 1] in "-+.($€£¥₹ [\"'“”‘’" or side[start - 1] == _FRACTION):
        start -= 1
    lead = side[:start]
    words = [word.lower() for word in _WORD.findall(lead)]
    bare = _CURRENCY.sub("", lead + "0")[:-1]
    if (
        set(words) & _OTHER
        or _BAD_LEAD.search(bare)
        or (bare and bare[-1].isalpha() and side[start : start + 1].isdigit())
    ):
        raise _Unreadable
    if any(len(word) == 1 and word not in ("a", "i") for word in words):
        raise _Unreadable  # a variable
    opened = side[start:].strip(" $€£¥₹\"'“”‘’")
    if "[" in opened[:2]:
        opened = opened.replace("[", "(", 1).replace("]", ")", 1)
    value, tail = read_expression(opened)
    if words and words[-1] in ("minus", "negative"):
        value = -value
    return value * _tail(tail, whole)


def last_quantity(sentence: str) -> Fraction | None:
    """Return the value of the arithmetic that ends in a sentence's last number; None if it is ambiguous."""
    text = plain(sentence)
    numbers = [found.start() for found in _LONE_NUMBER.finditer(text)]
    if not numbers:
        return None
    last = numbers[-1]
    side = max((found.end() for found in _EQUALS.finditer(text, 0, last)), default=0)
    end = _CLAUSE_END.search(text, last)
    clause = text[: end.start() if end else len(text)]
    clause = clause[:last] + clause[last : last + LONGEST]
    for start in [place for place in numbers if place >= side][-MOST_TERMS:]:
        try:
            value, tail = read_expression(clause[start:])
            if len(clause) - len(tail) <= last:
                continue
            before = clause[side:start]
            value *= _tail(tail, False)
        except (_Unreadable, ZeroDivisionError, RecursionError):
            if start != last and (found := _BETWEEN.match(clause, start)) and _JOINED.fullmatch(found.group(1)):
                return None
            continue
        words = [word.lower() for word in _WORD.findall(before)][-2:]
        signed = re.search(r"(?:^|[\s(=\[{“])[$€£¥₹]?-[$€£¥₹]?$", before)
        if (set(words) & _UNSURE) or re.search(r"[\^*/+<>≤≥±√~\\]\s*[$€£¥₹]?$", before):
            return None
        if start != numbers[0] and _JOINED.fullmatch(text[_end_before(text, numbers, start) : start]):
            return None
        negative = signed or (words and words[-1] in ("minus", "negative"))
        return -value if negative else value
    return None


def _end_before(text: str, numbers: list[int], start: int) -> int:
    """Return where the number before the one at `start` ends."""
    between = _BETWEEN.match(text, numbers[numbers.index(start) - 1])
    return between.start(1) if between else start


def read_expression(text: str) -> tuple[Fraction, str]:
    """Return the value of the arithmetic that a text begins with, and what follows it."""
    parser = _Parser(text)
    value = parser.expression(0)
    tail = text[parser.place :]
    if re.match(r"\s*[*/^+(\d]", tail) and not re.match(r"\s*/\s*[^\W\d]|\s*\([^\d]", tail):
        raise _Unreadable
    return value, tail


class _Parser:
    """Parses sums, products, powers and brackets by recursive descent; raises _Unreadable for anything ambiguous."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    def _skip_space(self, place: int) -> int:
        space = _SPACE.match(self.text, place)
        return space.end() if space else place

    def _next(self, marks: str) -> str | None:
        """Return the next operator if it is one of these and a number follows."""
        found = re.compile(rf"\s*([{re.escape(marks)}])\s*(?=[-+$€£¥₹\s]*[\d.({_FRACTION}])").match(
            self.text, self.place
        )
        if not found and "*" in marks:
            found = _MULTIPLIED.match(self.text, self.place)
            if found:
                self.place = found.end()
                return "*"
        if not found:
            return None
        self.place = found.end()
        return found.group(1)

    def expression(self, depth: int) -> Fraction:
        start = self.place
        value, terms = self.term(depth), 1
        while sign := self._next("+-"):
            before, value_of_term = self.place, self.term(depth)
            terms += 1
            if sign == "-" and terms == 2 and depth == 0 and 0 < value < value_of_term:
                if not re.search(r"[-+*/^]", self.text[before : self.place] + self.text[start + 1 : before - 2]):
                    raise _Unreadable  # from 5 to 7
            value = value + value_of_term if sign == "+" else value - value_of_term
        return value

    def term(self, depth: int) -> Fraction:
        value = self.power(depth)
        while operator := self._next("*/"):
            other = self.power(depth)
            value = value * other if operator == "*" else value / other
        return value

    def power(self, depth: int) -> Fraction:
        sign = 1
        self.place = self._skip_space(self.place)
        while self.text[self.place : self.place + 1] in ("-", "+"):
            sign *= -1 if self.text[self.place] == "-" else 1
            self.place = self._skip_space(self.place + 1)
        base = self.atom(depth)
        if self._next("^"):
            exponent = self.power(depth + 1)
            if exponent.denominator != 1 or abs(exponent) > LARGEST_POWER or len(str(base)) > MOST_DIGITS:
                raise _Unreadable
            base = base ** int(exponent)
        return sign * base

    def atom(self, depth: int) -> Fraction:
        if depth > DEEPEST:
            raise _Unreadable
        self.place = self._skip_space(self.place)
        written = self.text[self.place : self.place + 1] == _FRACTION
        self.place += written
        if self.text[self.place : self.place + 1] == "(":
            self.place += 1
            value = self.expression(depth + 1)
            self.place = self._skip_space(self.place)
            if self.text[self.place : self.place + 1] != ")":
                raise _Unreadable
            self.place += 1
            return value
        return self.number()

    def number(self) -> Fraction:
        found = _NUMBER.match(self.text, self.place)
        if not found or len(found.group()) > MOST_DIGITS or _RUNS_ON.match(self.text, found.end()):
            raise _Unreadable
        digits = found.group()
        if _THOUSANDTHS.fullmatch(digits) or re.match(r"0[,' _]", digits):
            raise _Unreadable
        digits = re.sub(_GROUP, "", digits)
        if digits.count(".") > 1 or re.fullmatch(r"\d{1,3}\.\d{3},\d{2}", digits):
            digits = digits.replace(".", "").replace(",", ".")
        value = Fraction(digits.replace(",", ""))
        self.place = found.end()
        if exponent := _EXPONENT.match(self.text, self.place):
            if abs(int(exponent.group(1))) > LARGEST_POWER:
                raise _Unreadable
            self.place = exponent.end()
            value *= Fraction(10) ** int(exponent.group(1))
        if value.denominator == 1 and (mixed := _MIXED.match(self.text, self.place)):
            above, below = (int(part) for part in mixed.groups() if part)
            if not 0 < above < below:
                raise _Unreadable
            self.place = mixed.end()
            value += Fraction(above, below)
        return value


def _tail(tail: str, whole: bool) -> int:
    """Return the factor in what follows a number ("million"); 1 for a unit.

    Raises:
        _Unreadable: when the number is not the whole quantity.
    """
    if _UNITS_OF_UNITS.search(tail):
        raise _Unreadable
    percent = re.match(r"\s*%", tail)
    rest = tail[percent.end() :] if percent else tail
    if percent and re.match(r"\s*(?:[-+*/^(]|of\b.*\d)", rest):
        raise _Unreadable
    rest = re.sub(r"^\s*[°¢]\s*[CF]?\b", "", rest)
    if re.match(r"\s*[-–—:]\s*-?\$?\d|\s*[–—]\s*\$|\s*[\^_|±<>≤≥∼~\\]|\s*!!|\s*/\s*\d|\s*\*", rest):
        raise _Unreadable
    if whole and re.search(r"[!?,;|±]", rest):
        raise _Unreadable
    if re.match(r"\s*\?", rest) or rest.rstrip().endswith("?"):
        raise _Unreadable
    factor = 1
    attached = re.match(r"[^\W\d_]+", rest)
    if attached and (attached.group().lower() in _CHANGED | SCALES.keys() or _is_symbol(attached.group())):
        raise _Unreadable
    words = [word.lower() for word in _WORD.findall(re.split(r"[\d(]", rest, maxsplit=1)[0])]
    first = re.match(rf"\s*\(?\s*(-?)({_WORD.pattern})(.*)", rest, re.DOTALL)
    if first:
        word, behind = first.group(2).lower(), first.group(3)
        in_brackets = "(" in rest[: first.start(2)]
        if word in SCALES or word.split("-")[0] in SCALES:
            if in_brackets or "-" in word or _first_word(behind) in SCALES.keys() | _CHANGED | _NUMBER_WORDS:
                raise _Unreadable
            if re.match(r"\s*[\d.(+*/^-]|\s*and\b", behind):
                raise _Unreadable
            factor = SCALES[word]
        elif word in _CHANGED or (not attached and _is_symbol(first.group(2))):
            raise _Unreadable
        elif word in _JOINS and re.match(
            r"\s+(?:of\s+)?(?:the\s+|a\s+|an\s+|about\s+)*(?:[-$]*\.?\d|half|quarter|third)", behind
        ):
            raise _Unreadable
        elif word in ("quarter", "quarters") and _first_word(behind) == "of":
            raise _Unreadable
    if "or" in words or re.search(r"\b(?:and|&)\s+(?:a\s+|an\s+|one\s+)?(?:half|quarter|third|\d)", rest):
        raise _Unreadable
    for further in re.finditer(r"(?<![\w.])[-$€£]*\.?\d[\d.,]*", rest):
        before = _WORD.findall(rest[: further.start()])
        if rest[: further.start()].rstrip().endswith("("):
            continue
        if not before or before[-1].lower() not in _BEFORE_FURTHER:
            raise _Unreadable
    return factor


_NUMBER_WORDS = {
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty"),
    *("sixty", "seventy", "eighty", "ninety"),
}


def _is_symbol(word: str) -> bool:
    return len(word) == 1 and word not in _LETTERS


def _first_word(text: str) -> str:
    found = _WORD.match(text.lstrip())
    return found.group().lower() if found else ""
