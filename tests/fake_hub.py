"""A hub on the loopback: it lists and serves repositories as huggingface.co does, and breaks in the ways that one can."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS = (".safetensors", ".bin")
Files = dict[str, bytes]


@dataclass
class Request:
    """What was asked and how much of a body went out."""

    method: str
    path: str
    name: str  # of the file; "" for a list of files
    range: str | None
    authorization: str | None
    host: str
    sent_bytes: int = 0  # so far


@dataclass
class FakeHub:
    """One repository with its commits and branches, and the switches of what goes wrong."""

    repo: str = "shop/tiny"
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    url: str = ""

    token: str | None = None  # without it the repository is not there
    is_gated: bool = False  # the list is public, the files are not
    listed: dict[str, dict[str, object]] = field(default_factory=dict)  # what the list says of a file instead
    extra: dict[str, bytes] = field(default_factory=dict)  # what is served of a file instead
    answer: bytes | None = None  # to a question for the list instead
    statuses: list[int] = field(default_factory=list)  # of the next answers, in place of them
    file_statuses: list[int] = field(default_factory=list)  # the same, of answers with files
    cut_bytes: int | None = None  # how much of each body is sent before the connection closes
    cuts: int = 10**9  # how many bodies are cut
    cut_at: int | None = None  # the byte of a file that no body gets past
    knows_ranges: bool = True
    names_length: bool = True
    redirects: bool = False  # files in LFS are on another host, "localhost"
    chunk_pause_s: float = 0.0

    def __post_init__(self) -> None:
        self._requests: list[Request] = []
        self._answering = 0
        self._changed = threading.Condition()

    @property
    def requests(self) -> list[Request]:
        """Everything asked so far; what is being answered is waited for."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._answering, timeout=30)
        return self._requests

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count an answer as on its way."""
        with self._changed:
            self._answering += 1
        try:
            yield
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()

    def commit(self, files: Files, branch: str = "main") -> str:
        """Add a commit to a branch and return its hash."""
        listing = json.dumps({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
        commit = hashlib.sha1(f"{len(self.commits)} {listing}".encode(), usedforsecurity=False).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def asked(self, suffix: str = "") -> list[Request]:
        """Return the requests for files whose names end so."""
        return [request for request in self.requests if request.name and request.name.endswith(suffix)]

    def list_of(self, commit: str) -> bytes:
        """Return what the API tells of a commit."""
        siblings = []
        for name, content in self.commits[commit].items():
            digest = git_sha1(content)
            told = {"rfilename": name, "size": len(content), "blobId": digest}
            if name.endswith(LFS):
                sha256 = hashlib.sha256(content).hexdigest()
                told |= {"lfs": {"size": len(content), "sha256": sha256, "pointerSize": 130}}
            siblings.append(told | self.listed.get(name, {}))
        return json.dumps({"id": self.repo, "modelId": self.repo, "sha": commit, "siblings": siblings}).encode()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve a hub on a free port until the block ends; no thread is left."""

    class Handler(_Handler):
        fake = hub

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # so that closing waits for them

    with Server(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub

    def do_GET(self) -> None:
        with self.fake.answering():
            self._answer()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_args: object) -> None:
        """Stay silent."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        name = file[3] if file else ""
        hub = self.fake
        if statuses := hub.statuses or (hub.file_statuses if name else []):
            self._refuse(statuses.pop(0), "", name)
        elif not match or match[1] != hub.repo:
            self._refuse(404 if self.headers["Authorization"] else 401, "RepoNotFound", name)
        elif hub.token and self._host() != "localhost" and self.headers["Authorization"] != f"Bearer {hub.token}":
            self._refuse(401, "RepoNotFound", name)
        elif (commit := hub.branches.get(match[2], match[2])) not in hub.commits:
            self._refuse(404, "RevisionNotFound", name)
        elif api:
            self._send(hub.answer if hub.answer is not None else hub.list_of(commit), {}, name)
        elif hub.is_gated:
            self._refuse(403, "GatedRepo", name)
        elif name not in hub.commits[commit]:
            self._refuse(404, "EntryNotFound", name)
        elif hub.redirects and name.endswith(LFS) and self._host() != "localhost":
            self._refuse(302, "", name, {"Location": hub.url.replace("127.0.0.1", "localhost") + self.path})
        else:
            self._send_file(name, commit)

    def _host(self) -> str:
        return self.headers["Host"].split(":")[0]

    def _refuse(self, status: int, code: str, name: str, headers: dict[str, str] | None = None) -> None:
        self._send(b'{"error": "no"}', {"X-Error-Code": code, "X-Error-Message": "no", **(headers or {})}, name, status)

    def _send_file(self, name: str, commit: str) -> None:
        content = self.fake.extra.get(name, self.fake.commits[commit][name])
        digest = hashlib.sha256(content).hexdigest() if name.endswith(LFS) else git_sha1(content)
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if name.endswith(LFS):
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        first = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(first[1]) if first and self.fake.knows_ranges else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(content[start:], headers, name, 206 if start else 200, start)

    def _send(self, body: bytes, headers: dict[str, str], name: str, status: int = 200, start: int = 0) -> None:
        hub = self.fake
        # Kept before it is answered: the next request may come before this thread is done with this one.
        request = Request(self.command, self.path, name, self.headers["Range"], self.headers["Authorization"], self._host())
        hub._requests.append(request)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if hub.names_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            body = b""
        if name and hub.cut_at is not None:
            body = body[: max(0, hub.cut_at - start)]
        if name and hub.cut_bytes is not None and len(body) > hub.cut_bytes and hub.cuts:
            hub.cuts -= 1
            body = body[: hub.cut_bytes]
        try:
            for at in range(0, len(body), 2**14):
                request.sent_bytes += self.wfile.write(body[at : at + 2**14])
                time.sleep(hub.chunk_pause_s)
        except ConnectionError:
            pass  # the one who asked has gone
