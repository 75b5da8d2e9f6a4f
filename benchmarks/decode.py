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
from hoidap.kernels.fourbit import FourBitWeight
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
_ROWS: list[dict[str, Any]] = []  # in the order in which they are measured
_DEVICE = "cuda"
_END = 2  # the tokenizer's end of text
_TOKENIZER = Path(__file__).parent.parent / "hoidap" / "assets" / "mini" / "tokenizer.json"


def load(config: MPTConfig, embedding: str = "16-bit") -> MPT:
    device = torch.device(_DEVICE)
    tensors = random_tensors(config, device, torch.bfloat16, 0)
    model = assemble(config, tensors, quantize="nf4", embedding=embedding, device=device, dtype=torch.bfloat16)
    wte = model.weights[WTE]
    rows = wte if isinstance(wte, torch.Tensor) else wte.codes.view(config.vocab_size, -1)
    rows[_END] = 0x77 if isinstance(wte, FourBitWeight) else 0  # zeros, never the likeliest: no answer ends by itself
    torch.cuda.empty_cache()
    return model


def adapter_for(config: MPTConfig) -> Adapter:
    adapter = new_adapter(config, RANK, ALPHA, torch.device(_DEVICE), torch.Generator().manual_seed(0))
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
    if torch.cuda.is_available():
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


def twice(engine: Engine, chosen: list[Request]) -> dict[str, Any]:
    """Serve requests behind others as long, so that kernels and graphs are there and no row holds a prompt's beginning."""
    serve(engine, [replace(request, prompt=request.prompt[::-1]) for request in chosen])
    return serve(engine, chosen)


def one_stream(engine: TorchEngine, prompt: int = 100, answer: int = 256) -> float:
    """Return tokens a second of one answer behind its first tokens."""
    engine.submit(requests(1, (prompt, prompt), (answer, answer), engine.model.config.vocab_size)[0])
    made = first = len(engine.step())
    began = time.perf_counter()
    while pieces := engine.step():
        made += len(pieces)
    assert made == answer, f"{made} tokens, not {answer}"
    return (made - first) / (time.perf_counter() - began)


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
    return sum(
        w.nbytes if isinstance(w, torch.Tensor) else w.n_bytes if isinstance(w, FourBitWeight) else w.codes.nbytes
        for w in model.weights.values()
    )


def row(key: str, value: float, unit: str, baseline: Any = None, **detail: Any) -> None:
    """Say and keep a result."""
    found = {"key": key, "value": value, "unit": unit, "target": TARGETS.get(key), "baseline": baseline, "detail": detail}
    print(json.dumps(found), flush=True)
    _ROWS.append(found)


def blocks_7b(tokenizer: Tokenizer) -> None:
    config = CONFIGS["7b-blocks"]
    model, adapter = load(config), adapter_for(config)
    plain = TorchEngine(model, tokenizer, context_tokens=1024, max_batch=32)
    share("7b-blocks.bandwidth-share", plain, copy_rate())
    for count in (2, 4, 8, 16, 32):
        found = twice(plain, requests(count, (100, 100), (256, 256), config.vocab_size))
        tokens_per_s = (found["tokens"] - count) / (found["seconds"] - found["first_s"][-1])
        row(f"7b-blocks.nf4-{count}", tokens_per_s, "tokens/s")
    del plain
    torch.cuda.empty_cache()
    adapted = TorchEngine(model, tokenizer, adapter, context_tokens=1024, max_batch=64)
    mixed(adapted, TorchEngine(model, tokenizer, adapter, context_tokens=1024, max_batch=1))
    first_tokens(TorchEngine(model, tokenizer, adapter, context_tokens=1024, max_batch=32))
    beside_transformers("7b-blocks.nf4-adapter-1", adapted)


def shape_4b(tokenizer: Tokenizer) -> None:
    config = CONFIGS["4b"]
    model, adapter = load(config), adapter_for(config)
    share("4b.bandwidth-share", TorchEngine(model, tokenizer, context_tokens=512, max_batch=4), copy_rate())
    engine = TorchEngine(model, tokenizer, adapter, context_tokens=512, max_batch=64)
    serve(engine, requests(64, (40, 40), (4, 40), config.vocab_size, seed=1))
    found = serve(engine, requests(1000, (40, 40), (130, 130), config.vocab_size))
    row("4b.evaluate-1000", found["seconds"], "s", tokens=found["tokens"])
    beside_transformers("4b.nf4-adapter-1", engine)


def shape_7b5(tokenizer: Tokenizer) -> None:
    config = CONFIGS["7b5"]
    before = memory_gib()
    model = load(config, "4-bit")
    room = 8 * 1024 * cache_bytes_a_token(config, model.dtype)
    engine = TorchEngine(model, tokenizer, context_tokens=1024, max_batch=8, cache_bytes=room)
    found = serve(engine, requests(8, (960, 960), (64, 64), config.vocab_size))
    peak = torch.cuda.max_memory_allocated() / 2**30
    held = memory_gib() - before
    note = "embedding in NF4; what the driver reports, without the process's context; the cache alone is 4 GiB"
    row("7b5.memory", held, "GiB", note=note, peak_allocated_gib=peak, tokens=found["tokens"])
    share("7b5.bandwidth-share", engine, copy_rate())


def share(key: str, engine: TorchEngine, rate: float) -> None:
    """Measure one answer without company."""
    model = engine.model
    speed = max(one_stream(engine) for _ in range(4))
    needed = weight_bytes(model) + (100 + 128) * cache_bytes_a_token(model.config, model.dtype)
    row(key, needed * speed / rate, "of a copy's rate", tokens_per_s=speed, bytes_a_token=needed, copy_bytes_per_s=rate)


def mixed(engine: TorchEngine, alone: TorchEngine) -> None:
    """Serve 64 requests together and one by one."""
    chosen = requests(64, (20, 400), (20, 300), engine.model.config.vocab_size)
    together, one_by_one = twice(engine, chosen), twice(alone, chosen[:4]) and serve(alone, chosen)
    assert together["tokens"] == one_by_one["tokens"]
    ratio = one_by_one["seconds"] / together["seconds"]
    row("7b-blocks.mixed-64", ratio, "times", one_by_one["seconds"], seconds=together["seconds"], tokens=together["tokens"])


def first_tokens(engine: TorchEngine) -> None:
    """Let requests arrive at 80 % of the rate at which they can be served."""
    vocabulary = engine.model.config.vocab_size
    capacity = 128 / twice(engine, requests(128, (100, 100), (130, 130), vocabulary))["seconds"]
    draw, clock, arrivals = random.Random(0), 0.0, []  # noqa: S311
    while clock < 10:
        clock += draw.expovariate(0.8 * capacity)
        arrivals.append(clock)
    times = serve(engine, requests(len(arrivals), (100, 100), (130, 130), vocabulary, seed=2), arrivals)["first_s"]
    p95, median = (1000 * times[int(part * len(times))] for part in (0.95, 0.5))
    row("7b-blocks.ttft-p95", p95, "ms", median_ms=median, requests=len(times), requests_per_s_at_most=capacity)


def beside_transformers(key: str, engine: TorchEngine) -> None:
    """Measure one answer with the adapter, here and by transformers."""
    speed = max(one_stream(engine) for _ in range(4))
    theirs = generate(engine.model.config, RANK, ALPHA)
    row(key, speed / theirs["tokens_per_s_with_adapter"], "times", theirs, tokens_per_s=speed)


def speculation(run: Path, device: str) -> None:
    """Ask a run's questions one by one, with guesses at what is recited and without."""
    opened = Run.open(run)
    items = opened.items()
    seconds, texts, tokens = [], [], 0
    for guessed in ((), items):
        engine, tokenizer = load_engine(opened, items=guessed, device=device)
        asked: list[Request] = []
        submit = engine.submit
        engine.submit = lambda request, submit=submit, asked=asked: asked.append(request) or submit(request)  # type: ignore[method-assign]
        bot = Bot(engine, tokenizer, items, opened.template, mode="model")
        texts.append([answer.text for answer in bot.answer_all([item.question for item in items], bot.sampling())])
        chosen = asked[: len(items)]
        for request in chosen:
            serve(engine, [request])
        began = time.perf_counter()
        tokens = sum(serve(engine, [request])["tokens"] for request in chosen)
        seconds.append(time.perf_counter() - began)
    recited = [sum(text == item.answer for text, item in zip(found, items, strict=True)) for found in texts]
    row(f"speculation-{device}", seconds[0] / seconds[1], "times", seconds[0], seconds=seconds[1], tokens=tokens,
        answers=len(items), recited=recited)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["7b-blocks", "4b", "7b5", "speculation"])
    parser.add_argument("--run", type=Path, help="of speculation: mini, fine-tuned on the example shop")
    parser.add_argument("--device", default="cuda", help="of speculation")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        if options.what == "speculation":
            speculation(options.run, options.device)
        else:
            note_context()
            what = {"7b-blocks": blocks_7b, "4b": shape_4b, "7b5": shape_7b5}[options.what]
            what(Tokenizer.from_file(_TOKENIZER))
    finally:  # what was measured before a failure counts
        kept = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
        keys = {r["key"] for r in _ROWS}
        environment.write(options.out, [r for r in kept if r["key"] not in keys] + _ROWS)


if __name__ == "__main__":
    main()
