"""Attention of single tokens over the cache rows that they stand in: what generating asks for, with ALiBi.

Token n stands at ``positions[n]`` of row ``rows[n]`` and looks at what the row holds up to there, itself included; several
tokens of one row are told apart by their positions alone. Scores, softmax and sums are float32.

A row is read in pieces by programs of their own, so that one long conversation has a GPU's every multiprocessor; the piece
that ends last puts the sums together, in their order.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from hoidap.kernels.few import Cells

WIDTHS = (16, 32, 64, 128)  # of a head, that the kernel takes
PIECE = 32  # tokens, the shortest


@dataclass(frozen=True)
class Pieces:
    """Room for the sums of every piece."""

    sums: torch.Tensor  # float32 [N · H · pieces · d]
    peaks: torch.Tensor  # float32 [N · H · pieces]
    weights: torch.Tensor  # the same
    counters: torch.Tensor  # int32 [N · H], zero between launches

    @classmethod
    def of(cls, tokens: int, heads: int, width: int, span: int, device: torch.device) -> "Pieces":
        """Make room for so many tokens in rows of ``span``."""
        pieces = -(-span // PIECE)
        room = tokens * heads * pieces
        sums, peaks, weights = (torch.empty(n, device=device) for n in (room * width, room, room))
        return cls(sums, peaks, weights, torch.zeros(tokens * heads, dtype=torch.int32, device=device))


def attend(
    queries: torch.Tensor, cells: Cells, slopes: torch.Tensor, scale: float, span: int, pieces: Pieces, out: torch.Tensor
) -> None:
    """Write into ``out`` [N, H · d] what ``queries`` [N, H · d] see.

    Args:
        queries: of 16 bits.
        cells: a layer's keys and values; those of these tokens are there already.
        slopes: ALiBi's, float32 [H].
        scale: of the scores.
        span: no position is at or behind it.
        pieces: of as many tokens and pieces at least.
        out: in the dtype of the queries.

    """
    if queries.device.type == "cuda":
        from hoidap.kernels import cached_triton  # Triton comes with PyTorch's CUDA builds only

        cached_triton.attend(queries, cells, slopes, scale, span, pieces, out)
        return
    heads, width = cells.keys.shape[1], cells.keys.shape[3]
    for n, (row, position) in enumerate(zip(cells.rows.tolist(), cells.positions.tolist(), strict=True)):
        keys, values = (t[row, :, : position + 1].float() for t in (cells.keys, cells.values))  # [H, S, d]
        bias = slopes[:, None, None] * torch.arange(-position, 1, device=slopes.device)
        query = queries[n].view(heads, 1, width).float()
        seen = scaled_dot_product_attention(query[None], keys[None], values[None], attn_mask=bias[None], scale=scale)
        out[n] = seen.flatten()
