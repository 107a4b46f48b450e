"""Stages spend their allowance and no more, whatever a query really costs."""

import random
from dataclasses import dataclass

import pytest

from harness.budget import Budget, Ledger
from harness.engines.base import Completion, Sampling
from harness.errors import UserError
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.stages.collect import CHUNK, allowances, collect_stage, plan_stage, training_flops
from harness.training.example_file import read_examples
from harness.training.examples import Example, TokenSequence, TrainingOptions
from harness.types import Prompt
from harness.work import Nominal, sampled, sequences

PARAMETERS = 1000
COST = Nominal(PARAMETERS)
LENGTHS = Lengths(prompt=10, system=5, completion=20)


@dataclass
class Objective:
    sequences: int = 1
    needs_reference: bool = True


class Engine:
    """Completions of random length."""

    parameters = PARAMETERS
    context_length = 10_000
    chat = None

    def __init__(self, mean=20):
        self.mean = mean
        self.draw = random.Random(0)

    def encode_chat(self, messages, add_generation_prompt=True):
        return (1,) * 10

    def generate(self, prompts, items, sampling, advance=None):
        return [Completion((2,) * self.draw.randint(1, 2 * self.mean - 1), "text", True) for _ in prompts]


def collect(workbench, prompts):
    completions = workbench.sample(
        "generate", [prompt.messages for prompt in prompts], [prompt.id for prompt in prompts]
    )
    kept = [pair for index, pair in enumerate(zip(prompts, completions, strict=True)) if index % 5]
    return [Example(prompt.id, (TokenSequence((1,) * 10, each.token_ids),)) for prompt, each in kept]


def make_stage(share=1.0, **changes):
    def expect(lengths):
        sizes = lengths.prompt, lengths.completion
        return QueryCost(sampled(*sizes), sequences(*sizes), kept=0.8)

    values = {"collect": collect, "expect": expect, "objective": Objective(), "training": TrainingOptions()}
    return Stage("policy", share, **(values | changes))


def make_bench(engine=None, cap=None):
    return Workbench(engine or Engine(), Ledger(cap, rule="nominal"), Sampling(40), "policy")


def prompts(number):
    return [Prompt(str(index), ({"role": "user", "content": "?"},)) for index in range(number)]


@pytest.fixture
def made(tmp_path):
    """What `collect_stage` leaves."""

    def make(stage, workbench, budget, allowance=float("inf"), draw=prompts):
        plan = plan_stage(stage, budget, LENGTHS, COST)
        number = collect_stage(stage, workbench, draw, plan, budget, allowance, tmp_path / "made.jsonl", COST)
        examples = list(read_examples(tmp_path / "made.jsonl"))
        assert len(examples) == number
        return examples

    return make


def total_flops(stage, workbench, examples):
    return workbench.ledger.flops + sum(training_flops(stage, each, COST) for each in examples)


def test_the_cost_of_a_query_by_hand():
    # collecting: 2 N x (10 read + 20 generated); training: 0.8 examples x 30 tokens x (6 + 2) N
    assert make_stage().expect(LENGTHS).flops(COST, True) == pytest.approx(1000 * (2 * 30 + 0.8 * 30 * 8))
    assert make_stage().expect(LENGTHS).flops(COST, False) == pytest.approx(1000 * (2 * 30 + 0.8 * 30 * 6))


def test_plans_by_hand():
    stage = make_stage(share=0.5)
    plan = plan_stage(stage, Budget.parse("5.04e8"), LENGTHS, COST)
    assert (plan.queries, plan.examples, plan.updates) == (1000, 800, 50)
    assert (plan.generate_tokens, plan.trained_tokens, plan.reference_tokens) == (30_000, 24_000, 24_000)
    assert plan.flops == pytest.approx(2.52e8)
    assert plan_stage(stage, Budget.parse("prompts=300"), LENGTHS, COST).queries == 150
    by_updates = plan_stage(stage, Budget.parse("updates=10"), LENGTHS, COST)
    assert (by_updates.queries, by_updates.updates) == (100, 5)


def test_a_budget_below_one_update_says_what_is_needed():
    # 16 examples are 20 queries of 252,000 FLOPs
    with pytest.raises(UserError, match=r"too small for one update of 16 examples in stage 'policy'.*5\.04e\+06"):
        plan_stage(make_stage(), Budget.parse("5e6"), LENGTHS, COST)
    with pytest.raises(UserError, match="at least 20"):
        plan_stage(make_stage(), Budget.parse("prompts=19"), LENGTHS, COST)


@pytest.mark.parametrize("mean", [10, 20, 40])
def test_the_allowance_is_spent_to_95_percent_at_least(mean, made):
    """Also where completions are half or twice as long as the plan expects."""
    stage, budget, workbench = make_stage(), Budget.parse("2.52e8"), make_bench(Engine(mean))
    spent = total_flops(stage, workbench, made(stage, workbench, budget, budget.amount))
    assert 0.95 * budget.amount <= spent <= budget.amount


def test_examples_beyond_the_allowance_are_left_out_and_counted(made):
    stage, budget, workbench = make_stage(), Budget.parse("2.52e8"), make_bench(Engine(mean=80))
    examples = made(stage, workbench, budget, budget.amount)
    assert total_flops(stage, workbench, examples) <= budget.amount
    assert workbench.discarded["beyond the budget"] + len(examples) == 640  # 0.8 of 800 queries, drawn at once


def test_prompts_and_updates_are_met_exactly(made):
    workbench = make_bench()
    assert len(made(make_stage(), workbench, Budget.parse("prompts=100"))) == 80
    assert workbench.ledger.roles["generate"].calls == 100
    assert len(made(make_stage(), make_bench(), Budget.parse("updates=7"))) == 7 * 16


def test_many_prompts_are_drawn_bit_by_bit(made):
    drawn = []

    def draw(number):
        drawn.append(number)
        return prompts(number)

    made(make_stage(), make_bench(), Budget.parse(f"prompts={2 * CHUNK + 5}"), draw=draw)
    assert drawn == [CHUNK, CHUNK, 5]


def test_examples_longer_than_the_context_are_left_out_and_counted(made):
    workbench = make_bench()
    workbench.engine.context_length = 30  # 10 of the prompt and 1 to 39 of the completion
    examples = made(make_stage(), workbench, Budget.parse("prompts=100"))
    assert max(example.tokens for example in examples) <= 30
    assert 0 < workbench.discarded["longer than the context"] == 80 - len(examples)


def test_a_stage_that_makes_nothing_says_why_and_leaves_no_file(made, tmp_path):
    def drop_all(workbench, drawn):
        workbench.discard("unfinished", len(drawn))
        return []

    with pytest.raises(UserError, match="made no training example .unfinished: 100"):
        made(make_stage(collect=drop_all), make_bench(), Budget.parse("prompts=100"))
    assert not list(tmp_path.iterdir())


def test_a_stage_that_keeps_nothing_of_what_updates_need_ends(made):
    with pytest.raises(UserError, match="made no training example"):
        made(make_stage(collect=lambda workbench, drawn: []), make_bench(), Budget.parse("updates=2"))


def test_what_a_stage_leaves_over_goes_to_the_next():
    stages = [make_stage(0.25), make_stage(0.25), make_stage(0.5)]
    budget, ledger = Budget.parse("1e8"), Ledger()
    ledger.charge("generate", 2e7, generated_tokens=10_000)  # of 2.5e7
    assert allowances(stages, budget, ledger, 0) == pytest.approx(5e6)
    assert allowances(stages, budget, ledger, 1) == pytest.approx(3e7)
    assert allowances(stages, budget, ledger, 2) == pytest.approx(8e7)
    assert allowances(stages, Budget.parse("updates=3"), ledger, 0) == float("inf")


def test_a_first_draw_without_examples_or_cost_is_followed_by_others(tmp_path):
    """Labelled rows cost nothing: nothing is known of the cost of a query until one has become an example."""
    drawn = []

    def labelled(workbench, prompts):
        drawn.extend(prompts)
        useful = prompts if len(drawn) > 100 else []
        return [Example(prompt.id, (TokenSequence((1,) * 10, (2,) * 20),)) for prompt in useful]

    def collected(collect):
        stage = make_stage(collect=collect, expect=lambda _: QueryCost(sampled(0), sequences(10, 20), kept=1.0))
        budget = Budget("flops", 100 * COST.training(sequences(10, 20)))
        plan = plan_stage(stage, budget, LENGTHS, COST)
        bench = Workbench(Engine(), Ledger(), Sampling(64), "policy")

        def draw(number):
            return [Prompt(str(index), ({"role": "user", "content": "Q"},)) for index in range(number)]

        return collect_stage(stage, bench, draw, plan, budget, budget.amount, tmp_path / "examples.jsonl", COST)

    assert collected(labelled) > 0
    with pytest.raises(UserError, match="made no training example"):
        collected(lambda workbench, prompts: [])


def test_given_rows_that_cost_too_much_for_the_rest_are_passed_over(made):
    """3, 3, 3 of 10 units are spent when rows of 4, 2 and 1 follow: 4 and 2 are passed over."""
    lengths = iter([3, 3, 3, 4, 2, 1])

    def given(workbench, prompts):
        return [Example(each.id, (TokenSequence((), (2,) * (10 * next(lengths))),)) for each in prompts]

    stage = make_stage(
        collect=given,
        expect=lambda _: QueryCost(sampled(0), sequences(0, 30), kept=1.0),
        training=TrainingOptions(batch_size=1, micro_batch_size=1),
    )
    unit = training_flops(stage, Example("0", (TokenSequence((), (2,) * 10),)), COST)
    workbench = make_bench()
    examples = made(stage, workbench, Budget("flops", 10 * unit), 10 * unit)
    assert [len(example.sequences[0].completion_ids) for example in examples] == [30, 30, 30, 10]
    assert workbench.discarded == {"beyond the budget": 2}
