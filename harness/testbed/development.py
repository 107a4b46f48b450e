"""Which of the testbed's training content is kept from training when methods are tuned.

By content, as the suites are held out: what a trial is asked about occurs in no training prompt and no pair. It is
training content, so the suites ask nothing of it (and the model itself knows it).
"""

import zlib
from functools import cache

from harness.testbed.items import parse
from harness.types import Prompt

KEPT_OF = 12  # one content in so many


def is_kept(prompt: Prompt) -> bool:
    """Whether any content of the prompt's question is kept; a question of another world has none."""
    return _is_kept(prompt.messages[-1]["content"])


@cache
def _is_kept(question: str) -> bool:
    item = parse(question)
    return item is not None and any(zlib.crc32(f"development {key}".encode()) % KEPT_OF == 1 for key in item.content)
