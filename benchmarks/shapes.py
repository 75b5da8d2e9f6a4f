"""Random weights in PhoGPT's real shapes: held in NF4, trained for some steps; items/s and the driver's memory.

    python benchmarks/shapes.py 4b 7b5 --steps 20 --out benchmarks/results/shapes.json

Items are as in the project's baselines: log-normal (4.7, 0.6) tokens clipped to 16 … 1,024, mean 133, of which the last
60 % are labelled. The baseline is the usual recipe on the same machine: see baselines.py.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import environment
import torch

from hoidap.data.pack import Batch, pack
from hoidap.kernels.fourbit import FourBitWeight
from hoidap.model.adapter import new_adapter
from hoidap.model.checkpoint import assemble, random_tensors
from hoidap.model.config import MPTConfig
from hoidap.model.loss import loss_nats
from hoidap.prompt import Rendered
from hoidap.recipe import Recipe
from hoidap.training.step import Stepper

SHAPES = {
    "4b": MPTConfig(d_model=3072, n_heads=24, n_layers=32, vocab_size=20_480, max_seq_len=8192),
    "7b5": MPTConfig(d_model=4096, n_heads=32, n_layers=32, vocab_size=250_880, max_seq_len=2048),
}
RANK, ALPHA = 32, 32


def items(count: int, vocab_size: int, seed: int = 0) -> list[Rendered]:
    """Draw items of the baselines' lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (4.7 + 0.6 * torch.randn(count, generator=generator)).exp().clamp(16, 1024).int().tolist()
    drawn = []
    for n in lengths:
        ids = torch.randint(4, vocab_size, (n,), generator=generator).tolist()
        drawn.append(Rendered(ids, [at >= n * 0.4 for at in range(n)]))
    return drawn


def batches(documents: list[Rendered], tokens: int) -> list[Batch]:
    """Fill batches of up to ``tokens`` in order."""
    groups: list[list[Rendered]] = [[]]
    for document in documents:
        if sum(len(d.token_ids) for d in groups[-1]) + len(document.token_ids) > tokens:
            groups.append([])
        groups[-1].append(document)
    return [pack(group) for group in groups]


def gradient_error(device: torch.device, dtype: torch.dtype) -> float:
    """Return ‖g − g₃₂‖ / ‖g₃₂‖ of all adapter gradients of a small model against float32 on the CPU, same weights."""
    config = MPTConfig(d_model=256, n_heads=8, n_layers=4, vocab_size=1024, max_seq_len=1024)
    batch = pack(items(8, config.vocab_size, seed=1))
    grads = []
    cpu = torch.device("cpu")
    for where, kind in ((cpu, torch.float32), (device, dtype)):
        model = assemble(config, random_tensors(config, cpu, torch.float32, 0), quantize="nf4", device=where, dtype=kind)
        generator = torch.Generator().manual_seed(0)
        adapter = new_adapter(config, 8, 16, where, generator)
        for delta in adapter.deltas.values():
            with torch.no_grad():
                delta.B.copy_(torch.randn(delta.B.shape, generator=generator) * 0.02)
        moved = batch.to(where)
        hidden = model.hidden(moved.tokens, moved.starts, adapter=adapter)
        (loss_nats(model, hidden[moved.predicting], moved.targets) / len(moved.targets) * 1024).backward()
        grads.append(torch.cat([t.grad.flatten().cpu() for t in adapter.trainable().values() if t.grad is not None]))
    return float((grads[1] - grads[0]).norm() / grads[0].norm())


def measure(shape: str, steps: int, tokens: int, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Load a shape's random weights to NF4 and train; the first three steps warm up and are not timed."""
    config = SHAPES[shape]
    torch.cuda.empty_cache()
    before = memory_gib()
    started = time.perf_counter()
    model = assemble(config, random_tensors(config, device, dtype, 0), quantize="nf4", device=device, dtype=dtype)
    torch.cuda.synchronize()
    load_s = time.perf_counter() - started
    torch.cuda.empty_cache()
    loaded = memory_gib()
    model.recompute = config.n_layers
    adapter = new_adapter(config, RANK, ALPHA, device, torch.Generator().manual_seed(0))
    documents = items(3 * (steps + 3) * tokens // 133, config.vocab_size)
    chosen = batches(documents, tokens)[: steps + 3]
    stepper = Stepper(model, adapter, adapter.trainable(), Recipe(), len(chosen))
    for batch in chosen[:3]:
        stepper.step(batch)
    torch.cuda.synchronize()
    started = time.perf_counter()
    losses = [stepper.step(batch)["loss_nats"] for batch in chosen[3:]]
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    timed = chosen[3:]
    n_tokens = sum(len(b.tokens) for b in timed)
    linear_parameters = sum(w.shape[0] * w.shape[1] for w in model.weights.values() if isinstance(w, FourBitWeight))
    return {
        "items_per_s": sum(b.n_items for b in timed) / seconds,
        "tokens_per_s": n_tokens / seconds,
        "tflops": 4 * linear_parameters * n_tokens / seconds / 1e12,
        "driver_gib": memory_gib() - before + context_gib(),
        "weights_gib": loaded - before,
        "load_s": load_s,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "adapter_parameters": sum(t.numel() for t in adapter.trainable().values()),
        "parameters": model.n_parameters,
    }


def memory_gib() -> float:
    """Return what the driver reports in use on the device."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30


def context_gib() -> float:
    """Return what the driver reported when the process held its context and nothing else."""
    return _CONTEXT_GIB[0]


def note_context() -> None:
    """Open the device and note what that takes."""
    torch.zeros(1, device="cuda")
    _CONTEXT_GIB[0] = memory_gib()


_CONTEXT_GIB = [0.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=8192, help="a step")
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument(
        "--baseline", action="store_true", help="measure the usual recipe too (needs transformers, peft, bitsandbytes)"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda")
    note_context()
    dtype = getattr(torch, options.dtype)
    error = gradient_error(device, dtype)
    rows = []
    for shape in options.shapes:
        result = measure(shape, options.steps, options.tokens, dtype, device)
        torch.cuda.empty_cache()
        baseline = None
        if options.baseline:
            from baselines import usual_recipe

            baseline = usual_recipe(SHAPES[shape], items(12, SHAPES[shape].vocab_size, seed=2), RANK, ALPHA)
            torch.cuda.empty_cache()
        ratio = result["items_per_s"] / baseline["items_per_s"] if baseline else None
        rows.append({
            "key": f"{shape}.items_per_s", "value": result["items_per_s"], "unit": "items/s",
            "baseline": baseline, "ratio": ratio, "target": None, "met": None, "parity_error": error,
            "note": f"NF4, rank {RANK}, {options.dtype}, {options.tokens} tokens a step, blocks recomputed",
            "detail": result,
        })  # fmt: skip
        print(json.dumps(rows[-1], indent=1), flush=True)
    if options.out:
        environment.write(options.out, rows)


if __name__ == "__main__":
    main()
