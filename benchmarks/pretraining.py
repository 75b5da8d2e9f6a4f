"""Pretrain several shapes for a few epochs side by side, and compare what they make of the held-out text.

    python benchmarks/pretraining.py text.txt.xz --held-out held-out.txt --runs 448x6:0.1 448x6:0.5 512x4:0.5 \
        --epochs 4 --out benchmarks/results/pretraining.json

A run is WIDTHxLAYERS:DECAY or WIDTHxLAYERS:DECAY:EPOCHS. All of them share the device at once, so tokens a second are those
of a shared device unless there is one run; the losses are what is compared. The share is of the bf16 matrix rate measured
here before: 6 FLOP a weight and token, the output layer included, scores not. There is no parity error of losses:
tests/test_pretrain.py holds the loop to its arithmetic.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import environment
import torch

from hoidap.base import find_base

COMMAND = "import sys; sys.argv[0] = 'hoidap'; from hoidap.cli import main; main()"


def matrix_rate() -> float:
    """Return the FLOP a second of a large bf16 product on this device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(12):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * n**3 / sorted(seconds)[len(seconds) // 2]


def start(run: str, options: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """Begin one run in a process of its own."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shape, decay, *epochs = run.split(":")
    width, layers = shape.split("x")
    given = ["--width", width, "--layers", layers, "--weight-decay", decay, "--held-out", str(options.held_out)]
    given += ["--epochs", epochs[0] if epochs else str(options.epochs), "--out", str(folder), "--save-every", "1000000"]
    given += ["--pairs", str(options.pairs)] if options.pairs else []
    given += ["--max-tokens", str(options.max_tokens), "--batch-tokens", str(options.batch_tokens), "--lr", str(options.lr)]
    with folder.with_name(f"{folder.name}.log").open("wb") as log:
        command = [sys.executable, "-c", COMMAND, "pretrain", *map(str, options.texts), *given]
        return subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603


def row_of(run: str, folder: Path, rate: float) -> dict[str, Any]:
    """Return what a run's metrics say."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = [row for row in metrics if "held_out_nats" in row]
    steps = [row for row in metrics if "loss_nats" in row]
    speed = statistics.median([row["tokens"] / row["seconds"] for row in steps] or [0])  # a line every ten steps
    weights = find_base(str(folder / "model")).config.n_parameters
    best = min(measured, key=lambda row: row["held_out_nats"])
    return {
        "key": run, "value": best["held_out_bits_per_byte"], "unit": "bits a byte", "baseline": None, "ratio": None,
        "target": None, "met": None, "parity_error": None,
        "note": f"{weights:,} weights; best at epoch {best['epoch']}",
        "detail": {
            "weights": weights, "tokens_per_s": round(speed), "matrix_share": round(6 * weights * speed / rate, 3),
            "held_out_bits_per_byte": [round(row["held_out_bits_per_byte"], 4) for row in measured],
            "last_loss_nats": steps[-1]["loss_nats"] if steps else None,
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--runs", nargs="+", required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=32_768)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--keep", type=Path, help="a folder to leave the models and their metrics in")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rate = matrix_rate()
    with tempfile.TemporaryDirectory() as parent:
        folders = {run: Path(options.keep or parent) / run.replace(":", "-") for run in options.runs}
        processes = {run: start(run, options, folder) for run, folder in folders.items()}
        rows = []
        for run, process in processes.items():
            if process.wait():
                log = folders[run].with_name(f"{folders[run].name}.log")
                print(f"{run} failed:\n{log.read_text(encoding='utf-8')[-2000:]}", flush=True)
                continue
            rows.append(row_of(run, folders[run], rate))
            print(json.dumps(rows[-1]), flush=True)
            environment.write(options.out, rows)


if __name__ == "__main__":
    main()
