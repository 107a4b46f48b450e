"""SSO as a library, used like TRL: a config, a trainer, `train()` and `save_model()`.

    from sso import SSOConfig, SSOTrainer

SSOTrainer is the paper's method (a data generator, then the policy), SSOVersion1Trainer the weighted objective of the
paper's first version. Both keep their results in `args.output_dir`; a second call resumes where the first stopped.
"""

import copy
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import transformers
from accelerate import PartialState
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import log_metrics, metrics_format, save_metrics, save_state
from transformers.trainer_utils import TrainOutput

from harness.budget import Budget, Ledger
from harness.engines import saving
from harness.engines.base import Sampling
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.files import store
from harness.files.folders import ArmFolder, RunFolder
from harness.methods.base import Method, Start
from harness.methods.prompts import PromptStream
from harness.stages.train import LOOP, Trained, train_stages
from sso.card import model_card, upload
from sso.config import PrincipleConfig, SSOConfig, SSOVersion1Config, check_used, method_options
from sso.errors import library_errors
from sso.evaluation import NAMES, check_alike, evaluate_policy, held_out
from sso.inputs import check_arguments, check_rows, merged, read_prompts
from sso.loading import loading_of
from sso.method import SSO
from sso.setup import TrainerSetup
from sso.state import check_resuming, finished_state
from sso.version1 import SSOVersion1

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import BitsAndBytesConfig

DAY_FILE = "date.json"  # in output_dir: the date that the chat template writes, where it writes one
CARD = "README.md"
Rows = Iterable[dict[str, Any]]


class PrincipleTrainer(ABC):
    """Samples responses and trains on them, stage by stage; resumes after an interruption.

    It has the attributes and methods of a transformers Trainer that scripts use. Each stage is trained by a Trainer of
    its own, which callbacks see.
    """

    method: ClassVar[Method]
    config: ClassVar[type[PrincipleConfig]]
    args: Any  # the config of the subclass
    log_metrics, save_metrics, save_state = log_metrics, save_metrics, save_state
    metrics_format = staticmethod(metrics_format)

    def __init__(
        self,
        model: "str | PreTrainedModel | PeftModel",
        ref_model: str | PreTrainedModel | None = None,
        args: PrincipleConfig | None = None,
        data_collator: None = None,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[None, None] = (None, None),
        quantization_config: "BitsAndBytesConfig | None" = None,
        peft_config: "PeftConfig | None" = None,
        **others: Any,
    ) -> None:
        """
        Args:
            model: a folder, a hub id, or a causal language model with its tokenizer as `processing_class`. The adapters
                of a PeftModel are merged into a copy of its model, and new ones of the same configuration are trained.
            ref_model: the reference of all stages; by default the model that a stage starts from.
            train_dataset: rows with a "prompt", a text or messages.
            eval_dataset: rows with a prompt, or labelled pairs (prompt, chosen and rejected), evaluated as
                args.eval_strategy says.
            processing_class: the tokenizer; with a folder or hub id, it replaces the tokenizer there.
            quantization_config: a BitsAndBytesConfig with load_in_4bit; the weights of `model` stay in 4 bits, and
                adapters on them are trained and saved.
            peft_config: a LoraConfig; adapters are merged into the saved model, unless its weights are in 4 bits.
            data_collator, compute_metrics, optimizers: arguments of DPOTrainer that are refused.

        Raises:
            ValueError: when model, data or settings cannot be used.
        """
        with library_errors():
            if isinstance(ref_model, TrainingArguments):
                raise UserError("args is the third argument, as in DPOTrainer: write args=...")
            refused = {"data_collator": data_collator, "compute_metrics": compute_metrics, "optimizers": optimizers}
            check_arguments(type(self).__name__, {**refused, **others})
            name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
            self.args = args or self.config(f"{Path(name or 'model').name}-{self.method.name}")
            check_used(self.args, dict(vars(type(self.args)(self.args.output_dir))))  # it may have been changed since
            self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
            self.prompts = read_prompts(train_dataset, "train_dataset")
            self.eval_prompts = [] if eval_dataset is None else read_prompts(eval_dataset, "eval_dataset", pairs=True)
            self.options = self._options()
            self.folder = ArmFolder(Path(self.args.output_dir))
            self.day = _first_day(self.folder / DAY_FILE)
            model, peft_config = merged(model, peft_config)
            self._loading = loading_of(self.args, model, quantization_config, peft_config, self.day)
            self.engine = self._loading.engine(model, processing_class)
            self.reference = None if ref_model is None else self._loading.engine(ref_model, self.engine.tokenizer)
            check_rows(self.engine.chat, self.prompts)
            self._check_evaluation(self.eval_prompts)
            saving.check_saveable(self.engine.model, self.engine.tokenizer, self.engine.name)
        self.ref_model, self.peft_config = ref_model, copy.deepcopy(peft_config)
        self.callbacks = [each() if isinstance(each, type) else each for each in callbacks or ()]
        self.trained: Trained | None = None
        self.state, self.control = TrainerState(), TrainerControl()
        self.accelerator = PartialState()

    def __getattr__(self, name: str) -> Any:
        if hasattr(transformers.Trainer, name):
            raise AttributeError(
                f"{type(self).__name__} has no {name}: each stage is trained by a Trainer of its own, and what they "
                "leave is in model, state and args.output_dir"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def model(self) -> PreTrainedModel:
        """The trained policy (a PeftModel where weights are in 4 bits); before `train`, the start model."""
        policy = self._policy
        return policy.model if policy.adapted is None else policy.adapted

    @property
    def processing_class(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return self.engine.tokenizer

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: None = None,
        ignore_keys_for_eval: None = None,
    ) -> TrainOutput:
        """Train the policy. What an earlier call has finished in args.output_dir is not repeated.

        Args:
            resume_from_checkpoint: True, or args.output_dir, asks for results of an earlier call there.

        Returns:
            The updates of all stages, the mean loss of the last one, and what was spent ("flops", "generated_tokens",
            "trained_tokens").

        Raises:
            ValueError: when no response can be used, there is too little data for one update, or there is nothing to
                resume from.
        """
        with library_errors():
            if trial is not None or ignore_keys_for_eval is not None:
                raise UserError(f"{type(self).__name__}.train() does not take trial or ignore_keys_for_eval")
            asked = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
            check_resuming(self.folder, asked)
            setup = self._setup()
            with store.only_writer(self.folder.path):
                if self.engine.chat.program.writes_date:
                    store.write_json(self.folder / DAY_FILE, self.day.isoformat())
                self.trained = train_stages(self._stages, setup)
        total = self.trained.ledger.total
        losses = [row["loss"] for row in store.read_jsonl(self.folder.history(self._stages[-1].name))]
        loss = sum(losses) / len(losses)
        self.state = finished_state(self.folder, [stage.name for stage in self._stages], loss)
        spent = {name: getattr(total, name) for name in ("flops", "generated_tokens", "trained_tokens")}
        return TrainOutput(total.updates, loss, {**spent, "train_loss": loss})

    def evaluate(
        self,
        eval_dataset: Rows | None = None,
        ignore_keys: None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate the policy on held-out rows (see the documentation of training for what is measured).

        Args:
            eval_dataset: rows in place of those of the trainer.

        Returns:
            "eval_loss", "eval_rewards/margins", "eval_rewards/accuracies" and so on: means over the rows.

        Raises:
            ValueError: when there are no rows, or none can be used.
        """
        with library_errors():
            if ignore_keys is not None:
                raise UserError(f"{type(self).__name__}.evaluate() does not take ignore_keys")
            prompts = self.eval_prompts if eval_dataset is None else read_prompts(eval_dataset, "eval_dataset", True)
            if not prompts:
                raise UserError("eval_dataset is missing: give it to the trainer, or to evaluate()")
            self._check_evaluation(prompts)
            stage, sampling = self._stages[-1], self._sampling
            rows = held_out(stage, self._last_stage_model(stage.generator), prompts, self.options, sampling)
            reference = self.reference or self._last_stage_model(stage.start)
            values = evaluate_policy(self._policy, reference, rows, self.args.per_device_eval_batch_size)
        metrics = {f"{metric_key_prefix}_{NAMES.get(name, name)}": value for name, value in values.items()}
        self.state.log_history.append({**metrics, "stage": self._stages[-1].name, "step": self.state.global_step})
        for each in self.callbacks:
            each.on_log(self.args, self.state, self.control, logs=dict(metrics), model=self.model)
            each.on_evaluate(self.args, self.state, self.control, metrics=metrics, model=self.model)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy and its tokenizer, by default in args.output_dir; upload it where args.push_to_hub is set."""
        save = saving.save if self._policy.adapted is None else saving.save_adapters
        save(self.model, self.engine.tokenizer, output_dir or self.args.output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | list[str] | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """Write README.md in args.output_dir: how to use the policy, what was spent, settings, and the paper."""
        self._write_card(Path(self.args.output_dir), model_name, dataset_name, tags)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> Any:
        """Upload the policy, its tokenizer and its card to args.hub_model_id (by default the name of output_dir).

        Args:
            card: arguments of `create_model_card`.

        Raises:
            ValueError: when the hub refuses it.
        """
        args, repository = self.args, self.hub_model_id
        with library_errors(), tempfile.TemporaryDirectory(prefix="sso-") as folder:
            if not blocking:
                raise UserError("push_to_hub uploads before it returns: leave out blocking=False")
            self.save_model(folder, _internal_call=True)
            self._write_card(Path(folder), **{"model_name": repository.rpartition("/")[2], **card})
            return upload(
                folder,
                repository,
                commit_message,
                private=args.hub_private_repo if private is None else private,
                token=token or args.hub_token,
                revision=revision or args.hub_revision,
            )

    @property
    def hub_model_id(self) -> str:
        """The repository of push_to_hub."""
        return self.args.hub_model_id or Path(self.args.output_dir).name

    def add_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        """Add a callback, or one of a class; it is called in the stages that `train` has still to train."""
        self.callbacks.append(callback() if isinstance(callback, type) else callback)

    def pop_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> TrainerCallback | None:
        """Remove a callback, or the first one of a class, and return it; None where there is none."""
        for each in self.callbacks:
            if isinstance(each, callback) if isinstance(callback, type) else each == callback:
                self.callbacks.remove(each)
                return each
        return None

    def remove_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        """Remove a callback, or the first one of a class."""
        self.pop_callback(callback)

    def is_world_process_zero(self) -> bool:
        """True: the trainer trains in one process."""
        return True

    is_local_process_zero = is_world_process_zero

    @abstractmethod
    def _budget(self) -> Budget:
        """How many prompts all stages draw together."""

    @abstractmethod
    def _options(self) -> Any:
        """The options of the method, from the config."""

    @property
    def _stages(self) -> list[Any]:
        return self.method.stages(self.options)

    @property
    def _policy(self) -> TransformersEngine:
        trained = self.trained.engine().local if self.trained else None
        return trained if isinstance(trained, TransformersEngine) else self.engine

    def _last_stage_model(self, which: Start) -> TransformersEngine:
        """The start model, or what is current before the last stage; before `train`, the start model."""
        if which == "base" or len(self._stages) == 1 or not self.trained:
            return self.engine
        return self._loading.stage(self.folder.checkpoint(self._stages[-2].name), self.engine)

    @property
    def _sampling(self) -> Sampling:
        args = self.args
        return Sampling(args.max_completion_length, args.temperature, args.top_p, args.seed)

    def _setup(self) -> TrainerSetup:
        return TrainerSetup(
            folder=self.folder,
            shared=RunFolder(self.folder.path),
            budget=self._budget(),
            rule="needed",
            sampling=self._sampling,
            label=self.method.name,
            args=self.args,
            options=self.options,
            engine=self.engine,
            load_model=lambda checkpoint: self._loading.stage(checkpoint, self.engine),
            compared=self.reference,
            prompts=self.prompts,
            eval_prompts=self.eval_prompts if self.args.eval_strategy != "no" else (),
            streams={stage.name: PromptStream(self.prompts, self.args.seed) for stage in self._stages},
            callbacks=tuple(self.callbacks),
            peft_config=copy.deepcopy(self.peft_config),
        )

    def _check_evaluation(self, prompts: list[Any]) -> None:
        if not prompts:
            if self.args.eval_strategy != "no":
                raise UserError(f"eval_strategy={self.args.eval_strategy.value} needs an eval_dataset")
            return
        check_alike(prompts)
        check_rows(self.engine.chat, prompts)

    def _write_card(
        self,
        folder: Path,
        model_name: str | None = None,
        dataset_name: str | list[str] | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        ledger = self.trained.ledger if self.trained else Ledger()
        evaluations = [self.folder.evaluation_ledger(stage.name) for stage in self._stages]
        name = self.engine.model.config._name_or_path
        used = {option: value for option, value in vars(self.options).items() if option not in LOOP}
        setup, packages = self._setup(), ("torch", "transformers", "peft", "datasets", "tokenizers")
        text = model_card(
            name=model_name or Path(self.args.output_dir).name,
            start=Path(name).name if Path(name).is_dir() else name,
            base_model=None if Path(name).is_dir() else name or None,
            trainer=type(self).__name__,
            roles={role: asdict(spent) for role, spent in ledger.roles.items()},
            evaluation_flops=sum(
                Ledger.from_dict(store.read_json(each)).flops for each in evaluations if each.exists()
            ),
            settings=used | setup.loop(self._stages[-1]) | {"prompts": len(self.prompts)},
            versions={each: version(each) for each in (*packages, *setup.quantizing)},
            datasets=[dataset_name] if isinstance(dataset_name, str) else dataset_name or [],
            tags=[tags] if isinstance(tags, str) else tags or [],
        )
        store.write_text(folder / CARD, text)


class SSOTrainer(PrincipleTrainer):
    """Self-Steering Optimization (arXiv 2410.17131, section 4): a data generator, then the policy on its pairs.

    trainer = SSOTrainer("Qwen/Qwen2.5-0.5B-Instruct", args=SSOConfig("out"), train_dataset=prompts)
    trainer.train()
    trainer.save_model("policy")
    """

    method = SSO()
    config = SSOConfig

    def _budget(self) -> Budget:
        return Budget("prompts", self._generator_prompts + len(self.prompts))

    @property
    def _generator_prompts(self) -> int:
        return min(self.args.generator_prompts, len(self.prompts))

    def _options(self) -> SSO.Options:
        share = self._generator_prompts / (self._generator_prompts + len(self.prompts))
        return method_options(self.args, SSO.Options, generator_share=share)


class SSOVersion1Trainer(PrincipleTrainer):
    """The first version of SSO: a weighted objective on the policy's own pairs, sampled again in each iteration."""

    method = SSOVersion1()
    config = SSOVersion1Config

    def _budget(self) -> Budget:
        return Budget("prompts", self.args.iterations * len(self.prompts))

    def _options(self) -> SSOVersion1.Options:
        return method_options(self.args, SSOVersion1.Options)


def _first_day(file: Path) -> date:
    """The date that the chat template wrote in a folder's first call; today where there was none."""
    return date.fromisoformat(store.read_json(file)) if file.exists() else date.today()
