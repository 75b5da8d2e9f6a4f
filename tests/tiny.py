"""Small random models for the tests, with biases and norm weights that matter."""

from collections.abc import Iterator

import torch

from hoidap.model.adapter import Adapter, new_adapter
from hoidap.model.checkpoint import assemble, random_tensors
from hoidap.model.config import MPTConfig
from hoidap.model.mpt import MPT
from hoidap.recipe import Quantize

CPU = torch.device("cpu")


def tiny_config(**changes) -> MPTConfig:
    sizes = {"d_model": 48, "n_heads": 6, "n_layers": 2, "vocab_size": 61, "max_seq_len": 64}
    return MPTConfig(**{**sizes, **changes})


def tiny_tensors(config: MPTConfig, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield fresh tensors, but no bias is 0 and no norm weight 1: a test would not see these left out."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in random_tensors(config, CPU, torch.float32, seed):
        if tensor.dim() == 1:
            tensor.add_(torch.empty_like(tensor).uniform_(-0.5, 0.5, generator=generator))
        yield name, tensor


def tiny_model(
    config: MPTConfig,
    seed: int,
    *,
    quantize: Quantize = "none",
    double_quant: bool = True,
    dtype: torch.dtype = torch.float32,
) -> MPT:
    tensors = tiny_tensors(config, seed)
    return assemble(config, tensors, quantize=quantize, double_quant=double_quant, device=CPU, dtype=dtype)


def tiny_adapter(config: MPTConfig, seed: int, rank: int = 3, alpha: float = 5.0) -> Adapter:
    """Return an adapter that changes a lot; alpha / rank is no power of two."""
    generator = torch.Generator().manual_seed(seed)
    adapter = new_adapter(config, rank, alpha, CPU, generator)
    for delta in adapter.deltas.values():
        delta.B.detach().normal_(0, 0.3, generator=generator)
    return adapter


def some_tokens(config: MPTConfig, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(config.vocab_size, (n,), generator=torch.Generator().manual_seed(seed))
