"""What every model of transformers that is loaded here has in common: device, type, identity, limits, batches."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from harness.engines.memory import Limit
from harness.errors import UserError
from harness.models import ADAPTER_WEIGHTS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FAILURES = (  # of loading files of others
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError),
    SafetensorError,
)
T = TypeVar("T")
SCORING_TOKENS = 8192  # padded tokens in one forward pass over given sequences, whatever the batch size


def choose_device(device: str) -> str:
    """ "auto" takes the GPU when there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """ "auto" is float32 on the CPU and bfloat16 on a GPU."""
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not known: give auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


@contextmanager
def load_errors(name: str, trust_remote_code: bool = False) -> Iterator[None]:
    """Turns what transformers raises for a model that is absent or not usable into a UserError.

    It says on standard error when code of models may run, and refuses weights that transformers would take from other
    places or formats.
    """
    if trust_remote_code:
        _tell_remote_code()
    try:
        check_shards(Path(name))
        yield
    except FAILURES as error:
        reason = str(error).strip().partition("\n")[0]
        trust = "contains custom code" in reason or "trust_remote_code" in str(error)
        remedy = "read that code, and where you trust it add --trust-remote-code; or " if trust else ""
        raise UserError(
            f"model {name!r} can not be loaded ({reason}): {remedy}give a folder with config.json, safetensors weights "
            "and a tokenizer, or the id of such a model on the hub"
        ) from error


@cache
def _tell_remote_code() -> None:
    """Once in a process."""
    print("code that comes with models runs in this process (--trust-remote-code)", file=sys.stderr)


def check_shards(folder: Path) -> None:
    """The weights that an index names must be safetensors beside it.

    transformers follows a path to anywhere, and unpickles (without running code) what has another name.

    Raises:
        ValueError: naming the file.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    content = json.loads(index.read_text(encoding="utf-8"))
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict):
        raise ValueError(f"{index} has no weight_map")
    for shard in shards.values():
        if not (isinstance(shard, str) and shard == Path(shard).name and shard.endswith(".safetensors")):
            raise ValueError(f"{index} names {shard!r:.80}, which is no .safetensors file of this folder")


def merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model with a PEFT adapter added to its weights.

    Raises:
        ValueError: when it can not be added, or was made for another model.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(adapter))
    if config.is_prompt_learning:
        raise ValueError(f"an adapter of type {config.peft_type.value} can not be added to a model's weights")
    config.inference_mode = True
    adapted = get_peft_model(model, config)
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    odd = [name for name, own in expected.items() if name not in weights or weights[name].shape != own.shape]
    odd = odd or set_peft_model_state_dict(adapted, weights).unexpected_keys
    if odd:
        raise ValueError(f"its adapter was made for another model: {len(odd)} weights do not fit, such as {odd[0]}")
    return adapted.merge_and_unload(safe_merge=True)


def weights_hash(model: PreTrainedModel) -> str:
    """SHA-256 over the names, types, shapes and values of all tensors, however the files are split."""
    digest = hashlib.sha256()
    tensors = model.state_dict()
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parameter_count(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def stop_tokens(configured: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The end-of-sequence tokens of a config and of the tokenizer."""
    stops = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({token for token in (*stops, tokenizer.eos_token_id) if token is not None}))


def context_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that fit a model; where its config does not say, the tokenizer's own limit (huge when unknown)."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length


def check_lengths(lengths: Sequence[int], engine) -> None:
    """Raises UserError when a prompt with its completion is longer than the engine's context."""
    if lengths and max(lengths) > engine.context_length:
        raise UserError(
            f"a prompt and completion of {max(lengths)} tokens do not fit the context of {engine.name} "
            f"({engine.context_length} tokens): shorten them or take a model with a longer context"
        )


def in_batches(
    lengths: Sequence[int], batch_size: int, limit: Limit, compute: Callable[[list[int]], T]
) -> Iterator[tuple[list[int], T]]:
    """What `compute` makes of each batch of indices, in halves where memory does not hold it.

    Args:
        limit: padded tokens of a batch.
    """
    for batch in _batches(lengths, batch_size, limit):
        parts = [batch]
        while parts:
            part = parts.pop()
            tokens = len(part) * lengths[part[0]]
            tried = len(part) == 1 or tokens <= limit.size
            made = limit.attempt(partial(compute, part), len(part), tokens) if tried else None
            if made is None:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            else:
                yield part, made


def _batches(lengths: Sequence[int], batch_size: int, limit: Limit) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, each within the batch size and the limit as it then is."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[batch[0]] > limit.size):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
