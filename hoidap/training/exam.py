"""What a training is judged by, every few epochs and at its end: recall of the items, or the loss on text held out."""

import math
from typing import Any, Protocol

import torch

from hoidap.data.corpus import Corpus
from hoidap.data.pack import Batch, Packer
from hoidap.model.adapter import Adapter
from hoidap.model.loss import is_first_choice, loss_nats
from hoidap.model.mpt import MPT


class Exam(Protocol):
    """Measures the model as it is now."""

    def measure(self, model: MPT, adapter: Adapter | None) -> dict[str, Any]:
        """Return what is logged, by name."""

    def scores(self, measured: dict[str, Any]) -> tuple[float, ...]:
        """Return what the best weights are chosen by: from 0 to 1, the first before the second; all 1 ends training."""


class RecallExam:
    """The share of items whose answers the model would recite, and of a sample asked behind another item.

    A chat that is right once and wrong then is of no use: where later turns are trained, they are examined too.
    """

    def __init__(self, packer: Packer, followup_share: float, most_tokens: int) -> None:
        self._batches = {"recall": packer.alone(most_tokens)}
        if followup_share and (followups := packer.followups(most_tokens)):
            self._batches["followup_recall"] = followups

    def measure(self, model: MPT, adapter: Adapter | None) -> dict[str, Any]:
        """Return both shares, and which items were recited: item n is bit n, as a hexadecimal number."""
        hits = {name: recited(model, adapter, batches) for name, batches in self._batches.items()}
        items = int("".join("01"[hit] for hit in reversed(hits["recall"])), 2)
        return {**{name: sum(found) / len(found) for name, found in hits.items()}, "recited": f"{items:x}"}

    def scores(self, measured: dict[str, Any]) -> tuple[float, ...]:
        """Return the shares as they are."""
        return tuple(measured[name] for name in self._batches)


class HeldOutExam:
    """The loss on text that is not trained on."""

    def __init__(self, held_out: Corpus, n_bytes: int) -> None:
        self._batches, self._n_bytes = held_out.in_order(), n_bytes

    @torch.no_grad()
    def measure(self, model: MPT, adapter: Adapter | None) -> dict[str, Any]:
        """Return nats a token and bits a byte of UTF-8; the ends of articles are predicted too, their bytes not counted."""
        nats, labels = 0.0, 0
        for number in range(len(self._batches)):
            batch = self._batches[number].to(model.device)
            hidden = model.hidden(batch.tokens, batch.starts, adapter=adapter)
            nats += float(loss_nats(model, hidden[batch.predicting], batch.targets))
            labels += len(batch.targets)
        return {"held_out_nats": nats / labels, "held_out_bits_per_byte": nats / math.log(2) / self._n_bytes}

    def scores(self, measured: dict[str, Any]) -> tuple[float, ...]:
        """Return the geometric mean of the tokens' probabilities."""
        return (math.exp(-measured["held_out_nats"]),)


@torch.no_grad()
def recited(model: MPT, adapter: Adapter | None, batches: list[Batch]) -> list[bool]:
    """Return for each document whether its every label is the model's first choice: what greedy decoding would recite."""
    hits: list[bool] = []
    for batch in batches:
        moved = batch.to(model.device)
        hidden = model.hidden(moved.tokens, moved.starts, adapter=adapter)
        is_hit = is_first_choice(model, hidden[moved.predicting], moved.targets)
        starts = torch.tensor(batch.starts[1:-1], device=model.device)
        document = torch.bucketize(moved.predicting, starts, right=True)
        missed = set(document[~is_hit].tolist())
        hits += [n not in missed for n in range(len(batch.starts) - 1)]
    return hits


def measure_recall(model: MPT, adapter: Adapter | None, batches: list[Batch]) -> float:
    """Return the share of documents that the model would recite."""
    hits = recited(model, adapter, batches)
    return sum(hits) / len(hits)
