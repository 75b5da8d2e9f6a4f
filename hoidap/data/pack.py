"""Items become batches: a pure function of seed, epoch, step, rank and world size.

Nothing is drawn while training, so a run that stops and goes on, or runs on two GPUs, sees the same batches.
"""

import bisect
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from hoidap.data.items import Item
from hoidap.errors import DataError
from hoidap.prompt import PHOGPT_4B_CHAT, Rendered, Template, Turn, render
from hoidap.recipe import LossOn, Schedule
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
        schedule: seed, size of a batch and the share of follow-up conversations.
        max_tokens: the longest document the model takes.
        template: of the base; one of single turns makes no follow-ups.
        others: for each item the other ways to ask it that are trained on, in turn with its question, epoch by epoch.
        loss_on: "answer", or "text": every token but the first of a conversation.

    Raises:
        DataError: items that do not fit in ``max_tokens`` or in the template, all listed; nothing is ever cut here.

    """

    def __init__(
        self,
        items: Sequence[Item],
        tokenizer: Tokenizer,
        schedule: Schedule,
        max_tokens: int,
        template: Template = PHOGPT_4B_CHAT,
        loss_on: LossOn = "answer",
        others: Sequence[Sequence[str]] = (),
    ) -> None:
        self._schedule = schedule
        self._max_tokens = max_tokens
        self._loss_on = loss_on
        if template.is_single_turn and (turned := [n for n, item in enumerate(items) if item.before]):
            where = ", ".join(str(n + 1) for n in turned[:20])
            raise DataError([f"items {where}: have earlier turns; the template {template.name} holds one question alone"])
        self._first = [render_item(item, tokenizer, template) for item in items]
        # An item is rendered as a later turn too, unless it has earlier turns of its own.
        self._later = [_render_later(item, tokenizer, template) for item in items]
        longest = [max(len(r.token_ids) for r in both if r) for both in zip(self._first, self._later, strict=True)]
        too_long = [
            f"item {n + 1}: {n_tokens} tokens with its question; at most {max_tokens}; "
            f"shorten or split the answer to {items[n].question[:60]!r} (or see --too-long)"
            for n, n_tokens in enumerate(longest)
            if n_tokens > max_tokens
        ]
        if too_long:
            raise DataError(too_long)
        reworded = [[replace(item, question=text) for text in texts] for item, texts in zip(items, others, strict=False)]
        self._others = [self._render_fitting(wordings, tokenizer, template) for wordings in reworded]

    def _render_fitting(
        self, wordings: Sequence[Item], tokenizer: Tokenizer, template: Template
    ) -> list[tuple[Rendered, Rendered | None]]:
        """Render an item's other wordings; one that makes the item too long is left out, the item having its question."""
        rendered = [(render_item(i, tokenizer, template), _render_later(i, tokenizer, template)) for i in wordings]
        return [both for both in rendered if all(len(r.token_ids) <= self._max_tokens for r in both if r)]

    @property
    def n_tokens(self) -> int:
        """Tokens of all items, each alone."""
        return sum(len(r.token_ids) for r in self._first)

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest item alone."""
        return max(len(r.token_ids) for r in self._first)

    @property
    def longest_conversation(self) -> int:
        """Tokens of the longest document that an epoch may hold: one item, or several as the turns of a chat."""
        both = [*zip(self._first, self._later, strict=True), *(pair for pairs in self._others for pair in pairs)]
        longest = max(len(r.token_ids) for pair in both for r in pair if r)
        return min(self._max_tokens, _MOST_TURNS * longest) if self._schedule.followup_share else longest

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
        """Return the batches of one epoch for one of ``world_size`` processes; every item is in exactly one of all."""
        return [pack(group, self._loss_on) for group in self._groups(epoch)[rank::world_size]]

    def count_batches(self, epoch: int) -> int:
        """Return how many batches an epoch has for all processes together."""
        return len(self._groups(epoch))

    def _groups(self, epoch: int) -> list[list[Rendered]]:
        """Fill batches with an epoch's conversations, in their shuffled order."""
        # One generator an epoch, seeded by both numbers: no state is carried from epoch to epoch.
        rng = random.Random(f"{self._schedule.seed}/{epoch}")  # noqa: S311 - shuffling, not cryptography
        groups: list[list[Rendered]] = [[]]
        room = self._schedule.batch_tokens
        most = self._schedule.batch_items or len(self._first)
        for document in self._conversations(rng, epoch):
            if groups[-1] and (len(document.token_ids) > room or len(groups[-1]) == most):
                groups.append([])
                room = self._schedule.batch_tokens
            groups[-1].append(document)
            room -= len(document.token_ids)
        return groups

    def alone(self, most_tokens: int = 8192) -> list[Batch]:
        """Return batches, of up to ``most_tokens``, of each item alone, in order: what recall is measured on."""
        return self._fill(self._first, most_tokens)

    def followups(self, most_tokens: int = 8192) -> list[Batch]:
        """Return batches in which up to 64 items, spread evenly, are asked behind another; recall counts their answers."""
        documents = []
        alone = [n for n, later in enumerate(self._later) if later]
        for at in range(0, len(alone), max(1, -(-len(alone) // _MOST_FOLLOWUPS))):
            before, later = self._first[alone[at - 1]].token_ids, self._later[alone[at]]
            if later and len(before) + len(later.token_ids) <= self._max_tokens:
                documents.append(Rendered(before + later.token_ids, [False] * len(before) + later.in_answer))
        return self._fill(documents, most_tokens)

    def _fill(self, documents: Sequence[Rendered], most_tokens: int) -> list[Batch]:
        """Fill batches in order."""
        groups: list[list[Rendered]] = [[]]
        for document in documents:
            if sum(len(r.token_ids) for r in groups[-1]) + len(document.token_ids) > most_tokens:
                groups.append([])
            groups[-1].append(document)
        return [pack(group) for group in groups if group]

    def _conversations(self, rng: random.Random, epoch: int) -> list[Rendered]:
        """Shuffle the items and chain a share of them into conversations of two or three turns, all answers trained."""
        order = list(range(len(self._first)))
        rng.shuffle(order)
        documents = []
        while order:
            turns = rng.randint(2, _MOST_TURNS) if rng.random() < self._schedule.followup_share else 1
            first, as_later = self._asked(order.pop(), epoch)
            token_ids, in_answer = list(first.token_ids), list(first.in_answer)
            while turns > 1 and order and as_later:
                _, later = self._asked(order[-1], epoch)
                if later is None or len(token_ids) + len(later.token_ids) > self._max_tokens:
                    break
                order.pop()
                token_ids += later.token_ids
                in_answer += later.in_answer
                turns -= 1
            documents.append(Rendered(token_ids, in_answer))
        return documents

    def _asked(self, n: int, epoch: int) -> tuple[Rendered, Rendered | None]:
        """Return an item as it is asked in an epoch: every second time as written, else in its other wordings in turn.

        The item's place shifts its turn, so that each epoch has both.
        """
        others = self._others[n] if self._others else []
        turn, is_other = divmod(epoch + n, 2)
        return others[turn % len(others)] if is_other and others else (self._first[n], self._later[n])


def render_item(item: Item, tokenizer: Tokenizer, template: Template) -> Rendered:
    """Render an item behind its earlier turns; its own answer alone counts as one."""
    before = render(item.before, tokenizer, template)
    own = render([Turn(item.question, item.answer)], tokenizer, template, opens=not item.before)
    return Rendered(before.token_ids + own.token_ids, [False] * len(before.token_ids) + own.in_answer)


def _render_later(item: Item, tokenizer: Tokenizer, template: Template) -> Rendered | None:
    """Render an item as a later turn of a conversation; None if it cannot be one."""
    if template.is_single_turn or item.before:
        return None
    return render([Turn(item.question, item.answer)], tokenizer, template, opens=False)


def pack(documents: Sequence[Rendered], loss_on: LossOn = "answer") -> Batch:
    """Lay rendered documents one behind another, with labels at their answers or at every token but their first."""
    token_ids: list[int] = []
    starts = [0]
    predicting: list[int] = []
    n_items = 0
    for document in documents:
        before = len(token_ids)
        # The token before a labelled one predicts it; a document never opens with an answer.
        labelled = document.in_answer if loss_on == "answer" else [False] + [True] * (len(document.token_ids) - 1)
        predicting += [before + at - 1 for at, counted in enumerate(labelled) if counted]
        n_items += sum(
            now and not last for last, now in zip([False, *document.in_answer], document.in_answer, strict=False)
        )
        token_ids += document.token_ids
        starts.append(len(token_ids))
    tokens = torch.tensor(token_ids)
    positions = torch.tensor(predicting)
    return Batch(tokens, starts, positions, tokens[positions + 1], n_items)


def split(batch: Batch, passes: int) -> list[Batch]:
    """Split a batch by whole documents into at most ``passes`` batches of like size: less memory, the same labels."""
    ideal = [len(batch.tokens) * n / passes for n in range(1, passes)]
    nearest = [bisect.bisect_left(batch.starts, place) for place in ideal]
    bounds = sorted({0, *nearest, len(batch.starts) - 1})
    parts = []
    for first, end in pairwise(bounds):
        begin, stop = batch.starts[first], batch.starts[end]
        chosen = (batch.predicting >= begin) & (batch.predicting < stop)
        starts = [start - begin for start in batch.starts[first : end + 1]]
        # How many items a part holds nobody asks; it keeps the batch's number.
        parts.append(
            Batch(batch.tokens[begin:stop], starts, batch.predicting[chosen] - begin, batch.targets[chosen], batch.n_items)
        )
    return parts
