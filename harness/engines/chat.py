"""Conversations as token ids, by the model's own chat template.

Texts of messages are data: what looks like a control token in them ("<|im_end|>", "</s>") is read as plain text, so
that only the template begins and ends turns. Marks that are plain text in the template too, as in some models of old
("[INST]", "USER:"), are no tokens, and no tokenizer can tell who wrote them.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from harness.engines.base import Message, TokenIds
from harness.engines.templates import bounded, checked
from harness.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = ({"role": "user", "content": "user-probe"}, {"role": "assistant", "content": "assistant-probe"})
SYSTEM_PROBE = "system-probe"
_MARK = re.compile(r"[^\w\s]")
REMEMBERED = 4096  # conversations: those that are sampled from are trained on a moment later


class ChatTemplate:
    """A tokenizer's chat template, and the tokens that end an assistant's turn.

    A system message goes into the first user message when the template has no place for it, as is usual for models
    without a system role (Gemma, Mistral).
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop_tokens: Sequence[int], name: str):
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
        self._control = self._control_tokens()

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
        if not any(self._control.search(message["content"]) for message in messages):
            return self._ids(self._render(messages, add_generation_prompt=add_generation_prompt))
        from transformers.utils.chat_template_utils import mark_control_tokens

        marked = mark_control_tokens(messages, self._control)
        return self._marked_ids(self._render(marked, add_generation_prompt=add_generation_prompt))

    def encode_text(self, text: str) -> TokenIds:
        """Token ids of a text without any control token."""
        if not self._control.search(text):
            return self._ids(text)
        from transformers.utils.chat_template_utils import mark_control_tokens

        return self._marked_ids(mark_control_tokens(text, self._control))

    def encode_completion(self, text: str) -> TokenIds:
        """Token ids of an assistant's reply, with the token that ends its turn."""
        return (*self.encode_text(text), self.stop_token)

    def after_reply(self) -> TokenIds:
        """What the template writes after an assistant's reply."""
        return self._ids(self._render(PROBE).rpartition(PROBE[-1]["content"])[2])

    def _ids(self, text: str) -> TokenIds:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _marked_ids(self, text: str) -> TokenIds:
        """Of a text whose marked parts are no control tokens (private characters of transformers mark them)."""
        from transformers.utils.chat_template_utils import encode_marked_chat

        try:
            return tuple(encode_marked_chat(self.tokenizer, text))
        except ValueError as error:  # its vocabulary has the token among the ordinary ones too
            raise UserError(f"{self.name} can not read a text with a control token in it: {error}") from None

    def _render(self, messages: Sequence[Message], **options: bool) -> str:
        try:
            with bounded():
                return checked(self.tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(f"the chat template of {self.name} refuses a conversation of {roles}: {error}") from error

    def _control_tokens(self) -> re.Pattern:
        """Finds the special tokens, and those that the template writes between the texts of a conversation.

        Other added tokens stay what they are in any text: Gemma's "<table>", or "<think>" in a reply.
        """
        system = [{"role": "system", "content": SYSTEM_PROBE}] if self.has_system_role else []
        written = self._render([*system, *PROBE, PROBE[0]])
        if any(message["content"] not in written for message in PROBE):
            raise UserError(f"the chat template of {self.name} does not write what was said")
        control = [
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if token.special or (token.content in written and _MARK.search(token.content))
        ]
        return re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or "(?!)")

    def _renders_system(self) -> bool:
        try:
            return SYSTEM_PROBE in self._render([{"role": "system", "content": SYSTEM_PROBE}, *PROBE])
        except UserError:
            return False

    def _end_of_turn(self, stop_tokens: Sequence[int]) -> int:
        """The stop token that the template writes after a reply, or else the tokenizer's own."""
        default = stop_tokens[0] if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id
        return next((token for token in self.after_reply() if token in stop_tokens), default)


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
