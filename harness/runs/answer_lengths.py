"""How long a model's answers to benchmarks are: measured on a few questions, or as the benchmarks' sizes assume.

The lengths of answers are taken as exponentially distributed: at every token, an answer ends with the same chance. From
their mean follow the longest of several answers and the effect of a limit.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Policy, Questions, Settings
from harness.benchmarks.files import with_suite_settings
from harness.benchmarks.loading import benchmarks_of
from harness.benchmarks.questions import load_questions
from harness.engines.answering import AnsweringEngine
from harness.engines.base import Completion, Engine, Sampling
from harness.engines.wrapper import EngineWrapper
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import store
from harness.methods.mixtures import is_mixture
from harness.methods.prompts import PromptStream
from harness.models.folder import TESTBED
from harness.progress import Advance
from harness.runs.inputs import load_prompts
from harness.stages.plan import DEFAULT_COMPLETION
from harness.thoughts import parse_marks
from harness.types import Chat, TokenIds

ASKED = 8  # questions of a benchmark that are answered
SECONDS = 5.0  # for the answers to all benchmarks, and again for completions
FEWEST, MOST = 16, 256  # tokens after which such an answer is cut off, at least and at most


def mean_length(answers: Sequence[tuple[int, bool]], assumed: float) -> float:
    """The mean tokens of an answer. One that was cut off is taken to go on for the assumed mean, as an exponential
    length does from any token on.

    Args:
        answers: (tokens, whether it ended); without any, the mean is the assumed one.

    >>> mean_length([(40, True), (80, False)], assumed=160.0)
    140.0
    """
    if not answers:
        return assumed
    return sum(tokens + (0.0 if ended else assumed) for tokens, ended in answers) / len(answers)


def limited(mean: float, most: int | None) -> float:
    """The mean tokens of answers that have at most so many: the mean of min(X, most), X exponential with this mean."""
    return mean * (1 - exp(-most / mean)) if most and mean else mean


def passes(answers: float, mean: float, most: int | None, slots: int) -> float:
    """How many passes generate answers, `slots` at a time, each place going to the next as soon as it is free.

    While some wait, each pass makes a token of `slots` answers. The last ones end one after the other: of n exponential
    lengths, the longest is the mean times 1 + 1/2 + ... + 1/n.

    Args:
        mean, most: tokens of an answer without the limit, and the limit.

    >>> passes(2, 100.0, None, 2), passes(2, 100.0, 120, 2), passes(12, 100.0, None, 2)
    (150.0, 120.0, 650.0)
    """
    last = min(slots, round(answers))
    longest = mean * sum(1 / number for number in range(1, last + 1))
    return max(0.0, answers - slots) * limited(mean, most) / slots + min(longest, most or longest)


def finishing(mean: float, most: int) -> float:
    """The share of answers that end within so many tokens; mean: of answers without that limit."""
    return 1 - exp(-most / mean)


@dataclass(frozen=True)
class Asked:
    """What a model answers to measure its lengths: questions of benchmarks, and training prompts."""

    questions: dict[str, tuple[Questions[Any], Settings]]
    prompts: list[Chat]

    @property
    def digest(self) -> str:
        """What measured lengths depend on, beside the model and how it is asked."""
        questions = [[name, items, asdict(settings)] for name, (items, settings) in self.questions.items()]
        return store.digest([questions, [asdict(chat) for chat in self.prompts]])


@dataclass(frozen=True)
class MeanLengths:
    """Mean tokens of answers to benchmarks and of completions of training prompts, without the experiment's limits;
    those that were measured."""

    answers: dict[str, float]
    completion: float | None


def asked_of(experiment: Experiment) -> Asked:
    """Some questions of each benchmark that is answered in words, where its files can be read, and some prompts.
    Nothing is asked where lengths are known: of the testbed, and of completions with --completion-tokens."""
    known = experiment.model == TESTBED or experiment.completion_tokens
    samples = any(not stage.labelled for arm in experiment.arms() for stage in experiment.stages(arm))
    prompts = load_prompts(experiment)[0] if samples and not known else []
    drawn = PromptStream(prompts, 0).take(ASKED) if is_mixture(prompts) else prompts[:ASKED]
    questions = {}
    folder = Path(experiment.data_dir)
    for name, benchmark in benchmarks_of(experiment).items() if experiment.data_dir != TESTBED else ():
        if not (benchmark.size and benchmark.size.answer) or benchmark.needs_pairs:
            continue
        settings = Settings(limit=ASKED, options=experiment.benchmark_options(name))
        try:
            settings = with_suite_settings(folder, settings)
            questions[name] = load_questions(experiment.targets("benchmark")[name], folder, settings), settings
        except UserError:
            continue  # a run refuses it
    return Asked(questions, [prompt.chat for prompt in drawn])


def measured(experiment: Experiment, engine: Engine, asked: Asked, pause: Callable[[int], float]) -> MeanLengths:
    """Let the engine answer what is asked, the questions of all benchmarks at once.

    Args:
        pause: seconds of a pass that continues so many answers.
    """
    questions = {name: _prompts(experiment, engine, name, *asked.questions[name]) for name in asked.questions}
    own = [engine.encode_chat(chat) for chat in asked.prompts]

    def answered(prompts: list[TokenIds], sampling: Sampling) -> list[tuple[int, bool]]:
        if not prompts:
            return []
        slots = min(engine.batch_size, len(prompts))
        token = pause(slots) * len(prompts) / slots or SECONDS  # seconds for a token of each
        most = min(MOST, max(FEWEST, int(SECONDS / token)))
        names = [str(number) for number in range(len(prompts))]
        made = engine.generate(prompts, names, replace(sampling, max_new_tokens=most))
        return [(len(each.token_ids), each.finished) for each in made]

    answers = iter(answered([prompt for prompts in questions.values() for prompt in prompts], Sampling(MOST)))
    by_name = {name: [next(answers) for _ in prompts] for name, prompts in questions.items()}
    sizes = {name: benchmark.size for name, benchmark in benchmarks_of(experiment).items() if benchmark.size}
    completions = answered(own, Sampling(MOST, experiment.temperature, experiment.top_p))
    return MeanLengths(
        {name: mean_length(lengths, sizes[name].answer) for name, lengths in by_name.items() if lengths},
        mean_length(completions, DEFAULT_COMPLETION) if completions else None,
    )


def _prompts(
    experiment: Experiment, engine: Engine, name: str, items: Questions[Any], settings: Settings
) -> list[TokenIds]:
    """The prompts that a benchmark first gives to the engine; none where it cannot be asked."""
    thinking = None if experiment.thinking is None else experiment.thinking == "on"
    noted = _Noting(engine)
    asking = AnsweringEngine(noted, parse_marks(experiment.thought_marks), experiment.system_prompt, thinking)
    try:
        benchmarks_of(experiment)[name].answer(Policy(asking), items, settings, None)
    except (_Noted, UserError):
        pass  # a run reports what is missing
    return noted.prompts


class _Noted(Exception):
    """Prompts are known, and not answered."""


class _Noting(EngineWrapper[Engine]):
    """Another engine that notes the prompts of the first call of `generate`, and stops there."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.prompts: list[TokenIds] = []

    def generate(
        self, prompts: Sequence[TokenIds], items: Sequence[str], sampling: Sampling, advance: Advance | None = None
    ) -> list[Completion]:
        self.prompts = list(prompts)
        raise _Noted
