"""Which learning rate suits this base and these items: a few steps of the run itself, at three rates."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from rich.console import Console

from hoidap.data.pack import Batch, Packer
from hoidap.errors import TrainError
from hoidap.model.adapter import Adapter
from hoidap.model.mpt import MPT
from hoidap.progress import bar
from hoidap.recipe import Recipe
from hoidap.training.loop import count_steps
from hoidap.training.step import Stepper

_FACTORS = (0.5, 1.0, 2.0)
_MOST_STEPS = 40


def probe_rates(model: MPT, adapter: Adapter | None, packer: Packer, recipe: Recipe, console: Console) -> Recipe:
    """Return ``recipe`` with the rate, of half, once and twice its own, whose loss was lowest after a few steps.

    Each rate starts from the same weights and sees the same batches: a fifth of the run's steps, at most 40, with the rate
    warmed up and let down within them. The measure is the mean loss of the last quarter; then the weights are put back. A
    short probe favours high rates a little; it is for finding a rate that is far off.

    Raises:
        TrainError: at each rate the loss ran away.

    """
    trained = adapter.trainable() if adapter else model.trainable()
    start = {name: tensor.detach().clone() for name, tensor in trained.items()}
    n_steps = max(4, min(_MOST_STEPS, count_steps(packer, recipe) // 5))
    model.recompute, model.offload = max(0, recipe.recompute), recipe.offload
    found: dict[float, float] = {}
    with bar(console, "trying three learning rates", n_steps * len(_FACTORS)) as advance:
        for factor in _FACTORS:
            rate = recipe.optimizer.learning_rate * factor
            tried = replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=rate))
            stepper = Stepper(model, adapter, trained, tried, n_steps)
            try:
                losses = []
                for batch in _batches(packer, n_steps):
                    losses.append(stepper.step(batch)["loss_nats"])
                    advance(1)
            except TrainError:
                continue
            finally:
                with torch.no_grad():
                    for name, tensor in trained.items():
                        tensor.copy_(start[name])
            last = losses[-max(1, n_steps // 4) :]
            found[rate] = sum(last) / len(last)
            console.print(f"rate {rate:g}: loss {found[rate]:.3f} nats after {n_steps} steps", highlight=False)
    if not found:
        msg = f"the loss ran away at each rate from {recipe.optimizer.learning_rate / 2:g}; give a much lower --lr"
        raise TrainError(msg)
    best = min(found, key=lambda rate: found[rate])
    console.print(f"training with --lr {best:g}", highlight=False)
    return replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=best))


def _batches(packer: Packer, n_steps: int) -> Iterator[Batch]:
    epoch = 1
    while n_steps > 0:
        batches = packer.epoch(epoch)[:n_steps]
        yield from batches
        n_steps -= len(batches)
        epoch += 1
