"""Training on examples: TRL's DPOTrainer with any objective over k sequences.

From TRL and transformers come the loop, optimizer, schedule, clipping, mixed precision and distributed training; from
here the batches, the loss, and log-probabilities of the reference that were computed before, so that there is never a
second model in memory.
"""

import copy
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import DistributedType
from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.logging import disable_progress_bar
from trl import DPOConfig, DPOTrainer

from harness.budget import Ledger
from harness.engines import memory, saving
from harness.engines.logprobs import Reading, attend_packed, computed_positions, logprobs_and_balance
from harness.engines.reading import how_to_balance
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.files import store
from harness.files.disk import whole, writing
from harness.progress import Advance
from harness.training.base import Training, TrainingDiverged, TrainResult
from harness.training.dataset import Collator, ExampleData, in_order, micro_batches, trained_work
from harness.training.examples import Objective, TrainingOptions, split_batch
from harness.training.pairs import RewardOptions
from harness.training.processes.start import train_in_processes
from harness.training.reference import ReferenceLogProbs
from harness.training.state import SaveState, last_state
from harness.work import wasted

NOISE = ("drop", "jitter", "noise")  # in the names of numbers that make a layer random in training
DIVERGED_FILE = "diverged_batch.json"
T = TypeVar("T")


class PreferenceTrainer(DPOTrainer):
    """Trains on tokenized examples, in the order of the dataset."""

    loss_is_scaled_for_ga = True  # an update's loss is the mean over its examples, however they are split

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        train_dataset: Dataset,
        collator: Collator,
        tokenizer: PreTrainedTokenizerBase,
        args: DPOConfig,
        reading: Reading,
        peft_config: Any = None,
        advance: Advance | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        """
        Args:
            model: trained inside `attend_packed`.
            train_dataset: from `in_order`.
            reading: of the model.
        """
        self.objective = objective
        self.reading = reading
        self.advance = advance
        self._batch: dict[str, Any] = {}
        use_one_device(args)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            data_collator=collator,
            peft_config=peft_config,
            callbacks=list(callbacks),
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
        packed, counts, shape = inputs["packed"], inputs["counts"], (-1, self.objective.sequences)
        without_noise(model)
        balanced = self.args.router_aux_loss_coef > 0
        weights = counts.repeat_interleave(self.objective.sequences) if balanced else None
        sums, balance = logprobs_and_balance(model, packed, self.reading, weights)
        losses, metrics = self.objective(sums.view(shape), inputs.get("reference"), packed.lengths.view(shape))
        if not torch.isfinite(losses).all():
            raise self._diverged("loss", losses.tolist())
        if balanced:
            losses = losses + self.args.router_aux_loss_coef * balance
            metrics = {**metrics, "aux_loss": balance.detach().expand(len(losses))}
        self._keep(metrics, counts)
        # gradients are averaged over the processes
        return (losses * counts).sum() / num_items_in_batch * self.accelerator.num_processes

    def _keep(self, metrics: dict[str, torch.Tensor], counts: torch.Tensor) -> None:
        """Notes the values of all examples of this pass, of every process."""
        values = torch.stack([*metrics.values(), counts])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.gather(values.T.contiguous()).T
        values = values[:, values[-1] > 0]
        for name, row in zip(metrics, values.tolist(), strict=False):
            self._metrics["train"][name].extend(row)
        if self.advance:
            self.advance(values.shape[1])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise self._diverged("gradient norm", logs["grad_norm"])
        self.model.training = True  # by which TRL finds the values of the training
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
        store.write_text(path, json.dumps(row))
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
        examples = sum(batch["counts"].sum() for batch in batch_samples).to(device)
        return int(self.accelerator.gather(examples).sum())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """A state in the middle of training is no model to describe."""

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""


def train(
    engine: TransformersEngine,
    data: ExampleData,
    objective: Objective,
    reference: ReferenceLogProbs | None,
    training: Training,
    output_dir: Path,
    ledger: Ledger,
    advance: Advance | None = None,
) -> TrainResult:
    """Train a copy of the engine's model on the examples, charged to the role "train".

    The state is saved as it goes, and a training that was cut off goes on from there, as does one whose micro-batches
    memory does not hold, with smaller ones. The state is removed by who has kept the result.

    Args:
        engine: the start model, left as it is.
        reference: of the start model (with adapters: the model without them), None when the objective needs none.
        output_dir: gets the model (safetensors) and its tokenizer.

    Raises:
        TrainingDiverged: when the loss or the gradient is not finite.
        UserError: when memory does not hold a single example, or for an error of the disk.
    """
    start = time.perf_counter()
    if objective.needs_reference and reference is None:
        raise ValueError("the objective needs log-probabilities of the reference")
    saving.check_saveable(engine.model, engine.tokenizer, engine.name)
    cost = ledger.cost(engine, training.peft_config)
    how = train_in_processes if training.launch else train_here
    result = how(engine, data, objective, reference, training, Path(output_dir), advance)
    args = training.args
    batch_size = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    work = trained_work(data, batch_size, args.seed, result.updates)
    flops = cost.training(work)
    size = args.per_device_train_batch_size
    together = micro_batches(data, batch_size, args.seed, result.updates, size, args.world_size)
    ledger.charge(
        "train",
        flops,
        **wasted(flops, work, sum(computed_positions(each, engine.reading) for each in together)),
        trained_tokens=int(work.read),
        updates=result.updates,
        seconds=time.perf_counter() - start,
    )
    return result


def train_here(
    engine: TransformersEngine,
    data: ExampleData,
    objective: Objective,
    reference: ReferenceLogProbs | None,
    training: Training,
    output_dir: Path,
    advance: Advance | None,
) -> TrainResult:
    """As `train`, in this process and charged to nobody: what a process of several does."""
    counted = memory.Counted(advance)

    def attempt(args: DPOConfig) -> PreferenceTrainer:
        counted.take_back()
        with training.tracking.started(args) if training.tracking else nullcontext(args) as tracked:
            return _train(engine, data, objective, reference, replace(training, args=tracked), counted)

    trainer = within_memory(training.args, attempt)
    disable_progress_bar()
    trained = _whole_model(trainer, engine, training.peft_config)
    if trainer.accelerator.is_main_process:
        if training.peft_config is not None:
            trained = trained.float().merge_and_unload()
        with whole(output_dir) as folder:
            saving.save(trained.to(engine.model.dtype), engine.tokenizer, folder)
    trainer.accelerator.wait_for_everyone()
    # sorted as a saved state sorts them, so that the file is the same with and without an interruption
    history = [dict(sorted(row.items())) for row in trainer.state.log_history if "loss" in row]
    return TrainResult(output_dir, trainer.state.global_step, history)


def _whole_model(trainer: PreferenceTrainer, engine: TransformersEngine, peft_config: Any) -> torch.nn.Module:
    """The trained model with all its weights, in the first process at least; all processes are to ask for it."""
    if trainer.accelerator.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return trainer.model
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    model = copy.deepcopy(engine.model)
    if peft_config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
    if trainer.accelerator.is_main_process:
        model.float().load_state_dict(weights)
    return model


def _train(
    engine: TransformersEngine,
    data: ExampleData,
    objective: Objective,
    reference: ReferenceLogProbs | None,
    training: Training,
    advance: Advance,
) -> PreferenceTrainer:
    """The trainer after its last update, from the start or the last saved state."""
    args, peft_config, reading = training.args, training.peft_config, engine.reading
    together = args.per_device_train_batch_size * args.world_size
    an_update = together * args.gradient_accumulation_steps
    model = copy.deepcopy(engine.model)
    if peft_config is None:
        model = model.float()  # small updates vanish in bfloat16; on a GPU autocast does the arithmetic in it
    switch_off_dropout(model)
    if args.router_aux_loss_coef:
        reading = how_to_balance(model, reading, engine.name)
    trainer = PreferenceTrainer(
        model,
        objective,
        in_order(data, an_update, args.seed, together),
        Collator(reference.totals if objective.needs_reference else None),
        engine.tokenizer,
        args,
        reading,
        peft_config,
        advance,
        [SaveState(), *training.callbacks],
    )
    state = last_state(Path(args.output_dir))
    if state:
        advance(min(round(len(data) * args.num_train_epochs), state.step * an_update))
    with attend_packed(model, reading), writing(Path(args.output_dir)):
        trainer.train(resume_from_checkpoint=str(state.folder) if state else None)
    return trainer


def within_memory(args: TrainingArguments, attempt: Callable[[TrainingArguments], T]) -> T:
    """`attempt(args)`; when memory does not hold a micro-batch, again with smaller ones: updates stay the same.

    Raises:
        UserError: when it does not hold a single example.
    """
    while True:
        try:
            return attempt(args)
        except (MemoryError, RuntimeError) as error:
            if (reason := memory.shortage(error)) is None or args.world_size > 1:  # others would wait for ever
                raise
        memory.free()  # the error held the tensors of the failed try
        micro = args.per_device_train_batch_size
        if micro == 1:
            raise UserError(
                f"memory does not hold the training on a single example ({reason}): set gradient_checkpointing=true, "
                "lora_rank, a shorter --max-new-tokens, or take another --device or model"
            )
        batch = micro * args.gradient_accumulation_steps
        smaller = next(size for size in range(micro // 2, 0, -1) if batch % size == 0)
        print(
            f"warning: memory does not hold the training on {micro} examples at once: going on with {smaller}, the "
            f"same updates (micro_batch_size={smaller} avoids the failed try)",
            file=sys.stderr,
        )
        args = copy.copy(args)
        args.per_device_train_batch_size, args.gradient_accumulation_steps = smaller, batch // smaller


def switch_off_dropout(model: torch.nn.Module) -> None:
    """And other noise of training: also where a layer keeps its size as a number, as attention does, which TRL leaves.

    What has another name is off as well where a model trains `without_noise`.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and any(part in name for part in NOISE):
                setattr(module, name, 0.0)


def without_noise(model: torch.nn.Module) -> None:
    """Evaluation mode, in which nothing is random, whatever a model calls it; gradients flow all the same.

    Layers whose activations are computed again on the way back stay in training mode, by which they know that they are
    to do so, but not while they compute.
    """
    model.eval()
    checkpointed = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    layers = [module for module in checkpointed if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        if not isinstance(layer._gradient_checkpointing_func, _QuietCheckpoint):
            layer._gradient_checkpointing_func = _QuietCheckpoint(layer, layer._gradient_checkpointing_func)
    for module in layers or checkpointed:
        module.training = True


@dataclass(frozen=True)
class _QuietCheckpoint:
    """Computes a layer, now and again on the way back, in evaluation mode."""

    layer: GradientCheckpointingLayer
    checkpoint: Callable[..., Any]

    def __call__(self, forward: Callable[..., Any], *args: Any) -> Any:
        def quiet(*args: Any) -> Any:
            before, self.layer.training = self.layer.training, False
            try:
                return forward(*args)
            finally:
                self.layer.training = before

        return self.checkpoint(quiet, *args)


def use_one_device(args: TrainingArguments) -> None:
    """In a process without a launcher, transformers would split each batch over all visible GPUs (DataParallel)."""
    args._n_gpu = min(args.n_gpu, 1)


def training_arguments(options: TrainingOptions, output_dir: Path, seed: int, on_gpu: bool) -> DPOConfig:
    """The options as TRL takes them.

    Raises:
        UserError: when they do not fit together.
    """
    settings = loop_settings(options, output_dir, seed, on_gpu)
    if options.gradient_checkpointing is not None:
        settings["activation_checkpointing"] = options.gradient_checkpointing
    return DPOConfig(
        **settings,
        num_train_epochs=1,
        lr_scheduler_type=options.lr_scheduler,
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        remove_unused_columns=False,
        precompute_ref_log_probs=True,
        router_aux_loss_coef=options.router_aux_loss_coef,
    )


def loop_settings(
    options: TrainingOptions | RewardOptions, output_dir: Path, seed: int, on_gpu: bool
) -> dict[str, Any]:
    """Arguments that all trainings here share: batches in the order of the data, a log of every update, no saving of
    their own. A batch is shared by all processes that a launcher has started.

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
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "activation_checkpointing": on_gpu,
        "dataloader_pin_memory": on_gpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
