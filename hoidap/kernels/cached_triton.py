"""The fast version of ``cached.attend``: keys and values are read once, as they lie in the cache."""

from typing import Any

import torch
import triton
import triton.language as tl

from hoidap.kernels.cached import PIECE, Pieces
from hoidap.kernels.few import Cells
from hoidap.kernels.rows_triton import begins_early

_FEW = 4  # tokens, of which keys and values fit registers while the launch ahead ends
_AT_ONCE = 8  # pieces whose sums are put together
_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0915 - one launch
    queries, keys, values, rows, positions, settled, slopes, out,  # noqa: ANN001
    sums, peaks, weights, counters, scale, heads, stride,  # noqa: ANN001
    D: tl.constexpr, PIECE: tl.constexpr, PIECES: tl.constexpr, AT_ONCE: tl.constexpr, EARLY: tl.constexpr,
    READS_AHEAD: tl.constexpr,
):  # fmt: skip
    head, token, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    position = tl.load(positions + token)
    if piece * PIECE <= position:
        row = tl.load(rows + token).to(tl.int64)
        d = tl.arange(0, D)
        n = piece * PIECE + tl.arange(0, PIECE)
        at = (row * heads + head) * stride + n[:, None] * D + d[None, :]
        inside = n <= position
        if READS_AHEAD:  # what its row held before this step is there already
            old = tl.load(settled + token)
            was = (n < old)[:, None]
            k = tl.load(keys + at, mask=was, other=0.0)
            v = tl.load(values + at, mask=was, other=0.0)
        if EARLY:
            tl.extra.cuda.gdc_wait()
        own = token * heads + head
        query = tl.load(queries + own * D + d).to(tl.float32) * (scale * _LOG2_E)
        slope = tl.load(slopes + head) * _LOG2_E
        if READS_AHEAD:
            if (piece + 1) * PIECE > old:
                new = inside[:, None] & (n >= old)[:, None]
                k += tl.load(keys + at, mask=new, other=0.0)
                v += tl.load(values + at, mask=new, other=0.0)
        else:
            k = tl.load(keys + at, mask=inside[:, None], other=0.0)
            v = tl.load(values + at, mask=inside[:, None], other=0.0)
        k = k.to(tl.float32)
        v = v.to(tl.float32)
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
                all_of_it = _together(sums, peaks, weights, own * PIECES, n_pieces, D, AT_ONCE)
                tl.store(out + own * D + d, all_of_it.to(out.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator]
def _together(  # type: ignore[no-untyped-def]  # noqa: ANN202
    sums, peaks, weights, begin, n_pieces, D: tl.constexpr, AT_ONCE: tl.constexpr  # noqa: ANN001
):  # fmt: skip
    """Put the pieces' sums together: softmax is theirs, each weighed by its largest score."""
    d = tl.arange(0, D)
    peak = float("-inf")
    weight = 0.0
    total = tl.zeros([D], tl.float32)
    for first in range(0, n_pieces, AT_ONCE):
        piece = first + tl.arange(0, AT_ONCE)
        real = piece < n_pieces
        high = tl.load(peaks + begin + piece, mask=real, other=float("-inf"), cache_modifier=".cg")
        some = tl.load(weights + begin + piece, mask=real, other=0.0, cache_modifier=".cg")
        at = (begin + piece)[:, None] * D + d[None, :]
        held = tl.load(sums + at, mask=real[:, None], other=0.0, cache_modifier=".cg")
        higher = tl.maximum(peak, tl.max(high, 0))
        shrink, grow = tl.exp2(peak - higher), tl.exp2(high - higher)
        weight = weight * shrink + tl.sum(some * grow, 0)
        total = total * shrink + tl.sum(held * grow[:, None], 0)
        peak = higher
    return total / weight


def attend(
    queries: torch.Tensor, cells: Cells, slopes: torch.Tensor, scale: float, span: int, pieces: Pieces, out: torch.Tensor
) -> None:
    """``cached.attend``."""
    _, heads, tokens, width = cells.keys.shape
    early = begins_early(queries.device)
    reads_ahead = early and len(queries) <= _FEW
    piece, warps = (PIECE, 4) if reads_ahead else (2 * PIECE, 2)
    n_pieces = triton.cdiv(span, piece)
    launch: Any = _attend[heads, len(queries), n_pieces]
    launch(
        queries, cells.keys, cells.values, cells.rows, cells.positions, cells.settled, slopes, out, pieces.sums,
        pieces.peaks, pieces.weights, pieces.counters, scale, heads, tokens * width, D=width, PIECE=piece, PIECES=n_pieces,
        AT_ONCE=_AT_ONCE, EARLY=early, READS_AHEAD=reads_ahead, num_warps=warps, launch_pdl=early,
    )  # fmt: skip
