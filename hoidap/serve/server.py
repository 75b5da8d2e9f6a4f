"""The server's process: a connection that takes too long is closed, and who is told to stop finishes its answers first."""

import asyncio
import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from hoidap.errors import RecipeError
from hoidap.serve.desk import Desk
from hoidap.serve.settings import Settings

_HEADER_BYTES = 16 * 1024  # that wait for more; the guard counts them all
_MOST_CONNECTIONS = 1000
_IDLE_SECONDS = 15
_CLOSING_SECONDS = 5  # for what is left of answers to be sent


class Connection(H11Protocol):
    """A connection whose headers have to be there in time: uvicorn would wait for them for ever."""

    seconds = 20.0
    _late: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.access_log = False  # its lines hold addresses as clients wrote them; the guard has its own

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Something of a request has come."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        if self._late:
            self._late.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        is_reading_headers = self.cycle is None or self.cycle.response_complete
        if is_reading_headers and self._late is None:
            self._late = self.loop.call_later(self.seconds, self.transport.close)
        elif not is_reading_headers and self._late:
            self._late.cancel()
            self._late = None


class Server(uvicorn.Server):
    """Told to stop, it refuses questions, finishes those that are here, then closes; told again, it closes at once."""

    def __init__(self, config: uvicorn.Config, desk: Desk, drain_seconds: float) -> None:
        super().__init__(config)
        self._desk, self._drain_seconds = desk, drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as signal has it
        """Take a signal."""
        self.stop()

    def stop(self) -> None:
        """Stop; from any thread."""
        if self._desk.state == "stopping" or self._loop is None:
            self.should_exit = True
            return
        self._desk.stop_taking()
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        async def drain() -> None:
            if not await self._desk.drained(self._drain_seconds):
                await asyncio.to_thread(self._desk.close)  # what is left ends with an error, which can still be sent
            self.should_exit = True

        self._draining = asyncio.get_running_loop().create_task(drain())


def bind(settings: Settings) -> socket.socket:
    """Take the address, before anything is loaded.

    Raises:
        RecipeError: it is taken already, or is none of this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        msg = f"--host {settings.host} --port {settings.port} cannot be taken ({error.strerror}); choose another port"
        raise RecipeError(msg) from None


def make_server(app: ASGIApp, settings: Settings, desk: Desk, **options: Any) -> Server:
    """Return a server for an application; ``options`` are uvicorn's."""

    class Timed(Connection):
        seconds = settings.read_seconds

    config = uvicorn.Config(
        app, settings.host, settings.port, http=Timed, ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, h11_max_incomplete_event_size=_HEADER_BYTES, limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_IDLE_SECONDS, timeout_graceful_shutdown=_CLOSING_SECONDS, **options,
    )  # fmt: skip
    return Server(config, desk, settings.drain_seconds)
