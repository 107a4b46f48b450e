"""Which rows a model can read: those that its chat template takes and its context holds, without its weights."""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import date
from pathlib import Path

from harness.engines.template_files import chat_writer
from harness.errors import UserError
from harness.models.folder import base_folder, text_config, tokenizer_folder
from harness.progress import progress
from harness.types import Prompt

MANY = 10_000  # rows: a second or more, which progress is shown for
MARGIN = 2  # tokens: one to complete, one that a tokenizer may put before a text


def prompts_that_fit(
    prompts: Sequence[Prompt],
    folder: Path,
    labelled: bool = False,
    trust_remote_code: bool = False,
    day: date | None = None,
) -> list[Prompt]:
    """The prompts that leave room for a completion; with `labelled`, the pairs whose two completions fit.

    The chat template writes every row. A token is of one byte at least, so rows that are shorter than the context are
    not tokenized.

    Args:
        folder: of the model.
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
        shared, replies = chat.encode_replies(prompt.chat, (prompt.chosen, prompt.rejected))
        return len(shared) + max(map(len, replies)) <= context

    return [prompt for prompt in prompts if prompt.id not in near or fits(prompt)]


def _context_in_config(folder: Path) -> int:
    """What config.json says of it; 0 where it does not, under the usual name."""
    named = text_config(folder).get("max_position_embeddings")
    return named if isinstance(named, int) else 0


def _written_bytes(prompts: Sequence[Prompt], folder: Path, labelled: bool, day: date | None) -> list[int]:
    """Bytes of what the chat template writes of each row: of the longer one of a pair."""
    writer = chat_writer(folder, str(folder), day)
    lengths = []
    shown = len(prompts) >= MANY
    with progress("rows: chat template", len(prompts)) if shown else nullcontext(lambda _count: None) as advance:
        for prompt in prompts:
            try:
                if labelled:
                    texts = [writer.whole(prompt.chat, reply) for reply in (prompt.chosen, prompt.rejected)]
                else:
                    texts = [writer.prompt(prompt.chat)]
            except UserError as error:
                raise UserError(f"{prompt.where or prompt.id}: {error}") from None
            lengths.append(max(len(text.encode("utf-8", "replace")) for text in texts))
            advance(1)
    return lengths
