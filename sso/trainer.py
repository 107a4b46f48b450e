"""SSO as a library, in TRL's habits: a config, a trainer, `train()` and `save_model()`.

    from sso import SSOConfig, SSOTrainer

SSOTrainer is the paper's method (a data generator, then the policy), SSOVersion1Trainer the weighted objective of the
paper's first version. What each makes is left in `args.output_dir`; a second call goes on where the first stopped.
"""

import copy
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import TrainOutput
from trl import DPOConfig

from harness import fingerprints, store
from harness.budget import Budget
from harness.engines import saving
from harness.engines.base import Sampling
from harness.engines.chat import ChatTemplate
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.methods import Lengths, Method, Prompt, Stage
from harness.pipeline import CODE, PACKAGES, Setting, Trained, train_stages
from harness.prompt_rows import Malformed, read_row
from harness.prompts import PromptStream, rows_by_name
from harness.steps import Folder
from harness.training.environment import check_alone
from harness.training.trainer import Training
from sso.method import SSO
from sso.version1 import SSOVersion1

if TYPE_CHECKING:
    from peft import PeftConfig

LOSSES = {"sigmoid": "dpo"}  # where TRL's name differs
WITHOUT_EFFECT = {"output_dir", "run_name", "report_to", "disable_tqdm", "hub_token", "logging_steps"}  # on results


@dataclass
class PrincipleConfig(DPOConfig):
    """TRL's DPOConfig with what methods on principles add. Of DPOConfig, loss_type takes one of sigmoid (or dpo), ipo,
    hinge, simpo and orpo; completions are never cut, and a query that is longer than the context is left out. On a GPU
    bf16 and activation_checkpointing are on unless they are switched off.

    ipo_average: IPO of averages over tokens (its authors' advice) rather than of sums (its paper's formula).
    simpo_gamma: the margin that SimPO aims at.
    principles, principle_set, features, principle_model, principle_url, principle_parameters, principle_tokens: where
        principles come from (sso.responses.PrincipleOptions).
    temperature, top_p, max_completion_length, generation_batch_size: how responses are sampled.
    """

    max_length: int | None = None
    num_train_epochs: float = 1.0
    gradient_checkpointing: bool | None = None
    warmup_steps: float = 0.1
    lr_scheduler_type: str = "cosine"
    learning_rate: float = 5e-7
    ipo_average: bool = True
    simpo_gamma: float = 0.5
    principles: str = "fixed"
    principle_set: str = "general"
    principle_model: str | None = None
    principle_url: str | None = None
    principle_parameters: float | None = None
    principle_tokens: int = 200
    features: int = 2
    temperature: float = 0.7
    top_p: float = 0.8
    max_completion_length: int = 2048
    generation_batch_size: int = 64

    def __post_init__(self) -> None:
        check_alone()  # accelerate would wait for the others
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = on_gpu and not self.fp16
        if self.activation_checkpointing is None and self.gradient_checkpointing is None:
            self.activation_checkpointing = on_gpu
        self.dataloader_pin_memory = self.dataloader_pin_memory and on_gpu
        super().__post_init__()
        if len(self.loss_type) != 1:
            raise UserError(f"loss_type must name one loss, not {', '.join(self.loss_type)}")


@dataclass
class SSOConfig(PrincipleConfig):
    """Settings of SSOTrainer.

    gamma: weight of the SFT terms. use_positive, use_negative: whether L+ and L- take part.
    negative: "paper" (yo over y+ under x-) or "alternative" (y- over y+).
    generator_prompts: queries for the generator, at most all of them (paper: 8,000 of about 60,000).
    """

    gamma: float = 0.1
    use_positive: bool = True
    use_negative: bool = True
    negative: str = "paper"
    generator_prompts: int = 8000


@dataclass
class SSOVersion1Config(PrincipleConfig):
    """Settings of SSOVersion1Trainer.

    auxiliary: weight g of the auxiliary terms, 0 for none. weight: whether W takes part; detach_weight: without
    gradient through it; weight_form: "paper" or "released"; alpha: share of the chosen in W.
    filter: keep only queries whose responses obey their principles. iterations: each over all queries.
    """

    beta: float = 0.2
    loss_type: list[str] = field(default_factory=lambda: ["ipo"])
    iterations: int = 3
    auxiliary: float = 0.1
    weight: bool = True
    weight_form: str = "paper"
    alpha: float = 0.66
    detach_weight: bool = False
    filter: bool = False


class _Trainer(ABC):
    """Samples, trains and goes on, stage by stage."""

    method: ClassVar[Method]
    config: ClassVar[type[PrincipleConfig]]

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
            peft_config: a LoraConfig; adapters are merged into what is saved.

        Raises:
            UserError: when model, data or settings can not be used.
        """
        self.args = args or self.config(f"{Path(str(model)).name}-{self.method.name}")
        self.prompts = _read_prompts(train_dataset)
        self.options = self._options()
        self.engine = self._engine(model, processing_class)
        _check_rows(self.engine.chat, self.prompts)
        saving.check_saveable(self.engine.model, self.engine.tokenizer, self.engine.name)
        self.peft_config, self.callbacks = peft_config, tuple(callbacks)
        self.folder = Folder(Path(self.args.output_dir))
        self.trained: Trained | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The trained policy; before `train`, the model that it starts from."""
        return (self.trained.engine() if self.trained else self.engine).model

    def train(self) -> TrainOutput:
        """Trains the policy. Returns the updates of all stages, the mean loss of the last one, and what was spent.

        Raises:
            UserError: when no response can be used, or the data are too few for one update.
        """
        stages = self.method.stages(self.options)
        with store.only_writer(self.folder.path):
            self.trained = train_stages(stages, self._setting(stages))
        losses = [row["loss"] for row in store.read_jsonl(self.folder / "training" / f"{stages[-1].name}.jsonl")]
        total = self.trained.ledger.total
        spent = {name: getattr(total, name) for name in ("flops", "generated_tokens", "trained_tokens")}
        return TrainOutput(total.updates, sum(losses) / len(losses), spent)

    def save_model(self, output_dir: str | None = None) -> None:
        """Saves the policy and its tokenizer, by default in args.output_dir."""
        folder = output_dir or self.args.output_dir
        saving.save(self.model, self.engine.tokenizer, folder)

    @abstractmethod
    def _budget(self) -> Budget:
        """Prompts that all stages draw together."""

    def _options(self) -> Any:
        """Those of the method: the config's fields of the same names."""
        args = self.args
        values = {name: getattr(args, name) for name in self.method.Options.__dataclass_fields__ if hasattr(args, name)}
        values["loss"] = LOSSES.get(args.loss_type[0], args.loss_type[0])
        values["batch_size"] = args.per_device_train_batch_size * args.gradient_accumulation_steps
        return self.method.Options(**values)

    def _engine(self, model: str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> TransformersEngine:
        if isinstance(model, str):
            return self._load(model)
        if tokenizer is None:
            raise UserError("a model that is loaded already needs its tokenizer as processing_class")
        name = model.config._name_or_path or type(model).__name__
        return TransformersEngine(model.to(self.args.device), tokenizer, name, self.args.generation_batch_size)

    def _load(self, path: str | Path) -> TransformersEngine:
        args = self.args
        return TransformersEngine.load(
            path, str(args.device), "auto", args.generation_batch_size, args.trust_remote_code
        )

    def _setting(self, stages: Sequence[Stage]) -> Setting:
        args = self.args
        streams = {stage.name: PromptStream(self.prompts, args.seed) for stage in stages}
        settings = {name: value for name, value in args.to_dict().items() if name not in WITHOUT_EFFECT}
        depends_on = {
            "model": self.engine.weights_hash,
            "prompts": store.digest([prompt.content for prompt in self.prompts]),
            "arguments": settings,
            "device": str(args.device),
            "engine": "transformers",
            "packages": fingerprints.of_packages(*PACKAGES),
            "code": fingerprints.of_code(*CODE, "sso"),
        }
        return Setting(
            base=lambda: self.engine,
            folder=self.folder,
            shared=self.folder.path,
            depends_on=lambda stage: depends_on,
            budget=self._budget(),
            sampling=Sampling(args.max_completion_length, args.temperature, args.top_p, args.seed),
            stream=lambda stage: streams[stage.name],
            lengths=lambda stage: Lengths(1, 1, 1),  # of no account where the budget is in prompts
            training=self._training,
            load=self._load,
            label=self.method.name,
        )

    def _training(self, stage: Stage, state: Path) -> Training:
        args = copy.copy(self.args)
        args.output_dir = str(state)
        args.train_sampling_strategy = "sequential"
        args.remove_unused_columns = False
        args.precompute_ref_log_probs = True  # they are, by the pipeline
        args.save_strategy = "no"  # the pipeline saves states
        args.logging_steps = 1  # health looks at every update
        args.disable_tqdm = True  # the pipeline shows its own progress
        return Training(args, self.peft_config, self.callbacks)


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
        return replace(super()._options(), generator_share=share)


class SSOVersion1Trainer(_Trainer):
    """The first version of SSO: a weighted objective on the policy's own pairs, made anew in each iteration."""

    method = SSOVersion1()
    config = SSOVersion1Config

    def _budget(self) -> Budget:
        return Budget("prompts", self.args.iterations * len(self.prompts))


def _read_prompts(rows: Iterable[dict[str, Any]]) -> list[Prompt]:
    prompts, unused = [], Counter()
    for index, row in enumerate(rows):
        try:
            read = read_row(row)
        except Malformed as error:
            raise UserError(f"train_dataset, row {index}: {error}") from None
        unused.update(read.unused)
        place = f"train_dataset, row {index}"
        prompts.append(Prompt(str(index), read.messages, tools=read.tools, variables=read.variables, where=place))
    if not prompts:
        raise UserError("train_dataset has no rows: give some with a prompt each")
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
