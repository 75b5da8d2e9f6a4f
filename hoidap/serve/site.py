"""Gives out the visitor's page, the owner's page and the widget: files of the package, read once, nothing from elsewhere.

The pages' own files lie under a folder named by the hash of all of them, so that browsers keep them for ever and a new
version is never mixed with an old one. Their headers let a page run its own scripts and nothing else.
"""

import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from hoidap.errors import RecipeError

FILES = Path(__file__).parent / "page"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_ORIGIN = re.compile(r"https?://[a-z0-9-]+(\.[a-z0-9-]+)*(:[0-9]{1,5})?")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; require-trusted-types-for 'script'; trusted-types 'none'; frame-ancestors {}"
)
_FOREVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"  # kept, but not used before the server has said that it is the same still
_HOUR = "public, max-age=3600"


@dataclass(frozen=True)
class File:
    """What is given out under one address."""

    content: bytes
    packed: bytes  # by gzip
    etag: str
    kind: str

    @classmethod
    def of(cls, content: bytes, suffix: str) -> "File":
        """Make a file ready to be given out."""
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        return cls(content, gzip.compress(content, 9, mtime=0), etag, _TYPES[suffix])

    def answer(self, request: Request, headers: Mapping[str, str]) -> Response:
        """Answer a request, with nothing where the browser has it already. A range that is asked for is not heeded."""
        sent = {**headers, "ETag": self.etag, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
        if self.etag in request.headers.get("If-None-Match", "").replace("W/", "").split(", "):
            return Response(None, 304, sent)
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return Response(self.packed, 200, {**sent, "Content-Encoding": "gzip"}, self.kind)
        return Response(self.content, 200, sent, self.kind)


def make_site(allowed_origins: Sequence[str] = ()) -> APIRouter:
    """Return the routes of the pages: ``/``, ``/owner``, ``/widget.js`` and ``/page/…``.

    Args:
        allowed_origins: the sites that may embed the visitor's page, such as "https://shop.example".

    Raises:
        RecipeError: an origin that is none.
    """
    ancestors = " ".join(["'self'", *map(_origin, allowed_origins)]) if allowed_origins else "'none'"
    raw = {path.name: path.read_bytes() for path in sorted(FILES.iterdir()) if path.suffix in _TYPES}
    version = _version(raw)
    parts = {name: File.of(content, Path(name).suffix) for name, content in raw.items() if not name.endswith(".html")}
    chat, owner = (
        File.of(raw[name].replace(b"$page", f"page/{version}".encode()), ".html") for name in ("chat.html", "owner.html")
    )

    async def visitor_page(request: Request) -> Response:
        is_embedded = request.query_params.get("embedded") == "1"
        return chat.answer(request, _page_headers(ancestors if is_embedded else "'none'"))

    async def owner_page(request: Request) -> Response:
        return owner.answer(request, _page_headers("'none'"))

    async def widget(request: Request) -> Response:
        return parts["widget.js"].answer(request, {"Cache-Control": _HOUR, "Cross-Origin-Resource-Policy": "cross-origin"})

    async def part(request: Request) -> Response:
        found = parts.get(request.path_params["name"]) if request.path_params["version"] == version else None
        if found is None:
            return Response("there is no such file", 404, {"X-Content-Type-Options": "nosniff"}, "text/plain")
        return found.answer(request, {"Cache-Control": _FOREVER, "Cross-Origin-Resource-Policy": "same-origin"})

    router = APIRouter()
    routes = {"/": visitor_page, "/owner": owner_page, "/widget.js": widget, "/page/{version}/{name}": part}
    for path, route in routes.items():
        router.add_route(path, route, methods=["GET"], include_in_schema=False)
    return router


def _version(raw: Mapping[str, bytes]) -> str:
    """Return the hash of all files, their names with them."""
    found = hashlib.sha256()
    for name, content in raw.items():
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:16]


def _origin(text: str) -> str:
    """Return an origin, if it is one: it goes into a header, where another word would be another rule."""
    origin = text.lower()
    if not _ORIGIN.fullmatch(origin):
        msg = f"the allowed origin {text!r} is none; give scheme and host, such as https://shop.example"
        raise RecipeError(msg)
    return origin


def _page_headers(ancestors: str) -> dict[str, str]:
    headers = {
        "Cache-Control": _ASK_AGAIN,
        "Content-Security-Policy": _POLICY.format(ancestors),
        "Cross-Origin-Resource-Policy": "same-origin" if ancestors == "'none'" else "cross-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
        "Referrer-Policy": "no-referrer",
    }
    return headers if ancestors != "'none'" else {**headers, "X-Frame-Options": "DENY"}
