"""Causal attention with ALiBi over a flat stream of documents, with or without a cache of earlier keys.

ALiBi (Press et al. 2021, arXiv 2108.12409) adds ``slope[h] · (key position − query position)`` to head h's scores.
It depends on the distance alone, so documents packed one behind another need no position of their own.

Reference and, today, only version: documents of like length are padded to a rectangle and given to PyTorch's
``scaled_dot_product_attention`` with an additive bias. Padding stands behind a document, where causality hides it: no mask
by document is needed, and all documents of a rectangle share one bias of heads · width² · 4 bytes, made once for all
layers (24 heads: 100 MB at 1,024 tokens, 6.4 GB at 8,192). Scores, bias and softmax are float32, as llm-foundry computes
them, whatever the model's dtype.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Rectangle:
    """D' documents padded to one width W; padding repeats a document's last token."""

    at: torch.Tensor  # int64 [D', W]: each cell's place in the stream
    bias: torch.Tensor  # float32 [1, H, W, W]


@dataclass(frozen=True)
class Packed:
    """Whole documents one behind another: document d is ``tokens[starts[d]:starts[d + 1]]``."""

    rectangles: tuple[Rectangle, ...]
    back: torch.Tensor  # int64 [T]: each token's place among the rectangles' cells, laid one behind another

    @classmethod
    def lay_out(cls, starts: Sequence[int], slopes: torch.Tensor) -> "Packed":
        """Group the documents by width, so that padding costs little even where lengths differ much.

        Args:
            starts: [D + 1], from 0 to T, rising.
            slopes: ALiBi's, float32 [H], on the device to compute on; zeros for no ALiBi.

        """
        by_width: dict[int, list[int]] = {}
        for document, length in enumerate(lengths_of(starts)):
            by_width.setdefault(_width(length), []).append(document)
        rectangles = []
        back = torch.empty(starts[-1], dtype=torch.int64)
        cells = 0
        for width, documents in sorted(by_width.items()):
            begins = torch.tensor([starts[d] for d in documents])[:, None]
            ends = torch.tensor([starts[d + 1] for d in documents])[:, None]
            at = begins + torch.arange(width)  # [D', W]
            real = at < ends
            back[at[real]] = cells + torch.arange(at.numel()).view_as(at)[real]
            positions = torch.arange(width, device=slopes.device)[None]
            rectangles.append(Rectangle(torch.minimum(at, ends - 1).to(slopes.device), _bias(positions, width, slopes)))
            cells += at.numel()
        return cls(tuple(rectangles), back.to(slopes.device))

    def attend(self, qkv: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend within each document: queries, keys and values [T, 3, H, d] → [T, H, d]."""
        outputs = []
        for rectangle in self.rectangles:
            query, key, value = _pad(qkv, rectangle.at).unbind(2)  # [D', W, 3, H, d] → [D', W, H, d] each
            query, key, value = (t.transpose(1, 2) for t in (query, key, value))  # → [D', H, W, d]
            bias = rectangle.bias.expand(query.shape[0], -1, -1, -1)
            out = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
            outputs.append(out.transpose(1, 2).flatten(0, 1))  # [D'·W, H, d]
        return torch.cat(outputs).index_select(0, self.back).to(qkv.dtype)


@dataclass(frozen=True)
class Appended:
    """New tokens of D documents whose earlier tokens are in a cache: document d's stand behind ``past[d]`` others."""

    at: torch.Tensor  # int64 [D, W]: each cell's place in the stream of new tokens
    real: torch.Tensor  # bool [D, W]: not padding
    bias: torch.Tensor  # float32 [D, H, W, S]

    @classmethod
    def lay_out(cls, starts: Sequence[int], past: Sequence[int], slopes: torch.Tensor) -> "Appended":
        """Take the new tokens' ``starts`` [D + 1] and the number of earlier tokens ``past`` [D] of each document."""
        lengths = lengths_of(starts)
        span = max(old + new for old, new in zip(past, lengths, strict=True))  # S
        step = torch.arange(max(lengths))[None]  # [1, W]
        real = step < torch.tensor(lengths)[:, None]
        within = step.minimum(torch.tensor(lengths)[:, None] - 1)
        at = torch.tensor(starts[:-1])[:, None] + within
        positions = (torch.tensor(past)[:, None] + within).to(slopes.device)
        return cls(at.to(slopes.device), real.to(slopes.device), _bias(positions, span, slopes))

    def attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend from new queries [T, H, d] to all keys and values [D, H, S, d], the new ones included; → [T, H, d].

        What stands in a row past its document's end is never looked at.
        """
        query = _pad(q, self.at).transpose(1, 2)  # [D, W, H, d] → [D, H, W, d]
        out = scaled_dot_product_attention(query, keys.float(), values.float(), attn_mask=self.bias, scale=scale)
        return out.transpose(1, 2)[self.real].to(q.dtype)  # [D, W, H, d] → [T, H, d]


def lengths_of(starts: Sequence[int]) -> list[int]:
    """Return each document's number of tokens.

    Raises:
        ValueError: the starts do not rise from 0.

    """
    lengths = [end - begin for begin, end in pairwise(starts)]
    if not lengths or starts[0] != 0 or min(lengths) < 1:
        msg = f"document starts must rise from 0 to the number of tokens; got {list(starts)[:20]}"
        raise ValueError(msg)
    return lengths


def _width(length: int) -> int:
    """Round up to 1, 16, or a power of two or one and a half: few rectangles, at most a third of padding."""
    if length == 1:
        return 1
    power: int = max(16, 2 ** (length - 1).bit_length())
    return power * 3 // 4 if power > 16 and length <= power * 3 // 4 else power


def _pad(stream: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Gather a stream [T, …] into float32 [D, W, …].

    Padding repeats a document's last token. What it yields is never read, so its gradient is zero, and the backward
    pass, which adds up the repeats in any order, gives the same sum each time.
    """
    return stream.index_select(0, at.flatten()).view(*at.shape, *stream.shape[1:]).float()


def _bias(positions: torch.Tensor, span: int, slopes: torch.Tensor) -> torch.Tensor:
    """Return [D, H, W, S]: ALiBi from queries at ``positions`` [D, W] to keys 0 … S-1, and -inf for keys behind them."""
    distance = torch.arange(span, device=slopes.device) - positions[:, :, None]  # [D, W, S], 0 on the diagonal
    bias = slopes[:, None, None] * distance[:, None].float()
    return bias.masked_fill_(distance[:, None] > 0, float("-inf"))
