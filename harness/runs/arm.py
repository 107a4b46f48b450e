"""One arm of an experiment: a method with a seed, trained and scored in its own folder."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.benchmarks.base import Policy, step_names
from harness.budget import Ledger
from harness.engines.base import Engine, Sampling, TrainableEngine
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import sources, store
from harness.files.disk import disk_errors
from harness.files.folders import RunFolder
from harness.methods.base import Lengths, Method, Stage
from harness.methods.prompts import PromptStream
from harness.models import fingerprints
from harness.results.tuning_record import choice
from harness.runs.checkpoints import Checkpoint
from harness.runs.engine_choice import described, load_engine, threads_of, use_threads
from harness.runs.inputs import Inputs
from harness.runs.judge_choice import described_judge, judge_module
from harness.runs.processes import launch_dependencies
from harness.runs.scoring import Scoring
from harness.signals import GO_ON
from harness.stages.intermediate import Intermediate, policy_stages
from harness.stages.plan import judge_cost, measure_lengths
from harness.stages.train import (
    LOOP,
    PACKAGES,
    RunSetup,
    Trained,
    collecting,
    intermediate,
    stage_steps,
    train_stages,
)
from harness.thoughts import parse_marks
from harness.training.tracking import scores_and_spending, tracking
from harness.types import Prompt
from harness.work import Cost

if TYPE_CHECKING:
    from harness.training.base import Training


class Arm:
    """A method with a seed.

    label: its name in messages. folder: its own, in the run folder `root`. worked: whether this call did any step.
    """

    def __init__(self, experiment: Experiment, method: str, seed: int, root: RunFolder):
        self.experiment, self.name, self.seed, self.root = experiment, method, seed, root
        self.label = f"{method} seed {seed}"
        self.folder = root.arm(method, seed)
        self.benchmarks = experiment.benchmark_names()
        self.method: Method = experiment.method(method)
        self.worked = False

    def __reduce__(self) -> tuple[Any, ...]:
        """How another process builds the same arm."""
        return type(self), (self.experiment, self.name, self.seed, self.root)

    def is_tuned(self) -> bool:
        """Whether its options are known: nothing is tuned, or tuning has chosen them."""
        return not self.experiment.tuned(self.name) or choice(self.root.path, self.name) is not None

    @cached_property
    def options(self) -> Any:
        """The options of the method in the experiment, with those that tuning chose.

        Raises:
            UserError: when the method is tuned, and its tuning is not finished.
        """
        options = self.experiment.method_options(self.name)
        if not self.experiment.tuned(self.name):
            return options
        if (chosen := choice(self.root.path, self.name)) is None:
            raise UserError(f"{self.root.path}: the tuning of {self.name} is not finished: {GO_ON}")
        return replace(options, **chosen)

    @cached_property
    def stages(self) -> list[Stage]:
        return self.method.stages(self.options)

    @property
    def fractions(self) -> tuple[float, ...]:
        """The fractions of its budget with a checkpoint along the way; a kind of arm without any overrides this."""
        return self.experiment.fractions if self.experiment.stages(self.name) else ()

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints along the way, the earliest first."""
        return [Checkpoint(self, fraction) for fraction in self.fractions]

    def intermediate(self, inputs: Inputs) -> Intermediate:
        """How these checkpoints are made."""
        return intermediate(self.stages, self.setup(inputs))

    def training_steps(self) -> list[str]:
        """Names of the steps of training, in order; they do not depend on what tuning chooses."""
        stages = self.experiment.stages(self.name)
        return [name for stage in stages for name in (collecting(stage), stage.name)]

    def steps(self) -> list[str]:
        """Names of all steps, each before those that depend on it."""
        return [*self.training_steps(), *chain.from_iterable(map(step_names, self.benchmarks))]

    def damage(self, step: str) -> Iterator[str]:
        """What is wrong with the files of a finished step, one text per problem."""
        return self.folder.damage(step)

    def forget(self, step: str) -> bool:
        """Forget that a step, and those that depend on it, were done. Returns whether the arm has such a step."""
        for steps in (*map(step_names, self.benchmarks), self.steps()):  # nothing depends on steps of a benchmark
            if step in steps:
                forgotten = steps[steps.index(step) :]
                for each in forgotten:
                    self.folder.forget(each)
                for checkpoint in self.checkpoints:
                    checkpoint.forget(step, forgotten)
                return True
        return False

    def stage_steps(self, inputs: Inputs) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and dependencies of each step of training (`harness.stages.train.stage_steps`)."""
        return stage_steps(self.stages, self.setup(inputs))

    def trained(self, inputs: Inputs) -> bool:
        """Whether all stages are finished.

        Raises:
            UserError: when a finished stage depends on something that has changed since, naming it.
        """
        return all(self.folder.finished(*step) for step in self.stage_steps(inputs))

    def check(self, inputs: Inputs) -> None:
        """
        Raises:
            UserError: when a finished step depends on something that has changed since, naming it.
        """
        if self.trained(inputs):
            self.intermediate(inputs).check()
            for scoring in chain(self.scorings(inputs), *(each.scorings(inputs) for each in self.checkpoints)):
                scoring.finished()

    def scorings(self, inputs: Inputs) -> list[Scoring]:
        return [Scoring(self, name, inputs) for name in self.benchmarks]

    def learn(self, inputs: Inputs) -> None:
        """Train, but do not score: `run` does that later, in another process or on another machine."""
        start = time.perf_counter()
        if not self.trained(inputs):
            self.train(inputs)
            self._book_seconds(time.perf_counter() - start, 0.0)

    def run(self, inputs: Inputs) -> None:
        """Train, where that is not finished, and score."""
        start = time.perf_counter()
        trained = self.train(inputs)
        middle = time.perf_counter()
        for scoring in self.scorings(inputs):
            self.worked |= scoring.run(trained.engine)
        del trained
        gc.collect()  # one policy in memory at a time: models are parts of cycles
        for checkpoint in self.checkpoints:
            self.worked |= checkpoint.run(inputs)
        self._track()
        self._book_seconds(middle - start, time.perf_counter() - middle)

    def spent(self) -> Ledger | None:
        """What was spent until training had ended."""
        return Ledger.from_dict(store.read_json(self.folder.ledger))

    def _track(self) -> None:
        """Send the scores and what was spent to the tracker, unless all steps were already finished: those of the
        checkpoints along the way, then those at the end."""
        experiment = self.experiment
        run = tracking(experiment.report_to, experiment.name, f"{self.label} scores", self.root.path)
        if run is None or not self.worked:
            return
        scored: list[Arm | Checkpoint] = [*self.checkpoints, self]
        rows = []
        for each in scored:
            files = {name: each.folder.score(name) for name in each.benchmarks}
            scores = {name: store.read_json(file)["value"] for name, file in files.items() if file.exists()}
            if spent := each.spent():
                rows.append((spent.total.updates, scores_and_spending(scores, spent)))
        run.report(rows)

    def _book_seconds(self, training: float, scoring: float) -> None:
        """Add to the wall time of earlier calls, unless all steps were already finished."""
        file = self.folder.seconds
        if file.exists() and not self.worked:
            return
        before = store.read_json(file) if file.exists() else {"training": 0.0, "scoring": 0.0}
        seconds = {"training": before["training"] + training, "scoring": before["scoring"] + scoring}
        store.write_json(file, seconds)

    def seconds(self) -> dict[str, float]:
        """Wall time of training (data generation included) and of scoring."""
        return store.read_json(self.folder.seconds)

    def train(self, inputs: Inputs) -> Trained:
        """Train the policy; the folder then has the files of each stage and the ledger."""
        needed = not (self.trained(inputs) and all(scoring.answered() for scoring in self.scorings(inputs)))
        trained = train_stages(self.stages, self.setup(inputs), needed)
        self.worked |= trained.worked
        return trained

    def model(self, inputs: Inputs) -> dict[str, str]:
        """Digests of the parts of the finished policy."""
        return self.folder.facts(self.stages[-1].name)["model"] if self.stages else inputs.model

    @property
    def beta(self) -> float | None:
        """The factor of the implicit reward, for methods with an option of this name; None for others."""
        return asdict(self.options).get("beta")

    def policy(self, engine: Callable[[], Engine], inputs: Inputs) -> Policy:
        """The model to score; with its reference, where it was trained."""
        if not self.stages:
            return Policy(engine(), folder=self.folder.path)
        return Policy(
            engine(),
            reference=inputs.base,
            beta=1.0 if self.beta is None else self.beta,
            pairs=self.pairs(),
            folder=self.folder.path,
        )

    def setup(self, inputs: Inputs) -> RunSetup:
        """What its stages share; a kind of arm that trains in another way overrides this."""
        experiment = self.experiment
        return ArmSetup(
            folder=self.folder,
            shared=self.root,
            budget=experiment.cap,
            rule=experiment.ledger,
            sampling=Sampling(experiment.new_tokens, experiment.temperature, experiment.top_p, self.seed),
            launcher=launch_dependencies(experiment),
            judge=inputs.judge,
            check_pairs=experiment.check_pairs,
            judged_by=described_judge(experiment, inputs.judge),
            most_missing=1.0 if experiment.accept_missing else experiment.judge_missing,
            rejudge=experiment.rejudge,
            marks=parse_marks(experiment.thought_marks),
            label=self.label,
            fractions=self.fractions,
            arm=self,
            inputs=inputs,
            streams={
                labelled: PromptStream(inputs.labelled if labelled else inputs.prompts, self.seed)
                for labelled in {stage.labelled for stage in self.stages}
            },
        )

    def load(self, path: Path) -> TrainableEngine:
        use_threads(self.experiment)
        return load_engine(self.experiment, path)

    def _depends_on(self, stage: Stage, inputs: Inputs) -> dict[str, Any]:
        experiment = self.experiment
        named = ("temperature", "top_p", "completion_tokens", "attention", "date", "dtype", "batch_size")
        judged_by = described_judge(experiment, inputs.judge) if stage.judged else {}
        if stage.judged:
            judged_by = {**judged_by, "judge parameters": experiment.judge_parameters}
        judge = [judge_module(experiment)] if stage.judged and judge_module(experiment) else []
        roots = (sources.TRAINING, type(self.method).__module__, *judge)
        return {
            "method": self.method.name,
            "options": {name: value for name, value in asdict(self.options).items() if name not in LOOP},
            "option files": fingerprints.of_named(vars(self.options).values()),
            "seed": self.seed,
            "budget": str(experiment.cap),
            "ledger": experiment.ledger,
            "max_new_tokens": experiment.new_tokens,
            **{name: getattr(experiment, name) for name in named},
            **({"thought marks": marks} if (marks := experiment.thought_marks) else {}),
            "model": inputs.model,
            "preferences" if stage.labelled else "prompts": (
                inputs.labelled_digest if stage.labelled else inputs.prompts_digest
            ),
            **({"answers": inputs.answers_digest} if stage.rows == "answers" else {}),
            "judge": None,
            **judged_by,
            "device": fingerprints.of_device(experiment.device),
            "engine": described(experiment),
            "environment": fingerprints.of_environment(),
            "threads": threads_of(experiment),
            "packages": fingerprints.of_packages(*PACKAGES, *sources.packages(*roots)),
            "code": sources.digest(*roots),
        }

    def _training(self, stage: Stage, state: Path) -> "Training":
        import torch

        from harness.engines.loading import choose_device, choose_dtype
        from harness.runs.processes import launch_command
        from harness.training.base import ProcessGroup, Training
        from harness.training.examples import lora
        from harness.training.trainer import training_arguments

        experiment = self.experiment
        device = choose_device(experiment.device)
        bf16 = choose_dtype(experiment.dtype, device) == torch.bfloat16
        launcher = launch_command(experiment)
        return Training(
            training_arguments(stage.training, state, self.seed, device != "cpu", bf16),
            lora(stage.training),
            tracking=tracking(experiment.report_to, experiment.name, f"{self.label} {stage.name}", self.root.path),
            processes=ProcessGroup(launcher, stage.training, experiment.trust_remote_code) if launcher else None,
        )

    def example_files(self) -> dict[Path, str]:
        """The files of the examples of all stages, with their SHA-256."""
        files = [(self.folder.preferences(stage.name), collecting(stage)) for stage in self.stages]
        return {file: self.folder.files(step)[str(file.relative_to(self.folder.path))] for file, step in files}

    def pairs(self) -> list[Prompt] | None:
        """The pairs that the policy was trained on: those of its last stage and of the stages it continued from."""
        rows = []
        for stage in policy_stages(self.stages):
            self.folder.check(collecting(stage))
            rows += store.read_jsonl(self.folder.preferences(stage.name))
        pairs = [Prompt.of_record(row) for row in rows if {"chosen", "rejected"} <= row.keys()]
        return pairs or None


@dataclass(frozen=True, kw_only=True)
class ArmSetup(RunSetup):
    """How the stages of an arm run. streams: of prompts, and of labelled pairs (by `Stage.labelled`)."""

    arm: Arm
    inputs: Inputs
    streams: dict[bool, PromptStream]

    def base(self) -> Engine:
        return self.inputs.base

    def load(self, checkpoint: Path) -> TrainableEngine:
        return self.arm.load(checkpoint)

    def depends_on(self, stage: Stage) -> dict[str, Any]:
        return self.arm._depends_on(stage, self.inputs)

    def stream(self, stage: Stage) -> PromptStream:
        return self.streams[stage.labelled]

    def lengths(self, stage: Stage) -> Lengths:
        return measure_lengths(self.arm.experiment, self.stream(stage).prompts)

    def training(self, stage: Stage, state: Path) -> "Training":
        return self.arm._training(stage, state)

    def judge_cost(self) -> Cost | None:
        return judge_cost(self.arm.experiment)


def failure_of(work: Callable[[Inputs], None], inputs: Callable[[], Inputs]) -> UserError | None:
    """Do some work of an arm. Returns what the user is told when it fails."""
    try:
        with disk_errors():
            work(inputs())
    except UserError as error:
        return error
    return None
