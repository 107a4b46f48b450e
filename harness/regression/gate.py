"""Compare a run with a reference: identity first, otherwise tests with a bounded rate of false alarms.

Scores: for each arm and benchmark, the run must not be worse than the reference by a margin (one-sided test of
non-inferiority, `harness.statistics.power`). Training: each measure must lie where another seed of the reference would
(two-sided prediction interval, Student's t). Margins and intervals are so wide that a run that is truly equal passes
all of them with probability 1 - ALARM, even if runs have heavier tails than a normal distribution.
"""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files.marks import differences
from harness.regression.measures import meaning
from harness.regression.reference import MeasuredRun, shared
from harness.statistics.grids import mean
from harness.statistics.power import ALPHA, margin_for, non_inferiority

ALARM = 0.02  # how often a truly equal run fails: half for scores, half for training
HEAVY = 2.0  # divisor of degrees of freedom: scores and gradients of runs may have a kurtosis of 5, not 3
LEAST_MARGIN = 0.02  # of the reference's score: a smaller loss is never a regression
LEAST_SPREAD = 0.005  # of a measure, between runs
SCORE_MEANING = "what the model has learned, how it is asked, or how answers are scored"


@dataclass(frozen=True)
class Finding:
    """One comparison.

    kind: "score" (of a benchmark) or "training" (a measure). name: of the benchmark or measure.
    value: of the run. expected: the mean of the reference.
    low, high: the range that passes; high is None for scores, where more is never worse.
    difference, margin, bound, p_value, power: of the non-inferiority test; None for training.
    meaning: the usual cause, where it failed.
    """

    kind: str
    arm: str
    name: str
    passed: bool
    value: float
    expected: float
    low: float
    high: float | None
    difference: float | None = None
    margin: float | None = None
    bound: float | None = None
    p_value: float | None = None
    power: float | None = None
    meaning: str | None = None


@dataclass(frozen=True)
class Check:
    """The result of the gate.

    verdict: "identical", "no worse" or "worse". unequal: what differs in the common seeds.
    not_checked: arms of the reference that the run lacks.
    false_alarms: how often a truly equal run is called worse, at most.
    """

    verdict: str
    findings: tuple[Finding, ...]
    unequal: tuple[str, ...]
    seeds: tuple[int, ...]
    reference_seeds: tuple[int, ...]
    not_checked: tuple[str, ...]
    false_alarms: float = ALARM

    @property
    def passed(self) -> bool:
        return self.verdict != "worse"


def check(run: MeasuredRun, reference: MeasuredRun, margin: float | None = None) -> Check:
    """Compare a run with a reference.

    Args:
        margin: how much worse a score may be, as a share of the reference's; by default, enough for equal runs to pass.

    Raises:
        UserError: when the two cannot be compared, naming what differs.
    """
    _comparable(run, reference)
    seeds = tuple(sorted({seed for each in run.arms.values() for seed in each}))
    known = tuple(sorted({seed for each in reference.arms.values() for seed in each}))
    unequal = tuple(_unequal(run, reference))
    findings: tuple[Finding, ...] = ()
    if unequal or not set(seeds) <= set(known):
        findings = (*_scores(run, reference, margin), *_training(run, reference))
        verdict = "no worse" if all(each.passed for each in findings) else "worse"
    else:
        verdict = "identical"
    missing = tuple(name for name in reference.arms if name not in run.arms)
    return Check(verdict, findings, unequal, seeds, known, missing)


def _comparable(run: MeasuredRun, reference: MeasuredRun) -> None:
    if more := [name for name in run.arms if name not in reference.arms]:
        raise UserError(f"the reference has no {', '.join(more)}: check a run of {', '.join(reference.arms)}")
    of_run, of_reference = dict(run.of), dict(reference.of)
    for each in (of_run, of_reference):  # either may be older than an option
        given = each["options"]["options"]
        methods = {name: run.defaults.get(name, {}) | given[name] for name in given if name in run.arms}
        each["options"] = shared(Experiment()) | each["options"] | {"options": methods}
    changes = [f"{name} ({there}, here {here})" for name, there, here in differences(of_reference, of_run)]
    if changes:
        raise UserError(
            f"the run cannot be compared with the reference, which has a different {', '.join(changes[:3])}: run it "
            "with the options of the reference, or make a new reference (--update)"
        )


def _unequal(run: MeasuredRun, reference: MeasuredRun) -> list[str]:
    found = []
    for arm, by_seed in run.arms.items():
        for seed, each in by_seed.items():
            before = reference.arms[arm].get(seed)
            if before:
                names = sorted(before.digests.keys() | each.digests.keys())
                found += [
                    f"{arm} seed {seed}: {name}" for name in names if before.digests.get(name) != each.digests.get(name)
                ]
    return found


def _scores(run: MeasuredRun, reference: MeasuredRun, share: float | None) -> list[Finding]:
    pairs = [(arm, name) for arm in run.arms for name in next(iter(run.arms[arm].values())).scores]
    power = 1 - ALARM / 2 / len(pairs)
    findings = []
    for arm, name in pairs:
        new, old = run.grid(arm, name), reference.grid(arm, name)
        expected, value = (mean(side.values, side.weights) for side in (old, new))
        least = abs(expected) * (LEAST_MARGIN if share is None else share)
        margin = least if share is not None else max(least, margin_for(len(new.seeds), old, ALPHA, power, HEAVY))
        found = non_inferiority(new, old, margin)
        if found is None:
            raise UserError(f"the run and the reference have no question of {name} in common")
        findings.append(
            Finding(
                kind="score",
                arm=arm,
                name=name,
                passed=found.passed,
                value=value,
                expected=expected,
                low=expected - margin,
                high=None,
                difference=found.difference,
                margin=margin,
                bound=found.bound,
                p_value=found.p_value,
                power=found.power,
                meaning=None if found.passed else SCORE_MEANING,
            )
        )
    return findings


def _training(run: MeasuredRun, reference: MeasuredRun) -> list[Finding]:
    names = [(arm, name) for arm in run.arms for name in _measures(reference, arm)]
    findings = []
    for arm, name in names:
        before = [each.measures[name] for each in reference.arms[arm].values()]
        now = [each.measures[name] for each in run.arms[arm].values() if name in each.measures]
        expected, value = fmean(before), fmean(now) if now else math.nan
        spread = max(stdev(before), LEAST_SPREAD * abs(expected)) * math.sqrt(1 / len(before) + 1 / max(1, len(now)))
        width = spread * float(stdtrit((len(before) - 1) / HEAVY, 1 - ALARM / 4 / len(names)))
        passed = abs(value - expected) <= width
        findings.append(
            Finding(
                kind="training",
                arm=arm,
                name=name,
                passed=passed,
                value=value,
                expected=expected,
                low=expected - width,
                high=expected + width,
                meaning=None if passed else meaning(name),
            )
        )
    return findings


def _measures(reference: MeasuredRun, arm: str) -> list[str]:
    """The measures that all seeds of an arm have."""
    seeds = [each.measures for each in reference.arms[arm].values()]
    return [name for name in seeds[0] if all(name in each for each in seeds)]
