"""Benchmark files: found in a data folder, plain or gzipped, and read with errors that name the line."""

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
    """Return the first of the named files (relative paths or patterns) in the data folder, plain or with .gz.

    Raises:
        UserError: when there is none.
    """
    for name in names:
        for pattern in (name, f"{name}.gz"):
            if paths := sorted(folder.glob(pattern)):
                return paths[0]
    raise UserError(
        f"no {' or '.join(names)} in {folder}: fetch the files of {benchmark} with: "
        f"harness data fetch {benchmark} --data-dir {folder.parent}"
    )


def read_rows(path: Path, **fields: type) -> list[dict[str, Any]]:
    """Read the rows of a JSONL file or a JSON list, each with the named fields of the given types.

    Raises:
        UserError: naming file, line (or entry of the list) and field.
    """
    return [row for _, row in checked_rows(path, fields)]


def read_located_rows(
    path: Path, written_by_models: bool = False, nan_is_absent: Collection[str] = (), **fields: type
) -> list[tuple[str, dict[str, Any]]]:
    """Read rows like `read_rows`, each with its place ("FILE:LINE") for error messages (see `checked_rows`)."""
    return checked_rows(path, fields, written_by_models, nan_is_absent)


def checked_rows(
    path: Path,
    fields: Mapping[str, type],
    written_by_models: bool = False,
    nan_is_absent: Collection[str] = (),
) -> list[tuple[str, dict[str, Any]]]:
    """Read the rows of a JSONL file or a JSON list, each with its place ("FILE:LINE").

    Args:
        fields: name -> type of the fields that each row must have.
        written_by_models: texts may hold half of a surrogate pair, as outputs of real models do; questions must not.
        nan_is_absent: fields in which NaN, as pandas writes it, means null; elsewhere it is refused.

    Raises:
        UserError: naming file, line (or entry of the list) and field.
    """
    rows = list(located(path, fields))
    for where, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{where}: must be an object")
        for name in row:
            if name in nan_is_absent:
                row[name] = _without_nan(row[name])
            if (place := not_finite(row[name], name)) is not None:
                raise UserError(f"{where}: field {place} is not a finite number: write null for a missing value")
        for name, kind in fields.items():
            if type(row.get(name)) is not kind:  # isinstance would accept True as a number
                raise UserError(f"{where}: field {name!r} must be of type {kind.__name__}, not {row.get(name)!r:.60}")
            if not written_by_models and holds_half_character(row[name]):
                raise UserError(f"{where}: field {name!r} is not Unicode text (it holds half a character)")
    if not rows:
        raise UserError(f"{path}: holds no rows")
    return rows


def not_finite(value: Any, place: str) -> str | None:
    """Return the place of a NaN or infinite number in a JSON value, such as "kwargs[0].num_words"; None if none is."""
    if isinstance(value, float):
        return None if isfinite(value) else place
    inner: list[tuple[Any, str]] = []
    if isinstance(value, dict):
        inner = [(entry, f"{place}.{name}") for name, entry in value.items()]
    elif isinstance(value, list):
        inner = [(entry, f"{place}[{number}]") for number, entry in enumerate(value)]
    return next((wrong for entry, where in inner if (wrong := not_finite(entry, where)) is not None), None)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and isnan(value) else value


def digests(resources: Mapping[str, Path]) -> dict[str, str]:
    """Return the digests of files and folders by name; they depend on contents, not on locations."""
    digests = {}
    for name, path in resources.items():
        inner = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        contents = {str(file.relative_to(path)): store.file_digest(file) for file in inner}
        digests[name] = contents["."] if path.is_file() else store.digest(contents)
    return digests


SUITE_SETTINGS: dict[str, tuple[type, ...]] = {
    "temperature": (float, int),
    "max_new_tokens": (int,),
    "math_instruction": (str,),
    "random_order": (bool,),  # the questions are in random order: the first ones are a sample
}


def suite_settings(folder: Path) -> dict[str, Any]:
    """Return the content of a data folder's settings.json; a folder of real files has none.

    Raises:
        UserError: when it is not an object, or one of SUITE_SETTINGS has a wrong type or value.
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
    """Return the settings, with temperature and length from settings.json if they are not given."""
    suite = suite_settings(folder)
    temperature, tokens = settings.temperature, settings.max_new_tokens
    return replace(
        settings,
        temperature=suite.get("temperature") if temperature is None else temperature,
        max_new_tokens=suite.get("max_new_tokens") if tokens is None else tokens,
    )
