"""What others make of the held-out text that the mini base is measured on, in bits per byte.

    python benchmarks/mini_baselines.py --train text.txt --held-out a.txt b.txt --out benchmarks/results/mini-baselines.json

A file holds articles with a blank line between them. The bytes counted are the UTF-8 bytes of each article in NFC, its
lines joined by one newline; blank lines are not counted. The bits are those of the articles and of their ends: the token
</s> after each for the 5-gram, a blank line after each for xz.

- xz: the held-out file alone, preset 9e.
- xz-given-train: what xz grows by when the held-out text follows the training text, in a dictionary that holds both.
- 5-gram: interpolated modified Kneser-Ney (Chen & Goodman 1999) over the tokens of the shipped tokenizer, trained on the
  training text. An article's first tokens are told from </s> and what follows it; nothing is told from the article before.
  The parity error is how far from 1 the sum over the whole vocabulary is at most, in 20 contexts of each held-out file.
"""

import argparse
import json
import lzma
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environment
import numpy as np

from hoidap.base import MINI_FOLDER
from hoidap.data.corpus import read_articles
from hoidap.tokenizer import Tokenizer

N = 5
CONTEXTS = 20
MOST_DEVIATION = 1e-6
FEW_COUNTS = (0.0, 0.5, 1.0, 1.5)  # the discounts where a text is too small to estimate them
XZ_PRESET = 9 | lzma.PRESET_EXTREME

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def n_bytes(path: Path) -> int:
    return sum(len(article.encode()) for article in read_articles([path]))


def with_ends(path: Path) -> bytes:
    """Return the articles with a blank line after each, what xz is given."""
    return "".join(f"{article}\n\n" for article in read_articles([path])).encode()


def xz_bytes(text: bytes, dictionary: int | None = None) -> int:
    """Return the size of ``text`` under xz -9e, with a dictionary of so many bytes where one is given."""
    if dictionary is None:
        return len(lzma.compress(text, preset=XZ_PRESET))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": XZ_PRESET, "dict_size": dictionary}]
    return len(lzma.compress(text, filters=filters))


def tokens(path: Path, tokenizer: Tokenizer) -> Ints:
    """Return the ids of all articles in a row: the end token, then each article and the end token."""
    end = np.array([tokenizer.eos_id], np.int64)
    parts = [end]
    for article in read_articles([path]):
        parts += [np.array(tokenizer.encode(article), np.int64), end]
    return np.concatenate(parts)


def steps_since_end(ids: Ints, end: int) -> Ints:
    """Return for each token how far before it the last end token is: no context reaches further."""
    places = np.arange(len(ids))
    last = np.maximum.accumulate(np.where(ids == end, places, 0))
    return places - np.concatenate([[0], last[:-1]])


def windows(ids: Ints, end: int) -> Ints:
    """Return a row for each token but the first: the N - 1 tokens before it, -1 beyond the article's start, and itself."""
    padded = np.concatenate([np.full(N - 1, -1), ids])
    rows = np.lib.stride_tricks.sliding_window_view(padded, N)[1:].copy()
    too_far = steps_since_end(ids, end)[1:, None] < np.arange(N - 1, -1, -1)
    rows[too_far] = -1
    return rows


@dataclass
class Order:
    """The n-grams of one length: which there are, their shares, and what each context leaves to the shorter ones."""

    vocabulary: int
    keys: Ints  # sorted: the rank of the first n - 1 tokens × vocabulary + the last token; the rank is the place in here
    discounts: tuple[float, ...]
    shares: Floats  # for each n-gram
    left: Floats  # for each context

    @classmethod
    def estimate(cls, vocabulary: int, keys: Ints, counts: Ints, n_contexts: int) -> "Order":
        discounts = estimate_discounts(counts)
        taken = np.array(discounts)[np.minimum(counts, 3)]
        contexts = keys // vocabulary
        totals = np.bincount(contexts, counts, n_contexts)
        left = np.bincount(contexts, taken, n_contexts)
        seen = totals > 0
        left = np.where(seen, left / np.where(seen, totals, 1), 1.0)
        shares = (counts - taken) / np.where(seen, totals, 1)[contexts]
        return cls(vocabulary, keys, discounts, shares, left)

    def find(self, contexts: Ints, last: Ints) -> Ints:
        """Return the ranks of n-grams given the ranks of their contexts and their last tokens, -1 for those never seen."""
        keys = contexts * self.vocabulary + last
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where((contexts >= 0) & (last >= 0) & (self.keys[places] == keys), places, -1)


def estimate_discounts(counts: Ints) -> tuple[float, ...]:
    """Return what is taken off counts of 0, 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (int(n) for n in np.bincount(np.minimum(counts, 5), minlength=6)[1:5])
    if not min(n1, n2, n3):
        return FEW_COUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return discounts if all(0 <= d <= count for count, d in enumerate(discounts)) else FEW_COUNTS


class KneserNey:
    """An interpolated modified Kneser-Ney model.

    The longest n-grams have their counts, shorter ones count the different tokens before them; those that start an article,
    which have none before them, keep their counts. The shortest are mixed with 1 / vocabulary.
    """

    def __init__(self, ids: Ints, end: int, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.orders: list[Order] = []
        since, is_end = steps_since_end(ids, end), ids == end
        ranks, keys = ids, np.arange(vocabulary)
        counts, starts = np.zeros(vocabulary, np.int64), np.zeros(vocabulary, np.bool_)
        n_contexts = 1
        for n in range(2, N + 1):
            places = np.flatnonzero(since >= n - 1)
            longer, inverse, longer_counts = np.unique(
                ranks[places - 1] * vocabulary + ids[places], return_inverse=True, return_counts=True
            )
            suffixes, longer_starts = np.empty(len(longer), np.int64), np.empty(len(longer), np.bool_)
            suffixes[inverse] = ranks[places]
            longer_starts[inverse] = is_end[places - (n - 1)]
            different = np.bincount(suffixes, minlength=len(keys))
            self.orders.append(Order.estimate(vocabulary, keys, np.where(starts, counts, different), n_contexts))
            n_contexts = len(keys)
            ranks = np.full(len(ids), -1)
            ranks[places] = inverse
            keys, counts, starts = longer, longer_counts, longer_starts
        self.orders.append(Order.estimate(vocabulary, keys, counts, n_contexts))

    def probabilities(self, rows: Ints) -> Floats:
        """Return the probability of the last token of each of ``windows``' rows after those before it."""
        chances = np.full(len(rows), 1 / self.vocabulary)
        for n, order in enumerate(self.orders, 1):
            contexts = np.zeros(len(rows), np.int64)
            for shorter, column in zip(self.orders, range(N - n, N - 1), strict=False):
                contexts = shorter.find(contexts, rows[:, column])
            found = order.find(contexts, rows[:, -1])
            chances *= np.where(contexts >= 0, order.left[contexts], 1.0)
            chances += np.where(found >= 0, order.shares[found], 0.0)
        return chances

    def deviation(self, rows: Ints) -> float:
        """Return how far from 1 the whole vocabulary sums after each of some contexts, drawn from ``rows``, at most."""
        drawn = rows[np.random.default_rng(0).choice(len(rows), min(CONTEXTS, len(rows)), replace=False)]
        every = np.repeat(drawn, self.vocabulary, axis=0)
        every[:, -1] = np.tile(np.arange(self.vocabulary), len(drawn))
        sums = self.probabilities(every).reshape(len(drawn), self.vocabulary).sum(1)
        return float(np.abs(sums - 1).max())


def row(key: str, bits: float, size: int, note: str, error: float | None = None, **detail: Any) -> dict[str, Any]:
    result = {
        "key": key, "value": round(bits / size, 4), "unit": "bits/byte", "baseline": None, "ratio": None, "target": None,
        "met": None, "parity_error": error, "note": note, "detail": {"bits": round(bits), "bytes": size, **detail},
    }  # fmt: skip
    print(json.dumps(result, ensure_ascii=False), flush=True)
    return result


def measure_5_gram(train: Path, held_out: list[Path]) -> list[dict[str, Any]]:
    tokenizer = Tokenizer.from_file(MINI_FOLDER / "tokenizer.json")
    started = time.perf_counter()
    ids = tokens(train, tokenizer)
    tokenised_s = time.perf_counter() - started
    started = time.perf_counter()
    model = KneserNey(ids, tokenizer.eos_id, tokenizer.vocab_size)
    trained_s = time.perf_counter() - started
    common = {
        "train_tokens": len(ids) - 1, "ngrams": [len(order.keys) for order in model.orders],
        "discounts": [[round(d, 4) for d in order.discounts[1:]] for order in model.orders],
        "tokenise_s": round(tokenised_s, 1), "train_s": round(trained_s, 1),
    }  # fmt: skip
    note = "interpolated modified Kneser-Ney on the shipped tokenizer's tokens; parity error: of the vocabulary's sum"
    rows = []
    for path in held_out:
        scored = windows(tokens(path, tokenizer), tokenizer.eos_id)
        started = time.perf_counter()
        bits = -float(np.log2(model.probabilities(scored)).sum())
        score_s = round(time.perf_counter() - started, 1)
        error = model.deviation(scored)
        assert error < MOST_DEVIATION, error
        detail = {"tokens": len(scored), "score_s": score_s, **common}
        rows.append(row(f"{path.stem}.{N}-gram", bits, n_bytes(path), note, error, **detail))
    return rows


def measure_xz(train: Path, held_out: list[Path]) -> list[dict[str, Any]]:
    rows = [
        row(f"{path.stem}.xz", 8 * xz_bytes(with_ends(path)), n_bytes(path), "xz -9e, the held-out text alone")
        for path in held_out
    ]
    before, texts = with_ends(train), [with_ends(path) for path in held_out]
    dictionary = len(before) + max(len(text) for text in texts)
    train_bytes = xz_bytes(before, dictionary)
    note = "xz -9e: the size of training and held-out text less that of the training text, a dictionary that holds both"
    common = {"train_bytes": len(before), "train_xz_bytes": train_bytes}
    for path, text in zip(held_out, texts, strict=True):
        bits = 8 * (xz_bytes(before + text, dictionary) - train_bytes)
        rows.append(row(f"{path.stem}.xz-given-train", bits, n_bytes(path), note, **common))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = [*measure_5_gram(options.train, options.held_out), *measure_xz(options.train, options.held_out)]
    environment.write(options.out, rows)


if __name__ == "__main__":
    main()
