"""Which base a name means: a model folder, or "scratch", a small MPT of random weights with the shipped tokenizer."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hoidap.errors import CheckpointError
from hoidap.model.checkpoint import Watch, assemble, load_checkpoint, random_tensors, unwatched, weight_files
from hoidap.model.config import MPTConfig, read_config
from hoidap.model.mpt import MPT
from hoidap.recipe import Quantize
from hoidap.runtime import pick_device, pick_dtype
from hoidap.tokenizer import Tokenizer

SCRATCH = "scratch"
# PhoGPT's layout in small: heads of 64, biases, ALiBi. It knows no word before it is trained on all its weights.
_SCRATCH_CONFIG = MPTConfig(d_model=256, n_heads=4, n_layers=3, vocab_size=8192, max_seq_len=1024)
_HASHED_BYTES = 64 * 2**20
_SHIPPED_TOKENIZER = Path(__file__).parent / "assets" / "tokenizer.json"


@dataclass(frozen=True)
class FilePrint:
    """What tells one version of a file from another."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Base:
    """A base model: where it is and what it is."""

    name: str  # "scratch" or the folder's absolute path
    config: MPTConfig
    tokenizer_file: Path

    @property
    def is_scratch(self) -> bool:
        """Whether the weights are drawn at random."""
        return self.name == SCRATCH

    def tokenizer(self) -> Tokenizer:
        """Read the base's tokenizer; its ids must fit the embedding."""
        tokenizer = Tokenizer.from_file(self.tokenizer_file)
        if tokenizer.vocab_size > self.config.vocab_size:
            sizes = f"{tokenizer.vocab_size:,} tokens, the model {self.config.vocab_size:,}"
            msg = f"{self.tokenizer_file} has {sizes}; they do not belong together"
            raise CheckpointError(msg)
        return tokenizer

    def load(
        self, *, quantize: bool, device: torch.device, dtype: torch.dtype, seed: int = 0, watch: Watch = unwatched
    ) -> MPT:
        """Load the weights; ``seed`` draws those of scratch, ``watch`` is told of each."""
        if self.is_scratch:
            # Drawn on the CPU, so that a seed gives the same weights everywhere.
            tensors = random_tensors(self.config, torch.device("cpu"), torch.float32, seed)
            return assemble(self.config, tensors, quantize=quantize, device=device, dtype=dtype, watch=watch)
        return load_checkpoint(Path(self.name), quantize=quantize, device=device, dtype=dtype, watch=watch)

    def files(self) -> list[Path]:
        """Return the files that make the base."""
        if self.is_scratch:
            return [self.tokenizer_file]
        folder = Path(self.name)
        return [self.tokenizer_file, folder / "config.json", *weight_files(folder)]

    def prints(self, advance: Callable[[int], None] = lambda _n_bytes: None) -> dict[str, FilePrint]:
        """Return the size and SHA-256 of each file; ``advance`` is told the bytes as they are read."""
        return {file.name: FilePrint(file.stat().st_size, _sha256(file, advance)) for file in self.files()}

    def changed_since(self, prints: Mapping[str, FilePrint]) -> list[str]:
        """Return the names of files that are not those of ``prints``.

        Gigabytes of weights are compared by size alone: reading them all would double the time to load a bot.
        """
        changed = sorted(set(prints) - {file.name for file in self.files()})
        for file in self.files():
            n_bytes = file.stat().st_size
            known = prints.get(file.name)
            same_size = known is not None and known.n_bytes == n_bytes
            if not same_size or (n_bytes <= _HASHED_BYTES and known and known.sha256 != _sha256(file)):
                changed.append(file.name)
        return changed


def find_base(name: str) -> Base:
    """Return the base that ``name`` means.

    Raises:
        CheckpointError: no such folder; a hub id is told how to become one.
    """
    if name == SCRATCH:
        return Base(SCRATCH, _SCRATCH_CONFIG, _SHIPPED_TOKENIZER)
    folder = Path(name)
    if not folder.is_dir():
        advice = f"it takes a model folder or {SCRATCH!r}"
        if name.count("/") == 1 and not name.startswith((".", "/")):
            advice += f"; to get this one from the hub: hf download {name} --local-dir {name.split('/')[1]}"
        msg = f"--model is {name!r}, and there is no such folder; {advice}"
        raise CheckpointError(msg)
    folder = folder.resolve()
    return Base(str(folder), read_config(folder / "config.json"), folder / "tokenizer.json")


def _sha256(file: Path, advance: Callable[[int], None] = lambda _n_bytes: None) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(2**24):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def load_model(name: str, *, quantize: Quantize = "none", device: str | None = None, dtype: str | None = None) -> MPT:
    """Load a base model to compute with: ``.forward(input_ids[B, T], attention_mask=None)`` → float32 logits [B, T, V].

    Args:
        name: a model folder as VinAI ships it, or "scratch".
        quantize: "nf4" holds the linear layers in four bits, "none" in ``dtype``.
        device: "cpu", "cuda"; by default a GPU if there is one.
        dtype: "float32", "bfloat16", "float16"; by default what suits the device.

    Raises:
        CheckpointError: the folder is incomplete, not supported or does not fit its configuration.
    """
    where = pick_device(device)
    return find_base(name).load(quantize=quantize == "nf4", device=where, dtype=pick_dtype(where, dtype))
