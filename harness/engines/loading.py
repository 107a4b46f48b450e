"""What every model of transformers that is loaded here has in common: device, type, identity, limits, batches."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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
def load_errors(name: str) -> Iterator[None]:
    """Turns what transformers raises for a model that is absent or not usable into a UserError."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"model {name!r} can not be loaded ({reason}): give a folder with config.json, safetensors weights and "
            "a tokenizer, or the id of such a model on the hub"
        ) from error


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


def context_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that fit the model; where its config does not say, the tokenizer's own limit (huge when unknown)."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length


def check_lengths(lengths: Sequence[int], engine) -> None:
    """Raises UserError when a prompt with its completion is longer than the engine's context."""
    if lengths and max(lengths) > engine.context_length:
        raise UserError(
            f"a prompt and completion of {max(lengths)} tokens do not fit the context of {engine.name} "
            f"({engine.context_length} tokens): shorten them or take a model with a longer context"
        )


def scoring_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, each within the batch size and SCORING_TOKENS."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[batch[0]] > SCORING_TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
