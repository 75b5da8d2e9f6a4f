"""The output layer only where a label is: cross-entropy and exact recall without logits of the whole stream.

With 7B5's vocabulary of 250,880 a token's float32 logits take 1 MB; chunks bound what is held at once.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from hoidap.kernels.cross_entropy import cross_entropy as loss_and_gradient
from hoidap.kernels.product import product
from hoidap.model.mpt import MPT

CHUNK_BYTES = 256 * 2**20  # of float32 logits at once


def loss_nats(model: MPT, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy, in nats, of ``targets`` [N] given ``hidden`` [N, d] at the positions before them."""
    if not model.trains_head and hidden.requires_grad and model.config.logit_scale is None:
        total: torch.Tensor = _FrozenHead.apply(hidden, targets, model)  # type: ignore[no-untyped-call]
        return total
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


class _FrozenHead(torch.autograd.Function):
    """The loss where the embedding is frozen: a chunk's gradient is made while its logits are there."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, model: MPT) -> torch.Tensor:
        factor = 1.0 if hidden.dtype == torch.float32 else 1024.0  # a probability of a millionth is too small for float16
        losses, grads = [], []
        for rows, ids in _chunks(model, hidden, targets):
            logits = model.logits(rows)
            grad = torch.empty(logits.shape, dtype=hidden.dtype, device=hidden.device)
            losses.append(loss_and_gradient(logits, ids, grad, factor))
            del logits
            grads.append(_through_head(grad, model).mul_(1 / factor))
        ctx.save_for_backward(torch.cat(grads))
        ctx.dtype = hidden.dtype
        return torch.cat(losses).sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return (grad * grads[0]).to(ctx.dtype), None, None


def _through_head(grad: torch.Tensor, model: MPT) -> torch.Tensor:
    """Return the gradient of what the output layer read, float32 [N, d], given that of the logits [N, V]."""
    begin, total = 0, torch.zeros(len(grad), model.config.d_model, device=grad.device)
    for piece in model.head():
        total += product(grad[:, begin : begin + len(piece)], piece.to(grad.dtype))
        begin += len(piece)
    return total


def _chunk_loss(model: MPT, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model.logits(hidden), targets, reduction="sum")


def _chunks(model: MPT, hidden: torch.Tensor, targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    size = max(1, CHUNK_BYTES // (4 * model.config.vocab_size))
    yield from zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
