"""What was asked, as the owner sees it: page by page, in figures, and which questions had no answer."""

import time
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session

from hoidap.serve.conversations import moment
from hoidap.serve.gaps import Asked, Group, group
from hoidap.serve.store import Store, search_of
from hoidap.serve.tables import OwnAnswer, Turn

Filter = Literal["all", "declined", "down", "slow", "corrected"]
MOST_A_PAGE = 200
_MOST_DECLINED = 20_000  # turns that are looked at for what is unanswered, the latest
_MOST_OWN = 5_000  # of the owner's answers that they are compared with, the latest
_DAY = 86_400.0


class CursorError(ValueError):
    """A cursor that no page gave out."""


def asked(
    store: Store, bot: str | None, only: Filter = "all", search: str = "", before: str | None = None, limit: int = 50
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of what was asked, the latest first (of the slow the slowest), and the cursor of the next page.

    Args:
        store: where it is kept.
        bot: of which; None: of all.
        only: which turns.
        search: words that all are in a question or its answer.
        before: the cursor that the page before gave; None: the first page.
        limit: how many, up to ``MOST_A_PAGE``.

    Raises:
        CursorError: ``before`` is none.
        StoreError: it cannot be read now.
    """
    wanted = select(Turn).where(Turn.finish_reason.is_not(None))
    if bot is not None:
        wanted = wanted.where(Turn.bot == bot)
    if only == "down":
        wanted = wanted.where(Turn.rating < 0)
    elif only in {"declined", "corrected"}:
        wanted = wanted.where(Turn.declined if only == "declined" else Turn.corrected)
    values = {}
    if search.strip():
        if (match := search_of(search, columns="question answer")) is None:
            return [], None
        values["match"] = match
        wanted = wanted.where(text("turns.number IN (SELECT rowid FROM turn_words WHERE turn_words MATCH :match)"))
    if only == "slow":
        wanted = wanted.where(Turn.seconds.is_not(None)).order_by(Turn.seconds.desc(), Turn.number.desc())
        if before is not None:
            seconds, number = _slow_cursor(before)
            wanted = wanted.where(or_(Turn.seconds < seconds, (Turn.seconds == seconds) & (Turn.number < number)))
    else:
        wanted = wanted.order_by(Turn.number.desc())
        if before is not None:
            wanted = wanted.where(Turn.number < _cursor(before))
    with store.reading() as session:
        turns = session.scalars(wanted.limit(limit + 1), values).all()
        rows = [_shown(turn) for turn in turns[:limit]]
        if len(turns) <= limit:
            return rows, None
        last = turns[limit - 1]
        return rows, f"{last.seconds!r}_{last.number}" if only == "slow" else str(last.number)


def unanswered(store: Store, bot: str | None) -> list[Group]:
    """Return the questions that a bot declined, grouped by likeness, the largest group first.

    Those to which the owner has written an answer since are left out.

    Raises:
        StoreError: it cannot be read now.
    """
    declined = select(Turn.question, Turn.near, Turn.created).where(Turn.declined)
    written = select(OwnAnswer.question, OwnAnswer.created)
    if bot is not None:
        declined, written = declined.where(Turn.bot == bot), written.where(OwnAnswer.bot == bot)
    with store.reading() as session:
        rows = session.execute(declined.order_by(Turn.number.desc()).limit(_MOST_DECLINED)).all()
        own = session.execute(written.order_by(OwnAnswer.number.desc()).limit(_MOST_OWN)).all()
    found = [Asked(question, tuple(near), created) for question, near, created in rows]
    return group(found, [(question, created) for question, created in own])


def summary(store: Store, bot: str | None, days: float) -> dict[str, Any]:
    """Return the figures of the last days.

    Raises:
        StoreError: it cannot be read now.
    """
    since = [Turn.finish_reason.is_not(None), Turn.created >= time.time() - days * _DAY]
    if bot is not None:
        since.append(Turn.bot == bot)
    counts = {
        "asked": func.count(),
        "declined": func.count().filter(Turn.declined),
        "answered": func.count().filter(~Turn.declined, Turn.finish_reason.in_(("stop", "length"))),
        "corrected": func.count().filter(Turn.corrected),
        "up": func.count().filter(Turn.rating > 0),
        "down": func.count().filter(Turn.rating < 0),
    }
    with store.reading() as session:
        found = session.execute(select(*counts.values()).where(*since)).one()
        figures: dict[str, Any] = dict(zip(counts, found, strict=True))
        timed = [*since, Turn.first_seconds.is_not(None)]
        n = session.scalar(select(func.count()).where(*timed)) or 0
        for name, share in (("median_first_seconds", 0.5), ("p95_first_seconds", 0.95)):
            figures[name] = _at(session, timed, int(share * (n - 1) + 0.5)) if n else None
    return figures | {"days": days}


def note_answer(store: Store, bot: str, questions: Sequence[str], answer: str, key: str, *, added: bool) -> None:
    """Keep that the owner wrote an answer, and to which questions.

    Raises:
        StoreError: it cannot be kept now.
    """
    now = time.time()
    with store.writing() as session:
        for question in questions:
            session.add(OwnAnswer(bot=bot, question=question, answer=answer, added=added, key=key, created=now))


def _at(session: Session, timed: list[Any], place: int) -> float | None:
    return session.scalar(select(Turn.first_seconds).where(*timed).order_by(Turn.first_seconds).offset(place).limit(1))


def _cursor(before: str) -> int:
    if not (before.isascii() and before.isdigit() and len(before) < 19):
        msg = f"the cursor is {before[:40]!r}; give the one that the page before ended with"
        raise CursorError(msg)
    return int(before)


def _slow_cursor(before: str) -> tuple[float, int]:
    seconds, _, number = before.partition("_")
    try:
        return float(seconds), _cursor(number)
    except ValueError:
        msg = f"the cursor is {before[:40]!r}; give the one that the page before ended with"
        raise CursorError(msg) from None


def _shown(turn: Turn) -> dict[str, Any]:
    kept = (
        "id", "bot", "question", "answer", "declined", "corrected", "rating", "comment", "first_seconds", "seconds",
        "confidence", "source", "finish_reason",
    )  # fmt: skip
    return {name: getattr(turn, name) for name in kept} | {"created": moment(turn.created)}
