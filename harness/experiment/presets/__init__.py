"""Presets: configurations by name, and the numbers that estimates are made with."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.files import plain_yaml

FOLDER = Path(str(files("harness.experiment.presets")))
SHAPES = "models"  # file of numbers beside the presets


def numbers(name: str) -> dict[str, dict[str, Any]]:
    """Read a file of numbers beside the presets."""
    read: dict[str, dict[str, Any]] = plain_yaml.parse((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), name)
    return read
