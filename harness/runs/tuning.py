"""Equal tuning: the same number of trials for every method, scored on prompts that no method trains on.

A trial is an arm with options from the search space of its method, a seed that no run has, and the budget of a run. All
runs of a method use the options of its best trial; of equal ones, the earlier wins.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from harness.benchmarks.base import Questions, Settings, step_names
from harness.benchmarks.loading import CompleteBenchmark
from harness.budget import Ledger
from harness.errors import CannotTrain, UserError
from harness.experiment.options import MOST_SEEDS, Experiment
from harness.files import store
from harness.files.folders import RunFolder
from harness.results.tuning_record import TrialRecord, TrialRow
from harness.runs.arm import Arm
from harness.runs.development import NAME, Development, DevelopmentOptions
from harness.runs.inputs import Inputs
from harness.runs.scoring import Scoring
from harness.runs.workers import run_arms
from harness.stages.collect import plan_stage
from harness.stages.plan import cost_of
from harness.stages.train import RunSetup
from harness.types import Prompt
from harness.work import sampled, total

SEED = MOST_SEEDS  # seeds of runs are smaller
FAILED = "failed"  # the step of a trial that failed


class Trial(Arm):
    """One configuration of a method, trained with SEED and scored on the development prompts."""

    def __init__(self, experiment: Experiment, method: str, number: int, root: RunFolder):
        super().__init__(experiment, method, SEED, root)
        self.number = number
        self.label = f"{method} trial {number}"
        self.folder = root.trial(method, number)
        self.benchmarks = (NAME,)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.experiment, self.name, self.number, self.root)

    @cached_property
    def options(self) -> Any:
        return self.experiment.trial_options(self.name)[self.number]

    def is_tuned(self) -> bool:
        return True

    @property
    def fractions(self) -> tuple[float, ...]:
        """None: tuning chooses by the score at the end."""
        return ()

    def steps(self) -> list[str]:
        return [*super().steps(), FAILED]

    def scorings(self, inputs: Inputs) -> list[Scoring]:
        return [DevelopmentScoring(self, NAME, inputs)]

    def setup(self, inputs: Inputs) -> RunSetup:
        """The setup of a run, except that no judge checks the pairs of a trial."""
        return replace(super().setup(inputs), check_pairs=0)

    def learn(self, inputs: Inputs) -> None:
        with self._failing(inputs):
            super().learn(inputs)

    def run(self, inputs: Inputs) -> None:
        """Write the score, or why there is none, and delete the models: runs train with the chosen options again."""
        if not self.over(inputs):
            with self._failing(inputs):
                super().run(inputs)
        self.drop_models()

    @contextmanager
    def _failing(self, inputs: Inputs) -> Iterator[None]:
        self.folder.forget(FAILED)
        try:
            yield
        except CannotTrain as error:
            self._fail(inputs, str(error))

    def drop_models(self) -> None:
        shutil.rmtree(self.folder.checkpoints, ignore_errors=True)  # absent where training failed at once

    def damage(self, step: str) -> Iterator[str]:
        """Problems of a finished step, without the models, which are deleted."""
        return (found for found in super().damage(step) if not found.startswith(str(self.folder.checkpoints)))

    def is_outdated(self, inputs: Inputs) -> bool:
        """Whether a finished step depends on something that has changed since."""
        try:
            self.check(inputs)
        except UserError:
            return True
        return False

    def over(self, inputs: Inputs) -> bool:
        """Whether there is nothing left to do.

        Raises:
            UserError: when a finished step depends on something that has changed since, naming it.
        """
        if unfinished := self._unfinished(inputs):
            mark = self.folder.mark(FAILED)
            return mark is not None and mark.key == store.digest(unfinished)
        (scoring,) = self.scorings(inputs)
        return scoring.finished() and all(map(self.folder.whole, step_names(NAME)))

    def _unfinished(self, inputs: Inputs) -> dict[str, Any] | None:
        """The first step of training that is not finished, and what it depends on."""
        for step, depends_on in self.stage_steps(inputs):
            if not self.folder.finished(step, depends_on):
                return {"step": step, **depends_on}
        return None

    def _fail(self, inputs: Inputs, reason: str) -> None:
        """Mark the trial as failed, charged with everything that was planned for it."""
        setup, ledger = self.setup(inputs), Ledger(rule=self.experiment.ledger)
        for stage in self.stages:
            cost = cost_of(self.experiment, setup.adapters(stage))
            judge = setup.judge_cost() if stage.judged else None
            plan = plan_stage(stage, setup.budget, setup.lengths(stage), cost, judge)
            ledger.charge("generate", plan.generate_flops, prompt_tokens=plan.generate_tokens)
            ledger.charge("reference", plan.reference_flops, prompt_tokens=plan.reference_tokens)
            ledger.charge("train", plan.train_flops, trained_tokens=plan.trained_tokens, updates=plan.updates)
        store.write_json(self.folder.ledger, ledger.as_dict())
        self.folder.finish(FAILED, self._unfinished(inputs) or {}, [self.folder.ledger], reason=reason)
        print(f"warning: {self.label} has no score: {reason}", file=sys.stderr)

    def ledger(self) -> Ledger:
        """What training and the scored answers cost."""
        spent = replace(Ledger.from_dict(store.read_json(self.folder.ledger)), cap=None)
        if self.folder.mark(FAILED):
            return spent
        samples = store.read_jsonl(self.folder.samples(NAME))
        answers = total(sampled(sample["prompt_tokens"], sample["tokens"]) for sample in samples)
        spent.charge(
            NAME,
            cost_of(self.experiment).forward(answers),
            calls=len(samples),
            prompt_tokens=sum(sample["prompt_tokens"] for sample in samples),
            generated_tokens=sum(sample["tokens"] for sample in samples),
        )
        return spent

    def row(self) -> TrialRow:
        """Its row in trials.json, not yet chosen."""
        experiment, failed = self.experiment, self.folder.mark(FAILED)
        score = {} if failed else store.read_json(self.folder.score(NAME))
        tuned = experiment.tuned(self.name)
        return {
            "method": self.name,
            "trial": self.number,
            "options": {name: getattr(self.options, name) for name in tuned},
            "fixed": [name for name in experiment.search_space(self.name) if name not in tuned],
            "score": score.get("value"),
            "metric": score.get("metric"),
            "judge": score.get("judge"),
            "questions": score.get("questions"),
            "missing": score.get("missing"),
            "unparsed": score.get("unparsed"),
            "failed": failed.facts["reason"] if failed else None,
            "ledger": {name: amount for name, amount in asdict(self.ledger().total).items() if name != "seconds"},
            "chosen": False,
        }


class DevelopmentScoring(Scoring):
    """The answers of a trial to the development prompts, sampled like training data, and their ratings."""

    def asked(self) -> tuple[CompleteBenchmark, Settings]:
        """The development prompts as a benchmark, answered with the sampling of training."""
        experiment, benchmark = self.arm.experiment, Development()
        options = DevelopmentOptions(experiment.top_p)
        settings = Settings(self.arm.seed, experiment.temperature, experiment.new_tokens, options=options)
        return benchmark, settings

    @property
    def system_prompt(self) -> str | None:
        """None, because training data are sampled without one."""
        return None

    @property
    def thinking(self) -> str | None:
        """None, for the same reason."""
        return None

    @cached_property
    def items(self) -> Questions:
        return Questions(_question(prompt) for prompt in self.inputs.development)


def _question(prompt: Prompt) -> dict[str, Any]:
    """A prompt with everything that its chat template gets."""
    record = prompt.record
    return {"id": prompt.id, "messages": record.pop("prompt"), **record}


def trials_of(experiment: Experiment, root: RunFolder) -> list[Trial]:
    """All trials of the methods that are tuned, in the order in which they run."""
    tuned = [arm for arm in experiment.arms() if experiment.tuned(arm)]
    return [Trial(experiment, arm, number, root) for arm in tuned for number in range(experiment.tune)]


def check_arms(root: RunFolder, arms: Sequence[Arm], inputs: Inputs) -> None:
    """Check the arms whose options are known before tuning.

    Raises:
        UserError: when a finished step depends on something that has changed since, naming it.
    """
    for arm in arms:
        if arm.is_tuned():
            arm.check(inputs)
        elif arm.folder.mark(first := arm.training_steps()[0]) and not root.tuning.exists():
            raise UserError(
                f"{arm.folder.path}: was trained without tuning, on prompts that tuning now holds out: use another "
                f"--name, or train it again: --restart-from {first}"
            )


def tune(
    experiment: Experiment,
    root: RunFolder,
    trials: Sequence[Trial],
    inputs: Inputs,
    jobs: int,
    ray: str | None = None,
) -> None:
    """Run the trials that are not over, and write the results of all.

    Raises:
        UserError: when no trial of a method has a score.
    """
    if not experiment.tune:
        root.trials.unlink(missing_ok=True)
        return
    for arm in experiment.arms():
        if fixed := [name for name in experiment.search_space(arm) if name not in experiment.tuned(arm)]:
            print(f"{arm}: not tuned, because set by the user: {', '.join(fixed)}", file=sys.stderr)
    waiting = [trial for trial in trials if not trial.over(inputs)]
    run_arms(experiment, root, waiting, inputs, jobs, ray)
    for trial in trials:
        trial.drop_models()  # left by a call that was killed
    for method, spent in ledgers(trials).items():
        store.write_json(root.tuning_ledger(method), spent.as_dict())
    content = record(trials, experiment.command)
    store.write_json(root.trials, content)
    for row in content["trials"]:
        if row["chosen"]:
            values = ", ".join(f"{name} {value:g}" for name, value in row["options"].items())
            choice = f"trial {row['trial']} of {experiment.tune}, {row['metric']} {row['score']:.2f}: {values}"
            print(f"{row['method']}: tuning chose {choice}", file=sys.stderr)


def ledgers(trials: Sequence[Trial]) -> dict[str, Ledger]:
    """Method -> what its trials, all of them over, spent together."""
    spent: dict[str, Ledger] = {}
    for trial in trials:
        spent.setdefault(trial.name, Ledger(rule=trial.experiment.ledger)).add(trial.ledger())
    return spent


def record(trials: Sequence[Trial], command: str) -> TrialRecord:
    """The content of trials.json for trials that are over, from their own files.

    Raises:
        UserError: when no trial of a method has a score.
    """
    rows: list[TrialRow] = []
    for method, group in groupby((trial.row() for trial in trials), lambda row: row["method"]):
        of_method = list(group)
        scores = {row["trial"]: row["score"] for row in of_method if row["score"] is not None}
        if not scores:
            why = next((row["failed"] for row in of_method if row["failed"]), "no answer has a rating by the judge")
            raise UserError(f"no trial of {method} has a score: {why}")
        best = max(scores, key=scores.__getitem__)  # the first of equal ones
        for row in of_method:
            row["chosen"] = row["trial"] == best
        rows += of_method
    return {"command": command, "trials": rows}
