"""Training on examples: TRL's DPOTrainer with any objective over k sequences.

From TRL and transformers come the loop, optimizer, schedule, clipping, mixed precision and distributed training; from
here the batches, the loss, and log-probabilities of the reference that were computed once, so that there is never a
second model in memory.
"""

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.trainer_utils import SchedulerType
from transformers.utils.logging import disable_progress_bar
from trl import DPOConfig, DPOTrainer

from harness.budget import Ledger
from harness.engines.base import Advance, LogProb
from harness.engines.logprobs import Reading, attend_packed, sequence_logprobs
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError, unknown_name
from harness.training.dataset import build_dataset, check_examples, collate, update_order
from harness.training.examples import Example, Objective, TrainingOptions
from harness.training.pairs import RewardOptions

DIVERGED_FILE = "diverged_batch.json"


@dataclass(frozen=True)
class TrainResult:
    """checkpoint: folder of the trained model. history: one row an update (loss, grad_norm, learning_rate, the
    objective's values)."""

    checkpoint: Path
    updates: int
    history: list[dict]


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is not finite; the batch was saved."""


class PreferenceTrainer(DPOTrainer):
    """One pass over tokenized examples, in the order of the dataset."""

    loss_is_scaled_for_ga = True  # an update's loss is the mean over its examples, however they are split

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        train_dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        args: DPOConfig,
        reading: Reading,
        advance: Advance | None = None,
    ):
        """
        Args:
            model: trained inside `attend_packed`.
            train_dataset: rows of `build_dataset`.
            reading: of the model.
        """
        self.objective = objective
        self.reading = reading
        self.advance = advance
        self._batch: dict[str, Any] = {}
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            data_collator=collate,
        )
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> torch.Tensor:
        self._batch = inputs
        packed, shape = inputs["packed"], (-1, self.objective.sequences)
        sums = sequence_logprobs(model, packed, self.reading)
        losses, metrics = self.objective(sums.view(shape), inputs.get("reference"), packed.lengths.view(shape))
        if not torch.isfinite(losses).all():
            raise self._diverged("loss", losses.tolist())
        for name, values in zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True):
            self._metrics["train"][name].extend(values)
        if self.advance:
            self.advance(len(losses))
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes  # gradients are averaged over them

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise self._diverged("gradient norm", logs["grad_norm"])
        super().log(logs, start_time)

    def _diverged(self, what: str, value: Any) -> TrainingDiverged:
        path = Path(self.args.output_dir) / DIVERGED_FILE
        packed, reference = self._batch["packed"], self._batch.get("reference")
        row = {
            "update": self.state.global_step,
            what: repr(value),
            "ids": self._batch["ids"],
            "input_ids": packed.input_ids.tolist(),
            "position_ids": packed.position_ids.tolist(),
            "reference": None if reference is None else reference.tolist(),
        }
        path.write_text(json.dumps(row), encoding="utf-8")
        return TrainingDiverged(
            f"the {what} is not finite at update {self.state.global_step} (batch saved in {path}): "
            "lower the learning rate"
        )

    # What TRL does to text and to the reference is done already, on token ids.

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset

    def _get_num_items_in_batch(self, batch_samples: list[dict], device: torch.device) -> int:
        """Examples of an update, over all processes."""
        examples = torch.tensor(sum(len(batch["ids"]) for batch in batch_samples), device=device)
        return int(self.accelerator.gather(examples).sum())

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""


def reference_logprobs(
    engine: TransformersEngine, examples: Sequence[Example], ledger: Ledger, advance: Advance | None = None
) -> list[tuple[LogProb, ...]]:
    """Log-probabilities of the sequences of each example under the reference, charged to the role "reference"."""
    start = time.perf_counter()
    sequences = [sequence for example in examples for sequence in example.sequences]
    scores = iter(
        engine.logprobs(
            [sequence.prompt_ids for sequence in sequences],
            [sequence.completion_ids for sequence in sequences],
            advance,
        )
    )
    ledger.charge(
        "reference",
        engine.parameters,
        calls=len(sequences),
        prompt_tokens=sum(example.tokens for example in examples),
        seconds=time.perf_counter() - start,
    )
    return [tuple(next(scores) for _ in example.sequences) for example in examples]


def train(
    engine: TransformersEngine,
    examples: Sequence[Example],
    objective: Objective,
    options: TrainingOptions,
    reference: Sequence[tuple[LogProb, ...]] | None,
    output_dir: Path,
    seed: int,
    ledger: Ledger,
    advance: Advance | None = None,
) -> TrainResult:
    """Train a copy of the engine's model with one pass over the examples, charged to the role "train".

    Args:
        engine: the start model, left as it is.
        reference: from `reference_logprobs` of the start model, or None when the objective needs none.
        output_dir: gets the model (safetensors) and its tokenizer.
        seed: of the order of the examples.

    Raises:
        UserError: when the options do not fit together, or an example is longer than the context.
        TrainingDiverged: when the loss or the gradient is not finite.
    """
    start = time.perf_counter()
    check_examples(examples, objective.sequences, engine.context_length)
    if objective.needs_reference and reference is None:
        raise ValueError("the objective needs log-probabilities of the reference")
    order = update_order([max(map(len, each.sequences)) for each in examples], options.batch_size, seed)
    reading = engine.reading
    on_gpu = engine.device.type != "cpu"
    # Small updates vanish in bfloat16, so the weights are trained in float32 (under autocast on a GPU).
    model = copy.deepcopy(engine.model).float()
    switch_off_dropout(model)
    trainer = PreferenceTrainer(
        model,
        objective,
        build_dataset(examples, reference if objective.needs_reference else None, order),
        engine.tokenizer,
        _arguments(options, output_dir, seed, on_gpu),
        reading,
        advance,
    )
    with attend_packed(model, reading):
        trainer.train()
    disable_progress_bar()
    model.to(engine.model.dtype).save_pretrained(output_dir)
    engine.tokenizer.save_pretrained(output_dir)
    ledger.charge(
        "train",
        engine.parameters,
        trained_tokens=sum(example.tokens for example in examples),
        updates=trainer.state.global_step,
        seconds=time.perf_counter() - start,
    )
    history = [row for row in trainer.state.log_history if "loss" in row]
    return TrainResult(Path(output_dir), trainer.state.global_step, history)


def switch_off_dropout(model: torch.nn.Module) -> None:
    """Also where a layer keeps the probability as a number, as attention does; TRL resets modules only."""
    for module in model.modules():
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _arguments(options: TrainingOptions, output_dir: Path, seed: int, on_gpu: bool) -> DPOConfig:
    schedulers = [each.value for each in SchedulerType]
    if options.lr_scheduler not in schedulers:
        raise unknown_name("lr_scheduler", options.lr_scheduler, schedulers)
    return DPOConfig(
        **loop_settings(options, output_dir, seed, on_gpu),
        num_train_epochs=1,
        lr_scheduler_type=options.lr_scheduler,
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        remove_unused_columns=False,
        precompute_ref_log_probs=True,
    )


def loop_settings(
    options: TrainingOptions | RewardOptions, output_dir: Path, seed: int, on_gpu: bool
) -> dict[str, Any]:
    """Arguments that all trainings here share: batches in the order of the data, a log of every update, no saving.

    Raises:
        UserError: when micro-batches do not add up to a batch.
    """
    micro = min(options.micro_batch_size, options.batch_size)
    if options.batch_size % micro:
        raise UserError(
            f"batch_size {options.batch_size} is not a multiple of micro_batch_size {micro}: "
            "updates would differ in size"
        )
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": options.batch_size // micro,
        "learning_rate": options.learning_rate,
        "warmup_steps": options.warmup_ratio,
        "max_grad_norm": options.max_grad_norm,
        "seed": seed,
        "train_sampling_strategy": "sequential",
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "activation_checkpointing": on_gpu,
        "dataloader_pin_memory": on_gpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
