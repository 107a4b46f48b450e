"""Reward models, trained on pairs with the Bradley-Terry loss -log sigmoid(r_chosen - r_rejected).

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
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

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
from harness.training.loop import LoopTrainer, loop_settings, use_padding_token, within_memory
from harness.training.noise import switch_off_dropout
from harness.training.pairs import RewardOptions, tokenize_pairs
from harness.types import Prompt
from harness.work import Nominal, Work

RECORD_FILE = "reward_model.json"  # in the folder of the model: how it was trained
ROLE = "reward model"  # of the spending


@dataclass(frozen=True)
class RewardResult:
    """A trained reward model.

    pairs: how many it was trained on.
    too_long, identical: how many were left out for their length, or because chosen equals rejected.
    loss: loss of the last update, in nats.
    accuracy: share of pairs whose chosen reply has the higher reward, each at its own update of the last epoch.
    spent: outside the budget of the run.
    history: one row per update.
    """

    checkpoint: Path
    pairs: int
    too_long: int
    identical: int
    loss: float
    accuracy: float
    spent: Spending
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class PairCollator:
    """Makes a batch of B pairs: input_ids and attention_mask (2 B, L), the chosen chats first, padded on the right."""

    padding: int  # token id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        chats = [torch.tensor(row[side]) for side in ("chosen_ids", "rejected_ids") for row in rows]
        ids = pad_sequence(chats, batch_first=True, padding_value=self.padding)
        mask = pad_sequence([torch.ones_like(chat) for chat in chats], batch_first=True)
        return {"input_ids": ids, "attention_mask": mask}


class BradleyTerryTrainer(LoopTrainer):
    """Trains a classifier with one output on pairs, with the loss -log sigmoid(r_chosen - r_rejected)."""

    def __init__(
        self,
        model: PreTrainedModel,
        train_dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        args: TrainingArguments,
        advance: Advance | None = None,
    ) -> None:
        """
        Args:
            train_dataset: rows with chosen_ids and rejected_ids.
        """
        self.positions = 0  # in all batches, padding included
        self.tokens = 0
        super().__init__(model, args, train_dataset, PairCollator(tokenizer.pad_token_id), tokenizer, advance)

    def items(self, batch: dict[str, Any]) -> torch.Tensor:
        return torch.tensor(len(batch["input_ids"]) // 2)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> torch.Tensor:
        pairs = len(inputs["input_ids"]) // 2
        rewards = model(**inputs, use_cache=False).logits.squeeze(-1)
        chosen, rejected = rewards.chunk(2)
        loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
        if not torch.isfinite(loss):
            raise self.diverged("loss", loss.item())
        self.positions += inputs["input_ids"].numel()
        self.tokens += int(inputs["attention_mask"].sum())
        self.noted["num_tokens"] = [self.tokens]
        values = {
            "min_reward": rewards.min(),
            "mean_reward": rewards.mean(),
            "max_reward": rewards.max(),
            "accuracy": (chosen > rejected).float().mean(),
            "margin": (chosen - rejected).mean(),
        }
        for name, value in values.items():
            self.noted[name].append(value.item())
        if self.advance:
            self.advance(pairs)
        return loss * pairs / num_items_in_batch * self.accelerator.num_processes  # gradients are averaged over them

    def diverged(self, what: str, value: Any) -> TrainingDiverged:
        return TrainingDiverged(
            f"the {what} of the reward model is not finite at update {self.state.global_step}: lower the learning rate"
        )


def train_reward_model(
    start: TransformersEngine,
    pairs: Sequence[Prompt],
    options: RewardOptions,
    out: Path,
    seed: int,
    advance: Advance | None = None,
) -> RewardResult:
    """Train a reward model on pairs into the folder `out`, unless it holds the result for the same inputs already.

    Args:
        start: the model to train, read again from where it was loaded; it stays as it is.
        pairs: prompts with chosen and rejected.
        out: gets model (safetensors), tokenizer, chat template and the record of the training, all or nothing.
        seed: decides the new head and the order of the pairs.
        advance: called with the number of pairs of each forward pass.

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
    """Digest of everything that a reward model depends on."""
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
            "give other preferences or a larger max_length"
        )
    arguments = _arguments(options, folder, seed, start)
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

    def attempt(args: TrainingArguments) -> BradleyTerryTrainer:
        counted.take_back()
        model = _with_new_head(start, seed)
        use_padding_token(model, tokenizer)
        trainer = BradleyTerryTrainer(model, dataset, tokenizer, args, counted)
        trainer.train()
        return trainer

    trainer = within_memory(arguments, attempt)
    model = trainer.model
    disable_progress_bar()
    # A classifier has no generation config: its own config must name the tokens that end a reply.
    model.config.get_text_config().eos_token_id = list(start.stop_tokens)
    saving.save(model, tokenizer, folder)
    ledger = Ledger(rule="nominal")
    tokens = data.tokens * options.epochs
    ledger.charge(
        ROLE,
        Nominal(loading.parameter_count(model)).training(Work(read=tokens)),
        trained_tokens=tokens,
        padding_tokens=trainer.positions - tokens,
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
    set_seed(seed)  # decides the random head
    with loading.load_errors(start.name):
        model, missing = loading.load_model(AutoModelForSequenceClassification, start.name, torch.float32, num_labels=1)
    if any(name.startswith(f"{model.base_model_prefix}.") for name in missing):
        raise UserError(f"{start.name} ({type(model).__name__}) cannot be made a reward model: weights are missing")
    switch_off_dropout(model)
    return model


def _arguments(options: RewardOptions, folder: Path, seed: int, start: TransformersEngine) -> TrainingArguments:
    on_gpu, bf16 = start.device.type != "cpu", start.model.dtype == torch.bfloat16
    return TrainingArguments(
        **loop_settings(options, folder, seed, on_gpu, bf16),
        num_train_epochs=options.epochs,
        lr_scheduler_type="cosine",
    )
