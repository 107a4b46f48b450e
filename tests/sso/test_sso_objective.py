"""The objectives of SSO: by hand, and against recorded values of the authors' form."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from harness.engines.logprobs import attend_packed, sequence_logprobs
from harness.engines.packing import pack
from harness.engines.reading import how_to_read
from harness.errors import UserError
from sso import GeneratorObjective, Query, WeightedObjective, pair_weight

QUERY = Query(plain=(1,), good=(2,), bad=(3,), good_response=(10,), bad_response=(11,), plain_response=(12,))
# One example: sums of log-probabilities, and lengths, of three pairs.
POLICY = torch.tensor([[-4.0, -9.0, -3.0, -8.0, -6.0, -5.0]])
REFERENCE = torch.tensor([[-5.0, -7.0, -4.0, -6.0, -6.0, -7.0]])
LENGTHS = torch.tensor([[2, 3, 2, 3, 4, 2]])
MARGINS = [3.0, 3.0, -2.0]  # (-4 + 5) - (-9 + 7), (-3 + 4) - (-8 + 6), (-6 + 6) - (-5 + 7)


def dpo(margin, beta=0.1):
    return math.log1p(math.exp(-beta * margin))


def ids(sequences):
    return [(*each.prompt_ids, *each.completion_ids) for each in sequences]


# The generator's loss


def test_generator_sequences():
    assert ids(GeneratorObjective().select(QUERY)) == [(2, 10), (2, 11), (3, 12), (3, 10)]
    assert ids(GeneratorObjective(negative="alternative").select(QUERY)) == [(2, 10), (2, 11), (3, 11), (3, 10)]
    assert ids(GeneratorObjective(use_negative=False).select(QUERY)) == [(2, 10), (2, 11)]
    assert ids(GeneratorObjective(use_positive=False).select(QUERY)) == [(3, 12), (3, 10)]


def test_generator_loss():
    columns = slice(2, 6)
    arguments = POLICY[:, columns], REFERENCE[:, columns], LENGTHS[:, columns]
    loss, metrics = GeneratorObjective(gamma=0.2)(*arguments)
    positive = dpo(MARGINS[1]) + 0.2 * 3 / 2
    negative = dpo(MARGINS[2]) + 0.2 * 6 / 4
    assert loss.tolist() == pytest.approx([positive + negative])
    assert metrics["positive_loss"].tolist() == pytest.approx([positive])
    assert metrics["negative_loss"].tolist() == pytest.approx([negative])
    assert metrics["chosen_logp"].tolist() == [-1.5]


@pytest.mark.parametrize(
    ("settings", "columns", "margin", "likelihood"),
    [
        ({"use_negative": False}, slice(2, 4), MARGINS[1], -3 / 2),
        ({"use_positive": False}, slice(4, 6), MARGINS[2], -6 / 4),
    ],
)
def test_generator_ablation(settings, columns, margin, likelihood):
    objective = GeneratorObjective(gamma=0.2, **settings)
    assert objective.sequences == 2
    loss, _ = objective(POLICY[:, columns], REFERENCE[:, columns], LENGTHS[:, columns])
    assert loss.tolist() == pytest.approx([dpo(margin) - 0.2 * likelihood])


# The weighted loss


def test_weighted_sequences():
    assert ids(WeightedObjective().select(QUERY)) == [(1, 10), (1, 11), (2, 10), (2, 11), (3, 12), (3, 10)]
    assert ids(WeightedObjective(auxiliary=0.0).select(QUERY)) == [(1, 10), (1, 11)]


WEIGHT = 1 / (1 + math.exp(0.66 * -4 / 2 + 0.34 * -9 / 3))
AUXILIARY = 0.1 * (dpo(MARGINS[1]) + dpo(MARGINS[2]))


def test_pair_weight():
    assert pair_weight(torch.tensor([[-2.0, -3.0]]), alpha=0.66).tolist() == pytest.approx([WEIGHT])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, WEIGHT * (dpo(MARGINS[0]) + AUXILIARY)),
        ({"weight_form": "released"}, dpo(MARGINS[0]) + WEIGHT * AUXILIARY),
        ({"weight": False}, dpo(MARGINS[0]) + AUXILIARY),
        ({"detach_weight": True}, WEIGHT * (dpo(MARGINS[0]) + AUXILIARY)),
    ],
)
def test_weighted_loss(settings, expected):
    loss, _ = WeightedObjective(**settings)(POLICY, REFERENCE, LENGTHS)
    assert loss.tolist() == pytest.approx([expected])


def test_weighted_loss_without_auxiliary_terms():
    loss, _ = WeightedObjective(auxiliary=0.0)(POLICY[:, :2], REFERENCE[:, :2], LENGTHS[:, :2])
    assert loss.tolist() == pytest.approx([WEIGHT * dpo(MARGINS[0])])


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_through_the_weight(detach):
    policy = POLICY[:, :2].clone().requires_grad_()
    objective = WeightedObjective(auxiliary=0.0, detach_weight=detach)
    objective(policy, REFERENCE[:, :2], LENGTHS[:, :2])[0].sum().backward()
    # d(W * L)/d(sum of chosen) = W * L' + W' * L, with L' = -beta * sigmoid(-beta * margin) and
    # W' = -W * (1 - W) * alpha / length
    expected = -WEIGHT * 0.1 / (1 + math.exp(0.1 * MARGINS[0]))
    if not detach:
        expected -= WEIGHT * (1 - WEIGHT) * 0.66 / 2 * dpo(MARGINS[0])
    assert policy.grad[0, 0].item() == pytest.approx(expected)


def test_mistakes():
    with pytest.raises(UserError, match="both are off"):
        GeneratorObjective(use_positive=False, use_negative=False)
    with pytest.raises(UserError, match="negative must be one of paper, alternative"):
        GeneratorObjective(negative="other")
    with pytest.raises(UserError, match="weight_form must be one of paper, released"):
        WeightedObjective(weight_form="other")
    with pytest.raises(UserError, match="unknown loss"):
        WeightedObjective(loss="other")


# Recorded values


@pytest.fixture(scope="module")
def golden():
    folder = Path(os.environ.get("SSO_GOLDEN_DIR", ROOT.parent / "shared" / "golden" / "sso_objective"))
    if not (folder / "cases.json").exists():
        pytest.skip(f"no recorded objective values at {folder}: set SSO_GOLDEN_DIR")
    return folder


@pytest.fixture(scope="module")
def models(golden):
    loaded = []
    for name in ("policy", "reference"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(golden))
        absent = model.load_state_dict(load_file(golden / f"{name}.safetensors"), strict=False)
        assert absent.missing_keys == ["lm_head.weight"] and not absent.unexpected_keys  # tied to the embeddings
        loaded.append(model.eval())
    return loaded


@pytest.fixture(scope="module")
def cases(golden):
    return json.loads((golden / "cases.json").read_text())


def objective_of(case, **changes):
    settings = {
        "loss": "dpo" if case["loss_type"] == "sigmoid" else case["loss_type"],
        "beta": case["beta"],
        "simpo_gamma": case["simpo_gamma"],
        "alpha": case["weight_alpha"],
        "auxiliary": case["auxiliary_weight"],
        "detach_weight": case["detach_weight"],
        "weight_form": "released",
    }
    return WeightedObjective(**settings | changes)


def evaluate(objective, examples, models):
    """Losses and metrics of the recorded examples, as in training."""
    policy, reference = models
    names = ("prompt", "positive_prompt", "negative_prompt", "positive", "negative", "raw")
    queries = [Query(*(tuple(example[name]) for name in names)) for example in examples]
    pairs = [(each.prompt_ids, each.completion_ids) for query in queries for each in objective.select(query)]
    batch = pack(pairs)
    shape = (len(queries), objective.sequences)
    reading = how_to_read(policy)
    with attend_packed(policy, reading), attend_packed(reference, reading):
        sums = sequence_logprobs(policy, batch, reading)
        with torch.no_grad():
            reference_sums = sequence_logprobs(reference, batch, reading)
    return objective(sums.view(shape), reference_sums.view(shape), batch.lengths.view(shape))


def test_recorded_losses_and_gradients(cases, models):
    assert len(cases["cases"]) == 120
    for case in cases["cases"]:
        losses, _ = evaluate(objective_of(case), cases["examples"], models)
        models[0].zero_grad()
        losses.mean().backward()
        gradient = torch.cat([each.grad.flatten() for each in models[0].parameters()])
        assert losses.mean().item() == pytest.approx(case["loss"], rel=1e-5), case
        assert gradient.norm().item() == pytest.approx(case["gradient_norm"], rel=1e-5), case


def test_paper_form_from_the_recorded_parts(cases, models):
    for case in cases["cases"]:
        parts = [case["per_example"][name] for name in ("weight", "preference", "positive", "negative")]
        g = case["auxiliary_weight"]
        expected = [weight * (main + g * (plus + minus)) for weight, main, plus, minus in zip(*parts, strict=True)]
        with torch.no_grad():
            losses, _ = evaluate(objective_of(case, weight_form="paper"), cases["examples"], models)
        assert losses.tolist() == pytest.approx(expected, rel=1e-5), case
