"""The answer report as a table for the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoidap.evaluate.recall import Asked, Score

_MOST_MISSES = 20


def show_report(report: dict[str, Any], console: Console) -> None:
    """Print the scores of a run's report, and the items that did not come back to the letter."""
    table = Table("asked", "questions", "exact", "normalised", "chrF")
    for name, key in (("as trained", "items"), ("other wordings, never trained on", "other_wordings")):
        if score := report[key]["score"]:
            _add_score(table, name, Score(**score))
    console.print(table)
    misses = [row for row in report["items"]["asked"] if not row["exact"]]
    for row in misses[:_MOST_MISSES]:
        _show_miss(row["question"], row["wanted"], row["got"], console)
    if len(misses) > _MOST_MISSES:
        console.print(f"… and {len(misses) - _MOST_MISSES} more; all are in report.json")


def show_asked(asked: Sequence[Asked], scored: Score | None, console: Console) -> None:
    """Print the answers to the questions of a file, with their score where the file has answers."""
    for one in asked:
        if one.wanted is None:
            console.print(Text(f"? {one.question}\n= {one.got}"))
        elif not one.is_exact:
            _show_miss(one.question, one.wanted, one.got, console)
    if scored:
        table = Table("asked", "questions", "exact", "normalised", "chrF")
        _add_score(table, "questions with an answer", scored)
        console.print(table)


def _add_score(table: Table, name: str, score: Score) -> None:
    table.add_row(name, str(score.count), f"{score.exact:.1%}", f"{score.normalised:.1%}", f"{score.chrf:.1f}")


def _show_miss(question: str, wanted: str, got: str, console: Console) -> None:
    console.print(Text(f"? {question}\n  wanted {wanted}\n  got    {got}"))
