"""Answer, judge and score one benchmark for one arm. Samples and score are separate steps.

Answers are generated once; when judging or scoring changes, both are redone from the stored answers.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from harness.benchmarks import files
from harness.benchmarks.base import NO_PAIRS, Judging, Policy, Questions, Score, Settings, step_names
from harness.benchmarks.contamination import contaminated, texts_of
from harness.benchmarks.files import with_suite_settings
from harness.benchmarks.loading import CompleteBenchmark, load_benchmark
from harness.engines.answering import AnsweringEngine, count_thoughts, with_thoughts
from harness.engines.base import Engine, RewardEngine
from harness.engines.logged import LoggedEngine
from harness.experiment.options import Experiment
from harness.files import sources, store
from harness.files.folders import ArmFolder, file_name
from harness.judges.base import Judge
from harness.judges.shares import check_verdicts
from harness.methods.base import Stage
from harness.models import fingerprints
from harness.models.folder import TESTBED
from harness.progress import progress
from harness.runs.engine_choice import described, threads_of
from harness.runs.inputs import Inputs
from harness.runs.judge_choice import described_judge, judge_module
from harness.stages.train import PACKAGES
from harness.testbed.clusters import clusters as clusters_by_content
from harness.thoughts import parse_marks
from harness.types import Prompt

NUMBERS = ("numpy",)  # packages that every score depends on


def scored(
    benchmark: CompleteBenchmark, items: Questions, samples: list[dict], judgments: list[dict], data_dir: Path
) -> Score:
    """The score of stored answers and judgments, with the clusters of its questions.

    Args:
        data_dir: the folder of the questions; clusters of the testbed's follow from their content.
    """
    score = benchmark.score(items, samples, judgments)
    is_testbed = files.suite_settings(data_dir).get("name") == TESTBED
    clusters = clusters_by_content(items) if is_testbed else benchmark.clusters(items)
    times = Counter(clusters.get(each) for each in score.values)
    shared = {each: clusters[each] for each in score.values if each in clusters and times[clusters[each]] > 1}
    return replace(score, clusters=shared)


class ScoredArm(Protocol):
    """What scoring needs to know of an arm (`harness.runs.arm.Arm`)."""

    experiment: Experiment
    name: str
    seed: int
    label: str
    folder: ArmFolder

    @property
    def stages(self) -> list[Stage]: ...

    @property
    def beta(self) -> float | None:
        """The factor of the implicit reward, for methods that have one."""
        ...

    def model(self, inputs: Inputs) -> dict[str, str]:
        """Digests of the parts of the finished policy."""
        ...

    def policy(self, engine: Callable[[], Engine], inputs: Inputs) -> Policy: ...

    def pairs(self) -> list[Prompt] | None:
        """The pairs that the policy was trained on."""
        ...

    def example_files(self) -> dict[Path, str]:
        """The files of everything that the policy was trained on, with their SHA-256."""
        ...


class Scoring:
    """The answers of an arm to one benchmark, their judgments and the score.

    A kind of scoring with other questions overrides `asked`, `items`, `system_prompt` and `thinking`.
    """

    def __init__(self, arm: ScoredArm, name: str, inputs: Inputs):
        self.arm, self.name, self.inputs = arm, name, inputs
        self.folder = arm.folder
        self.benchmark, self.settings = self.asked()
        experiment = arm.experiment
        self.judging = Judging(
            experiment.rejudge, experiment.both_orders, experiment.judge_max_tokens, experiment.judge_set
        )
        self.samples_step, self.score_step = step_names(name)
        self.samples_file = arm.folder.samples(name)
        self.judgments_file = arm.folder.judgments(name)
        self.score_file = arm.folder.score(name)

    def asked(self) -> tuple[CompleteBenchmark, Settings]:
        """The benchmark, and how its questions are answered."""
        experiment = self.arm.experiment
        chosen = Settings(
            self.arm.seed,
            max_new_tokens=experiment.answer_tokens,
            limit=experiment.limit,
            options=experiment.benchmark_options(self.name),
        )
        benchmark = load_benchmark(experiment.targets("benchmark")[self.name])
        return benchmark, with_suite_settings(self.inputs.data_dir, chosen)

    @property
    def system_prompt(self) -> str | None:
        """The system message of every question that has none itself."""
        return self.arm.experiment.system_prompt

    @property
    def thinking(self) -> str | None:
        """ "on" or "off" for the chat template; None leaves it to the template."""
        return self.arm.experiment.thinking

    @cached_property
    def items(self) -> Questions:
        return self.inputs.questions(self.name, self.settings)

    @cached_property
    def pairs(self) -> list[Prompt] | None:
        """The pairs that a benchmark is trained on; None for one that needs none."""
        return self.benchmark.pairs(self.arm.pairs(), self.settings) if self.benchmark.needs_pairs else None

    @property
    def left_out(self) -> bool:
        """Whether the benchmark needs pairs but there are none."""
        return self.benchmark.needs_pairs and not self.pairs

    @cached_property
    def _samples_depend_on(self) -> dict[str, Any]:
        arm = self.arm
        answering = sources.ENDPOINT if arm.experiment.model_url else sources.ANSWERING
        roots = (answering, sources.Part.of(self.benchmark, sources.JUDGING))
        scorers = [name for name in self.benchmark.packages if sources.imports(name.replace("-", "_"), *roots)]
        return {
            "benchmark": self.name,
            "questions": store.digest(self.items),
            "settings": asdict(self.settings),
            **({"resources": files.digests(self.items.answering)} if self.items.answering else {}),
            **self._answering_options(),
            "option files": fingerprints.of_named(vars(self.settings.options).values()),
            "model": arm.model(self.inputs),
            "reference": self.inputs.model if arm.stages else None,
            "beta": arm.beta,
            "pairs": store.digest(self.pairs) if self.pairs else None,
            "attention": arm.experiment.attention,
            "dtype": arm.experiment.dtype,
            "date": arm.experiment.date,
            "batch_size": arm.experiment.batch_size,
            "device": fingerprints.of_device(arm.experiment.device),
            "engine": described(arm.experiment),
            "environment": fingerprints.of_environment(),
            "threads": threads_of(arm.experiment),
            "packages": fingerprints.of_packages(*PACKAGES, *scorers, *sources.packages(*roots)),
            "code": sources.digest(*roots),
        }

    def _answering_options(self) -> dict[str, Any]:
        """The given options that change what a question looks like or what counts as its answer."""
        marks = self.arm.experiment.thought_marks
        given = {"system prompt": self.system_prompt, "thinking": self.thinking, "thought marks": marks}
        return {name: value for name, value in given.items() if value is not None}

    def _score_depends_on(self) -> dict[str, Any]:
        experiment = self.arm.experiment
        judged_by = described_judge(experiment, self.inputs.judge) if self.benchmark.needs_judge else {}
        judge = [judge_module(experiment)] if judged_by else []
        roots = (sources.SCORING, sources.Part.of(self.benchmark, sources.ANSWERS), *judge)
        return {
            "samples": list(self.folder.files(self.samples_step).values()),
            **({"resources": files.digests(self.items.scoring)} if self.items.scoring else {}),
            "judge": None,
            **judged_by,
            "judging": self.judging.depends_on(),
            "packages": fingerprints.of_packages(*NUMBERS, *self.benchmark.packages, *sources.packages(*roots)),
            "training texts": list(self.arm.example_files().values()),
            "code": sources.digest(*roots),
        }

    def answered(self) -> bool:
        """Whether no model is needed, because the answers are there or nothing is asked."""
        if self.left_out:
            return True
        done = self.folder.finished(self.samples_step, self._samples_depend_on)
        return done and self.folder.whole(self.samples_step)

    def steps(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and dependencies of each step (as `harness.stages.train.stage_steps`)."""
        if self.left_out:
            yield self.score_step, NO_PAIRS
            return
        yield self.samples_step, self._samples_depend_on
        yield self.score_step, self._score_depends_on()

    def finished(self) -> bool:
        """Whether answers and score are finished.

        Raises:
            UserError: when they depend on something that has changed since, naming it.
        """
        return all(self.folder.finished(*step) for step in self.steps())

    def run(self, engine: Callable[[], Engine]) -> bool:
        """Write samples, judgments and the score to the folder. Returns whether there was anything to do.

        Args:
            engine: loads the policy, once.
        """
        if self.finished() and self.folder.whole(self.score_step) and (self.left_out or self.answered()):
            return False
        if self.left_out:
            self.folder.finish(self.score_step, NO_PAIRS, [])
            return True
        if not self.answered():
            self._answer(engine)
        self.folder.check(self.samples_step)
        written = [self.score_file]
        judgments: list[dict] = []
        if self.benchmark.needs_judge:
            assert self.inputs.judge, "check_inputs refuses a run without a judge that it needs"
            judgments = self._judge(self.inputs.judge)
            store.write_jsonl(self.judgments_file, judgments)
            written.append(self.judgments_file)
        score = self.score()
        if self.benchmark.needs_judge and not self.arm.experiment.accept_missing:
            absent = score.missing + score.unparsed
            check_verdicts(self.name, absent, judgments, self.arm.experiment.judge_missing, self.score_step)
        store.write_json(self.score_file, asdict(score))
        self.folder.finish(self.score_step, self._score_depends_on(), written)
        return True

    def _judge(self, judge: Judge) -> list[dict]:
        samples = store.read_jsonl(self.samples_file)
        with progress(f"{self.arm.label} {self.name}: judge", self.benchmark.turns * len(self.items)) as advance:
            return self.benchmark.judge(self.items, samples, judge, self.judging, advance)

    def score(self) -> Score:
        """The score of the stored answers and judgments."""
        judgments = store.read_jsonl(self.judgments_file) if self.benchmark.needs_judge else []
        samples = store.read_jsonl(self.samples_file)
        score = scored(self.benchmark, self.items, samples, judgments, self.inputs.data_dir)
        asked = {"system_prompt": self.system_prompt, "thinking": self.thinking}
        given = {name: value for name, value in asked.items() if value is not None}
        details = score.details | count_thoughts(samples) | given
        return replace(score, details=details, contaminated=self._contaminated())

    def _contaminated(self) -> dict[str, str] | None:
        """The questions that are in the training texts; None where a question does not have the fields to look in."""
        fields = self.benchmark.question_fields
        texts = {item["id"]: [text for name in fields for text in texts_of(item.get(name))] for item in self.items}
        if not all(texts.values()):
            return None
        rows = (row for file in self.arm.example_files() for row in store.iterate_jsonl(file))
        return contaminated(texts, (text for row in rows for text in texts_of({**row, "id": None})))

    def _answering(self, engine: Engine) -> AnsweringEngine:
        marks, thinking = parse_marks(self.arm.experiment.thought_marks), self.thinking
        return AnsweringEngine(engine, marks, self.system_prompt, None if thinking is None else thinking == "on")

    def _answer(self, engine: Callable[[], Engine]) -> None:
        policy = self.arm.policy(engine, self.inputs)
        work = self.folder.answering_work / file_name(self.name)
        with progress(f"{self.arm.label} {self.name}: answer", self.benchmark.turns * len(self.items)) as advance:
            if isinstance(policy.engine, RewardEngine):  # it writes no text: nothing to log, no thoughts to remove
                samples = self.benchmark.answer(policy, self.items, self.settings, advance)
            else:
                logged = LoggedEngine(
                    policy.engine, work / f"completions-{store.digest(self._samples_depend_on)}.jsonl"
                )
                answering = self._answering(logged)
                reference = policy.reference and self._answering(policy.reference)
                asked = replace(policy, engine=answering, reference=reference)
                answered = self.benchmark.answer(asked, self.items, self.settings, advance)
                samples = with_thoughts(self.name, answered, answering.thoughts)
            store.write_jsonl(self.samples_file, samples)
        self.folder.finish(self.samples_step, self._samples_depend_on, [self.samples_file])
        shutil.rmtree(work.parent, ignore_errors=True)  # absent where nothing was generated
