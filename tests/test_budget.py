import json

import pytest

from harness.budget import Budget, BudgetExceeded, Ledger, Spending, flops
from harness.errors import UserError


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


def test_flops_by_hand():
    """2 N a token of a forward pass, 6 N a trained one; a DPO token with its reference costs 8 N."""
    assert flops(7, forward_tokens=3) == 42
    assert flops(7, trained_tokens=3) == 126
    assert flops(7, forward_tokens=3, trained_tokens=3) == 8 * 7 * 3


def test_charges_add_up_by_role():
    ledger = Ledger(1000)
    ledger.charge("generate", 10, calls=1, prompt_tokens=4, generated_tokens=6, padding_tokens=90, seconds=0.5)
    ledger.charge("generate", 10, calls=2, generated_tokens=5, discarded=1)
    ledger.charge("train", 10, trained_tokens=10, updates=3)
    assert ledger.roles["generate"] == Spending(
        calls=3, prompt_tokens=4, generated_tokens=11, padding_tokens=90, discarded=1, flops=300.0, seconds=0.5
    )
    assert ledger.roles["train"].flops == 600
    assert (ledger.flops, ledger.left, ledger.total.flops) == (900, 100, 900)
    assert (ledger.total.calls, ledger.total.updates, ledger.total.trained_tokens) == (3, 3, 10)


def test_the_cap_may_be_met_but_not_passed():
    ledger = Ledger(120)
    ledger.charge("train", 2, trained_tokens=10)
    assert ledger.left == 0
    with pytest.raises(BudgetExceeded, match="generate brings the run to 124 FLOPs, above the cap of 120"):
        ledger.charge("generate", 2, generated_tokens=1)
    assert ledger.roles["generate"].generated_tokens == 1  # booked all the same


def test_without_a_cap_nothing_runs_out():
    ledger = Ledger()
    ledger.charge("train", 10**9, trained_tokens=10**9)
    assert (ledger.flops, ledger.left) == (6e18, float("inf"))


def test_unknown_amounts_are_a_fault():
    with pytest.raises(TypeError):
        Ledger().charge("train", 1, tokens=5)


@pytest.mark.parametrize("cap", [None, 1e6])
def test_ledger_survives_json(cap):
    ledger = Ledger(cap)
    ledger.charge("generate", 3, calls=1, generated_tokens=7, seconds=1.5)
    ledger.charge("train", 3, trained_tokens=7, updates=1)
    data = json.loads(json.dumps(ledger.as_dict()))
    assert Ledger.from_dict(data) == ledger
    assert (data["cap_flops"], data["total"]["flops"]) == (cap, 2 * 3 * 7 + 6 * 3 * 7)


def test_a_ledger_that_is_read_goes_on_alone():
    """A copy made for the next stage does not share its roles with the stored one."""
    first = Ledger(1e6)
    first.charge("train", 1, trained_tokens=1)
    second = Ledger.from_dict(first.as_dict())
    second.charge("train", 1, trained_tokens=1)
    assert (first.flops, second.flops) == (6, 12)
