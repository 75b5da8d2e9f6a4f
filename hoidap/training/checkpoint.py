"""Checkpoints of a run: all that training needs to go on as if it had never stopped, as plain tensors and JSON.

    checkpoints/step-50/weights.safetensors     the trained tensors, float32
                        optimizer.safetensors   the optimiser's
                        state.json              where training stands, and the SHA-256 of both files
    checkpoints/best-4/weights.safetensors      the trained tensors of epoch 4, the best measured so far

A folder is filled under another name and renamed, so what is there is whole. A step's folder names the best that it knew;
that one is deleted only once a newer step is kept. The two newest steps are kept: where the newest turns out damaged, going
on from the one before leads to the same place.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hoidap.errors import RunError
from hoidap.folder import LEFTOVER

_KEPT = 2
_STATE, _WEIGHTS, _OPTIMIZER = "state.json", "weights.safetensors", "optimizer.safetensors"
_MOST_STATE_BYTES = 2**24
_Tensors = Mapping[str, torch.Tensor]


@dataclass
class State:
    """Where training stands: everything but tensors."""

    step: int = 0  # optimiser steps made
    epoch: int = 1  # from 1
    batch: int = 0  # batches of this epoch that are done
    seconds: float = 0.0  # spent in training so far
    best_epoch: int = 0  # 0: nothing measured yet
    best_scores: list[float] = field(default_factory=lambda: [0.0])
    measurements_since_rise: int = 0
    unlogged_nats: list[float] = field(default_factory=list)  # losses of steps since the last line of metrics.jsonl
    first_nats: list[float] = field(default_factory=list)  # losses of the first steps, and of the last: to see divergence
    last_nats: list[float] = field(default_factory=list)
    skipped: int = 0  # steps in a row that float16 overflowed in
    scaler: dict[str, float] = field(default_factory=dict)
    optimizer: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # file → SHA-256, that of the best as "best-4/weights…"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back whole."""

    folder: Path
    state: State
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]


class Checkpoints:
    """The ``checkpoints/`` folder of a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._best: tuple[int, str] = (0, "")  # epoch whose weights lie in best-…, and their hash

    def save(self, state: State, weights: _Tensors, optimizer: _Tensors, best: _Tensors) -> Path:
        """Keep a checkpoint and return its folder; older ones than the two newest are deleted.

        Raises:
            RunError: the disk is full or not writable; what was kept before is untouched.

        """
        n_bytes = sum(t.nbytes for tensors in (weights, optimizer) for t in tensors.values())
        folder = self._folder / f"step-{state.step}"
        with self._naming_failure(folder, n_bytes):
            self._folder.mkdir(exist_ok=True)
            _refuse_full_disk(folder, n_bytes)
            files = {}
            if state.best_epoch:
                if self._best[0] != state.best_epoch:
                    with _whole_folder(self._folder / f"best-{state.best_epoch}") as new:
                        self._best = (state.best_epoch, _write_tensors(new / _WEIGHTS, best))
                files[f"best-{state.best_epoch}/{_WEIGHTS}"] = self._best[1]
            with _whole_folder(folder) as new:
                files[_WEIGHTS] = _write_tensors(new / _WEIGHTS, weights)
                files[_OPTIMIZER] = _write_tensors(new / _OPTIMIZER, optimizer)
                state.files = files
                _write(new / _STATE, json.dumps(asdict(state), indent=1).encode())
            self._rotate()
        return folder

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest whole checkpoint, None if none was ever kept, and what is wrong with newer ones.

        Raises:
            RunError: there are checkpoints, and all of them are damaged.

        """
        self._sweep()
        damaged: dict[Path, str] = {}
        for folder in self._steps():
            try:
                found = _read(folder)
            except RunError as error:
                damaged[folder] = str(error)
                continue
            for other in damaged:  # it must not count as the newest any longer, nor as one of the two that are kept
                _set_aside(other)
            self._best = (found.state.best_epoch, found.state.files.get(f"best-{found.state.best_epoch}/{_WEIGHTS}", ""))
            return found, list(damaged.values())
        if damaged:
            told = "\n".join(damaged.values())
            msg = f"no checkpoint is whole; delete {self._folder} to train from the beginning:\n{told}"
            raise RunError(msg)
        return None, []

    def newest_folder(self) -> Path | None:
        """Return where the newest checkpoint is."""
        return next(iter(self._steps()), None)

    def _steps(self) -> list[Path]:
        return _numbered(self._folder, "step")

    def _rotate(self) -> None:
        steps = self._steps()
        for folder in steps[_KEPT:]:
            _delete(folder)
        named = set()
        for folder in steps[:_KEPT]:
            try:
                named |= {file.split("/")[0] for file in _read_state(folder).files}
            except RunError:
                return  # a damaged neighbour: nothing that it may need is deleted
        for folder in _numbered(self._folder, "best"):
            if folder.name not in named:
                _delete(folder)

    @contextmanager
    def _naming_failure(self, folder: Path, n_bytes: int) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            kept = self.newest_folder()
            before = f"{kept.name}, kept before, is whole" if kept else "no checkpoint was kept before"
            msg = (
                f"{folder} cannot be written ({error}); it takes {n_bytes / 2**20:,.1f} MiB. {before}: make room, then "
                "give the same command with --resume"
            )
            raise RunError(msg) from error

    def _sweep(self) -> None:
        """Delete what a killed process left half written."""
        for leftover in self._folder.glob(f"{LEFTOVER}*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _set_aside(folder: Path) -> None:
    """Rename a damaged checkpoint, for whoever wants to look at it."""
    aside = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)


def _numbered(folder: Path, kind: str) -> list[Path]:
    """Return the folders named "kind-number", highest number first."""
    found = [(int(m[1]), p) for p in folder.glob(f"{kind}-*") if (m := re.fullmatch(rf"{kind}-(\d{{1,12}})", p.name))]
    return [path for _, path in sorted(found, reverse=True)]


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to fill, and put it in the place of ``folder`` once that is done."""
    new = folder.with_name(f"{LEFTOVER}{folder.name}.{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        _sync(new)
        if folder.exists():
            _delete(folder)
        new.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _delete(folder: Path) -> None:
    """Delete a folder so that it is never seen half deleted under its own name."""
    doomed = folder.with_name(f"{LEFTOVER}{folder.name}.old.{os.getpid()}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _write_tensors(path: Path, tensors: _Tensors) -> str:
    """Write a safetensors file and return its SHA-256."""
    save_file({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}, path)
    _sync(path)
    return _hash(path)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk: a power cut must not leave empty files."""
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        if not path.is_dir():  # Windows opens no folders, and some drives synchronise none
            raise


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_full_disk(folder: Path, n_bytes: int) -> None:
    if shutil.disk_usage(folder.parent).free < n_bytes:
        raise OSError(28, "No space left on device")


def _read(folder: Path) -> Checkpoint:
    state = _read_state(folder)
    best_file = f"best-{state.best_epoch}/{_WEIGHTS}"
    names = [_WEIGHTS, _OPTIMIZER, *([best_file] if state.best_epoch else [])]
    tensors = []
    for name in names:
        path = folder.parent / name if "/" in name else folder / name
        try:
            if _hash(path) != state.files.get(name):
                msg = f"{folder} is damaged: {path.name} is not the file that was written"
                raise RunError(msg)
            tensors.append(load_file(path))
        except (OSError, SafetensorError) as error:
            msg = f"{folder} is damaged: {path} cannot be read ({error})"
            raise RunError(msg) from None
    weights, optimizer, *best = tensors
    return Checkpoint(folder, state, weights, optimizer, best[0] if best else {})


def _read_state(folder: Path) -> State:
    path = folder / _STATE
    try:
        if path.stat().st_size > _MOST_STATE_BYTES:
            msg = f"{folder} is damaged: {_STATE} has {path.stat().st_size:,} bytes"
            raise RunError(msg)
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        state = State(**facts)
        fresh = State()
        wrong = [n for n in facts if type(getattr(state, n)) is not type(getattr(fresh, n))]
        lists = (state.best_scores, state.unlogged_nats, state.first_nats, state.last_nats)
        numbers = [*state.optimizer.values(), *state.scaler.values(), *(n for values in lists for n in values)]
        if wrong or not all(isinstance(n, int | float) for n in numbers):
            msg = f"{folder} is damaged: {_STATE} holds {', '.join(wrong) or 'what is no number'} of another kind"
            raise RunError(msg)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        msg = f"{folder} is damaged: {_STATE} cannot be read ({error})"
        raise RunError(msg) from None
    return state
