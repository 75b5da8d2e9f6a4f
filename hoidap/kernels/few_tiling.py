"""How a product of few tokens is divided among a GPU's warps: what its kernels are compiled with."""

from dataclasses import dataclass, replace
from functools import cache

from hoidap.kernels.fourbit import BLOCK

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)  # numbers of tokens, for which there are divisions
_TABLE_BYTES = 32_768 + 1024  # of shared memory: the pairs of levels, a copy a bank, and the steps of absmax
_LEAST_THREADS = 128
_RANKS = 16  # of an adapter's A, that a program takes


@dataclass(frozen=True)
class Tiling:
    """A division."""

    token_tiles: int  # of eight tokens
    token_slots: int  # of few tokens: columns of an instruction that one token takes, each some of the blocks
    row_tiles: int  # of 16 rows that a warp takes
    warps_rows: int  # warps side by side
    warps_columns: int  # warps that share rows, each some of the columns
    blocks_at_once: int  # of 64 columns, that a warp loads
    programs: int  # a multiprocessor
    stages: int = 0  # steps whose activations are in shared memory, or on their way; 0: they are read where they lie

    @property
    def source(self) -> str:
        """The kernel's file."""
        return "few_staged.cu" if self.stages else "few_direct.cu"

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return 16 * self.row_tiles * self.warps_rows

    @property
    def tokens(self) -> int:
        """Tokens of a tile."""
        return 8 * self.token_tiles

    @property
    def threads(self) -> int:
        """Threads of a program."""
        return 32 * self.warps_rows * self.warps_columns

    def programs_for(self, outs: int, ins: int, most: int) -> int:
        """Return how many programs, ``most`` at most, take a matrix's tiles by turns, or its steps evenly."""
        tiles = -(-outs // self.rows)
        if not self.stages:
            return min(tiles, most)
        steps = tiles * -(-ins // BLOCK // (self.warps_columns * self.blocks_at_once))
        return -(-steps // -(-steps // most))

    def shared_bytes(self, *, tokens: int, rank: int, is_four: bool) -> int:
        """Return the shared memory of a program."""
        table = _TABLE_BYTES if is_four else 0
        of_adapter = 4 * self.warps_rows * self.warps_columns * _RANKS * self.tokens
        sums = 4 * self.warps_columns * self.tokens * self.rows
        if not self.stages:
            return max(table + 2 * sums + 2 * tokens * rank, of_adapter)
        activations = self.stages * self.warps_columns * self.blocks_at_once * self.tokens * 2 * BLOCK
        sums += 4 * self.warps_columns * self.tokens * 4  # rows are four floats apart from their neighbours
        return max(table + activations + sums + 2 * self.tokens * rank + 16, of_adapter)

    def smaller(self) -> "Tiling | None":
        """Return a division that takes less shared memory, if one is left that keeps a multiprocessor at work."""
        if self.stages > 2:  # one is read while the other comes
            return replace(self, stages=self.stages - 1)
        if self.stages and self.blocks_at_once > 1:
            return replace(self, blocks_at_once=self.blocks_at_once // 2)
        for name in ("warps_columns", "warps_rows", "row_tiles"):
            less = replace(self, **{name: getattr(self, name) // 2})
            if getattr(less, name) and less.threads >= _LEAST_THREADS:
                return less
        return None


_FOUR_BITS = {
    1: Tiling(1, 8, 1, 1, 4, 8, 3),
    2: Tiling(1, 4, 1, 1, 8, 4, 2),
    4: Tiling(1, 2, 1, 1, 8, 4, 2),
    8: Tiling(1, 1, 1, 1, 8, 4, 2),
    16: Tiling(2, 1, 2, 4, 4, 2, 1, stages=4),
    24: Tiling(3, 1, 2, 4, 4, 1, 1, stages=4),
    32: Tiling(4, 1, 2, 4, 2, 2, 1, stages=4),
    48: Tiling(6, 1, 2, 4, 2, 2, 1, stages=3),
    64: Tiling(8, 1, 2, 4, 2, 2, 1, stages=3),
}
_LONG, _LONG_BLOCKS = Tiling(1, 8, 1, 1, 8, 8, 2), 160  # of one token, with so many blocks a row
# Codes of eight bits take twice the registers.
_EIGHT_BITS = {
    **dict.fromkeys((1, 2, 4, 8), Tiling(1, 1, 1, 1, 8, 4, 2)),
    16: Tiling(2, 1, 2, 4, 2, 2, 1, stages=4),
    24: Tiling(3, 1, 2, 4, 2, 1, 1, stages=4),
    32: Tiling(4, 1, 2, 4, 2, 1, 1, stages=4),
    48: Tiling(6, 1, 2, 4, 2, 1, 1, stages=3),
    64: Tiling(8, 1, 2, 4, 2, 1, 1, stages=3),
}
# Floats of all tokens and rows of a tile, at most.
MOST_SUMS = max(chosen.tokens * chosen.rows for chosen in (*_FOUR_BITS.values(), *_EIGHT_BITS.values()) if chosen.stages)


def size_of(tokens: int) -> int:
    """Return the least of ``SIZES`` that has room for so many tokens."""
    return next(size for size in SIZES if size >= tokens)


@cache
def tiling(*, tokens: int, ins: int, rank: int, is_four: bool, most_shared: int) -> Tiling | None:
    """Choose how to divide a product; None where a program's shared memory has no room for four warps' work.

    Args:
        tokens: 1 to 64.
        ins: columns of the matrix, a multiple of 64.
        rank: of the adapter, or 0.
        is_four: whether codes have four bits, or eight.
        most_shared: bytes of shared memory that a program may have.

    """
    size = size_of(tokens)
    first = (_FOUR_BITS if is_four else _EIGHT_BITS)[size]
    if size == 1 and is_four and ins >= _LONG_BLOCKS * BLOCK:
        first = _LONG
    groups = ins // BLOCK // first.blocks_at_once
    if not first.stages and groups % first.warps_columns and groups % 6 == 0:  # PhoGPT-4B's 48 blocks
        first = replace(first, warps_columns=6, programs=min(2, first.programs))
    chosen: Tiling | None = first
    while chosen and chosen.shared_bytes(tokens=tokens, rank=rank, is_four=is_four) > most_shared:
        chosen = chosen.smaller()
    return chosen
