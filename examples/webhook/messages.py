"""What both platforms share: messages that come and go, texts in parts, calls that may be tried again."""  # noqa: INP001

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2

MOST_CHARACTERS = 2000  # of one message; both platforms say so
MOST_PARTS = 8  # messages that one answer may become
_SEND_SECONDS = 20.0
_STAMP = re.compile(r"[0-9]{10,16}")  # milliseconds since 1970
_SENDER = re.compile(r"[\w.-]{1,128}", re.ASCII)
_MOST_ID = 512  # characters of a message's id
_log = logging.getLogger("webhook")


class AgainError(Exception):
    """A message was not taken now, and may be sent again."""


class RefusedError(Exception):
    """A message was not taken, and will not be; or nobody knows whether it was."""


@dataclass(frozen=True)
class Incoming:
    """A message of a customer."""

    sender: str  # as the platform names them
    id: str
    at: float  # seconds since 1970
    text: str | None  # None: a sticker, a picture, a file …


class Platform(Protocol):
    """Where customers write."""

    name: str

    def is_signed(self, headers: Mapping[str, list[str]], body: bytes, event: Any) -> bool:
        """Tell whether the platform itself sent this."""

    def messages(self, event: Any) -> list[Incoming]:
        """Return what customers wrote; echoes, receipts and what is malformed are left out."""

    async def send(self, client: httpx2.AsyncClient, to: str, text: str) -> None:
        """Send one message, of at most ``MOST_CHARACTERS``.

        Raises:
            AgainError: not now.
            RefusedError: never.
        """


async def deliver(
    platform: Platform, client: httpx2.AsyncClient, to: str, text: str, pauses: tuple[float, ...] = (1.0, 4.0)
) -> bool:
    """Send a text in as many messages as it takes, each tried again after each of the pauses; return whether all went."""
    for part in split(text):
        for pause in (*pauses, None):
            try:
                await platform.send(client, to, part)
                break
            except RefusedError:
                return False
            except AgainError:
                if pause is None:
                    _log.warning("%s: a message could not be sent", platform.name)
                    return False
                await asyncio.sleep(pause)
    return True


def split(text: str, most: int = MOST_CHARACTERS, parts: int = MOST_PARTS) -> list[str]:
    """Return a text in parts of at most ``most`` UTF-16 units: cut at a paragraph, a line, a sentence, a word if it can be.

    What does not fit into so many parts is left out, and "…" says so.
    """
    found: list[str] = []
    rest = text.encode("utf-8", "replace").decode().strip()
    while rest:
        head = rest[:most].encode("utf-16-le")[: 2 * most].decode("utf-16-le", "ignore")
        if len(head) < len(rest):
            ends = (head.rfind(mark) + len(mark.rstrip()) for mark in ("\n\n", "\n", ". ", " "))
            head = head[: next((end for end in ends if end > len(head) // 2), len(head))]
        if len(found) == parts - 1 and len(head) < len(rest):
            return [*found, head[:-1].rstrip() + "…"]
        found.append(head.rstrip())
        rest = rest[len(head) :].lstrip()
    return found


async def post(client: httpx2.AsyncClient, address: str, **content: Any) -> dict[str, Any]:
    """Return what a platform answers. Only what surely was not taken is tried again: nobody wants an answer twice.

    Raises:
        AgainError: it was not reached, or is overloaded.
        RefusedError: what it answered is no JSON, or did not come.
    """
    try:
        response = await client.post(address, timeout=_SEND_SECONDS, **content)
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
        raise AgainError from None
    except httpx2.HTTPError as error:
        _log.warning("no answer to what was sent: %s", type(error).__name__)
        raise RefusedError from None
    if response.status_code == 429 or response.status_code >= 500:
        raise AgainError
    answer = loads(response.content)
    if not isinstance(answer, dict):
        _log.warning("what was sent is answered with status %d and no JSON", response.status_code)
        raise RefusedError
    return answer


def loads(body: bytes) -> Any:
    """Return what JSON says, None if it is none: whoever wrote it is not known yet."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def incoming(sender: Any, identity: Any, stamp: Any, text: Any) -> list[Incoming]:
    """Return a message in a list, an empty one if it is malformed."""
    if not isinstance(sender, str) or not _SENDER.fullmatch(sender):
        return []
    if not isinstance(identity, str) or not 0 < len(identity) <= _MOST_ID or not is_stamp(stamp):
        return []
    # JSON can hold halves of characters, which nothing after this could write down.
    written = text.encode("utf-8", "replace").decode().strip() if isinstance(text, str) else ""
    return [Incoming(sender, identity, int(stamp) / 1000, written or None)]


def is_stamp(stamp: Any) -> bool:
    """Tell whether something is milliseconds since 1970, as a number or in digits."""
    return isinstance(stamp, (str, int)) and _STAMP.fullmatch(str(stamp)[:20]) is not None


def at(value: Any, *path: str) -> Any:
    """Return what lies in dictionaries in dictionaries, None if there is nothing."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def number(value: Any) -> int | None:
    """Return a number that came as one or in digits."""
    try:
        return int(str(value)[:12])
    except ValueError:
        return None
