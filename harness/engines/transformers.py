"""Completions and log-probabilities from a transformers model in this process."""

import copy
import inspect
from collections.abc import Callable, Sequence
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from harness.engines import counting, loading, saving
from harness.engines.base import Completion, LogProb, Sampling
from harness.engines.chat import ChatTemplate
from harness.engines.generation import Generated, alike, generate_batch
from harness.engines.linear import packed_weights
from harness.engines.logprobs import (
    ATTENTIONS,
    Reading,
    attend_packed,
    sequence_logprobs,
    without_router_logits,
)
from harness.engines.memory import Counted, Limit, available, free
from harness.engines.passes import Passes, passes
from harness.engines.reading import how_to_read, tell
from harness.engines.refill import Refill, Running
from harness.engines.refillable import Refilling, how_to_generate
from harness.engines.refillable import tell as tell_fixed
from harness.engines.sampling import item_keys
from harness.engines.shareable import tell as tell_apart
from harness.engines.shareable import why_not_shared
from harness.errors import UserError, unknown_name
from harness.models.folder import base_folder, tokenizer_folder
from harness.progress import Advance
from harness.types import Conversation, Reply, TokenIds
from harness.work import Needed

BATCHES = 4  # per call of `generate`, where batches are refilled


class TransformersEngine:
    """A causal language model with its tokenizer; implements `harness.engines.base.TrainableEngine`."""

    adapted: Any = None
    _read: Callable[[torch.dtype], PreTrainedModel] | None = None
    _check = staticmethod(saving.check_whole)

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        batch_size: int = 128,
        attention: str = "sdpa",
        day: date | None = None,
    ) -> None:
        """
        Args:
            day: the date that the chat template writes, if it writes one; None means today.
            attention: how given sequences are read in scoring and training: "sdpa", or "flex" on CUDA.

        Raises:
            UserError: when the attention is not available, or the model has no key-value cache, no chat template or no
                token that ends its answers.
        """
        self._check(model, name)
        if "past_key_values" not in inspect.signature(model.forward).parameters:
            raise UserError(f"{name} ({type(model).__name__}) has no key-value cache, which generation needs here")
        if attention not in ATTENTIONS:
            raise unknown_name("attention", attention, ATTENTIONS)
        if attention == "flex" and model.device.type != "cuda":
            raise UserError(f"attention 'flex' needs CUDA, and {name} is on {model.device}: give sdpa")
        saving.repair(model, tokenizer, name)
        self.attention = attention
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.batch_size = batch_size
        self.generates = Limit(batch_size, "prompts", name)
        self.scores = Limit(loading.SCORING_TOKENS, "tokens", name)
        self.device = model.device
        self.parameters = loading.parameter_count(model)
        configured = model.generation_config.eos_token_id if model.generation_config else None
        self.chat = ChatTemplate(tokenizer, loading.stop_tokens(configured, tokenizer), name, day)
        self.stop_tokens = self.chat.stop_tokens
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.chat.stop_token)
        self.context_length = loading.context_length(model.config, tokenizer)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 128,
        trust_remote_code: bool = False,
        attention: str = "sdpa",
        day: date | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> "TransformersEngine":
        """Load a model folder or hub id; an adapter is merged into its base model.

        Args:
            device: "auto" takes the GPU if there is one.
            dtype: "float32", "bfloat16" or "float16"; "auto" is float32 on the CPU and bfloat16 on a GPU.
            day: see __init__.
            tokenizer: used in place of the folder's.

        Raises:
            UserError: when there is no such model, or it cannot be used (see __init__).
        """
        disable_progress_bar()
        name = str(path)
        device = loading.choose_device(device)
        torch_dtype = loading.choose_dtype(dtype, device)
        with loading.load_errors(name, trust_remote_code):
            base = base_folder(Path(name))
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(
                    str(tokenizer_folder(Path(name)) if base else name), trust_remote_code=trust_remote_code
                )

        def read(dtype: torch.dtype) -> PreTrainedModel:
            with loading.load_errors(name, trust_remote_code):
                model = loading.load_causal(str(base or name), dtype, trust_remote_code)
                return loading.merged(model, Path(name), saving.tokens_of(tokenizer)) if base else model

        engine = cls(read(torch_dtype).to(device), tokenizer, name, batch_size, attention, day)
        if torch_dtype != torch.float32:
            engine._read = read
        return engine

    @property
    def day(self) -> date:
        """The date that the chat template writes, if it writes one."""
        return self.chat.program.day

    @property
    def local(self) -> "TransformersEngine":
        """This engine: the model is in this process."""
        return self

    @cached_property
    def reading(self) -> Reading:
        """How log-probabilities are read, chosen by comparison with the model's own forward pass; a way that is slower
        than packing is reported once on standard error."""
        reading = how_to_read(self.model, self.attention)
        tell(type(self.model).__name__, reading)
        return reading

    @property
    def unit(self) -> int:
        """Prompts per call: several batches if one that ends makes room for the next."""
        return self.batch_size if self.refilling.reason else BATCHES * self.batch_size

    @cached_property
    def refilling(self) -> Refilling:
        """Whether generation refills batches, chosen by comparison with the model's own forward pass; what does not is
        reported once on standard error."""
        refilling = how_to_generate(self.model, self.reading)
        if refilling.reason:
            tell_fixed(type(self.model).__name__, refilling.reason)
        return refilling

    @cached_property
    def why_not_shared(self) -> str:
        """Why what different prompts begin with is not read once in scoring, "" if it is: chosen by comparison with the
        model's own forward pass. The reason is reported once on standard error, where `reading` has not reported it."""
        reason = why_not_shared(self.model, self.reading)
        if reason and self.reading.packs:
            tell_apart(type(self.model).__name__, reason)
        return reason

    def needed(self, adapters: Any = None) -> Needed:
        """Return the FLOPs that the model needs for work.

        Args:
            adapters: a LoraConfig of peft if only adapters are trained.

        Raises:
            UserError: when they cannot be counted.
        """
        return counting.of_model(self.model, adapters)

    def in_float32(self) -> PreTrainedModel:
        """Return a copy of the model in float32, with the weights of its files where it was loaded in fewer bits."""
        model = copy.deepcopy(self.model).float()
        if self._read is not None:
            model.load_state_dict(self._read(torch.float32).state_dict())
        return model

    @cached_property
    def weights_hash(self) -> str:
        return loading.weights_hash(self.model)

    def encode_chat(self, chat: Conversation, add_generation_prompt: bool = True) -> TokenIds:
        return self.chat.encode(chat, add_generation_prompt)

    def encode_replies(self, chat: Conversation, replies: Sequence[Reply]) -> tuple[TokenIds, list[TokenIds]]:
        return self.chat.encode_replies(chat, replies)

    def encode_alternatives(self, chat: Conversation, texts: Sequence[str]) -> tuple[TokenIds, list[TokenIds]]:
        return self.chat.encode_alternatives(chat, texts)

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is Any to mypy here
    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        """Return one completion per prompt; a prompt near the end of the context gets fewer than max_new_tokens.

        The place of a completion that has ended is given to the next prompt, unless the model needs fixed batches. What
        does not fit in memory is tried again with half as many at once.

        Raises:
            UserError: when a prompt leaves no room for a completion, or not even one prompt fits in memory.
        """
        limits = self.room(prompts, items, sampling)
        keys = item_keys(items, sampling.seed)
        make = self._in_fixed_batches if self.refilling.reason else self._refilled
        with packed_weights(self.model, min(self.batch_size, len(prompts)), available(self.device)):
            completions = make(prompts, keys, limits, sampling, advance)
        return [completions[place] for place in range(len(prompts))]

    def _refilled(
        self,
        prompts: Sequence[TokenIds],
        keys: torch.Tensor,
        limits: list[int],
        sampling: Sampling,
        advance: Advance | None,
    ) -> dict[int, Completion]:
        completions: dict[int, Completion] = {}
        while left := [place for place in range(len(prompts)) if place not in completions]:
            asked = [prompts[place] for place in left], [limits[place] for place in left], keys[left]
            for row in self._refill(*asked, sampling, advance):
                completions[left[row.number]] = self.completion(row.tokens, row.computed, sampling.stop)
        return completions

    def _refill(
        self,
        prompts: list[TokenIds],
        limits: list[int],
        keys: torch.Tensor,
        sampling: Sampling,
        advance: Advance | None,
    ) -> list[Running]:
        """Return the rows that end before memory does: all, or some."""
        longest = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
        fitting = self.generates.fit(longest * self.refilling.bytes_per_token, available(self.device))
        slots = min(fitting, self.batch_size, len(prompts))
        ended: list[Running] = []

        def finish(row: Running) -> None:
            ended.append(row)
            if advance:
                advance(1)

        def run() -> bool:
            asked = prompts, limits, keys, partial(self._ends, sampling.stop), sampling
            Refill(self.model, self.reading, *asked, slots, finish).run()
            return True

        self.generates.attempt(run, slots, slots)
        return ended

    def _ends(self, stop: Sequence[str], tokens: list[int]) -> bool:
        """Whether a completion ends with its last token: a stop token, or one after which its text has a stop."""
        if tokens[-1] in self.stop_tokens or not stop:
            return tokens[-1] in self.stop_tokens
        tail = tokens[-max(len(each.encode()) for each in stop) - 1 :]  # a token has a byte at least
        return _has(self._text(tail), stop) and _has(self._text(tokens), stop)

    def _in_fixed_batches(
        self,
        prompts: Sequence[TokenIds],
        keys: torch.Tensor,
        limits: list[int],
        sampling: Sampling,
        advance: Advance | None,
    ) -> dict[int, Completion]:
        completions: dict[int, Completion] = {}
        longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        for start in range(0, len(prompts), self.batch_size):
            waiting = longest_first[start : start + self.batch_size]
            while waiting:
                batch = waiting[: self.generates.size]
                batch = batch[: alike([prompts[index] for index in batch], [limits[index] for index in batch])]
                rows = self._generate_batch(
                    [prompts[index] for index in batch],
                    keys[batch],
                    [limits[index] for index in batch],
                    sampling,
                    advance,
                )
                if rows is not None:
                    del waiting[: len(batch)]
                    for index, row in zip(batch, rows, strict=True):
                        completions[index] = self.completion(row.token_ids, row.computed)
        return completions

    def room(self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling) -> list[int]:
        """How many tokens each prompt's completion may have.

        Raises:
            UserError: when a prompt leaves no room.
        """
        limits = [min(sampling.max_new_tokens, self.context_length - len(prompt)) for prompt in prompts]
        for item, prompt, limit in zip(items, prompts, limits, strict=True):
            if limit < 1:
                raise UserError(
                    f"the prompt of {item} has {len(prompt)} tokens and the context of {self.name} ends at "
                    f"{self.context_length}: shorten it or use a model with a longer context"
                )
        return limits

    def _generate_batch(
        self,
        prompts: list[TokenIds],
        keys: torch.Tensor,
        limits: list[int],
        sampling: Sampling,
        advance: Advance | None,
    ) -> list[Generated] | None:
        """Run `generate_batch`; return None if the batch does not fit in memory."""
        counted = Counted(advance)

        def generate() -> list[Generated]:
            pad = self.tokenizer.pad_token_id
            with without_router_logits(self.model):
                return generate_batch(self.model, prompts, keys, limits, self.stop_tokens, pad, sampling, counted)

        rows = self.generates.attempt(generate, len(prompts), len(prompts))
        if rows is None:
            counted.take_back()
        return rows

    def completion(self, token_ids: Sequence[int], computed: int | None = None, stop: Sequence[str] = ()) -> Completion:
        """Return the completion that the model emitted as these tokens."""
        text = self._text(token_ids)
        return Completion(tuple(token_ids), text, token_ids[-1] in self.stop_tokens or _has(text, stop), computed)

    def _text(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is Any to mypy here
    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        """Return the log-probability of each completion given its prompt. A prompt is read once for its completions,
        and what different prompts begin with is read once for those of a forward pass if that saves enough.

        Raises:
            UserError: when a prompt and its completion are longer than the context, or do not fit in memory.
        """
        pairs = list(zip(prompts, completions, strict=True))
        loading.check_lengths([len(prompt) + len(completion) for prompt, completion in pairs], self)
        reading, asked = self.reading, self._passes(pairs)
        results: dict[int, LogProb] = {}

        def score(batch: list[int]) -> list[tuple[float, int]]:
            packed = asked.pack(batch)
            totals = sequence_logprobs(self.model, packed.to(self.device), reading)
            return list(zip(totals.tolist(), packed.lengths.tolist(), strict=True))

        with attend_packed(self.model, reading):
            batches = asked.batches(self.batch_size, self.scores)
            for batch, scored in self.scores.each(batches, asked.size, score):
                for places, (total, tokens) in zip(asked.places(batch), scored, strict=True):
                    for place in places:
                        results[place] = LogProb(total, tokens)
                    if advance:
                        advance(len(places))
        return [results[place] for place in range(len(pairs))]

    def positions(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> int:
        """How many positions `logprobs` computes for these sequences, including padding."""
        asked = self._passes(list(zip(prompts, completions, strict=True)))
        return sum(map(asked.positions, asked.batches(self.batch_size, self.scores)))

    def _passes(self, pairs: Sequence[tuple[TokenIds, TokenIds]]) -> Passes:
        return passes(pairs, self.reading, self.reading.packs and not self.why_not_shared)

    def rest(self) -> None:
        """Do nothing: generation holds nothing that training does not need."""

    def release(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""
        self.model = None
        free()


def _has(text: str, stop: Sequence[str]) -> bool:
    return any(each in text for each in stop)
