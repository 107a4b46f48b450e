"""Run arms of an experiment on a Ray cluster. An arm whose worker or node is lost continues on another.

All nodes must see the results folder, and the files that the experiment names, at the same paths.
"""

import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files.folders import RunFolder
from harness.models import fingerprints
from harness.progress import PLAIN_VARIABLE
from harness.runs.arm import Arm, failure_of
from harness.runs.engine_choice import chosen
from harness.runs.inputs import Inputs, load_inputs
from harness.runs.processes import launch_command
from harness.runs.untrained import Untrained
from harness.signals import GO_ON

LOCAL = "local"
TRAINING, EVALUATION = "training", "evaluation"  # tasks of an arm
PATIENCE = 10.0  # seconds to reach a cluster
TRIES = 3  # for an arm whose workers are lost
QUIET = {  # variables of Ray, unless the user sets them: no reports, all lines of workers, no colours, no files at home
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default: tasks without GPUs still see them
}
_inputs: dict[tuple[str, str], Inputs] = {}  # of this worker, for all arms that it runs


def run_arms_on_ray(
    experiment: Experiment, root: RunFolder, arms: Sequence[Arm], address: str, untrained: Untrained
) -> None:
    """Run arms as tasks of a cluster, first the training of each, then its evaluation, with resources as in `needs`.

    Args:
        untrained: gets the arms that cannot be trained.
        address: of a cluster as `ray.init` takes it, or "local" for one on this machine.

    Raises:
        UserError: that of an arm, or when the cluster cannot be used or loses the workers of an arm TRIES times.
    """
    with _cluster(address) as ray:
        _check_shared(ray, root.path)
        needed = needs(experiment)
        lost: Counter[str] = Counter()
        _warn_of_small_nodes(ray, needed)

        def start(arm: Arm, part: str) -> None:
            task = ray.remote(**needed[part], name=part, max_retries=0)(_run)
            running[task.remote(os.getcwd(), arm, part, experiment, root)] = arm, part  # noqa: PTH109 (a text)

        running: dict[Any, tuple[Arm, str]] = {}
        try:
            for arm in arms:
                start(arm, TRAINING if arm.stages else EVALUATION)
            while running:
                (finished,), _ = ray.wait(list(running), num_returns=1)
                arm, part = running.pop(finished)
                try:
                    failure = ray.get(finished)
                except ray.exceptions.RayTaskError:
                    raise  # a mistake in the program
                except ray.exceptions.RayError as error:
                    lost[arm.label] += 1
                    reason = str(error).strip().partition("\n")[0]
                    if lost[arm.label] == TRIES:
                        raise UserError(f"{arm.label}: lost {TRIES} workers ({reason}); {GO_ON}") from None
                    print(f"{arm.label}: its worker was lost ({reason}); another continues", file=sys.stderr)
                    start(arm, part)
                    continue
                if failure:
                    untrained.add(arm, failure)
                elif part == TRAINING:
                    start(arm, EVALUATION)
        finally:
            for task in running:
                ray.cancel(task, force=True)


def needs(experiment: Experiment) -> dict[str, dict[str, int]]:
    """The resources of each task as `ray.remote` takes them: one CPU or GPU per process of a training, and per device
    that a model answers on."""
    on_gpu = not fingerprints.of_device(experiment.device).startswith("cpu")
    launcher = launch_command(experiment)
    here = chosen(experiment) == "vllm" and not experiment.engine_url
    answering = experiment.tensor_parallel if here else 1
    training = max(answering, launcher.processes or 1 if launcher else 1)
    if on_gpu:
        return {part: {"num_cpus": 1, "num_gpus": n} for part, n in ((TRAINING, training), (EVALUATION, answering))}
    return {TRAINING: {"num_cpus": training}, EVALUATION: {"num_cpus": 1}}


def _warn_of_small_nodes(ray: Any, needed: dict[str, dict[str, int]]) -> None:
    """Print when no node is large enough: Ray then waits for one, forever or until an autoscaler starts it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for part, resources in needed.items():
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        if not any(all(node.get(names[name], 0) >= n for name, n in resources.items()) for node in nodes):
            wanted = " and ".join(f"{n} {names[name]}" for name, n in resources.items())
            print(f"no node of the cluster has {wanted} for {part}: waiting for one", file=sys.stderr)


def _run(folder: str, arm: Arm, part: str, experiment: Experiment, root: RunFolder) -> UserError | None:
    """Run a part of an arm in a worker. Returns what the user is told when it fails.

    Args:
        folder: the folder that names of files are relative to.
    """
    os.environ[PLAIN_VARIABLE] = "1"  # bars of several processes would overwrite each other
    os.chdir(folder)

    def inputs() -> Inputs:
        key = (str(root.path), repr(experiment))
        if key not in _inputs:
            _inputs.clear()
            _inputs[key] = load_inputs(experiment, root)
        return _inputs[key]

    return failure_of(arm.learn if part == TRAINING else arm.run, inputs)


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray, which is not installed here: pip install 'harness[ray]'") from None
    where = {"num_cpus": os.cpu_count()} if address == LOCAL else {"address": address}
    try:
        _check_address(address)
        ray.init(**where, include_dashboard=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"no Ray cluster at {address!r} ({reason:.300}): give its address, or --ray local") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """
    Raises:
        OSError: when nothing listens at HOST:PORT, for which Ray itself waits minutes.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), PATIENCE).close()


def _check_shared(ray: Any, folder: Path) -> None:
    """
    Raises:
        UserError: when a node does not see the folder.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = (folder / f".{uuid4().hex}.tmp").resolve()
    probe.touch()
    try:
        exists = ray.remote(num_cpus=0)(os.path.exists)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        seen = [
            exists.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(probe)
            for node in nodes
        ]
        blind = [node["NodeManagerAddress"] for node, sees in zip(nodes, ray.get(seen), strict=True) if not sees]
    finally:
        probe.unlink()
    if blind:
        raise UserError(
            f"{folder.resolve()} is not the same folder on {', '.join(blind)}: give --results in a folder that all "
            "nodes of the cluster share"
        )
