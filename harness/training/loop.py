"""The training loop that policies and reward models share: transformers' Trainer, its settings, and memory.

An update's loss is the mean over its items (examples or pairs), however they are split into passes and processes.
"""

import copy
import math
import os
import sys
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from harness.engines import memory
from harness.errors import UserError
from harness.progress import Advance
from harness.training.base import TrainingDiverged
from harness.training.examples import TrainingOptions, split_batch
from harness.training.pairs import RewardOptions

T = TypeVar("T")


class LoopTrainer(Trainer, ABC):
    """Trains in the order of the dataset, logs the mean of what each pass noted, and stops where training diverges."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the items of the whole update

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        train_dataset: Dataset,
        collator: Callable[[Sequence[dict[str, Any]]], dict[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        advance: Advance | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        eval_dataset: Dataset | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            advance: called with the items of each pass.
            names: what values are called in logs, for those with another name there.
        """
        self.advance = advance
        self.names = names or {}
        self.noted: defaultdict[str, list[float]] = defaultdict(list)  # values since the last log, by name
        use_one_device(args)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            data_collator=collator,
            callbacks=list(callbacks),
            eval_dataset=eval_dataset,
        )
        self.remove_callback(PrinterCallback)

    @abstractmethod
    def items(self, batch: dict[str, Any]) -> torch.Tensor:
        """How many items a batch has."""

    @abstractmethod
    def diverged(self, what: str, value: Any) -> TrainingDiverged:
        """The error for a loss or gradient norm that is not finite."""

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], int]:
        """The batches of an update in this process, and the number of items over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        items = torch.stack([self.items(batch) for batch in batches]).sum().to(device)
        return batches, int(self.accelerator.gather(items).sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        norm = logs.get("grad_norm", 0.0)
        if not math.isfinite(norm):
            raise self.diverged("gradient norm", norm)
        logs.update({self.names.get(name, name): sum(values) / len(values) for name, values in self.noted.items()})
        self.noted.clear()
        super().log(logs, start_time)


def use_one_device(args: TrainingArguments) -> None:
    """Keep to one GPU: in a process without a launcher, transformers would split each batch over all visible GPUs
    (DataParallel)."""
    args._n_gpu = min(args.n_gpu, 1)


def use_padding_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer a padding token where it has none (its end-of-sequence token), and name it in the model's
    configurations, which the saved model keeps."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:  # classifiers have none
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def loop_settings(
    options: TrainingOptions | RewardOptions, output_dir: Path, seed: int, on_gpu: bool, bf16: bool
) -> dict[str, Any]:
    """Arguments that all trainings share: batches in the order of the data, a log of every update, no saving by
    transformers. All processes that a launcher has started share a batch.

    Raises:
        UserError: when micro-batches do not add up to a batch.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro, passes = split_batch(options.batch_size, options.micro_batch_size, processes)
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": passes,
        "learning_rate": options.learning_rate,
        "warmup_steps": options.warmup_ratio,
        "max_grad_norm": options.max_grad_norm,
        "seed": seed,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "use_cpu": not on_gpu,
        "bf16": bf16,
        "activation_checkpointing": on_gpu,
        "dataloader_pin_memory": on_gpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def within_memory(args: TrainingArguments, attempt: Callable[[TrainingArguments], T]) -> T:
    """Return `attempt(args)`; where memory does not hold a micro-batch, retry with smaller ones and the same updates.

    Raises:
        UserError: when memory does not hold a single example.
    """
    while True:
        try:
            return attempt(args)
        except (MemoryError, RuntimeError) as error:
            if (reason := memory.shortage(error)) is None or args.world_size > 1:  # the others would wait forever
                raise
        memory.free()  # the error held the tensors of the failed attempt
        micro = args.per_device_train_batch_size
        if micro == 1:
            raise UserError(
                f"memory does not hold the training on a single example ({reason}): set gradient_checkpointing=true, "
                "lora_rank or a shorter --max-new-tokens, or use another --device or model"
            )
        batch = micro * args.gradient_accumulation_steps
        smaller = next(size for size in range(micro // 2, 0, -1) if batch % size == 0)
        print(
            f"warning: memory does not hold the training on {micro} examples at once: going on with {smaller}, the "
            f"same updates (micro_batch_size={smaller} avoids the failed attempt)",
            file=sys.stderr,
        )
        args = copy.copy(args)
        args.per_device_train_batch_size, args.gradient_accumulation_steps = smaller, batch // smaller
