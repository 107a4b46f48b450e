"""What users give to a trainer: rows, and a model with or without adapters."""

import copy
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.engines.chat import ChatTemplate
from harness.engines.quantization import quantization_of
from harness.errors import UserError
from harness.files import store
from harness.methods.prompt_rows import read_row
from harness.methods.prompts import rows_by_name
from harness.methods.row_texts import Malformed
from harness.types import Prompt
from sso.refused import ARGUMENTS

if TYPE_CHECKING:
    from peft import PeftConfig

VOLATILE = ("_name_or_path", "transformers_version", "use_cache", "_attn_implementation")  # keys of a model's config


def check_arguments(trainer: str, given: dict[str, Any]) -> None:
    """Check that no argument of DPOTrainer is given that would have no effect.

    Raises:
        UserError: naming it.
        TypeError: for a name that DPOTrainer does not have either.
    """
    for name, value in given.items():
        if name not in ARGUMENTS:
            raise TypeError(f"{trainer}.__init__() got an unexpected keyword argument {name!r}")
        if value is not None and value != (None, None):
            raise UserError(f"{trainer} does not take {name}: {ARGUMENTS[name]}")


def read_prompts(rows: Iterable[dict[str, Any]] | None, name: str, pairs: bool = False) -> list[Prompt]:
    """Read rows with a prompt, and with `pairs` the replies to it where there are some.

    Args:
        name: the argument that they come from, for messages.

    Raises:
        UserError: when there is no row, or one is not understood.
    """
    if rows is None:
        raise UserError(f"{name} is missing: give rows with a prompt")
    if isinstance(rows, dict):
        raise UserError(f"{name} is a mapping of {', '.join(map(str, rows))}: give one data set")
    prompts: list[Prompt] = []
    unused: Counter[str] = Counter()
    for index, row in enumerate(rows):
        place = f"{name}, row {index}"
        try:
            read = read_row(row)
        except Malformed as error:
            raise UserError(f"{place}: {error}") from None
        unused.update(read.unused)
        if read.chosen is not None and not pairs:
            unused.update(("chosen", "rejected"))  # the method makes pairs of its own
        chosen, rejected = (read.chosen, read.rejected) if pairs else (None, None)
        prompts.append(Prompt(str(index), read.messages, chosen, rejected, read.tools, read.variables, place))
    if not prompts:
        raise UserError(f"{name} has no rows: give rows with a prompt")
    if unused:
        print(f"{name}: columns that are not used: {rows_by_name(unused)}", file=sys.stderr)
    return prompts


def check_rows(chat: ChatTemplate, prompts: Sequence[Prompt]) -> None:
    """
    Raises:
        UserError: when the chat template refuses a row, or leaves out a part of it.
    """
    for prompt in prompts:
        try:
            chat.check(prompt.chat)
        except UserError as error:
            raise UserError(f"{prompt.where}: {error}") from None


def merged(model: PreTrainedModel, peft_config: "PeftConfig | None") -> "tuple[PreTrainedModel, PeftConfig | None]":
    """The model that training starts from, and the adapters to train on it.

    The adapters of a PeftModel are merged into a copy of its model, and new ones of the same configuration are trained.

    Raises:
        UserError: for a PeftModel whose adapters are frozen or cannot be merged, or with a peft_config beside it.
    """
    if not isinstance(model, PeftModel):
        return model, peft_config
    if peft_config is not None:
        raise UserError("model has adapters already: give model.merge_and_unload() with peft_config, or leave that out")
    if len(model.active_adapters) != 1:
        raise UserError(f"model has {len(model.active_adapters)} active adapters: give a model with one")
    if quantized := quantization_of(model):
        raise UserError(
            f"model has adapters on quantized weights ({quantized}), which they cannot be merged into: give the model "
            "without adapters, and peft_config"
        )
    config = copy.deepcopy(model.peft_config[model.active_adapters[0]])
    if config.is_prompt_learning:
        raise UserError(f"adapters of type {config.peft_type.value} cannot be merged into a model: give another type")
    if not any(weight.requires_grad for weight in model.parameters()):
        raise UserError("the adapters of model are frozen: load them with PeftModel.from_pretrained(is_trainable=True)")
    return copy.deepcopy(model).merge_and_unload(), config


def described(settings: dict[str, Any]) -> dict[str, Any]:
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


def tokenizer_digests(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
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
