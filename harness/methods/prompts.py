"""Training prompts and labelled pairs: reads them from common formats, and draws them in an endless seeded order."""

import os
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.errors import UserError
from harness.files import hub, rows
from harness.files.store import digest
from harness.methods import mixtures
from harness.methods.prompt_rows import COLUMNS, PromptRow, read_row
from harness.methods.row_texts import Malformed
from harness.types import Prompt, message_text, reply_text

MOST_EPOCHS = 4  # passes over the prompts; repeats beyond that help little (Muennighoff et al. 2023, arXiv 2305.16264)
Rows = Literal["pairs", "labels", "demonstrations", "answers"]  # what a stage needs of its rows
PAIRS: tuple[Rows, ...] = ("pairs",)
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class PromptFile:
    """The prompts in a file or data set.

    duplicates, empty: how many rows were left out for that reason.
    unused: columns (and fields of messages) that are not used, with the number of rows in which they hold something.
    """

    prompts: list[Prompt]
    duplicates: int
    empty: int
    unused: dict[str, int]


def load_prompts(source: Path | str, labelled: bool = False, needs: Collection[Rows] = PAIRS) -> PromptFile:
    """Read the prompts of a JSON, JSONL, CSV (also .gz) or Parquet file, or of a data set of the hub (hub.FORM).

    `harness.methods.prompt_rows.read_row` documents which rows are understood.

    Args:
        labelled: read replies too.
        needs: "answers" reads them where a row has one. With `labelled`, what every row has to be fit for: a pair is
            fit for all, a completion with a label for "labels" and "demonstrations", one without for "demonstrations".

    Raises:
        UserError: when the file or data set does not exist, or a row cannot be read (file, line and field).
    """
    prompts: dict[str, Prompt] = {}
    unused: Counter[str] = Counter()
    duplicates = empty = 0
    name, located = _located(str(source))
    for where, row in located:
        try:
            read = read_row(row, completions=labelled and "pairs" not in needs, answers="answers" in needs)
            if labelled:
                _check_fit(read, needs)
        except Malformed as error:
            raise UserError(f"{where}: {error}") from None
        unused.update(read.unused if labelled or read.chosen is None else (*read.unused, "chosen", "rejected"))
        replies = (read.chosen, read.rejected, read.completion) if labelled else ()
        texts = [message_text(read.messages[-1]), *(reply_text(reply) for reply in replies if reply is not None)]
        if not all(text.strip() for text in texts):
            empty += 1
            continue
        key = digest(
            [read.messages, read.chosen, read.rejected, read.completion, read.label, read.tools, read.variables]
        )
        if key in prompts:
            duplicates += 1
            continue
        prompts[key] = Prompt(
            f"{name}-{len(prompts)}",
            *(read.messages, read.chosen, read.rejected, read.tools, read.variables, where),
            completion=read.completion,
            label=read.label,
            answer=read.answer,
        )
    if not prompts:
        raise UserError(f"{source} has no usable prompt ({empty} rows are empty): give a file with prompts")
    return PromptFile(list(prompts.values()), duplicates, empty, dict(unused))


def _check_fit(read: PromptRow, needs: Collection[Rows]) -> None:
    if read.chosen is not None:
        return
    if "pairs" in needs:
        raise Malformed('has no "chosen" and "rejected", which labelled pairs need')
    if read.completion is None:
        raise Malformed('has neither "chosen" and "rejected" nor a "completion"')
    if "labels" in needs and read.label is None:
        raise Malformed('has a completion without a "label" (true or false), which a method on labelled replies needs')


def rows_by_name(counts: Mapping[str, int]) -> str:
    """Name columns and the number of rows that have them, in one line."""
    return ", ".join(f"{name} ({count:,} rows)" for name, count in counts.items())


def _located(source: str) -> tuple[str, Iterator[rows.Located]]:
    """A prefix for the prompts' ids, and the rows with their places."""
    if os.path.isfile(source):
        stem = Path(source).name.removesuffix(".gz").rpartition(".")[0]
        return stem.encode("utf-8", "replace").decode(), rows.located(Path(source), COLUMNS)
    if os.path.exists(source):
        raise UserError(
            f"{source} is not a regular file: give a JSON, JSONL, CSV (also .gz) or Parquet file of prompts"
        )
    if rows.kind_of(source) in SUFFIXES or not hub.is_dataset_name(source):
        raise UserError(
            f"no file at {source}: give a JSON, JSONL, CSV (also .gz) or Parquet file of prompts, "
            f"or a data set of the hub, {hub.FORM}"
        )
    return source.partition(":")[0].split("/")[1], hub.located(source, COLUMNS)


class PromptStream:
    """An endless stream of prompts; the seed decides a new order in each pass over them.

    Of a mixture, the draws have the shares of its parts (`harness.methods.mixtures.draws`), and each part has its own
    order and passes.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        self.prompts, self.seed = prompts, seed
        self.position = 0  # how many were drawn so far; set it to resume where an earlier stream stopped
        self._parts = mixtures.parts_of(prompts)
        self._counts = [0] * len(self._parts)  # draws from each part
        self._orders: dict[str, tuple[int, list[int]]] = {}  # part -> its pass and the order in it

    @property
    def epochs(self) -> float:
        """Passes over the prompts so far (see `harness.methods.mixtures.passes`)."""
        return mixtures.passes(self.prompts, self.position)

    @property
    def drawn(self) -> dict[str, int]:
        """Of a mixture, how many prompts were drawn from each source so far."""
        counts = mixtures.draws(self._parts, self.position)
        return {part.name: count for part, count in zip(self._parts, counts, strict=True) if part.name}

    def take(self, number: int) -> list[Prompt]:
        """Draw the next prompts; from the second pass on, "@1", "@2" and so on is appended to their ids."""
        if sum(self._counts) != self.position:
            self._counts = mixtures.draws(self._parts, self.position)
        taken: list[Prompt] = []
        for _ in range(number):
            index = mixtures.next_part(self._parts, self._counts, self.position)
            taken.append(self._drawn(self._parts[index], self._counts[index]))
            self._counts[index] += 1
            self.position += 1
        return taken

    def _drawn(self, part: mixtures.MixturePart, place: int) -> Prompt:
        turn, place = divmod(place, len(part.prompts))
        if self._orders.get(part.name, (-1, []))[0] != turn:
            key = f"prompts/{self.seed}/{part.name}/{turn}" if part.name else f"prompts/{self.seed}/{turn}"
            order = random.Random(key).sample(range(len(part.prompts)), len(part.prompts))
            self._orders[part.name] = turn, order
        prompt = part.prompts[self._orders[part.name][1][place]]
        return replace(prompt, id=f"{prompt.id}@{turn}") if turn else prompt
