"""Bars with the time left, on a terminal; elsewhere nothing, so that logs and pipes stay clean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def bar(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for ``total`` units of work; call the value it gives with the units done."""
    with bars(console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def bars(console: Console) -> Progress:
    """Return a display for bars; it leaves no trace once it stops."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
