"""The optional filter of the first version (the authors' code): keeps likely pairs that obey their principles."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.methods.base import Workbench
from sso.responses import Responses


@dataclass(frozen=True)
class Likelihoods:
    """Average log-probabilities per token, in nats: good_* of y+ and bad_* of y-, under x (plain), x+ and x-."""

    good_plain: float
    good_good: float
    good_bad: float
    bad_plain: float
    bad_good: float
    bad_bad: float

    @property
    def good_gap(self) -> float:
        return self.good_good - self.good_bad

    @property
    def bad_gap(self) -> float:
        return self.bad_bad - self.bad_good


def passing(likelihoods: Sequence[Likelihoods]) -> list[int]:
    """Indices of the queries that pass three steps; each step recomputes the means over the queries that are left.

    1. l(y+|x+) > l(y+|x) > l(y+|x-) and l(y-|x-) > l(y-|x) > l(y-|x+); 2. l(y+|x) and l(y-|x) at or above their means;
    3. both gaps above their means. There may be no query left.

    In a run, the queries given are those that were drawn together (at most 1,024).
    """
    kept = [
        index
        for index, query in enumerate(likelihoods)
        if query.good_good > query.good_plain > query.good_bad and query.bad_bad > query.bad_plain > query.bad_good
    ]
    if not kept:
        return []
    good, bad = (fmean(getattr(likelihoods[i], name) for i in kept) for name in ("good_plain", "bad_plain"))
    kept = [i for i in kept if likelihoods[i].good_plain >= good and likelihoods[i].bad_plain >= bad]
    if not kept:
        return []
    good, bad = (fmean(getattr(likelihoods[i], name) for i in kept) for name in ("good_gap", "bad_gap"))
    return [i for i in kept if likelihoods[i].good_gap > good and likelihoods[i].bad_gap > bad]


def filter_responses(workbench: Workbench, sampled: Sequence[Responses]) -> list[Responses]:
    """Return the queries that pass; the others count as discarded. Forward passes are charged to the role "filter"."""
    queries = [responses.tokens for responses in sampled]
    prompts = [prompt for query in queries for prompt in (query.plain, query.good, query.bad) for _ in range(2)]
    completions = [
        response for query in queries for _ in range(3) for response in (query.good_response, query.bad_response)
    ]
    scored = workbench.score("filter", prompts, completions)
    likelihoods = []
    for index in range(0, len(scored), 6):
        plain, plain_bad, good, good_bad, bad, bad_bad = (score.mean for score in scored[index : index + 6])
        likelihoods.append(Likelihoods(plain, good, bad, plain_bad, good_bad, bad_bad))
    kept = passing(likelihoods)
    workbench.discard("filtered", len(sampled) - len(kept))
    return [sampled[index] for index in kept]
