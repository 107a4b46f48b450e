"""SSO as a library, used like TRL: a config, a trainer, `train()` and `save_model()`.

    from sso import SSOConfig, SSOTrainer

SSOTrainer is the paper's method (a data generator, then the policy), SSOVersion1Trainer the weighted objective of the
paper's first version. Both keep their results in `args.output_dir`; a second call resumes where the first stopped.
"""

import copy
import json
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import TrainOutput

from harness.budget import Budget
from harness.engines import saving
from harness.engines.base import Sampling
from harness.engines.chat import ChatTemplate
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.files import sources, store
from harness.files.folders import ArmFolder, RunFolder
from harness.methods.base import Lengths, Method, Stage
from harness.methods.prompt_rows import read_row
from harness.methods.prompts import PromptStream, rows_by_name
from harness.methods.row_texts import Malformed
from harness.models import fingerprints
from harness.stages.train import PACKAGES, RunSetup, Trained, train_stages
from harness.training.base import Training
from harness.types import Prompt
from sso.config import (
    GENERATOR_SETTINGS,
    LOOP_SETTINGS,
    LOSS_SETTINGS,
    LOSSES,
    PRINCIPLE_SETTINGS,
    WEIGHTED_SETTINGS,
    WITHOUT_EFFECT,
    PrincipleConfig,
    SSOConfig,
    SSOVersion1Config,
    check_used,
)
from sso.method import SSO
from sso.version1 import SSOVersion1

if TYPE_CHECKING:
    from peft import PeftConfig

DETERMINISM = ("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC")  # variables of full_determinism
VOLATILE = ("_name_or_path", "transformers_version", "use_cache", "_attn_implementation")  # keys of a model's config
DAY_FILE = "date.json"  # in output_dir: the date that the chat template writes, where it writes one


class _Trainer(ABC):
    """Samples responses and trains on them, stage by stage; resumes after an interruption."""

    method: ClassVar[Method]
    config: ClassVar[type[PrincipleConfig]]
    args: Any  # the config of the subclass

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: PrincipleConfig | None = None,
        train_dataset: Iterable[dict[str, Any]] = (),
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: "PeftConfig | None" = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """
        Args:
            model: a folder, a hub id, or a causal language model with its tokenizer as `processing_class`.
            train_dataset: rows with a "prompt", a text or messages.
            processing_class: the tokenizer; with a folder or hub id, it replaces the tokenizer there.
            peft_config: a LoraConfig; adapters are merged into the saved model.

        Raises:
            UserError: when model, data or settings cannot be used.
        """
        self.args = args or self.config(f"{Path(str(model)).name}-{self.method.name}")
        check_used(self.args, dict(vars(type(self.args)(self.args.output_dir))))  # it may have been changed since
        self.prompts = _read_prompts(train_dataset)
        self.options = self._options()
        self.folder = ArmFolder(Path(self.args.output_dir))
        self.day = _first_day(self.folder / DAY_FILE)
        self.engine = self._engine(model, processing_class)
        _check_rows(self.engine.chat, self.prompts)
        saving.check_saveable(self.engine.model, self.engine.tokenizer, self.engine.name)
        self.peft_config, self.callbacks = copy.deepcopy(peft_config), tuple(callbacks)
        self.adapters = _described(peft_config.to_dict()) if peft_config else None
        self.trained: Trained | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The trained policy; before `train`, the model that training starts from."""
        trained = self.trained.engine().local if self.trained else None
        return (trained or self.engine).model

    def train(self) -> TrainOutput:
        """Train the policy.

        Returns:
            The updates of all stages, the mean loss of the last one, and what was spent ("flops", "generated_tokens",
            "trained_tokens").

        Raises:
            UserError: when no response can be used, or there is too little data for one update.
        """
        stages = self.method.stages(self.options)
        with store.only_writer(self.folder.path):
            if self.engine.chat.program.writes_date:
                store.write_json(self.folder / DAY_FILE, self.day.isoformat())
            self.trained = train_stages(stages, self._setup(stages))
        losses = [row["loss"] for row in store.read_jsonl(self.folder.history(stages[-1].name))]
        total = self.trained.ledger.total
        spent = {name: getattr(total, name) for name in ("flops", "generated_tokens", "trained_tokens")}
        return TrainOutput(total.updates, sum(losses) / len(losses), spent)

    def save_model(self, output_dir: str | None = None) -> None:
        """Save the policy and its tokenizer, by default in args.output_dir."""
        folder = output_dir or self.args.output_dir
        saving.save(self.model, self.engine.tokenizer, folder)

    @abstractmethod
    def _budget(self) -> Budget:
        """How many prompts all stages draw together."""

    @abstractmethod
    def _options(self) -> Any:
        """The options of the method, from the config."""

    def _values(self, *names: str) -> dict[str, Any]:
        """Options that all methods here share, and further fields of the config that are options by the same name."""
        args = self.args
        return {
            **{name: getattr(args, name) for name in (*LOOP_SETTINGS, *LOSS_SETTINGS, *PRINCIPLE_SETTINGS, *names)},
            "loss": LOSSES.get(args.loss_type[0], args.loss_type[0]),
            "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps,
        }

    def _engine(self, model: str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> TransformersEngine:
        if isinstance(model, str):
            return self._load(model, tokenizer)
        if tokenizer is None:
            raise UserError("a loaded model needs its tokenizer: pass it as processing_class")
        name = model.config._name_or_path or type(model).__name__
        batch_size = self.args.generation_batch_size
        return TransformersEngine(model.to(self.args.device), tokenizer, name, batch_size, day=self.day)

    def _load(self, path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> TransformersEngine:
        args = self.args
        return TransformersEngine.load(
            path,
            str(args.device),
            "auto",
            args.generation_batch_size,
            args.trust_remote_code,
            day=self.day,
            tokenizer=tokenizer,
        )

    def _depends_on(self) -> dict[str, Any]:
        """Everything that the results of each stage depend on."""
        args, engine, generation = self.args, self.engine, self.engine.model.generation_config
        settings = {name: value for name, value in args.to_dict().items() if name not in WITHOUT_EFFECT}
        environment = fingerprints.of_environment()
        if args.full_determinism:
            environment = {name: value for name, value in environment.items() if name not in DETERMINISM}
        return {
            "model": engine.weights_hash,
            "config": _described(engine.model.config.to_dict()),
            "generation": _described(generation.to_dict()) if generation else None,
            "tokenizer": _tokenizer_digests(engine.tokenizer),
            "date": self.day.isoformat() if engine.chat.program.writes_date else None,
            "adapters": self.adapters,
            "callbacks": [f"{type(each).__module__}.{type(each).__qualname__}" for each in self.callbacks],
            "prompts": store.digest([prompt.content for prompt in self.prompts]),
            "arguments": settings,
            "option files": fingerprints.of_named(vars(self.options).values()),
            "device": str(args.device),
            "engine": "transformers",
            "environment": environment,
            "threads": torch.get_num_threads() if args.device.type == "cpu" else None,
            "packages": fingerprints.of_packages(*PACKAGES),
            "code": sources.digest(sources.TRAINING, "sso.trainer"),
        }

    def _setup(self, stages: Sequence[Stage]) -> "_Setup":
        args = self.args
        return _Setup(
            folder=self.folder,
            shared=RunFolder(self.folder.path),
            budget=self._budget(),
            rule="needed",
            sampling=Sampling(args.max_completion_length, args.temperature, args.top_p, args.seed),
            label=self.method.name,
            trainer=self,
            streams={stage.name: PromptStream(self.prompts, args.seed) for stage in stages},
            dependencies=self._depends_on(),
        )


@dataclass(frozen=True, kw_only=True)
class _Setup(RunSetup):
    """How the stages of a trainer run."""

    trainer: _Trainer
    streams: dict[str, PromptStream]
    dependencies: dict[str, Any]

    def base(self) -> TransformersEngine:
        return self.trainer.engine

    def load(self, checkpoint: Path) -> TransformersEngine:
        return self.trainer._load(checkpoint, self.trainer.engine.tokenizer)

    def depends_on(self, stage: Stage) -> dict[str, Any]:
        return self.dependencies

    def stream(self, stage: Stage) -> PromptStream:
        return self.streams[stage.name]

    def lengths(self, stage: Stage) -> Lengths:
        return Lengths(1, 1, 1)  # a budget in prompts does not use them

    def training(self, stage: Stage, state: Path) -> Training:
        args = copy.copy(self.trainer.args)
        args.output_dir = str(state)
        args.train_sampling_strategy = "sequential"
        args.remove_unused_columns = False
        args.save_strategy = "no"  # SaveState saves
        args.logging_steps = 1  # health reads every update
        args.disable_tqdm = True  # the stages show their own progress
        return Training(args, self.adapters(stage), self.trainer.callbacks)

    def loop(self, stage: Stage) -> dict[str, Any]:
        args, adapters = self.trainer.args, self.trainer.peft_config
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
        return copy.deepcopy(self.trainer.peft_config)  # peft writes into it


class SSOTrainer(_Trainer):
    """Self-Steering Optimization (arXiv 2410.17131, section 4): a data generator, then the policy on its pairs."""

    method = SSO()
    config = SSOConfig

    def _budget(self) -> Budget:
        return Budget("prompts", self._generator_prompts + len(self.prompts))

    @property
    def _generator_prompts(self) -> int:
        return min(self.args.generator_prompts, len(self.prompts))

    def _options(self) -> SSO.Options:
        share = self._generator_prompts / (self._generator_prompts + len(self.prompts))
        return SSO.Options(**self._values(*GENERATOR_SETTINGS), generator_share=share)


class SSOVersion1Trainer(_Trainer):
    """The first version of SSO: a weighted objective on the policy's own pairs, sampled again in each iteration."""

    method = SSOVersion1()
    config = SSOVersion1Config

    def _budget(self) -> Budget:
        return Budget("prompts", self.args.iterations * len(self.prompts))

    def _options(self) -> SSOVersion1.Options:
        return SSOVersion1.Options(**self._values(*WEIGHTED_SETTINGS))


def _first_day(file: Path) -> date:
    """The date that the chat template wrote in a folder's first call; today where there was none."""
    return date.fromisoformat(store.read_json(file)) if file.exists() else date.today()


def _described(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as plain values in a fixed order, without those that change when a model is used."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(name): plain(part) for name, part in value.items() if name not in VOLATILE}
        if isinstance(value, set | frozenset):
            return sorted(map(str, value))
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return value if isinstance(value, str | int | float | bool | None) else str(value)

    return plain(settings)


def _tokenizer_digests(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Digests of the parts of a tokenizer that token ids depend on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str()) if backend else tokenizer.get_vocab()
    for state in ("padding", "truncation"):  # settings of the last call
        if backend:
            model.pop(state, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return {
        "vocabulary": store.digest(model),
        "template": store.digest(tokenizer.chat_template),
        "special tokens": store.digest(special),
        "longest": tokenizer.model_max_length,
    }


def _read_prompts(rows: Iterable[dict[str, Any]]) -> list[Prompt]:
    prompts: list[Prompt] = []
    unused: Counter[str] = Counter()
    for index, row in enumerate(rows):
        try:
            read = read_row(row)
        except Malformed as error:
            raise UserError(f"train_dataset, row {index}: {error}") from None
        unused.update(read.unused)
        place = f"train_dataset, row {index}"
        prompts.append(Prompt(str(index), read.messages, tools=read.tools, variables=read.variables, where=place))
    if not prompts:
        raise UserError("train_dataset has no rows: give rows with a prompt")
    if unused:
        print(f"train_dataset: columns that are not used: {rows_by_name(unused)}", file=sys.stderr)
    return prompts


def _check_rows(chat: ChatTemplate, prompts: Sequence[Prompt]) -> None:
    """
    Raises:
        UserError: when the chat template refuses a row, or leaves out a part of it.
    """
    for prompt in prompts:
        try:
            chat.check(prompt.chat)
        except UserError as error:
            raise UserError(f"{prompt.where}: {error}") from None
