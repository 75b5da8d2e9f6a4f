"""Where a server keeps what it was asked: one SQLite file that several threads, and other processes, read and write.

It is short and synchronous; who calls it from an event loop does so in a thread. Whatever keeps it from its work (a disk
that is full, a file that is locked) is a StoreError, and an answer goes on without it. What is deleted is gone from the
file: freed pages are overwritten, the full-text indexes rewritten, the write-ahead log emptied.
"""

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, Select, create_engine, delete, event, exc, exists, select, text
from sqlalchemy.orm import Session

from hoidap.errors import StoreError
from hoidap.serve.tables import Conversation, Turn
from hoidap.text import fold

_HOUR, _DAY = 3_600.0, 86_400.0
_PAGE_BYTES = 4096
_AT_ONCE = 1000  # rows deleted in one step
_MOST_WORDS = 12  # of a search
_MOST_SEARCHED = 200  # characters of it
_WORD = re.compile(r"[^\W_]+")
_BUGS = (exc.IntegrityError, exc.ProgrammingError, exc.DataError)  # nothing that a full disk or a lock would raise
_log = logging.getLogger(__name__)


class Store:
    """An open file. Any thread may use it.

    Args:
        engine: of reads; each is one snapshot.
        keep_days: how long what was asked is kept; None: for ever.
        busy_seconds: how long to wait for another that writes.
    """

    def __init__(self, engine: Engine, keep_days: float | None, busy_seconds: float) -> None:
        self._engine = engine
        self._busy_seconds = busy_seconds
        self._turn = threading.Lock()  # to write: SQLite would look again and again whether it is our turn
        self._writer = engine.execution_options(writes=True)
        self._keep_days = keep_days
        self._tidied = -_DAY  # never
        self._is_log_due = False
        self._is_closed = threading.Event()

    @classmethod
    def open(
        cls, path: Path, *, keep_days: float | None = None, busy_seconds: float = 2.0, most_bytes: int = 8 * 2**30
    ) -> "Store":
        """Open a file, making it or bringing it up to date first, and delete what is older than ``keep_days``.

        Args:
            path: of the file; only its owner may read it.
            keep_days: how long what was asked is kept; None: for ever.
            busy_seconds: how long to wait for another process that writes.
            most_bytes: how large the file may get; then it counts as full.

        Raises:
            StoreError: it cannot be read or written, is no database, or was written by a newer hoidap.
        """
        with _naming(path):
            _make_private(path)
            store = cls(_engine(path, busy_seconds, most_bytes), keep_days, busy_seconds)
            try:
                with store._writer.begin() as connection:
                    _migrate(connection, path)
                store.tidy()
            except BaseException:
                store.close()
                raise
        threading.Thread(target=store._tidy_by_the_hour, name="store", daemon=True).start()
        return store

    def close(self) -> None:
        """Close the file; what is written is in it."""
        self._is_closed.set()
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Give a session that reads one state of the file."""
        with _naming(), Session(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Give a session whose changes are made together at its end, or not at all.

        Raises:
            StoreError: another writes for too long, or it cannot be written.
        """
        if not self._turn.acquire(timeout=self._busy_seconds):
            msg = f"what the server keeps is being written for {self._busy_seconds:g} seconds; ask again in a moment"
            raise StoreError(msg)
        try:
            with _naming(), Session(self._writer) as session, session.begin():
                yield session
        finally:
            self._turn.release()

    def tidy(self) -> None:
        """Do what is due: once a day, delete what was kept for long enough; empty a log that could not be emptied.

        It is done when the file is opened, and then by the hour.

        Raises:
            StoreError: it cannot be done now.
        """
        if self._keep_days is not None and time.monotonic() - self._tidied >= _DAY:
            self.delete_before(time.time() - self._keep_days * _DAY)
            self._tidied = time.monotonic()
        if self._is_log_due:
            self.empty_log()

    def _tidy_by_the_hour(self) -> None:
        while not self._is_closed.wait(_HOUR):
            try:
                self.tidy()
            except StoreError as error:  # tried again in an hour
                _log.warning("what is due to be deleted could not be: %s", error)

    def delete_before(self, moment: float) -> int:
        """Delete the turns before a moment, and conversations without any left; return how many turns."""
        n_turns = n_conversations = 0
        wanted = select(Turn.number).where(Turn.created < moment).limit(_AT_ONCE)
        while old := self._delete(wanted, delete_turns):
            n_turns += old
        has_turns = exists().where(Turn.conversation == Conversation.number)
        empty = select(Conversation.number).where(Conversation.updated < moment, ~has_turns)
        while gone := self._delete(empty.limit(_AT_ONCE), delete_conversations):
            n_conversations += gone
        if n_turns or n_conversations:
            with self.writing() as session:
                rewrite_words(session)
            self.empty_log()
        return n_turns

    def _delete(self, wanted: Select[int], delete_all: Callable[[Session, list[int]], None]) -> int:
        """Delete some, so that others get to write in between; return how many."""
        with self.writing() as session:
            numbers = list(session.scalars(wanted))
            delete_all(session, numbers)
        return len(numbers)

    def empty_log(self) -> None:
        """Move what the write-ahead log holds into the file, and empty it; later, where somebody reads just now."""
        self._is_log_due = True
        with _naming(), self._engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None  # noqa: S101 - it is connected
            self._is_log_due = bool(raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])


def delete_turns(session: Session, numbers: list[int]) -> None:
    """Delete turns, and their words."""
    for some in _parts(numbers):
        session.execute(text("DELETE FROM turn_words WHERE rowid = :number"), [{"number": number} for number in some])
        session.execute(delete(Turn).where(Turn.number.in_(some)))


def delete_conversations(session: Session, numbers: list[int]) -> None:
    """Delete conversations with their turns, and the words of both."""
    for some in _parts(numbers):
        delete_turns(session, list(session.scalars(select(Turn.number).where(Turn.conversation.in_(some)))))
        session.execute(text("DELETE FROM title_words WHERE rowid = :number"), [{"number": number} for number in some])
        session.execute(delete(Conversation).where(Conversation.number.in_(some)))


def rewrite_words(session: Session) -> None:
    """Write the full-text indexes anew: FTS5 only marks what is deleted, and its words would stay in the file."""
    for table in ("turn_words", "title_words"):
        session.execute(text(f"INSERT INTO {table}({table}) VALUES ('optimize')"))  # noqa: S608 - a name of ours


def search_of(typed: str, whose: str | None = None, columns: str = "") -> str | None:
    """Return what FTS5 is asked to find all words typed, the last one perhaps unfinished; None if there is no word.

    Every word is a quoted string, so nothing that was typed is taken for FTS5's own syntax.

    Args:
        typed: by a visitor or the owner.
        whose: the visitor to whose words the search is narrowed.
        columns: those searched, parted by spaces; by default all.
    """
    words = _WORD.findall(fold(typed[:_MOST_SEARCHED]))[:_MOST_WORDS]
    if not words:
        return None
    wanted = " ".join(f'"{word}"' for word in words) + "*"
    narrowed = f"{{{columns}}} : ({wanted})" if columns else f"({wanted})"
    return narrowed if whose is None else f'whose : "{whose}" AND {narrowed}'


def _parts(numbers: list[int]) -> Iterator[list[int]]:
    return (numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE))


def _make_private(path: Path) -> None:
    """Make the file if it is not there, and keep everybody but its owner from reading it; SQLite's others follow suit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600))
    path.chmod(0o600)


def _engine(path: Path, busy_seconds: float, most_bytes: int) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": busy_seconds},
        pool_size=4,
        max_overflow=12,
        pool_timeout=max(1.0, 2 * busy_seconds),
    )

    @event.listens_for(engine, "connect")
    def prepare(raw: sqlite3.Connection, _record: Any) -> None:
        raw.isolation_level = None  # sqlite3 begins no transactions of its own: `begin` below does
        mode = raw.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":  # some network drives
            _log.info("%s has the journal mode %s: reading waits for writing", path, mode)
        for pragma in ("synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON", "trusted_schema = OFF"):
            raw.execute(f"PRAGMA {pragma}")
        raw.execute(f"PRAGMA max_page_count = {max(1, most_bytes // _PAGE_BYTES)}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A write that began as a read could not wait for another's: SQLite refuses it at once.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _migrate(connection: Connection, path: Path) -> None:
    """Take the steps that the file lacks."""
    config = Config()
    config.set_main_option("script_location", "hoidap.serve:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    steps = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    at = MigrationContext.configure(connection).get_current_revision()
    if at is not None and at not in steps:
        msg = (
            f"{path} is at step {at!r}, this hoidap knows {', '.join(sorted(steps))}: a newer hoidap wrote it; install that"
        )
        raise StoreError(msg)
    command.upgrade(config, "head")


@contextmanager
def _naming(path: Path | None = None) -> Iterator[None]:
    """Turn what a full disk, a lock or a damaged file raises into a StoreError."""
    try:
        yield
    except _BUGS:
        raise
    except (exc.DatabaseError, exc.TimeoutError, sqlite3.DatabaseError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        where = "what the server keeps" if path is None else str(path)
        advice = "make room, end what locks it, or name another file"
        msg = f"{where} cannot be read or written ({cause}); {advice}"
        raise StoreError(msg) from error
