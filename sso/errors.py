"""Errors of the library: ValueErrors, in the words of a config instead of those of the command line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import UserError

WORDS = {  # options of the harness's commands, and what they are for users of the library
    "--batch-size": "generation_batch_size",
    "--device cpu": "use_cpu=True",
    "--device": "device",
    "--engine transformers": "a model of transformers",
    "--max-new-tokens": "max_completion_length",
    "--trust-remote-code": "trust_remote_code=True",
    "another folder (--name), or recompute from here: --restart-from": "another output_dir, or delete in steps/ the "
    "marks from here on:",
    "choose another --name": "choose another output_dir",
    "give the same command again": "call train() again",
    "the same command then continues where this one stopped": "train() then continues where it stopped",
    "give --ledger nominal, which counts parameters": "train another model",
    "and start this command once": "and start this script once",
    "; for several processes give --gpus N or --launcher 'torchrun --nproc_per_node N'": "; this trainer trains in one "
    "process",
    "lora_rank": "peft_config",
    "max_new_tokens": "max_completion_length",
}
_WORD = re.compile("|".join(rf"{re.escape(word)}(?![\w-])" for word in sorted(WORDS, key=len, reverse=True)))


class SSOError(UserError, ValueError):
    """Settings, data or a model that the trainers cannot use; one line that says what is wrong and what to do."""


def in_words_of_the_library(text: str) -> str:
    """A message of the harness with the names of a config in place of those of options of its commands."""
    return _WORD.sub(lambda found: WORDS[found[0]], text)


@contextmanager
def library_errors() -> Iterator[None]:
    """Turn errors of the harness into those of the library."""
    try:
        yield
    except SSOError:
        raise
    except UserError as error:
        raise SSOError(in_words_of_the_library(str(error))) from error
