"""Training data of reward models: pairs of chats as token ids, and the settings of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.types import Prompt

if TYPE_CHECKING:
    from harness.engines.transformers import TransformersEngine


@dataclass(frozen=True)
class RewardOptions:
    """Settings of training a reward model, with defaults for the testbed.

    learning_rate: peak learning rate of AdamW.
    epochs: passes over the pairs.
    batch_size: pairs per update.
    micro_batch_size: pairs per forward pass; batch_size / micro_batch_size passes are accumulated.
    warmup_ratio: share of the updates in which the learning rate rises from 0.
    max_grad_norm: gradients with a larger norm are scaled down to it; 0 is off.
    max_length: pairs with more tokens in the chosen or the rejected chat are left out.
    """

    learning_rate: float = 1e-3
    epochs: int = 1
    batch_size: int = 16
    micro_batch_size: int = 16
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    max_length: int = 4096

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if min(self.learning_rate, self.max_grad_norm) < 0 or not 0 <= self.warmup_ratio < 1:
            raise UserError("learning_rate and max_grad_norm must be at least 0, warmup_ratio from 0 to below 1")


@dataclass(frozen=True)
class TokenizedPairs:
    """Chosen and rejected chats, pair by pair, and how many pairs were left out."""

    chosen: list[list[int]]
    rejected: list[list[int]]
    too_long: int
    identical: int

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def lengths(self) -> list[int]:
        """Tokens of the longer chat of each pair."""
        return [max(len(chosen), len(rejected)) for chosen, rejected in zip(self.chosen, self.rejected, strict=True)]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.chosen)) + sum(map(len, self.rejected))


def tokenize_pairs(engine: "TransformersEngine", pairs: Sequence[Prompt], max_length: int) -> TokenizedPairs:
    """The pairs to train on, in order, without those that are longer than max_length or the context, and those with
    equal replies, which teach nothing.

    Raises:
        UserError: when the chat template refuses a pair (file and line).
    """
    limit = min(max_length, engine.context_length)
    chosen, rejected = [], []
    too_long = identical = 0
    for pair in pairs:
        try:
            prompt, replies = engine.encode_replies(pair.chat, pair.pair)
        except UserError as error:
            raise UserError(f"{pair.where or pair.id}: {error}") from None
        better, worse = ([*prompt, *reply] for reply in replies)
        if better == worse:
            identical += 1
        elif max(len(better), len(worse)) > limit:
            too_long += 1
        else:
            chosen.append(better)
            rejected.append(worse)
    return TokenizedPairs(chosen, rejected, too_long, identical)
