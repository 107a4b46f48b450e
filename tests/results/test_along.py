"""Scores along the way from stored scores: means, seeds without a policy, and the Pareto front."""

import json

import pytest
import yaml
from command_line import harness
from forged_run import CAP, forge, write

from harness.errors import UserError
from harness.files import store
from harness.results.along import along
from harness.results.folder import StoredRun
from harness.statistics.pareto import on_front

MATH = "math"
NONE = "no policy had been trained yet, only the stage generator"


def run_with(tmp_path, values, along):
    """A forged run. along: method -> fraction -> seed -> (FLOPs, the value of every question), or why there is none."""
    run = forge(tmp_path / "results/runs/r", {MATH: values})
    experiment = yaml.safe_load((run / "experiment.yaml").read_text())
    fractions = sorted({fraction for by_fraction in along.values() for fraction in by_fraction})
    write(run / "experiment.yaml", yaml.safe_dump(experiment | {"checkpoints": fractions}))
    for method, by_fraction in along.items():
        for fraction, by_seed in by_fraction.items():
            for seed, found in enumerate(by_seed):
                arm = run / "arms" / f"{method}-seed{seed}"
                place = arm / "along" / str(fraction)
                mark = {"key": "", "depends_on": {}, "files": {}}
                if isinstance(found, str):
                    write(place / "steps/checkpoint.json", mark | {"facts": {"stage": "policy", "none": found}})
                    continue
                flops, value = found
                ledger = store.read_json(arm / "ledger.json")
                ledger["roles"]["train"] |= {"flops": flops, "updates": 3}
                facts = {"stage": "policy", "update": 3, "ledger": ledger, "model": {}}
                write(place / "steps/checkpoint.json", mark | {"facts": facts})
                write(place / f"steps/score-{MATH}.json", mark | {"facts": {}, "files": {f"scores/{MATH}.json": ""}})
                score = store.read_json(arm / f"scores/{MATH}.json")
                values_of = dict.fromkeys(score["values"], value)
                write(place / f"scores/{MATH}.json", score | {"value": value, "values": values_of})
    return run


def test_the_front_by_hand():
    # 7 at 1 is beaten by 8 at 1; 8 at 2 is worth no more than 8 at 1; 9 at 3 is on the front, and so is its equal
    assert on_front([(0, 5), (1, 7), (1, 8), (2, 8), (3, 9), (3, 9)]) == [True, False, True, False, True, True]
    assert on_front([]) == []


def test_means_over_the_seeds_that_have_a_policy(tmp_path):
    values = {"base": [[10.0] * 4] * 2, "dpo": [[50.0] * 4] * 2, "sso": [[40.0] * 4] * 2}
    checkpoints = {
        "dpo": {0.3: [(3e11, 20.0), (4e11, 40.0)], 0.6: [(6e11, 30.0), (6e11, 30.0)]},
        "sso": {0.3: [NONE, NONE], 0.6: [NONE, (5e11, 45.0)]},
    }
    found = along(StoredRun.read(run_with(tmp_path, values, checkpoints)))
    final = 6 * 1_000_000 * 161_700
    shown = [(each.method, each.fraction, each.seeds, each.flops, each.scores[MATH].value) for each in found.points]
    assert shown == [
        ("base", 0.0, (0, 1), 0.0, 10.0),
        ("dpo", 0.3, (0, 1), 3.5e11, 30.0),
        ("dpo", 0.6, (0, 1), 6e11, 30.0),
        ("dpo", 1.0, (0, 1), final, 50.0),
        ("sso", 0.6, (1,), 5e11, 45.0),
        ("sso", 1.0, (0, 1), final, 40.0),
    ]
    assert [each.front for each in found.points] == [(MATH,), (MATH,), (), (MATH,), (MATH,), ()]
    assert [(each.fraction, each.seeds) for each in found.left_out] == [(0.3, (0, 1)), (0.6, (0,))]
    told = harness("table", "r", "--checkpoints", cwd=tmp_path)
    assert "| sso    | 0.6 (1 of 2 seeds) | 5e+11" in told and "**45.0**" in told and " *" not in told.replace("**", "")
    assert f"sso has no checkpoint at 0.6 (seed 0): {NONE}." in told
    page = (tmp_path / harness("report", "r", "-o", "r.html", cwd=tmp_path).strip()).read_text()
    assert f"{MATH.upper()}, exact match %, against the FLOPs that training had spent" in page


def test_what_is_not_there_is_told(tmp_path):
    values = {"base": [[10.0] * 4], "dpo": [[50.0] * 4]}
    run = run_with(tmp_path, values, {"dpo": {0.3: [(0.3 * CAP, 20.0)]}})
    (run / f"arms/dpo-seed0/along/0.3/scores/{MATH}.json").unlink()
    with pytest.raises(UserError, match="along/0.3/scores/math.json was deleted after its step had finished"):
        along(StoredRun.read(run))
    (run / f"arms/dpo-seed0/along/0.3/steps/score-{MATH}.json").unlink()
    with pytest.raises(UserError, match="along/0.3 has no mark of step score-math"):
        along(StoredRun.read(run))
    for options, told in (
        (("r", "r"), "--checkpoints shows one run: give one, not 2"),
        (("r", "--baseline", "dpo"), "--baseline has no effect with --checkpoints"),
    ):
        assert told in harness("table", *options, "--checkpoints", cwd=tmp_path, code=2)
    forge(tmp_path / "results/runs/plain", {MATH: values})
    assert "has no checkpoints along the way: make a run with" in harness(
        "table", "plain", "--checkpoints", cwd=tmp_path, code=2
    )
    assert json.loads(harness("table", "plain", "--json", cwd=tmp_path))["benchmarks"]
