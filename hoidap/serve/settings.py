"""What a server is told when it starts: where it listens, whom it answers, how much of everything."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from hoidap.errors import RecipeError


@dataclass(frozen=True)
class Settings:
    """The defaults suit one machine that serves a small business.

    Raises:
        RecipeError: an origin is none, or a limit is not above 0.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: tuple[str, ...] = ()  # further names by which browsers reach it: a domain behind a proxy
    allowed_origins: tuple[str, ...] = ()  # sites that may embed the widget and call the API from a page
    keep_days: float | None = 180.0  # how long what was asked is kept; None: for ever
    needs_key: bool = False  # for /v1, though it listens on loopback and no key was made yet
    body_bytes: int = 256 * 1024  # of a request
    question_characters: int = 16_000  # of a question, and of each message and prompt
    requests_a_minute: int = 120  # of an address, and of a key
    queue: int = 256  # questions at work and waiting
    answer_tokens: int = 1024  # at most, where a client asks for that many
    answer_seconds: float = 120.0  # from a question to the end of its answer, waiting counted
    read_seconds: float = 20.0  # until a request is there whole
    drain_seconds: float = 20.0  # for what is at work when the server is told to stop

    def __post_init__(self) -> None:
        for origin in self.allowed_origins:
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not rest or any(c in rest for c in "/*?#@, ;'\""):
                msg = f"the origin is {origin!r}; it takes scheme and host as a browser sends them: https://shop.example.vn"
                raise RecipeError(msg)
        limits = ("body_bytes", "requests_a_minute", "queue", "answer_tokens", "answer_seconds", "read_seconds")
        for name in limits:
            if not getattr(self, name) > 0:
                msg = f"{name} is {getattr(self, name)!r}; it takes a number above 0"
                raise RecipeError(msg)

    def refuse_open(self, *, has_key: bool, store: Path) -> None:
        """Refuse to be reached from elsewhere by anybody, or by a name that is not known.

        Raises:
            RecipeError: the address is not this machine's own, and there is no key; or it is every address, and no name.
        """
        if not self.is_loopback and not has_key:
            msg = f"--host {self.host} is reached from other machines, and there is no key yet"
            raise RecipeError(f"{msg}; first: hoidap keys --store {store} --add NAME --role owner")
        if self.host in ("0.0.0.0", "::", "") and not self.allowed_hosts:  # noqa: S104 - that it is asked for
            msg = f"--host {self.host} is every address of this machine; say by which name browsers reach it"
            raise RecipeError(f"{msg}: --allowed-host chat.shop.vn")

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach the server."""
        return is_loopback(self.host)

    @property
    def is_private(self) -> bool:
        """Whether its API may be asked without a key, while there is none: no other machine or name leads to it."""
        return self.is_loopback and not self.allowed_hosts and not self.needs_key

    @property
    def hosts(self) -> frozenset[str]:
        """The names that a request's Host may have, in lower case, without port."""
        own = {"localhost", "127.0.0.1", "::1"} if self.is_loopback else {self.host}
        return frozenset(name.lower().strip("[]") for name in own | set(self.allowed_hosts))


def is_loopback(host: str) -> bool:
    """Return whether an address or name is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
