"""Models of the hub by name: which commit a name means, which of its files are needed, and that they are in the cache.

What is whole in the cache is taken without a question and, where a name says the commit, without the network. A repository
lists its files, sizes and hashes; all of it comes from a server, so only plain names that are known or that an index of
shards gives are ever asked for, and nothing of a gigabyte is fetched unasked.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal

from hoidap.download import COMMIT, SHA256, HubError, HubFile, HubId, explained, get_files, is_here, lacking_bytes, rubbish
from hoidap.errors import CheckpointError
from hoidap.model.checkpoint import weight_files
from hoidap.model.config import read_config

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_NEEDED = ("config.json", "tokenizer.json")
_WELCOME = ("tokenizer_config.json", "generation_config.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that a repository has, whole or in shards
_ASK_FROM_BYTES = 10**9
# The most of each kind of file, far above any real one's.
_MOST_CONFIG_BYTES = 2**20
_MOST_JSON_BYTES = 64 * 2**20
_MOST_BYTES = 2**50
_PART = r"\w(?:[\w.-]{0,94}\w)?"
_ID = re.compile(rf"({_PART}/{_PART})(?:@(\w(?:[\w./-]*\w)?))?", re.ASCII)
_SHARD = re.compile(r"\w[\w.-]*", re.ASCII)


def parse_hub_id(name: str) -> HubId | None:
    """Return what ``owner/name`` or ``owner/name@revision`` means; None where ``name`` is neither."""
    match = _ID.fullmatch(name)
    # The cache's folders join owner and name with two dashes; two dots are a way out of a folder.
    if not match or "--" in match[1] or ".." in name or match[1].endswith(".git"):
        return None
    return HubId(match[1], match[2] or "main")


def fetch(hub_id: HubId, *, download: bool, console: Console) -> HubId:
    """Return the commit that ``hub_id`` means, with its files in the cache; those that lack are downloaded.

    Args:
        hub_id: a full commit that is whole in the cache needs no network; for a branch or tag the hub is asked, and if it
            cannot be, the commit that it last meant is taken.
        download: whether a gigabyte or more may be downloaded.
        console: where progress is shown, and that the hub could not be asked.

    Raises:
        CheckpointError: the hub does not have it, or not for this user; it cannot be reached; no room on the disk; a
            gigabyte or more without ``download``; files that lack, break off or are not those of the hub's list.
    """
    cached = _cached(hub_id)
    if cached == hub_id:
        return cached
    try:
        pinned, files = _ask(hub_id)
    except HubError as error:
        if not cached:
            raise
        told = f"{error.reason}; {cached} is in the cache and is taken"
        console.print(told, soft_wrap=True, highlight=False, markup=False)
        return cached
    if not _is_whole(pinned.folder):
        wanted = _choose(pinned, files, console)
        _check_room(wanted, download=download, cached=cached)
        get_files(wanted, console)
    if not hub_id.is_pinned:
        with suppress(OSError):  # a cache that is there to read alone needs no reminder
            _write_ref(hub_id, pinned.revision)
    return pinned


def _cached(hub_id: HubId) -> HubId | None:
    """Return the commit that the cache knows a revision by, if its files are all there."""
    ref = hub_id.cache / "refs" / hub_id.revision
    if not hub_id.is_pinned and ref.is_file():
        hub_id = replace(hub_id, revision=ref.read_text(encoding="utf-8", errors="replace").strip())
    return hub_id if hub_id.is_pinned and _is_whole(hub_id.folder) else None


def _is_whole(folder: Path) -> bool:
    if not all((folder / name).is_file() for name in _NEEDED):
        return False
    try:
        return bool(weight_files(folder))
    except CheckpointError:
        return False  # no weights, or not all shards


def _write_ref(hub_id: HubId, commit: str) -> None:
    ref = hub_id.cache / "refs" / hub_id.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    temporary = ref.with_name(f".{ref.name}.{os.getpid()}")
    temporary.write_text(commit, encoding="utf-8")
    temporary.replace(ref)


def _ask(hub_id: HubId) -> tuple[HubId, dict[str, HubFile]]:
    """Ask the hub for the commit that a revision means now and for its files by name."""
    from huggingface_hub import HfApi, constants

    with explained(hub_id):
        try:
            info = HfApi(library_name="hoidap").model_info(
                hub_id.repo, revision=hub_id.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
            pinned = replace(hub_id, revision=str(info.sha))
            files = {sibling.rfilename: _file(pinned, sibling) for sibling in info.siblings or ()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            # Only the kind of error is told: its text may hold the token.
            raise rubbish(hub_id, f"its list of files cannot be read ({type(error).__name__})") from None
    if not pinned.is_pinned or (hub_id.is_pinned and pinned != hub_id):
        raise rubbish(hub_id, f"it calls the commit {pinned.revision!r}")
    return pinned, files


def _file(pinned: HubId, sibling: "RepoSibling") -> HubFile:
    n_bytes = sibling.lfs.size if sibling.lfs else sibling.size
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    is_hash = digest and (SHA256 if sibling.lfs else COMMIT).fullmatch(digest)
    if not isinstance(n_bytes, int) or not 0 <= n_bytes <= _MOST_BYTES or not digest or not is_hash:
        raise ValueError(sibling)
    return HubFile(pinned, sibling.rfilename, n_bytes, digest)


def _choose(pinned: HubId, files: dict[str, HubFile], console: Console) -> list[HubFile]:
    """Return the files that are needed; the small ones that decide it are fetched.

    So a model that hoidap cannot compute, or that this user may not have, is refused before its gigabytes are spoken of.
    """
    if missing := [name for name in _NEEDED if name not in files]:
        raise _lacking(pinned, " and ".join(missing), files)
    get_files([_bounded(files["config.json"], _MOST_CONFIG_BYTES)], console)
    read_config(files["config.json"].link)
    names = [*_NEEDED, *(name for name in _WELCOME if name in files)]
    chosen = [_bounded(files[name], _MOST_JSON_BYTES) for name in names]
    for name in _WEIGHTS:
        index = files.get(f"{name}.index.json")
        if name in files:
            return [*chosen, files[name]]
        if index:
            get_files([_bounded(index, _MOST_JSON_BYTES)], console)
            return [*chosen, index, *_shards(index, files, Path(name).suffix)]
    raise _lacking(pinned, " or ".join(_WEIGHTS), files)


def _bounded(file: HubFile, most_bytes: int) -> HubFile:
    if file.n_bytes > most_bytes:
        found = f"{file.name} has {file.n_bytes:,} bytes, and at most {most_bytes:,} are read"
        msg = f"--model {file.hub_id}: {found}; choose another"
        raise CheckpointError(msg)
    return file


def _lacking(hub_id: HubId, names: str, files: dict[str, HubFile]) -> CheckpointError:
    found = ", ".join(repr(name) for name in sorted(files)[:20]) or "nothing"
    msg = f"--model {hub_id} lacks {names}; it holds {found}. Choose a model whose files are those of Transformers"
    return CheckpointError(msg)


def _shards(index: HubFile, files: dict[str, HubFile], suffix: str) -> list[HubFile]:
    try:
        names = sorted(set(json.loads(index.link.read_text(encoding="utf-8"))["weight_map"].values()))
        strange = [name for name in names if not _SHARD.fullmatch(name) or ".." in name or not name.endswith(suffix)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"--model {index.hub_id}: {index.name} is not an index of shards ({type(error).__name__}); choose another"
        raise CheckpointError(msg) from None
    missing = [name for name in names if name not in files and name not in strange]
    if strange or missing or not names:
        msg = f"--model {index.hub_id}: {index.name} names {len(names)} shards; that are no plain {suffix} files: "
        msg += f"{strange[:5] or 'none'}; that the repository lacks: {missing[:5] or 'none'}; choose another"
        raise CheckpointError(msg)
    return [files[name] for name in names]


def _check_room(wanted: Sequence[HubFile], *, download: bool, cached: HubId | None) -> None:
    """Refuse what does not fit the disk, and to fetch gigabytes unasked."""
    hub_id = wanted[0].hub_id
    missing = [file for file in wanted if not is_here(file)]
    n_bytes = lacking_bytes(missing)
    there = next(folder for folder in (hub_id.cache, *hub_id.cache.parents) if folder.exists())
    free_bytes = shutil.disk_usage(there).free
    what = f"{len(missing)} files, {decimal(n_bytes)}, into {hub_id.cache}, where {decimal(free_bytes)} are free"
    if n_bytes > free_bytes:
        msg = f"--model {hub_id} takes {what}; make room, or choose another disk with HF_HOME"
        raise CheckpointError(msg)
    if n_bytes >= _ASK_FROM_BYTES and not download:
        msg = f"--model {hub_id} would download {what}; add --download to do it, in Python download=True"
        raise CheckpointError(msg + (f"; or pass {cached}, which is in the cache" if cached else ""))
