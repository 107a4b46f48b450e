"""Training data: examples of k sequences, and the objectives that turn their log-probabilities into losses."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import UserError, unknown_name
from harness.types import TokenIds
from harness.work import Work, of_sequences

if TYPE_CHECKING:
    import torch

SCHEDULERS = ("constant", "constant_with_warmup", "cosine", "cosine_with_restarts", "inverse_sqrt", "linear")


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and its completion (stop token included), as token ids."""

    prompt_ids: TokenIds
    completion_ids: TokenIds

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


Sequence = TokenSequence  # the name that plugins import


@dataclass(frozen=True)
class Example:
    """One row of training data. `record` is what a person reads of it (prompt, chosen, rejected, principles).

    targets: a number per sequence for objectives that read one (labels, advantages); empty for others.
    """

    id: str
    sequences: tuple[TokenSequence, ...]
    record: dict[str, Any] = field(default_factory=dict)
    targets: tuple[float, ...] = ()

    @property
    def work(self) -> Work:
        """Work of one pass over the example; a prompt that its sequences share counts once."""
        return of_sequences((sequence.prompt_ids, sequence.completion_ids) for sequence in self.sequences)

    @property
    def tokens(self) -> int:
        """How many tokens one pass over the example reads."""
        return int(self.work.read)


@dataclass(frozen=True)
class ReferenceSync:
    """When and how far a reference follows the policy (`harness.training.moving_reference`).

    steps: updates between two moves. mixup: weight of the policy in the new reference; 1 replaces it.
    """

    steps: int
    mixup: float


class Objective(Protocol):
    """A loss over the log-probabilities of an example's sequences.

    One with a `sync` that is not None (a ReferenceSync) has a reference that follows the policy. One whose examples
    have targets is called with them too: `targets`, (B, k), which are 0 in rows that only fill a batch.
    """

    @property
    def sequences(self) -> int:
        """k, the number of sequences of each example."""
        ...

    @property
    def needs_reference(self) -> bool:
        """Whether it reads log-probabilities under the reference."""
        ...

    def __call__(
        self, policy: "torch.Tensor", reference: "torch.Tensor | None", lengths: "torch.Tensor"
    ) -> "tuple[torch.Tensor, dict[str, torch.Tensor]]":
        """Compute the losses of a batch.

        Args:
            policy: (B, k) sums of completion log-probabilities under the policy, in nats.
            reference: (B, k) sums under the reference, or None where it is not needed.
            lengths: (B, k) numbers of completion tokens.

        Returns:
            (B,) losses, whose mean is minimized, and (B,) values to log, by name.
        """
        ...


def split_batch(batch_size: int, micro_batch_size: int, processes: int = 1) -> tuple[int, int]:
    """Split a batch into examples per process and forward pass, and the number of passes.

    Raises:
        UserError: when they do not add up to the batch.
    """
    if batch_size % processes:
        raise UserError(
            f"batch_size {batch_size} cannot be divided over {processes} processes, so updates would differ: give a "
            f"multiple of {processes}"
        )
    micro = min(micro_batch_size, batch_size // processes)
    if batch_size % (micro * processes):
        raise UserError(
            f"batch_size {batch_size} is not a multiple of micro_batch_size {micro}"
            + (f" times {processes} processes" if processes > 1 else "")
            + ", so updates would differ in size: change one of them"
        )
    return micro, batch_size // (micro * processes)


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of one training stage, with defaults for the testbed; presets hold those of the papers.

    learning_rate: peak learning rate of AdamW.
    batch_size: examples per update.
    micro_batch_size: examples per forward pass; batch_size / micro_batch_size passes are accumulated.
    warmup_ratio: share of the updates in which the learning rate rises from 0.
    lr_scheduler: schedule of the learning rate after that: cosine, linear, constant, constant_with_warmup,
        cosine_with_restarts or inverse_sqrt.
    weight_decay: weight decay of AdamW.
    adam_beta1: decay of AdamW's mean gradient.
    adam_beta2: decay of AdamW's mean squared gradient.
    max_grad_norm: gradients with a larger norm are scaled down to it; 0 is off.
    gradient_checkpointing: recompute activations in the backward pass; None does so on a GPU.
    lora_rank: train adapters of this rank on every linear layer but the head instead of all weights; 0 is off.
    lora_alpha: weight of the adapters, as lora_alpha / lora_rank.
    router_aux_loss_coef: weight of the load-balancing loss of a mixture of experts; 0 is off. (TRL's default is the
        value in the model's configuration, often 0.001.)
    """

    learning_rate: float = 1e-4
    batch_size: int = 16
    micro_batch_size: int = 16
    warmup_ratio: float = 0.1
    lr_scheduler: str = "cosine"
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool | None = None
    lora_rank: int = 0
    lora_alpha: float = 16.0
    router_aux_loss_coef: float = 0.0

    def __post_init__(self) -> None:
        if min(self.batch_size, self.micro_batch_size) < 1:
            raise UserError("batch_size and micro_batch_size must be at least 1")
        if min(self.learning_rate, self.weight_decay, self.max_grad_norm, self.router_aux_loss_coef) < 0:
            raise UserError("learning_rate, weight_decay, max_grad_norm and router_aux_loss_coef must be at least 0")
        for name in ("warmup_ratio", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        if self.lr_scheduler not in SCHEDULERS:
            raise unknown_name("lr_scheduler", self.lr_scheduler, SCHEDULERS)
        if self.lora_rank < 0 or self.lora_alpha <= 0:
            raise UserError("lora_rank must be at least 0 and lora_alpha above 0")


def lora(options: TrainingOptions) -> Any:
    """The LoraConfig that the options ask for, or None."""
    if not options.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=options.lora_rank, lora_alpha=options.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def sync_of(objective: Objective) -> ReferenceSync | None:
    """How the reference of an objective follows the policy; None where it stays, or there is none."""
    return getattr(objective, "sync", None)
