"""Metrics of training in a tracker: as they are in the history, in files of the run folder, without a network."""

import json
import re
import socket
import sqlite3
from importlib.util import find_spec

import pytest
from command_line import harness

from harness import cli
from harness.experiment.options import TRACKERS
from harness.files import store
from harness.training import tracking

KEY = "5ec5e7" * 7  # as long as a key of wandb
RUNS = ("sso seed 0 generator", "sso seed 0 policy")


def _losses_of_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for place in folder.iterdir():
        events = EventAccumulator(str(place)).Reload()
        found[place.name] = [(event.step, event.value) for event in events.Scalars("train/loss")]
    return found


def _losses_of_trackio(folder):
    (file,) = folder.glob("*.db")
    found = {}
    for name, row in sqlite3.connect(file).execute("select run_name, metrics from metrics order by step"):
        values = json.loads(row)
        if "train/loss" in values:
            found.setdefault(name, []).append((values["train/global_step"], values["train/loss"]))
    return found


def _losses_of_wandb(folder):
    found = {}
    for file in folder.glob("wandb/offline-run-*/*.wandb"):
        content = file.read_bytes()  # protobuf: a value's text follows its name, here and in a summary
        losses = dict.fromkeys(re.findall(rb"train/loss\x82\x01.([-+.e0-9]+)", content, re.DOTALL))
        found[re.search(rb"sso seed 0 [a-z]+(?=j)", content)[0].decode()] = list(enumerate(map(float, losses), 1))
    return found


@pytest.mark.parametrize("tracker", TRACKERS)
def test_metrics_are_tracked(tracker, testbed_model_dir, tmp_path, monkeypatch):
    if find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed")
    connect = socket.socket.connect

    def connected(own, address):
        assert own.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost", "::1"), address
        return connect(own, address)

    monkeypatch.setattr(socket.socket, "connect", connected)
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, KEY)
    small = ("run", "--method", "sso", "--benchmark", "math", "--limit", 2, "--budget", "6e10", "--json")
    table = harness(*small, "--report-to", tracker, cwd=tmp_path)
    run = tmp_path / "results" / "runs" / "experiment"
    losses = globals()[f"_losses_of_{tracker}"](run / "tracking" / tracker)
    assert sorted(losses) == sorted(RUNS)
    for name in RUNS:
        history = store.read_jsonl(run / "arms" / "sso-seed0" / "training" / f"{name.split()[-1]}.jsonl")
        assert [step for step, _ in losses[name]] == [row["step"] for row in history]
        assert [loss for _, loss in losses[name]] == pytest.approx([row["loss"] for row in history], rel=1e-6)
    assert not [file for file in run.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    again, table = (json.loads(each) for each in (harness(*small, cwd=tmp_path), table))
    assert table.pop("command") == f"{again.pop('command')} --report-to {tracker}"
    assert again == table  # without a tracker, all steps are those that were done


def test_what_is_refused(tmp_path, monkeypatch):
    told = harness("run", "--report-to", "tensorbord", cwd=tmp_path, code=2)
    assert "unknown report_to 'tensorbord': did you mean 'tensorboard'?" in told
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    told = harness("run", "--report-to", "wandb", cwd=tmp_path, code=2)
    assert "wandb is not installed: pip install wandb, or leave out --report-to" in told
    assert cli.RESULTS.name not in [file.name for file in tmp_path.iterdir()]
