"""Conversations as token ids, by the model's own chat template.

Message texts are data: what looks like a control token in them ("<|im_end|>", "</s>") is encoded as plain text, so only
the template begins and ends turns. Marks that are plain text in the template itself, as in some older models ("[INST]",
"USER:"), are not tokens, and no tokenizer can tell who wrote them.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.engines.conversations import ChatWriter
from harness.engines.templates import ChatProgram
from harness.errors import UserError
from harness.types import Chat, Conversation, Reply, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION, ANSWER = "user-probe", "assistant-probe"
PROBE = ({"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER})
SYSTEM_PROBE = "system-probe"
OTHERS = "#~0z?"  # one of these begins and ends unlike the compared answers
_MARK = re.compile(r"[^\w\s]")
_SAID: set[tuple[str, str]] = set()
REMEMBERED = 4096  # cached conversations: those sampled from are trained on soon after


class ChatTemplate:
    """A tokenizer's chat template, and the tokens that end an assistant's turn.

    stop_tokens: ids after which the model stops: the configured ones, and the token that ends a turn in the template.
    stop_token: the one that the template writes after a reply, or else the tokenizer's.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        stop_tokens: Sequence[int],
        name: str,
        day: date | None = None,
    ) -> None:
        """
        Args:
            stop_tokens: of the model's configuration and its tokenizer.
            name: of the model, for error messages.
            day: the date that the template writes, if it writes one; None means today.

        Raises:
            UserError: when the tokenizer has no chat template or a broken one, or nothing ends a turn.
        """
        if tokenizer.chat_template is None:
            raise UserError(
                f"the tokenizer of {name} has no chat template: give a chat (SFT or instruct) model, "
                "or put a chat_template.jinja next to its tokenizer"
            )
        self.tokenizer = tokenizer
        self.name = name
        self.program = ChatProgram(tokenizer.chat_template, tokenizer.special_tokens_map, day)
        self._writer = ChatWriter(self.program, name)
        self._encoded = lru_cache(REMEMBERED)(self._encode)
        self._control = self._control_tokens()
        self.stop_tokens, self.stop_token = self._ends_of_turn(tuple(stop_tokens))

    def encode(self, chat: Conversation, add_generation_prompt: bool = True) -> TokenIds:
        """Return the token ids of a conversation, with one BOS token if the template writes one.

        Raises:
            UserError: when the template refuses the conversation (such as two user messages in a row), or omits a part
                of it.
        """
        chat = Chat.of(chat)
        return self._encoded(json.dumps([chat.messages, chat.tools, chat.variables]), add_generation_prompt)

    def _encode(self, chat: str, add_generation_prompt: bool) -> TokenIds:
        messages, tools, variables = json.loads(chat)
        said = Chat(tuple(messages), tuple(tools), variables)
        return self._written(lambda mark: self._writer.prompt(said, mark, add_generation_prompt), said, ())

    def check(self, chat: Chat) -> None:
        """Check that the template writes the whole conversation.

        Raises:
            UserError: when the template refuses the conversation, or omits a part of it.
        """
        self._writer.prompt(chat)

    def encode_replies(self, chat: Conversation, replies: Sequence[Reply]) -> tuple[TokenIds, list[TokenIds]]:
        """Return the token ids of a prompt and of given replies to it, as the template writes them.

        The template writes the conversation up to the reply, and whole with each reply. The common prefix of all these
        is the prompt; what follows are a reply's ids, including the end of its turn. This is the rule of TRL's trainers
        (`trl.data_utils.common_prefix_length`): a reply includes what the template puts before its text, such as an
        empty thought or a channel, and a prompt excludes what only generation gets, such as an opened thought.

        Raises:
            UserError: see `encode`; also when the template writes nothing of a reply.
        """
        chat = Chat.of(chat)
        alone, wholes = self.encode(chat), [self._whole(chat, reply) for reply in replies]
        shared = min(_common(alone, whole) for whole in wholes)
        if shared < len(alone):
            only = self.tokenizer.decode(alone[shared:])
            self._say_once(
                f"does not end a prompt with {only!r} when a reply is given: such replies are trained on and scored "
                "without it"
            )
        if shared == min(map(len, wholes)):
            raise UserError(f"the chat template of {self.name} writes nothing of a reply")
        return alone[:shared], [whole[shared:] for whole in wholes]

    def encode_alternatives(self, chat: Conversation, texts: Sequence[str]) -> tuple[TokenIds, list[TokenIds]]:
        """Return the token ids of a prompt and of short answers to compare: the tokens in which they differ, without
        what the template writes before and after all of them (an empty thought, the end of the turn).

        Raises:
            UserError: see `encode_replies`.
        """
        chat = Chat.of(chat)
        other = next((mark for mark in OTHERS if not any(mark in (text[:1], text[-1:]) for text in texts)), "probe")
        *wholes, reference = [self._whole(chat, text) for text in (*texts, other)]
        shared = min(_common(reference, whole) for whole in wholes)
        after = min(_common(reference[shared:][::-1], whole[shared:][::-1]) for whole in wholes)
        answers = [whole[shared : len(whole) - after] for whole in wholes]
        if not all(answers):
            raise UserError(f"the chat template of {self.name} writes nothing of an answer such as {texts[0]!r}")
        return reference[:shared], answers

    def last_token(self) -> int:
        """Return the last token of a conversation that ends with a reply."""
        return self.encode(PROBE, add_generation_prompt=False)[-1]

    def _whole(self, chat: Chat, reply: Reply) -> TokenIds:
        return self._written(lambda mark: self._writer.whole(chat, reply, mark), chat, reply)

    def _written(self, write: Callable[[Any], str], chat: Chat, reply: Reply) -> TokenIds:
        """Return the token ids of what `write` writes; it gets a function to mark control tokens if texts hold any."""
        if not any(map(self._control.search, _texts([chat.messages, chat.tools, chat.variables, reply]))):
            return self._ids(write(None))
        from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

        text = write(lambda said: mark_control_tokens(said, self._control))
        try:
            return tuple(encode_marked_chat(self.tokenizer, text))
        except ValueError as error:  # its vocabulary has the token among the ordinary ones too
            raise UserError(f"{self.name} cannot read a text with a control token in it: {error}") from None

    def _ids(self, text: str) -> TokenIds:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _control_tokens(self) -> re.Pattern[str]:
        """Return a pattern for special tokens, and for tokens that the template writes between a conversation's texts.

        Other added tokens keep their meaning in any text: Gemma's "<table>", or "<think>" in a reply.
        """
        system = {"role": "system", "content": SYSTEM_PROBE}
        written = self._writer.prompt(Chat((system, *PROBE, PROBE[0])), add_generation_prompt=False)
        control = [
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if token.special or (token.content in written and _MARK.search(token.content))
        ]
        return re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or "(?!)")

    def _ends_of_turn(self, configured: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Return the tokens after which the model stops, and the one that ends a reply in the template."""
        after = self._ids(self._writer.whole(Chat(PROBE[:1]), ANSWER).rpartition(ANSWER)[2])
        known = next((token for token in after if token in configured), None)
        if known is not None:
            return configured, known
        control = next((token for token in after if self._control.fullmatch(self._text(token))), None)
        if control is not None:
            self._say_once(
                f"ends a turn with {self._text(control)!r}, which is not among the end-of-sequence tokens of its "
                "configuration: generation stops there too"
            )
            return tuple(sorted({*configured, control})), control
        if not configured:
            raise UserError(
                f"{self.name} has no end-of-sequence token, so its answers would never end: "
                "set eos_token in its tokenizer_config.json or eos_token_id in its generation_config.json"
            )
        self._say_once(
            "writes no end-of-sequence token after a reply: training on given replies does not teach the model to stop"
        )
        default = self.tokenizer.eos_token_id
        return configured, configured[0] if default is None else default

    def _text(self, token: int) -> str:
        return self.tokenizer.convert_ids_to_tokens(token)

    def _say_once(self, what: str) -> None:
        """Report once per process and template: a trained model has the template of the model it started from."""
        template = json.dumps(self.program.sources, sort_keys=True)
        if (template, what) not in _SAID:
            _SAID.add((template, what))
            print(f"note: the chat template of {self.name} {what}", file=sys.stderr)


def _common(ids: TokenIds, others: TokenIds) -> int:
    """How many tokens two sequences have in common at their start."""
    pairs = enumerate(zip(ids, others, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(ids), len(others)))


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
