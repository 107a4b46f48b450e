"""Examples as a file of JSON lines, written and read one at a time, however many there are."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.files import store
from harness.training.examples import Example, TokenSequence


class ExampleWriter:
    """Adds examples to a file, and keeps count of the FLOPs that they cost.

    cost: of one example.
    """

    def __init__(self, rows: store.RowWriter, cost: Callable[[Example], float]):
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
            self._rows.add({"id": example.id, **example.record, "sequences": sequences})
            self._flops.append(self._cost(example))

    def keep(self, number: int) -> None:
        """Drops all examples after the first `number`."""
        self._rows.keep(number)
        del self._flops[number:]


@contextmanager
def example_writer(path: Path, cost: Callable[[Example], float]) -> Iterator[ExampleWriter]:
    """The file is there when the `with` has ended well."""
    with store.row_writer(path) as rows:
        yield ExampleWriter(rows, cost)


def read_examples(path: Path) -> Iterator[Example]:
    for row in store.iterate_jsonl(path):
        sequences = tuple(
            TokenSequence(tuple(each["prompt_ids"]), tuple(each["completion_ids"])) for each in row.pop("sequences")
        )
        yield Example(row.pop("id"), sequences, row)
