"""Rewards from a sequence classifier with one output, the usual form of a reward model."""

from collections.abc import Sequence
from datetime import date
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from harness.engines import loading
from harness.engines.base import Completion, LogProb, Sampling
from harness.engines.chat import ChatTemplate
from harness.engines.memory import Limit, free
from harness.errors import UserError
from harness.progress import Advance
from harness.types import Conversation, Reply, TokenIds


class RewardModel:
    """A sequence classifier with one output and its tokenizer, which reads a chat to the end of its last reply.

    Implements `harness.engines.base.RewardEngine` and `Engine`, of which the methods that need text raise UserError.
    """

    local = None

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        batch_size: int = 128,
        day: date | None = None,
    ) -> None:
        """
        Args:
            day: the date that the chat template writes, if it writes one; None means today.

        Raises:
            UserError: when the model does not have exactly one output, or has no chat template.
        """
        if model.config.num_labels != 1:
            raise UserError(f"{name} has {model.config.num_labels} outputs: a reward model has one (num_labels 1)")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.batch_size = batch_size
        self.generates = Limit(batch_size, "prompts", name)
        self.scores = Limit(loading.SCORING_TOKENS, "tokens", name)
        self.device = model.device
        self.parameters = loading.parameter_count(model)
        self.context_length = loading.context_length(model.config, tokenizer)
        config = model.config.get_text_config()
        stops = loading.stop_tokens(getattr(config, "eos_token_id", None), tokenizer)
        self.chat = ChatTemplate(tokenizer, stops, name, day)
        if config.pad_token_id is None or config.pad_token_id < 0:
            config.pad_token_id = spare_token(tokenizer, self.chat.last_token())
        config.use_cache = False
        _score_in_float32(model)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 128,
        trust_remote_code: bool = False,
        day: date | None = None,
    ) -> "RewardModel":
        """Load the reward model of a folder or hub id.

        Args:
            device: "auto" takes the GPU if there is one.
            dtype: "float32", "bfloat16" or "float16"; "auto" is float32 on the CPU and bfloat16 on a GPU.
            day: see __init__.

        Raises:
            UserError: when there is no such model, when it has no trained score head (a language model has none), or
                when it cannot be used (see __init__).
        """
        name = str(path)
        device = loading.choose_device(device)
        with loading.load_errors(name, trust_remote_code):
            model, missing = loading.load_model(
                AutoModelForSequenceClassification, name, loading.choose_dtype(dtype, device), trust_remote_code
            )
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        if missing:
            raise UserError(
                f"{name} holds no weights for {', '.join(missing)}, so its rewards would be random: "
                "give a trained reward model (a sequence classifier with one output)"
            )
        return cls(model.to(device), tokenizer, name, batch_size, day)

    @cached_property
    def weights_hash(self) -> str:
        return loading.weights_hash(self.model)

    def encode_chat(self, chat: Conversation, add_generation_prompt: bool = True) -> TokenIds:
        return self.chat.encode(chat, add_generation_prompt)

    def encode_replies(self, chat: Conversation, replies: Sequence[Reply]) -> tuple[TokenIds, list[TokenIds]]:
        """Return the same ids as in the training of reward models (`ChatTemplate.encode_replies`)."""
        return self.chat.encode_replies(chat, replies)

    def encode_alternatives(self, chat: Conversation, texts: Sequence[str]) -> tuple[TokenIds, list[TokenIds]]:
        return self.chat.encode_alternatives(chat, texts)

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        raise self._writes_no_text()

    def logprobs(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[LogProb]:
        raise self._writes_no_text()

    @property
    def unit(self) -> int:
        return self.batch_size

    def positions(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> int:
        raise self._writes_no_text()

    def _writes_no_text(self) -> UserError:
        return UserError(f"{self.name} is a sequence classifier, which writes no text: score it by its rewards")

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is Any to mypy here
    def rewards(
        self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds], advance: Advance | None = None
    ) -> list[float]:
        """Return the reward of each completion given its prompt, in order.

        Raises:
            UserError: when a prompt and its completion are longer than the context, or do not fit in memory.
        """
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        rewards, lengths = [0.0] * len(rows), list(map(len, rows))
        padding = self.model.config.get_text_config().pad_token_id
        loading.check_lengths(lengths, self)

        def score(batch: list[int]) -> list[float]:
            longest = max(lengths[index] for index in batch)
            input_ids = torch.tensor([rows[index] + [padding] * (longest - lengths[index]) for index in batch])
            ends = torch.tensor([lengths[index] for index in batch])
            mask = (torch.arange(longest) < ends[:, None]).long()
            logits = self.model(input_ids=input_ids.to(self.device), attention_mask=mask.to(self.device)).logits
            return logits.float().squeeze(-1).tolist()

        def size(batch: list[int]) -> int:
            return len(batch) * lengths[batch[0]]

        batches = loading.batches(lengths, self.batch_size, self.scores)
        for batch, scored in self.scores.each(batches, size, score):
            for index, reward in zip(batch, scored, strict=True):
                rewards[index] = reward
            if advance:
                advance(len(batch))
        return rewards

    def release(self) -> None:
        """Free the model's memory; the reward model cannot be used afterwards."""
        self.model = None
        free()


def spare_token(tokenizer: PreTrainedTokenizerBase, last: int) -> int:
    """Return a token to pad with that is not the last token of a sequence.

    Classifiers find the end of a sequence as its last token that is not padding. Padding with the stop token, as
    tokenizers without a padding token usually do, would move the reward to the token before it.
    """
    candidates = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, 0, 1)
    return next(token for token in candidates if token is not None and token != last)


def _score_in_float32(model: PreTrainedModel) -> None:
    """Compute the head in float32: in bfloat16, rewards around 10 are 1/16 apart, so close ones would tie."""
    head = getattr(model, "score", None)
    if isinstance(head, torch.nn.Linear) and head.weight.dtype != torch.float32:
        head.float()
        head.register_forward_pre_hook(lambda _head, inputs: (inputs[0].float(), *inputs[1:]))
