"""What an engine is: completions and log-probabilities, token ids in and out.

An engine knows nothing about benchmarks or methods. Text is turned into token ids once, by `encode_chat`
and `encode_replies`, and never tokenized again: there is no second BOS and no boundary that moves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.progress import Advance
from harness.types import Conversation, Reply, TokenIds


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
    text: the same decoded, without special tokens; without the thought, where one was taken off.
    finished: whether a stop token ended it (else the length limit did), and outside a thought.
    computed: positions that the model computed for it, padding and waiting included; a prompt that it shares with
        others of its batch is counted for one of them. None where the engine does not tell.
    thought: what was taken off ("" for an empty one), None where nothing was.
    """

    token_ids: TokenIds
    text: str
    finished: bool
    computed: int | None = field(default=None, compare=False)
    thought: str | None = None


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
    parameters: int
    context_length: int  # tokens of a prompt and its completion

    def encode_chat(self, chat: Conversation, add_generation_prompt: bool = True) -> TokenIds:
        """Token ids of a conversation by the model's chat template, applied once."""
        ...

    def encode_replies(self, chat: Conversation, replies: Sequence[Reply]) -> tuple[TokenIds, list[TokenIds]]:
        """Token ids of a prompt that given replies share, and of each reply as the chat template writes it, with what
        ends its turn (see `harness.engines.chat.ChatTemplate.encode_replies`)."""
        ...

    def encode_alternatives(self, chat: Conversation, texts: Sequence[str]) -> tuple[TokenIds, list[TokenIds]]:
        """The same of short answers that are to be compared, such as letters, without what ends the turn."""
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

    def positions(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> int:
        """How many positions `logprobs` computes for that, filling included."""
        ...
