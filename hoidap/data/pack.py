"""Items become batches: a pure function of seed, epoch, step, rank and world size.

Nothing is drawn while training, so a run that stops and goes on, or runs on two GPUs, sees the same batches.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hoidap.data.items import Item
from hoidap.errors import DataError
from hoidap.prompt import Rendered, Turn, render
from hoidap.recipe import Schedule
from hoidap.tokenizer import Tokenizer

_MOST_TURNS = 3  # items in one conversation
_MOST_FOLLOWUPS = 64  # a sample is enough to see whether later turns are learned


@dataclass(frozen=True)
class Batch:
    """Documents packed one behind another.

    The loss of position ``predicting[i]`` is that of its next token ``targets[i]``; documents never see each other.
    """

    tokens: torch.Tensor  # int64 [T]
    starts: list[int]  # [D + 1]
    predicting: torch.Tensor  # int64 [N], positions in the stream
    targets: torch.Tensor  # int64 [N]
    n_items: int

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on ``device``."""
        moved = (t.to(device) for t in (self.tokens, self.predicting, self.targets))
        tokens, predicting, targets = moved
        return Batch(tokens, self.starts, predicting, targets, self.n_items)


class Packer:
    """Renders the items once, and hands out the batches of any epoch.

    Args:
        items: what is trained on.
        tokenizer: of the base.
        schedule: seed, tokens a batch and the share of follow-up conversations.
        max_tokens: the longest document the model takes.

    Raises:
        DataError: items that do not fit in ``max_tokens``, all listed; nothing is ever cut.

    """

    def __init__(self, items: Sequence[Item], tokenizer: Tokenizer, schedule: Schedule, max_tokens: int) -> None:
        self._schedule = schedule
        self._max_tokens = max_tokens
        # An item is rendered as the first turn of a conversation and as a later one; a later one opens with a new line.
        self._first = [render([Turn(i.question, i.answer)], tokenizer) for i in items]
        placeholder = len(render([Turn("", "")], tokenizer).token_ids)
        self._later = []
        for item in items:
            both = render([Turn("", ""), Turn(item.question, item.answer)], tokenizer)
            self._later.append(Rendered(both.token_ids[placeholder:], both.in_loss[placeholder:]))
        too_long = [
            f"item {n + 1}: {len(r.token_ids)} tokens with its question; this model reads at most {max_tokens}; "
            f"shorten or split the answer to {items[n].question[:60]!r}"
            for n, r in enumerate(self._later)
            if len(r.token_ids) > max_tokens
        ]
        if too_long:
            raise DataError(too_long)

    @property
    def n_tokens(self) -> int:
        """Tokens of all items, each alone."""
        return sum(len(r.token_ids) for r in self._first)

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest item alone."""
        return max(len(r.token_ids) for r in self._first)

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
        """Return the batches of one epoch for one of ``world_size`` processes; every item is in exactly one of all."""
        return [pack(group) for group in self._groups(epoch)[rank::world_size]]

    def count_batches(self, epoch: int) -> int:
        """Return how many batches an epoch has for all processes together."""
        return len(self._groups(epoch))

    def _groups(self, epoch: int) -> list[list[Rendered]]:
        """Fill batches with an epoch's conversations, in their shuffled order."""
        # One generator an epoch, seeded by both numbers: no state is carried from epoch to epoch.
        rng = random.Random(f"{self._schedule.seed}/{epoch}")  # noqa: S311 - shuffling, not cryptography
        groups: list[list[Rendered]] = [[]]
        room = self._schedule.batch_tokens
        for document in self._conversations(rng):
            if groups[-1] and len(document.token_ids) > room:
                groups.append([])
                room = self._schedule.batch_tokens
            groups[-1].append(document)
            room -= len(document.token_ids)
        return groups

    def alone(self) -> list[Batch]:
        """Return batches of each item alone, in order: what recall is measured on."""
        return self._fill(self._first)

    def followups(self) -> list[Batch]:
        """Return batches in which up to 64 items, spread evenly, are asked behind another; the loss is on their answers."""
        documents = []
        for n in range(0, len(self._later), -(-len(self._later) // _MOST_FOLLOWUPS)):
            before, later = self._first[n - 1].token_ids, self._later[n]
            if len(before) + len(later.token_ids) <= self._max_tokens:
                documents.append(Rendered(before + later.token_ids, [False] * len(before) + later.in_loss))
        return self._fill(documents)

    def _fill(self, documents: Sequence[Rendered]) -> list[Batch]:
        """Fill batches in order; without gradients they can be four times those of training."""
        groups: list[list[Rendered]] = [[]]
        for document in documents:
            if sum(len(r.token_ids) for r in groups[-1]) + len(document.token_ids) > 4 * self._schedule.batch_tokens:
                groups.append([])
            groups[-1].append(document)
        return [pack(group) for group in groups if group]

    def _conversations(self, rng: random.Random) -> list[Rendered]:
        """Shuffle the items and chain a share of them into conversations of two or three turns, all answers in the loss."""
        order = list(range(len(self._first)))
        rng.shuffle(order)
        documents = []
        while order:
            turns = rng.randint(2, _MOST_TURNS) if rng.random() < self._schedule.followup_share else 1
            first = self._first[order.pop()]
            token_ids, in_loss = list(first.token_ids), list(first.in_loss)
            while turns > 1 and order and len(token_ids) + len(self._later[order[-1]].token_ids) <= self._max_tokens:
                later = self._later[order.pop()]
                token_ids += later.token_ids
                in_loss += later.in_loss
                turns -= 1
            documents.append(Rendered(token_ids, in_loss))
        return documents


def pack(documents: Sequence[Rendered]) -> Batch:
    """Lay rendered documents one behind another."""
    token_ids: list[int] = []
    starts = [0]
    predicting: list[int] = []
    n_items = 0
    for document in documents:
        # The token before an answer's token predicts it; a document never opens with an answer.
        predicting += [len(token_ids) + at - 1 for at, counted in enumerate(document.in_loss) if counted]
        n_items += sum(
            now and not before for before, now in zip([False, *document.in_loss], document.in_loss, strict=False)
        )
        token_ids += document.token_ids
        starts.append(len(token_ids))
    tokens = torch.tensor(token_ids)
    positions = torch.tensor(predicting)
    return Batch(tokens, starts, positions, tokens[positions + 1], n_items)
