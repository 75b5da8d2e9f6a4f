"""Full-text search over what was asked, what was answered, and the titles.

The texts are folded by hoidap before they come here (SQLite's own folding leaves đ as it is), so the tokenizer folds
nothing. ``whose`` narrows a visitor's search to their own words within the index.
"""

import sqlalchemy as sa
from alembic import op

from hoidap.text import fold

revision = "0002"
down_revision = "0001"

_TOKENIZE = "tokenize = 'unicode61 remove_diacritics 0'"


def upgrade() -> None:
    """Make the indexes, and fill them with what is there."""
    op.execute(f"CREATE VIRTUAL TABLE turn_words USING fts5(whose, question, answer, {_TOKENIZE})")
    op.execute(f"CREATE VIRTUAL TABLE title_words USING fts5(whose, title, {_TOKENIZE})")
    here = op.get_bind()
    turns = here.execute(
        sa.text(
            "SELECT t.number, c.visitor, t.question, t.answer FROM turns t "
            "JOIN conversations c ON c.number = t.conversation WHERE t.finish_reason IS NOT NULL"
        )
    )
    put = sa.text("INSERT INTO turn_words(rowid, whose, question, answer) VALUES (:number, :whose, :question, :answer)")
    for number, whose, question, answer in turns:
        here.execute(put, {"number": number, "whose": whose, "question": fold(question), "answer": fold(answer)})
    put = sa.text("INSERT INTO title_words(rowid, whose, title) VALUES (:number, :whose, :title)")
    for number, whose, title in here.execute(sa.text("SELECT number, visitor, title FROM conversations")):
        here.execute(put, {"number": number, "whose": whose, "title": fold(title)})
