"""Trains the stages of a method in a folder; what is finished there is not done again."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.budget import Budget, Ledger
from harness.engines.base import Sampling
from harness.engines.logged import LoggedTrainableEngine
from harness.files import store
from harness.files.folders import ArmFolder, RunFolder
from harness.judges.base import Judge
from harness.methods.base import Lengths, Stage, Workbench
from harness.methods.prompts import PromptStream
from harness.models import fingerprints
from harness.progress import progress
from harness.stages.collect import allowances, collect_stage, plan_stage
from harness.stages.health import stage_health
from harness.thoughts import MARKS, Marks
from harness.training.example_file import read_examples
from harness.training.examples import TrainingOptions, lora
from harness.work import Cost, Rule

if TYPE_CHECKING:
    from harness.engines.transformers import TransformersEngine
    from harness.training.base import Training

LOOP = tuple(each.name for each in fields(TrainingOptions) if each.name != "batch_size")  # options of training alone
SURROUNDINGS = (  # dependencies that are no choice of the experiment
    *("code", "device", "engine", "environment", "launcher", "packages", "threads"),
)
READING = (*SURROUNDINGS, "attention", "batch_size")  # that log-probabilities of given texts depend on
PACKAGES = (
    *("torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "safetensors", "numpy", "jinja2"),
)


def loop_options(stage: Stage) -> dict[str, Any]:
    """The options of a stage's training loop, by name."""
    return {name: getattr(stage.training, name) for name in LOOP}


@dataclass(frozen=True)
class RunSetup:
    """What the stages of a run have in common.

    base: gives the model that the run starts from.
    folder: gets preferences/, checkpoints/, training/ and health/, a file or folder for each stage, and ledger.json.
    shared: folder of what runs share: reference/ (log-probabilities), logs of endpoints.
    depends_on: all that the results of a stage depend on, by name, but the options of its training loop; SURROUNDINGS
        are among them.
    stream: the prompts of a stage.
    rule: by which FLOPs are counted.
    lengths: expected tokens of a stage's prompts and completions.
    training: how a stage is trained, given the folder of its state.
    load: the engine of a checkpoint.
    launcher: what trainings depend on of the command that starts their processes; None where this one trains.
    loop: how a stage's training loop runs, as its mark says it.
    adapters: which a stage trains in place of all weights, a LoraConfig of peft; None where it trains all.
    judge_cost: FLOPs of the judge, where its size is known.
    check_pairs: pairs of each stage whose order a judge is asked about.
    judged_by: what judgments depend on of the judge, by name.
    most_missing, rejudge: see `harness.methods.base.Workbench`.
    marks: of the thoughts that are taken off completions.
    """

    base: "Callable[[], TransformersEngine]"
    folder: ArmFolder
    shared: RunFolder
    depends_on: Callable[[Stage], dict[str, Any]]
    budget: Budget
    rule: Rule
    sampling: Sampling
    stream: Callable[[Stage], PromptStream]
    lengths: Callable[[Stage], Lengths]
    training: "Callable[[Stage, Path], Training]"
    load: "Callable[[Path], TransformersEngine]"
    launcher: dict[str, Any] | None = None
    loop: Callable[[Stage], dict[str, Any]] = loop_options
    adapters: Callable[[Stage], Any] = lambda stage: lora(stage.training)
    judge: Judge | None = None
    judge_cost: Callable[[], Cost | None] = lambda: None
    check_pairs: int = 0
    judged_by: dict[str, Any] | None = None
    most_missing: float = 1.0
    rejudge: bool = False
    marks: Marks = MARKS
    label: str = ""

    @property
    def health(self) -> dict[str, Any] | None:
        """What the health of a stage depends on beside examples and training: who judges pairs, and how many."""
        asked = self.judged_by and (self.check_pairs or hasattr(self.judge, "quality"))
        return {"check_pairs": self.check_pairs, **self.judged_by} if asked else None

    def examples(self, stage: Stage) -> Path:
        return self.folder.preferences(stage.name)

    def record(self, stage: Stage) -> Path:
        """What models were asked while examples were made, see `Workbench.keep`."""
        return self.folder.asked(stage.name)

    def checkpoint(self, stage: Stage) -> Path:
        return self.folder.checkpoint(stage.name)

    def work(self, stage: Stage) -> Path:
        """For what is there only while the stage is not finished."""
        return self.folder.training_work(stage.name)


def collecting(stage: Stage) -> str:
    """The name of the step that makes a stage's examples; that of its training is the stage's own."""
    return f"{stage.name}-examples"


@dataclass(frozen=True)
class Trained:
    """The policy, loaded when it is asked for, what was spent, and whether this call did any step."""

    engine: "Callable[[], TransformersEngine]"
    ledger: Ledger
    worked: bool


def stage_steps(stages: Sequence[Stage], setup: RunSetup) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and dependencies of each step, in order. A step's can be known only when those before it are finished: who
    asks for the next one has looked."""
    before = None
    for stage in stages:
        yield collecting(stage), _collect_depends(stage, before, setup)
        yield stage.name, _train_depends(stage, setup)
        before = stage


def finished_stages(stages: Sequence[Stage], setup: RunSetup) -> int:
    """How many stages are finished, from the first on.

    Raises:
        UserError: when one was made from other things than it depends on now, naming them.
    """
    steps = stage_steps(stages, setup)
    return len(list(takewhile(lambda step: setup.folder.finished(*step), steps))) // 2


def train_stages(stages: Sequence[Stage], setup: RunSetup, needed: bool = True) -> Trained:
    """The result of the last stage (the base model where there is none).

    Args:
        needed: whether its model is; else that of a finished stage may have been deleted.

    Raises:
        UserError: for anything the user can mend; what was finished stays in the folder.
    """
    folder = setup.folder
    done = finished_stages(stages, setup)
    while done and (needed or done < len(stages)) and not folder.whole(stages[done - 1].name):
        done -= 1
    ledger = Ledger(setup.budget.amount if setup.budget.kind == "flops" else None, rule=setup.rule)
    if done:
        ledger = Ledger.from_dict(folder.facts(stages[done - 1].name)["ledger"])
    for stage in stages[:done]:
        setup.stream(stage).position = folder.facts(stage.name)["drawn"]
        shutil.rmtree(setup.work(stage), ignore_errors=True)
    current = _loader(stages[done - 1], setup) if done else setup.base
    for index in range(done, len(stages)):
        engines = {"base": setup.base(), "current": current()}
        ledger = _run_stage(stages, index, engines, ledger, setup)
        current = _loader(stages[index], setup)
    store.write_json(folder.ledger, ledger.as_dict())
    return Trained(current, ledger, worked=done < len(stages))


def _loader(stage: Stage, setup: RunSetup) -> "Callable[[], TransformersEngine]":
    """Loads the model of a finished stage, once."""

    @cache
    def load() -> "TransformersEngine":
        setup.folder.check(stage.name)
        return setup.load(setup.checkpoint(stage))

    return load


def _collect_depends(stage: Stage, before: Stage | None, setup: RunSetup) -> dict[str, Any]:
    mark = setup.folder.mark(before.name) if before else None
    return {**setup.depends_on(stage), "stage": stage.name, "stage before": mark.key if mark else None}


def _train_depends(stage: Stage, setup: RunSetup) -> dict[str, Any]:
    collected = setup.folder.mark(collecting(stage))
    return {
        **collected.depends_on,
        "training": setup.loop(stage),
        "launcher": setup.launcher,
        "health": setup.health,
        "examples": list(collected.files.values()),
    }


def _run_stage(
    stages: Sequence[Stage], index: int, engines: "dict[str, TransformersEngine]", ledger: Ledger, setup: RunSetup
) -> Ledger:
    """Collects and trains one stage. Returns what was spent with it."""
    folder, stage = setup.folder, stages[index]
    before = stages[index - 1] if index else None
    stream, step = setup.stream(stage), collecting(stage)
    depends_on = _collect_depends(stage, before, setup)
    if not (folder.finished(step, depends_on) and folder.whole(step)):
        allowance = allowances(stages, setup.budget, ledger, index)
        facts = _collect(stage, engines, stream, ledger, allowance, setup, store.digest(depends_on))
        folder.finish(step, depends_on, [setup.examples(stage), setup.record(stage)], **facts)
    folder.check(step)
    facts = folder.facts(step)
    stream.position = facts["drawn"]
    ledger = Ledger.from_dict(facts["ledger"])
    depends_on = _train_depends(stage, setup)
    engines[stage.start].rest()
    start = engines[stage.start].local
    files = _train(stage, start, facts, ledger, setup, depends_on)
    model = fingerprints.of_model(setup.checkpoint(stage))
    facts = {"drawn": facts["drawn"], "ledger": ledger.as_dict(), "model": model, "reading": start.reading.described}
    folder.finish(stage.name, depends_on, files, **facts)
    shutil.rmtree(setup.work(stage))
    return ledger


def _collect(
    stage: Stage,
    engines: "dict[str, TransformersEngine]",
    stream: PromptStream,
    ledger: Ledger,
    allowance: float,
    setup: RunSetup,
    key: str,
) -> dict:
    """Writes the examples of a stage; what else the next steps must know of it.

    Args:
        key: of all that the examples depend on: completions that were made already are for no others.
    """
    store.write_text(setup.record(stage), "")  # collecting begins anew, with what the log of completions has
    judge_cost = setup.judge_cost() if stage.judged else None
    workbench = Workbench(
        engine=LoggedTrainableEngine(engines[stage.generator], setup.work(stage) / f"completions-{key}.jsonl"),
        ledger=ledger,
        sampling=setup.sampling,
        stage=stage.name,
        judge=setup.judge if stage.judged else None,
        most_missing=setup.most_missing,
        rejudge=setup.rejudge,
        marks=setup.marks,
        judge_cost=judge_cost,
        record=setup.record(stage),
        label=setup.label,
        shared=setup.shared.path,
    )
    cost = ledger.cost(engines[stage.start], setup.adapters(stage))
    plan = plan_stage(stage, setup.budget, setup.lengths(stage), cost, judge_cost)
    number = collect_stage(stage, workbench, stream.take, plan, setup.budget, allowance, setup.examples(stage), cost)
    ledger.charge("generate", discarded=sum(workbench.discarded.values()))
    epochs = stream.position / len(stream.prompts)
    ledger.epochs["preferences" if stage.labelled else "prompts"] = epochs
    return {
        "examples": number,
        "discarded": workbench.discarded,
        "events": workbench.events,
        "drawn": stream.position,
        "prompts": len(stream.prompts),
        "ledger": ledger.as_dict(),
    }


def _train(
    stage: Stage, start: "TransformersEngine", collected: dict, ledger: Ledger, setup: RunSetup, depends_on: dict
) -> list[Path]:
    """Trains on the examples of a stage. Returns the files and folders that are left.

    Args:
        depends_on: of the training: its state is for no other, nor are log-probabilities from other surroundings.
    """
    from harness.training.dataset import build_data
    from harness.training.reference import reference_logprobs
    from harness.training.trainer import train

    label, objective = f"{setup.label} {stage.name}", stage.objective
    work = setup.work(stage)
    examples = read_examples(setup.examples(stage))
    data = build_data(examples, work / "examples.arrow", objective.sequences, start.context_length)
    reference = None
    if objective.needs_reference:
        with progress(f"{label}: reference", len(data) * objective.sequences) as advance:
            surroundings = store.digest([depends_on.get(name) for name in READING])
            cache = setup.shared.reference / surroundings
            logged = LoggedTrainableEngine(start, work / f"reference-{surroundings}.jsonl")
            reference = reference_logprobs(logged, data, ledger, cache, advance)
    training = setup.training(stage, work / f"state-{store.digest(depends_on)}")
    with progress(f"{label}: train", round(len(data) * training.args.num_train_epochs)) as advance:
        result = train(start, data, objective, reference, training, setup.checkpoint(stage), ledger, advance)
    history = setup.folder.history(stage.name)
    store.write_jsonl(history, result.history)
    examples = read_examples(setup.examples(stage))
    health = stage_health(examples, reference, collected, setup.judge, setup.check_pairs, result.history)
    health_file = setup.folder.health(stage.name)
    store.write_json(health_file, health)
    for warning in health["warnings"]:
        print(f"warning: {label}: {warning}", file=sys.stderr)
    return [result.checkpoint, history, health_file]
