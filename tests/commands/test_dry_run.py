"""`harness run --dry-run`: the plan, what is finished, and that nothing is written."""

import json
import shutil

from command_line import SMALL, harness

COMMAND = ("run", "--method", "sso,dpo", "--benchmark", "math", *SMALL)


def files(place):
    return {file: file.read_bytes() for file in place.rglob("*") if file.is_file() and file.name != ".lock"}


def test_a_plan_of_a_new_run(testbed_model_dir, tmp_path):
    found = json.loads(harness(*COMMAND, "--seeds", 2, "--dry-run", "--json", cwd=tmp_path))
    assert [(arm["method"], arm["seed"]) for arm in found["arms"]] == [
        (method, seed) for seed in (0, 1) for method in ("base", "sso", "dpo")
    ]
    base, sso, dpo = ([step["step"] for step in arm["steps"]] for arm in found["arms"][:3])
    assert base == ["samples-math", "score-math"] and dpo == ["policy-examples", "policy", *base]
    assert sso == ["generator-examples", "generator", *dpo]
    assert {step["state"] for arm in found["arms"] for step in arm["steps"]} == {"to do"}
    estimated = json.loads(harness("estimate", *COMMAND[1:-2], "--seeds", 2, "--json", cwd=tmp_path))
    assert found["plan"] == {name: value for name, value in estimated.items() if name != "cost"}
    (stage,) = found["plan"]["methods"]["dpo"]["stages"]
    assert found["arms"][2]["steps"][0]["does"] == (
        f"makes about {stage['examples']} examples from {stage['queries']} labelled pairs"
    )
    assert files(tmp_path) == {} and not (tmp_path / "results").exists()
    assert "the budget of 1 " in harness(*COMMAND, "--budget", "1", "--dry-run", cwd=tmp_path, code=2)


def test_a_plan_of_a_run_that_has_begun(finished_run, tmp_path):
    place = tmp_path / "place"
    shutil.copytree(finished_run("--method", "dpo", "--benchmark", "math", *SMALL), place)
    before = files(place)

    def states(*options):
        found = json.loads(harness(*COMMAND, *options, "--dry-run", "--json", cwd=place))
        return {arm["method"]: [step["state"] for step in arm["steps"]] for arm in found["arms"]}, found

    known, _ = states()
    assert known == {"base": ["finished"] * 2, "sso": ["to do"] * 6, "dpo": ["finished"] * 4}
    changed, found = states("--set", "dpo.beta=0.37")
    assert changed["dpo"] == ["refused", "to do", "to do", "to do"] and changed["base"] == ["finished"] * 2
    (reason,) = {step["reason"] for arm in found["arms"] for step in arm["steps"]} - {None}
    assert "options.beta=0.2 (now 0.37)" in reason
    shown = harness("run", "--method", "sso", "--benchmark", "math", *SMALL, "--dry-run", cwd=place)
    assert "finished" in shown and "nothing was computed or written" in shown and "dpo" in shown
    assert files(place) == before
    shutil.rmtree(place / "results/runs/small/arms/dpo-seed0/steps")
    known, _ = states()
    assert known["dpo"] == ["to do"] * 4
