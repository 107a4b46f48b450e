"""Benchmark files: found in a data folder, read with the line of what is wrong, plain or gzipped."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import inf, isfinite, isnan
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Settings
from harness.errors import UserError
from harness.files import store
from harness.files.rows import holds_half_character, located, read_json


def find(folder: Path, benchmark: str, *names: str) -> Path:
    """The first of the named files (relative, or a pattern) that is in the data folder, plain or with .gz.

    Raises:
        UserError: when none is there.
    """
    for name in names:
        for pattern in (name, f"{name}.gz"):
            if found := sorted(folder.glob(pattern)):
                return found[0]
    raise UserError(
        f"no {' or '.join(names)} in {folder}: fetch the files of {benchmark} with: "
        f"harness data fetch {benchmark} --data-dir {folder.parent}"
    )


def read_rows(path: Path, **fields: type) -> list[dict]:
    """Rows of a JSONL file, or of a JSON list, each with the named fields of the given types.

    Raises:
        UserError: naming file, line (entry of a list) and field.
    """
    return [row for _, row in read_located_rows(path, **fields)]


def read_located_rows(
    path: Path, written_by_models: bool = False, nan_is_absent: Collection[str] = (), **fields: type
) -> list[tuple[str, dict]]:
    """As `read_rows`, each row with the place where it stands ("FILE:LINE"), for messages about it.

    Args:
        nan_is_absent: fields in which NaN, as pandas writes it, means null; anywhere else it is refused.
        written_by_models: texts may hold half of a surrogate pair, as outputs of real models do; what is asked may not.
    """
    rows = list(located(path, fields))
    for where, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{where}: must be an object")
        for name in row:
            if name in nan_is_absent:
                row[name] = _without_nan(row[name])
            if (place := not_finite(row[name], name)) is not None:
                raise UserError(f"{where}: field {place} is not a finite number: write null where there is none")
        for name, kind in fields.items():
            if type(row.get(name)) is not kind:  # isinstance would take True for a number
                raise UserError(f"{where}: field {name!r} must be of type {kind.__name__}, not {row.get(name)!r:.60}")
            if not written_by_models and holds_half_character(row[name]):
                raise UserError(f"{where}: field {name!r} is no Unicode text (it holds half a character)")
    if not rows:
        raise UserError(f"{path}: holds no rows")
    return rows


def not_finite(value: Any, place: str) -> str | None:
    """Where in a value of JSON a number is NaN or infinite, such as "kwargs[0].num_words"; None where none is."""
    if isinstance(value, float):
        return None if isfinite(value) else place
    inner = []
    if isinstance(value, dict):
        inner = [(each, f"{place}.{name}") for name, each in value.items()]
    elif isinstance(value, list):
        inner = [(each, f"{place}[{number}]") for number, each in enumerate(value)]
    return next((found for each, where in inner if (found := not_finite(each, where)) is not None), None)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and isnan(value) else value


def digests(resources: Mapping[str, Path]) -> dict[str, str]:
    """The contents of files and folders by their names here, wherever they are."""
    found = {}
    for name, path in resources.items():
        inner = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        known = {str(each.relative_to(path)): store.file_digest(each) for each in inner}
        found[name] = known["."] if path.is_file() else store.digest(known)
    return found


SUITE_SETTINGS: dict[str, tuple[type, ...]] = {
    "temperature": (float, int),
    "max_new_tokens": (int,),
    "math_instruction": (str,),
    "random_order": (bool,),  # the questions were drawn at random: the first of them are a sample
}


def suite_settings(folder: Path) -> dict:
    """What settings.json of a data folder says; a folder of real files has none.

    Raises:
        UserError: when it is no object, or one of SUITE_SETTINGS has another type or can not be.
    """
    path = folder / "settings.json"
    suite = read_json(path) if path.exists() else {}
    if not isinstance(suite, dict):
        raise UserError(f"{path}: must be an object")
    for name, kinds in SUITE_SETTINGS.items():
        if name in suite and type(suite[name]) not in kinds:
            raise UserError(f"{path}: {name!r} must be of type {kinds[0].__name__}, not {suite[name]!r:.60}")
    if not 0 <= suite.get("temperature", 0) < inf or suite.get("max_new_tokens", 1) < 1:
        raise UserError(f"{path}: 'temperature' must be at least 0, and 'max_new_tokens' at least 1")
    return suite


def with_suite_settings(folder: Path, settings: Settings) -> Settings:
    """The settings, with temperature and length of settings.json where they are not given."""
    suite = suite_settings(folder)
    given = {name: getattr(settings, name) for name in ("temperature", "max_new_tokens")}
    return replace(settings, **{name: suite.get(name) if value is None else value for name, value in given.items()})
