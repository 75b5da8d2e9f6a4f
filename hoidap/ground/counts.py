"""Counts of words, read back from a JSON file of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hoidap.errors import RunError

_MOST_BYTES = 64 * 2**20  # of a file
_Made = TypeVar("_Made")


def read_counts(path: Path, make: Callable[[Any], _Made]) -> _Made:
    """Return what ``make`` makes of a file's content; of another's it raises Value-, Key-, Type- or AttributeError.

    Raises:
        RunError: the file is missing, too large, or something else.

    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            msg = f"{path.stat().st_size} bytes, of {_MOST_BYTES} allowed"
            raise ValueError(msg)  # noqa: TRY301 - a file that cannot be read, like the others
        return make(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"{path} cannot be read ({error!r}); `hoidap evaluate` writes it again"
        raise RunError(msg) from None


def refuse_no_counts(counts: Any, least: int = 0) -> None:
    """Raise ValueError unless all are whole numbers from ``least``."""
    if not all(type(n) is int and least <= n < 2**53 for n in counts):
        msg = "it holds counts that are none"
        raise ValueError(msg)
