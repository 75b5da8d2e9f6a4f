"""An item: one question, its answer, and other wordings of the question."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hoidap.errors import DataError


@dataclass(frozen=True)
class Item:
    """One row of the data, in NFC, without white space at either end."""

    question: str
    answer: str
    wordings: tuple[str, ...] = ()  # other ways to ask the same; never trained on, so that they can be asked as a test


def to_jsonl(items: Sequence[Item]) -> str:
    """Return the items as JSON lines, as kept in a run folder."""
    rows = ({"question": i.question, "answer": i.answer, "wordings": list(i.wordings)} for i in items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def from_jsonl(path: Path) -> list[Item]:
    """Read what ``to_jsonl`` wrote."""
    try:
        # Not splitlines(), which would also split at U+2028 inside an answer.
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [Item(row["question"], row["answer"], tuple(row["wordings"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError([f"{path}: not the items of a run ({error!r})"]) from None


def hash_of(items: Sequence[Item]) -> str:
    """Return the SHA-256 of the items, which names exactly what a run was trained on."""
    return hashlib.sha256(to_jsonl(items).encode()).hexdigest()
