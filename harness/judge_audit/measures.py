"""Agreement between verdicts and labels, as pure functions with intervals.

Each measure is a function of sums over askings. Questions are resampled (all pairs of a question together), so a
measure's 95 % interval is the percentile interval of that function over resampled sums: one matrix product.
A verdict on a pair is the preference for answer A: 1, 0.5 for a tie, 0, and NaN without a verdict.

Cohen's kappa of pairs comes from scikit-learn and Krippendorff's alpha from NLTK; the formulas here resample them, and
tests compare them with the libraries.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, isfinite, sqrt

import numpy as np
from scipy.special import ndtri

from harness.statistics.estimates import LEVEL
from harness.statistics.intervals import Interval
from harness.statistics.resampling import CHUNK, DRAWS, resamples

CATEGORIES = (0.0, 0.5, 1.0)  # B, tie, A
POWER = 0.8
A_FIRST, B_FIRST = 0, 1  # the two columns of choices

Formula = Callable[[np.ndarray], np.ndarray]  # sums (..., m) -> a number (...)


@dataclass(frozen=True)
class Choices:
    """A judge's verdicts on n pairs.

    labels: (n,) preferences for A. choices: (n, 2) the judge's, with A shown first and with B shown first.
    a_longer: (n,) 1 if A has more characters, -1 if B has, 0 if they are equal.
    a_own: (n,) 1 if only A is by the judge's own model, -1 if only B is, else 0.
    questions: (n,) from 0, equal for pairs of the same question.
    """

    labels: np.ndarray
    choices: np.ndarray
    a_longer: np.ndarray
    a_own: np.ndarray
    questions: np.ndarray


@dataclass(frozen=True)
class Ratings:
    """A judge's ratings of n answers.

    labels, ratings: (n,) the ratings are NaN without a verdict. lengths: (n,) characters. own: (n,) whether the answer
    is by the judge's own model. questions: (n,) from 0, equal for answers to the same question.
    """

    labels: np.ndarray
    ratings: np.ndarray
    lengths: np.ndarray
    own: np.ndarray
    questions: np.ndarray


def interval(terms: np.ndarray, questions: np.ndarray, formula: Formula) -> Interval | None:
    """Compute the value of a formula with its bootstrap interval over questions.

    Args:
        terms: (n, m) what each row adds to the sums.

    Returns:
        None if the formula has no value. low and high are NaN for fewer than two questions.
    """
    number = int(questions.max()) + 1 if len(questions) else 0
    sums = np.zeros((number, terms.shape[1]))
    np.add.at(sums, questions, terms)
    sums = sums[(sums != 0).any(1)]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(formula(sums.sum(0)))
        if not isfinite(value):
            return None
        if len(sums) < 2:
            return Interval(value, float("nan"), float("nan"))
        counts, step = resamples(len(sums), DRAWS, 0), max(1, CHUNK // len(sums))
        resampled = formula(np.concatenate([counts[i : i + step].astype(float) @ sums for i in range(0, DRAWS, step)]))
    if not (finite := resampled[np.isfinite(resampled)]).size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def ratio(sums: np.ndarray) -> np.ndarray:
    """Divide the first sum by the second."""
    return sums[..., 0] / sums[..., 1]


def weighted_kappa(counts: np.ndarray) -> np.ndarray:
    """Compute Cohen's kappa from confusion counts (..., 9) of labels x choices over CATEGORIES, linearly weighted
    (Cohen 1968): a tie is half a disagreement. 0 means agreement by chance."""
    table = counts.reshape(*counts.shape[:-1], 3, 3)
    total = table.sum((-2, -1))
    expected = table.sum(-1)[..., :, None] * table.sum(-2)[..., None, :] / total[..., None, None]
    weights = np.abs(np.subtract.outer(CATEGORIES, CATEGORIES))
    return 1 - (table * weights).sum((-2, -1)) / (expected * weights).sum((-2, -1))


def nominal_alpha(counts: np.ndarray) -> np.ndarray:
    """Compute Krippendorff's nominal alpha from the same counts: two coders (label and judge), ties as a category.

    1 - D_o / D_e with D_o the share of units that differ and D_e = sum over c != k of n_c n_k / (n (n - 1)) for n
    values, n_c of category c (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011).
    """
    table = counts.reshape(*counts.shape[:-1], 3, 3)
    units = table.sum((-2, -1))
    values = table.sum(-1) + table.sum(-2)
    n = 2 * units
    observed = 1 - np.trace(table, axis1=-2, axis2=-1) / units
    expected = (n**2 - (values**2).sum(-1)) / (n * (n - 1))
    return 1 - observed / expected


def concordance(sums: np.ndarray) -> np.ndarray:
    """Compute Cohen's kappa with quadratic weights on the ratings' own scale from `moments`: 1 - E[(x - y)^2] /
    (var x + var y + (mean x - mean y)^2). It equals Lin's concordance coefficient, and supports ratings such as 9.5."""
    n, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
    return 1 - ((xx - 2 * xy + yy) / n) / ((xx + yy) / n - 2 * x * y / n**2)


def interval_alpha(sums: np.ndarray) -> np.ndarray:
    """Compute Krippendorff's alpha from `moments`, interval scale: D_o = sum (x - y)^2 / U for U units, and D_e is the
    mean squared difference of all pairs of the 2U pooled values."""
    units, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
    n: np.ndarray = 2 * units
    expected = 2 * (n * (xx + yy) - (x + y) ** 2) / (n * (n - 1))
    return 1 - ((xx - 2 * xy + yy) / units) / expected


def slope(sums: np.ndarray) -> np.ndarray:
    """Compute the slope of the least-squares line of ratings y on labels x, from `moments`."""
    n, x, y, xx, _, xy = (sums[..., place] for place in range(6))
    return (n * xy - x * y) / (n * xx - x**2)


def correlation(sums: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlation from `moments`."""
    n, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
    return (n * xy - x * y) / np.sqrt((n * xx - x**2) * (n * yy - y**2))


def partial_correlation(sums: np.ndarray) -> np.ndarray:
    """Compute the correlation of labels and ratings at equal length, from moments of (x, y), (x, l), (y, l), 6 each."""
    xy, xl, yl = (correlation(sums[..., 6 * place : 6 * place + 6]) for place in range(3))
    return (xy - xl * yl) / np.sqrt((1 - xl**2) * (1 - yl**2))


def moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (n, 6): 1, x, y, x^2, y^2, xy of each row."""
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def detectable_difference(agreement: float, questions: int, power: float = POWER, level: float = LEVEL) -> float:
    """Return the smallest true difference between two win rates that a judge shows as significant, as a share.

    A judge that agrees with the truth on a share q of pairs, whichever answer is better, turns a true win rate w into
    q w + (1 - q)(1 - w) = (1 - q) + (2q - 1) w: differences shrink by 2q - 1 (Rogan and Gladen, Am. J. Epidemiol. 107,
    1978, with sensitivity = specificity = q). Two observed win rates, each over n questions, have a difference with a
    standard error of at most sqrt(2 * 0.25 / n). So a true difference of

        d = (z(1 - (1 - level) / 2) + z(power)) * sqrt(1 / (2 n)) / (2q - 1)

    is found with at least this power. Answers of two methods to the same questions are usually correlated, which makes
    the real standard error smaller: d is on the safe side.

    Returns:
        inf if the judge agrees with half of the pairs or fewer.
    """
    if not agreement > 0.5:
        return inf
    return float((ndtri((1 + level) / 2) + ndtri(power)) * sqrt(1 / (2 * questions)) / (2 * agreement - 1))


def detectable_points(slope: float, spread: float, questions: int, power: float = POWER, level: float = LEVEL) -> float:
    """Return the smallest detectable difference of mean ratings, in the labels' points: (z + z) * sqrt(2 s^2 / n) / b.

    Args:
        slope: b of the judge's ratings on the labels: a true difference of one point shows as this much.
        spread: s, the standard deviation of the judge's ratings.
    """
    if not slope > 0:
        return inf
    return float((ndtri((1 + level) / 2) + ndtri(power)) * sqrt(2 / questions) * spread / slope)


def _flat(choices: Choices) -> tuple[np.ndarray, ...]:
    """Askings with a verdict: their labels, choices, places among the askings (pair, order) and questions."""
    pair, order = np.nonzero(~np.isnan(choices.choices))
    return choices.labels[pair], choices.choices[pair, order], pair, order, choices.questions[pair]


def of_pairs(choices: Choices) -> dict[str, Interval | None]:
    """Compute all measures of a judge's choices; None for those without a value.

    agreement: share of askings that agree with the label; a tie on one side only counts half. decided: the same for
    labels that are not ties. kappa, alpha: of labels and choices. ties: share of verdicts that are ties.
    first: share of choices (without ties) for the answer shown first. same_place: share of pairs, decided in both
    orders, in which the same place won both times. consistent: share of pairs with the same verdict in both orders.
    better_longer, better_shorter: agreement if the better answer is the longer one, and the shorter one.
    beyond_length: better_longer + better_shorter - 1; 0 for any judge whose choice depends only on which answer is
        longer, whatever the labels (Youden's J of "the longer answer is better").
    longer_gain: (better_longer - better_shorter) / 2, the win rate that a method of equal quality gains if its answers
        are always the longer ones.
    own_gain: how much more often the judge prefers its own model's answers than the labels do.
    """
    label, choice, pair, order, questions = _flat(choices)
    agreed = 1 - np.abs(label - choice)
    ones = np.ones_like(agreed)
    decided = label != 0.5
    counts = np.zeros((len(label), 9))
    counts[np.arange(len(label)), (6 * label + 2 * choice).astype(int)] = 1  # 3 x the label's category + the choice's
    picked = choice != 0.5
    first = (choice == 1) == (order == A_FIRST)
    both = choices.choices
    settled = np.isin(both, (0.0, 1.0)).all(1)
    answered = ~np.isnan(both).any(1)
    own = choices.a_own[pair]
    longer = np.where(label == 1, choices.a_longer[pair], -choices.a_longer[pair])  # 1: the better answer is the longer

    def share(hits: np.ndarray, of: np.ndarray, questions: np.ndarray = questions) -> Interval | None:
        return interval(np.stack([hits * of, of], axis=1).astype(float), questions, ratio)

    by_length = np.stack(
        [each * (decided & (longer == side)) for side in (1, -1) for each in (agreed, ones)], axis=1
    ).astype(float)

    def of_length(factor: float, sign: int, start: float) -> Interval | None:
        return interval(
            by_length,
            questions,
            lambda sums: start + factor * (sums[..., 0] / sums[..., 1] + sign * sums[..., 2] / sums[..., 3]),
        )

    preferred = np.where(own == 1, choice - label, label - choice)
    return {
        "agreement": share(agreed, ones),
        "decided": share(agreed, decided),
        "kappa": _valued(interval(counts, questions, weighted_kappa), lambda: library_kappa(label, choice)),
        "alpha": _valued(
            interval(counts, questions, nominal_alpha), lambda: library_alpha(label, choice, on_scale=False)
        ),
        "ties": share(~picked, ones),
        "first": share(first, picked),
        "same_place": share(both[:, A_FIRST] != both[:, B_FIRST], settled, choices.questions),
        "consistent": share(both[:, A_FIRST] == both[:, B_FIRST], answered, choices.questions),
        "better_longer": share(agreed, decided & (longer == 1)),
        "better_shorter": share(agreed, decided & (longer == -1)),
        "beyond_length": of_length(1.0, 1, -1.0),
        "longer_gain": of_length(0.5, -1, 0.0),
        "own_gain": share(preferred, own != 0),
    }


def of_ratings(ratings: Ratings) -> dict[str, Interval | None]:
    """Compute all measures of a judge's ratings; None for those without a value.

    kappa: Cohen's, quadratically weighted. alpha: Krippendorff's, interval scale. correlation: Pearson's.
    at_equal_length: the partial correlation with the labels, given the logarithm of the length.
    bias: mean of rating - label. slope: of ratings on labels. spread: standard deviation of the ratings.
    length_gain: points that the judge adds to the label if an answer is twice as long.
    own_gain: mean of rating - label for the judge's own answers, minus that for others.
    """
    known = ~np.isnan(ratings.ratings)
    label, rating, questions = ratings.labels[known], ratings.ratings[known], ratings.questions[known]
    length, own = np.log2(np.maximum(ratings.lengths[known], 1)), ratings.own[known]
    both = moments(label, rating)
    ones, excess = np.ones_like(label), rating - label
    at_length = np.concatenate([both, moments(label, length), moments(rating, length)], axis=1)
    by_owner = np.stack([each * side for side in (own, ~own) for each in (excess, ones)], axis=1)

    def spread(sums: np.ndarray) -> np.ndarray:
        n, y, yy = sums[..., 0], sums[..., 2], sums[..., 4]
        return np.sqrt(np.maximum(0, (yy - y**2 / n) / (n - 1)))

    return {
        "kappa": interval(both, questions, concordance),
        "alpha": _valued(
            interval(both, questions, interval_alpha), lambda: library_alpha(label, rating, on_scale=True)
        ),
        "correlation": interval(both, questions, correlation),
        "at_equal_length": interval(at_length, questions, partial_correlation),
        "bias": interval(np.stack([excess, ones], axis=1), questions, ratio),
        "slope": interval(both, questions, slope),
        "spread": interval(both, questions, spread),
        "length_gain": interval(moments(length, excess), questions, slope),
        "own_gain": interval(
            by_owner, questions, lambda sums: sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]
        ),
    }


def library_kappa(labels: np.ndarray, choices: np.ndarray) -> float:
    """Compute Cohen's kappa of pairs by scikit-learn: labels x choices over CATEGORIES, linear weights."""
    from sklearn.metrics import cohen_kappa_score

    places = [np.searchsorted(CATEGORIES, each) for each in (labels, choices)]
    return float(cohen_kappa_score(*places, labels=range(len(CATEGORIES)), weights="linear"))


def library_alpha(labels: np.ndarray, given: np.ndarray, *, on_scale: bool) -> float:
    """Compute Krippendorff's alpha of two coders by NLTK, on an interval scale or for categories."""
    from nltk.metrics.agreement import AnnotationTask
    from nltk.metrics.distance import binary_distance, interval_distance

    coders = (("label", labels), ("judge", given))
    data = [(name, unit, value) for name, values in coders for unit, value in enumerate(values.tolist())]
    return float(AnnotationTask(data, interval_distance if on_scale else binary_distance).alpha())


def _valued(found: Interval | None, library: Callable[[], float]) -> Interval | None:
    """Return the interval with the library's value, if there is one: degenerate data have none."""
    return found and replace(found, value=library())
