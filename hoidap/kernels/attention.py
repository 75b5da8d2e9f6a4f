"""Causal attention with ALiBi over a flat stream of documents, with or without a cache of earlier keys.

ALiBi (Press et al. 2021, arXiv 2108.12409) adds ``slope[h] · (key position − query position)`` to head h's scores.
It depends on the distance alone, so documents packed one behind another need no position of their own.

Packed documents have two versions, equal within rounding; ``pick`` chooses:

    "triton"  16-bit activations on a GPU from Ampere on: one pass over the stream, no padding, nothing kept but a number
              a row and head.
    "sdpa"    everywhere else, and the reference: documents of like length are padded to a rectangle and given to PyTorch's
              ``scaled_dot_product_attention`` with an additive bias. Padding stands behind a document, where causality
              hides it: no mask by document is needed, and all documents of a rectangle share one bias of
              heads · width² · 4 bytes, made once for all layers (24 heads: 100 MB at 1,024 tokens, 6.4 GB at 8,192).

Scores, bias and softmax are float32, as llm-foundry computes them, whatever the model's dtype; but "sdpa" on a GPU takes
float16 as it is, bias included (rounding by 2⁻¹¹ of a score changes a probability by less than 0.0002): that is the T4's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# cuDNN would plan anew for each number and length of documents, a tenth of a second each; flash attention takes no bias.
_BACKENDS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Layout(Protocol):
    """How packed documents attend, each within itself."""

    def attend(self, qkv: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend: queries, keys and values [T, 3, H, d] → [T, H, d]; gradients flow."""

    def forward(self, qkv: torch.Tensor, scale: float, out: torch.Tensor) -> torch.Tensor | None:
        """Write the same into ``out`` [T, H · d and columns to spare]; return what ``backward`` needs of the softmax."""

    def backward(
        self,
        qkv: torch.Tensor,
        scale: float,
        out: torch.Tensor,
        softmax: torch.Tensor | None,
        grad: torch.Tensor,
        grad_qkv: torch.Tensor,
    ) -> None:
        """Write the gradient of ``qkv`` into ``grad_qkv`` [T, 3 · H · d and columns to spare], given [T, H · d]."""


Kind = Literal["triton", "sdpa"]
_KERNEL_WIDTHS = (16, 32, 64, 128)  # of a head


def pick(device: torch.device, dtype: torch.dtype, head_dim: int) -> Kind:
    """Choose the faster version that computes activations of ``dtype`` on ``device``.

    Before Ampere (compute capability 8) Triton has no matrix instructions, and the backward kernels spill their registers.
    """
    if device.type != "cuda" or dtype == torch.float32 or head_dim not in _KERNEL_WIDTHS:
        return "sdpa"
    return "triton" if torch.cuda.get_device_capability(device)[0] >= 8 else "sdpa"


def lay_out(kind: Kind, starts: Sequence[int], slopes: torch.Tensor, dtype: torch.dtype) -> Layout:
    """Prepare documents that begin at ``starts``.

    Args:
        kind: what ``pick`` chose.
        starts: of the documents, and the number of tokens: [D + 1], from 0, rising.
        slopes: ALiBi's, float32 [H], on the device to compute on; zeros for no ALiBi.
        dtype: of the activations.

    """
    return Stream.lay_out(starts, slopes) if kind == "triton" else Packed.lay_out(starts, slopes, dtype)


@dataclass(frozen=True)
class Stream:
    """Whole documents one behind another, for the kernels."""

    starts: torch.Tensor  # int32 [T]: where each token's document begins
    ends: torch.Tensor  # int32 [T]: and ends
    slopes: torch.Tensor  # float32 [H]

    @classmethod
    def lay_out(cls, starts: Sequence[int], slopes: torch.Tensor) -> "Stream":
        """Tell each token its document; arguments as for ``lay_out``."""
        lengths = torch.tensor(lengths_of(starts))
        edges = torch.tensor(starts, dtype=torch.int32)
        begin, end = (edge.repeat_interleave(lengths).to(slopes.device) for edge in (edges[:-1], edges[1:]))
        return cls(begin, end, slopes)

    def attend(self, qkv: torch.Tensor, scale: float) -> torch.Tensor:
        """See ``Layout``."""
        result: torch.Tensor = _Attend.apply(qkv, self, scale)  # type: ignore[no-untyped-call]
        return result

    def forward(self, qkv: torch.Tensor, scale: float, out: torch.Tensor) -> torch.Tensor:
        """See ``Layout``."""
        from hoidap.kernels import attention_triton  # Triton comes with PyTorch's CUDA builds only

        return attention_triton.forward(qkv, self.starts, self.slopes, scale, out)

    def backward(
        self,
        qkv: torch.Tensor,
        scale: float,
        out: torch.Tensor,
        softmax: torch.Tensor | None,
        grad: torch.Tensor,
        grad_qkv: torch.Tensor,
    ) -> None:
        """See ``Layout``."""
        from hoidap.kernels import attention_triton

        assert softmax is not None  # noqa: S101 - forward returned it
        attention_triton.backward(qkv, self.starts, self.ends, self.slopes, scale, out, softmax, grad, grad_qkv)


class _Attend(torch.autograd.Function):
    """``Stream``'s two passes for autograd."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, stream: Stream, scale: float) -> torch.Tensor:
        qkv = qkv.contiguous()
        out = torch.empty(qkv.shape[0], qkv[0, 0].numel(), dtype=qkv.dtype, device=qkv.device)
        softmax = stream.forward(qkv, scale, out)
        ctx.save_for_backward(qkv, out, softmax)
        ctx.stream, ctx.scale = stream, scale
        return out.view(qkv.shape[0], *qkv.shape[2:])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        qkv, out, softmax = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        grad = grads[0].flatten(1).contiguous()
        ctx.stream.backward(qkv, ctx.scale, out, softmax, grad, grad_qkv.view(len(qkv), -1))
        return grad_qkv, None, None


@dataclass(frozen=True)
class Rectangle:
    """D' documents padded to one width W; padding repeats a document's last token."""

    at: torch.Tensor  # int64 [D', W]: each cell's place in the stream
    bias: torch.Tensor  # [1, H, W, W], in the dtype that is attended in
    cells: torch.Tensor  # int64 [n]: the cells that are no padding, counted row by row
    tokens: torch.Tensor  # int64 [n]: and their places in the stream

    def attend(self, qkv: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend within each row: cells [D', W, 3, H, d] → [D', W, H, d]."""
        query, key, value = (t.transpose(1, 2) for t in qkv.unbind(2))  # [D', H, W, d] each
        bias = self.bias.expand(len(qkv), -1, -1, -1)
        return scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale).transpose(1, 2)

    def pad(self, qkv: torch.Tensor) -> torch.Tensor:
        """Return the cells of ``qkv`` [T, 3, H, d]: [D', W, 3, H, d]."""
        return _pad(qkv, self.at, self.bias.dtype)


@dataclass(frozen=True)
class Packed:
    """Whole documents one behind another: document d is ``tokens[starts[d]:starts[d + 1]]``."""

    rectangles: tuple[Rectangle, ...]
    back: torch.Tensor  # int64 [T]: each token's place among the rectangles' cells, laid one behind another

    @classmethod
    def lay_out(cls, starts: Sequence[int], slopes: torch.Tensor, dtype: torch.dtype = torch.float32) -> "Packed":
        """Group the documents by width, so that padding costs little even where lengths differ much.

        On a GPU, where each rectangle costs launches, a few widths must do.
        """
        is_gpu, longest = slopes.device.type == "cuda", max(lengths_of(starts))
        kind = dtype if is_gpu and dtype == torch.float16 else torch.float32
        by_width: dict[int, list[int]] = {}
        for document, length in enumerate(lengths_of(starts)):
            width = min(_wide(length), -(-longest // 64) * 64) if is_gpu else _width(length)
            by_width.setdefault(width, []).append(document)
        rectangles = []
        back = torch.empty(starts[-1], dtype=torch.int64)
        cells = 0
        for width, documents in sorted(by_width.items()):
            begins = torch.tensor([starts[d] for d in documents])[:, None]
            ends = torch.tensor([starts[d + 1] for d in documents])[:, None]
            at = begins + torch.arange(width)  # [D', W]
            real = at < ends
            kept, tokens = real.flatten().nonzero()[:, 0], at[real]
            back[tokens] = cells + kept
            positions = torch.arange(width, device=slopes.device)[None]
            places = (index.to(slopes.device) for index in (kept, tokens))
            at = torch.minimum(at, ends - 1).to(slopes.device)
            rectangles.append(Rectangle(at, _bias(positions, width, slopes).to(kind), *places))
            cells += at.numel()
        return cls(tuple(rectangles), back.to(slopes.device))

    def attend(self, qkv: torch.Tensor, scale: float) -> torch.Tensor:
        """See ``Layout``."""
        with sdpa_kernel(_BACKENDS):
            outputs = [r.attend(r.pad(qkv), scale).flatten(0, 1) for r in self.rectangles]  # [D'·W, H, d] each
        return torch.cat(outputs).index_select(0, self.back).to(qkv.dtype)

    def forward(self, qkv: torch.Tensor, scale: float, out: torch.Tensor) -> None:
        """See ``Layout``; nothing is kept."""
        width = qkv.shape[2] * qkv.shape[3]
        with sdpa_kernel(_BACKENDS):
            for rectangle in self.rectangles:
                result = rectangle.attend(rectangle.pad(qkv), scale).reshape(-1, width)
                kept = result.index_select(0, rectangle.cells).to(out.dtype)
                out[:, :width].index_copy_(0, rectangle.tokens, kept)

    def backward(
        self,
        qkv: torch.Tensor,
        scale: float,
        out: torch.Tensor,  # noqa: ARG002
        softmax: torch.Tensor | None,  # noqa: ARG002
        grad: torch.Tensor,
        grad_qkv: torch.Tensor,
    ) -> None:
        """See ``Layout``; attends again."""
        for rectangle in self.rectangles:
            padded = rectangle.pad(qkv.detach()).requires_grad_()
            with torch.enable_grad(), sdpa_kernel(_BACKENDS):
                result = rectangle.attend(padded, scale)
            above = torch.zeros(rectangle.at.numel(), grad.shape[1], dtype=result.dtype, device=grad.device)
            above.index_copy_(0, rectangle.cells, grad.index_select(0, rectangle.tokens).to(result.dtype))
            (found,) = torch.autograd.grad(result, padded, above.view(result.shape))
            kept = found.reshape(rectangle.at.numel(), -1).index_select(0, rectangle.cells)
            grad_qkv[:, : kept.shape[1]].index_copy_(0, rectangle.tokens, kept.to(grad_qkv.dtype))


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


def _wide(length: int) -> int:
    """Round up to 64 times a power of four."""
    width = 64
    while width < length:
        width *= 4
    return width


def _width(length: int) -> int:
    """Round up to 1, 16, or a power of two or one and a half: few rectangles, at most a third of padding."""
    if length == 1:
        return 1
    power: int = max(16, 2 ** (length - 1).bit_length())
    return power * 3 // 4 if power > 16 and length <= power * 3 // 4 else power


def _pad(stream: torch.Tensor, at: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Gather a stream [T, …] into [D, W, …] of ``dtype``.

    Padding repeats a document's last token. What it yields is never read, so its gradient is zero, and the backward
    pass, which adds up the repeats in any order, gives the same sum each time.
    """
    return stream.index_select(0, at.flatten()).view(*at.shape, *stream.shape[1:]).to(dtype)


def _bias(positions: torch.Tensor, span: int, slopes: torch.Tensor) -> torch.Tensor:
    """Return [D, H, W, S]: ALiBi from queries at ``positions`` [D, W] to keys 0 … S-1, and -inf for keys behind them."""
    distance = torch.arange(span, device=slopes.device) - positions[:, :, None]  # [D, W, S], 0 on the diagonal
    bias = slopes[:, None, None] * distance[:, None].float()
    return bias.masked_fill_(distance[:, None] > 0, float("-inf"))
