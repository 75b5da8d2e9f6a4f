"""One optimiser step: loss, gradients, update, and the guards against a run that goes nowhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from hoidap.data.pack import Batch, split
from hoidap.errors import TrainError
from hoidap.model.adapter import Adapter
from hoidap.model.loss import loss_nats
from hoidap.model.mpt import MPT
from hoidap.recipe import Recipe
from hoidap.training import optimizer
from hoidap.training.checkpoint import State

_WINDOW_STEPS = 20  # over which losses are averaged to see whether training runs away
_RUNAWAY_NATS = 2.0  # above the first steps' mean
_MOST_SKIPPED_STEPS = 20  # the scaler halves at each: from 65,536 to below 1


class Stepper:
    """Makes one optimiser step at a time; ``state`` counts them."""

    def __init__(
        self,
        model: MPT,
        adapter: Adapter | None,
        trained: Mapping[str, torch.Tensor],
        recipe: Recipe,
        total_steps: int,
        state: State | None = None,
    ) -> None:
        self._model = model
        self._adapter = adapter.with_dropout(recipe.adapter.dropout) if adapter else None
        self._trained = trained
        self._recipe = recipe
        self._optimizer = optimizer.build(trained, recipe.optimizer)
        # float16 gradients underflow without a scale; GradScaler finds it and skips the step of an overflow.
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=model.dtype == torch.float16)
        self.total_steps = total_steps
        self.state = state or State()

    def step(self, batch: Batch) -> dict[str, Any]:
        """Train on one batch; the loss is the mean over its labelled tokens, however many passes it is split into.

        Raises:
            TrainError: the loss or its gradient is not finite, or the loss runs away.

        """
        started = time.perf_counter()
        rate = optimizer.learning_rate(self.state.step, self.total_steps, self._recipe.optimizer)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with self._drawing():
            parts = split(batch, self._recipe.schedule.accumulation)
            losses = torch.stack([self._backward(part, len(batch.targets)) for part in parts])
        # One wait for the device a step: another would leave it idle while the next work is made.
        loss, norm = torch.stack([losses.sum(), self._clip()]).tolist()
        self._refuse_infinite(loss, norm)
        self._move()
        self.state.step += 1
        self._guard(loss, norm)
        return {
            "step": self.state.step,
            "loss_nats": loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens": len(batch.tokens),
            "labelled_tokens": len(batch.targets),
            "items": batch.n_items,
            "seconds": time.perf_counter() - started,
        }

    def snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, float], dict[str, float]]:
        """Return the optimiser's tensors and numbers, and the scaler's numbers."""
        tensors, numbers = optimizer.state_of(self._optimizer)
        return tensors, numbers, self._scaler.state_dict()

    def restore(self, weights: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the weights and the optimiser's tensors of a checkpoint; its numbers are in ``state`` already."""
        with torch.no_grad():
            for name, tensor in self._trained.items():
                tensor.copy_(weights[name])
        optimizer.restore(self._optimizer, tensors, self.state.optimizer)
        if self.state.scaler:
            self._scaler.load_state_dict(self.state.scaler)

    def _backward(self, part: Batch, n_labels: int) -> torch.Tensor:
        """Add one pass's gradients; return its share of the loss."""
        moved = part.to(self._model.device)
        hidden = self._model.hidden(moved.tokens, moved.starts, adapter=self._adapter)
        loss = loss_nats(self._model, hidden.index_select(0, moved.predicting), moved.targets) / n_labels
        torch.autograd.backward(self._scaler.scale(loss))
        return loss.detach()

    def _clip(self) -> torch.Tensor:
        """Clip the gradients; return their norm before, not finite where float16 overflowed."""
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(list(self._trained.values()), self._recipe.optimizer.clip_norm)
        return norm.float()

    def _refuse_infinite(self, loss: float, norm: float) -> None:
        what = f"the loss became {loss}" if not loss < float("inf") else f"the gradient's norm became {norm}"
        if not loss < float("inf") or (not norm < float("inf") and not self._scaler.is_enabled()):
            self._optimizer.zero_grad(set_to_none=True)  # another stepper may go on from the same weights
            raise TrainError(self._advice(f"{what} at step {self.state.step + 1}"))

    def _move(self) -> None:
        """Move the weights; the scaler leaves them where float16 overflowed."""
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def _guard(self, loss: float, norm: float) -> None:
        """Stop a run whose every step overflows, or whose loss is far above where it began."""
        state = self.state
        state.skipped = 0 if norm < float("inf") else state.skipped + 1
        if state.skipped == _MOST_SKIPPED_STEPS:
            what = f"float16 overflowed in each of the last {_MOST_SKIPPED_STEPS} steps, whatever the loss was scaled by"
            raise TrainError(self._advice(what))
        if len(state.first_nats) < _WINDOW_STEPS:
            state.first_nats.append(loss)
        state.last_nats = [*state.last_nats[1 - _WINDOW_STEPS :], loss]
        first, last = (sum(nats) / len(nats) for nats in (state.first_nats, state.last_nats))
        if len(state.last_nats) == _WINDOW_STEPS and last > first + _RUNAWAY_NATS:
            raise TrainError(self._advice(f"the loss ran away: {first:.2f} nats at first, {last:.2f} by step {state.step}"))

    def _advice(self, what: str) -> str:
        rate = self._recipe.optimizer.learning_rate
        advice = f"{what}; train again with a lower rate (--lr {rate / 2:g})"
        return advice + (" or --dtype bfloat16 or float32" if self._model.dtype == torch.float16 else "")

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Make what a step draws (dropout) a function of the seed and the step's number; leave the caller's draws alone."""
        if not self._recipe.adapter.dropout:
            yield
            return
        device = self._model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self._recipe.schedule.seed * 1_000_003 + self.state.step)
            yield


@contextmanager
def memory_advice(recipe: Recipe, shorter: str = "--max-tokens with --too-long drop or cut") -> Iterator[None]:
    """Turn PyTorch's words for memory that has run out into what to lower; ``shorter`` is how documents are.

    Raises:
        TrainError: instead of them.

    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        named = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not named:  # PyTorch has no class of its own for a CPU's
            raise
        schedule = recipe.schedule
        same = (
            []
            if schedule.batch_items == 1
            else [f"--accumulation {2 * schedule.accumulation} (the same steps in more passes)"]
        )
        same += ["--recompute 1000 (all blocks)"] if recipe.recompute < 1000 else []
        same += ["a larger --memory"] if recipe.memory_gb else []
        other = ["--quantize nf4"] if recipe.quantize in ("none", "int8") and recipe.method == "lora" else []
        other += [f"--batch-tokens {max(16, schedule.batch_tokens // 2)}", shorter]
        advice = f"with the same --out and --resume, {', '.join(same)}; or " if same else ""
        what = str(error).splitlines()[0]
        msg = f"the memory ran out ({what}); try, {advice}with another --out, {', '.join(other)}"
        raise TrainError(msg) from error
