"""Command-line options from the fields of an Experiment: one type, one default and one help text for each."""

import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Callable, Container
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from harness.commands import completion
from harness.errors import UserError
from harness.experiment import configuration, registry
from harness.experiment.options import Experiment, flags_of
from harness.experiment.settings import add_settings, parse_fields
from harness.files import typed
from harness.models.folder import TESTBED

RUNS = Path("results/runs")
SETTINGS = ("options", "search")  # repeatable, each NAME.OPTION=VALUE
LISTS = ("methods", "benchmarks", "checkpoints")  # separated by commas
FIELDS = ("judge_set",)  # repeatable, each KEY=VALUE
_FIELDS = {each.name: each for each in dataclasses.fields(Experiment)}

Config = Annotated[
    Path | None,
    typer.Option(
        help="YAML file with any of these options, or a preset (harness list); the command line takes precedence.",
        autocompletion=completion.configurations,
    ),
]


def run_folder(text: str) -> Path:
    """Return the run folder at a path, or with this name below results/runs."""
    named = RUNS / text
    return named if not os.path.exists(text) and "/" not in text and named.is_dir() else Path(text)


RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        parser=run_folder,
        help="A run, by name or folder.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
RunFolders = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        parser=run_folder,
        help="Runs, by name or folder.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]


class Command(typer.core.TyperCommand):
    """A command that says how to write lists if one was given as several words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # a usage error of typer's own click, which has no public name
            if "unexpected extra argument" in getattr(error, "message", ""):
                hint = ": separate names by commas (--method sso,dpo), and quote values that have spaces"
                error.message += hint  # type: ignore[attr-defined] # it has one, by the line above
            raise


def takes(*names: str, without: Container[str] = ()) -> Callable[[Callable], Callable]:
    """Add options of an Experiment to a command, which gets those that were given as its first argument.

    Args:
        names: the options, all by default.
        without: options that the command does not take, such as those whose names it uses itself.
    """

    def decorate(command: Callable) -> Callable:
        fields = [name for name in names or _FIELDS if name not in without]

        @functools.wraps(command)
        def called(**values: Any) -> None:
            given = {name: values.pop(name) for name in fields}
            command({name: value for name, value in given.items() if value is not None}, **values)

        own = [each.replace(kind=each.KEYWORD_ONLY) for each in inspect.signature(command).parameters.values()][1:]
        parameters = [*own[:1], *map(_parameter, fields), *own[1:]]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # inspect.signature reads it
        called.__annotations__ = {each.name: each.annotation for each in parameters}
        return called

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    field = _FIELDS[name]
    default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    text = field.metadata["help"].replace("[", r"\[")
    if default not in (None, dataclasses.MISSING, False, ""):
        text += f" [dim]\\[default: {default}][/dim]"
    others = {
        **dict.fromkeys(("methods", "benchmarks", "checkpoints"), str),
        **dict.fromkeys((*SETTINGS, *FIELDS), list[str]),
    }
    kind = others.get(name) or typed.plain_type(field.type)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            kind | None,
            typer.Option(
                *flags_of(field), help=text, show_default=False, autocompletion=completion.BY_OPTION.get(name)
            ),
        ],
    )


def experiment(given: dict[str, Any], config: Path | None = None) -> Experiment:
    """Return the experiment of a configuration file and the options on the command line, which win.

    Options that the file gives for methods and benchmarks that are not chosen are dropped, with a message.
    """
    values = configuration.load(config) if config else {}
    listed = _listed(values)
    values |= {name: value for name, value in given.items() if name not in (*SETTINGS, *FIELDS)}
    if config:
        _leave_out(values, listed)
    for name in SETTINGS:
        if given.get(name):
            values[name] = add_settings(values.get(name), given[name])
    for name in FIELDS:
        if given.get(name):
            values[name] = (values.get(name) or {}) | parse_fields(given[name])
    built = typed.build(Experiment, values, "option")
    check_data(built, given, values)
    return built


def check_data(built: Experiment, given: Container[str], values: Container[str]) -> None:
    """
    Args:
        given: names of options that were given by hand. values: those, and options of a configuration.

    Raises:
        UserError: for training data given by hand that no chosen method uses, and when training data of a real model
            would default to the testbed's.
    """
    stages = {arm: built.stages(arm) for arm in built.arms()}
    for option, labelled in (("prompts", False), ("preferences", True)):
        users = [arm for arm in stages if any(stage.labelled is labelled for stage in stages[arm])]
        if option in given and not users and not (built.tune and option == "prompts"):
            raise UserError(f"--{option} is not used by the methods {', '.join(stages)}: leave it out")
        if users and option not in values and built.model != TESTBED:
            raise UserError(
                f"{', '.join(users)} would train {built.model} on the testbed's {option}: give --{option} FILE, "
                f"or --{option} testbed to use these"
            )


def _listed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("methods", "benchmarks") if name in values}


def _leave_out(values: dict[str, Any], listed: dict[str, Any]) -> None:
    """Remove the settings of methods and benchmarks that are known and not chosen; unknown ones stay, to be refused.

    Args:
        listed: methods and benchmarks of the file, which the command line may have replaced.
    """
    chosen = typed.build(Experiment, _listed(values), "option")
    before = typed.build(Experiment, listed, "option")
    taking_part = {*chosen.arms(), *chosen.benchmark_names()}
    known = {*registry.names("method"), *registry.names("benchmark"), *before.arms(), *before.benchmark_names()}
    for name in SETTINGS:
        if isinstance(settings := values.get(name), dict):
            others = [each for each in settings if each in known - taking_part]
            values[name] = {each: changes for each, changes in settings.items() if each not in others}
            if others:
                print(f"the configuration's {name} of {', '.join(others)} are dropped: not chosen", file=sys.stderr)
