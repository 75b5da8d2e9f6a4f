"""What a run is asked: its items in every way held out from training and some that were not, and questions out of scope."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from hoidap.data.wordings import AS_WRITTEN, OTHER, Split, lot
from hoidap.prompt import Turn
from hoidap.text import comparable, fold

BARE = "other wording, no diacritics"
NEAR, FAR = "near", "far"  # items held out whole; another domain
_FAR_FILE = Path(__file__).parent.parent / "assets" / "far.txt"
_MOST_HELD_OUT = 500  # of one kind, but for questions as written, which are asked all
_MOST_TRAINED = 40
_SEED = 5  # of the lots here; others than training's


@dataclass(frozen=True)
class Question:
    """One question of the exam."""

    kind: str  # of a wording, or BARE, NEAR, FAR
    text: str
    item: int | None  # whose answer is wanted, by its place; None: out of scope
    before: tuple[Turn, ...]
    is_trained: bool
    calibrates: bool  # in the half that confidence is fitted on; rates are of the other half


def questions(split: Split) -> list[Question]:
    """Return the questions of a run's exam, those as written first, item by item."""
    found = [*_of_items(split), *_near(split), *_far()]
    order = {kind: place for place, kind in enumerate(dict.fromkeys(question.kind for question in found))}
    found.sort(key=lambda question: (order[question.kind], not question.is_trained))
    kept: list[Question] = []
    for (kind, is_trained), group in groupby(found, key=lambda question: (question.kind, question.is_trained)):
        all_ = list(group)
        most = len(all_) if kind in (AS_WRITTEN, FAR) else _MOST_TRAINED if is_trained else _MOST_HELD_OUT
        kept += _sample(all_, most)
        if kind == OTHER and not is_trained:
            kept += [_bare(question) for question in _sample(all_, most) if fold(question.text) != question.text]
    return kept


def _bare(question: Question) -> Question:
    return replace(question, kind=BARE, text=fold(question.text))


def _sample(group: Sequence[Question], most: int) -> list[Question]:
    """Return at most so many, drawn by lot, in their order."""
    chosen = set(sorted(range(len(group)), key=lambda n: lot(_SEED, group[n].text))[:most])
    return [question for n, question in enumerate(group) if n in chosen]


def _of_items(split: Split) -> Iterator[Question]:
    for wording in split.wordings:
        item = split.items[wording.item]
        calibrates = lot(_SEED, item.question) < 0.5  # an item's ways of asking are all in one half
        yield Question(wording.kind, wording.text, wording.item, item.before, wording.is_trained, calibrates)


def _near(split: Split) -> Iterator[Question]:
    trained = {comparable(item.answer) for item in split.items}
    for item in split.held_out:
        if comparable(item.answer) in trained:
            continue  # the bot knows it by another question
        for text in (item.question, *item.wordings):
            yield Question(NEAR, text, None, item.before, is_trained=False, calibrates=False)


def _far() -> Iterator[Question]:
    for text in _FAR_FILE.read_text(encoding="utf-8").splitlines():
        yield Question(FAR, text, None, (), is_trained=False, calibrates=lot(_SEED, text) < 0.5)
