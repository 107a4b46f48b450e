"""Command-line options from the fields of an Experiment: one type, one default and one help text for each."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import experiment as experiments
from harness import presets
from harness.experiment import Experiment, flags_of

SETTINGS = ("options", "search")  # repeatable, each NAME.OPTION=VALUE
FIELDS = ("judge_set",)  # repeatable, each KEY=VALUE
_FIELDS = {each.name: each for each in dataclasses.fields(Experiment)}

Config = Annotated[
    Path | None,
    typer.Option(help="YAML file with any of these options, or a preset (harness list); the command line wins."),
]


def takes(*names: str) -> Callable[[Callable], Callable]:
    """The command also takes these options of an Experiment, and gets those that were given as its first argument.

    Without names it takes all of them.
    """

    def decorate(command: Callable) -> Callable:
        fields = names or tuple(_FIELDS)

        @functools.wraps(command)
        def called(**values: Any) -> None:
            given = {name: values.pop(name) for name in fields}
            command({name: value for name, value in given.items() if value is not None}, **values)

        own = [each.replace(kind=each.KEYWORD_ONLY) for each in inspect.signature(command).parameters.values()][1:]
        parameters = [*own[:1], *map(_parameter, fields), *own[1:]]
        called.__signature__ = inspect.Signature(parameters)
        called.__annotations__ = {each.name: each.annotation for each in parameters}
        return called

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    field = _FIELDS[name]
    shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    text = field.metadata["help"].replace("[", r"\[")
    if shown not in (None, dataclasses.MISSING, False):
        text += f" [dim]\\[default: {shown}][/dim]"
    kind = {"methods": str, "benchmarks": str, **dict.fromkeys((*SETTINGS, *FIELDS), list[str])}.get(name, field.type)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, typer.Option(*flags_of(field), help=text, show_default=False)],
    )


def experiment(given: dict[str, Any], config: Path | None = None) -> Experiment:
    """The experiment of a configuration file and the options given on the command line, which win."""
    values = presets.load(config) if config else {}
    values |= {name: value for name, value in given.items() if name not in (*SETTINGS, *FIELDS)}
    for name in SETTINGS:
        if given.get(name):
            values[name] = experiments.add_settings(values.get(name), given[name])
    for name in FIELDS:
        if given.get(name):
            values[name] = (values.get(name) or {}) | experiments.parse_fields(given[name])
    return experiments.build(Experiment, values, "option")
