"""Files of the hub, each fetched until it is whole, proved by its hash and put in its place in the cache.

    models--OWNER--NAME/
      blobs/HASH              the bytes of a file; HASH.incomplete while they are coming
      refs/main               the commit that a branch or tag last meant
      snapshots/COMMIT/FILE   links to blobs

The layout is huggingface_hub's, as are the endpoint, the token and the limits of time. The library's own download throws
away what it has got when it is interrupted, and it compares sizes alone (2.4); this one goes on where it stopped.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress

from hoidap.errors import CheckpointError
from hoidap.progress import bars

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

Advance = Callable[[int], None]
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)
_PAUSES_S = (1, 2, 4, 8)  # before each new attempt; when they are used up, the download ends
_HEADWAY_BYTES = 2**20  # after an attempt that got as much the pauses begin anew
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # what a server may not answer a moment later


@dataclass(frozen=True)
class HubId:
    """A repository and a revision of it: a branch, a tag or a commit."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a full commit, which never changes."""
        return bool(COMMIT.fullmatch(self.revision))

    @property
    def cache(self) -> Path:
        """The repository's folder in the cache."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE).expanduser().resolve() / f"models--{self.repo.replace('/', '--')}"

    @property
    def folder(self) -> Path:
        """Where the files of a commit are."""
        return self.cache / "snapshots" / self.revision


@dataclass(frozen=True)
class HubFile:
    """A file of a commit, as the hub lists it."""

    hub_id: HubId
    name: str
    n_bytes: int
    digest: str  # SHA-256 of a file in LFS, git's SHA-1 of another; in the cache the blob's name

    @property
    def link(self) -> Path:
        """Where it is read from."""
        return self.hub_id.folder / self.name

    @property
    def blob(self) -> Path:
        """Where its bytes are."""
        return self.hub_id.cache / "blobs" / self.digest

    @property
    def part(self) -> Path:
        """Where its bytes are while some lack."""
        return self.blob.with_name(f"{self.digest}.incomplete")

    @property
    def part_bytes(self) -> int:
        """How many bytes of it have come."""
        return self.part.stat().st_size if self.part.is_file() else 0


class HubError(CheckpointError):
    """What the hub, the network or the disk refuses, and what can be done about it."""

    def __init__(self, hub_id: HubId, reason: str, advice: str) -> None:
        super().__init__(f"--model {hub_id}: {reason}; {advice}")
        self.reason = reason


def rubbish(hub_id: HubId, found: str) -> HubError:
    """Return the error of an answer that no hub gives."""
    from huggingface_hub import constants

    advice = "check HF_ENDPOINT and the network's proxy, and try again"
    return HubError(hub_id, f"{constants.ENDPOINT} does not answer as a hub: {found}", advice)


@contextmanager
def explained(hub_id: HubId) -> Iterator[None]:
    """Turn what the library, the network and the disk raise into a HubError with advice."""
    import httpx2

    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise HubError(hub_id, *_explanation(error, hub_id)) from None


def _explanation(error: Exception, hub_id: HubId) -> tuple[str, str]:
    """Return what went wrong and what can be done."""
    import httpx2
    from huggingface_hub import constants, errors

    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error, hub_id)
    revision = "" if hub_id.revision == "main" else f" --revision {hub_id.revision}"
    get = f"hf download {hub_id.repo}{revision} --local-dir {hub_id.repo.split('/')[1]}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids to ask the hub", f"unset it, or elsewhere `{get}` and pass that folder"
    if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL):
        # A header that cannot be sent is told of with its value, the token.
        detail = "" if isinstance(error, httpx2.LocalProtocolError) else f": {error}"
        reason = f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}{detail})"
        return reason, f"check the network and HF_ENDPOINT, or elsewhere `{get}` and pass that folder"
    return f"the cache {hub_id.cache} cannot be written ({error})", "make room, or choose another with HF_HOME"


def _refusal(error: "HfHubHTTPError", hub_id: HubId) -> tuple[str, str]:
    from huggingface_hub import constants, errors

    hub, status = constants.ENDPOINT, error.response.status_code
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{hub} has no such revision of {hub_id.repo}", "after the @ comes a branch, a tag or a full commit"
    if isinstance(error, errors.GatedRepoError) or status == 403:
        advice = f"open {hub}/{hub_id.repo} in a browser and accept them, then `hf auth login`"
        return f"{hub} gives {hub_id.repo} only to those who accepted its conditions ({status})", advice
    if status in {401, 404}:
        reason = f"there is no such folder, and {hub} has no such model, or a private one ({status})"
        return reason, "is the name right? For a private one, `hf auth login`"
    return f"{hub} answered {status}", "try again later"


def is_here(file: HubFile) -> bool:
    """Say whether a file is in the cache, for this commit or for another."""
    return file.link.is_file() or file.blob.is_file()


def lacking_bytes(files: Sequence[HubFile]) -> int:
    """Return how many bytes must still come."""
    return sum(file.n_bytes - file.part_bytes for file in files)


def get_files(files: Sequence[HubFile], console: Console) -> None:
    """Put files of one commit in their places, those that lack from the hub.

    Raises:
        CheckpointError: one cannot be had whole, or its bytes are not those of the hub's list.
    """
    hub_id = files[0].hub_id
    missing = [file for file in files if not is_here(file)]
    with explained(hub_id), bars(console) as progress:
        got = _counter(progress, f"downloading {hub_id.repo}", lacking_bytes(missing))
        checked = _counter(progress, "checking", sum(file.n_bytes for file in missing))
        for file in missing:
            _get(file, got, checked)
        for file in files:
            _link(file)


def _counter(progress: Progress, what: str, n_bytes: int) -> Advance:
    """Return what moves a new bar, with the bytes in words."""
    task = progress.add_task(what, total=n_bytes)
    done = 0

    def advance(more_bytes: int) -> None:
        nonlocal done
        done += more_bytes
        progress.update(task, completed=done, description=f"{what}: {decimal(done)} of {decimal(n_bytes)}")

    return advance


def _get(file: HubFile, got: Advance, checked: Advance) -> None:
    """Download one file and, once it is proved, give it its place."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    cache = file.hub_id.cache
    lock = cache.parent / ".locks" / cache.name / f"{file.digest}.lock"
    for folder in (lock.parent, file.blob.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if file.blob.is_file():
            return  # another program was quicker
        _log.info("downloading %s of %s", file.name, file.hub_id)
        _stream(file, got)
        found = _digest(file, checked)
        if found != file.digest:
            file.part.unlink()
            msg = f"--model {file.hub_id}: {file.name} came with the hash {found}, the hub's list says {file.digest}; "
            raise CheckpointError(msg + "it was deleted: download it again")
        file.part.replace(file.blob)


def _digest(file: HubFile, checked: Advance) -> str:
    """Compute of the bytes that came the hash that the hub lists for such a file."""
    if SHA256.fullmatch(file.digest):
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.n_bytes}\0".encode(), usedforsecurity=False)
    with file.part.open("rb") as stream:
        while chunk := stream.read(2**24):
            digest.update(chunk)
            checked(len(chunk))
    return digest.hexdigest()


def _stream(file: HubFile, got: Advance) -> None:
    """Fill the part, going on from what it holds; what breaks off is taken up again, a few times without headway."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    if file.part_bytes > file.n_bytes:
        file.part.unlink()
    file.part.touch()
    pauses_s = iter(_PAUSES_S)
    while (before := file.part_bytes) < file.n_bytes:
        try:
            _receive(file, got)
        except (httpx2.TransportError, HfHubHTTPError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in _PASSING:
                raise
            if file.part_bytes - before >= _HEADWAY_BYTES:
                pauses_s = iter(_PAUSES_S)
            pause_s = next(pauses_s, None)
            if pause_s is None:
                reason = f"{file.name} broke off at {file.part_bytes:,} of {file.n_bytes:,} bytes, again and again"
                advice = "run the same command again: it goes on from there"
                raise HubError(file.hub_id, f"{reason} ({_explanation(error, file.hub_id)[0]})", advice) from None
            time.sleep(pause_s)


def _receive(file: HubFile, got: Advance) -> None:
    """Ask once for the bytes that the part lacks and add what comes."""
    import httpx2
    from huggingface_hub import constants, get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(file.hub_id.repo, file.name, revision=file.hub_id.revision)
    have = file.part_bytes
    headers = {**build_hf_headers(library_name="hoidap"), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        goes_on = response.status_code == 206
        lacking = file.n_bytes - have if goes_on else file.n_bytes
        announced = response.headers.get("Content-Length", str(lacking))
        if announced != str(lacking):
            raise rubbish(file.hub_id, f"{file.name} comes with {announced!r} bytes where {lacking} lack")
        if not goes_on:
            got(-have)
        with file.part.open("ab" if goes_on else "wb") as opened:
            for chunk in response.iter_bytes():
                lacking -= len(chunk)
                if lacking < 0:
                    raise rubbish(file.hub_id, f"{file.name} has more bytes than the {file.n_bytes:,} of its list")
                opened.write(chunk)
                got(len(chunk))
    if lacking:
        msg = "the answer ended early"
        raise httpx2.RemoteProtocolError(msg)


def _link(file: HubFile) -> None:
    if file.link.is_file():
        return
    file.link.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.link.symlink_to(os.path.relpath(file.blob, file.link.parent))
    except OSError:
        file.blob.replace(file.link)  # no links here, as on Windows without the right; or a link to what is gone
