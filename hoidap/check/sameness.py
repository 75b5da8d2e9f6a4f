"""Questions that are the same: with different answers, written twice, or led to by another row's wording."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from hoidap.check.finding import Finding, shown
from hoidap.data.items import Item
from hoidap.text import comparable, fold

MOST_ANSWERS = 4  # shown of those that differ
SHOWN = 60  # characters of each


class Placed:
    """The items of a file by what their questions come to; each has its line."""

    def __init__(self, items: Sequence[Item], lines: Sequence[int]) -> None:
        self.items = items
        self.lines = lines
        self.questions = [comparable(item.question) for item in items]
        self.answers = [comparable(item.answer) for item in items]
        self.folded = [fold(question) for question in self.questions]

    def groups(self, keys: Sequence[str]) -> list[list[int]]:
        """Return the numbers of items with one key and one conversation before them, those that are not alone."""
        found: dict[object, list[int]] = defaultdict(list)
        for number, (key, item) in enumerate(zip(keys, self.items, strict=True)):
            found[(key, item.before)].append(number)
        return [group for group in found.values() if len(group) > 1]

    def by_answer(self, group: Sequence[int]) -> list[list[int]]:
        """Return the numbers of a group's items that have one answer together."""
        found: dict[str, list[int]] = defaultdict(list)
        for number in group:
            found[self.answers[number]].append(number)
        return list(found.values())

    def answers_of(self, by_answer: Sequence[Sequence[int]]) -> str:
        """Return the answers, the first few of them, as a report shows them."""
        answers = " / ".join(f"“{shown(self.items[same[0]].answer, SHOWN)}”" for same in by_answer[:MOST_ANSWERS])
        return answers + (" / …" if len(by_answer) > MOST_ANSWERS else "")

    def where(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Return the lines of items, each once."""
        return tuple(dict.fromkeys(self.lines[number] for number in numbers))


def same_questions(placed: Placed) -> Iterator[Finding]:
    """Give out the questions that have several answers, and the rows that are there more than once."""
    for group in placed.groups(placed.questions):
        by_answer = placed.by_answer(group)
        question = placed.items[group[0]].question
        if len(by_answer) > 1:
            facts = (question, str(len(by_answer)), placed.answers_of(by_answer))
            yield Finding("answers-differ", placed.where(group), facts)
        for same in by_answer:
            if len(same) > 1:
                yield Finding("twice", placed.where(same), (question, str(len(same))))


def same_without_marks(placed: Placed) -> Iterator[Finding]:
    """Give out the questions that only diacritics tell apart and that have different answers."""
    for group in placed.groups(placed.folded):
        wordings = {placed.questions[number]: placed.items[number].question for number in group}
        by_answer = placed.by_answer(group)
        if len(wordings) > 1 and len(by_answer) > 1:
            questions = " / ".join(f"“{shown(question, SHOWN)}”" for question in list(wordings.values())[:MOST_ANSWERS])
            yield Finding("same-without-marks", placed.where(group), (questions, placed.answers_of(by_answer)))


def clashing_wordings(placed: Placed) -> Iterator[Finding]:
    """Give out the wordings that are also the question, or a wording, of an item with a different answer."""
    owners: dict[str, int] = {}
    for number, question in enumerate(placed.questions):
        if not placed.items[number].before:
            owners.setdefault(question, number)
    told: set[tuple[str, int]] = set()
    for number, item in enumerate(placed.items):
        for wording in item.wordings if not item.before else ():
            key = comparable(wording)
            owner = owners.setdefault(key, number)
            is_other = (
                placed.answers[owner] != placed.answers[number] and placed.questions[owner] != placed.questions[number]
            )
            if is_other and (key, number) not in told:
                told.add((key, number))
                facts = (wording, placed.items[owner].answer, item.answer)
                yield Finding("wording-clash", placed.where([owner, number]), facts)
