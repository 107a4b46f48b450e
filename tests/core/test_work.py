"""Work and its FLOPs, by hand."""

import pytest

from harness.work import Needed, Nominal, Rates, Work, of_samples, of_sequences, sampled, sequences, total

RATES = Rates(position=100, logits=10, pairs={None: 1, 3: 2}, sequence=5)


def test_a_prompt_is_read_once_for_its_samples_and_the_last_token_never():
    work = sampled(4, 3, 1)
    assert (work.read, work.generated) == (8, 4)  # as they are asked for
    assert work.positions == 4 + 2  # the completion of one token needs no further position
    assert work.logits == 4
    assert work.attended(None) == (1 + 2 + 3 + 4) + (5 + 6)
    assert work.attended(3) == (1 + 2 + 3 + 3) + (3 + 3)


def test_given_completions_share_their_prompt():
    work = sequences(2, 3, 1)
    assert (work.read, work.generated, work.positions, work.logits) == (6, 0, 6, 4)
    assert work.attended(None) == (1 + 2) + (3 + 4 + 5) + 3
    assert sequences(0, 3).logits == 2  # a first token without a prompt has no prediction


def test_equal_prompts_and_equal_completions_count_once():
    pairs = [((1, 2), (3,)), ((1, 2), (3,)), ((1, 2), (4, 5)), ((7,), (3,))]
    assert of_sequences(pairs) == total([sequences(2, 1, 2), sequences(1, 1)])
    assert of_samples(*zip(*pairs, strict=True)) == total([sampled(2, 1, 1, 2), sampled(1, 1)])


def test_flops_by_hand():
    work = sampled(4, 3)  # 6 positions, 3 logits, 21 pairs, 15 of them within 3
    assert RATES.flops(work) == 600 + 30 + (21 + 2 * 15) + 5
    assert Needed(RATES, Rates(1, 0, {})).forward(work) == RATES.flops(work)
    assert Needed(RATES, Rates(1, 0, {})).training(work) == 6


def test_the_nominal_rule_by_hand():
    """2 N per token of a forward pass, 6 N per trained one, prompts as often as they are asked for."""
    work = sampled(4, 3, 1)
    assert Nominal(7).forward(work) == 2 * 7 * 12
    assert Nominal(7).training(sequences(2, 3)) == 6 * 7 * 5


def test_work_adds_up_and_may_be_a_fraction():
    half = sampled(5, 4) * 0.5
    assert (half.read, half.generated, half.positions, half.logits) == (2.5, 2, 4, 2)
    assert half + half == sampled(5, 4) * 1.0
    assert sampled(2.5, 1.5).positions == pytest.approx(3)
    assert total([]) == Work()
