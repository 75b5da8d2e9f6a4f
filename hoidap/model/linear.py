"""One linear operation for every kind of weight, with or without a low-rank update.

    y = x Wᵀ + b + s · (x Aᵀ) Bᵀ

W is a plain tensor (16 or 32 bits, trainable or frozen), a ``FourBitWeight`` or an ``Int8Weight``; A, B and s come from an
adapter.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import dropout
from torch.nn.functional import linear as dense

from hoidap.kernels import fourbit, int8
from hoidap.kernels.fourbit import FourBitWeight
from hoidap.kernels.int8 import Int8Weight
from hoidap.kernels.product import product

Quantized = FourBitWeight | Int8Weight
Weight = torch.Tensor | Quantized


@dataclass(frozen=True)
class LowRank:
    """An update of a matrix [out, in] of rank r: ``scale · B A``."""

    A: torch.Tensor  # [r, in]
    B: torch.Tensor  # [out, r]
    scale: float  # alpha / r
    dropout: float = 0.0  # share of its input set to zero, the rest scaled up: in training alone


def linear(
    x: torch.Tensor,
    weight: Weight,
    bias: torch.Tensor | None,
    delta: LowRank | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Apply the operation to ``x`` [T, in]; → [T, out] in ``out_dtype``: x's dtype, or float32.

    Float32 of 16-bit activations is never rounded to 16 bits on the way: products are of 16-bit factors, and are summed,
    scaled and returned in float32.

    Trainable tensors may be float32 beside 16-bit activations; they are rounded for the product, and their gradients
    are float32 again.
    """
    kind = out_dtype or x.dtype
    bias = None if bias is None else bias.to(kind)
    y: torch.Tensor
    if not isinstance(weight, torch.Tensor):
        y = _Frozen.apply(x, weight, bias, kind)  # type: ignore[no-untyped-call]
    elif kind == x.dtype:
        y = dense(x, weight.to(kind), bias)
    else:
        y = _Wide.apply(x, weight)  # type: ignore[no-untyped-call]
        y = y if bias is None else y + bias
    if delta is None:
        return y
    seen = dropout(x, delta.dropout) if delta.dropout else x
    low = dense(seen, delta.A.to(x.dtype))  # [T, r]
    if kind == x.dtype:
        return y + dense(low, delta.B.to(kind)) * delta.scale
    wide: torch.Tensor = _Wide.apply(low, delta.B)  # type: ignore[no-untyped-call]
    return y + wide * delta.scale


def dequantized(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """Return the matrix that a weight stands for."""
    if isinstance(weight, FourBitWeight):
        return fourbit.dequantize(weight, dtype)
    return int8.dequantize(weight, dtype) if isinstance(weight, Int8Weight) else weight.to(dtype)


class _Frozen(torch.autograd.Function):
    """x Wᵀ + b with W quantised and frozen: nothing is saved for the backward pass, which dequantises W again."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: Quantized, bias: torch.Tensor | None, out_dtype: torch.dtype
    ) -> torch.Tensor:
        ctx.weight, ctx.dtype = weight, x.dtype
        if isinstance(weight, FourBitWeight) and out_dtype == x.dtype:
            return dense(x, fourbit.dequantize(weight, x.dtype), bias)
        y = int8.apply(x, weight) if isinstance(weight, Int8Weight) else product(x, fourbit.dequantize(weight, x.dtype).T)
        return (y if bias is None else y + bias).to(out_dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor | None, None]:
        (grad,) = grads  # [T, out]
        grad_x = grad.to(ctx.dtype) @ dequantized(ctx.weight, ctx.dtype) if ctx.needs_input_grad[0] else None
        grad_bias = grad.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_bias, None


class _Wide(torch.autograd.Function):
    """x Wᵀ in float32 of 16-bit activations and a plain weight, which may be trainable and float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.dtype = x.dtype
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return product(x, weight.to(x.dtype).T)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].to(ctx.dtype)  # [T, out]
        grad_x = grad @ weight.to(ctx.dtype) if ctx.needs_input_grad[0] else None
        grad_weight = product(grad.T, x).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight
