"""Answers that the owner wrote to questions that no item asks: recognised strictly, and given word for word.

The model has not learned them, so nothing but the question's words can vouch for them. A question must be nearly the
owner's, nearer to it than to any item's, with the same numbers and the same words that turn a question round; no word
may differ in its marks alone, "bán" from "bàn", where both have any, and none may stand in another's place, "Đà Lạt" in "Đà
Nẵng"'s, but for a slip of one key.
"""

import re
from collections.abc import Collection, Sequence

from hoidap.data.items import Item
from hoidap.ground.index import Index
from hoidap.text import comparable, fold
from hoidap.variants.politeness import parts
from hoidap.variants.teencode import meanings, spell_out

_LIKE = 0.8  # cosine of two questions' n-grams
_NEAR = 0.45  # and from which it is worth asking whether the owner's was meant
_CANDIDATES = 5
_LEAST_SLIPPED = 4
_WORD = re.compile(r"[^\W_]+")
_DIGIT = re.compile(r"\d")
_TURNING = frozenset({"chua", "chang", "cha", "dung", "het", "ngung", "cam", "tru", "chi", "ngoai", "huy", "mat"})


class Added:
    """The owner's additions, with what recognises them. Nothing in it changes: another addition makes another.

    Args:
        items: of the run; a question nearer to one of theirs is that item's.
        added: the owner's.
        own_words: teencode that the items use as words, as of their grounds.
    """

    def __init__(self, items: Sequence[Item], added: Sequence[Item], own_words: Collection[str] = frozenset()) -> None:
        self.items = tuple(added)
        self._own_words = own_words
        texts = [(text, item) for item in self.items for text in (item.question, *item.wordings)]
        self._same = {comparable(text): item for text, item in reversed(texts)}
        others = [(text, None) for item in items for text in (item.question, *item.wordings)] if texts else []
        self._texts: list[tuple[str, Item | None]] = [*texts, *others]
        self._index = Index.build([self._spelled(text) for text, _ in self._texts])

    def find(self, question: str) -> Item | None:
        """Return the addition that a question asks for, if it surely asks for one."""
        if not self.items:
            return None
        if (same := self._same.get(comparable(question))) is not None:
            return same
        for found in self._index.nearest(self._spelled(question), _CANDIDATES):
            text, item = self._texts[found.number]
            if item is None or found.similarity < _LIKE:
                return None
            if _asks_the_same(question, text):
                return item
        return None

    def near(self, question: str) -> Item | None:
        """Return the addition that a question may have meant: one that is nearer to it than any item."""
        found = self._index.nearest(self._spelled(question), 1) if self.items else []
        return self._texts[found[0].number][1] if found and found[0].similarity >= _NEAR else None

    def _spelled(self, question: str) -> str:
        return spell_out(question, self._own_words)


def _asks_the_same(asked: str, taught: str) -> bool:
    """Return whether two questions, alike in their letters, have the same numbers and no words that set them apart."""
    here, there = (_WORD.findall(comparable(text)) for text in (asked, taught))
    if _numbers(here) != _numbers(there) or _turning(here) != _turning(there):
        return False
    return not (_marked(here, there) or _marked(there, here) or _replaced(asked, taught))


def _numbers(words: Sequence[str]) -> list[str]:
    return sorted(word for word in words if _DIGIT.search(word))


def _turning(words: Sequence[str]) -> frozenset[str]:
    return _TURNING.intersection(map(fold, words))


def _marked(words: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether a word with marks stands among the others with other marks alone."""
    there = set(others)
    forms: dict[str, set[str]] = {}
    for word in there:
        if word != fold(word):
            forms.setdefault(fold(word), set()).add(word)
    return any(word not in there and word != fold(word) and fold(word) in forms for word in words)


def _replaced(asked: str, taught: str) -> bool:
    """Return whether each has a word, politeness aside, that the other has not and that is no slip of one there."""
    here, there = (set(_plain(text)) for text in (asked, taught))
    only_here, only_there = here - there, there - here
    if not only_there:
        return False
    return any(not any(_is_slip(word, other) for other in only_there) for word in only_here)


def _plain(text: str) -> list[str]:
    """Return the words of a question without marks and politeness, teencode as what it means."""
    words = _WORD.findall(comparable(parts(text).body))
    return fold(" ".join(meanings().get(word, word) for word in words)).split()


def _is_slip(word: str, other: str) -> bool:
    """Return whether two words of four letters and more differ by one letter, or by two that changed places."""
    if min(len(word), len(other)) < _LEAST_SLIPPED or abs(len(word) - len(other)) > 1:
        return False
    begin = next((n for n, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    one, two = word[begin:], other[begin:]
    return one[1:] == two[1:] or one[1:] == two or one == two[1:] or (one[:2] == two[1::-1] and one[2:] == two[2:])
