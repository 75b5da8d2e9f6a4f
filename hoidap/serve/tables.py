"""What a server keeps, as tables: conversations with their turns, the owner's answers, keys.

The full-text indexes are tables of SQLite's own kind, made in migrations/: ``turn_words`` and ``title_words``.
"""

from sqlalchemy import JSON, ForeignKey, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_NUMBERED = {"sqlite_autoincrement": True}  # a number is never given twice


class Base(DeclarativeBase):
    """What all tables share."""


class Conversation(Base):
    """What a visitor asked in a row."""

    __tablename__ = "conversations"

    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)  # 32 hexadecimal digits, random: what the page knows it by
    visitor: Mapped[str]  # SHA-256 of what the visitor's page sends, which is not kept
    bot: Mapped[str]
    title: Mapped[str]
    created: Mapped[float]  # seconds since 1970, like all times here
    updated: Mapped[float]

    __table_args__ = (Index("conversations_of_visitor", "visitor", "updated"), _NUMBERED)


class Turn(Base):
    """A question and what was answered."""

    __tablename__ = "turns"

    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    conversation: Mapped[int] = mapped_column(ForeignKey("conversations.number", ondelete="CASCADE"), index=True)
    bot: Mapped[str]
    question: Mapped[str]
    answer: Mapped[str] = mapped_column(default="")
    finish_reason: Mapped[str | None]  # None until the answer has ended, and where the server did not live to see it
    declined: Mapped[bool] = mapped_column(default=False)
    corrected: Mapped[bool] = mapped_column(default=False)
    confidence: Mapped[float] = mapped_column(default=0.0)
    source: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))  # the item: question and answer
    near: Mapped[list[str]] = mapped_column(JSON, default=list)  # the questions nearest to it
    rating: Mapped[int] = mapped_column(default=0)  # -1, 0, 1
    comment: Mapped[str] = mapped_column(default="")
    first_seconds: Mapped[float | None]  # until the answer's first text
    seconds: Mapped[float | None]  # until its end
    created: Mapped[float]

    __table_args__ = (
        Index("turns_of_bot", "bot", "number"),
        Index("turns_by_time", "created"),
        Index("turns_by_seconds", "seconds", "number"),
        _NUMBERED,
    )


class OwnAnswer(Base):
    """That the owner wrote an answer: what is served stands in the run's folder, this says when and by whose key."""

    __tablename__ = "answers"

    number: Mapped[int] = mapped_column(primary_key=True)
    bot: Mapped[str]
    question: Mapped[str]
    answer: Mapped[str]
    added: Mapped[bool]  # False: it corrects an item
    key: Mapped[str]  # the id of the key that it was written with
    created: Mapped[float]

    __table_args__ = (Index("answers_of_bot", "bot", "created"), _NUMBERED)


class StoredKey(Base):
    """A key by its public part; of its secret the hash alone."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[bytes]
    name: Mapped[str]
    role: Mapped[str]
    created: Mapped[float]
