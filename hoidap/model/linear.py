"""One linear operation for every kind of weight, with or without a low-rank update.

    y = x Wᵀ + b + s · (x Aᵀ) Bᵀ

W is a plain tensor (16 or 32 bits, trainable or frozen) or an ``NF4Weight``; A, B and s come from an adapter.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear as dense

from hoidap.kernels import nf4
from hoidap.kernels.nf4 import NF4Weight

Weight = torch.Tensor | NF4Weight


@dataclass(frozen=True)
class LowRank:
    """An update of a matrix [out, in] of rank r: ``scale · B A``."""

    A: torch.Tensor  # [r, in]
    B: torch.Tensor  # [out, r]
    scale: float  # alpha / r


def linear(x: torch.Tensor, weight: Weight, bias: torch.Tensor | None, delta: LowRank | None = None) -> torch.Tensor:
    """Apply the operation to ``x`` [T, in]; → [T, out] in x's dtype.

    Trainable tensors may be float32 beside 16-bit activations; they are rounded for the product, and their gradients
    are float32 again.
    """
    if isinstance(weight, NF4Weight):
        y = _FrozenNF4.apply(x, weight, None if bias is None else bias.to(x.dtype))  # type: ignore[no-untyped-call]
    else:
        y = dense(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    if delta is not None:
        low = dense(x, delta.A.to(x.dtype))  # [T, r]
        y = y + dense(low, delta.B.to(x.dtype)) * delta.scale
    result: torch.Tensor = y
    return result


def dequantized(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """Return the matrix that a weight stands for."""
    return nf4.dequantize(weight, dtype) if isinstance(weight, NF4Weight) else weight.to(dtype)


class _FrozenNF4(torch.autograd.Function):
    """x Wᵀ + b with W in NF4: nothing is saved for the backward pass, which dequantises W again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: NF4Weight, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.weight = weight
        return dense(x, nf4.dequantize(weight, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor | None]:
        (grad,) = grads  # [T, out]
        grad_x = grad @ nf4.dequantize(ctx.weight, grad.dtype) if ctx.needs_input_grad[0] else None
        grad_bias = grad.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_bias
