"""Linear layers by oneDNN: equal to torch's up to rounding, with gradients, and used where they are faster."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.engines import linear
from harness.engines.linear import (
    LEAST_PACKED,
    LEAST_PRODUCTS,
    Linear,
    multiplication,
    packed_weights,
    use_fast_products,
)
from harness.engines.token_logprobs import token_logprobs
from harness.models import processor

ROWS, INNER, OUTER = 40, 256, 512


@pytest.fixture(autouse=True)
def _faster(monkeypatch):
    if not linear._is_right():
        pytest.skip("this PyTorch has no oneDNN product of the expected kind")
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: True)


def layers(bias: bool) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    exact = torch.nn.Linear(INNER, OUTER, bias=bias)
    fast = copy.deepcopy(exact)
    use_fast_products(fast)
    assert type(fast) is Linear
    return exact.double(), fast


def close(found: torch.Tensor, exact: torch.Tensor) -> bool:
    return bool((found - exact).abs().max() <= 2e-6 * exact.abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(ROWS,), (2, ROWS // 2), (1, 2, ROWS // 2)])
def test_products_and_gradients_are_those_of_float64(bias, shape):
    exact, fast = layers(bias)
    inputs = torch.randn(*shape, INNER, requires_grad=True)
    grad = torch.randn(*shape, OUTER)
    assert multiplication(fast.weight, ROWS) is linear._onednn
    values = fast(inputs)
    values.backward(grad)
    found = [inputs.grad, *(each.grad for each in fast.parameters())]
    wide = inputs.detach().double().requires_grad_()
    wanted = exact(wide)
    wanted.backward(grad.double())
    assert values.shape == wanted.shape and close(values, wanted)
    for one, other in zip(found, [wide.grad, *(each.grad for each in exact.parameters())], strict=True):
        assert one.shape == other.shape and close(one, other)
    with torch.inference_mode():
        assert torch.equal(fast(inputs), values)


def test_a_frozen_layer_passes_gradients_on():
    _, fast = layers(bias=True)
    fast.requires_grad_(False)
    inputs = torch.randn(ROWS, INNER, requires_grad=True)
    fast(inputs).sum().backward()
    assert close(inputs.grad, fast.weight.double().sum(0).expand(ROWS, INNER)) and fast.weight.grad is None


def test_packed_weights_give_the_same_products_without_gradients():
    _, fast = layers(bias=True)
    inputs = torch.randn(ROWS, INNER)
    with torch.inference_mode():
        wanted = fast(inputs)
        with packed_weights(fast, ROWS, free=1 << 30):
            assert fast.packed is not None and close(fast(inputs), wanted.double())
            assert torch.equal(fast(inputs[:1]), torch.nn.functional.linear(inputs[:1], fast.weight, fast.bias))
        assert fast.packed is None
        for rows, free in ((LEAST_PACKED - 1, 1 << 30), (ROWS, 2 * fast.weight.nbytes - 1)):
            with packed_weights(fast, rows, free):
                assert fast.packed is None
    with pytest.raises(KeyError), packed_weights(fast, ROWS, free=1 << 30):
        raise KeyError
    assert fast.packed is None


def test_what_is_small_or_no_float32_is_left_to_torch():
    weight = torch.empty(OUTER, INNER)
    fewest = -(-LEAST_PRODUCTS // weight.numel())
    plain = torch.nn.functional.linear
    assert multiplication(weight, fewest) is linear._onednn and multiplication(weight, fewest - 1) is plain
    assert multiplication(torch.empty(768, 128), 10_000) is plain  # the largest matrix of the embedded model
    assert multiplication(weight.bfloat16(), 1000) is plain and multiplication(weight.double(), 1000) is plain
    assert multiplication(weight.to("meta"), 1000) is plain
    _, fast = layers(bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(torch.randn(ROWS, INNER)).dtype == torch.bfloat16
    assert fast.double()(torch.randn(ROWS, INNER).double()).dtype == torch.float64


def test_other_classes_stay():
    class Own(torch.nn.Linear):
        pass

    model = torch.nn.ModuleList([Own(4, 4), torch.nn.Linear(4, 4)])
    use_fast_products(model)
    assert [type(each) for each in model] == [Own, Linear]
    assert set(copy.deepcopy(model).state_dict()) == set(model.state_dict())


def test_log_probabilities_and_their_gradients():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(ROWS, INNER), 0.1 * torch.randn(OUTER, INNER), torch.randint(OUTER, (ROWS,))
    found = []
    for dtype in (torch.float32, torch.float64):
        given = [each.to(dtype).requires_grad_() for each in (hidden, weight)]
        values = token_logprobs(*given, None, targets)
        found.append([values, *torch.autograd.grad(values.sum(), given)])
    assert all(close(one, other) for one, other in zip(*found, strict=True))


def test_torch_counts_their_flops():
    _, fast = layers(bias=False)
    inputs = torch.randn(ROWS, INNER, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        fast(inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * ROWS * INNER * OUTER


def test_it_is_used_with_avx512_of_another_maker_than_intel(monkeypatch, tmp_path):
    monkeypatch.undo()
    real = linear.onednn_is_faster.__wrapped__
    monkeypatch.setattr(linear.platform, "machine", lambda: "x86_64")
    for maker, capability, used in (
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
    ):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {maker}\n")
        monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        assert real() is used
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    assert real() is False
