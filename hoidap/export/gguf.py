"""An MPT as a GGUF file that llama.cpp runs.

The container is gguf-py's, the quantised rows libgguf's, which are ggml's to the byte. The matrices are written one by one,
each decoded, its adapter's update added in float32, and rounded once, to the kind of the file; what is no matrix stays
float32. Which matrix has how many bits is what llama.cpp's own quantiser chooses.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hoidap.errors import CheckpointError
from hoidap.folder import LEFTOVER, naming_failure
from hoidap.infer.gguf_engine import tokenize
from hoidap.infer.gguf_file import NO_BIAS_KEY, examine_gguf, need_gguf, tensor_name
from hoidap.model.adapter import Adapter
from hoidap.model.config import MPTConfig
from hoidap.model.mpt import MPT, WTE
from hoidap.text import nfc
from hoidap.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

Kind = Literal["f16", "q8_0", "q4_0", "q4_k_m"]
KINDS: tuple[Kind, ...] = ("f16", "q8_0", "q4_0", "q4_k_m")
PRE_TOKENIZERS = ("gpt-2", "bloom", "mpt")  # those of llama.cpp's that a tokenizer of this family may have
_FILE_TYPES = {"f16": 1, "q8_0": 7, "q4_0": 2, "q4_k_m": 15}  # llama.cpp's numbers (llama_ftype)
_BITS = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_k_m": "Q4_K"}  # of most matrices
# Texts on which tokenizers are compared are made of these.
_WORDS = "Dạ,cửa hàng,NGHĨA,đường,hoà,hòa,25.000đ,8h30,3;5kg,0912 345 678,1234567,20/11,I'm,we'll"
_STRANGE = "😀 👨\u200d👩\u200d👧 🇻🇳 x̣̂ ﷺ 日本語 Привет مرحبا ไทย ½ ² é \u00a0 \u200b ﬁ e\u0323\u0302 d\u0323"
_MARKS = ". , … ?! – — “ ” ' '' ( ) / ... !!! : ; % _ @ # </s>"
_SPECIAL, _ADDED, _UNUSED, _NORMAL = 3, 4, 5, 1  # llama.cpp's types of tokens


def write_gguf(
    model: MPT,
    adapter: Adapter | None,
    tokenizer: Tokenizer,
    out: Path,
    kind: Kind = "f16",
    *,
    name: str = "hoidap",
    samples: Sequence[str] = (),
    advance: Callable[[int], None] = lambda _n_tensors: None,
) -> None:
    """Write a model, its adapter merged, under another name, and give it its own once it is whole.

    Args:
        model: the base; its weights may be read when they are asked for.
        adapter: what was trained on it.
        tokenizer: of the base.
        out: the file.
        kind: how its matrices are held.
        name: what the file calls the model.
        samples: texts that both tokenizers are tried on, beside those of ``trial_texts``.
        advance: is told of each tensor that was written.

    Raises:
        CheckpointError: llama.cpp cannot compute this model, or a kind cannot hold it, or no tokenizer of its agrees.
    """
    need_gguf()
    types = layout(model.config, kind)
    pre = pick_pre_tokenizer(tokenizer, model.config.vocab_size, [*samples, *trial_texts()])
    temporary = out.with_name(f"{LEFTOVER}{out.name}")
    with naming_failure(out):
        try:
            _write(model, adapter, tokenizer, temporary, types, {"pre": pre, "kind": kind, "name": name}, advance)
            examine_gguf(temporary)  # every tensor, biases too: llama.cpp would run it without
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)


def layout(config: MPTConfig, kind: Kind) -> dict[str, str]:
    """Return how each tensor of a checkpoint is held in a file of ``kind``, by ggml's names.

    Raises:
        CheckpointError: what llama.cpp does not compute, or rows that do not fit a kind's blocks.

    """
    refused = _refused(config)
    if refused:
        msg = f"llama.cpp does not compute this model: {'; '.join(refused)}"
        raise CheckpointError(msg)
    shapes = config.shapes()
    types = {key: _type(key, shape, config.n_layers, kind) for key, shape in shapes.items()}
    blocks = {"F32": 1, "F16": 1, "Q8_0": 32, "Q4_0": 32, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256}
    wrong = [key for key, held in types.items() if shapes[key][-1] % blocks[held]]
    if wrong:
        width, block = shapes[wrong[0]][-1], blocks[types[wrong[0]]]
        msg = f"the kind {kind} holds rows of a multiple of {block} weights; {wrong[0]} has rows of {width}"
        fits = [other for other in KINDS if other != kind and _fits(config, other, blocks)]
        raise CheckpointError(f"{msg}: take {' or '.join(fits)}")
    return types


def _fits(config: MPTConfig, kind: Kind, blocks: Mapping[str, int]) -> bool:
    shapes = config.shapes()
    return all(shape[-1] % blocks[_type(key, shape, config.n_layers, kind)] == 0 for key, shape in shapes.items())


def _refused(config: MPTConfig) -> list[str]:
    asked = {
        "learned_pos_emb": config.learned_pos_emb,
        "qk_ln": config.qk_ln,
        "logit_scale": config.logit_scale is not None,
        "softmax_scale": not math.isclose(config.attention_scale, 1 / math.sqrt(config.head_dim), rel_tol=1e-6),
        "alibi_bias_max": config.alibi and config.alibi_bias_max == 0,
    }
    refused = [f"{name} is {getattr(config, name)!r}" for name, is_asked in asked.items() if is_asked]
    return refused + ([] if config.alibi or config.learned_pos_emb else ["alibi is False"])


def _type(name: str, shape: tuple[int, ...], n_layers: int, kind: Kind) -> str:
    if len(shape) == 1:
        return "F32"
    if name == WTE and kind in ("q4_0", "q4_k_m"):  # the output layer too: more bits
        return "Q8_0" if shape[-1] % 256 else "Q6_K"
    if kind == "q4_k_m" and name.endswith("attn.Wqkv.weight"):
        return "Q5_K"
    if kind == "q4_k_m" and name.endswith("ffn.down_proj.weight"):
        layer = int(name.split(".")[2])
        eighth = n_layers // 8
        has_more = layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2
        return "Q6_K" if has_more else "Q4_K"
    return _BITS[kind]


def _write(
    model: MPT,
    adapter: Adapter | None,
    tokenizer: Tokenizer,
    path: Path,
    types: Mapping[str, str],
    facts: Mapping[str, str],
    advance: Callable[[int], None],
) -> None:
    from gguf import GGMLQuantizationType as Type
    from gguf import GGUFWriter
    from gguf.quants import quant_shape_to_byte_shape

    writer = GGUFWriter(path, "mpt")
    try:
        _add_model(writer, model.config, facts)
        _add_vocabulary(writer, tokenizer, model.config.vocab_size, facts["pre"])
        for name, shape in model.config.shapes().items():
            n_bytes = math.prod(quant_shape_to_byte_shape(shape, Type[types[name]]))
            writer.add_tensor_info(tensor_name(name), shape, np.dtype(np.float32), n_bytes, Type[types[name]])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name in model.config.shapes():
            writer.write_tensor_data(quantized(model.full(name, adapter).cpu().numpy(), types[name]))
            advance(1)
    finally:
        writer.close()


def quantized(rows: np.ndarray[Any, Any], held: str) -> np.ndarray[Any, Any]:
    """Return float32 rows in one of ggml's types; float16 where that has no room is refused."""
    if held == "F32":
        return rows
    if held == "F16":
        if np.abs(rows).max() > np.finfo(np.float16).max:
            msg = f"a weight is {float(np.abs(rows).max()):g}; the kind f16 holds up to 65504: take q8_0"
            raise CheckpointError(msg)
        return rows.astype(np.float16)
    from gguf import GGMLQuantizationType as Type
    from libgguf import quantize_rows

    made: np.ndarray[Any, Any] = quantize_rows(np.ascontiguousarray(rows), Type[held])
    return made


def _add_model(writer: "GGUFWriter", config: MPTConfig, facts: Mapping[str, str]) -> None:
    writer.add_name(facts["name"])
    writer.add_file_type(_FILE_TYPES[facts["kind"]])
    writer.add_quantization_version(2)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.expansion_ratio * config.d_model)
    writer.add_head_count(config.n_heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_max_alibi_bias(config.alibi_bias_max)
    if config.clip_qkv is not None:
        writer.add_clamp_kqv(config.clip_qkv)
    writer.add_bool(NO_BIAS_KEY, config.no_bias)


def _add_vocabulary(writer: "GGUFWriter", tokenizer: Tokenizer, vocab_size: int, pre: str) -> None:
    tokens, types, merges = _vocabulary(tokenizer, vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    ids = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
    for key, token in ids.items():
        if (number := tokenizer.id_of(token)) is not None:
            getattr(writer, f"add_{key}_token_id")(number)
    writer.add_add_bos_token(value=False)  # a prompt begins with its text, as in training
    writer.add_add_eos_token(value=False)


def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> tuple[list[str], list[int], list[str]]:
    """Return tokens, their types and the merges; rows of the embedding without a token get one that no text has."""
    parts = json.loads(tokenizer.to_json())
    core = parts["model"]
    if core.get("type") != "BPE" or core.get("byte_fallback"):
        msg = f"the tokenizer is {core.get('type')!r}; a GGUF file of an MPT takes a byte-level BPE"
        raise CheckpointError(msg)
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    types = [_UNUSED] * vocab_size
    for token, number in core["vocab"].items():
        tokens[number], types[number] = token, _NORMAL
    for added in parts["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], _SPECIAL if added["special"] else _ADDED
    return tokens, types, [merge if isinstance(merge, str) else " ".join(merge) for merge in core["merges"]]


def pick_pre_tokenizer(tokenizer: Tokenizer, vocab_size: int, texts: Sequence[str]) -> str:
    """Return the first of ``PRE_TOKENIZERS`` with which llama.cpp makes the project's tokens of all ``texts``.

    Raises:
        CheckpointError: none does; with a text that the last of them takes apart otherwise.

    """
    normal = list(dict.fromkeys(nfc(text) for text in texts))
    wanted = tokenizer.encode_all(normal)
    found: list[list[int]] = []
    with TemporaryDirectory(prefix=LEFTOVER) as folder:
        for pre in PRE_TOKENIZERS:
            path = Path(folder) / f"{pre}.gguf"
            _write_vocabulary(tokenizer, vocab_size, pre, path)
            found = tokenize(path, normal)
            if found == wanted:
                return pre
    text, ours, theirs = next(one for one in zip(normal, wanted, found, strict=True) if one[1] != one[2])
    msg = f"no pre-tokenizer of llama.cpp ({', '.join(PRE_TOKENIZERS)}) makes this tokenizer's tokens: {text[:80]!r}"
    raise CheckpointError(f"{msg} is {ours[:20]}, in llama.cpp {theirs[:20]}; such a base cannot be exported")


def _write_vocabulary(tokenizer: Tokenizer, vocab_size: int, pre: str, path: Path) -> None:
    """Write the smallest model that has a vocabulary: llama.cpp's tokenizer comes with a model alone."""
    from gguf import GGUFWriter

    config = MPTConfig(d_model=32, n_heads=1, n_layers=1, vocab_size=vocab_size, max_seq_len=256, expansion_ratio=1)
    writer = GGUFWriter(path, "mpt")
    _add_model(writer, config, {"name": "vocabulary", "kind": "f16"})
    _add_vocabulary(writer, tokenizer, vocab_size, pre)
    for name, shape in config.shapes().items():
        writer.add_tensor(tensor_name(name), np.zeros(shape, np.float16 if len(shape) > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def trial_texts() -> Iterator[str]:
    """Yield texts that tokenizers take apart differently: spaces, digits, marks, what is no Vietnamese, side by side."""
    words = _WORDS.split(",")
    strange = _STRANGE.split(" ")
    marks = _MARKS.split(" ")
    spaces = (" ", "  ", "   ", "\n", "\n\n", " \n ", "\t", "\r\n", "")
    for n, space in enumerate(spaces):
        for m, word in enumerate((*words, *strange)):
            mark, odd = marks[(n * 7 + m * 3) % len(marks)], strange[(n + m) % len(strange)]
            yield f"{word}{space}{words[(n + m) % len(words)]}{mark}{space}{odd}{mark}{word}"
    yield from (f"{space}Trả lời:{space}" for space in spaces)
    yield from (f"Giá{mark}{space}bao nhiêu{mark}" for mark in marks for space in spaces)
