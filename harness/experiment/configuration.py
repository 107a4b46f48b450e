"""Configurations by name, and how configurations build on each other."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from harness.errors import UserError, unknown_name
from harness.experiment.options import Experiment, flags_of
from harness.experiment.presets import FOLDER, SHAPES
from harness.files import typed

EXTENDS = "extends"
COMMON = "paper"  # what the others extend: it names no model
FLAGS = {  # name of an option on the command line, without its dashes -> field
    flag.lstrip("-"): each.name for each in fields(Experiment) for flag in flags_of(each) if flag.startswith("--")
}


def names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != SHAPES)


def load(config: Path) -> dict[str, Any]:
    """Read a YAML file or preset, on top of what it extends: mappings are merged, all else is replaced.

    Options may also have their command-line names, such as method for methods.

    Raises:
        UserError: when a file is absent, not a mapping (with its line), extends itself, or names an option twice.
    """
    return _load(_file(config, Path()), ())


def _file(named: Path, beside: Path) -> Path:
    """Return the path of a file, relative to the folder of the one that names it, or of a preset."""
    file = beside / named
    if file.is_file():
        return file
    if named.suffix or len(named.parts) > 1:
        raise UserError(f"no configuration file at {file}")
    if named.name not in names():
        raise unknown_name("preset", named.name, names())
    return FOLDER / f"{named.name}.yaml"


def _load(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    values = _by_field(typed.load(file), file)
    if EXTENDS not in values:
        return values
    extended = values.pop(EXTENDS)
    if not isinstance(extended, str):
        raise UserError(f"{file}: {EXTENDS} must be the name of a preset or of a file, not {extended!r:.80}")
    below = _file(Path(extended), file.parent)
    chain = (*above, file.resolve())
    if below.resolve() in chain:
        raise UserError(f"{file}: extends {extended}, which extends this file")
    return _merged(_load(below, chain), values)


def _by_field(values: dict[str, Any], file: Path) -> dict[str, Any]:
    named: dict[str, str] = {}  # field -> its name in the file
    for name in values:
        field = FLAGS.get(str(name).replace("_", "-"), name)
        if field in named:
            raise UserError(f"{file}: {named[field]!r} and {name!r} are one option: leave one out")
        named[field] = name
    return {field: values[name] for field, name in named.items()}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: _merged(below[name], value) if isinstance(value, dict) and isinstance(below.get(name), dict) else value
        for name, value in above.items()
    }
    return below | both
