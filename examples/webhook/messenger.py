"""Facebook Messenger: a page's events and their signatures, the messages to its customers."""  # noqa: INP001

import hashlib
import hmac
import json
import logging
from collections.abc import Mapping
from typing import Any

import httpx2
from messages import AgainError, Incoming, RefusedError, at, incoming, number, post

_SEND = "https://graph.facebook.com/v25.0/{}/messages"
_BUSY = (1, 2, 4, 32, 341, 613, 1200)  # what passes, by Meta's list: faults of its own, limits of calls
_MOST_MESSAGES = 1000  # of one request; Meta sends no more
_log = logging.getLogger("webhook")


class Messenger:
    """A page on Facebook."""

    name = "messenger"

    def __init__(self, page_id: str, page_token: str, app_secret: str, verify_token: str) -> None:
        self._page_id, self._token, self._secret, self._verify_token = (
            page_id,
            page_token,
            app_secret.encode(),
            verify_token,
        )
        self._proof = hmac.new(self._secret, page_token.encode(), hashlib.sha256).hexdigest()

    def challenge(self, query: Mapping[str, str]) -> str | None:
        """Return what Meta wants to read when the address is entered in its console; None if it is not Meta that asks."""
        is_known = hmac.compare_digest(query.get("hub.verify_token", "").encode(), self._verify_token.encode())
        challenge = query.get("hub.challenge", "")
        is_well_formed = query.get("hub.mode") == "subscribe" and challenge.isascii() and challenge.isalnum()
        return challenge if is_known and is_well_formed and len(challenge) <= 200 else None

    def is_signed(self, headers: Mapping[str, list[str]], body: bytes, _event: Any) -> bool:
        """Compare ``sha256=``, and the body's HMAC-SHA256 with the app's secret."""
        sent = headers.get("x-hub-signature-256", [])
        made = "sha256=" + hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        return len(sent) == 1 and hmac.compare_digest(sent[0].encode(), made.encode())

    def messages(self, event: Any) -> list[Incoming]:
        """Return the messages of an event: it may hold several, of several customers.

        What another app has in hand comes as ``standby``, and is left to it.
        """
        entries = _list(at(event, "entry")) if at(event, "object") == "page" else []
        parts = [part for entry in entries for part in _list(at(entry, "messaging"))]
        found: list[Incoming] = []
        for part in parts[:_MOST_MESSAGES]:
            message = at(part, "message")
            if isinstance(message, dict) and at(part, "recipient", "id") == self._page_id and not _is_ours(message):
                found += incoming(at(part, "sender", "id"), message.get("mid"), at(part, "timestamp"), message.get("text"))
        return found

    async def send(self, client: httpx2.AsyncClient, to: str, text: str) -> None:
        """Send a message; the token goes in the form: what stands in an address comes into logs."""
        form = {
            "recipient": json.dumps({"id": to}), "messaging_type": "RESPONSE", "message": json.dumps({"text": text}),
            "access_token": self._token, "appsecret_proof": self._proof,
        }  # fmt: skip
        answer = await post(client, _SEND.format(self._page_id), data=form)
        if answer.get("message_id"):
            return
        code = number(at(answer, "error", "code"))
        if code in _BUSY:
            raise AgainError
        _log.warning("messenger: a message was refused, error %s", code)
        raise RefusedError


def _is_ours(message: dict[str, Any]) -> bool:
    """Tell whether nobody waits for an answer to a message: the page's own come back as echoes, others are taken back."""
    return bool(message.get("is_echo") or message.get("is_deleted"))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
