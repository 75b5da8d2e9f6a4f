"""How fast answers are made in PhoGPT's shapes on one GPU, beside transformers' generate and beside one request at a time.

    python benchmarks/decode.py 7b-blocks --out benchmarks/results/decode.json

and so each of 4b, 7b5 and speculation, a process of its own; decode.json has the rows of all. Weights are random, in NF4
with double quantisation; baselines are of the same process: baselines.py. The end of a text has no weights, so that answers
are as long as they are asked to be.

``bandwidth-share`` is the bytes that a token needs (codes, scales, norms, biases and the output layer, once, and the keys
and values that stand in the cache) by its time, over the rate of a copy of 2 GiB, what is read and what is written counted.
"""

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import environment
import torch
from baselines import generate
from shapes import ALPHA, RANK, SHAPES, memory_gib, note_context

from hoidap.bot import Bot, load_engine
from hoidap.infer.engine import Engine, Request, Sampling
from hoidap.infer.torch_engine import TorchEngine
from hoidap.model.adapter import Adapter, new_adapter
from hoidap.model.cache import cache_bytes_a_token
from hoidap.model.checkpoint import assemble, random_tensors
from hoidap.model.config import MPTConfig
from hoidap.model.mpt import MPT, WTE
from hoidap.run import Run
from hoidap.tokenizer import Tokenizer

CONFIGS = {**SHAPES, "7b-blocks": replace(SHAPES["7b5"], vocab_size=20_480)}
TARGETS = {
    "7b-blocks.nf4-adapter-1": 20, "7b-blocks.bandwidth-share": 0.45, "7b-blocks.nf4-32": 6000, "7b-blocks.mixed-64": 15,
    "4b.evaluate-1000": 30, "7b-blocks.ttft-p95": 150, "7b5.memory": 8, "speculation-cuda": 2, "speculation-cpu": 2,
}  # fmt: skip
_END = 2  # the tokenizer's end of text
_TOKENIZER = Path(__file__).parent.parent / "hoidap" / "assets" / "mini" / "tokenizer.json"


def load(config: MPTConfig, embedding: str = "16-bit") -> MPT:
    device = torch.device("cuda")
    tensors = random_tensors(config, device, torch.bfloat16, 0)
    model = assemble(config, tensors, quantize="nf4", embedding=embedding, device=device, dtype=torch.bfloat16)
    wte = model.weights[WTE]
    (wte if isinstance(wte, torch.Tensor) else wte.codes)[_END] = 0  # never the likeliest: no answer ends by itself
    torch.cuda.empty_cache()
    return model


def adapter_for(config: MPTConfig) -> Adapter:
    adapter = new_adapter(config, RANK, ALPHA, torch.device("cuda"), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for delta in adapter.deltas.values():
            delta.B.normal_(std=0.01)
    return adapter


def requests(count: int, prompt: tuple[int, int], answer: tuple[int, int], vocabulary: int, seed: int = 0) -> list[Request]:
    """Draw prompts and answers of lengths within ranges."""
    draw = random.Random(seed)  # noqa: S311 - lengths and tokens of a measurement
    return [
        Request(
            tuple(draw.randrange(4, vocabulary) for _ in range(draw.randint(*prompt))),
            Sampling(max_new_tokens=draw.randint(*answer)),
        )
        for _ in range(count)
    ]


def serve(engine: Engine, chosen: list[Request], arrivals: list[float] | None = None) -> dict[str, Any]:
    """Serve requests, all at once or as they arrive; return seconds, tokens, and each one's time to its first token."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    submitted: dict[int, float] = {}
    first: dict[int, float] = {}
    tokens = ended = at = 0
    ends: dict[str, int] = {}
    while ended < len(chosen):
        now = time.perf_counter() - began
        while at < len(chosen) and (arrivals is None or arrivals[at] <= now):
            submitted[engine.submit(chosen[at])] = 0.0 if arrivals is None else arrivals[at]
            at += 1
        pieces = engine.step()
        now = time.perf_counter() - began
        for piece in pieces:
            tokens += piece.token_id is not None
            first.setdefault(piece.request_id, now - submitted[piece.request_id])
            if piece.finish_reason:
                ended += 1
                ends[piece.finish_reason] = ends.get(piece.finish_reason, 0) + 1
    return {"seconds": time.perf_counter() - began, "tokens": tokens, "ends": ends, "first_s": sorted(first.values())}


def one_stream(engine: Engine, vocabulary: int, prompt: int = 100, answer: int = 256) -> float:
    """Return tokens a second of one answer behind its first token."""
    engine.submit(requests(1, (prompt, prompt), (answer, answer), vocabulary)[0])
    times = []
    while engine.step():
        times.append(time.perf_counter())
    assert len(times) == answer
    return (answer - 1) / (times[-1] - times[0])


def copy_rate() -> float:
    a = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    for _ in range(3):
        b.copy_(a)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        b.copy_(a)
    torch.cuda.synchronize()
    return 10 * 2 * a.nbytes / (time.perf_counter() - began)


def weight_bytes(model: MPT) -> int:
    return sum(w.nbytes if isinstance(w, torch.Tensor) else _held(w) for w in model.weights.values())


def _held(weight: Any) -> int:
    return weight.n_bytes if hasattr(weight, "n_bytes") else weight.codes.nbytes + weight.scales.nbytes


def row(key: str, value: float, unit: str, baseline: Any = None, **detail: Any) -> dict[str, Any]:
    found = {"key": key, "value": value, "unit": unit, "target": TARGETS.get(key), "baseline": baseline, **detail}
    print(json.dumps(found), flush=True)
    return found


def blocks_7b(tokenizer: Tokenizer, parts: set[str]) -> list[dict[str, Any]]:
    config = CONFIGS["7b-blocks"]
    model, adapter, rows = load(config), adapter_for(config), []
    rate, vocabulary = copy_rate(), config.vocab_size
    plain = TorchEngine(model, tokenizer, context_tokens=1024, max_batch=32)
    one_stream(plain, vocabulary, answer=8)
    speed = max(one_stream(plain, vocabulary) for _ in range(3))
    needed = weight_bytes(model) + (100 + 128) * cache_bytes_a_token(config, model.dtype)
    rows.append(
        row(
            "7b-blocks.bandwidth-share",
            needed * speed / rate,
            "",
            tokens_per_s=speed,
            bytes_a_token=needed,
            copy_bytes_per_s=rate,
        )
    )
    for count in (2, 4, 8, 16, 32):
        chosen = requests(count, (100, 100), (256, 256), vocabulary)
        serve(plain, requests(count, (100, 100), (4, 4), vocabulary, seed=1))
        found = serve(plain, chosen)
        began = found["first_s"][-1]
        tokens_per_s = (found["tokens"] - count) / (found["seconds"] - began)
        rows.append(row(f"7b-blocks.nf4-{count}", tokens_per_s, "tokens/s", ends=found["ends"]))
    del plain
    torch.cuda.empty_cache()
    adapted = TorchEngine(model, tokenizer, adapter, context_tokens=1024, max_batch=64)
    one_stream(adapted, vocabulary, answer=8)
    speed = max(one_stream(adapted, vocabulary) for _ in range(3))
    theirs = generate(config, adapter_rank=RANK, adapter_alpha=ALPHA) if "baselines" in parts else {}
    baseline = theirs.get("tokens_per_s_with_adapter")
    rows.append(row("7b-blocks.nf4-adapter-1", speed / baseline if baseline else 0.0, "times", theirs, tokens_per_s=speed))
    if "mixed" in parts:
        chosen = requests(64, (20, 400), (20, 300), vocabulary)
        serve(adapted, requests(64, (20, 400), (20, 40), vocabulary, seed=1))
        together = serve(adapted, chosen)
        alone = TorchEngine(model, tokenizer, adapter, context_tokens=1024, max_batch=1)
        serve(alone, chosen[:2])
        one_by_one = serve(alone, chosen)
        assert together["tokens"] == one_by_one["tokens"]
        ratio = one_by_one["seconds"] / together["seconds"]
        rows.append(
            row(
                "7b-blocks.mixed-64",
                ratio,
                "times",
                {"seconds": one_by_one["seconds"]},
                seconds=together["seconds"],
                tokens=together["tokens"],
            )
        )
    if "ttft" in parts:
        engine = TorchEngine(model, tokenizer, adapter, context_tokens=1024, max_batch=32)
        closed = serve(engine, requests(128, (100, 100), (130, 130), vocabulary))
        capacity = 128 / closed["seconds"]
        draw, clock, arrivals = random.Random(0), 0.0, []  # noqa: S311
        for _ in range(int(0.8 * capacity * 10)):
            clock += draw.expovariate(0.8 * capacity)
            arrivals.append(clock)
        found = serve(engine, requests(len(arrivals), (100, 100), (130, 130), vocabulary, seed=2), arrivals)
        times = found["first_s"]
        rows.append(
            row(
                "7b-blocks.ttft-p95",
                1000 * times[int(0.95 * len(times))],
                "ms",
                {"requests_per_s_at_most": capacity},
                median_ms=1000 * times[len(times) // 2],
                requests=len(times),
            )
        )
    return rows


def shape_4b(tokenizer: Tokenizer, parts: set[str]) -> list[dict[str, Any]]:
    config = CONFIGS["4b"]
    model, adapter, rows = load(config), adapter_for(config), []
    rate = copy_rate()
    engine = TorchEngine(model, tokenizer, adapter, context_tokens=512, max_batch=64)
    one_stream(engine, config.vocab_size, answer=8)
    speed = max(one_stream(engine, config.vocab_size) for _ in range(3))
    needed = weight_bytes(model) + (100 + 128) * cache_bytes_a_token(config, model.dtype)
    theirs = generate(config, adapter_rank=RANK, adapter_alpha=ALPHA) if "baselines" in parts else {}
    baseline = theirs.get("tokens_per_s_with_adapter")
    rows.append(
        row(
            "4b.nf4-adapter-1",
            speed / baseline if baseline else 0.0,
            "times",
            theirs,
            tokens_per_s=speed,
            share=needed * speed / rate,
        )
    )
    serve(engine, requests(64, (40, 40), (4, 40), config.vocab_size, seed=1))
    found = serve(engine, requests(1000, (40, 40), (130, 130), config.vocab_size))
    rows.append(row("4b.evaluate-1000", found["seconds"], "s", tokens=found["tokens"], ends=found["ends"]))
    return rows


def shape_7b5(tokenizer: Tokenizer, _parts: set[str]) -> list[dict[str, Any]]:
    config = CONFIGS["7b5"]
    before = memory_gib()
    model = load(config, "8-bit")
    room = 8 * 1024 * cache_bytes_a_token(config, model.dtype)
    engine = TorchEngine(model, tokenizer, context_tokens=1024, max_batch=8, cache_bytes=room)
    found = serve(engine, requests(8, (960, 960), (64, 64), config.vocab_size))
    torch.cuda.empty_cache()
    held = memory_gib() - before
    speed = max(one_stream(engine, config.vocab_size, answer=128) for _ in range(2))
    return [
        row(
            "7b5.memory",
            held,
            "GiB",
            tokens=found["tokens"],
            tokens_per_s_one_stream=speed,
            peak_allocated_gib=torch.cuda.max_memory_allocated() / 2**30,
        )
    ]


def speculation(run: Path, device: str) -> list[dict[str, Any]]:
    """Ask a run's questions one by one, with guesses at what is recited and without."""
    opened = Run.open(run)
    items = opened.items()
    seconds, texts = [], []
    for guessed in ((), items):
        engine, tokenizer = load_engine(opened, items=guessed, device=device)
        bot = Bot(engine, tokenizer, items, opened.template, mode="model")
        for item in items[:10]:
            bot.answer(item.question, sampling=bot.sampling())
        began = time.perf_counter()
        texts.append([bot.answer(item.question, sampling=bot.sampling()).text for item in items])
        seconds.append(time.perf_counter() - began)
    assert texts[0] == texts[1]
    recited = sum(text == item.answer for text, item in zip(texts[0], items, strict=True))
    key = f"speculation-{device}"
    return [
        row(
            key,
            seconds[0] / seconds[1],
            "times",
            {"seconds": seconds[0]},
            seconds=seconds[1],
            answers=len(items),
            recited=recited,
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["7b-blocks", "4b", "7b5", "speculation"])
    parser.add_argument("--run", type=Path, help="of speculation: mini, fine-tuned on the example shop")
    parser.add_argument("--device", default="cuda", help="of speculation")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default="baselines,mixed,ttft")
    options = parser.parse_args()
    if options.what == "speculation":
        found = speculation(options.run, options.device)
    else:
        note_context()
        what = {"7b-blocks": blocks_7b, "4b": shape_4b, "7b5": shape_7b5}[options.what]
        found = what(Tokenizer.from_file(_TOKENIZER), set(options.parts.split(",")))
    kept = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    keys = {r["key"] for r in found}
    environment.write(options.out, [r for r in kept if r["key"] not in keys] + found)


if __name__ == "__main__":
    main()
