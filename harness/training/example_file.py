"""Examples in a file of JSON lines, written and read one at a time, however many there are."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.files import store
from harness.training.examples import Example, TokenSequence


class ExampleWriter:
    """Adds examples to a file, and sums up the FLOPs that training on them costs."""

    def __init__(self, rows: store.RowWriter, cost: Callable[[Example], float]) -> None:
        """
        Args:
            cost: FLOPs of one example.
        """
        self._rows, self._cost = rows, cost
        self._flops: list[float] = []

    def __len__(self) -> int:
        return len(self._flops)

    @property
    def flops(self) -> float:
        return math.fsum(self._flops)

    def add(self, examples: Iterable[Example]) -> None:
        for example in examples:
            sequences = [vars(sequence) for sequence in example.sequences]
            targets = {"targets": example.targets} if example.targets else {}
            self._rows.add({"id": example.id, **example.record, **targets, "sequences": sequences})
            self._flops.append(self._cost(example))

    def keep(self, number: int) -> None:
        """Drop all examples after the first `number`."""
        self._rows.keep(number)
        del self._flops[number:]


@contextmanager
def example_writer(path: Path, cost: Callable[[Example], float]) -> Iterator[ExampleWriter]:
    """Write examples to `path`; the file appears once the `with` block has ended without an error."""
    with store.row_writer(path) as rows:
        yield ExampleWriter(rows, cost)


def read_examples(path: Path) -> Iterator[Example]:
    for row in store.iterate_jsonl(path):
        sequences = tuple(
            TokenSequence(tuple(ids["prompt_ids"]), tuple(ids["completion_ids"])) for ids in row.pop("sequences")
        )
        yield Example(row.pop("id"), sequences, targets=tuple(row.pop("targets", ())), record=row)
