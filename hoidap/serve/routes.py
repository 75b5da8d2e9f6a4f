"""What the page's and the owner's routes share: errors as OpenAI shapes them, texts as they are kept, downloads."""

import re
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from hoidap.errors import HoidapError, RunError, StoreError
from hoidap.serve.asked import CursorError
from hoidap.serve.conversations import FullError, NotFoundError
from hoidap.serve.wire import ErrorBody, error_response, readable, status_of
from hoidap.text import nfc

RETRY_SECONDS = 5  # as in wire.py
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_HALF = re.compile("[\ud800-\udfff]")
_ID = re.compile(r"[0-9a-f]{32}")
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")
_TOLD: dict[type[Exception], tuple[int, str]] = {
    NotFoundError: (404, "not_found"),
    FullError: (400, "conversation_full"),
    CursorError: (400, "invalid_value"),
    RunError: (400, "cannot_be_kept"),
}
_MOST_SHOWN = 80  # characters of a name that somebody made up
_STORE_DOWN = "what is kept cannot be read or written just now; ask again in a moment"


class RefusedError(HoidapError):
    """A request that is refused, with all that its sender is told."""

    def __init__(
        self, status: int, message: str, code: str | None, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers or {}


class Route(APIRoute):
    """A route whose errors are answered in one shape, and whose answers nobody keeps but who asked."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def answer_or_refuse(request: Request) -> Response:
            try:
                response = await answer(request)
            except (HoidapError, CursorError, RequestValidationError, HTTPException) as error:
                response = failure(error)
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return answer_or_refuse


def failure(error: Exception) -> Response:
    """Return what is answered where an error was raised."""
    status, body = told_of(error)
    headers = error.headers if isinstance(error, RefusedError) else {}
    return error_response(status, body, {"Cache-Control": "no-store", **headers})


def told_of(error: Exception) -> tuple[int, ErrorBody]:
    """Return the status of an error, and what may be told of it: a StoreError names files of this machine."""
    if isinstance(error, RefusedError):
        return error.status, _bad(str(error), error.code, error.param)
    if isinstance(error, StoreError):
        return 503, ErrorBody(message=_STORE_DOWN, type="server_error", param=None, code="store_unavailable")
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])[:_MOST_SHOWN]
        return 400, _bad(f"{name or 'the body'}: {first['msg']}", "invalid_value", name or None)
    if isinstance(error, HTTPException):  # a body that is no JSON, or cannot be decoded
        return error.status_code, _bad(str(error.detail), "invalid_value")
    known = next((told for kind, told in _TOLD.items() if isinstance(error, kind)), None)
    return (known[0], _bad(str(error), known[1])) if known else status_of(error)


def _bad(message: str, code: str | None, param: str | None = None) -> ErrorBody:
    shown = None if param is None else readable(param)
    return ErrorBody(message=readable(message), type="invalid_request_error", param=shown, code=code)


def cleaned(text: str, name: str, most: int, *, lines: bool = True) -> str:
    """Return a text as it is kept: in NFC, without control characters; on one line unless ``lines``.

    Raises:
        RefusedError: it is too long, or holds half of a character.
    """
    if _HALF.search(text):
        msg = f"{name} holds half of a character (a lone surrogate), which is no text; send it as UTF-8"
        raise RefusedError(400, msg, "invalid_value", name)
    if len(text) > most:
        msg = f"{name} has {len(text):,} characters; it takes {most:,}"
        raise RefusedError(400, msg, "too_long", name)
    clean = _CONTROL.sub(" ", nfc(text).replace("\r\n", "\n").replace("\r", "\n")).strip()
    return clean if lines else " ".join(clean.split())


def known_id(id_: str, what: str) -> str:
    """Return an id, if it is one; any other is as unknown as one that does not exist.

    Raises:
        NotFoundError: it is none.
    """
    if not _ID.fullmatch(id_):
        msg = f"there is no {what} of this id, or no longer"
        raise NotFoundError(msg)
    return id_


def download(name: str, content: bytes, kind: str) -> Response:
    """Return a file that a browser saves under a name, and never shows."""
    plain = _PLAIN.sub("-", name).strip("-.") or "hoidap"
    shown = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    return Response(content, 200, {"Content-Disposition": shown, "X-Content-Type-Options": "nosniff"}, kind)
