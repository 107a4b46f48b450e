"""Which rows a model can read: those that its chat template accepts and its context holds. No weights are needed."""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import date
from pathlib import Path

from harness.engines.template_files import chat_writer
from harness.errors import UserError
from harness.models.folder import base_folder, text_config, tokenizer_folder
from harness.progress import progress
from harness.types import Prompt

MANY = 10_000  # rows that take a second or more, so that progress is shown
MARGIN = 2  # tokens: one to generate, one that a tokenizer may put before a text


def prompts_that_fit(
    prompts: Sequence[Prompt],
    folder: Path,
    labelled: bool = False,
    trust_remote_code: bool = False,
    day: date | None = None,
) -> list[Prompt]:
    """The prompts that leave room for a completion; with `labelled`, the rows whose completions fit.

    The chat template writes every row. A token has at least one byte, so rows with fewer bytes than the context has
    tokens are not tokenized.

    Args:
        folder: folder of the model.
        day: the date that the chat template writes, where it writes one; None is today.

    Raises:
        UserError: when the folder has no tokenizer or chat template, or the template refuses a row or leaves out a part
            of it (file and line).
    """
    lengths = _written_bytes(prompts, folder, labelled, day)
    least = _context_in_config(folder)
    near = {prompt.id for prompt, length in zip(prompts, lengths, strict=True) if length + MARGIN >= least}
    if not near:
        return list(prompts)
    from transformers import AutoConfig, AutoTokenizer

    from harness.engines.chat import ChatTemplate
    from harness.engines.loading import context_length, load_errors

    with load_errors(str(folder)):
        config = AutoConfig.from_pretrained(base_folder(folder) or folder, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(folder), trust_remote_code=trust_remote_code)
    context = context_length(config, tokenizer)
    chat = ChatTemplate(tokenizer, (tokenizer.eos_token_id or 0,), str(folder), day)

    def fits(prompt: Prompt) -> bool:
        if not labelled:
            return len(chat.encode(prompt.chat)) < context
        shared, replies = chat.encode_replies(prompt.chat, prompt.replies)
        return len(shared) + max(map(len, replies)) <= context

    return [prompt for prompt in prompts if prompt.id not in near or fits(prompt)]


def _context_in_config(folder: Path) -> int:
    """The context in config.json under its usual name; 0 where it is not there."""
    length = text_config(folder).get("max_position_embeddings")
    return length if isinstance(length, int) else 0


def _written_bytes(prompts: Sequence[Prompt], folder: Path, labelled: bool, day: date | None) -> list[int]:
    """How many bytes the chat template writes for each row; for a pair, those of the longer one."""
    writer = chat_writer(folder, str(folder), day)
    lengths = []
    slow = len(prompts) >= MANY
    with progress("rows: chat template", len(prompts)) if slow else nullcontext(lambda _count: None) as advance:
        for prompt in prompts:
            try:
                if labelled:
                    texts = [writer.whole(prompt.chat, reply) for reply in prompt.replies]
                else:
                    texts = [writer.prompt(prompt.chat)]
            except UserError as error:
                raise UserError(f"{prompt.where or prompt.id}: {error}") from None
            lengths.append(max(len(text.encode("utf-8", "replace")) for text in texts))
            advance(1)
    return lengths
