"""The one linear operation, alone and as the whole model uses it, against plain float arithmetic."""

from collections.abc import Callable

import pytest
import torch
from tiny import some_tokens, tiny_adapter, tiny_config, tiny_model

from hoidap.kernels import fourbit, int8
from hoidap.kernels.fourbit import FourBitWeight
from hoidap.model.adapter import Adapter
from hoidap.model.linear import LowRank, Weight, dequantized, linear
from hoidap.model.loss import loss_nats
from hoidap.model.mpt import MPT
from hoidap.recipe import Quantize

SCALE = 5 / 3


def held(weight: torch.Tensor, kind: Quantize) -> Weight:
    if kind == "none":
        return weight
    return int8.quantize(weight) if kind == "int8" else fourbit.quantize(weight, kind)


class Operands:
    """Random x, W, b, A, B of one linear and the gradient that comes back to it; all but W want gradients."""

    def __init__(self, T: int, out: int, in_: int, *, bias: bool = True, kind: Quantize = "nf4") -> None:
        random = torch.Generator().manual_seed(T + out + in_)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=random)

        self.weight = held(normal(out, in_) * in_**-0.5, kind)
        self.x = normal(T, in_).requires_grad_()
        self.bias = normal(out).requires_grad_() if bias else None
        self.A = (normal(3, in_) * in_**-0.5).requires_grad_()
        self.B = normal(out, 3).requires_grad_()
        self.upstream = normal(T, out)

    def delta(self) -> LowRank:
        return LowRank(self.A, self.B, SCALE)

    def plain(self) -> torch.Tensor:
        y = self.x @ dequantized(self.weight, torch.float32).T + SCALE * (self.x @ (self.B @ self.A).T)
        return y if self.bias is None else y + self.bias

    def gradients(self, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the gradient of every operand that wants one."""
        wanted = {n: t for n in ("x", "bias", "A", "B") if (t := getattr(self, n)) is not None and t.requires_grad}
        return dict(zip(wanted, torch.autograd.grad(y, list(wanted.values()), self.upstream.to(y.dtype)), strict=True))


def assert_all_close(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("T", [1, 7, 33])
@pytest.mark.parametrize("shape", [(96, 64), (5, 192), (192, 5), (64, 37), (144, 48)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_output_and_every_gradient_equal_float_arithmetic_with_the_dequantised_weight(T, shape, bias, kind):
    operands = Operands(T, *shape, bias=bias, kind=kind)
    y, expected = linear(operands.x, operands.weight, operands.bias, operands.delta()), operands.plain()
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
    assert_all_close(operands.gradients(y), operands.gradients(expected), 1e-4)


def test_gradients_of_bias_and_adapter_are_right_where_the_input_wants_none():
    operands = Operands(7, 96, 64)
    operands.x.requires_grad_(requires_grad=False)
    y = linear(operands.x, operands.weight, operands.bias, operands.delta())
    result = operands.gradients(y)
    assert sorted(result) == ["A", "B", "bias"]
    assert_all_close(result, operands.gradients(operands.plain()), 1e-4)


def test_without_an_adapter_the_quantised_weight_alone_is_applied():
    operands = Operands(7, 96, 64)
    expected = operands.x @ fourbit.dequantize(operands.weight, torch.float32).T + operands.bias
    torch.testing.assert_close(linear(operands.x, operands.weight, operands.bias), expected, atol=1e-5, rtol=1e-5)


def test_16_bit_activations_give_float32_gradients_of_float32_adapters_close_to_exact_ones():
    operands = Operands(33, 192, 128)
    y = linear(operands.x.bfloat16(), operands.weight, operands.bias, operands.delta())
    assert y.dtype == torch.bfloat16
    result, expected = operands.gradients(y), operands.gradients(operands.plain())
    for name, gradient in expected.items():
        assert result[name].dtype == torch.float32
        assert (result[name] - gradient).norm() < 0.01 * gradient.norm(), name


def test_a_trainable_float32_weight_gets_a_float32_gradient_from_16_bit_activations():
    operands = Operands(33, 192, 128)
    weight = fourbit.dequantize(operands.weight, torch.float32).requires_grad_()
    linear(operands.x.bfloat16(), weight, operands.bias).backward(operands.upstream.bfloat16())
    expected = operands.upstream.T @ operands.x
    assert weight.grad.dtype == torch.float32
    assert (weight.grad - expected).norm() < 0.01 * expected.norm()


def sizes_saved(function: Callable[[], torch.Tensor]) -> list[int]:
    """Return the number of elements of each tensor that ``function`` keeps for its backward pass."""
    sizes = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function()
    return sizes


def test_nothing_of_the_weights_size_is_kept_for_the_backward_pass():
    operands = Operands(7, 192, 128)
    size = 192 * 128
    dense = fourbit.dequantize(operands.weight, torch.float32)
    assert size in sizes_saved(lambda: linear(operands.x, dense, None)), "a dense weight is kept: the test can see it"
    sizes = sizes_saved(lambda: linear(operands.x, operands.weight, operands.bias, operands.delta()))
    assert sizes, "the adapter keeps its operands"
    assert max(sizes) < size / 8  # not even the codes, two weights a byte


# 16 bits in, 32 out -------------------------------------------------------------------------------------------------------

each_16_bits = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
each_weight = pytest.mark.parametrize("kind", ["none", "nf4", "fp4", "int8"])
ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


def rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.detach().to(dtype).double()


@each_16_bits
@each_weight
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_float32_result_is_the_product_of_the_rounded_operands_itself_never_rounded(dtype, kind, bias):
    operands = Operands(33, 192, 128, bias=bias, kind=kind)
    x = operands.x.detach().to(dtype)
    result = linear(x, operands.weight, operands.bias, operands.delta(), torch.float32)
    if kind == "int8":
        expected = int8.apply(x, operands.weight).double()
    else:
        expected = x.double() @ dequantized(operands.weight, dtype).double().T
    low = (x @ operands.A.to(dtype).T).detach()
    expected += SCALE * (low.double() @ rounded(operands.B, dtype).T) + (operands.bias.double() if bias else 0)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=1e-5)


@each_weight
def test_a_float32_result_holds_what_float16_cannot(kind):
    weight = held(torch.full((8, 64), 100.0), kind)
    x = torch.full((2, 64), 50.0).half()
    bias, delta = torch.full((8,), 1e5), LowRank(torch.full((2, 64), 4.0), torch.full((8, 2), 100.0), 3.0)
    assert linear(x, weight, None).isinf().all(), "64 · 50 · 100 is more than 65,504"
    result = linear(x, weight, bias, delta, torch.float32)
    torch.testing.assert_close(result, torch.full((2, 8), 64 * 50 * 100 + 1e5 + 3 * 2 * 12_800 * 100), rtol=2e-3, atol=0)


@each_16_bits
@each_weight
def test_gradients_of_a_float32_result_are_those_of_float_arithmetic(dtype, kind):
    operands = Operands(33, 192, 128, kind=kind)
    x = operands.x.to(dtype)
    result = operands.gradients(linear(x, operands.weight, operands.bias, operands.delta(), torch.float32))
    expected = operands.gradients(operands.plain())
    for name, gradient in expected.items():
        assert result[name].dtype == torch.float32
        assert (result[name] - gradient).norm() < 4 * ROUNDING[dtype] * gradient.norm(), name
    assert torch.equal(result["bias"], expected["bias"]), "a sum of float32"


@each_16_bits
def test_a_trainable_weight_gets_the_float32_gradient_of_a_float32_result(dtype):
    operands = Operands(33, 192, 128, kind="none")
    weight = operands.weight.requires_grad_()
    x = operands.x.detach().to(dtype).requires_grad_()
    linear(x, weight, operands.bias, None, torch.float32).backward(operands.upstream)
    upstream = rounded(operands.upstream, dtype)
    assert weight.grad.dtype == torch.float32
    assert x.grad.dtype == dtype
    torch.testing.assert_close(weight.grad.double(), upstream.T @ x.detach().double(), atol=1e-4, rtol=1e-5)
    expected = upstream @ rounded(weight, dtype)
    assert (x.grad.double() - expected).norm() < ROUNDING[dtype] * expected.norm()


@each_16_bits
@each_weight
def test_the_activations_own_dtype_asked_for_is_what_comes_unasked(dtype, kind):
    operands = Operands(7, 96, 64, kind=kind)
    x = operands.x.detach().to(dtype)
    unasked, asked = (linear(x, operands.weight, operands.bias, operands.delta(), kind) for kind in (None, dtype))
    assert unasked.dtype == asked.dtype == dtype
    assert torch.equal(unasked, asked)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_nothing_of_the_weights_size_is_kept_for_the_backward_pass_of_a_float32_result(kind):
    operands = Operands(7, 192, 128, kind=kind)
    x = operands.x.detach().half()
    sizes = sizes_saved(lambda: linear(x, operands.weight, operands.bias, operands.delta(), torch.float32))
    assert sizes, "the adapter keeps its operands"
    assert max(sizes) < 192 * 128 / 8


# The whole model ----------------------------------------------------------------------------------------------------------


def loss_of(model: MPT, adapter: Adapter) -> torch.Tensor:
    tokens = some_tokens(model.config, 32)
    hidden = model.hidden(tokens, [0, 1, 8, 32], adapter=adapter)
    return loss_nats(model, hidden[8:-1], tokens[9:])


def loss_and_gradients(model: MPT, adapter: Adapter) -> tuple[float, dict[str, torch.Tensor]]:
    loss = loss_of(model, adapter)
    wanted = adapter.trainable()
    return loss.item(), dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))


def dequantised_copy(model: MPT) -> MPT:
    assert sum(isinstance(w, FourBitWeight) for w in model.weights.values()) == 4 * model.config.n_layers
    return MPT(model.config, {name: dequantized(w, torch.float32) for name, w in model.weights.items()}, torch.float32)


@pytest.mark.parametrize(
    "changes", [{}, {"no_bias": True}, {"qk_ln": True, "clip_qkv": 0.8, "expansion_ratio": 2}], ids=str
)
def test_a_quantised_models_logits_equal_those_of_its_dequantised_weights(changes):
    model = tiny_model(tiny_config(**changes), 1, quantize="nf4")
    adapter = tiny_adapter(model.config, 2)
    tokens = some_tokens(model.config, 32)
    result, expected = (
        m.logits(m.hidden(tokens, [0, 1, 8, 32], adapter=adapter)).detach() for m in (model, dequantised_copy(model))
    )
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes", [{}, {"no_bias": True}, {"qk_ln": True, "clip_qkv": 0.8, "expansion_ratio": 2}], ids=str
)
def test_a_quantised_models_loss_and_adapter_gradients_equal_those_of_its_dequantised_weights(changes):
    model = tiny_model(tiny_config(**changes), 1, quantize="nf4")
    adapter = tiny_adapter(model.config, 2)
    loss, gradients = loss_and_gradients(model, adapter)
    expected_loss, expected = loss_and_gradients(dequantised_copy(model), adapter)
    assert loss == pytest.approx(expected_loss, abs=1e-4)
    assert len(gradients) == 8 * model.config.n_layers
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    assert_all_close(gradients, expected, 1e-4)


@pytest.mark.parametrize("quantize", ["nf4", "fp4", "int8", "none"])
def test_recomputing_activations_changes_neither_loss_nor_gradients(quantize):
    model = tiny_model(tiny_config(), 1, quantize=quantize)
    adapter = tiny_adapter(model.config, 2)
    loss, gradients = loss_and_gradients(model, adapter)
    model.recompute = model.config.n_layers
    recomputed_loss, recomputed = loss_and_gradients(model, adapter)
    assert recomputed_loss == pytest.approx(loss, abs=1e-6)
    assert_all_close(recomputed, gradients, 1e-6)


def test_recomputing_activations_keeps_only_each_blocks_input():
    model = tiny_model(tiny_config(), 1, quantize="nf4")
    adapter = tiny_adapter(model.config, 2)
    tokens = some_tokens(model.config, 32)
    kept = {}
    for blocks in (0, model.config.n_layers):
        model.recompute = blocks
        kept[blocks] = sum(sizes_saved(lambda: model.hidden(tokens, [0, 32], adapter=adapter)))
    stream = len(tokens) * model.config.d_model
    assert kept[0] > 20 * stream
    assert kept[model.config.n_layers] < 5 * stream  # two blocks' inputs, and the last norm's
