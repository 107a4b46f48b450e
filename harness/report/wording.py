"""Numbers as people read them on the page."""

import math
from collections.abc import Sequence

from harness.tables import layout
from harness.tables.layout import NONE

MINUS = "\N{MINUS SIGN}"
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def number(value: float | None, digits: int = 1) -> str:
    if value is None or math.isnan(value):
        return NONE
    return _whole(f"{value:.{digits}f}")


def signed(value: float | None, digits: int = 1) -> str:
    if value is None or math.isnan(value):
        return NONE
    return _whole(f"{value:+.{digits}f}")


def _whole(text: str) -> str:
    """The number with a real minus sign, and without a sign when it is rounded to 0."""
    return text.replace("-", MINUS) if float(text) else text.lstrip("+-")


def interval(low: float, high: float, digits: int = 1, sign: bool = False) -> str:
    """The interval in brackets; empty where there is none."""
    shown = signed if sign else number
    return "" if math.isnan(low) else f"[{shown(low, digits)}, {shown(high, digits)}]"


def p_value(value: float | None) -> str:
    """The p-value with its relation, such as "p = 0.03"; "too few seeds" where there is none."""
    if value is None:
        return "too few seeds"
    text = layout.p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def power(value: float) -> str:
    """A large number with a power of ten: 3 × 10¹¹."""
    if not value:
        return "0"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')} × {ten(int(exponent))}"


def ten(exponent: int) -> str:
    """A power of ten: 10¹¹."""
    return f"10{str(exponent).translate(_RAISED)}"


def span(texts: Sequence[str]) -> str:
    """First and last of ordered texts, or one where both look the same."""
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def listed(names: Sequence[str]) -> str:
    """The names as a list: "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
