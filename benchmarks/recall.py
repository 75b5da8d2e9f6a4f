"""Train the scratch base on question–answer files on this machine and report what comes back.

    python benchmarks/recall.py examples/cua-hang.csv --out benchmarks/results/recall.json

The baseline is the same base before training. The parity error is the difference between recall counted in one forward
pass, which decides when training stops, and recall counted by generating every answer.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import environment
import torch

import hoidap
from hoidap.base import find_base
from hoidap.data.pack import Packer
from hoidap.data.read import read_items
from hoidap.model.checkpoint import load_checkpoint
from hoidap.training.exam import measure_recall

CPU = torch.device("cpu")


def measure(file: Path, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Train on one file and return its rows."""
    base = find_base("scratch")
    started = time.perf_counter()
    run = hoidap.train(file, out=folder, device="cpu", seed=seed)
    seconds = time.perf_counter() - started
    packer = Packer(read_items(file), base.tokenizer(), run.recipe.schedule, base.config.max_seq_len)
    untrained = base.load(quantize="none", device=CPU, dtype=torch.float32, seed=seed)
    trained = load_checkpoint(run.weights_folder(), quantize="none", device=CPU, dtype=torch.float32)
    report = run.report()
    exact = report["items"]["score"]["exact"]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    common = {
        "baseline": measure_recall(untrained, None, packer.alone()), "ratio": None, "target": 0.99,
        "parity_error": abs(measure_recall(trained, None, packer.alone()) - exact),
        "note": f"scratch base, method full, seed {seed}, {seconds:.0f} s in all",
    }  # fmt: skip
    name = file.stem
    rows = [{
        "key": f"{name}.exact-recall", "value": exact, "unit": "share", **common, "met": exact >= 0.99,
        "detail": {"score": report["items"]["score"], "measured": [row for row in metrics if "recall" in row]},
    }]  # fmt: skip
    if other := report["other_wordings"]["score"]:
        wordings = {**common, "target": None, "met": None, "detail": {"score": other}}
        rows.append({"key": f"{name}.other-wordings", "value": other["normalised"], "unit": "share", **wordings})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for file in options.files:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(file, options.seed, Path(folder) / "run")
    environment.write(options.out, rows)


if __name__ == "__main__":
    main()
