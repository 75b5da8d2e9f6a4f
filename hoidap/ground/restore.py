"""The diacritics of a question typed without them, from the items' own words: "gia ship" → "giá ship".

A bare syllable may be any of the forms that it has in the items; which, the pairs of neighbours tell (the path of greatest
probability, Viterbi 1967). Nothing is shipped: a word that no item has stays as it was typed, as does one that has marks.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hoidap.errors import RunError
from hoidap.text import fold, nfc
from hoidap.tones import restyle

_WORD = re.compile(r"[^\W_]+")
_BARE = re.compile(r"[A-Za-z]{1,7}")  # "nghiêng" is the longest syllable
_START = ""  # stands before the first word
_MOST_CHARACTERS = 1000  # of a text; what is behind them is neither learned from nor restored
_MOST_FORMS = 8  # of one bare syllable, the most frequent
_PAIR_SHARE = 0.9  # of a form's probability, that the word before gives it; the rest is its share of its syllable
_MOST_BYTES = 64 * 2**20  # of a file


@dataclass(frozen=True)
class Restorer:
    """The pairs of neighbours of some texts, and what follows from them."""

    pairs: Mapping[str, Mapping[str, int]]  # how often a word has another behind it
    totals: Mapping[str, int]  # how often it has any
    forms: Mapping[str, Mapping[str, float]]  # of a bare syllable, with the share of each

    @classmethod
    def build(cls, texts: Iterable[str]) -> "Restorer":
        """Learn from texts; one that has no mark at all was typed without, and teaches nothing."""
        pairs: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            if not text.isascii():
                words = _WORD.findall(restyle(nfc(text[:_MOST_CHARACTERS]), "older").lower())
                for before, word in pairwise([_START, *words]):
                    pairs[before][word] += 1
        return cls.of(pairs)

    @classmethod
    def of(cls, pairs: Mapping[str, Mapping[str, int]]) -> "Restorer":
        """Return what restores by these pairs."""
        counts: Counter[str] = Counter()
        for behind in pairs.values():
            counts.update(behind)
        forms: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for word, count in counts.most_common():
            bare = fold(word)
            if len(bare) == len(word) and _BARE.fullmatch(bare) and len(forms[bare]) < _MOST_FORMS:
                forms[bare][word] = count
        shares = {bare: {form: n / sum(found.values()) for form, n in found.items()} for bare, found in forms.items()}
        return cls(pairs, {word: sum(behind.values()) for word, behind in pairs.items()}, shares)

    def restore(self, text: str) -> str:
        """Return a text in NFC with the marks that it probably lacks; digits, punctuation and capitals are kept."""
        text = nfc(text)
        matches = list(_WORD.finditer(text[:_MOST_CHARACTERS]))
        pieces, end = [], 0
        for match, form in zip(matches, self._path([match.group().lower() for match in matches]), strict=True):
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
            for form, share in self.forms.get(word, {word: 1.0}).items():
                ways = (
                    (score + math.log(self._probability(before, form, share)), before) for before, score in scores.items()
                )
                reached[form], step[form] = max(ways, key=lambda way: way[0])
            scores = reached
            steps.append(step)
        path = [max(scores, key=scores.__getitem__)]
        for step in reversed(steps):
            path.append(step[path[-1]])
        return path[-2::-1]

    def _probability(self, before: str, form: str, share: float) -> float:
        pair = self.pairs.get(before, {}).get(form, 0)
        return (1 - _PAIR_SHARE) * share + (_PAIR_SHARE * pair / self.totals[before] if pair else 0.0)

    def save(self, path: Path) -> None:
        """Write the pairs as JSON."""
        path.write_text(json.dumps(self.pairs, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Restorer":
        """Read what ``save`` wrote.

        Raises:
            RunError: the file is missing, or something else.

        """
        try:
            if path.stat().st_size > _MOST_BYTES:
                msg = f"{path.stat().st_size} bytes, of {_MOST_BYTES} allowed"
                raise ValueError(msg)  # noqa: TRY301 - a file that cannot be read, like the others
            pairs = json.loads(path.read_text(encoding="utf-8"))
            good = all(type(n) is int and 0 < n < 2**53 for behind in pairs.values() for n in behind.values())
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            msg = f"{path} cannot be read ({error!r}); `hoidap evaluate` writes it again"
            raise RunError(msg) from None
        if not good:
            msg = f"{path} holds counts that are none; `hoidap evaluate` writes it again"
            raise RunError(msg)
        return cls.of(pairs)


def _in_case(form: str, written: str) -> str:
    """Return a form with the capitals of what was written."""
    return "".join(new.upper() if old.isupper() else new for new, old in zip(form, written, strict=True))
