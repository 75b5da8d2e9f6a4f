"""Which row of the cache a request gets; a row remembers what it holds, for the next turn of the same conversation."""

from collections import OrderedDict
from collections.abc import Sequence

from hoidap.model.cache import KVCache

_LEAST_SHARED = 16  # tokens, below which reading them anew is as good

_Key = tuple[str, str]  # adapter and client: what one client's prompts left is never another's


class Rows:
    """The rows of a cache, each at work for one request or free.

    A free row still holds the keys of what it last read and wrote. A prompt that begins with the same tokens, such as a
    conversation's next turn, goes on behind them.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        # Free rows, the one that was freed longest ago first, with the tokens that each holds.
        self._free: OrderedDict[int, tuple[_Key, tuple[int, ...]]] = OrderedDict(
            (row, (("", ""), ())) for row in range(len(cache.lengths))
        )

    def __len__(self) -> int:
        """Return how many are free."""
        return len(self._free)

    def take(self, prompt: Sequence[int], key: _Key) -> tuple[int, int]:
        """Return a row and how many of the prompt's tokens it holds already; all but the last at most."""
        shared = {
            row: _shared(prompt[:-1], tokens) for row, (whose, tokens) in self._free.items() if whose == key and tokens
        }
        row = max(shared, key=lambda row: shared[row], default=None)
        if row is None or shared[row] < _LEAST_SHARED:
            row = next(iter(self._free))
        held = shared.get(row, 0)
        held = held if held >= _LEAST_SHARED else 0
        del self._free[row]
        self._cache.lengths[row] = held
        return row, held

    def give_back(self, row: int, tokens: Sequence[int], key: _Key) -> None:
        """Free a row, which holds the keys of as many of ``tokens`` as the cache says."""
        self._free[row] = (key, tuple(tokens[: self._cache.lengths[row]]))
        self._cache.lengths[row] = 0


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))
