"""Keys of the API and of the owner's pages.

A key is ``hd-``, a public part that it is looked up by, and 256 random bits. Of these the SHA-256 is kept: a slow hash, as
passwords need it, would protect nothing, for nobody can try 2**256 of them, and would cost every request its time. Hashes
are compared in constant time, and an unknown key takes the way of a known one.
"""

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import delete, func, select

from hoidap.errors import RequestError
from hoidap.serve.store import Store
from hoidap.serve.tables import StoredKey

Role = Literal["chat", "owner"]
ROLES: tuple[Role, ...] = get_args(Role)
_SECRET_BYTES = 32
_ID_BYTES = 6
_FORM = re.compile(r"hd-([0-9a-f]{12})-([A-Za-z0-9_-]{43})")
_LONGEST = 80  # characters of a key; more are not looked at
_MOST_NAME = 100
_NOBODY = bytes(32)  # the hash that an unknown key is compared with


@dataclass(frozen=True)
class Key:
    """Who may do what."""

    id: str  # public: it may stand in logs
    name: str
    role: Role


class Keys:
    """The keys of a store. Any thread may use it; a key that another process makes or deletes counts at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def make(self, name: str, role: Role) -> tuple[str, Key]:
        """Make a key; its text is returned this once and kept nowhere.

        Raises:
            RequestError: the name or the role is none.
            StoreError: it cannot be kept now.
        """
        shown = " ".join(name.split())
        if not 0 < len(shown) <= _MOST_NAME or not shown.isprintable():
            msg = f"the name of a key is {name[:_MOST_NAME]!r}; it takes 1 to {_MOST_NAME} characters that can be read"
            raise RequestError(msg)
        if role not in ROLES:
            msg = f"the role of a key is {role!r}; it takes {' or '.join(map(repr, ROLES))}"
            raise RequestError(msg)
        key = Key(secrets.token_hex(_ID_BYTES), shown, role)
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        with self._store.writing() as session:
            session.add(StoredKey(id=key.id, hash=_hash(secret), name=key.name, role=role, created=time.time()))
        return f"hd-{key.id}-{secret}", key

    def check(self, presented: str) -> Key | None:
        """Return whose key was presented, None if nobody's.

        Raises:
            StoreError: it cannot be looked up now.
        """
        form = _FORM.fullmatch(presented) if len(presented) <= _LONGEST else None
        if form is None:
            return None
        with self._store.reading() as session:
            found = session.get(StoredKey, form[1])
            is_right = hmac.compare_digest(found.hash if found else _NOBODY, _hash(form[2]))
            return _key(found) if found is not None and is_right else None

    def all(self) -> list[Key]:
        """Return the keys, the oldest first.

        Raises:
            StoreError: they cannot be read now.
        """
        with self._store.reading() as session:
            return [_key(found) for found in session.scalars(select(StoredKey).order_by(StoredKey.created))]

    def exist(self) -> bool:
        """Return whether there is any key.

        Raises:
            StoreError: they cannot be read now.
        """
        with self._store.reading() as session:
            return bool(session.scalar(select(func.count()).select_from(StoredKey)))

    def revoke(self, key_id: str) -> bool:
        """Delete a key, which counts from now on; return False if there is none of this id.

        Raises:
            StoreError: it cannot be done now.
        """
        with self._store.writing() as session:
            return session.scalar(delete(StoredKey).where(StoredKey.id == key_id).returning(StoredKey.id)) is not None


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _key(found: StoredKey) -> Key:
    role: Role = "owner" if found.role == "owner" else "chat"
    return Key(found.id, found.name, role)
