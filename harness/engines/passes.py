"""How the sequences of a call are divided into the forward passes that read them: as rows or as trees."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from harness.engines import loading
from harness.engines.logprobs import Reading, computed_positions
from harness.engines.memory import Limit
from harness.engines.packing import PackedBatch, apart, pack, rows_of
from harness.engines.trees import Forest
from harness.types import TokenIds

Pair = tuple[TokenIds, TokenIds]  # prompt, completion
SAVED = 1 / 8  # share of the positions of rows that trees must save: attention has more, smaller steps in them


class Passes(Protocol):
    """The passes of a call. A batch is a list of numbers that only these methods understand."""

    def batches(self, batch_size: int, limit: Limit) -> Iterator[list[int]]:
        """Yield the batches, each within the batch size and the limit (in tokens) at that time."""
        ...

    def size(self, batch: list[int]) -> int:
        """How many tokens a batch counts in the limit."""
        ...

    def positions(self, batch: list[int]) -> int:
        """How many positions the model computes for a batch."""
        ...

    def pack(self, batch: list[int]) -> PackedBatch: ...

    def places(self, batch: list[int]) -> list[tuple[int, ...]]:
        """For each sequence of the packed batch, the places in the call of those that are equal to it."""
        ...


class Rows:
    """Each prompt is read once for its completions, or if the model is not packed, once for each."""

    def __init__(self, pairs: Sequence[Pair], reading: Reading) -> None:
        self._rows = rows_of(pairs) if reading.packs else apart(rows_of(pairs))
        self._reading = reading

    def batches(self, batch_size: int, limit: Limit) -> Iterator[list[int]]:
        return loading.batches(list(map(len, self._rows)), batch_size, limit)

    def size(self, batch: list[int]) -> int:
        return len(batch) * len(self._rows[batch[0]])

    def positions(self, batch: list[int]) -> int:
        return computed_positions(self._sequences(batch), self._reading)

    def pack(self, batch: list[int]) -> PackedBatch:
        return pack(self._sequences(batch))

    def places(self, batch: list[int]) -> list[tuple[int, ...]]:
        return [places for index in batch for places in self._rows[index].sequences]

    def _sequences(self, batch: list[int]) -> list[Pair]:
        return [(self._rows[index].prompt, each) for index in batch for each in self._rows[index].completions]

    @property
    def tokens(self) -> int:
        """How many tokens all rows have."""
        return sum(map(len, self._rows))


class Trees:
    """All that sequences begin with is read once for those of a pass."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._forest = Forest(pairs)

    def batches(self, batch_size: int, limit: Limit) -> Iterator[list[int]]:
        """Yield batches of at most as many tokens as `batch_size` sequences have, if each is as long as the longest."""
        return self._forest.batches(lambda: min(limit.size, batch_size * self._forest.longest))

    def size(self, batch: list[int]) -> int:
        return self._forest.tokens(batch)

    def positions(self, batch: list[int]) -> int:
        return self._forest.tokens(batch)

    def pack(self, batch: list[int]) -> PackedBatch:
        return self._forest.pack(batch)

    def places(self, batch: list[int]) -> list[tuple[int, ...]]:
        return [(number,) for number in batch]

    @property
    def tokens(self) -> int:
        """How many tokens all sequences have if they are read in one pass."""
        return self._forest.tokens(self._forest.order)


def passes(pairs: Sequence[Pair], reading: Reading, shares: bool) -> Passes:
    """Return how sequences are read: as trees, if that is right for the model (`shares`) and saves enough, or as rows,
    which training reads."""
    rows = Rows(pairs, reading)
    if not shares:
        return rows
    trees = Trees(pairs)
    return trees if trees.tokens <= (1 - SAVED) * rows.tokens else rows
