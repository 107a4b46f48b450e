"""What an experiment will take: formulas by hand, and predictions next to measured runs."""

import json
from dataclasses import replace
from math import exp
from pathlib import Path

import pytest
from command_line import harness
from paths import ROOT

from harness.commands.estimate import _time
from harness.errors import UserError
from harness.experiment import configuration
from harness.experiment.options import Experiment
from harness.files.typed import build
from harness.runs import cost
from harness.runs.answer_lengths import MeanLengths
from harness.runs.device_speed import ModelSizes, Speed, of_gpu
from harness.runs.machine_speed import _pass_and_token

SMALL = ModelSizes(parameters=10**9, layers=10, hidden=1000, inner=4000, kv_bytes=40_000)


def test_a_gpu_s_speed_by_hand():
    """One billion weights of 2 bytes and 100 sequences of 500 tokens are 4e9 bytes, read at 60 % of the bandwidth."""
    speed = of_gpu("h100", SMALL, batch=100, context=500)
    assert speed.token == pytest.approx((2e9 + 100 * 500 * 40_000) / (0.6 * 3.35e12) / 100)
    assert (speed.train, speed.read) == pytest.approx((0.4 * 989e12, 0.5 * 989e12))
    crowded = of_gpu("h100", SMALL, batch=100_000, context=0)  # bound by arithmetic: 2 FLOPs a weight and token
    assert crowded.token == pytest.approx(2e9 / (0.5 * 989e12))
    with pytest.raises(UserError, match="GPU 'h1000'.*h100"):
        of_gpu("h1000", SMALL, 1, 1)


def test_seconds_by_hand():
    speed = Speed("hand", train=6e12, read=2e12, token=0.001)
    assert speed.seconds(10**9, read=5000, sampled=300, trained=1000) == pytest.approx(5 + 0.3 + 1)
    passing = Speed("hand", train=6e12, read=2e12, token=0.001, step=0.02)
    assert passing.seconds(10**9, sampled=300, passes=50) == pytest.approx(0.3 + 1)


def test_a_pass_and_a_token_by_hand():
    """Ten passes of one completion in 1 s, and of four (31 tokens) in 2.05 s: 50 ms a pass, and 50 ms a token."""
    step, token = _pass_and_token((1.0, 10, 10), (2.05, 10, 31))
    assert (step, token) == pytest.approx((0.05, 0.05))
    assert _pass_and_token((1.0, 10, 10), (0.9, 10, 31)) == (0.1, 0.0)  # noise
    assert _pass_and_token((1.0, 10, 10), (1.0, 10, 10)) == (0.1, 0.0)  # --batch-size 1


def test_the_estimate_of_a_preset_adds_up():
    chosen = configuration.load(Path("llama3-8b-instruct")) | {"judge_model": "any", "judge_price": "10,30"}
    experiment = build(Experiment, chosen, "option")
    planned = cost.cost(experiment, "h100", 8)
    found = planned["cost"]
    assert found["gpu_hours"] == pytest.approx(sum(found["hours"].values())) == pytest.approx(found["days"] * 24 * 8)
    trained = sum(stage["trained_tokens"] for method in planned["methods"].values() for stage in method["stages"])
    assert found["hours"]["train"] == pytest.approx(3 * 6 * 8030261248 * trained / (0.4 * 989e12) / 3600)
    assert found["judge"]["calls"] == 3 * 6 * (160 + 805)  # seeds, base and five methods, MT-Bench and AlpacaEval
    usd = 3 * 6 * (160 * (1072 * 10 + 188 * 30) + 805 * (1250 * 10 + 1 * 30)) / 1e6
    assert found["judge"]["usd"] == pytest.approx(usd)
    stages = 3 * (2 + 1 + 1 + 1 + 3)  # sso has two, self-rewarding three
    assert found["disk"]["checkpoints_gib"] == pytest.approx(stages * 4 * 8030261248 / 2**30)
    along = cost.cost(replace(experiment, checkpoints=(0.5, 0.75, 1.0)), "h100", 8)["cost"]  # of five trained methods
    assert along["judge"]["calls"] == 3 * (6 + 2 * 5) * (160 + 805)
    assert along["hours"]["score"] == pytest.approx(found["hours"]["score"] * (6 + 2 * 5) / 6)
    assert along["disk"]["checkpoints_gib"] == pytest.approx((stages + 3 * 2 * 5) * 4 * 8030261248 / 2**30)
    states = 16 * 8030261248 / 8 + 2 * 8030261248
    assert states / 2**30 < found["memory"]["training_gib"] < 1.5 * states / 2**30 and found["memory"]["fits"]
    alone = cost.cost(experiment, "h100", 1)["cost"]["memory"]
    assert not alone["fits"]
    assert list(alone["remedies"]) == ["adapters (--set METHOD.lora_rank=16)", "2 GPUs (--gpus 2)"]


def test_completions_that_do_not_end_cost_queries(testbed_model_dir):
    """Of completions of 100 tokens on average, 64 hold 1 - exp(-0.64) = 47 %: most of SSO's queries are in vain. The
    pairs of DPO are what they were."""
    experiment = Experiment(methods=("sso", "dpo"), budget="1e12")
    planned = cost.planned_run(experiment)
    assert cost._expected(experiment, planned, MeanLengths({}, None)) is planned
    expected = cost._expected(experiment, planned, MeanLengths({}, 100.0))
    assert expected["methods"]["dpo"] == planned["methods"]["dpo"]
    before, after = (plan["methods"]["sso"]["stages"][1] for plan in (planned, expected))
    share = 1 - exp(-0.64)
    assert before["examples"] / before["queries"] == pytest.approx(0.95, rel=0.05)
    assert after["examples"] / after["queries"] == pytest.approx(0.95 * share**2, rel=0.05)
    assert after["sampled_tokens"] / after["queries"] == pytest.approx(2 * 100 * share, rel=0.05)


def test_adapters_of_a_7b_fit_one_gpu():
    """The weights that generate and the copy below the adapters; 4 bytes a parameter while these are merged."""
    values = configuration.load(Path("qwen2-7b-instruct")) | {"methods": ["dpo"], "options": {"dpo": {"lora_rank": 16}}}
    memory = cost.cost(build(Experiment, values, "option"), "h100", 1)["cost"]["memory"]
    assert memory["fits"] and memory["remedies"] == {}
    assert (2 + 2) * 7615616512 / 2**30 < memory["training_gib"] <= 1.02 * (2 + 4) * 7615616512 / 2**30


@pytest.mark.parametrize(
    ("hours", "told"),
    [(1e-7, "less than 1 s"), (0.005, "18 s"), (0.5, "30 min"), (1.6, "96 min"), (16.2, "16 hours"), (240, "10 days")],
)
def test_times_for_people(hours, told):
    assert _time(hours) == told


KEPT = ROOT / "results/testbed-7"  # mean seconds of an arm, five seeds on one core
METHODS = ("sso", "sso-v1", "pbaa", "dpo", "ipo", "self-rewarding", "sft")
# Of results/testbed-7-12, which ran on the same machine an hour later.
SPEED = Speed("testbed-12", train=37.9e9, read=40.6e9, token=1.485e-4)  # FLOP/s, FLOP/s, seconds


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_within_a_fourth_of_what_was_measured(monkeypatch, method, testbed_model_dir):
    monkeypatch.setattr(cost, "measured", lambda run: SPEED)
    chosen = {
        trial["method"]: trial["options"]
        for trial in json.loads((KEPT / "trials.json").read_text())["trials"]
        if trial["chosen"]
    }
    experiment = Experiment(methods=(method,), options={method: chosen[method]}, ledger="nominal")
    hours = cost.cost(experiment, "h100", 1, Path("testbed-12"))["cost"]["hours"]
    training = 3600 * sum(hours[role] for role in ("generate", "reference", "train"))
    scoring = 3600 * hours["score"] / 2  # of the base model, too
    rows = json.loads((KEPT / "table.json").read_text())["rows"]
    (spent,) = (row["spent"] for row in rows if row["method"] == method)
    assert training == pytest.approx(spent["training_seconds"], rel=0.25)
    assert training + scoring == pytest.approx(spent["training_seconds"] + spent["scoring_seconds"], rel=0.25)


def test_the_command_reads_the_speed_of_a_run(tmp_path, testbed_model_dir):
    options = ("--method", "pbaa", "--budget", "1e11", "--benchmark", "math", "--limit", "10")
    harness("run", *options, "--name", "a", cwd=tmp_path)
    run = Path("results/runs/a")
    found = json.loads(harness("estimate", *options, "--calibrate", run, "--json", cwd=tmp_path))["cost"]
    ledger = json.loads((tmp_path / run / "arms/pbaa-seed0/ledger.json").read_text())["roles"]
    assert found["speed"]["name"] == str(run) and found["memory"]["fits"] is None
    took = ledger["train"]["seconds"] / 3600
    assert found["hours"]["train"] == pytest.approx(took, rel=0.3)  # the plan's tokens are not quite those trained on
    assert found["judge"] == {"calls": 0, "prompt_tokens": 0, "reply_tokens": 0, "usd": None, "prices": None}


def test_the_command(tmp_path):
    assert "none is not a run folder" in harness("estimate", "--calibrate", "none", cwd=tmp_path, code=2)
    assert "not both" in harness("estimate", "qwen2-7b-sft", "--config", "qwen2-7b-sft", cwd=tmp_path, code=2)
    unknown = ("estimate", "--model", "some/model", "--prompts", "testbed")
    assert "without it, sizes are known for" in harness(*unknown, cwd=tmp_path, code=2)
    assert "none.jsonl" in harness("estimate", "--prompts", "none.jsonl", cwd=tmp_path, code=2)
    shown = harness("estimate", "llama3-8b-instruct", "--gpu", "a100", cwd=tmp_path)
    assert "Assumed: 290 tokens per mt-bench answer" in shown
    assert "Cost on 8 x a100" in shown and "17,370 calls, of unknown price (--judge-price)" in shown


def test_the_command_measures_this_machine_once(tmp_path, monkeypatch, capsys, testbed_model_dir):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ("estimate", "--method", "sso,dpo", "--budget", "1e11", "--benchmark", "math", "--limit", "10")
    here = json.loads(harness(*options, "--json", cwd=tmp_path))["cost"]["here"]
    assert {role for role, hours in here["hours"].items() if hours} == {"generate", "reference", "train", "score"}
    assert here["gpu_hours"] == pytest.approx(sum(here["hours"].values()))
    (kept,) = (tmp_path / "cache/harness/speed").glob("*.json")
    nothing = {"answers": {}, "completion": None}  # the testbed's lengths are known
    assert json.loads(kept.read_text()) == {"speed": here["speed"], "lengths": nothing}
    slow = here["speed"] | {"train": 1e6, "read": 1e6, "token": 10.0}
    kept.write_text(json.dumps({"speed": slow, "lengths": nothing}))
    shown = harness(*options, cwd=tmp_path)
    assert "On this machine, as measured: about" in shown and "days" in shown
    full, short = (
        json.loads(harness(*options, *more, "--json", cwd=tmp_path))["cost"]["here"]["hours"]["score"]
        for more in ((), ("--answer-tokens", "5"))
    )
    assert 0 < short < full
    absent = json.loads(harness("estimate", "llama3-8b-instruct", "--json", cwd=tmp_path))["cost"]["here"]
    assert absent is None
