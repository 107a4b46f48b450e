"""Completions and log-probabilities from a model of transformers, in this process."""

import gc
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from harness.engines.base import Advance, Completion, LogProb, Message, Sampling, TokenIds
from harness.engines.chat import ChatTemplate
from harness.engines.generation import generate_batch
from harness.engines.logprobs import pad_batch, sequence_logprobs
from harness.engines.sampling import item_keys
from harness.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCORING_TOKENS = 8192  # padded tokens in one forward pass of `logprobs`, whatever the batch size


class TransformersEngine:
    """A causal language model with its tokenizer; implements `harness.engines.base.Engine`."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, batch_size: int = 128
    ) -> None:
        """
        Raises:
            UserError: when the model has no key-value cache, no chat template or no token that ends its answers.
        """
        if "past_key_values" not in inspect.signature(model.forward).parameters:
            raise UserError(f"{name} ({type(model).__name__}) has no key-value cache, which generation needs here")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.batch_size = batch_size
        self.device = model.device
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.stop_tokens = _stop_tokens(model, tokenizer)
        self.chat = ChatTemplate(tokenizer, self.stop_tokens, name)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.chat.stop_token)
        self.context_length = _context_length(model, tokenizer)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 128,
        trust_remote_code: bool = False,
    ) -> "TransformersEngine":
        """The engine of a model folder or hub id.

        Args:
            device: "auto" takes the GPU when there is one.
            dtype: "float32", "bfloat16" or "float16"; "auto" is float32 on the CPU and bfloat16 on a GPU.

        Raises:
            UserError: when there is no such model, or it can not be used (see __init__).
        """
        disable_progress_bar()
        name = str(path)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto":
            dtype = "float32" if device == "cpu" else "bfloat16"
        if dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r} is not known: give auto, {', '.join(DTYPES)}")
        try:
            model = AutoModelForCausalLM.from_pretrained(
                name, dtype=DTYPES[dtype], use_safetensors=True, trust_remote_code=trust_remote_code
            ).to(device)
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"model {name!r} can not be loaded ({reason}): give a folder with config.json, safetensors weights and "
                "a tokenizer, or the id of such a model on the hub"
            ) from error
        return cls(model, tokenizer, name, batch_size)

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the names, types, shapes and values of all tensors, however the files are split."""
        digest = hashlib.sha256()
        tensors = self.model.state_dict()
        for name in sorted(tensors):
            tensor = tensors[name].cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def encode_chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> TokenIds:
        return self.chat.encode(messages, add_generation_prompt)

    def encode_completion(self, text: str) -> TokenIds:
        return self.chat.encode_completion(text)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """One completion a prompt; a prompt near the end of the context gets fewer than max_new_tokens.

        Raises:
            UserError: when a prompt leaves no room for a completion.
        """
        limits = [min(sampling.max_new_tokens, self.context_length - len(prompt)) for prompt in prompts]
        for item, prompt, limit in zip(items, prompts, limits, strict=True):
            if limit < 1:
                raise UserError(
                    f"the prompt of {item} has {len(prompt)} tokens and the context of {self.name} ends at "
                    f"{self.context_length}: shorten it or take a model with a longer context"
                )
        keys = item_keys(items, sampling.seed)
        completions: list[Completion | None] = [None] * len(prompts)
        longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        for start in range(0, len(prompts), self.batch_size):
            batch = longest_first[start : start + self.batch_size]
            rows = generate_batch(
                self.model,
                [prompts[index] for index in batch],
                keys[batch],
                [limits[index] for index in batch],
                self.stop_tokens,
                self.tokenizer.pad_token_id,
                sampling,
                advance,
            )
            for index, token_ids in zip(batch, rows, strict=True):
                completions[index] = self._completion(token_ids)
        return completions

    def _completion(self, token_ids: Sequence[int]) -> Completion:
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(tuple(token_ids), text, token_ids[-1] in self.stop_tokens)

    @torch.inference_mode()
    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        """Log-probability of each completion given its prompt, in order.

        Raises:
            UserError: when a prompt and its completion are longer than the context.
        """
        pairs = list(zip(prompts, completions, strict=True))
        results: list[LogProb | None] = [None] * len(pairs)
        for batch in self._scoring_batches([len(prompt) + len(completion) for prompt, completion in pairs]):
            padded = pad_batch([pairs[index] for index in batch], self.tokenizer.pad_token_id)
            totals, tokens = sequence_logprobs(
                self.model, padded.input_ids.to(self.device), padded.predicts.to(self.device)
            )
            for index, total, count in zip(batch, totals.tolist(), tokens.tolist(), strict=True):
                results[index] = LogProb(total, count)
            if advance:
                advance(len(batch))
        return results

    def _scoring_batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices in batches of similar length, each within the batch size and the number of padded tokens."""
        if lengths and max(lengths) > self.context_length:
            raise UserError(
                f"a prompt and completion of {max(lengths)} tokens do not fit the context of {self.name} "
                f"({self.context_length} tokens): shorten them or take a model with a longer context"
            )
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            if batch and (len(batch) == self.batch_size or (len(batch) + 1) * lengths[batch[0]] > SCORING_TOKENS):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def release(self) -> None:
        """Free the model's memory; the engine can not be used afterwards."""
        self.model = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The end-of-sequence tokens of the generation config and of the tokenizer."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    stops = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({token for token in (*stops, tokenizer.eos_token_id) if token is not None}))


def _context_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that fit the model; where its config does not say, the tokenizer's own limit (huge when unknown)."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length
