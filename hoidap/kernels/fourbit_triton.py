"""The fast version of ``fourbit.dequantize``: one launch, codes read once, weight written once.

Floor on an H200 (4.3 TB/s): 0.516 bytes read and 2 written a weight, 39 µs for a 16384 × 4096 matrix; measured by
``triton.testing.do_bench``, 78 µs.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from hoidap.kernels import fourbit

_BYTES_A_PROGRAM = 1024  # 2,048 weights, 32 blocks of 64
_WARPS = 4


@triton.jit  # type: ignore[untyped-decorator]
def _dequantize(  # type: ignore[no-untyped-def]  # noqa: ANN202 - Triton reads these annotations itself
    codes,  # noqa: ANN001
    levels,  # noqa: ANN001
    absmax,  # noqa: ANN001 - float32, or codes if CODED
    absmax_scales,  # noqa: ANN001
    absmax_levels,  # noqa: ANN001
    absmax_mean,  # noqa: ANN001
    out,  # noqa: ANN001
    n_bytes,  # noqa: ANN001
    CODED: tl.constexpr,
    BYTES: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    inside = at < n_bytes
    pair = tl.load(codes + at, mask=inside, other=0).to(tl.int32)
    block = at // 32  # 32 bytes are 64 weights
    largest = tl.load(absmax + block, mask=inside, other=0)
    if CODED:
        step = tl.load(absmax_levels + largest.to(tl.int32))
        scale = tl.load(absmax_scales + block // 256, mask=inside, other=0.0)
        # Without contraction to one fused multiply-add the result equals the reference to the bit.
        product = step * scale
        largest = product + tl.load(absmax_mean)
    high = tl.load(levels + (pair >> 4)) * largest
    low = tl.load(levels + (pair & 15)) * largest
    both = tl.interleave(high, low)
    where = tl.program_id(0).to(tl.int64) * (2 * BYTES) + tl.arange(0, 2 * BYTES)
    tl.store(out + where, both.to(out.dtype.element_ty), mask=where < 2 * n_bytes)


def dequantize(weight: fourbit.FourBitWeight, out: torch.Tensor) -> None:
    """Write the dequantised weight into ``out`` [out, in], contiguous."""
    absmax = weight.absmax
    if isinstance(absmax, fourbit.CodedAbsmax):
        parts = (absmax.codes, absmax.scales, absmax.levels, absmax.mean)
    else:
        parts = (absmax, absmax, absmax, absmax)  # the last three are not read
    n_bytes = weight.codes.numel()
    grid = (triton.cdiv(n_bytes, _BYTES_A_PROGRAM),)
    launch: Any = _dequantize[grid]
    launch(
        weight.codes, weight.levels, *parts, out, n_bytes,
        CODED=isinstance(absmax, fourbit.CodedAbsmax), BYTES=_BYTES_A_PROGRAM, num_warps=_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
