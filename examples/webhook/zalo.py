"""Zalo Official Accounts: their events and signatures, the messages to them, the tokens that send."""  # noqa: INP001

import asyncio
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from messages import AgainError, Incoming, RefusedError, at, incoming, is_stamp, number, post

_SEND = "https://openapi.zalo.me/v3.0/oa/message/cs"
_TOKEN = "https://oauth.zaloapp.com/v4/oa/access_token"  # noqa: S105 - an address
_BAD_TOKEN = (-216, -220, -124)  # the access token is none, or its time is over
_BUSY = -32  # more calls a minute than the app may make
_MARGIN = 600.0  # seconds before its end at which a token is renewed
_log = logging.getLogger("webhook")


class Tokens:
    """The token that sends. It lives for a day; a refresh token, which is good once, gets the next pair.

    So the pair has to be kept: in a file that this user alone can read. Where the refresh token that it began with is
    another, as after a new authorisation, the file counts no more.
    """

    def __init__(self, app_id: str, app_secret: str, first: str, file: Path) -> None:
        self._app_id, self._app_secret, self._file = app_id, app_secret, file
        self._began = hashlib.sha256(first.encode()).hexdigest()
        self._access, self._refresh, self._ends_at = "", first, 0.0
        self._lock = asyncio.Lock()
        try:
            kept = json.loads(file.read_bytes())
            if kept["began"] == self._began:
                self._access, self._refresh, self._ends_at = (
                    str(kept["access"]),
                    str(kept["refresh"]),
                    float(kept["ends_at"]),
                )
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            _log.error("zalo: %s is damaged; it is left out and written anew", file)

    async def get(self, client: httpx2.AsyncClient, not_this: str = "") -> str:
        """Return a token, another than ``not_this``, which Zalo did not take.

        Raises:
            AgainError: Zalo was not reached.
            RefusedError: there is none: the app has to be authorised anew.
        """
        async with self._lock:
            if self._access in ("", not_this) or time.time() > self._ends_at - _MARGIN:
                await self._renew(client)
            return self._access

    async def _renew(self, client: httpx2.AsyncClient) -> None:
        form = {"app_id": self._app_id, "grant_type": "refresh_token", "refresh_token": self._refresh}
        answer = await post(client, _TOKEN, data=form, headers={"secret_key": self._app_secret})
        access, refresh = answer.get("access_token"), answer.get("refresh_token")
        if not (isinstance(access, str) and isinstance(refresh, str) and access and refresh):
            _log.error("zalo: no new token (error %s); authorise the app anew: see README.md", number(answer.get("error")))
            raise RefusedError
        self._access, self._refresh = access, refresh
        self._ends_at = time.time() + (number(answer.get("expires_in")) or 3600)
        kept = {"began": self._began, "access": access, "refresh": refresh, "ends_at": self._ends_at}
        try:
            _keep(self._file, json.dumps(kept))
        except OSError as error:
            _log.error("zalo: the new tokens cannot be kept (%s); a restart will need a new authorisation", error.strerror)


class Zalo:
    """A Zalo Official Account."""

    name = "zalo"

    def __init__(self, app_id: str, oa_secret: str, tokens: Tokens) -> None:
        self._app_id, self._oa_secret, self._tokens = app_id, oa_secret, tokens

    def is_signed(self, headers: Mapping[str, list[str]], body: bytes, event: Any) -> bool:
        """Compare ``mac=``, and SHA-256 of the app's id, the body, a timestamp and the OA's secret key.

        By some accounts the timestamp is the body's, by others that of X-ZEvent-Timestamp. Both are tried: neither can
        be made to fit by somebody who has not the key.
        """
        sent = headers.get("x-zevent-signature", [])
        if len(sent) != 1:
            return False
        stamps = {
            str(stamp) for stamp in (at(event, "timestamp"), *headers.get("x-zevent-timestamp", [])) if is_stamp(stamp)
        }
        mac = sent[0].removeprefix("mac=").lower().encode()
        fits = [hmac.compare_digest(mac, self._mac(body, stamp)) for stamp in sorted(stamps)[:2]]
        return any(fits)

    def _mac(self, body: bytes, stamp: str) -> bytes:
        signed = self._app_id.encode() + body + stamp.encode() + self._oa_secret.encode()
        return hashlib.sha256(signed).hexdigest().encode()

    def messages(self, event: Any) -> list[Incoming]:
        """Return the message of an event, if a customer wrote it: what the OA itself sends is named ``oa_send_…``."""
        name = at(event, "event_name")
        if not isinstance(name, str) or not name.startswith("user_send_") or str(at(event, "app_id")) != self._app_id:
            return []
        text = at(event, "message", "text") if name == "user_send_text" else None
        return incoming(at(event, "sender", "id"), at(event, "message", "msg_id"), at(event, "timestamp"), text)

    async def send(self, client: httpx2.AsyncClient, to: str, text: str) -> None:
        """Send a message; a token that Zalo does not take is renewed, once."""
        body = {"recipient": {"user_id": to}, "message": {"text": text}}
        token = ""
        for _ in range(2):
            token = await self._tokens.get(client, not_this=token)
            answer = await post(client, _SEND, json=body, headers={"access_token": token})
            error = number(answer.get("error"))
            if error == 0:
                return
            if error == _BUSY:
                raise AgainError
            if error not in _BAD_TOKEN:
                break
        _log.warning("zalo: a message was refused, error %s", error)
        raise RefusedError


def _keep(file: Path, text: str) -> None:
    """Write a file that this user alone can read: the old or the new one is there, never half of one."""
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)
