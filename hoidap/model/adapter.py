"""Low-rank adapters as data, read and written in PEFT's format.

An adapter is two matrices for each linear layer that it changes; it wraps nothing, so merging it is arithmetic and the
base stays as it is.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hoidap.errors import CheckpointError
from hoidap.model.config import LINEARS, MPTConfig
from hoidap.model.linear import LowRank

_PREFIX = "base_model.model."  # what PEFT puts before a module's name
_FILES = ("adapter_config.json", "adapter_model.safetensors")
_MOST_BYTES = 16 * 2**30


@dataclass(frozen=True, eq=False)
class Adapter:
    """LoRA (Hu et al. 2021, arXiv 2106.09685): ``deltas`` by module name ("transformer.blocks.0.attn.Wqkv")."""

    rank: int
    alpha: float
    deltas: Mapping[str, LowRank]

    def trainable(self) -> dict[str, torch.Tensor]:
        """Return every matrix under PEFT's name for it."""
        tensors: dict[str, torch.Tensor] = {}
        for module, delta in self.deltas.items():
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = delta.A
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = delta.B
        return tensors

    def with_dropout(self, share: float) -> "Adapter":
        """Return this adapter, the same matrices, as training sees it: each update blind to a share of its input."""
        return replace(self, deltas={module: replace(delta, dropout=share) for module, delta in self.deltas.items()})


def new_adapter(
    config: MPTConfig, rank: int, alpha: float, device: torch.device, generator: torch.Generator | None = None
) -> Adapter:
    """Return an adapter that changes nothing yet: A uniform as PEFT draws it (Kaiming, a = √5), B zero; float32.

    ``generator`` is a CPU generator, so that a seed gives the same adapter on every device.
    """
    deltas = {}
    shapes = config.shapes()
    for module in _modules(config):
        out_features, in_features = shapes[f"{module}.weight"]
        bound = 1 / math.sqrt(in_features)
        A = torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator).to(device)
        B = torch.zeros(out_features, rank, device=device)
        deltas[module] = LowRank(A.requires_grad_(), B.requires_grad_(), alpha / rank)
    return Adapter(rank, alpha, deltas)


def save_adapter(adapter: Adapter, folder: Path, base: str) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` into an existing folder, as PEFT does."""
    # The hub's owner/name@commit, as a run keeps it; PEFT wants the two apart.
    name, _, revision = (base, "", "") if Path(base).is_absolute() else base.partition("@")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": name, "revision": revision or None,
        "r": adapter.rank, "lora_alpha": adapter.alpha, "lora_dropout": 0.0, "bias": "none",
        "target_modules": sorted(t.split(".")[1] for t in LINEARS),
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "use_rslora": False, "use_dora": False,
    }  # fmt: skip
    (folder / _FILES[0]).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {name: t.detach().to("cpu").contiguous() for name, t in adapter.trainable().items()}
    save_file(tensors, folder / _FILES[1], metadata={"format": "pt"})


def load_adapter(folder: Path, config: MPTConfig, device: torch.device) -> Adapter:
    """Read an adapter that hoidap or PEFT wrote for a model of this configuration; float32.

    Raises:
        CheckpointError: files missing or unreadable, options other than plain LoRA, or tensors that do not fit, all listed.

    """
    for name in _FILES:
        path = folder / name
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            msg = f"{path} is missing or larger than {_MOST_BYTES:,} bytes; an adapter folder holds {' and '.join(_FILES)}"
            raise CheckpointError(msg)
    rank, alpha = _read_options(folder / _FILES[0])
    try:
        tensors = load_file(folder / _FILES[1])
    except SafetensorError as error:
        msg = f"{folder / _FILES[1]} is not a whole safetensors file: {error}"
        raise CheckpointError(msg) from None
    return _assemble(folder / _FILES[1], tensors, config, rank, alpha, device)


def _read_options(path: Path) -> tuple[int, float]:
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
        rank, alpha = int(options["r"]), float(options["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is not a LoRA configuration of PEFT: {error!r}"
        raise CheckpointError(msg) from None
    # What would change the arithmetic: option → the values under which it does not.
    plain = {
        "peft_type": ("LORA",), "bias": ("none",), "use_rslora": (False,), "use_dora": (False,), "fan_in_fan_out": (False,),
        "rank_pattern": ({},), "alpha_pattern": ({},), "modules_to_save": (None, []), "layer_replication": (None,),
        "alora_invocation_tokens": (None,), "lora_bias": (False,), "trainable_token_indices": (None,),
        "target_parameters": (None, []), "arrow_config": (None,), "kasa_config": (None,), "use_qalora": (False,),
        "use_bdlora": (None,),
        # PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA begin by changing the base's own weights.
        "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),
    }  # fmt: skip
    refused = [f"{k} is {options[k]!r}" for k, allowed in plain.items() if k in options and options[k] not in allowed]
    if refused or rank < 1:
        msg = f"{path}: hoidap reads plain LoRA with one rank; here {'; '.join(refused) or f'r is {rank}'}"
        raise CheckpointError(msg)
    return rank, alpha


def _assemble(
    path: Path, tensors: dict[str, torch.Tensor], config: MPTConfig, rank: int, alpha: float, device: torch.device
) -> Adapter:
    shapes = config.shapes()
    wanted: dict[str, tuple[int, int]] = {}
    touched = [m for m in _modules(config) if any(name.startswith(f"{_PREFIX}{m}.") for name in tensors)]
    for module in touched:
        out_features, in_features = shapes[f"{module}.weight"]
        wanted[f"{_PREFIX}{module}.lora_A.weight"] = (rank, in_features)
        wanted[f"{_PREFIX}{module}.lora_B.weight"] = (out_features, rank)
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, wanted {shape}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems or not touched:
        listed = "; ".join(problems) or "no tensor of an adapter"
        msg = f"{path} does not fit this model of {config.n_layers} layers, d_model {config.d_model}: {listed}"
        raise CheckpointError(msg)
    deltas = {}
    for module in touched:
        A, B = (tensors[f"{_PREFIX}{module}.lora_{x}.weight"].to(device, torch.float32) for x in "AB")
        deltas[module] = LowRank(A, B, alpha / rank)
    return Adapter(rank, alpha, deltas)


def _modules(config: MPTConfig) -> list[str]:
    return [f"transformer.blocks.{layer}.{target}" for layer in range(config.n_layers) for target in LINEARS]
