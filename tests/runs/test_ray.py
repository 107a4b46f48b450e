"""--ray: arms on a cluster of several nodes, one of which dies, give the table of a plain run."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import harness

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.models import fingerprints
from harness.runs import ray as ray_cluster

pytestmark = pytest.mark.ray

needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed: pip install '.[ray]'")
OPTIONS = ("--method", "dpo", "--seeds", "3", "--budget", "4e11", "--benchmark", "math,reward-bench", "--limit", "20")
COMMAND = [sys.executable, "-m", "harness", "run", *OPTIONS]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def scores(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.glob("arms/*/scores/*.json"))}


def training(folder: Path) -> list[Path]:
    arms = [file.parent.parent for file in folder.glob("arms/dpo-seed*/preferences/policy.jsonl")]
    return [arm for arm in arms if not (arm / "steps/policy.json").exists()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, testbed_model_dir) -> Path:
    """The folder of the run without Ray."""
    folder = tmp_path_factory.mktemp("plain")
    harness("run", *OPTIONS, "--name", "x", cwd=folder)
    return folder / "results/runs/x"


@pytest.fixture
def cluster(monkeypatch):
    """Three nodes on this machine; the second and third have one CPU each, the first none."""
    for name, value in ray_cluster.QUIET.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    found.workers = [found.add_node(num_cpus=1) for _ in range(2)]
    yield found
    found.shutdown()


@needs_ray
def test_a_node_dies_in_the_middle(cluster, plain, tmp_path):
    with open(tmp_path / "said", "wb") as said:
        run = subprocess.Popen(
            [*COMMAND, "--name", "x", "--ray", cluster.address], cwd=tmp_path, env=ENVIRONMENT, stdout=said, stderr=said
        )
    folder = tmp_path / "results/runs/x"
    while len(training(folder)) < 2:  # both nodes have work that is lost
        assert run.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.05)
    cluster.remove_node(cluster.workers[0], allow_graceful=False)
    assert run.wait(300) == 0, (tmp_path / "said").read_text()
    assert "its worker was lost" in (tmp_path / "said").read_text()
    assert scores(folder) == scores(plain) and len(scores(plain)) == 12
    table, expected = (json.loads((each / "table.json").read_text()) for each in (folder, plain))
    assert [row["cells"] for row in table["rows"]] == [row["cells"] for row in expected["rows"]]


@needs_ray
def test_on_this_machine(plain, tmp_path):
    ran = subprocess.run(
        [*COMMAND, "--name", "x", "--ray", "local"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert scores(tmp_path / "results/runs/x") == scores(plain)
    for part, said in (("training", "dpo seed 2 policy: train"), ("evaluation", "dpo seed 2 math: answer")):
        assert re.search(rf"^\({part} pid=\d+\) {said}", ran.stderr, re.M)  # progress of all workers comes here


@needs_ray
def test_a_mistake_is_one_line_and_ctrl_c_ends_all(tmp_path):
    command = [*COMMAND, "--ray", "local"]
    failing = [*command, "--name", "a", "--set", "dpo.learning_rate=1e30"]
    ran = subprocess.run(failing, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert ran.returncode == 2 and "Traceback" not in ran.stderr
    assert "error: dpo seed" in ran.stderr.splitlines()[-1] and "is not finite" in ran.stderr.splitlines()[-1]
    with open(tmp_path / "said", "wb") as said:
        run = subprocess.Popen(
            [*command, "--name", "b"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=said,
            stderr=said,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    while not training(tmp_path / "results/runs/b"):
        assert run.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    assert "stopped by SIGINT: finished work is kept" in (tmp_path / "said").read_text().splitlines()[-1]


@needs_ray
def test_what_is_no_cluster(tmp_path):
    with pytest.raises(UserError, match="no Ray cluster at '127.0.0.1:9' .*: give its address, or --ray local"):
        with ray_cluster._cluster("127.0.0.1:9"):
            pass


def test_ray_or_jobs(tmp_path):
    told = harness("run", *OPTIONS, "--ray", "local", "--jobs", "2", cwd=tmp_path, code=2)
    assert told.startswith("error: give --jobs or --ray, not both")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray(tmp_path, testbed_model_dir):
    told = harness("run", *OPTIONS, "--ray", "local", cwd=tmp_path, code=2)
    assert told.splitlines()[-1] == "error: --ray needs Ray, which is not installed here: pip install 'harness[ray]'"


def test_what_tasks_take(monkeypatch):
    of_two = Experiment(launcher="torchrun --nproc_per_node 2")
    assert ray_cluster.needs(Experiment()) == {"training": {"num_cpus": 1}, "evaluation": {"num_cpus": 1}}
    assert ray_cluster.needs(of_two) == {"training": {"num_cpus": 2}, "evaluation": {"num_cpus": 1}}
    monkeypatch.setattr(fingerprints, "of_device", lambda device: "cuda NVIDIA H100")
    monkeypatch.setattr(ray_cluster, "chosen", lambda experiment: "vllm")
    one, two, four = ({"num_cpus": 1, "num_gpus": gpus} for gpus in (1, 2, 4))
    assert ray_cluster.needs(of_two) == {"training": two, "evaluation": one}
    assert ray_cluster.needs(Experiment(tensor_parallel=4)) == {"training": four, "evaluation": four}
    served = Experiment(tensor_parallel=4, engine_url="http://127.0.0.1:8000/v1")
    assert ray_cluster.needs(served) == {"training": one, "evaluation": one}


def test_what_no_node_has_is_told(capsys):
    nodes = [{"Alive": True, "Resources": {"CPU": 1.0, "GPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 9.0}}]
    cluster = SimpleNamespace(nodes=lambda: nodes)
    ray_cluster._warn_of_small_nodes(
        cluster, {"training": {"num_cpus": 1, "num_gpus": 2}, "evaluation": {"num_cpus": 1}}
    )
    assert capsys.readouterr().err == ""
    ray_cluster._warn_of_small_nodes(
        cluster, {"training": {"num_cpus": 1, "num_gpus": 4}, "evaluation": {"num_cpus": 2}}
    )
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "no node of the cluster has 1 CPU and 4 GPU for training: waiting for one",
        "no node of the cluster has 2 CPU for evaluation: waiting for one",
    ]
