"""The fast version of attention within packed documents: no padding, no bias in memory, softmax as it goes.

FlashAttention-2's two passes (Dao 2023, arXiv 2307.08691) over a flat stream: a block of queries looks at keys from the
start of its first token's document to its own last token, and ALiBi is added to the scores where they are made. Blocks
that hold no document in common are never visited. Scores, softmax and sums are float32.
"""

from typing import Any

import torch
import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)

_FORWARD = {"M": 64, "N": 32, "num_warps": 4, "num_stages": 3}
_BACKWARD = {"M": 64, "N": 64, "num_warps": 4, "num_stages": 2}


def forward(qkv: torch.Tensor, starts: torch.Tensor, slopes: torch.Tensor, scale: float, out: torch.Tensor) -> torch.Tensor:
    """Write the attention's output into ``out`` and return what the backward pass needs of the softmax.

    Args:
        qkv: 16-bit [T, 3, H, d].
        starts: int32 [T], where each token's document begins.
        slopes: ALiBi's, float32 [H].
        scale: of the scores.
        out: [T, H · d], its rows apart by any stride.

    Returns:
        float32 [H, T]: log2 of each row's sum of exponentials.

    """
    T, _, H, D = qkv.shape
    lse = torch.empty(H, T, dtype=torch.float32, device=qkv.device)
    launch: Any = _forward[triton.cdiv(T, _FORWARD["M"]), H]
    launch(qkv, starts, slopes, out, lse, scale, T, qkv.stride(0), H * D, out.stride(0), D=D, **_FORWARD)
    return lse


def backward(
    qkv: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    slopes: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad: torch.Tensor,
    grad_qkv: torch.Tensor,
) -> None:
    """Write the gradient of ``qkv`` into ``grad_qkv`` [T, 3 · H · d], its rows apart by any stride.

    ``ends`` is where each token's document ends, int32 [T]; ``grad`` is [T, H · d]; ``out`` and ``lse`` are ``forward``'s.
    """
    T, _, H, D = qkv.shape
    delta = torch.empty_like(lse)
    strides = (qkv.stride(0), H * D, grad.stride(0), grad_qkv.stride(0))
    launch: Any = _backward_queries[triton.cdiv(T, _BACKWARD["M"]), H]
    launch(qkv, starts, slopes, out, lse, delta, grad, grad_qkv, scale, T, *strides, out.stride(0), D=D, **_BACKWARD)
    launch = _backward_keys[triton.cdiv(T, _BACKWARD["N"]), H]
    launch(qkv, ends, slopes, lse, delta, grad, grad_qkv, scale, T, *strides, D=D, **_BACKWARD)


@triton.jit
def _scores(  # type: ignore[no-untyped-def]  # noqa: ANN202
    q, k, m, n, begin, slope, scale, T,  # noqa: ANN001
):  # fmt: skip
    """Return scores times log2(e) [M, N] of queries at m to keys at n; -inf where a query may not look."""
    distance = n[None, :] - m[:, None]
    s = tl.dot(q, tl.trans(k)) * scale + slope * distance.to(tl.float32)
    seen = (distance <= 0) & (n[None, :] >= begin[:, None]) & (m[:, None] < T)
    return tl.where(seen, s * _LOG2_E, float("-inf"))


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]  # noqa: ANN202
    qkv, starts, slopes, out, lse, scale, T, stride, width, out_stride,  # noqa: ANN001
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    m = tl.program_id(0) * M + tl.arange(0, M)
    d = tl.arange(0, D)
    inside = m < T
    rows = m.to(tl.int64) * stride + head * D
    q = tl.load(qkv + rows[:, None] + d[None, :], mask=inside[:, None], other=0.0)
    begin = tl.load(starts + m, mask=inside, other=0)
    slope = tl.load(slopes + head)
    best = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, D], tl.float32)
    first = tl.load(starts + tl.program_id(0) * M) // N * N
    for at in range(first, tl.minimum((tl.program_id(0) + 1) * M, T), N):
        n = at + tl.arange(0, N)
        keys = n.to(tl.int64) * stride + width + head * D
        k = tl.load(qkv + keys[:, None] + d[None, :], mask=(n < T)[:, None], other=0.0)
        v = tl.load(qkv + keys[:, None] + width + d[None, :], mask=(n < T)[:, None], other=0.0)
        s = _scores(q, k, m, n, begin, slope, scale, T)
        new = tl.maximum(best, tl.max(s, 1))
        base = tl.where(new == float("-inf"), 0.0, new)  # a row that has seen no key yet
        p = tl.exp2(s - base[:, None])
        shrink = tl.exp2(best - base)
        total = total * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        best = new
    acc = acc / tl.where(inside, total, 1.0)[:, None]
    places = m.to(tl.int64)[:, None] * out_stride + head * D + d[None, :]
    tl.store(out + places, acc.to(out.dtype.element_ty), mask=inside[:, None])
    tl.store(lse + head.to(tl.int64) * T + m, best + tl.log2(total), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_queries(  # type: ignore[no-untyped-def]  # noqa: ANN202
    qkv, starts, slopes, out, lse, delta, grad, grad_qkv, scale, T,  # noqa: ANN001
    stride, width, grad_stride, grad_qkv_stride, out_stride,  # noqa: ANN001
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    m = tl.program_id(0) * M + tl.arange(0, M)
    d = tl.arange(0, D)
    inside = m < T
    at_m = m.to(tl.int64)[:, None]
    q = tl.load(qkv + at_m * stride + head * D + d[None, :], mask=inside[:, None], other=0.0)
    do = tl.load(grad + at_m * grad_stride + head * D + d[None, :], mask=inside[:, None], other=0.0)
    o = tl.load(out + at_m * out_stride + head * D + d[None, :], mask=inside[:, None], other=0.0)
    row_delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(delta + head.to(tl.int64) * T + m, row_delta, mask=inside)
    row_lse = tl.load(lse + head.to(tl.int64) * T + m, mask=inside, other=0.0)
    begin = tl.load(starts + m, mask=inside, other=0)
    slope = tl.load(slopes + head)
    dq = tl.zeros([M, D], tl.float32)
    first = tl.load(starts + tl.program_id(0) * M) // N * N
    for at in range(first, tl.minimum((tl.program_id(0) + 1) * M, T), N):
        n = at + tl.arange(0, N)
        keys = n.to(tl.int64)[:, None] * stride + width + head * D + d[None, :]
        k = tl.load(qkv + keys, mask=(n < T)[:, None], other=0.0)
        v = tl.load(qkv + keys + width, mask=(n < T)[:, None], other=0.0)
        p = tl.exp2(_scores(q, k, m, n, begin, slope, scale, T) - row_lse[:, None])
        ds = p * (tl.dot(do, tl.trans(v)) - row_delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq)
    places = at_m * grad_qkv_stride + head * D + d[None, :]
    tl.store(grad_qkv + places, (dq * scale).to(grad_qkv.dtype.element_ty), mask=inside[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _backward_keys(  # type: ignore[no-untyped-def]  # noqa: ANN202
    qkv, ends, slopes, lse, delta, grad, grad_qkv, scale, T,  # noqa: ANN001
    stride, width, grad_stride, grad_qkv_stride,  # noqa: ANN001
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    n = tl.program_id(0) * N + tl.arange(0, N)
    d = tl.arange(0, D)
    inside = n < T
    at_n = n.to(tl.int64)[:, None]
    keys = at_n * stride + width + head * D + d[None, :]
    k = tl.load(qkv + keys, mask=inside[:, None], other=0.0)
    v = tl.load(qkv + keys + width, mask=inside[:, None], other=0.0)
    end = tl.load(ends + n, mask=inside, other=0)
    slope = tl.load(slopes + head)
    dk = tl.zeros([N, D], tl.float32)
    dv = tl.zeros([N, D], tl.float32)
    last = tl.load(ends + tl.minimum((tl.program_id(0) + 1) * N, T) - 1)
    for at in range(tl.program_id(0) * N // M * M, last, M):
        m = at + tl.arange(0, M)
        real = m < T
        at_m = m.to(tl.int64)[:, None]
        q = tl.load(qkv + at_m * stride + head * D + d[None, :], mask=real[:, None], other=0.0)
        do = tl.load(grad + at_m * grad_stride + head * D + d[None, :], mask=real[:, None], other=0.0)
        row_lse = tl.load(lse + head.to(tl.int64) * T + m, mask=real, other=0.0)
        row_delta = tl.load(delta + head.to(tl.int64) * T + m, mask=real, other=0.0)
        distance = n[:, None] - m[None, :]
        s = tl.dot(k, tl.trans(q)) * scale + slope * distance.to(tl.float32)  # [N, M]
        seen = (distance <= 0) & (m[None, :] < end[:, None])
        p = tl.exp2(tl.where(seen, s * _LOG2_E, float("-inf")) - row_lse[None, :])
        dv = tl.dot(p.to(do.dtype), do, dv)
        ds = p * (tl.dot(v, tl.trans(do)) - row_delta[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk)
    places = at_n * grad_qkv_stride + width + head * D + d[None, :]
    tl.store(grad_qkv + places, (dk * scale).to(grad_qkv.dtype.element_ty), mask=inside[:, None])
    tl.store(grad_qkv + places + width, dv.to(grad_qkv.dtype.element_ty), mask=inside[:, None])
