"""The answer report as tables for the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoidap.evaluate.comparison import Comparison
from hoidap.evaluate.judge import EMBEDDED, WAYS
from hoidap.evaluate.recall import Compared, Score

_MOST_MISSES = 20
_TOO_FEW = "too few to set the threshold by: it is preset, and promises nothing"


def show_report(report: dict[str, Any], console: Console) -> None:
    """Print the scores of a run's report, its rates, and the items that did not come back to the letter."""
    table = Table("asked of the model", "questions", "exact", "normalised", "chrF")
    for name, key in (("as trained", "items"), ("other wordings, never trained on", "other_wordings")):
        if scored := report[key]["score"]:
            _add_score(table, name, Score(**scored))
    console.print(table)
    console.print(_rates(report))
    if report.get("compared"):
        _show_comparison(Comparison(**report["compared"]), console)
    misses = [row for row in report["asked"] if row["kind"] == "as written" and row["verdict"] != "exact"]
    for row in misses[:_MOST_MISSES]:
        _show_miss(row["question"], row["wanted"], row["got"], console)
    if len(misses) > _MOST_MISSES:
        console.print(f"… and {len(misses) - _MOST_MISSES} more; all are in report.json")


def _show_comparison(found: Comparison, console: Console) -> None:
    console.print(Text(f"beside the run it began from: {found}"))
    for question in found.broke[:_MOST_MISSES]:
        console.print(Text(f"  broke: {question}"))


def _rates(report: dict[str, Any]) -> Table:
    """Return both rates, for every way of answering: wrong in scope, answered out of scope."""
    scope, far, near = report["in_scope"], report["out_of_scope"]["far"], report["out_of_scope"]["near"]
    table = Table("answered by", "right", "wrong", "declined", "far out of scope", "near out of scope")
    for way in (*WAYS, EMBEDDED) if EMBEDDED in scope else WAYS:
        shares = [f"{scope[way][what]:.1%}" if scope["count"] else "–" for what in ("right", "wrong", "declined")]
        answered = [f"{1 - found[way]['declined']:.1%}" if found else "not measured" for found in (far, near)]
        table.add_row(way, *shares, *answered)
    kinds = ", ".join(scope["kinds"])
    set_by = f"threshold set by {report['set_by']} other items" if report["set_by"] else _TOO_FEW
    asked = f"{scope['count']} questions in scope ({kinds}), never trained on"
    table.caption = f"{asked}; {set_by}; out of scope: the share answered"
    return table


def show_compared(compared: Sequence[Compared], scored: Score | None, console: Console) -> None:
    """Print the answers to the questions of a file, with their score where the file has answers."""
    for one in compared:
        if one.wanted is None:
            console.print(Text(f"? {one.question}\n= {one.answer.text}"))
        elif not one.is_exact:
            _show_miss(one.question, one.wanted, one.answer.text, console)
    if scored:
        table = Table("asked", "questions", "exact", "normalised", "chrF")
        _add_score(table, "questions with an answer", scored)
        console.print(table)


def _add_score(table: Table, name: str, scored: Score) -> None:
    table.add_row(name, str(scored.count), f"{scored.exact:.1%}", f"{scored.normalised:.1%}", f"{scored.chrf:.1f}")


def _show_miss(question: str, wanted: str, got: str, console: Console) -> None:
    console.print(Text(f"? {question}\n  wanted {wanted}\n  got    {got}"))
