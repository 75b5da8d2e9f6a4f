"""The one training loop: for an adapter or for all weights."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from hoidap.data.pack import Batch
from hoidap.errors import Interrupted, RunError, TrainError
from hoidap.model.adapter import Adapter
from hoidap.model.mpt import MPT
from hoidap.recipe import Recipe
from hoidap.training.checkpoint import Checkpoint, Checkpoints, State
from hoidap.training.exam import Exam
from hoidap.training.interrupt import stop_on_signals
from hoidap.training.step import Stepper


class Data(Protocol):
    """What is trained on: batches that are a pure function of the epoch."""

    def epoch(self, epoch: int) -> Sequence[Batch]:
        """Return the batches of an epoch, counted from 1."""

    def count_batches(self, epoch: int) -> int:
        """Return how many there are."""


class Watcher(Protocol):
    """Hears of every step and measurement: the progress bar and the metrics file."""

    def start(self, total_steps: int, done_steps: int) -> None:
        """Training begins, or goes on behind ``done_steps``; at most ``total_steps`` will be made in all."""

    def step(self, row: dict[str, Any]) -> None:
        """A step was made."""

    def log(self, row: dict[str, Any]) -> None:
        """A line for the metrics is complete."""

    def measured(self, row: dict[str, Any]) -> None:
        """The exam was taken."""


@dataclass(frozen=True)
class Outcome:
    """How training went."""

    epochs: int
    steps: int
    seconds: float  # over all sessions of an interrupted run
    best_epoch: int  # whose weights were kept


def train(
    model: MPT,
    adapter: Adapter | None,
    data: Data,
    exam: Exam,
    recipe: Recipe,
    watcher: Watcher,
    checkpoints: Checkpoints | None = None,
    resume_from: Checkpoint | None = None,
) -> Outcome:
    """Train the adapter, or without one all weights, until the exam's scores stop rising; keep the best.

    The trained tensors are float32; on a GPU activations are the model's dtype, with loss scaling where that is float16.
    What a step does depends on the weights, the optimiser's state and the step's number alone, so a run that goes on from a
    checkpoint ends where it would have ended (on the CPU to the bit).

    Raises:
        TrainError: the loss is not finite or runs away; the message names the last good checkpoint.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was kept.
        RunError: a checkpoint cannot be written, or the one to go on from does not fit.

    """
    training = _Training(model, adapter, data, exam, recipe, watcher, checkpoints)
    if resume_from:
        training.restore(resume_from)
    try:
        with stop_on_signals() as stop:
            training.run(lambda: stop.asked)
    except Interrupted:
        raise
    except TrainError as error:
        kept = checkpoints.newest_folder() if checkpoints else None
        msg = f"{error}\nthe last good checkpoint is {kept}" if kept else str(error)
        raise TrainError(msg) from error
    finally:
        training.best.restore()
    state = training.state
    epochs = state.epoch if state.batch else state.epoch - 1
    return Outcome(epochs, state.step, state.seconds, training.best.epoch or epochs)


class _Training:
    """What a run of the loop holds."""

    def __init__(
        self,
        model: MPT,
        adapter: Adapter | None,
        data: Data,
        exam: Exam,
        recipe: Recipe,
        watcher: Watcher,
        checkpoints: Checkpoints | None,
    ) -> None:
        self._model, self._adapter = model, adapter
        self._data, self._exam, self._schedule = data, exam, recipe.schedule
        self._watcher, self._checkpoints = watcher, checkpoints
        self._trained = adapter.trainable() if adapter else model.trainable()
        model.recompute, model.offload = max(0, recipe.recompute), recipe.offload
        self.state = State()
        self.best = Best(self._trained)
        self._stepper = Stepper(model, adapter, self._trained, recipe, count_steps(data, recipe), self.state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint."""
        wanted = {name: t.shape for name, t in self._trained.items()}
        for tensors in (checkpoint.weights, checkpoint.best):
            if tensors and {name: t.shape for name, t in tensors.items()} != wanted:
                msg = f"{checkpoint.folder} holds other tensors than this run trains; was its recipe or base changed?"
                raise RunError(msg)
        vars(self.state).update(asdict(checkpoint.state))
        try:
            self._stepper.restore(checkpoint.weights, checkpoint.optimizer)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            msg = f"the optimiser's state in {checkpoint.folder} is not that of this run ({error}); delete that folder"
            raise RunError(msg) from error
        self.best.go_back(self.state, checkpoint.best)

    def run(self, is_stopped: Callable[[], bool]) -> None:
        """Make all steps that are left."""
        state = self.state
        self._watcher.start(self._stepper.total_steps, state.step)
        while not self._is_done():
            batches = self._data.epoch(state.epoch)
            while state.batch < len(batches) and not self._is_done():
                started = time.perf_counter()
                self._step(batches[state.batch])
                state.batch += 1
                measures = self._is_due(len(batches))
                if measures:
                    self._measure()
                state.seconds += time.perf_counter() - started
                stopped = is_stopped()  # asked once: between two questions somebody might press Ctrl-C
                if measures or state.step % self._schedule.save_every == 0 or stopped or self._is_done():
                    self._save()
                if stopped:
                    raise Interrupted(self._farewell())
            if state.batch >= len(batches):
                state.epoch, state.batch = state.epoch + 1, 0

    def _is_done(self) -> bool:
        state = self.state
        if state.step >= self._stepper.total_steps:
            return True
        return min(self.best.scores) == 1 or self.best.is_stale(self._schedule.patience)

    def _is_due(self, n_batches: int) -> bool:
        """Return whether the exam is to be taken now: after every few epochs, and at the end."""
        every, state = self._schedule.recall_every, self.state
        if not every:
            return False
        ends = state.step == self._stepper.total_steps
        return ends or (state.batch == n_batches and state.epoch % every == 0)

    def _step(self, batch: Batch) -> None:
        state = self.state
        row = {"epoch": state.epoch, **self._stepper.step(batch)}
        self._watcher.step(row)
        state.unlogged_nats.append(row["loss_nats"])
        if state.step % self._schedule.log_every == 0:
            nats = state.unlogged_nats
            self._watcher.log({**row, "loss_nats": sum(nats) / len(nats)})
            state.unlogged_nats = []

    def _measure(self) -> None:
        measured = self._exam.measure(self._model, self._adapter)
        self._watcher.measured({"step": self.state.step, "epoch": self.state.epoch, **measured})
        self.best.offer(self._exam.scores(measured), self.state.epoch)

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        state, best = self.state, self.best
        state.best_epoch, state.best_scores = best.epoch, list(best.scores)
        state.measurements_since_rise = best.measurements_since_rise
        optimizer, state.optimizer, state.scaler = self._stepper.snapshot()
        self._checkpoints.save(state, self._trained, optimizer, best.kept)

    def _farewell(self) -> str:
        if self._checkpoints is None:
            return f"training was stopped after step {self.state.step}; nothing is saved"
        return f"training was stopped after step {self.state.step}, and saved; give the same command with --resume to go on"


class Best:
    """Keeps the tensors as they were when the scores were highest: the first counts, the second decides between equals.

    The later of two that are wholly equal has the lower loss.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self.kept: dict[str, torch.Tensor] = {}
        self.measurements_since_rise = 0
        self.scores: tuple[float, ...] = (0.0,)
        self.epoch = 0

    def is_stale(self, patience: int) -> bool:
        """Return whether that many measurements have passed since the scores last rose."""
        return self.measurements_since_rise >= patience

    def offer(self, scores: tuple[float, ...], epoch: int) -> None:
        """Keep a copy of the tensors if no earlier scores were higher."""
        # Before the first item is recited at all, scores say nothing of progress.
        rises = scores > self.scores or self.scores[0] == 0
        self.measurements_since_rise = 0 if rises else self.measurements_since_rise + 1
        if scores >= self.scores:
            self.scores, self.epoch = scores, epoch
            self.kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._tensors.items()}

    def go_back(self, state: State, kept: Mapping[str, torch.Tensor]) -> None:
        """Be as at a checkpoint."""
        self.scores, self.epoch, self.kept = tuple(state.best_scores), state.best_epoch, dict(kept)
        self.measurements_since_rise = state.measurements_since_rise

    def restore(self) -> None:
        """Put the best copy back."""
        with torch.no_grad():
            for name, kept in self.kept.items():
                self._tensors[name].copy_(kept)


def count_steps(data: Data, recipe: Recipe) -> int:
    """Return the steps that are planned; epochs differ a little, since batches are filled by shuffled documents."""
    schedule = recipe.schedule
    return schedule.max_steps or sum(data.count_batches(epoch) for epoch in range(1, schedule.max_epochs + 1))
