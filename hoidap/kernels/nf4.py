"""NF4: a weight in four bits, with the scales themselves in eight (double quantisation).

The arithmetic and the layout are bitsandbytes' (QLoRA, Dettmers et al. 2023, arXiv 2305.14314), on plain tensors:

    blocks of 64 weights, each divided by its largest magnitude ("absmax") and rounded to the nearest of 16 levels;
    absmax − mean, in blocks of 256, rounded to the nearest of 256 levels of the dynamic 8-bit map (arXiv 1511.04561).

0.5 + 1/64 + 4/(64·256) bytes a weight = 4.127 bits.

``dequantize`` has two versions, chosen by the device and equal to the bit: ``reference`` in plain PyTorch, and one
Triton launch that reads the codes once and writes the weight once.
"""

from dataclasses import dataclass

import torch

BLOCK = 64  # weights that share one absmax
ABSMAX_BLOCK = 256  # absmax values that share one scale

# The 16 quantiles of a normal distribution, scaled to [-1, 1] and with an exact zero (QLoRA, appendix E).
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True)
class NF4Weight:
    """A quantised matrix as plain tensors; n = out · in weights, all on one device.

    ``codes`` holds two weights a byte, the first in the high four bits.
    """

    codes: torch.Tensor  # uint8 [n / 2]
    absmax_codes: torch.Tensor  # uint8 [n / 64]
    absmax_scales: torch.Tensor  # float32 [ceil(n / 64 / 256)]
    absmax_levels: torch.Tensor  # float32 [256], the dynamic map
    absmax_mean: torch.Tensor  # float32 []
    shape: tuple[int, int]  # out, in

    @property
    def n_bytes(self) -> int:
        """Bytes held, the 1,024 of the shared dynamic map left out."""
        return sum(t.nbytes for t in (self.codes, self.absmax_codes, self.absmax_scales, self.absmax_mean))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.codes.device


def quantize(weight: torch.Tensor) -> NF4Weight:
    """Quantise ``weight`` [out, in]; ``out · in`` must be a multiple of 64.

    Raises:
        ValueError: the matrix does not divide into blocks of 64.

    """
    if weight.dim() != 2 or weight.numel() % BLOCK:
        msg = f"NF4 takes a matrix whose size is a multiple of {BLOCK}; got {tuple(weight.shape)}"
        raise ValueError(msg)
    levels = torch.tensor(LEVELS, device=weight.device)
    blocks = weight.float().reshape(-1, BLOCK)  # [n/64, 64]
    codes, absmax = _nearest(blocks, levels)
    mean = absmax.mean()
    absmax_levels = dynamic_map().to(weight.device)
    padded = torch.nn.functional.pad(absmax - mean, (0, -absmax.numel() % ABSMAX_BLOCK))
    absmax_codes, absmax_scales = _nearest(padded.reshape(-1, ABSMAX_BLOCK), absmax_levels)
    flat = codes.reshape(-1)
    return NF4Weight(
        codes=(flat[::2] << 4) | flat[1::2],
        absmax_codes=absmax_codes.reshape(-1)[: absmax.numel()].contiguous(),
        absmax_scales=absmax_scales,
        absmax_levels=absmax_levels,
        absmax_mean=mean,
        shape=(weight.shape[0], weight.shape[1]),
    )


def dequantize(weight: NF4Weight, dtype: torch.dtype) -> torch.Tensor:
    """Return the matrix [out, in] that the codes stand for, computed in float32 and rounded once to ``dtype``."""
    if weight.device.type == "cuda":
        return _dequantize_triton(weight, dtype)
    return dequantize_reference(weight, dtype)


def dequantize_reference(weight: NF4Weight, dtype: torch.dtype) -> torch.Tensor:
    """``dequantize`` in plain PyTorch."""
    # A byte is two levels: looking both up at once halves the work.
    levels = torch.tensor(LEVELS, device=weight.device)
    pairs = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], dim=1)  # [256, 2]
    values = pairs[weight.codes.int()].reshape(-1, BLOCK)  # [n/64, 64]
    return (values * _absmax(weight)[:, None]).to(dtype).reshape(weight.shape)


def _absmax(weight: NF4Weight) -> torch.Tensor:
    steps = weight.absmax_levels[weight.absmax_codes.int()]  # [n/64]
    scales = weight.absmax_scales.repeat_interleave(ABSMAX_BLOCK)[: steps.numel()]
    return steps * scales + weight.absmax_mean


def _nearest(blocks: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide each row by its largest magnitude; return the nearest levels (uint8) and the magnitudes (float32)."""
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


def _dequantize_triton(weight: NF4Weight, dtype: torch.dtype) -> torch.Tensor:
    from hoidap.kernels import nf4_triton  # Triton comes with PyTorch's CUDA builds only

    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    nf4_triton.dequantize(weight, torch.tensor(LEVELS, device=weight.device), out)
    return out
