"""Packed evaluation against plain padded evaluation: the same losses and the same gradients, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from harness.engines import packing, token_logprobs
from harness.engines.logprobs import attend_packed, sequence_logprobs
from harness.engines.packing import pack
from harness.engines.reading import how_to_read
from harness.training.losses import PreferenceObjective

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def tokens(length: int, first: int) -> tuple[int, ...]:
    return tuple(1 + (first + 7 * step) % 96 for step in range(length))


def exact(model: torch.nn.Module) -> torch.nn.Module:
    """In float64 throughout: transformers' RMSNorm would compute in float32."""
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            norm = torch.nn.RMSNorm(len(module.weight), 1e-6)
            model.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], norm)
    return model.double().eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return exact(LlamaForCausalLM(LlamaConfig(**SIZES)))


def padded_logprobs(model, pairs, side: str) -> torch.Tensor:
    """The textbook way: every sequence by itself, padded to the longest, all logits at once."""
    rows = [[*prompt, *completion] for prompt, completion in pairs]
    longest = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    scored = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, (row, (prompt, _)) in enumerate(zip(rows, pairs, strict=True)):
        start = longest - len(row) if side == "left" else 0
        ids[index, start : start + len(row)] = torch.tensor(row)
        mask[index, start : start + len(row)] = 1
        scored[index, start + max(1, len(prompt)) : start + len(row)] = True
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    logps = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
    return (logps * scored[:, 1:]).sum(1)


def packed_logprobs(model, pairs, attention="sdpa") -> torch.Tensor:
    reading = how_to_read(model, attention)
    with attend_packed(model, reading):
        return sequence_logprobs(model, pack(pairs), reading)


def loss_and_gradients(model, sums, lengths):
    objective = PreferenceObjective(loss="dpo", beta=0.3, sft_weight=0.1)
    shape = (-1, 2)
    losses, _ = objective(sums.view(shape), torch.zeros_like(sums).view(shape), lengths.view(shape))
    model.zero_grad()
    losses.mean().backward()
    return losses.mean().item(), [parameter.grad.clone() for parameter in model.parameters()]


X, GOOD, BAD = tokens(5, 3), tokens(14, 20), tokens(11, 50)
CASES = {
    "three prompts, six sequences": [
        *((X, tokens(9, 1)), (X, tokens(4, 2))),
        *((GOOD, tokens(9, 1)), (GOOD, tokens(4, 2))),
        *((BAD, tokens(6, 9)), (BAD, tokens(9, 1))),
    ],
    "ragged": [(tokens(1, 4), tokens(30, 5)), (tokens(40, 6), tokens(2, 7))],
    "one-token responses": [(X, (5,)), (X, (6,))],
    "an empty prompt": [((), tokens(7, 8)), ((), tokens(3, 9)), (X, tokens(4, 1)), (X, tokens(5, 2))],
    "batch 1": [(X, tokens(9, 1)), (X, tokens(4, 2))],
    "the same response twice": [(X, tokens(3, 1)), (X, tokens(3, 1))],
    "a response that starts another": [(X, tokens(3, 1)), (X, tokens(6, 1))],
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pairs", CASES.values(), ids=CASES)
def test_packed_equals_padded(model, pairs, side):
    lengths = pack(pairs).lengths
    assert lengths.tolist() == [len(completion) - (not prompt) for prompt, completion in pairs]
    loss, gradients = loss_and_gradients(model, packed_logprobs(model, pairs), lengths)
    expected, expected_gradients = loss_and_gradients(model, padded_logprobs(model, pairs, side), lengths)
    assert loss == pytest.approx(expected, abs=1e-10)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("pairs", CASES.values(), ids=CASES)
def test_flex_attention_equals_padded(model, pairs):
    """Without gradients and not compiled, which is all that it does on the CPU."""
    with torch.no_grad():
        found, expected = packed_logprobs(model, pairs, "flex"), padded_logprobs(model, pairs, "right")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


lengths_of_rows = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(1, 15), min_size=1, max_size=4)), min_size=1, max_size=6
)


@settings(max_examples=40, deadline=None)
@given(lengths_of_rows, st.sampled_from([1, 16, 2048]), st.randoms(use_true_random=False))
def test_any_lengths_and_order(model, rows, group_tokens, shuffle):
    pairs = [
        (tokens(prompt, 11 * number), tokens(reply, 5 * number + place))
        for number, (prompt, replies) in enumerate(rows)
        for place, reply in enumerate(replies)
    ]
    shuffle.shuffle(pairs)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "GROUP_TOKENS", group_tokens)
        found, expected = packed_logprobs(model, pairs), padded_logprobs(model, pairs, "right")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


OTHERS = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "sliding window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)),
    "soft caps": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, head_dim=8, sliding_window=6, final_logit_softcapping=2.0, attn_logit_softcapping=3.0)
    ),
    "scaled logits": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
}


@pytest.mark.parametrize("attention", ["sdpa", "flex"])
@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_other_architectures(build, attention):
    torch.manual_seed(0)
    other = build().eval()
    pairs = CASES["three prompts, six sequences"] + CASES["ragged"]
    with torch.no_grad():
        found, expected = packed_logprobs(other, pairs, attention), padded_logprobs(other, pairs, "right")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_no_token_is_padding_and_shared_prompts_are_read_once():
    batch = pack(CASES["three prompts, six sequences"])
    assert batch.tokens == 5 + 14 + 11 + (9 + 4) * 2 + (6 + 9)


def test_a_sequence_needs_something_to_predict_from():
    for pair in (((), (3,)), ((2,), ())):
        with pytest.raises(ValueError, match="at least one completion token"):
            pack([pair])


# Log-probabilities of tokens in blocks


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 2), (3, 100), (100, 5), (100, 100)])
def test_blocks_change_nothing(monkeypatch, rows, columns, bias):
    monkeypatch.setattr(token_logprobs, "ROWS", rows)
    monkeypatch.setattr(token_logprobs, "CPU_BLOCK", columns * 4 * min(rows, 7))
    torch.manual_seed(1)
    hidden, weight = torch.randn(7, 5, dtype=torch.double), torch.randn(11, 5, dtype=torch.double)
    shift = torch.randn(11, dtype=torch.double) if bias else None
    targets, weights = torch.arange(7), torch.randn(7, dtype=torch.double)
    leaves = [each.requires_grad_() for each in (hidden, weight, shift) if each is not None]

    def gradients(logprobs):
        return torch.autograd.grad((weights * logprobs).sum(), leaves)

    plain = torch.nn.functional.linear(hidden, weight, shift).log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    ours = token_logprobs.token_logprobs(hidden, weight, shift, targets)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    for found, wanted in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_bfloat16_is_normalized_in_float32():
    torch.manual_seed(1)
    hidden, weight = torch.randn(6, 8).bfloat16(), torch.randn(50, 8).bfloat16()
    targets = torch.arange(6)
    logits = torch.nn.functional.linear(hidden, weight).float()
    ours = token_logprobs.token_logprobs(hidden, weight, None, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1))


def test_autocast():
    """Mixed precision, as on a GPU: weights and gradients in float32, matrices in bfloat16."""
    mixed = LlamaForCausalLM(LlamaConfig(**SIZES))
    pairs = CASES["ragged"]
    with torch.autocast("cpu", torch.bfloat16):
        sums = packed_logprobs(mixed, pairs)
    sums.sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(sums, padded_logprobs(mixed, pairs, "right"), rtol=1e-2, atol=1e-2)
    assert all(parameter.grad.dtype == torch.float32 for parameter in mixed.parameters())
