"""Products of a few tokens with a quantised matrix, y = x Wᵀ + b + s · (x Aᵀ) Bᵀ, and what generating does with y.

Of up to 64 tokens reading W is the work, not multiplying: the codes are read once and decoded in registers
(``few_direct.cu``, ``few_staged.cu``).

W's 16 levels are rounded to the activations' dtype there and scaled in float32, while ``fourbit.dequantize`` scales first
and rounds each weight. In bfloat16 the levels are multiplied by a number for which they round well: NF4's are then within
0.09 % of themselves (root mean square), a weight rounded by itself within 0.17 %; in float16 within 0.02 %.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch.nn.functional import gelu, pad

from hoidap.kernels import fourbit, int8
from hoidap.kernels.few_tiling import MOST_SUMS
from hoidap.kernels.fourbit import LEVELS, FourBitWeight
from hoidap.kernels.int8 import Int8Weight

MOST_TOKENS = 64
RANK_STEP = 32  # a low rank is filled up with zeros to a multiple of this
_MOST_TILES = 2**16  # of a matrix; an output layer of 250,880 has 15,680 of 16 rows
_MOST_WRONG = 0.01  # of a product's norm, beside one in float32; bfloat16 is 0.002 away
PARTS = 4  # in which an adapter's first product is made

Then = Literal["store", "gelu", "add"]  # what is done with y: kept, kept as GELU(y), added to what is there


@dataclass(frozen=True)
class Operand:
    """A matrix made ready: W and b as they are, A and B in 16 bits."""

    weight: FourBitWeight | Int8Weight
    bias: torch.Tensor | None  # [out]
    pairs: torch.Tensor | None  # int32 [256], of four bits: each byte's two levels in 16 bits
    unscale: float  # what those are to be multiplied by
    A: torch.Tensor | None = None  # [r, in], r a multiple of 32
    B: torch.Tensor | None = None  # [out, r]
    scale: float = 0.0

    @classmethod
    def of(cls, weight: FourBitWeight | Int8Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> "Operand":
        """Make a matrix ready for activations of ``dtype``."""
        bias = None if bias is None else bias.to(dtype)
        if isinstance(weight, Int8Weight) or dtype == torch.float32:  # the latter has no kernel
            return cls(weight, bias, None, 1.0)
        bits, unscale = levels_16(tuple(weight.levels.tolist()), dtype)
        words = [bits[byte >> 4] | bits[byte & 15] << 16 for byte in range(256)]
        return cls(weight, bias, torch.tensor(words).to(torch.int32).to(weight.device), unscale)

    def with_adapter(self, A: torch.Tensor, B: torch.Tensor, scale: float, dtype: torch.dtype) -> "Operand":
        """Return this matrix with a low-rank update: ``A`` [r, in] and ``B`` [out, r], of any r and dtype; copies."""
        spare = -A.shape[0] % RANK_STEP
        wide, tall = pad(A.detach(), (0, 0, 0, spare)), pad(B.detach(), (0, spare))
        return replace(self, A=wide.to(dtype).contiguous(), B=tall.to(dtype).contiguous(), scale=scale)


@dataclass(frozen=True)
class Cells:
    """Where one layer's new keys and values go: token n's to ``positions[n]`` of ``rows[n]``."""

    keys: torch.Tensor  # [rows, H, tokens, d]
    values: torch.Tensor
    rows: torch.Tensor  # int32 [N]
    positions: torch.Tensor  # int32 [N]
    settled: torch.Tensor  # int32 [N]: tokens that its row held before this step


@dataclass(frozen=True)
class Scratch:
    """What launches that follow each other share."""

    counters: torch.Tensor  # int32 [2 + tiles], zero between launches
    low: torch.Tensor  # float32 [parts · N · r]
    sums: torch.Tensor  # float32, of tiles that programs share

    @classmethod
    def of(cls, device: torch.device, rank: int) -> "Scratch":
        """Make room for ``MOST_TOKENS`` tokens and adapters up to ``rank``."""
        low = PARTS * MOST_TOKENS * (rank + -rank % RANK_STEP)
        programs = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0
        counters = torch.zeros(2 + _MOST_TILES, dtype=torch.int32, device=device)
        return cls(counters, torch.empty(max(1, low), device=device), torch.empty(2 * programs * MOST_SUMS, device=device))


def most_tokens(weight: torch.Tensor | FourBitWeight | Int8Weight, dtype: torch.dtype, rank: int = 0) -> int:
    """Return for how many tokens there is a kernel, for a matrix, activations of ``dtype`` and an adapter; 0 for none."""
    if not isinstance(weight, FourBitWeight | Int8Weight) or weight.shape[1] % fourbit.BLOCK:
        return 0
    if weight.device.type != "cuda":
        return MOST_TOKENS
    least = {torch.float16: 75, torch.bfloat16: 80}.get(dtype)
    major, minor = torch.cuda.get_device_capability(weight.device)
    if least is None or 10 * major + minor < least or not _has_bindings():
        return 0
    from hoidap.kernels import few_cuda

    return few_cuda.most_tokens(weight, rank + -rank % RANK_STEP)


def check(operand: Operand, dtype: torch.dtype, scratch: Scratch) -> None:
    """Compile what one token and many take, and compare their products with arithmetic that needs no kernel.

    Raises:
        RuntimeError: the kernels do not compile, or are wrong on this GPU.

    """
    outs, ins = operand.weight.shape
    for count in (1, most_tokens(operand.weight, dtype, 0 if operand.A is None else len(operand.A))):
        x = torch.randn(count, ins, device=operand.weight.device).to(dtype)
        out = torch.empty(count, outs, device=x.device)
        product(x, operand, out, scratch)
        wanted = _reference(x, operand)
        if not float((out - wanted).norm()) < _MOST_WRONG * float(wanted.norm()):
            msg = f"the product of {count} tokens with {outs} × {ins} is wrong on this GPU"
            raise RuntimeError(msg)


def product(x: torch.Tensor, operand: Operand, out: torch.Tensor, scratch: Scratch, then: Then = "store") -> None:
    """Write y, or what is made of it, into ``out`` [N, out], in its dtype: x's or float32.

    Args:
        x: [N, in] of 16 bits, contiguous, N from 1 to 64.
        operand: the matrix.
        out: for "add" what y is added to.
        scratch: of this stream of launches.
        then: what is done with y.

    """
    if x.device.type == "cuda":
        from hoidap.kernels import few_cuda  # its bindings come with PyTorch's CUDA builds only

        few_cuda.product(x, operand, out, scratch, then)
        return
    y = _reference(x, operand)
    out.copy_(gelu(y) if then == "gelu" else out.float() + y if then == "add" else y)


def attend_product(
    x: torch.Tensor, operand: Operand, queries: torch.Tensor, cells: Cells, clip: float | None, scratch: Scratch
) -> None:
    """Write the queries of ``x`` [N, d] into ``queries`` [N, d], and its keys and values where ``cells`` says.

    ``operand`` makes all three, one behind another; ``clip`` clamps them.
    """
    if x.device.type == "cuda":
        from hoidap.kernels import few_cuda

        few_cuda.attend_product(x, operand, queries, cells, clip, scratch)
        return
    y = _reference(x, operand)
    y = y if clip is None else y.clamp(-clip, clip)
    q, k, v = y.to(x.dtype).view(len(x), 3, -1).unbind(1)
    queries.copy_(q)
    heads, width = cells.keys.shape[1], cells.keys.shape[3]
    at = (cells.rows.long(), slice(None), cells.positions.long())
    cells.keys[at] = k.reshape(-1, heads, width)
    cells.values[at] = v.reshape(-1, heads, width)


def _reference(x: torch.Tensor, operand: Operand) -> torch.Tensor:
    weight = operand.weight
    dense = (
        int8.dequantize(weight, torch.float32)
        if isinstance(weight, Int8Weight)
        else fourbit.dequantize(weight, torch.float32)
    )
    y = x.float() @ dense.T
    if operand.bias is not None:
        y += operand.bias.float()
    if operand.A is not None and operand.B is not None:
        low = (operand.scale * (x.float() @ operand.A.float().T)).to(x.dtype)
        y += low.float() @ operand.B.float().T
    return y


@cache
def levels_16(levels: tuple[float, ...], dtype: torch.dtype) -> tuple[tuple[int, ...], float]:
    """Return 16 levels in 16 bits, as whole numbers, and what they are to be multiplied by to be themselves again."""
    by: dict[tuple[float, ...], float] = {_exact(LEVELS["nf4"]): 1.4367, _exact(LEVELS["fp4"]): 12.0}
    factor = by.get(levels, 1.0) if dtype == torch.bfloat16 else 1.0
    bits = (torch.tensor(levels) * factor).to(dtype).view(torch.int16).int() & 0xFFFF
    return tuple(bits.tolist()), 1 / factor


def _exact(levels: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(torch.tensor(levels).tolist())  # as float32 has them


@cache
def _has_bindings() -> bool:
    try:
        from hoidap.kernels import few_cuda  # noqa: F401
    except ImportError:
        return False
    return True
