"""Equal tuning: the same number of trials for every method, scored on prompts that no method trains on.

A trial is an arm with options of the method's search space, with a seed that no run has and the budget that every run
has. The options of the best trial, ties going to the earlier one, are those of all of the method's runs.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from harness.benchmarks.base import Benchmark, Questions, Settings, step_names
from harness.budget import Ledger
from harness.errors import UserError
from harness.experiment.options import MOST_SEEDS, Experiment
from harness.files import store
from harness.files.marks import Folder
from harness.results.tuning_record import FILE, document
from harness.runs.arm import Arm
from harness.runs.development import NAME, Development
from harness.runs.inputs import Inputs
from harness.runs.scoring import Scoring
from harness.runs.workers import run_arms
from harness.stages.collect import NoExamples, plan_stage
from harness.stages.plan import cost_of
from harness.stages.train import RunSetup
from harness.types import Prompt
from harness.work import sampled, total

SEED = MOST_SEEDS  # runs have smaller ones
FAILED = "failed"  # the step of a trial that came to no end


class Trial(Arm):
    """One configuration of a method, trained with SEED and scored on the development prompts."""

    def __init__(self, experiment: Experiment, method: str, number: int, root: Folder):
        super().__init__(experiment, method, SEED, root)
        self.number = number
        self.label = f"{method} trial {number}"
        self.folder = root.folder(FILE.parts[0]).folder(method).folder(f"trial-{number}")
        self.benchmarks = (NAME,)

    def __reduce__(self) -> tuple:
        return type(self), (self.experiment, self.name, self.number, self.root)

    @cached_property
    def options(self) -> Any:
        return self.experiment.trial_options(self.name)[self.number]

    def is_tuned(self) -> bool:
        return True

    def steps(self) -> list[str]:
        return [*super().steps(), FAILED]

    def scorings(self, inputs: Inputs) -> list[Scoring]:
        return [DevelopmentScoring(self, NAME, inputs)]

    def _setup(self, inputs: Inputs) -> RunSetup:
        return replace(super()._setup(inputs), check_pairs=0)  # an LLM judge looks at the pairs of runs only

    def learn(self, inputs: Inputs) -> None:
        with self._failing(inputs):
            super().learn(inputs)

    def run(self, inputs: Inputs) -> None:
        """Leaves a score, or why there is none. Its models go: the chosen options are trained anew."""
        if not self.over(inputs):
            with self._failing(inputs):
                super().run(inputs)
        self.drop_models()

    @contextmanager
    def _failing(self, inputs: Inputs) -> Iterator[None]:
        from harness.training.base import TrainingDiverged

        self.folder.forget(FAILED)
        try:
            yield
        except (TrainingDiverged, NoExamples) as error:
            self._fail(inputs, str(error))

    def drop_models(self) -> None:
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)  # not there where training has failed at once

    def damage(self, step: str) -> Iterator[str]:
        return (found for found in super().damage(step) if not found.startswith(str(self.folder / "checkpoints")))

    def is_outdated(self, inputs: Inputs) -> bool:
        """Whether a finished step was made from other things than it depends on now."""
        try:
            self.check(inputs)
        except UserError:
            return True
        return False

    def over(self, inputs: Inputs) -> bool:
        """Whether there is nothing left to do.

        Raises:
            UserError: when a finished step was made from other things than it depends on now, naming them.
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
        """Marks the trial as failed, charged with all that was planned for it."""
        setup, ledger = self._setup(inputs), Ledger(rule=self.experiment.ledger)
        for stage in self.stages:
            cost = cost_of(self.experiment, setup.adapters(stage))
            judge = setup.judge_cost() if stage.judged else None
            plan = plan_stage(stage, setup.budget, setup.lengths(stage), cost, judge)
            ledger.charge("generate", plan.generate_flops, prompt_tokens=plan.generate_tokens)
            ledger.charge("reference", plan.reference_flops, prompt_tokens=plan.reference_tokens)
            ledger.charge("train", plan.train_flops, trained_tokens=plan.trained_tokens, updates=plan.updates)
        store.write_json(file := self.folder / "ledger.json", ledger.as_dict())
        self.folder.finish(FAILED, self._unfinished(inputs), [file], reason=reason)
        print(f"warning: {self.label} has no score: {reason}", file=sys.stderr)

    def ledger(self) -> Ledger:
        """What was spent on training and on the answers that were scored."""
        spent = replace(Ledger.from_dict(store.read_json(self.folder / "ledger.json")), cap=None)
        if self.folder.mark(FAILED):
            return spent
        samples = store.read_jsonl(self.folder / "samples" / f"{NAME}.jsonl")
        answers = total(sampled(sample["prompt_tokens"], sample["tokens"]) for sample in samples)
        spent.charge(
            NAME,
            cost_of(self.experiment).forward(answers),
            calls=len(samples),
            prompt_tokens=sum(sample["prompt_tokens"] for sample in samples),
            generated_tokens=sum(sample["tokens"] for sample in samples),
        )
        return spent

    def row(self) -> dict[str, Any]:
        """What trials.json says of it, without whether it was chosen."""
        experiment, failed = self.experiment, self.folder.mark(FAILED)
        score = {} if failed else store.read_json(self.folder / "scores" / f"{NAME}.json")
        tuned = experiment.tuned(self.name)
        return {
            "method": self.name,
            "trial": self.number,
            "options": {name: getattr(self.options, name) for name in tuned},
            "fixed": [name for name in experiment.search_space(self.name) if name not in tuned],
            "score": score.get("value"),
            **{name: score.get(name) for name in ("metric", "judge", "questions", "missing", "unparsed")},
            "failed": failed.facts["reason"] if failed else None,
            "ledger": {name: amount for name, amount in asdict(self.ledger().total).items() if name != "seconds"},
        }


class DevelopmentScoring(Scoring):
    """The answers of a trial to the development prompts, sampled as training data are, and their ratings."""

    def _asked(self) -> tuple[Benchmark, Settings]:
        experiment, benchmark = self.arm.experiment, Development()
        options = benchmark.Options(experiment.top_p)
        settings = Settings(self.arm.seed, experiment.temperature, experiment.max_new_tokens, options=options)
        return benchmark, settings

    @property
    def system_prompt(self) -> str | None:
        """None: training data are sampled without one."""
        return None

    @property
    def thinking(self) -> str | None:
        """None, for the same reason."""
        return None

    @cached_property
    def items(self) -> Questions:
        return Questions(_question(prompt) for prompt in self.inputs.development)


def _question(prompt: Prompt) -> dict[str, Any]:
    """A prompt with all that its chat template is given."""
    given = prompt.record
    return {"id": prompt.id, "messages": given.pop("prompt"), **given}


def trials_of(experiment: Experiment, root: Folder) -> list[Trial]:
    """All trials of the methods that have options to choose, in the order in which they run."""
    tuned = [arm for arm in experiment.arms() if experiment.tuned(arm)]
    return [Trial(experiment, arm, number, root) for arm in tuned for number in range(experiment.tune)]


def check_arms(root: Folder, arms: Sequence[Arm], inputs: Inputs) -> None:
    """Checks the arms whose options are known before their method is tuned.

    Raises:
        UserError: when a finished step was made from other things than it depends on now, naming them.
    """
    for arm in arms:
        if arm.is_tuned():
            arm.check(inputs)
        elif arm.folder.mark(first := arm.training_steps()[0]) and not (root / FILE.parent).exists():
            raise UserError(
                f"{arm.folder.path}: was trained without tuning, also on prompts that tuning keeps: take another "
                f"folder (--name), or train it anew: --restart-from {first}"
            )


def tune(
    experiment: Experiment,
    root: Folder,
    trials: Sequence[Trial],
    inputs: Inputs,
    jobs: int,
    ray: str | None = None,
) -> None:
    """Runs the trials that are not over, and writes what came of all.

    Raises:
        UserError: when no trial of a method has a score.
    """
    if not experiment.tune:
        (root / FILE).unlink(missing_ok=True)
        return
    for arm in experiment.arms():
        if fixed := [name for name in experiment.search_space(arm) if name not in experiment.tuned(arm)]:
            print(f"{arm}: not tuned, because it is set: {', '.join(fixed)}", file=sys.stderr)
    waiting = [trial for trial in trials if not trial.over(inputs)]
    run_arms(experiment, root, waiting, inputs, jobs, ray)
    for trial in trials:
        trial.drop_models()  # that a run left which was killed
    for method, spent in ledgers(trials).items():
        store.write_json(root / FILE.parent / method / "ledger.json", spent.as_dict())
    found = rows(trials)
    store.write_json(root / FILE, document(found, experiment.command))
    for row in found:
        if row["chosen"]:
            values = ", ".join(f"{name} {value:g}" for name, value in row["options"].items())
            choice = f"trial {row['trial']} of {experiment.tune}, {row['metric']} {row['score']:.2f}: {values}"
            print(f"{row['method']}: tuning chose {choice}", file=sys.stderr)


def ledgers(trials: Sequence[Trial]) -> dict[str, Ledger]:
    """What the trials of each method, all of them over, have spent together."""
    spent: dict[str, Ledger] = {}
    for trial in trials:
        spent.setdefault(trial.name, Ledger(rule=trial.experiment.ledger)).add(trial.ledger())
    return spent


def rows(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """What trials.json holds of trials that are over (see `harness.results.tuning_record`), from their own files.

    Raises:
        UserError: when no trial of a method has a score.
    """
    found = []
    for method, own in groupby((trial.row() for trial in trials), lambda row: row["method"]):
        own = list(own)
        scored = [row for row in own if row["score"] is not None]
        if not scored:
            why = next((row["failed"] for row in own if row["failed"]), "no answer has a rating by the judge")
            raise UserError(f"no trial of {method} has a score: {why}")
        best = max(scored, key=lambda row: row["score"])  # the first of equal ones
        found += [{**row, "chosen": row is best} for row in own]
    return found
