"""Four bits a weight: NF4 or FP4, with the scales in float32 or themselves in eight bits (double quantisation).

The arithmetic, the layout and the order of the codes are bitsandbytes', on plain tensors (QLoRA, Dettmers et al. 2023,
arXiv 2305.14314):

    blocks of 64 weights, each divided by its largest magnitude ("absmax") and rounded to the nearest of 16 levels;
    with double quantisation, absmax − mean, in blocks of 256, rounded to the nearest of 256 levels of the dynamic 8-bit
    map (arXiv 1511.04561).

0.5 + 4/64 bytes a weight are 4.5 bits; 0.5 + 1/64 + 4/(64·256) with double quantisation, 4.127.

``dequantize`` has two versions, chosen by the device and equal to the bit: ``dequantize_reference`` in plain PyTorch, and
one Triton launch that reads the codes once and writes the weight once.
"""

from dataclasses import dataclass
from typing import Literal

import torch

BLOCK = 64  # weights that share one absmax
ABSMAX_BLOCK = 256  # absmax values that share one scale
_AT_ONCE = 2**24  # weights quantised at once, which takes a dozen bytes of each

Kind = Literal["nf4", "fp4"]
# What each code stands for. NF4: the 16 quantiles of a normal distribution, scaled to [-1, 1] and with an exact zero
# (QLoRA, appendix E). FP4: a sign, two bits of exponent, one of mantissa, over 12, the largest.
LEVELS: dict[Kind, tuple[float, ...]] = {
    "nf4": (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
    "fp4": tuple(n / 12 for n in (0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3)),
}  # fmt: skip


@dataclass(frozen=True)
class CodedAbsmax:
    """The absmax values of n / 64 blocks in eight bits: ``levels[codes] · scales + mean``."""

    codes: torch.Tensor  # uint8 [n / 64]
    scales: torch.Tensor  # float32 [ceil(n / 64 / 256)]
    levels: torch.Tensor  # float32 [256], the dynamic map
    mean: torch.Tensor  # float32 []


@dataclass(frozen=True)
class FourBitWeight:
    """A quantised matrix as plain tensors; n = out · in weights, all on one device.

    ``codes`` holds two weights a byte, the first in the high four bits.
    """

    codes: torch.Tensor  # uint8 [n / 2]
    levels: torch.Tensor  # float32 [16], by code
    absmax: torch.Tensor | CodedAbsmax  # float32 [n / 64], or in eight bits
    shape: tuple[int, int]  # out, in

    @property
    def n_bytes(self) -> int:
        """Bytes held, the shared levels left out."""
        absmax = self.absmax
        if isinstance(absmax, CodedAbsmax):
            return self.codes.nbytes + absmax.codes.nbytes + absmax.scales.nbytes + absmax.mean.nbytes
        return self.codes.nbytes + absmax.nbytes

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.codes.device

    def rows(self, chosen: torch.Tensor | slice) -> "FourBitWeight":
        """Return some of the rows, their absmax in float32: those that share a scale are not whole rows."""
        outs, ins = self.shape
        numbers = torch.arange(*chosen.indices(outs), device=self.device) if isinstance(chosen, slice) else chosen.long()
        at = numbers[:, None] * (ins // BLOCK) + torch.arange(ins // BLOCK, device=self.device)  # of their blocks
        absmax = self.absmax
        if isinstance(absmax, CodedAbsmax):
            held = absmax.levels[absmax.codes[at].int()] * absmax.scales[at // ABSMAX_BLOCK] + absmax.mean
        else:
            held = absmax[at]
        codes = self.codes.view(outs, -1)[numbers]
        return FourBitWeight(codes.flatten(), self.levels, held.flatten(), (len(numbers), ins))


def quantize(weight: torch.Tensor, kind: Kind = "nf4", *, double_quant: bool = True) -> FourBitWeight:
    """Quantise ``weight`` [out, in]; ``out · in`` must be a multiple of 64.

    Raises:
        ValueError: the matrix does not divide into blocks of 64.

    """
    if weight.dim() != 2 or weight.numel() % BLOCK:
        msg = f"{kind} takes a matrix whose size is a multiple of {BLOCK}; got {tuple(weight.shape)}"
        raise ValueError(msg)
    levels = torch.tensor(LEVELS[kind], device=weight.device)
    ascending, order = levels.sort(stable=True)
    found = [
        _codes(part, ascending, order if kind == "fp4" else None) for part in torch.split(weight.reshape(-1), _AT_ONCE)
    ]
    absmax = torch.cat([largest for _, largest in found])
    return FourBitWeight(
        codes=torch.cat([codes for codes, _ in found]),
        levels=levels,
        absmax=_code(absmax) if double_quant else absmax,
        shape=(weight.shape[0], weight.shape[1]),
    )


def _codes(weights: torch.Tensor, ascending: torch.Tensor, order: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes, two a byte, and the absmax values of weights [n]."""
    codes, absmax = _nearest(weights.float().reshape(-1, BLOCK), ascending)  # [n/64, 64]
    if order is not None:  # NF4's codes ascend as they are
        codes = order.to(torch.uint8)[codes.int()]
    flat = codes.reshape(-1)
    return (flat[::2] << 4) | flat[1::2], absmax


def dequantize(weight: FourBitWeight, dtype: torch.dtype) -> torch.Tensor:
    """Return the matrix [out, in] that the codes stand for, computed in float32 and rounded once to ``dtype``."""
    if weight.device.type == "cuda":
        return _dequantize_triton(weight, dtype)
    return dequantize_reference(weight, dtype)


def dequantize_reference(weight: FourBitWeight, dtype: torch.dtype) -> torch.Tensor:
    """``dequantize`` in plain PyTorch."""
    # A byte is two levels, and two float32 are as wide as one float64: one lookup a byte, thirteen times faster on one core
    # than a row of two (2,048 × 512, measured once). Nothing is computed in float64, its bits are only moved.
    pairs = torch.stack([weight.levels.repeat_interleave(16), weight.levels.repeat(16)], dim=1)  # [256, 2]
    both = pairs.view(torch.float64).flatten().index_select(0, weight.codes.int())  # [n/2]
    values = both.view(torch.float32).view(-1, BLOCK)  # [n/64, 64]
    absmax = _decode(weight.absmax) if isinstance(weight.absmax, CodedAbsmax) else weight.absmax
    return values.mul_(absmax[:, None]).to(dtype).reshape(weight.shape)


def _code(absmax: torch.Tensor) -> CodedAbsmax:
    mean = absmax.mean()
    levels = dynamic_map().to(absmax.device)
    padded = torch.nn.functional.pad(absmax - mean, (0, -absmax.numel() % ABSMAX_BLOCK))
    codes, scales = _nearest(padded.reshape(-1, ABSMAX_BLOCK), levels)
    return CodedAbsmax(codes.reshape(-1)[: absmax.numel()].contiguous(), scales, levels, mean)


def _decode(absmax: CodedAbsmax) -> torch.Tensor:
    steps = absmax.levels[absmax.codes.int()]  # [n/64]
    scales = absmax.scales.repeat_interleave(ABSMAX_BLOCK)[: steps.numel()]
    return steps * scales + absmax.mean


def _nearest(blocks: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide each row by its largest magnitude; return the nearest of ascending levels (uint8) and the magnitudes."""
    absmax = blocks.abs().amax(dim=1)
    scaled = (blocks * (1.0 / absmax.clamp(min=1e-38))[:, None]).clamp(-1, 1)
    midpoints = (levels[:-1] + levels[1:]) / 2
    return torch.bucketize(scaled, midpoints, out_int32=True).to(torch.uint8), absmax


def dynamic_map() -> torch.Tensor:
    """Return the 256 levels of the signed dynamic 8-bit map, sorted (bitsandbytes' ``create_dynamic_map``).

    Seven decades, each with twice the levels of the one below it, mirrored, with 0 and 1.
    """
    positive: list[float] = []
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        positive += (10 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2.0)).tolist()
    return torch.tensor(sorted([*positive, *(-level for level in positive), 0.0, 1.0]), dtype=torch.float32)


def _dequantize_triton(weight: FourBitWeight, dtype: torch.dtype) -> torch.Tensor:
    from hoidap.kernels import fourbit_triton  # Triton comes with PyTorch's CUDA builds only

    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    fourbit_triton.dequantize(weight, out)
    return out
