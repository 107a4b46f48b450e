"""Equal tuning: the same trials for every method, on prompts that none trains on, booked and resumed as all else."""

import dataclasses
import json
import pickle
import shutil
import sys

import pytest
from killed_runs import WITH_TIMES, content_without_times

from harness.benchmarks.base import Judging
from harness.endpoints.base import JudgeReply
from harness.errors import UserError
from harness.experiment import registry
from harness.experiment.options import Experiment
from harness.experiment.search import LogUniform, Uniform, trial_points
from harness.files import store
from harness.files.folders import RunFolder
from harness.results.tuning_record import of_row, read
from harness.runs import arm, tuning
from harness.runs.development import Development, split
from harness.runs.inputs import load_prompts
from harness.runs.run import run
from harness.runs.verify import verify
from harness.stages.plan import cost_of, estimate
from harness.tables.schema import Tuning
from harness.testbed.items import FAMILIES, parse
from harness.testbed.prompts import preferences, prompts
from harness.testbed.suites import write_suites
from harness.training.base import TrainingDiverged
from harness.types import Prompt
from harness.work import sampled

TUNED = Experiment(
    name="t", methods=("dpo",), benchmarks=("reward-bench",), budget="3e10", limit=8, tune=3, tune_prompts=40
)


# ---- what is tried


def test_shares_of_a_distribution():
    assert [Uniform(2, 4).at(share) for share in (0, 0.25, 1)] == [2, 2.5, 4]
    assert [LogUniform(1e-4, 1e-2).at(share) for share in (0, 0.5, 1)] == [1e-4, 1e-3, 1e-2]
    assert LogUniform(1, 10).at(0.5) == 3.16  # the square root of 10


def test_trials_are_the_same_for_every_method():
    space = {"learning_rate": LogUniform(1e-5, 1e-3), "beta": Uniform(0, 1)}
    few, many = trial_points(space, 4), trial_points(space, 65)
    assert few == many[:4] and few[0] == {}
    wider = trial_points({**space, "gamma": Uniform(0, 1)}, 4)
    assert [{**each, "gamma": 0} for each in few[1:]] == [{**each, "gamma": 0} for each in wider[1:]]
    for start in (0, 0.25, 0.5, 0.75):  # 64 points lie evenly, which random ones would not
        assert 15 <= sum(start <= each["beta"] < start + 0.25 for each in many[1:]) <= 17
    assert all(1e-5 <= each["learning_rate"] <= 1e-3 for each in many[1:])


@pytest.mark.parametrize("name", registry.names("method"))
def test_every_method_declares_what_is_tuned(name):
    method = registry.load("method", name)
    options = method.Options()
    assert bool(method.search_space) == bool(method.stages(options))
    for option, distribution in method.search_space.items():
        assert distribution.low <= getattr(options, option) <= distribution.high
        for value in (distribution.low, distribution.high):
            stages = method.stages(dataclasses.replace(options, **{option: value}))
            assert [stage.name for stage in stages] == [stage.name for stage in method.stages(options)]


def test_options_that_are_set_and_limits():
    plain = Experiment(methods=("dpo",), tune=3)
    assert plain.tuned("dpo") == ["learning_rate", "beta"] and plain.tuned("base") == []
    fixed = Experiment(methods=("dpo",), tune=3, options={"dpo": {"beta": 0.5}})
    assert fixed.tuned("dpo") == ["learning_rate"]
    assert [each.learning_rate for each in fixed.trial_options("dpo")] == [
        each.learning_rate for each in plain.trial_options("dpo")
    ]
    assert {each.beta for each in fixed.trial_options("dpo")} == {0.5}
    within = Experiment(methods=("dpo",), tune=9, search={"dpo": {"learning_rate": "1e-7,1e-5"}})
    assert all(1e-7 <= each.learning_rate <= 1e-5 for each in within.trial_options("dpo")[1:])
    assert within.trial_options("dpo")[0].learning_rate == 1e-4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tune": 1}, "tune must be 0 or at least 2"),
        ({"tune": -1}, "'tune' must be at least 0, not -1"),
        ({"tune_prompts": 0}, "'tune_prompts' must be at least 1"),
        ({"search": {"dpo": {"beta": "1,2"}}}, "limits for 'dpo', which is not among the methods base, sso"),
        ({"search": {"sso": {"bet": "1,2"}}}, "tuned option of sso 'bet': did you mean 'beta'"),
        ({"search": {"sso": {"beta": "2,1"}}}, "limits of sso.beta must be LOW,HIGH above 0"),
        ({"search": {"sso": {"beta": [0, 1]}}}, "limits of sso.beta must be LOW,HIGH above 0"),
        ({"search": {"sso": {"beta": 5}}}, "limits of sso.beta must be LOW,HIGH above 0"),
        ({"search": {"sso": {"generator_share": "a,b"}}}, "limits of sso.generator_share must be LOW,HIGH, such"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(UserError, match=message):
        Experiment(**values)


def test_a_trial_that_the_budget_does_not_pay_for_is_named_before_anything_runs():
    experiment = Experiment(tune=3, search={"sso": {"generator_share": [0.001, 0.002]}})
    with pytest.raises(UserError, match="sso trial 1: the budget .* too small .* stage 'generator'"):
        estimate(experiment, *load_prompts(experiment))


# ---- what it is tried on


def kept_of_the_testbed():
    return split(Experiment(tune=2), prompts(), preferences())


def content(prompt):
    return set(parse(prompt.messages[-1]["content"]).content)


def test_no_method_trains_on_what_trials_are_scored_on():
    found = kept_of_the_testbed()
    asked = {str(prompt.messages) for prompt in found.development}
    for trained, all_of in ((found.prompts, prompts()), (found.labelled, preferences())):
        assert 0.85 < len(trained) / len(all_of) < 0.95
        assert not asked & {str(prompt.messages) for prompt in trained}
    known = set().union(*map(content, (*found.prompts, *found.labelled)))
    assert all(content(prompt) - known for prompt in found.development)
    assert len(found.development) == 400
    families = [parse(prompt.messages[-1]["content"]).family for prompt in found.development]
    for family, (weight, _) in FAMILIES.items():
        assert abs(families.count(family) / 400 - weight) < 0.12
    experiment = Experiment(tune=2)
    assert load_prompts(experiment) == (found.prompts, found.labelled)


def test_no_suite_asks_what_trials_are_scored_on(tmp_path):
    write_suites(tmp_path)
    suites = "".join(path.read_text() for path in sorted(tmp_path.rglob("*.json*")))
    assert len(suites) > 100_000 and parse("What is 3+4?")
    asked = [prompt.messages[-1]["content"] for prompt in kept_of_the_testbed().development]
    assert not [question for question in asked if json.dumps(question) in suites]
    assert not any(parse(question).held_out for question in asked)  # as all questions of the suites are


def ask(number, **pair):
    return Prompt(f"p-{number}", ({"role": "user", "content": f"Question {number}?"},), **pair)


def test_prompts_of_a_file():
    plain, labelled = [ask(n) for n in range(10)], [ask(n, chosen="a", rejected="b") for n in range(5, 15)]
    experiment = Experiment(methods=("dpo",), prompts="x.jsonl", preferences="y.jsonl", tune=2, tune_prompts=4)
    found = split(experiment, plain, labelled)
    assert len(found.development) == 4 and len(found.prompts) == 6
    asked = {str(prompt.messages) for prompt in found.development}
    assert found.labelled == [each for each in labelled if str(each.messages) not in asked]
    assert {str(each.messages) for each in split(experiment, plain[::-1], labelled).development} == asked
    only_pairs = dataclasses.replace(experiment, prompts="testbed")
    assert all(each.chosen for each in split(only_pairs, prompts(), labelled).development)
    with pytest.raises(UserError, match=r"there are too few prompts to hold out 4 for tuning \(at most 3\)"):
        split(experiment, plain[:7], labelled)


class Judge:
    name = "scripted"

    def __init__(self, *replies):
        self.replies = replies

    def complete(self, requests, advance=None):
        return [
            JudgeReply(request.id, "", error="no answer") if text is None else JudgeReply(request.id, text)
            for request, text in zip(requests, self.replies, strict=True)
        ]


def test_the_score_of_a_trial():
    items = [{"id": str(n), "messages": [{"role": "user", "content": f"Question {n}?"}]} for n in range(4)]
    samples = [{"id": str(n), "output": f"answer {n}"} for n in range(4)]
    judge = Judge("good [[8]]", None, "[[3.5]]", "no verdict")
    judgments = Development().judge(items, samples, judge, Judging(), None)
    score = Development().score(items, samples, judgments)
    assert (score.value, score.values) == (5.75, {"0": 8.0, "2": 3.5})
    assert (score.questions, score.missing, score.unparsed, score.judge) == (4, 1, 1, "scripted")


# ---- a run


@pytest.fixture(scope="module")
def finished(testbed_model_dir, tmp_path_factory):
    place = tmp_path_factory.mktemp("tuning")
    run(TUNED, place)
    return place / "runs/t"


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "runs/t")


def results(root):
    return {
        str(path.relative_to(root)): content_without_times(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in WITH_TIMES
    }


def trained_with(root, folder):
    mark = store.read_json(root / folder / "steps/policy.json")["depends_on"]
    return {"learning_rate": mark["training"]["learning_rate"], "beta": mark["options"]["beta"]}


def test_the_best_trial_trains_every_seed(finished):
    rows = read(finished)
    assert [(row["method"], row["trial"]) for row in rows] == [("dpo", 0), ("dpo", 1), ("dpo", 2)]
    assert rows[0]["options"] == {"learning_rate": 1e-4, "beta": 0.2}
    assert [row["options"] for row in rows] == [trained_with(finished, f"tuning/dpo/trial-{n}") for n in range(3)]
    for row in rows:
        score = store.read_json(finished / f"tuning/dpo/trial-{row['trial']}/scores/development.json")
        assert row["score"] == pytest.approx(sum(score["values"].values()) / 40)
        assert (row["questions"], row["missing"], row["unparsed"], row["failed"]) == (40, 0, 0, None)
    best = max(rows, key=lambda row: row["score"])
    assert [row for row in rows if row["chosen"]] == [best]
    assert trained_with(finished, "arms/dpo-seed0") == best["options"]
    seeds = {store.read_json(path)["depends_on"]["seed"] for path in finished.glob("tuning/dpo/*/steps/policy.json")}
    assert seeds == {1000}


def test_every_trial_had_the_budget_and_is_booked(finished):
    flops, cost = [], cost_of(Experiment())
    for row in read(finished):
        folder = finished / f"tuning/dpo/trial-{row['trial']}"
        ledger = store.read_json(folder / "ledger.json")
        assert 0.95 <= ledger["total"]["flops"] / 3e10 <= 1
        samples = store.read_jsonl(folder / "samples/development.jsonl")
        answers = sum(cost.forward(sampled(sample["prompt_tokens"], sample["tokens"])) for sample in samples)
        assert row["ledger"]["flops"] == pytest.approx(ledger["total"]["flops"] + answers)
        flops.append(row["ledger"]["flops"])
        assert not (folder / "checkpoints").exists()
    booked = store.read_json(finished / "tuning/dpo/ledger.json")
    assert booked["total"]["flops"] == pytest.approx(sum(flops)) and set(booked["roles"]) >= {"train", "development"}
    assert of_row(finished, "dpo") == Tuning(3, pytest.approx(sum(flops)))
    assert of_row(finished, "base") is None
    planned = estimate(TUNED, *load_prompts(TUNED))["tuning"]
    assert planned["flops"] == pytest.approx(sum(flops), rel=0.1)
    assert planned["methods"]["dpo"]["options"] == [row["options"] for row in read(finished)]


def test_a_tuned_run_is_verified(finished, copy):
    assert verify(finished)["problems"] == []
    rows = read(copy)
    for row in rows:
        row["chosen"] = row["trial"] == 0
    store.write_json(copy / "tuning/trials.json", store.read_json(copy / "tuning/trials.json") | {"trials": rows})
    assert any("trials.json is not what the trials give" in each for each in verify(copy)["problems"])
    score = copy / "tuning/dpo/trial-0/scores/development.json"
    store.write_json(score, store.read_json(score) | {"value": 9.9})
    told = "\n".join(verify(copy)["problems"])
    assert "trial-0/scores/development.json is not what its samples and judgments give" in told
    (copy / "tuning/trials.json").unlink()
    report = verify(copy)
    assert [number["verified"] for number in report["numbers"]] == [True, False]
    assert "the tuning of dpo is not finished" in "\n".join(report["problems"])


def test_a_killed_tuning_goes_on(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        drop, dropped = tuning.Trial.drop_models, []

        def killed(trial):
            dropped.append(trial.number)
            if trial.number == 1:
                sys.exit("killed")  # between a trial's last mark and its end
            drop(trial)

        patch.setattr(tuning.Trial, "drop_models", killed)
        with pytest.raises(SystemExit, match="killed"):
            run(TUNED, tmp_path)
        assert dropped == [0, 1]
    root = tmp_path / "runs/t"
    assert (root / "tuning/dpo/trial-1/checkpoints").exists() and not (root / "tuning/trials.json").exists()
    marks = {path: path.stat().st_mtime_ns for path in root.glob("tuning/*/*/steps/*")}
    run(TUNED, tmp_path)
    assert len(marks) == 8 and all(path.stat().st_mtime_ns == time for path, time in marks.items())
    assert results(root) == results(finished)


def test_more_trials_keep_the_finished_ones(copy, monkeypatch):
    trained = []
    train = arm.Arm.train
    monkeypatch.setattr(arm.Arm, "train", lambda self, inputs: trained.append(self.label) or train(self, inputs))
    row = tuning.Trial.row
    monkeypatch.setattr(tuning.Trial, "row", lambda self: row(self) | ({"score": 10.0} if self.number == 3 else {}))
    more = dataclasses.replace(TUNED, tune=4)
    with pytest.raises(UserError, match=r"arms/dpo-seed0: step policy-examples was computed with options.beta="):
        run(more, copy.parent.parent)
    assert trained == ["dpo trial 3"]
    run(more, copy.parent.parent, restart_from="policy-examples")
    assert trained[1:] == ["base seed 0", "dpo seed 0"]
    assert trained_with(copy, "arms/dpo-seed0") == read(copy)[3]["options"]


def test_ties_go_to_the_earlier_trial():
    def trials(scores, failed=None):
        rows = [
            {"method": "dpo", "trial": number, "score": score, "failed": failed} for number, score in enumerate(scores)
        ]
        return [type("Trial", (), {"row": lambda self, row=row: row})() for row in rows]

    found = tuning.record(trials((2, 5, 5)), "harness run")
    assert [row["chosen"] for row in found["trials"]] == [False, True, False] and found["command"] == "harness run"
    with pytest.raises(UserError, match="no trial of dpo has a score: NaN"):
        tuning.record(trials((None,), "NaN"), "harness run")


def test_a_trial_that_diverges_is_counted_and_not_chosen(tmp_path, testbed_model_dir, monkeypatch, capsys):
    from harness.training import trainer

    train, tried = trainer.train, []

    def diverge(engine, data, objective, reference, training, *rest):
        tried.append(training.args.learning_rate)
        if training.args.learning_rate > 1e-4:
            raise TrainingDiverged("the loss is not finite")
        return train(engine, data, objective, reference, training, *rest)

    monkeypatch.setattr(trainer, "train", diverge)
    experiment = dataclasses.replace(TUNED, tune=2, options={"dpo": {"beta": 0.2}})
    table = run(experiment, tmp_path)
    root = tmp_path / "runs/t"
    good, bad = read(root)
    assert good["chosen"] and not bad["chosen"]
    assert (bad["score"], bad["failed"], bad["fixed"]) == (None, "the loss is not finite", ["beta"])
    assert bad["options"] == {"learning_rate": tried[1]} and tried[1] > 1e-4
    assert 0.95 <= bad["ledger"]["flops"] / 3e10 <= 1
    told = capsys.readouterr().err
    assert "dpo: not tuned, because set by the user: beta" in told and "dpo trial 1 has no score" in told
    assert verify(root)["problems"] == []
    (root / "index.json").unlink()
    assert run(experiment, tmp_path) == table and len(tried) == 3  # not tried again


def test_what_was_trained_without_tuning_is_refused(tmp_path, testbed_model_dir):
    untuned = dataclasses.replace(TUNED, tune=0)
    run(untuned, tmp_path)
    configuration = (tmp_path / "runs/t/experiment.yaml").read_text()
    with pytest.raises(UserError, match="was trained without tuning.*--restart-from policy-examples"):
        run(TUNED, tmp_path)
    assert (tmp_path / "runs/t/experiment.yaml").read_text() == configuration


def test_a_method_without_a_search_space_is_refused(monkeypatch):
    monkeypatch.setattr(type(registry.load("method", "dpo")), "search_space", {})
    with pytest.raises(UserError, match="dpo declares no options to tune"):
        estimate(TUNED, *load_prompts(TUNED))


def test_tuning_needs_a_judge(tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": f"{n}?"}) + "\n" for n in range(200)))
    real = dataclasses.replace(
        TUNED, data_dir=str(tmp_path), prompts=str(tmp_path / "p.jsonl"), preferences=str(tmp_path / "p.jsonl")
    )
    with pytest.raises(UserError, match="has no"):
        run(real, tmp_path)


def test_trials_in_other_processes(finished, testbed_model_dir):
    each = tuning.trials_of(dataclasses.replace(TUNED, methods=("dpo", "b=dpo")), RunFolder(finished))
    assert [trial.label for trial in each] == [f"{name} trial {n}" for name in ("dpo", "b") for n in range(3)]
    assert each[1].stages
    sent = pickle.loads(pickle.dumps(each[1]))
    assert (sent.label, sent.options, sent.folder.path) == (each[1].label, each[1].options, each[1].folder.path)
