"""Split a model's thought ("<think>...</think>" and its relatives) from its answer.

No text is trusted to be well formed. Marks in quotes or backticks are mentions, not marks.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from harness.errors import UserError

Marks = tuple[tuple[str, str], ...]  # (what opens a thought, what closes it)
MARKS: Marks = (
    ("<think>", "</think>"),  # DeepSeek R1, Qwen3, QwQ, SmolLM3
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("◁think▷", "◁/think▷"),  # Kimi
)
NONE = "none"  # as --thought-marks: texts stay as they are
_FRAMES = re.compile(r"<\|(?:begin|end)_of_solution\|>|<\|(?:START|END)_RESPONSE\|>")  # around an answer
_CHANNEL = re.compile(r"(?:<\|start\|>assistant)?<\|channel\|>\s*(\w+)[^<]*<\|message\|>")  # gpt-oss
_CHANNEL_END = re.compile(r"<\|(?:end|return|call)\|>|(?=<\|start\|>)|\Z")
_STRIPPED_FINAL = re.compile(r"assistant(?:commentary)?\s*final")  # the same without special tokens
_STRIPPED_THOUGHT = re.compile(r"analysis(?=[A-Z0-9\"'“(\[])")
_QUOTES = "`'\"“‘"


@dataclass(frozen=True)
class ThoughtSplit:
    """A text split into thought and answer.

    thought: the thoughts without their marks, one per line; None if there are none.
    answer: the rest; empty if the text ends inside a thought.
    finished: whether every thought has ended.
    """

    thought: str | None
    answer: str
    finished: bool = True

    @property
    def took_off(self) -> bool:
        """Whether there was a thought, even an empty or unfinished one."""
        return self.thought is not None or not self.finished


def split_thought(text: str, marks: Marks = MARKS, opened: bool = False) -> ThoughtSplit:
    """Split a reply into thought and answer.

    Args:
        marks: what opens and closes a thought; () leaves the text as it is.
        opened: whether the prompt ended inside a thought, so that the text begins there.
    """
    if not marks:
        return ThoughtSplit(None, text)
    if (channels := _channels(text)) is not None:
        return channels
    thoughts: list[str] = []
    rest: list[str] = []
    inside: bool | str = opened  # the pair of marks that opened the thought, True where the prompt did
    place = 0
    for found in _pattern(marks).finditer(text):
        if found.start() < place or _quoted(text, found):
            continue
        side, pair = (found.lastgroup or "")[:1], (found.lastgroup or "")[1:]
        opens = side == "o"
        if opens and not inside:
            rest.append(text[place : found.start()])
            inside, place = pair, found.end()
        elif not opens and inside in (True, pair):
            thoughts.append(text[place : found.start()])
            inside, place = False, found.end()
        elif not opens and not inside:  # opened in the prompt, or closed twice: all before is thought
            thoughts += [*rest, text[place : found.start()]]
            rest = []
            place = found.end()
    (thoughts if inside else rest).append(text[place:])
    if not thoughts:
        return ThoughtSplit(None, text)
    thought = "\n".join(each.strip() for each in thoughts if each.strip())
    if inside:
        return ThoughtSplit(thought, "", False)
    return ThoughtSplit(thought, _FRAMES.sub("", "".join(rest)).strip())


def counted(splits: Iterable[ThoughtSplit]) -> dict[str, int]:
    """Count the texts with a thought, and those that ended inside it; {} if none had one."""
    thinking = [each for each in splits if each.took_off]
    return (
        {"thoughts": len(thinking), "unfinished_thoughts": sum(not each.finished for each in thinking)}
        if thinking
        else {}
    )


def parse_marks(text: str | None) -> Marks:
    """Parse an option: "OPEN CLOSE", several such pairs in a row, or "none". None means `MARKS`.

    Raises:
        UserError: for anything else.
    """
    if text is None:
        return MARKS
    if text.strip().lower() == NONE:
        return ()
    words = text.split()
    if not words or len(words) % 2 or any(words[place] == words[place + 1] for place in range(0, len(words), 2)):
        raise UserError(
            f"thought marks {text!r:.80} are not understood: give what opens and what closes a thought, "
            "such as '<think> </think>', or none"
        )
    return tuple(zip(words[::2], words[1::2], strict=True))


def opens_thought(prompt: str, marks: Marks = MARKS) -> bool:
    """Whether a prompt ends inside a thought, which some chat templates open."""
    end = prompt.rstrip()
    return any(end.lower().endswith(opening.lower()) for opening, _ in marks)


@cache
def _pattern(marks: Marks) -> re.Pattern[str]:
    """Return a pattern for marks; the name of a group is "o" or "c" (open, close) and the number of the pair."""
    both = [(f"{side}{place}", mark) for place, pair in enumerate(marks) for side, mark in zip("oc", pair, strict=True)]
    both.sort(key=lambda each: -len(each[1]))
    return re.compile("|".join(f"(?P<{name}>{re.escape(mark)})" for name, mark in both), re.IGNORECASE)


def _quoted(text: str, found: re.Match[str]) -> bool:
    before, after = text[max(0, found.start() - 1) : found.start()], text[found.end() : found.end() + 1]
    return bool(before) and before in _QUOTES and bool(after) and after in "`'\"”’"


def _channels(text: str) -> ThoughtSplit | None:
    """Split a text in gpt-oss's channels, with or without special tokens; None for any other text."""
    heads = list(_CHANNEL.finditer(text))
    if heads:
        parts: dict[str, list[str]] = {"final": [], "": []}
        for head, following in zip(heads, [*(each.start() for each in heads[1:]), len(text)], strict=True):
            found = _CHANNEL_END.search(text, head.end(), following)
            end = found.start() if found else following
            parts["final" if head.group(1) == "final" else ""].append(text[head.end() : end].strip())
        before = text[: heads[0].start()].strip()
        thought = "\n".join(filter(None, [before, *parts[""]])) or None
        return ThoughtSplit(thought, "\n".join(parts["final"]), bool(parts["final"]))
    if _STRIPPED_THOUGHT.match(text):
        found = _STRIPPED_FINAL.search(text)
        thought = text[len("analysis") : found.start() if found else len(text)].strip()
        return ThoughtSplit(thought, text[found.end() :].strip() if found else "", found is not None)
    return None


def spoken(text: str) -> str | None:
    """Return the text without its thoughts, None if it ends inside one."""
    split = split_thought(text)
    return split.answer if split.finished else None
