"""`harness list`: methods, benchmarks and presets, or all that is known of one of them."""

from pathlib import Path
from typing import Annotated

import typer

from harness.commands import completion
from harness.commands.output import Json, print_json
from harness.experiment import configuration, registry

EPILOG = (
    "Examples:\n\n  harness list\n\n  harness list sso\n\n  harness list shorter.py:Shorter\n\n  harness list --json"
)


def list_names(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A method or benchmark, or FILE.py:CLASS, to see its options.",
            show_default=False,
            autocompletion=completion.known,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List methods, benchmarks and presets, or the options of one of them with defaults and meanings."""
    if name is not None:
        from harness.commands.describe import describe, print_described

        described = describe(name)
        print_json(described) if as_json else print_described(described)
        return
    methods = {name: registry.load("method", name).summary for name in registry.names("method")}
    benchmarks = {name: registry.load("benchmark", name).title for name in registry.names("benchmark")}
    presets = (name for name in configuration.names() if name != configuration.COMMON)
    known = {name: configuration.load(Path(name))["model"] for name in presets}
    if as_json:
        print_json({"methods": methods, "benchmarks": benchmarks, "presets": known})
        return
    for kind, entries in (("Methods", methods), ("Benchmarks", benchmarks), ("Presets", known)):
        print(f"{kind}:")
        for name, text in entries.items():
            print(f"  {name:16} {text}")
