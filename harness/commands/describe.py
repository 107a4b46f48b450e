"""What `harness list NAME` says of a method or benchmark: its options, their defaults and meanings, and its source."""

import dataclasses
import inspect
import sys
from typing import Any

from harness.commands.output import print_rows
from harness.errors import unknown_name
from harness.experiment import defaults, registry
from harness.experiment.meanings import option_meanings
from harness.experiment.search import Distribution
from harness.files import code_files


def describe(name: str) -> dict[str, Any]:
    """A method or benchmark by name, or as FILE.py:CLASS.

    Returns: {"name", "kind", "summary", "module", "about": its module's docstring, "options": [{"name", "default",
        "meaning", "tuned": [lowest, highest] or None, "small", "large": defaults for models of that scale}]}.

    Raises:
        UserError: when there is neither a method nor a benchmark of this name.
    """
    if code_files.is_reference(name):
        kind = registry.kind_of(name)
    else:
        names = {each: kind for kind in registry.GROUPS for each in registry.names(kind)}
        if name not in names:
            raise unknown_name("method or benchmark", name, names)
        kind = names[name]
    known = registry.load(kind, name)
    file = code_files.imported(type(known).__module__)
    space = getattr(known, "search_space", {})
    by_scale = {scale: defaults.options_of(scale, known.Options) for scale in ("small", "large")}
    usual, meanings = known.Options(), option_meanings(known.Options)
    options = [
        {
            "name": each.name,
            "default": getattr(usual, each.name),
            "meaning": meanings.get(each.name),
            "tuned": _limits(space.get(each.name)),
            **{scale: values[each.name] for scale, values in by_scale.items() if each.name in values},
        }
        for each in dataclasses.fields(known.Options)
    ]
    return {
        "name": known.name if file else name,
        "kind": kind,
        "summary": known.summary if kind == "method" else known.title,
        "module": str(file.path) if file else type(known).__module__,
        "about": inspect.getdoc(sys.modules[type(known).__module__]) or "",
        "options": options,
    }


def print_described(found: dict[str, Any]) -> None:
    """Print what `describe` returns."""
    print(f"{found['name']}: {found['summary']} ({found['kind']}, {found['module']})\n\n{found['about']}\n")
    if not found["options"]:
        print("It has no options.")
        return
    rows = []
    for each in found["options"]:
        scales = [f"{scale}: {each[scale]}" for scale in ("small", "large") if scale in each]
        tuned = [f"tuned in {each['tuned'][0]:g} to {each['tuned'][1]:g}"] if each["tuned"] else []
        rows.append((each["name"], str(each["default"]), ". ".join([each["meaning"] or "–", *scales, *tuned])))
    print_rows(("option", "default", "meaning"), rows, title=f"--set {found['name']}.OPTION=VALUE")


def _limits(distribution: Distribution | None) -> list[float] | None:
    return [distribution.low, distribution.high] if distribution else None
