"""What each part of a training step takes beside its floor, and attention beside FlexAttention: 7B5's blocks, 8,192 tokens.

    python benchmarks/kernel_speed.py --out benchmarks/results/kernels.json

The floor of a pass over memory is its bytes at the rate of a large copy in the same process, that of a product its
operations at the rate of one of 8,192³. Medians of many calls, the cache flushed before each (triton.testing.do_bench).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import environment
import torch
from shapes import items
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from triton.testing import do_bench

from hoidap.kernels import fourbit, rows
from hoidap.kernels.attention import Packed, Stream
from hoidap.kernels.bordered import bordered, spare

T, D, HEADS, RANK = 8192, 4096, 32, 32
ROOM = spare(RANK)


def us(call: Callable[[], object]) -> float:
    return 1000 * float(do_bench(call, warmup=20, rep=100, return_mode="median"))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def documents() -> list[int]:
    starts = [0]
    for item in items(400, 1000, seed=3):
        if starts[-1] + len(item.token_ids) >= T:
            return [*starts, T]
        starts.append(starts[-1] + len(item.token_ids))
    raise AssertionError


def row(
    key: str, value: float, floor: float | None, baseline: float | None, error: float | None, note: str
) -> dict[str, Any]:
    ratio = None if baseline is None else baseline / value
    found = {
        "key": key, "value": value, "unit": "µs", "baseline": baseline, "ratio": ratio, "target": None, "met": None,
        "parity_error": error, "note": note, "floor_us": floor, "share_of_floor": None if floor is None else floor / value,
    }  # fmt: skip
    print(key, {name: found[name] for name in ("value", "floor_us", "baseline", "parity_error")}, flush=True)
    return found


def ceilings() -> tuple[float, float]:
    """Return the bytes that a copy moves in a microsecond, read and written, and the operations of a product."""
    large, other = normal(2**30), normal(2**30)
    a, b = normal(8192, 8192), normal(8192, 8192)
    return 2 * large.nbytes / us(lambda: other.copy_(large)), 2 * 8192**3 / us(lambda: a @ b)


def passes(bytes_a_us: float) -> list[dict[str, Any]]:
    """Measure the passes over memory; a unit is a token's row of width d, read or written."""
    unit = T * D * 2 / bytes_a_us
    x, y, weight, wide, grad = normal(T, D), normal(T, D), normal(D), normal(T, 4 * D), normal(T, 4 * D)
    out, normed, active = normal(T, D + ROOM), normal(T, D), normal(T, 4 * D + ROOM)
    calls = {
        "add_norm": (lambda: rows.add_norm(x, y, weight, weight, out, RANK), 4),
        "norm_backward": (lambda: rows.norm_backward(y, x, weight, weight, out[:, :D], out, normed), 5),
        "gelu": (lambda: rows.gelu(wide, active, RANK), 8),
        "gelu_backward": (lambda: rows.gelu_backward(wide, grad, active), 16),
    }
    found = [row(name, us(call), units * unit, None, None, f"{T} tokens, d {D}") for name, (call, units) in calls.items()]
    plain = torch.randn(4 * D, D, device="cuda") * 0.02
    held, A, B, bias = (
        fourbit.quantize(plain),
        torch.randn(RANK, D, device="cuda"),
        torch.randn(4 * D, RANK, device="cuda"),
        normal(4 * D),
    )
    decoded = us(lambda: bordered(held, A, B, 1.0, bias, torch.bfloat16))
    return [
        *found,
        row("bordered", decoded, plain.numel() * 2.516 / bytes_a_us, None, None, "up_proj of NF4, double quantised"),
    ]


def products(flops_a_us: float) -> list[dict[str, Any]]:
    """Measure the four products of a block, with their borders, both ways."""
    found = []
    for name, outs, ins in (("Wqkv", 3 * D, D), ("out_proj", D, D), ("up_proj", 4 * D, D), ("down_proj", D, 4 * D)):
        W, x, grad = normal(outs + ROOM, ins + ROOM), normal(T, ins + ROOM), normal(T, outs + ROOM)
        floor = 2 * T * outs * ins / flops_a_us
        forward = us(lambda W=W, x=x, outs=outs: x @ W[:outs].T)  # type: ignore[misc]
        back = us(lambda W=W, grad=grad, outs=outs, ins=ins: grad[:, : outs + RANK] @ W[: outs + RANK, :ins])  # type: ignore[misc]
        found += [row(f"{name}.forward", forward, floor, None, None, "with low rank and bias")]
        found += [row(f"{name}.backward", back, floor, None, None, "with low rank")]
    return found


def attention() -> list[dict[str, Any]]:
    starts = documents()
    slopes = torch.tensor([2 ** (-8 * (h + 1) / HEADS) for h in range(HEADS)], device="cuda")
    qkv, grad = normal(T, 3, HEADS, D // HEADS), normal(T, D)
    scale, stream = (D // HEADS) ** -0.5, Stream.lay_out(starts, slopes)
    out, of_qkv = torch.zeros(T, D + ROOM, device="cuda", dtype=torch.bfloat16), normal(T, 3 * D + ROOM)
    softmax = stream.forward(qkv, scale, out)
    exact = Packed.lay_out(starts, slopes).attend(qkv.float(), scale).flatten(1)
    error = float((out[:, :D].float() - exact).norm() / exact.norm())
    forward = us(lambda: stream.forward(qkv, scale, out))
    both = forward + us(lambda: stream.backward(qkv, scale, out, softmax, grad, of_qkv))
    number = torch.repeat_interleave(torch.arange(len(starts) - 1), torch.tensor(starts).diff()).cuda()
    mask = create_block_mask(lambda _b, _h, q, k: (number[q] == number[k]) & (q >= k), None, None, T, T, device="cuda")
    query, key, value = (qkv[:, i].transpose(0, 1)[None].detach().requires_grad_() for i in range(3))
    flex = torch.compile(flex_attention, dynamic=False)

    def attend() -> torch.Tensor:
        return flex(
            query, key, value, score_mod=lambda s, _b, h, q, k: s + slopes[h] * (k - q), block_mask=mask, scale=scale
        )

    above = grad.view(T, HEADS, -1).transpose(0, 1)[None]
    started = time.perf_counter()
    torch.autograd.grad(attend(), (query, key, value), above)
    torch.cuda.synchronize()
    compile_s = time.perf_counter() - started
    flex_forward = us(attend)
    flex_both = us(lambda: torch.autograd.grad(attend(), (query, key, value), above))
    note = f"{len(starts) - 1} documents; the baseline is FlexAttention, which took {compile_s:.1f} s to compile"
    return [
        row("attention.forward", forward, None, flex_forward, error, note),
        row("attention.both", both, None, flex_both, error, note),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bytes_a_us, flops_a_us = ceilings()
    print(f"copy {bytes_a_us / 1e6:.2f} TB/s, product {flops_a_us / 1e6:.0f} TFLOP/s")
    found = [*passes(bytes_a_us), *products(flops_a_us), *attention()]
    if options.out:
        environment.write(options.out, found)


if __name__ == "__main__":
    main()
