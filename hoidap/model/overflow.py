"""Where a model's numbers leave its dtype: the first tensor that does, and how large the channels of each tensor are.

The model is run once, block by block; each matrix is asked for once, so weights read when they are asked for
(``checkpoint.LazyWeights``) are in memory one at a time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hoidap.model.mpt import MPT

if TYPE_CHECKING:
    from hoidap.model.adapter import Adapter

_OUTLIER = 100  # times the median channel, above which a channel is called an outlier

# Told of a block's number, a tensor's name, the tensor before it is rounded, and the dtype it is kept in.
_See = Callable[[int, str, torch.Tensor, torch.dtype], None]


@dataclass(frozen=True)
class Magnitude:
    """How large a tensor is; the magnitude of a channel is the largest of its tokens'."""

    block: int
    tensor: str  # "ffn.down_proj output"
    largest: float  # of all channels; NaN where a value is
    median: float  # of the channels
    n_outliers: int  # channels of more than 100 times the median


@torch.no_grad()
def first_overflow(
    model: MPT, tokens: torch.Tensor, doc_starts: Sequence[int], adapter: "Adapter | None" = None
) -> str | None:
    """Name the first tensor that is not finite or exceeds the range of the dtype it is kept in; None if there is none.

    Args:
        model: in the dtype that is asked about.
        tokens: the documents' ids one behind another, int64 [T].
        doc_starts: where each begins, and T: [D + 1].
        adapter: an update of the linear layers.

    """
    try:
        hidden = _Observed(model, _refuse).hidden(tokens, doc_starts, adapter=adapter)
    except _OverflowFound as found:
        return str(found)
    return None if bool(hidden.isfinite().all()) else "the output of norm_f is not finite"


@torch.no_grad()
def magnitudes(
    model: MPT, tokens: torch.Tensor, doc_starts: Sequence[int], adapter: "Adapter | None" = None
) -> list[Magnitude]:
    """Measure every block's tensors, in the order in which they are computed; arguments as for ``first_overflow``."""
    found: list[Magnitude] = []

    def see(block: int, name: str, tensor: torch.Tensor, _kept: torch.dtype) -> None:
        channels = tensor.float().abs().amax(0)
        median = channels.median()
        found.append(
            Magnitude(block, name, float(channels.max()), float(median), int((channels > _OUTLIER * median).sum()))
        )

    _Observed(model, see).hidden(tokens, doc_starts, adapter=adapter)
    return found


class _OverflowFound(Exception):  # noqa: N818 - it is what was looked for
    """Ends the run at the first tensor that overflows."""


def _refuse(block: int, name: str, tensor: torch.Tensor, kept: torch.dtype) -> None:
    largest, most = float(tensor.float().abs().max()), torch.finfo(kept).max
    if not math.isfinite(largest):
        msg = f"block {block}, {name} is not finite"
        raise _OverflowFound(msg)
    if largest > most:
        msg = f"block {block}, {name}: {largest:,.0f} exceeds {str(kept).removeprefix('torch.')}'s {most:,.0f}"
        raise _OverflowFound(msg)


class _Observed(MPT):
    """The same model, showing each block's tensors while it computes."""

    def __init__(self, model: MPT, see: _See) -> None:
        super().__init__(model.config, model.weights, model.dtype)
        self.merged = model.merged
        self._see = see

    def _block(self, x: torch.Tensor, layer: int, *rest: Any) -> torch.Tensor:
        if layer == 0:
            self._see(layer, "embedding", x, x.dtype)
        x = super()._block(x, layer, *rest)
        self._see(layer, "residual stream", x, x.dtype)
        return x

    def _linear(
        self, x: torch.Tensor, module: str, adapter: "Adapter | None", out_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        _, _, block, name = module.split(".", 3)
        self._see(int(block), f"{name} input", x, x.dtype)
        wide = super()._linear(x, module, adapter, torch.float32)  # an overflow would be infinite in 16 bits
        kept = out_dtype or x.dtype
        self._see(int(block), f"{name} output", wide, kept)
        return wide.to(kept)
