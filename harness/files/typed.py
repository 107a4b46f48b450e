"""Dataclasses read from YAML: pydantic checks types and limits, the messages are ours.

A field says all there is to know about its values: `Annotated[int, Ge(1)] | None`, `Literal["on", "off"]`. The options
of plugins are plain frozen dataclasses and are read the same way. pydantic is imported when something is read, as it
takes longer than `harness --help`.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import MinLen

from harness.errors import UserError, unknown_name
from harness.files import plain_yaml, rows

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter

PROSE = "a text that is not part of a file name"
Prose = Annotated[str, PROSE]
Names = tuple[str, ...]
OptionsByName = dict[str, dict[str, Any]]
Fields = dict[str, Any]
DESCRIPTIONS: dict[Any, str] = {
    Names: "a list of texts, at least one",
    tuple[float, ...]: "a list of numbers",
    OptionsByName: "mappings of options by the name of a method or benchmark",
    Fields: "a mapping of fields to values",
    NoneType: "null",
}
LIMITS = {  # pydantic's error and the field of its context -> our words
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}
LONGEST_NAME = 200  # bytes; file systems take 255, and our own files add to it
Built = TypeVar("Built", bound="DataclassInstance")


def build(kind: type[Built], values: Mapping[str, Any], what: str) -> Built:
    """Return an instance of a dataclass from plain values, each converted and checked as its field says.

    Args:
        what: names a field in messages, such as "option".

    Raises:
        UserError: for an unknown name (the nearest is suggested), a missing field, a value of another type or beyond a
            limit, or a text that cannot be part of a file name.
    """
    readers = _readers(kind)
    for name in values:
        if name not in readers:
            raise unknown_name(what, name, readers)
    if missing := [each.name for each in dataclasses.fields(kind) if _is_required(each) and each.name not in values]:
        raise UserError(f"{what} {', '.join(map(repr, missing))} is missing")
    return kind(**{name: _read(readers[name], value, what, name) for name, value in values.items()})


def check(instance: "DataclassInstance", what: str) -> None:
    """Check the fields of a dataclass that was made in Python, as `build` does.

    Raises:
        UserError: for a value of another type or beyond a limit.
    """
    for name, reader in _readers(type(instance)).items():
        _read(reader, getattr(instance, name), what, name)


def convert(annotation: Any, value: Any, what: str, name: str) -> Any:
    """Return a value as a field with this annotation holds it.

    Raises:
        UserError: as for `build`.
    """
    return _read(_reader(annotation), value, what, name)


def schema(kind: "type[DataclassInstance]") -> dict[str, Any]:
    """Return the JSON schema (2020-12) of what `build` takes: types, limits, defaults and help texts."""
    properties = {}
    for each in dataclasses.fields(kind):
        described = _readers(kind)[each.name].adapter.json_schema()
        described.pop("title", None)
        if help := each.metadata.get("help"):
            described = {"description": help} | described
        if not _is_required(each):
            made = each.default_factory
            default = each.default if made is dataclasses.MISSING else made()
            described["default"] = list(default) if isinstance(default, tuple) else default
        properties[each.name] = described
    required = [each.name for each in dataclasses.fields(kind) if _is_required(each)]
    whole = {"type": "object", "properties": properties, "additionalProperties": False}
    return whole | ({"required": required} if required else {})


def load(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        UserError: when the file is absent or holds no mapping (with its line).
    """
    if not os.path.exists(path):  # False too for a name that no file can have
        raise UserError(f"no configuration file at {path}")
    values = plain_yaml.parse(rows.read_text(path), str(path))
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: must hold a mapping of options to values")
    return values or {}


def plain_type(annotation: Any) -> Any:
    """Strip limits and choices: `Annotated[int, Ge(1)] | None` becomes `int | None`, a Literal becomes `str`."""
    if get_origin(annotation) is Annotated:
        return plain_type(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return str
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(map(plain_type, get_args(annotation)))]  # noqa: UP007 (parts known at run time)
    if get_origin(annotation) is tuple:
        return GenericAlias(tuple, (plain_type(get_args(annotation)[0]), ...))
    return annotation


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


class _TypedReader(NamedTuple):
    annotation: Any
    adapter: "TypeAdapter[Any]"


def _reader(annotation: Any) -> _TypedReader:
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return _TypedReader(annotation, TypeAdapter(_with_conversions(annotation), config=config))


@cache
def _cached_readers(kind: Any) -> dict[str, _TypedReader]:
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: _reader(hints[each.name]) for each in dataclasses.fields(kind)}


_readers: Callable[[Any], dict[str, _TypedReader]] = _cached_readers  # mypy takes some classes for unhashable


def _with_conversions(annotation: Any) -> Any:
    """Add the conversions that YAML needs: lists to tuples, and 1e-4, a text in YAML 1.1, to a number."""
    from pydantic import BeforeValidator

    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(map(_with_conversions, get_args(annotation)))]  # noqa: UP007 (parts known at run time)
    kind, *limits = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if kind is float:
        limits.append(BeforeValidator(_number, json_schema_input_type=annotation))
    elif kind is str:
        limits.append(BeforeValidator(_text if PROSE in limits else _name, json_schema_input_type=str))
    elif kind == Names:
        kind = tuple[Annotated[str, BeforeValidator(_name)], ...]
        given = Annotated[list[str], MinLen(1)] | str
        limits += [MinLen(1), BeforeValidator(_names, json_schema_input_type=given)]
    elif get_origin(kind) is tuple:  # of numbers
        number = get_args(kind)[0]
        kind = GenericAlias(tuple, (_with_conversions(number), ...))
        limits.append(BeforeValidator(_names, json_schema_input_type=GenericAlias(list, (number,)) | float | str))
    return Annotated[(kind, *limits)] if limits else kind


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, int | float):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


class _BadText(ValueError):
    """A text of the right type that cannot be used; the message ends a sentence that begins with the field."""


def _text(value: Any) -> Any:
    if isinstance(value, str) and (rows.holds_half_character(value) or "\0" in value):
        raise _BadText(f"holds half a character or a NUL: {value!r:.80}")
    return value


def _name(value: Any) -> Any:
    """Texts of options are names of files and folders, or parts of them."""
    if isinstance(_text(value), str) and max(len(part.encode()) for part in value.split("/")) > LONGEST_NAME:
        raise _BadText(f"is longer than the {LONGEST_NAME} bytes of a name: {value!r:.80}")
    return value


def _read(reader: _TypedReader, value: Any, what: str, name: str) -> Any:
    from pydantic import ValidationError

    try:
        return reader.adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    if isinstance(context.get("error"), _BadText):
        raise UserError(f"{what} {name!r} {context['error']}")
    if kind in LIMITS:
        bound, words = LIMITS[kind]
        limit = f"{context[bound]:g}".replace("e+0", "e")
        raise UserError(f"{what} {name!r} must be {words} {limit}, not {value!r:.200}")
    if kind == "literal_error" and isinstance(value, str):
        raise unknown_name(name, value, re.findall("'(.+?)'", context["expected"]))
    plain = plain_type(reader.annotation)
    kinds = get_args(plain) if get_origin(plain) in (Union, UnionType) else (plain,)
    wanted = " or ".join(str(DESCRIPTIONS.get(each) or getattr(each, "__name__", each)) for each in kinds)
    raise UserError(f"{what} {name!r} must be {wanted}, not {value!r:.200}")
