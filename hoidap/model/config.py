"""The configuration of an MPT, read from a ``config.json`` as VinAI and MosaicML ship it, quirks included.

Known quirks of PhoGPT's files: ``attn_pdrop: 0.0`` (a float), ``learned_pos_emb: true`` beside ALiBi (llm-foundry turns it
off then), keys of later llm-foundry versions inside ``attn_config`` (``rope``, ``qk_gn``, ``sliding_window_size``), no
``tie_word_embeddings`` (tied) and no ids of special tokens. Nothing the file names is imported or run.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hoidap.errors import CheckpointError

LINEARS = ("attn.Wqkv", "attn.out_proj", "ffn.up_proj", "ffn.down_proj")  # of each block, in order

_MOST_BYTES = 2**20
# The most of each size, far above any real model's: no file may make its reader allocate without end.
_MOST = {
    "d_model": 2**20,
    "n_heads": 2**16,
    "n_layers": 2**10,
    "vocab_size": 2**24,
    "max_seq_len": 2**24,
    "expansion_ratio": 2**10,
}


@dataclass(frozen=True)
class MPTConfig:
    """What shapes an MPT's arithmetic (llm-foundry v0.3.0, ``models/mpt/configuration_mpt.py``)."""

    d_model: int
    n_heads: int
    n_layers: int
    vocab_size: int
    max_seq_len: int
    expansion_ratio: int = 4  # width of the feed-forward layer over d_model
    no_bias: bool = False  # true: no bias anywhere, layer norms included
    alibi: bool = True
    alibi_bias_max: float = 8.0
    learned_pos_emb: bool = False  # a learned vector a position, only without ALiBi
    qk_ln: bool = False  # layer norm over all of q and all of k, before the heads are split
    clip_qkv: float | None = None  # q, k and v are clamped to ± this, after the bias
    softmax_scale: float | None = None  # None: 1/√head size
    logit_scale: float | None = None  # multiplies the logits; a number by the time it is here

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {getattr(self, name)!r}, it takes a whole number from 1 to {most:,}"
            for name, most in _MOST.items()
            if not _is_size(getattr(self, name), most)
        ]
        if not wrong and self.d_model % self.n_heads:
            wrong = [f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}"]
        if self.alibi_bias_max < 0:
            wrong.append(f"alibi_bias_max is {self.alibi_bias_max}, it takes a number from 0")
        if wrong:
            msg = f"the model's configuration is impossible: {'; '.join(wrong)}"
            raise CheckpointError(msg)

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def attention_scale(self) -> float:
        """What multiplies the products of queries and keys."""
        return self.softmax_scale if self.softmax_scale is not None else 1 / math.sqrt(self.head_dim)

    def alibi_slopes(self) -> list[float]:
        """Return ALiBi's slope of each head; zeros without ALiBi (llm-foundry, ``gen_slopes``)."""
        if not self.alibi:
            return [0.0] * self.n_heads
        ceiling = 2 ** math.ceil(math.log2(self.n_heads))
        slopes = [2.0 ** -(i * self.alibi_bias_max / ceiling) for i in range(1, ceiling + 1)]
        if ceiling != self.n_heads:
            slopes = (slopes[1::2] + slopes[::2])[: self.n_heads]
        return slopes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every tensor's name, as in the checkpoint, and shape; 12 a layer + 3 with biases and ALiBi."""
        d = self.d_model
        shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (self.vocab_size, d)}
        if self.learned_pos_emb:
            shapes["transformer.wpe.weight"] = (self.max_seq_len, d)

        def add(module: str, *shape: int) -> None:
            shapes[f"{module}.weight"] = shape
            if not self.no_bias:
                shapes[f"{module}.bias"] = shape[:1]

        for layer in range(self.n_layers):
            block = f"transformer.blocks.{layer}"
            add(f"{block}.norm_1", d)
            add(f"{block}.attn.Wqkv", 3 * d, d)
            if self.qk_ln:
                add(f"{block}.attn.q_ln", d)
                add(f"{block}.attn.k_ln", d)
            add(f"{block}.attn.out_proj", d, d)
            add(f"{block}.norm_2", d)
            add(f"{block}.ffn.up_proj", self.expansion_ratio * d, d)
            add(f"{block}.ffn.down_proj", d, self.expansion_ratio * d)
        add("transformer.norm_f", d)
        return shapes

    @property
    def n_parameters(self) -> int:
        """Number of weights: 3,688,077,312 of PhoGPT-4B."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def to_json(self, **more: Any) -> str:
        """Return a ``config.json`` in PhoGPT's own layout, with ``more`` that is no part of the arithmetic."""
        attention = {
            "attn_type": "multihead_attention", "attn_pdrop": 0.0, "attn_impl": "torch", "qk_ln": self.qk_ln,
            "clip_qkv": self.clip_qkv, "softmax_scale": self.softmax_scale, "prefix_lm": False,
            "attn_uses_sequence_id": False, "alibi": self.alibi, "alibi_bias_max": self.alibi_bias_max,
        }  # fmt: skip
        values = {
            "architectures": ["MPTForCausalLM"], "model_type": "mpt", "d_model": self.d_model, "n_heads": self.n_heads,
            "n_layers": self.n_layers, "expansion_ratio": self.expansion_ratio, "max_seq_len": self.max_seq_len,
            "vocab_size": self.vocab_size, "no_bias": self.no_bias, "norm_type": "low_precision_layernorm",
            "learned_pos_emb": self.learned_pos_emb, "logit_scale": self.logit_scale, "resid_pdrop": 0, "emb_pdrop": 0,
            "use_cache": False, "attn_config": attention, **more,
        }  # fmt: skip
        return json.dumps(values, indent=2) + "\n"


# Of a quantization_config what makes it one of 4 bits by bitsandbytes; the rest of it is _ONLY_QUANTIZATION's.
_FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}
# What llm-foundry knows and hoidap computes only one way: key → the values that mean that way.
_ONLY = {
    "model_type": ("mpt",),
    "norm_type": ("layernorm", "low_precision_layernorm"),
    "embedding_fraction": (1,),
    "emb_pdrop": (0,),
    "resid_pdrop": (0,),
    "tie_word_embeddings": (True,),
    "fc_type": ("torch", {"name": "torch"}),
    "layer_norm_epsilon": (1e-5,),
    "quantization_config": (None, _FOUR_BITS),
    "no_bias": (True, False),  # both are computed; anything else might be meant as either
    "learned_pos_emb": (True, False),
}
_ONLY_ATTENTION = {
    "attn_type": ("multihead_attention",),
    "attn_pdrop": (0,),
    "prefix_lm": (False,),
    "attn_uses_sequence_id": (False,),
    "qk_gn": (False,),
    "rope": (False,),
    "sliding_window_size": (-1,),
    "kv_n_heads": (None,),
    "attn_logit_softcapping": (None,),
    "alibi": (True, False),
    "qk_ln": (True, False),
}
_ONLY_FFN = {"ffn_type": ("mptmlp",), "fc_type": ("torch", {"name": "torch"})}
_ONLY_QUANTIZATION = {
    "quant_method": ("bitsandbytes",),
    "load_in_4bit": (True,),
    "load_in_8bit": (False,),
    "_load_in_4bit": (True,),
    "_load_in_8bit": (False,),
    "bnb_4bit_quant_type": ("nf4", "fp4"),
    "bnb_4bit_use_double_quant": (True, False),
    "bnb_4bit_quant_storage": ("uint8",),
}
# Each tensor says itself how it is held (see ``stored``), and hoidap has its own dtype.
_IGNORED_QUANTIZATION = (
    "bnb_4bit_compute_dtype",
    "llm_int8_threshold",
    "llm_int8_skip_modules",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
)
_READ_ATTENTION = ("alibi_bias_max", "clip_qkv", "softmax_scale")
_IGNORED_ATTENTION = (
    "attn_impl",
    "model_type",
    "rope_theta",
    "rope_impl",
    "rope_dail_config",
    "rope_hf_config",
    "fc_type",
)


def read_config(path: Path) -> MPTConfig:
    """Read a ``config.json``.

    Raises:
        CheckpointError: no such file, not JSON, a size missing, or options that hoidap does not compute, all by name.

    """
    if not path.is_file():
        msg = f"{path} does not exist; a model folder holds config.json, tokenizer.json and its weights"
        raise CheckpointError(msg)
    if path.stat().st_size > _MOST_BYTES:
        msg = f"{path} has {path.stat().st_size:,} bytes; a config.json has at most {_MOST_BYTES:,}"
        raise CheckpointError(msg)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not JSON: {error}"
        raise CheckpointError(msg) from None
    if not isinstance(values, dict):
        msg = f"{path} holds {type(values).__name__}, not an object of options"
        raise CheckpointError(msg)
    try:
        return _from_values(values)
    except CheckpointError as error:
        msg = f"{path}: {error}"
        raise CheckpointError(msg) from None


def _from_values(values: dict[str, Any]) -> MPTConfig:
    attention = _section(values, "attn_config")
    ffn = _section(values, "ffn_config")
    quantization = _four_bits(values)
    refused = [
        *_refusals({**values, "quantization_config": _FOUR_BITS} if quantization else values, _ONLY, ""),
        *_refusals(quantization, _ONLY_QUANTIZATION, "quantization_config."),
        *_refusals(attention, _ONLY_ATTENTION, "attn_config."),
        *_refusals(ffn, _ONLY_FFN, "ffn_config."),
    ]
    known = (*_ONLY_ATTENTION, *_READ_ATTENTION, *_IGNORED_ATTENTION)
    refused += [f"attn_config.{key} is not an option hoidap knows" for key in attention if key not in known]
    refused += [f"ffn_config.{key} is not an option hoidap knows" for key in ffn if key not in _ONLY_FFN]
    known = (*_ONLY_QUANTIZATION, *_IGNORED_QUANTIZATION)
    refused += [f"quantization_config.{key} is not an option hoidap knows" for key in quantization if key not in known]
    needed = ("d_model", "n_heads", "n_layers", "vocab_size", "max_seq_len")
    refused += [f"{key} is missing" for key in needed if key not in values]
    if refused:
        raise CheckpointError("hoidap cannot compute this model exactly: " + "; ".join(refused))
    alibi = bool(attention.get("alibi", False))
    return MPTConfig(
        **{key: values[key] for key in needed},
        expansion_ratio=values.get("expansion_ratio", 4),
        no_bias=bool(values.get("no_bias", False)),
        alibi=alibi,
        alibi_bias_max=_number(attention.get("alibi_bias_max", 8), "attn_config.alibi_bias_max"),
        learned_pos_emb=not alibi and bool(values.get("learned_pos_emb", True)),
        qk_ln=bool(attention.get("qk_ln", False)),
        clip_qkv=_number_or_none(attention.get("clip_qkv"), "attn_config.clip_qkv") or None,  # 0 is off in llm-foundry
        softmax_scale=_number_or_none(attention.get("softmax_scale"), "attn_config.softmax_scale"),
        logit_scale=_logit_scale(values),
    )


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name) or {}
    if not isinstance(section, dict):
        msg = f"{name} is {section!r}; it takes an object of options"
        raise CheckpointError(msg)
    return section


def _four_bits(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a 4-bit quantisation by bitsandbytes; nothing where there is none, or another."""
    section = values.get("quantization_config")
    if isinstance(section, dict) and all(section.get(key) == value for key, value in _FOUR_BITS.items()):
        return section
    return {}


def _refusals(values: dict[str, Any], only: dict[str, tuple[Any, ...]], prefix: str) -> list[str]:
    return [
        f"{prefix}{key} is {values[key]!r}, supported is {' or '.join(repr(value) for value in allowed)}"
        for key, allowed in only.items()
        if key in values and values[key] not in allowed
    ]


def _logit_scale(values: dict[str, Any]) -> float | None:
    scale = values.get("logit_scale")
    if scale == "inv_sqrt_d_model":
        d = values["d_model"]
        return 1 / math.sqrt(d) if _is_size(d, _MOST["d_model"]) else None  # MPTConfig says what is wrong with d
    return _number_or_none(scale, "logit_scale")


def _number_or_none(value: object, name: str) -> float | None:
    return None if value is None else _number(value, name)


def _number(value: object, name: str) -> float:
    largest = sys.float_info.max  # a longer whole number is valid JSON and no float
    if isinstance(value, bool) or not isinstance(value, int | float) or not -largest <= value <= largest:
        msg = f"{name} is {value!r}; it takes a number"
        raise CheckpointError(msg)
    return float(value)


def _is_size(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
