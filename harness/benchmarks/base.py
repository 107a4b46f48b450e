"""What a benchmark is: load, answer, judge, score, with a file between each.

Answers are generated once; judging and scoring can be repeated at will. Every score keeps its value for each
question, so that intervals and paired differences can be computed later without the samples.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.engines.base import Engine
from harness.progress import Advance

if TYPE_CHECKING:
    from harness.judges.base import Judge
    from harness.types import Prompt

NO_PAIRS = {"left out": "there are no pairs"}  # what the score of a benchmark that needs pairs depends on then


class Questions(list[dict]):
    """The questions of a benchmark, and the files that its other methods need: all that `load` hands on.

    answering: name -> file or folder that the answers depend on, such as what they are graded with.
    scoring: the same of the score alone; another file there leaves the answers as they are.
    """

    def __init__(
        self,
        items: Iterable[dict],
        answering: Mapping[str, Path] | None = None,
        scoring: Mapping[str, Path] | None = None,
    ) -> None:
        super().__init__(items)
        self.answering, self.scoring = dict(answering or {}), dict(scoring or {})

    def only(self, places: Iterable[int]) -> "Questions":
        """The questions at these places, with the same files."""
        return Questions([self[place] for place in places], self.answering, self.scoring)


@dataclass(frozen=True)
class Settings:
    """How questions are answered. None means the benchmark's own protocol.

    options: an instance of the benchmark's Options, None for its defaults.
    """

    seed: int = 0
    temperature: float | None = None
    max_new_tokens: int | None = None
    limit: int | None = None  # a random sample of N questions only; `load` gets None, and returns them all
    options: Any = None


@dataclass(frozen=True)
class Judging:
    """How answers are judged, beyond the benchmark's protocol.

    rejudge: a judgment without a verdict is asked for once more.
    both_orders: a pair is judged in both orders and the mean counts, where a benchmark compares pairs.
    max_tokens: of a judge's reply, in place of the protocol's own. settings: further fields of requests to an endpoint.
    """

    rejudge: bool = False
    both_orders: bool = False
    max_tokens: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def depends_on(self) -> dict[str, Any]:
        """What judgments depend on. `rejudge` is not among it: a step that is still open can be finished with it."""
        changed = {"max_tokens": self.max_tokens, "settings": dict(self.settings)}
        return {"both_orders": self.both_orders} | {name: value for name, value in changed.items() if value}


@dataclass(frozen=True)
class NoOptions:
    """Options of a benchmark that has none."""


@dataclass(frozen=True)
class Policy:
    """A model to be scored.

    reference, beta: make it an implicit reward model (RewardBench).
    pairs: prompts with chosen and rejected replies that it was trained on, for a reward model; None when it had none.
    folder: where a benchmark may leave files of its own, such as the checkpoint of that reward model.
    """

    engine: Engine
    reference: Engine | None = None
    beta: float | None = None
    pairs: "Sequence[Prompt] | None" = None
    folder: Path | None = None


@dataclass(frozen=True)
class Score:
    """The result of one benchmark for one model.

    value: the headline number, sum(weight * value) / sum(weight) over the questions that have a value; NaN without any
        (null in files).
    values: question id -> value; a question with no verdict is absent here and counted in missing or unparsed.
    weights: question id -> weight, empty when all are equal.
    details: further numbers of the benchmark (turns, categories, sections), for people.
    clusters: question id -> the name of what it hangs together with (see `Benchmark`); a question that is not there
        stands by itself. None in files from before they were stored.
    """

    benchmark: str
    metric: str  # such as "score (1-10)" or "win rate %", from which the limits of a value are known
    value: float
    values: dict[str, float]
    weights: dict[str, float] = field(default_factory=dict)
    questions: int = 0
    missing: int = 0  # no answer, or the judge gave none
    unparsed: int = 0  # the judge answered without a verdict
    judge: str | None = None
    details: dict = field(default_factory=dict)
    clusters: dict[str, str] | None = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.value is None:  # as files have it where no question has a verdict
            object.__setattr__(self, "value", nan)


def limits_of(metric: str) -> tuple[float, float] | None:
    """The lowest and the highest value of a question: 0 and 100 of a metric in %, a and b where it says (a-b)."""
    if found := re.search(r"\((-?\d+)-(\d+)\)", metric):
        return float(found[1]), float(found[2])
    return (0.0, 100.0) if metric.endswith("%") else None


def step_names(benchmark: str) -> tuple[str, str]:
    """Of the step that answers a benchmark, and of the one that scores it."""
    return f"samples-{benchmark}", f"score-{benchmark}"


class Benchmark(Protocol):
    """One file a benchmark, found through the entry points `harness.benchmarks`.

    A benchmark whose `load` finds files outside the data folder also has `resources(data_dir) -> dict[str, Path]`, by
    which a finished run is known without loading its questions.

    A benchmark some of whose questions hang together (they share a prompt, a passage, a subject) also has
    `clusters(items) -> dict[str, str]`, question id -> a name that such questions have in common: they are then one
    observation in every interval and test.
    """

    name: str  # as on the command line: "mt-bench"
    title: str  # as in a table: "MT-Bench"
    needs_judge: bool
    needs_pairs: bool  # trains on a method's pairs: it also has `pairs(own, settings)`, and is left out without
    needs_logprobs: bool  # of given texts, which a model behind an endpoint does not have
    turns: int  # how often `advance` counts an item, in answering and in judging
    Options: type  # a frozen dataclass of plain values, every one with a default

    def load(self, data_dir: Path, settings: Settings) -> Questions | list[dict]:
        """All questions, each with an "id" (a string). What other methods need of the folder is returned with them.

        The other methods are called on other instances, with the questions as `Questions`; where settings.limit cuts
        them, `harness.benchmarks.questions` draws the sample. A class with an attribute `sections`, the name of a field
        of the questions, is sampled in proportion to the values of that field.

        Raises:
            UserError: when a file is absent (with the command that fetches it) or malformed (file and line).
        """
        ...

    def answer(self, policy: Policy, items: Questions, settings: Settings, advance: Advance | None) -> list[dict]:
        """One row an item, with its "id" and all that judging and scoring need; the rows are stored as samples."""
        ...

    def judge(
        self, items: Questions, samples: list[dict], judge: "Judge", judging: Judging, advance: Advance | None
    ) -> list[dict]:
        """Stored rows of judgments; a benchmark that needs no judge has no such method."""
        ...

    def score(self, items: Questions, samples: list[dict], judgments: list[dict]) -> Score:
        """From stored rows alone: no model, no judge."""
        ...
