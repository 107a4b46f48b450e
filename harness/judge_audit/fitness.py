"""Whether a judge is fit to rank methods, by a rule with stated thresholds, and in a plain sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, isnan
from typing import TypeGuard

from harness.judge_audit.measures import detectable_difference, detectable_points
from harness.statistics.intervals import Interval

MOST_WITHOUT = 0.10  # largest share of askings without a verdict
LEAST_QUESTIONS = 30  # fewest questions with a verdict
PAIR_QUESTIONS = 805  # AlpacaEval's number, for which the detectable win-rate difference is stated
RATING_QUESTIONS = 80  # MT-Bench's number

Measures = Mapping[str, Interval | None]


@dataclass(frozen=True)
class Fitness:
    """Whether a judge is fit to rank.

    fit: None if there is too little data. difference: the smallest difference that the judge detects, in points of win
    rate (%) or of the rating; None if it is not fit. cautious: the same at the lower bound of its agreement.
    reasons: why it is not fit. advice: what to watch out for if it is.
    """

    fit: bool | None
    difference: float | None
    cautious: float | None
    questions: int
    reasons: tuple[str, ...]
    advice: tuple[str, ...]

    @property
    def sentence(self) -> str:
        if self.fit is None:
            return f"too little to tell: {'; '.join(self.reasons)}"
        if not self.fit:
            return f"not fit to rank: {'; '.join(self.reasons)}"
        return "; ".join([self._smallest_difference(), *self.advice])

    def _smallest_difference(self) -> str:
        unit = "points of win rate" if self.questions == PAIR_QUESTIONS else "points of the rating"
        cautious = self.cautious
        least = f"{cautious:.1f}" if cautious is not None and isfinite(cautious) else "no difference"
        return (
            f"fit to rank methods that differ by {self.difference:.1f} {unit} or more ({self.questions} questions; "
            f"{least} at the lower bound of its agreement)"
        )


def above(found: Interval | None, bound: float) -> TypeGuard[Interval]:
    """Whether the whole interval is above a bound."""
    return found is not None and found.low > bound


def below(found: Interval | None, bound: float) -> TypeGuard[Interval]:
    """Whether the whole interval is below a bound."""
    return found is not None and found.high < bound


def too_little(questions: int, without: float) -> tuple[bool, tuple[str, ...]]:
    """Return whether there are too few questions to decide, and the reasons why verdicts do not suffice."""
    reasons = []
    if without > MOST_WITHOUT:
        reasons.append(f"{without:.0%} of what it was asked has no verdict (at most {MOST_WITHOUT:.0%})")
    if questions < LEAST_QUESTIONS:
        reasons.append(f"{questions} questions have a verdict (at least {LEAST_QUESTIONS})")
    return questions < LEAST_QUESTIONS and without <= MOST_WITHOUT, tuple(reasons)


def of_pairs(found: Measures, questions: int, without: float) -> Fitness:
    """Apply the rule for pairs.

    Args:
        found: from `measures.of_pairs`.
        questions: how many have a verdict.
        without: share of askings without one.
    """
    few, doubts = too_little(questions, without)
    reasons = [*doubts]
    if few:
        return Fitness(None, None, None, PAIR_QUESTIONS, tuple(reasons), ())
    same_place, first, decided = found["same_place"], found["first"], found["decided"]
    if above(same_place, 0.5):
        place = "first" if first and first.value >= 0.5 else "second"
        reasons.append(
            f"the place decides: in {same_place.value:.0%} of pairs the same place wins in both orders, "
            f"mostly the {place}"
        )
    if not above(found["kappa"], 0):
        reasons.append(f"its agreement with the labels is not above chance ({_shown('kappa', found['kappa'])})")
    one_sided = (found["better_longer"] is None) != (found["better_shorter"] is None)
    of_one_length = found["better_longer"] is None and found["better_shorter"] is None
    if not (of_one_length or one_sided or above(found["beyond_length"], 0)):
        reasons.append(_about_length(found))
    if reasons or decided is None:  # (a kappa above chance comes from pairs with a decision)
        return Fitness(False, None, None, PAIR_QUESTIONS, tuple(reasons), ())
    if one_sided:
        kind = "shorter" if found["better_shorter"] is None else "longer"
        text = f"no better answer among the labels is the {kind} one, so length may explain its choices"
        return Fitness(None, None, None, PAIR_QUESTIONS, (text,), ())
    difference, cautious = (
        100 * detectable_difference(share, PAIR_QUESTIONS) for share in (decided.value, decided.low)
    )
    return Fitness(True, difference, cautious, PAIR_QUESTIONS, (), _advice(found))


def _about_length(found: Measures) -> str:
    longer, shorter, gain = (found[name] for name in ("better_longer", "better_shorter", "longer_gain"))
    assert longer is not None and shorter is not None
    shares = f"{longer.value:.0%} where the better answer is the longer, {shorter.value:.0%} where it is the shorter"
    if above(gain, 0) or below(gain, 0):
        kind = "longer" if gain.value > 0 else "shorter"
        return f"length explains its choices: it takes the {kind} answer (it agrees with the labels in {shares})"
    return f"it is not shown to see more than length (it agrees with the labels in {shares})"


def _advice(found: Measures) -> tuple[str, ...]:
    advice = []
    first, gain, own_gain = found["first"], found["longer_gain"], found["own_gain"]
    if above(first, 0.5) or below(first, 0.5):
        advice.append(f"use --both-orders: it takes the first answer in {_share(first)}")
    if above(gain, 0) or below(gain, 0):
        kind = "longer" if gain.value > 0 else "shorter"
        advice.append(
            f"a method whose answers are always the {kind} ones gains {abs(100 * gain.value):.1f} points by that alone"
        )
    if above(own_gain, 0):
        advice.append(f"it prefers its own model's answers by {100 * own_gain.value:.1f} points")
    return tuple(advice)


def of_ratings(found: Measures, questions: int, without: float) -> Fitness:
    """Apply the rule for ratings (see `of_pairs` for the arguments)."""
    few, doubts = too_little(questions, without)
    reasons = [*doubts]
    if few:
        return Fitness(None, None, None, RATING_QUESTIONS, tuple(reasons), ())
    if not above(found["kappa"], 0):
        reasons.append(f"its agreement with the labels is not above chance ({_shown('kappa', found['kappa'])})")
    of_one_length = found["length_gain"] is None
    if not (of_one_length or above(found["at_equal_length"], 0)):
        shown = _shown("correlation at equal length", found["at_equal_length"])
        reasons.append(f"it is not shown to see more than length ({shown})")
    spread, slope = found["spread"], found["slope"]
    if reasons or spread is None or slope is None:
        return Fitness(False, None, None, RATING_QUESTIONS, tuple(reasons), ())
    length_gain, own_gain = found["length_gain"], found["own_gain"]
    advice = []
    if above(length_gain, 0) or below(length_gain, 0):
        advice.append(f"an answer twice as long gets {length_gain.value:+.2f} points for that alone")
    if above(own_gain, 0):
        advice.append(f"it gives its own model's answers {own_gain.value:.2f} points more")
    difference, cautious = (
        detectable_points(each, spread.value, RATING_QUESTIONS) for each in (slope.value, slope.low)
    )
    return Fitness(True, difference, cautious, RATING_QUESTIONS, (), tuple(advice))


def _shown(name: str, found: Interval | None) -> str:
    if found is None:
        return f"{name} has no value: it says the same of all"
    if isnan(found.low):
        return f"{name} {found.value:.2f}, without an interval"
    return f"{name} {found.value:.2f}, 95 % interval {found.low:.2f} to {found.high:.2f}"


def _share(found: Interval) -> str:
    return f"{found.value:.0%} of its choices ({found.low:.0%} to {found.high:.0%})"


def overall(name: str, sets: Mapping[str, Fitness]) -> tuple[bool | None, str]:
    """Combine all label sets: fit if each says so, for differences of at least the largest of each kind."""
    unfit = [label_set for label_set, fitness in sets.items() if fitness.fit is False]
    unknown = [label_set for label_set, fitness in sets.items() if fitness.fit is None]
    fit = [label_set for label_set, fitness in sets.items() if fitness.fit]
    if unfit:
        also = f"; fit by {', '.join(fit)}" if fit else ""
        also += f"; too little to tell by {', '.join(unknown)}" if unknown else ""
        reasons = "; ".join(f"by {each}: {', '.join(sets[each].reasons)}" for each in unfit)
        return False, f"{name} is not fit to rank: {reasons}{also}."
    if unknown:
        also = f"; fit by {', '.join(fit)}" if fit else ""
        reasons = "; ".join(f"{each}: {', '.join(sets[each].reasons)}" for each in unknown)
        return None, f"{name} is not shown to be fit to rank: too little to tell by {reasons}{also}."
    parts = []
    for questions, unit in ((PAIR_QUESTIONS, "win rate"), (RATING_QUESTIONS, "the rating")):
        known = [
            fitness.difference
            for fitness in sets.values()
            if fitness.questions == questions and fitness.difference is not None
        ]
        if known:
            parts.append(f"{max(known):.1f} points of {unit} ({questions} questions)")
    return True, f"{name} is fit to rank methods that differ by {' and by '.join(parts)} or more."
