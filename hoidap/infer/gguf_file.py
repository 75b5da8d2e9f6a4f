"""GGUF files of an MPT: what a tensor is called there, and whether a file is whole and all of it is there.

llama.cpp runs an MPT whose biases are missing without a word, and ends the process at some files that are damaged: what is
given to it was examined here before.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hoidap.errors import CheckpointError
from hoidap.model.config import MPTConfig

NO_BIAS_KEY = "hoidap.no_bias"  # llama.cpp has no key for it, and cannot tell a bias that is not there from one lost
_TOP = {"wte": "token_embd", "norm_f": "output_norm"}
_BLOCK = {
    "norm_1": "attn_norm",
    "attn.Wqkv": "attn_qkv",
    "attn.out_proj": "attn_output",
    "norm_2": "ffn_norm",
    "ffn.up_proj": "ffn_up",
    "ffn.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class GgufFacts:
    """What a file says of itself."""

    config: MPTConfig
    tokens: tuple[str, ...]  # the vocabulary, as byte-level BPE writes it


def tensor_name(name: str) -> str:
    """Return what llama.cpp calls a tensor of a checkpoint."""
    module, _, kind = name.rpartition(".")
    if module.startswith("transformer.blocks."):
        _, _, layer, part = module.split(".", 3)
        return f"blk.{layer}.{_BLOCK[part]}.{kind}"
    return f"{_TOP[module.removeprefix('transformer.')]}.{kind}"


def need_gguf() -> None:
    """Raise CheckpointError where the packages for GGUF are not installed."""
    missing = [name for name in ("gguf", "libgguf", "xllamacpp") if find_spec(name) is None]
    if missing:
        msg = f"GGUF needs the packages {', '.join(missing)}; pip install 'hoidap[gguf]'"
        raise CheckpointError(msg)


def examine_gguf(path: Path) -> GgufFacts:
    """Return what a file holds, once every tensor is accounted for.

    Raises:
        CheckpointError: no file, cut off, damaged, of another architecture, or tensors missing, unexpected or misshapen.

    """
    need_gguf()
    if not path.is_file():
        msg = f"{path} does not exist; `hoidap export RUN --to gguf --out {path}` writes it"
        raise CheckpointError(msg)
    try:
        values, shapes = _read(path)
        facts = GgufFacts(_config(values), tuple(values["tokenizer.ggml.tokens"]))
    except CheckpointError as error:
        msg = f"{path}: {error}"
        raise CheckpointError(msg) from None
    except Exception as error:  # noqa: BLE001 - the library raises whatever a damaged file leads it to
        msg = f"{path} is no GGUF file of an MPT that is whole ({type(error).__name__}: {error}); export it again"
        raise CheckpointError(msg) from None
    if problems := list(_misfits(facts.config, shapes)):
        listed = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        msg = f"{path} does not hold what its own header says: {listed}; export it again"
        raise CheckpointError(msg)
    return facts


def _read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    wanted = ("general.architecture", "mpt.", "tokenizer.ggml.tokens", "hoidap.")
    values = {name: field.contents() for name, field in reader.fields.items() if name.startswith(wanted)}
    return values, {tensor.name: tuple(map(int, reversed(tensor.shape))) for tensor in reader.tensors}


def _config(values: Mapping[str, Any]) -> MPTConfig:
    if values["general.architecture"] != "mpt":
        msg = f"its architecture is {values['general.architecture']!r}; hoidap runs 'mpt'"
        raise CheckpointError(msg)
    d = int(values["mpt.embedding_length"])
    bias_max = float(values["mpt.attention.max_alibi_bias"])
    clamp = values.get("mpt.attention.clamp_kqv")
    return MPTConfig(
        d,
        int(values["mpt.attention.head_count"]),
        int(values["mpt.block_count"]),
        len(values["tokenizer.ggml.tokens"]),
        int(values["mpt.context_length"]),
        expansion_ratio=int(values["mpt.feed_forward_length"]) // d,
        no_bias=bool(values.get(NO_BIAS_KEY, False)),
        alibi=bias_max > 0,
        alibi_bias_max=bias_max,
        clip_qkv=float(clamp) if clamp else None,
    )


def _misfits(config: MPTConfig, found: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    wanted = {tensor_name(name): shape for name, shape in config.shapes().items()}
    yield from (f"missing {name}" for name in wanted if name not in found)
    # A second copy of the embedding, as older converters wrote it, would be used in place of the first.
    yield from (f"unexpected {name}" for name in found if name not in wanted)
    for name, shape in wanted.items():
        if name in found and found[name] != shape:
            yield f"{name} is {found[name]}, wanted {shape}"
