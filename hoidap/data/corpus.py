"""Plain text and question–answer pairs become batches for pretraining: a pure function of seed and epoch.

Both are tokenised once and kept, four bytes a token.

An article is one document, ``</s> text </s>``, cut into chunks of at most ``max_tokens``; a chunk opens with the last token
of the one before it, so that every token but the first ``</s>`` is predicted once an epoch. A pair is a conversation of one
turn with its labels at the answer; each epoch asks it in another of its wordings.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hoidap.data.items import Item
from hoidap.data.pack import Batch
from hoidap.errors import DataError
from hoidap.prompt import Template, Turn, render
from hoidap.recipe import Schedule
from hoidap.text import nfc
from hoidap.tokenizer import Tokenizer

_ENCODED_AT_ONCE = 512  # articles handed to the tokenizer together: it uses all cores


def read_articles(paths: Sequence[Path]) -> list[str]:
    """Return the articles of UTF-8 text files (``.xz`` too): paragraphs a line, a blank line between two articles.

    Raises:
        DataError: files that are missing, no UTF-8 or empty, all at once.

    """
    import lzma

    articles: list[str] = []
    problems = []
    for path in paths:
        try:
            with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as file:
                found = [article for part in re.split(r"\n\s*\n", file.read()) if (article := nfc(part).strip())]
        except (OSError, UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
            problems.append(f"{path}: cannot be read as UTF-8 text ({error})")
            continue
        if not found:
            problems.append(f"{path}: holds no text")
        articles += found
    if problems:
        raise DataError(problems)
    return articles


def hold_out(articles: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Return the articles to train on and those held out: about ``share`` of them, chosen by hash, not by place."""
    kept: list[str] = []
    held: list[str] = []
    for article in articles:
        drawn = int.from_bytes(hashlib.sha256(article.encode()).digest()[:4], "big") / 2**32
        (held if drawn < share else kept).append(article)
    return kept, held


@dataclass(frozen=True)
class Documents:
    """Token streams one behind another.

    ``entries`` groups documents of which an epoch takes one: a pair's wordings; a chunk of text is alone.
    """

    tokens: np.ndarray  # int32 [N]
    starts: np.ndarray  # int64 [D + 1]
    labelled_from: np.ndarray  # int64 [D]: the first labelled token of each, counted in the document; at least 1
    entries: np.ndarray  # int64 [E + 1]: entry e is documents entries[e] to entries[e + 1]

    @classmethod
    def join(cls, parts: Iterable[tuple[list[int], int, bool]]) -> "Documents":
        """Lay out (token ids, first labelled token, whether it opens an entry)."""
        streams, lengths, labelled, entries = [], [], [], []
        for document, (token_ids, first, opens) in enumerate(parts):
            streams.append(np.array(token_ids, dtype=np.int32))
            lengths.append(len(token_ids))
            labelled.append(first)
            if opens:
                entries.append(document)
        tokens = np.concatenate(streams) if streams else np.zeros(0, dtype=np.int32)
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return cls(tokens, starts, np.array(labelled), np.array([*entries, len(lengths)]))

    def batch(self, chosen: Sequence[int]) -> Batch:
        """Lay the chosen documents one behind another."""
        spans = [(int(self.starts[d]), int(self.starts[d + 1])) for d in chosen]
        tokens = torch.from_numpy(np.concatenate([self.tokens[a:b] for a, b in spans]).astype(np.int64))
        starts = [0, *np.cumsum([b - a for a, b in spans]).tolist()]
        predicting = [
            np.arange(start + int(self.labelled_from[d]) - 1, end - 1)
            for d, start, end in zip(chosen, starts[:-1], starts[1:], strict=True)
        ]
        positions = torch.from_numpy(np.concatenate(predicting))
        return Batch(tokens, starts, positions, tokens[positions + 1], len(chosen))


class Corpus:
    """What is pretrained on, as batches.

    Args:
        articles: plain text.
        pairs: items; every wording of their questions is trained on.
        tokenizer: of the model.
        schedule: seed and size of a batch.
        max_tokens: the longest document.
        template: of the pairs.
        advance: is told of each article and pair once it is tokenised.

    Raises:
        DataError: pairs that are longer than ``max_tokens``, all listed.

    """

    def __init__(
        self,
        articles: Sequence[str],
        pairs: Sequence[Item],
        tokenizer: Tokenizer,
        schedule: Schedule,
        max_tokens: int,
        template: Template,
        advance: Callable[[int], None] = lambda _n: None,
    ) -> None:
        self._schedule = schedule

        def parts() -> Iterator[tuple[list[int], int, bool]]:
            yield from _chunks(articles, tokenizer, max_tokens, advance)
            yield from _conversations(pairs, tokenizer, template, max_tokens, advance)

        self._documents = Documents.join(parts())

    @property
    def n_tokens(self) -> int:
        """Tokens of an epoch, on average."""
        lengths = np.diff(self._documents.starts)
        sizes = np.diff(self._documents.entries)
        return round(float(np.sum(np.add.reduceat(lengths, self._documents.entries[:-1]) / sizes))) if len(sizes) else 0

    def epoch(self, epoch: int) -> "Batches":
        """Return the batches of one epoch: every entry once, shuffled."""
        documents, schedule = self._documents, self._schedule
        sizes = np.diff(documents.entries)
        chosen = documents.entries[:-1] + (np.arange(len(sizes)) + epoch) % sizes
        np.random.default_rng([schedule.seed, epoch]).shuffle(chosen)
        return Batches(documents, _fill(documents, chosen, schedule.batch_tokens))

    def count_batches(self, epoch: int) -> int:
        """Return how many batches an epoch has."""
        return len(self.epoch(epoch))

    def in_order(self) -> "Batches":
        """Return batches of all documents as they stand: what a held-out loss is measured on."""
        order = np.arange(len(self._documents.labelled_from))
        return Batches(self._documents, _fill(self._documents, order, self._schedule.batch_tokens))


class Batches(Sequence[Batch]):
    """Batches made when they are asked for: an epoch's tensors together would be eight times the corpus."""

    def __init__(self, documents: Documents, groups: list[np.ndarray]) -> None:
        self._documents, self._groups = documents, groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]  # no slices
        return self._documents.batch(self._groups[index])  # type: ignore[arg-type]


def _fill(documents: Documents, order: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Cut an order of documents into groups of at most ``batch_tokens``, but for one longer document."""
    ends = np.cumsum(np.diff(documents.starts)[order])
    groups, first, done = [], 0, 0
    while first < len(order):
        end = max(first + 1, int(np.searchsorted(ends, done + batch_tokens, side="right")))
        groups.append(order[first:end])
        first, done = end, int(ends[end - 1])
    return groups


def _chunks(
    articles: Sequence[str], tokenizer: Tokenizer, max_tokens: int, advance: Callable[[int], None]
) -> Iterator[tuple[list[int], int, bool]]:
    for at in range(0, len(articles), _ENCODED_AT_ONCE):
        some = articles[at : at + _ENCODED_AT_ONCE]
        for token_ids in tokenizer.encode_all(some):
            whole = [tokenizer.eos_id, *token_ids, tokenizer.eos_id]
            for start in range(0, len(whole) - 1, max_tokens - 1):
                yield whole[start : start + max_tokens], 1, True
        advance(len(some))


def _conversations(
    pairs: Sequence[Item], tokenizer: Tokenizer, template: Template, max_tokens: int, advance: Callable[[int], None]
) -> Iterator[tuple[list[int], int, bool]]:
    too_long = []
    for number, pair in enumerate(pairs, start=1):
        for wording in (pair.question, *pair.wordings):
            rendered = render([Turn(wording, pair.answer)], tokenizer, template)
            if len(rendered.token_ids) > max_tokens:
                too_long.append(f"pair {number}, {wording[:60]!r}: {len(rendered.token_ids)} tokens, at most {max_tokens}")
            yield rendered.token_ids, rendered.in_answer.index(True), wording is pair.question
        advance(1)
    if too_long:
        raise DataError(too_long)
