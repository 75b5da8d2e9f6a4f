"""A real server on a free port, in a thread of the test's process."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from hoidap.run import Run
from hoidap.serve.app import make_app
from hoidap.serve.bench import Load
from hoidap.serve.desk import Desk
from hoidap.serve.keys import Keys
from hoidap.serve.server import bind, make_server
from hoidap.serve.settings import Settings
from hoidap.serve.store import Store


@dataclass
class Served:
    """What a test talks to."""

    port: int
    desk: Desk
    keys: Keys
    client: httpx2.Client
    server: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return self.client.post(path, json=body, headers=headers)

    def chat(self, question: str, **more: Any) -> httpx2.Response:
        return self.post("/v1/chat/completions", asking(question, **more))

    def events(self, path: str, body: Any) -> list[Any]:
        """Return the events of a stream, the JSON of each read; the last is its "[DONE]"."""
        response = self.post(path, {**body, "stream": True})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.text.endswith("\n\n")
        lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
        assert all(line.startswith("data: ") and "\n" not in line for line in lines)
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]

    def raw(self, request: bytes) -> bytes:
        """Send bytes and return what comes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(request)
            got = b""
            while chunk := connection.recv(65536):
                got += chunk
        return got


def asking(question: str, **more: Any) -> dict[str, Any]:
    """Return the body of a chat request."""
    return {"model": "shop", "messages": [{"role": "user", "content": question}], **more}


def until(condition: Any) -> None:
    """Wait for what another thread does."""
    ends_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends_at, "it never came"
        time.sleep(0.002)


@contextmanager
def serving(
    folder: Path, loads: Sequence[Load], runs: Mapping[str, Run] | None = None, *, most: int = 256, **settings: Any
) -> Iterator[Served]:
    """Serve bots while a test runs; many requests a minute are allowed unless it says otherwise."""
    chosen = Settings(port=0, **{"requests_a_minute": 100_000, "drain_seconds": 5.0, **settings})
    store = Store.open(folder / "served.sqlite3")
    desk = Desk(loads, most=most)
    desk.start()
    listener = bind(chosen)
    port = listener.getsockname()[1]
    server = make_server(make_app(chosen, desk, store, runs or {}), chosen, desk)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    until(lambda: server.started)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
            yield Served(port, desk, Keys(store), client, server)
    finally:
        server.stop()
        thread.join(30)
        desk.close()
        store.close()
