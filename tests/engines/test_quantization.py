"""Weights in 4 bits: what is refused before anything is loaded, and how packed weights are counted and copied."""

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
from transformers import AwqConfig, BitsAndBytesConfig, GPTQConfig, LlamaConfig, QuantoConfig

from harness.engines import counting, loading, quantization, saving
from harness.errors import UserError

NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (BitsAndBytesConfig(load_in_8bit=True), "bitsandbytes in 8 bits"),
        ({"load_in_8bit": True}, "bitsandbytes in 8 bits"),
        (BitsAndBytesConfig(), "bitsandbytes without load_in_4bit"),
        (GPTQConfig(bits=4), "gptq"),
        (AwqConfig(bits=4), "awq"),
        (QuantoConfig(weights="int4"), "quanto"),
        ({"quant_method": "hqq", "nbits": 4}, "hqq"),
        ({"quant_method": "fp8"}, "fp8"),
        ("nf4", "str"),
    ],
)
def test_other_quantizations_are_refused_by_name(given, name):
    with pytest.raises(UserError, match=f"asks for {name}, and only bitsandbytes in 4 bits can be trained on"):
        quantization.four_bits(given)


def test_four_bits_are_given_as_a_configuration_or_a_mapping():
    for given in (NF4, NF4.to_dict(), {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}):
        read = quantization.four_bits(given)
        assert (read.load_in_4bit, read.bnb_4bit_quant_type, read.load_in_8bit) == (True, "nf4", False)
    with pytest.raises(UserError, match="quantization_config cannot be used .*: correct it"):
        quantization.four_bits({"load_in_4bit": True, "bnb_4bit_compute_dtype": "float3"})


def test_what_is_missing_is_said_with_a_way_out(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(quantization, "version", missing)
    with pytest.raises(UserError, match=r"bitsandbytes, which is not installed: pip install bitsandbytes .*, or leave"):
        quantization.check_possible(NF4, "cpu")


@pytest.mark.parametrize("error", [NotImplementedError("no kernel for mps"), 0.5])
def test_a_device_that_does_not_compute_right_is_refused(monkeypatch, error):
    def tried(config, device):
        if isinstance(error, Exception):
            raise error
        return error

    monkeypatch.setattr(quantization, "version", lambda name: "0.50")
    monkeypatch.setattr(quantization, "_error_of_layer", tried)
    reason = "no kernel for mps" if isinstance(error, Exception) else "results are wrong by 0.5"
    with pytest.raises(UserError, match=f"bitsandbytes 0.50 does not compute in 4 bits on mps here .{reason}.: use a"):
        quantization.check_possible(NF4, "mps")


def packed(rows, columns, storage=torch.uint8):
    """A parameter that holds weights as bitsandbytes does: several in each number."""
    numbers = (rows * columns + 1) // 2 // storage.itemsize
    weight = torch.nn.Parameter(torch.zeros(numbers, 1, dtype=storage), requires_grad=False)
    weight.quant_state = SimpleNamespace(shape=torch.Size((rows, columns)))
    return weight


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
def test_packed_weights_are_counted_one_by_one_and_shared_by_copies(storage):
    model = torch.nn.Module()
    model.weight, model.plain = packed(48, 64, storage), torch.nn.Linear(64, 5)
    assert loading.parameter_count(model) == 48 * 64 + 64 * 5 + 5
    copy = quantization.copied(model)
    assert copy.weight is model.weight and copy.plain.weight is not model.plain.weight


def test_flops_do_not_depend_on_the_bits():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    plain = LlamaConfig(vocab_size=50, **sizes)
    quantized = LlamaConfig(vocab_size=50, **sizes, quantization_config=NF4.to_dict())
    assert counting.of_config(quantized) == counting.of_config(plain)
    layer = 4 * 32 * 32 + 3 * 32 * 64
    assert counting.of_config(quantized).reading.position == pytest.approx(2 * 2 * layer)


def test_quantized_models_are_named_where_plain_ones_are_needed():
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_attention_heads=1))
    saving.check_whole(model, "plain")
    for config, name in [(GPTQConfig(bits=4), "gptq"), (NF4, "bitsandbytes in 4 bits")]:
        model.hf_quantizer = SimpleNamespace(quantization_config=config)
        with pytest.raises(UserError, match=f"model has quantized weights .{name}., and training needs plain ones"):
            saving.check_whole(model, "model")


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_computes_right_here(kind, compute):
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=compute)
    quantization.check_possible(config, "cpu")


def test_a_layer_that_was_packed_for_the_cpu_learns_again():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type="nf4").to("cpu").eval()
    inputs = torch.randn(3, 64)
    before = layer(inputs.clone().requires_grad_()).detach()
    with torch.no_grad():
        layer(inputs)  # packs, on CPUs with bfloat16
    quantization.keep_layout(layer)
    wanting = inputs.clone().requires_grad_()
    again = layer(wanting)
    again.sum().backward()
    assert wanting.grad.abs().min() > 0
    with torch.no_grad():
        assert torch.allclose(layer(inputs), again, atol=1e-4)
    assert torch.allclose(before, again, rtol=0.02, atol=0.02)
    assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
