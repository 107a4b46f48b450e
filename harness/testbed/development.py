"""Which of the testbed's training content is withheld from training when methods are tuned.

Content decides, as in the hold-out of the suites: what a trial asks about occurs in no training prompt and no pair. It
is training content, so the suites do not ask about it (and the model itself knows it).
"""

import zlib
from functools import cache

from harness.testbed.items import parse
from harness.types import Prompt

KEPT_OF = 12  # withhold one content in this many


def is_kept(prompt: Prompt) -> bool:
    """Whether any content of the prompt's question is withheld; a question from elsewhere has no content."""
    return _is_kept(prompt.messages[-1]["content"])


@cache
def _is_kept(question: str) -> bool:
    item = parse(question)
    return item is not None and any(zlib.crc32(f"development {key}".encode()) % KEPT_OF == 1 for key in item.content)
