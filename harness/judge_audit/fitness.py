"""Whether a judge is fit to rank, by a rule with stated numbers, and in a plain sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, isnan

from harness.judge_audit.measures import detectable_difference, detectable_points
from harness.statistics.intervals import Interval

MOST_WITHOUT = 0.10  # share of askings without a verdict: more is not a random few
LEAST_QUESTIONS = 30  # with a verdict: fewer tell nothing
PAIR_QUESTIONS = 805  # AlpacaEval's, for which the detectable win-rate difference is stated
RATING_QUESTIONS = 80  # MT-Bench's

Measures = Mapping[str, Interval | None]


@dataclass(frozen=True)
class Fitness:
    """fit: None where there is too little to tell. difference: from which on the judge ranks: points of win rate (%),
    or of the rating; None where it does not. cautious: the same at the lower bound of its agreement.
    reasons: why it is not fit. advice: what to mind where it is."""

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
        return "; ".join([self._from_where_on(), *self.advice])

    def _from_where_on(self) -> str:
        unit = "points of win rate" if self.questions == PAIR_QUESTIONS else "points of the rating"
        least = f"{self.cautious:.1f}" if isfinite(self.cautious) else "no difference"
        return (
            f"fit to rank methods that differ by {self.difference:.1f} {unit} or more ({self.questions} questions; "
            f"{least} at the lower bound of its agreement)"
        )


def above(found: Interval | None, bound: float) -> bool:
    """Whether all of the interval lies above a bound."""
    return found is not None and found.low > bound


def below(found: Interval | None, bound: float) -> bool:
    return found is not None and found.high < bound


def too_little(questions: int, without: float) -> tuple[bool, tuple[str, ...]]:
    """Whether there are too few questions to tell, and what is wrong with the share without a verdict."""
    reasons = []
    if without > MOST_WITHOUT:
        reasons.append(f"{without:.0%} of what it was asked has no verdict (at most {MOST_WITHOUT:.0%})")
    if questions < LEAST_QUESTIONS:
        reasons.append(f"{questions} questions have a verdict (at least {LEAST_QUESTIONS})")
    return questions < LEAST_QUESTIONS and without <= MOST_WITHOUT, tuple(reasons)


def of_pairs(found: Measures, questions: int, without: float) -> Fitness:
    """The rule for pairs.

    Args:
        found: of `measures.of_pairs`.
        questions: that have a verdict.
        without: share of askings without one.
    """
    few, reasons = too_little(questions, without)
    reasons = [*reasons]
    if few:
        return Fitness(None, None, None, PAIR_QUESTIONS, tuple(reasons), ())
    if above(found["same_place"], 0.5):
        place = "first" if found["first"] and found["first"].value >= 0.5 else "second"
        reasons.append(
            f"the place decides: in {found['same_place'].value:.0%} of pairs the same place wins in both orders, "
            f"mostly the {place}"
        )
    if not above(found["kappa"], 0):
        reasons.append(f"its agreement with the labels is not above chance ({_shown('kappa', found['kappa'])})")
    one_sided = (found["better_longer"] is None) != (found["better_shorter"] is None)
    of_one_length = found["better_longer"] is None and found["better_shorter"] is None
    if not (of_one_length or one_sided or above(found["beyond_length"], 0)):
        reasons.append(_about_length(found))
    if reasons:
        return Fitness(False, None, None, PAIR_QUESTIONS, tuple(reasons), ())
    if one_sided:
        kind = "shorter" if found["better_shorter"] is None else "longer"
        text = f"no better answer among the labels is the {kind} one, so length may explain its choices"
        return Fitness(None, None, None, PAIR_QUESTIONS, (text,), ())
    decided = found["decided"]
    differences = [100 * detectable_difference(share, PAIR_QUESTIONS) for share in (decided.value, decided.low)]
    return Fitness(True, *differences, PAIR_QUESTIONS, (), _advice(found))


def _about_length(found: Measures) -> str:
    longer, shorter, gain = (found[name] for name in ("better_longer", "better_shorter", "longer_gain"))
    shares = f"{longer.value:.0%} where the better answer is the longer, {shorter.value:.0%} where it is the shorter"
    if above(gain, 0) or below(gain, 0):
        kind = "longer" if gain.value > 0 else "shorter"
        return f"length explains its choices: it takes the {kind} answer (it agrees with the labels in {shares})"
    return f"it is not shown to see more than length (it agrees with the labels in {shares})"


def _advice(found: Measures) -> tuple[str, ...]:
    advice = []
    if above(found["first"], 0.5) or below(found["first"], 0.5):
        advice.append(f"use --both-orders: it takes the first answer in {_share(found['first'])}")
    if above(found["longer_gain"], 0) or below(found["longer_gain"], 0):
        gain = found["longer_gain"]
        kind = "longer" if gain.value > 0 else "shorter"
        advice.append(
            f"a method whose answers are always the {kind} ones gains {abs(100 * gain.value):.1f} points by that alone"
        )
    if above(found["own_gain"], 0):
        advice.append(f"it prefers its own model's answers by {100 * found['own_gain'].value:.1f} points")
    return tuple(advice)


def of_ratings(found: Measures, questions: int, without: float) -> Fitness:
    """The rule for ratings; arguments as of `of_pairs`."""
    few, reasons = too_little(questions, without)
    reasons = [*reasons]
    if few:
        return Fitness(None, None, None, RATING_QUESTIONS, tuple(reasons), ())
    if not above(found["kappa"], 0):
        reasons.append(f"its agreement with the labels is not above chance ({_shown('kappa', found['kappa'])})")
    of_one_length = found["length_gain"] is None
    if not (of_one_length or above(found["at_equal_length"], 0)):
        shown = _shown("correlation at equal length", found["at_equal_length"])
        reasons.append(f"it is not shown to see more than length ({shown})")
    if reasons:
        return Fitness(False, None, None, RATING_QUESTIONS, tuple(reasons), ())
    spread = found["spread"].value
    slopes = (found["slope"].value, found["slope"].low)
    advice = []
    if above(found["length_gain"], 0) or below(found["length_gain"], 0):
        advice.append(f"an answer twice as long gets {found['length_gain'].value:+.2f} points for that alone")
    if above(found["own_gain"], 0):
        advice.append(f"it gives its own model's answers {found['own_gain'].value:.2f} points more")
    differences = [detectable_points(slope, spread, RATING_QUESTIONS) for slope in slopes]
    return Fitness(True, *differences, RATING_QUESTIONS, (), tuple(advice))


def _shown(name: str, found: Interval | None) -> str:
    if found is None:
        return f"{name} has no value: it says the same of all"
    if isnan(found.low):
        return f"{name} {found.value:.2f}, without an interval"
    return f"{name} {found.value:.2f}, 95 % interval {found.low:.2f} to {found.high:.2f}"


def _share(found: Interval) -> str:
    return f"{found.value:.0%} of its choices ({found.low:.0%} to {found.high:.0%})"


def overall(name: str, sets: Mapping[str, Fitness]) -> tuple[bool | None, str]:
    """Of all label sets: fit where each says so, from the largest difference of each kind on."""
    unfit = [each for each, fitness in sets.items() if fitness.fit is False]
    unknown = [each for each, fitness in sets.items() if fitness.fit is None]
    fit = [each for each, fitness in sets.items() if fitness.fit]
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
        known = [fitness.difference for fitness in sets.values() if fitness.questions == questions]
        if known:
            parts.append(f"{max(known):.1f} points of {unit} ({questions} questions)")
    return True, f"{name} is fit to rank methods that differ by {' and by '.join(parts)} or more."
