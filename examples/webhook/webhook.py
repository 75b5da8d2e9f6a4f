"""Answers customers who write on Zalo OA or Facebook Messenger with a bot of ``hoidap serve``: see README.md.

A platform's event is checked, queued and acknowledged at once; then the bot is asked, and its answer sent. Whatever
customers write and whatever opens something stays out of the log.
"""  # noqa: INP001

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import uvicorn
from messages import Platform, loads
from messenger import Messenger
from relay import Bot, Relay
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from zalo import Tokens, Zalo

PORT = 8100
_MOST_BODY = 1024 * 1024
_BODY_SECONDS = 10.0
_log = logging.getLogger("webhook")


@dataclass(frozen=True)
class Settings:
    """Where the bot is, and where customers write."""

    bot: Bot
    zalo: Zalo | None
    messenger: Messenger | None


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Take the settings from the environment.

    Raises:
        ValueError: the message names every variable that is missing.
    """
    hoidap = ("HOIDAP_KEY", "HOIDAP_BOT")
    zalo = ("ZALO_APP_ID", "ZALO_APP_SECRET", "ZALO_OA_SECRET", "ZALO_REFRESH_TOKEN", "ZALO_TOKEN_FILE")
    messenger = ("MESSENGER_PAGE_ID", "MESSENGER_PAGE_TOKEN", "MESSENGER_APP_SECRET", "MESSENGER_VERIFY_TOKEN")
    found = {name: environment.get(name, "").strip() for name in (*hoidap, *zalo, *messenger)}
    used = [names for names in (zalo, messenger) if any(found[name] for name in names)]
    missing = [name for name in (*hoidap, *(name for names in used for name in names)) if not found[name]]
    if not used:
        missing += ["and those of a platform: " + ", ".join(zalo) + "; or " + ", ".join(messenger)]
    if missing:
        msg = f"missing in the environment: {', '.join(missing)}"
        raise ValueError(msg)
    oa = page = None
    if zalo in used:
        file = Path(found["ZALO_TOKEN_FILE"])
        if not os.access(file.parent, os.W_OK):
            msg = (
                f"ZALO_TOKEN_FILE is {str(file)!r}: its folder has to be there, and this user has to be able to write to it"
            )
            raise ValueError(msg)
        tokens = Tokens(found["ZALO_APP_ID"], found["ZALO_APP_SECRET"], found["ZALO_REFRESH_TOKEN"], file)
        oa = Zalo(found["ZALO_APP_ID"], found["ZALO_OA_SECRET"], tokens)
    if messenger in used:
        page = Messenger(*(found[name] for name in messenger))
    url = environment.get("HOIDAP_URL", "").strip() or "http://127.0.0.1:8000"
    return Settings(Bot(url.rstrip("/"), found["HOIDAP_KEY"], found["HOIDAP_BOT"]), oa, page)


def make_app(
    settings: Settings,
    client: httpx2.AsyncClient | None = None,
    clock: Callable[[], float] = time.time,
    pauses: tuple[float, ...] = (1.0, 4.0),
) -> Starlette:
    """Return the application; its ``state.relay`` is what works behind it."""
    client = client or httpx2.AsyncClient(trust_env=False)
    relay = Relay(settings.bot, client, clock, pauses)

    async def receive(request: Request, platform: Platform | None) -> Response:
        if platform is None:
            return PlainTextResponse("not set up\n", 404)
        body = await _read(request)
        if body is None:
            return PlainTextResponse("too large, or too slow\n", 413, {"Connection": "close"})
        event = loads(body)
        if event == {} and platform is settings.zalo:
            return PlainTextResponse("ok\n")  # Zalo tries an address so, unsigned, before it takes it
        headers = {name: request.headers.getlist(name) for name in request.headers}
        if not platform.is_signed(headers, body, event):
            _log.warning("%s: a request without the platform's signature", platform.name)
            return PlainTextResponse("the signature is missing or wrong\n", 403)
        if not all([relay.take(platform, message) for message in platform.messages(event)]):  # noqa: C419 - take every one
            return PlainTextResponse("full\n", 503)  # the platform sends it again
        return PlainTextResponse("ok\n")

    async def zalo(request: Request) -> Response:
        return await receive(request, settings.zalo)

    async def messenger(request: Request) -> Response:
        if request.method == "POST":
            return await receive(request, settings.messenger)
        challenge = settings.messenger and settings.messenger.challenge(request.query_params)
        return PlainTextResponse(challenge) if challenge else PlainTextResponse("not for you\n", 403)

    async def health(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with client, relay.working():
            yield

    routes = [
        Route("/zalo", zalo, methods=["POST"]),
        Route("/messenger", messenger, methods=["GET", "POST"]),
        Route("/health", health),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.relay = relay
    return app


async def _read(request: Request) -> bytes | None:
    """Return the body, None if it is too large or does not come."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MOST_BODY:
                    return None
    except (TimeoutError, ClientDisconnect):
        return None
    return bytes(body)


def main() -> None:
    """Serve on loopback, behind the proxy that has the certificate."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        settings = read_settings(os.environ)
    except ValueError as error:
        sys.exit(str(error))
    # No access log: Meta writes the verify token into an address.
    uvicorn.run(make_app(settings), port=PORT, access_log=False, server_header=False, limit_concurrency=200)


if __name__ == "__main__":
    main()
