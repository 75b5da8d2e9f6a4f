"""The run folder: what a fine-tuning leaves behind, readable by a person, and the only module that builds paths inside it.

    run.toml          format, base with the hashes of its files, prompt template, hash of the items
    recipe.toml       every setting
    tokenizer.json    of the base
    data/items.jsonl  the items as trained
    data/held-out.jsonl  items that were not, if any were held out
    data/wordings.jsonl  every way they are asked, in training or in the exam
    data/notes.txt    what of the file was left out or changed on the way, if anything was
    checkpoints/      what an interrupted training goes on from (training/checkpoint.py)
    metrics.jsonl     one line a step and a measurement
    adapter/          the trained adapter, in PEFT's format (method lora), or
    model/            all weights, in PhoGPT's own layout (method full)
    index/            which item is asked for (ground/grounds.py); written again by every evaluation
    report.json       every item asked, with what came
    report.html       the same for the owner to read: what is right, what to correct (evaluate/page.py)
    bot.toml          how the bot answers and whom it names: for its owner to edit
    start/            of a run that began from another: its adapter, and what it answered
    corrections.jsonl the owner's answers that take the place of items'
    additions.jsonl   the owner's answers to questions that no item asks
    gaps.jsonl        questions that the bot declined
    README.md         the card
    .hoidap-lock      held by the process that trains

A pretraining leaves the same but for the items and the report; its ``run.toml`` has the hashes of its text.

Each file is written under a temporary name, ``.hoidap.…``, and renamed, so what is there is whole.
"""

import hashlib
import json
import logging
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w

from hoidap.base import Base, FilePrint
from hoidap.data import items as item_file
from hoidap.data import wordings as wording_file
from hoidap.data.items import Item
from hoidap.data.version import next_version
from hoidap.data.wordings import AS_WRITTEN, Split
from hoidap.errors import DataError, RecipeError, RunError
from hoidap.folder import RunFolder, new_folder, write_whole
from hoidap.ground.grounds import Grounds
from hoidap.prompt import Template, find_template
from hoidap.recipe import Recipe
from hoidap.text import comparable, nfc

FORMAT = 1
Mode = Literal["checked", "model", "verbatim"]
MODES: tuple[Mode, ...] = get_args(Mode)
_MOST_GAPS_BYTES = 16 * 2**20
_MOST_ADDITIONS = 5_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """What the owner of a bot decides after training."""

    mode: Mode = "checked"
    contact: str = ""  # a phone number, an address: named where the bot declines

    def __post_init__(self) -> None:
        if self.mode not in MODES or not isinstance(self.contact, str):
            msg = f"mode is {self.mode!r}, contact {self.contact!r}"
            raise ValueError(msg)


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
        split: Split,
        notes: Sequence[str] = (),
        owner: Owner = Owner(),
        metrics: Sequence[dict[str, Any]] = (),
        start: "Run | None" = None,
    ) -> "Run":
        """Make a new run folder with all that is known before training; ``metrics`` are its first lines.

        What is needed of ``start``, the run that it begins from, is copied: either may be moved then.

        Raises:
            RunError: the folder exists.
        """
        facts = {
            "format": FORMAT,
            "template": template.name,
            "base": {"name": base.name, "files": {name: asdict(print_) for name, print_ in prints.items()}},
            "items": {"count": len(split.items), "sha256": item_file.hash_of(split.items)},
        }
        with new_folder(folder) as new:
            (new / "data").mkdir()
            (new / "run.toml").write_text(tomli_w.dumps(facts), encoding="utf-8")
            (new / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
            if metrics:
                (new / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics), encoding="utf-8")
            (new / "bot.toml").write_text(tomli_w.dumps(asdict(owner)), encoding="utf-8")
            (new / "data" / "items.jsonl").write_text(item_file.to_jsonl(split.items), encoding="utf-8")
            (new / "data" / "wordings.jsonl").write_text(wording_file.to_jsonl(split.wordings), encoding="utf-8")
            if split.held_out:
                (new / "data" / "held-out.jsonl").write_text(item_file.to_jsonl(split.held_out), encoding="utf-8")
            if notes:
                (new / "data" / "notes.txt").write_text("\n".join(notes) + "\n", encoding="utf-8")
            shutil.copyfile(base.tokenizer_file, new / "tokenizer.json")
            if start:
                (new / "start").mkdir()
                answered = json.dumps(start.answered(), ensure_ascii=False, indent=1)
                (new / "start" / "answered.json").write_text(answered + "\n", encoding="utf-8")
                shutil.copytree(start.weights_folder(), new / "start" / "adapter")
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
        except (ValueError, KeyError, TypeError, OSError, RecipeError) as error:
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

    def learned(self) -> dict[int, int]:
        """Return the epoch at whose end an item was first recited, by the item's place."""
        found: dict[int, int] = {}
        path = self.folder / "metrics.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                row = json.loads(line)
            except ValueError:  # cut off where a process was killed
                continue
            recited = int(row.get("recited", "0"), 16)
            for n in range(recited.bit_length()):
                if recited >> n & 1:
                    found.setdefault(n, row["epoch"])
        return found

    def split(self) -> Split:
        """Return what was trained on and what the bot is examined with."""
        held_out = self.folder / "data" / "held-out.jsonl"
        wordings = wording_file.from_jsonl(self.folder / "data" / "wordings.jsonl")
        return Split(self.items(), item_file.from_jsonl(held_out) if held_out.is_file() else [], wordings)

    def answered(self) -> dict[str, str]:
        """Return what the run answers, as last examined, by the ``comparable`` question; empty if it was not."""
        rows = self.report()["asked"] if self.has_report else []
        return {comparable(row["question"]): row["got"] for row in rows if row["kind"] == AS_WRITTEN}

    @property
    def start_adapter(self) -> Path | None:
        """The folder of the adapter that training began from, if it was another run's."""
        folder = self.folder / "start" / "adapter"
        return folder if folder.is_dir() else None

    def answered_before(self) -> dict[str, str] | None:
        """Return what the run that this one began from answered; None if it began from none."""
        path = self.folder / "start" / "answered.json"
        if not path.is_file():
            return None
        try:
            return {_text(question): _text(answer) for question, answer in json.loads(path.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            msg = f"{path} cannot be read ({error!r}); delete it to do without the comparison"
            raise RunError(msg) from None

    def weights_folder(self) -> Path:
        """Return where the tuned weights are: an adapter's or a whole model's folder.

        Raises:
            RunError: training did not get as far as writing them.
        """
        folder = self.trained_folder
        if not folder.is_dir():
            msg = (
                f"{self.folder} holds no tuned weights ({folder.name}/ is missing): its training did not end; "
                "give the command that began it again, with --resume"
            )
            raise RunError(msg)
        return folder

    def save_grounds(self, grounds: Grounds) -> None:
        """Write ``index/``, in place of an earlier one."""
        with self.replacing(self.folder / "index") as new:
            grounds.save(new)
            (new / "items.sha256").write_text(self._items_sha256(), encoding="utf-8")

    def grounds(self, items: Sequence[Item]) -> Grounds:
        """Return the index of the run's items.

        Raises:
            RunError: it is missing, damaged or of other items.
        """
        grounds = Grounds.load(self.folder / "index", items)
        kept = self.folder / "index" / "items.sha256"
        if not kept.is_file() or kept.read_text(encoding="utf-8", errors="replace") != self._items_sha256():
            msg = f"{kept.parent} was made of other items than data/items.jsonl holds; `hoidap evaluate` writes it again"
            raise RunError(msg)
        return grounds

    def _items_sha256(self) -> str:
        return hashlib.sha256((self.folder / "data" / "items.jsonl").read_bytes()).hexdigest()

    def owner(self) -> Owner:
        """Return what the owner wrote into ``bot.toml``.

        Raises:
            RunError: a line of it cannot be understood.
        """
        path = self.folder / "bot.toml"
        try:
            return Owner(**tomllib.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Owner()
        except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
            msg = f'{path} cannot be read ({error}); it takes mode = "checked", "model" or "verbatim", and contact = "…"'
            raise RunError(msg) from None

    def corrections(self) -> dict[str, str]:
        """Return the owner's answers by the item's question, the latest of each."""
        path = self.folder / "corrections.jsonl"
        if not path.is_file():
            return {}
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
            return {_text(row["question"]): _text(row["answer"]) for row in rows}
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = f'{path} cannot be read ({error!r}); each line is {{"question": …, "answer": …}}'
            raise RunError(msg) from None

    def correct(self, question: str, answer: str) -> Item:
        """Keep another answer for the item with this question, given by every bot loaded from now on; return the item.

        Raises:
            RunError: no item has the question, or the answer is empty.
        """
        items, text = self.items(), nfc(answer).strip()
        self.corrections()  # a file that cannot be read is not written to
        asked = [item for item in items if comparable(item.question) == comparable(question)]
        if len({comparable(item.answer) for item in asked}) > 1:
            msg = f"{len(asked)} items have the question {question!r} with different answers; which is meant cannot be told"
            raise RunError(f"{msg}: change the data and train again")
        item = asked[0] if asked else None
        if item is None:
            near = "; ".join(repr(items[found.number].question) for found in self.grounds(items).near(question)[:3])
            found = f"; near it: {near}" if near else ""
            msg = f"no item of {self.folder} has the question {question!r}{found}; write it as the data has it"
            raise RunError(msg)
        if not text or any("\ud800" <= c <= "\udfff" for c in text):
            msg = "the answer is empty, or holds half of a character; write what the bot is to say"
            raise RunError(msg)
        self.append("corrections.jsonl", {"question": item.question, "answer": text, "time": _now()})
        return item

    def additions(self) -> list[Item]:
        """Return the owner's answers to questions that no item asks.

        Raises:
            RunError: their file cannot be read.
        """
        path = self.folder / "additions.jsonl"
        try:
            return item_file.from_jsonl(path) if path.is_file() else []
        except DataError as error:
            raise RunError(str(error)) from None

    def add(self, item: Item) -> Item:
        """Keep an answer to a question that no item asks, in place of an earlier one, for every bot loaded from now on.

        Raises:
            RunError: an item has the question, there are as many as may be, or they cannot be written.
        """
        key = comparable(item.question)
        if any(comparable(other.question) == key for other in self.items()):
            msg = f"an item of {self.folder} has the question {item.question!r}; correct that one"
            raise RunError(msg)
        kept = [other for other in self.additions() if comparable(other.question) != key]
        if len(kept) >= _MOST_ADDITIONS:
            msg = f"{self.folder} has {len(kept):,} additions; it takes {_MOST_ADDITIONS:,}"
            raise RunError(f"{msg}: train on the next version of the data")
        write_whole(self.folder / "additions.jsonl", item_file.to_jsonl([*kept, item]))
        return item

    def next_version(self) -> list[Item]:
        """Return the data as they are now: the items, those held out too, with the owner's corrections and additions."""
        parts = self.split()
        return next_version(parts.items, parts.held_out, self.corrections(), self.additions())

    def log_gap(self, question: str, confidence: float, near: Sequence[str]) -> None:
        """Keep a question that the bot declined, up to 16 MiB of them; an answer does not fail because this does."""
        path = self.folder / "gaps.jsonl"
        try:
            if not path.is_file() or path.stat().st_size < _MOST_GAPS_BYTES:
                self.append(path.name, {"question": question, "confidence": confidence, "near": list(near), "time": _now()})
        except (OSError, ValueError, RunError) as error:
            _log.warning("%s: a question could not be kept: %s", path, error)

    @property
    def has_report(self) -> bool:
        """Whether the run was evaluated."""
        return (self.folder / "report.json").is_file()

    def save_report(self, report: dict[str, Any]) -> Path:
        """Write ``report.json`` and return its path."""
        text = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
        return write_whole(self.folder / "report.json", text)

    def save_page(self, text: str) -> Path:
        """Write ``report.html`` and return its path."""
        return write_whole(self.folder / "report.html", text)

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
        with new_folder(folder) as new:
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


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
