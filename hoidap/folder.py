"""A folder that is written whole or not at all, file by file, and what every training leaves in it.

Each file is written under a temporary name, ``.hoidap.…``, and renamed, so what is there is whole.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hoidap.errors import RunError
from hoidap.recipe import Recipe

LEFTOVER = ".hoidap."  # what begins the name of everything that is not whole yet
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """What every training leaves behind, whatever it trained on."""

    folder: Path
    recipe: Recipe

    @property
    def checkpoints_folder(self) -> Path:
        """Where training keeps its checkpoints."""
        return self.folder / "checkpoints"

    @property
    def has_weights(self) -> bool:
        """Whether training came to its end."""
        return self.trained_folder.is_dir()

    def save_weights(self, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a new folder with the tuned weights, then put it in its place."""
        with self.replacing(self.trained_folder) as new:
            write(new)

    @contextmanager
    def replacing(self, folder: Path) -> Iterator[Path]:
        """Give a new folder to fill, and put it in the place of an earlier one once that is done."""
        with (
            naming_failure(self.folder),
            tempfile.TemporaryDirectory(prefix=f"{LEFTOVER}{folder.name}.", dir=self.folder) as parent,
        ):
            new = Path(parent) / "new"
            new.mkdir()
            yield new
            if folder.exists():
                folder.rename(Path(parent) / "old")
            new.rename(folder)

    def log(self, row: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        self.append("metrics.jsonl", row)

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add one line of JSON to a file."""
        path = self.folder / name
        line = json.dumps(row, ensure_ascii=False) + "\n"
        with naming_failure(path), path.open("ab+") as file:
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")  # a process was killed in the middle of a line, or a person left it open
            file.write(line.encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process alone, until it ends or is killed.

        Raises:
            RunError: another process holds it.
        """
        from filelock import FileLock, Timeout

        held = FileLock(self.folder / ".hoidap-lock")
        try:
            held.acquire(timeout=0)
        except Timeout:
            msg = f"another process is training {self.folder}; wait for it, or end it"
            raise RunError(msg) from None
        except (OSError, NotImplementedError) as error:  # some network drives know no locks
            _log.info("%s cannot be locked: %s", self.folder, error)
        try:
            yield
        finally:
            held.release()

    def go_back_to(self, step: int) -> None:
        """Undo what is behind a checkpoint: lines of later steps in ``metrics.jsonl``, and files left half written."""
        for leftover in self.folder.glob(f"{LEFTOVER}*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line).get("step", 0) <= step:
                    kept.append(line + "\n")
            except ValueError:
                continue
        write_whole(path, "".join(kept))

    def save_card(self, card: str) -> None:
        """Write the run's ``README.md``."""
        write_whole(self.folder / "README.md", card)

    @property
    def trained_folder(self) -> Path:
        """Where the trained weights are, or will be."""
        return self.folder / ("adapter" if self.recipe.method == "lora" else "model")


def is_there(folder: Path) -> bool:
    """Return whether a folder holds something; an empty one is as good as none."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def refuse_existing(folder: Path) -> None:
    """Raise RunError if a run would overwrite something, or cannot be made there; its parents are made."""
    if is_there(folder):
        msg = f"{folder} exists already; choose another --out, or delete it first"
        raise RunError(msg)
    with naming_failure(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(prefix=LEFTOVER, dir=folder.parent).cleanup()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to fill, and put it in its place once that is done; what is there already is refused."""
    refuse_existing(folder)
    with (
        naming_failure(folder),
        tempfile.TemporaryDirectory(prefix=f"{LEFTOVER}{folder.name}.", dir=folder.parent) as parent,
    ):
        new = Path(parent) / "run"
        new.mkdir()
        yield new
        if folder.exists():
            folder.rmdir()  # an empty one; Windows renames to nothing that is there
        new.rename(folder)


@contextmanager
def naming_failure(path: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into a RunError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        advice = "check --out, make room; a run that was begun goes on with --resume"
        msg = f"{path} cannot be written ({error}); {advice}"
        raise RunError(msg) from error


def write_whole(path: Path, text: str) -> Path:
    """Write a text file in place of an earlier one, and return its path."""
    temporary = path.with_name(f"{LEFTOVER}{path.name}.{os.getpid()}")
    with naming_failure(path):
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return path
