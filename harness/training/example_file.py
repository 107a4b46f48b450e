"""Examples as a file of JSON lines, written and read one at a time, however many there are."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import store
from harness.training.examples import Example, Sequence


class ExampleWriter:
    """Adds examples to a file, and keeps count of their tokens."""

    def __init__(self, rows: store.RowWriter):
        self._rows = rows
        self._tokens: list[int] = []
        self.tokens = 0  # what one pass over the examples reads

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, examples: Iterable[Example]) -> None:
        for example in examples:
            sequences = [vars(sequence) for sequence in example.sequences]
            self._rows.add({"id": example.id, **example.record, "sequences": sequences})
            self._tokens.append(example.tokens)
            self.tokens += example.tokens

    def keep(self, number: int) -> None:
        """Drops all examples after the first `number`."""
        self._rows.keep(number)
        self.tokens -= sum(self._tokens[number:])
        del self._tokens[number:]


@contextmanager
def example_writer(path: Path) -> Iterator[ExampleWriter]:
    """The file is there when the `with` has ended well."""
    with store.row_writer(path) as rows:
        yield ExampleWriter(rows)


def read_examples(path: Path) -> Iterator[Example]:
    for row in store.iterate_jsonl(path):
        sequences = tuple(
            Sequence(tuple(each["prompt_ids"]), tuple(each["completion_ids"])) for each in row.pop("sequences")
        )
        yield Example(row.pop("id"), sequences, row)
