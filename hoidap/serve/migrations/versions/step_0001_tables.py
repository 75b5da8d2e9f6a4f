"""Conversations, turns, the owner's answers, keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "conversations",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("visitor", sa.String, nullable=False),
        sa.Column("bot", sa.String, nullable=False),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("conversations_of_visitor", "conversations", ["visitor", "updated"])
    _make_turns()
    op.create_table(
        "answers",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("bot", sa.String, nullable=False),
        sa.Column("question", sa.String, nullable=False),
        sa.Column("answer", sa.String, nullable=False),
        sa.Column("added", sa.Boolean, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("answers_of_bot", "answers", ["bot", "created"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )


def _make_turns() -> None:
    op.create_table(
        "turns",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column(
            "conversation",
            sa.Integer,
            sa.ForeignKey("conversations.number", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("bot", sa.String, nullable=False),
        sa.Column("question", sa.String, nullable=False),
        sa.Column("answer", sa.String, nullable=False),
        sa.Column("finish_reason", sa.String),
        sa.Column("declined", sa.Boolean, nullable=False),
        sa.Column("corrected", sa.Boolean, nullable=False),
        sa.Column("confidence", sa.Double, nullable=False),
        sa.Column("source", sa.JSON),
        sa.Column("near", sa.JSON, nullable=False),
        sa.Column("rating", sa.Integer, nullable=False),
        sa.Column("comment", sa.String, nullable=False),
        sa.Column("first_seconds", sa.Double),
        sa.Column("seconds", sa.Double),
        sa.Column("created", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("turns_of_bot", "turns", ["bot", "number"])
    op.create_index("turns_by_time", "turns", ["created"])
    op.create_index("turns_by_seconds", "turns", ["seconds", "number"])
