"""AdamW in its several keepings, its state as plain tensors, and its learning rate."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from hoidap.errors import RecipeError
from hoidap.recipe import Optimizer


def build(tensors: Mapping[str, torch.Tensor], settings: Optimizer) -> torch.optim.Optimizer:
    """Return AdamW over ``tensors``; weight decay is for matrices of a model alone, not for vectors or adapters.

    Paged and 8-bit kinds are bitsandbytes'. On a CPU there is nothing to page out to, so these are the unpaged ones there,
    which compute the same.

    Raises:
        RecipeError: bitsandbytes is needed and not installed.

    """
    decayed = [t for name, t in tensors.items() if t.dim() >= 2 and ".lora_" not in name]
    spared = [t for name, t in tensors.items() if t.dim() < 2 or ".lora_" in name]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    kind = settings.algorithm
    if next(iter(tensors.values())).device.type == "cpu":
        kind = {"paged_adamw_32bit": "adamw", "paged_adamw_8bit": "adamw_8bit"}.get(kind, kind)  # type: ignore[assignment]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
    try:
        from bitsandbytes import optim
    except ImportError:
        msg = f'--optimizer {kind} needs bitsandbytes: pip install "hoidap[bitsandbytes]", or use --optimizer adamw'
        raise RecipeError(msg) from None
    kinds = {
        "paged_adamw_32bit": optim.PagedAdamW32bit,
        "adamw_8bit": optim.AdamW8bit,
        "paged_adamw_8bit": optim.PagedAdamW8bit,
    }
    built: torch.optim.Optimizer = kinds[kind](groups, lr=settings.learning_rate, betas=settings.betas)
    return built


def state_of(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return an optimiser's state as tensors and as numbers, each named "parameter/key": nothing that needs a pickle."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, float] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):  # bitsandbytes keeps its 8-bit tensors one level deeper
            for key, inner in value.items():
                add(f"{name}/{key}", inner)
        elif isinstance(value, torch.Tensor):
            tensors[name] = value
        else:
            numbers[name] = value

    for parameter, state in optimizer.state_dict()["state"].items():
        add(str(parameter), state)
    return tensors, numbers


def restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, float]) -> None:
    """Put back what ``state_of`` returned."""
    state: dict[int, Any] = {}
    for name, value in (*tensors.items(), *numbers.items()):
        parameter, *path, key = name.split("/")
        place = state.setdefault(int(parameter), {})
        for step in path:
            place = place.setdefault(step, {})
        place[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def learning_rate(step: int, total_steps: int, settings: Optimizer) -> float:
    """Return the rate of ``step`` (from 0): linear up to the peak, then a cosine down to the final fraction of it."""
    warmup = max(1, round(settings.warmup_fraction * total_steps)) if settings.warmup_fraction else 0
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return settings.learning_rate * (settings.final_fraction + (1 - settings.final_fraction) * cosine)
