"""An item: one question, its answer, other wordings of the question, and what was said before it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hoidap.errors import DataError
from hoidap.prompt import Turn


@dataclass(frozen=True)
class Item:
    """One question of the data with its answer, in NFC, without white space at either end."""

    question: str
    answer: str
    wordings: tuple[str, ...] = ()  # other ways to ask the same, by the user; data/wordings.py says which are trained on
    before: tuple[Turn, ...] = ()  # the answered turns of the conversation that this question goes on with


def to_jsonl(items: Sequence[Item]) -> str:
    """Return the items as JSON lines, as kept in a run folder."""
    return "".join(json.dumps(_row(item), ensure_ascii=False) + "\n" for item in items)


def _row(item: Item) -> dict[str, object]:
    row: dict[str, object] = {"question": item.question, "answer": item.answer, "wordings": list(item.wordings)}
    if item.before:  # left out where there is none: the hash of a file of single questions stays what it was
        row["before"] = [[turn.question, turn.answer] for turn in item.before]
    return row


def from_jsonl(path: Path) -> list[Item]:
    """Read what ``to_jsonl`` wrote.

    Raises:
        DataError: the file is something else.

    """
    try:
        # Not splitlines(), which would also split at U+2028 inside an answer.
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [
            Item(
                row["question"],
                row["answer"],
                tuple(row["wordings"]),
                tuple(Turn(question, answer) for question, answer in row.get("before", ())),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError([f"{path}: not the items of a run ({error!r})"]) from None


def hash_of(items: Sequence[Item]) -> str:
    """Return the SHA-256 of the items, which names exactly what a run was trained on."""
    return hashlib.sha256(to_jsonl(items).encode()).hexdigest()
