"""An answer on its way to a visitor's page: events as they come, and the turn kept however it ends.

The first event, which names the turn, waits a moment for the desk, so that a question which it refuses is answered with a
status of its own; but not for the first word, which what is checked first has late: who stops before it knows the turn.
Who asked and went away stops the answer; what was written until then is kept.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hoidap.bot import Answer
from hoidap.errors import StoreError
from hoidap.serve.conversations import Begun, FullError, NotFoundError, Outcome, begin, finish
from hoidap.serve.events import PULSE_SECONDS
from hoidap.serve.routes import RETRY_SECONDS, failure, told_of
from hoidap.serve.store import Store
from hoidap.serve.wire import event

_PULSE = b": \n\n"
_REFUSED_SECONDS = (
    0.2  # by when a desk has refused what it refuses, unless it is amid a long step; then an event tells of it
)
_PATIENCE_SECONDS = 10.0  # for what is being kept, and what is being sent, once nobody waits for it
_CANCELLED = Outcome("", "cancelled")
_log = logging.getLogger(__name__)

Piece = str | Answer | Exception


@dataclass(frozen=True)
class Asked:
    """What is answered, for whom, and where it is kept."""

    store: Store
    visitor: str
    bot: str
    question: str
    conversation: str | None
    replaces: str | None
    contact: str
    unstored: Callable[[], None]  # is told where it could not be kept


class Reply(Response):
    """The response to a question.

    Args:
        pieces: of the desk.
        asked: what is answered.
        pulse: seconds of silence after which something is sent, if it be nothing.
    """

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[str | Answer, None], asked: Asked, pulse: float = PULSE_SECONDS) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._asked = asked
        self._pulse = pulse
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._is_gone = False
        self._has_started = False
        self._begun: Begun | None = None
        self._is_lost = False  # it could not be kept
        self._is_over = False  # how it ended is kept, or was tried to
        self._texts: list[str] = []
        self._asked_at = time.monotonic()
        self._first_at: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Send the answer, until it ends or nobody reads it."""
        work = asyncio.create_task(self._answer(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Told, not cancelled: a turn that a thread is just keeping would be lost sight of.
            self._is_gone = True
            self._queue.put_nowait(None)
            gone.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait((work, gone), timeout=_PATIENCE_SECONDS)
                if not work.done():  # it sends to somebody who does not read
                    work.cancel()
                    await asyncio.wait((work, gone))
        if not work.cancelled():
            await work

    async def _answer(self, send: Send) -> None:
        reading = asyncio.create_task(_read(self._pieces, self._queue))
        outcome: Outcome | None = _CANCELLED
        try:
            outcome = await self._pass_on(send)
        except OSError:  # nobody reads
            pass
        finally:
            reading.cancel()
            await asyncio.wait((reading,))
            if outcome is not None:
                await self._keep_end(outcome)

    async def _pass_on(self, send: Send) -> Outcome | None:
        """Send what the desk gives; return how it ended, None where that is kept already or is nothing to keep."""
        while True:
            piece = await self._next()
            if self._is_gone:
                return _CANCELLED
            if isinstance(piece, Exception) and not self._has_started:
                await self._refuse(piece, send)
                return None
            await self._start(send)
            if piece is None:
                await send({"type": "http.response.body", "body": _PULSE, "more_body": True})
            elif isinstance(piece, str):
                self._add(piece)
                await self._send(send, {"type": "text", "text": piece})
            else:
                await self._end(piece, send)
                return None

    async def _next(self) -> Piece | None:
        """Return what comes next; None where nothing came for a while."""
        try:
            async with asyncio.timeout(self._pulse if self._has_started else min(self._pulse, _REFUSED_SECONDS)):
                return await self._queue.get()
        except TimeoutError:
            return None

    def _add(self, text: str) -> None:
        if self._first_at is None:
            self._first_at = time.monotonic()
        self._texts.append(text)

    async def _start(self, send: Send) -> None:
        if self._has_started:
            return
        await self._keep_begin()
        self._has_started = True
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        turn = {
            "type": "turn",
            "conversation": self._begun.conversation if self._begun else self._asked.conversation,
            "turn": self._begun.turn if self._begun else None,
            "stored": self._begun is not None,
        }
        await self._send(send, turn)

    async def _end(self, piece: Answer | Exception, send: Send) -> None:
        """Keep how it ended, then tell it."""
        outcome = _outcome(piece)
        is_kept = await self._keep_end(outcome)
        told: dict[str, Any]
        if isinstance(piece, Exception):
            status, body = told_of(piece)
            retry = RETRY_SECONDS if status == 503 else None
            told = {"type": "error", "message": body.message, "code": body.code, "retry_after": retry}
        else:
            told = {
                "type": "end",
                "finish_reason": outcome.finish_reason,
                "declined": outcome.declined,
                "corrected": outcome.corrected,
                "confidence": outcome.confidence,
                "source": _named(outcome.source),
                "near": list(outcome.near),
                "contact": self._asked.contact or None if outcome.declined else None,
            }
        await self._send(send, told | {"stored": is_kept})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _refuse(self, error: Exception, send: Send) -> None:
        response = failure(error)
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": bytes(response.body)})

    async def _send(self, send: Send, told: dict[str, Any]) -> None:
        await send({"type": "http.response.body", "body": event(told), "more_body": True})

    async def _keep_begin(self) -> None:
        asked = self._asked
        to_keep = (asked.visitor, asked.bot, asked.question, asked.conversation, asked.replaces)
        try:
            self._begun = await run_sync(begin, asked.store, *to_keep)
        except (StoreError, NotFoundError, FullError) as error:  # the last two: deleted or filled in the meantime
            self._lose(error)

    async def _keep_end(self, outcome: Outcome) -> bool:
        """Keep how it ended, the first time; return whether it is kept."""
        if self._is_over:
            return False
        self._is_over = True
        if self._begun is None and not self._is_lost:  # gone before the first word
            await self._keep_begin()
        if self._begun is None:
            return False
        timed = replace(
            outcome,
            answer=outcome.answer or "".join(self._texts),
            first_seconds=None if self._first_at is None else self._first_at - self._asked_at,
            seconds=time.monotonic() - self._asked_at,
        )
        try:
            return await run_sync(finish, self._asked.store, self._begun, timed)
        except StoreError as error:
            self._lose(error)
            return False

    def _lose(self, error: Exception) -> None:
        self._is_lost = True
        _log.warning("a turn could not be kept: %s", error)
        self._asked.unstored()


async def _gone(receive: Receive) -> None:
    """Return when who asked has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(pieces: AsyncGenerator[str | Answer, None], queue: asyncio.Queue[Piece | None]) -> None:
    async with aclosing(pieces):
        try:
            async for piece in pieces:
                queue.put_nowait(piece)
        except Exception as error:  # noqa: BLE001 - told to whoever reads the queue
            queue.put_nowait(error)


def _outcome(piece: Answer | Exception) -> Outcome:
    if isinstance(piece, Exception):
        return Outcome("", "error")
    source = None if piece.source is None else (piece.source.question, piece.source.answer)
    near = tuple(item.question for item in piece.near)
    reason, sure = piece.finish_reason, piece.confidence
    return Outcome(piece.text, reason, piece.is_declined, piece.is_corrected, sure, source, near)


def _named(source: tuple[str, str] | None) -> dict[str, str] | None:
    return None if source is None else {"question": source[0], "answer": source[1]}
