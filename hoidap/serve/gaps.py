"""Questions that a bot declined, grouped by likeness: what the owner may want to write answers to, the most asked first.

A group is a question and those nearest to it, not a chain of them: two questions that a third is like need not be like each
other. In two real files of questions with other wordings (189 of 21 things, 777 of 198), 97 % and 63 % of a group's pairs
are of one thing at the likeness taken here: where papers of every kind are asked for, many questions are nearly alike. An
answer to one is therefore not taken for an answer to its group: what the owner did not name with it stays.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hoidap.ground.index import Index
from hoidap.text import comparable, fold
from hoidap.variants.politeness import parts
from hoidap.variants.teencode import meanings, spell_out

_LIKE = 0.62  # cosine of two questions' n-grams
_MOST_QUESTIONS = 3_000  # different ones that are grouped, the latest
_MOST_PAIRS = 200_000
_MOST_NEAR = 3  # items named beside a group
_MOST_GROUPS = 200
_MOST_SHOWN = 50  # questions of a group


@dataclass(frozen=True)
class Asked:
    """A question that was declined."""

    question: str
    near: tuple[str, ...]  # the items' questions nearest to it
    created: float


@dataclass(frozen=True)
class Group:
    """Questions that are much alike, each with how often it was asked, the most asked first."""

    questions: tuple[tuple[str, int], ...]
    near: tuple[str, ...]  # the items' questions that are most often near
    size: int  # questions asked in all
    same: frozenset[str]  # of its questions those that are the first in other marks, politeness or teencode


def group(asked: Sequence[Asked], answered: Sequence[tuple[str, float]] = ()) -> list[Group]:
    """Return the questions in groups, the largest first.

    Args:
        asked: the latest first.
        answered: questions that the owner has answered, and when; the same ones, asked before, are left out.
    """
    by_key: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        by_key[_key(one.question)].append(one)
    same = [turns for key, turns in by_key.items() if key][:_MOST_QUESTIONS]
    written: dict[str, float] = {}
    for question, when in answered:
        written[_plain(question)] = max(when, written.get(_plain(question), when))
    open_ = [
        number for number, turns in enumerate(same) if written.get(_plain(turns[0].question), -math.inf) < turns[0].created
    ]
    like = _like([turns[0].question for turns in same])
    return _sorted_groups(_lead(open_, [len(turns) for turns in same], like), same)


def _key(question: str) -> str:
    return fold(comparable(question))


def _plain(question: str) -> str:
    """Return a question without marks and politeness, with what its teencode means."""
    words = comparable(parts(question).body).split()
    return " ".join(meanings().get(word, fold(word)) for word in words)


def _like(questions: Sequence[str]) -> Mapping[int, Mapping[int, float]]:
    """Return for each question those that are like it, with how much."""
    like: defaultdict[int, dict[int, float]] = defaultdict(dict)
    index = Index.build([spell_out(question, ()) for question in questions])
    for one, other, similarity in index.near_duplicates(_LIKE, _MOST_PAIRS):
        like[one][other] = like[other][one] = similarity
    return like


def _lead(numbers: Sequence[int], counts: Sequence[int], like: Mapping[int, Mapping[int, float]]) -> list[list[int]]:
    """Return the groups: a question that was asked most, with those like it, leads; the others go to the nearest leader."""
    here = set(numbers)
    weight = {number: counts[number] + sum(counts[other] for other in like[number] if other in here) for number in numbers}
    led: dict[int, list[int]] = {}
    is_taken: set[int] = set()
    for number in sorted(numbers, key=lambda number: -weight[number]):
        if number not in is_taken:
            led[number] = [number]
            is_taken.update(like[number], (number,))
    for number in numbers:
        if number not in led:
            nearest = max((leader for leader in like[number] if leader in led), key=lambda leader: like[number][leader])
            led[nearest].append(number)
    return list(led.values())


def _sorted_groups(groups: Sequence[Sequence[int]], same: Sequence[Sequence[Asked]]) -> list[Group]:
    found = []
    for members in groups:
        counts = sorted(((_usual(same[number]), len(same[number])) for number in members), key=lambda pair: -pair[1])
        near = Counter(question for number in members for one in same[number] for question in one.near)
        named = tuple(question for question, _ in near.most_common(_MOST_NEAR))
        shown = tuple(counts[:_MOST_SHOWN])
        first = _plain(shown[0][0])
        same_as_first = frozenset(question for question, _ in shown if _plain(question) == first)
        found.append(Group(shown, named, sum(count for _, count in counts), same_as_first))
    return sorted(found, key=lambda one: -one.size)[:_MOST_GROUPS]


def _usual(turns: Sequence[Asked]) -> str:
    """Return how a question is mostly written."""
    return Counter(one.question for one in turns).most_common(1)[0][0]
