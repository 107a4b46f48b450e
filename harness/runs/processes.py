"""The processes that an experiment's trainings are spread over."""

from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.models import fingerprints
from harness.training.examples import split_batch
from harness.training.processes.command import LaunchCommand, default_configurations, parse, possible_files


def launch_dependencies(experiment: Experiment) -> dict[str, Any] | None:
    """What results depend on, if only in their last digits: the command, and the content of files that it names."""
    text = _command_text(experiment)
    words = (text or "").replace("=", " ").split()
    if words[:1] == ["accelerate"]:
        words += default_configurations()
    named = [each for each in words if Path(each).is_file()]
    for file in named:  # such as a configuration of DeepSpeed's, in one of accelerate's
        named += [each for each in possible_files(file) if each not in named and Path(each).is_file()]
    return text and {"command": text, "files": fingerprints.of_named(named)}


def launch_command(experiment: Experiment) -> LaunchCommand | None:
    """What --gpus or --launcher of an experiment asks for.

    Raises:
        UserError: when it can not be had here.
    """
    if experiment.gpus:
        import torch

        count = 0 if experiment.device == "cpu" else torch.cuda.device_count()
        if count < experiment.gpus:
            raise UserError(
                f"--gpus {experiment.gpus}: PyTorch has {count} CUDA devices for that; for processes on the CPU give "
                f"--launcher 'torchrun --nproc_per_node {experiment.gpus}'"
            )
    text = _command_text(experiment)
    return parse(text, experiment.device) if text else None


def check_launch_command(experiment: Experiment) -> None:
    """
    Raises:
        UserError: when the launcher can not be used, or batches can not be divided over its processes.
    """
    launcher = launch_command(experiment)
    if launcher is None:
        return
    for arm in experiment.arms():
        for stage in experiment.stages(arm):
            options = stage.training
            split_batch(options.batch_size, options.micro_batch_size, launcher.processes or 1)


def _command_text(experiment: Experiment) -> str | None:
    return f"torchrun --nproc_per_node {experiment.gpus}" if experiment.gpus else experiment.launcher
