"""An experiment whose models are GGUF files, with the folders that these are unpacked into in their place."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.experiment.options import Experiment
from harness.models import gguf
from harness.models.gguf import is_gguf

FOLDER = "models"  # below the results
WRITER = "principle_model"  # the option of a method that names a model


def with_unpacked_models(
    experiment: Experiment, results: Path, unpack: Callable[[str, Path], Path] = gguf.unpack
) -> Experiment:
    """The experiment with a folder below `results` for each GGUF file: model, judge and writer of principles.

    Args:
        unpack: returns the folder of a file; `gguf.unpacked` writes nothing.

    Raises:
        UserError: when a file is absent or cannot be read.
    """

    def folder(model: str) -> str:
        return str(unpack(model, results / FOLDER))

    changes: dict[str, Any] = {}
    if not experiment.model_url and is_gguf(experiment.model):
        changes["model"] = folder(experiment.model)
    if experiment.judge_engine and is_gguf(experiment.judge_engine):
        changes["judge_engine"] = folder(experiment.judge_engine)
    options = {name: _unpacked(values, folder) for name, values in experiment.options.items()}
    if options != experiment.options:
        changes["options"] = options
    return replace(experiment, **changes) if changes else experiment


def _unpacked(options: dict[str, Any], folder: Callable[[str], str]) -> dict[str, Any]:
    writer = options.get(WRITER)
    if isinstance(writer, str) and not options.get("principle_url") and is_gguf(writer):
        return options | {WRITER: folder(writer)}
    return options
