"""Snapshots of a training: the weights after an update, of a training that goes on as it would without."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import trajectory
from accelerate import DistributedType
from safetensors.torch import load_file
from transformers import TrainerCallback

from harness.engines.transformers import TransformersEngine
from harness.training import state
from harness.training.copies import save_trained, snapshot

UPDATE, UPDATES = 3, 5


class Look(TrainerCallback):
    """Keeps the weights after an update, and counts updates."""

    def __init__(self, update=UPDATE):
        self.update, self.updates, self.weights = update, 0, {}

    def on_step_end(self, args, state, control, model=None, **_):
        self.updates += 1
        if state.global_step == self.update:
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}


class StopAfter(TrainerCallback):
    """Ends a training in the middle of an update, as an interruption does."""

    def __init__(self, update):
        self.update = update

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.update:
            raise InterruptedError


@pytest.fixture
def engine(tiny_model_dir):
    return TransformersEngine.load(tiny_model_dir, device="cpu")


def weights(folder):
    return load_file(folder / "model.safetensors")


def merged(seen, rank, alpha):
    """Weights with adapters as one model, W + (alpha / rank) B A (Hu et al. 2021, section 4.1)."""
    found = {}
    for name, value in seen.items():
        name = name.removeprefix("base_model.model.")
        if name.endswith(".base_layer.weight"):
            place = "base_model.model." + name.removesuffix(".base_layer.weight")
            update = seen[f"{place}.lora_B.default.weight"] @ seen[f"{place}.lora_A.default.weight"]
            found[name.replace(".base_layer", "")] = value + alpha / rank * update
        elif "lora_" not in name:
            found[name] = value
    return found


@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}], ids=["all-weights", "lora"])
def test_a_snapshot_is_the_model_after_its_update(options, engine, tmp_path):
    look, before = Look(), engine.weights_hash
    trajectory.run(engine, tmp_path / "a", snapshots=[UPDATE], callbacks=[look], updates=UPDATES, **options)
    saved = snapshot(tmp_path / "a" / "state", UPDATE)
    expected = merged(look.weights, 4, trajectory.OPTIONS.lora_alpha) if options else look.weights
    found = weights(saved)
    assert found.keys() <= expected.keys()  # a tied head is stored once
    for name, value in found.items():
        assert torch.allclose(value, expected[name], rtol=0, atol=1e-7 if options else 0), name
    assert (
        not torch.equal(found["model.norm.weight"], weights(tmp_path / "a" / "model")["model.norm.weight"]) or options
    )
    trajectory.run(engine, tmp_path / "b", updates=UPDATES, **options)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "a" / "model" / name).read_bytes() == (tmp_path / "b" / "model" / name).read_bytes()
    configs = [json.loads((each / "config.json").read_text()) for each in (saved, tmp_path / "a" / "model")]
    assert configs[0] | {"use_cache": False} == configs[1]  # training switches the cache off
    assert engine.weights_hash == before
    TransformersEngine.load(saved, device="cpu")


def test_snapshots_survive_an_interruption(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "SHORTEST", 0.0)
    monkeypatch.setattr(state, "SHARE", math.inf)  # a state after every update
    trajectory.run(engine, tmp_path / "a", snapshots=[1, UPDATE], updates=UPDATES)
    for more, updates in (([], 1), ([1], UPDATES)):  # a snapshot that is asked for afterwards needs a new training
        folder = tmp_path / str(updates)
        with pytest.raises(InterruptedError):
            trajectory.run(engine, folder, snapshots=[UPDATE], callbacks=[StopAfter(4)], updates=UPDATES)
        look = Look()
        trajectory.run(engine, folder, snapshots=[*more, UPDATE], callbacks=[look], updates=UPDATES)
        assert look.updates == updates
        for place in ("model", *(f"state/update-{update}" for update in (*more, UPDATE))):
            name = f"{place}/model.safetensors"
            assert (folder / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), name


@pytest.mark.parametrize("first", [True, False])
def test_one_process_writes_the_model(tiny_model_dir, tmp_path, first):
    """Several processes that each replaced the folder once left it without weights."""
    engine = TransformersEngine.load(tiny_model_dir, device="cpu")
    accelerator = SimpleNamespace(
        distributed_type=DistributedType.MULTI_CPU, is_main_process=first, wait_for_everyone=lambda: None
    )
    save_trained(SimpleNamespace(accelerator=accelerator, model=engine.model), engine, None, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").exists() == first
