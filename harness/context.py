"""Which rows a model's context can not hold, counted with its own chat template and tokenizer, without its weights."""

from collections.abc import Sequence
from pathlib import Path

from harness.methods import Prompt
from harness.models import base_folder, text_config, tokenizer_folder

TEMPLATE = 128  # tokens that a chat template writes around a message, at most


def fitting(
    prompts: Sequence[Prompt], folder: Path, labelled: bool = False, trust_remote_code: bool = False
) -> list[Prompt]:
    """The prompts that leave room for a completion; with `labelled`, the pairs whose two completions fit.

    A token is of one byte at least, so rows that are shorter than the context are not tokenized.

    Args:
        folder: of the model.

    Raises:
        UserError: when the folder has no tokenizer or chat template, or the template refuses a conversation.
    """
    least = _context_in_config(folder)
    near = {prompt.id for prompt in prompts if _most_tokens(prompt, labelled) >= least}
    if not near:
        return list(prompts)
    from transformers import AutoConfig, AutoTokenizer

    from harness.engines.chat import ChatTemplate
    from harness.engines.loading import context_length, load_errors

    with load_errors(str(folder)):
        config = AutoConfig.from_pretrained(base_folder(folder) or folder, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(folder), trust_remote_code=trust_remote_code)
    context = context_length(config, tokenizer)
    chat = ChatTemplate(tokenizer, (tokenizer.eos_token_id or 0,), str(folder))  # one stop token is as long as another

    def fits(prompt: Prompt) -> bool:
        completions = [len(chat.encode_completion(text)) for text in _completions(prompt, labelled)] or [1]
        return len(chat.encode(prompt.messages)) + max(completions) <= context

    return [prompt for prompt in prompts if prompt.id not in near or fits(prompt)]


def _context_in_config(folder: Path) -> int:
    """What config.json says of it; 0 where it does not, under the usual name."""
    named = text_config(folder).get("max_position_embeddings")
    return named if isinstance(named, int) else 0


def _completions(prompt: Prompt, labelled: bool) -> Sequence[str]:
    return (prompt.chosen, prompt.rejected) if labelled else ()


def _most_tokens(prompt: Prompt, labelled: bool) -> int:
    texts = [message["content"] for message in prompt.messages]
    completions = [len(text.encode()) for text in _completions(prompt, labelled)]
    return sum(len(text.encode()) for text in texts) + TEMPLATE * (len(texts) + 1) + max(completions, default=0)
