import json

import pytest

from harness.budget import Budget, BudgetExceeded, Ledger, Spending, rule_of
from harness.errors import UserError
from harness.work import Nominal


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("1e12", "flops", 1e12),
        ("flops=3e18", "flops", 3e18),
        ("prompts=2000", "prompts", 2000),
        ("updates=6e1", "updates", 60),
    ],
)
def test_budget_is_parsed(text, kind, amount):
    assert Budget.parse(text) == Budget(kind, amount)


@pytest.mark.parametrize(
    "text", ["", "much", "0", "-1", "nan", "inf", "updates=", "updates=inf", "steps=60", "a=b=1", "prompts=-5"]
)
def test_budget_that_is_not_understood(text):
    with pytest.raises(UserError, match=r"budget .* is not understood: give FLOPs \(1e12\), prompts=N or updates=N"):
        Budget.parse(text)


def test_prompts_and_updates_are_whole():
    with pytest.raises(UserError, match="updates must be a whole number"):
        Budget.parse("updates=1.5")


def test_budget_is_shown():
    assert str(Budget("flops", 1.23456e12)) == "1.235e+12 FLOPs"
    assert str(Budget("updates", 60.0)) == "updates=60"


def test_charges_add_up_by_role():
    ledger = Ledger(1000)
    ledger.charge("generate", 200, calls=1, prompt_tokens=4, generated_tokens=6, padding_tokens=90, seconds=0.5)
    ledger.charge("generate", 100, calls=2, generated_tokens=5, discarded=1, wasted_flops=7)
    ledger.charge("train", 600, trained_tokens=10, updates=3)
    assert ledger.roles["generate"] == Spending(
        calls=3,
        prompt_tokens=4,
        generated_tokens=11,
        padding_tokens=90,
        discarded=1,
        flops=300.0,
        wasted_flops=7,
        seconds=0.5,
    )
    assert ledger.roles["train"].flops == 600
    assert (ledger.flops, ledger.left, ledger.total.flops) == (900, 100, 900)
    assert (ledger.total.calls, ledger.total.updates, ledger.total.trained_tokens) == (3, 3, 10)


def test_the_cap_may_be_met_but_not_passed():
    ledger = Ledger(120)
    ledger.charge("train", 120, trained_tokens=10, wasted_flops=1e6)  # what is wasted takes nothing from the budget
    assert ledger.left == 0
    with pytest.raises(BudgetExceeded, match="generate brings the run to 124 FLOPs, above the cap of 120"):
        ledger.charge("generate", 4, generated_tokens=1)
    assert ledger.roles["generate"].generated_tokens == 1  # booked all the same


def test_without_a_cap_nothing_runs_out():
    ledger = Ledger()
    ledger.charge("train", 6e18)
    assert (ledger.flops, ledger.left) == (6e18, float("inf"))


def test_unknown_amounts_are_a_fault():
    with pytest.raises(TypeError):
        Ledger().charge("train", 1, tokens=5)


@pytest.mark.parametrize("cap", [None, 1e6])
@pytest.mark.parametrize("rule", ["needed", "nominal"])
def test_ledger_survives_json(cap, rule):
    ledger = Ledger(cap, rule=rule)
    ledger.charge("generate", 42, calls=1, generated_tokens=7, seconds=1.5)
    ledger.charge("train", 126, trained_tokens=7, updates=1)
    data = json.loads(json.dumps(ledger.as_dict()))
    assert Ledger.from_dict(data) == ledger
    assert (data["rule"], data["cap_flops"], data["total"]["flops"]) == (rule, cap, 168)


def test_a_ledger_without_a_rule_is_from_before_there_were_two():
    data = Ledger(1e6).as_dict()
    del data["rule"]
    assert Ledger.from_dict(data).rule == rule_of(data) == "nominal"


def test_a_ledger_counts_by_its_rule():
    class Engine:
        parameters = 7

        def needed(self, adapters):
            return "needed", adapters

    assert Ledger(rule="nominal").cost(Engine(), "adapters") == Nominal(7)
    assert Ledger().cost(Engine(), "adapters") == ("needed", "adapters")


def test_a_ledger_that_is_read_goes_on_alone():
    """A copy made for the next stage does not share its roles with the stored one."""
    first = Ledger(1e6)
    first.charge("train", 6)
    second = Ledger.from_dict(first.as_dict())
    second.charge("train", 6)
    assert (first.flops, second.flops) == (6, 12)
