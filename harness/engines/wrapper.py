"""Engines that stand in front of another one: every member of the protocol is passed on, by name."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from harness.engines.base import Completion, Engine, LogProb, Sampling, TrainableEngine
from harness.progress import Advance
from harness.types import Conversation, Reply, TokenIds
from harness.work import Needed

if TYPE_CHECKING:
    import torch

    from harness.engines.chat import ChatTemplate
    from harness.engines.logprobs import Reading
    from harness.engines.memory import Limit

E = TypeVar("E", bound=Engine)
T = TypeVar("T", bound=TrainableEngine)


class EngineWrapper(Generic[E]):
    """Passes everything on to an engine; implements `harness.engines.base.Engine`."""

    def __init__(self, engine: E) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def weights_hash(self) -> str:
        return self._engine.weights_hash

    @property
    def parameters(self) -> int:
        return self._engine.parameters

    @property
    def context_length(self) -> int:
        return self._engine.context_length

    @property
    def batch_size(self) -> int:
        return self._engine.batch_size

    @property
    def unit(self) -> int:
        return self._engine.unit

    @property
    def generates(self) -> "Limit":
        return self._engine.generates

    @property
    def scores(self) -> "Limit":
        return self._engine.scores

    @property
    def chat(self) -> "ChatTemplate | None":
        return self._engine.chat

    @property
    def local(self) -> TrainableEngine | None:
        return self._engine.local

    def encode_chat(self, chat: Conversation, add_generation_prompt: bool = True) -> TokenIds:
        return self._engine.encode_chat(chat, add_generation_prompt)

    def encode_replies(self, chat: Conversation, replies: Sequence[Reply]) -> tuple[TokenIds, list[TokenIds]]:
        return self._engine.encode_replies(chat, replies)

    def encode_alternatives(self, chat: Conversation, texts: Sequence[str]) -> tuple[TokenIds, list[TokenIds]]:
        return self._engine.encode_alternatives(chat, texts)

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        return self._engine.generate(prompts, items, sampling, advance)

    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        return self._engine.logprobs(prompts, completions, advance)

    def positions(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> int:
        return self._engine.positions(prompts, completions)

    def release(self) -> None:
        self._engine.release()


class TrainableWrapper(EngineWrapper[T]):
    """Passes everything on to a trainable engine; implements `harness.engines.base.TrainableEngine`."""

    @property
    def local(self) -> TrainableEngine:
        return self._engine.local

    @property
    def model(self) -> Any:
        return self._engine.model

    @property
    def adapted(self) -> Any:
        return self._engine.adapted

    @property
    def tokenizer(self) -> Any:
        return self._engine.tokenizer

    @property
    def device(self) -> "torch.device":
        return self._engine.device

    @property
    def day(self) -> date:
        return self._engine.day

    @property
    def reading(self) -> "Reading":
        return self._engine.reading

    def needed(self, adapters: Any = None) -> Needed:
        return self._engine.needed(adapters)

    def in_float32(self) -> Any:
        return self._engine.in_float32()

    def rest(self) -> None:
        self._engine.rest()
