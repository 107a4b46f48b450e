"""Checkpoints along the way: the same run with and without, their scores, and what becomes of them later."""

import json
import shutil

import pytest
from command_line import harness
from killed_runs import content_without_times

from harness.experiment.options import Experiment
from harness.files import store
from harness.files.folders import RunFolder, run_folder
from harness.models.folder import MODEL_DIR
from harness.models.weights import parameter_count
from harness.results.along import along
from harness.results.folder import StoredRun
from harness.runs.tuning import trials_of
from harness.runs.verify import verify
from harness.training.dataset import update_order

SMALL = ("run", "--method", "dpo", "--benchmark", "math", "--limit", 4, "--budget", "2e10", "--ledger", "nominal")
FRACTIONS = (0.1, 0.5, 0.8)
WITH = (*SMALL, "--checkpoints", "0.8,0.1,0.5,1")
PLACE = "results/runs/experiment"


@pytest.fixture(scope="module")
def made(finished_run):
    """A finished run with checkpoints; tests change copies of it."""
    return finished_run(*WITH[1:])


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made / "results", tmp_path / "results")
    return tmp_path


def arms(folder):
    """Digest of every file of the arms that is not of a checkpoint along the way, without times."""
    root = folder / PLACE / "arms"
    files = [file for file in sorted(root.rglob("*")) if file.is_file() and "along" not in file.parts]
    return {str(file.relative_to(root)): content_without_times(file) for file in files if file.name != "seconds.json"}


def test_the_final_policy_and_its_scores_are_the_same_without_checkpoints(made, tmp_path):
    harness(*SMALL, cwd=tmp_path)
    assert arms(tmp_path) == arms(made)
    here, there = (json.loads((each / PLACE / "table.json").read_text()) for each in (tmp_path, made))
    assert here["benchmarks"] == there["benchmarks"]
    for one, other in zip(here["rows"], there["rows"], strict=True):
        assert one["cells"] == other["cells"]
    (remark,) = set(there["notes"]) - set(here["notes"])
    assert (
        remark == "Scores are those at the end; harness table --checkpoints shows those at 0.1, 0.5, 0.8 of the budget."
    )


def test_a_checkpoint_is_at_the_first_update_that_reaches_its_fraction(made):
    """By the rule "nominal": 6 N per trained token, and 2 N for the reference's reading of all examples. The prompt
    that both replies of a pair share counts once."""
    arm = RunFolder(made / PLACE).arm("dpo", 0)
    parameters = parameter_count(MODEL_DIR)
    pairs = [row["sequences"] for row in store.read_jsonl(arm.preferences("policy"))]
    assert all(chosen["prompt_ids"] == rejected["prompt_ids"] for chosen, rejected in pairs)
    prompts = [len(chosen["prompt_ids"]) for chosen, _ in pairs]
    replies = [[len(each["completion_ids"]) for each in pair] for pair in pairs]
    tokens = [prompt + sum(both) for prompt, both in zip(prompts, replies, strict=True)]
    longest = [prompt + max(both) for prompt, both in zip(prompts, replies, strict=True)]
    order = update_order(longest, 16, seed=0)
    updates = [sum(tokens[index] for index in order[first : first + 16]) for first in range(0, len(order), 16)]
    spent = [2 * parameters * sum(tokens) + 6 * parameters * sum(updates[:done]) for done in range(len(updates) + 1)]
    for fraction in FRACTIONS:
        facts = arm.along(fraction).facts("checkpoint")
        reaching = next(done for done, flops in enumerate(spent) if flops >= fraction * 2e10)
        if reaching == 0:
            assert facts["none"] == "no policy had been trained yet, as the stage policy was still being prepared"
        else:
            assert facts["update"] == facts["ledger"]["total"]["updates"] == reaching < len(updates)
            assert facts["ledger"]["total"]["flops"] == pytest.approx(spent[reaching], rel=1e-12)
    assert [("none" in arm.along(each).facts("checkpoint")) for each in FRACTIONS] == [True, False, False]


def test_scores_along_the_way(made, tmp_path):
    run = StoredRun.read(made / PLACE)
    found = along(run)
    assert [(each.method, each.fraction) for each in found.points] == [
        ("base", 0),
        *(("dpo", f) for f in (0.5, 0.8, 1)),
    ]
    for point in found.points[1:3]:
        folder = run.folder.arm("dpo", 0).along(point.fraction)
        assert point.flops == folder.facts("checkpoint")["ledger"]["total"]["flops"]
        score = store.read_json(folder.score("math"))
        assert point.scores["math"].value == score["value"]
        assert score["values"].keys() == store.read_json(run.folder.arm("dpo", 0).score("math"))["values"].keys()
    told = harness("table", PLACE, "--checkpoints", cwd=made)
    assert "| dpo    | 0.5 " in told and "dpo has no checkpoint at 0.1 (seed 0): no policy had been trained yet" in told
    listed = json.loads(harness("table", PLACE, "--checkpoints", "--json", cwd=made))
    assert [each["flops"] for each in listed["points"]] == [each.flops for each in found.points]
    harness("table", PLACE, "--checkpoints", "-o", tmp_path / "c.md", cwd=made)
    assert (tmp_path / "c.md").read_text().startswith(told.rstrip("\n"))
    assert (
        "Scores along the way"
        in (tmp_path / harness("figure", "checkpoints", PLACE, "-o", tmp_path / "c.svg", cwd=made).strip()).read_text()
    )
    page = (made / harness("report", PLACE, "-o", tmp_path / "r.html", cwd=made).strip()).read_text()
    assert "<h3>Along the way</h3>" in page and "dpo has no checkpoint at 0.1 (seed 0)" in page
    assert "dpo, 0.5: " in page


def test_every_score_is_verified(copied):
    report = json.loads(harness("verify", PLACE, "--json", cwd=copied))
    numbers = {(each["method"], each["fraction"]): each for each in report["numbers"]}
    assert report["verified"] and numbers.keys() == {("base", 1), ("dpo", 0.5), ("dpo", 0.8), ("dpo", 1)}
    steps = [each["step"] for each in numbers["dpo", 0.5]["rests_on"]]
    assert steps == ["score-math", "samples-math", "checkpoint", "policy-examples"]
    file = RunFolder(copied / PLACE).arm("dpo", 0).along(0.5).score("math")
    file.write_text(file.read_text().replace('"value": ', '"value": 1'))
    (copied / PLACE / "arms/dpo-seed0/along/0.3/steps").mkdir(parents=True)
    (copied / PLACE / "arms/dpo-seed0/along/0.3/steps/checkpoint.json").write_text("{}")
    report = verify(copied / PLACE)
    wrong = [(each["method"], each["fraction"]) for each in report["numbers"] if not each["verified"]]
    assert wrong == [("dpo", 0.5)]
    assert any("along/0.3 is not part of the experiment" in each for each in report["problems"])


def test_what_is_asked_for_later(copied):
    told = harness(*SMALL, "--checkpoints", "0.5,0.6,0.8", cwd=copied, code=2)
    assert "dpo-seed0: was trained without a checkpoint at 0.6 of the cap. Leave out --checkpoints" in told
    assert "--restart-from policy" in told
    planned = harness(*SMALL, "--checkpoints", "0.05,0.5,0.6", "--dry-run", "--json", cwd=copied)
    steps = {each["step"]: each for each in json.loads(planned)["arms"][1]["steps"]}
    states = [steps[f"checkpoint at {fraction}"]["state"] for fraction in (0.05, 0.5, 0.6)]
    assert states == ["to do", "finished", "refused"]
    arm = run_folder(copied / "results", "experiment").arm("dpo", 0)
    policy = (arm.checkpoint("policy") / "model.safetensors").read_bytes()
    before = arm.along(0.5).mark("checkpoint").files
    harness(*SMALL, "--checkpoints", "0.05,0.5,0.8", cwd=copied)  # before the first update: no training
    assert "none" in arm.along(0.05).facts("checkpoint")
    harness(*SMALL, "--checkpoints", "0.5,0.6", "--restart-from", "policy", cwd=copied)
    assert (arm.checkpoint("policy") / "model.safetensors").read_bytes() == policy
    assert arm.along(0.5).mark("checkpoint").files == before and arm.along(0.6).whole("score-math")
    shutil.rmtree(arm.along(0.6).checkpoints)
    arm.along(0.6).samples("math").unlink()
    told = harness(*SMALL, "--checkpoints", "0.5,0.6", cwd=copied, code=2)
    assert "along/0.6: the checkpoint was deleted before it was scored" in told and "--restart-from policy" in told


def test_trials_of_tuning_have_none(tmp_path):
    experiment = Experiment(methods=("dpo",), tune=2, checkpoints=(0.5,))
    assert [trial.checkpoints for trial in trials_of(experiment, run_folder(tmp_path, "t"))] == [[], []]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--budget", "updates=20"), "checkpoints are fractions of a budget in FLOPs, and this one is updates=20"),
        (("--method", "base"), "checkpoints are of a training, and base is not trained"),
        (("--checkpoints", "0.5,1.5"), "'checkpoints' must be at most 1, not '0.5,1.5'"),
        (("--checkpoints", "0"), "'checkpoints' must be above 0"),
        (("--checkpoints", "half"), "'checkpoints' must be a list of numbers, not 'half'"),
    ],
)
def test_what_is_refused(options, told, tmp_path):
    assert told in harness("run", "--checkpoints", "0.5", *options, cwd=tmp_path, code=2)
