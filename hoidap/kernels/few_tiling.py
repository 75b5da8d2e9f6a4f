"""How a product of few tokens is divided among a GPU's warps: what ``few.cu`` is compiled with."""

from dataclasses import dataclass, replace
from functools import cache

from hoidap.kernels.fourbit import BLOCK

_TABLE_BYTES = 32_768 + 1024  # of shared memory: the pairs of levels, a copy a bank, and the steps of absmax
_RANKS = 16  # of an adapter's A, that a program takes


@dataclass(frozen=True)
class Tiling:
    """A division; those below were found by trying on an H200."""

    token_tiles: int  # of eight tokens
    token_slots: int  # of few tokens: columns of an instruction that one token takes, each some of the blocks
    row_tiles: int  # of 16 rows that a warp takes
    warps_rows: int  # warps side by side
    warps_columns: int  # warps that share rows, each some of the columns
    blocks_at_once: int  # of 64 columns, that a warp loads
    programs: int  # a multiprocessor; they take tiles by turns
    ahead: bool = False  # activations are loaded a block ahead

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return 16 * self.row_tiles * self.warps_rows

    @property
    def threads(self) -> int:
        """Threads of a program."""
        return 32 * self.warps_rows * self.warps_columns

    def shared_bytes(self, *, tokens: int, rank: int, is_four: bool) -> int:
        """Return the shared memory of a program."""
        width = 8 * self.token_tiles
        sums = 2 * 4 * self.warps_columns * width * self.rows + 2 * tokens * rank
        of_adapter = 4 * self.warps_rows * self.warps_columns * _RANKS * width
        return max((_TABLE_BYTES if is_four else 0) + sums, of_adapter)


_FOUR_BITS = {
    1: Tiling(1, 8, 1, 1, 4, 8, 3),
    2: Tiling(1, 4, 1, 1, 8, 4, 2),
    4: Tiling(1, 2, 1, 1, 8, 4, 2),
    8: Tiling(1, 1, 1, 1, 8, 4, 2),
    16: Tiling(2, 1, 2, 1, 8, 4, 1),
    32: Tiling(4, 1, 2, 1, 8, 2, 1, ahead=True),
    64: Tiling(8, 1, 1, 2, 4, 2, 1, ahead=True),
}
_LONG, _LONG_BLOCKS = Tiling(1, 8, 1, 1, 8, 8, 2), 160  # of one token, with so many blocks a row
# Codes of eight bits take twice the registers.
_EIGHT_BITS = {
    **dict.fromkeys((1, 2, 4, 8), Tiling(1, 1, 1, 1, 8, 4, 2)),
    16: Tiling(2, 1, 1, 1, 8, 2, 1, ahead=True),
    32: Tiling(4, 1, 1, 1, 8, 2, 1, ahead=True),
    64: Tiling(8, 1, 1, 1, 8, 2, 1),
}


@cache
def tiling(*, tokens: int, ins: int, rank: int, is_four: bool, most_shared: int) -> Tiling:
    """Choose how to divide a product.

    Args:
        tokens: 1 to 64.
        ins: columns of the matrix, a multiple of 64.
        rank: of the adapter, or 0.
        is_four: whether codes have four bits, or eight.
        most_shared: bytes of shared memory that a program may have.

    """
    size = 1 << (tokens - 1).bit_length()
    chosen = (_FOUR_BITS if is_four else _EIGHT_BITS)[size]
    if size == 1 and is_four and ins >= _LONG_BLOCKS * BLOCK:
        chosen = _LONG
    groups = ins // BLOCK // chosen.blocks_at_once
    if groups % chosen.warps_columns and groups % 6 == 0:  # PhoGPT-4B's 48 blocks
        chosen = replace(chosen, warps_columns=6, programs=min(2, chosen.programs))
    while chosen.shared_bytes(tokens=tokens, rank=rank, is_four=is_four) > most_shared:
        if chosen.warps_rows > 1:
            chosen = replace(chosen, warps_rows=chosen.warps_rows // 2)
        elif chosen.row_tiles > 1:
            chosen = replace(chosen, row_tiles=chosen.row_tiles // 2)
        elif chosen.warps_columns > 1:
            chosen = replace(chosen, warps_columns=chosen.warps_columns // 2)
        else:
            msg = f"{tokens} tokens and rank {rank} need more than {most_shared:,} bytes of shared memory"
            raise ValueError(msg)
    return chosen
