"""The output layer only where a label is: cross-entropy and exact recall without logits of the whole stream.

With 7B5's vocabulary of 250,880 a token's float32 logits take 1 MB; chunks bound what is held at once.
"""

from collections.abc import Iterator

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from hoidap.model.mpt import MPT

_CHUNK_BYTES = 256 * 2**20  # of float32 logits at once


def loss_nats(model: MPT, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy, in nats, of ``targets`` [N] given ``hidden`` [N, d] at the positions before them."""
    chunks = list(_chunks(model, hidden, targets))
    if len(chunks) == 1:  # few enough logits to keep; computing them twice would be a tenth of a small model's step
        return _chunk_loss(model, *chunks[0])
    total = torch.zeros((), device=hidden.device)
    for rows, ids in chunks:
        total = total + checkpoint(_chunk_loss, model, rows, ids, use_reentrant=False)
    return total


@torch.no_grad()
def is_first_choice(model: MPT, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return, bool [N], where the target has the highest logit.

    Greedy decoding recites an answer exactly when this holds at each of its tokens: up to the first miss both see the same
    prefix. One forward pass so measures what generating every answer would, but for ties within rounding.
    """
    found = [model.logits(rows).argmax(-1) == ids for rows, ids in _chunks(model, hidden, targets)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool, device=hidden.device)


def _chunk_loss(model: MPT, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model.logits(hidden), targets, reduction="sum")


def _chunks(model: MPT, hidden: torch.Tensor, targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    size = max(1, _CHUNK_BYTES // (4 * model.config.vocab_size))
    yield from zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
