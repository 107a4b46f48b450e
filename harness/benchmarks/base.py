"""The benchmark protocol: load, answer, judge, score, with a file between each step.

Answers are generated once; judging and scoring can be repeated. A score keeps its value for each question, so that
intervals and paired differences can be computed later without the samples.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from harness.engines.base import Engine
from harness.files.folders import file_name
from harness.progress import Advance

if TYPE_CHECKING:
    from harness.judges.base import Judge
    from harness.types import Prompt

NO_PAIRS = {"left out": "there are no pairs"}  # dependencies of the score of a benchmark that lacks its pairs
# rows of a benchmark, one TypedDict each (`harness.benchmarks.rows`)
Item = TypeVar("Item", bound=Mapping[str, Any])
Sample = TypeVar("Sample", bound=Mapping[str, Any])
Judgment = TypeVar("Judgment", bound=Mapping[str, Any])


class Questions(list[Item]):
    """The questions of a benchmark, and the files that its other methods need: everything that `load` passes on.

    answering: name -> file or folder that the answers depend on, such as what they are graded with.
    scoring: name -> file or folder that the score alone depends on; changing one keeps the answers.
    """

    def __init__(
        self,
        items: Iterable[Item],
        answering: Mapping[str, Path] | None = None,
        scoring: Mapping[str, Path] | None = None,
    ) -> None:
        super().__init__(items)
        self.answering, self.scoring = dict(answering or {}), dict(scoring or {})

    def only(self, places: Iterable[int]) -> "Questions[Item]":
        """Return the questions at these places, with the same files."""
        return Questions([self[place] for place in places], self.answering, self.scoring)


@dataclass(frozen=True)
class Settings:
    """How questions are answered. None means the benchmark's own protocol.

    options: an instance of the benchmark's Options; None for its defaults.
    """

    seed: int = 0
    temperature: float | None = None
    max_new_tokens: int | None = None
    limit: int | None = None  # ask a random sample of N questions; `load` gets None and returns all of them
    options: Any = None


@dataclass(frozen=True)
class Judging:
    """How answers are judged, beyond the benchmark's protocol.

    rejudge: ask once more for a judgment without a verdict.
    both_orders: judge pairs in both orders and take the mean.
    max_tokens: of a judge's reply, instead of the protocol's. settings: further fields of requests to an endpoint.
    """

    rejudge: bool = False
    both_orders: bool = False
    max_tokens: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def depends_on(self) -> dict[str, Any]:
        """Return what judgments depend on. `rejudge` is excluded: an open step can be finished with it."""
        changed = {"max_tokens": self.max_tokens, "settings": dict(self.settings)}
        return {"both_orders": self.both_orders} | {name: value for name, value in changed.items() if value}


@dataclass(frozen=True)
class NoOptions:
    """The options of a benchmark that has none."""


@dataclass(frozen=True)
class Policy:
    """A model to score.

    reference, beta: make it an implicit reward model (RewardBench).
    pairs: prompts with chosen and rejected replies that it was trained on, for a reward model; None if there were none.
    folder: where a benchmark may leave its own files, such as the checkpoint of that reward model.
    """

    engine: Engine
    reference: Engine | None = None
    beta: float | None = None
    pairs: "Sequence[Prompt] | None" = None
    folder: Path | None = None


@dataclass(frozen=True)
class Score:
    """The result of one benchmark for one model.

    value: the headline number, sum(weight * value) / sum(weight) over the questions with a value; NaN if there is none
        (null in files).
    values: question id -> value; a question without a verdict is absent and counted in missing or unparsed.
    weights: question id -> weight, empty if all are equal.
    details: further numbers of the benchmark (turns, categories, sections), for people.
    clusters: question id -> name of its cluster (see `Clustered`); a question that is absent is independent. None in
        files of older versions.
    contaminated: question id -> how it was found in the method's training texts (`harness.benchmarks.contamination`);
        None where that was not looked for.
    """

    benchmark: str
    metric: str  # such as "score (1-10)" or "win rate %": tells the limits of a value
    value: float
    values: dict[str, float]
    weights: dict[str, float] = field(default_factory=dict)
    questions: int = 0
    missing: int = 0  # no answer, or the judge gave none
    unparsed: int = 0  # the judge answered without a verdict
    judge: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    clusters: dict[str, str] | None = field(default_factory=dict)
    contaminated: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if self.value is None:  # in files, if no question has a verdict
            object.__setattr__(self, "value", nan)

    def clean(self) -> float:
        """The headline number of the questions that are not contaminated; NaN if there is none."""
        kept = {name: value for name, value in self.values.items() if name not in (self.contaminated or {})}
        weights = [self.weights.get(name, 1.0) for name in kept]
        total = sum(weights)
        return sum(map(mul, weights, kept.values())) / total if total else nan


@dataclass(frozen=True)
class BenchmarkSize:
    """What a benchmark asks of a model and a judge, for estimates: counts, and mean numbers of tokens.

    questions, turns: so many questions, each answered (or read) so often.
    prompt, answer: tokens of a turn; answer 0 means that texts are only read. reads: sequences read per turn.
    shared: tokens with which all prompts begin, which are read once.
    judge_prompt, judge_reply: tokens of a judgment; 0 without a judge.
    """

    questions: int
    prompt: int
    answer: float = 0
    turns: int = 1
    reads: int = 1
    judge_prompt: int = 0
    judge_reply: int = 0
    shared: int = 0


@dataclass(frozen=True)
class HubTask:
    """The questions as a data set of the Hugging Face hub: its id, and the task in it (a configuration or a split)."""

    dataset: str
    task: str


def limits_of(metric: str) -> tuple[float, float] | None:
    """Return the limits of a question's value: 0 and 100 for a metric in %, a and b for one with "(a-b)"."""
    if limits := re.search(r"\((-?\d+)-(\d+)\)", metric):
        return float(limits[1]), float(limits[2])
    return (0.0, 100.0) if metric.endswith("%") else None


def step_names(benchmark: str) -> tuple[str, str]:
    """Return the names of the steps that answer and that score a benchmark."""
    return f"samples-{file_name(benchmark)}", f"score-{file_name(benchmark)}"


class Benchmark(Protocol[Item, Sample, Judgment]):
    """One file per benchmark, found through the entry points `harness.benchmarks`.

    `harness.benchmarks.defaults.BenchmarkDefaults` has the rest: questions that depend on each other, files outside the
    data folder, training pairs.
    """

    name: str  # as on the command line: "mt-bench"
    title: str  # as in a table: "MT-Bench"
    needs_judge: bool
    needs_pairs: bool  # trains on a method's pairs, and is skipped without them
    needs_logprobs: bool  # for given texts, which a model behind an endpoint does not give
    turns: int  # how often `advance` counts an item in answering and in judging
    Options: type  # a frozen dataclass of plain values, all with defaults

    def load(self, data_dir: Path, settings: Settings) -> Questions[Item] | list[Item]:
        """Return all questions, each with an "id" (a string), and the files that the other methods need.

        The other methods are called on other instances, with the questions as `Questions`. With settings.limit,
        `harness.benchmarks.questions` draws the sample.

        Raises:
            UserError: when a file is missing (with the command that fetches it) or malformed (file and line).
        """
        ...

    def answer(
        self, policy: Policy, items: Questions[Item], settings: Settings, advance: Advance | None
    ) -> list[Sample]:
        """Return one row per item, with its "id" and what judging and scoring need; they are stored as samples."""
        ...

    def judge(
        self,
        items: Questions[Item],
        samples: list[Sample],
        judge: "Judge",
        judging: Judging,
        advance: Advance | None,
    ) -> list[Judgment]:
        """Return judgments to store; a benchmark that needs no judge has no such method."""
        ...

    def score(self, items: Questions[Item], samples: list[Sample], judgments: list[Judgment]) -> Score:
        """Score stored rows, without a model or a judge."""
        ...
