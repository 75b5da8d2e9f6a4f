"""Turn a pretrained base into the one that ships: linear layers in NF4, the rest in bfloat16; 16 MB at most.

    python benchmarks/ship.py runs/mini/model --held-out held-out.txt --to hoidap/assets/mini

Prints what 16 bits and NF4 cost in bits a byte of the held-out text, so that nobody has to believe that it is little.
"""

import argparse
import shutil
from pathlib import Path

import torch

from hoidap.base import find_base
from hoidap.data.corpus import Corpus, read_articles
from hoidap.model.checkpoint import load_checkpoint, save_checkpoint
from hoidap.model.mpt import MPT
from hoidap.prompt import PHOGPT_4B_CHAT
from hoidap.recipe import Schedule
from hoidap.runtime import pick_device
from hoidap.training.exam import HeldOutExam

MOST_BYTES = 16_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    device, articles = pick_device(), read_articles([options.held_out])
    tokenizer = find_base(str(options.model)).tokenizer()
    corpus = Corpus(articles, [], tokenizer, Schedule(batch_tokens=8192), 512, PHOGPT_4B_CHAT)
    exam = HeldOutExam(corpus, sum(len(article.encode()) for article in articles))

    def load(folder: Path, quantize: str, dtype: torch.dtype) -> MPT:
        return load_checkpoint(folder, quantize=quantize, device=device, dtype=dtype)  # type: ignore[arg-type]

    def show(what: str, model: MPT) -> None:
        print(f"{what}: {exam.measure(model, None)['held_out_bits_per_byte']:.4f} bits a byte", flush=True)

    show("as trained, float32", load(options.model, "none", torch.float32))
    show("NF4, the rest in float32", load(options.model, "nf4", torch.float32))
    options.to.mkdir(parents=True, exist_ok=True)
    save_checkpoint(load(options.model, "nf4", torch.bfloat16), options.to)
    source = options.model / "tokenizer.json"
    if source.resolve() != (options.to / "tokenizer.json").resolve():
        shutil.copyfile(source, options.to / "tokenizer.json")
    (options.to / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone; a wheel keeps the mode
    show("as shipped, computed in float32", load(options.to, "nf4", torch.float32))
    n_bytes = sum(file.stat().st_size for file in options.to.iterdir())
    print(f"{options.to}: {n_bytes:,} bytes, at most {MOST_BYTES:,}")
    assert n_bytes <= MOST_BYTES


if __name__ == "__main__":
    main()
