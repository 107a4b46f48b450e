"""Signals, dead processes and full disks: one clear line, nothing left running, and the run goes on."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import serving
from loopback_judge import Handler
from paths import HELPERS
from write_faults import content

from harness import cli
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import disk as faults
from harness.files import store
from harness.runs import run as runner

SCRIPT = HELPERS / "counted_run.py"  # writes down, as it goes, what the run does
SMALL = ("--method", "sso,dpo", "--budget", "1e11", "--limit", "10", "--name", "x")
WORKERS = ("--jobs", "2", "--benchmark", "math", "--limit", "4")


class Run:
    """A run in processes of its own, in a session of its own; what it says is kept."""

    def __init__(self, folder: Path, *options: str):
        folder.mkdir()
        self.folder, self.options = folder, options
        self.root, self._count = folder / "results/runs/x", folder / "count.jsonl"
        self._said = folder / "said.txt"

    def __enter__(self) -> "Run":
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"}
        command = [sys.executable, str(SCRIPT), str(self._count), "run", *SMALL, *self.options]
        self._count.unlink(missing_ok=True)
        with open(self._said, "wb") as said:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdout=said,
                stderr=said,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs these tests may ignore it
            )
        return self

    def __exit__(self, *_error) -> None:
        self.process.wait()
        deadline = time.monotonic() + 10
        while self.others() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not self.others()

    def others(self) -> list[int]:
        """Processes of the session beside its first, that run."""
        listed = subprocess.run(["ps", "-s", str(self.process.pid), "-o", "pid=,stat="], capture_output=True, text=True)
        rows = [line.split() for line in listed.stdout.splitlines()]
        return [int(pid) for pid, stat in rows if int(pid) != self.process.pid and not stat.startswith("Z")]

    def wait_for(self, reached: Callable[["Run"], bool]) -> None:
        while not reached(self):
            assert self.process.poll() is None, self.said()
            time.sleep(0.01)

    def during(self, phase: str) -> None:
        """Waits until the run is in the middle of a phase."""
        self.wait_for(lambda run: run._count.exists() and phase in run._phases())

    def _phases(self) -> set[str]:
        return {
            json.loads(line)["phase"] for line in self._count.read_text().splitlines(keepends=True) if line[-1] == "\n"
        }

    def said(self) -> str:
        return self._said.read_text()


def test_a_stopped_run_says_how_it_goes_on_and_ends_with_the_same_bytes(tmp_path, testbed_model_dir):
    """Ctrl-C twice while data are made, SIGTERM in training, Ctrl-C while a slow judge is asked."""
    from harness.testbed import prompts, suites

    suites.write_suites(tmp_path / "suites")
    store.write_jsonl(tmp_path / "prompts.jsonl", map(vars, prompts.prompts()[:500]))
    store.write_jsonl(tmp_path / "pairs.jsonl", map(vars, prompts.preferences()[:500]))
    with serving(Handler) as judge:
        options = (
            *("--data-dir", str(tmp_path / "suites"), "--prompts", str(tmp_path / "prompts.jsonl")),
            *("--preferences", str(tmp_path / "pairs.jsonl"), "--judge-model", "loopback"),
            *("--judge-url", f"{judge}/v1", "--judge-concurrency", "1"),
        )
        with Run(tmp_path / "a", *options) as undisturbed:
            assert undisturbed.process.wait() == 0, undisturbed.said()
        run = Run(tmp_path / "b", *options, "--judge-rate", "120")
        for phase, number, times in (("judge", 2, 1), ("generate", 2, 2), ("train", 15, 1)):
            with run:
                run.during(phase)
                for _ in range(times):
                    os.killpg(run.process.pid, number)
                    time.sleep(0.02)
                assert run.process.wait() == 128 + number
                name = signal.Signals(number).name
                last = run.said().splitlines()[-1]
                assert last.startswith(
                    f"stopped by {name}: finished work is kept in results/runs/x, and the same command"
                )
                assert "Traceback" not in run.said()
            with store.only_writer(run.root):  # it is free
                assert not list(run.root.rglob("*.tmp"))
        run.options = options
        with run:
            assert run.process.wait() == 0, run.said()
        assert content(run.root) == content(undisturbed.root)


# Workers


def test_a_worker_that_was_killed_is_named_and_the_others_end(tmp_path, testbed_model_dir):
    with Run(tmp_path / "a", *WORKERS) as run:
        run.wait_for(lambda run: list(run.root.glob("arms/sso-seed0/preferences/generator.jsonl")))
        victim = run.others()[-1]
        os.kill(victim, signal.SIGKILL)
        assert run.process.wait() == 2
    last = run.said().splitlines()[-1]
    assert (
        f"its process {victim} was ended by SIGKILL (out of memory? fewer --jobs need less); the same command" in last
    )
    assert last.startswith(("error: sso seed 0: ", "error: dpo seed 0: ", "error: base seed 0: "))
    assert "Traceback" not in run.said()
    with store.only_writer(run.root):
        pass


def test_a_mistake_in_a_worker_is_one_line(tmp_path, testbed_model_dir):
    with Run(tmp_path / "a", *WORKERS, "--method", "dpo", "--set", "dpo.learning_rate=1e30") as run:
        assert run.process.wait() == 2
    assert "Traceback" not in run.said()
    assert run.said().splitlines()[-1].startswith("error: dpo seed 0: the gradient norm is not finite")


def test_ctrl_c_ends_workers_too(tmp_path, testbed_model_dir):
    with Run(tmp_path / "a", *WORKERS, "--method", "dpo") as run:
        run.wait_for(lambda run: run.root.joinpath("arms/dpo-seed0/preferences/policy.jsonl").exists())
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.process.wait() == 130
    assert run.said().splitlines()[-1].startswith("stopped by SIGINT: finished work is kept in results/runs/x")
    assert not any(sign in run.said() for sign in ("Traceback", "Exception ignored", "Warning"))


# A folder in use


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_folder_in_use_says_by_whom(tmp_path, testbed_model_dir, jobs):
    with store.only_writer(tmp_path / "runs" / "experiment"):
        with pytest.raises(UserError, match=f"runs/experiment is in use by process {os.getpid()} on .*, since 20"):
            runner.run(Experiment(limit=1), tmp_path, jobs)
    assert not (tmp_path / "runs/experiment/experiment.yaml").exists()


def test_eval_in_a_folder_in_use_says_by_whom(tmp_path, testbed_model_dir, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["harness", "eval", "testbed", "--limit", "1", "--results", str(tmp_path)])
    with store.only_writer(tmp_path / "runs" / "eval-testbed"), pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and f"in use by process {os.getpid()}" in capsys.readouterr().err


# The disk


def failing(monkeypatch, error):
    def table(*_):
        raise error

    monkeypatch.setattr("harness.commands.tables.write_table", table)
    monkeypatch.setattr(sys, "argv", ["harness", "table", "somewhere"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOTDIR, errno.EMFILE])
def test_an_error_of_the_disk_is_one_line(monkeypatch, capsys, number):
    failing(monkeypatch, OSError(number, os.strerror(number), "runs/x/table.md"))
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.startswith(f"error: runs/x/table.md: {os.strerror(number)}: ")
    assert told.count("\n") == 1 and "the same command" in told


def test_a_mistake_in_the_program_is_not_taken_for_it(monkeypatch):
    failing(monkeypatch, OSError(errno.EBADF, os.strerror(errno.EBADF)))
    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.main()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EIO, "Input/output error"), "a.json: Input/output error: check the disk"),
        (Exception("No space left on device (os error 28)"), "a.json: No space left on device: make room"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "a.json cannot be written: is"),
    ],
)
def test_errors_of_other_writers_name_the_file(tmp_path, error, told):
    with pytest.raises(UserError, match=told), faults.writing(tmp_path / "a.json"):
        raise error


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    for text in ("old", "new"):
        with faults.whole(path) as folder:
            folder.mkdir()
            (folder / text).write_text(text)
        assert [each.name for each in path.iterdir()] == [text]
    with pytest.raises(KeyError), faults.whole(path) as folder:
        folder.mkdir()
        raise KeyError
    assert [each.name for each in tmp_path.iterdir()] == ["model"] and (path / "new").exists()


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    (tmp_path / "kept").write_text("kept")
    with pytest.raises(UserError, match=f"{tmp_path}: Is a directory: name a file"):
        store.write_text(tmp_path, "text")
    assert (tmp_path / "kept").read_text() == "kept" and not list(tmp_path.parent.glob(".*.tmp"))


def test_what_a_killed_writer_left_of_a_folder_is_removed(tmp_path):
    (tmp_path / "checkpoints" / ".policy.77.tmp").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".policy.77.tmp" / "model.safetensors").write_text("half")
    with store.only_writer(tmp_path):
        assert not list((tmp_path / "checkpoints").iterdir())
