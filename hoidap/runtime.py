"""Device, dtype and logging: functions to call, nothing that happens at import."""

import logging
from typing import Literal

import torch

from hoidap.errors import RecipeError

DType = Literal["float32", "bfloat16", "float16"]
_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str | None = None) -> torch.device:
    """Return the device named, or the first GPU, or the CPU."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        msg = f"--device is {name!r}; it takes 'cpu', 'cuda' or 'cuda:N'"
        raise RecipeError(msg) from None
    if device.type not in ("cpu", "cuda"):
        msg = f"--device is {name!r}; it takes 'cpu', 'cuda' or 'cuda:N'"
        raise RecipeError(msg)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        msg = f"--device is {name!r}, but PyTorch sees {torch.cuda.device_count()} CUDA devices here; leave --device out"
        raise RecipeError(msg)
    if device.index is not None:
        torch.cuda.set_device(device)  # Triton launches its kernels on the current one
    return device


def pick_dtype(device: torch.device, name: str | None = None) -> torch.dtype:
    """Return the dtype named, or float32 on the CPU, bfloat16 on a GPU that computes it, float16 on an older one.

    A T4 (compute capability 7.5) only emulates bfloat16, so it gets float16.
    """
    if name is not None:
        if name not in _DTYPES:
            msg = f"--dtype is {name!r}; it takes {', '.join(_DTYPES)}"
            raise RecipeError(msg)
        return _DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


def set_up_logging(*, verbose: bool) -> None:
    """Send hoidap's log to standard error; the command line calls this once."""
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, format="%(name)s: %(message)s")
