"""What loading any transformers model needs: device, dtype, checks, digest of the weights, limits, batches."""

import copy
import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights
from transformers.utils import logging

from harness.engines.linear import use_fast_products
from harness.engines.memory import Limit
from harness.engines.quantization import elements as weights_in
from harness.errors import UserError
from harness.models.folder import ADAPTER_WEIGHTS
from harness.models.weights import check_files, elements, tensor_shapes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LONGEST_REASON = 400  # characters of a library's message
NAMED = 3  # weights named in a message
FACTOR = 2  # between the parameters of config.json and of the weights: tied weights may be saved twice
ROOM, SLACK, SLACK_TENSORS = (
    4,
    1 << 28,
    10_000,
)  # what building may allocate, including buffers, relative to the weights
T = TypeVar("T")
SCORING_TOKENS = 8192  # padded tokens in one forward pass over given sequences, whatever the batch size


def choose_device(device: str) -> str:
    """Return the device; "auto" takes the GPU if there is one.

    Raises:
        UserError: for a device that PyTorch does not have here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, ValueError):
        raise UserError(f"device {device!r} is not known: give auto, cpu or cuda") from None
    count = _devices(chosen.type)
    if count == 0:
        raise UserError(f"device {device!r}: PyTorch finds no such device here: give --device cpu, or auto")
    if chosen.index is not None and chosen.index >= count:
        raise UserError(f"device {device!r}: PyTorch finds {count} of that kind, numbered from 0")
    return device


def _devices(kind: str) -> int:
    """How many devices of a kind PyTorch has here."""
    if kind == "cpu":
        return 1
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.accelerator.device_count() if accelerator and accelerator.type == kind else 0


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the dtype; "auto" is float32 on the CPU and bfloat16 on a GPU."""
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not known: give auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


@contextmanager
def load_errors(name: str, trust_remote_code: bool = False) -> Iterator[None]:
    """Turn what transformers raises for a missing or unusable model into a UserError.

    Reports on standard error when code that comes with models may run. Refuses files that ask for more memory than
    their weights, and weights that transformers would take from other places or formats.
    """
    if trust_remote_code:
        _tell_remote_code()
    try:
        if Path(name).is_dir():
            check_files(Path(name), name)
        yield
    except UserError:
        raise
    except Exception as error:  # whatever libraries raise for foreign files
        text = " ".join(str(error).split()) or type(error).__name__
        reason = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."
        trust = "contains custom code" in text or "trust_remote_code" in text
        remedy = "read that code, and if you trust it add --trust-remote-code; or " if trust else ""
        raise UserError(
            f"model {name!r} cannot be loaded ({reason}): {remedy}give a folder with config.json, safetensors weights "
            "and a tokenizer, or the id of such a model on the hub"
        ) from error


@cache
def _tell_remote_code() -> None:
    """Report this once per process."""
    print("code that comes with models runs in this process (--trust-remote-code)", file=sys.stderr)


def load_model(
    kind: type[AutoModelForCausalLM | AutoModelForSequenceClassification],
    name: str,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    loaded: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[PreTrainedModel, list[str]]:
    """Load a model from safetensors, checked against its config.json; also return the names of missing weights.

    Missing weights are random: the caller decides whether that is a mistake. Weights that have no place in the model
    are reported on standard error.

    Args:
        name: a folder, or a hub id.
        loaded: how from_pretrained loads weights in 4 bits.
        options: fields of the configuration, such as num_labels.

    Raises:
        ValueError: when the files hold another kind of model, or not the model that config.json describes.
    """
    config = read_config(kind, name, trust_remote_code, **options)
    _keep_ids_inside(config, name)
    if Path(name).is_dir():
        _check_size(kind, config, Path(name), trust_remote_code)
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # hides its report of weights, whose relevant part is checked below
    try:
        model, report = kind.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **(loaded or {}),
        )
    finally:
        logging.set_verbosity(verbosity)
    if odd := sorted(map(str, report["mismatched_keys"])):
        raise ValueError(f"{len(odd)} weights have other shapes than config.json says, such as {odd[0]}")
    if left := sorted(report["unexpected_keys"]):
        tell(f"note: {name}: {len(left)} weights have no place in {type(model).__name__} and are ignored: {_few(left)}")
    use_fast_products(model)
    return model, sorted(report["missing_keys"])


def read_config(kind: Any, name: str, trust_remote_code: bool = False, **options: Any) -> PreTrainedConfig:
    """Return the configuration of a model that this auto class can build.

    Raises:
        ValueError: when the configuration is for another kind of model.
    """
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, **options)
    _check_class(kind, config, trust_remote_code)
    return config


def load_causal(
    name: str, dtype: torch.dtype, trust_remote_code: bool = False, loaded: dict[str, Any] | None = None
) -> PreTrainedModel:
    """Load the causal language model of a folder or hub id, with all of its weights from the files.

    Raises:
        ValueError: see `load_model`; also when weights are missing.
    """
    model, missing = load_model(AutoModelForCausalLM, name, dtype, trust_remote_code, loaded)
    if missing:
        raise ValueError(
            f"its files lack {len(missing)} weights of {type(model).__name__}, which would be random: {_few(missing)}"
        )
    return model


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


@cache
def tell(text: str) -> None:
    """Print a text on standard error, once per process."""
    print(text, file=sys.stderr)


def _check_class(kind: Any, config: PreTrainedConfig, trust_remote_code: bool) -> None:
    custom = trust_remote_code and kind.__name__ in (getattr(config, "auto_map", None) or {})
    if custom or type(config) in kind._model_mapping:
        return
    sees = hasattr(config, "vision_config") or hasattr(config, "audio_config")
    raise ValueError(
        f"{config.model_type} is not a decoder-only language model"
        + (" but reads images or sound" if sees else "")
        + f", and transformers has no {kind.__name__} for it"
    )


def _keep_ids_inside(config: PreTrainedConfig, name: str) -> None:
    """Remove a padding id outside the embedding: it cannot be looked up, and -1 would mean the last row."""
    text = config.get_text_config()
    pad, rows = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if pad is not None and rows is not None and not 0 <= pad < rows:
        tell(f"note: {name}: config.json has pad_token_id {pad}, outside its {rows} tokens: it is ignored")
        text.pad_token_id = None


class _TooLarge(ValueError):
    """The configuration asks for more than the weights hold."""


class _BuildingLimit(TorchDispatchMode):
    """Stops the building of a model that allocates more elements or tensors than allowed."""

    def __init__(self, most: int, tensors: int) -> None:
        super().__init__()
        self.left, self.tensors = most, tensors

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not any(isinstance(value, torch.Tensor) for value in args):
            self.left -= made.numel()
            self.tensors -= 1
            if self.left < 0 or self.tensors < 0:
                raise _TooLarge
        return made


def _check_size(kind: Any, config: PreTrainedConfig, folder: Path, trust_remote_code: bool) -> None:
    """Check that the model that config.json describes is about as large as the weights of the folder.

    Raises:
        ValueError: when it has more than twice as many parameters, or less than half.
    """
    shapes = tensor_shapes(folder)
    held = elements(shapes)
    try:
        with (
            no_init_weights(),
            torch.device("meta"),
            _BuildingLimit(ROOM * held + SLACK, ROOM * len(shapes) + SLACK_TENSORS),
        ):
            model = kind.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    except _TooLarge:
        raise ValueError(
            f"config.json describes a model that is many times larger than its weights ({held:,} parameters)"
        ) from None
    described = parameter_count(model)
    parts = config.get_text_config() is not config  # a model of several parts: not all may be wanted
    if described > FACTOR * held or (held > FACTOR * described and not parts):
        raise ValueError(
            f"config.json describes a model of {described:,} parameters, but the weights hold {held:,}: they do not "
            "belong to one model"
        )


def merged(model: PreTrainedModel, adapter: Path, tokens: int) -> PreTrainedModel:
    """Return the model with a PEFT adapter merged into its weights.

    If the adapter was trained with added tokens, the embedding is first resized to the adapter's rows; each new row
    must come from the adapter.

    Args:
        tokens: vocabulary size of the tokenizer that the adapter is used with (its highest id plus 1).

    Raises:
        ValueError: when the adapter cannot be merged, or was made for another model.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(adapter))
    if config.is_prompt_learning:
        raise ValueError(f"an adapter of type {config.peft_type.value} cannot be merged into a model's weights")
    config.inference_mode = True
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    _resize(model, config, weights, tokens)
    adapted = get_peft_model(model, config)
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    odd = [
        f"{name} is {_shape(weights.get(name))} in the adapter and {_shape(tensor)} in the model"
        for name, tensor in expected.items()
        if name not in weights or weights[name].shape != tensor.shape
    ]
    if not odd:
        tensors = adapted.state_dict()
        odd = [
            f"{name} is {_shape(tensor)} in the adapter and {_shape(tensors[name])} in the model"
            for name, tensor in weights.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ]
    odd = odd or [
        name
        for name in set_peft_model_state_dict(adapted, weights).unexpected_keys
        if not _written_twice(name, weights)
    ]
    if odd:
        raise ValueError(f"its adapter was made for another model: {len(odd)} weights do not fit, such as {odd[0]}")
    return adapted.merge_and_unload(safe_merge=True)


def _written_twice(name: str, weights: dict[str, torch.Tensor]) -> bool:
    """Whether PEFT wrote a trained embedding under a second name, as it does if it was resized, or the layer from
    before the training, which has no place in the result."""
    if ".original_module." in name:
        return True
    tensor = weights.get(name)
    return tensor is not None and any(
        tensor.shape == other.shape and torch.equal(tensor, other) for key, other in weights.items() if key != name
    )


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else str(list(tensor.shape))


def _resize(model: PreTrainedModel, config: Any, weights: dict[str, torch.Tensor], tokens: int) -> None:
    """Resize the embedding to the rows that an adapter was trained with.

    Raises:
        ValueError: when the adapter does not hold all of the new rows.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = embedding.weight.shape[0]
    names = {module: name for name, module in model.named_modules() if module in (embedding, head)}
    # full weights of embedding and head; PEFT omits them from a file whose base has all rows
    saved: dict[torch.nn.Module, int] = {}
    for name, tensor in weights.items():
        owner = name.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".base_layer")
        saved |= {module: tensor.shape[0] for module, known in names.items() if owner == known}
    trained = getattr(config, "trainable_token_indices", None) or ()
    if isinstance(trained, dict):
        trained = {index for indices in trained.values() for index in indices}
    tied = head is None or head.weight is embedding.weight
    wanted = saved.get(embedding) or (tied and saved.get(head)) or max(tokens, rows)
    if wanted == rows:
        return
    whole = (embedding in saved and (tied or head in saved)) or (tied and head in saved)
    if not whole and not (tied and set(range(rows, wanted)) <= set(trained)):
        raise ValueError(
            f"its tokenizer has {tokens:,} tokens, its base model an embedding of {rows:,} rows, and its adapter "
            "has no weights for the others: train it with modules_to_save for embedding and head"
        )
    model.resize_token_embeddings(wanted, mean_resizing=False)
    tell(
        f"note: {model.config._name_or_path}: its embedding is resized from {rows} to {wanted} rows, as in the adapter"
    )


def weights_hash(model: PreTrainedModel) -> str:
    """Return the SHA-256 over names, dtypes, shapes and values of all tensors, however the files are split."""
    digest = hashlib.sha256()
    tensors = model.state_dict()
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parameter_count(model: PreTrainedModel) -> int:
    """How many parameters a model has; those in 4 bits count like others."""
    return sum(map(weights_in, model.parameters()))


def stop_tokens(configured: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the end-of-sequence tokens of a config and of the tokenizer."""
    stops = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({token for token in (*stops, tokenizer.eos_token_id) if token is not None}))


def context_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens fit a model; if its config does not say, the tokenizer's limit (huge if unknown)."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length


class _HasContext(Protocol):
    name: str
    context_length: int


def check_lengths(lengths: Sequence[int], engine: _HasContext) -> None:
    """
    Args:
        lengths: tokens of each prompt with its completion.

    Raises:
        UserError: when one is longer than the engine's context.
    """
    if lengths and max(lengths) > engine.context_length:
        raise UserError(
            f"a prompt and completion of {max(lengths)} tokens do not fit the context of {engine.name} "
            f"({engine.context_length} tokens): shorten them or use a model with a longer context"
        )


def batches(lengths: Sequence[int], batch_size: int, limit: Limit) -> Iterator[list[int]]:
    """Yield indices in batches of similar length, longest first, within the batch size and the limit at that time.

    Args:
        limit: the most padded tokens per batch.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[batch[0]] > limit.size):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
