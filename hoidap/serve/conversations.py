"""A visitor's conversations as they are kept: begun, gone on with, found again, rated, deleted.

Every function is given the visitor, and finds what is theirs alone: another's id is as unknown as one that does not exist.
"""

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from hoidap.errors import HoidapError
from hoidap.prompt import Turn as Said
from hoidap.serve.store import Store, delete_conversations, delete_turns, rewrite_words, search_of
from hoidap.serve.tables import Conversation, Turn
from hoidap.text import fold

MOST_QUESTION, MOST_ANSWER, MOST_COMMENT, MOST_TITLE = 4_000, 32_768, 2_000, 200  # characters
MOST_CONVERSATIONS = 200  # of a visitor; beyond them the one that rested longest is deleted
MOST_TURNS = 200  # of a conversation
MOST_LISTED = 200  # conversations in one list
_TITLE_FROM_QUESTION = 80  # characters
_MOST_REMEMBERED = 20  # turns that are given to the bot
_MOST_NEAR = 10
_WHOLE = ("stop", "length")


class NotFoundError(HoidapError):
    """The visitor has nothing of this id."""


class FullError(HoidapError):
    """The conversation has as many turns as it may."""


@dataclass(frozen=True)
class Past:
    """What a question goes on with."""

    bot: str
    turns: tuple[Said, ...]


@dataclass(frozen=True)
class Begun:
    """A turn whose answer is still to come."""

    conversation: str
    turn: str


@dataclass(frozen=True)
class Outcome:
    """How a turn ended."""

    answer: str
    finish_reason: str
    declined: bool = False
    corrected: bool = False
    confidence: float = 0.0
    source: tuple[str, str] | None = None  # the item's question and answer
    near: Sequence[str] = ()
    first_seconds: float | None = None
    seconds: float | None = None


def hash_of(visitor: str) -> str:
    """Return what a visitor is kept under. The id is 128 random bits: nothing shorter than trying them all finds it."""
    return hashlib.sha256(visitor.encode()).hexdigest()


def past(store: Store, visitor: str, conversation: str, replaces: str | None = None) -> Past:
    """Return the bot of a conversation and its last turns, those before ``replaces``.

    Raises:
        NotFoundError: the visitor has no such conversation, or it no such turn.
        FullError: the conversation takes no more turns.
        StoreError: it cannot be read now.
    """
    with store.reading() as session:
        found = _conversation(session, visitor, conversation)
        if replaces is None:
            _refuse_full(session, found)
        answered = (Turn.conversation == found.number, Turn.finish_reason.in_(_WHOLE), Turn.answer != "")
        wanted = select(Turn.question, Turn.answer).where(*answered)
        if replaces is not None:
            wanted = wanted.where(Turn.number < _turn_of(session, found, replaces).number)
        rows = session.execute(wanted.order_by(Turn.number.desc()).limit(_MOST_REMEMBERED)).all()
        return Past(found.bot, tuple(Said(question, answer) for question, answer in reversed(rows)))


def begin(
    store: Store, visitor: str, bot: str, question: str, conversation: str | None = None, replaces: str | None = None
) -> Begun:
    """Keep a question before it is answered.

    Args:
        store: where.
        visitor: whose it is, as hashed.
        bot: the id of whom it is asked.
        question: as asked.
        conversation: that it goes on with; None begins one.
        replaces: the turn in whose place it is asked; that one and all behind it are deleted.

    Raises:
        NotFoundError: the visitor has no such conversation, or it no such turn.
        FullError: the conversation takes no more turns.
        StoreError: it cannot be kept now.
    """
    now = time.time()
    with store.writing() as session:
        if conversation is None:
            found = _new_conversation(session, visitor, bot, question, now)
        else:
            found = _conversation(session, visitor, conversation)
            if replaces is not None:
                _drop_from(session, found, _turn_of(session, found, replaces), question)
            _refuse_full(session, found)
        found.updated = now
        turn = Turn(id=secrets.token_hex(16), conversation=found.number, bot=bot, question=question, created=now)
        session.add(turn)
        return Begun(found.id, turn.id)


def finish(store: Store, begun: Begun, outcome: Outcome) -> bool:
    """Keep how a turn ended; return False if it was deleted in the meantime.

    Raises:
        StoreError: it cannot be kept now.
    """
    answer = outcome.answer[:MOST_ANSWER]
    with store.writing() as session:
        row = session.execute(
            select(Turn, Conversation.visitor)
            .join(Conversation, Conversation.number == Turn.conversation)
            .where(Turn.id == begun.turn)
        ).one_or_none()
        if row is None:
            return False
        turn, visitor = row
        turn.answer, turn.finish_reason = answer, outcome.finish_reason
        turn.declined, turn.corrected, turn.confidence = outcome.declined, outcome.corrected, outcome.confidence
        turn.source = dict(zip(("question", "answer"), outcome.source, strict=True)) if outcome.source else None
        turn.near = list(outcome.near)[:_MOST_NEAR]
        turn.first_seconds, turn.seconds = outcome.first_seconds, outcome.seconds
        words = {"number": turn.number, "whose": visitor, "question": fold(turn.question), "answer": fold(answer)}
        put = "INSERT INTO turn_words(rowid, whose, question, answer) VALUES (:number, :whose, :question, :answer)"
        session.execute(text(put), words)
        return True


def conversations(store: Store, visitor: str, search: str = "") -> list[dict[str, Any]]:
    """Return a visitor's conversations, the latest first; those alone in which all words of ``search`` are."""
    wanted = select(Conversation.id, Conversation.title, Conversation.updated).where(Conversation.visitor == visitor)
    values = {}
    if search.strip():
        if (match := search_of(search, visitor)) is None:
            return []
        values["match"] = match
        in_turns = (
            "SELECT conversation FROM turns WHERE number IN (SELECT rowid FROM turn_words WHERE turn_words MATCH :match)"
        )
        in_titles = "SELECT rowid FROM title_words WHERE title_words MATCH :match"
        wanted = wanted.where(text(f"conversations.number IN ({in_turns} UNION {in_titles})"))
    with store.reading() as session:
        rows = session.execute(wanted.order_by(Conversation.updated.desc()).limit(MOST_LISTED), values).all()
    return [{"id": id_, "title": title, "updated": moment(updated)} for id_, title, updated in rows]


def conversation(store: Store, visitor: str, id_: str) -> dict[str, Any]:
    """Return a conversation with its turns.

    Raises:
        NotFoundError: the visitor has no such conversation.
        StoreError: it cannot be read now.
    """
    with store.reading() as session:
        found = _conversation(session, visitor, id_)
        turns = session.scalars(select(Turn).where(Turn.conversation == found.number).order_by(Turn.number)).all()
        return {"id": found.id, "title": found.title, "bot": found.bot, "turns": [_shown(turn) for turn in turns]}


def rename(store: Store, visitor: str, id_: str, title: str) -> None:
    """Give a conversation another title.

    Raises:
        NotFoundError: the visitor has no such conversation.
        StoreError: it cannot be kept now.
    """
    with store.writing() as session:
        _retitle(session, _conversation(session, visitor, id_), title)


def rate(store: Store, visitor: str, turn: str, rating: int, comment: str) -> None:
    """Keep what a visitor thinks of an answer; the last time counts.

    Raises:
        NotFoundError: the visitor has no such turn.
        StoreError: it cannot be kept now.
    """
    own = select(Conversation.number).where(Conversation.visitor == visitor)
    with store.writing() as session:
        rated = update(Turn).where(Turn.id == turn, Turn.conversation.in_(own)).values(rating=rating, comment=comment)
        if session.execute(rated.returning(Turn.number)).first() is None:
            raise NotFoundError(_unknown("turn"))


def remove(store: Store, visitor: str, id_: str) -> None:
    """Delete a conversation, from the file too.

    Raises:
        NotFoundError: the visitor has no such conversation.
        StoreError: it cannot be done now.
    """
    with store.writing() as session:
        delete_conversations(session, [_conversation(session, visitor, id_).number])
        rewrite_words(session)
    store.empty_log()


def forget(store: Store, visitor: str) -> int:
    """Delete all that is kept of a visitor, from the file too; return how many conversations that was.

    Raises:
        StoreError: it cannot be done now.
    """
    with store.writing() as session:
        numbers = list(session.scalars(select(Conversation.number).where(Conversation.visitor == visitor)))
        delete_conversations(session, numbers)
        if numbers:
            rewrite_words(session)
    store.empty_log()
    return len(numbers)


def moment(seconds: float) -> str:
    """Return a time as JSON has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def title_of(question: str) -> str:
    """Return what a conversation is called that begins with a question."""
    flat = " ".join(question.split())
    return flat if len(flat) <= _TITLE_FROM_QUESTION else flat[: _TITLE_FROM_QUESTION - 1].rstrip() + "…"


def _conversation(session: Session, visitor: str, id_: str) -> Conversation:
    found = session.scalar(select(Conversation).where(Conversation.id == id_, Conversation.visitor == visitor))
    if found is None:
        raise NotFoundError(_unknown("conversation"))
    return found


def _turn_of(session: Session, found: Conversation, id_: str) -> Turn:
    turn = session.scalar(select(Turn).where(Turn.id == id_, Turn.conversation == found.number))
    if turn is None:
        raise NotFoundError(_unknown("turn"))
    return turn


def _refuse_full(session: Session, found: Conversation) -> None:
    count = session.scalar(select(func.count()).where(Turn.conversation == found.number)) or 0
    if count >= MOST_TURNS:
        msg = f"the conversation has {count} turns; it takes {MOST_TURNS}: begin another"
        raise FullError(msg)


def _unknown(what: str) -> str:
    return f"there is no {what} of this id, or no longer"


def _new_conversation(session: Session, visitor: str, bot: str, question: str, now: float) -> Conversation:
    """Begin a conversation; a visitor who has as many as there may be loses the one that rested longest."""
    own = select(Conversation.number).where(Conversation.visitor == visitor).order_by(Conversation.updated.desc())
    if beyond := list(session.scalars(own.offset(MOST_CONVERSATIONS - 1))):
        delete_conversations(session, beyond)
    found = Conversation(
        id=secrets.token_hex(16), visitor=visitor, bot=bot, title=title_of(question), created=now, updated=now
    )
    session.add(found)
    session.flush()
    _put_title(session, found)
    return found


def _drop_from(session: Session, found: Conversation, turn: Turn, question: str) -> None:
    """Delete a turn and all behind it; a title that was the first question becomes the new one."""
    behind = select(Turn.number).where(Turn.conversation == found.number, Turn.number >= turn.number)
    first = session.scalar(select(func.min(Turn.number)).where(Turn.conversation == found.number))
    is_named_so = first == turn.number and found.title == title_of(turn.question)
    delete_turns(session, list(session.scalars(behind)))
    if is_named_so:
        _retitle(session, found, title_of(question))


def _retitle(session: Session, found: Conversation, title: str) -> None:
    found.title = title
    session.execute(text("DELETE FROM title_words WHERE rowid = :number"), {"number": found.number})
    _put_title(session, found)


def _put_title(session: Session, found: Conversation) -> None:
    words = {"number": found.number, "whose": found.visitor, "title": fold(found.title)}
    session.execute(text("INSERT INTO title_words(rowid, whose, title) VALUES (:number, :whose, :title)"), words)


def _shown(turn: Turn) -> dict[str, Any]:
    kept = ("id", "question", "answer", "declined", "corrected", "confidence", "source", "near", "rating", "comment")
    shown = {name: getattr(turn, name) for name in kept}
    return shown | {"finish_reason": turn.finish_reason or "cancelled", "created": moment(turn.created)}
