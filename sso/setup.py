"""How the stages of a trainer run in its output_dir: what they depend on, and each stage's training."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from harness.engines.base import TrainableEngine
from harness.engines.quantization import in_four_bits
from harness.engines.transformers import TransformersEngine
from harness.files import sources, store
from harness.methods.base import Lengths, Stage, Start
from harness.methods.prompts import PromptStream
from harness.models import fingerprints
from harness.stages.train import PACKAGES, HeldOut, RunSetup
from harness.training.base import Training
from harness.types import Prompt
from sso.config import WITHOUT_EFFECT
from sso.evaluation import NAMES, held_out
from sso.inputs import described, tokenizer_digests

if TYPE_CHECKING:
    from peft import PeftConfig

DETERMINISM = ("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC")  # variables of full_determinism


@dataclass(frozen=True, kw_only=True)
class TrainerSetup(RunSetup):
    """How the stages of a trainer run.

    args: the config. options: those of the method that were made from it.
    engine: the model that training starts from. load_model: loads the model of a stage.
    compared: ref_model, where one was given.
    eval_prompts: held-out rows; empty where nothing is evaluated while a stage trains.
    streams: a stream of the prompts per stage.
    """

    args: Any
    options: Any
    engine: TransformersEngine
    load_model: Callable[[Path], TransformersEngine]
    compared: TransformersEngine | None
    prompts: Sequence[Prompt]
    eval_prompts: Sequence[Prompt]
    streams: dict[str, PromptStream]
    callbacks: Sequence[TrainerCallback]
    peft_config: "PeftConfig | None"

    def base(self) -> TransformersEngine:
        return self.engine

    def load(self, checkpoint: Path) -> TransformersEngine:
        return self.load_model(checkpoint)

    def stream(self, stage: Stage) -> PromptStream:
        return self.streams[stage.name]

    def lengths(self, stage: Stage) -> Lengths:
        return Lengths(1, 1, 1)  # a budget in prompts does not use them

    def reference(self, stage: Stage, start: TrainableEngine) -> TrainableEngine:
        return self.compared or start

    def held_out(self, stage: Stage, engines: dict[Start, TrainableEngine]) -> HeldOut | None:
        if not self.eval_prompts:
            return None
        return held_out(stage, engines[stage.generator], self.eval_prompts, self.options, self.sampling)

    def training(self, stage: Stage, state: Path) -> Training:
        args = copy.copy(self.args)
        args.output_dir = str(state)
        args.train_sampling_strategy = "sequential"
        args.remove_unused_columns = False
        args.save_strategy = "no"  # SaveState saves
        args.push_to_hub = False
        args.logging_steps = 1  # health reads every update
        args.disable_tqdm = True  # the stages show their own progress
        return Training(args, self.adapters(stage), self.callbacks, names=NAMES)

    def loop(self, stage: Stage) -> dict[str, Any]:
        args, adapters = self.args, self.peft_config
        return {
            **{name: getattr(args, name) for name in ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2")},
            **{name: getattr(args, name) for name in ("max_grad_norm", "num_train_epochs", "max_steps")},
            "micro_batch_size": args.per_device_train_batch_size,
            "warmup_ratio": args.warmup_steps,
            "lr_scheduler": args.lr_scheduler_type.value,
            "gradient_checkpointing": bool(args.activation_checkpointing or args.gradient_checkpointing),
            "lora_rank": getattr(adapters, "r", 0),  # adapters of other kinds have none
            "lora_alpha": getattr(adapters, "lora_alpha", None),
        }

    def adapters(self, stage: Stage) -> "PeftConfig | None":
        return copy.deepcopy(self.peft_config)  # peft writes into it

    def depends_on(self, stage: Stage) -> dict[str, Any]:
        return self._dependencies

    @property
    def quantizing(self) -> tuple[str, ...]:
        """Packages that compute with weights in 4 bits, where the model has such."""
        return ("bitsandbytes",) if in_four_bits(self.engine.model) else ()

    @cached_property
    def _dependencies(self) -> dict[str, Any]:
        args, engine, generation = self.args, self.engine, self.engine.model.generation_config
        settings = {name: value for name, value in args.to_dict().items() if name not in WITHOUT_EFFECT}
        environment = fingerprints.of_environment()
        if args.full_determinism:
            environment = {name: value for name, value in environment.items() if name not in DETERMINISM}
        return {
            "model": engine.weights_hash,
            "reference": self.compared.weights_hash if self.compared else None,
            "config": described(engine.model.config.to_dict()),
            "generation": described(generation.to_dict()) if generation else None,
            "tokenizer": tokenizer_digests(engine.tokenizer),
            "date": engine.day.isoformat() if engine.chat.program.writes_date else None,
            "adapters": described(self.peft_config.to_dict()) if self.peft_config else None,
            "callbacks": [f"{type(each).__module__}.{type(each).__qualname__}" for each in self.callbacks],
            "prompts": store.digest([prompt.content for prompt in self.prompts]),
            "evaluation": store.digest([prompt.content for prompt in self.eval_prompts]) if self.eval_prompts else None,
            "arguments": settings,
            "option files": fingerprints.of_named(vars(self.options).values()),
            "device": str(args.device),
            "engine": "transformers",
            "environment": environment,
            "threads": torch.get_num_threads() if args.device.type == "cpu" else None,
            "packages": fingerprints.of_packages(*PACKAGES, *self.quantizing),
            "code": sources.digest(sources.TRAINING, "sso.trainer"),
        }
