"""How the models of a trainer become engines: given by name or loaded, plain or in 4 bits, and after each stage."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from harness.engines.four_bits import FourBitEngine
from harness.engines.logprobs import ATTENTIONS
from harness.engines.quantization import check_possible, four_bits, in_four_bits
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError

if TYPE_CHECKING:
    from peft import PeftConfig

ATTENTION_NAMES = {"sdpa": "sdpa", "flex": "flex", "flex_attention": "flex"}


@dataclass(frozen=True)
class Loading:
    """How a trainer loads models.

    args: the config of the trainer.
    options: dtype and attention.
    quantization: of models that are given by name; None for plain weights.
    day: the date that the chat template writes.
    """

    args: Any
    options: dict[str, str]
    quantization: BitsAndBytesConfig | None
    day: date

    def engine(self, model: str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> TransformersEngine:
        """The engine of a model that was given to the trainer.

        Raises:
            UserError: when it cannot be used.
        """
        if isinstance(model, str):
            return self._load(model, tokenizer)
        if tokenizer is None:
            raise UserError("a loaded model needs its tokenizer: pass it as processing_class")
        name = model.config._name_or_path or type(model).__name__
        kind: type[TransformersEngine] = FourBitEngine if in_four_bits(model) else TransformersEngine
        return kind(model.to(self.args.device), tokenizer, name, self.args.generation_batch_size, day=self.day)

    def stage(self, checkpoint: Path, start: TransformersEngine) -> TransformersEngine:
        """The engine of what a stage has trained, from the start model of all stages."""
        if isinstance(start, FourBitEngine):
            return start.with_adapters(checkpoint)
        return self._load(checkpoint, start.tokenizer)

    def _load(self, path: str | Path, tokenizer: PreTrainedTokenizerBase | None) -> TransformersEngine:
        args = self.args
        settings = {
            "device": str(args.device),
            "batch_size": args.generation_batch_size,
            "trust_remote_code": args.trust_remote_code,
            "day": self.day,
            "tokenizer": tokenizer,
            **self.options,
        }
        if self.quantization is None:
            return TransformersEngine.load(path, **settings)
        return FourBitEngine.load_quantized(path, self.quantization, **settings)


def loading_of(
    args: Any, model: str | PreTrainedModel, quantization: Any, peft_config: "PeftConfig | None", day: date
) -> Loading:
    """How a trainer loads models, checked before any is loaded.

    Args:
        quantization: the trainer's argument quantization_config.

    Raises:
        UserError: for what has no effect, by name; for weights in 4 bits that cannot be had or trained here.
    """
    given = dict(args.model_init_kwargs or {})
    inside = given.pop("quantization_config", None)
    if quantization is not None and inside is not None:
        raise UserError("quantization_config is given twice: leave it out of model_init_kwargs")
    quantization = inside if quantization is None else quantization
    options = loading_options(given)
    if not isinstance(model, str):
        if quantization is not None:
            raise UserError(
                "quantization_config has no effect on a model that is loaded already: give the model's name"
            )
        if args.model_init_kwargs:
            raise UserError("model_init_kwargs has no effect on a model that is loaded already: give the model's name")
        quantizer = getattr(model, "hf_quantizer", None)
        config = quantizer.quantization_config if quantizer and in_four_bits(model) else None
    else:
        config = None if quantization is None else four_bits(quantization)
    if config is not None:
        if peft_config is None:
            raise UserError("a model in 4 bits cannot be trained without adapters: give peft_config")
        check_possible(config, str(args.device))
    return Loading(args, options, config if isinstance(model, str) else None, day)


def loading_options(given: dict[str, Any]) -> dict[str, str]:
    """The dtype and attention of a model that is loaded by name, from model_init_kwargs.

    Raises:
        UserError: for anything else there, by name.
    """
    options = {"dtype": "auto", "attention": "sdpa"}
    for name, value in given.items():
        if name in ("dtype", "torch_dtype"):
            options["dtype"] = str(value).removeprefix("torch.")
        elif name == "attn_implementation":
            if value not in ATTENTION_NAMES:
                raise UserError(f"attn_implementation must be one of {', '.join(ATTENTIONS)}, not {value!r}")
            options["attention"] = ATTENTION_NAMES[value]
        else:
            raise UserError(
                f"model_init_kwargs: {name} has no effect here; give a loaded model, and its tokenizer as "
                "processing_class"
            )
    return options
