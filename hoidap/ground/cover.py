"""How much of an item's question is in what was asked: "phí giao hàng" has little of "phí giao hàng đi Đà Nẵng".

A word counts the more, the fewer items have it. What an item asks for and the customer did not mention is a sign that
another item was meant, however near the rest is.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hoidap.ground.counts import read_counts, refuse_no_counts
from hoidap.text import nfc
from hoidap.tones import restyle

_WORD = re.compile(r"[^\W_]+")
_MOST_CHARACTERS = 1000  # of a text


@dataclass(frozen=True)
class Rarity:
    """How many of the items have a word."""

    n_items: int
    counts: Mapping[str, int]  # of words in two items and more; any other is taken for in one

    @classmethod
    def build(cls, texts: Iterable[str]) -> "Rarity":
        """Count the words of texts, one an item."""
        counts: Counter[str] = Counter()
        n_items = 0
        for text in texts:
            counts.update(words(text))
            n_items += 1
        return cls(n_items, {word: count for word, count in counts.items() if count > 1})

    def covered(self, wanted: str, asked: str) -> float:
        """Return the share of one text's words, weighed by their rarity, that another has; 0 to 1."""
        here, there = words(wanted), words(asked)
        # Sorted: a sum in a set's order would differ in its last digits from one process to the next.
        every = sum(self._of(word) for word in sorted(here))
        return sum(self._of(word) for word in sorted(here & there)) / every if every else 0.0

    def _of(self, word: str) -> float:
        return max(0.0, math.log((1 + self.n_items) / (1 + self.counts.get(word, 1))))

    def save(self, path: Path) -> None:
        """Write the counts as JSON."""
        content = {"items": self.n_items, "words": dict(self.counts)}
        path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Rarity":
        """Read what ``save`` wrote.

        Raises:
            RunError: the file is missing, or something else.

        """

        def make(content: Any) -> "Rarity":
            read = cls(content["items"], dict(content["words"]))
            refuse_no_counts((read.n_items, *read.counts.values()))
            return read

        return read_counts(path, make)


def words(text: str) -> frozenset[str]:
    """Return the words of a text, in lower case and one style of tone marks."""
    return frozenset(_WORD.findall(restyle(nfc(text[:_MOST_CHARACTERS]).lower(), "older")))
