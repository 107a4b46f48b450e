"""Conversations as token ids, by the model's own chat template."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from harness.engines.base import Message, TokenIds
from harness.errors import UserError

PROBE = ({"role": "user", "content": "user-probe"}, {"role": "assistant", "content": "assistant-probe"})
SYSTEM_PROBE = "system-probe"
REMEMBERED = 4096  # conversations: those that are sampled from are trained on a moment later


class ChatTemplate:
    """A tokenizer's chat template, and the tokens that end an assistant's turn.

    A system message goes into the first user message when the template has no place for it, as is usual for models
    without a system role (Gemma, Mistral).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[int], name: str):
        """
        Args:
            stop_tokens: ids after which the model stops.
            name: of the model, for error messages.

        Raises:
            UserError: when the tokenizer has no chat template, or a broken one, or nothing ends a turn.
        """
        if tokenizer.chat_template is None:
            raise UserError(
                f"the tokenizer of {name} has no chat template: give a chat (SFT or instruct) model, "
                "or put a chat_template.jinja next to its tokenizer"
            )
        if not stop_tokens:
            raise UserError(
                f"{name} has no end-of-sequence token, so its answers would never end: "
                "set eos_token in its tokenizer_config.json or eos_token_id in its generation_config.json"
            )
        self.tokenizer = tokenizer
        self.name = name
        self._encoded = lru_cache(REMEMBERED)(self._encode)
        self.has_system_role = self._renders_system()
        self.stop_token = self._end_of_turn(stop_tokens)

    def encode(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> TokenIds:
        """Token ids of a conversation, the BOS token once where the template writes one.

        Raises:
            UserError: when the template refuses the conversation (such as two user messages in a row).
        """
        return self._encoded(tuple((each["role"], each["content"]) for each in messages), add_generation_prompt)

    def _encode(self, turns: tuple[tuple[str, str], ...], add_generation_prompt: bool) -> TokenIds:
        messages = [{"role": role, "content": content} for role, content in turns]
        if not self.has_system_role:
            messages = fold_system(messages)
        return tuple(self._apply(messages, add_generation_prompt=add_generation_prompt, return_dict=False))

    def encode_completion(self, text: str) -> TokenIds:
        """Token ids of an assistant's reply, with the token that ends its turn."""
        return (*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.stop_token)

    def _apply(self, messages: Sequence[Message], **options) -> Any:
        try:
            return self.tokenizer.apply_chat_template(list(messages), **options)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(f"the chat template of {self.name} refuses a conversation of {roles}: {error}") from error

    def _renders_system(self) -> bool:
        try:
            return SYSTEM_PROBE in self._apply([{"role": "system", "content": SYSTEM_PROBE}, *PROBE], tokenize=False)
        except UserError:
            return False

    def _end_of_turn(self, stop_tokens: Sequence[int]) -> int:
        """The stop token that the template writes after a reply, or else the tokenizer's own."""
        text = self._apply(PROBE, tokenize=False)
        rest = text.rpartition(PROBE[1]["content"])[2]
        written = self.tokenizer(rest, add_special_tokens=False)["input_ids"]
        default = stop_tokens[0] if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id
        return next((token for token in written if token in stop_tokens), default)


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """The conversation with its leading system message put before the text of the first user message."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    for index, message in enumerate(rest):
        if message["role"] == "user":
            folded = {**message, "content": f"{system['content']}\n\n{message['content']}"}
            return [*rest[:index], folded, *rest[index + 1 :]]
    return [{"role": "user", "content": system["content"]}, *rest]
