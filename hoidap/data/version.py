"""The next version of the data: the items with the owner's corrections and additions, as a file that hoidap reads back.

It is CSV as the first version often was, with a byte order mark, so that Excel takes it for UTF-8. What CSV has no place
for (conversations, a wording that holds the sign between wordings) makes it JSON lines.

A cell that begins like a formula would be one in Excel, and may have come from a visitor: "=HYPERLINK(…)". A no-break space
stands before it: a spreadsheet program then takes it for text and shows it as it is, and hoidap strips it from a cell.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hoidap.data.items import Item, to_jsonl
from hoidap.text import comparable

_HEADER = ("câu hỏi", "trả lời", "cách hỏi khác")
_BETWEEN = " | "
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
_NO_FORMULA = "\u00a0"


def next_version(
    items: Sequence[Item], held_out: Sequence[Item], corrections: Mapping[str, str], additions: Sequence[Item]
) -> list[Item]:
    """Return the items of the next version.

    Args:
        items: as trained.
        held_out: those that were not, but belong to the data.
        corrections: the owner's answers by the item's question.
        additions: the owner's answers to other questions; one takes the place of a held-out item with its question.
    """
    added = {comparable(item.question) for item in additions}
    corrected = [replace(item, answer=corrections.get(item.question, item.answer)) for item in items]
    return [*corrected, *(item for item in held_out if comparable(item.question) not in added), *additions]


def write_version(items: Sequence[Item]) -> tuple[str, bytes]:
    """Return the file of a version: how its name ends, and its content."""
    if not all(map(_fits_csv, items)):
        return ".jsonl", to_jsonl(items).encode()
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(_HEADER)
    for item in items:
        writer.writerow(map(_cell, (item.question, item.answer, _BETWEEN.join(item.wordings))))
    return ".csv", out.getvalue().encode("utf-8-sig")


def _fits_csv(item: Item) -> bool:
    return not item.before and not any(sign in wording for wording in item.wordings for sign in "|\n")


def _cell(text: str) -> str:
    return _NO_FORMULA + text if text.startswith(_FORMULA) else text
