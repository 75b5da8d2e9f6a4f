"""LLM.int8() is the paper's arithmetic, holds where it is cornered, and is near bitsandbytes'.

bitsandbytes rounds the product of whole numbers to float16, adds the outliers' product to it and rounds again, where
hoidap rounds their sum once. It leaves out of a row's scale only those values that are outliers themselves, where hoidap,
as the paper, leaves out their whole columns.
"""

import bitsandbytes.functional as bnb
import pytest
import torch
from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState

from hoidap.kernels import int8
from hoidap.model.linear import linear

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def activations(T: int, in_: int, *columns: int, factor: float = 100.0) -> torch.Tensor:
    x = normal(T, in_).clamp(-5.9, 5.9)
    x[:, list(columns)] *= factor
    return x


def as_in_the_paper(x: torch.Tensor, weight: int8.Int8Weight) -> torch.Tensor:
    """Compute section 3 of the paper in float64 but for the codes, of which a value midway between two may have either."""
    outliers = (x.abs() >= 6).any(0)
    regular, taken = x.double()[:, ~outliers], x.double()[:, outliers]
    result = torch.zeros(len(x), weight.shape[0], dtype=torch.float64)
    if regular.numel():
        largest = regular.abs().amax(1, keepdim=True)
        codes = (regular.float() * (127 / largest.float().clamp(min=1e-30))).round()
        assert (codes - regular / largest.clamp(min=1e-30) * 127).abs().max() < 0.5 + 1e-4
        result += codes.double() @ weight.codes[:, ~outliers].double().T * largest / 127 * weight.scales.double()
    of_taken = weight.codes[:, outliers].double() * weight.scales.double()[:, None]
    return result + taken @ of_taken.to(x.dtype).double().T


# The weight ---------------------------------------------------------------------------------------------------------------


def test_codes_and_scales_equal_bitsandbytes():
    weight = normal(96, 320).half()
    weight[5] = 0
    codes, largest, _ = bnb.int8_vectorwise_quant(weight[torch.arange(96) != 5])  # theirs divides by a zero row
    ours = int8.quantize(weight)
    kept = torch.arange(96) != 5
    assert torch.equal(ours.codes[kept], codes)
    assert torch.equal(ours.scales[kept], largest / 127)
    assert not ours.codes[5].any()


@each_dtype
def test_a_weight_is_at_most_half_a_step_from_what_its_code_stands_for(dtype):
    weight = normal(70, 256).to(dtype)
    held = int8.quantize(weight)
    error = (int8.dequantize(held, torch.float32) - weight.float()).abs()
    assert (error <= held.scales[:, None] * 0.5001).all()
    assert held.codes.abs().max() == 127


@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-38, 1e-30, 1e30])
def test_rows_of_any_size_are_held(scale):
    weight = normal(8, 64) * scale
    back = int8.dequantize(int8.quantize(weight), torch.float32)
    assert (back - weight).abs().max() <= max(weight.abs().max() / 253, 1e-36)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_makes_its_output_not_finite_and_no_other(value):
    weight = normal(8, 64)
    weight[3, 7] = value
    y = int8.apply(normal(5, 64), int8.quantize(weight))
    assert not y[:, 3].isfinite().any()
    assert y[:, torch.arange(8) != 3].isfinite().all()


@pytest.mark.parametrize("shape", [(64,), (2, 3, 4), (0, 8)], ids=str)
def test_what_is_not_a_matrix_is_refused_by_its_shape(shape):
    with pytest.raises(ValueError, match="int8 takes a matrix") as caught:
        int8.quantize(torch.zeros(shape))
    assert str(shape) in str(caught.value)


# The product of whole numbers ---------------------------------------------------------------------------------------------


def whole(*shape: int) -> torch.Tensor:
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.int8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 5), (17, 64, 48), (33, 1025, 9), (3, 4096, 8)], ids=str)
@pytest.mark.parametrize("multiply", [int8.multiply, int8.multiply_reference])
def test_the_product_of_whole_numbers_is_exact(shape, multiply):
    M, K, N = shape
    a, b = whole(M, K), whole(N, K)
    result = multiply(a, b)
    assert result.dtype == torch.int32
    assert torch.equal(result.double(), a.double() @ b.double().T)


@pytest.mark.parametrize("multiply", [int8.multiply, int8.multiply_reference])
def test_the_largest_sums_are_exact(multiply):
    a, b = torch.full((2, 4099), 127, dtype=torch.int8), torch.full((3, 4099), -127, dtype=torch.int8)
    assert (multiply(a, b) == -127 * 127 * 4099).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (16, 8, 8), (17, 64, 48), (23, 9, 8), (24, 16, 7), (41, 37, 5)], ids=str)
def test_what_a_gpu_multiplies_is_padded_to_what_it_takes(shape, monkeypatch):
    plain = torch._int_mm

    def strict(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.shape[0] > 16
        assert not [n for n in (*a.shape, b.shape[1]) if n % 8]
        return plain(a, b)

    monkeypatch.setattr(torch, "_int_mm", strict)
    M, K, N = shape
    a, b = whole(M, K), whole(N, K)
    assert torch.equal(int8._multiply_cuda(a, b), int8.multiply_reference(a, b))


# The whole operation ------------------------------------------------------------------------------------------------------

INPUTS = {
    "no outliers": activations(33, 192),
    "some outliers": activations(33, 192, 3, 50, 51),
    "outliers a thousand times the rest": activations(33, 192, 3, 50, factor=1000.0),
    "one token": activations(1, 192, 3),
    "one token, no outliers": activations(1, 192),
    "all outliers": activations(7, 192) + 20,
    "zero rows": activations(33, 192, 3) * (torch.arange(33) % 2)[:, None],
    "zero rows but for outliers": activations(9, 192, 3) * (torch.arange(192) == 3),
    "all zero": torch.zeros(4, 192),
    "exactly the threshold": activations(9, 192).index_fill(1, torch.tensor(5), 6.0),
    "small": activations(9, 192) * 1e-3,
}
each_input = pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS.keys())


@each_input
@each_dtype
@pytest.mark.parametrize("out", [96, 5])
def test_the_result_is_the_papers(x, dtype, out):
    weight = int8.quantize(normal(out, 192) * 0.05)
    x = x.to(dtype)
    result, expected = int8.apply(x, weight), as_in_the_paper(x, weight)
    assert result.dtype == torch.float32
    assert (result - expected).abs().max() <= 1e-6 * max(expected.abs().max(), x.float().abs().max())


@pytest.mark.parametrize("name", ["no outliers", "some outliers", "one token", "one token, no outliers", "small"])
def test_the_result_is_near_bitsandbytes(name):
    x = INPUTS[name].half()  # it divides by the scale of a row of zeros, so rows of nothing but outliers are left out
    weight = normal(96, 192) * 0.05
    state = MatmulLtState()
    state.threshold, state.has_fp16_weights, state.is_training = int8.THRESHOLD, False, False
    theirs = MatMul8bitLt.apply(x, weight.half(), None, None, state).float()
    ours = int8.apply(x, int8.quantize(weight.half()))
    exact = x.float() @ weight.half().float().T
    assert (ours - theirs).norm() < 0.005 * exact.norm()
    assert (ours - exact).norm() < 1.05 * (theirs - exact).norm()


def test_outliers_leave_the_other_channels_their_precision():
    x, weight = activations(64, 256, 7, 100, 200), normal(128, 256) * 0.05
    x[:, [7, 100, 200]] *= 3
    held = int8.quantize(weight)
    exact = x @ int8.dequantize(held, torch.float32).T
    regular = exact - x[:, [7, 100, 200]] @ int8.dequantize(held, torch.float32)[:, [7, 100, 200]].T
    naive = int8.multiply(*(codes for codes in (int8._quantize_rows(x)[0], held.codes))).float()
    naive *= int8._quantize_rows(x)[1][:, None] * held.scales
    assert (int8.apply(x, held) - exact).norm() < 0.01 * regular.norm()
    assert (naive - exact).norm() > 0.5 * regular.norm()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@each_dtype
def test_what_is_not_finite_in_a_token_stays_in_that_token(value, dtype):
    weight = int8.quantize(normal(96, 192) * 0.05)
    x = activations(9, 192, 3).to(dtype)
    whole_result = int8.apply(x, weight)
    x[4, 11] = value
    result = int8.apply(x, weight)
    others = torch.arange(9) != 4
    assert not result[4].isfinite().any()
    assert (result[others] - whole_result[others]).norm() < 0.01 * whole_result[others].norm()


def test_a_neighbours_outliers_change_rounding_alone():
    weight = int8.quantize(normal(96, 192) * 0.05)
    x = activations(8, 192)
    beside = torch.cat([x, activations(8, 192, *range(0, 192, 3))])
    alone, together = int8.apply(x, weight), int8.apply(beside, weight)[:8]
    assert not torch.equal(alone, together)
    assert (alone - together).norm() < 0.01 * alone.norm()


# As a linear layer --------------------------------------------------------------------------------------------------------


@each_input
@each_dtype
def test_a_linear_layer_rounds_the_whole_sum_once(x, dtype):
    weight, bias = int8.quantize(normal(96, 192) * 0.05), normal(96).to(dtype)
    y = linear(x.to(dtype), weight, bias)
    assert torch.equal(y, (int8.apply(x.to(dtype), weight) + bias).to(dtype))


@each_input
def test_the_gradient_of_the_input_is_that_of_the_dequantised_weight(x):
    weight, upstream = int8.quantize(normal(96, 192) * 0.05), normal(len(x), 96)
    x, bias = x.clone().requires_grad_(), torch.zeros(96, requires_grad=True)
    linear(x, weight, bias).backward(upstream)
    torch.testing.assert_close(x.grad, upstream @ int8.dequantize(weight, torch.float32), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(bias.grad, upstream.sum(0))
