"""Training's speed and memory in PhoGPT's shapes on one GPU, beside the usual recipe and the same stack tuned.

    python benchmarks/train.py 7b-blocks --out benchmarks/results/train.json

and so each of 7b5, 4b, fp16-15gb, memory, linear and first-step, a process of its own; train.json has the rows of all.
Weights are random; items are as in shapes.py. A share is (4 · parameters of the linears · tokens + 4 · vocabulary · d ·
labelled tokens) / time, over the rate of a bfloat16 product of 8,192³ random numbers in the same process. Baselines are of
the same process and items: baselines.py.

fp16-15gb is not a T4: it is this GPU kept to 15 GB, float16 and what compiles for a T4 (attention by PyTorch's kernels).
"""

import argparse
import contextlib
import gc
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import environment
import torch
from shapes import ALPHA, RANK, SHAPES, batches, context_gib, gradient_error, items, memory_gib, note_context

from hoidap.kernels.fourbit import FourBitWeight
from hoidap.model.adapter import new_adapter
from hoidap.model.checkpoint import assemble, random_tensors, save_checkpoint
from hoidap.model.config import MPTConfig
from hoidap.model.mpt import MPT
from hoidap.recipe import RECALL, Recipe, adjusted
from hoidap.training.memory import fit_memory, keep_to, reckon
from hoidap.training.step import Stepper

CONFIGS = {**SHAPES, "7b-blocks": replace(SHAPES["7b5"], vocab_size=20_480)}
LONGEST = 1024
TARGETS = {
    "7b-blocks.share": 0.67, "7b-blocks.recipe": 53, "7b-blocks.tuned": 3, "7b5.share": 0.62, "7b5.recipe": 40,
    "4b.share": 0.65, "4b.recipe": 85, "fp16-15gb.share": 0.40, "memory-7b5": 7, "memory-4b": 3.5, "linear": 0.05,
    "first-step-4b": 60,
}  # fmt: skip
_LIMITS = contextlib.ExitStack()  # on what PyTorch may take, until the next
T4_FLOPS, T4_BYTES = 65e12, 320e9  # of its datasheet, a second


@dataclass
class Trained:
    """What some steps took."""

    items_per_s: float
    tokens_per_s: float
    flops_per_s: float
    losses: tuple[float, float]
    warm_s: float
    peak_gib: float
    driver_gib: float


def peak_flops() -> float:
    """Return the rate of a bfloat16 product, the mean of ten after three."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        a @ b
    torch.cuda.synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - started)


def load(config: MPTConfig, recipe: Recipe, dtype: torch.dtype) -> MPT:
    device = torch.device("cuda")
    tensors = random_tensors(config, device, torch.bfloat16, 0)
    model = assemble(config, tensors, quantize="nf4", embedding=recipe.embedding, device=device, dtype=dtype)
    release()
    model.recompute, model.offload = max(0, recipe.recompute), recipe.offload
    return model


def release() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def run(config: MPTConfig, recipe: Recipe, dtype: torch.dtype, steps: int, attention: str | None = None) -> Trained:
    """Train for some steps; the first four warm up and are not timed."""
    release()  # what measuring the product left is no other process's
    before = memory_gib()
    model = load(config, recipe, dtype)
    model.attention = attention or model.attention
    adapter = new_adapter(config, RANK, ALPHA, model.device, torch.Generator().manual_seed(0))
    tokens = recipe.schedule.batch_tokens
    chosen = batches(items(2 * (steps + 5) * tokens // 133, config.vocab_size), tokens)[: steps + 4]
    stepper = Stepper(model, adapter, adapter.trainable(), recipe, len(chosen))
    started = time.perf_counter()
    for batch in chosen[:4]:
        stepper.step(batch)
    torch.cuda.synchronize()
    warm_s = time.perf_counter() - started
    started = time.perf_counter()
    losses = [stepper.step(batch)["loss_nats"] for batch in chosen[4:]]
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    timed = chosen[4:]
    n_tokens, n_labels = (sum(len(t) for t in ts) for ts in ([b.tokens for b in timed], [b.targets for b in timed]))
    linear = sum(w.shape[0] * w.shape[1] for w in model.weights.values() if isinstance(w, FourBitWeight))
    flops = 4 * linear * n_tokens + 4 * config.vocab_size * config.d_model * n_labels
    return Trained(
        sum(b.n_items for b in timed) / seconds, n_tokens / seconds, flops / seconds, (losses[0], losses[-1]), warm_s,
        torch.cuda.max_memory_allocated() / 2**30, memory_gib() - before + context_gib(),
    )  # fmt: skip


def row(
    key: str, value: float, unit: str, baseline: Any, ratio: float | None, error: float | None, note: str, **detail: Any
) -> dict[str, Any]:
    target = TARGETS.get(key)
    judged = ratio if key.endswith((".recipe", ".tuned")) else value
    is_least = key.endswith((".share", ".recipe", ".tuned"))
    met = None if target is None or judged is None else judged >= target if is_least else judged <= target
    made = {
        "key": key, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio, "target": target, "met": met,
        "parity_error": error, "note": note, "detail": detail,
    }  # fmt: skip
    print(json.dumps({k: v for k, v in made.items() if k != "detail"}), flush=True)
    return made


def speed(shape: str, tokens: int, *, with_tuned: bool, with_recipe: bool) -> list[dict[str, Any]]:
    config, error = CONFIGS[shape], gradient_error(torch.device("cuda"), torch.bfloat16)
    rate = peak_flops()
    recipe = adjusted(RECALL, {"batch_tokens": tokens, "recompute": 0})
    by_tokens = {}
    for n in (2048, 8192, tokens):
        by_tokens[n] = run(config, adjusted(recipe, {"batch_tokens": n}), torch.bfloat16, max(6, 65_536 // n))
        release()
    best = by_tokens[tokens]
    note = f"NF4, rank {RANK}, bfloat16, {tokens} tokens a step, nothing computed twice"
    shares = {str(n): found.flops_per_s / rate for n, found in by_tokens.items()}
    detail = {"shares_by_tokens": shares, "items_per_s_by_tokens": {str(n): f.items_per_s for n, f in by_tokens.items()}}
    peak = {"what": "bfloat16 product of 8,192³, same process, FLOP/s", "flops_per_s": rate}
    share = best.flops_per_s / rate
    rows = [row(f"{shape}.share", share, "of the product's rate", peak, share, error, note, **detail, **vars(best))]
    if with_recipe:
        from baselines import usual_recipe

        base = usual_recipe(config, items(16, config.vocab_size, seed=2), RANK, ALPHA)
        release()
        ratio = best.items_per_s / base["items_per_s"]
        rows.append(row(f"{shape}.recipe", best.items_per_s, "items/s", base, ratio, error, note, **vars(best)))
    if with_tuned:
        from baselines import tuned_stack

        tuned = tuned_stack(config, items(1200, config.vocab_size, seed=2), RANK, ALPHA)
        release()
        ratio = best.items_per_s / tuned["items_per_s"]
        rows.append(row(f"{shape}.tuned", best.items_per_s, "items/s", tuned, ratio, error, note, **vars(best)))
    return rows


def planned(shape: str, gb: float, dtype: torch.dtype, tokens: int, **changes: Any) -> tuple[Recipe, str, Any]:
    """Choose the dials as a run does."""
    asked = adjusted(RECALL, {"memory_gb": gb, "batch_tokens": tokens, "rank": RANK, "alpha": float(ALPHA), **changes})
    device = torch.device("cuda")
    _LIMITS.close()
    recipe, words = fit_memory(asked, CONFIGS[shape], device, dtype, LONGEST)
    _LIMITS.enter_context(keep_to(recipe, device))
    print(words, flush=True)
    return recipe, words, reckon(CONFIGS[shape], recipe, dtype, LONGEST, recipe.schedule.accumulation)


def fp16() -> list[dict[str, Any]]:
    rate, error = peak_flops(), gradient_error(torch.device("cuda"), torch.float16)
    config, tried = CONFIGS["7b5"], {}
    for tokens in (2048, 4096, 8192):
        recipe, words, need = planned("7b5", 15.0, torch.float16, tokens)
        tried[tokens] = run(config, recipe, torch.float16, 49_152 // tokens, "sdpa"), recipe, words, need
        release()
    tokens = max(tried, key=lambda n: tried[n][0].flops_per_s)
    found, recipe, words, need = tried[tokens]
    linear = config.n_parameters - config.vocab_size * config.d_model
    flops = (4 + 2 * recipe.recompute / config.n_layers) * linear * tokens
    flops += 4 * config.vocab_size * config.d_model * 0.6 * tokens
    t4_s = flops / (0.4 * T4_FLOPS) + 2 * 2.5 * linear / T4_BYTES
    estimate = {
        "what": "an estimate for a T4, not measured: 2/5 of its datasheet's 65 TFLOP/s, matrices decoded at 320 GB/s",
        "tokens_per_s": tokens / t4_s, "items_per_s": tokens / t4_s / 133,
    }  # fmt: skip
    peak = {"what": "bfloat16 product of 8,192³, same process, FLOP/s", "flops_per_s": rate}
    share = found.flops_per_s / rate
    shares = {str(n): each[0].flops_per_s / rate for n, each in tried.items()}
    reckoned = vars(need) | {"total": need.total}
    detail = {**vars(found), "shares_by_tokens": shares, "reckoned": reckoned, "t4_estimate": estimate}
    fits = found.driver_gib * 2**30 <= 15e9
    note = (
        f"{words}; attention sdpa; {found.driver_gib * 2**30 / 1e9:.2f} GB by the driver ({'fits' if fits else 'TOO MUCH'})"
    )
    return [row("fp16-15gb.share", share, "of the product's rate", peak, share, error, note, **detail)]


def memory() -> list[dict[str, Any]]:
    """Each in a process of its own: the driver counts what a process ever took."""
    rows = []
    for shape, gb in (("7b5", 7.4), ("4b", 3.7)):
        command = [sys.executable, __file__, "one-memory", "--shape", shape, "--gb", str(gb)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            print(done.stdout[-1500:], done.stderr[-2500:])
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        note = f"{found.pop('words')}; one 1,024-token document a step, bfloat16"
        rows.append(row(f"memory-{shape}", found["driver_gib"], "GiB by the driver", None, None, None, note, **found))
    return rows


def one_memory(shape: str, gb: float) -> None:
    recipe, words, need = planned(shape, gb, torch.bfloat16, LONGEST)
    config, before = CONFIGS[shape], memory_gib()
    model = load(config, recipe, torch.bfloat16)
    adapter = new_adapter(config, RANK, ALPHA, model.device, torch.Generator().manual_seed(0))
    chosen = batches([d for d in items(60_000, config.vocab_size) if len(d.token_ids) == LONGEST][:8], LONGEST)
    stepper = Stepper(model, adapter, adapter.trainable(), recipe, len(chosen))
    losses = [stepper.step(batch)["loss_nats"] for batch in chosen]
    found = {
        "words": words, "driver_gib": memory_gib() - before + context_gib(), "losses": losses,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30, "reckoned": vars(need) | {"total": need.total},
        "context_gib": context_gib(),
    }  # fmt: skip
    print(json.dumps(found))


def linear_time() -> list[dict[str, Any]]:
    """Train one epoch of more and more items; time an item must stay."""
    config, recipe = CONFIGS["4b"], adjusted(RECALL, {"batch_tokens": 16_384, "recompute": 0})
    model = load(config, recipe, torch.bfloat16)
    adapter = new_adapter(config, RANK, ALPHA, model.device, torch.Generator().manual_seed(0))
    each: dict[int, float] = {}
    for count in (2000, 1000, 4000, 16_000):  # the first warms up
        chosen = batches(items(count, config.vocab_size, seed=count), recipe.schedule.batch_tokens)
        stepper = Stepper(model, adapter, adapter.trainable(), recipe, len(chosen))
        started = time.perf_counter()
        for batch in chosen:
            stepper.step(batch)
        torch.cuda.synchronize()
        each[count] = (time.perf_counter() - started) / sum(len(b.tokens) for b in chosen) * 133
    worst = max(abs(each[n] / each[1000] - 1) for n in (4000, 16_000))
    note = "4b, an epoch of 1,000, 4,000 and 16,000 items, rendered before; largest difference of the time of 133 tokens"
    return [row("linear", worst, "of the time an item at 1,000", each[1000], None, None, note, seconds_an_item=each)]


def first_step() -> list[dict[str, Any]]:
    """Write 4B's shape to disk, then time `hoidap train` from its start to its first step."""
    config = CONFIGS["4b"]
    tokenizer = Path(__file__).parent.parent / "hoidap" / "assets" / "mini" / "tokenizer.json"
    shop = Path(__file__).parent.parent / "examples" / "cua-hang.csv"
    with tempfile.TemporaryDirectory() as folder:
        base, out = Path(folder) / "base", Path(folder) / "run"
        base.mkdir()
        device = torch.device("cuda")
        model = assemble(
            config, random_tensors(config, device, torch.bfloat16, 0), quantize="none", device=device, dtype=torch.bfloat16
        )
        save_checkpoint(model, base)
        (base / "tokenizer.json").write_bytes(tokenizer.read_bytes())
        del model
        release()
        command = [
            sys.executable, "-c", "from hoidap.cli import main; main()", "train", str(shop), "--model", str(base), "--out",
            str(out), "--max-steps", "1000", "--epochs", "10",
        ]  # fmt: skip
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
        metrics, seconds = out / "metrics.jsonl", None
        while process.poll() is None and time.perf_counter() - started < 180:
            if metrics.is_file() and '"step"' in metrics.read_text():
                seconds = time.perf_counter() - started
                break
            time.sleep(0.05)
        process.kill()
        text = process.communicate()[0]
        if seconds is None:
            print(text[-3000:])
            return []
    note = "process start to the first step in metrics.jsonl; 7.4 GB of bfloat16 safetensors, quantised; file cache warm"
    return [row("first-step-4b", seconds, "s", None, None, None, note)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("7b-blocks", "7b5", "4b", "fp16-15gb", "memory", "linear", "first-step", "one-memory")
    parser.add_argument("rows", nargs="+", choices=names)
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    parser.add_argument("--gb", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rows == ["memory"]:  # its processes must not find this one's context on the GPU
        rows = memory()
        if options.out:
            environment.write(options.out, rows)
        return
    note_context()
    if options.rows == ["one-memory"]:
        one_memory(options.shape, options.gb)
        return
    rows: list[dict[str, Any]] = []
    others = {"fp16-15gb": fp16, "linear": linear_time, "first-step": first_step}
    for name in options.rows:
        if name in others:
            rows += others[name]()
        else:
            with_baselines = not options.no_baselines
            has_tuned = with_baselines and name == "7b-blocks"
            rows += speed(name, 16_384, with_tuned=has_tuned, with_recipe=with_baselines)
        release()
        if options.out:
            environment.write(options.out, rows)


if __name__ == "__main__":
    main()
