"""What a person sees of a training run, what its metrics.jsonl keeps, and how both are taken back to a checkpoint."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import TaskID

from hoidap.folder import RunFolder
from hoidap.progress import bars
from hoidap.training.checkpoint import Checkpoint, Checkpoints


class RunWatcher:
    """Shows the bar of a training run, a line a measurement, and writes its ``metrics.jsonl``."""

    def __init__(self, run: RunFolder, console: Console) -> None:
        self._run = run
        self._progress = bars(console)
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

    def start(self, total_steps: int, done_steps: int) -> None:
        """Training begins, or goes on behind ``done_steps``; it makes at most ``total_steps`` in all."""
        self._started = time.perf_counter()
        self._task = self._progress.add_task("training", total=total_steps, completed=done_steps)

    def log(self, row: dict[str, Any]) -> None:
        """A line for the metrics is complete."""
        self._run.log(row)

    def step(self, row: dict[str, Any]) -> None:
        """A step was made."""
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
        """The exam was taken."""
        self._run.log(row)
        if "recall" in row:
            found = f"{row['recall']:.1%} of the answers recited"
            if "followup_recall" in row:
                found += f", {row['followup_recall']:.1%} as a later turn"
        else:
            found = f"held out {row['held_out_nats']:.4f} nats a token, {row['held_out_bits_per_byte']:.4f} bits a byte"
        loss = f"loss {self._last['loss_nats']:.3f}, " if self._last else ""
        self._progress.console.print(f"epoch {row['epoch']}: {loss}{found}", highlight=False)


def go_back(run: RunFolder, checkpoints: Checkpoints, console: Console) -> Checkpoint | None:
    """Take a run back to its newest whole checkpoint, if it has one, and say so; damaged ones are named."""
    found, damaged = checkpoints.newest()
    for what in damaged:
        console.print(what, soft_wrap=True, highlight=False, markup=False)
    run.go_back_to(found.state.step if found else 0)
    if found:
        console.print(f"going on from {found.folder}", soft_wrap=True, highlight=False)
    return found
