"""A table for people at a terminal: scores, differences and cost as three tables that fit its width."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from harness.tables.layout import DIFFERENCES, NONE, SPENDING, Entry, TextGrid, one_line, sheet
from harness.tables.schema import Table

BORDERS = 2  # columns of a terminal beside a cell
NARROWEST = 9  # columns of a cell: a heading is folded to it, a number is not
WIDEST = 17  # columns of one word, beyond which it is folded


def print_table(table: Table, console: Console | None = None) -> None:
    """Print the scores, the differences to the baseline, the cost and the notes within the width of the console."""
    console = console or Console()
    console.print(Group(*_parts(table, console.width)))


def _parts(table: Table, width: int) -> Iterator[RenderableType]:
    layout = sheet(table)
    tuned = "options" in layout.scores.head
    end = len(layout.scores.head) - len(SPENDING) - tuned
    if layout.title:
        yield Text(one_line(layout.title), style="bold")
    yield from _blocks(_only(layout.scores, [0, *range(2, end)]), width)
    if layout.differences:
        yield Text(DIFFERENCES, style="italic")
        yield from _blocks(layout.differences, width)
    if any(row.spent.flops for row in table.rows):
        yield Text("What training cost, mean over seeds:", style="italic")
        yield _rich(_cost(layout.scores, end, tuned))
    for note in layout.notes:
        yield Padding(Text("• " + one_line(note)), (0, 0, 0, 2))


def _cost(grid: TextGrid, end: int, tuned: bool) -> TextGrid:
    """The last columns of the scores, with supervision and options as one column and both kinds of tokens as one."""
    head = (grid.head[0], "supervision", grid.head[end + tuned], "tokens trained / generated", "updates", "time")
    rows = []
    for row in grid.rows:
        options = f"\n{row[end].text.rpartition(',')[0]}" if tuned and "," in row[end].text else ""
        budget, trained, generated, updates, time = (entry.text for entry in row[end + tuned :])
        tokens = trained if trained == NONE else f"{trained} / {generated}"
        rows.append((row[0], Entry(row[1].text + options), *map(Entry, (budget, tokens, updates, time))))
    return TextGrid(head, tuple(rows))


def _only(grid: TextGrid, places: Sequence[int]) -> TextGrid:
    return TextGrid(
        tuple(grid.head[place] for place in places), tuple(tuple(row[place] for place in places) for row in grid.rows)
    )


def _blocks(grid: TextGrid, width: int) -> Iterator[RichTable]:
    """The grid in as many tables, one below the other, as its columns need; each begins with the method."""
    widths = [_width(grid, place) for place in range(len(grid.head))]
    block: list[int] = []
    for place in range(1, len(grid.head)):
        if block and sum(widths[each] + BORDERS for each in (0, *block, place)) > width:
            yield _rich(_only(grid, [0, *block]))
            block = []
        block.append(place)
    if block:
        yield _rich(_only(grid, [0, *block]))


def _width(grid: TextGrid, place: int) -> int:
    lines = [len(line) for row in grid.rows for line in _lines(row[place])]
    return max(lines + [len(word) for word in grid.head[place].split()] + [NARROWEST])


def _rich(grid: TextGrid) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for place, heading in enumerate(grid.head):
        widest = max((len(word) for row in grid.rows for word in row[place].text.split()), default=0)
        table.add_column(Text(one_line(heading)), min_width=min(widest, WIDEST))
    for row in grid.rows:
        table.add_row(*map(_text, row))
    return table


def _text(entry: Entry) -> Text:
    first, *rest = _lines(entry)
    text = Text(first)
    text.stylize("bold", 0, entry.strong)
    for line in rest:
        text.append(f"\n{line}", style="dim")
    return text


def _lines(entry: Entry) -> list[str]:
    """A cell in lines: its value and marks, its interval, its p-values."""
    if "\n" in entry.text:
        return [one_line(line) for line in entry.text.splitlines()]
    text = one_line(entry.text)
    value, bracket, after = text.partition(" [")
    if not bracket:
        return [text]
    interval, _, marks = after.partition("] ")
    interval = f"[{interval.rstrip(']')}]"
    raw, slash, corrected = marks.partition(" / ")
    return [value, interval, raw, f"Holm {corrected}"] if slash else [f"{value} {marks}".rstrip(), interval]
