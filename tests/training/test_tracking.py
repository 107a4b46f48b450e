"""Metrics of training, scores and spending in a tracker: as in the run folder, in its files, without a network."""

import json
import os
import socket
import sqlite3
from importlib.util import find_spec
from unittest import mock

import pytest
from command_line import harness

from harness import cli
from harness.experiment.options import TRACKERS
from harness.files import store
from harness.files.folders import RunFolder
from harness.training import tracking

KEY = "5ec5e7" * 7  # as long as a key of wandb
RUNS = ("sso seed 0 generator", "sso seed 0 policy")


def _values_of_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for place in folder.iterdir():
        events = EventAccumulator(str(place)).Reload()
        for name in events.Tags()["scalars"]:
            found[place.name, name] = [(event.step, event.value) for event in events.Scalars(name)]
    return found


def _values_of_trackio(folder):
    (file,) = folder.glob("*.db")
    found = {}
    for run, step, row in sqlite3.connect(file).execute("select run_name, step, metrics from metrics order by step"):
        values = json.loads(row)
        for name, value in values.items():
            found.setdefault((run, name), []).append((values.get("train/global_step", step), value))
    return found


def _values_of_wandb(folder):
    from wandb.proto import wandb_internal_pb2

    found = {}
    for file in folder.glob("wandb/offline-run-*/*.wandb"):
        run = ""
        for content in _records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            run = record.run.display_name or run
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            values = {name: json.loads(value) for name, value in items.items()}
            for name, value in values.items():
                step = values.get("train/global_step", values["_step"])
                found.setdefault((run, name), []).append((step, value))
    return found


def _records(content, block=1 << 15, header=7):
    """The records of a log in LevelDB's format, after the 7 bytes of wandb's own header."""
    place, record = header, b""
    while place + header <= len(content):
        if block - place % block < header:  # the end of a block is empty
            place += block - place % block
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + header : place + header + size]
        place += header + size
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def _values_of_mlflow(folder):
    from mlflow import MlflowClient

    with mock.patch.dict(os.environ, MLFLOW_ALLOW_FILE_STORE="true"):
        client = MlflowClient(folder.as_uri())
        (experiment,) = client.search_experiments(filter_string="name = 'experiment'")
        found = {}
        for run in client.search_runs([experiment.experiment_id]):
            for name in run.data.metrics:
                history = client.get_metric_history(run.info.run_id, name)
                found[run.info.run_name, name] = [(each.step, each.value) for each in history]
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
    small += ("--checkpoints", "0.9")
    table = harness(*small, "--report-to", tracker, cwd=tmp_path)
    run = tmp_path / "results" / "runs" / "experiment"
    values = globals()[f"_values_of_{tracker}"](run / "tracking" / tracker)
    loss = "loss" if tracker == "mlflow" else "train/loss"
    assert sorted(name for name, metric in values if metric == loss) == sorted(RUNS)
    arm = RunFolder(run).arm("sso", 0)
    for name in RUNS:
        losses, history = values[name, loss], store.read_jsonl(arm.history(name.split()[-1]))
        assert [step for step, _ in losses] == [row["step"] for row in history]
        assert [loss for _, loss in losses] == pytest.approx([row["loss"] for row in history], rel=1e-6)
    along = arm.along(0.9)
    ledgers = [along.facts("checkpoint")["ledger"], store.read_json(arm.ledger)]
    scores = [store.read_json(folder.score("math"))["value"] for folder in (along, arm)]
    for metric, expected in (
        ("score/math", scores),
        ("ledger/flops", [each["total"]["flops"] for each in ledgers]),
        ("ledger/generate_flops", [each["roles"]["generate"]["flops"] for each in ledgers]),
        ("ledger/trained_tokens", [each["total"]["trained_tokens"] for each in ledgers]),
    ):
        found = values["sso seed 0 scores", metric]
        assert [step for step, _ in found] == [each["total"]["updates"] for each in ledgers]
        assert [value for _, value in found] == pytest.approx(expected, rel=1e-6), metric
    assert [step for step, _ in values["base seed 0 scores", "score/math"]] == [0]
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
    told = harness("run", "--report-to", "mlflow", cwd=tmp_path, code=2)
    assert "mlflow is not installed: pip install 'harness[mlflow]', or leave out --report-to" in told
    assert cli.RESULTS.name not in [file.name for file in tmp_path.iterdir()]
