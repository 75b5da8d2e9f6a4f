"""LLM.int8(), Dettmers et al. 2022, arXiv 2208.07339: products of 8-bit whole numbers, but for columns with outliers.

Rows of the weight and rows of the activations are scaled by their largest magnitude to ±127 and rounded; their product is
a sum of whole numbers in int32, exact, and is scaled back once. Large transformers have a few channels of activations a
hundred times the rest: they would leave the others no more than a few steps of the scale. Columns of x that hold a
magnitude of 6 or more are therefore taken out and multiplied in the activations' own dtype with the dequantised weight.

A weight takes 8 bits, and 32 a row. Which columns are taken out is decided over all tokens of a call: a document packed
beside others, or a token decoded beside others, may find a column taken out for a neighbour's sake. That changes how the
column is rounded and nothing else.
"""

from dataclasses import dataclass

import torch

from hoidap.kernels.product import product

THRESHOLD = 6.0  # of magnitude, from which on a column is an outlier's (the paper, section 3.2)
_AT_ONCE = 2**24  # weights quantised at once, which takes a dozen bytes of each
_EXACT_COLUMNS = 1024  # 127² · 1,024 < 2²⁴: sums of so many products are whole numbers that float32 holds
_SMALLEST = 1e-35  # stands for a row of zeros; 127 divided by it is still a float32


@dataclass(frozen=True)
class Int8Weight:
    """A quantised matrix as plain tensors: row i stands for ``codes[i] · scales[i]``."""

    codes: torch.Tensor  # int8 [out, in], from -127 to 127
    scales: torch.Tensor  # float32 [out], one step of each row: its largest magnitude over 127

    @property
    def shape(self) -> tuple[int, int]:
        """Out, in."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.codes.device

    def rows(self, chosen: torch.Tensor | slice) -> "Int8Weight":
        """Return some of the rows."""
        return Int8Weight(self.codes[chosen], self.scales[chosen])


def quantize(weight: torch.Tensor) -> Int8Weight:
    """Quantise ``weight`` [out, in].

    Raises:
        ValueError: it is not a matrix.

    """
    if weight.dim() != 2 or not weight.numel():
        msg = f"int8 takes a matrix; got {tuple(weight.shape)}"
        raise ValueError(msg)
    found = [_quantize_rows(rows.float()) for rows in torch.split(weight, max(1, _AT_ONCE // weight.shape[1]))]
    return Int8Weight(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def dequantize(weight: Int8Weight, dtype: torch.dtype) -> torch.Tensor:
    """Return the matrix [out, in] that the codes stand for, computed in float32 and rounded once to ``dtype``."""
    return (weight.codes * weight.scales[:, None]).to(dtype)


def apply(x: torch.Tensor, weight: Int8Weight) -> torch.Tensor:
    """Return x Wᵀ, float32 [T, out], of activations ``x`` [T, in]; what is not finite in x is not finite in its row."""
    regular = (x.abs() < THRESHOLD).all(0)  # [in]; false for NaN
    codes, scales = _quantize_rows(x.float().where(regular, 0.0))
    y = multiply(codes, weight.codes).float().mul_(scales[:, None]).mul_(weight.scales)
    columns = (~regular).nonzero()[:, 0]
    if columns.numel():
        taken = Int8Weight(weight.codes[:, columns], weight.scales)
        y += product(x[:, columns], dequantize(taken, x.dtype).T)
    return y


def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a bᵀ, exact, of int8 matrices [M, K] and [N, K] within ±127: int32 [M, N]."""
    if a.device.type == "cuda":
        return _multiply_cuda(a, b)
    # Without these instructions PyTorch's int8 product is a slow loop, or oneDNN's, whose sums of two overflow 16 bits.
    if a.device.type == "cpu" and torch.cpu._is_vnni_supported():  # noqa: SLF001 - the public name is not in 2.11
        return torch._int_mm(a, b.T)  # noqa: SLF001 - PyTorch has no other name for it
    return multiply_reference(a, b)


def multiply_reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``multiply`` in plain PyTorch: float32, in slices whose sums it holds exactly."""
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.int32, device=a.device)
    for left, right in zip(torch.split(a, _EXACT_COLUMNS, 1), torch.split(b, _EXACT_COLUMNS, 1), strict=True):
        total += (left.float() @ right.float().T).int()
    return total


def _multiply_cuda(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pad to what cuBLAS takes: more than 16 rows, and multiples of 8."""
    rows, outs = a.shape[0], b.shape[0]
    columns = -a.shape[1] % 8
    a = torch.nn.functional.pad(a, (0, columns, 0, max(24 - rows, -rows % 8)))
    if columns or outs % 8:
        b = torch.nn.functional.pad(b, (0, columns, 0, -outs % 8))
    return torch._int_mm(a, b.T)[:rows, :outs]  # noqa: SLF001


def _quantize_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes, int8, of float32 rows, and one step of each, float32."""
    largest = rows.abs().amax(1)
    codes = (rows * (127 / largest.clamp(min=_SMALLEST))[:, None]).round().to(torch.int8)
    return codes, largest / 127
