"""Limits of a judge (concurrency, rate, calls, USD), and prices of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt

from harness.errors import UserError
from harness.files.typed import check
from harness.types import Message

PRICES = Path(__file__).with_name("prices.yaml")
MILLION = 1_000_000
MARGIN = 16  # tokens that a message may have besides those of its text


@dataclass(frozen=True)
class Price:
    """USD per million tokens. date: when it was listed, such as "2024-10"; None for a price that the user gave."""

    prompt: float
    completion: float
    date: str | None = field(default=None, compare=False)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / MILLION

    def most(self, messages: Sequence[Message], max_tokens: int) -> float:
        """Return the most USD that a request can cost, as a token has at least one byte."""
        size = sum(len(message["content"].encode("utf-8", "replace")) + MARGIN for message in messages)
        return self.cost(size, max_tokens)


@dataclass(frozen=True)
class Limits:
    """Concurrent requests; requests per minute; HTTP attempts and USD of the whole log (None: no limit)."""

    concurrent: Annotated[int, Ge(1)] = 8
    per_minute: Annotated[float, Gt(0)] | None = None
    max_calls: Annotated[int, Ge(0)] | None = None
    max_cost: Annotated[float, Ge(0)] | None = None

    def __post_init__(self) -> None:
        check(self, "limit of a judge")


@cache
def known_prices() -> dict[str, Price]:
    import yaml

    known = yaml.safe_load(PRICES.read_text(encoding="utf-8"))
    return {name: Price(prompt, reply, known["date"]) for name, (prompt, reply) in known["prices"].items()}


def parse_price(text: str) -> Price:
    """Parse a price such as "10,30".

    Raises:
        UserError: for anything else.
    """
    try:
        prompt, completion = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"price {text!r} is not understood: write IN,OUT (USD per million tokens): 10,30") from None
    if not (0 <= prompt < float("inf") and 0 <= completion < float("inf")):
        raise UserError(f"price {text!r} must not be below 0")
    return Price(prompt, completion)
