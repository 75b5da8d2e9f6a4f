"""The product of two 16-bit matrices, summed and returned in float32.

A product of float16 matrices is summed in float32 and then rounded, and what is above 65,504 becomes infinite in that
rounding; this one leaves it out. On a GPU it costs the same multiplications and a wider result.
"""

import torch


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a b, float32 [M, N], of ``a`` [M, K] and ``b`` [K, N] of one dtype; no gradient flows through it."""
    if a.device.type == "cuda" and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return product_reference(a, b)


def product_reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``product`` in plain PyTorch: two 16-bit factors have an exact float32 product."""
    return a.float() @ b.float()
