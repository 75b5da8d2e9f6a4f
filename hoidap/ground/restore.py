"""The diacritics of a question typed without them, from the items' own words: "gia ship" → "giá ship".

A bare syllable may be any of the forms that it has in the items; which, the pairs of neighbours tell (the path of greatest
probability, Viterbi 1967). Nothing is shipped: a word that no item has stays as it was typed, as does one that has marks.

How probable a word is behind another is smoothed as by Witten and Bell (1991): the more different words stand behind that
other, the more a pair that was never seen may come. Such a pair is as probable as its second word stands behind many
different ones (Kneser and Ney 1995): "lâu" is frequent in "bao lâu" alone, and says that "bao" stands before it.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hoidap.data.items import Item
from hoidap.ground.counts import read_counts, refuse_no_counts
from hoidap.text import fold, nfc
from hoidap.tones import restyle

_WORD = re.compile(r"[^\W_]+")
_BARE = re.compile(r"[A-Za-z]{1,7}")  # "nghiêng" is the longest syllable
_DIGIT = re.compile(r"\d")
_NUMBER = "0"  # stands for every word with a digit in it
_START = ""  # stands before the first word
_MOST_CHARACTERS = 1000  # of a text; what is behind them is neither learned from nor restored
_MOST_FORMS = 8  # of one bare syllable, the most frequent
_UNSEEN = 0.5  # neighbours that a word has beside those seen


@dataclass(frozen=True)
class Restorer:
    """The pairs of neighbours of some texts, and what follows from them."""

    pairs: Mapping[str, Mapping[str, int]]  # how often a word has another behind it
    totals: Mapping[str, int]  # how often it has any
    spread: Mapping[str, float]  # the share of all pairs, each counted once, that a word is the second of
    forms: Mapping[str, Sequence[str]]  # of a bare syllable

    @classmethod
    def of_items(cls, items: Sequence[Item], others: Sequence[Sequence[str]]) -> "Restorer":
        """Learn from items; ``others`` has for each the other wordings by the user that were trained on."""
        return cls.build(
            text for item, more in zip(items, others, strict=True) for text in (item.question, *more, item.answer)
        )

    @classmethod
    def build(cls, texts: Iterable[str]) -> "Restorer":
        """Learn from texts; one that has no mark at all was typed without, and teaches nothing."""
        pairs: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            if not text.isascii():
                words = _WORD.findall(restyle(nfc(text[:_MOST_CHARACTERS]), "older"))
                for before, word in pairwise([_START, *map(_key, words)]):
                    pairs[before][word] += 1
        return cls.of(pairs)

    @classmethod
    def of(cls, pairs: Mapping[str, Mapping[str, int]]) -> "Restorer":
        """Return what restores by these pairs."""
        counts: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        for behind in pairs.values():
            counts.update(behind)
            kinds.update(behind.keys())
        forms: defaultdict[str, list[str]] = defaultdict(list)
        for word, _ in counts.most_common():
            bare = fold(word)
            if len(bare) == len(word) and _BARE.fullmatch(bare) and len(forms[bare]) < _MOST_FORMS:
                forms[bare].append(word)
        every = kinds.total() + _UNSEEN * (len(kinds) + 1)
        spread = {word: (n + _UNSEEN) / every for word, n in kinds.items()}
        return cls(pairs, {word: sum(behind.values()) for word, behind in pairs.items()}, spread, forms)

    def restore(self, text: str) -> str:
        """Return a text in NFC with the marks that it probably lacks; digits, punctuation and capitals are kept."""
        text = nfc(text)
        matches = list(_WORD.finditer(text[:_MOST_CHARACTERS]))
        pieces, end = [], 0
        for match, form in zip(matches, self._path([_key(match.group()) for match in matches]), strict=True):
            word = match.group()
            pieces += [text[end : match.start()], _in_case(form, word) if _BARE.fullmatch(word) else word]
            end = match.end()
        return "".join(pieces) + text[end:]

    def _path(self, words: Sequence[str]) -> list[str]:
        """Return the most probable form of each word."""
        scores = {_START: 0.0}  # of the best path to each form
        steps: list[dict[str, str]] = []  # for each word, from which form the best path comes to each
        for word in words:
            step, reached = {}, {}
            for form in self.forms.get(word, (word,)):
                ways = ((score + math.log(self._probability(before, form)), before) for before, score in scores.items())
                reached[form], step[form] = max(ways, key=lambda way: way[0])
            scores = reached
            steps.append(step)
        path = [max(scores, key=scores.__getitem__)]
        for step in reversed(steps):
            path.append(step[path[-1]])
        return path[-2::-1]

    def _probability(self, before: str, form: str) -> float:
        """Return how probable a word is behind another, of all words."""
        alone = self.spread.get(form, 1.0)  # a word that no item has is the one form of itself, and as good as any
        behind = self.pairs.get(before)
        return (behind.get(form, 0) + len(behind) * alone) / (self.totals[before] + len(behind)) if behind else alone

    def save(self, path: Path) -> None:
        """Write the pairs as JSON."""
        path.write_text(json.dumps(self.pairs, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Restorer":
        """Read what ``save`` wrote.

        Raises:
            RunError: the file is missing, or something else.

        """

        def make(pairs: Any) -> "Restorer":
            refuse_no_counts((n for behind in pairs.values() for n in behind.values()), least=1)
            return cls.of(pairs)

        return read_counts(path, make)


def _key(word: str) -> str:
    """Return what a word is known by."""
    return _NUMBER if _DIGIT.search(word) else word.lower()


def _in_case(form: str, written: str) -> str:
    """Return a form with the capitals of what was written."""
    return "".join(new.upper() if old.isupper() else new for new, old in zip(form, written, strict=True))
