"""Rows of data files: JSONL, JSON and CSV (plain or gzipped) and Parquet, each with its place.

Files are not trusted: lines, nesting and numbers have limits, a key given twice or bytes that are not UTF-8 are errors,
and every error names file and line. (ijson streams JSON lists, but reports neither lines nor keys given twice.)
"""

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Collection, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from harness.errors import UserError

LONGEST_LINE = 1 << 26  # characters: of a line of JSONL, of a field of CSV
LONGEST_FILE = 1 << 30  # characters of a file that is read whole, such as JSON
DEEPEST = 100  # levels of lists and objects in a value
ROWS_AT_ONCE = 1024  # of a Parquet file
_NOT_SPACE = re.compile(r"[^ \t\n\r]")

UNREAD = "…"  # stands for the value of a column that is not read

Located = tuple[str, Any]  # "FILE:LINE" (JSONL, CSV), "FILE: entry N" (JSON) or "FILE: row N" (Parquet), and the row


def kind_of(path: Path | str) -> str:
    """Return the suffix of a file, in lower case and without .gz."""
    return Path(str(path).removesuffix(".gz")).suffix.lower()


def located(path: Path, columns: Collection[str]) -> Iterator[Located]:
    """Yield the rows of a file with their places, in the format of its suffix; any other file is read as JSONL.

    Args:
        columns: the columns to read of a Parquet file; the others are UNREAD in each row.

    Raises:
        UserError: naming file and line.
    """
    match kind_of(path):
        case ".json":
            yield from _list(path)
        case ".csv":
            yield from _csv(path)
        case ".parquet":
            yield from _parquet(path, columns)
        case _:
            for number, line in _lines(path):
                if _NOT_SPACE.search(line):
                    yield f"{path}:{number}", _parse(path, line.rstrip("\n"), number)


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        UserError: naming file and line.
    """
    return _parse(path, read_text(path))


def holds_half_character(value: Any) -> bool:
    """Whether a text in a JSON value holds half of a surrogate pair, which JSON can carry and UTF-8 cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _lines(path: Path, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield line numbers and lines; with newline "" line ends stay as they are."""
    number = 0
    with _open(path, newline) as file:
        while line := _read(path, file.readline, LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise UserError(f"{path}:{number}: the line is longer than {LONGEST_LINE} characters")
            _check_utf8(path, line, number)
            yield number, line


def read_text(path: Path) -> str:
    """Return all text of a file.

    Raises:
        UserError: when it cannot be read, or is longer than LONGEST_FILE.
    """
    with _open(path) as file:
        text: str = _read(path, file.read, LONGEST_FILE + 1)
    if len(text) > LONGEST_FILE:
        raise UserError(f"{path}: is longer than {LONGEST_FILE} characters; rows are read one by one from .jsonl")
    _check_utf8(path, text, 1)
    return text


def _open(path: Path, newline: str | None = None) -> TextIOWrapper:
    if not os.path.isfile(path):  # opening a pipe would wait for whoever writes there
        what = "it is not a regular file" if os.path.exists(path) else "no such file"
        raise UserError(f"{path}: cannot be read ({what}); fix it or fetch it again")
    opened = gzip.open if str(path).endswith(".gz") else open
    file: TextIOWrapper = _read(
        path, opened, path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline
    )
    return file


def _read(path: Path, how: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return how(*arguments, **options)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fix it or fetch it again") from None


def _check_utf8(path: Path, text: str, line: int) -> None:
    """Refuse bytes that are not UTF-8, which were read as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line += text.count("\n", 0, error.start)
        byte = ord(text[error.start]) & 0xFF
        raise UserError(
            f"{path}:{line}: cannot be read (byte 0x{byte:02x} is not UTF-8); fix it or fetch it again"
        ) from None


def _next(text: str, place: int) -> int:
    """Return the place of the next character that is not a space."""
    found = _NOT_SPACE.search(text, place)
    return found.start() if found else len(text)


def _parse(path: Path, text: str, line: int = 1) -> Any:
    value, end = _value(path, text, _next(text, 0), line)
    if (rest := _next(text, end)) < len(text):
        raise _not_json(path, text, rest, line, "something follows the value")
    return value


def _list(path: Path) -> Iterator[Located]:
    """Yield the entries of a JSON list one at a time: text and values of a large file do not fit in memory together."""
    text = read_text(path)
    place = _next(text, 0)
    if text[place : place + 1] != "[":
        raise UserError(f"{path}: must hold a list of rows; name a file with one row per line .jsonl")
    place, number = _next(text, place + 1), 0
    closed = text[place : place + 1] == "]"
    while not closed:
        number += 1
        row, end = _value(path, text, place, 1)
        yield f"{path}: entry {number}", row
        place = _next(text, end)
        closed = text[place : place + 1] == "]"
        if not closed and text[place : place + 1] != ",":
            raise _not_json(path, text, place, 1, "expecting ',' or ']' after an entry")
        place = place if closed else _next(text, place + 1)
    if (place := _next(text, place + 1)) < len(text):
        raise _not_json(path, text, place, 1, "something follows the list")


def _value(path: Path, text: str, start: int, line: int) -> tuple[Any, int]:
    """Return the JSON value that begins at `start`, and where it ends. `line` is where the text begins in the file."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _not_json(path, text, error.pos, line, error.msg) from None
    except RecursionError:
        raise _not_json(path, text, start, line, f"nested deeper than {DEEPEST} levels") from None
    except ValueError as error:  # a key given twice, or a number of thousands of digits
        raise _not_json(path, text, start, line, str(error).partition(";")[0]) from None
    if text.count("[", start, end) + text.count("{", start, end) > DEEPEST and _is_deeper(value, DEEPEST):
        raise _not_json(path, text, start, line, f"nested deeper than {DEEPEST} levels")
    return value, end


def _not_json(path: Path, text: str, place: int, line: int, what: str) -> UserError:
    return UserError(f"{path}:{line + text.count(chr(10), 0, place)}: not JSON ({what}); fix or remove the line")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r:.60} is given twice in an object")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _is_deeper(value: Any, levels: int) -> bool:
    inner = [value]
    for _ in range(levels + 1):
        nested = [each for each in inner if isinstance(each, dict | list)]
        inner = [part for each in nested for part in (each.values() if isinstance(each, dict) else each)]
    return bool(nested)


def _csv(path: Path) -> Iterator[Located]:
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader((line for _, line in _lines(path, newline="")), strict=True)
    names, line = None, 1
    try:
        for row in reader:
            where, line = f"{path}:{line}", reader.line_num + 1
            if not row:
                continue
            if names is None:
                names = row
                if twice := [name for name in names if name and names.count(name) > 1]:
                    raise UserError(f"{where}: column {twice[0]!r:.60} is given twice")
                continue
            if len(row) != len(names):
                raise UserError(f"{where}: expected {len(names)} fields as in the header; fix or remove this line")
            yield where, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{line}: not CSV ({error})") from None


def _parquet(path: Path, columns: Collection[str]) -> Iterator[Located]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := [name for name in columns if names.count(name) > 1]:
                raise UserError(f"{path}: column {twice[0]!r} is given twice")
            wanted = [name for name in names if name in columns]
            others = dict.fromkeys((name for name in names if name not in columns), UNREAD)
            if not wanted and file.metadata.num_rows:
                raise UserError(f"{path}: has none of the columns {', '.join(columns)}")
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted):
                for index in range(batch.num_rows):
                    number += 1
                    yield f"{path}: row {number}", others | batch.slice(index, 1).to_pylist()[0]
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: not Parquet after row {number} ({reason})") from None
