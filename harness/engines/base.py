"""The engine protocol: completions and log-probabilities, token ids in and out.

An engine knows nothing about benchmarks or methods. Text is turned into token ids once, by `encode_chat` and
`encode_replies`, and never tokenized again: there is no second BOS token and no boundary that moves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from harness.progress import Advance
from harness.types import Conversation, Reply, TokenIds
from harness.work import Needed

if TYPE_CHECKING:
    import torch

    from harness.engines.chat import ChatTemplate
    from harness.engines.logprobs import Reading
    from harness.engines.memory import Limit


@dataclass(frozen=True)
class Sampling:
    """How to sample. Temperature 0 is greedy. The noise of a token is a function of (seed, item key, step) alone.

    stop: texts after which nothing is needed: an engine may end a completion once its text has one.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    token_ids: what the model emitted, including the stop token if it was reached.
    text: the decoded tokens without special tokens, and without the thought if one was removed.
    finished: whether a stop token or text ended it (rather than the length limit), outside a thought.
    computed: positions that the model computed for it, including padding and waiting; a prompt that several sequences
        of a batch share is counted for one of them. None if the engine does not report it.
    thought: the removed thought ("" for an empty one), None if nothing was removed.
    """

    token_ids: TokenIds
    text: str
    finished: bool
    computed: int | None = field(default=None, compare=False)
    thought: str | None = None


@dataclass(frozen=True)
class LogProb:
    """Sum of the log-probabilities of a completion's tokens (nats), and how many tokens there are."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.total / self.tokens


def shared_tokens(pairs: Iterable[tuple[TokenIds, TokenIds]]) -> int:
    """How many tokens a forward pass over (prompt, completion) sequences has if equal prompts are read once."""
    prompts: dict[TokenIds, set[TokenIds]] = {}
    for prompt, completion in pairs:
        prompts.setdefault(prompt, set()).add(completion)
    return sum(len(prompt) + sum(map(len, completions)) for prompt, completions in prompts.items())


class Engine(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str:
        """Path or hub id."""
        ...

    @property
    def weights_hash(self) -> str:
        """Digest of the weights; part of every cache key."""
        ...

    @property
    def parameters(self) -> int:
        """Number of parameters; 0 if unknown."""
        ...

    @property
    def context_length(self) -> int:
        """The most tokens that a prompt and its completion may have together."""
        ...

    @property
    def batch_size(self) -> int:
        """The most prompts that are worked on at once."""
        ...

    @property
    def unit(self) -> int:
        """How many prompts are worth giving to one call of `generate`."""
        ...

    @property
    def generates(self) -> "Limit":
        """The largest batch of prompts that memory has held so far."""
        ...

    @property
    def scores(self) -> "Limit":
        """The largest batch of `logprobs` that memory has held so far."""
        ...

    @property
    def chat(self) -> "ChatTemplate | None":
        """The chat template with its tokenizer; None if they are not known here."""
        ...

    @property
    def local(self) -> "TrainableEngine | None":
        """The same causal language model, run by transformers in this process; None if there is none."""
        ...

    def encode_chat(self, chat: Conversation, add_generation_prompt: bool = True) -> TokenIds:
        """Return the token ids of a conversation by the model's chat template, applied once."""
        ...

    def encode_replies(self, chat: Conversation, replies: Sequence[Reply]) -> tuple[TokenIds, list[TokenIds]]:
        """Return the token ids of a prompt that given replies share, and of each reply as the chat template writes it,
        including the end of its turn (see `harness.engines.chat.ChatTemplate.encode_replies`)."""
        ...

    def encode_alternatives(self, chat: Conversation, texts: Sequence[str]) -> tuple[TokenIds, list[TokenIds]]:
        """Return the token ids of a prompt and of short answers to compare, such as letters, without the turn's end."""
        ...

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """Return one completion per prompt, in order. `items[i]` is the key of prompt i's sampling noise (such as
        "mt-bench/81/turn-1"): the same key and seed give the same noise in any batch, for any model."""
        ...

    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        """Return the log-probability of each completion given its prompt, in order."""
        ...

    def positions(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> int:
        """How many positions `logprobs` computes for these sequences, including padding."""
        ...

    def release(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""
        ...


class TrainableEngine(Engine, Protocol):
    """A causal language model whose weights are in this process."""

    @property
    def local(self) -> "TrainableEngine": ...

    @property
    def model(self) -> Any:
        """The transformers model."""
        ...

    @property
    def adapted(self) -> Any:
        """The PeftModel around the model; None unless it has adapters that are not merged into it."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer."""
        ...

    @property
    def device(self) -> "torch.device": ...

    @property
    def day(self) -> date:
        """The date that the chat template writes, if it writes one."""
        ...

    @property
    def reading(self) -> "Reading":
        """How log-probabilities are read (`harness.engines.reading`)."""
        ...

    def needed(self, adapters: Any = None) -> Needed:
        """Return the FLOPs that the model needs for work.

        Args:
            adapters: a LoraConfig of peft if only adapters are trained.

        Raises:
            UserError: when they cannot be counted.
        """
        ...

    def in_float32(self) -> Any:
        """Return a copy of the model in float32, with the weights of its files where it was loaded in fewer bits."""
        ...

    def rest(self) -> None:
        """Free what only generation needs, before training."""
        ...


def is_trainable(engine: Engine) -> TypeGuard[TrainableEngine]:
    """Whether an engine's model is in this process, so that it can be trained."""
    return engine.local is not None


@runtime_checkable
class RewardEngine(Protocol):
    """A model that scores replies instead of writing them: a sequence classifier with one output."""

    @property
    def name(self) -> str: ...

    @property
    def context_length(self) -> int: ...

    def encode_replies(self, chat: Conversation, replies: Sequence[Reply]) -> tuple[TokenIds, list[TokenIds]]:
        """Return the token ids that `Engine.encode_replies` returns."""
        ...

    def rewards(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[float]:
        """Return the reward of each completion given its prompt, in order."""
        ...
