"""Reward models: TRL's RewardTrainer on pairs, with the Bradley-Terry loss -log sigmoid(r_chosen - r_rejected).

A reward model starts as a language model with a new head of one output (Ouyang et al. 2022, eq. 1). Text is turned
into token ids once, the same way as when the reward model scores it.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar
from trl import RewardConfig, RewardTrainer

import harness
from harness.budget import Ledger, Spending
from harness.engines import loading, saving
from harness.engines.classifier import spare_token
from harness.engines.memory import Counted
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.files import store
from harness.files.disk import whole
from harness.progress import Advance
from harness.training.base import TrainingDiverged
from harness.training.dataset import update_order
from harness.training.pairs import RewardOptions, tokenize_pairs
from harness.training.trainer import loop_settings, switch_off_dropout, use_one_device, within_memory
from harness.types import Prompt
from harness.work import Nominal, Work

RECORD_FILE = "reward_model.json"  # in the folder of the model: how it was trained
ROLE = "reward model"  # of the spending


@dataclass(frozen=True)
class RewardResult:
    """A trained reward model.

    pairs: trained on. too_long, identical: pairs left out, for their length or because chosen equals rejected.
    loss: of the last update, nats. accuracy: share of pairs with a higher reward for chosen than for rejected, each at
    its own update of the last epoch. spent: apart from the budget of the run. history: one row an update.
    """

    checkpoint: Path
    pairs: int
    too_long: int
    identical: int
    loss: float
    accuracy: float
    spent: Spending
    history: list[dict]


class BradleyTerryTrainer(RewardTrainer):
    """TRL's trainer on token ids, in the order of the dataset."""

    loss_is_scaled_for_ga = True  # an update's loss is the mean over its pairs, however they are split

    def __init__(
        self,
        model: PreTrainedModel,
        train_dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        args: RewardConfig,
        advance: Advance | None = None,
    ):
        """
        Args:
            train_dataset: rows with chosen_ids and rejected_ids, which TRL takes as they are.
        """
        self.advance = advance
        self.padded_tokens = 0  # in all batches, padding included
        use_one_device(args)
        super().__init__(model=model, args=args, train_dataset=train_dataset, processing_class=tokenizer)
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> torch.Tensor:
        pairs = len(inputs["input_ids"]) // 2
        self.padded_tokens += inputs["input_ids"].numel()
        loss = super().compute_loss(model, inputs)
        if not torch.isfinite(loss):
            raise self._diverged("loss")
        if self.advance:
            self.advance(pairs)
        return loss * pairs / num_items_in_batch * self.accelerator.num_processes  # gradients are averaged over them

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise self._diverged("gradient norm")
        super().log(logs, start_time)

    def _diverged(self, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"the {what} of the reward model is not finite at update {self.state.global_step}: lower the learning rate"
        )

    def _get_num_items_in_batch(self, batch_samples: list[dict], device: torch.device) -> int:
        """Pairs of an update, over all processes."""
        pairs = torch.tensor(sum(len(batch["input_ids"]) // 2 for batch in batch_samples), device=device)
        return int(self.accelerator.gather(pairs).sum())

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""


def train_reward_model(
    start: TransformersEngine,
    pairs: Sequence[Prompt],
    options: RewardOptions,
    out: Path,
    seed: int,
    advance: Advance | None = None,
) -> RewardResult:
    """The reward model of these pairs in the folder `out`; one that is there already, of the same inputs, is kept.

    Args:
        start: the model that is trained, read again from where it was loaded; left as it is.
        pairs: prompts with chosen and rejected.
        out: gets model (safetensors), tokenizer, chat template and the record of the training, whole or not at all.
        seed: of the new head and the order of the pairs.
        advance: called with the pairs of each forward pass.

    Raises:
        UserError: when no pair can be trained on, or the options do not fit together.
        TrainingDiverged: when the loss or the gradient is not finite.
    """
    key = training_key(start, pairs, options, seed)
    record_file = out / RECORD_FILE
    if record_file.exists():
        record = store.read_json(record_file)
        if record.pop("key") == key:
            spent = Spending(**record.pop("spent"))
            return RewardResult(checkpoint=out, spent=spent, **record)
    with whole(out) as folder:
        result = _train(start, pairs, options, folder, seed, advance)
        record = {name: value for name, value in asdict(result).items() if name != "checkpoint"}
        store.write_json(folder / RECORD_FILE, {"key": key, **record})
    return RewardResult(**{**vars(result), "checkpoint": out})


def training_key(start: TransformersEngine, pairs: Sequence[Prompt], options: RewardOptions, seed: int) -> str:
    """Digest of all that a reward model depends on."""
    return store.digest(
        [harness.__version__, start.weights_hash, [asdict(pair) for pair in pairs], asdict(options), seed]
    )


def _train(
    start: TransformersEngine,
    pairs: Sequence[Prompt],
    options: RewardOptions,
    folder: Path,
    seed: int,
    advance: Advance | None,
) -> RewardResult:
    begin = time.perf_counter()
    saving.check_saveable(start.model, start.tokenizer, start.name)
    data = tokenize_pairs(start, pairs, options.max_length)
    if not len(data):
        raise UserError(
            f"there is no pair to train a reward model on: of {len(pairs)}, {data.too_long} are longer than "
            f"{min(options.max_length, start.context_length)} tokens and {data.identical} have equal replies; "
            "give other preferences, or a larger max_length"
        )
    on_gpu = start.device.type != "cpu"
    arguments = _arguments(options, folder, seed, on_gpu)
    tokenizer = copy.deepcopy(start.tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(spare_token(tokenizer, start.chat.last_token()))
    order = update_order(data.lengths, options.batch_size, seed)
    dataset = Dataset.from_dict(
        {
            "chosen_ids": [data.chosen[index] for index in order],
            "rejected_ids": [data.rejected[index] for index in order],
        }
    )
    counted = Counted(advance)

    def attempt(args: RewardConfig) -> BradleyTerryTrainer:
        counted.take_back()
        trainer = BradleyTerryTrainer(_with_new_head(start, seed), dataset, tokenizer, args, counted)
        trainer.train()
        return trainer

    trainer = within_memory(arguments, attempt)
    model = trainer.model
    disable_progress_bar()
    # What ends a reply has to be the same for the reward model, which has no generation config to say it.
    model.config.get_text_config().eos_token_id = list(start.stop_tokens)
    saving.save(model.to(start.model.dtype), tokenizer, folder)
    ledger = Ledger(rule="nominal")
    tokens = data.tokens * options.epochs
    ledger.charge(
        ROLE,
        Nominal(loading.parameter_count(model)).training(Work(read=tokens)),
        trained_tokens=tokens,
        padding_tokens=trainer.padded_tokens - tokens,
        updates=trainer.state.global_step,
        discarded=data.too_long + data.identical,
        seconds=time.perf_counter() - begin,
    )
    history = [row for row in trainer.state.log_history if "loss" in row]
    last = history[-math.ceil(len(data) / options.batch_size) :]
    sizes = [min(options.batch_size, len(data) - index * options.batch_size) for index in range(len(last))]
    return RewardResult(
        folder,
        len(data),
        data.too_long,
        data.identical,
        history[-1]["loss"],
        fmean([row["accuracy"] for row in last], sizes),
        ledger.roles[ROLE],
        history,
    )


def _with_new_head(start: TransformersEngine, seed: int) -> PreTrainedModel:
    """The start model as a classifier with one output, in float32 (as in `trainer.train`), without dropout."""
    set_seed(seed)  # the head is random
    with loading.load_errors(start.name):
        model, missing = loading.load_model(AutoModelForSequenceClassification, start.name, torch.float32, num_labels=1)
    if any(name.startswith(f"{model.base_model_prefix}.") for name in missing):
        raise UserError(f"{start.name} ({type(model).__name__}) can not be made a reward model: weights are missing")
    switch_off_dropout(model)
    return model


def _arguments(options: RewardOptions, folder: Path, seed: int, on_gpu: bool) -> RewardConfig:
    return RewardConfig(
        **loop_settings(options, folder, seed, on_gpu),
        num_train_epochs=options.epochs,
        lr_scheduler_type="cosine",
        max_length=None,
        pad_to_multiple_of=None,
    )
