"""The run folder: what a fine-tuning leaves behind, readable by a person, and the only module that builds paths inside it.

    run.toml          format, base with the hashes of its files, prompt template, hash of the items
    recipe.toml       every setting
    tokenizer.json    of the base
    data/items.jsonl  the items as trained
    data/notes.txt    what of the file was left out or changed on the way, if anything was
    checkpoints/      what an interrupted training goes on from (training/checkpoint.py)
    metrics.jsonl     one line a step and a measurement
    adapter/          the trained adapter, in PEFT's format (method lora), or
    model/            all weights, in PhoGPT's own layout (method full)
    report.json       every item asked, with what came
    README.md         the card
    .hoidap-lock      held by the process that trains

A pretraining leaves the same but for the items and the report; its ``run.toml`` has the hashes of its text.

Each file is written under a temporary name, ``.hoidap.…``, and renamed, so what is there is whole.
"""

import json
import logging
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomli_w
from safetensors import SafetensorError

from hoidap.base import Base, FilePrint
from hoidap.data import items as item_file
from hoidap.data.items import Item
from hoidap.errors import RecipeError, RunError
from hoidap.prompt import Template, find_template
from hoidap.recipe import Recipe

FORMAT = 1
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
        return self._weights_folder.is_dir()

    def save_weights(self, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a new folder with the tuned weights, then put it in its place."""
        with (
            _naming_failure(self.folder),
            tempfile.TemporaryDirectory(prefix=f"{LEFTOVER}weights.", dir=self.folder) as parent,
        ):
            new = Path(parent) / "new"
            new.mkdir()
            write(new)
            if self._weights_folder.exists():
                self._weights_folder.rename(Path(parent) / "old")
            new.rename(self._weights_folder)

    def log(self, row: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        path = self.folder / "metrics.jsonl"
        with _naming_failure(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

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
        _write(path, "".join(kept))

    def save_card(self, card: str) -> None:
        """Write the run's ``README.md``."""
        _write(self.folder / "README.md", card)

    @property
    def _weights_folder(self) -> Path:
        return self.folder / ("adapter" if self.recipe.method == "lora" else "model")


@dataclass(frozen=True)
class Run(RunFolder):
    """An existing run folder, its ``run.toml`` and ``recipe.toml`` read and checked."""

    base_name: str
    base_prints: dict[str, FilePrint]
    template: Template

    @classmethod
    def create(
        cls,
        folder: Path,
        base: Base,
        prints: dict[str, FilePrint],
        recipe: Recipe,
        template: Template,
        items: Sequence[Item],
        notes: Sequence[str] = (),
    ) -> "Run":
        """Make a new run folder with all that is known before training.

        Raises:
            RunError: the folder exists.
        """
        facts = {
            "format": FORMAT,
            "template": template.name,
            "base": {"name": base.name, "files": {name: asdict(print_) for name, print_ in prints.items()}},
            "items": {"count": len(items), "sha256": item_file.hash_of(items)},
        }
        with _new_folder(folder) as new:
            (new / "data").mkdir()
            (new / "run.toml").write_text(tomli_w.dumps(facts), encoding="utf-8")
            (new / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
            (new / "data" / "items.jsonl").write_text(item_file.to_jsonl(items), encoding="utf-8")
            if notes:
                (new / "data" / "notes.txt").write_text("\n".join(notes) + "\n", encoding="utf-8")
            shutil.copyfile(base.tokenizer_file, new / "tokenizer.json")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read a run folder.

        Raises:
            RunError: no run folder, or one of another format.
        """
        path = folder / "run.toml"
        if not path.is_file():
            msg = f"{folder} is not a run folder (no run.toml); `hoidap train FILE --out {folder}` makes one"
            raise RunError(msg)
        try:
            facts = tomllib.loads(path.read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                msg = f"{path} has format {facts['format']!r}; this hoidap reads {FORMAT}: use the version that wrote it"
                raise RunError(msg)
            if "pretraining" in facts:
                msg = f"{folder} is a pretraining's: hoidap train FILE --model {folder / 'model'} makes a bot of its base"
                raise RunError(msg)
            template = find_template(facts["template"])
            name = facts["base"]["name"]
            prints = {file: FilePrint(**values) for file, values in facts["base"]["files"].items()}
            recipe = Recipe.from_toml((folder / "recipe.toml").read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, KeyError, TypeError, OSError, RecipeError) as error:
            msg = f"{path} cannot be read: {error!r}"
            raise RunError(msg) from None
        return cls(folder, recipe, name, prints, template)

    @property
    def tokenizer_file(self) -> Path:
        """The base's tokenizer."""
        return self.folder / "tokenizer.json"

    def items(self) -> list[Item]:
        """Return the items as trained."""
        return item_file.from_jsonl(self.folder / "data" / "items.jsonl")

    def weights_folder(self) -> Path:
        """Return where the tuned weights are: an adapter's or a whole model's folder.

        Raises:
            RunError: training did not get as far as writing them.
        """
        folder = self._weights_folder
        if not folder.is_dir():
            msg = (
                f"{self.folder} holds no tuned weights ({folder.name}/ is missing): its training did not end; "
                "give the command that began it again, with --resume"
            )
            raise RunError(msg)
        return folder

    @property
    def has_report(self) -> bool:
        """Whether the run was evaluated."""
        return (self.folder / "report.json").is_file()

    def save_report(self, report: dict[str, Any]) -> Path:
        """Write ``report.json`` and return its path."""
        text = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
        return _write(self.folder / "report.json", text)

    def report(self) -> dict[str, Any]:
        """Return the last report of what the run knows.

        Raises:
            RunError: none was written.
        """
        path = self.folder / "report.json"
        try:
            report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"{path} cannot be read ({error}); `hoidap evaluate {self.folder}` writes it"
            raise RunError(msg) from None
        return report


@dataclass(frozen=True)
class Pretraining(RunFolder):
    """The folder of a pretraining: ``run.toml`` tells from what and on what, ``model/`` is the base that it made."""

    facts: dict[str, Any]

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, facts: dict[str, Any]) -> "Pretraining":
        """Make a new folder with all that is known before training.

        Raises:
            RunError: the folder exists.
        """
        with _new_folder(folder) as new:
            (new / "run.toml").write_text(tomli_w.dumps({"format": FORMAT, "pretraining": facts}), encoding="utf-8")
            (new / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Pretraining":
        """Read the folder of a pretraining.

        Raises:
            RunError: it is none.
        """
        try:
            values = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                msg = f"{folder} has format {values['format']!r}; this hoidap reads {FORMAT}: use the version that wrote it"
                raise RunError(msg)
            facts = values["pretraining"]
            recipe = Recipe.from_toml((folder / "recipe.toml").read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, KeyError, TypeError, OSError, RecipeError) as error:
            msg = f"{folder} is not the folder of a pretraining ({error!r}); choose another --out"
            raise RunError(msg) from None
        return cls(folder, recipe, facts)


def is_there(folder: Path) -> bool:
    """Return whether a folder holds something; an empty one is as good as none."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def refuse_existing(folder: Path) -> None:
    """Raise RunError if a run would overwrite something, or cannot be made there; its parents are made."""
    if is_there(folder):
        msg = f"{folder} exists already; choose another --out, or delete it first"
        raise RunError(msg)
    with _naming_failure(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(prefix=LEFTOVER, dir=folder.parent).cleanup()


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to fill, and put it in its place once that is done; what is there already is refused."""
    refuse_existing(folder)
    with (
        _naming_failure(folder),
        tempfile.TemporaryDirectory(prefix=f"{LEFTOVER}{folder.name}.", dir=folder.parent) as parent,
    ):
        new = Path(parent) / "run"
        new.mkdir()
        yield new
        if folder.exists():
            folder.rmdir()  # an empty one; Windows renames to nothing that is there
        new.rename(folder)


@contextmanager
def _naming_failure(path: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into a RunError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        advice = "check --out, make room; a run that was begun goes on with --resume"
        msg = f"{path} cannot be written ({error}); {advice}"
        raise RunError(msg) from error


def _write(path: Path, text: str) -> Path:
    temporary = path.with_name(f"{LEFTOVER}{path.name}.{os.getpid()}")
    with _naming_failure(path):
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return path
