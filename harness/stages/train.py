"""Trains the stages of a method in a folder; finished steps are not repeated."""

import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.budget import Budget, Ledger
from harness.engines.base import Engine, Sampling, TrainableEngine, is_trainable
from harness.engines.logged import LoggedTrainableEngine
from harness.errors import UserError
from harness.files import store
from harness.files.folders import ArmFolder, RunFolder
from harness.judges.base import GradingJudge, Judge
from harness.methods.base import Lengths, Stage, Start, Workbench
from harness.methods.prompts import PromptStream
from harness.models import fingerprints
from harness.progress import progress
from harness.stages.collect import allowances, collect_stage, plan_stage
from harness.stages.health import Collected, stage_health
from harness.stages.intermediate import DuringTraining, Intermediate
from harness.thoughts import MARKS, Marks
from harness.training.example_file import read_examples
from harness.training.examples import Example, Objective, TrainingOptions, lora, sync_of
from harness.work import Cost, Rule

if TYPE_CHECKING:
    from harness.training.base import Training

LOOP = tuple(option.name for option in fields(TrainingOptions) if option.name != "batch_size")  # do not affect examples
SURROUNDINGS = (  # dependencies that the experiment does not choose
    *("code", "device", "engine", "environment", "launcher", "packages", "threads"),
)
READING = (*SURROUNDINGS, "attention", "dtype", "batch_size")  # what log-probabilities of given texts depend on
PACKAGES = (
    *("torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "safetensors", "numpy", "jinja2"),
)


def loop_options(stage: Stage) -> dict[str, Any]:
    """The options of a stage's training loop, by name."""
    return {name: getattr(stage.training, name) for name in LOOP}


@dataclass(frozen=True)
class HeldOut:
    """Examples that are evaluated while a stage trains, and the objective that is computed on them.

    ledger: is charged with their reading by the reference; evaluation is no part of a run's budget.
    """

    examples: Sequence[Example]
    objective: Objective
    ledger: Ledger


@dataclass(frozen=True, kw_only=True)
class RunSetup(ABC):
    """What the stages of a run have in common.

    folder: gets preferences/, checkpoints/, training/ and health/ (a file or folder per stage), and ledger.json.
    shared: folder of what several runs share: reference/ (log-probabilities), logs of endpoints.
    rule: how FLOPs are counted.
    launcher: what trainings depend on of the command that starts their processes; None where this process trains.
    check_pairs: how many pairs of each stage a judge is asked to order.
    judged_by: what judgments depend on, by name.
    most_missing, rejudge: see `harness.methods.base.Workbench`.
    marks: marks of the thoughts that are removed from completions.
    label: what progress and warnings show.
    fractions: of the budget, at which a checkpoint is kept too (`harness.stages.intermediate`); below 1, ascending.
    """

    folder: ArmFolder
    shared: RunFolder
    budget: Budget
    rule: Rule
    sampling: Sampling
    launcher: dict[str, Any] | None = None
    judge: Judge | None = None
    check_pairs: int = 0
    judged_by: dict[str, Any] | None = None
    most_missing: float = 1.0
    rejudge: bool = False
    marks: Marks = MARKS
    label: str = ""
    fractions: Sequence[float] = ()

    @abstractmethod
    def base(self) -> Engine:
        """The model that the run starts from."""

    @abstractmethod
    def load(self, checkpoint: Path) -> TrainableEngine:
        """Load the model of a stage."""

    @abstractmethod
    def depends_on(self, stage: Stage) -> dict[str, Any]:
        """Everything that a stage's results depend on, by name, except the options of its training loop; SURROUNDINGS
        are among the names."""

    @abstractmethod
    def stream(self, stage: Stage) -> PromptStream:
        """The prompts of a stage; the same stream at each call."""

    @abstractmethod
    def lengths(self, stage: Stage) -> Lengths:
        """Expected tokens of a stage's prompts and completions."""

    @abstractmethod
    def training(self, stage: Stage, state: Path) -> "Training":
        """How a stage is trained; its state is saved in the folder `state`."""

    def loop(self, stage: Stage) -> dict[str, Any]:
        """The settings of a stage's training loop, as its mark records them."""
        return loop_options(stage)

    def adapters(self, stage: Stage) -> Any:
        """The adapters that a stage trains (a LoraConfig of peft); None where it trains all weights."""
        return lora(stage.training)

    def reference(self, stage: Stage, start: TrainableEngine) -> TrainableEngine:
        """The model whose log-probabilities an objective compares with; by default the stage's start model."""
        return start

    def held_out(self, stage: Stage, engines: dict[Start, TrainableEngine]) -> HeldOut | None:
        """Examples that are evaluated while a stage trains; None where nothing is."""
        return None

    def judge_cost(self) -> Cost | None:
        """How FLOPs of the judge are counted; None where its size is not known."""
        return None

    @property
    def health(self) -> dict[str, Any] | None:
        """What the health of a stage depends on beside examples and training: who judges pairs, and how many."""
        if self.judged_by and (self.check_pairs or isinstance(self.judge, GradingJudge)):
            return {"check_pairs": self.check_pairs, **self.judged_by}
        return None

    def examples(self, stage: Stage) -> Path:
        return self.folder.preferences(stage.name)

    def record(self, stage: Stage) -> Path:
        """What models were asked while examples were made (see `Workbench.keep`)."""
        return self.folder.asked(stage.name)

    def checkpoint(self, stage: Stage) -> Path:
        return self.folder.checkpoint(stage.name)

    def work(self, stage: Stage) -> Path:
        """Folder of files that a stage needs only until it is finished."""
        return self.folder.training_work(stage.name)


def collecting(stage: Stage) -> str:
    """The name of the step that makes a stage's examples; the step that trains has the stage's name."""
    return f"{stage.name}-examples"


@dataclass(frozen=True)
class Trained:
    """The result of training.

    engine: loads the policy when it is called.
    ledger: what was spent.
    worked: whether this call did any step.
    """

    engine: Callable[[], Engine]
    ledger: Ledger
    worked: bool


def stage_steps(stages: Sequence[Stage], setup: RunSetup) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and dependencies of each step, in order. The dependencies of a step are known only once the steps
    before it are finished, so check each one before taking the next."""
    before = None
    for stage in stages:
        yield collecting(stage), _collect_depends(stage, before, setup)
        yield stage.name, _train_depends(stage, setup)
        before = stage


def intermediate(stages: Sequence[Stage], setup: RunSetup) -> Intermediate:
    """The checkpoints of a run at its fractions of the budget."""
    amount, fractions = setup.budget.amount, setup.fractions
    return Intermediate(setup.folder, setup.label, fractions, amount, stages, lambda each: _train_depends(each, setup))


def finished_stages(stages: Sequence[Stage], setup: RunSetup) -> int:
    """How many stages are finished, counted from the first.

    Raises:
        UserError: when a dependency of a finished stage has changed, naming it.
    """
    steps = stage_steps(stages, setup)
    return len(list(takewhile(lambda step: setup.folder.finished(*step), steps))) // 2


def train_stages(stages: Sequence[Stage], setup: RunSetup, needed: bool = True) -> Trained:
    """Train the stages that are not finished, and return the result of the last (the base model if there are none).

    Args:
        needed: whether the model is needed; if not, that of a finished stage may have been deleted.

    Raises:
        UserError: for anything that the user can fix; finished steps stay in the folder.
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
    current: Callable[[], Engine] = _loader(stages[done - 1], setup) if done else setup.base
    for index in range(done, len(stages)):
        engines: dict[Start, TrainableEngine] = {"base": _trainable(setup.base()), "current": _trainable(current())}
        ledger = _run_stage(stages, index, engines, ledger, setup)
        current = _loader(stages[index], setup)
    settled = intermediate(stages, setup).settle()
    store.write_json(folder.ledger, ledger.as_dict())
    return Trained(current, ledger, worked=settled or done < len(stages))


def _trainable(engine: Engine) -> TrainableEngine:
    if not is_trainable(engine):
        raise UserError(f"{engine.name} cannot be trained: give a causal language model on this machine")
    return engine


def _loader(stage: Stage, setup: RunSetup) -> Callable[[], TrainableEngine]:
    """Return a function that loads the model of a finished stage, once."""

    @cache
    def load() -> TrainableEngine:
        setup.folder.check(stage.name)
        return setup.load(setup.checkpoint(stage))

    return load


def _collect_depends(stage: Stage, before: Stage | None, setup: RunSetup) -> dict[str, Any]:
    mark = setup.folder.mark(before.name) if before else None
    return {**setup.depends_on(stage), "stage": stage.name, "stage before": mark.key if mark else None}


def _train_depends(stage: Stage, setup: RunSetup) -> dict[str, Any]:
    collected = setup.folder.mark(collecting(stage))
    if collected is None:
        raise ValueError(f"the step {collecting(stage)} is not finished")
    return {
        **collected.depends_on,
        "training": setup.loop(stage),
        "launcher": setup.launcher,
        "health": setup.health,
        "examples": list(collected.files.values()),
    }


def _run_stage(
    stages: Sequence[Stage], index: int, engines: dict[Start, TrainableEngine], ledger: Ledger, setup: RunSetup
) -> Ledger:
    """Collect examples for one stage and train on them; return the ledger including this stage."""
    from harness.engines import memory

    folder, stage = setup.folder, stages[index]
    before = stages[index - 1] if index else None
    stream, step = setup.stream(stage), collecting(stage)
    depends_on = _collect_depends(stage, before, setup)
    if not (folder.finished(step, depends_on) and folder.whole(step)):
        allowance = allowances(stages, setup.budget, ledger, index)
        made = _collect(stage, engines, stream, ledger, allowance, setup, store.digest(depends_on))
        folder.finish(step, depends_on, [setup.examples(stage), setup.record(stage)], **made)
    folder.check(step)
    facts = folder.facts(step)
    collected = Collected(
        examples=facts["examples"],
        discarded=facts["discarded"],
        events=facts["events"],
        drawn=facts["drawn"],
        epochs=facts["epochs"],
        sources=facts["sources"],
        ledger=facts["ledger"],
    )
    stream.position = collected["drawn"]
    ledger = Ledger.from_dict(collected["ledger"])
    depends_on = _train_depends(stage, setup)
    held_out = setup.held_out(stage, engines)
    engines[stage.start].rest()
    start = engines[stage.start].local
    files = _train(stages, index, start, collected, ledger, setup, depends_on, held_out)
    folder.finish(
        stage.name,
        depends_on,
        files,
        drawn=collected["drawn"],
        ledger=ledger.as_dict(),
        model=fingerprints.of_model(setup.checkpoint(stage)),
        reading=start.reading.described,
    )
    shutil.rmtree(setup.work(stage))
    del start
    memory.free()  # the trainer's copies of the model are parts of cycles
    return ledger


def _collect(
    stage: Stage,
    engines: dict[Start, TrainableEngine],
    stream: PromptStream,
    ledger: Ledger,
    allowance: float,
    setup: RunSetup,
    key: str,
) -> Collected:
    """Write the examples of a stage, and return what later steps must know about it.

    Args:
        key: digest of everything that the examples depend on; completions are reused only under the same key.
    """
    store.write_text(setup.record(stage), "")  # collecting starts again, with the completions in the log
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
    ledger.epochs["preferences" if stage.labelled else "prompts"] = stream.epochs
    return {
        "examples": number,
        "discarded": workbench.discarded,
        "events": workbench.events,
        "drawn": stream.position,
        "epochs": stream.epochs,
        "sources": stream.drawn,
        "ledger": ledger.as_dict(),
    }


def _train(
    stages: Sequence[Stage],
    index: int,
    start: TrainableEngine,
    collected: Collected,
    ledger: Ledger,
    setup: RunSetup,
    depends_on: dict[str, Any],
    held_out: HeldOut | None,
) -> list[Path]:
    """Train on the examples of a stage, and return the files and folders that it leaves.

    Args:
        depends_on: what the training depends on; its state, and log-probabilities of the reference under its
            surroundings, are reused only under the same dependencies.
    """
    from harness.training.dataset import build_data
    from harness.training.evaluation import Evaluation
    from harness.training.reference import reference_logprobs
    from harness.training.trainer import train

    stage = stages[index]
    label, objective = f"{setup.label} {stage.name}", stage.objective
    work, reference_engine = setup.work(stage), setup.reference(stage, start)
    examples = read_examples(setup.examples(stage))
    data = build_data(examples, work / "examples.arrow", objective.sequences, start.context_length)
    reference = None
    if objective.needs_reference and not sync_of(objective):
        with progress(f"{label}: reference", len(data) * objective.sequences) as advance:
            surroundings = store.digest([depends_on.get(name) for name in READING])
            cache = setup.shared.reference / surroundings
            logged = LoggedTrainableEngine(reference_engine, work / f"reference-{surroundings}.jsonl")
            reference = reference_logprobs(logged, data, ledger, cache, advance)
    training = setup.training(stage, work / f"state-{store.digest(depends_on)}")
    if held_out:
        rows = build_data(
            held_out.examples, work / "evaluation.arrow", held_out.objective.sequences, start.context_length
        )
        needs = held_out.objective.needs_reference
        compared = reference_logprobs(reference_engine, rows, held_out.ledger) if needs else None
        training = replace(training, evaluation=Evaluation(rows, held_out.objective, compared))
    along = DuringTraining(intermediate(stages, setup), stage, start, data, training, ledger)
    training = replace(training, snapshots=along.snapshots)
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
    along.keep(result.checkpoint)
    if not held_out:
        return [result.checkpoint, history, health_file]
    evaluations = setup.folder.evaluations(stage.name)
    store.write_jsonl(evaluations, result.evaluations)
    flops = len(result.evaluations) * held_out.ledger.cost(start).forward(rows.work)
    held_out.ledger.charge("evaluate", flops, prompt_tokens=len(result.evaluations) * int(rows.work.read))
    spent = setup.folder.evaluation_ledger(stage.name)
    store.write_json(spent, held_out.ledger.as_dict())
    return [result.checkpoint, history, health_file, evaluations, spent]
