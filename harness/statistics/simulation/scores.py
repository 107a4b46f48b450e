"""Simulated scores of methods that are truly equal, as grids.

value = difficulty of the question (the same for all methods) + the method on that question + the training run + rest,
each normal unless the kind says otherwise; some kinds turn the sum into grades.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.special import ndtr

from harness.statistics.grids import Floats, Grid

DIFFICULTY, OWN, REST = 1.0, 0.5, 0.7  # standard deviations
CLUSTER = 4  # questions per cluster of the kind "clustered"
MISSING = 0.1  # of the answers, of the kind "missing"
TAILS = 3  # degrees of freedom of Student's t, of the kind "heavy-tailed"
STEP = 1.5  # between grades, of the kind "tied"
EASY = {"binary": 0.5, "ceiling": 2.7}  # how far a question is from being answered wrong, in units of the sum above
ONE_SHARED = ((0, 1, 2), (2, 3, 4))  # seeds of every second method
ONE_BESIDE_FIVE = ((0, 1, 2, 3, 4), (0,))
LIMITS = (0.0, 100.0)  # of the kinds in EASY, which are answers right or wrong in percent


@dataclass(frozen=True)
class Scenario:
    """What tables are simulated: how their scores are distributed, and their size.

    kind: see KINDS. seed_sd: the standard deviation of training runs; that of the difficulty of questions is 1.
    """

    kind: str
    seeds: int
    methods: int = 6
    benchmarks: int = 4
    questions: int = 60
    seed_sd: float = 0.15

    @property
    def limits(self) -> tuple[float, float] | None:
        return LIMITS if self.kind in EASY else None

    def truth(self, shift: float = 0.0) -> float:
        """The mean over all questions and training runs for a method that is better by `shift`."""
        if self.kind in EASY:
            spread = sqrt(DIFFICULTY**2 + OWN**2 + REST**2 + self.seed_sd**2)
            return 100 * float(ndtr((EASY[self.kind] + shift) / spread))
        return shift


KINDS = {
    "normal": "normal",
    "heavy-tailed": f"Student's t with {TAILS} degrees of freedom in place of each normal",
    "binary": "right or wrong, 64 % right",
    "ceiling": "right or wrong, 98 % right",
    "tied": f"rounded to steps of {STEP}",
    "missing": f"{100 * MISSING:.0f} % of the answers have no value",
    "clustered": f"every {CLUSTER} questions share their difficulty and most of the effects of methods and runs",
    "one seed shared": "three seeds each, of which every second method has one in common with the others",
    "one beside five": "five seeds, every second method but one",
}


def tables(
    setting: Scenario, number: int, rng: np.random.Generator, shift: float = 0.0
) -> Iterator[dict[str, dict[str, Grid]]]:
    """Simulate tables, each as benchmark -> method -> grid. The last method is better by `shift` on every benchmark."""
    questions = tuple(f"{each:04}" for each in range(setting.questions))
    clusters = tuple(f"{each // CLUSTER:04}" for each in range(setting.questions))
    methods = [f"m{each}" for each in range(setting.methods)]
    better = np.zeros((setting.methods, 1, 1))
    better[-1] = shift
    for _ in range(number):
        values = _values(setting, rng, better)
        yield {
            f"b{benchmark}": {
                method: _grid(setting, place, values[benchmark, place], questions, clusters)
                for place, method in enumerate(methods)
            }
            for benchmark in range(setting.benchmarks)
        }


def _grid(setting: Scenario, place: int, values: Floats, questions: tuple[str, ...], clusters: tuple[str, ...]) -> Grid:
    chosen = tuple(range(setting.seeds))
    if setting.kind == "one seed shared":
        chosen = ONE_SHARED[place % 2]
    if setting.kind == "one beside five":
        chosen = ONE_BESIDE_FIVE[place % 2]
    values = values[list(chosen)]
    return Grid(chosen, questions, values, np.ones_like(values), clusters if setting.kind == "clustered" else ())


def _values(setting: Scenario, rng: np.random.Generator, better: Floats) -> Floats:
    """Simulated values, (benchmarks, methods, seeds, questions)."""
    seeds = 5 if setting.kind in ("one seed shared", "one beside five") else setting.seeds
    shape = (setting.benchmarks, setting.methods, seeds, setting.questions)

    def draw(*axes: int) -> Floats:
        size = tuple(each if axis in axes else 1 for axis, each in enumerate(shape))
        drawn: Floats = rng.standard_t(TAILS, size) if setting.kind == "heavy-tailed" else rng.normal(size=size)
        return drawn

    def of_questions(*axes: int) -> Floats:
        if setting.kind != "clustered":
            return draw(*axes, 3)
        shared = np.repeat(draw(*axes, 3)[..., : -(-setting.questions // CLUSTER)], CLUSTER, axis=-1)
        both: Floats = sqrt(0.8) * shared[..., : setting.questions] + sqrt(0.2) * draw(*axes, 3)
        return both

    values: Floats = DIFFICULTY * of_questions(0) + OWN * of_questions(0, 1) + REST * of_questions(0, 1, 2)
    values = values + setting.seed_sd * draw(0, 1, 2) + better
    if setting.kind in EASY:
        values = 100.0 * (values > -EASY[setting.kind])
    if setting.kind == "tied":
        values = STEP * np.round(values / STEP)
    if setting.kind == "missing":
        values[rng.random(values.shape) < MISSING] = np.nan
    return values
