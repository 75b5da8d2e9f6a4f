"""NF4 equals bitsandbytes': codes, packing, double-quantised scales and the values they stand for.

bitsandbytes has two versions of the second step, the 8-bit quantisation of the absmax values. Its plain PyTorch one rounds
to the nearest level, as its CUDA kernel does, and is equalled to the bit. Its C one, which its public functions take on a
CPU, looks up a table of 2¹⁶ equal steps over [-1, 1]: within a step of a midpoint it may take the level on the other side.
"""

import bitsandbytes.functional as bnb
import pytest
import torch
from tiny import tiny_config, tiny_model, tiny_tensors
from torch._C import DispatchKey, DispatchKeySet

from hoidap.kernels import nf4
from hoidap.kernels.nf4 import NF4Weight
from hoidap.model.checkpoint import quantization_error

TABLE_STEP = 2 / 2**16


def normal(*shape: int, scale: float = 0.02) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * scale


def outliers() -> torch.Tensor:
    weight = normal(70, 256)
    weight[::9, ::50] *= 100
    return weight


def at_midpoints() -> torch.Tensor:
    """Return blocks of values where two levels meet, and one float32 to either side: rounding in another order shows."""
    levels = torch.tensor(nf4.LEVELS)
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
    "at the midpoints": at_midpoints(),
    "uniform": torch.rand(300, 256, generator=torch.Generator().manual_seed(1)) - 0.5,
}
EVEN = ("one block alone", "all zero", "all equal")  # all blocks share one absmax: its remainder and the scales are 0
UNEVEN = [name for name in MATRICES if name not in EVEN]
each_matrix = pytest.mark.parametrize("weight", MATRICES.values(), ids=MATRICES.keys())
each_uneven_matrix = pytest.mark.parametrize("weight", [MATRICES[name] for name in UNEVEN], ids=UNEVEN)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def theirs(weight: torch.Tensor) -> tuple[torch.Tensor, bnb.QuantState]:
    return bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True, blocksize=64)


def their_absmax(weight: torch.Tensor) -> torch.Tensor:
    """Return the absmax values less their mean: what the second step quantises."""
    absmax = bnb.quantize_4bit(weight, quant_type="nf4", blocksize=64)[1].absmax
    return absmax - absmax.mean()


def quantize_absmax_in_python(absmax: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes and scales of bitsandbytes' PyTorch version, which its C version hides on a CPU."""
    plain = DispatchKeySet(DispatchKey.CompositeExplicitAutograd)
    quantize = torch.ops.bitsandbytes.quantize_blockwise.default
    return quantize.redispatch(plain, absmax, bnb.create_dynamic_map(), 256)


@each_matrix
@each_dtype
def test_codes_and_their_packing_equal_bitsandbytes(weight, dtype):
    packed, _ = theirs(weight.to(dtype))
    assert torch.equal(nf4.quantize(weight.to(dtype)).codes, packed.flatten())


@each_matrix
@each_dtype
def test_scales_and_mean_of_the_absmax_equal_bitsandbytes(weight, dtype):
    _, state = theirs(weight.to(dtype))
    ours = nf4.quantize(weight.to(dtype))
    assert torch.equal(ours.absmax_scales, state.state2.absmax)
    assert torch.equal(ours.absmax_mean, state.offset)
    assert torch.equal(ours.absmax_levels, state.state2.code)


@each_uneven_matrix
@each_dtype
def test_absmax_codes_equal_bitsandbytes_in_python(weight, dtype):
    codes, _ = quantize_absmax_in_python(their_absmax(weight.to(dtype)))
    assert torch.equal(nf4.quantize(weight.to(dtype)).absmax_codes, codes)


@each_uneven_matrix
@each_dtype
def test_absmax_codes_equal_bitsandbytes_in_c_but_beside_midpoints(weight, dtype):
    _, state = theirs(weight.to(dtype))
    ours = nf4.quantize(weight.to(dtype))
    scales = ours.absmax_scales.repeat_interleave(256)[: len(ours.absmax_codes)]
    scaled = their_absmax(weight.to(dtype)) / scales
    levels = ours.absmax_levels
    beside = (scaled[:, None] - (levels[1:] + levels[:-1]) / 2).abs().amin(1) <= TABLE_STEP
    differ = ours.absmax_codes != state.absmax
    assert not (differ & ~beside).any()
    # Where they differ neither is wrong by more than the table: hoidap's level is the nearer one.
    our_error, their_error = ((scaled - levels[codes.int()]).abs() for codes in (ours.absmax_codes, state.absmax))
    assert (our_error <= their_error + 1e-7).all()
    assert (their_error <= our_error + 2 * TABLE_STEP).all()


@each_matrix
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def test_the_same_codes_stand_for_the_same_values_as_in_bitsandbytes(weight, dtype):
    packed, state = theirs(weight)
    # Their C version misreads blocks that cross rows, as its CUDA version does not: give it rows of one block.
    state.shape, state.dtype = torch.Size((weight.numel() // 64, 64)), dtype
    ours = NF4Weight(
        packed.flatten(),
        state.absmax,
        state.state2.absmax,
        state.state2.code,
        state.offset,
        (weight.shape[0], weight.shape[1]),
    )
    expected = bnb.dequantize_4bit(packed, state).reshape(weight.shape)
    result = nf4.dequantize(ours, dtype)
    assert result.dtype == dtype
    assert torch.equal(result, expected)


@each_matrix
@each_dtype
def test_quantising_and_back_equals_bitsandbytes_wherever_the_absmax_codes_agree(weight, dtype):
    packed, state = theirs(weight.to(dtype))
    ours = nf4.quantize(weight.to(dtype))
    agree = (ours.absmax_codes == state.absmax) | (ours.absmax_scales.max() == 0)
    assert agree.float().mean() > 0.99
    state.shape, state.dtype = torch.Size((weight.numel() // 64, 64)), torch.float32
    expected = bnb.dequantize_4bit(packed, state)
    result = nf4.dequantize(ours, torch.float32).reshape(-1, 64)
    assert torch.equal(result[agree], expected[agree])


def test_the_first_weight_of_a_pair_is_in_the_high_four_bits():
    weight = nf4.quantize(torch.tensor([nf4.LEVELS * 4]))
    assert weight.codes.tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF] * 4


def test_the_dynamic_map_equals_bitsandbytes():
    assert torch.equal(nf4.dynamic_map(), bnb.create_dynamic_map())


@each_matrix
def test_a_lower_precision_is_the_float32_value_rounded_once(weight):
    quantised = nf4.quantize(weight)
    exact = nf4.dequantize(quantised, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(nf4.dequantize(quantised, dtype), exact.to(dtype))


def test_a_weight_takes_4_127_bits():
    weight = nf4.quantize(normal(1024, 512))
    assert weight.n_bytes * 8 / (1024 * 512) == pytest.approx(4.127, abs=1e-3)
    assert weight.codes.dtype == weight.absmax_codes.dtype == torch.uint8


@pytest.mark.parametrize("shape", [(3, 5), (1, 63), (64,), (2, 64, 64)], ids=str)
def test_what_is_not_a_matrix_of_whole_blocks_is_refused_by_its_shape(shape):
    with pytest.raises(ValueError, match="multiple of 64") as caught:
        nf4.quantize(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_the_error_of_normal_matrices_is_about_nine_per_cent():
    config = tiny_config(d_model=192)
    held = tiny_model(config, 0, quantize=True).weights
    errors = [quantization_error(tensor, held[name]) for name, tensor in tiny_tensors(config, 0)]
    stated = [error for error in errors if error is not None]
    assert len(stated) == 4 * config.n_layers
    assert all(0.08 < error < 0.105 for error in stated), stated


def test_a_model_in_full_precision_has_no_quantisation_error_to_report():
    config = tiny_config()
    held = tiny_model(config, 0).weights
    assert all(quantization_error(tensor, held[name]) is None for name, tensor in tiny_tensors(config, 0))
