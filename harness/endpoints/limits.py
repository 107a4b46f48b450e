"""Limits of a judge (concurrency, rate, calls, USD), and prices of tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from harness.errors import UserError
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

    concurrent: int = 8
    per_minute: float | None = None
    max_calls: int | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        for name, limit, least in (
            ("concurrent requests", self.concurrent, 1),
            ("requests per minute", self.per_minute, 1e-9),
            ("calls", self.max_calls, 0),
            ("cost", self.max_cost, 0),
        ):
            if limit is not None and not least <= limit < math.inf:
                raise UserError(f"the limit on a judge's {name} must be a number of at least {least:g}, not {limit}")


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
