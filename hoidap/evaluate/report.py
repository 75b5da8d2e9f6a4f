"""The answer report: what a run knows, what it gets wrong, when it declines, beside lookup alone."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from hoidap.bot import Bot
from hoidap.data.wordings import AS_WRITTEN, OTHER, Split
from hoidap.evaluate.judge import (
    EMBEDDED,
    WAYS,
    Asked,
    Outcome,
    calibrate,
    judge,
    looked_up_by_meaning,
    lookup_threshold,
    outcome,
    points,
)
from hoidap.evaluate.questions import FAR, NEAR, Question, questions
from hoidap.evaluate.recall import score
from hoidap.ground.confidence import Point
from hoidap.ground.grounds import Grounds, Said

FORMAT = 2
MOST_WRONG = 0.05  # of in-scope questions, unless the owner says otherwise
_MOST_POINTS = 200


def evaluate(
    bot: Bot, split: Split, most_wrong: float = MOST_WRONG, advance: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], Grounds]:
    """Ask a run its exam; return the report, and the grounds with the confidence that it was given.

    Args:
        bot: with grounds.
        split: of the run.
        most_wrong: the share of in-scope questions that may be answered wrongly.
        advance: is called for each answer.

    """
    assert bot.grounds is not None  # noqa: S101 - the exam is about them
    exam = questions(split)
    asked = _ask(bot, bot.grounds, exam, advance)
    grounds, n_set_by = _calibrated(bot.grounds, asked, most_wrong)
    outcomes = _outcomes(grounds, asked, lookup_threshold(grounds, asked, most_wrong))
    if grounds.embeddings and (found := looked_up_by_meaning(bot.grounds, asked, most_wrong)):
        outcomes[EMBEDDED] = list(found)
    reported = [n for n, a in enumerate(asked) if not a.question.calibrates]
    main = _main_kinds(exam)
    in_scope = [n for n in reported if asked[n].question.kind in main and not asked[n].question.is_trained]
    report = {
        "format": FORMAT,
        "items": _section(grounds, [a for a in asked if a.question.kind == AS_WRITTEN]),
        "other_wordings": _section(grounds, [a for a in asked if a.question.kind == OTHER and not a.question.is_trained]),
        "kinds": _kinds(asked, outcomes, reported),
        "in_scope": {"kinds": sorted(main), "count": len(in_scope), **_rates(outcomes, in_scope)},
        "out_of_scope": {
            kind: {"count": len(chosen), **_rates(outcomes, chosen)} if chosen else None
            for kind in (NEAR, FAR)
            for chosen in [[n for n in reported if asked[n].question.kind == kind]]
        },
        "most_wrong": most_wrong,
        "threshold": _finite(grounds.confidence.threshold),  # null: nothing is sure enough
        "set_by": n_set_by,
        "curve": [
            {**asdict(point), "threshold": _finite(point.threshold)}
            for point in _thinned(points(grounds, [asked[n] for n in in_scope]))
        ],
        "asked": [_row(a, {way: came[n] for way, came in outcomes.items()}, grounds) for n, a in enumerate(asked)],
    }
    return report, grounds


def _ask(bot: Bot, grounds: Grounds, exam: Sequence[Question], advance: Callable[[], None]) -> list[Asked]:
    answers = bot.answer_all([q.text for q in exam], bot.sampling(), advance, [q.before for q in exam])
    said = [Said(a.text, a.confidence, a.finish_reason == "stop") for a in answers]
    return [
        Asked(q, s, None if q.item is None else judge(grounds, q.item, s.text)) for q, s in zip(exam, said, strict=True)
    ]


def _calibrated(grounds: Grounds, asked: Sequence[Asked], most_wrong: float) -> tuple[Grounds, int]:
    """Return the grounds with their confidence, and by how many questions its threshold is set."""
    confidence, n_set_by = calibrate(grounds, asked, most_wrong)
    if grounds.embeddings:  # the run may be opened where the extra is missing
        lexical, _ = calibrate(grounds.without_embeddings(), asked, most_wrong)
        grounds = replace(grounds, lexical=lexical)
    return grounds.with_confidence(confidence), n_set_by


def _outcomes(grounds: Grounds, asked: Sequence[Asked], lookup_least: float) -> dict[str, list[str]]:
    """Return by way of answering what it makes of each question."""
    recited = {a.question.item: a.said for a in asked if a.question.kind == AS_WRITTEN}
    return {way: [outcome(grounds, a, way, recited.__getitem__, lookup_least) for a in asked] for way in WAYS}


def _main_kinds(exam: Sequence[Question]) -> set[str]:
    """Return the kinds whose rates stand for all questions in scope: real wordings, or where there are none, variants."""
    held_out = {q.kind for q in exam if q.item is not None and not q.is_trained}
    return {OTHER} if OTHER in held_out else held_out


def _rates(outcomes: Mapping[str, Sequence[str]], chosen: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return for each way of answering the shares of what came."""
    what_came = get_args(Outcome)
    return {way: {what: _share(found, chosen, what) for what in what_came} for way, found in outcomes.items()}


def _share(found: Sequence[str], chosen: Sequence[int], what: str) -> float:
    return sum(found[n] == what for n in chosen) / len(chosen) if chosen else 0.0


def _kinds(asked: Sequence[Asked], outcomes: Mapping[str, Sequence[str]], reported: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for each kind of question in scope, trained or not; of the half that did not calibrate."""
    groups: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for n in reported:
        if asked[n].question.item is not None:
            groups[asked[n].question.kind, asked[n].question.is_trained].append(n)
    return [
        {"kind": kind, "trained": trained, "count": len(chosen), **_rates(outcomes, chosen)}
        for (kind, trained), chosen in groups.items()
    ]


def _section(grounds: Grounds, asked: Sequence[Asked]) -> dict[str, Any]:
    pairs = [(a.said.text, grounds.items[a.question.item].answer) for a in asked if a.question.item is not None]
    scored = score(pairs)
    return {"score": asdict(scored) if scored else None}


def _row(asked: Asked, outcomes: Mapping[str, str], grounds: Grounds) -> dict[str, Any]:
    question = asked.question
    source, closeness = grounds.source(asked.said.text)
    recognised, confidence, near = grounds.recognise(question.text, asked.said)
    return {
        "kind": question.kind, "trained": question.is_trained, "calibrates": question.calibrates, "item": question.item,
        "question": question.text, "wanted": None if question.item is None else grounds.items[question.item].answer,
        "got": asked.said.text, "verdict": asked.verdict, "likelihood": asked.said.likelihood, "source": source,
        "closeness": closeness, "nearest": near[0].number if near else None, "recognised": recognised,
        "confidence": confidence,
        "ways": dict(outcomes),
    }  # fmt: skip


def _thinned(found: Sequence[Point]) -> Sequence[Point]:
    """Return at most so many points as a picture shows, both ends among them."""
    step = -(-len(found) // _MOST_POINTS)
    return [*found[:-1:step], found[-1]]


def _finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return value if math.isfinite(value) else None
