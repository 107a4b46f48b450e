"""Arguments of the SSO trainers: those of a transformers Trainer, with the options of the methods beside them."""

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import UserError
from harness.training.base import PreferenceArguments
from harness.training.environment import check_alone

if TYPE_CHECKING:
    pass

LOSSES = {"sigmoid": "dpo"}  # losses whose name differs in TRL
LOOP_SETTINGS = (  # fields of a config that options of training share by name
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "gradient_checkpointing"),
    "router_aux_loss_coef",
)
LOSS_SETTINGS = ("beta", "ipo_average", "simpo_gamma")
PRINCIPLE_SETTINGS = (
    *("principles", "principle_set", "features"),
    *("principle_model", "principle_url", "principle_parameters", "principle_tokens"),
)
GENERATOR_SETTINGS = ("gamma", "use_positive", "use_negative", "negative")
WEIGHTED_SETTINGS = ("iterations", "auxiliary", "weight", "weight_form", "alpha", "detach_weight", "filter")
NO_EVALUATION = "nothing is evaluated while a stage trains: score the saved model with harness eval"
NO_SAVING = "states are saved as often as that is cheap, and output_dir keeps the result of each stage: use save_model"
NO_HUB = "nothing is uploaded: use save_model, then the tools of the hub"
OBJECTIVE = "the losses are those of loss_type"
FIXED_REFERENCE = "the reference is the model that a stage starts from"
UNUSED = {  # fields of TRL's DPOConfig and of TrainingArguments that nothing here reads, and what holds instead
    "model_init_kwargs": "pass a loaded model, and its tokenizer as processing_class",
    "disable_dropout": "dropout is always off, because policy and reference are compared",
    "activation_offloading": "set activation_checkpointing_kwargs={'offload': True}",
    "dataset_num_proc": "examples are token ids already",
    "max_length": "completions are never cut: set max_completion_length",
    "truncation_mode": "completions are never cut: set max_completion_length",
    "padding_free": "sequences are packed without padding where the model allows it",
    "pad_to_multiple_of": "sequences are packed without padding where the model allows it",
    "precompute_ref_batch_size": "set generation_batch_size",
    "loss_weights": OBJECTIVE,
    "ld_alpha": OBJECTIVE,
    "f_divergence_type": OBJECTIVE,
    "f_alpha_divergence_coef": OBJECTIVE,
    "label_smoothing": OBJECTIVE,
    "label_smoothing_factor": OBJECTIVE,
    "use_weighting": OBJECTIVE + "; SSOVersion1Config has a weight",
    "discopop_tau": OBJECTIVE,
    "sync_ref_model": FIXED_REFERENCE,
    "ref_model_mixup_alpha": FIXED_REFERENCE,
    "ref_model_sync_steps": FIXED_REFERENCE,
    "pad_token": "set it in the tokenizer, and pass that as processing_class",
    "auto_find_batch_size": "a batch that does not fit into memory is split already",
    "dataloader_drop_last": "the last, smaller batch is an update too",
    "ignore_data_skip": "a resumed training skips what it has seen",
    "resume_from_checkpoint": "a second call with the same output_dir resumes by itself",
    "label_names": OBJECTIVE,
    "length_column_name": "examples of similar length are batched together already",
    "logging_strategy": "every update is logged in output_dir/training",
    "include_num_input_tokens_seen": "train() returns the number of trained tokens",
    **dict.fromkeys(("do_train", "do_predict"), "call train()"),
    **dict.fromkeys(
        (
            *("do_eval", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_accumulation_steps"),
            *("eval_do_concat_batches", "eval_use_gather_object", "per_device_eval_batch_size", "bf16_full_eval"),
            *("fp16_full_eval", "prediction_loss_only", "include_for_metrics", "batch_eval_metrics"),
            *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        ),
        NO_EVALUATION,
    ),
    **dict.fromkeys(
        ("save_steps", "save_total_limit", "save_only_model", "save_on_each_node", "enable_jit_checkpoint"), NO_SAVING
    ),
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"), NO_HUB
    ),
}
ALWAYS = {  # fields with one possible value here; the default of TRL or transformers is accepted too
    "precompute_ref_log_probs": True,
    "train_sampling_strategy": "sequential",
    "remove_unused_columns": False,
    "save_strategy": "no",
}
WITHOUT_EFFECT = {"output_dir", "run_name", "report_to", "disable_tqdm", "hub_token", "logging_steps"}  # on results


@dataclass
class _DPOFields:
    """Fields of TRL's DPOConfig, with its defaults, that have no effect here: any other value is refused (UNUSED)."""

    model_init_kwargs: dict[str, Any] | str | None = None
    disable_dropout: bool = True
    dataset_num_proc: int | None = None
    max_length: int | None = None  # TRL: 1024
    truncation_mode: str = "keep_start"
    padding_free: bool = False
    pad_to_multiple_of: int | str | None = "auto"
    precompute_ref_log_probs: bool = False
    precompute_ref_batch_size: int | None = None
    loss_weights: list[float] | None = None
    ld_alpha: float | None = None
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    label_smoothing: float = 0.0
    use_weighting: bool = False
    discopop_tau: float = 0.05
    activation_offloading: bool = False
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512
    pad_token: str | None = None


@dataclass
class PrincipleConfig(_DPOFields, PreferenceArguments):
    """Arguments of transformers' Trainer, the fields of TRL's DPOConfig, and what methods on principles add.

    loss_type takes one of sigmoid (or dpo), ipo, hinge, simpo and orpo. Completions are never cut, and a query that is
    longer than the context is left out. On a GPU, bf16 and activation_checkpointing are on unless switched off.

    router_aux_loss_coef: weight of the load-balancing loss of a mixture of experts; 0 (the default here) is off.
    ipo_average: IPO of averages over tokens (its authors' advice) rather than of sums (its paper's formula).
    simpo_gamma: the margin that SimPO aims at.
    principles, principle_set, features, principle_model, principle_url, principle_parameters, principle_tokens: where
        principles come from (sso.responses.PrincipleOptions).
    temperature, top_p, max_completion_length, generation_batch_size: how responses are sampled.
    """

    bf16: bool | None = None
    activation_checkpointing: bool | None = None
    dataloader_pin_memory: bool = True
    trust_remote_code: bool = False
    beta: float = 0.1
    loss_type: list[str] = field(default_factory=lambda: ["sigmoid"])
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
        check_used(self, {option.name: _default(option) for option in fields(self)})
        if isinstance(self.loss_type, str):
            self.loss_type = [self.loss_type]
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = on_gpu and not self.fp16
        if self.activation_checkpointing is None and self.gradient_checkpointing is None:
            self.activation_checkpointing = on_gpu
        self.dataloader_pin_memory = self.dataloader_pin_memory and on_gpu
        super().__post_init__()
        if self.router_aux_loss_coef is None:
            raise UserError("router_aux_loss_coef must be a number; 0 trains without the load-balancing loss")
        if len(self.loss_type) != 1:
            raise UserError(f"loss_type must name one loss, not {', '.join(self.loss_type)}")


@dataclass
class SSOConfig(PrincipleConfig):
    """Settings of SSOTrainer.

    gamma: weight of the SFT terms.
    use_positive, use_negative: whether L+ and L- take part.
    negative: "paper" (yo over y+ under x-) or "alternative" (y- over y+).
    generator_prompts: how many queries train the generator, at most all (paper: 8,000 of about 60,000).
    """

    gamma: float = 0.1
    use_positive: bool = True
    use_negative: bool = True
    negative: str = "paper"
    generator_prompts: int = 8000


@dataclass
class SSOVersion1Config(PrincipleConfig):
    """Settings of SSOVersion1Trainer.

    iterations: how many, each over all queries.
    auxiliary: weight g of the auxiliary terms, 0 for none.
    weight: whether W takes part; weight_form: "paper" or "released"; alpha: share of the chosen in W; detach_weight:
        no gradient through W.
    filter: keep only queries whose responses obey their principles.
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


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def check_used(args: PrincipleConfig, defaults: dict[str, Any]) -> None:
    """Check that no field is set that would have no effect.

    Raises:
        UserError: naming each of them.
    """
    wrong = []
    for name, reason in UNUSED.items():
        if getattr(args, name) != defaults[name]:
            wrong.append(f"{name} has no effect here: {reason}")
    for name, value in ALWAYS.items():
        if getattr(args, name) not in (defaults[name], value):
            wrong.append(f"{name} is always {value!r} here")
    if wrong:
        raise UserError(f"{'; '.join(wrong)}. Leave {'it' if len(wrong) == 1 else 'them'} at the default")
