"""Processes of a launcher: what is asked for, what came, and how they end. (A whole training: test_trajectory.py.)"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from paths import DOCS, HELPERS

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.runs.inputs import check_inputs
from harness.runs.processes import check_launch_command, launch_dependencies
from harness.training.examples import split_batch
from harness.training.processes import start
from harness.training.processes.command import LaunchCommand, parse

TWO = "torchrun --nproc_per_node 2"
CONFIGS = DOCS / "launch"
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.fixture
def small(monkeypatch):
    """Processes that do the work of small_worker.py."""
    monkeypatch.setattr(start, "WORKER", "small_worker")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")]))


def ended(folder: Path) -> bool:
    """Whether no process of a job is left."""
    pids = [int(file.read_text()) for file in folder.glob("pid-*")]
    assert pids
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        if not left:
            return True
        time.sleep(0.05)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    return False


@pytest.mark.parametrize(
    ("text", "processes", "strategy"),
    [
        (TWO, 2, None),
        ("torchrun --standalone --nproc-per-node=4 --max-restarts 1", 4, None),
        ("accelerate launch --num_processes 2 --cpu", 2, None),
        ("accelerate launch --multi_gpu --num_processes 2", 2, "MULTI_GPU"),
        (f"accelerate launch --config_file {CONFIGS / 'ddp.yaml'}", 8, "MULTI_GPU"),
        (f"accelerate launch --config_file {CONFIGS / 'fsdp2.yaml'}", 8, "FSDP"),
        (f"accelerate launch --config_file {CONFIGS / 'zero2.yaml'} --num_processes 2", 2, "DEEPSPEED"),
        (f"accelerate launch --config_file {CONFIGS / 'zero3.yaml'}", 8, "DEEPSPEED"),
    ],
)
def test_what_a_launcher_asks_for(text, processes, strategy):
    launcher = parse(text)
    assert (launcher.processes, launcher.strategy) == (processes, strategy)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mpirun -n 2", "is not known: give --launcher 'torchrun --nproc_per_node 2' or"),
        ("accelerate test", "is not known"),
        ("torchrun 'one", "No closing quotation"),
        ("torchrun --nproc_per_node two", "Unsupported nproc_per_node value: two"),
        ("torchrun --no-such-option", "unrecognized arguments: --no-such-option"),
        ("torchrun --nproc_per_node 2 other.py", "names a script to run"),
        ("torchrun --nnodes 2 --nproc_per_node 2", "runs on one machine"),
        ("accelerate launch --config_file absent.yaml", "absent.yaml is not a configuration of accelerate"),
    ],
)
def test_launchers_that_are_refused(text, told):
    with pytest.raises(UserError, match=told):
        parse(text)


def test_results_depend_on_the_command_and_its_configuration(tmp_path):
    file = tmp_path / "config.yaml"
    text = (CONFIGS / "ddp.yaml").read_text()
    found = []
    for option in ("--config_file ", "--config_file="):
        for content in (text, text.replace("bf16", "fp16")):
            file.write_text(content)
            found.append(launch_dependencies(Experiment(launcher=f"accelerate launch {option}{file}")))
    assert found[0] != found[1] and found[2] != found[3]
    assert found[0]["command"] == found[1]["command"]
    assert launch_dependencies(Experiment()) is None


def test_a_run_can_be_verified_where_its_launcher_can_not_be_had():
    assert launch_dependencies(Experiment(gpus=1000)) == {"command": "torchrun --nproc_per_node 1000", "files": {}}


def test_one_way_to_start_processes():
    with pytest.raises(UserError, match="--gpus or --launcher, not both"):
        Experiment(gpus=2, launcher=TWO)


@NO_GPU
def test_gpus_need_gpus():
    with pytest.raises(UserError, match="0 CUDA devices.* --launcher 'torchrun --nproc_per_node 2'"):
        check_inputs(Experiment(methods=("dpo",), gpus=2))


def test_batches_that_processes_can_not_share_are_told_before_anything_runs():
    check_launch_command(Experiment(methods=("dpo",), launcher=TWO))
    with pytest.raises(UserError, match="batch_size 16 cannot be divided over 3 processes"):
        check_inputs(Experiment(methods=("dpo",), launcher="torchrun --nproc_per_node 3"))


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "split"),
    [(16, 16, 1, (16, 1)), (16, 16, 2, (8, 1)), (16, 4, 2, (4, 2)), (12, 8, 2, (6, 1)), (4, 16, 4, (1, 1))],
)
def test_a_batch_is_the_same_however_it_is_split(batch, micro, processes, split):
    assert split_batch(batch, micro, processes) == split
    assert split[0] * split[1] * processes == batch


def test_micro_batches_that_do_not_add_up():
    with pytest.raises(UserError, match="batch_size 16 is not a multiple of micro_batch_size 6 times 2 processes"):
        split_batch(16, 6, 2)


@pytest.mark.parametrize(
    ("processes", "strategy", "told"),
    [
        (2, "FSDP", None),
        (1, None, "was asked for 2 processes but started 1"),
        (2, "MULTI_CPU", "was asked for FSDP but started MULTI_CPU"),
    ],
)
def test_what_came(processes, strategy, told):
    launcher = LaunchCommand("accelerate launch", (), "", 2, "FSDP")
    if told is None:
        launcher.check_honoured(processes, strategy)
    else:
        with pytest.raises(UserError, match=f"{told}.* --launcher 'torchrun --nproc_per_node 2'"):
            launcher.check_honoured(processes, strategy)


def test_ddp_on_the_cpu_is_what_was_asked_for_with_device_cpu():
    assert parse("accelerate launch --multi_gpu --num_processes 2", "cpu").strategy == "MULTI_CPU"


def test_accelerate_with_cpu_starts_one_process(tmp_path):
    """With the real worker, which looks before it loads anything."""
    launcher = parse("accelerate launch --num_processes 2 --cpu")
    with pytest.raises(UserError, match="was asked for 2 processes but started 1: .*torchrun"):
        start.run(launcher, {"launcher": asdict(launcher)}, tmp_path / "processes")


@NO_GPU
def test_fsdp_without_gpus_is_ddp(small, tmp_path):
    launcher = parse(f"accelerate launch --config_file {CONFIGS / 'fsdp2.yaml'} --num_processes 2")
    with pytest.raises(UserError, match="was asked for FSDP but started MULTI_CPU"):
        start.run(launcher, {"folder": str(tmp_path), "do": "wait", "asked": asdict(launcher)}, tmp_path / "processes")
    assert ended(tmp_path)


def test_progress_and_outcome_come_back(small, tmp_path):
    counts = []
    launcher = replace(parse(TWO), options=("--nproc_per_node", "1"))
    outcome = start.run(launcher, {"folder": str(tmp_path), "do": "finish"}, tmp_path / "processes", counts.append)
    assert outcome == {"updates": 2, "history": [{"loss": 0.5}]}
    assert sum(counts) == 12


@pytest.mark.parametrize(
    ("do", "kind", "told"),
    [
        ("die", "UserError", "process 1 of the training was ended by SIGKILL .*ends with 'the last words of .* 1'"),
        ("diverge", "TrainingDiverged", "^the loss is not finite$"),
    ],
)
def test_one_process_fails_and_all_end(small, tmp_path, do, kind, told):
    with pytest.raises(UserError, match=told) as raised:
        start.run(parse(TWO), {"folder": str(tmp_path), "do": do}, tmp_path / "processes")
    assert type(raised.value).__name__ == kind
    assert ended(tmp_path)


def test_all_processes_end_with_an_interruption(small, tmp_path):
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start.run(parse(TWO), {"folder": str(tmp_path), "do": "wait"}, tmp_path / "processes", interrupt)
    assert ended(tmp_path)


def test_a_process_ends_when_the_one_that_started_it_was_killed(small, tmp_path):
    pipe, job = tmp_path / "pipe", tmp_path / "job.json"
    os.mkfifo(pipe)
    job.write_text(f'{{"pipe": "{pipe}", "folder": "{tmp_path}", "do": "wait"}}')
    reader = os.open(pipe, os.O_RDWR)
    process = subprocess.Popen([sys.executable, "-m", "small_worker", job])
    while not list(tmp_path.glob("pid-*")):
        assert process.poll() is None
        time.sleep(0.05)
    os.close(reader)
    assert process.wait(10) == 1
