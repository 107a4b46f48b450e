"""Stages spend their allowance and no more, whatever a query really costs."""

import random
from dataclasses import dataclass

import pytest

from harness.budget import Budget, Ledger
from harness.engines.base import Completion, Sampling
from harness.errors import UserError
from harness.methods import Lengths, Prompt, QueryCost, Stage, Workbench
from harness.stages import allowances, collect_stage, plan_stage, training_flops
from harness.training.examples import Example, Sequence, TrainingOptions

PARAMETERS = 1000
LENGTHS = Lengths(prompt=10, system=5, completion=20)


@dataclass
class Objective:
    sequences: int = 1
    needs_reference: bool = True


class Engine:
    """Completions of random length."""

    parameters = PARAMETERS
    context_length = 10_000

    def __init__(self, mean=20):
        self.mean = mean
        self.draw = random.Random(0)

    def encode_chat(self, messages, add_generation_prompt=True):
        return (1,) * 10

    def generate(self, prompts, items, sampling, advance=None):
        return [Completion((2,) * self.draw.randint(1, 2 * self.mean - 1), "text", True) for _ in prompts]


def collect(bench, prompts):
    completions = bench.sample("generate", [prompt.messages for prompt in prompts], [prompt.id for prompt in prompts])
    kept = [pair for index, pair in enumerate(zip(prompts, completions, strict=True)) if index % 5]
    return [Example(prompt.id, (Sequence((1,) * 10, each.token_ids),)) for prompt, each in kept]


def make_stage(share=1.0, **changes):
    def expect(lengths):
        both = lengths.prompt + lengths.completion
        return QueryCost(read=lengths.prompt, generated=lengths.completion, trained=both, kept=0.8)

    values = {"collect": collect, "expect": expect, "objective": Objective(), "training": TrainingOptions()}
    return Stage("policy", share, **(values | changes))


def make_bench(engine=None, cap=None):
    return Workbench(engine or Engine(), Ledger(cap), Sampling(40), "policy")


def prompts(number):
    return [Prompt(str(index), ({"role": "user", "content": "?"},)) for index in range(number)]


def test_the_cost_of_a_query_by_hand():
    # collecting: 2 N x (10 read + 20 generated); training: 0.8 examples x 30 tokens x (6 + 2) N
    assert make_stage().expect(LENGTHS).flops(PARAMETERS, True) == pytest.approx(1000 * (2 * 30 + 0.8 * 30 * 8))
    assert make_stage().expect(LENGTHS).flops(PARAMETERS, False) == pytest.approx(1000 * (2 * 30 + 0.8 * 30 * 6))


def test_plans_by_hand():
    stage = make_stage(share=0.5)
    plan = plan_stage(stage, Budget.parse("5.04e8"), LENGTHS, PARAMETERS)
    assert (plan.queries, plan.examples, plan.updates) == (1000, 800, 50)
    assert (plan.generate_tokens, plan.trained_tokens, plan.reference_tokens) == (30_000, 24_000, 24_000)
    assert plan.flops == pytest.approx(2.52e8)
    assert plan_stage(stage, Budget.parse("prompts=300"), LENGTHS, PARAMETERS).queries == 150
    by_updates = plan_stage(stage, Budget.parse("updates=10"), LENGTHS, PARAMETERS)
    assert (by_updates.queries, by_updates.updates) == (100, 5)


def test_a_budget_below_one_update_says_what_is_needed():
    # 16 examples are 20 queries of 252,000 FLOPs
    with pytest.raises(UserError, match=r"too small for one update of 16 examples in stage 'policy'.*5\.04e\+06"):
        plan_stage(make_stage(), Budget.parse("5e6"), LENGTHS, PARAMETERS)
    with pytest.raises(UserError, match="at least 20"):
        plan_stage(make_stage(), Budget.parse("prompts=19"), LENGTHS, PARAMETERS)


@pytest.mark.parametrize("mean", [10, 20, 40])
def test_the_allowance_is_spent_to_95_percent_at_least(mean):
    """Also where completions are half or twice as long as the plan expects."""
    stage, budget = make_stage(), Budget.parse("2.52e8")
    bench = make_bench(Engine(mean))
    plan = plan_stage(stage, budget, LENGTHS, PARAMETERS)
    examples = collect_stage(stage, bench, prompts, plan, budget, budget.amount)
    spent = bench.ledger.flops + training_flops(stage, examples, PARAMETERS)
    assert 0.95 * budget.amount <= spent <= budget.amount


def test_examples_beyond_the_allowance_are_left_out_and_counted():
    stage, budget = make_stage(), Budget.parse("2.52e8")
    bench = make_bench(Engine(mean=80))
    plan = plan_stage(stage, budget, LENGTHS, PARAMETERS)
    examples = collect_stage(stage, bench, prompts, plan, budget, budget.amount)
    assert bench.ledger.flops + training_flops(stage, examples, PARAMETERS) <= budget.amount
    assert bench.discarded["beyond the budget"] + len(examples) == 640  # 0.8 of 800 queries, drawn at once


def test_prompts_and_updates_are_met_exactly():
    bench = make_bench()
    budget = Budget.parse("prompts=100")
    plan = plan_stage(make_stage(), budget, LENGTHS, PARAMETERS)
    assert len(collect_stage(make_stage(), bench, prompts, plan, budget, float("inf"))) == 80
    assert bench.ledger.roles["generate"].calls == 100
    budget = Budget.parse("updates=7")
    plan = plan_stage(make_stage(), budget, LENGTHS, PARAMETERS)
    assert len(collect_stage(make_stage(), make_bench(), prompts, plan, budget, float("inf"))) == 7 * 16


def test_examples_longer_than_the_context_are_left_out_and_counted():
    bench, budget = make_bench(), Budget.parse("prompts=100")
    bench.engine.context_length = 30  # 10 of the prompt and 1 to 39 of the completion
    plan = plan_stage(make_stage(), budget, LENGTHS, PARAMETERS)
    examples = collect_stage(make_stage(), bench, prompts, plan, budget, float("inf"))
    assert max(example.tokens for example in examples) <= 30
    assert 0 < bench.discarded["longer than the context"] == 80 - len(examples)


def test_a_stage_that_makes_nothing_says_why():
    def drop_all(bench, drawn):
        for _ in drawn:
            bench.discard("unfinished")
        return []

    stage, budget = make_stage(collect=drop_all), Budget.parse("prompts=100")
    plan = plan_stage(stage, budget, LENGTHS, PARAMETERS)
    with pytest.raises(UserError, match="made no training example .unfinished: 100"):
        collect_stage(stage, make_bench(), prompts, plan, budget, float("inf"))


def test_a_stage_that_keeps_nothing_of_what_updates_need_ends():
    stage, budget = make_stage(collect=lambda bench, drawn: []), Budget.parse("updates=2")
    plan = plan_stage(stage, budget, LENGTHS, PARAMETERS)
    with pytest.raises(UserError, match="made no training example"):
        collect_stage(stage, make_bench(), prompts, plan, budget, float("inf"))


def test_what_a_stage_leaves_over_goes_to_the_next():
    stages = [make_stage(0.25), make_stage(0.25), make_stage(0.5)]
    budget, ledger = Budget.parse("1e8"), Ledger()
    ledger.charge("generate", PARAMETERS, generated_tokens=10_000)  # 2e7 of 2.5e7
    assert allowances(stages, budget, ledger, 0) == pytest.approx(5e6)
    assert allowances(stages, budget, ledger, 1) == pytest.approx(3e7)
    assert allowances(stages, budget, ledger, 2) == pytest.approx(8e7)
    assert allowances(stages, Budget.parse("updates=3"), ledger, 0) == float("inf")
