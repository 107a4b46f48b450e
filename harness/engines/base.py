"""What an engine is: completions and log-probabilities, token ids in and out.

An engine knows nothing about benchmarks or methods. Text is turned into token ids once, by `encode_chat`, and never
tokenized again: there is no second BOS and no boundary that moves.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
TokenIds = tuple[int, ...]
ENGINES = ("auto", "transformers", "vllm")  # see harness.engines.choice
Advance = Callable[[int], None]  # called with the number of items finished since the last call


@dataclass(frozen=True)
class Sampling:
    """How to sample. Temperature 0 is greedy. The noise of a token is a function of (seed, item key, step) alone."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    token_ids: what the model emitted, with the stop token where it was reached.
    text: the same decoded, without special tokens.
    finished: whether a stop token ended it (else the length limit did).
    """

    token_ids: TokenIds
    text: str
    finished: bool


@dataclass(frozen=True)
class LogProb:
    """Sum of the log-probabilities of a completion's tokens (nats) and their number."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.total / self.tokens


def shared_tokens(pairs: Iterable[tuple[TokenIds, TokenIds]]) -> int:
    """Tokens of a forward pass over (prompt, completion) sequences in which equal prompts are read once."""
    prompts: dict[TokenIds, set[TokenIds]] = {}
    for prompt, completion in pairs:
        prompts.setdefault(prompt, set()).add(completion)
    return sum(len(prompt) + sum(map(len, completions)) for prompt, completions in prompts.items())


class Engine(Protocol):
    """A loaded model."""

    name: str  # path or hub id
    weights_hash: str  # of the weights: part of every cache key
    parameters: int  # N of the FLOPs accounting
    context_length: int  # tokens of a prompt and its completion

    def encode_chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> TokenIds:
        """Token ids of a conversation by the model's chat template, applied once."""
        ...

    def encode_completion(self, text: str) -> TokenIds:
        """Token ids of a given assistant reply as the model would have emitted it, its stop token included."""
        ...

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """One completion a prompt, in order. `items[i]` is the key of prompt i's sampling noise (such as
        "mt-bench/81/turn-1"): the same key and seed give the same noise in any batch, for any model."""
        ...

    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        """Log-probability of each completion given its prompt, in order."""
        ...
