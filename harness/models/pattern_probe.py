"""Checks that a tokenizer's regular expressions end: python -m harness.models.pattern_probe, a JSON list on stdin.

This is a separate process with limits on memory and time, as tokenizers' regex engine panics on some patterns, which no
caller can catch, and never ends on others. Exit status 1: a pattern failed.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence

MEMORY = 1 << 30
SECONDS = 30
REPEATS = 48  # of a character: a pattern whose work doubles with each would take years
CHARACTERS = "aA1 \n!_é中"


def safe(patterns: Sequence[str]) -> bool:
    """Whether all patterns end on runs of characters within the limits."""
    if not patterns:
        return True
    command = [sys.executable, "-m", "harness.models.pattern_probe"]
    try:
        done = subprocess.run(
            command, input=json.dumps(list(patterns)).encode(), capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def probe(pattern: str) -> None:
    """Split runs of each character in the pattern, and of some others, by the pattern."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    split = Split(Regex(pattern), "isolated")
    for character in dict.fromkeys(CHARACTERS + pattern):
        for end in ("", "!", "\x01"):
            split.pre_tokenize_str(character * REPEATS + end)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for each in json.load(sys.stdin):
        probe(each)
