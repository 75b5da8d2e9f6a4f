"""What an answer is worth, and what each way of answering would have made of it: right, wrong or declined."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from hoidap.data.wordings import OTHER, lot
from hoidap.evaluate.questions import Question
from hoidap.ground.confidence import Confidence, Point, curve, fit, threshold
from hoidap.ground.grounds import UNTRAINED, Grounds, Said
from hoidap.text import comparable

Verdict = Literal["exact", "same", "facts", "other", "wrong"]
RIGHT = ("exact", "same", "facts")
Way = Literal["model", "checked", "verbatim", "lookup", "decline-all"]
WAYS: tuple[Way, ...] = get_args(Way)
EMBEDDED = "lookup-embedding"  # one more, where the extra is installed
Outcome = Literal["right", "wrong", "declined"]
_LOOKUP_LEAST = 0.5  # similarity from which lookup answers, where there are too few questions to set it by
_SEED = 11  # of the lots here
_FEWEST_ROWS = 20  # that a confidence is fitted on
_FOLDS = 10  # parts of the items: the questions of each are judged by a confidence that was fitted on the other nine

_Row = tuple[tuple[float, ...], bool]  # a candidate's signals, and whether it is right


@dataclass(frozen=True)
class Asked:
    """A question, what the model said to it, and what that is worth; None where the question is out of scope."""

    question: Question
    said: Said
    verdict: Verdict | None


def judge(grounds: Grounds, number: int, got: str) -> Verdict:
    """Return what an answer is worth where an item's was wanted.

    "exact": to the letter. "same": after normalisation. "facts": nearest to the item's answer, its numbers, prices, dates,
    phones, addresses all there and no others. "other": another item's answer. "wrong": none of these.
    """
    wanted = grounds.items[number].answer
    if got == wanted:
        return "exact"
    if comparable(got) == comparable(wanted):
        return "same"
    if grounds.is_answer(number, got):
        return "facts"
    source, _ = grounds.source(got)
    return "other" if source is not None and not grounds.has_same_answer(source, number) else "wrong"


def calibrate(grounds: Grounds, asked: Sequence[Asked], most_wrong: float) -> tuple[Confidence, int]:
    """Fit the confidence on the calibrating half; return it with its threshold, and by how many items that is set.

    If customers ask as these questions do, the share of wrong answers expected of the next is about ``most_wrong`` at most.
    Of too few none is set: the confidence is then what it was before the exam, and nothing is promised. The questions that
    set it are judged by a confidence that was fitted without their items, so that it has no advantage with them.
    """
    half = [a for a in asked if a.question.calibrates and not a.question.is_trained]
    chosen = _calibrating(asked, most_wrong)
    n_items, shares = _shares(chosen)
    if not _proves(n_items, most_wrong):
        return UNTRAINED.with_threshold(UNTRAINED.threshold if most_wrong else math.inf), 0
    rows = [(_fold(a), _rows(grounds, a)) for a in half]
    fitted = [_fitted(grounds, [rows_ for own, rows_ in rows if own != fold]) for fold in range(_FOLDS)]
    judged = [_judged(grounds.with_confidence(fitted[_fold(a)]), [a])[0] for a in chosen]
    found = curve([sure for sure, _ in judged], [right for _, right in judged], shares)
    all_fitted = _fitted(grounds, [rows_ for _, rows_ in rows])
    return all_fitted.with_threshold(threshold(found, most_wrong, n_items)), n_items


def _fold(asked: Asked) -> int:
    """Return in which part of the questions one is; all of an item's are in one."""
    item = asked.question.item
    return int(_FOLDS * lot(_SEED, asked.question.text if item is None else str(item)))


def _rows(grounds: Grounds, asked: Asked) -> list[_Row]:
    candidates, _ = grounds.candidates(asked.question.text, asked.said)
    return [(candidate.signals, _is_right(grounds, asked.question, candidate.number)) for candidate in candidates]


def _fitted(grounds: Grounds, found: Sequence[Sequence[_Row]]) -> Confidence:
    rows = [row for rows_ in found for row in rows_]
    if len(rows) < _FEWEST_ROWS or len({right for _, right in rows}) == 1:
        return UNTRAINED
    return fit(grounds.signals, np.array([signals for signals, _ in rows]), np.array([right for _, right in rows]))


def _judged(grounds: Grounds, asked: Sequence[Asked]) -> list[tuple[float, bool]]:
    """Return for each question how sure the best candidate is, and whether it is right."""
    found = [(a, *grounds.recognise(a.question.text, a.said)) for a in asked]
    return [(sure, number is not None and _is_right(grounds, a.question, number)) for a, number, sure, _ in found]


def _is_right(grounds: Grounds, question: Question, number: int) -> bool:
    return question.item is not None and grounds.has_same_answer(number, question.item)


def lookup_threshold(grounds: Grounds, asked: Sequence[Asked], most_wrong: float) -> float:
    """Return the similarity from which lookup alone would answer, set by the same rule on the same questions."""
    chosen = _calibrating(asked, most_wrong)
    n_items, shares = _shares(chosen)
    if not _proves(n_items, most_wrong):
        return _LOOKUP_LEAST if most_wrong else math.inf
    nearest = [(a, grounds.questions.nearest(a.question.text, 1)) for a in chosen]
    pairs = [(n[0].similarity, _is_right(grounds, a.question, n[0].number)) if n else (0.0, False) for a, n in nearest]
    return threshold(curve([s for s, _ in pairs], [right for _, right in pairs], shares), most_wrong, n_items)


def _calibrating(asked: Sequence[Asked], most_wrong: float) -> list[Asked]:
    """Return the questions that thresholds are set by: real wordings; where they are too few, any way not trained on."""
    found = [a for a in asked if a.question.calibrates and not a.question.is_trained and a.question.item is not None]
    real = [a for a in found if a.question.kind == OTHER]
    return real if _proves(_shares(real)[0], most_wrong) else found


def _shares(asked: Sequence[Asked]) -> tuple[int, list[float]]:
    """Return the number of items asked for, and what share of all each question is: that of its item, split evenly.

    Items count, not questions: an item not found in one wording is seldom found in another, so two are not twice the proof.
    """
    questions = Counter(a.question.item for a in asked)
    return len(questions), [1 / len(questions) / questions[a.question.item] for a in asked]


def _proves(n_items: int, most_wrong: float) -> bool:
    """Return whether so many items, all answered rightly, would show that no more than this share is wrong."""
    return (n_items + 1) * most_wrong >= 1


def points(grounds: Grounds, asked: Sequence[Asked]) -> list[Point]:
    """Return the curve of answered against wrong."""
    judged = _judged(grounds, asked)
    return curve([sure for sure, _ in judged], [right for _, right in judged])


def outcome(grounds: Grounds, asked: Asked, way: Way, recite: Callable[[int], Said], lookup_least: float) -> Outcome:
    """Return what a way of answering makes of a question.

    Args:
        grounds: with the confidence as calibrated.
        asked: the question and the model's answer.
        way: of answering.
        recite: what the model says to an item's question as written.
        lookup_least: the similarity from which lookup answers.

    """
    if way == "decline-all":
        return "declined"
    if way == "model":
        return "right" if asked.verdict in RIGHT else "wrong"
    text = asked.question.text
    if way == "lookup":
        found = grounds.questions.nearest(text, 1)
        number = found[0].number if found and found[0].similarity >= lookup_least else None
    else:
        number = grounds.decide(text, asked.said, recite if way == "checked" else None).number
    if number is None:
        return "declined"
    return "right" if _is_right(grounds, asked.question, number) else "wrong"


def looked_up_by_meaning(grounds: Grounds, asked: Sequence[Asked], most_wrong: float) -> list[Outcome] | None:
    """Return what comes of questions without a model: the item near by letters and by meaning, set by the same rule.

    None where there are no embeddings, or too few questions to fit a confidence of them on.
    """
    silent = Said("", 0.0)  # comes from no item
    unsaid = [replace(a, said=silent) for a in asked]
    sure = grounds.with_confidence(calibrate(grounds, unsaid, most_wrong)[0])
    return [outcome(sure, a, "verbatim", lambda _: silent, 0.0) for a in unsaid] if sure.embeddings else None
