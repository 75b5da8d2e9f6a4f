"""The preset "seed" on poems: the mean loss of every ten steps, files and memory, beside the run that it copies.

    python benchmarks/seed.py 7b5 --out benchmarks/results/seed.json       on a GPU: random weights in 7B5's real shape
    python benchmarks/seed.py FOLDER --lr 1e-3 --poems 1 --out ...         a model folder, on the CPU

The copied run (PhoGPT-7.5B-Fine-tuning-QLoRA, its notebook's output) fell from 4.28 to 0.014 nats in 100 steps, on real
weights and one T4; the script published with it trains on one poem. On a GPU PyTorch may take no more than 15 GB here.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import environment
import torch
from shapes import SHAPES, memory_gib

from hoidap.base import MINI, MINI_FOLDER, Base, find_base
from hoidap.data.pack import Packer
from hoidap.data.read import read_items
from hoidap.model.adapter import save_adapter
from hoidap.model.checkpoint import assemble, random_tensors
from hoidap.model.mpt import MPT
from hoidap.prompt import PHOGPT_7B5_INSTRUCT
from hoidap.recipe import SEED, Recipe
from hoidap.training.checkpoint import Checkpoints
from hoidap.training.exam import RecallExam
from hoidap.training.job import load_for_training
from hoidap.training.loop import train

COPIED = (4.2844, 1.6401, 0.3201, 0.0949, 0.0446, 0.0231, 0.0176, 0.0153, 0.0142, 0.0139)
POEMS = Path(__file__).parent.parent / "examples" / "tho.csv"
MOST_BYTES = 15 * 10**9


class Losses:
    """A watcher that keeps the logged losses."""

    def __init__(self) -> None:
        self.nats: list[float] = []

    def start(self, total_steps: int, done_steps: int) -> None:
        print(f"{total_steps - done_steps} steps", flush=True)

    def step(self, row: dict[str, Any]) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        self.nats.append(row["loss_nats"])
        print(row["step"], f"{row['loss_nats']:.4f}", flush=True)

    def measured(self, row: dict[str, Any]) -> None:
        pass


class RandomBase(Base):
    """Random 16-bit weights in a real shape, drawn on the GPU, under the tokenizer that ships."""

    def load(self, *, device: torch.device, dtype: torch.dtype, **how: Any) -> MPT:
        tensors = random_tensors(self.config, device, torch.bfloat16, 0)
        how = {name: how[name] for name in ("quantize", "double_quant")}
        return assemble(self.config, tensors, device=device, dtype=dtype, **how)


def run(base: Base, recipe: Recipe, device: torch.device, n_poems: int) -> dict[str, Any]:
    dtype = getattr(torch, recipe.dtype)
    tokenizer = base.tokenizer()
    most = min(recipe.text.max_tokens, base.config.max_seq_len)
    poems = read_items(POEMS)[:n_poems]
    packer = Packer(poems, tokenizer, recipe.schedule, most, PHOGPT_7B5_INSTRUCT, recipe.text.loss_on)
    model, adapter = load_for_training(base, recipe, device, dtype)
    assert adapter is not None
    losses = Losses()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "checkpoints")
        train(model, adapter, packer, RecallExam(packer, 0.0, 4096), recipe, losses, checkpoints)
        seconds = time.perf_counter() - started
        newest = checkpoints.newest_folder()
        assert newest is not None
        checkpoint_bytes = sum(p.stat().st_size for p in newest.iterdir())
        save_adapter(adapter, Path(folder), base.name)
        adapter_bytes = (Path(folder) / "adapter_model.safetensors").stat().st_size
    parameters = sum(t.numel() for t in adapter.trainable().values())
    return {
        "loss_nats": losses.nats,
        "poems": len(poems),
        "seconds": seconds,
        "steps": recipe.schedule.max_steps,
        "learning_rate": recipe.optimizer.learning_rate,
        "adapter_parameters": parameters,
        "adapter_mib": adapter_bytes / 2**20,
        "checkpoint_mib": checkpoint_bytes / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="7b5 (on a GPU), or a model folder (on the CPU)")
    parser.add_argument("--lr", type=float, default=SEED.optimizer.learning_rate)
    parser.add_argument("--poems", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipe = replace(SEED, optimizer=replace(SEED.optimizer, learning_rate=options.lr))
    on_gpu = options.base in SHAPES
    if on_gpu:
        device = torch.device("cuda")
        before = memory_gib()  # other processes', not ours
        torch.cuda.set_per_process_memory_fraction(MOST_BYTES / torch.cuda.get_device_properties(0).total_memory)
        base: Base = RandomBase("random weights", MINI_FOLDER, SHAPES[options.base], find_base(MINI).tokenizer_file)
    else:
        device, base = torch.device("cpu"), find_base(options.base)
    result = run(base, recipe, device, options.poems)
    if on_gpu:
        result["driver_gib"] = memory_gib() - before
        result["peak_allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
    last = result["loss_nats"][-1]
    met = result["driver_gib"] * 2**30 < MOST_BYTES and result["checkpoint_mib"] < 800 if on_gpu else None
    environment.write(
        options.out,
        [{
            "key": f"{'7b5' if on_gpu else 'small'}.{options.poems}-poems.last-loss",
            "value": last, "unit": "nats, mean of steps 91 to 100",
            "baseline": {"what": "the copied run, a T4, real weights", "loss_nats": COPIED}, "ratio": None,
            "target": "below 15 GB, a checkpoint below 800 MiB" if on_gpu else None, "met": met, "parity_error": None,
            "note": "preset seed on examples/tho.csv, template phogpt-7b5-instruct", "detail": result,
        }],
    )  # fmt: skip


if __name__ == "__main__":
    main()
