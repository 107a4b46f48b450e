"""Published numbers with their sources, read from a file: shown beside measured ones, never ranked with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError, unknown_name
from harness.files.typed import build, load

ALL = "all"


@dataclass(frozen=True)
class Reported:
    """A published row: start model, method, base loss, source, and scores by benchmark in the unit of each."""

    model: str
    method: str
    base_loss: str
    source: str
    scores: dict[str, Any]


def read(path: Path, model: str) -> tuple[Reported, ...]:
    """Read the rows of a model, or of all models.

    Args:
        model: as the rows name it, or ALL.

    Raises:
        UserError: when the file is absent or malformed, or the model has no rows (the nearest name is suggested).
    """
    rows = load(path).get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: must hold 'rows', a list of mappings")
    reported = [_row(row, f"{path}: row {number}") for number, row in enumerate(rows, 1)]
    models = {row.model for row in reported}
    if model != ALL and model not in models:
        raise unknown_name("reported model", model, sorted(models))
    return tuple(row for row in reported if model in (ALL, row.model))


def _row(values: dict[str, Any], where: str) -> Reported:
    if absent := [name for name in Reported.__annotations__ if name not in values]:
        raise UserError(f"{where}: lacks {', '.join(absent)}")
    row: Reported = build(Reported, values, f"{where}: field")
    if wrong := [name for name, score in row.scores.items() if type(score) not in (int, float)]:
        raise UserError(f"{where}: the score of {wrong[0]!r} is not a number")
    return row
