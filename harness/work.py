"""What a model computes for a piece of work, and the FLOPs that it needs for it.

A multiply-add is 2 FLOPs. Two rules turn work into FLOPs. The rule "needed" counts the matrix products that take part:
weights per position, the scores and values of attention per pair of positions, the LM head per position with logits.
The rule "nominal" is 2 N per token of a forward pass and 6 N per trained token (Kaplan et al. 2020, section 2.1), where
N counts all parameters, including the embedding.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from harness.types import TokenIds

Rule = Literal["needed", "nominal"]
RULES = ("needed", "nominal")
TRAIN_FLOPS = 6  # per parameter and trained token: forward 2, backward 4
FORWARD_FLOPS = 2  # per parameter and token read or generated


@dataclass(frozen=True)
class Work:
    """Tokens that a model works on; expected numbers may be fractions.

    read, generated: tokens as requested: a prompt counts again for each of its sampled completions.
    spans: (start, stop) -> how often positions start to stop - 1 of a sequence are computed; each position attends to
        itself and to all before it. A prompt that several completions share is in it once.
    logits: positions at which the LM head is applied.
    """

    read: float = 0.0
    generated: float = 0.0
    spans: Mapping[tuple[float, float], float] = field(default_factory=dict)
    logits: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return total((self, other))

    def __mul__(self, times: float) -> "Work":
        spans = {span: times * number for span, number in self.spans.items()}
        return Work(times * self.read, times * self.generated, spans, times * self.logits)

    @property
    def tokens(self) -> float:
        return self.read + self.generated

    @property
    def positions(self) -> float:
        """How many positions are computed."""
        return sum(number * (stop - start) for (start, stop), number in self.spans.items())

    @property
    def starts(self) -> float:
        """How many sequences are begun."""
        return sum(number for (start, _), number in self.spans.items() if start == 0)

    def attended(self, window: float | None) -> float:
        """How many pairs (position, position that it attends to) there are, within a window of this many positions
        (itself included) or, with None, in the whole sequence."""
        return sum(
            number * (_triangle(stop, window) - _triangle(start, window))
            for (start, stop), number in self.spans.items()
        )


def _triangle(length: float, window: float | None) -> float:
    """Pairs of attention in a sequence of this length, read from its start."""
    inside = length if window is None else min(length, window)
    return inside * (inside + 1) / 2 + (length - inside) * (window or 0)


def total(works: Iterable[Work]) -> Work:
    """The sum of several pieces of work."""
    read = generated = logits = 0.0
    spans: dict[tuple[float, float], float] = {}
    for work in works:
        read, generated, logits = read + work.read, generated + work.generated, logits + work.logits
        for span, number in work.spans.items():
            spans[span] = spans.get(span, 0) + number
    return Work(read, generated, spans, logits)


def sampled(prompt: float, *completions: float) -> Work:
    """Work of sampling completions of these lengths from one prompt: it is read once, and the last token of a
    completion is never read.

    >>> sampled(10, 3, 4).positions  # 10 of the prompt, 2 and 3 of the completions
    15
    """
    spans: Counter[tuple[float, float]] = Counter([(0, prompt)])
    for length in completions:
        if length > 1:
            spans[prompt, prompt + length - 1] += 1
    return Work(len(completions) * prompt, sum(completions), dict(spans), sum(completions))


def sequences(prompt: float, *completions: float) -> Work:
    """Work of reading, or training on, given completions of these lengths after one prompt, which is read once.

    >>> sequences(10, 3, 4).positions
    17
    """
    spans: Counter[tuple[float, float]] = Counter([(0, prompt)] if prompt else [])
    for length in completions:
        spans[prompt, prompt + length] += 1
    known = sum(length if prompt else length - 1 for length in completions)  # a first token has no prediction
    return Work(prompt + sum(completions), 0.0, dict(spans), known)


def of_samples(prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> Work:
    """Work of sampling these completions; equal prompts are read once."""
    by_prompt: dict[TokenIds, list[int]] = {}
    for prompt, completion in zip(prompts, completions, strict=True):
        by_prompt.setdefault(prompt, []).append(len(completion))
    return total(sampled(len(prompt), *lengths) for prompt, lengths in by_prompt.items())


def of_sequences(pairs: Iterable[tuple[TokenIds, TokenIds]]) -> Work:
    """Work of reading, or training on, the (prompt, completion) sequences of one example or call; equal prompts, and
    equal completions of one prompt, count once."""
    by_prompt: dict[TokenIds, set[TokenIds]] = {}
    for prompt, completion in pairs:
        by_prompt.setdefault(prompt, set()).add(completion)
    return total(sequences(len(prompt), *map(len, completions)) for prompt, completions in by_prompt.items())


def wasted(flops: float, work: Work, computed: int | None) -> dict[str, float]:
    """Return {"padding_tokens", "wasted_flops"} of computing more positions than the work needs; each superfluous
    position is charged at the mean of a needed one. (In a packed batch, examples may share a prompt, so that fewer
    positions are computed than needed.)

    Args:
        flops: FLOPs of the work.
        computed: how many positions were computed; None where that is not known.
    """
    padding = 0 if computed is None else max(0, computed - round(work.positions))
    return {"padding_tokens": padding, "wasted_flops": flops * padding / work.positions if padding else 0.0}


class Cost(Protocol):
    """How many FLOPs one model needs for work."""

    def forward(self, work: Work) -> float: ...

    def training(self, work: Work) -> float:
        """FLOPs of the forward and the backward pass."""
        ...


@dataclass(frozen=True)
class Nominal:
    """The rule "nominal", for a model of N parameters."""

    parameters: float

    def forward(self, work: Work) -> float:
        return FORWARD_FLOPS * self.parameters * work.tokens

    def training(self, work: Work) -> float:
        return TRAIN_FLOPS * self.parameters * work.tokens


@dataclass(frozen=True)
class Rates:
    """FLOPs of a model's parts.

    position: per position, in all layers.
    logits: per position with logits.
    pairs: per pair of attention, by window (None: no window).
    sequence: per sequence, for what a model puts before it.
    """

    position: float
    logits: float
    pairs: Mapping[int | None, float]
    sequence: float = 0.0

    def flops(self, work: Work) -> float:
        attention = sum(rate * work.attended(window) for window, rate in self.pairs.items())
        return self.position * work.positions + self.logits * work.logits + self.sequence * work.starts + attention


@dataclass(frozen=True)
class Needed:
    """The rule "needed", with the rates that `harness.engines.counting` measures."""

    reading: Rates
    learning: Rates

    def forward(self, work: Work) -> float:
        return self.reading.flops(work)

    def training(self, work: Work) -> float:
        return self.learning.flops(work)
