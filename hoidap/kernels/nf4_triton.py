"""The fast version of ``nf4.dequantize``: one launch, codes read once, weight written once.

Floor on an H200 (4.3 TB/s): 0.516 bytes read and 2 written a weight, 39 µs for a 16384 × 4096 matrix; measured by
``triton.testing.do_bench``, 78 µs.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from hoidap.kernels import nf4

_BYTES_A_PROGRAM = 1024  # 2,048 weights, 32 blocks of 64


@triton.jit  # type: ignore[untyped-decorator]
def _dequantize(  # type: ignore[no-untyped-def]  # noqa: ANN202 - Triton reads these annotations itself
    codes,  # noqa: ANN001
    absmax_codes,  # noqa: ANN001
    absmax_scales,  # noqa: ANN001
    absmax_levels,  # noqa: ANN001
    absmax_mean,  # noqa: ANN001
    levels,  # noqa: ANN001
    out,  # noqa: ANN001
    n_bytes,  # noqa: ANN001
    BYTES: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    inside = at < n_bytes
    pair = tl.load(codes + at, mask=inside, other=0).to(tl.int32)
    block = at // 32  # 32 bytes are 64 weights
    step = tl.load(absmax_levels + tl.load(absmax_codes + block, mask=inside, other=0).to(tl.int32))
    scale = tl.load(absmax_scales + block // 256, mask=inside, other=0.0)
    # Without contraction to one fused multiply-add the result equals the reference to the bit.
    product = step * scale
    absmax = product + tl.load(absmax_mean)
    high = tl.load(levels + (pair >> 4)) * absmax
    low = tl.load(levels + (pair & 15)) * absmax
    both = tl.interleave(high, low)
    where = tl.program_id(0).to(tl.int64) * (2 * BYTES) + tl.arange(0, 2 * BYTES)
    tl.store(out + where, both.to(out.dtype.element_ty), mask=where < 2 * n_bytes)


def dequantize(weight: nf4.NF4Weight, levels: torch.Tensor, out: torch.Tensor) -> None:
    """Write the dequantised weight into ``out`` [out, in], contiguous."""
    n_bytes = weight.codes.numel()
    grid = (triton.cdiv(n_bytes, _BYTES_A_PROGRAM),)
    launch: Any = _dequantize[grid]
    launch(
        weight.codes, weight.absmax_codes, weight.absmax_scales, weight.absmax_levels, weight.absmax_mean, levels, out,
        n_bytes, BYTES=_BYTES_A_PROGRAM, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
