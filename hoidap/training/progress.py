"""What a person sees while it works: bars with the time left, and a line a measurement where there is no terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hoidap.run import Run


@contextmanager
def bar(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for ``total`` units of work; call the value it gives with the units done."""
    with _progress(console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


class RunWatcher:
    """Shows the bar of a training run and writes its ``metrics.jsonl``."""

    def __init__(self, run: Run, epoch_tokens: int, console: Console) -> None:
        self._run = run
        self._console = console
        self._epoch_tokens = epoch_tokens
        self._progress = _progress(console)
        self._task: TaskID | None = None
        self._started = time.perf_counter()
        self._tokens = 0
        self._items = 0
        self._last: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def start(self, total_steps: int) -> None:
        """Training begins; it makes at most ``total_steps``."""
        self._started = time.perf_counter()
        self._task = self._progress.add_task("training", total=total_steps)

    def step(self, row: dict[str, Any]) -> None:
        """A step was made."""
        self._run.log(row)
        self._last = row
        self._tokens += row["tokens"]
        self._items += row["items"]
        seconds = max(1e-9, time.perf_counter() - self._started)
        text = (
            f"epoch {row['epoch']}  loss {row['loss_nats']:.3f}  "
            f"{self._tokens / seconds:,.0f} tokens/s  {self._items / seconds:,.1f} items/s"
        )
        if self._task is not None:
            self._progress.update(self._task, advance=1, description=text)

    def measured(self, row: dict[str, Any]) -> None:
        """Recall was measured."""
        self._run.log(row)
        learned = f"{row['recall']:.1%} of the answers recited"
        if "followup_recall" in row:
            learned += f", {row['followup_recall']:.1%} as a later turn"
        self._progress.console.print(f"epoch {row['epoch']}: loss {self._last['loss_nats']:.3f}, {learned}")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
