"""A reference that follows the policy (TR-DPO, Gorbatovski et al. 2024, arXiv 2404.09656), as TRL's `sync_ref_model`.

It is a second model in memory. Each batch is read by it just before the policy is trained on it, so every example is
read once, as with a reference that stays.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from harness.engines.logprobs import Reading, sequence_logprobs
from harness.engines.packing import PackedBatch
from harness.training.examples import ReferenceSync
from harness.training.state import state_folder

FILE = "reference.safetensors"


@dataclass
class MovingReference(TrainerCallback):
    """Reads batches, and moves towards the policy: reference <- (1 - mixup) reference + mixup policy.

    model: a copy of the policy as training starts.
    """

    model: PreTrainedModel
    sync: ReferenceSync
    reading: Reading

    def __post_init__(self) -> None:
        self.model.requires_grad_(False).eval()

    def load(self, folder: Path) -> None:
        """Go on from a saved state."""
        load_model(self.model, folder / FILE)

    def logprobs(self, batch: PackedBatch) -> torch.Tensor:
        """The (S,) sums of the log-probabilities of a batch's completions, in nats."""
        with torch.no_grad():
            return sequence_logprobs(self.model, batch, self.reading)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **_: Any,
    ) -> None:
        if model is None or state.global_step % self.sync.steps:
            return
        with torch.no_grad():
            for own, new in zip(self.model.parameters(), model.parameters(), strict=True):
                own.lerp_(new.to(own.dtype), self.sync.mixup)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        save_model(self.model, str(state_folder(Path(args.output_dir), state.global_step) / FILE))
