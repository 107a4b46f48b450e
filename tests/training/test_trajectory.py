"""One pinned training of 20 updates, which every equivalent setting reproduces (see trajectory.py)."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trajectory
from safetensors.torch import load_file
from trajectory import PINNED

from harness.budget import Ledger
from harness.engines.transformers import TransformersEngine
from harness.training.copies import snapshot


@pytest.fixture
def engine(tiny_model_dir):
    return TransformersEngine.load(tiny_model_dir, device="cpu")


@pytest.fixture(scope="module")
def by_hand(tiny_model_dir):
    """The history of the training that is written by hand."""
    return trajectory.by_hand(TransformersEngine.load(tiny_model_dir, device="cpu"))


@pytest.fixture(scope="module")
def undisturbed(tiny_model_dir, tmp_path_factory):
    """The history and the folder of a training that saves its state after every update."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return start(tiny_model_dir, folder, save_often=True), folder


def start(model, folder, **settings):
    """The history of a training in a process of its own, None when it was killed."""
    command = [sys.executable, trajectory.__file__, model, folder, json.dumps(settings)]
    path = os.pathsep.join([str(Path(trajectory.__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if settings.get("kill_after"):
        assert done.returncode == -9, done.stderr
        return None
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "history.json").read_text())


def losses(history):
    return [row["loss"] for row in history]


def check(history):
    assert len(history) == trajectory.UPDATES
    assert losses(history) == pytest.approx(PINNED, rel=1e-4)


def test_the_trajectory_by_hand(by_hand):
    check(by_hand)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"micro_batch_size": 1},
        {"micro_batch_size": 2},
        {"packs": False},
        {"packs": False, "pads": True},
        {"head": "read"},
        {"head": "whole"},
        {"gradient_checkpointing": True},
        {"packs": False, "micro_batch_size": 1, "gradient_checkpointing": True},
    ],
    ids=str,
)
def test_equivalent_settings_have_one_trajectory(settings, engine, by_hand, tmp_path):
    history = trajectory.run(engine, tmp_path, **settings)
    check(history)
    for name in ("grad_norm", "learning_rate"):
        assert [row[name] for row in history] == pytest.approx([row[name] for row in by_hand], rel=1e-3), name


def test_with_a_cached_reference(engine, tmp_path):
    first = trajectory.run(engine, tmp_path / "a", cache=tmp_path / "reference")
    assert len(list((tmp_path / "reference").iterdir())) == 1
    assert losses(trajectory.run(engine, tmp_path / "b", cache=tmp_path / "reference")) == losses(first)
    check(first)


def test_with_two_processes(engine, undisturbed, tmp_path):
    """Started as --launcher starts them: one trajectory, one ledger, one model in the end."""
    one, two = Ledger(), Ledger()
    trajectory.run(engine, tmp_path / "one", ledger=one, snapshots=[7])
    history = trajectory.run(engine, tmp_path, ledger=two, snapshots=[7], launcher="torchrun --nproc_per_node 2")
    check(history)
    assert [list(row) for row in history] == [list(row) for row in undisturbed[0]]
    assert replace(two.roles["train"], seconds=0) == replace(one.roles["train"], seconds=0)
    pairs = [(undisturbed[1] / "model", tmp_path / "model")]
    pairs.append((snapshot(tmp_path / "one" / "state", 7), snapshot(tmp_path / "state", 7)))
    for folders in pairs:
        expected, weights = (load_file(folder / "model.safetensors") for folder in folders)
        assert weights.keys() == expected.keys()
        for name, values in weights.items():
            assert torch.allclose(values, expected[name], rtol=0, atol=1e-4), name


@pytest.mark.parametrize(("update", "torn"), [(1, False), (13, True)])
def test_killed_and_resumed(tiny_model_dir, undisturbed, tmp_path, update, torn):
    """The history and the model are those of the undisturbed training, in every byte; half a state is not used."""
    expected, folder = undisturbed
    check(expected)
    start(tiny_model_dir, tmp_path, kill_after=update, save_often=True)
    assert not (tmp_path / "model").exists()
    states = [path.name for path in (tmp_path / "state").iterdir()]
    assert states == ([f"checkpoint-{update - 1}"] if update > 1 else [])
    if torn:
        half = tmp_path / "state" / f"checkpoint-{update}"
        half.mkdir()
        (half / "model.safetensors").write_bytes(b"half")
    history = start(tiny_model_dir, tmp_path)
    assert losses(history) == losses(expected)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "model" / name).read_bytes() == (folder / "model" / name).read_bytes()
