"""Training on examples: transformers' Trainer with any objective over k sequences.

The loop, optimizer, schedule, clipping, mixed precision and distributed training are those of transformers; the
batches and the loss come from here. Log-probabilities of the reference are computed before training, so there is never
a second model in memory.
"""

import copy
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, set_seed
from transformers.utils.logging import disable_progress_bar

from harness.budget import Ledger
from harness.engines import memory, saving
from harness.engines.base import TrainableEngine
from harness.engines.logprobs import Reading, attend_packed, computed_positions, logprobs_and_balance
from harness.engines.reading import how_to_balance
from harness.errors import UserError
from harness.files import store
from harness.files.disk import writing
from harness.progress import Advance
from harness.training.base import PreferenceArguments, Training, TrainingDiverged, TrainResult
from harness.training.copies import SaveSnapshots, quiet_copy, save_trained, snapshot, with_adapters
from harness.training.dataset import Collator, ExampleData, in_order, micro_batches, trained_work, update_works
from harness.training.evaluation import Evaluation, evaluate
from harness.training.examples import Objective, TrainingOptions, sync_of
from harness.training.loop import LoopTrainer, loop_settings, within_memory
from harness.training.moving_reference import MovingReference
from harness.training.noise import without_noise
from harness.training.processes.start import train_in_processes
from harness.training.reference import ReferenceLogProbs
from harness.training.state import SaveState, last_state
from harness.work import wasted

DIVERGED_FILE = "diverged_batch.json"


class PreferenceTrainer(LoopTrainer):
    """Trains on tokenized examples with an objective."""

    control: Any  # TrainerControl

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        train_dataset: Dataset,
        collator: Collator,
        tokenizer: PreTrainedTokenizerBase,
        args: PreferenceArguments,
        reading: Reading,
        advance: Advance | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        evaluation: Evaluation | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            model: trained inside `attend_packed`.
            train_dataset: from `in_order`.
            reading: how to read the model's log-probabilities.
        """
        self.objective = objective
        self.reading = reading
        self.moving: MovingReference | None = None
        self.evaluation = evaluation
        self._batch: dict[str, Any] = {}
        held_out = evaluation.data.rows if evaluation else None
        super().__init__(model, args, train_dataset, collator, tokenizer, advance, callbacks, held_out, names)

    def items(self, batch: dict[str, Any]) -> torch.Tensor:
        return batch["counts"].sum()

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
        given = {"targets": inputs["targets"]} if "targets" in inputs else {}
        reference = inputs.get("reference")
        if self.moving:
            with self.accelerator.autocast():
                reference = self.moving.logprobs(packed).view(shape)
        losses, metrics = self.objective(sums.view(shape), reference, packed.lengths.view(shape), **given)
        if not torch.isfinite(losses).all():
            raise self.diverged("loss", losses.tolist())
        if balance is not None:
            losses = losses + self.args.router_aux_loss_coef * balance
            metrics = {**metrics, "aux_loss": balance.detach().expand(len(losses))}
        self._note(metrics, counts)
        # gradients are averaged over the processes
        return (losses * counts).sum() / num_items_in_batch * self.accelerator.num_processes

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Log loss and metrics of the held-out examples, and return them."""
        if self.evaluation is None:
            raise ValueError("there are no held-out examples")
        size = self.args.per_device_eval_batch_size
        values = evaluate(self.model, self.evaluation, self.reading, size, self.args.device)
        metrics = {f"{metric_key_prefix}_{self.names.get(name, name)}": value for name, value in values.items()}
        Trainer.log(self, metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _note(self, metrics: dict[str, torch.Tensor], counts: torch.Tensor) -> None:
        """Note the values of all examples of this pass, over all processes."""
        values = torch.stack([*metrics.values(), counts])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.gather(values.T.contiguous()).T
        values = values[:, values[-1] > 0]
        for name, row in zip(metrics, values.tolist(), strict=False):
            self.noted[name].extend(row)
        if self.advance:
            self.advance(values.shape[1])

    def diverged(self, what: str, value: Any) -> TrainingDiverged:
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


def train(
    engine: TrainableEngine,
    data: ExampleData,
    objective: Objective,
    reference: ReferenceLogProbs | None,
    training: Training,
    output_dir: Path,
    ledger: Ledger,
    advance: Advance | None = None,
) -> TrainResult:
    """Train a copy of the engine's model on the examples, charged to the role "train", and to "reference" what a
    reference reads that follows the policy.

    The state is saved along the way. An interrupted training resumes from it, and one whose micro-batches do not fit
    into memory resumes with smaller ones. The caller removes the state once it has kept the result.

    Args:
        engine: the start model; its weights stay as they are.
        reference: log-probabilities of the start model (with adapters: the model without them), None where the
            objective needs none, or one that follows the policy.
        output_dir: gets the model (safetensors) and its tokenizer.

    Raises:
        TrainingDiverged: when the loss or the gradient is not finite.
        UserError: when memory does not hold a single example, or the disk fails.
    """
    start = time.perf_counter()
    sync = sync_of(objective)
    if objective.needs_reference and reference is None and sync is None:
        raise ValueError("the objective needs log-probabilities of the reference")
    if sync and (training.processes or training.peft_config is not None):
        raise UserError(
            "a reference that follows the policy is a second model in this process: train without --gpus, --launcher "
            "and adapters, or with reference=fixed"
        )
    saving.check_saveable(engine.model, engine.tokenizer, engine.name)
    ledger.cost(engine, training.peft_config)  # before the work: it may be that nothing can count it
    if training.processes:
        result = train_in_processes(engine, data, objective, reference, training, Path(output_dir), advance)
    else:
        result = train_here(engine, data, objective, reference, training, Path(output_dir), advance)
    charge_updates(ledger, engine, data, objective, training, result.updates, time.perf_counter() - start)
    return result


def charge_updates(
    ledger: Ledger,
    engine: TrainableEngine,
    data: ExampleData,
    objective: Objective,
    training: Training,
    updates: int,
    seconds: float = 0.0,
) -> None:
    """Charge the first updates of a training to the role "train", and to "reference" what a reference reads that
    follows the policy.

    Raises:
        BudgetExceeded: when the ledger's cap is exceeded.
    """
    args = training.args
    work = trained_work(data, _batch_size(args), args.seed, updates)
    flops = ledger.cost(engine, training.peft_config).training(work)
    size = args.per_device_train_batch_size
    passes = micro_batches(data, _batch_size(args), args.seed, updates, size, args.world_size)
    ledger.charge(
        "train",
        flops,
        **wasted(flops, work, sum(computed_positions(sequences, engine.reading) for sequences in passes)),
        trained_tokens=int(work.read),
        updates=updates,
        seconds=seconds,
    )
    if sync_of(objective):
        ledger.charge(
            "reference",
            ledger.cost(engine).forward(work),
            calls=min(updates * _batch_size(args), len(data)) * data.sequences,
            prompt_tokens=int(work.read),
        )


def flops_by_update(
    ledger: Ledger, engine: TrainableEngine, data: ExampleData, objective: Objective, training: Training
) -> list[float]:
    """FLOPs of each update of one pass over the examples, as `charge_updates` counts them."""
    args = training.args
    cost, reads = ledger.cost(engine, training.peft_config), sync_of(objective) is not None
    works = update_works(data, _batch_size(args), args.seed)
    return [cost.training(work) + (cost.forward(work) if reads else 0.0) for work in works]


def _batch_size(args: PreferenceArguments) -> int:
    return args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps


def train_here(
    engine: TrainableEngine,
    data: ExampleData,
    objective: Objective,
    reference: ReferenceLogProbs | None,
    training: Training,
    output_dir: Path,
    advance: Advance | None,
) -> TrainResult:
    """Train as `train` does, in this process and without charging the ledger; each of several processes calls this."""
    counted = memory.Counted(advance)

    def attempt(args: PreferenceArguments) -> PreferenceTrainer:
        counted.take_back()
        with training.tracking.started(args) if training.tracking else nullcontext(args) as tracked:
            return _train(engine, data, objective, reference, replace(training, args=tracked), counted)

    trainer = within_memory(training.args, attempt)
    disable_progress_bar()
    save_trained(trainer, engine, training.peft_config, output_dir)
    # sorted as in a saved state, so that the file is the same with and without an interruption
    ours = {shown: name for name, shown in training.names.items()}
    history = [
        dict(sorted((ours.get(name, name), value) for name, value in row.items()))
        for row in trainer.state.log_history
        if "loss" in row
    ]
    evaluations = [dict(sorted(row.items())) for row in trainer.state.log_history if "eval_loss" in row]
    return TrainResult(output_dir, trainer.state.global_step, history, evaluations)


def _train(
    engine: TrainableEngine,
    data: ExampleData,
    objective: Objective,
    reference: ReferenceLogProbs | None,
    training: Training,
    advance: Advance,
) -> PreferenceTrainer:
    """Return the trainer after its last update; training starts afresh or resumes from the last saved state."""
    args, peft_config, reading = training.args, training.peft_config, engine.reading
    per_pass = args.per_device_train_batch_size * args.world_size
    per_update = per_pass * args.gradient_accumulation_steps
    model = quiet_copy(engine, all_weights=peft_config is None)
    if args.router_aux_loss_coef:
        reading = how_to_balance(model, reading, engine.name)
    if peft_config is not None:
        set_seed(args.seed)  # adapters start at random
        model = with_adapters(model, peft_config, args, engine.name)
    trainer = PreferenceTrainer(
        model,
        objective,
        in_order(data, per_update, args.seed, per_pass),
        Collator(reference.totals if reference and objective.needs_reference else None),
        engine.tokenizer,
        args,
        reading,
        advance,
        [SaveState(), *training.callbacks],
        training.evaluation,
        training.names,
    )
    trainer.add_callback(SaveSnapshots(trainer, engine, peft_config, training.snapshots))
    folder = Path(args.output_dir)
    state = last_state(folder)
    if state and not all(snapshot(folder, each).exists() for each in training.snapshots if each <= state.step):
        state = None  # of a training with other snapshots
    reference_model = None
    if sync := sync_of(objective):
        reference_model = copy.deepcopy(trainer.model)
        trainer.moving = MovingReference(reference_model, sync, reading)
        trainer.callback_handler.callbacks.insert(0, trainer.moving)  # saves before SaveState marks a state as complete
        if state:
            trainer.moving.load(state.folder)
    if state:
        advance(min(round(len(data) * args.num_train_epochs), state.step * per_update))
    also = attend_packed(reference_model, reading) if reference_model else nullcontext()
    with attend_packed(model, reading), also, writing(folder):
        trainer.train(resume_from_checkpoint=str(state.folder) if state else None)
    return trainer


def training_arguments(
    options: TrainingOptions, output_dir: Path, seed: int, on_gpu: bool, bf16: bool
) -> PreferenceArguments:
    """The options as arguments of transformers' Trainer.

    Raises:
        UserError: when they do not fit together.
    """
    settings = loop_settings(options, output_dir, seed, on_gpu, bf16)
    if options.gradient_checkpointing is not None:
        settings["activation_checkpointing"] = options.gradient_checkpointing
    return PreferenceArguments(
        **settings,
        num_train_epochs=1,
        lr_scheduler_type=options.lr_scheduler,
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        router_aux_loss_coef=options.router_aux_loss_coef,
    )
