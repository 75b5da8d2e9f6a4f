"""The one training loop: for an adapter or for all weights."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from hoidap.data.pack import Batch, Packer
from hoidap.errors import TrainError
from hoidap.model.adapter import Adapter
from hoidap.model.loss import is_first_choice, loss_nats
from hoidap.model.mpt import MPT
from hoidap.recipe import Recipe
from hoidap.training import optimizer


class Watcher(Protocol):
    """Hears of every step and measurement: the progress bar and the metrics file."""

    def start(self, total_steps: int) -> None:
        """Training begins; at most ``total_steps`` will be made."""

    def step(self, row: dict[str, Any]) -> None:
        """A step was made."""

    def measured(self, row: dict[str, Any]) -> None:
        """Recall was measured."""


@dataclass(frozen=True)
class Outcome:
    """How training went."""

    epochs: int
    steps: int
    seconds: float
    best_epoch: int  # whose weights were kept


def train(model: MPT, adapter: Adapter | None, packer: Packer, recipe: Recipe, watcher: Watcher) -> Outcome:
    """Train the adapter, or without one all weights, until recall on the items stops rising; keep the best.

    The trained tensors are float32; on a GPU activations are the model's dtype, with loss scaling where that is float16.

    Raises:
        TrainError: the loss is not finite.
    """
    trained = adapter.trainable() if adapter else model.trainable()
    schedule = recipe.schedule
    model.recompute = recipe.recompute
    stepper = Stepper(model, adapter, trained, recipe, _count_steps(packer, recipe))
    # Where later turns are trained, they are examined too: a chat that is right once and wrong then is of no use.
    examined = {"recall": packer.alone()}
    if schedule.followup_share and (followups := packer.followups()):
        examined["followup_recall"] = followups
    started = time.perf_counter()
    watcher.start(stepper.total_steps)
    best = Best(trained)
    for epoch in range(1, schedule.max_epochs + 1):
        for batch in packer.epoch(epoch):
            watcher.step({"epoch": epoch, **stepper.step(batch)})
        if epoch % schedule.recall_every and epoch != schedule.max_epochs:
            continue
        measured = {name: measure_recall(model, adapter, batches) for name, batches in examined.items()}
        watcher.measured({"step": stepper.n_steps, "epoch": epoch, **measured})
        best.offer(tuple(measured.values()), epoch)
        if min(measured.values()) == 1 or best.is_stale(schedule.patience):
            break
    best.restore()
    return Outcome(epoch, stepper.n_steps, time.perf_counter() - started, best.epoch)


@torch.no_grad()
def measure_recall(model: MPT, adapter: Adapter | None, batches: list[Batch]) -> float:
    """Return the share of documents whose every label is the model's first choice: what greedy decoding would recite."""
    recited = documents = 0
    for batch in batches:
        moved = batch.to(model.device)
        hidden = model.hidden(moved.tokens, moved.starts, adapter=adapter)
        hits = is_first_choice(model, hidden[moved.predicting], moved.targets)
        starts = torch.tensor(batch.starts[1:-1], device=model.device)
        document = torch.bucketize(moved.predicting, starts, right=True)
        missed = torch.unique(document[~hits]).numel()
        documents += len(batch.starts) - 1
        recited += len(batch.starts) - 1 - missed
    return recited / documents


class Stepper:
    """Makes one optimiser step at a time."""

    def __init__(
        self, model: MPT, adapter: Adapter | None, trained: Mapping[str, torch.Tensor], recipe: Recipe, total_steps: int
    ) -> None:
        self._model = model
        self._adapter = adapter
        self._tensors = list(trained.values())
        self._settings = recipe.optimizer
        self._optimizer = optimizer.build(trained, recipe.optimizer)
        # float16 gradients underflow without a scale; GradScaler finds it and skips the step of an overflow.
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=model.dtype == torch.float16)
        self.total_steps = total_steps
        self.n_steps = 0

    def step(self, batch: Batch) -> dict[str, Any]:
        """Train on one batch; the loss is the mean over its labelled tokens."""
        started = time.perf_counter()
        rate = optimizer.learning_rate(self.n_steps, self.total_steps, self._settings)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        moved = batch.to(self._model.device)
        hidden = self._model.hidden(moved.tokens, moved.starts, adapter=self._adapter)
        loss = loss_nats(self._model, hidden[moved.predicting], moved.targets) / len(batch.targets)
        loss_value = float(loss.detach())
        if not loss_value < float("inf"):
            msg = (
                f"the loss became {loss_value} at step {self.n_steps + 1}; lower the learning rate (--lr {rate / 2:g}), "
                "or, on float16, try --dtype bfloat16 or float32"
            )
            raise TrainError(msg)
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self._optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self._tensors, self._settings.clip_norm))
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.n_steps += 1
        return {
            "step": self.n_steps,
            "loss_nats": loss_value,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens": len(batch.tokens),
            "labelled_tokens": len(batch.targets),
            "items": batch.n_items,
            "seconds": time.perf_counter() - started,
        }


class Best:
    """Keeps the tensors as they were when the scores were highest: the first counts, the second decides between equals.

    The later of two that are wholly equal has the lower loss.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._kept: dict[str, torch.Tensor] = {}
        self._offers_since_rise = 0
        self.scores: tuple[float, ...] = (0.0,)
        self.epoch = 0

    def offer(self, scores: tuple[float, ...], epoch: int) -> None:
        """Keep a copy of the tensors if no earlier scores were higher."""
        self._offers_since_rise = 0 if scores > self.scores else self._offers_since_rise + 1
        if scores >= self.scores:
            self.scores, self.epoch = scores, epoch
            self._kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._tensors.items()}

    def is_stale(self, patience: int) -> bool:
        """Return whether that many measurements have passed since the scores last rose."""
        # Before the first item is recited at all, they say nothing of progress.
        return self.scores[0] > 0 and self._offers_since_rise >= patience

    def restore(self) -> None:
        """Put the best copy back."""
        with torch.no_grad():
            for name, kept in self._kept.items():
                self._tensors[name].copy_(kept)


def _count_steps(packer: Packer, recipe: Recipe) -> int:
    """Return the steps of all planned epochs; epochs differ a little, since batches are filled by shuffled documents."""
    return sum(packer.count_batches(epoch) for epoch in range(1, recipe.schedule.max_epochs + 1))
