"""FLOPs that a model needs, next to torch's flop counter on real forward and backward passes of every architecture.

By default of a few architectures; -m slow takes the others of `small_models` (about 4 minutes).
"""

import pytest
import small_models
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from harness.engines import counting
from harness.errors import UserError
from harness.work import Rates, sampled

SHORT = ("llama", "qwen2", "gemma2", "gpt2", "mistral", "mixtral", "deepseek_v3", "qwen3_next", "falcon_h1")
LENGTH = 128  # two chunks of linear attention
EQUAL_HEADS = {"num_key_value_heads": small_models.HEADS}  # latent attention has as many of both in eager attention
WITHOUT_REFERENCE = "dbrx"  # FlopCounterMode itself fails on it
LATENT = (
    *("axk1", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_linear", "longcat_flash"),
    *("minicpm3", "youtu"),
)


def small_model(model_type: str) -> torch.nn.Module:
    model = small_models.small_model(model_type, **EQUAL_HEADS if model_type in LATENT else {})
    model.set_attn_implementation("eager")  # FlopCounterMode does not know the CPU's fused attention
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # nor grouped products
    return model


def counted(model: torch.nn.Module, ids: torch.Tensor, backward: bool = False, **more) -> int:
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        output = model(input_ids=ids, use_cache=bool(more), **more)
        if backward:
            output.logits.sum().backward()
    return counter.get_total_flops()


def unmasked(rates: Rates, length: int) -> float:
    """With the pairs that a mask hides, which eager attention computes, and logits at all positions."""
    return (rates.position + rates.logits) * length + sum(rates.pairs.values()) * length**2 + rates.sequence


def depthwise(model: torch.nn.Module) -> bool:
    """Whether torch 2.13 counts its backward pass too high: a depthwise convolution is taken for a full one."""
    return any(getattr(module, "groups", 1) > 1 for module in model.modules())


@pytest.mark.slow
def test_flops_of_the_other_architectures(subtests):
    for model_type in small_models.built():
        if model_type not in (*SHORT, WITHOUT_REFERENCE):
            with subtests.test(model_type):
                test_flops_are_those_of_torch_s_counter(model_type)


@pytest.mark.parametrize("model_type", SHORT)
def test_flops_are_those_of_torch_s_counter(model_type):
    model = small_model(model_type)
    needed = counting.of_config(model.config)
    ids = (torch.arange(LENGTH)[None] * 7) % 83 + 3
    assert unmasked(needed.reading, LENGTH) == pytest.approx(counted(model, ids), rel=0.03)
    if not depthwise(model):
        assert unmasked(needed.learning, LENGTH) == pytest.approx(counted(model, ids, backward=True), rel=0.03)


def test_a_model_that_cannot_be_counted_is_refused_by_name(monkeypatch):
    """Experts of dbrx are chosen by values, which a larger model would not be given."""
    monkeypatch.setattr(counting, "LARGEST", 1000)
    monkeypatch.setattr(counting, "_KNOWN", {})
    with pytest.raises(UserError, match="the FLOPs of dbrx cannot be counted .* --ledger nominal"):
        counting.of_config(small_models.small_config("dbrx"))


LLAMA = LlamaConfig(
    vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32
)


def test_a_llama_of_7_billion_parameters_by_hand():
    """Per position and layer 4 d^2 weights of attention and 3 d m of the MLP; per pair d of scores and d of values; the
    rotary embedding's product of frequencies and positions is d_head / 2 multiplications. Nothing is allocated."""
    needed = counting.of_config(LLAMA)
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    assert needed.reading.position == pytest.approx(2 * weights + 2 * 64)
    assert needed.reading.logits == pytest.approx(2 * 4096 * 32_000)
    assert dict(needed.reading.pairs) == {None: pytest.approx(2 * 32 * 2 * 4096)}
    assert needed.learning.position == pytest.approx(3 * 2 * weights, rel=1e-4)
    assert needed.learning.logits == pytest.approx(3 * 2 * 4096 * 32_000)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "mixtral"])
def test_adapters_need_no_gradient_of_frozen_weights(model_type):
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = small_model(model_type)
    needed = counting.of_config(model.config, adapters)
    whole = counting.of_config(model.config)
    ids = (torch.arange(LENGTH)[None] * 7) % 83 + 3
    adapted = get_peft_model(model, adapters)
    assert unmasked(needed.learning, LENGTH) == pytest.approx(counted(adapted, ids, backward=True), rel=0.03)
    assert needed.learning.logits == pytest.approx(whole.learning.logits * 2 / 3)


def test_adapters_of_a_large_llama_by_hand():
    """Forward and backward through 2 d m frozen products each; no gradient of the inputs of the lowest layer's."""
    from peft import LoraConfig

    adapters = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    frozen = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    added = 32 * 8 * (4 * 2 * 4096 + 3 * (4096 + 11_008))
    lowest = 3 * (4096**2 + 8 * 4096)  # query, key and value of the first layer see the frozen embedding
    expected = 2 * (2 * frozen + 3 * added - lowest)
    assert counting.of_config(LLAMA, adapters).learning.position == pytest.approx(expected, rel=1e-4)


def test_sampling_with_a_cache_needs_the_pairs_that_are_not_masked():
    """Positions that are computed one at a time attend to nothing masked: the counter and the charge agree."""
    model = small_model("llama")
    needed = counting.of_config(model.config)
    prompt = (torch.arange(20)[None] * 7) % 83 + 3
    with torch.no_grad():
        cache = model(prompt, use_cache=True).past_key_values
    steps = sum(counted(model, torch.tensor([[5]]), past_key_values=cache) for _ in range(6))
    work = sampled(20, 7)  # the last token is never read
    prefill = sampled(20, 1)
    assert needed.forward(work) - needed.forward(prefill) == pytest.approx(steps, rel=0.001)


@pytest.mark.parametrize(
    ("model_type", "windows"),
    [
        ("mistral", {6: 1.0}),
        ("gemma2", {6: 0.5, None: 0.5}),
        ("llama", {None: 1.0}),
    ],
)
def test_windows_are_those_of_the_model(model_type, windows):
    pairs = counting.of_config(small_models.small_config(model_type)).reading.pairs
    whole = sum(pairs.values())
    assert {window: rate / whole for window, rate in pairs.items()} == pytest.approx(windows)
