"""Holds a run against a reference: identity first, else tests whose false alarms are stated and bounded.

Scores: for each arm and benchmark, the run must be no worse than the reference by a margin (one-sided, non-inferiority,
`harness.statistics.power`). Training: each measure must lie where another seed of the reference's program would
(two-sided prediction interval, Student's t). The margins and intervals are as wide as it takes for a run that is equal
in truth to pass all of them in 1 - ALARM of cases, also where runs have heavier tails than a normal distribution.
"""

import math
from dataclasses import dataclass, fields
from statistics import fmean, stdev

from scipy.special import stdtrit

from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files.marks import differences
from harness.regression.measures import meaning
from harness.regression.reference import MeasuredRun, shared
from harness.statistics.intervals import mean
from harness.statistics.power import ALPHA, margin_for, non_inferiority
from harness.training.examples import TrainingOptions

DEFAULTS = {each.name: each.default for each in fields(TrainingOptions)}  # of options that a reference is older than
ALARM = 0.02  # how often a run that is equal in truth fails; half of it for scores, half for training
HEAVY = 2.0  # degrees of freedom are so many times fewer: scores and gradients of runs may have a kurtosis of 5, not 3
LEAST_MARGIN = 0.02  # of the reference's score: less is never called a regression
LEAST_SPREAD = 0.005  # of a measure, between runs


@dataclass(frozen=True)
class Finding:
    """One comparison.

    kind: "score" (of a benchmark) or "training" (a measure). value: the run's; expected: the reference's mean.
    low, high: what passes; high is None for scores, where more is always well.
    difference, margin, bound, p_value, power: of the non-inferiority test, None for training.
    meaning: what usually is the matter when it fails.
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
    """verdict: "identical", "no worse" or "worse". unequal: what of the common seeds is not identical.

    false_alarms: how often a run that is equal in truth is called worse, at most. not_checked: arms of the reference
    that the run has not.
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
    """
    Args:
        margin: how much worse a score may be, as a share of the reference's; else as much as lets equal runs pass.

    Raises:
        UserError: when the two can not be compared, naming what differs.
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
    for each in (of_run, of_reference):  # either may be from before an option was there
        methods = {name: DEFAULTS | value for name, value in each["options"]["options"].items() if name in run.arms}
        each["options"] = shared(Experiment()) | each["options"] | {"options": methods}
    changes = [f"{name} ({there}, here {here})" for name, there, here in differences(of_reference, of_run)]
    if changes:
        raise UserError(
            f"the run can not be held against the reference, which has another {', '.join(changes[:3])}: run it with "
            "the reference's options, or make a new reference (--update)"
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
        findings.append(
            Finding(
                *("score", arm, name, found.passed, value, expected, expected - margin, None),
                *(found.difference, margin, found.bound, found.p_value, found.power),
                meaning=None
                if found.passed
                else "what the model has learned, how it is asked, or how answers are scored",
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
        low, high = expected - width, expected + width
        findings.append(
            Finding(
                "training", arm, name, passed, value, expected, low, high, meaning=None if passed else meaning(name)
            )
        )
    return findings


def _measures(reference: MeasuredRun, arm: str) -> list[str]:
    """Those that all seeds of an arm have."""
    seeds = [each.measures for each in reference.arms[arm].values()]
    return [name for name in seeds[0] if all(name in each for each in seeds)]
