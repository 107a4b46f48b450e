"""The filter of SSO's first version: its three steps by hand, and what it costs."""

from dataclasses import replace

import pytest
from scripted_engine import ScriptedEngine, bench_of, ids

from harness.engines.base import LogProb
from harness.types import Prompt
from sso.filtering import Likelihoods, filter_responses, passing
from sso.objective import Query
from sso.responses import Responses

# y+ and y- obey their principles: -1 > -2 > -4 and -1 > -3 > -5; gaps 3 and 4
OBEYS = Likelihoods(good_plain=-2, good_good=-1, good_bad=-4, bad_plain=-3, bad_good=-5, bad_bad=-1)


def test_gaps():
    assert (OBEYS.good_gap, OBEYS.bad_gap) == (3, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"good_good": -2.5},  # y+ is less likely under x+ than under x
        {"good_bad": -1.5},  # y+ is more likely under x- than under x
        {"bad_bad": -3.5},
        {"bad_good": -2.5},
        {"good_good": -2},  # equal is not above
        {"good_bad": -2},
        {"bad_bad": -3},
        {"bad_good": -3},
    ],
)
def test_first_step_drops_responses_that_do_not_obey(change):
    weak = replace(OBEYS, good_good=-1.9, bad_bad=-2.9)  # smaller gaps: the means lie below those of OBEYS
    assert passing([weak, OBEYS]) == [1]
    assert passing([weak, replace(OBEYS, **change), OBEYS]) == [2]


def test_second_step_keeps_likely_responses_and_third_step_wide_gaps():
    rows = [
        OBEYS,  # l(y+|x) -2, l(y-|x) -3, gaps 3 and 4
        replace(OBEYS, good_good=-1.5, bad_bad=-2),  # gaps 2.5 and 3
        replace(OBEYS, good_plain=-3.5),  # less likely than the mean of -2.3: dropped in step 2
        replace(OBEYS, bad_plain=-4.5),  # less likely than the mean of -3.3: dropped in step 2
        replace(OBEYS, good_good=-2.5),  # does not obey: dropped in step 1, and in no mean
    ]
    # step 1 keeps 0 to 3; means of l(y+|x) (-2 -2 -3.5 -2) / 4 = -2.375 and of l(y-|x) (-3 -3 -3 -4.5) / 4 = -3.375
    # step 2 keeps 0 and 1; means of the gaps 2.75 and 3.5; step 3 keeps 0
    assert passing(rows) == [0]


def test_second_step_keeps_what_equals_the_mean():
    weak = replace(OBEYS, good_good=-1.9, bad_bad=-2.9)
    assert passing([OBEYS, weak]) == [0]  # both have the same l(y|x), which is the mean


def test_both_likelihoods_must_reach_their_means():
    rows = [replace(OBEYS, good_plain=-1.5), replace(OBEYS, bad_plain=-2)]
    # each is above one mean and below the other, so none is left for step 3
    assert passing(rows) == []


def test_third_step_keeps_only_gaps_above_both_means():
    rows = [
        OBEYS,  # gaps 3 and 4
        replace(OBEYS, good_good=-0.5, bad_bad=-2),  # 3.5 and 3
        replace(OBEYS, good_bad=-3, bad_good=-4),  # 2 and 3
        replace(OBEYS, good_bad=-5, bad_good=-6),  # 4 and 5
    ]
    # means: 12.5 / 4 = 3.125 and 15 / 4 = 3.75; the first misses the one, the second the other
    assert passing(rows) == [3]


@pytest.mark.parametrize("wider", [{"good_good": -0.5}, {"bad_bad": -0.5}])
def test_one_gap_that_equals_its_mean_is_not_enough(wider):
    assert passing([OBEYS, replace(OBEYS, **wider)]) == []
    assert passing([OBEYS, replace(OBEYS, good_good=-0.5, bad_bad=-0.5)]) == [1]


def test_nothing_passes_of_one_or_none():
    assert passing([]) == []
    assert passing([OBEYS]) == []  # its gaps equal their means, and the third step wants them above


class ScoringEngine(ScriptedEngine):
    """Gives each (prompt, completion) the log-probability that a table has for their texts."""

    def __init__(self, table: dict[tuple[str, str], float]):
        super().__init__()
        self.table = table

    def logprobs(self, prompts, completions, advance=None):
        return [
            LogProb(self.table[self.text(prompt), self.text(completion)] * len(completion), len(completion))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]


def test_responses_are_scored_under_the_three_prompts():
    def likelihoods(name: str, gap: float) -> dict[tuple[str, str], float]:
        return {
            (f"{name} x", "fine"): -2,
            (f"{name} x+", "fine"): -2 + gap,
            (f"{name} x-", "fine"): -4,
            (f"{name} x", "poor!"): -3,
            (f"{name} x+", "poor!"): -5,
            (f"{name} x-", "poor!"): -3 + gap,
        }

    engine = ScoringEngine(likelihoods("a", 0.5) | likelihoods("b", 1.5))
    sampled = [
        Responses(
            Prompt(name, ({"role": "user", "content": name},)),
            Query(ids(f"{name} x"), ids(f"{name} x+"), ids(f"{name} x-"), ids("fine"), ids("poor!"), ids("other")),
            {},
        )
        for name in ("a", "b")
    ]
    bench = bench_of(engine)
    assert filter_responses(bench, sampled) == sampled[1:]
    assert bench.discarded == {"filtered": 1}
    # 2 queries; x, x+ and x- have 3, 4 and 4 tokens, the responses 4 and 5 and are read 3 times
    spent = bench.ledger.roles["filter"]
    assert (spent.calls, spent.prompt_tokens, spent.generated_tokens) == (12, 2 * (11 + 3 * 9), 0)
    assert spent.flops == 2 * engine.parameters * spent.prompt_tokens


def test_no_responses_pass_as_none():
    assert filter_responses(bench_of(ScoringEngine({})), []) == []
