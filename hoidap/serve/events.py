"""Answers on their way out: several at once, as events or whole, and given up as soon as nobody waits for them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hoidap.bot import Answer

T = TypeVar("T")
PULSE_SECONDS = 10.0  # of silence, after which a comment shows proxies that the stream lives


class GoneError(Exception):
    """Who asked has hung up."""


async def gathered(
    sources: Sequence[AsyncGenerator[str | Answer, None]], pulse: float = PULSE_SECONDS
) -> AsyncGenerator[tuple[int, str | Answer] | None, None]:
    """Yield what comes of several answers with the number of each, until all have ended; None where nothing comes for long.

    What one raises is raised, and the others are closed; so are all where it is closed early.
    """
    # Room for one: where the reader is slow, texts gather behind, at the desk.
    came: asyncio.Queue[tuple[int, str | Answer | Exception]] = asyncio.Queue(1)

    async def pump(number: int, source: AsyncGenerator[str | Answer, None]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await came.put((number, item))
        except Exception as error:  # noqa: BLE001 - it is the reader's
            await came.put((number, error))

    tasks = [asyncio.create_task(pump(number, source)) for number, source in enumerate(sources)]
    left = len(tasks)
    try:
        while left:
            try:
                async with asyncio.timeout(pulse):
                    number, item = await came.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(item, Exception):
                raise item
            left -= isinstance(item, Answer)
            yield number, item
    finally:
        await _end(*tasks)


async def until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what work returns.

    Raises:
        GoneError: who asked has hung up before; the work was cancelled.

    """
    working, gone = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise GoneError
    finally:
        await _end(working, gone)


class EventStream(Response):
    """Events as a response; they are closed when the client hangs up, wherever they are."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Send the events."""
        with contextlib.suppress(GoneError):
            await until_gone(receive, self._write(send))

    async def _write(self, send: Send) -> None:
        async with aclosing(self._events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
