"""A table as JSON: the fields of `harness.tables.schema.Table`, by their names.

For example rows[i].method, .ranked, .spent.flops, .cells[benchmark].value, .low, .high, .rank, .difference.p_value and
.p_holm. A number that does not exist is null.
"""

import json
import math
from dataclasses import asdict
from typing import Any

from harness.errors import UserError
from harness.files.store import plain
from harness.statistics.intervals import Difference, Interval
from harness.tables.reported import Reported
from harness.tables.schema import Cell, Column, Row, RunCost, Table, Tuning

NUMBERS = ("value", "low", "high", "error", "freedom")


def to_json(table: Table) -> dict[str, Any]:
    """The table as plain data for JSON, with the field names of the dataclasses."""
    data: dict[str, Any] = plain(asdict(table))
    return data


def dumps(table: Table) -> str:
    return json.dumps(to_json(table), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def from_json(data: Any, where: str) -> Table:
    """The table that `to_json` wrote; fields that an older one lacks get their defaults.

    Args:
        where: the file, for error messages.

    Raises:
        UserError: when the data are not such a table.
    """
    try:
        return Table(
            **{"ledger": "nominal"}  # tables without it are older than any other rule
            | data
            | {
                "benchmarks": tuple(Column(**each) for each in data["benchmarks"]),
                "rows": tuple(_row(each) for each in data["rows"]),
                "notes": tuple(data["notes"]),
                "reported": tuple(Reported(**each) for each in data.get("reported", ())),
                "detectable": {name: tuple(each) for name, each in data.get("detectable", {}).items()},
            }
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f"{where}: is not a table of harness") from None


def _row(data: dict[str, Any]) -> Row:
    return Row(
        **data
        | {
            "seeds": tuple(data["seeds"]),
            "cells": {name: _cell(each) for name, each in data["cells"].items()},
            "spent": RunCost(**data["spent"]),
            "tuning": Tuning(**data["tuning"]) if data.get("tuning") else None,
        }
    )


def _cell(data: dict[str, Any]) -> Cell:
    difference, controlled = data["difference"], data.get("length_controlled")
    return Cell(
        **_with_nan(data)
        | {
            "by_seed": {int(seed): value for seed, value in data["by_seed"].items()},
            "difference": Difference(**_with_nan(difference)) if difference else None,
            "length_controlled": Interval(**_with_nan(controlled)) if controlled else None,
        }
    )


def _with_nan(data: dict[str, Any]) -> dict[str, Any]:
    """Replace null by NaN, as tables have it."""
    return data | {name: math.nan for name in NUMBERS if name in data and data[name] is None}
