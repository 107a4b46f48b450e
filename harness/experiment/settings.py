"""Options as the command line writes them: NAME.OPTION=VALUE and KEY=VALUE."""

from typing import Any

from harness.errors import UserError
from harness.files import plain_yaml
from harness.files.typed import OptionsByName, convert


def add_settings(options: Any, settings: list[str]) -> dict[str, dict[str, Any]]:
    """Return options with settings such as "dpo.beta=0.2" on top."""
    before = convert(OptionsByName, options or {}, "option", "options")
    changed = {name: dict(changes) for name, changes in before.items()}
    for name, changes in parse_options(settings).items():
        changed.setdefault(name, {}).update(changes)
    return changed


def parse_options(settings: list[str]) -> dict[str, dict[str, Any]]:
    """Parse settings such as "dpo.beta=0.2" to {"dpo": {"beta": 0.2}}; values are YAML.

    Raises:
        UserError: for another form or broken YAML, naming the setting.
    """
    options: dict[str, dict[str, Any]] = {}
    for setting in settings:
        target, equals, value = setting.partition("=")
        method, dot, name = target.rpartition(".")
        if not (equals and dot and name):
            raise UserError(f"setting {setting!r} is not understood: write NAME.OPTION=VALUE, such as dpo.beta=0.2")
        options.setdefault(method, {})[name] = plain_yaml.parse(value, f"setting {setting!r:.80}")
    return options


def parse_fields(settings: list[str]) -> dict[str, Any]:
    """Parse settings such as "reasoning_effort=low" to {"reasoning_effort": "low"}; values are YAML.

    Raises:
        UserError: for another form or broken YAML, naming the setting.
    """
    fields = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (equals and name.strip()):
            raise UserError(f"setting {setting!r:.80} is not understood: write KEY=VALUE, such as reasoning_effort=low")
        fields[name.strip()] = plain_yaml.parse(value, f"setting {setting!r:.80}")
    return fields
