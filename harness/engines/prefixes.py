"""Which prompts begin alike: few-shot examples, system messages, several candidates of one prompt."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.types import TokenIds

LEAST = 16  # tokens beyond the next shorter shared prefix: fewer are not worth a copy of keys and values


@dataclass(eq=False)
class Prefix:
    """The first `length` tokens of several prompts.

    parent: the next shorter shared prefix.
    longest, first: length of the longest of these prompts, and number of the first; they decide the order of reading.
    users: how many of these prompts are not read yet.
    """

    length: int
    parent: "Prefix | None"
    longest: int
    first: int
    users: int

    @property
    def chain(self) -> list["Prefix"]:
        """This prefix and those that it begins with, longest first."""
        found: list[Prefix] = []
        prefix: Prefix | None = self
        while prefix:
            found.append(prefix)
            prefix = prefix.parent
        return found


def shared_prefixes(prompts: Sequence[TokenIds], more: int = LEAST) -> list[Prefix | None]:
    """Return for each prompt the longest prefix that it shares with another and that is worth reading once: itself, if
    another is equal.

    Args:
        more: tokens that a prefix must have beyond the next shorter one to be worth it.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    alike = [0, *(_alike(prompts[before], prompts[after]) for before, after in pairwise(order))]
    equal = [False, *(prompts[before] == prompts[after] for before, after in pairwise(order))]
    found: list[Prefix | None] = [None] * len(prompts)
    waiting: list[tuple[int, int, Prefix | None]] = [(0, len(order), None)]
    while waiting:
        start, stop, parent = waiting.pop()
        least = more + (parent.length if parent else 0)
        apart = (place for place in range(start + 1, stop) if alike[place] < least and not equal[place])
        cuts = [start, *apart, stop]
        for low, high in pairwise(cuts):
            if high - low == 1:
                found[order[low]] = parent
            elif high > low:
                members = order[low:high]
                longest = max(len(prompts[member]) for member in members)
                prefix = Prefix(min(alike[low + 1 : high]), parent, longest, min(members), len(members))
                if all(equal[low + 1 : high]):
                    for member in members:
                        found[member] = prefix
                else:
                    waiting.append((low, high, prefix))
    return found


def _alike(one: TokenIds, other: TokenIds) -> int:
    """How many tokens two prompts have in common at their beginning."""
    most = min(len(one), len(other))
    return bisect_left(range(most), True, key=lambda length: one[: length + 1] != other[: length + 1])


def reading_order(prompts: Sequence[TokenIds], prefixes: Sequence[Prefix | None] | None = None) -> list[int]:
    """Return the numbers of the prompts, longest first, but those with a shared prefix one after the other."""
    prefixes = shared_prefixes(prompts) if prefixes is None else prefixes

    def key(number: int) -> list[tuple[int, int]]:
        prefix = prefixes[number]
        above = [(-each.longest, each.first) for each in reversed(prefix.chain)] if prefix else []
        return [*above, (-len(prompts[number]), number)]

    return sorted(range(len(prompts)), key=key)
