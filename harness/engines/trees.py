"""Packing where all that sequences begin with is there once: examples, a prompt, the beginnings of completions.

The tokens of a pass are a tree of branches. A token sees those of its own branch before it, and of the branches on the
way from the root. The last token of a completion is not read, as nothing follows it: alternatives of one token need no
position of their own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from harness.engines.packing import GROUP_TOKENS, Group, PackedBatch, check_pair
from harness.engines.prefixes import Prefix, reading_order, shared_prefixes
from harness.types import TokenIds

LEAST = 16  # tokens of a branch that others continue: fewer are not worth a separate step of attention
PADDING = 1 / 4  # most pairs of attention that a group computes in vain, as a share of those it needs,
SLACK = 1 << 14  # beyond this number


@dataclass(frozen=True)
class Branch:
    """Neighbouring tokens of a pass, from place `start` to `stop`.

    parent: number of the branch that it continues.
    path: (K,) places of all tokens from the root to its last.
    """

    start: int
    stop: int
    parent: int | None
    path: torch.Tensor


class Forest:
    """(prompt, completion) sequences, which are read in passes of `pack`.

    Args:
        least: tokens of a branch that others continue.

    order: numbers of the sequences, so that those that begin alike are neighbours. longest: the most tokens of one.

    Raises:
        ValueError: when one has no completion token with a token before it.
    """

    def __init__(self, pairs: Sequence[tuple[TokenIds, TokenIds]], least: int = LEAST) -> None:
        for pair in pairs:
            check_pair(*pair)
        self._pairs = [(tuple(prompt), tuple(completion)) for prompt, completion in pairs]
        self._read = [prompt + completion[:-1] for prompt, completion in self._pairs]
        self._prefixes = shared_prefixes(self._read, least)
        self.order = reading_order(self._read, self._prefixes)
        self.longest = max(map(len, self._read), default=0)

    def batches(self, most: Callable[[], int]) -> Iterator[list[int]]:
        """Yield the numbers of the sequences of each pass, which has at most as many tokens as `most` says, unless one
        sequence is longer."""
        batch: list[int] = []
        known: set[Prefix] = set()
        tokens = 0
        for number in self.order:
            if batch and tokens + self._unread(number, known) > most():
                yield batch
                batch, known, tokens = [], set(), 0
            tokens += self._unread(number, known)
            known.update(self._chain(number))
            batch.append(number)
        if batch:
            yield batch

    def tokens(self, numbers: Sequence[int]) -> int:
        """How many tokens a pass over these sequences has."""
        total, known = 0, set[Prefix]()
        for number in numbers:
            total += self._unread(number, known)
            known.update(self._chain(number))
        return total

    def _chain(self, number: int) -> list[Prefix]:
        prefix = self._prefixes[number]
        return prefix.chain if prefix else []

    def _unread(self, number: int, known: set[Prefix]) -> int:
        """How many tokens of a sequence are not in prefixes that are read."""
        shared = next((prefix.length for prefix in self._chain(number) if prefix in known), 0)
        return len(self._read[number]) - shared

    def pack(self, numbers: Sequence[int]) -> PackedBatch:
        """Pack sequences that are neighbours in a batch."""
        ids: list[int] = []
        positions: list[int] = []
        branches: list[Branch] = []
        after: list[int] = []
        owners: list[int] = []
        entries: list[int] = []
        found: dict[tuple[int, int], int] = {}  # place and target -> number of the target
        reads: dict[int, int] = {}  # place -> its number
        known: dict[Prefix, int] = {}

        def grow(parent: int | None, number: int, start: int, stop: int) -> int:
            place = len(ids)
            ids.extend(self._read[number][start:stop])
            positions.extend(range(start, stop))
            path = torch.arange(place, len(ids))
            branches.append(
                Branch(place, len(ids), parent, path if parent is None else torch.cat([branches[parent].path, path]))
            )
            return len(branches) - 1

        for place, number in enumerate(numbers):
            branch, length = None, 0
            for prefix in reversed(self._chain(number)):
                if prefix not in known:
                    known[prefix] = grow(branch, number, length, prefix.length)
                branch, length = known[prefix], prefix.length
            if branch is None or length < len(self._read[number]):
                branch = grow(branch, number, length, len(self._read[number]))
            prompt, completion = self._pairs[number]
            first = max(1, len(prompt))
            targets = (prompt + completion)[first:]
            for read, target in zip(branches[branch].path[first - 1 :].tolist(), targets, strict=True):
                if (read, target) not in found:
                    found[read, target] = len(found)
                    after.append(reads.setdefault(read, len(reads)))
                owners.append(place)
                entries.append(found[read, target])
        pairs = tuple(self._pairs[number] for number in numbers)
        groups, origin = _groups(branches, len(ids))
        return PackedBatch(
            pairs,
            torch.tensor([ids]),
            torch.tensor([positions]),
            _ends(branches),
            groups,
            origin,
            torch.tensor([*reads]),
            torch.tensor([target for _, target in found]),
            torch.tensor(owners),
            torch.tensor(entries),
            torch.tensor([len(completion) - (not prompt) for prompt, completion in pairs]),
            torch.tensor(after),
        )


def _ends(branches: Sequence[Branch]) -> torch.Tensor:
    """Return, for each token, the place where what continues its branch ends."""
    stops = [branch.stop for branch in branches]
    for number in reversed(range(len(branches))):
        parent = branches[number].parent
        if parent is not None:
            stops[parent] = max(stops[parent], stops[number])
    lengths = torch.tensor([branch.stop - branch.start for branch in branches])
    return torch.tensor(stops).repeat_interleave(lengths)


def _groups(branches: Sequence[Branch], tokens: int) -> tuple[tuple[Group, ...], torch.Tensor]:
    """Group branches of similar length that see about as many keys; also return the place of each token in them."""
    origin, groups, laid = torch.empty(tokens, dtype=torch.long), [], 0
    for members in _together([branch for branch in branches if branch.stop > branch.start]):
        width = max(branch.stop - branch.start for branch in members)
        seen = len(members[0].path)
        steps = torch.arange(width)
        places = torch.stack([branch.start + steps.clamp(max=branch.stop - branch.start - 1) for branch in members])
        keys = torch.stack([torch.cat([each.path, each.path[-1:].expand(seen - len(each.path))]) for each in members])
        before = torch.tensor([len(branch.path) - (branch.stop - branch.start) for branch in members])
        mask = torch.arange(seen) <= (before[:, None] + steps)[:, None, :, None]
        groups.append(Group(places, keys, mask))
        for branch in members:
            length = branch.stop - branch.start
            origin[branch.start : branch.stop] = torch.arange(laid, laid + length)
            laid += width
    return tuple(groups), origin


def _together(branches: Sequence[Branch]) -> list[list[Branch]]:
    """Return the branches of each group, those with the most keys first."""
    groups: list[list[Branch]] = []
    needed = width = 0
    for branch in sorted(branches, key=lambda branch: (-len(branch.path), branch.start - branch.stop)):
        length, keys = branch.stop - branch.start, len(branch.path)
        if groups:
            most = len(groups[-1][0].path)
            number = len(groups[-1]) + 1
            in_vain = number * max(width, length) * most - needed - length * keys
            if number * most <= GROUP_TOKENS and in_vain <= SLACK + PADDING * (needed + length * keys):
                groups[-1].append(branch)
                needed, width = needed + length * keys, max(width, length)
                continue
        groups.append([branch])
        needed, width = length * keys, length
    return groups
