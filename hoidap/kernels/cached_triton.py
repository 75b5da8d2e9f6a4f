"""The fast version of ``cached.attend``: keys and values are read once, as they lie in the cache."""

from typing import Any

import torch
import triton
import triton.language as tl

from hoidap.kernels.cached import PIECE, Pieces
from hoidap.kernels.few import Cells

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]  # noqa: ANN202
    queries, keys, values, rows, positions, slopes, out, sums, peaks, weights, counters, scale, heads, stride,  # noqa: ANN001
    D: tl.constexpr, PIECE: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    head, token, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    position = tl.load(positions + token)
    if piece * PIECE <= position:
        row = tl.load(rows + token).to(tl.int64)
        d = tl.arange(0, D)
        own = token * heads + head
        query = tl.load(queries + own * D + d).to(tl.float32) * (scale * _LOG2_E)
        slope = tl.load(slopes + head) * _LOG2_E
        n = piece * PIECE + tl.arange(0, PIECE)
        inside = n <= position
        at = (row * heads + head) * stride + n[:, None] * D + d[None, :]
        k = tl.load(keys + at, mask=inside[:, None], other=0.0).to(tl.float32)
        v = tl.load(values + at, mask=inside[:, None], other=0.0).to(tl.float32)
        score = tl.sum(k * query[None, :], 1) + slope * (n - position).to(tl.float32)
        score = tl.where(inside, score, float("-inf"))
        peak = tl.max(score, 0)
        p = tl.exp2(score - peak)
        weight = tl.sum(p, 0)
        total = tl.sum(p[:, None] * v, 0)
        n_pieces = position // PIECE + 1
        if n_pieces == 1:
            tl.store(out + own * D + d, (total / weight).to(out.dtype.element_ty))
        else:
            mine = own * PIECES + piece
            tl.store(sums + mine * D + d, total)
            tl.store(peaks + mine, peak)
            tl.store(weights + mine, weight)
            tl.debug_barrier()
            if tl.atomic_add(counters + own, 1, sem="acq_rel") == n_pieces - 1:
                tl.store(counters + own, 0)
                peak = float("-inf")
                weight = 0.0
                total = tl.zeros([D], tl.float32)
                for other in range(n_pieces):
                    where = own * PIECES + other
                    high = tl.load(peaks + where, cache_modifier=".cg")
                    new = tl.maximum(peak, high)
                    shrink, grow = tl.exp2(peak - new), tl.exp2(high - new)
                    weight = weight * shrink + tl.load(weights + where, cache_modifier=".cg") * grow
                    total = total * shrink + tl.load(sums + where * D + d, cache_modifier=".cg") * grow
                    peak = new
                tl.store(out + own * D + d, (total / weight).to(out.dtype.element_ty))


def attend(
    queries: torch.Tensor, cells: Cells, slopes: torch.Tensor, scale: float, span: int, pieces: Pieces, out: torch.Tensor
) -> None:
    """``cached.attend``."""
    _, heads, tokens, width = cells.keys.shape
    n_pieces = triton.cdiv(span, PIECE)
    launch: Any = _attend[heads, len(queries), n_pieces]
    launch(
        queries, cells.keys, cells.values, cells.rows, cells.positions, slopes, out, pieces.sums, pieces.peaks,
        pieces.weights, pieces.counters, scale, heads, tokens * width, D=width, PIECE=PIECE, PIECES=n_pieces, num_warps=2,
    )  # fmt: skip
