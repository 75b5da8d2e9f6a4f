"""NF4 and FP4 equal bitsandbytes': codes, packing, scales plain and double-quantised, and the values they stand for.

bitsandbytes has two versions of double quantisation, the 8-bit quantisation of the absmax values. Its plain PyTorch one
rounds to the nearest level, as its CUDA kernel does, and is equalled to the bit. Its C one, which its public functions take
on a CPU, looks up a table of 2¹⁶ equal steps over [-1, 1]: within a step of a midpoint it may take the level on the other
side. FP4 has two codes for 0; which one a small weight gets differs between its PyTorch version, equalled here, and its
CUDA one, and means nothing.
"""

import bitsandbytes.functional as bnb
import pytest
import torch
from tiny import tiny_config, tiny_model, tiny_tensors
from torch._C import DispatchKey, DispatchKeySet

from hoidap.kernels import fourbit
from hoidap.kernels.fourbit import CodedAbsmax, FourBitWeight
from hoidap.model.checkpoint import quantization_error

TABLE_STEP = 2 / 2**16


def normal(*shape: int, scale: float = 0.02) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * scale


def outliers() -> torch.Tensor:
    weight = normal(70, 256)
    weight[::9, ::50] *= 100
    return weight


def at_midpoints(kind: fourbit.Kind) -> torch.Tensor:
    """Return blocks of values where two levels meet, and one float32 to either side: rounding in another order shows."""
    levels = torch.tensor(fourbit.LEVELS[kind]).sort().values
    middle = (levels[:-1] + levels[1:]) / 2
    ends = torch.tensor([-1.0, 1.0])
    block = torch.cat([middle, *(middle.nextafter(end.expand(15)) for end in ends), ends, torch.zeros(17)])
    return block * normal(200, 1).abs()


MATRICES = {
    "256 scales, exactly one block": normal(64, 256),
    "257 scales, one over": normal(257, 64),
    "a long tail block": normal(300, 512),
    "rows shorter than a block": normal(96, 32),
    "rows that no block divides": normal(64, 37),
    "one block alone": normal(1, 64),
    "one row": normal(1, 64 * 7),
    "tiny values": normal(70, 256, scale=1e-30),
    "half the rows zero": normal(70, 256) * (torch.arange(70) % 2)[:, None],
    "all zero": torch.zeros(20, 64),
    "all equal": torch.full((20, 64), -0.25),
    "outliers": outliers(),
    "at the midpoints of NF4": at_midpoints("nf4"),
    "at the midpoints of FP4": at_midpoints("fp4"),
    "uniform": torch.rand(300, 256, generator=torch.Generator().manual_seed(1)) - 0.5,
}
EVEN = ("one block alone", "all zero", "all equal")  # all blocks share one absmax: its remainder and the scales are 0
UNEVEN = [name for name in MATRICES if name not in EVEN]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
each_matrix = pytest.mark.parametrize("weight", MATRICES.values(), ids=MATRICES.keys())
each_uneven_matrix = pytest.mark.parametrize("weight", [MATRICES[name] for name in UNEVEN], ids=UNEVEN)
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
# The tiny values are all zero in float16, and their absmax even.
each_wide_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
each_kind = pytest.mark.parametrize("kind", ["nf4", "fp4"])
single_or_double = pytest.mark.parametrize("double_quant", [False, True], ids=["single", "double"])


def theirs(
    weight: torch.Tensor, kind: fourbit.Kind = "nf4", *, double_quant: bool = True
) -> tuple[torch.Tensor, bnb.QuantState]:
    return bnb.quantize_4bit(weight, quant_type=kind, compress_statistics=double_quant, blocksize=64)


def from_theirs(packed: torch.Tensor, state: bnb.QuantState, shape: torch.Size) -> FourBitWeight:
    """Return bitsandbytes' tensors as hoidap holds them."""
    nested = state.state2
    absmax = state.absmax if nested is None else CodedAbsmax(state.absmax, nested.absmax, nested.code, state.offset)
    return FourBitWeight(packed.flatten(), state.code, absmax, (shape[0], shape[1]))


def their_absmax(weight: torch.Tensor) -> torch.Tensor:
    """Return the absmax values less their mean: what the second step quantises."""
    absmax = theirs(weight, double_quant=False)[1].absmax
    return absmax - absmax.mean()


def quantize_absmax_in_python(absmax: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes and scales of bitsandbytes' PyTorch version, which its C version hides on a CPU."""
    plain = DispatchKeySet(DispatchKey.CompositeExplicitAutograd)
    quantize = torch.ops.bitsandbytes.quantize_blockwise.default
    return quantize.redispatch(plain, absmax, bnb.create_dynamic_map(), 256)


@each_kind
def test_the_levels_and_their_order_equal_bitsandbytes(kind):
    assert torch.equal(torch.tensor(fourbit.LEVELS[kind]), bnb.get_4bit_type(kind, device="cpu"))


@each_matrix
@each_dtype
@each_kind
def test_codes_and_their_packing_equal_bitsandbytes(weight, dtype, kind):
    packed, state = theirs(weight.to(dtype), kind)
    ours = fourbit.quantize(weight.to(dtype), kind)
    assert torch.equal(ours.codes, packed.flatten())
    assert torch.equal(ours.levels, state.code)


@each_matrix
@each_dtype
@each_kind
def test_plain_absmax_values_equal_bitsandbytes(weight, dtype, kind):
    packed, state = theirs(weight.to(dtype), kind, double_quant=False)
    ours = fourbit.quantize(weight.to(dtype), kind, double_quant=False)
    assert torch.equal(ours.absmax, state.absmax)
    assert torch.equal(ours.codes, packed.flatten())


@each_matrix
@each_dtype
def test_scales_and_mean_of_the_absmax_equal_bitsandbytes(weight, dtype):
    _, state = theirs(weight.to(dtype))
    absmax = fourbit.quantize(weight.to(dtype)).absmax
    assert torch.equal(absmax.scales, state.state2.absmax)
    assert torch.equal(absmax.mean, state.offset)
    assert torch.equal(absmax.levels, state.state2.code)


@each_uneven_matrix
@each_wide_dtype
def test_absmax_codes_equal_bitsandbytes_in_python(weight, dtype):
    codes, _ = quantize_absmax_in_python(their_absmax(weight.to(dtype)))
    assert torch.equal(fourbit.quantize(weight.to(dtype)).absmax.codes, codes)


@each_uneven_matrix
@each_wide_dtype
def test_absmax_codes_equal_bitsandbytes_in_c_but_beside_midpoints(weight, dtype):
    _, state = theirs(weight.to(dtype))
    ours = fourbit.quantize(weight.to(dtype)).absmax
    scaled = their_absmax(weight.to(dtype)) / ours.scales.repeat_interleave(256)[: len(ours.codes)]
    levels = ours.levels
    beside = (scaled[:, None] - (levels[1:] + levels[:-1]) / 2).abs().amin(1) <= TABLE_STEP
    differ = ours.codes != state.absmax
    assert not (differ & ~beside).any()
    # Where they differ neither is wrong by more than the table: hoidap's level is the nearer one.
    our_error, their_error = ((scaled - levels[codes.int()]).abs() for codes in (ours.codes, state.absmax))
    assert (our_error <= their_error + 1e-7).all()
    assert (their_error <= our_error + 2 * TABLE_STEP).all()


@each_matrix
@each_dtype
@each_kind
@single_or_double
def test_the_same_codes_stand_for_the_same_values_as_in_bitsandbytes(weight, dtype, kind, double_quant):
    packed, state = theirs(weight, kind, double_quant=double_quant)
    # Their C version misreads blocks that cross rows, as its CUDA version does not: give it rows of one block.
    state.shape, state.dtype = torch.Size((weight.numel() // 64, 64)), dtype
    ours = from_theirs(packed, state, weight.shape)
    expected = bnb.dequantize_4bit(packed, state).reshape(weight.shape)
    result = fourbit.dequantize(ours, dtype)
    assert result.dtype == dtype
    assert torch.equal(result, expected)


@each_matrix
@each_dtype
@each_kind
@single_or_double
def test_quantising_and_back_equals_bitsandbytes_wherever_the_absmax_codes_agree(weight, dtype, kind, double_quant):
    packed, state = theirs(weight.to(dtype), kind, double_quant=double_quant)
    ours = fourbit.quantize(weight.to(dtype), kind, double_quant=double_quant)
    agree = torch.ones(weight.numel() // 64, dtype=torch.bool)
    if double_quant:
        agree = (ours.absmax.codes == state.absmax) | (ours.absmax.scales.max() == 0)
        assert agree.float().mean() > 0.98
    state.shape, state.dtype = torch.Size((weight.numel() // 64, 64)), torch.float32
    expected = bnb.dequantize_4bit(packed, state)
    result = fourbit.dequantize(ours, torch.float32).reshape(-1, 64)
    assert torch.equal(result[agree], expected[agree])


@each_kind
def test_the_first_weight_of_a_pair_is_in_the_high_four_bits(kind):
    weight = fourbit.quantize(torch.tensor([fourbit.LEVELS[kind] * 4]), kind)
    codes = weight.codes.tolist()
    expected = [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]
    if kind == "fp4":
        expected[4] = 0x09  # 8 is the other zero
    assert codes == expected * 4


def test_the_dynamic_map_equals_bitsandbytes():
    assert torch.equal(fourbit.dynamic_map(), bnb.create_dynamic_map())


@each_matrix
@each_kind
@single_or_double
def test_a_lower_precision_is_the_float32_value_rounded_once(weight, kind, double_quant):
    quantised = fourbit.quantize(weight, kind, double_quant=double_quant)
    exact = fourbit.dequantize(quantised, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(fourbit.dequantize(quantised, dtype), exact.to(dtype))


@pytest.mark.parametrize(("double_quant", "bits"), [(True, 4.127), (False, 4.5)])
@each_kind
def test_a_weight_takes_4_127_bits_or_without_double_quantisation_4_5(kind, double_quant, bits):
    weight = fourbit.quantize(normal(1024, 512), kind, double_quant=double_quant)
    assert weight.n_bytes * 8 / (1024 * 512) == pytest.approx(bits, abs=1e-3)
    assert weight.codes.dtype == torch.uint8
    assert (weight.absmax.codes.dtype if double_quant else weight.absmax.dtype) in (torch.uint8, torch.float32)


@pytest.mark.parametrize("shape", [(3, 5), (1, 63), (64,), (2, 64, 64)], ids=str)
@each_kind
def test_what_is_not_a_matrix_of_whole_blocks_is_refused_by_its_shape(shape, kind):
    with pytest.raises(ValueError, match=f"{kind} takes a matrix whose size is a multiple of 64") as caught:
        fourbit.quantize(torch.zeros(shape), kind)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "double_quant", "least", "most"),
    [("nf4", True, 0.08, 0.105), ("nf4", False, 0.08, 0.105), ("fp4", True, 0.1, 0.13), ("fp4", False, 0.1, 0.13)],
)
def test_the_error_of_normal_matrices_is_about_nine_per_cent_and_with_fp4_twelve(kind, double_quant, least, most):
    config = tiny_config(d_model=192)
    held = tiny_model(config, 0, quantize=kind, double_quant=double_quant).weights
    errors = [quantization_error(tensor, held[name]) for name, tensor in tiny_tensors(config, 0)]
    stated = [error for error in errors if error is not None]
    assert len(stated) == 4 * config.n_layers
    assert all(least < error < most for error in stated), stated


def test_a_model_in_full_precision_has_no_quantisation_error_to_report():
    config = tiny_config()
    held = tiny_model(config, 0).weights
    assert all(quantization_error(tensor, held[name]) is None for name, tensor in tiny_tensors(config, 0))
