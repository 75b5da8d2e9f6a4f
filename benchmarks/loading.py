"""Loading PhoGPT-4B's shape to NF4 on the CPU: the most memory that it takes, and the time.

    python benchmarks/loading.py --folder build/loading --out benchmarks/results/loading.json

Random bfloat16 weights, 7.4 GB, are written to the folder as VinAI ships them (pytorch_model.bin) and as safetensors, each
is loaded in a process of its own, and the files are deleted. The baseline maps each file once and for all. Linux alone
tells a process's memory apart: anonymous, and pages of mapped files. A page counts from when it is touched until its
mapping ends, so "total" is what a machine must have for nothing to be read twice. Files are read from the page cache
where they fit.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import environment
import torch
from safetensors.torch import save_file
from shapes import SHAPES

from hoidap.model import checkpoint

CONFIG = SHAPES["4b"]
FILES = ("pytorch_model.bin", "model.safetensors")
TARGET_GIB = 12  # a free Colab machine
GIB = 2**30


class PeakMemory:
    """Watches this process's memory from a thread of its own; ``peaks`` are in GiB."""

    FIELDS = ("RssAnon", "RssFile", "VmRSS")

    def __init__(self) -> None:
        self.peaks = dict.fromkeys(self.FIELDS, 0.0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            now = memory_gib()
            self.peaks = {name: max(self.peaks[name], now[name]) for name in self.FIELDS}


def memory_gib() -> dict[str, float]:
    """Return the fields of /proc/self/status that are sizes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 / GIB for line in lines if line.endswith(" kB")}


def write(folder: Path) -> None:
    """Write the same random weights in both formats, each into a folder of its own."""
    tensors = dict(checkpoint.random_tensors(CONFIG, torch.device("cpu"), torch.bfloat16, 0))
    for file in FILES:
        (folder / file).mkdir(parents=True)
        (folder / file / "config.json").write_text(CONFIG.to_json(), encoding="utf-8")
        path = folder / file / file
        if path.suffix == ".bin":
            torch.save(tensors, path)
        else:
            save_file(tensors, path, metadata={"format": "pt"})


def load(folder: Path, *, mapped_once: bool) -> dict[str, float]:
    """Load a folder in this process and say what it took."""
    if mapped_once:
        checkpoint._MAPPED_BYTES = sys.maxsize  # noqa: SLF001
    before = memory_gib()["VmRSS"]
    started = time.perf_counter()
    with PeakMemory() as memory:
        model = checkpoint.load_checkpoint(folder, quantize="nf4", device=torch.device("cpu"), dtype=torch.bfloat16)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "before_gib": before,
        "peak_anonymous_gib": memory.peaks["RssAnon"],
        "peak_file_pages_gib": memory.peaks["RssFile"],
        "peak_total_gib": max(memory.peaks["VmRSS"], memory_gib()["VmHWM"]),
        "after_gib": memory_gib()["VmRSS"],
        "parameters": model.n_parameters,
    }


def in_a_process(folder: Path, *options: str) -> dict[str, float]:
    """Load a folder in a fresh process."""
    command = [sys.executable, __file__, "--load", str(folder), *options]
    result: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603
    return result


def row(folder: Path, file: str) -> dict[str, Any]:
    baseline = in_a_process(folder / file, "--mapped-once")  # first: the second finds more in the page cache
    result = in_a_process(folder / file)
    return {
        "key": f"4b.{file}.peak_total_gib", "value": result["peak_total_gib"], "unit": "GiB",
        "baseline": {"what": "the file mapped once and for all", **baseline},
        "ratio": result["peak_total_gib"] / baseline["peak_total_gib"],
        "target": TARGET_GIB, "met": result["peak_total_gib"] < TARGET_GIB, "parity_error": None,
        "note": "to NF4 on the CPU, the rest in bfloat16", "detail": result,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="to be made, with room for 15 GB, and deleted")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--mapped-once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load(options.load, mapped_once=options.mapped_once)))
        return
    options.folder.mkdir(parents=True)
    try:
        write(options.folder)
        rows = [row(options.folder, file) for file in FILES]
    finally:
        shutil.rmtree(options.folder)
    print(json.dumps(rows, indent=1))
    if options.out:
        environment.write(options.out, rows)


if __name__ == "__main__":
    main()
