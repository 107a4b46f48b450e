"""Files of configurations by name, and of numbers that plans are made with."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.files import plain_yaml

FOLDER = Path(str(files("harness.experiment.presets")))
SHAPES, WORKLOADS = "models", "workloads"  # files of numbers beside the presets


def numbers(name: str) -> dict[str, dict[str, Any]]:
    """One of the files of numbers beside the presets."""
    return plain_yaml.parse((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), name)
