"""Losses by hand."""

import math
import subprocess
import sys
from collections import defaultdict
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from paths import ROOT

from harness.errors import UserError
from harness.training import losses
from harness.training.losses import LOSSES, KTOObjective, PairwiseLoss, PreferenceObjective, RLOOObjective, SFTObjective

# Two pairs (chosen, rejected): sums of log-probabilities and numbers of tokens.
POLICY = torch.tensor([[-4.0, -9.0], [-6.0, -2.0]])
REFERENCE = torch.tensor([[-5.0, -7.0], [-6.0, -4.0]])
LENGTHS = torch.tensor([[2, 3], [3, 2]])
SUM_MARGINS = [(-4 + 5) - (-9 + 7), (-6 + 6) - (-2 + 4)]  # 3 and -2
MEAN_MARGINS = [1 / 2 - -2 / 3, 0 / 3 - 2 / 2]  # 7/6 and -1


def softplus(x):
    return math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def value(result):
    return result.tolist()


def test_dpo():
    assert value(losses.dpo(torch.tensor([0.0, 2.0, -2.0]), beta=0.5)) == pytest.approx(
        [math.log(2), softplus(-1), softplus(1)]
    )


def test_ipo():
    assert value(losses.ipo(torch.tensor([2.5, 0.5]), beta=0.2)) == pytest.approx([0, 4])


def test_hinge():
    assert value(losses.hinge(torch.tensor([3.0, 20.0, -5.0]), beta=0.1)) == pytest.approx([0.7, 0, 1.5])


def test_simpo():
    assert value(losses.simpo(torch.tensor([1.0, -1.0]), beta=2.0, gamma=0.5)) == pytest.approx(
        [softplus(-1.5), softplus(2.5)]
    )


def test_orpo():
    # p(w) = 1/2 and p(l) = 1/5: odds 1 and 1/4, odds ratio 4, sigmoid(log 4) = 4/5
    result = losses.orpo(torch.tensor([0.5]).log(), torch.tensor([0.2]).log(), beta=0.1)
    assert value(result) == pytest.approx([math.log(2) - 0.1 * math.log(0.8)])


def test_orpo_is_finite_where_a_probability_rounds_to_1():
    chosen = torch.tensor([-1e-9, -1e-30, -0.0], requires_grad=True)
    result = losses.orpo(chosen, torch.tensor([-2.0, -1e-9, -0.0]), beta=0.1)
    result.sum().backward()
    assert torch.isfinite(result).all() and torch.isfinite(chosen.grad).all()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss": "dpo", "beta": 0.5}, [softplus(-0.5 * m) for m in SUM_MARGINS]),
        ({"loss": "hinge", "beta": 0.5}, [max(0, 1 - 0.5 * m) for m in SUM_MARGINS]),
        ({"loss": "ipo", "beta": 0.5}, [(m - 1) ** 2 for m in MEAN_MARGINS]),
        ({"loss": "ipo", "beta": 0.5, "ipo_average": False}, [(m - 1) ** 2 for m in SUM_MARGINS]),
        ({"loss": "cpo", "beta": 0.5}, [softplus(-0.5 * 5), softplus(0.5 * 4)]),  # -4 + 9 and -6 + 2
        (
            {"loss": "robust", "beta": 0.5, "label_smoothing": 0.2},
            [(0.8 * softplus(-0.5 * m) - 0.2 * softplus(0.5 * m)) / 0.6 for m in SUM_MARGINS],
        ),
        # log-ratios 1 and -2, 0 and 2
        ({"loss": "sppo", "beta": 0.25}, [(1 - 2) ** 2 + (-2 + 2) ** 2, (0 - 2) ** 2 + (2 + 2) ** 2]),
        ({"loss": "apo-zero", "beta": 0.5}, [1 - sigmoid(0.5) + sigmoid(-1), 1 - sigmoid(0) + sigmoid(1)]),
        ({"loss": "apo-down", "beta": 0.5}, [sigmoid(0.5) + 1 - sigmoid(1.5), sigmoid(0) + 1 - sigmoid(-1)]),
        # averages of the policy: -2 and -3, -2 and -1
        ({"loss": "simpo", "beta": 2.0, "simpo_gamma": 0.3}, [softplus(-(2 - 0.3)), softplus(-(-2 - 0.3))]),
    ],
)
def test_objective_takes_the_scores_that_its_loss_is_defined_on(settings, expected):
    result, _ = PreferenceObjective(**settings)(POLICY, REFERENCE, LENGTHS)
    assert value(result) == pytest.approx(expected)


def test_orpo_objective():
    result, _ = PreferenceObjective(loss="orpo", beta=0.5)(POLICY, None, LENGTHS)
    inverse = [math.exp(average) - 1 for average in (2, 3, 1)]  # 1 / odds of averages -2, -3 and -1
    ratios = [inverse[1] / inverse[0], inverse[2] / inverse[0]]
    expected = [2 - 0.5 * math.log(ratio / (1 + ratio)) for ratio in ratios]
    assert value(result) == pytest.approx(expected, rel=1e-5)


def test_sft_weight_adds_the_average_likelihood_of_the_chosen():
    plain, _ = PreferenceObjective()(POLICY, REFERENCE, LENGTHS)
    added, _ = PreferenceObjective(sft_weight=0.25)(POLICY, REFERENCE, LENGTHS)
    assert value(added - plain) == pytest.approx([0.25 * 2, 0.25 * 2])


def test_metrics():
    _, metrics = PreferenceObjective(loss="dpo", beta=0.5)(POLICY.clone().requires_grad_(), REFERENCE, LENGTHS)
    assert {name: value(each) for name, each in metrics.items()} == {
        "margin": [1.5, -1.0],
        "accuracy": [1.0, 0.0],
        "chosen_logp": [-2.0, -2.0],
        "rejected_logp": [-3.0, -1.0],
        "chosen_logratio": [0.5, 0.0],
    }
    assert not any(each.requires_grad for each in metrics.values())


def test_sft_objective():
    result, metrics = SFTObjective()(torch.tensor([[-6.0], [-2.0]]), None, torch.tensor([[3], [4]]))
    assert value(result) == [2.0, 0.5]
    assert value(metrics["chosen_logp"]) == [-2.0, -0.5]


def test_losses_without_a_reference_do_not_read_it():
    assert {name for name in LOSSES if not PairwiseLoss(loss=name).needs_reference} == {"simpo", "orpo", "cpo"}
    for name in ("simpo", "orpo", "cpo"):
        with_reference = PreferenceObjective(loss=name)(POLICY, REFERENCE, LENGTHS)[0]
        assert torch.equal(with_reference, PreferenceObjective(loss=name)(POLICY, None, LENGTHS)[0])


# Against TRL's own functions, on the same log-probabilities


def test_simpo_equals_trl():
    from trl.experimental.cpo import CPOTrainer

    averages = POLICY / LENGTHS
    settings = SimpleNamespace(
        **{"alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.7, "loss_type": "simpo", "label_smoothing": 0.0},
        accelerator=SimpleNamespace(device="cpu"),
    )
    theirs, *_ = CPOTrainer.cpo_loss(settings, averages[:, 0], averages[:, 1])
    ours, _ = PreferenceObjective(loss="simpo", beta=2.0, simpo_gamma=0.7)(POLICY, None, LENGTHS)
    assert value(ours) == pytest.approx(value(theirs), abs=1e-6)


def test_cpo_equals_trl():
    from trl.experimental.cpo import CPOTrainer

    settings = SimpleNamespace(
        **{"alpha": 0.0, "beta": 0.3, "loss_type": "sigmoid", "label_smoothing": 0.0},
        accelerator=SimpleNamespace(device="cpu"),
    )
    theirs, *_ = CPOTrainer.cpo_loss(settings, POLICY[:, 0], POLICY[:, 1])
    ours, _ = PreferenceObjective(loss="cpo", beta=0.3)(POLICY, None, LENGTHS)
    assert value(ours) == pytest.approx(value(theirs), abs=1e-6)


def stub_of(kind: type, policy: torch.Tensor, lengths: torch.Tensor, **settings):
    """(trainer, model, inputs) for the loss of one of TRL's trainers, without a model: the completions of a batch have
    these lengths and summed log-probabilities."""
    places = torch.arange(1, int(lengths.max()) + 2)
    mask = ((places > 1) & (places <= lengths[:, None] + 1)).long()  # after one token of the prompt
    log_probs = mask[:, 1:] * (policy / lengths)[:, None]
    zeros = torch.zeros_like(log_probs)
    trainer = MagicMock(spec=kind, **settings)
    trainer.model, trainer.args, trainer.accelerator = MagicMock(), MagicMock(), MagicMock(device=torch.device("cpu"))
    trainer.accelerator.gather = trainer.accelerator.gather_for_metrics = lambda each: each
    trainer._metrics = defaultdict(lambda: defaultdict(list))
    trainer._tp_size, trainer._total_train_tokens, trainer.aux_loss_enabled = 1, 0, False
    outputs = SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    inputs = {"input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    return trainer, lambda **_: outputs, inputs


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"loss": "dpo"}, "sigmoid"),
        ({"loss": "ipo"}, "ipo"),
        ({"loss": "hinge"}, "hinge"),
        ({"loss": "robust", "label_smoothing": 0.2}, "robust"),
        ({"loss": "sppo"}, "sppo_hard"),
        ({"loss": "apo-zero"}, "apo_zero"),
        ({"loss": "apo-down"}, "apo_down"),
    ],
)
def test_losses_equal_trl(settings, theirs):
    from trl import DPOTrainer

    ours, _ = PreferenceObjective(beta=0.3, **settings)(POLICY, REFERENCE, LENGTHS)
    trainer, model, inputs = stub_of(
        DPOTrainer,
        POLICY.T.reshape(-1),  # both chosen, then both rejected
        LENGTHS.T.reshape(-1),
        **{"loss_types": [theirs], "loss_weights": [1.0], "beta": 0.3, "label_smoothing": 0.2, "ld_alpha": None},
        **{"f_divergence_type": "reverse_kl", "use_weighting": False, "precompute_ref_logps": True},
    )
    inputs |= {"ref_chosen_logps": REFERENCE[:, 0], "ref_rejected_logps": REFERENCE[:, 1]}
    loss = DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    assert ours.mean().item() == pytest.approx(loss.item(), abs=1e-6)


KTO_TARGETS = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])  # good, bad, and a row that fills the batch


def test_kto():
    """Log-ratios 1 and 0; of the mismatched completions -2 and 2 with the mean 0, then the first 6 more or less."""
    for shift, divergence in ((0.0, 0.0), (6.0, 3.0), (-6.0, 0.0)):
        policy = torch.cat([POLICY, torch.full((1, 2), -5.0)])
        policy[0, 1] += shift
        reference, lengths = torch.cat([REFERENCE, torch.zeros(1, 2)]), torch.cat([LENGTHS, torch.ones(1, 2)])
        objective = KTOObjective(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
        result, metrics = objective(policy, reference, lengths, KTO_TARGETS)
        good, bad = 1 - sigmoid(0.5 * (1 - divergence)), 1 - sigmoid(0.5 * (divergence - 0))
        assert value(result) == pytest.approx([2 * good, 3 * bad, 0.0])
        assert value(metrics["divergence"]) == [divergence] * 3
    with pytest.raises(ValueError, match="labels"):
        KTOObjective()(POLICY, REFERENCE, LENGTHS)


def test_kto_equals_trl():
    from trl import KTOTrainer

    policy = POLICY.clone()
    policy[0, 1] += 3  # so that the divergence is above 0
    ours, metrics = KTOObjective(0.3, 1.5, 0.5)(policy, REFERENCE, LENGTHS, KTO_TARGETS[:2])
    assert metrics["divergence"][0] > 0
    trainer, model, inputs = stub_of(
        KTOTrainer,
        policy[:, 0],
        LENGTHS[:, 0],
        **{"loss_type": "kto", "beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5},
        **{"precompute_ref_logps": True, "calculate_KL": True},
    )
    trainer._compute_kl_logps = lambda *_: policy[:, 1]
    inputs |= {"label": torch.tensor([True, False]), "ref_logps": REFERENCE[:, 0], "ref_KL_logps": REFERENCE[:, 1]}
    loss = KTOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    assert ours.mean().item() == pytest.approx(loss.item(), abs=1e-6)


# Log-ratios of three completions of one prompt, and advantages
LOG_RATIOS, ADVANTAGES = torch.tensor([[0.5, -0.5, 0.1]]), torch.tensor([[1.0, -0.5, -0.5]])


def test_rloo():
    """Ratios 1.65, 0.61 and 1.11: the first two are clipped to 1.2 and 0.8."""
    reference, lengths = torch.tensor([[-4.0, -5.0, -6.0]]), torch.tensor([[2, 2, 2]])
    result, metrics = RLOOObjective(3, 0.2)(reference + LOG_RATIOS, reference, lengths, ADVANTAGES)
    assert value(result) == pytest.approx([(-1.2 + 0.5 * 0.8 + 0.5 * math.exp(0.1)) / 3])
    assert value(metrics["clipped"]) == pytest.approx([2 / 3])
    assert value(metrics["log_ratio"]) == pytest.approx([0.1 / 3])
    with pytest.raises(ValueError, match="advantages"):
        RLOOObjective()(reference, reference, lengths)


def test_rloo_equals_trl():
    from trl import RLOOTrainer

    reference, lengths = torch.tensor([-4.0, -5.0, -6.0]), torch.tensor([2, 1, 3])
    policy = reference + LOG_RATIOS[0]
    trainer, model, inputs = stub_of(RLOOTrainer, policy, lengths, epsilon_low=0.2, epsilon_high=0.2)
    trainer.accelerator.reduce = lambda each, **_: each
    mask = inputs["completion_mask"][:, 1:]
    log_probs = model().log_probs
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (log_probs, torch.zeros_like(log_probs), None)
    given = {"prompt_ids": mask[:, :1], "prompt_mask": mask[:, :1], "completion_ids": mask, "completion_mask": mask}
    theirs = RLOOTrainer._compute_loss(trainer, model, {**given, "old_logps": reference, "advantages": ADVANTAGES[0]})
    ours, _ = RLOOObjective(3, 0.2)(policy[None], reference[None], lengths[None], ADVANTAGES)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)


def test_orpo_equals_trl():
    """Beside the cross entropy, which TRL takes over prompt and completion, and over the tokens of a batch."""
    from trl.experimental.orpo import ORPOTrainer

    averages = POLICY / LENGTHS
    settings = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    theirs, *_ = ORPOTrainer.odds_ratio_loss(settings, averages[:, 0], averages[:, 1])
    ours, _ = PreferenceObjective(loss="orpo", beta=0.3)(POLICY, None, LENGTHS)
    assert value(ours) == pytest.approx(value(losses.sft(averages[:, 0]) - theirs), abs=1e-6)


@pytest.mark.parametrize("name", sorted({*LOSSES} - {"apo-down"}))  # which makes the chosen less likely, too
def test_a_likelier_chosen_lowers_the_loss(name):
    objective = PreferenceObjective(loss=name, beta=0.1)
    policy = POLICY.clone().requires_grad_()
    objective(policy, REFERENCE, LENGTHS)[0].sum().backward()
    assert (policy.grad[:, 0] < 0).all() and (policy.grad[:, 1] > 0).all()


def test_objectives_are_defined_without_torch():
    code = "import sys, harness.training.losses, sso.objective; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_mistakes():
    with pytest.raises(UserError, match="did you mean 'simpo'"):
        PreferenceObjective(loss="simp")
    with pytest.raises(UserError, match="beta must be above 0"):
        PreferenceObjective(beta=0.0)
    with pytest.raises(UserError, match="label_smoothing must be at least 0 and below 0.5, not 0.5"):
        PreferenceObjective(loss="robust", label_smoothing=0.5)
