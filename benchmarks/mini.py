"""What the base that ships is worth: answers learned and found in other words, and bits a byte on text held out.

    python benchmarks/mini.py --items services=FILE.jsonl shop=examples/cua-hang.csv \
        --text heldout=held-out.txt xquad=vi_xquad.jsonl --out benchmarks/results/mini.json

For each file of items the base is fine-tuned as `hoidap train` does it, on this machine; every question is asked, and each
other wording, which was never trained on. Beside the wordings stands the better of two lookups without a model (lookup.py).

A text is a file of articles, or a JSONL whose `context` fields are taken, each once. Its loss is measured with the linear
layers in 4 bits, as the base ships and as QLoRA uses it. The baseline is the best of what mini_baselines.py wrote.

The parity error of recall is the difference between counting in one forward pass, which decides when training stops, and
generating every answer; that of bits a byte is what another size of batch changes.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import environment
import lookup
import torch

import hoidap
from hoidap.base import Base, find_base
from hoidap.data.corpus import Corpus, read_articles
from hoidap.data.items import Item
from hoidap.data.pack import Packer
from hoidap.data.read import read_items
from hoidap.evaluate.recall import Score, score
from hoidap.model.adapter import load_adapter
from hoidap.prompt import PHOGPT_4B_CHAT
from hoidap.recipe import Schedule
from hoidap.run import Run
from hoidap.runtime import pick_device, pick_dtype
from hoidap.training.exam import HeldOutExam, measure_recall

TARGET = 0.99


def items_rows(name: str, file: Path, model: str, folder: Path) -> list[dict[str, Any]]:
    """Fine-tune on one file and return its rows."""
    started = time.perf_counter()
    run = hoidap.train(file, out=folder, model=model, held_out_wordings=1.0)
    seconds = round(time.perf_counter() - started, 1)
    report, items, base, device = run.report(), read_items(file), find_base(model), pick_device()
    network = base.load(quantize=run.recipe.quantize, device=device, dtype=pick_dtype(device, run.recipe.dtype))
    packer = Packer(items, base.tokenizer(), run.recipe.schedule, base.config.max_seq_len)
    exact = report["items"]["score"]["exact"]
    adapter = load_adapter(run.weights_folder(), network.config, device)
    counted = measure_recall(network, adapter, packer.alone())
    untrained = measure_recall(network, None, packer.alone())
    note = f"base {model}, {run.recipe.method}, {seconds} s in all, items asked included"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows: list[dict[str, Any]] = [{
        "key": f"{name}.exact-recall", "value": exact, "unit": "share", "baseline": untrained, "ratio": None,
        "target": TARGET, "met": exact >= TARGET, "parity_error": abs(counted - exact), "note": note,
        "detail": {"score": report["items"]["score"], "measured": [row for row in metrics if "recall" in row]},
    }]  # fmt: skip
    if other := other_wordings(run, items):
        rates = lookup.rates(items)
        best = max(rates["tf-idf"], rates["folded tf-idf"])
        rows.append({
            "key": f"{name}.other-wordings", "value": other.normalised, "unit": "share", "baseline": best,
            "ratio": round(other.normalised / best, 3), "target": None, "met": None,
            "parity_error": abs(counted - exact), "note": f"{note}; baseline: lookup without a model",
            "detail": {"score": asdict(other), "lookup": rates, "checked": report["in_scope"]},
        })  # fmt: skip
    return rows


def other_wordings(run: Run, items: Sequence[Item]) -> Score | None:
    """Ask the model every other wording, none of which it was trained on, and return how many got the item's answer."""
    bot = hoidap.load(run.folder, mode="model")
    asked = [(wording, item.answer) for item in items for wording in item.wordings]
    answers = bot.answer_all([wording for wording, _ in asked], bot.sampling())
    return score([(answer.text, wanted) for answer, (_, wanted) in zip(answers, asked, strict=True)])


def articles_of(file: Path) -> list[str]:
    """Return a file's articles, or the contexts of a JSONL, each once."""
    if file.suffix != ".jsonl":
        return read_articles([file])
    lines = file.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(json.loads(line)["context"].strip() for line in lines))


def bits_a_byte(base: Base, articles: list[str], max_tokens: int, quantize: Any, batch_tokens: int) -> float:
    device = pick_device()
    network = base.load(quantize=quantize, device=device, dtype=torch.float32)
    corpus = Corpus(articles, [], base.tokenizer(), Schedule(batch_tokens=batch_tokens), max_tokens, PHOGPT_4B_CHAT)
    exam = HeldOutExam(corpus, sum(len(article.encode()) for article in articles))
    return exam.measure(network, None)["held_out_bits_per_byte"]


def text_row(name: str, file: Path, model: str, max_tokens: int, baselines: dict[str, float]) -> dict[str, Any]:
    """Return the row of one text."""
    base, articles = find_base(model), articles_of(file)
    value = bits_a_byte(base, articles, max_tokens, "nf4", 8192)
    other = bits_a_byte(base, articles, max_tokens, "nf4", 2048)
    best = min(baselines.values(), default=None)
    return {
        "key": f"{name}.bits-per-byte", "value": value, "unit": "bits", "baseline": best,
        "ratio": round(value / best, 3) if best else None, "target": None, "met": None, "parity_error": abs(value - other),
        "note": f"base {model}, linear layers in NF4, chunks of {max_tokens} tokens; {len(articles)} articles",
        "detail": {"baselines": baselines},
    }  # fmt: skip


def baselines_of(results: Path | None, stem: str) -> dict[str, float]:
    """Return what mini_baselines.py wrote for a file."""
    if results is None:
        return {}
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    return {row["key"].removeprefix(f"{stem}."): row["value"] for row in rows if row["key"].startswith(f"{stem}.")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--text", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--baselines", type=Path, help="what mini_baselines.py wrote for the texts")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, file in (pair.split("=", 1) for pair in options.text):
        rows.append(text_row(name, Path(file), options.model, options.max_tokens, baselines_of(options.baselines, name)))
    for name, file in (pair.split("=", 1) for pair in options.items):
        with tempfile.TemporaryDirectory() as folder:
            rows += items_rows(name, Path(file), options.model, Path(folder) / "run")
    environment.write(options.out, rows)


if __name__ == "__main__":
    main()
