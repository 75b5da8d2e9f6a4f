"""What stands before every route: who may ask, by which name, from which site, how much and how often.

It is one ASGI application around the others, and decides by what came over the wire (``scope["path"]``, the raw Host),
never by an address put together from it. Bodies are small, so they are read here, whole and in time, before a route sees
one.
"""

import asyncio
import contextlib
import ipaddress
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio.to_thread
from prometheus_client import Counter
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hoidap.errors import StoreError
from hoidap.serve.bench import traced
from hoidap.serve.events import GoneError
from hoidap.serve.keys import Key, Keys
from hoidap.serve.settings import Settings, is_loopback
from hoidap.serve.wire import ErrorBody, error_response

T = TypeVar("T")
_HOST = re.compile(rb"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_KEY = re.compile(rb"[Bb]earer +([\x21-\x7e]{1,200}) *")
_GRACE_SECONDS = 30.0  # for an answer to be sent, once it is there
_MOST_HEADERS = 64
_MOST_HEADER_BYTES = 16 * 1024
_MOST_BUCKETS = 10_000  # of addresses and keys that asked lately
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Hoidap-Visitor",
    "Access-Control-Max-Age": "600",
}
_SECURITY = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_PASSED_ON = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"})
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_log = logging.getLogger(__name__)


class _AnsweredError(Exception):
    """A request that is answered here, and goes no further."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def _refusal(
    status: int, message: str, code: str, headers: dict[str, str] | None = None, kind: str = "invalid_request_error"
) -> _AnsweredError:
    return _AnsweredError(error_response(status, ErrorBody(message=message, type=kind, param=None, code=code), headers))


class Rate:
    """So many requests a minute of each name; a burst of half of them at once. Names that asked long ago are forgotten."""

    def __init__(self, a_minute: float, most: int = _MOST_BUCKETS, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_second, self._burst = a_minute / 60, max(1.0, a_minute / 2)
        self._most, self._clock = most, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how many are left, and when that was

    def wait(self, name: str) -> float:
        """Count a request; return 0, or the seconds after which it may come again."""
        now = self._clock()
        left, at = self._left.pop(name, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._a_second)
        is_allowed = left >= 1
        self._left[name] = (left - is_allowed, now)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return 0.0 if is_allowed else (1 - left) / self._a_second


class Guard:
    """Stands around an application.

    Args:
        app: what is guarded.
        settings: what is allowed.
        keys: those that there are.
        requests: counts requests by method, route and status.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys, requests: Counter) -> None:
        self._app, self._settings, self._keys, self._requests = app, settings, keys, requests
        self._of_addresses = Rate(settings.requests_a_minute)
        self._of_keys = Rate(settings.requests_a_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._guard(scope, receive, send)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, request_id = time.monotonic(), f"req_{secrets.token_hex(12)}"
        answered = _Answered(send, request_id)
        try:
            async with asyncio.timeout(self._settings.read_seconds + self._settings.answer_seconds + _GRACE_SECONDS):
                try:
                    body = await self._admit(scope, receive, answered)
                    await self._app(scope, _again(body, receive), answered)
                except _AnsweredError as early:
                    await early.response(scope, receive, answered)
        except GoneError:
            answered.status = 499  # nobody reads it; so it is counted elsewhere too
        except TimeoutError:
            await self._fail(scope, receive, answered, 503, "the answer took longer than it may; ask again in a moment")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged here, without what was asked
            _log.error("%s failed: %s", request_id, traced(error))
            await self._fail(scope, receive, answered, 500, "the server failed at this; its log has why")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "other")
        self._requests.labels(method, route, str(answered.status)).inc()
        took = (time.monotonic() - began) * 1000
        # The route and not the path: nothing that a client wrote comes into the log.
        _log.info("%s %s %s %d in %.0f ms", request_id, method, route, answered.status, took)

    async def _fail(self, scope: Scope, receive: Receive, answered: "_Answered", status: int, message: str) -> None:
        if not answered.status:
            body = ErrorBody(message=message, type="server_error", param=None, code=None)
            await error_response(status, body)(scope, receive, answered)

    async def _admit(self, scope: Scope, receive: Receive, answered: "_Answered") -> bytes:
        """Return the body of a request that may go on."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers) + len(scope["raw_path"]) + len(scope["query_string"])
        if len(headers) > _MOST_HEADERS or size > _MOST_HEADER_BYTES:
            msg = f"headers and address are too long: {len(headers)} headers and {size:,} bytes"
            msg += f", of {_MOST_HEADERS} and {_MOST_HEADER_BYTES:,} that they may have"
            raise _refusal(431, msg, "headers_too_large")
        host = self._check_host(headers)
        self._check_origin(scope, headers, host, answered)
        state = scope.setdefault("state", {})
        state["client"] = f"address {_network(scope)}"
        await self._check_key_and_rate(scope, headers)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            return await self._read(scope, headers, receive)
        return b""

    def _check_host(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """A page of another site can have its own name point here, but not change the name that it asks by."""
        hosts = [value for name, value in headers if name == b"host"]
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None or found[1].decode().lower().strip("[]") not in self._settings.hosts:
            msg = "this server does not answer to that Host; start it with --allowed-host and the name"
            raise _refusal(421, msg, "host_not_allowed")
        return hosts[0].lower()

    def _check_origin(self, scope: Scope, headers: list[tuple[bytes, bytes]], host: bytes, answered: "_Answered") -> None:
        origins = [value for name, value in headers if name == b"origin"]
        if not origins:
            return  # no browser, or a page that was opened, an image, a script
        origin = origins[0].decode("latin-1").lower() if len(origins) == 1 else ""
        if origin in self._settings.allowed_origins:
            answered.headers += [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
            asks_first = any(name == b"access-control-request-method" for name, _ in headers)
            if scope["method"] == "OPTIONS" and asks_first:
                raise _AnsweredError(Response(status_code=204, headers=_PREFLIGHT))
        elif origin.partition("://")[2].encode("latin-1") != host:
            msg = "pages of that site may not ask this server; its owner lists those that may with --allowed-origin"
            raise _refusal(403, msg, "origin_not_allowed")

    async def _check_key_and_rate(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> None:
        path, state = scope["path"], scope["state"]
        needed = _role_needed(path)
        if needed is None and not _is_under(path, "/api"):
            return
        self._count(self._of_addresses, state["client"])
        if needed is None:
            return
        key = await self._key(headers)
        if key is None and await self._is_open(scope):
            return
        if key is None:
            msg = "the key is missing, or is none of this server's; send it as Authorization: Bearer hd-…"
            raise _refusal(401, msg, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
        if needed == "owner" and key.role != "owner":
            raise _refusal(403, "this takes an owner's key", "insufficient_permissions")
        state["key"], state["client"] = key, f"key {key.id}"
        self._count(self._of_keys, state["client"])

    async def _is_open(self, scope: Scope) -> bool:
        """Return whether a request needs no key: its path does not where this machine alone asks, before there is any key.

        What another server passes on comes from this machine too, but from elsewhere before.
        """
        if _is_under(scope["path"], "/api/owner") or not self._settings.is_private:
            return False
        is_passed_on = any(name in _PASSED_ON for name, _ in scope["headers"])
        if is_passed_on or not is_loopback((scope.get("client") or ("", 0))[0]):
            return False
        return not await self._in_thread(self._keys.exist)

    def _count(self, rate: Rate, name: str) -> None:
        if seconds := rate.wait(name):
            a_minute, after = self._settings.requests_a_minute, str(int(seconds) + 1)
            msg = f"more than {a_minute} requests a minute; come again in {after} seconds"
            raise _refusal(429, msg, "rate_limit_exceeded", {"Retry-After": after}, "rate_limit_error")

    async def _key(self, headers: list[tuple[bytes, bytes]]) -> Key | None:
        sent = [value for name, value in headers if name == b"authorization"]
        found = _KEY.fullmatch(sent[0]) if len(sent) == 1 else None
        return await self._in_thread(lambda: self._keys.check(found[1].decode("ascii"))) if found else None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(work)
        except StoreError as error:
            _log.error("keys cannot be read: %s", traced(error))
            raise _refusal(503, "keys cannot be looked up now; ask again in a moment", "unavailable") from None

    async def _read(self, scope: Scope, headers: list[tuple[bytes, bytes]], receive: Receive) -> bytes:
        """Return the body; what is too large is refused before it is read."""
        most = self._settings.body_bytes
        lengths = [value for name, value in headers if name == b"content-length"]
        too_large = _refusal(413, f"the body is larger than {most:,} bytes", "body_too_large", {"Connection": "close"})
        if lengths and (len(lengths[0]) > 12 or not lengths[0].isdigit() or int(lengths[0]) > most):
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.read_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise GoneError
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            msg = f"the body was not there within {self._settings.read_seconds:g} seconds"
            raise _refusal(408, msg, "body_too_slow", {"Connection": "close"}) from None
        if body and _is_under(scope["path"], "/v1") and not _is_json(headers):
            raise _refusal(415, "the body has to come as Content-Type: application/json", "unsupported_media_type")
        return bytes(body)


class _Answered:
    """Sends an answer with the headers that every one has, and remembers its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.status = 0
        self.headers = [(b"x-request-id", request_id.encode())]

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            sent = list(message.get("headers", []))
            names = {name.lower() for name, _ in sent}
            more = [(name, value) for name, value in _SECURITY.items() if name not in names]
            message = {**message, "headers": [*sent, *more, *self.headers]}
        await self._send(message)


def _role_needed(path: str) -> str | None:
    if _is_under(path, "/api/owner") or path == "/metrics":
        return "owner"
    return "chat" if _is_under(path, "/v1") else None


def _is_under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _is_json(headers: list[tuple[bytes, bytes]]) -> bool:
    kinds = [value for name, value in headers if name == b"content-type"]
    return len(kinds) == 1 and kinds[0].split(b";")[0].strip().lower() == b"application/json"


def _network(scope: Scope) -> str:
    """Return who asks: an address, of IPv6 the network that one customer has."""
    host = (scope.get("client") or ("", 0))[0]
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if isinstance(address, ipaddress.IPv6Address):
            mapped = address.ipv4_mapped
            return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return str(host)


def _again(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Return a ``receive`` that gives a body that was read, and then what else comes."""
    left = [body]

    async def again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again
