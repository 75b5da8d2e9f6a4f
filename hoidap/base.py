"""Which base a name means: a model folder, a model of the hub, or "mini", the small one that comes with the package."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hoidap.errors import CheckpointError
from hoidap.hub import fetch, parse_hub_id
from hoidap.model.checkpoint import Watch, load_checkpoint, unwatched, weight_files
from hoidap.model.config import MPTConfig, read_config
from hoidap.model.mpt import MPT
from hoidap.prompt import PHOGPT_4B_CHAT, PHOGPT_7B5_INSTRUCT, Template
from hoidap.recipe import Embedding, Quantize
from hoidap.runtime import pick_device, pick_dtype
from hoidap.tokenizer import Tokenizer

_HASHED_BYTES = 64 * 2**20
_VOCABULARY_7B5 = 250_880  # BLOOM's, padded; PhoGPT-4B has 20,480
MINI = "mini"
MINI_FOLDER = Path(__file__).parent / "assets" / "mini"


@dataclass(frozen=True)
class FilePrint:
    """What tells one version of a file from another."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Base:
    """A base model: where it is and what it is."""

    name: str  # "mini", the folder's absolute path, or owner/name@commit
    folder: Path
    config: MPTConfig
    tokenizer_file: Path

    @property
    def template(self) -> Template:
        """The prompt that the base was taught: 7B5's, known by its vocabulary of 250,880, or that of 4B-Chat."""
        return PHOGPT_7B5_INSTRUCT if self.config.vocab_size == _VOCABULARY_7B5 else PHOGPT_4B_CHAT

    def tokenizer(self) -> Tokenizer:
        """Read the base's tokenizer; its ids must fit the embedding."""
        tokenizer = Tokenizer.from_file(self.tokenizer_file)
        if tokenizer.vocab_size > self.config.vocab_size:
            sizes = f"{tokenizer.vocab_size:,} tokens, the model {self.config.vocab_size:,}"
            msg = f"{self.tokenizer_file} has {sizes}; they do not belong together"
            raise CheckpointError(msg)
        return tokenizer

    def load(
        self,
        *,
        quantize: Quantize,
        double_quant: bool = True,
        embedding: Embedding = "16-bit",
        device: torch.device,
        dtype: torch.dtype,
        watch: Watch = unwatched,
    ) -> MPT:
        """Load the weights as ``load_checkpoint`` does."""
        how: dict[str, Any] = {"quantize": quantize, "double_quant": double_quant, "embedding": embedding}
        return load_checkpoint(self.folder, **how, device=device, dtype=dtype, watch=watch)

    def files(self) -> list[Path]:
        """Return the files that make the base."""
        return [self.tokenizer_file, self.folder / "config.json", *weight_files(self.folder)]

    def prints(self, advance: Callable[[int], None] = lambda _n_bytes: None) -> dict[str, FilePrint]:
        """Return the size and SHA-256 of each file; ``advance`` is told the bytes as they are read."""
        return {file.name: file_print(file, advance) for file in self.files()}

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


def find_base(name: str, *, download: bool = False, console: Console | None = None) -> Base:
    """Return the base that ``name`` means; a folder of that name comes before a model of the hub, "mini" before a folder.

    Args:
        name: "mini", a model folder, or a model of the hub as owner/name or owner/name@revision.
        download: whether a gigabyte or more may be downloaded from the hub.
        console: where the progress of a download is shown; by default nowhere.

    Raises:
        CheckpointError: no such folder; or the hub, the network or the disk does not give the model.
    """
    folder = Path(name)
    if name == MINI:
        folder = MINI_FOLDER
    elif folder.is_dir():
        folder = folder.resolve()
        name = str(folder)
    elif hub_id := parse_hub_id(name):
        pinned = fetch(hub_id, download=download, console=console or Console(quiet=True))
        name, folder = str(pinned), pinned.folder
    else:
        advice = f"it takes {MINI!r}, a model folder, or a model of the hub as owner/name or owner/name@revision"
        msg = f"--model is {name!r}, and there is no such folder; {advice}"
        raise CheckpointError(msg)
    return Base(name, folder, read_config(folder / "config.json"), folder / "tokenizer.json")


def file_print(file: Path, advance: Callable[[int], None] = lambda _n_bytes: None) -> FilePrint:
    """Return a file's size and SHA-256."""
    return FilePrint(file.stat().st_size, _sha256(file, advance))


def _sha256(file: Path, advance: Callable[[int], None] = lambda _n_bytes: None) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(2**24):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def load_model(
    name: str,
    *,
    quantize: Quantize = "none",
    double_quant: bool = True,
    device: str | None = None,
    dtype: str | None = None,
    download: bool = False,
) -> MPT:
    """Load a base model to compute with: ``.forward(input_ids[B, T], attention_mask=None)`` → float32 logits [B, T, V].

    Args:
        name: "mini", a model folder as VinAI ships it, or a model of the hub as owner/name or owner/name@revision.
        quantize: "nf4" and "fp4" hold the linear layers in four bits, "int8" in eight, "none" in ``dtype``.
        double_quant: whether the scales of the 4-bit kinds are in eight bits too.
        device: "cpu", "cuda"; by default a GPU if there is one.
        dtype: "float32", "bfloat16", "float16"; by default what suits the device.
        download: whether a gigabyte or more may be downloaded from the hub.

    Raises:
        CheckpointError: the folder is incomplete, not supported or does not fit its configuration, or cannot be had.
    """
    where = pick_device(device)
    compute = pick_dtype(where, dtype)
    base = find_base(name, download=download, console=Console(stderr=True))
    return base.load(quantize=quantize, double_quant=double_quant, device=where, dtype=compute)
