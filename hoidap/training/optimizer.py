"""AdamW and its learning rate."""

import math
from collections.abc import Mapping

import torch

from hoidap.recipe import Optimizer


def build(tensors: Mapping[str, torch.Tensor], settings: Optimizer) -> torch.optim.AdamW:
    """Return AdamW over ``tensors``; weight decay is for matrices of a model alone, not for vectors or adapters."""
    decayed = [t for name, t in tensors.items() if t.dim() >= 2 and ".lora_" not in name]
    spared = [t for name, t in tensors.items() if t.dim() < 2 or ".lora_" in name]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.learning_rate, betas=settings.betas, fused=True
    )


def learning_rate(step: int, total_steps: int, settings: Optimizer) -> float:
    """Return the rate of ``step`` (from 0): linear up to the peak, then a cosine down to the final fraction of it."""
    warmup = max(1, round(settings.warmup_fraction * total_steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return settings.learning_rate * (settings.final_fraction + (1 - settings.final_fraction) * cosine)
