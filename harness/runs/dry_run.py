"""What a run would do, step by step, without doing or writing anything: `harness run --dry-run`."""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypedDict

from harness.benchmarks.base import step_names
from harness.benchmarks.loading import CompleteBenchmark, benchmarks_of
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.experiment.scale import with_scale
from harness.files.folders import RunFolder, run_folder
from harness.models import gguf
from harness.models.folder import NoModel, model_folder
from harness.results.folder import check_format
from harness.runs.arm import Arm
from harness.runs.cost import planned_run
from harness.runs.earlier import with_earlier
from harness.runs.gguf_models import with_unpacked_models
from harness.runs.inputs import Inputs, check_inputs, data_folder, load_prompts
from harness.runs.judge_choice import load_judge
from harness.runs.run import arms_of, dated
from harness.stages.plan import MethodPlan, RunPlan
from harness.stages.train import collecting
from harness.training.environment import check_environment

State = Literal["finished", "to do", "refused"]


class PlannedStep(TypedDict):
    """A step. state: "refused" where it is finished but depends on something that has changed, which reason names."""

    step: str
    does: str
    state: State
    reason: str | None


class PlannedArm(TypedDict):
    """An arm. requested: whether this call asks for it; others were finished in the folder by earlier calls."""

    method: str
    seed: int
    requested: bool
    steps: list[PlannedStep]


class DryRun(TypedDict):
    """What a run would do. plan: how the budget is divided; None for a model that is only scored. notes: what was not
    looked at."""

    run: str
    command: str
    budget: str
    plan: RunPlan | None
    arms: list[PlannedArm]
    notes: list[str]


def dry_run(experiment: Experiment, results: Path) -> DryRun:
    """Plan a run: its inputs are read and checked as `run` checks them, finished steps are compared with what they
    would depend on now.

    Raises:
        UserError: for what `run` would refuse before it computes anything, but for changed steps.
    """
    check_environment()
    root = run_folder(results, experiment.name)
    check_format(root.path)
    asked = dated(with_scale(with_unpacked_models(experiment, results, gguf.unpacked)), root)
    experiment = with_earlier(asked, root)
    notes = []
    try:
        if not experiment.model_url:
            model_folder(experiment.model)
        check_inputs(experiment)
    except NoModel as error:
        notes.append(f"the model and the inputs are not checked: {error}")
    planned = None if experiment.model_url else planned_run(experiment)
    inputs = None if notes or not root.experiment.exists() else _inputs(experiment, root)
    benchmarks = benchmarks_of(experiment)
    arms: list[PlannedArm] = []
    for arm in arms_of(experiment, root):
        requested = arm.name in asked.arms()
        states = dict(_states(arm, inputs)) if inputs else {}
        if not requested and any(reason for _, reason in states.values()):
            notes.append(f"{arm.label}, which this folder has too, would be left out: it depends on other inputs")
            continue
        method = planned["methods"].get(arm.name) if planned else None
        steps = [_step(step, does, states) for step, does in _work(arm, method, benchmarks)]
        arms.append({"method": arm.name, "seed": arm.seed, "requested": requested, "steps": steps})
    if experiment.tune:
        notes.append(f"tuning comes first: {experiment.tune} trials of each method that has options to tune")
    return {
        "run": str(root.path),
        "command": experiment.command,
        "budget": str(experiment.cap),
        "plan": planned,
        "arms": arms,
        "notes": notes,
    }


def _inputs(experiment: Experiment, root: RunFolder) -> Inputs:
    judge = None if experiment.judge_model else load_judge(experiment)
    return Inputs(experiment, *load_prompts(experiment), data_folder(experiment, root.path), judge)


def _step(step: str, does: str, states: dict[str, tuple[State, str | None]]) -> PlannedStep:
    state, reason = states.get(step, ("to do", None))
    return {"step": step, "does": does, "state": state, "reason": reason}


def _states(arm: Arm, inputs: Inputs) -> Iterator[tuple[str, tuple[State, str | None]]]:
    """The steps that have a mark, in order, up to the first without one, or that was changed: what later steps depend
    on is not known before."""
    if not arm.is_tuned():
        return
    for step, depends_on in arm.stage_steps(inputs):
        if not arm.folder.mark(step):
            return
        yield step, (state := _state(arm, step, depends_on))
        if state[0] == "refused":
            return
    for scoring in arm.scorings(inputs):
        if scoring.left_out or arm.folder.mark(scoring.samples_step):
            for step, depends_on in takewhile(lambda each: arm.folder.mark(each[0]), scoring.steps()):
                yield step, _state(arm, step, depends_on)
    for checkpoint in arm.checkpoints:
        try:
            arm.intermediate(inputs).check_at(checkpoint.fraction)
            scored = all(scoring.finished() for scoring in checkpoint.scorings(inputs))
        except UserError as error:
            yield _along(checkpoint.fraction), ("refused", str(error))
            continue
        yield _along(checkpoint.fraction), ("finished" if checkpoint.mark and scored else "to do", None)


def _along(fraction: float) -> str:
    """The name that a checkpoint along the way has here."""
    return f"checkpoint at {fraction:g}"


def _state(arm: Arm, step: str, depends_on: dict[str, Any]) -> tuple[State, str | None]:
    """The state of a step that has a mark."""
    try:
        arm.folder.finished(step, depends_on)
    except UserError as error:
        return "refused", str(error)
    return "finished", None


def _work(arm: Arm, planned: MethodPlan | None, benchmarks: dict[str, CompleteBenchmark]) -> Iterator[tuple[str, str]]:
    """Each step of an arm and what it does."""
    stages = planned["stages"] if planned else []
    for stage, plan in zip(arm.experiment.stages(arm.name), stages, strict=True):
        source = "labelled pairs" if stage.labelled else "prompts"
        yield collecting(stage), f"makes about {plan['examples']} examples from {plan['queries']} {source}"
        yield stage.name, f"trains on them in about {plan['updates']} updates, {plan['trained_tokens']:,} tokens"
    for name, benchmark in benchmarks.items():
        answers, scores = step_names(name)
        trained = "trains on the pairs and " if benchmark.needs_pairs else ""
        yield answers, f"{trained}answers the questions of {benchmark.title}"
        yield scores, "asks the judge and scores" if benchmark.needs_judge else "scores the answers"
    for fraction in arm.fractions:
        yield _along(fraction), f"keeps and scores the policy, if there is one, after {fraction:g} of the budget"
