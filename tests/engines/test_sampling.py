"""Sampling: the hash against published values, the distribution against softmax, top-p against transformers."""

import math

import pytest
import torch
from transformers import TopPLogitsWarper

from harness.engines.base import Sampling
from harness.engines.sampling import GAMMA, gumbel_noise, item_keys, sample_tokens, split_mix, top_p_filter

# 99.9 % quantiles of the chi-square distribution (NIST/SEMATECH e-Handbook, section 1.3.6.7.4), by degrees of freedom.
CHI_SQUARE_999 = {9: 27.877, 19: 43.820, 99: 148.230}


def test_split_mix_gives_the_published_stream():
    # First five outputs of SplitMix64 for the seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64").
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    outputs = split_mix(1234567 + torch.arange(1, 6) * GAMMA)
    assert [value % 2**64 for value in outputs.tolist()] == published


def test_item_keys_depend_on_seed_and_item():
    keys = item_keys(["a", "b", "a"], seed=0).tolist()
    assert keys[0] == keys[2] != keys[1]
    assert item_keys(["a"], seed=1).tolist()[0] != keys[0]


def test_noise_is_independent_of_the_batch():
    keys = item_keys([f"item-{i}" for i in range(50)], seed=3)
    noise = gumbel_noise(keys, step=7, vocabulary=33)
    assert torch.equal(noise[12:13], gumbel_noise(keys[12:13], step=7, vocabulary=33))
    assert torch.equal(noise, gumbel_noise(keys, step=7, vocabulary=40)[:, :33])
    assert not torch.equal(noise, gumbel_noise(keys, step=8, vocabulary=33))


def test_noise_has_the_moments_of_the_gumbel_distribution():
    noise = gumbel_noise(item_keys([str(i) for i in range(2000)], 0), step=0, vocabulary=500).double()
    assert torch.isfinite(noise).all()
    count = noise.numel()  # mean gamma, variance pi^2 / 6; within 5 standard errors (kurtosis 5.4)
    assert noise.mean().item() == pytest.approx(0.5772156649, abs=5 * math.sqrt(math.pi**2 / 6 / count))
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=5 * math.sqrt(4.4 / count))


def test_noise_of_neighbours_is_uncorrelated():
    keys = item_keys([str(i) for i in range(1000)], 0)
    noise = torch.stack([gumbel_noise(keys, step, 64) for step in range(8)])  # step, item, token
    limit = 5 / math.sqrt(noise[:-1].numel())
    for dimension in range(3):
        length = noise.shape[dimension] - 1
        pairs = torch.stack([noise.narrow(dimension, start, length).flatten() for start in (0, 1)])
        assert abs(torch.corrcoef(pairs)[0, 1].item()) < limit


def chi_square(tokens: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities.double() * len(tokens)
    observed = torch.bincount(tokens, minlength=len(probabilities)).double()
    return ((observed - expected) ** 2 / expected).sum().item()


@pytest.mark.parametrize(("vocabulary", "temperature"), [(10, 1.0), (20, 0.7), (100, 1.3)])
def test_frequencies_follow_softmax(vocabulary, temperature):
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    keys = item_keys([f"draw-{i}" for i in range(40_000)], seed=11)
    tokens = sample_tokens(logits.expand(len(keys), -1), keys, step=2, sampling=Sampling(1, temperature))
    assert chi_square(tokens, (logits / temperature).softmax(0)) < CHI_SQUARE_999[vocabulary - 1]


def test_frequencies_follow_softmax_over_the_steps_of_one_item():
    logits = torch.randn(10, generator=torch.Generator().manual_seed(0))
    key = item_keys(["one item"], seed=5)
    tokens = torch.cat([sample_tokens(logits[None], key, step, Sampling(1, 1.0)) for step in range(5000)])
    assert chi_square(tokens, logits.softmax(0)) < CHI_SQUARE_999[9]


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    assert top_p_filter(logits, 0.75).isfinite().tolist() == [[False, True, False, True]]
    assert top_p_filter(logits, 0.85).isfinite().tolist() == [[True, True, False, True]]
    assert top_p_filter(logits, 0.01).isfinite().tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.8, 0.95])
def test_top_p_equals_that_of_transformers(top_p):
    logits = 3 * torch.randn(200, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(top_p_filter(logits, top_p), TopPLogitsWarper(top_p)(None, logits))


def test_top_p_samples_inside_the_nucleus_only():
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    keys = item_keys([str(i) for i in range(10_000)], seed=0)
    tokens = sample_tokens(logits.expand(len(keys), -1), keys, 0, Sampling(1, 1.0, top_p=0.75))
    counts = torch.bincount(tokens, minlength=4)
    assert counts[0] == counts[2] == 0
    assert counts[1].item() / len(keys) == pytest.approx(0.5 / 0.8, abs=5 * math.sqrt(0.25 / len(keys)))


def test_temperature_0_takes_the_most_likely_token():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert sample_tokens(logits, item_keys(["a", "b"], 0), 0, Sampling(1)).tolist() == [1, 0]
