"""The keys and values of tokens already seen, so that a new token costs one token's work."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hoidap.model.config import MPTConfig


def cache_bytes_a_token(config: MPTConfig, dtype: torch.dtype) -> int:
    """Return the bytes that one token's keys and values take: 2 · layers · d_model values."""
    return 2 * config.n_layers * config.d_model * dtype.itemsize


class KVCache:
    """Room for ``n_rows`` sequences of up to ``max_tokens`` tokens."""

    def __init__(self, config: MPTConfig, n_rows: int, max_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.n_layers, n_rows, config.n_heads, max_tokens, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.max_tokens = max_tokens
        self.lengths = [0] * n_rows  # tokens held a row

    def rows(self, numbers: Sequence[int]) -> "CacheRows":
        """Return the rows that a call to ``MPT.hidden`` continues, one a document, in the documents' order."""
        return CacheRows(self, tuple(numbers))


@dataclass(frozen=True)
class CacheRows:
    """Some rows of a cache."""

    cache: KVCache
    numbers: tuple[int, ...]

    @property
    def past(self) -> list[int]:
        """Tokens that each row holds already."""
        return [self.cache.lengths[n] for n in self.numbers]

    def places(self, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return row and place [T] at which the new tokens of each document are to be kept.

        Raises:
            ValueError: a row has no room for them.

        """
        rows: list[int] = []
        places: list[int] = []
        for number, past, new in zip(self.numbers, self.past, lengths, strict=True):
            if past + new > self.cache.max_tokens:
                msg = f"row {number} of the cache holds {past} tokens and has no room for {new} of {self.cache.max_tokens}"
                raise ValueError(msg)
            rows += [number] * new
            places += range(past, past + new)
        device = self.cache.keys.device
        return torch.tensor(rows, device=device), torch.tensor(places, device=device)

    def store(self, layer: int, at: tuple[torch.Tensor, torch.Tensor], keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep one layer's new keys and values [T, H, d]."""
        rows, places = at
        self.cache.keys[layer, rows, :, places] = keys
        self.cache.values[layer, rows, :, places] = values

    def read(self, layer: int, span: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one layer's keys and values [D, H, span, d]."""
        numbers = self.numbers
        if numbers == tuple(range(numbers[0], numbers[0] + len(numbers))):  # neighbours need no copy
            rows: slice | list[int] = slice(numbers[0], numbers[0] + len(numbers))
        else:
            rows = list(numbers)
        return self.cache.keys[layer, rows, :, :span], self.cache.values[layer, rows, :, :span]

    def advance(self, lengths: Sequence[int]) -> None:
        """Count the new tokens, once all layers have stored them."""
        for number, new in zip(self.numbers, lengths, strict=True):
            self.cache.lengths[number] += new
