"""A frozen matrix with its adapter and bias at its borders, so that one product makes all of y = x Wᵀ + b + s · (x Aᵀ) Bᵀ.

    W⁺ = [ W   s·B   b   0 ]      rows out + spare
         [ A    0    0   0 ]      columns in + spare

    forward     y  = [x, x Aᵀ, 1] · [W, s·B, b]ᵀ
    backward    dx = [dy, dy s·B] · [W; A]

A product whose operand is a sixty-fourth wider costs less than a pass over its result to add the low-rank term, and the sum
is made in the product's float32. W is decoded into the middle of the buffer, which is thrown away after each use.
"""

import torch

from hoidap.kernels import fourbit
from hoidap.kernels.fourbit import FourBitWeight

_ALIGNMENT = 64  # of the columns to spare: rows then begin at a cache line, which is a twentieth of a product's time


def spare(rank: int) -> int:
    """Return how many columns stand to spare at a row's right: ``rank``, one for the bias, and what alignment wants."""
    return -(-(rank + 1) // _ALIGNMENT) * _ALIGNMENT


def bordered(
    weight: torch.Tensor | FourBitWeight,
    A: torch.Tensor,
    B: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return W⁺ [out + spare, in + spare] in ``dtype``; what stands right of A is not written.

    Args:
        weight: W [out, in], frozen.
        A: [r, in], float32.
        B: [out, r], float32.
        scale: s.
        bias: b [out].
        dtype: of the product.

    """
    (outs, ins), rank = weight.shape, A.shape[0]
    result = torch.empty(outs + spare(rank), ins + spare(rank), dtype=dtype, device=A.device)
    if A.device.type == "cuda":
        from hoidap.kernels import fourbit_triton

        if isinstance(weight, FourBitWeight):
            fourbit_triton.bordered(weight, result, A, B, scale, bias)
        else:
            result[:outs, :ins] = weight
            fourbit_triton.border(result, A, B, scale, bias)
        return result
    result[:outs, :ins] = fourbit.dequantize(weight, dtype) if isinstance(weight, FourBitWeight) else weight
    border_reference(result, A, B, scale, bias)
    return result


def border_reference(
    result: torch.Tensor, A: torch.Tensor, B: torch.Tensor, scale: float, bias: torch.Tensor | None
) -> None:
    """Write everything but W."""
    (rank, ins), outs = A.shape, B.shape[0]
    result[:outs, ins:] = 0
    result[:outs, ins : ins + rank] = B * scale
    if bias is not None:
        result[:outs, ins + rank] = bias
    result[outs : outs + rank, :ins] = A
