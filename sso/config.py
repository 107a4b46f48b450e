"""Arguments of the SSO trainers: those of a transformers Trainer, with the options of the methods beside them.

Each option of a method is declared once, with its meaning and default, in the options that the harness reads
(`sso.method.SSO.Options`, `sso.version1.SSOVersion1.Options`); the fields here take both from there.
"""

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

import torch
from transformers import TrainingArguments

from harness.errors import unknown_name
from harness.experiment.meanings import option_meanings
from harness.training.base import PreferenceArguments
from harness.training.environment import check_alone
from sso.errors import SSOError, library_errors
from sso.method import SSO
from sso.refused import ALWAYS, REFUSED, UNUSED
from sso.version1 import SSOVersion1

LOSSES = {  # names in TRL and here -> those of harness.training.losses
    **{name: name for name in ("dpo", "ipo", "hinge", "simpo", "orpo", "cpo", "sppo", "apo-zero", "apo-down")},
    **{"sigmoid": "dpo", "sppo_hard": "sppo", "apo_zero": "apo-zero", "apo_down": "apo-down"},
}
LOSS_HELP = f"The base loss, one of {', '.join(LOSSES)}."
WITHOUT_EFFECT = {  # on results
    *("output_dir", "run_name", "report_to", "disable_tqdm", "logging_steps", "resume_from_checkpoint"),
    *("push_to_hub", "hub_token", "hub_model_id", "hub_private_repo", "hub_revision", "do_train", "do_eval"),
}


def _option(options: type, name: str, default: Any = MISSING, help: str = "") -> Any:
    """A field that states an option of a method: its default, if no other is given, and what it means."""
    if default is MISSING:
        default = next(each.default for each in fields(options) if each.name == name)
    return field(default=default, metadata={"help": _sentence(help or option_meanings(options)[name])})


def _changed(name: str, default: Any) -> Any:
    """A field of TrainingArguments with another default."""
    (stated,) = (each for each in fields(TrainingArguments) if each.name == name)
    return field(default=default, metadata=stated.metadata)


def _refused(name: str, default: Any) -> Any:
    """A field of TRL's DPOConfig, with its default, that has no effect here."""
    return field(default=default, metadata={"help": _sentence(f"no effect here, and refused: {UNUSED[name]}")})


def _explained(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}.".replace("%", "%%")  # argparse fills in percent signs


@dataclass
class _DPOFields:
    """Fields of TRL's DPOConfig, with its defaults, that have no effect here: any other value is refused."""

    disable_dropout: bool = _refused("disable_dropout", True)
    dataset_num_proc: int | None = _refused("dataset_num_proc", None)
    max_length: int | None = _refused("max_length", None)  # TRL: 1024
    truncation_mode: str = _refused("truncation_mode", "keep_start")
    padding_free: bool = _refused("padding_free", False)
    pad_to_multiple_of: int | str | None = _refused("pad_to_multiple_of", "auto")
    precompute_ref_log_probs: bool = _explained(
        False, "Always done: log-probabilities of the reference are computed before a stage is trained."
    )
    precompute_ref_batch_size: int | None = _refused("precompute_ref_batch_size", None)
    loss_weights: list[float] | None = _refused("loss_weights", None)
    ld_alpha: float | None = _refused("ld_alpha", None)
    f_divergence_type: str = _refused("f_divergence_type", "reverse_kl")
    f_alpha_divergence_coef: float = _refused("f_alpha_divergence_coef", 0.5)
    label_smoothing: float = _refused("label_smoothing", 0.0)
    use_weighting: bool = _refused("use_weighting", False)
    discopop_tau: float = _refused("discopop_tau", 0.05)
    activation_offloading: bool = _refused("activation_offloading", False)
    sync_ref_model: bool = _refused("sync_ref_model", False)
    ref_model_mixup_alpha: float = _refused("ref_model_mixup_alpha", 0.6)
    ref_model_sync_steps: int = _refused("ref_model_sync_steps", 512)
    pad_token: str | None = _refused("pad_token", None)


@dataclass
class PrincipleConfig(_DPOFields, PreferenceArguments):
    """Arguments of transformers' Trainer, the fields of TRL's DPOConfig, and what methods on principles add.

    Completions are never cut, and a query that is longer than the context is left out. Each field has its meaning as
    `help`, so that HfArgumentParser and TrlParser read this class.

    Raises:
        ValueError: when a field has a value that would have no effect, naming it.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]

    num_train_epochs: float = _changed("num_train_epochs", 1.0)
    learning_rate: float = _changed("learning_rate", 5e-7)
    lr_scheduler_type: str = _changed("lr_scheduler_type", "cosine")
    warmup_steps: float = _changed("warmup_steps", 0.1)
    bf16: bool | None = _explained(None, "Compute in bfloat16; by default on a GPU.")
    activation_checkpointing: bool | None = _explained(
        None, "Recompute activations in the backward pass; by default on a GPU."
    )
    gradient_checkpointing: bool | None = _explained(None, "Another name of activation_checkpointing.")
    dataloader_pin_memory: bool = _changed("dataloader_pin_memory", True)
    router_aux_loss_coef: float = _option(SSO.Options, "router_aux_loss_coef")
    model_init_kwargs: dict[str, Any] | str | None = _explained(
        None, "How a model that is given by name is loaded: dtype, attn_implementation and quantization_config."
    )
    trust_remote_code: bool = _explained(
        False, "Whether code that comes with the model may run. Read it first: it runs with your rights."
    )
    loss_type: list[str] = field(
        default_factory=lambda: ["sigmoid"],
        metadata={"help": LOSS_HELP},
    )
    beta: float = _option(SSO.Options, "beta", 0.1)
    ipo_average: bool = _option(SSO.Options, "ipo_average")
    simpo_gamma: float = _option(SSO.Options, "simpo_gamma")
    principles: str = _option(SSO.Options, "principles")
    principle_set: str = _option(SSO.Options, "principle_set", "general")
    features: int = _option(SSO.Options, "features")
    principle_model: str | None = _option(SSO.Options, "principle_model")
    principle_url: str | None = _option(SSO.Options, "principle_url")
    principle_parameters: float | None = _option(SSO.Options, "principle_parameters")
    principle_tokens: int = _option(
        SSO.Options,
        "principle_tokens",
        help="longest reply of the writer (the policy's is never longer than max_completion_length)",
    )
    temperature: float = _explained(0.7, "Temperature of sampled responses.")
    top_p: float = _explained(0.8, "Share of the probability that responses are sampled from.")
    max_completion_length: int = _explained(2048, "Longest response, in tokens. One that does not end is not used.")
    generation_batch_size: int = _explained(64, "How many prompts are sampled, or sequences scored, at once.")

    def __post_init__(self) -> None:
        with library_errors():
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
            raise SSOError("router_aux_loss_coef must be a number; 0 trains without the load-balancing loss")
        if len(self.loss_type) != 1:
            raise SSOError(f"loss_type must name one loss, not {', '.join(self.loss_type)}")
        with library_errors():
            if self.loss_type[0] not in LOSSES:  # also robust: nobody labels pairs wrongly here
                raise unknown_name("loss_type", self.loss_type[0], LOSSES)


@dataclass
class SSOConfig(PrincipleConfig):
    """Settings of SSOTrainer.

        SSOConfig(output_dir="out", learning_rate=5e-7, beta=0.1, generator_prompts=8000)

    Defaults are those of the paper (arXiv 2410.17131, section 4).
    """

    gamma: float = _option(SSO.Options, "gamma")
    use_positive: bool = _option(SSO.Options, "use_positive")
    use_negative: bool = _option(SSO.Options, "use_negative")
    negative: str = _option(SSO.Options, "negative")
    generator_prompts: int = _explained(8000, "How many queries train the generator, at most all of them.")


@dataclass
class SSOVersion1Config(PrincipleConfig):
    """Settings of SSOVersion1Trainer; each iteration samples responses to all queries.

    Defaults are those of the paper's first version.
    """

    beta: float = _option(SSOVersion1.Options, "beta")
    loss_type: list[str] = field(
        default_factory=lambda: ["ipo"],
        metadata={"help": LOSS_HELP},
    )
    iterations: int = _option(SSOVersion1.Options, "iterations", help="rounds of sampling and training")
    auxiliary: float = _option(SSOVersion1.Options, "auxiliary")
    weight: bool = _option(SSOVersion1.Options, "weight")
    weight_form: str = _option(SSOVersion1.Options, "weight_form")
    alpha: float = _option(SSOVersion1.Options, "alpha")
    detach_weight: bool = _option(SSOVersion1.Options, "detach_weight")
    filter: bool = _option(SSOVersion1.Options, "filter")


def method_options(args: PrincipleConfig, options: type, **values: Any) -> Any:
    """The options of a method, from the fields of a config that have their names.

    Args:
        values: options that a config states in another way.
    """
    stated = {each.name: getattr(args, each.name) for each in fields(options) if hasattr(args, each.name)}
    return options(
        **{
            **stated,
            "loss": LOSSES[args.loss_type[0]],
            "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps,
            **values,
        }
    )


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def check_used(args: PrincipleConfig, defaults: dict[str, Any]) -> None:
    """Check that no field is set that would have no effect.

    Raises:
        SSOError: naming each of them.
    """
    wrong = []
    for name, reason in REFUSED.items():
        value = getattr(args, name)
        if value != defaults[name] and not (value is False and defaults[name] == "no"):  # as HfArgumentParser reads it
            wrong.append(f"{name} has no effect here: {reason}")
    for name, value in ALWAYS.items():
        if getattr(args, name) not in (defaults[name], value):
            wrong.append(f"{name} is always {value!r} here")
    if wrong:
        raise SSOError(f"{'; '.join(wrong)}. Leave {'it' if len(wrong) == 1 else 'them'} at the default")
